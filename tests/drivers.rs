//! Promise 13: `run`, `batch` and `stream` over the same records give the same bytes.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use proptest::prelude::*;

use crate::support::spool::NUMBERS;
use crate::support::{Random, Spool, wait_for};

/// Numbers, odd lines, and enough of them to be cut into several blocks.
fn records(seed: u64, lines: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut text = Vec::new();
    for _ in 0..lines {
        match random.below(30) {
            0 => text.extend(b"abc"),
            1 => text.extend(b"\xff\xfe"),
            2 => {}
            3 => text.extend(b" 1_0 \r"),
            _ => text.extend(format!("{}", random.next() as f64 / 1e18).into_bytes()),
        }
        text.push(b'\n');
    }
    text
}

fn reject_lines(text: &[u8]) -> usize {
    String::from_utf8_lossy(text).lines().count()
}

/// Cuts the records into files at these shares of a hundred, at record boundaries.
fn dropped(spool: &Spool, text: &[u8], cuts: &[usize]) {
    let mut from = 0;
    for (number, cut) in cuts.iter().chain([&100]).enumerate() {
        let about = (text.len() * cut / 100).max(from);
        let to = text[about..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(text.len(), |at| about + at + 1);
        spool.drop_file(format!("part-{number}"), &text[from..to.max(from)]);
        from = to.max(from);
    }
}

fn agree(text: &[u8], cuts: &[usize], configuration: &str) {
    let spool = Spool::new(configuration);
    dropped(&spool, text, cuts);
    let batch = spool.run("batch", &["-o", "batch.txt"]);
    assert!(batch.status.success(), "{}", String::from_utf8_lossy(&batch.stderr));
    let batch_rejects = spool.rejects();
    std::fs::remove_file(spool.path("rejects.jsonl")).unwrap();
    let to_stdout = spool.run("batch", &[]);
    std::fs::remove_file(spool.path("rejects.jsonl")).unwrap();
    let stream = spool.pipe("stream", &[], text);
    spool.run_once();
    let output = std::fs::read(spool.path("output.txt")).unwrap_or_default();
    let batch = std::fs::read(spool.path("batch.txt")).unwrap_or_default();
    assert!(batch == output && to_stdout.stdout == output && stream.stdout == output);
    assert_eq!(batch_rejects, spool.rejects());
    assert_eq!(reject_lines(&stream.stderr), reject_lines(spool.rejects().as_bytes()));
}

#[test]
fn run_batch_and_stream_agree() {
    let text = records(3, 200_000);
    assert!(text.len() > 3 << 20, "several blocks are wanted");
    agree(&text, &[], NUMBERS);
    agree(&text, &[30, 31, 90], NUMBERS);
    agree(&text, &[50], "");
}

#[test]
fn a_command_agrees_too() {
    let text = records(4, 20_000);
    let upper = "[transform.command]\nargv = [\"tr\", \"a-z\", \"A-Z\"]\n";
    agree(&text, &[50], upper);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn they_agree_however_the_records_are_split(
        seed in any::<u64>(), lines in 0u64..400, cuts in prop::collection::vec(0usize..100, 0..6)
    ) {
        let mut cuts = cuts;
        cuts.sort_unstable();
        agree(&records(seed, lines), &cuts, NUMBERS);
    }
}

#[test]
fn a_batch_replaces_its_output_as_a_whole_or_not_at_all() {
    let spool = Spool::new(NUMBERS);
    std::fs::write(spool.path("out"), "before\n").unwrap();
    spool.write_file("a", "1\n");
    spool.write_file("b.gz", "this is no gzip file");
    let output = spool.run("batch", &["in/a", "in/b.gz", "-o", "out"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in/b.gz"));
    assert_eq!(spool.read("out"), "before\n");
    let output = spool.run("batch", &["in/a", "-o", "out"]);
    assert!(output.status.success());
    assert!(output.stderr.is_empty(), "progress is for terminals");
    assert_eq!(spool.read("out"), "100.0\n");
    spool.assert_names(&["a", "b.gz"]);
    let hidden = std::fs::read_dir(spool.path("")).unwrap();
    let left = hidden
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".tmp"));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_batch_leaves_devices_links_and_modes_as_they_are() {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
    let spool = Spool::new("");
    spool.write_file("a", "1\n");
    let made = std::process::Command::new("mkfifo").arg(spool.path("fifo")).status().unwrap();
    assert!(made.success());
    let fifo = spool.path("fifo");
    let reader = std::thread::spawn(move || std::fs::read_to_string(fifo).unwrap());
    assert!(spool.run("batch", &["in/a", "-o", "fifo"]).status.success());
    assert_eq!(reader.join().unwrap(), "1\n");
    assert!(std::fs::metadata(spool.path("fifo")).unwrap().file_type().is_fifo());
    std::fs::write(spool.path("target"), "before").unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(spool.path("target"), private).unwrap();
    symlink("target", spool.path("link")).unwrap();
    assert!(spool.run("batch", &["in/a", "-o", "link"]).status.success());
    assert_eq!(spool.read("target"), "1\n");
    assert!(std::fs::symlink_metadata(spool.path("link")).unwrap().is_symlink());
    let mode = std::fs::metadata(spool.path("target")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let output = spool.run("batch", &["in/a", "-o", "state/.."]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_batch_ends_at_the_end_marker() {
    let spool = Spool::with_input("end_marker = \"EOF\"", "");
    spool.write_file("a", "1\nEOF\n2\n");
    spool.write_file("b", "3\n");
    let output = spool.run("batch", &["in"]);
    assert_eq!(output.stdout, b"1\n");
    assert!(spool.rejects().contains("after the end marker"));
}

/// The ledger counts on the rejects, and on the output: a batch touches neither.
#[test]
fn a_batch_leaves_the_files_of_the_daemon_alone() {
    let spool = Spool::new(NUMBERS);
    spool.drop_file("a", "1\nbad\n");
    spool.run_once();
    let (before, output) = (spool.rejects(), spool.output());
    std::os::unix::fs::symlink("output.txt", spool.path("link")).unwrap();
    for arguments in [&["-"][..], &["-", "-o", "output.txt"], &["-", "-o", "link"]] {
        let refused = spool.pipe("batch", arguments, b"worse\n");
        let log = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && log.contains("belongs to the ledger"), "{log}");
    }
    for arguments in [
        &["-", "-o", "state/ledger.db"][..],
        &["-", "--rejects", "in/../state/new"],
        &["-", "-o", "one", "--rejects", "one"],
    ] {
        let refused = spool.pipe("batch", arguments, b"1\n");
        assert!(!refused.status.success(), "{arguments:?}");
    }
    // Without a bad record there is nothing to write.
    assert!(spool.pipe("batch", &["-"], b"1\n").status.success());
    let other = spool.pipe("batch", &["-", "--rejects", "other.jsonl"], b"worse\n");
    assert!(other.status.success() && spool.read("other.jsonl").contains("worse"));
    let said = spool.pipe("batch", &["-", "--rejects", "-"], b"worse\n");
    assert!(said.status.success() && String::from_utf8_lossy(&said.stderr).contains("worse"));
    assert_eq!((spool.rejects(), spool.output()), (before, output));
    spool.drop_file("b", "worst\n");
    spool.run_once();
    assert_eq!(spool.rejects().lines().count(), 2);
}

#[test]
fn a_stream_passes_a_record_on_as_soon_as_its_input_pauses() {
    let spool = Spool::new(NUMBERS);
    let mut command = spool.command("stream");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for number in 1..=3 {
        stdin.write_all(format!("{number}\n").as_bytes()).unwrap();
        let expected = format!("{number}00.0\n");
        let mut got = vec![0; expected.len()];
        stdout.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), expected);
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_stream_that_a_signal_ends_says_which() {
    let spool = Spool::new("");
    for (signal, code) in
        [(rustix::process::Signal::TERM, 128 + 15), (rustix::process::Signal::INT, 128 + 2)]
    {
        let mut command = spool.command("stream");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"1\n").unwrap();
        let mut first = [0; 2];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        // As a shell has it: a program that the signal itself ends has no code of its own.
        use std::os::unix::process::ExitStatusExt as _;
        // In the background of a shell, INT is ignored; that must not last for ever.
        let mut ended = None;
        wait_for("the end", || {
            ended = child.try_wait().unwrap();
            ended.is_some()
        });
        let status = ended.unwrap();
        let shown = status.code().or(status.signal().map(|signal| 128 + signal));
        assert_eq!(shown, Some(code));
        assert_eq!(&first, b"1\n");
    }
}

#[test]
fn a_stream_ends_quietly_when_its_reader_goes_away() {
    let spool = Spool::new("");
    let mut command = spool.command("stream");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    let mut ended = None;
    wait_for("the end", || {
        let _ = stdin.write_all(b"1\n");
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(ended.unwrap().success() && said.is_empty(), "{said}");
}

/// As `head` in a shell's pipe: the producer need not write once more for the end to be seen.
#[test]
fn a_stream_ends_when_its_command_has_seen_enough() {
    let spool = Spool::new("[transform.command]\nargv = [\"head\", \"-n\", \"1\"]\n");
    let mut command = spool.command("stream");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n2\n").unwrap();
    let mut got = String::new();
    child.stdout.take().unwrap().read_to_string(&mut got).unwrap();
    assert_eq!(got, "1\n");
    assert!(child.wait().unwrap().success());
    drop(stdin);
}

#[test]
fn a_stream_ends_at_the_end_marker_though_its_input_goes_on() {
    let spool = Spool::with_input("end_marker = \"EOF\"", "");
    let mut command = spool.command("stream");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\nEOF\n").unwrap();
    let mut got = String::new();
    child.stdout.take().unwrap().read_to_string(&mut got).unwrap();
    assert_eq!(got, "1\n");
    assert!(child.wait().unwrap().success());
    drop(stdin);
}

#[test]
fn split_cuts_a_pipe_into_whole_records() {
    for (arguments, expected) in [
        (vec!["-l", "2"], vec!["1\n22\n", "333\n4444\n", "5"]),
        (vec!["-C", "6B"], vec!["1\n22\n", "333\n", "4444\n5"]),
        (vec!["-C", "3B"], vec!["1\n", "22\n", "333\n", "4444\n", "5"]),
        (vec!["-l", "1000"], vec!["1\n22\n333\n4444\n5"]),
    ] {
        let spool = Spool::new("");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_spoolmill"));
        command.arg("split").args(&arguments).arg(spool.path("in")).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"1\n22\n333\n4444\n5").unwrap();
        assert!(child.wait().unwrap().success());
        let files: Vec<String> =
            spool.names().iter().map(|name| spool.read(&format!("in/{name}"))).collect();
        assert_eq!(files, expected, "{arguments:?}");
        assert!(spool.names().iter().all(|name| name.starts_with("input_")));
    }
}

#[test]
fn split_closes_a_file_when_its_time_is_over() {
    let spool = Spool::new("");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_spoolmill"));
    command.args(["split", "-t", "50ms"]).arg(spool.path("in")).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n").unwrap();
    wait_for("the first", || spool.names().iter().any(|name| name.starts_with("input_")));
    stdin.write_all(b"2\n").unwrap();
    wait_for("the second", || {
        spool.names().iter().filter(|name| name.starts_with("input_")).count() == 2
    });
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn split_keeps_what_it_has_read_when_it_is_stopped() {
    let spool = Spool::new("");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_spoolmill"));
    command.args(["split", "-l", "1000"]).arg(spool.path("in")).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The last record is not over.
    stdin.write_all(b"1\n2\n123").unwrap();
    wait_for("the hidden file", || spool.names().len() == 1);
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    let name = spool.names().into_iter().next().unwrap();
    assert_eq!(spool.read(&format!("in/{name}")), "1\n2\n");
}

/// A long record that never ends takes no whole one with it.
#[test]
fn split_keeps_whole_records_before_one_that_is_not_over() {
    let spool = Spool::new("");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_spoolmill"));
    command.args(["split", "-l", "1000"]).arg(spool.path("in")).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n2\n").unwrap();
    stdin.write_all(&vec![b'x'; 20 << 20]).unwrap();
    wait_for("both files", || spool.names().len() == 2);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    let names = spool.names();
    assert_eq!(names.len(), 1, "{names:?}");
    let name = names.first().unwrap();
    assert_eq!(spool.read(&format!("in/{name}")), "1\n2\n");
}

/// `split` feeds `run`, and GNU split does too.
#[test]
fn a_pipe_becomes_drop_files_becomes_one_output() {
    for producer in ["ours", "gnu"] {
        let spool = Spool::with_input("pattern = \"input_*\"\nsettle = \"0s\"", NUMBERS);
        let daemon = spool.start();
        let mut command = if producer == "ours" {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_spoolmill"));
            command.args(["split", "-l", "10"]).arg(spool.path("in"));
            command
        } else {
            let mut command = std::process::Command::new("split");
            command.args(["-l", "10", "-"]).arg(spool.input("input_"));
            command
        };
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let input: String = (0..1000).map(|number| format!("{number}\n")).collect();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        wait_for("all records", || spool.output().lines().count() >= 1000);
        daemon.stop();
        let expected: String =
            (0..1000).map(|n| format!("{}.0\n", if n < 10 { n * 100 } else { n })).collect();
        assert_eq!(spool.output(), expected, "{producer}");
    }
}

#[test]
fn split_refuses_what_cannot_be_meant() {
    for arguments in [
        vec!["-l", "0"],
        vec!["-C", "0B"],
        vec!["-t", "0s"],
        vec![],
        vec!["-l", "1", "no-such-folder"],
        vec!["-l", "1", "--prefix", "processed-"],
        vec!["-l", "1", "--prefix", "a/b"],
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_spoolmill"));
        let output = command.arg("split").args(&arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

/// On a terminal a batch shows how far it is; `script` gives it one.
#[test]
fn a_batch_shows_its_progress_on_a_terminal() {
    if !crate::support::has("script") {
        return crate::support::skipped("script is not installed");
    }
    let spool = Spool::new(NUMBERS);
    spool.write_file("a", records(5, 300_000));
    let program = env!("CARGO_BIN_EXE_spoolmill");
    let batch = format!("{program} batch -c job.toml -o out.txt");
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &batch, "/dev/null"]).current_dir(spool.path("")).stdin(Stdio::null());
    let output = command.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    for part in ["records", "rejects", "/s", "left", "MiB"] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    assert!(spool.read("out.txt").len() > 1 << 20);
}
