//! A network interface through AF_XDP.
//!
//! [`open`] is called by the control thread. What it returns comes apart: the [`AfxdpPort`] (sockets
//! and rings) goes to the worker, the [`AfxdpControl`] (the XDP program, its maps and its link) stays.

use std::os::fd::RawFd;

use ctl::io::{OpenPort, PortFacts, SteerPlan};
use engine::command::PortId;
use engine::frame::{Batch, Frame};
use engine::port::{Port, PortCaps};
use engine::time::Instant;
use engine::wire::mac::MacAddr;

use super::umem::{UmemHandle, UmemPool};

/// A port could not be opened or steered.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The kernel refused.
    #[error("port {interface:?}: {what}: {cause}; {remedy}")]
    Refused {
        /// The interface.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        cause: String,
        /// What to do.
        remedy: String,
    },
}

/// A port, opened: its parts for the worker, for the control thread, and for people.
#[derive(Debug)]
pub struct Opened {
    /// For the worker.
    pub port: AfxdpPort,
    /// For the control thread: keeps the XDP program attached as long as it lives.
    pub control: AfxdpControl,
    /// For `ivctl status`.
    pub facts: PortFacts,
}

/// What the kernel counted on a port's sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct XskStats {
    /// Frames dropped: larger than a chunk, or for other reasons.
    pub rx_dropped: u64,
    /// Frames dropped because the receive ring was full: the worker was too slow.
    pub rx_ring_full: u64,
    /// Frames dropped because the fill ring was empty: the pool had no slots.
    pub fill_ring_empty: u64,
    /// Descriptors in the transmit ring that the kernel refused.
    pub tx_invalid: u64,
}

/// What the uplink's XDP program did with the frames it saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SteerCounters {
    /// Left to the kernel.
    pub passed: u64,
    /// Tunnel packets taken up.
    pub tunnel: u64,
    /// Packets to reality addresses taken up.
    pub reality: u64,
}

/// The worker's part of a port.
#[derive(Debug)]
pub struct AfxdpPort {}

/// The control thread's part of a port.
#[derive(Debug)]
pub struct AfxdpControl {}

/// Opens the interface. Blocks for some milliseconds.
///
/// # Errors
/// When no mode that `spec` allows works; the text names object, cause and remedy.
pub fn open(spec: &OpenPort, umem: &UmemHandle, owner: PortId) -> Result<Opened, PortError> {
    let _ = (umem, owner);
    Err(PortError::Refused {
        interface: spec.interface.clone(),
        what: "open",
        cause: "not built yet".into(),
        remedy: "wait for the next commit".into(),
    })
}

impl AfxdpPort {
    /// The sockets, for `poll`: readable when frames have arrived.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        std::iter::empty()
    }

    /// The kernel's counters, all queues.
    #[must_use]
    pub fn stats(&self) -> XskStats {
        XskStats::default()
    }
}

impl Port<UmemPool> for AfxdpPort {
    fn rx(&mut self, _now: Instant, _pool: &mut UmemPool, _batch: &mut Batch) {}

    fn tx(&mut self, _now: Instant, _pool: &mut UmemPool, _frames: &mut Vec<Frame>) {}

    fn caps(&self) -> PortCaps {
        PortCaps { tx_csum: false, tx_gso: false, rx_csum_unmarked: true }
    }
}

impl AfxdpControl {
    /// Replaces what the uplink takes up. `mac` is the interface's own address.
    ///
    /// # Errors
    /// When the port is not a shared one, or the plan has more entries than the kernel's tables take.
    pub fn steer(&mut self, plan: &SteerPlan, mac: MacAddr) -> Result<(), PortError> {
        let _ = (plan, mac);
        Ok(())
    }

    /// The kernel's counters, all queues; `None` once the worker's part is closed.
    #[must_use]
    pub fn stats(&self) -> Option<XskStats> {
        None
    }

    /// What the uplink's XDP program did; `None` for a port that is not shared.
    #[must_use]
    pub fn steer_counters(&self) -> Option<SteerCounters> {
        None
    }

    /// True while frames wait in the transmit ring for another kick: do not sleep long.
    #[must_use]
    pub fn tx_pending(&self) -> bool {
        false
    }

    /// True once the interface is gone for the kernel.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        false
    }
}
