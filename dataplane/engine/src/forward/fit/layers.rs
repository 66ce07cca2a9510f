//! Finds the innermost packet of a frame whose sender has tunnels of its own.
//!
//! A host that runs an overlay (a vxlan device over its NIC) leaves the checksum and the segmentation of the *inner* packet
//! to the NIC. The switch has to find that packet to finish it, and has to know every length and checksum around it to
//! segment it. Operators choose the UDP ports of tunnels freely, so a tunnel is recognised by its bytes: a header
//! counts as a tunnel's only if a well-formed packet follows.

use arrayvec::ArrayVec;

use crate::limits::{MPLS_LABELS_MAX, NESTED_MAX};
use crate::tunnel::vxlan;
use crate::wire::checksum::{fold, sum};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{ethernet, l4, sctp, view, word};

/// Protocols of IP that carry another packet.
mod carries {
    pub const IPV4: u8 = 4;
    pub const IPV6: u8 = 41;
    pub const GRE: u8 = 47;
    pub const ETHER_IP: u8 = 97;
    pub const MPLS: u8 = 137;
    /// The following value is of segment routing (RFC 8986 §9.1).
    pub const ETHERNET: u8 = 143;
}

/// Protocol type of an Ethernet frame in GRE or Geneve (RFC 1701, RFC 8926 §3.4).
const TYPE_BRIDGED: u16 = 0x6558;
/// Protocol type of a mirrored frame in GRE (ERSPAN); eight bytes precede it where GRE has sequence numbers.
const TYPE_ERSPAN: u16 = 0x88be;

/// Bottom-of-stack bit, in the third byte of an MPLS label (RFC 3032 §2.1).
const LAST_LABEL: u8 = 1;

/// A whole IP packet: the offsets of its parts, and the addresses that its transport checksum covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Offset of the packet's end.
    pub end: usize,
    /// Transport protocol.
    pub proto: u8,
    /// Whether it is IPv4; otherwise it is IPv6.
    pub v4: bool,
    /// One's complement sum of source and last destination.
    addresses: u16,
}

/// The checksum by which a tunnel header covers the bytes behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cover {
    /// No checksum.
    None,
    /// UDP's checksum, unless it is zero.
    Udp,
    /// GRE's checksum (RFC 2784 §2.3).
    Gre,
}

/// A packet that surrounds another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shell {
    /// The surrounding packet.
    pub packet: Packet,
    /// The checksum in its tunnel header.
    pub cover: Cover,
}

/// The packets that surround another, from outside in.
pub type Shells = ArrayVec<Shell, NESTED_MAX>;

impl Packet {
    /// Reads the packet at `at` in a frame that ends at `end`. `None` for malformed packets and for fragments.
    #[must_use]
    pub fn read(bytes: &[u8], at: usize, ethertype: u16, end: usize) -> Option<Self> {
        let bytes = bytes.get(..end)?;
        match ethertype {
            ethernet::TYPE_IPV4 => Self::read_v4(bytes, at),
            ethernet::TYPE_IPV6 => Self::read_v6(bytes, at),
            labelled if ethernet::TYPE_MPLS.contains(&labelled) => Self::behind_labels(bytes, at),
            _ => None,
        }
    }

    fn read_v4(bytes: &[u8], at: usize) -> Option<Self> {
        let ip: &Ipv4 = view(bytes, at)?;
        let l4 = at + ip.header_len()?;
        let end = at + usize::from(ip.total_len.get());
        let whole = end <= bytes.len() && ip.flags_offset.get() & ipv4::FRAGMENT_MASK == 0;
        let addresses = fold(ip.src_ip().sum() + ip.dst_ip().sum());
        whole.then_some(Self { l3: at, l4, end, proto: ip.protocol, v4: true, addresses })
    }

    fn read_v6(bytes: &[u8], at: usize) -> Option<Self> {
        let ip: &Ipv6 = view(bytes, at)?;
        let end = at + ipv6::HEADER_LEN + usize::from(ip.payload_len.get());
        let packet = bytes.get(at..end).filter(|_| ip.is_v6())?;
        let up = ipv6::upper_layer(packet).filter(|up| !up.fragment && up.offset <= packet.len())?;
        let dst = ipv6::routed_to(packet).unwrap_or(ip.dst_ip());
        let addresses = fold(u32::from(fold(ip.src_ip().sum())) + u32::from(fold(dst.sum())));
        Some(Self { l3: at, l4: at + up.offset, end, proto: up.protocol, v4: false, addresses })
    }

    /// Reads a packet whose family only its own version field tells.
    fn by_version(bytes: &[u8], at: usize) -> Option<Self> {
        match bytes.get(at)? >> 4 {
            4 => Self::read_v4(bytes, at),
            6 => Self::read_v6(bytes, at),
            _ => None,
        }
    }

    fn behind_labels(bytes: &[u8], at: usize) -> Option<Self> {
        let labels = bytes.get(at..)?.as_chunks::<4>().0;
        let last = labels.iter().take(MPLS_LABELS_MAX).position(|label| label[2] & LAST_LABEL != 0)?;
        Self::by_version(bytes, at + 4 * (last + 1))
    }

    fn in_ethernet(bytes: &[u8], at: usize) -> Option<Self> {
        let (l3, ethertype) = super::network_layer(bytes.get(at..)?)?;
        Self::read(bytes, at + l3, ethertype, bytes.len())
    }

    /// Length of the transport segment, in bytes.
    #[must_use]
    pub const fn l4_len(&self) -> usize {
        self.end - self.l4
    }

    /// Sum of the pseudo-header for a transport segment of this length.
    #[must_use]
    pub fn pseudo(&self, l4_len: usize) -> u16 {
        fold(u32::from(self.addresses) + u32::from(self.proto) + l4_len as u32)
    }

    /// Offset of the checksum in the transport header, if the header is complete.
    #[must_use]
    pub fn checksum_at(&self) -> Option<usize> {
        let (at, header_len) = match self.proto {
            l4::TCP => (l4::TCP_CHECKSUM_AT, l4::TCP_HEADER_LEN),
            l4::UDP => (l4::UDP_CHECKSUM_AT, l4::UDP_HEADER_LEN),
            sctp::PROTOCOL => (sctp::CHECKSUM_AT, sctp::HEADER_LEN),
            _ => return None,
        };
        (self.l4_len() >= header_len).then_some(at)
    }

    /// The packet inside this one, if this one is a tunnel's, and the checksum in the tunnel header.
    #[must_use]
    pub fn carried(&self, bytes: &[u8]) -> Option<(Self, Cover)> {
        let bytes = bytes.get(..self.end)?;
        let packet = match self.proto {
            l4::UDP => return Some((carried_by_udp(bytes, self.l4)?, Cover::Udp)),
            carries::GRE => return carried_by_gre(bytes, self.l4),
            carries::IPV4 => Self::read_v4(bytes, self.l4)?,
            carries::IPV6 => Self::read_v6(bytes, self.l4)?,
            // RFC 3378 §3: version 3, and a header of two bytes.
            carries::ETHER_IP if bytes.get(self.l4)? >> 4 == 3 => Self::in_ethernet(bytes, self.l4 + 2)?,
            carries::MPLS => Self::behind_labels(bytes, self.l4)?,
            carries::ETHERNET => Self::in_ethernet(bytes, self.l4)?,
            _ => return None,
        };
        Some((packet, Cover::None))
    }
}

/// The packet in a UDP datagram whose header is at `at`.
fn carried_by_udp(bytes: &[u8], at: usize) -> Option<Packet> {
    let start = at + l4::UDP_HEADER_LEN;
    let whole = |packet: &Packet| packet.end == bytes.len();
    in_vxlan(bytes, start)
        .or_else(|| in_geneve(bytes, start))
        .or_else(|| in_gue(bytes, start))
        .or_else(|| in_bare_gre(bytes, start))
        .or_else(|| Packet::by_version(bytes, start).filter(whole))
        .or_else(|| Packet::behind_labels(bytes, start).filter(whole))
}

/// Length of an IPv4 and a UDP header: the least that a tunnel carries.
const LEAST: usize = ipv4::HEADER_LEN + l4::UDP_HEADER_LEN;

/// Whether a UDP payload may be a tunnel header and a packet. True for every payload that [`Packet::carried`]
/// can read, and for a few others. The flow cache asks this for every UDP packet, so the first check is
/// short.
#[inline]
#[must_use]
pub fn may_carry(payload: &[u8]) -> bool {
    payload.first_chunk().is_some_and(|start| may_start(start) && may_continue(start, payload.len()))
}

/// Whether the first word, or the labels, may belong to a tunnel.
#[inline]
fn may_start(p: &[u8; LEAST]) -> bool {
    /// The bottom-of-stack bits of the labels.
    const BOTTOMS: u128 = 0x0000_0100_0000_0100_0000_0100_0000_0100;
    const _: () = assert!(MPLS_LABELS_MAX * 4 == size_of::<u128>());
    let [labels, ..] = p.as_chunks::<16>().0 else { return false };
    // VXLAN; a packet as it is; Geneve, GRE and GUE; a packet behind labels.
    p[0] & 0x08 != 0
        || matches!(p[0] >> 4, 4 | 6)
        || p[0] < 0x40
            && (word(p, 2) >= ethernet::TYPE_IPV4
                || matches!(p[1], carries::IPV4 | carries::IPV6 | carries::GRE))
        || u128::from_be_bytes(*labels) & BOTTOMS != 0
}

#[inline(never)]
fn may_continue(p: &[u8; LEAST], len: usize) -> bool {
    let carried = |ethertype: u16| {
        matches!(ethertype, ethernet::TYPE_IPV4 | ethernet::TYPE_IPV6 | TYPE_BRIDGED | TYPE_ERSPAN)
            || ethernet::is_tag(ethertype)
            || ethernet::TYPE_MPLS.contains(&ethertype)
    };
    let fills = |at: usize| match p[at] >> 4 {
        4 => at + usize::from(word(p, at + ipv4::TOTAL_LEN_AT)) == len,
        6 => at + ipv6::HEADER_LEN + usize::from(word(p, at + ipv6::PAYLOAD_LEN_AT)) == len,
        _ => false,
    };
    let labels = || {
        let behind = (1..=MPLS_LABELS_MAX).map(|n| n * 4);
        behind.into_iter().find(|at| p[at - 2] & LAST_LABEL != 0).is_some_and(fills)
    };
    // VXLAN, and with the protocol announced; Geneve and GRE; GUE; a packet as it is, and behind labels.
    p[0] & 0x08 != 0 && (carried(word(p, 20)) || p[0] & 0x04 != 0 && p[3] < 4)
        || p[0] >> 6 == 0 && carried(word(p, 2))
        || p[0] >> 5 == 0 && matches!(p[1], carries::IPV4 | carries::IPV6 | carries::GRE)
        || fills(0)
        || labels()
}

/// Whether a UDP payload looks like a tunnel's, even if the frame in it is not IP: other packets of the flow may carry IP.
#[must_use]
pub fn looks_like_tunnel(payload: &[u8]) -> bool {
    let vxlan = |p: &[u8; vxlan::HEADER_LEN]| p[0] & 0x7f == 0x08 && p[7] == 0;
    may_carry(payload) || payload.first_chunk().is_some_and(vxlan)
}

/// VXLAN (RFC 7348 §5), also with the extensions for policies and for other protocols (GPE).
fn in_vxlan(bytes: &[u8], at: usize) -> Option<Packet> {
    const NEXT_PROTOCOL: u8 = 0x04;
    let header = bytes.get(at..)?.first_chunk::<{ vxlan::HEADER_LEN }>()?;
    if header[0] & vxlan::FLAG_VNI == 0 {
        return None;
    }
    let inside = at + vxlan::HEADER_LEN;
    match (header[0] & NEXT_PROTOCOL != 0, header[3]) {
        (true, 1 | 2) => Packet::by_version(bytes, inside),
        (false, _) | (true, 3) => Packet::in_ethernet(bytes, inside),
        _ => None,
    }
}

/// Geneve (RFC 8926 §3.4). Its reserved bits, which senders leave at zero, tell it from GRE with a key.
fn in_geneve(bytes: &[u8], at: usize) -> Option<Packet> {
    const HEADER_LEN: usize = 8;
    let header = bytes.get(at..)?.first_chunk::<HEADER_LEN>()?;
    let options = usize::from(header[0] & 0x3f) * 4;
    let reserved = header[0] >> 6 | header[1] & 0x3f | header[7];
    if reserved != 0 {
        return None;
    }
    of_type(bytes, at + HEADER_LEN + options, word(header, 2))
}

/// Generic UDP encapsulation, version 0, data and not control.
fn in_gue(bytes: &[u8], at: usize) -> Option<Packet> {
    let header = bytes.get(at..)?.first_chunk::<4>()?;
    let inside = at + 4 + usize::from(header[0] & 0x1f) * 4;
    if header[0] >> 5 != 0 {
        return None;
    }
    match header[1] {
        carries::IPV4 => Packet::read_v4(bytes, inside),
        carries::IPV6 => Packet::read_v6(bytes, inside),
        carries::GRE => in_bare_gre(bytes, inside),
        _ => None,
    }
}

/// GRE without a checksum of its own.
fn in_bare_gre(bytes: &[u8], at: usize) -> Option<Packet> {
    match carried_by_gre(bytes, at)? {
        (packet, Cover::None) => Some(packet),
        _ => None,
    }
}

/// GRE (RFC 2784 §2, RFC 2890 §2).
fn carried_by_gre(bytes: &[u8], at: usize) -> Option<(Packet, Cover)> {
    const CHECKSUM: u16 = 0x8000;
    const KEY: u16 = 0x2000;
    const NUMBERED: u16 = GRE_NUMBERED;
    let header = bytes.get(at..)?.first_chunk::<4>()?;
    let flags = word(header, 0);
    if flags & !(CHECKSUM | KEY | NUMBERED) != 0 {
        return None;
    }
    let fields = [CHECKSUM, KEY, NUMBERED].iter().filter(|&&flag| flags & flag != 0).count();
    let inside = at + 4 + 4 * fields;
    let packet = match word(header, 2) {
        TYPE_ERSPAN if flags & NUMBERED != 0 => Packet::in_ethernet(bytes, inside + 8)?,
        TYPE_ERSPAN => Packet::in_ethernet(bytes, inside)?,
        ethertype => of_type(bytes, inside, ethertype)?,
    };
    Some((packet, if flags & CHECKSUM != 0 { Cover::Gre } else { Cover::None }))
}

fn of_type(bytes: &[u8], at: usize, ethertype: u16) -> Option<Packet> {
    match ethertype {
        TYPE_BRIDGED => Packet::in_ethernet(bytes, at),
        _ => Packet::read(bytes, at, ethertype, bytes.len()),
    }
}

/// The packet whose transport header starts at `l4`, and the packets around it, in a frame whose network
/// layer is at `l3`. `None` when headers of unknown kinds lie between.
#[must_use]
pub fn find(bytes: &[u8], l3: usize, ethertype: u16, l4: usize) -> Option<(Packet, Shells)> {
    let mut shells = Shells::new();
    let mut packet = Packet::read(bytes, l3, ethertype, bytes.len())?;
    while packet.l4 < l4 {
        let (inner, cover) = packet.carried(bytes)?;
        shells.try_push(Shell { packet, cover }).ok()?;
        packet = inner;
    }
    (packet.l4 == l4).then_some((packet, shells))
}

/// Whether the transport header of the first packet starts at `l4`.
#[must_use]
pub fn is_outermost(bytes: &[u8], l3: usize, v4: bool, l4: usize) -> bool {
    let Some(packet) = bytes.get(l3..) else { return false };
    match packet.first() {
        Some(first) if v4 => l3 + usize::from(first & 0xf) * 4 == l4,
        _ => ipv6::upper_layer(packet).is_some_and(|up| l3 + up.offset == l4),
    }
}

impl Shell {
    /// Whether the tunnel numbers its packets. Only the sender could assign numbers to segments.
    #[must_use]
    pub fn is_numbered(&self, bytes: &[u8]) -> bool {
        self.packet.proto == carries::GRE && word(bytes, self.packet.l4) & GRE_NUMBERED != 0
    }

    /// Offset of the checksum that covers the inner packet, if the header has one.
    #[must_use]
    pub fn checksum_at(&self, bytes: &[u8]) -> Option<usize> {
        let l4 = self.packet.l4;
        match self.cover {
            Cover::None => None,
            Cover::Udp => Some(l4 + l4::UDP_CHECKSUM_AT).filter(|&at| word(bytes, at) != 0),
            Cover::Gre => Some(l4 + GRE_CHECKSUM_AT),
        }
    }

    /// Sum of the pseudo-header for `len` bytes of transport segment; zero where the checksum does not
    /// include one.
    #[must_use]
    pub fn pseudo(&self, len: usize) -> u16 {
        if self.cover == Cover::Udp { self.packet.pseudo(len) } else { 0 }
    }
}

/// GRE flag: a sequence number is present.
const GRE_NUMBERED: u16 = 0x1000;

/// Offset of the checksum in a GRE header that has one.
pub const GRE_CHECKSUM_AT: usize = 4;

/// Whether the checksum of a packet's IPv4 header is right.
#[must_use]
pub fn header_ok(bytes: &[u8], packet: &Packet) -> bool {
    !packet.v4 || sum(&bytes[packet.l3..packet.l4]) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// The switch takes a packet behind any permitted number of labels for a tunnel's; only the bottom-of-stack
    /// bit of a label matters. It takes neither a packet behind one label more nor any other payload of the
    /// same length for one.
    #[test]
    fn labels_of_every_form() {
        for count in 1..=MPLS_LABELS_MAX + 1 {
            for [label, bits, ttl] in [[0, 0, 64], [0x91, 0, 255], [0xf6, 0x0e, 1], [0x22, 0x10, 0]] {
                let mut payload: Vec<u8> = (1..=count)
                    .flat_map(|n| [label, 0, bits | u8::from(n == count), ttl])
                    .chain([0x45, 0, 0, 40])
                    .collect();
                payload.resize(count * 4 + 40, 0);
                assert_eq!(may_carry(&payload), count <= MPLS_LABELS_MAX, "{count} {label:#x} {bits:#x}");
                payload.push(0);
                assert!(!may_carry(&payload), "{count} {label:#x} {bits:#x}");
            }
        }
        assert!(!may_carry(&[0; 60]));
    }
}
