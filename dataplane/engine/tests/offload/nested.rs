//! Frames of a host that has tunnels of its own: as its kernel leaves them to a device, and as the kernel
//! would have finished them itself. This code shares nothing with the engine; it builds each segment on its
//! own, from inside out.

use engine::frame::{GsoKind, Offload};
use proptest::prelude::*;

/// How one packet carries another. `bool`: in an Ethernet frame, otherwise directly.
#[derive(Clone, Debug)]
pub enum Tunnel {
    Vxlan { flags: u8, tagged: bool },
    VxlanGpe { bridged: bool },
    Geneve { options: u8, bridged: bool },
    Gre { key: bool, numbered: bool, checksum: bool, bridged: bool },
    Erspan,
    GreInUdp { key: bool },
    InIp,
    EtherIp,
    EthernetInIp,
    Mpls { labels: u8, in_udp: bool },
    Gue,
    Fou,
}

/// One tunnel, from its outer IP header on.
#[derive(Clone, Debug)]
pub struct Level {
    pub tunnel: Tunnel,
    pub v6: bool,
    /// IPv6: a destination option in front, as Linux adds for its encapsulation limit.
    pub option: bool,
    /// Whether UDP has a checksum.
    pub summed: bool,
    pub ports: (u16, u16),
    pub id: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

/// A packet in tunnels in a frame.
#[derive(Clone, Debug)]
pub struct Nested {
    pub dst: [u8; 6],
    /// Number of MPLS labels in front.
    pub labels: u8,
    pub tags: u8,
    pub levels: Vec<Level>,
    pub v6: bool,
    /// IPv6: a segment routing header through another address.
    pub routed: bool,
    pub transport: Transport,
    pub flags: u8,
    pub seq: u32,
    pub id: u16,
    pub payload: Vec<u8>,
    /// Payload bytes per segment; 0: a single packet.
    pub size: u16,
}

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// RFC 1071 by an independent implementation.
fn sum(parts: &[&[u8]]) -> u16 {
    smoltcp::wire::checksum::data(&parts.concat())
}

/// RFC 9260 Appendix A, bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn address(v6: bool, level: usize, far: bool) -> Vec<u8> {
    let last = 1 + 2 * level as u8 + u8::from(far);
    if v6 { [[0xfd, 9].as_slice(), &[0; 13], &[last]].concat() } else { vec![172, 16, 9, last] }
}

fn pseudo(v6: bool, level: usize, proto: u8, len: usize) -> Vec<u8> {
    let (from, to) = (address(v6, level, false), address(v6, level, true));
    [from, to, (len as u32).to_be_bytes().to_vec(), vec![0, proto]].concat()
}

/// An IP packet; `number` is its index among the segments.
fn ip(
    v6: bool,
    level: usize,
    (id, number): (u16, usize),
    proto: u8,
    extension: &[u8],
    inside: &[u8],
) -> Vec<u8> {
    let (from, to) = (address(v6, level, false), address(v6, level, true));
    if v6 {
        let len = (extension.len() + inside.len()) as u16;
        let next = if extension.is_empty() { proto } else { extension[0] };
        let extension = if extension.is_empty() { vec![] } else { [&[proto], &extension[1..]].concat() };
        let to = if next == 43 { [[0xfd, 9].as_slice(), &[7; 14]].concat() } else { to };
        return [&[0x60, 0, 0, 0], &len.to_be_bytes()[..], &[next, 64], &from, &to, &extension, inside]
            .concat();
    }
    let len = (20 + inside.len()) as u16;
    let id = id.wrapping_add(number as u16);
    let mut header =
        [&[0x45, 0], &len.to_be_bytes()[..], &id.to_be_bytes(), &[0x40, 0, 64, proto, 0, 0], &from, &to]
            .concat();
    let value = !sum(&[&header]);
    header[10..12].copy_from_slice(&value.to_be_bytes());
    [header, inside.to_vec()].concat()
}

fn ethernet(dst: [u8; 6], tags: u8, ethertype: [u8; 2], inside: &[u8]) -> Vec<u8> {
    let tags: Vec<u8> = (0..tags).flat_map(|n| [0x81, 0, 0, 10 + n]).collect();
    [&dst[..], &STATION, &tags, &ethertype, inside].concat()
}

fn ethertype(v6: bool) -> [u8; 2] {
    if v6 { [0x86, 0xdd] } else { [8, 0] }
}

fn labels(count: u8) -> Vec<u8> {
    (1..=count).flat_map(|n| [0, n, u8::from(n == count) | 0x10, 64]).collect()
}

/// The IP protocol number of a tunnel, and the bytes of its header and of `packet` in it. `v6` is the packet's family.
fn carry(level: &Level, at: usize, v6: bool, packet: &[u8]) -> (u8, Vec<u8>) {
    let frame = |tags| ethernet([2, 0, 0, 0, 9, 9], tags, ethertype(v6), packet);
    let inside = |bridged: bool| if bridged { frame(0) } else { packet.to_vec() };
    let type_of = |bridged: bool| if bridged { [0x65, 0x58] } else { ethertype(v6) };
    let number = |v6: bool| if v6 { 41 } else { 4 };
    let udp = |payload: Vec<u8>| {
        let len = (8 + payload.len()) as u16;
        let (from, to) = level.ports;
        let mut bytes =
            [&from.to_be_bytes()[..], &to.to_be_bytes(), &len.to_be_bytes(), &[0, 0], &payload].concat();
        if level.summed {
            let value = !sum(&[&pseudo(level.v6, at, 17, bytes.len()), &bytes]);
            let value = if value == 0 { 0xffff } else { value };
            bytes[6..8].copy_from_slice(&value.to_be_bytes());
        }
        (17, bytes)
    };
    match level.tunnel {
        Tunnel::Vxlan { flags, tagged } => {
            let group = if flags & 0x80 != 0 { [0, 9] } else { [0, 0] };
            udp([&[flags, 0][..], &group, &[0, 0, 7, 0], &frame(tagged.into())].concat())
        }
        Tunnel::VxlanGpe { bridged } => {
            let next = if bridged { 3 } else { 1 + u8::from(v6) };
            udp([&[0x0c, 0, 0, next, 0, 0, 7, 0][..], &inside(bridged)].concat())
        }
        Tunnel::Geneve { options, bridged } => {
            let header = [&[options, 0], &type_of(bridged)[..], &[0, 0, 7, 0]].concat();
            udp([header, vec![0x5a; usize::from(options) * 4], inside(bridged)].concat())
        }
        Tunnel::Gre { key, numbered, checksum, bridged } => {
            let flags = u8::from(checksum) << 7 | u8::from(key) << 5 | u8::from(numbered) << 4;
            let mut bytes = [&[flags, 0], &type_of(bridged)[..]].concat();
            bytes.extend(if checksum { &[0; 4][..] } else { &[] });
            bytes.extend(if key { &[0, 0, 0, 9][..] } else { &[] });
            bytes.extend(if numbered { &[0, 0, 1, 0][..] } else { &[] });
            bytes.extend(inside(bridged));
            if checksum {
                let value = !sum(&[&bytes]);
                bytes[4..6].copy_from_slice(&value.to_be_bytes());
            }
            (47, bytes)
        }
        Tunnel::Erspan => {
            (47, [&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 5, 0, 0, 0, 0][..], &frame(0)].concat())
        }
        Tunnel::GreInUdp { key } => {
            let header = [&[u8::from(key) << 5, 0], &ethertype(v6)[..]].concat();
            udp([header, vec![7; if key { 4 } else { 0 }], packet.to_vec()].concat())
        }
        Tunnel::InIp => (number(v6), packet.to_vec()),
        Tunnel::EtherIp => (97, [&[0x30, 0][..], &frame(0)].concat()),
        Tunnel::EthernetInIp => (143, frame(1)),
        Tunnel::Mpls { labels: count, in_udp } => {
            let bytes = [labels(count), packet.to_vec()].concat();
            if in_udp { udp(bytes) } else { (137, bytes) }
        }
        Tunnel::Gue => udp([&[0, number(v6), 0, 0][..], packet].concat()),
        Tunnel::Fou => udp(packet.to_vec()),
    }
}

impl Nested {
    fn l4_header_len(&self) -> usize {
        match self.transport {
            Transport::Tcp => 20,
            Transport::Udp => 8,
            Transport::Sctp => 28,
        }
    }

    fn proto(&self) -> u8 {
        match self.transport {
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Sctp => 132,
        }
    }

    /// Offset and length of the checksum in the transport header.
    fn field(&self) -> (usize, usize) {
        match self.transport {
            Transport::Tcp => (16, 2),
            Transport::Udp => (6, 2),
            Transport::Sctp => (8, 4),
        }
    }

    /// The transport segment with this part of the payload, finished.
    fn segment(&self, from: usize, to: usize, at: usize) -> Vec<u8> {
        let payload = &self.payload[from..to];
        let whole = from == 0 && to == self.payload.len();
        let mut bytes = match self.transport {
            Transport::Tcp => {
                let mut flags = self.flags;
                if to < self.payload.len() {
                    flags &= !9;
                }
                if from > 0 {
                    flags &= !0x80;
                }
                let seq = self.seq.wrapping_add(from as u32).to_be_bytes();
                [&[0x30, 0x39, 0x12, 0xb5], &seq[..], &[0, 0, 0, 9, 0x50, flags, 1, 0, 0, 0, 0, 0]].concat()
            }
            Transport::Udp => {
                let len = (8 + payload.len()) as u16;
                [&[0x30, 0x39, 0x12, 0xb5], &len.to_be_bytes()[..], &[0, 0]].concat()
            }
            Transport::Sctp => {
                assert!(whole, "this test does not cut SCTP");
                let chunk = (16 + payload.len()) as u16;
                let data = [&[0, 3], &chunk.to_be_bytes()[..], &self.seq.to_be_bytes(), &[0; 8]].concat();
                [&[0x30, 0x39, 0x12, 0xb5, 1, 2, 3, 4, 0, 0, 0, 0][..], &data].concat()
            }
        };
        bytes.extend(payload);
        if self.transport == Transport::Sctp {
            let value = crc32c(&bytes);
            bytes[8..12].copy_from_slice(&value.to_le_bytes());
            return bytes;
        }
        let (field, _) = self.field();
        let value = !sum(&[&pseudo(self.v6, at, self.proto(), bytes.len()), &bytes]);
        let value = if value == 0 && self.transport == Transport::Udp { 0xffff } else { value };
        bytes[field..field + 2].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    /// The frame with this part of the payload, finished.
    fn frame(&self, from: usize, to: usize, number: usize) -> Vec<u8> {
        let heart = self.levels.len();
        let segment = self.segment(from, to, heart);
        // RFC 8754: next header, length, type, left, last, flags, tag, then the list from its end.
        let route = [&[43, 4, 4, 1, 1, 0, 0, 0][..], &address(true, heart, true), &[7; 16]].concat();
        let extension = if self.routed && self.v6 { &route[..] } else { &[] };
        let (mut v6, mut packet) =
            (self.v6, ip(self.v6, heart, (self.id, number), self.proto(), extension, &segment));
        for (at, level) in self.levels.iter().enumerate().rev() {
            let (proto, bytes) = carry(level, at, v6, &packet);
            let option: &[u8] = if level.option { &[60, 0, 4, 1, 4, 1, 1, 0] } else { &[] };
            packet = ip(level.v6, at, (level.id, number), proto, option, &bytes);
            v6 = level.v6;
        }
        if self.labels > 0 {
            let packet = [labels(self.labels), packet].concat();
            return ethernet(self.dst, self.tags, [0x88, 0x47], &packet);
        }
        ethernet(self.dst, self.tags, ethertype(v6), &packet)
    }

    /// The frames that a stack without offloads sends.
    pub fn finished(&self) -> Vec<Vec<u8>> {
        let (len, size) = (self.payload.len(), usize::from(self.size));
        let size = if size == 0 { len.max(1) } else { size };
        let starts = (0..len.max(1)).step_by(size).enumerate();
        starts.map(|(number, from)| self.frame(from, len.min(from + size), number)).collect()
    }

    /// The frame as a stack gives it to a device that finishes it. If it is to be segmented, the surrounding
    /// checksums hold the values that a kernel leaves there (the sums of pseudo-headers), or `junk`.
    pub fn given(&self, junk: u16) -> (Vec<u8>, Offload) {
        let mut bytes = self.frame(0, self.payload.len(), 0);
        let start = bytes.len() - self.l4_header_len() - self.payload.len();
        let (field, len) = self.field();
        let left = match self.transport {
            Transport::Sctp => vec![0; 4],
            _ => sum(&[&pseudo(self.v6, self.levels.len(), self.proto(), bytes.len() - start)])
                .to_be_bytes()
                .to_vec(),
        };
        bytes[start + field..start + field + len].copy_from_slice(&left);
        let cut = self.size > 0 && self.payload.len() > usize::from(self.size);
        if cut {
            self.spoil_around(&mut bytes, junk.max(1));
        }
        let gso_kind = match (cut, self.transport, self.v6) {
            (false, ..) => GsoKind::None,
            (_, Transport::Tcp, false) => GsoKind::TcpV4,
            (_, Transport::Tcp, true) => GsoKind::TcpV6,
            _ => GsoKind::Udp,
        };
        let gso_size = if cut { self.size } else { 0 };
        let (csum_start, csum_offset) = (start as u16, field as u16);
        (bytes, Offload { csum_start, csum_offset, gso_kind, gso_size, ..Offload::NONE })
    }

    /// Writes `junk` over the checksum of the outermost UDP or GRE header, if it has one.
    fn spoil_around(&self, bytes: &mut [u8], junk: u16) {
        let Some(level) = self.levels.first() else { return };
        let at = 14
            + 4 * usize::from(self.tags + self.labels)
            + if level.v6 { 40 + if level.option { 8 } else { 0 } } else { 20 };
        let field = match level.tunnel {
            Tunnel::Gre { checksum: true, .. } => at + 4,
            Tunnel::Gre { .. } | Tunnel::Erspan | Tunnel::InIp | Tunnel::EtherIp | Tunnel::EthernetInIp => {
                return;
            }
            Tunnel::Mpls { in_udp: false, .. } => return,
            _ if level.summed => at + 6,
            _ => return,
        };
        bytes[field..field + 2].copy_from_slice(&junk.to_be_bytes());
    }
}

fn tunnel() -> impl Strategy<Value = Tunnel> {
    let b = any::<bool>;
    prop_oneof![
        4 => (prop_oneof![Just(8u8), Just(0x88)], b()).prop_map(|(flags, tagged)| Tunnel::Vxlan { flags, tagged }),
        1 => b().prop_map(|bridged| Tunnel::VxlanGpe { bridged }),
        2 => (0u8..5, b()).prop_map(|(options, bridged)| Tunnel::Geneve { options, bridged }),
        2 => (b(), b(), b(), b()).prop_map(|(key, numbered, checksum, bridged)| Tunnel::Gre { key, numbered, checksum, bridged }),
        1 => Just(Tunnel::Erspan),
        1 => b().prop_map(|key| Tunnel::GreInUdp { key }),
        3 => Just(Tunnel::InIp),
        1 => Just(Tunnel::EtherIp),
        1 => Just(Tunnel::EthernetInIp),
        1 => (1u8..4, b()).prop_map(|(labels, in_udp)| Tunnel::Mpls { labels, in_udp }),
        1 => Just(Tunnel::Gue),
        1 => Just(Tunnel::Fou),
    ]
}

fn level() -> impl Strategy<Value = Level> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    // Packets to DHCP ports are refused while an inner checksum is unfinished, because guards read them.
    let guarded = [67, 68, 546, 547, 4011];
    let port = (1u16..).prop_filter("read by guards", move |port| !guarded.contains(port));
    (tunnel(), flags, (32_768u16.., port), any::<u16>()).prop_map(
        |(tunnel, (v6, option, summed), ports, id)| Level {
            tunnel,
            v6,
            option: option && v6,
            summed,
            ports,
            id,
        },
    )
}

/// A packet of up to `len_max` bytes of payload in up to three tunnels.
pub fn nested(len_max: usize) -> impl Strategy<Value = Nested> {
    let transport =
        prop_oneof![3 => Just(Transport::Tcp), 2 => Just(Transport::Udp), 1 => Just(Transport::Sctp)];
    let numbers = (any::<u32>(), any::<u16>(), prop_oneof![Just(0x10u8), Just(0x18), Just(0x91)]);
    let around = (0u8..3, prop_oneof![6 => Just(0u8), 1 => 1u8..4], proptest::collection::vec(level(), 0..4));
    (around, any::<bool>(), any::<bool>(), transport, numbers, 1..len_max, 300u16..900, any::<u8>()).prop_map(
        |((tags, labels, levels), v6, routed, transport, (seq, id, flags), len, size, seed)| {
            let sctp = transport == Transport::Sctp;
            let len = if sctp { len.min(900) } else { len };
            let size = if sctp || len <= usize::from(size) { 0 } else { size.max((len / 400) as u16) };
            let mut levels = levels;
            for level in levels.iter_mut().filter(|_| size > 0) {
                // A kernel does not leave segmentation to the device where the tunnel numbers its packets.
                match &mut level.tunnel {
                    Tunnel::Gre { numbered, .. } => *numbered = false,
                    erspan @ Tunnel::Erspan => *erspan = Tunnel::InIp,
                    _ => {}
                }
            }
            Nested {
                dst: [2, 0, 0, 0, 0, 3],
                labels,
                tags: if labels > 0 { tags.min(1) } else { tags },
                levels,
                v6,
                routed: routed && v6,
                transport,
                flags,
                seq,
                id,
                payload: (0..len).map(|n| (n as u8).wrapping_mul(31) ^ (n >> 8) as u8 ^ seed).collect(),
                size,
            }
        },
    )
}
