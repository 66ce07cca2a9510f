//! ICMP (RFC 792), ICMPv6 (RFC 4443) and Neighbor Discovery (RFC 4861 §4): what the switch reads and answers.
//!
//! ```text
//!  0      1      2          4              8
//! +------+------+----------+--------------+-------------------------------
//! | type | code | checksum | rest of hdr  | echo data, quoted packet, target
//! +------+------+----------+--------------+-------------------------------
//! ```

/// Bytes before the quoted packet or the echo data.
pub const HEADER_LEN: usize = 8;

/// ICMP echo reply.
pub const ECHO_REPLY: u8 = 0;
/// ICMP echo request.
pub const ECHO_REQUEST: u8 = 8;
/// ICMPv6 echo request.
pub const V6_ECHO_REQUEST: u8 = 128;
/// ICMPv6 echo reply.
pub const V6_ECHO_REPLY: u8 = 129;
/// ICMP destination unreachable; code 4 with the MTU: fragmentation needed (RFC 1191 §4).
pub const UNREACHABLE: u8 = 3;
/// Code of [`UNREACHABLE`].
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// ICMPv6 packet too big (RFC 4443 §3.2).
pub const V6_TOO_BIG: u8 = 2;
/// Router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Neighbor solicitation.
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// Neighbor advertisement.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Redirect (ICMPv6).
pub const V6_REDIRECT: u8 = 137;

/// ND option: source link-layer address.
pub const OPTION_SOURCE_MAC: u8 = 1;
/// ND option: target link-layer address.
pub const OPTION_TARGET_MAC: u8 = 2;
/// Bytes of a solicitation or advertisement with one link-layer address option.
pub const ND_LEN: usize = 32;

/// Whether this ICMP type carries a quoted packet (RFC 1122 §3.2.2).
#[inline]
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// Whether this ICMPv6 type carries a quoted packet (RFC 4443 §2.1).
#[inline]
#[must_use]
pub const fn is_v6_error(kind: u8) -> bool {
    kind < 128
}
