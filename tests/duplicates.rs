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
