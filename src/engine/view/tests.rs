//! A view over many files gives what one query over all of them gives.

use arrow_array::{Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, TimeUnit};

use super::*;
use crate::engine::Query;

fn schema() -> Schema {
    Schema::new(vec![
        Field::new("k", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ])
}

/// A few records, some NULL, the same for the same seed.
fn records(seed: i64, rows: i64) -> RecordBatch {
    let value = |row: i64| (seed * 31 + row * 17) % 23;
    let keys: StringArray = (0..rows)
        .map(|row| (value(row) % 5 != 0).then(|| format!("k{}", value(row) % 5)))
        .collect();
    let numbers: Int64Array =
        (0..rows).map(|row| (value(row) % 7 != 3).then(|| value(row) - 9)).collect();
    #[expect(clippy::cast_precision_loss, reason = "they are small")]
    let doubles: Float64Array = (0..rows).map(|row| Some(value(row) as f64 / 4.0)).collect();
    let times: TimestampMicrosecondArray =
        (0..rows).map(|row| Some(value(row) * 700_000 + seed)).collect();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(keys), Arc::new(numbers), Arc::new(doubles), Arc::new(times)];
    RecordBatch::try_new(Arc::new(schema()), columns).unwrap()
}

fn engine() -> Arc<Engine> {
    Engine::new(64 << 20, &std::env::temp_dir()).unwrap()
}

fn planned(engine: &Arc<Engine>, sql: &str, asked: Asked) -> Result<View, QueryError> {
    let schema = schema();
    let event_time = Some("t");
    let allow_unbounded = false;
    View::new(engine, Definition { sql, schema: &schema, asked, event_time, allow_unbounded })
}

/// The rows as text.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cell = |column: &ArrayRef| {
                arrow_cast::display::array_value_to_string(column, row).unwrap()
            };
            lines.push(batch.columns().iter().map(cell).collect::<Vec<_>>().join("|"));
        }
    }
    lines
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn many_files_give_what_one_query_gives() {
    let engine = engine();
    for sql in [
        "select k, count(*) as c, count(n) as m, sum(n) as s from output group by k",
        "select k, avg(x) as a, min(n) as l, max(k) as h from output group by k",
        "select n % 3 as r, count(*) filter (where x > 2) as c from output group by n % 3, k",
        "select x * n * 0.0 as z, count(*) as c from output group by x * n * 0.0",
        "select n * 0.0 as z, k, count(*) as c from output group by n * 0.0, k",
        "select count(*) as c, sum(x) as s from output",
        "select distinct k, n from output",
        "select k, sum(n) + 1 as s from output where n > 0 group by k having count(*) > 2",
        "with t as (select k as key, x * 2 as y from output) select key, max(y) as m from t group by key",
        "select k, count(*) as c from output group by k order by c desc, k limit 2",
        "select k, bool_and(n > 0) as b, approx_distinct(n) as d from output group by k",
        "select coalesce(k, 'none') as kk, sum(coalesce(n, 0)) as s, count(*) filter (where nvl(n, 1) > 0) as c from output group by coalesce(k, 'none')",
        "select k, c, rank() over (order by c desc, k) as r from (select k, count(*) as c from output group by k) order by r",
    ] {
        let view =
            planned(&engine, sql, Asked::All).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let query = Query::new(&engine, sql, TABLE, Some(&schema())).unwrap();
        let mut kept = Memory::default();
        let mut all = Vec::new();
        for (seed, rows) in [(1, 10), (2, 0), (3, 1), (4, 40), (1, 10)] {
            let file = records(seed, rows);
            all.push(file.clone());
            let delta = view.delta(Feed::held(vec![file])).unwrap();
            view.merge(&delta, None, &mut kept).unwrap();
            let result = view.evaluate(&view.states(view.all(&kept).unwrap()).unwrap()).unwrap();
            let whole = arrow_select::concat::concat_batches(&all[0].schema(), &all).unwrap();
            let expected = query.at(0, None).unwrap().apply(whole).unwrap();
            let result = lines(&result);
            let expected = lines(&[expected]);
            if sql.contains("order by") && !sql.contains("over") {
                assert_eq!(result, expected, "{sql}");
            } else {
                assert_eq!(sorted(result), sorted(expected), "{sql}");
            }
        }
    }
}

#[test]
fn states_go_out_when_memory_is_short_and_none_is_lost() {
    let engine = Engine::new(1 << 20, &std::env::temp_dir()).unwrap();
    let sql = "select k, count(*) as c from output group by k";
    let view = planned(&engine, sql, Asked::All).unwrap();
    let file = |from: i64| {
        let keys: StringArray = (from..from + 5000).map(|key| Some(format!("k{key}"))).collect();
        let mut columns = records(1, 5000).columns().to_vec();
        columns[0] = Arc::new(keys);
        RecordBatch::try_new(Arc::new(schema()), columns).unwrap()
    };
    // Each key twice, the second time long after the first.
    let files = (0..10).chain(0..10).map(|number| file(number * 5000)).collect();
    let delta = view.delta(Feed::held(files)).unwrap();
    assert!(delta.len() > 1, "the table kept all in a megabyte");
    let mut kept = Memory::default();
    let states = view.merge(&delta, None, &mut kept).unwrap();
    let counted = lines(&view.evaluate(&states).unwrap());
    assert!(counted.len() == 50_000 && counted.iter().all(|line| line.ends_with("|2")));
}

#[test]
fn what_changes_is_what_was_touched() {
    let engine = engine();
    let sql = "select k, count(*) as c from output group by k";
    let view = planned(&engine, sql, Asked::Changed).unwrap();
    let delta = view.delta(Feed::held(vec![records(3, 1)])).unwrap();
    let states = view.merge(&delta, None, &mut Memory::default()).unwrap();
    assert_eq!(lines(&view.evaluate(&states).unwrap()).len(), 1);
    assert_eq!(states.len(), 1);
}

#[test]
fn a_group_whose_row_stays_the_same_is_not_given_again() {
    let engine = engine();
    for (sql, again) in [
        ("select k, count(*) as c from output group by k", 1),
        ("select k, max(n) as most from output group by k", 0),
        ("select distinct k from output", 0),
        ("select min(n) as least from output", 0),
    ] {
        let view = planned(&engine, sql, Asked::Changed).unwrap();
        let mut kept = Memory::default();
        let mut groups = || {
            let delta = view.delta(Feed::held(vec![records(3, 1)])).unwrap();
            let states = view.merge(&delta, None, &mut kept).unwrap();
            lines(&view.evaluate(&states).unwrap()).len()
        };
        assert_eq!(groups(), 1, "{sql}");
        assert_eq!(groups(), again, "{sql}");
    }
}

#[test]
fn a_query_that_cannot_be_kept_says_why() {
    let engine = engine();
    for (sql, asked, reason) in [
        ("select k from output", Asked::All, "belongs in the transform"),
        (
            "select k, count(*) from output group by k order by 1",
            Asked::Changed,
            "mode = \"complete\"",
        ),
        (
            "select k, count(*) from output group by k limit 1",
            Asked::Changed,
            "`limit` over the groups",
        ),
        (
            "select count(*) from (select k, count(*) from output group by k)",
            Asked::All,
            "`group by` below the groups",
        ),
        (
            "select k, count(*) from (select k from output limit 3) group by k",
            Asked::All,
            "`limit` below the groups",
        ),
        (
            "select k, count(*) from (select k, row_number() over () from output) group by k",
            Asked::All,
            "",
        ),
        (
            "select a.k, count(*) from output a join output b on a.k = b.k group by a.k",
            Asked::All,
            "expected one `output`",
        ),
        ("select k, count(*) from output group by rollup(k, n)", Asked::All, "rollup"),
        ("select k, now() as t, count(*) from output group by k", Asked::All, "`now()`"),
        (
            "select k, count(*) from output where n > (select avg(n) from output) group by k",
            Asked::All,
            "subquery",
        ),
        (
            "select k, count(*) from output group by k union all select 'x', 1",
            Asked::All,
            "`union` over the groups",
        ),
        ("select missing, count(*) from output group by 1", Asked::All, "missing"),
    ] {
        match planned(&engine, sql, asked) {
            Ok(_) => assert!(reason.is_empty(), "{sql}"),
            Err(error) => assert!(error.to_string().contains(reason), "{sql}: {error}"),
        }
    }
}

/// Hopping windows by panes give what a join of every record with its windows gives.
#[test]
fn panes_give_what_every_record_in_every_window_gives() {
    let engine = engine();
    for (size, slide, offset) in [(5, 5, 0), (6, 2, 0), (7, 3, 1), (4, 4, 2), (10, 4, 3)] {
        let sql = format!(
            "select window_start, window_end, k, count(*) as c, sum(n) as s, max(x) as m \
             from hop(output, t, interval '{slide} seconds', interval '{size} seconds', interval '{offset} seconds') \
             group by window_start, window_end, k"
        );
        let view = planned(&engine, &sql, Asked::All).unwrap();
        let joined = format!(
            "select w as window_start, w + interval '{size} seconds' as window_end, k, count(*) as c, \
             sum(n) as s, max(x) as m from output join \
             (select to_timestamp_micros((column1 * {slide} + {offset}) * 1000000) as w from (values {})) w \
             on t >= w and t < w + interval '{size} seconds' group by 1, 2, 3",
            (-10..30).map(|n| format!("({n})")).collect::<Vec<_>>().join(", ")
        );
        let query = Query::new(&engine, &joined, TABLE, Some(&schema())).unwrap();
        let mut kept = Memory::default();
        let mut all = Vec::new();
        for seed in 1..5 {
            let file = records(seed, 20);
            all.push(file.clone());
            view.merge(&view.delta(Feed::held(vec![file])).unwrap(), None, &mut kept).unwrap();
        }
        let result = view.evaluate(&view.states(view.all(&kept).unwrap()).unwrap()).unwrap();
        let whole = arrow_select::concat::concat_batches(&all[0].schema(), &all).unwrap();
        let expected = query.at(0, None).unwrap().apply(whole).unwrap();
        assert_eq!(sorted(lines(&result)), sorted(lines(&[expected])), "{sql}");
    }
}

#[test]
fn a_window_that_cannot_be_kept_says_why() {
    let engine = engine();
    let hop = "hop(output, t, '1 second', '3 seconds')";
    for (sql, asked, reason) in [
        (format!("select k, count(*) from {hop} group by k"), Asked::All, "in `group by`"),
        (
            format!("select k, max(window_start) from {hop} group by window_start, k"),
            Asked::All,
            "can only be grouped by",
        ),
        (
            format!("select window_start, count(*) from {hop} where window_start > t group by 1"),
            Asked::All,
            "can only be grouped by",
        ),
        (
            format!("select date_trunc('day', window_start), count(*) from {hop} group by 1"),
            Asked::All,
            "can only be grouped by",
        ),
        ("select k, count(*) from output group by k".to_owned(), Asked::Closed, "[event_time]"),
        (
            "select window_end, count(*) from output group by \
             window(t at time zone 'Europe/Berlin', '5 seconds')"
                .to_owned(),
            Asked::Closed,
            "of the column of [event_time]",
        ),
        (
            format!("select w, count(*) from (select *, window_start as w from {hop}) group by w, window_start"),
            Asked::All,
            "stands twice",
        ),
        ("select random() < 2, count(*) from output group by 1".to_owned(), Asked::All, "chance"),
        (
            "select window_start, count(*) from tumble(output, k, '1 second') group by 1".to_owned(),
            Asked::All,
            "expected a timestamp",
        ),
        (
            "select window_start, count(*) from (select window_start from \
             tumble(other, t, '1 second')) group by 1"
                .to_owned(),
            Asked::All,
            "other",
        ),
        (
            "with o as (select t + interval '1 day' as t from output) select window_start, count(*) \
             from tumble(o, t, '1 second') group by 1"
                .to_owned(),
            Asked::Closed,
            "of the column of [event_time]",
        ),
        (
            "select window_start, count(*) from session(output, t, '1 second') group by 1"
                .to_owned(),
            Asked::Changed,
            "sessions grow together",
        ),
    ] {
        match planned(&engine, &sql, asked) {
            Ok(_) => panic!("{sql} was taken"),
            Err(error) => assert!(error.to_string().contains(reason), "{sql}: {error}"),
        }
    }
}

#[test]
fn windows_are_found_however_they_are_written() {
    let engine = engine();
    for sql in [
        "select window.start, window_end, count(*) from output group by window(t, '2 seconds')",
        "select k, window_start from (select k, n, t from output where n > 0) o, (values (1)) v \
         group by k, window(t, '5 minutes', '1 minute')",
        "with o as (select t as u, k from output) select k, window_end, count(*) from \
         tumble(o, u, interval '2' minute, interval '1' minute) w group by k, w.window_end",
        "select distinct window_start, k from table(tumble(output, descriptor(t), '1 hour'))",
        "select session_window.start, k, sum(n) from output group by session_window(t, '1 s'), k",
    ] {
        planned(&engine, sql, Asked::Closed).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}
