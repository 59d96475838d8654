//! Continuous views: what they hold after each microbatch, through restarts, and in a batch.

use std::collections::BTreeMap;
use std::fs;

use crate::support::{Random, Spool, wait_for};

const INPUT: &str = "[input.format.csv]\nheader = false\n[input.format.csv.columns]\n\
    k = \"varchar\"\nn = \"bigint\"\n[output]\npath = \"output.txt\"\n[output.format.csv]\n";

fn view(name: &str, mode: &str, query: &str, more: &str) -> String {
    format!(
        "[[view]]\nname = \"{name}\"\nquery = \"\"\"{query}\"\"\"\nmode = \"{mode}\"\npath = \"{name}.csv\"\n{more}"
    )
}

const SUMS: &str = "select k, count(*) as c, sum(n) as s from output group by k";

fn job() -> Spool {
    let all = view("all", "complete", &format!("{SUMS} order by k"), "every = \"0s\"\n");
    Spool::new(&format!("{INPUT}{}{all}", view("changed", "update", SUMS, "")))
}

/// The view, computed from everything, by a few lines that are obviously right.
#[derive(Default)]
struct Model {
    groups: BTreeMap<String, (u64, i64)>,
    changes: Vec<String>,
}

impl Model {
    fn take(&mut self, records: &[(String, i64)]) {
        let mut touched = Vec::new();
        for (key, number) in records {
            let group = self.groups.entry(key.clone()).or_default();
            *group = (group.0 + 1, group.1 + number);
            if !touched.contains(key) {
                touched.push(key.clone());
            }
        }
        let mut lines: Vec<String> = touched.iter().map(|key| self.line(key)).collect();
        lines.sort();
        self.changes.extend(lines);
    }

    fn line(&self, key: &str) -> String {
        let (count, sum) = self.groups[key];
        format!("{key},{count},{sum}")
    }

    fn all(&self) -> String {
        let lines: String = self.groups.keys().map(|key| self.line(key) + "\n").collect();
        format!("k,c,s\n{lines}")
    }
}

#[test]
fn a_view_holds_what_all_files_together_give() {
    let spool = job();
    let (mut model, mut random) = (Model::default(), Random(3));
    let mut seen = 0;
    for number in 0..25 {
        let rows = random.below(12);
        let records: Vec<_> = (0..rows)
            .map(|_| (format!("key {}", random.below(9)), random.below(100) as i64 - 50))
            .collect();
        let text: String =
            records.iter().map(|(key, number)| format!("{key},{number}\n")).collect();
        spool.drop_file(format!("f{number:03}"), text);
        model.take(&records);
        // Some runs take several files.
        if random.below(3) > 0 {
            continue;
        }
        spool.run_once();
        seen += 1;
        assert_eq!(spool.read("all.csv"), model.all());
    }
    spool.run_once();
    assert!(seen > 3);
    assert_eq!(spool.read("all.csv"), model.all());
    let changes = spool.read("changed.csv");
    let mut lines: Vec<&str> = changes.lines().collect();
    assert_eq!(lines.remove(0), "k,c,s");
    lines.sort_unstable();
    model.changes.sort();
    assert_eq!(lines, model.changes);
}

#[test]
fn a_batch_gives_what_the_daemon_gives() {
    let spool = job();
    let large: String = (0..200_000).map(|id| format!("k{},{id}\n", id % 1000)).collect();
    spool.drop_file("a", &large);
    spool.drop_file("b", "k1,5\nnew,6\nbad,x\n");
    spool.run_once();
    let all = spool.read("all.csv");
    assert_eq!(all.lines().count(), 1002);
    let changes = spool.read("changed.csv");
    let inputs = ["-o", "again.txt", "in/processed-a", "in/processed-b", "--rejects", "-"];
    let refused = spool.run("batch", &inputs);
    let log = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(2) && log.contains("--no-views"), "{log}");
    assert!(log.contains("all.csv") && log.contains("changed.csv"), "{log}");
    let others = ["--view", "all=all-again.csv", "--view", "changed=changed-again.csv"];
    for more in [&others[..], &["--no-views"]] {
        let output = spool.run("batch", &[&inputs[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(spool.read("all-again.csv") == all && spool.read("all.csv") == all);
    assert!(spool.read("changed.csv") == changes);
}

/// The seed: unique numbers so far, sorted, seen after each file.
#[test]
fn unique_numbers_are_seen_after_each_file() {
    let numbers = "[input.format.numbers]\n[transform.scale]\nbelow = 10.0\nby = 100.0\n[output.format.numbers]\n";
    let output = "[output]\npath = \"output.txt\"\n[output.format.numbers]\n";
    let unique = view(
        "unique",
        "complete",
        "select distinct num from output order by num",
        "every = \"10ms\"\n",
    );
    let spool =
        Spool::new(&format!("{}{unique}", numbers.replace("[output.format.numbers]\n", output)));
    let daemon = spool.start();
    spool.drop_file("a", "12\n3\n12\n");
    wait_for("the first", || spool.read("unique.csv") == "12.0\n300.0\n");
    spool.drop_file("b", "300\n1\n");
    wait_for("the second", || spool.read("unique.csv") == "12.0\n100.0\n300.0\n");
    daemon.stop();
}

/// A group whose row cannot be computed takes no other with it, in either mode: it is left out, and told,
/// until it can be.
#[test]
fn a_group_that_cannot_be_computed_is_left_out() {
    let query = "select k, 100 / sum(n) as share from output group by k";
    let all = view("all", "complete", &format!("{query} order by share, k"), "every = \"0s\"\n");
    let spool = Spool::new(&format!("{INPUT}{}{all}", view("share", "update", query, "")));
    let mut keys: Vec<String> = (0..50).map(|key| format!("k{key:02}")).collect();
    let first: String = keys.iter().map(|key| format!("{key},5\n")).collect();
    spool.drop_file("a", first + "x,5\ny,5\n");
    spool.run_once();
    spool.drop_file("b", "x,-5\ny,-5\nk00,20\nz,1\n");
    let log = spool.run_once();
    for name in ["x", "y"] {
        let told = format!("group=\"{name}\" reason=\"the query failed: Divide by zero error\"");
        assert_eq!(log.matches(&told).count(), 2, "{told}: {log}");
    }
    keys.remove(0);
    let others: String = keys.iter().map(|key| format!("{key},20\n")).collect();
    assert_eq!(spool.read("all.csv"), format!("k,share\nk00,4\n{others}z,100\n"));
    let changed = spool.read("share.csv");
    assert!(changed.ends_with("\nk00,4\nz,100\n"), "{changed}");
    spool.drop_file("c", "x,10\n");
    spool.run_once();
    assert_eq!(spool.read("share.csv"), changed + "x,10\n");
    assert_eq!(spool.read("all.csv"), format!("k,share\nk00,4\nx,10\n{others}z,100\n"));
    spool.assert_names(&["processed-a", "processed-b", "processed-c"]);
}

/// A group may have a row only with the others around it, as under a window function: it is kept when
/// another one cannot be computed.
#[test]
fn a_group_that_needs_the_others_is_not_left_out_with_a_bad_one() {
    let query = "select k, 100 * sum(n) / sum(sum(n)) over () as share, 100 / (count(*) - 1) as r \
                 from output group by k order by k";
    let spool = Spool::new(&format!("{INPUT}{}", view("v", "complete", query, "")));
    spool.drop_file("a", "bad,3\nfull,7\nfull,0\nnone,0\nnone,0\n");
    let log = spool.run_once();
    assert_eq!(spool.read("v.csv"), "k,share,r\nfull,100,100\nnone,0,100\n", "{log}");
    assert_eq!(log.matches("is left out").count(), 1, "{log}");
}

/// With very many bad groups it is the query that is wrong: the file is set aside, or the old result stays.
#[test]
fn more_bad_groups_than_can_be_told_are_an_error_of_their_own() {
    let query = "select k, 100 / (sum(n) - 5) as r from output group by k";
    let all = view("all", "complete", query, "");
    for (views, fails) in [(view("v", "update", query, ""), true), (all, false)] {
        let spool = Spool::new(&format!("{INPUT}{views}"));
        let content: String = (0..1100).map(|key| format!("k{key},5\n")).collect();
        spool.drop_file("a", &content);
        let log = spool.run_once();
        assert!(log.contains("more than 1000 groups cannot be computed"), "{log}");
        assert_eq!(spool.names().contains("failed-a"), fails, "{log}");
    }
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_reason() {
    for (views, reason) in [
        (view("v", "append", SUMS, ""), "of the column of [event_time]"),
        (view("v", "update", &format!("{SUMS} order by k"), ""), "mode = \"complete\""),
        (view("v", "update", "select k, n from output", ""), "belongs in the transform"),
        (
            view("v", "update", "select distinct on (k) k, n from output", ""),
            "say which by `first_value(x order by y)`",
        ),
        (
            view(
                "v",
                "update",
                "select tumble_start(t, interval '1 minute'), count(*) from output group by 1",
                "",
            ),
            "from tumble(table, time, size[, offset]) group by window_start",
        ),
        (
            view(
                "v",
                "update",
                "select count(*) from table(tumble(table output, descriptor(t), interval '1 minute'))",
                "",
            ),
            "written without `table` and `descriptor`",
        ),
        (
            view(
                "v",
                "update",
                "select k, nth_value(n, 2 order by n) as m from output group by k",
                "allow_unbounded_state = true\n",
            ),
            "of a group cannot be kept between files",
        ),
        (
            view("v", "update", "select k, corr(distinct n, n) as c from output group by k", ""),
            "not implemented: `corr(distinct ..)`",
        ),
        (
            view(
                "v",
                "update",
                "select n, median(k) as m from output group by n",
                "allow_unbounded_state = true\n",
            ),
            "`median` is of numbers, and this is a varchar",
        ),
        (
            view("v", "update", "select [k] as ks, count(*) as c from output group by 1", ""),
            "is a list of varchar",
        ),
        (
            view("v", "update", "select k, median(n) as m from output group by k", ""),
            "allow_unbounded_state",
        ),
        (
            view(
                "v",
                "update",
                "select k, count(distinct k, n) as c from output group by k",
                "allow_unbounded_state = true\n",
            ),
            "not implemented",
        ),
        (view("v", "update", SUMS, "[view.format.parquet]\n"), "cannot be appended to"),
        (view("v", "update", SUMS, "") + &view("v", "update", SUMS, ""), "found `v` twice"),
        (
            view("v", "update", SUMS, "").replace("v.csv", "output.txt"),
            "something else is written to",
        ),
        (view("v", "update", SUMS, "").replace("v.csv", "in/v.csv"), "inside `input.directory`"),
    ] {
        let spool = Spool::new(&format!("{INPUT}{views}"));
        let output = spool.run("check", &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{views}: {said}");
        assert!(said.contains(reason), "{views}: {said}");
    }
    let allowed = view(
        "v",
        "complete",
        "select k, median(n) as m from output group by k",
        "allow_unbounded_state = true\n",
    );
    let spool = Spool::new(&format!("{INPUT}{allowed}"));
    spool.drop_file("a", "x,1\nx,9\n");
    spool.run_once();
    spool.drop_file("b", "x,5\n");
    spool.run_once();
    assert_eq!(spool.read("v.csv"), "k,m\nx,5.0\n");
}

/// The state of another query has no meaning.
#[test]
fn a_view_whose_query_changed_is_not_continued() {
    let spool = Spool::new(&format!("{INPUT}{}", view("v", "complete", SUMS, "")));
    spool.drop_file("a", "x,1\n");
    spool.run_once();
    let other = SUMS.replace("sum(n)", "max(n)");
    spool.configure("settle = \"0s\"", &format!("{INPUT}{}", view("v", "complete", &other, "")));
    let output = spool.run("run", &["--once"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("give the view another name"), "{said}");
    spool.configure(
        "settle = \"0s\"",
        &format!("{INPUT}{}", view("w", "complete", &other, "begin = \"now\"\n")),
    );
    spool.drop_file("b", "x,7\n");
    spool.run_once();
    assert_eq!(spool.read("w.csv"), "k,c,s\nx,1,7\n");
}

/// A result may be made while its microbatch is committed. When that fails, nobody sees it.
#[test]
fn what_could_not_be_committed_is_not_shown() {
    let mut spool = job();
    spool.drop_file("a", "x,1\ny,2\n");
    spool.environment("SPOOLMILL_FAULT", "fail:commit:28:1+");
    let output = spool.run("run", &["--once"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
    let shown = fs::read_to_string(spool.path("all.csv")).unwrap_or_default();
    assert!(!shown.contains("x,1"), "{shown}");
    // The second time it is committed: the result is the one that belongs to it.
    spool.environment("SPOOLMILL_FAULT", "fail:commit:28:1");
    spool.drop_file("b", "x,5\n");
    spool.run_once();
    assert_eq!(spool.read("all.csv"), "k,c,s\nx,2,6\ny,1,2\n");
}

/// A view whose join finds an empty table does not look at the records; the others still do.
#[test]
fn a_view_that_wants_no_records_leaves_them_to_the_others() {
    let nobody = "select t.boss, count(*) as c from output o join names t on t.k = o.k \
        where t.boss = 'nobody' group by t.boss";
    let table = "[[table]]\nname = \"names\"\npath = \"names.csv\"\n";
    let views = [
        view("nobody", "complete", nobody, ""),
        view("all", "complete", &format!("{SUMS} order by k"), ""),
        view("never", "complete", "select k, count(*) as c from output where 1 = 0 group by k", ""),
        view("count", "complete", "select count(*) as c from output", ""),
    ];
    let spool = Spool::new(&format!("{INPUT}{table}{}", views.concat()));
    fs::write(spool.path("names.csv"), "k,boss\nkey 1,somebody\n").unwrap();
    let (mut model, mut text) = (Model::default(), String::new());
    let records: Vec<_> = (0..600_000).map(|n| (format!("key {}", n % 7), n % 100)).collect();
    records.iter().for_each(|(key, number)| text += &format!("{key},{number}\n"));
    model.take(&records);
    spool.drop_file("a", text);
    spool.run_once();
    assert_eq!(spool.read("all.csv"), model.all());
    assert_eq!(spool.read("count.csv"), "c\n600000\n");
    assert_eq!(spool.read("nobody.csv"), "boss,c\n");
    assert_eq!(spool.read("never.csv"), "k,c\n");
}

/// A result that cannot be replaced now is replaced later, also when nothing else comes.
#[test]
fn a_result_that_could_not_be_replaced_is_tried_again() {
    let mut failed = 0;
    for number in 1..=6 {
        let mut spool = job();
        spool.drop_file("a", "x,1\ny,2\n");
        spool.environment("SPOOLMILL_FAULT", &format!("fail:rename:13:{number}"));
        let output = spool.run("run", &["--once"]);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "fail:rename:{number}: {log}");
        failed += usize::from(log.contains("replace ") && log.contains("all.csv"));
        assert_eq!(spool.read("all.csv"), "k,c,s\nx,1,1\ny,1,2\n", "fail:rename:{number}");
    }
    assert!(failed > 1, "{failed} of the failures were of the result");
}

/// More groups of one file than partial states are held at once: they are brought down to one for each.
#[test]
fn many_groups_of_one_file_are_each_counted_once() {
    let sums = "select n, count(*) as c from output group by n";
    let spool = Spool::new(&format!("{INPUT}{}", view("all", "complete", sums, "")));
    let numbers = (0..260_000).chain((0..260_000).rev());
    let text: String = numbers.map(|number| format!("k,{number}\n")).collect();
    spool.drop_file("a", text);
    spool.run_once();
    let shown = spool.read("all.csv");
    let mut lines: Vec<&str> = shown.lines().skip(1).collect();
    lines.sort_unstable();
    let mut expected: Vec<_> = (0..260_000).map(|number| format!("{number},2")).collect();
    expected.sort_unstable();
    assert_eq!(lines.len(), expected.len());
    assert!(lines == expected, "some groups have lost a record");
}

/// The ledger keeps changes of states beside them until they are many; whoever reads finds both.
#[test]
fn changes_that_are_in_place_and_those_that_are_not_are_one_state() {
    let all = view("all", "complete", &format!("{SUMS} order by k"), "every = \"0s\"\n");
    let spool = Spool::new(&format!("{INPUT}{all}[engine]\nfiles_per_commit = 4\n"));
    let mut model = Model::default();
    for round in 0..5 {
        for file in 0..12 {
            // Two of three groups of a file are of the file before too.
            let groups = (0..1500).map(|group| (round * 12 + file) * 500 + group);
            let records: Vec<_> =
                groups.map(|group| (format!("{group:06}"), i64::from(group))).collect();
            let text: String = records.iter().map(|(key, n)| format!("{key},{n}\n")).collect();
            spool.drop_file(format!("f{round}{file:02}"), text);
            for (key, number) in records {
                let group = model.groups.entry(key).or_default();
                *group = (group.0 + 1, group.1 + number);
            }
        }
        spool.run_once();
        assert!(spool.read("all.csv") == model.all(), "round {round}");
    }
    let (placed, waiting) = ("SELECT count(*) FROM state", "SELECT count(*) FROM state_change");
    assert!(spool.ledger(placed) > 0 && spool.ledger(waiting) > 0, "the test should see both");
    let before = spool.read("all.csv");
    fs::remove_file(spool.path("all.csv")).unwrap();
    spool.run("run", &["--once", "--reset-view", "all"]);
    assert!(spool.read("all.csv") == before, "rebuilt from the output it is the same");
}

/// A view that is new, or has a new name, in a job that has written records holds all of them, or those from
/// now on where it says so; the start decides neither by itself.
#[test]
fn a_view_in_a_job_with_history_begins_where_it_is_told() {
    let by_key = "select k, sum(n) as s from output group by k order by k";
    let old = view("old", "complete", by_key, "");
    for compress in ["", ", compress = \"gzip\"", ", compress = \"zstd\""] {
        let rotate = format!("[output]\nrotate = {{ size = \"1B\"{compress} }}\n");
        let input = INPUT.replace("[output]\n", &rotate);
        let spool = Spool::new(&format!("{input}{old}"));
        for (name, records) in [("a", "x,1\n"), ("b", "x,2\ny,1\n"), ("c", "y,4\n")] {
            spool.drop_file(name, records);
            spool.run_once();
        }
        let renamed = old.replace("name = \"old\"", "name = \"other\"");
        spool.configure("settle = \"0s\"", &format!("{input}{renamed}"));
        spool.drop_file("d", "z,1\n");
        for arguments in [&["check"][..], &["run", "--once"]] {
            let refused = spool.run(arguments[0], &arguments[1..]);
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(4), "{said}");
            for part in [
                "`other` is new",
                "has written records before (4)",
                "--reset-view other",
                "begin = \"now\"",
            ] {
                assert!(said.contains(part), "{said}");
            }
        }
        assert!(spool.run("run", &["--once", "--reset-view", "other"]).status.success());
        let now =
            view("now", "update", by_key.trim_end_matches(" order by k"), "begin = \"now\"\n");
        spool.configure("settle = \"0s\"", &format!("{input}{renamed}{now}"));
        spool.drop_file("e", "z,2\n");
        spool.run_once();
        assert_eq!(spool.read("old.csv"), "k,s\nx,3\ny,5\nz,3\n", "{compress}");
        assert_eq!(spool.read("now.csv"), "k,s\nz,2\n");
        // What somebody took away does not count, and the log says so.
        let taken = fs::read_dir(spool.path("")).unwrap().map(|entry| entry.unwrap().path());
        let mut taken: Vec<_> =
            taken.filter(|path| path.to_string_lossy().contains("output-")).collect();
        taken.sort();
        fs::remove_file(&taken[1]).unwrap();
        let reset = spool.run("run", &["--once", "--reset-view", "other"]);
        let log = String::from_utf8_lossy(&reset.stderr).into_owned();
        assert!(reset.status.success() && log.contains("taken away"), "{log}");
        assert_eq!(spool.read("old.csv"), "k,s\nx,1\ny,4\nz,3\n");
    }
    // Where nothing was written, there is nothing to miss.
    let spool = Spool::new(&format!("{INPUT}{old}"));
    spool.drop_file("a", "no number\n");
    spool.run_once();
    spool.configure("settle = \"0s\"", &format!("{INPUT}{}", old.replace("\"old\"", "\"new\"")));
    spool.run_once();
}

/// A view that was taken out of the job keeps its groups until somebody says that they may go.
#[test]
fn what_a_removed_view_keeps_is_told_and_removed() {
    for flag in ["--forget-view", "--reset-view"] {
        let big =
            view("big", "complete", "select k, n, count(*) as c from output group by k, n", "");
        let sums = view("sums", "update", SUMS, "");
        let spool = Spool::new(&format!("{INPUT}{sums}{big}"));
        let records: String = (0..500).map(|number| format!("a,{number}\n")).collect();
        spool.drop_file("a", records);
        spool.run_once();
        let kept = || {
            let of_big = "WHERE view = (SELECT id FROM view WHERE name = 'big')";
            spool.ledger(&format!("SELECT count(*) FROM state {of_big}"))
                + spool.ledger(&format!("SELECT count(*) FROM state_change {of_big}"))
        };
        let said = |arguments: &[&str]| {
            let output = spool.run(arguments[0], &arguments[1..]);
            let all = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&all).into_owned())
        };
        assert!(kept() > 0);
        let (went, why) = said(&["run", "--once", "--forget-view", "big"]);
        assert!(!went && why.contains("`big` is a view of the job"), "{why}");
        assert!(!said(&["status"]).1.contains("removed view"));
        spool.configure("settle = \"0s\"", &format!("{INPUT}{sums}"));
        spool.drop_file("b", "a,1\n");
        spool.run_once();
        let (_, told) = said(&["status"]);
        assert!(told.contains("big keeps ") && told.contains("--forget-view big"), "{told}");
        let (_, json) = said(&["status", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["views"], serde_json::json!(["sums"]));
        assert_eq!(json["removed_views"][0]["name"], "big");
        let (went, why) = said(&["run", "--once", flag, "big"]);
        assert!(went, "{why}");
        let lost = "WHERE view NOT IN (SELECT id FROM view)";
        for table in ["state", "state_change"] {
            assert_eq!(spool.ledger(&format!("SELECT count(*) FROM {table} {lost}")), 0);
        }
        assert_eq!(kept(), 0);
        assert!(!said(&["status"]).1.contains("removed view"));
        let (went, why) = said(&["run", "--once", flag, "big"]);
        assert!(!went && why.contains("big"), "{why}");
        spool.drop_file("c", "a,1\n");
        spool.run_once();
        assert_eq!(spool.read("sums.csv").lines().last(), Some("a,502,124752"));
    }
}

/// A result that is appended to goes on in its format, or begins again; another place is said.
#[test]
fn a_view_is_written_as_before_or_says_what_changes() {
    let csv = view("v", "update", SUMS, "[view.format.csv]\n");
    let spool = Spool::new(&format!("{INPUT}{csv}"));
    spool.drop_file("a", "x,1\n");
    spool.run_once();
    let json = view("v", "update", SUMS, "[view.format.json]\n");
    let set = |view: &str| spool.configure("settle = \"0s\"", &format!("{INPUT}{view}"));
    set(&json);
    for arguments in [&["check"][..], &["run", "--once"]] {
        let refused = spool.run(arguments[0], &arguments[1..]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(4), "{said}");
        assert!(
            said.contains("v.csv, which was written as csv") && said.contains("--reset-view v"),
            "{said}"
        );
    }
    // One name that is wrong, and none is forgotten.
    let typo = spool.run("run", &["--once", "--reset-view", "v", "--reset-view", "w"]);
    assert_eq!(typo.status.code(), Some(2));
    assert_eq!(spool.ledger("SELECT rebuild FROM view"), 0);
    assert!(spool.run("run", &["--once", "--reset-view", "v"]).status.success());
    spool.drop_file("b", "x,2\n");
    assert!(!spool.run_once().contains("from now on"));
    let lines = "{\"k\":\"x\",\"c\":1,\"s\":1}\n{\"k\":\"x\",\"c\":2,\"s\":3}\n";
    assert_eq!(spool.read("v.csv"), lines);
    set(&json.replace("v.csv", "w.json"));
    spool.drop_file("c", "x,3\n");
    let log = spool.run_once();
    assert!(log.contains("w.json from now on") && log.contains("v.csv stays there"), "{log}");
    assert_eq!((spool.read("v.csv").as_str(), spool.read("w.json").lines().count()), (lines, 1));
    set(&csv);
    let refused = spool.run("run", &["--once"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("v.csv, which was written as json"), "{said}");
    // What is replaced as a whole may be of any format.
    let all = view("all", "complete", SUMS, "begin = \"now\"\n");
    set(&all);
    spool.run_once();
    set(&(all + "[view.format.json]\n"));
    let log = spool.run_once();
    assert!(log.contains("`all` is written as json from now on"), "{log}");
}

/// A start that is refused changes nothing: what it would have entered is not there when the job goes on as it
/// was.
#[test]
fn a_start_that_is_refused_changes_nothing() {
    let by = |event_time: &str| {
        let input = INPUT
            .replace("n = \"bigint\"\n", "n = \"bigint\"\nt = \"timestamp\"\nu = \"timestamp\"\n");
        format!("{input}[event_time]\ncolumn = \"{event_time}\"\n")
    };
    let old = view(
        "old",
        "append",
        "select window_start, count(*) as c from tumble(output, t, interval '1 minute') group by 1",
        "",
    );
    let spool = Spool::new(&format!("{}{old}", by("t")));
    let set = |views: &str, event_time: &str| {
        spool.configure("settle = \"0s\"", &format!("{}{views}", by(event_time)));
    };
    let at =
        |minute: u64| format!("x,1,2024-05-01 10:{minute:02}:00,2024-05-01 10:{minute:02}:00\n");
    spool.drop_file("a", at(5));
    spool.run_once();
    let refused = || assert_eq!(spool.run("run", &["--once"]).status.code(), Some(4));
    let (now, asks) =
        (view("now", "update", SUMS, "begin = \"now\"\n"), view("asks", "update", SUMS, ""));
    set(&format!("{old}{now}{asks}"), "t");
    refused();
    set(&old.replace("output, t,", "output, u,"), "u");
    refused();
    set(&old, "t");
    // Of a window that is closed: the watermark is what it was.
    spool.drop_file("b", at(3));
    spool.run_once();
    assert_eq!(spool.ledger("SELECT late FROM microbatch WHERE name = CAST('b' AS BLOB)"), 1);
    set(&format!("{old}{now}{}", asks.replace("asks.csv\"", "asks.csv\"\nbegin = \"now\"")), "t");
    spool.drop_file("c", at(6));
    spool.run_once();
    assert_eq!(
        (spool.read("now.csv").as_str(), spool.read("asks.csv").as_str()),
        ("k,c,s\nx,1,1\n", "k,c,s\nx,1,1\n")
    );
}

/// An output that cannot be read back rebuilds no view: that is said before anything is forgotten. Neither
/// does a closed part that is cut short stop the job.
#[test]
fn what_cannot_be_read_back_stops_no_job() {
    let input = INPUT.replace(
        "[output.format.csv]\n",
        "[output.format.csv]\n[transform.sql]\nquery = \"QUERY\"\n",
    );
    let job = input.replace("QUERY", "select k, n, interval '1 day' as d from input");
    let spool = Spool::new(&job);
    spool.drop_file("a", "x,1\n");
    spool.run_once();
    spool.configure(
        "settle = \"0s\"",
        &format!("{job}{}", view("v", "update", SUMS, "begin = \"now\"\n")),
    );
    let reset = spool.run("run", &["--once", "--reset-view", "v"]);
    let said = String::from_utf8_lossy(&reset.stderr).into_owned();
    assert_eq!(reset.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot be read back"), "{said}");
    spool.drop_file("b", "x,2\n");
    spool.run_once();
    assert_eq!(spool.read("v.csv"), "k,c,s\nx,1,2\n");
    let rotate = "[output]\nrotate = { size = \"1B\", compress = \"gzip\" }\n";
    let job = INPUT.replace("[output]\n", rotate);
    let spool = Spool::new(&format!("{job}{}", view("v", "update", SUMS, "")));
    for name in ["a", "b"] {
        spool.drop_file(name, "x,1\n".repeat(100));
        spool.run_once();
    }
    let parts = fs::read_dir(spool.path("")).unwrap().map(|entry| entry.unwrap().path());
    let part =
        parts.filter(|path| path.extension().is_some_and(|kind| kind == "gz")).min().unwrap();
    let whole = fs::read(&part).unwrap();
    fs::write(&part, &whole[..whole.len() / 2]).unwrap();
    let reset = spool.run("run", &["--once", "--reset-view", "v"]);
    assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
    assert!(troubles(&spool).0[0]["stopped"].is_string(), "{:?}", troubles(&spool).0);
}

/// What `status` and the exit code say of the views.
fn troubles(spool: &Spool) -> (Vec<serde_json::Value>, String) {
    let json = spool.run("status", &["--json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let text = String::from_utf8(spool.run("status", &[]).stdout).unwrap();
    (json["view_troubles"].as_array().unwrap().clone(), text)
}

/// A group that cannot be computed is told until it can be, in `status` and by the exit code.
#[test]
fn a_group_that_is_left_out_is_told_until_it_is_written() {
    let share = "select k, 100 / sum(n) as s from output group by k";
    for mode in ["complete", "update"] {
        let spool = Spool::new(&format!("{INPUT}{}", view("v", mode, share, "every = \"0s\"\n")));
        let once = || spool.run("run", &["--once", "--strict"]).status.code();
        spool.drop_file("a", "x,5\ny,0\nz,0\n");
        assert_eq!(once(), Some(3), "{mode}");
        assert_eq!(spool.read("v.csv"), "k,s\nx,20\n");
        let (told, text) = troubles(&spool);
        assert_eq!(
            (told.len(), &told[0]["view"], &told[0]["left_out"]),
            (1, &"v".into(), &2.into())
        );
        assert!(text.contains("left out") && text.contains("2 groups of v"), "{text}");
        assert!(text.contains("Divide by zero") || text.contains("divide by zero"), "{text}");
        spool.drop_file("a2", "x,0\n");
        let log = spool.run_once();
        assert!(!log.contains("is left out"), "it was said before: {log}");
        spool.drop_file("b", "y,4\n");
        once();
        assert_eq!(troubles(&spool).0[0]["left_out"], 1, "{mode}");
        spool.drop_file("c", "z,2\n");
        assert_eq!(once(), Some(0), "{mode}");
        assert_eq!(troubles(&spool).0, Vec::<serde_json::Value>::new());
        let mut written: Vec<_> = spool.read("v.csv").lines().map(str::to_owned).collect();
        written.sort_unstable();
        assert_eq!(written, ["k,s", "x,20", "y,25", "z,50"], "{mode}");
        let batch = |more: &[&str]| {
            spool.drop_file("d", "x,5\ny,0\n");
            let (input, to) = (spool.input("d"), format!("v={}", spool.path("b.csv").display()));
            let all = [&[input.to_str().unwrap(), "--rejects", "-", "--view", &to], more].concat();
            spool.run("batch", &all).status.code()
        };
        assert_eq!((batch(&[]), batch(&["--strict"])), (Some(0), Some(3)), "{mode}");
        assert_eq!(spool.read("b.csv"), "k,s\nx,20\n");
    }
}

/// A view whose windows cannot be closed, whatever the file, is stopped; the job and its other views go on,
/// also after a restart, until the view is rebuilt.
#[test]
fn a_view_that_no_file_is_to_blame_for_is_stopped() {
    let input = INPUT.replace("n = \"bigint\"\n", "n = \"bigint\"\nt = \"timestamp\"\n");
    let input = format!("{input}[event_time]\ncolumn = \"t\"\n");
    let query = "select window_start, k, 100 / sum(n) as s from \
                 tumble(output, t, interval '1 minute') group by 1, 2";
    let (bad, other) = (view("v", "append", query, ""), view("sums", "update", SUMS, ""));
    let spool = Spool::new(&format!("{input}{bad}{other}"));
    let at = |minute: u64| format!("2024-05-01 10:{minute:02}:00");
    let groups: String = (0..1100).map(|number| format!("g{number},0,{}\n", at(1))).collect();
    spool.drop_file("a", format!("x,5,{}\n", at(0)));
    spool.drop_file("b", groups);
    for (name, minute) in [("c", 2), ("d", 3)] {
        spool.drop_file(name, format!("x,5,{}\n", at(minute)));
    }
    let first = spool.run("run", &["--once", "--strict"]);
    let log = String::from_utf8_lossy(&first.stderr).into_owned();
    assert_eq!(first.status.code(), Some(3), "{log}");
    assert!(log.contains("is stopped") && log.contains("1 views are stopped"), "{log}");
    spool.assert_names(&["processed-a", "processed-b", "processed-c", "processed-d"]);
    let (told, text) = troubles(&spool);
    assert!(told[0]["stopped"].as_str().unwrap().contains("more than 1000 groups"), "{told:?}");
    assert!(text.contains("stopped view") && text.contains("run --reset-view v"), "{text}");
    spool.drop_file("e", format!("x,5,{}\n", at(4)));
    spool.run_once();
    let first = "window_start,k,s\n2024-05-01 10:00:00,x,20\n";
    assert_eq!(spool.read("v.csv"), first);
    assert!(spool.read("sums.csv").ends_with("x,2,10\nx,3,15\nx,4,20\n"));
    // The same query cannot be rebuilt either: no start fails for that.
    let again = spool.run("run", &["--once", "--reset-view", "v"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(troubles(&spool).0.len(), 1);
    let better = bad.replace("100 / sum(n)", "sum(n)");
    spool.configure("settle = \"0s\"", &format!("{input}{better}{other}"));
    spool.run("run", &["--once", "--reset-view", "v"]);
    assert_eq!(troubles(&spool).0, Vec::<serde_json::Value>::new());
    spool.drop_file("f", format!("x,5,{}\n", at(5)));
    spool.run_once();
    let lines: Vec<_> = spool.read("v.csv").lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 1 + 1 + 1100 + 3);
    assert_eq!(lines.last().unwrap(), "2024-05-01 10:04:00,x,5");
}

/// What can be planned and not run is refused before a file comes, wherever the query stands.
#[test]
fn a_query_that_cannot_run_is_refused_at_the_start() {
    let query = "select count(distinct k, n) as c from";
    for (job, key) in [
        (format!("{INPUT}[transform.sql]\nquery = \"{query} input\"\n"), "transform.sql.query"),
        (format!("{INPUT}{}", view("v", "complete", &format!("{query} output"), "")), "view.query"),
        (
            format!("{INPUT}[[final]]\npath = \"f.csv\"\nquery = \"{query} output\"\n"),
            "final.query",
        ),
    ] {
        let spool = Spool::new(&job);
        for arguments in [&["check"][..], &["run", "--once"]] {
            let refused = spool.run(arguments[0], &arguments[1..]);
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(2), "{said}");
            assert!(said.contains(key), "{said}");
        }
    }
    // What only the data can be blamed for is no reason.
    let query = "select k, cast(k as bigint) / (n - 1) as q from input";
    let spool = Spool::new(&format!("{INPUT}[transform.sql]\nquery = \"{query}\"\n"));
    spool.drop_file("a", "4,3\n");
    spool.run_once();
    assert_eq!(spool.output(), "k,q\n4,2\n");
}

/// A view that is shown keeps its groups in the memory that the engine may have, and says when that is not
/// enough; a batch does, too.
#[test]
fn the_groups_of_a_view_count_into_the_memory() {
    let by_record = "select k, count(*) as c from output group by k";
    let job = |memory: &str| {
        let view = view("v", "update", by_record, "");
        format!("{INPUT}{view}[engine]\nmemory = \"{memory}\"\n")
    };
    let records: String = (0..400_000).map(|number| format!("key-{number:030},1\n")).collect();
    for (memory, fits) in [("32MiB", false), ("256MiB", true)] {
        let spool = Spool::new(&job(memory));
        let stream = spool.pipe("stream", &["--view", "v"], records.as_bytes());
        spool.drop_file("a", &records);
        let (input, to) = (spool.input("a"), format!("v={}", spool.path("b.csv").display()));
        let batch = spool.run("batch", &[input.to_str().unwrap(), "--view", &to]);
        for ended in [stream, batch] {
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert_eq!(ended.status.success(), fits, "{memory}: {said}");
            assert!(fits || said.contains("more than engine.memory has room for"), "{said}");
        }
    }
}

/// The state is gone and the output is not: a view would miss what is in it, and asks.
#[test]
fn a_lost_state_is_told_for_what_is_made_of_the_output() {
    let spool = job();
    spool.drop_file("a", "x,1\ny,2\n");
    spool.run_once();
    fs::remove_dir_all(spool.path("state")).unwrap();
    for verb in ["check", "run"] {
        let arguments: &[&str] = if verb == "run" { &["--once"] } else { &[] };
        let refused = spool.run(verb, arguments);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(4), "{verb}: {said}");
        assert!(said.contains("the state was lost") && said.contains("--reset-view"), "{said}");
    }
    let reset = ["--once", "--reset-view", "all", "--reset-view", "changed"];
    assert!(spool.run("run", &reset).status.success());
    spool.drop_file("b", "x,3\n");
    spool.run_once();
    assert_eq!(spool.read("all.csv"), "k,c,s\nx,2,4\ny,1,2\n");
}
