//! The block decoder and the grammar agree on every line, and what is written reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spoolmill::decode::numbers;

fuzz_target!(|data: &[u8]| {
    let decoded = numbers::decode(data, 1000);
    let rows = decoded.records.num_rows() + decoded.rejects.len();
    assert_eq!(rows as u64, decoded.lines);
    let mut text = Vec::new();
    spoolmill::sink::Format::Numbers {}.encode(&decoded.records, &mut text).unwrap();
    let again = numbers::decode(&text, 1000);
    assert!(again.rejects.is_empty());
    let mut twice = Vec::new();
    spoolmill::sink::Format::Numbers {}.encode(&again.records, &mut twice).unwrap();
    assert_eq!(text, twice);
});
