//! Aggregates at the ends of their types, over any cut of the records, with and without groups. What is
//! right stands here as text: it is never asked of the engine.

use crate::support::Spool;

const COLUMNS: &str = "[input.format.csv]\nheader = false\n[input.format.csv.columns]\n\
    k = \"varchar\"\ni = \"bigint\"\nd = \"double\"\nr = \"real\"\nm = \"decimal(38, 2)\"\n\
    [output]\npath = \"output.txt\"\n[output.format.csv]\n";

/// Functions, records of the columns `i,d,r,m`, and what the functions give for them.
const TABLE: [(&str, &[&str], &str); 26] = [
    ("count(*); count(i); sum(i); min(i); max(i)", &[], "0,0,,,"),
    ("sum(m); min(d); max(d); corr(d, r); var_pop(d)", &[], ",,,,"),
    ("count(*); count(i); sum(i); sum(m); min(d); max(r)", &[",,,", ",,,"], "2,0,,,,"),
    (
        "sum(i); max(i)",
        &["9223372036854775806,,,", "1,,,"],
        "9223372036854775807,9223372036854775806",
    ),
    (
        "sum(i); min(i)",
        &["-9223372036854775807,,,", "-1,,,"],
        "-9223372036854775808,-9223372036854775807",
    ),
    ("sum(i)", &["9223372036854775807,,,", "-9223372036854775808,,,", ",,,"], "-1"),
    (
        "sum(m)",
        &[",,,999999999999999999999999999999999999.98", ",,,0.01"],
        "999999999999999999999999999999999999.99",
    ),
    (
        "sum(m); count(m)",
        &[
            ",,,-500000000000000000000000000000000000.00",
            ",,,-400000000000000000000000000000000000.00",
        ],
        "-900000000000000000000000000000000000.00,2",
    ),
    ("min(d); max(d); min(r); max(r)", &[",inf,inf,", ",inf,inf,"], "inf,inf,inf,inf"),
    (
        "min(d); max(d); min(r); max(r)",
        &[",-inf,-inf,", ",-inf,-inf,", ",,,"],
        "-inf,-inf,-inf,-inf",
    ),
    (
        "min(d); max(d); min(r); max(r)",
        &[",1.5,nan,", ",nan,2.5,", ",-2.5,-inf,"],
        "-2.5,nan,-inf,nan",
    ),
    ("min(d); max(d); min(r); max(r)", &[",nan,nan,", ",nan,nan,"], "nan,nan,nan,nan"),
    (
        "round(corr(d, r), 9); covar_pop(d, r); var_pop(d)",
        &[",1,1,", ",2,3,", ",3,2,"],
        "0.5,0.3333333333333333,0.6666666666666666",
    ),
    ("round(corr(d, r), 9); round(regr_slope(r, d), 9)", &[",1,6,", ",2,4,", ",3,2,"], "-1.0,-2.0"),
    ("corr(d, r)", &[",1,nan,", ",2,2,", ",3,3,"], "nan"),
    ("corr(d, i); corr(d, d)", &["1,inf,,", "2,2,,", ",3,,"], "nan,nan"),
    (
        "round(corr(d, i), 9); corr(i, 7); corr(d, -d)",
        &["1000000001,1000000001,,", "1000000003,1000000002,,", "1000000002,1000000003,,"],
        "0.5,,-1.0",
    ),
    (
        "sum(d); avg(d)",
        &[",0.1,,", ",0.2,,", ",0.3,,", ",1e16,,", ",1,,", ",1,,", ",-1e16,,"],
        "2.6,0.37142857142857144",
    ),
    ("sum(d); avg(d); sum(r); avg(r)", &[",inf,-inf,", ",1,1,", ",,,"], "inf,inf,-inf,-inf"),
    ("sum(d); avg(d); sum(r); avg(r)", &[",inf,nan,", ",-inf,1,"], "nan,nan,nan,nan"),
    ("sum(r); avg(r)", &[",,0.1,", ",,0.2,"], "0.30000000447034836,0.15000000223517418"),
    ("sum(d); avg(d); avg(i); avg(m)", &[",,,", ",,,"], ",,,"),
    ("avg(i); avg(m)", &["1,,,0.01", "2,,,0.02", "2,,,0.02"], "1.6666666666666667,0.016667"),
    ("avg(m)", &[",,,-0.01", ",,,-0.02", ",,,-0.02", ",,,"], "-0.016667"),
    (
        "avg(m); max(m)",
        &[",,,99999999999999999999999999999999.99", ",,,99999999999999999999999999999999.98"],
        "99999999999999999999999999999999.985000,99999999999999999999999999999999.99",
    ),
    (
        "sum(distinct i); sum(distinct d); avg(distinct m); median(i); median(d)",
        &["9223372036854775806,1e16,,0.01", "1,1,,0.02", "1,1,,0.02", ",,,", "1,-1e16,,"],
        "9223372036854775807,1.0,0.015000,1.0,1.0",
    ),
];

/// The same for columns `s,b,j,p,t`.
const MORE_COLUMNS: &str = "[input.format.csv]\nheader = false\n[input.format.csv.columns]\n\
    k = \"varchar\"\ns = \"varchar\"\nb = \"boolean\"\nj = \"int\"\np = \"decimal(10, 2)\"\n\
    t = \"timestamp\"\n[output]\npath = \"output.txt\"\n[output.format.csv]\n";

const MORE: [(&str, &[&str], &str); 10] = [
    (
        "count(s); min(s); max(s); min(b); max(b); min(t); max(t); bool_and(b); bool_or(b)",
        &[",,,,", ",,,,"],
        "0,,,,,,,,",
    ),
    ("min(s); max(s); count(distinct s)", &["b,,,,", "a,,,,", "ä,,,,", "b,,,,"], "a,ä,3"),
    (
        "min(b); max(b); bool_and(b); bool_or(b); count(b)",
        &[",true,,,", ",false,,,", ",,,,"],
        "false,true,false,true,2",
    ),
    ("bit_and(j); bit_or(j); bit_xor(j)", &[",,6,,", ",,5,,", ",,7,,", ",,,,"], "4,7,4"),
    (
        "sum(j); avg(j); min(j); max(j)",
        &[",,2147483647,,", ",,2147483647,,", ",,-2147483648,,"],
        "2147483646,715827882.0,-2147483648,2147483647",
    ),
    (
        "min(t); max(t)",
        &[",,,,0001-01-01 00:00:00", ",,,,9999-12-31 23:59:59.999999"],
        "0001-01-01 00:00:00,9999-12-31 23:59:59.999999",
    ),
    ("first_value(s order by j); last_value(s order by j)", &["c,,3,,", "a,,1,,", "b,,2,,"], "a,c"),
    ("string_agg(s, '-'); median(j)", &["c,,4,,", "a,,1,,"], "c-a,2.5"),
    (
        "sum(p); avg(p); sum(distinct p); avg(distinct p)",
        &[",,,99999999.99,", ",,,99999999.99,", ",,,0.02,"],
        "200000000.00,66666666.666667,100000000.01,50000000.005000",
    ),
    (
        "stddev_pop(j); var_samp(j); regr_slope(p, j); regr_intercept(p, j); round(regr_r2(p, j), 9); \
         regr_count(p, j); covar_samp(p, j)",
        &[",,1,2,", ",,2,4,", ",,3,5,", ",,4,9,", ",,5,,"],
        "1.4142135623730951,2.5,2.2,-0.5,0.930769231,4,3.6666666666666665",
    ),
];

/// The records in one file, in a file each, and in two with one between them that holds none.
fn cuts(records: &[&str]) -> Vec<Vec<String>> {
    let file = |records: &[&str]| records.iter().map(|record| format!("a,{record}\n")).collect();
    let (before, behind) = records.split_at(records.len() / 2);
    let each = records.iter().map(|record| file(&[*record])).collect();
    vec![vec![file(records)], each, vec![file(before), String::new(), file(behind)]]
}

/// The list with names: two of one function would be columns of one name.
fn named(functions: &str) -> String {
    let all = functions.split("; ").enumerate();
    all.map(|(place, one)| format!("{one} as f{place}")).collect::<Vec<_>>().join(", ")
}

fn view(name: &str, query: &str) -> String {
    format!(
        "[[view]]\nname = \"{name}\"\nmode = \"complete\"\npath = \"{name}.csv\"\nevery = \"0s\"\n\
         allow_unbounded_state = true\n\
         query = \"{query}\"\n[view.format.csv]\nheader = false\n"
    )
}

/// Also for no record at all: without groups there is one row from the beginning.
#[test]
fn a_function_is_right_at_the_ends_of_its_type_in_any_cut() {
    let tables = TABLE.iter().map(|row| (COLUMNS, row));
    for (columns, (functions, records, expected)) in
        tables.chain(MORE.iter().map(|row| (MORE_COLUMNS, row)))
    {
        let list = named(functions);
        let all = view("all", &format!("select {list} from output"));
        let groups = view("groups", &format!("select {list} from output group by k"));
        for files in cuts(records) {
            let spool = Spool::new(&format!("{columns}{all}{groups}"));
            spool.run_once();
            for (number, file) in files.iter().enumerate() {
                spool.drop_file(format!("f{number}"), file);
                // Each is a microbatch of a process of its own: the states go through the ledger.
                spool.run_once();
            }
            let expected = format!("{expected}\n");
            assert_eq!(spool.read("all.csv"), expected, "{functions} of {files:?}");
            let of_groups = if records.is_empty() { "" } else { &expected };
            assert_eq!(spool.read("groups.csv"), of_groups, "{functions} of {files:?}");
        }
    }
}

/// The file with which a sum leaves its type is set aside; what came before and what comes after counts.
#[test]
fn a_sum_that_its_type_cannot_hold_fails_the_file() {
    for (function, before, too_much, after, expected) in [
        ("sum(i)", "9223372036854775807,,,", "1,,,", "-7,,,", "9223372036854775800"),
        ("sum(i)", "-9223372036854775808,,,", "-1,,,", "8,,,", "-9223372036854775800"),
        (
            "sum(m)",
            ",,,999999999999999999999999999999999999.99",
            ",,,0.01",
            ",,,-0.99",
            "999999999999999999999999999999999999.00",
        ),
    ] {
        for grouping in ["", " group by k"] {
            for mode in ["complete", "update"] {
                let query = format!("select {function} as f from output{grouping}");
                let view = view("v", &query).replace("complete", mode);
                let spool = Spool::new(&format!("{COLUMNS}{view}"));
                for (name, record) in [("a", before), ("b", too_much), ("c", after)] {
                    spool.drop_file(name, format!("x,{record}\n"));
                    let log = spool.run_once();
                    assert_eq!(
                        log.contains("a sum is too large for its type"),
                        name == "b",
                        "{log}"
                    );
                }
                spool.assert_names(&[
                    "failed-b",
                    "failed-b.error.json",
                    "processed-a",
                    "processed-c",
                ]);
                let result = spool.read("v.csv");
                assert_eq!(result.lines().last(), Some(expected), "{query} {mode}");
            }
        }
    }
}

/// An average whose digits its type cannot hold is left out; the state of an average fails the file.
#[test]
fn an_average_that_its_type_cannot_hold_is_no_number() {
    let spool = Spool::new(&format!(
        "{COLUMNS}{}",
        view("v", "select k, avg(m) as a from output group by k")
    ));
    spool.drop_file("a", "x,,,,999999999999999999999999999999999999.99\ny,,,,0.01\n");
    let log = spool.run_once();
    assert!(log.contains("an average is too large for its type, decimal(38,6)"), "{log}");
    assert_eq!(spool.read("v.csv"), "y,0.010000\n");
}

/// A sum is right when its end is, whatever it was on the way there within one file; also in finals,
/// which have no states.
#[test]
fn what_a_sum_was_on_its_way_does_not_matter() {
    let query = "select sum(i) as f from output";
    let spool = Spool::new(&format!("{COLUMNS}{}", view("v", query)));
    spool.drop_file("a", "x,9223372036854775807,,,\nx,9,,,\nx,-9,,,\n");
    spool.run_once();
    assert_eq!(spool.read("v.csv"), "9223372036854775807\n");
    let last = "[[final]]\npath = \"last.csv\"\nquery = \"select min(d) as a, max(d) as b \
                from output\"\n[final.format.csv]\nheader = false\n";
    let spool = Spool::new(&format!("{COLUMNS}{last}"));
    spool.drop_file("a", "x,,inf,,\nx,,inf,,\n");
    let found = spool.run("batch", &[spool.input("a").to_str().unwrap()]);
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    assert_eq!(spool.read("last.csv"), "inf,inf\n");
}

/// A frame that moves forgets what leaves it, and its sums do not wrap.
#[test]
fn a_moving_frame_is_right_at_the_ends_of_its_type() {
    let frame = "over (order by k rows between 1 preceding and current row)";
    let query = format!(
        "select k, sum(i) {frame} as i, sum(d) {frame} as d, avg(d) {frame} as a, sum(m) {frame} as m \
         from input order by k"
    );
    let spool = Spool::new(&format!("{COLUMNS}[transform.sql]\nquery = \"{query}\"\n"));
    let records = [
        "a,9223372036854775807,1e16,,0.01",
        "b,-5,1,,0.02",
        "c,2,inf,,",
        "d,9223372036854775800,1,,999999999999999999999999999999999999.97",
        "e,,0.1,,0.01",
        "f,-1,0.2,,0.02",
        "g,1,nan,,",
        "h,1,1,,",
        "i,1,2,,",
    ];
    spool.drop_file("a", records.join("\n") + "\n");
    spool.run_once();
    let expected = [
        "a,9223372036854775807,1e+16,1e+16,0.01",
        "b,9223372036854775802,1e+16,5000000000000000.0,0.03",
        "c,-3,inf,inf,0.02",
        "d,9223372036854775802,inf,inf,999999999999999999999999999999999999.97",
        "e,9223372036854775800,1.1,0.55,999999999999999999999999999999999999.98",
        "f,-1,0.30000000000000004,0.15000000000000002,0.03",
        "g,0,nan,nan,0.02",
        "h,2,nan,nan,",
        "i,2,3.0,1.5,",
    ];
    let output = spool.output();
    assert_eq!(output.lines().skip(1).collect::<Vec<_>>(), expected);
    for (name, too_much, kind) in [
        ("b", "a,9223372036854775807,,,\nb,1,,,\n", "bigint"),
        ("c", "a,,1.7e308,,\nb,,1.7e308,,\nc,,1,,\n", "double"),
    ] {
        spool.drop_file(name, too_much);
        let log = spool.run_once();
        assert!(log.contains(&format!("a sum is too large for its type, {kind}")), "{log}");
    }
}
