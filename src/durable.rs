//! The only door to fsync, rename, link and unlink, and to every write that must survive.
//!
//! Invariants:
//! - A failed fsync is reported as [`Error::is_sync`] and never tried again on the same
//!   descriptor: the kernel may have dropped the pages (Rebello et al., ATC 2020). Callers stop.
//! - No rename in here replaces a file, but [`Dir::replace`], which is for whole outputs only.
//! - Every operation passes [`fault::before`], so that a test build can count them all and fail,
//!   skip or abort at each of them. A release build has no such switch.
//!
//! Out of scope: any idea of what the files are for.

pub mod fault;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use fault::{Operation, Verdict};

/// A durable operation that failed: which, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct Error {
    operation: Operation,
    path: PathBuf,
    source: io::Error,
}

/// `Result` with [`Error`] as its error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn new(operation: Operation, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { operation, path: path.to_owned(), source: source.into() }
    }

    /// True for an fsync: what was written may be lost, and asking again would hide it.
    pub fn is_sync(&self) -> bool {
        matches!(self.operation, Operation::Sync | Operation::SyncDir)
    }

    /// True when there is no room: on the disk, in a quota, below a limit on the size of a file.
    pub fn is_no_room(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self.kind(), FileTooLarge | QuotaExceeded | StorageFull)
    }

    /// The error of a write to `path` for which less than the wanted room is left.
    pub fn no_room(path: &Path) -> Self {
        Self::new(Operation::Write, path, io::ErrorKind::StorageFull)
    }

    /// The kind of the underlying I/O error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Writes all of `bytes` at `offset`. Writing the same bytes there again changes nothing.
pub fn write_at(file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
    let failed = |error| Error::new(Operation::Write, path, error);
    let act = || fault::Act::Write(path, offset, bytes);
    match fault::before(Operation::Write, "write", act).map_err(failed)? {
        Verdict::Proceed | Verdict::UnsyncedThenAbort => {
            file.write_all_at(bytes, offset).map_err(failed)
        }
        Verdict::Skip => Ok(()),
        Verdict::HalfThenAbort => {
            let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
            let _ = file.write_all_at(half, offset);
            std::process::abort()
        }
    }
}

/// Makes the content and length of `file` durable. `site` names the caller for the tests that
/// leave one fsync out.
pub fn sync_data(file: &File, path: &Path, site: &'static str) -> Result<()> {
    let failed = |error| Error::new(Operation::Sync, path, error);
    match fault::before(Operation::Sync, site, || fault::Act::Sync(path)).map_err(failed)? {
        Verdict::Skip => Ok(()),
        _ => rustix::fs::fdatasync(file).map_err(|errno| failed(errno.into())),
    }
}

/// Creates `path` and its missing parents, each made durable in the directory above it. One that is
/// there may be left by a process that was killed before that, so its name is made durable too.
pub fn create_dir_all(path: &Path) -> Result<()> {
    create_dir(path, 0o777)
}

/// Creates `path` for this user alone, whatever the umask; its missing parents are as usual. A
/// directory that is there keeps its mode.
pub fn create_private_dir(path: &Path) -> Result<()> {
    create_dir(path, 0o700)
}

/// Creates the directory `path` with the mode of what it stands for, but that nobody else may write to it; the
/// one above it is there. It belongs to its creator: what is put there is not for others to redirect.
pub fn create_dir_like(path: &Path, like: Option<Likeness>) -> Result<()> {
    let Some(like) = like.filter(|_| !path.is_dir()) else { return create_dir_all(path) };
    create_private_dir(path)?;
    let mode = Mode::from_raw_mode(0o700 | like.mode & 0o755);
    if let Err(error) = rustix::fs::fchmod(&Dir::open(path)?.fd, mode) {
        tracing::debug!(%error, "a new folder keeps its mode");
    }
    Ok(())
}

fn create_dir(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return sync_parent(path);
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dir_all(parent)?;
    }
    let failed = |error| Error::new(Operation::Create, path, error);
    let act = || fault::Act::MakeDir(path);
    fault::before(Operation::Create, "directory", act).map_err(failed)?;
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    sync_parent(path)
}

/// A folder above that this user may not open was not made by this program.
fn sync_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    match Dir::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        opened => opened?.sync("parent directory"),
    }
}

/// The lock of an output: a hidden file beside it, since the output itself may be taken away.
pub fn lock_of(output: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(output.file_name().unwrap_or_default());
    name.push(".spoolmill-lock");
    output.with_file_name(name)
}

/// Opens the file `path` for reading and writing, created when missing. Only this user may open it,
/// whatever the umask, and whatever an earlier version has left.
pub fn open_private(path: &Path) -> Result<File> {
    let failed = |error| Error::new(Operation::Create, path, error);
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true).mode(0o600).custom_flags(flags);
    let file = options.open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
    }
    let is_mine = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.mode() & 0o077 != 0 && is_mine {
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).map_err(|errno| failed(errno.into()))?;
    }
    Ok(file)
}

/// Takes an exclusive lock on the file `path`, created when missing; held until it is dropped. Who
/// may not open the file cannot hold the lock.
///
/// `None` when another process holds it.
pub fn lock(path: &Path) -> Result<Option<File>> {
    let failed = |error| Error::new(Operation::Create, path, error);
    let file = open_private(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Takes the lock of `output` where there is one, without creating it: a job that writes to the output
/// has made the file.
///
/// # Errors
/// When a job holds it (`ResourceBusy`), or when it cannot be opened.
pub fn lock_if_there(output: &Path) -> Result<Option<File>> {
    let path = lock_of(output);
    let failed = |error| Error::new(Operation::Open, &path, error);
    let file = match File::options().read(true).write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(failed(io::ErrorKind::ResourceBusy.into())),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Mode and owner of a file, for another one that stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Likeness {
    /// The permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
}

impl Likeness {
    /// Those of the file that this was asked of.
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self { mode: metadata.mode() & 0o777, owner: (metadata.uid(), metadata.gid()) }
    }

    /// The same.
    pub fn of_stat(stat: &Stat) -> Self {
        Self { mode: stat.st_mode & 0o777, owner: (stat.st_uid, stat.st_gid) }
    }

    /// Gives them to another file. Only root may give a file away; where the group cannot be had either, what
    /// it may do is taken from the mode, since it would be another group's.
    pub fn give(self, file: &File) {
        let (user, group) = self.owner;
        let has_group = std::os::unix::fs::fchown(file, Some(user), Some(group)).is_ok()
            || std::os::unix::fs::fchown(file, None, Some(group)).is_ok();
        let mode = if has_group { self.mode } else { self.mode & 0o707 };
        if let Err(error) = rustix::fs::fchmod(file, Mode::from_raw_mode(mode)) {
            tracing::debug!(%error, "a new file keeps its mode");
        }
    }
}

/// Bytes that are free for this user where `place` is; `None` where the file system does not say.
pub fn free_bytes(place: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(place).ok()?;
    (about.f_blocks > 0).then(|| about.f_bavail.saturating_mul(about.f_frsize))
}

/// A directory held open: names in it cannot be led astray by what happens to its path.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// Opens the directory `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::new(Operation::Open, path, errno))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Wraps a directory that was opened elsewhere; `path` is for messages.
    pub fn from_fd(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path }
    }

    /// The directory that its path leads to now, if that is another one than this; none where the
    /// path leads to nothing.
    pub fn successor(&self) -> Result<Option<Self>> {
        let there = std::fs::metadata(&self.path)
            .map_err(|error| Error::new(Operation::Open, &self.path, error))?;
        let own = self.stat_self()?;
        let same = (there.dev(), there.ino()) == (own.st_dev, own.st_ino);
        if same { Ok(None) } else { Self::open(&self.path).map(Some) }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The status of `name`, not following a symbolic link; `None` when there is no such name.
    pub fn stat(&self, name: &OsStr) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::new(Operation::Open, &self.path.join(name), errno)),
        }
    }

    /// The status of the directory itself.
    pub fn stat_self(&self) -> Result<Stat> {
        rustix::fs::fstat(&self.fd).map_err(|errno| Error::new(Operation::Open, &self.path, errno))
    }

    /// The directory `name` in this one, made for `owner` alone where it is missing. A symbolic link is
    /// an error.
    pub fn private_subdirectory(&self, name: &OsStr, owner: (u32, u32)) -> Result<Self> {
        let path = self.path.join(name);
        let failed = |errno: Errno| Error::new(Operation::Create, &path, errno);
        let act = || fault::Act::MakeDir(&path);
        let is_new = self.stat(name)?.is_none();
        if is_new {
            fault::before(Operation::Create, "directory", act)
                .map_err(|error| Error::new(Operation::Create, &path, error))?;
            match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map_err(failed)?;
        if is_new {
            // Only root may give a directory away; anyone else is the owner.
            let _ = std::os::unix::fs::fchown(&fd, Some(owner.0), Some(owner.1));
            self.sync("parent directory")?;
        }
        Ok(Self { fd, path })
    }

    /// The directory `name` in this one, if there is one that may be read. A symbolic link is none.
    pub fn subdirectory(&self, name: &OsStr) -> Result<Option<Self>> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(None),
            Err(errno) => Err(Error::new(Operation::Open, &path, errno)),
        }
    }

    /// Removes the directory `name` if it is empty. It may come back after a power cut.
    pub fn remove_if_empty(&self, name: &OsStr) -> Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(errno) => Err(Error::new(Operation::Unlink, &self.path.join(name), errno)),
        }
    }

    /// Creates the new file `name` for reading and writing; an existing one is an error.
    pub fn create_new(&self, name: &OsStr) -> Result<File> {
        self.create(name, 0o666)
    }

    /// The same; the file takes mode and owner of what it stands for, where that is known.
    pub fn create_like(&self, name: &OsStr, like: Option<Likeness>) -> Result<File> {
        let Some(like) = like else { return self.create_new(name) };
        // Nobody may open it before it has its mode.
        let file = self.create(name, 0o600)?;
        like.give(&file);
        Ok(file)
    }

    fn create(&self, name: &OsStr, mode: u32) -> Result<File> {
        let path = self.path.join(name);
        let failed = |error| Error::new(Operation::Create, &path, error);
        let act = || fault::Act::Create(&path);
        fault::before(Operation::Create, "file", act).map_err(failed)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode))
            .map(File::from)
            .map_err(|errno| failed(errno.into()))
    }

    /// Opens the existing regular file `name` for reading and writing, following no link.
    pub fn open_existing(&self, name: &OsStr) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map(File::from)
            .map_err(|errno| Error::new(Operation::Open, &self.path.join(name), errno))
    }

    /// Makes the names in this directory durable.
    pub fn sync(&self, site: &'static str) -> Result<()> {
        let failed = |error| Error::new(Operation::SyncDir, &self.path, error);
        let act = || fault::Act::SyncDir(&self.path);
        match fault::before(Operation::SyncDir, site, act).map_err(failed)? {
            Verdict::Skip => Ok(()),
            _ => rustix::fs::fsync(&self.fd).map_err(|errno| failed(errno.into())),
        }
    }

    /// Renames `from` to `to` in `target`, never over an existing file: then the result is `false`.
    ///
    /// Where the file system has no such rename, a link and an unlink do it.
    pub fn rename_no_replace(&self, from: &OsStr, target: &Self, to: &OsStr) -> Result<bool> {
        let old = self.path.join(from);
        let new = target.path.join(to);
        let failed = |error| Error::new(Operation::Rename, &old, error);
        let act = || fault::Act::Rename(&old, &new);
        if fault::before(Operation::Rename, "rename", act).map_err(failed)? == Verdict::Skip {
            return Ok(true);
        }
        let renamed = if fault::mutant("no-renameat2") {
            Err(Errno::NOSYS)
        } else {
            rustix::fs::renameat_with(&self.fd, from, &target.fd, to, RenameFlags::NOREPLACE)
        };
        match renamed {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(Errno::INVAL | Errno::NOSYS) => self.link_and_unlink(from, target, to),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    fn link_and_unlink(&self, from: &OsStr, target: &Self, to: &OsStr) -> Result<bool> {
        let path = self.path.join(from);
        let failed = |error| Error::new(Operation::Link, &path, error);
        let act = || fault::Act::Link(&path, &target.path);
        fault::before(Operation::Link, "link", act).map_err(failed)?;
        match rustix::fs::linkat(&self.fd, from, &target.fd, to, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(errno) => return Err(failed(errno.into())),
        }
        self.unlink(from)?;
        Ok(true)
    }

    /// Renames `from` over `to`: for an output that is replaced as a whole.
    pub fn replace(&self, from: &OsStr, to: &OsStr) -> Result<()> {
        let old = self.path.join(from);
        let new = self.path.join(to);
        let failed = |error| Error::new(Operation::Rename, &old, error);
        let act = || fault::Act::Rename(&old, &new);
        fault::before(Operation::Rename, "replace", act).map_err(failed)?;
        rustix::fs::renameat(&self.fd, from, &self.fd, to).map_err(|errno| failed(errno.into()))
    }

    /// Removes `name`; a name that is gone already is no error.
    pub fn unlink(&self, name: &OsStr) -> Result<()> {
        let path = self.path.join(name);
        let failed = |error| Error::new(Operation::Unlink, &path, error);
        let act = || fault::Act::Unlink(&path);
        fault::before(Operation::Unlink, "unlink", act).map_err(failed)?;
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed(errno.into())),
        }
    }
}
