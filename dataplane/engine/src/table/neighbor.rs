//! Neighbours on the overlay that the switch itself routes to.

use alloc::vec::Vec;

use super::{Map, Station, hasher};
use crate::command::{NeighborRow, Vni};
use crate::limits::{NEIGHBOR_AGE, NEIGHBORS_MAX, QUERY_PAGE_LEN, REFRESH_INTERVAL, RESOLVE_INTERVAL};
use crate::time::Instant;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// Maps (VNI, IP) to a MAC address, for the addresses the switch routes to: targets of floating IPs
/// and routers named by source routes. Nothing else is ever entered, so a station that claims many
/// addresses fills nothing. Written by ARP and ND heard on the network; read when mappings are composed.
#[derive(Debug)]
pub struct Neighbors {
    map: Map<(Vni, Ip), Neighbor>,
    /// Unanswered questions may have been lost: all of them are due.
    again: bool,
    /// What other workers must know; `None`: there are none.
    told: Option<Vec<(Vni, Ip, MacAddr)>>,
}

/// Answers told to other workers per poll.
const TOLD_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Neighbor {
    mac: Option<MacAddr>,
    heard: Instant,
    asked: Option<Instant>,
    users: u32,
}

impl Neighbors {
    /// An empty table whose hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { map: Map::with_hasher(hasher(seed)), again: false, told: None }
    }

    /// Asks for an address from now on. Each call needs its [`Neighbors::unwant`].
    pub fn want(&mut self, vni: Vni, ip: Ip) {
        if self.map.len() < NEIGHBORS_MAX || self.map.contains_key(&(vni, ip)) {
            let new = Neighbor { mac: None, heard: Instant::ZERO, asked: None, users: 0 };
            self.map.entry((vni, ip)).or_insert(new).users += 1;
        }
    }

    /// Undoes one [`Neighbors::want`]; an address nobody wants is forgotten.
    pub fn unwant(&mut self, vni: Vni, ip: Ip) {
        if let Some(neighbor) = self.map.get_mut(&(vni, ip)) {
            neighbor.users -= 1;
            if neighbor.users == 0 {
                self.map.remove(&(vni, ip));
            }
        }
    }

    /// A station said that `ip` is at `mac`. True when that is news about an address we want.
    #[inline]
    pub fn heard(&mut self, now: Instant, vni: Vni, ip: Ip, mac: MacAddr) -> bool {
        let Some(neighbor) = self.map.get_mut(&(vni, ip)) else { return false };
        let again = now.since(neighbor.heard) >= RESOLVE_INTERVAL;
        neighbor.heard = now;
        let news = neighbor.mac != Some(mac);
        neighbor.mac = Some(mac);
        if (news || again)
            && let Some(told) = self.told.as_mut().filter(|told| told.len() < TOLD_MAX)
        {
            told.push((vni, ip, mac));
        }
        news
    }

    /// The same, from another worker.
    pub fn heard_by_other(&mut self, now: Instant, vni: Vni, ip: Ip, mac: MacAddr) -> bool {
        let Some(neighbor) = self.map.get_mut(&(vni, ip)) else { return false };
        neighbor.heard = now;
        neighbor.mac.replace(mac) != Some(mac)
    }

    /// Other workers are to know what is heard here.
    pub fn share(&mut self) {
        self.told = Some(Vec::with_capacity(TOLD_MAX));
    }

    /// What other workers must know.
    pub fn take_told(&mut self) -> impl Iterator<Item = (Vni, Ip, MacAddr)> + '_ {
        self.told.iter_mut().flat_map(|told| told.drain(..))
    }

    /// Its MAC address, once known.
    #[must_use]
    pub fn mac(&self, vni: Vni, ip: Ip) -> Option<MacAddr> {
        self.map.get(&(vni, ip))?.mac
    }

    /// Makes every unanswered question due: a way to the stations has opened.
    pub fn ask_again(&mut self) {
        self.again = true;
    }

    /// Addresses to ask for now, and addresses given up because nobody answered for them any more.
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
            if quiet && (neighbor.mac.is_none() || silent >= REFRESH_INTERVAL) {
                neighbor.asked = Some(now);
                ask.push(key);
            }
        }
        ask.sort_unstable();
        (ask, lost)
    }

    /// One page of neighbours in the order of their keys, and the cursor of the next.
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
