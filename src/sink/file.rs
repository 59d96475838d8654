//! An output that is one file, appended to.
//!
//! Invariants: bytes are written where their span says, so that writing them again changes nothing. Nothing is
//! ever truncated. An output that is missing was taken away, and a new generation begins; one that is shorter
//! than the ledger says is damage, and stops the daemon.

mod found;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Stat;

use super::{Next, Recovery, Sink, Start};
use crate::durable::{self, Dir, fault};
use crate::failure::{Failure, Result};
use crate::microbatch::{LastSpan, OutputFile, Owed, Payload, Position};
use found::{Found, is_other};
pub use found::{begins_otherwise, checksum};

/// Bytes copied at once from a staging file.
const COPY_BYTES: usize = 1024 * 1024;

/// At the start the end of an output is compared with its checksum if it is no longer than this.
const VERIFIED_BYTES: u64 = 4 * 1024 * 1024;

/// One file that is appended to.
pub struct FileSink {
    path: PathBuf,
    /// Where staged files wait.
    staging: Arc<Dir>,
    dir: Dir,
    name: OsString,
    /// The header of each generation.
    header: Vec<u8>,
    file: Option<File>,
    /// The generation that is continued.
    generation: u64,
    /// The file as it was seen last.
    known: Option<OutputFile>,
    /// The same as the ledger has been told.
    told: Option<OutputFile>,
    /// Files that were left for the next generation before the ledger was told of them.
    left: Vec<OutputFile>,
    unsynced: bool,
    dir_unsynced: bool,
}

/// Bytes of spans that follow each other in one output.
#[derive(Default)]
struct Run {
    start: u64,
    bytes: Vec<u8>,
}

impl Run {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl FileSink {
    /// The file at `path`, each generation of which begins with `header`; staged files wait in `staging`.
    pub fn open(path: &Path, header: &[u8], staging: Arc<Dir>) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            staging,
            dir: Dir::open(path.parent().unwrap_or(Path::new("/")))?,
            name: path.file_name().unwrap_or_default().to_owned(),
            header: header.to_vec(),
            file: None,
            generation: 0,
            known: None,
            told: None,
            left: Vec::new(),
            unsynced: false,
            dir_unsynced: false,
        })
    }
}

impl Sink for FileSink {
    fn recover(&mut self, start: Start) -> Result<Recovery> {
        let Start { end, first, last_span, file } = start;
        self.known = file;
        self.told = file;
        self.generation = file.map_or(0, |file| file.generation);
        let known = self.known;
        let found = self.look()?;
        let other = found.as_ref().filter(|found| first.end > 0 && is_other(known, end, found.id));
        match (&found, other) {
            (None, _) | (_, Some(Found { length: 0, .. })) if first.end > 0 && first != end => {
                if let Some(moved) = self.find_moved(known, first)? {
                    tracing::info!(output = %self.path.display(), "the output was renamed, and gets the rest");
                    self.file = Some(moved);
                    return Ok(Recovery::Agrees);
                }
                return Ok(Recovery::Relocate { header: self.header.clone() });
            }
            (None, _) | (_, Some(Found { length: 0, .. })) => return Ok(Recovery::Agrees),
            (_, Some(other)) => {
                self.continues_copy(first, other, last_span)?;
            }
            (Some(found), None) if found.length < first.end => {
                return Err(self.damaged(first.end, found.length));
            }
            (Some(_), None) => self.verify_end(last_span)?,
        }
        if let Some(found) = &found {
            self.knows(end.generation, found);
        }
        Ok(Recovery::Agrees)
    }

    fn observe(&mut self, next: Next<'_>) -> Result<Position> {
        let position = next.position;
        self.follow_folder()?;
        let before = self.known;
        let is_news = |before: &OutputFile| before.id.is_some() && self.told != Some(*before);
        let untold = before.filter(is_news);
        let Some(found) = self.look()? else {
            let taken_away = position.end > 0;
            if taken_away {
                tracing::info!(output = %self.path.display(), "the output was taken away; a new one begins");
            }
            self.left.extend(untold.filter(|_| taken_away));
            return Ok(self.begins(position, taken_away));
        };
        let is_other = position.end > 0 && is_other(before, position, found.id);
        if is_other && found.length == 0 {
            tracing::info!(output = %self.path.display(), "the output is another file, and empty; a new one begins");
            self.left.extend(untold);
            let begun = self.begins(position, true);
            self.knows(begun.generation, &found);
            return Ok(begun);
        }
        if is_other {
            self.continues_copy(position, &found, (next.last_span)()?)?;
        }
        self.knows(position.generation, &found);
        let length = found.length;
        if length < position.end {
            return Err(self.damaged(position.end, length));
        }
        if length > position.end {
            tracing::warn!(
                output = %self.path.display(), ledger = position.end, found = length,
                "the output holds bytes that spoolmill did not write; going on after them"
            );
        }
        Ok(Position { end: length, ..position })
    }

    /// Spans that follow each other are one write.
    fn publish(&mut self, owed: &[Owed<'_>]) -> Result<()> {
        let mut run = Run::default();
        for span in owed {
            self.of_generation(span.at.generation);
            match &span.addition.payload {
                Payload::Memory(bytes) => {
                    if run.end() != span.at.end {
                        self.write_run(&run)?;
                        run = Run { start: span.at.end, bytes: Vec::new() };
                    }
                    run.bytes.extend_from_slice(bytes);
                }
                Payload::File(name) => {
                    self.write_run(&run)?;
                    run = Run::default();
                    self.publish_file(span, name)?;
                }
            }
        }
        self.write_run(&run)?;
        if owed.is_empty() { Ok(()) } else { self.know() }
    }

    fn sync(&mut self) -> Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| self.unsynced) {
            durable::sync_data(file, &self.path, "output")?;
            self.unsynced = false;
        }
        if self.dir_unsynced {
            self.dir.sync("output directory")?;
            self.dir_unsynced = false;
        }
        Ok(())
    }

    fn news(&mut self) -> Vec<OutputFile> {
        let mut news = std::mem::take(&mut self.left);
        news.extend(self.known.filter(|_| self.known != self.told));
        self.told = self.known;
        news
    }
}

impl FileSink {
    /// A new file begins where another one was.
    fn begins(&mut self, position: Position, is_next: bool) -> Position {
        let generation = position.generation + u64::from(is_next);
        self.of_generation(generation);
        Position { generation, end: 0 }
    }

    fn knows(&mut self, generation: u64, found: &Found) {
        self.generation = generation;
        self.known = Some(OutputFile { generation, id: Some(found.id), like: found.like });
    }

    /// Another file has the name of the output, with something in it: a copy of it can be continued, and
    /// nothing else.
    fn continues_copy(
        &self,
        position: Position,
        found: &Found,
        ends_in: Option<LastSpan>,
    ) -> Result<()> {
        let is_copy = found.length >= position.end
            && match ends_in {
                Some(LastSpan { start, length, checksum }) => {
                    self.verify(start, length, checksum).is_ok()
                }
                None => false,
            };
        if is_copy {
            return Ok(());
        }
        Err(Failure::halt(format!(
            "{} is another file than the one that was written, with {} bytes that are not from here: move \
             it away to begin a new one, or put the file back that was there, which has {} bytes",
            self.path.display(),
            found.length,
            position.end
        )))
    }

    /// From now on another file is known for what it is.
    fn know(&mut self) -> Result<()> {
        if let Some(found) = self.found()? {
            self.knows(self.generation, &found);
        }
        Ok(())
    }

    /// The file that was continued, where it was renamed when a part of what is owed was in it: the rest
    /// belongs there. One that has nothing of it may have been read by now.
    fn find_moved(&mut self, known: Option<OutputFile>, first: Position) -> Result<Option<File>> {
        let Some(id) =
            known.filter(|known| known.generation == first.generation).and_then(|known| known.id)
        else {
            return Ok(None);
        };
        let entries = std::fs::read_dir(self.dir.path()).map_err(|error| self.transient(error))?;
        for entry in entries.flatten().filter(|entry| entry.ino() == id.inode) {
            let Ok(file) = self.dir.open_existing(&entry.file_name()) else { continue };
            let metadata = file.metadata().map_err(|error| self.transient(error))?;
            let is_it = metadata.is_file() && Found::of(&metadata).id.is_same(&id);
            if is_it && metadata.len() > first.end {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// The folder may have been replaced: what counts is what the path leads to.
    fn follow_folder(&mut self) -> Result<()> {
        let Some(there) = self.dir.successor()? else { return Ok(()) };
        tracing::warn!(folder = %there.path().display(), "the output folder was replaced");
        self.leave_file()?;
        if self.dir_unsynced {
            self.dir.sync("output directory")?;
        }
        (self.dir, self.dir_unsynced) = (there, false);
        Ok(())
    }

    /// Syncs a file that was taken away. Its last bytes are durable in the ledger alone, and nothing will
    /// write them again.
    fn leave_file(&mut self) -> Result<()> {
        if let Some(file) = self.file.take().filter(|_| self.unsynced) {
            durable::sync_data(&file, &self.path, "output")?;
        }
        self.unsynced = false;
        Ok(())
    }

    /// The file at its path; after this it is open, if it is there.
    fn look(&mut self) -> Result<Option<Found>> {
        let Some(there) = self.dir.stat(&self.name)? else {
            self.leave_file()?;
            return Ok(None);
        };
        if !self.has_open(&there)? {
            self.leave_file()?;
            self.file = Some(self.dir.open_existing(&self.name)?);
            // The process that created it may have been killed before its name was durable.
            self.dir_unsynced |= !fault::mutant("no-foreign-sync");
        }
        self.found()
    }

    /// True when this is the file that is open.
    fn has_open(&self, there: &Stat) -> Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let metadata = file.metadata().map_err(|error| self.transient(error))?;
        Ok((metadata.dev(), metadata.ino()) == (there.st_dev, there.st_ino))
    }

    /// The file that is open.
    fn found(&self) -> Result<Option<Found>> {
        let Some(file) = &self.file else { return Ok(None) };
        let metadata = file.metadata().map_err(|error| self.transient(error))?;
        Ok(Some(Found::of(&metadata)))
    }

    /// The file that is written to next is of this generation.
    fn of_generation(&mut self, generation: u64) {
        self.generation = generation;
        if let Some(known) = self.known.as_mut().filter(|known| known.generation != generation) {
            (known.generation, known.id) = (generation, None);
        }
    }

    fn write_run(&mut self, run: &Run) -> Result<()> {
        if run.bytes.is_empty() {
            return Ok(());
        }
        self.create_if_missing()?;
        self.write(&run.bytes, run.start)
    }

    fn write(&mut self, bytes: &[u8], start: u64) -> Result<()> {
        let Some(file) = &self.file else {
            return Err(Failure::fatal("an output is written that is not open"));
        };
        self.unsynced = true;
        Ok(durable::write_at(file, &self.path, bytes, start)?)
    }

    fn create_if_missing(&mut self) -> Result<()> {
        if self.file.is_none() {
            self.follow_folder()?;
            let like = self.known.map(|known| known.like);
            self.file = Some(match self.dir.create_like(&self.name, like) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    return self.adopt_empty();
                }
                created => created?,
            });
            self.dir_unsynced = true;
        }
        Ok(())
    }

    /// Somebody created the file since it was last looked for. An empty one will do.
    fn adopt_empty(&mut self) -> Result<()> {
        match self.look()?.map(|found| found.length) {
            Some(0) => {
                self.dir_unsynced = true;
                Ok(())
            }
            length => Err(Failure::halt(format!(
                "{} was created by another program with {} bytes in it; move it away",
                self.path.display(),
                length.unwrap_or(0)
            ))),
        }
    }

    /// Publishes a staging file: renamed into place where the output does not exist yet, else
    /// copied.
    fn publish_file(&mut self, span: &Owed<'_>, name: &OsStr) -> Result<()> {
        let staging = self.staging.clone();
        let Some(staged) = staging.stat(name)? else { return self.already_published(span) };
        if self.has_open(&staged)? {
            // It became the output, and a power cut has kept its name here as well.
            staging.unlink(name)?;
            return self.already_published(span);
        }
        let skip = span.addition.skip;
        // With a second name it was the output before a power cut, and is its reader's by now.
        let is_ours = staged.st_nlink == 1;
        let begins = self.file.is_none() && (span.at.end, skip) == (0, 0);
        if is_ours && begins && self.rename_into_place(name)? {
            return Ok(());
        }
        self.create_if_missing()?;
        let mut staged = staging.open_existing(name)?;
        staged.seek(SeekFrom::Start(skip)).map_err(|error| self.transient(error))?;
        let mut checksum = crc32fast::Hasher::new();
        let mut buffer = vec![0; COPY_BYTES];
        let mut done = 0;
        loop {
            let got = staged.read(&mut buffer).map_err(|error| self.transient(error))?;
            if got == 0 {
                break;
            }
            let bytes = buffer.get(..got).unwrap_or_default();
            checksum.update(bytes);
            self.write(bytes, span.at.end + done)?;
            done += got as u64;
        }
        if (done, checksum.finalize()) == (span.addition.length, span.addition.checksum) {
            return Ok(());
        }
        Err(Failure::halt(format!(
            "the staging file {} is damaged: expected {} bytes with checksum {:08x}; restore it, or \
             take the input from the archive again",
            staging.path().join(name).display(),
            span.addition.length,
            span.addition.checksum
        )))
    }

    fn rename_into_place(&mut self, name: &OsStr) -> Result<bool> {
        match self.staging.rename_no_replace(name, &self.dir, &self.name) {
            Ok(true) => {
                let file = self.dir.open_existing(&self.name)?;
                if let Some(known) = self.known {
                    known.like.give(&file);
                }
                self.file = Some(file);
                // Now: the next staging file makes the staging directory durable, and with it that
                // the file is there no more.
                self.dir.sync("output directory")?;
                Ok(true)
            }
            Ok(false) => Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The staging file is gone, so it became the output before a crash; or it is lost.
    fn already_published(&mut self, span: &Owed<'_>) -> Result<()> {
        let found = if self.file.is_some() { self.found()? } else { self.look()? };
        let length = found.map_or(0, |found| found.length);
        if length < span.at.end + span.addition.length {
            return Err(self.damaged(span.at.end + span.addition.length, length));
        }
        self.dir_unsynced = true;
        self.verify(span.at.end, span.addition.length, span.addition.checksum)
    }

    /// Checks that the output ends in the bytes that the ledger remembers.
    fn verify_end(&self, last_span: Option<LastSpan>) -> Result<()> {
        match last_span.filter(|last| last.length <= VERIFIED_BYTES) {
            Some(LastSpan { start, length, checksum }) => self.verify(start, length, checksum),
            None => Ok(()),
        }
    }

    fn verify(&self, start: u64, length: u64, expected: u32) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let end = start + length;
        let found = checksum(file, start, length).map_err(|error| self.transient(error))?;
        if found == expected {
            return Ok(());
        }
        Err(Failure::halt(format!(
            "{} is damaged: bytes {start} to {end} have checksum {found:08x}, the ledger says \
             {expected:08x}; restore the file, or move it away to begin a new one",
            self.path.display()
        )))
    }

    fn damaged(&self, expected: u64, found: u64) -> Failure {
        Failure::halt(format!(
            "{} is damaged: expected {expected} bytes, found {found}; restore the file, or move it \
             away to begin a new one",
            self.path.display()
        ))
    }

    fn transient(&self, error: std::io::Error) -> Failure {
        let doing = format!("use {}", self.path.display());
        Failure::Transient(anyhow::Error::new(error).context(doing))
    }
}
