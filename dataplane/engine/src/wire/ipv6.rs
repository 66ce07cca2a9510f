//! IPv6 (RFC 8200 §3) and its extension headers (§4).
//!
//! ```text
//!  0               4               6        7     8          24
//! +---------------+---------------+--------+-----+----------+----------+
//! |ver, class,flow|payload length |next hdr| hops|   src    |   dst    |
//! +---------------+---------------+--------+-----+----------+----------+
//! ```

use core::fmt;

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ip::Ip;
use crate::limits::IPV6_EXTENSIONS_MAX;

/// Length of the fixed header, in bytes.
pub const HEADER_LEN: usize = 40;
/// Offset of the payload length.
pub const PAYLOAD_LEN_AT: usize = 4;
/// Offset of the next header field.
pub const NEXT_HEADER_AT: usize = 6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Whether this protocol number is that of an extension header that [`upper_layer`] reads past.
#[must_use]
pub const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | DESTINATION)
}

/// The fixed header.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (6), traffic class, flow label.
    pub version_class_flow: U32,
    /// Number of bytes after this header.
    pub payload_len: U16,
    /// Type of the following header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: [u8; 16],
    /// Destination.
    pub dst: [u8; 16],
}

const _: () = assert!(size_of::<Ipv6>() == HEADER_LEN);

impl Ipv6 {
    /// Whether the version is 6.
    #[inline]
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.version_class_flow.get() >> 28 == 6
    }

    /// Traffic class: DSCP and ECN.
    #[inline]
    #[must_use]
    pub fn class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// The source as a key.
    #[inline]
    #[must_use]
    pub fn src_ip(&self) -> Ip {
        Ip::v6(self.src)
    }

    /// The destination as a key.
    #[inline]
    #[must_use]
    pub fn dst_ip(&self) -> Ip {
        Ip::v6(self.dst)
    }
}

impl fmt::Display for Ipv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst) = (self.src_ip(), self.dst_ip());
        write!(f, "{src} > {dst} next {} hops {}", self.next_header, self.hop_limit)
    }
}

/// The end of the chain of extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpperLayer {
    /// Protocol of the upper layer.
    pub protocol: u8,
    /// Offset of the upper layer in the packet.
    pub offset: usize,
    /// Offset in the packet of the field that names its protocol.
    pub named_at: usize,
    /// The packet is a fragment.
    pub fragment: bool,
    /// The packet is not the first fragment, so it lacks the upper-layer header.
    pub later_fragment: bool,
    /// The packet has a fragment header, even if that only says that the packet is whole (RFC 6946).
    pub fragment_header: bool,
    /// Extension headers follow the fragment header, in the fragmentable part.
    pub behind_fragment: bool,
    /// Offset of the fragment in the fragmentable part, in bytes.
    pub place: usize,
}

/// Finds the upper layer of `packet`, which starts with the fixed header. `None` when the chain is truncated
/// or longer than [`IPV6_EXTENSIONS_MAX`].
#[inline]
#[must_use]
pub fn upper_layer(packet: &[u8]) -> Option<UpperLayer> {
    let mut at = UpperLayer {
        protocol: *packet.get(NEXT_HEADER_AT)?,
        offset: HEADER_LEN,
        named_at: NEXT_HEADER_AT,
        fragment: false,
        later_fragment: false,
        fragment_header: false,
        behind_fragment: false,
        place: 0,
    };
    for _ in 0..IPV6_EXTENSIONS_MAX {
        match at.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                at.behind_fragment |= at.fragment_header;
                let header = packet.get(at.offset..at.offset + 8)?;
                at.protocol = header[0];
                at.named_at = at.offset;
                at.offset += 8 + usize::from(header[1]) * 8;
            }
            FRAGMENT => {
                let header = packet.get(at.offset..at.offset + 8)?;
                let offset_more = u16::from_be_bytes([header[2], header[3]]);
                at.behind_fragment |= at.fragment_header;
                at.fragment_header = true;
                at.fragment = at.fragment || offset_more & 0xfff9 != 0;
                at.protocol = header[0];
                at.named_at = at.offset;
                at.offset += 8;
                if offset_more & 0xfff8 != 0 {
                    at.later_fragment = true;
                    at.place = usize::from(offset_more & 0xfff8);
                    at.behind_fragment |= is_extension(at.protocol) || at.protocol == FRAGMENT;
                    return Some(at);
                }
            }
            _ => return Some(at),
        }
    }
    None
}

/// The identification of a fragment (RFC 8200 §4.5). `None` when the packet is not a fragment.
#[must_use]
pub fn fragment_id(packet: &[u8]) -> Option<u32> {
    let (mut protocol, mut at) = (*packet.get(NEXT_HEADER_AT)?, HEADER_LEN);
    for _ in 0..IPV6_EXTENSIONS_MAX {
        let header: &[u8; 8] = packet.get(at..)?.first_chunk()?;
        match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => at += 8 + usize::from(header[1]) * 8,
            FRAGMENT => return Some(u32::from_be_bytes([header[4], header[5], header[6], header[7]])),
            _ => return None,
        }
        protocol = header[0];
    }
    None
}

/// The last destination in a routing header, which transport checksums cover (RFC 8200 §8.1). `None` when no
/// destination is left to visit; then the one in the fixed header counts.
#[must_use]
pub fn routed_to(packet: &[u8]) -> Option<Ip> {
    /// Type of a segment routing header, whose list starts with the last segment (RFC 8754 §2).
    const SEGMENTS: u8 = 4;
    let (mut next, mut at) = (*packet.get(NEXT_HEADER_AT)?, HEADER_LEN);
    for _ in 0..IPV6_EXTENSIONS_MAX {
        let header = packet.get(at..at + 8)?;
        let len = 8 + usize::from(header[1]) * 8;
        match next {
            ROUTING => {
                let left = header[3];
                let last = if header[2] == SEGMENTS { at + 8 } else { (at + len).checked_sub(16)? };
                let address = packet.get(last..)?.first_chunk::<16>()?;
                return (left > 0 && last >= at + 8).then_some(Ip::v6(*address));
            }
            HOP_BY_HOP | DESTINATION => (next, at) = (header[0], at + len),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn packet(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut p = vec![0; HEADER_LEN];
        p[0] = 0x60;
        p[6] = next;
        p.extend_from_slice(rest);
        p
    }

    #[test]
    fn walks_extensions() {
        let plain = upper_layer(&packet(17, &[0; 8])).unwrap();
        assert_eq!((plain.protocol, plain.offset, plain.fragment), (17, 40, false));
        let hop = upper_layer(&packet(0, &[6, 0, 0, 0, 0, 0, 0, 0])).unwrap();
        assert_eq!((hop.protocol, hop.offset), (6, 48));
        let first = upper_layer(&packet(44, &[17, 0, 0, 1, 0, 0, 0, 9])).unwrap();
        assert!(first.fragment && !first.later_fragment);
        assert!(first.fragment_header && !first.behind_fragment);
        let atomic = upper_layer(&packet(44, &[58, 0, 0, 0, 0, 0, 0, 9])).unwrap();
        assert!(atomic.fragment_header && !atomic.fragment && !atomic.behind_fragment);
        let hidden =
            upper_layer(&packet(44, &[60, 0, 0, 1, 0, 0, 0, 9, 17, 0, 1, 4, 0, 0, 0, 0, 0, 0])).unwrap();
        assert!(hidden.behind_fragment && hidden.protocol == 17);
        let twice = upper_layer(&packet(44, &[44, 0, 0, 0, 0, 0, 0, 9, 17, 0, 0, 1, 0, 0, 0, 9])).unwrap();
        assert!(twice.behind_fragment && twice.fragment);
        let before = upper_layer(&packet(60, &[44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9])).unwrap();
        assert!(before.fragment_header && !before.behind_fragment);
        let later = upper_layer(&packet(44, &[17, 0, 0, 8, 0, 0, 0, 9])).unwrap();
        assert!(later.later_fragment && later.place == 8 && !later.behind_fragment);
        assert_eq!((hop.named_at, later.named_at), (40, 40));
        let later = upper_layer(&packet(44, &[60, 0, 4, 1, 0, 0, 0, 9])).unwrap();
        assert!(later.later_fragment && later.place == 1024 && later.behind_fragment);
        let id = [60, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 8, 1, 2, 3, 4];
        assert_eq!(fragment_id(&packet(0, &id)), Some(0x0102_0304));
        assert_eq!(fragment_id(&packet(17, &[0; 8])), None);
        assert_eq!(upper_layer(&packet(0, &[6, 0])), None);
        assert_eq!(upper_layer(&packet(0, &[0; 100])), None);
    }
    /// Type 2 (RFC 6275 §6.4) holds one address, segment routing a list in reverse order. An address that was
    /// already visited no longer counts.
    #[test]
    fn the_last_of_a_route() {
        let address = |n: u8| [[0xfd; 15].as_slice(), &[n]].concat();
        let home = [&[6, 2, 2, 1, 0, 0, 0, 0][..], &address(9)].concat();
        assert_eq!(routed_to(&packet(43, &home)), Some(Ip::v6(address(9).try_into().unwrap())));
        let mut list = [&[6, 4, 4, 1, 1, 0, 0, 0][..], &address(7), &address(8)].concat();
        assert_eq!(routed_to(&packet(43, &list)), Some(Ip::v6(address(7).try_into().unwrap())));
        let behind = [&[43, 0, 0, 0, 0, 0, 0, 0][..], &list].concat();
        assert_eq!(routed_to(&packet(60, &behind)), Some(Ip::v6(address(7).try_into().unwrap())));
        list[3] = 0;
        assert_eq!(routed_to(&packet(43, &list)), None);
        assert_eq!(routed_to(&packet(43, &[6, 0, 2, 1, 0, 0, 0, 0])), None);
        assert_eq!(routed_to(&packet(17, &[0; 8])), None);
    }
}
