//! The bytes of frames: one protocol per file, each with its layout from the standard, a checked view, and
//! the accessors that the pipeline needs. The compiler checks field offsets (`zerocopy`).

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod l4;
pub mod mac;
pub mod nd;
pub mod path_probe;
pub mod sctp;
pub mod virtio_net;

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// A view of the header `T` at `at`, if it is complete.
#[inline]
pub fn view<T: FromBytes + KnownLayout + Immutable + Unaligned>(bytes: &[u8], at: usize) -> Option<&T> {
    Some(T::ref_from_prefix(bytes.get(at..)?).ok()?.0)
}

/// A writable view of the header `T` at `at`, if it is complete.
#[inline]
pub fn view_mut<T: FromBytes + zerocopy::IntoBytes + KnownLayout + Immutable + Unaligned>(
    bytes: &mut [u8],
    at: usize,
) -> Option<&mut T> {
    Some(T::mut_from_prefix(bytes.get_mut(at..)?).ok()?.0)
}

/// The big-endian 16-bit word at `at`. The caller has checked the length.
#[inline]
#[must_use]
pub fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes a big-endian 16-bit word at `at`. The caller has checked the length.
#[inline]
pub fn set_word(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
