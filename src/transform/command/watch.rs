//! The time limits of a running command, and its end.
//!
//! Invariants: time counts while the command could work. It does not while this side is busy with what
//! goes through the pipes, nor while the machine or this process was halted. A command is done when it has
//! exited and all that it has started has closed its pipes, or when a limit has ended it; then nothing of its
//! group is left.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::leftovers::{self, Family};
use super::pipes::Flow;
use super::{Bounds, Command};
use crate::failure::{Failure, Result};
use crate::pulse::Pulse;

/// How long a group has between TERM and KILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// How often a running command is looked at.
const WATCH: Duration = Duration::from_millis(50);

/// How often one is whose pipes are closed, where the kernel does not say that it has exited.
const CLOSED: Duration = Duration::from_millis(1);

/// Watches a running command, and ends its group when it must.
pub struct Watch<'a> {
    command: &'a Command,
    bounds: Bounds,
    family: Family,
    /// Readable when the command has exited (`pidfd_open(2)`); none where the kernel has no such thing.
    exit: Option<OwnedFd>,
    /// The inode of the pipe that it reads.
    input: u64,
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

/// How long the command could have worked.
struct Spent {
    looked: Instant,
    moved: u64,
    all: Duration,
    /// Since a byte moved.
    idle: Duration,
}

impl Spent {
    fn look(&mut self, flow: &Flow) {
        // A longer step was none of the command's: nobody was looking.
        let passed = self.looked.elapsed().min(WATCH * 4);
        self.looked = Instant::now();
        let moved = flow.moved.load(Ordering::Relaxed);
        let has_moved = moved != std::mem::replace(&mut self.moved, moved);
        if has_moved {
            self.idle = Duration::ZERO;
        }
        // Where bytes move the command works, however busy this side is.
        if has_moved || flow.is_awaited() {
            self.all += passed;
        }
        if flow.is_awaited() {
            self.idle += passed;
        }
    }
}

impl<'a> Watch<'a> {
    /// Of a command that has just been started.
    pub fn new(
        command: &'a Command,
        bounds: Bounds,
        family: Family,
        input: u64,
        flow: &'a Flow,
    ) -> Self {
        let exit = rustix::process::pidfd_open(family.group, PidfdFlags::empty()).ok();
        let state = Mutex::default();
        let changed = Condvar::new();
        Self { command, bounds, family, exit, input, flow, state, changed }
    }

    /// The pipes are closed on this side.
    pub fn done(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).done = true;
        self.changed.notify_all();
    }

    /// Its output is not wanted any more.
    pub fn kill_now(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).kill = true;
        self.changed.notify_all();
    }

    /// Runs until all is over; then nothing of the group is left.
    pub fn until_done(&self, pulse: &Pulse) {
        let looked = Instant::now();
        let mut spent = Spent { looked, moved: 0, all: Duration::ZERO, idle: Duration::ZERO };
        let mut killing: Option<Instant> = None;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.done {
                // Nobody else changes the state any more.
                self.wait_for_exit();
            } else {
                (state, _) =
                    self.changed.wait_timeout(state, WATCH).unwrap_or_else(PoisonError::into_inner);
            }
            // What it has started may still read what it was given.
            if state.done && self.has_exited() {
                if killing.is_some() || !leftovers::holds(self.input) {
                    break;
                }
                std::thread::sleep(CLOSED);
            }
            pulse.beat();
            spent.look(self.flow);
            // Nothing waits for the next bytes of a stream any more.
            if self.bounds == Bounds::Stream && self.has_exited() && !leftovers::holds(self.input) {
                pulse.has_enough();
            }
            match killing {
                Some(since) if since.elapsed() > self.grace() => {
                    self.kill();
                    self.family.end();
                    // Whatever holds the pipes now is nobody's.
                    self.flow.given_up.store(true, Ordering::Relaxed);
                }
                Some(_) => {}
                None => {
                    state.overrun = self.overrun(&spent);
                    let is_over = state.overrun.is_some() || self.only_complains(&spent);
                    if state.kill || is_over || pulse.must_stop() {
                        self.signal(Signal::TERM);
                        killing = Some(Instant::now());
                    }
                }
            }
        }
        drop(state);
        // The command is not reaped yet, so that no other group can have its number.
        self.kill();
    }

    /// How long after TERM the KILL comes; there is nobody to wait for when the command has ended.
    fn grace(&self) -> Duration {
        if self.has_exited() { GRACE / 20 } else { GRACE }
    }

    /// The message about a limit that has passed.
    fn overrun(&self, spent: &Spent) -> Option<String> {
        let Command { timeout, idle_timeout, .. } = self.command;
        let has_exited = self.has_exited();
        // A live stream has no limits, but what is left of its command has.
        if self.bounds == Bounds::Stream && !has_exited || self.is_whole() {
            return None;
        }
        let is_long = self.bounds == Bounds::Microbatch && spent.all > timeout.0;
        let limit = if is_long { timeout.0 } else { idle_timeout.0 };
        if !is_long && spent.idle <= limit {
            return None;
        }
        let name = self.command.name();
        let limit = humantime::format_duration(limit);
        Some(match (has_exited, is_long) {
            (false, true) => format!("{name} did not finish within {limit}"),
            (false, false) => format!("{name} moved no byte within {limit}"),
            (true, _) => format!(
                "{name} has ended, and what it started has not closed its pipes within {limit}: what came \
                 out may be a part; let it wait for what it starts, or redirect that"
            ),
        })
    }

    /// True when the command has exited, and nobody reads its input or may write more of its output.
    fn is_whole(&self) -> bool {
        self.flow.closed.load(Ordering::Relaxed)
            && self.flow.fed.load(Ordering::Relaxed)
            && self.has_exited()
            && !leftovers::holds(self.input)
    }

    /// True when what is left only holds its standard error, and has said nothing for the time of the limit.
    fn only_complains(&self, spent: &Spent) -> bool {
        spent.idle > self.command.idle_timeout.0 && self.is_whole()
    }

    /// Waits until the command has exited, at most until it is to be looked at again.
    fn wait_for_exit(&self) {
        if self.has_exited() {
            return;
        }
        match &self.exit {
            Some(exit) => {
                let mut fds = [PollFd::new(exit, PollFlags::IN)];
                let pause = Timespec { tv_sec: 0, tv_nsec: WATCH.subsec_nanos().into() };
                // An error is a look before the time.
                let _ = poll(&mut fds, Some(&pause));
            }
            None => std::thread::sleep(CLOSED),
        }
    }

    fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(rustix::process::waitid(WaitId::Pid(self.family.group), options), Ok(None))
    }

    /// Ends the group at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // The group may be gone already, which is what was wanted.
        let _ = rustix::process::kill_process_group(self.family.group, signal);
    }

    /// The failure that the watch itself brought about.
    pub fn verdict(&self, pulse: &Pulse) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.overrun {
            Some(overrun) => Err(Failure::Bad(overrun.clone())),
            None if pulse.must_stop() && self.bounds == Bounds::Microbatch => Err(Failure::Stopped),
            None => Ok(()),
        }
    }
}
