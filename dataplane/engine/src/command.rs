//! What the agent tells a worker ([`Command`]), asks it ([`Query`]), and hears from it ([`Event`]).
//!
//! Plain data: it can be recorded and played back. Commands are idempotent; `Set…` replaces what was
//! there under the same key. References may dangle (a floating IP may name a peer that is not there
//! yet): what cannot be forwarded is dropped with a reason until the missing part arrives.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use crate::counters::{DropReason, PortCounters, SwitchCounters, Volume};
use crate::frame::PoolUsage;
use crate::time::Duration;
use crate::watch::{Seen, Walk, WatchId, WatchSpec};
use crate::wire::mac::MacAddr;

/// A VXLAN network identifier: 24 bits (RFC 7348 §4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Vni(u32);

impl Vni {
    /// `None` when `n` does not fit 24 bits.
    #[must_use]
    pub const fn new(n: u32) -> Option<Self> {
        if n < 1 << 24 { Some(Self(n)) } else { None }
    }

    /// The identifier.
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
    /// Leading bits that count: 0 to 32 or 128.
    pub len: u8,
}

impl IpPrefix {
    /// The prefix of one address.
    #[must_use]
    pub const fn host(addr: IpAddr) -> Self {
        Self { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether `ip` lies inside.
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

/// What a port is for. Role says policy; the kind of I/O behind it says nothing here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Role {
    /// The underlay NIC, shared with the kernel. At most one port.
    Uplink,
    /// An interface given to a CMS as if it were a NIC: many unknown MACs and VLAN tags behind it.
    Door,
    /// One iVM's NIC: known MACs and IPs, full anti-spoofing.
    Guest,
}

/// Which VLAN tags a port speaks (802.1Q-2018 §6.9).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum VlanPolicy {
    /// Every tag passes as it is (a door).
    #[default]
    Transparent,
    /// Untagged outside, this VLAN inside. Tagged frames are refused, VID 0 excepted.
    Access(u16),
    /// These VLANs tagged; untagged frames belong to `native`, or are refused without one.
    Trunk {
        /// VLANs that pass tagged.
        tagged: Vec<u16>,
        /// VLAN of untagged frames.
        native: Option<u16>,
    },
}

/// What the iVM behind a guest port may call itself. An empty list of addresses binds nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Binding {
    /// Source MACs; a guest port without one stays dead.
    pub macs: Vec<MacAddr>,
    /// Source IPs (ARP sender and ND target too); empty means unchecked.
    pub ips: Vec<IpPrefix>,
    /// Source IPs that guests share, such as VRRP's: DHCP gives them to none.
    pub shared_ips: Vec<IpPrefix>,
    /// Which link-local addresses it may use beside those.
    pub link_local: LinkLocalRule,
}

/// Which IPv6 link-local addresses a guest may use whose addresses are bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LinkLocalRule {
    /// Those that its MACs make (RFC 4291 appendix A).
    #[default]
    Eui64,
    /// Also opaque ones (RFC 7217), as it claims them: see [`crate::table::link_local`].
    Opaque,
}

/// Where the rVM meets the underlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UplinkConfig {
    /// The port of role [`Role::Uplink`].
    pub port: PortId,
    /// The NIC's own MAC: the only unicast destination we take, the only source we send from.
    pub mac: MacAddr,
    /// Our VTEP address: destination of every tunnel packet we take, source of every one we send.
    pub vtep: IpAddr,
    /// UDP port of the tunnel (RFC 7348 §5: 4789).
    pub tunnel_port: u16,
    /// Whether outer UDP checksums are filled in (RFC 7348 §5: zero is the default over IPv4;
    /// over IPv6 zero is allowed for tunnels by RFC 6935).
    pub checksum: bool,
    /// Bytes of an underlay IP packet.
    pub mtu: u16,
    /// Destinations no NATed packet may have: management prefixes, the store, metadata addresses.
    /// Peers' VTEPs, our own addresses and the tunnel port are always among them.
    pub guard: Vec<IpPrefix>,
    /// Unicast address of this switch on every network: ARP answers for floating IPs that end here.
    pub switch_mac: MacAddr,
}

/// One isolated L2 segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetworkConfig {
    /// Its identifier on the wire.
    pub vni: Vni,
    /// Addresses this switch answers for (ARP, ND, echo), with `router_mac`.
    pub gateways: Vec<IpAddr>,
    /// MAC of the virtual gateway, the same on every rVM of the network; never learned.
    pub router_mac: MacAddr,
    /// Most MAC addresses learned.
    pub fdb_max: u32,
    /// How long a learned MAC stays without traffic.
    pub fdb_age: Duration,
    /// Whether the MSS of TCP connections that open is lowered to what their path carries.
    pub mss_clamp: bool,
    /// What guests are told by DHCP; `None`: nothing.
    pub dhcp: Option<Box<DhcpConfig>>,
}

/// What the guests of a network are told by DHCP, beside the address of their binding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DhcpConfig {
    /// The network's prefixes: a bound address in one of them is given to its guest.
    pub prefixes: Vec<IpPrefix>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Where guests boot from.
    pub boot: Option<BootConfig>,
}

/// Where DHCP tells guests to boot from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootConfig {
    /// The boot server's address; `None`: whoever answers DHCP.
    pub server: Option<core::net::Ipv4Addr>,
    /// The file there, of [`crate::limits::DHCP_BOOT_FILE_LEN_MAX`] bytes at most.
    pub file: Vec<u8>,
}

/// A switch port. It forwards nothing while not `live`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// The network it joins; `None` for the uplink.
    pub vni: Option<Vni>,
    /// What it is for.
    pub role: Role,
    /// Whether it is completely bound and may forward.
    pub live: bool,
    /// Largest IP packet it carries, in bytes.
    pub mtu: u16,
    /// Which VLAN tags it speaks.
    pub vlan: VlanPolicy,
    /// Anti-spoofing, for [`Role::Guest`].
    pub binding: Box<Binding>,
    /// Broadcast, multicast and unknown-unicast frames it may send per second; `None`: no limit.
    pub bum_pps: Option<u32>,
    /// Most MAC addresses learned on it.
    pub fdb_max: u32,
    /// What the owner has laid upon it beside the network's own rules.
    pub policy: Box<PortPolicy>,
}

/// What the owner of a port lays upon it, whatever its network. By default nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortPolicy {
    /// What may come in.
    pub ingress: Rate,
    /// What may leave.
    pub egress: Rate,
    /// Why a port that could be live is not: its frames are taken, and dropped for this reason.
    pub cut: Option<Cut>,
    /// Copies of what comes in and of what leaves go to this port, which is a `tap`.
    pub mirror: Option<PortId>,
    /// Other ports' copies leave here and nothing else does; what comes in goes nowhere. Such a port joins no
    /// network.
    pub tap: bool,
    /// A BPDU that comes in is told of ([`Event::Bpdu`]).
    pub bpdu_guard: bool,
}

/// A limit on frames, in bytes as on the wire (a super-frame is the segments it stands for), with Ethernet headers
/// and without checksum and preamble. `None`: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// Bits per second.
    pub bps: Option<u64>,
    /// Frames per second.
    pub pps: Option<u32>,
    /// Bytes that may come at once; `None`: a tenth of a second's worth.
    pub burst: Option<u32>,
}

impl Rate {
    /// Whether it limits anything.
    #[must_use]
    pub const fn is_limit(&self) -> bool {
        self.bps.is_some() || self.pps.is_some()
    }
}

/// Why a port was cut off.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cut {
    /// The owner put it in quarantine.
    Quarantine,
    /// A guard has disabled it, until it is enabled again.
    ErrDisabled,
}

/// Another rVM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerConfig {
    /// Its VTEP as we reach it and as its packets arrive from: public when a provider's NAT lies between.
    pub address: IpAddr,
    /// Networks it takes part in; frames of others are refused.
    pub vnis: Vec<Vni>,
    /// Reached through this peer, which relays. Nothing is sent to `address` itself, nothing taken from it.
    pub via: Option<PeerId>,
    /// We relay for it: its frames may go on to other peers, and others' to it (a spoke in the terms of
    /// RFC 4762 §10.1). Frames never pass between two peers that are both not spokes.
    pub spoke: bool,
    /// Largest underlay IP packet that reaches it.
    pub mtu: u16,
    /// Larger ones go out as IP fragments, which it must be able to put together; otherwise they are refused,
    /// and their senders told.
    pub fragment: bool,
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
    /// Whether `port` of `proto` lies inside.
    #[must_use]
    pub fn contains(&self, proto: u8, port: u16) -> bool {
        self.proto as u8 == proto && self.first <= port && port <= self.last
    }
}

/// Who turns the floating IP into the address that the provider knows.
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

/// Identifies one mapping of a floating IP. Chosen by the agent; stable while the mapping stays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FloatingId(pub u32);

/// One mapping of a floating IP, as one rVM sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FloatingConfig {
    /// The public address.
    pub ip: IpAddr,
    /// The public network it lives on.
    pub vni: Vni,
    /// Who holds the provider's end of it.
    pub gateway: Gateway,
    /// The iVM that owns it is on this rVM, on this network, with this address: the switch does the
    /// inner DNAT/SNAT itself. `None` on other rVMs, and where a CMS does it behind the door.
    pub inside: Option<(Vni, IpAddr)>,
    /// Only these ports (a shared public IP); empty: everything.
    pub only: Vec<L4Range>,
    /// Never these ports, inbound: they stay with the rVM's own kernel.
    pub except: Vec<L4Range>,
}

/// Packets of `vni` from `from`, sent to the virtual gateway, go to `via`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceRouteConfig {
    /// The network.
    pub vni: Vni,
    /// Source prefix, longest wins.
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

/// The kernel's routes out of the uplink: its policy rules and tables, composed for each source address of ours.
///
/// Rules choose a table by the source address, so packets from a reality address of a floating IP may take another
/// way than tunnel packets, which come from the VTEP address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnderlayRoutes {
    /// For tunnel packets.
    pub tunnel: Vec<UnderlayRoute>,
    /// For packets from a reality address, where those differ from `tunnel`.
    pub from: Vec<(IpAddr, Vec<UnderlayRoute>)>,
}

impl From<Vec<UnderlayRoute>> for UnderlayRoutes {
    /// The same routes for every source address.
    fn from(tunnel: Vec<UnderlayRoute>) -> Self {
        Self { tunnel, from: Vec::new() }
    }
}

/// A route of the underlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnderlayRoute {
    /// Destination prefix, longest wins.
    pub to: IpPrefix,
    /// Next hops, of which a destination takes one by its hash. None: the kernel sends nothing there through the
    /// uplink (an unreachable or blackhole route, or a rule that says so).
    pub hops: Vec<UnderlayHop>,
}

impl UnderlayRoute {
    /// A route with one next hop: this gateway, or without one the destination itself.
    #[must_use]
    pub fn new(to: IpPrefix, via: Option<IpAddr>) -> Self {
        Self { to, hops: alloc::vec![via.map_or(UnderlayHop::Link, UnderlayHop::Gateway)] }
    }
}

/// Where a packet goes next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum UnderlayHop {
    /// To its destination, which is on the link.
    Link,
    /// To this router on the link.
    Gateway(IpAddr),
}

/// Where a MAC address is.
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
    /// Sets where the underlay is met.
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
    /// Removes a peer and everything learned from it.
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
    /// An underlay next hop answered.
    SetUnderlayNeighbor(IpAddr, MacAddr),
    /// An underlay next hop is no longer there.
    RemoveUnderlayNeighbor(IpAddr),
    /// Adds a static FDB entry (VLAN 0: untagged).
    AddFdb(Vni, u16, MacAddr, Location),
    /// Removes an FDB entry, static or learned.
    RemoveFdb(Vni, u16, MacAddr),
    /// Sends a probe of so many bytes (an underlay IP packet) to a peer that is reached directly; the peer's
    /// answer brings the nonce back ([`Event::PathAnswered`]).
    ProbePath(PeerId, u16, u64),
    /// Asks a peer that is reached directly, with a packet of the smallest size, whether it is there, and whether it
    /// takes packets of this network from us. Its answer brings the nonce back ([`Event::PathAnswered`] or
    /// [`Event::PeerRefuses`]).
    AskPeer(PeerId, Option<Vni>, u64),
    /// Removes learned entries: of one network, of one location, or (both `None`) all.
    FlushFdb(Option<Vni>, Option<Location>),
    /// Forgets where the IP neighbours of one network, or of all (`None`), are, and asks for them again.
    FlushNeighbors(Option<Vni>),
    /// Begins a capture, or the wait for one frame. What was decided before is forgotten, so that nothing passes
    /// unseen.
    Watch(WatchId, WatchSpec),
    /// Ends it.
    Unwatch(WatchId),
}

/// A question to a worker. Answered by [`Event::Reply`] with the same token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query {
    /// Counters of the switch and of every port.
    Counters,
    /// One page of the FDB, from the cursor of the page before (0 to start).
    Fdb(u32),
    /// The overlay neighbours the switch knows, one page.
    Neighbors(u32),
    /// Floating-IP mappings as resolved.
    Floating,
    /// Peers as resolved.
    Peers,
    /// One page of the counted drops' sample frames.
    DropSamples,
    /// What a watch has seen since it was asked last: so many frames and bytes at most.
    Seen(WatchId, usize, usize),
    /// What would become of this frame if it came in at this port now. Nothing is learned, sent or counted.
    Trace(PortId, Vec<u8>),
}

/// What enters a worker's mailbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Change.
    Command(Command),
    /// Question, with the asker's token.
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
    /// Where it is.
    pub location: Location,
    /// Configured, not learned.
    pub is_static: bool,
    /// Since it was last heard.
    pub idle: Duration,
}

/// A neighbour as shown to people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighborRow {
    /// The network.
    pub vni: Vni,
    /// The address.
    pub ip: IpAddr,
    /// Its MAC; `None` while asking.
    pub mac: Option<MacAddr>,
    /// Since it was last heard.
    pub idle: Duration,
}

/// A floating-IP mapping as shown to people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FloatingRow {
    /// The mapping.
    pub id: FloatingId,
    /// Inbound next hop's MAC, once resolved.
    pub next_mac: Option<MacAddr>,
    /// Where inbound packets go, once known.
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
    /// The kernel has no route to it through the uplink.
    pub no_route: bool,
    /// What was sent to it.
    pub tx: Volume,
    /// What was received from it.
    pub rx: Volume,
}

/// The last frame dropped for a reason, cut to its first bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DropSample {
    /// Where it came in.
    pub port: PortId,
    /// Why it was dropped.
    pub reason: DropReason,
    /// Its first bytes as they stood when it was dropped.
    pub bytes: Vec<u8>,
    /// Its whole length.
    pub len: u32,
}

/// A worker's answer. A page carries the cursor of the next, or `None` at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To [`Query::Counters`].
    Counters {
        /// The switch as a whole.
        switch: Box<SwitchCounters>,
        /// Every port.
        ports: Vec<(PortId, PortCounters)>,
        /// Frame memory.
        pool: PoolUsage,
        /// Learned and static FDB entries.
        fdb_entries: u32,
        /// Of those, per network.
        fdb_by_network: Vec<(Vni, u32)>,
    },
    /// To [`Query::Fdb`].
    Fdb(Vec<FdbRow>, Option<u32>),
    /// To [`Query::Neighbors`].
    Neighbors(Vec<NeighborRow>, Option<u32>),
    /// To [`Query::Floating`].
    Floating(Vec<FloatingRow>),
    /// To [`Query::Peers`].
    Peers(Vec<PeerRow>),
    /// To [`Query::DropSamples`].
    DropSamples(Vec<DropSample>),
    /// To [`Query::Seen`], and how many frames were lost since it was asked last.
    Seen(Vec<Seen>, u64),
    /// To [`Query::Trace`].
    Trace(Walk),
}

/// What leaves a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A next hop of the underlay is needed: the kernel must resolve it and tell.
    Resolve(IpAddr),
    /// A station appeared, or moved. At most [`crate::limits::LEARNED_EVENTS`] per tick are told.
    Learned(Vni, u16, MacAddr, Location, bool),
    /// A probe of so many bytes reached the peer: size and nonce of [`Command::ProbePath`].
    PathAnswered(PeerId, u16, u64),
    /// The peer sent us a probe: it is there, and speaks as we do. Told at most once per tick.
    PathAsked(PeerId),
    /// The peer says that it takes no packets of this network from us: as the answer to [`Command::AskPeer`] with this
    /// nonce, or, with nonce 0, because it has just dropped one.
    PeerRefuses(PeerId, Vni, u64),
    /// A packet of this network came from the peer and was dropped for this reason: the network is not configured here,
    /// or the peer does not take part in it. At most [`crate::limits::PEER_EVENTS`] per tick.
    PeerRefused(PeerId, Vni, DropReason),
    /// A tunnel packet of this network (0: a probe) came from an unknown address. At most
    /// [`crate::limits::PEER_EVENTS`] per tick.
    Stranger(IpAddr, Vni),
    /// The switch behind this peer that has this MAC address asks who has a floating IP that is configured here, as only
    /// its gateway does; or says that it has it, as only its owner's rVM does (`true`). At most
    /// [`crate::limits::PEER_EVENTS`] per tick.
    FloatingClaimed(Vni, IpAddr, PeerId, MacAddr, bool),
    /// A BPDU came in at a port with a guard against them. Told of each port at most once per tick.
    Bpdu(PortId),
    /// The answer to a query.
    Reply(u64, Answer),
}
