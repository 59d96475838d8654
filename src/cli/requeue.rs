//! `spoolmill requeue`: a failed file goes back into the drop folder, or one that was
//! processed is taken again.
//!
//! Invariants: the note that says which microbatch is repeated is durable before the file moves,
//! and no file is replaced. It may be repeated after a crash.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::JobFile;
use crate::config::Config;
use crate::durable::Dir;
use crate::ledger::{Entry, Outcome, Reader};
use crate::record::Stands;
use crate::source::folder::archive::REPORT_SUFFIX;
use crate::source::folder::input::{self, Found, is_regular};
use crate::source::folder::requeued::Requeued;
use crate::source::folder::rules::FAILED;
use crate::source::folder::stamp::Stamp;
use crate::status::explain::{archived_as, is_input};
use crate::telemetry::escaped;

/// Bytes of a report that are read: it is one that spoolmill wrote.
const REPORT_BYTES: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub struct Requeue {
    #[command(flatten)]
    job: JobFile,
    /// failed-* files, or with --again processed ones; their reports may be named as well
    #[arg(required_unless_present = "all", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Every failed-* file in the drop folder
    #[arg(long, conflicts_with = "files")]
    all: bool,
    /// Take a file again that was processed: its records come into the output a second time
    #[arg(long)]
    again: bool,
}

impl Requeue {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.job.read()?;
        let look = Reader::open(&config.state)?;
        let files =
            if self.all { failed(&config, &look)? } else { named(&config, &look, self.files)? };
        let mut missed = 0;
        let all = files.len();
        for file in &files {
            match requeue(&config, &look, file, self.again) {
                Ok(entry) => {
                    let name = escaped(entry.name.as_bytes());
                    let sequence = entry.sequence;
                    tracing::info!(
                        file = name,
                        microbatch = sequence,
                        "the file is back in the drop folder"
                    );
                }
                Err(error) if all == 1 => {
                    let file = escaped(file.as_os_str().as_bytes());
                    return Err(error.context(format!("requeue {file}")));
                }
                Err(error) => {
                    missed += 1;
                    let (file, error) =
                        (escaped(file.as_os_str().as_bytes()), format!("{error:#}"));
                    tracing::error!(file, error, "the file stays where it is");
                }
            }
        }
        anyhow::ensure!(missed == 0, "{missed} of {all} files were not put back");
        Ok(())
    }
}

/// The files that are meant: a pattern such as `failed-*` names their reports, too.
fn named(config: &Config, look: &Reader, files: Vec<PathBuf>) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::with_capacity(files.len());
    let mut known = HashSet::new();
    for file in files {
        let file = match reported(config, look, &file)? {
            Some(reported) => file.with_file_name(reported),
            None => file,
        };
        if known.insert(file.clone()) {
            all.push(file);
        }
    }
    Ok(all)
}

/// The name of the file whose report this is; `None` when it is no report. An input may have been called like
/// one.
fn reported(config: &Config, look: &Reader, file: &Path) -> anyhow::Result<Option<OsString>> {
    let name = file.file_name().unwrap_or_default();
    let stem = name.as_bytes().strip_suffix(REPORT_SUFFIX.as_bytes());
    let Some(stem) = stem.filter(|name| name.starts_with(FAILED.as_bytes())) else {
        return Ok(None);
    };
    let stamp = file.symlink_metadata().ok().map(|file| Stamp::of_metadata(&file));
    let Some(stamp) = stamp else { return Ok(Some(OsStr::from_bytes(stem).to_owned())) };
    if is_input(config, look, file, &stamp)? {
        return Ok(None);
    }
    if let Some((_, about)) = look.reported(name, stamp.inode)? {
        return Ok(Some(about));
    }
    let is_input = archived_as(config, look, file, &stamp)?.is_some();
    Ok((!is_input).then(|| OsStr::from_bytes(stem).to_owned()))
}

/// Every failed file in the drop folder.
fn failed(config: &Config, look: &Reader) -> anyhow::Result<Vec<PathBuf>> {
    let folder = config.directory.as_deref().context("the job has no `input.directory`")?;
    let names = crate::source::folder::failed(folder, config.rules.recursive)?;
    named(config, look, names.into_iter().map(|name| folder.join(name)).collect())
}

/// Puts one file back; returns the microbatch that is to be repeated.
fn requeue(config: &Config, look: &Reader, file: &Path, again: bool) -> anyhow::Result<Entry> {
    let path = config.directory.as_deref().context("the job has no `input.directory`")?;
    let drop_folder = Dir::open(path)?;
    let dir = home_of(config, look, &drop_folder, file)?;
    let archived = file.file_name().unwrap_or_default();
    let stat = dir.stat(archived)?.filter(is_regular);
    let stamp = Stamp::of(&stat.context("there is no such file")?);
    let entry = archived_as(config, look, file, &stamp)?;
    let (entry, stands) =
        entry.context("the ledger knows no microbatch that has archived it under this name")?;
    let sequence = entry.sequence;
    // What came after the commit is in no output yet.
    let is_rest = stands == Stands::Rest;
    anyhow::ensure!(
        again || is_rest || entry.outcome() == Outcome::Quarantined,
        "it was processed as microbatch {sequence}: its records are in the output; with --again they \
         come into it a second time"
    );
    // Through no symbolic link: the owner of the drop folder need not be the user who runs this.
    let inner = input::open_parent(&drop_folder, &entry.name)?;
    let folder = inner.as_ref().unwrap_or(&drop_folder);
    let name = Path::new(&entry.name).file_name().unwrap_or_default();
    anyhow::ensure!(
        folder.stat(name)?.is_none(),
        "another file has come as {}: wait until it is taken, or move it away",
        escaped(entry.name.as_bytes())
    );
    Requeued::of_state(&config.state).note(&stamp, sequence)?;
    if archived.as_bytes().starts_with(FAILED.as_bytes()) {
        // The next report of this name tells of another microbatch. First, so that a crash leaves none that
        // nobody removes: who asks again removes it then.
        remove_reports((config, look), &dir, archived, &entry)?;
    }
    anyhow::ensure!(dir.rename_no_replace(archived, folder, name)?, "another file has just come");
    put_marker_back(config, &dir, archived, folder, name)?;
    folder.sync("input directory")?;
    dir.sync("archive directory")?;
    Ok(entry)
}

/// The folder that a file is in: below the drop folder or the archive through no symbolic link.
fn home_of(config: &Config, look: &Reader, drop_folder: &Dir, file: &Path) -> anyhow::Result<Dir> {
    let absolute = std::path::absolute(file)?;
    let paths = config.archive().into_iter().chain(look.archives(&config.state)?);
    let archives: Vec<_> = paths.filter_map(|archive| Dir::open(&archive).ok()).collect();
    for folder in std::iter::once(drop_folder).chain(&archives) {
        if let Ok(below) = absolute.strip_prefix(folder.path()) {
            let dir = input::open_parent(folder, below.as_os_str())?;
            return Ok(dir.map_or_else(|| Dir::open(folder.path()), Ok)?);
        }
    }
    Ok(Dir::open(file.parent().unwrap_or(Path::new(".")))?)
}

/// Removes the reports that were written about this file, and nothing else: by what stands in them, by their
/// inodes where these are known, and never an input that was set aside under such a name.
fn remove_reports(
    (config, look): (&Config, &Reader),
    dir: &Dir,
    archived: &OsStr,
    entry: &Entry,
) -> anyhow::Result<()> {
    let known = look.reports(entry.sequence, archived)?;
    // A ledger of before reports were written down.
    let usual = with_suffix(archived, REPORT_SUFFIX);
    let names = if known.is_empty() { vec![(usual, None)] } else { Vec::new() };
    let known = known.into_iter().map(|(name, inode)| (name, Some(inode)));
    for (name, inode) in known.chain(names) {
        let Found::File(report, stamp) = input::open(dir, &name) else { continue };
        let is_it = inode.is_none_or(|inode| stamp.inode == inode)
            && is_about(report, entry.sequence)?
            && !is_input(config, look, &dir.path().join(&name), &stamp)?;
        if is_it {
            dir.unlink(&name)?;
        }
    }
    Ok(())
}

/// True for a report about this microbatch.
fn is_about(report: File, sequence: u64) -> anyhow::Result<bool> {
    let mut text = Vec::new();
    report.take(REPORT_BYTES).read_to_end(&mut text)?;
    let report: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    Ok(report.get("microbatch").and_then(serde_json::Value::as_u64) == Some(sequence))
}

/// Last of all: with its marker the file is complete.
fn put_marker_back(
    config: &Config,
    dir: &Dir,
    archived: &OsStr,
    folder: &Dir,
    name: &OsStr,
) -> anyhow::Result<()> {
    let Some(marker) = config.rules.marker_of(name) else { return Ok(()) };
    let end = archived.as_bytes().len().saturating_sub(name.as_bytes().len());
    let prefix = OsStr::from_bytes(archived.as_bytes().get(..end).unwrap_or_default());
    let mut kept = prefix.to_owned();
    kept.push(&marker);
    if dir.stat(&kept)?.is_none() || !dir.rename_no_replace(&kept, folder, &marker)? {
        // The one that came with it has another number behind its name, or is gone.
        if folder.stat(&marker)?.is_none() {
            folder.create_new(&marker)?;
        }
    } else if let Found::File(file, _) = input::open(folder, &marker) {
        // A file that was mended is newer than the marker that came with it.
        file.set_modified(std::time::SystemTime::now())?;
    }
    Ok(())
}

fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}
