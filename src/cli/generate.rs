//! `spoolmill generate`: manual pages and shell completions, from the definitions of the command line.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;

/// The shells whose completions are packaged.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

#[derive(Debug, Args)]
pub struct Generate {
    /// The folder that they are written to
    directory: PathBuf,
}

impl Generate {
    pub fn run(self) -> anyhow::Result<()> {
        let directory = &self.directory;
        std::fs::create_dir_all(directory).context("create the folder")?;
        let command = Cli::command();
        clap_mangen::generate_to(command.clone(), directory).context("write the manual")?;
        for shell in SHELLS {
            clap_complete::generate_to(shell, &mut command.clone(), "spoolmill", directory)
                .context("write the completions")?;
        }
        super::standard::print(format!("wrote to {}\n", directory.display()).as_bytes())?;
        Ok(())
    }
}
