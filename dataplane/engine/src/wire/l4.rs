//! What the switch reads of the transport layer: ports, and where the checksum is.
//! TCP (RFC 9293 §3.1), UDP (RFC 768).

/// IGMP.
pub const IGMP: u8 = 2;
/// PIM (RFC 7761), which multicast routers speak.
pub const PIM: u8 = 103;
/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;

/// The port of DHCP servers and relays, which clients ask.
pub const DHCP_SERVER_PORT: u16 = 67;
/// The port of DHCP clients, by which they know an answer (RFC 2131 §4.1).
pub const DHCP_CLIENT_PORT: u16 = 68;
/// The port of DHCPv6 clients (RFC 8415 §7.2).
pub const DHCP6_CLIENT_PORT: u16 = 546;
/// The port of DHCPv6 servers and relays.
pub const DHCP6_SERVER_PORT: u16 = 547;
/// The port of PXE boot servers, by which their clients ask too (PXE 2.1 §2.2.1).
pub const PXE_PORT: u16 = 4011;

/// Bytes of a UDP header.
pub const UDP_HEADER_LEN: usize = 8;
/// Bytes of a TCP header without options.
pub const TCP_HEADER_LEN: usize = 20;
/// Where the checksum is in a TCP header.
pub const TCP_CHECKSUM_AT: usize = 16;
/// Where the sequence number is in a TCP header.
pub const TCP_SEQ_AT: usize = 4;
/// Where the acknowledgment number is in a TCP header.
pub const TCP_ACK_AT: usize = 8;
/// Where a TCP header's length is, in the upper half of the byte, in 32-bit words.
pub const TCP_DATA_OFFSET_AT: usize = 12;
/// Where the flags are in a TCP header.
pub const TCP_FLAGS_AT: usize = 13;
/// A connection opens.
pub const TCP_SYN: u8 = 0x02;
/// The connection is refused or reset.
pub const TCP_RST: u8 = 0x04;
/// The sender is done.
pub const TCP_FIN: u8 = 0x01;
/// Hand it to the application now.
pub const TCP_PSH: u8 = 0x08;
/// The acknowledgment number counts.
pub const TCP_ACK: u8 = 0x10;
/// Congestion window reduced (RFC 3168 §6.1.2).
pub const TCP_CWR: u8 = 0x80;
/// Where the length is in a UDP header.
pub const UDP_LEN_AT: usize = 4;
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
