//! A source of partitions, for the tests: each file in the drop folder is one, and each of its lines a message.
//!
//! Invariants: the position of a message is the number of lines before it. Where to go on is told by the ledger
//! when the source is opened; acknowledgements are appended to a file, and never read.
//!
//! Out of scope: use. Only a build with debug assertions has it, when `SPOOLMILL_SOURCE=log` says so.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{
    Acknowledge, Acknowledged, Backlog, Body, Debt, Input, Key, Messages, Progress, Source, Why,
};
use crate::durable::fault::{self, Act, Operation, Verdict};
use crate::failure::{Failure, Result};

/// Messages that one input takes from one partition.
const MESSAGES: usize = 5_000;

/// How long an input is put off, and how long an acknowledgement that failed is left alone.
const PAUSE: Duration = Duration::from_millis(50);

/// How often the partitions are looked at.
const POLL: Duration = Duration::from_millis(100);

/// Partitions in a folder.
pub struct LogSource {
    folder: PathBuf,
    partitions: BTreeMap<Box<str>, Partition>,
    /// Inputs that were given back, in their order.
    returned: BTreeMap<Key, Input>,
    /// Nothing is taken before this.
    not_before: Instant,
    taken: u64,
    end: End,
    /// Committed, and not yet acknowledged: where each partition has come to.
    owed: VecDeque<(Debt, Vec<Progress>)>,
    /// Acknowledged, and not yet told.
    done: Vec<Debt>,
    again: Option<Instant>,
    /// How often the first one failed.
    tries: u32,
}

/// How far the job is in ending.
enum End {
    No,
    /// When nothing is left.
    AfterAll,
    /// Before this input.
    Before(Key),
}

struct Partition {
    reader: BufReader<File>,
    /// The next message.
    next: u64,
    /// Bytes of the messages before it.
    at: u64,
}

impl LogSource {
    /// Goes on in each partition where the ledger says.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(folder: &Path, reached: &BTreeMap<Box<str>, u64>) -> Result<Self> {
        let mut partitions = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(transient)? {
            let name = entry.map_err(transient)?.file_name();
            let Some(name) = name.to_str().filter(|name| name.parse::<u32>().is_ok()) else {
                continue;
            };
            let next = reached.get(name).copied().unwrap_or(0);
            let mut reader = BufReader::new(File::open(folder.join(name)).map_err(transient)?);
            let mut at = 0;
            for _ in 0..next {
                at += reader.skip_until(b'\n').map_err(transient)? as u64;
            }
            partitions.insert(name.into(), Partition { reader, next, at });
        }
        Ok(Self {
            folder: folder.to_owned(),
            partitions,
            returned: BTreeMap::new(),
            not_before: Instant::now(),
            taken: 0,
            end: End::No,
            owed: VecDeque::new(),
            done: Vec::new(),
            again: None,
            tries: 0,
        })
    }

    /// The next messages of all partitions; nothing where there are none.
    fn read(&mut self) -> Result<Option<Input>> {
        let mut bytes = Vec::new();
        let mut progress = Vec::new();
        for (name, partition) in &mut self.partitions {
            let from = partition.next;
            for _ in 0..MESSAGES {
                let got = partition.reader.read_until(b'\n', &mut bytes).map_err(transient)?;
                if got == 0 {
                    break;
                }
                partition.next += 1;
                partition.at += got as u64;
            }
            if partition.next > from {
                progress.push(Progress { partition: name.clone(), from, to: partition.next });
            }
        }
        if progress.is_empty() {
            return Ok(None);
        }
        self.taken += 1;
        let ranges = progress.iter().map(|of| format!("{}@{}-{}", of.partition, of.from, of.to));
        let name = ranges.collect::<Vec<_>>().join(",");
        let key = Key { rank: self.taken.to_be_bytes().into(), name: OsStr::new(&name).into() };
        let body = Body::Messages(Messages { bytes, progress, since: Instant::now() });
        Ok(Some(Input { key, body, grace_over: true, expected: 0 }))
    }

    /// Appends to the file of acknowledgements, as an offset is committed to a broker.
    fn send(&self, progress: &[Progress]) -> std::io::Result<()> {
        let path = self.folder.join("acknowledged");
        let line = |of: &Progress| format!("{} {}\n", of.partition, of.to);
        let lines: String = progress.iter().map(line).collect();
        let at = path.metadata().map_or(0, |metadata| metadata.len());
        let act = || Act::Remote(&path, at, lines.as_bytes());
        if fault::before(Operation::Acknowledge, "acknowledge", act)? == Verdict::Skip {
            return Ok(());
        }
        File::options().append(true).create(true).open(&path)?.write_all(lines.as_bytes())
    }
}

impl Source for LogSource {
    fn poll(&mut self) -> Result<()> {
        Ok(())
    }

    fn has_more(&self) -> bool {
        let is_longer = |partition: &Partition| {
            let metadata = partition.reader.get_ref().metadata();
            metadata.is_ok_and(|metadata| metadata.len() > partition.at)
        };
        !self.returned.is_empty() || self.partitions.values().any(is_longer)
    }

    fn take(&mut self) -> Result<Option<Input>> {
        if Instant::now() < self.not_before {
            return Ok(None);
        }
        if let End::Before(end) = &self.end
            && self.returned.first_key_value().is_none_or(|(key, _)| key > end)
        {
            return Ok(None);
        }
        match self.returned.pop_first() {
            Some((_, input)) => Ok(Some(input)),
            None => self.read(),
        }
    }

    fn is_ordered(&self) -> bool {
        true
    }

    fn give_back(&mut self, input: Input) {
        self.returned.insert(input.key.clone(), input);
    }

    fn put_off(&mut self, input: Input, _why: Why) {
        self.not_before = Instant::now() + PAUSE;
        self.give_back(input);
    }

    fn close(&mut self, last: Option<Key>) {
        if matches!(self.end, End::No) {
            self.end = last.map_or(End::AfterAll, End::Before);
        }
    }

    fn reopen(&mut self, key: &Key) {
        if matches!(&self.end, End::Before(end) if end == key) {
            self.end = End::No;
        }
    }

    fn is_drained(&self) -> bool {
        !matches!(self.end, End::No) && self.returned.is_empty()
    }

    fn is_drained_before(&self, key: &Key) -> bool {
        self.returned.first_key_value().is_none_or(|(first, _)| first >= key)
    }

    fn next_due(&self) -> Instant {
        let poll = Instant::now() + POLL;
        self.again.map_or(poll, |again| again.min(poll))
    }

    fn next_name(&self) -> Option<&OsStr> {
        self.returned.first_key_value().map(|(key, _)| &*key.name)
    }

    fn is_under_way(&self) -> bool {
        !self.returned.is_empty()
    }

    fn put_off_for_now(&self) -> Option<(&OsStr, &'static str)> {
        None
    }

    fn backlog(&self) -> Backlog<'_> {
        Backlog { pending: self.returned.len(), ..Backlog::default() }
    }
}

impl Acknowledge for LogSource {
    fn acknowledge(&mut self, debt: Debt, input: Input) {
        self.owed.push_back((debt, input.progress().to_vec()));
    }

    /// Its messages are before those that any later input acknowledges.
    fn owes(&mut self, debt: Debt) {
        let reached = self.partitions.iter().map(|(name, partition)| Progress {
            partition: name.clone(),
            from: partition.next,
            to: partition.next,
        });
        self.owed.push_back((debt, reached.collect()));
    }

    fn archive(&mut self) -> Result<()> {
        if self.again.is_some_and(|again| again > Instant::now()) {
            return Ok(());
        }
        self.again = None;
        while let Some((_, progress)) = self.owed.front() {
            if let Err(error) = self.send(progress) {
                tracing::warn!(%error, "the acknowledgement is sent again");
                self.tries += 1;
                self.again = Some(Instant::now() + PAUSE * self.tries);
                return Ok(());
            }
            self.tries = 0;
            self.done.extend(self.owed.pop_front().map(|(debt, _)| debt));
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn is_unsynced(&self) -> bool {
        false
    }

    fn take_acknowledged(&mut self) -> Acknowledged {
        let archived = self.done.drain(..).map(|debt| (debt, None)).collect();
        Acknowledged { archived, ..Acknowledged::default() }
    }

    fn stuck(&self) -> Option<(&OsStr, u32)> {
        self.owed.front().map(|(debt, _)| (&*debt.name, self.tries))
    }
}

fn transient(error: std::io::Error) -> Failure {
    Failure::Transient(error.into())
}
