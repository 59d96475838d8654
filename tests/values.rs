//! What a value is, in a query and in the output: times, decimals, what is not a number, NULL.

use crate::support::Spool;

fn job(columns: &str, query: &str, output: &str) -> Spool {
    Spool::new(&format!(
        "[input.format.csv]\n[input.format.csv.columns]\n{columns}\n[transform.sql]\nquery = '''{query}'''\n\
         [output]\npath = \"output.txt\"\n[output.format.{output}]\n"
    ))
}

fn of(columns: &str, content: &str, query: &str, output: &str) -> String {
    let spool = job(columns, query, output);
    spool.drop_file("a", content);
    spool.run_once();
    spool.output()
}

#[test]
fn times_reach_from_year_1_to_9999() {
    let content = "t\n0001-01-01T00:00:00\n9999-12-31T23:59:59.999999\n1600-07-15T12:30:00\n";
    for (query, expected) in [
        (
            "select date_trunc('month', t) as t from input",
            "t\n0001-01-01 00:00:00\n9999-12-01 00:00:00\n1600-07-01 00:00:00\n",
        ),
        ("select cast(t as date) as d from input", "d\n0001-01-01\n9999-12-31\n1600-07-15\n"),
        ("select count(*) as n from input where t >= '1600-01-01 00:00:00'", "n\n2\n"),
        (
            "select to_timestamp(cast(t as varchar)) as t from input where t > timestamp '9000-01-01 00:00:00'",
            "t\n9999-12-31 23:59:59.999999\n",
        ),
        (
            "select count(*) as n from input where t between '0001-01-01' and '1601-01-01' or t in ('9999-12-31')",
            "n\n2\n",
        ),
        ("select max(t) as t from input", "t\n9999-12-31 23:59:59.999999\n"),
    ] {
        assert_eq!(of("t = \"timestamp\"", content, query, "csv"), expected, "{query}");
    }
}

#[test]
fn a_zone_gives_the_local_time_and_back() {
    let content = "t\n2024-07-01T22:30:00Z\n2024-01-01T12:00:00Z\n";
    let columns = "t = \"timestamptz\"";
    let query = "select t at time zone 'Europe/Berlin' as b, \
                 date_trunc('day', t at time zone 'Europe/Berlin') as d from input";
    assert_eq!(
        of(columns, content, query, "csv"),
        "b,d\n2024-07-02 00:30:00,2024-07-02 00:00:00\n2024-01-01 13:00:00,2024-01-01 00:00:00\n"
    );
    let query = "select (t at time zone 'Europe/Berlin') at time zone 'Europe/Berlin' = t as same from input";
    assert_eq!(of(columns, content, query, "csv"), "same\ntrue\ntrue\n");
}

/// Money is exact: a literal with a point is a decimal, and so is a quotient of decimals.
#[test]
fn decimals_stay_decimals() {
    let content = "p,q\n19.99,3.00\n0.05,7.00\n";
    for (query, expected) in [
        ("select p * 1.19 as g from input", "g\n23.7881\n0.0595\n"),
        ("select cast(p / q as decimal(18,4)) as g from input", "g\n6.6633\n0.0071\n"),
        ("select cast(p as double) / 1e6 < 1e-4 and p > 1e-300 as b from input", "b\ntrue\ntrue\n"),
        ("select 5000000000 / 1e9 as b from input limit 1", "b\n5.0\n"),
        ("select sum(p) as s from input where p > 0.04", "s\n20.04\n"),
        ("select sum(p * 0.1) = 2.004 as same from input", "same\ntrue\n"),
    ] {
        let columns = "p = \"decimal(9,2)\"\nq = \"decimal(9,2)\"";
        assert_eq!(of(columns, content, query, "csv"), expected, "{query}");
    }
}

/// What is written reads back as the same value: also through a query over the output.
#[test]
fn null_the_empty_text_and_long_texts_are_told_apart() {
    let long = "line\n".repeat(1500);
    let content = format!("t\n\"\"\nx\n\"{long}\"\n");
    let query = "select nullif(t, 'x') as t from input";
    let spool = job("t = \"varchar\"", query, "csv");
    let more = "[[final]]\npath = \"final.csv\"\n\
                query = \"select count(*) as n, count(t) as c, sum(length(t)) as l from output\"\n";
    let text = std::fs::read_to_string(spool.path("job.toml")).unwrap();
    let text = text.replace("settle = \"0s\"", "settle = \"0s\"\nend_marker = \"END\"");
    std::fs::write(spool.path("job.toml"), format!("{text}{more}")).unwrap();
    spool.drop_file("a", content + "END\n");
    spool.run_once();
    assert_eq!(spool.output(), format!("t\n\"\"\n\n\"{long}\"\n"));
    assert_eq!(spool.read("final.csv"), "n,c,l\n3,2,7500\n");
}

/// JSON has no number for them; a reader that asks for a double gets them back.
#[test]
fn what_is_not_a_number_keeps_its_name_in_json() {
    let content = "n,x\n1,nan\n2,inf\n3,-inf\n4,1.5\n5,\n";
    let query = "select n, x from input";
    let output = of("n = \"bigint\"\nx = \"double\"", content, query, "json");
    assert_eq!(
        output,
        "{\"n\":1,\"x\":\"NaN\"}\n{\"n\":2,\"x\":\"Infinity\"}\n{\"n\":3,\"x\":\"-Infinity\"}\n\
         {\"n\":4,\"x\":1.5}\n{\"n\":5,\"x\":null}\n"
    );
    let spool = Spool::new(
        "[input.format.json]\n[input.format.json.columns]\nn = \"bigint\"\nx = \"double\"\n\
         [output]\npath = \"output.txt\"\n[output.format.json]\n",
    );
    spool.drop_file("a", &output);
    spool.drop_file("b", "{\"n\":6,\"x\":\"1.5\"}\n");
    spool.run_once();
    assert_eq!(spool.output(), output);
    assert_eq!(spool.rejects().lines().count(), 1);
}

/// A sample is looked at record by record: a bad one tells nothing and stops nothing.
#[test]
fn a_sample_with_bad_records_is_a_sample() {
    let spool = Spool::new("");
    for (name, content, expected) in [
        (
            "a.csv",
            "id,price,note\n1,2.50,a\n2,17\n3,4.00,b\n",
            "id    = \"bigint\"\nprice = \"double\"",
        ),
        (
            "b.jsonl",
            "{\"id\":1,\"z\":2.5}\n{\"id\":2,\"pri\n{\"id\":3}\n",
            "id = \"bigint\"\nz  = \"double\"",
        ),
        ("c.csv", "\u{feff}id;zip\n1;01234\n", "delimiter = \";\""),
        ("d.csv", "id,zip\n1,01234\n2,99999\n", "zip = \"varchar\""),
        ("e.json", "\u{feff}{\"id\":1}\n", "id = \"bigint\""),
    ] {
        std::fs::write(spool.path(name), content).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_spoolmill"));
        let output = command.args(["check", "--infer"]).arg(spool.path(name)).output().unwrap();
        let stanza = String::from_utf8_lossy(&output.stdout);
        assert!(stanza.contains(expected), "{name}: {stanza} {output:?}");
    }
}

/// A key that looks like a number in the table and is a text in the job joins as a text.
#[test]
fn a_code_with_leading_zeros_is_a_text_in_a_table() {
    let spool = job(
        "zip = \"varchar\"",
        "select i.zip, t.city from input i left join t on t.zip = i.zip",
        "csv",
    );
    let text = std::fs::read_to_string(spool.path("job.toml")).unwrap();
    let table = "[[table]]\nname = \"t\"\npath = \"t.csv\"\n";
    std::fs::write(spool.path("job.toml"), format!("{text}{table}")).unwrap();
    std::fs::write(spool.path("t.csv"), "zip,city\n01234,A\n99999,B\n").unwrap();
    spool.drop_file("a", "zip\n01234\n1234\nAB12\n");
    spool.run_once();
    let output = spool.output();
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["01234,A", "1234,", "AB12,", "zip,city"]);
}
