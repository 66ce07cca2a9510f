//! Reads from the forwarding database for other workers.

use super::{Fdb, FdbKey, TICK_SHIFT, mac_of, tick, unpack};
use crate::command::{Location, Vni};
use crate::time::{Duration, Instant};
use crate::wire::mac::MacAddr;

/// The entry of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// The station's location.
    pub location: Location,
    /// Time of the last frame from there, in coarse time rounded down.
    pub seen: Instant,
    /// Configured, not learned.
    pub is_static: bool,
}

impl Fdb {
    /// The entry of an address.
    #[must_use]
    pub fn sighting(&self, hash: u64, key: FdbKey) -> Option<Sighting> {
        let entry = self.entry(self.find(hash, key)?);
        let (location, seen) = (unpack(entry.location), instant(entry.last_seen));
        Some(Sighting { location, seen, is_static: entry.is_static() })
    }

    /// Scans up to `count` slots from `cursor` on, but not beyond the last slot. Calls `each` for up to
    /// `most` learned stations with a frame since `since`. Returns the next cursor, 0 at the end.
    pub fn fresh(
        &self,
        cursor: u32,
        (count, mut most): (u32, u32),
        since: Instant,
        mut each: impl FnMut((Vni, u16, MacAddr), Location, Instant),
    ) -> u32 {
        let since = tick(since);
        let slots = self.slots();
        let end = cursor.saturating_add(count).min(slots);
        for at in cursor..end {
            let entry = self.entry(at);
            if entry.is_vacant() || entry.is_static() || entry.last_seen < since {
                continue;
            }
            let Some(vni) = entry.key().vni() else { continue };
            if most == 0 {
                return at;
            }
            most -= 1;
            let station = (vni, (entry.mac_vid >> 48) as u16, mac_of(entry.mac_vid));
            each(station, unpack(entry.location), instant(entry.last_seen));
        }
        if end < slots { end } else { 0 }
    }

    /// The shortest ageing time of a network.
    #[must_use]
    pub fn age_min(&self) -> Duration {
        let ticks = self.networks.values().map(|n| n.age).min().unwrap_or(u32::MAX);
        Duration::from_nanos(u64::from(ticks) << TICK_SHIFT)
    }
}

fn instant(tick: u32) -> Instant {
    Instant::from_nanos(u64::from(tick) << TICK_SHIFT)
}
