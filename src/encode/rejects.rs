//! Rejects as JSON lines: `{"file": NAME, "line": N, "reason": TEXT, "raw": TEXT}`.

use serde::Serialize;

use crate::record::{Reject, text};

#[derive(Serialize)]
struct Object<'a> {
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_base64: Option<String>,
    line: Option<u64>,
    reason: &'a str,
    raw: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_base64: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// Appends the line for one reject of the file `name`. Bytes that are not UTF-8 appear replaced in
/// the text and whole in a `*_base64` field beside it.
pub fn encode(name: &[u8], reject: &Reject, out: &mut Vec<u8>) {
    let ((file, file_base64), (raw, raw_base64)) = (text(name), text(&reject.raw));
    let Reject { line, truncated, .. } = *reject;
    let file = &file;
    let raw = &raw;
    let reason = &reject.reason;
    let object = Object { file, file_base64, line, reason, raw, raw_base64, truncated };
    write_line(&object, out);
}

/// Appends an object as one line.
pub(super) fn write_line(object: &impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, object).expect("a vector takes every byte");
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &[u8], line: Option<u64>, raw: &[u8], truncated: bool) -> String {
        let reject = Reject { line, reason: "not a number".into(), raw: raw.to_vec(), truncated };
        let mut out = Vec::new();
        encode(name, &reject, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_reject_is_one_json_line() {
        assert_eq!(
            line(b"a", Some(3), b"x\"\n", false),
            "{\"file\":\"a\",\"line\":3,\"reason\":\"not a number\",\"raw\":\"x\\\"\\n\"}\n"
        );
    }

    #[test]
    fn bytes_that_are_no_text_stand_beside_it() {
        let line = line(b"\xffa", None, b"\xfe", true);
        assert!(line.contains("\"file_base64\":\"/2E=\",\"line\":null"), "{line}");
        assert!(line.ends_with("\"raw_base64\":\"/g==\",\"truncated\":true}\n"), "{line}");
    }
}
