//! Logs, the heartbeat and the stop flag.
//!
//! Invariants: everything goes to standard error, one line for each event; under the journal
//! each line carries its level. Nothing from the drop folder can forge a line.

mod limit;
mod writer;

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::sync::OnceLock;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use limit::Limit;
pub use limit::tell_left_out;

/// The format of log lines.
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

/// Writes the one line by which the program says why it failed, in the form of the log.
pub fn report(error: &anyhow::Error) {
    let text = format!("{error:#}");
    let mut line = match FORMAT.get() {
        Some(Form::Json) => {
            let now = humantime::format_rfc3339_micros(std::time::SystemTime::now()).to_string();
            serde_json::json!({ "timestamp": now, "level": "ERROR", "message": text }).to_string()
        }
        // A line of the journal is one message: what comes after a line end would be another.
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
}
