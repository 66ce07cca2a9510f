//! Ethernet II and VLAN tags (IEEE 802.3 §3, 802.1Q-2018 §9).
//!
//! ```text
//!  0        6        12    14
//! +--------+--------+-----+----------      +-----+-----+-----
//! |  dst   |  src   | type| payload    or  | TPID| TCI | type ...
//! +--------+--------+-----+----------      +-----+-----+-----
//! ```

use core::fmt;

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::mac::MacAddr;

/// Length of the header without tags, in bytes.
pub const HEADER_LEN: usize = 14;
/// Length of one VLAN tag, in bytes.
pub const TAG_LEN: usize = 4;

/// IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;
/// Reverse ARP (RFC 903), by which QEMU announces a guest that has moved.
pub const TYPE_RARP: u16 = 0x8035;
/// The smallest EtherType. A smaller value is a length, and an IEEE 802.2 (LLC) header follows (802.3-2018
/// §3.2.6).
pub const TYPE_MIN: u16 = 0x0600;
/// An LLC frame that is too long to state its length (draft-ietf-isis-ext-eth-01).
pub const TYPE_LONG_LLC: u16 = 0x8870;
/// Slow protocols, such as LACP (802.3-2018 annex 57A).
pub const TYPE_SLOW: u16 = 0x8809;
/// LLDP (802.1AB).
pub const TYPE_LLDP: u16 = 0x88cc;
/// Customer VLAN tag (802.1Q).
pub const TYPE_CTAG: u16 = 0x8100;
/// MPLS labels (RFC 5332 §3); the second value was for multicast.
pub const TYPE_MPLS: [u16; 2] = [0x8847, 0x8848];
/// Service VLAN tag (802.1ad).
pub const TYPE_STAG: u16 = 0x88a8;
/// Service VLAN tags before 802.1ad, which some devices still accept.
pub const TYPE_OLD_STAGS: [u16; 3] = [0x9100, 0x9200, 0x9300];

/// The header.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ethernet {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// EtherType of the payload, or the TPID of a tag.
    pub ethertype: U16,
}

const _: () = assert!(size_of::<Ethernet>() == HEADER_LEN);

/// Whether this EtherType announces a VLAN tag.
#[inline]
#[must_use]
pub const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, TYPE_CTAG | TYPE_STAG)
}

impl fmt::Display for Ethernet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} type {:#06x}", self.src, self.dst, self.ethertype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::view;
    use alloc::string::ToString;

    #[test]
    fn literal() {
        let bytes = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45];
        let eth: &Ethernet = view(&bytes, 0).unwrap();
        assert_eq!(eth.ethertype.get(), TYPE_IPV4);
        assert_eq!(eth.to_string(), "02:00:00:00:00:02 > 02:00:00:00:00:01 type 0x0800");
        assert!(view::<Ethernet>(&bytes[..13], 0).is_none());
        assert!(is_tag(0x8100) && is_tag(0x88a8) && !is_tag(0x0800));
    }
}
