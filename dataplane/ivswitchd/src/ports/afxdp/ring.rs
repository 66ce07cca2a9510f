//! The single-producer, single-consumer rings that AF_XDP shares with the kernel.
//!
//! One side writes entries and then moves the producer cursor; the other reads them and then moves the
//! consumer cursor. Cursors run freely through 2^32 and are masked into the ring. Each side has a private
//! copy of its own cursor, and reads the other's only when it has run out, so that the cache lines that both
//! sides touch cross between cores once per batch, not once per frame.
//!
//! Safe code cannot express memory that another process writes to. So this module uses `unsafe`, but only at
//! construction and in the single lines that read or write an entry.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// The kernel asks to be woken (XDP_RING_NEED_WAKEUP).
const NEED_WAKEUP: u32 = libc::XDP_RING_NEED_WAKEUP;

/// The places of a ring's parts in memory.
#[derive(Debug)]
pub struct RingMemory<T> {
    /// The cursor of the side that writes entries.
    pub producer: NonNull<AtomicU32>,
    /// The cursor of the side that reads them.
    pub consumer: NonNull<AtomicU32>,
    /// Flags, written by the kernel.
    pub flags: NonNull<AtomicU32>,
    /// The entries.
    pub entries: NonNull<T>,
    /// How many entries; a power of two.
    pub size: u32,
}

impl<T> Clone for RingMemory<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for RingMemory<T> {}

impl<T: Copy> RingMemory<T> {
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: the code that built the `Producer` or `Consumer` promised that the cursors stay valid.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as in `producer`.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    fn entry(&self, cursor: u32) -> NonNull<T> {
        let index = (cursor & (self.size - 1)) as usize;
        // SAFETY: the index is below `size`, and there are that many entries.
        unsafe { self.entries.add(index) }
    }
}

/// The side that writes entries: fill ring and transmit ring.
#[derive(Debug)]
pub struct Producer<T> {
    ring: RingMemory<T>,
    /// Where the next entry goes. Ahead of the shared cursor until published.
    next: u32,
    /// The consumer's cursor at the last look.
    consumed: u32,
}

// SAFETY: one side of one ring belongs to one owner, in any thread; the atomic cursors synchronise
// it with the other side.
unsafe impl<T: Send> Send for Producer<T> {}

impl<T: Copy> Producer<T> {
    /// Takes up the writing side of a ring.
    ///
    /// # Safety
    /// The memory must stay valid for as long as the `Producer` lives, hold `size` entries with `size` a
    /// power of two, and have no other writer.
    pub unsafe fn new(ring: RingMemory<T>) -> Self {
        assert!(ring.size.is_power_of_two());
        let (next, consumed) =
            (ring.producer().load(Ordering::Relaxed), ring.consumer().load(Ordering::Acquire));
        Self { ring, next, consumed }
    }

    /// Free entries, as far as known; reads the other side's cursor again when there are fewer than `want`.
    #[inline]
    pub fn room(&mut self, want: u32) -> u32 {
        if self.ring.size - self.next.wrapping_sub(self.consumed) < want {
            // Acquire: the other side has finished reading the entries that it gave back.
            self.consumed = self.ring.consumer().load(Ordering::Acquire);
        }
        self.ring.size - self.next.wrapping_sub(self.consumed)
    }

    /// Writes one entry. The other side sees it after [`Self::publish`].
    ///
    /// # Panics
    /// When the ring is full; ask `room` first.
    #[inline]
    pub fn push(&mut self, entry: T) {
        assert!(self.next.wrapping_sub(self.consumed) < self.ring.size, "no room in the ring");
        // SAFETY: the entry is free (just checked), so the other side does not look at it.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the other side everything pushed so far.
    #[inline]
    pub fn publish(&mut self) {
        // Release: the entries are written before the cursor moves past them.
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Published entries that the other side has not taken yet.
    #[inline]
    pub fn pending(&self) -> u32 {
        self.next.wrapping_sub(self.ring.consumer().load(Ordering::Acquire))
    }

    /// Entries ever written.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.next
    }

    /// The published entries that the other side has not taken yet.
    pub fn waiting(&self) -> impl Iterator<Item = T> + '_ {
        let first = self.next.wrapping_sub(self.pending().min(self.ring.size));
        // SAFETY: between the cursors the other side only reads, and this side is the only writer.
        (0..self.next.wrapping_sub(first))
            .map(move |n| unsafe { self.ring.entry(first.wrapping_add(n)).read() })
    }

    /// Whether the kernel asks to be woken to look at this ring.
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// The side that reads entries: receive ring and completion ring.
#[derive(Debug)]
pub struct Consumer<T> {
    ring: RingMemory<T>,
    /// The next entry to read. Ahead of the shared cursor until released.
    next: u32,
    /// The producer's cursor at the last look.
    produced: u32,
}

// SAFETY: as for `Producer`.
unsafe impl<T: Send> Send for Consumer<T> {}

impl<T: Copy> Consumer<T> {
    /// Takes up the reading side of a ring.
    ///
    /// # Safety
    /// As for [`Producer::new`], with no other reader; every bit pattern must be a `T`.
    pub unsafe fn new(ring: RingMemory<T>) -> Self {
        assert!(ring.size.is_power_of_two());
        let (next, produced) =
            (ring.consumer().load(Ordering::Relaxed), ring.producer().load(Ordering::Acquire));
        Self { ring, next, produced }
    }

    /// Entries to read, as far as known; reads the other side's cursor again when it has run out.
    #[inline]
    pub fn available(&mut self) -> u32 {
        if self.next == self.produced {
            // Acquire: the entries are seen as they were when the other side moved its cursor.
            self.produced = self.ring.producer().load(Ordering::Acquire);
        }
        self.produced.wrapping_sub(self.next)
    }

    /// Entries ever read.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.next
    }

    /// The entries that can be read now; they stay in the ring.
    pub fn waiting(&mut self) -> impl Iterator<Item = T> + '_ {
        self.produced = self.ring.producer().load(Ordering::Acquire);
        let count = self.produced.wrapping_sub(self.next).min(self.ring.size);
        // SAFETY: the entries lie between the two cursors, so the other side does not write to them.
        (0..count).map(|n| unsafe { self.ring.entry(self.next.wrapping_add(n)).read() })
    }

    /// Reads one entry, if there is one. The other side may reuse it after [`Self::release`].
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.available() == 0 {
            return None;
        }
        // SAFETY: the entry lies between the two cursors, so the other side does not write to it.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives all entries read so far back to the other side.
    #[inline]
    pub fn release(&mut self) {
        // Release: reading has ended before the cursor moves.
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring on the heap whose both sides the test holds.
    struct HeapRing {
        cursors: Box<[AtomicU32; 3]>,
        entries: Box<[u64]>,
    }

    impl HeapRing {
        fn new(size: usize, start: u32) -> Self {
            let cursors = Box::new([AtomicU32::new(start), AtomicU32::new(start), AtomicU32::new(0)]);
            Self { cursors, entries: vec![0; size].into_boxed_slice() }
        }

        fn memory(&mut self) -> RingMemory<u64> {
            RingMemory {
                producer: NonNull::from(&self.cursors[0]),
                consumer: NonNull::from(&self.cursors[1]),
                flags: NonNull::from(&self.cursors[2]),
                size: self.entries.len() as u32,
                entries: NonNull::new(self.entries.as_mut_ptr()).unwrap(),
            }
        }

        fn sides(&mut self) -> (Producer<u64>, Consumer<u64>) {
            let memory = self.memory();
            // SAFETY: the tests keep the ring for as long as its sides, and make one of each.
            unsafe { (Producer::new(memory), Consumer::new(memory)) }
        }
    }

    #[test]
    fn fills_drains_and_wraps_around_the_end_of_u32() {
        let mut ring = HeapRing::new(4, u32::MAX - 2);
        let (mut producer, mut consumer) = ring.sides();
        for round in 0..5_u64 {
            assert_eq!(producer.room(4), 4);
            for n in 0..4 {
                producer.push(round * 4 + n);
            }
            assert_eq!(producer.room(1), 0);
            assert_eq!(consumer.pop(), None, "nothing is published yet");
            producer.publish();
            assert_eq!(producer.pending(), 4);
            assert_eq!(consumer.available(), 4);
            for n in 0..4 {
                assert_eq!(consumer.pop(), Some(round * 4 + n));
            }
            assert_eq!(consumer.pop(), None);
            assert_eq!(producer.room(4), 0, "nothing is released yet");
            consumer.release();
            assert_eq!(producer.pending(), 0);
        }
    }

    #[test]
    #[should_panic(expected = "no room")]
    fn a_full_ring_is_never_overwritten() {
        let mut ring = HeapRing::new(2, 0);
        let (mut producer, _) = ring.sides();
        for n in 0..3 {
            producer.push(n);
        }
    }

    #[test]
    fn the_wakeup_flag_is_the_kernels() {
        let mut ring = HeapRing::new(2, 0);
        let (producer, _) = ring.sides();
        assert!(!producer.needs_wakeup());
        ring.cursors[2].store(NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }

    /// Two threads, a small ring, uneven batches: every number arrives once and in order.
    #[test]
    fn two_threads_agree() {
        let count: u64 = if cfg!(miri) { 500 } else { 1_000_000 };
        let mut ring = HeapRing::new(64, u32::MAX - 1000);
        let (mut producer, mut consumer) = ring.sides();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut n = 0;
                while n < count {
                    let batch = (n % 7 + 1).min(count - n);
                    let room = u64::from(producer.room(batch as u32)).min(batch);
                    for _ in 0..room {
                        producer.push(n);
                        n += 1;
                    }
                    producer.publish();
                    if room == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            let mut expected = 0;
            while expected < count {
                match consumer.pop() {
                    Some(n) => {
                        assert_eq!(n, expected);
                        expected += 1;
                        if expected % 5 == 0 {
                            consumer.release();
                        }
                    }
                    None => {
                        consumer.release();
                        std::thread::yield_now();
                    }
                }
            }
        });
    }
}
