//! Promises 4 and 5: what becomes of an input, and which file is which.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

use crate::support::{Spool, wait_for};

/// What is durable in its place is forgotten soon, and not only when the next file comes.
#[test]
fn nothing_is_owed_while_nothing_comes() {
    let spool = Spool::new("");
    let daemon = spool.start();
    spool.drop_file("a", "1\n");
    wait_for("the commit", || spool.names().contains("processed-a"));
    wait_for("nothing is owed", || {
        spool.ledger("SELECT count(*) FROM owed") + spool.ledger("SELECT count(*) FROM unarchived")
            == 0
    });
    daemon.stop();
}

#[test]
fn the_same_name_five_times_is_five_files() {
    let spool = Spool::new("");
    for number in 0..5 {
        spool.drop_file("a", format!("{number}\n"));
        spool.run_once();
    }
    assert_eq!(spool.output(), "0\n1\n2\n3\n4\n");
    spool.assert_names(&[
        "processed-a",
        "processed-a.2",
        "processed-a.3",
        "processed-a.4",
        "processed-a.5",
    ]);
    for (name, content) in [("processed-a", "0\n"), ("processed-a.3", "2\n")] {
        assert_eq!(spool.read(&format!("in/{name}")), content);
    }
}

/// After a crash between commit and rename the file is there under its old name.
fn lost_rename(spool: &Spool) {
    spool.drop_file("a", "1\n");
    let mut command = spool.command("run");
    // The first operation after the commit is the write to the output, the next the rename.
    let fault = "fail:rename:5:1+";
    let mut child = command.env("SPOOLMILL_FAULT", fault).spawn().unwrap();
    wait_for("the commit", || spool.output() == "1\n");
    child.kill().unwrap();
    child.wait().unwrap();
    spool.assert_names(&["a"]);
}

#[test]
fn a_committed_file_is_renamed_not_read_again() {
    let spool = Spool::new("");
    lost_rename(&spool);
    spool.run_once();
    assert_eq!(spool.output(), "1\n");
    spool.assert_names(&["processed-a"]);
}

/// Identity, not name: somebody tidies the folder while the file waits for its archive.
#[test]
fn a_committed_file_that_was_renamed_is_not_read_again() {
    let spool = Spool::new("");
    lost_rename(&spool);
    fs::rename(spool.input("a"), spool.input("b")).unwrap();
    spool.drop_file("c", "2\n");
    let log = spool.run_once();
    assert_eq!(spool.output(), "1\n2\n", "{log}");
    spool.assert_names(&["processed-b", "processed-c"]);
}

/// Somebody renames files while they are taken, many at once, which are archived while others are read.
#[test]
fn files_that_are_renamed_again_and_again_count_once() {
    let spool = Spool::new("");
    spool.configure("settle = \"0s\"", "[engine]\nfiles_per_commit = 100\n");
    for number in 0..900 {
        spool.drop_file(format!("f{number:03}"), format!("{number:03}\n"));
    }
    let daemon = spool.start();
    for (from, to) in [("f", "g"), ("g", "h"), ("h", "f"), ("f", "x")] {
        for name in spool.names().iter().filter(|name| name.starts_with(from)) {
            let _ = fs::rename(spool.input(name), spool.input(name.replacen(from, to, 1)));
        }
    }
    wait_for("the archive", || spool.names().iter().all(|name| name.starts_with("processed-")));
    wait_for("the output", || spool.output().lines().count() >= 900);
    let log = daemon.stop();
    let output = spool.output();
    let mut records: Vec<_> = output.lines().collect();
    records.sort_unstable();
    let expected: Vec<_> = (0..900).map(|number| format!("{number:03}")).collect();
    assert_eq!(records, expected, "{}", log.lines().filter(|line| line.contains("WARN")).count());
    spool.run_once();
    assert_eq!(spool.output(), output);
}

/// With an order by time, too, a name of which the file is gone is free for the next one.
#[test]
fn a_name_whose_committed_file_is_gone_is_free() {
    for order in ["name", "natural", "modified", "arrival"] {
        let spool = Spool::new("");
        spool.configure(&format!("settle = \"0s\"\norder = \"{order}\""), "");
        lost_rename(&spool);
        fs::remove_file(spool.input("a")).unwrap();
        let daemon = spool.start();
        wait_for("the start", || daemon.log().contains("watching"));
        spool.drop_file("a", "2\n");
        wait_for("the next one", || spool.output() == "1\n2\n");
    }
}

/// A file system that is not mounted leaves an empty folder under its name, or another one with other files.
/// What was committed and not renamed is known when the right one comes back, whenever that is.
#[test]
fn a_drop_folder_that_was_away_brings_nothing_twice() {
    for is_running in [false, true] {
        let spool = Spool::new("");
        spool.configure("settle = \"0s\"\nrescan = \"1s\"", "");
        lost_rename(&spool);
        fs::rename(spool.path("in"), spool.path("away")).unwrap();
        fs::create_dir(spool.path("in")).unwrap();
        spool.run_once();
        spool.drop_file("a", "another\n");
        let log = spool.run_once();
        let expected = "1\nanother\n";
        assert_eq!(spool.output(), expected, "{log}");
        let daemon = is_running.then(|| spool.start());
        fs::rename(spool.path("in"), spool.path("other")).unwrap();
        fs::rename(spool.path("away"), spool.path("in")).unwrap();
        if daemon.is_none() {
            spool.run_once();
        }
        wait_for("the archive", || spool.names().contains("processed-a"));
        spool.assert_names(&["processed-a"]);
        assert_eq!(spool.output(), expected);
        // Not killed: the ledger forgets the file after its rename, which is all that was waited for.
        if let Some(daemon) = daemon {
            daemon.stop();
        }
        let log = spool.run_once();
        assert!(!log.contains("recovering") && spool.output() == expected, "{log}");
    }
}

/// Before Linux 3.15, and on file systems that cannot do it, there is no rename that refuses to
/// overwrite; before 5.6 no `openat2`.
#[test]
fn an_old_kernel_or_a_simple_file_system_will_do() {
    for missing in ["no-renameat2", "no-openat2"] {
        let mut spool = Spool::new("");
        spool.environment("SPOOLMILL_MUTANT", missing);
        spool.drop_file("a", "1\n");
        std::os::unix::fs::symlink(spool.path("job.toml"), spool.input("link")).unwrap();
        spool.run_once();
        spool.drop_file("a", "2\n");
        spool.run_once();
        assert_eq!(spool.output(), "1\n2\n", "{missing}");
        spool.assert_names(&["link", "processed-a", "processed-a.2"]);
    }
}

#[test]
fn a_rename_by_link_that_was_cut_short_is_finished() {
    let mut spool = Spool::new("");
    spool.environment("SPOOLMILL_MUTANT", "no-renameat2");
    spool.environment("SPOOLMILL_FAULT", "fail:remove:5:1");
    spool.drop_file("a", "1\n");
    spool.run_once();
    assert_eq!(spool.output(), "1\n");
    spool.assert_names(&["processed-a"]);
}

/// The inode alone never decides: a restore from a backup changes it.
#[test]
fn a_restored_copy_of_a_committed_file_is_that_file() {
    let spool = Spool::new("");
    lost_rename(&spool);
    let modified = fs::metadata(spool.input("a")).unwrap().modified().unwrap();
    fs::copy(spool.input("a"), spool.path("copy")).unwrap();
    File::options().write(true).open(spool.path("copy")).unwrap().set_modified(modified).unwrap();
    fs::rename(spool.path("copy"), spool.input("a")).unwrap();
    spool.run_once();
    assert_eq!(spool.output(), "1\n");
    spool.assert_names(&["processed-a"]);
}

#[test]
fn another_file_under_a_committed_name_is_a_new_one() {
    let spool = Spool::new("");
    lost_rename(&spool);
    spool.drop_file("a", "2\n");
    spool.run_once();
    assert_eq!(spool.output(), "1\n2\n");
    assert_eq!(spool.read("in/processed-a"), "2\n");
}

/// An uploader that never synced, then a power cut: the file has its name and its time, and zeros.
#[test]
fn the_remains_of_a_committed_file_are_set_aside() {
    let spool = Spool::new("");
    lost_rename(&spool);
    let modified = fs::metadata(spool.input("a")).unwrap().modified().unwrap();
    fs::write(spool.input("a"), [0, 0]).unwrap();
    File::options().write(true).open(spool.input("a")).unwrap().set_modified(modified).unwrap();
    spool.run_once();
    assert_eq!(spool.output(), "1\n");
    spool.assert_names(&["failed-a", "failed-a.error.json"]);
    assert!(spool.read("in/failed-a.error.json").contains("altered after it was committed"));
    // And that is settled for good.
    spool.run_once();
    spool.assert_names(&["failed-a", "failed-a.error.json"]);
    assert_eq!(spool.ledger("SELECT count(*) FROM unarchived"), 0);
}

#[test]
fn a_name_without_room_for_the_prefix_is_shortened() {
    let spool = Spool::new("");
    let long = "x".repeat(250);
    spool.drop_file(&long, "1\n");
    spool.drop_file(format!("{}.gz", "y".repeat(250)), "this is no gzip file");
    spool.run_once();
    let names = spool.names();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.iter().all(|name| name.len() <= 255));
    assert_eq!(spool.ledger("SELECT max(length(name)) FROM microbatch"), 253);
}

#[test]
fn inputs_are_moved_where_the_job_says() {
    let spool = Spool::new("[done]\naction = { move = \"archive\" }\n");
    spool.drop_file("a", "1\n");
    spool.run_once();
    spool.drop_file("a", "2\n");
    spool.drop_file("bad.gz", "this is no gzip file");
    spool.run_once();
    spool.assert_names(&["failed-bad.gz", "failed-bad.gz.error.json"]);
    assert_eq!(spool.read("archive/a"), "1\n");
    assert_eq!(spool.read("archive/a.2"), "2\n");
}

#[test]
fn inputs_of_folders_below_keep_their_folder_in_the_archive() {
    let spool = Spool::with_input(
        "settle = \"0s\"\nrecursive = true",
        "[done]\naction = { move = \"archive\" }\n",
    );
    fs::create_dir_all(spool.input("x/y")).unwrap();
    spool.drop_file("x/y/a", "1\n");
    spool.run_once();
    assert_eq!(spool.read("archive/x/y/a"), "1\n");
}

#[test]
fn inputs_are_deleted_where_the_job_says() {
    let spool = Spool::new("[done]\naction = \"delete\"\n");
    spool.drop_file("a", "1\n");
    spool.run_once();
    spool.assert_names(&[]);
    assert_eq!(spool.output(), "1\n");
}

#[test]
fn an_archive_on_another_mount_is_refused() {
    let here = fs::metadata(std::env::temp_dir()).unwrap().dev();
    let Some(other) = ["/dev/shm", "/run"]
        .into_iter()
        .find(|path| fs::metadata(path).is_ok_and(|metadata| metadata.dev() != here))
    else {
        return crate::support::skipped("there is no second mount that can be written to");
    };
    let archive = tempfile::tempdir_in(other).unwrap();
    let action = format!("[done]\naction = {{ move = {:?} }}\n", archive.path());
    let spool = Spool::new(&action);
    let output = spool.run("check", &[]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{log}");
    assert!(log.contains("done.action") && log.contains("another mount"), "{log}");
}

/// The consumer takes the output away; the next record begins a new one.
#[test]
fn an_output_that_was_taken_away_begins_anew() {
    let spool = Spool::new("");
    let daemon = spool.start();
    spool.drop_file("a", "1\n");
    wait_for("the first", || spool.output() == "1\n");
    fs::rename(spool.path("output.txt"), spool.path("taken")).unwrap();
    spool.drop_file("b", "2\n");
    wait_for("the second", || spool.output() == "2\n");
    daemon.stop();
    assert_eq!(spool.read("taken"), "1\n");
    fs::remove_file(spool.path("output.txt")).unwrap();
    spool.drop_file("c", "3\n");
    spool.run_once();
    assert_eq!(spool.output(), "3\n");
    assert_eq!(spool.ledger("SELECT max(generation) FROM target"), 2);
}

#[test]
fn a_shorter_output_stops_the_daemon() {
    let spool = Spool::new("");
    spool.drop_file("a", "1\n2\n");
    spool.run_once();
    fs::write(spool.path("output.txt"), "1\n").unwrap();
    spool.drop_file("b", "3\n");
    let output = spool.run("run", &["--once"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4));
    for part in ["output.txt is damaged", "expected 4 bytes, found 2", "move it away"] {
        assert!(log.contains(part), "{log}");
    }
    spool.assert_names(&["b", "processed-a"]);
}

#[test]
fn an_output_with_other_bytes_stops_the_daemon() {
    let spool = Spool::new("");
    spool.drop_file("a", "1\n2\n");
    spool.run_once();
    fs::write(spool.path("output.txt"), "1\nX\n").unwrap();
    let output = spool.run("run", &["--once"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("checksum"));
}

/// What a script before us has written stays, and ours goes behind it.
#[test]
fn an_existing_output_is_continued() {
    let spool = Spool::new("");
    fs::write(spool.path("output.txt"), "0\n").unwrap();
    spool.drop_file("a", "1\n");
    spool.run_once();
    fs::write(spool.path("output.txt"), "0\n1\nby hand\n").unwrap();
    spool.drop_file("b", "2\n");
    spool.run_once();
    assert_eq!(spool.output(), "0\n1\nby hand\n2\n");
}

/// Owed bytes whose file was taken away while nothing ran are written to the new one.
#[test]
fn owed_bytes_survive_the_loss_of_their_file() {
    let spool = Spool::new("");
    spool.drop_file("a", "1\n");
    spool.run_once();
    spool.drop_file("b", "2\n");
    let mut child =
        spool.command("run").env("SPOOLMILL_FAULT", "fail:write:28:1+").spawn().unwrap();
    wait_for("the commit", || spool.ledger("SELECT count(*) FROM microbatch") == 2);
    child.kill().unwrap();
    child.wait().unwrap();
    fs::rename(spool.path("output.txt"), spool.path("taken")).unwrap();
    spool.run_once();
    assert_eq!((spool.read("taken"), spool.output()), ("1\n".to_owned(), "2\n".to_owned()));
    spool.drop_file("c", "3\n");
    spool.run_once();
    assert_eq!(spool.output(), "2\n3\n");
}

/// A target folder that is gone is not a file that is gone: the file was committed once, and waits.
#[test]
fn an_archive_folder_that_vanishes_doubles_nothing() {
    let spool = Spool::new("[done]\naction = { move = \"archive\" }\n");
    let daemon = spool.start();
    wait_for("the start", || daemon.log().contains("watching"));
    fs::remove_dir(spool.path("archive")).unwrap();
    spool.drop_file("a", "1\n");
    wait_for("the warning", || daemon.log().contains("cannot be archived yet"));
    spool.drop_file("b", "2\n");
    wait_for("the next one", || spool.output() == "1\n2\n");
    daemon.stop();
    spool.assert_names(&["a", "b"]);
    spool.run_once();
    assert_eq!(spool.output(), "1\n2\n");
    assert_eq!((spool.read("archive/a"), spool.read("archive/b")), ("1\n".into(), "2\n".into()));
}

/// A deleted file's inode is used again at once: it says nothing about the next file of its name.
#[test]
fn a_dropped_file_after_a_deleted_one_is_new() {
    let spool = Spool::new("[done]\naction = \"delete\"\n");
    spool.run_once();
    for number in 0..20 {
        spool.write_file("a", format!("{number}\n"));
        let mut command = spool.command("run");
        // The last is the drop folder's: the ledger never hears that the file is gone. The one
        // before it, if any, is the recovery's.
        let fault = format!("fail:input-directory:5:{}", if number == 0 { 1 } else { 2 });
        let status = command.arg("--once").env("SPOOLMILL_FAULT", fault).status().unwrap();
        assert_eq!(status.code(), Some(1));
    }
    spool.run_once();
    assert!(!spool.names().iter().any(|name| name.starts_with("failed-")), "{:?}", spool.names());
    assert_eq!(spool.output().lines().count(), 20);
}

/// What is made beside an input, or for it, may be read by whoever may read the input.
#[test]
fn what_is_made_of_a_private_input_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: std::path::PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    let spool = Spool::with_input(
        "settle = \"0s\"\nrecursive = true",
        "[done]\naction = { move = \"archive\" }\n",
    );
    fs::create_dir(spool.input("sub")).unwrap();
    fs::set_permissions(spool.input("sub"), fs::Permissions::from_mode(0o750)).unwrap();
    for (name, content) in [("sub/a", "1\n"), ("sub/b.gz", "no gzip")] {
        fs::write(spool.input(name), content).unwrap();
        fs::set_permissions(spool.input(name), fs::Permissions::from_mode(0o640)).unwrap();
    }
    spool.run_once();
    assert_eq!(mode(spool.path("archive/sub")), 0o750);
    assert_eq!(mode(spool.path("archive/sub/a")), 0o640);
    assert_eq!(mode(spool.input("sub/failed-b.gz.error.json")), 0o640);
}
