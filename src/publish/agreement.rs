//! Does the mark that a remote target holds agree with the ledger?
//!
//! Invariants: a mark that is ahead of what the target has confirmed is our own, with the answer lost, only if
//! it was written by the start that committed the microbatch before it, or by a later one of this ledger. An
//! earlier start of this ledger may live on in a copy of it.

use crate::microbatch::{Held, Mark};

/// A remote target, as the ledger knows it.
pub struct Known {
    /// The last mark that the target has confirmed.
    pub confirmed: Option<Held>,
    /// The last committed microbatch; 0 before the first.
    pub last: u64,
    /// The number of the start that wrote the mark, if the ledger knows it.
    pub by: Option<u64>,
    /// The number of the start that committed the last microbatch before the mark.
    pub committed_by: u64,
}

/// Why a mark does not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disagreement {
    /// The target has forgotten what it has confirmed.
    WentBack(Held, Option<Held>),
    /// The target is ahead of the ledger: this is an older copy of it.
    Ahead(Held, u64),
    /// Another process with a copy of the ledger has written it.
    Foreign(Held),
}

impl std::fmt::Display for Disagreement {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::WentBack(confirmed, held) => {
                write!(
                    formatter,
                    "it had confirmed everything before {}, and now holds ",
                    confirmed.mark
                )?;
                match held {
                    Some(held) => write!(formatter, "what is before {}", held.mark)?,
                    None => write!(formatter, "nothing of this job")?,
                }
                write!(formatter, ": it was restored or made again")
            }
            Self::Ahead(Held { mark, instance }, last) => write!(
                formatter,
                "it holds everything before {mark}, written by instance {instance}, and the last microbatch of \
                 the ledger is {last}: the ledger is an older copy"
            ),
            Self::Foreign(Held { mark, instance }) => write!(
                formatter,
                "everything before {mark} was written by instance {instance}, which worked with a copy of this \
                 ledger"
            ),
        }
    }
}

/// Compares what a target holds with the ledger.
///
/// # Errors
/// Only a person can decide which of the two is right.
pub fn agree(held: Option<Held>, known: &Known) -> Result<Option<Held>, Disagreement> {
    let Some(held) = held else {
        return known
            .confirmed
            .map_or(Ok(None), |confirmed| Err(Disagreement::WentBack(confirmed, None)));
    };
    if held.mark > Mark::after(known.last) {
        return Err(Disagreement::Ahead(held, known.last));
    }
    if let Some(confirmed) = known.confirmed.filter(|confirmed| held.mark < confirmed.mark) {
        return Err(Disagreement::WentBack(confirmed, Some(held)));
    }
    let is_confirmed = known.confirmed == Some(held);
    let is_moved = known.confirmed.is_none_or(|confirmed| confirmed.mark < held.mark);
    let is_ours = known.by.is_some_and(|by| by >= known.committed_by);
    if is_confirmed || (is_moved && is_ours) {
        Ok(Some(held))
    } else {
        Err(Disagreement::Foreign(held))
    }
}

#[cfg(test)]
mod tests;
