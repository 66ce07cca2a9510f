//! Source routes.

use alloc::vec::Vec;

use super::{Map, hasher};
use crate::command::{IpPrefix, NextHop, Vni};
use crate::wire::ip::Ip;

/// Maps (VNI, source prefix) to a next hop, longest prefix first: one exact-match table with one lookup per
/// prefix length in use. Only the configuration writes it. A single floating IP needs no route: its mapping
/// carries its own next hop.
#[derive(Clone, Debug)]
pub struct SourceRoutes {
    /// Prefix lengths in use over [`Ip`]'s 128 bits, longest first, with their number of routes.
    lengths: Vec<(u8, u32)>,
    routes: Map<(Vni, u8, u128), NextHop>,
}

fn key(vni: Vni, from: IpPrefix) -> (Vni, u8, u128) {
    let len = if from.addr.is_ipv4() { 96 + from.len.min(32) } else { from.len.min(128) };
    (vni, len, Ip::from(from.addr).0 & mask(len))
}

const fn mask(len: u8) -> u128 {
    match len {
        0 => 0,
        _ => u128::MAX << (128 - len as u32),
    }
}

impl SourceRoutes {
    /// Creates an empty table whose hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { lengths: Vec::new(), routes: Map::with_hasher(hasher(seed)) }
    }

    /// Creates or changes the route of a prefix.
    pub fn set(&mut self, vni: Vni, from: IpPrefix, via: NextHop) {
        let key = key(vni, from);
        if self.routes.insert(key, via).is_some() {
            return;
        }
        match self.lengths.iter_mut().find(|(len, _)| *len == key.1) {
            Some((_, count)) => *count += 1,
            None => {
                self.lengths.push((key.1, 1));
                self.lengths.sort_unstable_by(|a, b| b.cmp(a));
            }
        }
    }

    /// Removes the route of a prefix.
    pub fn remove(&mut self, vni: Vni, from: IpPrefix) {
        let key = key(vni, from);
        if self.routes.remove(&key).is_none() {
            return;
        }
        if let Some(at) = self.lengths.iter().position(|(len, _)| *len == key.1) {
            self.lengths[at].1 -= 1;
            if self.lengths[at].1 == 0 {
                self.lengths.remove(at);
            }
        }
    }

    /// The next hop for packets of `vni` from `src`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, vni: Vni, src: Ip) -> Option<NextHop> {
        self.lengths.iter().find_map(|&(len, _)| self.routes.get(&(vni, len, src.0 & mask(len))).copied())
    }

    /// Every next hop in use.
    pub fn next_hops(&self) -> impl Iterator<Item = (Vni, NextHop)> {
        self.routes.iter().map(|(&(vni, _, _), &via)| (vni, via))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::PeerId;
    use proptest::prelude::*;

    proptest! {
        /// The table agrees with a linear search over all prefixes.
        #[test]
        fn equals_a_walk(routes in proptest::collection::vec((any::<u32>(), 0u8..=32, 0u16..9), 0..30),
                         removed in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
                         probes in proptest::collection::vec(any::<u32>(), 1..50)) {
            let vni = Vni::new(1).unwrap();
            let mut table = SourceRoutes::new(3);
            let mut model: Vec<(IpPrefix, PeerId)> = Vec::new();
            for (addr, len, peer) in routes {
                let m = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                let p = IpPrefix { addr: core::net::Ipv4Addr::from_bits(addr & m).into(), len };
                table.set(vni, p, NextHop::Peer(PeerId(peer)));
                model.retain(|(q, _)| *q != p);
                model.push((p, PeerId(peer)));
            }
            for i in removed {
                if model.is_empty() { break }
                let (p, _) = model.remove(i.index(model.len()));
                table.remove(vni, p);
            }
            let known: Vec<u32> = model.iter().map(|(p, _)| match p.addr { core::net::IpAddr::V4(a) => a.to_bits(), _ => 0 }).collect();
            for probe in probes.into_iter().chain(known) {
                let ip = core::net::IpAddr::V4(core::net::Ipv4Addr::from_bits(probe));
                let want = model.iter().filter(|(p, _)| p.contains(ip)).max_by_key(|(p, _)| p.len).map(|&(_, via)| NextHop::Peer(via));
                prop_assert_eq!(table.lookup(vni, ip.into()), want);
                prop_assert_eq!(table.lookup(Vni::new(2).unwrap(), ip.into()), None);
            }
        }
    }
}
