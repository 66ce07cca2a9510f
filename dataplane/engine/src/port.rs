//! What a port is to the engine: somewhere to take a batch from and to give a batch to.

use crate::frame::{Batch, Frame, FramePool};
use crate::time::{Duration, Instant};
use alloc::vec::Vec;

/// What a port can do with unfinished frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortCaps {
    /// Takes frames whose transport checksum is partial and finishes them.
    pub tx_csum: bool,
    /// Takes TCP super-frames, IPv4 and IPv6, and cuts them itself or hands them on whole.
    pub tx_tso: bool,
    /// Takes UDP super-frames: one datagram per segment.
    pub tx_uso: bool,
    /// Frames from it may carry a partial checksum without saying so (AF_XDP on a veth does). The
    /// engine then recognises one by its value.
    pub rx_csum_unmarked: bool,
}

/// A port's I/O. Never blocks, never fails: what cannot be done now stays undone.
pub trait Port<P: FramePool> {
    /// Appends received frames to `batch`, up to its capacity.
    fn rx(&mut self, now: Instant, pool: &mut P, batch: &mut Batch);

    /// Sends frames from the front of `frames`, in order, removing each one it takes. What is left
    /// when it returns did not fit: the worker drops and counts it.
    fn tx(&mut self, now: Instant, pool: &mut P, frames: &mut Vec<Frame>);

    /// What it can do with unfinished frames. Asked when the port is attached, and when it is configured.
    fn caps(&self) -> PortCaps;

    /// Told whether frames may enter and leave. Before they may, a port whose far end can wait leaves them there.
    fn set_live(&mut self, _live: bool) {}

    /// The worker is about to sleep. How long it may: nothing, if frames wait already; so long, if nobody was asked to
    /// wake it; and until it is woken, if whoever sends through this port was (`None`).
    fn rest(&mut self, _now: Instant) -> Option<Duration> {
        None
    }
}
