//! The columns that a sample seems to have, for `check --infer`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::Format;
use super::compression::{Compression, Kind};
use super::csv::Csv;
use super::json::Json;
#[cfg(feature = "parquet")]
use super::parquet::{self, Parquet};
use crate::record::columns::Columns;
use anyhow::Error;

mod sample;

/// Bytes of a sample that are looked at.
const SAMPLE_BYTES: u64 = 64 * 1024 * 1024;

/// The inferred format of a sample.
#[derive(Debug)]
pub struct Inferred {
    /// The name of its format.
    pub format: &'static str,
    /// The delimiter between two fields.
    pub delimiter: char,
    /// Its columns.
    pub columns: Columns,
}

impl Inferred {
    /// The stanza of a job file that says the same.
    pub fn stanza(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("[input.format.{}]\n", self.format);
        if self.delimiter != ',' {
            let _ = writeln!(text, "delimiter = {:?}", self.delimiter.to_string());
        }
        let _ = writeln!(text, "[input.format.{}.columns]", self.format);
        let bare = |name: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            !name.is_empty() && name.chars().all(plain)
        };
        // What JSON writes in quotes TOML reads, but for one character.
        let quoted = |name: &String| {
            let json = serde_json::to_string(name).unwrap_or_default();
            json.replace('\u{7f}', "\\u007f")
        };
        let key = |name: &String| if bare(name) { name.clone() } else { quoted(name) };
        let width = self.columns.0.iter().map(|(name, _)| key(name).len()).max().unwrap_or(0);
        for (name, kind) in &self.columns.0 {
            let _ = writeln!(text, "{:width$} = \"{kind}\"", key(name));
        }
        text
    }

    /// The format with these columns.
    pub fn into_format(self) -> Format {
        let delimiter = self.delimiter;
        let columns = self.columns;
        match self.format {
            "csv" => Format::Csv(Csv { delimiter, columns, ..Csv::default() }),
            // It states its own columns, each time that it is read.
            #[cfg(feature = "parquet")]
            "parquet" => Format::Parquet(Parquet::default()),
            _ => Format::Json(Json { columns, ..Json::default() }),
        }
    }
}

/// Looks into a file whose name says its format: `.csv`, `.tsv`, `.json`, `.jsonl` or `.ndjson`,
/// compressed or not, and `.parquet`.
pub fn infer(path: &Path) -> anyhow::Result<Inferred> {
    let packed = Kind::of_name(path.as_os_str()) != Kind::Plain;
    let stem = if packed { path.with_extension("") } else { path.to_owned() };
    let given = stem.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
    let suffix = &*given.to_ascii_lowercase();
    let open = || -> io::Result<Box<dyn Read + Send>> {
        Compression::Auto.read(path.as_os_str(), File::open(path)?, false)
    };
    let (format, delimiter, columns) = match suffix {
        "csv" | "tsv" => {
            let (bytes, whole) = beginning(open()?)?;
            let said = if suffix == "tsv" { b'\t' } else { b',' };
            let (delimiter, columns) =
                sample::csv(plain(&bytes), whole, said).map_err(Error::msg)?;
            ("csv", char::from(delimiter), columns)
        }
        "json" | "jsonl" | "ndjson" => {
            let (bytes, whole) = beginning(open()?)?;
            ("json", ',', sample::json(plain(&bytes), whole).map_err(Error::msg)?)
        }
        #[cfg(feature = "parquet")]
        "parquet" if !packed => ("parquet", ',', parquet::columns(path)?),
        _ => anyhow::bail!(
            "found \"{}\", expected a name that ends in .csv, .tsv, .json, .jsonl, .ndjson or \
             .parquet",
            path.display()
        ),
    };
    let mut names = std::collections::HashSet::new();
    anyhow::ensure!(!columns.is_empty(), "{} has no columns", path.display());
    if let Some((twice, _)) = columns.0.iter().find(|(name, _)| !names.insert(name)) {
        anyhow::bail!("{} has two columns `{twice}`", path.display());
    }
    Ok(Inferred { format, delimiter, columns })
}

/// The beginning of a sample, and whether that is all of it.
fn beginning(reader: impl Read) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    reader.take(SAMPLE_BYTES).read_to_end(&mut bytes)?;
    let whole = (bytes.len() as u64) < SAMPLE_BYTES;
    Ok((bytes, whole))
}

/// Without the byte order mark of UTF-8.
fn plain(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}
