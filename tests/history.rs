//! `history`: what was committed, whether or not the daemon runs.

use crate::support::Spool;
use crate::support::spool::NUMBERS;

fn lines(spool: &Spool, arguments: &[&str]) -> Vec<String> {
    let output = spool.run("history", arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn job() -> Spool {
    let spool = Spool::new(NUMBERS);
    spool.drop_file("a\u{1b}[31m", "1\nbad\n");
    spool.drop_file("b.gz", "this is no gzip file");
    spool.drop_file("c", "3\n");
    spool.run_once();
    spool
}

#[test]
fn the_newest_come_first() {
    let spool = job();
    let all = lines(&spool, &[]);
    let begins: Vec<&str> = all.iter().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(begins, ["3", "2", "1"]);
    assert!(all[0].ends_with("c  2 bytes, 1 records read, 1 written, 0 rejected"), "{all:?}");
    assert!(all[1].contains("b.gz  failed: "), "{all:?}");
    // A name is never taken for what it says to the terminal.
    assert!(!all[2].contains('\u{1b}') && all[2].contains("2 records read"), "{all:?}");
}

#[test]
fn what_is_asked_for_is_shown() {
    let spool = job();
    assert_eq!(lines(&spool, &["-n", "1"]).len(), 1);
    assert_eq!(lines(&spool, &["-n", "0"]).len(), 3);
    assert_eq!(lines(&spool, &["--file", "b*"]).len(), 1);
    assert_eq!(lines(&spool, &["--outcome", "quarantined"]).len(), 1);
    assert_eq!(lines(&spool, &["--outcome", "processed", "-n", "5"]).len(), 2);
    assert_eq!(lines(&spool, &["--since", "1h"]).len(), 3);
    assert_eq!(lines(&spool, &["--file", "none"]).len(), 0);
    let first: serde_json::Value =
        serde_json::from_str(&lines(&spool, &["--json", "-n", "2"])[1]).unwrap();
    assert_eq!(
        (first["microbatch"].as_u64(), first["outcome"].as_str()),
        (Some(2), Some("quarantined"))
    );
    assert!(first["reason"].as_str().unwrap().contains("cannot be read"), "{first}");
    let wrong = spool.run("history", &["--file", "[", "--json"]);
    assert_eq!(wrong.status.code(), Some(2));
}

/// Nothing is changed, nothing is created, and a running daemon is not disturbed.
#[test]
fn it_only_looks() {
    let spool = Spool::new(NUMBERS);
    let none = spool.run("history", &[]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("the job has never run"));
    assert!(!spool.path("state").exists());
    let stopped = job();
    let files = || {
        let entries = std::fs::read_dir(stopped.path("state")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = files();
    assert_eq!(lines(&stopped, &[]).len(), 3);
    assert_eq!(files(), before);
    let daemon = spool.start();
    spool.drop_file("a", "1\n");
    crate::support::wait_for("it is committed", || {
        let shown = spool.run("history", &[]);
        String::from_utf8_lossy(&shown.stdout).contains("1 written")
    });
    daemon.stop();
    let connection = rusqlite::Connection::open(spool.path("state/ledger.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let newer = spool.run("history", &[]);
    assert!(String::from_utf8_lossy(&newer.stderr).contains("a newer spoolmill has written it"));
}

/// A state folder may be called anything.
#[test]
fn a_ledger_is_found_under_any_name() {
    let spool = Spool::new(NUMBERS);
    let text = spool.read("job.toml").replace("\"state\"", "\"st a?te#50%\"");
    std::fs::write(spool.path("job.toml"), text).unwrap();
    spool.drop_file("a", "1\n");
    spool.run_once();
    assert_eq!(lines(&spool, &[]).len(), 1);
}

/// Any question, and nothing that would change anything.
#[test]
fn a_query_is_answered() {
    let spool = job();
    let query =
        "select outcome, count(*) as n, max(reason) as why from history group by 1 order by 1";
    let rows = lines(&spool, &["--sql", query]);
    assert_eq!(rows[..2], ["outcome\tn\twhy", "processed\t2\tnull"], "{rows:?}");
    assert!(rows[2].starts_with("quarantined\t1\tcannot be read"), "{rows:?}");
    let json = lines(&spool, &["--json", "--sql", "select file, time from history where read = 2"]);
    let row: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(row["file"].as_str(), Some("a\u{1b}[31m"));
    assert!(row["time"].as_str().unwrap().starts_with("20"), "{row}");
    for wrong in
        ["delete from microbatch", "select nothing from history", "pragma user_version = 9"]
    {
        let refused = spool.run("history", &["--sql", wrong]);
        assert_eq!(refused.status.code(), Some(1), "{wrong}");
    }
    assert_eq!(lines(&spool, &[]).len(), 3);
}
