//! ICMP (RFC 792), ICMPv6 (RFC 4443) and Neighbor Discovery (RFC 4861 §4): the messages that the switch reads
//! and writes.
//!
//! ```text
//!  0      1      2          4              8
//! +------+------+----------+--------------+-------------------------------
//! | type | code | checksum | rest of hdr  | echo data, quoted packet, target
//! +------+------+----------+--------------+-------------------------------
//! ```

/// Length of the header before the quoted packet or the echo data, in bytes.
pub const HEADER_LEN: usize = 8;

/// ICMP echo reply.
pub const ECHO_REPLY: u8 = 0;
/// ICMP echo request.
pub const ECHO_REQUEST: u8 = 8;
/// ICMPv6 echo request.
pub const V6_ECHO_REQUEST: u8 = 128;
/// ICMPv6 echo reply.
pub const V6_ECHO_REPLY: u8 = 129;
/// ICMP destination unreachable (RFC 792; codes: RFC 1812 §5.2.7.1).
pub const UNREACHABLE: u8 = 3;
/// Code of [`UNREACHABLE`]: no route to the destination's network.
pub const NET: u8 = 0;
/// Code of [`UNREACHABLE`]: the last router cannot reach the host.
pub const HOST: u8 = 1;
/// Code of [`UNREACHABLE`]: the host does not support the protocol.
pub const PROTOCOL: u8 = 2;
/// Code of [`UNREACHABLE`]: the host does not serve the port.
pub const PORT: u8 = 3;
/// Code of [`UNREACHABLE`], with the MTU: fragmentation needed (RFC 1191 §4).
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Code of [`UNREACHABLE`]: communication administratively prohibited.
pub const PROHIBITED: u8 = 13;
/// ICMP time exceeded; code 0: in transit.
pub const TIME_EXCEEDED: u8 = 11;
/// ICMPv6 destination unreachable (RFC 4443 §3.1).
pub const V6_UNREACHABLE: u8 = 1;
/// Code of [`V6_UNREACHABLE`]: no route to the destination.
pub const V6_NO_ROUTE: u8 = 0;
/// Code of [`V6_UNREACHABLE`]: communication administratively prohibited.
pub const V6_PROHIBITED: u8 = 1;
/// Code of [`V6_UNREACHABLE`]: the address does not answer.
pub const V6_ADDRESS: u8 = 3;
/// Code of [`V6_UNREACHABLE`]: the host does not serve the port.
pub const V6_PORT: u8 = 4;
/// ICMPv6 packet too big (RFC 4443 §3.2).
pub const V6_TOO_BIG: u8 = 2;
/// ICMPv6 time exceeded (RFC 4443 §3.3); code 0: in transit.
pub const V6_TIME_EXCEEDED: u8 = 3;
/// ICMPv6 parameter problem (RFC 4443 §3.4).
pub const V6_PARAMETER_PROBLEM: u8 = 4;
/// Code of [`V6_PARAMETER_PROBLEM`]: the message points to an unrecognized next header.
pub const V6_NEXT_HEADER: u8 = 1;
/// ICMP redirect (RFC 792), by which a router sends hosts to another.
pub const REDIRECT: u8 = 5;
/// ICMP router advertisement (RFC 1256).
pub const V4_ROUTER_ADVERTISEMENT: u8 = 9;
/// Multicast listener query (RFC 2710, RFC 9777).
pub const LISTENER_QUERY: u8 = 130;
/// Multicast listener report, version 1.
pub const LISTENER_REPORT: u8 = 131;
/// Multicast listener done.
pub const LISTENER_DONE: u8 = 132;
/// Router solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// Router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Neighbor solicitation.
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// Neighbor advertisement.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Redirect (ICMPv6).
pub const V6_REDIRECT: u8 = 137;
/// Router renumbering (RFC 2894).
pub const ROUTER_RENUMBERING: u8 = 138;
/// Inverse neighbor discovery solicitation (RFC 3122): ND for links without addresses, unlike Ethernet.
pub const INVERSE_SOLICITATION: u8 = 141;
/// Inverse neighbor discovery advertisement.
pub const INVERSE_ADVERTISEMENT: u8 = 142;
/// Multicast listener report, version 2.
pub const LISTENER_REPORT_V2: u8 = 143;
/// Multicast router advertisement (RFC 4286).
pub const MULTICAST_ROUTER_ADVERTISEMENT: u8 = 151;
/// Certification path advertisement (RFC 3971), the last message of ND that RFC 6980 forbids in fragments.
pub const PATH_ADVERTISEMENT: u8 = 149;

/// ND option: source link-layer address.
pub const OPTION_SOURCE_MAC: u8 = 1;
/// ND option: target link-layer address.
pub const OPTION_TARGET_MAC: u8 = 2;
/// Length in bytes of a solicitation or advertisement with one link-layer address option.
pub const ND_LEN: usize = 32;

/// Whether this ICMP type carries a quoted packet (RFC 1122 §3.2.2).
#[inline]
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// Whether this ICMPv6 type is an ND message, which must not be fragmented (RFC 6980 §5).
#[must_use]
pub const fn is_nd(kind: u8) -> bool {
    matches!(kind, ROUTER_SOLICITATION..=V6_REDIRECT | PATH_ADVERTISEMENT)
}

/// Whether this ICMPv6 type carries a quoted packet (RFC 4443 §2.1).
#[inline]
#[must_use]
pub const fn is_v6_error(kind: u8) -> bool {
    kind < 128
}
