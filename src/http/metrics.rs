//! The figures of a job for a monitoring system, as OpenMetrics text (the specification 1.0).
//!
//! Invariants: names and units follow the Prometheus conventions: base units, `_total` for what
//! only grows, one family for each thing; no label comes from a file name or a record.

use std::fmt::{Display, Write as _};

use crate::status::Status;

/// The `Content-Type` of the metrics.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of a job that stands like this.
pub fn text(status: &Status) -> String {
    let mut text = Families(String::new());
    counters(&mut text, status);
    gauges(&mut text, status);
    text.0.push_str("# EOF\n");
    text.0
}

struct Families(String);

impl Families {
    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# TYPE spoolmill_{name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.0, "# UNIT spoolmill_{name} {unit}");
        }
        let _ = writeln!(self.0, "# HELP spoolmill_{name} {help}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "spoolmill_{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, unit: &str, help: &str, value: Option<impl Display>) {
        let Some(value) = value else { return };
        self.family(name, "gauge", unit, help);
        self.sample(name, "", value);
    }
}

fn counters(text: &mut Families, status: &Status) {
    let total = &status.total.tally;
    text.family("files", "counter", "", "Files committed since the beginning of the ledger.");
    text.sample("files_total", "{outcome=\"processed\"}", total.files);
    text.sample("files_total", "{outcome=\"failed\"}", total.quarantined);
    text.family("records", "counter", "", "Records since the beginning of the ledger.");
    for (kind, count) in [
        ("read", total.counts.read),
        ("written", total.counts.written),
        ("rejected", total.counts.rejected),
        ("late", total.counts.late),
    ] {
        text.sample("records_total", &format!("{{kind=\"{kind}\"}}"), count);
    }
    for (name, unit, help, count) in [
        ("microbatches", "", "Microbatches committed.", total.microbatches),
        ("duplicate_files", "", "Files with the content of an earlier one.", total.duplicates),
        ("altered_files", "", "Files that were written to after their commit.", status.altered),
        ("input_bytes", "bytes", "Bytes of the files that were processed.", total.bytes),
    ] {
        text.family(name, "counter", unit, help);
        text.sample(&format!("{name}_total"), "", count);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time in seconds needs no more than 53 bits")]
fn gauges(text: &mut Families, status: &Status) {
    let pending = status.pending.as_ref();
    let seconds = |ms: i64| ms as f64 / 1e3;
    text.gauge("pending_files", "", "Files that wait.", pending.map(|pending| pending.files));
    let bytes = pending.map(|pending| pending.bytes);
    text.gauge(
        "pending_bytes",
        "bytes",
        "Bytes of the files that wait, as far as they were seen.",
        bytes,
    );
    let settling = pending.map(|pending| pending.settling);
    text.gauge("incomplete_files", "", "Files that wait and are not complete yet.", settling);
    let failed = pending.map(|pending| pending.failed);
    text.gauge("failed_files", "", "Failed files in the drop folder.", failed);
    let oldest = pending.map(|pending| pending.oldest_seconds.unwrap_or(0.0));
    text.gauge(
        "oldest_pending_age_seconds",
        "seconds",
        "How long the oldest file that waits has been what it is; 0 without one.",
        oldest,
    );
    let commit = status.last_commit_ms.map(seconds);
    text.gauge(
        "last_commit_timestamp_seconds",
        "seconds",
        "When the last microbatch was made.",
        commit,
    );
    let watermark = status.watermark_us.map(|us| us as f64 / 1e6);
    text.gauge("watermark_timestamp_seconds", "seconds", "The watermark.", watermark);
    let stopped = status.view_troubles.iter().filter(|trouble| trouble.stopped.is_some()).count();
    text.gauge(
        "stopped_views",
        "",
        "Views that see nothing until they are rebuilt.",
        Some(stopped),
    );
    let left_out: u64 = status.view_troubles.iter().map(|trouble| trouble.left_out).sum();
    text.gauge("left_out_groups", "", "Groups that views leave out.", Some(left_out));
    let error = status.last_error.as_ref().map(|trouble| seconds(trouble.at_ms));
    text.gauge("last_error_timestamp_seconds", "seconds", "When the last failure was.", error);
    text.gauge(
        "unarchived_files",
        "",
        "Files committed and not renamed yet.",
        Some(status.unarchived),
    );
    let paused = Some(u8::from(status.paused.is_some()));
    text.gauge("paused", "", "1 while the daemon pauses after a transient failure.", paused);
    let started = status.started_ms.map(seconds);
    text.gauge("start_timestamp_seconds", "seconds", "When the daemon was started.", started);
}
