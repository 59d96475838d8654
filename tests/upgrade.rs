//! A ledger of any earlier version is brought up to date, with what it still owes.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::support::Spool;
use crate::support::spool::NUMBERS;

/// The fixtures, by schema version; `tests/fixtures/ledger.py` makes them.
fn fixtures() -> Vec<(i64, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ledgers");
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let version = name.strip_prefix("ledger-").unwrap().strip_suffix(".db.gz").unwrap();
            (version.parse().unwrap(), path)
        })
        .collect();
    all.sort();
    all
}

/// The job that the fixture is of, as the abort left it, in a folder of this test.
fn left_by(fixture: &Path) -> Spool {
    let spool = Spool::new(NUMBERS);
    fs::create_dir(spool.path("state")).unwrap();
    let mut ledger = Vec::new();
    let packed = fs::File::open(fixture).unwrap();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut ledger).unwrap();
    fs::write(spool.path("state/ledger.db"), ledger).unwrap();
    let connection = rusqlite::Connection::open(spool.path("state/ledger.db")).unwrap();
    for name in ["output.txt", "rejects.jsonl"] {
        use std::os::unix::ffi::OsStrExt as _;
        let path = spool.path(name);
        connection
            .execute(
                "UPDATE target SET path = ? WHERE CAST(path AS TEXT) LIKE '%/' || ?",
                rusqlite::params![path.as_os_str().as_bytes(), name],
            )
            .unwrap();
    }
    for (name, input, content) in [
        ("processed-a", "a", "1\nbad\n"),
        ("failed-b.gz", "b.gz", "this is no gzip file"),
        ("processed-c", "c", "3\n"),
        ("d", "d", "4\n"),
    ] {
        fs::write(spool.input(name), content).unwrap();
        let modified: u64 = connection
            .query_row(
                "SELECT modified_ns FROM microbatch WHERE CAST(name AS TEXT) = ?",
                [input],
                |row| row.get(0),
            )
            .unwrap();
        let file = fs::File::options().write(true).open(spool.input(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_nanos(modified)).unwrap();
    }
    fs::write(spool.input("failed-b.gz.error.json"), "{}").unwrap();
    fs::write(spool.path("output.txt"), "100.0\n300.0\n").unwrap();
    let reject = "{\"file\":\"a\",\"line\":2,\"reason\":\"not a number\",\"raw\":\"bad\"}\n";
    fs::write(spool.path("rejects.jsonl"), reject).unwrap();
    spool
}

#[test]
fn a_ledger_of_every_version_goes_on() {
    let all = fixtures();
    for (version, fixture) in &all {
        let spool = left_by(fixture);
        assert_eq!(spool.ledger("PRAGMA user_version"), *version);
        let looked = spool.run("status", &[]);
        let newest = *version == all.len() as i64;
        assert_eq!(looked.status.success(), newest, "who only looks brings nothing up to date");
        spool.run_once();
        assert_eq!(spool.output(), "100.0\n300.0\n400.0\n", "version {version}");
        spool.assert_names(&[
            "failed-b.gz",
            "failed-b.gz.error.json",
            "processed-a",
            "processed-c",
            "processed-d",
        ]);
        spool.drop_file("e", "5\n");
        spool.run_once();
        assert_eq!(spool.output(), "100.0\n300.0\n400.0\n500.0\n", "version {version}");
        let verified = spool.run("verify", &["--deep"]);
        let found = String::from_utf8_lossy(&verified.stdout);
        assert!(verified.status.success(), "version {version}: {found}");
        let status = spool.run("status", &["--json"]).stdout;
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        let count = |name: &str| status["total"][name].as_u64().unwrap();
        let counts =
            [count("microbatches"), count("files"), count("quarantined"), count("rejected")];
        assert_eq!(counts, [5, 4, 1, 1], "version {version}");
    }
}

/// A new schema comes with a fixture of its own.
#[test]
fn each_version_has_its_fixture() {
    let spool = Spool::new(NUMBERS);
    spool.run_once();
    let now = spool.ledger("PRAGMA user_version");
    let versions: Vec<i64> = fixtures().into_iter().map(|(version, _)| version).collect();
    assert_eq!(versions, (1..=now).collect::<Vec<_>>());
}
