//! Measurements of the whole program, each beside a peer or a floor measured in the same run.
//!
//! `cargo bench --bench compare -- [throughput] [fractions] [small] [latency] [scale] [large] [idle]`; without a
//! word, all but `scale` and `large`, which take minutes and gigabytes. With `--features sql` also
//! `sql` and `sort`. Peers that are not
//! installed (`duckdb`, or the program that `DUCKDB` names; `python3`) are left out, and said so.

#![allow(missing_docs, clippy::pedantic, clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Job, has, median, memory, rustix_sync, timed};

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let all: [(&str, bool, fn()); 9] = [
        ("throughput", true, throughput),
        ("fractions", true, fractions),
        ("small", true, small),
        ("latency", true, latency),
        ("idle", true, idle),
        ("scale", false, scale),
        ("sql", false, sql),
        ("sort", false, sort),
        ("large", false, large),
    ];
    for (name, by_default, measure) in all {
        if wanted.iter().any(|word| word == name) || wanted.is_empty() && by_default {
            println!("\n# {name}");
            measure();
        }
    }
}

/// Numbers from 0 to 20 with all their digits, the same each time.
fn write_numbers(path: &Path, count: u64, below: f64) {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let mut state = 1u64;
    for _ in 0..count {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        writeln!(out, "{}", (state >> 11) as f64 / (1u64 << 53) as f64 * below).unwrap();
    }
    out.into_inner().unwrap().sync_all().unwrap();
}

/// Numbers below 20: most have at most sixteen digits after the point.
fn throughput() {
    one_file(20.0);
}

/// Numbers below 1: a third of them has more.
fn fractions() {
    one_file(1.0);
}

/// Ten million numbers in one file, everything durable, against DuckDB and the script.
fn one_file(below: f64) {
    let job = Job::new();
    let numbers = job.path("numbers");
    write_numbers(&numbers, 10_000_000, below);
    let bytes = fs::metadata(&numbers).unwrap().len() as f64 / 1e6;
    let mut ours = Vec::new();
    let mut duck = Vec::new();
    let duckdb = std::env::var("DUCKDB").unwrap_or_else(|_| "duckdb".to_owned());
    let sql = format!(
        "copy (select case when n < 10 then n * 100 else n end from read_csv('{}', header = false, \
         columns = {{'n': 'double'}})) to '{}' (header false)",
        numbers.display(),
        job.path("duck.txt").display()
    );
    let with_duckdb = has(&duckdb);
    for _ in 0..7 {
        let _ = fs::remove_file(job.path("output.txt"));
        let _ = fs::remove_dir_all(job.path("state"));
        fs::copy(&numbers, job.path("in/numbers")).unwrap();
        rustix_sync();
        ours.push(timed(job.command().arg("--once")));
        fs::remove_file(job.path("in/processed-numbers")).unwrap();
        if with_duckdb {
            let _ = fs::remove_file(job.path("duck.txt"));
            rustix_sync();
            duck.push(timed(Command::new(&duckdb).args(["-c", &sql]).stdout(Stdio::null())).0);
        }
    }
    let peak = ours.iter().map(|(_, peak)| *peak).fold(0.0, f64::max);
    let mut times: Vec<f64> = ours.into_iter().map(|(time, _)| time).collect();
    times.sort_by(f64::total_cmp);
    println!("run --once, all runs: {times:.2?} s");
    let ours = median(times);
    println!("run --once: {ours:.2} s, {:.0} MB/s, {peak:.0} MiB at most", bytes / ours);
    if with_duckdb {
        duck.sort_by(f64::total_cmp);
        println!("DuckDB, all runs: {duck:.2?} s");
        let duck = median(duck);
        println!("DuckDB:     {duck:.2} s; {:.1} times as long", duck / ours);
    } else {
        println!("DuckDB is not installed; set DUCKDB to its program");
    }
    if has("python3") {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/config/simple.py");
        let mut python = Command::new("python3");
        python.arg(script).stdin(File::open(&numbers).unwrap());
        let (python, _) = timed(python.stdout(File::create(job.path("python.txt")).unwrap()));
        println!("simple.py:  {python:.1} s; {:.0} times as long", python / ours);
        let same =
            fs::read(job.path("python.txt")).unwrap() == fs::read(job.path("output.txt")).unwrap();
        println!("same bytes as simple.py: {same}");
    }
}

/// Drops a file as a good uploader does.
fn drop_file(job: &Job, name: &str, content: &[u8]) {
    fs::write(job.path("upload"), content).unwrap();
    fs::rename(job.path("upload"), job.path("in").join(name)).unwrap();
}

fn ledger(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.query_row("PRAGMA journal_mode = wal", (), |_| Ok(())).unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection.execute("CREATE TABLE t (name TEXT, bytes BLOB)", ()).unwrap();
    connection
}

/// Two-line files against the bare system calls: open, read, rename, and for each 64 files one
/// commit and one fsync.
fn small() {
    const FILES: usize = 30_000;
    let content = b"1.5\n12.25\n";
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let job = Job::new();
        for number in 0..FILES {
            fs::write(job.path("in").join(format!("{number:06}")), content).unwrap();
        }
        rustix_sync();
        ours.push(timed(job.command().arg("--once")).0);
        assert_eq!(fs::read_to_string(job.path("output.txt")).unwrap().lines().count(), FILES * 2);
        let bare = Job::new();
        for number in 0..FILES {
            fs::write(bare.path("in").join(format!("{number:06}")), content).unwrap();
        }
        rustix_sync();
        floor.push(bare_system_calls(&bare, FILES));
    }
    let (ours, floor) = (FILES as f64 / median(ours), FILES as f64 / median(floor));
    println!("run --once:        {ours:.0} files/s");
    println!("bare system calls: {floor:.0} files/s; ratio {:.2}", ours / floor);
}

fn bare_system_calls(job: &Job, files: usize) -> f64 {
    let begun = Instant::now();
    let connection = ledger(&job.path("floor.db"));
    let output = File::create(job.path("output.txt")).unwrap();
    let mut end = 0;
    let names: Vec<String> = (0..files).map(|number| format!("{number:06}")).collect();
    for group in names.chunks(64) {
        let mut bytes = Vec::new();
        for name in group {
            let path = job.path("in").join(name);
            std::io::Read::read_to_end(&mut File::open(path).unwrap(), &mut bytes).unwrap();
        }
        connection.execute("INSERT INTO t VALUES (?, ?)", (&group[0], &bytes)).unwrap();
        output.write_all_at(&bytes, end).unwrap();
        output.sync_data().unwrap();
        end += bytes.len() as u64;
        for name in group {
            let folder = job.path("in");
            fs::rename(folder.join(name), folder.join(format!("processed-{name}"))).unwrap();
        }
    }
    begun.elapsed().as_secs_f64()
}

/// From the rename into the folder to `processed-*`, against one commit and one rename.
fn latency() {
    let job = Job::new();
    let times = latencies(&job, 300);
    let floor = commit_and_rename(&job, 300);
    println!("rename-in to processed-*: median {:.0} us", times * 1e6);
    println!("one commit and one rename: median {:.0} us; ratio {:.2}", floor * 1e6, times / floor);
}

fn latencies(job: &Job, files: usize) -> f64 {
    let mut child = job.command().spawn().unwrap();
    drop_file(job, "first", b"1\n");
    let begun = Instant::now();
    while !job.path("in/processed-first").exists() {
        assert!(begun.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut times = Vec::new();
    for number in 0..files {
        fs::write(job.path("upload"), "1\n").unwrap();
        let (from, to) = (job.path("upload"), job.path(&format!("in/f{number}")));
        let done = job.path(&format!("in/processed-f{number}"));
        std::thread::sleep(Duration::from_millis(5));
        let begun = Instant::now();
        fs::rename(from, to).unwrap();
        while !done.exists() {
            // Spinning would take one of the cores that the daemon needs.
            std::thread::sleep(Duration::from_micros(10));
        }
        times.push(begun.elapsed().as_secs_f64());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    median(times)
}

fn commit_and_rename(job: &Job, rounds: usize) -> f64 {
    let connection = ledger(&job.path("floor.db"));
    let mut times = Vec::new();
    for number in 0..rounds {
        let (from, to) = (job.path("upload"), job.path(&format!("floor{number}")));
        fs::write(&from, "1\n").unwrap();
        std::thread::sleep(Duration::from_millis(5));
        let begun = Instant::now();
        connection.execute("INSERT INTO t VALUES ('name', x'310a')", ()).unwrap();
        fs::rename(from, to).unwrap();
        times.push(begun.elapsed().as_secs_f64());
    }
    median(times)
}

/// What a daemon with nothing to do costs.
fn idle() {
    let job = Job::new();
    let mut child = job.command().spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let ticks = |child: &Child| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks(&child);
    std::thread::sleep(Duration::from_secs(20));
    println!(
        "{} ticks of 10 ms in 20 s, {:.1} MiB",
        ticks(&child) - before,
        memory(&child, "VmRSS:")
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A million waiting files; then the latency with a million done ones beside.
fn scale() {
    let job = Job::new();
    for number in 0..1_000_000 {
        fs::write(job.path("in").join(format!("input_{number:07}")), "1\n").unwrap();
    }
    rustix_sync();
    let begun = Instant::now();
    let mut child = job.command().arg("--once").spawn().unwrap();
    let (mut peak, mut first, mut half): (f64, _, _) = (0.0, None, None);
    while child.try_wait().unwrap().is_none() {
        let length = fs::metadata(job.path("output.txt")).map_or(0, |metadata| metadata.len());
        let now = begun.elapsed().as_secs_f64();
        first = first.or((length > 0).then_some(now));
        half = half.or((length > 3_000_000).then_some(now));
        peak = peak.max(memory(&child, "VmHWM:"));
        std::thread::sleep(Duration::from_millis(5));
    }
    let total = begun.elapsed().as_secs_f64();
    let (first, half) = (first.unwrap_or_default(), half.unwrap_or_default());
    println!("first commit after {first:.2} s, half after {half:.1} s, all after {total:.1} s");
    println!("{:.0} files/s, {peak:.0} MiB at most", 1e6 / total);
    let with = latencies(&job, 200);
    let without = latencies(&Job::new(), 200);
    println!(
        "latency with a million done files beside: {:.0} us, without: {:.0} us; ratio {:.2}",
        with * 1e6,
        without * 1e6,
        with / without
    );
}

/// One file of five gigabytes.
fn large() {
    let job = Job::new();
    write_numbers(&job.path("part"), 10_000_000, 20.0);
    let part = fs::read(job.path("part")).unwrap();
    let mut file = File::create(job.path("in/large")).unwrap();
    let parts = 5_000_000_000 / part.len() + 1;
    for _ in 0..parts {
        file.write_all(&part).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let (time, peak) = timed(job.command().arg("--once"));
    let megabytes = (parts * part.len()) as f64 / 1e6;
    println!(
        "{megabytes:.0} MB in {time:.1} s, {:.0} MB/s, {peak:.0} MiB at most",
        megabytes / time
    );
}

const ORDERS: &str = "[input]\ndirectory = \"in\"\nsettle = \"0s\"\n[input.format.csv]\n\
    [input.format.csv.columns]\nid = \"bigint\"\nproduct = \"varchar\"\nclass = \"varchar\"\n\
    price = \"double\"\nquantity = \"int\"\nts = \"timestamp\"\n\
    [transform.sql]\nquery = \"QUERY\"\n\
    [output]\npath = \"output.csv\"\n[output.format.csv]\n[state]\ndirectory = \"state\"\n";

const ORDERS_QUERY: &str = "select id, upper(product) as product, price * quantity * 1.19 as gross, ts \
    from input where class <> 'B' and price > 100";

fn write_orders(path: &Path, from: u64, rows: u64) {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    writeln!(out, "id,product,class,price,quantity,ts").unwrap();
    for id in from..from + rows {
        let h = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        writeln!(
            out,
            "{id},product number {},{},{}.{:02},{},2024-{:02}-{:02} {:02}:{:02}:{:02}",
            h % 5000,
            ["A", "B", "C", "D"][(h % 4) as usize],
            h % 1000,
            h % 100,
            h % 20,
            h % 12 + 1,
            h % 28 + 1,
            h % 24,
            h % 60,
            h / 7 % 60
        )
        .unwrap();
    }
    out.into_inner().unwrap().sync_all().unwrap();
}

/// CSV with six columns, filter and expressions, file to file: one of 500 MB, then a thousand of
/// ten lines.
fn sql() {
    let job = Job::new();
    fs::write(job.path("job.toml"), ORDERS.replace("QUERY", ORDERS_QUERY)).unwrap();
    let orders = job.path("orders.csv");
    write_orders(&orders, 0, 7_800_000);
    let megabytes = fs::metadata(&orders).unwrap().len() as f64 / 1e6;
    let duckdb = std::env::var("DUCKDB").unwrap_or_else(|_| "duckdb".to_owned());
    let types = "{'id':'bigint','product':'varchar','class':'varchar','price':'double','quantity':'int','ts':'timestamp'}";
    let statement = |from: &Path, to: &Path| {
        let input = format!("read_csv('{}', header = true, columns = {types})", from.display());
        let query = ORDERS_QUERY.replace("from input", &format!("from {input}"));
        format!("copy ({query}) to '{}' (header true)", to.display())
    };
    let (mut ours, mut duck) = (Vec::new(), Vec::new());
    let with_duckdb = has(&duckdb);
    for _ in 0..5 {
        let _ = fs::remove_file(job.path("output.csv"));
        let _ = fs::remove_dir_all(job.path("state"));
        fs::copy(&orders, job.path("in/orders.csv")).unwrap();
        rustix_sync();
        ours.push(timed(job.command().arg("--once")));
        fs::remove_file(job.path("in/processed-orders.csv")).unwrap();
        if with_duckdb {
            let _ = fs::remove_file(job.path("duck.csv"));
            rustix_sync();
            let sql = statement(&orders, &job.path("duck.csv"));
            duck.push(timed(Command::new(&duckdb).args(["-c", &sql]).stdout(Stdio::null())).0);
        }
    }
    let peak = ours.iter().map(|(_, peak)| *peak).fold(0.0, f64::max);
    let ours = median(ours.into_iter().map(|(time, _)| time).collect());
    println!("run --once: {ours:.2} s, {:.0} MB/s, {peak:.0} MiB at most", megabytes / ours);
    if with_duckdb {
        let duck = median(duck);
        println!("DuckDB:     {duck:.2} s; {:.1} times as long", duck / ours);
        let lines = |name: &str| {
            let text = fs::read_to_string(job.path(name)).unwrap();
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        println!("same records: {}", lines("output.csv") == lines("duck.csv"));
    }
    let job = Job::new();
    fs::write(job.path("job.toml"), ORDERS.replace("QUERY", ORDERS_QUERY)).unwrap();
    for number in 0..1000 {
        write_orders(&job.path(&format!("in/{number:04}")), number * 10, 10);
    }
    rustix_sync();
    let (time, _) = timed(job.command().arg("--once"));
    println!("a thousand files of ten lines: {:.0} a second", 1000.0 / time);
    if with_duckdb {
        let begun = Instant::now();
        for number in 0..20 {
            let sql =
                statement(&job.path(&format!("in/processed-{number:04}")), &job.path("duck.csv"));
            timed(Command::new(&duckdb).args(["-c", &sql]).stdout(Stdio::null()));
        }
        println!(
            "DuckDB, a process for each: {:.0} a second",
            20.0 / begun.elapsed().as_secs_f64()
        );
    }
}

/// A final sort of twenty million rows under 64 MiB.
fn sort() {
    let job = Job::new();
    let text = "[input]\ndirectory = \"in\"\nsettle = \"0s\"\nend_marker = \"EOF\"\nmax_record = \"1MiB\"\n\
        [input.format.numbers]\n[output]\npath = \"output.txt\"\n[output.format.numbers]\n\
        [state]\ndirectory = \"state\"\n[engine]\nmemory = \"64MiB\"\n\
        [[final]]\nquery = \"select * from output order by num\"\npath = \"sorted.txt\"\n";
    fs::write(job.path("job.toml"), text).unwrap();
    write_numbers(&job.path("in/a"), 20_000_000, 20.0);
    fs::write(job.path("in/b"), "EOF\n").unwrap();
    let (time, peak) = timed(job.command().arg("--once"));
    println!("20 million numbers taken and sorted: {time:.1} s, {peak:.0} MiB at most");
    let begun = Instant::now();
    let mut sorted = Command::new("sort");
    sorted.args(["-g", "-S", "64M"]).arg(job.path("output.txt"));
    let theirs = sorted_to(&mut sorted, &job.path("theirs.txt"));
    println!("sort -g alone: {:.1} s", begun.elapsed().as_secs_f64());
    assert!(theirs);
    let same =
        fs::read(job.path("theirs.txt")).unwrap() == fs::read(job.path("sorted.txt")).unwrap();
    println!("same bytes: {same}");
}

fn sorted_to(command: &mut Command, path: &Path) -> bool {
    command.stdout(File::create(path).unwrap()).env("LC_ALL", "C").status().unwrap().success()
}
