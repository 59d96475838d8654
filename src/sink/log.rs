//! A remote target for the tests: a log of transactions, in a file that stands for another system.
//!
//! Invariants: a transaction is one line, and counts when it has its end. Opening the log raises the epoch, and
//! an earlier process is refused from then on. It says no to a record that begins with
//! `666`, and does not answer while a file with the suffix `.away` stands beside it.
//!
//! Out of scope: use. Only a build with debug assertions has it, when `SPOOLMILL_SINK=log` says so.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::remote::{Fix, NotPublished, Opening, Remote};
use crate::durable::Dir;
use crate::durable::fault::{self, Act, Operation, Verdict};
use crate::failure::{Failure, Result};
use crate::microbatch::{Addition, Confirmed, Held, Instance, Mark, Owed, Payload, Refusal};

/// Records of one transaction.
const RECORDS: usize = 25_000;

/// One line of the log.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Line {
    /// Counts up with each open.
    epoch: u64,
    /// Whose mark it is.
    id: [u8; 16],
    instance: [u8; 16],
    microbatch: u64,
    record: u64,
    /// Each with its target, and its number there, which the commit has fixed.
    records: Vec<(i64, u64, String)>,
}

/// The log at a path.
pub struct LogSink {
    path: PathBuf,
    id: [u8; 16],
    epoch: u64,
    staging: Arc<Dir>,
}

/// Why nothing was appended.
enum Failed {
    Io(io::Error),
    Refused(Vec<Refusal>),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl LogSink {
    /// The log at `path`, in which this job is called `id`; staged files wait in `staging`.
    pub fn new(path: &Path, id: [u8; 16], staging: Arc<Dir>) -> Self {
        Self { path: path.to_owned(), id, epoch: 0, staging }
    }

    /// The log, for this process alone.
    fn connect(&self) -> io::Result<File> {
        let mut away = self.path.clone().into_os_string();
        away.push(".away");
        if Path::new(&away).symlink_metadata().is_ok() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let file = File::options().read(true).append(true).create(true).open(&self.path)?;
        file.lock()?;
        Ok(file)
    }

    /// A transaction that a crash has cut never happened.
    fn roll_back(&self, file: &File) -> io::Result<()> {
        let bytes = std::fs::read(&self.path)?;
        let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |end| end + 1);
        if whole < bytes.len() { file.set_len(whole as u64) } else { Ok(()) }
    }

    /// The last epoch, and the last mark of this job.
    fn look(&self, mut file: &File) -> io::Result<(u64, Option<Held>)> {
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let mut last = (0, None);
        for line in text.lines() {
            let line: Line = serde_json::from_str(line)?;
            last.0 = line.epoch;
            if line.id == self.id && line.microbatch > 0 {
                let mark = Mark { microbatch: line.microbatch, record: line.record };
                last.1 = Some(Held { mark, instance: Instance(line.instance) });
            }
        }
        Ok(last)
    }

    /// Sends a line, and waits for the answer.
    fn append(&self, mut file: &File, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let at = file.metadata()?.len();
        let site = if line.microbatch > 0 { "deliver" } else { "fence" };
        let verdict = fault::before(Operation::Send, site, || Act::Remote(&self.path, at, &bytes))?;
        if verdict != Verdict::Skip {
            file.write_all(&bytes)?;
        }
        fault::before(Operation::Send, "answer", || Act::Remote(&self.path, at, &[]))?;
        Ok(())
    }

    fn transact(
        &self,
        owed: &[Owed<'_>],
        from: Mark,
        instance: Instance,
    ) -> std::result::Result<Mark, Failed> {
        let file = self.connect()?;
        let (epoch, held) = self.look(&file)?;
        if epoch != self.epoch {
            return Err(io::Error::other("another process has opened the target").into());
        }
        if held.map_or(Mark::default(), |held| held.mark) != from {
            return Err(io::Error::other("the mark has moved").into());
        }
        let mut records = Vec::new();
        let mut refusals = Vec::new();
        let mut next = Mark { record: 0, ..from };
        for span in owed {
            if span.sequence > next.microbatch {
                next = Mark { microbatch: span.sequence, record: 0 };
            }
            let target = span.addition.target;
            let first = u64::from_be_bytes(*span.addition.fixed.first_chunk().unwrap_or(&[0; 8]));
            for (line, number) in lines(&bytes(&self.staging, span.addition)?).zip(0..) {
                let mark = next;
                next.record += 1;
                if mark < from || span.addition.refused.contains(&number) {
                    continue;
                }
                if line.starts_with(b"666") {
                    refusals.push(refusal(span, number, line));
                } else if records.len() == RECORDS && refusals.is_empty() {
                    self.append(&file, &self.line(mark, instance, records))?;
                    return Ok(mark);
                } else {
                    let text = String::from_utf8_lossy(line).into_owned();
                    records.push((target.0, first + number, text));
                }
            }
        }
        if !refusals.is_empty() {
            return Err(Failed::Refused(refusals));
        }
        let mark = Mark::after(next.microbatch);
        self.append(&file, &self.line(mark, instance, records))?;
        Ok(mark)
    }

    fn line(&self, mark: Mark, instance: Instance, records: Vec<(i64, u64, String)>) -> Line {
        let Mark { microbatch, record } = mark;
        Line { epoch: self.epoch, id: self.id, instance: instance.0, microbatch, record, records }
    }
}

/// The bytes of an addition, wherever they wait.
fn bytes(staging: &Dir, addition: &Addition) -> io::Result<Vec<u8>> {
    match &addition.payload {
        Payload::Memory(bytes) => Ok(without_header(bytes, addition)),
        Payload::File(name) => {
            Ok(without_header(&std::fs::read(staging.path().join(name))?, addition))
        }
    }
}

fn without_header(bytes: &[u8], addition: &Addition) -> Vec<u8> {
    let skip = usize::try_from(addition.skip).unwrap_or(usize::MAX);
    bytes.get(skip..).unwrap_or_default().to_vec()
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end)
}

fn refusal(span: &Owed<'_>, record: u64, line: &[u8]) -> Refusal {
    Refusal {
        sequence: span.sequence,
        target: span.addition.target,
        record,
        reason: "it says so".to_owned(),
        raw: line.to_vec(),
    }
}

impl Remote for LogSink {
    fn open(&mut self, _known: &Opening<'_>) -> Result<Option<Confirmed>> {
        let open = || -> io::Result<(u64, Option<Held>)> {
            let file = self.connect()?;
            self.roll_back(&file)?;
            let (epoch, held) = self.look(&file)?;
            let line = Line { epoch: epoch + 1, id: self.id, ..Line::default() };
            self.append(&file, &line)?;
            Ok((epoch + 1, held))
        };
        let (epoch, held) = open().map_err(|error| Failure::Transient(error.into()))?;
        self.epoch = epoch;
        Ok(held.map(|held| Confirmed { held, notes: Vec::new() }))
    }

    fn publish(
        &mut self,
        owed: &[Owed<'_>],
        from: Mark,
        instance: Instance,
    ) -> std::result::Result<(Mark, Vec<u8>), NotPublished> {
        let published = self.transact(owed, from, instance);
        let confirmed = |mark: Mark| {
            let is_wrong = fault::mutant("confirm-too-much");
            (if is_wrong { Mark::after(mark.microbatch) } else { mark }, Vec::new())
        };
        published.map(confirmed).map_err(|failed| match failed {
            Failed::Io(error) => NotPublished::Unknown(error.into()),
            Failed::Refused(refusals) => NotPublished::Refused(refusals),
        })
    }

    /// The number of the first record, and how many there are.
    fn fix(&self) -> Option<Fix> {
        let staging = self.staging.clone();
        Some(Box::new(move |fixing| {
            let number =
                |at: usize| fixing.before.get(at..at + 8).and_then(|of| of.try_into().ok());
            let [first, count] = [0, 8].map(|at| number(at).map_or(0, u64::from_be_bytes));
            let read = bytes(&staging, fixing.addition);
            let bytes = read.map_err(|error| Failure::Transient(error.into()))?;
            let records = lines(&bytes).count() as u64;
            Ok([(first + count).to_be_bytes(), records.to_be_bytes()].concat())
        }))
    }
}
