//! Fields of the outer IP header that the configuration chooses.

use crate::limits::OUTER_TTL;

/// The TTL and TOS of tunnel packets to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OuterIp {
    /// TTL, or hop limit. A relayed frame continues with the rest of its own.
    pub ttl: OuterField,
    /// TOS, or traffic class, of which the lower two bits are ECN's (RFC 6040).
    pub tos: OuterField,
}

/// Where a field of an outer IP header comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OuterField {
    /// Always this.
    Fixed(u8),
    /// From the inner IP packet. A frame without one gets the default.
    Inherit,
}

impl Default for OuterIp {
    fn default() -> Self {
        Self { ttl: OuterField::Fixed(OUTER_TTL), tos: OuterField::Fixed(0) }
    }
}
