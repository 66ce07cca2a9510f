//! Receives a message of unknown length: without a copy if it is small, with a short copy if it is large.
//!
//! The kernel scatters the message: the first bytes go to a small slot, the rest to the large slot, at the
//! place where it belongs. So small frames need no copy, and of a GSO packet only the first bytes are moved.

use engine::frame::{Frame, FramePool, SlotSize};
use engine::limits::{HEADROOM, SLOT_LARGE_LEN, SLOT_SMALL_LEN};
use libc::iovec;

use super::umem::UmemPool;

/// Bytes of a frame that fit in a small slot.
const SMALL_MAX: usize = SLOT_SMALL_LEN - HEADROOM;

/// Bytes of a frame that fit in a large slot.
pub const LARGE_MAX: usize = SLOT_LARGE_LEN - HEADROOM;

/// Slots for one message, which will use one of the two.
#[derive(Debug)]
pub struct Landing {
    small: Frame,
    large: Option<Frame>,
}

impl Landing {
    /// Takes the slots. Without a large one only small messages arrive whole. `None`: the pool is empty.
    pub fn new(pool: &mut UmemPool) -> Option<Self> {
        let small = pool.alloc(SlotSize::Small)?;
        Some(Self { small, large: pool.alloc(SlotSize::Large) })
    }

    /// The places to write to, and their number: `lead` bytes before the frame (at most the headroom), then
    /// the frame, then `spill` for the rest of a frame that is longer than the largest slot.
    pub fn places(&mut self, pool: &mut UmemPool, lead: usize, spill: Option<iovec>) -> ([iovec; 3], usize) {
        let first = pool.place_at(&self.small, HEADROOM - lead, lead + SMALL_MAX);
        let rest_len = LARGE_MAX - SMALL_MAX;
        let rest = self.large.as_ref().map(|large| pool.place_at(large, HEADROOM + SMALL_MAX, rest_len));
        let first = iovec { iov_base: first.cast(), iov_len: lead + SMALL_MAX };
        let Some(rest) = rest else { return ([first; 3], 1) };
        let rest = iovec { iov_base: rest.cast(), iov_len: rest_len };
        match spill {
            Some(spill) => ([first, rest, spill], 3),
            None => ([first, rest, rest], 2),
        }
    }

    /// The length of the longest frame that the slots can hold.
    pub fn room(&self) -> usize {
        if self.large.is_some() { LARGE_MAX } else { SMALL_MAX }
    }

    /// Copies the part of a longer frame that landed in the slots to `to`, and frees the slots.
    pub fn lift(mut self, pool: &mut UmemPool, to: &mut [u8]) {
        self.small.len = SMALL_MAX as u32;
        to[..SMALL_MAX].copy_from_slice(pool.bytes(&self.small));
        if let Some(large) = &mut self.large {
            large.len = LARGE_MAX as u32;
            to[SMALL_MAX..LARGE_MAX].copy_from_slice(&pool.bytes(large)[SMALL_MAX..]);
        }
        self.discard(pool);
    }

    /// The bytes written before the frame.
    pub fn lead<const LEN: usize>(&mut self, pool: &mut UmemPool) -> [u8; LEN] {
        self.small.head = (HEADROOM - LEN) as u16;
        self.small.len = LEN as u32;
        let lead = pool.bytes(&self.small).try_into().expect("it is that long");
        self.small.head = HEADROOM as u16;
        lead
    }

    /// The received frame, with this length. `None`: it was truncated, as the pool had no large slot.
    pub fn settle(mut self, pool: &mut UmemPool, len: usize) -> Option<Frame> {
        if len > self.room() {
            self.discard(pool);
            return None;
        }
        if len <= SMALL_MAX {
            self.small.len = len as u32;
            if let Some(large) = self.large {
                pool.free(large);
            }
            return Some(self.small);
        }
        let mut large = self.large?;
        large.len = len as u32;
        self.small.len = SMALL_MAX as u32;
        let (front, whole) = pool.pair(&self.small, &mut large);
        whole[..SMALL_MAX].copy_from_slice(front);
        pool.free(self.small);
        Some(large)
    }

    /// Returns the slots unused.
    pub fn discard(self, pool: &mut UmemPool) {
        pool.free(self.small);
        if let Some(large) = self.large {
            pool.free(large);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `bytes` to the places, as the kernel would, and returns how many fitted.
    fn land(places: ([iovec; 3], usize), mut bytes: &[u8]) -> usize {
        let all = bytes.len();
        for place in &places.0[..places.1] {
            let len = place.iov_len.min(bytes.len());
            // SAFETY: each place is memory of the pool without any other reference to it.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place.iov_base.cast(), len) };
            bytes = &bytes[len..];
        }
        all - bytes.len()
    }

    #[test]
    fn every_length_lands_whole() {
        let mut pool = UmemPool::new(64, 2).unwrap();
        for len in [0, 1, 60, SMALL_MAX - 1, SMALL_MAX, SMALL_MAX + 1, 9000, 65_549] {
            let bytes: Vec<u8> = (0..len + 10).map(|n| (n % 251) as u8).collect();
            let mut landing = Landing::new(&mut pool).unwrap();
            let places = landing.places(&mut pool, 10, None);
            assert_eq!(land(places, &bytes), len + 10);
            assert_eq!(landing.lead::<10>(&mut pool), bytes[..10]);
            let frame = landing.settle(&mut pool, len).unwrap();
            assert_eq!(pool.bytes(&frame), &bytes[10..]);
            assert_eq!(pool.is_small(&frame), len <= SMALL_MAX);
            pool.free(frame);
        }
        assert_eq!(pool.usage().used, 0);
    }

    #[test]
    fn without_a_large_slot_only_small_ones_arrive() {
        let mut pool = UmemPool::new(64, 0).unwrap();
        for len in [60, SMALL_MAX, SMALL_MAX + 1] {
            let mut landing = Landing::new(&mut pool).unwrap();
            assert_eq!(landing.places(&mut pool, 10, None).1, 1);
            let frame = landing.settle(&mut pool, len);
            assert_eq!(frame.is_some(), len <= SMALL_MAX);
            if let Some(frame) = frame {
                pool.free(frame);
            }
        }
        assert_eq!(pool.usage().used, 0);
    }
}
