//! BIG TCP: a GSO packet longer than the length field of an IP header can express, and longer than any slot. A host makes
//! such packets after `ip link set DEV gso_max_size`. Their length field is zero; IPv6 has the length in a
//! hop-by-hop option (RFC 2675 §2). The port splits them into GSO packets of usual size on receipt, so the rest of
//! the pipeline never sees one.

use super::layers::Shells;
use super::segment::Cut;
use super::{network_layer, payload_at};
use crate::frame::{GsoKind, Offload};
use crate::limits::SEGMENTS_MAX;
use crate::wire::checksum::{fold, sum};
use crate::wire::{ethernet, ipv4, ipv6, l4, word};

/// Length of the longest ordinary frame: two tags and an IP packet.
pub const USUAL_MAX: usize = ethernet::HEADER_LEN + 2 * ethernet::TAG_LEN + 0xffff;

/// Length of the hop-by-hop header that holds just the jumbo option.
const JUMBO_LEN: usize = 8;

/// How to split one frame.
#[derive(Debug)]
pub struct Big {
    cut: Cut,
    offload: Offload,
}

impl Big {
    /// Reads a whole frame and removes the hop-by-hop option. Returns how to split the frame, and the offset at which it
    /// starts now. `None` when the frame is an ordinary one; the frame is then unchanged.
    #[must_use]
    pub fn open(frame: &mut [u8], offload: Offload) -> Option<(Self, usize)> {
        let (l3, ethertype) = network_layer(frame)?;
        let (v4, kind) = match ethertype {
            ethernet::TYPE_IPV4 => (true, GsoKind::TcpV4),
            ethernet::TYPE_IPV6 => (false, GsoKind::TcpV6),
            _ => return None,
        };
        let (open_len, header_len, proto_at, addresses) = match v4 {
            true => (ipv4::TOTAL_LEN_AT, ipv4::HEADER_LEN, ipv4::PROTOCOL_AT, 12..20),
            false => (ipv6::PAYLOAD_LEN_AT, ipv6::HEADER_LEN, ipv6::NEXT_HEADER_AT, 8..40),
        };
        let ip = frame.get(l3..l3 + header_len).filter(|ip| word(ip, open_len) == 0)?;
        let option = !v4 && ip[proto_at] == 0 && is_jumbo(frame.get(l3 + header_len..)?);
        let behind = l3 + if v4 { usize::from(ip[0] & 0xf) * 4 } else { header_len };
        let next = if option { frame[behind] } else { ip[proto_at] };
        let given = usize::from(offload.csum_start);
        let fits = ip[0] >> 4 == if v4 { 4 } else { 6 }
            && next == l4::TCP
            && offload.gso_kind == kind
            && offload.gso_size > 0
            && given == behind + if option { JUMBO_LEN } else { 0 }
            && behind >= l3 + header_len;
        let payload = payload_at(frame, given, kind);
        let room = 0xffff_usize.checked_sub(payload.checked_sub(l3)?)?;
        let segments = (room / usize::from(offload.gso_size.max(1))).min(SEGMENTS_MAX);
        if !fits || payload < given + l4::TCP_HEADER_LEN || payload >= frame.len() || segments == 0 {
            return None;
        }
        let pseudo = fold(u32::from(sum(&ip[addresses])) + u32::from(l4::TCP));
        let skip = if option { JUMBO_LEN } else { 0 };
        if option {
            frame.copy_within(..behind, skip);
            frame[skip + l3 + proto_at] = next;
        }
        let offload =
            Offload { csum_start: (given - skip) as u16, csum_offset: l4::TCP_CHECKSUM_AT as u16, ..offload };
        let cut = Cut {
            l3,
            l4: given - skip,
            payload: payload - skip,
            end: frame.len() - skip,
            gso_size: segments * usize::from(offload.gso_size),
            count: 0,
            ids: segments as u16,
            v4,
            tcp: true,
            cwr_in_all: offload.cwr_in_all,
            pseudo,
            shells: Shells::new(),
        };
        Some((Self { cut: cut.counted(), offload }, skip))
    }

    /// Number of GSO packets that the frame becomes.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.cut.count()
    }

    /// Length of GSO packet `index`, in bytes.
    #[must_use]
    pub const fn len(&self, index: usize) -> usize {
        self.cut.len(index)
    }

    /// Writes GSO packet `index`. `from` is the frame from its new start on. Returns the offload facts of the packet.
    #[must_use]
    pub fn write(&self, from: &[u8], index: usize, to: &mut [u8]) -> Offload {
        self.cut.write(from, index, to, true);
        if to.len() - self.cut.payload > usize::from(self.offload.gso_size) {
            self.offload
        } else {
            self.cut.partial()
        }
    }
}

/// Whether a hop-by-hop header holds just the length of a jumbogram.
fn is_jumbo(header: &[u8]) -> bool {
    matches!(header, [_, 0, 0xc2, 4, ..]) && header.len() >= JUMBO_LEN
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};

    /// A frame with `len` bytes of payload, as a kernel hands it over.
    fn frame(v6: bool, option: bool, tags: usize, len: usize) -> (Vec<u8>, Offload) {
        let payload: Vec<u8> = (0..len).map(|n| (n % 253) as u8).collect();
        let eth = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut bytes = Vec::new();
        let small = &payload[..1];
        if v6 {
            eth.ipv6([1; 16], [2; 16], 64)
                .tcp(1, 2, u32::MAX - 9, 50)
                .fin()
                .psh()
                .write(&mut bytes, small)
                .unwrap();
        } else {
            eth.ipv4([1; 4], [2; 4], 64)
                .tcp(1, 2, u32::MAX - 9, 50)
                .fin()
                .psh()
                .write(&mut bytes, small)
                .unwrap();
        }
        let behind = if v6 { 54 } else { 34 };
        bytes.truncate(bytes.len() - 1);
        bytes.extend(&payload);
        bytes[if v6 { 18..20 } else { 16..18 }].fill(0);
        bytes[behind + 13] |= l4::TCP_ACK;
        let mut start = behind;
        if option {
            let jumbo = [&[6, 0, 0xc2, 4][..], &((bytes.len() - behind + 8) as u32).to_be_bytes()].concat();
            bytes.splice(behind..behind, jumbo);
            bytes[20] = 0;
            start += 8;
        }
        let tag: Vec<u8> = (0..tags).flat_map(|n| [0x81, 0, 0, n as u8]).collect();
        bytes.splice(12..12, tag);
        let gso_kind = if v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
        let csum_start = (start + 4 * tags) as u16;
        (bytes, Offload { csum_start, csum_offset: 16, gso_kind, gso_size: 1428, ..Offload::NONE })
    }

    /// Every GSO packet is one that a kernel could have made in the first place, and together they carry the payload.
    #[test]
    fn split_and_whole_again() {
        for (v6, option, tags, len) in [
            (true, true, 0, 198_000),
            (true, false, 1, 70_000),
            (false, false, 2, 130_000),
            (true, true, 1, 524_000),
        ] {
            let (mut bytes, offload) = frame(v6, option, tags, len);
            let before = bytes.clone();
            let (big, skip) = Big::open(&mut bytes, offload).unwrap();
            assert_eq!(skip, if option { 8 } else { 0 });
            let (mut sent, mut ids) = (0, 0);
            for index in 0..big.count() {
                let mut part = vec![0; big.len(index)];
                let facts = big.write(&bytes[skip..], index, &mut part);
                assert!(part.len() <= USUAL_MAX);
                let p = PacketHeaders::from_ethernet_slice(&part).unwrap();
                let Some(TransportHeader::Tcp(tcp)) = p.transport else { panic!("TCP") };
                let last = index + 1 == big.count();
                assert_eq!((tcp.fin, tcp.psh, tcp.ack), (last, last, true));
                assert_eq!(tcp.sequence_number, (u32::MAX - 9).wrapping_add(sent as u32));
                let payload = p.payload.slice();
                assert_eq!(payload, &before[before.len() - len + sent..][..payload.len()]);
                if let Some(etherparse::NetHeaders::Ipv4(ip, _)) = p.net {
                    assert_eq!(usize::from(ip.identification), ids);
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                }
                // The checksum field holds the pseudo-header's sum.
                let start = usize::from(facts.csum_start);
                let pseudo = crate::wire::checksum::pseudo;
                let (src, dst) = if v6 { ([1; 16], [2; 16]) } else { ([0; 16], [0; 16]) };
                let ip = crate::wire::ip::Ip::v6;
                let v4 = crate::wire::ip::Ip::v4;
                let (src, dst) = if v6 { (ip(src), ip(dst)) } else { (v4([1; 4]), v4([2; 4])) };
                assert_eq!(tcp.checksum, pseudo(src, dst, 6, (part.len() - start) as u32));
                sent += payload.len();
                ids += payload.len().div_ceil(1428);
                assert_eq!(
                    facts,
                    if facts.gso_size == 0 {
                        Offload { gso_kind: GsoKind::None, gso_size: 0, ..facts }
                    } else {
                        Offload { csum_start: facts.csum_start, ..offload }
                    }
                );
            }
            assert_eq!(sent, len);
        }
    }

    /// Any other frame stays unchanged.
    #[test]
    fn others() {
        let (bytes, offload) = frame(true, true, 0, 70_000);
        let not = |change: fn(&mut Vec<u8>, &mut Offload)| {
            let (mut bytes, mut offload) = (bytes.clone(), offload);
            change(&mut bytes, &mut offload);
            let before = bytes.clone();
            assert!(Big::open(&mut bytes, offload).is_none());
            assert_eq!(bytes, before);
        };
        not(|bytes, _| bytes[18] = 1);
        not(|bytes, _| bytes[54] = 17);
        not(|bytes, _| bytes[56] = 5);
        not(|bytes, _| bytes[12] = 9);
        not(|bytes, _| bytes.truncate(70));
        not(|bytes, _| bytes.truncate(82));
        not(|_, offload| offload.csum_start = 54);
        not(|_, offload| offload.gso_size = 0);
        not(|_, offload| offload.gso_size = u16::MAX);
        not(|_, offload| offload.gso_kind = GsoKind::TcpV4);
        not(|_, offload| offload.gso_kind = GsoKind::Udp);
    }
}
