//! The configurable header fields of tunnel packets: TTL, TOS, and the bits of the VXLAN header that must be zero.

use std::fmt;

use engine::command::{OuterField, OuterIp};
use engine::limits::OUTER_TTL;
use engine::tunnel::vxlan;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Config, Peer};

/// A field of the outer IP header: a number, or `"inherit"` for the value of the inner packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number from 0 to 255, or \"inherit\"")]
pub enum Outer {
    /// This number.
    Number(u8),
    /// `"inherit"`.
    Named(Inherit),
}

/// The word that stands for the value of the inner packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Inherit {
    /// The value of the inner packet.
    Inherit,
}

impl Outer {
    fn field(self) -> OuterField {
        match self {
            Self::Number(number) => OuterField::Fixed(number),
            Self::Named(Inherit::Inherit) => OuterField::Inherit,
        }
    }
}

/// The fields of the outer IP header towards a peer: the peer's own setting, otherwise the uplink's.
pub(crate) fn outer_ip(peer: &Peer, config: &Config) -> OuterIp {
    let uplink = config.uplink.as_ref();
    let ttl = peer.ttl.or(uplink.and_then(|u| u.ttl)).unwrap_or(Outer::Number(OUTER_TTL));
    let tos = peer.tos.or(uplink.and_then(|u| u.tos)).unwrap_or(Outer::Number(0));
    OuterIp { ttl: ttl.field(), tos: tos.field() }
}

/// Bits of the VXLAN header that must be zero in received packets, as the eight bytes of the header in hexadecimal,
/// like `reserved_bits` of `ip link`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReservedBits(pub u64);

impl Default for ReservedBits {
    fn default() -> Self {
        Self(vxlan::RESERVED)
    }
}

impl fmt::Display for ReservedBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl Serialize for ReservedBits {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ReservedBits {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        let bits = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        bits.map(Self).ok_or_else(|| {
            de::Error::custom(format!(
                "{text:?} is not 64 bits in hexadecimal, such as \"{}\"",
                Self::default()
            ))
        })
    }
}

impl JsonSchema for ReservedBits {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ReservedBits".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^0[xX][0-9A-Fa-f]{1,16}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer's setting comes first, then the uplink's, then the default.
    #[test]
    fn the_nearest_word_counts() {
        let mut config = Config { uplink: Some(super::super::Uplink::new("eth0")), ..Config::default() };
        let mut peer = Peer::new("p", [10, 0, 0, 1].into());
        assert_eq!(outer_ip(&peer, &config), OuterIp::default());
        let uplink = config.uplink.as_mut().unwrap();
        (uplink.ttl, uplink.tos) = (Some(Outer::Number(9)), Some(Outer::Named(Inherit::Inherit)));
        let fields = |ttl, tos| OuterIp { ttl, tos };
        assert_eq!(outer_ip(&peer, &config), fields(OuterField::Fixed(9), OuterField::Inherit));
        peer.tos = Some(Outer::Number(0x88));
        assert_eq!(outer_ip(&peer, &config), fields(OuterField::Fixed(9), OuterField::Fixed(0x88)));
    }
}
