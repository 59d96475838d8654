//! Late records as JSON lines: `{"file": NAME, "line": N, "view": NAME, "watermark": TIME, "raw": TEXT}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use crate::record::Late;

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
    let (file, raw) = (String::from_utf8_lossy(name), String::from_utf8_lossy(&late.raw));
    let base64 =
        |text: &str, bytes: &[u8]| (text.as_bytes() != bytes).then(|| BASE64.encode(bytes));
    let object = Object {
        file: &file,
        file_base64: base64(&file, name),
        line: late.line,
        view: &late.view,
        watermark: &late.watermark,
        raw: &raw,
        raw_base64: base64(&raw, &late.raw),
    };
    serde_json::to_writer(&mut *out, &object).expect("a vector takes every byte");
    out.push(b'\n');
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
