//! The daemon: one loop that wakes, does what is due, and sleeps.
//!
//! Invariants: everything that wakes it goes through one channel; a stop or a reload is looked at
//! between groups, and a stop also inside a long one, which is then abandoned; a failure that may
//! pass pauses the loop and quarantines nothing.

pub mod ahead;
mod aside;
mod gathering;
pub mod job;
mod opening;
mod pressure;
mod starting;

use std::ffi::OsStr;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::clock::Backoff;
use crate::config::{Config, Problem};
use crate::failure::Failure;
use crate::ledger::Ledger;
use crate::pulse::{self, Pulse};
use crate::queries::Queries;
use crate::source::Backlog;
use crate::status::live::{Live, Told};
use crate::telemetry;
pub use aside::Aside;
use job::{Job, Round};

/// The pauses after transient failures.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_mins(1));

/// Failures in a row after which `--once` gives up, with a few seconds of pauses between them: whoever
/// started it will start it again.
const ONCE_TRIES: u32 = 4;

/// The message of `--once` in that case.
const GAVE_UP: &str = "gave up after several tries; nothing is lost, run it again";

/// Why the daemon ends when a record says so.
const ENDED: &str = "ended by its end marker";

/// How often systemd is told what goes on.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// When the daemon ends without a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Never, but for an end marker.
    Stopped,
    /// When everything that is complete has been taken.
    Drained,
}

/// Everything a daemon needs besides its job.
pub struct Setting {
    /// When it ends without a signal.
    pub until: Until,
    /// Wakes it: something may have come, or a signal, of which the pulse knows more.
    pub wakes: (SyncSender<()>, Receiver<()>),
    /// Heartbeat and stop flag.
    pub pulse: Pulse,
    /// When the program was started, in milliseconds since 1970.
    pub started_ms: i64,
    /// Where HTTP is served.
    pub listens: Option<String>,
    /// The configuration in use, for other threads to read.
    pub shown: Arc<Mutex<Config>>,
}

impl Setting {
    /// Wakes the loop from another thread.
    fn waker(&self) -> Arc<dyn Fn() + Send + Sync> {
        let wakes = self.wakes.0.clone();
        Arc::new(move || {
            // One that waits already is enough.
            let _ = wakes.try_send(());
        })
    }
}

/// Runs the job until it is stopped, drained, or ended by a record. Returns how many files were set aside.
pub fn run(config: Config, setting: &Setting) -> anyhow::Result<Aside> {
    let Some(mut daemon) = starting::open(config, setting)? else { return Ok(Aside::default()) };
    loop {
        pulse::notify(&[NotifyState::Ready]);
        if daemon.job.has_ended() {
            if setting.until == Until::Stopped {
                return daemon.finish(ENDED);
            }
            // The end of this process tries again.
            if let Err(error) = daemon.job.make_finals(&setting.pulse) {
                let error = format!("{error:#}");
                tracing::error!(error, "what is made when the job ends could not be made");
            }
        }
        let ending = daemon.run().inspect_err(|error| daemon.note_failure(error))?;
        let new = match ending {
            Ending::Done(why) => return daemon.finish(why),
            Ending::Missed(error) => {
                daemon.note_failure(&error);
                daemon.finish("drained, but for what could not be taken")?;
                return Err(error);
            }
            Ending::Reload(new) => new,
        };
        // What can be found wrong while the old job is open leaves it as it is, tables and all.
        if let Err(error) = Queries::open(&new, &new.state.join("spill")) {
            not_reloaded(&error.into());
            continue;
        }
        match daemon.job.finish(false, false, &setting.pulse) {
            Ok(()) => {}
            Err(Failure::Fatal(error)) => return Err(error),
            Err(failure) => {
                not_reloaded(&failure.into_error());
                daemon.postponed = true;
                continue;
            }
        }
        let old = daemon.job.config().clone();
        // The old one's locks and ledger are closed before the new one's are opened.
        drop(daemon);
        let (opened, is_new) = match Daemon::open((*new).clone(), setting) {
            Ok(daemon) => (Some(daemon), true),
            Err(failure @ Failure::Fatal(_)) => {
                not_reloaded(&failure.into_error());
                (starting::open(old, setting)?, false)
            }
            // It will be there again, and so will the new configuration.
            Err(_) => match starting::open(*new, setting) {
                Ok(daemon) => (daemon, true),
                Err(error) => {
                    not_reloaded(&error);
                    (starting::open(old, setting)?, false)
                }
            },
        };
        let Some(opened) = opened else { return Ok(Aside::default()) };
        daemon = opened;
        if is_new {
            tracing::info!("the configuration was reloaded");
            let mut shown = setting.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.clone_from(daemon.job.config());
        }
    }
}

fn not_reloaded(error: &anyhow::Error) {
    tracing::error!(error = %format!("{error:#}"), "the configuration was not reloaded");
}

/// Forgets the states of these views of a job, so that they are rebuilt when it runs.
pub fn reset_views(config: &Config, names: &[String]) -> anyhow::Result<()> {
    let _locks = opening::locks(&config.state, &[]).map_err(Failure::into_error)?;
    let queries = opening::open_queries(config)?;
    let mut ledger = Ledger::open(&config.state).map_err(Failure::into_error)?;
    queries.reset_views(config, names, &mut ledger)
}

/// Removes what these views keep, which were taken out of the job.
pub fn forget_views(config: &Config, names: &[String]) -> anyhow::Result<()> {
    let _locks = opening::locks(&config.state, &[]).map_err(Failure::into_error)?;
    let mut ledger = Ledger::open(&config.state).map_err(Failure::into_error)?;
    for name in names {
        let refused = |message| Err(config.problem(&Problem::new("view", message)).into());
        if config.view_names().any(|view| view == name) {
            return refused(format!(
                "--forget-view: `{name}` is a view of the job: take it out of the job file first, or make it \
                 again with --reset-view"
            ));
        }
        if !ledger.forget_view(name).map_err(Failure::into_error)? {
            return refused(format!("--forget-view: nothing is kept of a view `{name}`"));
        }
        tracing::info!(view = name, "what the view kept is removed");
    }
    Ok(())
}

/// Why the loop was left.
enum Ending {
    /// The daemon ends, for this reason.
    Done(&'static str),
    /// All is done but this.
    Missed(anyhow::Error),
    /// It goes on with another configuration.
    Reload(Box<Config>),
}

/// The daemon, with its job open.
struct Daemon<'a> {
    job: Job,
    setting: &'a Setting,
    reload: bool,
    /// A reload waits until what is committed has been published.
    postponed: bool,
    status_due: Instant,
    committed_at_start: u64,
    failed_at_start: u64,
    live: Live,
    told: Told,
}

impl<'a> Daemon<'a> {
    /// Opens the job and recovers what an earlier run left.
    fn open(config: Config, setting: &'a Setting) -> crate::failure::Result<Self> {
        let mut told = Told::open(&config.state);
        let before = Live::read(&config.state);
        let mut job = Job::open(config, setting)?;
        job.rebuild_views(&setting.pulse)?;
        if let Some(source) = job.source.as_folder() {
            let folder = source.folder().path().display().to_string();
            tracing::info!(folder, "{}", if source.polls() { "polling" } else { "watching" });
        }
        let live = before.started(setting.started_ms, setting.listens.clone());
        told.tell_now(&live);
        Ok(Self {
            committed_at_start: job.pipeline.ledger.last_sequence(),
            failed_at_start: job.pipeline.ledger.quarantined(),
            job,
            setting,
            reload: false,
            postponed: false,
            status_due: Instant::now(),
            live,
            told,
        })
    }

    /// The loop.
    fn run(&mut self) -> anyhow::Result<Ending> {
        let mut pauses = PAUSES;
        loop {
            self.setting.pulse.beat();
            self.hear_all();
            if self.setting.pulse.must_stop() {
                return Ok(Ending::Done("stopped"));
            }
            if std::mem::take(&mut self.reload)
                && let Some(new) = self.read_again()
            {
                return Ok(Ending::Reload(Box::new(new)));
            }
            match self.round() {
                Ok(Round::Worked) => {
                    pauses.reset();
                    self.goes_on();
                }
                Ok(Round::Ended) => return Ok(Ending::Done(ENDED)),
                Ok(Round::Idle) => {
                    pauses.reset();
                    self.goes_on();
                    if self.setting.until == Until::Drained {
                        match self.is_drained() {
                            Ok(true) => return Ok(Ending::Done("drained")),
                            Ok(false) => {}
                            Err(error) => return Ok(Ending::Missed(error)),
                        }
                    }
                    let due = self.tell_live();
                    let next = self.job.next_due();
                    self.sleep_until(due.map_or(next, |due| due.min(next)));
                }
                Err(Failure::Stopped) => {}
                Err(Failure::Fatal(error)) => return Err(error),
                Err(failure) => {
                    let pause = pauses.fail();
                    if self.setting.until == Until::Drained && pauses.tries() >= ONCE_TRIES {
                        return Err(failure.into_error().context(GAVE_UP));
                    }
                    self.pause(failure, pause);
                }
            }
            self.tell_status();
            self.tell_live();
        }
    }

    /// Writes the file that tells others what it is doing; returns when the next write is due.
    fn tell_live(&mut self) -> Option<Instant> {
        let backlog = self.job.source.backlog();
        self.live.pending = backlog.pending as u64;
        self.live.waiting = backlog.waiting as u64;
        self.live.failed = backlog.failed;
        let shown = |name: &OsStr| telemetry::escaped(name.as_encoded_bytes());
        self.live.no_room = backlog.no_room.map(shown);
        self.live.put_off_later(backlog.later.into_iter().map(shown));
        self.live.next = self.job.source.next_name().map(shown);
        self.told.tell(&self.live)
    }

    /// It does not pause any more.
    fn goes_on(&mut self) {
        self.live.pauses(self.job.pipeline.away().map(|(trouble, _)| trouble));
        self.reload |= std::mem::take(&mut self.postponed);
    }

    fn note_failure(&mut self, error: &anyhow::Error) {
        self.live.failed(&format!("{error:#}"));
        self.told.tell_now(&self.live);
    }

    fn round(&mut self) -> crate::failure::Result<Round> {
        let round = self.job.round(&self.setting.pulse)?;
        if round == Round::Idle {
            self.job.release_when_quiet()?;
        }
        Ok(round)
    }

    /// Everything that only needed to be left alone has been taken.
    fn is_drained(&mut self) -> anyhow::Result<bool> {
        if let Some((trouble, tries)) = self.job.pipeline.away()
            && tries >= ONCE_TRIES
            && self.job.pipeline.waits_for_target()
        {
            anyhow::bail!("{trouble}; {GAVE_UP}");
        }
        self.job.source.close(None);
        if !self.job.source.is_drained() {
            return Ok(false);
        }
        if let Some((name, why)) = self.job.source.put_off_for_now() {
            let name = telemetry::text(name);
            anyhow::bail!("{name} could not be taken: {why}; {GAVE_UP}")
        }
        match self.job.source.stuck() {
            Some((name, tries)) if tries >= ONCE_TRIES => {
                let name = telemetry::text(name);
                anyhow::bail!("{name} is committed but could not be archived; {GAVE_UP}")
            }
            stuck => Ok(stuck.is_none()),
        }
    }

    /// Publishes, archives and makes durable what is committed. When even that has to wait, a stop
    /// does not: the ledger keeps it for the next start.
    fn finish(mut self, why: &'static str) -> anyhow::Result<Aside> {
        // From there on a service manager counts: a job that has ended may have to wait for a target.
        if why != ENDED {
            pulse::notify(&[NotifyState::Stopping]);
        }
        let mut pauses = PAUSES;
        loop {
            let waits = self.setting.until == Until::Drained;
            match self.job.finish(waits, waits || why == ENDED, &self.setting.pulse) {
                Ok(()) => {
                    self.job.make_finals(&self.setting.pulse)?;
                    break;
                }
                Err(Failure::Fatal(error)) => {
                    self.note_failure(&error);
                    return Err(error);
                }
                Err(failure) if self.setting.pulse.must_stop() => {
                    let error = failure.into_error();
                    tracing::warn!(error = %format!("{error:#}"), "the rest is left for the next start");
                    break;
                }
                Err(failure) => {
                    let pause = pauses.fail();
                    if self.setting.until == Until::Drained && pauses.tries() >= ONCE_TRIES {
                        return Err(failure.into_error().context(GAVE_UP));
                    }
                    self.pause(failure, pause);
                }
            }
        }
        pulse::notify(&[NotifyState::Stopping]);
        self.live.pauses(None);
        self.tell_live();
        self.told.tell_now(&self.live);
        telemetry::tell_left_out(true);
        let microbatches = self.job.pipeline.ledger.last_sequence() - self.committed_at_start;
        tracing::info!(microbatches, "{why}");
        let files = self.job.pipeline.ledger.quarantined() - self.failed_at_start;
        let (groups, views) = self.job.pipeline.views.troubles();
        Ok(Aside { files, groups, views })
    }

    /// Waits for a wake, at most until `due`.
    fn sleep_until(&mut self, due: Instant) {
        let mut wait = due.saturating_duration_since(Instant::now());
        if let Some(every) = self.setting.pulse.every() {
            wait = wait.min(every);
        }
        // Whether it was woken or the time is over, the loop looks.
        let _ = self.setting.wakes.1.recv_timeout(wait);
    }

    fn hear_all(&mut self) {
        while self.setting.wakes.1.try_recv().is_ok() {}
        self.reload |= self.setting.pulse.take_reload();
    }

    /// Reports a transient failure, and waits.
    fn pause(&mut self, failure: Failure, pause: Duration) {
        let error = failure.into_error();
        let seconds = pause.as_secs_f64();
        tracing::error!(error = %format!("{error:#}"), seconds, "paused; nothing is lost, trying again");
        self.live.pauses(Some(&format!("{error:#}")));
        self.note_failure(&error);
        let status = format!("paused: {error:#}");
        pulse::notify(&[NotifyState::Status(&status)]);
        let due = Instant::now() + pause;
        while Instant::now() < due && !self.setting.pulse.must_stop() {
            self.setting.pulse.beat();
            self.sleep_until(due);
        }
    }

    /// The configuration as it is in its file now; `None`, with the reason logged, when it cannot
    /// take the place of the old one.
    fn read_again(&self) -> Option<Config> {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            pulse::notify(&[NotifyState::Reloading, now]);
        }
        let old = self.job.config();
        let read = || -> anyhow::Result<Config> {
            let new = Config::read(&old.file)?;
            anyhow::ensure!(
                new.state == old.state,
                "state.directory cannot change while the daemon runs: it is {}",
                old.state.display()
            );
            anyhow::ensure!(
                new.written.http.listen == old.written.http.listen,
                "http.listen cannot change while the daemon runs: restart it"
            );
            new.check_surroundings()?;
            Ok(new)
        };
        match read() {
            Ok(new) => Some(new),
            Err(error) => {
                tracing::error!(error = %format!("{error:#}"), "the configuration was not reloaded");
                pulse::notify(&[NotifyState::Ready]);
                None
            }
        }
    }

    fn tell_status(&mut self) {
        if Instant::now() < self.status_due {
            return;
        }
        self.status_due = Instant::now() + STATUS_EVERY;
        telemetry::tell_left_out(false);
        let Backlog { pending, oldest, .. } = self.job.source.backlog();
        let oldest = oldest.map_or(String::new(), |oldest| {
            let seconds = Duration::from_secs(oldest.as_secs());
            format!(", the oldest for {}", humantime::format_duration(seconds))
        });
        let committed = self.job.pipeline.ledger.last_sequence() - self.committed_at_start;
        let status = format!("{committed} committed, {pending} pending{oldest}");
        pulse::notify(&[NotifyState::Status(&status)]);
    }
}
