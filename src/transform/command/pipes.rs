//! The pipes to and from a running command.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Counters of the pipes of a command, and whether they are given up.
#[derive(Default)]
pub struct Flow {
    /// Bytes moved, in either direction.
    pub moved: AtomicU64,
    /// Only processes outside the group still hold the other ends; nothing more is expected of them.
    pub given_up: AtomicBool,
    /// All of its input is written, or nobody reads it any more.
    pub fed: AtomicBool,
    /// Nobody can write to its output any more.
    pub closed: AtomicBool,
    /// The same of its standard error.
    pub said: AtomicBool,
    /// Ends on this side that are busy with something else than their pipes.
    busy: AtomicUsize,
}

impl Flow {
    /// True when this side waits for the command.
    pub fn is_awaited(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }
}

/// A pipe that counts what moves through it, for the idle limit, and can be given up.
pub struct Moving<'a, P> {
    pipe: Option<P>,
    flow: &'a Flow,
    /// Set when nothing more goes through it.
    ended: &'a AtomicBool,
}

impl<'a, P> Moving<'a, P> {
    /// One end of a pipe, whose end is to be noted in `ended`.
    pub fn new(pipe: Option<P>, flow: &'a Flow, ended: &'a AtomicBool) -> Self {
        flow.busy.fetch_add(1, Ordering::Relaxed);
        Self { pipe, flow, ended }
    }

    /// Does what only the command can hold up.
    fn in_the_pipe<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        self.flow.busy.fetch_sub(1, Ordering::Relaxed);
        let done = work(self);
        self.flow.busy.fetch_add(1, Ordering::Relaxed);
        done
    }
}

impl<P> Drop for Moving<'_, P> {
    fn drop(&mut self) {
        self.flow.busy.fetch_sub(1, Ordering::Relaxed);
        self.pipe = None;
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl<P: AsFd> Moving<'_, P> {
    /// Waits until the pipe is ready; false when it is given up.
    fn wait(&self, flags: PollFlags) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        loop {
            let mut fds = [PollFd::new(pipe, flags)];
            match poll(&mut fds, Some(&pause)) {
                Ok(0) | Err(Errno::INTR) if self.flow.given_up.load(Ordering::Relaxed) => {
                    return false;
                }
                Ok(0) | Err(Errno::INTR) => {}
                // Should the question fail, the read or write will say why.
                Ok(_) | Err(_) => return true,
            }
        }
    }

    /// A write that would wait fails, and is tried when the pipe is ready.
    pub fn never_wait_in_a_write(&self) {
        if let Some(pipe) = &self.pipe {
            // If that fails, a write may wait for as long as the command lives.
            let _ = rustix::io::ioctl_fionbio(pipe, true);
        }
    }
}

impl<P: Read + AsFd> Moving<'_, P> {
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.wait(PollFlags::IN) {
            return Ok(0);
        }
        let got = self.pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(buffer))?;
        if got == 0 {
            self.ended.store(true, Ordering::Relaxed);
        }
        self.flow.moved.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

impl<P: Read + AsFd> Read for Moving<'_, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.in_the_pipe(|pipe| pipe.read_now(buffer))
    }
}

impl<P: Write + AsFd> Moving<'_, P> {
    fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.wait(PollFlags::OUT) {
            self.pipe = None;
        }
        let Some(pipe) = self.pipe.as_mut() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        match pipe.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::ErrorKind::Interrupted.into())
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.pipe = None;
                Err(error)
            }
            result => {
                let wrote = result?;
                self.flow.moved.fetch_add(wrote as u64, Ordering::Relaxed);
                Ok(wrote)
            }
        }
    }
}

/// A command may stop reading early, as `head` does: that is a broken pipe.
impl<P: Write + AsFd> Write for Moving<'_, P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.in_the_pipe(|pipe| pipe.write_now(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.as_mut().map_or(Ok(()), Write::flush)
    }
}
