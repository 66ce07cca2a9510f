//! Neighbours on the overlay that the switch itself routes to.

use alloc::vec::Vec;

use super::{Map, Station, hasher};
use crate::command::{NeighborRow, Vni};
use crate::limits::{
    NEIGHBOR_AGE, NEIGHBORS_MAX, QUERY_PAGE_LEN, REFRESH_INTERVAL, RESOLVE_ATTEMPTS, RESOLVE_INTERVAL,
};
use crate::time::Instant;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// Maps (VNI, IP) to a MAC address, for the addresses that the switch routes to: targets of floating IPs and
/// routers named by source routes. No other address is ever entered, so a station that claims many addresses
/// fills nothing. Written by ARP and ND from the network; read when mappings are composed.
#[derive(Clone, Debug)]
pub struct Neighbors {
    map: Map<(Vni, Ip), Neighbor>,
    /// All unanswered questions are due again, since they may have been lost.
    again: bool,
    /// Answers for the other workers; `None` without other workers.
    told: Option<Vec<(Vni, Ip, MacAddr)>>,
}

/// Maximum number of answers passed to other workers per poll.
const TOLD_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Neighbor {
    mac: Option<MacAddr>,
    heard: Instant,
    asked: Option<Instant>,
    /// Number of questions since the last answer.
    unanswered: u8,
    users: u32,
}

impl Neighbors {
    /// Creates an empty table whose hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { map: Map::with_hasher(hasher(seed)), again: false, told: None }
    }

    /// Starts to ask for an address. Each call needs its [`Neighbors::unwant`].
    pub fn want(&mut self, vni: Vni, ip: Ip) {
        if self.map.len() < NEIGHBORS_MAX || self.map.contains_key(&(vni, ip)) {
            let new = Neighbor { mac: None, heard: Instant::ZERO, asked: None, unanswered: 0, users: 0 };
            self.map.entry((vni, ip)).or_insert(new).users += 1;
        }
    }

    /// Undoes one [`Neighbors::want`]. Forgets an address after the last one.
    pub fn unwant(&mut self, vni: Vni, ip: Ip) {
        if let Some(neighbor) = self.map.get_mut(&(vni, ip)) {
            neighbor.users -= 1;
            if neighbor.users == 0 {
                self.map.remove(&(vni, ip));
            }
        }
    }

    /// Records that a station has announced `ip` at `mac`. Returns true when that is new, for an address in
    /// the table.
    #[inline]
    pub fn heard(&mut self, now: Instant, vni: Vni, ip: Ip, mac: MacAddr) -> bool {
        let Some(neighbor) = self.map.get_mut(&(vni, ip)) else { return false };
        let again = now.since(neighbor.heard) >= RESOLVE_INTERVAL;
        (neighbor.heard, neighbor.unanswered) = (now, 0);
        let news = neighbor.mac != Some(mac);
        neighbor.mac = Some(mac);
        if (news || again)
            && let Some(told) = self.told.as_mut().filter(|told| told.len() < TOLD_MAX)
        {
            told.push((vni, ip, mac));
        }
        news
    }

    /// Like [`Neighbors::heard`], for an announcement that another worker received.
    pub fn heard_by_other(&mut self, now: Instant, vni: Vni, ip: Ip, mac: MacAddr) -> bool {
        let Some(neighbor) = self.map.get_mut(&(vni, ip)) else { return false };
        (neighbor.heard, neighbor.unanswered) = (now, 0);
        neighbor.mac.replace(mac) != Some(mac)
    }

    /// Starts to collect announcements for other workers.
    pub fn share(&mut self) {
        self.told = Some(Vec::with_capacity(TOLD_MAX));
    }

    /// Drains the announcements for other workers.
    pub fn take_told(&mut self) -> impl Iterator<Item = (Vni, Ip, MacAddr)> + '_ {
        self.told.iter_mut().flat_map(|told| told.drain(..))
    }

    /// The address's MAC, once known.
    #[must_use]
    pub fn mac(&self, vni: Vni, ip: Ip) -> Option<MacAddr> {
        self.map.get(&(vni, ip))?.mac
    }

    /// Whether enough questions were left without an answer to treat the address as unreachable.
    #[must_use]
    pub fn is_silent(&self, vni: Vni, ip: Ip) -> bool {
        let silent = |n: &Neighbor| n.mac.is_none() && n.unanswered > RESOLVE_ATTEMPTS;
        self.map.get(&(vni, ip)).is_some_and(silent)
    }

    /// Forgets the MAC addresses of one network's neighbours, or of all. Returns those that were known.
    pub fn flush(&mut self, vni: Option<Vni>) -> Vec<Station> {
        let mut lost = Vec::new();
        for (&key, neighbor) in self.map.iter_mut().filter(|((of, _), _)| vni.is_none_or(|vni| vni == *of)) {
            (neighbor.asked, neighbor.unanswered) = (None, 0);
            if neighbor.mac.take().is_some() {
                lost.push(key);
            }
        }
        lost
    }

    /// Makes every unanswered question due, since a path to the stations has opened.
    pub fn ask_again(&mut self) {
        self.again = true;
    }

    /// Returns the addresses to ask for now, and the addresses given up for lack of answers.
    pub fn due(&mut self, now: Instant) -> (Vec<Station>, Vec<Station>) {
        let (mut ask, mut lost) = (Vec::new(), Vec::new());
        let again = core::mem::take(&mut self.again);
        for (&key, neighbor) in &mut self.map {
            let silent = now.since(neighbor.heard);
            if neighbor.mac.is_some() && silent >= NEIGHBOR_AGE {
                neighbor.mac = None;
                lost.push(key);
            }
            let quiet = again && neighbor.mac.is_none()
                || neighbor.asked.is_none_or(|at| now.since(at) >= RESOLVE_INTERVAL);
            if again {
                // The earlier questions could not arrive.
                neighbor.unanswered = 0;
            }
            if quiet && (neighbor.mac.is_none() || silent >= REFRESH_INTERVAL) {
                neighbor.asked = Some(now);
                neighbor.unanswered = neighbor.unanswered.saturating_add(1);
                ask.push(key);
            }
        }
        ask.sort_unstable();
        (ask, lost)
    }

    /// Returns one page of neighbours in the order of their keys, and the cursor of the next.
    #[must_use]
    pub fn page(&self, now: Instant, cursor: u32) -> (Vec<NeighborRow>, Option<u32>) {
        let mut keys: Vec<_> = self.map.keys().copied().collect();
        keys.sort_unstable();
        let start = (cursor as usize).min(keys.len());
        let end = (start + QUERY_PAGE_LEN).min(keys.len());
        let rows = keys[start..end]
            .iter()
            .map(|key| {
                let n = &self.map[key];
                NeighborRow { vni: key.0, ip: key.1.into(), mac: n.mac, idle: now.since(n.heard) }
            })
            .collect();
        (rows, (end < keys.len()).then_some(end as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    /// A station becomes unreachable one second after its third unanswered question, not before. An answer,
    /// or a path that opens, starts the count again.
    #[test]
    fn silence_takes_three_questions() {
        let mut table = Neighbors::new(1);
        let (vni, ip) = (Vni::new(1).unwrap(), Ip::v4([10, 0, 0, 1]));
        table.want(vni, ip);
        let mut now = Instant::from_millis(1000);
        let mut seconds = |table: &mut Neighbors, count: u32| {
            for _ in 0..count {
                table.due(now);
                now = now + Duration::from_secs(1);
            }
            table.is_silent(vni, ip)
        };
        assert!(!seconds(&mut table, 3), "the third question may still be answered");
        assert!(seconds(&mut table, 1));
        table.ask_again();
        assert!(!seconds(&mut table, 3));
        assert!(seconds(&mut table, 1));
        table.heard(Instant::from_millis(9000), vni, ip, MacAddr([2; 6]));
        assert!(!seconds(&mut table, 1), "it is there");
        // After a long silence the neighbour is given up, with more than three unanswered questions.
        assert!(seconds(&mut table, 300));
        assert!(!table.is_silent(vni, Ip::v4([10, 0, 0, 2])), "no one asks for it");
    }

    /// An operator flushes the neighbours of one network. The switch forgets their addresses and asks for
    /// them again; those of another network stay.
    #[test]
    fn flushed_neighbors_are_asked_again() {
        let mut table = Neighbors::new(1);
        let ip = Ip::v4([10, 0, 0, 1]);
        let (one, two) = (Vni::new(1).unwrap(), Vni::new(2).unwrap());
        let now = Instant::from_millis(1000);
        for vni in [one, two] {
            table.want(vni, ip);
            table.heard(now, vni, ip, MacAddr([2; 6]));
        }
        assert_eq!(table.flush(Some(one)), [(one, ip)]);
        assert_eq!((table.mac(one, ip), table.mac(two, ip)), (None, Some(MacAddr([2; 6]))));
        assert_eq!(table.due(now).0, [(one, ip)]);
        assert_eq!(table.flush(None), [(two, ip)], "what is unknown already is not lost again");
    }
}
