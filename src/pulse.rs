//! Heartbeat and stop flag: how long work says that it is alive, and hears that it should stop.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Given to long work, to say that it is alive, and to hear that it should stop.
#[derive(Debug, Clone, Default)]
pub struct Pulse {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    stop: AtomicBool,
    enough: AtomicBool,
    /// The number of the signal that asked to stop; 0 without one.
    signal: AtomicI32,
    started: Instant,
    beaten_ms: AtomicU64,
    pinged_ms: AtomicU64,
    every: Option<Duration>,
    /// A reload was asked for and is not done.
    reload: AtomicBool,
}

/// The pulse of the service, where this process is one.
static SERVICE: OnceLock<Pulse> = OnceLock::new();

/// Work was asked to stop, as an error of what it reads or writes.
#[derive(Debug, thiserror::Error)]
#[error("stopped by a signal")]
struct Stop;

/// The error of a read or a write that was broken off by a stop.
pub fn stopped() -> io::Error {
    io::Error::other(Stop)
}

/// True for [`stopped`].
pub fn is_stopped(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Stop>)
}

/// Tells the service manager that the program is up, and what it waits for.
pub fn ready_but(waits_for: &str) {
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(waits_for)]);
}

/// A call that may be one of very many is still alive.
///
/// # Errors
/// [`stopped`] when the service is to stop.
pub fn alive() -> io::Result<()> {
    let Some(pulse) = SERVICE.get() else { return Ok(()) };
    pulse.beat();
    if pulse.must_stop() { Err(stopped()) } else { Ok(()) }
}

impl Default for Inner {
    fn default() -> Self {
        let stop = AtomicBool::new(false);
        let enough = AtomicBool::new(false);
        let beaten_ms = AtomicU64::new(0);
        let pinged_ms = AtomicU64::new(0);
        let signal = AtomicI32::new(0);
        let started = Instant::now();
        let reload = AtomicBool::new(false);
        Self { stop, enough, signal, started, beaten_ms, pinged_ms, every: None, reload }
    }
}

impl Pulse {
    /// A pulse that pings systemd's watchdog, when there is one, at a third of its limit.
    pub fn of_the_service() -> Self {
        let every = sd_notify::watchdog_enabled().map(|limit| limit / 3);
        let pulse = Self { inner: Arc::new(Inner { every, ..Inner::default() }) };
        SERVICE.get_or_init(|| pulse.clone());
        pulse
    }

    /// Asks for the configuration to be read again.
    pub fn ask_reload(&self) {
        self.inner.reload.store(true, Ordering::Relaxed);
    }

    /// True once after it was asked for.
    pub fn take_reload(&self) -> bool {
        self.inner.reload.swap(false, Ordering::Relaxed)
    }

    /// How often [`Pulse::beat`] has to be called, if at all.
    pub fn every(&self) -> Option<Duration> {
        self.inner.every
    }

    /// Work goes on. Cheap: it pings only when a ping is due.
    pub fn beat(&self) {
        let now = self.now_ms().max(1);
        self.inner.beaten_ms.store(now, Ordering::Relaxed);
        let Some(every) = self.inner.every else { return };
        let last = self.inner.pinged_ms.load(Ordering::Relaxed);
        let due = last + u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        if last == 0 || now >= due {
            self.inner.pinged_ms.store(now, Ordering::Relaxed);
            notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }

    /// How long ago [`Pulse::beat`] was called.
    pub fn silent_for(&self) -> Duration {
        let last = self.inner.beaten_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.now_ms().saturating_sub(last))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.inner.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Asks all work to come to an end.
    pub fn stop(&self) {
        self.inner.stop.store(true, Ordering::Relaxed);
    }

    /// Asks all work to come to an end, since this signal came.
    pub fn stop_by(&self, signal: i32) {
        self.inner.signal.store(signal, Ordering::Relaxed);
        self.stop();
    }

    /// The signal that asked to stop, if one did.
    pub fn signal(&self) -> Option<i32> {
        Some(self.inner.signal.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
    }

    /// Says that nothing needs more input: a command that reads a live stream has ended.
    pub fn has_enough(&self) {
        self.inner.enough.store(true, Ordering::Relaxed);
    }

    /// True when more input is wanted.
    pub fn wants_more(&self) -> bool {
        !self.inner.enough.load(Ordering::Relaxed)
    }

    /// True once [`Pulse::stop`] was called.
    pub fn must_stop(&self) -> bool {
        self.inner.stop.load(Ordering::Relaxed)
    }
}

/// Tells systemd, if it started us.
pub fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_seen_by_every_clone() {
        let pulse = Pulse::default();
        let clone = pulse.clone();
        assert!(!clone.must_stop());
        pulse.stop();
        assert!(clone.must_stop());
    }
}
