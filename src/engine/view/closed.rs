//! Closed sessions that a view remembers.
//!
//! Invariants: for each group the end of its last closed session is known as long as a record could
//! reach back to it. That is while the group has an open session, which late records may join from behind;
//! and else until the watermark has left the end ten gaps behind. Then the end is forgotten, and of a
//! session that begins later only that much is known: what was forgotten ended no later than this.

use super::keys::{end_key, end_of, has_open, session_group};
use super::{Entries, Store};

/// Prefixes of the keys of the last end of each group, and of the rows under these ends. They all sort before
/// the keys of the sessions themselves.
const OF_GROUP: u8 = b'c';
const OF_END: u8 = b'd';

/// Under this key stands the latest end that was forgotten.
const FORGOTTEN: &[u8] = b"a";

/// The number of gaps after which the end of a session is forgotten. A record that is later than that and joins a
/// session through others that are late as well is rare, and few groups are kept for its sake.
const GAPS: i64 = 10;

/// Remembers these sessions, which were closed by this watermark, and forgets what is far before it.
pub(super) fn remember<S: Store>(
    closed: &Entries,
    gap: i64,
    mark: i64,
    store: &mut S,
) -> Result<(), S::Error> {
    for (key, value) in closed.iter() {
        let (Some(group), Some(end)) = (session_group(key), end_of(value)) else { continue };
        store.put(of_group(group), Some(end_key(end).to_vec()));
        store.put(by_end(end, group), Some(Vec::new()));
    }
    let below = end_key(mark.saturating_sub(gap.saturating_mul(GAPS)));
    let old = store.range(&[OF_END], Some(&[&[OF_END], below.as_slice()].concat()))?;
    let mut forgotten = None;
    for (key, _) in old.iter() {
        store.put(key.to_vec(), None);
        let Some((end, group)) = key.get(1..).and_then(<[u8]>::split_first_chunk::<8>) else {
            continue;
        };
        // A later one of this group has a row of its own; so will the one that is open.
        if store.get(&of_group(group))?.as_deref() == Some(end) && !has_open(group, store)? {
            store.put(of_group(group), None);
            forgotten = end_of(end);
        }
    }
    if forgotten.is_some() {
        let forgotten = forgotten.max(self::forgotten(store)?);
        store.put(FORGOTTEN.to_vec(), forgotten.map(|end| end_key(end).to_vec()));
    }
    Ok(())
}

/// The end of the last session of a group that was closed, as far as it is known.
pub(super) fn last_of<S: Store>(group: &[u8], store: &S) -> Result<Option<i64>, S::Error> {
    Ok(store.get(&of_group(group))?.as_deref().and_then(end_of))
}

/// The latest end that was forgotten, if one was.
pub(super) fn forgotten<S: Store>(store: &S) -> Result<Option<i64>, S::Error> {
    Ok(store.get(FORGOTTEN)?.as_deref().and_then(end_of))
}

fn of_group(group: &[u8]) -> Vec<u8> {
    [&[OF_GROUP], group].concat()
}

fn by_end(end: i64, group: &[u8]) -> Vec<u8> {
    [&[OF_END], end_key(end).as_slice(), group].concat()
}
