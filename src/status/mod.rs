//! How a job stands, seen from outside: the ledger, the drop folder, and what the daemon tells.
//!
//! Invariants: nothing is written, nothing is locked, and what an answer costs does not depend on
//! how much waits or how much was done; it is the same for the command line and for HTTP.

pub mod explain;
pub mod live;
pub mod shape;
pub mod verify;

use std::collections::HashSet;
use std::ffi::OsString;
use std::time::Duration;

use serde::Serialize;

use crate::clock::now_ms;
use crate::config::Config;
use crate::decode::compression;
use crate::ledger::{MINUTE_MS, Reader, Tally, ViewTrouble};
use crate::source::folder::{FolderSource, Survey};
use live::{Live, Trouble};

/// How long the drop folder is looked at while the daemon runs.
const BUDGET: Duration = Duration::from_millis(10);

/// The same where no daemon runs that would know the rest.
const BUDGET_ALONE: Duration = Duration::from_secs(5);

/// Microbatches that are counted one by one.
const COUNTED_MAX: u64 = 5000;

/// Groups of a removed view that are looked at.
const GROUPS_MAX: u64 = 100_000;

/// A view that was taken out of the job.
#[derive(Debug, Clone, Serialize)]
pub struct RemovedView {
    /// Its name.
    pub name: String,
    /// Bytes of its state in the ledger.
    pub bytes: u64,
    /// There is more, which was not looked at.
    pub more: bool,
}

impl RemovedView {
    fn of(name: String, look: &Reader) -> anyhow::Result<Self> {
        let (bytes, more) = look.view_size(&name, GROUPS_MAX)?;
        Ok(Self { name, bytes, more })
    }
}

/// How a job stands.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The process of the daemon, if it runs.
    pub pid: Option<u32>,
    /// When it was started, in milliseconds since 1970, if it runs.
    pub started_ms: Option<i64>,
    /// Why it pauses, while it does.
    pub paused: Option<String>,
    /// Waiting files; missing where the drop folder cannot be read.
    pub pending: Option<Pending>,
    /// The next file in order, while there is one and the daemon runs.
    pub next: Option<String>,
    /// Why the drop folder cannot be read, if so.
    pub folder_error: Option<String>,
    /// Everything since the beginning of the ledger.
    pub total: Flow,
    /// Of the last sixty seconds; since the beginning of the last whole minute where that was too much to
    /// count.
    pub minute: Flow,
    /// Of the last hour.
    pub hour: Flow,
    /// Of the last day.
    pub day: Flow,
    /// Committed files that are not durably archived yet.
    pub unarchived: u64,
    /// Files that somebody wrote to after their commit; what came later was set aside.
    pub altered: u64,
    /// A file whose records do not fit on the disk, while there is one and the daemon runs.
    pub no_room: Option<String>,
    /// When the last microbatch was made, in milliseconds since 1970.
    pub last_commit_ms: Option<i64>,
    /// The watermark, in microseconds since 1970, where the job has an event time.
    pub watermark_us: Option<i64>,
    /// The views of the job that the ledger knows.
    pub views: Vec<String>,
    /// Those that are stopped, or of which groups are left out.
    pub view_troubles: Vec<ViewTrouble>,
    /// Views that are not in the job any more, of which the ledger still keeps something.
    pub removed_views: Vec<RemovedView>,
    /// The last failure that made the daemon pause or stop, or the last quarantine.
    pub last_error: Option<Trouble>,
}

/// The waiting files in the drop folder.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pending {
    /// Files that are to be taken, now or when they are complete.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these files, those that are not complete yet as far as is known.
    pub settling: u64,
    /// How long the oldest of them has been what it is, in seconds.
    pub oldest_seconds: Option<f64>,
    /// Files in the folder that were set aside.
    pub failed: u64,
    /// The folder is so large that only a part of it was looked at: there is at least this much.
    pub at_least: bool,
}

/// Throughput over a period.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Flow {
    /// How long that was, in seconds; missing for all time.
    pub seconds: Option<f64>,
    /// How much.
    #[serde(flatten)]
    pub tally: Tally,
    /// Bytes a second.
    pub bytes_per_second: Option<f64>,
    /// Records read a second.
    pub records_per_second: Option<f64>,
}

impl Flow {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
    fn of(tally: Tally, seconds: Option<f64>) -> Self {
        let rate = |amount: u64| seconds.map(|seconds| amount as f64 / seconds.max(1e-3));
        let bytes = rate(tally.bytes);
        let records = rate(tally.counts.read);
        Self { seconds, tally, bytes_per_second: bytes, records_per_second: records }
    }
}

impl Status {
    /// How the job stands now.
    ///
    /// # Errors
    /// When the ledger cannot be read, or the job has never run.
    pub fn of(config: &Config) -> anyhow::Result<Self> {
        Self::seen_by(config, live::runner(&config.state))
    }

    /// The same, by one who knows which process the daemon is: confined, it may not ask the kernel.
    ///
    /// # Errors
    /// When the ledger cannot be read, or the job has never run.
    pub fn seen_by(config: &Config, pid: Option<u32>) -> anyhow::Result<Self> {
        let now_ms = now_ms();
        let look = Reader::open(&config.state)?;
        let live = Live::read(&config.state);
        let runs = pid.is_some();
        let total = look.tally(i64::MAX)?;
        let unarchived = look.unarchived()?;
        let committed = unarchived.iter().map(|(_, name)| name.clone()).collect();
        // Nobody but the daemon knows more than a look at all of it.
        let surveyed = survey(config, &committed, if runs { BUDGET } else { BUDGET_ALONE });
        let (pending, folder_error) = match surveyed {
            Ok(survey) => (Some(pending(survey, runs.then_some(&live))), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let last = look.newest(1)?.pop();
        let quarantined = look.newest_quarantined(1)?.pop().and_then(|entry| {
            let file = crate::telemetry::escaped(entry.name.as_encoded_bytes());
            let reason = entry.reason?;
            Some(Trouble { at_ms: entry.at_ms, error: format!("{file}: {reason}") })
        });
        let (altered, last_altered) = look.altered()?;
        let last_altered = last_altered.map(|altered| {
            let file = crate::telemetry::escaped(altered.name.as_encoded_bytes());
            let what = "was written to after its commit; what came later is not in the output";
            Trouble { at_ms: altered.at_ms, error: format!("{file} {what}") }
        });
        let quarantined = quarantined.into_iter().chain(last_altered);
        let errors = live.last_error.into_iter().chain(quarantined);
        let is_removed = |name: &String| !config.view_names().any(|view| view == name);
        let (removed, views): (Vec<_>, _) = look.views()?.into_iter().partition(is_removed);
        let mut view_troubles = look.view_troubles()?;
        view_troubles.retain(|trouble| !is_removed(&trouble.view));
        let removed_views = removed.into_iter().map(|name| RemovedView::of(name, &look));
        Ok(Self {
            pid,
            started_ms: runs.then_some(live.started_ms),
            paused: live.paused.filter(|_| runs),
            pending,
            next: live.next.filter(|_| runs),
            folder_error,
            total: Flow::of(total, None),
            minute: last_minute(&look, &total, now_ms)?,
            hour: since(&look, &total, now_ms, 60)?,
            day: since(&look, &total, now_ms, 24 * 60)?,
            unarchived: unarchived.len() as u64,
            altered,
            no_room: live.no_room.filter(|_| runs),
            last_commit_ms: last.as_ref().map(|entry| entry.at_ms),
            watermark_us: last.and_then(|entry| entry.watermark),
            views,
            view_troubles,
            removed_views: removed_views.collect::<anyhow::Result<_>>()?,
            last_error: errors.max_by_key(|trouble| trouble.at_ms),
        })
    }
}

/// Throughput of the last sixty seconds.
fn last_minute(look: &Reader, total: &Tally, now_ms: i64) -> anyhow::Result<Flow> {
    match look.recent(now_ms - MINUTE_MS, COUNTED_MAX)? {
        Some(tally) => Ok(Flow::of(tally, Some(60.0))),
        None => since(look, total, now_ms, 1),
    }
}

/// Throughput since the beginning of the minute that was `minutes` ago.
fn since(look: &Reader, total: &Tally, now_ms: i64, minutes: i64) -> anyhow::Result<Flow> {
    let from = now_ms.div_euclid(MINUTE_MS) - minutes;
    let tally = total.since(&look.tally(from - 1)?);
    #[expect(clippy::cast_precision_loss, reason = "a day of milliseconds is exact")]
    let seconds = (now_ms - from * MINUTE_MS) as f64 / 1e3;
    Ok(Flow::of(tally, Some(seconds)))
}

fn survey(
    config: &Config,
    committed: &HashSet<OsString>,
    budget: Duration,
) -> anyhow::Result<Survey> {
    open_source(config)?.survey(committed, budget)
}

/// The drop folder of a job, to be looked at.
fn open_source(config: &Config) -> anyhow::Result<FolderSource> {
    let directory = config.directory.clone().unwrap_or_default();
    let shares_clock = config.network_file_system().is_none();
    Ok(FolderSource::open(
        &directory,
        config.rules.clone(),
        None,
        shares_clock,
        compression::plain,
    )?)
}

/// The files that the survey has seen; the running daemon knows of all files, but not their sizes.
fn pending(survey: Survey, live: Option<&Live>) -> Pending {
    let mut pending = Pending {
        files: survey.files,
        bytes: survey.bytes,
        settling: survey.settling,
        oldest_seconds: survey.oldest.map(|oldest| oldest.as_secs_f64()),
        failed: survey.failed,
        at_least: survey.at_least,
    };
    if let Some(live) = live.filter(|_| survey.at_least) {
        pending.files = pending.files.max(live.pending);
        pending.settling = pending.settling.max(live.waiting);
        pending.failed = pending.failed.max(live.failed);
    }
    pending
}
