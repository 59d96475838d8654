//! An output that is closed from time to time, and goes on in a new file.
//!
//! Invariants: the ledger decides, in one transaction, that a generation is over and under which
//! name its file is kept; then one rename does it, before anything is written to the next generation.
//! What a crash leaves undone is done at the next start: the file is told by its inode. So a closed
//! file holds whole microbatches, and each record is in one file. It is compressed afterwards, by the
//! side. What a job has decided is carried out whatever its next configuration says.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;

pub use super::compressing::Compress;
use super::compressing::{self, Closed, with};
use super::retention;
use crate::clock::Backoff;
use crate::durable::{self, Dir};
use crate::failure::{Failure, Result};
use crate::ledger::{Ledger, Rotated};
use crate::microbatch::Target;
use crate::units::Keep;

/// How long a compression that failed is left alone.
const AGAIN: Backoff = Backoff::new(Duration::from_mins(1), Duration::from_hours(1));

/// When an output is closed, and what becomes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rule {
    /// At this size in bytes.
    pub size: Option<u64>,
    /// At each multiple of this time since 1970, in milliseconds.
    pub every_ms: Option<i64>,
    /// How it is compressed.
    pub compress: Option<Compress>,
    /// Bytes that a compression leaves free.
    pub min_free: u64,
    /// How much of what was closed is kept.
    pub keep: Option<Keep>,
}

/// The rotation of one output.
pub struct Rotation {
    rule: Rule,
    target: Target,
    path: PathBuf,
    compressing: Option<(Rotated, JoinHandle<anyhow::Result<()>>)>,
    /// A compression that failed is not tried again before this.
    again: Option<Instant>,
    /// How often one has failed since the last that did not.
    pauses: Backoff,
    /// Up to this generation, every rename was made.
    renamed: Option<u64>,
    /// A compression is to be broken off.
    stop: Arc<AtomicBool>,
    /// The next check of closed files against `keep`.
    prune_at: Option<Instant>,
    /// Bytes of what is kept, once they are counted.
    kept_bytes: Option<u64>,
}

/// No compression goes on when nobody waits for it any more: the next one of the same file would find what it
/// does there.
impl Drop for Rotation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some((_, thread)) = self.compressing.take() {
            // What came of it is seen at the next start.
            let _ = thread.join();
        }
    }
}

impl Rotation {
    /// Of the output at `path`.
    pub fn new(rule: Rule, target: Target, path: &Path) -> Self {
        Self {
            rule,
            target,
            path: path.to_owned(),
            compressing: None,
            again: None,
            pauses: AGAIN,
            renamed: None,
            stop: Arc::default(),
            prune_at: rule.keep.map(|_| Instant::now()),
            kept_bytes: None,
        }
    }

    /// Which output it is.
    pub fn target(&self) -> Target {
        self.target
    }

    /// True when the output is to be closed.
    pub fn is_due(&self, ledger: &Ledger, now_ms: i64) -> Result<bool> {
        let end = ledger.position(self.target).end;
        if end == 0 {
            return Ok(false);
        }
        let is_large = self.rule.size.is_some_and(|size| end >= size);
        Ok(is_large || self.boundary(ledger)?.is_some_and(|boundary| boundary <= now_ms))
    }

    /// How long until time alone closes it, or lets go of what was closed.
    pub fn wait(&self, ledger: &Ledger, now_ms: i64) -> Result<Option<Duration>> {
        let boundary = self.boundary(ledger)?.map(|boundary| boundary.saturating_sub(now_ms));
        let closes = boundary.map(|wait| Duration::from_millis(u64::try_from(wait).unwrap_or(0)));
        let prunes = self.prune_at.map(|at| at.saturating_duration_since(Instant::now()));
        // What is due and could not be done now waits for the next round, whatever wakes it.
        Ok([closes, prunes].into_iter().flatten().filter(|wait| !wait.is_zero()).min())
    }

    /// When the time of what is in the output is over, in milliseconds since 1970.
    fn boundary(&self, ledger: &Ledger) -> Result<Option<i64>> {
        let Some(every) = self.rule.every_ms.filter(|_| ledger.position(self.target).end > 0)
        else {
            return Ok(None);
        };
        let began = ledger.began_ms(self.target)?;
        Ok(Some(began.div_euclid(every).saturating_add(1).saturating_mul(every)))
    }

    /// Decides that the output is closed, unless something is owed to it: what is in it must be durable.
    pub fn decide(&self, ledger: &mut Ledger, now_ms: i64) -> Result<()> {
        if ledger.owes_to(self.target)? {
            return Ok(());
        }
        let (dir, name) = self.open()?;
        let Some(stat) = dir.stat(&name)? else { return Ok(()) };
        let closed = self.free_name(&dir, now_ms)?;
        ledger.rotate(self.target, (&closed, stat.st_ino), now_ms)
    }

    /// Does what was decided and is not done: the rename, then the compression.
    pub fn carry_out(&mut self, ledger: &mut Ledger) -> Result<()> {
        self.reap(ledger)?;
        for rotated in ledger.rotations(self.target)? {
            self.rename(ledger, &rotated)?;
            let Some(how) = self.rule.compress else {
                // An earlier configuration may have compressed.
                compressing::clear(&self.open()?.0, &rotated.name)?;
                self.note_done(ledger, &rotated)?;
                continue;
            };
            let is_later = self.again.is_some_and(|again| again > Instant::now());
            if self.compressing.is_none() && !is_later {
                let closed = Closed {
                    folder: self.path.parent().unwrap_or(Path::new("/")).to_owned(),
                    name: rotated.name.clone(),
                    inode: rotated.inode,
                    how,
                    min_free: self.rule.min_free,
                };
                let stop = self.stop.clone();
                let work = move || compressing::compress(&closed, &stop);
                match std::thread::Builder::new().spawn(work) {
                    Ok(thread) => self.compressing = Some((rotated, thread)),
                    Err(_) => self.again = Some(Instant::now() + AGAIN.after(1)),
                }
            }
        }
        Ok(())
    }

    /// Renames the output to what it was decided to be, unless that was done before. It is durable when
    /// this returns: only then may the next generation be written to.
    fn rename(&mut self, ledger: &Ledger, rotated: &Rotated) -> Result<()> {
        if self.renamed.is_some_and(|renamed| renamed >= rotated.generation) {
            return Ok(());
        }
        let (dir, name) = self.open()?;
        let position = ledger.position(self.target);
        let is_next = (position.generation, position.end) == (rotated.generation + 1, 0);
        let there = dir.stat(&name)?.map(|stat| stat.st_ino);
        if is_next && there == Some(rotated.inode) {
            if !dir.rename_no_replace(&name, &dir, &rotated.name)? {
                return Err(Failure::Transient(anyhow::anyhow!(
                    "{} is to become {}, which is there already: move that away",
                    self.path.display(),
                    rotated.name.display()
                )));
            }
            tracing::info!(output = %self.path.display(), closed = %rotated.name.display(), "the output was rotated");
        }
        dir.sync("output directory")?;
        self.renamed = Some(rotated.generation);
        Ok(())
    }

    /// Breaks off a compression that is under way: it begins again at the next start.
    pub fn break_off(&mut self, ledger: &mut Ledger) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.join(ledger)
    }

    /// Waits for the compressions that are to be made.
    pub fn finish(&mut self, ledger: &mut Ledger) -> Result<()> {
        while self.compressing.is_some() {
            self.join(ledger)?;
            self.carry_out(ledger)?;
        }
        Ok(())
    }

    fn reap(&mut self, ledger: &mut Ledger) -> Result<()> {
        let is_done = self.compressing.as_ref().is_some_and(|(_, thread)| thread.is_finished());
        if is_done { self.join(ledger) } else { Ok(()) }
    }

    fn join(&mut self, ledger: &mut Ledger) -> Result<()> {
        let Some((rotated, thread)) = self.compressing.take() else { return Ok(()) };
        let done = thread.join().map_err(|_| Failure::fatal("compressing an output panicked"))?;
        match done.context("compress a closed output") {
            Ok(()) => {
                self.pauses.reset();
                self.note_done(ledger, &rotated)
            }
            Err(error) if is_sync(&error) => Err(Failure::Fatal(error)),
            Err(_) if self.stop.load(Ordering::Relaxed) => Ok(()),
            Err(error) => {
                // The plain file is there, and complete.
                let wait = self.pauses.fail();
                let error = format!("{error:#}");
                let seconds = wait.as_secs();
                tracing::warn!(
                    error,
                    seconds,
                    "the closed output is not compressed yet; trying again later"
                );
                self.again = Some(Instant::now() + wait);
                Ok(())
            }
        }
    }

    /// One more closed file is as it stays.
    fn note_done(&mut self, ledger: &mut Ledger, rotated: &Rotated) -> Result<()> {
        let kept = compressing::kept(&self.open()?.0, &rotated.name, rotated.inode)?;
        ledger.note_kept(self.target, rotated.generation, kept)?;
        self.prune_at = self.rule.keep.map(|_| Instant::now());
        self.kept_bytes = self.kept_bytes.map(|bytes| bytes.saturating_add(kept.bytes()));
        Ok(())
    }

    /// Removes what was closed and is not to be kept any more, as far as one turn goes. What cannot be removed
    /// now is left for later.
    pub fn prune(&mut self, ledger: &mut Ledger, now_ms: i64) -> Result<()> {
        let Some(keep) = self.rule.keep else { return Ok(()) };
        if self.prune_at.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        let wait = match self.prune_some(ledger, keep, now_ms) {
            Ok(wait) => wait,
            Err(failure @ (Failure::Fatal(_) | Failure::Stopped)) => return Err(failure),
            Err(failure) => {
                let output = self.path.display();
                let error = failure.into_error();
                tracing::warn!(%output, error = %format!("{error:#}"), "closed files stay for now");
                Some(AGAIN.after(1))
            }
        };
        self.prune_at = wait.map(|wait| Instant::now() + wait);
        Ok(())
    }

    fn prune_some(
        &mut self,
        ledger: &mut Ledger,
        keep: Keep,
        now_ms: i64,
    ) -> Result<Option<Duration>> {
        let (dir, _) = self.open()?;
        let mut kept = match self.kept_bytes.take() {
            Some(bytes) => bytes,
            None => ledger.kept_bytes(self.target)?,
        };
        let wait = retention::prune(ledger, self.target, &dir, (keep, &mut kept), now_ms)?;
        self.kept_bytes = Some(kept);
        Ok(wait)
    }

    fn open(&self) -> Result<(Dir, OsString)> {
        let dir = Dir::open(self.path.parent().unwrap_or(Path::new("/")))?;
        Ok((dir, self.path.file_name().unwrap_or_default().to_owned()))
    }

    /// `<stem>-<time>.<suffix>`, with a number after the time where that is taken.
    fn free_name(&self, dir: &Dir, now_ms: i64) -> Result<OsString> {
        let at = Duration::from_millis(u64::try_from(now_ms).unwrap_or(0));
        let time = humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + at)
            .to_string()
            .replace(':', "-");
        for number in 0_u32.. {
            let mut name = self.path.file_stem().unwrap_or_default().to_owned();
            name.push(format!("-{time}"));
            if number > 0 {
                name.push(format!(".{number}"));
            }
            if let Some(suffix) = self.path.extension() {
                name.push(".");
                name.push(suffix);
            }
            let taken = [Some(""), self.rule.compress.map(Compress::suffix)]
                .into_iter()
                .flatten()
                .map(|suffix| dir.stat(&with(&name, suffix)));
            if taken.collect::<durable::Result<Vec<_>>>()?.iter().all(Option::is_none) {
                return Ok(name);
            }
        }
        Err(Failure::fatal("no name is free for a closed output"))
    }
}

fn is_sync(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<durable::Error>().is_some_and(durable::Error::is_sync))
}

/// A closed file of this name, or what it was compressed to; `None` when neither is there.
pub fn open(plain: &Path) -> io::Result<Option<(PathBuf, Box<dyn Read + Send>)>> {
    let packed = [Compress::Gzip, Compress::Zstd]
        .map(|how| (PathBuf::from(with(plain.as_os_str(), how.suffix())), Some(how)));
    let hidden = plain.with_file_name(compressing::hidden(plain.file_name().unwrap_or_default()));
    let names: Vec<_> =
        std::iter::once((plain.to_owned(), None)).chain(packed).chain([(hidden, None)]).collect();
    // A second time: one may take the place of the other in between.
    for (path, how) in names.iter().chain(&names) {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let reader: Box<dyn Read + Send> = match how {
            Some(how) => how.reader(file)?,
            None => Box::new(io::BufReader::new(file)),
        };
        return Ok(Some((path.clone(), reader)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Kept;

    /// Nothing compresses after its rotation is gone, beside the next one of the same file.
    #[test]
    fn a_compression_ends_with_its_rotation() {
        let ended = Arc::new(AtomicBool::new(false));
        let mut rotation =
            Rotation::new(Rule::default(), crate::microbatch::Target(1), Path::new("/o"));
        let stop = rotation.stop.clone();
        let seen = ended.clone();
        let work = move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            seen.store(true, Ordering::Relaxed);
            Ok(())
        };
        let name = OsString::from("closed");
        let kept = Kept::Unknown;
        let rotated = Rotated { generation: 0, name, inode: 1, closed_ms: 0, kept };
        rotation.compressing = Some((rotated, std::thread::spawn(work)));
        drop(rotation);
        assert!(ended.load(Ordering::Relaxed));
    }
}
