//! The configuration as it is used: read, checked, every path absolute, every value possible.
//!
//! Invariants: an error names the file, the line, the key, what was found and what is allowed.
//! [`Config::read`] looks at the text alone; [`Config::check_surroundings`] looks at the machine.

mod cgroup;
mod executable;
pub mod file;
mod input;
mod kafka;
pub mod kinds;
mod locate;
mod paths;
mod rotation;
mod surroundings;
mod words;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::decode::frame::Framing;
use crate::decode::quotes::BLOCK_MAX;
use crate::encode;
use crate::sink::Destination;
use crate::source::folder::archive::Action;
use crate::source::folder::rules::Rules;
use input::{check_pattern, framing, rules};
use paths::{check_paths, normal, resolved};

/// Least value of `engine.memory`, in bytes: room for the longest record and a few blocks.
const MEMORY_MIN: u64 = 32 << 20;

/// An error in a configuration file.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {message}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct Error {
    file: PathBuf,
    line: Option<usize>,
    message: String,
    passes: bool,
}

impl Error {
    /// True when nothing has to be changed in the job: what it needs may come back.
    pub fn passes(&self) -> bool {
        self.passes
    }

    /// The same for who only wants to know whether a start would succeed now.
    #[must_use]
    pub fn found_now(self) -> Self {
        Self { passes: false, ..self }
    }
}

/// A value that cannot be used: its key, and what is wrong with it.
#[derive(Debug)]
pub struct Problem {
    key: &'static str,
    /// Which of several tables of this name, from 0.
    place: usize,
    message: String,
    passes: bool,
}

impl Problem {
    /// A problem with this key.
    pub fn new(key: &'static str, message: impl Into<String>) -> Self {
        Self { key, place: 0, message: message.into(), passes: false }
    }

    /// The same, where the cause is not in the job and may pass.
    #[must_use]
    pub fn passing(self, passes: bool) -> Self {
        Self { passes, ..self }
    }

    /// The same in another one of several tables, counted from 0.
    #[must_use]
    pub fn at(self, place: usize) -> Self {
        Self { place, ..self }
    }
}

/// A job, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The job file.
    pub file: PathBuf,
    /// The directory that relative paths start from.
    pub base: PathBuf,
    /// The drop folder; `run` needs one.
    pub directory: Option<PathBuf>,
    /// The rules of the drop folder.
    pub rules: Rules,
    /// Framing of the input.
    pub framing: Framing,
    /// The output file; `run` needs one.
    pub output: Option<Destination>,
    /// The rejects file; there is one when there is an output.
    pub rejects: Option<PathBuf>,
    /// The directory of the ledger.
    pub state: PathBuf,
    /// Threads that do the work.
    pub workers: usize,
    /// Everything else as it was written.
    pub written: file::File,
    text: String,
}

impl Config {
    /// Reads and checks the job file at `path`, without looking at anything else.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let failed =
            |message: String| Error { file: path.to_owned(), line: None, message, passes: false };
        let text = std::fs::read_to_string(path)
            .map_err(|error| failed(format!("cannot be read: {error}")))?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let base = std::path::absolute(directory.unwrap_or(Path::new(".")))
            .map_err(|error| failed(format!("has no absolute path: {error}")))?;
        Self::parse(&text, path, base)
    }

    /// Checks the text of a job file whose relative paths start from `base`.
    pub fn parse(text: &str, path: &Path, base: PathBuf) -> Result<Self, Error> {
        let written: file::File = toml::from_str(text).map_err(|error| {
            let span = error.span();
            let offset = span.as_ref().map(|span| span.start);
            let key = offset.and_then(|offset| locate::key_at(text, offset));
            let hint = kinds::hint(error.message());
            let message = words::explain(text, key.as_deref(), span.as_ref(), error.message());
            let key = key.map(|key| format!("{key}: ")).unwrap_or_default();
            Error {
                file: path.to_owned(),
                line: offset.map(|offset| locate::line_at(text, offset)),
                message: format!("{key}{message}{hint}"),
                passes: false,
            }
        })?;
        Self::checked(written, text, path, base).map_err(|problem| explain(&problem, text, path))
    }

    fn checked(
        mut written: file::File,
        text: &str,
        path: &Path,
        base: PathBuf,
    ) -> Result<Self, Problem> {
        let half = cgroup::memory_limit().map_or(u64::MAX, |limit| (limit / 2).max(MEMORY_MIN));
        written.engine.memory.0 = written.engine.memory.0.min(half);
        kinds::check(&written)?;
        check_pattern(&written.input)?;
        rotation::check(&written)?;
        check_limits(&written)?;
        check_paths(&written)?;
        let absolute = |path: &PathBuf| normal(&base.join(path));
        let workers = written.engine.workers.unwrap_or_else(cores);
        kafka::check(&written)?;
        if written.output.kafka.is_some() {
            written.output.format = written.output.format.without_header();
        }
        let topic = written.output.kafka.as_ref().map(|output| output.topic.clone());
        let place = written.output.path.as_ref().map(absolute);
        let file = place.map(|path| destination(written.output.format, path));
        let output = file.or(topic.map(Destination::Kafka));
        let config = Self {
            directory: written.input.directory.as_ref().map(absolute),
            rules: rules(&written.input)?,
            framing: framing(&written, workers)?,
            rejects: written.rejects.path.as_ref().map(absolute).or_else(|| {
                let beside_it = |path| beside(path, ".rejects.jsonl");
                output.as_ref().and_then(Destination::path).map(beside_it)
            }),
            output,
            state: state_directory(&written, path, &base),
            workers,
            file: path.to_owned(),
            base,
            written,
            text: text.to_owned(),
        };
        config.check_places()?;
        if config.output.is_some() && config.written.event_time.is_some() && config.late().is_none()
        {
            let message = "is missing: expected a file, since the output is none";
            return Err(Problem::new("event_time.late", message));
        }
        Ok(config)
    }

    /// The places must not be inside each other: what spoolmill writes must never be its input.
    fn check_places(&self) -> Result<(), Problem> {
        let output = self.output_path();
        if output.is_some() && output == self.rejects.as_deref() {
            return Err(Problem::new("rejects.path", "is the same file as `output.path`"));
        }
        if self.late().is_some_and(|late| [output, self.rejects.as_deref()].contains(&Some(&late)))
        {
            let message = "is the same file as `output.path` or `rejects.path`";
            return Err(Problem::new("event_time.late", message));
        }
        self.check_own_files()?;
        let Some(directory) = &self.directory else { return Ok(()) };
        let archive = self.archive();
        let results = self.results();
        let places = [
            ("output.path", output),
            ("rejects.path", self.rejects.as_deref()),
            ("state.directory", Some(self.state.as_path())),
            ("done.action", archive.as_deref()),
        ];
        let results = results.iter().map(|(key, place)| (*key, Some(place.as_path())));
        for (key, place) in places.into_iter().chain(results) {
            let inside = |place: &&Path| resolved(place).starts_with(resolved(directory));
            if let Some(place) = place.filter(inside) {
                return Err(Problem::new(
                    key,
                    format!(
                        "found \"{}\", which is inside `input.directory` (\"{}\"); expected a place \
                     outside it",
                        place.display(),
                        directory.display()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Checks that no output is a file that the job itself is made of.
    fn check_own_files(&self) -> Result<(), Problem> {
        let mut own = vec![std::path::absolute(&self.file).unwrap_or_default()];
        let state = ["ledger.db", "ledger.db-wal", "ledger.db-shm", "lock", "staging", "spill"];
        own.extend(state.map(|name| self.state.join(name)));
        let mut written = vec![
            ("output.path", self.output_path().map(Path::to_owned)),
            ("rejects.path", self.rejects.clone()),
            ("event_time.late", self.late()),
        ];
        own.extend(self.written.table.iter().map(|table| self.absolute(&table.path)));
        let views = self.written.view.iter().map(|view| ("view.path", &view.path));
        let finals = self.written.finals.iter().map(|made| ("final.path", &made.path));
        let results = views.chain(finals);
        written.extend(results.map(|(key, path)| (key, Some(self.absolute(path)))));
        let own: Vec<_> = own.iter().map(|path| resolved(path)).collect();
        for (key, path) in written {
            let Some(path) = path else { continue };
            if own.iter().any(|own| resolved(&path).starts_with(own)) {
                let place = path.display();
                let message = format!(
                    "found \"{place}\", which the job itself needs: expected another place"
                );
                return Err(Problem::new(key, message));
            }
        }
        Ok(())
    }

    /// The path as the job means it.
    pub fn absolute(&self, path: &Path) -> PathBuf {
        normal(&self.base.join(path))
    }

    /// The absolute path of the job file.
    pub fn job_file(&self) -> PathBuf {
        self.base.join(self.file.file_name().unwrap_or_default())
    }

    /// The name of the job: that of its file.
    pub fn name(&self) -> String {
        self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The names of the views.
    pub fn view_names(&self) -> impl Iterator<Item = &str> {
        self.written.view.iter().map(|view| view.name.as_str())
    }

    /// The path of the output.
    pub fn output_path(&self) -> Option<&Path> {
        self.output.as_ref().and_then(Destination::path)
    }

    /// Every file that the job writes, views and late records included.
    pub fn outputs(&self) -> Vec<PathBuf> {
        let output = self.output_path().map(Path::to_owned);
        let mut all: Vec<_> = output.into_iter().chain(self.rejects.clone()).collect();
        all.extend(self.late());
        all.extend(self.written.view.iter().map(|view| self.absolute(&view.path)));
        all
    }

    /// Everything written besides the output, each with its key: late records, views, finals.
    fn results(&self) -> Vec<(&'static str, PathBuf)> {
        let late = self.late().map(|late| ("event_time.late", late));
        let mut all: Vec<_> = late.into_iter().collect();
        let finals = self.written.finals.iter().map(|made| ("final.path", &made.path));
        let views = self.written.view.iter().map(|view| ("view.path", &view.path));
        all.extend(finals.chain(views).map(|(key, path)| (key, self.absolute(path))));
        all
    }

    /// Where the job serves HTTP, written in one way for each place; empty for nowhere.
    pub fn listens(&self) -> String {
        match &self.written.http.listen {
            None => String::new(),
            Some(file::Listen::Tcp(address)) => address.to_string(),
            Some(file::Listen::Unix(path)) => self.absolute(path).display().to_string(),
        }
    }

    /// Where late records go; nowhere when the job has no event time.
    pub fn late(&self) -> Option<PathBuf> {
        let given = self.written.event_time.as_ref()?.late.as_ref();
        let beside_it = || self.output_path().map(|path| beside(path, ".late.jsonl"));
        given.map(|path| self.absolute(path)).or_else(beside_it)
    }

    /// Where done inputs are moved, if they are.
    pub fn archive(&self) -> Option<PathBuf> {
        match &self.written.done.action {
            Action::Move(path) => Some(normal(&self.base.join(path))),
            Action::Rename | Action::Delete => None,
        }
    }

    /// The job as it was understood, every path absolute and every default written out.
    pub fn as_understood(&self) -> String {
        let mut written = self.written.clone();
        written.input.directory.clone_from(&self.directory);
        written.output.path = self.output_path().map(Path::to_owned);
        written.rejects.path.clone_from(&self.rejects);
        written.state.directory = Some(self.state.clone());
        written.engine.workers = Some(self.workers);
        if let Some(archive) = self.archive() {
            written.done.action = Action::Move(archive);
        }
        if let Some(event_time) = &mut written.event_time {
            event_time.late = self.late();
        }
        toml::to_string(&written).unwrap_or_else(|error| format!("# cannot be printed: {error}\n"))
    }

    /// An error about one key of this job.
    pub fn problem(&self, problem: &Problem) -> Error {
        explain(problem, &self.text, &self.file)
    }
}

/// Where records in a format go: a columnar file is whole, and cannot be appended to.
fn destination(format: encode::Format, path: PathBuf) -> Destination {
    #[cfg(debug_assertions)]
    if crate::durable::fault::is_replaced("SPOOLMILL_SINK", "log") {
        return Destination::Log(path);
    }
    if format.is_columnar() { Destination::Folder(path) } else { Destination::File(path) }
}

/// The path with a suffix.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn explain(problem: &Problem, text: &str, path: &Path) -> Error {
    Error {
        file: path.to_owned(),
        line: locate::line_of(text, problem.key, problem.place),
        message: format!("{}: {}", problem.key, problem.message),
        passes: problem.passes,
    }
}

fn check_limits(written: &file::File) -> Result<(), Problem> {
    if written.done.keep.is_some() && !matches!(written.done.action, Action::Move(_)) {
        let message =
            "found without `action = { move = \"archive/\" }`: only what was moved is pruned";
        return Err(Problem::new("done.keep", message));
    }
    let at_least_one = [
        ("engine.workers", written.engine.workers == Some(0)),
        ("engine.files_per_commit", written.engine.files_per_commit == 0),
        ("input.max_record", written.input.max_record.0 == 0),
        ("output.max_owed", written.output.max_owed.0 == 0),
        ("input.complete.lines", written.input.complete == Some(file::Complete::Lines(0))),
    ];
    if let Some((key, _)) = at_least_one.into_iter().find(|(_, zero)| *zero) {
        return Err(Problem::new(key, "found 0, expected 1 or more"));
    }
    if written.input.rescan.0.is_zero() {
        return Err(Problem::new("input.rescan", "found \"0s\", expected a longer time"));
    }
    let memory = written.engine.memory;
    if memory.0 < MEMORY_MIN || memory.0 / 2 < written.input.max_record.0 {
        let message = "is too small: expected \"32MiB\" or more, and twice `input.max_record`";
        return Err(Problem::new("engine.memory", message));
    }
    let max = written.input.max_record;
    if written.input.format.dialect().is_some() && max.0 > BLOCK_MAX as u64 / 2 {
        let message = format!("found {} bytes, expected at most \"511MiB\" for csv", max.0);
        return Err(Problem::new("input.max_record", message));
    }
    match written.rejects.max_bad_ratio {
        Some(ratio) if !(0.0..=1.0).contains(&ratio) => {
            let message = format!("found {ratio}, expected a number from 0 to 1");
            Err(Problem::new("rejects.max_bad_ratio", message))
        }
        _ => Ok(()),
    }
}

/// Where the jobs of the systemd unit are.
const SERVICE_JOBS: &str = "/etc/spoolmill";

/// Where the unit keeps their state, each in a folder of its name.
const SERVICE_STATES: &str = "/var/lib/spoolmill";

/// `state.directory`; without it what systemd gives as `StateDirectory=`, which whoever asks for the
/// status of such a job is not given; without that a folder beside the job file.
fn state_directory(written: &file::File, path: &Path, base: &Path) -> PathBuf {
    if let Some(directory) = &written.state.directory {
        return normal(&base.join(directory));
    }
    // systemd gives several as `one:two` (systemd.exec(5)): the first is the one that is named first.
    let given = std::env::var_os("STATE_DIRECTORY").map(|given| {
        let first = given.as_bytes().split(|byte| *byte == b':').next();
        OsStr::from_bytes(first.unwrap_or_default()).to_owned()
    });
    let given = given.filter(|given| !given.is_empty());
    given.map_or_else(|| without_service(path, base), PathBuf::from)
}

fn without_service(path: &Path, base: &Path) -> PathBuf {
    match path.file_stem() {
        Some(name) if base == Path::new(SERVICE_JOBS) => Path::new(SERVICE_STATES).join(name),
        _ => base.join(path.with_extension("state").file_name().unwrap_or_default()),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests;
