//! `spoolmill batch`: the job over bounded inputs, without a ledger.
//!
//! What holds here: an output file is replaced as a whole when everything has been read, or not at
//! all. Inputs stay as they are.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;

use super::delivery::{Plain, quiet_if_reader_left};
use super::progress::Progress;
use super::{JobFile, signals};
use crate::config::Config;
use crate::daemon::job::{flow, tolerance};
use crate::decode::compression::Compression;
use crate::decode::frame::Framer;
use crate::durable::{self, Dir};
use crate::failure::Failure;
use crate::source::Source;
use crate::telemetry::{Pulse, escaped};
use crate::transform::command::Bounds;

#[derive(Debug, Args)]
pub struct Batch {
    #[command(flatten)]
    job: JobFile,
    /// Files, or folders of them; `-` is standard input. Without any, the job's drop folder
    inputs: Vec<PathBuf>,
    /// Replace this file with the output, in place of writing to standard output
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
}

impl Batch {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.job.read()?;
        config.check_program()?;
        let inputs = self.inputs(&config)?;
        let pulse = Pulse::default();
        let (wakes, _kept) = std::sync::mpsc::sync_channel(1);
        signals::forward(wakes, pulse.clone())?;
        let rejects = Replaced::rejects(&config)?;
        let Some(path) = &self.output else {
            let stdout = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
            let done = transform(&config, &inputs, stdout, rejects, &pulse);
            return quiet_if_reader_left(done.and_then(|(_, rejects)| rejects.finish()));
        };
        let output = Replaced::new(path)?;
        let (output, rejects) = transform(&config, &inputs, output, rejects, &pulse)?;
        // The output last: when it is there, everything is.
        rejects.finish()?;
        output.finish()
    }

    /// The inputs in order; those of a folder are the ones that the daemon would take.
    fn inputs(&self, config: &Config) -> anyhow::Result<Vec<PathBuf>> {
        let given = match (self.inputs.as_slice(), &config.directory) {
            ([], Some(directory)) => std::slice::from_ref(directory),
            ([], None) => anyhow::bail!("no input: name files, or set input.directory"),
            (inputs, _) => inputs,
        };
        let mut all = Vec::new();
        for path in given {
            if path.is_dir() {
                let names = Source::list(path, config.rules.clone())?;
                all.extend(names.into_iter().map(|name| path.join(Path::new(&name))));
            } else {
                all.push(path.clone());
            }
        }
        Ok(all)
    }
}

/// Runs all inputs through the job, one after the other.
fn transform<Output: Write + Send, Rejects: Write + Send>(
    config: &Config,
    inputs: &[PathBuf],
    output: Output,
    rejects: Rejects,
    pulse: &Pulse,
) -> anyhow::Result<(Output, Rejects)> {
    let size = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    let progress = Progress::new(inputs.iter().map(size).sum());
    let tolerance = tolerance(config);
    let (name, shown) = (Vec::new(), Some(progress.clone()));
    let mut delivery = Plain { output, rejects, tolerance, name, rejected: 0, progress: shown };
    for path in inputs {
        let name = path.file_name().unwrap_or(path.as_os_str()).as_encoded_bytes();
        delivery.name = name.to_vec();
        delivery.rejected = 0;
        let file = if path == Path::new("-") {
            File::from(std::io::stdin().as_fd().try_clone_to_owned()?)
        } else {
            File::open(path).with_context(|| format!("open {}", path.display()))?
        };
        let ended = transform_one(config, file, name, &mut delivery, &progress, pulse)
            .with_context(|| format!("process {}", escaped(path.as_os_str().as_encoded_bytes())))?;
        if ended {
            break;
        }
    }
    progress.finish();
    Ok((delivery.output, delivery.rejects))
}

fn transform_one<Output: Write + Send, Rejects: Write + Send>(
    config: &Config,
    file: File,
    name: &[u8],
    delivery: &mut Plain<Output, Rejects>,
    progress: &Arc<Progress>,
    pulse: &Pulse,
) -> anyhow::Result<bool> {
    let reader = Compression::of(name).decompress(progress.reading(file))?;
    let framer = Framer::bounded(reader, &config.framing, u64::MAX);
    let counts = flow(config, Bounds::Microbatch, pulse).run(framer, delivery);
    let counts = counts.and_then(|counts| delivery.check(&counts).map(|()| counts));
    let counts = counts.map_err(Failure::into_error)?;
    progress.add(counts.read, counts.rejected);
    Ok(counts.ended)
}

/// A file that takes the place of another when it is finished, and leaves no trace before.
struct Replaced {
    place: Option<Place>,
    /// A device or a pipe, which nothing can take the place of.
    through: Option<File>,
}

struct Place {
    dir: Dir,
    name: OsString,
    temporary: OsString,
    file: File,
    written: u64,
    /// Goes to the end of what is there in place of replacing it.
    appends: bool,
}

impl Replaced {
    fn new(path: &Path) -> anyhow::Result<Self> {
        // Behind a symbolic link it is the file that is replaced, not the link.
        let resolved = path.canonicalize();
        let path = resolved.as_deref().unwrap_or(path);
        let before = path.metadata().ok();
        anyhow::ensure!(!path.is_dir(), "the output {} is a folder", path.display());
        if before.as_ref().is_some_and(|before| !before.is_file()) {
            let file = File::options().write(true).open(path);
            let through = file.with_context(|| format!("open the output {}", path.display()))?;
            return Ok(Self { place: None, through: Some(through) });
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let dir = Dir::open(parent.unwrap_or(Path::new(".")))?;
        let name = path.file_name().context("the output has no file name")?.to_owned();
        let mut temporary = OsString::from(".");
        temporary.push(&name);
        temporary.push(format!(".{}.tmp", std::process::id()));
        dir.unlink(&temporary)?;
        let file = dir.create_new(&temporary)?;
        let place = Place { dir, name, temporary, file, written: 0, appends: false };
        let replaced = Self { place: Some(place), through: None };
        if let (Some(before), Some(place)) = (before, &replaced.place) {
            place.look_like(&before)?;
        }
        Ok(replaced)
    }

    /// Where the job says that rejects go. What the daemon has written there stays: the ledger
    /// counts on it.
    fn rejects(config: &Config) -> anyhow::Result<Self> {
        let Some(path) = &config.rejects else { return Ok(Self { place: None, through: None }) };
        durable::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        let mut replaced = Self::new(path)?;
        if let Some(place) = &mut replaced.place {
            place.appends = config.state.join("ledger.db").is_file();
        }
        Ok(replaced)
    }

    fn finish(mut self) -> anyhow::Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        let path = place.dir.path().join(&place.name);
        if place.appends {
            // Dropped, it takes the temporary file with it.
            return place.append(&path);
        }
        durable::sync_data(&place.file, &path, "batch output")?;
        place.dir.replace(&place.temporary, &place.name)?;
        place.dir.sync("batch output directory")?;
        self.place = None;
        Ok(())
    }
}

impl Place {
    /// Takes over owner and mode of the file that is to be replaced.
    fn look_like(&self, before: &std::fs::Metadata) -> anyhow::Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        // Only root may give a file away; the mode is then the narrower protection.
        let owner = (Some(before.uid()), Some(before.gid()));
        let _ = std::os::unix::fs::fchown(&self.file, owner.0, owner.1);
        self.file.set_permissions(before.permissions()).context("set the mode of the output")
    }

    /// Appends to a file that a daemon may also append to, under its lock.
    fn append(&self, path: &Path) -> anyhow::Result<()> {
        if self.written == 0 {
            return Ok(());
        }
        let lock = durable::lock(&crate::daemon::job::lock_of(path))?;
        anyhow::ensure!(
            lock.is_some(),
            "a daemon is writing to {}: stop it, or give this batch a job file with another \
             rejects.path",
            path.display()
        );
        let file = File::options().create(true).append(true).open(path)?;
        let mut new = self.dir.open_existing(&self.temporary)?;
        std::io::copy(&mut new, &mut &file)?;
        Ok(durable::sync_data(&file, path, "batch rejects")?)
    }
}

impl Write for Replaced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(through) = &mut self.through {
            return through.write(bytes);
        }
        let Some(place) = &mut self.place else {
            // Without an output file the job has no place for rejects but standard error.
            return std::io::stderr().write(bytes);
        };
        let path = place.dir.path().join(&place.temporary);
        durable::write_at(&place.file, &path, bytes, place.written)
            .map_err(std::io::Error::other)?;
        place.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            let name: &OsStr = &place.temporary;
            // It is hidden and no one's output; a failure to remove it harms nobody.
            let _ = place.dir.unlink(name);
        }
    }
}
