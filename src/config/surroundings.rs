//! Requirements of a start on the machine: folders, rights, file systems, programs.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::Access;

use super::{Config, Error, Problem, executable};
use crate::durable;
use crate::transform::Transform;

/// Magic numbers of file systems that cannot hold the state: SQLite's log needs shared memory and
/// locks that work, and these have one or both over a network (statfs(2)).
const NETWORK_FILE_SYSTEMS: [(i64, &str); 8] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x0bd0_0bd0, "Lustre"),
];

/// Magic numbers of further file systems on which other machines may write: events do not tell of that,
/// and the times are another clock's (statfs(2)). Their locks do work, as a rule.
const SHARED_FILE_SYSTEMS: [(i64, &str); 7] = [
    (0x6573_5546, "FUSE"),
    (0x786f_4256, "VirtualBox"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0x1983_0326, "BeeGFS"),
    (0x4750_4653, "GPFS"),
    (0x7375_7245, "Coda"),
];

/// The name of the file system that `path` is on, if it is one of these.
fn file_system(path: &Path, among: &[(i64, &'static str)]) -> Option<&'static str> {
    let magic = rustix::fs::statfs(path).ok()?.f_type;
    #[allow(clippy::useless_conversion, reason = "the type differs between architectures")]
    let magic = i64::from(magic) & 0xffff_ffff;
    among.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name)
}

fn network_file_system(path: &Path) -> Option<&'static str> {
    file_system(path, &NETWORK_FILE_SYSTEMS)
}

impl Config {
    /// The network file system that the drop folder is on, if it is on one: then there are no
    /// events for what other machines do, and its times come from another clock.
    pub fn network_file_system(&self) -> Option<&'static str> {
        let directory = self.directory.as_deref()?;
        network_file_system(directory).or_else(|| file_system(directory, &SHARED_FILE_SYSTEMS))
    }

    /// Checks everything that `run` needs, and creates the folders that are missing.
    pub fn check_surroundings(&self) -> Result<(), Error> {
        self.surroundings().map_err(|problem| self.problem(&problem))
    }

    fn surroundings(&self) -> Result<(), Problem> {
        let Some(directory) = &self.directory else {
            return Err(Problem::new("input.directory", "is missing: expected the drop folder"));
        };
        let Some(output) = &self.output else {
            return Err(Problem::new("output.path", "is missing: expected the output file"));
        };
        let Some(rejects) = &self.rejects else {
            let message = "is missing: expected a file, since the output is none";
            return Err(Problem::new("rejects.path", message));
        };
        check_drop_folder(directory)?;
        make("state.directory", &self.state, durable::create_private_dir)?;
        if let Some(folder) = output.folder() {
            make_folder("output.path", folder)?;
        }
        make_folder("rejects.path", rejects.parent().unwrap_or(Path::new("/")))?;
        for (key, place) in self.results() {
            make_folder(key, place.parent().unwrap_or(Path::new("/")))?;
        }
        let file = output.path().filter(|_| !output.is_folder());
        let files = file.map(|path| ("output.path", path)).into_iter();
        for (key, path) in files.chain([("rejects.path", rejects.as_path())]) {
            let no_file = path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file());
            if no_file {
                let message = format!("found \"{}\", which is no regular file", path.display());
                return Err(Problem::new(key, message));
            }
            check_usable(key, path)?;
        }
        for (key, path) in self.results() {
            check_usable(key, &path)?;
        }
        if let Some(name) = network_file_system(&self.state) {
            let found = self.state.display();
            let message = format!("found \"{found}\" on {name}, expected a local file system");
            return Err(Problem::new("state.directory", message));
        }
        self.check_archive(directory)?;
        self.check_command()
    }

    fn check_archive(&self, directory: &Path) -> Result<(), Problem> {
        let Some(archive) = self.archive() else { return Ok(()) };
        make_folder("done.action", &archive)?;
        if mount_of(&archive) == mount_of(directory) {
            return Ok(());
        }
        Err(Problem::new(
            "done.action",
            format!(
                "found \"{}\", which is on another mount than \"{}\": a rename cannot reach it; \
             expected a folder on the same one (a bind mount counts as another)",
                archive.display(),
                directory.display()
            ),
        ))
    }

    /// Checks what `batch` and `stream` need: the program of a command.
    pub fn check_program(&self) -> Result<(), Error> {
        self.check_command().map_err(|problem| self.problem(&problem))
    }

    /// A command must be there; whether it works is seen when it runs.
    fn check_command(&self) -> Result<(), Problem> {
        let Transform::Command(command) = &self.written.transform else { return Ok(()) };
        let found = command.argv.first().map_or("", String::as_str);
        if let Some(program) = command.program(&self.base) {
            let Some(why) = executable::why_not(&program) else { return Ok(()) };
            let message = format!("found \"{found}\", which the kernel cannot start: {why}");
            return Err(Problem::new("transform.command.argv", message));
        }
        let message = format!("found \"{found}\", which is no program in PATH that can be run");
        Err(Problem::new("transform.command.argv", message))
    }
}

/// A file that is there is opened for reading and writing.
fn check_usable(key: &'static str, path: &Path) -> Result<(), Problem> {
    if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(());
    }
    rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK).map_err(|errno| {
        let message = format!("found \"{}\", which cannot be written to: {errno}", path.display());
        Problem::new(key, message)
    })
}

fn check_drop_folder(directory: &Path) -> Result<(), Problem> {
    let problem = |what: String| {
        let found = directory.display();
        Err(Problem::new("input.directory", format!("found \"{found}\", {what}")))
    };
    let metadata = match directory.metadata() {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return problem("which is no directory".to_owned()),
        Err(error) => {
            // It may be on a mount that is not there yet.
            let found = directory.display();
            let message = format!("found \"{found}\", which cannot be used: {error}");
            return Err(Problem::new("input.directory", message).passing(true));
        }
    };
    if let Err(error) =
        rustix::fs::access(directory, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
    {
        return problem(format!(
            "expected a folder that can be read and written, to rename what is done: {error}"
        ));
    }
    let user = rustix::process::geteuid();
    let sticky = metadata.mode() & 0o1000 != 0;
    if sticky && !user.is_root() && metadata.uid() != user.as_raw() {
        return problem(
            "which is sticky and belongs to another user: files of others could not be renamed"
                .to_owned(),
        );
    }
    Ok(())
}

fn make_folder(key: &'static str, folder: &Path) -> Result<(), Problem> {
    make(key, folder, durable::create_dir_all)
}

fn make(
    key: &'static str,
    folder: &Path,
    create: fn(&Path) -> durable::Result<()>,
) -> Result<(), Problem> {
    let problem = |error: &dyn std::fmt::Display| {
        Problem::new(key, format!("found \"{}\", which cannot be used: {error}", folder.display()))
    };
    if folder.metadata().is_ok_and(|found| !found.is_dir()) {
        let found = folder.display();
        return Err(Problem::new(
            key,
            format!("found \"{found}\", which is a file, expected a folder"),
        ));
    }
    create(folder).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        problem(&cause.unwrap_or_default()).passing(error.is_no_room() || error.is_sync())
    })?;
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| problem(&errno))
}

/// The mount that a path is on: the mount's number, and the device where the kernel is too old to
/// tell (before 5.8).
fn mount_of(path: &Path) -> Option<(u64, u64)> {
    use rustix::fs::{AtFlags, CWD, StatxFlags};
    let device = path.metadata().ok()?.dev();
    let statx = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok();
    Some((statx.map_or(0, |statx| statx.stx_mnt_id), device))
}
