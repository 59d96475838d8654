//! Dates and times in all the shapes that are taken.
//!
//! Invariants: the shapes are those of the engine's own parser (arrow-cast, `parse.rs`), which the tests
//! hold this against, so that a text means the same in a file and in a query, and in every build. What is
//! behind a date or a zone is no part of either, and is refused.

use arrow_array::timezone::Tz;
use chrono::{DateTime, Datelike as _, NaiveDate, NaiveTime, TimeZone as _, Timelike as _, Utc};

/// Days from the first of January of the year 1 to that of 1970, from 1 on (`NaiveDate::num_days_from_ce`).
const EPOCH: i32 = 719_163;

/// Days in 400 years, after which the calendar repeats.
const ERA: i64 = 146_097;

/// Digits of a fraction of a second that count.
const NANOS: usize = 9;

/// Days since 1970 of `YYYY-MM-DD`, `YYYY-M-D`, `YYYYMMDD`, or of a year with a sign and four digits or more.
pub fn date(text: &str) -> Option<i32> {
    let bytes = text.as_bytes();
    if let [b'+' | b'-', ..] = bytes {
        return signed(text);
    }
    let (year, month, day) = match bytes {
        [_, _, _, _, b'-', ..] => {
            let (year, rest) = text.split_at_checked(4)?;
            let (month, day) = rest.get(1..)?.split_once('-')?;
            (year, month, day)
        }
        [_, _, _, _, _, _, _, _] => (text.get(..4)?, text.get(4..6)?, text.get(6..)?),
        _ => return None,
    };
    let is_short = |part: &str| (1..=2).contains(&part.len());
    let all = is_short(month) && is_short(day);
    let date = || NaiveDate::from_ymd_opt(number(year)?, unsigned(month)?, unsigned(day)?);
    all.then(date).flatten().map(|date| date.num_days_from_ce() - EPOCH)
}

/// A year beyond four digits. The calendar of 400 years is the same in each of them.
fn signed(text: &str) -> Option<i32> {
    let (sign, rest) = text.split_at_checked(1)?;
    let mut parts = rest.splitn(3, '-');
    let digits = parts.next().filter(|digits| digits.len() >= 4)?;
    let year = i64::from(number(digits)?) * if sign == "-" { -1 } else { 1 };
    let month = unsigned(parts.next()?)?;
    let day = unsigned(parts.next()?)?;
    let in_era = i32::try_from(year.rem_euclid(400)).ok()?;
    let date = NaiveDate::from_ymd_opt(in_era, month, day)?;
    let days = year.div_euclid(400) * ERA + i64::from(date.num_days_from_ce() - EPOCH);
    i32::try_from(days).ok()
}

/// Microseconds since 1970 in UTC of a date, or of a date and a time of day with `T` or a space between them:
/// `hh:mm:ss`, perhaps with a fraction, or `hhmmss`; then nothing, `Z`, or an offset such as `+01:00`.
pub fn timestamp(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let [_, _, _, _, b'-', _, _, b'-', _, _] = date.as_bytes() else { return None };
    let year = date.get(..4)?;
    let month = date.get(5..7)?;
    let day = date.get(8..)?;
    let date = NaiveDate::from_ymd_opt(number(year)?, unsigned(month)?, unsigned(day)?)?;
    let Some(rest) = rest.strip_prefix(['T', 't', ' ']) else {
        let midnight = date.and_time(NaiveTime::default());
        return rest.is_empty().then(|| midnight.and_utc().timestamp_micros());
    };
    let (time, zone) = time_of_day(rest)?;
    let local = date.and_time(time);
    let at: DateTime<Utc> = match zone {
        "" | "z" | "Z" => local.and_utc(),
        zone => {
            let zone: Tz = zone.trim_start().parse().ok()?;
            zone.from_local_datetime(&local).single()?.with_timezone(&Utc)
        }
    };
    // There is no 61st second in the result, and the next minute is not what was written.
    (at.nanosecond() < 1_000_000_000).then(|| at.timestamp_micros())
}

/// The time of day that a text begins with, and the rest.
fn time_of_day(text: &str) -> Option<(NaiveTime, &str)> {
    let (hour, minute, second, rest) = match text.as_bytes() {
        [_, _, b':', _, _, b':', _, _, ..] => {
            (text.get(..2)?, text.get(3..5)?, text.get(6..8)?, text.get(8..)?)
        }
        [_, _, _, _, _, _, rest @ ..] => {
            // A digit this soon behind it belongs to something else.
            if rest.iter().take(2).any(u8::is_ascii_digit) {
                return None;
            }
            (text.get(..2)?, text.get(2..4)?, text.get(4..6)?, text.get(6..)?)
        }
        _ => return None,
    };
    let is_plain = text.as_bytes().get(2) != Some(&b':');
    let (nanos, zone) = match rest.strip_prefix('.').filter(|_| !is_plain) {
        Some(fraction) => fraction_of(fraction)?,
        None => (0, rest),
    };
    let hour = unsigned(hour)?;
    let minute = unsigned(minute)?;
    let second = unsigned(second)?;
    let time = match second {
        // As chrono has it: the 59th, and more than a second.
        60 => NaiveTime::from_hms_nano_opt(hour, minute, 59, 1_000_000_000 + nanos),
        _ => NaiveTime::from_hms_nano_opt(hour, minute, second, nanos),
    };
    Some((time?, zone))
}

/// The nanoseconds of a fraction of a second, and the rest.
fn fraction_of(text: &str) -> Option<(u32, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    let counted = digits.get(..NANOS.min(end))?;
    let scale = 10_u32.pow(u32::try_from(NANOS - counted.len()).ok()?);
    Some((unsigned(counted)? * scale, rest))
}

fn number(digits: &str) -> Option<i32> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn unsigned(digits: &str) -> Option<u32> {
    number(digits).and_then(|number| u32::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use arrow_array::types::Date32Type;
    use arrow_cast::parse::{Parser as _, string_to_datetime};
    use proptest::prelude::*;

    use super::*;

    fn library(text: &str) -> Option<i64> {
        let time = string_to_datetime(&Utc, text).ok()?;
        (time.timestamp_subsec_nanos() < 1_000_000_000).then(|| time.timestamp_micros())
    }

    fn library_date(text: &str) -> Option<i32> {
        Date32Type::parse(text).filter(|_| !text.contains([' ', 'T', 't', ':']))
    }

    #[test]
    fn what_the_library_takes_is_taken() {
        for text in [
            "1997-01-31T09:26:56.123Z",
            "1997-01-31T09:26:56.123-05:00",
            "1997-01-31 09:26:56.123-05:00",
            "2023-01-01 04:05:06.789 -08",
            "1997-01-31t09:26:56.1",
            "1997-01-31 09:26:56.123456789012345",
            "1997-01-31 09:26:56.123456789012345+0130",
            "1997-01-31 092656",
            "1997-01-31 092656Z",
            "1997-01-31 092656 +04:00",
            "1997-01-31",
            "0000-01-01 00:00:00",
            "9999-12-31 23:59:59.999999",
        ] {
            assert!(library(text).is_some(), "{text}");
            assert_eq!(timestamp(text), library(text), "{text}");
        }
        for text in ["2016-12-31 23:59:60", "1997-01-31 092656+04:00", "1997-01-31 24:00:00"] {
            assert_eq!((timestamp(text), library(text)), (None, None), "{text}");
        }
        for text in
            ["2020-9-8", "2020-09-8", "2020-9-08", "20200908", "+10999-12-31", "-0012-05-06"]
        {
            assert!(library_date(text).is_some(), "{text}");
            assert_eq!(date(text), library_date(text), "{text}");
        }
        for text in ["+5881580-07-11", "-5877641-06-23", "+5881580-07-12", "+2739877-02-30"] {
            assert_eq!(date(text), library_date(text), "{text}");
        }
        // The library reads over what is behind a short date.
        assert_eq!((date("2020-9-8x"), library_date("2020-9-8x").is_some()), (None, true));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50_000))]

        #[test]
        fn what_is_taken_is_what_the_library_says(
            text in "[0-2][0-9]{3}-[01][0-9]-[0-3][0-9]([ Tt]([0-2][0-9]:[0-5][0-9]:[0-6][0-9]([.][0-9]{0,14})?\
                |[0-2][0-9][0-5][0-9][0-6][0-9])( ?[zZ]| ?[+-][0-9]{2}:?[0-9]{0,2})?)?",
            at in 0_usize..40,
            odd in prop::sample::select("0:/-+ .9Zt\0é".chars().collect::<Vec<_>>()),
            spoil in any::<bool>(),
        ) {
            let put = |(place, c)| if spoil && place == at { odd } else { c };
            let text: String = text.chars().enumerate().map(put).collect();
            prop_assert_eq!(timestamp(&text), library(&text), "{:?}", text);
        }

        #[test]
        fn so_is_a_date(
            text in "[+-]?[0-9]{3,7}-[0-9]{1,2}-[0-9]{1,2}|[0-9]{7,9}|[0-9]{4}-[0-9]{1,3}-[0-9]{1,3}",
        ) {
            let expected = library_date(&text);
            // Of what is too long for a date the library may read a part.
            if text.len() <= 10 || text.starts_with(['+', '-']) || expected.is_none() {
                prop_assert_eq!(date(&text), expected, "{}", text);
            }
        }
    }
}
