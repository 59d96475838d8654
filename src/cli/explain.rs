//! `spoolmill explain`: what has become of a file, or why it is not taken yet.

use std::path::PathBuf;

use clap::Args;

use super::JobFile;
use super::standard;
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
        let mut all = String::new();
        for path in &self.paths {
            let explained = explain(&config, path)?;
            all += &if self.json { json(&explained) } else { text(&explained) };
        }
        standard::print(all.as_bytes())
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
    let mut object = serde_json::json!({ "now": explained.now, "history": history });
    crate::record::put_text(&mut object, "file", explained.name.as_encoded_bytes());
    format!("{object}\n")
}
