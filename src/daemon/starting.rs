//! A start that has to wait: for a disk that is full, or a ledger that is read.
//!
//! Invariants: what time cures is waited for, as it is once the job runs; `--once` alone gives up.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::{Daemon, PAUSES, Setting, Until, not_reloaded};
use crate::config::Config;
use crate::failure::Failure;
use crate::pulse;
use crate::status::live::{Live, Told};

/// Opens the job, as soon as that can be. `None` when the daemon was stopped before.
pub fn open(mut config: Config, setting: &Setting) -> anyhow::Result<Option<Daemon<'_>>> {
    let mut pauses = PAUSES;
    loop {
        let failure = match Daemon::open(config.clone(), setting) {
            Ok(daemon) => return Ok(Some(daemon)),
            Err(Failure::Stopped) => return Ok(None),
            Err(failure) => failure,
        };
        let passes = !matches!(failure, Failure::Fatal(_));
        let error = failure.into_error();
        if !passes || setting.until == Until::Drained {
            return Err(error);
        }
        let text = format!("{error:#}");
        let pause = pauses.fail();
        let seconds = pause.as_secs_f64();
        tracing::error!(error = text, seconds, "paused; nothing is lost, trying again");
        tell(&config, setting, &text);
        match wait(setting, pause) {
            Heard::Nothing => {}
            Heard::Stop => return Ok(None),
            Heard::Reload => match read_again(&config) {
                Ok(new) => config = new,
                Err(error) => not_reloaded(&error),
            },
        }
    }
}

enum Heard {
    Nothing,
    Stop,
    Reload,
}

fn wait(setting: &Setting, pause: Duration) -> Heard {
    let due = Instant::now() + pause;
    loop {
        setting.pulse.beat();
        if setting.pulse.must_stop() {
            return Heard::Stop;
        }
        let mut left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Heard::Nothing;
        }
        if let Some(every) = setting.pulse.every() {
            left = left.min(every);
        }
        match setting.wakes.1.recv_timeout(left) {
            Ok(()) if setting.pulse.take_reload() => return Heard::Reload,
            // The first scan finds what came.
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(left),
        }
    }
}

/// Who asks how the job stands, and systemd, which need not wait for it.
fn tell(config: &Config, setting: &Setting, error: &str) {
    let before = Live::read(&config.state);
    let mut live = before.started(setting.started_ms, setting.listens.clone());
    live.pauses(Some(error));
    live.failed(error);
    Told::open(&config.state).tell_now(&live);
    let status = format!("paused: {error}");
    pulse::notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

fn read_again(old: &Config) -> anyhow::Result<Config> {
    let new = Config::read(&old.file)?;
    new.check_surroundings()?;
    Ok(new)
}
