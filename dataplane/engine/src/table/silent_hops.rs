//! Next hops of the underlay that do not answer.

use alloc::vec::Vec;

use crate::limits::{RESOLVE_ATTEMPTS, RESOLVE_INTERVAL, SILENT_HOPS_MAX};
use crate::time::{Duration, Instant};
use crate::wire::ip::Ip;

/// Lists the next hops without a MAC address for which the kernel has received a packet, each with the time
/// of the first. A hop that has not answered after [`SILENT_AFTER`] counts as unreachable, and senders get an
/// error.
///
/// Bounded by [`SILENT_HOPS_MAX`]. A hop leaves the list when it answers, or when no packet has needed it for
/// [`SILENT_AFTER`]. A full list takes no more hops. So a guest that tries many addresses of the underlay
/// only makes packets to further ones go to the kernel without an end, as all did before this list existed.
/// Written by punted packets and by commands.
#[derive(Clone, Debug)]
pub struct SilentHops(Vec<Waiting>);

#[derive(Clone, Copy, Debug)]
struct Waiting {
    hop: Ip,
    /// The times of the first and the last packet that needed the hop.
    since: Instant,
    last: Instant,
}

/// How long a next hop may stay without an answer: as long as the kernel asks for it.
pub const SILENT_AFTER: Duration = RESOLVE_INTERVAL.saturating_mul(RESOLVE_ATTEMPTS as u32);

impl Default for SilentHops {
    fn default() -> Self {
        Self(Vec::with_capacity(SILENT_HOPS_MAX))
    }
}

impl SilentHops {
    /// Records that a packet needs this next hop. Returns whether the hop counts as unreachable.
    pub fn wanted(&mut self, now: Instant, hop: Ip) -> bool {
        if let Some(waiting) = self.0.iter_mut().find(|waiting| waiting.hop == hop) {
            waiting.last = now;
            return now.since(waiting.since) >= SILENT_AFTER;
        }
        if self.0.len() < SILENT_HOPS_MAX {
            self.0.push(Waiting { hop, since: now, last: now });
        }
        false
    }

    /// Removes a next hop from the list after its answer.
    pub fn answered(&mut self, hop: Ip) {
        self.0.retain(|waiting| waiting.hop != hop);
    }

    /// Forgets the hops that no packet has needed lately.
    pub fn age(&mut self, now: Instant) {
        self.0.retain(|waiting| now.since(waiting.last) < SILENT_AFTER);
    }

    /// The next hops that count as unreachable. The switch no longer sends the kernel packets for them, so it
    /// has to request their resolution explicitly.
    pub fn unreachable(&self, now: Instant) -> impl Iterator<Item = Ip> + '_ {
        self.0.iter().filter(move |w| now.since(w.since) >= SILENT_AFTER).map(|waiting| waiting.hop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A next hop counts as unreachable after three seconds, until it answers or no packet needs it any more.
    #[test]
    fn hops_that_never_answer() {
        let mut hops = SilentHops::default();
        let (hop, seconds) = (Ip::v4([10, 0, 0, 1]), |n: u64| Instant::from_millis(1000 * n));
        for n in 10..13 {
            assert!(!hops.wanted(seconds(n), hop));
        }
        assert_eq!(hops.unreachable(seconds(12)).count(), 0);
        assert!(hops.wanted(seconds(13), hop));
        assert!(hops.unreachable(seconds(13)).eq([hop]));
        hops.age(seconds(15));
        assert!(hops.wanted(seconds(15), hop), "packets still need it");
        hops.age(seconds(18));
        assert!(!hops.wanted(seconds(18), hop), "the kernel tries again");
        assert!(hops.wanted(seconds(21), hop));
        hops.answered(hop);
        assert!(!hops.wanted(seconds(22), hop));
        for n in 0..1000 {
            hops.wanted(seconds(30), Ip::v4(u32::to_be_bytes(n)));
        }
        assert_eq!(hops.0.len(), SILENT_HOPS_MAX);
    }
}
