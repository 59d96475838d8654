//! The output, the rejects and the folder, held against the ledger.
//!
//! Invariants: nothing is written; what is found is told with what to do, and looking goes on.
//! What the ledger still owes may not be in its place yet, and is no damage.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::config::Config;
use crate::durable::Dir;
use crate::ledger::{Entry, Outcome, Reader, Rotated, SpanRow, TargetRow};
use crate::publish::rotation;
use crate::sink::file::checksum;
use crate::sink::folder;
use crate::source::folder::archive::{Archiver, REPORT_SUFFIX};
use crate::source::folder::stamp::Stamp;
use crate::source::{Debt, Fate};
use crate::telemetry::escaped;

/// Microbatches of one name that are looked at, the newest, for whose file stands under it.
const NAMED: u64 = 16;

/// The amount that an audit has checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Looked {
    /// Microbatches.
    pub microbatches: u64,
    /// Bytes of outputs whose checksum was compared.
    pub bytes: u64,
    /// Archived inputs that were found in their place.
    pub inputs: u64,
    /// Archived inputs that are not there any more: what is in an archive is its owner's to remove.
    pub gone: u64,
}

/// An audit under way.
pub struct Audit<'a> {
    config: &'a Config,
    /// Read the archived inputs, too.
    deep: bool,
    found: &'a mut dyn FnMut(&str),
    /// Findings about the current target, reported once they are known to matter.
    of_target: Vec<String>,
    in_target: bool,
    looked: Looked,
    /// Microbatches whose file was taken again.
    repeated: HashSet<u64>,
}

/// The file of a generation that was closed, read from its beginning.
struct Closed {
    generation: u64,
    file: Option<(PathBuf, Box<dyn Read>)>,
    at: u64,
    is_whole: bool,
}

impl Closed {
    fn open(row: &TargetRow, rotated: &Rotated) -> anyhow::Result<Self> {
        let file = rotation::open(&row.path.with_file_name(&rotated.name))?
            .map(|(path, reader)| -> (PathBuf, Box<dyn Read>) { (path, reader) });
        Ok(Self { generation: rotated.generation, file, at: 0, is_whole: true })
    }
}

/// Audits a job. Everything that is wrong is given to `found`, as a sentence that says what to do.
///
/// # Errors
/// When the ledger cannot be read at all.
pub fn verify(config: &Config, deep: bool, found: &mut dyn FnMut(&str)) -> anyhow::Result<Looked> {
    let look = Reader::open(&config.state)?;
    look.freeze()?;
    let mut audit = Audit {
        config,
        deep,
        found,
        of_target: Vec::new(),
        in_target: false,
        looked: Looked::default(),
        repeated: look.repeated()?,
    };
    for damage in look.damage()? {
        audit.tell(&format!("the ledger file is damaged: {damage}; restore the state directory"));
    }
    audit.in_target = true;
    for target in look.targets()? {
        audit.target(&look, &target)?;
    }
    audit.in_target = false;
    audit.history(&look)?;
    Ok(audit.looked)
}

impl Audit<'_> {
    fn tell(&mut self, what: &str) {
        if self.in_target {
            self.of_target.push(what.to_owned());
        } else {
            (self.found)(what);
        }
    }

    /// The spans of one target against what is on the disk.
    fn target(&mut self, look: &Reader, row: &TargetRow) -> anyhow::Result<()> {
        let output = self.config.output.as_ref();
        if output.is_some_and(|output| output.is_folder() && output.path() == Some(&row.path)) {
            look.spans(row.target, |span| self.part(row, span))?;
            return self.drop_if_outdated(row);
        }
        let file = match File::open(&row.path) {
            Ok(file) => Some(file),
            // It was taken away: the next span begins a new one.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                let path = row.path.display();
                self.tell(&format!("{path} cannot be read: {error}; mend that, and verify again"));
                return self.drop_if_outdated(row);
            }
        };
        let length = file.as_ref().map(File::metadata).transpose()?.map_or(0, |file| file.len());
        // Of what was pruned it is not known where it ended.
        let mut end = (look.pruned()?.history == 0).then_some(0);
        let rotated: HashMap<u64, Rotated> =
            look.rotated(row.target)?.into_iter().map(|of| (of.generation, of)).collect();
        let mut closed: Option<Closed> = None;
        look.spans(row.target, |span| {
            if span.at.generation == row.next.generation {
                self.follows(row, span, &mut end);
                if let Some(file) = &file {
                    self.span(row, span, file, length)?;
                }
            } else if let Some(rotated) = rotated.get(&span.at.generation) {
                if closed.as_ref().is_none_or(|closed| closed.generation != rotated.generation) {
                    closed = Some(Closed::open(row, rotated)?);
                }
                if let Some(closed) = &mut closed {
                    self.closed(closed, span);
                }
            }
            Ok(())
        })?;
        if let Some(end) = end.filter(|end| *end < row.next.end) {
            let path = row.path.display();
            let next = row.next.end;
            self.tell(&format!(
                "{path}: bytes {end} to {next} belong to no microbatch: the ledger has lost rows; \
                 restore the state directory"
            ));
        }
        self.drop_if_outdated(row)
    }

    /// Drops the findings about a target if another generation has begun meanwhile: they may be about the
    /// next file.
    fn drop_if_outdated(&mut self, row: &TargetRow) -> anyhow::Result<()> {
        let found = std::mem::take(&mut self.of_target);
        if !found.is_empty() {
            let targets = Reader::open(&self.config.state)?.targets()?;
            let now = targets.into_iter().find(|now| now.target == row.target);
            if now.is_some_and(|now| now.next.generation != row.next.generation) {
                return Ok(());
            }
        }
        for found in &found {
            (self.found)(found);
        }
        Ok(())
    }

    /// A span in a generation that was closed, plain or compressed; one that is gone was taken by its
    /// reader.
    fn closed(&mut self, closed: &mut Closed, span: SpanRow) {
        let Some((path, reader)) = closed.file.as_mut().filter(|_| closed.is_whole) else { return };
        let behind = span.at.end.saturating_sub(closed.at);
        let skipped = std::io::copy(&mut reader.take(behind), &mut std::io::sink());
        let mut part = Summed { checksum: crc32fast::Hasher::new() };
        let copied = std::io::copy(&mut reader.take(span.length), &mut part);
        closed.is_whole = skipped.is_ok_and(|skipped| skipped == behind)
            && copied.is_ok_and(|copied| copied == span.length)
            && part.checksum.finalize() == span.checksum;
        closed.at = span.at.end + span.length;
        self.looked.bytes += span.length;
        if !closed.is_whole {
            let path = path.display();
            let sequence = span.sequence;
            let message = format!(
                "{path} was changed or cut: it does not hold what microbatch {sequence} wrote; restore it"
            );
            self.tell(&message);
        }
    }

    /// A span begins where the one before it ends, or after bytes that another program wrote.
    fn follows(&mut self, row: &TargetRow, span: SpanRow, end: &mut Option<u64>) {
        let path = row.path.display();
        let from = end.unwrap_or(span.at.end);
        let to = span.at.end;
        if from < to {
            self.tell(&format!(
                "{path}: bytes {from} to {to} belong to no microbatch: another program wrote them, or \
                 the ledger has lost rows"
            ));
        } else if from > to {
            let sequence = span.sequence;
            self.tell(&format!(
                "{path}: microbatch {sequence} begins at byte {to}, before the end of the one before \
                 it ({from}): the ledger is damaged; restore the state directory"
            ));
        }
        *end = Some(span.at.end + span.length);
    }

    fn span(
        &mut self,
        row: &TargetRow,
        span: SpanRow,
        file: &File,
        length: u64,
    ) -> anyhow::Result<()> {
        let path = row.path.display();
        let sequence = span.sequence;
        let start = span.at.end;
        let end = span.at.end + span.length;
        if span.owed {
            return Ok(());
        }
        if length < end {
            self.tell(&format!(
                "{path} is cut: microbatch {sequence} ends at byte {end}, the file at byte {length}; \
                 restore the file, or take the input again with `spoolmill requeue --again`"
            ));
            return Ok(());
        }
        let found = checksum(file, start, span.length).with_context(|| format!("read {path}"))?;
        self.looked.bytes += span.length;
        if found != span.checksum {
            let expected = span.checksum;
            self.tell(&format!(
                "{path} was changed: bytes {start} to {end}, of microbatch {sequence}, have checksum \
                 {found:08x}, the ledger says {expected:08x}; restore the file, or take the input again \
                 with `spoolmill requeue --again`"
            ));
        }
        Ok(())
    }

    /// A file of its own for each microbatch; one that is gone was taken by its reader.
    fn part(&mut self, row: &TargetRow, span: SpanRow) -> anyhow::Result<()> {
        let path = row.path.join(folder::name(span.sequence));
        let Ok(file) = File::open(&path) else { return Ok(()) };
        let length = file.metadata()?.len();
        let found =
            checksum(&file, 0, length).with_context(|| format!("read {}", path.display()))?;
        self.looked.bytes += length;
        if (length, found) != (span.length, span.checksum) {
            let sequence = span.sequence;
            let path = path.display();
            self.tell(&format!(
                "{path} was changed: it is not what microbatch {sequence} wrote; restore it, or take the \
                 input again with `spoolmill requeue --again`"
            ));
        }
        Ok(())
    }

    /// The microbatches one after the other, and their inputs.
    fn history(&mut self, look: &Reader) -> anyhow::Result<()> {
        let unarchived: std::collections::HashSet<u64> =
            look.unarchived()?.into_iter().map(|(sequence, _)| sequence).collect();
        let config = self.config;
        let folder = Dir::open(config.directory.as_deref().unwrap_or(Path::new(".")))?;
        let action = config.written.done.action.clone();
        let known = look.archives(&config.state)?;
        let archiver = Archiver::open(action, config.archive().as_deref(), known)
            .context("open the archive")?;
        let mut last = None;
        let pruned = look.pruned()?;
        look.all(|entry| {
            // Up to where rows were pruned, those that are left have gaps.
            let expected = match last.map_or(entry.sequence, |last| last + 1) {
                _ if entry.sequence <= pruned.history => entry.sequence,
                next => next.max(pruned.history + 1),
            };
            if entry.sequence != expected {
                let missing = if entry.sequence == expected + 1 {
                    format!("microbatch {expected} is")
                } else {
                    format!("microbatches {expected} to {} are", entry.sequence - 1)
                };
                self.tell(&format!(
                    "{missing} missing from the ledger: it is damaged; restore the state directory"
                ));
            }
            last = Some(entry.sequence);
            self.looked.microbatches += 1;
            let is_kept = entry.sequence > pruned.inputs || entry.reason.is_some();
            if is_kept && !unarchived.contains(&entry.sequence) {
                self.input(look, &entry, &folder, &archiver)?;
            }
            Ok(())
        })?;
        let last = last.unwrap_or(0);
        let counted = look.tally(i64::MAX)?.microbatches;
        if counted != last {
            self.tell(&format!(
                "the ledger ends with microbatch {last}, and has counted {counted}: it has lost rows; \
                 restore the state directory"
            ));
        }
        Ok(())
    }

    /// An input must be where its microbatch has put it.
    fn input(
        &mut self,
        look: &Reader,
        entry: &Entry,
        folder: &Dir,
        archiver: &Archiver,
    ) -> anyhow::Result<()> {
        let fate = match entry.outcome() {
            Outcome::WithoutFile => return Ok(()),
            Outcome::Quarantined => Fate::Failed(Vec::new()),
            Outcome::Processed | Outcome::Skipped if archiver.deletes() => return Ok(()),
            Outcome::Processed | Outcome::Skipped => Fate::Processed,
        };
        let Entry { name, identity, sequence, .. } = entry;
        let failed = matches!(fate, Fate::Failed(_));
        let debt =
            Debt { name: name.clone(), identity: *identity, home: None, sequence: *sequence, fate };
        let named = look.archived_name(*sequence)?;
        let Some((dir, found)) = archiver.find_archived(folder, &debt, named.as_deref()) else {
            // It went back into the drop folder, and has been taken or is going to be.
            if self.repeated.contains(sequence) || is_back(folder, entry) {
                return Ok(());
            }
            // It was told when it happened, and is nobody's fault now.
            if look.was_gone(*sequence)? || look.altered_input(*sequence)?.is_some() {
                return Ok(());
            }
            let named = named.as_deref();
            let changed = archiver.find_changed(folder, &debt, named);
            // The number of an inode that is free is given to the next file, which may have the same name.
            let mut later = look.named(&entry.name, NAMED)?.into_iter();
            let is_later = later
                .any(|later| later.sequence > *sequence && later.identity.inode == identity.inode);
            let Some((dir, name)) = changed.filter(|_| !is_later) else {
                self.looked.gone += 1;
                return Ok(());
            };
            let shown = escaped(dir.path().join(name).as_os_str().as_encoded_bytes());
            self.tell(&format!(
                "{shown} was changed: it has another size or time than what microbatch {sequence} has \
                 read; restore it, or remove it"
            ));
            return Ok(());
        };
        self.looked.inputs += 1;
        let path = dir.path().join(&found);
        if self.deep {
            self.content(entry, &path);
        }
        if failed {
            self.report(look, &path, *sequence)?;
        }
        Ok(())
    }

    fn content(&mut self, entry: &Entry, path: &Path) {
        let shown = escaped(path.as_os_str().as_encoded_bytes());
        let sequence = entry.sequence;
        match File::open(path).and_then(|file| crate::source::folder::input::hash(&file)) {
            Ok(hash) if hash == entry.identity.hash => {}
            Ok(_) => self.tell(&format!(
                "{shown} was changed: it is not what microbatch {sequence} has read; restore it"
            )),
            Err(error) => self.tell(&format!("{shown} cannot be read: {error}")),
        }
    }

    fn report(&mut self, look: &Reader, path: &Path, sequence: u64) -> anyhow::Result<()> {
        let mut usual = path.file_name().unwrap_or_default().to_owned();
        usual.push(OsStr::new(REPORT_SUFFIX));
        let about = path.file_name().unwrap_or_default();
        let known = look.reports(sequence, about)?.into_iter().map(|(name, _)| name);
        // Ledgers of before do not know the names.
        if !known.chain([usual]).any(|name| path.with_file_name(name).is_file()) {
            let shown = escaped(path.as_os_str().as_encoded_bytes());
            self.tell(&format!(
                "{shown} has no report beside it; `spoolmill history` has the reason of microbatch \
                 {sequence}"
            ));
        }
        Ok(())
    }
}

/// True when the file waits under its own name.
fn is_back(folder: &Dir, entry: &Entry) -> bool {
    let stat = folder.stat(&entry.name).ok().flatten();
    stat.map(|stat| Stamp::of(&stat)).is_some_and(|there| there.inode == entry.identity.inode)
}

/// Takes the checksum of what is written to it.
struct Summed {
    checksum: crc32fast::Hasher,
}

impl std::io::Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.checksum.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
