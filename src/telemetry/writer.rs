//! How lines get to standard error.
//!
//! Invariants: a log that nobody reads holds up nothing. A line that its reader does not take within a
//! second is left out, and so are the next ones until it takes some; how many is said then.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a reader is waited for, as long as it took the line before.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// No waiting.
const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Bytes that a writable pipe takes at once without waiting (`PIPE_BUF` of limits.h).
const PIECE: usize = 4096;

/// Lines that were left out since the last one that was taken.
static LOST: Mutex<u64> = Mutex::new(0);

/// Writes whole lines.
pub fn write(line: &[u8]) {
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    let patience = if *lost == 0 { PATIENCE } else { NO_TIME };
    if !is_taken(&patience) {
        *lost += 1;
        return;
    }
    let said = match std::mem::take(&mut *lost) {
        0 => String::new(),
        lost => format!("{lost} lines of the log were not read, and are left out\n"),
    };
    let pieces = [said.as_bytes(), line].into_iter().flat_map(|bytes| bytes.chunks(PIECE));
    for (number, piece) in pieces.enumerate() {
        // There is nowhere left to say that this failed.
        if number > 0 && !is_taken(&PATIENCE) || io::stderr().write_all(piece).is_err() {
            return;
        }
    }
}

fn is_taken(patience: &Timespec) -> bool {
    static NEVER_WAITS: LazyLock<bool> = LazyLock::new(|| {
        rustix::fs::fstat(io::stderr()).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
        })
    });
    if *NEVER_WAITS {
        return true;
    }
    let stderr = io::stderr();
    let mut fds = [PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::OUT)];
    poll(&mut fds, Some(patience)).is_ok_and(|ready| ready > 0)
}

/// One event of the log, which is written when it is whole.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            write(&self.0);
        }
    }
}
