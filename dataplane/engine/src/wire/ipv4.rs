//! IPv4 (RFC 791 §3.1).
//!
//! ```text
//!  0        1        2               4               6        8   9     10       12       16
//! +--------+--------+---------------+---------------+--------+---+-----+--------+--------+--------+
//! |ver ihl |TOS/ECN | total length  | identification|flg,off |TTL|proto|checksum|  src   |  dst   |
//! +--------+--------+---------------+---------------+--------+---+-----+--------+--------+--------+
//! ```

use core::fmt;

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ip::Ip;
use super::{checksum, set_word, word};

/// Length of a header without options, in bytes.
pub const HEADER_LEN: usize = 20;
/// More-fragments flag in `flags_offset`.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Don't-fragment flag in `flags_offset`.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// More-fragments flag and the fragment offset: zero for a whole packet.
pub const FRAGMENT_MASK: u16 = 0x3fff;
/// The fragment offset alone.
pub const OFFSET_MASK: u16 = 0x1fff;
/// Offset of the total length.
pub const TOTAL_LEN_AT: usize = 2;
/// Offset of the identification.
pub const ID_AT: usize = 4;
/// Offset of flags and fragment offset.
pub const FLAGS_OFFSET_AT: usize = 6;
/// Offset of the protocol.
pub const PROTOCOL_AT: usize = 9;
/// Offset of the TTL.
pub const TTL_AT: usize = 8;
/// Offset of the checksum.
pub const CHECKSUM_AT: usize = 10;

/// The fixed part of the header.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (4) and header length in 32-bit words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of the whole packet, in bytes.
    pub total_len: U16,
    /// Identification.
    pub id: U16,
    /// Flags and fragment offset.
    pub flags_offset: U16,
    /// Hop limit.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: U16,
    /// Source.
    pub src: [u8; 4],
    /// Destination.
    pub dst: [u8; 4],
}

const _: () = assert!(size_of::<Ipv4>() == HEADER_LEN);

/// Whether the packet forbids fragmentation. Its header has to be complete.
#[must_use]
pub fn may_not_fragment(packet: &[u8]) -> bool {
    word(packet, FLAGS_OFFSET_AT) & DONT_FRAGMENT != 0
}

/// Writes the checksum of a header, options included.
pub fn seal(header: &mut [u8]) {
    set_word(header, CHECKSUM_AT, 0);
    let sum = !checksum::sum(header);
    set_word(header, CHECKSUM_AT, sum);
}

/// Whether the checksum of the packet's header is right (RFC 1812 §5.2.2).
#[must_use]
pub fn is_sound(packet: &[u8]) -> bool {
    let len = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    packet.get(..len).is_some_and(|header| checksum::sum(header) == 0xffff)
}

impl Ipv4 {
    /// Length of the header in bytes, options included; `None` when version or length is impossible.
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> Option<usize> {
        let len = usize::from(self.version_ihl & 0x0f) * 4;
        if self.version_ihl >> 4 == 4 && len >= HEADER_LEN && usize::from(self.total_len.get()) >= len {
            Some(len)
        } else {
            None
        }
    }

    /// The source as a key.
    #[inline]
    #[must_use]
    pub fn src_ip(&self) -> Ip {
        Ip::v4(self.src)
    }

    /// The destination as a key.
    #[inline]
    #[must_use]
    pub fn dst_ip(&self) -> Ip {
        Ip::v4(self.dst)
    }
}

impl fmt::Display for Ipv4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst) = (self.src_ip(), self.dst_ip());
        write!(f, "{src} > {dst} proto {} ttl {} len {}", self.protocol, self.ttl, self.total_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::view;
    use alloc::string::ToString;

    #[test]
    fn literal() {
        let bytes = [0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 11, 10, 0, 0, 12];
        let ip: &Ipv4 = view(&bytes, 0).unwrap();
        assert_eq!(ip.header_len(), Some(20));
        assert_eq!(ip.to_string(), "10.0.0.11 > 10.0.0.12 proto 17 ttl 64 len 28");
        let mut bad = bytes;
        bad[0] = 0x44;
        assert_eq!(view::<Ipv4>(&bad, 0).unwrap().header_len(), None);
    }
}
