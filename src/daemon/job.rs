//! One job, open: its locks, its ledger, its drop folder, and how its files are taken in groups.
//!
//! What holds here: the locks are held as long as the job is open; what is taken from the source is
//! committed in the order in which it was taken.

use std::fs::File;
use std::time::{Duration, Instant};

use super::opening::{claim, keeping, locks, open_queries, sweep};
use super::pressure::check_disk;
use crate::config::{Config, Problem};
use crate::decode::compression::{self, Compression};
use crate::durable;
use crate::failure::{Failure, Result};
use crate::ledger::{Ledger, Target};
use crate::pipeline::Pipeline;
use crate::pipeline::earlier::Earlier;
use crate::pipeline::flow::Flow;
use crate::pipeline::prepare::{NotPrepared, Preparation, Prepared, Tolerance};
use crate::publish::parts::WAITING;
use crate::publish::{self, Place, Publisher};
use crate::queries::Queries;
use crate::sink::stage::StagingArea;
use crate::source::Source;
use crate::source::archive::Archiver;
use crate::source::input::Input;
use crate::source::queue::{Key, Why};
use crate::source::requeued::Requeued;
use crate::telemetry::Pulse;
use crate::transform::Transform;
use crate::transform::command::Bounds;

/// A group is committed when it has taken this long: the first of it should not wait for more.
const GROUP_TIME: Duration = Duration::from_millis(20);

/// A group is committed when it holds this many staged bytes.
const GROUP_BYTES: u64 = 8 << 20;

/// An input larger than this is a group by itself, so that what came before it does not wait.
const LARGE_BYTES: u64 = 4 << 20;

/// Files prepared on one thread before the next look at the clock.
const SHARE: usize = 32;

/// What a round came to.
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
    config: Config,
    /// Commit, publish, archive.
    pub pipeline: Pipeline,
    /// The drop folder.
    pub source: Source,
    queries: Queries,
    staging: StagingArea,
    parts: Option<StagingArea>,
    targets: [Target; 2],
    late: Option<Target>,
    carried: Option<Input>,
    had_ended: bool,
    _locks: Vec<File>,
}

impl Job {
    /// Takes the locks, opens everything, and recovers what an earlier run left.
    pub fn open(config: Config, polls: bool, shares_clock: bool) -> Result<Self> {
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
        let targets = [ledger.target(output)?, ledger.target(rejects)?];
        let late_path = config.late();
        let late = late_path.as_ref().map(|path| ledger.target(path)).transpose()?;
        let format = config.written.output.format;
        let header = queries.output().and_then(|schema| format.header(&schema)).unwrap_or_default();
        let place = if format.is_columnar() {
            claim(output, &config, &ledger, targets[0])?;
            Place::Folder(output)
        } else {
            Place::File(output, &header)
        };
        let views = queries.open_views(&mut ledger)?;
        let of_views = views.targets();
        let mut places = vec![(targets[0], place), (targets[1], Place::File(rejects, &[]))];
        let of_late = late.into_iter().zip(&late_path);
        places.extend(of_late.map(|(target, path)| (target, Place::File(path, &[]))));
        places.extend(
            of_views.iter().map(|(target, path, header)| (*target, Place::File(path, header))),
        );
        let publisher = Publisher::open(&places, &config.state)?;
        let archiver =
            Archiver::open(config.written.done.action.clone(), config.archive().as_deref())?;
        let rules = config.rules.clone();
        let mut source = Source::open(directory, rules, polls, shares_clock, compression::plain)?;
        let staging = sweep(&ledger, &staging_path, "")?;
        let parts = format.is_columnar().then(|| sweep(&ledger, output, WAITING));
        let parts = parts.transpose()?;
        let requeued = Requeued::of_state(&config.state);
        let earlier = Earlier::load(&ledger, config.written.input.duplicates, requeued)?;
        let mut pipeline = Pipeline::new(
            ledger,
            publisher,
            archiver,
            views,
            (earlier, keeping(&config, targets[0])),
        );
        let had_ended = pipeline.ledger.has_ended()?;
        pipeline.recover_rotation()?;
        pipeline.recover(&mut source)?;
        // What a crash has left half written is whole by now.
        if let Some(reason) = publish::begins_otherwise(output, &header) {
            let problem = Problem::new("output.path", reason);
            return Err(Failure::Fatal(config.problem(&problem).into()));
        }
        Ok(Self {
            config,
            pipeline,
            queries,
            source,
            staging,
            parts,
            targets,
            late,
            carried: None,
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
        self.pipeline.catch_up(&mut self.source)?;
        self.queries.refresh();
        let now = Instant::now();
        self.pipeline.replace_views(now)?;
        self.source.scan_if_due(now).map_err(Failure::Transient)?;
        if self.pipeline.sync_due().is_some_and(|due| due <= now) {
            self.pipeline.sync(&self.source)?;
        }
        self.pipeline.look_at_late_writes(&self.source, now)?;
        self.pipeline.rotate(&self.source)?;
        self.pipeline.prune(&self.source, now)?;
        if self.source.next_name().is_some() {
            self.check_disk()?;
        }
        if let Some(parts) = &mut self.parts {
            parts.follow()?;
        }
        let (mut group, trouble) = self.gather(pulse);
        let prepared = group.len();
        self.cut_at_end(&mut group);
        let ran = self.pipeline.run(group, &self.staging, &mut self.source);
        if ran.is_err() || trouble.is_some() {
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
                self.pipeline.close_idle(&self.staging, &mut self.source)?;
                Ok(Round::Worked)
            }
            None => Ok(Round::Idle),
        }
    }

    /// There must be some room where the ledger and the outputs are.
    fn check_disk(&self) -> Result<()> {
        let outputs = [&self.config.output, &self.config.rejects];
        let folders = outputs.into_iter().flatten().filter_map(|output| output.parent());
        let places = folders.chain([self.config.state.as_path()]);
        check_disk(places, self.config.written.engine.min_free.0)
    }

    /// Prepares files until the group is full or nothing is complete. What failed is dealt with;
    /// a failure that concerns more than its file ends the group.
    fn gather(&mut self, pulse: &Pulse) -> (Vec<Prepared>, Option<Failure>) {
        let started = Instant::now();
        let (mut group, mut bytes) = (Vec::new(), 0);
        while group.len() < self.config.written.engine.files_per_commit
            && bytes < GROUP_BYTES
            && (group.is_empty() || started.elapsed() < GROUP_TIME)
        {
            let (inputs, mut trouble) = self.take(group.len());
            if inputs.is_empty() {
                return (group, trouble);
            }
            let large = inputs.iter().any(is_large);
            let mut waits = false;
            for prepared in self.prepare(inputs, &group, pulse) {
                match prepared {
                    // What comes behind a failure must not overtake it.
                    Ok(prepared) if waits || trouble.is_some() => self.give_back(prepared),
                    Ok(mut prepared) => {
                        if self.pipeline.link(&mut prepared, &group) {
                            bytes += staged_bytes(&prepared);
                            group.push(prepared);
                        } else {
                            waits = true;
                            self.give_back(prepared);
                        }
                    }
                    Err(failed) => {
                        let (input, failure) = *failed;
                        trouble = self.not_prepared(input, failure).or(trouble);
                    }
                }
            }
            if waits || trouble.is_some() {
                return (group, trouble);
            }
            if large {
                break;
            }
        }
        (group, None)
    }

    /// The next inputs in order: as many as are worth spreading over the workers, or a large one
    /// alone. A failure ends them.
    fn take(&mut self, already: usize) -> (Vec<Input>, Option<Failure>) {
        let left = self.config.written.engine.files_per_commit.saturating_sub(already);
        let share =
            if matches!(self.config.written.transform, Transform::Command(_)) { 1 } else { SHARE };
        let mut inputs = Vec::new();
        while inputs.len() < left.min(share * self.config.workers) {
            let input = match self.next_input() {
                Ok(Some(input)) => input,
                Ok(None) => break,
                Err(failure) => return (inputs, Some(failure)),
            };
            if !is_large(&input) {
                inputs.push(input);
            } else if inputs.is_empty() && already == 0 {
                inputs.push(input);
                break;
            } else {
                self.carried = Some(input);
                break;
            }
        }
        (inputs, None)
    }

    /// The next complete input that is not committed yet.
    fn next_input(&mut self) -> Result<Option<Input>> {
        if let Some(input) = self.carried.take() {
            return Ok(Some(input));
        }
        while let Some(input) = self.source.take() {
            let input = self.pipeline.archive_if_committed(input, &mut self.source)?;
            if input.is_some() {
                return Ok(input);
            }
        }
        Ok(None)
    }

    /// Prepares inputs, on all workers where there are several.
    fn prepare(
        &self,
        inputs: Vec<Input>,
        group: &[Prepared],
        pulse: &Pulse,
    ) -> Vec<std::result::Result<Prepared, NotPrepared>> {
        let preparation = self.preparation(pulse);
        let share = inputs.len().div_ceil(self.config.workers);
        let views = &self.pipeline.views;
        if views.has_event_time() {
            let mut watermark = views.watermark_after(self.pipeline.ledger.watermark(), group);
            let next = |input| {
                let prepared = preparation.prepare(input, watermark)?;
                watermark = views.watermark_after(watermark, std::slice::from_ref(&prepared));
                Ok(prepared)
            };
            return inputs.into_iter().map(next).collect();
        }
        // Queries over whole files share the memory: side by side, one could starve another.
        if inputs.len() < 2 || self.config.workers < 2 || self.queries.is_greedy() {
            return inputs.into_iter().map(|input| preparation.prepare(input, None)).collect();
        }
        let mut inputs = inputs.into_iter();
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            loop {
                let mine: Vec<Input> = inputs.by_ref().take(share).collect();
                if mine.is_empty() {
                    break;
                }
                threads.push(scope.spawn(move || {
                    mine.into_iter()
                        .map(|input| preparation.prepare(input, None))
                        .collect::<Vec<_>>()
                }));
            }
            let results = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            results.flat_map(|result| result.expect("preparing does not panic")).collect()
        })
    }

    fn preparation<'a>(&'a self, pulse: &'a Pulse) -> Preparation<'a> {
        let [output, rejects] = self.targets;
        Preparation {
            flow: flow(&self.config, &self.queries, Bounds::Microbatch, pulse),
            tolerance: tolerance(&self.config),
            staging: &self.staging,
            parts: self.parts.as_ref(),
            output,
            rejects,
            late: self.late,
            views: &self.pipeline.views,
        }
    }

    /// What to do with a file that did not become a microbatch; a failure that concerns more than
    /// the file is returned.
    fn not_prepared(&mut self, input: Input, failure: Failure) -> Option<Failure> {
        let file = crate::telemetry::text(input.name());
        match failure {
            Failure::Changed => {
                tracing::debug!(file, "changed while it was read; it settles again");
                self.source.give_back(input);
            }
            Failure::Incomplete(reason) => {
                tracing::info!(file, reason, "may still be arriving; it waits");
                self.source.put_off(input, Why::Incomplete);
            }
            Failure::Unreadable(error) => {
                tracing::warn!(file, %error, "cannot be read; it waits, others go on");
                self.source.put_off(input, Why::Unreadable);
            }
            failure => {
                self.source.give_back(input);
                return Some(failure);
            }
        }
        None
    }

    /// An input that ends the job is the last of its group; it waits until what stands before it
    /// and only needs to be left alone has been taken.
    fn cut_at_end(&mut self, group: &mut Vec<Prepared>) {
        let Some(at) = group.iter().position(|prepared| prepared.ended) else {
            for prepared in group.iter() {
                self.source.did_not_end(&prepared.input.key);
            }
            return;
        };
        let mut behind = group.split_off(at);
        let end = behind.first().map(|prepared| prepared.input.key.clone());
        self.give_back_carried();
        self.source.close(end.clone());
        let ends = end.is_some_and(|end: Key| self.source.is_drained_before(&end));
        if ends {
            group.extend(behind.drain(..1));
        }
        for prepared in behind {
            self.give_back(prepared);
        }
    }

    /// What was prepared is prepared again when its turn comes.
    fn give_back(&mut self, prepared: Prepared) {
        self.pipeline.give_back(prepared, &mut self.source);
    }

    fn give_back_carried(&mut self) {
        if let Some(input) = self.carried.take() {
            self.source.give_back(input);
        }
    }

    /// Publishes, archives and makes durable all that is committed.
    ///
    /// `waits` for closed outputs to be compressed, which may take long.
    pub fn finish(&mut self, waits: bool) -> Result<()> {
        self.give_back_carried();
        self.pipeline.catch_up(&mut self.source)?;
        self.pipeline.sync(&self.source)?;
        self.pipeline.settle()?;
        self.pipeline.finish_rotation(waits)?;
        self.pipeline.replace_all_views()
    }

    /// Makes the views anew that owe it, of the whole output. The output must have been published.
    pub fn rebuild_views(&mut self, pulse: &Pulse) -> Result<()> {
        let Self { pipeline, queries, config, staging, source, .. } = self;
        if pipeline.ledger.position(self.targets[0]).generation > 0
            && pipeline.views.to_rebuild(&pipeline.ledger)?.is_some()
        {
            tracing::warn!("an earlier output was taken away: only what is there now counts");
        }
        let read = |number| queries.read_for_view(number, config, pulse).map_err(Failure::Fatal);
        while pipeline.rebuild_view(staging, source, read)? {}
        Ok(())
    }

    /// Makes what is to be made of the whole output, if the job has ended and it is not made yet.
    /// The output must have been published.
    pub fn make_finals(&mut self, pulse: &Pulse) -> anyhow::Result<()> {
        let Some(output) = &self.config.output else { return Ok(()) };
        if self.pipeline.ledger.has_ended().map_err(Failure::into_error)? {
            self.queries.finish(&self.config, output, pulse)?;
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
    pub fn settle_when_quiet(&mut self) -> Result<()> {
        if self.pipeline.sync_due().is_some_and(|due| due <= Instant::now()) {
            self.pipeline.sync(&self.source)?;
        }
        // Told at once after the sync, whoever asked for that; before it there is nothing to tell.
        if self.pipeline.sync_due().is_none() { self.pipeline.settle() } else { Ok(()) }
    }

    /// When [`Job::round`] may have something to do, hints aside.
    pub fn next_due(&self) -> Instant {
        let others = [
            self.pipeline.sync_due(),
            self.pipeline.stuck_due(),
            self.pipeline.late_writes.due(),
            self.pipeline.views.due(),
            self.pipeline.idle_due(),
            self.pipeline.keeping.due(),
            self.pipeline.rotation_due(),
        ];
        others.into_iter().flatten().fold(self.source.next_due(), Instant::min)
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
        refuse_empty: written.input.empty == crate::source::rules::Empty::Quarantine,
    }
}

fn is_large(input: &Input) -> bool {
    input.stamp.size > LARGE_BYTES
        || Compression::of(input.name().as_encoded_bytes()) != Compression::None
}

fn staged_bytes(prepared: &Prepared) -> u64 {
    prepared.batch.additions.iter().map(|addition| addition.length).sum()
}
