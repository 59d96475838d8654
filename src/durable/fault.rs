//! Faults for the tests: count every durable operation, and fail, skip or abort at a chosen one.
//!
//! Only a build with debug assertions has the switch; in a release build [`before`] is a constant.
//! It is set by the environment of the child process that a test starts:
//! - `SPOOLMILL_TRACE=FILE` appends one JSON line for each operation, with what it would do;
//! - `SPOOLMILL_FAULT=abort:N` aborts before the N-th operation (from 1), `half:N` after half of it;
//! - `SPOOLMILL_FAULT=fail:KIND:ERRNO:N` lets the N-th operation of that kind, or of that site, fail,
//!   `N+` it and every later one;
//! - `SPOOLMILL_FAULT=unsynced:N` aborts within the N-th commit: it is in the log, and not yet synced;
//! - `SPOOLMILL_PINS=DIR` keeps what is removed under the number of its inode, so that no other file gets it;
//! - `SPOOLMILL_SOURCE=log` reads the drop folder as partitions of messages (`source/log.rs`);
//! - `SPOOLMILL_SINK=log` takes the output for a remote target (`sink/log.rs`);
//! - several faults stand one after the other, with commas between them;
//! - `SPOOLMILL_MUTANT=no-sync:SITE` leaves the fsyncs of that site out; [`mutant`] serves others.

#[cfg(not(debug_assertions))]
use std::io;
use std::path::Path;

/// The kinds of durable operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Opening something that exists.
    Open,
    /// A new file or directory.
    Create,
    /// Bytes written.
    Write,
    /// fsync of a file.
    Sync,
    /// fsync of a directory.
    SyncDir,
    /// A rename.
    Rename,
    /// A hard link.
    Link,
    /// A name removed.
    Unlink,
    /// A commit of the ledger.
    Commit,
    /// A source is told that messages are committed.
    Acknowledge,
    /// Something is sent to a remote target, or its answer comes.
    Send,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Open => "open",
            Self::Create => "create",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::SyncDir => "sync directory",
            Self::Rename => "rename",
            Self::Link => "link",
            Self::Unlink => "remove",
            Self::Commit => "commit",
            Self::Acknowledge => "acknowledge",
            Self::Send => "send",
        })
    }
}

/// How the caller has to carry out its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Proceed,
    /// Leave it out and report success.
    Skip,
    /// Do half of it, then abort the process.
    HalfThenAbort,
    /// Do it without its sync, then abort the process.
    UnsyncedThenAbort,
}

/// The operation with its operands, for the trace that the file system model replays.
#[derive(Debug)]
pub enum Act<'a> {
    /// A new file.
    Create(&'a Path),
    /// A new directory.
    MakeDir(&'a Path),
    /// Bytes written to a file at an offset.
    Write(&'a Path, u64, &'a [u8]),
    /// fsync of a file.
    Sync(&'a Path),
    /// fsync of a directory.
    SyncDir(&'a Path),
    /// A rename from the first to the second.
    Rename(&'a Path, &'a Path),
    /// A second name for the first.
    Link(&'a Path, &'a Path),
    /// A name removed.
    Unlink(&'a Path),
    /// A transaction of the ledger file: what `PRAGMA synchronous` says (below 2 a commit may be
    /// forgotten), and the image of the database with the transaction in it.
    Commit(&'a Path, i64, Vec<u8>),
    /// Bytes written at an offset to a file that stands for another system: no power cut here takes them back.
    Remote(&'a Path, u64, &'a [u8]),
}

/// Asked before each durable operation.
#[cfg(not(debug_assertions))]
#[inline]
pub fn before<'a>(
    _operation: Operation,
    _site: &'static str,
    _act: impl FnOnce() -> Act<'a>,
) -> io::Result<Verdict> {
    Ok(Verdict::Proceed)
}

/// Told after a commit of the ledger, for the trace: [`before`] leaves it out, because the image
/// that is to be kept is the one after it.
#[cfg(not(debug_assertions))]
#[inline]
pub fn committed<'a>(_act: impl FnOnce() -> Act<'a>) {}

/// True when a test-only source or sink takes the place of the job's: `SPOOLMILL_SOURCE=log`.
#[cfg(debug_assertions)]
pub fn is_replaced(variable: &str, by: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| value == by)
}

/// True when the test-only mutant `name` is switched on.
#[cfg(not(debug_assertions))]
#[inline]
pub fn mutant(_name: &str) -> bool {
    false
}

#[cfg(debug_assertions)]
pub use switched::{before, committed, mutant};

#[cfg(debug_assertions)]
mod switched {
    use super::{Act, Operation, Verdict};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use std::fs::File;
    use std::io::{self, Write as _};
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::{Path, PathBuf};
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::{Duration, Instant};

    enum Plan {
        Nothing,
        AbortAt { number: u64, half: bool },
        AbortWithin { commit: u64 },
        Fail { operation: String, errno: i32, from: u64, forever: bool },
    }

    struct Switch {
        plans: Vec<Plan>,
        mutants: Vec<String>,
        trace: Option<Mutex<File>>,
        pins: Option<PathBuf>,
        counts: Mutex<Counts>,
    }

    #[derive(Default)]
    struct Counts {
        all: u64,
        /// Of the failing kind, one for each plan.
        of_kind: Vec<u64>,
    }

    static SWITCH: LazyLock<Switch> = LazyLock::new(|| Switch {
        plans: std::env::var("SPOOLMILL_FAULT")
            .map(|list| list.split(',').map(plan).collect())
            .unwrap_or_default(),
        mutants: std::env::var("SPOOLMILL_MUTANT")
            .map(|list| list.split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
        trace: std::env::var_os("SPOOLMILL_TRACE").map(|path| {
            let file = File::options().append(true).create(true).open(path);
            Mutex::new(file.expect("the trace file can be opened"))
        }),
        pins: std::env::var_os("SPOOLMILL_PINS").map(PathBuf::from),
        counts: Mutex::new(Counts::default()),
    });

    fn plan(text: &str) -> Plan {
        let words: Vec<&str> = text.split(':').collect();
        match words.as_slice() {
            [how @ ("abort" | "half"), number] => Plan::AbortAt {
                number: number.parse().expect("a number of operations"),
                half: *how == "half",
            },
            ["unsynced", number] => {
                Plan::AbortWithin { commit: number.parse().expect("a number of commits") }
            }
            ["fail", operation, errno, from] => Plan::Fail {
                operation: (*operation).to_owned(),
                errno: errno.parse().expect("an errno"),
                from: from.trim_end_matches('+').parse().expect("a number of operations"),
                forever: from.ends_with('+'),
            },
            _ => Plan::Nothing,
        }
    }

    /// True when the test-only mutant `name` is switched on.
    pub fn mutant(name: &str) -> bool {
        SWITCH.mutants.iter().any(|mutant| mutant == name)
    }

    /// Asked before each durable operation.
    pub fn before<'a>(
        operation: Operation,
        site: &'static str,
        act: impl FnOnce() -> Act<'a>,
    ) -> io::Result<Verdict> {
        let synced = matches!(operation, Operation::Sync | Operation::SyncDir);
        if synced && mutant(&format!("no-sync:{site}")) {
            return Ok(Verdict::Skip);
        }
        let mut counts = SWITCH.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all += 1;
        let all = counts.all;
        counts.of_kind.resize(SWITCH.plans.len(), 0);
        for (plan, of_kind) in SWITCH.plans.iter().zip(&mut counts.of_kind) {
            match plan {
                Plan::AbortAt { number, half } if *number == all => {
                    wait_for_other_threads();
                    if *half && operation == Operation::Write {
                        std::mem::forget(counts);
                        return Ok(Verdict::HalfThenAbort);
                    }
                    std::process::abort()
                }
                Plan::AbortWithin { commit } if operation == Operation::Commit => {
                    *of_kind += 1;
                    if *of_kind == *commit {
                        wait_for_other_threads();
                        std::mem::forget(counts);
                        return Ok(Verdict::UnsyncedThenAbort);
                    }
                }
                Plan::Fail { operation: kind, errno, from, forever }
                    if *kind == operation.to_string().replace(' ', "-")
                        || *kind == site.replace(' ', "-") =>
                {
                    *of_kind += 1;
                    if *of_kind == *from || (*forever && *of_kind > *from) {
                        return Err(io::Error::from_raw_os_error(*errno));
                    }
                }
                _ => {}
            }
        }
        if operation != Operation::Commit {
            trace(site, act);
        }
        Ok(Verdict::Proceed)
    }

    /// Lets the operations that other threads are in come to their end: the trace has them already. The caller
    /// holds the lock of the counts, so a thread that sleeps now is in none, and comes to no other.
    fn wait_for_other_threads() {
        let own = format!("{}", rustix::thread::gettid().as_raw_nonzero());
        let sleeps = |task: &Path| {
            let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with('S'))
        };
        let is_quiet = || {
            let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
            tasks.map(|task| task.path()).all(|task| task.ends_with(&own) || sleeps(&task))
        };
        let start = Instant::now();
        while !is_quiet() && start.elapsed() < Duration::from_secs(2) {
            std::thread::yield_now();
        }
    }

    /// Told after a commit of the ledger, for the trace.
    pub fn committed<'a>(act: impl FnOnce() -> Act<'a>) {
        trace("ledger", act);
    }

    fn trace<'a>(site: &str, act: impl FnOnce() -> Act<'a>) {
        if SWITCH.trace.is_none() && SWITCH.pins.is_none() {
            return;
        }
        let act = act();
        let removed = match &act {
            Act::Unlink(path) => Some(path),
            Act::Rename(_, path) if site == "replace" => Some(path),
            _ => None,
        };
        if let (Some(pins), Some(path)) = (&SWITCH.pins, removed) {
            // What is no regular file, or is gone, has no inode that matters.
            let _ = rustix::fs::link(*path, pins.join(inode(path).to_string()));
        }
        if let Some(trace) = &SWITCH.trace {
            let line = line(site, &act);
            let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
            trace.write_all(line.as_bytes()).expect("the trace file can be written");
        }
    }

    fn inode(path: &Path) -> u64 {
        path.symlink_metadata().map_or(0, |metadata| metadata.ino())
    }

    fn line(site: &str, act: &Act<'_>) -> String {
        let name = |path: &Path| BASE64.encode(path.as_os_str().as_bytes());
        let mut line = match act {
            Act::Create(path) => serde_json::json!({"op": "create", "path": name(path)}),
            Act::MakeDir(path) => serde_json::json!({"op": "mkdir", "path": name(path)}),
            Act::Write(path, offset, bytes) => serde_json::json!({
                "op": "write", "path": name(path), "offset": offset, "bytes": BASE64.encode(bytes)
            }),
            Act::Sync(path) => serde_json::json!({"op": "sync", "path": name(path)}),
            Act::SyncDir(path) => serde_json::json!({"op": "syncdir", "path": name(path)}),
            Act::Rename(from, to) => {
                serde_json::json!({"op": "rename", "path": name(from), "to": name(to)})
            }
            Act::Link(from, to) => {
                serde_json::json!({"op": "link", "path": name(from), "to": name(to)})
            }
            Act::Unlink(path) => {
                serde_json::json!({"op": "unlink", "path": name(path), "inode": inode(path)})
            }
            Act::Remote(path, offset, bytes) => serde_json::json!({
                "op": "remote", "path": name(path), "offset": offset, "bytes": BASE64.encode(bytes)
            }),
            Act::Commit(path, synchronous, image) => serde_json::json!({
                "op": "commit", "path": name(path), "synchronous": synchronous,
                "bytes": BASE64.encode(image)
            }),
        };
        if let Some(fields) = line.as_object_mut() {
            fields.insert("site".to_owned(), site.into());
        }
        format!("{line}\n")
    }
}
