//! The file of an input: opened without being led astray, identified, and probed for writers.
//!
//! Invariants: a name is looked up below the folder's own descriptor and through no symbolic
//! link; what is no regular file is never opened for reading; a file is checked and read on one
//! descriptor.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::stamp::Stamp;
use crate::durable::{Dir, fault};
use crate::source::Input;

/// Bytes hashed at once.
const HASH_BYTES: usize = 64 * 1024;

/// The result of looking up a name.
#[derive(Debug)]
pub enum Found {
    /// A regular file, open.
    File(File, Stamp),
    /// Nothing.
    Gone,
    /// Something that is never an input.
    NoInput,
    /// A file that cannot be opened just now.
    Unreadable(std::io::Error),
}

/// Opens the regular file `name` below `folder`.
pub fn open(folder: &Dir, name: &OsStr) -> Found {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match open_beneath(folder, name, flags) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR) => return Found::Gone,
        Err(Errno::LOOP | Errno::NXIO | Errno::XDEV | Errno::ISDIR) => return Found::NoInput,
        Err(errno) => return Found::Unreadable(errno.into()),
    };
    match rustix::fs::fstat(&opened) {
        Ok(stat) if is_regular(&stat) => Found::File(opened, Stamp::of(&stat)),
        Ok(_) => Found::NoInput,
        Err(errno) => Found::Unreadable(errno.into()),
    }
}

/// True for an error that says nothing about the file: descriptors or memory have run out, or the call
/// was interrupted.
pub fn is_of_process(error: &std::io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR | Errno::AGAIN))
}

/// The file of an input that a folder has offered, and its stamp when it was found complete.
pub(super) fn file_of(input: &Input) -> (&File, &Stamp) {
    input.opened().expect("what a folder offers is a file")
}

/// BLAKE3 over all bytes of a file. A signal is heard meanwhile.
///
/// # Errors
/// When the file cannot be read, or when the work is to stop.
pub fn hash(file: &File) -> std::io::Result<[u8; 32]> {
    hash_by(|buffer, at| file.read_at(buffer, at))
}

/// The same over all that `read_at` gives.
pub(in crate::source) fn hash_by(
    read_at: impl Fn(&mut [u8], u64) -> std::io::Result<usize>,
) -> std::io::Result<[u8; 32]> {
    let mut hash = blake3::Hasher::new();
    let mut at = 0;
    let mut buffer = vec![0; HASH_BYTES];
    loop {
        crate::pulse::alive()?;
        let got = read_at(&mut buffer, at)?;
        if got == 0 {
            return Ok(*hash.finalize().as_bytes());
        }
        hash.update(buffer.get(..got).unwrap_or_default());
        at += got as u64;
    }
}

/// Opens the folder that `name` is in.
pub fn open_parent(folder: &Dir, name: &OsStr) -> std::io::Result<Option<Dir>> {
    let parent =
        std::path::Path::new(name).parent().filter(|parent| !parent.as_os_str().is_empty());
    let Some(parent) = parent else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = open_beneath(folder, parent.as_os_str(), flags)?;
    Ok(Some(Dir::from_fd(fd, folder.path().join(parent))))
}

/// False when the folder that `name` is in cannot be written to: the file could be committed, and not be
/// archived.
pub fn can_be_renamed(folder: &Dir, name: &OsStr) -> bool {
    use rustix::fs::{Access, AtFlags};
    let parent = std::path::Path::new(name)
        .parent()
        .filter(|path| !path.as_os_str().is_empty())
        .unwrap_or(std::path::Path::new("."));
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(folder, parent, access, AtFlags::EACCESS).is_ok()
}

fn open_beneath(folder: &Dir, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let opened = if fault::mutant("no-openat2") {
        Err(Errno::NOSYS)
    } else {
        rustix::fs::openat2(folder, name, flags, Mode::empty(), resolve)
    };
    match opened {
        // Before Linux 5.6, or where a filter forbids it; then only a plain name is safe.
        Err(Errno::NOSYS | Errno::PERM) if !name.as_encoded_bytes().contains(&b'/') => {
            rustix::fs::openat(folder, name, flags, Mode::empty())
        }
        result => result,
    }
}

/// True for a regular file.
pub fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// The answer of the lease about writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Nobody has the file open for writing.
    None,
    /// Somebody has.
    Some,
    /// The file system or the owner does not allow the question.
    Unknown,
}

/// Asks whether anyone has `file` open for writing, by taking a read lease and giving it back
/// (fcntl(2), "Leases"). A writer that opens in that instant makes the kernel send SIGIO, which the
/// daemon ignores, and waits until the lease is back.
pub fn writers(file: &File) -> Writers {
    let writers = writers_until_closed(file);
    if writers == Writers::None {
        lease(file, libc::F_UNLCK);
    }
    writers
}

#[expect(unsafe_code, reason = "no safe wrapper offers F_SETLEASE")]
fn lease(file: &File, kind: libc::c_int) -> libc::c_int {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the descriptor is open for the length of the call, and F_SETLEASE takes an integer, no
    // pointer.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }
}

/// The same for a file that is closed soon, which gives the lease back.
pub fn writers_until_closed(file: &File) -> Writers {
    if lease(file, libc::F_RDLCK) == 0 {
        return Writers::None;
    }
    match Errno::from_io_error(&std::io::Error::last_os_error()) {
        Some(Errno::AGAIN) => Writers::Some,
        _ => Writers::Unknown,
    }
}
