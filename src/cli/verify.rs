//! `spoolmill verify`: the output, the rejects and the folder against the ledger.

use std::io::Write as _;

use clap::Args;

use super::JobFile;
use crate::status::verify::verify;

#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    job: JobFile,
    /// Compare the content of archived inputs, too
    #[arg(long)]
    deep: bool,
}

impl Verify {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.job.read()?;
        let (mut out, mut problems, mut written) = (std::io::stdout(), 0_u64, Ok(()));
        let looked = verify(&config, self.deep, &mut |problem| {
            problems += 1;
            if written.is_ok() {
                written = writeln!(out, "{problem}");
            }
        })?;
        written?;
        anyhow::ensure!(problems == 0, "{problems} problems were found");
        writeln!(
            std::io::stdout(),
            "{} microbatches, {} bytes of output and {} archived inputs are as the ledger says",
            looked.microbatches,
            looked.bytes,
            looked.inputs
        )?;
        Ok(())
    }
}
