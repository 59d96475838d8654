//! One job, open: its locks, its ledger, its source, and how its files are taken in groups.
//!
//! Invariants: the locks are held as long as the job is open; what is taken from the source is
//! committed in the order in which it was taken.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use super::ahead::check_format;
use super::opening::{
    Output, claim, keeping, locks, open_publisher, open_queries, open_source, open_views, sweep,
};
use super::pressure::{check_disk, descriptors};
use super::{Setting, Until};
use crate::config::{Config, Problem};
use crate::durable;
use crate::encode::message::Messages;
use crate::failure::{Failure, Result};
use crate::ledger::Ledger;
use crate::microbatch::Target;
use crate::pipeline::Pipeline;
use crate::pipeline::earlier::Earlier;
use crate::pipeline::flow::Flow;
use crate::pipeline::prepare::Tolerance;
use crate::publish;
use crate::pulse::Pulse;
use crate::queries::Queries;
use crate::record::message::Limit;
use crate::sink::folder::WAITING;
use crate::sink::{Destination, file};
use crate::source::folder::requeued::Requeued;
use crate::source::{Input, Source};
use crate::staging::StagingArea;
use crate::transform::command::Bounds;

/// The outcome of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Files were taken; there may be more.
    Worked,
    /// There is nothing to take now.
    Idle,
    /// The input that ends the job has been committed.
    Ended,
}

/// A job that is open.
pub struct Job {
    pub(super) config: Config,
    /// Commit, publish, archive.
    pub pipeline: Pipeline,
    /// Where inputs come from.
    pub source: Box<dyn Source>,
    pub(super) queries: Queries,
    pub(super) staging: StagingArea,
    pub(super) parts: Option<StagingArea>,
    pub(super) targets: [Target; 2],
    /// How records become messages, where they do.
    pub(super) messages: Option<Messages>,
    pub(super) late: Option<Target>,
    /// Taken, and not part of a group yet.
    pub(super) carried: Option<Input>,
    /// Inputs that may be open at once.
    pub(super) files_at_once: usize,
    had_ended: bool,
    _locks: Vec<File>,
}

impl Job {
    /// Takes the locks, opens everything, and recovers what an earlier run left.
    pub fn open(config: Config, setting: &Setting) -> Result<Self> {
        let (Some(directory), Some(output), Some(rejects)) =
            (&config.directory, &config.output, &config.rejects)
        else {
            return Err(Failure::fatal("the job has no input directory or no output"));
        };
        let locks = locks(&config.state, &config.outputs())?;
        let staging_path = config.state.join(publish::STAGING);
        durable::create_private_dir(&staging_path)?;
        let queries = open_queries(&config).map_err(Failure::Fatal)?;
        let mut ledger = Ledger::open(&config.state)?;
        ledger.claim(&config.state, &config.job_file(), directory)?;
        let targets = [ledger.target(&output.name())?, ledger.target(rejects)?];
        let late_path = config.late();
        let late = late_path.as_ref().map(|path| ledger.target(path)).transpose()?;
        let format = config.written.output.format;
        let header = queries.output().and_then(|schema| format.header(&schema)).unwrap_or_default();
        claim(output, &config, &ledger, targets[0])?;
        let views = open_views(&config, &queries, late, &mut ledger)?;
        let file = |(target, path, header)| {
            let destination = Destination::File(path);
            Output { target, destination, header }
        };
        let destination = output.clone();
        let header_of = header.clone();
        let mut outputs = vec![Output { target: targets[0], destination, header: header_of }];
        outputs.push(file((targets[1], rejects.clone(), Vec::new())));
        outputs.extend(late.zip(late_path).map(|(target, path)| file((target, path, Vec::new()))));
        outputs.extend(views.targets().into_iter().map(|(target, path, header)| {
            let destination = output.of_view(path);
            Output { target, destination, header }
        }));
        let limit = Limit::default();
        let messages = config.messages(&limit);
        let publisher = open_publisher(&outputs, (&config, &limit), &mut ledger, &setting.waker())?;
        let mut source = open_source(&config, directory, &mut ledger, setting)?;
        let least = config.written.engine.min_free.0;
        let staging = sweep(&ledger, &staging_path, "", least)?;
        let parted = output.path().filter(|_| output.is_folder());
        let parts = parted.map(|path| sweep(&ledger, path, WAITING, least)).transpose()?;
        let requeued = Requeued::of_state(&config.state);
        let earlier = Earlier::load(&ledger, config.written.input.duplicates, requeued)?;
        let mut pipeline =
            Pipeline::new(ledger, publisher, views, (earlier, keeping(&config, targets, late)));
        let had_ended = pipeline.ledger.has_ended()?;
        pipeline.recover_rotation()?;
        let recovered = pipeline.recover(source.as_mut());
        recovered.map_err(|failure| make_room(&mut pipeline, source.as_ref(), failure))?;
        pipeline.open_targets(setting.until == Until::Drained, &setting.pulse)?;
        continues(&config, &mut pipeline.ledger, targets[0], &header)?;
        let files_at_once = config.written.engine.files_per_commit.min(descriptors(config.workers));
        Ok(Self {
            config,
            pipeline,
            queries,
            source,
            staging,
            parts,
            targets,
            messages,
            late,
            carried: None,
            files_at_once,
            had_ended,
            _locks: locks,
        })
    }

    /// The job's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Takes what is complete, as far as one group goes, through to the archive.
    pub fn round(&mut self, pulse: &Pulse) -> Result<Round> {
        let round = self.take_round(pulse);
        round.map_err(|failure| make_room(&mut self.pipeline, self.source.as_ref(), failure))
    }

    fn take_round(&mut self, pulse: &Pulse) -> Result<Round> {
        self.pipeline.deliver(self.targets[1], self.source.as_mut())?;
        self.pipeline.catch_up(self.source.as_mut())?;
        self.queries.refresh();
        let now = Instant::now();
        self.pipeline.replace_views(now)?;
        self.source.poll()?;
        if self.pipeline.sync_due().is_some_and(|due| due <= now) {
            self.pipeline.sync(self.source.as_mut())?;
        }
        self.pipeline.look_at_late_writes(self.source.as_ref(), now)?;
        self.pipeline.rotate(self.source.as_mut())?;
        self.pipeline.prune(self.source.as_ref(), now)?;
        if self.source.has_more() {
            self.check_disk()?;
        }
        if let Some(parts) = &mut self.parts {
            parts.follow()?;
        }
        if self.pipeline.owes_too_much() {
            // Inputs wait where they are.
            self.give_back_carried();
            return Ok(Round::Idle);
        }
        let (mut group, trouble) = self.gather(pulse);
        let prepared = group.len();
        self.cut_at_end(&mut group);
        let ran = self.pipeline.run(group, &self.staging, self.source.as_mut());
        if ran.is_err() || trouble.is_some() || self.source.is_ordered() {
            // What was given back comes before it.
            self.give_back_carried();
        }
        let ended = ran?;
        match trouble {
            Some(failure) => Err(failure),
            None if ended => Ok(Round::Ended),
            None if prepared > 0 => Ok(Round::Worked),
            None if self.carried.is_some() => Ok(Round::Worked),
            None if self.pipeline.idle_due().is_some_and(|due| due <= now) => {
                if self.source.is_under_way() {
                    // It may hold records of the windows that are open.
                    self.pipeline.views.stir(Instant::now());
                    return Ok(Round::Idle);
                }
                self.pipeline.close_idle(&self.staging, self.source.as_mut())?;
                Ok(Round::Worked)
            }
            None => Ok(Round::Idle),
        }
    }

    /// There must be some room where the ledger and the outputs are.
    fn check_disk(&self) -> Result<()> {
        let places = self.output_folders().chain([self.config.state.as_path()]);
        check_disk(places, self.config.written.engine.min_free.0)
    }

    /// Where the records go, good or bad.
    pub(super) fn output_folders(&self) -> impl Iterator<Item = &Path> {
        let outputs = [self.config.output_path(), self.config.rejects.as_deref()];
        outputs.into_iter().flatten().filter_map(Path::parent)
    }

    /// Publishes, archives and makes durable all that is committed.
    ///
    /// `waits` for closed outputs to be compressed, and `delivers` all to remote targets, which may take long.
    pub fn finish(&mut self, waits: bool, delivers: bool, pulse: &Pulse) -> Result<()> {
        self.give_back_carried();
        let rejects = self.targets[1];
        if !delivers {
            self.pipeline.end_sending(rejects, self.source.as_mut(), pulse)?;
        }
        self.pipeline.catch_up(self.source.as_mut())?;
        self.pipeline.sync(self.source.as_mut())?;
        self.source.leave();
        self.pipeline.release()?;
        self.pipeline.finish_rotation(waits)?;
        self.pipeline.replace_all_views()?;
        if delivers {
            // Everything here is done by then, however long they are away.
            self.pipeline.deliver_rest(rejects, self.source.as_mut(), pulse)?;
            self.pipeline.sync(self.source.as_mut())?;
            self.pipeline.release()?;
        }
        Ok(())
    }

    /// Rebuilds the views that need it, from the whole output. The output must have been published.
    pub fn rebuild_views(&mut self, pulse: &Pulse) -> Result<()> {
        let Self { pipeline, queries, config, staging, source, .. } = self;
        if pipeline.views.to_rebuild(&pipeline.ledger)?.is_none() {
            return Ok(());
        }
        let closed = pipeline.ledger.all_rotations(self.targets[0])?;
        if pipeline.ledger.position(self.targets[0]).generation > closed.len() as u64 {
            tracing::warn!("an earlier output was taken away: only what is there now counts");
        }
        let output = config.output_path().unwrap_or(Path::new("/"));
        let closed: Vec<_> =
            closed.iter().map(|rotated| output.with_file_name(&rotated.name)).collect();
        let read = |number| queries.read_for_view(number, config, &closed, pulse);
        while pipeline.rebuild_view(staging, source.as_mut(), read)? {}
        Ok(())
    }

    /// Makes what is to be made of the whole output, if the job has ended and it is not made yet, and the output
    /// can be read. It must have been published.
    pub fn make_finals(&mut self, pulse: &Pulse) -> anyhow::Result<()> {
        if self.pipeline.ledger.has_ended().map_err(Failure::into_error)? {
            if let Some(output) = self.config.output_path() {
                self.queries.finish(&self.config, output, pulse)?;
            }
            self.pipeline.ledger.forget_end().map_err(Failure::into_error)?;
        }
        self.had_ended = false;
        Ok(())
    }

    /// True when an earlier process has committed the end of the job, and did not come to its own.
    pub fn has_ended(&self) -> bool {
        self.had_ended
    }

    /// Makes durable what has been published for a while, when nothing else goes on.
    pub fn release_when_quiet(&mut self) -> Result<()> {
        // As process 1 of a container it is what orphans come to.
        crate::transform::command::reap_strays();
        if self.pipeline.sync_due().is_some_and(|due| due <= Instant::now()) {
            self.pipeline.sync(self.source.as_mut())?;
        }
        // Report at once after the sync; before it there is nothing to report.
        if self.pipeline.sync_due().is_none() { self.pipeline.release() } else { Ok(()) }
    }

    /// When [`Job::round`] may have something to do, hints aside.
    pub fn next_due(&self) -> Instant {
        let others = [
            self.pipeline.sync_due(),
            self.pipeline.late_writes.due(),
            self.pipeline.views.due(),
            self.pipeline.idle_due().filter(|_| !self.pipeline.owes_too_much()),
            self.pipeline.keeping.due(),
            self.pipeline.rotation_due(),
            self.pipeline.delivery_due(),
        ];
        others.into_iter().flatten().fold(self.source.next_due(), Instant::min)
    }
}

/// Makes room after a transient failure, which a full disk may have caused. Returns the failure to report: that
/// one, or a worse one from making room.
fn make_room(pipeline: &mut Pipeline, source: &dyn Source, failure: Failure) -> Failure {
    match &failure {
        Failure::Transient(_) => pipeline.make_room(source).err().unwrap_or(failure),
        _ => failure,
    }
}

/// Makes sure that the output goes on as it began. What a crash has left half written is whole by now.
fn continues(config: &Config, ledger: &mut Ledger, target: Target, header: &[u8]) -> Result<()> {
    check_format(config, ledger.format(target)?).map_err(Failure::Fatal)?;
    ledger.writes(target, config.written.output.format.signature())?;
    let output = config.output_path().unwrap_or(Path::new(""));
    match file::begins_otherwise(output, header) {
        Some(reason) => {
            let problem = Problem::new("output.path", reason);
            Err(Failure::Fatal(config.problem(&problem).into()))
        }
        None => Ok(()),
    }
}

/// The flow of a job.
pub fn flow<'a>(
    config: &'a Config,
    queries: &'a Queries,
    bounds: Bounds,
    pulse: &'a Pulse,
) -> Flow<'a> {
    Flow {
        decode: &config.written.input.format,
        transform: &config.written.transform,
        query: queries.transform(),
        encode: config.written.output.format,
        messages: None,
        taps: queries.has_views() || queries.clock().is_some(),
        judge: None,
        framing: &config.framing,
        workers: config.workers,
        directory: &config.base,
        bounds,
        pulse,
    }
}

/// How many bad records a file of the job may have.
pub fn tolerance(config: &Config) -> Tolerance {
    use crate::config::file::OnBadRecord;
    let written = &config.written;
    let records = match written.rejects.on_bad_record {
        OnBadRecord::Reject => written.rejects.max_bad_records.unwrap_or(u64::MAX),
        OnBadRecord::Quarantine => 0,
    };
    Tolerance {
        records,
        ratio: written.rejects.max_bad_ratio,
        refuse_empty: written.input.empty == crate::source::folder::rules::Empty::Quarantine,
    }
}
