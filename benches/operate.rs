//! What it costs to look into a job: with a million waiting files and ten million microbatches behind it,
//! and while it works.
//!
//! `cargo bench --bench operate -- [years] [watched]`; `years` takes some minutes and gigabytes.

#![allow(missing_docs, clippy::pedantic, clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)]

#[allow(dead_code, reason = "not every benchmark needs all of it")]
mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Job, median, program, rustix_sync, timed};

const WAITING: u64 = 1_000_000;
const MICROBATCHES: u64 = 10_000_000;

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, run) in [("years", years as fn()), ("watched", watched)] {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            println!("== {name}");
            run();
        }
    }
}

/// Milliseconds that a verb takes, the median of some runs.
fn verb(job: &Job, arguments: &[&str]) -> f64 {
    let times = (0..9).map(|_| {
        let mut command = Command::new(program());
        command.arg(arguments[0]).arg("-c").arg(job.path("job.toml")).args(&arguments[1..]);
        command.stdout(Stdio::null());
        let begun = Instant::now();
        assert!(command.status().unwrap().success(), "{arguments:?}");
        begun.elapsed().as_secs_f64() * 1e3
    });
    median(times.collect())
}

/// Milliseconds that a page takes, the median of some requests so far apart that each is rebuilt.
fn page(address: &str, path: &str) -> f64 {
    let times = (0..5).map(|_| {
        std::thread::sleep(Duration::from_millis(1100));
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        begun.elapsed().as_secs_f64() * 1e3
    });
    median(times.collect())
}

/// A year of history in the ledger of a job that has run once.
fn write_history(job: &Job) {
    let connection = rusqlite::Connection::open(job.path("state/ledger.db")).unwrap();
    connection.pragma_update(None, "synchronous", "OFF").unwrap();
    connection.pragma_update(None, "cache_size", -1_000_000).unwrap();
    let year_ms = 365_u64 * 86_400_000;
    let rows = format!(
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {MICROBATCHES}),
            made AS (SELECT i, (SELECT committed_ms FROM microbatch) - {year_ms}
                + i * ({year_ms} / {MICROBATCHES}) AS at FROM n)"
    );
    connection
        .execute_batch(&format!(
            "BEGIN;
            INSERT INTO microbatch (sequence, committed_ms, name, inode, size, modified_ns, hash, read,
                written, rejected)
            {rows} SELECT i, at, CAST(printf('input_%09d', i) AS BLOB), i, 20, at * 1000000,
                randomblob(32), 2, 2, 0 FROM made;
            INSERT INTO span SELECT sequence, 1, 0, sequence * 20, 20, 0 FROM microbatch
                WHERE sequence > 1;
            DELETE FROM tally;
            INSERT INTO tally SELECT committed_ms / 60000, max(sequence), max(sequence), 0, 0,
                max(sequence) * 20, max(sequence) * 2, max(sequence) * 2, 0, 0, 5
                FROM microbatch GROUP BY 1;
            COMMIT;"
        ))
        .unwrap();
}

/// Status, explain and the page, with and without a year behind and a million files waiting.
fn years() {
    let job = Job::new();
    fs::write(job.path("in/first"), "1\n2\n").unwrap();
    timed(job.command().arg("--once"));
    let looks: [(&str, &[&str]); 4] = [
        ("status", &["status"]),
        ("explain a processed file", &["explain", "input_005000000"]),
        ("explain a waiting file", &["explain", "waiting_500000"]),
        ("history", &["history"]),
    ];
    let before: Vec<f64> = looks.iter().map(|(_, verb_)| verb(&job, verb_)).collect();
    write_history(&job);
    for number in 0..WAITING {
        fs::write(job.path("in").join(format!("waiting_{number:06}")), "1\n").unwrap();
    }
    rustix_sync();
    for ((name, arguments), before) in looks.iter().zip(before) {
        let after = verb(&job, arguments);
        println!("{name}: {after:.0} ms; {before:.0} ms with one file and nothing waiting");
    }
    let text = fs::read_to_string(job.path("job.toml")).unwrap();
    fs::write(
        job.path("job.toml"),
        text + "[http]\nlisten = \"19464\"\n[input.complete]\nmarker = \".done\"\n",
    )
    .unwrap();
    // Nothing is taken: every file waits for its marker.
    let mut daemon = job.command().spawn().unwrap();
    let begun = Instant::now();
    while TcpStream::connect("127.0.0.1:19464").is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(50));
    }
    for path in ["/status.json", "/metrics", "/day.json", "/"] {
        println!("{path} while it runs: {:.0} ms", page("127.0.0.1:19464", path));
    }
    println!("status while it runs: {:.0} ms", verb(&job, &["status"]));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// Small files taken while somebody has the page open and a monitoring system asks, and without: the
/// time that it takes, and the share of the processor that the answers have.
fn watched() {
    const FILES: usize = 150_000;
    let run = |listens: bool| {
        let job = Job::new();
        for number in 0..FILES {
            fs::write(job.path("in").join(format!("{number:06}")), "1.5\n12.25\n").unwrap();
        }
        if listens {
            let text = fs::read_to_string(job.path("job.toml")).unwrap();
            fs::write(job.path("job.toml"), text + "[http]\nlisten = \"19465\"\n").unwrap();
        }
        rustix_sync();
        let begun = Instant::now();
        let mut daemon = job.command().arg("--once").spawn().unwrap();
        let watcher = listens.then(|| std::thread::spawn(watch));
        let (mut answers, mut all) = (0.0, 0.0);
        while daemon.try_wait().unwrap().is_none() {
            (answers, all) = processor_time(daemon.id()).unwrap_or((answers, all));
            std::thread::sleep(Duration::from_millis(20));
        }
        let time = begun.elapsed().as_secs_f64();
        if let Some(watcher) = watcher {
            assert!(watcher.join().unwrap() > 1000, "nothing was told");
        }
        (time, answers / all)
    };
    let (mut alone, mut watched, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        alone.push(run(false).0);
        let (time, share) = run(true);
        watched.push(time);
        shares.push(share * 100.0);
    }
    println!("alone: {alone:.2?} s");
    println!("watched: {watched:.2?} s");
    println!("of the processor time of the daemon, the answers have {shares:.2?} %");
    let (alone, watched) = (median(alone), median(watched));
    println!(
        "{:.0} files a second; {:.0} with the page open ({:+.1} %); the answers have {:.2} %",
        FILES as f64 / alone,
        FILES as f64 / watched,
        (alone / watched - 1.0) * 100.0,
        median(shares)
    );
}

/// The page, and `/metrics` once a second, until the daemon is done; the bytes that it has told.
fn watch() -> usize {
    let begun = Instant::now();
    let connect = || TcpStream::connect("127.0.0.1:19465");
    let ask = |mut stream: TcpStream, path: &str| {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").map(|()| stream)
    };
    let mut page = loop {
        match connect().and_then(|stream| ask(stream, "/events")) {
            Ok(stream) => break stream,
            Err(_) => assert!(begun.elapsed() < Duration::from_secs(20)),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let monitoring = std::thread::spawn(move || {
        while let Ok(mut stream) = connect().and_then(|stream| ask(stream, "/metrics")) {
            let mut some = [0; 4096];
            let _ = stream.read(&mut some);
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    let mut events = Vec::new();
    // Until the daemon is done.
    let _ = page.read_to_end(&mut events);
    monitoring.join().unwrap();
    events.len()
}

/// Of the thread that answers, and of all threads of the daemon, in nanoseconds.
fn processor_time(daemon: u32) -> Option<(f64, f64)> {
    let (mut answers, mut all) = (0.0, 0.0);
    for thread in fs::read_dir(format!("/proc/{daemon}/task")).ok()? {
        let thread = thread.ok()?.path();
        let time = fs::read_to_string(thread.join("schedstat")).ok()?;
        let time: f64 = time.split(' ').next()?.parse().ok()?;
        all += time;
        if fs::read_to_string(thread.join("comm")).ok()?.trim() == "http" {
            answers += time;
        }
    }
    (all > 0.0).then_some((answers, all))
}
