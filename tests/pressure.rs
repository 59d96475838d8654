//! When room is short: the disk before it is full, the log before it is flooded.

use rustix::process::Signal;

use crate::support::spool::NUMBERS;
use crate::support::{Spool, wait_for};

#[test]
fn the_daemon_pauses_before_the_disk_is_full_and_goes_on_by_itself() {
    let engine = |least: &str| format!("{NUMBERS}[engine]\nmin_free = \"{least}\"\n");
    let spool = Spool::new(&engine("100PiB"));
    let daemon = spool.start();
    wait_for("it watches", || daemon.log().contains("watching"));
    spool.drop_file("a", "1\n");
    wait_for("it pauses", || daemon.log().contains("paused; nothing is lost"));
    let log = daemon.log();
    assert!(
        log.contains("are free where") && log.contains("`engine.min_free` is 100.0 PiB"),
        "{log}"
    );
    spool.assert_names(&["a"]);
    assert_eq!(spool.output(), "");
    // There is room enough for what is asked now.
    spool.configure("settle = \"0s\"", &engine("1KiB"));
    daemon.signal(Signal::HUP);
    wait_for("it goes on", || spool.output() == "100.0\n");
    daemon.stop();
}

/// Without anything to take, there is nothing to pause for.
#[test]
fn a_full_disk_does_not_disturb_an_idle_daemon() {
    let spool = Spool::new(&format!("{NUMBERS}[engine]\nmin_free = \"100PiB\"\n"));
    let log = spool.run_once();
    assert!(!log.contains("paused"), "{log}");
}

/// A thousand bad files are a thousand microbatches, and not a thousand warnings.
#[test]
fn warnings_of_one_cause_are_counted_beyond_some() {
    let spool = Spool::new(NUMBERS);
    for number in 0..300 {
        spool.drop_file(format!("{number:03}.gz"), "this is no gzip file");
        spool.drop_file(format!("{number:03}"), "1\n");
    }
    let log = spool.run_once();
    let told = log.lines().filter(|line| line.contains("the file failed microbatch=")).count();
    let left_out: usize = log
        .lines()
        .filter(|line| line.contains("left out") && line.contains("the file failed"))
        .map(|line| {
            line.split("lines=")
                .nth(1)
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .parse::<usize>()
                .unwrap()
        })
        .sum();
    assert!((50..300).contains(&told), "{told} lines");
    assert_eq!(told + left_out, 300, "{log}");
    // One line for each file that was processed, however many.
    assert_eq!(log.lines().filter(|line| line.contains("committed microbatch=")).count(), 300);
}
