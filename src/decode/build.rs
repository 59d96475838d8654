//! Text to typed columns: the parsers of the SQL types, and the arrays that they fill.
//!
//! Invariants: a text has one meaning, whatever stands beside it, and no value is changed
//! silently: what does not fit its type is refused.

use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder, Int16Builder,
    Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;

pub use super::times::date;
use super::{times, timestamp};
use crate::record::columns::Type;

/// A column being filled.
pub enum Builder {
    Bigint(Int64Builder),
    Int(Int32Builder),
    Smallint(Int16Builder),
    Double(Float64Builder),
    Real(Float32Builder),
    Varchar(StringBuilder),
    Boolean(BooleanBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder, timestamp::Last),
    Decimal(Decimal128Builder, u8, u8),
}

impl Builder {
    /// An empty column with room for `rows`.
    pub fn new(kind: Type, rows: usize) -> Self {
        match kind {
            Type::Bigint => Self::Bigint(Int64Builder::with_capacity(rows)),
            Type::Int => Self::Int(Int32Builder::with_capacity(rows)),
            Type::Smallint => Self::Smallint(Int16Builder::with_capacity(rows)),
            Type::Double => Self::Double(Float64Builder::with_capacity(rows)),
            Type::Real => Self::Real(Float32Builder::with_capacity(rows)),
            Type::Varchar => Self::Varchar(StringBuilder::with_capacity(rows, rows * 16)),
            Type::Boolean => Self::Boolean(BooleanBuilder::with_capacity(rows)),
            Type::Date => Self::Date(Date32Builder::with_capacity(rows)),
            Type::Timestamp | Type::Timestamptz => {
                let data_type = kind.data_type();
                let last = timestamp::Last::default();
                let builder = TimestampMicrosecondBuilder::with_capacity(rows);
                Self::Timestamp(builder.with_data_type(data_type), last)
            }
            Type::Decimal(precision, scale) => {
                let data_type = kind.data_type();
                let builder = Decimal128Builder::with_capacity(rows).with_data_type(data_type);
                Self::Decimal(builder, precision, scale)
            }
        }
    }

    /// Appends NULL.
    pub fn null(&mut self) {
        match self {
            Self::Bigint(builder) => builder.append_null(),
            Self::Int(builder) => builder.append_null(),
            Self::Smallint(builder) => builder.append_null(),
            Self::Double(builder) => builder.append_null(),
            Self::Real(builder) => builder.append_null(),
            Self::Varchar(builder) => builder.append_null(),
            Self::Boolean(builder) => builder.append_null(),
            Self::Date(builder) => builder.append_null(),
            Self::Timestamp(builder, _) => builder.append_null(),
            Self::Decimal(builder, ..) => builder.append_null(),
        }
    }

    /// Appends what `text` means, or NULL when it means nothing of this type.
    #[inline]
    pub fn text(&mut self, text: &str) -> Taken {
        match self {
            Self::Bigint(builder) => {
                put(text.trim_ascii().parse().ok(), |value| builder.append_option(value))
                    .as_written_if(is_plain_integer(text))
            }
            Self::Varchar(builder) => {
                builder.append_value(text);
                Taken::Otherwise.as_written_if(has_plain_ends(text))
            }
            Self::Timestamp(builder, last) => match last.parse(text.as_bytes()) {
                Some(value) => {
                    builder.append_value(value);
                    Taken::Otherwise.as_written_if(timestamp::is_as_written(text.as_bytes()))
                }
                None => {
                    put(times::timestamp(text.trim_ascii()), |value| builder.append_option(value))
                }
            },
            rarer => rarer.rarer_text(text),
        }
    }

    /// The same for the types that are met less often, so that the others cost no call.
    fn rarer_text(&mut self, text: &str) -> Taken {
        // Only in a text do spaces mean anything.
        let bare = || text.trim_ascii();
        match self {
            Self::Bigint(_) | Self::Varchar(_) | Self::Timestamp(..) => self.text(text),
            Self::Int(builder) => put(bare().parse().ok(), |value| builder.append_option(value))
                .as_written_if(is_plain_integer(text)),
            Self::Smallint(builder) => {
                put(bare().parse().ok(), |value| builder.append_option(value))
                    .as_written_if(is_plain_integer(text))
            }
            Self::Double(builder) => {
                let parsed = fast_float2::parse(bare()).ok();
                let value = parsed.filter(|value: &f64| value.is_finite() || is_word(bare()));
                put(value, |value| builder.append_option(value))
            }
            Self::Real(builder) => {
                let parsed = fast_float2::parse(bare()).ok();
                let value = parsed.filter(|value: &f32| value.is_finite() || is_word(bare()));
                put(value, |value| builder.append_option(value))
            }
            Self::Boolean(builder) => put(boolean(bare()), |value| builder.append_option(value)),
            Self::Date(builder) => put(date(bare()), |value| builder.append_option(value)),
            Self::Decimal(builder, precision, scale) => {
                let value = decimal(bare(), *precision, *scale);
                put(value, |value| builder.append_option(value))
            }
        }
    }

    /// The column.
    pub fn finish(self) -> ArrayRef {
        match self {
            Self::Bigint(mut builder) => Arc::new(builder.finish()),
            Self::Int(mut builder) => Arc::new(builder.finish()),
            Self::Smallint(mut builder) => Arc::new(builder.finish()),
            Self::Double(mut builder) => Arc::new(builder.finish()),
            Self::Real(mut builder) => Arc::new(builder.finish()),
            Self::Varchar(mut builder) => Arc::new(builder.finish()),
            Self::Boolean(mut builder) => Arc::new(builder.finish()),
            Self::Date(mut builder) => Arc::new(builder.finish()),
            Self::Timestamp(mut builder, _) => Arc::new(builder.finish()),
            Self::Decimal(mut builder, ..) => Arc::new(builder.finish()),
        }
    }
}

/// The outcome of parsing a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It means nothing of the type.
    Not,
    /// It is taken, and may be written in another way: `007` is written `7`.
    Otherwise,
    /// It is taken, and is what the value is written as.
    AsWritten,
}

impl Taken {
    #[inline]
    fn as_written_if(self, is_as_written: bool) -> Self {
        if self == Self::Otherwise && is_as_written { Self::AsWritten } else { self }
    }
}

#[inline]
fn put<T>(value: Option<T>, append: impl FnOnce(Option<T>)) -> Taken {
    let taken = if value.is_some() { Taken::Otherwise } else { Taken::Not };
    append(value);
    taken
}

/// True when a text that was taken as a whole number has no sign or zero that says nothing.
#[inline]
fn is_plain_integer(text: &str) -> bool {
    match text.as_bytes() {
        b"0" | [b'1'..=b'9'] | [b'-', b'1'..=b'9'] => true,
        [b'1'..=b'9', .., last] | [b'-', b'1'..=b'9', .., last] => last.is_ascii_digit(),
        _ => false,
    }
}

/// True when a text has no spaces at its ends.
#[inline]
fn has_plain_ends(text: &str) -> bool {
    let bytes = text.as_bytes();
    [bytes.first(), bytes.last()].into_iter().flatten().all(u8::is_ascii_graphic)
}

/// True when a column of this type takes a text.
pub fn reads(kind: Type, text: &str) -> bool {
    Builder::new(kind, 1).text(text) != Taken::Not
}

/// The columns as records; of the rows, those that `keep` names if it is given.
pub fn records(schema: SchemaRef, columns: Vec<ArrayRef>, keep: Option<&[bool]>) -> RecordBatch {
    let rows = columns.first().map_or(0, Array::len);
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let all = RecordBatch::try_new_with_options(schema, columns, &options)
        .expect("columns of the schema's types and of one length");
    match keep {
        Some(keep) => {
            let keep = BooleanArray::from(keep.to_vec());
            arrow_select::filter::filter_record_batch(&all, &keep).expect("a mask of that length")
        }
        None => all,
    }
}

/// True for `inf` and `nan`, false for digits that no number of the type is large enough for.
fn is_word(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_digit())
}

/// `true`, `t` and `1`, `false`, `f` and `0`, in any case.
fn boolean(text: &str) -> Option<bool> {
    let is = |words: [&str; 3]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(["true", "t", "1"]) {
        Some(true)
    } else if is(["false", "f", "0"]) {
        Some(false)
    } else {
        None
    }
}

/// Microseconds since 1970 in UTC. Without an offset it is UTC already.
pub fn timestamp(text: &str) -> Option<i64> {
    timestamp::parse(text.as_bytes()).or_else(|| times::timestamp(text))
}

/// A decimal of `precision` digits, of which `scale` after the point; what is finer is rounded, half away
/// from zero.
pub fn decimal(text: &str, precision: u8, scale: u8) -> Option<i128> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let point = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
    let (whole, fraction) = digits.split_at_checked(point)?;
    let fraction = fraction.strip_prefix(b".").unwrap_or_default();
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let scale = usize::from(scale);
    let (kept, cut) = fraction.split_at_checked(scale).unwrap_or((fraction, &[]));
    let mut value: i128 = 0;
    let zeros = std::iter::repeat_n(&b'0', scale - kept.len());
    for digit in whole.iter().chain(kept).chain(zeros) {
        let digit = digit.is_ascii_digit().then(|| i128::from(digit - b'0'))?;
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    if !cut.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value = value.checked_add(i128::from(cut.first().is_some_and(|digit| *digit >= b'5')))?;
    (value < 10_i128.pow(u32::from(precision))).then_some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_is_rounded_or_refused() {
        assert_eq!(decimal("12.345", 6, 2), Some(1235));
        assert_eq!(decimal("-12.345", 6, 2), Some(-1235));
        assert_eq!(decimal(".5", 3, 0), Some(1));
        assert_eq!(decimal("7.", 3, 1), Some(70));
        assert_eq!(decimal("999.995", 5, 2), None);
        for text in ["", ".", "-", "1e3", "1.2.3", "1.2x", "x"] {
            assert_eq!(decimal(text, 9, 0), None, "{text}");
        }
        let digits = "9".repeat(38);
        assert_eq!(decimal(&digits, 38, 0), digits.parse().ok());
    }

    #[test]
    fn a_timestamp_is_utc_unless_it_says_otherwise() {
        let at = timestamp("2024-02-28 22:35:00");
        assert_eq!(at, Some(1_709_159_700_000_000));
        assert_eq!(timestamp("2024-02-28T23:35:00+01:00"), at);
        assert_eq!(timestamp("2024-02-28T22:35:00.000000Z"), at);
        assert_eq!(timestamp("0001-01-01 00:00:00").map(i64::signum), Some(-1));
        for text in [
            "",
            "2024-02-30 00:00:00",
            "2024-02-28 24:00:00",
            "22:35",
            "yesterday",
            "2016-12-31 23:59:60",
        ] {
            assert_eq!(timestamp(text), None, "{text}");
        }
    }
}
