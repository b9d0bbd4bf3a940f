//! The embedded store's directory and file, as an operator may have left them.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::*;

/// A directory that is gone with this value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// The path of a store's directory in it, which is made.
    fn store(&self, name: &str) -> PathBuf {
        let directory = self.0.join(name);
        std::fs::create_dir(&directory).unwrap();
        directory
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type Make = fn(&Path);

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// The arguments of a server with that store, on ports of its own, the first of which is given too.
fn arguments(store: &Path) -> (u16, Vec<String>) {
    let (port, yaml) = free_ports();
    let path = store.to_str().unwrap();
    (port, ["--dev", "--config-body", &yaml, "--store.path", path].map(str::to_owned).to_vec())
}

fn server(store: &Path) -> (u16, Command) {
    let (port, arguments) = arguments(store);
    (port, onair(&arguments.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// Asks until `done` says so; the answer.
fn until<T>(mut ask: impl FnMut() -> T, done: impl Fn(&T) -> bool) -> T {
    let begun = Instant::now();
    loop {
        let answer = ask();
        if done(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "it never came to it");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The exit code of what must end by itself, and what it said.
fn end(process: &mut Child) -> (Option<i32>, String) {
    until(|| process.try_wait().unwrap(), Option::is_some);
    let mut said = String::new();
    if let Some(mut log) = process.stderr.take() {
        log.read_to_string(&mut said).unwrap();
    }
    (process.wait().unwrap().code(), said)
}

/// Starts a server that must refuse the store; what it said.
fn refusal(store: &Path) -> String {
    let (_, mut command) = server(store);
    let mut refused = Running::spawn(&mut command, Stdio::piped());
    let (code, said) = end(&mut refused.process);
    assert_eq!(code, Some(1), "{said}");
    said
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_end_by_a_signal() {
    let folder = Folder::new("limited");
    let (_, arguments) = arguments(&folder.store("store"));
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut refused = Running::spawn(&mut onair_within("-f 0", &arguments), Stdio::piped());

    let (code, said) = end(&mut refused.process);

    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("onair.db") && said.contains("store.path"), "{said}");
}

#[test]
fn what_is_no_regular_file_is_refused_where_a_file_of_the_store_should_be() {
    let folder = Folder::new("kinds");
    for file in ["onair.db", "onair.db-journal", "onair.db-wal", "onair.db-shm", "onair.lock", "chat-queue.jsonl"] {
        let kinds: [(&str, Make); 4] = [
            ("named pipe", fifo),
            ("socket", |path| drop(UnixListener::bind(path).unwrap())),
            ("directory", |path| std::fs::create_dir(path).unwrap()),
            ("device", |path| symlink("/dev/null", path).unwrap()),
        ];
        for (kind, make) in kinds {
            let store = folder.store(&format!("{file} {kind}"));
            make(&store.join(file));

            let said = refusal(&store);

            let expected = format!("{} is a {kind}", store.join(file).display());
            assert!(said.contains(&expected) && said.contains("store.path"), "{expected:?} is not in {said}");
        }
    }
}

#[test]
fn a_signal_ends_a_start_that_hangs() {
    let folder = Folder::new("hangs");
    let certificates = folder.0.join("ca.pem");
    fifo(&certificates);
    let (_, mut command) = server(&folder.store("store"));
    // Reading them waits for somebody who writes.
    command.args(["--auth.jwks_url", "https://id.invalid/keys"]);
    command.env("SSL_CERT_FILE", &certificates).env_remove("SSL_CERT_DIR");
    let mut server = Running::spawn(&mut command, Stdio::piped());
    let _writer = std::fs::File::options().write(true).open(&certificates).unwrap();
    server.signal("TERM");

    let (code, said) = end(&mut server.process);

    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("asked to stop"), "{said}");
}

#[test]
fn a_start_that_waits_for_its_database_answers_so_and_ends_when_told_to() {
    let (port, yaml) = free_ports();
    let nobody = format!("mongodb://127.0.0.1:{}/", ports::free());
    let mut command = onair(&["--dev", "--config-body", &yaml, "--store.mongodb_uri", &nobody]);
    let mut server = Running::spawn(&mut command, Stdio::piped());
    until(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(), |listens| *listens);

    let answer = get(port, "/healthz");
    server.signal("INT");

    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("is starting"), "{answer}");
    let (code, said) = end(&mut server.process);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("asked to stop") && !said.contains("panicked"), "{said}");
}

#[test]
fn a_database_that_is_away_is_named_with_its_setting_in_one_line() {
    let (_, yaml) = free_ports();
    let nobody = format!("mongodb://127.0.0.1:{}/", ports::free());
    let mut refused = Running::spawn(
        &mut onair(&["--dev", "--config-body", &yaml, "--log_level", "error", "--store.mongodb_uri", &nobody]),
        Stdio::piped(),
    );

    let (code, said) = end(&mut refused.process);

    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("refused") && said.contains("MONGODB_URI") && !said.contains("store.path"), "{said}");
    assert!(!said.contains("Topology"), "{said}");
}

#[test]
fn a_directory_that_stays_open_to_others_is_pointed_out() {
    let folder = Folder::new("open");
    let store = folder.store("store");
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o755)).unwrap();
    let link = folder.0.join("link");
    symlink(&store, &link).unwrap();
    let log = |path: &Path| {
        let (_, arguments) = arguments(path);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).chain(["--log_level", "warn"]).collect();
        let mut server = Running::spawn(&mut onair(&arguments), Stdio::piped());
        server.line_with("token for a day");
        server.log_to_the_end()
    };
    let mode = || store.metadata().unwrap().permissions().mode() & 0o777;

    let said = log(&link);
    assert!(said.contains("chmod o-rwx") && said.contains(link.to_str().unwrap()), "{said}");
    assert_eq!(mode(), 0o755, "somebody else made the link");
    let said = log(&store);
    assert!(!said.contains("chmod"), "{said}");
    assert_eq!(mode(), 0o700);
    assert!(!log(&link).contains("chmod"));
}

#[test]
fn a_store_that_cannot_be_written_to_is_told_of_and_ends_no_server() {
    let folder = Folder::new("full");
    let (port, mut command) = server(&folder.store("store"));
    let mut server = Running::of(&mut command);
    server.line_with("token for a day");
    let store =
        |answer: &String| answer.rsplit_once("\"store\":").map(|(_, state)| state.trim_end_matches('}').to_owned());
    let says = |state: &str| until(|| get(port, "/readyz"), |answer| store(answer).as_deref() == Some(state));
    let limit = |bytes: &str| {
        let id = server.process.id().to_string();
        assert!(Command::new("prlimit").args(["--pid", &id, &format!("--fsize={bytes}:")]).status().unwrap().success());
    };
    says("\"available\"");

    limit("0");
    says("\"unavailable\"");
    let page = get(port, "/metrics");
    assert!(counter(&page, "onair_store_failures_total") > 0 && counter(&page, "onair_store_up") == 0);
    limit("unlimited");

    says("\"available\"");
}

#[test]
fn a_store_that_was_moved_away_is_told_of() {
    let folder = Folder::new("moved");
    let store = folder.store("store");
    let (port, mut command) = server(&store);
    let mut server = Running::of(&mut command);
    server.line_with("token for a day");
    let says = |state: &str| {
        let state = format!("\"store\":\"{state}\"");
        until(|| get(port, "/readyz"), |answer| answer.contains(&state))
    };
    says("available");

    let (file, away) = (store.join("onair.db"), store.join("away.db"));
    std::fs::rename(&file, &away).unwrap();
    says("unavailable");
    std::fs::copy(&away, &file).unwrap();
    std::fs::rename(&away, &file).unwrap();

    says("available");
}

#[test]
fn a_store_serves_one_process_under_whatever_name() {
    let folder = Folder::new("names");
    let store = folder.store("store");
    let (_, mut command) = server(&store);
    let mut first = Running::of(&mut command);
    first.line_with("token for a day");
    symlink(&store, folder.0.join("link")).unwrap();
    std::fs::hard_link(store.join("onair.db"), folder.store("hard").join("onair.db")).unwrap();
    symlink(store.join("onair.db"), folder.store("soft").join("onair.db")).unwrap();

    for name in ["link", "hard", "soft"] {
        let said = refusal(&folder.0.join(name));
        assert!(said.contains("another process uses") && said.contains("store.path"), "{name}: {said}");
        let from = folder.0.join(name).join("onair.db");
        let said = failure(&["migrate", "--from", from.to_str().unwrap(), "--to", folder.0.to_str().unwrap()]);
        assert!(said.contains("another process uses") || said.contains("at work on"), "{name}: {said}");
    }
    drop(first);
    // A name of its own is left, beside which nothing of the first one lies.
    std::fs::remove_file(store.join("onair.db")).unwrap();
    let (_, mut command) = server(&folder.0.join("hard"));
    Running::of(&mut command).line_with("token for a day");
}
