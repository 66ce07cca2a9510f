//! Builds and parses frames for scenarios and checks. It shares no code with the engine's own views, so that neither
//! can hide the other's mistakes.

use std::net::IpAddr;

use engine::wire::mac::MacAddr;

/// EtherType of IPv4.
pub const ETH_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETH_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETH_IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const ETH_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const ETH_QINQ: u16 = 0x88a8;
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of GRE.
pub const GRE: u8 = 47;
/// Protocol number of `ICMPv6`.
pub const ICMPV6: u8 = 58;

/// An Ethernet frame.
#[must_use]
pub fn eth(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut f = Vec::with_capacity(14 + payload.len());
    f.extend(dst.0);
    f.extend(src.0);
    f.extend(ethertype.to_be_bytes());
    f.extend(payload);
    f
}

/// The frame with a tag pushed in front of its EtherType.
#[must_use]
pub fn push_tag(frame: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    let mut f = frame[..12].to_vec();
    f.extend(tpid.to_be_bytes());
    f.extend(tci.to_be_bytes());
    f.extend(&frame[12..]);
    f
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// An IPv4 or IPv6 packet, whole, hop limit 64.
///
/// # Panics
/// When the addresses are of different families or the payload is too long for a packet.
#[must_use]
pub fn ip(src: IpAddr, dst: IpAddr, proto: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) => ipv4_fragment(src, dst, proto, 0x1234, 0, false, payload),
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let mut p = vec![0x60, 0, 0, 0];
            p.extend(u16::try_from(payload.len()).expect("fits a packet").to_be_bytes());
            p.extend([proto, 64]);
            p.extend(s.octets());
            p.extend(d.octets());
            p.extend(payload);
            p
        }
        _ => panic!("{src} and {dst} are of different families"),
    }
}

/// An IPv4 fragment; `offset` is in bytes and a multiple of 8.
///
/// # Panics
/// When an address is IPv6 or the payload is too long.
#[must_use]
pub fn ipv4_fragment(
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    id: u16,
    offset: u16,
    more: bool,
    payload: &[u8],
) -> Vec<u8> {
    assert!(src.is_ipv4() && dst.is_ipv4() && offset.is_multiple_of(8));
    let total = u16::try_from(20 + payload.len()).expect("fits a packet");
    let mut p = vec![0x45, 0];
    p.extend(total.to_be_bytes());
    p.extend(id.to_be_bytes());
    p.extend(((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
    p.extend([64, proto, 0, 0]);
    p.extend(octets(src));
    p.extend(octets(dst));
    let c = !sum(&p, 0);
    p[10..12].copy_from_slice(&c.to_be_bytes());
    p.extend(payload);
    p
}

/// One's complement sum of `data`, starting from `start`.
#[must_use]
pub fn sum(data: &[u8], start: u32) -> u16 {
    let mut s = start;
    for pair in data.chunks(2) {
        s += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        s = (s & 0xffff) + (s >> 16);
    }
    s as u16
}

/// The transport checksum's pseudo-header sum.
#[must_use]
pub fn pseudo_sum(src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> u32 {
    let mut p = octets(src);
    p.extend(octets(dst));
    p.extend((len as u32).to_be_bytes());
    p.extend([0, 0, 0, proto]);
    u32::from(sum(&p, 0))
}

/// A UDP datagram with its checksum.
#[must_use]
pub fn udp(src: IpAddr, dst: IpAddr, sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let len = 8 + data.len();
    let mut p = Vec::with_capacity(len);
    p.extend(sport.to_be_bytes());
    p.extend(dport.to_be_bytes());
    p.extend((len as u16).to_be_bytes());
    p.extend([0, 0]);
    p.extend(data);
    let c = !sum(&p, pseudo_sum(src, dst, UDP, len));
    p[6..8].copy_from_slice(&if c == 0 { 0xffff } else { c }.to_be_bytes());
    p
}

/// A TCP segment without options, with its checksum. `flags`: 0x02 SYN, 0x10 ACK, 0x04 RST.
#[must_use]
pub fn tcp(src: IpAddr, dst: IpAddr, sport: u16, dport: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend(sport.to_be_bytes());
    p.extend(dport.to_be_bytes());
    p.extend(1u32.to_be_bytes());
    p.extend(0u32.to_be_bytes());
    p.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    p.extend(data);
    let c = !sum(&p, pseudo_sum(src, dst, TCP, p.len()));
    p[16..18].copy_from_slice(&c.to_be_bytes());
    p
}

/// An ICMP message with its checksum.
#[must_use]
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut p = vec![kind, code, 0, 0];
    p.extend(rest);
    p.extend(data);
    let c = !sum(&p, 0);
    p[2..4].copy_from_slice(&c.to_be_bytes());
    p
}

/// An `ICMPv6` message with its checksum.
#[must_use]
pub fn icmpv6(src: IpAddr, dst: IpAddr, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut p = vec![kind, code, 0, 0];
    p.extend(rest);
    p.extend(data);
    let c = !sum(&p, pseudo_sum(src, dst, ICMPV6, p.len()));
    p[2..4].copy_from_slice(&c.to_be_bytes());
    p
}

/// An ICMP echo request (or answer, with `reply`) as a packet of either family.
#[must_use]
pub fn echo(src: IpAddr, dst: IpAddr, reply: bool, ident: u16, seq: u16, data: &[u8]) -> Vec<u8> {
    let rest = [(ident >> 8) as u8, ident as u8, (seq >> 8) as u8, seq as u8];
    if src.is_ipv4() {
        ip(src, dst, ICMP, &icmp(if reply { 0 } else { 8 }, 0, rest, data))
    } else {
        ip(src, dst, ICMPV6, &icmpv6(src, dst, 128 + u8::from(reply), 0, rest, data))
    }
}

/// The Ethernet frame around an IP packet.
#[must_use]
pub fn eth_ip(dst: MacAddr, src: MacAddr, packet: &[u8]) -> Vec<u8> {
    eth(dst, src, if packet[0] >> 4 == 6 { ETH_IPV6 } else { ETH_IPV4 }, packet)
}

/// An ARP request from (`mac`, `ip`) for `target`.
///
/// # Panics
/// When an address is IPv6.
#[must_use]
pub fn arp_request(mac: MacAddr, ip: IpAddr, target: IpAddr) -> Vec<u8> {
    arp(1, MacAddr::BROADCAST, mac, ip, MacAddr::ZERO, target)
}

/// An ARP reply from (`mac`, `ip`) to (`to_mac`, `to_ip`).
///
/// # Panics
/// When an address is IPv6.
#[must_use]
pub fn arp_reply(mac: MacAddr, ip: IpAddr, to_mac: MacAddr, to_ip: IpAddr) -> Vec<u8> {
    arp(2, to_mac, mac, ip, to_mac, to_ip)
}

fn arp(op: u16, dst: MacAddr, mac: MacAddr, ip: IpAddr, tmac: MacAddr, tip: IpAddr) -> Vec<u8> {
    assert!(ip.is_ipv4() && tip.is_ipv4());
    let mut p = vec![0, 1, 8, 0, 6, 4];
    p.extend(op.to_be_bytes());
    p.extend(mac.0);
    p.extend(octets(ip));
    p.extend(tmac.0);
    p.extend(octets(tip));
    eth(dst, mac, ETH_ARP, &p)
}

/// A VXLAN packet (from the outer IP header on) that carries `inner`, without an outer UDP checksum over IPv4.
#[must_use]
pub fn vxlan(src: IpAddr, dst: IpAddr, dport: u16, vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut v = vec![0x08, 0, 0, 0];
    v.extend((vni << 8).to_be_bytes());
    v.extend(inner);
    let mut u = udp(src, dst, 50_000, dport, &v);
    if src.is_ipv4() {
        u[6..8].fill(0);
    }
    ip(src, dst, UDP, &u)
}

/// A parsed frame. Offsets count from the start of the frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parsed {
    /// Destination MAC.
    pub dst: MacAddr,
    /// Source MAC.
    pub src: MacAddr,
    /// Tags, outermost first: (TPID, TCI).
    pub tags: Vec<(u16, u16)>,
    /// EtherType behind the tags.
    pub ethertype: u16,
    /// Where the network header starts.
    pub l3: usize,
    /// The IP header, if there is a well-formed one.
    pub ip: Option<ParsedIp>,
}

/// A parsed IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParsedIp {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Transport protocol (IPv6: of the first header that is not an extension we skip).
    pub proto: u8,
    /// Hop limit.
    pub ttl: u8,
    /// Fragment offset in bytes.
    pub frag_offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// Where the transport header starts, in the frame.
    pub l4: usize,
    /// Where the packet ends, in the frame.
    pub end: usize,
    /// The whole IP packet's length.
    pub len: usize,
}

impl ParsedIp {
    /// Whether this is a fragment of a packet.
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.more || self.frag_offset != 0
    }
}

/// The hash by which a NIC spreads flows over its queues: of addresses and ports, or of MAC addresses where there is
/// no IP header.
#[must_use]
pub fn flow_hash(f: &[u8]) -> u64 {
    let ip = parse(f).and_then(|p| p.ip);
    let bytes: Vec<u8> = match ip {
        Some(ip) => {
            let ports = if ip.is_fragment() { None } else { f.get(ip.l4..ip.l4 + 4) };
            let text = format!("{} {} {}", ip.src, ip.dst, ip.proto);
            text.into_bytes().into_iter().chain(ports.unwrap_or_default().iter().copied()).collect()
        }
        None => f.get(..12).unwrap_or_default().to_vec(),
    };
    let fnv = |h: u64, &b: &u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv) >> 16
}

/// Parses a frame; `None` when it is shorter than an Ethernet header.
#[must_use]
pub fn parse(f: &[u8]) -> Option<Parsed> {
    if f.len() < 14 {
        return None;
    }
    let mac = |at: usize| MacAddr(f[at..at + 6].try_into().expect("six bytes"));
    let be16 = |at: usize| f.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let mut at = 12;
    let mut tags = Vec::new();
    let mut ethertype = be16(at)?;
    while matches!(ethertype, ETH_VLAN | ETH_QINQ) {
        let (Some(tci), Some(next)) = (be16(at + 2), be16(at + 4)) else { break };
        tags.push((ethertype, tci));
        at += 4;
        ethertype = next;
    }
    let l3 = at + 2;
    let ip = match ethertype {
        ETH_IPV4 | ETH_IPV6 => parse_ip(f, l3),
        _ => None,
    };
    Some(Parsed { dst: mac(0), src: mac(6), tags, ethertype, l3, ip })
}

/// Parses the IP packet at `l3` of the frame.
#[must_use]
pub fn parse_ip(f: &[u8], l3: usize) -> Option<ParsedIp> {
    let p = f.get(l3..)?;
    match p.first()? >> 4 {
        4 => {
            let header = usize::from(p[0] & 15) * 4;
            let len = usize::from(u16::from_be_bytes([*p.get(2)?, *p.get(3)?]));
            if header < 20 || len < header || p.len() < len {
                return None;
            }
            let word = u16::from_be_bytes([p[6], p[7]]);
            Some(ParsedIp {
                src: IpAddr::from(<[u8; 4]>::try_from(&p[12..16]).ok()?),
                dst: IpAddr::from(<[u8; 4]>::try_from(&p[16..20]).ok()?),
                proto: p[9],
                ttl: p[8],
                frag_offset: (word & 0x1fff) * 8,
                more: word & 0x2000 != 0,
                l4: l3 + header,
                end: l3 + len,
                len,
            })
        }
        6 => {
            let len = 40 + usize::from(u16::from_be_bytes([*p.get(4)?, *p.get(5)?]));
            if p.len() < len {
                return None;
            }
            let (mut proto, mut at, mut frag_offset, mut more) = (p[6], 40, 0, false);
            while let 0 | 43 | 44 | 60 = proto {
                let ext = p.get(at..at + 8)?;
                if proto == 44 {
                    let word = u16::from_be_bytes([ext[2], ext[3]]);
                    frag_offset = word & 0xfff8;
                    more = word & 1 != 0;
                    at += 8;
                } else {
                    at += 8 + usize::from(ext[1]) * 8;
                }
                proto = ext[0];
                if frag_offset != 0 {
                    break;
                }
            }
            Some(ParsedIp {
                src: IpAddr::from(<[u8; 16]>::try_from(&p[8..24]).ok()?),
                dst: IpAddr::from(<[u8; 16]>::try_from(&p[24..40]).ok()?),
                proto,
                ttl: p[7],
                frag_offset,
                more,
                l4: l3 + at,
                end: l3 + len,
                len,
            })
        }
        _ => None,
    }
}

/// The transport ports of a TCP or UDP packet that is complete or a first fragment.
#[must_use]
pub fn l4_ports(f: &[u8], ip: &ParsedIp) -> Option<(u16, u16)> {
    if !matches!(ip.proto, TCP | UDP) || ip.frag_offset != 0 || ip.end < ip.l4 + 4 {
        return None;
    }
    let b = &f[ip.l4..];
    Some((u16::from_be_bytes([b[0], b[1]]), u16::from_be_bytes([b[2], b[3]])))
}

/// The bytes after the UDP header.
#[must_use]
pub fn udp_data(f: &[u8]) -> Option<&[u8]> {
    let ip = parse(f)?.ip?;
    (ip.proto == UDP && ip.frag_offset == 0).then(|| f.get(ip.l4 + 8..ip.end)).flatten()
}

/// The VNI and the offset of the inner frame, when this is a VXLAN packet to `port`.
#[must_use]
pub fn vxlan_inner(f: &[u8], port: u16) -> Option<(u32, usize)> {
    let ip = parse(f)?.ip?;
    let (_, dport) = l4_ports(f, &ip)?;
    let v = f.get(ip.l4 + 8..ip.l4 + 16)?;
    (ip.proto == UDP && dport == port).then(|| (u32::from_be_bytes([0, v[4], v[5], v[6]]), ip.l4 + 16))
}

/// Verifies the checksums of the frame: IPv4 header, TCP, UDP, ICMP. Of fragments, only the header's.
///
/// # Errors
/// Says which checksum is wrong.
pub fn checksums(f: &[u8]) -> Result<(), String> {
    let Some(p) = parse(f) else { return Ok(()) };
    let Some(ip) = p.ip else { return Ok(()) };
    if ip.src.is_ipv4() && sum(&f[p.l3..ip.l4], 0) != 0xffff {
        return Err(format!("IPv4 header checksum of {} > {}", ip.src, ip.dst));
    }
    if ip.is_fragment() {
        return Ok(());
    }
    let l4 = &f[ip.l4..ip.end];
    let pseudo = || pseudo_sum(ip.src, ip.dst, ip.proto, l4.len());
    let (name, good) = match ip.proto {
        TCP if l4.len() >= 20 => ("TCP", sum(l4, pseudo()) == 0xffff),
        UDP if l4.len() >= 8 => {
            // Zero over IPv4 means none; over IPv6 it is allowed for tunnels (RFC 6935).
            ("UDP", l4[6..8] == [0, 0] || sum(l4, pseudo()) == 0xffff)
        }
        ICMP if l4.len() >= 8 => ("ICMP", sum(l4, 0) == 0xffff),
        ICMPV6 if l4.len() >= 8 => ("ICMPv6", sum(l4, pseudo()) == 0xffff),
        _ => return Ok(()),
    };
    if good { Ok(()) } else { Err(format!("{name} checksum of {} > {}", ip.src, ip.dst)) }
}

/// Replaces one address of the IP packet at `l3` and updates the checksums (RFC 1624), as a provider's NAT and a
/// CMS's `iptables` do. In an ICMP error, the quoted packet's other address is replaced as well.
///
/// # Panics
/// When the families differ.
pub fn rewrite_address(f: &mut [u8], l3: usize, destination: bool, new: IpAddr) {
    let Some(ip) = parse_ip(f, l3) else { return };
    let (at, width) = match ip.src {
        IpAddr::V4(_) => (l3 + if destination { 16 } else { 12 }, 4),
        IpAddr::V6(_) => (l3 + if destination { 24 } else { 8 }, 16),
    };
    let old = f[at..at + width].to_vec();
    let new = octets(new);
    assert_eq!(old.len(), new.len(), "one family");
    f[at..at + width].copy_from_slice(&new);
    if width == 4 {
        mend(f, l3 + 10, &old, &new);
    }
    if ip.frag_offset != 0 {
        return;
    }
    match ip.proto {
        TCP => mend(f, ip.l4 + 16, &old, &new),
        UDP if f.get(ip.l4 + 6..ip.l4 + 8).is_some_and(|c| c != [0, 0]) => {
            mend(f, ip.l4 + 6, &old, &new);
        }
        ICMPV6 => mend(f, ip.l4 + 2, &old, &new),
        _ => {}
    }
    let error = match ip.proto {
        ICMP => matches!(f.get(ip.l4), Some(3 | 4 | 5 | 11 | 12)),
        ICMPV6 => f.get(ip.l4).is_some_and(|&k| k < 128),
        _ => false,
    };
    let quoted = ip.l4 + 8;
    if error && f.len() >= quoted + if width == 4 { 20 } else { 40 } {
        let inner_at = quoted
            + if width == 4 {
                if destination { 12 } else { 16 }
            } else if destination {
                8
            } else {
                24
            };
        if f[inner_at..inner_at + width] == old[..] {
            f[inner_at..inner_at + width].copy_from_slice(&new);
            if width == 4 {
                mend(f, quoted + 10, &old, &new);
            }
            // The quoted transport checksum, if the quote is long enough to have it.
            let l4 = quoted + if width == 4 { usize::from(f[quoted] & 15) * 4 } else { 40 };
            let proto = f[quoted + if width == 4 { 9 } else { 6 }];
            match proto {
                TCP => mend(f, l4 + 16, &old, &new),
                UDP if f.get(l4 + 6..l4 + 8).is_some_and(|c| c != [0, 0]) => mend(f, l4 + 6, &old, &new),
                ICMPV6 => mend(f, l4 + 2, &old, &new),
                _ => {}
            }
            // The message's own checksum covers the quoted packet: compute it again.
            f[ip.l4 + 2..ip.l4 + 4].fill(0);
            let start = if ip.proto == ICMPV6 {
                let now = parse_ip(f, l3).expect("still a packet");
                pseudo_sum(now.src, now.dst, ICMPV6, ip.end - ip.l4)
            } else {
                0
            };
            let c = !sum(&f[ip.l4..ip.end], start);
            f[ip.l4 + 2..ip.l4 + 4].copy_from_slice(&c.to_be_bytes());
        }
    }
}

fn mend(f: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    let Some(field) = f.get(at..at + 2) else { return };
    let mut s = u32::from(!u16::from_be_bytes([field[0], field[1]]));
    for (o, n) in old.chunks(2).zip(new.chunks(2)) {
        s += u32::from(!u16::from_be_bytes([o[0], o[1]])) + u32::from(u16::from_be_bytes([n[0], n[1]]));
        s = (s & 0xffff) + (s >> 16);
    }
    s = (s & 0xffff) + (s >> 16);
    f[at..at + 2].copy_from_slice(&(!(s as u16)).to_be_bytes());
}

/// Decrements the hop limit of the packet at `l3`. False when it is used up.
pub fn take_hop(f: &mut [u8], l3: usize) -> bool {
    let Some(ip) = parse_ip(f, l3) else { return false };
    if ip.ttl <= 1 {
        return false;
    }
    if ip.src.is_ipv4() {
        let old = [f[l3 + 8], f[l3 + 9]];
        f[l3 + 8] -= 1;
        let new = [f[l3 + 8], f[l3 + 9]];
        mend(f, l3 + 10, &old, &new);
    } else {
        f[l3 + 7] -= 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(s: &str) -> IpAddr {
        s.parse().unwrap()
    }
    const M1: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const M2: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn made_frames_have_good_checksums_and_rewriting_keeps_them() {
        for (s, d, n) in [("10.0.0.1", "10.0.0.2", "56.0.0.11"), ("fd00::1", "fd00::2", "2001:db8::11")] {
            let (s, d, n) = (a(s), a(d), a(n));
            let packets = [
                ip(s, d, UDP, &udp(s, d, 1, 2, b"hello")),
                ip(s, d, TCP, &tcp(s, d, 1, 2, 2, b"odd")),
                echo(s, d, false, 7, 1, b"data"),
            ];
            for p in packets {
                let mut f = eth_ip(M1, M2, &p);
                checksums(&f).unwrap();
                for destination in [true, false] {
                    rewrite_address(&mut f, 14, destination, n);
                    checksums(&f).unwrap();
                }
                assert!(take_hop(&mut f, 14));
                checksums(&f).unwrap();
                let parsed = parse(&f).unwrap().ip.unwrap();
                assert_eq!((parsed.src, parsed.dst, parsed.ttl), (n, n, 63));
            }
        }
    }

    #[test]
    fn errors_are_rewritten_inside() {
        let (host, public, private) = (a("8.8.8.8"), a("56.0.0.11"), a("10.0.0.11"));
        let quoted = ip(public, host, UDP, &udp(public, host, 1, 2, b"x"));
        let mut f = eth_ip(M1, M2, &ip(host, public, ICMP, &icmp(3, 3, [0; 4], &quoted)));
        checksums(&f).unwrap();
        rewrite_address(&mut f, 14, true, private);
        checksums(&f).unwrap();
        let inner = parse_ip(&f, 14 + 20 + 8).unwrap();
        assert_eq!((inner.src, inner.dst), (private, host));
        assert_eq!(sum(&f[42..62], 0), 0xffff, "the quoted header's checksum too");
    }

    #[test]
    fn tunnel_and_tags() {
        let inner = push_tag(&arp_request(M1, a("10.0.0.1"), a("10.0.0.2")), ETH_VLAN, 10);
        let f = eth_ip(M1, M2, &vxlan(a("10.0.0.1"), a("10.0.0.2"), 4789, 0x00ab_cdef, &inner));
        let (vni, at) = vxlan_inner(&f, 4789).unwrap();
        assert_eq!(vni, 0x00ab_cdef);
        assert_eq!(&f[at..], &inner[..]);
        assert_eq!(parse(&inner).unwrap().tags, [(ETH_VLAN, 10)]);
        assert!(vxlan_inner(&f, 4790).is_none());
        let mut bad = f.clone();
        bad[24] ^= 1;
        assert!(checksums(&bad).is_err());
    }
}
