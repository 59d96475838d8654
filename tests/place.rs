//! Promises 8, 9, 11 and 12 where things are not where they were: folders that are replaced, ledgers and
//! outputs that belong to somebody else, starts that have to wait.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::support::{Spool, skipped, wait_for};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A second job beside the first: the same words with others in their place.
fn other_job(spool: &Spool, changes: &[(&str, &str)]) -> Output {
    let mut text = fs::read_to_string(spool.path("job.toml")).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{text}");
        text = text.replace(from, to);
    }
    fs::write(spool.path("other.toml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_spoolmill"));
    command.args(["run", "--once", "-c"]).arg(spool.path("other.toml")).output().unwrap()
}

#[test]
fn folders_that_are_made_anew_are_followed_without_a_restart() {
    let spool = Spool::new(
        "[output]\npath = \"out/a.txt\"\n[rejects]\npath = \"bad/r.jsonl\"\n[done]\naction = { move = \"arch\" }\n\
         [input.format.numbers]\n[output.format.numbers]\n",
    );
    let daemon = spool.start();
    spool.drop_file("a", "1\nx\n");
    wait_for("the first", || spool.path("arch/a").exists());
    for folder in ["out", "bad", "arch"] {
        fs::rename(spool.path(folder), spool.path(format!("old-{folder}"))).unwrap();
        fs::create_dir(spool.path(folder)).unwrap();
    }
    spool.drop_file("b", "2\ny\n");
    wait_for("the second", || spool.path("arch/b").exists());
    // One that is not there may be a mount: it is waited for.
    fs::remove_dir_all(spool.path("out")).unwrap();
    spool.drop_file("c", "3\nz\n");
    wait_for("the pause", || daemon.log().contains("trying again"));
    assert!(!spool.path("out").exists());
    fs::create_dir(spool.path("out")).unwrap();
    wait_for("the third", || spool.path("arch/c").exists());
    let log = daemon.stop();
    assert_eq!(spool.read("old-out/a.txt"), "1.0\n");
    assert_eq!(spool.read("out/a.txt"), "3.0\n", "{log}");
    assert_eq!(spool.read("bad/r.jsonl").lines().count(), 2, "{log}");
    assert!(spool.path("old-arch/a").exists(), "{log}");
}

/// Code 4: systemd does not start it again, since only a person can mend that.
#[test]
fn what_only_a_person_can_mend_ends_with_code_4() {
    let damaged = Spool::new("");
    damaged.drop_file("a", "1\n");
    damaged.run_once();
    fs::write(damaged.path("output.txt"), "").unwrap();
    damaged.drop_file("b", "2\n");
    let output = damaged.run("run", &["--once"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let unit =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/spoolmill@.service"));
    let unit = unit.unwrap();
    let prevented =
        unit.lines().find(|line| line.starts_with("RestartPreventExitStatus=")).unwrap();
    assert!(prevented.split(['=', ' ']).any(|code| code == "4"), "{prevented}");

    let removed = Spool::new("");
    let daemon = removed.start();
    removed.drop_file("a", "1\n");
    wait_for("the first", || removed.names().contains("processed-a"));
    fs::rename(removed.path("state"), removed.path("elsewhere")).unwrap();
    removed.drop_file("b", "2\n");
    let (status, log) = daemon.wait();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("was removed or replaced"), "{log}");
    assert_eq!(removed.output(), "1\n");
    removed.assert_names(&["b", "processed-a"]);
    fs::rename(removed.path("elsewhere"), removed.path("state")).unwrap();
    removed.run_once();
    assert_eq!(removed.output(), "1\n2\n");
}

#[test]
fn a_ledger_is_of_one_job() {
    let spool = Spool::new("");
    spool.drop_file("a", "1\n");
    spool.run_once();
    fs::create_dir(spool.path("in2")).unwrap();
    let output = other_job(&spool, &[("\"in\"", "\"in2\""), ("output.txt", "output2.txt")]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("belongs to another job"), "{}", said(&output));
    // A job file that was renamed, or a folder that was, is the same job; with the next commit it is known
    // by both.
    spool.drop_file("b", "2\n");
    let output = other_job(&spool, &[]);
    assert!(output.status.success(), "{}", said(&output));
    fs::rename(spool.path("in"), spool.path("in3")).unwrap();
    let output = other_job(&spool, &[("\"in\"", "\"in3\"")]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn two_jobs_do_not_take_the_same_files() {
    let spool = Spool::with_input("settle = \"0s\"\npattern = \"a*\"", "");
    fs::create_dir(spool.path("in/sub")).unwrap();
    let daemon = spool.start();
    wait_for("the start", || daemon.log().contains("watching"));
    let own = [("output.txt", "o2.txt"), ("rejects.jsonl", "r2.jsonl"), ("\"state\"", "\"s2\"")];
    let with = |pattern: &str, folder: &str| {
        let mut changes = own.to_vec();
        let pattern = format!("pattern = \"{pattern}\"");
        let folder = format!("directory = \"{folder}\"");
        changes.push(("pattern = \"a*\"", &pattern));
        changes.push(("directory = \"in\"", &folder));
        other_job(&spool, &changes)
    };
    let output = with("*b", "in");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("such as \"ab\""), "{}", said(&output));
    let output = with("b*", "in");
    assert!(output.status.success(), "{}", said(&output));
    let output = with("a*", "in/sub");
    assert!(output.status.success(), "{}", said(&output));
    let output = with("*\"\nrecursive = true\nexclude = \"b*", ".");
    assert_ne!(output.status.code(), Some(0), "{}", said(&output));
    daemon.stop();
    let output = with("*b", "in");
    assert!(output.status.success(), "{}", said(&output));
    assert!(!spool.path("in/.spoolmill-lock").exists());
}

#[test]
fn a_batch_does_not_replace_the_output_of_a_running_job() {
    let spool = Spool::new("");
    let daemon = spool.start();
    spool.drop_file("a", "1\n");
    wait_for("the first", || spool.names().contains("processed-a"));
    fs::write(spool.path("more"), "9\n").unwrap();
    let output = spool.run("batch", &["more", "-o", "output.txt"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("output.txt"), "{}", said(&output));
    // Nor does one of a job that has no ledger.
    let job =
        spool.read("job.toml").replace("output.txt", "mine.txt").replace("\"state\"", "\"none\"");
    fs::write(spool.path("other.toml"), job).unwrap();
    let batch = ["batch", "-c", "other.toml", "more", "-o", "output.txt"];
    let program = env!("CARGO_BIN_EXE_spoolmill");
    let output = Command::new(program).args(batch).current_dir(spool.path("")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("a running job writes to"), "{}", said(&output));
    assert_eq!(spool.output(), "1\n");
    daemon.stop();
    let output = spool.run("batch", &["more", "-o", "copy.txt"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(spool.read("copy.txt"), "9\n");
}

/// What is in the ledger, and the locks, are nobody else's.
#[test]
fn the_state_is_private() {
    let spool = Spool::new("");
    spool.drop_file("a", "1\n");
    let daemon = spool.start();
    wait_for("the first", || spool.names().contains("processed-a"));
    let mode = |name: &str| fs::metadata(spool.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("state"), 0o700);
    for name in
        ["state/ledger.db", "state/ledger.db-wal", "state/lock", ".output.txt.spoolmill-lock"]
    {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    daemon.stop();
}

/// A disk that is full at the start is waited for, as it is later.
#[test]
fn a_start_on_a_full_disk_waits() {
    let mut spool = Spool::new("");
    spool.drop_file("a", "1\n");
    spool.environment("SPOOLMILL_FAULT", "fail:commit:28:1");
    let daemon = spool.start();
    wait_for("the output", || spool.output() == "1\n");
    assert!(daemon.log().contains("nothing is lost, trying again"), "{}", daemon.log());
    daemon.stop();
}

/// A reload that cannot be made while the disk is full is made later; it does not end the daemon.
#[test]
fn a_reload_while_paused_is_made_afterwards() {
    let mut spool = Spool::new("");
    // The commits of one run: the file, then what is released.
    spool.environment("SPOOLMILL_FAULT", "fail:write:28:1");
    let daemon = spool.start();
    wait_for("the start", || daemon.log().contains("watching"));
    spool.drop_file("a", "1\n");
    wait_for("the pause", || daemon.log().contains("trying again"));
    spool.configure("settle = \"0s\"", "[input.format.numbers]\n[output.format.numbers]\n");
    daemon.signal(Signal::HUP);
    wait_for("the reload", || daemon.log().contains("configuration was reloaded"));
    spool.drop_file("b", "2\n");
    wait_for("both", || spool.output().ends_with("2.0\n"));
    daemon.stop();
}

/// A limit on open files makes the groups smaller; it stops nothing.
#[test]
fn few_descriptors_are_enough() {
    let spool = Spool::new("");
    for number in 0..300 {
        spool.drop_file(format!("f{number:03}"), format!("{number}\n"));
    }
    let script = format!(
        "ulimit -n 48; exec {} run --once -c {}",
        env!("CARGO_BIN_EXE_spoolmill"),
        spool.path("job.toml").display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(spool.output().lines().count(), 300);
}

/// A report is a help; where its name is taken, the file is set aside without it and the next ones go on.
#[test]
fn directories_under_the_names_of_reports_stop_nothing() {
    let spool = Spool::new("");
    for number in 1..20 {
        fs::create_dir(spool.input(format!(".spoolmill-report-{number}"))).unwrap();
    }
    fs::create_dir(spool.input("failed-a.gz.error.json")).unwrap();
    for name in ["a.gz", "b.gz"] {
        spool.drop_file(name, "this is no gzip file");
    }
    spool.drop_file("c", "1\n");
    spool.run_once();
    assert_eq!(spool.output(), "1\n");
    for name in ["a.gz", "b.gz", "c"] {
        assert!(!spool.names().contains(name), "{:?}", spool.names());
    }
}

/// Whoever may write into a folder below cannot hold up the start.
#[test]
fn a_pipe_under_the_name_of_the_lock_holds_up_nothing() {
    let spool = Spool::with_input("settle = \"0s\"\nrecursive = true", "");
    fs::create_dir(spool.input("sub")).unwrap();
    let pipe = spool.input("sub/.spoolmill-lock");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    spool.drop_file("a", "1\n");
    spool.run_once();
    assert_eq!(spool.output(), "1\n");
    // In the folder itself there must be a lock.
    assert!(Command::new("mkfifo").arg(spool.input(".spoolmill-lock")).status().unwrap().success());
    let output = spool.run("run", &["--once"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("no regular file"), "{}", said(&output));
}

#[test]
fn strict_says_by_its_exit_code_that_a_file_was_set_aside() {
    let spool = Spool::new("");
    spool.drop_file("a.gz", "this is no gzip file");
    spool.drop_file("b", "1\n");
    let output = spool.run("run", &["--once", "--strict"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert_eq!(spool.output(), "1\n");
    spool.drop_file("c", "2\n");
    let output = spool.run("run", &["--once", "--strict"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

/// On a full disk nobody can be listed: the job starts, since taking files makes room, and no other does.
#[test]
fn a_drop_folder_on_a_full_disk_is_taken_by_one_job() {
    let spool =
        Spool::with_input("settle = \"0s\"\nrecursive = true", "[done]\naction = \"delete\"\n");
    let mount = |program: &str, arguments: &[&str]| {
        let done =
            std::process::Command::new(program).args(arguments).arg(spool.path("in")).output();
        done.is_ok_and(|done| done.status.success())
    };
    if !mount("mount", &["-t", "tmpfs", "-o", "size=256k", "none"]) {
        return skipped("a file system cannot be mounted");
    }
    fs::create_dir(spool.input("sub")).unwrap();
    fs::write(spool.input("a"), "1\n").unwrap();
    // What fills the disk is no input.
    let full = fs::write(spool.input("rest.tmp"), vec![b'x'; 1 << 20]);
    assert!(full.is_err());
    let daemon = spool.start();
    wait_for("the file", || !spool.input("a").exists());
    assert!(daemon.log().contains("no room for a list"), "{}", daemon.log());
    fs::remove_file(spool.input("rest.tmp")).unwrap();
    let other = Spool::new("");
    for folder in [spool.path("in"), spool.input("sub")] {
        let text = other.read("job.toml");
        let at = text.find("directory = ").unwrap();
        let end = at + text[at..].find('\n').unwrap();
        let text = format!("{}directory = {folder:?}{}", &text[..at], &text[end..]);
        fs::write(other.path("job.toml"), text).unwrap();
        let checked = other.run("check", &[]);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(!checked.status.success() && said.contains("could not be listed"), "{said}");
    }
    daemon.stop();
    assert!(mount("umount", &["-l"]));
}
