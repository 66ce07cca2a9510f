//! The rows of lists: counters and objects, as `list` and `status` show them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::is_default;
use crate::io::GuestIo;
use crate::model::{Inside, Ports};

/// Packets and bytes in one direction, with iproute2's keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes.
    pub bytes: u64,
    /// Frames.
    pub packets: u64,
    /// Frames with errors.
    pub errors: u64,
    /// Frames dropped.
    pub dropped: u64,
}

/// Counters of both directions, with iproute2's keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stats64 {
    /// Received.
    pub rx: Stats,
    /// Sent.
    pub tx: Stats,
}

/// The configuration of one object, in the answers of lists.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Configured {
    /// Every key that the object can have, with the value in force; `null` where nothing is set and the default is
    /// not a value.
    pub values: serde_json::Map<String, Value>,
    /// The keys that are at their default.
    pub defaults: Vec<String>,
    /// The name of the file that defines the object.
    pub file: String,
}

/// A port, with the keys of `ip -j -s link` where they exist.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PortRow {
    /// The name of the port.
    pub ifname: String,
    /// The interface that the port is attached to.
    pub link: String,
    /// The index of that interface, if it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// The MAC address of that interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The MAC address of the CMS's end of a door that we create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub door_address: Option<String>,
    /// `uplink`, `door` or `guest`.
    pub role: String,
    /// The port's network; the uplink has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The largest IP packet that the port carries.
    pub mtu: u16,
    /// `UP` when the port forwards and has carrier, otherwise `DOWN`.
    pub operstate: String,
    /// `live`, `ready` (open, but the other end is missing), `waiting`, `opening`, `failed`, `disabled`,
    /// `quarantined` or `err-disabled`.
    pub state: String,
    /// Why the port is not live.
    #[serde(default)]
    pub why: String,
    /// The driver: `afxdp`, `packet`, `tap`, `udp`, `vhostuser`.
    #[serde(default)]
    pub kind: String,
    /// How the port is opened: `native, zero-copy`, `native, copy` or `generic, copy`; for other drivers the offloads
    /// in use: `checksum tso uso`.
    #[serde(default)]
    pub mode: String,
    /// Why the port could not be opened in a better mode.
    #[serde(default)]
    pub reason: String,
    /// The number of queues in use.
    #[serde(default)]
    pub queues: u32,
    /// Whether the owner has cut the port off, which overrides every other state.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quarantine: bool,
    /// The port that receives copies of this port's frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// The ports whose frames are copied to this port, which does nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// The limit on frames that the switch receives from the port.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ingress: RateRow,
    /// The limit on frames that the switch sends to the port.
    #[serde(default, skip_serializing_if = "is_default")]
    pub egress: RateRow,
    /// The frames exchanged with the guest, for the `vhostuser` driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestIo>,
    /// Why the port uses this driver.
    #[serde(default)]
    pub chosen: String,
    /// Whether the interface is administratively up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// Whether the interface has carrier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<bool>,
    /// The MTU of the interface itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_mtu: Option<u32>,
    /// Seconds until a port that a guard has disabled is enabled again automatically.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovers: Option<u64>,
    /// Counters.
    pub stats64: Stats64,
    /// The port's drops by reason; absent in `status`, which has them for all ports.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drops: BTreeMap<String, u64>,
    /// The port's configuration; absent in `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Configured>,
}

/// A limit on frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RateRow {
    /// Bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bps: Option<u64>,
    /// Frames per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pps: Option<u32>,
    /// The burst in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// A network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkRow {
    /// The network's name.
    pub name: String,
    /// The network's identifier on the wire.
    pub vni: u32,
    /// The virtual gateway addresses.
    pub gateway: Vec<IpAddr>,
    /// The MAC address of the virtual gateway.
    pub router_mac: String,
    /// The most MAC addresses that the network learns.
    pub fdb_max: u32,
    /// How many seconds a learned MAC address stays without traffic.
    pub fdb_age: u64,
    /// The network's ports on this rVM.
    pub ports: Vec<String>,
    /// The peers that take part in the network.
    pub peers: Vec<String>,
    /// The number of MAC addresses known on the network, if the workers were queried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fdb: Option<u32>,
    /// The largest IP packet that reaches every peer of the network.
    #[serde(default)]
    pub mtu: u16,
    /// The network's configuration; absent in `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Configured>,
}

/// The state of a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// The peer has never answered.
    #[default]
    Unknown,
    /// The peer answers.
    Up,
    /// The peer has answered before, but no longer does.
    Silent,
    /// The peer does not answer, but its packets arrive.
    OneWay,
    /// The peer does not answer, and ICMP errors name the cause.
    Unreachable,
    /// The peer answers, but refuses the packets of every network that we share with it.
    Refuses,
    /// The peer is behind a relay that answers; the peer itself gets no questions.
    Relayed,
    /// The peer is this rVM.
    ThisRvm,
}

impl PeerState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Up,
        Self::Silent,
        Self::OneWay,
        Self::Unreachable,
        Self::Refuses,
        Self::Relayed,
        Self::ThisRvm,
    ];

    /// The state's name in JSON, metrics and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Silent => "silent",
            Self::OneWay => "one-way",
            Self::Unreachable => "unreachable",
            Self::Refuses => "refuses",
            Self::Relayed => "relayed",
            Self::ThisRvm => "this-rvm",
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerRow {
    /// The peer's name.
    pub name: String,
    /// The peer's VTEP.
    pub address: IpAddr,
    /// The relay through which we reach the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Whether we relay for the peer.
    pub relay: bool,
    /// The networks that the peer takes part in.
    pub networks: Vec<String>,
    /// The largest underlay IP packet that reaches the peer.
    pub mtu: u16,
    /// The origin of that MTU: `configured`, `measured` or `assumed`.
    #[serde(default)]
    pub mtu_origin: String,
    /// The peer's state. Only `up` is healthy.
    #[serde(default)]
    pub state: PeerState,
    /// The cause of the state; empty when the peer is up.
    #[serde(default)]
    pub why: String,
    /// Seconds since the last change of the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Seconds since the peer's last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<u64>,
    /// Seconds since the peer's last packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<u64>,
    /// The networks whose packets from us the peer refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refuses: Vec<String>,
    /// Whether the MAC address of the underlay's next hop to the peer is known.
    pub resolved: bool,
    /// Whether the kernel has no route to the peer from our VTEP address through the uplink.
    #[serde(default)]
    pub no_route: bool,
    /// The MAC address of that next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    /// Frames sent to the peer.
    pub tx: u64,
    /// Bytes of these frames, without the tunnel's headers.
    #[serde(default)]
    pub tx_bytes: u64,
    /// Frames received from the peer.
    pub rx: u64,
    /// Bytes of these frames, without the tunnel's headers.
    #[serde(default)]
    pub rx_bytes: u64,
    /// The peer's configuration; absent in `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Configured>,
}

/// A floating-IP mapping.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FloatingRow {
    /// The public address.
    pub ip: IpAddr,
    /// The public network.
    pub network: String,
    /// The rVM to which the provider maps the public address.
    pub gateway: String,
    /// Whether the gateway is this rVM.
    pub here: bool,
    /// The gateway's address that the provider maps to the public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reality: Option<IpAddr>,
    /// The owner, if the switch translates for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
    /// The ports that the mapping is limited to.
    pub only: Vec<Ports>,
    /// The ports that the mapping leaves out.
    pub except: Vec<Ports>,
    /// Whether the next hop of inbound packets is known.
    pub resolved: bool,
    /// The MAC address of that next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    /// The port or peer that the next hop is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Packets translated inbound.
    pub packets_in: u64,
    /// Bytes of these packets, with their Ethernet headers.
    #[serde(default)]
    pub bytes_in: u64,
    /// Packets translated outbound.
    pub packets_out: u64,
    /// Bytes of these packets, with their Ethernet headers.
    #[serde(default)]
    pub bytes_out: u64,
    /// The mapping's configuration; absent in `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Configured>,
}

/// A source route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteRow {
    /// The network.
    pub network: String,
    /// Source prefix.
    pub from: String,
    /// The next hop: a peer or a router.
    pub via: String,
    /// Whether the next hop is a peer; otherwise it is a router on the network.
    #[serde(default)]
    pub to_peer: bool,
    /// The route's configuration; absent in `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Configured>,
}

/// An FDB entry, with the keys of `bridge -j fdb`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FdbRow {
    /// The MAC address.
    pub mac: String,
    /// The port that the address is behind; the uplink if the address is behind a peer.
    pub ifname: String,
    /// The VLAN, unless untagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The VTEP of the peer that the address is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpAddr>,
    /// The network's identifier.
    pub vni: u32,
    /// The network's name.
    pub network: String,
    /// The name of the peer that the address is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// As iproute2 has it; always empty.
    pub flags: Vec<String>,
    /// `static`, or empty for a learned entry.
    pub state: String,
    /// Seconds since the last frame from the address.
    pub used: u64,
}

/// A neighbour, with the keys of `ip -j neigh`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NeighRow {
    /// The IP address.
    pub dst: IpAddr,
    /// The neighbour's network.
    pub dev: String,
    /// The neighbour's MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    /// `REACHABLE`, `STALE` or `INCOMPLETE`.
    pub state: Vec<String>,
    /// Seconds since the neighbour's last packet.
    pub used: u64,
}

/// Frames dropped on a port for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DropRow {
    /// The port.
    pub port: String,
    /// The reason's name.
    pub reason: String,
    /// The number of frames.
    pub count: u64,
    /// The meaning of the reason.
    pub help: String,
    /// The last frame that was dropped for the reason, if one was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleRow>,
}

/// A dropped frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SampleRow {
    /// The frame's full length.
    pub len: u32,
    /// The frame's first bytes, in hexadecimal.
    pub bytes: String,
}

/// A worker.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WorkerRow {
    /// The share of the last second that the worker spent moving frames, 0 to 1.
    pub busy: f64,
    /// How often the worker went to sleep since the start.
    pub sleeps: u64,
    /// Frames that the worker received since the start, from ports and from other workers.
    #[serde(default)]
    pub frames: u64,
}
