//! The wall clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long ago 1970 began, in UTC; zero where the clock stands before that.
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    i64::try_from(since_1970().as_millis()).unwrap_or(i64::MAX)
}

/// Pauses between attempts, each twice as long as the one before, up to a longest one.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    tries: u32,
}

impl Backoff {
    /// The first pause, and the longest.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, tries: 0 }
    }

    /// The pause after this many attempts that failed, at least one.
    pub fn after(self, tries: u32) -> Duration {
        let doubled = 1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest)
    }

    /// The pause after one more attempt that failed.
    pub fn fail(&mut self) -> Duration {
        self.tries = self.tries.saturating_add(1);
        self.after(self.tries)
    }

    /// An attempt succeeded.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// How many attempts in a row have failed.
    pub fn tries(&self) -> u32 {
        self.tries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pauses = Backoff::new(Duration::from_millis(500), Duration::from_secs(3));
        let taken: Vec<_> = (0..5).map(|_| pauses.fail().as_millis()).collect();
        assert_eq!((taken, pauses.tries()), (vec![500, 1000, 2000, 3000, 3000], 5));
        assert_eq!(pauses.after(u32::MAX), Duration::from_secs(3));
        pauses.reset();
        assert_eq!(pauses.fail(), Duration::from_millis(500));
    }
}
