//! MAC addresses (IEEE 802-2014 §8.2).

use core::fmt;
use core::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A 48-bit MAC address.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// 00:00:00:00:00:00, which is never a station's address.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether the group bit is set (broadcast included).
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this may be the source address of a frame.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != Self::ZERO
    }

    /// 01-80-C2-00-00-00 to -0F: consumed by the first bridge, never forwarded (802.1Q-2018 §8.6.3).
    #[must_use]
    pub const fn is_link_local_group(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
    }

    /// 01-80-C2-00-00-00 and -08, to which bridges and provider bridges send BPDUs (802.1Q-2018 table 8-1,
    /// 8-2); and 01-00-0C-CC-CC-CD, to which Cisco's bridges send one BPDU per VLAN (PVST+).
    #[must_use]
    pub const fn is_bridge_group(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00 | 0x08]) || self.is_pvst_group()
    }

    /// 01-00-0C-CC-CC-CD: the group of PVST+.
    #[must_use]
    pub const fn is_pvst_group(self) -> bool {
        matches!(self.0, [0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd])
    }

    /// A group for messages between bridges and switches: 01-80-C2-00-00-00 to -0F and -20 to -2F
    /// (802.1Q-2018 tables 8-1 and 10-1: spanning tree, and GARP and MRP, which register VLANs), and Cisco's
    /// 01-00-0C-CC-CC-CC (CDP, VTP, DTP), -CD and 01-00-0C-CD-CD-CD.
    #[must_use]
    pub const fn is_control_group(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f | 0x20..=0x3f])
            || matches!(
                self.0,
                [0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc | 0xcd] | [0x01, 0x00, 0x0c, 0xcd, 0xcd, 0xcd]
            )
    }

    /// The IPv6 link-local address that a host derives from its MAC (RFC 4291 §2.5.6 and appendix A).
    #[must_use]
    pub const fn link_local(self) -> [u8; 16] {
        let m = self.0;
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]]
    }

    /// 02:69:77:…: a switch's own address on every network, which the agent derives from the rVM's name.
    #[inline]
    #[must_use]
    pub const fn is_switch(self) -> bool {
        matches!(self.0, [0x02, 0x69, 0x77, ..])
    }

    /// The address as the low 48 bits of an integer.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        let m = self.0;
        u64::from_be_bytes([0, 0, m[0], m[1], m[2], m[3], m[4], m[5]])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six hexadecimal octets separated by colons.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacAddrError;

impl fmt::Display for MacAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MAC address is six hexadecimal octets separated by colons, like 02:00:00:00:00:01")
    }
}

impl core::error::Error for MacAddrError {}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(s: &str) -> Result<Self, MacAddrError> {
        let mut mac = [0; 6];
        let mut parts = s.split(':');
        for byte in &mut mac {
            let part = parts.next().ok_or(MacAddrError)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacAddrError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacAddrError)?;
        }
        if parts.next().is_some() { Err(MacAddrError) } else { Ok(Self(mac)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn text_round_trip() {
        let mac: MacAddr = "02:00:0a:01:00:ff".parse().unwrap();
        assert_eq!(mac, MacAddr([2, 0, 10, 1, 0, 255]));
        assert_eq!(mac.to_string(), "02:00:0a:01:00:ff");
        for bad in [
            "",
            "02:00",
            "02:00:0a:01:00:ff:00",
            "02:00:0a:01:00:zz",
            "02:00:0a:01:00:+f",
            "0200:0a:01:00:ff",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds() {
        assert!(MacAddr::BROADCAST.is_multicast());
        assert!(!MacAddr::ZERO.is_unicast());
        assert!(MacAddr([1, 0x80, 0xc2, 0, 0, 0]).is_link_local_group());
        assert!(!MacAddr([1, 0x80, 0xc2, 0, 0, 0x10]).is_link_local_group());
        let pvst = MacAddr([1, 0, 0x0c, 0xcc, 0xcc, 0xcd]);
        assert!(pvst.is_bridge_group() && pvst.is_control_group() && !pvst.is_link_local_group());
        assert!(MacAddr([1, 0x80, 0xc2, 0, 0, 0x21]).is_control_group());
        assert!(MacAddr([1, 0x80, 0xc2, 0, 0, 0x3f]).is_control_group());
        assert!(!MacAddr([1, 0x80, 0xc2, 0, 0, 0x40]).is_control_group());
        assert!(!MacAddr([1, 0x80, 0xc2, 0, 0, 0x10]).is_control_group());
        assert!(!MacAddr([1, 0, 0x5e, 0, 0, 1]).is_control_group() && !MacAddr::BROADCAST.is_control_group());
    }
}
