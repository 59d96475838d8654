//! What a command has started and left running.
//!
//! What holds here: whatever a command starts becomes a child of this process when its own parent ends, also
//! where it has left the group (prctl(2), `PR_SET_CHILD_SUBREAPER`). So it can be found, ended and reaped, as
//! process 1 of a container too; and what is not of a command is reaped, but never ended.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Child;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

/// How long what was killed may take to end.
const DYING: Duration = Duration::from_secs(1);

/// Commands that run: whoever has started them waits for them.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

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

/// Which processes are of a command: those of its group, and those that know the path of its input.
#[derive(Clone, Copy)]
pub struct Family<'a> {
    /// The process group.
    pub group: Pid,
    /// `SPOOLMILL_PATH` in their environment.
    pub path: &'a OsStr,
}

impl Family<'_> {
    /// Those that have outlived their parents, and what these have started.
    fn left(self) -> Vec<Pid> {
        let mut left = strays();
        let mut at = 0;
        while let Some(pid) = left.get(at).copied() {
            left.extend(children_of(pid.as_raw_nonzero().get()));
            at += 1;
        }
        left.retain(|pid| self.has(*pid));
        left
    }

    fn has(self, pid: Pid) -> bool {
        if rustix::process::getpgid(Some(pid)) == Ok(self.group) {
            return true;
        }
        let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()));
        let wanted = [b"SPOOLMILL_PATH=", self.path.as_bytes()].concat();
        environment.unwrap_or_default().split(|byte| *byte == 0).any(|of| of == wanted)
    }

    /// True while one of them holds the pipe of this inode.
    pub fn holds(self, pipe: u64) -> bool {
        let name = format!("pipe:[{pipe}]");
        self.left().into_iter().any(|pid| {
            let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()));
            let links = open.into_iter().flatten().flatten();
            links.into_iter().any(|link| {
                std::fs::read_link(link.path()).is_ok_and(|to| to.as_os_str() == name.as_str())
            })
        })
    }

    /// Ends and reaps them all.
    pub fn end(self) {
        let begun = Instant::now();
        loop {
            for pid in self.left() {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            reap();
            if self.left().is_empty() || begun.elapsed() > DYING {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Ends the groups of all commands that run.
pub fn end_all() {
    let groups = running().iter().copied().filter_map(Pid::from_raw).collect::<Vec<_>>();
    for group in groups {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// Waits for whatever has ended and has nobody else who waits for it.
pub fn reap() {
    for pid in strays() {
        // One that is still running stays.
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// The children of this process that nobody here has started.
fn strays() -> Vec<Pid> {
    let running = running();
    let own = children_of(rustix::process::getpid().as_raw_nonzero().get());
    own.into_iter().filter(|pid| !running.contains(&pid.as_raw_nonzero().get())).collect()
}

/// The children of a process; none where the kernel does not tell (`CONFIG_PROC_CHILDREN`).
fn children_of(pid: i32) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let numbers: Vec<i32> = lists
        .flat_map(|list| list.split_whitespace().map(str::parse).collect::<Vec<_>>())
        .flatten()
        .collect();
    numbers.into_iter().filter_map(Pid::from_raw).collect()
}
