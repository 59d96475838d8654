//! Promises 6 and 7: when a file is complete, and how it is noticed.

use std::fs::{self, File};
use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::support::{Spool, wait_for};

#[test]
fn a_renamed_file_is_taken_at_once() {
    let spool = Spool::with_input("settle = \"1h\"", "");
    let daemon = spool.start();
    wait_for("the lock", || spool.path("state/ledger.db").is_file());
    wait_for("the first scan", || daemon.log().contains("watching"));
    spool.drop_file("a", "1\n");
    wait_for("the file", || spool.names().contains("processed-a"));
    daemon.stop();
}

#[test]
fn a_file_written_in_place_settles_first() {
    let spool = Spool::with_input("settle = \"300ms\"", "");
    let daemon = spool.start();
    let mut file = File::create(spool.input("a")).unwrap();
    let begun = Instant::now();
    // Each write begins the wait again; the file is closed and opened again between them.
    for line in ["1\n", "2\n", "3\n"] {
        file.write_all(line.as_bytes()).unwrap();
        drop(file);
        std::thread::sleep(Duration::from_millis(100));
        assert!(spool.names().contains("a"));
        file = File::options().append(true).open(spool.input("a")).unwrap();
    }
    drop(file);
    wait_for("the file", || spool.names().contains("processed-a"));
    assert!(begun.elapsed() > Duration::from_millis(450));
    assert_eq!(spool.output(), "1\n2\n3\n");
    daemon.stop();
}

#[test]
fn a_file_that_is_open_for_writing_is_not_taken() {
    let spool = Spool::new("");
    let mut file = File::create(spool.input("a")).unwrap();
    file.write_all(b"1\n").unwrap();
    spool.run_once();
    spool.assert_names(&["a"]);
    file.write_all(b"2\n").unwrap();
    drop(file);
    spool.run_once();
    assert_eq!(spool.output(), "1\n2\n");
}

#[test]
fn a_close_completes_what_is_open() {
    let spool = Spool::new("");
    let daemon = spool.start();
    let mut file = File::create(spool.input("a")).unwrap();
    file.write_all(b"1\n").unwrap();
    wait_for("the daemon looks", || daemon.log().contains("watching"));
    assert!(spool.names().contains("a"));
    drop(file);
    wait_for("the file", || spool.names().contains("processed-a"));
    daemon.stop();
}

#[test]
fn an_old_file_needs_no_wait_and_a_future_one_is_no_problem() {
    let spool = Spool::with_input("settle = \"200ms\"", "");
    for (name, years) in [("old", -30), ("future", 30)] {
        spool.write_file(name, format!("{name}\n"));
        let shift = Duration::from_secs(years_in_seconds(years));
        let now = std::time::SystemTime::now();
        let time = if years < 0 { now - shift } else { now + shift };
        File::options().write(true).open(spool.input(name)).unwrap().set_modified(time).unwrap();
    }
    spool.run_once();
    spool.assert_names(&["processed-future", "processed-old"]);
}

fn years_in_seconds(years: i64) -> u64 {
    years.unsigned_abs() * 365 * 86_400
}

#[test]
fn lines_complete_a_file_and_nothing_else_does() {
    let spool = Spool::with_input("settle = \"0s\"\n[input.complete]\nlines = 2", "");
    spool.drop_file("short", "1\n");
    spool.drop_file("unterminated", "1\n2");
    spool.drop_file("whole", "1\n2\n");
    spool.drop_file("more", "1\n2\n3\n");
    let daemon = spool.start();
    wait_for("the whole ones", || {
        let names = spool.names();
        names.contains("processed-whole") && names.contains("processed-more")
    });
    assert!(spool.names().contains("short") && spool.names().contains("unterminated"));
    File::options().append(true).open(spool.input("short")).unwrap().write_all(b"2\n").unwrap();
    wait_for("the short one", || spool.names().contains("processed-short"));
    daemon.stop();
    spool.run_once();
    assert!(spool.names().contains("processed-unterminated"));
}

#[test]
fn lines_are_counted_behind_compression() {
    let spool = Spool::with_input("settle = \"0s\"\n[input.complete]\nlines = 2", "");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"1\n2\n").unwrap();
    spool.drop_file("a.gz", gz.finish().unwrap());
    let daemon = spool.start();
    wait_for("the file", || spool.names().contains("processed-a.gz"));
    daemon.stop();
    assert_eq!(spool.output(), "1\n2\n");
}

#[test]
fn a_marker_completes_its_file_and_goes_with_it() {
    let spool = Spool::with_input("[input.complete]\nmarker = \".done\"", "");
    spool.drop_file("a", "1\n");
    spool.drop_file("b", "2\n");
    spool.drop_file("a.done", "");
    let daemon = spool.start();
    wait_for("the marked one", || spool.names().contains("processed-a"));
    spool.drop_file("b.done", "");
    wait_for("the other one", || spool.names().contains("processed-b"));
    daemon.stop();
    spool.assert_names(&["processed-a", "processed-a.done", "processed-b", "processed-b.done"]);
    assert_eq!(spool.output(), "1\n2\n");
}

/// A marker that was left over from an earlier file does not complete a new one that is written in place.
#[test]
fn a_marker_that_is_older_than_its_file_completes_nothing() {
    let spool = Spool::with_input("[input.complete]\nmarker = \".done\"", "");
    spool.write_file("a.done", "");
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let marker = std::fs::File::options().write(true).open(spool.input("a.done")).unwrap();
    marker.set_modified(hour_ago).unwrap();
    spool.write_file("a", "1\n");
    let daemon = spool.start();
    wait_for("the marker is old", || {
        let output = spool.run("explain", &["a"]);
        String::from_utf8_lossy(&output.stdout).contains("older")
    });
    assert!(spool.names().contains("a"));
    spool.write_file("a.done", "");
    wait_for("the file", || spool.names().contains("processed-a"));
    daemon.stop();
    assert_eq!(spool.output(), "1\n");
}

#[test]
fn a_name_that_is_excluded_is_left_alone() {
    let spool = Spool::with_input("settle = \"0s\"\nexclude = [\"*.bak\", \"old-*\"]", "");
    for name in ["a", "a.bak", "old-a"] {
        spool.drop_file(name, "1\n");
    }
    spool.run_once();
    spool.assert_names(&["a.bak", "old-a", "processed-a"]);
}

/// `END,1` may be the half of `END,12`.
#[test]
fn a_trailer_without_its_line_end_may_go_on() {
    let spool = Spool::with_input("[input.complete]\ntrailer = \"^END,[0-9]+$\"", "");
    spool.drop_file("a", "1\nEND,1");
    spool.drop_file("b", "1\nEND,1\n");
    spool.run_once();
    spool.assert_names(&["a", "processed-b"]);
    spool.drop_file("a", "1\nEND,12\n");
    spool.run_once();
    spool.assert_names(&["processed-a", "processed-b"]);
}

#[test]
fn a_trailer_completes_a_file() {
    let spool = Spool::with_input("[input.complete]\ntrailer = \"^END,[0-9]+$\"", "");
    spool.drop_file("a", "1\n");
    spool.drop_file("b", "1\nEND,1\n");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"1\nEND,1\n").unwrap();
    spool.drop_file("c.gz", gz.finish().unwrap());
    spool.run_once();
    spool.assert_names(&["a", "processed-b", "processed-c.gz"]);
}

#[test]
fn unfinished_names_are_ignored_until_they_are_renamed() {
    let spool = Spool::new("");
    for name in ["a.tmp", "a.part", "a.filepart", ".a", "a~", "processed-b", "failed-b"] {
        spool.write_file(name, "1\n");
    }
    spool.run_once();
    assert_eq!(spool.names().len(), 7);
    fs::rename(spool.input("a.part"), spool.input("a")).unwrap();
    spool.run_once();
    assert!(spool.names().contains("processed-a"));
}

#[test]
fn a_second_hard_link_makes_a_file_wait() {
    let spool = Spool::new("");
    spool.drop_file("a", "1\n");
    fs::hard_link(spool.input("a"), spool.path("elsewhere")).unwrap();
    spool.run_once();
    spool.assert_names(&["a"]);
    spool.configure("settle = \"0s\"\nhard_links = \"accept\"", "");
    spool.run_once();
    spool.assert_names(&["processed-a"]);
}

#[test]
fn an_empty_file_is_a_microbatch_or_a_bad_file() {
    let spool = Spool::new("");
    spool.drop_file("a", "");
    spool.drop_file("b.gz", "");
    spool.run_once();
    spool.assert_names(&["processed-a", "processed-b.gz"]);
    spool.configure("settle = \"0s\"\nempty = \"quarantine\"", "");
    spool.drop_file("c", "");
    spool.run_once();
    assert!(spool.names().contains("failed-c"));
    assert!(spool.read("in/failed-c.error.json").contains("the file is empty"));
}

/// A truncated compressed file waits, later names go on, and `--once` leaves it where it is; when
/// the grace is over it is bad.
#[test]
fn a_truncated_file_may_still_be_arriving() {
    let spool = Spool::new("");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"1\n2\n").unwrap();
    let whole = gz.finish().unwrap();
    spool.drop_file("a.gz", &whole[..whole.len() - 4]);
    spool.drop_file("b", "3\n");
    let log = spool.run_once();
    assert!(log.contains("may still be arriving"), "{log}");
    spool.assert_names(&["a.gz", "processed-b"]);
    spool.configure("settle = \"0s\"\nincomplete_grace = \"0s\"", "");
    spool.run_once();
    assert!(spool.names().contains("failed-a.gz"));
    assert_eq!(spool.output(), "3\n");
}

#[test]
fn polling_finds_what_no_event_tells() {
    let spool = Spool::with_input("settle = \"0s\"\nwatch = \"poll\"", "");
    let daemon = spool.start();
    wait_for("the start", || daemon.log().contains("polling"));
    spool.drop_file("a", "1\n");
    wait_for("the file", || spool.names().contains("processed-a"));
    daemon.stop();
}

/// The inotify queue overflows while the daemon is stopped; a scan makes it good.
#[test]
fn lost_events_lose_no_file() {
    let spool = Spool::new("");
    let daemon = spool.start();
    wait_for("the start", || daemon.log().contains("watching"));
    daemon.signal(rustix::process::Signal::STOP);
    // Each makes three events or more, and the queue holds 16384 by default.
    for number in 0..7000 {
        spool.write_file(format!("{number:05}"), "1\n");
    }
    daemon.signal(rustix::process::Signal::CONT);
    wait_for("all of them", || spool.output().len() == 7000 * 2);
    daemon.stop();
    assert!(spool.names().iter().all(|name| name.starts_with("processed-")));
}

#[test]
fn a_file_that_changes_while_it_is_read_settles_again() {
    // The command holds the file open long enough for it to change under it.
    let spool = Spool::with_input(
        "settle = \"100ms\"",
        "[transform.command]\nargv = [\"sh\", \"-c\", \"touch ../reading; sleep 0.3; cat\"]\n",
    );
    spool.configure(
        "settle = \"100ms\"",
        "[transform.command]\nargv = [\"sh\", \"-c\", \"touch reading; sleep 0.3; cat\"]\n",
    );
    spool.write_file("a", "1\n");
    let daemon = spool.start();
    wait_for("the first read", || spool.path("reading").is_file());
    File::options().append(true).open(spool.input("a")).unwrap().write_all(b"2\n").unwrap();
    wait_for("the file", || spool.names().contains("processed-a"));
    assert!(daemon.log().contains("changed while it was read"), "{}", daemon.log());
    daemon.stop();
    assert_eq!(spool.output(), "1\n2\n");
}

#[test]
fn folders_below_are_taken_when_asked_for() {
    let spool = Spool::new("");
    fs::create_dir_all(spool.input("x/y")).unwrap();
    spool.drop_file("x/y/b", "2\n");
    spool.drop_file("a", "1\n");
    spool.run_once();
    spool.assert_names(&["processed-a", "x/y/b"]);
    spool.configure("settle = \"0s\"\nrecursive = true", "");
    spool.run_once();
    spool.assert_names(&["processed-a", "x/y/processed-b"]);
    assert_eq!(
        spool.ledger("SELECT count(*) FROM microbatch WHERE name = CAST('x/y/b' AS BLOB)"),
        1
    );
}

#[test]
fn a_new_folder_below_is_noticed() {
    let spool = Spool::with_input("settle = \"0s\"\nrecursive = true", "");
    let daemon = spool.start();
    wait_for("the start", || daemon.log().contains("watching"));
    fs::create_dir(spool.input("x")).unwrap();
    spool.drop_file("x/a", "1\n");
    wait_for("the file", || spool.names().contains("x/processed-a"));
    spool.drop_file("x/b", "2\n");
    wait_for("the next one", || spool.names().contains("x/processed-b"));
    daemon.stop();
}

#[test]
fn files_are_taken_in_the_configured_order() {
    for (order, expected) in
        [("name", "10\n2\nb\n"), ("natural", "2\n10\nb\n"), ("modified", "b\n10\n2\n")]
    {
        let spool = Spool::with_input(&format!("settle = \"0s\"\norder = \"{order}\""), "");
        for (age, name) in ["2", "10", "b"].into_iter().enumerate() {
            spool.drop_file(name, format!("{name}\n"));
            let time = std::time::SystemTime::now() - Duration::from_secs(age as u64 * 60);
            File::options()
                .write(true)
                .open(spool.input(name))
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
        spool.run_once();
        assert_eq!(spool.output(), expected, "{order}");
    }
}

#[test]
fn the_pattern_chooses() {
    let spool = Spool::with_input("settle = \"0s\"\npattern = \"in_*.csv\"", "");
    spool.drop_file("in_1.csv", "1\n");
    spool.drop_file("in_1.txt", "1\n");
    spool.run_once();
    spool.assert_names(&["in_1.txt", "processed-in_1.csv"]);
}
