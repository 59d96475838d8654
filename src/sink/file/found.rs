//! Compares the file at the path of an output with the ledger.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use crate::durable::Likeness;
use crate::microbatch::{FileId, OutputFile, Position};

/// Bytes read at once.
const READ_BYTES: usize = 1024 * 1024;

/// The file at the path of an output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub length: u64,
    pub id: FileId,
    pub like: Likeness,
}

impl Found {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let born =
            metadata.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let born_ns = born.and_then(|since| i64::try_from(since.as_nanos()).ok());
        let id = FileId { inode: metadata.ino(), born_ns };
        Self { length: metadata.len(), id, like: Likeness::of(metadata) }
    }
}

/// True when another file than the one that was continued has its name.
pub(super) fn is_other(known: Option<OutputFile>, position: Position, there: FileId) -> bool {
    let known = known.filter(|known| known.generation == position.generation);
    known.and_then(|known| known.id).is_some_and(|id| !id.is_same(&there))
}

/// CRC-32 over a part of a file.
pub fn checksum(file: &File, start: u64, length: u64) -> std::io::Result<u32> {
    let mut checksum = crc32fast::Hasher::new();
    let most = usize::try_from(length).unwrap_or(READ_BYTES).min(READ_BYTES);
    let mut buffer = vec![0; most];
    let mut at = start;
    let end = start + length;
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
