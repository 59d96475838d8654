//! A file system that forgets what was not synced.
//!
//! It replays the trace of a run up to any operation, and gives the folders that a power cut at that
//! moment may leave: names without their fsync of the directory, and bytes without their fsync of
//! the file, may be there, may be missing, may be zeros, each on its own. What real file systems
//! leave is a subset of that. A commit of the ledger survives if SQLite said `synchronous=FULL`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Random;

/// One operation of a trace.
#[derive(Debug, Clone)]
pub struct Step {
    pub op: String,
    pub site: String,
    path: PathBuf,
    to: PathBuf,
    offset: usize,
    synchronous: i64,
    inode: u64,
    bytes: Vec<u8>,
}

/// Reads the trace that a run has written.
pub fn trace(path: &Path) -> Vec<Step> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| step(&serde_json::from_str(line).unwrap())).collect()
}

fn step(line: &serde_json::Value) -> Step {
    let bytes = |field: &str| BASE64.decode(line[field].as_str().unwrap_or_default()).unwrap();
    let path = |field: &str| PathBuf::from(OsStr::from_bytes(&bytes(field)));
    Step {
        op: line["op"].as_str().unwrap().to_owned(),
        site: line["site"].as_str().unwrap().to_owned(),
        path: path("path"),
        to: path("to"),
        offset: line["offset"].as_u64().unwrap_or_default() as usize,
        synchronous: line["synchronous"].as_i64().unwrap_or_default(),
        inode: line["inode"].as_u64().unwrap_or_default(),
        bytes: bytes("bytes"),
    }
}

#[derive(Debug, Clone, Default)]
struct Inode {
    is_folder: bool,
    live: Vec<u8>,
    durable: Vec<u8>,
    modified: Option<SystemTime>,
    /// The number it has on the disk; 0 where that is not known.
    number: u64,
}

/// What a power cut does to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing is lost: the process alone died.
    Nothing,
    /// All of it is lost.
    Everything,
    /// Names stay, bytes are lost.
    Bytes,
    /// Names and lengths stay, bytes are zeros.
    Zeros,
    /// Bytes stay, names are lost.
    Names,
    /// Each name and each file by chance.
    Mixed(u64),
}

pub const LOSSES: [Loss; 8] = [
    Loss::Nothing,
    Loss::Everything,
    Loss::Bytes,
    Loss::Zeros,
    Loss::Names,
    Loss::Mixed(1),
    Loss::Mixed(2),
    Loss::Mixed(3),
];

/// The state of the model.
#[derive(Debug, Clone, Default)]
pub struct Model {
    root: PathBuf,
    inodes: Vec<Inode>,
    live: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    /// Where files wait that have no name in `root` at the moment, under their numbers.
    pins: PathBuf,
    numbers: BTreeMap<usize, u64>,
}

impl Model {
    /// Starts with what is in `root` now, all of it durable. Who runs the program sets `SPOOLMILL_PINS` to
    /// `pins`, so that a file keeps the number of its inode through each power cut, as it does on a disk.
    pub fn of(root: &Path, pins: &Path) -> Self {
        let (root, pins) = (root.to_owned(), pins.to_owned());
        let mut model = Self { root, pins, ..Self::default() };
        model.load(&model.root.clone());
        model.durable = model.live.clone();
        model
    }

    fn load(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.metadata().unwrap();
            let bytes = fs::read(&path).unwrap_or_default();
            self.inodes.push(Inode {
                is_folder: metadata.is_dir(),
                live: bytes.clone(),
                durable: bytes,
                modified: metadata.modified().ok(),
                number: metadata.ino(),
            });
            self.live.insert(path.clone(), self.inodes.len() - 1);
            if metadata.is_dir() {
                self.load(&path);
            }
        }
    }

    /// The run with this trace has ended: which numbers the files have got that it has made.
    pub fn learn(&mut self, steps: &[Step]) {
        let mut end = self.clone();
        let mut known = BTreeMap::new();
        for step in steps {
            let removed = end.live.get(&step.path).filter(|_| step.op == "unlink");
            known.extend(removed.map(|inode| (*inode, step.inode)));
            end.apply(step);
        }
        for (path, inode) in &end.live {
            known.extend(path.metadata().ok().map(|metadata| (*inode, metadata.ino())));
        }
        self.numbers = known;
    }

    /// Performs one operation.
    pub fn apply(&mut self, step: &Step) {
        match step.op.as_str() {
            "create" => self.add(&step.path, Inode::default()),
            "mkdir" => self.add(&step.path, Inode { is_folder: true, ..Inode::default() }),
            "write" => {
                let live = &mut self.inode(&step.path).live;
                let end = step.offset + step.bytes.len();
                live.resize(live.len().max(end), 0);
                live[step.offset..end].copy_from_slice(&step.bytes);
            }
            "sync" => {
                let inode = self.inode(&step.path);
                inode.durable = inode.live.clone();
            }
            "syncdir" => {
                let inside = |path: &PathBuf| path.parent() == Some(&step.path);
                self.durable.retain(|path, _| !inside(path));
                let names = self.live.iter().filter(|(path, _)| inside(path));
                self.durable.extend(names.map(|(path, inode)| (path.clone(), *inode)));
            }
            // One that never replaces fails on a name that is taken, and leaves all as it is.
            "rename" if step.site != "replace" && self.live.contains_key(&step.to) => {}
            "rename" => {
                let inode = self.live.remove(&step.path).expect("a name to rename");
                self.live.insert(step.to.clone(), inode);
            }
            "unlink" => {
                self.live.remove(&step.path);
            }
            "commit" => self.commit(step),
            "remote" => self.write_remote(step),
            other => panic!("the model does not know {other}"),
        }
    }

    /// A file that stands for another system.
    fn write_remote(&mut self, step: &Step) {
        if step.bytes.is_empty() {
            return;
        }
        if !self.live.contains_key(&step.path) {
            self.add(&step.path, Inode::default());
            self.durable.insert(step.path.clone(), self.inodes.len() - 1);
        }
        let inode = self.inode(&step.path);
        // What was announced right before an abort may not have been written.
        inode.live.truncate(step.offset);
        inode.live.extend(&step.bytes);
        inode.durable = inode.live.clone();
    }

    fn add(&mut self, path: &Path, mut inode: Inode) {
        inode.number = self.numbers.get(&self.inodes.len()).copied().unwrap_or_default();
        self.inodes.push(inode);
        self.live.insert(path.to_owned(), self.inodes.len() - 1);
    }

    fn inode(&mut self, path: &Path) -> &mut Inode {
        let inode = self.live[path];
        &mut self.inodes[inode]
    }

    /// SQLite syncs the directory of its database by itself.
    fn commit(&mut self, step: &Step) {
        if !self.live.contains_key(&step.path) {
            self.add(&step.path, Inode::default());
            self.durable.insert(step.path.clone(), self.inodes.len() - 1);
        }
        let full = step.synchronous >= 2;
        let inode = self.inode(&step.path);
        inode.live = step.bytes.clone();
        if full {
            inode.durable = step.bytes.clone();
        }
    }

    /// Makes `root` what a power cut leaves.
    pub fn cut(&self, loss: Loss) {
        let mut random = Random(match loss {
            Loss::Mixed(seed) => seed,
            _ => 0,
        });
        let mut by_chance = |kept: bool| match loss {
            Loss::Mixed(_) => random.below(2) == 0,
            _ => kept,
        };
        let names = self.names(loss, &mut by_chance);
        let contents: Vec<Vec<u8>> = self
            .inodes
            .iter()
            .map(|inode| {
                let keeps = by_chance(matches!(loss, Loss::Nothing | Loss::Names));
                match (keeps, loss) {
                    (true, _) => inode.live.clone(),
                    (false, Loss::Zeros) => zeros_where_unsynced(inode),
                    (false, _) => inode.durable.clone(),
                }
            })
            .collect();
        self.materialize(&names, &contents);
    }

    fn names(
        &self,
        loss: Loss,
        by_chance: &mut impl FnMut(bool) -> bool,
    ) -> BTreeMap<PathBuf, usize> {
        let keeps = matches!(loss, Loss::Nothing | Loss::Bytes | Loss::Zeros);
        // All names of one folder together: file systems keep the order inside one.
        let folders: BTreeSet<&Path> = self
            .live
            .keys()
            .chain(self.durable.keys())
            .filter_map(|path| folder_of(path))
            .collect();
        let mut names = BTreeMap::new();
        for folder in folders {
            let from = if by_chance(keeps) { &self.live } else { &self.durable };
            let inside = from.iter().filter(|(path, _)| folder_of(path) == Some(folder));
            names.extend(inside.map(|(path, inode)| (path.clone(), *inode)));
        }
        // A rename from one folder to another is done or not: no file system loses both names.
        let kept: BTreeSet<usize> = names.values().copied().collect();
        let living: BTreeSet<usize> = self.live.values().copied().collect();
        let lost = |inode: &usize| living.contains(inode) && !kept.contains(inode);
        let before = self.durable.iter().filter(|(_, inode)| lost(inode));
        names.extend(before.map(|(path, inode)| (path.clone(), *inode)));
        names
    }

    /// Removes what is in a folder; files wait under their numbers.
    fn clear(&self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                self.clear(&path);
                fs::remove_dir(&path).unwrap();
            } else {
                let pinned = self.pins.join(metadata.ino().to_string());
                fs::rename(&path, &pinned).unwrap();
                // Two names of one file: a rename has left the first.
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn materialize(&self, names: &BTreeMap<PathBuf, usize>, contents: &[Vec<u8>]) {
        self.clear(&self.root);
        let mut placed: BTreeMap<usize, &Path> = BTreeMap::new();
        // Parents sort before what is in them; what is in a lost folder is lost.
        for (path, inode) in names {
            if !path.parent().is_some_and(Path::is_dir) {
                continue;
            }
            if self.inodes[*inode].is_folder {
                fs::create_dir(path).unwrap();
            } else if let Some(first) = placed.get(inode) {
                fs::hard_link(first, path).unwrap();
            } else {
                let number = self.inodes[*inode].number;
                let is_kept = fs::rename(self.pins.join(number.to_string()), path).is_ok();
                assert!(is_kept || number == 0, "{} is another file", path.display());
                fs::write(path, &contents[*inode]).unwrap();
                if let Some(modified) = self.inodes[*inode].modified {
                    let file = fs::File::options().write(true).open(path).unwrap();
                    file.set_modified(modified).unwrap();
                }
                placed.insert(*inode, path);
            }
        }
    }
}

/// The folder that a name is in. That of hidden names, which every input passes, counts as the drop folder.
fn folder_of(path: &Path) -> Option<&Path> {
    let folder = path.parent()?;
    if folder.ends_with(".spoolmill-done") { folder.parent() } else { Some(folder) }
}

fn zeros_where_unsynced(inode: &Inode) -> Vec<u8> {
    let mut bytes = inode.durable.clone();
    bytes.resize(inode.live.len().max(bytes.len()), 0);
    bytes
}
