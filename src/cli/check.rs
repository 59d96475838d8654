//! `spoolmill check`: would a start succeed, and what is the job?

use std::io::Write as _;

use clap::Args;

use super::JobFile;

#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    job: JobFile,
}

impl Check {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.job.read()?;
        config.check_surroundings()?;
        std::io::stdout().write_all(config.as_understood().as_bytes())?;
        Ok(())
    }
}
