//! Standard descriptors and other pipes: who does not read, who does not write, who leaves, and what a signal
//! does meanwhile.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::support::spool::NUMBERS;
use crate::support::{DEADLINE, Spool, has, skipped, wait_for};

/// A job without an output of its own, so that rejects go to standard error.
fn plain(transform: &str) -> Spool {
    let spool = Spool::new(&format!("{NUMBERS}{transform}"));
    let text = spool.read("job.toml");
    let text =
        text.replace("path = \"output.txt\"\n", "").replace("path = \"rejects.jsonl\"\n", "");
    fs::write(spool.path("job.toml"), text).unwrap();
    spool
}

/// A pipe that is full.
fn full_pipe() -> (OwnedFd, File) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    let mut write = File::from(write);
    while write.write(&[b'\n'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&write, false).unwrap();
    (read, write)
}

/// A pipe to which nobody writes, and whose end does not come.
fn idle_pipe() -> (File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (File::from(read), write)
}

fn fifo(spool: &Spool, name: &str) {
    rustix::fs::mkfifoat(rustix::fs::CWD, spool.path(name), rustix::fs::Mode::RWXU).unwrap();
}

/// Ends by this signal, and says so.
#[track_caller]
fn ends_by(child: &mut Child, signal: Signal, what: &str) {
    rustix::process::kill_process(Pid::from_child(child), signal).unwrap();
    let status = within(child, what);
    assert_eq!(status.code(), Some(128 + signal.as_raw()), "{what}");
}

/// It is two seconds that are promised. A machine that is busy with something else may halt everything for longer;
/// whatever waits for somebody waits for ever.
#[track_caller]
fn within(child: &mut Child, what: &str) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > DEADLINE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{what}: still there after {DEADLINE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// True once the program has its handlers: it catches SIGTERM.
fn catches(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap_or("0").trim(), 16).unwrap_or(0);
    caught & (1 << (Signal::TERM.as_raw() - 1)) != 0
}

/// Each verb by each signal by each call that may wait for ever.
#[test]
fn a_signal_is_heard_in_whatever_waits() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let spool = plain("");
        spool.write_file("../lines", "1\n".repeat(100_000));
        fs::write(spool.path("bad"), "x\n".repeat(100_000)).unwrap();
        fifo(&spool, "fifo");
        fifo(&spool, "unread");
        let (_unread, full) = full_pipe();
        let (idle, _unwritten) = idle_pipe();
        let input = |name: &str| File::open(spool.path(name)).unwrap();
        let quiet = |mut command: Command| -> Command {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let verb = |name: &str, arguments: &[&str]| {
            let mut command = spool.command(name);
            command.args(arguments);
            quiet(command)
        };
        let stdout = || Stdio::from(full.try_clone().unwrap());
        let stdin = || Stdio::from(idle.try_clone().unwrap());
        let mut all: Vec<(&str, Command)> = Vec::new();
        let mut add = |what, set: &dyn Fn(&mut Command), mut command: Command| {
            set(&mut command);
            all.push((what, command));
        };
        add(
            "batch, full output",
            &|it| {
                it.stdout(stdout());
            },
            verb("batch", &["lines"]),
        );
        add(
            "batch, full errors",
            &|it| {
                it.stderr(stdout());
            },
            verb("batch", &["bad"]),
        );
        add(
            "batch, idle input",
            &|it| {
                it.stdin(stdin());
            },
            verb("batch", &["-"]),
        );
        add("batch, idle pipe", &|_| {}, verb("batch", &["fifo"]));
        add("batch, output that nobody reads", &|_| {}, verb("batch", &["lines", "-o", "unread"]));
        add("batch, a record without end", &|_| {}, verb("batch", &["/dev/zero"]));
        add(
            "stream, idle input",
            &|it| {
                it.stdin(stdin());
            },
            verb("stream", &[]),
        );
        add(
            "stream, full output",
            &|it| {
                it.stdin(input("lines")).stdout(stdout());
            },
            verb("stream", &[]),
        );
        add(
            "stream, full errors",
            &|it| {
                it.stdin(input("bad")).stderr(stdout());
            },
            verb("stream", &[]),
        );
        let mut split = Command::new(env!("CARGO_BIN_EXE_spoolmill"));
        split.args(["split", "-l", "1"]).arg(spool.path("in"));
        add(
            "split, idle input",
            &|it| {
                it.stdin(stdin());
            },
            quiet(split),
        );
        let mut running: Vec<_> =
            all.into_iter().map(|(what, mut command)| (what, command.spawn().unwrap())).collect();
        for (what, child) in &mut running {
            wait_for("its handlers", || catches(child));
            assert!(child.try_wait().unwrap().is_none(), "{what} does not wait");
        }
        // Until they have come to what they wait for.
        std::thread::sleep(Duration::from_millis(300));
        for (what, child) in &mut running {
            ends_by(child, signal, &format!("{what}, {signal:?}"));
        }
        assert!(
            !fs::read_dir(spool.path(""))
                .unwrap()
                .any(|entry| { entry.unwrap().file_name().to_string_lossy().ends_with(".tmp") })
        );
    }
}

/// The same of the daemon: in a record without end, before a log that nobody reads.
#[test]
fn the_daemon_hears_a_stop_whatever_it_reads() {
    let spool = Spool::new(NUMBERS);
    let endless = File::create(spool.path("endless")).unwrap();
    endless.set_len(100 << 30).unwrap();
    fs::rename(spool.path("endless"), spool.input("endless")).unwrap();
    let mut daemon = spool.start();
    wait_for("the start", || daemon.log().contains("watching"));
    // Until it reads.
    std::thread::sleep(Duration::from_millis(500));
    daemon.signal(Signal::TERM);
    assert!(within(&mut daemon.child, "the daemon").success());
    spool.assert_names(&["endless"]);

    fs::remove_file(spool.input("endless")).unwrap();
    let (_unread, full) = full_pipe();
    let mut child = spool.command("run").stderr(Stdio::from(full)).spawn().unwrap();
    spool.drop_file("a", "1\n");
    wait_for("a file, although nobody reads the log", || spool.names().contains("processed-a"));
    rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(within(&mut child, "with a full log").success());
}

/// Descriptors by state: what nobody reads but the output changes nothing.
#[test]
fn only_the_reader_of_the_output_ends_the_work_quietly() {
    let lines: String = (0..50_000)
        .map(|n| if n % 10 == 0 { "bad\n".to_owned() } else { format!("{n}\n") })
        .collect();
    let spool = plain("");
    fs::write(spool.path("lines"), &lines).unwrap();
    let closed = || {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        drop(read);
        Stdio::from(write)
    };
    let input = || Stdio::from(File::open(spool.path("lines")).unwrap());
    for verb in ["batch", "stream"] {
        let mut command = spool.command(verb);
        if verb == "batch" {
            command.arg("-");
        }
        let whole = command.stdin(input()).stderr(closed()).output().unwrap();
        assert!(whole.status.success(), "{verb}");
        assert_eq!(whole.stdout.iter().filter(|byte| **byte == b'\n').count(), 45_000, "{verb}");
        let left = command.stdin(input()).stdout(closed()).stderr(Stdio::piped()).output().unwrap();
        assert!(left.status.success(), "{verb}: {left:?}");
        let no_room = File::options().write(true).open("/dev/full").unwrap();
        let full = command.stdin(input()).stdout(Stdio::from(no_room)).output().unwrap();
        assert_eq!(full.status.code(), Some(1), "{verb}");
    }
    // What is made besides is made.
    let mut command = spool.command("batch");
    command.args(["-", "--rejects", "made.jsonl"]);
    let left = command.stdin(input()).stdout(closed()).stderr(Stdio::piped()).output().unwrap();
    assert!(left.status.success(), "{left:?}");
    assert_eq!(spool.read("made.jsonl").lines().count(), 5_000);
    // Verbs that only print.
    let job = Spool::new(NUMBERS);
    job.drop_file("a", "1\n");
    job.run_once();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["history"],
        &["history", "--json"],
        &["explain", "a"],
        &["check"],
        &["verify"],
    ] {
        let mut command = job.command(arguments[0]);
        let output = command.args(&arguments[1..]).stdout(closed()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

/// A descriptor that does not block is waited for, and stays as it is for others.
#[test]
fn a_descriptor_that_does_not_block_is_waited_for() {
    let spool = plain("");
    let lines = "1\n".repeat(200_000);
    for verb in ["batch", "stream"] {
        let mut command = spool.command(verb);
        if verb == "batch" {
            command.arg("-");
        }
        let (input, feed) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (read, output) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        for descriptor in [input.as_fd(), output.as_fd()] {
            rustix::io::ioctl_fionbio(descriptor, true).unwrap();
        }
        let mut child = command.stdin(input).stdout(output).spawn().unwrap();
        drop(command);
        let (mut feed, all) = (File::from(feed), lines.clone());
        let feeder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            feed.write_all(all.as_bytes()).unwrap();
        });
        std::thread::sleep(Duration::from_millis(600));
        let mut got = String::new();
        File::from(read).read_to_string(&mut got).unwrap();
        feeder.join().unwrap();
        assert!(child.wait().unwrap().success(), "{verb}");
        assert_eq!(got, "100.0\n".repeat(200_000), "{verb}");
    }
}

/// Output and errors that lead to an input would have no end.
#[test]
fn an_output_that_is_an_input_is_refused() {
    let spool = plain("");
    let append =
        |name: &str| File::options().append(true).create(true).open(spool.path(name)).unwrap();
    fs::write(spool.path("x"), "1\n").unwrap();
    for (arguments, is_error) in
        [(&["batch", "x"][..], false), (&["stream"], false), (&["batch", "x"], true)]
    {
        let mut command = spool.command(arguments[0]);
        command.args(&arguments[1..]).stdin(File::open(spool.path("x")).unwrap());
        if is_error {
            command.stderr(append("x"));
        } else {
            command.stdout(append("x"));
        }
        let status = command.output().unwrap().status;
        assert_eq!(status.code(), Some(1), "{arguments:?}");
        assert!(spool.read("x").starts_with("1\n"));
        fs::write(spool.path("x"), "1\n").unwrap();
    }
    // The output is in the folder, and is no input of it.
    spool.drop_file("a", "1\n");
    let out =
        File::options().write(true).create_new(true).mode(0o600).open(spool.input("out")).unwrap();
    assert!(spool.command("batch").stdout(out).status().unwrap().success());
    assert_eq!(spool.read("in/out"), "100.0\n");
}

/// Of a folder a batch takes what a daemon would that runs once, and of named files those that are whole.
#[test]
fn a_batch_takes_what_is_complete() {
    for (rule, names, named) in [
        ("[input.complete]\nmarker = \".done\"", &["b", "b.done"][..], Some(0)),
        ("[input.complete]\ntrailer = \"^9$\"", &[], Some(1)),
        ("[input.complete]\nlines = 2", &[], Some(1)),
        ("hard_links = \"wait\"", &[], Some(0)),
    ] {
        let (keys, tables) = if rule.starts_with('[') { ("", rule) } else { (rule, "") };
        let spool = Spool::with_input(
            &format!("settle = \"0s\"\nrecursive = true\n{keys}\n{tables}"),
            "[input.format.lines]\n",
        );
        fs::create_dir(spool.input("sub")).unwrap();
        for name in ["sub/a", "b"] {
            spool.drop_file(name.replace('/', "-"), "8\n9\n");
            fs::rename(spool.input(name.replace('/', "-")), spool.input(name)).unwrap();
        }
        spool.drop_file("c", "half\n");
        if rule.starts_with("hard") {
            fs::hard_link(spool.input("c"), spool.path("other")).unwrap();
        }
        for name in names.iter().filter(|name| name.ends_with("done")) {
            spool.drop_file(name, "");
        }
        let batch = spool.run("batch", &[]);
        let named_half = spool.run("batch", &["in/c"]);
        assert_eq!(named_half.status.code(), named, "{rule}");
        let once = spool.run("run", &["--once"]);
        assert!(batch.status.success(), "{rule}: {batch:?}");
        // A file that is too short is taken when the job ends; a marker may be missing for ever.
        let sorted = |bytes: &[u8]| {
            let mut lines: Vec<_> =
                bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            lines.sort();
            lines
        };
        let expected = fs::read(spool.path("output.txt")).unwrap_or_default();
        assert_eq!(sorted(&batch.stdout), sorted(&expected), "{rule}: {once:?}");
    }
}

/// A stream that is stopped takes its command with it; a signal that it was started to ignore is ignored.
#[test]
fn a_stopped_stream_leaves_nothing() {
    // The second leaves the group, and no parent waits for it.
    let scripts = [
        "echo $$ > child; exec sleep 1000",
        "setsid sleep 1000 & echo $! > child; exec sleep 1000",
    ];
    let signals = [Signal::TERM, Signal::INT, Signal::HUP];
    for (signal, script) in
        signals.into_iter().flat_map(|signal| scripts.map(|script| (signal, script)))
    {
        if script.contains("setsid") && !has("setsid") {
            skipped("setsid is not installed");
            continue;
        }
        let spool =
            Spool::new(&format!("[transform.command]\nargv = [\"sh\", \"-c\", {script:?}]\n"));
        let (idle, _unwritten) = idle_pipe();
        let mut stream = spool.command("stream").stdin(idle).stdout(Stdio::null()).spawn().unwrap();
        wait_for("the command", || {
            fs::read_to_string(spool.path("child")).is_ok_and(|pid| pid.ends_with('\n'))
        });
        ends_by(&mut stream, signal, "stream");
        let stat = fs::read_to_string(format!("/proc/{}/stat", spool.read("child").trim()));
        assert!(stat.is_err(), "{stat:?}");
    }
    let spool = plain("");
    let (idle, _unwritten) = idle_pipe();
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "trap '' HUP; exec \"$0\" stream -c job.toml",
        env!("CARGO_BIN_EXE_spoolmill"),
    ]);
    let mut stream = shell.current_dir(spool.path("")).stdin(idle).spawn().unwrap();
    wait_for("its handlers", || catches(&stream));
    rustix::process::kill_process(Pid::from_child(&stream), Signal::HUP).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(stream.try_wait().unwrap().is_none());
    ends_by(&mut stream, Signal::TERM, "stream");
}
