//! The parts of transport headers that the switch reads: ports, and the offset of the checksum. TCP (RFC 9293
//! §3.1), UDP (RFC 768).

/// IGMP.
pub const IGMP: u8 = 2;
/// PIM (RFC 7761), the protocol of multicast routers.
pub const PIM: u8 = 103;
/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;

/// The port of DHCP servers and relays, to which clients send.
pub const DHCP_SERVER_PORT: u16 = 67;
/// The port of DHCP clients, by which they recognise an answer (RFC 2131 §4.1).
pub const DHCP_CLIENT_PORT: u16 = 68;
/// The port of DHCPv6 clients (RFC 8415 §7.2).
pub const DHCP6_CLIENT_PORT: u16 = 546;
/// The port of DHCPv6 servers and relays.
pub const DHCP6_SERVER_PORT: u16 = 547;
/// The port of PXE boot servers, to which their clients also send (PXE 2.1 §2.2.1).
pub const PXE_PORT: u16 = 4011;

/// Length of a UDP header, in bytes.
pub const UDP_HEADER_LEN: usize = 8;
/// Length of a TCP header without options, in bytes.
pub const TCP_HEADER_LEN: usize = 20;
/// Offset of the checksum in a TCP header.
pub const TCP_CHECKSUM_AT: usize = 16;
/// Offset of the sequence number in a TCP header.
pub const TCP_SEQ_AT: usize = 4;
/// Offset of the acknowledgment number in a TCP header.
pub const TCP_ACK_AT: usize = 8;
/// Offset of the byte with a TCP header's length, in its upper half, in 32-bit words.
pub const TCP_DATA_OFFSET_AT: usize = 12;
/// Offset of the flags in a TCP header.
pub const TCP_FLAGS_AT: usize = 13;
/// Flag: opens a connection.
pub const TCP_SYN: u8 = 0x02;
/// Flag: refuses or resets a connection.
pub const TCP_RST: u8 = 0x04;
/// Flag: the sender has no more data.
pub const TCP_FIN: u8 = 0x01;
/// Flag: pass the data to the application now.
pub const TCP_PSH: u8 = 0x08;
/// Flag: the acknowledgment number is valid.
pub const TCP_ACK: u8 = 0x10;
/// Flag: congestion window reduced (RFC 3168 §6.1.2).
pub const TCP_CWR: u8 = 0x80;
/// Offset of the length in a UDP header.
pub const UDP_LEN_AT: usize = 4;
/// Offset of the checksum in a UDP header.
pub const UDP_CHECKSUM_AT: usize = 6;
/// Offset of the checksum in an ICMP header of either family.
pub const ICMP_CHECKSUM_AT: usize = 2;

/// Offset of the checksum over the pseudo-header in a header of `protocol`, if it has one.
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
