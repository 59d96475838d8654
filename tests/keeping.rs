//! What is kept of the past: the archive and the history are pruned, and nothing else is.

use std::collections::BTreeSet;
use std::fs;

use crate::support::spool::NUMBERS;
use crate::support::{Spool, wait_for};

fn job(keep: &str, state: &str) -> Spool {
    let spool =
        Spool::new(&format!("{NUMBERS}[done]\naction = {{ move = \"archive\" }}\n{keep}\n"));
    // `[state]` is the last table of the job.
    let text = spool.read("job.toml") + state + "\n";
    fs::write(spool.path("job.toml"), text).unwrap();
    spool
}

fn archive(spool: &Spool) -> BTreeSet<String> {
    let entries = fs::read_dir(spool.path("archive")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[track_caller]
fn assert_archive(spool: &Spool, names: &[&str]) {
    assert_eq!(archive(spool), names.iter().map(|name| (*name).to_owned()).collect());
}

#[test]
fn what_was_moved_goes_when_it_is_old() {
    let spool = job("keep = \"1h\"", "");
    spool.drop_file("a", "1\n");
    spool.drop_file("b.gz", "this is no gzip file");
    spool.run_once();
    spool.run_once();
    assert_archive(&spool, &["a"]);
    fs::write(spool.path("archive/mine"), "1\n").unwrap();
    let text = spool.read("job.toml").replace("\"1h\"", "\"0s\"");
    fs::write(spool.path("job.toml"), text).unwrap();
    spool.drop_file("c", "2\n");
    spool.run_once();
    spool.run_once();
    // The last microbatch stays whatever its age, and so does what others put there or set aside.
    assert_archive(&spool, &["c", "mine"]);
    spool.assert_names(&["failed-b.gz", "failed-b.gz.error.json"]);
    spool.verify(&["--deep"]);
}

#[test]
fn the_newest_files_of_some_size_stay() {
    let spool = job("keep = \"25B\"", "");
    for name in ["a", "b", "c", "d"] {
        spool.drop_file(name, "123456789\n");
        spool.run_once();
    }
    spool.run_once();
    assert_archive(&spool, &["c", "d"]);
    spool.verify(&["--deep"]);
}

/// What was moved elsewhere by an earlier configuration is found there, by each verb, and goes as well.
#[test]
fn an_archive_that_is_elsewhere_now_is_kept_like_this_one() {
    let spool = job("", "");
    spool.drop_file("a", "1\n");
    spool.run_once();
    let text = spool.read("job.toml");
    let renaming = text.replace("{ move = \"archive\" }", "\"rename\"");
    fs::write(spool.path("job.toml"), renaming).unwrap();
    spool.drop_file("b", "2\n");
    spool.run_once();
    let to_other = text.replace("\"archive\"", "\"other\"");
    fs::write(spool.path("job.toml"), &to_other).unwrap();
    spool.drop_file("c", "3\n");
    spool.drop_file("d", "4\n");
    spool.run_once();
    let said = String::from_utf8(spool.run("verify", &["--deep"]).stdout).unwrap();
    assert!(said.ends_with("4 archived inputs are as the ledger says\n"), "{said}");
    for (name, says) in [("a", "archive/a"), ("b", "processed-b"), ("c", "other/c")] {
        let said = String::from_utf8(spool.run("explain", &[name]).stdout).unwrap();
        assert!(said.lines().next().unwrap().ends_with(says), "{name}: {said}");
    }
    let said = String::from_utf8(spool.run("explain", &["archive/a"]).stdout).unwrap();
    assert!(said.starts_with("a is in the archive"), "{said}");
    let again = spool.run("requeue", &["--again", "archive/a"]);
    assert!(again.status.success(), "{again:?}");
    spool.run_once();
    assert_eq!(archive(&spool).len(), 0);

    spool.drop_file("e", "5\n");
    fs::write(spool.path("job.toml"), text.replace("[done]", "[done]\nkeep = \"0s\"")).unwrap();
    spool.run_once();
    spool.run_once();
    // What was not moved stays.
    spool.assert_names(&["processed-b"]);
    assert_archive(&spool, &["e"]);
    assert_eq!(fs::read_dir(spool.path("other")).unwrap().count(), 0);
    spool.verify(&["--deep"]);
}

/// A file that took the name of one that was moved is somebody's, whatever its size and age.
#[test]
fn a_file_under_the_name_of_an_old_one_stays() {
    let spool = job("keep = \"0s\"", "");
    spool.drop_file("a", "1\n");
    spool.run_once();
    fs::remove_file(spool.path("archive/a")).unwrap();
    fs::write(spool.path("archive/a"), "2\n").unwrap();
    spool.drop_file("b", "1\n");
    spool.run_once();
    spool.run_once();
    assert_archive(&spool, &["a", "b"]);
}

#[test]
fn a_running_daemon_prunes_by_itself() {
    let spool = job("keep = \"25B\"", "keep = \"0s\"");
    let daemon = spool.start();
    for number in 0..50 {
        spool.drop_file(format!("{number:02}"), "123456789\n");
    }
    wait_for("all are there", || spool.output().lines().count() == 50);
    // The next look is half a minute away, or at the next start.
    daemon.stop();
    let daemon = spool.start();
    wait_for("they are pruned", || archive(&spool).len() <= 2);
    daemon.stop();
    spool.verify(&["--deep"]);
}

/// Totals stay; the output goes on; what is left is verified.
#[test]
fn the_history_goes_when_it_is_old() {
    let spool = job("", "keep = \"0s\"");
    for name in ["a", "b", "c"] {
        spool.drop_file(name, "1\nbad\n");
        spool.run_once();
    }
    spool.run_once();
    assert_eq!(spool.ledger("SELECT count(*) * 100 + max(sequence) FROM microbatch"), 103);
    assert_eq!(spool.ledger("SELECT count(*) FROM span"), 2);
    spool.verify(&["--deep"]);
    spool.drop_file("d", "4\n");
    spool.run_once();
    assert_eq!(spool.output(), "100.0\n100.0\n100.0\n400.0\n");
    let status: serde_json::Value =
        serde_json::from_slice(&spool.run("status", &["--json"]).stdout).unwrap();
    assert_eq!(status["total"]["files"].as_u64(), Some(4));
    assert_eq!(status["total"]["rejected"].as_u64(), Some(3));
    spool.verify(&["--deep"]);
}

/// Aborted at any durable operation, only what is old goes, and all of it in the end.
#[test]
fn an_abort_prunes_nothing_else() {
    for number in 1..200 {
        let mut spool = job("keep = \"0s\"", "keep = \"0s\"");
        for name in ["a", "b", "c"] {
            spool.drop_file(name, "1\n");
        }
        spool.run_once();
        spool.drop_file("d", "2\n");
        spool.environment("SPOOLMILL_FAULT", &format!("abort:{number}"));
        let aborted = !spool.run("run", &["--once"]).status.success();
        spool.no_environment();
        spool.run_once();
        spool.run_once();
        assert_eq!(spool.output(), "100.0\n100.0\n100.0\n200.0\n", "abort:{number}");
        assert_archive(&spool, &["d"]);
        assert_eq!(spool.ledger("SELECT count(*) * 10 + max(sequence) FROM microbatch"), 14);
        spool.verify(&["--deep"]);
        if !aborted {
            assert!(number > 10, "only {number} operations");
            return;
        }
    }
    panic!("it never ends");
}

#[test]
fn only_what_was_moved_can_be_pruned() {
    let spool = Spool::new(&format!("{NUMBERS}[done]\nkeep = \"7d\"\n"));
    let refused = spool.run("check", &[]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        refused.status.code() == Some(2) && said.contains("done.keep: found without"),
        "{said}"
    );
    for (wrong, says) in [("7x", "expected a duration such as"), ("", "expected a duration")] {
        let spool = job(&format!("keep = \"{wrong}\""), "");
        let said = String::from_utf8_lossy(&spool.run("check", &[]).stderr).into_owned();
        assert!(said.contains("done.keep") && said.contains(says), "{said}");
    }
}

/// Bytes of files that the ledger has forgotten count for nothing.
#[test]
fn a_size_is_kept_although_the_history_was_pruned_before() {
    let spool = job("", "keep = \"0s\"");
    for number in 0..6 {
        spool.drop_file(format!("{number}"), "123456789\n");
        spool.run_once();
    }
    let text = spool.read("job.toml").replace("keep = \"0s\"", "");
    let text = text.replace("\"archive\" }", "\"archive\" }\nkeep = \"25B\"");
    fs::write(spool.path("job.toml"), text).unwrap();
    for name in ["x", "y"] {
        spool.drop_file(name, "123456789\n");
        spool.run_once();
    }
    spool.run_once();
    // Those that are forgotten stay: nobody knows any more that they were moved here.
    let kept = archive(&spool);
    assert!(kept.contains("x") && kept.contains("y") && kept.contains("0"), "{kept:?}");
}

/// What was taken again is as old as it was then, not as the first time.
#[test]
fn a_file_that_was_taken_again_is_kept_for_its_last_microbatch() {
    let spool = job("keep = \"25B\"", "");
    spool.drop_file("a", "123456789\n");
    spool.run_once();
    spool.drop_file("b", "123456789\n");
    spool.run_once();
    assert!(spool.run("requeue", &["--again", "archive/a"]).status.success());
    spool.run_once();
    spool.run_once();
    assert_archive(&spool, &["a", "b"]);
    spool.drop_file("c", "123456789\n");
    spool.run_once();
    spool.run_once();
    assert_archive(&spool, &["a", "c"]);
    spool.verify(&["--deep"]);
}

/// A restart changes nothing in what is skipped, although the history is pruned.
#[test]
fn originals_of_duplicates_are_not_forgotten() {
    let spool = job("", "keep = \"0s\"");
    let text = spool.read("job.toml").replace("settle", "duplicates = \"skip\"\nsettle");
    fs::write(spool.path("job.toml"), text).unwrap();
    for name in ["a", "b", "c", "a"] {
        spool.drop_file(name, format!("{}\n", name.as_bytes()[0]));
        spool.run_once();
    }
    assert_eq!(spool.output().lines().count(), 3);
}

/// A file that can never be archived stops neither what is kept nor the others, and goes when it can.
#[test]
fn one_file_that_does_not_go_keeps_no_others() {
    let spool = job("keep = \"0s\"", "keep = \"0s\"");
    let text = spool.read("job.toml").replace("[input]\n", "[input]\nrecursive = true\n");
    fs::write(spool.path("job.toml"), text).unwrap();
    // The archive has a file where this one needs a folder.
    fs::create_dir(spool.path("archive")).unwrap();
    fs::write(spool.path("archive/sub"), "mine").unwrap();
    for sub in ["sub", "other"] {
        fs::create_dir(spool.input(sub)).unwrap();
    }
    fs::write(spool.input("sub/a"), "1\n").unwrap();
    let daemon = spool.start();
    wait_for("the ledger", || daemon.log().contains("watching"));
    let rows = |which: &str| spool.ledger(&format!("SELECT count(*) FROM microbatch {which}"));
    wait_for("the first", || rows("") == 1);
    for number in 0..5 {
        fs::write(spool.input(format!("other/{number}")), "2\n").unwrap();
        wait_for("the next", || rows(&format!("WHERE name = CAST('other/{number}' AS BLOB)")) == 1);
    }
    let archived = || rows("JOIN unarchived USING (sequence)") == 1;
    wait_for("all but one are archived", archived);
    daemon.stop();
    let daemon = spool.start();
    wait_for("the others are pruned", || rows("") == 2);
    assert_eq!(rows("WHERE sequence = 1"), 1);
    assert_archive(&spool, &["other", "sub"]);
    spool.verify(&["--deep"]);

    fs::remove_file(spool.path("archive/sub")).unwrap();
    wait_for("it goes as well", || rows("") == 1);
    daemon.stop();
    // The last microbatch stays whatever its age; no empty folder does.
    assert_archive(&spool, &["other"]);
    assert_eq!(fs::read_dir(spool.path("archive/other")).unwrap().count(), 1);
    assert_eq!(spool.ledger("SELECT count(*) FROM archived_name"), 0);
    spool.verify(&["--deep"]);
    assert_eq!(spool.output().lines().count(), 6);
}

/// The bytes of a file that is passed over count when it goes, and not before.
#[test]
fn a_size_is_kept_beside_a_file_that_does_not_go() {
    let spool = job("keep = \"50B\"", "");
    let text = spool.read("job.toml").replace("[input]\n", "[input]\nrecursive = true\n");
    fs::write(spool.path("job.toml"), text).unwrap();
    fs::create_dir(spool.path("archive")).unwrap();
    fs::write(spool.path("archive/sub"), "mine").unwrap();
    fs::create_dir(spool.input("sub")).unwrap();
    fs::write(spool.input("sub/big"), "123456789\n".repeat(100)).unwrap();
    spool.run("run", &["--once"]);
    for number in 0..12 {
        spool.drop_file(format!("{number:02}"), "123456789\n");
    }
    let daemon = spool.start();
    let kept = || archive(&spool).into_iter().filter(|name| name != "sub").collect::<Vec<_>>();
    wait_for("all are archived", || spool.names().len() == 1);
    wait_for("the last ones are kept", || kept() == ["07", "08", "09", "10", "11"]);
    fs::remove_file(spool.path("archive/sub")).unwrap();
    wait_for("the large one goes", || !spool.input("sub/big").exists());
    daemon.stop();
    for name in ["x", "y"] {
        spool.drop_file(name, "123456789\n");
        spool.run_once();
    }
    spool.run_once();
    assert_eq!(kept(), ["09", "10", "11", "x", "y"]);
}

/// One file that cannot be removed is told and passed over; when none can, none is forgotten.
#[test]
fn a_file_that_cannot_be_removed_keeps_no_others() {
    let mut told = false;
    for number in 1..8 {
        let mut spool = job("", "");
        for name in ["a", "b", "c", "d"] {
            spool.drop_file(name, "1\n");
            spool.run_once();
        }
        let text = spool.read("job.toml").replace("[done]", "[done]\nkeep = \"0s\"");
        fs::write(spool.path("job.toml"), text).unwrap();
        spool.environment("SPOOLMILL_FAULT", "fail:remove:1:1+");
        spool.run("run", &["--once"]);
        assert_archive(&spool, &["a", "b", "c", "d"]);
        spool.environment("SPOOLMILL_FAULT", &format!("fail:remove:1:{number}"));
        let said = spool.run("run", &["--once"]);
        spool.no_environment();
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        let left = archive(&spool);
        if said.contains("a file stays in the archive") {
            told = true;
            assert_eq!(left.len(), 2, "{number}: {left:?} {said}");
        } else {
            spool.run_once();
            assert_archive(&spool, &["d"]);
        }
        assert!(left.contains("d"), "{number}: {left:?}");
    }
    assert!(told);
}

/// A drop folder within the archive: files that were renamed there were not moved, and stay.
#[test]
fn a_drop_folder_within_the_archive_keeps_what_was_renamed_in_it() {
    let spool = job("", "");
    let text = spool.read("job.toml");
    let renaming = text.replace("{ move = \"archive\" }", "\"rename\"");
    fs::write(spool.path("job.toml"), renaming).unwrap();
    spool.drop_file("a", "1\n");
    spool.run_once();
    let around = text.replace("\"archive\"", "\".\"").replace("[done]", "[done]\nkeep = \"0s\"");
    fs::write(spool.path("job.toml"), around).unwrap();
    for name in ["b", "c"] {
        spool.drop_file(name, "2\n");
        spool.run_once();
    }
    spool.run_once();
    spool.assert_names(&["processed-a"]);
    assert!(!spool.path("b").exists() && spool.path("c").exists());
}
