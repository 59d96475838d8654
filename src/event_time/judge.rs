//! Judges records by their event time: taken, late for a view, or rejected.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Date32Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use arrow_select::filter::filter_record_batch;

use super::{EventTime, span_micros, text};
use crate::clock::since_1970;
use crate::units::Span;

/// Microseconds in a day.
const DAY: i64 = 86_400_000_000;

/// When a record is late for a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The view.
    pub view: String,
    /// The watermark, or the end of the last window that the view has closed, where that is later.
    pub mark: Option<i64>,
    /// Records before this time are late; `None` where none ever is.
    pub late_before: Option<i64>,
    /// Not all of these: it depends on the sessions that are open, which are not known here.
    pub is_in_doubt: bool,
}

/// For each view, the marks that follow from the earlier microbatches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// For each view when a record is late.
    pub rules: Vec<Rule>,
}

/// Judges the records of a microbatch; in a stream, one judge serves them all.
#[derive(Debug)]
pub struct Judge {
    /// The place of the column.
    column: usize,
    /// Its name.
    name: String,
    /// The time of the clock in microseconds since 1970; `None` to read the clock each time.
    now: Option<i64>,
    /// Records further ahead of it are rejected.
    max_future: Span,
    marks: Mutex<Arc<Marks>>,
}

/// A record that a view has missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateRow {
    /// Which record.
    pub row: usize,
    /// Which view.
    pub view: usize,
}

/// Records after judgement.
pub struct Judged {
    /// Those that are taken, late or not.
    pub records: RecordBatch,
    /// Those that are not, by their row in what was judged, with the reason.
    pub rejected: Vec<(usize, String)>,
    /// Those of the taken ones that a view has missed, by their row in what was judged.
    pub late: Vec<LateRow>,
    /// The marks that they were judged by.
    pub marks: Arc<Marks>,
}

impl Judge {
    /// By the event time in the column of this name and place, at this time of the clock.
    pub fn new(event_time: &EventTime, column: usize, now: Option<i64>, marks: Marks) -> Self {
        let name = event_time.column.clone();
        let max_future = event_time.max_future;
        Self { column, name, now, max_future, marks: Mutex::new(Arc::new(marks)) }
    }

    /// Judges by these from now on.
    pub fn advance(&self, marks: Marks) {
        *self.marks.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(marks);
    }

    fn marks(&self) -> Arc<Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records after this time are rejected.
    fn latest(&self) -> i64 {
        let now = self.now.unwrap_or_else(|| span_micros(Span(since_1970())));
        now.saturating_add(span_micros(self.max_future))
    }

    /// The event times of these records.
    pub fn times(&self, records: &RecordBatch) -> Int64Array {
        records
            .columns()
            .get(self.column)
            .and_then(micros)
            .unwrap_or_else(|| Int64Array::from(Vec::<i64>::new()))
    }

    /// Judges records.
    pub fn judge(&self, records: RecordBatch) -> Judged {
        let times = self.times(&records);
        let marks = self.marks();
        let latest = self.latest();
        let bad = |time: Option<i64>| time.is_none_or(|time| time > latest);
        let mut rejected = Vec::new();
        if times.null_count() > 0 || times.values().iter().any(|time| *time > latest) {
            let rows = times.iter().enumerate().filter(|(_, time)| bad(*time));
            rejected.extend(rows.map(|(row, time)| (row, self.reason(time))));
        }
        let mut late = Vec::new();
        let least = times.values().iter().copied().min().unwrap_or(i64::MAX);
        for (view, rule) in marks.rules.iter().enumerate() {
            let Some(before) = rule.late_before.filter(|before| least < *before) else { continue };
            let is_late = |time: Option<i64>| !bad(time) && time.is_some_and(|time| time < before);
            let rows = times.iter().enumerate().filter(|(_, time)| is_late(*time));
            late.extend(rows.map(|(row, _)| LateRow { row, view }));
        }
        late.sort_unstable_by_key(|late| (late.row, late.view));
        if rejected.is_empty() {
            return Judged { records, rejected, late, marks };
        }
        let taken: BooleanArray = times.iter().map(|time| Some(!bad(time))).collect();
        let records = filter_record_batch(&records, &taken).expect("as many as there are records");
        Judged { records, rejected, late, marks }
    }

    fn reason(&self, time: Option<i64>) -> String {
        let name = &self.name;
        match time {
            None => format!("the event time `{name}` is NULL"),
            Some(time) => {
                let time = text(time);
                let ahead = humantime::format_duration(self.max_future.0);
                format!("the event time `{name}` is {time}, more than {ahead} ahead of the clock")
            }
        }
    }

    /// The records that are not late for this view, as far as that is known.
    pub fn on_time(&self, view: usize, records: &RecordBatch) -> RecordBatch {
        let marks = self.marks();
        let rule = marks.rules.get(view).filter(|rule| !rule.is_in_doubt);
        let before = rule.and_then(|rule| rule.late_before);
        let [_, on_time] = self.split(before, records);
        on_time.unwrap_or_else(|| records.clone())
    }

    /// The records that may be late for this view, and the watermark that they may have missed; `None`
    /// where there are none.
    pub fn in_doubt(&self, view: usize, records: &RecordBatch) -> Option<(RecordBatch, i64)> {
        let marks = self.marks();
        let rule = marks.rules.get(view).filter(|rule| rule.is_in_doubt)?;
        let [before, _] = self.split(rule.late_before, records);
        Some((before?, rule.mark?))
    }

    /// The records before a time, and the others; neither where all are others.
    fn split(&self, at: Option<i64>, records: &RecordBatch) -> [Option<RecordBatch>; 2] {
        let Some(at) = at else { return [None, None] };
        let times = self.times(records);
        if times.values().iter().all(|time| *time >= at) {
            return [None, None];
        }
        let is = |before: bool| {
            let is = |time: Option<i64>| Some(time.is_none_or(|time| time < at) == before);
            let wanted: BooleanArray = times.iter().map(is).collect();
            Some(filter_record_batch(records, &wanted).expect("as many as there are records"))
        };
        [is(true), is(false)]
    }
}

/// A column of times as microseconds since 1970; `None` for a column of another type. What is out of
/// range is NULL.
pub fn micros(column: &ArrayRef) -> Option<Int64Array> {
    let scaled = |values: Int64Array, by: i64| values.unary_opt(|value| value.checked_mul(by));
    macro_rules! values {
        ($kind:ty) => {
            column.as_primitive::<$kind>().reinterpret_cast::<arrow_array::types::Int64Type>()
        };
    }
    Some(match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => values!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            values!(TimestampNanosecondType).unary(|value| value.div_euclid(1000))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            scaled(values!(TimestampMillisecondType), 1000)
        }
        DataType::Timestamp(TimeUnit::Second, _) => scaled(values!(TimestampSecondType), 1_000_000),
        DataType::Date32 => column.as_primitive::<Date32Type>().unary(|days| i64::from(days) * DAY),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use arrow_array::{TimestampMicrosecondArray, TimestampMillisecondArray};
    use arrow_schema::{Field, Schema};

    use super::*;

    fn records(times: Vec<Option<i64>>) -> RecordBatch {
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times));
        let field = Field::new("t", times.data_type().clone(), true);
        RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![times]).unwrap()
    }

    #[test]
    fn each_record_is_taken_late_or_rejected() {
        let rule = |late_before, is_in_doubt| Rule {
            view: "v".to_owned(),
            mark: Some(10),
            late_before,
            is_in_doubt,
        };
        let rules = vec![
            rule(Some(10), false),
            rule(None, false),
            rule(Some(5), false),
            rule(Some(4), true),
        ];
        let marks = Marks { rules };
        let event_time = EventTime {
            column: "t".to_owned(),
            delay: crate::event_time::Delay::default(),
            max_future: Span(std::time::Duration::from_micros(90)),
            late: None,
            idle_close: None,
        };
        let judge = Judge::new(&event_time, 0, Some(10), marks);
        let judged = judge.judge(records(vec![Some(3), None, Some(7), Some(101), Some(100)]));
        assert_eq!(judged.records.num_rows(), 3);
        let reasons: Vec<_> = judged.rejected.iter().map(|(row, _)| *row).collect();
        assert_eq!(reasons, [1, 3]);
        assert!(judged.rejected[0].1.contains("NULL"), "{:?}", judged.rejected);
        assert!(judged.rejected[1].1.contains("1970-01-01 00:00:00.000101"));
        let late: Vec<_> = judged.late.iter().map(|late| (late.row, late.view)).collect();
        assert_eq!(late, [(0, 0), (0, 2), (0, 3), (2, 0)]);
        assert_eq!(judge.on_time(0, &judged.records).num_rows(), 1);
        assert_eq!(judge.on_time(1, &judged.records).num_rows(), 3);
        assert_eq!(judge.on_time(2, &judged.records).num_rows(), 2);
        assert_eq!(judge.on_time(3, &judged.records).num_rows(), 3);
        let in_doubt = |view| judge.in_doubt(view, &judged.records);
        assert!([0, 1, 2].into_iter().all(|view| in_doubt(view).is_none()));
        assert_eq!(in_doubt(3).map(|(records, mark)| (records.num_rows(), mark)), Some((1, 10)));
    }

    #[test]
    fn every_unit_becomes_microseconds() {
        let column: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![Some(-1), None]));
        let times = micros(&column).unwrap();
        assert_eq!(times.iter().collect::<Vec<_>>(), [Some(-1000), None]);
        let text: ArrayRef = Arc::new(arrow_array::StringArray::from(vec!["x"]));
        assert!(micros(&text).is_none());
    }
}
