//! Promises 8 and 10: a folder that untrusted people write to.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use crate::support::spool::NUMBERS;
use crate::support::{Random, Spool, wait_for};

#[test]
fn what_is_no_regular_file_is_left_alone() {
    let spool = Spool::new("");
    fs::write(spool.path("secret"), "secret\n").unwrap();
    symlink(spool.path("secret"), spool.input("a-link")).unwrap();
    symlink(spool.path("nowhere"), spool.input("dangling")).unwrap();
    symlink(spool.path("."), spool.input("folder-link")).unwrap();
    fs::create_dir(spool.input("folder")).unwrap();
    let _socket = UnixListener::bind(spool.input("socket")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(spool.input("fifo")).status().unwrap();
    assert!(made.success());
    if rustix::process::geteuid().is_root() {
        let device = spool.input("device");
        let status = std::process::Command::new("mknod").arg(device).args(["c", "1", "3"]).status();
        assert!(status.unwrap().success());
    }
    spool.drop_file("z", "1\n");
    spool.run_once();
    assert_eq!(spool.output(), "1\n");
    assert!(spool.names().contains("processed-z") && spool.names().contains("a-link"));
    spool.configure("settle = \"0s\"\nrecursive = true", "");
    spool.run_once();
    assert_eq!(spool.output(), "1\n");
}

#[test]
fn names_are_bytes_and_never_commands() {
    let spool = Spool::new("");
    let names: [&[u8]; 8] = [
        b"new\nline",
        b"\xff\xfe",
        b"--help",
        b"$(touch pwned)",
        b"a;b|c&d",
        b" ",
        b"\x1b[31mred",
        "\u{202e}txt".as_bytes(),
    ];
    for name in names {
        spool.drop_file(OsStr::from_bytes(name), "x\n");
    }
    let log = spool.run_once();
    assert_eq!(spool.output(), "x\n".repeat(8));
    assert!(spool.names().iter().all(|name| name.starts_with("processed-")), "{:?}", spool.names());
    assert!(!log.contains('\x1b') && log.lines().count() == 10, "{log:?}");
}

#[test]
fn one_bad_file_never_stops_the_next() {
    let spool = Spool::new(NUMBERS);
    spool.drop_file("a.gz", "this is no gzip file");
    spool.drop_file("b.zst", "this is no zstd file");
    spool.drop_file("c", b"1\n\xff\n\0\n");
    spool.drop_file("d", "2\n");
    spool.run_once();
    assert_eq!(spool.output(), "100.0\n200.0\n");
    let expected = [
        "failed-a.gz",
        "failed-a.gz.error.json",
        "failed-b.zst",
        "failed-b.zst.error.json",
        "processed-c",
        "processed-d",
    ];
    spool.assert_names(&expected);
}

/// A file that only its owner may read waits; the others go on.
#[test]
fn an_unreadable_file_waits_and_the_others_go_on() {
    if rustix::process::geteuid().is_root() {
        return crate::support::skipped("root can read everything");
    }
    let spool = Spool::new("");
    spool.drop_file("a", "1\n");
    fs::set_permissions(spool.input("a"), fs::Permissions::from_mode(0o000)).unwrap();
    spool.drop_file("b", "2\n");
    spool.run_once();
    spool.assert_names(&["a", "processed-b"]);
}

/// The peak of the program's memory while it runs a job once, in bytes.
fn peak_of_once(spool: &Spool) -> u64 {
    let mut child = spool.command("run").arg("--once").spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return peak;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn a_line_without_end_costs_no_memory() {
    let spool = Spool::new("");
    let sparse = File::create(spool.input("a")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    drop(sparse);
    let mut file = File::options().append(true).open(spool.input("a")).unwrap();
    file.write_all(b"\nafter\n").unwrap();
    drop(file);
    let peak = peak_of_once(&spool);
    assert_eq!(spool.output(), "after\n");
    assert!(spool.rejects().contains("record longer than max_record"));
    assert!(spool.rejects().contains("\"truncated\":true"));
    assert!(peak < 200 << 20, "{peak} bytes");
}

#[test]
fn a_compression_bomb_costs_neither_memory_nor_disk() {
    let spool = Spool::new("");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![b'\n'; 1 << 20];
    for _ in 0..1100 {
        gz.write_all(&zeros).unwrap();
    }
    spool.drop_file("a.gz", gz.finish().unwrap());
    let peak = peak_of_once(&spool);
    assert!(peak < 200 << 20, "{peak} bytes");
    assert!(spool.names().contains("failed-a.gz"), "{:?}", spool.names());
    assert!(spool.read("in/failed-a.gz.error.json").contains("compression bomb"));
    assert_eq!(fs::read_dir(spool.path("state/staging")).unwrap().count(), 0);
}

/// Files come, go, grow, shrink, and swap places with links while the daemon works. In the end each
/// record of a file that was left alone is there once, and no secret is.
#[test]
fn a_folder_in_turmoil_gives_up_no_secret_and_loses_no_file() {
    let spool = Spool::with_input("settle = \"20ms\"", "");
    fs::write(spool.path("secret"), "secret\n").unwrap();
    let daemon = spool.start();
    let mut random = Random(7);
    let mut honest = 0;
    for round in 0..400 {
        let name = format!("t{}", random.below(5));
        match random.below(6) {
            0 => drop(fs::remove_file(spool.input(&name))),
            1 => spool.write_file(&name, "turmoil\n".repeat(random.below(1000) as usize)),
            2 => drop(symlink(spool.path("secret"), spool.input(&name))),
            3 => {
                if let Ok(file) = File::options().write(true).open(spool.input(&name)) {
                    let link = fs::symlink_metadata(spool.input(&name)).unwrap().is_symlink();
                    if !link {
                        file.set_len(random.below(50)).unwrap();
                    }
                }
            }
            4 => {
                let _ = symlink(spool.path("secret"), spool.path("swap"));
                let _ = fs::rename(spool.path("swap"), spool.input(&name));
            }
            _ => {
                spool.drop_file(format!("honest-{round}"), format!("honest {round}\n"));
                honest += 1;
            }
        }
    }
    wait_for("the honest files", || spool.output().matches("honest").count() >= honest);
    daemon.stop();
    let output = spool.output();
    assert!(!output.contains("secret"));
    assert_eq!(output.matches("honest").count(), honest);
}

#[test]
fn a_folder_that_goes_away_and_comes_back_is_watched_again() {
    let spool = Spool::with_input("settle = \"0s\"\nrescan = \"100ms\"", "");
    let daemon = spool.start();
    spool.drop_file("a", "1\n");
    wait_for("the first", || spool.output() == "1\n");
    fs::rename(spool.path("in"), spool.path("gone")).unwrap();
    wait_for("the pause", || daemon.log().contains("paused"));
    fs::create_dir(spool.path("in")).unwrap();
    spool.drop_file("b", "2\n");
    wait_for("the second", || spool.output() == "1\n2\n");
    spool.drop_file("c", "3\n");
    wait_for("the third", || spool.output() == "1\n2\n3\n");
    daemon.stop();
}

/// A full disk pauses the daemon and quarantines nothing; a stop in the pause is heard at once.
#[test]
fn a_full_disk_pauses_and_quarantines_nothing() {
    let mut spool = Spool::new("");
    spool.environment("SPOOLMILL_FAULT", "fail:write:28:1+");
    spool.drop_file("a", "1\n");
    let daemon = spool.start();
    wait_for("the pause", || daemon.log().contains("paused"));
    assert!(daemon.log().contains("No space left on device"), "{}", daemon.log());
    daemon.stop();
    spool.no_environment();
    spool.run_once();
    assert_eq!(spool.output(), "1\n");
    spool.assert_names(&["processed-a"]);
}

/// A file is what its first bytes say: one that spoolmill cannot read is set aside with its kind, whatever
/// it is called, and one that it can read is read.
#[test]
fn a_file_is_what_its_first_bytes_say() {
    let spool = Spool::new("");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, b"1\n").unwrap();
    let gz = gz.finish().unwrap();
    for (name, content) in [
        ("a.csv", b"PK\x03\x04\x14\0".as_slice()),
        ("b.txt", b"\xfd7zXZ\0\0"),
        ("c.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        ("d", b"BZh91AY&SY"),
        ("e.txt", &gz),
        ("f", b"\xef\xbb\xbf2\n"),
    ] {
        spool.drop_file(name, content);
    }
    spool.run_once();
    assert_eq!(spool.output(), "1\n2\n");
    for (name, kind) in [("a.csv", "zip"), ("b.txt", "xz"), ("c.xls", "Office"), ("d", "bzip2")] {
        let report = spool.read(&format!("in/failed-{name}.error.json"));
        assert!(report.contains(kind), "{name}: {report}");
    }
}
