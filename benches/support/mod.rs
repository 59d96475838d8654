//! What the benchmarks are written with: a job in a folder of its own, and the program.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const JOB: &str = "[input]\ndirectory = \"in\"\nsettle = \"0s\"\n[input.format.numbers]\n\
    [transform.scale]\nbelow = 10.0\nby = 100.0\n[output]\npath = \"output.txt\"\n\
    [output.format.numbers]\n[state]\ndirectory = \"state\"\n";

/// The program to measure: the one that cargo built, or the one that `SPOOLMILL` names.
pub fn program() -> String {
    std::env::var("SPOOLMILL").unwrap_or_else(|_| env!("CARGO_BIN_EXE_spoolmill").to_owned())
}

pub struct Job {
    folder: tempfile::TempDir,
}

impl Job {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        fs::write(folder.path().join("job.toml"), JOB).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.args(["run", "-c"]).arg(self.path("job.toml")).stderr(Stdio::null());
        command
    }
}

pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Runs to its end; the wall time in seconds and the peak of the memory in MiB.
pub fn timed(command: &mut Command) -> (f64, f64) {
    let begun = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut peak: f64 = 0.0;
    loop {
        peak = peak.max(memory(&child, "VmHWM:"));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{command:?}: {status}");
            return (begun.elapsed().as_secs_f64(), peak);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn memory(child: &Child, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

pub fn has(program: &str) -> bool {
    let version =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

pub fn rustix_sync() {
    let _ = Command::new("sync").status();
}
