//! What the agent hears ([`Input`]) and asks for ([`Output`]). The agent owns no socket, clock or
//! thread: the daemon (or the simulator) feeds it inputs and carries out its outputs.

use std::net::IpAddr;
use std::time::SystemTime;

use engine::command::{IpPrefix, L4Range, PortId, UnderlayRoutes};
use engine::wire::mac::MacAddr;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::liveness::Unreachable;
use crate::model::{ConfigError, DropIn};

/// A connection to the control socket. Chosen by the daemon; never reused while open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// What is known of a network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkFacts {
    /// Its name.
    pub name: String,
    /// Its index; a new index under the same name is a new interface.
    pub index: u32,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Has carrier.
    pub carrier: bool,
    /// Its addresses with their prefix lengths, link-local ones included.
    pub addresses: Vec<IpPrefix>,
}

/// Something the agent is told.
#[derive(Debug)]
pub enum Input {
    /// One line (one JSON-RPC request) from a client.
    Request(ClientId, String),
    /// This client, which was not heard yet, may read but not change anything.
    ReadOnly(ClientId),
    /// A client went away: forget what it waits for or subscribed to.
    Hangup(ClientId),
    /// An interface appeared or changed.
    Link(LinkFacts),
    /// An interface is gone.
    LinkGone(String),
    /// All routes of the kernel out of the uplink.
    UnderlayRoutes(UnderlayRoutes),
    /// A neighbour on the uplink: its MAC, or `None` when it failed or went.
    UnderlayNeighbor(IpAddr, Option<MacAddr>),
    /// A port asked for by [`Output::OpenPort`] is attached to the worker.
    PortOpened(PortId, PortFacts),
    /// It could not be opened (the text names object, cause and remedy), or stopped working. The agent
    /// asks again when the interface changes or a retry is due.
    PortFailed(PortId, String),
    /// A port that is open has nobody at its other end, or somebody who cannot be worked with. It goes live by itself
    /// (as [`Input::PortOpened`]) when that changes.
    PortDown(PortId, PortDown),
    /// What passed between us and a guest since its port was opened.
    GuestIo(PortId, GuestIo),
    /// An interface pair asked for by [`Output::CreateDoor`] could not be made, or is not as it should be.
    DoorFailed(PortId, DoorFault),
    /// An ICMP error came about a packet that was sent from and to these addresses, to this UDP port.
    Unreachable {
        /// The sender of the packet.
        from: IpAddr,
        /// The destination that could not be reached.
        to: IpAddr,
        /// The port there.
        port: u16,
        /// The cause that the error names.
        why: Unreachable,
    },
    /// Something from worker `n`.
    Event(usize, engine::command::Event),
    /// The answer to [`Output::Persist`]: `Err` says why the file could not be written.
    Persisted(Result<(), String>),
    /// The configuration's files were read again: the main one (empty when there is none), and drop-ins in order.
    Reload {
        /// The main file.
        text: String,
        /// What adds to it.
        drop_ins: Vec<DropIn>,
    },
    /// The files cannot be read again, and why.
    Unreadable(String),
    /// Measured by the daemon for `ivctl status`: how each worker is doing.
    WorkerStats(Vec<WorkerStats>),
    /// The time of the wall clock, for people's timestamps; decides nothing.
    WallClock(SystemTime),
    /// How the verdict cache is doing.
    CacheStats(CacheStats),
    /// What the uplink's steering did.
    Steered(Steered),
    /// Whether the rule that [`Output::Close`] asked for is in place.
    Closed(CloseState),
    /// What the kernel dropped at a port since it was opened.
    KernelDrops(PortId, KernelDrops),
    /// The answer to [`Output::LogFilter`]: what is logged now, or why that is no filter.
    LogFilter(Result<String, String>),
}

/// Frames that the kernel dropped at a port: before the switch received them, or after it sent them.
/// They are no part of the switch's own counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KernelDrops {
    /// The receive ring was full: the worker was too slow.
    pub rx_ring_full: u64,
    /// There were no slots to receive into.
    pub fill_ring_empty: u64,
    /// Too large, or other reasons on receipt.
    pub rx_other: u64,
    /// The kernel could not express the offload facts of a received frame.
    pub rx_unsaid: u64,
    /// A received frame was too long to be split.
    pub rx_too_long: u64,
    /// Could not be sent.
    pub tx_invalid: u64,
}

impl KernelDrops {
    /// Each count with its name in `ivctl drops` and what it means.
    #[must_use]
    pub const fn rows(&self) -> [(u64, &'static str, &'static str); 6] {
        [
            (
                self.rx_ring_full,
                "kernel-rx-ring-full",
                "The kernel's receive ring was full: the worker was too slow.",
            ),
            (
                self.fill_ring_empty,
                "kernel-no-slots",
                "The kernel had no slots to receive into: the pool was exhausted.",
            ),
            (self.rx_other, "kernel-rx-other", "The kernel refused a received frame, mostly for its length."),
            (
                self.rx_unsaid,
                "kernel-rx-unsaid",
                "The kernel cannot express the offload facts of a received frame (SCTP or ESP to be segmented, UDP fragments).",
            ),
            (
                self.rx_too_long,
                "kernel-rx-too-long",
                "A received frame was too long to be split (BIG TCP in a tunnel).",
            ),
            (self.tx_invalid, "kernel-tx-invalid", "The kernel could not send a frame."),
        ]
    }
}

/// What became of frames that came in by the uplink, before the switch decided about any.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Steered {
    /// Tunnel packets that the switch took.
    pub tunnel: u64,
    /// Packets to reality addresses that it took.
    pub reality: u64,
    /// Packets to reality addresses that it left to the kernel, as answers to what the kernel sent itself.
    pub own: u64,
    /// Everything else, which is the kernel's.
    pub passed: u64,
    /// Flows of the kernel's own on reality addresses that are known.
    pub own_flows: u32,
    /// Why they cannot be known, with a remedy; empty where they can.
    pub own_unknown: String,
}

/// Why nothing passes through an open port.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortDown {
    /// For people.
    pub why: String,
    /// Somebody did what nobody should; not just nobody is there.
    pub faulty: bool,
}

/// What is wrong with a door.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DoorFault {
    /// For people.
    pub why: String,
    /// It was finished once, and our end is up: frames may pass, though not all is as it should be. Through one that was
    /// never finished none may.
    pub usable: bool,
}

/// What passed between us and a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GuestIo {
    /// Frames from the guest.
    pub rx: u64,
    /// Frames to the guest.
    pub tx: u64,
    /// Times the guest kicked us.
    pub kicks: u64,
    /// Times we called the guest.
    pub calls: u64,
}

/// How the verdict cache is doing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Flows may be installed.
    pub on: bool,
    /// Why it cannot work here, for people.
    pub reason: String,
    /// Flows installed.
    pub flows: u32,
    /// Frames that followed a verdict in the kernel.
    pub hits: u64,
    /// Interfaces that frames are not redirected to, and why not.
    pub left_out: Vec<(String, String)>,
}

/// Whether the kernel follows the verdicts of hot flows by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// Between interfaces where it is proven to work.
    #[default]
    Auto,
    /// Between all native XDP interfaces and those of kind `packet`.
    On,
    /// Not at all.
    Off,
}

/// How a worker is doing.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct WorkerStats {
    /// Share of the last second spent moving frames.
    pub busy: f64,
    /// Times it went to sleep since start.
    pub sleeps: u64,
    /// Frames it received since start, from ports and from other workers.
    pub frames: u64,
}

/// How a port was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortFacts {
    /// For people: `native, zero-copy`, `native, copy`, `generic, copy`; of other kinds than `afxdp` the offloads.
    pub mode: String,
    /// Why not better, for people; empty when it is the best.
    pub reason: String,
    /// Queues in use.
    pub queues: u32,
}

/// How the agent wants a port's I/O opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenPort {
    /// Interface to attach to.
    pub interface: String,
    /// Its index, as known from [`LinkFacts`].
    pub index: u32,
    /// Steer only our traffic up and leave the rest to the kernel (the uplink); otherwise take all.
    pub shared: bool,
    /// Which XDP modes may be tried.
    pub xdp: XdpMode,
    /// By which means.
    pub kind: IoKind,
    /// The interface is one that we made.
    pub ours: bool,
    /// Where tunnel packets are heard: for [`IoKind::Udp`], which opens nothing else.
    pub tunnel: Option<(IpAddr, u16)>,
    /// Queue pairs offered to a guest: for [`IoKind::Vhostuser`], whose `interface` is the path of a socket.
    pub queues: u32,
}

/// By which means frames come and go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoKind {
    /// An AF_XDP socket on each queue.
    #[default]
    Afxdp,
    /// A packet socket with virtio-net headers.
    Packet,
    /// A TAP interface with virtio-net headers.
    Tap,
    /// UDP sockets: the uplink's tunnel packets only.
    Udp,
    /// Memory shared with QEMU: a guest's NIC, without a network interface.
    Vhostuser,
}

impl IoKind {
    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Afxdp => "afxdp",
            Self::Packet => "packet",
            Self::Tap => "tap",
            Self::Udp => "udp",
            Self::Vhostuser => "vhostuser",
        }
    }
}

/// Which XDP modes may be tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native with zero-copy, native with copy, generic: the first that works.
    #[default]
    Auto,
    /// Native only, zero-copy where there is.
    Native,
    /// Native, copy only.
    Copy,
    /// Generic only.
    Generic,
}

/// An interface given to a CMS. Of a veth pair `name` is theirs and `peer` is ours; a TAP interface is one for both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DoorSpec {
    /// How we attach to it: what it is, and what may be unfinished in the frames the CMS sends.
    pub kind: IoKind,
    /// The CMS's end.
    pub name: String,
    /// Our end.
    pub peer: String,
    /// MAC address of the CMS's end: stable across restarts and machines.
    pub mac: MacAddr,
    /// MTU of all ends.
    pub mtu: u16,
    /// Queues of each end, each way: one for each worker.
    pub queues: u32,
    /// The MTU is a guess until the paths to the peers are known: a pair that is there keeps its own.
    pub mtu_is_guess: bool,
    /// Addresses to put on the CMS's end, if any.
    pub addresses: Vec<IpPrefix>,
}

/// Which underlay traffic comes up to the switch instead of the kernel. Replaces the previous plan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SteerPlan {
    /// Tunnel packets: UDP to this address and port.
    pub tunnel: Option<(IpAddr, u16)>,
    /// Reality addresses of floating IPs held here.
    pub reality: Vec<SteerReality>,
}

/// What of one reality address comes up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SteerReality {
    /// The address.
    pub address: IpAddr,
    /// Everything (all protocols), or only `ports`.
    pub all: bool,
    /// Ports that come up when not `all`.
    pub ports: Vec<L4Range>,
    /// Ports that never come up.
    pub except: Vec<L4Range>,
}

/// Which packets the rVM's own kernel must not take, whether or not the daemon runs. Follows from the configuration
/// alone, so that it can be put in place at boot, before anything is known of the machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClosePlan {
    /// The uplink's interface: what arrives elsewhere is none of the provider's NAT.
    pub interface: String,
    /// Where tunnel packets arrive: our VTEP, if it is known, and its UDP port.
    pub tunnel: (Option<IpAddr>, u16),
    /// Reality addresses of floating IPs held here. Empty: there is nothing to close.
    pub reality: Vec<SteerReality>,
}

/// Whether reality addresses are closed to the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CloseState {
    /// Why the rule is not in place, with a remedy; empty when it is, or when there is nothing to close.
    pub why: String,
    /// Why filters of tc stand in for nftables; empty where they do not.
    pub instead: String,
    /// Times that another program removed or changed the rule, and it was put back.
    pub restored: u64,
}

/// Something the agent wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// For every worker.
    Worker(engine::command::Input),
    /// Make this interface or pair, or correct it if it is there already (then report the links as usual).
    CreateDoor(PortId, DoorSpec),
    /// Remove the door whose CMS end has this name.
    DeleteDoor(String),
    /// Open a port's I/O and attach it to the worker.
    OpenPort(PortId, OpenPort),
    /// Detach a port and close it. No answer.
    ClosePort(PortId),
    /// Whether verdicts may be cached in the kernel.
    Cache(CacheMode),
    /// The uplink's steering.
    Steer(SteerPlan),
    /// Which packets the kernel must not take in our place. Outlives the daemon. Answered by [`Input::Closed`].
    Close(ClosePlan),
    /// The interface whose routes and neighbours are the underlay's; `None`: none.
    WatchUnderlay(Option<String>),
    /// Make the kernel resolve this underlay next hop now.
    Resolve(IpAddr),
    /// One line (one JSON-RPC response or notification) to a client.
    Reply(ClientId, String),
    /// Replace the configuration file by this text, crash-safely.
    Persist(String),
    /// What became of [`Input::Reload`]: whether anything changed, or everything that is wrong with the files.
    Reloaded(Result<bool, Vec<ConfigError>>),
    /// For the log, at this level: `info`, `warn`, `error`.
    Log(&'static str, String),
    /// Log by this filter from now on, if there is one; answered by [`Input::LogFilter`].
    LogFilter(Option<String>),
}
