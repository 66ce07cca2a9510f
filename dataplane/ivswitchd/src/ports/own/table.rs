//! The table of the kernel's own flows (`bpf/own.bpf.h`), mapped into user space: this side notes sockets
//! that existed before the programs, and looks up whether a flow is the kernel's.
//!
//! Unsafe for the mapping, whose words all sides change one at a time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::ports::afxdp::mapped;

/// Flows in a set; the number of sets is a power of two.
const WAYS: usize = 8;
const SETS_BITS: u32 = 13;

/// Offsets of a set's parts in bytes, and its length: `struct own_set`.
const UNTIL: usize = WAYS * 4;
const KEYS: usize = UNTIL + WAYS * 4;
const CLOSING: usize = KEYS + WAYS * KEY_WORDS * 8;
const WRITING: usize = CLOSING + WAYS * 4;
const SET_LEN: usize = WRITING + 32;

const KEY_WORDS: usize = 5;
const LEN: usize = SET_LEN << SETS_BITS;

/// Ticks of 2^30 ns.
const TICK_BITS: u32 = 30;

/// How long a connection is remembered if only its socket is known, the same as if packets are seen: RFC 5382 REQ-5.
pub const LIFE_TCP: u32 = 6930;
/// The same for a connection that is about to end.
pub const LIFE_TCP_CLOSING: u32 = 112;
/// The same for a connected UDP socket: RFC 4787 REQ-5.
pub const LIFE_UDP: u32 = 170;

/// Secret odd numbers, so that packet senders cannot aim at a set.
pub type Mix = [u64; 6];

/// One of the kernel's own flows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OwnFlow {
    /// The far end's address and port.
    pub remote: SocketAddr,
    /// Our address and port.
    pub local: SocketAddr,
    /// IP protocol.
    pub proto: u8,
}

impl OwnFlow {
    /// The key in the form of `struct own_key`.
    fn key(&self) -> [u64; KEY_WORDS] {
        let mut bytes = [0; KEY_WORDS * 8];
        bytes[..16].copy_from_slice(&mapped(plain(self.remote.ip())));
        bytes[16..32].copy_from_slice(&mapped(plain(self.local.ip())));
        bytes[32..34].copy_from_slice(&self.remote.port().to_be_bytes());
        bytes[34..36].copy_from_slice(&self.local.port().to_be_bytes());
        bytes[36] = self.proto;
        std::array::from_fn(|word| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[word * 8 + byte])))
    }
}

/// An IPv4-mapped IPv6 address as IPv4, any other unchanged.
fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// The set and the tag of a key: `own_hash` of the program.
fn place(key: &[u64; KEY_WORDS], mix: &Mix) -> (usize, u32) {
    let mut x = key.iter().zip(mix).fold(0_u64, |sum, (k, m)| sum.wrapping_add(k.wrapping_mul(*m)));
    x ^= x >> 32;
    x = x.wrapping_mul(mix[5]);
    x ^= x >> 29;
    ((x >> (64 - SETS_BITS)) as usize, x as u32)
}

/// The present time in the programs' ticks.
#[must_use]
pub fn now() -> u32 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let ns = time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned();
    (ns >> TICK_BITS) as u32
}

/// The mapped table.
#[derive(Debug)]
pub struct OwnTable {
    base: NonNull<u8>,
    mix: Mix,
}

// SAFETY: the mapping is shared memory that is only accessed by whole atomic words.
unsafe impl Send for OwnTable {}
// SAFETY: as above.
unsafe impl Sync for OwnTable {}

impl OwnTable {
    /// Maps the table.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn map(fd: impl AsFd, mix: Mix) -> io::Result<Self> {
        // SAFETY: a new mapping, at an address that the kernel chooses, of a map with this many bytes.
        let base = unsafe {
            mmap(std::ptr::null_mut(), LEN, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, mix })
    }

    fn word(&self, set: usize, offset: usize) -> &AtomicU32 {
        assert!(set < 1 << SETS_BITS && offset + 4 <= SET_LEN && offset.is_multiple_of(4));
        // SAFETY: inside the mapping and aligned, as was just checked; the mapping lives as long as `self`,
        // and every value is valid.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(set * SET_LEN + offset).cast()) }
    }

    fn key(&self, set: usize, way: usize) -> [&AtomicU64; KEY_WORDS] {
        assert!(set < 1 << SETS_BITS && way < WAYS);
        std::array::from_fn(|word| {
            let offset = KEYS + (way * KEY_WORDS + word) * 8;
            // SAFETY: inside the mapping and aligned to eight, by the constants.
            unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(set * SET_LEN + offset).cast()) }
        })
    }

    fn way(&self, set: usize, tag: u32, key: &[u64; KEY_WORDS]) -> Option<usize> {
        (0..WAYS).find(|&way| {
            self.word(set, way * 4).load(Ordering::Relaxed) == tag
                && self.word(set, UNTIL + way * 4).load(Ordering::Acquire) != 0
                && self.key(set, way).iter().zip(key).all(|(is, k)| is.load(Ordering::Relaxed) == *k)
        })
    }

    /// Whether a flow is the kernel's.
    #[must_use]
    pub fn has(&self, flow: &OwnFlow, now: u32) -> bool {
        let key = flow.key();
        let (set, tag) = place(&key, &self.mix);
        self.way(set, tag, &key).is_some_and(|way| lives(self.word(set, UNTIL + way * 4), now))
    }

    /// Notes a flow, or extends its life.
    pub fn note(&self, flow: &OwnFlow, life: u32, now: u32) {
        let key = flow.key();
        let (set, tag) = place(&key, &self.mix);
        let until = now.wrapping_add(life).max(1);
        if let Some(way) = self.way(set, tag, &key) {
            let word = self.word(set, UNTIL + way * 4);
            let before = word.load(Ordering::Relaxed);
            if until.wrapping_sub(before).cast_signed() > 0 {
                word.store(until, Ordering::Release);
            }
            return;
        }
        let writing = self.word(set, WRITING);
        if writing.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return;
        }
        // The flow that ends first makes room.
        let ends = |way: usize| self.word(set, UNTIL + way * 4).load(Ordering::Relaxed).wrapping_sub(now);
        let free = |way: usize| !lives(self.word(set, UNTIL + way * 4), now);
        let way = (0..WAYS).find(|&way| free(way)).or_else(|| (0..WAYS).min_by_key(|&way| ends(way)));
        if let Some(way) = way {
            self.word(set, UNTIL + way * 4).store(0, Ordering::Release);
            for (word, k) in self.key(set, way).iter().zip(key) {
                word.store(k, Ordering::Relaxed);
            }
            self.word(set, CLOSING + way * 4).store(0, Ordering::Relaxed);
            self.word(set, way * 4).store(tag, Ordering::Relaxed);
            self.word(set, UNTIL + way * 4).store(until, Ordering::Release);
        }
        writing.store(0, Ordering::Release);
    }

    /// The number of flows.
    #[must_use]
    pub fn count(&self, now: u32) -> u32 {
        let live = |set: usize| (0..WAYS).filter(|way| lives(self.word(set, UNTIL + way * 4), now)).count();
        (0..1 << SETS_BITS).map(live).sum::<usize>() as u32
    }
}

fn lives(until: &AtomicU32, now: u32) -> bool {
    let until = until.load(Ordering::Acquire);
    until != 0 && until.wrapping_sub(now).cast_signed() > 0
}

impl Drop for OwnTable {
    fn drop(&mut self) {
        // SAFETY: no reference into the mapping is left, and these are the address and length that mmap gave.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), LEN) };
    }
}
