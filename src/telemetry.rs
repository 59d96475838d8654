//! Logs, the heartbeat and the stop flag.
//!
//! What holds here: everything goes to standard error, one line for each event; under the journal
//! each line carries its level. Nothing from the drop folder can forge a line.

mod limit;
mod writer;

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use limit::Limit;
pub use limit::tell_left_out;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people: level, message, fields.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The form of what goes to standard error.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Json,
    Journal,
}

static FORMAT: OnceLock<Form> = OnceLock::new();

/// Starts logging to standard error.
pub fn start(format: LogFormat, level: Level) {
    let form = match format {
        LogFormat::Json => Form::Json,
        LogFormat::Text if is_journal() => Form::Journal,
        LogFormat::Text => Form::Text,
    };
    let form = *FORMAT.get_or_init(|| form);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer::Lines::default)
        .with_ansi(false)
        .with_target(false);
    let subscriber =
        tracing_subscriber::registry().with(LevelFilter::from_level(level)).with(Limit);
    match form {
        Form::Json => subscriber.with(lines.json().flatten_event(true)).init(),
        // The journal stamps the time itself, and reads the level from the line's prefix.
        Form::Journal => subscriber.with(lines.event_format(Journal)).init(),
        Form::Text => subscriber.with(lines).init(),
    }
}

/// True when standard error leads to the journal: the variable, which may be inherited, names the device
/// and inode that it must be (systemd.exec(5)).
fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let there = rustix::fs::fstat(std::io::stderr());
    there.is_ok_and(|there| named == format!("{}:{}", there.st_dev, there.st_ino))
}

/// `<6>message field=value`: the level in the syslog form of sd-daemon(3).
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{priority}>")?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// A name from outside as a field of a log line; the line's own format escapes what could forge
/// another or steer a terminal. Bytes that are no text are escaped, and so that these look like no other
/// name, backslashes are.
pub fn text(name: &OsStr) -> String {
    match name.to_str() {
        Some(text) if !text.contains('\\') => text.to_owned(),
        _ => escaped(name.as_encoded_bytes()),
    }
}

/// Bytes from outside in the middle of a message, where they could forge a line or steer a terminal.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// What long work is given to say that it is alive, and to hear that it should stop.
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
        let (stop, enough) = (AtomicBool::new(false), AtomicBool::new(false));
        let (beaten_ms, pinged_ms) = (AtomicU64::new(0), AtomicU64::new(0));
        let signal = AtomicI32::new(0);
        let (started, reload) = (Instant::now(), AtomicBool::new(false));
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

/// Writes the one line by which the program says why it failed, in the form of the log.
pub fn report(error: &anyhow::Error) {
    let text = format!("{error:#}");
    let mut line = match FORMAT.get() {
        Some(Form::Json) => {
            let now = humantime::format_rfc3339_micros(std::time::SystemTime::now()).to_string();
            serde_json::json!({ "timestamp": now, "level": "ERROR", "message": text }).to_string()
        }
        // A line of the journal is one message: what stands behind a line end would be another.
        Some(Form::Journal) => format!("<3>{}", text.replace('\n', "\n<3>")),
        Some(Form::Text) | None => format!("spoolmill: {text}"),
    };
    line.push('\n');
    writer::write(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_a_line() {
        assert_eq!(escaped(b"a\nb\x1b[31m\xff\\"), "a\\nb\\u{1b}[31m\\xff\\\\");
        assert_eq!(escaped("\u{e9}.csv".as_bytes()), "\u{e9}.csv");
    }

    #[test]
    fn a_stop_is_seen_by_every_clone() {
        let pulse = Pulse::default();
        let clone = pulse.clone();
        assert!(!clone.must_stop());
        pulse.stop();
        assert!(clone.must_stop());
    }
}
