//! What holds for a source of messages, and not for a folder of files: an order that nothing may break, and no
//! file that could be set aside.

use std::fs;

use crate::support::spool::NUMBERS;
use crate::support::{Spool, wait_for};

/// The drop folder is read as partitions: each file is one, each line a message (`src/source/log.rs`).
fn partitions(configuration: &str) -> Spool {
    let mut spool = Spool::new(configuration);
    spool.always("SPOOLMILL_SOURCE", "log");
    spool
}

/// Whatever waits, nothing that was taken after it is committed before it; a large range, which waits to be a
/// group of its own, among them.
#[test]
fn what_comes_after_messages_that_wait_waits_too() {
    let script = "read first; test \"$first\" != 0 -o -e ready || exit 75; echo $first; cat";
    let argv = format!("[transform.command]\nargv = [\"sh\", \"-c\", {script:?}]\n");
    let spool = partitions(&argv);
    let short: String = (0..5_000).map(|number| format!("{number}\n")).collect();
    let long: String =
        (0..5_000).map(|number| format!("{number} {}\n", "x".repeat(1_000))).collect();
    let content = format!("{short}{long}{short}");
    spool.drop_file("0", &content);
    let daemon = spool.start();
    wait_for("it is put off", || daemon.log().contains("it waits"));
    fs::write(spool.path("ready"), "").unwrap();
    wait_for("all is acknowledged", || spool.read("in/acknowledged").contains("0 15000"));
    assert_eq!(spool.output(), content);
    assert_eq!(spool.read("in/acknowledged"), "0 5000\n0 10000\n0 15000\n");
    daemon.stop();
}

/// Messages cannot be set aside: the job stops, nothing is committed, and nothing acknowledged.
#[test]
fn messages_that_fail_stop_the_job() {
    let strict = format!("{NUMBERS}[rejects]\non_bad_record = \"quarantine\"\n");
    let spool = partitions(&strict);
    spool.drop_file("0", "1\nbad\n");
    for _ in 0..2 {
        let output = spool.run("run", &["--once"]);
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{log}");
        assert!(log.contains("the messages 0@0-2 cannot be processed: line 2: "), "{log}");
        assert_eq!((spool.output(), spool.read("in/acknowledged")), (String::new(), String::new()));
    }
    let job = spool.read("job.toml").replace("\"quarantine\"", "\"reject\"");
    fs::write(spool.path("job.toml"), job).unwrap();
    spool.run_once();
    assert_eq!(spool.read("in/acknowledged"), "0 2\n");
}
