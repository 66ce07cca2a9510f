//! A plain reference stack, written without the engine. It segments GSO packets in the obvious way, with
//! etherparse's header types and checksums, and checks the checksums of a frame.

use engine::frame::{GsoKind, Offload};
use etherparse::{IpHeaders, LinkExtHeader, NetHeaders, PacketHeaders, TransportHeader};

/// The finished segments that a stack without offloads would have sent instead of this frame. `None` when the
/// facts are inconsistent.
pub fn segments(frame: &[u8], offload: Offload) -> Option<Vec<Vec<u8>>> {
    if offload == Offload::NONE {
        return Some(vec![frame.to_vec()]);
    }
    let p = PacketHeaders::from_ethernet_slice(frame).ok()?;
    let mut link = Vec::new();
    p.link.as_ref()?.clone().ethernet2()?.write(&mut link).unwrap();
    for ext in &p.link_exts {
        let LinkExtHeader::Vlan(tag) = ext else { return None };
        tag.write(&mut link).unwrap();
    }
    let (ip, transport) = (p.net?, p.transport?);
    let mut payload = p.payload.slice().to_vec();
    let size = match (offload.gso_kind, &ip, &transport) {
        (GsoKind::None, _, _) => payload.len(),
        (GsoKind::TcpV4, NetHeaders::Ipv4(..), TransportHeader::Tcp(_))
        | (GsoKind::TcpV6, NetHeaders::Ipv6(..), TransportHeader::Tcp(_))
        | (GsoKind::Udp, _, TransportHeader::Udp(_)) => usize::from(offload.gso_size),
        _ => return None,
    };
    let mut out = Vec::new();
    let mut sent = 0;
    loop {
        let now: Vec<u8> = payload.drain(..size.min(payload.len())).collect();
        let (mut ip, mut transport) = (ip.clone(), transport.clone());
        let (first, last) = (sent == 0, payload.is_empty());
        match &mut transport {
            TransportHeader::Tcp(tcp) => {
                tcp.sequence_number = tcp.sequence_number.wrapping_add(sent as u32);
                tcp.fin &= last;
                tcp.psh &= last;
                tcp.cwr &= first;
            }
            TransportHeader::Udp(udp) => udp.length = 8 + now.len() as u16,
            _ => return None,
        }
        let len = transport.header_len() + now.len();
        match &mut ip {
            NetHeaders::Ipv4(v4, _) => {
                v4.set_payload_len(len).ok()?;
                v4.identification = v4.identification.wrapping_add(out.len() as u16);
                v4.header_checksum = v4.calc_header_checksum();
            }
            NetHeaders::Ipv6(v6, ext) => v6.set_payload_length(len + ext.header_len()).ok()?,
            NetHeaders::Arp(_) => return None,
        }
        match (&mut transport, &ip) {
            (TransportHeader::Tcp(t), NetHeaders::Ipv4(v4, _)) => {
                t.checksum = t.calc_checksum_ipv4(v4, &now).ok()?
            }
            (TransportHeader::Tcp(t), NetHeaders::Ipv6(v6, _)) => {
                t.checksum = t.calc_checksum_ipv6(v6, &now).ok()?
            }
            (TransportHeader::Udp(u), NetHeaders::Ipv4(v4, _)) => {
                u.checksum = u.calc_checksum_ipv4(v4, &now).ok()?
            }
            (TransportHeader::Udp(u), NetHeaders::Ipv6(v6, _)) => {
                u.checksum = u.calc_checksum_ipv6(v6, &now).ok()?
            }
            _ => return None,
        }
        let mut bytes = link.clone();
        match &ip {
            NetHeaders::Ipv4(v4, ext) => IpHeaders::Ipv4(v4.clone(), ext.clone()).write(&mut bytes),
            NetHeaders::Ipv6(v6, ext) => IpHeaders::Ipv6(v6.clone(), ext.clone()).write(&mut bytes),
            NetHeaders::Arp(_) => return None,
        }
        .unwrap();
        transport.write(&mut bytes).unwrap();
        bytes.extend(&now);
        out.push(bytes);
        sent += now.len();
        if last {
            return Some(out);
        }
    }
}

/// Checks with smoltcp that every checksum of the frame is right, inside its tunnels too.
#[track_caller]
pub fn assert_right(frame: &[u8]) {
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::*;
    let mut at = 12;
    while matches!(&frame[at..at + 2], [0x81, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    let packet = &frame[at + 2..];
    let (src, dst, proto, segment): (IpAddress, IpAddress, IpProtocol, &[u8]) = match &frame[at..at + 2] {
        [8, 0] => {
            let ip = Ipv4Packet::new_checked(packet).expect("IPv4");
            assert!(ip.verify_checksum(), "IPv4 header checksum");
            Ipv4Repr::parse(&ip, &ChecksumCapabilities::default()).expect("IPv4");
            (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), ip.payload())
        }
        [0x86, 0xdd] => {
            let ip = Ipv6Packet::new_checked(packet).expect("IPv6");
            (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), ip.payload())
        }
        _ => return,
    };
    match proto {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(segment).expect("TCP");
            assert!(tcp.verify_checksum(&src, &dst), "TCP checksum");
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(segment).expect("UDP");
            assert!(udp.verify_checksum(&src, &dst), "UDP checksum");
            assert_eq!(usize::from(udp.len()), segment.len(), "UDP length");
            if udp.dst_port() == 4789 {
                assert_right(&udp.payload()[8..]);
            }
        }
        _ => {}
    }
}
