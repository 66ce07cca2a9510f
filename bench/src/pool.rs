//! Frame memory as in the daemon: one mapping that asks for huge pages. On pages of 4 KiB a million frames
//! would measure the machine's page tables.

use std::ops::Range;

use engine::frame::{Frame, FramePool, Offload, PoolUsage, SlotSize};
use engine::limits::{HEADROOM, SLOT_SMALL_LEN};
use memmap2::{Advice, MmapMut};

/// A pool of small slots in a mapping of its own.
#[derive(Debug)]
pub struct MappedPool {
    memory: MmapMut,
    free: Vec<u32>,
    total: usize,
}

impl MappedPool {
    /// A pool of `slots` 2 KiB slots.
    ///
    /// # Panics
    /// When the machine does not have that much memory.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        let memory = MmapMut::map_anon(slots as usize * SLOT_SMALL_LEN).expect("memory for the frames");
        // Only a request: without huge pages the results are as right, and slower.
        memory.advise(Advice::HugePage).ok();
        Self { memory, free: (0..slots).rev().collect(), total: slots as usize }
    }

    #[inline]
    fn range(&self, frame: &Frame) -> Range<usize> {
        let start = frame.slot as usize * SLOT_SMALL_LEN + usize::from(frame.head);
        start..start + frame.len as usize
    }
}

impl FramePool for MappedPool {
    #[inline]
    fn prefetch(&self, frame: &Frame) {
        if let Some(byte) = self.memory.get(self.range(frame).start) {
            prefetch::read(byte);
        }
    }

    fn alloc(&mut self, size: SlotSize) -> Option<Frame> {
        let slot = match size {
            SlotSize::Small => self.free.pop()?,
            SlotSize::Large => return None,
        };
        Some(Frame { slot, head: HEADROOM as u16, len: 0, offload: Offload::NONE })
    }

    fn free(&mut self, frame: Frame) {
        self.free.push(frame.slot);
    }

    #[inline]
    fn bytes(&self, frame: &Frame) -> &[u8] {
        &self.memory[self.range(frame)]
    }

    #[inline]
    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        let range = self.range(frame);
        &mut self.memory[range]
    }

    fn pair(&mut self, from: &Frame, to: &mut Frame) -> (&[u8], &mut [u8]) {
        let (read, write) = (self.range(from), self.range(to));
        let [read, write] = self.memory.get_disjoint_mut([read, write]).expect("two frames are in two slots");
        (read, write)
    }

    fn slot_len(&self, _: &Frame) -> usize {
        SLOT_SMALL_LEN
    }

    fn usage(&self) -> PoolUsage {
        PoolUsage { used: self.total - self.free.len(), total: self.total }
    }
}
