//! The rules that look into a file: has it its lines, does its last line end it?

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Result};
use std::os::unix::fs::FileExt as _;

use memchr::{memchr_iter, memmem, memrchr};
use regex::bytes::Regex;

use super::rules::{Complete, Rules};

/// Bytes at the end of a file in which its last line is looked for.
const TRAILER_BYTES: u64 = 64 * 1024;

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// How a rule looks through a compression: the plain bytes of a file of this name, or `None` where
/// they are plain already.
pub type Plain = for<'a> fn(&OsStr, &'a File) -> Result<Option<Box<dyn Read + Send + 'a>>>;

/// True when the file of `size` bytes meets the rule that looks into it, if there is one.
pub fn is_met(rules: &Rules, name: &OsStr, file: &File, size: u64, plain: Plain) -> Result<bool> {
    let marker = rules.end_marker.as_deref();
    match &rules.complete {
        Some(Complete::Lines(lines)) => match plain(name, file)? {
            Some(reader) => has_lines(reader, *lines, marker),
            None => has_lines(file, *lines, marker),
        },
        Some(Complete::Trailer(pattern)) => match plain(name, file)? {
            Some(reader) => has_trailer_behind(reader, pattern),
            None => has_trailer(file, size, pattern),
        },
        Some(Complete::Marker(_)) | None => Ok(true),
    }
}

/// True when `reader` gives at least `lines` line ends, or a line that is the end marker. Reads no
/// further than it has to.
fn has_lines(mut reader: impl Read, lines: u64, end_marker: Option<&[u8]>) -> Result<bool> {
    let mut buffer = vec![0; READ_BYTES];
    let mut count = 0;
    // What was read of the line that is not over yet, after the line feed before it.
    let mut line = vec![b'\n'];
    loop {
        let got = match reader.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            got => got?,
        };
        let bytes = buffer.get(..got).unwrap_or_default();
        if got == 0 {
            return Ok(count >= lines || is_marker(&line, end_marker));
        }
        count += memchr_iter(b'\n', bytes).count() as u64;
        line.extend_from_slice(bytes);
        if count >= lines || holds_marker(&line, end_marker) {
            return Ok(true);
        }
        // Enough of the last line to tell that it is longer than the marker.
        let keep = end_marker.map_or(0, |marker| marker.len() + 3);
        line.drain(..memrchr(b'\n', &line).unwrap_or(0));
        line.truncate(keep);
    }
}

/// True when a whole line of `text`, which begins with a line feed, is the marker.
fn holds_marker(text: &[u8], marker: Option<&[u8]>) -> bool {
    let Some(marker) = marker else { return false };
    memmem::find_iter(text, marker).any(|at| {
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        let behind = text.get(at + marker.len()..).unwrap_or_default();
        before == Some(&b'\n') && (behind.starts_with(b"\n") || behind.starts_with(b"\r\n"))
    })
}

/// True when the last line, which has no end, is the marker.
fn is_marker(line: &[u8], marker: Option<&[u8]>) -> bool {
    marker.is_some_and(|marker| line.strip_prefix(b"\n") == Some(marker))
}

/// True when the last line of a file of `size` bytes matches, and has its line end: without that it may
/// be the beginning of a longer one.
fn has_trailer(file: &File, size: u64, pattern: &Regex) -> Result<bool> {
    let from = size.saturating_sub(TRAILER_BYTES);
    let mut tail = vec![0; usize::try_from(size - from).unwrap_or_default()];
    match file.read_exact_at(&mut tail, from) {
        // It shrank meanwhile, so it is not complete.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
        result => result?,
    }
    Ok(ends_in(&tail, pattern))
}

/// The same for a file that only a reader can look into.
fn has_trailer_behind(mut reader: impl Read, pattern: &Regex) -> Result<bool> {
    let mut buffer = vec![0; READ_BYTES];
    let mut tail = Vec::new();
    loop {
        let got = match reader.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            got => got?,
        };
        if got == 0 {
            return Ok(ends_in(&tail, pattern));
        }
        tail.extend_from_slice(buffer.get(..got).unwrap_or_default());
        let kept = usize::try_from(TRAILER_BYTES).unwrap_or_default();
        tail.drain(..tail.len().saturating_sub(kept));
    }
}

fn ends_in(tail: &[u8], pattern: &Regex) -> bool {
    tail.ends_with(b"\n") && pattern.is_match(last_line(tail))
}

fn last_line(tail: &[u8]) -> &[u8] {
    let line = tail.strip_suffix(b"\n").unwrap_or(tail);
    let tail = line.strip_suffix(b"\r").unwrap_or(line);
    memrchr(b'\n', tail).map_or(tail, |at| tail.get(at + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], lines: u64) -> bool {
        has_lines(text, lines, Some(b"EOF")).unwrap()
    }

    #[test]
    fn only_whole_lines_count() {
        assert!(lines(b"1\n2\n", 2));
        assert!(lines(b"1\n2\n3", 2));
        assert!(!lines(b"1\n2", 2));
        assert!(!lines(b"", 1));
    }

    #[test]
    fn the_end_marker_completes_a_short_file() {
        for text in [&b"EOF\n"[..], b"1\nEOF\r\n", b"EOF", b"1\nEOF\nmore"] {
            assert!(lines(text, 9), "{text:?}");
        }
        for text in [&b"xEOF\n"[..], b"EOFx\n", b"EO", b"1\n EOF\n"] {
            assert!(!lines(text, 9), "{text:?}");
        }
    }

    /// The marker is found wherever a read may cut it.
    #[test]
    fn the_marker_is_found_across_reads() {
        struct Slow<'a>(&'a [u8], usize);
        impl Read for Slow<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
                let step = self.1.min(buffer.len()).min(self.0.len());
                let (now, later) = self.0.split_at(step);
                buffer[..step].copy_from_slice(now);
                self.0 = later;
                Ok(step)
            }
        }
        for step in 1..12 {
            for (text, found) in [
                (&b"12345\nEOF\n6\n"[..], true),
                (b"12345\r\nEOF\r\n6\n", true),
                (b"12345EOF\nxEOF\nEOFF\n6\n", false),
                (b"1\nEOF", true),
                (b"1\n22222222EOF", false),
            ] {
                assert_eq!(has_lines(Slow(text, step), 99, Some(b"EOF")).unwrap(), found, "{step}");
            }
        }
    }

    #[test]
    fn the_last_line_decides_on_a_trailer() {
        let pattern = Regex::new("^END,[0-9]+$").unwrap();
        let trailer = |text: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, text).unwrap();
            let found = has_trailer(&file, text.len() as u64, &pattern).unwrap();
            assert_eq!(has_trailer_behind(text, &pattern).unwrap(), found);
            found
        };
        assert!(trailer(b"a\nEND,3\n"));
        assert!(trailer(b"a\nEND,3\r\n"));
        assert!(!trailer(b"a\nEND,3"));
        assert!(!trailer(b"END,3\nb\n"));
        assert!(!trailer(b"END,3\n\n"));
        assert!(!trailer(b""));
    }
}
