//! `spoolmill verify`: the output, the rejects and the folder against the ledger.

use clap::Args;

use super::JobFile;
use super::standard::print;
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
        let mut problems = 0_u64;
        let mut written = Ok(());
        // What is found counts, whether or not anybody reads on.
        let looked = verify(&config, self.deep, &mut |problem| {
            problems += 1;
            if written.is_ok() {
                written = print(format!("{problem}\n").as_bytes());
            }
        })?;
        written?;
        anyhow::ensure!(problems == 0, "{problems} problems were found");
        let gone = match looked.gone {
            0 => String::new(),
            gone => format!("; archived inputs that are not there any more: {gone}"),
        };
        let found = format!(
            "{} microbatches, {} bytes of output and {} archived inputs are as the ledger says{gone}\n",
            looked.microbatches, looked.bytes, looked.inputs
        );
        print(found.as_bytes())
    }
}
