//! Local times and instants: `at time zone` and `date_trunc`.
//!
//! Invariants: times are microseconds, from year 1 to 9999 and beyond; a zone is a name of the IANA
//! database, or an offset.

use std::str::FromStr as _;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::timezone::Tz;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array as _, ArrayRef, TimestampMicrosecondArray};
use arrow_schema::{DataType, TimeUnit};
use chrono::{DateTime, Datelike as _, NaiveDate, Offset as _, TimeDelta, TimeZone as _};
use datafusion::common::{DataFusionError, Result as Fallible};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use super::error::failed;

/// The function that `at time zone` is.
pub const AT_TIME_ZONE: &str = "at_time_zone";

/// Microseconds in a second.
pub const MICROS: i64 = 1_000_000;

/// A time without a zone.
pub const LOCAL: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// `date_trunc` of a date or a time, in the local time of its zone.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct DateTrunc {
    /// The engine's own, for what has other units and for times of the day.
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

impl DateTrunc {
    /// The function.
    pub fn new(inner: Arc<ScalarUDF>, signature: Signature) -> Self {
        Self { inner, signature }
    }
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &'static str {
        "date_trunc"
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Fallible<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(
        &self,
        arguments: ReturnFieldArgs<'_>,
    ) -> Fallible<arrow_schema::FieldRef> {
        self.inner.return_field_from_args(arguments)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Fallible<Vec<DataType>> {
        let [unit, time] = arguments else {
            let message = "date_trunc has two arguments: a unit such as 'day', and a time";
            return Err(DataFusionError::Plan(message.to_owned()));
        };
        let unit = match unit {
            DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
            other => other.clone(),
        };
        let time = match time {
            DataType::Timestamp(_, zone) => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            DataType::Date32 | DataType::Date64 | DataType::Utf8 | DataType::Utf8View => LOCAL,
            other => other.clone(),
        };
        Ok(vec![unit, time])
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Fallible<ColumnarValue> {
        let unit = match arguments.args.first() {
            Some(ColumnarValue::Scalar(unit)) => unit.try_as_str().flatten().and_then(Unit::named),
            _ => None,
        };
        let is_time = matches!(
            arguments.args.get(1).map(ColumnarValue::data_type),
            Some(DataType::Timestamp(TimeUnit::Microsecond, _))
        );
        let (Some(unit), true, Some(times)) = (unit, is_time, arguments.args.get(1)) else {
            return self.inner.invoke_with_args(arguments);
        };
        let array = times.to_array(arguments.number_rows)?;
        let times = array.as_primitive::<TimestampMicrosecondType>();
        let name = times.timezone();
        let zone = name.map(Tz::from_str).transpose()?;
        let plain: TimestampMicrosecondArray = times.try_unary(|time| unit.of(time, zone))?;
        let truncated = plain.with_timezone_opt(name.map(str::to_owned));
        Ok(ColumnarValue::Array(Arc::new(truncated)))
    }
}

/// The unit that a time is truncated to.
#[derive(Clone, Copy)]
enum Unit {
    /// Microseconds, since midnight.
    Part(i64),
    /// Days, counted from a number of days before 1970.
    Days(i32, i32),
    /// Months, since January.
    Months(u32),
}

impl Unit {
    fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "microsecond" => Self::Part(1),
            "millisecond" => Self::Part(1000),
            "second" => Self::Part(MICROS),
            "minute" => Self::Part(60 * MICROS),
            "hour" => Self::Part(3600 * MICROS),
            "day" => Self::Days(1, 0),
            // From Monday: 1970 began on a Thursday.
            "week" => Self::Days(7, 3),
            "month" => Self::Months(1),
            "quarter" => Self::Months(3),
            "year" => Self::Months(12),
            _ => return None,
        })
    }

    /// The beginning of what a time is in.
    fn of(self, micros: i64, zone: Option<Tz>) -> Fallible<i64> {
        let local = zone.map_or(Ok(micros), |zone| moved(micros, zone, To::Local))?;
        let begin = self.begin(local).ok_or_else(|| no_time(local))?;
        match (self, zone) {
            // The hour that a clock has twice stays the one that it is.
            (Self::Part(_), _) => Ok(micros - (local - begin)),
            (_, None) => Ok(begin),
            (_, Some(zone)) => moved(begin, zone, To::EarlierInstant),
        }
    }

    fn begin(self, local: i64) -> Option<i64> {
        const DAY: i64 = 86_400 * MICROS;
        let days = local.div_euclid(DAY);
        let begin = match self {
            Self::Part(part) => return local.checked_sub(local.rem_euclid(part)),
            Self::Days(count, before) => {
                days - (days + i64::from(before)).rem_euclid(i64::from(count))
            }
            Self::Months(count) => {
                let date = DateTime::from_timestamp_micros(local)?.date_naive();
                let month = date.month0() / count * count + 1;
                let first = NaiveDate::from_ymd_opt(date.year(), month, 1)?;
                days - (date - first).num_days()
            }
        };
        begin.checked_mul(DAY)
    }
}

fn no_time(micros: i64) -> DataFusionError {
    failed(format!("{micros} microseconds are no time"))
}

/// `at time zone`: of an instant, the local time there; of a local time, the instant.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AtTimeZone {
    signature: Signature,
}

impl AtTimeZone {
    /// The function.
    pub fn new(signature: Signature) -> Self {
        Self { signature }
    }
}

impl ScalarUDFImpl for AtTimeZone {
    fn name(&self) -> &'static str {
        AT_TIME_ZONE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Fallible<DataType> {
        Ok(match arguments.first() {
            Some(DataType::Timestamp(_, Some(_))) => LOCAL,
            _ => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        })
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Fallible<Vec<DataType>> {
        let zone = match arguments.first() {
            Some(DataType::Timestamp(_, zone)) => zone.clone(),
            _ => None,
        };
        Ok(vec![DataType::Timestamp(TimeUnit::Microsecond, zone), DataType::Utf8])
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Fallible<ColumnarValue> {
        let rows = arguments.number_rows;
        let each = arguments.args.iter().map(|value| value.to_array(rows));
        let arrays = each.collect::<Fallible<Vec<ArrayRef>>>()?;
        let [times, zones] = arrays.as_slice() else {
            return Err(failed("at time zone has two sides".to_owned()));
        };
        let is_instant = matches!(times.data_type(), DataType::Timestamp(_, Some(_)));
        let to = if is_instant { To::Local } else { To::LaterInstant };
        let (times, zones) =
            (times.as_primitive::<TimestampMicrosecondType>(), zones.as_string::<i32>());
        let mut known: Option<(String, Tz)> = None;
        let mut one = |row: usize| -> Fallible<Option<i64>> {
            if times.is_null(row) || zones.is_null(row) {
                return Ok(None);
            }
            let name = zones.value(row);
            let zone = match &known {
                Some((before, zone)) if before == name => *zone,
                _ => {
                    let zone = Tz::from_str(name)
                        .map_err(|_| failed(format!("'{name}' is no time zone")))?;
                    known = Some((name.to_owned(), zone));
                    zone
                }
            };
            moved(times.value(row), zone, to).map(Some)
        };
        let moved: TimestampMicrosecondArray =
            (0..times.len()).map(&mut one).collect::<Fallible<_>>()?;
        let zone = (!is_instant).then(|| "+00:00".to_owned());
        Ok(ColumnarValue::Array(Arc::new(moved.with_timezone_opt(zone))))
    }
}

/// The direction of a conversion. A clock that is set back has a local time twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Local,
    EarlierInstant,
    /// Standard time: so `PostgreSQL` takes it.
    LaterInstant,
}

/// Hours before a local time that no clock shows at which one does: a clock is set forward by up to one,
/// but where the date line was moved by a day.
const BEFORE_GAP: [i64; 2] = [3, 27];

/// The local time of an instant in a zone, or the instant of a local time; where there is none, as if the
/// clock had not been set forward.
fn moved(micros: i64, zone: Tz, to: To) -> Fallible<i64> {
    let found = DateTime::from_timestamp_micros(micros).map(|time| time.naive_utc());
    let time = found.ok_or_else(|| no_time(micros))?;
    let offset = if to == To::Local {
        zone.offset_from_utc_datetime(&time).fix().local_minus_utc()
    } else {
        let at = zone.offset_from_local_datetime(&time);
        let local = if to == To::LaterInstant { at.latest() } else { at.earliest() };
        let before = |hours: i64| {
            let before = time.checked_sub_signed(TimeDelta::hours(hours))?;
            zone.offset_from_local_datetime(&before).earliest()
        };
        let offset = local.or_else(|| BEFORE_GAP.into_iter().find_map(before));
        -offset.ok_or_else(|| failed(format!("{time} is no time there")))?.fix().local_minus_utc()
    };
    Ok(micros + i64::from(offset) * MICROS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_truncated_in_their_zone() {
        let zone = Tz::from_str("Europe/Berlin").unwrap();
        let micros = |text: &str| text.parse::<DateTime<chrono::Utc>>().unwrap().timestamp_micros();
        for (unit, time, utc, berlin) in [
            ("hour", "2024-03-31T01:30:00Z", "2024-03-31T01:00:00Z", "2024-03-31T01:00:00Z"),
            // 02:30 of summer and of winter: the same hour on the clock.
            ("hour", "2024-10-27T01:30:00Z", "2024-10-27T01:00:00Z", "2024-10-27T01:00:00Z"),
            ("day", "2024-07-01T22:30:00Z", "2024-07-01T00:00:00Z", "2024-07-01T22:00:00Z"),
            ("week", "2024-07-07T12:00:00Z", "2024-07-01T00:00:00Z", "2024-06-30T22:00:00Z"),
            ("week", "1969-12-30T12:00:00Z", "1969-12-29T00:00:00Z", "1969-12-28T23:00:00Z"),
            ("quarter", "2024-06-30T22:30:00Z", "2024-04-01T00:00:00Z", "2024-06-30T22:00:00Z"),
            ("month", "9999-12-30T23:59:59Z", "9999-12-01T00:00:00Z", "9999-11-30T23:00:00Z"),
            ("year", "1600-05-05T05:05:05Z", "1600-01-01T00:00:00Z", "1599-12-31T23:06:32Z"),
        ] {
            let named = Unit::named(unit).unwrap();
            let time = micros(time);
            assert_eq!(named.of(time, None).unwrap(), micros(utc), "{unit}");
            assert_eq!(named.of(time, Some(zone)).unwrap(), micros(berlin), "{unit}");
        }
    }

    #[test]
    fn a_clock_that_is_set_has_two_times_or_none() {
        let zone = Tz::from_str("Europe/Berlin").unwrap();
        let micros = |text: &str| text.parse::<DateTime<chrono::Utc>>().unwrap().timestamp_micros();
        let local = |text: &str| moved(micros(text), zone, To::Local).unwrap();
        let instant = |text: &str| moved(micros(text), zone, To::LaterInstant).unwrap();
        assert_eq!(local("2024-03-30T23:30:00Z"), micros("2024-03-31T00:30:00Z"));
        assert_eq!(local("2024-07-01T00:00:00Z"), micros("2024-07-01T02:00:00Z"));
        assert_eq!(instant("2024-07-01T02:00:00Z"), micros("2024-07-01T00:00:00Z"));
        // Twice in October: in the winter. Never in March: as in the winter.
        assert_eq!(instant("2024-10-27T02:30:00Z"), micros("2024-10-27T01:30:00Z"));
        let earlier = moved(micros("2024-10-27T02:30:00Z"), zone, To::EarlierInstant).unwrap();
        assert_eq!(earlier, micros("2024-10-27T00:30:00Z"));
        // A day that was left out.
        let apia = Tz::from_str("Pacific/Apia").unwrap();
        let moved = moved(micros("2011-12-30T12:00:00Z"), apia, To::LaterInstant).unwrap();
        assert_eq!(moved, micros("2011-12-30T22:00:00Z"));
        assert_eq!(instant("2024-03-31T02:30:00Z"), micros("2024-03-31T01:30:00Z"));
    }
}
