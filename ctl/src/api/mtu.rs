//! What `ivctl mtu` shows: every hop's MTU, where it comes from, what does not fit together.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The answer to `mtu`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MtuReport {
    /// Where the underlay is met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<MtuUplink>,
    /// The paths to the peers.
    pub peers: Vec<MtuPeer>,
    /// What each network carries.
    pub networks: Vec<MtuNetwork>,
    /// What needs attention, and what helps.
    pub problems: Vec<MtuProblem>,
    /// Lines for the CMS, for the doors of this rVM.
    pub paste: MtuPaste,
}

/// The underlay's end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MtuUplink {
    /// The NIC.
    pub interface: String,
    /// Its MTU.
    pub mtu: u16,
    /// IP version of the tunnel's outer header.
    pub family: u8,
    /// Bytes that the tunnel takes: inner Ethernet, VXLAN, UDP, IP.
    pub overhead: u16,
    /// Whether paths are probed.
    pub probe: bool,
}

/// One path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MtuPeer {
    /// The peer.
    pub name: String,
    /// Its VTEP.
    pub address: IpAddr,
    /// The peer it is reached through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Largest underlay packet sent to it.
    pub path_mtu: u16,
    /// `configured`, `measured` or `assumed`.
    pub origin: String,
    /// What probes found, whatever counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<u16>,
    /// What probing is doing: `asking`, `searching`, `settled`, `silent`, or `off`.
    pub state: String,
    /// Seconds since the probed value is what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<u64>,
    /// Largest inner packet.
    pub carried: u16,
    /// Larger tunnel packets go out as IP fragments.
    pub fragment: bool,
}

/// One network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MtuNetwork {
    /// Its name.
    pub name: String,
    /// Its identifier.
    pub vni: u32,
    /// Largest packet that every peer can be sent.
    pub mtu: u16,
    /// What makes it that: a peer, or `uplink`.
    pub limited_by: String,
    /// The MSS of TCP connections is lowered to fit.
    pub mss_clamp: bool,
    /// Its ports here.
    pub ports: Vec<MtuPort>,
    /// What overlays inside overlays carry, each another VXLAN over IPv4: once, twice, three times nested.
    pub nested: Vec<u16>,
}

/// One port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MtuPort {
    /// Its name.
    pub ifname: String,
    /// `door` or `guest`.
    pub role: String,
    /// Largest packet it is sent.
    pub mtu: u16,
    /// `configured`, `derived` from the network, or the `interface`'s own.
    pub origin: String,
    /// The interface we are attached to.
    pub link: String,
    /// Its MTU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_mtu: Option<u32>,
    /// MTU of the CMS's end of a door, where we can see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cms_mtu: Option<u32>,
}

/// Something that does not fit together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MtuProblem {
    /// `warning` or `note`.
    pub severity: String,
    /// What it is about.
    pub object: String,
    /// What is the matter.
    pub why: String,
    /// What helps.
    pub how: String,
}

/// Lines to paste.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MtuPaste {
    /// For Neutron's files.
    pub neutron: Vec<String>,
    /// For CloudStack's CloudMonkey.
    pub cloudstack: Vec<String>,
    /// For the domains of guests.
    pub libvirt: Vec<String>,
}
