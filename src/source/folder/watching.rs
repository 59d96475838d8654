//! The hints of a watch, until the source hears them.
//!
//! Invariants: the watcher's thread never waits. A hint that does not fit in the queue is made good by a scan.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::watch::{self, Hint, Watch};

/// Hints that wait at once; of more, a scan is made.
pub(super) const HINTS_MAX: usize = 16 * 1024;

/// Wakes the thread that polls the source. It must not block.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// A watch on a drop folder.
pub struct Watching {
    watch: Watch,
    /// On the folder that inputs are moved to.
    archive: Option<Watch>,
    recursive: bool,
    hints: (SyncSender<Hint>, Receiver<Hint>),
    /// A hint did not fit.
    is_lost: Arc<AtomicBool>,
    wake: Wake,
}

impl Watching {
    /// Watches `directory`, and with `recursive` what is below it.
    ///
    /// # Errors
    /// When the folder cannot be watched, as for lack of `fs.inotify.max_user_watches`.
    pub fn start(directory: &Path, recursive: bool, wake: Wake) -> watch::Result<Self> {
        let hints = sync_channel(HINTS_MAX);
        let is_lost = Arc::new(AtomicBool::new(false));
        let watch = Watch::start(directory, recursive, give(&hints.0, &is_lost, &wake))?;
        Ok(Self { watch, archive: None, recursive, hints, is_lost, wake })
    }

    /// Watches this folder instead of the one before.
    ///
    /// # Errors
    /// When it cannot be watched; then the one before still is.
    pub fn restart(&mut self, directory: &Path) -> watch::Result<()> {
        let give = give(&self.hints.0, &self.is_lost, &self.wake);
        self.watch = Watch::start(directory, self.recursive, give)?;
        Ok(())
    }

    /// Watches the folder that inputs are moved to as well: what is written there comes too late. Without
    /// that, it is noticed later.
    pub fn watch_archive(&mut self, folder: &Path) {
        let give = give(&self.hints.0, &self.is_lost, &self.wake);
        self.archive = watch::watch_archive(folder, self.recursive, give)
            .inspect_err(|error| tracing::debug!(%error, "the archive is not watched"))
            .ok();
    }

    /// The next hint, if there is one.
    pub fn next(&self) -> Option<Hint> {
        if self.is_lost.swap(false, Ordering::Relaxed) {
            return Some(Hint::Lost);
        }
        self.hints.1.try_recv().ok()
    }
}

fn give(
    hints: &SyncSender<Hint>,
    is_lost: &Arc<AtomicBool>,
    wake: &Wake,
) -> impl Fn(Hint) + Send + 'static {
    let hints = hints.clone();
    let is_lost = is_lost.clone();
    let wake = wake.clone();
    move |hint| {
        if let Err(TrySendError::Full(_)) = hints.try_send(hint) {
            is_lost.store(true, Ordering::Relaxed);
        }
        wake();
    }
}
