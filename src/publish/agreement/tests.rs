//! A model: jobs with copies of one ledger, a target that remembers one number, and an adversary between them
//! that crashes, delays, loses answers, copies ledgers and restores the target.
//!
//! Property: whenever a process takes a mark for its own, what the target holds is what its ledger says, record by
//! record, and nothing that it knows to be delivered is delivered again. A target that is restored ends every session: what its own log forgets in silence is not modelled.

use super::*;
use crate::microbatch::Instance;

/// Records of each microbatch.
const RECORDS: u64 = 2;

/// Which rule is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// The mark is read before the earlier owner is fenced.
    ReadsBeforeFence,
    /// Any instance that the ledger knows counts as its own.
    AnyKnownInstance,
    /// Any instance at all.
    AnyInstance,
    /// A target that holds less is sent the rest again.
    GoesBack,
}

type Record = (u64, u64, u64);

#[derive(Debug, Clone)]
struct Transaction {
    epoch: u64,
    records: Vec<Record>,
    held: Held,
}

#[derive(Debug, Default)]
struct Target {
    epoch: u64,
    log: Vec<(Vec<Record>, Held)>,
}

impl Target {
    fn held(&self) -> Option<Held> {
        self.log.last().map(|(_, held)| *held)
    }

    fn records(&self) -> Vec<Record> {
        self.log.iter().flat_map(|(records, _)| records.clone()).collect()
    }
}

/// The content of a ledger, which a copy of it takes along.
#[derive(Debug, Clone, Default)]
struct Durable {
    /// Of each microbatch: what it is made of, and the number of the start that committed it.
    committed: Vec<(u64, u64)>,
    instances: Vec<Instance>,
    confirmed: Option<Held>,
}

impl Durable {
    fn committed_by(&self, sequence: u64) -> u64 {
        let at = usize::try_from(sequence).unwrap().checked_sub(1);
        at.and_then(|at| self.committed.get(at)).map_or(0, |(_, number)| *number)
    }

    /// The records before a mark.
    fn before(&self, mark: Mark) -> Vec<Record> {
        let all = self.committed.iter().zip(1..).flat_map(|((content, _), microbatch)| {
            (0..RECORDS).map(move |record| (microbatch, record, *content))
        });
        all.filter(|(microbatch, record, _)| {
            Mark { microbatch: *microbatch, record: *record } < mark
        })
        .collect()
    }
}

#[derive(Debug, Default)]
struct Process {
    durable: Durable,
    /// Up: its instance.
    instance: Option<Instance>,
    /// Open: the epoch that it works in.
    epoch: Option<u64>,
    was_open: bool,
    /// Of an open in two steps: that something was read, and what.
    has_read: bool,
    read: Option<Held>,
    confirmed: Option<Held>,
    sent: Option<Transaction>,
    is_stopped: bool,
}

struct Model {
    wrong: Wrong,
    random: u64,
    next: u64,
    target: Target,
    processes: Vec<Process>,
    /// Sent by processes that are gone.
    late: Vec<Transaction>,
    agreed: usize,
}

impl Model {
    fn new(wrong: Wrong, seed: u64) -> Self {
        let processes = vec![Process::default()];
        let target = Target::default();
        Self { wrong, random: seed, next: 0, target, processes, late: Vec::new(), agreed: 0 }
    }

    /// `SplitMix64` (Steele et al., OOPSLA 2014).
    fn below(&mut self, end: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let once = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let twice = (once ^ (once >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((twice ^ (twice >> 31)) % (end as u64)).unwrap()
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// One step of one process, or of the adversary. `Err` when the property is broken.
    fn step(&mut self) -> Result<(), String> {
        let who = self.below(self.processes.len());
        match self.below(20) {
            0 => self.crash(who),
            1 if self.processes.len() < 3 => {
                let durable = self.processes[who].durable.clone();
                self.processes.push(Process { durable, ..Process::default() });
            }
            2 if self.below(6) == 0 => {
                // Restored from a backup.
                self.target.log.pop();
                self.target.epoch += 1;
            }
            3..=4 => {
                let process = &mut self.processes[who];
                process.durable.confirmed = process.confirmed.or(process.durable.confirmed);
            }
            5..=6 if !self.late.is_empty() => {
                let at = self.below(self.late.len());
                let late = self.late.swap_remove(at);
                self.land(&late);
            }
            7..=9 => self.commit(who),
            10..=12 => self.send(who),
            13..=15 => return self.answer(who),
            _ => return self.open(who),
        }
        Ok(())
    }

    fn crash(&mut self, who: usize) {
        let process = &mut self.processes[who];
        self.late.extend(process.sent.take());
        *process = Process {
            durable: process.durable.clone(),
            is_stopped: process.is_stopped,
            ..Process::default()
        };
    }

    fn commit(&mut self, who: usize) {
        let content = self.fresh();
        let process = &mut self.processes[who];
        let Some(instance) = process.instance.filter(|_| process.was_open) else { return };
        if !process.durable.instances.contains(&instance) {
            process.durable.instances.push(instance);
        }
        let number = process.durable.instances.len() as u64;
        process.durable.committed.push((content, number));
    }

    /// Sends the next record, or all of the microbatch that are left.
    fn send(&mut self, who: usize) {
        let some = self.below(2) == 0;
        let process = &mut self.processes[who];
        let (Some(instance), Some(epoch)) = (process.instance, process.epoch) else { return };
        let from = process.confirmed.map_or(Mark { microbatch: 1, record: 0 }, |held| held.mark);
        if process.sent.is_some() || from.microbatch > process.durable.committed.len() as u64 {
            return;
        }
        if !process.durable.instances.contains(&instance) {
            process.durable.instances.push(instance);
        }
        let next = Mark { record: from.record + 1, ..from };
        let to = if some && next.record < RECORDS { next } else { Mark::after(from.microbatch) };
        let records = process.durable.before(to).split_off(process.durable.before(from).len());
        process.sent = Some(Transaction { epoch, records, held: Held { mark: to, instance } });
    }

    fn land(&mut self, sent: &Transaction) -> bool {
        let is_owner = sent.epoch == self.target.epoch;
        if is_owner {
            self.target.log.push((sent.records.clone(), sent.held));
        }
        is_owner
    }

    /// The transaction arrives, or does not; then its answer does, or does not.
    fn answer(&mut self, who: usize) -> Result<(), String> {
        let Some(sent) = self.processes[who].sent.take() else { return Ok(()) };
        let arrives = self.below(4) > 0;
        let landed = arrives && self.land(&sent);
        if !arrives && self.below(2) == 0 {
            self.late.push(sent.clone());
        }
        if landed && self.below(4) > 0 {
            return self.takes(who, Some(sent.held));
        }
        // Unknown.
        self.processes[who].epoch = None;
        Ok(())
    }

    /// Starts the process, or opens the target.
    fn open(&mut self, who: usize) -> Result<(), String> {
        let id = self.fresh();
        let process = &mut self.processes[who];
        if process.is_stopped {
            return Ok(());
        }
        if process.instance.is_none() {
            process.instance = Some(Instance(u128::from(id).to_be_bytes()));
            process.confirmed = process.durable.confirmed;
            return Ok(());
        }
        if process.epoch.is_some() {
            return Ok(());
        }
        if self.wrong == Wrong::ReadsBeforeFence && !process.has_read {
            process.has_read = true;
            process.read = self.target.held();
            return Ok(());
        }
        self.target.epoch += 1;
        let early = process.read.take();
        let held = if std::mem::take(&mut process.has_read) { early } else { self.target.held() };
        match self.agrees(who, held) {
            Ok(held) => {
                self.takes(who, held)?;
                self.processes[who].epoch = Some(self.target.epoch);
                self.processes[who].was_open = true;
            }
            Err(_) => self.processes[who].is_stopped = true,
        }
        Ok(())
    }

    fn agrees(&self, who: usize, held: Option<Held>) -> Result<Option<Held>, Disagreement> {
        let process = &self.processes[who];
        let number_of = |instance| {
            let known = process.durable.instances.iter().chain(&process.instance);
            let at =
                known.zip(1..).find(|(known, _)| **known == instance).map(|(_, number)| number);
            at.or((self.wrong == Wrong::AnyInstance).then_some(u64::MAX))
        };
        let committed_by = |sequence: u64| match self.wrong {
            Wrong::AnyKnownInstance => 0,
            _ => process.durable.committed_by(sequence),
        };
        let confirmed = process.confirmed.filter(|confirmed| {
            self.wrong != Wrong::GoesBack || held.is_some_and(|held| held.mark >= confirmed.mark)
        });
        let last = process.durable.committed.len() as u64;
        let by = held.and_then(|held| number_of(held.instance));
        let committed_by = held.map_or(0, |held| committed_by(held.mark.last()));
        agree(held, &Known { confirmed, last, by, committed_by })
    }

    /// A process takes a mark for its own.
    fn takes(&mut self, who: usize, held: Option<Held>) -> Result<(), String> {
        let process = &mut self.processes[who];
        let mark = held.map_or(Mark::default(), |held| held.mark);
        if process.confirmed.is_some_and(|confirmed| confirmed.mark > mark) {
            return Err(format!("what is after {mark} is delivered twice"));
        }
        process.confirmed = held;
        let there = self.target.records();
        let said = process.durable.before(mark);
        self.agreed += said.len();
        if there == said {
            Ok(())
        } else {
            Err(format!("{mark}: {there:?} is there, the ledger says {said:?}"))
        }
    }
}

/// Runs many stories; returns the first in which the property is broken.
fn explore(wrong: Wrong) -> (usize, Option<String>) {
    let mut agreed = 0;
    for seed in 0..20_000 {
        let mut model = Model::new(wrong, seed);
        for _ in 0..120 {
            if let Err(found) = model.step() {
                return (agreed, Some(format!("seed {seed}: {found}")));
            }
        }
        agreed += model.agreed;
    }
    (agreed, None)
}

#[test]
fn a_mark_that_agrees_tells_what_is_there() {
    let (agreed, found) = explore(Wrong::Nothing);
    assert_eq!(found, None);
    // Not because nothing was ever delivered.
    assert!(agreed > 50_000, "{agreed}");
}

#[test]
fn each_rule_is_needed() {
    for wrong in
        [Wrong::ReadsBeforeFence, Wrong::AnyKnownInstance, Wrong::AnyInstance, Wrong::GoesBack]
    {
        assert!(explore(wrong).1.is_some(), "{wrong:?}");
    }
}
