//! `status`, `explain`, `verify` and `requeue`: on healthy, busy, stopped and damaged jobs.

use std::fs;
use std::os::unix::fs::FileExt as _;

use crate::support::spool::NUMBERS;
use crate::support::{Spool, wait_for};

#[track_caller]
fn out(spool: &Spool, verb: &str, arguments: &[&str]) -> String {
    let output = spool.run(verb, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{verb}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn status(spool: &Spool) -> serde_json::Value {
    serde_json::from_str(&out(spool, "status", &["--json"])).unwrap()
}

fn explain(spool: &Spool, name: &str) -> String {
    out(spool, "explain", &[name])
}

/// Two files processed, one of them with a reject, and one set aside.
fn job() -> Spool {
    let spool = Spool::new(NUMBERS);
    spool.drop_file("a", "1\nbad\n");
    spool.drop_file("b.gz", "this is no gzip file");
    spool.drop_file("c", "3\n");
    spool.run_once();
    spool
}

#[test]
fn status_of_a_stopped_job_tells_what_was_done_and_what_waits() {
    let spool = job();
    spool.drop_file("d", "12345\n");
    spool.drop_file("no.tmp", "1\n");
    let status = status(&spool);
    assert!(status["pid"].is_null() && status["paused"].is_null(), "{status}");
    let pending = &status["pending"];
    assert_eq!((pending["files"].as_u64(), pending["bytes"].as_u64()), (Some(1), Some(6)));
    assert_eq!((pending["failed"].as_u64(), pending["at_least"].as_bool()), (Some(1), Some(false)));
    for of in ["total", "minute", "hour", "day"] {
        let flow = &status[of];
        let count = |name: &str| flow[name].as_u64().unwrap();
        assert_eq!(
            (count("files"), count("quarantined"), count("bytes")),
            (2, 1, 8),
            "{of}: {flow}"
        );
        assert_eq!((count("read"), count("written"), count("rejected")), (3, 2, 1), "{of}: {flow}");
    }
    let rate = status["hour"]["bytes_per_second"].as_f64().unwrap();
    let seconds = status["hour"]["seconds"].as_f64().unwrap();
    assert!((3600.0..3661.0).contains(&seconds) && (rate - 8.0 / seconds).abs() < 1e-9, "{status}");
    assert!(status["last_error"]["error"].as_str().unwrap().starts_with("b.gz: "), "{status}");
    let text = out(&spool, "status", &[]);
    assert!(text.contains("does not run") && text.contains("1 failed"), "{text}");
    assert!(text.contains("failed: 1 set aside in the folder"), "{text}");
}

#[test]
fn status_of_a_job_that_never_ran_says_so() {
    let spool = Spool::new(NUMBERS);
    let none = spool.run("status", &[]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("the job has never run"));
    assert!(!spool.path("state").exists());
}

#[test]
fn status_of_a_running_daemon_names_its_process_and_its_trouble() {
    let mut spool = Spool::new(NUMBERS);
    spool.environment("SPOOLMILL_FAULT", "fail:commit:28:1+");
    let daemon = spool.start();
    spool.no_environment();
    spool.drop_file("a", "1\n");
    wait_for("it is paused", || daemon.log().contains("paused"));
    wait_for("the status says so", || status(&spool)["paused"].is_string());
    let paused = status(&spool);
    assert_eq!(paused["pid"].as_u64(), Some(u64::from(daemon.child.id())));
    assert!(paused["paused"].as_str().unwrap().contains("No space left"), "{paused}");
    assert!(paused["last_error"]["error"].as_str().unwrap().contains("No space left"), "{paused}");
    assert_eq!(paused["pending"]["files"].as_u64(), Some(1));
    let said = explain(&spool, "a");
    assert!(said.contains("the daemon pauses: "), "{said}");
    drop(daemon);
    assert!(status(&spool)["pid"].is_null());
    spool.run_once();
    let after = status(&spool);
    assert!(after["paused"].is_null() && after["last_error"]["at_ms"].is_i64(), "{after}");
}

#[test]
fn explain_tells_why_a_file_waits() {
    let spool = Spool::with_input("settle = \"1h\"\npattern = \"in*\"", NUMBERS);
    spool.run_once();
    spool.drop_file("in1", "1\n");
    spool.drop_file("in2.tmp", "1\n");
    spool.drop_file("other", "1\n");
    fs::create_dir(spool.input("in3")).unwrap();
    spool.drop_file("in4", "1\n");
    fs::hard_link(spool.input("in4"), spool.path("second-name")).unwrap();
    for (name, says) in [
        ("in1", "must stay unchanged for another 3"),
        ("in/in1", "must stay unchanged for another 3"),
        ("in2.tmp", "suffix of an unfinished upload"),
        ("other", "does not match `input.pattern`"),
        ("in3", "no regular file"),
        ("in4", "more than one name"),
        ("in5", "is not in the drop folder"),
    ] {
        let said = explain(&spool, name);
        assert!(said.contains(says), "{name}: {said}");
    }
    spool.configure("settle = \"0s\"", NUMBERS);
    let said = explain(&spool, "in1");
    assert!(said.contains("is complete, and the daemon does not run"), "{said}");
    let writer = fs::File::options().append(true).open(spool.input("in1")).unwrap();
    let said = explain(&spool, "in1");
    assert!(said.contains(&format!("process {} (", std::process::id())), "{said}");
    drop(writer);
    for (rule, says) in [
        ("lines = 2", "fewer than 2 lines"),
        ("marker = \".done\"", "its marker in1.done is missing"),
        ("trailer = \"^END\"", "its last line does not complete it"),
    ] {
        spool.configure("settle = \"0s\"", &format!("[input.complete]\n{rule}\n{NUMBERS}"));
        let said = explain(&spool, "in1");
        assert!(said.contains(says), "{rule}: {said}");
    }
}

#[test]
fn explain_tells_what_has_become_of_a_file() {
    let spool = job();
    spool.drop_file("a", "7\n");
    spool.run_once();
    assert!(explain(&spool, "a.4").contains("is not in the drop folder"));
    for name in ["a", "in/a"] {
        let said = explain(&spool, name);
        let now = "a was processed as microbatch 4, and is now processed-a.4";
        assert!(said.starts_with(now), "{said}");
    }
    let both = explain(&spool, "a");
    assert_eq!(both.lines().count(), 3, "{both}");
    assert!(both.lines().nth(1).unwrap().trim_start().starts_with("4  "), "{both}");
    let second = explain(&spool, "in/processed-a.4");
    assert!(second.contains("  4  ") && second.lines().count() == 2, "{second}");
    let failed = explain(&spool, "in/failed-b.gz");
    assert!(
        failed.contains("b.gz failed as microbatch") && failed.contains("failed: "),
        "{failed}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&out(&spool, "explain", &["--json", "c"])).unwrap();
    assert_eq!(json["history"][0]["microbatch"].as_u64(), Some(3), "{json}");
}

/// Runs `verify`; what it found, or nothing.
#[track_caller]
fn verify(spool: &Spool, arguments: &[&str]) -> Vec<String> {
    let output = spool.run("verify", arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    let found = String::from_utf8(output.stdout).unwrap();
    if output.status.success() {
        assert!(found.contains(" are as the ledger says"), "{found}");
        return Vec::new();
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    let found: Vec<String> = found.lines().map(str::to_owned).collect();
    assert!(said.contains(&format!("{} problems were found", found.len())), "{said}");
    found
}

fn flip(spool: &Spool, name: &str, at: u64) {
    let file = fs::File::options().read(true).write(true).open(spool.path(name)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn in_ledger(spool: &Spool, statement: &str) {
    let connection = rusqlite::Connection::open(spool.path("state/ledger.db")).unwrap();
    assert_eq!(connection.execute(statement, ()).unwrap(), 1, "{statement}");
}

#[test]
fn verify_finds_every_kind_of_damage() {
    type Damage = (&'static str, fn(&Spool), &'static [&'static str], &'static str);
    let damages: [Damage; 11] = [
        (
            "a byte of the output",
            |spool| flip(spool, "output.txt", 1),
            &[],
            "output.txt was changed",
        ),
        (
            "a byte of the rejects",
            |spool| flip(spool, "rejects.jsonl", 3),
            &[],
            "jsonl was changed",
        ),
        (
            "the output cut",
            |spool| {
                let file = fs::File::options().write(true).open(spool.path("output.txt")).unwrap();
                file.set_len(7).unwrap();
            },
            &[],
            "output.txt is cut: microbatch 3 ends at byte 12, the file at byte 7",
        ),
        (
            "an input written to",
            |spool| {
                let file = fs::File::options().append(true).open(spool.input("processed-a"));
                file.unwrap().write_all_at(b"9", 0).unwrap();
            },
            &[],
            "processed-a was changed: it has another size or time",
        ),
        (
            "its report removed",
            |spool| fs::remove_file(spool.input("failed-b.gz.error.json")).unwrap(),
            &[],
            "has no report beside it",
        ),
        (
            "the content of an input",
            |spool| {
                let time = fs::metadata(spool.input("processed-a")).unwrap().modified().unwrap();
                flip(spool, "in/processed-a", 0);
                let file = fs::File::options().write(true).open(spool.input("processed-a"));
                file.unwrap().set_modified(time).unwrap();
            },
            &["--deep"],
            "processed-a was changed: it is not what microbatch 1 has read",
        ),
        (
            "a microbatch deleted",
            |spool| in_ledger(spool, "DELETE FROM microbatch WHERE sequence = 2"),
            &[],
            "microbatch 2 is missing from the ledger",
        ),
        (
            "the last microbatch deleted",
            |spool| in_ledger(spool, "DELETE FROM microbatch WHERE sequence = 3"),
            &[],
            "the ledger ends with microbatch 2, and has counted 3",
        ),
        (
            "a span deleted",
            |spool| in_ledger(spool, "DELETE FROM span WHERE sequence = 1 AND target = 1"),
            &[],
            "bytes 0 to 6 belong to no microbatch",
        ),
        (
            "the last span deleted",
            |spool| in_ledger(spool, "DELETE FROM span WHERE sequence = 3 AND target = 1"),
            &[],
            "bytes 6 to 12 belong to no microbatch: the ledger has lost rows",
        ),
        (
            "a page of the ledger",
            |spool| {
                let file =
                    fs::File::options().write(true).open(spool.path("state/ledger.db")).unwrap();
                file.write_all_at(&[0xff; 64], 4096 * 2).unwrap();
            },
            &[],
            "the ledger file is damaged",
        ),
    ];
    for (what, damage, arguments, says) in damages {
        let spool = job();
        assert_eq!(verify(&spool, &["--deep"]), Vec::<String>::new(), "{what}");
        damage(&spool);
        let output = spool.run("verify", arguments);
        assert_eq!(output.status.code(), Some(1), "{what} was not found");
        let found = String::from_utf8_lossy(&output.stdout);
        assert!(found.contains(says), "{what}: {found}");
    }
}

/// What the ledger still owes, and what somebody took, is no damage; what somebody added is told.
#[test]
fn verify_knows_what_is_no_damage() {
    let mut spool = job();
    fs::remove_file(spool.path("output.txt")).unwrap();
    assert_eq!(verify(&spool, &[]), Vec::<String>::new());
    spool.drop_file("d", "4\n");
    spool.environment("SPOOLMILL_FAULT", "fail:write:5:1+");
    assert!(!spool.run("run", &["--once"]).status.success());
    spool.no_environment();
    assert_eq!(spool.ledger("SELECT count(*) FROM owed"), 1);
    // Whoever keeps house in the drop folder may remove what is done with.
    fs::remove_file(spool.input("processed-a")).unwrap();
    fs::remove_file(spool.input("failed-b.gz")).unwrap();
    let said = out(&spool, "verify", &["--deep"]);
    assert!(said.ends_with("; archived inputs that are not there any more: 2\n"), "{said}");
    assert_eq!(verify(&spool, &[]), Vec::<String>::new());
    spool.run_once();
    // The next file may get both its name and the number of its inode.
    spool.drop_file("a", "5\n");
    spool.run_once();
    in_ledger(
        &spool,
        "UPDATE microbatch SET inode = (SELECT inode FROM microbatch WHERE name = x'61'
            ORDER BY sequence DESC LIMIT 1) WHERE sequence = 1",
    );
    assert_eq!(verify(&spool, &[]), Vec::<String>::new());
    fs::write(spool.path("output.txt"), spool.output() + "mine\n").unwrap();
    assert_eq!(verify(&spool, &[]), Vec::<String>::new());
    spool.drop_file("e", "5\n");
    spool.run_once();
    let found = verify(&spool, &[]);
    assert!(found[0].contains("another program wrote them"), "{found:?}");
    assert_eq!(found.len(), 1);
}

#[test]
fn verify_looks_while_the_daemon_works() {
    let spool = Spool::new(NUMBERS);
    let daemon = spool.start();
    wait_for("it watches", || daemon.log().contains("watching"));
    for number in 0..200 {
        spool.drop_file(format!("{number:03}"), "1\n2\n");
        if number % 20 == 5 {
            assert_eq!(verify(&spool, &[]), Vec::<String>::new());
        }
    }
    wait_for("all is done", || spool.output().lines().count() == 400);
    daemon.stop();
    assert_eq!(verify(&spool, &["--deep"]), Vec::<String>::new());
}

/// A file that was set aside for its records goes back when the job allows them.
#[test]
fn a_file_that_was_set_aside_goes_back() {
    let strict = format!("[rejects]\npath = \"rejects.jsonl\"\nmax_bad_records = 0\n{NUMBERS}");
    let spool = Spool::new(&strict);
    spool.drop_file("a", "1\nbad\n");
    spool.run_once();
    spool.assert_names(&["failed-a", "failed-a.error.json"]);
    spool.configure("settle = \"0s\"", NUMBERS);
    assert!(spool.run("requeue", &["in/failed-a"]).status.success());
    spool.assert_names(&["a"]);
    spool.run_once();
    spool.assert_names(&["processed-a"]);
    assert_eq!(spool.output(), "100.0\n");
    assert_eq!(spool.ledger("SELECT again_of FROM microbatch WHERE sequence = 2"), 1);
    let said = explain(&spool, "a");
    assert!(said.contains("microbatch 1 again"), "{said}");
    assert_eq!(fs::read_dir(spool.path("state/requeued")).unwrap().count(), 0);
    assert_eq!(spool.ledger("SELECT count(*) FROM microbatch"), 2);
}

#[test]
fn a_processed_file_is_taken_again_only_when_that_is_said() {
    let skip = "settle = \"0s\"\nduplicates = \"skip\"";
    for configuration in
        [NUMBERS.to_owned(), format!("{NUMBERS}[done]\naction = {{ move = \"archive\" }}\n")]
    {
        let spool = Spool::with_input(skip, &configuration);
        spool.drop_file("a", "1\n");
        spool.run_once();
        let archived = if configuration.contains("move") { "archive/a" } else { "in/processed-a" };
        let refused = spool.run("requeue", &[archived]);
        assert_eq!(refused.status.code(), Some(1));
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("processed as microbatch 1") && said.contains("--again"), "{said}");
        assert!(spool.run("requeue", &["--again", archived]).status.success());
        spool.run_once();
        assert_eq!(spool.output(), "100.0\n100.0\n");
        assert_eq!(spool.ledger("SELECT again_of FROM microbatch WHERE sequence = 2"), 1);
        // The same content without a request is a duplicate.
        spool.drop_file("b", "1\n");
        spool.run_once();
        assert_eq!(spool.output(), "100.0\n100.0\n");
    }
}

#[test]
fn requeue_replaces_nothing_and_names_what_it_cannot_do() {
    let spool = job();
    spool.drop_file("b.gz", "another one");
    for (file, says) in [
        ("in/failed-b.gz", "another file has come as b.gz"),
        ("in/failed-x", "there is no such file"),
        ("in/b.gz", "the ledger knows no microbatch"),
        ("job.toml", "the ledger knows no microbatch"),
    ] {
        let refused = spool.run("requeue", &[file]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(1) && said.contains(says), "{file}: {said}");
    }
    assert_eq!(spool.read("in/b.gz"), "another one");
}

#[test]
fn a_marker_goes_back_with_its_file() {
    let strict = "[input.complete]\nmarker = \".done\"\n\
        [rejects]\npath = \"rejects.jsonl\"\nmax_bad_records = 0\n[input.format.numbers]\n";
    let spool = Spool::new(strict);
    for round in 0..2 {
        spool.drop_file("a", "bad\n");
        spool.drop_file("a.done", "");
        spool.run_once();
        if round == 0 {
            spool.assert_names(&["failed-a", "failed-a.done", "failed-a.error.json"]);
        }
    }
    for file in ["in/failed-a", "in/failed-a.2"] {
        spool.configure("settle = \"0s\"", &strict.replace("= 0", "= 9"));
        let output = spool.run("requeue", &[file]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        spool.run_once();
    }
    assert_eq!(spool.rejects().lines().count(), 2);
    assert_eq!(spool.ledger("SELECT sum(again_of) FROM microbatch"), 3);
}

/// Aborted anywhere and said again, the file is taken once.
#[test]
fn an_aborted_requeue_can_be_said_again() {
    for number in 1..40 {
        let mut spool = job();
        spool.environment("SPOOLMILL_FAULT", &format!("abort:{number}"));
        let aborted = !spool.run("requeue", &["--again", "in/processed-a"]).status.success();
        spool.no_environment();
        // Fails when the file has gone back already.
        spool.run("requeue", &["--again", "in/processed-a"]);
        spool.run_once();
        assert_eq!(spool.output(), "100.0\n300.0\n100.0\n", "abort:{number}");
        assert_eq!(spool.ledger("SELECT again_of FROM microbatch WHERE sequence = 4"), 1);
        if !aborted {
            assert!(number > 4);
            return;
        }
    }
    panic!("it never ends");
}

/// A number at the end of a name is only a number of ours when the rest is the name of that input.
#[test]
fn a_name_that_ends_in_a_number_is_itself() {
    let spool = Spool::new(NUMBERS);
    for number in [107, 20, 3] {
        spool.drop_file(format!("events.{number}"), format!("{number}\n"));
    }
    spool.run_once();
    // The second microbatch was made of events.20, the third of events.3.
    spool.drop_file("events.2", "2\n");
    spool.run_once();
    let said = explain(&spool, "in/processed-events.2");
    assert!(said.starts_with("events.2 ") && said.contains("\n  4  "), "{said}");
    let said = explain(&spool, "in/processed-events.3");
    assert!(said.starts_with("events.3 ") && said.contains("\n  3  "), "{said}");
    std::fs::write(spool.input("processed-events.20"), "another file\n").unwrap();
    let refused = spool.run("requeue", &["--again", "in/processed-events.20"]);
    assert_eq!(refused.status.code(), Some(1), "it is not what the ledger has archived");
}

/// A note that cannot be removed costs no record.
#[test]
fn a_requeue_note_that_stays_harms_nothing() {
    let mut spool = job();
    assert!(spool.run("requeue", &["--again", "in/processed-a"]).status.success());
    spool.environment("SPOOLMILL_FAULT", "fail:remove:13:1+");
    let log = spool.run_once();
    spool.no_environment();
    assert!(log.contains("a requeue note stays"), "{log}");
    assert_eq!(spool.output(), "100.0\n300.0\n100.0\n");
    // It says nothing of the next file, and the one that was set aside may go back.
    spool.drop_file("a", "5\n");
    spool.run_once();
    assert_eq!(spool.ledger("SELECT count(again_of) FROM microbatch"), 1);
    assert!(spool.run("requeue", &["in/failed-b.gz"]).status.success());
    assert_eq!(verify(&spool, &[]), Vec::<String>::new());
    spool.run_once();
    assert_eq!(verify(&spool, &[]), Vec::<String>::new());
}

/// What a file says of itself is not said to the terminal.
#[test]
fn status_escapes_what_comes_from_outside() {
    let spool =
        Spool::new(&format!("{NUMBERS}[rejects]\npath = \"rejects.jsonl\"\nmax_bad_records = 0\n"));
    spool.drop_file("a\u{1b}[31m", "bad\u{1b}[2J\n");
    spool.run_once();
    for verb in ["status", "history"] {
        let text = out(&spool, verb, &[]);
        assert!(text.contains("bad") && !text.contains('\u{1b}'), "{text:?}");
    }
}

/// Two names that are no text never look alike, in whatever is printed or written as JSON.
#[test]
fn names_that_are_no_text_are_told_apart() {
    use std::os::unix::ffi::OsStrExt as _;
    let spool = Spool::new(&format!("{NUMBERS}[rejects]\non_bad_record = \"quarantine\"\n"));
    let names = [&b"bad-\xdf"[..], b"bad-\xdd"].map(std::ffi::OsStr::from_bytes);
    for name in names {
        spool.drop_file(name, "x\n");
    }
    spool.run_once();
    let objects = |text: &[u8]| -> Vec<serde_json::Value> {
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    };
    let mut all = vec![
        objects(&spool.run("history", &["--json"]).stdout),
        objects(&spool.run("history", &["--json", "--sql", "select file from history"]).stdout),
    ];
    let of_name = |text: &dyn Fn(&std::ffi::OsStr) -> Vec<u8>| {
        names.map(|name| objects(&text(name)).remove(0))
    };
    let explained =
        of_name(&|name| spool.command("explain").arg("--json").arg(name).output().unwrap().stdout);
    all.push(explained.to_vec());
    let reports = fs::read_dir(spool.path("in")).unwrap().map(|entry| entry.unwrap().path());
    let reports = reports.filter(|path| path.as_os_str().as_bytes().ends_with(b".error.json"));
    all.push(
        reports.map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect(),
    );
    for of_two in all {
        assert_eq!(of_two.len(), 2);
        let base64: Vec<_> =
            of_two.iter().map(|object| object["file_base64"].as_str().unwrap()).collect();
        assert!(base64[0] != base64[1], "{of_two:?}");
    }
    // Columns of one name are all there.
    let both = spool.run("history", &["--json", "--sql", "select 1 as a, 2 as a"]).stdout;
    assert_eq!(String::from_utf8_lossy(&both), "{\"a\":1,\"a_2\":2}\n");
}

/// What a start would open is tried: where nobody can listen, and what the kernel cannot start.
#[test]
fn check_tries_what_a_start_opens() {
    use std::os::unix::fs::PermissionsExt as _;
    let spool = Spool::new("");
    let plain = spool.read("job.toml");
    fs::write(spool.path("file"), "").unwrap();
    let long = format!("unix:{}", "s".repeat(120));
    for listen in ["unix:missing/http.sock", &long, "unix:file", "192.0.2.7:9464"] {
        fs::write(spool.path("job.toml"), format!("{plain}[http]\nlisten = \"{listen}\"\n"))
            .unwrap();
        let checked = spool.run("check", &[]);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(
            checked.status.code() == Some(2) && said.contains("http.listen"),
            "{listen}: {said}"
        );
        assert!(!spool.run("run", &["--once"]).status.success(), "{listen}");
    }
    // It leaves nothing behind, and what its own daemon holds is right.
    fs::write(spool.path("job.toml"), format!("{plain}[http]\nlisten = \"unix:http.sock\"\n"))
        .unwrap();
    assert!(spool.run("check", &[]).status.success() && !spool.path("http.sock").exists());
    let daemon = spool.start();
    wait_for("the socket", || spool.path("http.sock").exists());
    wait_for("the watch", || daemon.log().contains("watching"));
    assert!(spool.run("check", &[]).status.success());
    // What anybody else holds is not, also while it runs.
    let theirs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(spool.path("theirs.sock")).unwrap();
    for listen in [&theirs.local_addr().unwrap().to_string(), "unix:theirs.sock"] {
        fs::write(spool.path("job.toml"), format!("{plain}[http]\nlisten = \"{listen}\"\n"))
            .unwrap();
        let checked = spool.run("check", &[]);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.code() == Some(2) && said.contains("http.listen"), "{said}");
    }
    daemon.stop();

    for (program, says) in [
        ("echo 1\n", "does not say what runs it"),
        ("#!/no/such/sh\ncat\n", "/no/such/sh"),
        ("#!/bin/sh\r\ncat\n", "which is no program"),
    ] {
        fs::write(spool.path("program"), program).unwrap();
        fs::set_permissions(spool.path("program"), fs::Permissions::from_mode(0o755)).unwrap();
        let command = "[transform.command]\nargv = [\"./program\"]\n";
        fs::write(spool.path("job.toml"), format!("{plain}{command}")).unwrap();
        let checked = spool.run("check", &[]);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.code() == Some(2) && said.contains(says), "{program}: {said}");
    }
}
