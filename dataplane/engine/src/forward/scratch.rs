//! The memory of a dry run's frames, apart from the worker's pool.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::frame::{Frame, FramePool, Offload, PoolUsage, SlotSize};
use crate::limits::{DRY_RUN_LARGE_MAX, HEADROOM};

/// A pool that makes its slots when it needs them, as many as the worker's pool has left.
#[derive(Debug)]
pub(super) struct ScratchPool {
    slots: Vec<Box<[u8]>>,
    room: usize,
    large: usize,
}

impl ScratchPool {
    /// Creates an empty pool that lends at most `room` slots.
    pub(super) const fn new(room: usize) -> Self {
        Self { slots: Vec::new(), room, large: 0 }
    }
}

impl FramePool for ScratchPool {
    fn alloc(&mut self, size: SlotSize) -> Option<Frame> {
        let is_large = matches!(size, SlotSize::Large);
        if self.room == 0 || is_large && self.large == DRY_RUN_LARGE_MAX {
            return None;
        }
        self.room -= 1;
        self.large += usize::from(is_large);
        let slot = self.slots.len() as u32;
        self.slots.push(alloc::vec![0; size.bytes()].into());
        Some(Frame { slot, head: HEADROOM as u16, len: 0, offload: Offload::NONE })
    }

    fn free(&mut self, frame: Frame) {
        self.room += 1;
        let slot = core::mem::take(&mut self.slots[frame.slot as usize]);
        self.large -= usize::from(slot.len() == SlotSize::Large.bytes());
    }

    fn bytes(&self, frame: &Frame) -> &[u8] {
        let head = usize::from(frame.head);
        &self.slots[frame.slot as usize][head..head + frame.len as usize]
    }

    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        let head = usize::from(frame.head);
        &mut self.slots[frame.slot as usize][head..head + frame.len as usize]
    }

    fn pair(&mut self, from: &Frame, to: &mut Frame) -> (&[u8], &mut [u8]) {
        let (f, t) = (usize::from(from.head), usize::from(to.head));
        let slots = [from.slot as usize, to.slot as usize];
        let [read, write] = self.slots.get_disjoint_mut(slots).expect("two frames are in two slots");
        (&read[f..f + from.len as usize], &mut write[t..t + to.len as usize])
    }

    fn slot_len(&self, frame: &Frame) -> usize {
        self.slots[frame.slot as usize].len()
    }

    fn usage(&self) -> PoolUsage {
        PoolUsage { used: self.slots.len(), total: self.slots.len() + self.room }
    }
}
