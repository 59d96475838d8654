//! The numbers grammar against CPython: what `float()` takes, and how `repr()` writes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;

use crate::support::Spool;
use crate::support::spool::NUMBERS;
use spoolmill::decode::numbers;
use spoolmill::encode::Format;

fn printed(number: f64) -> String {
    let block = format!("{number:?}");
    let mut decoded = spoolmill::decode::Format::Numbers {}
        .decoder(b"", 1000)
        .unwrap()
        .0
        .decode(block.as_bytes(), 1000)
        .records;
    if number.is_nan() {
        decoded = spoolmill::decode::Format::Numbers {}
            .decoder(b"", 1000)
            .unwrap()
            .0
            .decode(b"nan", 1000)
            .records;
    }
    let mut text = Vec::new();
    Format::Numbers {}.encode(&decoded, &mut text).unwrap();
    String::from_utf8(text).unwrap().trim_end().to_owned()
}

/// The file was written by CPython with the script beside it.
#[test]
fn agrees_with_python_on_what_python_said() {
    let text = include_str!("fixtures/python_float.jsonl");
    let mut compared = 0;
    for line in text.lines() {
        let (input, expected): (String, Option<String>) = serde_json::from_str(line).unwrap();
        let input = BASE64.decode(input).unwrap();
        let found = numbers::parse(&input).map(printed);
        assert_eq!(found, expected, "{}", input.escape_ascii());
        // The block decoder takes the fast path first; the verdict must be the same.
        if !input.contains(&b'\n') && !input.contains(&b'\r') && !input.is_empty() {
            let decoded = numbers::decode(&input, 10_000);
            assert_eq!(decoded.rejects.is_empty(), expected.is_some(), "{}", input.escape_ascii());
        }
        compared += 1;
    }
    assert!(compared > 10_000);
}

/// Where Python is installed, the whole program against the whole script.
#[test]
fn agrees_with_the_script_itself() {
    if !crate::support::has("python3") {
        return crate::support::skipped("python3 is not installed");
    }
    let text = include_str!("fixtures/python_float.jsonl");
    let mut input = Vec::new();
    for line in text.lines().take(4000) {
        let (text, _): (String, Option<String>) = serde_json::from_str(line).unwrap();
        input.extend(BASE64.decode(text).unwrap());
        input.push(b'\n');
    }
    let spool = Spool::new(NUMBERS);
    let ours = spool.pipe("stream", &[], &input);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/config/simple.py");
    std::fs::write(spool.path("input"), &input).unwrap();
    let theirs = std::process::Command::new("python3")
        .arg(script)
        .env("PYTHONIOENCODING", "utf-8")
        .stdin(std::fs::File::open(spool.path("input")).unwrap())
        .output()
        .unwrap();
    assert!(theirs.status.success());
    assert_eq!(String::from_utf8(ours.stdout), String::from_utf8(theirs.stdout));
    let rejects = String::from_utf8(ours.stderr).unwrap().lines().count();
    let invalid = String::from_utf8(theirs.stderr).unwrap().matches("Invalid input:").count();
    assert_eq!(rejects, invalid);
}

proptest! {
    /// Every number that is written reads back as itself.
    #[test]
    fn what_is_written_reads_back(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        let text = printed(number);
        let back = numbers::parse(text.as_bytes()).unwrap();
        prop_assert!(back.to_bits() == bits || number.is_nan() && back.is_nan(), "{}", text);
    }

    /// The parser never panics, and takes nothing that it would not take with spaces around it.
    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let plain = numbers::parse(&bytes).map(f64::to_bits);
        let spaced = numbers::parse(&[b" ", bytes.as_slice(), b"\t"].concat()).map(f64::to_bits);
        prop_assert_eq!(plain, spaced);
    }
}
