//! The first stage reads a frame's bytes once, outer and inner, into [`Headers`]. Later stages need not check
//! lengths.

use crate::command::{UplinkConfig, Vni};
use crate::counters::DropReason;
use crate::table::floating_ip::L4Key;
use crate::tunnel;
use crate::wire::arp::{self, Arp};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::icmp;
use crate::wire::ip::Ip;
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::l4;
use crate::wire::mac::MacAddr;
use crate::wire::{view, word};

/// The kind of a frame's network layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Net {
    /// Neither IP nor ARP: switched by MAC only.
    #[default]
    Other,
    /// The EtherType is that of IP or ARP, but the packet is malformed. Still switched by MAC (a switch is
    /// transparent), but never routed, translated or accepted from a bound guest.
    Malformed,
    /// ARP for IPv4 over Ethernet.
    Arp,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Which part of an IP packet the frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Part {
    /// The whole packet.
    #[default]
    Whole,
    /// The first fragment.
    First,
    /// A later fragment, without a transport header.
    Later,
}

/// The outer headers of a tunnel packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// The sender's VTEP address.
    pub src: Ip,
    /// The network.
    pub vni: Vni,
    /// The ECN field.
    pub ecn: u8,
    /// The hop limit.
    pub ttl: u8,
}

/// The headers that the pipeline needs. Offsets count from the first byte received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Headers {
    /// Source IP; ARP: the sender's.
    pub src: Ip,
    /// Destination IP; ARP: the target's.
    pub dst: Ip,
    /// The tunnel that the frame came through.
    pub outer: Option<Outer>,
    /// Destination MAC.
    pub eth_dst: MacAddr,
    /// Source MAC.
    pub eth_src: MacAddr,
    /// Offset of the (inner) Ethernet header: number of bytes to remove.
    pub eth: u16,
    /// Offset of the network layer.
    pub l3: u16,
    /// Offset of the transport layer; 0 when it cannot be read.
    pub l4: u16,
    /// End of the frame: less than its length when the underlay padded it.
    pub end: u32,
    /// End of the longest frame on the wire: the segments of a GSO packet are shorter than the packet.
    pub wire_end: u32,
    /// Length of the transport segment in bytes (IP payload after extension headers).
    pub l4_len: u16,
    /// EtherType after the tags.
    pub ethertype: u16,
    /// VID of the outermost tag, 0 without.
    pub vid: u16,
    /// Source port; for ICMP, type and code.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// The network layer.
    pub net: Net,
    /// Which part of the packet the frame holds.
    pub part: Part,
    /// Whether there is a VLAN tag.
    pub tagged: bool,
    /// Transport protocol.
    pub proto: u8,
    /// Hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Hash of the flow. Equal for all packets and fragments of a flow, over both layers of its headers.
    pub hash: u32,
}

impl Headers {
    /// ICMP or ICMPv6 type.
    #[inline]
    #[must_use]
    pub const fn icmp_type(&self) -> u8 {
        (self.sport >> 8) as u8
    }

    /// Whether the packet is IP and its headers may be rewritten.
    #[inline]
    #[must_use]
    pub const fn routable(&self) -> bool {
        matches!(self.net, Net::V4 | Net::V6)
            && (self.l4 != 0
                || matches!(self.part, Part::Later)
                || !matches!(self.proto, l4::TCP | l4::UDP | l4::ICMP | l4::ICMPV6))
    }

    /// The IP packet in the frame `bytes`, without the bytes behind it; empty if the frame is not IP.
    #[must_use]
    pub fn packet<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let rest = bytes.get(usize::from(self.l3)..).unwrap_or_default();
        let len = match self.net {
            Net::V4 => usize::from(word(rest, ipv4::TOTAL_LEN_AT)),
            Net::V6 => ipv6::HEADER_LEN + usize::from(word(rest, ipv6::PAYLOAD_LEN_AT)),
            Net::Other | Net::Malformed | Net::Arp => 0,
        };
        rest.get(..len).unwrap_or_default()
    }

    /// The transport segment; empty when it cannot be read.
    #[must_use]
    pub fn segment<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let at = usize::from(self.l4);
        let len = if at == 0 { 0 } else { usize::from(self.l4_len) };
        bytes.get(at..at + len).unwrap_or_default()
    }

    /// Whether it is an ICMPv6 message of this packet that can be read.
    #[inline]
    #[must_use]
    pub const fn is_icmpv6(&self) -> bool {
        matches!(self.net, Net::V6) && self.proto == l4::ICMPV6 && self.l4 != 0
    }

    /// Whether a second VLAN tag follows the first.
    #[inline]
    #[must_use]
    pub const fn is_double_tagged(&self) -> bool {
        self.tagged
            && (ethernet::is_tag(self.ethertype)
                || self.l3 as usize > self.eth as usize + ethernet::HEADER_LEN + ethernet::TAG_LEN)
    }

    /// Whether it is an ICMP or ICMPv6 error, which quotes another packet.
    #[inline]
    #[must_use]
    pub const fn icmp_error(&self) -> bool {
        self.l4 != 0
            && match self.proto {
                l4::ICMP => icmp::is_error(self.icmp_type()),
                l4::ICMPV6 => icmp::is_v6_error(self.icmp_type()),
                _ => false,
            }
    }

    /// The transport port that selects the mapping for a packet: its destination port towards a floating IP,
    /// or, with `outbound`, its source port from one. An ICMP error belongs to the packet that it quotes,
    /// which went the other way.
    #[must_use]
    pub fn l4_key(&self, bytes: &[u8], outbound: bool) -> L4Key {
        // Behind a fragment header the protocol may be that of a further extension.
        if self.part == Part::Later
            && (matches!(self.proto, l4::TCP | l4::UDP)
                || self.net == Net::V6 && ipv6::is_extension(self.proto))
        {
            return L4Key::Fragment;
        }
        let port = |proto, sport, dport| match proto {
            l4::TCP | l4::UDP => L4Key::Port(proto, if outbound { sport } else { dport }),
            _ => L4Key::Other,
        };
        if self.icmp_error() {
            return match quoted(bytes, usize::from(self.l4) + icmp::HEADER_LEN) {
                Some(q) if q.l4 != 0 => port(q.proto, q.dport, q.sport),
                _ => L4Key::Other,
            };
        }
        if self.l4 == 0 { L4Key::Other } else { port(self.proto, self.sport, self.dport) }
    }
}

/// The packet quoted in an ICMP error. Only its first bytes need to be present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// Source address.
    pub src: Ip,
    /// Destination address.
    pub dst: Ip,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header; 0 when even the ports are missing.
    pub l4: usize,
    /// Transport protocol.
    pub proto: u8,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// Reads the packet quoted at `at`.
#[must_use]
pub fn quoted(bytes: &[u8], at: usize) -> Option<Quoted> {
    let (src, dst, proto, l4_at, later) = match bytes.get(at)? >> 4 {
        4 => {
            let ip: &Ipv4 = view(bytes, at)?;
            let later = ip.flags_offset.get() & ipv4::OFFSET_MASK != 0;
            (ip.src_ip(), ip.dst_ip(), ip.protocol, at + ip.header_len()?, later)
        }
        6 => {
            let ip: &Ipv6 = view(bytes, at)?;
            let up = ipv6::upper_layer(&bytes[at..])?;
            (ip.src_ip(), ip.dst_ip(), up.protocol, at + up.offset, up.later_fragment)
        }
        _ => return None,
    };
    let ports_there = matches!(proto, l4::TCP | l4::UDP) && !later && bytes.len() >= l4_at + 4;
    let icmp_there = matches!(proto, l4::ICMP | l4::ICMPV6) && !later && bytes.len() >= l4_at + 4;
    let (sport, dport) = if ports_there { (word(bytes, l4_at), word(bytes, l4_at + 2)) } else { (0, 0) };
    let l4 = if ports_there || icmp_there { l4_at } else { 0 };
    Some(Quoted { src, dst, l3: at, l4, proto, sport, dport })
}

/// Reads the Ethernet frame that starts at `at` into `h`, and sets every field of `h`.
///
/// # Errors
/// [`DropReason::Runt`] when the frame is shorter than an Ethernet header.
#[inline]
pub fn ethernet(bytes: &[u8], at: usize, h: &mut Headers) -> Result<(), DropReason> {
    if plain_ipv4(bytes, at, h) { Ok(()) } else { any_ethernet(bytes, at, h) }
}

/// Reads the common case at fixed offsets: no tag, IPv4 without options, a whole TCP or UDP packet.
#[inline]
fn plain_ipv4(bytes: &[u8], at: usize, h: &mut Headers) -> bool {
    let Some(b) = bytes.get(at..).and_then(|frame| frame.first_chunk::<42>()) else { return false };
    let total_len = usize::from(word(b, 16));
    let plain = word(b, 12) == ethernet::TYPE_IPV4 && b[14] == 0x45 && word(b, 20) & ipv4::FRAGMENT_MASK == 0;
    let l4_len = total_len.wrapping_sub(ipv4::HEADER_LEN);
    let proto = b[23];
    let fits = at + ethernet::HEADER_LEN + total_len <= bytes.len() && total_len >= ipv4::HEADER_LEN;
    let whole = match proto {
        l4::UDP => l4_len >= l4::UDP_HEADER_LEN,
        l4::TCP => l4_len >= l4::TCP_HEADER_LEN,
        _ => false,
    };
    if !(plain && fits && whole) {
        return false;
    }
    *h = Headers {
        src: Ip::v4([b[26], b[27], b[28], b[29]]),
        dst: Ip::v4([b[30], b[31], b[32], b[33]]),
        outer: None,
        eth_dst: MacAddr([b[0], b[1], b[2], b[3], b[4], b[5]]),
        eth_src: MacAddr([b[6], b[7], b[8], b[9], b[10], b[11]]),
        eth: at as u16,
        l3: (at + ethernet::HEADER_LEN) as u16,
        l4: (at + ethernet::HEADER_LEN + ipv4::HEADER_LEN) as u16,
        end: bytes.len() as u32,
        wire_end: bytes.len() as u32,
        l4_len: l4_len as u16,
        ethertype: ethernet::TYPE_IPV4,
        vid: 0,
        sport: word(b, 34),
        dport: word(b, 36),
        net: Net::V4,
        part: Part::Whole,
        tagged: false,
        proto,
        ttl: b[22],
        tos: b[15],
        hash: 0,
    };
    h.hash = flow_hash(h);
    true
}

/// Reads every other frame.
fn any_ethernet(bytes: &[u8], at: usize, h: &mut Headers) -> Result<(), DropReason> {
    let eth: &Ethernet = view(bytes, at).ok_or(DropReason::Runt)?;
    *h = Headers {
        eth_dst: eth.dst,
        eth_src: eth.src,
        eth: at as u16,
        end: bytes.len() as u32,
        wire_end: bytes.len() as u32,
        ethertype: eth.ethertype.get(),
        ..Headers::default()
    };
    let mut l3 = at + ethernet::HEADER_LEN;
    if ethernet::is_tag(h.ethertype) {
        let Some(tag) = bytes.get(l3..l3 + ethernet::TAG_LEN) else { return Err(DropReason::Runt) };
        h.tagged = true;
        h.vid = u16::from_be_bytes([tag[0], tag[1]]) & 0xfff;
        h.ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        l3 += ethernet::TAG_LEN;
        // The switch treats a second tag as payload. The flow hash should still cover the headers behind it.
        if ethernet::is_tag(h.ethertype)
            && let Some(tag) = bytes.get(l3..l3 + ethernet::TAG_LEN)
        {
            h.ethertype = u16::from_be_bytes([tag[2], tag[3]]);
            l3 += ethernet::TAG_LEN;
        }
    }
    h.l3 = l3 as u16;
    match h.ethertype {
        ethernet::TYPE_IPV4 => ipv4(bytes, l3, h),
        ethernet::TYPE_IPV6 => ipv6(bytes, l3, h),
        ethernet::TYPE_ARP => arp(bytes, l3, h),
        _ => {}
    }
    h.hash = flow_hash(h);
    Ok(())
}

/// Reads a frame of the underlay into `h`: a tunnel packet to our VTEP (then all fields but `outer` describe
/// the inner frame) or a packet to another of our addresses.
///
/// # Errors
/// The defect of the outer headers.
#[inline]
pub fn uplink(bytes: &[u8], uplink: &UplinkConfig, vtep: Ip, h: &mut Headers) -> Result<(), DropReason> {
    ethernet(bytes, 0, h)?;
    if h.eth_dst != uplink.mac {
        return Err(DropReason::NotOurMac);
    }
    let tunnel = h.proto == l4::UDP && h.dst == vtep && matches!(h.net, Net::V4 | Net::V6);
    if !tunnel || h.part == Part::Whole && h.dport != uplink.tunnel_port {
        return Ok(());
    }
    match h.part {
        Part::Whole => {}
        // The tunnel never sends fragments. A later fragment may belong to a floating IP's packet.
        Part::First if h.dport == uplink.tunnel_port => return Err(DropReason::OuterFragment),
        Part::First | Part::Later => return Ok(()),
    }
    let inside = tunnel::open(bytes, usize::from(h.l4), usize::from(h.l4_len), uplink.reserved_bits)?;
    let outer = Outer { src: h.src, vni: inside.vni, ecn: h.tos & 3, ttl: h.ttl };
    ethernet(&bytes[..inside.end], inside.start, h).map_err(|_| DropReason::InnerMalformed)?;
    h.outer = Some(outer);
    Ok(())
}

#[inline]
fn ipv4(bytes: &[u8], at: usize, h: &mut Headers) {
    h.net = Net::Malformed;
    let Some(ip) = view::<Ipv4>(bytes, at) else { return };
    let Some(header_len) = ip.header_len() else { return };
    let total_len = usize::from(ip.total_len.get());
    if at + total_len > bytes.len() {
        return;
    }
    (h.src, h.dst, h.ttl, h.tos, h.proto) = (ip.src_ip(), ip.dst_ip(), ip.ttl, ip.tos, ip.protocol);
    h.net = Net::V4;
    let flags = ip.flags_offset.get();
    h.part = match flags & ipv4::FRAGMENT_MASK {
        0 => Part::Whole,
        f if f & ipv4::OFFSET_MASK == 0 => Part::First,
        _ => Part::Later,
    };
    transport(bytes, at + header_len, total_len - header_len, h);
}

#[inline]
fn ipv6(bytes: &[u8], at: usize, h: &mut Headers) {
    h.net = Net::Malformed;
    let Some(ip) = view::<Ipv6>(bytes, at) else { return };
    let total_len = ipv6::HEADER_LEN + usize::from(ip.payload_len.get());
    if !ip.is_v6() || at + total_len > bytes.len() {
        return;
    }
    let Some(up) = ipv6::upper_layer(&bytes[at..at + total_len]) else { return };
    if up.offset > total_len {
        return;
    }
    (h.src, h.dst, h.ttl, h.tos, h.proto) = (ip.src_ip(), ip.dst_ip(), ip.hop_limit, ip.class(), up.protocol);
    h.net = Net::V6;
    h.part = match (up.fragment, up.later_fragment) {
        (_, true) => Part::Later,
        (true, false) => Part::First,
        (false, false) => Part::Whole,
    };
    transport(bytes, at + up.offset, total_len - up.offset, h);
}

#[inline]
fn transport(bytes: &[u8], at: usize, len: usize, h: &mut Headers) {
    h.l4_len = len as u16;
    let needed = match h.proto {
        l4::TCP => l4::TCP_HEADER_LEN,
        l4::UDP => l4::UDP_HEADER_LEN,
        l4::ICMP | l4::ICMPV6 => 4,
        _ => return,
    };
    if h.part != Part::Later && len >= needed {
        h.l4 = at as u16;
        h.sport = word(bytes, at);
        if needed > 4 {
            h.dport = word(bytes, at + 2);
        }
    }
}

fn arp(bytes: &[u8], at: usize, h: &mut Headers) {
    h.net = Net::Malformed;
    if let Some(arp) = view::<Arp>(bytes, at)
        && arp.is_ipv4_over_ethernet()
        && bytes.len() >= at + arp::LEN
    {
        h.net = Net::Arp;
        (h.src, h.dst) = (Ip::v4(arp.sender_ip), Ip::v4(arp.target_ip));
        h.sport = arp.operation.get();
    }
}

/// Spreads flows over source ports and queues. No table uses this hash, so it need not be keyed.
#[inline]
fn flow_hash(h: &Headers) -> u32 {
    let fold = |x: u128| x as u64 ^ (x >> 64) as u64;
    let (src, dst) = match h.net {
        Net::V4 | Net::V6 => (fold(h.src.0), fold(h.dst.0).rotate_left(32)),
        _ => (h.eth_src.to_u64(), h.eth_dst.to_u64()),
    };
    let has_ports = h.part == Part::Whole && matches!(h.proto, l4::TCP | l4::UDP);
    mix(src, dst, h.proto, if has_ports { u32::from(h.sport) << 16 | u32::from(h.dport) } else { 0 })
}

/// The [`Headers::hash`] of a whole TCP or UDP packet over IPv4, from its fields as numbers.
#[inline]
#[must_use]
pub fn flow_hash_v4(src: u32, dst: u32, proto: u8, ports: u32) -> u32 {
    const MAPPED: u64 = 0xffff << 32;
    mix(MAPPED | u64::from(src), (MAPPED | u64::from(dst)).rotate_left(32), proto, ports)
}

/// The [`Headers::hash`] of a plain packet (`memo.rs`) that starts with its Ethernet header.
#[inline]
#[must_use]
pub fn plain_hash(bytes: &[u8]) -> u32 {
    let Some(head) = bytes.first_chunk::<{ super::memo::PLAIN_LEN }>() else { return 0 };
    let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    flow_hash_v4(number(26), number(30), head[23], number(34))
}

#[inline]
fn mix(src: u64, dst: u64, proto: u8, ports: u32) -> u32 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let x = src.wrapping_mul(K) ^ dst ^ u64::from(proto) << 56 ^ u64::from(ports);
    ((x ^ x >> 32).wrapping_mul(K) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        /// The common case reads the same headers as the general one, only faster.
        #[test]
        fn plain_is_any(proto in prop_oneof![Just(6u8), Just(17)], len in 0u16..80, edits in proptest::collection::vec((0usize..60, any::<u8>()), 0..4), at in 0usize..3) {
            let mut bytes: Vec<u8> = (0..at + 60).map(|i| i as u8).collect();
            bytes[at + 12..at + 16].copy_from_slice(&[8, 0, 0x45, 0]);
            bytes[at + 16..at + 18].copy_from_slice(&len.to_be_bytes());
            bytes[at + 20..at + 24].copy_from_slice(&[0x40, 0, 64, proto]);
            for (i, value) in edits {
                bytes[at + i] = value;
            }
            let (mut plain, mut any) = (Headers { ttl: 1, ..Headers::default() }, Headers::default());
            let read = any_ethernet(&bytes, at, &mut any);
            prop_assert_eq!(ethernet(&bytes, at, &mut plain), read);
            if read.is_ok() {
                prop_assert_eq!(plain, any);
            }
        }
    }
}
