//! The output is closed from time to time: no record is lost, doubled or cut by it.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::spool::{Daemon, NUMBERS};
use crate::support::{Spool, wait_for};

fn job(rotate: &str) -> Spool {
    Spool::new(&format!(
        "{}[output]\npath = \"out/output.txt\"\nrotate = {{ {rotate} }}\n[output.format.numbers]\n",
        NUMBERS.replace("[output.format.numbers]\n", "")
    ))
}

fn names(spool: &Spool) -> BTreeSet<String> {
    spool.names_in("out").into_iter().filter(|name| !name.starts_with('.')).collect()
}

/// The closed files in the order of their names, then the open one.
fn contents(spool: &Spool) -> Vec<String> {
    contents_of(spool, |_| true)
}

fn contents_of(spool: &Spool, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut names: Vec<String> = names(spool).into_iter().filter(|name| wanted(name)).collect();
    // `output-...` sorts before `output.txt`.
    names.sort();
    names.iter().map(|name| spool.plain(&format!("out/{name}"))).collect()
}

#[test]
fn the_output_is_closed_at_its_size() {
    let spool = job("size = \"10B\"");
    for number in 1..=5 {
        spool.drop_file(format!("{number}"), format!("{number}\n"));
        spool.run_once();
    }
    let text = contents(&spool);
    assert_eq!(text, ["100.0\n200.0\n", "300.0\n400.0\n", "500.0\n"]);
    let names = names(&spool);
    let closed = names.first().unwrap();
    assert!(closed.starts_with("output-20") && closed.ends_with("Z.txt"), "{names:?}");
    spool.verify(&[]);
    std::fs::write(spool.path("out").join(closed), "100.0\n200.1\n").unwrap();
    let found = spool.run("verify", &[]);
    assert!(String::from_utf8_lossy(&found.stdout).contains("was changed or cut"));
    // Its reader may take a closed file away.
    std::fs::remove_file(spool.path("out").join(closed)).unwrap();
    spool.verify(&[]);
}

#[test]
fn the_output_is_closed_when_its_time_is_over() {
    let spool = job("every = \"2s\"");
    let daemon = spool.start();
    spool.drop_file("a", "1\n");
    wait_for("it is closed by itself", || {
        let names = names(&spool);
        names.len() == 1 && !names.contains("output.txt")
    });
    spool.drop_file("b", "2\n");
    wait_for("the next one begins", || names(&spool).len() == 2);
    daemon.stop();
    assert_eq!(contents(&spool), ["100.0\n", "200.0\n"]);
    spool.verify(&[]);
}

#[test]
fn closed_files_are_compressed() {
    for (how, suffix) in [("gzip", ".gz"), ("zstd", ".zst")] {
        let spool = job(&format!("size = \"1B\", compress = \"{how}\""));
        for number in 1..=3 {
            spool.drop_file(format!("{number}"), format!("{number}\n"));
            spool.run_once();
        }
        assert_eq!(contents(&spool), ["100.0\n", "200.0\n", "300.0\n"]);
        let packed = names(&spool).into_iter().filter(|name| name.ends_with(suffix)).count();
        assert_eq!(packed, 3, "{:?}", names(&spool));
        spool.verify(&[]);
    }
}

/// Aborted at any durable operation, each record is in one file, and no file is cut.
#[test]
fn an_abort_loses_doubles_and_cuts_nothing() {
    for rotate in ["size = \"1B\"", "size = \"1B\", compress = \"gzip\""] {
        let mut ended = false;
        for number in 1..300 {
            let mut spool = job(rotate);
            spool.drop_file("a", "1\n2\n");
            spool.run_once();
            spool.drop_file("b", "3\n4\n");
            spool.environment("SPOOLMILL_FAULT", &format!("abort:{number}"));
            ended = spool.run("run", &["--once"]).status.success();
            spool.no_environment();
            spool.run_once();
            spool.drop_file("c", "5\n");
            spool.run_once();
            let text = contents(&spool);
            assert_eq!(
                text.concat(),
                "100.0\n200.0\n300.0\n400.0\n500.0\n",
                "{rotate} abort:{number}"
            );
            assert_eq!(text.len(), 3, "{rotate} abort:{number}: {text:?}");
            spool.verify(&[]);
            if ended {
                assert!(number > 10, "only {number} operations");
                break;
            }
        }
        assert!(ended, "it never ends");
    }
}

/// A failure pauses it, and it goes on.
#[test]
fn a_failure_is_made_good() {
    for (kind, errno, number) in [
        ("rename", 13, 1),
        ("rename", 28, 2),
        ("commit", 28, 1),
        ("commit", 28, 2),
        ("write", 28, 2),
    ] {
        let mut spool = job("size = \"1B\", compress = \"zstd\"");
        spool.drop_file("a", "1\n");
        spool.run_once();
        spool.drop_file("b", "2\n");
        spool.environment("SPOOLMILL_FAULT", &format!("fail:{kind}:{errno}:{number}"));
        spool.run("run", &["--once"]);
        spool.no_environment();
        spool.run_once();
        assert_eq!(contents(&spool), ["100.0\n", "200.0\n"], "{kind} {number}");
        spool.verify(&[]);
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (rotate, says) in [
        ("compress = \"gzip\"", "neither `size` nor `every`"),
        ("size = \"0B\"", "found 0"),
        ("size = \"1B\", compress = \"rar\"", "unknown value `rar`"),
        ("sice = \"1B\"", "unknown key `sice`; did you mean `size`?"),
    ] {
        let refused = job(rotate).run("check", &[]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && said.contains(says), "{rotate}: {said}");
    }
}

/// What stood in the output when an audit began, and is in a closed file when it looks, is not missed.
#[test]
fn an_audit_beside_a_rotation_finds_no_damage() {
    let spool = job("size = \"1B\"");
    spool.run_once();
    // An audit looks at the whole ledger first: the larger it is, the longer it takes.
    let ledger = rusqlite::Connection::open(spool.path("state/ledger.db")).unwrap();
    let ballast = "CREATE TABLE ballast (n, text UNIQUE);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
        INSERT INTO ballast SELECT i, hex(randomblob(40)) FROM n;";
    ledger.execute_batch(ballast).unwrap();
    drop(ledger);
    let daemon = spool.start();
    std::thread::scope(|scope| {
        let audits = scope.spawn(|| (0..20).for_each(|_| spool.verify(&[])));
        for number in 1.. {
            spool.drop_file(format!("{number}"), format!("{number}\n"));
            wait_for("it is done", || spool.input(format!("processed-{number}")).exists());
            if audits.is_finished() {
                break;
            }
        }
    });
    daemon.stop();
    spool.verify(&[]);
}

/// An output that was cut is damage: it is not closed as if it were whole.
#[test]
fn an_output_that_was_cut_is_not_closed() {
    let spool = job("every = \"8s\"");
    let now_ms = || std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let daemon = spool.start();
    wait_for("it watches", || daemon.log().contains("watching"));
    wait_for("there is time until the next boundary", || now_ms() % 8000 < 2000);
    spool.drop_file("a", "1\n2\n");
    wait_for("it is written", || spool.input("processed-a").exists());
    let output = std::fs::File::options().write(true).open(spool.path("out/output.txt")).unwrap();
    output.set_len(3).unwrap();
    let (status, log) = daemon.wait();
    assert!(status.code() == Some(4) && log.contains("is damaged"), "{status}: {log}");
    assert_eq!(names(&spool), BTreeSet::from(["output.txt".to_owned()]));
}

/// A large output is closed, its compression has begun, and a signal comes. Gives the job when `heard` is
/// true; on a machine that was busy elsewhere until all was compressed, another job is tried.
fn signalled(
    signal: rustix::process::Signal,
    heard: impl Fn(&mut Daemon) -> bool,
) -> (Spool, Daemon, String) {
    let mut random = crate::support::Random(7);
    let text: String = (0..1_500_000).map(|_| format!("{}.5\n", random.next() >> 12)).collect();
    for _ in 0..4 {
        let spool = job("size = \"1B\", compress = \"gzip\"");
        let mut daemon = spool.start();
        spool.drop_file("a", &text);
        wait_for("its compression has begun", || {
            let entries = std::fs::read_dir(spool.path("out")).into_iter().flatten().flatten();
            let mut names = entries.map(|entry| entry.file_name().into_string().unwrap());
            names.any(|name| name.ends_with(".gz.spoolmill-tmp") || name.ends_with(".gz"))
        });
        daemon.signal(signal);
        wait_for("the signal is heard", || heard(&mut daemon));
        if names(&spool).iter().any(|name| name.ends_with("Z.txt")) {
            return (spool, daemon, text);
        }
    }
    panic!("it is always compressed before the signal is heard");
}

#[test]
fn a_stop_does_not_wait_for_a_compression() {
    let ended = |daemon: &mut Daemon| {
        daemon.child.try_wait().unwrap().is_some_and(|status| {
            assert!(status.success(), "{status}: {}", daemon.log());
            true
        })
    };
    let (spool, _, text) = signalled(rustix::process::Signal::TERM, ended);
    spool.run_once();
    assert!(names(&spool).iter().all(|name| name.ends_with(".gz")), "{:?}", names(&spool));
    assert_eq!(contents(&spool).concat(), text);
    spool.verify(&[]);
}

#[test]
fn a_reload_does_not_wait_for_a_compression() {
    let reloaded = |daemon: &mut Daemon| daemon.log().contains("configuration was reloaded");
    let (spool, daemon, text) = signalled(rustix::process::Signal::HUP, reloaded);
    wait_for("it is compressed after all", || {
        names(&spool).iter().all(|name| name.ends_with(".gz"))
    });
    daemon.stop();
    assert_eq!(contents(&spool).concat(), text);
    spool.verify(&[]);
}

/// Aborted at any durable operation, a collector takes whatever is closed, and the job is configured again:
/// each record was in one file that could be taken, and no hidden name is left.
#[test]
fn a_collector_sees_each_closed_file_once_whatever_comes_between() {
    let job_of = |rotate: &str| job(rotate).read("job.toml");
    let afterwards = ["size = \"1B\", compress = \"zstd\"", "size = \"1B\"", "size = \"1TiB\""];
    let mut ended = false;
    for number in 1..300 {
        let mut spool = job("size = \"1B\", compress = \"gzip\"");
        spool.drop_file("a", "1\n2\n");
        spool.drop_file("b", "3\n");
        spool.environment("SPOOLMILL_FAULT", &format!("abort:{number}"));
        ended = spool.run("run", &["--once"]).status.success();
        spool.no_environment();
        let mut all = contents_of(&spool, |name| name.starts_with("output-"));
        for name in names(&spool).iter().filter(|name| name.starts_with("output-")) {
            std::fs::remove_file(spool.path("out").join(name)).unwrap();
        }
        let next = job_of(afterwards[number % afterwards.len()]);
        std::fs::write(spool.path("job.toml"), next).unwrap();
        spool.run_once();
        all.extend(contents_of(&spool, |_| true));
        let mut records: Vec<_> = all.iter().flat_map(|text| text.lines()).collect();
        records.sort_unstable();
        assert_eq!(records, ["100.0", "200.0", "300.0"], "abort:{number}: {:?}", names(&spool));
        let hidden = std::fs::read_dir(spool.path("out")).unwrap();
        let hidden = hidden.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let hidden: Vec<_> =
            hidden.filter(|name| name.starts_with('.') && !name.contains("lock")).collect();
        assert!(hidden.is_empty(), "abort:{number}: {hidden:?}");
        if ended {
            assert!(number > 20, "only {number} operations");
            break;
        }
    }
    assert!(ended, "it never ends");
}

/// What stands for a file has its mode, whoever puts it there.
#[test]
fn what_follows_an_output_has_its_mode() {
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    for taken_away in [false, true] {
        let spool = job("size = \"10B\", compress = \"gzip\"");
        spool.drop_file("a", "1\nbad\n");
        spool.run_once();
        for name in ["out/output.txt", "rejects.jsonl"] {
            let private = std::fs::Permissions::from_mode(0o640);
            std::fs::set_permissions(spool.path(name), private).unwrap();
        }
        spool.drop_file("b", "2\nbad\n");
        spool.run_once();
        if taken_away {
            // Unless it has just been closed.
            let _ = std::fs::remove_file(spool.path("out/output.txt"));
        }
        std::fs::remove_file(spool.path("rejects.jsonl")).unwrap();
        // Larger than what the ledger takes: the staging file becomes the output.
        spool.drop_file("c", "3\nbad\n".to_owned() + &"4\n".repeat(100_000));
        spool.run_once();
        spool.run_once();
        for name in names(&spool) {
            assert_eq!(mode(&spool.path("out").join(&name)), 0o640, "{name} {taken_away}");
        }
        assert_eq!(mode(&spool.path("rejects.jsonl")), 0o640);
    }
}

/// logrotate's `create`, and every other file that somebody puts under the name of one that is written to.
#[test]
fn another_file_under_the_name_is_told_by_its_inode() {
    // Whether the daemon is stopped while the file is replaced.
    for is_stopped in [false, true] {
        for name in ["output.txt", "rejects.jsonl"] {
            let spool = Spool::new(NUMBERS);
            let mut daemon = Some(spool.start());
            spool.drop_file("a", "1\nbad\n");
            wait_for("the first", || spool.names().contains("processed-a"));
            let before = spool.read(name);
            if is_stopped {
                daemon.take().unwrap().stop();
            }
            std::fs::rename(spool.path(name), spool.path("rotated")).unwrap();
            std::fs::write(spool.path(name), "").unwrap();
            if is_stopped {
                daemon = Some(spool.start());
            }
            spool.drop_file("b", "2\nbad\n");
            wait_for("the second", || {
                let alive = daemon.as_mut().unwrap();
                assert!(
                    alive.child.try_wait().unwrap().is_none(),
                    "{name} {is_stopped}: {}",
                    alive.log()
                );
                spool.names().contains("processed-b")
            });
            daemon.unwrap().stop();
            assert_eq!(spool.read("rotated"), before);
            assert_eq!(spool.read(name).lines().count(), 1, "{name} {is_stopped}");
            spool.verify(&[]);

            // Its copy is continued; a file of somebody else's is named.
            std::fs::copy(spool.path(name), spool.path("copy")).unwrap();
            std::fs::rename(spool.path("copy"), spool.path(name)).unwrap();
            spool.drop_file("c", "3\nbad\n");
            spool.run_once();
            assert_eq!(spool.read(name).lines().count(), 2, "{name}");
            std::fs::write(
                spool.path("theirs"),
                "a note of ours, which is longer than that\n".repeat(9),
            )
            .unwrap();
            std::fs::rename(spool.path("theirs"), spool.path(name)).unwrap();
            spool.drop_file("d", "4\nbad\n");
            let refused = spool.run("run", &["--once"]);
            let said = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(refused.status.code(), Some(4), "{said}");
            assert!(
                said.contains("is another file") && said.contains("put the file back"),
                "{said}"
            );
        }
    }
}

/// The same for all that is appended to, by who has ended the daemon before: nobody, a stop, a kill.
#[cfg(feature = "sql")]
#[test]
fn all_that_is_appended_to_may_be_rotated_from_outside() {
    let configuration = "[input.format.csv]\nheader = false\n[input.format.csv.columns]\nn = \"bigint\"\n\
        t = \"timestamp\"\n[event_time]\ncolumn = \"t\"\nlate = \"late.jsonl\"\n[output]\n\
        path = \"output.txt\"\n[output.format.json]\n[[view]]\nname = \"closed\"\nmode = \"append\"\n\
        path = \"closed.json\"\nquery = \"select window_start, sum(n) as n from \
        tumble(output, t, interval '1 minute') group by window_start\"\n[[view]]\nname = \"changed\"\n\
        mode = \"update\"\npath = \"changed.json\"\nquery = \"select n, count(*) as c from output \
        group by n\"\n";
    // In each file but the first: a good record, one that is late, a bad one.
    let file = |number: u32| {
        let late =
            if number > 1 { format!("7{number},2026-01-01 00:00:00\n") } else { String::new() };
        format!("{number},2026-01-01 0{number}:00:00\n{late}bad{number},\n")
    };
    let all = ["output.txt", "rejects.jsonl", "late.jsonl", "closed.json", "changed.json"];
    for end in ["none", "stop", "kill"] {
        for created in [true, false] {
            let spool = Spool::new(configuration);
            spool.drop_file("1", file(1));
            spool.drop_file("2", file(2));
            let mut daemon = Some(spool.start());
            let done = |number: u32| {
                wait_for("it is done", || {
                    spool.names().contains(&format!("processed-{number}"))
                        && spool.ledger("SELECT count(*) FROM owed") == 0
                });
            };
            done(2);
            match end {
                "stop" => drop(daemon.take().unwrap().stop()),
                "kill" => drop(daemon.take()),
                _ => {}
            }
            let before = all.map(|name| spool.read(name));
            for name in all {
                std::fs::rename(spool.path(name), spool.path(format!("rotated-{name}"))).unwrap();
                if created {
                    std::fs::write(spool.path(name), "").unwrap();
                }
            }
            if daemon.is_none() {
                daemon = Some(spool.start());
            }
            spool.drop_file("3", file(3));
            done(3);
            daemon.unwrap().stop();
            for (name, before) in all.iter().zip(before) {
                assert!(!before.is_empty(), "{name}");
                let rotated = spool.read(&format!("rotated-{name}"));
                assert_eq!(rotated, before, "{name} {end} {created}");
                let after = spool.read(name);
                assert!(!after.is_empty(), "{name} {end} {created}");
                for line in after.lines() {
                    assert!(!before.contains(line) && line.ends_with('}'), "{name}: {line}");
                }
            }
            spool.verify(&[]);
        }
    }
}

/// Rotated from outside between two commits, and killed at any operation after it: each record is in the file
/// that it was written for, or in the next one, and never in two or over another.
#[test]
fn a_kill_after_a_rotation_from_outside_tears_nothing() {
    for created in [true, false] {
        let mut ended = false;
        for number in 1..120 {
            let mut spool = Spool::new("");
            spool.environment("SPOOLMILL_FAULT", &format!("abort:{number}"));
            let mut daemon = spool.start();
            let gone = |daemon: &mut Daemon| daemon.child.try_wait().unwrap().is_some();
            spool.drop_file("a", "AAAAAAAAAAAAAAAA\n");
            wait_for("the first", || gone(&mut daemon) || spool.names().contains("processed-a"));
            let mut rotated = String::new();
            if spool.path("output.txt").exists() && !gone(&mut daemon) {
                std::fs::rename(spool.path("output.txt"), spool.path("rotated")).unwrap();
                if created {
                    std::fs::write(spool.path("output.txt"), "").unwrap();
                }
            }
            spool.drop_file("b", "bb\n");
            wait_for("the second", || gone(&mut daemon) || spool.names().contains("processed-b"));
            if !gone(&mut daemon) {
                daemon.signal(rustix::process::Signal::TERM);
                ended = daemon.child.wait().unwrap().success();
            }
            // Killed before the file was known to the ledger, and rotated then: nobody can know.
            let is_known = daemon_has_committed(&spool, 2);
            spool.no_environment();
            let once = spool.run("run", &["--once"]);
            let said = String::from_utf8_lossy(&once.stderr);
            assert!(once.status.success(), "abort:{number} {created}: {said}");
            if spool.path("rotated").exists() {
                rotated = spool.read("rotated");
            }
            let mut text = rotated + &spool.output();
            if !is_known {
                let lines: std::collections::BTreeSet<_> = text.lines().collect();
                text = lines.into_iter().map(|line| format!("{line}\n")).collect();
            }
            assert_eq!(text, "AAAAAAAAAAAAAAAA\nbb\n", "abort:{number} {created}");
            spool.verify(&[]);
            if ended {
                assert!(number > 10);
                break;
            }
        }
        assert!(ended);
    }
}

/// True when the ledger is there, and knows of so many microbatches.
fn daemon_has_committed(spool: &Spool, microbatches: i64) -> bool {
    let count = rusqlite::Connection::open(spool.path("state/ledger.db")).ok().and_then(|ledger| {
        let count = ledger.query_row("SELECT count(*) FROM microbatch", (), |row| row.get(0));
        count.ok()
    });
    count == Some(microbatches)
}
