//! Describes a frame in one line, as tcpdump would. Frames may be truncated.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{ArpOperation, LaxNetSlice, LaxSlicedPacket, LinkSlice, TransportSlice};

/// How many nested tunnels are decoded.
const DEPTH_MAX: usize = 3;

/// Describes a frame in one line.
#[must_use]
pub fn line(bytes: &[u8]) -> String {
    let mut text = String::new();
    ethernet(bytes, DEPTH_MAX, &mut text);
    text
}

/// Describes a frame in hexadecimal in one line.
#[must_use]
pub fn hex_line(hex: &str) -> String {
    line(&unhex(hex).unwrap_or_default())
}

/// Decodes hexadecimal digits; blanks and colons between them are ignored.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b':').collect();
    let digit = |b: &u8| char::from(*b).to_digit(16).map(|d| d as u8);
    let pair = |pair: &[u8]| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?);
    digits.chunks(2).map(pair).collect()
}

/// Encodes bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A MAC address in the usual notation.
#[must_use]
pub fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn ethernet(bytes: &[u8], depth: usize, text: &mut String) {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(bytes) else {
        let _ = write!(text, "{} bytes, too short for an Ethernet header", bytes.len());
        return;
    };
    if let Some(LinkSlice::Ethernet2(eth)) = &packet.link {
        let _ = write!(text, "{} > {}", mac(eth.source()), mac(eth.destination()));
    }
    for vid in packet.vlan_ids() {
        let _ = write!(text, ", VLAN {}", vid.value());
    }
    let net = match &packet.net {
        Some(net) => net,
        None => {
            let ethertype = packet.ether_payload().map_or(0, |payload| payload.ether_type.0);
            let _ = write!(text, ", type 0x{ethertype:04x}");
            return;
        }
    };
    match net {
        LaxNetSlice::Arp(arp) => {
            let ip = |at: usize| {
                let bytes: Option<[u8; 4]> = arp.slice().get(at..at + 4).and_then(|b| b.try_into().ok());
                bytes.map_or_else(|| "?".to_owned(), |b| Ipv4Addr::from(b).to_string())
            };
            let (sender, target) = (ip(14), ip(24));
            let _ = match arp.operation() {
                ArpOperation::REQUEST => write!(text, ", ARP who has {target}, tell {sender}"),
                ArpOperation::REPLY => write!(text, ", ARP {sender} is here"),
                other => write!(text, ", ARP operation {}", other.0),
            };
        }
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            let note = match (header.is_fragmenting_payload(), header.ttl()) {
                (true, _) => format!(", fragment at {}", header.fragments_offset().value() * 8),
                (_, ttl @ 0..2) => format!(", hop limit {ttl}"),
                _ => String::new(),
            };
            transport(&packet, &from.to_string(), &to.to_string(), header.protocol().0, depth, text);
            text.push_str(&note);
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            let bracket = |ip: Ipv6Addr, ports: bool| if ports { format!("[{ip}]") } else { ip.to_string() };
            let ports = matches!(&packet.transport, Some(TransportSlice::Tcp(_) | TransportSlice::Udp(_)));
            let (from, to) = (header.source_addr(), header.destination_addr());
            let proto = ip.payload().ip_number.0;
            transport(&packet, &bracket(from, ports), &bracket(to, ports), proto, depth, text);
        }
    }
}

fn transport(packet: &LaxSlicedPacket<'_>, from: &str, to: &str, proto: u8, depth: usize, text: &mut String) {
    let _ = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags: String =
                [(tcp.syn(), 'S'), (tcp.fin(), 'F'), (tcp.rst(), 'R'), (tcp.psh(), 'P'), (tcp.ack(), '.')]
                    .into_iter()
                    .filter_map(|(set, flag)| set.then_some(flag))
                    .collect();
            write!(text, ", {from}:{} > {to}:{} TCP [{flags}]", tcp.source_port(), tcp.destination_port())
        }
        Some(TransportSlice::Udp(udp)) => {
            let payload = udp.payload();
            if depth > 0
                && let Some((vni, inner)) = engine::tunnel::recognize(payload)
            {
                let _ = write!(text, ", {from} > {to} VXLAN {vni} | ");
                return ethernet(inner, depth - 1, text);
            }
            write!(text, ", {from}:{} > {to}:{} UDP", udp.source_port(), udp.destination_port())
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            write!(text, ", {from} > {to} {}", icmp_name(icmp.type_u8(), icmp.code_u8()))
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            write!(text, ", {from} > {to} {}", icmpv6_name(icmp.type_u8(), icmp.code_u8()))
        }
        _ => write!(text, ", {from} > {to} IP protocol {proto}"),
    };
}

fn icmp_name(kind: u8, code: u8) -> String {
    match (kind, code) {
        (0, _) => "ICMP echo reply".to_owned(),
        (8, _) => "ICMP echo request".to_owned(),
        (3, 4) => "ICMP fragmentation needed".to_owned(),
        (3, _) => format!("ICMP unreachable (code {code})"),
        (11, _) => "ICMP time exceeded".to_owned(),
        _ => format!("ICMP type {kind} code {code}"),
    }
}

fn icmpv6_name(kind: u8, code: u8) -> String {
    match kind {
        1 => format!("ICMPv6 unreachable (code {code})"),
        2 => "ICMPv6 packet too big".to_owned(),
        128 => "ICMPv6 echo request".to_owned(),
        129 => "ICMPv6 echo reply".to_owned(),
        133 => "ICMPv6 router solicitation".to_owned(),
        134 => "ICMPv6 router advertisement".to_owned(),
        135 => "ICMPv6 neighbor solicitation".to_owned(),
        136 => "ICMPv6 neighbor advertisement".to_owned(),
        _ => format!("ICMPv6 type {kind} code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn tcp() -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ethernet2(A, B).ipv4([10, 1, 0, 1], [10, 1, 0, 2], 64);
        builder.tcp(5000, 80, 1, 1000).syn().write(&mut bytes, &[]).unwrap();
        bytes
    }

    #[test]
    fn frames_in_one_line() {
        let macs = "02:00:00:00:00:01 > 02:00:00:00:00:02";
        assert_eq!(line(&tcp()), format!("{macs}, 10.1.0.1:5000 > 10.1.0.2:80 TCP [S]"));
        let mut outer = Vec::new();
        let payload = [&[8, 0, 0, 0, 0, 0, 100, 0][..], &tcp()].concat();
        let builder = PacketBuilder::ethernet2(B, A).ipv4([10, 0, 0, 12], [10, 0, 0, 11], 64);
        builder.udp(50_000, 4789).write(&mut outer, &payload).unwrap();
        assert_eq!(
            line(&outer),
            format!(
                "02:00:00:00:00:02 > 02:00:00:00:00:01, 10.0.0.12 > 10.0.0.11 VXLAN 100 | {}",
                line(&tcp())
            )
        );
        let arp = [&B[..], &A, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &A, &[10, 1, 0, 1], &[0; 6], &[10, 1, 0, 2]]
            .concat();
        assert_eq!(line(&arp), format!("{macs}, ARP who has 10.1.0.2, tell 10.1.0.1"));
        let mut six = Vec::new();
        let ip = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        PacketBuilder::ethernet2(A, B).ipv6(ip, ip, 64).udp(1, 2).write(&mut six, &[]).unwrap();
        assert_eq!(line(&six), format!("{macs}, [fd00::1]:1 > [fd00::1]:2 UDP"));
        assert_eq!(line(&[1, 2, 3]), "3 bytes, too short for an Ethernet header");
    }

    /// Samples may be truncated anywhere, and often show hostile frames: any bytes get a line, without a panic.
    #[test]
    fn cut_and_broken_frames_are_said_without_harm() {
        let whole = tcp();
        for len in 0..whole.len() {
            assert!(!line(&whole[..len]).is_empty());
        }
        let mut noise = 0x9e37_79b9_u32;
        for n in 0..20_000usize {
            let mut bytes = whole.clone();
            for _ in 0..4 {
                noise ^= noise << 13;
                noise ^= noise >> 17;
                noise ^= noise << 5;
                let at = noise as usize % bytes.len();
                bytes[at] = (noise >> 8) as u8;
            }
            let text = line(&bytes[..n % (bytes.len() + 1)]);
            assert!(!text.chars().any(char::is_control));
        }
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(unhex("0aFF 01:02").unwrap(), [10, 255, 1, 2]);
        assert!(unhex("0").is_none() && unhex("zz").is_none());
        assert_eq!(hex(&[0, 255]), "00ff");
    }
}
