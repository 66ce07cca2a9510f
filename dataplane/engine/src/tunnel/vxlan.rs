//! VXLAN (RFC 7348 §5).
//!
//! ```text
//!  0        1                4                7        8
//! +--------+----------------+----------------+--------+
//! |RRRRIRRR|    reserved    |      VNI       |reserved|
//! +--------+----------------+----------------+--------+
//! ```

use crate::command::Vni;

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 8;

/// The I flag in the first byte: the VNI is valid.
pub const FLAG_VNI: u8 = 0x08;

/// The first four bytes of a header without reserved bits.
pub const FIRST_WORD: u32 = (FLAG_VNI as u32) << 24;

/// A header without its VNI.
pub const TEMPLATE: [u8; HEADER_LEN] = [FLAG_VNI, 0, 0, 0, 0, 0, 0, 0];

/// Offset of the VNI's word in the header. The VNI is in its first three bytes, and the fourth is reserved.
pub const VNI_AT: usize = 4;

/// All bits of the header but the I flag and the VNI.
pub const RESERVED: u64 = 0xf7ff_ffff_0000_00ff;

/// The word of a header that holds the VNI.
#[inline]
#[must_use]
pub const fn vni_word(vni: Vni) -> [u8; HEADER_LEN - VNI_AT] {
    (vni.get() << 8).to_be_bytes()
}

/// The header for this network.
#[inline]
#[must_use]
pub const fn header(vni: Vni) -> [u8; HEADER_LEN] {
    let (mut header, [a, b, c, d]) = (TEMPLATE, vni_word(vni));
    (header[4], header[5], header[6], header[7]) = (a, b, c, d);
    header
}

/// The network. `None` when the I flag is missing or any bit of `reserved` is set. The kernel refuses these headers too:
/// an extension that a receiver does not know may change the meaning of the bytes behind the header.
#[inline]
#[must_use]
pub fn vni(header: &[u8; HEADER_LEN], reserved: u64) -> Option<Vni> {
    let bits = u64::from_be_bytes(*header);
    if header[0] & FLAG_VNI != 0 && bits & reserved == 0 { Vni::new(bits as u32 >> 8) } else { None }
}

/// The network, as a number, in the eight bytes of a header (the first one lowest), if all reserved bits are zero.
/// [`strict`] for the flow cache: it takes nothing apart before it compares.
#[inline(always)]
#[must_use]
pub const fn vni_of_plain(bytes: u64) -> Option<u32> {
    let plain = bytes as u32 == FIRST_WORD.swap_bytes() && bytes >> 56 == 0;
    if plain { Some(((bytes >> 32) as u32).swap_bytes() >> 8) } else { None }
}

/// The network of a header whose reserved bits are all zero, whatever the configuration allows.
#[inline]
#[must_use]
pub fn strict(header: &[u8; HEADER_LEN]) -> Option<Vni> {
    vni(header, RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of RFC 7348 in literal bytes, and every way to be another: without the flag, and with reserved bits
    /// in each of their places, which the configuration may allow.
    #[test]
    fn literal() {
        let good = [8, 0, 0, 0, 0, 0, 100, 0];
        assert_eq!(strict(&good), Vni::new(100));
        assert_eq!(vni_of_plain(u64::from_le_bytes(good)), Some(100));
        assert_eq!(header(Vni::new(100).unwrap()), good);
        assert_eq!(header(Vni::new(0x01_0203).unwrap()), [8, 0, 0, 0, 1, 2, 3, 0]);
        for bad in [
            [0, 0, 0, 0, 0, 0, 100, 0],
            [8, 0, 0, 1, 0, 0, 100, 0],
            [8, 0, 0, 0, 0, 0, 100, 1],
            [9, 0, 0, 0, 0, 0, 100, 0],
        ] {
            let accepted = bad[0] & 8 != 0;
            assert_eq!(vni(&bad, 0), Vni::new(100).filter(|_| accepted));
            assert_eq!(strict(&bad), None);
            assert_eq!(vni_of_plain(u64::from_le_bytes(bad)), None);
        }
    }
}
