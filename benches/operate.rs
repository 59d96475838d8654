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

/// Milliseconds that a page takes, the median of some requests so far apart that each is made anew.
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

/// Small files taken while somebody has the page open and a monitoring system asks, and without.
fn watched() {
    const FILES: usize = 20_000;
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
        let watcher = listens.then(|| {
            std::thread::spawn(|| {
                let begun = Instant::now();
                let mut stream = loop {
                    match TcpStream::connect("127.0.0.1:19465") {
                        Ok(stream) => break stream,
                        Err(_) => assert!(begun.elapsed() < Duration::from_secs(20)),
                    }
                };
                write!(stream, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
                let mut events = Vec::new();
                // Until the daemon is done.
                let _ = stream.read_to_end(&mut events);
                events.len()
            })
        });
        let (time, _) = timed(job.command().arg("--once"));
        if let Some(watcher) = watcher {
            assert!(watcher.join().unwrap() > 100, "nothing was told");
        }
        time
    };
    let (mut alone, mut watched) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        alone.push(run(false));
        watched.push(run(true));
    }
    println!("alone: {alone:.2?} s");
    println!("watched: {watched:.2?} s");
    let (alone, watched) = (median(alone), median(watched));
    println!(
        "{:.0} files a second; {:.0} with the page open ({:+.1} %)",
        FILES as f64 / alone,
        FILES as f64 / watched,
        (alone / watched - 1.0) * 100.0
    );
}
