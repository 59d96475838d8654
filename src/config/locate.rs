//! Where in a job file a key stands, so that an error can name file, line and key.

use toml::de::{DeTable, DeValue};

/// The line, from 1, at a byte offset of `text`.
pub fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The dotted key that stands, or whose value stands, at a byte offset.
pub fn key_at(text: &str, offset: usize) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let mut path = Vec::new();
    descend(table.get_ref(), offset, &mut path);
    (!path.is_empty()).then(|| path.join("."))
}

fn descend(table: &DeTable<'_>, offset: usize, path: &mut Vec<String>) {
    for (key, value) in table {
        let here = |span: std::ops::Range<usize>| span.contains(&offset);
        let DeValue::Table(inner) = value.get_ref() else {
            if here(key.span()) || here(value.span()) {
                path.push(key.get_ref().to_string());
                return;
            }
            continue;
        };
        let depth = path.len();
        path.push(key.get_ref().to_string());
        descend(inner, offset, path);
        if path.len() > depth + 1 || here(key.span()) || here(value.span()) {
            return;
        }
        path.truncate(depth);
    }
}

/// Where the value of a dotted key stands.
pub fn value_at(text: &str, key: &str) -> Option<std::ops::Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut names = key.split('.').peekable();
    while let Some(name) = names.next() {
        let value = table.get(name)?;
        match value.get_ref() {
            _ if names.peek().is_none() => return Some(value.span()),
            DeValue::Table(inner) => table = inner,
            _ => return None,
        }
    }
    None
}

/// The keys of the table at a dotted key, in their order.
pub fn keys_of(text: &str, key: &str) -> Vec<String> {
    let Ok(parsed) = DeTable::parse(text) else { return Vec::new() };
    let mut table = parsed.get_ref();
    for name in key.split('.') {
        match table.get(name).map(toml::Spanned::get_ref) {
            Some(DeValue::Table(inner)) => table = inner,
            _ => return Vec::new(),
        }
    }
    table.keys().map(|key| key.get_ref().to_string()).collect()
}

/// The line of a dotted key; of the nearest table above it where the key itself is not written. Of
/// tables that stand several times, the key is in this one, from 0.
pub fn line_of(text: &str, key: &str, place: usize) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut found = None;
    for name in key.split('.') {
        let Some((written, value)) = table.get_key_value(name) else { break };
        found = Some(line_at(text, written.span().start));
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            DeValue::Array(all) => {
                let Some(one) = all.get(place) else { break };
                found = Some(line_at(text, one.span().start));
                match one.get_ref() {
                    DeValue::Table(inner) => table = inner,
                    _ => break,
                }
            }
            _ => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "[input]\nsettle = \"1s\"\n\n[input.format.numbers]\n[done]\naction = { move = \"a\" }\n";

    #[test]
    fn keys_are_found_by_offset() {
        let at = |what: &str| key_at(TEXT, TEXT.find(what).unwrap());
        assert_eq!(at("settle").as_deref(), Some("input.settle"));
        assert_eq!(at("\"1s\"").as_deref(), Some("input.settle"));
        assert_eq!(at("\"a\"").as_deref(), Some("done.action.move"));
        assert_eq!(at("numbers").as_deref(), Some("input.format.numbers"));
    }

    #[test]
    fn lines_are_found_by_key() {
        assert_eq!(line_of(TEXT, "input.settle", 0), Some(2));
        assert_eq!(line_of(TEXT, "input.missing", 0), Some(1));
        assert_eq!(line_of(TEXT, "done.action.move", 0), Some(6));
        assert_eq!(line_of(TEXT, "engine.workers", 0), None);
    }
}
