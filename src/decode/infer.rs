//! The columns that a sample seems to have, for `check --infer`.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use arrow_schema::{DataType, Schema};

use super::Format;
use super::compression::{Compression, Kind};
use super::csv::Csv;
use super::json::Json;
use super::parquet::{self, Parquet};
use crate::record::columns::{Columns, Type};

/// Records of a sample that are looked at.
const RECORDS: usize = 100_000;

/// What a sample seems to be.
#[derive(Debug)]
pub struct Inferred {
    /// The name of its format.
    pub format: &'static str,
    /// What stands between two fields.
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
        let (delimiter, columns) = (self.delimiter, self.columns);
        match self.format {
            "csv" => Format::Csv(Csv { delimiter, columns, ..Csv::default() }),
            // It says its columns by itself, each time that it is read.
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
    let suffix = stem.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
    let suffix = &*suffix.to_ascii_lowercase();
    let delimiter = if suffix == "tsv" { '\t' } else { ',' };
    let open = || -> io::Result<Box<dyn Read + Send>> {
        Compression::Auto.read(path.as_os_str(), File::open(path)?, false)
    };
    let (format, schema) = match suffix {
        "csv" | "tsv" => {
            let format = arrow_csv::reader::Format::default()
                .with_header(true)
                .with_delimiter(u8::try_from(delimiter)?);
            ("csv", format.infer_schema(open()?, Some(RECORDS))?.0)
        }
        "json" | "jsonl" | "ndjson" => {
            let schema =
                arrow_json::reader::infer_json_schema(BufReader::new(open()?), Some(RECORDS));
            ("json", schema?.0)
        }
        "parquet" if !packed => ("parquet", parquet::columns(path)?.as_ref().clone()),
        _ => anyhow::bail!(
            "found \"{}\", expected a name that ends in .csv, .tsv, .json, .jsonl, .ndjson or \
             .parquet",
            path.display()
        ),
    };
    let columns = columns(&schema, format != "parquet");
    let mut names = std::collections::HashSet::new();
    anyhow::ensure!(!columns.is_empty(), "{} has no columns", path.display());
    if let Some((twice, _)) = columns.0.iter().find(|(name, _)| !names.insert(name)) {
        anyhow::bail!("{} has two columns `{twice}`", path.display());
    }
    Ok(Inferred { format, delimiter, columns })
}

/// A column that was never seen with a value, or is nested, is a text where that was guessed. A
/// Parquet file says what its columns are: those that no SQL type holds are left out.
fn columns(schema: &Schema, guessed: bool) -> Columns {
    let column = |field: &std::sync::Arc<arrow_schema::Field>| {
        if !guessed {
            return Some((field.name().clone(), Type::of(field.data_type())?));
        }
        let kind = match field.data_type() {
            // What no time zone is given for.
            DataType::Timestamp(_, _) => Some(Type::Timestamp),
            other => Type::of(other),
        };
        // As the header of a file is read.
        Some((field.name().trim().to_owned(), kind.unwrap_or(Type::Varchar)))
    };
    Columns(schema.fields().iter().filter_map(column).collect())
}
