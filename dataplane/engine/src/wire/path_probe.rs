//! Path-MTU probes between switches: Ethernet frames inside VXLAN packets of a VNI that no network can have.
//!
//! ```text
//!  0      14     18      19     20            22          30      34
//! +------+------+-------+------+-------------+-----------+-------+---------+
//! | MACs | ivpm | vers. | kind | outer bytes |   nonce   |  VNI  | padding |
//! +------+------+-------+------+-------------+-----------+-------+---------+
//! ```
//! The VNI, 0 for none, says which network the question or the refusal is about. Switches of before it was added send
//! and see padding there.
//!
//! The destination is the group address that no bridge passes on (802.1Q-2018 §8.6.3), so that nobody who
//! decapsulates one by mistake can spread it; the EtherType is the local experimental one (IEEE 802-2014 §9.2.4).

use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ethernet::Ethernet;
use super::mac::MacAddr;
use crate::command::Vni;

/// The VNI of probes; configuration starts at 1.
pub const VNI: Vni = match Vni::new(0) {
    Some(vni) => vni,
    None => unreachable!(),
};
/// The nearest bridge: 01-80-C2-00-00-0E.
pub const GROUP: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e]);
/// Local experimental EtherType 1.
pub const ETHERTYPE: u16 = 0x88b5;

const MAGIC: [u8; 4] = *b"ivpm";
const VERSION: u8 = 1;

/// What a probe is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Did this arrive?
    Ask,
    /// It did.
    Answer,
    /// It did, but packets of this VNI are not taken from you.
    Refusal,
}

/// A probe without its padding.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PathProbe {
    eth: Ethernet,
    magic: [u8; 4],
    version: u8,
    kind: u8,
    size: U16,
    nonce: U64,
}

/// The network that a probe is about, behind it.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct About(U32);

impl About {
    /// This network.
    #[must_use]
    pub fn new(vni: Vni) -> Self {
        Self(vni.get().into())
    }

    /// The network; `None` when the probe is about none.
    #[must_use]
    pub fn vni(self) -> Option<Vni> {
        Vni::new(self.0.get()).filter(|vni| *vni != VNI)
    }
}

/// Where [`About`] is in a probe.
pub const ABOUT_AT: usize = size_of::<PathProbe>();
/// Bytes of a probe without padding.
pub const LEN: usize = ABOUT_AT + size_of::<About>();
const _: () = assert!(LEN == 34);

impl PathProbe {
    /// The question, or the answer, about outer IP packets of `size` bytes.
    #[must_use]
    pub fn new(src: MacAddr, kind: Kind, size: u16, nonce: u64) -> Self {
        Self {
            eth: Ethernet { dst: GROUP, src, ethertype: ETHERTYPE.into() },
            magic: MAGIC,
            version: VERSION,
            kind: match kind {
                Kind::Ask => 1,
                Kind::Answer => 2,
                Kind::Refusal => 3,
            },
            size: size.into(),
            nonce: nonce.into(),
        }
    }

    /// What it is; `None` when it is no probe, or of a version we do not know.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        let ours = self.eth.dst == GROUP
            && self.eth.ethertype.get() == ETHERTYPE
            && self.magic == MAGIC
            && self.version == VERSION;
        match self.kind {
            1 if ours => Some(Kind::Ask),
            2 if ours => Some(Kind::Answer),
            3 if ours => Some(Kind::Refusal),
            _ => None,
        }
    }

    /// Bytes of the outer IP packet asked about.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size.get()
    }

    /// What only who was asked knows.
    #[must_use]
    pub const fn nonce(&self) -> u64 {
        self.nonce.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::view;

    #[test]
    fn literal() {
        let bytes = [
            0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0x69, 0x77, 0, 0, 1, 0x88, 0xb5, b'i', b'v', b'p', b'm', 1, 1,
            0x05, 0xdc, 0, 0, 0, 0, 0, 0, 0x12, 0x34,
        ];
        let probe = PathProbe::new(MacAddr([2, 0x69, 0x77, 0, 0, 1]), Kind::Ask, 1500, 0x1234);
        assert_eq!(probe.as_bytes(), bytes);
        let seen: &PathProbe = view(&bytes, 0).unwrap();
        assert_eq!((seen.kind(), seen.size(), seen.nonce()), (Some(Kind::Ask), 1500, 0x1234));
        for at in [0, 12, 14, 18, 19] {
            let mut bad = bytes;
            bad[at] ^= 0x80;
            assert_eq!(view::<PathProbe>(&bad, 0).unwrap().kind(), None, "byte {at}");
        }
    }
}
