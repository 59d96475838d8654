//! The format `numbers`: one number per line, by the grammar of Python's `float()`.
//!
//! The fast path is a parser of plain ASCII; whatever it refuses goes through the whole grammar,
//! so that a verdict never depends on which path was taken.
//!
//! On Linux, Python's standard input ends lines at the line feed alone: a carriage return is white space,
//! and a blank line is a bad record.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch};

use super::{decimal, frame};
use crate::record::{Decoded, Reject, numbers_schema};

/// The reason of a reject.
pub const NOT_A_NUMBER: &str = "not a number";

/// Decodes a block.
pub fn decode(block: &[u8], max_record: usize) -> Decoded {
    // Most numbers take more than sixteen bytes; fewer only cost a reallocation.
    let mut numbers = Vec::with_capacity(block.len() / 16);
    let mut rejects = Vec::new();
    let mut rest = block;
    let mut lines = 0;
    while !rest.is_empty() {
        lines += 1;
        if let Some((number, behind)) = fast_line(rest, max_record) {
            numbers.push(number);
            rest = behind;
            continue;
        }
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let whole = rest.get(..end).unwrap_or_default();
        let line = whole.strip_suffix(b"\r").unwrap_or(whole);
        slow_line(lines, line, max_record, &mut numbers, &mut rejects);
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    Decoded { records: batch(numbers), rejects, lines, positions: None, is_as_written: false }
}

/// The number that the first line is, if it is one in plain ASCII, and what comes after the line.
fn fast_line(rest: &[u8], max_record: usize) -> Option<(f64, &[u8])> {
    let parsed = decimal::parse(rest).or_else(|| fast_float2::parse_partial(rest).ok());
    let (number, length) = parsed?;
    let (_, behind) = rest.split_at_checked(length).filter(|_| length <= max_record)?;
    match behind {
        [b'\n', behind @ ..] | [b'\r', b'\n', behind @ ..] => Some((number, behind)),
        _ => None,
    }
}

/// Decodes what the fast path refused.
fn slow_line(
    number_of_line: u64,
    line: &[u8],
    max_record: usize,
    numbers: &mut Vec<f64>,
    rejects: &mut Vec<Reject>,
) {
    if line.len() > max_record {
        rejects.push(frame::reject_too_long(number_of_line, line, max_record));
    } else if let Some(number) = parse(line) {
        numbers.push(number);
    } else {
        rejects.push(frame::reject(number_of_line, NOT_A_NUMBER, line));
    }
}

fn batch(numbers: Vec<f64>) -> RecordBatch {
    let column: ArrayRef = Arc::new(Float64Array::from(numbers));
    RecordBatch::try_new(numbers_schema(), vec![column]).expect("one column without nulls")
}

/// The result of Python's `float(text)` for these bytes as UTF-8; `None` where it raises.
///
/// The grammar is that of `CPython`'s `float_from_string` (Objects/floatobject.c): surrounding white
/// space, any Unicode decimal digits, underscores between digits, `inf`, `infinity` and `nan`.
pub fn parse(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?.trim_matches(is_python_space);
    let mut plain = String::with_capacity(text.len());
    let mut previous = ' ';
    for character in text.chars() {
        let character = ascii_digit(character)?;
        let after_underscore = previous == '_';
        if after_underscore && !character.is_ascii_digit() {
            return None;
        }
        if character == '_' {
            if !previous.is_ascii_digit() {
                return None;
            }
        } else {
            plain.push(character);
        }
        previous = character;
    }
    if previous == '_' {
        return None;
    }
    fast_float2::parse(plain.as_bytes()).ok()
}

/// `str.isspace` of Python: the white space of Unicode and the four ASCII separators.
fn is_python_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// The ASCII character that `float` sees; `None` for one that has no place in a number.
fn ascii_digit(character: char) -> Option<char> {
    if character.is_ascii() {
        return Some(character);
    }
    let code = u32::from(character);
    let zero = DECIMAL_ZEROS.iter().rev().find(|zero| **zero <= code)?;
    char::from_digit(code - zero, 10)
}

/// The digit zero of each run of ten decimal digits (general category Nd) beyond ASCII, as of
/// Unicode 14, which is what `CPython` 3.11 knows.
const DECIMAL_ZEROS: [u32; 65] = [
    0x0660, 0x06f0, 0x07c0, 0x0966, 0x09e6, 0x0a66, 0x0ae6, 0x0b66, 0x0be6, 0x0c66, 0x0ce6, 0x0d66,
    0x0de6, 0x0e50, 0x0ed0, 0x0f20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90,
    0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650,
    0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50,
    0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(text: &str) -> Option<u64> {
        parse(text.as_bytes()).map(f64::to_bits)
    }

    #[test]
    fn takes_what_python_takes() {
        for (text, number) in [
            ("1", 1.0),
            (" \t1.5\u{a0}\u{1c}", 1.5),
            ("1_000.0_1e1_0", 1000.01e10),
            (".5", 0.5),
            ("5.", 5.0),
            ("-0", -0.0),
            ("+inF", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("1e400", f64::INFINITY),
            ("1e-400", 0.0),
            ("\u{661}\u{662}.\u{663}", 12.3),
            ("\u{ff11}_\u{1d7d9}", 11.0),
        ] {
            assert_eq!(bits(text), Some(number.to_bits()), "{text:?}");
        }
        assert!(parse(b"nan").is_some_and(f64::is_nan));
    }

    #[test]
    fn refuses_what_python_refuses() {
        for text in [
            "",
            " ",
            ".",
            "e5",
            "1e",
            "1__0",
            "_1",
            "1_",
            "1_.5",
            "1._5",
            "1e_5",
            "0x10",
            "1 2",
            "1\0",
            "nan(1)",
            "infinit",
            "1,5",
            "\u{bc}",
            "\u{feff}1",
            "--1",
            "1f",
        ] {
            assert_eq!(bits(text), None, "{text:?}");
        }
        assert_eq!(parse(b"1\xff"), None);
    }

    #[test]
    fn a_lone_carriage_return_is_white_space() {
        let decoded = decode(b"1\rx\r\n\r\n\r2\r", 100);
        assert_eq!((decoded.lines, decoded.records.num_rows()), (3, 1));
        let lines: Vec<_> = decoded.rejects.iter().map(|reject| reject.line).collect();
        assert_eq!(lines, [Some(1), Some(2)]);
    }

    #[test]
    fn lines_are_counted_whatever_their_verdict() {
        let decoded = decode(b"1\nx\n2", 100);
        assert_eq!((decoded.lines, decoded.records.num_rows(), decoded.rejects.len()), (3, 2, 1));
        assert_eq!(decode(b"", 100).lines, 0);
    }
}
