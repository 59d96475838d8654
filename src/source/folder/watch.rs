//! Hints that something came: the only door to `notify`.
//!
//! Invariants: a hint only shortens the wait. Whatever is lost, overflows or never comes (a
//! network file system has no events) is found by the next scan.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::rules::PROCESSED;

/// Something that may have happened in the folder. Names are relative to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// A file came, was closed after writing, or changed its links.
    Touched(OsString),
    /// A file came under this name by a rename.
    Renamed(OsString),
    /// The file at this absolute path, which may be an archived one, was written to.
    Written(PathBuf),
    /// Events were lost, or the folder itself changed: only a scan can tell.
    Lost,
}

/// `Result` with the error of the watcher.
pub type Result<T> = notify::Result<T>;

/// A watch on one folder; dropped, it ends.
pub struct Watch {
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Watches `directory`, and with `recursive` what is below it. `hint` runs on the watcher's own
    /// thread and must not block.
    pub fn start(
        directory: &Path,
        recursive: bool,
        hint: impl Fn(Hint) + Send + 'static,
    ) -> Result<Self> {
        let root = directory.to_owned();
        let mut watcher = notify::recommended_watcher(move |event| match event {
            Ok(event) => hints(&root, event, &hint),
            Err(error) => {
                tracing::warn!(%error, "the watch on the drop folder failed; scanning instead");
                hint(Hint::Lost);
            }
        })?;
        let mode = if recursive { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        watcher.watch(directory, mode)?;
        Ok(Self { _watcher: watcher })
    }
}

/// Watches the folder that inputs are moved to, for what is written to them later. `hint` runs on the
/// watcher's own thread and must not block.
pub fn watch_archive(
    directory: &Path,
    recursive: bool,
    hint: impl Fn(Hint) + Send + 'static,
) -> Result<Watch> {
    let mut watcher = notify::recommended_watcher(move |event: Result<notify::Event>| {
        // What is not told here is found by `verify`.
        let Ok(event) = event else { return };
        if is_write(event.kind) {
            event.paths.into_iter().for_each(|path| hint(Hint::Written(path)));
        }
    })?;
    let mode = if recursive { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
    watcher.watch(directory, mode)?;
    Ok(Watch { _watcher: watcher })
}

fn is_write(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Modify(ModifyKind::Data(_))
            | EventKind::Access(AccessKind::Close(AccessMode::Write))
    )
}

/// True for the name of a file that is processed already.
fn is_processed(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    name.starts_with(PROCESSED.as_bytes())
}

fn hints(root: &Path, event: notify::Event, hint: &impl Fn(Hint)) {
    if event.need_rescan() {
        return hint(Hint::Lost);
    }
    if is_write(event.kind) && event.paths.iter().any(|path| is_processed(path)) {
        return event.paths.into_iter().for_each(|path| hint(Hint::Written(path)));
    }
    let renamed = match event.kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => true,
        // A folder below that came whole holds files that made no event of their own.
        EventKind::Create(notify::event::CreateKind::Folder) => return hint(Hint::Lost),
        EventKind::Create(_)
        | EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Metadata(_)) => false,
        EventKind::Remove(_) if event.paths.iter().any(|path| path == root) => {
            return hint(Hint::Lost);
        }
        // Reads, and writes before the close; a file that went away is found missing.
        _ => return,
    };
    for path in event.paths {
        match relative(root, &path) {
            None => hint(Hint::Lost),
            Some(name) if renamed && path.is_dir() => {
                tracing::debug!(?name, "a folder came by a rename");
                hint(Hint::Lost);
            }
            Some(name) if renamed => hint(Hint::Renamed(name)),
            Some(name) => hint(Hint::Touched(name)),
        }
    }
}

fn relative(root: &Path, path: &Path) -> Option<OsString> {
    let name: PathBuf = path.strip_prefix(root).ok()?.to_owned();
    (!name.as_os_str().is_empty()).then(|| name.into_os_string())
}
