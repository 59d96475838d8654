//! Decompression, with a limit on how far an input may expand.
//!
//! Invariants: what a file is, its first bytes say. All members of a gzip or zstd file are read,
//! and zeros that pad it are no data; one that ends in the middle is told from one that is broken, since
//! the first may still be arriving.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::GzDecoder;
use serde::{Deserialize, Serialize};

use super::frame::Reader;
pub use super::recognition::Kind;
use super::recognition::peek;

/// Output below this many bytes is never taken for a bomb, whatever its ratio.
const BOMB_BYTES: u64 = 1024 * 1024 * 1024;

/// Output bytes for each input byte beyond which a large output is taken for a bomb. Deflate
/// cannot do better than 1032 to 1 (zlib's documentation), so honest data stays far below.
const BOMB_RATIO: u64 = 1000;

/// `input.compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Compressed files are recognised and decompressed; an unreadable one is a bad file.
    #[default]
    Auto,
    /// Bytes are taken as they are.
    None,
}

impl Compression {
    /// How a job with this setting treats a file of this name and kind. `any` says that it makes
    /// something of any bytes.
    ///
    /// # Errors
    /// When the file is of a kind that cannot be read, or is not what its name says.
    pub fn of(self, name: &OsStr, kind: Kind, is_empty: bool, any: bool) -> io::Result<Kind> {
        let said = Kind::of_name(name);
        match kind {
            _ if self == Self::None || is_empty => Ok(Kind::Plain),
            Kind::Unread(_) if any => Ok(Kind::Plain),
            Kind::Unread(what) => Err(bad(format!(
                "is a {what} file, which this format does not read: unpack it first, or take its bytes \
                 as they are with `input.compression = \"none\"`"
            ))),
            Kind::Plain if said != Kind::Plain => Err(bad(format!(
                "is no {} file, as its name says: its first bytes are others",
                if said == Kind::Gzip { "gzip" } else { "zstd" }
            ))),
            kind => Ok(kind),
        }
    }

    /// The plain bytes of a reader, whatever its first bytes say it is.
    ///
    /// # Errors
    /// As [`Compression::of`], and when it cannot be read.
    pub fn read<'a>(
        self,
        name: &OsStr,
        reader: impl Read + Send + 'a,
        any: bool,
    ) -> io::Result<Reader<'a>> {
        let (head, reader) = peek(reader)?;
        let kind = Kind::of(&head);
        if kind == Kind::Plain && self == Self::Auto && is_cut_signature(name, &head) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        decompress(self.of(name, kind, head.is_empty(), any)?, reader)
    }
}

/// True for the first byte or so of a file that is to be compressed, and has no more yet.
fn is_cut_signature(name: &OsStr, head: &[u8]) -> bool {
    let signature: &[u8] = match Kind::of_name(name) {
        Kind::Gzip => b"\x1f\x8b",
        Kind::Zstd => b"\x28\xb5\x2f\xfd",
        Kind::Plain | Kind::Unread(_) => return false,
    };
    !head.is_empty() && head.len() < signature.len() && signature.starts_with(head)
}

fn bad(message: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, message)
}

/// Reads `reader` through this compression.
pub fn decompress<'a>(kind: Kind, reader: impl Read + Send + 'a) -> io::Result<Reader<'a>> {
    match kind {
        Kind::Plain | Kind::Unread(_) => Ok(Box::new(reader)),
        Kind::Gzip => guarded(reader, |input| Ok(Box::new(Members::new(Gzip(Some(input)))))),
        Kind::Zstd => guarded(reader, |input| Ok(Box::new(Members::new(Zstd(Some(input)))))),
    }
}

/// The plain bytes of a file of this name; `None` where they are plain already.
pub fn plain<'a>(name: &OsStr, file: &'a File) -> io::Result<Option<Reader<'a>>> {
    let kind = Kind::of_file(file)?;
    if kind == Kind::Plain && Kind::of_name(name) == Kind::Plain {
        return Ok(None);
    }
    Compression::Auto.read(name, file, true).map(Some)
}

/// A file of members that follow each other.
struct Members<M: Member> {
    waiting: M,
    current: Option<M::Decoder>,
    is_over: bool,
}

/// How one member is read.
trait Member {
    /// Reads one member.
    type Decoder: Read;
    /// The first bytes of a member.
    const SIGNATURE: &'static [u8];
    /// The input, between two members.
    type Input: BufRead;
    fn input(&mut self) -> Option<&mut Self::Input>;
    fn begin(&mut self) -> io::Result<Option<Self::Decoder>>;
    fn end(&mut self, decoder: Self::Decoder);
}

impl<M: Member> Members<M> {
    fn new(waiting: M) -> Self {
        Self { waiting, current: None, is_over: false }
    }

    /// Begins the next member, or finds that there is none: zeros may follow the last one.
    fn advance(&mut self, is_first: bool) -> io::Result<()> {
        let Some(input) = self.waiting.input() else {
            self.is_over = true;
            return Ok(());
        };
        let mut padded = 0_u64;
        loop {
            let next = match input.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                next => next?,
            };
            let zeros = next.iter().take_while(|byte| **byte == 0).count();
            let is_zeros = zeros == next.len();
            let first = next.first().copied();
            if next.is_empty() {
                self.is_over = true;
                return Ok(());
            }
            if is_zeros && !is_first {
                padded += zeros as u64;
                input.consume(zeros);
                continue;
            }
            let begins = padded == 0 && zeros == 0 && first == M::SIGNATURE.first().copied();
            let skips = M::SIGNATURE.len() == 4 && first.is_some_and(|first| first >> 4 == 5);
            if !is_first && !begins && !skips {
                return Err(bad("has bytes after its last member that are none".to_owned()));
            }
            self.current = self.waiting.begin()?;
            return Ok(());
        }
    }
}

impl<M: Member> Read for Members<M> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut is_first = self.current.is_none() && self.waiting.input().is_some();
        while !self.is_over {
            let Some(decoder) = &mut self.current else {
                self.advance(is_first)?;
                continue;
            };
            let got = decoder.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            is_first = false;
            if let Some(decoder) = self.current.take() {
                self.waiting.end(decoder);
            }
        }
        Ok(0)
    }
}

struct Gzip<R>(Option<R>);

impl<R: BufRead> Member for Gzip<R> {
    type Decoder = GzDecoder<R>;
    type Input = R;
    const SIGNATURE: &'static [u8] = b"\x1f\x8b";

    fn input(&mut self) -> Option<&mut R> {
        self.0.as_mut()
    }

    fn begin(&mut self) -> io::Result<Option<Self::Decoder>> {
        Ok(self.0.take().map(GzDecoder::new))
    }

    fn end(&mut self, decoder: Self::Decoder) {
        self.0 = Some(decoder.into_inner());
    }
}

struct Zstd<R>(Option<R>);

impl<R: BufRead> Member for Zstd<R> {
    type Decoder = zstd::stream::read::Decoder<'static, R>;
    type Input = R;
    const SIGNATURE: &'static [u8] = b"\x28\xb5\x2f\xfd";

    fn input(&mut self) -> Option<&mut R> {
        self.0.as_mut()
    }

    fn begin(&mut self) -> io::Result<Option<Self::Decoder>> {
        let Some(input) = self.0.take() else { return Ok(None) };
        Ok(Some(zstd::stream::read::Decoder::with_buffer(input)?.single_frame()))
    }

    fn end(&mut self, decoder: Self::Decoder) {
        self.0 = Some(decoder.finish());
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

    fn read(kind: Kind, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        decompress(kind, bytes)?.read_to_end(&mut output)?;
        Ok(output)
    }

    #[test]
    fn all_members_are_read() {
        let gz = [gzip(b"1\n"), gzip(b"2\n")].concat();
        assert_eq!(read(Kind::Gzip, &gz).unwrap(), b"1\n2\n");
        let zst =
            [zstd::encode_all(&b"1\n"[..], 1).unwrap(), zstd::encode_all(&b"2\n"[..], 1).unwrap()];
        assert_eq!(read(Kind::Zstd, &zst.concat()).unwrap(), b"1\n2\n");
    }

    #[test]
    fn zeros_pad_and_garbage_does_not() {
        for (kind, whole) in
            [(Kind::Gzip, gzip(b"1\n")), (Kind::Zstd, zstd::encode_all(&b"1\n"[..], 1).unwrap())]
        {
            for padding in [1, 3, 512, 200_000] {
                let padded = [whole.clone(), vec![0; padding]].concat();
                assert_eq!(read(kind, &padded).unwrap(), b"1\n", "{kind:?} {padding}");
                let twice = [padded, whole.clone()].concat();
                assert!(!is_truncation(&read(kind, &twice).unwrap_err()), "{kind:?}");
            }
            for garbage in [&b"t"[..], b"tail\n", b"this is no member at all"] {
                let error = read(kind, &[&whole, garbage].concat()).unwrap_err();
                assert!(!is_truncation(&error), "{kind:?} {garbage:?}: {error}");
                assert!(error.to_string().contains("after its last member"), "{error}");
            }
        }
    }

    #[test]
    fn a_name_that_says_otherwise_is_told_at_once() {
        let read = |name: &str, bytes: &'static [u8]| {
            let mut output = Vec::new();
            let reader = Compression::Auto.read(OsStr::new(name), bytes, false);
            reader.and_then(|mut reader| reader.read_to_end(&mut output)).map(|_| output)
        };
        assert_eq!(read("a", b"1\n").unwrap(), b"1\n");
        assert_eq!(read("a.gz", b"").unwrap(), b"");
        assert!(is_truncation(&read("a.gz", b"\x1f").unwrap_err()));
        assert!(!is_truncation(&read("a.gz", b"1\n").unwrap_err()));
        assert!(read("a", b"PK\x03\x04").unwrap_err().to_string().contains("zip"));
    }

    #[test]
    fn every_truncation_is_told_from_damage() {
        let zst = zstd::encode_all(&b"12345\n"[..], 1).unwrap();
        for (kind, whole) in [(Kind::Gzip, gzip(b"12345\n")), (Kind::Zstd, zst)] {
            for length in 1..whole.len() {
                let error = read(kind, &whole[..length]).unwrap_err();
                assert!(is_truncation(&error), "{kind:?} {length}: {error}");
            }
        }
        let error = read(Kind::Gzip, b"this is no gzip file").unwrap_err();
        assert!(!is_truncation(&error));
        let error = read(Kind::Zstd, b"this is no zstd file").unwrap_err();
        assert!(!is_truncation(&error));
    }
}
