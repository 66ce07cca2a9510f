//! The guards of guest ports decide which frames an iVM with known addresses may send.
//!
//! A guard tests the fields that the receiver acts on, not those that an honest sender happens to set. A DHCP
//! client looks at the destination port, so the source port proves nothing. A host takes a router
//! advertisement behind any extension headers, so the guard reads the whole chain. It drops a frame whose
//! chain it cannot read, because the headers are truncated or lie in a later fragment.
//!
//! Later fragments pass. A receiver needs the first fragment to make a packet, and the first fragment has to
//! contain every byte that the guards read. Even at a receiver that lets fragments overlap, no later fragment
//! replaces those bytes: offsets count units of eight bytes, and the guards read only the first eight behind
//! the IP header. Messages in which they read more (Neighbor Discovery, DHCP questions, packets with
//! extension headers behind the fragment header) are dropped when they come in fragments.
//!
//! SECURITY.md has the table of all guards, each with its test. `memo.rs` and `flow.rs` do not repeat them:
//! their keys contain every byte that decides, and [`reads_payload`] excludes the packets in which a guard
//! reads more.

mod dhcp;
mod nd;

pub use self::dhcp::reads_payload;

use super::Tables;
use super::parse::{Headers, Net, Part};
use crate::command::PortId;
use crate::counters::DropReason;
use crate::table::link_local::is_opaque;
use crate::table::network::Network;
use crate::table::port::PortEntry;
use crate::wire::arp::{self, Arp};
use crate::wire::ip::Ip;
use crate::wire::ipv6::{self, UpperLayer};
use crate::wire::{ethernet, icmp, ipv4, l4, view};

/// Minimum offset of a later IPv6 fragment, in bytes. A station fragments packets that exceed the path's MTU,
/// of 1280 bytes at least. Even if it halves them, a later fragment begins behind this offset. ND messages
/// are smaller, so none of their later fragments pass, and the guard drops the first fragment as ND.
const V6_FRAGMENT_PLACE_MIN: usize = 512;

/// A frame from a guest port, and everything that the guards need to judge it.
struct Guard<'a> {
    tables: &'a Tables,
    network: &'a Network,
    id: PortId,
    port: &'a PortEntry,
    h: &'a Headers,
    bytes: &'a [u8],
}

/// Decides whether the iVM behind the port may send this frame.
///
/// # Errors
/// The reason why it may not.
pub fn guest(
    tables: &Tables,
    network: &Network,
    id: PortId,
    port: &PortEntry,
    h: &Headers,
    bytes: &[u8],
) -> Result<(), DropReason> {
    if !port.binds_mac(h.eth_src) {
        return Err(DropReason::SpoofedMac);
    }
    if h.eth_dst.is_control_group() {
        return Err(DropReason::LinkLocalGroup);
    }
    let guard = Guard { tables, network, id, port, h, bytes };
    match h.net {
        Net::V4 => guard.v4(),
        Net::V6 => guard.v6(),
        Net::Arp => guard.arp(),
        Net::Other => guard.other(),
        Net::Malformed => Err(DropReason::IpMalformed),
    }
}

/// Whether a guest port with bound addresses may claim this link-local address now. The address has to be
/// opaque, and this switch must not know another station that has it.
#[must_use]
pub fn is_claimable(tables: &Tables, network: &Network, id: PortId, port: &PortEntry, ip: Ip) -> bool {
    port.takes_claims()
        && is_opaque(ip)
        && (port.link_locals.knows(ip) || port.link_locals.has_room())
        && !network.gateways.contains(&ip)
        && !tables.ports.iter().any(|(other, p)| other != id && p.net == port.net && p.is_owner(ip))
}

impl Guard<'_> {
    /// Whether the iVM may use the address. It may never use a gateway address or another port's link-local
    /// address, even if a bound prefix contains it.
    fn owns(&self, ip: Ip) -> bool {
        (self.port.binds_ip(ip) || self.has_claimed(ip))
            && !self.network.gateways.contains(&ip)
            && !(ip.is_v6_link_local() && self.is_anothers(ip))
    }

    fn has_claimed(&self, ip: Ip) -> bool {
        !self.port.link_locals.is_empty()
            && self
                .port
                .vlan
                .ingress(self.h.tagged, self.h.vid)
                .is_some_and(|(vid, _)| self.port.link_locals.holds(ip, vid))
    }

    /// Claims do not count: a guest could then silence a station by claiming its address.
    fn is_anothers(&self, ip: Ip) -> bool {
        let others = || self.tables.ports.iter().filter(|(id, p)| *id != self.id && p.net == self.port.net);
        !self.port.is_configured_owner(ip) && others().any(|(_, p)| p.is_configured_owner(ip))
    }

    /// Whether the iVM may ask if the address is free: it already has the address, or may claim it.
    fn may_probe(&self, ip: Ip) -> bool {
        self.owns(ip) || is_claimable(self.tables, self.network, self.id, self.port, ip)
    }

    /// Receivers learn the sender's addresses from a request and from a reply; RFC 826 has no use for the
    /// target's. A station that probes an address from 0.0.0.0 takes it away from another that also probes it
    /// (RFC 5227 §2.1.1).
    fn arp(&self) -> Result<(), DropReason> {
        let arp = view::<Arp>(self.bytes, usize::from(self.h.l3)).ok_or(DropReason::IpMalformed)?;
        let probes = self.h.src.is_unspecified() && arp.operation.get() == arp::REQUEST;
        let spoken_of = if probes { self.h.dst } else { self.h.src };
        if self.port.binds_mac(arp.sender_mac) && self.owns(spoken_of) {
            Ok(())
        } else {
            Err(DropReason::SpoofedNeighbor)
        }
    }

    /// Drops frames in which other stations may find IP and this switch does not: LLC frames (some stations
    /// accept RFC 1042 on Ethernet, with any length), and frames with more than two tags.
    fn other(&self) -> Result<(), DropReason> {
        match self.h.ethertype {
            tag if ethernet::is_tag(tag) || ethernet::TYPE_OLD_STAGS.contains(&tag) => {
                Err(DropReason::VlanNotAllowed)
            }
            ..ethernet::TYPE_MIN | ethernet::TYPE_LONG_LLC => Err(DropReason::LlcGuard),
            // Some receivers (bonding in Linux) accept these whatever group they are sent to.
            ethernet::TYPE_SLOW | ethernet::TYPE_LLDP => Err(DropReason::LinkLocalGroup),
            ethernet::TYPE_RARP => self.rarp(),
            _ => Ok(()),
        }
    }

    /// Permits the reverse request for the guest's own MAC, by which QEMU announces a migrated guest. Drops
    /// replies, which would give another station an address (RFC 903).
    fn rarp(&self) -> Result<(), DropReason> {
        let arp = view::<Arp>(self.bytes, usize::from(self.h.l3)).filter(|arp| arp.is_ipv4_over_ethernet());
        let arp = arp.ok_or(DropReason::IpMalformed)?;
        let asks = arp.operation.get() == arp::REVERSE_REQUEST;
        let own = [arp.sender_mac, arp.target_mac].iter().all(|&mac| self.port.binds_mac(mac));
        let sender = Ip::v4(arp.sender_ip);
        if asks && own && (sender.is_unspecified() || self.owns(sender)) {
            Ok(())
        } else {
            Err(DropReason::SpoofedNeighbor)
        }
    }

    fn v4(&self) -> Result<(), DropReason> {
        let h = self.h;
        self.upper_header()?;
        // Without an address, a station searches for a DHCP server and joins groups (RFC 3376 §4.2.13), and
        // sends nothing else.
        let from_nowhere = || match h.proto {
            l4::UDP => {
                h.part == Part::Whole && (h.sport, h.dport) == (l4::DHCP_CLIENT_PORT, l4::DHCP_SERVER_PORT)
            }
            l4::IGMP => h.part == Part::Whole,
            _ => false,
        };
        let own = if h.src.is_unspecified() { from_nowhere() } else { self.owns(h.src) };
        if !own {
            return Err(DropReason::SpoofedIp);
        }
        if h.part == Part::Later {
            return Ok(());
        }
        match h.proto {
            l4::UDP => self.dhcp(),
            l4::ICMP if matches!(h.icmp_type(), icmp::REDIRECT | icmp::V4_ROUTER_ADVERTISEMENT) => {
                Err(DropReason::RaGuard)
            }
            l4::IGMP => self.igmp(),
            l4::PIM => Err(DropReason::QuerierGuard),
            _ => Ok(()),
        }
    }

    /// Drops queries and router messages. The station with the lowest address that sends queries becomes the
    /// segment's querier. If it then stops, bridges that snoop stop forwarding multicast. They send all of it
    /// to a station that claims to be a multicast router (RFC 4541 §2.1.1, RFC 4286).
    fn igmp(&self) -> Result<(), DropReason> {
        const MEMBERSHIP_QUERY: u8 = 0x11;
        const DVMRP: u8 = 0x13;
        const PIM_V1: u8 = 0x14;
        const ROUTER_ADVERTISEMENT: u8 = 0x30;
        let at = usize::from(self.h.l3);
        let header_len = view::<ipv4::Ipv4>(self.bytes, at).and_then(ipv4::Ipv4::header_len);
        let kind = header_len.filter(|_| self.h.l4_len > 0).and_then(|len| self.bytes.get(at + len));
        match kind {
            Some(&(MEMBERSHIP_QUERY | DVMRP | PIM_V1 | ROUTER_ADVERTISEMENT)) => {
                Err(DropReason::QuerierGuard)
            }
            Some(_) => Ok(()),
            None => Err(DropReason::IpMalformed),
        }
    }

    fn v6(&self) -> Result<(), DropReason> {
        let h = self.h;
        let chain = self.chain()?;
        // RFC 7112: the first fragment has the whole chain. Honest stations have no headers behind the
        // fragment header.
        if chain.is_some_and(|chain| chain.behind_fragment) {
            return Err(DropReason::FragmentGuard);
        }
        if h.part == Part::Later {
            return match chain {
                _ if !self.owns(h.src) => Err(DropReason::SpoofedIp),
                Some(chain) if chain.place < V6_FRAGMENT_PLACE_MIN => Err(DropReason::FragmentGuard),
                _ => Ok(()),
            };
        }
        self.upper_header()?;
        let fragmented = chain.is_some_and(|chain| chain.fragment_header);
        if h.is_icmpv6() {
            return self.icmpv6(fragmented);
        }
        if !self.owns(h.src) {
            return Err(DropReason::SpoofedIp);
        }
        match h.proto {
            l4::UDP => self.dhcp6(fragmented),
            l4::PIM => Err(DropReason::QuerierGuard),
            _ => Ok(()),
        }
    }

    /// Finds the upper layer. `None` when it follows the fixed header.
    fn chain(&self) -> Result<Option<UpperLayer>, DropReason> {
        let packet = self.bytes.get(usize::from(self.h.l3)..).unwrap_or_default();
        if self.h.part == Part::Whole && packet.get(ipv6::NEXT_HEADER_AT) == Some(&self.h.proto) {
            return Ok(None);
        }
        ipv6::upper_layer(packet).map(Some).ok_or(DropReason::IpMalformed)
    }

    /// Requires the header that identifies the upper-layer message.
    fn upper_header(&self) -> Result<(), DropReason> {
        let h = self.h;
        let needed = matches!(h.proto, l4::TCP | l4::UDP | l4::ICMP | l4::ICMPV6);
        match h.part {
            Part::First if needed && h.l4 == 0 => Err(DropReason::FragmentGuard),
            Part::Whole if needed && h.l4 == 0 => Err(DropReason::IpMalformed),
            _ => Ok(()),
        }
    }

    /// Whether the frame stands for several packets on the wire. The guards can read only the first of these.
    const fn is_super_frame(&self) -> bool {
        self.h.wire_end < self.h.end
    }
}
