//! The rules of a drop folder: which names are candidates, in which order, and what completes one.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use globset::{GlobMatcher, GlobSet};
use regex::bytes::Regex;
use serde::{Deserialize, Serialize};

/// Put before the name of an input that is done.
pub const PROCESSED: &str = "processed-";

/// Put before the name of an input that went to quarantine.
pub const FAILED: &str = "failed-";

/// Suffixes of names that uploaders give to what they have not finished, in any case.
const TEMPORARY: [&str; 16] = [
    ".tmp",
    ".temp",
    ".part",
    ".partial",
    ".filepart",
    ".crdownload",
    ".swp",
    ".writing",
    ".inprogress",
    ".incomplete",
    ".download",
    ".upload",
    ".aria2",
    "._copying_",
    ".!qb",
    "~",
];

/// Names that never are an input: the lock files of office programs, and the index of a Synology share.
const FOREIGN: [&str; 2] = ["~$", "@eaDir"];

/// `input.watch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Watch {
    /// Events where the file system has them, else polling.
    Auto,
    /// Events, with a scan now and then.
    Events,
    /// Scans alone.
    Poll,
}

/// `input.order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// By name, bytewise.
    Name,
    /// By name, numbers in it by their value.
    Natural,
    /// By time of last modification, then name.
    Modified,
    /// By time of last status change when first seen, then name.
    Arrival,
}

/// `input.empty`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Empty {
    /// A microbatch of no records.
    Accept,
    /// A bad file.
    Quarantine,
}

/// `input.hard_links`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HardLinks {
    /// The file waits until it has one name.
    Wait,
    /// It is taken like any other.
    Accept,
}

/// `input.duplicates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Duplicates {
    /// A file with the content of an earlier one is processed like any other.
    #[default]
    Process,
    /// Nothing is made of it; it is archived.
    Skip,
    /// It is a bad file.
    Quarantine,
}

/// A rule for completeness instead of `settle`.
#[derive(Debug, Clone)]
pub enum Complete {
    /// At least this many line ends, or the end marker.
    Lines(u64),
    /// A sidecar with this suffix.
    Marker(String),
    /// A last line like this.
    Trailer(Regex),
}

/// The rules of one drop folder.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Which names are candidates.
    pub pattern: GlobMatcher,
    /// Which of these are none all the same.
    pub exclude: GlobSet,
    /// Folders below as well.
    pub recursive: bool,
    /// How changes are noticed.
    pub watch: Watch,
    /// Longest time between two scans.
    pub rescan: Duration,
    /// In which order files are taken.
    pub order: Order,
    /// How long a file has to stay unchanged where no rule is given.
    pub settle: Duration,
    /// The rule instead of `settle`.
    pub complete: Option<Complete>,
    /// How long a truncated compressed file may still be arriving.
    pub incomplete_grace: Duration,
    /// How a file with several hard links is treated.
    pub hard_links: HardLinks,
    /// The record that ends the job; it completes a file under `lines`.
    pub end_marker: Option<Vec<u8>>,
}

impl Rules {
    /// True when a file of this name (relative to the folder) may be an input.
    pub fn is_candidate(&self, name: &OsStr) -> bool {
        self.why_not(name).is_none()
    }

    /// Why a file of this name (relative to the folder) is never an input, if so.
    pub fn why_not(&self, name: &OsStr) -> Option<&'static str> {
        let path = Path::new(name);
        let file_name = path.file_name().unwrap_or(name);
        let hidden_folder = || {
            let parents = path.parent().into_iter().flat_map(Path::components);
            let foreign = |part: &[u8]| part.starts_with(b".") || part == b"@eaDir";
            parents.into_iter().any(|part| foreign(part.as_os_str().as_bytes()))
        };
        reserved(file_name).or_else(|| {
            if self.marked(file_name).is_some() {
                Some("it is the marker of another file")
            } else if !self.pattern.is_match(Path::new(file_name)) {
                Some("its name does not match `input.pattern`")
            } else if self.exclude.is_match(Path::new(file_name)) {
                Some("its name matches `input.exclude`")
            } else if hidden_folder() {
                Some("it is in a hidden folder")
            } else {
                None
            }
        })
    }

    /// True when what is in a file decides whether it is complete.
    pub fn looks_inside(&self) -> bool {
        matches!(self.complete, Some(Complete::Lines(_) | Complete::Trailer(_)))
    }

    /// The name that `name` is the marker of, under the rule `marker`.
    pub fn marked<'a>(&self, name: &'a OsStr) -> Option<&'a OsStr> {
        let Some(Complete::Marker(suffix)) = &self.complete else { return None };
        let stem = name.as_bytes().strip_suffix(suffix.as_bytes())?;
        (!stem.is_empty() && !stem.ends_with(b"/")).then(|| OsStr::from_bytes(stem))
    }

    /// The name of the marker of `name`, under the rule `marker`.
    pub fn marker_of(&self, name: &OsStr) -> Option<std::ffi::OsString> {
        let Some(Complete::Marker(suffix)) = &self.complete else { return None };
        let mut marker = name.to_owned();
        marker.push(suffix);
        Some(marker)
    }
}

/// Why a name is never an input: hidden, our own, or unfinished.
fn reserved(name: &OsStr) -> Option<&'static str> {
    let name = name.as_bytes();
    if name.starts_with(b".") {
        Some("its name begins with a dot")
    } else if name.starts_with(PROCESSED.as_bytes()) {
        Some("its name says that it is done")
    } else if name.starts_with(FAILED.as_bytes()) {
        Some("its name says that it was set aside")
    } else if FOREIGN.iter().any(|prefix| name.starts_with(prefix.as_bytes())) {
        Some("its name is that of another program's own files")
    } else if TEMPORARY.iter().any(|suffix| ends_with_ignoring_case(name, suffix.as_bytes())) {
        Some("its name ends in the suffix of an unfinished upload")
    } else {
        None
    }
}

fn ends_with_ignoring_case(name: &[u8], suffix: &[u8]) -> bool {
    let end = name.len().checked_sub(suffix.len()).and_then(|at| name.get(at..));
    end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

/// Patterns of the names that are never inputs, whatever the job says.
pub fn never_taken() -> Vec<String> {
    let any_case = |character: char| match character {
        'a'..='z' => format!("[{}{character}]", character.to_ascii_uppercase()),
        other => other.to_string(),
    };
    let suffixes = TEMPORARY.iter().map(|suffix| {
        let suffix: String = suffix.chars().map(any_case).collect();
        format!("*{suffix}")
    });
    let prefixes = [".", PROCESSED, FAILED].into_iter().chain(FOREIGN);
    prefixes.map(|prefix| format!("{prefix}*")).chain(suffixes).collect()
}

/// The bytes by which `name` sorts under `natural`: each run of digits by its value.
pub fn natural_key(name: &OsStr) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 8);
    let mut rest = name.as_bytes();
    while let Some(first) = rest.first() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            key.push(*first);
            rest = rest.get(1..).unwrap_or_default();
            continue;
        }
        let (run, behind) = rest.split_at(digits);
        let zeros = run.iter().take_while(|byte| **byte == b'0').count();
        let value = run.get(zeros..).unwrap_or_default();
        // Where a digit would stand: the length of the number, so that 9 comes before 10.
        key.push(b'0');
        key.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        key.extend_from_slice(value);
        rest = behind;
    }
    key
}

/// A name cut so that `extra` more bytes still fit into a file name.
pub fn shortened(name: &OsStr, extra: usize) -> Cow<'_, OsStr> {
    /// The longest file name on Linux file systems, in bytes (`NAME_MAX`).
    const NAME_MAX: usize = 255;
    match name.as_bytes().get(..NAME_MAX.saturating_sub(extra)) {
        Some(short) if short.len() < name.len() => Cow::Owned(OsStr::from_bytes(short).to_owned()),
        _ => Cow::Borrowed(name),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use globset::Glob;

    pub(in crate::source) fn rules(pattern: &str, complete: Option<Complete>) -> Rules {
        Rules {
            pattern: Glob::new(pattern).unwrap().compile_matcher(),
            exclude: GlobSet::empty(),
            recursive: true,
            watch: Watch::Poll,
            rescan: Duration::ZERO,
            order: Order::Name,
            settle: Duration::ZERO,
            complete,
            incomplete_grace: Duration::ZERO,
            hard_links: HardLinks::Wait,
            end_marker: None,
        }
    }

    #[test]
    fn reserved_and_temporary_names_are_no_candidates() {
        let rules = rules("*", None);
        for name in ["a", "a.csv", "sub/a", "a.tmp.gz", "~a", "process", "b~a", "a~$b"] {
            assert!(rules.is_candidate(OsStr::new(name)), "{name}");
        }
        for name in [
            ".a",
            "processed-a",
            "failed-a",
            "a.tmp",
            "a.part",
            "a.filepart",
            "a~",
            "sub/.a",
            ".sub/a",
            "sub/processed-a",
            "a.crdownload",
            "a.writing",
            "a.WRITING",
            "a.Part",
            "~$a.xlsx",
            "@eaDir",
            "@eaDir/a",
            "a.inprogress",
            "a.csv._COPYING_",
            "a.swp",
            "a.temp",
            "a.partial",
        ] {
            assert!(!rules.is_candidate(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn the_pattern_is_held_against_the_file_name() {
        let rules = rules("in_*", None);
        assert!(rules.is_candidate(OsStr::new("sub/in_1")));
        assert!(!rules.is_candidate(OsStr::new("in_1/other")));
        assert!(rules.is_candidate(OsStr::from_bytes(b"in_\xff\n")));
    }

    #[test]
    fn a_marker_is_no_candidate_and_names_its_file() {
        let rules = rules("*", Some(Complete::Marker(".done".to_owned())));
        assert!(!rules.is_candidate(OsStr::new("a.done")));
        assert_eq!(rules.marked(OsStr::new("sub/a.done")), Some(OsStr::new("sub/a")));
        assert_eq!(rules.marked(OsStr::new(".done")), None);
    }

    #[test]
    fn natural_order_counts() {
        let mut names = ["a10", "a9", "b1", "a", "a09", "a1b", "a1", "a100"];
        names.sort_by_key(|name| (natural_key(OsStr::new(name)), *name));
        assert_eq!(names, ["a", "a1", "a1b", "a09", "a9", "a10", "a100", "b1"]);
    }

    #[test]
    fn a_long_name_is_cut_to_fit() {
        let long = "x".repeat(250);
        assert_eq!(shortened(OsStr::new(&long), 10).len(), 245);
        assert_eq!(shortened(OsStr::new("short"), 10), OsStr::new("short"));
    }
}
