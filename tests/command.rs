//! The transform `command`: every clause of its contract.

use std::fs;

use crate::support::{Spool, has, skipped, wait_for};

fn shell(script: &str) -> Spool {
    shell_with(script, "")
}

fn shell_with(script: &str, more: &str) -> Spool {
    let argv = format!("[transform.command]\nargv = [\"sh\", \"-c\", {script:?}]\n{more}\n");
    Spool::new(&argv)
}

#[test]
fn the_filters_that_people_have_work_as_they_are() {
    for (program, argv, input, expected) in [
        ("sort", r#"["sort", "-n"]"#, "10\n9\n", "9\n10\n"),
        ("awk", r#"["awk", "{ print $1 * 2 }"]"#, "1\n2\n", "2\n4\n"),
        ("jq", r#"["jq", "-c", ".a"]"#, "{\"a\":1}\n{\"a\":[2]}\n", "1\n[2]\n"),
        ("python3", r#"["python3", "simple.py"]"#, "1\n20\n", "100.0\n20.0\n"),
    ] {
        if !has(program) {
            skipped(&format!("{program} is not installed"));
            continue;
        }
        let spool = Spool::new(&format!("[transform.command]\nargv = {argv}\n"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/config/simple.py");
        fs::copy(script, spool.path("simple.py")).unwrap();
        spool.drop_file("a", input);
        spool.run_once();
        assert_eq!(spool.output(), expected, "{program}");
        assert_eq!(spool.pipe("stream", &[], input.as_bytes()).stdout, expected.as_bytes());
    }
}

/// As `config/duckdb.toml` has it.
#[test]
fn duckdb_is_a_filter_too() {
    let Some(duckdb) = crate::support::duckdb() else { return };
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/duckdb.toml");
    let example: toml::Table = std::fs::read_to_string(example).unwrap().parse().unwrap();
    let mut transform = example["transform"].as_table().unwrap().clone();
    transform["command"]["argv"][0] = toml::Value::String(duckdb);
    let mut table = toml::Table::new();
    table.insert("transform".to_owned(), toml::Value::Table(transform));
    let spool = Spool::new(&table.to_string());
    spool.drop_file("orders_1", "product,price\nx,100\ny,-1\n\"z, z\",200\n");
    spool.drop_file("orders_2", "product,price\nw,10\n");
    spool.run_once();
    assert_eq!(spool.output(), "x,119.00\n\"z, z\",238.00\nw,11.90\n");
}

#[test]
fn standard_error_becomes_rejects() {
    let spool = shell("cat; echo one >&2; printf two >&2");
    spool.drop_file("a", "1\n");
    spool.run_once();
    assert_eq!(spool.output(), "1\n");
    let lines: Vec<serde_json::Value> =
        spool.rejects().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let raw: Vec<_> = lines.iter().map(|line| line["raw"].as_str().unwrap()).collect();
    assert_eq!(raw, ["one", "two"]);
    assert!(lines[0]["line"].is_null());
}

#[test]
fn output_counts_only_with_exit_code_0() {
    let spool = shell_with("cat; echo because >&2; echo run >> runs; exit 3", "attempts = 2");
    spool.drop_file("a", "1\n");
    spool.drop_file("b", "2\n");
    spool.run_once();
    assert_eq!((spool.output().as_str(), spool.rejects().as_str()), ("", ""));
    assert!(spool.names().contains("failed-a") && spool.names().contains("failed-b"));
    let report = spool.read("in/failed-a.error.json");
    assert!(report.contains("sh exited with 3: because"), "{report}");
    assert_eq!(spool.read("runs"), "run\n".repeat(4));
}

#[test]
fn a_failure_that_passes_is_tried_again() {
    let spool = shell("cat; mkdir once 2>/dev/null && exit 1; exit 0");
    spool.drop_file("a", "1\n");
    spool.run_once();
    assert_eq!(spool.output(), "1\n");
    spool.assert_names(&["processed-a"]);
}

#[test]
fn exit_code_75_asks_for_a_pause() {
    let spool = shell("cat; test -e ready || exit 75");
    spool.drop_file("a", "1\n");
    let daemon = spool.start();
    wait_for("the pause", || daemon.log().contains("asked to be tried later"));
    spool.assert_names(&["a"]);
    fs::write(spool.path("ready"), "").unwrap();
    wait_for("the file", || spool.names().contains("processed-a"));
    daemon.stop();
    assert_eq!(spool.output(), "1\n");
}

#[test]
fn a_command_that_hangs_is_ended_with_its_children() {
    for (script, more, said) in [
        (
            "sleep 1000 & echo $! > child; sleep 1000",
            "idle_timeout = \"200ms\"",
            "moved no byte within 200ms",
        ),
        (
            "echo $$ > child; while :; do echo x; done",
            "timeout = \"300ms\"",
            "did not finish within 300ms",
        ),
        ("trap '' TERM; echo $$ > child; sleep 1000", "idle_timeout = \"200ms\"", "moved no byte"),
    ] {
        let spool = shell_with(script, &format!("attempts = 1\n{more}"));
        spool.drop_file("a", "1\n");
        spool.run_once();
        let report = spool.read("in/failed-a.error.json");
        assert!(report.contains(said), "{report}");
        let child = spool.read("child");
        let gone = !fs::exists(format!("/proc/{}/root/.", child.trim())).unwrap_or(false)
            || fs::read_to_string(format!("/proc/{}/stat", child.trim()))
                .is_ok_and(|stat| stat.contains(") Z "));
        assert!(gone, "{child} is still there");
    }
}

/// Nobody knows whether a child that holds the output would have written more: a part is no whole.
#[test]
fn children_that_hold_the_output_are_waited_for_within_the_limits() {
    for redirected in ["", "> /dev/null", "2> /dev/null"] {
        let script = format!("cat; sleep 1000 < /dev/null {redirected} & echo $! > child");
        let spool = shell_with(&script, "idle_timeout = \"300ms\"\nattempts = 1");
        spool.drop_file("a", "1\n");
        spool.run_once();
        if redirected == "> /dev/null" {
            // It can only complain.
            assert_eq!(spool.output(), "1\n");
        } else {
            let report = spool.read("in/failed-a.error.json");
            assert!(report.contains("has not closed its pipes within 300ms"), "{report}");
            assert_eq!(spool.output(), "");
        }
        assert_gone(&spool.read("child"));
    }
}

/// What comes late, and who reads late, counts: process substitutions, children of sinks, in each driver.
#[test]
fn what_a_command_starts_is_waited_for() {
    if !has("bash") {
        return skipped("bash is not installed");
    }
    let late = "(read -r first; echo $first; sleep 1.5; cat)";
    for (script, made, said) in [
        (format!("exec > >({late}); cat"), "1\n2\n", ""),
        (format!("exec 2> >({late} >&2); tee /dev/stderr"), "1\n2\n", "12"),
        (format!("{late} <&0 > sunk 2> /dev/null & exec > /dev/null 2>&1"), "", ""),
    ] {
        let argv = format!("[transform.command]\nargv = [\"bash\", \"-c\", {script:?}]\n");
        let spool = Spool::new(&argv);
        spool.drop_file("a", "1\n2\n");
        spool.run_once();
        spool.assert_names(&["processed-a"]);
        assert_eq!(spool.output(), made, "{script}");
        let rejects = spool.rejects();
        let raw = rejects.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["raw"].as_str().unwrap().to_owned()
        });
        assert_eq!(raw.collect::<String>(), said, "{script}");
        if made.is_empty() {
            assert_eq!(spool.read("sunk"), "1\n2\n");
            continue;
        }
        for verb in ["batch", "stream"] {
            let arguments: &[&str] = if verb == "batch" { &["-", "--rejects", "-"] } else { &[] };
            let output = spool.pipe(verb, arguments, b"1\n2\n");
            assert!(output.status.success(), "{verb}: {output:?}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), made, "{verb} {script}");
        }
    }
}

/// What leaves the group is ended and reaped as well.
#[test]
fn nothing_outlives_its_command() {
    if !has("setsid") {
        return skipped("setsid is not installed");
    }
    // It ends while its child may be within execve(2), where nobody sees whose it is.
    for script in [
        "setsid sleep 1000 < /dev/null > /dev/null 2>&1 & echo $! > child; cat",
        "(setsid sh -c 'echo $$ > child; exec sleep 1000' < /dev/null > /dev/null 2>&1 &)
        until test -s child; do :; done; cat",
    ] {
        let spool = shell(script);
        spool.drop_file("a", "1\n");
        let daemon = spool.start();
        wait_for("the file", || spool.names().contains("processed-a"));
        assert_gone(&spool.read("child"));
        let children = format!("/proc/{0}/task/{0}/children", daemon.child.id());
        assert_eq!(fs::read_to_string(children).unwrap_or_default(), "");
        daemon.stop();
    }
}

/// A command that reads no more is fed no more, however much there is.
#[test]
fn a_command_that_stops_reading_ends_the_run() {
    for script in ["head -n 1", "exec 0<&-; echo y"] {
        let spool = shell(script);
        let mut endless =
            std::process::Command::new("yes").stdout(std::process::Stdio::piped()).spawn().unwrap();
        for verb in ["batch", "stream"] {
            let mut command = spool.command(verb);
            if verb == "batch" {
                command.arg("-");
            }
            let input = endless.stdout.take();
            let Some(input) = input else { break };
            let output = command.stdin(input).output().unwrap();
            assert!(output.status.success(), "{verb}: {output:?}");
            assert_eq!(output.stdout, b"y\n");
            let _ = endless.kill();
            endless.wait().unwrap();
            endless = std::process::Command::new("yes")
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
        }
        let _ = endless.kill();
        endless.wait().unwrap();
    }
}

/// True for a process that is gone, or only waits to be reaped.
#[track_caller]
fn assert_gone(child: &str) {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim()));
    assert!(stat.is_err() || stat.as_ref().unwrap().contains(") Z "), "{stat:?}");
}

/// Exit code 75 is about one file.
#[test]
fn a_file_that_is_to_be_tried_later_holds_up_no_other() {
    let spool = shell("x=$(cat); case $x in later*) test -e ready || exit 75;; esac; echo $x");
    for name in ["a", "b", "c"] {
        spool.drop_file(name, if name == "a" { "later\n".to_owned() } else { format!("{name}\n") });
    }
    let once = spool.run("run", &["--once"]);
    let said = String::from_utf8_lossy(&once.stderr);
    assert_eq!(once.status.code(), Some(1), "{said}");
    assert!(said.contains("asked to be tried later"), "{said}");
    spool.assert_names(&["a", "processed-b", "processed-c"]);
    let daemon = spool.start();
    wait_for("explain says why it waits", || {
        let said = spool.run("explain", &["a"]).stdout;
        String::from_utf8_lossy(&said).contains("asked to be tried later (exit code 75)")
    });
    daemon.stop();
    fs::write(spool.path("ready"), "").unwrap();
    spool.run_once();
    assert_eq!(spool.output(), "b\nc\nlater\n");
}

#[test]
fn pipes_of_any_size_do_not_hang() {
    let spool = shell("tee /dev/stderr");
    let input = "a line of some length, many times over\n".repeat(50_000);
    spool.drop_file("a", &input);
    spool.run_once();
    assert_eq!(spool.output(), input);
    assert_eq!(spool.rejects().lines().count(), 50_000);
}

#[test]
fn a_command_may_stop_reading_early() {
    let spool = shell("head -n 1");
    spool.drop_file("a", "1\n".repeat(200_000));
    spool.run_once();
    assert_eq!(spool.output(), "1\n");
    spool.assert_names(&["processed-a"]);
}

#[test]
fn a_stop_ends_the_command_and_leaves_the_file() {
    let spool = shell("touch started; sleep 1000");
    spool.drop_file("a", "1\n");
    let daemon = spool.start();
    wait_for("the command", || spool.path("started").is_file());
    daemon.stop();
    spool.assert_names(&["a"]);
}

#[test]
fn no_shell_ever_sees_the_arguments() {
    let spool = Spool::new("[transform.command]\nargv = [\"echo\", \"$HOME; rm -rf *\"]\n");
    spool.drop_file("a", "");
    spool.run_once();
    assert_eq!(spool.output(), "$HOME; rm -rf *\n");
}

#[test]
fn a_missing_program_is_a_configuration_error() {
    let spool = Spool::new("[transform.command]\nargv = [\"no-such-program\"]\n");
    for verb in ["run", "check", "stream", "batch"] {
        let output = spool.run(verb, &[]);
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{verb}: {log}");
        assert!(log.contains("transform.command.argv") && log.contains("no-such-program"), "{log}");
    }
}

/// After a pause, everything that was put off is taken.
#[test]
fn nothing_is_left_behind_after_a_pause() {
    let spool = shell("test -e ready || exit 75; cat");
    for number in 0..50 {
        spool.drop_file(format!("{number:02}"), format!("{number:02}\n"));
    }
    let daemon = spool.start();
    wait_for("the pause", || daemon.log().matches("asked to be tried later").count() > 50);
    fs::write(spool.path("ready"), "").unwrap();
    wait_for("all of them", || spool.names().iter().all(|name| name.starts_with("processed-")));
    daemon.stop();
    let output = spool.output();
    let mut lines: Vec<_> = output.lines().collect();
    lines.sort_unstable();
    let expected: Vec<String> = (0..50).map(|number| format!("{number:02}")).collect();
    assert_eq!(lines, expected);
}

/// A child that has left the group holds the pipe, and no limit reaches it; the daemon goes on.
#[test]
fn a_child_that_left_the_group_does_not_hold_the_daemon() {
    if !has("setsid") {
        return skipped("setsid is not installed");
    }
    let spool = shell_with("setsid sleep 100 & cat", "idle_timeout = \"200ms\"\nattempts = 1");
    spool.drop_file("a", "1\n");
    let begun = std::time::Instant::now();
    spool.run_once();
    assert!(begun.elapsed().as_secs() < 15);
}

/// Without a limit of the job there is none on what a command says.
#[test]
fn a_talkative_command_is_no_bad_file() {
    let spool = shell("cat; seq 6 >&2");
    spool.drop_file("a", "1\n");
    spool.run_once();
    spool.assert_names(&["processed-a"]);
    assert_eq!(spool.rejects().lines().count(), 6);
}

/// A command is given the very bytes of the file, and gives the very bytes of the output.
#[test]
fn a_command_is_given_the_file_as_it_is() {
    let spool = shell("od -An -v -tx1 | tr -d ' \\n'; echo");
    spool.drop_file("a", b"\xef\xbb\xbfa\r\n\xff\0\n\nlast");
    spool.run_once();
    assert_eq!(spool.output(), "efbbbf610d0aff000a0a6c617374\n");
}

/// Nothing of the daemon's own environment goes to a command, but what every program needs and what the
/// job names.
#[test]
fn a_command_has_the_environment_that_the_job_says() {
    let mut spool = shell_with(
        "env | grep -E '^(SPOOLMILL_FILE|SPOOLMILL_MICROBATCH|TOKEN|LEVEL|SECRET|PATH)=' | sort",
        "[transform.command.env]\nLEVEL = \"5\"\nTOKEN = { env = \"MY_TOKEN\" }\n",
    );
    spool.environment("MY_TOKEN", "t").environment("SECRET", "s");
    spool.environment("PATH", &std::env::var("PATH").unwrap());
    spool.drop_file("a b", "1\n");
    spool.run_once();
    let output = spool.output();
    let path = format!("PATH={}\n", std::env::var("PATH").unwrap());
    let expected = format!("LEVEL=5\n{path}SPOOLMILL_FILE=a b\nSPOOLMILL_MICROBATCH=1\nTOKEN=t\n");
    assert_eq!(output, expected);
}

/// A command that stops early says nothing of the file: it is read to its end, hashed and judged as a whole.
#[test]
fn a_file_is_judged_whole_whatever_the_command_reads() {
    let long = |end: &str| "1\n".repeat(2_000_000) + end;
    let spool = Spool::with_input(
        "settle = \"0s\"\nduplicates = \"skip\"",
        "[transform.command]\nargv = [\"head\", \"-n\", \"1\"]\n",
    );
    for (name, end) in [("a", "2\n"), ("b", "3\n")] {
        spool.drop_file(name, long(end));
        spool.run_once();
    }
    assert_eq!(spool.output(), "1\n1\n");
    assert_eq!(spool.ledger("SELECT min(read) FROM microbatch"), 2_000_001);
    assert!(spool.run("verify", &["--deep"]).status.success());
    // What is behind is judged, too.
    let spool = Spool::new(
        "[input.format.numbers]\n[transform.command]\nargv = [\"head\", \"-n\", \"1\"]\n\
         [rejects]\nmax_bad_ratio = 0.1\n",
    );
    spool.drop_file("a", "1\n".repeat(300_000) + &"bad\n".repeat(600_000));
    spool.run_once();
    assert!(spool.names().contains("failed-a"), "{:?}", spool.names());
}

/// A flood is ended by the limit, however busy this side is with it.
#[test]
fn a_command_without_end_is_ended_by_its_limit() {
    for script in ["yes", "yes >&2"] {
        let spool = shell_with(script, "timeout = \"1s\"\nattempts = 1");
        spool.drop_file("a", "1\n");
        let begun = std::time::Instant::now();
        spool.run_once();
        assert!(begun.elapsed().as_secs() < 20, "{script}: {:?}", begun.elapsed());
        let report = spool.read("in/failed-a.error.json");
        assert!(report.contains("did not finish within 1s"), "{report}");
    }
}

/// The end of the output is not the end of the input: a command may be a sink.
#[test]
fn a_stream_goes_on_into_a_sink() {
    let spool = shell("exec > /dev/null; wc -l > count");
    let output = spool.pipe("stream", &[], "1\n".repeat(500_000).as_bytes());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(spool.read("count").trim(), "500000");
}
