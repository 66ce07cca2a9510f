//! ICMP errors, ICMPv6 errors and TCP resets for the sender of a packet that the switch does not forward.
//!
//! - *Which senders get one* ([`may_be_told`]): RFC 1122 §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e).
//! - *How often*: `table/error_limit.rs`.
//! - *From which address* (`speaker`): a router's address on the network that the packet came from, so the
//!   virtual gateway's. Only errors about a packet towards a floating IP come from the floating IP itself (on
//!   the underlay: its reality address). The provider's NAT carries only that address back to the Internet,
//!   and the sender knows it already. So traceroute from the Internet shows the floating IP once for every
//!   rVM on the way.
//! - *To which destination*: back to the port or peer and the MAC address that the packet came from.
//! - *What it quotes*: the packet as received, before translation, so that its sender recognises it. rVMs on
//!   the way back translate the quote with the rest.
//!
//! On a bridged path no router has an address. The only error there is that a packet is too big; it comes
//! from the packet's destination.

use super::act::{answer_macs, update, write_address};
use super::classify::{Admission, From};
use super::output::TunnelFacts;
use super::parse::{Headers, Net, Part};
use super::route::domain;
use super::trail::{Step, Trail};
use super::verdict::Refusal;
use super::{Onward, Pipeline};
use crate::command::{Location, PeerId};
use crate::frame::{Frame, FramePool};
use crate::table::floating_ip::{Domain, Target};
use crate::time::Instant;
use crate::wire::checksum::{self, Delta};
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;
use crate::wire::{ethernet, icmp, ipv4, ipv6, l4, set_word, word};

/// Maximum length of an answer: RFC 4443 §2.4 (c), behind two VLAN tags.
const ANSWER_MAX: usize = ethernet::HEADER_LEN + 2 * ethernet::TAG_LEN + V6_ERROR_MAX;
/// Maximum length of an IPv4 error in bytes. It quotes as much as fits (RFC 1812 §4.3.2.3).
const V4_ERROR_MAX: usize = 576;
/// Maximum length of an IPv6 error in bytes.
const V6_ERROR_MAX: usize = 1280;
/// Internetwork control (RFC 1812 §4.3.2.5): routers prefer errors to other traffic.
const TOS: u8 = 0xc0;
const HOP_LIMIT: u8 = 64;
/// The source for a router without an IPv4 address of its own (RFC 7600).
const NO_ADDRESS: Ip = Ip::v4([192, 0, 0, 8]);

impl<F> Pipeline<F> {
    /// Tells the sender of a packet why it is not forwarded, if the RFCs allow that. With `routed` the answer
    /// comes from a router, otherwise from the destination.
    #[cold]
    #[allow(clippy::too_many_arguments, reason = "the facts of one frame")]
    pub(super) fn tell<P: FramePool, T: Trail>(
        &mut self,
        now: Instant,
        on: Onward<'_>,
        what: Refusal,
        routed: bool,
        frame: &Frame,
        pool: &mut P,
        trail: &mut T,
    ) {
        let Onward { id, adm, h, .. } = on;
        let bytes = pool.bytes(frame);
        if !may_be_told(h, bytes, what) {
            return;
        }
        if !self.answers.error_limit.take(now, domain(adm), h.src) {
            self.counters.refusals_limited += 1;
            return;
        }
        let speaker = if routed { self.speaker(adm, h) } else { h.dst };
        let station = self.station(adm, h, bytes);
        let mut answer = [0; ANSWER_MAX];
        let len = match what {
            Refusal::Reset => reset(bytes, h, speaker, &mut answer),
            what => error(bytes, h, what, speaker, &mut answer),
        };
        if let Some((mac, _)) = station {
            answer[..6].copy_from_slice(&mac.0);
        }
        let Some(answer) = pool.alloc_from(&answer[..len]) else { return };
        self.counters.originated += 1;
        self.counters.refusals[what.kind()] += 1;
        trail.step(|| Step::Told(what, speaker));
        match adm.from {
            // The answer has the tags that the frame came with.
            From::Port(_) | From::Underlay => self.enqueue(id, answer, pool),
            From::Peer(from, _) => {
                let tunnel = TunnelFacts::ours(h.hash);
                let to = station.map_or(from, |(_, peer)| peer);
                self.send_to_peer(id, to, adm.vni, tunnel, answer, pool);
            }
        }
    }

    /// The source address of a router's answer. Of several addresses, the one nearest to the sender's, as a
    /// host would choose.
    fn speaker(&self, adm: &Admission, h: &Headers) -> Ip {
        let network = match adm.from {
            From::Underlay => None,
            _ => self.tables.networks.at(adm.net),
        };
        let Some(network) = network else { return h.dst };
        if network.gateways.contains(&h.dst) || self.tables.floating.is_mapped(Domain::To(adm.vni), h.dst) {
            return h.dst;
        }
        let family = network.gateways.iter().filter(|g| g.is_v4() == h.src.is_v4());
        let nearest = family.max_by_key(|g| (g.0 ^ h.src.0).leading_zeros());
        let unnumbered =
            || if h.src.is_v4() { NO_ADDRESS } else { Ip::v6(self.tables.switch_mac().link_local()) };
        nearest.copied().unwrap_or_else(unnumbered)
    }

    /// Finds the station with the source address of a packet that another rVM's virtual gateway sent us. That
    /// gateway may not know the station: where a CMS translates, the gateway has only a route. The floating
    /// IP's mapping knows it, if its provider's end is here.
    fn station(&self, adm: &Admission, h: &Headers, bytes: &[u8]) -> Option<(MacAddr, PeerId)> {
        let From::Peer(..) = adm.from else { return None };
        let floating = &self.tables.floating;
        let key = || h.l4_key(bytes, true);
        let outward = floating.lookup(Domain::From(adm.vni), h.src, key)?.ok()?;
        if outward.to != Target::Uplink {
            return None;
        }
        match floating.lookup(Domain::Uplink, outward.address, key)?.ok()?.to {
            Target::Station { vni, mac: Some(mac), location: Some(Location::Peer(peer)) } => {
                (vni == adm.vni).then_some((mac, peer))
            }
            _ => None,
        }
    }
}

/// Whether the sender of a packet may get an error about it.
fn may_be_told(h: &Headers, bytes: &[u8], what: Refusal) -> bool {
    let to_one = !h.eth_dst.is_multicast() && h.src.may_be_told() && h.dst.is_host();
    // The header checksum of a GSO packet is its producer's responsibility.
    let sound = h.net != Net::V4 || h.wire_end != h.end || ipv4::is_sound(h.packet(bytes));
    if !sound || !to_one || h.part == Part::Later || h.icmp_error() || is_redirect(h) {
        return false;
    }
    match what {
        // RFC 792: fragmentation needed and not allowed.
        Refusal::TooBig(_) => h.net != Net::V4 || ipv4::may_not_fragment(h.packet(bytes)),
        // RFC 9293 §3.10.7.1: no reset answers another one.
        Refusal::Reset => {
            h.part == Part::Whole
                && h.l4 != 0
                && bytes[usize::from(h.l4) + l4::TCP_FLAGS_AT] & l4::TCP_RST == 0
        }
        _ => true,
    }
}

/// Whether it is an ICMPv6 redirect, which by its number is not an error (RFC 4443 §2.4 (e.2)).
fn is_redirect(h: &Headers) -> bool {
    h.proto == l4::ICMPV6 && h.l4 != 0 && h.icmp_type() == icmp::V6_REDIRECT
}

/// Writes the Ethernet header of the answer, with the received tags. Returns its length.
fn write_ethernet(frame: &[u8], h: &Headers, out: &mut [u8]) -> usize {
    let (eth, l3) = (usize::from(h.eth), usize::from(h.l3));
    out[..l3 - eth].copy_from_slice(&frame[eth..l3]);
    answer_macs(out, h.eth_src, h.eth_dst);
    l3 - eth
}

/// Writes the IP header for a payload of `len` bytes. Returns its length.
fn write_ip(ip: &mut [u8], h: &Headers, from: Ip, proto: u8, len: usize) -> usize {
    if h.net == Net::V4 {
        let header = &mut ip[..ipv4::HEADER_LEN];
        header.fill(0);
        (header[0], header[1], header[8], header[9]) = (0x45, TOS, HOP_LIMIT, proto);
        set_word(header, ipv4::TOTAL_LEN_AT, (ipv4::HEADER_LEN + len) as u16);
        // An answer is never fragmented, so it needs no identification (RFC 6864 §4.1).
        set_word(header, ipv4::FLAGS_OFFSET_AT, ipv4::DONT_FRAGMENT);
        write_address(header, 0, true, true, from);
        write_address(header, 0, true, false, h.src);
        ipv4::seal(header);
        ipv4::HEADER_LEN
    } else {
        ip[..8].copy_from_slice(&[0x6c, 0, 0, 0, 0, 0, proto, HOP_LIMIT]);
        set_word(ip, ipv6::PAYLOAD_LEN_AT, len as u16);
        write_address(ip, 0, false, true, from);
        write_address(ip, 0, false, false, h.src);
        ipv6::HEADER_LEN
    }
}

/// The type, the code and the four bytes behind the checksum.
fn message_head(what: Refusal, v4: bool, packet: &[u8]) -> [u8; 6] {
    let (kind, code, rest) = match (what, v4) {
        (Refusal::TimeExceeded, true) => (icmp::TIME_EXCEEDED, 0, 0),
        (Refusal::TimeExceeded, false) => (icmp::V6_TIME_EXCEEDED, 0, 0),
        (Refusal::NoRoute, true) => (icmp::UNREACHABLE, icmp::NET, 0),
        (Refusal::NoRoute, false) => (icmp::V6_UNREACHABLE, icmp::V6_NO_ROUTE, 0),
        (Refusal::HostUnreachable, true) => (icmp::UNREACHABLE, icmp::HOST, 0),
        (Refusal::HostUnreachable, false) => (icmp::V6_UNREACHABLE, icmp::V6_ADDRESS, 0),
        (Refusal::Prohibited, true) => (icmp::UNREACHABLE, icmp::PROHIBITED, 0),
        (Refusal::Prohibited, false) => (icmp::V6_UNREACHABLE, icmp::V6_PROHIBITED, 0),
        (Refusal::PortUnreachable | Refusal::Reset, true) => (icmp::UNREACHABLE, icmp::PORT, 0),
        (Refusal::PortUnreachable | Refusal::Reset, false) => (icmp::V6_UNREACHABLE, icmp::V6_PORT, 0),
        (Refusal::ProtocolUnreachable, true) => (icmp::UNREACHABLE, icmp::PROTOCOL, 0),
        (Refusal::ProtocolUnreachable, false) => {
            let named_at = ipv6::upper_layer(packet).map_or(ipv6::NEXT_HEADER_AT, |up| up.named_at);
            (icmp::V6_PARAMETER_PROBLEM, icmp::V6_NEXT_HEADER, named_at as u32)
        }
        (Refusal::TooBig(mtu), true) => (icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED, u32::from(mtu)),
        (Refusal::TooBig(mtu), false) => (icmp::V6_TOO_BIG, 0, u32::from(mtu)),
    };
    let rest = rest.to_be_bytes();
    [kind, code, rest[0], rest[1], rest[2], rest[3]]
}

/// Writes the ICMP error that answers the packet in `frame`. The caller has checked [`may_be_told`]. Returns
/// the length.
fn error(frame: &[u8], h: &Headers, what: Refusal, from: Ip, out: &mut [u8]) -> usize {
    let v4 = h.net == Net::V4;
    let packet = h.packet(frame);
    let (ip_len, most) = if v4 { (ipv4::HEADER_LEN, V4_ERROR_MAX) } else { (ipv6::HEADER_LEN, V6_ERROR_MAX) };
    let quote = &packet[..packet.len().min(most - ip_len - icmp::HEADER_LEN)];
    let len = icmp::HEADER_LEN + quote.len();
    let l2_len = write_ethernet(frame, h, out);
    let proto = if v4 { l4::ICMP } else { l4::ICMPV6 };
    let l4_at = l2_len + write_ip(&mut out[l2_len..], h, from, proto, len);
    let message = &mut out[l4_at..l4_at + len];
    let [kind, code, rest @ ..] = message_head(what, v4, packet);
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    message[4..icmp::HEADER_LEN].copy_from_slice(&rest);
    message[icmp::HEADER_LEN..].copy_from_slice(quote);
    if h.wire_end != h.end {
        // Of a GSO packet, quote only the part that would have been on the wire first.
        let quoted = &mut message[icmp::HEADER_LEN..];
        let wire_len = (h.wire_end - u32::from(h.l3)) as u16;
        if v4 {
            let old = word(quoted, ipv4::TOTAL_LEN_AT);
            set_word(quoted, ipv4::TOTAL_LEN_AT, wire_len);
            update(quoted, ipv4::CHECKSUM_AT, Delta::ZERO.word(old, wire_len));
        } else {
            set_word(quoted, ipv6::PAYLOAD_LEN_AT, wire_len - ipv6::HEADER_LEN as u16);
        }
    }
    let pseudo = if v4 { 0 } else { checksum::pseudo(from, h.src, l4::ICMPV6, len as u32) };
    let sum = u32::from(pseudo) + u32::from(checksum::sum(message));
    set_word(message, l4::ICMP_CHECKSUM_AT, !checksum::fold(sum));
    l4_at + len
}

/// Writes the reset that answers the TCP segment in `frame` (RFC 9293 §3.10.7.1). The caller has checked
/// [`may_be_told`]. Returns the length.
fn reset(frame: &[u8], h: &Headers, from: Ip, out: &mut [u8]) -> usize {
    let l2_len = write_ethernet(frame, h, out);
    let l4_at = l2_len + write_ip(&mut out[l2_len..], h, from, l4::TCP, l4::TCP_HEADER_LEN);
    let segment = &frame[usize::from(h.l4)..];
    let number =
        |at: usize| u32::from_be_bytes([segment[at], segment[at + 1], segment[at + 2], segment[at + 3]]);
    let flags = segment[l4::TCP_FLAGS_AT];
    let data_at = u32::from(segment[l4::TCP_DATA_OFFSET_AT] >> 4) * 4;
    let data_len = u32::from(h.l4_len).saturating_sub(data_at);
    let marks = u32::from(flags & l4::TCP_SYN != 0) + u32::from(flags & l4::TCP_FIN != 0);
    let (seq, ack, flags) = if flags & l4::TCP_ACK != 0 {
        (number(l4::TCP_ACK_AT), 0, l4::TCP_RST)
    } else {
        let ack = number(l4::TCP_SEQ_AT).wrapping_add(data_len).wrapping_add(marks);
        (0, ack, l4::TCP_RST | l4::TCP_ACK)
    };
    let tcp = &mut out[l4_at..l4_at + l4::TCP_HEADER_LEN];
    tcp.fill(0);
    set_word(tcp, 0, h.dport);
    set_word(tcp, 2, h.sport);
    tcp[l4::TCP_SEQ_AT..l4::TCP_SEQ_AT + 4].copy_from_slice(&seq.to_be_bytes());
    tcp[l4::TCP_ACK_AT..l4::TCP_ACK_AT + 4].copy_from_slice(&ack.to_be_bytes());
    (tcp[l4::TCP_DATA_OFFSET_AT], tcp[l4::TCP_FLAGS_AT]) = ((l4::TCP_HEADER_LEN as u8 / 4) << 4, flags);
    let pseudo = checksum::pseudo(from, h.src, l4::TCP, l4::TCP_HEADER_LEN as u32);
    let sum = u32::from(pseudo) + u32::from(checksum::sum(tcp));
    set_word(tcp, l4::TCP_CHECKSUM_AT, !checksum::fold(sum));
    l4_at + l4::TCP_HEADER_LEN
}
