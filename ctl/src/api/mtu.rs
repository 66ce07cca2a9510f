//! The report of `ivctl mtu`: the MTU of every hop, its origin, and the values that do not fit together.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The answer to `mtu`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MtuReport {
    /// The uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<MtuUplink>,
    /// The paths to the peers.
    pub peers: Vec<MtuPeer>,
    /// The MTU of each network.
    pub networks: Vec<MtuNetwork>,
    /// The problems, with their remedies.
    pub problems: Vec<MtuProblem>,
    /// Settings to paste into the CMS, for the doors of this rVM.
    pub paste: MtuPaste,
}

/// The uplink's MTU.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MtuUplink {
    /// The NIC.
    pub interface: String,
    /// The NIC's MTU.
    pub mtu: u16,
    /// IP version of the tunnel's outer header.
    pub family: u8,
    /// The bytes that the tunnel adds: inner Ethernet, VXLAN, UDP, IP.
    pub overhead: u16,
    /// Whether paths are probed.
    pub probe: bool,
}

/// The path to one peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MtuPeer {
    /// The peer.
    pub name: String,
    /// The peer's VTEP.
    pub address: IpAddr,
    /// The relay through which we reach the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// The largest underlay packet that we send to the peer.
    pub path_mtu: u16,
    /// `configured`, `measured` or `assumed`.
    pub origin: String,
    /// The size that probes found, even if another value is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<u16>,
    /// The state of probing: `asking`, `searching`, `settled`, `silent`, or `off`.
    pub state: String,
    /// Seconds since the probed value last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<u64>,
    /// The largest inner packet.
    pub carried: u16,
    /// Whether larger tunnel packets go out as IP fragments.
    pub fragment: bool,
}

/// One network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MtuNetwork {
    /// The network's name.
    pub name: String,
    /// The network's identifier.
    pub vni: u32,
    /// The largest packet that reaches every peer.
    pub mtu: u16,
    /// The peer that limits the MTU, or `uplink`.
    pub limited_by: String,
    /// Whether the MSS of TCP connections is lowered to fit.
    pub mss_clamp: bool,
    /// The network's ports on this rVM.
    pub ports: Vec<MtuPort>,
    /// The MTU of nested overlays, each another VXLAN over IPv4: nested once, twice and three times.
    pub nested: Vec<u16>,
}

/// One port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MtuPort {
    /// The port's name.
    pub ifname: String,
    /// `door` or `guest`.
    pub role: String,
    /// The largest packet that the switch sends to the port.
    pub mtu: u16,
    /// `configured`, `derived` from the network, or the `interface`'s own MTU.
    pub origin: String,
    /// The interface that the port is attached to.
    pub link: String,
    /// The interface's MTU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_mtu: Option<u32>,
    /// The MTU of the CMS's end of a door, if we can see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cms_mtu: Option<u32>,
}

/// MTUs that do not fit together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MtuProblem {
    /// `warning` or `note`.
    pub severity: String,
    /// The object.
    pub object: String,
    /// The cause.
    pub why: String,
    /// The remedy.
    pub how: String,
}

/// Settings to paste.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MtuPaste {
    /// For Neutron's configuration files.
    pub neutron: Vec<String>,
    /// For CloudStack's CloudMonkey.
    pub cloudstack: Vec<String>,
    /// For the domain XML of guests.
    pub libvirt: Vec<String>,
}
