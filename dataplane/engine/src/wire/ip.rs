//! IP addresses as table keys: one integer for both families.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const V4_MAPPED: u128 = 0xffff << 32;

/// An IPv4 or IPv6 address as one integer; IPv4 as IPv4-mapped (RFC 4291 §2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ip(pub u128);

impl Ip {
    /// The IPv4 address with these bytes.
    #[inline]
    #[must_use]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self(V4_MAPPED | u32::from_be_bytes(bytes) as u128)
    }

    /// The IPv6 address with these bytes.
    #[inline]
    #[must_use]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Whether it is an IPv4 address.
    #[inline]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == 0xffff
    }

    /// The four bytes of an IPv4 address.
    #[inline]
    #[must_use]
    pub const fn v4_bytes(self) -> [u8; 4] {
        (self.0 as u32).to_be_bytes()
    }

    /// The sixteen bytes of an IPv6 address.
    #[inline]
    #[must_use]
    pub const fn v6_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Whether it is the unspecified address of its family.
    #[inline]
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        self.0 == 0 || self.0 == V4_MAPPED
    }

    /// Whether it may be a host's own address: not multicast, unspecified, loopback or broadcast.
    #[must_use]
    pub fn is_host(self) -> bool {
        match IpAddr::from(self) {
            IpAddr::V4(a) => !(a.is_multicast() || a.is_unspecified() || a.is_loopback() || a.is_broadcast()),
            IpAddr::V6(a) => !(a.is_multicast() || a.is_unspecified() || a.is_loopback()),
        }
    }

    /// Whether it is an IPv6 link-local address, which no router forwards (RFC 4291 §2.5.6).
    #[inline]
    #[must_use]
    pub const fn is_v6_link_local(self) -> bool {
        self.0 >> 118 == 0xfe80 >> 6
    }

    /// Whether a packet from this address may be answered with an error (RFC 1122 §3.2.2). The address has to
    /// name a single host, so class E and "this network" of IPv4 are excluded as well.
    #[must_use]
    pub fn may_be_told(self) -> bool {
        let first = self.v4_bytes()[0];
        self.is_host() && !(self.is_v4() && (first == 0 || first >= 240))
    }

    /// One's complement sum of the address's 16-bit words, folded (RFC 1071).
    #[inline]
    #[must_use]
    pub fn sum(self) -> u32 {
        let mut bits = if self.is_v4() { self.0 & 0xffff_ffff } else { self.0 };
        let mut sum = 0;
        while bits != 0 {
            sum += (bits & 0xffff) as u32;
            bits >>= 16;
        }
        sum
    }
}

impl From<IpAddr> for Ip {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(a) => Self::v4(a.octets()),
            IpAddr::V6(a) => Self::v6(a.octets()),
        }
    }
}

impl From<Ip> for IpAddr {
    fn from(ip: Ip) -> Self {
        if ip.is_v4() {
            Self::V4(Ipv4Addr::from(ip.v4_bytes()))
        } else {
            Self::V6(Ipv6Addr::from(ip.v6_bytes()))
        }
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for text in ["10.0.0.11", "255.255.255.255", "2001:db8::1", "::", "fe80::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Ip::from(ip)), ip);
        }
        assert!(Ip::from("10.0.0.1".parse::<IpAddr>().unwrap()).is_v4());
        assert!(!Ip::from("2001:db8::1".parse::<IpAddr>().unwrap()).is_v4());
        assert_eq!(Ip::v4([1, 2, 3, 4]).sum(), 0x0102 + 0x0304);
    }

    #[test]
    fn kinds_of_addresses() {
        let ip = |text: &str| Ip::from(text.parse::<IpAddr>().unwrap());
        for (text, link_local) in
            [("fe80::1", true), ("febf::1", true), ("fec0::1", false), ("169.254.0.1", false)]
        {
            assert_eq!(ip(text).is_v6_link_local(), link_local, "{text}");
        }
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
        ] {
            assert!(!ip(text).may_be_told(), "{text}");
        }
        assert!(ip("10.0.0.1").may_be_told() && ip("fe80::1").may_be_told());
    }
}
