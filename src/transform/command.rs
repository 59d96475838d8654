//! The transform `command`: any program that filters its standard input to its standard output.
//!
//! Invariants:
//! - No shell: the program gets its arguments as they were written.
//! - Both pipes and its standard error are pumped at once, so that no buffer size can hang it.
//! - It runs in a process group of its own. When a time limit passes, or the daemon stops, the whole
//!   group gets TERM, then KILL; when it is done, what it left running is killed too.
//! - Its output counts when all that it has started has closed the pipe: a part is never taken for the
//!   whole, in whichever order they exit. Time counts while the command could work, not while this side does.
//! - Exit code 0 is success, [`TRY_LATER`] puts the file off, anything else is a failure.
//!
//! Out of scope: what the bytes in its pipes mean.

mod leftovers;
mod pipes;
mod watch;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};

use anyhow::Context as _;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::pulse::Pulse;
use crate::units::Span;
use leftovers::{Family, Running};
use pipes::{Flow, Moving};
use watch::Watch;

/// The exit code by which a command says 'try later': `EX_TEMPFAIL` of sysexits.h.
pub const TRY_LATER: i32 = 75;

/// Bytes of standard error that go into the reason when a command fails.
const TAIL_BYTES: usize = 2048;

/// `[transform.command]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Longest run over one microbatch.
    #[serde(default = "ten_minutes")]
    pub timeout: Span,
    /// Longest time without a byte moving in or out.
    #[serde(default = "one_minute")]
    pub idle_timeout: Span,
    /// Runs before a file that makes the command fail goes to quarantine.
    #[serde(default = "three")]
    pub attempts: u32,
    /// Variables of its environment, besides those that every command has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Variable>,
}

/// A variable of a command's environment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Variable {
    /// Its value.
    Value(String),
    /// The one of this name in the environment of spoolmill itself.
    Inherited {
        /// The name there.
        env: String,
    },
}

impl About<'static> {
    /// Standard input, or what a query reads back.
    pub fn nothing() -> Self {
        Self { file: OsStr::new("-"), path: Path::new("-"), microbatch: None }
    }
}

/// Variables that every command inherits: where programs are, whose they run as, and how they speak.
const INHERITED: [&str; 10] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE", "TERM"];

/// Which input a command works on, for its environment.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The name of the file, relative to the drop folder.
    pub file: &'a OsStr,
    /// Its path.
    pub path: &'a Path,
    /// The microbatch that it is going to be; none outside a daemon.
    pub microbatch: Option<u64>,
}

fn ten_minutes() -> Span {
    Span::seconds(600)
}

fn one_minute() -> Span {
    Span::seconds(60)
}

fn three() -> u32 {
    3
}

impl Command {
    /// The program as a path: looked up in `PATH` unless it has a slash, and then relative to
    /// `directory`. `None` when there is no such executable.
    pub fn program(&self, directory: &Path) -> Option<PathBuf> {
        let name = self.argv.first()?;
        let executable = |path: &PathBuf| {
            path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
        };
        if name.contains('/') {
            return Some(directory.join(name)).filter(executable);
        }
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(executable)
    }

    fn spawn(&self, directory: &Path, about: About<'_>) -> anyhow::Result<Child> {
        let program = self.argv.first().context("argv is empty")?;
        let arguments = self.argv.get(1..).unwrap_or_default();
        let path =
            self.program(directory).with_context(|| format!("find the program {program}"))?;
        std::process::Command::new(path)
            .arg0(program)
            .args(arguments)
            .current_dir(directory)
            .env_clear()
            .envs(self.environment(about))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {program}"))
    }

    /// The environment of a command, without systemd's sockets and anybody's secrets.
    fn environment(&self, about: About<'_>) -> Vec<(OsString, OsString)> {
        let is_passed = |name: &OsStr| {
            let name = name.as_encoded_bytes();
            INHERITED.iter().any(|known| known.as_bytes() == name) || name.starts_with(b"LC_")
        };
        let mut all: Vec<_> = std::env::vars_os().filter(|(name, _)| is_passed(name)).collect();
        all.push(("SPOOLMILL_FILE".into(), about.file.to_owned()));
        all.push(("SPOOLMILL_PATH".into(), about.path.into()));
        if let Some(microbatch) = about.microbatch {
            all.push(("SPOOLMILL_MICROBATCH".into(), microbatch.to_string().into()));
        }
        let named = self.env.iter().filter_map(|(name, variable)| {
            let value = match variable {
                Variable::Value(value) => value.into(),
                Variable::Inherited { env } => std::env::var_os(env)?,
            };
            Some((name.into(), value))
        });
        all.extend(named);
        all
    }

    fn name(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }
}

/// The three ends of a running command, each used on a thread of its own.
pub struct Ends<Feed, Collect, Complain> {
    /// Writes the input; returning closes the pipe. A broken pipe says that the command reads no more.
    pub feed: Feed,
    /// Reads the output to its end.
    pub collect: Collect,
    /// Takes each line of standard error, without its line end.
    pub complain: Complain,
}

/// Whether the command works on a bounded input, and is bounded in time itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounds {
    /// A microbatch: both time limits hold.
    Microbatch,
    /// A live stream: it runs as long as the stream does.
    Stream,
}

/// Runs the command once.
///
/// # Errors
/// `Bad` when it fails or takes too long, `Later` when it asks for that, `Transient` when it cannot be
/// started, `Stopped`, or what the ends report.
pub fn run<Feed, Collect, Complain>(
    command: &Command,
    (directory, about): (&Path, About<'_>),
    bounds: Bounds,
    pulse: &Pulse,
    ends: Ends<Feed, Collect, Complain>,
) -> Result<()>
where
    Feed: FnOnce(&mut dyn Write) -> Result<()> + Send,
    Collect: FnOnce(Box<dyn Read + Send + '_>) -> Result<()>,
    Complain: FnMut(&[u8]) -> Result<()> + Send,
{
    leftovers::adopt();
    let started = Running::start(|| command.spawn(directory, about));
    let (mut child, running) = started.map_err(Failure::Transient)?;
    let flow = Flow::default();
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let family = Family { group: Pid::from_child(&child) };
    let watch = Watch::new(command, bounds, family, inode_of(stdin.as_ref()), &flow);
    let pumped = std::thread::scope(|scope| -> Result<_> {
        let no_thread = |error: io::Error| {
            watch.kill();
            watch.done();
            Failure::Transient(anyhow::Error::from(error).context("start a thread"))
        };
        let thread = std::thread::Builder::new;
        let mut pipe = Moving::new(stdin, &flow, &flow.fed);
        let output = Moving::new(stdout, &flow, &flow.closed);
        let errors = Moving::new(stderr, &flow, &flow.said);
        thread().spawn_scoped(scope, || watch.until_done(pulse)).map_err(no_thread)?;
        let feeding = move || {
            pipe.never_wait_in_a_write();
            (ends.feed)(&mut pipe)
        };
        let feed = thread().spawn_scoped(scope, feeding).map_err(no_thread)?;
        let complaining = || complaints(errors, ends.complain);
        let complain = thread().spawn_scoped(scope, complaining).map_err(no_thread)?;
        let collected = (ends.collect)(Box::new(output));
        if collected.is_err() {
            watch.kill_now();
        }
        let feeding =
            feed.join().unwrap_or_else(|_| Err(Failure::fatal("the feeding thread died")));
        let complained = complain.join();
        watch.done();
        Ok((collected, feeding, complained))
    });
    let status = child.wait().context("wait for the command").map_err(Failure::Transient)?;
    drop(running);
    family.end();
    let (collected, feeding, complained) = pumped?;
    let tail = complained.unwrap_or_else(|_| Err(Failure::fatal("the stderr thread died")))?;
    watch.verdict(pulse)?;
    feeding?;
    collected?;
    judge(command, status, &tail)
}

/// Waits for processes that have ended and that came to this one, as they do to process 1.
pub fn reap_strays() {
    leftovers::reap();
}

/// True while a command runs.
pub fn is_running() -> bool {
    leftovers::is_running()
}

/// Ends whatever commands run, at once: the process is about to end.
pub fn end_all() {
    leftovers::end_all();
}

/// How long a command may take to end after a signal has come to this process.
pub const ENDING: std::time::Duration =
    watch::GRACE.saturating_add(std::time::Duration::from_secs(1));

fn inode_of(pipe: Option<&ChildStdin>) -> u64 {
    pipe.and_then(|pipe| rustix::fs::fstat(pipe).ok()).map_or(0, |stat| stat.st_ino)
}

/// Classifies the exit status.
fn judge(command: &Command, status: ExitStatus, tail: &[u8]) -> Result<()> {
    let how = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(TRY_LATER), _) => {
            return Err(Failure::Later(format!("{} asked to be tried later", command.name())));
        }
        (Some(code), _) => format!("exited with {code}"),
        (_, signal) => format!("was killed by signal {}", signal.unwrap_or_default()),
    };
    let tail = String::from_utf8_lossy(tail);
    let said = if tail.trim().is_empty() { String::new() } else { format!(": {}", tail.trim()) };
    Err(Failure::Bad(format!("{} {how}{said}", command.name())))
}

/// Hands each line of `pipe` to `complain`; returns the end of what was said.
fn complaints(
    mut pipe: impl Read,
    mut complain: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut tail = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let mut outcome = Ok(());
    loop {
        let got = match pipe.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(got) if got > 0 => got,
            _ => break,
        };
        let bytes = buffer.get(..got).unwrap_or_default();
        tail.extend_from_slice(bytes);
        tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece.strip_suffix(b"\n").unwrap_or(piece));
            // A line without end is passed on in pieces: memory stays bounded.
            if piece.ends_with(b"\n") || line.len() > crate::record::REJECT_RAW_BYTES {
                // After a failure the pipe is still read to its end, or the command would hang.
                outcome = outcome.and_then(|()| complain(&line));
                line.clear();
            }
        }
    }
    if !line.is_empty() {
        outcome = outcome.and_then(|()| complain(&line));
    }
    outcome.map(|()| tail)
}
