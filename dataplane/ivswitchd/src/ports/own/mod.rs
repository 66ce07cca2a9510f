//! The kernel's own connections on a reality address: their incoming packets go to the kernel
//! (`bpf/own.bpf.h`, `dataplane/decisions/0024`).
//!
//! [`Own`] belongs to the steering of an uplink with any driver. While a reality address is steered, a
//! program at the interface's egress notes the packets that the kernel sends from there. The kernel's sockets
//! are also listed, at first and every minute: some were connected before, and some are silent for hours.

mod hook;
mod sockets;
mod table;
mod watch;

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use std::sync::Arc;

use aya::maps::Map;
use ctl::io::{SteerPlan, SteerReality};
use engine::command::L4Proto;

pub use hook::{CLOSED, close, interfaces, remove_closed, remove_left};
#[cfg(test)]
pub use table::{LIFE_UDP, now};
pub use table::{Mix, OwnFlow, OwnTable};

use super::afxdp::{SteerMaps, load_track};
use hook::Hook;
pub use watch::OwnWatch;

/// The kernel's own flows on an uplink.
#[derive(Debug)]
pub struct Own {
    mix: Mix,
    running: Option<Running>,
    /// The program that notes flows stays after this process has ended.
    lasting: bool,
    /// Why the flows are unknown, although an address is steered.
    why: String,
}

/// The state that exists while an address is steered.
#[derive(Debug)]
struct Running {
    hook: Hook,
    program: OwnedFd,
    table: Arc<OwnTable>,
    reality: Vec<SteerReality>,
}

impl Default for Own {
    fn default() -> Self {
        use std::hash::{BuildHasher, Hasher, RandomState};
        let odd = |_| RandomState::new().build_hasher().finish() | 1;
        Self { mix: std::array::from_fn(odd), running: None, lasting: false, why: String::new() }
    }
}

impl Own {
    /// Flows of an uplink that is closed while the daemon is away: the program that notes them stays.
    #[must_use]
    pub fn lasting() -> Self {
        Self { lasting: true, ..Self::default() }
    }

    /// Starts if an address is to be steered, stops if none is. `maps` are those of the steering. Returns the
    /// hash keys for the steering's programs: `None` if no program notes flows.
    pub fn follow(&mut self, maps: &impl SteerMaps, plan: &SteerPlan, interface: &str) -> Option<Mix> {
        if plan.reality.is_empty() {
            (self.running, self.why) = (None, String::new());
            return None;
        }
        if self.running.as_ref().is_none_or(|running| !running.is_attached()) {
            self.running = None;
            match Running::start(maps, self.mix, interface, self.lasting) {
                Ok(running) => (self.running, self.why) = (Some(running), String::new()),
                Err(why) => {
                    if self.why != why {
                        tracing::warn!("{interface}: the kernel's own connections are not known: {why}");
                    }
                    self.why = why;
                    return None;
                }
            }
        }
        self.running.as_mut().map(|running| {
            running.reality.clone_from(&plan.reality);
            running.ask_for_sockets();
            self.mix
        })
    }

    /// Notes connections that were silent for long; call it every minute. Returns false if another tool has
    /// detached our program; [`Own::follow`] then attaches it again.
    pub fn refresh(&self) -> bool {
        let Some(running) = &self.running else { return self.why.is_empty() };
        running.ask_for_sockets();
        running.is_attached()
    }

    /// The table of the flows.
    #[cfg(test)]
    pub fn table(&self) -> &OwnTable {
        &self.running.as_ref().expect("an address is steered").table
    }

    /// The number of known flows, and why it is zero although an address is steered.
    #[must_use]
    pub fn state(&self) -> (u32, &str) {
        (self.running.as_ref().map_or(0, |running| running.table.count(table::now())), &self.why)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        watch::hide(&self.table);
    }
}

impl Running {
    fn start(maps: &impl SteerMaps, mix: Mix, interface: &str, lasting: bool) -> Result<Self, String> {
        let program = load_track(maps).map_err(|error| format!("the program that notes them: {error}"))?;
        let own = maps.map("own").and_then(fd_of).ok_or("no table")?;
        // SAFETY: the descriptor of a map, which `maps` keeps open during this call.
        let own = unsafe { std::os::fd::BorrowedFd::borrow_raw(own) };
        let table =
            OwnTable::map(own, mix).map_err(|error| format!("their table cannot be mapped: {error}"))?;
        let table = Arc::new(table);
        let attach = if lasting { Hook::attach_lasting } else { Hook::attach };
        let hook = attach(interface, &program).map_err(|error| {
            format!("no program at the way out of {interface}: {error}; Linux 6.6, or CONFIG_NET_CLS_BPF, has the place")
        })?;
        if !lasting {
            watch::show(&table);
        }
        Ok(Self { hook, program, table, reality: Vec::new() })
    }

    fn is_attached(&self) -> bool {
        self.hook.is_attached(&self.program)
    }

    fn ask_for_sockets(&self) {
        let now = table::now();
        let note = |flow: OwnFlow, life: u32| {
            if self.reality.iter().any(|reality| is_steered(reality, &flow)) {
                self.table.note(&flow, life, now);
            }
        };
        if let Err(error) = sockets::each(note) {
            tracing::debug!("the kernel's sockets cannot be asked for: {error}");
        }
    }
}

/// Whether packets of a flow would go to a floating IP.
fn is_steered(reality: &SteerReality, flow: &OwnFlow) -> bool {
    let port = flow.local.port();
    let is_in = |ranges: &[engine::command::L4Range]| {
        let proto = |proto: L4Proto| proto as u8 == flow.proto;
        ranges.iter().any(|r| proto(r.proto) && (r.first..=r.last).contains(&port))
    };
    reality.address == flow.local.ip() && (reality.all || is_in(&reality.ports)) && !is_in(&reality.except)
}

/// The descriptor of a map.
pub fn fd_of(map: &Map) -> Option<RawFd> {
    match map {
        Map::Array(data) | Map::LpmTrie(data) | Map::PerCpuArray(data) => Some(data.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}
