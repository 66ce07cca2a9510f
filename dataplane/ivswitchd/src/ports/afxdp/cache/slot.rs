//! The content of a slot of the kernel offload, and the memory of the maps that the programs share.

use std::io;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;

use engine::forward::flow::{Action, Key};
use engine::wire::checksum::Delta;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::super::layout::{
    BIT_NAT_DEST, BIT_NAT_SOURCE, BIT_PUSH, BIT_RELAYED, BIT_ROUTED, BIT_UNMARKED, BITS, HITS, IP_DELTA, KEY,
    KEY_WORDS, L4_DELTA, LEN_MAX, MACS, NAT, OUT_IFINDEX, OUTER, OUTER_SUM, OUTPUT, PSEUDO, SETS_BITS,
    SLOT_WORDS, WAYS,
};

pub(super) const SETS: usize = 1 << SETS_BITS;
pub(super) const SLOTS: usize = SETS * WAYS;

pub(super) type Slot = [AtomicU64; SLOT_WORDS];

/// A map's memory as words that either side may change at any time.
pub(super) struct Mapping {
    base: *mut AtomicU64,
    words: usize,
    len: usize,
}

// SAFETY: all access goes through shared atomic words, and the last user unmaps it.
unsafe impl Send for Mapping {}
// SAFETY: see above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn new(map: &aya::maps::MapData, words: usize) -> io::Result<Self> {
        let len = (words * size_of::<AtomicU64>()).next_multiple_of(rustix::param::page_size());
        // SAFETY: a new mapping, at an address that the kernel chooses, of a map with at least this length.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.fd().as_fd(),
                0,
            )
        }?;
        Ok(Self { base: base.cast(), words, len })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, is page-aligned, and lives as long as `self`; every bit
        // pattern is a valid value, and all users change whole words atomically.
        unsafe { std::slice::from_raw_parts(self.base, self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: no reference into the mapping is left, and these are the address and length that mmap gave.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// The words of a key, as the program builds them from the frame.
pub(super) fn key_words(key: &Key, ifindex: u32) -> [u64; KEY_WORDS] {
    let mut macs = [0; 16];
    macs[..6].copy_from_slice(&key.eth_dst.0);
    macs[6..12].copy_from_slice(&key.eth_src.0);
    macs[12..14].copy_from_slice(&key.sport.to_be_bytes());
    macs[14..].copy_from_slice(&key.dport.to_be_bytes());
    let [a, b, c, d] = key.src;
    let [e, f, g, h] = key.dst;
    let (tunnel, vni) = key.tunnel.map_or(([0; 4], 0), |(source, vni)| (source, vni.get()));
    let ingress = u64::from(ifindex) | u64::from((vni << 8 | u32::from(key.proto)).to_be()) << 32;
    let word = |at: usize| u64::from_ne_bytes(*macs[at..].first_chunk().expect("eight bytes"));
    [
        word(0),
        word(8),
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        ingress,
        u32::from_ne_bytes(tunnel).into(),
    ]
}

/// The set that a key belongs to.
pub(super) fn set_of(key: &[u64; KEY_WORDS], mix: &[u64; 6]) -> usize {
    let sum = key.iter().zip(mix).fold(0_u64, |sum, (word, mix)| sum.wrapping_add(word.wrapping_mul(*mix)));
    ((sum ^ sum >> 32).wrapping_mul(mix[5]) >> (64 - SETS_BITS)) as usize
}

/// A slot's content from behind its epoch up to its count.
pub(super) fn image(key: &[u64; KEY_WORDS], action: &Action, ifindex: u32) -> [u64; HITS - KEY] {
    let mut bytes = [0_u8; HITS * 8];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    for (at, word) in key.iter().enumerate() {
        put((KEY + at) * 8, &word.to_ne_bytes());
    }
    let mut bits = 0;
    put(OUTPUT, &action.out.0.to_ne_bytes());
    put(OUT_IFINDEX, &ifindex.to_ne_bytes());
    put(LEN_MAX, &u16::try_from(action.len_max).unwrap_or(u16::MAX).to_ne_bytes());
    if let Some(pseudo) = action.unmarked {
        bits |= BIT_UNMARKED;
        put(PSEUDO, &pseudo.to_ne_bytes());
    }
    let mut ip_delta = Delta::ZERO;
    if let Some((source, address, delta)) = action.nat {
        bits |= if source { BIT_NAT_SOURCE } else { BIT_NAT_DEST };
        ip_delta = delta;
        put(L4_DELTA, &delta.folded().to_be_bytes());
        put(NAT, &address);
    }
    if let Some((dst, src)) = action.route {
        bits |= BIT_ROUTED;
        // One hop less: the word of hop limit and protocol is 0x100 smaller.
        ip_delta = ip_delta.word(0x100, 0);
        put(MACS, &dst.0);
        put(MACS + 6, &src.0);
    }
    put(IP_DELTA, &ip_delta.folded().to_be_bytes());
    if let Some(outer) = &action.outer {
        bits |= BIT_PUSH | if outer.relayed { BIT_RELAYED } else { 0 };
        put(OUTER_SUM, &u32::from((outer.sum as u16).to_be()).to_ne_bytes());
        put(OUTER, &outer.bytes);
    }
    put(BITS, &bits.to_ne_bytes());
    std::array::from_fn(|at| {
        let at = (KEY + at) * 8;
        u64::from_ne_bytes(*bytes[at..].first_chunk().expect("eight bytes"))
    })
}
