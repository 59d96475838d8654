//! `spoolmill requeue`: a file that was set aside goes back into the drop folder, or one that was
//! processed is taken again.
//!
//! What holds here: the note that says which microbatch is repeated is durable before the file moves,
//! and no file is replaced. It may be repeated after a crash.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::JobFile;
use crate::config::Config;
use crate::durable::Dir;
use crate::ledger::{Entry, Look, Outcome};
use crate::source::archive::REPORT_SUFFIX;
use crate::source::input::{Stamp, is_regular};
use crate::source::requeued::Requeued;
use crate::status::explain::archived_as;
use crate::telemetry::escaped;

#[derive(Debug, Args)]
pub struct Requeue {
    #[command(flatten)]
    job: JobFile,
    /// A failed-* file, or with --again a processed one
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Take a file again that was processed: its records come into the output a second time
    #[arg(long)]
    again: bool,
}

impl Requeue {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.job.read()?;
        let look = Look::open(&config.state)?;
        for file in &self.files {
            let shown = || format!("requeue {}", escaped(file.as_os_str().as_bytes()));
            let entry = requeue(&config, &look, file, self.again).with_context(shown)?;
            let name = escaped(entry.name.as_bytes());
            let sequence = entry.sequence;
            tracing::info!(file = name, microbatch = sequence, "is back in the drop folder");
        }
        Ok(())
    }
}

/// Puts one file back; returns the microbatch that is to be repeated.
fn requeue(config: &Config, look: &Look, file: &Path, again: bool) -> anyhow::Result<Entry> {
    let dir = Dir::open(file.parent().unwrap_or(Path::new(".")))?;
    let archived = file.file_name().unwrap_or_default();
    let stat = dir.stat(archived)?.filter(is_regular);
    let stamp = Stamp::of(&stat.context("there is no such file")?);
    let entry = archived_as(config, look, file, &stamp)?;
    let entry =
        entry.context("the ledger knows no microbatch that has archived it under this name")?;
    let sequence = entry.sequence;
    anyhow::ensure!(
        again || entry.outcome() == Outcome::Quarantined,
        "it was processed as microbatch {sequence}: its records are in the output; with --again they \
         come into it a second time"
    );
    let drop_folder = config.directory.as_deref().context("the job has no `input.directory`")?;
    let home = drop_folder.join(&entry.name);
    let folder = Dir::open(home.parent().unwrap_or(drop_folder))?;
    let name = home.file_name().unwrap_or_default();
    anyhow::ensure!(
        folder.stat(name)?.is_none(),
        "another file has come as {}: wait until it is taken, or move it away",
        escaped(entry.name.as_bytes())
    );
    Requeued::of_state(&config.state).note(&stamp, sequence)?;
    if entry.outcome() == Outcome::Quarantined {
        // The next report of this name tells of another microbatch.
        dir.unlink(&with_suffix(archived, REPORT_SUFFIX))?;
    }
    anyhow::ensure!(dir.rename_no_replace(archived, &folder, name)?, "another file has just come");
    put_marker_back(config, &dir, archived, &folder, name)?;
    folder.sync("input directory")?;
    dir.sync("archive directory")?;
    Ok(entry)
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
    let prefix = archived.as_bytes().len().saturating_sub(name.as_bytes().len());
    let prefix = OsStr::from_bytes(archived.as_bytes().get(..prefix).unwrap_or_default());
    let mut kept = prefix.to_owned();
    kept.push(&marker);
    if dir.stat(&kept)?.is_none() || !dir.rename_no_replace(&kept, folder, &marker)? {
        // The one that came with it has another number behind its name, or is gone.
        if folder.stat(&marker)?.is_none() {
            folder.create_new(&marker)?;
        }
    }
    Ok(())
}

fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}
