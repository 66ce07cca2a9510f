//! The answer to `status`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{DropRow, FloatingRow, NetworkRow, PeerRow, PortRow, Problem, WorkerRow};
use crate::model::CacheMode;

/// The answer to `status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The name of the rVM.
    pub name: String,
    /// The daemon's version.
    pub version: String,
    /// See [`API`].
    pub api: u32,
    /// Seconds since the daemon started.
    pub uptime: u64,
    /// The address of our VTEP, once known.
    pub vtep: Option<IpAddr>,
    /// The UDP port of the tunnel.
    pub tunnel_port: u16,
    /// The largest inner IP packet that the tunnel carries.
    pub overlay_mtu: u16,
    /// The kernel's vxlan devices on the same UDP port: they get the tunnel packets of all VNIs except our networks'.
    #[serde(default)]
    pub port_sharers: Vec<SharerRow>,
    /// Ports, the uplink first.
    pub ports: Vec<PortRow>,
    /// Networks.
    pub networks: Vec<NetworkRow>,
    /// Peers.
    pub peers: Vec<PeerRow>,
    /// Floating IPs.
    pub floating: Vec<FloatingRow>,
    /// Workers.
    pub workers: Vec<WorkerRow>,
    /// The kernel offload.
    #[serde(default)]
    pub cache: CacheRow,
    /// The counters of the uplink's steering; absent where nothing is steered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered: Option<SteeredRow>,
    /// The addresses that are closed to the rVM's own kernel.
    #[serde(default)]
    pub closed: ClosedRow,
    /// The frame counters of the whole switch.
    pub frames: Frames,
    /// The ICMP errors (and TCP resets) that the switch sent to senders of packets, by kind.
    #[serde(default)]
    pub icmp_errors: BTreeMap<String, u64>,
    /// The errors that the switch did not send because the rate limit was reached.
    #[serde(default)]
    pub icmp_errors_limited: u64,
    /// Drops by port and reason, most first.
    pub drops: Vec<DropRow>,
    /// The problems as sentences.
    pub warnings: Vec<String>,
    /// The same problems with their kinds, in the same order.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// A vxlan device of the kernel on the tunnel's UDP port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SharerRow {
    /// The interface.
    pub link: String,
    /// The device's VNI; `None` if it accepts any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
}

/// The kernel offload: the kernel itself forwards hot flows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CacheRow {
    /// The configured mode.
    pub mode: CacheMode,
    /// Whether the offload works.
    pub on: bool,
    /// Why the offload does not work; empty if it does.
    pub reason: String,
    /// The number of flows that are installed.
    pub flows: u32,
    /// Frames that the kernel has forwarded since the start.
    pub hits: u64,
    /// The interfaces that the kernel does not redirect frames to, and why.
    pub left_out: Vec<LeftOut>,
}

/// Counters of the uplink's steering, which handles frames before the switch sees them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SteeredRow {
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

/// The reality addresses of floating IPs. The rVM's own kernel must not answer for them while the daemon is away, so
/// a rule that outlives the daemon closes them to the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClosedRow {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether the rule is in place.
    pub in_place: bool,
    /// Why the rule is not in place, with a remedy; empty if it is.
    pub why: String,
    /// Why tc filters replace the nftables rule; empty where they do not.
    #[serde(default)]
    pub instead: String,
    /// How often the daemon restored the rule since its start, because another program had removed or changed it.
    pub restored: u64,
}

/// An interface that the kernel offload leaves out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// The interface's name.
    pub link: String,
    /// The reason.
    pub reason: String,
}

/// Frames of the whole switch: `rx + replicated + originated + segmented = tx + dropped + punted + consumed +
/// coalesced + queued`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Frames {
    /// Received from ports.
    pub rx: u64,
    /// Copies made for flooding.
    pub replicated: u64,
    /// Made by the switch itself.
    pub originated: u64,
    /// Segments of GSO packets, beyond the first of each.
    #[serde(default)]
    pub segmented: u64,
    /// Sent to ports.
    pub tx: u64,
    /// Dropped.
    pub dropped: u64,
    /// Handed to the kernel.
    pub punted: u64,
    /// Meant for the switch itself: answers to its own ARP and ND questions.
    pub consumed: u64,
    /// Coalesced into another frame, beyond the first of each.
    #[serde(default)]
    pub coalesced: u64,
    /// Waiting in transmit queues.
    pub queued: u64,
    /// Passed from one worker to another, which sends them.
    #[serde(default)]
    pub handed_off: u64,
    /// Received by one worker from another. The difference to `handed_off` is on its way.
    #[serde(default)]
    pub taken_over: u64,
}
