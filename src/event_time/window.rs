//! Which windows a time is in.

/// Windows that one record may be in; more would multiply the state of each.
pub const COVER_MAX: i64 = 10_000;

/// How event time is cut into windows. Lengths are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// One begins every `slide`, each `size` long; they tumble when the two are the same.
    Aligned {
        /// Length.
        size: i64,
        /// From one beginning to the next.
        slide: i64,
        /// Where the first one begins, counted from 1970.
        offset: i64,
    },
    /// Records of a group that are no further apart than `gap`; it ends so long after the last.
    Session {
        /// The longest time without a record.
        gap: i64,
    },
}

impl Window {
    /// Windows of these lengths.
    ///
    /// # Errors
    /// When they make no sense.
    pub fn aligned(size: i64, slide: i64, offset: i64) -> Result<Self, String> {
        if size <= 0 || slide <= 0 {
            return Err("a window must be longer than nothing".to_owned());
        }
        if slide > size {
            return Err("windows that begin further apart than they are long leave out what is \
                        between them: expected a slide up to the size"
                .to_owned());
        }
        if size / slide >= COVER_MAX {
            return Err(format!(
                "each record would be in {} windows, expected less than {COVER_MAX}",
                size / slide
            ));
        }
        Ok(Self::Aligned { size, slide, offset: offset.rem_euclid(slide) })
    }

    /// Sessions of this gap.
    ///
    /// # Errors
    /// When it is none.
    pub fn session(gap: i64) -> Result<Self, String> {
        if gap <= 0 {
            return Err("the gap of a session must be longer than nothing".to_owned());
        }
        Ok(Self::Session { gap })
    }

    /// True when a record is in one window, known from its time alone.
    pub fn is_tumbling(self) -> bool {
        matches!(self, Self::Aligned { size, slide, .. } if size == slide)
    }

    /// The beginning of the pane of a time: records of one pane are in the same windows.
    pub fn pane(self, at: i64) -> i64 {
        match self {
            Self::Aligned { size, slide, offset } => floor(at, gcd(size, slide), offset),
            Self::Session { .. } => at,
        }
    }

    /// How long a window is; a session at least so.
    pub fn size(self) -> i64 {
        match self {
            Self::Aligned { size, .. } => size,
            Self::Session { gap } => gap,
        }
    }

    /// The windows of a pane as beginning and end, the first one first. A session is what a record
    /// makes alone.
    pub fn covering(self, pane: i64) -> impl Iterator<Item = (i64, i64)> {
        let (size, slide, last) = match self {
            Self::Aligned { size, slide, offset } => (size, slide, floor(pane, slide, offset)),
            Self::Session { gap } => (gap, gap, pane),
        };
        let more = (size - 1 - (pane.saturating_sub(last))) / slide;
        (0..=more).rev().map(move |back| {
            let start = last.saturating_sub(back * slide);
            (start, start.saturating_add(size))
        })
    }

    /// Records before this time are late once the watermark is here.
    pub fn late_before(self, watermark: i64) -> i64 {
        match self {
            // The last window of a time ends with the slide that it is in, and `size - slide` later.
            Self::Aligned { size, slide, offset } => {
                floor(watermark.saturating_sub(size), slide, offset).saturating_add(slide)
            }
            Self::Session { gap } => watermark.saturating_sub(gap).saturating_add(1),
        }
    }
}

/// The last multiple of `step` from `offset` that is not after `at`.
fn floor(at: i64, step: i64, offset: i64) -> i64 {
    at.saturating_sub(at.saturating_sub(offset).rem_euclid(step))
}

fn gcd(one: i64, other: i64) -> i64 {
    if other == 0 { one } else { gcd(other, one % other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    /// Each window that holds a time, found by looking at all of them.
    fn found(window: Window, at: i64) -> Vec<(i64, i64)> {
        let Window::Aligned { size, slide, offset } = window else {
            return vec![(at, at + window.size())];
        };
        let all = (-200..200).map(|number| number * slide + offset);
        all.filter(|start| *start <= at && at < start + size)
            .map(|start| (start, start + size))
            .collect()
    }

    #[test]
    fn every_window_of_a_time_is_found() {
        for (size, slide, offset) in
            [(5, 5, 0), (5, 5, 2), (10, 5, 0), (10, 4, 3), (7, 3, -1), (6, 5, 20), (1, 1, 0)]
        {
            let window = Window::aligned(size, slide, offset).unwrap();
            for at in -40..40 {
                let windows: Vec<_> = window.covering(window.pane(at)).collect();
                assert_eq!(windows, found(window, at), "{window:?} at {at}");
                for watermark in -30..60 {
                    let late = windows.iter().all(|(_, end)| *end <= watermark);
                    assert_eq!(at < window.late_before(watermark), late, "{window:?} at {at}");
                }
            }
        }
        let session = Window::session(3).unwrap();
        assert_eq!(session.covering(session.pane(7)).collect::<Vec<_>>(), [(7, 10)]);
        assert!(6 < session.late_before(9) && 7 >= session.late_before(9));
    }

    /// Tumbling five minutes with offset two covers 10:02 to 10:07.
    #[test]
    fn an_offset_moves_the_windows() {
        let window = Window::aligned(5 * MINUTE, 5 * MINUTE, 2 * MINUTE).unwrap();
        let at = 10 * 60 * MINUTE;
        let windows: Vec<_> = window.covering(window.pane(at + 4 * MINUTE)).collect();
        assert_eq!(windows, [(at + 2 * MINUTE, at + 7 * MINUTE)]);
    }

    #[test]
    fn lengths_that_make_no_sense_are_refused() {
        for (size, slide) in [(0, 1), (5, 0), (-5, -5), (5, 6), (100_000, 1)] {
            assert!(Window::aligned(size, slide, 0).is_err(), "{size} {slide}");
        }
        assert!(Window::session(0).is_err());
    }

    #[test]
    fn the_ends_of_time_overflow_nothing() {
        let window = Window::aligned(10 * MINUTE, MINUTE, 7).unwrap();
        for at in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX] {
            assert!(window.covering(window.pane(at)).count() <= 11);
            let _ = window.late_before(at);
        }
    }
}
