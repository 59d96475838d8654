//! The watch on the drop folder, which wakes the daemon.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use super::{Setting, Until, Wake};
use crate::config::Config;
use crate::source::folder::rules;
use crate::source::folder::watch::{self, Hint, Watch};

/// The watch on the drop folder; `None` where it is to be polled.
pub fn open_watch(
    config: &Config,
    setting: &Setting,
    lost: &Arc<AtomicBool>,
    network: Option<&'static str>,
) -> anyhow::Result<Option<Watch>> {
    let wanted = config.rules.watch;
    // What is only to be drained is only scanned.
    if setting.until == Until::Drained || wanted == rules::Watch::Poll {
        return Ok(None);
    }
    if let Some(file_system) = network.filter(|_| wanted == rules::Watch::Auto) {
        tracing::info!(file_system, "no events there; polling the drop folder");
        return Ok(None);
    }
    let directory = config.directory.clone().unwrap_or_default();
    match start_watch(&directory, config.rules.recursive, &setting.wakes.0, lost) {
        Ok(watch) => Ok(Some(watch)),
        Err(error) if wanted == rules::Watch::Auto => {
            tracing::warn!(%error, "the drop folder cannot be watched; polling it");
            Ok(None)
        }
        Err(error) => anyhow::bail!("watch the drop folder {}: {error}", directory.display()),
    }
}

/// Starts a watch that wakes the daemon. A hint that does not fit in the queue is made good by a
/// scan.
pub fn start_watch(
    directory: &Path,
    recursive: bool,
    sender: &SyncSender<Wake>,
    lost: &Arc<AtomicBool>,
) -> watch::Result<Watch> {
    Watch::start(directory, recursive, send_hints(sender, lost))
}

/// The watch on the folder that inputs are moved to: what is written there comes too late. Without it, it is
/// noticed later.
pub fn watch_archive(
    folder: &Path,
    recursive: bool,
    setting: &Setting,
    lost: &Arc<AtomicBool>,
) -> Option<Watch> {
    watch::watch_archive(folder, recursive, send_hints(&setting.wakes.0, lost))
        .inspect_err(|error| tracing::debug!(%error, "the archive is not watched"))
        .ok()
}

pub fn send_hints(
    sender: &SyncSender<Wake>,
    lost: &Arc<AtomicBool>,
) -> impl Fn(Hint) + Send + 'static {
    let (sender, lost) = (sender.clone(), lost.clone());
    move |hint| {
        if let Err(TrySendError::Full(_)) = sender.try_send(Wake::Hint(hint)) {
            lost.store(true, Ordering::Relaxed);
        }
    }
}
