//! Policy rules: the fields of our packets that they match, and their actions.

use std::net::IpAddr;

use super::{Net, Uplink};

/// UDP source ports of tunnel packets: one per flow, from the dynamic range.
const ENTROPY: (u16, u16) = (0xc000, 0xffff);

const UDP: u8 = 17;

/// The fields of our packets that rules can match.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    uplink: &'a Uplink,
    source: IpAddr,
    /// The tunnel's UDP port; `None`: any packet of a floating IP.
    tunnel: Option<u16>,
}

impl<'a> Seen<'a> {
    /// Tunnel packets.
    pub const fn tunnel(uplink: &'a Uplink, source: IpAddr, port: u16) -> Self {
        Self { uplink, source, tunnel: Some(port) }
    }

    /// Packets of any protocol.
    pub const fn plain(uplink: &'a Uplink, source: IpAddr) -> Self {
        Self { uplink, source, tunnel: None }
    }

    /// The uplink.
    pub const fn uplink(&self) -> &'a Uplink {
        self.uplink
    }

    /// The source address.
    pub fn source(&self) -> Net {
        Net::new(self.source, 128)
    }

    /// Its family.
    pub const fn source_is_v4(&self) -> bool {
        self.source.is_ipv4()
    }
}

/// The action of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Look into this table.
    Table(u32),
    /// Look into the table of the uplink's VRF.
    Vrf,
    /// Go on at the rule of this priority.
    Goto(u32),
    /// Nothing: go on.
    Nothing,
    /// Unreachable, blackhole, prohibit.
    Refuse,
}

/// A policy rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The family whose packets it is for.
    pub is_v4: bool,
    /// Its place among the rules.
    pub priority: u32,
    /// `not`: it is for the packets that it does not match.
    pub inverted: bool,
    /// It matches a field that we do not know of our packets, or do not understand: it is left out.
    pub opaque: bool,
    /// Source addresses.
    pub from: Net,
    /// Destinations.
    pub to: Net,
    /// Where a packet came in: `lo` for our own.
    pub iif: Option<String>,
    /// The device it is bound to.
    pub oif: Option<String>,
    /// Mark and the bits of it that count. Our packets have none.
    pub mark: (u32, u32),
    /// Users; the kernel's own packets are root's, and so are ours.
    pub users: Option<(u32, u32)>,
    /// Transport protocol.
    pub protocol: Option<u8>,
    /// Source ports.
    pub sport: Option<(u16, u16)>,
    /// Destination ports.
    pub dport: Option<(u16, u16)>,
    /// Routes with a prefix this long or shorter do not count.
    pub suppress_len: Option<u32>,
    /// Routes out of devices of this group do not count.
    pub suppress_group: Option<u32>,
    /// Its action.
    pub action: Action,
}

impl Rule {
    /// A rule for all packets of a family.
    pub fn to_table(is_v4: bool, priority: u32, table: u32) -> Self {
        Self {
            is_v4,
            priority,
            inverted: false,
            opaque: false,
            from: Net::any(is_v4),
            to: Net::any(is_v4),
            iif: None,
            oif: None,
            mark: (0, 0),
            users: None,
            protocol: None,
            sport: None,
            dport: None,
            suppress_len: None,
            suppress_group: None,
            action: Action::Table(table),
        }
    }

    /// Whether it is for packets to all of `to`. Its answer about some destinations inside belongs to another prefix.
    pub fn matches(&self, seen: &Seen<'_>, to: Net) -> bool {
        if self.is_v4 != seen.source_is_v4() || self.opaque {
            return false;
        }
        let Some(ports) = self.matches_ports(seen) else { return false };
        let uplink = seen.uplink();
        let bound_to =
            |oif: &str| oif == uplink.name || uplink.vrf.as_ref().is_some_and(|(vrf, _)| oif == vrf);
        let matches = ports
            && self.from.holds(seen.source())
            && self.to.holds(to)
            && self.iif.as_deref().is_none_or(|iif| iif == "lo")
            && self.oif.as_deref().is_none_or(bound_to)
            && self.mark.0 & self.mark.1 == 0
            && self.users.is_none_or(|(first, _)| first == 0)
            && (self.action != Action::Vrf || uplink.vrf.is_some());
        matches != self.inverted
    }

    /// `None`: some packets, and others not. Then the rule is left out, as what it decides is not the destination's.
    fn matches_ports(&self, seen: &Seen<'_>) -> Option<bool> {
        if self.protocol.is_none() && self.sport.is_none() && self.dport.is_none() {
            return Some(true);
        }
        let port = seen.tunnel?;
        let source = match self.sport {
            None => true,
            Some((first, last)) if first <= ENTROPY.0 && last >= ENTROPY.1 => true,
            Some((_, last)) if last < ENTROPY.0 => false,
            Some(_) => return None,
        };
        let dest = self.dport.is_none_or(|(first, last)| first <= port && port <= last);
        Some(source && dest && self.protocol.is_none_or(|protocol| protocol == UDP))
    }

    /// Whether a route that was found with a prefix of this length does not count.
    pub fn suppresses(&self, seen: &Seen<'_>, len: u8) -> bool {
        let len = u32::from(if self.is_v4 { len - 96 } else { len });
        self.suppress_len.is_some_and(|max| len <= max)
            || self.suppress_group.is_some_and(|group| group == seen.uplink().group)
    }
}
