//! The values of a column as text, for the formats that are text.
//!
//! Invariants: what is written reads back as the same value.

use std::io::Write as _;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{
    Array as _, ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, StringViewArray,
    TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow_schema::{ArrowError, DataType, TimeUnit};

use super::numbers;

/// A column of one type.
pub struct Cells {
    values: Values,
    array: ArrayRef,
    has_nulls: bool,
}

/// Values by how they are written.
enum Values {
    Int8(Int8Array),
    Int16(Int16Array),
    Int32(Int32Array),
    Int64(Int64Array),
    UInt8(UInt8Array),
    UInt16(UInt16Array),
    UInt32(UInt32Array),
    UInt64(UInt64Array),
    Float32(Float32Array),
    Float64(Float64Array),
    Boolean(BooleanArray),
    Text(StringArray),
    TextView(StringViewArray),
    Date(Date32Array),
    /// Microseconds; the zone, if any, is UTC.
    Timestamp(TimestampMicrosecondArray),
    /// With its digits after the point.
    Decimal(Decimal128Array, i8),
}

impl Values {
    /// The values of a column; `None` when its type is not one that [`written_as`] names.
    fn of(array: &ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Int8 => Self::Int8(array.as_primitive().clone()),
            DataType::Int16 => Self::Int16(array.as_primitive().clone()),
            DataType::Int32 => Self::Int32(array.as_primitive().clone()),
            DataType::Int64 => Self::Int64(array.as_primitive().clone()),
            DataType::UInt8 => Self::UInt8(array.as_primitive().clone()),
            DataType::UInt16 => Self::UInt16(array.as_primitive().clone()),
            DataType::UInt32 => Self::UInt32(array.as_primitive().clone()),
            DataType::UInt64 => Self::UInt64(array.as_primitive().clone()),
            DataType::Float32 => Self::Float32(array.as_primitive().clone()),
            DataType::Float64 => Self::Float64(array.as_primitive().clone()),
            DataType::Boolean => Self::Boolean(array.as_boolean().clone()),
            DataType::Utf8 => Self::Text(array.as_string().clone()),
            DataType::Utf8View => Self::TextView(array.as_string_view().clone()),
            DataType::Date32 => Self::Date(array.as_primitive().clone()),
            DataType::Timestamp(TimeUnit::Microsecond, None) => {
                Self::Timestamp(array.as_primitive().clone())
            }
            DataType::Decimal128(_, scale) => Self::Decimal(array.as_primitive().clone(), *scale),
            _ => return None,
        })
    }
}

/// The type that values of this one are written as; `None` for one that has no text.
fn written_as(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Boolean
        | DataType::Utf8
        | DataType::Utf8View
        | DataType::Date32
        | DataType::Decimal128(_, _) => data_type.clone(),
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, _) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Float16 => DataType::Float32,
        DataType::Null
        | DataType::LargeUtf8
        | DataType::Dictionary(_, _)
        | DataType::Decimal256(_, _)
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Interval(_)
        | DataType::Duration(_) => DataType::Utf8,
        _ => return None,
    })
}

/// Values of a type that only an engine or a Parquet file brings.
#[cfg(feature = "parquet")]
pub fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    // An unsafe cast would make NULL of what is out of range.
    let options = arrow_cast::CastOptions { safe: false, ..Default::default() };
    arrow_cast::cast_with_options(array, to, &options)
}

/// There is no value of such a type.
#[cfg(not(feature = "parquet"))]
pub fn cast(array: &ArrayRef, _to: &DataType) -> Result<ArrayRef, ArrowError> {
    Err(ArrowError::CastError(format!("this build has no {}", array.data_type())))
}

/// True when values of this type can be written as text.
pub fn has_text(data_type: &DataType) -> bool {
    written_as(data_type).is_some()
}

impl Cells {
    /// The cells of all columns. Their types were checked by [`has_text`].
    ///
    /// # Errors
    /// Names a value that has no text.
    pub fn all(records: &RecordBatch) -> Result<Vec<Self>, String> {
        let schema = records.schema();
        let both = schema.fields().iter().zip(records.columns());
        let cells = both.map(|(field, column)| {
            Self::of(column).map_err(|error| format!("column `{}`: {error}", field.name()))
        });
        cells.collect()
    }

    fn of(array: &ArrayRef) -> Result<Self, ArrowError> {
        let to = written_as(array.data_type()).unwrap_or(DataType::Utf8);
        let array = match array.data_type() {
            same if *same == to => array.clone(),
            // Its zone is UTC.
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
                let times = array.as_primitive::<TimestampMicrosecondType>();
                Arc::new(times.clone().with_timezone_opt(None::<&str>))
            }
            _ => cast(array, &to)?,
        };
        let values = Values::of(&array)
            .ok_or_else(|| ArrowError::CastError(format!("a {to} has no text")))?;
        Ok(Self { values, has_nulls: array.null_count() > 0, array })
    }

    /// True for a NULL.
    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        self.has_nulls && self.array.is_null(row)
    }

    /// The text of a text column.
    #[inline]
    pub fn text(&self, row: usize) -> Option<&str> {
        match &self.values {
            Values::Text(values) => Some(values.value(row)),
            Values::TextView(values) => Some(values.value(row)),
            _ => None,
        }
    }

    /// True for a column of text, where the empty text is a value.
    pub fn is_text(&self) -> bool {
        matches!(self.values, Values::Text(_) | Values::TextView(_))
    }

    /// True for what JSON writes in quotes, besides text.
    pub fn is_time(&self) -> bool {
        matches!(self.values, Values::Date(_) | Values::Timestamp(_))
    }

    /// The name of a value that JSON has no number for.
    pub fn no_number(&self, row: usize) -> Option<&'static str> {
        let value = match &self.values {
            Values::Float32(values) => f64::from(values.value(row)),
            Values::Float64(values) => values.value(row),
            _ => return None,
        };
        match value {
            f64::INFINITY => Some("Infinity"),
            f64::NEG_INFINITY => Some("-Infinity"),
            value => value.is_nan().then_some("NaN"),
        }
    }

    /// Appends a value that is no NULL.
    #[inline]
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        macro_rules! integer {
            ($values:expr) => {{
                let mut digits = itoa::Buffer::new();
                out.extend_from_slice(digits.format($values.value(row)).as_bytes());
            }};
        }
        match &self.values {
            Values::Int8(values) => integer!(values),
            Values::Int16(values) => integer!(values),
            Values::Int32(values) => integer!(values),
            Values::Int64(values) => integer!(values),
            Values::UInt8(values) => integer!(values),
            Values::UInt16(values) => integer!(values),
            Values::UInt32(values) => integer!(values),
            Values::UInt64(values) => integer!(values),
            Values::Float32(values) => numbers::write_single(values.value(row), out),
            Values::Float64(values) => numbers::write(values.value(row), out),
            Values::Boolean(values) => {
                out.extend_from_slice(if values.value(row) { b"true" } else { b"false" });
            }
            Values::Text(values) => out.extend_from_slice(values.value(row).as_bytes()),
            Values::TextView(values) => out.extend_from_slice(values.value(row).as_bytes()),
            Values::Date(values) => date(values.value(row).into(), out),
            Values::Timestamp(values) => timestamp(values.value(row), out),
            Values::Decimal(values, scale) => decimal(values.value(row), *scale, out),
        }
    }
}

const DAY_MICROS: i64 = 86_400_000_000;

/// `2024-02-28 22:35:00`, with a fraction only where there is one.
fn timestamp(micros: i64, out: &mut Vec<u8>) {
    date(micros.div_euclid(DAY_MICROS), out);
    let micros = micros.rem_euclid(DAY_MICROS);
    let seconds = micros / 1_000_000;
    let fraction = micros % 1_000_000;
    // Less than a day.
    let seconds = u32::try_from(seconds).unwrap_or_default();
    let [hour, minute, second] = [seconds / 3600, seconds / 60 % 60, seconds % 60].map(two_digits);
    out.extend_from_slice(&[
        b' ', hour[0], hour[1], b':', minute[0], minute[1], b':', second[0], second[1],
    ]);
    if fraction > 0 {
        let digits = format!(".{fraction:06}");
        out.extend_from_slice(digits.trim_end_matches('0').as_bytes());
    }
}

/// A date, by its days after 1970-01-01.
fn date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(days);
    let [month, day] = [month, day].map(two_digits);
    let rest = [b'-', month[0], month[1], b'-', day[0], day[1]];
    match u32::try_from(year) {
        Ok(year) if year < 10_000 => {
            let [century, year] = [year / 100, year % 100].map(two_digits);
            out.extend_from_slice(&[century[0], century[1], year[0], year[1]]);
        }
        _ => {
            // A sign, as ISO 8601 has it for years of other than four digits.
            let _ = write!(out, "{year:+}");
        }
    }
    out.extend_from_slice(&rest);
}

/// Year, month and day of the proleptic Gregorian calendar.
///
/// The algorithm is that of C. Neri and L. Schneider, "Euclidean affine functions and their application to
/// calendar algorithms", Software: Practice and Experience 53, 2022, figure 12: divisions by constants
/// that multiplications do. Only the century is found in 64 bits.
fn civil(days: i64) -> (i64, u32, u32) {
    let quarters = 4 * (days + 719_468) + 3;
    let century = quarters.div_euclid(146_097);
    let rest = quarters.rem_euclid(146_097);
    let day_of_century = u32::try_from(rest / 4).unwrap_or_default();
    let quarters = u64::from(4 * day_of_century + 3) * 2_939_745;
    let [year, part] = [quarters >> 32, quarters & 0xffff_ffff];
    let day_of_year = u32::try_from(part / 2_939_745 / 4).unwrap_or_default();
    let months = 2141 * day_of_year + 197_913;
    let month = months >> 16;
    let day = (months & 0xffff) / 2141 + 1;
    // The years begin with March.
    let is_next = day_of_year >= 306;
    let year = 100 * century + year.cast_signed() + i64::from(is_next);
    (year, if is_next { month - 12 } else { month }, day)
}

/// A number from 0 to 99.
#[inline]
fn two_digits(number: u32) -> [u8; 2] {
    let tens = number / 10;
    let [tens, units, ..] = (0x3030 + tens + ((number - 10 * tens) << 8)).to_le_bytes();
    [tens, units]
}

/// All digits after the point that the type has.
fn decimal(value: i128, scale: i8, out: &mut Vec<u8>) {
    let zeros = if value == 0 { 0 } else { usize::from(scale.min(0).unsigned_abs()) };
    let scale = usize::try_from(scale).unwrap_or(0);
    let digits = value.unsigned_abs().to_string() + &"0".repeat(zeros);
    if value < 0 {
        out.push(b'-');
    }
    let zeros = (scale + 1).saturating_sub(digits.len());
    let digits = ["0".repeat(zeros), digits].concat();
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    out.extend_from_slice(whole.as_bytes());
    if scale > 0 {
        out.push(b'.');
        out.extend_from_slice(fraction.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_date_is_written_as_people_write_it() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (19_781, "2024-02-28"),
            (19_782, "2024-02-29"),
            (-719_162, "0001-01-01"),
            (2_932_896, "9999-12-31"),
            (2_932_897, "+10000-01-01"),
        ] {
            assert_eq!(written(|out| date(days, out)), text);
        }
    }

    #[test]
    fn every_day_is_the_one_after_the_day_before() {
        let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        // From a year before the calendar to one behind four digits, each day counted by hand.
        let mut year = -4800;
        let mut month = 1;
        let mut day = 1;
        let begins = -719_528 - 4800 * 365 - 1164;
        for days in begins..2_940_000 {
            assert_eq!(civil(days), (year, month, day), "{days}");
            let length = match month {
                2 => 28 + u32::from(is_leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day = if day == length { 1 } else { day + 1 };
            month = if day > 1 { month } else { month % 12 + 1 };
            year += i64::from(day == 1 && month == 1);
        }
        assert!(
            civil(i64::from(i32::MAX)).0 > 5_000_000 && civil(i64::from(i32::MIN)).0 < -5_000_000
        );
    }

    #[test]
    fn a_fraction_is_written_only_where_there_is_one() {
        for (micros, text) in [
            (1_709_159_700_000_000, "2024-02-28 22:35:00"),
            (1_709_159_700_500_000, "2024-02-28 22:35:00.5"),
            (-1, "1969-12-31 23:59:59.999999"),
        ] {
            assert_eq!(written(|out| timestamp(micros, out)), text);
        }
    }

    #[test]
    fn a_decimal_has_the_digits_of_its_type() {
        for (value, scale, text) in [
            (5, 2, "0.05"),
            (-5, 2, "-0.05"),
            (12_345, 2, "123.45"),
            (7, 0, "7"),
            (-100, 3, "-0.100"),
        ] {
            assert_eq!(written(|out| decimal(value, scale, out)), text);
        }
    }
}
