//! A job: its drop folder, its configuration, and the program run on it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::wait_for;

/// The transform of the quick start.
pub const NUMBERS: &str = "[input.format.numbers]\n[transform.scale]\nbelow = 10.0\nby = 100.0\n\
                           [output.format.numbers]\n";

/// A job in a temporary folder.
pub struct Spool {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    always: Vec<(String, String)>,
}

impl Spool {
    /// A job whose files are complete at once, with more configuration.
    pub fn new(configuration: &str) -> Self {
        Self::with_input("settle = \"0s\"", configuration)
    }

    /// A job with these keys in `[input]`, and more configuration.
    pub fn with_input(input: &str, configuration: &str) -> Self {
        super::hear_interrupts();
        let spool = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            environment: Vec::new(),
            always: Vec::new(),
        };
        fs::create_dir(spool.path("in")).unwrap();
        spool.configure(input, configuration);
        spool
    }

    /// Writes the job file.
    pub fn configure(&self, input: &str, configuration: &str) {
        let mut output = "[output]\npath = \"output.txt\"\n";
        let mut rejects = "[rejects]\npath = \"rejects.jsonl\"\n";
        if configuration.contains("[output]") {
            output = "";
        }
        if configuration.contains("[rejects]") {
            rejects = "";
        }
        let text = format!(
            "[input]\ndirectory = \"in\"\n{input}\n{configuration}\n{output}{rejects}\
             [state]\ndirectory = \"state\"\n"
        );
        fs::write(self.path("job.toml"), text).unwrap();
    }

    /// Sets an environment variable of the program.
    pub fn environment(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a variable for every run from now on.
    pub fn always(&mut self, name: &str, value: &str) {
        self.always.push((name.to_owned(), value.to_owned()));
    }

    /// Unsets it.
    pub fn no_environment(&mut self) -> &mut Self {
        self.environment.clear();
        self
    }

    pub fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.folder.path().join(Path::new(name.as_ref()))
    }

    pub fn input(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path("in").join(Path::new(name.as_ref()))
    }

    /// Drops a file as a good uploader does: under another name, then renamed.
    pub fn drop_file(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) {
        let temporary = self.path("upload.tmp");
        fs::write(&temporary, content).unwrap();
        fs::rename(temporary, self.input(name)).unwrap();
    }

    /// Writes a file in place.
    pub fn write_file(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) {
        fs::write(self.input(name), content).unwrap();
    }

    /// The program with this verb and the job file.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spoolmill"));
        command.arg(verb).arg("-c").arg(self.path("job.toml")).current_dir(self.folder.path());
        let environment = self.always.iter().chain(&self.environment);
        command.envs(environment.map(|(name, value)| (name, value)));
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
        command
    }

    /// Runs a verb to its end.
    pub fn run(&self, verb: &str, arguments: &[&str]) -> Output {
        self.command(verb).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs `run --once` to its end, which must be a good one.
    #[track_caller]
    pub fn run_once(&self) -> String {
        let output = self.run("run", &["--once"]);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {log}", output.status);
        log
    }

    /// Runs a verb over standard input.
    pub fn pipe(&self, verb: &str, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(verb);
        command.args(arguments).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || {
            // The program may end before it has read everything.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        output
    }

    /// Starts the daemon and waits until it has taken its locks.
    pub fn start(&self) -> Daemon {
        let log = self.path("daemon.log");
        let file = fs::File::create(&log).unwrap();
        let mut command = self.command("run");
        let child = command.args(["--log-level", "debug"]).stderr(file).spawn().unwrap();
        Daemon { child, log }
    }

    /// Runs `verify`, which must find nothing.
    #[track_caller]
    pub fn verify(&self, arguments: &[&str]) {
        let output = self.run("verify", arguments);
        let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
        assert!(output.status.success(), "{said}");
    }

    /// The names in a folder, but for locks.
    pub fn names_in(&self, folder: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with(".spoolmill-lock")).collect()
    }

    /// The text of a file that may be compressed, by its suffix.
    pub fn plain(&self, name: &str) -> String {
        let bytes = fs::read(self.path(name)).unwrap();
        let unpacked = match name.rsplit('.').next() {
            Some("gz") => {
                let mut plain = Vec::new();
                flate2::read::MultiGzDecoder::new(&*bytes).read_to_end(&mut plain).unwrap();
                plain
            }
            Some("zst") => zstd::stream::decode_all(&*bytes).unwrap(),
            _ => bytes,
        };
        String::from_utf8(unpacked).unwrap()
    }

    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    pub fn output(&self) -> String {
        self.read("output.txt")
    }

    /// The records that a reader of the test-only remote target has seen.
    #[track_caller]
    pub fn delivered(&self) -> String {
        delivered(&self.output())
    }

    pub fn rejects(&self) -> String {
        self.read("rejects.jsonl")
    }

    /// The names in the drop folder, folders below with a slash.
    pub fn names(&self) -> BTreeSet<String> {
        names_below(&self.path("in"), "")
    }

    #[track_caller]
    pub fn assert_names(&self, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(self.names(), expected);
    }

    /// One number from the ledger.
    pub fn ledger(&self, query: &str) -> i64 {
        let connection = rusqlite::Connection::open(self.path("state/ledger.db")).unwrap();
        connection.query_row(query, (), |row| row.get(0)).unwrap()
    }
}

/// The records in the text of the test-only remote target: each once, in the order of its numbers. Those of
/// further targets on it stand after a mark.
#[track_caller]
pub fn delivered(log: &str) -> String {
    let mut last = BTreeMap::new();
    let mut text = String::new();
    // A transaction counts when it has its end.
    for line in log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        for record in line["records"].as_array().unwrap() {
            let target = record[0].as_i64().unwrap();
            let number = record[1].as_u64().unwrap();
            let before = last.insert(target, number);
            assert!(before < Some(number), "{before:?}, then {record}");
            text.push_str(if target == 1 { "" } else { "> " });
            text.push_str(record[2].as_str().unwrap());
            text.push('\n');
        }
    }
    text
}

fn names_below(folder: &Path, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        // It is there while a job is open.
        if entry.file_name() == ".spoolmill-lock" {
            continue;
        }
        let name = format!("{prefix}{}", entry.file_name().as_bytes().escape_ascii());
        if entry.file_type().unwrap().is_dir() {
            names.extend(names_below(&entry.path(), &format!("{name}/")));
        } else {
            names.insert(name);
        }
    }
    names
}

/// A daemon that is running; killed when dropped.
pub struct Daemon {
    pub child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn of(child: Child, log: PathBuf) -> Self {
        Self { child, log }
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the program's own end.
    #[track_caller]
    pub fn wait(mut self) -> (std::process::ExitStatus, String) {
        let mut status = None;
        wait_for(&format!("the daemon ends; its log: {}", self.log()), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        (status.unwrap(), self.log())
    }

    /// Stops it with SIGTERM; the end must be a good one.
    #[track_caller]
    pub fn stop(self) -> String {
        self.signal(rustix::process::Signal::TERM);
        let (status, log) = self.wait();
        assert!(status.success(), "{status}: {log}");
        log
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
