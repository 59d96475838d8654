//! The way to one remote system: what is owed to its targets is sent, one transaction after the other.
//!
//! Invariants: the calls run on a thread of their own, so that a system which is away keeps nothing else
//! waiting. What is sent is read from the ledger each time: the first attempt and all others are the same. After
//! any error of which the outcome is unknown the system is opened again, and its mark decides.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::agreement::{Known, agree};
use crate::clock::Backoff;
use crate::failure::{Failure, Result};
use crate::ledger::{Committed, Ledger, Remote as Row, cost};
use crate::microbatch::{Addition, Confirmed, Held, Instance, Mark, Microbatch, Refusal, Target};
use crate::sink::remote::{Fix, Fixing, NotPublished, Opening, Remote};

/// The first pause before a system is opened again, and the longest.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));

/// Bytes that are handed over at once; a system takes as many as fit into a transaction of its own.
const SENT_AT_ONCE: u64 = 64 << 20;

/// A client without an order is called this often.
const IDLE: Duration = Duration::from_secs(10);

/// A client that is left has this long to go.
const LEAVES: Duration = Duration::from_secs(2);

/// Records of a microbatch that a system may refuse.
const MAX_REFUSED: usize = 1_000;

/// The outcomes of deliveries since the last look.
#[derive(Debug, Default)]
pub struct News {
    /// Marks that systems have confirmed, by their names.
    pub confirmed: Vec<(Box<str>, Confirmed)>,
    /// Staged files that nothing needs any more, once the ledger knows the marks.
    pub files: Vec<OsString>,
    /// Records that were refused: until the ledger knows of them, they are sent again.
    pub refusals: Vec<Refusal>,
}

/// The way to one remote system.
pub struct Delivery {
    name: Box<str>,
    targets: Vec<Target>,
    fix: Option<Fix>,
    /// Nobody gives any more when it is gone.
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    answers: Receiver<Answer>,
    /// An answer that was waited for.
    early: Option<Answer>,
    state: State,
    confirmed: Option<Confirmed>,
    /// The last microbatch that is being sent.
    sent: u64,
    /// The cost of what is committed and not confirmed.
    owed: u64,
    max_owed: u64,
    pauses: Backoff,
    patience: Duration,
    /// Why it is away, and since when.
    trouble: Option<(String, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be opened at this moment.
    Closed(Instant),
    Opening,
    Open,
    Sending,
}

enum Order {
    Open(Option<Confirmed>, Vec<Committed>),
    Publish(Vec<Committed>, Mark, Instance),
}

enum Answer {
    Opened(Result<Option<Confirmed>>),
    Published(std::result::Result<Confirmed, NotPublished>),
}

/// A way before it is opened.
pub struct Way<'a> {
    /// The system.
    pub name: &'a str,
    /// Those of its targets that the job writes to.
    pub targets: Vec<Target>,
    /// As the ledger knows it.
    pub row: Row,
    /// Bytes that may be owed to it: commits run ahead of it by no more.
    pub max_owed: u64,
    /// How long `--once` waits for it while it is away.
    pub patience: Duration,
}

impl Delivery {
    /// Starts the thread of a way. `wake` is called after each answer.
    ///
    /// # Errors
    /// `Transient` when no thread can be started.
    pub fn new(
        way: Way<'_>,
        ledger: &Ledger,
        remote: Box<dyn Remote>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self> {
        let Way { name, targets, row, max_owed, patience } = way;
        let (orders, taken) = channel();
        let (given, answers) = channel();
        let fix = remote.fix();
        let thread = std::thread::Builder::new()
            .name(format!("deliver {name}"))
            .spawn(move || work(remote, &taken, &given, &*wake))
            .map_err(|error| Failure::Transient(error.into()))?;
        let from = mark_of(row.confirmed.as_ref());
        let owed = ledger.freed(name, from, Mark::after(ledger.last_sequence()))?.cost;
        Ok(Self {
            name: name.into(),
            targets,
            fix,
            orders: Some(orders),
            thread: Some(thread),
            answers,
            early: None,
            state: State::Closed(Instant::now()),
            confirmed: row.confirmed,
            sent: 0,
            owed,
            max_owed,
            pauses: PAUSES,
            patience,
            trouble: None,
        })
    }

    /// True when this target is on it.
    pub fn delivers(&self, target: Target) -> bool {
        self.targets.contains(&target)
    }

    /// True when it was opened, and agreed with the ledger.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Sending)
    }

    /// True while something is being sent.
    pub fn is_sending(&self) -> bool {
        self.state == State::Sending
    }

    /// True when something is committed and not confirmed.
    pub fn owes(&self) -> bool {
        self.owed > 0
    }

    /// True when no more may be committed before it has confirmed something.
    pub fn is_full(&self) -> bool {
        self.owed >= self.max_owed
    }

    /// Why nothing can be done now but to wait, if so.
    pub fn waits_for_it(&self) -> Option<&str> {
        let trouble = self.trouble.as_ref().filter(|_| matches!(self.state, State::Closed(_)));
        trouble.map(|(trouble, _)| trouble.as_str())
    }

    /// The same when it has been so for longer than `--once` waits.
    pub fn waits_too_long(&self) -> Option<&str> {
        let since = self.trouble.as_ref().map(|(_, since)| *since)?;
        self.waits_for_it().filter(|_| since.elapsed() >= self.patience)
    }

    /// Why it is away, if it is, and how often it was tried.
    pub fn trouble(&self) -> Option<(&str, u32)> {
        let (trouble, _) = self.trouble.as_ref()?;
        Some((trouble, self.pauses.tries()))
    }

    /// When it is to be opened again.
    pub fn due(&self) -> Option<Instant> {
        if let State::Closed(again) = self.state { Some(again) } else { None }
    }

    /// Fixes what must not change when these microbatches are sent again.
    pub fn fix(&self, group: &mut [Microbatch], ledger: &Ledger) -> Result<()> {
        let Some(fix) = &self.fix else { return Ok(()) };
        for target in &self.targets {
            let mut before = ledger.fixed(*target)?;
            for (batch, sequence) in group.iter_mut().zip(ledger.last_sequence() + 1..) {
                let of_target = |addition: &Addition| addition.target == *target;
                let Some(at) = batch.additions.iter().position(of_target) else { continue };
                let mut addition = batch.additions.remove(at);
                before = fix(&Fixing { sequence, batch, addition: &addition, before: &before })?;
                addition.fixed.clone_from(&before);
                batch.additions.insert(at, addition);
            }
        }
        Ok(())
    }

    /// More is owed.
    pub fn note_committed(&mut self, group: &[Committed]) {
        let spans = group.iter().flat_map(Committed::owed);
        let ours = spans.filter(|span| self.delivers(span.addition.target));
        self.owed += ours.map(|span| cost(span.addition.length)).sum::<u64>();
    }

    /// Waits for the answer that is awaited, at most so long. False when none is.
    pub fn wait(&mut self, most: Duration) -> bool {
        let is_awaited = matches!(self.state, State::Opening | State::Sending);
        if self.early.is_none() && is_awaited {
            self.early = self.answers.recv_timeout(most).ok();
        }
        is_awaited
    }

    /// Takes the answer, if there is one.
    ///
    /// # Errors
    /// `Halt` when what the system holds is not what the ledger says.
    pub fn take_answer(&mut self, ledger: &Ledger, news: &mut News) -> Result<()> {
        let Some(answer) = self.answer()? else { return Ok(()) };
        // Whatever fails from here on: it is opened again, and its mark decides.
        self.state = State::Closed(Instant::now());
        match answer {
            Answer::Opened(Ok(held)) => self.opened(held, ledger, news),
            Answer::Opened(Err(Failure::Fatal(error)))
            | Answer::Published(Err(NotPublished::Stop(error))) => Err(Failure::Fatal(error)),
            Answer::Opened(Err(failure)) => {
                self.is_away(&failure.into_error());
                Ok(())
            }
            Answer::Published(Ok(confirmed)) => {
                self.check_mark(confirmed.held.mark)?;
                self.confirm(confirmed, ledger, news)?;
                self.state = State::Open;
                self.is_back();
                Ok(())
            }
            Answer::Published(Err(NotPublished::Refused(refusals))) => {
                self.state = State::Open;
                self.check_refused(&refusals, ledger)?;
                news.refusals.extend(refusals);
                Ok(())
            }
            Answer::Published(Err(NotPublished::Unknown(error))) => {
                self.is_away(&error);
                Ok(())
            }
        }
    }

    /// Opens the system, if it is closed and due.
    pub fn open_if_due(&mut self, ledger: &Ledger) -> Result<()> {
        if !matches!(self.state, State::Closed(again) if again <= Instant::now()) {
            return Ok(());
        }
        let owed = ledger.owed_to(&self.name, mark_of(self.confirmed.as_ref()), SENT_AT_ONCE)?;
        self.order(Order::Open(self.confirmed.clone(), owed), State::Opening)
    }

    /// Sends what is owed next, if the system is open and idle.
    pub fn send_if_owed(&mut self, ledger: &mut Ledger) -> Result<()> {
        if self.state != State::Open || self.owed == 0 {
            return Ok(());
        }
        let from = mark_of(self.confirmed.as_ref());
        let owed = ledger.owed_to(&self.name, from, SENT_AT_ONCE)?;
        let Some(last) = owed.last() else {
            return Err(Failure::fatal(format!(
                "the ledger has lost what is owed to {}",
                self.name
            )));
        };
        self.sent = last.sequence();
        let instance = ledger.instance()?;
        self.order(Order::Publish(owed, from, instance), State::Sending)
    }

    fn answer(&mut self) -> Result<Option<Answer>> {
        if let Some(answer) = self.early.take() {
            return Ok(Some(answer));
        }
        match self.answers.recv_timeout(Duration::ZERO) {
            Ok(answer) => Ok(Some(answer)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.is_gone()),
        }
    }

    fn is_gone(&self) -> Failure {
        Failure::fatal(format!("the thread that delivers to {} has ended", self.name))
    }

    fn opened(&mut self, found: Option<Confirmed>, ledger: &Ledger, news: &mut News) -> Result<()> {
        let held = found.as_ref().map(|found| found.held);
        let known = Known {
            confirmed: self.confirmed.as_ref().map(|confirmed| confirmed.held),
            last: ledger.last_sequence(),
            by: held.map_or(Ok(None), |held| ledger.number_of(held.instance))?,
            committed_by: held.map_or(Ok(0), |held| ledger.committed_by(held.mark.last()))?,
        };
        agree(held, &known).map_err(|disagreement| {
            let path = ledger.path().display();
            Failure::halt(format!(
                "{} does not go with the ledger {path}: {disagreement}",
                self.name
            ))
        })?;
        if let Some(found) = found.filter(|found| Some(found) != self.confirmed.as_ref()) {
            self.confirm(found, ledger, news)?;
        }
        self.state = State::Open;
        if self.owed == 0 {
            self.is_back();
        }
        Ok(())
    }

    /// A system that confirms what it was not given would have it forgotten.
    fn check_mark(&self, mark: Mark) -> Result<()> {
        let from = mark_of(self.confirmed.as_ref());
        if from < mark && mark <= Mark::after(self.sent) {
            return Ok(());
        }
        let Self { name, sent, .. } = self;
        Err(Failure::fatal(format!(
            "{name} was sent what is after {from}, up to microbatch {sent}, and confirms {mark}"
        )))
    }

    fn confirm(&mut self, confirmed: Confirmed, ledger: &Ledger, news: &mut News) -> Result<()> {
        let from = mark_of(self.confirmed.as_ref());
        let freed = ledger.freed(&self.name, from, confirmed.held.mark)?;
        self.owed = self.owed.saturating_sub(freed.cost);
        self.confirmed = Some(confirmed.clone());
        news.files.extend(freed.files);
        news.confirmed.push((self.name.clone(), confirmed));
        Ok(())
    }

    fn order(&mut self, order: Order, state: State) -> Result<()> {
        let orders = self.orders.as_ref().ok_or_else(|| self.is_gone())?;
        orders.send(order).map_err(|_| self.is_gone())?;
        self.state = state;
        Ok(())
    }

    /// A system that takes almost nothing of a microbatch takes the wrong thing.
    fn check_refused(&self, refusals: &[Refusal], ledger: &Ledger) -> Result<()> {
        let mut counts: HashMap<(u64, Target), usize> = HashMap::new();
        for Refusal { sequence, target, reason, .. } in refusals {
            let count = match counts.entry((*sequence, *target)) {
                Entry::Occupied(counted) => counted.into_mut(),
                Entry::Vacant(new) => new.insert(ledger.refused(*sequence, *target)?.len()),
            };
            *count += 1;
            if *count > MAX_REFUSED {
                return Err(Failure::halt(format!(
                    "{} refuses more than {MAX_REFUSED} records of microbatch {sequence}, the last with: \
                     {reason}",
                    self.name
                )));
            }
        }
        Ok(())
    }

    fn is_away(&mut self, error: &anyhow::Error) {
        let pause = self.pauses.fail();
        let seconds = pause.as_secs_f64();
        let error = format!("{error:#}");
        tracing::warn!(target = &*self.name, error, seconds, "the target is away, trying again");
        let since = self.trouble.take().map_or_else(Instant::now, |(_, since)| since);
        self.trouble = Some((format!("{}: {error}", self.name), since));
        self.state = State::Closed(Instant::now() + pause);
    }

    fn is_back(&mut self) {
        self.pauses.reset();
        if self.trouble.take().is_some() {
            tracing::info!(target = &*self.name, "the target is back");
        }
    }
}

impl Drop for Delivery {
    /// A client is to be gone before the process ends. One that does not come back from its call is left to it.
    fn drop(&mut self) {
        self.orders = None;
        let started = Instant::now();
        let is_at_work = |thread: &JoinHandle<()>| !thread.is_finished();
        while self.thread.as_ref().is_some_and(is_at_work) && started.elapsed() < LEAVES {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn mark_of(confirmed: Option<&Confirmed>) -> Mark {
    confirmed.map_or(Mark::default(), |confirmed| confirmed.held.mark)
}

/// The thread: one call after the other, until nobody gives any more orders.
fn work(
    mut remote: Box<dyn Remote>,
    orders: &Receiver<Order>,
    answers: &Sender<Answer>,
    wake: &(dyn Fn() + Send + Sync),
) {
    loop {
        let order = match orders.recv_timeout(IDLE) {
            Ok(order) => order,
            Err(RecvTimeoutError::Timeout) => {
                remote.idle();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let answer = match order {
            Order::Open(confirmed, group) => {
                let owed: Vec<_> = group.iter().flat_map(Committed::owed).collect();
                let known = Opening { confirmed: confirmed.as_ref(), owed: &owed };
                Answer::Opened(remote.open(&known))
            }
            Order::Publish(group, from, instance) => {
                let owed: Vec<_> = group.iter().flat_map(Committed::owed).collect();
                let published = remote.publish(&owed, from, instance);
                let confirmed = |(mark, notes)| Confirmed { held: Held { mark, instance }, notes };
                Answer::Published(published.map(confirmed))
            }
        };
        if answers.send(answer).is_err() {
            return;
        }
        wake();
    }
}
