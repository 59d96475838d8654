//! Promises 1 to 5 and 12: whatever is aborted or fails, at whichever durable operation, the next
//! start ends where an undisturbed run would have ended, and no reader ever sees a byte taken back.
//!
//! The operations are counted by the program itself, so that none can be forgotten here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;

use crate::support::model::{LOSSES, Loss, Model, trace};
use crate::support::spool::NUMBERS;
use crate::support::{Random, Spool};

/// Aborts at the n-th operation, n rising until a run is not reached by it; more than this many
/// operations would mean that it never ends.
const OPERATIONS_MAX: u64 = 500;

/// A job whose crashes are explored.
#[derive(Debug, Clone, Copy)]
struct Job {
    configuration: &'static str,
    /// What each file begins with.
    header: &'static str,
    /// A number as a record.
    record: fn(&str) -> String,
    /// What a reader sees: it only ever grows at its end.
    seen: fn(&Spool) -> String,
    /// The drop folder holds partitions of messages, a line each (`source/log.rs`).
    log: bool,
    /// The output is a remote target (`sink/log.rs`).
    remote: bool,
}

const PLAIN: Job = Job {
    configuration: NUMBERS,
    header: "",
    record: str::to_owned,
    seen: Spool::output,
    log: false,
    remote: false,
};

/// Messages with positions in two partitions, read in ranges, which are acknowledged.
const LOG: Job = Job { configuration: NUMBERS, log: true, ..PLAIN };

/// A target on another system, which remembers one number, takes parts of a large microbatch, and refuses a record.
const REMOTE: Job = Job { remote: true, seen: Spool::delivered, ..PLAIN };

/// Both: ranges of messages, to a target on another system.
const LOG_TO_REMOTE: Job = Job { log: true, ..REMOTE };

/// A commit for each file.
const ALONE: Job = Job {
    configuration: "[input.format.numbers]\n[output]\npath = \"output.txt\"\n[output.format.numbers]\n\
        [engine]\nfiles_per_commit = 1\n",
    ..PLAIN
};

/// An output in a folder of its own, which nothing else makes durable.
const ELSEWHERE: Job = Job {
    configuration: "[input.format.numbers]\n[output]\npath = \"out/output.txt\"\n[output.format.numbers]\n\
        [engine]\nfiles_per_commit = 1\n",
    seen: |spool| spool.read("out/output.txt"),
    ..PLAIN
};

/// An output that is closed again and again: what a reader sees is all of its files, one after the other.
const ROTATED: Job = Job {
    configuration: "[input.format.numbers]\n[transform.scale]\nbelow = 10.0\nby = 100.0\n\
        [output]\npath = \"output.txt\"\nrotate = { size = \"8B\" }\n[output.format.numbers]\n\
        [engine]\nfiles_per_commit = 2\n",
    seen: |spool| {
        let entries = std::fs::read_dir(spool.path("")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: BTreeSet<_> = names.filter(|name| name.starts_with("output")).collect();
        names.iter().map(|name| spool.read(name)).collect()
    },
    ..PLAIN
};

/// What is closed is compressed: no plain file and no hidden name is left.
const COMPRESSED: Job = Job {
    configuration: "[input.format.numbers]\n[output]\npath = \"out/output.txt\"\n\
        rotate = { size = \"8B\", compress = \"gzip\" }\n[output.format.numbers]\n\
        [engine]\nfiles_per_commit = 2\n",
    seen: |spool| {
        let names = spool.names_in("out");
        let text: String = names.iter().map(|name| spool.plain(&format!("out/{name}"))).collect();
        let odd = names.iter().filter(|name| name.starts_with('.') || name.ends_with("Z.txt"));
        odd.count().to_string() + &text
    },
    ..PLAIN
};

/// What is closed goes at once, and so does what was moved: nothing of it is left.
const KEPT: Job = Job {
    configuration: "[input.format.numbers]\n[output]\npath = \"out/output.txt\"\n\
        rotate = { size = \"8B\", compress = \"gzip\", keep = \"0B\" }\n[output.format.numbers]\n\
        [done]\naction = { move = \"archive\" }\nkeep = \"0B\"\n[engine]\nfiles_per_commit = 2\n",
    seen: |spool| format!("{:?} {:?}", spool.names_in("out"), spool.names_in("archive")),
    ..PLAIN
};

/// A header once, records that say where they are from, and one plan over blocks.
#[cfg(feature = "sql")]
const CSV: Job = Job {
    configuration: "[input.format.csv]\n[input.format.csv.columns]\nnum = \"double\"\n\
        [transform.sql]\nquery = \"select num * 100 as num, _file, _line from input\"\n\
        [output]\npath = \"output.txt\"\n[output.format.csv]\n",
    header: "num\n",
    record: str::to_owned,
    seen: Spool::output,
    ..PLAIN
};

/// A query that must see the whole file.
#[cfg(feature = "sql")]
const JSON: Job = Job {
    configuration: "[input.format.json]\n[input.format.json.columns]\nnum = \"double\"\n\
        [transform.sql]\nquery = \"select num, count(*) over () as n from input order by num desc\"\n\
        [output]\npath = \"output.txt\"\n[output.format.json]\n",
    header: "",
    record: |number| format!("{{\"num\":{number}}}"),
    seen: Spool::output,
    ..PLAIN
};

/// A folder with a file for each microbatch, large and small.
#[cfg(feature = "sql")]
const PARQUET: Job = Job {
    configuration: "[input.format.csv]\n[input.format.csv.columns]\nnum = \"double\"\n\
        [transform.sql]\nquery = \"select num, _file, _line * 6364136223846793005 as mixed from input\"\n\
        [output]\npath = \"output\"\n[output.format.parquet]\n",
    header: "num\n",
    record: str::to_owned,
    seen: |spool| {
        let entries = std::fs::read_dir(spool.path("output")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: BTreeSet<_> = names.filter(|name| !name.starts_with('.')).collect();
        let file = |name: &String| {
            let content = std::fs::read(spool.path("output").join(name)).unwrap();
            format!("{name} {}\n", content.escape_ascii())
        };
        names.iter().map(file).collect()
    },
    ..PLAIN
};

/// Three views over the output: one replaced, one appended to, one of windows that close; and records
/// that come too late for them.
#[cfg(feature = "sql")]
const VIEWS: Job = Job {
    configuration: "[input.format.csv]\n[input.format.csv.columns]\nnum = \"double\"\n\
        [transform.sql]\nquery = \"select num, to_timestamp(cast(num * 10 as bigint)) as t from input\"\n\
        [output]\npath = \"output.txt\"\n[output.format.csv]\n\
        [event_time]\ncolumn = \"t\"\ndelay = \"350s\"\nlate = \"late.jsonl\"\n\
        [[view]]\nname = \"closed\"\nmode = \"append\"\npath = \"closed.csv\"\n\
        query = \"select window_start, num, count(*) as n from tumble(output, t, '30 seconds') group by 1, 2\"\n\
        [[view]]\nname = \"all\"\nmode = \"complete\"\npath = \"all.csv\"\n\
        query = \"select num, count(*) as n, sum(num) as s from output group by num order by num\"\n\
        [[view]]\nname = \"changed\"\nmode = \"update\"\npath = \"changed.csv\"\n\
        query = \"select num, count(*) as n, sum(num) as s from output group by num\"\n",
    header: "num\n",
    record: str::to_owned,
    seen: Spool::output,
    ..PLAIN
};

/// A job with views whose output and views are on one remote system, which has one mark for all of them.
#[cfg(feature = "sql")]
const VIEWS_TO_REMOTE: Job = Job { remote: true, seen: Spool::delivered, ..VIEWS };

impl Job {
    fn file(self, numbers: &[&str]) -> String {
        let records: String = numbers.iter().map(|number| (self.record)(number) + "\n").collect();
        format!("{}{records}", self.header)
    }
}

/// What is left when everything is done.
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    output: Lines,
    rejects: Lines,
    views: String,
    names: BTreeSet<String>,
    report: String,
}

/// A long text, which prints as the number and the sum of its lines.
#[derive(Clone, PartialEq, Eq)]
struct Lines(String);

impl std::fmt::Debug for Lines {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first: Vec<&str> = self.0.lines().take(5).collect();
        write!(formatter, "{} lines, {} bytes, {first:?}...", self.0.lines().count(), self.0.len())
    }
}

fn end(spool: &Spool, job: Job) -> End {
    let report: serde_json::Value =
        serde_json::from_str(&spool.read("in/failed-d.gz.error.json")).unwrap_or_default();
    End {
        output: Lines((job.seen)(spool)),
        rejects: Lines(spool.rejects()),
        views: ["all.csv", "changed.csv", "closed.csv", "late.jsonl"]
            .map(|name| spool.read(name))
            .concat(),
        names: spool.names(),
        report: if job.log { acknowledged(spool) } else { report["reason"].to_string() },
    }
}

/// Small and large microbatches, rejects, quarantine, an archive name that is taken, an empty file,
/// and a second round that drops old names again.
fn scenario(job: Job) -> Spool {
    let mut spool = Spool::new(job.configuration);
    if job.remote {
        spool.always("SPOOLMILL_SINK", "log");
    }
    if job.log {
        spool.always("SPOOLMILL_SOURCE", "log");
        spool.drop_file("0", job.file(&[["7.25"; 60_000].as_slice(), &["1", "bad"]].concat()));
        spool.drop_file("1", job.file(&[["x"; 6_000].as_slice(), &["3"]].concat()));
        return spool;
    }
    spool.drop_file("processed-a", "an older one");
    spool.drop_file("a", job.file(&["1", "2"]));
    spool.drop_file("b", job.file(&["3", "bad", "40"]));
    spool.drop_file("c", job.file(&["7.25"; 60_000]));
    spool.drop_file("d.gz", "this is no gzip file");
    spool.drop_file("e", "");
    spool.drop_file("f", job.file(&[["x"; 6_000].as_slice(), &["1"]].concat()));
    if job.remote {
        spool.drop_file("h", job.file(&["5", "666", "6"]));
    }
    spool
}

fn second_round(spool: &Spool, job: Job) {
    if job.log {
        for (name, numbers) in [("0", ["1", "2"]), ("1", ["9", "10"])] {
            let mut file = File::options().append(true).open(spool.input(name)).unwrap();
            file.write_all(job.file(&numbers).as_bytes()).unwrap();
        }
        return;
    }
    spool.drop_file("a", job.file(&["1", "2"]));
    spool.drop_file("g", job.file(&["9"]));
}

/// The last position that was acknowledged of each partition. It never goes back.
fn acknowledged(spool: &Spool) -> String {
    let mut last = BTreeMap::new();
    for line in spool.read("in/acknowledged").lines() {
        let (partition, position) = line.split_once(' ').unwrap();
        let position: u64 = position.parse().unwrap();
        let before = last.insert(partition.to_owned(), position);
        assert!(before <= Some(position), "{partition}: {before:?}, then {position}");
    }
    format!("{last:?}")
}

/// Runs until the run is a good one; returns whether the first was aborted.
fn run_with(spool: &mut Spool, fault: &str) -> bool {
    spool.environment("SPOOLMILL_FAULT", fault);
    let output = spool.run("run", &["--once"]);
    spool.no_environment();
    let aborted = output.status.signal() == Some(6);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(aborted || output.status.success(), "{fault}: {}: {log}", output.status);
    aborted
}

fn undisturbed(job: Job) -> End {
    undisturbed_from(&scenario(job), job)
}

fn undisturbed_from(spool: &Spool, job: Job) -> End {
    spool.run_once();
    second_round(spool, job);
    spool.run_once();
    end(spool, job)
}

/// The whole story with the first round aborted by `fault`, and the recovery by `again`.
fn disturbed(job: Job, fault: &str, again: Option<&str>, expected: &End) -> bool {
    let mut spool = scenario(job);
    let aborted = run_with(&mut spool, fault);
    let mut seen = vec![(job.seen)(&spool)];
    if let Some(again) = again {
        run_with(&mut spool, again);
        seen.push((job.seen)(&spool));
    }
    spool.run_once();
    seen.push((job.seen)(&spool));
    second_round(&spool, job);
    spool.run_once();
    let end = end(&spool, job);
    assert_eq!(end, *expected, "after {fault}, {again:?}");
    for pair in seen.windows(2) {
        assert!(pair[1].starts_with(&pair[0]), "a reader saw bytes taken back after {fault}");
    }
    aborted
}

#[test]
fn an_abort_at_any_durable_operation_changes_nothing_in_the_end() {
    aborts_change_nothing(PLAIN);
}

#[test]
fn an_abort_of_a_job_that_rotates_changes_nothing_in_the_end() {
    aborts_change_nothing(ROTATED);
}

#[test]
fn an_abort_of_a_job_over_partitions_changes_nothing_in_the_end() {
    aborts_change_nothing(LOG);
}

#[test]
fn an_abort_of_a_job_to_a_remote_target_changes_nothing_in_the_end() {
    aborts_change_nothing(REMOTE);
}

#[test]
fn an_abort_between_partitions_and_a_remote_target_changes_nothing_in_the_end() {
    aborts_change_nothing(LOG_TO_REMOTE);
}

#[cfg(feature = "sql")]
#[test]
fn an_abort_of_a_job_with_views_to_a_remote_target_changes_nothing_in_the_end() {
    aborts_change_nothing(VIEWS_TO_REMOTE);
}

#[cfg(feature = "sql")]
#[test]
fn an_abort_of_a_csv_job_changes_nothing_in_the_end() {
    aborts_change_nothing(CSV);
}

#[cfg(feature = "sql")]
#[test]
fn an_abort_of_a_json_job_changes_nothing_in_the_end() {
    aborts_change_nothing(JSON);
}

#[cfg(feature = "sql")]
#[test]
fn an_abort_of_a_parquet_job_changes_nothing_in_the_end() {
    aborts_change_nothing(PARQUET);
}

#[cfg(feature = "sql")]
#[test]
fn an_abort_of_a_job_with_views_changes_nothing_in_the_end() {
    aborts_change_nothing(VIEWS);
}

fn aborts_change_nothing(job: Job) {
    let expected = undisturbed(job);
    assert!(expected.output.0.len() > 256 * 1024 && expected.rejects.0.len() > 256 * 1024);
    let mut random = Random(1);
    let mut count = 0;
    for number in 1..OPERATIONS_MAX {
        let aborted = disturbed(job, &format!("abort:{number}"), None, &expected);
        disturbed(job, &format!("half:{number}"), None, &expected);
        let again = format!("abort:{}", 1 + random.below(12));
        disturbed(job, &format!("abort:{number}"), Some(&again), &expected);
        if !aborted {
            count = number;
            break;
        }
    }
    eprintln!("aborted at each of {} durable operations", count - 1);
    assert!(count > 30, "only {count} operations were counted");
}

/// Every way in which the recovery from one crash can itself be interrupted.
#[test]
fn an_abort_at_any_operation_of_the_recovery_changes_nothing_in_the_end() {
    let expected = undisturbed(PLAIN);
    for first in [12, 18, 25] {
        for number in 1..OPERATIONS_MAX {
            let mut spool = scenario(PLAIN);
            run_with(&mut spool, &format!("abort:{first}"));
            let aborted = run_with(&mut spool, &format!("abort:{number}"));
            spool.run_once();
            second_round(&spool, PLAIN);
            spool.run_once();
            assert_eq!(end(&spool, PLAIN), expected, "abort:{first}, then abort:{number}");
            if !aborted {
                break;
            }
        }
    }
}

/// So many files at once that they are archived while the next are read, which takes two groups.
fn crowd() -> Spool {
    let spool = Spool::new(CROWD.configuration);
    for number in 0..150 {
        spool.drop_file(format!("f{number:03}"), format!("{number}\n"));
    }
    spool
}

const CROWD: Job = Job {
    configuration: "[output]\npath = \"output.txt\"\n[engine]\nfiles_per_commit = 70\n",
    ..PLAIN
};

/// Two threads are at work: the operations have no fixed order, and every fourth is enough.
#[test]
fn an_abort_among_many_files_changes_nothing_in_the_end() {
    let expected = undisturbed_from(&crowd(), CROWD);
    let mut count = 0;
    for number in (1..2000).step_by(4) {
        let mut spool = crowd();
        let aborted = run_with(&mut spool, &format!("abort:{number}"));
        let again = run_with(&mut spool, &format!("abort:{}", number / 2 + 1));
        spool.run_once();
        second_round(&spool, CROWD);
        spool.run_once();
        assert_eq!(end(&spool, CROWD), expected, "after abort:{number}, {again}");
        count = number;
        if !aborted {
            break;
        }
    }
    assert!(count > 300, "only {count} operations were counted");
}

#[test]
fn a_power_cut_among_many_files_changes_nothing_in_the_end() {
    let expected = undisturbed_from(&crowd(), CROWD);
    let (states, found) = explore_some(crowd(), CROWD, "", &expected, 7);
    eprintln!("{states} states after a power cut among many files");
    assert_eq!(found, None);
    assert!(states > 300);
}

/// A transient failure pauses the daemon; then it goes on as if nothing had happened. Nothing
/// is quarantined for it.
#[test]
fn an_operation_that_fails_once_is_made_good() {
    let expected = undisturbed(PLAIN);
    // The first two things created are the state's own folders: without those there is no start.
    for (kind, errno, numbers) in [
        ("write", 28, [1, 2, 4, 7]),
        ("create", 28, [3, 4, 5, 6]),
        ("rename", 13, [1, 2, 4, 7]),
        ("commit", 28, [1, 2, 3, 4]),
        ("remove", 5, [1, 2, 3, 4]),
    ] {
        for number in numbers {
            disturbed(PLAIN, &format!("fail:{kind}:{errno}:{number}"), None, &expected);
        }
    }
    let expected = undisturbed(LOG);
    for number in [1, 2, 3, 4] {
        disturbed(LOG, &format!("fail:acknowledge:5:{number}"), None, &expected);
    }
    // What was asked of a remote target is lost, or its answer is.
    let expected = undisturbed(REMOTE);
    // The first answer is that of the open, without which there is no start.
    for (site, numbers) in [("deliver", 1..=8), ("answer", 2..=9)] {
        for number in numbers {
            disturbed(REMOTE, &format!("fail:{site}:110:{number}"), None, &expected);
        }
    }
}

/// A failed fsync is never tried again: the program stops with code 1, and the next start recovers.
#[test]
fn a_failed_fsync_stops_the_program() {
    let expected = undisturbed(PLAIN);
    for kind in ["sync", "sync-directory"] {
        for number in 1..=8 {
            let mut spool = scenario(PLAIN);
            spool.environment("SPOOLMILL_FAULT", &format!("fail:{kind}:5:{number}"));
            let output = spool.run("run", &["--once"]);
            spool.no_environment();
            let log = String::from_utf8_lossy(&output.stderr);
            // The very first ones make the state's own folders; without those there is no start.
            assert!(matches!(output.status.code(), Some(0..=2)), "{log}");
            let stopped = !output.status.success();
            assert_eq!(stopped, log.contains("Input/output error"), "{log}");
            assert!(stopped || number > 2, "fail:{kind}:{number} did not stop it: {log}");
            spool.run_once();
            second_round(&spool, PLAIN);
            spool.run_once();
            assert_eq!(end(&spool, PLAIN), expected, "after fail:{kind}:{number}");
        }
    }
}

/// The full story under the model, as two runs with their traces; returns the first state from
/// which the program does not come to the expected end.
fn explore(job: Job, mutant: &str, expected: &End) -> (usize, Option<String>) {
    explore_from(scenario(job), job, mutant, expected)
}

fn explore_from(spool: Spool, job: Job, mutant: &str, expected: &End) -> (usize, Option<String>) {
    explore_some(spool, job, mutant, expected, 1)
}

/// The same after each `stride`-th operation only.
fn explore_some(
    mut spool: Spool,
    job: Job,
    mutant: &str,
    expected: &End,
    stride: usize,
) -> (usize, Option<String>) {
    let pins = tempfile::tempdir().unwrap();
    let mut model = Model::of(&spool.path(""), pins.path());
    let trace_folder = tempfile::tempdir().unwrap();
    let trace_file = trace_folder.path().join("trace");
    spool.environment("SPOOLMILL_MUTANT", mutant);
    spool.environment("SPOOLMILL_TRACE", trace_file.to_str().unwrap());
    spool.environment("SPOOLMILL_PINS", pins.path().to_str().unwrap());
    spool.run_once();
    spool.no_environment();
    spool.environment("SPOOLMILL_PINS", pins.path().to_str().unwrap());
    let steps = trace(&trace_file);
    model.learn(&steps);
    let mut states = 0;
    for (number, step) in steps.iter().enumerate() {
        model.apply(step);
        if number % stride > 0 {
            continue;
        }
        for loss in LOSSES {
            states += 1;
            model.cut(loss);
            if let Some(found) = recovers(&spool, job, expected) {
                let at = format!("{loss:?} after operation {number} ({} {})", step.op, step.site);
                return (states, Some(format!("{at}: {found}")));
            }
        }
    }
    (states, None)
}

/// `None` when the program comes to the expected end from what is in the folder now.
fn recovers(spool: &Spool, job: Job, expected: &End) -> Option<String> {
    for round in 0..2 {
        if round == 1 {
            second_round(spool, job);
        }
        let output = spool.run("run", &["--once"]);
        if !output.status.success() {
            return Some(String::from_utf8_lossy(&output.stderr).into_owned());
        }
    }
    let end = end(spool, job);
    (end != *expected).then(|| format!("{end:?}"))
}

#[test]
fn a_power_cut_at_any_operation_changes_nothing_in_the_end() {
    let expected = undisturbed(PLAIN);
    let (states, found) = explore(PLAIN, "", &expected);
    eprintln!("{states} states after a power cut");
    assert_eq!(found, None);
    assert!(states > 200);
}

#[test]
fn a_power_cut_in_a_job_that_rotates_changes_nothing_in_the_end() {
    let expected = undisturbed(ROTATED);
    assert_eq!(explore(ROTATED, "", &expected).1, None);
}

#[test]
fn a_power_cut_beside_a_compression_changes_nothing_in_the_end() {
    let expected = undisturbed(COMPRESSED);
    assert!(expected.output.0.starts_with('0') && expected.output.0.len() > 256 * 1024);
    assert_eq!(explore(COMPRESSED, "", &expected).1, None);
}

#[test]
fn a_power_cut_while_the_past_is_pruned_leaves_nothing_of_it() {
    let expected = undisturbed(KEPT);
    // But for the last group, which stays whatever its age.
    assert_eq!(expected.output.0, "{} {\"a\", \"f\", \"g\"}");
    assert_eq!(explore(KEPT, "", &expected).1, None);
}

/// A file goes back, and is taken again once.
#[test]
fn a_power_cut_in_a_requeue_neither_loses_nor_doubles_the_file() {
    let mut spool = scenario(PLAIN);
    spool.run_once();
    let pins = tempfile::tempdir().unwrap();
    let mut model = Model::of(&spool.path(""), pins.path());
    let trace_folder = tempfile::tempdir().unwrap();
    let trace_file = trace_folder.path().join("trace");
    spool.environment("SPOOLMILL_TRACE", trace_file.to_str().unwrap());
    spool.environment("SPOOLMILL_PINS", pins.path().to_str().unwrap());
    let requeue = |spool: &Spool| {
        let failed = spool.run("requeue", &["in/failed-d.gz"]);
        let again = spool.run("requeue", &["--again", "in/processed-b"]);
        (failed.status.success(), again.status.success())
    };
    assert_eq!(requeue(&spool), (true, true));
    spool.no_environment();
    spool.environment("SPOOLMILL_PINS", pins.path().to_str().unwrap());
    let steps = trace(&trace_file);
    model.learn(&steps);
    spool.run_once();
    let expected = end(&spool, PLAIN);
    assert!(steps.len() > 5, "{steps:?}");
    for (number, step) in steps.iter().enumerate() {
        model.apply(step);
        for loss in LOSSES {
            model.cut(loss);
            // Whoever asked for it looks, and asks again where it is not done.
            requeue(&spool);
            spool.run_once();
            let at = format!("{loss:?} after operation {number} ({} {})", step.op, step.site);
            assert_eq!(end(&spool, PLAIN), expected, "{at}");
        }
    }
}

/// The first output is a staging file, renamed; the next one makes the staging folder durable.
#[test]
fn a_power_cut_after_a_large_first_output_changes_nothing_in_the_end() {
    // With a small one after it, nothing else makes the staging directory durable.
    for next in [60_000, 1] {
        let large = || {
            let spool = Spool::new(ALONE.configuration);
            spool.drop_file("a", ALONE.file(&["7.25"; 60_000]));
            spool.drop_file("b", ALONE.file(&vec!["1.25"; next]));
            spool
        };
        let expected = undisturbed_from(&large(), ALONE);
        assert_eq!(explore_from(large(), ALONE, "", &expected).1, None);
    }
}

#[test]
fn a_power_cut_in_a_job_over_partitions_changes_nothing_in_the_end() {
    let expected = undisturbed(LOG);
    assert_eq!(expected.report, "{\"0\": 60004, \"1\": 6003}");
    assert_eq!(explore(LOG, "", &expected).1, None);
}

#[test]
fn a_power_cut_in_the_recovery_of_a_job_over_partitions_changes_nothing_in_the_end() {
    recoveries_change_nothing(LOG, 1);
}

#[test]
fn a_power_cut_in_a_job_to_a_remote_target_changes_nothing_in_the_end() {
    let expected = undisturbed(REMOTE);
    assert!(expected.rejects.0.ends_with(
        "{\"file\":\"h\",\"line\":null,\"reason\":\"the target refused record 1 of microbatch 7: it says \
         so\",\"raw\":\"666.0\"}\n"
    ));
    assert_eq!(explore(REMOTE, "", &expected).1, None);
}

#[test]
fn a_power_cut_in_the_recovery_of_a_job_to_a_remote_target_changes_nothing_in_the_end() {
    recoveries_change_nothing(REMOTE, 1);
}

/// A power cut may keep the old name of a first output that its reader has taken since: that file is the reader's,
/// and is not appended to.
#[test]
fn a_first_output_that_was_taken_stays_as_it_is() {
    let large = ALONE.file(&["7.25"; 60_000]);
    let spool = (1..OPERATIONS_MAX).find_map(|number| {
        let mut spool = Spool::new(ALONE.configuration);
        spool.drop_file("a", &large);
        run_with(&mut spool, &format!("abort:{number}"));
        let is_staged = || spool.names_in("state/staging").len() == 1;
        let is_owed = || spool.ledger("SELECT count(*) FROM owed WHERE file IS NOT NULL") == 1;
        let is_at_rename = !spool.path("output.txt").exists() && is_staged() && is_owed();
        is_at_rename.then_some(spool)
    });
    let spool = spool.expect("an abort between the commit and the rename");
    let staged = spool.names_in("state/staging").into_iter().next().unwrap();
    std::fs::hard_link(spool.path("state/staging").join(staged), spool.path("taken")).unwrap();
    spool.run_once();
    spool.drop_file("b", ALONE.file(&["1.25"]));
    spool.run_once();
    let taken = spool.read("taken");
    assert_eq!(spool.output(), format!("{taken}1.25\n"));
    assert!(spool.names_in("state/staging").is_empty());
}

/// The header of a large output is in its staging file, whether it is needed or not.
#[cfg(feature = "sql")]
#[test]
fn a_power_cut_in_a_csv_job_changes_nothing_in_the_end() {
    let expected = undisturbed(CSV);
    assert_eq!(explore(CSV, "", &expected).1, None);
}

#[cfg(feature = "sql")]
#[test]
fn a_power_cut_in_a_parquet_job_changes_nothing_in_the_end() {
    let expected = undisturbed(PARQUET);
    assert_eq!(explore(PARQUET, "", &expected).1, None);
}

#[cfg(feature = "sql")]
#[test]
fn a_power_cut_in_a_job_with_views_changes_nothing_in_the_end() {
    let expected = undisturbed(VIEWS);
    assert!(expected.views.contains("60000"), "{}", expected.views);
    assert_eq!(explore(VIEWS, "", &expected).1, None);
}

/// A first run that is aborted by `fault`, then a start, and the power cut at some of its operations: as
/// many as `cuts`, by chance, or all. Returns whether the first was aborted, and the first state from which
/// the program does not come to the expected end.
fn explore_recovery(
    job: Job,
    fault: &str,
    mutant: &str,
    cuts: Option<u64>,
    expected: &End,
) -> (bool, Option<String>) {
    let mut spool = scenario(job);
    let pins = tempfile::tempdir().unwrap();
    let mut model = Model::of(&spool.path(""), pins.path());
    let trace_folder = tempfile::tempdir().unwrap();
    let trace_file = trace_folder.path().join("trace");
    spool.environment("SPOOLMILL_MUTANT", mutant);
    spool.environment("SPOOLMILL_TRACE", trace_file.to_str().unwrap());
    spool.environment("SPOOLMILL_PINS", pins.path().to_str().unwrap());
    spool.environment("SPOOLMILL_FAULT", fault);
    let aborted = spool.run("run", &["--once"]).status.signal() == Some(6);
    let before = trace(&trace_file).len();
    spool.environment("SPOOLMILL_FAULT", "");
    spool.run_once();
    spool.no_environment();
    spool.environment("SPOOLMILL_PINS", pins.path().to_str().unwrap());
    let steps = trace(&trace_file);
    model.learn(&steps);
    let mut random = Random(before as u64);
    let recovery = (steps.len() - before) as u64;
    let chosen: BTreeSet<u64> = match cuts {
        Some(cuts) => (0..cuts).map(|_| random.below(recovery.max(1))).collect(),
        None => (0..recovery).collect(),
    };
    for (number, step) in steps.iter().enumerate() {
        model.apply(step);
        let Some(number) = number.checked_sub(before) else { continue };
        if !chosen.contains(&(number as u64)) {
            continue;
        }
        let loss = LOSSES[1 + random.below(LOSSES.len() as u64 - 1) as usize];
        for loss in [Loss::Everything, loss] {
            model.cut(loss);
            if let Some(found) = recovers(&spool, job, expected) {
                let at = format!("{loss:?} after operation {number} ({} {})", step.op, step.site);
                return (aborted, Some(format!("{fault}, {mutant}, {at}: {found}")));
            }
        }
    }
    (aborted, None)
}

/// Cuts the power at some operations of the recovery from an abort at each operation, and at all of the
/// recovery from an abort within each commit. Returns how many commits there are.
fn recoveries_change_nothing(job: Job, cuts: u64) -> u64 {
    let expected = undisturbed(job);
    let explore = |fault: &str, cuts| {
        let (aborted, found) = explore_recovery(job, fault, "", cuts, &expected);
        assert_eq!(found, None);
        aborted
    };
    let aborts =
        (1..OPERATIONS_MAX).take_while(|number| explore(&format!("abort:{number}"), Some(cuts)));
    let commits =
        (1..OPERATIONS_MAX).take_while(|number| explore(&format!("unsynced:{number}"), None));
    let (aborts, commits) = (aborts.count() as u64, commits.count() as u64);
    eprintln!("recoveries from {aborts} operations and {commits} commits");
    assert!(aborts > 30 && commits > 0);
    commits
}

/// A start believes what a killed process has left in memory alone only when it has made it durable.
#[test]
fn a_power_cut_in_the_recovery_from_any_abort_changes_nothing_in_the_end() {
    let commits = recoveries_change_nothing(ELSEWHERE, 2);
    assert!(commits > 3, "only {commits} commits were counted");
}

#[test]
fn a_power_cut_in_the_recovery_of_a_job_that_rotates_changes_nothing_in_the_end() {
    recoveries_change_nothing(ROTATED, 1);
}

#[cfg(feature = "sql")]
#[test]
fn a_power_cut_in_the_recovery_of_a_parquet_job_changes_nothing_in_the_end() {
    recoveries_change_nothing(PARQUET, 1);
}

#[cfg(feature = "sql")]
#[test]
fn a_power_cut_in_the_recovery_of_a_job_with_views_changes_nothing_in_the_end() {
    recoveries_change_nothing(VIEWS, 1);
}

/// Proves that the exploration of recoveries sees what it is there to see.
#[test]
fn every_mutant_of_the_start_is_caught() {
    let expected = undisturbed(ELSEWHERE);
    for (mutant, fault) in [("no-checkpoint", "unsynced"), ("no-foreign-sync", "abort")] {
        let caught = (1..OPERATIONS_MAX).find_map(|number| {
            let fault = format!("{fault}:{number}");
            let (aborted, found) = explore_recovery(ELSEWHERE, &fault, mutant, None, &expected);
            (found.is_some() || !aborted).then_some(found)
        });
        let found = caught.flatten().unwrap_or_else(|| panic!("{mutant} was not caught"));
        eprintln!("{mutant}: {found}");
    }
}

/// The same for partitions: a position that is not committed with its messages.
#[test]
fn a_position_that_is_forgotten_is_caught() {
    let expected = undisturbed(LOG);
    assert!(explore(LOG, "no-progress", &expected).1.is_some());
}

/// Proves that the exploration sees what it is there to see.
#[test]
fn every_mutant_is_caught() {
    let expected = undisturbed(PLAIN);
    let mutants = [
        "no-sync:staging file",
        "no-sync:staging directory",
        "no-sync:output",
        "no-sync:output directory",
        "no-sync:input directory",
        "no-sync:error report",
        "no-sync:parent directory",
        "synchronous-normal",
        "rename-first",
    ];
    for mutant in mutants {
        let (states, found) = explore(PLAIN, mutant, &expected);
        let found = found.unwrap_or_else(|| panic!("{mutant} was not caught in {states} states"));
        eprintln!("{mutant}: caught in state {states}: {found}");
    }
}
