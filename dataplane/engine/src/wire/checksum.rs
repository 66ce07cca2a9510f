//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use super::ip::Ip;

/// One's complement sum of `data` as big-endian 16-bit words, folded; an odd last byte is padded.
#[inline]
#[must_use]
pub fn sum(data: &[u8]) -> u16 {
    let mut lanes = Lanes::default();
    let (chunks, rest) = data.as_chunks::<CHUNK>();
    for chunk in chunks {
        lanes.add(chunk);
    }
    lanes.finish(rest)
}

/// Copies `from` to `to`, which has the same length, and returns its [`sum`]. Reads the payload only once.
///
/// # Panics
/// When the lengths differ.
#[inline]
#[must_use]
pub fn copy_sum(from: &[u8], to: &mut [u8]) -> u16 {
    assert_eq!(from.len(), to.len(), "a copy is as long as what is copied");
    let mut lanes = Lanes::default();
    let (chunks, rest) = from.as_chunks::<CHUNK>();
    let (copies, rest_copy) = to.as_chunks_mut::<CHUNK>();
    for (chunk, copy) in chunks.iter().zip(copies) {
        *copy = *chunk;
        lanes.add(chunk);
    }
    rest_copy.copy_from_slice(rest);
    lanes.finish(rest)
}

/// Number of bytes summed in one step.
const CHUNK: usize = 32;

/// Eight parallel sums of 32-bit words in the machine's own byte order. RFC 1071 permits both (§2 B, §2 C),
/// and the compiler turns this form into vector instructions. 64 bits hold the sum of 2^32 such words.
#[derive(Default)]
struct Lanes([u64; 8]);

impl Lanes {
    #[inline(always)]
    fn add(&mut self, chunk: &[u8; CHUNK]) {
        let (words, _) = chunk.as_chunks::<4>();
        for (lane, word) in self.0.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }

    #[inline(always)]
    fn finish(self, rest: &[u8]) -> u16 {
        let mut sum: u64 = self.0.iter().sum();
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        sum += u64::from(u32::from_ne_bytes(last));
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        fold(sum as u32).to_be()
    }
}

/// Folds a sum of 16-bit words to 16 bits.
#[inline]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1), folded.
#[inline]
#[must_use]
pub fn pseudo(src: Ip, dst: Ip, protocol: u8, len: u32) -> u16 {
    let addresses = u32::from(fold(src.sum())) + u32::from(fold(dst.sum()));
    fold(addresses + u32::from(protocol) + (len >> 16) + (len & 0xffff))
}

/// The change of a one's complement sum when words are replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, zerocopy::FromZeros)]
pub struct Delta(u32);

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// The change as one 16-bit word.
    #[inline]
    #[must_use]
    pub const fn folded(self) -> u16 {
        fold(self.0)
    }

    /// Adds the replacement of the word `old` by `new`.
    #[inline]
    #[must_use]
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(u32::from(fold(self.0 + u32::from(!old) + u32::from(new))))
    }

    /// Combines both changes.
    #[inline]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(u32::from(fold(self.0 + other.0)))
    }

    /// Adds the replacement of the address `old` by `new` (same family).
    #[inline]
    #[must_use]
    pub fn address(self, old: Ip, new: Ip) -> Self {
        self.word(fold(old.sum()), fold(new.sum()))
    }

    /// Applies the change to a finished checksum (RFC 1624 eqn. 3).
    #[inline]
    #[must_use]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u32::from(!checksum) + self.0)
    }

    /// Applies the change to a partial checksum (the plain sum of the pseudo-header).
    #[inline]
    #[must_use]
    pub fn apply_partial(self, sum: u16) -> u16 {
        fold(u32::from(sum) + self.0)
    }
}

/// Replaces a computed zero by all ones for UDP over IPv4, where zero means "no checksum" (RFC 768).
#[inline]
#[must_use]
pub const fn udp_nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Whether the checksum of `segment`, a whole transport segment, is right for its pseudo-header.
#[must_use]
pub fn transport_ok(src: Ip, dst: Ip, protocol: u8, segment: &[u8]) -> bool {
    fold(u32::from(pseudo(src, dst, protocol, segment.len() as u32)) + u32::from(sum(segment))) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn incremental_equals_recomputed(mut data in proptest::collection::vec(any::<u8>(), 20..200usize),
                                         word_at in 0usize..9, new in any::<u16>()) {
            // Two checksums may both be right for the same data only when one is 0x0000 and the other 0xffff.
            data[0] = 1;
            let before = !sum(&data);
            let at = 2 + word_at * 2;
            let old = u16::from_be_bytes([data[at], data[at + 1]]);
            data[at..at + 2].copy_from_slice(&new.to_be_bytes());
            let delta = Delta::ZERO.word(old, new);
            let recomputed = !sum(&data);
            let got = delta.apply(before);
            prop_assert!(got == recomputed || (got ^ recomputed) == 0xffff && (got == 0 || got == 0xffff));
            prop_assert_eq!(delta.apply_partial(!before) % 0xffff, sum(&data) % 0xffff);
        }

        #[test]
        fn addresses(a in any::<u128>(), b in any::<u128>(), c in any::<u16>()) {
            let (a, b) = (Ip(a), Ip(b));
            let delta = Delta::ZERO.address(a, b);
            let back = Delta::ZERO.address(b, a);
            prop_assert_eq!(u32::from(back.apply(delta.apply(c))) % 0xffff, u32::from(c) % 0xffff);
        }
    }

    proptest! {
        /// Compares with an independent implementation. Zero has two forms, and the data alone determines
        /// which one it is.
        #[test]
        fn any_sum(data in proptest::collection::vec(any::<u8>(), 0..3000), at in 0usize..40) {
            let data = &data[at.min(data.len())..];
            let expected = smoltcp::wire::checksum::data(data);
            prop_assert_eq!(sum(data), expected);
            let mut copy = alloc::vec![0; data.len()];
            prop_assert_eq!(copy_sum(data, &mut copy), expected);
            prop_assert_eq!(copy, data);
        }
    }

    #[test]
    fn a_full_super_frame_does_not_overflow() {
        assert_eq!(sum(&[0xff; 65_535]), smoltcp::wire::checksum::data(&[0xff; 65_535]));
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }
}
