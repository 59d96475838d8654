//! The progress bar of a batch: on a terminal, and nowhere else.

use std::io::IsTerminal as _;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar is redrawn, so that rate and time left stay true while nothing moves.
const REDRAW: Duration = Duration::from_millis(200);

/// The progress bar of a batch: bytes, records, rejects, rate and time left.
pub struct Progress {
    bar: ProgressBar,
    records: AtomicU64,
    rejects: AtomicU64,
}

impl Progress {
    /// For an input of `bytes`; hidden unless standard error is a terminal.
    pub fn new(bytes: u64) -> Arc<Self> {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        let template = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(REDRAW);
        }
        Arc::new(Self { bar, records: AtomicU64::new(0), rejects: AtomicU64::new(0) })
    }

    /// Shows records and rejects of the input under way, on top of those that are done.
    pub fn show(&self, records: u64, rejects: u64) {
        if !self.bar.is_hidden() {
            let records = self.records.load(Ordering::Relaxed) + records;
            let rejects = self.rejects.load(Ordering::Relaxed) + rejects;
            self.bar.set_message(format!("{records} records, {rejects} rejects"));
        }
    }

    /// Counts records and rejects of an input that is done.
    pub fn add(&self, records: u64, rejects: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.rejects.fetch_add(rejects, Ordering::Relaxed);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Counts the bytes that are read through the result.
    pub fn reading<R: Read>(self: &Arc<Self>, reader: R) -> Reading<R> {
        Reading { reader, progress: self.clone() }
    }
}

/// A reader whose bytes move the bar.
pub struct Reading<R> {
    reader: R,
    progress: Arc<Progress>,
}

impl<R: Read> Read for Reading<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.reader.read(buffer)?;
        self.progress.bar.inc(got as u64);
        Ok(got)
    }
}
