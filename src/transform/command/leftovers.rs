//! Processes that a command has started and left running.
//!
//! Invariants: whatever a command starts becomes a child of this process when its own parent ends, also
//! where it has left the group (prctl(2), `PR_SET_CHILD_SUBREAPER`). So it can be found, ended and reaped, as
//! process 1 of a container too; and what is not of a command is reaped, but never ended. What has left its
//! group may serve other commands (an agent): it is ended when none runs any more.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Child;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

/// How long what was killed may take to end.
const DYING: Duration = Duration::from_secs(1);

/// Running commands: the thread that started one waits for it.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Whatever a command starts has this in its environment.
const MARK: &[u8] = b"SPOOLMILL_PATH=";

/// From now on what a command leaves behind comes to this process.
pub fn adopt() {
    static ADOPTED: Once = Once::new();
    ADOPTED.call_once(|| {
        let own = rustix::process::getpid();
        if let Err(error) = rustix::process::set_child_subreaper(Some(own)) {
            tracing::debug!(%error, "what a command leaves behind goes to process 1");
        }
    });
}

/// A command that runs, until this is dropped.
pub struct Running(Pid);

impl Running {
    /// Starts it: before it is known here, nobody may wait for it.
    pub fn start<E>(spawn: impl FnOnce() -> Result<Child, E>) -> Result<(Child, Self), E> {
        let mut running = running();
        let child = spawn()?;
        let pid = Pid::from_child(&child);
        running.insert(pid.as_raw_nonzero().get());
        Ok((child, Self(pid)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        running().remove(&self.0.as_raw_nonzero().get());
    }
}

fn running() -> std::sync::MutexGuard<'static, BTreeSet<i32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which processes are of a command: those of its group.
#[derive(Clone, Copy)]
pub struct Family {
    /// The process group.
    pub group: Pid,
}

impl Family {
    fn has(self, pid: Pid) -> bool {
        rustix::process::getpgid(Some(pid)) == Ok(self.group)
    }

    /// Ends and reaps them all; when no command runs any more, also what has left its group.
    pub fn end(self) {
        let begun = Instant::now();
        let mut signal = Signal::TERM;
        loop {
            let is_last = !is_running();
            let mut is_any = false;
            for pid in left() {
                let is_stray = is_last && is_marked(pid);
                let how = if self.has(pid) { Signal::KILL } else { signal };
                if self.has(pid) || is_stray {
                    is_any = true;
                    // It may have ended already.
                    let _ = rustix::process::kill_process(pid, how);
                } else if is_last && is_in_exec(pid) {
                    is_any = true;
                }
            }
            reap();
            if !is_any || begun.elapsed() > DYING {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
            if begun.elapsed() > DYING / 4 {
                signal = Signal::KILL;
            }
        }
    }
}

/// Processes that have outlived their parents, with all their descendants.
fn left() -> Vec<Pid> {
    with_descendants(strays())
}

fn with_descendants(mut left: Vec<Pid>) -> Vec<Pid> {
    let mut at = 0;
    while let Some(pid) = left.get(at).copied() {
        left.extend(children_of(pid.as_raw_nonzero().get()));
        at += 1;
    }
    left
}

/// True while something that a command has left running holds the pipe of this inode.
pub fn holds(pipe: u64) -> bool {
    let name = format!("pipe:[{pipe}]");
    left().into_iter().any(|pid| has_open(pid, &name))
}

/// True for what a command has started, as far as its environment says.
fn is_marked(pid: Pid) -> bool {
    let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()));
    environment.unwrap_or_default().split(|byte| *byte == 0).any(|of| of.starts_with(MARK))
}

/// True for a process within execve(2): nobody can read its environment yet. The kernel says that one has
/// been set up by giving its bounds (`env_start` and `env_end` in `proc_pid_stat(5)`).
fn is_in_exec(pid: Pid) -> bool {
    /// Fields are counted from 1. The state comes after the name, as field 3.
    const ENV_START: usize = 50 - 3;
    let of = format!("/proc/{}", pid.as_raw_nonzero());
    // Another user's may not be read, and its fields are 0 as well.
    if !std::fs::read(format!("{of}/environ")).is_ok_and(|all| all.is_empty()) {
        return false;
    }
    let stat = std::fs::read_to_string(format!("{of}/stat")).unwrap_or_default();
    // The name may hold anything.
    let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
    let mut fields = fields.split_whitespace();
    let is_zombie = fields.next() == Some("Z");
    let mut bounds = fields.skip(ENV_START - 1);
    let (Some(start), Some(end)) = (bounds.next(), bounds.next()) else { return false };
    // It may have been set up since the first read: then they differ.
    !is_zombie && (end == "0" || start != end)
}

fn has_open(pid: Pid, name: &str) -> bool {
    let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()));
    let mut links = open.into_iter().flatten().flatten();
    links.any(|link| std::fs::read_link(link.path()).is_ok_and(|to| to.as_os_str() == name))
}

/// True while a command runs.
pub fn is_running() -> bool {
    !running().is_empty()
}

/// Ends all commands that run, and whatever they have started: the process is about to end.
pub fn end_all() {
    // A thread that starts one may hold this for long.
    let groups: Vec<_> = match RUNNING.try_lock() {
        Ok(running) => running.iter().copied().filter_map(Pid::from_raw).collect(),
        Err(_) => Vec::new(),
    };
    for group in groups {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let begun = Instant::now();
    // A killed process takes a moment to end, and its children another to come here.
    while begun.elapsed() < DYING / 4 {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let all = with_descendants(children_of(own));
        let is_marked = |pid: &&Pid| is_marked(**pid);
        for pid in all.iter().filter(is_marked) {
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        if !all.iter().any(|pid| is_marked(&pid) || is_in_exec(*pid)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for whatever has ended and has nobody else who waits for it.
pub fn reap() {
    for pid in strays() {
        // One that is still running stays.
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// The children of this process that nobody here has started. The kernel gives them to its first thread
/// (`find_new_reaper` in kernel/exit.c), which is there to its end.
fn strays() -> Vec<Pid> {
    let running = running();
    let own = rustix::process::getpid().as_raw_nonzero();
    children_in(Path::new(&format!("/proc/{own}/task/{own}")))
        .into_iter()
        .filter(|pid| !running.contains(&pid.as_raw_nonzero().get()))
        .collect()
}

/// The children of a process; none where the kernel does not tell (`CONFIG_PROC_CHILDREN`).
fn children_of(pid: i32) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.flat_map(|thread| children_in(&thread.path())).collect()
}

fn children_in(thread: &Path) -> Vec<Pid> {
    let list = std::fs::read_to_string(thread.join("children")).unwrap_or_default();
    let numbers = list.split_whitespace().filter_map(|number| number.parse().ok());
    numbers.filter_map(Pid::from_raw).collect()
}
