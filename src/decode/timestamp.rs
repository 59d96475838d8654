//! The shape that nearly all timestamps in data have, `2024-02-28 22:35:00`, read without a search.
//!
//! Invariants: a time that is given is the one that the library gives; whatever is not of this
//! shape is refused, and the library decides.

/// Bytes of a date and a time of day to the second.
const LENGTH: usize = 19;

/// Seconds in a day.
const DAY: i64 = 86_400;

/// Microseconds since 1970 in UTC of `YYYY-MM-DD hh:mm:ss`, with a space or a `T` in between and perhaps a
/// `Z` after it; `None` where the library has to look.
#[inline]
pub fn parse(text: &[u8]) -> Option<i64> {
    let (time, zone) = text.split_first_chunk::<LENGTH>()?;
    let (head, rest) = time.split_first_chunk::<8>()?;
    let (middle, tail) = rest.split_first_chunk::<8>()?;
    let mut middle = *middle;
    // A `T` is as good as the space.
    middle[2] = if middle[2] == b'T' { b' ' } else { middle[2] };
    let head = pairs(*head, *b"0000-00-")?;
    let middle = pairs(middle, *b"00 00:00")?;
    let [colon, tens, units] = *tail.first_chunk()?;
    let tail = pairs([colon, tens, units, b':', b':', b':', b':', b':'], *b":00:::::")?;
    if !matches!(zone, [] | [b'Z']) {
        return None;
    }
    let [century, year, month] = [head[0], head[2], head[5]].map(u32::from);
    let [day, hour, minute] = [middle[0], middle[3], middle[6]].map(u32::from);
    let year = century * 100 + year;
    let second = u32::from(tail[1]);
    let is_month = month.wrapping_sub(1) < 12;
    let is_day = day.wrapping_sub(1) < days_in(year, month);
    if !is_month || !is_day || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days(year, month, day) * DAY + i64::from(hour * 3600 + minute * 60 + second);
    Some(seconds * 1_000_000)
}

/// The last time that was read: in most data the next one is the same, to the second.
pub struct Last {
    text: [u8; LENGTH],
    time: i64,
}

impl Default for Last {
    fn default() -> Self {
        Self { text: *b"1970-01-01 00:00:00", time: 0 }
    }
}

impl Last {
    /// The same result as [`parse`].
    #[inline]
    pub fn parse(&mut self, text: &[u8]) -> Option<i64> {
        let Ok(shape) = <&[u8; LENGTH]>::try_from(text) else { return parse(text) };
        if *shape != self.text {
            *self = Self { text: *shape, time: parse(text)? };
        }
        Some(self.time)
    }
}

/// Eight bytes that are of this shape, digits where it has a zero and else the same: at the place of each
/// digit, the number that it and the next one are.
#[inline]
fn pairs(bytes: [u8; 8], shape: [u8; 8]) -> Option<[u8; 8]> {
    let digits = u64::from_le_bytes(bytes) ^ u64::from_le_bytes(shape);
    // What must be zero, or at most nine, is not more after this.
    let most = shape.map(|byte| if byte == b'0' { 0x76 } else { 0x7f });
    let above = digits.wrapping_add(u64::from_le_bytes(most)) | digits;
    if above & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    Some((digits * 10 + (digits >> 8)).to_le_bytes())
}

/// True when a text that was taken is what the time is written as.
#[inline]
pub fn is_as_written(text: &[u8]) -> bool {
    text.len() == LENGTH && text.get(10) == Some(&b' ')
}

fn days_in(year: u32, month: u32) -> u32 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u32::from(is_leap),
        // Thirty in April, June, September and November.
        month => 30 + (month + month / 8) % 2,
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar from the year 0 on.
///
/// The algorithm is `days_from_civil` of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"
/// (<https://howardhinnant.github.io/date_algorithms.html>), in the years that begin with March.
fn days(year: u32, month: u32, day: u32) -> i64 {
    // Four hundred years more, so that nothing is negative.
    let year = year + 400 - u32::from(month <= 2);
    let era = year / 400;
    let year_of_era = year % 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    i64::from(era * 146_097 + day_of_era) - 146_097 - 719_468
}

#[cfg(test)]
mod tests {
    use arrow_cast::parse::string_to_datetime;
    use chrono::Utc;
    use proptest::prelude::*;

    use super::*;

    fn library(text: &str) -> Option<i64> {
        string_to_datetime(&Utc, text).ok().map(|time| time.timestamp_micros())
    }

    #[test]
    fn every_day_is_the_day_that_the_library_says() {
        let mut taken = 0;
        for year in (0..=9999).filter(|year| year % 100 < 9 || year % 100 > 96) {
            for (month, day) in (0..=13).flat_map(|month| (0..=32).map(move |day| (month, day))) {
                let text = format!("{year:04}-{month:02}-{day:02} 23:59:59");
                assert_eq!(parse(text.as_bytes()), library(&text), "{text}");
                taken += u32::from(parse(text.as_bytes()).is_some());
            }
        }
        assert!(taken > 400_000, "{taken}");
    }

    proptest! {
        #[test]
        fn after_any_other_a_text_is_what_it_is_by_itself(
            texts in prop::collection::vec(
                prop::sample::select(vec![
                    "2024-02-28 22:35:00", "2024-02-28T22:35:00", "2024-02-28 22:35:01", "2024-02-30 22:35:00",
                    "1970-01-01 00:00:00", "2024-02-28 22:35:00Z", "2024-02-28", "", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                ]),
                0..12,
            ),
        ) {
            let mut last = Last::default();
            for text in texts {
                prop_assert_eq!(last.parse(text.as_bytes()), parse(text.as_bytes()), "{:?}", text);
            }
        }
    }

    #[test]
    fn every_time_of_day_is_the_one_that_the_library_says() {
        let times = (0..=25).flat_map(|hour| (0..=61).map(move |minute| (hour, minute)));
        for (hour, minute) in times {
            for second in [0, 1, 9, 10, 58, 59] {
                let text = format!("2024-02-29T{hour:02}:{minute:02}:{second:02}Z");
                assert_eq!(parse(text.as_bytes()), library(&text), "{text}");
            }
        }
        // A leap second is what the library makes of it.
        assert_eq!(parse(b"2016-12-31 23:59:60"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn what_is_taken_is_what_the_library_says(
            text in "[0-2][0-9]{3}-[01][0-9]-[0-3][0-9][ T][0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z?",
            at in 0_usize..20,
            odd in prop::sample::select(b"0:/-+ .9Zt\x00".to_vec()),
            spoil in any::<bool>(),
        ) {
            let mut text = text.into_bytes();
            if let Some(byte) = text.get_mut(at).filter(|_| spoil) {
                *byte = odd;
            }
            let text = String::from_utf8(text).unwrap();
            if let Some(time) = parse(text.as_bytes()) {
                prop_assert_eq!(Some(time), library(&text), "{}", text);
            }
        }
    }
}
