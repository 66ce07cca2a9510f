//! The underlay as the kernel sees it: routes through the uplink, next hops, and destinations closed to
//! translated packets.

use alloc::vec::Vec;

use super::{Map, hasher};
use crate::command::{IpPrefix, UnderlayHop, UnderlayRoute, UnderlayRoutes};
use crate::limits::{NEIGHBORS_MAX, UNDERLAY_ROUTES_MAX};
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// Maps an underlay destination to its next hop and a next hop to its MAC address. A copy of the kernel's
/// tables, written by commands only.
///
/// The kernel's policy rules choose a table by the source address, so there is one list for tunnel packets and one
/// for each reality address that is routed otherwise. Each list is bounded by [`UNDERLAY_ROUTES_MAX`].
#[derive(Clone, Debug)]
pub struct Underlay {
    tunnel: Ways,
    from: Map<Ip, Ways>,
    neighbors: Map<Ip, MacAddr>,
}

/// A destination's next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// The MAC address is known.
    Mac(MacAddr),
    /// The kernel has to resolve this address first.
    Unresolved(Ip),
    /// No route through the uplink.
    NoRoute,
}

impl Hop {
    /// The MAC address, once it is known.
    #[inline]
    #[must_use]
    pub const fn mac(self) -> Option<MacAddr> {
        match self {
            Self::Mac(mac) => Some(mac),
            Self::Unresolved(_) | Self::NoRoute => None,
        }
    }
}

/// A prefix as mask and value over [`Ip`]'s 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    mask: u128,
    value: u128,
}

impl Prefix {
    /// Converts a prefix from its configured form.
    #[must_use]
    pub fn new(prefix: IpPrefix) -> Self {
        let bits = u32::from(prefix.len) + if prefix.addr.is_ipv4() { 96 } else { 0 };
        let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
        // The family of a zero-length IPv4 prefix is in the mapped part, which the mask covers.
        Self { mask, value: Ip::from(prefix.addr).0 & mask }
    }

    /// Whether `ip` lies inside the prefix.
    #[inline]
    #[must_use]
    pub const fn contains(self, ip: Ip) -> bool {
        ip.0 & self.mask == self.value
    }

    const fn last(self) -> u128 {
        self.value | !self.mask
    }
}

/// Longest-prefix match, flattened when the routes are set: all addresses from one range's start to the next
/// have the same route. So a lookup is one binary search, however many prefixes overlap.
#[derive(Clone, Debug, Default)]
struct Ways {
    /// First address of a range, and the range's route as an index in `hops`.
    ranges: Vec<(u128, Option<u16>)>,
    /// Next hops of each route; `None` is the destination itself.
    hops: Vec<Vec<Option<Ip>>>,
}

impl Ways {
    fn new(routes: &[UnderlayRoute]) -> Self {
        let mut sorted: Vec<(Prefix, &UnderlayRoute)> =
            routes.iter().map(|r| (Prefix::new(r.to), r)).collect();
        // Shorter prefixes first. A table that is too long loses its longest prefixes; their packets then use
        // the route of the enclosing prefix.
        sorted.sort_by_key(|(p, _)| (p.mask, p.value));
        sorted.truncate(UNDERLAY_ROUTES_MAX);
        sorted.sort_by_key(|(p, _)| (p.value, p.mask));
        let mut ways = Self::default();
        // The prefixes that contain the current address, innermost last.
        let mut around: Vec<(Prefix, Option<u16>)> = Vec::new();
        for (prefix, route) in sorted {
            ways.leave(&mut around, prefix.value);
            let way = ways.way(&route.hops);
            ways.push(prefix.value, way);
            around.push((prefix, way));
        }
        ways.leave(&mut around, u128::MAX);
        ways
    }

    /// The index of these next hops in `hops`.
    fn way(&mut self, hops: &[UnderlayHop]) -> Option<u16> {
        let hops: Vec<Option<Ip>> = hops
            .iter()
            .map(|hop| match hop {
                UnderlayHop::Link => None,
                UnderlayHop::Gateway(ip) => Some(Ip::from(*ip)),
            })
            .collect();
        if hops.is_empty() {
            return None;
        }
        let at = self.hops.iter().position(|known| *known == hops).unwrap_or_else(|| {
            self.hops.push(hops);
            self.hops.len() - 1
        });
        u16::try_from(at).ok()
    }

    /// Ends the prefixes that end before `next`. Behind each, the enclosing prefix continues.
    fn leave(&mut self, around: &mut Vec<(Prefix, Option<u16>)>, next: u128) {
        while let Some((inner, _)) = around.pop_if(|(inner, _)| inner.last() < next) {
            let outer = around.last().and_then(|(_, way)| *way);
            self.push(inner.last() + 1, outer);
        }
    }

    fn push(&mut self, start: u128, way: Option<u16>) {
        // A longer prefix that starts where a shorter one does.
        if self.ranges.last().is_some_and(|(last, _)| *last == start) {
            self.ranges.pop();
        }
        if self.ranges.last().is_none_or(|(_, last)| *last != way) {
            self.ranges.push((start, way));
        }
    }

    #[inline]
    fn hops(&self, ip: Ip) -> &[Option<Ip>] {
        let behind = self.ranges.partition_point(|(start, _)| *start <= ip.0);
        let way = behind.checked_sub(1).and_then(|at| self.ranges[at].1);
        way.map_or(&[], |way| &self.hops[usize::from(way)])
    }

    fn gateways(&self) -> impl Iterator<Item = Ip> {
        self.hops.iter().flatten().filter_map(|via| *via)
    }
}

impl Underlay {
    /// Creates an empty table whose hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            tunnel: Ways::default(),
            from: Map::with_hasher(hasher(seed)),
            neighbors: Map::with_hasher(hasher(seed)),
        }
    }

    /// Replaces the routes.
    pub fn set_routes(&mut self, routes: &UnderlayRoutes) {
        self.tunnel = Ways::new(&routes.tunnel);
        self.from.clear();
        self.from.extend(routes.from.iter().map(|(from, routes)| (Ip::from(*from), Ways::new(routes))));
    }

    /// Records a next hop's answer. Ignored when the table is full. Returns true when it is news.
    pub fn set_neighbor(&mut self, ip: Ip, mac: MacAddr) -> bool {
        let room = self.neighbors.len() < NEIGHBORS_MAX || self.neighbors.contains_key(&ip);
        room && self.neighbors.insert(ip, mac) != Some(mac)
    }

    /// Forgets a next hop's MAC address.
    pub fn remove_neighbor(&mut self, ip: Ip) {
        self.neighbors.remove(&ip);
    }

    /// The next hop of tunnel packets to `ip`.
    #[inline]
    #[must_use]
    pub fn hop(&self, ip: Ip) -> Hop {
        self.next(&self.tunnel, ip)
    }

    /// The next hop to `ip` of a translated packet with the reality address `from` as its source.
    #[inline]
    #[must_use]
    pub fn hop_from(&self, from: Ip, ip: Ip) -> Hop {
        self.next(self.from.get(&from).unwrap_or(&self.tunnel), ip)
    }

    /// With several next hops, the destination's hash selects one. While that one is not resolved, the next
    /// resolved one.
    #[inline]
    fn next(&self, ways: &Ways, ip: Ip) -> Hop {
        let hops = ways.hops(ip);
        let first = match hops.len() {
            0 => return Hop::NoRoute,
            1 => 0,
            several => spread(ip) % several,
        };
        let in_turn = || hops[first..].iter().chain(&hops[..first]).map(|via| via.unwrap_or(ip));
        match in_turn().find_map(|next| self.neighbors.get(&next)) {
            Some(&mac) => Hop::Mac(mac),
            None => Hop::Unresolved(hops[first].unwrap_or(ip)),
        }
    }

    /// The address on the link that tunnel packets to `ip` are sent to, resolved or not.
    #[must_use]
    pub fn next_address(&self, ip: Ip) -> Option<Ip> {
        let hops = self.tunnel.hops(ip);
        let first = spread(ip).checked_rem(hops.len())?;
        Some(hops[first].unwrap_or(ip))
    }

    /// Whether the MAC address of this next hop is known.
    #[must_use]
    pub fn is_known(&self, next: Ip) -> bool {
        self.neighbors.contains_key(&next)
    }

    /// The gateways of all routes.
    pub fn gateways(&self) -> impl Iterator<Item = Ip> {
        self.tunnel.gateways().chain(self.from.values().flat_map(Ways::gateways))
    }
}

/// Spreads destinations over next hops, equally on every worker and after every start.
const fn spread(ip: Ip) -> usize {
    let mixed = ip.0.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    (mixed >> 96) as usize
}

/// Destinations that translated packets must not have: single addresses, each with a count, and prefixes.
/// Only the configuration writes this table.
#[derive(Clone, Debug)]
pub struct Guard {
    hosts: Map<Ip, u32>,
    prefixes: Vec<Prefix>,
}

impl Guard {
    /// Creates an empty guard; the hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { hosts: Map::with_hasher(hasher(seed)), prefixes: Vec::new() }
    }

    /// Guards an address. Each call needs its [`Guard::remove`].
    pub fn add(&mut self, ip: Ip) {
        *self.hosts.entry(ip).or_insert(0) += 1;
    }

    /// Undoes one [`Guard::add`].
    pub fn remove(&mut self, ip: Ip) {
        if let Some(count) = self.hosts.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                self.hosts.remove(&ip);
            }
        }
    }

    /// Replaces the guarded prefixes.
    pub fn set_prefixes(&mut self, prefixes: &[IpPrefix]) {
        self.prefixes = prefixes.iter().map(|&p| Prefix::new(p)).collect();
    }

    /// Whether a guest may learn that `ip` is guarded: it lies in a prefix of more than one address, or in
    /// the range where metadata services are by convention (169.254.0.0/16). A guarded single address belongs
    /// to a peer or a management host, and a guest that tries every address would find them all.
    #[must_use]
    pub fn may_be_told(&self, ip: Ip) -> bool {
        let link_local = ip.is_v4() && ip.v4_bytes()[..2] == [169, 254];
        link_local || self.prefixes.iter().any(|p| p.mask != u128::MAX && p.contains(ip))
    }

    /// Whether `ip` is guarded.
    #[inline]
    #[must_use]
    pub fn covers(&self, ip: Ip) -> bool {
        self.prefixes.iter().any(|p| p.contains(ip)) || self.hosts.contains_key(&ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn ip(s: &str) -> Ip {
        Ip::from(s.parse::<IpAddr>().unwrap())
    }

    fn prefix(s: &str) -> IpPrefix {
        let (addr, len) = s.split_once('/').unwrap();
        IpPrefix { addr: addr.parse().unwrap(), len: len.parse().unwrap() }
    }

    fn routes(table: &[(&str, &[&str])]) -> Vec<UnderlayRoute> {
        let hop = |hop: &&str| match *hop {
            "link" => UnderlayHop::Link,
            via => UnderlayHop::Gateway(via.parse().unwrap()),
        };
        table
            .iter()
            .map(|(to, hops)| UnderlayRoute { to: prefix(to), hops: hops.iter().map(hop).collect() })
            .collect()
    }

    #[test]
    fn longest_prefix_wins() {
        let mut u = Underlay::new(1);
        u.set_routes(&routes(&[("0.0.0.0/0", &["10.0.0.1"]), ("10.0.0.0/16", &["link"])]).into());
        assert_eq!(u.hop(ip("10.0.0.9")), Hop::Unresolved(ip("10.0.0.9")));
        assert_eq!(u.hop(ip("8.8.8.8")), Hop::Unresolved(ip("10.0.0.1")));
        assert_eq!(u.hop(ip("2001:db8::1")), Hop::NoRoute, "an IPv4 default route is not for IPv6");
        assert!(u.set_neighbor(ip("10.0.0.1"), MacAddr([2; 6])));
        assert!(!u.set_neighbor(ip("10.0.0.1"), MacAddr([2; 6])), "no news");
        assert_eq!(u.hop(ip("8.8.8.8")), Hop::Mac(MacAddr([2; 6])));
    }

    /// Flattened ranges give the same answers as a naive longest-prefix match, for any prefixes, including
    /// nested and adjacent ones and both ends of each family.
    #[test]
    fn flattened_ranges_answer_as_the_naive_match() {
        let mut state = 7_u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..300 {
            let table: Vec<UnderlayRoute> = (0..random(24))
                .map(|n| {
                    // Few different bits, at both ends of an address, so that prefixes nest and touch.
                    let edge = [0_u32, 0xffff_ff00, 0x0a00_0000, 0x0a00_ff00][random(4) as usize];
                    let to = match random(4) {
                        0 => {
                            let addr = (u128::from(edge) << 96 | u128::from(random(4)) << 126).into();
                            IpPrefix { addr: IpAddr::V6(addr), len: random(129) as u8 }
                        }
                        _ => {
                            let addr = (edge | random(256) as u32).into();
                            IpPrefix { addr: IpAddr::V4(addr), len: random(33) as u8 }
                        }
                    };
                    let via = UnderlayHop::Gateway(IpAddr::V4((n as u32 + 1).into()));
                    UnderlayRoute { to, hops: (random(5) > 0).then_some(via).into_iter().collect() }
                })
                .collect();
            let ways = Ways::new(&table);
            for _ in 0..200 {
                let near = table.get(random(24) as usize).map_or(Ip(0), |r| {
                    let prefix = Prefix::new(r.to);
                    let edges = [prefix.value, prefix.last()];
                    Ip(edges[random(2) as usize].wrapping_add(u128::from(random(3))).wrapping_sub(1))
                });
                let naive = table
                    .iter()
                    .map(|r| (Prefix::new(r.to), &r.hops))
                    .filter(|(p, _)| p.contains(near))
                    // Of equal prefixes the last counts.
                    .max_by_key(|(p, _)| p.mask);
                let expected = naive.and_then(|(_, hops)| hops.first().copied());
                let got = ways.hops(near).first().map(|via| {
                    via.map_or(UnderlayHop::Link, |via| {
                        UnderlayHop::Gateway(IpAddr::V4((via.0 as u32).into()))
                    })
                });
                assert_eq!(got, expected, "{near:?} in {table:?}");
            }
        }
    }

    /// A reality address with a policy rule of its own has its own routes; all others have the tunnel's.
    #[test]
    fn routes_by_source() {
        let mut u = Underlay::new(1);
        u.set_routes(&UnderlayRoutes {
            tunnel: routes(&[("0.0.0.0/0", &["10.0.0.1"])]),
            from: alloc::vec![("10.0.0.21".parse().unwrap(), routes(&[("0.0.0.0/0", &["10.0.0.2"])]))],
        });
        assert_eq!(u.hop(ip("8.8.8.8")), Hop::Unresolved(ip("10.0.0.1")));
        assert_eq!(u.hop_from(ip("10.0.0.11"), ip("8.8.8.8")), Hop::Unresolved(ip("10.0.0.1")));
        assert_eq!(u.hop_from(ip("10.0.0.21"), ip("8.8.8.8")), Hop::Unresolved(ip("10.0.0.2")));
        let mut gateways: Vec<Ip> = u.gateways().collect();
        gateways.sort_unstable();
        assert_eq!(gateways, [ip("10.0.0.1"), ip("10.0.0.2")]);
    }

    /// Several next hops share the destinations, and each destination keeps its own. A next hop that does not
    /// answer is skipped.
    #[test]
    fn several_next_hops() {
        let mut u = Underlay::new(1);
        u.set_routes(&routes(&[("0.0.0.0/0", &["10.0.0.1", "10.0.0.2"])]).into());
        let mut share = [0, 0];
        for n in 0..1000_u32 {
            let to = Ip::from(IpAddr::V4((0x0808_0000 + n).into()));
            let Hop::Unresolved(via) = u.hop(to) else { panic!() };
            assert_eq!(u.hop(to), Hop::Unresolved(via));
            share[usize::from(via == ip("10.0.0.2"))] += 1;
        }
        assert!(share.iter().all(|&n| n > 400), "{share:?}");
        u.set_neighbor(ip("10.0.0.2"), MacAddr([2; 6]));
        for n in 0..100_u32 {
            assert_eq!(u.hop(Ip::from(IpAddr::V4((0x0808_0000 + n).into()))), Hop::Mac(MacAddr([2; 6])));
        }
    }

    #[test]
    fn guard() {
        let mut g = Guard::new(1);
        g.add(ip("10.0.0.12"));
        g.add(ip("10.0.0.12"));
        g.remove(ip("10.0.0.12"));
        g.set_prefixes(&[prefix("169.254.169.254/32"), prefix("192.168.0.0/16"), prefix("203.0.113.7/32")]);
        assert!(g.covers(ip("10.0.0.12")) && g.covers(ip("192.168.4.5")) && g.covers(ip("169.254.169.254")));
        assert!(!g.covers(ip("10.0.0.13")) && !g.covers(ip("2001:db8::1")));
        assert!(g.may_be_told(ip("192.168.4.5")) && g.may_be_told(ip("169.254.169.254")));
        assert!(g.covers(ip("203.0.113.7")) && !g.may_be_told(ip("203.0.113.7")), "a single host");
        assert!(!g.may_be_told(ip("10.0.0.12")), "a peer");
        g.remove(ip("10.0.0.12"));
        assert!(!g.covers(ip("10.0.0.12")));
    }
}
