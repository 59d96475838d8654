//! Event time: windows, the watermark, late records, against a model that recomputes everything.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Random, Spool, wait_for};

const INPUT: &str = "[input.format.csv]\nheader = false\n[input.format.csv.columns]\n\
    k = \"varchar\"\nn = \"bigint\"\nt = \"timestamp\"\n[output]\npath = \"output.txt\"\n\
    [output.format.csv]\nheader = false\n";

const EVENT_TIME: &str =
    "[event_time]\ncolumn = \"t\"\ndelay = \"4s\"\nmax_future = \"1h\"\nlate = \"late.jsonl\"\n";

fn view(name: &str, mode: &str, window: &str) -> String {
    let query = format!(
        "select window_start, window_end, k, count(*) as c, sum(n) as s from {window} \
         group by window_start, window_end, k"
    );
    format!(
        "[[view]]\nname = \"{name}\"\nquery = \"\"\"{query}\"\"\"\nmode = \"{mode}\"\n\
         path = \"{name}.csv\"\nevery = \"0s\"\n"
    )
}

/// The time so many seconds after the beginning of a day that has a leap second at its end.
fn time(seconds: i64) -> String {
    let day = seconds.div_euclid(86_400);
    let seconds = seconds.rem_euclid(86_400);
    let (year, month, day) = if day == 0 { (2016, 12, 31) } else { (2017, 1, day) };
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Aligned { size: i64, slide: i64, offset: i64 },
    Session { gap: i64 },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Append,
    Update,
    Complete,
}

struct View {
    name: &'static str,
    kind: Kind,
    mode: Mode,
    from: &'static str,
}

const MINUTES: i64 = 86_400 - 120;

const VIEWS: [View; 6] = [
    View {
        name: "tumbling",
        kind: Kind::Aligned { size: 5, slide: 5, offset: 0 },
        mode: Mode::Append,
        from: "tumble(output, t, interval '5 seconds')",
    },
    View {
        name: "hopping",
        kind: Kind::Aligned { size: 6, slide: 4, offset: 1 },
        mode: Mode::Append,
        from: "hop(output, t, interval '4 seconds', interval '6 seconds', interval '1 second')",
    },
    View {
        name: "sessions",
        kind: Kind::Session { gap: 3 },
        mode: Mode::Append,
        from: "session(output, t, interval '3 seconds')",
    },
    View {
        name: "changed",
        kind: Kind::Aligned { size: 6, slide: 2, offset: 0 },
        mode: Mode::Update,
        from: "hop(output, t, interval '2 seconds', interval '6 seconds')",
    },
    View {
        name: "all",
        kind: Kind::Aligned { size: 10, slide: 10, offset: 3 },
        mode: Mode::Complete,
        from: "tumble(output, t, interval '10 seconds', interval '3 seconds')",
    },
    View {
        name: "visits",
        kind: Kind::Session { gap: 2 },
        mode: Mode::Complete,
        from: "session(output, t, interval '2 seconds')",
    },
];

type Record = (String, i64, i64);

/// A view, recomputed from all the records that were not late for it.
#[derive(Default)]
struct Model {
    taken: Vec<Record>,
    /// Windows that end at or before it are closed.
    closed: Option<i64>,
    /// The end of the last session of each key that was closed.
    ended: BTreeMap<String, i64>,
    lines: Vec<String>,
}

impl Kind {
    fn windows(self, at: i64) -> Vec<(i64, i64)> {
        match self {
            Self::Aligned { size, slide, offset } => (-20..60_000)
                .map(|number| MINUTES - MINUTES % slide + number * slide + offset - 100 * slide)
                .skip_while(|start| start + size <= at)
                .take_while(|start| *start <= at)
                .map(|start| (start, start + size))
                .collect(),
            Self::Session { .. } => unreachable!("a session is not of one time"),
        }
    }

    fn is_late(self, at: i64, watermark: i64) -> bool {
        self.windows(at).iter().all(|(_, end)| *end <= watermark)
    }

    /// All windows over some records, as lines by their end.
    fn groups(self, records: &[Record]) -> BTreeMap<(i64, String), String> {
        let mut groups: BTreeMap<(String, i64, i64), (i64, i64)> = BTreeMap::new();
        let mut by_key: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
        for (key, number, at) in records {
            by_key.entry(key.clone()).or_default().push((*at, *number));
            if let Self::Aligned { .. } = self {
                for (start, end) in self.windows(*at) {
                    let group = groups.entry((key.clone(), start, end)).or_default();
                    *group = (group.0 + 1, group.1 + number);
                }
            }
        }
        if let Self::Session { gap } = self {
            for (key, mut all) in by_key {
                all.sort_unstable();
                let mut open: Option<(i64, i64, i64, i64)> = None;
                for (at, number) in all {
                    open = Some(match open {
                        Some((start, end, count, sum)) if at <= end => {
                            (start, at + gap, count + 1, sum + number)
                        }
                        before => {
                            if let Some((start, end, count, sum)) = before {
                                groups.insert((key.clone(), start, end), (count, sum));
                            }
                            (at, at + gap, 1, number)
                        }
                    });
                }
                if let Some((start, end, count, sum)) = open {
                    groups.insert((key, start, end), (count, sum));
                }
            }
        }
        let line = |((key, start, end), (count, sum)): ((String, i64, i64), (i64, i64))| {
            let line = format!("{},{},{key},{count},{sum}", time(start), time(end));
            ((end, format!("{start:09} {key}")), line)
        };
        groups.into_iter().map(line).collect()
    }
}

impl Model {
    /// Those of these records that are late for a view of sessions, by their place: they are within one
    /// that was closed, or what they make with the others and with the open ones is closed.
    fn late_for_sessions(&self, gap: i64, records: &[Record], before: i64) -> BTreeSet<usize> {
        let is_within =
            |(key, _, at): &Record| *at < before && self.ended.get(key).is_some_and(|end| at < end);
        let others: Vec<&Record> = records.iter().filter(|record| !is_within(record)).collect();
        let is_closed = |(key, _, at): &Record| {
            let all = self.taken.iter().chain(others.iter().copied());
            let mut times: Vec<i64> =
                all.filter(|other| other.0 == *key && other.2 > *at).map(|other| other.2).collect();
            times.sort_unstable();
            let grow = |end, time| if time <= end { time + gap } else { end };
            times.into_iter().fold(at + gap, grow) <= before
        };
        let late = records.iter().enumerate();
        late.filter(|(_, record)| is_within(record) || is_closed(record)).map(|one| one.0).collect()
    }

    /// Takes a file; returns the lines of the records that are late.
    fn take(
        &mut self,
        view: &View,
        records: &[Record],
        before: Option<i64>,
        after: Option<i64>,
        ends: bool,
    ) -> Vec<usize> {
        let mut late = Vec::new();
        let mut touched = BTreeSet::new();
        let for_sessions = match (view.kind, before) {
            (Kind::Session { gap }, Some(before)) => self.late_for_sessions(gap, records, before),
            _ => BTreeSet::new(),
        };
        for (number, record) in records.iter().enumerate() {
            let keeps = view.mode == Mode::Complete;
            let is_late = |before| match view.kind {
                Kind::Session { .. } => for_sessions.contains(&number),
                kind => kind.is_late(record.2, before),
            };
            if !keeps && before.is_some_and(is_late) {
                late.push(number + 1);
                continue;
            }
            self.taken.push(record.clone());
            if view.mode == Mode::Update {
                let windows = view.kind.windows(record.2);
                touched.extend(windows.into_iter().map(|window| (record.0.clone(), window)));
            }
        }
        let groups = view.kind.groups(&self.taken);
        let is_open = |end: i64| self.closed.is_none_or(|closed| end > closed);
        match view.mode {
            Mode::Append => {
                let closes = |end: i64| ends || after.is_some_and(|after| end <= after);
                let closed = groups.iter().filter(|((end, _), _)| is_open(*end) && closes(*end));
                self.lines.extend(closed.map(|(_, line)| line.clone()));
            }
            Mode::Update => {
                let changed = groups.iter().filter(|((end, _), line)| {
                    let key = line.split(',').nth(2).unwrap();
                    let is_touched =
                        touched.iter().any(|(other, window)| other == key && window.1 == *end);
                    is_open(*end) && is_touched
                });
                self.lines.extend(changed.map(|(_, line)| line.clone()));
            }
            Mode::Complete => self.lines = groups.values().cloned().collect(),
        }
        self.closed = self.closed.max(after);
        late
    }
}

/// Sessions that were closed must not grow again in the model: what they hold is forgotten.
fn forget_closed(model: &mut Model, view: &View) {
    let (Kind::Session { .. }, Mode::Append, Some(closed)) = (view.kind, view.mode, model.closed)
    else {
        return;
    };
    let mut kept = Vec::new();
    for key in model.taken.iter().map(|(key, ..)| key.clone()).collect::<BTreeSet<_>>() {
        let of_key: Vec<_> =
            model.taken.iter().filter(|(other, ..)| *other == key).cloned().collect();
        // The sessions of one key, each on its own.
        for record in &of_key {
            let groups = view.kind.groups(&of_key);
            let within = |line: &&String| {
                let fields: Vec<&str> = line.split(',').collect();
                fields[0] <= time(record.2).as_str() && time(record.2).as_str() < fields[1]
            };
            let (end, _) = groups.iter().find(|(_, line)| within(line)).unwrap().0;
            if *end > closed {
                kept.push(record.clone());
            } else {
                let last = model.ended.entry(key.clone()).or_insert(*end);
                *last = (*last).max(*end);
            }
        }
    }
    model.taken = kept;
    let written = |line: &String| {
        let fields: Vec<&str> = line.split(',').collect();
        (fields[2].to_owned(), fields[0].to_owned(), fields[1].to_owned())
    };
    let mut written: Vec<_> = model.lines.iter().map(written).collect();
    written.sort_unstable();
    let overlap = written.windows(2).find(|two| two[0].0 == two[1].0 && two[1].1 < two[0].2);
    assert_eq!(overlap, None, "what was written overlaps");
}

/// Returns how many late records there were, and how many results of each view.
fn history(seed: u64) -> (usize, Vec<usize>) {
    let mut random = Random(seed);
    let views: String = VIEWS
        .iter()
        .map(|one| {
            let mode = match one.mode {
                Mode::Append => "append",
                Mode::Update => "update",
                Mode::Complete => "complete",
            };
            view(one.name, mode, one.from)
        })
        .collect();
    let spool = Spool::with_input(
        "settle = \"0s\"\nend_marker = \"EOF\"",
        &format!("{INPUT}{EVENT_TIME}{views}[view.format.csv]\nheader = false\n"),
    );
    let mut models: Vec<Model> = VIEWS.iter().map(|_| Model::default()).collect();
    let (mut watermark, mut base) = (None::<i64>, MINUTES);
    let mut late: BTreeSet<String> = BTreeSet::new();
    let files = 6 + random.below(8);
    for file in 0..=files {
        base += random.below(7) as i64;
        let rows = if random.below(6) == 0 { 0 } else { random.below(8) };
        let records: Vec<Record> = (0..rows)
            .map(|_| {
                let at = base - random.below(14) as i64;
                (format!("k{}", random.below(3)), random.below(9) as i64, at)
            })
            .collect();
        let ends = file == files;
        let mut text: String =
            records.iter().map(|(k, n, at)| format!("{k},{n},{}\n", time(*at))).collect();
        if ends {
            text += "EOF\n";
        }
        let name = format!("f{file:02}");
        spool.drop_file(&name, &text);
        let latest = records.iter().map(|record| record.2 - 4).max();
        let after = watermark.max(latest);
        for (model, view) in models.iter_mut().zip(&VIEWS) {
            for line in model.take(view, &records, watermark, after, ends) {
                let raw = text.lines().nth(line - 1).unwrap();
                let missed = time(watermark.unwrap());
                late.insert(format!("{name} {line} {} {missed} {raw}", view.name));
            }
            forget_closed(model, view);
        }
        watermark = after;
        // Some runs take several files, in one commit.
        if random.below(3) > 0 && !ends {
            continue;
        }
        spool.run_once();
        for (model, view) in models.iter().zip(&VIEWS) {
            let written = spool.read(&format!("{}.csv", view.name));
            let mut written: Vec<&str> = written.lines().collect();
            let mut expected: Vec<&str> = model.lines.iter().map(String::as_str).collect();
            written.sort_unstable();
            expected.sort_unstable();
            assert_eq!(written, expected, "{} after {name}, seed {seed}", view.name);
        }
        let written: BTreeSet<String> = spool.read("late.jsonl").lines().map(late_line).collect();
        assert_eq!(written, late, "after {name}, seed {seed}");
    }
    (late.len(), models.iter().map(|model| model.lines.len()).collect())
}

fn late_line(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let text = |key: &str| line[key].as_str().unwrap().to_owned();
    format!(
        "{} {} {} {} {}",
        text("file"),
        line["line"],
        text("view"),
        text("watermark"),
        text("raw")
    )
}

/// `SPOOLMILL_HISTORIES` makes it more of them.
#[test]
fn generated_histories_agree_with_the_model() {
    let histories = std::env::var("SPOOLMILL_HISTORIES").ok();
    let histories = histories.and_then(|number| number.parse().ok()).unwrap_or(20);
    let (mut late, mut results) = (0, [0; VIEWS.len()]);
    for seed in 1..=histories {
        let (of_one, lines) = history(seed);
        late += of_one;
        results.iter_mut().zip(lines).for_each(|(sum, lines)| *sum += lines);
    }
    // There was something to agree on.
    eprintln!("{histories} histories, {late} late, {results:?}");
    assert!(late > 10 && results.iter().all(|lines| *lines > 50), "{late} late, {results:?}");
}

const SUMS: &str = "tumble(output, t, interval '10 seconds')";

fn rows(rows: &[(&str, i64, i64)]) -> String {
    rows.iter().map(|(k, n, at)| format!("{k},{n},{}\n", time(*at))).collect()
}

/// The seconds, keys, counts and sums of a result.
fn results(spool: &Spool, name: &str) -> Vec<String> {
    let text = spool.read(&format!("{name}.csv"));
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        format!("{}-{} {}", &fields[0][17..], &fields[1][17..], fields[2..].join(" "))
    };
    text.lines().filter(|line| line.starts_with("20")).map(line).collect()
}

/// `--once` closes no window, the end marker all; what comes later for a closed one is late.
#[test]
fn the_end_marker_closes_all_windows_for_good() {
    let job = format!("{INPUT}{EVENT_TIME}{}", view("v", "append", SUMS));
    let spool = Spool::with_input("settle = \"0s\"\nend_marker = \"EOF\"", &job);
    spool.drop_file("a", rows(&[("x", 1, 3), ("x", 2, 12)]));
    spool.run_once();
    assert!(results(&spool, "v").is_empty());
    spool.drop_file("b", rows(&[("x", 4, 13)]) + "EOF\n");
    spool.run_once();
    assert_eq!(results(&spool, "v"), ["00-10 x 1 1", "10-20 x 2 6"]);
    spool.drop_file("c", rows(&[("x", 8, 15), ("y", 8, 25)]) + "EOF\n");
    spool.run_once();
    assert_eq!(results(&spool, "v"), ["00-10 x 1 1", "10-20 x 2 6", "20-30 y 1 8"]);
    assert_eq!(spool.read("late.jsonl").lines().map(late_line).count(), 1);
    // Rebuilt, it has closed what it had closed.
    spool.run("run", &["--once", "--reset-view", "v"]);
    assert_eq!(results(&spool, "v"), ["00-10 x 1 1", "10-20 x 3 14", "20-30 y 1 8"]);
}

/// What one view has closed makes nothing late for another: the long window is closed, and the next short
/// ones are not. The files come in one commit.
#[test]
fn a_view_is_late_by_what_it_has_closed_itself() {
    let long = SUMS.replace("10 seconds", "100 seconds");
    let views = view("short", "append", SUMS) + &view("long", "append", &long);
    let spool = Spool::with_input(
        "settle = \"0s\"\nend_marker = \"EOF\"",
        &format!("{INPUT}{EVENT_TIME}{views}"),
    );
    spool.drop_file("a", rows(&[("x", 1, 3)]) + "EOF\n");
    spool.run_once();
    for (name, at) in [("b", 4), ("c", 15), ("d", 5)] {
        spool.drop_file(name, rows(&[("x", 1, at)]));
    }
    spool.drop_file("e", rows(&[("x", 1, 16)]) + "EOF\n");
    spool.run_once();
    spool.drop_file("f", rows(&[("x", 1, 17)]));
    spool.run_once();
    assert_eq!(results(&spool, "short"), ["00-10 x 1 1", "10-20 x 2 2"]);
    assert_eq!(results(&spool, "long").len(), 1);
    let late: Vec<String> = spool.read("late.jsonl").lines().map(late_line).collect();
    let line = |file: &str, view: &str, closed: i64, at: i64| {
        format!("{file} 1 {view} {} x,1,{}", time(closed), time(at))
    };
    // The day began at midnight, and so did the windows.
    let expected = [
        line("b", "short", 10, 4),
        line("b", "long", 100, 4),
        line("c", "long", 100, 15),
        line("d", "short", 11, 5),
        line("d", "long", 100, 5),
        line("e", "long", 100, 16),
        line("f", "short", 20, 17),
        line("f", "long", 100, 17),
    ];
    assert_eq!(late, expected);
}

const VISITS: &str = "select window_start, window_end, k, count(*) as c, sum(n) as s from \
    session(output, t, interval '3 seconds') where n > 0 group by 1, 2, 3";

fn visits() -> String {
    let view = view("v", "append", "X");
    let query = view.split("\"\"\"").nth(1).unwrap().to_owned();
    view.replace(&query, VISITS)
}

/// Many records come late at once, more than fit into a row of the ledger: those that the open session
/// reaches count, those that the view leaves out are late by their time alone.
#[test]
fn late_records_count_in_a_session_that_is_open() {
    let spool = Spool::new(&format!("{INPUT}{EVENT_TIME}{}", visits()));
    spool.drop_file("a", rows(&[("x", 1, 30), ("x", 1, 32), ("y", 1, 37)]));
    spool.run_once();
    // The watermark is 33, and the session of x goes from 30 to 35.
    let mut all = Vec::new();
    for number in 0..3000 {
        all.extend([
            ("x", 1, 28),
            ("z", 1, 28),
            ("x", 0, 29),
            ("z", 0, 31),
            ("x", 1, 20 + number % 2),
        ]);
    }
    spool.drop_file("b", rows(&all));
    spool.drop_file("c", rows(&[("y", 1, 70)]));
    spool.run_once();
    assert_eq!(results(&spool, "v"), ["28-35 x 3002 3002", "37-40 y 1 1"]);
    let late = spool.read("late.jsonl");
    let late: Vec<String> = late.lines().map(late_line).collect();
    // z at 28, x of nothing at 29, x at 20; z of nothing at 31 is not behind what a session would reach.
    assert_eq!(late.len(), 3 * 3000);
    assert_eq!(late[0], format!("b 2 v {} z,1,{}", time(33), time(28)));
    assert_eq!(spool.ledger("SELECT late FROM microbatch WHERE name = CAST('b' AS BLOB)"), 9000);
    assert_eq!(std::fs::read_dir(spool.path("state/staging")).unwrap().count(), 0);
}

/// A record that the query joins with several rows of a table is late when all that it is of is closed.
#[test]
fn a_late_record_may_be_of_several_groups() {
    let query = "select window_start, window_end, c.g as k, count(*) as c, sum(n) as s from \
        session(output, t, interval '3 seconds') join codes as c using (k) group by 1, 2, 3";
    let view = view("v", "append", "X");
    let written = view.split("\"\"\"").nth(1).unwrap().to_owned();
    let table = "[[table]]\nname = \"codes\"\npath = \"codes.csv\"\n";
    let job = format!("{INPUT}{EVENT_TIME}{}{table}", view.replace(&written, query));
    let spool = Spool::new(&job);
    std::fs::write(spool.path("codes.csv"), "k,g\nx,p\nx,q\ny,q\nz,r\n").unwrap();
    spool.drop_file("a", rows(&[("y", 1, 30), ("y", 1, 32), ("z", 1, 37)]));
    spool.run_once();
    // The watermark is 33. Of q, which x and y are, a session is open from 30 to 35; of p none.
    spool.drop_file("b", rows(&[("x", 1, 28), ("z", 1, 28), ("none", 1, 28), ("x", 4, 20)]));
    spool.drop_file("c", rows(&[("z", 1, 70)]));
    spool.run_once();
    assert_eq!(results(&spool, "v"), ["28-35 q 3 3", "37-40 r 1 1"]);
    let late: Vec<String> = spool.read("late.jsonl").lines().map(late_line).collect();
    let line = |number: i64, record: &str, at: i64| {
        format!("b {number} v {} {record},{}", time(33), time(at))
    };
    assert_eq!(late, [line(2, "z,1", 28), line(3, "none,1", 28), line(4, "x,4", 20)]);
}

/// What is forgotten of a closed session is not written again: late records join the next one from behind,
/// one by one, up to there.
#[test]
fn a_session_grows_back_to_the_one_that_was_closed() {
    let spool = Spool::new(&format!("{INPUT}{EVENT_TIME}{}", visits()));
    spool.drop_file("a", rows(&[("x", 1, 0), ("x", 1, 3)]));
    spool.drop_file("b", rows(&[("y", 1, 60)]));
    spool.drop_file("c", rows(&[("x", 1, 59), ("y", 1, 62)]));
    spool.run_once();
    assert_eq!(results(&spool, "v"), ["00-06 x 2 2"]);
    // That session is far behind the watermark: its group is not kept.
    assert_eq!(spool.ledger("SELECT count(*) FROM state WHERE substr(key, 1, 1) IN ('c', 'd')"), 0);
    for (number, at) in (1..=19).map(|back| (back, 59 - 3 * back)) {
        spool.drop_file(format!("d{number:02}"), rows(&[("x", 1, at)]));
    }
    spool.drop_file("e", rows(&[("y", 1, 80)]));
    spool.run_once();
    assert_eq!(results(&spool, "v"), ["00-06 x 2 2", "08-02 x 18 18", "00-05 y 2 2"]);
    let late: Vec<String> = spool.read("late.jsonl").lines().map(late_line).collect();
    assert_eq!(
        late,
        [5, 2].map(|at| format!("d{} 1 v {} x,1,{}", (59 - at) / 3, time(58), time(at)))
    );
}

#[test]
fn a_quiet_folder_closes_its_windows() {
    let event_time = EVENT_TIME.replace("max_future", "idle_close = \"200ms\"\nmax_future");
    let job = format!("{INPUT}{event_time}{}", view("v", "append", SUMS));
    let spool = Spool::new(&job);
    let daemon = spool.start();
    spool.drop_file("a", rows(&[("x", 1, 3)]));
    wait_for("the window is closed", || results(&spool, "v") == ["00-10 x 1 1"]);
    spool.drop_file("b", rows(&[("x", 1, 4), ("x", 2, 14)]));
    wait_for("the next one too", || results(&spool, "v") == ["00-10 x 1 1", "10-20 x 1 2"]);
    let log = daemon.stop();
    assert!(log.contains("all windows are closed"), "{log}");
    // What the clock did is in the ledger, and is not done again.
    assert_eq!(spool.ledger("SELECT count(*) FROM microbatch WHERE name = x''"), 2);
    spool.run_once();
    assert_eq!(results(&spool, "v").len(), 2);
    assert_eq!(spool.read("late.jsonl").lines().count(), 1);
}

/// Records without a time that can be right are rejected, with their line and text.
#[test]
fn a_record_without_a_time_is_rejected() {
    let query = "select upper(k) as k, n, t from input where n > 0";
    for transform in ["", &format!("[transform.sql]\nquery = \"{query}\"\n")] {
        let job = format!("{INPUT}{EVENT_TIME}{transform}{}", view("v", "append", SUMS));
        let spool = Spool::new(&job);
        let text = "x,1,\n\"x\ny\",5,2999-01-01 00:00:00\r\n\nx,0,2016-12-31 00:00:00\nX,bad,\nz,7,2016-12-31 00:00:09\n";
        spool.drop_file("a", text);
        spool.run_once();
        let rejects: Vec<serde_json::Value> =
            spool.rejects().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |number: usize| {
            (rejects[number]["line"].as_u64().unwrap(), rejects[number]["raw"].as_str().unwrap())
        };
        assert_eq!(
            (of(0), of(1), of(2).0),
            ((1, "x,1,"), (2, "\"x\ny\",5,2999-01-01 00:00:00"), 6)
        );
        assert!(rejects[0]["reason"].as_str().unwrap().contains("`t` is NULL"), "{rejects:?}");
        let reason = rejects[1]["reason"].as_str().unwrap();
        assert!(reason.contains("2999-01-01 00:00:00, more than 1h ahead"), "{reason}");
        assert!(!spool.output().contains("2999"), "{}", spool.output());
        // The three drivers agree.
        let batch = spool.run("batch", &["in/processed-a", "--rejects", "-", "--no-views"]);
        assert_eq!(String::from_utf8_lossy(&batch.stdout), spool.output());
        let stream = spool.pipe("stream", &[], text.as_bytes());
        assert_eq!(String::from_utf8_lossy(&stream.stdout), spool.output());
        assert!(String::from_utf8_lossy(&stream.stderr).contains("`t` is NULL"));
    }
}

/// Of a query that must see the whole file, late records keep their line where they have one.
#[test]
fn a_sorted_record_that_is_late_keeps_its_line() {
    let query = "select k, n, t from input order by n desc";
    let transform = format!("[transform.sql]\nquery = \"{query}\"\n");
    let job = format!("{INPUT}{EVENT_TIME}{transform}{}", view("v", "append", SUMS));
    let spool = Spool::new(&job);
    spool.drop_file("a", rows(&[("x", 1, 30)]));
    spool.drop_file("b", rows(&[("x", 1, 3), ("y", 2, 4), ("z", 3, 40)]));
    spool.run_once();
    let late: Vec<String> = spool.read("late.jsonl").lines().map(late_line).collect();
    let missed = time(26);
    let line = |number: i64, record| format!("b {number} v {missed} {record},{}", time(number + 2));
    assert_eq!(late, [line(2, "y,2"), line(1, "x,1")]);
}

/// A view whose query changed is rebuilt from the output, and goes on.
#[test]
fn a_view_is_made_anew_from_the_output() {
    for mode in ["append", "update", "complete"] {
        let spool = Spool::new(&format!("{INPUT}{EVENT_TIME}{}", view("v", mode, SUMS)));
        spool.drop_file("a", rows(&[("x", 1, 3), ("", 2, 5), ("x", 4, 14)]));
        spool.drop_file("b", rows(&[("x", 5, 2), ("x", 2, 33)]));
        spool.drop_file("c", rows(&[("x", 7, 6)]));
        spool.run_once();
        let before = spool.read("v.csv");
        let other = "tumble(output, t, interval '20 seconds')";
        let changed = view("v", mode, other).replace("sum(n)", "max(n)");
        spool.configure("settle = \"0s\"", &format!("{INPUT}{EVENT_TIME}{changed}"));
        let refused = spool.run("run", &["--once"]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("--reset-view v"), "{said}");
        let unknown = spool.run("run", &["--once", "--reset-view", "w"]);
        assert_eq!(unknown.status.code(), Some(2));
        spool.drop_file("d", rows(&[("x", 9, 60)]));
        let reset = spool.run("run", &["--once", "--reset-view", "v"]);
        assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
        let mut expected = vec!["00-20  1 2", "00-20 x 4 7", "20-40 x 1 2"];
        if mode != "append" {
            expected.push("00-20 x 1 9");
        }
        let mut found = results(&spool, "v");
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{mode}");
        // What was written before is not lost.
        let aside: Vec<_> = spool.path("").read_dir().unwrap().flatten().collect();
        let aside = aside
            .iter()
            .find(|entry| entry.file_name().to_string_lossy().starts_with("v.csv.before-"));
        match aside {
            Some(aside) => assert_eq!(std::fs::read_to_string(aside.path()).unwrap(), before),
            None => assert_eq!(mode, "complete"),
        }
        // And nothing is rebuilt twice.
        spool.run_once();
        assert_eq!(results(&spool, "v").len(), found.len());
    }
}

/// A view instead of the records of a stream.
#[test]
fn a_stream_shows_a_view() {
    let views: String = [("closed", "append"), ("changed", "update"), ("all", "complete")]
        .map(|(name, mode)| view(name, mode, SUMS))
        .concat();
    let spool = Spool::new(&format!("{INPUT}{EVENT_TIME}{views}"));
    let input = rows(&[("x", 1, 3), ("x", 2, 12), ("y", 3, 4)]);
    let shown = |name: &str| {
        let output = spool.pipe("stream", &["--view", name], input.as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        std::fs::write(spool.path("shown.csv"), text).unwrap();
        results(&spool, "shown")
    };
    assert_eq!(shown("closed"), ["00-10 x 1 1", "00-10 y 1 3", "10-20 x 1 2"]);
    assert_eq!(shown("changed").len(), 3);
    assert_eq!(shown("all").len(), 3);
    let unknown = spool.pipe("stream", &["--view", "none"], b"");
    assert_eq!(unknown.status.code(), Some(2));
}

/// A stream tells a record of a session that is open from one that is late, too.
#[test]
fn a_stream_counts_a_late_record_in_a_session_that_is_open() {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::Stdio;
    let spool = Spool::new(&format!("{INPUT}{EVENT_TIME}{}", visits()));
    let mut command = spool.command("stream");
    let command = command.args(["--view", "v"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut next = |text: &str| {
        stdin.write_all(text.as_bytes()).unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        line
    };
    let first = next(&rows(&[("w", 1, 20), ("x", 1, 30), ("x", 1, 32), ("y", 1, 37)]));
    assert_eq!(first, format!("{},{},w,1,1\n", time(20), time(23)));
    let second = next(&rows(&[("x", 1, 28), ("z", 1, 28), ("w", 1, 22), ("y", 1, 70)]));
    assert_eq!(second, format!("{},{},x,3,3\n", time(28), time(35)));
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let late: Vec<String> = stderr.lines().map(late_line).collect();
    let line =
        |number: i64, key: &str, at: i64| format!("- {number} v {} {key},1,{}", time(33), time(at));
    assert_eq!(late, [line(6, "z", 28), line(7, "w", 22)]);
}

/// Each part leaves when the input pauses; what comes behind the watermark is late.
#[test]
fn a_stream_shows_a_window_when_it_closes() {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::Stdio;
    let spool = Spool::new(&format!("{INPUT}{EVENT_TIME}{}", view("v", "append", SUMS)));
    let mut command = spool.command("stream");
    command
        .args(["--view", "v"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut next = |text: &str| {
        stdin.write_all(text.as_bytes()).unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        line
    };
    let first = next(&rows(&[("x", 1, 3), ("x", 2, 33)]));
    assert_eq!(first, format!("{},{},x,1,1\n", time(0), time(10)));
    let second = next(&rows(&[("x", 1, 4), ("x", 2, 44)]));
    assert_eq!(second, format!("{},{},x,1,2\n", time(30), time(40)));
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert_eq!(late_line(line.trim()), format!("- 3 v {} x,1,{}", time(29), time(4)));
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// Functions of every kind that a view takes, of which some have no state of nothing.
const FUNCTIONS: [&str; 23] = [
    "first_value(n order by t)",
    "last_value(n order by t)",
    "sum(n)",
    "sum(n * cast(1.5 as double))",
    "avg(n)",
    "avg(n * 1.50)",
    "min(k)",
    "max(t)",
    "count(n)",
    "count(distinct n)",
    "stddev(n)",
    "var_pop(n)",
    "corr(n, n)",
    "covar_samp(n, n)",
    "regr_slope(n, n)",
    "bool_and(n > 0)",
    "bit_xor(n)",
    "approx_distinct(n)",
    "approx_percentile_cont(0.5) within group (order by n)",
    "median(n)",
    "array_to_string(array_agg(k), '+')",
    "string_agg(k, '+')",
    "count(*) filter (where n > 1)",
];

/// A file that touches no group, and windows that are closed without a record, in every mode and kind of
/// window, for every function.
#[test]
fn what_touches_no_group_is_nothing_to_do() {
    let windows = [
        "tumble(output, t, '10 seconds')",
        "hop(output, t, '5 seconds', '10 seconds')",
        "session(output, t, '3 seconds')",
    ];
    let event_time = EVENT_TIME.replace("max_future", "idle_close = \"100ms\"\nmax_future");
    for (window, mode) in windows
        .iter()
        .flat_map(|window| ["append", "update", "complete"].map(|mode| (window, mode)))
    {
        if mode == "update" && window.starts_with("session") {
            // Refused: the parts could not be taken back.
            continue;
        }
        let list: String = FUNCTIONS
            .iter()
            .enumerate()
            .fold(String::new(), |list, (place, one)| format!("{list}, {one} as f{place}"));
        let job = format!(
            "[transform.sql]\nquery = \"select * from input where n >= 0\"\n{INPUT}{event_time}\
             [[view]]\nname = \"v\"\nmode = \"{mode}\"\npath = \"v.csv\"\nevery = \"0s\"\n\
             allow_unbounded_state = true\nquery = \"\"\"select window_start, k{list} from {window} \
             group by window_start, k\"\"\"\n"
        );
        let spool = Spool::new(&job);
        let daemon = spool.start();
        let nothing = ["", "\n", "bad\n", &rows(&[("x", -1, 500)])];
        let mut done = 0;
        let mut drop_all = |contents: &[&str]| {
            for content in contents {
                let name = format!("f{done}");
                spool.drop_file(&name, content);
                let archived = format!("processed-{name}");
                wait_for("the archive", || {
                    assert!(!daemon.log().contains("paused"), "{window} {mode}: {}", daemon.log());
                    spool.names().contains(&archived)
                });
                done += 1;
            }
        };
        drop_all(&nothing);
        let one = rows(&[("x", 1, 3), ("x", 2, 4)]);
        drop_all(&[&one]);
        drop_all(&nothing);
        wait_for("the result", || !results_of(&spool).is_empty());
        let closed = || daemon.log().matches("all windows are closed").count();
        wait_for("the close", || mode == "complete" || closed() > 0);
        drop_all(&nothing);
        let more = rows(&[("x", 1, 903), ("x", 2, 904)]);
        drop_all(&[&more]);
        wait_for("the second result", || {
            results_of(&spool).contains("00:15:0") || mode == "append"
        });
        let log = daemon.stop();
        assert!(!log.contains("ERROR") && !log.contains("paused"), "{window} {mode}: {log}");
    }
}

fn results_of(spool: &Spool) -> String {
    spool.read("v.csv")
}

/// A file that nobody is sending, such as one with a second name, does not hold the windows open.
#[test]
fn a_file_that_waits_for_ever_does_not_keep_windows_open() {
    let event_time = EVENT_TIME.replace("max_future", "idle_close = \"100ms\"\nmax_future");
    let spool = Spool::new(&format!("{INPUT}{event_time}{}", view("v", "append", SUMS)));
    std::fs::write(spool.path("linked"), rows(&[("x", 2, 4)])).unwrap();
    std::fs::hard_link(spool.path("linked"), spool.input("linked")).unwrap();
    let daemon = spool.start();
    spool.drop_file("a", rows(&[("x", 1, 3)]));
    wait_for("the window is closed", || results(&spool, "v") == ["00-10 x 1 1"]);
    daemon.stop();
}

/// A file that waits for its marker was there first: its windows stay open for it.
#[test]
fn a_folder_in_which_a_file_waits_is_not_quiet() {
    let event_time = EVENT_TIME.replace("max_future", "idle_close = \"100ms\"\nmax_future");
    let job = format!("{INPUT}{event_time}{}", view("v", "append", SUMS));
    let input = "settle = \"0s\"\nrescan = \"1s\"\ncomplete = { marker = \".done\" }";
    let spool = Spool::with_input(input, &job);
    spool.drop_file("b", rows(&[("x", 2, 4)]));
    let daemon = spool.start();
    spool.drop_file("a", rows(&[("x", 1, 3)]));
    spool.drop_file("a.done", "");
    wait_for("the first", || spool.names().contains("processed-a"));
    let begun = std::time::Instant::now();
    wait_for("many times the quiet", || begun.elapsed() > std::time::Duration::from_secs(1));
    assert_eq!(results(&spool, "v"), Vec::<String>::new(), "{}", daemon.log());
    spool.drop_file("b.done", "");
    wait_for("the window is closed", || !results(&spool, "v").is_empty());
    assert_eq!(results(&spool, "v"), ["00-10 x 2 3"]);
    assert_eq!(spool.read("late.jsonl"), "");
    let log = daemon.stop();
    assert!(!log.contains("ERROR"), "{log}");
}

/// In a batch nothing is late, and all windows close.
#[test]
fn a_batch_closes_all_windows() {
    let spool = Spool::new(&format!("{INPUT}{EVENT_TIME}{}", view("v", "append", SUMS)));
    spool.write_file("a", rows(&[("x", 1, 33)]));
    spool.write_file("b", rows(&[("x", 2, 3)]));
    let output = spool.run("batch", &["-o", "out.txt"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(results(&spool, "v"), ["00-10 x 1 2", "30-40 x 1 1"]);
    assert!(!spool.path("late.jsonl").exists());
}

#[test]
fn an_event_time_that_cannot_be_used_is_refused() {
    for (event_time, reason) in [
        ("[event_time]\ncolumn = \"u\"\n", "expected a column of the output: k, n, t"),
        ("[event_time]\ncolumn = \"n\"\n", "expected a timestamp or a date"),
        ("[event_time]\ncolumn = \"t\"\nlate = \"output.txt\"\n", "same file"),
        ("[event_time]\ncolumn = \"t\"\nlate = \"in/late\"\n", "inside `input.directory`"),
        ("[event_time]\ncolumn = \"t\"\ndelay = \"5\"\n", "a duration such as"),
        ("", "of the column of [event_time]"),
    ] {
        let spool = Spool::new(&format!("{INPUT}{event_time}{}", view("v", "append", SUMS)));
        let output = spool.run("check", &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{event_time}: {said}");
        assert!(said.contains(reason), "{event_time}: {said}");
    }
}

/// One group whose result cannot be computed stops nothing: the window is left out, and told.
#[test]
fn a_window_that_cannot_be_computed_stops_nothing() {
    let query =
        "select window_start, 100 / sum(n) as r from tumble(output, t, '5 seconds') group by 1";
    let view = view("v", "append", SUMS);
    let (before, rest) = view.split_once("\"\"\"").unwrap();
    let after = rest.split_once("\"\"\"").unwrap().1;
    let job = format!("{INPUT}{EVENT_TIME}{before}\"\"\"{query}\"\"\"{after}");
    let spool = Spool::with_input("settle = \"0s\"\nend_marker = \"EOF\"", &job);
    spool.drop_file("a", rows(&[("x", 0, 0), ("x", 4, 7)]));
    spool.run_once();
    spool.drop_file("b", rows(&[("x", 1, 40)]) + "EOF\n");
    let log = spool.run_once();
    assert!(log.contains("cannot be computed and is left out"), "{log}");
    let lines = spool.read("v.csv");
    let found: Vec<&str> = lines.lines().map(|line| &line[17..]).collect();
    assert_eq!(found, ["05,25", "40,100"], "{lines}");
}

/// A view that was away for a while has missed something; another mode keeps other states.
#[test]
fn a_view_that_has_missed_a_file_does_not_go_on() {
    let with = format!("{INPUT}{EVENT_TIME}{}", view("v", "append", SUMS));
    let spool = Spool::new(&with);
    spool.drop_file("a", rows(&[("x", 1, 1)]));
    spool.run_once();
    spool.configure("settle = \"0s\"", &format!("{INPUT}{EVENT_TIME}"));
    spool.drop_file("b", rows(&[("x", 2, 2)]));
    spool.run_once();
    spool.configure("settle = \"0s\"", &with);
    let refused = spool.run("run", &["--once"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("has seen 1 microbatches of 2"), "{said}");
    assert!(spool.run("run", &["--once", "--reset-view", "v"]).status.success());
    spool.drop_file("c", rows(&[("x", 4, 20)]));
    spool.run_once();
    assert_eq!(results(&spool, "v"), ["00-10 x 2 3"]);
    let other = format!("{INPUT}{EVENT_TIME}{}", view("v", "complete", SUMS));
    spool.configure("settle = \"0s\"", &other);
    let said = spool.run("run", &["--once"]).stderr;
    assert!(String::from_utf8_lossy(&said).contains("--reset-view v"));
}

/// The watermark of one column says nothing of another.
#[test]
fn another_event_time_has_another_watermark() {
    let input = INPUT.replace("t = \"timestamp\"\n", "t = \"timestamp\"\nu = \"timestamp\"\n");
    let job = |column: &str| {
        let event_time = EVENT_TIME.replace("\"t\"", &format!("\"{column}\""));
        let view = view("v", "append", &SUMS.replace(" t,", &format!(" {column},")));
        format!("{input}{event_time}{view}")
    };
    let row = |early: i64, late: i64| format!("x,1,{},{}\n", time(late), time(early));
    let spool = Spool::new(&job("t"));
    spool.drop_file("a", row(0, 3600));
    spool.run_once();
    spool.configure("settle = \"0s\"", &job("u"));
    let reset = spool.run("run", &["--once", "--reset-view", "v"]);
    assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
    spool.drop_file("b", row(5, 3605) + &row(15, 3615));
    spool.run_once();
    assert_eq!(results(&spool, "v"), ["00-10 x 2 2"]);
    assert_eq!(spool.read("late.jsonl"), "");
}

/// A view joins with the version of a table that is there.
#[test]
fn a_view_joins_with_a_table_that_changes() {
    let query = "select c.name, count(*) as c from output join c on output.k = c.k group by c.name";
    let table = "[[table]]\nname = \"c\"\npath = \"c.csv\"\n";
    let job = format!(
        "{INPUT}{table}[[view]]\nname = \"v\"\nmode = \"complete\"\npath = \"v.csv\"\nquery = \"{query}\"\nevery = \"0s\"\n"
    );
    let spool = Spool::new(&job);
    std::fs::write(spool.path("c.csv"), "k,name\nx,one\n").unwrap();
    let daemon = spool.start();
    spool.drop_file("a", rows(&[("x", 1, 1)]));
    wait_for("the first", || spool.read("v.csv").contains("one,1"));
    std::fs::write(spool.path("new.csv"), "k,name\nx,two\n").unwrap();
    std::fs::rename(spool.path("new.csv"), spool.path("c.csv")).unwrap();
    spool.drop_file("b", rows(&[("x", 1, 1)]));
    wait_for("the second", || spool.read("v.csv").contains("two,1"));
    // Written in place, and left alone since: it counts with the next file.
    std::fs::write(spool.path("c.csv"), "k,name\nx,three\n").unwrap();
    let file = std::fs::File::options().write(true).open(spool.path("c.csv")).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(5)).unwrap();
    spool.drop_file("c", rows(&[("x", 1, 1)]));
    wait_for("the third", || spool.read("v.csv").lines().count() >= 3);
    assert!(spool.read("v.csv").contains("three,1"), "{}", spool.read("v.csv"));
    daemon.stop();
}

/// What the job is made of is not written over.
#[test]
fn a_view_is_not_written_over_the_job_itself() {
    for place in ["job.toml", "state/ledger.db", "state/staging/v.csv"] {
        let first = view("first", "append", SUMS);
        let second = view("v", "complete", SUMS).replace("v.csv", place);
        let spool = Spool::new(&format!("{INPUT}{EVENT_TIME}{first}{second}"));
        let output = spool.run("check", &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{place}: {said}");
        assert!(said.contains("which the job itself needs"), "{place}: {said}");
    }
    // An error says in which of several views it is.
    let second = view("v", "complete", SUMS).replace("sum(n)", "sum(nope)");
    let spool =
        Spool::new(&format!("{INPUT}{EVENT_TIME}{}{second}", view("first", "append", SUMS)));
    let said = spool.run("check", &[]).stderr;
    let said = String::from_utf8_lossy(&said);
    let text = spool.read("job.toml");
    let line = text.lines().position(|line| line.contains("nope")).unwrap() + 1;
    assert!(said.contains(&format!("job.toml:{line}: view.query")), "{said}");
}

/// A commit that fails once is tried again, also the one that the clock makes.
#[test]
fn a_quiet_folder_closes_its_windows_although_the_disk_was_full() {
    let event_time = EVENT_TIME.replace("max_future", "idle_close = \"100ms\"\nmax_future");
    let job = format!("{INPUT}{event_time}{}", view("v", "append", SUMS));
    // The first one is of the start, which cannot do without.
    for commit in 2..6 {
        let mut spool = Spool::new(&job);
        spool.environment("SPOOLMILL_FAULT", &format!("fail:commit:28:{commit}"));
        let daemon = spool.start();
        spool.drop_file("a", rows(&[("x", 1, 3)]));
        wait_for("the window is closed", || results(&spool, "v") == ["00-10 x 1 1"]);
        daemon.stop();
    }
}

/// An aggregate on which the engine gives up is found before a file comes.
#[test]
fn an_aggregate_that_breaks_the_engine_is_refused() {
    let query = "select k, bit_xor(distinct n) as x from output group by k";
    let view = format!(
        "[[view]]\nname = \"v\"\nmode = \"complete\"\npath = \"v.csv\"\nquery = \"{query}\"\n\
         every = \"0s\"\nallow_unbounded_state = true\n"
    );
    let spool = Spool::new(&format!("{INPUT}{view}"));
    spool.drop_file("a", rows(&[("x", 1, 1)]));
    let refused = spool.run("run", &["--once"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("not implemented: a function whose state"), "{said}");
    spool.assert_names(&["a"]);
}

/// What else the job writes is locked like its output.
#[test]
fn two_jobs_do_not_share_a_view_or_its_late_records() {
    let job = |path: &str| {
        let view = view("v", "append", SUMS).replace("v.csv", path);
        format!("{INPUT}{EVENT_TIME}{view}")
    };
    let spool = Spool::new(&job("v.csv"));
    let daemon = spool.start();
    wait_for("the daemon has its locks", || daemon.log().contains("watching"));
    std::fs::create_dir(spool.path("other")).unwrap();
    for (path, late, shared) in [("v.csv", "mine", ".v.csv."), ("mine.csv", "late", ".late.jsonl.")]
    {
        let text = spool.read("job.toml").replace("\"state\"", "\"other-state\"");
        let text = text.replace("output.txt", "mine.txt").replace("rejects.jsonl", "mine.rejects");
        let text = text.replace("\"in\"", "\"other\"").replace("v.csv", path);
        let text = text.replace("late.jsonl", &format!("{late}.jsonl"));
        std::fs::write(spool.path("other.toml"), text).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_spoolmill"));
        command.current_dir(spool.path("")).args(["run", "--once", "-c", "other.toml"]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(shared), "{said}");
    }
    daemon.stop();
}

/// Lines of others in the output are told, and stop nothing; no file that was set aside is replaced.
#[test]
fn a_view_is_made_anew_of_what_can_be_read() {
    let spool = Spool::new(&format!("{INPUT}{EVENT_TIME}{}", view("v", "append", SUMS)));
    spool.drop_file("a", rows(&[("x", 1, 1), ("x", 2, 30)]));
    spool.run_once();
    let output = spool.output() + "no record\n";
    std::fs::write(spool.path("output.txt"), output).unwrap();
    std::fs::write(spool.path("v.csv.before-1"), "older").unwrap();
    let reset = spool.run("run", &["--once", "--reset-view", "v"]);
    let said = String::from_utf8_lossy(&reset.stderr);
    assert!(reset.status.success() && said.contains("the view is made without them"), "{said}");
    assert_eq!(results(&spool, "v"), ["00-10 x 1 1"]);
    assert_eq!(spool.read("v.csv.before-1"), "older");
    assert!(spool.path("v.csv.before-1.1").exists());
}

/// Cutting the same records into other files changes nothing as long as none is late.
#[test]
fn files_may_be_cut_anywhere() {
    let views: String = VIEWS
        .iter()
        .filter(|view| view.mode != Mode::Update)
        .map(|one| {
            let mode = if one.mode == Mode::Append { "append" } else { "complete" };
            view(one.name, mode, one.from)
        })
        .collect();
    let event_time = EVENT_TIME.replace("\"4s\"", "\"100s\"");
    let mut random = Random(5);
    let records: Vec<String> = (0..120)
        .map(|_| {
            let at = random.below(90) as i64;
            format!("k{},{},{}\n", random.below(3), random.below(9), time(at))
        })
        .collect();
    let run = |sizes: &mut dyn FnMut() -> usize| {
        let configuration =
            format!("{INPUT}{event_time}{views}[view.format.csv]\nheader = false\n");
        let spool = Spool::with_input("settle = \"0s\"\nend_marker = \"EOF\"", &configuration);
        let (mut rest, mut number) = (records.as_slice(), 0);
        while !rest.is_empty() {
            let (file, more) = rest.split_at(sizes().min(rest.len()));
            spool.drop_file(format!("f{number:03}"), file.concat());
            (rest, number) = (more, number + 1);
        }
        spool.drop_file("g", "EOF\n");
        spool.run_once();
        assert_eq!(spool.read("late.jsonl"), "");
        let lines = |view: &View| {
            let text = spool.read(&format!("{}.csv", view.name));
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        VIEWS.iter().filter(|view| view.mode != Mode::Update).map(lines).collect::<Vec<_>>()
    };
    let whole = run(&mut || usize::MAX);
    assert!(whole.iter().all(|lines| lines.len() > 10));
    assert_eq!(run(&mut || 1), whole);
    let mut random = Random(6);
    assert_eq!(run(&mut || 1 + random.below(30) as usize), whole);
}
