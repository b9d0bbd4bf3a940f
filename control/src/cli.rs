//! The command line: LiveKit's flags and subcommands by their names, and `health` for container health checks.

use std::ffi::OsString;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::{Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use rand::RngExt as _;
use signaling::token::JoinToken;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::app::{self, App, Stopped};
use crate::config::load::{self, Flag, Flags, Loaded, Sources};
use crate::config::{Addresses, Config, PortRange};
use crate::migrate::{self, Place};
use crate::{descriptors, logging, signals};

/// How long `health` waits for the server.
const HEALTH_PATIENCE: Duration = Duration::from_secs(3);

/// How long a stopped server waits for what cannot be cancelled, such as looking up a name, or a start.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// A LiveKit-compatible live-streaming server.
#[derive(Parser)]
#[command(
    name = "onair",
    version,
    after_help = "Every value of the configuration can also be set by a flag, such as --port 8080 or --rtc.tcp_port 0, \
    or by an environment variable, such as LIVEKIT_PORT or LIVEKIT_RTC_TCP_PORT."
)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Args)]
struct Options {
    /// Configuration file (YAML).
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Text of a configuration file.
    #[arg(long, global = true, value_name = "YAML", env = "LIVEKIT_CONFIG", hide_env_values = true)]
    config_body: Option<String>,
    /// API keys and their secrets: "key: secret", one a line.
    #[arg(long, global = true, value_name = "KEYS", env = "LIVEKIT_KEYS", hide_env_values = true)]
    keys: Option<String>,
    /// File with API keys and their secrets.
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<String>,
    /// Address to listen on with HTTP; may be repeated. "" means all.
    #[arg(long, global = true, value_name = "ADDRESS", value_parser = crate::config::bind_address)]
    bind: Vec<IpAddr>,
    /// Address that clients shall send media to: "v4" or "v4,v6".
    #[arg(long, global = true, value_name = "ADDRESS", env = "NODE_IP")]
    node_ip: Option<Addresses>,
    /// UDP port of media, or a range such as 7882-7892.
    #[arg(long, global = true, value_name = "PORT", env = "UDP_PORT", value_parser = PortRange::or_unset)]
    udp_port: Option<PortRange>,
    /// Name of the region, as clients see it.
    #[arg(long, global = true, value_name = "NAME", env = "LIVEKIT_REGION")]
    region: Option<String>,
    /// Development: public keys (devkey, secret), loopback unless --bind.
    #[arg(long, global = true)]
    dev: bool,
    /// Go on with configuration keys that are unknown or not supported.
    #[arg(long, global = true)]
    disable_strict_config: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Prints a new API key and its secret.
    GenerateKeys,
    /// Prints a token that joins a room.
    CreateJoinToken {
        /// Name of the room.
        #[arg(long, value_name = "NAME")]
        room: String,
        /// Who joins; a room has everybody once.
        #[arg(long, value_name = "NAME")]
        identity: String,
        /// The participant is hidden and only records.
        #[arg(long)]
        recorder: bool,
    },
    /// Prints the ports that the server will listen on.
    Ports,
    /// Asks the running server whether it is well; fails if not.
    Health,
    /// Copies everything that is kept from one store into another; run it while no server uses them.
    Migrate {
        /// File of an embedded store, its directory, or a mongodb:// URI; otherwise the configured embedded store.
        #[arg(long, value_name = "STORE")]
        from: Option<Place>,
        /// The same of the target; otherwise the configured MongoDB (store.mongodb_uri or MONGODB_URI).
        #[arg(long, value_name = "STORE")]
        to: Option<Place>,
    },
}

/// Runs a command line to its end. Usage errors and `--help` are answered here too.
///
/// # Errors
/// What went wrong and what to do, for people.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let (arguments, overrides) = split_overrides(arguments)?;
    let cli = match command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(answer) => {
            let code = if answer.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            printed(answer.print())?;
            return Ok(code);
        }
    };
    if let Some(Action::GenerateKeys) = cli.action {
        generate_keys()?;
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = load::load(sources(cli.options, overrides)?)?;
    match cli.action {
        None => serve(loaded),
        Some(Action::GenerateKeys) => Ok(ExitCode::SUCCESS),
        Some(Action::CreateJoinToken { room, identity, recorder }) => {
            create_join_token(&loaded.config, &room, &identity, recorder)
        }
        Some(Action::Ports) => {
            print_ports(&loaded.config)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Action::Health) => health(&loaded.config),
        Some(Action::Migrate { from, to }) => migrate(&loaded.config, from, to),
    }
}

/// Keys of the configuration and their values.
type Overrides = Vec<(String, String)>;

/// The command line with each subcommand's help about its own options. The others work there as well.
fn command() -> Command {
    let mut command = Cli::command();
    // From here on subcommands have the options of all.
    command.build();
    command.mut_subcommands(|subcommand| {
        let own = subcommand.mut_args(|argument| {
            let hidden = argument.is_global_set();
            argument.hide(hidden)
        });
        own.after_help("The options of `onair --help` work here as well.")
    })
}

/// Takes out the flags that are keys of the configuration: `--section.key value`, `--section.key=value`, and for those
/// that are on or off `--section.key` alone, which means on.
///
/// # Errors
/// A key whose value is missing.
fn split_overrides(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<(Vec<OsString>, Overrides)> {
    let mut rest = Vec::new();
    let mut overrides = Vec::new();
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        let Some(flag) = key_flag(&argument) else {
            rest.push(argument);
            continue;
        };
        if let Some((path, value)) = flag.split_once('=') {
            overrides.push((path.to_owned(), value.to_owned()));
            continue;
        }
        let is_switch = load::flag(&flag) == Some(Flag::Switch);
        let value = arguments.next_if(|next| match next.to_str() {
            Some(text) if is_switch => load::is_truth(text),
            Some(text) => !text.starts_with("--"),
            None => false,
        });
        match value {
            Some(value) => overrides.push((flag, value.to_string_lossy().into_owned())),
            None if is_switch => overrides.push((flag, "true".to_owned())),
            None => bail!("--{flag} needs a value"),
        }
    }
    Ok((rest, overrides))
}

/// What stands behind the dashes of a flag that is a key of the configuration. Of the flags of [`Cli`] none has a dot
/// in its name, and where one has the name of a key, it is the flag.
fn key_flag(argument: &OsString) -> Option<String> {
    let flag = argument.to_str()?.strip_prefix("--")?;
    let name = flag.split('=').next()?;
    let is_key = if name.contains('.') { !name.contains(char::is_whitespace) } else { load::flag(name).is_some() };
    let is_own = || Cli::command().get_arguments().any(|argument| argument.get_long() == Some(name));
    (is_key && !is_own()).then(|| flag.to_owned())
}

fn sources(options: Options, overrides: Overrides) -> anyhow::Result<Sources> {
    let yaml = match (options.config_body, options.config) {
        (Some(body), _) if !body.is_empty() => Some(body),
        (_, Some(path)) => Some(
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read the configuration file {}", path.display()))?,
        ),
        (_, None) => None,
    };
    Ok(Sources {
        yaml,
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        overrides,
        flags: Flags {
            dev: options.dev,
            keys: options.keys.filter(|keys| !keys.trim().is_empty()),
            key_file: options.key_file,
            bind: options.bind,
            // A variable that is empty counts as not set.
            node_ip: options.node_ip.filter(|addresses| !addresses.0.is_empty()),
            udp_port: options.udp_port.filter(|ports| ports.is_set()),
            region: options.region.filter(|name| !name.is_empty()),
        },
        strict: !options.disable_strict_config,
    })
}

fn serve(loaded: Loaded) -> anyhow::Result<ExitCode> {
    logging::start(&loaded.config);
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let json = loaded.config.logging.json;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let stopped = runtime.block_on(async {
        match descriptors::raise_limit() {
            Ok((_, limit)) => info!(limit, "open files that this process may have"),
            Err(error) => warn!(%error, "the limit of open files stays as it is"),
        }
        let (stop, stop_now) = signals::listen()?;
        let mut stop = std::pin::pin!(stop);
        // What hangs in there, such as a file system that does not answer, holds up no signal.
        let stopping = CancellationToken::new();
        let is_stopping = stopping.clone();
        let start = move || Handle::current().block_on(is_stopping.run_until_cancelled(App::start(loaded.config)));
        let mut starting = tokio::task::spawn_blocking(start);
        let app = tokio::select! {
            app = &mut starting => app.context("the start panicked")?.context("it was not stopped")??,
            () = &mut stop => {
                stopping.cancel();
                // Else its timers would outlive the runtime, which is a panic.
                let _ = tokio::time::timeout(LAST_PATIENCE, starting).await;
                return Ok(Stopped::Drained);
            }
        };
        app.log_listening();
        if !json {
            say(&app.greeting())?;
        }
        app.run(stop, stop_now).await
    });
    runtime.shutdown_timeout(LAST_PATIENCE);
    match stopped {
        Ok(Stopped::Drained) => {
            info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        Ok(Stopped::AtOnce) => {
            warn!("stopped at once, as asked");
            Ok(ExitCode::FAILURE)
        }
        Err(error) if json => {
            error!(cause = format!("{error:#}"), "cannot serve");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error),
    }
}

fn generate_keys() -> anyhow::Result<()> {
    const LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut rng = rand::rng();
    let mut text = |length: usize| -> String {
        (0..length).map(|_| LETTERS[rng.random_range(0..LETTERS.len())] as char).collect()
    };
    let (key, secret) = (format!("API{}", text(12)), text(44));
    say(&format!(
        "API Key:  {key}\nAPI Secret:  {secret}\n\n\
         # for the configuration file\nkeys:\n  {key}: {secret}\n\n\
         # or for the environment\nLIVEKIT_KEYS=\"{key}: {secret}\""
    ))
}

fn create_join_token(config: &Config, room: &str, identity: &str, recorder: bool) -> anyhow::Result<ExitCode> {
    let join = JoinToken {
        identity: identity.parse().context("--identity")?,
        room: room.parse().context("--room")?,
        recorder,
        life: app::JOIN_TOKEN_LIFE,
    };
    say(&format!("Token: {}", app::keys(config)?.signer().create_join_token(&join, SystemTime::now())))?;
    Ok(ExitCode::SUCCESS)
}

fn print_ports(config: &Config) -> anyhow::Result<()> {
    let PortRange { first, last } = config.udp_ports();
    let udp = if first == last { first.to_string() } else { format!("{first}-{last}") };
    let mut lines = vec![format!("TCP {:<12} HTTP and WebSocket", config.port), format!("UDP {udp:<12} media")];
    if config.rtc.tcp_port != 0 {
        lines.push(format!("TCP {:<12} media (ICE-TCP)", config.rtc.tcp_port));
    }
    if config.prometheus_port() != 0 {
        lines.push(format!("TCP {:<12} metrics", config.prometheus_port()));
    }
    say(&lines.join("\n"))
}

/// Writes lines to standard output.
fn say(lines: &str) -> anyhow::Result<()> {
    printed(writeln!(std::io::stdout(), "{lines}"))
}

/// Whoever closed the output has read enough of it.
fn printed(result: std::io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot print"),
    }
}

fn migrate(config: &Config, from: Option<Place>, to: Option<Place>) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        signals::outlive_the_file_limit()?;
        migrate::command(&config.store, from, to).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// `GET /` of the server with this configuration on this machine.
fn health(config: &Config) -> anyhow::Result<ExitCode> {
    let ip = config.bind_addresses.first().copied().filter(|ip| !ip.is_unspecified());
    let address = SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), config.port);
    let status = status_line(address).with_context(|| format!("the server at {address} does not answer"))?;
    if status.split(' ').nth(1) != Some("200") {
        bail!("the server at {address} is not well: {status}");
    }
    say("OK")?;
    Ok(ExitCode::SUCCESS)
}

fn status_line(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_PATIENCE)?;
    stream.set_read_timeout(Some(HEALTH_PATIENCE))?;
    stream.set_write_timeout(Some(HEALTH_PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    fn split(arguments: &[&str]) -> (Vec<OsString>, Overrides) {
        split_overrides(arguments.iter().map(OsString::from)).unwrap()
    }

    #[test]
    fn every_key_of_the_configuration_is_a_flag() {
        let (rest, overrides) = split(&[
            "onair",
            "--rtc.tcp_port",
            "0",
            "--dev",
            "--logging.json",
            "--room.auto_create=false",
            "--port",
            "8080",
            "--drain_timeout=3",
            "--live.enabled",
            "no",
            "--bind_addresses",
            "127.0.0.1,::1",
            "--region",
            "eu",
        ]);

        assert_eq!(rest, ["onair", "--dev", "--region", "eu"]);
        let expected = [
            ("rtc.tcp_port", "0"),
            ("logging.json", "true"),
            ("room.auto_create", "false"),
            ("port", "8080"),
            ("drain_timeout", "3"),
            ("live.enabled", "no"),
            ("bind_addresses", "127.0.0.1,::1"),
        ];
        assert_eq!(overrides, expected.map(|(path, value)| (path.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_switch_does_not_swallow_the_subcommand() {
        let (rest, overrides) = split(&["onair", "--logging.json", "ports"]);

        assert_eq!(rest, ["onair", "ports"]);
        assert_eq!(overrides, [("logging.json".to_owned(), "true".to_owned())]);
        let error = split_overrides(["onair", "--port", "--dev"].map(OsString::from)).unwrap_err();
        assert_eq!(error.to_string(), "--port needs a value");
    }

    #[test]
    fn each_subcommand_explains_its_own_options_and_no_others() {
        for subcommand in command().get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
            for argument in subcommand.get_arguments() {
                let name = format!("{} --{}", subcommand.get_name(), argument.get_id());
                assert!(argument.get_help().is_some(), "{name} has no help");
                assert!(!argument.is_global_set() || argument.is_hide_set(), "{name} is shown");
            }
        }
        assert!(command().get_arguments().any(|argument| argument.get_id() == "config" && !argument.is_hide_set()));
        // They work all the same.
        let parsed = command().try_get_matches_from(["onair", "ports", "--config", "x.yaml"]).unwrap();
        assert_eq!(Cli::from_arg_matches(&parsed).unwrap().options.config, Some("x.yaml".into()));
    }

    #[test]
    fn generated_keys_are_not_needed_to_ask_for_help() {
        assert!(run(["onair", "--help"].map(OsString::from)).is_ok());
    }
}
