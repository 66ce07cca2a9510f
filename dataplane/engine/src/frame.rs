//! A frame and where its bytes live.
//!
//! A [`Frame`] is a handle: a slot of some [`FramePool`], where its bytes start inside the slot, how
//! many there are, and what is still unfinished about them ([`Offload`]). It is neither `Clone` nor
//! `Copy`: whoever holds it sends it, frees it or punts it. Slots are contiguous and leave room in
//! front, so encapsulation and decapsulation move `head` and never the payload.

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
    /// 64 KiB and headroom: one super-frame.
    Large,
}

impl SlotSize {
    /// The smallest slot that holds `len` bytes of frame behind the usual headroom.
    #[must_use]
    pub const fn for_len(len: usize) -> Self {
        if len + HEADROOM <= SLOT_SMALL_LEN { Self::Small } else { Self::Large }
    }

    /// Bytes in such a slot, headroom included.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => SLOT_SMALL_LEN,
            Self::Large => SLOT_LARGE_LEN,
        }
    }
}

/// What kind of segmentation a super-frame awaits (virtio-net's `gso_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum GsoKind {
    /// Not a super-frame.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP, one datagram per segment.
    Udp,
}

/// What is unfinished about a frame, in virtio-net's own words (VIRTIO 1.2 §5.1.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// Where the unfinished checksum's data starts, in bytes from the start of the frame.
    /// Zero: the checksum is finished (no checksummed data can start inside the Ethernet header).
    pub csum_start: u16,
    /// Where the checksum field is, in bytes from `csum_start`. The offset of SCTP's ([`sctp::CHECKSUM_AT`]) means SCTP.
    ///
    /// [`sctp::CHECKSUM_AT`]: crate::wire::sctp::CHECKSUM_AT
    pub csum_offset: u16,
    /// How the frame is to be cut.
    pub gso_kind: GsoKind,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// For TCP GSO packets: CWR is set, and every segment keeps it. AccECN (RFC 9768) uses the flag as a bit of a counter.
    pub cwr_in_all: bool,
}

impl Offload {
    /// Nothing is unfinished.
    pub const NONE: Self =
        Self { csum_start: 0, csum_offset: 0, gso_kind: GsoKind::None, gso_size: 0, cwr_in_all: false };

    /// Whether nothing is unfinished.
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

/// One frame's handle. Holder sends, frees or punts it.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a frame that is dropped leaks its slot: send it, free it or punt it"]
pub struct Frame {
    /// Index of the slot in its pool.
    pub slot: u32,
    /// Offset of the first byte in the slot.
    pub head: u16,
    /// Bytes in the frame.
    pub len: u32,
    /// What is unfinished about it.
    pub offload: Offload,
}

const _: () = assert!(size_of::<Frame>() <= 32);

/// Where frames' bytes live. One pool per worker; every port of the worker shares it.
pub trait FramePool {
    /// Takes a free slot; the frame is empty (`len` 0) and starts at [`HEADROOM`]. `None` when exhausted.
    fn alloc(&mut self, size: SlotSize) -> Option<Frame>;
    /// Gives the slot back.
    fn free(&mut self, frame: Frame);
    /// The frame's bytes.
    fn bytes(&self, frame: &Frame) -> &[u8];
    /// The frame's bytes, writable.
    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8];
    /// The bytes of one frame to read and of another to write: what is cut or merged is copied once.
    fn pair(&mut self, from: &Frame, to: &mut Frame) -> (&[u8], &mut [u8]);
    /// Asks the processor to bring the frame's first bytes near.
    #[inline]
    fn prefetch(&self, frame: &Frame) {
        prefetch::read(self.bytes(frame));
    }
    /// How many bytes the slot of `frame` holds in all.
    fn slot_len(&self, frame: &Frame) -> usize;
    /// Number of slots now held by frames and ports, and the number of slots in all.
    fn usage(&self) -> PoolUsage;

    /// Makes a frame ready to go to another worker's pool. It is no longer this pool's.
    fn pack(&mut self, frame: Frame) -> Parcel {
        let parcel = Parcel::Copy(self.bytes(&frame).into(), frame.offload);
        self.free(frame);
        parcel
    }

    /// Takes a frame that another worker's pool has packed. `None` when there is no slot for it.
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

    /// A new frame with these bytes.
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

/// Slots of a pool in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolUsage {
    /// Slots held by frames or lent to ports.
    pub used: usize,
    /// Slots in all.
    pub total: usize,
}

/// A frame on its way to another worker's pool.
#[derive(Debug)]
pub enum Parcel {
    /// Both pools share their memory: the slot changes hands.
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
    /// A pool of `small` 2 KiB slots and `large` 64 KiB slots.
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

    /// Where the frame's first byte is.
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

    /// Where the frame's bytes are.
    #[inline]
    fn range(&self, frame: &Frame) -> Range<usize> {
        let end = usize::from(frame.head) + frame.len as usize;
        debug_assert!(end <= self.slot_len(frame), "a frame ends within its slot");
        let start = self.start(frame);
        start..start + frame.len as usize
    }
}

/// Two ranges that do not touch, one to read and one to write.
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
