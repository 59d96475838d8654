//! Where the encoded bytes of a microbatch wait for their commit.
//!
//! Invariants: up to [`IN_LEDGER_BYTES`] they stay in memory and go into the ledger's own row;
//! beyond that they go to a file of their own, which is durable, name and content, before
//! [`Stage::finish`] returns. A file that no ledger row names is swept at the next start.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::durable::{Dir, Error, Result, free_bytes, sync_data, write_at};
use crate::microbatch::{Addition, Payload, Target};

/// Bytes up to which staged output is kept in its ledger row. A row is written once to the log and
/// once to the database, so larger ones would cost more than a file of their own.
pub const IN_LEDGER_BYTES: usize = 256 * 1024;

/// Bytes collected before a write to a staging file.
const WRITE_BYTES: usize = 1024 * 1024;

/// Bytes after which the disk is set to work on a staging file while more are made; without it,
/// the last fsync of a large file would wait for all of it.
const FLUSH_BYTES: u64 = 16 * 1024 * 1024;

/// The directory of staged files.
#[derive(Debug)]
pub struct StagingArea {
    dir: Dir,
    prefix: &'static str,
    next: AtomicU64,
    /// Bytes that stay free where the directory is.
    min_free: u64,
}

impl StagingArea {
    /// Uses `dir`, and no name with this prefix below `first`; it leaves `min_free` bytes free.
    pub fn new(dir: Dir, prefix: &'static str, first: u64, min_free: u64) -> Self {
        Self { dir, prefix, next: AtomicU64::new(first), min_free }
    }

    /// The directory may have been replaced: what counts is what its path leads to. Nothing may be
    /// staged meanwhile.
    pub fn follow(&mut self) -> Result<()> {
        if let Some(there) = self.dir.successor()? {
            self.dir = there;
        }
        Ok(())
    }

    /// The directory itself.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Removes every file of this area that `keep` does not name: what an earlier run never
    /// committed. Returns how many there were.
    pub fn sweep(&self, keep: impl Fn(&OsStr) -> bool) -> anyhow::Result<u64> {
        let is_ours = |name: &OsStr| name.as_encoded_bytes().starts_with(self.prefix.as_bytes());
        let mut swept = 0;
        for entry in std::fs::read_dir(self.dir.path())? {
            let name = entry?.file_name();
            if is_ours(&name) && !keep(&name) {
                self.dir.unlink(&name)?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn create(&self) -> Result<(OsString, File)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = OsString::from(format!("{}{number:016x}", self.prefix));
        let file = self.dir.create_new(&name)?;
        Ok((name, file))
    }
}

/// Output being staged. Dropped before [`Stage::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Stage<'a> {
    area: &'a StagingArea,
    buffer: Vec<u8>,
    file: Option<(OsString, File)>,
    written: u64,
    header: crc32fast::Hasher,
    header_bytes: u64,
    checksum: crc32fast::Hasher,
    flushing: Option<JoinHandle<Result<()>>>,
    flushed: u64,
    /// Even small output is staged to a file.
    is_file: bool,
}

impl<'a> Stage<'a> {
    /// A stage without records.
    pub fn new(area: &'a StagingArea) -> Self {
        let checksum = crc32fast::Hasher::new();
        Self {
            area,
            buffer: Vec::new(),
            file: None,
            written: 0,
            header: checksum.clone(),
            header_bytes: 0,
            checksum,
            flushing: None,
            flushed: 0,
            is_file: false,
        }
    }

    /// A stage whose file is going to be the output as it is.
    pub fn of_file(area: &'a StagingArea) -> Self {
        let mut stage = Self::new(area);
        stage.is_file = true;
        stage
    }

    /// Stages the header, which counts only where the output begins.
    pub fn begin(&mut self, header: &[u8]) {
        self.header.update(header);
        self.header_bytes += header.len() as u64;
        self.buffer.extend_from_slice(header);
    }

    /// Appends `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.checksum.update(bytes);
        if self.buffer.is_empty() && bytes.len() >= WRITE_BYTES / 2 {
            return self.write_out(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        let limit = if self.file.is_some() { WRITE_BYTES } else { IN_LEDGER_BYTES };
        if self.buffer.len() > limit { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.write_out(&buffer)?;
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    fn write_out(&mut self, bytes: &[u8]) -> Result<()> {
        if self.file.is_none() {
            self.file = Some(self.area.create()?);
        }
        if let Some((name, file)) = &self.file {
            let path = self.area.dir.path().join(name);
            let wanted = self.area.min_free.saturating_add(bytes.len() as u64);
            // The first piece is small: whether there is room for it was asked before.
            if self.written > 0
                && free_bytes(self.area.dir.path()).is_some_and(|free| free < wanted)
            {
                return Err(Error::no_room(&path));
            }
            write_at(file, &path, bytes, self.written)?;
        }
        self.written += bytes.len() as u64;
        if self.written - self.flushed >= FLUSH_BYTES { self.flush_ahead() } else { Ok(()) }
    }

    /// Starts an fsync of what is written so far, unless one is under way.
    fn flush_ahead(&mut self) -> Result<()> {
        if self.flushing.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Ok(());
        }
        self.join_flush()?;
        let Some((name, file)) = &self.file else { return Ok(()) };
        let path = self.area.dir.path().join(name);
        // Without a second descriptor the last fsync does all the work.
        if let Ok(file) = file.try_clone() {
            let sync = move || sync_data(&file, &path, "staging file");
            self.flushing = std::thread::Builder::new().spawn(sync).ok();
        }
        self.flushed = self.written;
        Ok(())
    }

    /// Waits for the fsync that is under way. Its failure is the stage's: it is not tried again.
    fn join_flush(&mut self) -> Result<()> {
        let joined = self.flushing.take().map(JoinHandle::join);
        joined.map_or(Ok(()), |result| result.expect("an fsync does not panic"))
    }

    /// Bytes that are in a file by now.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Completes the staged bytes and makes them durable, as what is added to `target`; `None` when there are
    /// none.
    pub fn finish(mut self, target: Target) -> Result<Option<Addition>> {
        let length = self.written + self.buffer.len() as u64 - self.header_bytes;
        if length == 0 {
            return Ok(None);
        }
        let checksum = self.checksum.clone().finalize();
        self.header.combine(&self.checksum);
        let whole_checksum = self.header.clone().finalize();
        if (self.file.is_some() || self.is_file) && !self.buffer.is_empty() {
            self.flush()?;
        }
        self.join_flush()?;
        if let Some((name, file)) = &self.file {
            sync_data(file, &self.area.dir.path().join(name), "staging file")?;
            self.area.dir.sync("staging directory")?;
        }
        let payload = match self.file.take() {
            Some((name, _)) => Payload::File(name),
            None => Payload::Memory(std::mem::take(&mut self.buffer)),
        };
        let skip = self.header_bytes;
        let bare = Addition::of_bytes(target, Vec::new());
        Ok(Some(Addition { payload, length, checksum, skip, whole_checksum, ..bare }))
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let Some((name, _)) = &self.file {
            // The sweep at the next start would do it as well.
            let _ = self.area.dir.unlink(name);
        }
    }
}
