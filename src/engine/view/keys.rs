//! How the keys of windows and sessions are written.
//!
//! Invariants: bytes keep the order of times, so that what a watermark closes stands together.

use super::Store;

/// The prefix of the keys of sessions.
pub(super) const OF_GROUP: u8 = b'g';
/// The same for the rows under their ends.
pub(super) const OF_END: u8 = b'e';

/// The beginning of the keys of windows that end at this time.
pub(super) fn end_key(end: i64) -> [u8; 8] {
    (end ^ i64::MIN).to_be_bytes()
}

/// The end of the window that a key begins with.
pub(super) fn end_of(key: &[u8]) -> Option<i64> {
    let bytes = key.first_chunk::<8>()?;
    Some(i64::from_be_bytes(*bytes) ^ i64::MIN)
}

/// A group with a time.
pub(super) fn timed_key(group: &[u8], time: i64) -> Vec<u8> {
    [group, end_key(time).as_slice()].concat()
}

/// The group of the session that is kept under this key.
pub(super) fn session_group(key: &[u8]) -> Option<&[u8]> {
    key.get(1..)?.split_last_chunk::<8>().map(|(group, _)| group)
}

/// True when a group has a session that is kept.
pub(super) fn has_open<S: Store>(group: &[u8], store: &S) -> Result<bool, S::Error> {
    let prefix = group_key(group);
    // Behind every time.
    let below = [prefix.as_slice(), &[u8::MAX; 9]].concat();
    Ok(store.last_below(&prefix, &below)?.is_some())
}

/// The beginning of the keys of the sessions of a group.
pub(super) fn group_key(group: &[u8]) -> Vec<u8> {
    [&[OF_GROUP], group].concat()
}

/// The key under which a session is found by its end.
pub(super) fn by_end(end: i64, key: &[u8]) -> Vec<u8> {
    [&[OF_END], end_key(end).as_slice(), key].concat()
}
