//! A frame and the memory that holds its bytes.
//!
//! A [`Frame`] is a handle: a slot of a [`FramePool`], the offset and number of its bytes in the slot, and
//! the work that is left to do on it ([`Offload`]). It is neither `Clone` nor `Copy`: its owner sends it,
//! frees it or punts it. Slots are contiguous and leave room in front, so encapsulation and decapsulation
//! move `head` and never the payload.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use arrayvec::ArrayVec;

use crate::limits::{BATCH_LEN, HEADROOM, SLOT_LARGE_LEN, SLOT_SMALL_LEN};

/// The kinds of slot a pool holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotSize {
    /// 2 KiB: one wire-sized frame.
    Small,
    /// 64 KiB and headroom: one GSO packet.
    Large,
}

impl SlotSize {
    /// The smallest slot that holds `len` bytes of frame behind the usual headroom.
    #[must_use]
    pub const fn for_len(len: usize) -> Self {
        if len + HEADROOM <= SLOT_SMALL_LEN { Self::Small } else { Self::Large }
    }

    /// Bytes in a slot of this size, headroom included.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => SLOT_SMALL_LEN,
            Self::Large => SLOT_LARGE_LEN,
        }
    }
}

/// The segmentation that a GSO packet needs (virtio-net's `gso_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum GsoKind {
    /// Not a GSO packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP, one datagram per segment.
    Udp,
}

/// The unfinished parts of a frame, in virtio-net's own terms (VIRTIO 1.2 §5.1.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// Offset in the frame at which the data of the unfinished checksum starts. Zero: the checksum is
    /// finished (no checksummed data can start inside the Ethernet header).
    pub csum_start: u16,
    /// Offset of the checksum field from `csum_start`. SCTP's own offset ([`sctp::CHECKSUM_AT`]) means SCTP.
    ///
    /// [`sctp::CHECKSUM_AT`]: crate::wire::sctp::CHECKSUM_AT
    pub csum_offset: u16,
    /// The kind of segmentation that the frame needs.
    pub gso_kind: GsoKind,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// For TCP GSO packets: CWR is set, and every segment keeps it. AccECN (RFC 9768) uses the flag as a bit of a counter.
    pub cwr_in_all: bool,
}

impl Offload {
    /// A finished frame.
    pub const NONE: Self =
        Self { csum_start: 0, csum_offset: 0, gso_kind: GsoKind::None, gso_size: 0, cwr_in_all: false };

    /// Whether the frame is finished.
    #[inline]
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.csum_start == 0 && matches!(self.gso_kind, GsoKind::None)
    }

    /// Whether the transport checksum is still partial (holds only the pseudo-header's sum).
    #[must_use]
    pub const fn csum_partial(&self) -> bool {
        self.csum_start != 0
    }
}

/// The handle of one frame. Its owner sends, frees or punts it.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a frame that is dropped leaks its slot: send it, free it or punt it"]
pub struct Frame {
    /// Index of the slot in its pool.
    pub slot: u32,
    /// Offset of the first byte in the slot.
    pub head: u16,
    /// Number of bytes in the frame.
    pub len: u32,
    /// The unfinished parts of the frame.
    pub offload: Offload,
}

const _: () = assert!(size_of::<Frame>() <= 32);

/// The memory for frames. One pool per worker; all ports of the worker share it.
pub trait FramePool {
    /// Takes a free slot; the frame is empty (`len` 0) and starts at [`HEADROOM`]. `None` when exhausted.
    fn alloc(&mut self, size: SlotSize) -> Option<Frame>;
    /// Returns the slot of a frame to the pool.
    fn free(&mut self, frame: Frame);
    /// The frame's bytes.
    fn bytes(&self, frame: &Frame) -> &[u8];
    /// The frame's bytes, writable.
    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8];
    /// The bytes of one frame to read and of another to write, so that segmentation and coalescing copy only
    /// once.
    fn pair(&mut self, from: &Frame, to: &mut Frame) -> (&[u8], &mut [u8]);
    /// Prefetches the frame's first bytes.
    #[inline]
    fn prefetch(&self, frame: &Frame) {
        prefetch::read(self.bytes(frame));
    }
    /// Length of the frame's slot, in bytes.
    fn slot_len(&self, frame: &Frame) -> usize;
    /// The number of slots held by frames and ports, and the total number of slots.
    fn usage(&self) -> PoolUsage;

    /// Prepares a frame for another worker's pool. It then no longer belongs to this pool.
    fn pack(&mut self, frame: Frame) -> Parcel {
        let parcel = Parcel::Copy(self.bytes(&frame).into(), frame.offload);
        self.free(frame);
        parcel
    }

    /// Takes a frame that another worker's pool has packed. `None` when no slot is free.
    fn unpack(&mut self, parcel: Parcel) -> Option<Frame> {
        match parcel {
            Parcel::Slot(frame) => Some(frame),
            Parcel::Copy(bytes, offload) => {
                let mut frame = self.alloc_from(&bytes)?;
                frame.offload = offload;
                Some(frame)
            }
        }
    }

    /// Creates a frame with these bytes.
    fn alloc_from(&mut self, bytes: &[u8]) -> Option<Frame> {
        let mut frame = self.alloc(SlotSize::for_len(bytes.len()))?;
        if frame.head as usize + bytes.len() > self.slot_len(&frame) {
            self.free(frame);
            return None;
        }
        frame.len = u32::try_from(bytes.len()).expect("a slot holds less than 4 GiB");
        self.bytes_mut(&mut frame).copy_from_slice(bytes);
        Some(frame)
    }
}

/// Use of a pool's slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolUsage {
    /// Number of slots held by frames or lent to ports.
    pub used: usize,
    /// Total number of slots.
    pub total: usize,
}

/// A frame in transit to another worker's pool.
#[derive(Debug)]
pub enum Parcel {
    /// Both pools share their memory: the slot changes its owner.
    Slot(Frame),
    /// A copy.
    Copy(Box<[u8]>, Offload),
}

/// Up to [`BATCH_LEN`] frames from one port.
pub type Batch = ArrayVec<Frame, BATCH_LEN>;

/// A pool on the heap, for tests, simulation and benchmarks.
#[derive(Debug)]
pub struct HeapPool {
    /// All small slots, then all large ones.
    memory: Vec<u8>,
    free_small: Vec<u32>,
    free_large: Vec<u32>,
    small_count: u32,
    total: usize,
}

impl HeapPool {
    /// Creates a pool of `small` 2 KiB slots and `large` 64 KiB slots.
    #[must_use]
    pub fn new(small: u32, large: u32) -> Self {
        Self {
            memory: vec![0; small as usize * SLOT_SMALL_LEN + large as usize * SLOT_LARGE_LEN],
            free_small: (0..small).rev().collect(),
            free_large: (small..small + large).rev().collect(),
            small_count: small,
            total: small as usize + large as usize,
        }
    }

    /// Offset of the frame's first byte.
    #[inline]
    fn start(&self, frame: &Frame) -> usize {
        let slot = if frame.slot < self.small_count {
            frame.slot as usize * SLOT_SMALL_LEN
        } else {
            let smalls = self.small_count as usize;
            smalls * SLOT_SMALL_LEN + (frame.slot as usize - smalls) * SLOT_LARGE_LEN
        };
        slot + usize::from(frame.head)
    }

    /// The range of the frame's bytes.
    #[inline]
    fn range(&self, frame: &Frame) -> Range<usize> {
        let end = usize::from(frame.head) + frame.len as usize;
        debug_assert!(end <= self.slot_len(frame), "a frame ends within its slot");
        let start = self.start(frame);
        start..start + frame.len as usize
    }
}

/// Borrows two disjoint ranges, one to read and one to write.
fn apart(bytes: &mut [u8], read: Range<usize>, write: Range<usize>) -> (&[u8], &mut [u8]) {
    if read.end <= write.start {
        let (left, right) = bytes.split_at_mut(write.start);
        (&left[read], &mut right[..write.end - write.start])
    } else {
        let (left, right) = bytes.split_at_mut(read.start);
        (&right[..read.end - read.start], &mut left[write])
    }
}

impl FramePool for HeapPool {
    #[inline]
    fn prefetch(&self, frame: &Frame) {
        if let Some(byte) = self.memory.get(self.start(frame)) {
            prefetch::read(byte);
        }
    }

    fn alloc(&mut self, size: SlotSize) -> Option<Frame> {
        let slot = match size {
            SlotSize::Small => self.free_small.pop()?,
            SlotSize::Large => self.free_large.pop()?,
        };
        Some(Frame { slot, head: HEADROOM as u16, len: 0, offload: Offload::NONE })
    }

    fn free(&mut self, frame: Frame) {
        if frame.slot < self.small_count {
            self.free_small.push(frame.slot);
        } else {
            self.free_large.push(frame.slot);
        }
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
        assert_ne!(from.slot, to.slot, "two frames are in two slots");
        let (read, write) = (self.range(from), self.range(to));
        apart(&mut self.memory, read, write)
    }

    fn slot_len(&self, frame: &Frame) -> usize {
        if frame.slot < self.small_count { SLOT_SMALL_LEN } else { SLOT_LARGE_LEN }
    }

    fn usage(&self) -> PoolUsage {
        PoolUsage { used: self.total - self.free_small.len() - self.free_large.len(), total: self.total }
    }
}
