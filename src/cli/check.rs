//! `spoolmill check`: would a start succeed, and what is the job?

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{self, Config};
use crate::queries::Queries;

#[derive(Debug, Args)]
pub struct Check {
    /// The job file
    #[arg(short, long = "config", value_name = "FILE", required_unless_present = "infer")]
    config: Option<PathBuf>,
    /// Print the columns that this file seems to have, for a job file
    #[arg(long, value_name = "SAMPLE", conflicts_with = "config")]
    infer: Option<PathBuf>,
}

impl Check {
    pub fn run(self) -> anyhow::Result<()> {
        if let Some(sample) = &self.infer {
            return infer(sample);
        }
        let config = Config::read(&self.config.unwrap_or_default())?;
        config.check_surroundings().map_err(config::Error::found_now)?;
        let queries = Queries::open(&config, &std::env::temp_dir())?;
        crate::daemon::ahead::check(&config, &queries)?;
        crate::http::check(&config)?;
        if let Some(reason) = config.check_kafka()? {
            // The job may be right all the same, and a start waits for it.
            let warning = format!("spoolmill: the Kafka cluster could not be asked: {reason}\n");
            let _ = std::io::stderr().write_all(warning.as_bytes());
        }
        super::standard::print(config.as_understood().as_bytes())
    }
}

fn infer(sample: &Path) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let inferred = crate::decode::infer::infer(sample)
        .with_context(|| format!("look into {}", sample.display()))?;
    super::standard::print(inferred.stanza().as_bytes())
}
