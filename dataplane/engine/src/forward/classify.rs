//! Decides about frames. `admit` says whether a frame may enter and on which network it is; `classify` says
//! where it goes. Both are pure: they read tables and return values, and `ivctl trace` calls the very same
//! functions.

use super::parse::{Headers, Net, Part};
use super::trail::{Step, Trail};
use super::verdict::{Edits, Out, Responder, Verdict};
use super::{Tables, dhcp, guard, route};
use crate::command::{Location, PeerId, PortId, Role, Vni};
use crate::counters::DropReason;
use crate::table::fdb::FdbKey;
use crate::table::floating_ip::Domain;
use crate::table::network::{NetId, Network};
use crate::table::port::{PortEntry, TagEdit};
use crate::wire::arp;
use crate::wire::icmp;
use crate::wire::ip::Ip;
use crate::wire::l4;
use crate::wire::{ethernet, nd};

/// The side from which a frame came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum From {
    /// A port of this rVM.
    Port(PortId),
    /// A peer, through the tunnel; and whether the peer is a spoke.
    Peer(PeerId, bool),
    /// The underlay: the packet is for the reality address of a floating IP.
    #[default]
    Underlay,
}

/// The result of `admit` for a frame that may enter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Admission {
    /// The side from which the frame came in.
    pub from: From,
    /// The frame's network; meaningless for frames from the underlay.
    pub vni: Vni,
    /// The network's index in its table.
    pub net: NetId,
    /// Maximum number of MAC addresses learned from this side.
    pub fdb_max: u32,
    /// Where its sender is is learned: that is a station, not the virtual gateway (which is everywhere) and not this
    /// switch; and its port learns.
    pub station: bool,
    /// The frame's VLAN in the network, 0 without.
    pub vid: u16,
    /// The edit of the VLAN tag on ingress.
    pub tag: TagEdit,
    /// The inner ECN field to write (RFC 6040 §4.2).
    pub ecn: Option<u8>,
}

/// A frame's FDB keys, hashed once and early, so that the cache lines they lead to arrive in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Probe {
    /// Hash and key of the source.
    pub src: (u64, FdbKey),
    /// Hash and key of the destination.
    pub dst: (u64, FdbKey),
}

impl Probe {
    /// Computes the keys of an admitted frame.
    #[inline]
    #[must_use]
    pub fn new(tables: &Tables, adm: &Admission, h: &Headers) -> Self {
        let key = |mac| {
            let key = FdbKey::new(adm.vni, adm.vid, mac);
            (tables.fdb.hash(key), key)
        };
        Self { src: key(h.eth_src), dst: key(h.eth_dst) }
    }

    /// Prefetches the lines that learning and lookup read.
    #[inline]
    pub fn touch(&self, tables: &Tables) {
        tables.fdb.prefetch(self.src.0);
        tables.fdb.prefetch(self.dst.0);
    }
}

/// Decides whether the frame may enter.
///
/// # Errors
/// The reason why it may not enter.
#[inline]
pub fn admit(
    tables: &Tables,
    id: PortId,
    port: &PortEntry,
    h: &Headers,
    bytes: &[u8],
) -> Result<Admission, DropReason> {
    if !port.config.live {
        return Err(port.why_closed());
    }
    match (port.config.role, h.outer) {
        (Role::Uplink, Some(_)) => admit_tunnel(tables, h),
        (Role::Uplink, None) => Ok(Admission::default()),
        (role, _) => admit_local(tables, id, port, role, h, bytes),
    }
}

#[inline]
fn admit_tunnel(tables: &Tables, h: &Headers) -> Result<Admission, DropReason> {
    let outer = h.outer.ok_or(DropReason::NotOurs)?;
    let id = tables.peers.by_address(outer.src).ok_or(DropReason::UnknownPeer)?;
    let net = tables.networks.id(outer.vni).ok_or(DropReason::UnknownVni)?;
    let network = tables.networks.at(net).ok_or(DropReason::UnknownVni)?;
    if !network.has_member(id) {
        return Err(DropReason::PeerNotInVni);
    }
    check_macs(h)?;
    let spoke = tables.peers.get(id).is_some_and(|p| p.config.spoke);
    let ecn = decapsulated_ecn(outer.ecn, h)?;
    let fdb_max = network.config.fdb_max;
    let from = From::Peer(id, spoke);
    let station = h.eth_src != network.config.router_mac && h.eth_src != tables.switch_mac();
    Ok(Admission { from, vni: outer.vni, net, fdb_max, station, vid: h.vid, tag: TagEdit::Keep, ecn })
}

#[inline]
fn admit_local(
    tables: &Tables,
    id: PortId,
    port: &PortEntry,
    role: Role,
    h: &Headers,
    bytes: &[u8],
) -> Result<Admission, DropReason> {
    let net = port.net.ok_or_else(|| port.why_closed())?;
    let network = tables.networks.at(net).ok_or(DropReason::PortNotLive)?;
    let vni = network.config.vni;
    // Room for two tags, which a CMS may stack behind its door.
    if h.wire_end as usize > usize::from(port.config.mtu) + ethernet::HEADER_LEN + 2 * ethernet::TAG_LEN {
        return Err(DropReason::Giant);
    }
    check_macs(h)?;
    if h.eth_src == network.config.router_mac || h.eth_src == tables.switch_mac() {
        return Err(DropReason::SourceMacOurs);
    }
    let (vid, tag) = port.vlan.ingress(h.tagged, h.vid).ok_or(DropReason::VlanNotAllowed)?;
    // After the VLAN's own tag is removed, a second tag would become the frame's VLAN.
    if h.is_double_tagged() && (tag != TagEdit::Keep || role == Role::Guest && port.vlan.is_set()) {
        return Err(DropReason::VlanNotAllowed);
    }
    if port.config.policy.bpdu_guard && h.eth_dst.is_pvst_group() {
        return Err(DropReason::LinkLocalGroup);
    }
    if role == Role::Guest {
        guard::guest(tables, network, id, port, h, bytes)?;
    }
    let (fdb_max, station) = (port.config.fdb_max, port.config.policy.learning);
    Ok(Admission { from: From::Port(id), vni, net, fdb_max, station, vid, tag, ecn: None })
}

#[inline]
fn check_macs(h: &Headers) -> Result<(), DropReason> {
    if !h.eth_src.is_unicast() {
        return Err(DropReason::SourceMacInvalid);
    }
    if h.eth_dst.is_link_local_group() {
        return Err(DropReason::LinkLocalGroup);
    }
    Ok(())
}

/// Computes the new inner ECN field on decapsulation (RFC 6040 §4.2, figure 4).
#[inline]
fn decapsulated_ecn(outer: u8, h: &Headers) -> Result<Option<u8>, DropReason> {
    const ECT1: u8 = 1;
    const ECT0: u8 = 2;
    const CE: u8 = 3;
    if !matches!(h.net, Net::V4 | Net::V6) {
        return Ok(None);
    }
    match (h.tos & 3, outer) {
        (0, CE) => Err(DropReason::EcnNotCapable),
        (ECT0 | ECT1, CE) => Ok(Some(CE)),
        (ECT0, ECT1) => Ok(Some(ECT1)),
        _ => Ok(None),
    }
}

/// Decides where an admitted frame goes and how it is edited.
#[inline]
pub fn classify(
    tables: &Tables,
    adm: &Admission,
    h: &Headers,
    probe: &Probe,
    bytes: &[u8],
    trail: &mut impl Trail,
) -> Verdict {
    let mut verdict = match adm.from {
        From::Underlay => route::from_underlay(tables, adm, h, bytes, trail),
        _ => on_network(tables, adm, h, probe, bytes, trail),
    };
    verdict.edits.ecn = adm.ecn;
    verdict.edits.tag = adm.tag;
    verdict
}

#[inline]
fn on_network(
    tables: &Tables,
    adm: &Admission,
    h: &Headers,
    probe: &Probe,
    bytes: &[u8],
    trail: &mut impl Trail,
) -> Verdict {
    let vni = adm.vni;
    trail.step(|| Step::Admitted(vni, adm.vid));
    if let From::Peer(peer, _) = adm.from {
        trail.step(|| Step::Tunnel(peer, vni));
    }
    let Some(network) = tables.networks.at(adm.net) else {
        return Verdict::drop(vni, DropReason::UnknownVni);
    };
    let verdict = |out| Verdict { edits: Edits::NONE, out, vni, vid: adm.vid };

    // The virtual gateway and the switch itself exist only in the untagged part of the network.
    if adm.vid == 0 && !h.tagged {
        let ours = h.eth_dst == network.config.router_mac || h.eth_dst == tables.switch_mac();
        if (ours || h.eth_dst.is_multicast())
            && network.config.dhcp.is_some()
            && let From::Port(port) = adm.from
            && let Some(port) = tables.ports.get(port).filter(|p| p.config.role == Role::Guest)
            && let Some(out) = dhcp::decide(network, port, h, bytes)
        {
            return verdict(out);
        }
        let question = h.net == Net::Arp || h.net == Net::V6 && h.proto == l4::ICMPV6;
        if (ours || question)
            && let Some(responder) = resolver(tables, network, h, bytes)
        {
            return verdict(Out::Hairpin(responder));
        }
        if ours {
            return match h.net {
                Net::Arp => verdict(Out::Consume),
                Net::V6 if h.proto == l4::ICMPV6 && h.icmp_type() == icmp::NEIGHBOR_ADVERTISEMENT => {
                    verdict(Out::Consume)
                }
                _ => route::route(tables, network, adm, h, bytes, trail),
            };
        }
    }
    if h.eth_dst.is_multicast() {
        return verdict(Out::Flood);
    }
    match tables.fdb.lookup(probe.dst.0, probe.dst.1) {
        Some(location) => {
            trail.step(|| Step::Fdb(h.eth_dst, location));
            verdict(towards(tables, adm.from, location))
        }
        None => {
            trail.step(|| Step::FdbMiss(h.eth_dst));
            verdict(Out::Flood)
        }
    }
}

/// The output for a destination at `location`. A frame never returns to its origin, and goes from peer to
/// peer only if one of them is a spoke (split horizon).
#[inline]
pub(super) fn towards(tables: &Tables, from: From, location: Location) -> Out {
    match (from, location) {
        (From::Port(port), Location::Port(to)) if port == to => Out::Drop(DropReason::SamePort),
        (From::Peer(peer, spoke), Location::Peer(to)) => {
            let relay = spoke || tables.peers.get(to).is_some_and(|p| p.config.spoke);
            if relay && peer != to { Out::Peer(to) } else { Out::Drop(DropReason::NoDestination) }
        }
        (_, Location::Port(to)) => Out::Port(to),
        (_, Location::Peer(to)) => Out::Peer(to),
    }
}

/// Whether the switch itself answers this ARP request, neighbor solicitation or echo request.
#[inline]
fn resolver(tables: &Tables, network: &Network, h: &Headers, bytes: &[u8]) -> Option<Responder> {
    let vni = network.config.vni;
    let owner = |ip: Ip| {
        if network.gateways.contains(&ip) {
            return Some(network.config.router_mac);
        }
        // Floating IPs whose iVM is here and has no CMS to answer for it.
        tables.floating.is_mapped(Domain::To(vni), ip).then(|| tables.switch_mac())
    };
    match h.net {
        Net::Arp if h.sport == arp::REQUEST && h.src != h.dst => owner(h.dst).map(Responder::Arp),
        Net::V6 if h.proto == l4::ICMPV6 && h.icmp_type() == icmp::NEIGHBOR_SOLICITATION && h.l4 != 0 => {
            if h.ttl != 255 || usize::from(h.l4_len) < 24 {
                return None;
            }
            owner(nd::target(h.segment(bytes))?).map(Responder::Nd)
        }
        Net::V4 | Net::V6 if h.part == Part::Whole && usize::from(h.l4_len) >= icmp::HEADER_LEN => {
            let echo = h.proto == l4::ICMP && h.icmp_type() == icmp::ECHO_REQUEST
                || h.proto == l4::ICMPV6 && h.icmp_type() == icmp::V6_ECHO_REQUEST;
            (echo && h.l4 != 0 && network.gateways.contains(&h.dst)).then_some(Responder::Echo)
        }
        _ => None,
    }
}
