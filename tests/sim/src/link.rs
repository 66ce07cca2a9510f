//! A link between two interfaces: delay, loss and limits of frames, per direction.

use crate::prng::Prng;

/// How one direction of a link treats frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// Delay of a frame, in nanoseconds.
    pub latency_ns: u64,
    /// Random delay on top, at most. Frames stay in order unless `reorder_ppm` says otherwise.
    pub jitter_ns: u64,
    /// Frames lost, per million.
    pub loss_ppm: u32,
    /// Frames that arrive twice, per million.
    pub dup_ppm: u32,
    /// Frames that are held back behind later ones, per million.
    pub reorder_ppm: u32,
    /// Bits per second; 0: no limit.
    pub rate_bps: u64,
    /// Bytes of frame waiting at a limited rate before the link drops.
    pub queue_len: u64,
    /// Largest IP packet; 0: no limit.
    pub mtu: u32,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            latency_ns: 20_000,
            jitter_ns: 0,
            loss_ppm: 0,
            dup_ppm: 0,
            reorder_ppm: 0,
            rate_bps: 0,
            queue_len: 256 * 1024,
            mtu: 0,
        }
    }
}

/// One direction of a link.
#[derive(Clone, Debug)]
pub struct Direction {
    /// How it treats frames.
    pub config: LinkConfig,
    busy_until_ns: u64,
    last_arrival_ns: u64,
    /// Frames handed to it.
    pub sent: u64,
    /// Frames lost: by chance, by the queue, by the MTU, or because the link was down.
    pub lost: u64,
}

impl Direction {
    /// An idle direction.
    #[must_use]
    pub const fn new(config: LinkConfig) -> Self {
        Self { config, busy_until_ns: 0, last_arrival_ns: 0, sent: 0, lost: 0 }
    }

    /// When a frame of `len` bytes sent now arrives: never, once or twice.
    pub fn carry(&mut self, now_ns: u64, len: usize, up: bool, rng: &mut Prng) -> [Option<u64>; 2] {
        let c = self.config;
        self.sent += 1;
        let too_big = c.mtu != 0 && len > c.mtu as usize + 14 + 8;
        let depart = self.busy_until_ns.max(now_ns);
        let serial = (len as u64 * 8 * 1_000_000_000).checked_div(c.rate_bps).unwrap_or(0);
        let backlog = if c.rate_bps == 0 { 0 } else { (depart - now_ns) * c.rate_bps / 8_000_000_000 };
        if !up || too_big || backlog > c.queue_len || rng.ppm(c.loss_ppm) {
            self.lost += 1;
            return [None, None];
        }
        self.busy_until_ns = depart + serial;
        let mut at = depart + serial + c.latency_ns + rng.below(c.jitter_ns + 1);
        if rng.ppm(c.reorder_ppm) {
            at += c.latency_ns + c.jitter_ns + 50_000;
        } else {
            at = at.max(self.last_arrival_ns);
            self.last_arrival_ns = at;
        }
        let again = rng.ppm(c.dup_ppm).then(|| at + 1 + rng.below(c.latency_ns + 1));
        [Some(at), again]
    }
}

/// A link and its two ends.
#[derive(Clone, Debug)]
pub struct Link {
    /// A name for messages and file names.
    pub name: String,
    /// The interfaces at its ends: `(node, interface)`.
    pub ends: [(usize, usize); 2],
    /// From end 0 to end 1, and back.
    pub directions: [Direction; 2],
    /// A link that is down loses everything.
    pub up: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_rate_and_loss() {
        let mut rng = Prng::new(1);
        let jittery = LinkConfig { jitter_ns: 50_000, ..LinkConfig::default() };
        let mut d = Direction::new(jittery);
        let mut last = 0;
        for i in 0..1000 {
            let at = d.carry(i * 1000, 100, true, &mut rng)[0].unwrap();
            assert!(at >= last, "jitter alone does not reorder");
            last = at;
        }
        let slow =
            LinkConfig { rate_bps: 8_000_000, latency_ns: 0, queue_len: 2000, ..LinkConfig::default() };
        let mut d = Direction::new(slow);
        assert_eq!(d.carry(0, 1000, true, &mut rng)[0], Some(1_000_000));
        assert_eq!(d.carry(0, 1000, true, &mut rng)[0], Some(2_000_000));
        assert_eq!(d.carry(0, 1000, true, &mut rng)[0], Some(3_000_000));
        assert_eq!(d.carry(0, 1000, true, &mut rng)[0], None, "the queue holds 2000 bytes");
        let mut d = Direction::new(LinkConfig { loss_ppm: 500_000, ..LinkConfig::default() });
        let lost = (0..1000).filter(|_| d.carry(0, 100, true, &mut rng)[0].is_none()).count();
        assert!((400..600).contains(&lost));
        assert_eq!(d.lost, lost as u64);
        assert_eq!(d.carry(0, 100, false, &mut rng), [None, None]);
    }
}
