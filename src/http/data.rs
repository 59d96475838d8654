//! The data of the page, as JSON.

use serde_json::{Value, json};

use crate::clock::now_ms;
use crate::config::Config;
use crate::ledger::{MINUTE_MS, Reader, Tally};
use crate::record::Counts;
use crate::status::{Status, shape};

/// Microbatches on the page.
const NEWEST: u64 = 25;

/// Files in quarantine on the page.
const QUARANTINED: u64 = 25;

/// Minutes in the plots at most: a day.
const MINUTES: i64 = 24 * 60;

/// Minutes that come with every change: the last one may have grown.
const FRESH: i64 = 3;

/// How the job stands, and what it did last.
pub fn page(config: &Config, status: &Status) -> anyhow::Result<Value> {
    let look = Reader::open(&config.state)?;
    let list = |entries: Vec<_>| entries.iter().map(shape::json).collect::<Vec<_>>();
    Ok(json!({
        "job": config.file.file_stem().unwrap_or_default().to_string_lossy(),
        "now_ms": now_ms(),
        "status": status,
        "newest": list(look.newest(NEWEST)?),
        "quarantined": list(look.newest_quarantined(QUARANTINED)?),
        "series": series(&look, FRESH)?,
    }))
}

/// Totals of each minute of the last day.
pub fn day(config: &Config) -> anyhow::Result<Value> {
    series(&Reader::open(&config.state)?, MINUTES)
}

/// Of the last minutes, those in which something was committed: minute since 1970, files, bytes,
/// records read, records rejected, the longest wait of a file in milliseconds.
fn series(look: &Reader, minutes: i64) -> anyhow::Result<Value> {
    let from = now_ms().div_euclid(MINUTE_MS) - minutes;
    let mut before = look.tally(from)?;
    let rows = look.tallies(from)?.into_iter().map(|tally| {
        let Tally { minute, files, bytes, counts, lag_ms, .. } = tally.since(&before);
        let Counts { read, rejected, .. } = counts;
        before = tally;
        json!([minute, files, bytes, read, rejected, lag_ms])
    });
    Ok(rows.collect())
}
