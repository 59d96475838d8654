//! Groups and their states as bytes, and back.
//!
//! Invariants: the same values give the same bytes, in every version of this program; the bytes
//! of whole numbers and times sort as they do. The types are known beforehand and not written.

use std::sync::Arc;

use arrow_array::builder::{PrimitiveBuilder, StringBuilder};
use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    ArrowPrimitiveType, Decimal256Type, Float64Type, Int64Type, TimestampMicrosecondType,
    UInt64Type,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray, StringArray, new_empty_array};
use arrow_schema::{DataType, TimeUnit};
use datafusion::common::{DataFusionError, Result, ScalarValue};

use super::rows::Rows;
use crate::record::columns::type_name;

type Decimal256 = <Decimal256Type as ArrowPrimitiveType>::Native;

/// True when values of this type can be kept.
pub fn can_hold(data_type: &DataType) -> bool {
    match data_type {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(_, _)
        | DataType::Decimal256(_, _)
        | DataType::Date32
        | DataType::Timestamp(_, _)
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary => true,
        DataType::List(field) => can_hold(field.data_type()),
        _ => false,
    }
}

/// The bytes of these rows of the columns.
pub fn encode(columns: &[ArrayRef], rows: impl ExactSizeIterator<Item = usize>) -> Result<Rows> {
    let columns: Vec<_> = columns.iter().map(Column::of).collect();
    let total = rows.len();
    let mut encoded = Rows::with_room(rows.len());
    for row in rows {
        encoded.push_with(|out| columns.iter().try_for_each(|column| column.write(row, out)))?;
        if encoded.len() == 1 {
            encoded.reserve(total);
        }
    }
    Ok(encoded)
}

/// A column to be written. The types that most states are of go without a detour.
pub enum Column<'a> {
    /// Whole numbers.
    Int64(&'a PrimitiveArray<Int64Type>),
    /// Counts.
    UInt64(&'a PrimitiveArray<UInt64Type>),
    /// Other numbers.
    Float64(&'a PrimitiveArray<Float64Type>),
    /// Times.
    Timestamp(&'a PrimitiveArray<TimestampMicrosecondType>),
    /// Texts.
    Text(&'a StringArray),
    /// Any other type.
    Other(&'a ArrayRef),
}

impl<'a> Column<'a> {
    /// A column as it is to be written.
    pub fn of(column: &'a ArrayRef) -> Self {
        match column.data_type() {
            DataType::Int64 => Self::Int64(column.as_primitive()),
            DataType::UInt64 => Self::UInt64(column.as_primitive()),
            DataType::Float64 => Self::Float64(column.as_primitive()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Self::Timestamp(column.as_primitive()),
            DataType::Utf8 => Self::Text(column.as_string()),
            _ => Self::Other(column),
        }
    }

    /// Appends a value to its row.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        match self {
            // First, and in few steps: most groups are of a text.
            Self::Text(values) if values.is_valid(row) => {
                let text = values.value(row).as_bytes();
                let [a, b, c, d] = length(text.len())?;
                out.extend_from_slice(&[VALUE, a, b, c, d]);
                out.extend_from_slice(text);
            }
            Self::Other(values) => write(&ScalarValue::try_from_array(values, row)?, out)?,
            _ => match self.fixed(row) {
                Some(bytes) => {
                    out.push(VALUE);
                    out.extend_from_slice(&bytes);
                }
                None => out.push(NULL),
            },
        }
        Ok(())
    }

    /// The bytes after the tag of a value that always has as many; `None` when there is no value.
    fn fixed(&self, row: usize) -> Option<[u8; 8]> {
        let signed = |value: i64| (value ^ i64::MIN).to_be_bytes();
        match self {
            Self::Int64(values) => values.is_valid(row).then(|| signed(values.value(row))),
            Self::Timestamp(values) => values.is_valid(row).then(|| signed(values.value(row))),
            Self::UInt64(values) => values.is_valid(row).then(|| values.value(row).to_be_bytes()),
            Self::Float64(values) => {
                values.is_valid(row).then(|| values.value(row).to_bits().to_be_bytes())
            }
            Self::Text(_) | Self::Other(_) => None,
        }
    }
}

/// The columns of these types whose rows have these bytes.
pub fn decode<'a>(
    rows: impl Iterator<Item = &'a [u8]>,
    types: &[DataType],
) -> Result<Vec<ArrayRef>> {
    let mut rows: Vec<&[u8]> = rows.collect();
    types.iter().map(|data_type| read_column(&mut rows, data_type)).collect()
}

/// Takes the next value of each row.
fn read_column(rows: &mut [&[u8]], data_type: &DataType) -> Result<ArrayRef> {
    macro_rules! fixed {
        ($kind:ty, $of_bytes:expr) => {{
            let mut values = PrimitiveBuilder::<$kind>::with_capacity(rows.len());
            for bytes in rows.iter_mut() {
                let value = is_there(bytes)?.then(|| array(bytes)).transpose()?;
                values.append_option(value.map($of_bytes));
            }
            Arc::new(values.finish().with_data_type(data_type.clone()))
        }};
    }
    let signed = |bytes| i64::from_be_bytes(bytes) ^ i64::MIN;
    Ok(match data_type {
        DataType::Int64 => fixed!(Int64Type, signed),
        DataType::UInt64 => fixed!(UInt64Type, u64::from_be_bytes),
        DataType::Float64 => {
            fixed!(Float64Type, |bytes| f64::from_bits(u64::from_be_bytes(bytes)))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => fixed!(TimestampMicrosecondType, signed),
        DataType::Utf8 => {
            let mut texts = StringBuilder::with_capacity(rows.len(), rows.len() * 16);
            for bytes in rows.iter_mut() {
                let text = is_there(bytes)?.then(|| text(bytes)).transpose()?;
                texts.append_option(text);
            }
            Arc::new(texts.finish())
        }
        _ if rows.is_empty() => new_empty_array(data_type),
        _ => {
            let values = rows.iter_mut().map(|bytes| read(bytes, data_type));
            ScalarValue::iter_to_array(values.collect::<Result<Vec<_>>>()?)?
        }
    })
}

/// True when a value follows.
fn is_there(bytes: &mut &[u8]) -> Result<bool> {
    let [tag] = array(bytes)?;
    Ok(tag != NULL)
}

/// No value.
const NULL: u8 = 0;
/// A value follows.
const VALUE: u8 = 1;

fn write(value: &ScalarValue, out: &mut Vec<u8>) -> Result<()> {
    if value.is_null() {
        out.push(NULL);
        return Ok(());
    }
    out.push(VALUE);
    // Whole numbers with their sign turned, so that the bytes sort as they do.
    macro_rules! signed {
        ($value:expr, $type:ty) => {
            out.extend_from_slice(&($value ^ <$type>::MIN).to_be_bytes())
        };
    }
    match value {
        ScalarValue::Boolean(Some(value)) => out.push(u8::from(*value)),
        ScalarValue::Int8(Some(value)) => signed!(*value, i8),
        ScalarValue::Int16(Some(value)) => signed!(*value, i16),
        ScalarValue::Int32(Some(value)) | ScalarValue::Date32(Some(value)) => signed!(*value, i32),
        ScalarValue::Int64(Some(value))
        | ScalarValue::TimestampSecond(Some(value), _)
        | ScalarValue::TimestampMillisecond(Some(value), _)
        | ScalarValue::TimestampMicrosecond(Some(value), _)
        | ScalarValue::TimestampNanosecond(Some(value), _) => signed!(*value, i64),
        ScalarValue::Decimal128(Some(value), ..) => signed!(*value, i128),
        ScalarValue::Decimal256(Some(value), ..) => {
            out.extend_from_slice(&sorting(value.to_be_bytes()));
        }
        ScalarValue::UInt8(Some(value)) => out.push(*value),
        ScalarValue::UInt16(Some(value)) => out.extend_from_slice(&value.to_be_bytes()),
        ScalarValue::UInt32(Some(value)) => out.extend_from_slice(&value.to_be_bytes()),
        ScalarValue::UInt64(Some(value)) => out.extend_from_slice(&value.to_be_bytes()),
        ScalarValue::Float32(Some(value)) => out.extend_from_slice(&value.to_bits().to_be_bytes()),
        ScalarValue::Float64(Some(value)) => out.extend_from_slice(&value.to_bits().to_be_bytes()),
        ScalarValue::Utf8(Some(text))
        | ScalarValue::LargeUtf8(Some(text))
        | ScalarValue::Utf8View(Some(text)) => counted(text.as_bytes(), out)?,
        ScalarValue::Binary(Some(bytes)) => counted(bytes, out)?,
        ScalarValue::List(list) => {
            let values = list.value(0);
            out.extend_from_slice(&length(values.len())?);
            for row in 0..values.len() {
                write(&ScalarValue::try_from_array(&values, row)?, out)?;
            }
        }
        other => return Err(odd(&other.data_type())),
    }
    Ok(())
}

/// The bytes of a whole number with its sign turned, or back.
fn sorting(mut bytes: [u8; 32]) -> [u8; 32] {
    bytes[0] ^= 0x80;
    bytes
}

fn length(length: usize) -> Result<[u8; 4]> {
    u32::try_from(length)
        .map(u32::to_be_bytes)
        .map_err(|_| DataFusionError::Execution("a state is larger than 4 GiB".to_owned()))
}

fn counted(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.extend_from_slice(&length(bytes.len())?);
    out.extend_from_slice(bytes);
    Ok(())
}

fn read(bytes: &mut &[u8], data_type: &DataType) -> Result<ScalarValue> {
    if !is_there(bytes)? {
        return ScalarValue::try_from(data_type);
    }
    macro_rules! signed {
        ($type:ty) => {
            <$type>::from_be_bytes(array(bytes)?) ^ <$type>::MIN
        };
    }
    Ok(match data_type {
        DataType::Boolean => ScalarValue::Boolean(Some(array::<1>(bytes)? == [1])),
        DataType::Int8 => ScalarValue::Int8(Some(signed!(i8))),
        DataType::Int16 => ScalarValue::Int16(Some(signed!(i16))),
        DataType::Int32 => ScalarValue::Int32(Some(signed!(i32))),
        DataType::Int64 => ScalarValue::Int64(Some(signed!(i64))),
        DataType::Date32 => ScalarValue::Date32(Some(signed!(i32))),
        DataType::Timestamp(unit, zone) => {
            let value = Some(signed!(i64));
            let zone = zone.clone();
            match unit {
                TimeUnit::Second => ScalarValue::TimestampSecond(value, zone),
                TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(value, zone),
                TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(value, zone),
                TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(value, zone),
            }
        }
        DataType::Decimal128(precision, scale) => {
            ScalarValue::Decimal128(Some(signed!(i128)), *precision, *scale)
        }
        DataType::Decimal256(precision, scale) => {
            let value = Decimal256::from_be_bytes(sorting(array(bytes)?));
            ScalarValue::Decimal256(Some(value), *precision, *scale)
        }
        DataType::UInt8 => ScalarValue::UInt8(Some(u8::from_be_bytes(array(bytes)?))),
        DataType::UInt16 => ScalarValue::UInt16(Some(u16::from_be_bytes(array(bytes)?))),
        DataType::UInt32 => ScalarValue::UInt32(Some(u32::from_be_bytes(array(bytes)?))),
        DataType::UInt64 => ScalarValue::UInt64(Some(u64::from_be_bytes(array(bytes)?))),
        DataType::Float32 => {
            ScalarValue::Float32(Some(f32::from_bits(u32::from_be_bytes(array(bytes)?))))
        }
        DataType::Float64 => {
            ScalarValue::Float64(Some(f64::from_bits(u64::from_be_bytes(array(bytes)?))))
        }
        DataType::Utf8 => ScalarValue::Utf8(Some(text(bytes)?.to_owned())),
        DataType::LargeUtf8 => ScalarValue::LargeUtf8(Some(text(bytes)?.to_owned())),
        DataType::Utf8View => ScalarValue::Utf8View(Some(text(bytes)?.to_owned())),
        DataType::Binary => {
            let length = u32::from_be_bytes(array(bytes)?) as usize;
            ScalarValue::Binary(Some(take(bytes, length)?.to_vec()))
        }
        DataType::List(field) => {
            let length = u32::from_be_bytes(array(bytes)?);
            let values =
                (0..length).map(|_| read(bytes, field.data_type())).collect::<Result<Vec<_>>>()?;
            ScalarValue::List(ScalarValue::new_list(&values, field.data_type(), true))
        }
        other => return Err(odd(other)),
    })
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let split = bytes.split_at_checked(length);
    let (taken, rest) = split
        .ok_or_else(|| DataFusionError::Execution("a state in the ledger is damaged".to_owned()))?;
    *bytes = rest;
    Ok(taken)
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    take(bytes, N)?.try_into().map_err(|_| odd(&DataType::Null))
}

fn text<'a>(bytes: &mut &'a [u8]) -> Result<&'a str> {
    let length = u32::from_be_bytes(array(bytes)?) as usize;
    std::str::from_utf8(take(bytes, length)?)
        .map_err(|_| DataFusionError::Execution("a state in the ledger is damaged".to_owned()))
}

fn odd(data_type: &DataType) -> DataFusionError {
    DataFusionError::Execution(format!("a {} cannot be kept between files", type_name(data_type)))
}

#[cfg(test)]
mod tests {
    use arrow_array::{
        BooleanArray, Date32Array, Float64Array, Int64Array, StringArray,
        TimestampMicrosecondArray, UInt64Array,
    };

    use super::*;

    /// The first value says little of the others, and nothing that memory is to be had for.
    #[test]
    fn one_long_value_is_not_taken_for_the_usual_length() {
        let long = "x".repeat(1 << 20);
        let texts = std::iter::once(long.as_str()).chain(std::iter::repeat_n("a", 100_000));
        let column: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let encoded = encode(&[column], 0..100_001).unwrap();
        assert_eq!(encoded.len(), 100_001);
        assert!(encoded.size() < 16 << 20, "{} bytes", encoded.size());
    }

    /// States that an earlier version kept are read by this one: the bytes never change.
    #[test]
    fn values_have_the_bytes_that_they_always_had() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(-1), None])),
            Arc::new(UInt64Array::from(vec![Some(258), None])),
            Arc::new(Float64Array::from(vec![Some(1.5), None])),
            Arc::new(StringArray::from(vec![Some("ab"), None])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None]).with_timezone("UTC")),
            Arc::new(Date32Array::from(vec![Some(3), None])),
            Arc::new(BooleanArray::from(vec![Some(true), None])),
        ];
        let encoded = encode(&columns, 0..2).unwrap();
        let hex = "017fffffffffffffff010000000000000102013ff8000000000000010000000261620180000000000000\
             0101800000030101";
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let expected: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        assert_eq!(encoded.get(0), expected);
        assert_eq!(encoded.get(1), [NULL; 7]);
        let types: Vec<_> = columns.iter().map(|column| column.data_type().clone()).collect();
        assert_eq!(decode(encoded.iter(), &types).unwrap(), columns);
        let cut = encoded.iter().map(|row| &row[..row.len() - 1]);
        assert!(decode(cut, &types).is_err());
        assert!(can_hold(&DataType::Utf8) && !can_hold(&DataType::Float16));
    }
}
