//! The command line: LiveKit's flags and subcommands by their names, and `health` for container health checks.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use rand::RngExt as _;
use signaling::token::JoinToken;
use tracing::{error, info, warn};

use crate::app::{self, App, Stopped};
use crate::config::{self, Addresses, Config, Flags, Loaded, PortRange, Sources};
use crate::migrate::{self, Place};
use crate::{logging, signals};

/// How long `health` waits for the server.
const HEALTH_PATIENCE: Duration = Duration::from_secs(3);

/// A LiveKit-compatible live-streaming server.
#[derive(Parser)]
#[command(
    name = "onair",
    version,
    after_help = "Every single value of the configuration can also be set by a flag, \
    such as --rtc.tcp_port 0, or by an environment variable, such as LIVEKIT_RTC_TCP_PORT."
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
    /// Address to listen on with HTTP; may be repeated.
    #[arg(long, global = true, value_name = "ADDRESS")]
    bind: Vec<IpAddr>,
    /// Address that clients shall send media to: "v4" or "v4,v6".
    #[arg(long, global = true, value_name = "ADDRESS", env = "NODE_IP")]
    node_ip: Option<Addresses>,
    /// UDP port of media, or a range such as 7882-7892.
    #[arg(long, global = true, value_name = "PORT", env = "UDP_PORT")]
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
        #[arg(long)]
        room: String,
        #[arg(long)]
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
    let (arguments, overrides) = split_overrides(arguments);
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(answer) => {
            let code = if answer.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            answer.print().context("cannot print")?;
            return Ok(code);
        }
    };
    if let Some(Action::GenerateKeys) = cli.action {
        generate_keys();
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = config::load(sources(cli.options, overrides)?)?;
    match cli.action {
        None => serve(loaded),
        Some(Action::GenerateKeys) => Ok(ExitCode::SUCCESS),
        Some(Action::CreateJoinToken { room, identity, recorder }) => {
            create_join_token(&loaded.config, &room, &identity, recorder)
        }
        Some(Action::Ports) => {
            print_ports(&loaded.config);
            Ok(ExitCode::SUCCESS)
        }
        Some(Action::Health) => health(&loaded.config),
        Some(Action::Migrate { from, to }) => migrate(&loaded.config, from, to),
    }
}

/// Takes out `--section.key value`, `--section.key=value` and, without a value, `--section.key`, which means true.
fn split_overrides(arguments: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, Vec<(String, String)>) {
    let mut rest = Vec::new();
    let mut overrides = Vec::new();
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        let Some(flag) = dotted_flag(&argument) else {
            rest.push(argument);
            continue;
        };
        let (path, value) = match flag.split_once('=') {
            Some((path, value)) => (path.to_owned(), value.to_owned()),
            None => {
                let value = arguments.next_if(|next| !next.to_string_lossy().starts_with("--"));
                (flag, value.map_or("true".to_owned(), |value| value.to_string_lossy().into_owned()))
            }
        };
        overrides.push((path, value));
    }
    (rest, overrides)
}

/// Flags of [`Cli`] have no dot in their names.
fn dotted_flag(argument: &OsString) -> Option<String> {
    let flag = argument.to_str()?.strip_prefix("--")?;
    let name = flag.split('=').next()?;
    (name.contains('.') && !name.contains(char::is_whitespace)).then(|| flag.to_owned())
}

fn sources(options: Options, overrides: Vec<(String, String)>) -> anyhow::Result<Sources> {
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
            node_ip: options.node_ip,
            udp_port: options.udp_port,
            region: options.region,
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
        let (stop, stop_now) = signals::listen()?;
        let app = App::start(loaded.config).await?;
        app.log_listening();
        if !json {
            // Nobody may read it.
            let _ = writeln!(std::io::stdout(), "{}", app.greeting());
        }
        app.run(stop, stop_now).await
    });
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

fn generate_keys() {
    const LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut rng = rand::rng();
    let mut text = |length: usize| -> String {
        (0..length).map(|_| LETTERS[rng.random_range(0..LETTERS.len())] as char).collect()
    };
    println!("API Key:  API{}", text(12));
    println!("API Secret:  {}", text(44));
}

fn create_join_token(config: &Config, room: &str, identity: &str, recorder: bool) -> anyhow::Result<ExitCode> {
    let join = JoinToken {
        identity: identity.parse().context("--identity")?,
        room: room.parse().context("--room")?,
        recorder,
        life: app::JOIN_TOKEN_LIFE,
    };
    println!("Token: {}", app::keys(config)?.signer().create_join_token(&join, SystemTime::now()));
    Ok(ExitCode::SUCCESS)
}

fn print_ports(config: &Config) {
    println!("TCP {:<12} HTTP and WebSocket", config.port);
    let PortRange { first, last } = config.udp_ports();
    let udp = if first == last { first.to_string() } else { format!("{first}-{last}") };
    println!("UDP {udp:<12} media");
    if config.rtc.tcp_port != 0 {
        println!("TCP {:<12} media (ICE-TCP)", config.rtc.tcp_port);
    }
    if config.prometheus_port() != 0 {
        println!("TCP {:<12} metrics", config.prometheus_port());
    }
}

fn migrate(config: &Config, from: Option<Place>, to: Option<Place>) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(migrate::command(&config.store, from, to))?;
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
    println!("OK");
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

    #[test]
    fn flags_with_a_dot_are_configuration_keys() {
        let arguments = ["onair", "--rtc.tcp_port", "0", "--dev", "--logging.json", "--room.auto_create=false"];
        let (rest, overrides) = split_overrides(arguments.map(OsString::from));

        assert_eq!(rest, ["onair", "--dev"]);
        let expected = [("rtc.tcp_port", "0"), ("logging.json", "true"), ("room.auto_create", "false")];
        assert_eq!(overrides, expected.map(|(path, value)| (path.to_owned(), value.to_owned())));
    }

    #[test]
    fn generated_keys_are_not_needed_to_ask_for_help() {
        assert!(run(["onair", "--help"].map(OsString::from)).is_ok());
    }
}
