//! Floating IPs.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Ports;

/// The owner of a floating IP, if no CMS translates for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inside {
    /// The owner's private network.
    pub network: String,
    /// The owner's address in that network.
    pub address: IpAddr,
}

/// One mapping of a floating IP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Floating {
    /// The public address.
    pub ip: IpAddr,
    /// The public network of the address.
    pub network: String,
    /// The name of the rVM that the provider maps the address to: this one, or a peer.
    pub gateway: String,
    /// The gateway's address that the provider maps to `ip`; required when the gateway is this rVM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reality: Option<IpAddr>,
    /// The owner, if it is on this rVM and no CMS translates: the switch does. Default: a CMS translates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
    /// Only these ports (for a shared public IP). Default: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<Ports>,
    /// Never these ports. Default: `tcp/22`, or none when `only` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except: Option<Vec<Ports>>,
}

impl Floating {
    /// The mapping of `ip` on `network` held by `gateway`, everything else at its default.
    #[must_use]
    pub fn new(ip: IpAddr, network: impl Into<String>, gateway: impl Into<String>) -> Self {
        Self {
            ip,
            network: network.into(),
            gateway: gateway.into(),
            reality: None,
            inside: None,
            only: Vec::new(),
            except: None,
        }
    }

    /// The ports in effect that stay with the gateway's own kernel.
    #[must_use]
    pub fn except_effective(&self) -> Vec<Ports> {
        match &self.except {
            Some(except) => except.clone(),
            None if self.only.is_empty() => vec![Ports::SSH],
            None => Vec::new(),
        }
    }

    /// The key that distinguishes this mapping from every other.
    #[must_use]
    pub fn key(&self) -> FloatingKey {
        let mut only = self.only.clone();
        only.sort_unstable();
        FloatingKey { network: self.network.clone(), ip: self.ip, only }
    }
}

/// The key that distinguishes a floating-IP mapping from every other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FloatingKey {
    /// The public network.
    pub network: String,
    /// The public address.
    pub ip: IpAddr,
    /// Its ports, sorted.
    pub only: Vec<Ports>,
}
