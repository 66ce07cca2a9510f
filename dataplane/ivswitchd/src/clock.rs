//! The daemon's clock: nanoseconds since boot, suspend included, so that ages and deadlines stay true when
//! the rVM was paused or migrated.

use std::time::SystemTime;

use engine::time::Instant;
use rustix::time::{ClockId, clock_gettime};

/// The time now.
#[must_use]
pub fn now() -> Instant {
    let t = clock_gettime(ClockId::Boottime);
    // Both parts are never negative on this clock.
    Instant::from_nanos(t.tv_sec.cast_unsigned() * 1_000_000_000 + t.tv_nsec.cast_unsigned())
}

/// The time of day, for timestamps that people read. No decision depends on it, since it may be set.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one use of the wall clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_does_not_run_backwards() {
        let a = super::now();
        let b = super::now();
        assert!(b >= a);
        assert!(a.as_nanos() > 0);
    }
}
