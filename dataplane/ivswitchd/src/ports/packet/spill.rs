//! Memory for frames longer than the largest slot: BIG TCP, which a far end sends after `ip link set DEV gso_max_size`.
//! The port splits such a frame into GSO packets of usual size immediately.
//!
//! All messages of one call share this memory, so only the last long one of a call is whole. Once a long frame has
//! arrived, the port therefore asks for one message per call for a while.

use engine::forward::fit::big::{Big, USUAL_MAX};
use engine::frame::{Batch, Frame, FramePool, Offload, SlotSize};
use libc::iovec;

use super::super::landing::{LARGE_MAX, Landing};
use super::super::umem::UmemPool;

/// Length of the longest frame: Linux's limit of `gso_max_size` (8 * 65,535), and headers.
const FRAME_MAX: usize = 8 * 0xffff + 512;

/// Number of usual messages after a long one during which the port asks for one message per call.
const WARY: u32 = 1024;

/// Number of GSO packets that a long frame usually becomes, at most.
pub const PARTS: usize = 10;

/// Memory for one frame. The kernel provides pages only once they are written.
pub struct Spill {
    bytes: Box<[u8]>,
    wary: u32,
}

impl std::fmt::Debug for Spill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spill").field("wary", &self.wary).finish_non_exhaustive()
    }
}

impl Default for Spill {
    fn default() -> Self {
        Self { bytes: vec![0; FRAME_MAX].into(), wary: 0 }
    }
}

impl Spill {
    /// The place for the part that exceeds a slot. It must not be read before the receive call has returned.
    pub fn place(&mut self) -> iovec {
        let rest = &mut self.bytes[LARGE_MAX..];
        iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() }
    }

    /// The number of messages to ask for, at most `want`.
    pub fn restrain(&self, want: usize, batch: &Batch) -> usize {
        match self.wary {
            0 => want,
            _ if batch.remaining_capacity() < PARTS => 0,
            _ => want.min(1),
        }
    }

    /// Notes that `came` messages arrived.
    pub fn relax(&mut self, came: usize) {
        self.wary = self.wary.saturating_sub(came as u32);
    }

    /// Splits the frame of `len` bytes that starts, or lies whole, in the slots of `landing`. Hands every part to `each`,
    /// which returns false if it has no room. Returns the number of parts lost for lack of slots or room;
    /// `None` for frames that are not BIG TCP.
    pub fn split(
        &mut self,
        pool: &mut UmemPool,
        landing: Landing,
        len: usize,
        offload: impl FnOnce(&[u8]) -> Option<Offload>,
        mut each: impl FnMut(&mut UmemPool, Frame) -> bool,
    ) -> Option<usize> {
        self.wary = WARY;
        landing.lift(pool, &mut self.bytes);
        let frame = &mut self.bytes[..len];
        let offload = offload(frame)?;
        let (big, skip) = Big::open(frame, offload)?;
        let mut lost = 0;
        for index in 0..big.count() {
            let Some(mut part) = pool.alloc(SlotSize::for_len(big.len(index))) else {
                lost += 1;
                continue;
            };
            part.len = big.len(index) as u32;
            part.offload = big.write(&frame[skip..], index, pool.bytes_mut(&mut part));
            lost += usize::from(!each(pool, part));
        }
        Some(lost)
    }
}

const _: () = assert!(LARGE_MAX >= USUAL_MAX, "usual frames never need the spill");
