//! A policer drops frames that exceed a rate, and delays none (RFC 2697 with one colour; `tc police`, Open
//! vSwitch's `ingress_policing_rate`).
//!
//! Two token buckets, one for bits and one for frames. A frame passes while neither bucket is empty, and is
//! then taken from both in full, so a bucket may go below zero by one frame. So a GSO packet of 64 KiB can
//! pass with any burst, and over time the rate is still exact. In any time t, at most `burst + rate * t` and
//! one frame pass.

use alloc::boxed::Box;

use crate::command::Rate;
use crate::time::Instant;

/// Minimum burst in frames: a host's ARP, its SYN and a little more.
const FRAMES_MIN: u64 = 16;
/// Minimum burst in bytes: one frame.
const BYTES_MIN: u64 = 1518;
/// Tokens are in units of 1e-9, so that a nanosecond at any rate is a whole number of units.
const PARTS: i128 = 1_000_000_000;

/// The limit of one port in one direction.
#[derive(Clone, Debug)]
pub struct Policer {
    bits: Option<Bucket>,
    frames: Option<Bucket>,
}

#[derive(Clone, Debug)]
struct Bucket {
    per_second: u64,
    depth: i128,
    level: i128,
    filled: Instant,
}

impl Policer {
    /// Creates full buckets. `None` if the rate limits nothing.
    #[must_use]
    pub fn new(now: Instant, rate: Rate) -> Option<Box<Self>> {
        let Rate { bps, pps, burst } = rate;
        let bits =
            |bps: u64| 8 * burst.map_or_else(|| (bps / 80).max(BYTES_MIN), |bytes| u64::from(bytes).max(1));
        let frames = |pps: u64| (pps / 10).max(FRAMES_MIN);
        rate.is_limit().then(|| {
            Box::new(Self {
                bits: bps.map(|bps| Bucket::new(now, bps, bits(bps))),
                frames: pps.map(u64::from).map(|pps| Bucket::new(now, pps, frames(pps))),
            })
        })
    }

    /// Takes `frames` frames with `bytes` bytes in total. Returns false, and takes nothing, when they are
    /// over the limit.
    pub fn take(&mut self, now: Instant, frames: u64, bytes: u64) -> bool {
        let passes = |bucket: &mut Option<Bucket>| bucket.as_mut().is_none_or(|bucket| bucket.has(now));
        // Fill both buckets, even if the first is empty.
        if !(passes(&mut self.bits) & passes(&mut self.frames)) {
            return false;
        }
        if let Some(bucket) = &mut self.bits {
            bucket.level -= i128::from(bytes) * 8 * PARTS;
        }
        if let Some(bucket) = &mut self.frames {
            bucket.level -= i128::from(frames) * PARTS;
        }
        true
    }
}

impl Bucket {
    fn new(now: Instant, per_second: u64, depth: u64) -> Self {
        let depth = i128::from(depth) * PARTS;
        Self { per_second, depth, level: depth, filled: now }
    }

    /// Fills the bucket up to now. Returns whether it is not empty.
    fn has(&mut self, now: Instant) -> bool {
        let elapsed = now.as_nanos().saturating_sub(self.filled.as_nanos());
        self.filled = self.filled.max(now);
        self.level = (self.level + i128::from(elapsed) * i128::from(self.per_second)).min(self.depth);
        self.level > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn no_limit_is_no_policer() {
        assert!(Policer::new(Instant::ZERO, Rate::default()).is_none());
        assert!(Policer::new(Instant::ZERO, Rate { burst: Some(5), ..Rate::default() }).is_none());
    }

    /// 10 Mbit/s with a burst of 20 KB: first the burst passes, then the rate.
    #[test]
    fn bits_and_their_burst() {
        let t = Instant::from_millis(5);
        let rate = Rate { bps: Some(10_000_000), burst: Some(20_000), ..Rate::default() };
        let mut policer = Policer::new(t, rate).unwrap();
        assert_eq!((0..100).filter(|_| policer.take(t, 1, 1000)).count(), 20);
        let later = t + Duration::from_millis(8);
        assert_eq!((0..100).filter(|_| policer.take(later, 1, 1000)).count(), 10);
    }

    /// A burst smaller than a GSO packet lets the packet pass now and then, still at the rate.
    #[test]
    fn super_frames_pass_at_the_rate_whatever_the_burst() {
        let rate = Rate { bps: Some(8_000_000), burst: Some(1500), ..Rate::default() };
        let mut policer = Policer::new(Instant::ZERO, rate).unwrap();
        let passed = (0..10_000).filter(|ms| policer.take(Instant::from_millis(*ms), 44, 66_000)).count();
        // 10 s of 1 MB/s.
        assert!((150..=153).contains(&passed), "{passed}");
    }

    #[test]
    fn frames() {
        let rate = Rate { pps: Some(1000), ..Rate::default() };
        let mut policer = Policer::new(Instant::ZERO, rate).unwrap();
        assert_eq!((0..500).filter(|_| policer.take(Instant::ZERO, 1, 64)).count(), 100);
        assert_eq!((0..500).filter(|_| policer.take(Instant::from_millis(50), 1, 64)).count(), 50);
        let mut slow = Policer::new(Instant::ZERO, Rate { pps: Some(1), ..Rate::default() }).unwrap();
        assert_eq!((0..500).filter(|_| slow.take(Instant::ZERO, 1, 64)).count(), FRAMES_MIN as usize);
    }

    /// Frames that one bucket refuses cost nothing in the other.
    #[test]
    fn what_is_refused_costs_nothing() {
        let rate = Rate { bps: Some(1_000_000), pps: Some(160), burst: Some(125_000) };
        let mut policer = Policer::new(Instant::ZERO, rate).unwrap();
        assert_eq!((0..1000).filter(|_| policer.take(Instant::ZERO, 1, 1000)).count(), 16);
        // A second later: 16 frames again, with enough bits for them.
        let later = Instant::from_millis(1000);
        assert_eq!((0..1000).filter(|_| policer.take(later, 1, 7000)).count(), 16);
    }

    proptest! {
        /// At most burst, rate and one frame pass; at least the burst does.
        #[test]
        fn never_more_than_the_rate_and_the_burst_always(
            bps in 1000u64..1_000_000_000_000,
            burst in prop::option::of(1u32..10_000_000),
            len in 60u64..66_000,
            steps in prop::collection::vec((0u64..20_000_000, 1usize..50), 1..200),
        ) {
            let mut policer = Policer::new(Instant::ZERO, Rate { bps: Some(bps), pps: None, burst }).unwrap();
            let depth = u128::from(8 * burst.map_or((bps / 80).max(BYTES_MIN), u64::from));
            let mut now = 0;
            let mut passed = 0u128;
            let mut refused = false;
            for (pause, count) in steps {
                now += pause;
                for _ in 0..count {
                    let took = policer.take(Instant::from_nanos(now), 1, len);
                    passed += u128::from(took) * u128::from(8 * len);
                    refused |= !took;
                }
                let most = depth + u128::from(bps) * u128::from(now) / u128::from(SECOND) + u128::from(8 * len) + 1;
                prop_assert!(passed <= most, "{} > {}", passed, most);
            }
            // Refused only when the burst was used up.
            prop_assert!(!refused || passed >= depth, "{} < {}", passed, depth);
        }

        /// Time that stands still or goes back adds no tokens.
        #[test]
        fn time_goes_forward(times in prop::collection::vec(0u64..1000, 1..100)) {
            let mut policer = Policer::new(Instant::ZERO, Rate { pps: Some(10), ..Rate::default() }).unwrap();
            let passed = times.iter().filter(|&&t| policer.take(Instant::from_millis(t), 1, 64)).count();
            prop_assert!(passed <= FRAMES_MIN as usize + 10);
        }
    }
}
