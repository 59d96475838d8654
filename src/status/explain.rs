//! Explains the fate of a file, or why it is not taken yet.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::live::{self, Live};
use super::open_source;
use crate::config::Config;
use crate::decode::compression;
use crate::durable::Dir;
use crate::ledger::{Entry, Outcome, Reader};
use crate::record::Stands;
use crate::source::folder::Standing;
use crate::source::folder::archive::{Action, Archiver};
use crate::source::folder::rules::{Complete, FAILED, PROCESSED};
use crate::source::folder::stamp::Stamp;
use crate::source::{Debt, Fate, Why};
use crate::telemetry::escaped;

/// Microbatches of one name that are told, the newest.
const TOLD: u64 = 5;

/// Names up to this length in bytes have room for a prefix and a number, and are never cut.
const CUT_FROM: usize = 200;

/// A compressed file of up to this many bytes is read to see whether it is whole.
const READ_BYTES: u64 = 64 << 20;

/// A file, explained.
#[derive(Debug)]
pub struct Explained {
    /// Its name relative to the drop folder, as an input.
    pub name: OsString,
    /// How it stands now, as a sentence without a subject.
    pub now: String,
    /// The microbatches that were made of files of this name, the newest first.
    pub history: Vec<Entry>,
}

/// Explains the file at `path`: one in the drop folder or in the archive, or a name in the drop folder.
///
/// # Errors
/// When the ledger or the drop folder cannot be read.
pub fn explain(config: &Config, path: &Path) -> anyhow::Result<Explained> {
    let look = Reader::open(&config.state)?;
    let place = Location::of(config, &look, path)?;
    let (name, history) = history(&look, &place)?;
    let now = if let Some(archive) = &place.archive {
        match archive.join(&place.name).symlink_metadata() {
            Ok(_) => "is in the archive".to_owned(),
            Err(_) => "is not in the archive any more".to_owned(),
        }
    } else {
        let source = open_source(config)?;
        let (standing, stamp) = source.standing(&place.name);
        let owed = look.unarchived()?.into_iter().find(|(_, owed)| *owed == place.name);
        match (owed, &standing) {
            (Some((sequence, _)), Standing::Complete | Standing::Waiting(..)) => {
                format!("is committed as microbatch {sequence}, and is about to be archived")
            }
            (None, Standing::Gone | Standing::Never(_)) => {
                match became(config, &look, &place, &history)? {
                    Some(became) => became,
                    None => told(config, &place.name, &standing, stamp),
                }
            }
            _ => told(config, &place.name, &standing, stamp),
        }
    };
    Ok(Explained { name, now, history })
}

/// The outcome of the newest file of a name, and its present place.
fn became(
    config: &Config,
    look: &Reader,
    place: &Location,
    history: &[Entry],
) -> anyhow::Result<Option<String>> {
    let Some(entry) = history.first() else { return Ok(None) };
    let Entry { sequence, name, identity, .. } = entry;
    let (what, fate) = match entry.outcome() {
        Outcome::Processed => ("was processed", Fate::Processed),
        Outcome::Skipped => ("was skipped as a duplicate", Fate::Processed),
        Outcome::Quarantined => ("failed", Fate::Failed(Vec::new())),
        Outcome::WithoutFile => return Ok(None),
    };
    let action = config.written.done.action.clone();
    let target = config.archive();
    let is_deleted = action == Action::Delete && fate == Fate::Processed;
    let folder = Dir::open(config.directory.as_deref().unwrap_or(Path::new(".")))?;
    let archiver = Archiver::open(action, target.as_deref(), look.archives(&config.state)?)?;
    let debt =
        Debt { name: name.clone(), identity: *identity, home: None, sequence: *sequence, fate };
    let named = look.archived_name(*sequence)?;
    let found = archiver.find_archived(&folder, &debt, named.as_deref());
    let there = found.map(|(dir, name)| {
        let path = dir.path().join(name);
        let shown = path.strip_prefix(folder.path()).unwrap_or(&path);
        format!(", and is now {}", escaped(shown.as_os_str().as_bytes()))
    });
    let now = match there {
        Some(there) => there,
        None if is_deleted => ", and was deleted".to_owned(),
        None if look.altered_input(*sequence)?.is_some() => {
            ", and was written to after that: what came later was set aside as failed-*".to_owned()
        }
        None if look.was_gone(*sequence)? => {
            "; its file was replaced or taken away before it could be renamed".to_owned()
        }
        // Another file may be meant.
        None if place.name == *name => "; its file is not where it was put".to_owned(),
        None => return Ok(None),
    };
    Ok(Some(format!("{what} as microbatch {sequence}{now}")))
}

/// Which file is meant.
struct Location {
    /// Its name as it is, relative to the drop folder or to the archive.
    name: OsString,
    /// The archive that it is in, if so.
    archive: Option<PathBuf>,
}

impl Location {
    fn of(config: &Config, look: &Reader, path: &Path) -> anyhow::Result<Self> {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let below = |folder: Option<&Path>| {
            let folder = folder?;
            let real =
                || absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?).into();
            let real: Option<PathBuf> = real();
            let canonical = folder.canonicalize().ok();
            let plain = absolute.strip_prefix(folder).ok().map(Path::to_owned);
            plain.or_else(|| Some(real?.strip_prefix(canonical?).ok()?.to_owned()))
        };
        if let Some(name) = below(config.directory.as_deref()) {
            return Ok(Self { name: name.into(), archive: None });
        }
        for archive in config.archive().into_iter().chain(look.archives(&config.state)?) {
            if let Some(name) = below(Some(&archive)) {
                return Ok(Self { name: name.into(), archive: Some(archive) });
            }
        }
        Ok(Self { name: path.as_os_str().to_owned(), archive: None })
    }

    /// Whether it has the name of a file that was set aside, or of one that was processed; `None` for any
    /// other name.
    fn is_failed(&self) -> Option<bool> {
        let file_name = Path::new(&self.name).file_name().unwrap_or(&self.name).as_bytes();
        if file_name.starts_with(FAILED.as_bytes()) {
            return Some(true);
        }
        (self.archive.is_some() || file_name.starts_with(PROCESSED.as_bytes())).then_some(false)
    }

    /// The name, without what an archived one begins with.
    fn stem(&self) -> OsString {
        let path = Path::new(&self.name);
        let file_name = path.file_name().unwrap_or(path.as_os_str()).as_bytes();
        let stem =
            [PROCESSED, FAILED].iter().find_map(|prefix| file_name.strip_prefix(prefix.as_bytes()));
        path.with_file_name(OsStr::from_bytes(stem.unwrap_or(file_name))).into_os_string()
    }
}

/// The name of the input that is or became the file, and what was made of it.
fn history(look: &Reader, place: &Location) -> anyhow::Result<(OsString, Vec<Entry>)> {
    let archived = archived_under(look, place, 0)?;
    match archived.first() {
        Some((entry, ..)) => {
            let name = entry.name.clone();
            let of_name = archived.into_iter().map(|(entry, ..)| entry);
            Ok((name.clone(), of_name.filter(|entry| entry.name == name).collect()))
        }
        None => Ok((place.stem(), look.named(&place.stem(), TOLD)?)),
    }
}

/// The microbatches that have put a file under this name, the newest first, with the inode it had.
fn archived_under(
    look: &Reader,
    place: &Location,
    inode: u64,
) -> anyhow::Result<Vec<(Entry, Stands, u64)>> {
    let Some(is_failed) = place.is_failed() else { return Ok(Vec::new()) };
    let path = Path::new(&place.name);
    let file_name = path.file_name().unwrap_or(path.as_os_str());
    let mut all = look.named_unusually(file_name)?;
    all.retain(|(entry, ..)| Path::new(&entry.name).parent() == path.parent());
    for entry in look.named_usually(&place.stem(), is_failed, (inode, TOLD))? {
        let inode = entry.identity.inode;
        all.push((entry, Stands::Input, inode));
    }
    all.sort_by_key(|(entry, ..)| std::cmp::Reverse(entry.sequence));
    // A ledger of before names were written down.
    if all.is_empty()
        && let Some(entry) = numbered(look, &place.stem())?
    {
        let inode = entry.identity.inode;
        all.push((entry, Stands::Input, inode));
    }
    Ok(all)
}

/// The microbatch that has archived the file at `path`, which has this stamp, by what the ledger has written
/// down: the one whose file has this inode, else the last that fits.
///
/// # Errors
/// When the ledger cannot be read.
pub fn archived_as(
    config: &Config,
    look: &Reader,
    path: &Path,
    stamp: &Stamp,
) -> anyhow::Result<Option<(Entry, Stands)>> {
    let place = Location::of(config, look, path)?;
    let all = archived_under(look, &place, stamp.inode)?;
    let is_failed = place.is_failed() == Some(true);
    let same = |(entry, stands, inode): &&(Entry, Stands, u64)| match stands {
        // What an editor has saved has another inode.
        Stands::Input if !is_failed => {
            (entry.identity.size, entry.identity.modified_ns) == (stamp.size, stamp.modified_ns)
        }
        _ => *inode == stamp.inode,
    };
    let found = all.iter().find(same).or_else(|| all.first().filter(|_| is_failed));
    Ok(found.map(|(entry, stands, _)| (entry.clone(), *stands)))
}

/// True when the file at `path` is, by inode, size and time, an input that was put there.
///
/// # Errors
/// When the ledger cannot be read.
pub fn is_input(
    config: &Config,
    look: &Reader,
    path: &Path,
    stamp: &Stamp,
) -> anyhow::Result<bool> {
    let all = archived_under(look, &Location::of(config, look, path)?, stamp.inode)?;
    let mut inputs = all.iter().filter(|(_, stands, _)| *stands == Stands::Input);
    Ok(inputs.any(|(entry, ..)| {
        let identity = &entry.identity;
        let there = (stamp.inode, stamp.size, stamp.modified_ns);
        (identity.inode, identity.size, identity.modified_ns) == there
    }))
}

/// The microbatch whose number an archived name ends in: `<name>.<number>`, or `.<number>.<attempt>`.
fn numbered(look: &Reader, archived: &OsStr) -> anyhow::Result<Option<Entry>> {
    let mut rest = archived.as_bytes();
    for _ in 0..2 {
        let Some(dot) = memchr::memrchr(b'.', rest) else { break };
        let (name, number) = rest.split_at(dot);
        let number = std::str::from_utf8(number.get(1..).unwrap_or_default());
        let Some(number) = number.ok().and_then(|number| number.parse().ok()) else { break };
        // A long name was cut before the number was put after it.
        let fits = |entry: &Entry| {
            let of = entry.name.as_bytes();
            of == name || of.len() > CUT_FROM && of.starts_with(name)
        };
        if let Some(entry) = look.numbered(number)?.filter(fits) {
            return Ok(Some(entry));
        }
        rest = name;
    }
    Ok(None)
}

fn told(config: &Config, name: &OsStr, standing: &Standing, stamp: Option<Stamp>) -> String {
    match standing {
        Standing::Gone => "is not in the drop folder".to_owned(),
        Standing::NoFile => "is no regular file, and is never taken".to_owned(),
        Standing::Never(reason) => format!("is never taken: {reason}"),
        Standing::Complete => complete(config, name),
        Standing::Waiting(why, left) => waits(config, name, *why, *left, stamp),
    }
}

fn waits(
    config: &Config,
    name: &OsStr,
    why: Why,
    left: Option<Duration>,
    stamp: Option<Stamp>,
) -> String {
    let rules = &config.rules;
    match why {
        Why::Settling => {
            let left = left.unwrap_or_default().as_secs_f64();
            format!("waits: it must stay unchanged for another {left:.1} s (`input.settle`)")
        }
        Why::InHand => "waits: it was taken under another name, which is done first".to_owned(),
        Why::TooFewLines => {
            let lines = match rules.complete {
                Some(Complete::Lines(lines)) => lines,
                _ => 0,
            };
            format!("waits: it has fewer than {lines} lines (`input.complete.lines`)")
        }
        Why::RuleUnmet => match rules.marker_of(name) {
            Some(marker) => {
                let marker = escaped(marker.as_bytes());
                format!("waits: its marker {marker} is missing (`input.complete.marker`)")
            }
            None => "waits: its last line does not complete it (`input.complete`)".to_owned(),
        },
        Why::OldMarker => {
            let path = rules.marker_of(name).unwrap_or_default();
            let marker = escaped(path.as_bytes());
            format!(
                "waits: its marker {marker} is older than the file, and belongs to an earlier one"
            )
        }
        Why::WriterOpen => {
            let programs = stamp.map(|stamp| writers(&stamp)).filter(|who| !who.is_empty());
            let who = programs.map_or_else(|| "somebody".to_owned(), |who| who.join(", "));
            format!("waits: {who} has it open for writing")
        }
        Why::HardLinked => {
            "waits: it has more than one name, and could be written through another \
             (`input.hard_links`)"
                .to_owned()
        }
        Why::Incomplete => INCOMPLETE.to_owned(),
        Why::Unreadable => "waits: it cannot be opened for reading".to_owned(),
        Why::Unmovable => {
            "waits: the folder it is in cannot be written to, so that it could not be renamed \
             afterwards"
                .to_owned()
        }
        Why::NoRoom => "waits: its records do not fit on the disk".to_owned(),
        Why::Later => LATER.to_owned(),
    }
}

const LATER: &str = "waits: its command has asked to be tried later (exit code 75)";

const INCOMPLETE: &str = "waits: it ends in the middle of its compression, and may still be arriving \
     (`input.incomplete_grace`)";

/// Of a file that is complete by the rules.
fn complete(config: &Config, name: &OsStr) -> String {
    if is_truncated(config, name) {
        return INCOMPLETE.to_owned();
    }
    if live::runner(&config.state).is_none() {
        return "is complete, and the daemon does not run".to_owned();
    }
    let live = Live::read(&config.state);
    let shown = escaped(name.as_bytes());
    if live.no_room.as_ref() == Some(&shown) {
        return "waits: its records do not fit on the disk".to_owned();
    }
    if live.later.contains(&shown) {
        return LATER.to_owned();
    }
    if let Some(reason) = live.paused {
        return format!("is complete, and the daemon pauses: {}", escaped(reason.as_bytes()));
    }
    match live.next.filter(|next| *next != shown) {
        Some(next) => format!("is complete, and waits behind others; the next is {next}"),
        None => "is complete, and is about to be taken".to_owned(),
    }
}

fn is_truncated(config: &Config, name: &OsStr) -> bool {
    let path = config.directory.clone().unwrap_or_default().join(name);
    let read = || -> std::io::Result<bool> {
        let file = File::open(path)?;
        if file.metadata()?.len() > READ_BYTES {
            return Ok(false);
        }
        let Some(mut reader) = compression::plain(name, &file)? else { return Ok(false) };
        let read = std::io::copy(&mut reader, &mut std::io::sink());
        Ok(read.is_err_and(|error| compression::is_truncation(&error)))
    };
    read().unwrap_or(false)
}

/// The processes that have a file open for writing, as far as this user may see.
fn writers(stamp: &Stamp) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let named = numbers.filter(|pid| writes(*pid, stamp)).map(|pid| {
        let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("process {pid} ({})", escaped(name.trim_ascii_end()))
    });
    named.collect()
}

fn writes(pid: u32, stamp: &Stamp) -> bool {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.into_iter().any(|descriptor| {
        let path = descriptor.path();
        let is_it = std::fs::metadata(&path)
            .is_ok_and(|file| (file.dev(), file.ino()) == (stamp.device, stamp.inode));
        let number = descriptor.file_name();
        let about = || {
            let path = Path::new("/proc").join(pid.to_string()).join("fdinfo").join(number);
            let info = std::fs::read_to_string(path).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim();
            u32::from_str_radix(flags, 8).ok()
        };
        // O_WRONLY and O_RDWR are 1 and 2 (fcntl.h).
        is_it && about().is_some_and(|flags| flags & 3 != 0)
    })
}
