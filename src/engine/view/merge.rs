//! Partial states of a microbatch into the states that are kept, window by window.
//!
//! Invariants: a key begins with the end of its window, in an order that bytes keep, so that the
//! windows that a watermark closes stand together. A window that was closed is not opened again.

use std::borrow::Cow;

use arrow_array::{ArrayRef, UInt32Array};
use arrow_select::concat::concat;
use arrow_select::take::take;
use datafusion::common::{DataFusionError, Result as Fallible};
use datafusion::logical_expr::EmitTo;

use super::keys::{end_key, end_of};
use super::{Asked, Entries, States, Store, View, closed, problem, sessions};
use crate::engine::bounds::{self, Windowed, panes};
use crate::engine::rows::{self, Rows};
use crate::engine::{QueryError, state};
use crate::event_time::Window;

/// Under this key stands the end of the last window that was closed without the watermark. The keys of
/// windows are not before the next one.
const CLOSED: &[u8] = &[];
const FIRST: &[u8] = &[0];

impl View {
    /// Merges the partial states of a microbatch into those of `store`, which has closed the windows
    /// up to `watermark`. Returns the groups that have records in it; of those, where only changes are
    /// asked for, the ones whose row is another than before.
    ///
    /// # Errors
    /// Those of `store`, and when a state cannot be read or merged.
    pub fn merge<S: Store>(
        &self,
        delta: &[States],
        watermark: Option<i64>,
        store: &mut S,
    ) -> Result<States, S::Error> {
        if let Some(Windowed { window: Window::Session { gap }, .. }) = self.windowed {
            let mark = watermark.filter(|_| self.closes_by_time());
            return sessions::merge(self, delta, gap, mark, store);
        }
        let parts = self.in_windows(delta, watermark).map_err(problem)?;
        let Interned { keys, places, order } = match parts.as_slice() {
            [only] if self.windowed.is_none_or(|windowed| windowed.window.is_tumbling()) => {
                alone(only)
            }
            parts => intern(parts),
        };
        if keys.is_empty() {
            // Not every function has a state of nothing.
            return Ok(States { keys, states: Vec::new() });
        }
        let mut old = (Rows::default(), Vec::new());
        for (place, key) in keys.iter().enumerate() {
            if let Some(value) = store.get(key)? {
                old.0.push(&value);
                old.1.push(place);
            }
        }
        let old = (self.decode_states(&old.0).map_err(problem)?, old.1);
        let new = parts.iter().map(|part| part.states.clone()).zip(places);
        let mut all: Vec<_> = std::iter::once(old).chain(new).collect();
        // Also where there is nothing to merge with: what the engine cannot merge must not be kept.
        let merged = QueryError::guard(|| self.merged(keys.len(), &all))?;
        let states = States { keys, states: merged };
        store.put_all(states.entries(order.iter().copied())?);
        let (old, places) = all.swap_remove(0);
        self.changed(old, &places, states).map_err(problem)
    }

    /// Of these groups, those whose row is another than what their states were before: the old ones stand
    /// at these places. All of them, unless only changes are asked for.
    fn changed(&self, old: Vec<ArrayRef>, places: &[usize], new: States) -> Fallible<States> {
        if self.source.asked != Asked::Changed || places.is_empty() {
            return Ok(new);
        }
        let mut keys = Rows::with_room(places.len());
        for place in places {
            keys.push(new.keys.get(*place));
        }
        let before = self.values_of(&States { keys, states: old });
        let (Ok(before), Ok(after)) = (before, self.values_of(&new)) else {
            // Which group cannot be computed shows where they are written.
            return Ok(new);
        };
        let mut is_other = vec![true; new.len()];
        for (old, place) in places.iter().enumerate() {
            if let Some(is_other) = is_other.get_mut(*place) {
                *is_other = before.get(old) != after.get(*place);
            }
        }
        let of_other = is_other.iter().enumerate().filter(|(_, is_other)| **is_other);
        let other: Vec<usize> = of_other.map(|(place, _)| place).collect();
        if other.len() == new.len() { Ok(new) } else { new.only(&other) }
    }

    /// The results of the functions for each group, as bytes that can be compared.
    fn values_of(&self, states: &States) -> Fallible<Vec<Vec<u8>>> {
        let groups = self.groups_of(states)?;
        let values = groups.columns().get(self.keys..).unwrap_or_default();
        if values.is_empty() {
            return Ok(vec![Vec::new(); states.len()]);
        }
        let encoded = state::encode(values, 0..states.len())?;
        Ok(encoded.iter().map(<[u8]>::to_vec).collect())
    }

    /// Removes the groups whose windows end at `up_to` or before, or all that have a window, and
    /// returns them in the order of their ends.
    ///
    /// # Errors
    /// Those of `store`.
    pub fn close<S: Store>(&self, up_to: Option<i64>, store: &mut S) -> Result<Entries, S::Error> {
        if self.windowed.is_none_or(|windowed| !windowed.is_event_time) {
            return Ok(Entries::default());
        }
        let bound = up_to.and_then(|up_to| up_to.checked_add(1)).map(end_key);
        let window = self.windowed.map(|windowed| windowed.window);
        let closed = if let Some(Window::Session { gap }) = window {
            let closed = sessions::close(bound, store)?;
            let mark = up_to.or_else(|| self.last_end(&closed));
            mark.map_or(Ok(()), |mark| closed::remember(&closed, gap, mark, store))?;
            closed
        } else {
            let closed = store.range(FIRST, bound.as_ref().map(<[u8; 8]>::as_slice))?;
            for (key, _) in closed.iter() {
                store.put(key.to_vec(), None);
            }
            closed
        };
        // What is before the watermark is known to be closed.
        if let Some(last) = self.last_end(&closed).filter(|_| up_to.is_none()) {
            let last = self.closed(store)?.map_or(last, |before| before.max(last));
            store.put(CLOSED.to_vec(), Some(end_key(last).to_vec()));
        }
        Ok(closed)
    }

    /// The end of the last window that was closed without the watermark; what ends before is closed.
    ///
    /// # Errors
    /// Those of `store`.
    pub fn closed<S: Store>(&self, store: &S) -> Result<Option<i64>, S::Error> {
        if !self.closes_by_time() {
            return Ok(None);
        }
        Ok(store.get(CLOSED)?.as_deref().and_then(end_of))
    }

    /// The end of the window of the last of these groups, as they were kept.
    fn last_end(&self, entries: &Entries) -> Option<i64> {
        let (key, value) = entries.get(entries.len().checked_sub(1)?);
        if self.has_sessions() { sessions::end_of(value) } else { end_of(key) }
    }

    /// All groups that are kept.
    ///
    /// # Errors
    /// Those of `store`.
    pub fn all<S: Store>(&self, store: &S) -> Result<Entries, S::Error> {
        if self.has_sessions() {
            return sessions::all(store);
        }
        store.range(if self.closes_by_time() { FIRST } else { &[] }, None)
    }

    /// True when it groups by sessions.
    pub fn has_sessions(&self) -> bool {
        let window = self.windowed.map(|windowed| windowed.window);
        matches!(window, Some(Window::Session { .. }))
    }

    /// One partial state for each group, or pane, of several.
    ///
    /// # Errors
    /// When a state cannot be merged.
    pub fn condense(&self, delta: &[States]) -> Result<States, QueryError> {
        let delta: Vec<_> = delta.iter().map(Cow::Borrowed).collect();
        let Interned { keys, places, .. } = intern(&delta);
        let parts: Vec<_> = delta.iter().map(|part| part.states.clone()).zip(places).collect();
        let states = QueryError::guard(|| self.merged(keys.len(), &parts))?;
        Ok(States { keys, states })
    }

    /// Merges rows of states into groups; each row has its group.
    ///
    /// No rows are merged into nothing: not every function has a state of that. All rows at once: an accumulator takes it that each group up to the last has had a row by then,
    /// and a group that it has only heard of would have a sum of 0 where it has none.
    pub(super) fn merged(
        &self,
        total: usize,
        parts: &[(Vec<ArrayRef>, Vec<usize>)],
    ) -> Fallible<Vec<ArrayRef>> {
        let parts: Vec<_> = parts.iter().filter(|(_, places)| !places.is_empty()).collect();
        if parts.is_empty() {
            return Ok(Vec::new());
        }
        let places: Vec<usize> =
            parts.iter().flat_map(|(_, places)| places.iter().copied()).collect();
        let mut number = 0;
        let mut merge = |aggregate: &_| {
            let mut merging = super::accumulator(aggregate)?;
            let columns = aggregate.state_fields()?.len();
            let column = |number: usize| {
                let pieces = parts.iter().filter_map(|(columns, _)| columns.get(number));
                Ok(concat(&pieces.map(AsRef::as_ref).collect::<Vec<_>>())?)
            };
            let mine = (number..number + columns).map(column).collect::<Fallible<Vec<_>>>()?;
            number += columns;
            merging.merge_batch(&mine, &places, total)?;
            merging.state(EmitTo::All)
        };
        let merged = self.aggregates.iter().map(&mut merge).collect::<Fallible<Vec<_>>>()?;
        Ok(merged.into_iter().flatten().collect())
    }

    /// Partial states with the keys that they are kept under: each pane in each of its windows that is
    /// not closed.
    fn in_windows<'a>(
        &self,
        delta: &'a [States],
        watermark: Option<i64>,
    ) -> Fallible<Vec<Cow<'a, States>>> {
        let Some(windowed) = self.windowed else {
            return Ok(delta.iter().map(Cow::Borrowed).collect());
        };
        let closed = watermark.filter(|_| self.closes_by_time());
        let one = |part: &States| {
            let (columns, ends) = spread(self.columns(part)?, windowed, closed)?;
            let (groups, states) = columns.split_at_checked(self.keys).unwrap_or_default();
            let groups = state::encode(groups, 0..ends.len())?;
            let mut keys = Rows::with_room(groups.len());
            for (group, end) in groups.iter().zip(ends) {
                keys.push(&[&end_key(end), group].concat());
            }
            Ok(Cow::Owned(States { keys, states: states.to_vec() }))
        };
        delta.iter().map(one).collect()
    }

    /// The columns of groups without their windows' ends, then those of their states.
    pub(super) fn columns(&self, part: &States) -> Fallible<Vec<ArrayRef>> {
        let mut columns = self.decode_keys(part.keys.iter())?;
        columns.extend(part.states.iter().cloned());
        Ok(columns)
    }
}

/// Groups by their keys.
struct Interned {
    /// Each key once, as they come first.
    keys: Rows,
    /// For each part the places of its rows among them.
    places: Vec<Vec<usize>>,
    /// The places in the order of the keys.
    order: Vec<usize>,
}

/// Each of these is of a group of its own.
fn alone(part: &States) -> Interned {
    let order = rows::order(&part.keys.iter().collect::<Vec<_>>());
    Interned { keys: part.keys.clone(), places: vec![(0..part.len()).collect()], order }
}

/// Finds the rows that are of one group. They have to be put in order for the store in any case, and then
/// those with one key stand together.
fn intern(parts: &[Cow<'_, States>]) -> Interned {
    let all: Vec<&[u8]> = parts.iter().flat_map(|part| part.keys.iter()).collect();
    let mut group_of = vec![0; all.len()];
    let mut groups = 0;
    let mut before = None;
    for row in rows::order(&all) {
        let key = all.get(row);
        groups += usize::from(before != key);
        before = key;
        if let Some(group) = group_of.get_mut(row) {
            *group = groups - 1;
        }
    }
    let mut keys = Rows::with_room(groups);
    let mut order = vec![None; groups];
    let place = |(key, group): (&&[u8], &usize)| {
        let place = order.get_mut(*group)?;
        Some(*place.get_or_insert_with(|| {
            keys.push(key);
            keys.len() - 1
        }))
    };
    let mut flat = all.iter().zip(&group_of).filter_map(place);
    let of_part = |part: &Cow<'_, States>| flat.by_ref().take(part.len()).collect();
    let places = parts.iter().map(of_part).collect();
    Interned { keys, places, order: order.into_iter().flatten().collect() }
}

/// Each row once for each window of its pane that ends after `closed`, and the ends.
fn spread(
    columns: Vec<ArrayRef>,
    windowed: Windowed,
    closed: Option<i64>,
) -> Fallible<(Vec<ArrayRef>, Vec<i64>)> {
    let panes = panes(&columns, windowed)?;
    let total = panes.len();
    let mut rows = Vec::new();
    let mut starts = Vec::new();
    let mut ends = Vec::new();
    for (row, pane) in panes.into_iter().enumerate() {
        let row = u32::try_from(row)
            .map_err(|_| DataFusionError::Execution("too many groups at once".to_owned()))?;
        let Some(pane) = pane else { continue };
        for (start, end) in windowed.window.covering(pane) {
            if closed.is_none_or(|closed| end > closed) {
                rows.push(row);
                starts.push(start);
                ends.push(end);
            }
        }
    }
    if windowed.window.is_tumbling() && rows.len() == total {
        return Ok((columns, ends));
    }
    let rows = UInt32Array::from(rows);
    let columns = columns.iter().enumerate().map(|(place, column)| {
        let bound = match Some(place) {
            place if place == windowed.start => &starts,
            place if place == windowed.end => &ends,
            _ => return Ok(take(column, &rows, None)?),
        };
        Ok(bounds::column(bound.clone(), column.data_type()))
    });
    Ok((columns.collect::<Fallible<_>>()?, ends))
}
