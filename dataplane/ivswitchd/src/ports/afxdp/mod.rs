//! A network interface through AF_XDP.
//!
//! The control thread calls [`open_parts`] and takes its result apart: each [`AfxdpPort`] (sockets
//! and rings) goes to its worker, the [`AfxdpControl`] (the XDP program, its maps and its link) stays.
//! They close in any order; closing waits for the kernel, so drop neither on the worker's path.
//!
//! `cache` is the kernel offload that the programs of all ports share, `kept` resumes ports of the previous
//! process, `ring` is the arithmetic of rings, `socket` the system calls, `object` and `program` the XDP side, `steer`
//! turns a plan into table entries, `probe` queries an interface first, `port` is the worker's part. With the
//! feature `xsk-afxdp` the worker's part is `crate_port`, on the crate `afxdp` instead of our own rings.

pub mod cache;
mod error;
#[cfg_attr(feature = "xsk-afxdp", allow(dead_code, reason = "the crate's sockets are its own"))]
mod kept;
mod layout;
mod membarrier;
mod object;
#[cfg(not(feature = "xsk-afxdp"))]
mod port;
#[cfg(feature = "xsk-afxdp")]
#[path = "crate_port.rs"]
mod port;
mod probe;
#[cfg_attr(feature = "xsk-afxdp", allow(dead_code, reason = "the crate sets its sockets itself"))]
mod program;
#[cfg_attr(feature = "xsk-afxdp", allow(dead_code, reason = "the crate has rings of its own"))]
mod ring;
#[cfg_attr(feature = "xsk-afxdp", allow(dead_code, reason = "the crate has memory of its own"))]
mod share;
#[cfg_attr(feature = "xsk-afxdp", allow(dead_code, reason = "the crate makes its sockets itself"))]
mod socket;
mod sockets;
mod steer;
mod test_run;
#[cfg(test)]
mod verdicts;

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use aya::maps::MapError;
use ctl::io::{OpenPort, PortFacts, SteerPlan, XdpMode};
use engine::command::PortId;
use engine::handoff::Spread;
use engine::limits::{HEADROOM, SLOT_SMALL_LEN};
use engine::wire::mac::MacAddr;

use super::keep;
use super::own::Own;
use super::umem::UmemHandle;
pub use error::PortError;
pub use kept::{Kept, KeptPort};
pub use port::AfxdpPort;
pub use probe::InterfaceFacts;
pub use program::is_detached as is_link_detached;
use program::{LoadError, Program};
pub use program::{SharedMaps, SkbPrograms, SteerMaps, SteerTable, load_closed, load_track, set_tail_call};
use socket::SocketError;
use sockets::Sockets;
pub use steer::mapped;

/// The program that notes the kernel's own flows, next to a steering program that has its maps.
#[cfg(test)]
pub fn trial_of_track(cache: &Arc<SharedMaps>) -> (impl Sized, std::os::fd::OwnedFd) {
    let steering = Program::load(true, 1, cache).expect("it loads");
    let track = steering.load_track().expect("it loads");
    (steering, track)
}

/// At most this many queues of one interface are opened.
const QUEUES_MAX: u32 = 64;

/// How long a queue may stay busy after the socket on it was closed, and how often to look.
const CLOSING_MAX: Duration = Duration::from_millis(500);
const CLOSING_STEP: Duration = Duration::from_millis(2);

/// Bytes in front of the IP packet: Ethernet and two VLAN tags.
const L2_LEN: u32 = 22;

/// A port, opened for one worker.
#[derive(Debug)]
pub struct Opened {
    /// The worker's part.
    pub port: AfxdpPort,
    /// The control thread's part, see [`OpenedParts`].
    pub control: AfxdpControl,
    /// For `ivctl status`.
    pub facts: PortFacts,
}

/// An opened port: its parts for the workers, for the control thread, and for status reports.
#[derive(Debug)]
pub struct OpenedParts {
    /// The parts of the workers that have queues of this port, by worker number.
    pub parts: Vec<(usize, AfxdpPort)>,
    /// The control thread's part: keeps the XDP program attached as long as it lives.
    pub control: AfxdpControl,
    /// For `ivctl status`.
    pub facts: PortFacts,
    /// The kernel offload's view of the port.
    pub candidate: cache::Candidate,
}

/// The kernel's and our own counts on a port's sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct XskStats {
    /// Frames dropped on receipt: larger than the socket was bound for, or no room to gather them.
    pub rx_dropped: u64,
    /// Frames dropped because the receive ring was full: the worker was too slow.
    pub rx_ring_full: u64,
    /// Frames dropped because the fill ring was empty: the pool had no slots.
    pub fill_ring_empty: u64,
    /// Frames that could not be sent: an impossible length, or no slots to spread a large frame over.
    pub tx_invalid: u64,
}

/// The counts of the uplink's XDP program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SteerCounters {
    /// Frames left to the kernel.
    pub passed: u64,
    /// Tunnel packets taken up to the switch.
    pub tunnel: u64,
    /// Packets to reality addresses taken up to the switch.
    pub reality: u64,
    /// Packets to reality addresses left to the kernel because they answer the kernel's own packets.
    pub own: u64,
}

/// The control thread's part of a port. While it lives the XDP program is attached.
#[derive(Debug)]
pub struct AfxdpControl {
    interface: String,
    shared: bool,
    program: Program,
    /// The sockets of each worker that has a part.
    sockets: Vec<Weak<Sockets>>,
    /// Names under which the service manager keeps the port's descriptors.
    names: Vec<String>,
}

/// One way to open an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mode {
    native: bool,
    zero_copy: bool,
}

impl Mode {
    const fn name(self) -> &'static str {
        match (self.native, self.zero_copy) {
            (true, true) => "native, zero-copy",
            (true, false) => "native, copy",
            (false, _) => "generic, copy",
        }
    }

    /// The modes that may be tried, best first.
    const fn allowed(by: XdpMode) -> &'static [Self] {
        const ALL: [Mode; 3] = [
            Mode { native: true, zero_copy: true },
            Mode { native: true, zero_copy: false },
            Mode { native: false, zero_copy: false },
        ];
        match by {
            XdpMode::Auto => &ALL,
            XdpMode::Native => ALL.split_at(2).0,
            XdpMode::Copy => ALL.split_at(1).1.split_at(1).0,
            XdpMode::Generic => ALL.split_at(2).1,
        }
    }
}

/// How an attempt ended.
enum Failure {
    /// Another mode may work. The text is for the operator.
    Mode(String),
    /// No mode will.
    Final(PortError),
}

/// Opens the port as [`open_parts`] does, with all queues for one worker.
///
/// # Errors
/// See [`open_parts`].
pub fn open(
    spec: &OpenPort,
    umem: &UmemHandle,
    owner: PortId,
    cache: &Arc<SharedMaps>,
) -> Result<Opened, PortError> {
    let OpenedParts { mut parts, control, facts, .. } = open_parts(spec, umem, owner, 1, cache, None)?;
    let (_, port) = parts.pop().expect("the one worker has all queues");
    Ok(Opened { port, control, facts })
}

/// Opens the interface in the best mode that works, with its queues spread over `workers`. Blocks for some
/// milliseconds.
///
/// The fill rings are full before the program is attached, so opening loses no frame.
///
/// # Errors
/// When no mode that `spec` allows works; the text names object, cause and remedy.
pub fn open_parts(
    spec: &OpenPort,
    umem: &UmemHandle,
    owner: PortId,
    workers: usize,
    cache: &Arc<SharedMaps>,
    kept: Option<KeptPort>,
) -> Result<OpenedParts, PortError> {
    let missing = |_| PortError::NoInterface { interface: spec.interface.clone() };
    let interface = InterfaceFacts::of(&spec.interface).map_err(missing)?;
    if interface.index != spec.index {
        return Err(missing(io::Error::from_raw_os_error(libc::ENODEV)));
    }
    let mut reasons = Vec::new();
    #[cfg(not(feature = "xsk-afxdp"))]
    if let Some(kept) = kept
        && let Some(opened) = resume(spec, umem, owner, workers, cache, &interface, kept)
    {
        return Ok(opened);
    }
    #[cfg(feature = "xsk-afxdp")]
    drop(kept);
    for mode in Mode::allowed(spec.xdp) {
        if mode.zero_copy && interface.driver == "veth" {
            // The attempt would end the same way, some milliseconds later.
            reasons.push(format!("{}: driver veth does not do it", mode.name()));
            continue;
        }
        match (Opening { spec, interface: &interface, mode: *mode }).run(umem, owner, workers, cache) {
            Ok((parts, control)) => {
                reasons.extend(control.hidden_tags(&interface));
                let facts = PortFacts {
                    mode: mode.name().to_owned(),
                    reason: reasons.join("; "),
                    queues: parts.iter().map(|(_, port)| port.queue_count()).sum(),
                };
                tracing::info!(
                    port = owner.0,
                    "{}: {} ({} queues) {}",
                    spec.interface,
                    facts.mode,
                    facts.queues,
                    facts.reason
                );
                #[cfg(not(feature = "xsk-afxdp"))]
                let (index, mut control) = (interface.index, control);
                let candidate = cache::Candidate::by_xdp(interface, mode.native);
                #[cfg(not(feature = "xsk-afxdp"))]
                if !mode.zero_copy {
                    control.keep(index, mode.native, &parts, true);
                }
                return Ok(OpenedParts { parts, control, facts, candidate });
            }
            Err(Failure::Mode(reason)) => reasons.push(format!("{}: {reason}", mode.name())),
            Err(Failure::Final(error)) => return Err(error),
        }
    }
    Err(PortError::NoMode { interface: spec.interface.clone(), reasons: reasons.join("; ") })
}

/// Resumes a port of the previous process. `None`: it does not match the desired configuration, and is closed.
#[cfg(not(feature = "xsk-afxdp"))]
fn resume(
    spec: &OpenPort,
    umem: &UmemHandle,
    port: PortId,
    workers: usize,
    cache: &Arc<SharedMaps>,
    interface: &InterfaceFacts,
    kept: KeptPort,
) -> Option<OpenedParts> {
    let queues = interface.rx_queues.min(QUEUES_MAX);
    let mode = Mode { native: kept.bound.native, zero_copy: false };
    let opening = Opening { spec, interface, mode };
    let fits = Mode::allowed(spec.xdp).contains(&mode)
        && kept.bound.multi_buffer == opening.multi_buffer()
        && kept.has_queues(queues)
        && program::is_attached_to(&kept.link, interface.index);
    let program = if fits { opening.program(queues, cache).ok() } else { None };
    let Some(program) = program else {
        kept.discard();
        return None;
    };
    let (parts, program) =
        match AfxdpPort::resume(&opening, umem, Spread { port, queues, workers }, program, kept) {
            Ok(resumed) => resumed,
            Err(kept) => {
                kept.discard();
                return None;
            }
        };
    let mut reason = "taken up as the process before left it".to_owned();
    tracing::info!(port = port.0, "{}: {} ({queues} queues), {reason}", spec.interface, mode.name());
    let mut control = AfxdpControl {
        interface: spec.interface.clone(),
        shared: spec.shared,
        program,
        sockets: parts.iter().map(|(_, port)| Arc::downgrade(port.sockets())).collect(),
        names: Vec::new(),
    };
    if let Some(tags) = control.hidden_tags(interface) {
        reason = format!("{reason}; {tags}");
    }
    let candidate = cache::Candidate::by_xdp(interface.clone(), mode.native);
    control.keep(interface.index, mode.native, &parts, false);
    let facts = PortFacts { mode: mode.name().to_owned(), reason, queues };
    Some(OpenedParts { parts, control, facts, candidate })
}

/// One attempt to open.
struct Opening<'a> {
    spec: &'a OpenPort,
    interface: &'a InterfaceFacts,
    mode: Mode,
}

#[cfg_attr(feature = "xsk-afxdp", allow(dead_code, reason = "the crate reports errors in fewer words"))]
impl Opening<'_> {
    fn run(
        &self,
        umem: &UmemHandle,
        port: PortId,
        workers: usize,
        cache: &Arc<SharedMaps>,
    ) -> Result<(Vec<(usize, AfxdpPort)>, AfxdpControl), Failure> {
        let program = self.program(QUEUES_MAX, cache).map_err(|e| self.load_failure(&e))?;
        let queues = self.interface.rx_queues.min(QUEUES_MAX);
        let (mut parts, mut program) =
            AfxdpPort::open(self, umem, Spread { port, queues, workers }, program)?;
        // virtio, where it has enough, reserves extra queue pairs for sending by XDP, and receives on those
        // as well. Frames that arrive there would bypass us. These queues exist, and can be bound, only while
        // the program is attached.
        let now =
            InterfaceFacts::of(&self.spec.interface).map_or(queues, |now| now.rx_queues.min(QUEUES_MAX));
        if now > queues {
            drop(parts);
            (parts, program) = AfxdpPort::open(self, umem, Spread { port, queues: now, workers }, program)?;
        }
        let control = AfxdpControl {
            interface: self.spec.interface.clone(),
            shared: self.spec.shared,
            program,
            sockets: parts.iter().map(|(_, port)| Arc::downgrade(port.sockets())).collect(),
            names: Vec::new(),
        };
        Ok((parts, control))
    }

    /// Loads the program for this interface: the one that restores VLAN tags, if the port is not shared and
    /// the kernel allows it.
    fn program(&self, queues: u32, cache: &Arc<SharedMaps>) -> Result<Program, LoadError> {
        let may_hide_tags = self.mode.native && !self.spec.shared;
        let tagged = may_hide_tags.then(|| Program::load_tagged(self.interface.index, queues, cache));
        match tagged {
            Some(Ok(program)) => Ok(program),
            Some(Err(error)) => {
                tracing::info!("{}: VLAN tags outside frames are not seen: {error}", self.spec.interface);
                Program::load(self.spec.shared, queues, cache)
            }
            None => Program::load(self.spec.shared, queues, cache),
        }
    }

    /// Attaches the program, unless it is attached already.
    fn attach(&self, program: &mut Program) -> Result<(), Failure> {
        if program.link().is_some() {
            return Ok(());
        }
        program.attach(self.interface.index, self.mode.native).map_err(|cause| self.attach_failure(&cause))
    }

    /// Whether frames of this interface need more than one chunk.
    const fn multi_buffer(&self) -> bool {
        self.interface.mtu + L2_LEN > (SLOT_SMALL_LEN - HEADROOM) as u32
    }

    /// Binds, and waits briefly if a socket was just closed: the kernel frees its queue later.
    fn patiently<T>(&self, index: u32, mut bind: impl FnMut() -> io::Result<T>) -> Result<T, Failure> {
        let deadline = std::time::Instant::now() + CLOSING_MAX;
        loop {
            let bound = bind();
            let busy = bound.as_ref().is_err_and(|cause| cause.raw_os_error() == Some(libc::EBUSY));
            if !busy || std::time::Instant::now() > deadline {
                return bound.map_err(|cause| self.bind_failure(index, &cause));
            }
            std::thread::sleep(CLOSING_STEP);
        }
    }

    fn no_slots(&self, queues: u32) -> Failure {
        Failure::Final(PortError::NoSlots { interface: self.spec.interface.clone(), queues })
    }

    fn socket_failure(&self, error: SocketError) -> Failure {
        let interface = self.spec.interface.clone();
        let what = error.what;
        match error.cause.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Failure::Final(PortError::NotPermitted { interface, what }),
            // What the kernel says of too much locked memory, and of no other.
            Some(libc::ENOBUFS) => Failure::Final(PortError::NotLocked { interface, what }),
            Some(libc::ENOMEM | libc::EAGAIN) => Failure::Final(PortError::NoMemory { interface, what }),
            Some(libc::EMFILE | libc::ENFILE) => Failure::Final(PortError::NoFiles { interface, what }),
            Some(libc::EAFNOSUPPORT) => Failure::Final(PortError::NoMode {
                interface,
                reasons: "this kernel was built without CONFIG_XDP_SOCKETS; use another".into(),
            }),
            _ => {
                let reasons = format!("{what}: {}; a newer kernel may help", error.cause);
                Failure::Final(PortError::NoMode { interface, reasons })
            }
        }
    }

    fn bind_failure(&self, queue: u32, cause: &io::Error) -> Failure {
        let interface = self.spec.interface.clone();
        let driver = self.driver();
        match cause.raw_os_error() {
            Some(libc::EBUSY) => Failure::Final(PortError::QueueTaken { interface, queue }),
            Some(libc::ENODEV | libc::ENXIO) => Failure::Final(PortError::NoInterface { interface }),
            Some(libc::EPERM) => Failure::Final(PortError::NotPermitted { interface, what: "bind" }),
            Some(libc::ENOMEM) => Failure::Final(PortError::NoMemory { interface, what: "bind" }),
            Some(libc::EOPNOTSUPP) if self.mode.zero_copy => {
                Failure::Mode(format!("{driver} does not do it"))
            }
            Some(libc::EINVAL | libc::EOPNOTSUPP) if self.interface.mtu > 1500 => Failure::Mode(format!(
                "{driver} refuses frames of {} bytes in several buffers ({cause}); an MTU of {} or less needs none",
                self.interface.mtu + L2_LEN,
                SLOT_SMALL_LEN - HEADROOM - L2_LEN as usize
            )),
            _ => Failure::Mode(format!("binding queue {queue} of {driver}: {cause}")),
        }
    }

    fn load_failure(&self, error: &LoadError) -> Failure {
        let interface = self.spec.interface.clone();
        let (what, cause) = match error {
            LoadError::Kernel { cause, log } if log.is_empty() => ("load the XDP program", cause),
            LoadError::Map(MapError::CreateError { io_error, .. }) => ("make a BPF map", io_error),
            _ => return Failure::Final(PortError::Program { interface, cause: error.to_string() }),
        };
        Failure::Final(match cause.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => PortError::NotPermitted { interface, what },
            Some(libc::EMFILE | libc::ENFILE) => PortError::NoFiles { interface, what },
            Some(libc::ENOMEM) => PortError::NoMemory { interface, what },
            _ => PortError::Program { interface, cause: error.to_string() },
        })
    }

    fn map_failure(&self, cause: &MapError) -> Failure {
        let interface = self.spec.interface.clone();
        Failure::Final(PortError::Program { interface, cause: cause.to_string() })
    }

    fn attach_failure(&self, cause: &io::Error) -> Failure {
        let interface = self.spec.interface.clone();
        let driver = self.driver();
        let veth = self.interface.driver == "veth";
        match cause.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => {
                let programs = probe::xdp_programs(self.interface.index)
                    .unwrap_or_else(|| "one that the kernel does not name".into());
                Failure::Final(PortError::ProgramPresent { interface, programs })
            }
            Some(libc::EPERM) => {
                Failure::Final(PortError::NotPermitted { interface, what: "attach the XDP program" })
            }
            Some(libc::EMFILE | libc::ENFILE) => {
                Failure::Final(PortError::NoFiles { interface, what: "attach the XDP program" })
            }
            Some(libc::ENODEV) => Failure::Final(PortError::NoInterface { interface }),
            Some(libc::ENOSPC) if veth => Failure::Mode(format!(
                "the other end of the veth has more transmit queues than this end's {} receive queues; \
                 `ethtool -L {interface} rx N` makes more",
                self.interface.rx_queues
            )),
            Some(libc::ERANGE) if veth => {
                Failure::Mode("the MTU of the other end of the veth is too large for XDP; lower it".into())
            }
            Some(libc::EOPNOTSUPP) => Failure::Mode(format!("{driver} does not do it")),
            Some(libc::EINVAL | libc::ERANGE | libc::ENOSPC) => Failure::Mode(format!(
                "{driver} refuses at MTU {} with {} queues and its present offloads ({cause})",
                self.interface.mtu, self.interface.rx_queues
            )),
            _ => Failure::Mode(format!("{driver} refuses: {cause}")),
        }
    }

    fn driver(&self) -> String {
        if self.interface.driver.is_empty() {
            "the driver".into()
        } else {
            format!("driver {}", self.interface.driver)
        }
    }
}

impl Drop for AfxdpControl {
    /// Saves the kernel's last counts, which would be lost with the sockets.
    fn drop(&mut self) {
        if !self.names.is_empty() && !keep::is_leaving() {
            // The manager's copy of the link would keep the program on the interface, and frames would arrive
            // on sockets whose slots have other owners by then.
            if let Some(link) = self.program.link() {
                program::detach(link);
            }
            self.names.iter().for_each(|name| keep::remove(name));
        }
        let (stats, steered) = (self.stats(), self.steer_counters());
        let Some(stats) = stats else { return };
        tracing::info!(
            "{}: closing; the kernel dropped {} (receive ring full), {} (no slots to receive into), {} (too \
             large or other), {} could not be sent",
            self.interface,
            stats.rx_ring_full,
            stats.fill_ring_empty,
            stats.rx_dropped,
            stats.tx_invalid
        );
        if let Some(steered) = steered {
            tracing::info!(
                "{}: steered up {} tunnel packets and {} for reality addresses, left {} to the kernel, {} of them in \
                 connections of its own on reality addresses",
                self.interface,
                steered.tunnel,
                steered.reality,
                steered.passed + steered.own,
                steered.own
            );
        }
    }
}

impl AfxdpControl {
    /// A note for the operator where this port cannot see VLAN tags that a veth's far end keeps outside its frames.
    fn hidden_tags(&self, interface: &InterfaceFacts) -> Option<String> {
        (interface.driver == "veth" && !self.shared && !self.program.sees_tags()).then(|| {
            format!(
                "VLAN tags that the far end keeps outside its frames are lost (needs Linux 6.8 and native XDP); \
                 `ethtool -K DEV txvlan off` at the other end of {} keeps them inside",
                self.interface
            )
        })
    }

    /// Asks the service manager, if it supports that, to keep the sockets and the link beyond the end of this
    /// process. Unless they are `new`, it has them already.
    #[cfg(not(feature = "xsk-afxdp"))]
    fn keep(&mut self, interface: u32, native: bool, parts: &[(usize, AfxdpPort)], new: bool) {
        let (Some(link), true) = (self.program.link(), keep::is_possible()) else { return };
        for (_, part) in parts {
            let (sockets, bound) =
                (part.sockets(), kept::Bound { native, multi_buffer: part.is_multi_buffer() });
            for (socket, &queue) in sockets.fds.iter().zip(&sockets.indexes) {
                let name = kept::SocketName { interface, queue, bound, tag: sockets.lease.tag() }.to_string();
                if new {
                    keep::store(&name, socket);
                }
                self.names.push(name);
            }
        }
        // The link goes last: sockets without a program are never resumed.
        let name = kept::link_name(interface);
        if new {
            keep::store(&name, link);
        }
        self.names.push(name);
    }

    /// Replaces the set of packets that the uplink takes up. `mac` is the interface's own address.
    ///
    /// # Errors
    /// When the port is not a shared one, or the plan has more entries than the kernel's tables take.
    pub fn steer(&mut self, plan: &SteerPlan, mac: MacAddr) -> Result<(), PortError> {
        let interface = self.interface.clone();
        if !self.shared {
            return Err(PortError::NotShared { interface });
        }
        self.program
            .steer(plan, mac, &self.interface)
            .map_err(|cause| PortError::Steering { interface, cause })
    }

    /// The record of the kernel's own flows on the uplink.
    #[must_use]
    pub fn own(&self) -> &Own {
        self.program.own()
    }

    /// The kernel's counters, all queues; `None` once a worker's part is closed.
    #[must_use]
    pub fn stats(&self) -> Option<XskStats> {
        let mut sum = XskStats::default();
        for sockets in &self.sockets {
            let XskStats { rx_dropped, rx_ring_full, fill_ring_empty, tx_invalid } =
                sockets.upgrade()?.stats();
            sum.rx_dropped += rx_dropped;
            sum.rx_ring_full += rx_ring_full;
            sum.fill_ring_empty += fill_ring_empty;
            sum.tx_invalid += tx_invalid;
        }
        Some(sum)
    }

    /// The counts of the uplink's XDP program; `None` for a port that is not shared.
    #[must_use]
    pub fn steer_counters(&self) -> Option<SteerCounters> {
        if self.shared { self.program.counters().ok() } else { None }
    }

    /// True once a worker has noticed that the kernel removed the interface, or another tool detached our program.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.program.is_detached()
            || self.sockets.iter().any(|part| part.upgrade().is_none_or(|sockets| sockets.is_dead()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_tried_best_first_within_what_is_allowed() {
        let names = |by| Mode::allowed(by).iter().map(|mode| mode.name()).collect::<Vec<_>>();
        assert_eq!(names(XdpMode::Auto), ["native, zero-copy", "native, copy", "generic, copy"]);
        assert_eq!(names(XdpMode::Native), ["native, zero-copy", "native, copy"]);
        assert_eq!(names(XdpMode::Copy), ["native, copy"]);
        assert_eq!(names(XdpMode::Generic), ["generic, copy"]);
    }
}
