//! The output is closed from time to time: no record is lost, doubled or cut by it.

use std::collections::BTreeSet;
use std::io::Read as _;

use crate::support::spool::{Daemon, NUMBERS};
use crate::support::{Spool, wait_for};

fn job(rotate: &str) -> Spool {
    Spool::new(&format!(
        "{}[output]\npath = \"out/output.txt\"\nrotate = {{ {rotate} }}\n[output.format.numbers]\n",
        NUMBERS.replace("[output.format.numbers]\n", "")
    ))
}

fn names(spool: &Spool) -> BTreeSet<String> {
    let entries = std::fs::read_dir(spool.path("out")).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// The closed files in the order of their names, then the open one.
fn contents(spool: &Spool) -> Vec<String> {
    let mut names: Vec<String> = names(spool).into_iter().collect();
    // `output-...` sorts before `output.txt`.
    names.sort();
    let read = |name: &String| {
        let bytes = std::fs::read(spool.path("out").join(name)).unwrap();
        let mut text = String::new();
        match name.rsplit('.').next().unwrap() {
            "gz" => {
                flate2::read::MultiGzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
            }
            "zst" => text = String::from_utf8(zstd::stream::decode_all(&*bytes).unwrap()).unwrap(),
            _ => text = String::from_utf8(bytes).unwrap(),
        }
        text
    };
    names.iter().map(read).collect()
}

#[track_caller]
fn verify(spool: &Spool) {
    let output = spool.run("verify", &[]);
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{said}");
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
    verify(&spool);
    std::fs::write(spool.path("out").join(closed), "100.0\n200.1\n").unwrap();
    let found = spool.run("verify", &[]);
    assert!(String::from_utf8_lossy(&found.stdout).contains("was changed or cut"));
    // Its reader may take a closed file away.
    std::fs::remove_file(spool.path("out").join(closed)).unwrap();
    verify(&spool);
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
    verify(&spool);
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
        verify(&spool);
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
            verify(&spool);
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
        verify(&spool);
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
        let audits = scope.spawn(|| (0..20).for_each(|_| verify(&spool)));
        for number in 1.. {
            spool.drop_file(format!("{number}"), format!("{number}\n"));
            wait_for("it is done", || spool.input(format!("processed-{number}")).exists());
            if audits.is_finished() {
                break;
            }
        }
    });
    daemon.stop();
    verify(&spool);
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
    verify(&spool);
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
    verify(&spool);
}
