//! The configuration as it is written: one TOML file, every key, its default.
//!
//! Invariants: unknown keys are refused in every table; every default stands in this file and
//! nowhere else. Whether the values make sense together is decided in [`super`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::event_time;
use crate::sink::kafka::KafkaOutput;
use crate::source::folder::archive::Action;
use crate::source::folder::rules::{Duplicates, Empty, HardLinks, Order, Watch};
use crate::units::{Keep, Size, Span};
use crate::{decode, encode, transform};

/// A whole job file.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Where files come from, and when one is complete.
    pub input: Input,
    /// The transform.
    pub transform: transform::Transform,
    /// Where the records go.
    pub output: Output,
    /// Where bad records go.
    pub rejects: Rejects,
    /// The archive of inputs.
    pub done: Done,
    /// Where the ledger is.
    pub state: State,
    /// Limits on memory, threads and disk.
    pub engine: Engine,
    /// Where it can be looked at.
    pub http: Http,
    /// The Kafka cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<crate::kafka::Kafka>,
    /// When records happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_time: Option<event_time::EventTime>,
    /// Tables that a query can join with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub table: Vec<Table>,
    /// Continuous queries over everything so far.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub view: Vec<View>,
    /// Queries over the whole output, made when the job ends.
    #[serde(rename = "final", skip_serializing_if = "Vec::is_empty")]
    pub finals: Vec<Final>,
}

/// `[[table]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Its name in the query.
    pub name: String,
    /// The file; it is read again when it changes.
    pub path: PathBuf,
    /// How it is decoded; unless given, the suffix says so, and the types are inferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<decode::Format>,
}

/// `[[view]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// The name under which its state is kept.
    pub name: String,
    /// The query; the table is `output`.
    pub query: String,
    /// Which rows are written after a change.
    pub mode: Mode,
    /// The file of its result.
    pub path: PathBuf,
    /// How its records become bytes; the format of the output unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<encode::Format>,
    /// A result that is replaced as a whole is replaced at most so often.
    #[serde(default = "every")]
    pub every: Span,
    /// Functions are allowed whose state grows with the group.
    #[serde(default)]
    pub allow_unbounded_state: bool,
    /// Where a view begins that is new in a job with history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begin: Option<Begin>,
}

fn every() -> Span {
    Span::seconds(1)
}

/// `begin` of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Begin {
    /// With the next file, whatever was written before.
    Now,
}

/// `mode` of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Each window once, when it is closed.
    Append,
    /// The groups that have changed, once for each microbatch.
    Update,
    /// All groups; the file is replaced as a whole.
    Complete,
}

/// `[[final]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Final {
    /// The query; the table is `output`.
    pub query: String,
    /// The file that its result replaces.
    pub path: PathBuf,
    /// How its records become bytes; the format of the output unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<encode::Format>,
}

/// `[input]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Input {
    /// The drop folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Glob on the file name.
    pub pattern: String,
    /// Globs on the file names that are never taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Folders below as well.
    pub recursive: bool,
    /// How changes are noticed.
    pub watch: Watch,
    /// Longest time between two scans of the folder.
    pub rescan: Span,
    /// In which order files are taken.
    pub order: Order,
    /// How long a file has to stay unchanged.
    pub settle: Span,
    /// How long a truncated compressed file may still be arriving.
    pub incomplete_grace: Span,
    /// Whether compressed files are recognised.
    pub compression: decode::compression::Compression,
    /// How an empty file is treated.
    pub empty: Empty,
    /// How a file with several hard links is treated.
    pub hard_links: HardLinks,
    /// How a file with the content of an earlier one is treated.
    pub duplicates: Duplicates,
    /// Longest record in bytes.
    pub max_record: Size,
    /// A record that ends the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_marker: Option<String>,
    /// A rule for completeness instead of `settle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete: Option<Complete>,
    /// How bytes become records.
    pub format: decode::Format,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            directory: None,
            pattern: "*".to_owned(),
            exclude: Vec::new(),
            recursive: false,
            watch: Watch::Auto,
            rescan: Span::seconds(30),
            order: Order::Name,
            settle: Span::seconds(1),
            incomplete_grace: Span::seconds(600),
            compression: decode::compression::Compression::Auto,
            empty: Empty::Accept,
            hard_links: HardLinks::Wait,
            duplicates: Duplicates::Process,
            max_record: Size(16 << 20),
            end_marker: None,
            complete: None,
            format: decode::Format::default(),
        }
    }
}

/// `[input.complete]`: at most one rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Complete {
    /// It has this many records.
    Lines(u64),
    /// A file of the same name with this suffix stands beside it.
    Marker(String),
    /// Its last line matches this regular expression.
    Trailer(String),
}

/// `[output]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Output {
    /// The file that records are appended to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// When the file is closed and a new one begins; never unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate: Option<Rotate>,
    /// The topic that records are sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaOutput>,
    /// Bytes that may be committed and not yet delivered to another system.
    pub max_owed: Size,
    /// How records become bytes.
    pub format: encode::Format,
}

impl Default for Output {
    fn default() -> Self {
        let max_owed = Size(256 << 20);
        let format = encode::Format::default();
        Self { path: None, rotate: None, kafka: None, max_owed, format }
    }
}

/// `output.rotate` and `rejects.rotate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rotate {
    /// When it has this many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// At each multiple of this time since 1970, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// How a closed file is compressed; not at all unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compress: Option<Compress>,
    /// How much of what was closed is kept; all of it unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
}

/// `output.rotate.compress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compress {
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

/// `[rejects]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rejects {
    /// The file that bad records are appended to; the output's path with the suffix `.rejects.jsonl`
    /// unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// When the file is closed and a new one begins, and that of late records; never unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate: Option<Rotate>,
    /// How a bad record is treated.
    pub on_bad_record: OnBadRecord,
    /// More bad records than this in a file send the whole file to quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bad_records: Option<u64>,
    /// A larger share of bad records than this in a file sends the whole file to quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bad_ratio: Option<f64>,
}

/// `rejects.on_bad_record`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRecord {
    /// It goes to the rejects, its neighbours to the output.
    #[default]
    Reject,
    /// The whole file goes to quarantine.
    Quarantine,
}

/// `[done]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Done {
    /// The archive step after a commit.
    pub action: Action,
    /// How much of what was moved is kept; all of it unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
}

/// `[state]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// The directory of the ledger and of what is staged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// How long the history is kept; for ever unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Span>,
}

/// `[http]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Where metrics and the page are served; nowhere unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listen>,
}

/// `http.listen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address; a port alone is one of this machine only.
    Tcp(std::net::SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let port = text.parse().map(|port: u16| ([127, 0, 0, 1], port).into());
        port.or_else(|_| text.parse()).map(Self::Tcp).map_err(|_| {
            format!(
                "found \"{text}\", expected a port, an address such as \"127.0.0.1:9464\", or \
                 \"unix:\" and a path"
            )
        })
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        String::deserialize(source)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `[engine]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// Threads that decode, transform and encode; the cores unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Memory for records in flight.
    pub memory: Size,
    /// Most files in one commit.
    pub files_per_commit: usize,
    /// Nothing is taken while less is free where the ledger or an output is.
    pub min_free: Size,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            workers: None,
            memory: Size(512 << 20),
            files_per_commit: 256,
            min_free: Size(64 << 20),
        }
    }
}
