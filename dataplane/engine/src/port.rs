//! A port as the engine sees it: a source and a destination of batches.

use crate::frame::{Batch, Frame, FramePool};
use crate::time::{Duration, Instant};
use alloc::vec::Vec;

/// The offloads of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortCaps {
    /// The port takes frames with a partial transport checksum and finishes them.
    pub tx_csum: bool,
    /// The port takes TCP GSO packets, IPv4 and IPv6, and segments them itself or passes them on whole.
    pub tx_tso: bool,
    /// The port takes UDP GSO packets: one datagram per segment.
    pub tx_uso: bool,
    /// Frames from the port may carry a partial checksum without a mark (as with AF_XDP on a veth). The
    /// engine then recognises one by its value.
    pub rx_csum_unmarked: bool,
}

/// A port's I/O. It never blocks and never fails; it leaves frames that it cannot handle now.
pub trait Port<P: FramePool> {
    /// Appends received frames to `batch`, up to its capacity.
    fn rx(&mut self, now: Instant, pool: &mut P, batch: &mut Batch);

    /// Sends frames from the front of `frames`, in order, and removes each one that it takes. The worker
    /// drops and counts the frames that are left.
    fn tx(&mut self, now: Instant, pool: &mut P, frames: &mut Vec<Frame>);

    /// The port's offloads. The worker asks for them when the port is attached, and when it is configured.
    fn caps(&self) -> PortCaps;

    /// Sets whether frames may enter and leave. Until then, a port whose far end can wait leaves them there.
    fn set_live(&mut self, _live: bool) {}

    /// Prepares for the worker's sleep. Returns how long the worker may sleep: zero if frames are already
    /// waiting; a limited time if the far end cannot wake the worker; and `None`, until it is woken, if the
    /// far end can.
    fn rest(&mut self, _now: Instant) -> Option<Duration> {
        None
    }
}
