//! Opaque link-local addresses of guests.
//!
//! A link-local address derived from a MAC needs no table. One derived from a secret (RFC 7217), as
//! NetworkManager, macOS and Windows use, cannot be known beforehand: first come, first served (FCFS SAVI,
//! RFC 6620). A guest whose port allows it claims the address by duplicate address detection. If no other
//! station claims the address within [`LINK_LOCAL_TENTATIVE`], the guest may use it until another station
//! does.

use arrayvec::ArrayVec;

use crate::limits::{LINK_LOCAL_TENTATIVE, LINK_LOCALS_MAX};
use crate::time::Instant;
use crate::wire::ip::Ip;

/// The opaque link-local addresses of one port.
///
/// Bounded by [`LINK_LOCALS_MAX`]. A new claim displaces the oldest settled one (another system was installed
/// in the guest). While all claims are tentative, a new one is refused, so that a guest cannot try many.
/// Written by `learn`, by time and by commands; read by the guards.
#[derive(Clone, Debug, Default)]
pub struct LinkLocals(ArrayVec<Claim, LINK_LOCALS_MAX>);

#[derive(Clone, Copy, Debug)]
struct Claim {
    ip: Ip,
    vid: u16,
    since: Instant,
    settled: bool,
}

/// Whether an address may be opaque at all: not an address that people write (`fe80::1`), not one derived
/// from a MAC, and not a reserved one (RFC 5453).
#[must_use]
pub fn is_opaque(ip: Ip) -> bool {
    const PREFIX: u64 = 0xfe80 << 48;
    let (prefix, interface) = ((ip.0 >> 64) as u64, ip.0 as u64);
    let is_written = interface >> 32 == 0;
    let is_of_a_mac = interface >> 24 & 0xffff == 0xfffe;
    let is_reserved = interface >> 7 == 0xfdff_ffff_ffff_ff80 >> 7;
    prefix == PREFIX && !(is_written || is_of_a_mac || is_reserved)
}

impl LinkLocals {
    /// Whether the guest may use the address in this VLAN. It may not in another VLAN, where no station was
    /// asked.
    #[must_use]
    pub fn holds(&self, ip: Ip, vid: u16) -> bool {
        self.0.iter().any(|claim| claim.ip == ip && claim.vid == vid && claim.settled)
    }

    /// Whether the guest uses the address or has claimed it.
    #[must_use]
    pub fn knows(&self, ip: Ip) -> bool {
        self.0.iter().any(|claim| claim.ip == ip)
    }

    /// Whether the port has no claims.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is room for another claim.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.0.is_full() || self.0.iter().any(|claim| claim.settled)
    }

    /// Records a claim. Returns false when the address is already known, or the table is full of tentative
    /// claims.
    pub fn claim(&mut self, now: Instant, ip: Ip, vid: u16) -> bool {
        if self.knows(ip) || !self.has_room() {
            return false;
        }
        if self.0.is_full()
            && let Some(oldest) = self.0.iter().position(|claim| claim.settled)
        {
            self.0.remove(oldest);
        }
        self.0.try_push(Claim { ip, vid, since: now, settled: false }).is_ok()
    }

    /// Settles the claims that are old enough.
    pub fn settle(&mut self, now: Instant) {
        for claim in &mut self.0 {
            claim.settled = claim.settled || now >= claim.since + LINK_LOCAL_TENTATIVE;
        }
    }

    /// Ends the claim to an address that another station of this VLAN uses. A question whether the address is
    /// free (`probes`) ends only a tentative claim (RFC 4862 §5.4.3); the guest has to defend a settled one
    /// (RFC 6620 §3.2.3). Returns whether a claim ended.
    pub fn contest(&mut self, ip: Ip, vid: u16, probes: bool) -> bool {
        let before = self.0.len();
        self.0.retain(|claim| claim.ip != ip || claim.vid != vid || probes && claim.settled);
        self.0.len() < before
    }

    /// Forgets the addresses for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(Ip) -> bool) {
        self.0.retain(|claim| keep(claim.ip));
    }

    /// Every address, and whether the guest may use it already.
    pub fn iter(&self) -> impl Iterator<Item = (Ip, bool)> {
        self.0.iter().map(|claim| (claim.ip, claim.settled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use alloc::vec::Vec;
    use core::net::IpAddr;

    fn ip(text: &str) -> Ip {
        Ip::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn what_looks_opaque() {
        for opaque in ["fe80::4d3f:1122:3344:5566", "fe80::1:0:0:1"] {
            assert!(is_opaque(ip(opaque)), "{opaque}");
        }
        for other in [
            "fe80::",
            "fe80::1",
            "fe80::ffff:ffff",
            "fe80::5054:ff:fe12:3456",
            "fe80::fdff:ffff:ffff:ff80",
            "fe80::fdff:ffff:ffff:ffff",
            "fe80:0:0:1:4d3f:1122:3344:5566",
            "fd01::4d3f:1122:3344:5566",
            "10.0.0.1",
        ] {
            assert!(!is_opaque(ip(other)), "{other}");
        }
    }

    /// A claim takes effect when it has settled. Tentative claims are never displaced; of the settled ones,
    /// the oldest is.
    #[test]
    fn first_come_first_served() {
        let (mut table, mut now) = (LinkLocals::default(), Instant::from_millis(1000));
        let address = |n: usize| Ip(ip("fe80::4d3f:0:0:0").0 + n as u128);
        for n in 0..LINK_LOCALS_MAX {
            assert!(table.claim(now, address(n), 0));
            assert!(!table.claim(now, address(n), 0), "it is known");
            now = now + Duration::from_millis(1);
        }
        assert!(!table.has_room() && !table.claim(now, address(9), 0));
        assert!(table.knows(address(0)) && !table.holds(address(0), 0));
        table.settle(Instant::from_millis(1000) + LINK_LOCAL_TENTATIVE);
        assert_eq!(table.iter().map(|(_, settled)| settled).collect::<Vec<_>>(), [true, false]);
        assert!(table.holds(address(0), 0) && !table.holds(address(0), 5), "in another VLAN");
        assert!(table.claim(now, address(9), 0));
        assert!(!table.knows(address(0)) && table.knows(address(1)) && table.knows(address(9)));
        table.settle(Instant::from_millis(1001) + LINK_LOCAL_TENTATIVE);
        assert!(!table.contest(address(1), 0, true), "it is settled, and its guest's to defend");
        assert!(!table.contest(address(9), 5, false), "in another VLAN");
        assert!(table.contest(address(9), 0, true), "it is tentative");
        assert!(!table.knows(address(9)) && table.has_room());
    }
}
