//! `spoolmill history`: the microbatches of a job, the newest first.

use std::ffi::OsStr;
use std::io::Write as _;

use clap::{Args, ValueEnum};
use globset::Glob;

use super::delivery::quiet_if_reader_left;
use super::{JobFile, Misuse};
use crate::ledger::{Entry, Look, Outcome, now_ms};
use crate::telemetry;
use crate::units::Span;

/// Microbatches that are shown unless more are asked for.
const SHOWN: u64 = 20;

#[derive(Debug, Args)]
pub struct History {
    #[command(flatten)]
    job: JobFile,
    /// Only of files whose name, relative to the drop folder, matches this glob
    #[arg(long, value_name = "GLOB")]
    file: Option<String>,
    /// Only what was committed at most so long ago, such as 10m or 7d
    #[arg(long, value_name = "DURATION")]
    since: Option<Span>,
    /// Only what came to this
    #[arg(long, value_enum, value_name = "OUTCOME")]
    outcome: Option<Wanted>,
    /// At most so many; 0 shows all
    #[arg(short = 'n', long, default_value_t = SHOWN, value_name = "NUMBER")]
    limit: u64,
    /// One JSON object on each line
    #[arg(long)]
    json: bool,
}

/// `--outcome`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    Processed,
    Quarantined,
}

impl History {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.job.read()?;
        let glob = self.file.as_deref().map(Glob::new).transpose();
        let glob = glob.map_err(|_| Misuse("--file: expected a glob such as \"orders_*\""))?;
        let glob = glob.map(|glob| glob.compile_matcher());
        let since = self.since.map(|span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX));
        let since = since.map_or(i64::MIN, |since| now_ms().saturating_sub(since));
        let fits = |entry: &Entry| {
            let outcome = entry.outcome();
            glob.as_ref().is_none_or(|glob| glob.is_match(&entry.name))
                && match self.outcome {
                    None => true,
                    Some(Wanted::Processed) => outcome == Outcome::Processed,
                    Some(Wanted::Quarantined) => outcome == Outcome::Quarantined,
                }
        };
        let (mut out, mut left) = (std::io::BufWriter::new(std::io::stdout()), self.limit);
        let shown = Look::open(&config.state)?.history(since, |entry| {
            if !fits(&entry) {
                return Ok(true);
            }
            let line = if self.json { json(&entry) } else { line(&entry) };
            out.write_all(line.as_bytes())?;
            left = left.wrapping_sub(1);
            Ok(left != 0)
        });
        quiet_if_reader_left(shown.and_then(|()| Ok(out.flush()?)))
    }
}

fn time(at_ms: i64) -> String {
    let since_1970 = std::time::Duration::from_millis(u64::try_from(at_ms).unwrap_or(0));
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since_1970).to_string()
}

/// For people: names and reasons with everything that a terminal would take for itself escaped.
fn line(entry: &Entry) -> String {
    let Entry { sequence, bytes, read, written, rejected, .. } = entry;
    let (at, file) = (time(entry.at_ms), telemetry::escaped(entry.name.as_encoded_bytes()));
    match (&entry.reason, entry.outcome()) {
        (Some(reason), _) => {
            let reason = telemetry::escaped(reason.as_bytes());
            format!("{sequence}  {at}  {file}  quarantined: {reason}\n")
        }
        (None, Outcome::WithoutFile) => format!("{sequence}  {at}  without a file\n"),
        (None, _) => format!(
            "{sequence}  {at}  {file}  {bytes} bytes, {read} records read, {written} written, \
             {rejected} rejected\n"
        ),
    }
}

fn json(entry: &Entry) -> String {
    let name: &OsStr = &entry.name;
    let outcome = match entry.outcome() {
        Outcome::Processed => "processed",
        Outcome::Quarantined => "quarantined",
        Outcome::WithoutFile => "without_file",
    };
    let object = serde_json::json!({
        "microbatch": entry.sequence,
        "time": time(entry.at_ms),
        "file": String::from_utf8_lossy(name.as_encoded_bytes()),
        "outcome": outcome,
        "reason": entry.reason,
        "bytes": entry.bytes,
        "read": entry.read,
        "written": entry.written,
        "rejected": entry.rejected,
        "watermark_us": entry.watermark,
    });
    format!("{object}\n")
}
