//! Port I/O: where frames enter and leave the process, and the memory they live in.
//!
//! Nothing here decides where a frame goes. All unsafe code of the daemon that touches rings,
//! mappings and raw sockets is in this room.
//!
//! - [`umem`]: the frame pool, one shared mapping that every AF_XDP socket registers as its own;
//! - [`afxdp`]: a network interface through AF_XDP sockets and an XDP program;
//! - [`packet`]: a network interface through AF_PACKET, super-frames and partial checksums included;
//! - [`tap`]: a TAP interface, likewise;
//! - [`udp`]: tunnel packets through UDP sockets;
//! - [`vhostuser`]: a guest's NIC, in memory shared with QEMU;
//! - [`host`]: whole packets handed to the kernel through raw sockets;
//! - [`keep`]: what of all this outlives the process;
//! - [`promiscuous`]: what makes a NIC take frames for the MACs behind a port;
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

/// A port, opened: its parts for the workers, for the control thread, and for people.
pub struct Opened {
    /// For the workers that have queues of it, by their number.
    pub parts: Vec<(usize, OpenedPart)>,
    /// For the control thread.
    pub control: PortControl,
    /// For `ivctl status`.
    pub facts: PortFacts,
    /// What the verdict cache must know; `None`: it has no part in such ports.
    pub cached: Option<afxdp::cache::Candidate>,
}

/// What one worker gets of a port.
pub struct OpenedPart {
    /// Its queues.
    pub port: Box<dyn Port<UmemPool> + Send>,
    /// What becomes readable when frames have arrived.
    pub fds: Vec<RawFd>,
    /// Tells whether it wants to be asked again soon though nothing becomes readable.
    pub pending: Box<dyn Fn() -> bool + Send>,
    /// How many queues these are.
    pub queues: u32,
}

/// The control thread's part of a port, by kind.
#[derive(Debug)]
pub enum PortControl {
    /// AF_XDP: keeps the XDP program attached.
    Afxdp(AfxdpControl),
    /// AF_PACKET: keeps the kernel from our frames.
    Packet(PacketControl),
    /// TAP.
    Tap(TapControl),
    /// UDP sockets.
    Udp(UdpControl),
    /// Shared memory.
    Vhostuser(Box<VhostControl>),
}

/// Opens a port for so many workers. `mac` is the interface's own address. Blocks for some milliseconds.
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

/// One queue for each worker.
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
    /// Replaces what the uplink takes up. `mac` is the interface's own address.
    ///
    /// # Errors
    /// When the plan has more entries than the kernel's tables take, or there is nothing to steer.
    pub fn steer(&mut self, plan: &SteerPlan, mac: MacAddr) -> Result<(), String> {
        match self {
            Self::Afxdp(control) => control.steer(plan, mac).map_err(|error| error.to_string()),
            Self::Packet(control) => control.steer(plan, mac),
            // Its sockets hear what they are bound to, and nothing else.
            Self::Tap(_) | Self::Udp(_) | Self::Vhostuser(_) => Ok(()),
        }
    }

    /// What the kernel, and we for it, dropped; `None` once the worker's part is closed.
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

    /// What the uplink's steering did; `None` where there is none.
    pub fn steer_counters(&self) -> Option<afxdp::SteerCounters> {
        match self {
            Self::Afxdp(control) => control.steer_counters(),
            Self::Packet(control) => control.steer_counters(),
            Self::Tap(_) | Self::Udp(_) | Self::Vhostuser(_) => None,
        }
    }

    /// The kernel's own flows on the uplink; `None` where nothing is steered.
    pub fn own(&self) -> Option<&own::Own> {
        match self {
            Self::Afxdp(control) => Some(control.own()),
            Self::Packet(control) => Some(control.own()),
            Self::Tap(_) | Self::Udp(_) | Self::Vhostuser(_) => None,
        }
    }

    /// Whether the interface works on though it is no longer seen here: a TAP that the CMS moved to a namespace
    /// of its own takes the far end of our file along.
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

    /// Does what is due, and says what the agent is to know. True: there may be more to do at once.
    pub fn turn(&mut self, id: PortId, out: &mut Vec<Input>) -> bool {
        match self {
            Self::Vhostuser(control) => control.turn(id, out),
            _ => false,
        }
    }

    /// What passed between us and a guest.
    #[must_use]
    pub fn guest_io(&self) -> Option<GuestIo> {
        match self {
            Self::Vhostuser(control) => Some(control.guest_io()),
            _ => None,
        }
    }

    /// True once the worker has noticed that the interface is gone for the kernel.
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

/// Index of the interface of this name, in this thread's network namespace.
fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the pointer is to a terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Name of the interface of this index, in this thread's network namespace.
fn interface_name(index: u32) -> Option<String> {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the length that the call wants.
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
