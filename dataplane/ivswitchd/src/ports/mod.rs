//! Port I/O: where frames enter and leave the process, and the memory they live in.
//!
//! Nothing here decides where a frame goes. All unsafe code of the daemon that touches rings,
//! mappings and raw sockets is in this room.
//!
//! - [`umem`]: the frame pool, one shared mapping that every AF_XDP socket registers as its own;
//! - [`afxdp`]: a network interface through AF_XDP sockets and an XDP program;
//! - [`packet`]: a network interface through AF_PACKET, including GSO packets and partial checksums;
//! - [`tap`]: a TAP interface, with the same abilities;
//! - [`udp`]: tunnel packets through UDP sockets;
//! - [`vhostuser`]: a guest's NIC, in memory shared with QEMU;
//! - [`host`]: whole packets handed to the kernel through raw sockets;
//! - [`keep`]: the descriptors that outlive the process;
//! - [`promiscuous`]: makes a NIC accept frames for the MACs behind a port;
//! - [`own`]: the kernel's own connections on addresses that are steered.

pub mod afxdp;
pub mod ethtool;
pub mod host;
pub mod keep;
mod landing;
pub mod lane;
mod messages;
pub mod own;
pub mod packet;
pub mod promiscuous;
pub mod tap;
pub mod udp;
#[cfg_attr(feature = "xsk-afxdp", allow(dead_code, reason = "the crate borrows no slots"))]
pub mod umem;
pub mod vhostuser;

use std::ffi::CString;
use std::os::fd::RawFd;
use std::sync::Arc;

use ctl::io::{GuestIo, Input, IoKind, KernelDrops, OpenPort, PortFacts, SteerPlan};
use engine::command::PortId;
use engine::port::Port;
use engine::wire::mac::MacAddr;

use afxdp::{AfxdpControl, AfxdpPort, Kept};
use lane::LaneError;
use packet::PacketControl;
use tap::TapControl;
use udp::UdpControl;
use umem::{UmemHandle, UmemPool};
use vhostuser::{VhostControl, VhostPort};

/// An opened port: its parts for the workers, for the control thread, and for status reports.
pub struct Opened {
    /// The parts of the workers that have queues of this port, by worker number.
    pub parts: Vec<(usize, OpenedPart)>,
    /// The control thread's part.
    pub control: PortControl,
    /// For `ivctl status`.
    pub facts: PortFacts,
    /// The kernel offload's view of the port; `None` if such ports take no part in it.
    pub cached: Option<afxdp::cache::Candidate>,
}

/// One worker's part of a port.
pub struct OpenedPart {
    /// The worker's queues.
    pub port: Box<dyn Port<UmemPool> + Send>,
    /// Descriptors that become readable when frames have arrived.
    pub fds: Vec<RawFd>,
    /// Whether the port wants to be polled again soon although no descriptor becomes readable.
    pub pending: Box<dyn Fn() -> bool + Send>,
    /// The number of these queues.
    pub queues: u32,
}

/// The control thread's part of a port, by driver.
#[derive(Debug)]
pub enum PortControl {
    /// AF_XDP: keeps the XDP program attached.
    Afxdp(AfxdpControl),
    /// AF_PACKET: keeps our frames from the kernel.
    Packet(PacketControl),
    /// TAP.
    Tap(TapControl),
    /// UDP sockets.
    Udp(UdpControl),
    /// Shared memory.
    Vhostuser(Box<VhostControl>),
}

/// Opens a port for `workers` workers. `mac` is the interface's own address. Blocks for some milliseconds.
///
/// # Errors
/// The text names object, cause and remedy.
pub fn open(
    spec: &OpenPort,
    mac: MacAddr,
    umem: &UmemHandle,
    owner: PortId,
    workers: usize,
    cache: &Arc<afxdp::SharedMaps>,
    kept: &mut Kept,
) -> Result<Opened, String> {
    let text = |error: LaneError| error.to_string();
    let resumed = kept.port(spec.index);
    let resumed = resumed.and_then(|port| {
        if spec.kind == IoKind::Afxdp {
            Some(port)
        } else {
            port.discard();
            None
        }
    });
    match spec.kind {
        IoKind::Afxdp => {
            let opened = afxdp::open_parts(spec, umem, owner, workers, cache, resumed)
                .map_err(|error| error.to_string())?;
            let part = |port: AfxdpPort| OpenedPart {
                fds: port.fds().collect(),
                pending: Box::new(port.tx_pending()),
                queues: port.queue_count(),
                port: Box::new(port),
            };
            let parts = opened.parts.into_iter().map(|(worker, port)| (worker, part(port))).collect();
            let cached = Some(opened.candidate);
            Ok(Opened { parts, control: PortControl::Afxdp(opened.control), facts: opened.facts, cached })
        }
        IoKind::Packet => {
            let (ports, control, facts, candidate) = packet::open(spec, workers, cache).map_err(text)?;
            let cached = Some(candidate);
            Ok(Opened { parts: parts(ports), control: PortControl::Packet(control), facts, cached })
        }
        IoKind::Tap => {
            let (ports, control, facts) = tap::open(spec, workers, kept).map_err(text)?;
            Ok(Opened { parts: parts(ports), control: PortControl::Tap(control), facts, cached: None })
        }
        IoKind::Udp => {
            let (ports, control, facts) = udp::open(spec, mac, workers).map_err(text)?;
            Ok(Opened { parts: parts(ports), control: PortControl::Udp(control), facts, cached: None })
        }
        IoKind::Vhostuser => {
            let (ports, control) = vhostuser::open(spec, workers).map_err(text)?;
            let part = |port: VhostPort| OpenedPart {
                fds: vec![port.fd()],
                pending: Box::new(port.waits()),
                queues: port.queue_count(),
                port: Box::new(port),
            };
            let parts = ports.into_iter().map(part).enumerate().collect();
            let facts = PortFacts { queues: spec.queues, ..PortFacts::default() };
            Ok(Opened { parts, control: PortControl::Vhostuser(Box::new(control)), facts, cached: None })
        }
    }
}

/// Gives one queue to each worker.
fn parts<L: lane::Lane>(ports: Vec<L>) -> Vec<(usize, OpenedPart)> {
    let part = |port: L| OpenedPart {
        fds: vec![port.fd()],
        pending: Box::new(lane::retries(port.shared())),
        queues: 1,
        port: Box::new(port),
    };
    ports.into_iter().map(part).enumerate().collect()
}

impl PortControl {
    /// Replaces the set of packets that the uplink takes up. `mac` is the interface's own address.
    ///
    /// # Errors
    /// When the plan has more entries than the kernel's tables take, or the port has no steering.
    pub fn steer(&mut self, plan: &SteerPlan, mac: MacAddr) -> Result<(), String> {
        match self {
            Self::Afxdp(control) => control.steer(plan, mac).map_err(|error| error.to_string()),
            Self::Packet(control) => control.steer(plan, mac),
            // The sockets receive the packets for the addresses that they are bound to, and no others.
            Self::Tap(_) | Self::Udp(_) | Self::Vhostuser(_) => Ok(()),
        }
    }

    /// Frames dropped by the kernel, and by us for it; `None` once the worker's part is closed.
    #[must_use]
    pub fn drops(&self) -> Option<KernelDrops> {
        match self {
            Self::Afxdp(control) => control.stats().map(|stats| KernelDrops {
                rx_ring_full: stats.rx_ring_full,
                fill_ring_empty: stats.fill_ring_empty,
                rx_other: stats.rx_dropped,
                tx_invalid: stats.tx_invalid,
                ..KernelDrops::default()
            }),
            Self::Packet(control) => control.drops(),
            Self::Tap(control) => control.drops(),
            Self::Udp(control) => control.drops(),
            Self::Vhostuser(control) => control.drops(),
        }
    }

    /// The counts of the uplink's steering; `None` for a port without it.
    pub fn steer_counters(&self) -> Option<afxdp::SteerCounters> {
        match self {
            Self::Afxdp(control) => control.steer_counters(),
            Self::Packet(control) => control.steer_counters(),
            Self::Tap(_) | Self::Udp(_) | Self::Vhostuser(_) => None,
        }
    }

    /// The kernel's own flows on the uplink; `None` without steering.
    pub fn own(&self) -> Option<&own::Own> {
        match self {
            Self::Afxdp(control) => Some(control.own()),
            Self::Packet(control) => Some(control.own()),
            Self::Tap(_) | Self::Udp(_) | Self::Vhostuser(_) => None,
        }
    }

    /// Whether the interface works although it is no longer visible here: a TAP that the CMS moved to another
    /// namespace takes the other end of our file along.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Tap(control) if control.is_attached())
    }

    /// Becomes readable, edge-triggered, when [`PortControl::turn`] has something to do. `None`: never.
    #[must_use]
    pub fn fd(&self) -> Option<RawFd> {
        match self {
            Self::Vhostuser(control) => Some(control.fd()),
            _ => None,
        }
    }

    /// Does due work, and appends the news for the agent to `out`. Returns true if there may be more work now.
    pub fn turn(&mut self, id: PortId, out: &mut Vec<Input>) -> bool {
        match self {
            Self::Vhostuser(control) => control.turn(id, out),
            _ => false,
        }
    }

    /// The counts of the traffic between us and a guest.
    #[must_use]
    pub fn guest_io(&self) -> Option<GuestIo> {
        match self {
            Self::Vhostuser(control) => Some(control.guest_io()),
            _ => None,
        }
    }

    /// True once the worker has noticed that the kernel removed the interface.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        match self {
            Self::Afxdp(control) => control.is_dead(),
            Self::Packet(control) => control.is_dead(),
            Self::Tap(control) => control.is_dead(),
            Self::Udp(control) => control.is_dead(),
            Self::Vhostuser(control) => control.is_dead(),
        }
    }
}

/// Index of the interface with this name, in this thread's network namespace.
fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the pointer is to a terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Name of the interface with this index, in this thread's network namespace.
fn interface_name(index: u32) -> Option<String> {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the length that the call requires.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    let len = name.iter().position(|&byte| byte == 0)?;
    (!found.is_null()).then(|| String::from_utf8_lossy(&name[..len]).into_owned())
}

/// Whether the kernel is of this version or newer.
fn kernel_at_least(major: u32, minor: u32) -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}
