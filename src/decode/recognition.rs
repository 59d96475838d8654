//! Recognises files by their first bytes, regardless of their names.
//!
//! Invariants: the signatures are those of file(1) and of the formats' own specifications. What is
//! not recognised is plain.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

/// Bytes that are looked at: a tar archive has its signature at 257.
pub const HEAD_BYTES: usize = 263;

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// None of the following.
    Plain,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
    /// One that this program does not read: what it is.
    Unread(&'static str),
}

/// Signatures at the beginning of a file.
const SIGNATURES: [(&[u8], Kind); 14] = [
    (b"\x1f\x8b", Kind::Gzip),
    (b"\x28\xb5\x2f\xfd", Kind::Zstd),
    (b"BZh", Kind::Unread("bzip2")),
    (b"\xfd7zXZ\0", Kind::Unread("xz")),
    (b"PK\x03\x04", Kind::Unread("zip")),
    (b"PK\x05\x06", Kind::Unread("zip")),
    (b"7z\xbc\xaf\x27\x1c", Kind::Unread("7z")),
    (b"Rar!\x1a\x07", Kind::Unread("rar")),
    (b"\x04\x22\x4d\x18", Kind::Unread("lz4")),
    (b"\x1f\x9d", Kind::Unread("compress")),
    (b"\xff\x06\0\0sNaPpY", Kind::Unread("snappy")),
    (b"PAR1", Kind::Unread("parquet")),
    (b"Obj\x01", Kind::Unread("avro")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind::Unread("Office")),
];

impl Kind {
    /// The kind of a file that begins with these bytes.
    pub fn of(head: &[u8]) -> Self {
        let is_skippable = matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
        let known = SIGNATURES.into_iter().find(|(signature, _)| head.starts_with(signature));
        match known {
            // A text may begin with these letters; the digit is the block size, and then comes pi.
            Some((b"PAR1", _)) if head.get(4).is_some_and(|byte| !byte.is_ascii_control()) => {
                Self::Plain
            }
            Some((b"BZh", _)) if head.get(4..10) != Some(b"1AY&SY") => Self::Plain,
            Some((_, kind)) => kind,
            None if is_skippable => Self::Zstd,
            None if head.get(257..262) == Some(b"ustar") => Self::Unread("tar"),
            None => Self::Plain,
        }
    }

    /// The kind of an open file.
    pub fn of_file(file: &File) -> io::Result<Self> {
        let mut head = [0; HEAD_BYTES];
        let got = file.read_at(&mut head, 0)?;
        Ok(Self::of(head.get(..got).unwrap_or_default()))
    }

    /// The kind that a name suggests, by its suffix in any case; `Plain` if it suggests none.
    pub fn of_name(name: &OsStr) -> Self {
        let name = name.as_encoded_bytes();
        let ends = |suffix: &[u8]| {
            let end = name.len().checked_sub(suffix.len()).and_then(|at| name.get(at..));
            end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        };
        if ends(b".gz") || ends(b".tgz") {
            Self::Gzip
        } else if ends(b".zst") {
            Self::Zstd
        } else {
            Self::Plain
        }
    }
}

/// The first bytes of a reader, and a reader of all of it.
pub fn peek<'a>(
    mut reader: impl Read + Send + 'a,
) -> io::Result<(Vec<u8>, super::frame::Reader<'a>)> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    reader.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(io::Cursor::new(head).chain(reader))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        for (head, kind) in [
            (&b"\x1f\x8b\x08"[..], Kind::Gzip),
            (b"\x28\xb5\x2f\xfd", Kind::Zstd),
            (b"\x50\x2a\x4d\x18", Kind::Zstd),
            (b"PK\x03\x04...", Kind::Unread("zip")),
            (b"BZh91AY&SY", Kind::Unread("bzip2")),
            (b"BZh is a word\n", Kind::Plain),
            (b"id,t\n", Kind::Plain),
            (b"", Kind::Plain),
        ] {
            assert_eq!(Kind::of(head), kind, "{head:?}");
        }
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(Kind::of(&tar), Kind::Unread("tar"));
    }

    #[test]
    fn a_suffix_counts_in_any_case() {
        assert_eq!(Kind::of_name(OsStr::new("a.GZ")), Kind::Gzip);
        assert_eq!(Kind::of_name(OsStr::new("a.Zst")), Kind::Zstd);
        assert_eq!(Kind::of_name(OsStr::new("a.gz.1")), Kind::Plain);
    }
}
