//! Late records as JSON lines: `{"file": NAME, "line": N, "view": NAME, "watermark": TIME, "raw": TEXT}`.

use serde::Serialize;

use super::rejects::write_line;
use crate::record::{Late, text};

#[derive(Serialize)]
struct Object<'a> {
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_base64: Option<String>,
    line: Option<u64>,
    view: &'a str,
    watermark: &'a str,
    raw: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_base64: Option<String>,
}

/// Appends the line for one late record of the file `name`. Bytes that are not UTF-8 appear replaced
/// in the text and whole in a `*_base64` field beside it.
pub fn encode(name: &[u8], late: &Late, out: &mut Vec<u8>) {
    let ((file, file_base64), (raw, raw_base64)) = (text(name), text(&late.raw));
    let file = &file;
    let raw = &raw;
    let view = &late.view;
    let watermark = &late.watermark;
    let object = Object { file, file_base64, line: late.line, view, watermark, raw, raw_base64 };
    write_line(&object, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_record_is_one_json_line() {
        let raw = b"a,\xff".to_vec();
        let late = Late {
            view: "v".into(),
            watermark: "1970-01-01 00:00:01.5".into(),
            number: 0,
            line: Some(3),
            raw,
        };
        let mut out = Vec::new();
        encode(b"f", &late, &mut out);
        let line = String::from_utf8(out).unwrap();
        let begin = "{\"file\":\"f\",\"line\":3,\"view\":\"v\",\"watermark\":\"1970-01-01 00:00:01.5\",\"raw\":\"a,";
        assert!(line.starts_with(begin), "{line}");
        assert!(line.ends_with("\"raw_base64\":\"YSz/\"}\n"), "{line}");
    }
}
