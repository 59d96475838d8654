//! The seed: the shell script that people write today, run beside the job that takes its place.

use crate::support::Spool;
use crate::support::spool::NUMBERS;

const INPUT: &str = "end_marker = \"EOF\"\npattern = \"input_*\"\nsettle = \"50ms\"\n\
                     [input.complete]\nlines = 2";

fn dropped(lines: &str) -> Spool {
    let spool = Spool::with_input(INPUT, NUMBERS);
    for (number, pair) in lines.split_inclusive('\n').collect::<Vec<_>>().chunks(2).enumerate() {
        spool.drop_file(format!("input_{number:02}"), pair.concat());
    }
    spool
}

#[test]
fn drop_files_become_one_output_and_the_end_marker_ends_the_job() {
    let spool = dropped("1\n2\nabc\n30.5\n5\n6\nEOF\n");
    let (status, log) = spool.start().wait();
    assert!(status.success(), "{log}");
    assert_eq!(spool.output(), "100.0\n200.0\n30.5\n500.0\n600.0\n");
    assert_eq!(
        spool.rejects(),
        "{\"file\":\"input_01\",\"line\":1,\"reason\":\"not a number\",\"raw\":\"abc\"}\n"
    );
    spool.assert_names(&[
        "processed-input_00",
        "processed-input_01",
        "processed-input_02",
        "processed-input_03",
    ]);
}

/// Where the script is wrong: it never reads what stands before `EOF` in the last file.
#[test]
fn what_stands_before_the_end_marker_in_its_file_is_read() {
    let spool = dropped("1\n2\n3\nEOF\n");
    let (status, log) = spool.start().wait();
    assert!(status.success(), "{log}");
    assert_eq!(spool.output(), "100.0\n200.0\n300.0\n");
}

/// Where the script is wrong: it loses a last file that is shorter than the others.
#[test]
fn a_shorter_last_file_is_taken_when_the_job_ends() {
    let spool = dropped("1\n2\n3\n");
    let daemon = spool.start();
    crate::support::wait_for("the whole file", || spool.output() == "100.0\n200.0\n");
    spool.drop_file("input_99", "EOF\n");
    let (status, log) = daemon.wait();
    assert!(status.success(), "{log}");
    assert_eq!(spool.output(), "100.0\n200.0\n300.0\n");
}

#[test]
fn a_shorter_last_file_is_taken_by_once() {
    let spool = dropped("1\n2\n3\n");
    spool.run_once();
    assert_eq!(spool.output(), "100.0\n200.0\n300.0\n");
}

/// What comes after the end marker in the order stays where it is.
#[test]
fn files_behind_the_end_stay() {
    let spool = dropped("1\n2\nEOF\n");
    spool.drop_file("input_50", "5\n6\n");
    let (status, log) = spool.start().wait();
    assert!(status.success(), "{log}");
    spool.assert_names(&["input_50", "processed-input_00", "processed-input_01"]);
}

/// The end waits for what has to settle before it, and no longer than that.
#[test]
fn the_end_waits_for_a_short_file_no_longer_than_it_must() {
    let spool = dropped("1\n");
    spool.drop_file("input_99", "EOF\n");
    let begun = std::time::Instant::now();
    let (status, log) = spool.start().wait();
    assert!(status.success(), "{log}");
    assert!(begun.elapsed().as_secs() < 10, "it waited for the next scan");
    assert_eq!(spool.output(), "100.0\n");
}
