//! What the switch reads of the transport layer: ports, and where the checksum is.
//! TCP (RFC 9293 §3.1), UDP (RFC 768).

/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;

/// Bytes of a UDP header.
pub const UDP_HEADER_LEN: usize = 8;
/// Bytes of a TCP header without options.
pub const TCP_HEADER_LEN: usize = 20;
/// Where the checksum is in a TCP header.
pub const TCP_CHECKSUM_AT: usize = 16;
/// Where the checksum is in a UDP header.
pub const UDP_CHECKSUM_AT: usize = 6;
/// Where the checksum is in an ICMP header of either family.
pub const ICMP_CHECKSUM_AT: usize = 2;

/// Where the checksum covering the pseudo-header is in a header of `protocol`, if it has one.
#[inline]
#[must_use]
pub const fn pseudo_checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(TCP_CHECKSUM_AT),
        UDP => Some(UDP_CHECKSUM_AT),
        ICMPV6 => Some(ICMP_CHECKSUM_AT),
        _ => None,
    }
}
