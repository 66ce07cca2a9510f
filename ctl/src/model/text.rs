//! Values that are text in the file and have types here.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use engine::command::{IpPrefix, L4Proto, L4Range};
use engine::wire::mac::MacAddr;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! serde_as_text {
    ($($ty:ty),+) => { $(
        impl Serialize for $ty {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+ };
}

serde_as_text!(Mac, AddressOrPrefix, Ports);

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Mac(pub MacAddr);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Mac {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        s.parse().map(Self).map_err(|e: engine::wire::mac::MacAddrError| e.to_string())
    }
}

/// An address, or a prefix of addresses: `192.168.1.2`, `192.168.1.0/28`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AddressOrPrefix(pub IpPrefix);

impl fmt::Display for AddressOrPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == IpPrefix::host(self.0.addr) { self.0.addr.fmt(f) } else { self.0.fmt(f) }
    }
}

impl FromStr for AddressOrPrefix {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if let Ok(addr) = s.parse::<IpAddr>() {
            return Ok(Self(IpPrefix::host(addr)));
        }
        let net: IpNet = s
            .parse()
            .map_err(|_| "an address or prefix looks like 192.168.1.2 or 192.168.1.0/28".to_owned())?;
        Ok(Self(prefix(net)))
    }
}

/// The engine's form of a prefix, host bits kept.
#[must_use]
pub fn prefix(net: IpNet) -> IpPrefix {
    IpPrefix { addr: net.addr(), len: net.prefix_len() }
}

/// A range of transport ports: `tcp/22`, `udp/5000-5010`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ports(pub L4Range);

impl Ports {
    /// `tcp/22`.
    pub const SSH: Self = Self(L4Range { proto: L4Proto::Tcp, first: 22, last: 22 });
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let L4Range { proto, first, last } = self.0;
        let proto = match proto {
            L4Proto::Tcp => "tcp",
            L4Proto::Udp => "udp",
        };
        write!(f, "{proto}/{first}")?;
        if last == first { Ok(()) } else { write!(f, "-{last}") }
    }
}

impl FromStr for Ports {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let form = || "ports look like tcp/80 or udp/5000-5010, from 1 to 65535".to_owned();
        let number = |s: &str| {
            let digits = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            s.parse::<u16>().ok().filter(|&n| digits && n != 0).ok_or_else(form)
        };
        let (proto, range) = s.split_once('/').ok_or_else(form)?;
        let proto = match proto {
            "tcp" => L4Proto::Tcp,
            "udp" => L4Proto::Udp,
            _ => return Err(form()),
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("the range {first}-{last} ends before it begins; write {last}-{first}"));
        }
        Ok(Self(L4Range { proto, first, last }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_written() {
        for text in ["tcp/22", "udp/5000-5010", "tcp/1-65535"] {
            assert_eq!(text.parse::<Ports>().unwrap().to_string(), text);
        }
        for bad in
            ["", "tcp", "tcp/", "tcp/0", "sctp/5", "tcp/80-", "tcp/-80", "tcp/9-8", "tcp/65536", "tcp/+80"]
        {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_a_prefix_of_one() {
        for text in ["192.168.1.2", "192.168.1.0/28", "fd00::1", "fd00::/64"] {
            assert_eq!(text.parse::<AddressOrPrefix>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.1/32".parse::<AddressOrPrefix>().unwrap().to_string(), "10.0.0.1");
        assert!("10.0.0.1/33".parse::<AddressOrPrefix>().is_err());
    }
}
