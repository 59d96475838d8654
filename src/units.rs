//! Durations and sizes as they stand in a configuration: `"1s"`, `"16MiB"`.

use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time, written with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub struct Span(pub Duration);

/// A number of bytes, written with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub struct Size(pub u64);

/// How much of what comes one after the other is kept: an age or a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Everything up to this age.
    Age(Duration),
    /// The newest files of this many bytes together.
    Bytes(u64),
}

impl Span {
    /// A duration of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map(Self).map_err(|_| {
            format!("found \"{text}\", expected a duration such as \"1s\", \"500ms\" or \"10m\"")
        })
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<ByteSize>().map(|size| Self(size.0)).map_err(|_| {
            format!("found \"{text}\", expected a size such as \"64KiB\" or \"16MiB\"")
        })
    }
}

impl std::str::FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let age = text.parse::<Span>().map(|span| Self::Age(span.0));
        let bytes = |_| text.parse::<Size>().map(|size| Self::Bytes(size.0));
        age.or_else(bytes).map_err(|_| {
            format!(
                "found \"{text}\", expected a duration such as \"7d\" or a size such as \"10GiB\""
            )
        })
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        String::deserialize(source)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for Keep {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Age(age) => Span(*age).serialize(serializer),
            Self::Bytes(bytes) => Size(*bytes).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let text = String::deserialize(source)?;
        let expected = &"a duration such as \"1s\", \"500ms\" or \"10m\"";
        text.parse().map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), expected))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let text = String::deserialize(source)?;
        let expected = &"a size such as \"64KiB\" or \"16MiB\"";
        text.parse().map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), expected))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let exact = [(30, "GiB"), (20, "MiB"), (10, "KiB")]
            .into_iter()
            .find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((shift, unit)) => {
                serializer.collect_str(&format_args!("{}{unit}", self.0 >> shift))
            }
            None => serializer.collect_str(&format_args!("{}B", self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1 << 20, (1 << 20) + 1, 5 << 30] {
            let text = toml::Value::try_from(Size(bytes)).unwrap();
            assert_eq!(text.as_str().unwrap().parse(), Ok(Size(bytes)), "{text}");
        }
        let text = toml::Value::try_from(Span::seconds(90)).unwrap();
        assert_eq!(text.as_str().unwrap().parse(), Ok(Span::seconds(90)));
    }

    #[test]
    fn a_bare_number_is_refused() {
        assert!("3".parse::<Span>().unwrap_err().contains("found \"3\""));
        assert!("much".parse::<Size>().is_err());
    }
}
