//! `spoolmill generate`: manual pages and shell completions, from the definitions of the command line.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::roff::{Roff, roman};

use super::Cli;

/// The shells whose completions are packaged.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

#[derive(Debug, Args)]
pub struct Generate {
    /// The folder that they are written to
    directory: PathBuf,
}

/// The file that shows every key of a job: the manual of the job file is made from it.
const EVERY_KEY: &str = include_str!("../../config/spoolmill.toml");

/// The manual page of the job file, in section 5.
const JOB_PAGE: &str = "spoolmill.toml.5";

impl Generate {
    pub fn run(self) -> anyhow::Result<()> {
        let directory = &self.directory;
        std::fs::create_dir_all(directory).context("create the folder")?;
        let command = Cli::command();
        clap_mangen::generate_to(command.clone(), directory).context("write the manual")?;
        std::fs::File::create(directory.join(JOB_PAGE))
            .and_then(|mut page| job_page().to_writer(&mut page))
            .context("write the manual of the job file")?;
        for shell in SHELLS {
            clap_complete::generate_to(shell, &mut command.clone(), "spoolmill", directory)
                .context("write the completions")?;
        }
        super::standard::print(format!("wrote to {}\n", directory.display()).as_bytes())?;
        Ok(())
    }
}

fn job_page() -> Roff {
    let mut page = Roff::new();
    page.control("TH", ["spoolmill.toml", "5", concat!("spoolmill ", env!("CARGO_PKG_VERSION"))]);
    page.control("SH", ["NAME"]).text([roman("spoolmill.toml - a job of spoolmill")]);
    page.control("SH", ["DESCRIPTION"]).text([roman(
        "One TOML file configures one job. Unknown keys are refused; an error names the file, the line, the key, \
         what was found and what is allowed. spoolmill check -c FILE prints a job as it is understood.",
    )]);
    page.control("SH", ["KEYS"]).control("nf", []);
    for line in EVERY_KEY.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    page.control("SH", ["SEE ALSO"]).text([roman("spoolmill(1), spoolmill-check(1)")]);
    page
}
