//! Rejects: where they go, what they say, and how many a file may have.

use crate::support::Spool;
use crate::support::spool::NUMBERS;

fn lines(spool: &Spool) -> Vec<serde_json::Value> {
    spool.rejects().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_reject_names_file_line_reason_and_raw_text() {
    let spool = Spool::new(NUMBERS);
    spool.drop_file("a", b"1\nx\xff\n\n3\n");
    spool.run_once();
    let lines = lines(&spool);
    assert_eq!(
        lines[0],
        serde_json::json!({
            "file": "a", "line": 2, "reason": "not a number", "raw": "x\u{fffd}", "raw_base64": "eP8="
        })
    );
    assert_eq!(
        lines[1],
        serde_json::json!({
            "file": "a", "line": 3, "reason": "not a number", "raw": ""
        })
    );
    assert_eq!(spool.output(), "100.0\n300.0\n");
}

/// Lines are counted from the beginning of the file, whichever thread decoded them.
#[test]
fn lines_are_right_far_into_a_large_file() {
    let spool = Spool::new(NUMBERS);
    let mut text = "1.25\n".repeat(1_000_000);
    text.insert_str(5 * 777_777, "bad\n");
    text.push_str("worse");
    spool.drop_file("a", text);
    spool.run_once();
    let found: Vec<_> = lines(&spool).iter().map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(found, [777_778, 1_000_002]);
}

#[test]
fn an_over_long_record_is_one_reject() {
    let spool = Spool::with_input("settle = \"0s\"\nmax_record = \"100KiB\"", NUMBERS);
    spool.drop_file("a", format!("1\n{}\n2\n", "9".repeat(3 << 20)));
    spool.run_once();
    let lines = lines(&spool);
    assert_eq!((lines.len(), lines[0]["line"].as_u64()), (1, Some(2)));
    assert_eq!(lines[0]["raw"].as_str().unwrap().len(), 64 << 10);
    assert_eq!(lines[0]["truncated"], true);
    assert_eq!(spool.output(), "100.0\n200.0\n");
}

#[test]
fn a_bad_record_may_quarantine_its_file() {
    let rejects = "[rejects]\npath = \"rejects.jsonl\"\non_bad_record = \"quarantine\"\n";
    let spool = Spool::new(&format!("{NUMBERS}{rejects}"));
    spool.drop_file("a", "1\nbad\n");
    spool.drop_file("b", "2\n");
    spool.run_once();
    assert_eq!((spool.output().as_str(), spool.rejects().as_str()), ("200.0\n", ""));
    spool.assert_names(&["failed-a", "failed-a.error.json", "processed-b"]);
    assert!(spool.read("in/failed-a.error.json").contains("line 2: not a number: bad"));
}

#[test]
fn too_many_bad_records_quarantine_their_file() {
    for (limit, bad, good, quarantined) in [
        ("max_bad_records = 2", 2, 2, false),
        ("max_bad_records = 2", 3, 97, true),
        ("max_bad_ratio = 0.5", 2, 2, false),
        ("max_bad_ratio = 0.5", 3, 2, true),
    ] {
        let rejects = format!("[rejects]\npath = \"rejects.jsonl\"\n{limit}\n");
        let spool = Spool::new(&format!("{NUMBERS}{rejects}"));
        spool.drop_file("a", format!("{}{}", "1\n".repeat(good), "bad\n".repeat(bad)));
        spool.run_once();
        assert_eq!(spool.names().contains("failed-a"), quarantined, "{limit} {bad}");
        assert_eq!(spool.rejects().is_empty(), quarantined);
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_number() {
    let spool = Spool::new(NUMBERS);
    spool.drop_file("a", b"\xef\xbb\xbf1\r\n2\r\n");
    spool.run_once();
    assert_eq!((spool.output().as_str(), spool.rejects().as_str()), ("100.0\n200.0\n", ""));
}

#[test]
fn compressed_inputs_are_told_by_their_suffix() {
    use std::io::Write as _;
    let spool = Spool::new(NUMBERS);
    let gzip = |text: &[u8]| {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text).unwrap();
        gz.finish().unwrap()
    };
    spool.drop_file("a.gz", [gzip(b"1\n"), gzip(b"2\n")].concat());
    spool.drop_file("b.zst", zstd::encode_all(&b"3\n"[..], 1).unwrap());
    spool.run_once();
    assert_eq!(spool.output(), "100.0\n200.0\n300.0\n");
}
