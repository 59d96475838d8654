//! Many committed inputs are archived while the next group is gathered.
//!
//! Invariants: one batch of files is under way at a time, and what became of it is collected before
//! anything else is archived or made durable. Nothing is decided here: see [`crate::source::folder::acknowledge`].

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::{Archived, Archiver, Touched};
use crate::durable::Dir;
use crate::failure::{Failure, Result};
use crate::source::folder::input::file_of;
use crate::source::folder::rules::Rules;
use crate::source::{Debt, Input};

/// Files to be archived, and what that takes.
pub struct Load {
    pub archiver: Arc<Archiver>,
    pub folder: Arc<Dir>,
    pub rules: Arc<Rules>,
    pub files: Vec<(Debt, Input)>,
    pub touched: Touched,
}

/// The outcome of a load.
pub struct Unloaded {
    /// With the files still open: until it is told, no other file has the inode of one that was deleted.
    pub archived: Vec<(Debt, Input, Result<Archived>)>,
    pub touched: Touched,
}

/// A thread that archives, started when there is something for it.
#[derive(Default)]
pub struct Background {
    thread: Option<(SyncSender<Load>, Receiver<Unloaded>)>,
    is_busy: bool,
}

impl Background {
    /// True while a load is under way or waits to be collected.
    pub fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Archives these files, and returns at once. Where no thread can be had they are given back.
    pub fn start(&mut self, load: Load) -> std::result::Result<(), Box<Load>> {
        if self.thread.is_none() {
            self.thread = spawn();
        }
        let Some((give, _)) = &self.thread else { return Err(Box::new(load)) };
        give.send(load).map_err(|unsent| Box::new(unsent.0))?;
        self.is_busy = true;
        Ok(())
    }

    /// Waits for the load that is under way, if one is.
    pub fn collect(&mut self) -> Result<Option<Unloaded>> {
        if !std::mem::take(&mut self.is_busy) {
            return Ok(None);
        }
        let unloaded = self.thread.as_ref().and_then(|(_, take)| take.recv().ok());
        unloaded.map(Some).ok_or_else(|| Failure::fatal("the thread that archives died"))
    }
}

fn spawn() -> Option<(SyncSender<Load>, Receiver<Unloaded>)> {
    let (give, loads) = sync_channel::<Load>(1);
    let (done, take) = sync_channel(1);
    let work = move || {
        for load in loads {
            if done.send(unload(load)).is_err() {
                break;
            }
        }
    };
    std::thread::Builder::new().name("archive".to_owned()).spawn(work).ok()?;
    Some((give, take))
}

fn unload(load: Load) -> Unloaded {
    let Load { archiver, folder, rules, files, mut touched } = load;
    let archive = |(debt, input): (Debt, Input)| {
        let opened = file_of(&input);
        let archived = archiver.archive(&folder, &rules, &debt, opened, &mut touched);
        (debt, input, archived)
    };
    let archived = files.into_iter().map(archive).collect();
    Unloaded { archived, touched }
}
