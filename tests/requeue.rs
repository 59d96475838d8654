//! Files that were set aside and go back, among names that look like those of others: what became of a file
//! is read in the ledger, never from its name or from a name beside it.

use std::fs;

use crate::support::Spool;
use crate::support::spool::NUMBERS;

fn strict() -> Spool {
    Spool::with_input(
        "settle = \"0s\"",
        &format!("{NUMBERS}[rejects]\non_bad_record = \"quarantine\"\n"),
    )
}

/// A partner's own file has the name that a report would have.
#[test]
fn a_report_takes_no_name_and_requeue_only_its_own() {
    let spool = strict();
    let theirs = "{\"microbatch\": 2}\n";
    spool.drop_file("orders.error.json", theirs);
    spool.run_once();
    spool.drop_file("orders", "1\nbad\n");
    spool.run_once();
    spool.assert_names(&[
        "failed-orders",
        "failed-orders.2.error.json",
        "failed-orders.error.json",
        "failed-orders.error.json.error.json",
    ]);
    assert_eq!(spool.read("in/failed-orders.error.json"), theirs);
    let report = spool.read("in/failed-orders.2.error.json");
    assert!(report.contains("not a number") && report.contains("\"orders\""), "{report}");
    let verified = spool.run("verify", &[]);
    assert!(verified.status.success(), "{verified:?}");

    fs::write(spool.input("failed-orders"), "1\n2\n").unwrap();
    // A report leads to its file.
    let requeued = spool.run("requeue", &["in/failed-orders.2.error.json"]);
    assert!(requeued.status.success(), "{requeued:?}");
    spool.assert_names(&[
        "failed-orders.error.json",
        "failed-orders.error.json.error.json",
        "orders",
    ]);
    spool.run_once();
    assert_eq!(spool.output(), "100.0\n200.0\n");
    // The partner's file is one that was set aside, and no report.
    assert!(spool.run("requeue", &["in/failed-orders.error.json"]).status.success());
    spool.assert_names(&["orders.error.json", "processed-orders"]);
}

/// A report that somebody has replaced is theirs.
#[test]
fn a_report_that_was_replaced_stays() {
    let spool = strict();
    spool.drop_file("a", "bad\n");
    spool.run_once();
    fs::write(spool.path("new"), "{\"microbatch\": 1, \"note\": \"call them\"}").unwrap();
    fs::rename(spool.path("new"), spool.input("failed-a.error.json")).unwrap();
    assert!(spool.run("requeue", &["in/failed-a"]).status.success());
    spool.assert_names(&["a", "failed-a.error.json"]);
    // The next report takes another name, and goes by it.
    spool.run_once();
    spool.assert_names(&["failed-a", "failed-a.2.error.json", "failed-a.error.json"]);
    assert!(spool.run("requeue", &["--all"]).status.success());
    spool.assert_names(&["a", "failed-a.error.json"]);
}

/// Names that end in numbers, as `split` and rotations make them; `a.1` is no second `a`.
#[test]
fn names_that_end_in_numbers_go_back_as_they_were() {
    let spool = strict();
    let names = ["a", "a.2", "a.1", "a.1.2"];
    for name in names {
        spool.drop_file(name, format!("{name}\n"));
        spool.run_once();
    }
    for name in names {
        fs::write(spool.input(format!("failed-{name}")), "1\n2\n").unwrap();
        let before = spool.names();
        let requeued = spool.run("requeue", &[&format!("in/failed-{name}")]);
        assert!(requeued.status.success(), "{requeued:?}");
        let now = spool.names();
        let came: Vec<_> = now.difference(&before).collect();
        assert_eq!(came, [name]);
    }
    spool.run_once();
    let linked = "SELECT count(*) FROM microbatch again JOIN microbatch first
        ON again.again_of = first.sequence AND again.name = first.name";
    assert_eq!(spool.ledger(linked), 4);
}

/// The same name three times, all set aside; then each goes back by itself.
#[test]
fn files_of_one_name_are_told_apart() {
    let spool = strict();
    for content in ["one\n", "two\n", "three\n"] {
        spool.drop_file("a", content);
        spool.run_once();
    }
    spool.assert_names(&[
        "failed-a",
        "failed-a.2",
        "failed-a.2.error.json",
        "failed-a.3",
        "failed-a.3.error.json",
        "failed-a.error.json",
    ]);
    // An input of its own, whose usual name the third `a` has.
    spool.drop_file("a.3", "four\n");
    spool.run_once();
    let explained = |name: &str| {
        let output = spool.run("explain", &[&format!("in/{name}")]).stdout;
        String::from_utf8(output).unwrap()
    };
    assert!(explained("failed-a.3").contains("microbatch 3"), "{}", explained("failed-a.3"));
    assert!(explained("failed-a.3.4").contains("microbatch 4"), "{}", explained("failed-a.3.4"));
    for (archived, sequence) in [("failed-a.3.4", 4), ("failed-a.3", 3), ("failed-a.2", 2)] {
        fs::write(spool.input(archived), "1\n").unwrap();
        let requeued = spool.run("requeue", &[&format!("in/{archived}")]);
        assert!(requeued.status.success(), "{requeued:?}");
        spool.run_once();
        let last = "SELECT again_of FROM microbatch ORDER BY sequence DESC LIMIT 1";
        assert_eq!(spool.ledger(last), sequence, "{archived}");
    }
    assert!(spool.run("verify", &["--deep"]).status.success());
}

/// A daily name: the one that failed is found after any number that did not.
#[test]
fn a_failed_file_is_known_after_many_good_ones_of_its_name() {
    let spool = strict();
    let text = spool.read("job.toml") + "[done]\naction = \"delete\"\n";
    fs::write(spool.path("job.toml"), text).unwrap();
    spool.drop_file("orders", "bad\n");
    spool.run_once();
    for number in 0..8 {
        spool.drop_file("orders", format!("{number}\n"));
        spool.run_once();
    }
    fs::write(spool.input("failed-orders"), "1\n").unwrap();
    assert!(spool.run("requeue", &["in/failed-orders"]).status.success());
    spool.run_once();
    assert_eq!(spool.ledger("SELECT again_of FROM microbatch ORDER BY sequence DESC LIMIT 1"), 1);
}

/// The inode of a report that was removed may be that of somebody's file.
#[test]
fn an_input_with_the_name_and_the_inode_of_a_report_stays() {
    let spool = strict();
    spool.drop_file("orders", "bad\n");
    spool.run_once();
    fs::remove_file(spool.input("failed-orders.error.json")).unwrap();
    let theirs = "{\"microbatch\": 1}\n";
    spool.drop_file("orders.error.json", theirs);
    spool.run_once();
    let inode = fs::metadata(spool.input("failed-orders.error.json")).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&inode);
    let ledger = rusqlite::Connection::open(spool.path("state/ledger.db")).unwrap();
    let same = "UPDATE archived_name SET inode = ?1 WHERE stands = 2 AND sequence = 1";
    assert_eq!(ledger.execute(same, [inode as i64]).unwrap(), 1);
    drop(ledger);
    assert!(spool.run("requeue", &["in/failed-orders"]).status.success());
    assert_eq!(spool.read("in/failed-orders.error.json"), theirs);
}

/// What came to a file after its commit goes back by its own report.
#[test]
fn the_report_of_a_rest_leads_to_the_rest() {
    use std::io::Write as _;
    let spool = Spool::new(NUMBERS);
    for content in ["1\n", "2\n"] {
        spool.drop_file("a", content);
        spool.run_once();
    }
    let daemon = spool.start();
    crate::support::wait_for("the watch", || daemon.log().contains("watching"));
    let mut late = fs::File::options().append(true).open(spool.input("processed-a.2")).unwrap();
    late.write_all(b"3\n").unwrap();
    drop(late);
    crate::support::wait_for("the rest", || spool.names().contains("failed-a.error.json"));
    daemon.stop();
    let requeued = spool.run("requeue", &["--all"]);
    assert!(requeued.status.success(), "{requeued:?}");
    spool.run_once();
    assert_eq!(spool.output(), "100.0\n200.0\n300.0\n");
    spool.assert_names(
        &["processed-a", "processed-a.2", "processed-a.4"][..2]
            .iter()
            .chain(&["processed-a.3"])
            .copied()
            .collect::<Vec<_>>(),
    );
}
