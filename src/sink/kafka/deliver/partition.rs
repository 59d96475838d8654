//! The partition of what is hashed by us.

/// Kafka's 32-bit murmur2 (`Utils.murmur2` in `clients`, seed 0x9747b28c), after Austin Appleby's `MurmurHash2`.
fn murmur2(data: &[u8]) -> u32 {
    const FACTOR: u32 = 0x5bd1_e995;
    let mix = |word: u32| {
        let word = word.wrapping_mul(FACTOR);
        (word ^ (word >> 24)).wrapping_mul(FACTOR)
    };
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, rest) = data.as_chunks::<4>();
    let hash = words.iter().fold(0x9747_b28c ^ length, |hash, word| {
        hash.wrapping_mul(FACTOR) ^ mix(u32::from_le_bytes(*word))
    });
    let hash = if rest.is_empty() {
        hash
    } else {
        let last = rest.iter().rev().fold(0, |word: u32, byte| (word << 8) | u32::from(*byte));
        (hash ^ last).wrapping_mul(FACTOR)
    };
    let hash = (hash ^ (hash >> 13)).wrapping_mul(FACTOR);
    hash ^ (hash >> 15)
}

/// The partition that Java's producer gives to this key.
pub fn of(key: &[u8], partitions: i32) -> i32 {
    let positive = (murmur2(key) & 0x7fff_ffff).cast_signed();
    positive % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of `UtilsTest.testMurmur2` in Kafka's clients.
    #[test]
    fn it_is_the_hash_of_java() {
        for (text, expected) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), expected, "{text}");
        }
    }

    #[test]
    fn a_partition_is_one_of_those_there_are() {
        for length in 0..40_u8 {
            assert!((0..6).contains(&of(&vec![length; length.into()], 6)));
        }
        assert_eq!(of(b"x", 0), 0);
    }
}
