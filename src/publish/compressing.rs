//! A closed output is compressed: the compressed file takes the place of the plain one.
//!
//! Invariants: who looks finds the plain file or the compressed one, never both. The plain file gets a
//! hidden name before the compressed one gets its own, and goes when that is durable. Between the two there
//! are a hidden and a temporary file; the temporary one says that the compressed file was not to be seen yet.
//! Whatever ends it, [`clear`] undoes what was not done, and leaves no name.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::durable::{self, Dir, Likeness, free_bytes};
use crate::ledger::Kept;

/// Bytes that are written between two looks at what is free.
const PIECE: usize = 1 << 20;

/// Bytes that stay free besides `engine.min_free`, so that the job does not have to pause.
const MARGIN: u64 = 4 << 20;

/// A compression, by its suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

impl Compress {
    /// The suffix after the name of the plain file.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }

    /// Reads what was compressed.
    pub fn reader(self, file: File) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(file)?),
        })
    }
}

/// A closed output that is to be compressed.
pub struct Closed {
    /// The folder that it is in.
    pub folder: PathBuf,
    /// Its name there.
    pub name: OsString,
    /// Its inode.
    pub inode: u64,
    /// How it is compressed.
    pub how: Compress,
    /// Bytes that are to stay free.
    pub min_free: u64,
}

/// A name with a suffix.
pub fn with(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}

/// Where the compressed file is made.
fn temporary(plain: &OsStr, how: Compress) -> OsString {
    let mut name = OsString::from(".");
    name.push(with(&with(plain, how.suffix()), ".spoolmill-tmp"));
    name
}

/// The hidden name of the plain file while the compressed one takes its place.
pub fn hidden(plain: &OsStr) -> OsString {
    let mut name = OsString::from(".");
    name.push(with(plain, ".spoolmill-closed"));
    name
}

/// Removes what an earlier attempt has left beside the closed output `name`: after it the plain file is under
/// its name, unless the compressed one has been.
pub fn clear(dir: &Dir, name: &OsStr) -> durable::Result<()> {
    let temporaries = [Compress::Gzip, Compress::Zstd].map(|how| temporary(name, how));
    let left = temporaries.iter().map(|temporary| dir.stat(temporary));
    let is_unseen = left.collect::<durable::Result<Vec<_>>>()?.iter().any(Option::is_some);
    let hidden = hidden(name);
    if dir.stat(&hidden)?.is_some() {
        if is_unseen {
            dir.rename_no_replace(&hidden, dir, name)?;
        } else {
            dir.unlink(&hidden)?;
        }
        dir.sync("output directory")?;
    }
    for temporary in temporaries.iter().filter(|_| is_unseen) {
        dir.unlink(temporary)?;
    }
    Ok(())
}

/// Which file a closed output is kept in: the plain one, or a compressed one.
pub fn kept(dir: &Dir, name: &OsStr, inode: u64) -> durable::Result<Kept> {
    if let Some(stat) = dir.stat(name)?.filter(|stat| stat.st_ino == inode) {
        return Ok(Kept::In(inode, stat.st_size.cast_unsigned()));
    }
    for how in [Compress::Gzip, Compress::Zstd] {
        if let Some(stat) = dir.stat(&with(name, how.suffix()))? {
            return Ok(Kept::In(stat.st_ino, stat.st_size.cast_unsigned()));
        }
    }
    Ok(Kept::Nowhere)
}

/// Replaces a closed output by its compressed file, if it is there. It may be done again after a crash
/// anywhere in it.
///
/// # Errors
/// When there is no room, or it was stopped: then nothing has changed.
pub fn compress(closed: &Closed, stop: &AtomicBool) -> anyhow::Result<()> {
    let dir = Dir::open(&closed.folder)?;
    clear(&dir, &closed.name)?;
    let source = match dir.open_existing(&closed.name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        source => source?,
    };
    if is_packed(closed, &dir, &source, stop)? {
        // An earlier version has left both.
        dir.unlink(&closed.name)?;
        return Ok(dir.sync("output directory")?);
    }
    let temporary = temporary(&closed.name, closed.how);
    // Read here and there before: from its beginning again.
    let mut source = source;
    io::Seek::rewind(&mut source)?;
    let made = make(closed, &dir, &temporary, &source, stop);
    if made.is_err() {
        dir.unlink(&temporary)?;
    }
    made?;
    exchange(closed, &dir, &temporary)
}

/// True when the compressed file is there already, and this is what it was made of.
fn is_packed(closed: &Closed, dir: &Dir, plain: &File, stop: &AtomicBool) -> anyhow::Result<bool> {
    let packed = with(&closed.name, closed.how.suffix());
    if dir.stat(&packed)?.is_none() || plain.metadata()?.ino() != closed.inode {
        return Ok(false);
    }
    let reader = closed.how.reader(dir.open_existing(&packed)?)?;
    let Ok(kept) = digest(Stoppable { reader, stop }) else { return Ok(false) };
    Ok(kept == digest(Stoppable { reader: plain, stop })?)
}

/// Makes the compressed file, and reads it back.
fn make(
    closed: &Closed,
    dir: &Dir,
    temporary: &OsStr,
    source: &File,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let like = Likeness::of(&source.metadata()?);
    let file = dir.create_like(temporary, Some(like))?;
    let path = closed.folder.join(temporary);
    let mut sink = Counted { file: &file, path: &path, at: 0, min_free: closed.min_free };
    pack(Stoppable { reader: source, stop }, &mut sink, closed.how)?;
    durable::sync_data(&file, &path, "compressed output")?;
    let reader = closed.how.reader(File::open(&path)?)?;
    let plain = File::open(closed.folder.join(&closed.name))?;
    let kept = digest(Stoppable { reader, stop })?;
    anyhow::ensure!(
        kept == digest(Stoppable { reader: plain, stop })?,
        "{} reads back as something else than {}",
        path.display(),
        closed.name.display()
    );
    Ok(())
}

/// The compressed file takes the place of the plain one, unless somebody has taken that away.
fn exchange(closed: &Closed, dir: &Dir, temporary: &OsStr) -> anyhow::Result<()> {
    let hidden = hidden(&closed.name);
    match dir.rename_no_replace(&closed.name, dir, &hidden) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(dir.unlink(temporary)?),
        renamed => anyhow::ensure!(renamed?, "{} is there already", hidden.display()),
    }
    let is_it = dir.stat(&hidden)?.is_some_and(|stat| stat.st_ino == closed.inode);
    dir.sync("output directory")?;
    let packed = with(&closed.name, closed.how.suffix());
    if !is_it || !dir.rename_no_replace(temporary, dir, &packed)? {
        clear(dir, &closed.name)?;
        let packed = packed.display();
        let closed = closed.name.display();
        tracing::warn!(%packed, %closed, "the compressed file is somebody else's; the closed output stays as it is");
        return Ok(());
    }
    dir.sync("output directory")?;
    dir.unlink(&hidden)?;
    dir.sync("output directory")?;
    Ok(())
}

fn pack(mut source: impl Read, sink: &mut Counted<'_>, how: Compress) -> anyhow::Result<()> {
    let buffered = io::BufWriter::with_capacity(PIECE, sink);
    match how {
        Compress::Gzip => {
            let mut packer =
                flate2::write::GzEncoder::new(buffered, flate2::Compression::default());
            io::copy(&mut source, &mut packer)?;
            packer.finish()?.flush()?;
        }
        Compress::Zstd => {
            let mut packer = zstd::stream::write::Encoder::new(buffered, 0)?;
            io::copy(&mut source, &mut packer)?;
            packer.finish()?.flush()?;
        }
    }
    Ok(())
}

/// Length and checksum of what is read.
fn digest(mut reader: impl Read) -> io::Result<(u64, u32)> {
    let mut checksum = crc32fast::Hasher::new();
    let mut length = 0;
    let mut buffer = vec![0; PIECE];
    loop {
        let got = reader.read(&mut buffer)?;
        if got == 0 {
            return Ok((length, checksum.finalize()));
        }
        checksum.update(buffer.get(..got).unwrap_or_default());
        length += got as u64;
    }
}

/// A reader that gives up when it is told to.
struct Stoppable<'a, R> {
    reader: R,
    stop: &'a AtomicBool,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("broken off"));
        }
        self.reader.read(buffer)
    }
}

/// A file written from its beginning, through the door for writes that must survive, as long as there is room.
struct Counted<'a> {
    file: &'a File,
    path: &'a Path,
    at: u64,
    min_free: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wanted = self.min_free.saturating_add(MARGIN + bytes.len() as u64);
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        if free_bytes(folder).is_some_and(|free| free < wanted) {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "it would leave less free than `engine.min_free`",
            ));
        }
        durable::write_at(self.file, self.path, bytes, self.at)
            .map_err(|error| io::Error::new(error.kind(), error))?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn put(folder: &Path, text: &str) {
        let mut file = File::create(folder.join("closed.txt")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn closed(folder: &Path, min_free: u64) -> Closed {
        let inode = std::fs::metadata(folder.join("closed.txt")).unwrap().ino();
        let folder = folder.to_owned();
        let name = "closed.txt".into();
        Closed { folder, name, inode, how: Compress::Gzip, min_free }
    }

    #[test]
    fn what_does_not_fit_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "1\n");
        let stop = AtomicBool::new(false);
        let error = compress(&closed(folder.path(), u64::MAX / 2), &stop).unwrap_err();
        assert!(format!("{error:#}").contains("engine.min_free"), "{error:#}");
        assert_eq!(names(folder.path()), ["closed.txt"]);
        compress(&closed(folder.path(), 0), &stop).unwrap();
        assert_eq!(names(folder.path()), ["closed.txt.gz"]);
    }

    /// As an earlier version may have left it.
    #[test]
    fn a_file_that_is_there_in_both_forms_is_one() {
        for (other, left) in
            [("1\n", &["closed.txt.gz"][..]), ("2\n", &["closed.txt", "closed.txt.gz"])]
        {
            let folder = tempfile::tempdir().unwrap();
            let stop = AtomicBool::new(false);
            put(folder.path(), other);
            compress(&closed(folder.path(), 0), &stop).unwrap();
            put(folder.path(), "1\n");
            compress(&closed(folder.path(), 0), &stop).unwrap();
            assert_eq!(names(folder.path()), left);
        }
    }
}
