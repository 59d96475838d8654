//! The values of a column as text, for the formats that are text.
//!
//! What holds here: what is written reads back as the same value.

use std::io::Write as _;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, TimeUnit};

use super::numbers;

/// A column of one type.
pub struct Cells {
    array: ArrayRef,
    kind: Kind,
}

/// How the values of a column are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float32,
    Float64,
    Boolean,
    Text,
    TextView,
    Date,
    /// Microseconds; the zone, if any, is UTC.
    Timestamp,
    /// So many digits behind the point.
    Decimal(i8),
}

impl Kind {
    /// What a value of this type is written as, and the type to cast to before; `None` for one that
    /// has no text.
    fn of(data_type: &DataType) -> Option<(Self, Option<DataType>)> {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        Some(match data_type {
            DataType::Int8 => (Self::Int8, None),
            DataType::Int16 => (Self::Int16, None),
            DataType::Int32 => (Self::Int32, None),
            DataType::Int64 => (Self::Int64, None),
            DataType::UInt8 => (Self::UInt8, None),
            DataType::UInt16 => (Self::UInt16, None),
            DataType::UInt32 => (Self::UInt32, None),
            DataType::UInt64 => (Self::UInt64, None),
            DataType::Float32 => (Self::Float32, None),
            DataType::Float64 => (Self::Float64, None),
            DataType::Boolean => (Self::Boolean, None),
            DataType::Utf8 => (Self::Text, None),
            DataType::Utf8View => (Self::TextView, None),
            DataType::Date32 => (Self::Date, None),
            DataType::Date64 => (Self::Date, Some(DataType::Date32)),
            DataType::Timestamp(TimeUnit::Microsecond, None) => (Self::Timestamp, None),
            DataType::Timestamp(_, _) => (Self::Timestamp, Some(micros)),
            DataType::Decimal128(_, scale) => (Self::Decimal(*scale), None),
            DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
                (Self::Decimal(*scale), Some(DataType::Decimal128(*precision, *scale)))
            }
            DataType::Float16 => (Self::Float32, Some(DataType::Float32)),
            DataType::Null
            | DataType::LargeUtf8
            | DataType::Dictionary(_, _)
            | DataType::Decimal256(_, _)
            | DataType::Time32(_)
            | DataType::Time64(_)
            | DataType::Interval(_)
            | DataType::Duration(_) => (Self::Text, Some(DataType::Utf8)),
            _ => return None,
        })
    }

    /// True for what JSON writes in quotes.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::TextView | Self::Date | Self::Timestamp)
    }
}

/// True when values of this type can be written as text.
pub fn has_text(data_type: &DataType) -> bool {
    Kind::of(data_type).is_some()
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
        let (kind, cast) =
            Kind::of(array.data_type()).unwrap_or((Kind::Text, Some(DataType::Utf8)));
        // An unsafe cast would make NULL of what is out of range.
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let array = match cast {
            Some(to) => cast_with_options(array, &to, &options)?,
            None => array.clone(),
        };
        Ok(Self { array, kind })
    }

    /// How its values are written.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// True for a NULL.
    pub fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    /// The text of a text column.
    pub fn text(&self, row: usize) -> &str {
        match self.kind {
            Kind::Text => self.array.as_string::<i32>().value(row),
            Kind::TextView => self.array.as_string_view().value(row),
            _ => "",
        }
    }

    /// True when the number is not one that JSON can write.
    pub fn is_no_number(&self, row: usize) -> bool {
        match self.kind {
            Kind::Float32 => !self.array.as_primitive::<Float32Type>().value(row).is_finite(),
            Kind::Float64 => !self.array.as_primitive::<Float64Type>().value(row).is_finite(),
            _ => false,
        }
    }

    /// Appends a value that is no NULL.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        macro_rules! integer {
            ($type:ty) => {{
                let mut digits = itoa::Buffer::new();
                let value = self.array.as_primitive::<$type>().value(row);
                out.extend_from_slice(digits.format(value).as_bytes());
            }};
        }
        match self.kind {
            Kind::Int8 => integer!(Int8Type),
            Kind::Int16 => integer!(Int16Type),
            Kind::Int32 => integer!(Int32Type),
            Kind::Int64 => integer!(Int64Type),
            Kind::UInt8 => integer!(UInt8Type),
            Kind::UInt16 => integer!(UInt16Type),
            Kind::UInt32 => integer!(UInt32Type),
            Kind::UInt64 => integer!(UInt64Type),
            Kind::Float32 => {
                numbers::write_single(self.array.as_primitive::<Float32Type>().value(row), out);
            }
            Kind::Float64 => {
                numbers::write(self.array.as_primitive::<Float64Type>().value(row), out);
            }
            Kind::Boolean => {
                let value = self.array.as_boolean().value(row);
                out.extend_from_slice(if value { b"true" } else { b"false" });
            }
            Kind::Text | Kind::TextView => out.extend_from_slice(self.text(row).as_bytes()),
            Kind::Date => date(self.array.as_primitive::<Date32Type>().value(row).into(), out),
            Kind::Timestamp => {
                timestamp(self.array.as_primitive::<TimestampMicrosecondType>().value(row), out);
            }
            Kind::Decimal(scale) => {
                decimal(self.array.as_primitive::<Decimal128Type>().value(row), scale, out);
            }
        }
    }
}

const DAY_MICROS: i64 = 86_400_000_000;

/// `2024-02-28 22:35:00`, with a fraction only where there is one.
fn timestamp(micros: i64, out: &mut Vec<u8>) {
    date(micros.div_euclid(DAY_MICROS), out);
    let micros = micros.rem_euclid(DAY_MICROS);
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    out.push(b' ');
    two_digits(seconds / 3600, out);
    out.push(b':');
    two_digits(seconds / 60 % 60, out);
    out.push(b':');
    two_digits(seconds % 60, out);
    if fraction > 0 {
        let digits = format!(".{fraction:06}");
        out.extend_from_slice(digits.trim_end_matches('0').as_bytes());
    }
}

/// A date of the proleptic Gregorian calendar, so many days after 1970-01-01.
///
/// The algorithm is `civil_from_days` of Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms" (<https://howardhinnant.github.io/date_algorithms.html>).
fn date(days: i64, out: &mut Vec<u8>) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if (0..10_000).contains(&year) {
        two_digits(year / 100, out);
        two_digits(year % 100, out);
    } else {
        // A sign, as ISO 8601 has it for years of other than four digits.
        let _ = write!(out, "{year:+}");
    }
    out.push(b'-');
    two_digits(month, out);
    out.push(b'-');
    two_digits(day, out);
}

/// A number from 0 to 99.
fn two_digits(number: i64, out: &mut Vec<u8>) {
    let digit = |number: i64| b'0' + u8::try_from(number % 10).unwrap_or(0);
    out.extend_from_slice(&[digit(number / 10), digit(number)]);
}

/// All digits behind the point that the type has.
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
