//! The state of a file, by which one is told from another.

use std::fs::File;
use std::time::Duration;

use rustix::fs::Stat;

use crate::clock::since_1970;

/// One state of one file, told from others by these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last modification, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// Last status change, in nanoseconds since 1970; no program can set it.
    pub changed_ns: i64,
}

impl Stamp {
    /// The stamp of a stat.
    pub fn of(stat: &Stat) -> Self {
        let nanoseconds = |seconds: i64, nanoseconds: i64| {
            seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
        };
        #[expect(clippy::cast_possible_wrap, reason = "a nanosecond count is below 10^9")]
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec as i64),
            changed_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }

    /// The stamp of what the standard library gives.
    pub fn of_metadata(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let nanoseconds = |seconds: i64, nanoseconds: i64| {
            seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
        };
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// True for a marker with this stamp that came with the file `other`, or after it. A modification time
    /// that lies after the status time was set by hand, and says nothing.
    pub fn is_as_new_as(&self, other: &Self) -> bool {
        let is_set = other.modified_ns > other.changed_ns;
        self.changed_ns >= other.changed_ns && (is_set || self.modified_ns >= other.modified_ns)
    }

    /// True for two states of one file.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// The stamp of an open file.
    pub fn of_file(file: &File) -> std::io::Result<Self> {
        Ok(Self::of(&rustix::fs::fstat(file)?))
    }

    /// How long ago the status changed by the clock of this machine; zero for the future.
    pub fn age(&self) -> Duration {
        let now = i64::try_from(since_1970().as_nanos()).unwrap_or(i64::MAX);
        Duration::from_nanos(u64::try_from(now.saturating_sub(self.changed_ns)).unwrap_or(0))
    }
}
