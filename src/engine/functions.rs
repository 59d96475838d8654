//! Functions that give what users of `PostgreSQL` expect, where the engine's own give something else:
//! `to_timestamp` here, `date_trunc` and `at time zone` in `zones`.
//!
//! Invariants: each is a pure function of its row.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array as _, ArrayRef, TimestampMicrosecondArray};
use arrow_cast::CastOptions;
use arrow_schema::{DataType, TimeUnit};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use datafusion::common::{DataFusionError, Result as Fallible};
use datafusion::execution::FunctionRegistry as _;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::prelude::SessionContext;

use super::error::failed;
use super::zones::{AtTimeZone, DateTrunc, LOCAL, MICROS};

/// Makes the functions known.
pub fn register(context: &SessionContext) {
    let signature = || Signature::user_defined(Volatility::Immutable);
    context.register_udf(ScalarUDF::from(ToTimestamp { signature: signature() }));
    context.register_udf(ScalarUDF::from(AtTimeZone::new(signature())));
    if let Ok(inner) = context.udf("date_trunc") {
        context.register_udf(ScalarUDF::from(DateTrunc::new(inner, signature())));
    }
}

fn cast(array: &ArrayRef, to: &DataType) -> Fallible<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    Ok(arrow_cast::cast_with_options(array, to, &options)?)
}

/// `to_timestamp`: of a text, in one of several formats or as SQL writes it; of a number, as seconds since
/// 1970; of a date or time.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ToTimestamp {
    signature: Signature,
}

impl ScalarUDFImpl for ToTimestamp {
    fn name(&self) -> &'static str {
        "to_timestamp"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Fallible<DataType> {
        Ok(match arguments.first() {
            Some(DataType::Timestamp(_, zone)) => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            _ => LOCAL,
        })
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Fallible<Vec<DataType>> {
        let mut all = Vec::with_capacity(arguments.len());
        for (place, argument) in arguments.iter().enumerate() {
            all.push(match argument {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
                _ if place > 0 => DataType::Utf8,
                DataType::Timestamp(_, zone) => {
                    DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
                }
                DataType::Date32 | DataType::Date64 => LOCAL,
                DataType::Null => DataType::Utf8,
                whole if whole.is_integer() => DataType::Int64,
                number if number.is_numeric() => DataType::Float64,
                other => {
                    let message = format!("to_timestamp makes no time of a {other}");
                    return Err(DataFusionError::Plan(message));
                }
            });
        }
        if all.is_empty() {
            return Err(DataFusionError::Plan("to_timestamp needs an argument".to_owned()));
        }
        Ok(all)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Fallible<ColumnarValue> {
        let rows = arguments.number_rows;
        let arrays = arguments
            .args
            .iter()
            .map(|value| value.to_array(rows))
            .collect::<Fallible<Vec<ArrayRef>>>()?;
        let (first, formats) = arrays.split_first().ok_or_else(|| failed("no argument".into()))?;
        let times: TimestampMicrosecondArray = match first.data_type() {
            DataType::Utf8 if formats.is_empty() => {
                return Ok(ColumnarValue::Array(cast(first, &LOCAL)?));
            }
            DataType::Utf8 => {
                let texts = first.as_string::<i32>();
                let one = |row: usize| -> Fallible<Option<i64>> {
                    if texts.is_null(row) {
                        return Ok(None);
                    }
                    let formats: Vec<&str> = formats
                        .iter()
                        .map(AsArray::as_string::<i32>)
                        .filter(|format| !format.is_null(row))
                        .map(|format| format.value(row))
                        .collect();
                    parse(texts.value(row), &formats).map(Some)
                };
                (0..texts.len()).map(one).collect::<Fallible<_>>()?
            }
            DataType::Int64 => {
                let seconds = first.as_primitive::<Int64Type>();
                seconds.try_unary(|seconds| {
                    seconds
                        .checked_mul(MICROS)
                        .ok_or_else(|| failed(format!("{seconds} seconds are no time")))
                })?
            }
            DataType::Float64 => first.as_primitive::<Float64Type>().try_unary(micros_of)?,
            _ => return Ok(ColumnarValue::Array(first.clone())),
        };
        Ok(ColumnarValue::Array(Arc::new(times)))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "checked to be within 64 bits"
)]
fn micros_of(seconds: f64) -> Fallible<i64> {
    let micros = (seconds * MICROS as f64).round();
    let fits = micros.is_finite() && micros.abs() < i64::MAX as f64;
    fits.then_some(micros as i64).ok_or_else(|| failed(format!("{seconds} seconds are no time")))
}

/// The time that a text is in the first of these formats that it has (strftime).
fn parse(text: &str, formats: &[&str]) -> Fallible<i64> {
    for format in formats {
        let zoned = DateTime::parse_from_str(text, format).map(|time| time.timestamp_micros());
        let local = || {
            NaiveDateTime::parse_from_str(text, format)
                .map(|time| time.and_utc().timestamp_micros())
        };
        let date = || {
            let date = NaiveDate::parse_from_str(text, format)?;
            Ok(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros())
        };
        if let Ok(micros) = zoned
            .or_else(|_: chrono::ParseError| local())
            .or_else(|_: chrono::ParseError| -> Result<i64, chrono::ParseError> { date() })
        {
            return Ok(micros);
        }
    }
    let formats = formats.join("' or '");
    Err(failed(format!("'{text}' is no time in the format '{formats}'")))
}
