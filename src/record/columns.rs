//! The columns of a table as a job names them: SQL type names, and what they are in Arrow.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The SQL types that a column can have. All can be NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// 64 bits with a sign.
    Bigint,
    /// 32 bits with a sign.
    Int,
    /// 16 bits with a sign.
    Smallint,
    /// IEEE 754, 64 bits.
    Double,
    /// IEEE 754, 32 bits.
    Real,
    /// UTF-8.
    Varchar,
    /// True or false.
    Boolean,
    /// Days, without a time zone.
    Date,
    /// Microseconds, without a time zone.
    Timestamp,
    /// Microseconds in UTC.
    Timestamptz,
    /// Decimal digits in all, and after the point.
    Decimal(u8, u8),
}

/// The most digits that a decimal has: what 128 bits hold.
pub const DECIMAL_DIGITS_MAX: u8 = 38;

const NAMES: [(&str, Type); 10] = [
    ("bigint", Type::Bigint),
    ("int", Type::Int),
    ("smallint", Type::Smallint),
    ("double", Type::Double),
    ("real", Type::Real),
    ("varchar", Type::Varchar),
    ("boolean", Type::Boolean),
    ("date", Type::Date),
    ("timestamp", Type::Timestamp),
    ("timestamptz", Type::Timestamptz),
];

impl Type {
    /// The type in Arrow.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Bigint => DataType::Int64,
            Self::Int => DataType::Int32,
            Self::Smallint => DataType::Int16,
            Self::Double => DataType::Float64,
            Self::Real => DataType::Float32,
            Self::Varchar => DataType::Utf8,
            Self::Boolean => DataType::Boolean,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            #[expect(clippy::cast_possible_wrap, reason = "at most 38")]
            Self::Decimal(precision, scale) => DataType::Decimal128(precision, scale as i8),
        }
    }

    /// The type that holds what an Arrow type holds, if there is one.
    pub fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Int64 | DataType::UInt32 => Self::Bigint,
            DataType::Int32 | DataType::UInt16 => Self::Int,
            DataType::Int8 | DataType::Int16 | DataType::UInt8 => Self::Smallint,
            DataType::Float64 => Self::Double,
            DataType::Float16 | DataType::Float32 => Self::Real,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
                Self::Varchar
            }
            DataType::Boolean => Self::Boolean,
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Timestamp(_, None) => Self::Timestamp,
            DataType::Timestamp(_, Some(_)) => Self::Timestamptz,
            DataType::UInt64 => Self::Decimal(20, 0),
            DataType::Decimal128(precision, scale) => {
                Self::Decimal(*precision, u8::try_from(*scale).ok()?)
            }
            DataType::Dictionary(_, values) => return Self::of(values),
            _ => return None,
        })
    }
}

/// A type of Arrow's in the words of SQL.
pub fn type_name(data_type: &DataType) -> String {
    if let Some(known) = Type::of(data_type) {
        return known.to_string();
    }
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::UInt64 => "bigint without a sign".to_owned(),
        DataType::Decimal32(digits, scale)
        | DataType::Decimal64(digits, scale)
        | DataType::Decimal128(digits, scale)
        | DataType::Decimal256(digits, scale) => format!("decimal({digits},{scale})"),
        DataType::Time32(_) | DataType::Time64(_) => "time".to_owned(),
        DataType::Interval(_) | DataType::Duration(_) => "interval".to_owned(),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "string of bytes".to_owned(),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _) => format!("list of {}", type_name(field.data_type())),
        DataType::Struct(_) => "struct".to_owned(),
        DataType::Map(_, _) => "map".to_owned(),
        DataType::Dictionary(_, values) => type_name(values),
        other => other.to_string(),
    }
}

impl fmt::Display for Type {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Decimal(precision, scale) = self {
            return write!(formatter, "decimal({precision},{scale})");
        }
        let name = NAMES.iter().find(|(_, known)| known == self).map_or("", |(name, _)| name);
        formatter.write_str(name)
    }
}

impl FromStr for Type {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, known)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*known);
        }
        let digits = text.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')'));
        let decimal = digits.and_then(|digits| {
            let (precision, scale) = digits.split_once(',')?;
            Some((precision.trim().parse().ok()?, scale.trim().parse().ok()?))
        });
        match decimal {
            Some((precision, scale))
                if (1..=DECIMAL_DIGITS_MAX).contains(&precision) && scale <= precision =>
            {
                Ok(Self::Decimal(precision, scale))
            }
            _ => {
                let known: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
                let names = known.join(", ");
                Err(format!(
                    "found \"{text}\", expected one of {names}, or decimal(p,s) with up to \
                     {DECIMAL_DIGITS_MAX} digits"
                ))
            }
        }
    }
}

/// Named and typed columns in the order in which they were written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Columns(pub Vec<(String, Type)>);

impl Columns {
    /// The schema; every column can be NULL.
    pub fn schema(&self) -> SchemaRef {
        let field = |(name, kind): &(String, Type)| Field::new(name, kind.data_type(), true);
        Arc::new(Schema::new(self.0.iter().map(field).collect::<Vec<_>>()))
    }

    /// True when none was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Columns;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a table of column names and SQL types")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Columns, M::Error> {
                let mut columns = Vec::new();
                while let Some((name, kind)) = map.next_entry::<String, String>()? {
                    columns.push((name, kind.parse().map_err(serde::de::Error::custom)?));
                }
                Ok(Columns(columns))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

impl Serialize for Columns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, kind)| (name, kind.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_written_as_it_is_read() {
        for (name, kind) in NAMES {
            assert_eq!(name.parse(), Ok(kind));
            assert_eq!(kind.to_string(), name);
            assert_eq!(Type::of(&kind.data_type()), Some(kind));
        }
        assert_eq!("decimal(10, 2)".parse(), Ok(Type::Decimal(10, 2)));
        assert_eq!(Type::Decimal(10, 2).to_string(), "decimal(10,2)");
    }

    #[test]
    fn what_no_type_is_says_which_are() {
        for text in ["text", "decimal(39,0)", "decimal(2,3)", "decimal(0,0)", "decimal", "BIGINT"] {
            let said = text.parse::<Type>().unwrap_err();
            assert!(said.contains(text) && said.contains("bigint, int"), "{said}");
        }
    }
}
