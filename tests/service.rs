//! Promise 11, and life under systemd: locks, signals, reload, notifications, the unit.

use std::fs::{self, Permissions};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::Signal;

use crate::support::{Spool, has, skipped, wait_for};

#[test]
fn a_second_instance_is_refused() {
    let spool = Spool::new("");
    let daemon = spool.start();
    wait_for("the start", || daemon.log().contains("watching"));
    let output = spool.run("run", &["--once"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another spoolmill holds the lock"));
    // Another job with the same output is refused too.
    let other =
        std::fs::read_to_string(spool.path("job.toml")).unwrap().replace("\"state\"", "\"other\"");
    std::fs::write(spool.path("other.toml"), other).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_spoolmill"));
    let output =
        command.args(["run", "--once", "-c"]).arg(spool.path("other.toml")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(".output.txt.spoolmill-lock"));
    daemon.stop();
}

/// Whoever started it (cron, a timer) starts it again; a daemon would wait as long as it takes.
fn once_gives_up(fault: &str, said: &str) {
    let mut spool = Spool::new("");
    spool.drop_file("a", "1\n");
    spool.environment("SPOOLMILL_FAULT", fault);
    let output = spool.run("run", &["--once"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains(said) && log.contains("gave up after several tries"), "{log}");
    spool.no_environment().run_once();
    assert_eq!(spool.output(), "1\n");
    spool.assert_names(&["processed-a"]);
}

#[test]
fn once_gives_up_on_a_disk_that_stays_full() {
    once_gives_up("fail:write:28:1+", "No space left on device");
}

#[test]
fn once_gives_up_on_a_file_that_cannot_be_archived() {
    once_gives_up("fail:rename:13:1+", "is committed but could not be archived");
}

/// In such a folder only its owner may rename what others dropped.
#[test]
fn a_sticky_folder_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        skipped("only root can run it as another user");
        return;
    }
    let spool = Spool::new("");
    let mode = |path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(spool.path("in"), 0o1777);
    mode(spool.path(""), 0o777);
    let program = spool.path("spoolmill");
    fs::copy(env!("CARGO_BIN_EXE_spoolmill"), &program).unwrap();
    let mut command = Command::new(program);
    let job = spool.path("job.toml");
    let output = command.args(["check", "-c"]).arg(job).uid(65534).gid(65534).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("input.directory") && said.contains("sticky"), "{said}");
}

#[test]
fn term_and_int_end_with_exit_code_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let spool = Spool::new("");
        let daemon = spool.start();
        spool.drop_file("a", "1\n");
        wait_for("the file", || spool.names().contains("processed-a"));
        daemon.signal(signal);
        let (status, log) = daemon.wait();
        assert!(status.success(), "{log}");
        assert_eq!(spool.ledger("SELECT count(*) FROM owed"), 0);
        assert_eq!(spool.ledger("SELECT count(*) FROM unarchived"), 0);
    }
}

#[test]
fn hangup_reloads_and_a_wrong_configuration_keeps_the_old_one() {
    let spool = Spool::new("");
    let daemon = spool.start();
    spool.drop_file("a", "1\n");
    wait_for("the first", || spool.output() == "1\n");
    spool.configure("settle = \"soon\"", "");
    daemon.signal(Signal::HUP);
    wait_for("the refusal", || daemon.log().contains("was not reloaded"));
    assert!(daemon.log().contains("input.settle"), "{}", daemon.log());
    spool.drop_file("b", "2\n");
    wait_for("the second", || spool.output() == "1\n2\n");
    spool.configure("settle = \"0s\"", "[input.format.numbers]\n[output.format.numbers]\n");
    daemon.signal(Signal::HUP);
    wait_for("the reload", || daemon.log().contains("configuration was reloaded"));
    spool.drop_file("c", "3\n");
    wait_for("the third", || spool.output() == "1\n2\n3.0\n");
    daemon.stop();
}

#[test]
fn systemd_is_told_what_goes_on() {
    let mut spool = Spool::new("");
    let socket = UnixDatagram::bind(spool.path("notify")).unwrap();
    socket.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    let path = spool.path("notify");
    spool.environment("WATCHDOG_USEC", "300000");
    let mut command = spool.command("run");
    command.env("NOTIFY_SOCKET", &path);
    let child = command.spawn().unwrap();
    let daemon = crate::support::spool::Daemon::of(child, spool.path("daemon.log"));
    let mut heard = String::new();
    let mut hear = |what: &str| {
        let mut buffer = [0; 4096];
        while !heard.contains(what) {
            let got =
                socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}: {heard}"));
            heard.push_str(&String::from_utf8_lossy(&buffer[..got]));
            heard.push('\n');
        }
        heard.clear();
    };
    hear("READY=1");
    hear("STATUS=0 committed, 0 pending");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    daemon.signal(Signal::HUP);
    hear("RELOADING=1\nMONOTONIC_USEC=");
    hear("READY=1");
    daemon.signal(Signal::TERM);
    hear("STOPPING=1");
    assert!(daemon.wait().0.success());
}

#[test]
fn the_journal_gets_levels_and_others_get_json_on_request() {
    let spool = Spool::new("");
    spool.drop_file("a", "1\n");
    spool.drop_file("b.gz", "this is no gzip file");
    let mut command = spool.command("run");
    // The variable must name what standard error is; it may be inherited by what has another one.
    let journal = std::fs::File::create(spool.path("journal")).unwrap();
    let about = journal.metadata().unwrap();
    let stream = format!("{}:{}", about.dev(), about.ino());
    command.arg("--once").env("JOURNAL_STREAM", stream).stderr(journal);
    assert!(command.status().unwrap().success());
    let mut other = spool.command("run");
    let output = other.arg("--once").env("JOURNAL_STREAM", "8:1").output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!log.contains("<6>") && log.contains(" INFO "), "{log}");
    let log = spool.read("journal");
    assert!(
        log.lines().any(|line| line.starts_with("<6>committed microbatch=1 file=\"a\"")),
        "{log}"
    );
    assert!(log.lines().any(|line| line.starts_with("<4>the file failed")), "{log}");
    spool.drop_file("c", "1\n");
    let output = spool.run("run", &["--once", "--log", "json"]);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["file"] == "c" && line["level"] == "INFO"), "{log}");
}

#[test]
fn the_unit_is_clean_and_hardened() {
    if !has("systemd-analyze") {
        return skipped("systemd-analyze is not installed");
    }
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/spoolmill@.service");
    // The program's place is the package's business: verify wants it to exist.
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(unit)
        .unwrap()
        .replace("/usr/bin/spoolmill", env!("CARGO_BIN_EXE_spoolmill"));
    let copy = folder.path().join("spoolmill@job.service");
    std::fs::write(&copy, text).unwrap();
    let verify =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output().unwrap();
    let said = String::from_utf8_lossy(&verify.stderr);
    let about_us: Vec<&str> = said.lines().filter(|line| line.contains("spoolmill")).collect();
    assert!(about_us.is_empty(), "{said}");
    let is_at_most = |tenths: u32| {
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["security", "--offline=true"]).arg(format!("--threshold={tenths}"));
        let output = analyze.arg(&copy).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let exposure = said.lines().find(|line| line.contains("Overall exposure"));
        assert!(output.status.success(), "{exposure:?}");
    };
    is_at_most(4);
    // With a network, for a job that speaks to Kafka.
    let folder = folder.path().join("spoolmill@job.service.d");
    std::fs::create_dir(&folder).unwrap();
    let drop_in = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/kafka.conf");
    std::fs::copy(drop_in, folder.join("kafka.conf")).unwrap();
    is_at_most(12);
}

#[test]
fn check_prints_the_job_as_it_is_understood() {
    let spool = Spool::new("[transform.command]\nargv = [\"cat\"]\n");
    let output = spool.run("check", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let directory = table["input"]["directory"].as_str().unwrap();
    assert_eq!(directory, spool.path("in").to_str().unwrap());
    assert_eq!(table["transform"]["command"]["timeout"].as_str(), Some("10m"));
    assert_eq!(table["engine"]["memory"].as_str(), Some("512MiB"));
}

#[test]
fn check_and_run_refuse_what_a_start_would_refuse() {
    for (input, more, code, said) in [
        ("", "[output]\npath = \"in/output.txt\"\n", 2, "inside `input.directory`"),
        ("", "[output]\npath = \"state\"\n", 2, "no regular file"),
        ("mispelt = 1", "", 2, "unknown key `mispelt`"),
        ("", "[rejects]\npath = \"plain/rejects\"\n", 2, "is a file, expected a folder"),
    ] {
        let spool = Spool::with_input(input, more);
        std::fs::create_dir(spool.path("state")).unwrap();
        std::fs::write(spool.path("plain"), "").unwrap();
        for verb in ["check", "run"] {
            let output = spool.run(verb, &[]);
            let log = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{verb}: {log}");
            assert!(log.contains(said) && log.contains("job.toml:"), "{verb}: {log}");
        }
    }
    let spool = Spool::new("");
    std::fs::remove_dir(spool.path("in")).unwrap();
    // It may be on a mount that is not there yet: that is worth another start.
    for (verb, code) in [("run", 1), ("check", 2)] {
        let output = spool.run(verb, &[]);
        assert_eq!(output.status.code(), Some(code));
        assert!(String::from_utf8_lossy(&output.stderr).contains("input.directory"));
    }
}

/// The reason of the end is a line like the others.
#[test]
fn the_last_line_has_the_form_of_the_log() {
    let spool = Spool::new("");
    spool.drop_file("a", "1\n");
    spool.run_once();
    std::fs::write(spool.path("output.txt"), "").unwrap();
    let mut json = spool.command("run");
    let output = json.args(["--once", "--log", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let lines = String::from_utf8(output.stderr).unwrap();
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert!(
        last["level"] == "ERROR" && last["message"].as_str().unwrap().contains("damaged"),
        "{last}"
    );
    let journal = std::fs::File::create(spool.path("journal")).unwrap();
    let there = journal.metadata().unwrap();
    let stream = format!("{}:{}", there.dev(), there.ino());
    let mut journaled = spool.command("run");
    journaled.arg("--once").env("JOURNAL_STREAM", stream).stderr(journal).status().unwrap();
    let lines = spool.read("journal");
    assert!(lines.lines().last().unwrap().starts_with("<3>"), "{lines}");
}

/// systemd names several folders in one variable.
#[test]
fn the_first_of_several_state_directories_counts() {
    let spool = Spool::new("");
    let text = spool.read("job.toml").replace("[state]\ndirectory = \"state\"\n", "");
    std::fs::write(spool.path("job.toml"), text).unwrap();
    let [one, two] = ["one", "two"].map(|name| spool.path(name).display().to_string());
    let mut run = spool.command("run");
    let status = run.arg("--once").env("STATE_DIRECTORY", format!("{one}:{two}")).status().unwrap();
    assert!(status.success());
    assert!(spool.path("one/ledger.db").exists() && !spool.path("two").exists());
}

/// A reload is no wake that may be dropped.
#[test]
fn a_reload_happens_however_many_files_come() {
    let spool = Spool::with_input(
        "settle = \"0s\"\npattern = \"take*\"",
        "[transform.command]\nargv = [\"sh\", \"-c\", \"touch started; while ! test -e go; do sleep 0.05; done; cat\"]\n",
    );
    spool.drop_file("take-a", "1\n");
    let daemon = spool.start();
    wait_for("the command", || spool.path("started").exists());
    // More than there is room for among the wakes.
    for number in 0..20_000 {
        std::fs::write(spool.input(format!("crowd-{number}")), "").unwrap();
    }
    let text = spool.read("job.toml").replace("output.txt", "other.txt");
    std::fs::write(spool.path("job.toml"), text).unwrap();
    daemon.signal(Signal::HUP);
    wait_for("the signal", || {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
        status.lines().any(|line| line.starts_with("ShdPnd:") && line.ends_with("0000"))
    });
    std::fs::write(spool.path("go"), "").unwrap();
    wait_for("the reload", || daemon.log().contains("configuration was reloaded"));
    spool.drop_file("take-b", "2\n");
    wait_for("the file", || spool.names().contains("processed-take-b"));
    daemon.stop();
    assert_eq!((spool.output().as_str(), spool.read("other.txt").as_str()), ("1\n", "2\n"));
}
