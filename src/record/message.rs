//! A record on its way to a target that takes messages: its value, and what is said of it besides.
//!
//! Invariants: the bytes of a frame are ours alone. They are written when a record is encoded, wait with their
//! microbatch, and are read by the sink that sends them.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// A frame says so when its message has a key, a timestamp, a line.
const HAS_KEY: u8 = 1;
const HAS_TIMESTAMP: u8 = 2;
const HAS_LINE: u8 = 4;

/// A rule for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The largest, in bytes.
    pub bytes: u64,
    /// Each has a key.
    pub keyed: bool,
    /// How far its timestamp may be before and after the clock, in milliseconds.
    pub before_ms: i64,
    /// As before.
    pub after_ms: i64,
}

impl Default for Taken {
    fn default() -> Self {
        Self { bytes: u64::MAX, keyed: false, before_ms: i64::MAX, after_ms: i64::MAX }
    }
}

/// The messages that a target takes, as it says when it is opened.
#[derive(Debug, Clone, Default)]
pub struct Limit(Arc<Mutex<Taken>>);

impl Limit {
    /// The target takes these messages.
    pub fn set(&self, taken: Taken) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = taken;
    }

    /// The messages that it takes.
    pub fn get(&self) -> Taken {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Why a message with such a timestamp, with a key or without, is not taken, if so.
    pub fn refuses(&self, timestamp_ms: Option<i64>, has_key: bool, now_ms: i64) -> Option<String> {
        if self.keyed && !has_key {
            return Some("a message without a key, and the topic is compacted".to_owned());
        }
        let timestamp = timestamp_ms?;
        if timestamp <= 0 {
            return Some("a timestamp that is not after 1970-01-01 00:00 UTC".to_owned());
        }
        let ahead = timestamp.saturating_sub(now_ms);
        if ahead > self.after_ms {
            let most = self.after_ms;
            return Some(format!(
                "a timestamp {ahead} ms ahead of the clock, and the topic takes {most}"
            ));
        }
        if ahead < self.before_ms.saturating_neg() {
            let old = ahead.saturating_neg();
            let most = self.before_ms;
            return Some(format!(
                "a timestamp {old} ms behind the clock, and the topic takes {most}"
            ));
        }
        None
    }
}

/// A message, as the sink reads it back.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: &'a [u8],
    /// Its time in milliseconds since 1970, where a column says so.
    pub timestamp_ms: Option<i64>,
    /// The line of its input, from 1, where that is wanted.
    pub line: Option<u64>,
}

impl Message<'_> {
    /// Appends the frame of the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
        out.push(
            flag(self.key.is_some(), HAS_KEY)
                | flag(self.timestamp_ms.is_some(), HAS_TIMESTAMP)
                | flag(self.line.is_some(), HAS_LINE),
        );
        if let Some(key) = self.key {
            number(key.len() as u64, out);
            out.extend_from_slice(key);
        }
        if let Some(timestamp) = self.timestamp_ms {
            number(timestamp.cast_unsigned(), out);
        }
        if let Some(line) = self.line {
            number(line, out);
        }
        number(self.value.len() as u64, out);
        out.extend_from_slice(self.value);
    }
}

/// Appends a number in LEB128.
fn number(mut number: u64, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// Reads frames one after the other.
pub struct Frames<R> {
    source: R,
    buffer: Vec<u8>,
    /// Where the next frame begins in the buffer.
    at: usize,
    /// Where it begins among all of them.
    offset: u64,
}

/// Bytes that are read at once.
const READ: usize = 1 << 20;

impl<R: Read> Frames<R> {
    /// The frames of a source that stands at this offset, where one begins.
    pub fn new(source: R, offset: u64) -> Self {
        Self { source, buffer: Vec::new(), at: 0, offset }
    }

    /// Where the next frame begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next message; `None` after the last one.
    ///
    /// # Errors
    /// When the source cannot be read; `InvalidData` when it ends within a frame.
    pub fn next_message(&mut self) -> io::Result<Option<Message<'_>>> {
        let length = loop {
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            let mut after = rest;
            if next(&mut after).is_some() {
                break rest.len() - after.len();
            }
            let is_between = rest.is_empty();
            self.buffer.drain(..self.at);
            self.at = 0;
            let got = self.source.by_ref().take(READ as u64).read_to_end(&mut self.buffer)?;
            match got {
                0 if is_between => return Ok(None),
                0 => return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is damaged")),
                _ => {}
            }
        };
        let from = self.at;
        self.at += length;
        self.offset += length as u64;
        Ok(next(&mut self.buffer.get(from..self.at).unwrap_or_default()))
    }
}

fn next<'a>(rest: &mut &'a [u8]) -> Option<Message<'a>> {
    let flags = *rest.split_off_first()?;
    let key = if flags & HAS_KEY > 0 { Some(bytes(rest)?) } else { None };
    let timestamp = if flags & HAS_TIMESTAMP > 0 { Some(take(rest)?) } else { None };
    let line = if flags & HAS_LINE > 0 { Some(take(rest)?) } else { None };
    let value = bytes(rest)?;
    Some(Message { key, value, timestamp_ms: timestamp.map(u64::cast_signed), line })
}

fn bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take(rest)?).ok()?;
    rest.split_off(..length)
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Plain = (Option<Vec<u8>>, Vec<u8>, Option<i64>, Option<u64>);

    fn all(frames: &[u8]) -> io::Result<Vec<Plain>> {
        let mut frames = Frames::new(frames, 0);
        let mut all = Vec::new();
        while let Some(message) = frames.next_message()? {
            let key = message.key.map(<[u8]>::to_vec);
            all.push((key, message.value.to_vec(), message.timestamp_ms, message.line));
        }
        Ok(all)
    }

    #[test]
    fn a_frame_that_is_cut_is_an_error() {
        let mut out = Vec::new();
        Message { key: Some(b"k"), value: b"value", timestamp_ms: None, line: Some(300) }
            .write(&mut out);
        assert_eq!(all(&out).unwrap().len(), 1);
        for length in 1..out.len() {
            assert_eq!(all(&out[..length]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    proptest! {
        #[test]
        fn frames_read_back(
            messages in prop::collection::vec(
                (
                    prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
                    prop::collection::vec(any::<u8>(), 0..300),
                    prop::option::of(any::<i64>()),
                    prop::option::of(any::<u64>()),
                ),
                0..20,
            ),
        ) {
            let mut out = Vec::new();
            for (key, value, timestamp_ms, line) in &messages {
                let key = key.as_deref();
                Message { key, value, timestamp_ms: *timestamp_ms, line: *line }.write(&mut out);
            }
            prop_assert_eq!(all(&out).unwrap(), messages);
        }
    }
}
