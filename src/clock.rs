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
