//! Reports of a committed microbatch: a line in the log, a file beside a failed input.

use crate::ledger::Committed;
use crate::source::{Debt, Fate};

/// The content of `failed-*.error.json`, the same each time it is made.
fn report(committed: &Committed) -> Vec<u8> {
    let batch = committed.batch();
    let Some(reason) = &batch.quarantined else { return Vec::new() };
    let hash = blake3::Hash::from_bytes(batch.identity.hash).to_hex();
    let at = std::time::Duration::from_millis(committed.committed_ms().unsigned_abs());
    let mut report = serde_json::json!({
        "reason": reason,
        "microbatch": committed.sequence(),
        "time": humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + at).to_string(),
        "size": batch.identity.size,
        "blake3": hash.as_str(),
    });
    crate::record::put_text(&mut report, "file", batch.name.as_encoded_bytes());
    format!("{report:#}\n").into_bytes()
}

/// One line for each microbatch.
pub fn log(committed: &Committed) {
    let batch = committed.batch();
    let file = crate::telemetry::text(&batch.name);
    let microbatch = committed.sequence();
    let bytes = batch.identity.size;
    if !batch.has_input() {
        tracing::info!(microbatch, "committed without a file");
        return;
    }
    if let Some(earlier) = batch.duplicate_of.filter(|_| batch.skipped) {
        tracing::info!(microbatch, file, bytes, duplicate_of = earlier, "the file was skipped");
        return;
    }
    let Some(reason) = &batch.quarantined else {
        let read = batch.counts.read;
        let written = batch.counts.written;
        let rejected = batch.counts.rejected;
        let duplicate_of = batch.duplicate_of;
        let again_of = batch.again_of;
        tracing::info!(
            microbatch,
            file,
            bytes,
            read,
            written,
            rejected,
            duplicate_of,
            again_of,
            "committed"
        );
        return;
    };
    tracing::warn!(microbatch, file, bytes, reason, "the file failed");
}

/// The archive step that the input still needs.
pub fn debt(committed: &Committed) -> Debt {
    let batch = committed.batch();
    let fate = match batch.quarantined {
        Some(_) => Fate::Failed(report(committed)),
        None => Fate::Processed,
    };
    let name = batch.name.clone();
    let identity = batch.identity;
    Debt { name, identity, home: batch.home, sequence: committed.sequence(), fate }
}
