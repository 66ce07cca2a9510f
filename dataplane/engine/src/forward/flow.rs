//! Turns a verdict into a form that the kernel offload can repeat: the exact key of a flow, and all edits of
//! its packets. Pure: from the verdict about one packet, [`compose`] derives the pipeline's verdict about the
//! next one, or finds that it cannot.
//!
//! The key holds every byte of the packet that the pipeline reads to decide, so the verdict is a function of
//! the key and of the tables. Properties that may differ from packet to packet are either copied (ECN,
//! lengths) or tested by the offload, which then passes the packet to the pipeline: hop limits that run out,
//! packets over [`Action::len_max`], unfinished checksums, congestion marks on the outer header, TCP's SYN.

use super::classify::{Admission, From, Probe};
use super::output::TunnelFacts;
use super::parse::{Headers, Net, Part};
use super::verdict::{Out, Verdict};
use super::{Tables, guard};
use crate::command::{FloatingId, Location, PeerId, PortId, Role, Vni};
use crate::table::port::TagEdit;
use crate::tunnel::{OUTER_V4_LEN, UDP_AT_V4};
use crate::wire::checksum::{self, Delta};
use crate::wire::mac::MacAddr;
use crate::wire::{ethernet, ipv4, l4};

/// The key of a flow. Its packets are whole, untagged, IPv4 without options, TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// The ingress port.
    pub port: PortId,
    /// The tunnel that the packet comes through: outer source and network. The other fields then describe the
    /// inner frame.
    pub tunnel: Option<([u8; 4], Vni)>,
    /// Destination MAC.
    pub eth_dst: MacAddr,
    /// Source MAC.
    pub eth_src: MacAddr,
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
    /// TCP or UDP.
    pub proto: u8,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// The edits and the output. The order is that of `act`: decapsulate (when the key has a tunnel), translate,
/// route, encapsulate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Action {
    /// The output port.
    pub out: PortId,
    /// Maximum length of the (inner) Ethernet frame.
    pub len_max: u32,
    /// Set when the ingress port delivers unfinished checksums without a mark. A packet whose transport
    /// checksum equals this value plus its transport length, folded, goes to the pipeline.
    pub unmarked: Option<u32>,
    /// Replaces the source (true) or destination address by this one. The difference corrects the checksums.
    pub nat: Option<(bool, [u8; 4], Delta)>,
    /// Sets the destination and source MAC, and decrements the hop limit.
    pub route: Option<(MacAddr, MacAddr)>,
    /// The outer header to prepend.
    pub outer: Option<Outer>,
}

/// An outer header, complete except for its lengths, ECN field (copied from the inner one) and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// The header's bytes, with zeroes for the missing fields.
    pub bytes: [u8; OUTER_V4_LEN],
    /// One's complement sum of the IPv4 header in `bytes`.
    pub sum: u32,
    /// The packet is relayed: its outer hop limit is the received one, less one. Otherwise the hop limit is
    /// in `bytes`.
    pub relayed: bool,
}

/// The objects, other than ports, whose counters a hit increases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tally {
    /// The peer that the packet comes from.
    pub peer_rx: Option<PeerId>,
    /// The peer that the outer header is addressed to.
    pub peer_tx: Option<PeerId>,
    /// The floating IP, and whether outbound.
    pub floating: Option<(FloatingId, bool)>,
    /// The sender is a station there. Its FDB entry stays alive while packets arrive.
    pub station: Option<Location>,
}

/// A flow with its verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Which packets belong to the flow.
    pub key: Key,
    /// How they are edited and where they go.
    pub action: Action,
    /// Which counters they increase.
    pub tally: Tally,
}

/// Composes the flow of a packet that the pipeline has just classified. `None` when the flow's next packet
/// needs the pipeline.
#[must_use]
pub fn compose(
    tables: &Tables,
    id: PortId,
    adm: &Admission,
    h: &Headers,
    probe: &Probe,
    verdict: &Verdict,
) -> Option<Flow> {
    let plain = h.net == Net::V4
        && h.part == Part::Whole
        && !h.tagged
        && matches!(h.proto, l4::TCP | l4::UDP)
        && usize::from(h.l3) == usize::from(h.eth) + ethernet::HEADER_LEN
        && usize::from(h.l4) == usize::from(h.l3) + ipv4::HEADER_LEN;
    let untouched = adm.vid == 0 && adm.tag == TagEdit::Keep && adm.ecn.is_none() && verdict.vid == 0;
    if !plain || !untouched {
        return None;
    }
    let ingress = tables.ports.get(id)?;
    // A guard has read more of the packet than the key holds.
    let is_judged = ingress.config.role == Role::Guest && h.proto == l4::UDP;
    if is_judged && guard::reads_payload(h.sport, h.dport) {
        return None;
    }
    let tunnel = match h.outer {
        // Packets with VNI 0 are between switches.
        Some(outer) if outer.vni.get() == 0 => return None,
        Some(outer) if usize::from(h.eth) == OUTER_V4_LEN && outer.src.is_v4() => {
            Some((outer.src.v4_bytes(), outer.vni))
        }
        None if h.eth == 0 => None,
        _ => return None,
    };
    if ingress.needs_walk() {
        return None;
    }
    let mut len_max = match adm.from {
        From::Port(_) => usize::from(ingress.config.mtu) + ethernet::HEADER_LEN + 2 * ethernet::TAG_LEN,
        From::Peer(..) | From::Underlay => usize::from(u16::MAX),
    };
    // The FDB has yet to learn a sender that it does not know on this side.
    let station = match adm.from {
        From::Port(port) if adm.station => Some(Location::Port(port)),
        From::Peer(peer, _) if adm.station => Some(Location::Peer(peer)),
        _ => None,
    };
    if station.is_some() && tables.fdb.lookup(probe.src.0, probe.src.1) != station {
        return None;
    }
    let (out, outer, peer_tx) = match verdict.out {
        Out::Port(to) => {
            let port = tables.ports.get(to)?;
            let uplink = port.config.role == Role::Uplink;
            let member = port.config.vni == Some(verdict.vni) && port.vlan.egress(0) == Some(TagEdit::Keep);
            // If the output port coalesces segments, they have to reach the pipeline, unless GSO packets stay
            // whole on the way.
            let torn = port.caps.tx_tso && !ingress.caps.tx_tso;
            if !port.config.live || torn || !uplink && !member {
                return None;
            }
            len_max = len_max.min(usize::from(port.config.mtu) + ethernet::HEADER_LEN);
            (to, None, None)
        }
        Out::Peer(to) => {
            let uplink = tables.uplink.as_ref()?.port;
            let direct = tables.peers.get(to)?.direct?;
            let peer = tables.peers.get(direct)?;
            let header = &peer.outer;
            let ready = header.len == OUTER_V4_LEN
                && !header.checksum
                && !header.inherits()
                && peer.next.mac().is_some();
            if !ready || !tables.ports.get(uplink)?.config.live {
                return None;
            }
            let room = usize::from(header.mtu).checked_sub(OUTER_V4_LEN)?;
            len_max = len_max.min(room + ethernet::HEADER_LEN);
            let facts = TunnelFacts::new(adm, h, verdict);
            let relayed = h.outer.is_some() && verdict.edits.route.is_none();
            let ttl = if relayed { 0 } else { header.ttl };
            let bytes = header.of_flow(verdict.vni, facts.entropy(), ttl)?;
            let outer = Outer::new(bytes, relayed);
            (uplink, Some(outer), Some(direct))
        }
        _ => return None,
    };
    // The output's policy counts or copies frames one by one.
    if tables.ports.get(out)?.needs_walk() {
        return None;
    }
    let edits = &verdict.edits;
    let nat = match edits.nat {
        Some(nat) if nat.address.is_v4() => Some((nat.source, nat.address.v4_bytes(), nat.delta)),
        Some(_) => return None,
        None => None,
    };
    let floating = match (&edits.nat, edits.route) {
        (Some(nat), _) => Some((nat.id, nat.source)),
        (None, Some(route)) => route.id.map(|id| (id, true)),
        (None, None) => None,
    };
    let addresses = u32::from(checksum::fold(h.src.sum())) + u32::from(checksum::fold(h.dst.sum()));
    Some(Flow {
        key: Key {
            port: id,
            tunnel,
            eth_dst: h.eth_dst,
            eth_src: h.eth_src,
            src: h.src.v4_bytes(),
            dst: h.dst.v4_bytes(),
            proto: h.proto,
            sport: h.sport,
            dport: h.dport,
        },
        action: Action {
            out,
            len_max: u32::try_from(len_max).ok()?,
            unmarked: ingress.caps.rx_csum_unmarked.then_some(addresses + u32::from(h.proto)),
            nat,
            route: edits.route.map(|route| (route.dst, route.src)),
            outer,
        },
        tally: Tally {
            peer_rx: if let From::Peer(peer, _) = adm.from { Some(peer) } else { None },
            peer_tx,
            floating,
            station,
        },
    })
}

impl Outer {
    fn new(bytes: [u8; OUTER_V4_LEN], relayed: bool) -> Self {
        let sum = u32::from(checksum::sum(&bytes[ethernet::HEADER_LEN..UDP_AT_V4]));
        Self { bytes, sum, relayed }
    }
}
