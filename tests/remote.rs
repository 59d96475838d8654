//! What holds for a target on another system: it may be away, forget, refuse, or be somebody else's by now. The
//! target is a log in a file (`src/sink/log.rs`); the ways of Kafka and PostgreSQL to say the same are theirs.

use std::fs;
use std::path::Path;

use crate::support::spool::{Daemon, NUMBERS, delivered};
use crate::support::{Spool, wait_for};

fn remote(configuration: &str) -> Spool {
    let mut spool = Spool::new(configuration);
    spool.always("SPOOLMILL_SINK", "log");
    spool
}

/// The target does not answer while this file is there.
fn goes_away(spool: &Spool) {
    fs::write(spool.path("output.txt.away"), "").unwrap();
}

/// A daemon whose target was there at the start, and is away now.
fn start_and_lose(spool: &Spool) -> Daemon {
    let daemon = spool.start();
    wait_for("it is open", || !spool.output().is_empty());
    goes_away(spool);
    daemon
}

fn comes_back(spool: &Spool) {
    fs::remove_file(spool.path("output.txt.away")).unwrap();
}

/// Runs `--once` to an end with this exit code; returns what it said.
#[track_caller]
fn ends_with(spool: &Spool, code: i32) -> String {
    let output = spool.run("run", &["--once"]);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{log}");
    log
}

/// Copies the state of a job that is at rest, as a backup does.
fn copy_state(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("staging")).unwrap();
    for name in ["ledger.db", "ledger.db-wal"].map(Path::new) {
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// Commits run ahead, files that are written here too; a stop does not wait, and the next start delivers the rest.
#[test]
fn a_target_that_is_away_keeps_nothing_else_waiting() {
    let spool = remote(NUMBERS);
    let daemon = start_and_lose(&spool);
    spool.drop_file("a", "1\nbad\n");
    let large = "7.25\n".repeat(60_000);
    spool.drop_file("b", &large);
    wait_for("both are archived", || spool.names().contains("processed-b"));
    assert!(spool.rejects().contains("bad"), "{}", spool.rejects());
    wait_for("it says so", || daemon.log().contains("the target is away, trying again"));
    wait_for("others are told", || {
        let status = spool.run("status", &["--json"]);
        String::from_utf8_lossy(&status.stdout).contains("onnection refused")
    });
    daemon.stop();
    assert_eq!((spool.delivered(), spool.names_in("state/staging").len()), (String::new(), 1));
    comes_back(&spool);
    let daemon = spool.start();
    wait_for("all is delivered", || spool.delivered().len() > 60_000 * 5);
    wait_for("nothing is owed", || spool.ledger("SELECT count(*) FROM owed") == 0);
    assert_eq!(spool.delivered(), "100.0\n".to_owned() + &"725.0\n".repeat(60_000));
    daemon.stop();
    assert!(spool.names_in("state/staging").is_empty());
    spool.verify(&[]);
}

/// An older copy of the ledger could give a number away again: nothing is committed before the target has said
/// what it holds.
#[test]
fn a_start_waits_for_its_target() {
    let spool = remote(NUMBERS);
    spool.run_once();
    goes_away(&spool);
    spool.drop_file("a", "1\n");
    assert!(ends_with(&spool, 1).contains("onnection refused"));
    let daemon = spool.start();
    wait_for("it has tried twice", || daemon.log().matches("paused; nothing is lost").count() > 1);
    spool.assert_names(&["a"]);
    assert_eq!(spool.ledger("SELECT count(*) FROM microbatch"), 0);
    comes_back(&spool);
    wait_for("it is delivered", || spool.delivered() == "100.0\n");
    wait_for("it is archived", || spool.names().contains("processed-a"));
    daemon.stop();
}

/// What may be owed has a limit; then inputs wait where they are.
#[test]
fn no_more_is_owed_than_is_allowed() {
    let limited = NUMBERS
        .replace("[output.", "[output]\npath = \"output.txt\"\nmax_owed = \"1600B\"\n[output.");
    let spool = remote(&format!("{limited}[engine]\nfiles_per_commit = 1\n"));
    let daemon = start_and_lose(&spool);
    for name in ["a", "b", "c", "d", "e", "f"] {
        spool.drop_file(name, "1\n");
    }
    // 518 each: the fourth is the last one that begins below the limit.
    wait_for("the limit is reached", || spool.names().contains("processed-d"));
    wait_for("it has tried again", || daemon.log().matches("the target is away").count() > 2);
    spool.assert_names(&["e", "f", "processed-a", "processed-b", "processed-c", "processed-d"]);
    comes_back(&spool);
    wait_for("all is archived", || spool.names().contains("processed-f"));
    wait_for("all is delivered", || spool.delivered() == "100.0\n".repeat(6));
    daemon.stop();
}

/// The state was restored from a backup, and the target was not.
#[test]
fn an_older_ledger_commits_nothing() {
    let spool = remote(NUMBERS);
    spool.drop_file("a", "1\n");
    spool.run_once();
    let backup = tempfile::tempdir().unwrap();
    copy_state(&spool.path("state"), backup.path());
    spool.drop_file("b", "2\n");
    spool.run_once();
    fs::remove_dir_all(spool.path("state")).unwrap();
    copy_state(backup.path(), &spool.path("state"));
    spool.drop_file("c", "3\n");
    for _ in 0..2 {
        let log = ends_with(&spool, 4);
        let ledger = spool.path("state/ledger.db").display().to_string();
        assert!(log.contains(&ledger) && log.contains("the ledger is an older copy"), "{log}");
    }
    spool.assert_names(&["c", "processed-a", "processed-b"]);
    assert_eq!(spool.ledger("SELECT count(*) FROM microbatch"), 1);
    assert_eq!(spool.delivered(), "100.0\n200.0\n");
}

/// The target was restored, or made again, and the ledger was not.
#[test]
fn a_target_that_went_back_stops_the_job() {
    let spool = remote(NUMBERS);
    spool.drop_file("a", "1\n");
    spool.run_once();
    let before = spool.output();
    spool.drop_file("b", "2\n");
    spool.run_once();
    for (content, holds) in [("", "nothing of this job"), (&*before, "record 0 of microbatch 2")] {
        fs::write(spool.path("output.txt"), content).unwrap();
        let log = ends_with(&spool, 4);
        assert!(log.contains(holds) && log.contains("restored or made again"), "{log}");
    }
}

/// Two jobs with one ledger, the second a copy of the first, and one target.
struct Twins {
    target: tempfile::TempDir,
    original: Spool,
    copy: Spool,
}

impl Twins {
    fn new() -> Self {
        let target = tempfile::tempdir().unwrap();
        let output = format!("[output]\npath = {:?}\n[output.format", target.path().join("log"));
        let configuration = NUMBERS.replace("[output.format", &output);
        Self { target, original: remote(&configuration), copy: remote(&configuration) }
    }

    fn copy(&self) {
        copy_state(&self.original.path("state"), &self.copy.path("state"));
    }

    fn delivered(&self) -> String {
        delivered(&fs::read_to_string(self.target.path().join("log")).unwrap())
    }
}

/// The copy goes on while the original lives: the original finds it out before it delivers anything.
#[test]
fn an_original_stops_when_its_copy_has_delivered() {
    let twins = Twins::new();
    let daemon = twins.original.start();
    twins.original.drop_file("a", "1\n");
    wait_for("it is confirmed", || is_at_rest(&twins.original, 1));
    twins.copy();
    twins.copy.drop_file("b", "2\n");
    twins.copy.run_once();
    twins.original.drop_file("c", "3\n");
    let (status, log) = daemon.wait();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("which worked with a copy of this ledger"), "{log}");
    assert_eq!(twins.delivered(), "100.0\n200.0\n");
    assert!(ends_with(&twins.original, 4).contains("a copy of this ledger"));
}

/// The copy knows the original's instance, and has committed something else under the number that the original
/// delivers: an instance that is known is not enough.
#[test]
fn a_copy_stops_when_its_original_has_delivered() {
    let mut twins = Twins::new();
    let daemon = twins.original.start();
    twins.original.drop_file("a", "1\n");
    wait_for("it is confirmed", || is_at_rest(&twins.original, 1));
    twins.copy();
    twins.copy.drop_file("b", "2\n");
    twins.copy.environment("SPOOLMILL_FAULT", "fail:deliver:110:1+");
    assert!(ends_with(&twins.copy, 1).contains("Connection timed out"));
    twins.copy.no_environment();
    // It has fenced the original, which is still the only one to have delivered: the original goes on.
    twins.original.drop_file("c", "3\n");
    wait_for("the original delivers", || twins.delivered() == "100.0\n300.0\n");
    assert!(ends_with(&twins.copy, 4).contains("which worked with a copy of this ledger"));
    daemon.stop();
    assert_eq!(twins.delivered(), "100.0\n300.0\n");
    assert_eq!(twins.copy.ledger("SELECT count(*) FROM owed"), 1);
}

/// So many microbatches are committed, delivered and archived, and the ledger knows it.
fn is_at_rest(spool: &Spool, microbatches: i64) -> bool {
    let select = "SELECT count(*) FROM microbatch WHERE NOT EXISTS (SELECT 1 FROM owed)
        AND NOT EXISTS (SELECT 1 FROM unarchived)";
    spool.names().contains("processed-a") && spool.ledger(select) == microbatches
}

/// What the target refuses is a reject, and the rest is delivered; too much of it stops the job.
#[test]
fn a_target_that_refuses_everything_stops_the_job() {
    let spool = remote("");
    spool.drop_file("a", "1\n666\n2\n6667\n");
    spool.run_once();
    assert_eq!(spool.delivered(), "1\n2\n");
    assert_eq!(spool.rejects().lines().count(), 2);
    spool.drop_file("b", "666\n".repeat(1_001));
    let log = ends_with(&spool, 4);
    assert!(log.contains("refuses more than 1000 records of microbatch 3"), "{log}");
    assert_eq!(spool.rejects().lines().count(), 2);
}

/// What is owed is not forgotten with a target that is taken out of the job.
#[test]
fn a_target_that_is_owed_something_stays_in_the_job() {
    let mut spool = remote(NUMBERS);
    spool.drop_file("a", "1\n");
    spool.environment("SPOOLMILL_FAULT", "fail:deliver:110:1+");
    ends_with(&spool, 1);
    spool.no_environment();
    spool.environment("SPOOLMILL_SINK", "");
    assert!(ends_with(&spool, 4).contains("records are still owed to log:"));
    spool.no_environment();
    spool.run_once();
    assert_eq!(spool.delivered(), "100.0\n");
}

/// A record ends the job: what was committed with it is delivered before the daemon leaves, and the end is done.
#[test]
fn a_job_that_ends_delivers_its_last_records() {
    let spool = Spool::with_input(
        "settle = \"0s\"\nend_marker = \"end\"",
        "[output]\npath = \"output.txt\"\n",
    );
    let mut spool = spool;
    spool.always("SPOOLMILL_SINK", "log");
    spool.drop_file("a", "1\n2\nend\n");
    let (status, log) = spool.start().wait();
    assert!(status.success(), "{log}");
    assert_eq!(spool.delivered(), "1\n2\n");
    assert_eq!(spool.ledger("SELECT count(*) FROM ended"), 0);
    spool.drop_file("b", "3\n");
    spool.run_once();
    assert_eq!(spool.delivered(), "1\n2\n3\n");
}

/// Files that are too many for the target wait; a stop in between leaves no transaction open and loses nothing.
#[test]
fn a_stop_leaves_the_rest_for_the_next_start() {
    let spool = remote(NUMBERS);
    let daemon = start_and_lose(&spool);
    for number in 0..40 {
        spool.drop_file(format!("f{number:02}"), "1\n".repeat(30_000));
    }
    wait_for("all is committed", || spool.names().contains("processed-f39"));
    comes_back(&spool);
    wait_for("it has begun", || !spool.delivered().is_empty());
    daemon.stop();
    let delivered = spool.delivered().lines().count();
    assert!(delivered < 40 * 30_000, "{delivered}");
    spool.run_once();
    assert_eq!(spool.delivered().lines().count(), 40 * 30_000);
    assert!(spool.names_in("state/staging").is_empty());
}

/// A reload does not wait for a target, and what it says holds.
#[test]
fn a_reload_while_a_target_is_away_holds() {
    let spool = remote(NUMBERS);
    let daemon = start_and_lose(&spool);
    spool.drop_file("a", "1\n");
    wait_for("it is away", || daemon.log().contains("the target is away, trying again"));
    let job = fs::read_to_string(spool.path("job.toml")).unwrap();
    fs::write(spool.path("job.toml"), job.replace("by = 100.0", "by = 1000.0")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    wait_for("it opens again", || daemon.log().contains("paused; nothing is lost"));
    comes_back(&spool);
    spool.drop_file("b", "1\n");
    wait_for("both are delivered", || spool.delivered() == "100.0\n1000.0\n");
    assert!(daemon.log().contains("the configuration was reloaded"));
    daemon.stop();
}

/// Refusals are counted for each microbatch: many small ones with a bad record each are no reason to stop.
#[test]
fn a_record_of_each_of_many_files_is_refused() {
    let spool = remote("");
    spool.run_once();
    goes_away(&spool);
    for number in 0..1_100 {
        spool.drop_file(format!("f{number:04}"), "1\n666\n");
    }
    comes_back(&spool);
    spool.run_once();
    assert_eq!(spool.delivered(), "1\n".repeat(1_100));
    assert_eq!(spool.rejects().lines().count(), 1_100);
    spool.verify(&[]);
}

/// A large file that waits for a target to take something is not forgotten by `--once`.
#[test]
fn a_file_that_waits_for_room_is_taken_in_the_end() {
    let spool = remote(
        &NUMBERS
            .replace("[output.", "[output]\npath = \"output.txt\"\nmax_owed = \"600B\"\n[output."),
    );
    spool.drop_file("a", "1\n");
    spool.drop_file("b", "2\n");
    spool.drop_file("c", "3\n".repeat(3_000_000));
    spool.drop_file("d", "4\n");
    spool.run_once();
    assert_eq!(spool.names().iter().filter(|name| name.starts_with("processed-")).count(), 4);
    assert!(spool.delivered().ends_with("300.0\n400.0\n"));
}

/// A target that confirms more than it was sent would have the rest forgotten.
#[test]
fn a_target_that_confirms_too_much_is_not_believed() {
    let mut spool = remote(NUMBERS);
    spool.drop_file("a", "1\n");
    spool.environment("SPOOLMILL_MUTANT", "confirm-too-much");
    assert!(
        ends_with(&spool, 1).contains("up to microbatch 1, and confirms record 0 of microbatch 3")
    );
    assert_eq!(spool.ledger("SELECT count(*) FROM owed"), 1);
}
