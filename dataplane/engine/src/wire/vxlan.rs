//! VXLAN (RFC 7348 §5).
//!
//! ```text
//!  0        1                4                7        8
//! +--------+----------------+----------------+--------+
//! |RRRRIRRR|    reserved    |      VNI       |reserved|
//! +--------+----------------+----------------+--------+
//! ```

use core::fmt;

use zerocopy::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::command::Vni;

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 8;
const VALID_VNI: u32 = 0x0800_0000;

/// All bits of the header but the I flag and the VNI.
pub const RESERVED: u64 = 0xf7ff_ffff_0000_00ff;

/// The header.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Vxlan {
    /// Flags and reserved bits.
    pub flags: U32,
    /// VNI and reserved bits.
    pub vni_reserved: U32,
}

const _: () = assert!(size_of::<Vxlan>() == HEADER_LEN);

impl Vxlan {
    /// Creates a header for this network.
    #[must_use]
    pub fn new(vni: Vni) -> Self {
        Self { flags: U32::new(VALID_VNI), vni_reserved: U32::new(vni.get() << 8) }
    }

    /// The network. `None` when the I flag is missing or any bit of `reserved` is set: the kernel refuses
    /// these too, since an extension it does not know may change the meaning of what follows.
    #[inline]
    #[must_use]
    pub fn vni(&self, reserved: u64) -> Option<Vni> {
        let word = self.vni_reserved.get();
        let bits = u64::from(self.flags.get()) << 32 | u64::from(word);
        if self.flags.get() & VALID_VNI != 0 && bits & reserved == 0 { Vni::new(word >> 8) } else { None }
    }
}

impl fmt::Display for Vxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vni(RESERVED) {
            Some(vni) => write!(f, "vni {vni}"),
            None => write!(f, "malformed vxlan {:#010x} {:#010x}", self.flags, self.vni_reserved),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::view;

    #[test]
    fn literal() {
        let good = [8, 0, 0, 0, 0, 0, 100, 0];
        assert_eq!(view::<Vxlan>(&good, 0).unwrap().vni(RESERVED), Vni::new(100));
        assert_eq!(Vxlan::new(Vni::new(100).unwrap()).as_bytes(), good);
        for bad in [
            [0, 0, 0, 0, 0, 0, 100, 0],
            [8, 0, 0, 1, 0, 0, 100, 0],
            [8, 0, 0, 0, 0, 0, 100, 1],
            [9, 0, 0, 0, 0, 0, 100, 0],
        ] {
            let accepted = bad[0] & 8 != 0;
            assert_eq!(view::<Vxlan>(&bad, 0).unwrap().vni(0), Vni::new(100).filter(|_| accepted));
            assert_eq!(view::<Vxlan>(&bad, 0).unwrap().vni(RESERVED), None);
        }
    }
}
