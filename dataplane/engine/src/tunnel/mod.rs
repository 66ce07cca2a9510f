//! Tunnels between rVMs: the headers that stand in front of a guest's frame on the underlay.
//!
//! ```text
//! | Ethernet | IP | UDP | VXLAN | inner frame
//! |                |<-- ENCAP ->|
//! |<------ outer header ------->|
//! ```
//!
//! One file per encapsulation defines its layout and which headers are valid. This file says how long the headers
//! are and reads them in packets from peers, `outer.rs` writes them. All other modules ask here; the daemon's BPF
//! programs get the same numbers from a header file that one of its tests writes (`bpf/layout.h`).

pub mod fields;
pub mod outer;
pub mod vxlan;

use crate::command::Vni;
use crate::counters::DropReason;
use crate::wire::{ethernet, ipv4, ipv6, l4, word};

/// Length in bytes of the headers between the outer IP header and the inner frame.
pub const ENCAP_LEN: usize = l4::UDP_HEADER_LEN + vxlan::HEADER_LEN;

/// Length in bytes of an outer header over IPv4. An inner IP packet loses as many bytes of the underlay's MTU,
/// since its own Ethernet header is as long as the outer one.
pub const OUTER_V4_LEN: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + ENCAP_LEN;

/// Length in bytes of an outer header over IPv6.
pub const OUTER_V6_LEN: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + ENCAP_LEN;

/// Length in bytes of the longest outer header.
pub const OUTER_MAX: usize = OUTER_V6_LEN;

/// Offset of the UDP header in an outer header over IPv4.
pub const UDP_AT_V4: usize = OUTER_V4_LEN - ENCAP_LEN;

/// Offset of the VXLAN header in an outer header over IPv4.
pub const VXLAN_AT_V4: usize = UDP_AT_V4 + l4::UDP_HEADER_LEN;

/// The frame in a tunnel packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inside {
    /// The network.
    pub vni: Vni,
    /// Offset of the frame.
    pub start: usize,
    /// Offset behind the frame.
    pub end: usize,
}

/// Finds the frame in a tunnel packet whose UDP header is at `udp_at`, in an IP packet that has `l4_len` bytes from
/// there on. `reserved`: the bits of the tunnel header that must be zero.
///
/// # Errors
/// The defect of the headers.
#[inline]
pub fn open(bytes: &[u8], udp_at: usize, l4_len: usize, reserved: u64) -> Result<Inside, DropReason> {
    let udp_len = usize::from(word(bytes, udp_at + l4::UDP_LEN_AT));
    if udp_len > l4_len || udp_len < ENCAP_LEN {
        return Err(DropReason::OuterMalformed);
    }
    let (start, end) = (udp_at + ENCAP_LEN, udp_at + udp_len);
    let header = bytes.get(udp_at + l4::UDP_HEADER_LEN..end).and_then(|rest| rest.first_chunk());
    let vni = vxlan::vni(header.ok_or(DropReason::OuterMalformed)?, reserved);
    Ok(Inside { vni: vni.ok_or(DropReason::VxlanHeader)?, start, end })
}

/// The network and the frame in the UDP payload `payload`, if it begins as a tunnel packet of this switch does. Only
/// for observers, which have no configuration to know the tunnel's port by.
#[must_use]
pub fn recognize(payload: &[u8]) -> Option<(Vni, &[u8])> {
    let (header, frame) = payload.split_first_chunk()?;
    Some((vxlan::strict(header)?, frame))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// A packet of 30 bytes behind 5 others: UDP, VXLAN 100, a frame of 14 bytes.
    fn packet() -> Vec<u8> {
        let mut bytes = alloc::vec![0xee; 5];
        bytes.extend([0xc0, 0, 0x12, 0xb5, 0, 30, 0, 0, 8, 0, 0, 0, 0, 0, 100, 0]);
        bytes.extend([7; 14]);
        bytes
    }

    /// A whole packet is opened, and one with bytes behind its UDP datagram ends where UDP says. A datagram longer than
    /// its IP packet, or too short for a header, is malformed; a header without its flag has a reason of its own.
    #[test]
    fn opened_or_refused_with_a_reason() {
        let good = packet();
        let inside = Inside { vni: Vni::new(100).unwrap(), start: 21, end: 35 };
        assert_eq!(open(&good, 5, 30, vxlan::RESERVED), Ok(inside));
        assert_eq!(open(&[&good[..], &[0; 9]].concat(), 5, 39, vxlan::RESERVED), Ok(inside));
        assert_eq!(open(&good, 5, 29, vxlan::RESERVED), Err(DropReason::OuterMalformed));
        let edited = |at: usize, value: u8| {
            let mut bytes = packet();
            bytes[at] = value;
            open(&bytes, 5, 30, vxlan::RESERVED)
        };
        assert_eq!(edited(10, 15), Err(DropReason::OuterMalformed));
        assert_eq!(edited(13, 0), Err(DropReason::VxlanHeader));
        assert_eq!(edited(20, 1), Err(DropReason::VxlanHeader));
        assert_eq!(edited(10, 16), Ok(Inside { end: 21, ..inside }));
    }

    proptest! {
        /// Whatever bytes come, an opened packet's frame lies inside the packet; an observer that recognizes one sees
        /// the network that the switch does.
        #[test]
        fn frames_lie_inside(bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(8), any::<u8>()], 8..64), reserved in any::<u64>()) {
            let opened = open(&bytes, 0, bytes.len(), reserved & vxlan::RESERVED);
            if let Ok(inside) = opened {
                prop_assert!(inside.start <= inside.end && inside.end <= bytes.len());
            }
            if let (Some((vni, _)), Ok(inside)) = (recognize(&bytes[8..]), opened) {
                prop_assert_eq!(vni, inside.vni);
            }
        }
    }
}
