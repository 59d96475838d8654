//! The transform `command`: any program that filters its standard input to its standard output.
//!
//! What holds here:
//! - No shell: the program gets its arguments as they were written.
//! - Both pipes and its standard error are pumped at once, so that no buffer size can hang it.
//! - It runs in a process group of its own. When a time limit passes, or the daemon stops, the whole
//!   group gets TERM, then KILL; when it is done, what it left running is killed too.
//! - Exit code 0 is success, [`TRY_LATER`] asks for a pause, anything else is a failure.
//!
//! What does not belong here: what the bytes in its pipes mean.

mod pipes;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::telemetry::Pulse;
use crate::units::Span;
use pipes::{Flow, Moving};

/// The exit code by which a command says 'try later': `EX_TEMPFAIL` of sysexits.h.
pub const TRY_LATER: i32 = 75;

/// How long a group has between TERM and KILL.
const GRACE: Duration = Duration::from_secs(5);

/// How often a running command is looked at.
const WATCH: Duration = Duration::from_millis(50);

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

    /// What a command knows of the world: nothing of systemd's sockets, nor of anybody's secrets.
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
    /// Writes the input; returning closes the pipe.
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
/// `Bad` when it fails or takes too long, `Transient` when it asks for a pause or cannot be
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
    let mut child = command.spawn(directory, about).map_err(Failure::Transient)?;
    let group = Pid::from_child(&child);
    let flow = Flow::default();
    let watch = Watch::new(command, bounds, group, &flow);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pumped = std::thread::scope(|scope| -> Result<_> {
        let no_thread = |error: io::Error| {
            watch.signal(Signal::KILL);
            watch.done();
            Failure::Transient(anyhow::Error::from(error).context("start a thread"))
        };
        let thread = std::thread::Builder::new;
        thread().spawn_scoped(scope, || watch.until_done(pulse)).map_err(no_thread)?;
        let feeding = || {
            let mut pipe = Moving { pipe: stdin, flow: &flow };
            pipe.never_wait_in_a_write();
            (ends.feed)(&mut pipe)
        };
        let feed = thread().spawn_scoped(scope, feeding).map_err(no_thread)?;
        let complaining = || complaints(Moving { pipe: stderr, flow: &flow }, ends.complain);
        let complain = thread().spawn_scoped(scope, complaining).map_err(no_thread)?;
        let collected = (ends.collect)(Box::new(Moving { pipe: stdout, flow: &flow }));
        if collected.is_err() {
            watch.kill_now();
        }
        if bounds == Bounds::Stream {
            pulse.has_enough();
        }
        let feeding =
            feed.join().unwrap_or_else(|_| Err(Failure::fatal("the feeding thread died")));
        let complained = complain.join();
        watch.done();
        Ok((collected, feeding, complained))
    });
    let status = child.wait().context("wait for the command").map_err(Failure::Transient)?;
    let (collected, feeding, complained) = pumped?;
    let tail = complained.unwrap_or_else(|_| Err(Failure::fatal("the stderr thread died")))?;
    watch.verdict(pulse)?;
    feeding?;
    collected?;
    judge(command, status, &tail)
}

/// What the exit status means.
fn judge(command: &Command, status: ExitStatus, tail: &[u8]) -> Result<()> {
    let how = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(TRY_LATER), _) => {
            let error = anyhow::anyhow!("{} asked to be tried later", command.name());
            return Err(Failure::Transient(error));
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
    let (mut line, mut tail) = (Vec::new(), Vec::new());
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

/// Watches a running command, and ends its group when it must.
struct Watch<'a> {
    command: &'a Command,
    bounds: Bounds,
    group: Pid,
    flow: &'a Flow,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    done: bool,
    kill: bool,
    overrun: Option<String>,
}

impl<'a> Watch<'a> {
    fn new(command: &'a Command, bounds: Bounds, group: Pid, flow: &'a Flow) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Self { command, bounds, group, flow, state, changed }
    }

    fn done(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).done = true;
        self.changed.notify_all();
    }

    fn kill_now(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).kill = true;
        self.changed.notify_all();
    }

    /// Runs until the pipes are closed; then nothing of the group is left.
    fn until_done(&self, pulse: &Pulse) {
        let started = Instant::now();
        let mut active = (started, 0);
        let mut killing: Option<Instant> = None;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.done {
            (state, _) =
                self.changed.wait_timeout(state, WATCH).unwrap_or_else(PoisonError::into_inner);
            let moved = self.flow.moved.load(Ordering::Relaxed);
            if moved != active.1 {
                active = (Instant::now(), moved);
            }
            pulse.beat();
            match killing {
                Some(since) if since.elapsed() > self.grace() => {
                    self.signal(Signal::KILL);
                    // What has left the group may hold the pipes for ever.
                    self.flow.given_up.store(true, Ordering::Relaxed);
                }
                Some(_) => {}
                None => {
                    state.overrun = self.overrun(started, active.0);
                    let orphaned = self.has_exited() && active.0.elapsed() > GRACE / 5;
                    if state.kill || orphaned || state.overrun.is_some() || pulse.must_stop() {
                        self.signal(Signal::TERM);
                        killing = Some(Instant::now());
                    }
                }
            }
        }
        drop(state);
        self.finish_group(pulse);
    }

    /// Waits for the command itself, which has closed its pipes, and kills what it left behind.
    fn finish_group(&self, pulse: &Pulse) {
        let closed = Instant::now();
        while !self.has_exited() {
            pulse.beat();
            if closed.elapsed() > self.command.idle_timeout.0.max(GRACE) || pulse.must_stop() {
                self.signal(Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // The command is not reaped yet, so that no other group can have its number.
        self.signal(Signal::KILL);
    }

    /// How long after TERM the KILL comes; there is nobody to wait for when the command has ended.
    fn grace(&self) -> Duration {
        if self.has_exited() { GRACE / 20 } else { GRACE }
    }

    fn overrun(&self, started: Instant, active: Instant) -> Option<String> {
        let Command { timeout, idle_timeout, .. } = self.command;
        if self.bounds == Bounds::Stream {
            return None;
        }
        let said = |what, limit| {
            let limit = humantime::format_duration(limit);
            Some(format!("{} {what} within {limit}", self.command.name()))
        };
        if started.elapsed() > timeout.0 {
            said("did not finish", timeout.0)
        } else if active.elapsed() > idle_timeout.0 {
            said("moved no byte", idle_timeout.0)
        } else {
            None
        }
    }

    fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(rustix::process::waitid(WaitId::Pid(self.group), options), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        // The group may be gone already, which is what was wanted.
        let _ = rustix::process::kill_process_group(self.group, signal);
    }

    /// The failure that the watch itself brought about.
    fn verdict(&self, pulse: &Pulse) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.overrun {
            Some(overrun) => Err(Failure::Bad(overrun.clone())),
            None if pulse.must_stop() && self.bounds == Bounds::Microbatch => Err(Failure::Stopped),
            None => Ok(()),
        }
    }
}
