//! Where the delimiters and line ends of a block are, sixty-four bytes at a time.
//!
//! A search for the next one costs more to begin than the few bytes of a field cost to look at. Bytes
//! are compared eight at once in one word, as in H. S. Warren, "Hacker's Delight", second edition,
//! section 6-1 ("Find First 0-Byte"), and what is found is kept as one bit for each byte.

/// Bytes that are looked at together.
const CHUNK: usize = 64;

/// A one in each byte.
const ONES: u64 = 0x0101_0101_0101_0101;

/// All bits of each byte but the highest.
const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;

/// The places of a delimiter or a line feed in a block, in their order.
pub struct Separators<'a> {
    chunks: std::slice::Iter<'a, [u8; CHUNK]>,
    rest: &'a [u8],
    delimiter: u64,
    /// Where the chunk ends that `found` is about.
    end: usize,
    found: u64,
}

impl<'a> Separators<'a> {
    pub fn new(block: &'a [u8], delimiter: u8) -> Self {
        let (chunks, rest) = block.as_chunks();
        let delimiter = u64::from(delimiter) * ONES;
        Self { chunks: chunks.iter(), rest, delimiter, end: 0, found: 0 }
    }

    /// A bit for each byte of a chunk, set where it is one of the two.
    #[inline]
    fn look(&self, chunk: &[u8; CHUNK]) -> u64 {
        let (words, _) = chunk.as_chunks();
        words.iter().rev().fold(0, |found, word| {
            let word = u64::from_le_bytes(*word);
            let is_either = zeros(word ^ self.delimiter) | zeros(word ^ (u64::from(b'\n') * ONES));
            found << 8 | bits(is_either)
        })
    }
}

impl Iterator for Separators<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.found == 0 {
            if let Some(chunk) = self.chunks.next() {
                self.found = self.look(chunk);
            } else if self.rest.is_empty() {
                return None;
            } else {
                let mut chunk = [0; CHUNK];
                chunk.iter_mut().zip(self.rest).for_each(|(byte, of_rest)| *byte = *of_rest);
                let behind = self.rest.len();
                self.rest = &[];
                self.found = self.look(&chunk) & !(u64::MAX << behind);
            }
            self.end += CHUNK;
        }
        let at = self.end - CHUNK + self.found.trailing_zeros() as usize;
        self.found &= self.found - 1;
        Some(at)
    }
}

/// The highest bit of each byte that is zero.
#[inline]
fn zeros(word: u64) -> u64 {
    !(((word & LOW) + LOW) | word | LOW)
}

/// The highest bits of the bytes, one beside the other: no two products of this multiplication meet.
#[inline]
fn bits(word: u64) -> u64 {
    (word >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_separator_is_found(
            block in prop::collection::vec(
                prop::sample::select(b"ab\n,-\x8c\xac\x00\xff\x2d\x2b\x0b".to_vec()),
                0..300,
            ),
            delimiter in prop::sample::select(b",;\t|".to_vec()),
        ) {
            let found: Vec<_> = Separators::new(&block, delimiter).collect();
            let expected: Vec<_> = memchr::memchr2_iter(delimiter, b'\n', &block).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
