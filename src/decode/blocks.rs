//! The pieces of one input, whether its bytes come one after the other or its records do.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use arrow_schema::SchemaRef;

use super::Format;
use super::frame::{Block, Framer};

/// An input that brings its records by columns, so that nothing is left to decode.
pub trait Columnar: Send {
    /// As [`Blocks::next_block`].
    fn next_block(&mut self) -> io::Result<Option<Block>>;

    /// As [`Blocks::schema`].
    fn schema(&self) -> Option<&SchemaRef>;

    /// As [`Blocks::is_at_end`].
    fn is_at_end(&self) -> bool;
}

/// The blocks of one input.
pub enum Blocks<'a> {
    /// Of bytes.
    Framed(Framer<'a>),
    /// Of records.
    Decoded(Box<dyn Columnar>),
}

impl<'a> From<Framer<'a>> for Blocks<'a> {
    fn from(framer: Framer<'a>) -> Self {
        Self::Framed(framer)
    }
}

impl<R: Columnar + 'static> From<R> for Blocks<'_> {
    fn from(reader: R) -> Self {
        Self::Decoded(Box::new(reader))
    }
}

impl Blocks<'_> {
    /// The next block, or `None` at the end.
    pub fn next_block(&mut self) -> io::Result<Option<Block>> {
        match self {
            Self::Framed(framer) => framer.next_block(),
            Self::Decoded(reader) => reader.next_block(),
        }
    }

    /// The next bytes as they stand in the input, and whether it has nothing more for now.
    pub fn next_bytes(&mut self) -> io::Result<Option<(Vec<u8>, bool)>> {
        match self {
            Self::Framed(framer) => framer.next_bytes(),
            Self::Decoded(_) => Ok(None),
        }
    }

    /// The columns that the input itself says it has.
    pub fn schema(&self) -> Option<&SchemaRef> {
        match self {
            Self::Framed(_) => None,
            Self::Decoded(reader) => reader.schema(),
        }
    }

    /// From now on blocks say on which line they begin.
    pub fn count_lines(&mut self) {
        match self {
            Self::Framed(framer) => framer.count_lines(),
            Self::Decoded(_) => {}
        }
    }

    /// Takes back the buffer of a block that is done.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        match self {
            Self::Framed(framer) => framer.recycle(buffer),
            Self::Decoded(_) => {}
        }
    }

    /// True for a live stream.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Framed(framer) if framer.is_live())
    }

    /// True when all blocks have been given out.
    pub fn is_at_end(&self) -> bool {
        match self {
            Self::Framed(framer) => framer.is_at_end(),
            Self::Decoded(reader) => reader.is_at_end(),
        }
    }
}

impl Format {
    /// True when an input is read here and there, and not from its beginning to its end.
    pub fn needs_file(&self) -> bool {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(_) => true,
            _ => false,
        }
    }

    /// The blocks of the first `size` bytes of a file in a format that needs one; `None` for the
    /// formats that are read from a stream of bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends in the middle.
    pub fn open(&self, file: &File, size: u64) -> io::Result<Option<Blocks<'static>>> {
        let _ = (file, size);
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(parquet) => parquet.open(file, size).map(|reader| Some(reader.into())),
            _ => Ok(None),
        }
    }

    /// The blocks of several files, one after the other, in a format that needs files; `None` for the others.
    pub fn chain(&self, paths: Vec<PathBuf>) -> Option<Blocks<'static>> {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(parquet) => Some(parquet.chain(paths).into()),
            _ => {
                drop(paths);
                None
            }
        }
    }
}
