//! The pipes to and from a running command.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// What goes through the pipes of a command, and whether they are given up.
#[derive(Default)]
pub struct Flow {
    /// Bytes moved, in either direction.
    pub moved: AtomicU64,
    /// What still holds the other ends has left the group, and nothing more is expected of it.
    pub given_up: AtomicBool,
}

/// A pipe that counts what moves through it, for the idle limit, and can be given up.
pub struct Moving<'a, P> {
    /// The pipe, until it is given up.
    pub pipe: Option<P>,
    /// What is counted.
    pub flow: &'a Flow,
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

impl<P: Read + AsFd> Read for Moving<'_, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.wait(PollFlags::IN) {
            return Ok(0);
        }
        let got = self.pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(buffer))?;
        self.flow.moved.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

impl<P: Write + AsFd> Write for Moving<'_, P> {
    /// A command may stop reading early, as `head` does: the rest is then swallowed.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.wait(PollFlags::OUT) {
            self.pipe = None;
        }
        let Some(pipe) = self.pipe.as_mut() else { return Ok(bytes.len()) };
        match pipe.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::ErrorKind::Interrupted.into())
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.pipe = None;
                Ok(bytes.len())
            }
            result => {
                let wrote = result?;
                self.flow.moved.fetch_add(wrote as u64, Ordering::Relaxed);
                Ok(wrote)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.as_mut().map_or(Ok(()), Write::flush)
    }
}
