//! The agent's inputs ([`Input`]) and outputs ([`Output`]). The agent owns no socket, clock or thread: the daemon (or
//! the simulator) feeds its inputs and carries out its outputs.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::SystemTime;

use engine::command::{IpPrefix, L4Range, PortId, UnderlayRoutes};
use engine::wire::mac::MacAddr;
use serde::{Deserialize, Serialize};

use crate::liveness::Unreachable;
pub use crate::model::{CacheMode, IoKind, XdpMode};
use crate::model::{ConfigError, DropIn};

/// A connection to the control socket. The daemon chooses the number, and never reuses it while the connection is
/// open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// The state of a network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkFacts {
    /// The interface's name.
    pub name: String,
    /// The interface's index; a new index under the same name is a new interface.
    pub index: u32,
    /// The MAC address.
    pub mac: MacAddr,
    /// The largest IP packet, in bytes.
    pub mtu: u32,
    /// Whether the interface is administratively up.
    pub up: bool,
    /// Whether the interface has carrier.
    pub carrier: bool,
    /// The addresses with their prefix lengths, link-local ones included.
    pub addresses: Vec<IpPrefix>,
    /// The alternative names.
    pub alt_names: Vec<String>,
    /// Set if the interface is a vxlan device of the kernel, and not ours.
    pub vxlan: Option<KernelVxlan>,
}

/// A vxlan device of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KernelVxlan {
    /// The device's VNI; `None` if it accepts any (`external`).
    pub vni: Option<u32>,
    /// The device's UDP port.
    pub port: u16,
}

/// An event for the agent.
#[derive(Debug)]
pub enum Input {
    /// One line (one JSON-RPC request) from a client.
    Request(ClientId, String),
    /// This client, which has not sent a request yet, may read but not change anything.
    ReadOnly(ClientId),
    /// A client went away; the agent forgets its waiting requests and subscriptions.
    Hangup(ClientId),
    /// An interface appeared or changed.
    Link(LinkFacts),
    /// An interface is gone.
    LinkGone(String),
    /// All kernel routes through the uplink.
    UnderlayRoutes(UnderlayRoutes),
    /// A neighbour on the uplink: its MAC address, or `None` when resolution failed or the neighbour went away.
    UnderlayNeighbor(IpAddr, Option<MacAddr>),
    /// A port that [`Output::OpenPort`] asked for is attached to the worker.
    PortOpened(PortId, PortFacts),
    /// The port could not be opened (the text names object, cause and remedy), or it stopped working. The agent tries
    /// again when the interface changes or a retry is due.
    PortFailed(PortId, String),
    /// An open port has no program at its other end, or one that does not keep to the protocol. The port goes live by
    /// itself (as [`Input::PortOpened`]) when that changes.
    PortDown(PortId, PortDown),
    /// The frames exchanged with a guest since its port was opened.
    GuestIo(PortId, GuestIo),
    /// An interface pair that [`Output::CreateDoor`] asked for could not be created, or differs from the request.
    DoorFailed(PortId, DoorFault),
    /// An ICMP error arrived about a packet between these addresses, to this UDP port.
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
    /// An event from worker `n`.
    Event(usize, engine::command::Event),
    /// The answer to [`Output::Persist`]: `Err` says why the file could not be written.
    Persisted(Result<(), String>),
    /// The daemon read the configuration files again: the main file (empty if it does not exist), and the drop-ins in
    /// order.
    Reload {
        /// The main file.
        text: String,
        /// The drop-ins.
        drop_ins: Vec<DropIn>,
    },
    /// The files could not be read again, and why.
    Unreadable(String),
    /// The load of each worker, which the daemon measures for `ivctl status`.
    WorkerStats(Vec<WorkerStats>),
    /// The time of the wall clock, for timestamps that people read; it decides nothing.
    WallClock(SystemTime),
    /// The state of the kernel offload.
    CacheStats(CacheStats),
    /// The counters of the uplink's steering.
    Steered(Steered),
    /// Whether the rule that [`Output::Close`] asked for is in place.
    Closed(CloseState),
    /// The frames that the kernel dropped at a port since it was opened.
    KernelDrops(PortId, KernelDrops),
    /// The answer to [`Output::LogFilter`]: the filter in force, or why the new filter was refused.
    LogFilter(Result<String, String>),
}

/// Frames that the kernel dropped at a port: before the switch received them, or after it sent them. They are not
/// part of the switch's own counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KernelDrops {
    /// The receive ring was full: the worker was too slow.
    pub rx_ring_full: u64,
    /// The kernel had no slots to receive into.
    pub fill_ring_empty: u64,
    /// Frames that were too large, and other errors on receipt.
    pub rx_other: u64,
    /// The kernel could not express the offload metadata of a received frame.
    pub rx_unsaid: u64,
    /// A received frame was too long to be segmented.
    pub rx_too_long: u64,
    /// Frames that could not be sent.
    pub tx_invalid: u64,
}

impl KernelDrops {
    /// Each count with its name in `ivctl drops` and its meaning.
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
            (
                self.rx_other,
                "kernel-rx-other",
                "The kernel refused a received frame, mostly because of its length.",
            ),
            (
                self.rx_unsaid,
                "kernel-rx-unsaid",
                "The kernel cannot express the offload metadata of a received frame (SCTP or ESP to be \
                 segmented, UDP fragments).",
            ),
            (
                self.rx_too_long,
                "kernel-rx-too-long",
                "A received frame was too long to be segmented (BIG TCP in a tunnel).",
            ),
            (self.tx_invalid, "kernel-tx-invalid", "The kernel could not send a frame."),
        ]
    }
}

/// Counters of the uplink's steering, which handles frames before the switch sees them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Steered {
    /// Tunnel packets that the switch took.
    pub tunnel: u64,
    /// Packets to reality addresses that the switch took.
    pub reality: u64,
    /// Packets to reality addresses that stayed with the kernel, because they answer packets that the kernel itself
    /// sent.
    pub own: u64,
    /// All other packets; they stay with the kernel.
    pub passed: u64,
    /// The number of known flows of the kernel itself on reality addresses.
    pub own_flows: u32,
    /// Why these flows cannot be known, with a remedy; empty where they can.
    pub own_unknown: String,
}

/// Why an open port passes nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortDown {
    /// The cause, for people.
    pub why: String,
    /// Whether the other end broke the protocol; otherwise it is only missing.
    pub faulty: bool,
}

/// A fault of a door.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DoorFault {
    /// The cause, for people.
    pub why: String,
    /// Whether frames may pass: the door was finished once and our end is up, although something now differs from the
    /// request. A door that was never finished is not usable.
    pub usable: bool,
}

/// The frames and notifications exchanged with a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GuestIo {
    /// Frames from the guest.
    pub rx: u64,
    /// Frames to the guest.
    pub tx: u64,
    /// How often the guest kicked us.
    pub kicks: u64,
    /// How often we called the guest.
    pub calls: u64,
}

/// The state of the kernel offload.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Whether flows may be installed.
    pub on: bool,
    /// Why the offload cannot work here, for people.
    pub reason: String,
    /// The number of installed flows.
    pub flows: u32,
    /// Frames that the kernel has forwarded.
    pub hits: u64,
    /// The interfaces that the kernel does not redirect frames to, and why.
    pub left_out: Vec<(String, String)>,
}

/// The load of a worker.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct WorkerStats {
    /// The share of the last second that the worker spent moving frames.
    pub busy: f64,
    /// How often the worker went to sleep since the start.
    pub sleeps: u64,
    /// Frames that the worker received since the start, from ports and from other workers.
    pub frames: u64,
}

/// How a port was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortFacts {
    /// For people: `native, zero-copy`, `native, copy`, `generic, copy`; for other drivers than `afxdp` the offloads.
    pub mode: String,
    /// Why the mode is not better, for people; empty if it is the best.
    pub reason: String,
    /// The number of queues in use.
    pub queues: u32,
}

/// How to open a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenPort {
    /// The interface to attach to.
    pub interface: String,
    /// The interface's index, from [`LinkFacts`].
    pub index: u32,
    /// Whether the port shares the interface with the kernel and takes only our traffic (the uplink); otherwise it
    /// takes everything.
    pub shared: bool,
    /// The XDP modes that may be tried.
    pub xdp: XdpMode,
    /// The driver.
    pub kind: IoKind,
    /// Whether we created the interface.
    pub ours: bool,
    /// The address and UDP port of tunnel packets, for [`IoKind::Udp`], which opens nothing else.
    pub tunnel: Option<(IpAddr, u16)>,
    /// The number of queue pairs that we offer to a guest, for [`IoKind::Vhostuser`]; its `interface` is the path of
    /// a socket.
    pub queues: u32,
}

/// An interface that is given to a CMS. In a veth pair, `name` is the CMS's end and `peer` is ours; a TAP interface
/// has a single end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DoorSpec {
    /// The driver. It determines the interface's type, and the offloads that the CMS may use.
    pub kind: IoKind,
    /// The CMS's end.
    pub name: String,
    /// Our end.
    pub peer: String,
    /// The MAC address of the CMS's end: stable across restarts and machines.
    pub mac: MacAddr,
    /// The MTU of both ends.
    pub mtu: u16,
    /// The queues of each end in each direction: one for each worker.
    pub queues: u32,
    /// Whether the MTU is a guess because the paths to the peers are not known yet. An existing pair then keeps its
    /// own MTU.
    pub mtu_is_guess: bool,
    /// The addresses for the CMS's end, if any.
    pub addresses: Vec<IpPrefix>,
}

/// The underlay traffic that goes to the switch instead of the kernel. Each plan replaces the previous one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SteerPlan {
    /// Tunnel packets: UDP to this address and port.
    pub tunnel: Option<(IpAddr, u16)>,
    /// Take only packets of these networks, because a vxlan device of the kernel shares the port and must get the
    /// others. `None` takes all packets.
    pub vnis: Option<BTreeSet<u32>>,
    /// Reality addresses of floating IPs held here.
    pub reality: Vec<SteerReality>,
}

/// The part of one reality address's traffic that goes to the switch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SteerReality {
    /// The address.
    pub address: IpAddr,
    /// Whether everything (all protocols) goes to the switch, or only `ports`.
    pub all: bool,
    /// The ports that go to the switch when `all` is false.
    pub ports: Vec<L4Range>,
    /// The ports that never go to the switch.
    pub except: Vec<L4Range>,
}

/// The packets that the rVM's own kernel must not take, whether or not the daemon runs. The plan follows from the
/// configuration alone, so that it can be put in place at boot, before the machine's state is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClosePlan {
    /// The uplink's interface. Packets on other interfaces do not come from the provider's NAT.
    pub interface: String,
    /// The destination of tunnel packets: our VTEP, if it is known, and its UDP port.
    pub tunnel: (Option<IpAddr>, u16),
    /// The reality addresses of floating IPs whose gateway is this rVM. If empty, there is nothing to close.
    pub reality: Vec<SteerReality>,
}

/// Whether reality addresses are closed to the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CloseState {
    /// Why the rule is not in place, with a remedy; empty if it is, or if there is nothing to close.
    pub why: String,
    /// Why tc filters replace the nftables rule; empty where they do not.
    pub instead: String,
    /// How often the daemon restored the rule because another program had removed or changed it.
    pub restored: u64,
}

/// A request from the agent.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// Send this input to every worker.
    Worker(engine::command::Input),
    /// Create this interface or pair, or correct it if it exists (then report the links as usual).
    CreateDoor(PortId, DoorSpec),
    /// Remove the door whose CMS end has this name.
    DeleteDoor(String),
    /// Open a port's I/O and attach it to the worker.
    OpenPort(PortId, OpenPort),
    /// Detach a port and close it. This request has no answer.
    ClosePort(PortId),
    /// Set the mode of the kernel offload.
    Cache(CacheMode),
    /// Install the uplink's steering.
    Steer(SteerPlan),
    /// Close packets to the kernel. The rule outlives the daemon. The answer is [`Input::Closed`].
    Close(ClosePlan),
    /// Watch the routes and neighbours of this interface as the underlay's; `None`: watch nothing.
    WatchUnderlay(Option<String>),
    /// Make the kernel resolve this underlay next hop now.
    Resolve(IpAddr),
    /// Send one line (one JSON-RPC response or notification) to a client.
    Reply(ClientId, String),
    /// Replace the configuration file by this text, crash-safely.
    Persist(String),
    /// The result of [`Input::Reload`]: whether anything changed, or all errors in the files.
    Reloaded(Result<bool, Vec<ConfigError>>),
    /// Log this text at this level: `info`, `warn`, `error`.
    Log(&'static str, String),
    /// Set the log filter, if there is one; the answer is [`Input::LogFilter`].
    LogFilter(Option<String>),
}
