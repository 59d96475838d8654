//! `spoolmill status`: how a job stands, whether or not its daemon runs.

use std::fmt::Write as _;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::JobFile;
use super::standard;
use crate::clock::now_ms;
use crate::ledger::Tally;
use crate::ledger::ViewTrouble;
use crate::record::Counts;
use crate::status::shape::{ago, time};
use crate::status::{Flow, Pending, RemovedView, Status};
use crate::telemetry::escaped;

#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    job: JobFile,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Show {
    pub fn run(self) -> anyhow::Result<()> {
        let status = Status::of(&self.job.read()?)?;
        let text = if self.json {
            format!("{}\n", serde_json::to_string(&status)?)
        } else {
            text(&status)
        };
        standard::print(text.as_bytes())
    }
}

/// For people: a line for each thing to know.
fn text(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line("daemon", daemon(status));
    match (&status.pending, &status.folder_error) {
        (Some(pending), _) => line("pending", waiting(pending)),
        (None, Some(error)) => {
            line("pending", format!("unknown: {}", escaped(error.as_bytes())));
        }
        (None, None) => {}
    }
    if let Some(next) = &status.next {
        line("next", next.clone());
    }
    line("total", flow(&status.total));
    for (name, of) in [("minute", &status.minute), ("hour", &status.hour), ("day", &status.day)] {
        line(name, format!("{}{}", flow(of), rate(of)));
    }
    if status.unarchived > 0 {
        line(
            "unarchived",
            format!("{} files are committed and not renamed yet", status.unarchived),
        );
    }
    if status.altered > 0 {
        let altered = status.altered;
        let what = "what came later is not in the output";
        line("altered", format!("{altered} files were written to after their commit; {what}"));
    }
    if let Some(file) = &status.no_room {
        line("no room", format!("the records of {file} do not fit on the disk; it waits"));
    }
    line("last commit", status.last_commit_ms.map_or_else(|| "never".to_owned(), when));
    if let Some(watermark) = status.watermark_us {
        line("watermark", time(watermark / 1000));
    }
    if !status.views.is_empty() {
        line("views", status.views.join(", "));
    }
    for trouble in &status.view_troubles {
        for (name, what) in told(trouble) {
            line(name, what);
        }
    }
    for RemovedView { name, bytes, more } in &status.removed_views {
        let least = if *more { "at least " } else { "" };
        let size = ByteSize::b(*bytes);
        let way = format!("`run --forget-view {name}` removes it");
        line("removed view", format!("{name} keeps {least}{size}; {way}"));
    }
    if let Some(trouble) = &status.last_error {
        let error = escaped(trouble.error.as_bytes());
        line("last error", format!("{}: {error}", when(trouble.at_ms)));
    }
    text
}

/// The lines that tell the trouble of a view.
fn told(trouble: &ViewTrouble) -> Vec<(&'static str, String)> {
    let ViewTrouble { view, stopped, left_out, group, reason } = trouble;
    let mut told = Vec::new();
    if let Some(reason) = stopped {
        let reason = escaped(reason.as_bytes());
        let way = format!("run --reset-view {view}");
        told.push(("stopped view", format!("{view}: {reason}; `{way}` rebuilds it")));
    }
    let Some(reason) = reason else { return told };
    let reason = escaped(reason.as_bytes());
    let last = match group.as_deref() {
        None | Some("") => format!("{view}: the result cannot be computed: {reason}"),
        Some(group) => {
            let group = escaped(group.as_bytes());
            format!("{left_out} groups of {view} cannot be computed; the last is {group}: {reason}")
        }
    };
    told.push(("left out", last));
    told
}

fn when(at_ms: i64) -> String {
    format!("{} ({} ago)", time(at_ms), ago(now_ms() - at_ms))
}

fn daemon(status: &Status) -> String {
    match (status.pid, &status.paused) {
        (None, _) => "does not run".to_owned(),
        (Some(pid), Some(reason)) => {
            format!("process {pid} pauses: {}", escaped(reason.as_bytes()))
        }
        (Some(pid), None) => {
            let since = status.started_ms.map(|started| now_ms() - started).map(ago);
            format!("process {pid} runs since {}", since.unwrap_or_default())
        }
    }
}

fn waiting(pending: &Pending) -> String {
    let Pending { files, bytes, settling, failed, .. } = *pending;
    let at_least = if pending.at_least { "at least " } else { "" };
    let oldest = pending.oldest_seconds.map_or(String::new(), |seconds| {
        let oldest = Duration::from_secs_f64(seconds.floor());
        format!(", the oldest for {}", humantime::format_duration(oldest))
    });
    format!(
        "{at_least}{files} files, {}{oldest}; {settling} not complete yet; failed: {failed} set \
         aside in the folder",
        ByteSize(bytes)
    )
}

fn flow(flow: &Flow) -> String {
    let Tally { files, quarantined, duplicates, bytes, counts, .. } = flow.tally;
    let Counts { read, written, rejected, late } = counts;
    format!(
        "{files} files, {}, {quarantined} failed, {duplicates} duplicates; records: {read} read, \
         {written} written, {rejected} rejected, {late} late",
        ByteSize(bytes)
    )
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
fn rate(flow: &Flow) -> String {
    let (Some(bytes), Some(records)) = (flow.bytes_per_second, flow.records_per_second) else {
        return String::new();
    };
    format!("; {}/s, {records:.1} records/s", ByteSize(bytes as u64))
}
