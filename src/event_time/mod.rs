//! Event time: windows, the watermark, and what is judged by it.
//!
//! Invariants:
//! - Times are microseconds since 1970, in UTC; windows are aligned to 1970, moved by their offset,
//!   and hold their beginning, not their end.
//! - The watermark of a microbatch is what the ones before it left; before the first there is none.
//!   It never goes back. A window is closed when its end is not after the watermark; a record is
//!   late when its last window is closed. (The rules of Spark's Structured Streaming, but that late
//!   records are kept, and judged before the view's own conditions.)
//!
//! Out of scope: queries, states, and where the watermark is kept.

mod judge;
mod window;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units::Span;
pub use judge::{Judge, Judged, LateRow, Marks, Rule, micros};
pub use window::{COVER_MAX, Window};

/// `[event_time]`: which column says when a record happened, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EventTime {
    /// The column of the output, a timestamp or a date.
    pub column: String,
    /// The watermark trails the largest event time by this much.
    #[serde(default)]
    pub delay: Delay,
    /// A record further ahead of the clock is rejected.
    #[serde(default = "max_future")]
    pub max_future: Span,
    /// Where records go that came after their last window was closed; the output's path with
    /// the suffix `.late.jsonl` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<PathBuf>,
    /// All windows are closed when no file has come for this long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_close: Option<Span>,
}

/// `delay`: none unless given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Delay(pub Span);

impl Default for Delay {
    fn default() -> Self {
        Self(Span::seconds(0))
    }
}

fn max_future() -> Span {
    Span::seconds(3600)
}

/// A length of time in microseconds.
pub fn span_micros(span: Span) -> i64 {
    i64::try_from(span.0.as_micros()).unwrap_or(i64::MAX)
}

/// A time as it is written in the output: `2024-02-28 22:35:00`, in UTC.
pub fn text(micros: i64) -> String {
    let Some(time) = chrono::DateTime::from_timestamp_micros(micros) else {
        return format!("{micros} microseconds after 1970");
    };
    let seconds = time.format("%Y-%m-%d %H:%M:%S").to_string();
    match micros.rem_euclid(1_000_000) {
        0 => seconds,
        fraction => format!("{seconds}.{}", format!("{fraction:06}").trim_end_matches('0')),
    }
}
