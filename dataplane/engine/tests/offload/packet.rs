//! Frames with offload facts, as a stack would give them to its device.

use engine::frame::{GsoKind, Offload};
use engine::wire::mac::MacAddr;
use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, SingleVlanHeader, TcpHeader,
    TcpOptionElement, UdpHeader, VlanId,
};
use proptest::prelude::*;

use super::rvm::{Given, mac};

/// Everything that varies about a TCP or UDP frame.
#[derive(Clone, Debug)]
pub struct Packet {
    pub src_mac: MacAddr,
    pub dst_mac: MacAddr,
    pub tags: Vec<u16>,
    pub from: String,
    pub to: String,
    pub tcp: bool,
    pub sport: u16,
    pub seq: u32,
    pub ack: u32,
    pub id: u16,
    pub tos: u8,
    pub flags: u8,
    pub timestamps: bool,
    pub payload: Vec<u8>,
    /// Payload per segment; 0: only the checksum is unfinished.
    pub size: u16,
}

impl Packet {
    pub fn tcp(v6: bool, payload_len: usize, size: u16) -> Self {
        Self {
            src_mac: mac(1),
            dst_mac: mac(2),
            tags: vec![],
            from: if v6 { "fd01::2" } else { "192.168.1.2" }.into(),
            to: if v6 { "fd01::3" } else { "192.168.1.3" }.into(),
            tcp: true,
            sport: 4000,
            seq: 0xffff_f000,
            ack: 77,
            id: 0xfff0,
            tos: 2,
            flags: 0x18,
            timestamps: true,
            payload: (0..payload_len).map(|i| (i * 7 + i / 251) as u8).collect(),
            size,
        }
    }

    /// The headers, with a zero checksum in the transport header, and the offsets of network and transport
    /// header.
    fn headers(&self) -> (Vec<u8>, usize, usize) {
        let mut out = Vec::new();
        let v4 = self.from.contains('.');
        let net = if v4 { EtherType::IPV4 } else { EtherType::IPV6 };
        let first = if self.tags.is_empty() { net } else { EtherType::VLAN_TAGGED_FRAME };
        Ethernet2Header { destination: self.dst_mac.0, source: self.src_mac.0, ether_type: first }
            .write(&mut out)
            .unwrap();
        for (i, tag) in self.tags.iter().enumerate() {
            let ether_type = if i + 1 == self.tags.len() { net } else { EtherType::VLAN_TAGGED_FRAME };
            let vlan_id = VlanId::try_new(*tag).unwrap();
            SingleVlanHeader { vlan_id, ether_type, ..Default::default() }.write(&mut out).unwrap();
        }
        let mut transport = Vec::new();
        if self.tcp {
            let mut tcp = TcpHeader::new(self.sport, 80, self.seq, 8000);
            tcp.acknowledgment_number = self.ack;
            if self.timestamps {
                tcp.set_options(&[
                    TcpOptionElement::Noop,
                    TcpOptionElement::Noop,
                    TcpOptionElement::Timestamp(1, 2),
                ])
                .unwrap();
            }
            tcp.write(&mut transport).unwrap();
            transport[13] = self.flags;
        } else {
            let length = 8 + self.payload.len() as u16;
            UdpHeader { source_port: self.sport, destination_port: 53, length, checksum: 0 }
                .write(&mut transport)
                .unwrap();
        }
        let (l3, len) = (out.len(), transport.len() + self.payload.len());
        let proto = if self.tcp { IpNumber::TCP } else { IpNumber::UDP };
        if v4 {
            let (from, to): (std::net::Ipv4Addr, std::net::Ipv4Addr) =
                (self.from.parse().unwrap(), self.to.parse().unwrap());
            let mut ip = Ipv4Header::new(len as u16, 64, proto, from.octets(), to.octets()).unwrap();
            ip.identification = self.id;
            ip.header_checksum = ip.calc_header_checksum();
            let at = out.len();
            ip.write(&mut out).unwrap();
            out[at + 1] = self.tos;
            let sum = !smoltcp::wire::checksum::data(&[&out[at..at + 10], &out[at + 12..at + 20]].concat());
            out[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        } else {
            let (from, to): (std::net::Ipv6Addr, std::net::Ipv6Addr) =
                (self.from.parse().unwrap(), self.to.parse().unwrap());
            Ipv6Header {
                traffic_class: self.tos,
                payload_length: len as u16,
                next_header: proto,
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Default::default()
            }
            .write(&mut out)
            .unwrap();
        }
        let l4 = out.len();
        out.extend(transport);
        (out, l3, l4)
    }

    /// The frame as a stack gives it to a device that finishes checksums and segments.
    pub fn given(&self) -> Given {
        let (mut bytes, _, l4) = self.headers();
        bytes.extend(&self.payload);
        let len = (bytes.len() - l4) as u32;
        let proto = if self.tcp { 6u8 } else { 17 };
        let addresses = |s: &str| match s.parse().unwrap() {
            std::net::IpAddr::V4(a) => a.octets().to_vec(),
            std::net::IpAddr::V6(a) => a.octets().to_vec(),
        };
        let pseudo = [addresses(&self.from), addresses(&self.to), len.to_be_bytes().to_vec(), vec![0, proto]];
        let sum = smoltcp::wire::checksum::data(&pseudo.concat());
        let csum_offset: u16 = if self.tcp { 16 } else { 6 };
        let at = l4 + usize::from(csum_offset);
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let gso_kind = match (self.size, self.tcp, self.from.contains('.')) {
            (0, _, _) => GsoKind::None,
            (_, false, _) => GsoKind::Udp,
            (_, true, true) => GsoKind::TcpV4,
            (_, true, false) => GsoKind::TcpV6,
        };
        (
            bytes,
            Offload { csum_start: l4 as u16, csum_offset, gso_kind, gso_size: self.size, ..Offload::NONE },
        )
    }
}

pub fn packet(len_max: usize) -> impl Strategy<Value = Packet> {
    let numbers = (any::<u32>(), any::<u32>(), any::<u16>(), any::<u8>());
    let flags = prop_oneof![Just(0x10u8), Just(0x18), Just(0x11), Just(0x90), any::<u8>()];
    let shape = (any::<bool>(), any::<bool>(), any::<bool>(), 0usize..3);
    (shape, numbers, flags, 1..len_max, prop_oneof![Just(0u16), 100u16..1400, Just(1400)]).prop_map(
        |((v6, tcp, timestamps, tags), (seq, ack, id, tos), flags, len, size)| Packet {
            tags: (0..tags as u16).map(|n| 10 + n).collect(),
            tcp,
            timestamps,
            seq,
            ack,
            id,
            tos: if v6 { 0 } else { tos },
            flags,
            size: if size == 0 && len > 1400 {
                1400
            } else {
                size.max(if size == 0 { 0 } else { (len / 400) as u16 })
            },
            ..Packet::tcp(v6, len, 0)
        },
    )
}
