//! How times and microbatches look, to people and as JSON.

use crate::ledger::{Entry, Outcome};
use crate::record::Counts;
use crate::telemetry;

/// A time in milliseconds since 1970, in UTC.
pub fn time(at_ms: i64) -> String {
    let since_1970 = std::time::Duration::from_millis(u64::try_from(at_ms).unwrap_or(0));
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since_1970).to_string()
}

/// Milliseconds, in whole seconds.
pub fn ago(ms: i64) -> String {
    let seconds = u64::try_from(ms / 1000).unwrap_or(0);
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

/// For people: names and reasons with everything that a terminal would take for itself escaped.
pub fn line(entry: &Entry) -> String {
    let Entry { sequence, bytes, counts, .. } = entry;
    let Counts { read, written, rejected, late } = counts;
    let at = time(entry.at_ms);
    let file = telemetry::escaped(entry.name.as_encoded_bytes());
    let what = match (&entry.reason, entry.outcome()) {
        (Some(reason), _) => {
            let reason = telemetry::escaped(reason.as_bytes());
            format!("{file}  failed: {reason}")
        }
        (None, Outcome::WithoutFile) => "without a file".to_owned(),
        (None, Outcome::Skipped) => format!("{file}  {bytes} bytes, skipped"),
        (None, _) => format!(
            "{file}  {bytes} bytes, {records}, {written} written, {rejected} rejected{late}",
            records = format_args!("{read} records read"),
            late = if *late > 0 { format!(", {late} late") } else { String::new() },
        ),
    };
    let earlier =
        entry.duplicate_of.map(|earlier| format!(", the content of microbatch {earlier}"));
    let again = entry.again_of.map(|again| format!(", microbatch {again} again"));
    let earlier = earlier.unwrap_or_default();
    let again = again.unwrap_or_default();
    format!("{sequence}  {at}  {what}{earlier}{again}\n")
}

/// As a JSON object.
pub fn json(entry: &Entry) -> serde_json::Value {
    let outcome = match entry.outcome() {
        Outcome::Processed => "processed",
        Outcome::Quarantined => "quarantined",
        Outcome::Skipped => "skipped",
        Outcome::WithoutFile => "without_file",
    };
    let mut object = serde_json::json!({
        "microbatch": entry.sequence,
        "time": time(entry.at_ms),
        "outcome": outcome,
        "reason": entry.reason,
        "bytes": entry.bytes,
        "read": entry.counts.read,
        "written": entry.counts.written,
        "rejected": entry.counts.rejected,
        "late": entry.counts.late,
        "watermark_us": entry.watermark,
        "duplicate_of": entry.duplicate_of,
        "again_of": entry.again_of,
    });
    crate::record::put_text(&mut object, "file", entry.name.as_encoded_bytes());
    object
}
