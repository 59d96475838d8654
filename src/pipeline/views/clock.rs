//! The judge of records by event time.

use std::sync::Arc;

use super::Definition;
use crate::event_time::{EventTime, Judge, Marks, Rule, span_micros};

/// The event time of a job, and where it is in the output.
#[derive(Debug, Clone)]
pub struct Clock {
    /// As the job says it.
    pub event_time: EventTime,
    /// The place of the column.
    pub column: usize,
}

impl Clock {
    /// The judge of records, with the clock at `now_ms` milliseconds after 1970, or as it is.
    pub fn judge(&self, now_ms: Option<i64>, marks: Marks) -> Arc<Judge> {
        let now = now_ms.map(|now_ms| now_ms.saturating_mul(1000));
        Arc::new(Judge::new(&self.event_time, self.column, now, marks))
    }

    /// The marks that follow from a watermark for views that have closed windows up to these ends.
    pub fn marks<'a>(
        views: impl Iterator<Item = (&'a Definition, Option<i64>)>,
        watermark: Option<i64>,
    ) -> Marks {
        let rule = |(definition, closed): (&Definition, Option<i64>)| {
            let mark = watermark.max(closed);
            let late_before = mark.and_then(|mark| definition.view.late_before(mark));
            let is_in_doubt = definition.view.has_sessions();
            Rule { view: definition.name.clone(), mark, late_before, is_in_doubt }
        };
        Marks { rules: views.map(rule).collect() }
    }

    /// The watermark after records up to `latest`.
    pub fn advance(&self, watermark: Option<i64>, latest: Option<i64>) -> Option<i64> {
        let delay = span_micros(self.event_time.delay.0);
        watermark.max(latest.map(|latest| latest.saturating_sub(delay)))
    }
}
