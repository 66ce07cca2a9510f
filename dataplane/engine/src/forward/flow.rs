//! A verdict as a cache under the fast path can repeat it: the exact key of a flow, and everything that is
//! done with its packets. Pure: [`compose`] looks at what the walk decided about one packet and says what the
//! walk would decide about the next, or that it cannot be said.
//!
//! The key holds every byte of the packet that the walk reads to decide, so the verdict is a function of it
//! and of the tables. What may differ from packet to packet is either copied (ECN, lengths), or tested by the
//! cache, which then leaves the packet to the walk: hop limits that run out, packets over [`Action::len_max`],
//! unfinished checksums, congestion marks on the outer header, TCP's SYN.

use super::classify::{Admission, From, Probe};
use super::output::TunnelFacts;
use super::parse::{Headers, Net, Part};
use super::verdict::{Out, Verdict};
use super::{Tables, guard};
use crate::command::{FloatingId, Location, PeerId, PortId, Role, Vni};
use crate::limits::OUTER_TTL;
use crate::table::port::TagEdit;
use crate::wire::checksum::{self, Delta};
use crate::wire::mac::MacAddr;
use crate::wire::{ethernet, ipv4, l4, vxlan};

/// Bytes of an outer header over IPv4.
pub const OUTER_LEN: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + l4::UDP_HEADER_LEN + vxlan::HEADER_LEN;

/// What a packet of the flow looks like: whole, untagged, IPv4 without options, TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Where it comes in.
    pub port: PortId,
    /// The tunnel it comes through: outer source and network. What follows is then about the inner frame.
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

/// What is done with it. The order is that of `act`: decapsulate (when the key has a tunnel), translate,
/// route, encapsulate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Action {
    /// Where it leaves.
    pub out: PortId,
    /// Longest (inner) Ethernet frame.
    pub len_max: u32,
    /// Its port hands over unfinished checksums without a mark: a packet whose transport checksum equals
    /// this plus its transport length, folded, has to be looked at.
    pub unmarked: Option<u32>,
    /// The source (true) or destination address becomes this one, with its difference for checksums.
    pub nat: Option<(bool, [u8; 4], Delta)>,
    /// New destination and source MAC, and one hop less.
    pub route: Option<(MacAddr, MacAddr)>,
    /// The outer header to put in front.
    pub outer: Option<Outer>,
}

/// An outer header, complete but for its lengths, ECN field (the inner one's) and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// Its bytes, with zeroes for what is missing.
    pub bytes: [u8; OUTER_LEN],
    /// One's complement sum of its IPv4 header as it stands.
    pub sum: u32,
    /// The hop limit is what came in, less one (a relayed packet); otherwise it is in `bytes`.
    pub relayed: bool,
}

/// What a hit counts for, besides the ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tally {
    /// The peer it comes from.
    pub peer_rx: Option<PeerId>,
    /// The peer its outer header is addressed to.
    pub peer_tx: Option<PeerId>,
    /// The floating IP, and whether outbound.
    pub floating: Option<(FloatingId, bool)>,
    /// Who sends it is a station there, which stays known as long as it is heard.
    pub station: Option<Location>,
}

/// A decided flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Which packets.
    pub key: Key,
    /// What is done with them.
    pub action: Action,
    /// What they count for.
    pub tally: Tally,
}

/// The flow of a packet that the walk has just decided about; `None` when its next packet needs the walk.
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
    // A guard has judged more of it than the key holds.
    let is_judged = ingress.config.role == Role::Guest && h.proto == l4::UDP;
    if is_judged && guard::reads_payload(h.sport, h.dport) {
        return None;
    }
    let tunnel = match h.outer {
        // What comes with VNI 0 is between switches.
        Some(outer) if outer.vni.get() == 0 => return None,
        Some(outer) if usize::from(h.eth) == OUTER_LEN && outer.src.is_v4() => {
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
    // A sender that is not known where this packet comes from has something to be learned.
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
            // A port whose segments are merged wants them to come up, unless super-frames stay whole on the way.
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
            let ready = header.len == OUTER_LEN && !header.checksum && peer.next.mac().is_some();
            if !ready || !tables.ports.get(uplink)?.config.live {
                return None;
            }
            let room = usize::from(header.mtu).checked_sub(OUTER_LEN)?;
            len_max = len_max.min(room + ethernet::HEADER_LEN);
            let facts = TunnelFacts::new(adm, h, verdict);
            let relayed = h.outer.is_some() && verdict.edits.route.is_none();
            let outer = Outer::new(*header.bytes.first_chunk()?, verdict.vni, facts.entropy(), relayed);
            (uplink, Some(outer), Some(direct))
        }
        _ => return None,
    };
    // Its frames are counted or copied one by one.
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
    fn new(mut bytes: [u8; OUTER_LEN], vni: Vni, entropy: u16, relayed: bool) -> Self {
        const TTL_AT: usize = ethernet::HEADER_LEN + 8;
        const UDP_AT: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
        bytes[TTL_AT] = if relayed { 0 } else { OUTER_TTL };
        bytes[UDP_AT..UDP_AT + 2].copy_from_slice(&entropy.to_be_bytes());
        bytes[OUTER_LEN - 4..].copy_from_slice(&(vni.get() << 8).to_be_bytes());
        let sum = u32::from(checksum::sum(&bytes[ethernet::HEADER_LEN..UDP_AT]));
        Self { bytes, sum, relayed }
    }
}
