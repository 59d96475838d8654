//! Decompression by suffix, with a limit on how far an input may expand.
//!
//! What holds here: all members of a gzip or zstd file are read; one that ends in the middle is
//! told from one that is broken, since the first may still be arriving.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use super::frame::Reader;
use flate2::bufread::MultiGzDecoder;

/// Output below this many bytes is never taken for a bomb, whatever its ratio.
const BOMB_BYTES: u64 = 1024 * 1024 * 1024;

/// Output bytes for each input byte beyond which a large output is taken for a bomb. Deflate
/// cannot do better than 1032 to 1 (zlib's documentation), so honest data stays far below.
const BOMB_RATIO: u64 = 1000;

/// The compressions that are told by a file's suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// `.gz`: RFC 1952, any number of members.
    Gzip,
    /// `.zst`: RFC 8878, any number of frames.
    Zstd,
}

impl Compression {
    /// The compression of a file with this name.
    pub fn of(name: &[u8]) -> Self {
        if name.ends_with(b".gz") {
            Self::Gzip
        } else if name.ends_with(b".zst") {
            Self::Zstd
        } else {
            Self::None
        }
    }

    /// Reads `reader` through this compression.
    pub fn decompress<'a>(self, reader: impl Read + Send + 'a) -> io::Result<Reader<'a>> {
        match self {
            Self::None => Ok(Box::new(reader)),
            Self::Gzip => guarded(reader, |input| Ok(Box::new(MultiGzDecoder::new(input)))),
            Self::Zstd => guarded(reader, |input| {
                Ok(Box::new(zstd::stream::read::Decoder::with_buffer(input)?))
            }),
        }
    }
}

/// The plain bytes of a file of this name; `None` where they are plain already.
pub fn plain<'a>(name: &OsStr, file: &'a File) -> io::Result<Option<Reader<'a>>> {
    match Compression::of(name.as_encoded_bytes()) {
        Compression::None => Ok(None),
        compression => compression.decompress(file).map(Some),
    }
}

type Count = std::sync::Arc<AtomicU64>;

fn guarded<'a, R: Read + Send + 'a>(
    reader: R,
    decoder: impl FnOnce(BufReader<Counted<R>>) -> io::Result<Reader<'a>>,
) -> io::Result<Reader<'a>> {
    let input = BufReader::with_capacity(64 * 1024, Counted::new(reader));
    let count = input.get_ref().count.clone();
    Ok(Box::new(Guarded { decoder: decoder(input)?, input: count, output: 0 }))
}

/// Counts the bytes that go into the decoder.
struct Counted<R> {
    reader: R,
    count: Count,
}

impl<R> Counted<R> {
    fn new(reader: R) -> Self {
        Self { reader, count: Count::default() }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(buffer)?;
        self.count.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// Refuses to go on with an output that is out of all proportion to its input.
struct Guarded<'a> {
    decoder: Reader<'a>,
    input: Count,
    output: u64,
}

impl Read for Guarded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.decoder.read(buffer)?;
        self.output += got as u64;
        if self.output > BOMB_BYTES && self.output / BOMB_RATIO > self.input.load(Ordering::Relaxed)
        {
            let message = format!(
                "expands more than {BOMB_RATIO} to 1 beyond {BOMB_BYTES} bytes: a compression bomb"
            );
            return Err(io::Error::new(ErrorKind::InvalidData, message));
        }
        Ok(got)
    }
}

/// True when `error` says that the input ended too early, so that it may still be arriving.
pub fn is_truncation(error: &io::Error) -> bool {
    error.kind() == ErrorKind::UnexpectedEof
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        compression.decompress(bytes)?.read_to_end(&mut output)?;
        Ok(output)
    }

    #[test]
    fn all_members_are_read() {
        let gz = [gzip(b"1\n"), gzip(b"2\n")].concat();
        assert_eq!(read(Compression::Gzip, &gz).unwrap(), b"1\n2\n");
        let zst =
            [zstd::encode_all(&b"1\n"[..], 1).unwrap(), zstd::encode_all(&b"2\n"[..], 1).unwrap()];
        assert_eq!(read(Compression::Zstd, &zst.concat()).unwrap(), b"1\n2\n");
    }

    #[test]
    fn the_suffix_decides() {
        assert_eq!(Compression::of(b"a.gz"), Compression::Gzip);
        assert_eq!(Compression::of(b"a.zst"), Compression::Zstd);
        assert_eq!(Compression::of(b"a.gz.1"), Compression::None);
    }

    #[test]
    fn every_truncation_is_told_from_damage() {
        let zst = zstd::encode_all(&b"12345\n"[..], 1).unwrap();
        for (compression, whole) in
            [(Compression::Gzip, gzip(b"12345\n")), (Compression::Zstd, zst)]
        {
            for length in 1..whole.len() {
                let error = read(compression, &whole[..length]).unwrap_err();
                assert!(is_truncation(&error), "{compression:?} {length}: {error}");
            }
        }
        let error = read(Compression::Gzip, b"this is no gzip file").unwrap_err();
        assert!(!is_truncation(&error));
        let error = read(Compression::Zstd, b"this is no zstd file").unwrap_err();
        assert!(!is_truncation(&error));
    }
}
