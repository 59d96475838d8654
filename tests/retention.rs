//! Outputs, rejects and late records are closed from time to time, and what was closed is kept as long as
//! the job says so: nothing else is removed.

use std::os::unix::fs::MetadataExt as _;

use crate::support::spool::NUMBERS;
use crate::support::{Spool, wait_for};

/// A job whose output, rejects and, in a build with queries, late records are closed by this rule.
fn job(rotate: &str) -> Spool {
    let outputs = format!(
        "[rejects]\npath = \"rejects/r.jsonl\"\nrotate = {{ {rotate} }}\n[output]\n\
         path = \"output/o.csv\"\nrotate = {{ {rotate} }}\n"
    );
    if cfg!(feature = "sql") {
        return Spool::new(&format!(
            "{outputs}[output.format.csv]\nheader = false\n[input.format.csv]\nheader = false\n\
             [input.format.csv.columns]\nn = \"bigint\"\nt = \"timestamp\"\n[event_time]\n\
             column = \"t\"\nlate = \"late/l.jsonl\"\n[[view]]\nname = \"v\"\nmode = \"append\"\n\
             path = \"v.csv\"\nquery = \"select window_start, count(*) as c from \
             tumble(output, t, interval '5 seconds') group by window_start\"\n"
        ));
    }
    let numbers = NUMBERS.replace("[output.format.numbers]\n", "");
    Spool::new(&format!("{numbers}{outputs}[output.format.numbers]\n"))
}

/// What is closed, by the folder it is in.
const OUTPUTS: [&str; 3] = ["output", "rejects", "late"];

fn outputs() -> &'static [&'static str] {
    if cfg!(feature = "sql") { &OUTPUTS } else { &OUTPUTS[..2] }
}

/// One more record for each of the outputs.
fn drop_one(spool: &Spool, number: u32) {
    if cfg!(feature = "sql") {
        if number == 11 {
            // It closes the windows of all that come later.
            spool.drop_file("0", "0,2026-01-02 00:00:00\n");
            spool.run_once();
        }
        let line = format!("{number},2026-01-01 00:00:00\nbad{number},2026-01-02 00:00:00\n");
        spool.drop_file(format!("{number}"), line);
    } else {
        spool.drop_file(format!("{number}"), format!("{number}\nbad{number}\n"));
    }
}

/// The records of each file, the oldest file first.
fn contents(spool: &Spool, folder: &str) -> Vec<String> {
    spool.names_in(folder).iter().map(|name| spool.plain(&format!("{folder}/{name}"))).collect()
}

/// The numbers of the files whose records are in an output, in its order.
fn numbers(spool: &Spool, folder: &str) -> Vec<u32> {
    let all = contents(spool, folder).concat();
    let of = |line: &str| -> u32 {
        let line = line.strip_prefix("{\"file\":\"").unwrap_or(line);
        let end = line.find(|c: char| !c.is_ascii_digit()).unwrap();
        line[..end].parse().unwrap()
    };
    all.lines().map(of).filter(|number| *number > 0).collect()
}

fn ledger_remembers(spool: &Spool) -> usize {
    let ledger = rusqlite::Connection::open(spool.path("state/ledger.db")).unwrap();
    ledger.query_row("SELECT count(*) FROM rotated", (), |row| row.get(0)).unwrap()
}

#[test]
fn each_output_is_closed_by_its_rule() {
    for rotate in ["size = \"1B\"", "size = \"1B\", compress = \"gzip\""] {
        let spool = job(rotate);
        for number in 11..=15 {
            drop_one(&spool, number);
            spool.run_once();
        }
        for folder in outputs() {
            assert_eq!(numbers(&spool, folder), [11, 12, 13, 14, 15], "{folder}");
            assert!(spool.names_in(folder).len() >= 5, "{:?}", spool.names_in(folder));
        }
        spool.verify(&[]);
    }
}

#[test]
fn the_newest_of_what_was_closed_is_kept() {
    for (rotate, most) in [
        ("size = \"1B\", keep = \"250B\"", 250),
        ("size = \"1B\", compress = \"gzip\", keep = \"250B\"", 250),
        ("size = \"1B\", keep = \"0B\"", 0),
    ] {
        let spool = job(rotate);
        for number in 11..=60 {
            drop_one(&spool, number);
            if number % 7 == 0 || number == 60 {
                spool.run_once();
            }
        }
        let mut files = 0;
        for folder in outputs() {
            let kept = numbers(&spool, folder);
            let expected: Vec<u32> = (61 - kept.len() as u32..=60).collect();
            assert_eq!(kept, expected, "{rotate} {folder}");
            let size =
                |name: &String| std::fs::metadata(spool.path(folder).join(name)).unwrap().len();
            let bytes: u64 = spool.names_in(folder).iter().map(size).sum();
            assert!(bytes <= most, "{rotate} {folder}: {bytes}");
            files += spool.names_in(folder).len();
        }
        assert_eq!(ledger_remembers(&spool), files, "{rotate}");
        spool.verify(&[]);
    }
}

#[test]
fn what_is_old_goes_by_itself() {
    let spool = job("size = \"1B\", keep = \"3s\"");
    drop_one(&spool, 11);
    let daemon = spool.start();
    let gone = || spool.read("daemon.log").matches("past `keep`").count();
    let nothing = || outputs().iter().all(|folder| spool.names_in(folder).is_empty());
    wait_for("each is closed and goes", || gone() >= outputs().len() && nothing());
    daemon.stop();
    spool.verify(&[]);
}

/// Under the name of a closed file there is another one, or nothing.
#[test]
fn what_is_not_ours_stays() {
    for compress in ["", ", compress = \"gzip\""] {
        let spool = job(&format!("size = \"1B\"{compress}"));
        for number in 11..=13 {
            drop_one(&spool, number);
            spool.run_once();
        }
        let mut theirs = Vec::new();
        for folder in outputs() {
            let mut names = spool.names_in(folder).into_iter();
            let (first, second) = (names.next().unwrap(), names.next().unwrap());
            std::fs::remove_file(spool.path(folder).join(first)).unwrap();
            let second = spool.path(folder).join(second);
            let inode = second.metadata().unwrap().ino();
            // A new file with the same content, while the old one still has its inode.
            std::fs::copy(&second, spool.path("copy")).unwrap();
            std::fs::rename(spool.path("copy"), &second).unwrap();
            assert_ne!(second.metadata().unwrap().ino(), inode);
            theirs.push(second);
        }
        let rule = job(&format!("size = \"1B\", keep = \"0B\"{compress}")).read("job.toml");
        std::fs::write(spool.path("job.toml"), rule).unwrap();
        spool.run_once();
        for path in theirs {
            assert!(path.exists(), "{compress} {}", path.display());
        }
        for folder in outputs() {
            assert_eq!(spool.names_in(folder).len(), 1, "{compress} {:?}", spool.names_in(folder));
        }
        assert_eq!(ledger_remembers(&spool), 0);
        spool.verify(&[]);
    }
}

/// Aborted at any durable operation: what is kept is the newest, nothing is twice, and no file is forgotten.
#[test]
fn an_abort_forgets_no_file() {
    for rotate in
        ["size = \"1B\", keep = \"250B\"", "size = \"1B\", compress = \"gzip\", keep = \"250B\""]
    {
        let mut ended = false;
        for number in 1..300 {
            let mut spool = job(rotate);
            for file in 11..=14 {
                drop_one(&spool, file);
                spool.run_once();
            }
            drop_one(&spool, 15);
            spool.environment("SPOOLMILL_FAULT", &format!("abort:{number}"));
            ended = spool.run("run", &["--once"]).status.success();
            spool.no_environment();
            spool.run_once();
            for file in 16..=18 {
                drop_one(&spool, file);
                spool.run_once();
            }
            let mut files = 0;
            for folder in outputs() {
                let kept = numbers(&spool, folder);
                let expected: Vec<u32> = (19 - kept.len() as u32..=18).collect();
                assert_eq!(kept, expected, "{rotate} abort:{number} {folder}");
                assert!(!kept.is_empty(), "{rotate} abort:{number} {folder}");
                files += spool.names_in(folder).len();
            }
            assert_eq!(ledger_remembers(&spool), files, "{rotate} abort:{number}");
            spool.verify(&[]);
            if ended {
                assert!(number > 20, "only {number} operations");
                break;
            }
        }
        assert!(ended, "it never ends");
    }
}

/// A file that cannot be removed is tried again, and holds up no other.
#[test]
fn one_file_that_cannot_be_removed_keeps_no_others() {
    let spool = job("size = \"1B\"");
    for number in 11..=14 {
        drop_one(&spool, number);
        spool.run_once();
    }
    let rule = job("size = \"1B\", keep = \"0B\"").read("job.toml");
    std::fs::write(spool.path("job.toml"), rule).unwrap();
    let mut spool = spool;
    spool.environment("SPOOLMILL_FAULT", "fail:remove:1:1");
    let said = spool.run_once();
    assert!(said.contains("closed files stay for now"), "{said}");
    spool.no_environment();
    let left = |spool: &Spool| -> usize {
        outputs().iter().map(|folder| spool.names_in(folder).len()).sum()
    };
    assert_eq!((left(&spool), ledger_remembers(&spool)), (1, 1));
    spool.run_once();
    assert_eq!((left(&spool), ledger_remembers(&spool)), (0, 0));
    spool.verify(&[]);
}

/// Outputs closed one after the other, of `count` files; one more waits.
fn filled(count: u32) -> Spool {
    let spool = job("size = \"1B\"");
    for number in 11..11 + count {
        drop_one(&spool, number);
        spool.run_once();
    }
    drop_one(&spool, 11 + count);
    spool
}

/// A disk that is full of what was closed is made good by what `keep` lets go.
#[test]
fn a_full_disk_holds_up_everything_but_this() {
    let mut spool = filled(4);
    let rule = job("size = \"1B\", keep = \"0B\"").read("job.toml");
    for rule in [None, Some(rule)] {
        if let Some(rule) = rule {
            std::fs::write(spool.path("job.toml"), rule).unwrap();
        }
        spool.environment("SPOOLMILL_FAULT", "fail:write:28:1+");
        assert_eq!(spool.run("run", &["--once"]).status.code(), Some(1));
    }
    assert_eq!(spool.ledger("SELECT count(DISTINCT sequence) FROM owed"), 1);
    let closed = |folder: &str| {
        let names = spool.names_in(folder).into_iter();
        names.filter(|name| name.contains('-')).collect::<Vec<_>>()
    };
    for folder in outputs() {
        assert!(closed(folder).is_empty(), "{:?}", closed(folder));
    }
    spool.no_environment();
    spool.run_once();
    spool.verify(&[]);
}

/// A failed fsync stops the daemon here as well, and is not tried again.
#[test]
fn a_failed_fsync_while_room_is_made_stops_the_program() {
    let mut spool = filled(3);
    spool.environment("SPOOLMILL_FAULT", "fail:write:28:1+");
    assert_eq!(spool.run("run", &["--once"]).status.code(), Some(1));
    let rule = job("size = \"1B\", keep = \"0B\"").read("job.toml");
    std::fs::write(spool.path("job.toml"), rule).unwrap();
    spool.environment("SPOOLMILL_FAULT", "fail:write:28:1+,fail:output-directory:5:1");
    let stopped = spool.run("run", &["--once"]);
    let said = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("spoolmill: ") && last.contains("Input/output error"), "{said}");
    assert!(!said.contains("paused"), "{said}");
    spool.no_environment();
    spool.run_once();
    spool.verify(&[]);
}

/// More than one turn removes at once.
#[test]
fn many_closed_files_go_in_several_turns() {
    let spool = job("size = \"1B\"");
    drop_one(&spool, 11);
    spool.run_once();
    let text = spool.read("job.toml") + "[engine]\nfiles_per_commit = 1\n";
    std::fs::write(spool.path("job.toml"), text).unwrap();
    for number in 12..=150 {
        drop_one(&spool, number);
    }
    spool.run_once();
    assert!(ledger_remembers(&spool) > 128 * outputs().len());
    let rule = job("size = \"1B\", keep = \"0B\"").read("job.toml");
    std::fs::write(spool.path("job.toml"), rule).unwrap();
    let daemon = spool.start();
    wait_for("all of them go", || ledger_remembers(&spool) == 0);
    daemon.stop();
    assert!(outputs().iter().all(|folder| spool.names_in(folder).is_empty()));
}

/// A version that did not write down what it had closed: only the plain file is known, by its inode.
#[test]
fn what_an_earlier_version_has_compressed_stays() {
    for (compress, left) in [("", 0), (", compress = \"gzip\"", 1)] {
        let spool = job(&format!("size = \"1B\"{compress}"));
        drop_one(&spool, 11);
        spool.run_once();
        let ledger = rusqlite::Connection::open(spool.path("state/ledger.db")).unwrap();
        ledger.execute("UPDATE rotated SET kept = NULL, bytes = NULL, closed_ms = 0", ()).unwrap();
        drop(ledger);
        let before = spool.names_in("rejects").len();
        assert_eq!(before, 1);
        let rule = job(&format!("size = \"1B\", keep = \"1h\"{compress}")).read("job.toml");
        std::fs::write(spool.path("job.toml"), rule).unwrap();
        spool.run_once();
        assert_eq!(spool.names_in("rejects").len(), left, "{compress}");
        assert_eq!(ledger_remembers(&spool), 0);
    }
}

#[test]
fn what_cannot_be_meant_is_refused_for_rejects_as_well() {
    for (rotate, says) in [
        ("keep = \"1d\"", "neither `size` nor `every`"),
        ("every = \"0s\"", "found 0"),
        ("size = \"1B\", keep = \"much\"", "expected a duration such as \"7d\" or a size"),
        (
            "size = \"1B\", keep = 7",
            "a duration such as \"7d\" or a size such as \"10GiB\", in quotes",
        ),
    ] {
        let outputs = format!("[rejects]\npath = \"r.jsonl\"\nrotate = {{ {rotate} }}\n");
        let refused = Spool::new(&outputs).run("check", &[]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && said.contains(says), "{rotate}: {said}");
        assert!(said.contains("rejects.rotate"), "{rotate}: {said}");
    }
}
