//! How far a source of partitions has come.
//!
//! Invariants: a position is written in the transaction of the microbatch that takes the range before it, and
//! nowhere else. A range begins where the one before it in its partition has ended, so that none is taken twice
//! and none is left out, whatever the source believes.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, params};

use super::{Committed, Ledger};
use crate::durable::fault;
use crate::failure::{Failure, Result};

/// Where the next range of each partition begins.
pub(super) type Reached = BTreeMap<Box<str>, u64>;

impl Ledger {
    /// Where the next range begins, for each partition of which something was taken.
    pub fn progress(&self) -> &BTreeMap<Box<str>, u64> {
        &self.reached
    }
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Reached> {
    let mut statement = connection.prepare("SELECT partition, position FROM progress")?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// The positions after a group.
///
/// # Errors
/// `Halt` when a range does not begin where the one before it has ended.
pub(super) fn after(reached: &Reached, group: &[Committed]) -> Result<HashMap<Box<str>, u64>> {
    let mut moved: HashMap<Box<str>, u64> = HashMap::new();
    for range in group.iter().flat_map(|committed| &committed.batch.progress) {
        let known = moved.get(&range.partition).or_else(|| reached.get(&range.partition));
        if let Some(known) = known.filter(|known| **known != range.from) {
            return Err(Failure::halt(format!(
                "partition {} was read up to position {known}, and a microbatch begins at {}: the source \
                 is not the one that was read",
                range.partition, range.from
            )));
        }
        moved.insert(range.partition.clone(), range.to);
    }
    Ok(moved)
}

pub(super) fn put(connection: &Connection, moved: &HashMap<Box<str>, u64>) -> rusqlite::Result<()> {
    if fault::mutant("no-progress") {
        return Ok(());
    }
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO progress VALUES (?, ?)")?;
    for (partition, position) in moved {
        put.execute(params![partition, position])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::microbatch::{Microbatch, Progress};

    fn range(partition: &str, from: u64, to: u64) -> Committed {
        let mut batch = Microbatch::without_input(0);
        batch.progress = vec![Progress { partition: partition.into(), from, to }];
        Committed { sequence: 1, batch, starts: Vec::new() }
    }

    #[test]
    fn a_range_begins_where_the_one_before_has_ended() {
        let reached = Reached::from([("a".into(), 5)]);
        let moved = after(&reached, &[range("a", 5, 7), range("a", 7, 8), range("b", 3, 4)]);
        assert_eq!(moved.unwrap(), HashMap::from([("a".into(), 8), ("b".into(), 4)]));
        for wrong in [range("a", 4, 7), range("a", 6, 7)] {
            assert!(matches!(after(&reached, &[wrong]), Err(Failure::Fatal(_))));
        }
        assert!(after(&reached, &[range("a", 5, 7), range("a", 6, 8)]).is_err());
    }
}
