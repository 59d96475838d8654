//! `spoolmill run`: the daemon.

use std::sync::mpsc::sync_channel;

use clap::Args;

use super::{JobFile, signals};
use crate::daemon::{self, Setting, Until, WAKES_MAX};
use crate::telemetry::Pulse;

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    job: JobFile,
    /// Take everything that is complete, then exit
    #[arg(long)]
    once: bool,
}

impl Run {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.job.read()?;
        config.check_surroundings()?;
        let pulse = Pulse::of_the_service();
        let wakes = sync_channel(WAKES_MAX);
        signals::forward(wakes.0.clone(), pulse.clone())?;
        let until = if self.once { Until::Drained } else { Until::Stopped };
        daemon::run(config, &Setting { until, wakes, pulse })
    }
}
