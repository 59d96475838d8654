//! Windows that grow: the records of a group that are no further apart than a gap.
//!
//! Invariants:
//! - A session is kept under its group and its beginning; its state begins with its end. Beside it
//!   stands a row under its end, by which the watermark finds it.
//! - A record that touches two sessions makes one of them. Two that are exactly the gap apart touch,
//!   as in Spark and Flink.
//! - A record belongs to what it makes together with the others of its microbatch and the open sessions.
//!   It is late when that is closed, or when it is within a session of its group that was closed: what was
//!   written is never written again, and nothing that overlaps it is.

use arrow_array::{ArrayRef, UInt32Array};
use arrow_select::take::take;
use datafusion::common::Result as Fallible;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::keys::{OF_END, OF_GROUP, by_end, end_key, group_key, timed_key};
use super::{Entries, Entry, States, Store, View, closed, problem};
use crate::engine::bounds::{Windowed, panes};
use crate::engine::rows::Rows;
use crate::engine::{QueryError, state};

/// Groups with the times of their rows.
type Timed = HashSet<Vec<u8>>;

/// A part of a session: where it is, and what it is of.
struct Piece {
    start: i64,
    end: i64,
    from: From,
}

enum From {
    /// A session as it was kept, under this key, and how far back it may grow.
    Kept { key: Vec<u8>, state: Vec<u8>, floor: Option<i64> },
    /// A row of partial states, in this batch.
    Row { batch: usize, row: usize },
}

impl Piece {
    fn is_row(&self) -> bool {
        matches!(self.from, From::Row { .. })
    }
}

/// A session after the merge.
struct Merged {
    group: Vec<u8>,
    start: i64,
    end: i64,
    pieces: Vec<Piece>,
    /// A late record does not make it begin before this time.
    floor: Option<i64>,
}

/// Merges the partial states of a microbatch, one row for each time of a group. What is late by this mark
/// is left out.
pub(super) fn merge<S: Store>(
    view: &View,
    delta: &[States],
    gap: i64,
    mark: Option<i64>,
    store: &mut S,
) -> Result<States, S::Error> {
    let Some(windowed) = view.windowed else { return Ok(States::none()) };
    let delta = columns_of(view, delta).map_err(problem)?;
    let (sessions, _) = sessions(view, windowed, &delta, (gap, mark), store)?;
    let states = QueryError::guard(|| states(view, windowed, &delta, &sessions))?;
    put(&sessions, &states, store)?;
    Ok(states)
}

/// The rows of partial states that are late by this mark, as groups with their times.
pub(super) fn late<S: Store>(
    view: &View,
    delta: &[States],
    gap: i64,
    mark: i64,
    store: &S,
) -> Result<Timed, S::Error> {
    let Some(windowed) = view.windowed else { return Ok(HashSet::new()) };
    let delta = columns_of(view, delta).map_err(problem)?;
    Ok(sessions(view, windowed, &delta, (gap, Some(mark)), store)?.1)
}

fn columns_of(view: &View, delta: &[States]) -> Fallible<Vec<Vec<ArrayRef>>> {
    delta.iter().map(|part| view.columns(part)).collect()
}

/// The sessions that these rows make or change, and those of the rows that are late.
fn sessions<S: Store>(
    view: &View,
    windowed: Windowed,
    delta: &[Vec<ArrayRef>],
    (gap, mark): (i64, Option<i64>),
    store: &S,
) -> Result<(Vec<Merged>, Timed), S::Error> {
    let mut late = Late { mark, forgotten: closed::forgotten(store)?, rows: HashSet::new() };
    let mut sessions = Vec::new();
    for (group, mut pieces) in pieces(view, windowed, delta, gap).map_err(problem)? {
        late.within_closed(&group, &mut pieces, store)?;
        pieces.extend(kept(&group, &pieces, late.forgotten.is_some(), store)?);
        let united = unite(&group, pieces).into_iter();
        sessions.extend(united.filter_map(|session| late.judged(session)));
    }
    Ok((sessions, late.rows))
}

/// Decides which records are late.
struct Late {
    /// Sessions that end here or before are closed.
    mark: Option<i64>,
    /// Of a session that ended before this time it may not be known any more that it was closed.
    forgotten: Option<i64>,
    /// The rows, as groups with their times.
    rows: Timed,
}

impl Late {
    fn add(&mut self, group: &[u8], piece: &Piece) {
        self.rows.insert(timed_key(group, piece.start));
    }

    /// Takes out the pieces that are within a session of the group that was closed.
    fn within_closed<S: Store>(
        &mut self,
        group: &[u8],
        pieces: &mut Vec<Piece>,
        store: &S,
    ) -> Result<(), S::Error> {
        if !pieces.iter().any(|piece| self.mark.is_some_and(|mark| piece.start < mark)) {
            return Ok(());
        }
        let Some(end) = closed::last_of(group, store)? else { return Ok(()) };
        for piece in pieces.extract_if(.., |piece| piece.start < end) {
            self.add(group, &piece);
        }
        Ok(())
    }

    /// A session without the pieces that are late; `None` when that is all of it.
    fn judged(&mut self, mut session: Merged) -> Option<Merged> {
        let is_new = session.pieces.iter().all(Piece::is_row);
        if is_new {
            session.floor = self.forgotten;
        }
        let is_closed = is_new && self.mark.is_some_and(|mark| session.end <= mark);
        let floor = session.floor.filter(|_| self.mark.is_some());
        let is_late = |piece: &mut Piece| {
            piece.is_row() && (is_closed || floor.is_some_and(|floor| piece.start < floor))
        };
        for piece in session.pieces.extract_if(.., is_late).collect::<Vec<_>>() {
            self.add(&session.group, &piece);
        }
        session.start = session.pieces.iter().map(|piece| piece.start).min()?;
        session.pieces.iter().any(Piece::is_row).then_some(session)
    }
}

/// The groups of some rows, and for each the pieces that the rows are.
fn pieces(
    view: &View,
    windowed: Windowed,
    delta: &[Vec<ArrayRef>],
    gap: i64,
) -> Fallible<Vec<(Vec<u8>, Vec<Piece>)>> {
    let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut groups: Vec<(Vec<u8>, Vec<Piece>)> = Vec::new();
    for (number, columns) in delta.iter().enumerate() {
        let panes = panes(columns, windowed)?;
        let keys = state::encode(&group_columns(view, windowed, columns), 0..panes.len())?;
        for (row, (key, start)) in keys.iter().zip(panes).enumerate() {
            let Some(start) = start else { continue };
            let place = *known.entry(key.to_vec()).or_insert_with_key(|key| {
                groups.push((key.clone(), Vec::new()));
                groups.len() - 1
            });
            let from = From::Row { batch: number, row };
            let piece = Piece { start, end: start.saturating_add(gap), from };
            if let Some((_, pieces)) = groups.get_mut(place) {
                pieces.push(piece);
            }
        }
    }
    Ok(groups)
}

/// The columns of the group without those of its window.
pub(super) fn group_columns(
    view: &View,
    windowed: Windowed,
    columns: &[ArrayRef],
) -> Vec<ArrayRef> {
    let is_bound = |place: usize| Some(place) == windowed.start || Some(place) == windowed.end;
    let keys = columns.iter().take(view.keys).enumerate();
    keys.filter(|(place, _)| !is_bound(*place)).map(|(_, column)| column.clone()).collect()
}

/// The sessions of a group that are kept and that these pieces may touch.
fn kept<S: Store>(
    group: &[u8],
    pieces: &[Piece],
    has_floors: bool,
    store: &S,
) -> Result<Vec<Piece>, S::Error> {
    let prefix = group_key(group);
    let key = |start: i64| [prefix.as_slice(), &end_key(start)].concat();
    let mut spans: Vec<(i64, i64)> = pieces.iter().map(|piece| (piece.start, piece.end)).collect();
    spans.sort_unstable();
    let mut found: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut spans = spans.into_iter().peekable();
    while let Some((start, mut end)) = spans.next() {
        while let Some((_, more)) = spans.next_if(|(start, _)| *start <= end) {
            end = end.max(more);
        }
        // Those that begin in it, and the one before: sessions that are kept do not touch each other.
        let mut below = key(end);
        below.push(0);
        let within = store.range(&key(start), Some(&below))?;
        let before = store.last_below(&prefix, &key(start))?;
        found.extend(within.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
        found.extend(before.map(|Entry { key, value }| (key, value)));
    }
    let piece = |(key, value): (Vec<u8>, Vec<u8>)| {
        let both = value.split_first_chunk::<8>().zip(key.last_chunk::<8>());
        let Some(((end, state), start)) = both else { return Ok(None) };
        let start = time(*start);
        let end = time(*end);
        let stored = if has_floors { store.get(&by_end(end, &key))? } else { None };
        let floor = stored.and_then(|floor| floor.first_chunk().map(|floor| time(*floor)));
        let from = From::Kept { key, state: state.to_vec(), floor };
        Ok(Some(Piece { start, end, from }))
    };
    found.into_iter().filter_map(|kept| piece(kept).transpose()).collect()
}

/// Pieces that touch become one session.
fn unite(group: &[u8], mut pieces: Vec<Piece>) -> Vec<Merged> {
    pieces.sort_by_key(|piece| piece.start);
    let mut sessions: Vec<Merged> = Vec::new();
    for piece in pieces {
        // What is not known of one of them may be known of another.
        let floor = if let From::Kept { floor, .. } = &piece.from { Some(*floor) } else { None };
        if let Some(session) = sessions.last_mut().filter(|session| piece.start <= session.end) {
            session.end = session.end.max(piece.end);
            let is_first = !session.pieces.iter().any(|piece| !piece.is_row());
            let lowest = |floor| if is_first { floor } else { session.floor.min(floor) };
            session.floor = floor.map_or(session.floor, lowest);
            session.pieces.push(piece);
        } else {
            let group = group.to_vec();
            let start = piece.start;
            let end = piece.end;
            let floor = floor.flatten();
            sessions.push(Merged { group, start, end, pieces: vec![piece], floor });
        }
    }
    // Those that no record touched stay as they are.
    sessions.retain(|session| session.pieces.iter().any(Piece::is_row));
    sessions
}

/// The states of sessions, of all their pieces.
fn states(
    view: &View,
    windowed: Windowed,
    delta: &[Vec<ArrayRef>],
    sessions: &[Merged],
) -> Fallible<States> {
    let mut kept = (Rows::default(), Vec::new());
    let mut of_batch = vec![(Vec::new(), Vec::new()); delta.len()];
    for (place, session) in sessions.iter().enumerate() {
        for piece in &session.pieces {
            match &piece.from {
                From::Kept { state, .. } => {
                    kept.0.push(state);
                    kept.1.push(place);
                }
                From::Row { batch, row } => {
                    if let Some((rows, places)) = of_batch.get_mut(*batch) {
                        rows.push(u32::try_from(*row).unwrap_or(u32::MAX));
                        places.push(place);
                    }
                }
            }
        }
    }
    let mut parts = vec![(view.decode_states(&kept.0)?, kept.1)];
    for (columns, (rows, places)) in delta.iter().zip(of_batch) {
        let rows = UInt32Array::from(rows);
        let columns = columns.iter().skip(view.keys).map(|column| Ok(take(column, &rows, None)?));
        parts.push((columns.collect::<Fallible<_>>()?, places));
    }
    let mut keys = Rows::with_room(sessions.len());
    for session in sessions {
        keys.push(&full_key(view, windowed, session)?);
    }
    Ok(States { keys, states: view.merged(sessions.len(), &parts)? })
}

/// The group with its window's bounds, as the columns of the result have it.
fn full_key(view: &View, windowed: Windowed, session: &Merged) -> Fallible<Vec<u8>> {
    key_of(view, windowed, &session.group, session.start, session.end)
}

fn key_of(
    view: &View,
    windowed: Windowed,
    group: &[u8],
    start: i64,
    end: i64,
) -> Fallible<Vec<u8>> {
    let types = view.key_types();
    let is_bound = |place: usize| Some(place) == windowed.start || Some(place) == windowed.end;
    let others: Vec<_> = types
        .iter()
        .enumerate()
        .filter(|(place, _)| !is_bound(*place))
        .map(|(_, data_type)| data_type.clone())
        .collect();
    let mut columns = state::decode(std::iter::once(group), &others)?.into_iter();
    let mut all = Vec::with_capacity(types.len());
    for (place, data_type) in types.iter().enumerate() {
        all.push(match Some(place) {
            place if place == windowed.start => super::bounds_column(start, data_type),
            place if place == windowed.end => super::bounds_column(end, data_type),
            _ => columns.next().ok_or_else(|| damaged("a group has lost a column"))?,
        });
    }
    let encoded = state::encode(&all, 0..1)?;
    Ok([end_key(end).as_slice(), encoded.get(0)].concat())
}

fn damaged(what: &str) -> datafusion::common::DataFusionError {
    datafusion::common::DataFusionError::Execution(what.to_owned())
}

/// Replaces sessions by those they are merged into.
fn put<S: Store>(sessions: &[Merged], states: &States, store: &mut S) -> Result<(), S::Error> {
    for (session, (_, value)) in sessions.iter().zip(states.entries(0..states.len())?.iter()) {
        for piece in &session.pieces {
            if let From::Kept { key, .. } = &piece.from {
                store.put(by_end(piece.end, key), None);
                store.put(key.clone(), None);
            }
        }
        let mut key = group_key(&session.group);
        key.extend(end_key(session.start));
        let floor = session.floor.map(|floor| end_key(floor).to_vec());
        store.put(by_end(session.end, &key), Some(floor.unwrap_or_default()));
        store.put(key, Some([end_key(session.end).as_slice(), value].concat()));
    }
    Ok(())
}

fn time(bytes: [u8; 8]) -> i64 {
    i64::from_be_bytes(bytes) ^ i64::MIN
}

/// Removes the sessions whose ends are below `bound`, and returns them in the order of their ends.
pub(super) fn close<S: Store>(bound: Option<[u8; 8]>, store: &mut S) -> Result<Entries, S::Error> {
    let below = match bound {
        Some(end) => [&[OF_END], end.as_slice()].concat(),
        None => vec![OF_GROUP],
    };
    let mut closed = Entries::default();
    for (key, _) in store.range(&[OF_END], Some(&below))?.iter() {
        let session = key.get(9..).unwrap_or_default();
        if let Some(value) = store.get(session)? {
            closed.push(session, &value);
        }
        store.put(session.to_vec(), None);
        store.put(key.to_vec(), None);
    }
    Ok(closed)
}

/// The end of a session, by its state.
pub(super) fn end_of(value: &[u8]) -> Option<i64> {
    value.first_chunk::<8>().map(|end| time(*end))
}

/// All sessions.
pub(super) fn all<S: Store>(store: &S) -> Result<Entries, S::Error> {
    store.range(&[OF_GROUP], None)
}

/// Sessions as groups with their window.
pub(super) fn as_groups(view: &View, entries: Entries) -> Result<Entries, QueryError> {
    let Some(windowed) = view.windowed else { return Ok(entries) };
    let cut = || QueryError::new("a session in the ledger is damaged");
    let mut groups = Entries::default();
    for (key, value) in entries.iter() {
        let (start, rest) =
            key.split_last_chunk::<8>().map(|(rest, start)| (start, rest)).ok_or_else(cut)?;
        let (end, state) = value.split_first_chunk::<8>().ok_or_else(cut)?;
        let group = rest.get(1..).ok_or_else(cut)?;
        let key = key_of(view, windowed, group, time(*start), time(*end))?;
        groups.push(&key, state);
    }
    Ok(groups)
}
