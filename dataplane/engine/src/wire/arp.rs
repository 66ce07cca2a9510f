//! ARP for IPv4 over Ethernet (RFC 826).
//!
//! ```text
//!  0     2     4   5   6     8         14        18        24
//! +-----+-----+---+---+-----+---------+---------+---------+---------+
//! |hw 1 |0800 | 6 | 4 | op  |sender hw|sender ip|target hw|target ip|
//! +-----+-----+---+---+-----+---------+---------+---------+---------+
//! ```

use core::fmt;

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ip::Ip;
use super::mac::MacAddr;

/// Length of the packet, in bytes.
pub const LEN: usize = 28;
/// A request.
pub const REQUEST: u16 = 1;
/// A reply.
pub const REPLY: u16 = 2;

/// The request of reverse ARP (RFC 903), which has an EtherType of its own.
pub const REVERSE_REQUEST: u16 = 3;

/// The packet.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Arp {
    /// Hardware type, 1 for Ethernet.
    pub hardware: U16,
    /// Protocol type, 0x0800 for IPv4.
    pub protocol: U16,
    /// Length of a hardware address: 6.
    pub hardware_len: u8,
    /// Length of a protocol address: 4.
    pub protocol_len: u8,
    /// [`REQUEST`] or [`REPLY`].
    pub operation: U16,
    /// MAC of the sender.
    pub sender_mac: MacAddr,
    /// IP of the sender.
    pub sender_ip: [u8; 4],
    /// MAC of the target, unknown in a request.
    pub target_mac: MacAddr,
    /// IP of the target.
    pub target_ip: [u8; 4],
}

const _: () = assert!(size_of::<Arp>() == LEN);

impl Arp {
    /// Creates a packet for IPv4 over Ethernet.
    #[must_use]
    pub fn new(operation: u16, sender: (MacAddr, [u8; 4]), target: (MacAddr, [u8; 4])) -> Self {
        Self {
            hardware: U16::new(1),
            protocol: U16::new(super::ethernet::TYPE_IPV4),
            hardware_len: 6,
            protocol_len: 4,
            operation: U16::new(operation),
            sender_mac: sender.0,
            sender_ip: sender.1,
            target_mac: target.0,
            target_ip: target.1,
        }
    }

    /// Whether this is ARP for IPv4 over Ethernet.
    #[must_use]
    pub fn is_ipv4_over_ethernet(&self) -> bool {
        self.hardware.get() == 1
            && self.protocol.get() == super::ethernet::TYPE_IPV4
            && self.hardware_len == 6
            && self.protocol_len == 4
    }
}

impl fmt::Display for Arp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sender, target) = (Ip::v4(self.sender_ip), Ip::v4(self.target_ip));
        match self.operation.get() {
            REQUEST => write!(f, "who has {target} tell {sender}"),
            _ => write!(f, "{sender} is at {}", self.sender_mac),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn literal() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let arp = Arp::new(REQUEST, (mac, [10, 0, 0, 1]), (MacAddr::ZERO, [10, 0, 0, 2]));
        assert_eq!(&arp.as_bytes()[..8], &[0, 1, 8, 0, 6, 4, 0, 1]);
        assert!(arp.is_ipv4_over_ethernet());
        assert_eq!(arp.to_string(), "who has 10.0.0.2 tell 10.0.0.1");
    }
}
