//! Reading a configuration: defaults < file < environment < flags.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use serde_yaml_ng::{Mapping, Value};
use signaling::token::Secret;

use super::keys::{KnownKeys, OPEN_MAPS, joined, move_old};
use super::remarks::Remarks;
use super::tree::set;
use super::values::{Addresses, KeyPairs, PortRange, truth};
use super::{Config, DEV_KEY, DEV_SECRET, DEV_UDP_PORT, Level, product};

/// Where a configuration comes from, weakest first.
#[derive(Default)]
pub struct Sources {
    /// Text of the file, or of `--config-body`.
    pub yaml: Option<String>,
    /// Environment variables: `LIVEKIT_` and the key in capitals.
    pub environment: Vec<(String, String)>,
    /// `--rtc.tcp_port 0` and the like, as path and value.
    pub overrides: Vec<(String, String)>,
    pub flags: Flags,
    /// Unknown keys are errors.
    pub strict: bool,
}

/// Settings that have a flag with a name of its own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Flags {
    pub dev: bool,
    /// YAML, `name: secret`.
    pub keys: Option<String>,
    pub key_file: Option<String>,
    pub bind: Vec<IpAddr>,
    pub node_ip: Option<Addresses>,
    pub udp_port: Option<PortRange>,
    pub region: Option<String>,
}

/// A configuration and what the operator should hear about it.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<String>,
}

/// Reads and checks a configuration.
///
/// # Errors
/// Says which keys are wrong and what to do, all at once.
pub fn load(sources: Sources) -> anyhow::Result<Loaded> {
    let mut tree = parse_tree(sources.yaml.as_deref().unwrap_or_default())?;
    let known = KnownKeys::new();
    let mut remarks = Remarks::default();
    move_old(&mut tree);
    known.read_environment(&sources.environment, &mut tree, &mut remarks);
    move_old(&mut tree);
    product::read_environment(&sources.environment, &mut tree, &mut remarks);
    for (path, text) in &sources.overrides {
        set(&mut tree, path, known.value_of(path, text));
    }
    known.check(&mut tree, sources.strict, &mut remarks);
    let Some(mut config) = read_tree(&tree, &mut remarks) else {
        return Err(remarks.conclude().err().unwrap_or_else(|| anyhow!("the configuration is not valid")));
    };
    let file_given = sources.yaml.is_some();
    for result in [apply_flags(&mut config, sources.flags), read_key_file(&mut config)] {
        if let Err(error) = result {
            remarks.refuse(format!("{error:#}"));
        }
    }
    apply_development(&mut config, file_given);
    product::adopt_key(&mut config);
    config.check(&mut remarks);
    Ok(Loaded { config, warnings: remarks.conclude()? })
}

/// Whether the command line may set this key by a flag of its name, and whether that flag can do without a value.
pub fn flag(name: &str) -> Option<Flag> {
    let known = KnownKeys::new();
    let flag = if known.is_switch(name) { Flag::Switch } else { Flag::Value };
    known.has(name).then_some(flag)
}

/// Whether a text says on or off.
pub fn is_truth(text: &str) -> bool {
    truth(text).is_some()
}

/// How a flag that sets a key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// With or without true or false behind it.
    Switch,
    Value,
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
pub(super) fn parse_tree(yaml: &str) -> anyhow::Result<Mapping> {
    match serde_yaml_ng::from_str(yaml).context("the configuration is not YAML")? {
        Value::Mapping(tree) => Ok(tree),
        Value::Null => Ok(Mapping::new()),
        _ => bail!("the configuration must be a map of keys to values"),
    }
}

/// The parser does not say which value it refused. So on an error each is read alone. `None`: refused.
fn read_tree(tree: &Mapping, remarks: &mut Remarks) -> Option<Config> {
    let error = match serde_yaml_ng::from_value(Value::Mapping(tree.clone())) {
        Ok(config) => return Some(config),
        Err(error) => error,
    };
    let mut found = false;
    for (path, value) in leaves("", tree) {
        let mut alone = Mapping::new();
        set(&mut alone, &path, value);
        if let Err(error) = serde_yaml_ng::from_value::<Config>(Value::Mapping(alone)) {
            remarks.refuse(format!("{path}: {}", in_numbers(&error.to_string())));
            found = true;
        }
    }
    if !found {
        remarks.refuse(format!("the configuration is not valid: {error}"));
    }
    None
}

/// A message of the parser with the numbers that it takes in place of their type.
fn in_numbers(message: &str) -> String {
    let types = [("u8", "0 to 255"), ("u16", "0 to 65535"), ("u32", "0 to 4294967295")];
    let named = types.into_iter().find_map(|(name, range)| {
        let before = message.strip_suffix(&format!("expected {name}"))?;
        Some(format!("{before}expected a number from {range}"))
    });
    named.unwrap_or_else(|| message.to_owned())
}

/// All values with their paths. Maps with keys of the operator's are values.
#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn leaves(prefix: &str, tree: &Mapping) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (key, value) in tree {
        let path = joined(prefix, key.as_str().unwrap_or_default());
        match value {
            Value::Mapping(below) if !OPEN_MAPS.contains(&path.as_str()) => found.extend(leaves(&path, below)),
            _ => found.push((path, value.clone())),
        }
    }
    found
}

fn apply_flags(config: &mut Config, flags: Flags) -> anyhow::Result<()> {
    config.development |= flags.dev;
    if let Some(yaml) = flags.keys {
        // The error of the parser could quote a secret.
        config.keys = serde_yaml_ng::from_str(&yaml)
            .map_err(|_| anyhow!("--keys (LIVEKIT_KEYS) must be YAML like \"name: secret\", with the space"))?;
    }
    if let Some(path) = flags.key_file {
        config.key_file = path;
    }
    if !flags.bind.is_empty() {
        config.bind_addresses = flags.bind;
    }
    if let Some(addresses) = flags.node_ip {
        config.rtc.node_ip = addresses;
    }
    if let Some(ports) = flags.udp_port {
        config.rtc.udp_port = ports;
    }
    if let Some(region) = flags.region {
        config.region = region;
    }
    Ok(())
}

/// The key file wins over the keys given elsewhere.
fn read_key_file(config: &mut Config) -> anyhow::Result<()> {
    if config.key_file.is_empty() {
        return Ok(());
    }
    let path = Path::new(&config.key_file);
    refuse_open_file(path)?;
    let yaml = std::fs::read_to_string(path).with_context(|| format!("cannot read the key file {}", path.display()))?;
    config.keys = serde_yaml_ng::from_str(&yaml)
        .map_err(|_| anyhow!("the key file {} must be YAML like \"name: secret\"", path.display()))?;
    Ok(())
}

#[cfg(unix)]
fn refuse_open_file(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read the key file {}", path.display()))?;
    if metadata.permissions().mode() & 0o007 != 0 {
        bail!("the key file {0} is open to other users: chmod o-rwx {0}", path.display());
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_open_file(_path: &Path) -> anyhow::Result<()> {
    Ok(())
}

/// What `--dev` adds where the operator said nothing: public keys, loopback, one UDP port.
fn apply_development(config: &mut Config, file_given: bool) {
    if !config.development {
        return;
    }
    if config.keys.0.is_empty() {
        let product::Sfu { mode, api_key, .. } = &config.sfu;
        // An app that brings a key of this name brings its secret too.
        if *mode != product::SfuMode::Builtin || api_key != DEV_KEY {
            config.keys = KeyPairs(vec![(DEV_KEY.to_owned(), Secret::new(DEV_SECRET))]);
        }
        listen_on_loopback(config);
    }
    // Anybody who reaches it can make tokens for any user.
    if config.sfu.mode != product::SfuMode::Only {
        listen_on_loopback(config);
    }
    if !file_given && !config.rtc.udp_port.is_set() {
        config.rtc.udp_port = PortRange { first: DEV_UDP_PORT, last: DEV_UDP_PORT };
    }
    if !file_given {
        config.logging.level = Level::Debug;
    }
}

/// Unless the operator says where.
fn listen_on_loopback(config: &mut Config) {
    if config.bind_addresses.is_empty() {
        config.bind_addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
}
