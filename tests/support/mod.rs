//! What the tests are written with: a job in a folder of its own, and the real binary.

#[cfg(feature = "kafka")]
pub mod broker;
pub mod model;
pub mod spool;

pub use spool::Spool;

use std::time::{Duration, Instant};

/// How long a test waits for a condition before it fails.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds, and fails with `what` when it never does.
#[track_caller]
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    wait_within(DEADLINE, what, condition);
}

/// The same with another deadline.
#[track_caller]
pub fn wait_within(most: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + most;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The program keeps signals ignored that were ignored when it was started; a shell starts a job in the background
/// so, and nohup any. The tests send them.
#[expect(unsafe_code, reason = "no safe crate of ours sets the action of a signal")]
pub fn hear_interrupts() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: this sets the default action, and runs no code of ours.
    ONCE.call_once(|| unsafe {
        libc::signal(libc::SIGINT, libc::SIG_DFL);
        libc::signal(libc::SIGQUIT, libc::SIG_DFL);
        libc::signal(libc::SIGHUP, libc::SIG_DFL);
    });
}

/// A small generator of numbers that look random, the same for the same seed (`SplitMix64`).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Says that a test could not do its work here, and why; the gate installs what is missing.
pub fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// True when `program` can be run.
pub fn has(program: &str) -> bool {
    std::process::Command::new(program)
        .arg("--version")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok()
}

/// The program to compare with, where it is installed.
pub fn duckdb() -> Option<String> {
    let duckdb = std::env::var("DUCKDB").unwrap_or_else(|_| "duckdb".to_owned());
    if has(&duckdb) {
        return Some(duckdb);
    }
    skipped("duckdb is not installed");
    None
}
