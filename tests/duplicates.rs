//! Files with the content of an earlier one: flagged, skipped or set aside, whatever their names.

use crate::support::Spool;
use crate::support::spool::NUMBERS;

fn job(policy: &str) -> Spool {
    Spool::with_input(&format!("settle = \"0s\"\nduplicates = \"{policy}\""), NUMBERS)
}

/// `b` repeats `a` in its own group, `d` a file of an earlier run, and empty files are no duplicates.
fn story(spool: &Spool) -> String {
    spool.drop_file("a", "1\n");
    spool.drop_file("b", "1\n");
    spool.drop_file("c", "2\n");
    let mut log = spool.run_once();
    spool.drop_file("d", "2\n");
    spool.drop_file("e", "");
    spool.drop_file("f", "");
    log += &spool.run_once();
    log
}

#[test]
fn duplicates_are_flagged() {
    let spool = job("process");
    let log = story(&spool);
    assert_eq!(spool.output(), "100.0\n100.0\n200.0\n200.0\n");
    assert!(log.contains("duplicate_of=1") && log.contains("duplicate_of=3"), "{log}");
    let flagged = "SELECT group_concat(sequence || '=' || duplicate_of) = '2=1,4=3' FROM microbatch
        WHERE duplicate_of IS NOT NULL";
    assert_eq!(spool.ledger(flagged), 1);
    assert_eq!(spool.ledger("SELECT max(duplicates) FROM tally"), 2);
    let status = spool.run("status", &["--json"]).stdout;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["total"]["duplicates"].as_u64(), Some(2));
}

#[test]
fn duplicates_are_skipped() {
    let spool = job("skip");
    let log = story(&spool);
    assert_eq!(spool.output(), "100.0\n200.0\n");
    assert!(log.contains("skipped"), "{log}");
    spool.assert_names(
        &["a", "b", "c", "d", "e", "f"]
            .map(|name| format!("processed-{name}"))
            .each_ref()
            .map(String::as_str),
    );
    let history = spool.run("history", &["--outcome", "skipped"]).stdout;
    assert_eq!(String::from_utf8_lossy(&history).lines().count(), 2);
    // What was skipped is no original, and the original stays known.
    spool.drop_file("g", "1\n");
    spool.run_once();
    assert_eq!(spool.ledger("SELECT duplicate_of FROM microbatch WHERE sequence = 7"), 1);
}

#[test]
fn duplicates_are_set_aside() {
    let spool = job("quarantine");
    story(&spool);
    assert_eq!(spool.output(), "100.0\n200.0\n");
    let report = spool.read("in/failed-b.error.json");
    assert!(report.contains("the content of microbatch 1 again"), "{report}");
    assert!(spool.run("requeue", &["in/failed-b"]).status.success());
    spool.run_once();
    assert_eq!(spool.output(), "100.0\n200.0\n100.0\n");
}

/// A bad file that comes again is a bad file, not a duplicate of one that was processed.
#[test]
fn what_was_set_aside_is_no_original() {
    let spool = job("skip");
    for name in ["a.gz", "b.gz"] {
        spool.drop_file(name, "no gzip file");
        spool.run_once();
    }
    assert_eq!(spool.ledger("SELECT count(quarantined) FROM microbatch"), 2);
}

/// A duplicate that ends the job ends it.
#[test]
fn a_skipped_file_can_end_the_job() {
    let spool =
        Spool::with_input("settle = \"0s\"\nduplicates = \"skip\"\nend_marker = \"EOF\"", NUMBERS);
    for _ in 0..2 {
        spool.drop_file("z", "1\nEOF\n");
        let (status, log) = spool.start().wait();
        assert!(status.success() && log.contains("ended by its end marker"), "{log}");
    }
    assert_eq!(spool.output(), "100.0\n");
}

/// Many files of one content are one commit, or a few: none waits for the one before it.
#[test]
fn many_files_of_one_content_share_a_commit() {
    let mut spool = job("skip");
    for number in 0..300 {
        spool.drop_file(format!("{number:03}"), "1\n");
    }
    spool.environment("SPOOLMILL_TRACE", "trace");
    spool.run_once();
    assert_eq!(spool.output(), "100.0\n");
    assert_eq!(
        spool.ledger("SELECT count(*) FROM microbatch WHERE duplicate_of = 1 AND skipped"),
        299
    );
    let commits = spool.read("trace").lines().filter(|line| line.contains("commit")).count();
    assert!(commits < 60, "{commits} commits");
}

/// What was skipped keeps its original known, also when the history of both is gone.
#[test]
fn a_content_stays_known_when_its_history_is_pruned() {
    let spool = job("skip");
    let kept = spool.read("job.toml").replace("[state]", "[state]\nkeep = \"0s\"");
    assert!(kept.contains("keep"), "{kept}");
    std::fs::write(spool.path("job.toml"), kept).unwrap();
    for name in ["a", "b", "c", "d"] {
        spool.drop_file(name, if name == "c" { "2\n" } else { "1\n" });
        spool.run_once();
    }
    assert_eq!(spool.output(), "100.0\n200.0\n");
    assert!(spool.ledger("SELECT min(sequence) FROM microbatch") > 2);
    let last = "SELECT duplicate_of FROM microbatch ORDER BY sequence DESC LIMIT 1";
    assert_eq!(spool.ledger(last), 1);
    spool.drop_file("e", "2\n");
    spool.run_once();
    assert_eq!(spool.ledger(last), 3);
    assert_eq!(spool.output(), "100.0\n200.0\n");
}
