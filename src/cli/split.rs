//! `spoolmill split`: a pipe made durable, as drop files that are complete when they appear.
//!
//! Invariants: a record is never cut; each file is on disk, content and name, before the next
//! one is begun. What was read and is in no file yet is lost in a crash, as in any pipe.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use memchr::memchr;
use rustix::event::{PollFlags, Timespec};

use super::standard::is_ready;
use super::{Misuse, signalled, signals};
use crate::clock::since_1970;
use crate::durable::{self, Dir};
use crate::pulse::Pulse;
use crate::source::folder::rules::{FAILED, PROCESSED};
use crate::units::{Size, Span};

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;

/// A record longer than this is written through before its end is known.
const HELD_BYTES: usize = 16 << 20;

/// How often a wait for input looks at the stop flag.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("limit").required(true).multiple(true)))]
pub struct Split {
    /// Lines in a file
    #[arg(short, long, value_name = "N", group = "limit",
          value_parser = clap::value_parser!(u64).range(1..))]
    lines: Option<u64>,
    /// Bytes in a file, such as 16MiB; a longer record has a file to itself
    #[arg(short = 'C', long = "line-bytes", value_name = "BYTES", group = "limit")]
    bytes: Option<Size>,
    /// Longest time from a file's first record to its end, such as 5s
    #[arg(short, long = "time", value_name = "DURATION", group = "limit")]
    time: Option<Span>,
    /// Prefix of the file names; a time in UTC follows
    #[arg(long, default_value = "input_", value_name = "TEXT")]
    prefix: String,
    /// The drop folder
    #[arg(default_value = ".")]
    directory: PathBuf,
}

impl Split {
    pub fn run(self) -> anyhow::Result<()> {
        self.check()?;
        let dir = Dir::open(&self.directory)?;
        let pulse = Pulse::default();
        signals::stop_on_any(&pulse)?;
        let mut splitter = Splitter { options: &self, dir, current: None, last: 0 };
        let done = splitter.run(&pulse);
        done.and_then(|()| signalled(&pulse, Ok(())))
    }
}

impl Split {
    fn check(&self) -> anyhow::Result<()> {
        let ignored = [".", PROCESSED, FAILED];
        let never_taken = ignored.iter().any(|prefix| self.prefix.starts_with(prefix));
        let wrong = if self.prefix.contains('/') {
            "--prefix must not contain a slash"
        } else if never_taken {
            "--prefix must not be one that a drop folder ignores"
        } else if self.bytes == Some(Size(0)) {
            "--line-bytes must be more than 0"
        } else if self.time.is_some_and(|time| time.0.is_zero()) {
            "--time must be more than 0"
        } else if !self.directory.is_dir() {
            "the drop folder does not exist"
        } else {
            return Ok(());
        };
        Err(Misuse(wrong).into())
    }
}

struct Splitter<'a> {
    options: &'a Split,
    dir: Dir,
    current: Option<Current>,
    last: u128,
}

/// The file that is being written.
struct Current {
    file: File,
    temporary: OsString,
    /// Bytes that are not written yet; they follow the end of the file.
    buffer: Vec<u8>,
    lines: u64,
    bytes: u64,
    begun: Instant,
    in_record: bool,
}

impl Current {
    /// Writes what is buffered, so that the file has `end` bytes.
    fn write_out(&mut self, dir: &Dir, end: u64) -> anyhow::Result<()> {
        let path = dir.path().join(&self.temporary);
        durable::write_at(&self.file, &path, &self.buffer, end - self.buffer.len() as u64)?;
        self.buffer.clear();
        Ok(())
    }
}

impl Splitter<'_> {
    /// Until the input ends, or a signal asks to stop; then the whole records that were read are made a file.
    fn run(&mut self, pulse: &Pulse) -> anyhow::Result<()> {
        let mut stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        let mut pending = Vec::new();
        while !pulse.must_stop() {
            self.close_if_late()?;
            let wait = Timespec::try_from(self.wait()).unwrap_or_default();
            if !is_ready(stdin.as_fd(), PollFlags::IN, wait) {
                continue;
            }
            let have = pending.len();
            pending.resize(have + READ_BYTES, 0);
            let got = match stdin.read(pending.get_mut(have..).unwrap_or_default()) {
                // Somebody else has read what was there.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    pending.truncate(have);
                    continue;
                }
                got => got.context("read standard input")?,
            };
            pending.truncate(have + got);
            if got == 0 {
                break;
            }
            self.take_records(&mut pending)?;
        }
        let in_record = self.current.as_ref().is_some_and(|current| current.in_record);
        if pulse.must_stop() && (in_record || !pending.is_empty()) {
            let bytes = pending.len();
            tracing::warn!(bytes, "stopped within a record: what there is of it is in no file");
            if in_record {
                self.give_up()?;
            }
        } else if !pending.is_empty() {
            self.append(&pending, true)?;
        }
        self.close()
    }

    /// Writes the whole records of `pending` and leaves the rest.
    fn take_records(&mut self, pending: &mut Vec<u8>) -> anyhow::Result<()> {
        let mut from = 0;
        while let Some(record) = pending.get(from..).and_then(first_record) {
            let length = record.len();
            self.append(record, true)?;
            from += length;
        }
        pending.drain(..from);
        let limit = self.options.bytes.map_or(u64::MAX, |size| size.0);
        if pending.len() >= HELD_BYTES || pending.len() as u64 > limit {
            self.append(pending, false)?;
            pending.clear();
        }
        Ok(())
    }

    /// Appends a record, or with `ends` false the beginning of one.
    fn append(&mut self, bytes: &[u8], ends: bool) -> anyhow::Result<()> {
        let limit = self.options.bytes.map_or(u64::MAX, |size| size.0);
        // The beginning of a record has a file to itself: should its end never come, nothing else is lost.
        let too_much = |current: &Current| {
            let is_full = current.bytes + bytes.len() as u64 > limit || !ends && current.lines > 0;
            !current.in_record && is_full
        };
        if self.current.as_ref().is_some_and(too_much) {
            self.close()?;
        }
        if self.current.is_none() {
            self.current = Some(self.begin()?);
        }
        let Some(current) = &mut self.current else { return Ok(()) };
        current.buffer.extend_from_slice(bytes);
        if current.buffer.len() >= READ_BYTES {
            current.write_out(&self.dir, current.bytes + bytes.len() as u64)?;
        }
        current.bytes += bytes.len() as u64;
        current.lines += u64::from(ends);
        current.in_record = !ends;
        let full = self.options.lines.is_some_and(|lines| current.lines >= lines)
            || current.bytes >= limit;
        if full && ends { self.close() } else { Ok(()) }
    }

    fn begin(&mut self) -> anyhow::Result<Current> {
        // Another one may have our process number, in a container of its own.
        let mut name = self.next_name();
        name.push(format!(".{}.tmp", std::process::id()));
        let mut temporary = OsString::from(".");
        temporary.push(name);
        let file = self.dir.create_new(&temporary)?;
        let begun = Instant::now();
        let buffer = Vec::new();
        Ok(Current { file, temporary, buffer, lines: 0, bytes: 0, begun, in_record: false })
    }

    /// Drops the current file, which ends within a record that has it to itself.
    fn give_up(&mut self) -> anyhow::Result<()> {
        let Some(current) = self.current.take() else { return Ok(()) };
        Ok(self.dir.unlink(&current.temporary)?)
    }

    /// Makes the current file durable and lets it appear.
    fn close(&mut self) -> anyhow::Result<()> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        let end = current.bytes;
        current.write_out(&self.dir, end)?;
        let path = self.dir.path().join(&current.temporary);
        durable::sync_data(&current.file, &path, "split file")?;
        loop {
            let name = self.next_name();
            if self.dir.rename_no_replace(&current.temporary, &self.dir, &name)? {
                break;
            }
        }
        Ok(self.dir.sync("split directory")?)
    }

    /// The prefix and the time: names sort as the files came.
    fn next_name(&mut self) -> OsString {
        let now = since_1970().as_nanos();
        self.last = now.max(self.last + 1);
        let at = UNIX_EPOCH + Duration::from_nanos(u64::try_from(self.last).unwrap_or(u64::MAX));
        let time = humantime::format_rfc3339_nanos(at).to_string().replace([':', '-'], "");
        OsString::from(format!("{}{time}", self.options.prefix))
    }

    fn close_if_late(&mut self) -> anyhow::Result<()> {
        let late = self.left().is_some_and(|left| left.is_zero());
        if late { self.close() } else { Ok(()) }
    }

    /// How long the current file may still grow.
    fn left(&self) -> Option<Duration> {
        let current = self.current.as_ref().filter(|current| !current.in_record)?;
        Some(self.options.time?.0.saturating_sub(current.begun.elapsed()))
    }

    fn wait(&self) -> Duration {
        self.left().map_or(LOOK, |left| left.min(LOOK))
    }
}

fn first_record(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(..=memchr(b'\n', bytes)?)
}
