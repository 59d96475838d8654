//! A limit on what is told of one cause, with a count of what was left out.
//!
//! Invariants: only warnings and errors are limited, each place in the code on its own; the lines of
//! committed microbatches are not. What was left out is told when its time is over, or at the end.

use std::collections::HashMap;
use std::fmt::{Debug, Write as _};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one cause in a row.
const LINES_MAX: u32 = 50;

/// Lines are counted again after this time.
const WINDOW: Duration = Duration::from_secs(10);

/// The recent lines about one cause.
struct Told {
    since: Instant,
    lines: u32,
    left_out: u64,
    what: String,
}

static TOLD: LazyLock<Mutex<HashMap<Identifier, Told>>> = LazyLock::new(Mutex::default);

/// Leaves lines out.
pub struct Limit;

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // The summary of suppressed lines is never suppressed: it has a name of its own.
        if *metadata.level() > Level::WARN || metadata.name() == LEFT_OUT {
            return true;
        }
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        let cause = told.entry(metadata.callsite()).or_insert_with(|| Told {
            since: Instant::now(),
            lines: 0,
            left_out: 0,
            what: message(event),
        });
        if cause.left_out == 0 && cause.since.elapsed() >= WINDOW {
            (cause.since, cause.lines) = (Instant::now(), 0);
        }
        if cause.lines < LINES_MAX {
            cause.lines += 1;
            return true;
        }
        cause.left_out += 1;
        false
    }
}

/// The name of the event by which lines left out are told.
const LEFT_OUT: &str = "left out";

/// Tells how many lines were left out, of each cause whose time is over, or of all.
pub fn tell_left_out(all: bool) {
    let mut over = Vec::new();
    {
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        for cause in told.values_mut() {
            if cause.left_out > 0 && (all || cause.since.elapsed() >= WINDOW) {
                over.push((cause.left_out, cause.what.clone()));
                (cause.since, cause.lines, cause.left_out) = (Instant::now(), 0, 0);
            }
        }
    }
    for (lines, of) in over {
        tracing::event!(name: LEFT_OUT, Level::WARN, lines, of, "more lines like this were left out");
    }
}

/// The message of an event, without its fields.
fn message(event: &Event<'_>) -> String {
    struct Message(String);
    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if field.name() == "message" {
                // Writing to a string does not fail.
                let _ = write!(self.0, "{value:?}");
            }
        }
    }
    let mut message = Message(String::new());
    event.record(&mut message);
    message.0
}
