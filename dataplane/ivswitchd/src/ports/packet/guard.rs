//! Keeps frames from the kernel that a packet socket only listens to: two programs with the rules of
//! `steer.bpf.c`, which end in those of the kernel offload.
//!
//! A filter closes a dedicated port to the kernel, and stays when the process dies: until the next start no
//! frame of a guest reaches the rVM's own stack. It is removed with the port. If a killed process left it on
//! an interface that is no longer a port, the next process removes it. The uplink's filter goes with the
//! process, so that the rVM stays reachable.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{Map, MapError};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{self, TcAttachOptions, TcAttachType};
use aya::programs::{SchedClassifier, SocketFilter};
use aya::{Ebpf, EbpfLoader};
use ctl::io::{OpenPort, SteerPlan};
use engine::wire::mac::MacAddr;

use super::place;
use crate::ports::afxdp::{SkbPrograms, SteerCounters, SteerTable, set_tail_call};
use crate::ports::keep;
use crate::ports::own::{self, Own};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/packet.bpf.o"));

const ALL: &str = "packet_all";
const SHARED: &str = "packet_shared";
const ALL_SOCKET: &str = "packet_all_socket";
const SHARED_SOCKET: &str = "packet_socket";

/// The programs of one port.
pub struct Guard {
    ebpf: Ebpf,
    interface: String,
    shared: bool,
    /// The switch made the interface: no other program uses it.
    ours: bool,
    table: SteerTable,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("interface", &self.interface).finish_non_exhaustive()
    }
}

impl Guard {
    /// Closes the interface to the kernel for the frames that are ours, and lets the sockets receive just those.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn attach(spec: &OpenPort, sockets: &[OwnedFd], cache: Option<&SkbPrograms>) -> io::Result<Self> {
        let mut ebpf = EbpfLoader::new().btf(None).load(OBJECT).map_err(reason)?;
        let (name, filter) = if spec.shared { (SHARED, SHARED_SOCKET) } else { (ALL, ALL_SOCKET) };
        if let Some(cache) = cache {
            go_on(&mut ebpf, "follow_socket", &[&cache.socket[0], &cache.socket[1]])?;
            go_on(&mut ebpf, "follow_tc", &[&cache.tc])?;
        }
        let filter: &mut SocketFilter = program(&mut ebpf, filter)?;
        filter.load().map_err(reason)?;
        for socket in sockets {
            filter.attach(socket).map_err(reason)?;
        }
        let classifier: &mut SchedClassifier = program(&mut ebpf, name)?;
        classifier.load().map_err(reason)?;
        let by_link = crate::ports::kernel_at_least(6, 6).then(|| attach_link(classifier, spec));
        // The uplink's filter goes with its link. A port's tc filter stays when the process dies, and closes
        // the port until the next start.
        let by_filter = match &by_link {
            Some(Ok(())) if spec.shared => None,
            _ => Some(attach_filter(classifier, spec, name)),
        };
        match (by_link, by_filter) {
            (Some(Ok(())), Some(Err(error))) => tracing::info!(
                "{}: no filter of tc ({error}); should the daemon be killed, the kernel hears the port until the next start",
                spec.interface
            ),
            (Some(Ok(())), _) => {}
            (None | Some(Err(_)), Some(Ok(before))) if before > 0 => tracing::warn!(
                "{}: {before} tc filters of others come before ours; what they let pass reaches this machine's kernel, too",
                spec.interface
            ),
            (None | Some(Err(_)), Some(Ok(_))) => {}
            (Some(Err(error)), _) | (None, Some(Err(error))) => return Err(error),
            (None, None) => unreachable!("one of the two is tried"),
        }
        Ok(Self {
            ebpf,
            interface: spec.interface.clone(),
            shared: spec.shared,
            ours: spec.ours,
            table: SteerTable::default(),
        })
    }

    /// Replaces the set of packets that the switch takes up.
    ///
    /// # Errors
    /// The kernel's table refused an entry.
    pub fn steer(&mut self, plan: &SteerPlan, mac: MacAddr) -> Result<(), MapError> {
        self.table.replace(&mut self.ebpf, plan, mac, &self.interface)
    }

    /// The record of the kernel's own flows.
    pub fn own(&self) -> &Own {
        self.table.own()
    }

    /// The counts of the socket's filter; `None` without one.
    pub fn counters(&self) -> Option<SteerCounters> {
        if self.shared { SteerTable::counters(&self.ebpf).ok() } else { None }
    }
}

/// Closes the interface by a tcx link, before all other programs' filters. It goes with the process.
fn attach_link(classifier: &mut SchedClassifier, spec: &OpenPort) -> io::Result<()> {
    let order = if spec.shared { LinkOrder::default() } else { LinkOrder::first() };
    let options = TcAttachOptions::TcxOrder(order);
    classifier.attach_with_options(&spec.interface, TcAttachType::Ingress, options).map_err(reason)?;
    Ok(())
}

/// Closes the interface by a tc filter. Returns how many filters of other programs come before it.
fn attach_filter(classifier: &SchedClassifier, spec: &OpenPort, name: &str) -> io::Result<usize> {
    // An existing qdisc is as good as a new one.
    let _ = tc::qdisc_add_clsact(&spec.interface);
    let program = classifier.fd().map_err(reason)?.as_fd().try_clone_to_owned()?;
    let before = place::close(spec.index, name, &program)?;
    // Our other filter may be there, from when the interface was an uplink instead of a port, or the other way round.
    for other in [ALL, SHARED].into_iter().filter(|other| *other != name) {
        let _ = tc::qdisc_detach_program(&spec.interface, TcAttachType::Ingress, other);
    }
    Ok(before)
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Doors outlive us, and frames from behind them must stay there.
        if !(self.ours && !self.shared && keep::is_ending()) {
            remove(&self.interface);
        }
    }
}

/// Removes our filters from an interface. Some are gone with the interface already, or will go with their link.
fn remove(interface: &str) {
    for name in [ALL, SHARED] {
        let _ = tc::qdisc_detach_program(interface, TcAttachType::Ingress, name);
    }
}

/// Removes an earlier process's filters from all interfaces except those that are about to get ours instead.
pub fn remove_left(but: &BTreeSet<String>) {
    let names = match own::interfaces() {
        Ok(names) => names,
        Err(error) => return tracing::warn!("filters of a process before are not found: {error}"),
    };
    for name in names {
        own::remove_left(&name);
        if !but.contains(&name) {
            remove(&name);
        }
    }
}

/// Sets the programs that tail calls through this map lead to.
fn go_on(ebpf: &mut Ebpf, map: &str, programs: &[&OwnedFd]) -> io::Result<()> {
    let Some(Map::ProgramArray(map)) = ebpf.map(map) else {
        return Err(io::Error::other(format!("no map {map}")));
    };
    for (index, program) in (0..).zip(programs) {
        set_tail_call(map, index, program)?;
    }
    Ok(())
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> io::Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| io::Error::other(format!("no program {name}")))?;
    program.try_into().map_err(|_| io::Error::other(format!("{name} is of another kind")))
}

/// The system's error, which is the innermost cause in aya's.
fn reason(error: impl std::error::Error + 'static) -> io::Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut text = String::new();
    while let Some(error) = source {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(code);
        }
        text = error.to_string();
        source = error.source();
    }
    io::Error::other(text)
}
