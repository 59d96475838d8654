//! The cut changes nothing: neither records nor verdicts.

use super::*;

fn framing(max_record: usize) -> Framing {
    Framing {
        max_record,
        end_marker: Some(b"EOF".to_vec()),
        skip_byte_order_mark: true,
        block_bytes: 1 << 20,
        dialect: None,
    }
}

/// The kinds and texts of all blocks when blocks are of `block_bytes`.
fn blocks(input: &[u8], block_bytes: usize, max_record: usize) -> Vec<(Kind, String)> {
    let framing = framing(max_record);
    let mut framer = Framer::new(Box::new(input), None, &framing, block_bytes);
    let mut blocks: Vec<(Kind, String)> = Vec::new();
    while let Some(block) = framer.next_block().unwrap() {
        let text = String::from_utf8(block.bytes).unwrap();
        match blocks.last_mut() {
            Some((Kind::Records, last)) if block.kind == Kind::Records => {
                assert!(last.ends_with('\n'), "cut inside a record");
                last.push_str(&text);
            }
            _ => blocks.push((block.kind, text)),
        }
    }
    blocks
}

#[test]
fn the_cut_changes_nothing() {
    let input = b"\xef\xbb\xbfone\ntwo\r\n\nthree\nEOF\nafter\nthe end";
    let whole = blocks(input, 1 << 20, 100);
    assert_eq!(whole[0], (Kind::Records, "one\ntwo\r\n\nthree\n".to_owned()));
    assert_eq!(whole[1], (Kind::EndMarker, "EOF\n".to_owned()));
    assert_eq!(whole[2], (Kind::AfterEnd, "after\nthe end".to_owned()));
    for block_bytes in 4..64 {
        let cut = blocks(input, block_bytes, 100);
        let after: String = cut[2..].iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(cut[..2], whole[..2], "{block_bytes}");
        assert_eq!(after, whole[2].1, "{block_bytes}");
    }
}

#[test]
fn only_a_whole_record_is_the_end_marker() {
    for (input, found) in [
        (&b"EOF"[..], Some((0, 3))),
        (b"EOF\r\n", Some((0, 5))),
        (b"a\nEOF\nb", Some((2, 6))),
        (b"EOFs\nxEOF\nEOF \n", None),
        (b"xEOF\nEOF\n", Some((5, 9))),
    ] {
        assert_eq!(find_record(input, b"EOF"), found, "{input:?}");
    }
}

#[test]
fn the_verdict_on_a_long_record_does_not_depend_on_the_cut() {
    let mut input = b"a\n".to_vec();
    input.extend(std::iter::repeat_n(b'x', 5000));
    input.extend(b"\nb\n");
    for block_bytes in [16, 100, 999, 4096, 1 << 20] {
        let mut rejects = Vec::new();
        let mut records = 0;
        for (kind, text) in blocks(&input, block_bytes, 1000) {
            if kind == Kind::TooLong {
                rejects.push(reject_too_long(1, text.as_bytes(), 1000));
            } else {
                let decoded = crate::decode::lines::decode(text.as_bytes(), 1000);
                records += decoded.records.num_rows();
                rejects.extend(decoded.rejects);
            }
        }
        assert_eq!((records, rejects.len()), (2, 1), "{block_bytes}");
        assert_eq!((rejects[0].raw.len(), rejects[0].truncated), (1000, true), "{block_bytes}");
    }
}

#[test]
fn a_live_stream_gives_what_is_whole_when_it_pauses() {
    let framing = framing(100);
    let input: &[u8] = b"1\n2\n3";
    let mut framer = Framer::live(Box::new(input), Box::new(|| false), &framing);
    let block = framer.next_block().unwrap().unwrap();
    assert_eq!((block.bytes.as_slice(), block.paused), (&b"1\n2\n"[..], true));
    assert_eq!(framer.next_block().unwrap().unwrap().bytes, b"3");
    assert!(framer.next_block().unwrap().is_none());
}

#[test]
fn lines_are_numbered_without_their_ends() {
    let all: Vec<_> = lines(b"a\r\n\nb").collect();
    assert_eq!(all, [(1, &b"a"[..]), (2, b""), (3, b"b")]);
    assert_eq!(lines(b"").count(), 0);
}
