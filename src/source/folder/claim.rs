//! Which jobs take files from a drop folder: two that could take the same one are refused.
//!
//! Invariants: each job holds a shared lock on a hidden file in the folder for as long as it is open,
//! and is listed in it. Who gets the lock alone begins the list again; who does not is held against those
//! that are listed and alive. Of two that come at once, the one that is listed first may stay. The last
//! one to leave removes the file. On a full disk nobody can be listed: who is alone then stays alone, since
//! what makes room is that the files are taken.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use super::globs;
use crate::durable::{self, Dir};
use crate::failure::{Failure, Result};

/// The file in the drop folder.
pub const LOCK: &str = ".spoolmill-lock";

/// Attempts to get the lock while others come and go.
const TRIES: u32 = 200;

/// Time between two of them.
const PAUSE: Duration = Duration::from_millis(10);

/// Bytes of the list that are read: hundreds of jobs.
const LIST_MAX: u64 = 256 * 1024;

/// The entry of a job in the list: the files it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimant {
    /// The job file.
    pub job: PathBuf,
    /// The state directory, whose lock says whether the job is open.
    pub state: PathBuf,
    /// `input.pattern`.
    pub pattern: String,
    /// `input.exclude`.
    pub exclude: Vec<String>,
    /// `input.recursive`.
    pub recursive: bool,
}

impl Claimant {
    /// A name that both could take, if there is one.
    fn common(&self, other: &Self) -> Option<String> {
        let excluded: Vec<&str> =
            self.exclude.iter().chain(&other.exclude).map(String::as_str).collect();
        globs::common(&[&self.pattern, &other.pattern], &excluded)
    }

    /// False when nobody holds the lock of its state directory. One that cannot be asked may be open.
    fn is_open(&self) -> bool {
        let Some(lock) = open(&self.state.join("lock")) else { return true };
        !matches!(lock.try_lock(), Ok(()))
    }
}

/// The place of one job in the list of one folder.
#[derive(Debug)]
pub struct Claim {
    file: File,
    folder: PathBuf,
}

impl Claim {
    /// Lists the job in `folder`, whose state directory it has locked.
    ///
    /// # Errors
    /// When another job could take the same files.
    pub fn take(folder: &Path, own: &Claimant) -> Result<Self> {
        check_around(folder, own)?;
        for _ in 0..TRIES {
            if let Some(claim) = Self::attempt(folder, own)? {
                return Ok(claim);
            }
            std::thread::sleep(PAUSE);
        }
        let error = anyhow::anyhow!("the lock of {} is not to be had", folder.display());
        Err(Failure::Transient(error))
    }

    /// Whether the job could be listed.
    ///
    /// # Errors
    /// When another job could take the same files.
    pub fn check(folder: &Path, own: &Claimant) -> Result<()> {
        check_around(folder, own)?;
        check_other_folder(folder, own, |_| true)
    }

    /// `None` when somebody was faster.
    fn attempt(folder: &Path, own: &Claimant) -> Result<Option<Self>> {
        let path = folder.join(LOCK);
        let mut file = durable::open_private(&path).map_err(|error| not_opened(error, folder))?;
        let work = || -> anyhow::Result<bool> {
            let is_alone = match file.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => false,
                Err(TryLockError::Error(error)) => return Err(error.into()),
            };
            if is_alone {
                file.set_len(0)?;
                if let Err(error) = add(&mut file, own) {
                    return stays_alone(&file, error).map(|()| true);
                }
            }
            match file.try_lock_shared() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(false),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            if !is_alone && !list(&mut file)?.contains(own) {
                add(&mut file, own)?;
            }
            Ok(true)
        };
        let doing = || format!("use {}", path.display());
        let mut work = work;
        if !work().with_context(doing).map_err(Failure::Transient)? {
            return Ok(None);
        }
        // Somebody who was alone may have removed the file, or begun the list again.
        let there = path.metadata().map(|there| (there.dev(), there.ino())).ok();
        let here = file.metadata().map(|here| (here.dev(), here.ino())).ok();
        let is_there = there.is_some() && there == here;
        let all = list(&mut file).with_context(doing).map_err(Failure::Transient)?;
        if all.is_empty() && is_there {
            return Ok(Some(Self { file, folder: folder.to_owned() }));
        }
        let place = all.iter().rposition(|listed| listed == own);
        let Some(place) = place.filter(|_| is_there) else { return Ok(None) };
        for other in all.iter().take(place).filter(|other| other.state != own.state) {
            refuse(own, other, folder)?;
        }
        Ok(Some(Self { file, folder: folder.to_owned() }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.file.try_lock().is_ok()
            && let Ok(dir) = Dir::open(&self.folder)
        {
            // A file that stays is begun again by the next job.
            let _ = dir.unlink(LOCK.as_ref());
        }
    }
}

/// Opens a regular file, where there is one. Others may put what they like under its name: a link is not
/// followed, and no pipe is waited for.
fn open(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let bits = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(bits.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
}

/// Holds a job against those of the folders above and below its own.
fn check_around(folder: &Path, own: &Claimant) -> Result<()> {
    for above in folder.ancestors().skip(1) {
        check_other_folder(above, own, |other| other.recursive)?;
    }
    if own.recursive {
        let below = WalkDir::new(folder).min_depth(1).into_iter().flatten();
        for entry in below.filter(|entry| entry.file_type().is_dir()) {
            check_other_folder(entry.path(), own, |_| true)?;
        }
    }
    Ok(())
}

/// Holds a job against those of another folder.
fn check_other_folder(
    folder: &Path,
    own: &Claimant,
    matters: impl Fn(&Claimant) -> bool,
) -> Result<()> {
    let Some(mut file) = open(&folder.join(LOCK)) else { return Ok(()) };
    // Nobody is there when nobody holds the lock.
    if !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        return Ok(());
    }
    let all = list(&mut file).map_err(Failure::Transient)?;
    if all.is_empty() {
        let folder = folder.display();
        let held = "a job takes files from it that could not be listed, since its disk was full";
        return Err(Failure::Transient(anyhow::anyhow!("{folder} is locked: {held}")));
    }
    for other in all.iter().filter(|other| other.state != own.state && matters(other)) {
        refuse(own, other, folder)?;
    }
    Ok(())
}

/// Refuses the job if the other one could take the same file, and is open.
fn refuse(own: &Claimant, other: &Claimant, folder: &Path) -> Result<()> {
    let Some(name) = own.common(other) else { return Ok(()) };
    if !other.is_open() {
        return Ok(());
    }
    Err(Failure::fatal(format!(
        "the job {} takes files from {} as well, and both would take a file such as \"{name}\": give each \
         its own `input.pattern` or `input.exclude`, or its own folder (if that job is no more, remove {})",
        other.job.display(),
        folder.display(),
        folder.join(LOCK).display()
    )))
}

fn not_opened(error: durable::Error, folder: &Path) -> Failure {
    let is_foreign = error.kind() == std::io::ErrorKind::PermissionDenied;
    let error = anyhow::Error::from(error).context("take the lock of the drop folder");
    if is_foreign {
        let message = format!("a job of another user takes files from {}", folder.display());
        Failure::Fatal(error.context(message))
    } else {
        Failure::Transient(error)
    }
}

/// A job that holds the lock alone, and has no room for its entry, keeps the lock: nobody else gets in.
fn stays_alone(file: &File, error: anyhow::Error) -> anyhow::Result<()> {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    let no_room = [std::io::ErrorKind::StorageFull, std::io::ErrorKind::QuotaExceeded];
    if !kind.is_some_and(|kind| no_room.contains(&kind)) {
        return Err(error);
    }
    // What is there of the line is nobody's.
    file.set_len(0)?;
    tracing::warn!(
        error = %format!("{error:#}"),
        "the lock of the drop folder has no room for a list: until the next start no other job may take \
         files from this folder"
    );
    Ok(())
}

/// Adds the job at the end of the list: lines of JSON.
fn add(file: &mut File, own: &Claimant) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(own)?;
    line.push(b'\n');
    file.seek(SeekFrom::End(0))?;
    Ok(file.write_all(&line)?)
}

/// The jobs that are listed. Of one that is listed twice the last counts.
fn list(file: &mut File) -> anyhow::Result<Vec<Claimant>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(LIST_MAX).read_to_end(&mut text)?;
    let lines = text.split(|byte| *byte == b'\n');
    let mut all: Vec<Claimant> =
        lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let last = all.clone();
    let mut at = 0;
    all.retain(|listed| {
        at += 1;
        !last.iter().skip(at).any(|later| later.state == listed.state)
    });
    Ok(all)
}
