//! The desired state of one rVM: the configuration file, parsed, checked and printed.
//!
//! [`parse`] takes any text, and returns a [`Config`] or all errors, each with its object, cause and remedy.
//! [`validate`] checks a `Config` that did not come from text (an edit by `ivctl`). [`print`] writes a configuration
//! deterministically: `parse(print(c)) == c`.

#[cfg(test)]
pub(crate) mod arbitrary;
mod diff;
mod driver;
mod edit;
mod error;
mod floating;
mod keys;
mod layers;
mod outer;
mod parse;
mod ports;
mod reference;
mod schema;
mod section;
mod text;
mod validate;
mod wording;

use std::net::{IpAddr, Ipv4Addr};

use engine::limits;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use diff::{Change, diff};
pub use driver::{CacheMode, IoKind, PortKind, UplinkKind, XdpMode};
pub use edit::{print, rewrite};
pub use error::{ConfigError, Fault};
pub use floating::{Floating, FloatingKey, Inside};
pub use keys::{default_words, key_names};
pub(crate) use keys::{full, keys};
pub use layers::{
    DROP_INS_MAX, DropIn, Layered, Origins, Skipped, TEXT_LEN_MAX, drop_in_directory, read_files,
};
pub(crate) use outer::outer_ip;
pub use outer::{Inherit, Outer, ReservedBits};
pub use parse::{parse, parse_as, parse_layers};
pub use ports::PortSet;
pub use reference::{man, markdown};
pub use schema::schema;
pub(crate) use section::{Place, Section};
pub use text::{AddressOrPrefix, Mac, Ports, prefix};
pub use validate::{FDB_STATIC_MAX, FLOATINGS_MAX, LIST_LEN_MAX, ROUTES_MAX, name_fault, validate};
pub(crate) use wording::{clean, explain, suggest};

/// The whole configuration of one rVM. Every list keeps the order of the file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The name of this rVM, as its peers call it. Default: the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the kernel itself forwards hot flows (kernel offload). Default: `auto`.
    #[serde(skip_serializing_if = "is_default")]
    pub cache: CacheMode,
    /// The uplink, through which the switch reaches the underlay. Default: none, a switch without tunnels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<Uplink>,
    /// The threads that forward. They are read only at the start.
    #[serde(skip_serializing_if = "is_default")]
    pub workers: Workers,
    /// The networks, isolated from each other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<Network>,
    /// The ports that join them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<Port>,
    /// The other rVMs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peer: Vec<Peer>,
    /// Floating IPs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub floating: Vec<Floating>,
    /// Source routes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<Route>,
    /// Static FDB entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fdb: Vec<StaticFdb>,
}

fn is_default<T: Default + PartialEq>(t: &T) -> bool {
    *t == T::default()
}

macro_rules! defaults {
    ($($name:ident, $is:ident: $ty:ty = $value:expr;)+) => {
        $(fn $name() -> $ty { $value }
          fn $is(v: &$ty) -> bool { *v == $value })+
    };
}

defaults! {
    tunnel_port, is_tunnel_port: u16 = 4789;
    network_fdb_max, is_network_fdb_max: u32 = limits::FDB_NETWORK_DEFAULT;
    network_fdb_age, is_network_fdb_age: u64 = limits::FDB_AGE.as_secs();
    bum_pps, is_bum_pps: u32 = limits::BUM_PPS_DEFAULT;
    port_fdb_max, is_port_fdb_max: u32 = PORT_FDB_DEFAULT;
    one, is_one: u32 = 1;
    yes, is_yes: bool = true;
}

/// The directory of QEMU's sockets, unless a port names its own.
pub const GUEST_SOCKETS: &str = "/run/ivswitch/guest";

/// The most queue pairs of a guest's NIC.
pub const QUEUES_MAX: u32 = 64;

/// The most MAC addresses of one port by default: enough for the iVMs of one rVM behind a door.
pub const PORT_FDB_DEFAULT: u32 = 1024;

/// The uplink, through which the switch reaches the underlay.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// The NIC, shared with the kernel, by any of its names (`ip link property add dev NIC altname NAME`).
    pub interface: String,
    /// The address of our VTEP. Default: the interface's first global address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The UDP port of the tunnel. A vxlan device of the kernel may use it too, for other VNIs. Default: 4789.
    #[serde(default = "tunnel_port", skip_serializing_if = "is_tunnel_port")]
    pub port: u16,
    /// Whether outer UDP checksums are filled in. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub checksum: bool,
    /// The driver. Default: `afxdp`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: UplinkKind,
    /// The XDP modes that may be tried. Default: `auto`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub xdp: XdpMode,
    /// Whether peers' path MTUs are probed. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub probe: bool,
    /// Whether tunnel packets larger than the path go out as IP fragments. Use it only for peers that reassemble
    /// fragments: kernels do, this switch does not. Default: false, and the senders of larger packets get an ICMP
    /// error.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fragment: bool,
    /// The TTL (hop limit) of tunnel packets, 1 to 255, or `"inherit"` for that of the inner packet. Default: 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Outer>,
    /// The TOS (traffic class) of tunnel packets, or `"inherit"` for that of the inner packet. The two lowest bits are
    /// ECN's, which always follow RFC 6040. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tos: Option<Outer>,
    /// Bits of the VXLAN header that must be zero in received packets, except those of the VNI and the I flag.
    /// Default: `0xf7ffffff000000ff`, which is all others.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reserved_bits: ReservedBits,
    /// Destinations that guests may not reach through NAT. Default: the uplink's connected prefixes. Peers' VTEPs,
    /// own addresses, the tunnel port and the metadata addresses are always added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<schema::Prefix>>")]
    pub guard: Option<Vec<IpNet>>,
}

impl Uplink {
    /// The uplink on `interface`, everything else at its default.
    #[must_use]
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            address: None,
            port: tunnel_port(),
            checksum: false,
            kind: UplinkKind::default(),
            xdp: XdpMode::Auto,
            probe: true,
            fragment: false,
            ttl: None,
            tos: None,
            reserved_bits: ReservedBits::default(),
            guard: None,
        }
    }
}

/// The threads that forward.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Workers {
    /// The number of workers. Default: 1.
    #[serde(skip_serializing_if = "is_default")]
    pub count: WorkerCount,
    /// The cores that the workers may run on: one for each worker if there are as many, otherwise every worker may
    /// run on any of these cores. Default: any core.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<usize>,
}

/// The number of workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number from 1 to 64, or \"auto\"")]
pub enum WorkerCount {
    /// This many.
    Number(usize),
    /// `"auto"`.
    Named(AutoCount),
}

/// The word that stands for the number of cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AutoCount {
    /// One for each core that the daemon may run on.
    Auto,
}

impl Default for WorkerCount {
    fn default() -> Self {
        Self::Number(1)
    }
}

impl WorkerCount {
    /// The number of workers on a machine with this many cores.
    #[must_use]
    pub fn of(self, cores: usize) -> usize {
        match self {
            Self::Number(count) => count,
            Self::Named(AutoCount::Auto) => cores,
        }
        .clamp(1, limits::WORKERS_MAX)
    }
}

/// One isolated L2 segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The network's name, on this rVM only.
    pub name: String,
    /// The network's identifier on the wire, 1 to 16777215; the same on every rVM.
    pub vni: u32,
    /// Virtual gateway addresses that the switch answers for (ARP, ND, echo). Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<IpAddr>,
    /// The MAC address of the virtual gateway. Default: 02:69:76 and the VNI, the same on every rVM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_mac: Option<Mac>,
    /// The most MAC addresses that the network learns. Default: 8192.
    #[serde(default = "network_fdb_max", skip_serializing_if = "is_network_fdb_max")]
    pub fdb_max: u32,
    /// How many seconds a learned MAC address stays without traffic. Default: 300.
    #[serde(default = "network_fdb_age", skip_serializing_if = "is_network_fdb_age")]
    pub fdb_age: u64,
    /// Whether the MSS of new TCP connections is lowered to fit their path. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub mss_clamp: bool,
    /// Guests get the address of their binding by DHCP if it is in one of these prefixes. Default: no DHCP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::Prefix>")]
    pub dhcp: Vec<IpNet>,
    /// Name servers that DHCP announces to guests, at most three of each family. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// The boot server that DHCP announces to guests. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_server: Option<Ipv4Addr>,
    /// The boot file on that server, or a URL, that DHCP announces to guests. Default: none; then the DHCP requests
    /// of a guest that boots from the network also reach boot servers (proxyDHCP) behind ports that are not guests'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_file: Option<String>,
}

impl Network {
    /// The network `name` on `vni`, everything else at its default.
    #[must_use]
    pub fn new(name: impl Into<String>, vni: u32) -> Self {
        Self {
            name: name.into(),
            vni,
            gateway: Vec::new(),
            router_mac: None,
            fdb_max: network_fdb_max(),
            fdb_age: network_fdb_age(),
            mss_clamp: true,
            dhcp: Vec::new(),
            dns: Vec::new(),
            next_server: None,
            boot_file: None,
        }
    }
}

/// The role of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PortRole {
    /// An interface given to a CMS as if it were a NIC.
    #[default]
    Door,
    /// One iVM's NIC.
    Guest,
}

/// The IPv6 link-local addresses that a guest with bound addresses may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkLocal {
    /// Only the addresses that follow from its MACs.
    #[default]
    Eui64,
    /// Also an opaque address, as NetworkManager, macOS and Windows generate: the guest gets the address that it
    /// claims by duplicate address detection, if no other station has it.
    StablePrivacy,
}

/// The VLAN tags of a port's frames.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vlan {
    /// The VLAN inside the switch for frames that are untagged outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<u16>,
    /// The VLANs that pass tagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk: Option<Vec<u16>>,
    /// The VLAN of untagged frames on a trunk. Default: untagged frames are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<u16>,
}

/// A port of this rVM on one network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The port's name. A door without `interface` creates an interface with this name (and, except for a TAP, our
    /// end of the pair with the suffix `p`).
    pub name: String,
    /// The network that the port joins.
    pub network: String,
    /// The port's role. Default: `door`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub role: PortRole,
    /// An existing interface to attach to, by any of its names. Default: a door creates its own pair; a guest needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The socket at which QEMU listens, for the `vhostuser` driver. Default: `/run/ivswitch/guest/NAME.sock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// The number of queue pairs that QEMU gets, for the `vhostuser` driver. Default: 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub queues: u32,
    /// Addresses for the CMS's end of a door that the daemon creates. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::Prefix>")]
    pub address: Vec<IpNet>,
    /// The source MAC addresses of a guest; required for guests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mac: Vec<Mac>,
    /// The source addresses of a guest. Default: unchecked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip: Vec<AddressOrPrefix>,
    /// Source MAC addresses that guests share, such as the virtual one of VRRP; other ports may list them here too.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_mac: Vec<Mac>,
    /// Source addresses that guests share, in addition to those in `ip`; DHCP never assigns them. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_ip: Vec<AddressOrPrefix>,
    /// The IPv6 link-local addresses that a guest may use in addition to those in `ip`. Default: `eui64`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub link_local: LinkLocal,
    /// The VLAN tags of the port's frames. Default: all tags pass unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// Broadcast, multicast and unknown-unicast frames per second; 0: no limit. Default: 10000.
    #[serde(default = "bum_pps", skip_serializing_if = "is_bum_pps")]
    pub bum_pps: u32,
    /// Bits per second from the port; frames above the rate are dropped. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_bps: Option<u64>,
    /// Frames per second from the port. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_pps: Option<u32>,
    /// The burst of `ingress_bps` in bytes. Default: a tenth of a second's worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_burst: Option<u32>,
    /// Bits per second to the port; frames above the rate are dropped. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_bps: Option<u64>,
    /// Frames per second to the port. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_pps: Option<u32>,
    /// The burst of `egress_bps` in bytes. Default: a tenth of a second's worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_burst: Option<u32>,
    /// Whether the port is isolated: nothing in, nothing out. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quarantine: bool,
    /// The mirror target: a port that receives copies of this port's incoming and outgoing frames, and then does
    /// nothing else. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Whether an incoming BPDU disables the port, until `ivctl port enable`. Default: false, the BPDU is only
    /// dropped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bpdu_guard: bool,
    /// Seconds until a port that a guard has disabled is enabled again. Default: never by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errdisable_recovery: Option<u32>,
    /// Whether the switch learns the places of stations from frames of the port; otherwise only `[[fdb]]` entries tell
    /// them. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub learning: bool,
    /// Whether unicast frames to stations whose place is unknown are flooded to the port, too. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub flood: bool,
    /// The most MAC addresses learned on the port. Default: 1024.
    #[serde(default = "port_fdb_max", skip_serializing_if = "is_port_fdb_max")]
    pub fdb_max: u32,
    /// The largest IP packet. Default: the tunnel's capacity for a door that the daemon creates, otherwise the MTU of
    /// the interface itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The driver. Default: `auto`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: PortKind,
    /// The XDP modes that may be tried. Default: `auto`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub xdp: XdpMode,
    /// Whether the port forwards. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
}

impl Port {
    /// The door `name` on `network`, everything else at its default.
    #[must_use]
    pub fn new(name: impl Into<String>, network: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            network: network.into(),
            role: PortRole::Door,
            interface: None,
            socket: None,
            queues: one(),
            address: Vec::new(),
            mac: Vec::new(),
            ip: Vec::new(),
            shared_mac: Vec::new(),
            shared_ip: Vec::new(),
            link_local: LinkLocal::default(),
            vlan: None,
            bum_pps: bum_pps(),
            ingress_bps: None,
            ingress_pps: None,
            ingress_burst: None,
            egress_bps: None,
            egress_pps: None,
            egress_burst: None,
            quarantine: false,
            mirror: None,
            bpdu_guard: false,
            errdisable_recovery: None,
            learning: true,
            flood: true,
            fdb_max: port_fdb_max(),
            mtu: None,
            kind: PortKind::default(),
            xdp: XdpMode::Auto,
            enabled: true,
        }
    }

    /// The driver of the port.
    #[must_use]
    pub fn means(&self) -> IoKind {
        match self.kind {
            PortKind::Auto if self.makes_door() && self.xdp == XdpMode::Auto => IoKind::Packet,
            PortKind::Auto | PortKind::Afxdp => IoKind::Afxdp,
            PortKind::Packet => IoKind::Packet,
            PortKind::Tap => IoKind::Tap,
            PortKind::Vhostuser => IoKind::Vhostuser,
        }
    }

    /// The attachment point of the port: the given interface, our end of the pair that we create, the TAP interface,
    /// or QEMU's socket.
    #[must_use]
    pub fn attached_to(&self) -> String {
        match (&self.interface, self.kind) {
            (_, PortKind::Vhostuser) => {
                self.socket.clone().unwrap_or_else(|| format!("{GUEST_SOCKETS}/{}.sock", self.name))
            }
            (Some(interface), _) => interface.clone(),
            (None, PortKind::Tap) => self.name.clone(),
            (None, _) => door_peer(&self.name),
        }
    }

    /// Whether we create the port's interface.
    #[must_use]
    pub fn makes_door(&self) -> bool {
        self.role == PortRole::Door && self.interface.is_none() && self.kind != PortKind::Vhostuser
    }
}

/// The name of our end of the pair whose other end is given to the CMS as `name`.
#[must_use]
pub fn door_peer(name: &str) -> String {
    format!("{name}p")
}

/// Another rVM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// The peer's name.
    pub name: String,
    /// The peer's VTEP, as we reach it.
    pub address: IpAddr,
    /// The networks that the peer takes part in. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    /// The other peer that relays for this one. Default: we reach it directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Whether we relay for the peer. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub relay: bool,
    /// The largest underlay IP packet that reaches the peer. Default: as probed, else the uplink's MTU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Whether larger tunnel packets go to the peer as IP fragments. Default: as in `[uplink]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fragment: Option<bool>,
    /// The TTL of tunnel packets to the peer, or `"inherit"`. Default: as in `[uplink]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Outer>,
    /// The TOS of tunnel packets to the peer, or `"inherit"`. Default: as in `[uplink]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tos: Option<Outer>,
}

impl Peer {
    /// The peer `name` at `address`, everything else at its default.
    #[must_use]
    pub fn new(name: impl Into<String>, address: IpAddr) -> Self {
        Self {
            name: name.into(),
            address,
            networks: None,
            via: None,
            relay: false,
            mtu: None,
            fragment: None,
            ttl: None,
            tos: None,
        }
    }
}

/// A source route: packets of `network` from `from` that are addressed to the virtual gateway go to `via`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The network.
    pub network: String,
    /// The source prefix; the longest wins.
    #[schemars(with = "schema::Prefix")]
    pub from: IpNet,
    /// The name of a peer, or the address of a router on the network.
    pub via: String,
}

/// A static FDB entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticFdb {
    /// The network.
    pub network: String,
    /// The MAC address.
    pub mac: Mac,
    /// The peer that the address is behind; either this or `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The port that the address is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The VLAN. Default: 0, untagged.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vlan: u16,
}

impl Config {
    /// The network with this name.
    #[must_use]
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.network.iter().find(|n| n.name == name)
    }

    /// The port with this name.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.port.iter().find(|p| p.name == name)
    }

    /// The ports whose copies go to the port with this name.
    pub fn mirrored_to(&self, name: &str) -> impl Iterator<Item = &Port> {
        self.port.iter().filter(move |p| p.mirror.as_deref() == Some(name))
    }

    /// The peer with this name.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        self.peer.iter().find(|p| p.name == name)
    }
}

/// Whether a peer could reach this address from elsewhere.
#[must_use]
pub fn is_global(ip: IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

/// Turns a host name into a valid name for an rVM: lower case, other characters as `-`, 63 at most.
#[must_use]
pub fn name_of_host(hostname: &str) -> String {
    let mut name: String = hostname
        .trim()
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c) { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(63)
        .collect();
    if name.is_empty() {
        name.push_str("rvm");
    }
    name
}

#[cfg(test)]
mod tests;
