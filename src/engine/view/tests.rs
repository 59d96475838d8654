//! A view over many files gives what one query over all of them gives.

use std::collections::BTreeMap;

use arrow_array::{Float64Array, Int64Array, StringArray};
use arrow_schema::{DataType, Field};

use super::*;
use crate::engine::Query;

fn schema() -> Schema {
    Schema::new(vec![
        Field::new("k", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
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
    let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(numbers), Arc::new(doubles)];
    RecordBatch::try_new(Arc::new(schema()), columns).unwrap()
}

fn engine() -> Arc<Engine> {
    Engine::new(64 << 20, &std::env::temp_dir()).unwrap()
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
        "select count(*) as c, sum(x) as s from output",
        "select distinct k, n from output",
        "select k, sum(n) + 1 as s from output where n > 0 group by k having count(*) > 2",
        "with t as (select k as key, x * 2 as y from output) select key, max(y) as m from t group by key",
        "select k, count(*) as c from output group by k order by c desc, k limit 2",
        "select k, bool_and(n > 0) as b, approx_distinct(n) as d from output group by k",
        "select k, c, rank() over (order by c desc, k) as r from (select k, count(*) as c from output group by k) order by r",
    ] {
        let view = View::new(&engine, sql, &schema(), Asked::All, false)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let query = Query::new(&engine, sql, TABLE, Some(&schema())).unwrap();
        let mut kept: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut all = Vec::new();
        for (seed, rows) in [(1, 10), (2, 0), (3, 1), (4, 40), (1, 10)] {
            let file = records(seed, rows);
            all.push(file.clone());
            let delta = view.delta(vec![file]).unwrap();
            let states =
                view.merge(&delta, |key| Ok::<_, Problem>(kept.get(key).cloned())).unwrap();
            kept.extend(
                states.entries().unwrap().into_iter().map(|entry| (entry.key, entry.value)),
            );
            let entries =
                kept.iter().map(|(key, value)| Entry { key: key.clone(), value: value.clone() });
            let result = view.evaluate(&view.states(entries.collect()).unwrap()).unwrap();
            let whole = arrow_select::concat::concat_batches(&all[0].schema(), &all).unwrap();
            let expected = query.at(0, None).unwrap().apply(whole).unwrap();
            let (result, expected) = (lines(&result), lines(&[expected]));
            if sql.contains("order by") && !sql.contains("over") {
                assert_eq!(result, expected, "{sql}");
            } else {
                assert_eq!(sorted(result), sorted(expected), "{sql}");
            }
        }
    }
}

#[test]
fn what_changes_is_what_was_touched() {
    let engine = engine();
    let sql = "select k, count(*) as c from output group by k";
    let view = View::new(&engine, sql, &schema(), Asked::Changed, false).unwrap();
    let delta = view.delta(vec![records(3, 1)]).unwrap();
    let states = view.merge(&delta, |_| Ok::<_, Problem>(None)).unwrap();
    assert_eq!(lines(&view.evaluate(&states).unwrap()).len(), 1);
    assert_eq!(states.entries().unwrap().len(), 1);
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
        match View::new(&engine, sql, &schema(), asked, false) {
            Ok(_) => assert!(reason.is_empty(), "{sql}"),
            Err(error) => assert!(error.to_string().contains(reason), "{sql}: {error}"),
        }
    }
}
