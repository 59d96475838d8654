//! How the complete files of a job are taken in groups, and made into microbatches.
//!
//! Invariants: what is taken from the source is committed in the order in which it was taken; what
//! failed is dealt with here, unless it concerns more than its file.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::job::{Job, flow, tolerance};
use super::pressure::check_disk;
use crate::decode::compression::Kind;
use crate::failure::{Failure, Result};
use crate::pipeline::flow::Flow;
use crate::pipeline::prepare::{NotPrepared, Preparation};
use crate::pipeline::prepared::Prepared;
use crate::pipeline::views::Closed;
use crate::pulse::Pulse;
use crate::source::{Input, Key, Why};
use crate::transform::Transform;
use crate::transform::command::Bounds;

/// A group is committed when it has taken this long: the first of it should not wait for more.
const GROUP_TIME: Duration = Duration::from_millis(20);

/// A group is committed when it holds this many staged bytes.
const GROUP_BYTES: u64 = 8 << 20;

/// An input larger than this is a group of its own, so that what came before it does not wait.
const LARGE_BYTES: u64 = 4 << 20;

/// Files prepared on one thread before the next look at the clock.
const SHARE: usize = 32;

impl Job {
    /// Prepares files until the group is full or nothing is complete. What failed is dealt with;
    /// a failure that concerns more than its file ends the group.
    pub(super) fn gather(&mut self, pulse: &Pulse) -> (Vec<Prepared>, Option<Failure>) {
        let started = Instant::now();
        let mut group = Vec::new();
        let mut bytes = 0;
        let closed = match self.pipeline.views.closed(&self.pipeline.ledger) {
            Ok(closed) => closed,
            Err(failure) => return (group, Some(failure)),
        };
        while group.len() < self.files_at_once
            && bytes < GROUP_BYTES
            && (group.is_empty() || started.elapsed() < GROUP_TIME)
        {
            let (inputs, mut trouble) = self.take(group.len());
            if inputs.is_empty() {
                return (group, trouble);
            }
            // A table that was replaced before a file came counts for that file.
            self.queries.refresh();
            let large = inputs.iter().any(is_large);
            let mut waits = false;
            let is_command = matches!(self.config.written.transform, Transform::Command(_));
            for prepared in self.prepare(inputs, &group, &closed, pulse) {
                let next = self.pipeline.ledger.last_sequence() + 1 + group.len() as u64;
                let told_wrong =
                    |prepared: &Prepared| is_command && prepared.input.expected != next;
                match prepared {
                    // What comes after a failure must not overtake it, and a command was told its number.
                    Ok(prepared) if waits || trouble.is_some() || told_wrong(&prepared) => {
                        self.give_back(prepared);
                    }
                    Ok(prepared) if !self.has_room_for(&prepared) => {
                        let (input, failure) = self.no_room(prepared);
                        trouble = self.not_prepared(input, failure).or(trouble);
                        waits |= self.source.is_ordered();
                    }
                    Ok(mut prepared) => {
                        if self.pipeline.link(&mut prepared, &group) {
                            bytes += staged_bytes(&prepared);
                            group.push(prepared);
                        } else {
                            waits = true;
                            self.give_back(prepared);
                        }
                    }
                    Err(failed) => {
                        let (input, failure) = *failed;
                        trouble = self.not_prepared(input, failure).or(trouble);
                        waits |= self.source.is_ordered();
                    }
                }
            }
            if waits || trouble.is_some() {
                return (group, trouble);
            }
            if large {
                break;
            }
        }
        (group, None)
    }

    /// The next inputs in order: as many as are worth spreading over the workers, or a large one
    /// alone. A failure ends them.
    fn take(&mut self, already: usize) -> (Vec<Input>, Option<Failure>) {
        let left = self.files_at_once.saturating_sub(already);
        let share =
            if matches!(self.config.written.transform, Transform::Command(_)) { 1 } else { SHARE };
        let mut inputs = Vec::new();
        let next = self.pipeline.ledger.last_sequence() + 1 + already as u64;
        while inputs.len() < left.min(share * self.config.workers) {
            let mut input = match self.next_input() {
                Ok(Some(input)) => input,
                Ok(None) => break,
                // With what is committed, descriptors are free again.
                Err(Failure::Transient(_)) if already > 0 || !inputs.is_empty() => break,
                Err(failure) => return (inputs, Some(failure)),
            };
            input.expected = next + inputs.len() as u64;
            if !is_large(&input) {
                inputs.push(input);
            } else if inputs.is_empty() && already == 0 {
                inputs.push(input);
                break;
            } else {
                self.carried = Some(input);
                break;
            }
        }
        (inputs, None)
    }

    /// The next complete input that is not committed yet.
    fn next_input(&mut self) -> Result<Option<Input>> {
        if let Some(input) = self.carried.take() {
            return Ok(Some(input));
        }
        self.source.take()
    }

    /// Prepares inputs, on all workers where there are several.
    fn prepare(
        &self,
        inputs: Vec<Input>,
        group: &[Prepared],
        closed: &Closed,
        pulse: &Pulse,
    ) -> Vec<std::result::Result<Prepared, NotPrepared>> {
        let preparation = self.preparation(closed, pulse);
        let share = inputs.len().div_ceil(self.config.workers);
        let views = &self.pipeline.views;
        if views.has_event_time() {
            let mut watermark = views.watermark_after(self.pipeline.ledger.watermark(), group);
            let next = |input| {
                let prepared = preparation.prepare(input, watermark)?;
                watermark = views.watermark_after(watermark, std::slice::from_ref(&prepared));
                Ok(prepared)
            };
            return inputs.into_iter().map(next).collect();
        }
        // Queries over whole files share the memory: side by side, one could starve another.
        if inputs.len() < 2 || self.config.workers < 2 || self.queries.is_greedy() {
            return inputs.into_iter().map(|input| preparation.prepare(input, None)).collect();
        }
        let alone = |input| preparation.prepare(input, None);
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            let mut left = inputs.into_iter();
            while left.len() > 0 {
                let shared = Mutex::new(left.by_ref().take(share).collect::<Vec<Input>>());
                let mine = Arc::new(shared);
                let theirs = mine.clone();
                let work = move || taken(&theirs).into_iter().map(alone).collect::<Vec<_>>();
                let started = std::thread::Builder::new().spawn_scoped(scope, work);
                threads.push((started.ok(), mine));
            }
            // What no thread could be started for is done here.
            let prepared = threads.into_iter().flat_map(|(thread, mine)| match thread {
                Some(thread) => thread.join().expect("preparing does not panic"),
                None => taken(&mine).into_iter().map(alone).collect(),
            });
            prepared.collect()
        })
    }

    fn preparation<'a>(&'a self, closed: &'a Closed, pulse: &'a Pulse) -> Preparation<'a> {
        let [output, rejects] = self.targets;
        let plain = flow(&self.config, &self.queries, Bounds::Microbatch, pulse);
        Preparation {
            flow: Flow { messages: self.messages.as_ref(), ..plain },
            compression: self.config.written.input.compression,
            folder: self.config.directory.as_deref().unwrap_or(Path::new("/")),
            tolerance: tolerance(&self.config),
            staging: &self.staging,
            parts: self.parts.as_ref(),
            output,
            rejects,
            late: self.late,
            views: &self.pipeline.views,
            closed,
        }
    }

    /// Handles a file that did not become a microbatch; returns a failure that concerns more than this file.
    fn not_prepared(&mut self, input: Input, failure: Failure) -> Option<Failure> {
        let file = crate::telemetry::text(input.name());
        match failure {
            Failure::Changed => {
                tracing::debug!(file, "the file changed while it was read; it settles again");
                self.source.give_back(input);
            }
            Failure::Incomplete(reason) => {
                tracing::info!(file, reason, "the file may still be arriving; it waits");
                self.source.put_off(input, Why::Incomplete);
            }
            Failure::Unreadable(error) => {
                tracing::warn!(file, %error, "the file cannot be read; it waits, others go on");
                self.source.put_off(input, Why::Unreadable);
            }
            Failure::Later(reason) => {
                tracing::warn!(file, reason, "the file is tried later; it waits, others go on");
                self.source.put_off(input, Why::Later);
            }
            Failure::NoRoom(reason) => {
                tracing::warn!(
                    file,
                    reason,
                    "the output of the file does not fit; it waits, others go on"
                );
                self.source.put_off(input, Why::NoRoom);
            }
            failure => {
                self.source.give_back(input);
                return Some(failure);
            }
        }
        None
    }

    /// False when publishing what this file makes would leave too little room for everything else.
    fn has_room_for(&self, prepared: &Prepared) -> bool {
        let bytes = staged_bytes(prepared);
        let least = self.config.written.engine.min_free.0;
        bytes < LARGE_BYTES
            || check_disk(self.output_folders(), bytes.saturating_add(least)).is_ok()
    }

    fn no_room(&self, prepared: Prepared) -> (Input, Failure) {
        let reason = format!(
            "its records have {} bytes, which is more than is free where they go",
            staged_bytes(&prepared)
        );
        (self.pipeline.take_apart(prepared), Failure::NoRoom(reason))
    }

    /// An input that ends the job is the last of its group; it waits until what stands before it
    /// and only needs to be left alone has been taken.
    pub(super) fn cut_at_end(&mut self, group: &mut Vec<Prepared>) {
        let Some(at) = group.iter().position(|prepared| prepared.ended) else {
            for prepared in group.iter() {
                self.source.reopen(&prepared.input.key);
            }
            return;
        };
        let mut behind = group.split_off(at);
        let end = behind.first().map(|prepared| prepared.input.key.clone());
        self.give_back_carried();
        self.source.close(end.clone());
        let ends = end.is_some_and(|end: Key| self.source.is_drained_before(&end));
        if ends {
            group.extend(behind.drain(..1));
        }
        for prepared in behind {
            self.give_back(prepared);
        }
    }

    /// Returns a prepared input to the queue; it is prepared again when its turn comes.
    fn give_back(&mut self, prepared: Prepared) {
        self.pipeline.give_back(prepared, self.source.as_mut());
    }

    pub(super) fn give_back_carried(&mut self) {
        if let Some(input) = self.carried.take() {
            self.source.give_back(input);
        }
    }
}

fn taken(inputs: &Mutex<Vec<Input>>) -> Vec<Input> {
    std::mem::take(&mut inputs.lock().unwrap_or_else(PoisonError::into_inner))
}

fn is_large(input: &Input) -> bool {
    input.size() > LARGE_BYTES || Kind::of_name(input.name()) != Kind::Plain
}

fn staged_bytes(prepared: &Prepared) -> u64 {
    prepared.batch.additions.iter().map(|addition| addition.length).sum()
}
