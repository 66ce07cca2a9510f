//! The underlay as the kernel sees it: routes through the uplink, next hops, and where NATed packets may not go.

use alloc::vec::Vec;

use super::{Map, hasher};
use crate::command::{IpPrefix, UnderlayRoute};
use crate::limits::NEIGHBORS_MAX;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// Maps an underlay destination to its next hop and a next hop to its MAC address. A mirror of the kernel's
/// tables, written by commands only. An rVM has a handful of routes, so the longest-prefix match is a
/// walk over a list sorted by length.
#[derive(Debug)]
pub struct Underlay {
    routes: Vec<(Prefix, Option<Ip>)>,
    neighbors: Map<Ip, MacAddr>,
}

/// A destination's next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// Known.
    Mac(MacAddr),
    /// The kernel has to resolve this address first.
    Unresolved(Ip),
    /// No route through the uplink.
    NoRoute,
}

/// A prefix as mask and value over [`Ip`]'s 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    mask: u128,
    value: u128,
}

impl Prefix {
    /// From its configured form.
    #[must_use]
    pub fn new(prefix: IpPrefix) -> Self {
        let bits = u32::from(prefix.len) + if prefix.addr.is_ipv4() { 96 } else { 0 };
        let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
        // The family of a zero-length IPv4 prefix is in the mapped part, which the mask covers.
        Self { mask, value: Ip::from(prefix.addr).0 & mask }
    }

    /// Whether `ip` lies inside.
    #[inline]
    #[must_use]
    pub const fn contains(self, ip: Ip) -> bool {
        ip.0 & self.mask == self.value
    }
}

impl Underlay {
    /// An empty table whose hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { routes: Vec::new(), neighbors: Map::with_hasher(hasher(seed)) }
    }

    /// Replaces the routes.
    pub fn set_routes(&mut self, routes: &[UnderlayRoute]) {
        self.routes = routes.iter().map(|r| (Prefix::new(r.to), r.via.map(Ip::from))).collect();
        self.routes.sort_by_key(|(p, _)| core::cmp::Reverse(p.mask));
    }

    /// A next hop answered. Ignored when the table is full. True when that is news.
    pub fn set_neighbor(&mut self, ip: Ip, mac: MacAddr) -> bool {
        let room = self.neighbors.len() < NEIGHBORS_MAX || self.neighbors.contains_key(&ip);
        room && self.neighbors.insert(ip, mac) != Some(mac)
    }

    /// A next hop is gone.
    pub fn remove_neighbor(&mut self, ip: Ip) {
        self.neighbors.remove(&ip);
    }

    /// The next hop towards `ip`.
    #[inline]
    #[must_use]
    pub fn hop(&self, ip: Ip) -> Hop {
        let Some(&(_, via)) = self.routes.iter().find(|(p, _)| p.contains(ip)) else { return Hop::NoRoute };
        let next = via.unwrap_or(ip);
        match self.neighbors.get(&next) {
            Some(&mac) => Hop::Mac(mac),
            None => Hop::Unresolved(next),
        }
    }

    /// The gateways of all routes.
    pub fn gateways(&self) -> impl Iterator<Item = Ip> {
        self.routes.iter().filter_map(|(_, via)| *via)
    }
}

/// Destinations that no translated packet may have (design section 5, "Guard"): single addresses, each as
/// often as it was added, and prefixes. Configuration only.
#[derive(Debug)]
pub struct Guard {
    hosts: Map<Ip, u32>,
    prefixes: Vec<Prefix>,
}

impl Guard {
    /// Guards nothing; the hash is keyed by `seed`.
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

    #[test]
    fn longest_prefix_wins() {
        let mut u = Underlay::new(1);
        let gw = "10.0.0.1".parse().unwrap();
        u.set_routes(&[
            UnderlayRoute { to: prefix("0.0.0.0/0"), via: Some(gw) },
            UnderlayRoute { to: prefix("10.0.0.0/16"), via: None },
        ]);
        assert_eq!(u.hop(ip("10.0.0.9")), Hop::Unresolved(ip("10.0.0.9")));
        assert_eq!(u.hop(ip("8.8.8.8")), Hop::Unresolved(ip("10.0.0.1")));
        assert_eq!(u.hop(ip("2001:db8::1")), Hop::NoRoute, "an IPv4 default route is not for IPv6");
        assert!(u.set_neighbor(ip("10.0.0.1"), MacAddr([2; 6])));
        assert!(!u.set_neighbor(ip("10.0.0.1"), MacAddr([2; 6])), "no news");
        assert_eq!(u.hop(ip("8.8.8.8")), Hop::Mac(MacAddr([2; 6])));
    }

    #[test]
    fn guard() {
        let mut g = Guard::new(1);
        g.add(ip("10.0.0.12"));
        g.add(ip("10.0.0.12"));
        g.remove(ip("10.0.0.12"));
        g.set_prefixes(&[prefix("169.254.169.254/32"), prefix("192.168.0.0/16")]);
        assert!(g.covers(ip("10.0.0.12")) && g.covers(ip("192.168.4.5")) && g.covers(ip("169.254.169.254")));
        assert!(!g.covers(ip("10.0.0.13")) && !g.covers(ip("2001:db8::1")));
        g.remove(ip("10.0.0.12"));
        assert!(!g.covers(ip("10.0.0.12")));
    }
}
