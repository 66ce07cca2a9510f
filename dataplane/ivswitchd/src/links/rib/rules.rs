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
    /// The fields of tunnel packets.
    pub const fn tunnel(uplink: &'a Uplink, source: IpAddr, port: u16) -> Self {
        Self { uplink, source, tunnel: Some(port) }
    }

    /// The fields of packets of any protocol.
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

    /// Whether the source address is IPv4.
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
    /// Continue at the rule with this priority.
    Goto(u32),
    /// Do nothing: continue with the next rule.
    Nothing,
    /// Unreachable, blackhole, prohibit.
    Refuse,
}

/// A policy rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The family whose packets the rule is for.
    pub is_v4: bool,
    /// The rule's place among the rules.
    pub priority: u32,
    /// `not`: the rule is for the packets that it does not match.
    pub inverted: bool,
    /// The rule matches a field that we do not understand, or whose value in our packets we do not know: it is skipped.
    pub opaque: bool,
    /// Source addresses.
    pub from: Net,
    /// Destinations.
    pub to: Net,
    /// The interface where a packet came in: `lo` for our own.
    pub iif: Option<String>,
    /// The device that a packet is bound to.
    pub oif: Option<String>,
    /// Mark, and its bits that count. Our packets have no mark.
    pub mark: (u32, u32),
    /// User ids; the kernel's own packets belong to root, and so do ours.
    pub users: Option<(u32, u32)>,
    /// Transport protocol.
    pub protocol: Option<u8>,
    /// Source ports.
    pub sport: Option<(u16, u16)>,
    /// Destination ports.
    pub dport: Option<(u16, u16)>,
    /// Routes with a prefix of this length or shorter do not count.
    pub suppress_len: Option<u32>,
    /// Routes out of devices of this group do not count.
    pub suppress_group: Option<u32>,
    /// The rule's action.
    pub action: Action,
}

impl Rule {
    /// A rule that sends all packets of a family to a table.
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

    /// Whether the rule is for packets to all of `to`. If it matches only some of these destinations, the
    /// lookup for a longer prefix applies it.
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

    /// `None`: the rule matches only some packets. It is then skipped, as the destination alone does not
    /// decide.
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

    /// Whether a route with a prefix of this length is suppressed.
    pub fn suppresses(&self, seen: &Seen<'_>, len: u8) -> bool {
        let len = u32::from(if self.is_v4 { len - 96 } else { len });
        self.suppress_len.is_some_and(|max| len <= max)
            || self.suppress_group.is_some_and(|group| group == seen.uplink().group)
    }
}
