//! Opens the parts of a job before it runs: locks, queries, its own folders.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::{Setting, Until};
use crate::config::Config;
use crate::decode::compression;
use crate::durable::{self, Dir};
use crate::failure::{Failure, Result};
use crate::ledger::{Committed, Ledger, Remote};
use crate::microbatch::Target;
use crate::pipeline::keeping::Keeping;
use crate::pipeline::views::Views;
use crate::publish::delivery::{Delivery, Way};
use crate::publish::rotation::Rotation;
use crate::publish::{Publisher, STAGING};
use crate::queries::Queries;
use crate::record::message::Limit;
use crate::sink::file::FileSink;
use crate::sink::folder::{self, FolderSink};
use crate::sink::kafka;
use crate::sink::remote;
use crate::sink::{Destination, Sink};
use crate::source::Source;
use crate::source::folder::FolderSource;
use crate::source::folder::archive::Archiver;
use crate::source::folder::claim::Claimant;
use crate::source::folder::rules::Watch;
use crate::source::folder::watching::Watching;
use crate::staging::StagingArea;

/// One lock in the state directory, one beside each output.
pub fn locks(state: &Path, outputs: &[PathBuf]) -> Result<Vec<File>> {
    let mut paths = vec![state.join("lock")];
    paths.extend(outputs.iter().map(|output| durable::lock_of(output)));
    let lock = |path: PathBuf| {
        let locked = durable::lock(&path).map_err(|error| {
            let no_room = error.is_no_room();
            let error = anyhow::Error::from(error).context("take the lock");
            if no_room { Failure::Transient(error) } else { Failure::Fatal(error) }
        })?;
        locked.ok_or_else(|| held(&path))
    };
    paths.into_iter().map(lock).collect()
}

/// Whether those locks could be had; creates none.
pub fn check_locks(outputs: &[PathBuf]) -> Result<()> {
    for output in outputs {
        match durable::lock_if_there(output) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                return Err(held(&durable::lock_of(output)));
            }
            // Whether a start could make what is missing was looked at before.
            _ => {}
        }
    }
    Ok(())
}

fn held(lock: &Path) -> Failure {
    Failure::fatal(format!(
        "another spoolmill holds the lock {}; two must not share a state directory or an output",
        lock.display()
    ))
}

/// Plans the queries of a job. What an earlier run has spilled is of no use to anyone.
pub fn open_queries(config: &Config) -> anyhow::Result<Queries> {
    let spill = config.state.join("spill");
    match std::fs::remove_dir_all(&spill) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("empty {}", spill.display()))
        }
        _ => Ok(Queries::open(config, &spill)?),
    }
}

/// An output of a job: its row in the ledger, its place, its header.
pub struct Output {
    /// The row.
    pub target: Target,
    /// The place.
    pub destination: Destination,
    /// The bytes that each generation of it begins with.
    pub header: Vec<u8>,
}

/// Opens the sink of each output, and the way to each remote target.
pub fn open_publisher(
    outputs: &[Output],
    (config, limit): (&Config, &Limit),
    ledger: &mut Ledger,
    wake: &Arc<dyn Fn() + Send + Sync>,
) -> Result<Publisher> {
    let state = &config.state;
    let staging = Arc::new(Dir::open(&state.join(STAGING))?);
    let mut sinks: Vec<(Target, Box<dyn Sink>)> = Vec::new();
    // Targets on one system share its mark.
    let mut systems: BTreeMap<String, Vec<(Target, &Destination)>> = BTreeMap::new();
    for Output { target, destination, header } in outputs {
        match destination {
            Destination::File(path) => {
                ledger.place_here(*target)?;
                let sink = FileSink::open(path, header, staging.clone())?;
                sinks.push((*target, Box::new(sink)));
            }
            Destination::Folder(path) => {
                sinks.push((*target, Box::new(FolderSink::open(path, state)?)));
            }
            elsewhere => {
                let system = elsewhere.system().unwrap_or_default();
                systems.entry(system).or_default().push((*target, elsewhere));
            }
        }
    }
    let mut deliveries = Vec::new();
    for (name, on_it) in systems {
        let targets: Vec<_> = on_it.iter().map(|(target, _)| *target).collect();
        let row = ledger.remote(&name, &config.name(), &targets)?;
        let client = open_remote(&on_it, &row, (config, limit), &staging)?;
        let kafka = config.written.output.kafka.as_ref();
        let patience = kafka.map_or(Duration::ZERO, |output| output.timeout.0);
        let max_owed = config.written.output.max_owed.0;
        let way = Way { name: &name, targets, row, max_owed, patience };
        deliveries.push(Delivery::new(way, ledger, client, wake.clone())?);
    }
    Ok(Publisher::new(sinks, deliveries, staging))
}

/// The client of a system, for these targets on it.
fn open_remote(
    targets: &[(Target, &Destination)],
    row: &Remote,
    (config, limit): (&Config, &Limit),
    staging: &Arc<Dir>,
) -> Result<Box<dyn remote::Remote>> {
    match targets {
        #[cfg(debug_assertions)]
        [(_, Destination::Log(path)), ..] => {
            Ok(Box::new(crate::sink::log::LogSink::new(path, row.id, staging.clone())))
        }
        [(_, Destination::Kafka(_)), ..] => {
            let targets = targets.iter().map(|(target, _)| *target);
            let place = config.kafka_place((row.id, row.job.clone()), targets, limit);
            kafka::open(
                place.ok_or_else(|| Failure::fatal("the job has no topic"))?,
                staging.clone(),
            )
        }
        _ => Err(Failure::fatal("no target of this kind is built in")),
    }
}

/// Makes sure that the output is this job's, where it says so.
pub fn claim(output: &Destination, config: &Config, ledger: &Ledger, target: Target) -> Result<()> {
    let Destination::Folder(path) = output else { return Ok(()) };
    durable::create_dir_all(path)?;
    let owed = ledger.owed()?;
    let owes = owed.iter().flat_map(Committed::owed).any(|span| span.addition.target == target);
    folder::claim(path, &config.state, ledger.last_sequence(), owes).map_err(Failure::Fatal)
}

/// Removes what an earlier run staged and never committed. The prefix tells the names of one
/// staging directory from those of another.
pub fn sweep(
    ledger: &Ledger,
    path: &Path,
    prefix: &'static str,
    min_free: u64,
) -> Result<StagingArea> {
    let kept = ledger.staged()?;
    // Sequence numbers grow, and a staging file is older than the commit that names it: with room
    // for those that were never committed, no name is used twice.
    let staging =
        StagingArea::new(Dir::open(path)?, prefix, ledger.last_sequence() << 20, min_free);
    let swept = staging
        .sweep(|name| kept.iter().any(|kept| kept == name))
        .context("sweep the staging directory")
        .map_err(Failure::Transient)?;
    if swept > 0 {
        tracing::info!(files = swept, "removed what was staged and never committed");
    }
    Ok(staging)
}

/// Opens where inputs come from: the drop folder, which is watched where it can and is to be. The watch comes
/// before the first scan, so that nothing can come between them.
pub fn open_source(
    config: &Config,
    directory: &Path,
    ledger: &mut Ledger,
    setting: &Setting,
) -> Result<Box<dyn Source>> {
    #[cfg(debug_assertions)]
    if durable::fault::is_replaced("SPOOLMILL_SOURCE", "log") {
        let source = crate::source::log::LogSource::open(directory, ledger.progress())?;
        return Ok(Box::new(source));
    }
    let network = config.network_file_system();
    let watching = watch(config, directory, setting, network).map_err(Failure::Fatal)?;
    let rules = config.rules.clone();
    let shares_clock = network.is_none();
    let mut source =
        FolderSource::open(directory, rules, watching, shares_clock, compression::plain)?;
    source.archive_by(open_archive(config, ledger)?);
    source.claim(claimant(config))?;
    Ok(Box::new(source))
}

/// The job's entry in the list of jobs on its drop folder.
pub fn claimant(config: &Config) -> Claimant {
    let input = &config.written.input;
    Claimant {
        job: config.job_file(),
        state: config.state.clone(),
        pattern: input.pattern.clone(),
        exclude: input.exclude.clone(),
        recursive: input.recursive,
    }
}

fn watch(
    config: &Config,
    directory: &Path,
    setting: &Setting,
    network: Option<&'static str>,
) -> anyhow::Result<Option<Watching>> {
    let wanted = config.rules.watch;
    // What is only to be drained is only scanned.
    if setting.until == Until::Drained || wanted == Watch::Poll {
        return Ok(None);
    }
    if let Some(file_system) = network.filter(|_| wanted == Watch::Auto) {
        tracing::info!(file_system, "no events there; polling the drop folder");
        return Ok(None);
    }
    let wake = setting.waker();
    match Watching::start(directory, config.rules.recursive, wake) {
        Ok(watching) => Ok(Some(watching)),
        Err(error) if wanted == Watch::Auto => {
            tracing::warn!(%error, "the drop folder cannot be watched; polling it");
            Ok(None)
        }
        Err(error) => anyhow::bail!("watch the drop folder {}: {error}", directory.display()),
    }
}

/// Opens the archive, and writes down which it is.
fn open_archive(config: &Config, ledger: &mut Ledger) -> Result<Archiver> {
    let archive = config.archive();
    if let Some(folder) = &archive {
        ledger.note_archive(&config.state, folder)?;
    }
    let known = ledger.archives(&config.state)?;
    Ok(Archiver::open(config.written.done.action.clone(), archive.as_deref(), known)?)
}

/// How much of the past a job keeps. `rejects` and `late` are closed by the same rule.
pub fn keeping(config: &Config, targets: [Target; 2], late: Option<Target>) -> Keeping {
    let history = config.written.state.keep.map(|span| span.0);
    let [output, rejects] = targets;
    let late_path = config.late();
    let closed = [
        (config.rotation(), Some(output), config.output_path()),
        (config.rejects_rotation(), Some(rejects), config.rejects.as_deref()),
        (config.rejects_rotation(), late, late_path.as_deref()),
    ];
    let rotations = closed
        .into_iter()
        .filter_map(|(rule, target, path)| Some(Rotation::new(rule?, target?, path?)));
    Keeping::new(config.written.done.keep, history, rotations.collect())
}

/// Opens the views of a job, unless the ledger has lost what they are made of.
pub fn open_views(
    config: &Config,
    queries: &Queries,
    late: Option<Target>,
    ledger: &mut Ledger,
) -> Result<Views> {
    if ledger.last_sequence() == 0
        && let Some(message) = queries.refuses_lost(config, &ledger.view_names()?)
    {
        return Err(Failure::halt(message));
    }
    queries.open_views(late, ledger)
}
