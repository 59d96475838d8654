//! SQL as the transform, and the formats csv and json: one verdict for each record, one plan for
//! each job.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::Stdio;

use proptest::prelude::*;
use spoolmill::decode::frame::{Framer, Framing, Kind};
use spoolmill::decode::{Decoder, Format};

use crate::support::{Spool, wait_for};

const CSV: &str = "[input.format.csv]\n[input.format.csv.columns]\n\
    id = \"bigint\"\nname = \"varchar\"\nprice = \"double\"\nday = \"date\"\n";

const JSON: &str = "[input.format.json]\n[input.format.json.columns]\n\
    id = \"bigint\"\nname = \"varchar\"\nprice = \"decimal(8,2)\"\nat = \"timestamp\"\nok = \"boolean\"\n";

/// A job with this input, this query, and CSV as its output.
fn job(input: &str, query: &str, more: &str) -> Spool {
    let sql = format!("{input}[transform.sql]\nquery = '''{query}'''\n[output.format.csv]\n{more}");
    let sql =
        sql.replace("[output.format.csv]", "[output]\npath = \"output.txt\"\n[output.format.csv]");
    Spool::new(&sql)
}

/// Line and reason of each reject.
fn reasons(spool: &Spool) -> Vec<(u64, String)> {
    let rejects = spool.rejects();
    let objects =
        rejects.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    objects
        .map(|object| {
            (object["line"].as_u64().unwrap(), object["reason"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn each_bad_csv_record_is_one_reject_and_its_neighbours_come_through() {
    let spool = job(CSV, "select id, name from input", "");
    let file = b"id,name,price,day\n\
        1,a,1.5,2024-02-28\n\
        2,short\n\
        x,b,1,2024-02-28\n\
        1.7,b,1,2024-02-28\n\
        3,\"two\nlines\",,\n\
        4,c,1,2024-02-30\n\
        5,\"he said \"\"no\"\"\",2,\n\
        6,\"bad\"quote,2,\n\
        7,\xff,2,\n\
        \n\
        99999999999999999999,d,1,\n\
        8,\"\",1,2024-01-01\r\n\
        9,,1,2024-01-01,extra\n\
        10,z,1,\n\
        11,\"never closed,1,\n";
    spool.drop_file("a.csv", file);
    spool.run_once();
    assert_eq!(
        spool.output(),
        "id,name\n1,a\n3,\"two\nlines\"\n5,\"he said \"\"no\"\"\"\n8,\"\"\n10,z\n"
    );
    let reasons = reasons(&spool);
    let expected = [
        (3, "found 2 fields, expected 4"),
        (4, "column `id`: not a bigint"),
        (5, "column `id`: not a bigint"),
        (8, "column `day`: not a date"),
        (10, "a quoted field is not closed"),
        (11, "column `name`: not UTF-8"),
        (13, "column `id`: not a bigint"),
        (15, "found 5 fields, expected 4"),
        (17, "a quoted field is not closed"),
    ];
    let expected: Vec<_> = expected.iter().map(|(line, why)| (*line, (*why).to_owned())).collect();
    assert_eq!(reasons, expected);
    spool.assert_names(&["processed-a.csv"]);
}

#[test]
fn each_bad_json_line_is_one_reject_and_its_neighbours_come_through() {
    let spool = job(JSON, "select * from input", "");
    let file = "{\"id\":1,\"name\":\"a\",\"price\":1.5,\"at\":\"2024-02-28 22:35:00\",\"ok\":true}\n\
        {\"id\":1.7}\n\
        {\"id\":\"12\"}\n\
        {\"id\":2.0,\"price\":12345678901234567890}\n\
        {\"id\":3,\n\
        \"name\":\"b\"}\n\
        {\"id\":4}{\"id\":5}\n\
        {\"id\":6,\"id\":7}\n\
        {,\"id\":8,}\n\
        [1]\n\
        \n\
        {\"name\":\"\\u00e9\\n\",\"other\":[{}],\"price\":0.1,\"id\":9.0}\n\
        {\"at\":\"yesterday\"}\n\
        {\"name\":null,\"ok\":\"true\"}\n\
        {\"name\":\"last\"}";
    spool.drop_file("a.json", file);
    spool.run_once();
    assert_eq!(
        spool.output(),
        "id,name,price,at,ok\n1,a,1.50,2024-02-28 22:35:00,true\n9,\"\u{e9}\n\",0.10,,\n,last,,,\n"
    );
    let lines: Vec<u64> = reasons(&spool).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14]);
    let reasons = reasons(&spool);
    for (at, part) in [
        (0, "column `id`: 1.7 is no bigint"),
        (1, "column `id`: \"12\" is no bigint"),
        (2, "column `price`: 12345678901234567890 is no decimal(8,2)"),
        (5, "more than one object on the line"),
        (6, "the key `id` stands twice"),
        (10, "column `ok`: \"true\" is no boolean"),
    ] {
        assert!(reasons[at].1.contains(part), "{:?} without {part}", reasons[at]);
    }
}

#[test]
fn columns_are_found_by_the_names_in_the_header() {
    let spool = job(CSV, "select * from input", "");
    spool.drop_file("a.csv", "day,extra,price,name,id\n2024-01-02,x,1.0,n,7\n");
    spool.drop_file("b.csv", "id,name,price\n1,n,2\n");
    spool.drop_file("c.csv", "");
    spool.run_once();
    assert_eq!(spool.output(), "id,name,price,day\n7,n,1.0,2024-01-02\n");
    spool.assert_names(&[
        "processed-a.csv",
        "failed-b.csv",
        "failed-b.csv.error.json",
        "processed-c.csv",
    ]);
    let report = spool.read("in/failed-b.csv.error.json");
    assert!(report.contains("the header has no column `day`: it has id, name, price"), "{report}");
}

#[test]
fn an_unknown_column_can_be_refused() {
    let csv = CSV.replace("[input.format.csv]\n", "[input.format.csv]\nunknown = \"reject\"\n");
    let spool = job(&csv, "select id from input", "");
    spool.drop_file("a.csv", "id,name,price,day,more\n1,,,,\n");
    spool.run_once();
    assert!(spool.read("in/failed-a.csv.error.json").contains("`more`"));
    let json = JSON.replace("[input.format.json]\n", "[input.format.json]\nunknown = \"reject\"\n");
    let spool = job(&json, "select id from input", "");
    spool.drop_file("a", "{\"id\":1,\"more\":2}\n{\"id\":3}\n");
    spool.run_once();
    assert_eq!(spool.output(), "id\n3\n");
    assert_eq!(reasons(&spool), [(1, "unknown key `more`".to_owned())]);
}

const PRODUCTS: &str = "product,class,price\nLaptop,Electronics,1200\nSmartphone,Electronics,800\n\
    Desk,Furniture,300\nChair,Furniture,150\n";

const PRODUCT_COLUMNS: &str = "[input.format.csv]\n[input.format.csv.columns]\n\
    product = \"varchar\"\nclass = \"varchar\"\nprice = \"bigint\"\n";

/// The table of the article that this transform was first written for.
#[test]
fn window_functions_see_the_file() {
    let query = "select product, class, price,
        sum(price) over (partition by class) as of_class,
        sum(price) over (partition by class order by product) as running,
        sum(price) over () as total
        from input order by class, product";
    let spool = job(PRODUCT_COLUMNS, query, "");
    spool.drop_file("a", PRODUCTS);
    spool.run_once();
    assert_eq!(
        spool.output(),
        "product,class,price,of_class,running,total\n\
         Laptop,Electronics,1200,2000,1200,2450\n\
         Smartphone,Electronics,800,2000,2000,2450\n\
         Chair,Furniture,150,450,150,2450\n\
         Desk,Furniture,300,450,450,2450\n"
    );
}

#[test]
fn the_file_is_the_scope_of_an_aggregate() {
    let spool = job(PRODUCT_COLUMNS, "select count(*) as n, max(price) as most from input", "");
    spool.drop_file("a", PRODUCTS);
    spool.drop_file("b", "product,class,price\n");
    spool.drop_file("c", "product,class,price\nx,y,1\n");
    spool.drop_file("d", "");
    spool.run_once();
    assert_eq!(spool.output(), "n,most\n4,1200\n0,\n1,1\n0,\n");
}

#[test]
fn a_query_may_read_the_file_twice() {
    let query = "select product from input where price > (select avg(price) from input)";
    let spool = job(PRODUCT_COLUMNS, query, "");
    spool.drop_file("a", PRODUCTS);
    spool.run_once();
    assert_eq!(spool.output(), "product\nLaptop\nSmartphone\n");
}

#[test]
fn file_and_line_are_there_but_not_in_the_star() {
    let query = "select *, _file, _line from input where price > 200";
    let spool = job(PRODUCT_COLUMNS, query, "");
    spool.drop_file("a", format!("{PRODUCTS}\"x\ny\",z,500\nbad\nq,r,900\n"));
    spool.run_once();
    let output = spool.output();
    let places: Vec<_> = output.lines().filter_map(|line| line.split_once(",a,")).collect();
    let lines: Vec<_> = places.iter().map(|(_, line)| *line).collect();
    assert_eq!(output.lines().next(), Some("product,class,price,_file,_line"));
    assert_eq!(lines, ["2", "3", "4", "6", "9"]);
    let spool = job(PRODUCT_COLUMNS, "select * from input", "");
    spool.drop_file("a", PRODUCTS);
    spool.run_once();
    assert_eq!(spool.output(), PRODUCTS);
}

#[test]
fn now_is_the_time_that_the_ledger_remembers() {
    let query = "select product, arrow_cast(now(), 'Timestamp(Millisecond, None)') as t from input";
    let spool = job(PRODUCT_COLUMNS, query, "[rejects]\npath = \"rejects.jsonl\"\n");
    let daemon = spool.start();
    for name in ["a", "b"] {
        spool.drop_file(name, "product,class,price\nx,y,1\n");
        wait_for("the file", || spool.names().contains(&format!("processed-{name}")));
    }
    daemon.stop();
    let times: Vec<String> = spool
        .output()
        .lines()
        .skip(1)
        .map(|line| line.split_once(',').unwrap().1.to_owned())
        .collect();
    for (number, time) in times.iter().enumerate() {
        let of_ledger =
            format!("SELECT committed_ms FROM microbatch WHERE sequence = {}", number + 1);
        let ms = spool.ledger(&of_ledger);
        let of_output = spoolmill_millis(time);
        assert_eq!(of_output, ms, "{time}");
    }
    assert!(times.len() == 2 && times[0] != times[1], "{times:?}");
}

/// Milliseconds since 1970 of a timestamp as it is written.
fn spoolmill_millis(text: &str) -> i64 {
    let (date, time) = text.split_once(' ').unwrap();
    let parts: Vec<i64> = date.split('-').map(|part| part.parse().unwrap()).collect();
    let (year, month, day) = (parts[0], parts[1], parts[2]);
    let days_of = |year: i64| year * 365 + year / 4 - year / 100 + year / 400;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before: i64 = lengths.iter().take(month as usize - 1).sum();
    let days = days_of(year - 1) - days_of(1969) + before + day - 1;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let seconds = clock.split(':').fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap());
    let millis: i64 = format!("{fraction:0<3}").parse().unwrap();
    (days * 86_400 + seconds) * 1000 + millis
}

#[test]
fn a_query_that_cannot_be_planned_is_a_configuration_error() {
    for (query, parts) in [
        ("select pricee from input", vec!["pricee", "  | select pricee from input", "|        ^"]),
        ("select price frm input x y", vec!["  | select price frm input x y", "^"]),
        ("select * from nothing", vec!["nothing"]),
        ("delete from input", vec!["expected a query"]),
        ("select sum(product) from input", vec!["sum"]),
        ("select make_array(price) as a from input", vec!["output.format", "`a`", "no text"]),
    ] {
        let spool = job(PRODUCT_COLUMNS, query, "");
        for verb in ["check", "run", "batch"] {
            let output = spool.run(verb, &[]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{verb} {query}: {said}");
            assert!(said.contains("job.toml:"), "{said}");
            for part in &parts {
                assert!(said.contains(part), "{said} without {part}");
            }
        }
    }
}

#[test]
fn an_error_in_the_data_of_a_query_quarantines_the_file() {
    let query = "select 100 / price as x from input";
    let spool = job(PRODUCT_COLUMNS, query, "");
    spool.drop_file("a", "product,class,price\nx,y,0\n");
    spool.drop_file("b", "product,class,price\nx,y,50\n");
    spool.run_once();
    assert_eq!(spool.output(), "x\n2\n");
    let report = spool.read("in/failed-a.error.json");
    assert!(report.contains("the query failed") && report.contains("ivide by zero"), "{report}");
}

#[test]
fn a_reference_table_is_read_again_when_it_changes() {
    let query = "select i.product, t.boss from input i join bosses t on i.class = t.class";
    let spool =
        job(PRODUCT_COLUMNS, query, "[[table]]\nname = \"bosses\"\npath = \"bosses.csv\"\n");
    let replace = |content: &str| {
        fs::write(spool.path("new"), content).unwrap();
        fs::rename(spool.path("new"), spool.path("bosses.csv")).unwrap();
    };
    replace("class,boss\nElectronics,Ann\nFurniture,Bob\n");
    let daemon = spool.start();
    let take = |name: &str| {
        spool.drop_file(name, "product,class,price\nx,Electronics,1\n");
        wait_for("the file", || spool.names().contains(&format!("processed-{name}")));
    };
    take("a");
    replace("class,boss\nElectronics,Cid\nFurniture,Bob\n");
    take("b");
    // A broken version keeps the old one.
    replace("class,boss\nElectronics\n");
    take("c");
    wait_for("the complaint", || daemon.log().contains("the old one stays"));
    replace("class,other\nElectronics,Dan\n");
    take("d");
    replace("class,boss\nElectronics,Eve\n");
    take("e");
    let log = daemon.stop();
    assert_eq!(spool.output(), "product,boss\nx,Ann\nx,Cid\nx,Cid\nx,Cid\nx,Eve\n", "{log}");
}

#[test]
fn a_missing_or_broken_table_is_a_configuration_error() {
    for content in [None, Some("a,b\n1\n"), Some("a,a\n1,2\n")] {
        let spool =
            job(PRODUCT_COLUMNS, "select * from t", "[[table]]\nname = \"t\"\npath = \"t.csv\"\n");
        if let Some(content) = content {
            fs::write(spool.path("t.csv"), content).unwrap();
        }
        let output = spool.run("check", &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{content:?}: {said}");
        assert!(said.contains("t.csv"), "{said}");
    }
}

/// With this the job of the seed is complete.
#[test]
fn the_output_is_sorted_when_the_job_ends() {
    let configuration = "[input.format.numbers]\n[transform.scale]\nbelow = 10.0\nby = 100.0\n\
        [output]\npath = \"output.txt\"\n[output.format.numbers]\n\
        [[final]]\nquery = \"select * from output order by num\"\npath = \"sorted-output.txt\"\n";
    let spool = Spool::with_input("settle = \"0s\"\nend_marker = \"EOF\"", configuration);
    spool.drop_file("input_aa", "12\n3\n");
    spool.run_once();
    assert!(!spool.path("sorted-output.txt").exists());
    spool.drop_file("input_ab", "1\n30\nEOF\n");
    spool.run_once();
    assert_eq!(spool.output(), "12.0\n300.0\n100.0\n30.0\n");
    assert_eq!(spool.read("sorted-output.txt"), "12.0\n30.0\n100.0\n300.0\n");
    // A batch ends by itself. It does not replace what the ledger stands for.
    let sorted = spool.read("sorted-output.txt");
    fs::write(spool.path("more"), "5\n20\n").unwrap();
    let refused = spool.run("batch", &["more"]);
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    for name in ["sorted-output", "sorted-output.txt"] {
        let output = spool.run("batch", &["more", "--view", &format!("{name}=mine.txt")]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "500.0\n20.0\n");
        assert_eq!(spool.read("mine.txt"), "20.0\n500.0\n");
    }
    assert_eq!(spool.read("sorted-output.txt"), sorted);
    for (given, said) in [("none=x", "no view or final `none`"), ("x", "expected NAME=PATH")] {
        let refused = spool.run("batch", &["more", "--view", given]);
        let log = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && log.contains(said), "{log}");
    }
}

/// Between the commit of the end and its final result the program may die.
#[test]
fn a_final_result_that_was_cut_short_is_made_at_the_next_start() {
    let final_query = "[[final]]\nquery = \"select class, sum(price) as s from output group by class order by s\"\n\
        path = \"final.json\"\n[final.format.json]\n";
    let configuration = format!(
        "{PRODUCT_COLUMNS}[output]\npath = \"output.txt\"\n[output.format.csv]\n{final_query}"
    );
    let expected = "{\"class\":\"Furniture\",\"s\":450}\n{\"class\":\"Electronics\",\"s\":2000}\n";
    let mut complete = false;
    let mut number = 1;
    while !complete {
        let mut spool = Spool::with_input("settle = \"0s\"\nend_marker = \"EOF\"", &configuration);
        spool.drop_file("a", format!("{PRODUCTS}EOF\n"));
        spool.environment("SPOOLMILL_FAULT", &format!("abort:{number}"));
        complete = spool.run("run", &["--once"]).status.success();
        spool.no_environment().run_once();
        assert_eq!(spool.read("final.json"), expected, "abort {number}");
        assert_eq!(spool.output(), PRODUCTS, "abort {number}");
        assert_eq!(spool.ledger("SELECT count(*) FROM ended"), 0);
        number += 1;
    }
    assert!(number > 10, "only {number} operations were seen");
}

#[test]
fn the_header_is_written_once_for_each_life_of_the_output() {
    let spool = job(PRODUCT_COLUMNS, "select product from input", "");
    for name in ["a", "b"] {
        spool.drop_file(name, "product,class,price\nx,y,1\n");
        spool.run_once();
    }
    assert_eq!(spool.output(), "product\nx\nx\n");
    fs::rename(spool.path("output.txt"), spool.path("taken")).unwrap();
    // Large enough for a file of its own, twice.
    for name in ["c", "d"] {
        let rows = "a long name of a product,y,1\n".repeat(20_000);
        spool.drop_file(name, format!("product,class,price\n{rows}"));
        spool.run_once();
    }
    let expected = format!("product\n{}", "a long name of a product\n".repeat(40_000));
    assert!(spool.output() == expected, "{}", spool.output().len());
}

/// The output is taken away while the program is down and owes it bytes.
#[test]
fn a_new_output_begins_with_the_header_after_a_crash_too() {
    for rows in [1, 40_000] {
        let mut spool = job(PRODUCT_COLUMNS, "select product from input", "");
        let file =
            format!("product,class,price\n{}", "a long name of a product,y,1\n".repeat(rows));
        spool.drop_file("a", &file);
        spool.run_once();
        spool.drop_file("b", &file);
        // All but the ledger fails, once there is something to publish.
        spool.environment(
            "SPOOLMILL_FAULT",
            if rows == 1 { "fail:write:5:1+" } else { "unsynced:1" },
        );
        let mut child = spool.command("run").spawn().unwrap();
        wait_for("the commit", || spool.ledger("SELECT count(*) FROM microbatch") == 2);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(spool.ledger("SELECT count(*) FROM owed"), 1);
        fs::rename(spool.path("output.txt"), spool.path("taken")).unwrap();
        spool.no_environment().run_once();
        let expected = format!("product\n{}", "a long name of a product\n".repeat(rows));
        assert!(spool.output() == expected, "{rows}: {} bytes", spool.output().len());
        spool.drop_file("c", &file);
        spool.run_once();
        assert_eq!(spool.output().lines().count(), 1 + 2 * rows);
    }
}

#[test]
fn a_stream_passes_on_what_a_row_wise_query_gives() {
    let spool = job(PRODUCT_COLUMNS, "select upper(product) as p from input where price > 1", "");
    let mut command = spool.command("stream");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut expect = |text: &str| {
        let mut got = vec![0; text.len()];
        stdout.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), text);
    };
    stdin.write_all(b"product,class,price\n").unwrap();
    expect("p\n");
    for name in ["a", "b"] {
        stdin.write_all(format!("{name},x,5\n").as_bytes()).unwrap();
        expect(&format!("{}\n", name.to_uppercase()));
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_stream_refuses_a_query_that_must_see_the_end() {
    let spool = job(PRODUCT_COLUMNS, "select product from input order by product", "");
    let output = spool.pipe("stream", &[], PRODUCTS.as_bytes());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("SortExec") && said.contains("--until-eof"), "{said}");
    let output = spool.pipe("stream", &["--until-eof"], PRODUCTS.as_bytes());
    let sorted = "product\nChair\nDesk\nLaptop\nSmartphone\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), sorted);
}

#[test]
fn the_columns_of_a_sample_are_inferred() {
    let spool = Spool::new("");
    fs::write(spool.path("s.csv"), "id,a name,at,x\n1,n,2024-01-01T00:00:00,1.5\n").unwrap();
    fs::write(spool.path("s.jsonl"), "{\"a\":1,\"b\":true}\n{\"a\":1.5,\"b\":null}\n").unwrap();
    for (sample, expected) in [
        (
            "s.csv",
            "[input.format.csv]\n[input.format.csv.columns]\nid       = \"bigint\"\n\
             \"a name\" = \"varchar\"\nat       = \"timestamp\"\nx        = \"double\"\n",
        ),
        (
            "s.jsonl",
            "[input.format.json]\n[input.format.json.columns]\na = \"double\"\nb = \"boolean\"\n",
        ),
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_spoolmill"));
        let output = command.args(["check", "--infer"]).arg(spool.path(sample)).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}

#[test]
fn lines_are_text_to_a_query() {
    let query = "select upper(line) as line, _line from input where line like '%a%'";
    let spool = job("[input.format.lines]\n", query, "");
    spool.drop_file("f", b"a\nb\n\xffa\nba\n");
    spool.run_once();
    assert_eq!(spool.output(), "line,_line\nA,1\nBA,4\n");
    assert_eq!(reasons(&spool), [(3, "not UTF-8".to_owned())]);
}

/// Many blocks, one file.
fn large() -> String {
    let rows: String = (0..200_000).map(|id| format!("name {id},c{},{id}\n", id % 7)).collect();
    format!("product,class,price\n{rows}")
}

#[test]
fn a_limit_counts_over_the_file_not_over_its_blocks() {
    let large = large();
    for (query, expected) in [
        ("select price from input limit 3", "0 1 2"),
        ("select price from input where price % 2 = 0 limit 3", "0 2 4"),
        ("select price + 1 as p from input where price > 5 limit 2", "7 8"),
        ("select price from input offset 199998", "199998 199999"),
        ("select price from input order by price desc limit 2", "199999 199998"),
    ] {
        let spool = job(PRODUCT_COLUMNS, query, "");
        spool.drop_file("a", &large);
        spool.run_once();
        let output: Vec<String> = spool.output().lines().skip(1).map(str::to_owned).collect();
        assert_eq!(output.join(" "), expected, "{query}");
    }
    let spool = job(PRODUCT_COLUMNS, "select price from input limit 3", "");
    let output = spool.pipe("stream", &[], PRODUCTS.as_bytes());
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_union_has_all_its_branches_in_order() {
    let query = "select price from input union all select price from input where price > 500";
    let spool = job(PRODUCT_COLUMNS, query, "");
    spool.drop_file("a", PRODUCTS);
    spool.run_once();
    assert_eq!(spool.output(), "price\n1200\n800\n300\n150\n1200\n800\n");
}

/// However the join is written, the input passes by in its own order.
#[test]
fn a_join_with_a_table_keeps_the_order_of_the_input() {
    let table = "[[table]]\nname = \"t\"\npath = \"t.csv\"\n";
    for query in [
        "select i.product, t.v from input i left join t on t.k = i.class",
        "select i.product, t.v from input i join t on t.k = i.class",
        "select i.product, t.v from t join input i on t.k = i.class",
    ] {
        let spool = job(PRODUCT_COLUMNS, query, table);
        fs::write(spool.path("t.csv"), "k,v\nFurniture,f\nElectronics,e\n").unwrap();
        spool.drop_file("a", PRODUCTS);
        spool.run_once();
        assert_eq!(
            spool.output(),
            "product,v\nLaptop,e\nSmartphone,e\nDesk,f\nChair,f\n",
            "{query}"
        );
        assert!(spool.pipe("stream", &[], PRODUCTS.as_bytes()).status.success());
    }
}

#[test]
fn no_number_is_changed_silently() {
    let json = "[input.format.json]\n[input.format.json.columns]\nd = \"double\"\nb = \"bigint\"\n";
    let spool = job(json, "select * from input", "");
    let lines = "{\"d\":30.813645758914422}\n{\"b\":9007199254740993.0}\n{\"b\":-9223372036854775809}\n\
        {\"b\":-9223372036854775808}\n{\"b\":12.0}\n";
    spool.drop_file("a", lines);
    spool.run_once();
    assert_eq!(spool.output(), "d,b\n30.813645758914422,\n,-9223372036854775808\n,12\n");
    let csv = "[input.format.csv]\n[input.format.csv.columns]\np = \"decimal(38,0)\"\nd = \"double\"\n\
        r = \"real\"\nt = \"date\"\n";
    let spool = job(csv, "select * from input", "");
    let lines = "p,d,r,t\n170141183460469231731687303715884105727.5,,,\n,1e400,,\n,,1e39,\n\
        ,,,2024-02-28 10:11:12\n1.5,inf,nan,2024-02-28\n";
    spool.drop_file("a", lines);
    spool.run_once();
    assert_eq!(spool.output(), "p,d,r,t\n2,inf,nan,2024-02-28\n");
    assert_eq!(reasons(&spool).len(), 4);
}

#[test]
fn a_header_is_found_wherever_the_first_block_ends() {
    let spool = job(PRODUCT_COLUMNS, "select * from input", "");
    let swapped = "price,product,class\n5,a,b\n";
    spool.drop_file("a", format!("{}{swapped}", "\n".repeat(2 << 20)));
    spool.run_once();
    assert_eq!(spool.output(), "product,class,price\na,b,5\n");
    let mut command = spool.command("stream");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut header = [0; 20];
    for part in [&b"\n"[..], b"\n", swapped.as_bytes()] {
        stdin.write_all(part).unwrap();
    }
    stdout.read_exact(&mut header).unwrap();
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(rest, "a,b,5\n");
    let spool = Spool::with_input(
        "settle = \"0s\"\nmax_record = \"64KiB\"",
        &format!("{PRODUCT_COLUMNS}[transform.sql]\nquery = \"select * from input\"\n"),
    );
    spool.drop_file("a", format!("price,product,class,{}\n5,a,b,\n", "x".repeat(2 << 20)));
    let said = spool.run("batch", &["in/a"]);
    assert!(!said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn an_end_marker_in_quotes_is_text() {
    let spool = Spool::with_input(
        "settle = \"0s\"\nend_marker = \"EOF\"",
        &format!(
            "{PRODUCT_COLUMNS}[transform.sql]\nquery = \"select product from input\"\n\
             [output]\npath = \"output.txt\"\n[output.format.csv]\n"
        ),
    );
    spool.drop_file("a", "product,class,price\n\"x\nEOF\ny\",c,1\nz,c,1\nEOF\nafter,c,1\n");
    let log = spool.run_once();
    assert_eq!(spool.output(), "product\n\"x\nEOF\ny\"\nz\n", "{log}");
    assert!(log.contains("ended by its end marker"), "{log}");
}

/// A truncated input gives no result, not the result of its beginning.
#[test]
fn half_an_input_has_no_result() {
    let spool = job(PRODUCT_COLUMNS, "select count(*) as n from input", "");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(large().as_bytes()).unwrap();
    let whole = gzip.finish().unwrap();
    fs::write(spool.path("x.gz"), &whole[..whole.len() / 2]).unwrap();
    let output = spool.run("batch", &["x.gz"]);
    assert!(!output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "n\n");
}

/// What becomes of each record, when the input is read in blocks of about this size: the good ones
/// as text, the bad ones with their lines.
fn verdicts(
    format: &Format,
    input: &[u8],
    block_bytes: usize,
) -> (Vec<String>, Vec<(u64, Vec<u8>)>) {
    let framing = Framing {
        max_record: 40,
        block_bytes,
        skip_byte_order_mark: false,
        ..Framing::whole(format.dialect())
    };
    let mut framer = Framer::bounded(Box::new(input), &framing, u64::MAX);
    framer.count_lines();
    let (mut good, mut bad, mut lines) = (Vec::new(), Vec::new(), 0);
    let (decoder, _): (Decoder, _) = format.decoder(b"", 40).unwrap();
    while let Some(block) = framer.next_block().unwrap() {
        assert_eq!(block.lines_before, lines);
        if block.kind == Kind::TooLong {
            bad.push((lines + 1, block.bytes.clone()));
            lines += spoolmill::decode::frame::lines_too_long(&block.bytes);
            continue;
        }
        let decoded = decoder.decode(&block.bytes, 40);
        let mut text = Vec::new();
        spoolmill::encode::Format::Json {}.encode(&decoded.records, &mut text).unwrap();
        let numbers = decoded.line_numbers();
        let text = String::from_utf8(text).unwrap();
        good.extend(
            numbers.iter().zip(text.lines()).map(|(at, text)| format!("{} {text}", lines + at)),
        );
        bad.extend(
            decoded.rejects.into_iter().map(|reject| (lines + reject.line.unwrap(), reject.raw)),
        );
        lines += decoded.lines;
    }
    (good, bad)
}

fn columns(format: &str, header: &str) -> Format {
    let text = format!("{format}\n{header}[columns]\na = 'bigint'\nb = 'varchar'\n");
    let table: toml::Table = format!("[{text}")
        .replace("[columns]", &format!("[{format}.columns]"))
        .replacen(format, &format!("{format}]"), 1)
        .parse()
        .unwrap();
    table.try_into().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// A record ends in the output or in the rejects by its own bytes, wherever blocks are cut.
    #[test]
    fn a_verdict_depends_on_the_record_alone(
        input in "([12]|,|\n|\r\n|\"|\"\"|x|\u{e9}|,\"|\"\n|\",){0,60}",
        block in 1_usize..30,
    ) {
        let csv = columns("csv", "header = false\n");
        let whole = verdicts(&csv, input.as_bytes(), 1 << 20);
        prop_assert_eq!(&verdicts(&csv, input.as_bytes(), block), &whole);
    }

    #[test]
    fn a_json_verdict_depends_on_the_line_alone(
        lines in proptest::collection::vec("\\{\"a\":[12]\\}|\\{\"b\":\"x\"\\}|[{}\":,ab1 ]{0,12}", 0..12),
        block in 1_usize..30,
    ) {
        let json = columns("json", "");
        let input = lines.join("\n");
        let whole = verdicts(&json, input.as_bytes(), 1 << 20);
        prop_assert_eq!(&verdicts(&json, input.as_bytes(), block), &whole);
        // Each line by itself has the verdict that it has among others.
        let good: usize = lines.iter().map(|line| verdicts(&json, line.as_bytes(), 100).0.len()).sum();
        prop_assert_eq!(good, whole.0.len());
    }
}

/// The same queries over the same file, by DuckDB.
#[test]
fn results_equal_those_of_duckdb() {
    let Some(duckdb) = crate::support::duckdb() else { return };
    let columns = "[input.format.csv]\n[input.format.csv.columns]\nid = \"bigint\"\nname = \"varchar\"\n\
        class = \"varchar\"\nprice = \"double\"\ncost = \"decimal(10,2)\"\nday = \"date\"\nts = \"timestamp\"\nok = \"boolean\"\n";
    let mut file = "id,name,class,price,cost,day,ts,ok\n".to_owned();
    for id in 0..500_u64 {
        let h = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let name =
            ["plain", "\"with, comma\"", "\"with \"\"quotes\"\"\"", "\"two\nlines\"", "\"\"", ""]
                [(h % 6) as usize];
        let class = ["A", "B", "C", ""][(h / 7 % 4) as usize];
        let price =
            if h % 11 == 0 { String::new() } else { format!("{}", (h % 10_000) as f64 / 8.0) };
        let cost = format!("{}.{:02}", h % 900, h % 100);
        let day = format!("20{:02}-{:02}-{:02}", h % 30, h % 12 + 1, h % 28 + 1);
        let at = format!("{day} {:02}:{:02}:{:02}", h % 24, h % 60, h % 59);
        file += &format!("{id},{name},{class},{price},{cost},{day},{at},{}\n", h % 2 == 0);
    }
    for query in [
        "select * from input order by id",
        "select id, price * 1.5 as p, price + id as q, -price as n from input where price > 100 order by id",
        "select id, coalesce(name, 'none') as n, length(name) as l, upper(class) as u from input order by id",
        "select class, count(*) as n, count(name) as m, sum(cost) as s, min(day) as a, max(ts) as b from input group by class order by class nulls last",
        "select id, case when price is null then 'x' when price < 500 then 'low' else 'high' end as c from input order by id",
        "select id, row_number() over (partition by class order by id) as r, sum(cost) over (partition by class order by id) as t from input order by id",
        "select id, lag(id) over (order by id) as p, first_value(id) over (partition by ok order by id desc) as f from input order by id",
        "select a.id, b.id as other from input a join input b on a.cost = b.cost and a.id < b.id order by a.id, other",
        "select distinct class, ok from input order by class nulls last, ok",
        "select id, extract(year from day) as y, extract(month from ts) as m from input order by id",
        "select id, name like '%quote%' as q, name = '' as e, name is null as z from input order by id",
        "select id, cost + cost as c, cost * 2 as d, round(price) as r, abs(id - 250) as a from input order by id",
        "with t as (select class, avg(id) as m from input group by class) select i.id from input i join t on i.class = t.class where i.id > t.m order by i.id",
        "select id from input where class in ('A', 'B') and not ok and day between date '2005-01-01' and date '2015-01-01' order by id limit 20",
        "select ok, max(price) - min(price) as spread from input group by ok having count(*) > 3 order by ok",
    ] {
        let spool = job(columns, query, "");
        spool.drop_file("a", &file);
        fs::write(spool.path("a.csv"), &file).unwrap();
        spool.run_once();
        let types = "{'id':'bigint','name':'varchar','class':'varchar','price':'double','cost':'decimal(10,2)','day':'date','ts':'timestamp','ok':'boolean'}";
        let sql = format!(
            "create table input as select * from read_csv('{}', header=true, columns={types}, allow_quoted_nulls=false); \
             copy ({query}) to '{}' (header true)",
            spool.path("a.csv").display(),
            spool.path("duck.csv").display()
        );
        let output = std::process::Command::new(&duckdb).args(["-c", &sql]).output().unwrap();
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        let (ours, theirs) = (spool.output(), spool.read("duck.csv"));
        for (ours, theirs) in ours.lines().zip(theirs.lines()) {
            assert_eq!(ours, theirs, "{query}");
        }
        assert_eq!(ours.lines().count(), theirs.lines().count(), "{query}");
    }
}
