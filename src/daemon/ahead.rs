//! Would a start succeed? What only the ledger and the outputs can say, without a change to either.
//!
//! Invariants: each question is the one that a start asks, with its words.

use std::path::Path;

use crate::config::{Config, Problem};
use crate::failure::{Failure, Halt};
use crate::ledger::Ahead;
use crate::publish;
use crate::queries::Queries;
use crate::sink::file;
use crate::source::folder::claim::Claim;
use crate::status::live;

/// Checks what a start of this job would find.
///
/// # Errors
/// Says why it would fail.
pub fn check(config: &Config, queries: &Queries) -> anyhow::Result<()> {
    let folder = config.directory.as_deref().unwrap_or(Path::new("/"));
    if live::runner(&config.state).is_none() {
        // What this job's own daemon holds is right.
        super::opening::check_locks(&config.outputs()).map_err(Failure::into_error)?;
        Claim::check(folder, &super::opening::claimant(config)).map_err(Failure::into_error)?;
    }
    let Some(output) = &config.output else { return Ok(()) };
    let header = queries.output().and_then(|schema| config.written.output.format.header(&schema));
    let ledger = Ahead::open(&config.state)?;
    let known = Ahead::views_at_first(&config.state, ledger.as_ref())?;
    if let Some(message) = known.and_then(|known| queries.refuses_lost(config, &known)) {
        return Err(Halt(message).into());
    }
    if let Some(ledger) = &ledger {
        let refused = ledger.refuses_job(&config.state, &config.job_file(), folder)?;
        refused.map_or(Ok(()), |message| Err(Halt(message)))?;
        let mut outputs = config.outputs();
        outputs.push(output.name().into_owned());
        for (path, bytes) in ledger.owed()? {
            if !outputs.contains(&path) {
                return Err(Halt(publish::owed_message(&path, bytes)).into());
            }
        }
        let refused = queries.refuses_views(ledger)?;
        refused.map_or(Ok(()), |message| Err(Halt(message)))?;
        check_format(config, ledger.format(&output.name())?)?;
    }
    let begins = |path| file::begins_otherwise(path, &header.unwrap_or_default());
    if let Some(reason) = output.path().and_then(begins) {
        return Err(config.problem(&Problem::new("output.path", reason)).into());
    }
    Ok(())
}

/// An output is continued in the format in which it was begun.
pub fn check_format(config: &Config, was: Option<String>) -> anyhow::Result<()> {
    let (format, Some(output)) = (config.written.output.format, config.output_path()) else {
        return Ok(());
    };
    let is = format.signature();
    let is_there = output.metadata().is_ok_and(|there| there.is_file() && there.len() > 0);
    let Some(was) = was.filter(|was| *was != is && is_there) else { return Ok(()) };
    let message = format!(
        "{} was written as {was}, and the job says {is}: set the format back, or move the file away to \
         begin a new one",
        output.display()
    );
    Err(config.problem(&Problem::new("output.format", message)).into())
}
