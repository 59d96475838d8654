//! Promises 4 and 6: whoever goes on writing to a file, however late, loses nothing in silence.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::spool::Daemon;
use crate::support::{Spool, skipped, wait_for};

fn appender(spool: &Spool, name: &str) -> File {
    File::options().append(true).open(spool.input(name)).unwrap()
}

/// A job whose command shows that it runs, and goes on when it may.
fn slow(action: &str) -> Spool {
    let spool = Spool::new("");
    let (started, go) = (spool.path("started"), spool.path("go"));
    let (started, go) = (started.display(), go.display());
    let script = format!("cat; touch {started}; while [ ! -e {go} ]; do sleep 0.01; done");
    let argv = serde_json::json!(["sh", "-c", script]);
    let rest = format!("[transform.command]\nargv = {argv}\n[done]\naction = {action}\n");
    spool.configure("settle = \"0s\"", &rest);
    spool
}

/// A writer comes while the command runs: the file is not whole, and settles again.
#[test]
fn a_file_that_is_opened_for_writing_during_its_command_is_not_committed() {
    for action in ["\"rename\"", "{ move = \"arch\" }", "\"delete\""] {
        let spool = slow(action);
        let daemon = spool.start();
        spool.drop_file("a", "first\n");
        wait_for("the command", || spool.path("started").exists());
        let mut writer = appender(&spool, "a");
        fs::write(spool.path("go"), "").unwrap();
        wait_for("what was read is dropped", || daemon.log().contains("is written to"));
        writer.write_all(b"late\n").unwrap();
        drop(writer);
        wait_for("the whole file", || spool.output() == "first\nlate\n");
        wait_for("the archive", || !spool.input("a").exists());
        assert_eq!(spool.output(), "first\nlate\n", "{action}: {}", daemon.stop());
    }
}

/// Proves that the test above sees what it is there to see.
#[test]
fn without_the_second_question_a_file_is_committed_in_part() {
    let mut spool = slow("\"rename\"");
    spool.environment("SPOOLMILL_MUTANT", "no-second-lease");
    let _daemon = spool.start();
    spool.drop_file("a", "first\n");
    wait_for("the command", || spool.path("started").exists());
    let _writer = appender(&spool, "a");
    fs::write(spool.path("go"), "").unwrap();
    wait_for("the part", || spool.output() == "first\n");
}

/// The daemon is killed with the committed file under its hidden name, which is returned.
fn hidden(spool: &Spool) -> String {
    spool.drop_file("a", "1\n");
    let mut command = spool.command("run");
    let mut child = command.env("SPOOLMILL_FAULT", "fail:rename:5:2+").spawn().unwrap();
    wait_for("the hidden name", || hidden_names(&spool.input("")).len() == 1);
    wait_for("the output", || spool.output() == "1\n");
    child.kill().unwrap();
    child.wait().unwrap();
    hidden_names(&spool.input("")).remove(0)
}

fn hidden_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".spoolmill-done-")).collect()
}

/// Another version took the name in the instant of the archive, and was hidden in its place.
#[test]
fn a_version_that_was_hidden_unread_gets_its_name_back_and_is_taken() {
    let spool = Spool::new("");
    let name = hidden(&spool);
    fs::write(spool.path("new"), "22\n").unwrap();
    fs::rename(spool.path("new"), spool.input(&name)).unwrap();
    spool.run_once();
    assert_eq!(spool.output(), "1\n22\n");
    spool.assert_names(&["processed-a"]);
    assert_eq!(spool.read("in/processed-a"), "22\n");
}

/// A file that is hidden and still written to is tried again and again; a newer one of its name, which is
/// committed and cannot be renamed either, is not taken twice for that.
#[test]
fn an_older_file_does_not_free_the_name_of_a_newer_one() {
    let mut spool = Spool::new("");
    let name = hidden(&spool);
    let writer = appender(&spool, &name);
    spool.drop_file("a", "2\n");
    spool.environment("SPOOLMILL_FAULT", "fail:rename:5:1+");
    let daemon = spool.start();
    wait_for("the newer one", || spool.output() == "1\n2\n");
    // Tried at once, after a second and after two more; the older one in between.
    let tries = || daemon.log().matches("cannot be archived yet").count();
    wait_for("some tries", || tries() >= 3);
    assert_eq!(spool.output(), "1\n2\n", "{}", daemon.log());
    drop(daemon);
    drop(writer);
    spool.no_environment().run_once();
    assert_eq!(spool.output(), "1\n2\n");
    spool.assert_names(&["processed-a", "processed-a.2"]);
}

/// Many files are hidden in a folder of their own. What a kill leaves there is found by the next start, which
/// removes the folder in the end.
#[test]
fn what_is_left_in_the_folder_for_hidden_names_is_archived() {
    let spool = Spool::new("");
    for number in 0..100 {
        spool.drop_file(format!("f{number:02}"), format!("{number}\n"));
    }
    let mut command = spool.command("run");
    let mut child = command.env("SPOOLMILL_FAULT", "fail:rename:5:2+").spawn().unwrap();
    let shelter = spool.input(".spoolmill-done");
    wait_for("the output", || spool.output().lines().count() == 100);
    wait_for("the hidden name", || hidden_names(&shelter).len() == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    // Another version took the name in that instant.
    let name = hidden_names(&shelter).remove(0);
    fs::write(spool.path("new"), "new\n").unwrap();
    fs::rename(spool.path("new"), shelter.join(name)).unwrap();
    spool.run_once();
    assert!(spool.output().ends_with("99\nnew\n"), "{}", spool.output());
    let names: Vec<_> = (0..100).map(|number| format!("processed-f{number:02}")).collect();
    spool.assert_names(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(!shelter.exists());
}

/// Something of an uploader's has the name of the folder for hidden names: files are hidden without it.
#[test]
fn files_are_hidden_without_a_folder_of_their_own() {
    let spool = Spool::new("");
    fs::create_dir(spool.path("elsewhere")).unwrap();
    for (round, there) in ["nothing", "link", "file", "open to all"].iter().enumerate() {
        let shelter = spool.input(".spoolmill-done");
        match *there {
            "link" => std::os::unix::fs::symlink(spool.path("elsewhere"), &shelter).unwrap(),
            "file" => fs::write(&shelter, "").unwrap(),
            "open to all" => {
                fs::create_dir(&shelter).unwrap();
                fs::set_permissions(&shelter, Permissions::from_mode(0o1777)).unwrap();
            }
            _ => {}
        }
        for number in 0..100 {
            spool.drop_file(format!("f{round}{number:02}"), format!("{number}\n"));
        }
        spool.run_once();
        assert_eq!(spool.output().lines().count(), 100 * (round + 1), "{there}");
        let archived = spool.names().iter().filter(|name| name.starts_with("processed-")).count();
        assert_eq!(archived, 100 * (round + 1), "{there}");
        let _ = fs::remove_file(&shelter);
    }
    assert_eq!(fs::read_dir(spool.path("elsewhere")).unwrap().count(), 0);
}

/// What was altered is reported and counted, wherever a crash comes between its new name and the report.
#[test]
fn an_abort_while_an_altered_file_is_set_aside_hides_nothing() {
    for number in 1..100 {
        let mut spool = Spool::new("");
        let name = hidden(&spool);
        appender(&spool, &name).write_all(b"late\n").unwrap();
        spool.environment("SPOOLMILL_FAULT", &format!("abort:{number}"));
        let is_done = spool.run("run", &["--once"]).status.success();
        spool.no_environment().run_once();
        spool.assert_names(&["failed-a", "failed-a.error.json"]);
        let status = spool.run("status", &["--json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        assert_eq!(status["altered"], 1, "abort:{number}: {status}");
        if is_done {
            assert!(number > 10, "only {number} operations were counted");
            return;
        }
    }
    panic!("it is aborted for ever");
}

/// A folder of that name that is an uploader's own is not used, and holds nothing back.
#[test]
fn a_folder_for_hidden_names_of_somebody_else_is_not_used() {
    if !rustix::process::geteuid().is_root() {
        return skipped("only root can give a folder away");
    }
    let spool = Spool::new("");
    let shelter = spool.input(".spoolmill-done");
    fs::create_dir(&shelter).unwrap();
    std::os::unix::fs::chown(&shelter, Some(65534), None).unwrap();
    for number in 0..100 {
        spool.drop_file(format!("f{number:02}"), "1\n");
    }
    let mut command = spool.command("run");
    let mut child = command.env("SPOOLMILL_FAULT", "fail:rename:5:2+").spawn().unwrap();
    wait_for("the hidden name", || hidden_names(&spool.input("")).len() == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(hidden_names(&shelter), Vec::<String>::new());
    spool.run_once();
    assert_eq!(spool.output().lines().count(), 100);
    assert_eq!(hidden_names(&spool.input("")), Vec::<String>::new());
}

/// The daemon as a user that is not the uploader's: no lease can be asked for.
fn other_user(spool: &Spool) -> Option<Daemon> {
    if !rustix::process::geteuid().is_root() {
        skipped("only root can run it as another user");
        return None;
    }
    for folder in ["", "in"] {
        fs::set_permissions(spool.path(folder), Permissions::from_mode(0o777)).unwrap();
    }
    let program = spool.path("spoolmill");
    fs::copy(env!("CARGO_BIN_EXE_spoolmill"), &program).unwrap();
    let log = spool.path("daemon.log");
    let mut command = Command::new(program);
    command.args(["run", "--log-level", "debug", "-c"]).arg(spool.path("job.toml"));
    command.uid(65534).gid(65534).stderr(File::create(&log).unwrap());
    Some(Daemon::of(command.spawn().unwrap(), log))
}

/// Such a daemon has archived `a`, a line, whose writer goes on.
fn archived_while_written(spool: &Spool) -> Option<(Daemon, File)> {
    let daemon = other_user(spool)?;
    wait_for("the start", || daemon.log().contains("watching"));
    let upload = spool.path("upload");
    let mut writer = File::create(&upload).unwrap();
    writer.write_all(b"1\n").unwrap();
    fs::rename(&upload, spool.input("a")).unwrap();
    wait_for("the archive", || spool.names().contains("processed-a"));
    Some((daemon, writer))
}

/// What comes after the commit is not in the output; it is told, and kept as `failed-*` with a report.
#[test]
fn what_is_written_after_the_commit_is_set_aside_and_told() {
    let spool = Spool::new("[done]\naction = \"rename\"\n");
    let Some((daemon, mut writer)) = archived_while_written(&spool) else { return };
    writer.write_all(b"2\n").unwrap();
    drop(writer);
    wait_for("it is told", || daemon.log().contains("was written to after it was committed"));
    assert_eq!(spool.output(), "1\n");
    assert_eq!(spool.read("in/failed-a"), "2\n");
    let report = spool.read("in/failed-a.error.json");
    assert!(report.contains("was written to after it was committed"), "{report}");
    let status = spool.run("status", &["--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["altered"], 1, "{status}");
    assert!(
        status["last_error"]["error"].to_string().contains("in/failed-a")
            || status["last_error"]["error"].to_string().contains("\"a "),
        "{status}"
    );
    let log = daemon.stop();
    assert!(log.contains("was written to after it was committed"), "{log}");
}

/// The owner of an archived file could fill the disk with its rest.
#[test]
fn a_rest_that_is_very_large_is_told_and_not_copied() {
    let spool = Spool::new("");
    let Some((daemon, mut writer)) = archived_while_written(&spool) else { return };
    writer.set_len(300 << 20).unwrap();
    writer.write_all(b"2\n").unwrap();
    drop(writer);
    wait_for("it is told", || daemon.log().contains("too large to be copied"));
    wait_for("it is counted", || daemon.log().contains("was written to after it was committed"));
    spool.assert_names(&["processed-a"]);
    daemon.stop();
}

/// A change that a daemon did not see, since it was down or between its commit and its archive.
#[test]
fn a_file_that_changed_before_its_archive_is_told_at_the_next_start() {
    let spool = Spool::new("");
    spool.drop_file("a", "1\n");
    let mut command = spool.command("run");
    let mut child = command.env("SPOOLMILL_FAULT", "fail:rename:5:1+").spawn().unwrap();
    wait_for("the commit", || spool.output() == "1\n");
    child.kill().unwrap();
    child.wait().unwrap();
    appender(&spool, "a").write_all(b"2\n").unwrap();
    spool.run_once();
    // One of the two: taken again as a file of its own, or its rest set aside.
    let all = format!("{}{}", spool.output(), spool.read("in/failed-a"));
    assert!(all.starts_with("1\n") && all.ends_with("2\n"), "{all} {:?}", spool.names());
    assert!(!spool.names().contains("a"), "{:?}", spool.names());
}

/// An uploader that puts another version in the place of the committed one, again and again, while the
/// daemon archives: each version is in the output once, or still there to be taken.
#[test]
fn a_version_that_comes_during_the_archive_is_taken_by_itself() {
    let spool = Spool::new("");
    let daemon = spool.start();
    for round in 0..400 {
        spool.drop_file("a", format!("{round}\n"));
    }
    wait_for("the last version", || spool.output().ends_with("399\n"));
    wait_for("the archive", || !spool.names().contains("a"));
    daemon.stop();
    let output = spool.output();
    let lines: Vec<u32> = output.lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.windows(2).all(|pair| pair[0] < pair[1]), "{output}");
    for name in spool.names() {
        let content = spool.read(&format!("in/{name}"));
        assert!(name.starts_with("processed-a"), "{name}: {content}");
        assert!(output.lines().any(|line| line == content.trim_end()), "{name}: {content}");
    }
}
