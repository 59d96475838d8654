//! `spoolmill batch`: the job over bounded inputs, without a ledger.
//!
//! Invariants: an output file is replaced as a whole when everything has been read, or not at
//! all. Inputs stay as they are.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;

use super::delivery::Plain;
use super::progress::Progress;
use super::standard::{self, Input, Output, quiet_if_reader_left};
use super::targets::Targets;
use super::{JobFile, Strict, signalled, signals};
use crate::clock::now_ms;
use crate::config::Config;
use crate::daemon::Aside;
use crate::daemon::job::{flow, tolerance};
use crate::decode::compression;
use crate::decode::frame::Framer;
use crate::durable;
use crate::encode::envelope::Envelope;
use crate::failure::Failure;
use crate::pipeline::flow::{Delivery as _, Flow, Origin};
use crate::pulse::Pulse;
use crate::queries::Queries;
use crate::sink::replaced::Replaced;
use crate::source::folder::FolderSource;
use crate::source::folder::stamp::Stamp;
use crate::telemetry::escaped;
use crate::transform::command::{About, Bounds};

#[derive(Debug, Args)]
pub struct Batch {
    #[command(flatten)]
    job: JobFile,
    /// Files, or folders of them; `-` is standard input. Without any, the job's drop folder
    inputs: Vec<PathBuf>,
    /// Replace this file with the output, instead of writing to standard output
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Exit with 3 when a group was left out of a view
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    targets: Targets,
}

impl Batch {
    pub fn run(self) -> anyhow::Result<()> {
        let mut config = self.job.read()?;
        if config.output.as_ref().is_some_and(|output| output.system().is_some())
            && self.output.is_none()
        {
            anyhow::bail!(
                "the output of the job is on another system: `run --once` delivers what is there, and \
                 `batch -o PATH` writes it to a file"
            );
        }
        let held = self.targets.apply(&mut config, self.output.as_ref())?;
        config.check_program()?;
        let pulse = Pulse::default();
        signals::stop_or_end_on_any(&pulse)?;
        let worked = self.work(&config, held.rejects.clone(), &pulse);
        let done = worked.and_then(|groups| {
            held.finish(&config)?;
            let aside = Aside { groups, ..Aside::default() };
            if self.strict && groups > 0 { Err(Strict(aside.to_string()).into()) } else { Ok(()) }
        });
        signalled(&pulse, done)
    }

    /// Returns how many groups were left out of views.
    fn work(&self, config: &Config, refused: Option<String>, pulse: &Pulse) -> anyhow::Result<u64> {
        let inputs = self.inputs(config, pulse)?;
        let queries = Queries::open(config, &std::env::temp_dir())?;
        let rejects = rejects(config, refused, pulse)?;
        let through = self.output.as_ref().filter(|path| {
            // A device or a pipe cannot be read back for a final.
            path.metadata().is_ok_and(|there| !there.is_file() && !there.is_dir())
        });
        let Some(path) = self.output.as_ref().filter(|_| through.is_none()) else {
            let stdout = match through {
                Some(path) => Output::open(path, pulse)
                    .with_context(|| format!("open the output {}", path.display()))?,
                None => Output::stdout(pulse)?,
            };
            let copy = queries.has_finals().then(unnamed).transpose()?;
            let goes_on = copy.is_some() || queries.has_views() || rejects.is_file();
            let output = Doubled { stdout, copy, goes_on };
            let done = transform(config, &queries, &inputs, output, rejects, pulse);
            let mut left_out = 0;
            let done = done.and_then(|(output, rejects, groups)| {
                left_out = groups;
                rejects.finish()?;
                output.finish(config, &queries, pulse)
            });
            return quiet_if_reader_left(done).map(|()| left_out);
        };
        let output = Replaced::new(path)?;
        let (output, rejects, left_out) =
            transform(config, &queries, &inputs, output, rejects, pulse)?;
        // The output last: when it is there, everything is.
        rejects.finish()?;
        output.finish()?;
        queries.finish(config, path, pulse)?;
        Ok(left_out)
    }

    /// The inputs in order; those of a folder are the ones that `run --once` would take.
    fn inputs(&self, config: &Config, pulse: &Pulse) -> anyhow::Result<Vec<Given>> {
        let given = match (self.inputs.as_slice(), &config.directory) {
            ([], Some(directory)) => std::slice::from_ref(directory),
            ([], None) => anyhow::bail!("no input: name files, or set input.directory"),
            (inputs, _) => inputs,
        };
        let mut all = Vec::new();
        for path in given {
            if !path.is_dir() {
                let name = path.file_name().unwrap_or(path.as_os_str()).into();
                all.push(Given { path: path.clone(), name, stamp: None });
                continue;
            }
            let (rules, goes_on) = (config.rules.clone(), || !pulse.must_stop());
            let (names, left) = FolderSource::complete(path, rules, compression::plain, goes_on)?;
            if left > 0 {
                let folder = escaped(path.as_os_str().as_encoded_bytes());
                tracing::warn!(
                    folder,
                    files = left,
                    "some files are not complete, and are not taken"
                );
            }
            all.extend(names.into_iter().map(|(name, stamp)| {
                let path = path.join(Path::new(&name));
                Given { path, name, stamp: Some(stamp) }
            }));
        }
        Ok(all)
    }
}

/// One input.
struct Given {
    path: PathBuf,
    /// Its name; relative to its folder, where one was given.
    name: Box<OsStr>,
    /// Its stamp when it was found complete.
    stamp: Option<Stamp>,
}

impl Given {
    /// Opens it. A file that the job's rule does not hold for is not whole.
    fn open(&self, config: &Config, pulse: &Pulse) -> anyhow::Result<Input> {
        let path = self.path.as_path();
        let input = Input::open(path, pulse).with_context(|| format!("open {}", path.display()))?;
        standard::refuse_own_output(&[(input.file(), path)])?;
        self.check(input.file())?;
        let metadata = input.file().metadata()?;
        if path == Path::new("-") || !metadata.is_file() {
            return Ok(input);
        }
        anyhow::ensure!(
            metadata.len() > 0 || !tolerance(config).refuse_empty,
            "the file is empty (`input.empty`)"
        );
        // One of a folder was judged with the others there.
        anyhow::ensure!(
            self.stamp.is_some()
                || FolderSource::is_whole(&config.rules, path, input.file(), compression::plain)?,
            "the file is not complete by the rule of the job (`input.complete`)"
        );
        Ok(input)
    }
}

impl Given {
    /// Checks that the file has not changed since it was found complete.
    fn check(&self, file: &File) -> anyhow::Result<()> {
        let is_same =
            self.stamp.is_none_or(|stamp| Stamp::of_file(file).is_ok_and(|now| now == stamp));
        anyhow::ensure!(is_same, "the file has changed since it was complete");
        Ok(())
    }
}

/// Standard output, and a copy of it where something is made of the whole output.
struct Doubled {
    stdout: Output,
    copy: Option<File>,
    /// Something else is to be made besides, whether or not the output is read to its end.
    goes_on: bool,
}

impl Doubled {
    fn finish(self, config: &Config, queries: &Queries, pulse: &Pulse) -> anyhow::Result<()> {
        let Some(copy) = self.copy else { return Ok(()) };
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        queries.finish(config, Path::new(&path), pulse)
    }
}

impl Write for Doubled {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let wrote = match self.stdout.write(bytes) {
            Err(error) if self.goes_on && error.kind() == std::io::ErrorKind::BrokenPipe => {
                bytes.len()
            }
            wrote => wrote?,
        };
        if let Some(copy) = &mut self.copy {
            copy.write_all(bytes.get(..wrote).unwrap_or_default())?;
        }
        Ok(wrote)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stdout.flush()
    }
}

/// A temporary file without a name: it is gone with its descriptor.
fn unnamed() -> anyhow::Result<File> {
    use rustix::fs::{CWD, Mode, OFlags};
    let folder = std::env::temp_dir();
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, &folder, flags, Mode::RUSR | Mode::WUSR);
    Ok(fd.with_context(|| format!("make a temporary file in {}", folder.display()))?.into())
}

/// The file, or what a pipe gives, in a file.
fn seekable(mut input: Input) -> anyhow::Result<File> {
    if input.file().metadata()?.is_file() {
        return Ok(input.file().try_clone()?);
    }
    let mut copy = unnamed()?;
    std::io::copy(&mut input, &mut copy).context("read the input")?;
    Ok(copy)
}

/// Where the rejects go: a file, or standard error.
enum Rejects {
    File(Replaced),
    Stderr(Output),
}

impl Rejects {
    fn is_file(&self) -> bool {
        matches!(self, Self::File(file) if file.is_made())
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::File(file) => file.finish(),
            Self::Stderr(_) => Ok(()),
        }
    }
}

impl Write for Rejects {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Stderr(stderr) => stderr.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Where the rejects go: to standard error in the end.
fn rejects(config: &Config, refused: Option<String>, pulse: &Pulse) -> anyhow::Result<Rejects> {
    if let Some(reason) = refused {
        return Ok(Rejects::File(Replaced::refused(reason)));
    }
    let Some(path) = &config.rejects else { return Ok(Rejects::Stderr(Output::stderr(pulse)?)) };
    durable::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    Ok(Rejects::File(Replaced::new(path)?))
}

/// Runs all inputs through the job, one after the other. Returns how many groups were left out of views.
fn transform<Records: Write + Send>(
    config: &Config,
    queries: &Queries,
    inputs: &[Given],
    output: Records,
    rejects: Rejects,
    pulse: &Pulse,
) -> anyhow::Result<(Records, Rejects, u64)> {
    let size = |given: &Given| given.path.metadata().map_or(0, |metadata| metadata.len());
    let progress = Progress::new(inputs.iter().map(size).sum());
    let tolerance = tolerance(config);
    let name = Vec::new();
    let shown = Some(progress.clone());
    let format = config.written.output.format;
    let mut delivery = Plain {
        tap: queries.tap(queries.judge()),
        envelope: Envelope::new(format),
        output,
        rejects,
        tolerance,
        name,
        rejected: 0,
        progress: shown,
    };
    if let Some(schema) = queries.output() {
        delivery.begin(&schema).map_err(Failure::into_error)?;
    }
    for given in inputs {
        let path = given.path.as_path();
        let name = given.name.as_encoded_bytes();
        delivery.name = name.to_vec();
        delivery.rejected = 0;
        let opened = given.open(config, pulse).and_then(|input| {
            let kept = input.file().try_clone()?;
            Ok((input, path, kept))
        });
        let ended = opened
            .and_then(|(input, path, kept)| {
                let file = (input, path);
                let ended =
                    transform_one(config, queries, file, name, &mut delivery, &progress, pulse)?;
                given.check(&kept).map(|()| ended)
            })
            .with_context(|| format!("process {}", escaped(path.as_os_str().as_encoded_bytes())))?;
        if ended {
            break;
        }
    }
    delivery.end().map_err(Failure::into_error)?;
    progress.finish();
    let tapped = delivery.tap.finish().map_err(Failure::into_error)?;
    let left_out = queries.finish_views(&tapped.deltas)?;
    Ok((delivery.output, delivery.rejects, left_out))
}

fn transform_one<Records: Write + Send>(
    config: &Config,
    queries: &Queries,
    (input, path): (Input, &Path),
    name: &[u8],
    delivery: &mut Plain<Records, Rejects>,
    progress: &Arc<Progress>,
    pulse: &Pulse,
) -> anyhow::Result<bool> {
    let format = &config.written.input.format;
    let blocks = if format.needs_file() {
        let file = seekable(input)?;
        format.open(&file, file.metadata()?.len())?.context("a format lost its file")?
    } else {
        let compression = config.written.input.compression;
        let any = flow(config, queries, Bounds::Microbatch, pulse).passes_bytes();
        let name = OsStr::from_bytes(name);
        let reader = compression.read(name, progress.reading(input), any)?;
        Framer::bounded(reader, &config.framing, u64::MAX).into()
    };
    let file = String::from_utf8_lossy(name);
    let about = About { file: OsStr::from_bytes(name), path, microbatch: None };
    let origin = Origin { file: &file, now_ms: now_ms(), about };
    let judge = queries.judge();
    let plain = flow(config, queries, Bounds::Microbatch, pulse);
    let flow = Flow { judge: judge.as_deref(), ..plain };
    let ran = flow.run(blocks, origin, delivery);
    let passed = ran
        .and_then(|passed| delivery.check(&passed).map(|()| passed))
        .map_err(Failure::into_error)?;
    progress.add(passed.counts.read, passed.counts.rejected);
    Ok(passed.ended)
}
