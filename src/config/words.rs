//! Errors of a job file in our words: found, allowed, and probably meant.
//!
//! Invariants: the words of the parser never come through; they are only told apart.

use std::ops::Range;

use super::locate;

const DURATION: &str = "a duration such as \"1s\", \"500ms\" or \"10m\", in quotes";
const SIZE: &str = "a size such as \"64KiB\" or \"16MiB\", in quotes";
const NUMBER: &str = "a whole number";
const AGE_OR_SIZE: &str = "a duration such as \"7d\" or a size such as \"10GiB\", in quotes";
const FORMAT: &str = "a table: write [input.format.csv], [output.format.json] or the like";

const SECRET: &str =
    "a text in quotes, { env = \"NAME\" }, { file = \"path\" } or { credential = \"name\" }";

/// The allowed values of keys whose type alone does not say it.
const ALLOWED: [(&str, &str); 41] = [
    ("input.settle", DURATION),
    ("input.rescan", DURATION),
    ("input.incomplete_grace", DURATION),
    ("input.max_record", SIZE),
    ("input.pattern", "a glob in quotes such as \"*.csv\""),
    ("input.exclude", "a list of globs such as [\"*.bak\"]"),
    ("input.format", FORMAT),
    ("input.complete", "one rule: lines = 2, marker = \".done\" or trailer = \"^END\""),
    ("input.complete.lines", NUMBER),
    ("transform", "a table: write [transform.command], [transform.sql] or the like"),
    ("transform.command.argv", "a list of the program and its arguments such as [\"cat\", \"-n\"]"),
    ("transform.command.timeout", DURATION),
    ("transform.command.idle_timeout", DURATION),
    ("transform.command.attempts", NUMBER),
    ("transform.command.env", "a table such as { LEVEL = \"1\", TOKEN = { env = \"TOKEN\" } }"),
    ("output.rotate", "a table such as { size = \"1GiB\", every = \"1d\" }"),
    ("output.rotate.size", SIZE),
    ("output.rotate.every", DURATION),
    ("output.rotate.keep", AGE_OR_SIZE),
    ("rejects.rotate", "a table such as { size = \"1GiB\", every = \"1d\" }"),
    ("rejects.rotate.size", SIZE),
    ("rejects.rotate.every", DURATION),
    ("rejects.rotate.keep", AGE_OR_SIZE),
    ("output.format", FORMAT),
    ("output.max_owed", SIZE),
    ("output.kafka.partition", "\"key\", \"file\" or the number of a partition"),
    ("output.kafka.create", "a table such as { partitions = 6, replication = 3 }"),
    ("output.kafka.transaction", SIZE),
    ("output.kafka.timeout", DURATION),
    ("kafka.brokers", "a list of addresses such as [\"broker-1:9092\"]"),
    ("view.format", FORMAT),
    ("done.action", "\"rename\", \"delete\" or { move = \"archive/\" }"),
    ("done.keep", AGE_OR_SIZE),
    ("state.keep", DURATION),
    ("engine.workers", NUMBER),
    ("engine.files_per_commit", NUMBER),
    ("engine.memory", SIZE),
    ("engine.min_free", SIZE),
    ("rejects.max_bad_records", NUMBER),
    ("rejects.max_bad_ratio", "a number from 0 to 1"),
    (
        "http.listen",
        "a port or an address in quotes such as \"9464\" or \"127.0.0.1:9464\", or \"unix:\" and a path",
    ),
];

/// Longest value that a message repeats, in bytes.
const SHOWN: usize = 60;

/// Rewords an error of the parser about `text`. `key` is the key that it concerns, if known, and `span` its
/// place.
pub fn explain(text: &str, key: Option<&str>, span: Option<&Range<usize>>, said: &str) -> String {
    let said = said.replace('\n', ", ");
    if said.starts_with("duplicate key") {
        let word = span.and_then(|span| text.get(span.clone())).unwrap_or("a key").trim();
        return format!("the key `{word}` is given twice");
    }
    if let Some(rest) = said.strip_prefix("missing field ") {
        return format!("the key {rest} is missing");
    }
    if let Some(rest) = said.strip_prefix("unknown field ") {
        return unknown("key", rest);
    }
    if key.is_none() {
        return not_toml(&said);
    }
    let key = key.unwrap_or_default();
    if key.starts_with("kafka.sasl.password") || key.starts_with("kafka.options") {
        // A password is not repeated.
        return format!("expected {SECRET}");
    }
    if said.starts_with("wanted exactly 1 element") {
        return only_one(text, key);
    }
    if let Some(rest) = said.strip_prefix("unknown variant ") {
        return unknown("value", rest);
    }
    if said.starts_with("data did not match any variant") && allowed(key).is_none() {
        let found = found(text, key).map(|found| format!("found {found}, ")).unwrap_or_default();
        return format!("{found}expected a text in quotes or {{ env = \"NAME\" }}");
    }
    let expected = allowed(key).map_or_else(|| plain(&said), str::to_owned);
    match found(text, key) {
        Some(found) if !expected.is_empty() => format!("found {found}, expected {expected}"),
        // What our own types say is in our words already.
        _ if said.starts_with("found ") => said,
        Some(found) => format!("found {found}, which cannot be used here: {said}"),
        None => said,
    }
}

fn allowed(key: &str) -> Option<&'static str> {
    ALLOWED.iter().find(|(known, _)| *known == key).map(|(_, allowed)| *allowed)
}

/// The value of a key as it is written, where it is short.
fn found(text: &str, key: &str) -> Option<String> {
    let place = locate::value_at(text, key)?;
    let value = text.get(place)?.trim();
    (value.len() <= SHOWN && !value.contains('\n')).then(|| value.to_owned())
}

/// `` `x`, expected one of `a`, `b` ``: of several that are allowed, which one was meant?
fn unknown(what: &str, rest: &str) -> String {
    let Some((word, allowed)) = rest.split_once(", expected ") else {
        return format!("unknown {what} {rest}");
    };
    let names: Vec<&str> =
        allowed.split('`').skip(1).step_by(2).filter(|name| !name.is_empty()).collect();
    let word = word.trim_matches('`');
    let meant = nearest(word, &names).map(|name| format!("; did you mean `{name}`?"));
    let listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let allowed = if names.is_empty() { "nothing".to_owned() } else { listed };
    format!("unknown {what} `{word}`{}; allowed: {allowed}", meant.unwrap_or_default())
}

/// Of several names the one that was probably meant.
fn nearest<'a>(word: &str, names: &[&'a str]) -> Option<&'a str> {
    let near = names.iter().map(|name| (distance(word, name), *name)).min()?;
    (near.0 <= 1 + word.chars().count() / 4).then_some(near.1)
}

/// Insertions, deletions and changes that make one word of the other (Levenshtein, 1966).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, character) in one.to_lowercase().chars().enumerate() {
        let mut diagonal = at;
        let mut left = at + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, there) in row.iter_mut().skip(1).zip(&other) {
            let change = diagonal + usize::from(character != *there);
            diagonal = *cell;
            left = change.min(*cell + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// A table that may have one key has several, or none.
fn only_one(text: &str, key: &str) -> String {
    let mut keys = locate::keys_of(text, key);
    if let Some((above, _)) = key.rsplit_once('.').filter(|_| keys.len() < 2) {
        // What the parser points at may be the first of them.
        keys = locate::keys_of(text, above);
    }
    let keys: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
    match keys.as_slice() {
        [] => "is empty, expected one key".to_owned(),
        several => format!("found {}, expected only one of them", several.join(" and ")),
    }
}

/// The types of the parser in plain words; empty for what it does not know.
fn plain(said: &str) -> String {
    let Some((_, expected)) = said.split_once(", expected ") else { return String::new() };
    let plain = match expected {
        "a boolean" => "true or false",
        "f32" | "f64" => "a number",
        "a string" => "a text in quotes",
        "path string" => "a path in quotes",
        "a sequence" => "a list",
        "a map" => "a table",
        text if text.starts_with("struct ") || text.contains("variant") => "a table",
        "usize" | "u8" | "u16" | "u32" | "u64" | "i32" | "i64" => NUMBER,
        // Our own types say what they expect.
        other => other,
    };
    plain.to_owned()
}

/// The file is no TOML.
fn not_toml(said: &str) -> String {
    let what = if said.contains("string") {
        "a text has no closing quote, or a backslash in it means nothing"
    } else if said.contains("key with no value") || said.contains("`=`") {
        "expected `=` and a value after the key"
    } else if said.contains("value") {
        "expected a value: a text in quotes, a number, true or false, a list or a table"
    } else {
        "expected `key = value`, `[table]` or a comment"
    };
    format!("cannot be read as TOML here: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_from_another_word() {
        let names = ["pattern", "settle", "recursive"];
        assert_eq!(nearest("patern", &names), Some("pattern"));
        assert_eq!(nearest("Recursiv", &names), Some("recursive"));
        assert_eq!(nearest("colour", &names), None);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn the_parser_is_not_heard() {
        let text = "[input]\nsettle = 5\n[done]\naction = \"move\"\n[input.complete]\nlines = 2\nmarker = \"x\"\n";
        let said = "invalid type: integer `5`, expected a string";
        assert!(
            explain(text, Some("input.settle"), None, said).starts_with("found 5, expected a dur")
        );
        let said = "invalid type: unit variant, expected newtype variant";
        let explained = explain(text, Some("done.action"), None, said);
        assert!(explained.starts_with("found \"move\", expected \"rename\""), "{explained}");
        let said = "wanted exactly 1 element, more than 1 element";
        let explained = explain(text, Some("input.complete"), None, said);
        assert_eq!(explained, "found `lines` and `marker`, expected only one of them");
    }
}
