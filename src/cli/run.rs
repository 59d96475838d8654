//! `spoolmill run`: the daemon.

use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

use clap::Args;

use super::{JobFile, Strict, signals};
use crate::clock::now_ms;
use crate::daemon::{self, Setting, Until};
use crate::http;
use crate::pulse::Pulse;

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    job: JobFile,
    /// Take everything that is complete, then exit
    #[arg(long)]
    once: bool,
    /// With --once: exit with 3 when a file failed, a group left out of a view, or a view is stopped
    #[arg(long, requires = "once")]
    strict: bool,
    /// Rebuild this view from the whole output, before anything else; may be given several times
    #[arg(long, value_name = "NAME")]
    reset_view: Vec<String>,
    /// Remove what is kept of this view, which is not in the job any more; may be given several times
    #[arg(long, value_name = "NAME")]
    forget_view: Vec<String>,
}

impl Run {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.job.read()?;
        config.check_surroundings()?;
        let pulse = Pulse::of_the_service();
        let started_ms = now_ms();
        let wakes = sync_channel(1);
        signals::forward(wakes.0.clone(), pulse.clone())?;
        if !self.reset_view.is_empty() {
            daemon::reset_views(&config, &self.reset_view)?;
        }
        if !self.forget_view.is_empty() {
            daemon::forget_views(&config, &self.forget_view)?;
        }
        let shown = Arc::new(Mutex::new(config.clone()));
        http::start(&shown, &pulse, started_ms)?;
        let listens = Some(config.listens());
        let until = if self.once { Until::Drained } else { Until::Stopped };
        let setting = Setting { until, wakes, pulse, started_ms, listens, shown };
        let aside = daemon::run(config, &setting)?;
        if self.strict && !aside.is_empty() {
            return Err(Strict(aside.to_string()).into());
        }
        Ok(())
    }
}
