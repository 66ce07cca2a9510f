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

    /// The network. `None` when the I flag is missing or any reserved bit is set. The kernel refuses these
    /// too, since an unknown extension may change the meaning of the following bytes.
    #[inline]
    #[must_use]
    pub fn vni(&self) -> Option<Vni> {
        let word = self.vni_reserved.get();
        if self.flags.get() == VALID_VNI && word & 0xff == 0 { Vni::new(word >> 8) } else { None }
    }
}

impl fmt::Display for Vxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vni() {
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
        assert_eq!(view::<Vxlan>(&good, 0).unwrap().vni(), Vni::new(100));
        assert_eq!(Vxlan::new(Vni::new(100).unwrap()).as_bytes(), good);
        for bad in [
            [0, 0, 0, 0, 0, 0, 100, 0],
            [8, 0, 0, 1, 0, 0, 100, 0],
            [8, 0, 0, 0, 0, 0, 100, 1],
            [9, 0, 0, 0, 0, 0, 100, 0],
        ] {
            assert_eq!(view::<Vxlan>(&bad, 0).unwrap().vni(), None);
        }
    }
}
