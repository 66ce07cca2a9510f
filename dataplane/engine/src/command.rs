//! The interface between the agent and a worker: changes ([`Command`]), questions ([`Query`]) and reports
//! ([`Event`]).
//!
//! Plain data, which can be recorded and played back. Commands are idempotent; `Set…` replaces the previous
//! value under the same key. References may dangle (a floating IP may name a peer that does not exist yet):
//! affected frames are dropped with a reason until the missing part arrives.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use crate::counters::{DropReason, PortCounters, SwitchCounters, Volume};
use crate::frame::PoolUsage;
use crate::time::Duration;
use crate::watch::{Seen, Walk, WatchId, WatchSpec};
use crate::wire::mac::MacAddr;

pub use crate::tunnel::fields::{OuterField, OuterIp};

/// A VXLAN network identifier: 24 bits (RFC 7348 §4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Vni(u32);

impl Vni {
    /// Creates a VNI. `None` when `n` does not fit 24 bits.
    #[must_use]
    pub const fn new(n: u32) -> Option<Self> {
        if n < 1 << 24 { Some(Self(n)) } else { None }
    }

    /// The VNI as a number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A switch port of this rVM. Dense: below [`crate::limits::PORTS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(pub u16);

/// Another rVM's VTEP. Dense: below [`crate::limits::PEERS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(pub u16);

/// An IP prefix. Bits beyond `len` are ignored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IpPrefix {
    /// The address.
    pub addr: IpAddr,
    /// Number of leading bits that count: 0 to 32 or 128.
    pub len: u8,
}

impl IpPrefix {
    /// The prefix of one address.
    #[must_use]
    pub const fn host(addr: IpAddr) -> Self {
        Self { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether `ip` lies inside the prefix.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.addr, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len.min(32))).unwrap_or(0);
                (a.to_bits() ^ b.to_bits()) & mask == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len.min(128))).unwrap_or(0);
                (a.to_bits() ^ b.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// The role of a port. It determines the policy, not the driver behind the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Role {
    /// The underlay NIC, shared with the kernel. At most one port.
    Uplink,
    /// An interface given to a CMS as a NIC: many unknown MACs and VLAN tags behind it.
    Door,
    /// One iVM's NIC: known MACs and IPs, full anti-spoofing.
    Guest,
}

/// The VLAN tags that a port accepts (802.1Q-2018 §6.9).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum VlanPolicy {
    /// Every tag passes unchanged (a door).
    #[default]
    Transparent,
    /// Untagged outside, this VLAN inside. Tagged frames are refused, except with VID 0.
    Access(u16),
    /// These VLANs tagged; untagged frames belong to `native`, or are refused without one.
    Trunk {
        /// VLANs that pass tagged.
        tagged: Vec<u16>,
        /// VLAN of untagged frames.
        native: Option<u16>,
    },
}

/// The addresses that the iVM behind a guest port may use. An empty list of IP addresses permits all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Binding {
    /// Source MACs; a guest port without one never becomes live.
    pub macs: Vec<MacAddr>,
    /// Source IPs (ARP sender and ND target too); empty means unchecked.
    pub ips: Vec<IpPrefix>,
    /// Source IPs that guests share, such as VRRP's. DHCP does not assign them.
    pub shared_ips: Vec<IpPrefix>,
    /// The link-local addresses that the iVM may also use.
    pub link_local: LinkLocalRule,
}

/// The IPv6 link-local addresses that a guest with bound addresses may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LinkLocalRule {
    /// Those derived from its MACs (RFC 4291 appendix A).
    #[default]
    Eui64,
    /// Also opaque ones (RFC 7217) that it claims: see [`crate::table::link_local`].
    Opaque,
}

/// The rVM's connection to the underlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UplinkConfig {
    /// The port of role [`Role::Uplink`].
    pub port: PortId,
    /// The NIC's own MAC: the only unicast destination that the switch accepts, and the only source that it
    /// sends from.
    pub mac: MacAddr,
    /// Our VTEP address: the destination of every tunnel packet received, and the source of every one sent.
    pub vtep: IpAddr,
    /// UDP port of the tunnel (RFC 7348 §5: 4789).
    pub tunnel_port: u16,
    /// Whether outer UDP checksums are filled in (RFC 7348 §5: zero is the default over IPv4;
    /// over IPv6 zero is allowed for tunnels by RFC 6935).
    pub checksum: bool,
    /// Maximum length of an underlay IP packet, in bytes.
    pub mtu: u16,
    /// Destinations that NATed packets must not have: management prefixes, the store, metadata addresses.
    /// Peers' VTEPs, our own addresses and the tunnel port are always guarded as well.
    pub guard: Vec<IpPrefix>,
    /// Unicast address of this switch on every network. ARP answers for floating IPs that end here give it.
    pub switch_mac: MacAddr,
    /// A hash of this rVM's name, never 0: peers compare it with their own.
    pub name: u64,
    /// Bits of a VXLAN header that must be zero in packets from peers.
    pub reserved_bits: u64,
}

/// One isolated L2 segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetworkConfig {
    /// The network's identifier on the wire.
    pub vni: Vni,
    /// Addresses for which this switch answers (ARP, ND, echo), with `router_mac`.
    pub gateways: Vec<IpAddr>,
    /// MAC of the virtual gateway, the same on every rVM of the network; never learned.
    pub router_mac: MacAddr,
    /// Maximum number of learned MAC addresses.
    pub fdb_max: u32,
    /// How long a learned MAC stays without traffic.
    pub fdb_age: Duration,
    /// Whether to lower the MSS of new TCP connections to the size that their path carries.
    pub mss_clamp: bool,
    /// The content of DHCP answers; `None`: DHCP is not answered.
    pub dhcp: Option<Box<DhcpConfig>>,
}

/// The content of DHCP answers to a network's guests, besides the address of their binding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DhcpConfig {
    /// The network's prefixes. A guest gets its bound address in one of these.
    pub prefixes: Vec<IpPrefix>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// The boot server and file.
    pub boot: Option<BootConfig>,
}

/// The boot server and file in DHCP answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootConfig {
    /// The boot server's address; `None`: the server that answers DHCP.
    pub server: Option<core::net::Ipv4Addr>,
    /// The file on that server, at most [`crate::limits::DHCP_BOOT_FILE_LEN_MAX`] bytes.
    pub file: Vec<u8>,
}

/// A switch port. It forwards nothing while not `live`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// The port's network; `None` for the uplink.
    pub vni: Option<Vni>,
    /// The port's role.
    pub role: Role,
    /// Whether the port is completely bound and may forward.
    pub live: bool,
    /// Maximum length of an IP packet, in bytes.
    pub mtu: u16,
    /// The VLAN tags that the port accepts.
    pub vlan: VlanPolicy,
    /// Anti-spoofing, for [`Role::Guest`].
    pub binding: Box<Binding>,
    /// Broadcast, multicast and unknown-unicast frames that the port may send per second; `None`: no limit.
    pub bum_pps: Option<u32>,
    /// Maximum number of MAC addresses learned on the port.
    pub fdb_max: u32,
    /// The owner's own rules for the port, besides those of the network.
    pub policy: Box<PortPolicy>,
}

/// The owner's own rules for a port in any network. By default it has no such rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortPolicy {
    /// Limit of incoming traffic.
    pub ingress: Rate,
    /// Limit of outgoing traffic.
    pub egress: Rate,
    /// Why a port is not live although it could be. Its frames are received, and dropped for this reason.
    pub cut: Option<Cut>,
    /// The port that gets copies of incoming and outgoing frames; it has to be a `tap`.
    pub mirror: Option<PortId>,
    /// Whether the port is a mirror target. Only other ports' copies leave there, and incoming frames are
    /// dropped. Such a port joins no network.
    pub tap: bool,
    /// Whether an incoming BPDU is reported ([`Event::Bpdu`]).
    pub bpdu_guard: bool,
    /// Where the senders of its frames are is learned.
    pub learning: bool,
    /// Unicast frames to stations of an unknown place are flooded to it, too.
    pub flood: bool,
}

impl Default for PortPolicy {
    fn default() -> Self {
        Self {
            ingress: Rate::default(),
            egress: Rate::default(),
            cut: None,
            mirror: None,
            tap: false,
            bpdu_guard: false,
            learning: true,
            flood: true,
        }
    }
}

/// A limit on frames. Bytes count as on the wire (a GSO packet counts as its segments), with Ethernet
/// headers, without frame check sequence and preamble. `None`: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// Bits per second.
    pub bps: Option<u64>,
    /// Frames per second.
    pub pps: Option<u32>,
    /// Burst in bytes; `None`: a tenth of a second's worth.
    pub burst: Option<u32>,
}

impl Rate {
    /// Whether the rate limits anything.
    #[must_use]
    pub const fn is_limit(&self) -> bool {
        self.bps.is_some() || self.pps.is_some()
    }
}

/// Why a port is cut off.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cut {
    /// The owner has put the port in quarantine.
    Quarantine,
    /// A guard has disabled the port, until it is enabled again.
    ErrDisabled,
}

/// Another rVM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerConfig {
    /// The peer's VTEP address on the wire, for both directions: public when a provider's NAT lies between.
    pub address: IpAddr,
    /// Networks that the peer takes part in; frames of others are refused.
    pub vnis: Vec<Vni>,
    /// The peer is reached through this one, which relays. This switch neither sends to
    /// `address` itself nor accepts packets from there.
    pub via: Option<PeerId>,
    /// We relay for the peer: its frames may go on to other peers, and others' to it (a spoke in the terms of
    /// RFC 4762 §10.1). Frames never pass between two peers that are both not spokes.
    pub spoke: bool,
    /// Maximum length of an underlay IP packet to the peer.
    pub mtu: u16,
    /// Whether larger packets are sent as IP fragments, which the peer must be able to reassemble. Otherwise
    /// they are refused, and their senders get an error.
    pub fragment: bool,
    /// The chosen fields of the outer IP header.
    pub outer: OuterIp,
}

/// A transport protocol that has ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum L4Proto {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
}

/// A range of transport ports, ends included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct L4Range {
    /// The protocol.
    pub proto: L4Proto,
    /// First port.
    pub first: u16,
    /// Last port, not below `first`.
    pub last: u16,
}

impl L4Range {
    /// Whether `port` of `proto` lies inside the range.
    #[must_use]
    pub fn contains(&self, proto: u8, port: u16) -> bool {
        self.proto as u8 == proto && self.first <= port && port <= self.last
    }
}

/// The rVM that translates between the floating IP and the address that the provider knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gateway {
    /// This rVM, whose underlay address `reality` the provider maps to the floating IP.
    Here {
        /// Address of this rVM's NIC.
        reality: IpAddr,
    },
    /// The rVM behind this peer.
    Peer(PeerId),
}

/// Identifies one mapping of a floating IP. The agent chooses it; stable while the mapping exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FloatingId(pub u32);

/// One mapping of a floating IP, as one rVM sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FloatingConfig {
    /// The public address.
    pub ip: IpAddr,
    /// The public network of the address.
    pub vni: Vni,
    /// The rVM with the provider's end of the floating IP.
    pub gateway: Gateway,
    /// Network and address of the owning iVM, if it is on this rVM. The switch then does the inner DNAT/SNAT
    /// itself. `None` on other rVMs, and where a CMS does it behind the door.
    pub inside: Option<(Vni, IpAddr)>,
    /// Only these ports (a shared public IP); empty: all ports.
    pub only: Vec<L4Range>,
    /// Excluded inbound ports, which stay with the rVM's own kernel.
    pub except: Vec<L4Range>,
}

/// Packets of `vni` from `from` to the virtual gateway go to `via`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceRouteConfig {
    /// The network.
    pub vni: Vni,
    /// Source prefix; the longest wins.
    pub from: IpPrefix,
    /// Next hop.
    pub via: NextHop,
}

/// The next hop of a source route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextHop {
    /// The virtual gateway on another rVM.
    Peer(PeerId),
    /// A router on the network itself, found by ARP or ND.
    Address(IpAddr),
}

/// The kernel's routes out of the uplink: its policy rules and tables, composed for each of our source
/// addresses.
///
/// Rules choose a table by the source address, so packets from a reality address of a floating IP may take
/// another route than tunnel packets, which come from the VTEP address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnderlayRoutes {
    /// For tunnel packets.
    pub tunnel: Vec<UnderlayRoute>,
    /// For packets from a reality address, where those differ from `tunnel`.
    pub from: Vec<(IpAddr, Vec<UnderlayRoute>)>,
}

impl From<Vec<UnderlayRoute>> for UnderlayRoutes {
    /// Uses the same routes for every source address.
    fn from(tunnel: Vec<UnderlayRoute>) -> Self {
        Self { tunnel, from: Vec::new() }
    }
}

/// A route of the underlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnderlayRoute {
    /// Destination prefix; the longest wins.
    pub to: IpPrefix,
    /// Next hops. A destination uses one of these, by its hash. If empty, the kernel sends nothing there
    /// through the uplink (an unreachable or blackhole route, or such a rule).
    pub hops: Vec<UnderlayHop>,
}

impl UnderlayRoute {
    /// Creates a route with one next hop: this gateway, or without one the destination itself.
    #[must_use]
    pub fn new(to: IpPrefix, via: Option<IpAddr>) -> Self {
        Self { to, hops: alloc::vec![via.map_or(UnderlayHop::Link, UnderlayHop::Gateway)] }
    }
}

/// The next hop of a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum UnderlayHop {
    /// The destination itself, which is on the link.
    Link,
    /// This router on the link.
    Gateway(IpAddr),
}

/// The location of a MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Location {
    /// Behind a port of this rVM.
    Port(PortId),
    /// Behind a peer.
    Peer(PeerId),
}

/// A change to a worker's tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Sets the rVM's connection to the underlay.
    SetUplink(UplinkConfig),
    /// Creates or changes a network.
    SetNetwork(NetworkConfig),
    /// Removes a network and everything learned on it.
    RemoveNetwork(Vni),
    /// Creates or changes a port.
    SetPort(PortId, PortConfig),
    /// Removes a port and everything learned on it.
    RemovePort(PortId),
    /// Creates or changes a peer.
    SetPeer(PeerId, PeerConfig),
    /// Removes a peer and its FDB entries.
    RemovePeer(PeerId),
    /// Creates or changes a floating-IP mapping.
    SetFloating(FloatingId, FloatingConfig),
    /// Removes a mapping.
    RemoveFloating(FloatingId),
    /// Creates or changes the source route of a prefix.
    SetSourceRoute(SourceRouteConfig),
    /// Removes the source route of a prefix.
    RemoveSourceRoute(Vni, IpPrefix),
    /// Replaces the underlay's routes.
    SetUnderlayRoutes(UnderlayRoutes),
    /// Reports the answer of an underlay next hop.
    SetUnderlayNeighbor(IpAddr, MacAddr),
    /// Reports that an underlay next hop no longer exists.
    RemoveUnderlayNeighbor(IpAddr),
    /// Adds a static FDB entry (VLAN 0: untagged).
    AddFdb(Vni, u16, MacAddr, Location),
    /// Removes an FDB entry, static or learned.
    RemoveFdb(Vni, u16, MacAddr),
    /// Sends a probe of the given size in bytes (an underlay IP packet) to a directly reached peer. The
    /// peer's answer returns the nonce ([`Event::PathAnswered`]).
    ProbePath(PeerId, u16, u64),
    /// Asks a directly reached peer, with a packet of minimum size, whether it is alive, and whether it takes
    /// packets of this network from us. Its answer returns the nonce ([`Event::PathAnswered`] or
    /// [`Event::PeerRefuses`]).
    AskPeer(PeerId, Option<Vni>, u64),
    /// Removes learned entries: of one network, of one location, or (both `None`) all.
    FlushFdb(Option<Vni>, Option<Location>),
    /// Forgets the MACs of the IP neighbours on one network, or on all (`None`), and asks for them again.
    FlushNeighbors(Option<Vni>),
    /// Starts a capture, or the wait for one frame. Discards cached verdicts, so that the watch sees every
    /// frame.
    Watch(WatchId, WatchSpec),
    /// Ends a watch.
    Unwatch(WatchId),
}

/// A query to a worker. [`Event::Reply`] answers it with the same token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query {
    /// Counters of the switch and of every port.
    Counters,
    /// One page of the FDB, from the previous page's cursor (0 to start).
    Fdb(u32),
    /// One page of the overlay neighbours that the switch knows.
    Neighbors(u32),
    /// Floating-IP mappings as resolved.
    Floating,
    /// Peers as resolved.
    Peers,
    /// One page of the counted drops' sample frames.
    DropSamples,
    /// The frames that a watch has seen since the last query, up to a number of frames and of bytes.
    Seen(WatchId, usize, usize),
    /// Dry run: the fate of this frame if it came in at this port now. Nothing is learned, sent or counted.
    Trace(PortId, Vec<u8>),
}

/// The content of a worker's mailbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A command.
    Command(Command),
    /// A query, with the caller's token.
    Query(u64, Query),
}

/// An FDB entry as shown to people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FdbRow {
    /// The network.
    pub vni: Vni,
    /// VLAN, 0 for untagged.
    pub vid: u16,
    /// The address.
    pub mac: MacAddr,
    /// The location of the address.
    pub location: Location,
    /// Configured, not learned.
    pub is_static: bool,
    /// Time since the station's last frame.
    pub idle: Duration,
}

/// A neighbour as shown to people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighborRow {
    /// The network.
    pub vni: Vni,
    /// The address.
    pub ip: IpAddr,
    /// The neighbour's MAC; `None` while asking.
    pub mac: Option<MacAddr>,
    /// Time since its last answer.
    pub idle: Duration,
}

/// A floating-IP mapping as shown to people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FloatingRow {
    /// The mapping.
    pub id: FloatingId,
    /// MAC of the inbound next hop, once resolved.
    pub next_mac: Option<MacAddr>,
    /// Output of inbound packets, once known.
    pub location: Option<Location>,
    /// Packets and bytes translated inbound.
    pub inbound: Volume,
    /// Packets and bytes translated outbound.
    pub outbound: Volume,
}

/// A peer as shown to people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerRow {
    /// The peer.
    pub id: PeerId,
    /// MAC of the underlay next hop; `None` while unresolved.
    pub next_mac: Option<MacAddr>,
    /// The kernel has no route to the peer through the uplink.
    pub no_route: bool,
    /// Traffic sent to the peer.
    pub tx: Volume,
    /// Traffic received from the peer.
    pub rx: Volume,
}

/// The last frame dropped for a reason, truncated to its first bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DropSample {
    /// The ingress port.
    pub port: PortId,
    /// Why it was dropped.
    pub reason: DropReason,
    /// The first bytes of the frame as they were when it was dropped.
    pub bytes: Vec<u8>,
    /// Length of the whole frame.
    pub len: u32,
}

/// A worker's answer. A page carries the next page's cursor, or `None` at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Answers [`Query::Counters`].
    Counters {
        /// The switch as a whole.
        switch: Box<SwitchCounters>,
        /// Every port.
        ports: Vec<(PortId, PortCounters)>,
        /// Frame memory.
        pool: PoolUsage,
        /// Learned and static FDB entries.
        fdb_entries: u32,
        /// FDB entries of each network.
        fdb_by_network: Vec<(Vni, u32)>,
    },
    /// Answers [`Query::Fdb`].
    Fdb(Vec<FdbRow>, Option<u32>),
    /// Answers [`Query::Neighbors`].
    Neighbors(Vec<NeighborRow>, Option<u32>),
    /// Answers [`Query::Floating`].
    Floating(Vec<FloatingRow>),
    /// Answers [`Query::Peers`].
    Peers(Vec<PeerRow>),
    /// Answers [`Query::DropSamples`].
    DropSamples(Vec<DropSample>),
    /// Answers [`Query::Seen`], with the number of frames lost since the last query.
    Seen(Vec<Seen>, u64),
    /// Answers [`Query::Trace`].
    Trace(Walk),
}

/// The output of a worker to the agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The engine needs a next hop of the underlay. The kernel has to resolve it, and the agent to report it.
    Resolve(IpAddr),
    /// A station appeared, or moved. At most [`crate::limits::LEARNED_EVENTS`] per tick.
    Learned(Vni, u16, MacAddr, Location, bool),
    /// A probe reached the peer: size in bytes and nonce of [`Command::ProbePath`].
    PathAnswered(PeerId, u16, u64),
    /// The peer sent us a probe: it is alive, and has a compatible switch. At most once per tick.
    PathAsked(PeerId),
    /// The peer does not take packets of this network from us. With a nonce it answers [`Command::AskPeer`];
    /// with nonce 0 it has just dropped a packet.
    PeerRefuses(PeerId, Vni, u64),
    /// A packet of this network came from the peer and was dropped for this reason: the network is not
    /// configured here, or the peer does not take part in it. At most [`crate::limits::PEER_EVENTS`] per
    /// tick.
    PeerRefused(PeerId, Vni, DropReason),
    /// A tunnel packet of this network (0: a probe) came from an unknown address. At most
    /// [`crate::limits::PEER_EVENTS`] per tick.
    Stranger(IpAddr, Vni),
    /// The switch behind this peer, with this MAC address, asks for the MAC of a floating IP that is
    /// configured here, as only its gateway does; or (`true`) announces that it has the IP, as only its
    /// owner's rVM does. At most [`crate::limits::PEER_EVENTS`] per tick.
    FloatingClaimed(Vni, IpAddr, PeerId, MacAddr, bool),
    /// The peer's switch says that this is the hash of its rVM's name. Told when it changes.
    PeerNamed(PeerId, u64),
    /// A frame from the peer has the MAC address of this switch itself as its sender. At most
    /// [`crate::limits::PEER_EVENTS`] per tick.
    OurMac(PeerId, MacAddr),
    /// A BPDU came in at a port with a guard against them. Told of each port at most once per tick.
    Bpdu(PortId),
    /// The answer to a query.
    Reply(u64, Answer),
}
