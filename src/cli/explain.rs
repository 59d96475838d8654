//! `spoolmill explain`: what has become of a file, or why it is not taken yet.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::JobFile;
use super::delivery::quiet_if_reader_left;
use crate::status::explain::{Explained, explain};
use crate::status::shape;
use crate::telemetry::escaped;

#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    job: JobFile,
    /// A file in the drop folder or in the archive, or a name in the drop folder
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// One JSON object on each line
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.job.read()?;
        let mut out = std::io::BufWriter::new(std::io::stdout());
        for path in &self.paths {
            let explained = explain(&config, path)?;
            let text = if self.json { json(&explained) } else { text(&explained) };
            out.write_all(text.as_bytes())?;
        }
        quiet_if_reader_left(Ok(out.flush()?))
    }
}

fn text(explained: &Explained) -> String {
    let name = escaped(explained.name.as_encoded_bytes());
    let mut text = format!("{name} {}\n", explained.now);
    for entry in &explained.history {
        text.push_str("  ");
        text.push_str(&shape::line(entry));
    }
    text
}

fn json(explained: &Explained) -> String {
    let history: Vec<_> = explained.history.iter().map(shape::json).collect();
    let object = serde_json::json!({
        "file": String::from_utf8_lossy(explained.name.as_encoded_bytes()),
        "now": explained.now,
        "history": history,
    });
    format!("{object}\n")
}
