//! Frame memory: one mapping for all ports of all workers, divided into slots.
//!
//! The mapping is a memfd. Its first part is divided into small slots, which are AF_XDP chunks; *every*
//! AF_XDP socket registers that same part as a UMEM of its own (`XDP_UMEM_REG`, not `XDP_SHARED_UMEM`).
//! Addresses are therefore common to all ports and a frame moves from one to another without a copy, while
//! each socket's life is independent of all others. The second part holds a few large slots that the kernel
//! never sees; their pages are touched only when used.
//!
//! A small slot is in exactly one place at a time:
//!
//! - in the *stock*, a lock-free queue shared by the pool and by the threads that open or close ports;
//! - in the pool's own cache, a plain stack (last in, first out, so that memory stays warm);
//! - in a [`Frame`];
//! - lent to a port: in its fill ring, its transmit ring, or somewhere inside the kernel between them.
//!
//! Each worker has a pool on the one mapping: a private cache, and the common stock. So a frame passes from
//! worker to worker without a copy; its slot changes owner with it.
//!
//! Only the last place is recorded, as one tag per slot, because only a lent slot is outside this process's hands: when
//! a port closes, all slots with its tag return to the stock. The records lie behind the slots in the same memfd: if
//! memory and sockets outlive the process (`keep`), the next one knows which slots were lent.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::queue::ArrayQueue;
use engine::frame::{Frame, FramePool, Offload, Parcel, PoolUsage, SlotSize};
use engine::limits::{HEADROOM, SLOT_LARGE_LEN, SLOT_SMALL_LEN};
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Slots that the pool caches before it gives half of them back to the stock.
const CACHE_LEN: usize = 1024;

/// Slots that move between the pool's cache and the stock in one step.
const CACHE_STEP: usize = 256;

/// The tag of a slot that no port has: it is free, or a frame holds it.
const NOT_LENT: u16 = 0;

/// Frame memory is not available.
#[derive(Debug, thiserror::Error)]
pub enum UmemError {
    /// The kernel refused the memory.
    #[error("frame memory: {bytes} bytes could not be mapped: {cause}; free memory on this machine")]
    Map {
        /// The requested bytes.
        bytes: usize,
        /// The kernel's error.
        cause: std::io::Error,
    },
    /// The numbers of slots are out of range.
    #[error(
        "frame memory: {small} small and {large} large slots; there must be at least 64 small ones and at most 2^21 in all"
    )]
    Count {
        /// The requested small slots.
        small: u32,
        /// The requested large slots.
        large: u32,
    },
    /// The memory that a previous process left is inconsistent.
    #[error("frame memory that was kept: {0}")]
    Kept(&'static str),
}

/// The slots of a socket that outlived the process which lent them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The tag of the slots' borrower.
    pub tag: NonZeroU16,
    /// The slots in the socket's rings.
    pub slots: Vec<u32>,
}

/// At most this many processes in a row may end right after they took the memory up: the memory may be the cause.
const STARTS_MAX: u16 = 3;

/// One slot in this many may be lent and in no ring: such slots are lost until their socket closes.
const ASTRAY: usize = 8;

/// The mapping and the records about its slots.
struct Umem {
    base: NonNull<u8>,
    len: usize,
    memfd: OwnedFd,
    small_count: u32,
    large_count: u32,
    /// Free small slots, except those in the pools' caches.
    stock: ArrayQueue<u32>,
    /// Free large slots.
    stock_large: ArrayQueue<u32>,
    /// By small slot: the tag of the port that has it, or [`NOT_LENT`]. Only the slot's present holder writes it, so
    /// plain relaxed stores suffice. The records are at the end of the mapping, which lives as long as this.
    lent: &'static [AtomicU16],
    /// Processes that took this memory up since the last [`UmemHandle::proven`]. Stored behind `lent`.
    starts: &'static AtomicU16,
    /// Tags that no port uses.
    tags: Mutex<Vec<NonZeroU16>>,
    /// Small slots that receive queues may have, and how many queues there are (`afxdp/share.rs`).
    promised: AtomicU32,
    receive_queues: AtomicU32,
}

// SAFETY: `base` points to a mapping that lives as long as `Umem`. The bytes behind it are reached only
// through a `UmemPool`, which hands out a slot's bytes only for the `Frame` that holds the slot. Only pools
// and ports make frames, of slots that they took from the stock or got back from the kernel, so no slot is in
// two frames, even across pools; everything else in here is `Sync` by itself.
unsafe impl Send for Umem {}
// SAFETY: as above.
unsafe impl Sync for Umem {}

/// The offset of the records in the mapping.
fn books_at(small: u32, large: u32) -> usize {
    small as usize * SLOT_SMALL_LEN + large as usize * SLOT_LARGE_LEN
}

impl Umem {
    /// Maps the file, which has this length. The stock is empty.
    fn map(memfd: OwnedFd, small: u32, large: u32, len: usize) -> Result<Self, UmemError> {
        let failed = |cause: rustix::io::Errno| UmemError::Map { bytes: len, cause: cause.into() };
        // SAFETY: a new mapping at an address that the kernel chooses; it aliases nothing.
        let base = unsafe {
            mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &memfd, 0)
        }
        .map_err(failed)?;
        // SAFETY: the range is the mapping just made. Huge pages are optional; a refusal changes nothing.
        let _ = unsafe { madvise(base, len, Advice::LinuxHugepage) };
        // SAFETY: the records lie inside the mapping, are aligned (slots are), are accessed only as atomics,
        // and every bit pattern is a number. No reference leaves `self`, so none outlives the mapping that
        // `self` unmaps.
        let lent = unsafe {
            std::slice::from_raw_parts::<AtomicU16>(
                base.byte_add(books_at(small, large)).cast(),
                small as usize + 1,
            )
        };
        let (starts, lent) = lent.split_last().expect("there is one more than slots");
        Ok(Self {
            base: NonNull::new(base.cast()).expect("mmap does not return null"),
            len,
            memfd,
            small_count: small,
            large_count: large,
            stock: ArrayQueue::new(small as usize),
            stock_large: ArrayQueue::new(large.max(1) as usize),
            lent,
            starts,
            tags: Mutex::new((1..u16::MAX).rev().filter_map(NonZeroU16::new).collect()),
            promised: AtomicU32::new(0),
            receive_queues: AtomicU32::new(0),
        })
    }

    /// Puts every slot that is not lent into the stock.
    fn stock_up(&self) {
        for slot in
            (0..self.small_count).filter(|&slot| self.lent[slot as usize].load(Ordering::Relaxed) == NOT_LENT)
        {
            self.stock.push(slot).expect("the stock has room for every slot");
        }
        for slot in self.small_count..self.small_count + self.large_count {
            self.stock_large.push(slot).expect("the stock has room for every slot");
        }
    }
}

impl std::fmt::Debug for Umem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Umem").field("base", &self.base).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` came from mmap; no pool and no port is left to use them, as
        // each holds the `Arc` around this.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// The frame memory as seen by the threads that open and close ports. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UmemHandle(Arc<Umem>);

impl UmemHandle {
    /// Where the small slots start in memory, and their length in bytes: the area that a socket registers.
    #[must_use]
    pub fn area(&self) -> (u64, u64) {
        (self.0.base.as_ptr() as u64, u64::from(self.0.small_count) * SLOT_SMALL_LEN as u64)
    }

    /// The file behind the mapping.
    #[must_use]
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.0.memfd.as_fd()
    }

    /// Notes that this process works, so that the next one that takes the memory up need not suspect it.
    pub fn proven(&self) {
        self.0.starts.store(0, Ordering::Relaxed);
    }

    /// The lease of a borrower that was claimed in [`UmemPool::resume`]; call it once for each tag.
    #[must_use]
    pub fn lease_again(&self, tag: NonZeroU16) -> Lease {
        Lease::new(self.clone(), tag)
    }

    /// How many small slots there are.
    #[must_use]
    pub fn small_count(&self) -> u32 {
        self.0.small_count
    }

    /// Small slots that receive queues may have now, and the number of these queues.
    #[must_use]
    pub fn promised(&self) -> (u32, u32) {
        (self.0.promised.load(Ordering::Relaxed), self.0.receive_queues.load(Ordering::Relaxed))
    }

    /// Small slots in the stock now.
    #[must_use]
    pub fn stock(&self) -> usize {
        self.0.stock.len()
    }

    /// A new borrower's lease. `None` if 65 534 ports have one already.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        let tag = self.0.tags.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        Some(Lease::new(self.clone(), tag))
    }

    fn restock(&self, slot: u32) {
        let full = self.0.stock.push(slot).is_err();
        assert!(!full, "frame memory: slot {slot} came back twice");
    }
}

/// The slots that one port has borrowed. Dropping the lease returns them all to the stock, so drop it after
/// the kernel has let go: sockets first, then the lease.
#[derive(Debug)]
pub struct Lease {
    umem: UmemHandle,
    tag: NonZeroU16,
    forfeited: bool,
    /// Its part of what is promised, and its receive queues.
    promised: AtomicU32,
    receive_queues: AtomicU32,
}

impl Lease {
    fn new(umem: UmemHandle, tag: NonZeroU16) -> Self {
        let (promised, receive_queues) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { umem, tag, forfeited: false, promised, receive_queues }
    }

    /// Notes a new receive queue that may have so many slots.
    pub fn promise_queue(&self, slots: u32) {
        self.receive_queues.fetch_add(1, Ordering::Relaxed);
        self.umem.0.receive_queues.fetch_add(1, Ordering::Relaxed);
        self.promise(0, slots);
    }

    /// Notes that a receive queue which could have `before` slots may have `now` instead.
    pub fn promise(&self, before: u32, now: u32) {
        for promised in [&self.promised, &self.umem.0.promised] {
            promised.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// The memory that the port borrows from.
    #[must_use]
    pub fn umem(&self) -> &UmemHandle {
        &self.umem
    }

    /// The tag that marks the port's slots.
    #[must_use]
    pub fn tag(&self) -> NonZeroU16 {
        self.tag
    }

    /// Marks a small slot as lent to this port. The caller held it and no longer does.
    pub fn lend(&self, slot: u32) {
        let before = self.umem.0.lent[slot as usize].load(Ordering::Relaxed);
        debug_assert_eq!(before, NOT_LENT, "slot {slot} is lent already");
        self.umem.0.lent[slot as usize].store(self.tag.get(), Ordering::Relaxed);
    }

    /// Takes a slot back from the port. False if this port did not have it: then the caller does not own it
    /// either, even if the kernel returned it.
    #[must_use]
    pub fn take_back(&self, slot: u32) -> bool {
        let Some(lent) = self.umem.0.lent.get(slot as usize) else { return false };
        if lent.load(Ordering::Relaxed) != self.tag.get() {
            return false;
        }
        lent.store(NOT_LENT, Ordering::Relaxed);
        true
    }

    /// Borrows a slot straight from the stock, for the first filling of a ring, when the pool itself
    /// is in another thread's hands.
    #[must_use]
    pub fn borrow_from_stock(&self) -> Option<u32> {
        let slot = self.umem.0.stock.pop()?;
        self.lend(slot);
        Some(slot)
    }

    /// Slots this port has now.
    pub fn count(&self) -> usize {
        self.umem.0.lent.iter().filter(|lent| lent.load(Ordering::Relaxed) == self.tag.get()).count()
    }

    /// Gives up the lent slots: the kernel may never return them. They are lost to the pool until the
    /// process ends, which is better than memory with two writers.
    pub fn forfeit(&mut self) {
        self.forfeited = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let umem = &self.umem.0;
        umem.receive_queues.fetch_sub(*self.receive_queues.get_mut(), Ordering::Relaxed);
        if self.forfeited {
            return;
        }
        umem.promised.fetch_sub(*self.promised.get_mut(), Ordering::Relaxed);
        for (slot, lent) in self.umem.0.lent.iter().enumerate() {
            if lent.load(Ordering::Relaxed) == self.tag.get() {
                lent.store(NOT_LENT, Ordering::Relaxed);
                self.umem.restock(u32::try_from(slot).expect("slots are counted in u32"));
            }
        }
        self.umem.0.tags.lock().unwrap_or_else(PoisonError::into_inner).push(self.tag);
    }
}

/// A worker's frame pool.
#[derive(Debug)]
pub struct UmemPool {
    umem: UmemHandle,
    cache: Vec<u32>,
}

impl UmemPool {
    /// Small slots by default: 32 MiB. `afxdp/share.rs` says how ports share them. Every AF_XDP socket costs the
    /// kernel 128 bytes for each.
    pub const SMALL_DEFAULT: u32 = 16_384;

    /// Large slots by default: 33 MiB, as much as a full transmit queue of GSO packets. Their memory is
    /// touched only as far as they are used.
    pub const LARGE_DEFAULT: u32 = 512;

    /// Maps memory for `small` slots of 2 KiB and `large` slots of 64 KiB.
    ///
    /// # Errors
    /// When the numbers are out of range, or the kernel refuses the memory.
    pub fn new(small: u32, large: u32) -> Result<Self, UmemError> {
        let len = Self::len_of(small, large)?;
        allow_locked_memory();
        let failed = |cause: rustix::io::Errno| UmemError::Map { bytes: len, cause: cause.into() };
        let memfd = memfd_create(c"ivswitch-umem", MemfdFlags::CLOEXEC).map_err(failed)?;
        ftruncate(&memfd, len as u64).map_err(failed)?;
        let umem = Umem::map(memfd, small, large, len)?;
        umem.stock_up();
        Ok(Self::on(umem))
    }

    /// Resumes the memory of a previous process, whose sockets still use it. Slots named in `claims`, and
    /// slots recorded as lent under the claims' tags, stay lent.
    ///
    /// # Errors
    /// When the file does not have the size for such slots, or the claims contradict each other.
    pub fn resume(small: u32, large: u32, memfd: OwnedFd, claims: &[Claim]) -> Result<Self, UmemError> {
        let len = Self::len_of(small, large)?;
        allow_locked_memory();
        let size = fstat(&memfd).map_err(|_| UmemError::Kept("it is no file"))?.st_size;
        if u64::try_from(size) != Ok(len as u64) {
            return Err(UmemError::Kept("it has another size"));
        }
        let mut umem = Umem::map(memfd, small, large, len)?;
        if umem.starts.fetch_add(1, Ordering::Relaxed) >= STARTS_MAX {
            return Err(UmemError::Kept("processes ended right after they had taken it up"));
        }
        let tags: BTreeSet<u16> = claims.iter().map(|claim| claim.tag.get()).collect();
        let mut claimed = vec![NOT_LENT; small as usize];
        for claim in claims {
            for &slot in &claim.slots {
                let holder = claimed.get_mut(slot as usize).ok_or(UmemError::Kept("a ring names no slot"))?;
                if *holder != NOT_LENT {
                    return Err(UmemError::Kept("two rings have the same slot"));
                }
                *holder = claim.tag.get();
            }
        }
        let mut astray = 0;
        for (lent, &claimed) in umem.lent.iter().zip(&claimed) {
            let before = lent.load(Ordering::Relaxed);
            if claimed != NOT_LENT {
                lent.store(claimed, Ordering::Relaxed);
            } else if tags.contains(&before) {
                astray += 1;
            } else {
                lent.store(NOT_LENT, Ordering::Relaxed);
            }
        }
        if astray > small as usize / ASTRAY {
            return Err(UmemError::Kept("too much of it is in nobody's hands"));
        }
        let free = umem.tags.get_mut().unwrap_or_else(PoisonError::into_inner);
        free.retain(|tag| !tags.contains(&tag.get()));
        umem.stock_up();
        Ok(Self::on(umem))
    }

    fn len_of(small: u32, large: u32) -> Result<usize, UmemError> {
        if !(64..=1 << 21).contains(&small) || large > 1 << 16 {
            return Err(UmemError::Count { small, large });
        }
        Ok(books_at(small, large) + (small as usize + 1) * size_of::<AtomicU16>())
    }

    fn on(umem: Umem) -> Self {
        Self { umem: UmemHandle(Arc::new(umem)), cache: Vec::with_capacity(CACHE_LEN + 1) }
    }

    /// Another worker's pool on the same memory.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self { umem: self.handle(), cache: Vec::with_capacity(CACHE_LEN + 1) }
    }

    /// The handle that ports are opened with; it may be sent to another thread.
    #[must_use]
    pub fn handle(&self) -> UmemHandle {
        self.umem.clone()
    }

    /// Takes an empty small slot, to be lent to a ring.
    #[must_use]
    pub fn take_slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.cache.pop() {
            return Some(slot);
        }
        for _ in 0..CACHE_STEP {
            let Some(slot) = self.umem.0.stock.pop() else { break };
            self.cache.push(slot);
        }
        self.cache.pop()
    }

    /// Puts back an empty small slot.
    pub fn put_slot(&mut self, slot: u32) {
        debug_assert_eq!(self.umem.0.lent[slot as usize].load(Ordering::Relaxed), NOT_LENT);
        if self.cache.len() >= CACHE_LEN {
            for slot in self.cache.drain(..CACHE_STEP) {
                self.umem.restock(slot);
            }
        }
        self.cache.push(slot);
    }

    /// Whether the frame is in a small slot, which AF_XDP can send as it is.
    #[must_use]
    pub fn is_small(&self, frame: &Frame) -> bool {
        frame.slot < self.umem.0.small_count
    }

    /// Asks the processor to fetch the frame's first bytes: another core wrote them, and the parser would
    /// wait for each cache line in turn.
    #[inline]
    pub fn prefetch(&self, frame: &Frame) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let (start, _) = self.place(frame);
            // SAFETY: prefetching is a hint and faults on no address; this one lies in the mapping.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(
                    self.umem.0.base.as_ptr().add(start + frame.head as usize).cast(),
                );
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = frame;
    }

    /// The address of byte `at` of the frame's slot, with `len` bytes of the slot behind it: the kernel
    /// writes there while this process does not read.
    pub fn place_at(&mut self, frame: &Frame, at: usize, len: usize) -> *mut u8 {
        let (start, slot_len) = self.place(frame);
        assert!(at + len <= slot_len, "the place reaches beyond its slot");
        // SAFETY: the assertion and `place` ensure that this is inside the mapping.
        unsafe { self.umem.0.base.as_ptr().add(start + at) }
    }

    /// Start of the frame's slot in the mapping, and its length.
    #[inline]
    fn place(&self, frame: &Frame) -> (usize, usize) {
        let umem = &*self.umem.0;
        if frame.slot < umem.small_count {
            (frame.slot as usize * SLOT_SMALL_LEN, SLOT_SMALL_LEN)
        } else {
            let index = frame.slot - umem.small_count;
            assert!(index < umem.large_count, "frame of a slot that does not exist");
            (umem.small_count as usize * SLOT_SMALL_LEN + index as usize * SLOT_LARGE_LEN, SLOT_LARGE_LEN)
        }
    }

    /// Start of the frame's bytes in the mapping, and how many there are.
    #[inline]
    fn span(&self, frame: &Frame) -> (usize, usize) {
        let (start, slot_len) = self.place(frame);
        let (head, len) = (frame.head as usize, frame.len as usize);
        assert!(head + len <= slot_len, "frame reaches beyond its slot");
        (start + head, len)
    }
}

impl FramePool for UmemPool {
    fn alloc(&mut self, size: SlotSize) -> Option<Frame> {
        let slot = match size {
            SlotSize::Small => self.take_slot()?,
            SlotSize::Large => self.umem.0.stock_large.pop()?,
        };
        Some(Frame { slot, head: HEADROOM as u16, len: 0, offload: Offload::NONE })
    }

    fn free(&mut self, frame: Frame) {
        if frame.slot < self.umem.0.small_count {
            self.put_slot(frame.slot);
        } else {
            let full = self.umem.0.stock_large.push(frame.slot).is_err();
            assert!(!full, "frame memory: slot {} came back twice", frame.slot);
        }
    }

    #[inline]
    fn bytes(&self, frame: &Frame) -> &[u8] {
        let (start, len) = self.span(frame);
        // SAFETY: `span` checked that the range lies in one slot of the mapping. The frame holds that
        // slot: it is not lent to the kernel, and no other frame has it. Writing takes `&mut Frame`.
        unsafe { std::slice::from_raw_parts(self.umem.0.base.as_ptr().add(start), len) }
    }

    #[inline]
    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        let (start, len) = self.span(frame);
        // SAFETY: as in `bytes`; `&mut` on the frame makes this the only slice into its slot.
        unsafe { std::slice::from_raw_parts_mut(self.umem.0.base.as_ptr().add(start), len) }
    }

    fn pair(&mut self, from: &Frame, to: &mut Frame) -> (&[u8], &mut [u8]) {
        assert_ne!(from.slot, to.slot, "two frames are in two slots");
        let ((read, read_len), (write, write_len)) = (self.span(from), self.span(to));
        let base = self.umem.0.base.as_ptr();
        // SAFETY: as in `bytes` and `bytes_mut`; `span` keeps each slice within its frame's slot, and the two
        // slots differ, so the slices do not overlap.
        unsafe {
            (
                std::slice::from_raw_parts(base.add(read), read_len),
                std::slice::from_raw_parts_mut(base.add(write), write_len),
            )
        }
    }

    fn slot_len(&self, frame: &Frame) -> usize {
        self.place(frame).1
    }

    fn pack(&mut self, frame: Frame) -> Parcel {
        Parcel::Slot(frame)
    }

    /// This pool's view: slots in the caches of sibling pools count as used.
    fn usage(&self) -> PoolUsage {
        let total = self.umem.0.small_count as usize + self.umem.0.large_count as usize;
        let free = self.cache.len() + self.umem.0.stock.len() + self.umem.0.stock_large.len();
        PoolUsage { used: total.saturating_sub(free), total }
    }
}

/// Lifts the limit on locked memory. If the kernel refuses (no CAP_SYS_RESOURCE), registering may still
/// succeed (CAP_IPC_LOCK is exempt from the limit), so this only warns.
fn allow_locked_memory() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let unbound = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_IPC_LOCK);
    if unbound.unwrap_or(false) || getrlimit(Resource::Memlock).current.is_none() {
        return;
    }
    if let Err(cause) = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }) {
        tracing::warn!(
            "locked memory: the limit could not be lifted ({cause}); if ports fail to open for lack of \
             locked memory, set LimitMEMLOCK=infinity for the service"
        );
    }
}

#[cfg(test)]
mod tests;
