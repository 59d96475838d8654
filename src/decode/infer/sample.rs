//! Infers columns and types from the records of a sample.
//!
//! Invariants: a type is guessed only when the input's own decoder takes every value that was seen
//! as it, and no value loses anything: `01234` is a text. Records that the job would reject tell nothing.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::decode::quotes::{self, Dialect, End, Field};
use crate::decode::{build, frame};
use crate::record::columns::{Columns, DECIMAL_DIGITS_MAX, Type};

/// Records of a sample that are looked at.
const RECORDS: usize = 100_000;

/// Delimiters to try besides the one that the file name suggests.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// The types that are guessed: of those that fit all values, the first is the column's.
const TYPES: [Type; 6] = [
    Type::Bigint,
    Type::Decimal(DECIMAL_DIGITS_MAX, 0),
    Type::Double,
    Type::Boolean,
    Type::Date,
    Type::Timestamp,
];

/// The types that all values of a column fit so far.
#[derive(Clone, Copy, Default)]
struct Guess {
    /// A value was seen that tells.
    is_seen: bool,
    /// By type, that a value was not of it.
    is_not: [bool; TYPES.len()],
}

impl Guess {
    /// Takes account of a value.
    fn see(&mut self, fits: impl Fn(Type) -> bool) {
        self.is_seen = true;
        for (is_not, kind) in self.is_not.iter_mut().zip(TYPES) {
            *is_not = *is_not || !fits(kind);
        }
    }

    fn kind(self) -> Type {
        let mut fitting = TYPES.into_iter().zip(self.is_not).filter(|(_, is_not)| !is_not);
        let first = fitting.next().filter(|_| self.is_seen);
        first.map_or(Type::Varchar, |(kind, _)| kind)
    }
}

/// True when a text is of a type, and that type keeps all of it.
fn fits(kind: Type, text: &str) -> bool {
    let text = text.trim_ascii();
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Postcodes and account numbers begin with zeros, and telephone numbers with a plus.
    let is_code = matches!(digits.as_bytes(), [b'0', b'0'..=b'9', ..] | [b'+', ..]);
    match kind {
        Type::Bigint | Type::Decimal(..) => is_whole && !is_code && build::reads(kind, text),
        Type::Double if is_whole => fits(Type::Bigint, text),
        Type::Double => !is_code && build::reads(kind, text),
        Type::Boolean => ["true", "false"].iter().any(|word| text.eq_ignore_ascii_case(word)),
        // A number is no time.
        _ => text.contains(['-', '/']) && !is_whole && build::reads(kind, text),
    }
}

/// The delimiter and the columns of a CSV file that begins with these bytes.
///
/// # Errors
/// When it has no header.
pub fn csv(bytes: &[u8], whole: bool, said: u8) -> Result<(u8, Columns), String> {
    let one = |delimiter: u8| records(bytes, whole, delimiter).next().map(|names| names.len());
    let width = one(said).unwrap_or(0);
    let others = DELIMITERS.into_iter().filter(|delimiter| *delimiter != said);
    let other =
        others.filter(|other| is_table(bytes, whole, *other)).max_by_key(|other| one(*other));
    let delimiter = if width > 1 { said } else { other.unwrap_or(said) };
    let mut records = records(bytes, whole, delimiter);
    let names: Vec<_> = records
        .next()
        .ok_or("the sample has no header")?
        .into_iter()
        .map(|field| quotes::name(field, bytes))
        .collect();
    let mut guesses = vec![Guess::default(); names.len()];
    for fields in records.take(RECORDS).filter(|fields| fields.len() == names.len()) {
        for (guess, field) in guesses.iter_mut().zip(fields) {
            let Ok(text) = std::str::from_utf8(field.bytes(bytes)) else { continue };
            if !text.is_empty() {
                guess.see(|kind| fits(kind, text));
            }
        }
    }
    let columns = names.into_iter().zip(guesses).map(|(name, guess)| (name, guess.kind()));
    Ok((delimiter, Columns(columns.collect())))
}

/// Records that have to agree with the header on a delimiter that the name of the file does not say.
const AGREEING: usize = 10;

/// True when the first records have as many fields as the header, and more than one.
fn is_table(bytes: &[u8], whole: bool, delimiter: u8) -> bool {
    let widths: Vec<_> =
        records(bytes, whole, delimiter).take(AGREEING).map(|fields| fields.len()).collect();
    widths.first().is_some_and(|first| *first > 1 && widths.iter().all(|width| width == first))
}

/// The fields of the records that are not blank.
fn records(bytes: &[u8], whole: bool, delimiter: u8) -> impl Iterator<Item = Vec<Field>> {
    let dialect = Dialect { delimiter, quote: b'"' };
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let mut fields = Vec::new();
            let start = at;
            match dialect.walk(bytes, at, bytes.len(), whole, |field| fields.push(field)) {
                End::Record(end) => at = end,
                End::Broken(next) | End::Long(next) => {
                    at = next;
                    continue;
                }
                End::Unknown => return None,
            }
            if !quotes::is_blank(bytes.get(start..at).unwrap_or_default()) {
                return Some(fields);
            }
        }
        None
    })
}

/// The columns of a file of JSON that begins with these bytes, in the order in which they come.
///
/// # Errors
/// When no line is an object.
pub fn json(bytes: &[u8], whole: bool) -> Result<Columns, String> {
    let end = if whole { bytes.len() } else { memchr::memrchr(b'\n', bytes).unwrap_or(0) };
    let mut names = HashMap::new();
    let mut guesses = Vec::new();
    let mut is_object = false;
    for (_, line) in frame::lines(bytes.get(..end).unwrap_or_default()).take(RECORDS) {
        let Ok(Pairs(pairs)) = serde_json::from_slice(line) else { continue };
        is_object = true;
        for (key, value) in pairs {
            let place = *names.entry(key).or_insert_with_key(|key: &String| {
                guesses.push((key.clone(), Guess::default()));
                guesses.len() - 1
            });
            if let Some((_, guess)) = guesses.get_mut(place) {
                see_json(guess, value.get());
            }
        }
    }
    if !is_object {
        return Err("no line of the sample is an object: a job reads one JSON object on each line"
            .to_owned());
    }
    Ok(Columns(guesses.into_iter().map(|(name, guess)| (name, guess.kind())).collect()))
}

fn see_json(guess: &mut Guess, raw: &str) {
    match raw.as_bytes() {
        b"null" => {}
        // A number in quotes is a text to the job.
        [b'"', ..] => {
            let text: String = serde_json::from_str(raw).unwrap_or_default();
            let is_time = |kind| matches!(kind, Type::Date | Type::Timestamp);
            // The job does not trim a text of JSON.
            let is_plain = text.trim_ascii() == text;
            guess.see(|kind| is_plain && is_time(kind) && fits(kind, &text));
        }
        [b'{' | b'[', ..] => guess.see(|_| false),
        _ => guess.see(|kind| fits(kind, raw)),
    }
}

/// The pairs of an object.
struct Pairs(Vec<(String, Box<RawValue>)>);

impl<'a> Deserialize<'a> for Pairs {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'a> Visitor<'a> for Object {
            type Value = Pairs;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_guessed_that_keeps_every_value() {
        for (values, expected) in [
            ("1\n-20\n0\n", "bigint"),
            ("1\n2.5\n1e3\n-0.5\n", "double"),
            ("01234\n99\n", "varchar"),
            ("0123.5\n1.5\n", "varchar"),
            ("+4930123\n", "varchar"),
            ("9223372036854775808\n1\n", "decimal(38,0)"),
            ("9223372036854775808\n1.5\n", "varchar"),
            ("true\nFALSE\n", "boolean"),
            ("t\nf\n", "varchar"),
            ("2024-01-31\n2024-02-01\n", "date"),
            ("2024-01-31\n2024-02-01T10:00:00Z\n", "timestamp"),
            ("20240131\n", "bigint"),
            ("\"\"\n\n", "varchar"),
            ("\"\"\n\"7\"\n", "bigint"),
            ("1\nx\n", "varchar"),
            ("1\n2,3\n\"4\nx\n4\n", "varchar"),
            ("1\n2,3\n4\n", "bigint"),
        ] {
            let text = format!("c\n{values}");
            let (_, columns) = csv(text.as_bytes(), true, b',').unwrap();
            assert_eq!(columns.0[0].1.to_string(), expected, "{values:?}");
        }
        assert!(csv(b"\n\n", true, b',').is_err());
    }

    #[test]
    fn a_delimiter_is_found_where_the_header_and_the_records_agree() {
        for (text, delimiter, width) in [
            ("a,b\n1;2,3\n", ',', 2),
            ("a;b\n1,5;2\n", ';', 2),
            ("a\tb\n1\t2\n", '\t', 2),
            ("a|b|c\n1|2|3\n", '|', 3),
            ("a;b\n1\n2\n", ',', 1),
            ("\"a\";\"b\"\n\"1\";\"2\"\n", ';', 2),
            ("a\n1\n", ',', 1),
        ] {
            let (found, columns) = csv(text.as_bytes(), true, b',').unwrap();
            assert_eq!((char::from(found), columns.0.len()), (delimiter, width), "{text:?}");
        }
    }

    #[test]
    fn objects_are_looked_at_line_by_line() {
        let text = b"{\"b\":1,\"a\":\"2024-01-01T00:00:00\",\"id\":18446744073709551615}\nnot\n\
                     {\"b\":null,\"n\":{\"x\":1},\"q\":\"12\"}\n{\"b\":2.5,\"f\":true}\n{\"b\":\"cut";
        let columns = json(text, false).unwrap();
        let shown: Vec<_> = columns.0.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
        let expected =
            ["b double", "a timestamp", "id decimal(38,0)", "n varchar", "q varchar", "f boolean"];
        assert_eq!(shown, expected);
        assert!(json(b"[1,2]\n", true).unwrap_err().contains("one JSON object on each line"));
    }
}
