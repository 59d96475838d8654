//! Promise 2: SIGKILL at random moments under load, and a reader that follows the output.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
#[cfg(feature = "sql")]
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Random, Spool, wait_for};

/// A reader that sees the output grow.
trait Follow: Default + Send {
    /// Looks at what there is; nothing seen before may have changed.
    fn follow(&mut self, spool: &Spool);

    /// All records, as text.
    fn records(self, spool: &Spool) -> Vec<u8>;
}

/// Reads what is new in a file.
#[derive(Default)]
struct File {
    seen: Vec<u8>,
}

impl Follow for File {
    fn follow(&mut self, spool: &Spool) {
        let Ok(mut file) = fs::File::open(spool.path("output.txt")) else { return };
        let length = file.metadata().unwrap().len();
        assert!(length >= self.seen.len() as u64, "bytes were taken back");
        file.seek(SeekFrom::Start(self.seen.len() as u64)).unwrap();
        file.read_to_end(&mut self.seen).unwrap();
    }

    fn records(self, _spool: &Spool) -> Vec<u8> {
        self.seen
    }
}

/// Takes each file of a folder away as soon as it is there.
#[cfg(feature = "sql")]
#[derive(Default)]
struct Folder {
    taken: std::collections::BTreeSet<String>,
}

#[cfg(feature = "sql")]
impl Follow for Folder {
    fn follow(&mut self, spool: &Spool) {
        let Ok(entries) = fs::read_dir(spool.path("output")) else { return };
        for entry in entries {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with('.') {
                continue;
            }
            let (from, to) = (spool.path("output").join(&name), spool.path(&name));
            fs::rename(from, to).unwrap();
            assert!(self.taken.insert(name.clone()), "{name} came twice");
        }
    }

    fn records(self, spool: &Spool) -> Vec<u8> {
        let job = "[input.format.parquet]\n[output.format.lines]\n";
        fs::write(spool.path("back.toml"), job).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_spoolmill"));
        command.current_dir(spool.path("")).args(["batch", "-c", "back.toml"]);
        let output = command.args(&self.taken).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

/// The file of this number: mostly a line or two, now and then more than the ledger's rows hold.
fn content(number: u64) -> String {
    let lines = if number % 40 == 39 { 40_000 } else { 1 + number % 3 };
    (0..lines).map(|line| format!("{number}.{line}\n")).collect()
}

#[test]
fn a_reader_sees_every_record_once_through_any_number_of_kills() {
    survives_kills::<File>(&Spool::new(""), 300, 25_000, "", content);
}

/// A query over the whole of each file; the start takes longer, since it is planned.
#[cfg(feature = "sql")]
#[test]
fn a_reader_of_a_csv_job_sees_every_record_once_through_any_number_of_kills() {
    let configuration = "[input.format.csv]\nheader = false\n\
        [input.format.csv.columns]\nid = \"varchar\"\n\
        [transform.sql]\nquery = \"select id from input order by _line\"\n\
        [output]\npath = \"output.txt\"\n[output.format.csv]\n";
    survives_kills::<File>(&Spool::new(configuration), 60, 300_000, "id\n", content);
}

#[cfg(feature = "sql")]
#[test]
fn a_reader_of_a_json_job_sees_every_record_once_through_any_number_of_kills() {
    let configuration = "[input.format.json]\n[input.format.json.columns]\nid = \"varchar\"\n\
        [transform.sql]\nquery = \"select id from input\"\n\
        [output]\npath = \"output.txt\"\n[output.format.json]\n";
    let content = |number| {
        content(number)
            .lines()
            .fold(String::new(), |text, id| text + &format!("{{\"id\":\"{id}\"}}\n"))
    };
    survives_kills::<File>(&Spool::new(configuration), 60, 300_000, "", content);
}

/// Each group is one record: a state that was merged twice would show, and so would one that was lost.
#[cfg(feature = "sql")]
#[test]
fn a_reader_of_a_view_sees_every_group_once_through_any_number_of_kills() {
    let configuration = "[input.format.csv]\nheader = false\n\
        [input.format.csv.columns]\nid = \"varchar\"\nn = \"bigint\"\n\
        [output]\npath = \"all.csv\"\n[output.format.csv]\nheader = false\n\
        [[view]]\nname = \"groups\"\nmode = \"update\"\npath = \"output.txt\"\n\
        query = \"select id, sum(n) as n from output group by id\"\n";
    let content =
        |number| content(number).lines().fold(String::new(), |text, id| text + id + ",1\n");
    survives_kills::<File>(&Spool::new(configuration), 60, 300_000, "", content);
}

/// Each part is taken away at once, and none comes back.
#[cfg(feature = "sql")]
#[test]
fn a_reader_of_a_parquet_job_sees_every_record_once_through_any_number_of_kills() {
    let configuration = "[input.format.lines]\n[transform.sql]\nquery = \"select line from input\"\n\
        [output]\npath = \"output\"\n[output.format.parquet]\n";
    survives_kills::<Folder>(&Spool::new(configuration), 60, 300_000, "", content);
}

/// Kills the daemon so often, each time within so many microseconds of its start.
fn survives_kills<Follower: Follow>(
    spool: &Spool,
    kills: u64,
    within: u64,
    header: &str,
    content: impl Fn(u64) -> String + Sync,
) {
    let seed = 11;
    eprintln!("{kills} kills with seed {seed}");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                spool.drop_file(format!("f{number:06}"), content(number));
                number += 1;
                std::thread::sleep(Duration::from_micros(500));
            }
            number
        });
        let reader = scope.spawn(|| {
            let mut follower = Follower::default();
            while !stop.load(Ordering::Relaxed) {
                follower.follow(spool);
            }
            follower
        });
        let mut random = Random(seed);
        for _ in 0..kills {
            let daemon = spool.start();
            std::thread::sleep(Duration::from_micros(random.below(within)));
            drop(daemon);
        }
        stop.store(true, Ordering::Relaxed);
        let files = producer.join().unwrap();
        let mut follower = reader.join().unwrap();
        spool.run_once();
        follower.follow(spool);
        // The files were dropped in the order of their names, and each is taken in order, but one
        // that comes during a scan may wait for the next: so the lines are compared as a set.
        let found = follower.records(spool);
        let mut found: Vec<&[u8]> = found.split_inclusive(|byte| *byte == b'\n').collect();
        let expected: String = (0..files).map(&content).collect();
        let expected = format!("{header}{expected}");
        let mut expected: Vec<&[u8]> =
            expected.as_bytes().split_inclusive(|byte| *byte == b'\n').collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert!(found == expected, "{} lines, expected {}", found.len(), expected.len());
        assert!(spool.names().iter().all(|name| name.starts_with("processed-")));
        assert!(files > 500, "only {files} files under load");
    });
    wait_for("nothing is owed", || spool.ledger("SELECT count(*) FROM owed") == 0);
}
