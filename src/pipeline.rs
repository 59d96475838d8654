//! One group of microbatches, top to bottom: prepare, commit, publish, archive.
//!
//! Invariants: the steps come in this order and no other. What is committed and not yet published is kept in
//! [`Pipeline`], what is not yet archived in the source, and both are done first when the next group comes, so
//! that a failure in between is rolled forward, never back.

mod delivering;
pub mod earlier;
pub mod flow;
mod formats;
pub mod keeping;
pub mod late_writes;
mod piped;
pub mod prepare;
pub mod prepared;
mod report;
mod rotating;
mod sift;
pub mod views;
mod whole;
mod work;

use std::ffi::OsString;
use std::time::{Duration, Instant};

use crate::durable::fault;
use crate::failure::{Failure, Result};
use crate::ledger::{Committed, Ledger, Released, Told, ViewId};
use crate::microbatch::{Microbatch, Payload};
use crate::publish::{self, Publisher};
use crate::source::folder::FolderSource;
use crate::source::{Acknowledged, Debt, Input, Source, Why};
use crate::staging::StagingArea;
use earlier::Earlier;
use keeping::Keeping;
use late_writes::LateWrites;
use prepared::Prepared;
use report::{debt, log};
use views::{Advanced, Puts, Results, Tapped, Views};

/// The longest time between writing published bytes and syncing them.
pub const SYNC_AFTER: Duration = Duration::from_secs(1);

/// Commits, publishes and archives prepared microbatches.
pub struct Pipeline {
    /// The commit point.
    pub ledger: Ledger,
    /// The outputs.
    pub publisher: Publisher,
    /// The continuous queries.
    pub views: Views,
    earlier: Earlier,
    /// Retention.
    pub keeping: Keeping,
    /// A microbatch that the idle timer made has no input.
    unpublished: Vec<(Committed, Option<Input>)>,
    /// Archived files that somebody has written to.
    pub late_writes: LateWrites,
    /// Published, not durable yet: up to this sequence number.
    published: Option<u64>,
    staged_files: Vec<OsString>,
    unsynced_since: Option<Instant>,
    /// Durable, and to be told to the ledger with the next commit.
    released: Released,
    released_files: Vec<OsString>,
}

impl Pipeline {
    /// A pipeline with nothing in it.
    pub fn new(
        ledger: Ledger,
        publisher: Publisher,
        views: Views,
        (earlier, keeping): (Earlier, Keeping),
    ) -> Self {
        Self {
            ledger,
            publisher,
            views,
            earlier,
            keeping,
            unpublished: Vec::new(),
            late_writes: LateWrites::default(),
            published: None,
            staged_files: Vec::new(),
            unsynced_since: None,
            released: Released::default(),
            released_files: Vec::new(),
        }
    }

    /// Commits, publishes and archives a group; what cannot be committed with it goes back to the
    /// source. Returns whether the job has ended with it.
    pub fn run(
        &mut self,
        group: Vec<Prepared>,
        staging: &StagingArea,
        source: &mut dyn Source,
    ) -> Result<bool> {
        self.catch_up(source)?;
        if fault::mutant("rename-first") {
            rename_first(&group, source)?;
        }
        let ended = self.commit(group, staging, source)?;
        self.catch_up(source)?;
        Ok(ended)
    }

    /// Closes the windows of a folder from which nothing has come for long enough.
    pub fn close_idle(&mut self, staging: &StagingArea, source: &mut dyn Source) -> Result<()> {
        self.catch_up(source)?;
        self.observe(source)?;
        let Some((batch, states, told)) = self.views.close_idle(&self.ledger, staging)? else {
            return Ok(());
        };
        tracing::info!("the input is idle: all windows are closed");
        self.commit_without_input(batch, &states, (None, told), source)?;
        self.views.rest();
        Ok(())
    }

    /// Rebuilds the next view that needs it, from the whole output as `read` returns it; its earlier output
    /// is set aside. False when there is none.
    pub fn rebuild_view(
        &mut self,
        staging: &StagingArea,
        source: &mut dyn Source,
        read: impl FnOnce(usize) -> Result<Tapped>,
    ) -> Result<bool> {
        let Some((number, path)) = self.views.to_rebuild(&self.ledger)? else { return Ok(false) };
        let tapped = match read(number) {
            Err(Failure::Bad(reason) | Failure::Incomplete(reason)) => {
                self.views.stop(number, reason, &mut self.ledger)?;
                return Ok(true);
            }
            tapped => tapped?,
        };
        if let Some(path) = path {
            publish::set_aside(&path, self.ledger.last_sequence())?;
        }
        self.observe(source)?;
        let rebuilt = self.views.rebuild(number, &tapped, &self.ledger, staging)?;
        let Some((batch, states, (view, told))) = rebuilt else { return Ok(false) };
        self.commit_without_input(batch, &states, (Some(view), told), source)?;
        self.views.note_committed(Results::default(), &[]);
        Ok(true)
    }

    fn commit_without_input(
        &mut self,
        batch: Microbatch,
        states: &Puts,
        (rebuilt, told): (Option<ViewId>, Vec<Told>),
        source: &mut dyn Source,
    ) -> Result<()> {
        let files: Vec<_> = batch.files().cloned().collect();
        let released = Released { rebuilt, told, ..self.released.clone() };
        let mut group = vec![batch];
        let fixed = self.publisher.fix(&mut group, &self.ledger);
        let committed = fixed.and_then(|()| self.ledger.commit(group, states.all(), &released));
        match &committed {
            Ok(_) => self.views.note(&released.told),
            Err(Failure::Transient(_)) => self.discard(&files),
            Err(_) => {}
        }
        let committed = committed?;
        self.publisher.note_committed(&committed);
        self.unpublished.extend(committed.into_iter().map(|committed| (committed, None)));
        self.forget_released();
        self.catch_up(source)
    }

    /// Commits a group in one transaction, with what has become durable since the last one. When
    /// that fails, the inputs go back to the source.
    fn commit(
        &mut self,
        mut group: Vec<Prepared>,
        staging: &StagingArea,
        source: &mut dyn Source,
    ) -> Result<bool> {
        self.drop_written(&mut group, source);
        if group.is_empty() {
            return Ok(false);
        }
        let seen = self.observe(source);
        let is_last = !source.has_more();
        let advance = |()| self.views.advance(&self.ledger, staging, &mut group, is_last);
        let advanced = seen.and_then(advance);
        if let Ok(advanced) = &advanced {
            for prepared in group.split_off(advanced.microbatches.min(group.len())) {
                self.give_back(prepared, source);
            }
        }
        let released = self.released.clone();
        let files: Vec<_> =
            group.iter().flat_map(|prepared| prepared.batch.files().cloned()).collect();
        let discarded: Vec<_> =
            group.iter().flat_map(|prepared| prepared.discarded.clone()).collect();
        self.discard(&discarded);
        let ended = group.iter().any(|prepared| prepared.ended);
        let (mut batches, inputs): (Vec<_>, Vec<_>) =
            group.into_iter().map(|prepared| at_home(prepared, source)).unzip();
        let advanced = advanced.and_then(|advanced| {
            can_fail(&batches)?;
            self.publisher.fix(&mut batches, &self.ledger)?;
            Ok(advanced)
        });
        let committed = advanced.and_then(|Advanced { states, results, told, .. }| {
            let released = Released { told, ..released };
            let committed = self.ledger.commit(batches, states.all(), &released)?;
            Ok((committed, results, released.told))
        });
        match committed {
            Ok((committed, results, told)) => {
                self.views.note_committed(results, &told);
                self.publisher.note_committed(&committed);
                for committed in &committed {
                    self.earlier.note(committed);
                }
                // Before anything can fail: what is committed is published whatever happens.
                self.unpublished.extend(committed.into_iter().zip(inputs.into_iter().map(Some)));
                self.forget_released();
                Ok(ended)
            }
            Err(failure) => {
                for input in inputs {
                    source.give_back(input);
                }
                // After any other failure it is unknown what was committed.
                if matches!(failure, Failure::Transient(_)) {
                    self.discard(&files);
                }
                Err(failure)
            }
        }
    }

    /// Right before the commit nobody may write to an input. From the first one on to which somebody
    /// does, the group waits for another commit.
    fn drop_written(&self, group: &mut Vec<Prepared>, source: &mut dyn Source) {
        if fault::mutant("no-second-lease") {
            return;
        }
        let Some(at) = group.iter().position(|of| of.input.is_written()) else { return };
        for prepared in group.split_off(at + 1) {
            self.give_back(prepared, source);
        }
        let Some(written) = group.pop() else { return };
        tracing::debug!(
            file = crate::telemetry::text(written.input.name()),
            "the file is written to"
        );
        source.put_off(self.take_apart(written), Why::WriterOpen);
    }

    /// Links what is prepared to earlier files; false when it must wait for the group before it.
    pub fn link(&self, prepared: &mut Prepared, group: &[Prepared]) -> bool {
        let next = self.ledger.last_sequence() + 1 + group.len() as u64;
        self.earlier.link(prepared, group, next, self.views.is_empty())
    }

    /// Looks where each output ends. Where one goes on in a new file, nothing is owed to the one before it from
    /// then on: it is durable, and the ledger is told first.
    fn observe(&mut self, source: &mut dyn Source) -> Result<()> {
        if self.publisher.observe(&mut self.ledger)? {
            self.sync(source)?;
            self.release()?;
        }
        Ok(())
    }

    /// Gives an input back to the source, with what was prepared of it undone.
    pub fn give_back(&self, prepared: Prepared, source: &mut dyn Source) {
        source.give_back(self.take_apart(prepared));
    }

    /// The input, with what was prepared of it undone.
    pub fn take_apart(&self, prepared: Prepared) -> Input {
        let files: Vec<_> = prepared.batch.files().cloned().collect();
        self.discard(&files);
        prepared.input
    }

    /// Removes staging files that no row of the ledger names.
    fn discard(&self, files: &[OsString]) {
        for name in files {
            // The next start would sweep it.
            let _ = self.publisher.discard(name);
        }
    }

    /// Publishes and archives what is committed.
    pub fn catch_up(&mut self, source: &mut dyn Source) -> Result<()> {
        if !self.unpublished.is_empty() {
            self.publisher.publish(&self.unpublished.iter().map(|(committed, _)| committed))?;
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        for (committed, input) in std::mem::take(&mut self.unpublished) {
            self.note_published(&committed);
            log(&committed);
            if let Some(input) = input {
                source.acknowledge(debt(&committed), input);
            }
        }
        self.archive(source)
    }

    /// Archives what is committed, as far as it can be now.
    fn archive(&mut self, source: &mut dyn Source) -> Result<()> {
        loop {
            let done = source.archive();
            let told = self.take_news(source)?;
            done?;
            if !told {
                return Ok(());
            }
        }
    }

    /// Takes over what the source has archived. That an input was altered is told to the ledger at once; returns
    /// whether one was.
    fn take_news(&mut self, source: &mut dyn Source) -> Result<bool> {
        let mut told = false;
        while let Some((debt, path)) = source.next_altered() {
            self.note_altered(debt, path)?;
            source.altered_is_told();
            told = true;
        }
        if source.is_unsynced() {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        let Acknowledged { archived, named, gone, elsewhere, written } = source.take_acknowledged();
        self.released.named.extend(named);
        self.released.gone.extend(gone);
        self.released.elsewhere.extend(elsewhere);
        for path in written {
            self.late_writes.note(path);
        }
        for (debt, altered) in archived {
            self.released.archived.push(debt.sequence);
            match altered {
                Some(path) => self.late_writes.note(path),
                None => self.prune_late(&debt, source),
            }
        }
        Ok(told)
    }

    fn note_published(&mut self, committed: &Committed) {
        self.published = Some(committed.sequence());
        let to_files = committed.owed().filter(|span| !self.is_delivered(span.addition.target));
        let files = to_files.filter_map(|span| match &span.addition.payload {
            Payload::File(name) => Some(name.clone()),
            Payload::Memory(_) => None,
        });
        self.staged_files.extend(files.collect::<Vec<_>>());
    }

    /// At the start: publishes and archives what the ledger owes.
    pub fn recover(&mut self, source: &mut dyn Source) -> Result<()> {
        let owed = self.publisher.recover(&mut self.ledger)?;
        let unarchived = self.ledger.unarchived()?;
        if !owed.is_empty() {
            tracing::info!(microbatches = owed.len(), "recovering what was committed");
        }
        for committed in owed {
            self.note_published(&committed);
            if let Some(home) = unarchived.get(&committed.sequence()) {
                source.owes(Debt { home: *home, ..debt(&committed) });
            }
        }
        self.archive(source)?;
        self.sync(source)?;
        self.release()
    }

    /// When the windows of a quiet folder are to be closed.
    pub fn idle_due(&self) -> Option<Instant> {
        self.views.idle_due()
    }

    /// Replaces the results of views that are due by now.
    pub fn replace_views(&mut self, now: Instant) -> Result<()> {
        self.views.replace_due(&mut self.ledger, now)
    }

    /// Replaces all results of views that are out of date.
    pub fn replace_all_views(&mut self) -> Result<()> {
        while let Some(due) = self.views.due() {
            self.views.replace_due(&mut self.ledger, due)?;
        }
        Ok(())
    }

    /// When what was published is to become durable.
    pub fn sync_due(&self) -> Option<Instant> {
        self.unsynced_since.map(|since| since + SYNC_AFTER)
    }

    /// Makes everything published and archived durable. The ledger hears of it with the next
    /// commit, or by [`Pipeline::release`].
    pub fn sync(&mut self, source: &mut dyn Source) -> Result<()> {
        let files = self.publisher.sync()?;
        self.released.files.extend(files);
        source.sync()?;
        self.take_news(source)?;
        if source.is_unsynced() {
            // An input was found altered, and the ledger knows by now.
            source.sync()?;
            self.take_news(source)?;
        }
        self.unsynced_since = None;
        self.released.published = self.published.take().or(self.released.published);
        self.released_files.append(&mut self.staged_files);
        Ok(())
    }

    /// Tells the ledger what is durable, when no commit comes to carry it.
    pub fn release(&mut self) -> Result<()> {
        if !self.released.is_empty() {
            self.ledger.release(&self.released)?;
        }
        self.forget_released();
        Ok(())
    }

    fn forget_released(&mut self) {
        self.released = Released::default();
        // One that cannot be removed stops nothing, and the next start sweeps it.
        let released = std::mem::take(&mut self.released_files);
        self.discard(&released);
    }
}

/// A file that fails is set aside. Messages stay where they are, and nobody would find them again.
fn can_fail(batches: &[Microbatch]) -> Result<()> {
    let of_messages = |batch: &&Microbatch| !batch.progress.is_empty();
    let mut failed = batches.iter().filter(of_messages);
    let Some((name, reason)) =
        failed.find_map(|batch| Some((&batch.name, batch.quarantined.as_ref()?)))
    else {
        return Ok(());
    };
    Err(Failure::halt(format!(
        "the messages {} cannot be processed: {reason}; mend the transform, or let it reject them",
        crate::telemetry::text(name)
    )))
}

/// Notes where the input was, for the commit.
fn at_home(Prepared { batch, input, .. }: Prepared, source: &dyn Source) -> (Microbatch, Input) {
    (Microbatch { home: source.home_of(&input), ..batch }, input)
}

/// The mistake of the shell script, for the test that must catch it.
fn rename_first(group: &[Prepared], source: &dyn Source) -> Result<()> {
    let Some(folder) = source.as_folder().map(FolderSource::folder) else { return Ok(()) };
    for prepared in group {
        let mut archived = OsString::from("processed-");
        archived.push(&prepared.batch.name);
        folder.rename_no_replace(&prepared.batch.name, folder, &archived)?;
    }
    Ok(())
}
