//! Standard input, output and error, and whatever else a verb reads or writes that may be a pipe.
//!
//! Invariants: no call waits for ever, so that a signal is heard; a descriptor that does not block is
//! waited for; who leaves is told apart by the descriptor. Only the reader of the output may end a verb
//! quietly.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use crate::pulse::{Pulse, stopped};

/// How long one wait is; then the stop flag is looked at.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The most that a pipe takes at once without waiting, when it takes anything (`PIPE_BUF` of limits.h).
const PIECE: usize = 4096;

/// Who was to read the output is gone.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output has left")]
pub struct ReaderLeft;

/// That the reader left may end the work, and is no error.
pub fn quiet_if_reader_left(result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if is_reader_left(&error) => Ok(()),
        result => result,
    }
}

fn is_reader_left(error: &anyhow::Error) -> bool {
    let is_it = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<io::Error>();
        cause.is::<ReaderLeft>()
            || io
                .and_then(io::Error::get_ref)
                .is_some_and(<dyn std::error::Error + Send + Sync>::is::<ReaderLeft>)
    };
    error.chain().any(is_it)
}

/// A descriptor that is written to, and never waited for without an eye on the stop flag.
#[derive(Debug)]
pub struct Output {
    file: File,
    pulse: Pulse,
    /// At most so much at once.
    piece: usize,
    is_for_reader: bool,
}

impl Output {
    /// Standard output. When its reader leaves, that is [`ReaderLeft`].
    pub fn stdout(pulse: &Pulse) -> io::Result<Self> {
        let own = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self { is_for_reader: true, ..Self::of(own, pulse) })
    }

    /// Standard error. When its reader leaves, what is written is lost, and nothing else.
    pub fn stderr(pulse: &Pulse) -> io::Result<Self> {
        Ok(Self::of(File::from(io::stderr().as_fd().try_clone_to_owned()?), pulse))
    }

    /// The device or pipe at `path`, which stands for standard output.
    pub fn open(path: &Path, pulse: &Pulse) -> io::Result<Self> {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        loop {
            match File::options().write(true).custom_flags(flags).open(path) {
                // A pipe that nobody reads yet.
                Err(error) if error.raw_os_error() == Some(libc::ENXIO) && is_fifo(path) => {
                    if pulse.must_stop() {
                        return Err(stopped());
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                file => return Ok(Self { is_for_reader: true, ..Self::of(file?, pulse) }),
            }
        }
    }

    fn of(file: File, pulse: &Pulse) -> Self {
        let kind = file.metadata().map(|metadata| metadata.file_type());
        let is_pipe = kind.as_ref().is_ok_and(FileTypeExt::is_fifo);
        let waits = is_pipe || kind.is_ok_and(|kind| kind.is_socket() || kind.is_char_device());
        // Its own way to the pipe, so that nobody else's descriptor changes.
        let unblocked = is_pipe
            .then(|| {
                let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                File::options().write(true).custom_flags(flags).open(path).ok()
            })
            .flatten();
        let piece = if waits && unblocked.is_none() { PIECE } else { usize::MAX };
        Self { file: unblocked.unwrap_or(file), pulse: pulse.clone(), piece, is_for_reader: false }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let some = bytes.get(..self.piece).unwrap_or(bytes);
        loop {
            if !waited(&self.file, PollFlags::OUT, &self.pulse)? {
                continue;
            }
            match self.file.write(some) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    if self.is_for_reader {
                        return Err(io::Error::new(ErrorKind::BrokenPipe, ReaderLeft));
                    }
                    return Ok(bytes.len());
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A descriptor that is read from, and never waited for without an eye on the stop flag. It ends when nothing
/// wants more of it.
#[derive(Debug)]
pub struct Input {
    file: File,
    pulse: Pulse,
}

impl Input {
    /// Standard input.
    pub fn stdin(pulse: &Pulse) -> io::Result<Self> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Self { file, pulse: pulse.clone() })
    }

    /// The file at `path`, or `-` for standard input. A pipe that nobody writes to yet is no end.
    pub fn open(path: &Path, pulse: &Pulse) -> io::Result<Self> {
        if path == Path::new("-") {
            return Self::stdin(pulse);
        }
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        Ok(Self { file, pulse: pulse.clone() })
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.pulse.wants_more() {
            if !waited(&self.file, PollFlags::IN, &self.pulse)? {
                continue;
            }
            match self.file.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                got => return got,
            }
        }
        Ok(0)
    }
}

/// Waits for a moment; true when the call would not wait any more.
fn waited(file: &File, what: PollFlags, pulse: &Pulse) -> io::Result<bool> {
    if pulse.must_stop() {
        return Err(stopped());
    }
    pulse.beat();
    Ok(is_ready(file.as_fd(), what, LOOK))
}

/// True when a call would not wait, or would not after this time.
pub fn is_ready(fd: BorrowedFd<'_>, what: PollFlags, patience: Timespec) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, what)];
    // Should the question fail, the call itself will say why.
    poll(&mut fds, Some(&patience))
        .map_or_else(|errno| errno != rustix::io::Errno::INTR, |ready| ready > 0)
}

/// Refuses to write to a file that is read: there would be no end.
pub fn refuse_own_output(inputs: &[(&File, &Path)]) -> anyhow::Result<()> {
    let id = |file: BorrowedFd<'_>| {
        let stat = rustix::fs::fstat(file).ok()?;
        let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        is_file.then_some((stat.st_dev, stat.st_ino))
    };
    for (output, name) in
        [(id(io::stdout().as_fd()), "output"), (id(io::stderr().as_fd()), "error")]
    {
        let same = inputs.iter().find(|(input, _)| output.is_some() && id(input.as_fd()) == output);
        if let Some((_, path)) = same {
            anyhow::bail!(
                "{} is an input, and standard {name} leads to it: write to another file",
                crate::telemetry::escaped(path.as_os_str().as_encoded_bytes())
            );
        }
    }
    Ok(())
}

fn is_fifo(path: &Path) -> bool {
    path.metadata().is_ok_and(|there| there.file_type().is_fifo())
}

/// Prints the output of a verb, quietly if its reader has left.
pub fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut output = Output::stdout(&Pulse::default())?;
    quiet_if_reader_left(output.write_all(text).map_err(anyhow::Error::from))
}
