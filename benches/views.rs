//! Measurements of continuous views.
//!
//! `cargo bench --features sql --bench views -- [groups] [rate] [large]`; all without a word. Peers
//! that are not installed are left out: `duckdb`, or the program that `DUCKDB` names, and a Python with
//! `pyspark` that `SPARK_PYTHON` names.

#![allow(missing_docs, clippy::pedantic, clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Job, has, median, memory, rustix_sync, timed};

const EVENTS: &str = "[input]\ndirectory = \"in\"\nsettle = \"0s\"\n[input.format.csv]\n\
    [input.format.csv.columns]\nk = \"varchar\"\nn = \"bigint\"\nt = \"timestamp\"\n\
    [output]\npath = \"output.csv\"\n[output.format.csv]\n[state]\ndirectory = \"state\"\n\
    [event_time]\ncolumn = \"t\"\ndelay = \"10s\"\n";

const WINDOWED: &str = "[[view]]\nname = \"windows\"\nmode = \"append\"\npath = \"windows.csv\"\n\
    query = \"select window_start, k, count(*) as c, sum(n) as s \
    from tumble(output, t, interval '1 minute') group by window_start, k\"\n";

const BY_KEY: &str = "[[view]]\nname = \"keys\"\nmode = \"update\"\npath = \"keys.csv\"\n\
    query = \"select k, count(*) as c, sum(n) as s from output group by k\"\n";

const TOTALS: &str = "[[view]]\nname = \"totals\"\nmode = \"complete\"\npath = \"totals.csv\"\n\
    query = \"select k, count(*) as c, sum(n) as s from output group by k order by k\"\n";

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let all: [(&str, fn()); 3] = [("groups", groups), ("rate", rate), ("large", large)];
    for (name, measure) in all {
        if wanted.iter().any(|word| word == name) || wanted.is_empty() {
            println!("\n# {name}");
            measure();
        }
    }
}

/// The program to compare with.
fn duckdb() -> Option<String> {
    let duckdb = std::env::var("DUCKDB").unwrap_or_else(|_| "duckdb".to_owned());
    has(&duckdb).then_some(duckdb)
}

fn job(views: &str) -> Job {
    let job = Job::new();
    fs::write(job.path("job.toml"), format!("{EVENTS}{views}")).unwrap();
    job
}

/// Records of `keys` keys, a second of event time for each `per_second` of them, from record `from` on.
fn write_events(path: &Path, from: u64, rows: u64, keys: u64, per_second: u64) {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    writeln!(out, "k,n,t").unwrap();
    for id in from..from + rows {
        let h = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let second = id / per_second;
        let (day, hour) = (second / 86_400 % 28 + 1, second / 3600 % 24);
        let (minute, second) = (second / 60 % 60, second % 60);
        writeln!(
            out,
            "key number {},{},2024-01-{day:02} {hour:02}:{minute:02}:{second:02}",
            h % keys,
            h % 1000
        )
        .unwrap();
    }
    out.into_inner().unwrap().sync_all().unwrap();
}

/// What a microbatch of ten records costs with few groups held, and with many.
fn groups() {
    const FILES: u64 = 4000;
    let cost = |held: u64| {
        let job = job(BY_KEY);
        write_events(&job.path("in/0"), 0, held * 8, held, 1_000_000);
        timed(job.command().arg("--once"));
        let begin = timed(job.command().arg("--once")).0;
        for number in 0..FILES {
            let path = job.path(&format!("in/f{number:05}"));
            write_events(&path, held * 8 + number * 10, 10, held, 1_000_000);
        }
        rustix_sync();
        let (time, peak) = timed(job.command().arg("--once"));
        let each = (time - begin) / FILES as f64 * 1e3;
        println!("{held} groups: {each:.3} ms for each microbatch of ten, {peak:.0} MiB at most");
        each
    };
    let (few, many) = (cost(1_000), cost(200_000));
    println!("200 times the groups: {:.2} times the cost", many / few);
}

/// Microbatches a second with one windowed view, and from the rename into the folder to the result;
/// against the same job without it, and against Spark.
fn rate() {
    const FILES: u64 = 3000;
    for (what, views) in [("without a view", ""), ("with a windowed view", WINDOWED)] {
        let job = job(views);
        for number in 0..FILES {
            write_events(&job.path(&format!("in/f{number:05}")), number * 10, 10, 20, 2);
        }
        rustix_sync();
        let (time, peak) = timed(job.command().arg("--once"));
        println!("{what}: {:.0} files of ten a second, {peak:.0} MiB at most", FILES as f64 / time);
    }
    let job = job(WINDOWED);
    let mut daemon = job.command().spawn().unwrap();
    let mut times = Vec::new();
    for number in 0..200 {
        let before = fs::metadata(job.path("windows.csv")).map_or(0, |file| file.len());
        // Each closes the window of the one before: it is two minutes later.
        write_events(&job.path("upload"), number * 1200, 10, 5, 10);
        let begun = Instant::now();
        fs::rename(job.path("upload"), job.path(&format!("in/f{number:05}"))).unwrap();
        while number > 0
            && fs::metadata(job.path("windows.csv")).map_or(0, |file| file.len()) == before
        {
            assert!(begun.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_micros(50));
        }
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        while !job.path(&format!("in/processed-f{number:05}")).exists() {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    println!(
        "from the rename to the window that it closes: {:.2} ms, {:.0} MiB",
        median(times.split_off(1)),
        memory(&daemon, "VmRSS:")
    );
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    spark();
}

/// The same windows, by a stream over a folder, a file for each microbatch.
const SPARK: &str = r#"
import os, sys, time
from pyspark.sql import SparkSession, functions as F
folder, files = sys.argv[1], int(sys.argv[2])
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false") \
    .config("spark.sql.shuffle.partitions", "2").getOrCreate()
spark.sparkContext.setLogLevel("ERROR")
rows = spark.readStream.schema("k string, n long, t timestamp").option("header", True) \
    .option("maxFilesPerTrigger", int(sys.argv[3])).csv(folder + "/in")
out = rows.withWatermark("t", "10 seconds").groupBy(F.window("t", "1 minute"), "k") \
    .agg(F.count("*").alias("c"), F.sum("n").alias("s")).select("window.start", "k", "c", "s")
begun = time.time()
query = out.writeStream.outputMode("append").format("csv").option("path", folder + "/out") \
    .option("checkpointLocation", folder + "/check").trigger(availableNow=True).start()
query.awaitTermination()
took = time.time() - begun
batches = [p["batchDuration"] for p in query.recentProgress if p["numInputRows"] > 0]
batches.sort()
print(f"Spark, {sys.argv[3]} files for each microbatch: {files / took:.1f} files a second, "
      f"{batches[len(batches) // 2]} ms for each microbatch")
"#;

fn spark() {
    let Some(python) = std::env::var("SPARK_PYTHON").ok().filter(|python| has(python)) else {
        println!("Spark: SPARK_PYTHON names no Python with pyspark");
        return;
    };
    for per_trigger in [1_u64, 256] {
        let files = per_trigger.max(60) * if per_trigger > 1 { 4 } else { 1 };
        let job = Job::new();
        for number in 0..files {
            write_events(&job.path(&format!("in/f{number:05}")), number * 10, 10, 20, 2);
        }
        fs::write(job.path("spark.py"), SPARK).unwrap();
        let mut command = Command::new(&python);
        command.arg(job.path("spark.py")).arg(job.path("")).arg(files.to_string());
        command.arg(per_trigger.to_string()).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
    }
}

/// One file of 100 MB into a view with 100,000 groups, against DuckDB computing it once.
fn large() {
    let job = job(TOTALS);
    let events = job.path("events.csv");
    write_events(&events, 0, 2_500_000, 100_000, 1000);
    let megabytes = fs::metadata(&events).unwrap().len() as f64 / 1e6;
    let sql = format!(
        "copy (select k, count(*) as c, sum(n)::bigint as s from read_csv('{}', header = true, columns = \
         {{'k':'varchar','n':'bigint','t':'timestamp'}}) group by k order by k) to '{}' (header true)",
        events.display(),
        job.path("duck.csv").display()
    );
    let (mut ours, mut duck, duckdb) = (Vec::new(), Vec::new(), duckdb());
    for _ in 0..5 {
        for name in ["output.csv", "totals.csv", "in/processed-events"] {
            let _ = fs::remove_file(job.path(name));
        }
        let _ = fs::remove_dir_all(job.path("state"));
        fs::copy(&events, job.path("in/events")).unwrap();
        rustix_sync();
        ours.push(timed(job.command().arg("--once")));
        if let Some(duckdb) = &duckdb {
            rustix_sync();
            duck.push(timed(Command::new(duckdb).args(["-c", &sql]).stdout(Stdio::null())).0);
        }
    }
    let peak = ours.iter().map(|(_, peak)| *peak).fold(0.0, f64::max);
    let ours = median(ours.into_iter().map(|(time, _)| time).collect());
    println!("{megabytes:.0} MB, output and view, durable: {ours:.2} s, {peak:.0} MiB at most");
    if duckdb.is_some() {
        let duck = median(duck);
        println!("DuckDB, the aggregate alone: {duck:.2} s; {:.2} times as long", duck / ours);
        let same =
            fs::read(job.path("totals.csv")).unwrap() == fs::read(job.path("duck.csv")).unwrap();
        println!("same result: {same}");
    }
}
