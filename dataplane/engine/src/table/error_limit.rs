//! Limits the number of errors that the switch sends, in total and to one source.

use alloc::boxed::Box;
use alloc::vec::Vec;

use ahash::RandomState;

use super::hasher;
use super::port::TokenBucket;
use crate::limits::{ICMP_ERROR_BUCKETS, ICMP_ERRORS_PER_SOURCE_PPS, ICMP_ERRORS_PPS};
use crate::time::Instant;
use crate::wire::ip::Ip;

/// Maps the source of a packet that is not forwarded to a token bucket for the errors that the source gets.
/// One more bucket limits all errors together (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)).
///
/// The number of buckets is fixed and sources share them by a keyed hash, so the table never evicts, and a
/// flood of sources takes no memory. The source's own bucket is checked first: a source that has used up its
/// own takes nothing from the others. Hosts choose among 2^64 IPv6 addresses of their link, so only the
/// prefix of an IPv6 address counts. The same private address on two networks is two sources. Written by the
/// code that sends errors (`forward/icmp_error.rs`).
#[derive(Clone, Debug)]
pub struct ErrorLimit {
    all: TokenBucket,
    sources: Box<[TokenBucket]>,
    hash: RandomState,
}

impl ErrorLimit {
    /// Creates full buckets; the hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let bucket = |pps| TokenBucket::new(Instant::ZERO, Some(pps));
        let sources: Vec<_> = (0..ICMP_ERROR_BUCKETS).map(|_| bucket(ICMP_ERRORS_PER_SOURCE_PPS)).collect();
        Self { all: bucket(ICMP_ERRORS_PPS), sources: sources.into(), hash: hasher(seed) }
    }

    /// Whether `source` may get an error now. Its packet came from `domain` (a network, or the underlay).
    pub fn take(&mut self, now: Instant, domain: u32, source: Ip) -> bool {
        let who = if source.is_v4() { source.0 } else { source.0 >> 64 };
        let at = self.hash.hash_one((domain, who)) as usize % self.sources.len();
        self.sources[at].take(now) && self.all.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    fn v4(n: u32) -> Ip {
        Ip::v4(n.to_be_bytes())
    }

    /// A source that provokes errors without end gets a tenth of the limit, and takes nothing from the
    /// others.
    #[test]
    fn a_source_has_its_share() {
        let mut limit = ErrorLimit::new(1);
        let mut now = Instant::from_millis(1);
        let greedy = (0..10_000).filter(|_| limit.take(now, 1, v4(1))).count();
        assert_eq!(greedy, ICMP_ERRORS_PER_SOURCE_PPS as usize / 4);
        assert!(limit.take(now, 2, v4(1)), "the same address on another network is another source");
        let others = (100..200).filter(|&n| limit.take(now, 1, v4(n))).count();
        assert!(others > 90, "{others}");
        now = now + Duration::from_secs(1);
        let greedy = (0..10_000).filter(|_| limit.take(now, 1, v4(1))).count();
        assert_eq!(greedy, ICMP_ERRORS_PER_SOURCE_PPS as usize / 4);
    }

    /// All sources together get no more than the total limit. All addresses of an IPv6 link are one source.
    #[test]
    fn all_sources_have_theirs() {
        let mut limit = ErrorLimit::new(1);
        let now = Instant::from_millis(1);
        let told = (0..100_000).filter(|&n| limit.take(now, 1, v4(n))).count();
        assert_eq!(told, ICMP_ERRORS_PPS as usize / 4);
        let mut limit = ErrorLimit::new(1);
        let link = 0x2001_0db8_0000_0001_u128 << 64;
        let told = (1..10_000).filter(|n| limit.take(now, 1, Ip(link | n))).count();
        assert_eq!(told, ICMP_ERRORS_PER_SOURCE_PPS as usize / 4);
    }
}
