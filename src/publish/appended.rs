//! An output that is one file, appended to.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::durable::{self, Dir, fault};
use crate::failure::{Failure, Result};
use crate::ledger::{Ledger, Payload, Position, Span, Target};

/// Bytes copied at once from a staging file.
const COPY_BYTES: usize = 1024 * 1024;

/// At the start the end of an output is compared with its checksum if it is no longer than this.
const VERIFIED_BYTES: u64 = 4 * 1024 * 1024;

/// One file that is appended to.
pub struct Appended {
    path: PathBuf,
    dir: Dir,
    name: OsString,
    /// What each generation begins with.
    header: Vec<u8>,
    file: Option<File>,
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

impl Appended {
    /// The file at `path`, each generation of which begins with `header`.
    pub fn open(path: &Path, header: &[u8]) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            dir: Dir::open(path.parent().unwrap_or(Path::new("/")))?,
            name: path.file_name().unwrap_or_default().to_owned(),
            header: header.to_vec(),
            file: None,
            unsynced: false,
            dir_unsynced: false,
        })
    }

    /// The position that the next span can have: what the ledger says, as long as the file agrees.
    pub fn observe(&mut self, position: Position) -> Result<Position> {
        self.follow_folder()?;
        let Some(length) = self.length()? else {
            let taken_away = position.end > 0;
            if taken_away {
                tracing::info!(output = %self.path.display(), "was taken away; a new one begins");
            }
            let generation = position.generation + u64::from(taken_away);
            return Ok(Position { generation, end: 0 });
        };
        if length < position.end {
            return Err(self.damaged(position.end, length));
        }
        if length > position.end {
            tracing::warn!(
                output = %self.path.display(), ledger = position.end, found = length,
                "holds bytes that spoolmill did not write; going on behind them"
            );
        }
        Ok(Position { end: length, ..position })
    }

    /// Writes spans in their order. Those that follow each other are one write.
    pub fn publish<'a>(
        &mut self,
        spans: impl Iterator<Item = Span<'a>>,
        staging: &Dir,
    ) -> Result<()> {
        let mut run = Run::default();
        for span in spans {
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
                    self.publish_file(span, staging, name)?;
                }
            }
        }
        self.write_run(&run)
    }

    /// At the start: compares the file with what the ledger says, of which everything from `first`
    /// on is owed. True when what is owed begins a new file, since the old one was taken away.
    pub fn recover(
        &mut self,
        target: Target,
        first: Option<Position>,
        ledger: &mut Ledger,
    ) -> Result<bool> {
        let end = ledger.position(target);
        let first = first.unwrap_or(end);
        match self.length()? {
            None if first.end > 0 && first != end => {
                ledger.relocate(target, first, &self.header)?;
                return Ok(true);
            }
            None => {}
            Some(length) if length < first.end => return Err(self.damaged(first.end, length)),
            Some(_) => self.verify_end(target, ledger, first)?,
        }
        Ok(false)
    }

    /// Makes everything published durable.
    pub fn sync(&mut self) -> Result<()> {
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

    /// What is not durable in a file that was taken away is durable in the ledger, but from now on
    /// nothing will write it again: so it has to be made durable here.
    fn leave_file(&mut self) -> Result<()> {
        if let Some(file) = self.file.take().filter(|_| self.unsynced) {
            durable::sync_data(&file, &self.path, "output")?;
        }
        self.unsynced = false;
        Ok(())
    }

    /// How long the file is that its path leads to; it is open after this, if it is there.
    fn length(&mut self) -> Result<Option<u64>> {
        let Some(there) = self.dir.stat(&self.name)? else {
            self.leave_file()?;
            return Ok(None);
        };
        let same = |file: &File| -> std::io::Result<bool> {
            let metadata = file.metadata()?;
            Ok((metadata.dev(), metadata.ino()) == (there.st_dev, there.st_ino))
        };
        let open = self.file.as_ref().map(same).transpose();
        if !open.map_err(|error| self.transient(error))?.unwrap_or(false) {
            self.leave_file()?;
            self.file = Some(self.dir.open_existing(&self.name)?);
            // Whoever has created it may have been killed before its name was durable.
            self.dir_unsynced |= !fault::mutant("no-foreign-sync");
        }
        Ok(Some(u64::try_from(there.st_size).unwrap_or_default()))
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
            self.file = Some(match self.dir.create_new(&self.name) {
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
        match self.length()? {
            Some(0) => {
                self.dir_unsynced = true;
                Ok(())
            }
            found => Err(Failure::halt(format!(
                "{} was created by another program with {} bytes in it; move it away",
                self.path.display(),
                found.unwrap_or(0)
            ))),
        }
    }

    /// Publishes a staging file: renamed into place where the output does not exist yet, else
    /// copied.
    fn publish_file(
        &mut self,
        span: Span<'_>,
        staging: &Dir,
        name: &std::ffi::OsStr,
    ) -> Result<()> {
        if staging.stat(name)?.is_none() {
            return self.already_published(span);
        }
        let skip = span.addition.skip;
        if self.file.is_none()
            && (span.at.end, skip) == (0, 0)
            && self.rename_into_place(staging, name)?
        {
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

    fn rename_into_place(&mut self, staging: &Dir, name: &std::ffi::OsStr) -> Result<bool> {
        match staging.rename_no_replace(name, &self.dir, &self.name) {
            Ok(true) => {
                self.file = Some(self.dir.open_existing(&self.name)?);
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
    fn already_published(&mut self, span: Span<'_>) -> Result<()> {
        let length = self.length()?.unwrap_or(0);
        if length < span.at.end + span.addition.length {
            return Err(self.damaged(span.at.end + span.addition.length, length));
        }
        self.dir_unsynced = true;
        self.verify(span.at.end, span.addition.length, span.addition.checksum)
    }

    /// What the output ends in must be what the ledger remembers.
    fn verify_end(&self, target: Target, ledger: &Ledger, position: Position) -> Result<()> {
        match ledger.last_span(target, position)? {
            Some((start, length, checksum)) if length <= VERIFIED_BYTES => {
                self.verify(start, length, checksum)
            }
            _ => Ok(()),
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

/// CRC-32 over a part of a file.
pub fn checksum(file: &File, start: u64, length: u64) -> std::io::Result<u32> {
    let mut checksum = crc32fast::Hasher::new();
    let most = usize::try_from(length).unwrap_or(COPY_BYTES).min(COPY_BYTES);
    let mut buffer = vec![0; most];
    let (mut at, end) = (start, start + length);
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(most).min(most);
        let bytes = buffer.get_mut(..want).unwrap_or_default();
        file.read_exact_at(bytes, at)?;
        checksum.update(bytes);
        at += want as u64;
    }
    Ok(checksum.finalize())
}

/// Why an output that is to begin with this header cannot be continued: it begins with another.
pub fn begins_otherwise(output: &Path, header: &[u8]) -> Option<String> {
    use std::io::Read as _;
    let mut found = Vec::new();
    if !header.is_empty()
        && let Ok(file) = File::open(output)
        && let Err(error) = file.take(header.len() as u64).read_to_end(&mut found)
    {
        return Some(format!("{} cannot be read: {error}", output.display()));
    }
    if header.starts_with(&found) {
        return None;
    }
    let line = |bytes: &[u8]| {
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        String::from_utf8_lossy(line).into_owned()
    };
    Some(format!(
        "{} begins with \"{}\", and the job's records have the columns \"{}\": move it away to begin a \
         new one",
        output.display(),
        line(&found),
        line(header)
    ))
}
