//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use super::ip::Ip;

/// One's complement sum of `data` as big-endian 16-bit words, folded; an odd last byte is padded.
#[inline]
#[must_use]
pub fn sum(data: &[u8]) -> u16 {
    smoltcp::wire::checksum::data(data)
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

/// The difference that replaced words make to a one's complement sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Delta(u32);

impl Delta {
    /// Nothing changed.
    pub const ZERO: Self = Self(0);

    /// The word `old` became `new`.
    #[inline]
    #[must_use]
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(u32::from(fold(self.0 + u32::from(!old) + u32::from(new))))
    }

    /// Both changes.
    #[inline]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(u32::from(fold(self.0 + other.0)))
    }

    /// The address `old` became `new` (same family).
    #[inline]
    #[must_use]
    pub fn address(self, old: Ip, new: Ip) -> Self {
        self.word(fold(old.sum()), fold(new.sum()))
    }

    /// A finished checksum after the change (RFC 1624 eqn. 3).
    #[inline]
    #[must_use]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u32::from(!checksum) + self.0)
    }

    /// A partial checksum (the plain sum of the pseudo-header) after the change.
    #[inline]
    #[must_use]
    pub fn apply_partial(self, sum: u16) -> u16 {
        fold(u32::from(sum) + self.0)
    }
}

/// UDP over IPv4 sends an all-ones checksum when the sum comes to zero, which means "none" (RFC 768).
#[inline]
#[must_use]
pub const fn udp_nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Whether `segment` (a whole transport segment, its checksum in place) checks against the pseudo-header.
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

    #[test]
    fn rfc_1071_example() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }
}
