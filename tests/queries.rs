//! What queries are around: reference tables, finals, and results that no format can hold.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::spool::Daemon;
use crate::support::{Spool, wait_for};

const IDS: &str =
    "[input.format.csv]\nheader = false\n[input.format.csv.columns]\nid = \"bigint\"\n";

/// A job over `id` with this query and more, and CSV as its output.
fn job(query: &str, more: &str) -> Spool {
    Spool::new(&configuration(query, more))
}

fn configuration(query: &str, more: &str) -> String {
    format!(
        "{IDS}[transform.sql]\nquery = '''{query}'''\n[output]\npath = \"output.txt\"\n\
         [output.format.csv]\n{more}"
    )
}

fn take(spool: &Spool, name: &str, content: &str) {
    spool.drop_file(name, content);
    wait_for("the file", || spool.names().contains(&format!("processed-{name}")));
}

/// What a verb says when it is refused.
fn refused(spool: &Spool, verb: &str) -> String {
    let output = spool.run(verb, &[]);
    assert!(!output.status.success(), "{verb}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn reason(spool: &Spool, name: &str) -> String {
    let report = spool.read(&format!("in/failed-{name}.error.json"));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    report["reason"].as_str().unwrap().to_owned()
}

const NAMES: &str = "[[table]]\nname = \"names\"\npath = \"names.csv\"\n";

/// Half of a table is a table too, as long as nobody can tell that more is to come.
#[test]
fn a_table_that_is_written_in_place_counts_when_it_is_left_alone() {
    let spool = job("select i.id, n.name from input i left join names n on n.id = i.id", NAMES);
    let table = spool.path("names.csv");
    fs::write(&table, "id,name\n1,one\n2,two\n").unwrap();
    let daemon = spool.start();
    take(&spool, "a", "2\n");
    fs::write(&table, "id,name\n1,uno\n").unwrap();
    let half = Instant::now();
    take(&spool, "b", "2\n");
    // On a machine that stood still for a second the half would be right.
    let was_quick = half.elapsed() < Duration::from_secs(1);
    fs::write(&table, "id,name\n1,uno\n2,due\n").unwrap();
    let mut number = 0;
    wait_for("the new table", || {
        number += 1;
        take(&spool, &format!("c{number}"), "2\n");
        spool.output().ends_with("2,due\n")
    });
    daemon.stop();
    assert!(
        !was_quick || spool.output().starts_with("id,name\n2,two\n2,two\n"),
        "{}",
        spool.output()
    );
}

#[test]
fn tables_that_only_fit_together_change_together() {
    let query =
        "select i.id, a.x = b.x as same from input i join a on a.id = i.id join b on b.id = i.id";
    let tables =
        "[[table]]\nname = \"a\"\npath = \"a.csv\"\n[[table]]\nname = \"b\"\npath = \"b.csv\"\n";
    let spool = job(query, tables);
    let replace = |name: &str, content: &str| {
        fs::write(spool.path("new"), content).unwrap();
        fs::rename(spool.path("new"), spool.path(name)).unwrap();
    };
    replace("a.csv", "id,x\n1,true\n");
    replace("b.csv", "id,x\n1,false\n");
    let daemon = spool.start();
    take(&spool, "f1", "1\n");
    // A date cannot be compared with a truth.
    replace("a.csv", "id,x\n1,false24-01-01\n");
    take(&spool, "f2", "1\n");
    wait_for("the complaint", || daemon.log().contains("the old one stays"));
    replace("b.csv", "id,x\n1,false24-01-01\n");
    take(&spool, "f3", "1\n");
    // A table that cannot be used does not hold back one that can.
    replace("a.csv", "id,x\n1,false24-01-02\n");
    replace("b.csv", "id,y\n1,2\n");
    take(&spool, "f4", "1\n");
    let log = daemon.stop();
    assert_eq!(spool.output(), "id,same\n1,false\n1,false\n1,true\n1,false\n", "{log}");
}

#[test]
fn each_table_has_a_name_of_its_own() {
    for (name, twice, expected) in [
        ("names", NAMES, "found `names` twice"),
        ("input", "", "the job's own table"),
        ("output", "", "the job's own table"),
    ] {
        let table = NAMES.replace("\"names\"", &format!("\"{name}\""));
        let spool = job("select id from input", &format!("{table}{twice}"));
        fs::write(spool.path("names.csv"), "id\n1\n").unwrap();
        let said = refused(&spool, "check");
        assert!(said.contains(expected) && said.contains("table.name"), "{said}");
    }
}

/// Over a large file the table of a join is made once, and the records keep their order.
#[test]
fn a_join_over_a_large_file_keeps_its_order() {
    let spool = job("select i.id, n.name from input i join names n on n.id = i.id % 3", NAMES);
    fs::write(spool.path("names.csv"), "id,name\n0,zero\n1,one\n").unwrap();
    let ids: String = (0..400_000).map(|id| format!("{id}\n")).collect();
    spool.drop_file("a", ids);
    spool.run_once();
    let rows = (0..400_000).filter(|id| id % 3 != 2);
    let rows: String = rows.map(|id| format!("{id},{}\n", ["zero", "one"][id % 3])).collect();
    assert!(spool.output() == format!("id,name\n{rows}"), "{} bytes", spool.output().len());
}

/// A stop does not wait for a query that would take hours.
#[test]
fn a_long_query_hears_a_stop() {
    let spool =
        job("select count(*) as n from input a, input b, input c where a.id + b.id + c.id = 7", "");
    let ids: String = (0..20_000).map(|id| format!("{id}\n")).collect();
    let daemon = spool.start();
    spool.drop_file("a", ids);
    wait_for("the query", || in_use(&daemon));
    daemon.stop();
    assert_eq!(spool.output(), "");
    spool.assert_names(&["a"]);
}

/// True when the program has worked for more than a second of processor time.
fn in_use(daemon: &Daemon) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks > 100
}

#[test]
fn what_a_format_cannot_hold_is_no_record() {
    for (format, query, expected) in [
        ("lines", "select 'a\nb' as line from input", "a text with a line end in it"),
        ("csv", "select to_timestamp_seconds(id * 9000000000000000) as t from input", "Timestamp"),
        ("json", "select to_timestamp_seconds(id * 9000000000000000) as t from input", "Timestamp"),
    ] {
        let spool = Spool::new(
            &configuration(query, "")
                .replace("[output.format.csv]", &format!("[output.format.{format}]")),
        );
        spool.drop_file("a", "1\n");
        spool.run_once();
        let reason = reason(&spool, "a");
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(spool.output(), "");
    }
}

/// The engine gives up on some values. What it has given by then is not the result.
#[test]
fn a_query_that_panics_sets_its_file_aside() {
    let rows = "1\n2\n-5\n4\n";
    let wide = "select id, lpad('x', id) as x from input";
    for query in [
        wide.to_owned(),
        format!("{wide} order by id"),
        format!("select id, 'y' as x from input union all {wide}"),
    ] {
        let spool = job(&query, "");
        spool.drop_file("a", rows);
        spool.drop_file("b", "3\n");
        spool.run_once();
        let reason = reason(&spool, "a");
        assert!(reason.contains("the engine gave up"), "{query}: {reason}");
        assert!(spool.output().ends_with("3,\"  x\"\n"), "{query}: {}", spool.output());
        assert!(!spool.output().contains("1,"), "{query}");
        assert!(!spool.run("batch", &["in/failed-a"]).status.success(), "{query}");
    }
    let wide = wide.replace("input", "output");
    let finals = format!("[[final]]\nquery = \"{wide} order by id\"\npath = \"final\"\n");
    let spool = ending("select id from input", &finals);
    fs::write(spool.path("final"), "old").unwrap();
    spool.drop_file("a", format!("{rows}END\n"));
    assert!(!spool.run("run", &["--once"]).status.success());
    assert_eq!(spool.read("final"), "old");
}

#[test]
fn a_binary_value_is_a_line_too() {
    let query = "select arrow_cast(case id when 1 then 'a' when 3 then 'b\nc' end, 'Binary') as line from input";
    let text = configuration(query, "").replace("[output.format.csv]", "[output.format.lines]");
    let spool = Spool::new(&text);
    spool.drop_file("a", "1\n2\n");
    spool.drop_file("b", "3\n");
    spool.run_once();
    assert_eq!(spool.output(), "a\n\n");
    assert!(reason(&spool, "b").contains("a line end in it"));
}

#[test]
fn a_reload_with_a_broken_table_keeps_the_old_one() {
    let spool = job("select i.id, n.name from input i join names n on n.id = i.id", NAMES);
    fs::write(spool.path("names.csv"), "id,name\n1,one\n").unwrap();
    let daemon = spool.start();
    take(&spool, "a", "1\n");
    fs::write(spool.path("names.csv"), "id,name\n1,one,more\n").unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    wait_for("the complaint", || daemon.log().contains("was not reloaded"));
    take(&spool, "b", "1\n");
    daemon.stop();
    assert_eq!(spool.output(), "id,name\n1,one\n1,one\n");
}

#[test]
fn two_columns_of_one_name_are_refused() {
    let said = refused(&job("select id, id + 1 as id from input", ""), "check");
    assert!(said.contains("ambiguous"), "{said}");
    let query = "select a.id, b.id from input a join input b on a.id = b.id";
    let said = refused(&job(query, ""), "check");
    assert!(said.contains("two columns are called `id`"), "{said}");
}

#[test]
fn an_output_with_other_columns_is_not_continued() {
    let spool = job("select id from input", "");
    spool.drop_file("a", "1\n");
    spool.run_once();
    spool.configure("settle = \"0s\"", &configuration("select id, 2 as two from input", ""));
    spool.drop_file("b", "2\n");
    let output = spool.run("run", &["--once"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("output.path") && said.contains("id,two"), "{said}");
    assert_eq!(spool.output(), "id\n1\n");
    fs::rename(spool.path("output.txt"), spool.path("old")).unwrap();
    spool.run_once();
    assert_eq!(spool.output(), "id,two\n2,2\n");
}

#[test]
fn the_time_is_heard_in_quotes_too() {
    let spool = job("select \"now\"() > timestamp '2020-01-01' as late, id from input", "");
    spool.drop_file("a", "1\n");
    spool.run_once();
    let query = "select arrow_cast(\"now\"(), 'Timestamp(Millisecond, None)') as t from input";
    let spool = job(query, "");
    let daemon = spool.start();
    take(&spool, "a", "1\n");
    take(&spool, "b", "1\n");
    daemon.stop();
    let times: Vec<String> = spool.output().lines().map(str::to_owned).collect();
    assert!(times[1] != times[2], "{times:?}");
}

#[test]
fn a_json_value_goes_into_a_text_as_it_stands() {
    let spool = Spool::new(
        "[input.format.json]\n[input.format.json.columns]\nt = \"varchar\"\n\
         [output]\npath = \"output.txt\"\n[output.format.json]\n",
    );
    spool.drop_file(
        "a",
        "{\"t\":{\"a\": [1, \"x\"]}}\n{\"t\":12.50}\n{\"t\":true}\n{\"t\":null}\n{\"t\":\"\"}\n\
         {\"t\":\"\\u00e9\\\"\"}\n{\"x\":1,\"y\":2,\"x\":3}\n{\"t\":\"a\u{1}\"}\n{\"t\":\"\\ud800\"}\n",
    );
    spool.run_once();
    assert_eq!(
        spool.output(),
        "{\"t\":\"{\\\"a\\\": [1, \\\"x\\\"]}\"}\n{\"t\":\"12.50\"}\n{\"t\":\"true\"}\n{\"t\":null}\n\
         {\"t\":\"\"}\n{\"t\":\"\u{e9}\\\"\"}\n"
    );
    let rejects = spool.rejects();
    assert!(rejects.contains("the key `x` stands twice"), "{rejects}");
    assert_eq!(rejects.lines().count(), 3, "{rejects}");
}

#[test]
fn a_sample_is_read_as_the_input_will_be() {
    let spool = Spool::new("");
    fs::write(spool.path("s.csv"), "id, name ,\"x\"\n1,n,1.5\n").unwrap();
    fs::write(spool.path("s.jsonl"), "{\"a\":{\"b\":1}}\n").unwrap();
    fs::write(spool.path("s.txt"), "1\n").unwrap();
    let infer = |sample: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spoolmill"));
        command.args(["check", "--infer"]).arg(spool.path(sample)).output().unwrap()
    };
    let stanza = String::from_utf8(infer("s.csv").stdout).unwrap();
    assert!(stanza.contains("\nname = \"varchar\"\n"), "{stanza}");
    let job = Spool::new(
        &format!("{stanza}[output.format.csv]\n")
            .replace("[output.format.csv]", "[output]\npath = \"output.txt\"\n[output.format.csv]"),
    );
    job.drop_file("a", fs::read(spool.path("s.csv")).unwrap());
    job.run_once();
    assert_eq!(job.output(), "id,name,x\n1,n,1.5\n");
    let stanza = String::from_utf8(infer("s.jsonl").stdout).unwrap();
    assert!(stanza.contains("a = \"varchar\""), "{stanza}");
    let output = infer("s.txt");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("expected a name that ends in .csv"),
        "{said}"
    );
}

fn ending(query: &str, finals: &str) -> Spool {
    Spool::with_input("settle = \"0s\"\nend_marker = \"END\"", &configuration(query, finals))
}

const FINAL: &str =
    "[[final]]\nquery = \"select * from output order by id desc\"\npath = \"final\"\n";

#[test]
fn a_final_reads_back_whatever_was_written() {
    let text = "x".repeat(3 << 20);
    let query = format!(
        "select id, case id when 1 then repeat('y\n', 5000) when 2 then '{text}' when 3 then '' end as t, \
         cast(id as decimal(9,2)) * 1000 as d from input"
    );
    let spool = ending(&query, FINAL);
    spool.drop_file("a", "1\n2\n3\n4\nEND\n");
    spool.run_once();
    let lines = "y\n".repeat(5000);
    let expected =
        format!("id,t,d\n4,,4000.00\n3,\"\",3000.00\n2,{text},2000.00\n1,\"{lines}\",1000.00\n");
    assert!(
        spool.read("final") == expected,
        "{} of {} bytes",
        spool.read("final").len(),
        expected.len()
    );
}

#[test]
fn a_final_that_fails_does_not_stop_the_next_start() {
    let spool = ending(
        "select id from input",
        "[[final]]\nquery = \"select 1 / id as x from output\"\npath = \"final\"\n",
    );
    spool.drop_file("a", "1\n0\nEND\n");
    let output = spool.run("run", &["--once"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("ivide by zero"), "{said}");
    assert!(!spool.path("final").exists());
    assert_eq!(spool.ledger("SELECT count(*) FROM ended"), 1);
    // What was committed is archived, and what comes is taken.
    spool.drop_file("b", "2\n");
    spool.run("run", &["--once"]);
    assert!(spool.names().contains("processed-b"), "{:?}", spool.names());
    assert_eq!(spool.output(), "id\n1\n0\n2\n");
}

#[test]
fn a_final_joins_with_the_table_as_it_is_then() {
    let query = "select o.id, n.name from output o join names n on n.id = o.id";
    let finals = format!("{NAMES}[[final]]\nquery = \"{query}\"\npath = \"final\"\n");
    let spool = ending("select id from input", &finals);
    let replace = |content: &str| {
        fs::write(spool.path("new"), content).unwrap();
        fs::rename(spool.path("new"), spool.path("names.csv")).unwrap();
    };
    replace("id,name\n1,old\n");
    let daemon = spool.start();
    take(&spool, "a", "1\n");
    replace("id,name\n1,new\n");
    spool.drop_file("b", "END\n");
    let (status, log) = daemon.wait();
    assert!(status.success(), "{log}");
    assert_eq!(spool.read("final"), "id,name\n1,new\n");
}

#[test]
fn a_final_needs_columns_that_are_known() {
    let command = "[input.format.lines]\n[transform.command]\nargv = [\"cat\"]\n";
    let text = format!("{command}[output]\npath = \"output.txt\"\n[output.format.csv]\n");
    let finals = "[[final]]\nquery = \"select * from output\"\npath = \"final\"\n";
    let said = refused(&Spool::new(&format!("{text}{finals}")), "check");
    assert!(said.contains("a command can write `lines`"), "{said}");
    let text = text.replace(".csv]", ".lines]");
    let spool = Spool::with_input(
        "settle = \"0s\"\nend_marker = \"END\"",
        &format!("{text}{}", finals.replace("*", "upper(line) as line")),
    );
    spool.drop_file("a", "b\nEND\n");
    spool.run_once();
    assert_eq!(spool.read("final"), "B\n");
}

#[test]
fn a_final_stays_outside_the_drop_folder() {
    let said = refused(
        &ending("select id from input", &FINAL.replace("\"final\"", "\"in/final\"")),
        "check",
    );
    assert!(said.contains("final.path") && said.contains("inside `input.directory`"), "{said}");
}

#[test]
fn what_is_read_twice_has_to_fit_in_memory() {
    let query = "select a.id from input a join input b on a.id = b.id";
    let spool = Spool::with_input(
        "settle = \"0s\"\nmax_record = \"1MiB\"",
        &configuration(query, "[engine]\nmemory = \"32MiB\"\n"),
    );
    let ids: String = (0..6_000_000).map(|id| format!("{}\n", id % 10)).collect();
    spool.drop_file("a", ids);
    spool.drop_file("b", "1\n");
    spool.run_once();
    let reason = reason(&spool, "a");
    assert!(reason.contains("reads its input more than once"), "{reason}");
    assert_eq!(spool.output(), "id\n1\n");
}

#[test]
fn limits_of_csv_are_said() {
    let spool = Spool::with_input(
        "settle = \"0s\"\nmax_record = \"600MiB\"",
        &configuration("select id from input", "[engine]\nmemory = \"2GiB\"\n"),
    );
    let said = refused(&spool, "check");
    assert!(said.contains("511MiB"), "{said}");
    let csv = "[input.format.csv]\n[input.format.csv.columns]\nid = \"bigint\"\n";
    let spool = Spool::with_input(
        "settle = \"0s\"\nmax_record = \"100B\"",
        &format!("{csv}[output]\npath = \"output.txt\"\n[output.format.csv]\n"),
    );
    spool.drop_file("a", format!("id,{}\n1,2\n", "x".repeat(200)));
    spool.run_once();
    assert!(reason(&spool, "a").contains("the header is too long"), "{}", reason(&spool, "a"));
}

/// A byte order mark may come in pieces.
#[test]
fn a_stream_skips_a_byte_order_mark() {
    use std::io::Write as _;
    let spool = Spool::new("[input.format.numbers]\n[transform.none]\n[output.format.numbers]\n");
    let mut command = spool.command("stream");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for byte in b"\xef\xbb\xbf7\n" {
        stdin.write_all(&[*byte]).unwrap();
        stdin.flush().unwrap();
        std::thread::yield_now();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "7.0\n");
}
