//! Path-MTU probes between switches: Ethernet frames inside VXLAN packets of a VNI that no network can have.
//!
//! ```text
//!  0      14     18      19     20            22          30      34     42
//! +------+------+-------+------+-------------+-----------+-------+------+---------+
//! | MACs | ivpm | vers. | kind | outer bytes |   nonce   |  VNI  | name | padding |
//! +------+------+-------+------+-------------+-----------+-------+------+---------+
//! ```
//! The VNI, 0 for none, says which network the question or the refusal is about; `name` is a hash of the sender's name,
//! never 0. Switches of before they were added send and see padding there.
//!
//! The destination is the group address that no bridge forwards (802.1Q-2018 §8.6.3), so a station that
//! decapsulates a probe by mistake cannot spread it. The EtherType is the local experimental one (IEEE
//! 802-2014 §9.2.4).

use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ethernet::Ethernet;
use super::mac::MacAddr;
use crate::command::Vni;

/// The VNI of probes; configured VNIs start at 1.
pub const VNI: Vni = match Vni::new(0) {
    Some(vni) => vni,
    None => unreachable!(),
};
/// The nearest bridge group: 01-80-C2-00-00-0E.
pub const GROUP: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e]);
/// Local experimental EtherType 1.
pub const ETHERTYPE: u16 = 0x88b5;

const MAGIC: [u8; 4] = *b"ivpm";
const VERSION: u8 = 1;

/// The kind of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A question: did this packet arrive?
    Ask,
    /// The answer: it arrived.
    Answer,
    /// It arrived, but the answering switch does not take packets of this VNI from the asking one.
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

/// The network that a probe is about. Follows the probe.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct About(U32);

impl About {
    /// Creates the field for this network.
    #[must_use]
    pub fn new(vni: Vni) -> Self {
        Self(vni.get().into())
    }

    /// The network; `None` when the probe is not about a network.
    #[must_use]
    pub fn vni(self) -> Option<Vni> {
        Vni::new(self.0.get()).filter(|vni| *vni != VNI)
    }
}

/// Offset of [`About`] in a probe.
pub const ABOUT_AT: usize = size_of::<PathProbe>();
/// Bytes of a probe without padding.
pub const LEN: usize = NAME_AT + 8;
const NAME_AT: usize = ABOUT_AT + size_of::<About>();
const _: () = assert!(NAME_AT == 34);

/// The hash of the sender's name in a probe; 0 from an older switch.
#[must_use]
pub fn name(probe: &[u8]) -> u64 {
    super::view::<U64>(probe, NAME_AT).map_or(0, |name| name.get())
}

/// Writes the hash of the sender's name, if there is room for it.
pub fn set_name(probe: &mut [u8], name: u64) {
    if let Some(place) = super::view_mut::<U64>(probe, NAME_AT) {
        *place = name.into();
    }
}

impl PathProbe {
    /// Creates the question, or the answer, about outer IP packets of `size` bytes.
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

    /// The kind of the probe; `None` when it is not a probe, or has an unknown version.
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

    /// Size in bytes of the outer IP packet in question.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size.get()
    }

    /// A number that only the receiver of the question can repeat.
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
        let mut named = [&bytes[..], &[0; 12]].concat();
        assert_eq!((name(&bytes), name(&named)), (0, 0));
        set_name(&mut named, 0x0102_0304_0506_0708);
        assert_eq!((&named[34..], name(&named)), (&[1, 2, 3, 4, 5, 6, 7, 8][..], 0x0102_0304_0506_0708));
        for at in [0, 12, 14, 18, 19] {
            let mut bad = bytes;
            bad[at] ^= 0x80;
            assert_eq!(view::<PathProbe>(&bad, 0).unwrap().kind(), None, "byte {at}");
        }
    }
}
