//! Parquet in and out: a file that brings its columns, and a folder of whole microbatches.

use std::fs;
use std::process::Command;

use crate::support::{Random, Spool, wait_for};

/// A job over Parquet with CSV as its output, or JSON where each file brings its own columns.
fn reading(columns: &str, query: &str) -> Spool {
    let format = if columns.is_empty() { "json" } else { "csv" };
    Spool::new(&format!(
        "[input.format.parquet]\n{columns}[transform.sql]\nquery = '''{query}'''\n\
         [output]\npath = \"output.txt\"\n[output.format.{format}]\n"
    ))
}

/// A Parquet file with what `query` makes of the numbers from 1 to `rows` as `id`.
fn file(rows: usize, query: &str) -> Vec<u8> {
    let spool = Spool::new(&format!(
        "[input.format.csv]\nheader = false\n[input.format.csv.columns]\nid = \"bigint\"\n\
         [transform.sql]\nquery = '''{query}'''\n[output]\npath = \"unused\"\n[output.format.parquet]\n"
    ));
    let numbers: String = (1..=rows).map(|number| format!("{number}\n")).collect();
    fs::write(spool.path("numbers"), numbers).unwrap();
    let output = spool.run("batch", &["-o", "made.parquet", "numbers"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(spool.path("made.parquet")).unwrap()
}

const TYPES: &str = "select id, cast(id as int) as i, cast(id as smallint) as s, id / cast(4 as double) as d, \
    cast(id as real) as r, 'n' || id as name, id % 2 = 0 as even, date '2024-02-27' as day, \
    timestamp '2024-02-28 22:35:00.25' as at, cast(id as decimal(9,2)) as price, \
    nullif(id, 2) as maybe from input";

#[test]
fn every_type_goes_through_parquet_and_back() {
    let spool = reading("", "select *, _file, _line from input where _line <> 3");
    spool.drop_file("a.parquet", file(4, TYPES));
    spool.run_once();
    let row = |id: u32, d: &str, even: bool, maybe: &str| {
        format!(
            "{{\"id\":{id},\"i\":{id},\"s\":{id},\"d\":{d},\"r\":{id}.0,\"name\":\"n{id}\",\"even\":{even},\
             \"day\":\"2024-02-27\",\"at\":\"2024-02-28 22:35:00.25\",\"price\":{id}.00,\"maybe\":{maybe},\
             \"_file\":\"a.parquet\",\"_line\":{id}}}\n"
        )
    };
    let expected =
        row(1, "0.25", false, "1") + &row(2, "0.5", true, "null") + &row(4, "1.0", true, "4");
    assert_eq!(spool.output(), expected);
    spool.assert_names(&["processed-a.parquet"]);
}

#[test]
fn the_drivers_agree_on_a_large_file() {
    let content = file(300_000, "select id, id * 6364136223846793005 as mixed from input");
    let row_wise = "select id + 1 as id, mixed, _line from input where mixed % 3 = 0";
    for query in [row_wise, "select * from input order by mixed", "select count(*) as n from input"]
    {
        let spool = reading("", query);
        spool.drop_file("a", &content);
        fs::write(spool.path("copy"), &content).unwrap();
        spool.run_once();
        let batch = spool.run("batch", &["copy"]);
        assert!(batch.status.success(), "{}", String::from_utf8_lossy(&batch.stderr));
        let piped = spool.pipe("batch", &["-"], &content);
        assert!(spool.output() == String::from_utf8_lossy(&batch.stdout), "{query}");
        assert!(spool.output() == String::from_utf8_lossy(&piped.stdout), "{query}");
        assert!(!spool.output().is_empty());
    }
}

#[test]
fn a_file_that_ends_in_the_middle_is_still_arriving() {
    let whole = file(100, TYPES);
    let spool = Spool::with_input(
        "settle = \"0s\"\nincomplete_grace = \"1h\"",
        "[input.format.parquet]\n[output]\npath = \"output.txt\"\n[output.format.json]\n",
    );
    for length in [1, 3, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        spool.drop_file(format!("cut-{length}"), &whole[..length]);
    }
    spool.drop_file("odd", "this is a text, and long enough");
    spool.drop_file("whole", &whole);
    spool.drop_file("empty", "");
    spool.run_once();
    let names = spool.names();
    assert_eq!(names.iter().filter(|name| name.starts_with("cut-")).count(), 7, "{names:?}");
    assert!(names.contains("failed-odd") && names.contains("processed-empty"), "{names:?}");
    assert!(names.contains("processed-whole"));
    assert!(spool.read("in/failed-odd.error.json").contains("is no Parquet file"));
    assert_eq!(spool.output().lines().count(), 100);
    // The grace is over.
    spool.configure(
        "settle = \"0s\"\nincomplete_grace = \"0s\"",
        "[input.format.parquet]\n[output]\npath = \"output.txt\"\n[output.format.json]\n",
    );
    spool.run_once();
    assert!(spool.read("in/failed-cut-100.error.json").contains("ends in the middle"));
}

/// Whatever is in the file, it becomes a microbatch or is set aside, and the daemon lives.
#[test]
fn a_damaged_file_harms_nobody_else() {
    let whole = file(2_000, TYPES);
    let spool = reading("", "select * from input");
    spool.drop_file("a", &whole);
    spool.run_once();
    let mut random = Random(7);
    for number in 0..150 {
        let mut content = whole.clone();
        for _ in 0..=random.below(4) {
            // Most of the structure is at the end.
            let from = if number % 2 == 0 { whole.len() as u64 / 2 } else { 0 };
            let at = from + random.below(whole.len() as u64 - from - 4);
            content[at as usize] = random.next() as u8;
        }
        spool.drop_file(format!("f{number:03}"), content);
    }
    spool.drop_file("z", &whole);
    spool.run("run", &["--once"]);
    spool.run_once();
    let names = spool.names();
    let left: Vec<_> =
        names.iter().filter(|name| name.starts_with('f') && !name.starts_with("failed-")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(names.contains("processed-z"), "{names:?}");
    let failed = names.iter().filter(|name| name.starts_with("failed-")).count();
    assert!(failed > 50, "{failed}");
}

/// The library reads nothing of a file whose index counts no records, and says nothing.
#[test]
fn a_file_that_counts_wrongly_is_not_taken_for_a_shorter_one() {
    let whole = file(1000, "select id from input");
    // The total in the index is the first of these: field 3, a 64-bit number, 1000 in zigzag.
    let total = [0x16, 0xd0, 0x0f];
    let index = whole.len()
        - 8
        - u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().unwrap()) as usize;
    let at = index + whole[index..].windows(3).position(|bytes| bytes == total).unwrap();
    let spool = reading("", "select count(*) as n from input");
    for (name, zigzag) in
        [("a", [0x16, 0x80, 0x00]), ("b", [0x16, 0xce, 0x0f]), ("c", [0x16, 0xd2, 0x0f])]
    {
        let mut content = whole.clone();
        content[at..at + 3].copy_from_slice(&zigzag);
        spool.drop_file(name, content);
    }
    spool.drop_file("d", &whole);
    spool.run_once();
    assert_eq!(spool.output(), "{\"n\":1000}\n");
    for name in ["a", "b", "c"] {
        let report = spool.read(&format!("in/failed-{name}.error.json"));
        assert!(report.contains("records by its index"), "{report}");
    }
}

#[test]
fn columns_that_are_named_are_checked() {
    let columns = "[input.format.parquet.columns]\ni = \"bigint\"\nr = \"double\"\nprice = \"decimal(12,4)\"\n";
    let spool = reading(columns, "select i, r, price from input");
    spool.drop_file("a", file(1, TYPES));
    spool.drop_file("b", file(1, "select id as i, cast(1.5 as double) as r from input"));
    spool.drop_file(
        "c",
        file(1, "select 'x' as i, cast(1.5 as double) as r, 1 as price from input"),
    );
    spool.run_once();
    assert_eq!(spool.output(), "i,r,price\n1,1.0,1.0000\n");
    assert!(spool.read("in/failed-b.error.json").contains("has no column `price`"));
    let report = spool.read("in/failed-c.error.json");
    assert!(report.contains("column `i` is varchar, expected bigint"), "{report}");
    let strict = columns.replace(
        "[input.format.parquet.columns]",
        "unknown = \"reject\"\n[input.format.parquet.columns]",
    );
    let spool = reading(&strict, "select i, r, price from input");
    spool.drop_file("a", file(1, TYPES));
    spool.run_once();
    assert!(spool.read("in/failed-a.error.json").contains("unknown column `id`"));
}

/// Without named columns each file brings its own.
#[test]
fn files_may_bring_other_columns_where_the_output_has_none() {
    let spool = reading("", "select * from input");
    spool.drop_file("a", file(1, "select id from input"));
    spool.drop_file("b", file(1, "select 2 as other, id as _file from input"));
    spool.run_once();
    let expected = "{\"id\":1}\n{\"other\":2,\"_file\":1}\n";
    assert_eq!(spool.output(), expected);
    let batch = spool.run("batch", &["in/processed-a", "in/processed-b"]);
    assert_eq!(String::from_utf8_lossy(&batch.stdout), expected);
    let csv = "[input.format.parquet]\n[output]\npath = \"output.txt\"\n[output.format.csv]\n";
    let output = Spool::new(csv).run("check", &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("csv needs the columns"), "{said}");
}

/// A file may have a column of the name under which a query asks for the file.
#[test]
fn a_column_of_the_file_comes_before_the_name_of_the_file() {
    let spool = reading("", "select _file, _line from input");
    spool.drop_file("a", file(1, "select 'mine' as _file from input"));
    spool.run_once();
    assert_eq!(spool.output(), "{\"_file\":\"mine\",\"_line\":1}\n");
}

#[test]
fn a_query_that_does_not_fit_the_file_sets_it_aside() {
    let spool = reading("", "select missing from input");
    spool.drop_file("a", file(1, "select id from input"));
    spool.run_once();
    assert!(spool.read("in/failed-a.error.json").contains("missing"));
    // What can be known without a file is known at the start.
    let spool = reading("", "selec 1");
    let output = spool.run("check", &[]);
    assert_eq!(output.status.code(), Some(2));
}

const WRITING: &str = "[input.format.csv]\nheader = false\n[input.format.csv.columns]\nid = \"bigint\"\n\
    [transform.sql]\nquery = \"select id, _file from input where id > 0\"\n\
    [output]\npath = \"out\"\n[output.format.parquet]\n";

fn parts(spool: &Spool) -> Vec<String> {
    let entries = fs::read_dir(spool.path("out")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

#[test]
fn each_microbatch_is_one_file_of_the_folder() {
    let spool = Spool::new(WRITING);
    spool.drop_file("a", "1\n2\nbad\n");
    spool.drop_file("b", "-1\n");
    spool.drop_file("c", "3\n");
    spool.run_once();
    assert_eq!(parts(&spool), ["0000000000000001.parquet", "0000000000000003.parquet"]);
    assert_eq!(spool.rejects().lines().count(), 1);
    // And the owner.
    assert_eq!(fs::read_dir(spool.path("out")).unwrap().count(), 3);
    // What a reader has taken away does not come back.
    fs::remove_file(spool.path("out/0000000000000001.parquet")).unwrap();
    spool.drop_file("d", "4\n");
    spool.run_once();
    assert_eq!(parts(&spool), ["0000000000000003.parquet", "0000000000000004.parquet"]);
    let back = reading("", "select * from input");
    for name in parts(&spool) {
        back.drop_file(&name, fs::read(spool.path("out").join(&name)).unwrap());
    }
    back.run_once();
    assert_eq!(back.output(), "{\"id\":3,\"_file\":\"c\"}\n{\"id\":4,\"_file\":\"d\"}\n");
}

/// A reader may take a file as soon as it is there, and a crash at that moment makes it twice
/// nowhere.
#[test]
fn a_file_that_was_taken_before_a_crash_does_not_come_back() {
    let mut taken = 0;
    for number in 1..100 {
        let mut spool = Spool::new(WRITING);
        spool.drop_file("a", "1\n");
        spool.environment("SPOOLMILL_FAULT", &format!("abort:{number}"));
        let aborted = !spool.run("run", &["--once"]).status.success();
        spool.no_environment();
        let part = spool.path("out/0000000000000001.parquet");
        let was_there = fs::remove_file(&part).is_ok();
        spool.run_once();
        assert_eq!(part.exists(), !was_there, "abort:{number}");
        taken += u32::from(was_there && aborted);
        if !aborted {
            break;
        }
    }
    assert!(taken > 0);
}

#[test]
fn a_folder_that_is_not_this_job_s_is_not_written_to() {
    let refused = |spool: &Spool, reason: &str| {
        let output = spool.run("run", &["--once"]);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains(reason), "{log}");
    };
    // Files of an earlier ledger.
    let spool = Spool::new(WRITING);
    fs::create_dir(spool.path("out")).unwrap();
    let part = spool.path("out/0000000000000001.parquet");
    fs::write(&part, "mine").unwrap();
    spool.drop_file("a", "1\n");
    refused(&spool, "holds files that this ledger has not written");
    assert_eq!(fs::read(&part).unwrap(), b"mine");
    spool.assert_names(&["a"]);
    fs::remove_file(&part).unwrap();
    spool.run_once();
    assert_eq!(parts(&spool).len(), 1);
    // Another job.
    let text = fs::read_to_string(spool.path("job.toml")).unwrap();
    fs::write(spool.path("job.toml"), text.replace("\"state\"", "\"other\"")).unwrap();
    fs::rename(&part, spool.path("taken")).unwrap();
    refused(&spool, "belongs to the job whose state is in");
    // The state would be swept.
    fs::write(spool.path("job.toml"), text.replace("\"out\"", "\"state/staging\"")).unwrap();
    refused(&spool, "which the job itself needs");
}

/// What waits in a folder that was taken away is not taken for published.
#[test]
fn a_folder_that_is_taken_away_is_missed() {
    let mut missed = 0;
    for number in 1..100 {
        let mut spool = Spool::new(WRITING);
        spool.drop_file("a", "1\n");
        spool.environment("SPOOLMILL_FAULT", &format!("abort:{number}"));
        let aborted = !spool.run("run", &["--once"]).status.success();
        spool.no_environment();
        let owed = spool.path("state/ledger.db").exists()
            && spool.ledger("SELECT count(*) FROM sqlite_master WHERE name = 'owed'") == 1
            && spool.ledger("SELECT count(*) FROM owed") == 1;
        if owed {
            fs::rename(spool.path("out"), spool.path("taken")).unwrap();
            let output = spool.run("run", &["--once"]);
            let log = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "abort:{number}: {log}");
            assert!(log.contains("is not the folder that committed files are owed to"), "{log}");
            fs::remove_dir(spool.path("out")).unwrap();
            fs::rename(spool.path("taken"), spool.path("out")).unwrap();
            missed += 1;
        }
        spool.run_once();
        assert_eq!(parts(&spool).len(), 1, "abort:{number}");
        if !aborted {
            break;
        }
    }
    assert!(missed > 0);
}

#[test]
fn a_folder_that_is_replaced_is_followed() {
    let spool = Spool::new(WRITING);
    let daemon = spool.start();
    spool.drop_file("a", "1\n");
    wait_for("the part", || spool.path("out").exists() && !parts(&spool).is_empty());
    wait_for("it is released", || spool.ledger("SELECT count(*) FROM owed") == 0);
    fs::rename(spool.path("out"), spool.path("moved")).unwrap();
    fs::create_dir(spool.path("out")).unwrap();
    spool.drop_file("b", "2\n");
    wait_for("the other part", || parts(&spool) == ["0000000000000002.parquet"]);
    daemon.stop();
}

/// A disk that is full gets no fuller by trying again.
#[test]
fn what_was_staged_for_a_commit_that_failed_is_removed() {
    let lines = "[output.format.lines]\n";
    for (configuration, folder) in [(WRITING, "out"), (lines, "state/staging")] {
        let mut spool = Spool::new(configuration);
        for number in 0..5 {
            spool.drop_file(format!("f{number}"), "1\n".repeat(200_000));
        }
        spool.environment("SPOOLMILL_FAULT", "fail:commit:28:1+");
        assert!(!spool.run("run", &["--once"]).status.success());
        let left = fs::read_dir(spool.path(folder)).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == ".spoolmill-owner"), "{left:?}");
        // What fails after the last commit does not last for ever either.
        spool.environment("SPOOLMILL_FAULT", "fail:commit:28:2+");
        assert!(!spool.run("run", &["--once"]).status.success());
        spool.no_environment().run_once();
        assert!(spool.names().iter().all(|name| name.starts_with("processed-")));
    }
}

#[test]
fn a_final_reads_all_files_and_can_write_one() {
    let finals = "[[final]]\nquery = \"select id from output order by id desc\"\npath = \"sorted.csv\"\n\
        [final.format.csv]\n[[final]]\nquery = \"select sum(id) as total from output\"\npath = \"total.parquet\"\n";
    let spool =
        Spool::with_input("settle = \"0s\"\nend_marker = \"END\"", &format!("{WRITING}{finals}"));
    spool.drop_file("a", "1\n2\n");
    spool.drop_file("b", "30\n");
    spool.drop_file("c", "END\n");
    spool.run_once();
    assert_eq!(spool.read("sorted.csv"), "id\n30\n2\n1\n");
    let back = reading("", "select * from input");
    back.drop_file("a", fs::read(spool.path("total.parquet")).unwrap());
    back.run_once();
    assert_eq!(back.output(), "{\"total\":33}\n");
}

#[test]
fn a_table_can_be_parquet_and_a_sample_too() {
    let spool = Spool::new(
        "[input.format.lines]\n[transform.sql]\nquery = \"select line, name from input join t on t.id = cast(line as bigint)\"\n\
         [[table]]\nname = \"t\"\npath = \"t.parquet\"\n[output]\npath = \"output.txt\"\n[output.format.csv]\n",
    );
    let content = file(3, TYPES);
    fs::write(spool.path("t.parquet"), &content).unwrap();
    spool.drop_file("a", "2\n");
    spool.run_once();
    assert_eq!(spool.output(), "line,name\n2,n2\n");
    let output = Command::new(env!("CARGO_BIN_EXE_spoolmill"))
        .args(["check", "--infer"])
        .arg(spool.path("t.parquet"))
        .output()
        .unwrap();
    let stanza = String::from_utf8_lossy(&output.stdout);
    assert!(
        stanza.starts_with("[input.format.parquet]\n[input.format.parquet.columns]\nid"),
        "{stanza}"
    );
    for column in [
        "i     = \"int\"",
        "price = \"decimal(9,2)\"",
        "at    = \"timestamp\"",
        "even  = \"boolean\"",
    ] {
        assert!(stanza.contains(column), "{stanza}");
    }
    // What is printed is a job.
    let query = "select i, price from input";
    let spool = reading(stanza.trim_start_matches("[input.format.parquet]\n"), query);
    spool.drop_file("a", content);
    spool.run_once();
    assert_eq!(spool.output(), "i,price\n1,1.00\n2,2.00\n3,3.00\n");
}

#[test]
fn a_rule_for_numbers_takes_columns_of_numbers() {
    let spool = Spool::new(
        "[input.format.parquet]\n[transform.scale]\nbelow = 3.0\nby = 100.0\n\
         [output]\npath = \"output.txt\"\n[output.format.numbers]\n",
    );
    spool.drop_file("a", file(3, "select cast(id as double) as x from input"));
    spool.drop_file("b", file(3, "select id from input"));
    spool.drop_file(
        "c",
        file(3, "select cast(id as double) as x, cast(1.5 as double) as y from input"),
    );
    spool.run_once();
    assert_eq!(spool.output(), "100.0\n200.0\n3.0\n");
    assert!(spool.read("in/failed-b.error.json").contains("a column of numbers"));
    assert!(spool.read("in/failed-c.error.json").contains("one column of type double"));
}

#[test]
fn a_command_gets_the_records_as_csv() {
    let spool = Spool::new(
        "[input.format.parquet]\n[transform.command]\nargv = [\"sort\", \"-r\"]\n\
         [output]\npath = \"output.txt\"\n[output.format.lines]\n",
    );
    spool.drop_file("a", file(3, "select id, 'a,b' as t from input"));
    spool.run_once();
    assert_eq!(spool.output(), "3,\"a,b\"\n2,\"a,b\"\n1,\"a,b\"\n");
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    for (configuration, verb, reason) in [
        (
            "end_marker = \"END\"\n[input.format.parquet]\n[output]\npath = \"o\"\n[output.format.json]\n",
            "check",
            "are for lines, and parquet has none",
        ),
        (WRITING, "stream", "use `batch`"),
        (
            "[input.format.parquet]\n[output]\npath = \"o\"\n[output.format.json]\n",
            "stream",
            "use `batch`",
        ),
        (
            "[input.format.lines]\n[transform.command]\nargv = [\"cat\"]\n[output]\npath = \"o\"\n[output.format.parquet]\n",
            "check",
            "a command writes lines",
        ),
        (
            "[input.format.parquet]\n[output]\npath = \"o\"\n[output.format.json]\n[[final]]\nquery = \"select * from output\"\npath = \"f\"\n",
            "check",
            "needs the columns of the output",
        ),
    ] {
        let spool = Spool::new(configuration);
        let output = spool.run(verb, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{configuration}: {said}");
    }
}

/// Types that Parquet has in several kinds are read back as they were meant.
#[test]
fn what_is_written_reads_back_as_the_same_type() {
    let types = "select id, to_timestamp_seconds(id) as sec, to_timestamp_millis(id) as ms, \
        arrow_cast(id, 'UInt64') as u, arrow_cast(id, 'Int8') as b, arrow_cast('x', 'Utf8View') as v \
        from input";
    let columns = "[input.format.parquet.columns]\nsec = \"timestamp\"\nms = \"timestamp\"\n\
        u = \"decimal(20,0)\"\nb = \"smallint\"\nv = \"varchar\"\n";
    let spool = reading(columns, "select * from input");
    spool.drop_file("a", file(1, types));
    spool.run_once();
    assert_eq!(
        spool.output(),
        "sec,ms,u,b,v\n1970-01-01 00:00:01,1970-01-01 00:00:00.001,1,1,x\n",
        "{:?}",
        spool.names()
    );
    let interval = WRITING.replace("select id, _file", "select id, interval '1 month' as i, _file");
    let output = Spool::new(&interval).run("check", &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("parquet cannot hold it"), "{said}");
}

/// A value of a dictionary that stands in every record is in memory once.
#[test]
fn a_long_text_in_every_record_costs_no_memory() {
    let content = file(20_000, "select repeat('long ', 20000) as s from input");
    assert!(content.len() < 200_000, "{}", content.len());
    let spool = reading("", "select count(*) as n, max(length(s)) as l from input");
    spool.drop_file("a", content);
    let mut command = spool.command("run");
    let child = command.arg("--once").stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut most = 0;
    let status = format!("/proc/{}/status", child.id());
    let mut daemon = crate::support::spool::Daemon::of(child, spool.path("no-log"));
    wait_for("the end", || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or("0");
        let kib = line.split_whitespace().find_map(|word| word.parse::<u64>().ok());
        most = most.max(kib.unwrap_or(0));
        daemon.child.try_wait().unwrap().is_some()
    });
    assert_eq!(spool.output(), "{\"n\":20000,\"l\":100000}\n");
    assert!(most > 0 && most < 400 << 10, "{most} KiB");
}

/// Files by another writer, and ours for another reader.
#[test]
fn duckdb_reads_what_we_write_and_we_read_what_it_writes() {
    let Some(duckdb) = crate::support::duckdb() else { return };
    let spool = reading("", "select * from input order by id");
    let ask = |sql: &str| {
        let output = Command::new(&duckdb)
            .args(["-csv", "-noheader", "-c", sql])
            .current_dir(spool.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for (name, codec) in [("a", "snappy"), ("b", "zstd"), ("c", "gzip"), ("d", "lz4_raw")] {
        ask(&format!(
            "copy (select id, id::utinyint as u, (id / 3)::float as f, 'x' || id as s, id::decimal(18,3) as d, \
             timestamp_ns '2024-02-28 22:35:00.123456' as ns, timestamptz '2024-02-28 22:35:00+01' as tz, \
             date '1969-12-31' as day, case when id % 2 = 0 then id end as n from range(3) t(id)) \
             to 'in/{name}.tmp' (format parquet, compression {codec})"
        ));
        fs::rename(spool.input(format!("{name}.tmp")), spool.input(name)).unwrap();
    }
    spool.run_once();
    let one = "{\"id\":1,\"u\":1,\"f\":0.33333334,\"s\":\"x1\",\"d\":1.000,\"ns\":\"2024-02-28 22:35:00.123456\",\"tz\":\"2024-02-28 21:35:00\",\"day\":\"1969-12-31\",\"n\":null}\n";
    let output = spool.output();
    assert_eq!(output.matches(one).count(), 4, "{output}\n{:?}", spool.names());
    fs::write(spool.path("ours.parquet"), file(3, TYPES)).unwrap();
    let theirs = ask("select * from 'ours.parquet' where id = 2");
    assert_eq!(theirs, "2,2,2,0.5,2.0,n2,true,2024-02-27,2024-02-28 22:35:00.25,2.00,NULL\n");
}
