//! Csv and json without a query: they are in every build.

use crate::support::Spool;

const CSV: &str = "[input.format.csv]\n[input.format.csv.columns]\nid = \"bigint\"\nname = \"varchar\"\n\
    price = \"decimal(10,2)\"\nat = \"timestamp\"\n";

const CSV_TEXT: &str = "id,name,price,at\n1,\"a, b\",1.50,2026-01-02 03:04:05\n2,,,\nx,bad,1,\n3,\"two\nlines\",2,2026-01-02\n";

const CSV_OUT: &str = "id,name,price,at\n1,\"a, b\",1.50,2026-01-02 03:04:05\n2,,,\n\
    3,\"two\nlines\",2.00,2026-01-02 00:00:00\n";

const JSON: &str = "[input.format.json]\n[input.format.json.columns]\nid = \"bigint\"\nname = \"varchar\"\n\
    price = \"decimal(10,2)\"\nat = \"timestamp\"\n";

const JSON_TEXT: &str = "{\"id\":1,\"name\":\"a, b\",\"price\":1.50,\"at\":\"2026-01-02 03:04:05\"}\n\
    {\"id\":2,\"name\":null,\"price\":null,\"at\":null}\n";

fn job(input: &str, output: &str) -> Spool {
    Spool::new(&format!("{input}[output]\npath = \"output.txt\"\n[output.format.{output}]\n"))
}

#[test]
fn records_of_fields_pass_and_bad_ones_are_rejects() {
    let spool = job(CSV, "csv");
    spool.drop_file("a", CSV_TEXT);
    spool.run_once();
    assert_eq!(spool.output(), CSV_OUT);
    let rejects = spool.rejects();
    assert!(rejects.contains("\"line\":4,\"reason\":\"column `id`: not a bigint\""), "{rejects}");
    assert_eq!(rejects.lines().count(), 1);
    // The header stands once, whatever comes.
    spool.drop_file("b", "name,id,price,at\nc,4,,\n");
    spool.run_once();
    assert_eq!(spool.output(), format!("{CSV_OUT}4,c,,\n"));
}

#[test]
fn one_format_becomes_the_other() {
    let to_json = job(CSV, "json");
    to_json.drop_file("a", CSV_TEXT);
    to_json.run_once();
    assert!(to_json.output().starts_with(JSON_TEXT), "{}", to_json.output());
    let to_csv = job(JSON, "csv");
    to_csv.drop_file("a", JSON_TEXT.to_owned() + "{\"id\":\"x\"}\n");
    to_csv.run_once();
    assert_eq!(to_csv.output(), CSV_OUT.split("3,\"two").next().unwrap());
    assert_eq!(to_csv.rejects().lines().count(), 1);
}

#[test]
fn the_drivers_agree() {
    for output in ["csv", "json"] {
        let spool = job(CSV, output);
        spool.drop_file("a", CSV_TEXT);
        spool.run_once();
        let streamed = spool.pipe("stream", &[], CSV_TEXT.as_bytes()).stdout;
        assert_eq!(String::from_utf8(streamed).unwrap(), spool.output());
        std::fs::write(spool.path("file"), CSV_TEXT).unwrap();
        let batch = spool.run("batch", &["--rejects", "-", "file"]).stdout;
        assert_eq!(String::from_utf8(batch).unwrap(), spool.output());
    }
}

/// A command gets the records without their header, and gives lines.
#[test]
fn a_command_may_stand_between() {
    let command = "[transform.command]\nargv = [\"cut\", \"-d,\", \"-f1\"]\n";
    let spool = job(&format!("{CSV}{command}"), "lines");
    spool.drop_file("a", "id,name,price,at\n1,a,1,\n2,b,2,\n");
    spool.run_once();
    assert_eq!(spool.output(), "1\n2\n");
}

#[test]
fn what_a_build_lacks_and_what_a_job_lacks_is_told() {
    let refused = |spool: &Spool| {
        let checked = spool.run("check", &[]);
        assert_eq!(checked.status.code(), Some(2));
        String::from_utf8(checked.stderr).unwrap()
    };
    let said = refused(&job("[input.format.csv]\n", "csv"));
    assert!(said.contains("input.format") && said.contains("check --infer SAMPLE"), "{said}");
    let said = refused(&job("[input.format.lines]\n", "csv"));
    assert!(said.contains("output.format"), "{said}");
    if !cfg!(feature = "parquet") {
        let said = refused(&job(CSV, "parquet"));
        assert!(said.contains("needs a build with `--features parquet`"), "{said}");
    }
    if !cfg!(feature = "sql") {
        let output = job(CSV, "csv").run("run", &["--once", "--reset-view", "v"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("--reset-view needs a build with `--features sql`"), "{said}");
    }
    for (key, section) in [
        ("transform.sql", "[transform.sql]\nquery = \"select 1\"\n"),
        ("event_time", "[event_time]\ncolumn = \"at\"\n"),
        ("table", "[[table]]\nname = \"t\"\npath = \"t.csv\"\n"),
        ("view", "[[view]]\nname = \"v\"\nmode = \"update\"\npath = \"v\"\nquery = \"select 1\"\n"),
        ("final", "[[final]]\npath = \"f\"\nquery = \"select 1\"\n"),
    ] {
        if !cfg!(feature = "sql") {
            let spool = job(&format!("{CSV}{section}"), "csv");
            let text = spool.read("job.toml");
            let line =
                text.lines().position(|line| line.trim_matches(['[', ']']) == key).unwrap() + 1;
            let said = refused(&spool);
            let expected = format!("job.toml:{line}: {key}: needs a build with `--features sql`");
            assert!(said.contains(&expected), "{said}");
        }
    }
}

#[test]
fn the_columns_of_a_sample_are_printed() {
    let spool = job(CSV, "csv");
    std::fs::write(spool.path("sample.csv"), CSV_TEXT.replace("x,bad,1,\n", "")).unwrap();
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_spoolmill"));
    let sample = spool.path("sample.csv");
    let printed = program.args(["check", "--infer"]).arg(sample).output().unwrap();
    let said = String::from_utf8(printed.stdout).unwrap();
    assert!(
        said.contains("id    = \"bigint\"") && said.contains("at    = \"timestamp\""),
        "{said}"
    );
}
