//! Where each field of a slot of the kernel offload is, and the bytes of a tunnel packet that its programs read.
//!
//! This file and the engine's `tunnel` define these numbers. The programs get them from `bpf/layout.h`, which a test
//! here writes and compares; `bpf/cache.bpf.h` asserts that its structures have this layout.

use std::mem::size_of;

/// Words in a slot, and where each field is: `struct slot` of the program.
pub const SLOT_WORDS: usize = 32;
/// The word of the epoch in which the slot is valid.
pub const EPOCH: usize = 0;
/// The first word of the key.
pub const KEY: usize = 1;
/// Words of the key.
pub const KEY_WORDS: usize = 5;
/// The word of the hits.
pub const HITS: usize = 24;
/// The word of the hits whose output was gone.
pub const STRAY: usize = 25;

/// The output's offset in bytes.
pub const OUTPUT: usize = (KEY + KEY_WORDS) * size_of::<u64>();
/// The offset of the greatest length of the inner frame.
pub const LEN_MAX: usize = OUTPUT + 2;
/// The offset of the bits below.
pub const BITS: usize = LEN_MAX + 2;
/// The offset of the pseudo-header's sum without the length.
pub const PSEUDO: usize = BITS + 4;
/// The offset of the sum of the outer IPv4 header.
pub const OUTER_SUM: usize = PSEUDO + 4;
/// The offset of the outer header.
pub const OUTER: usize = OUTER_SUM + 4;
/// The offset of the IPv4 checksum's difference.
pub const IP_DELTA: usize = OUTER + engine::tunnel::OUTER_V4_LEN;
/// The offset of the transport checksum's difference.
pub const L4_DELTA: usize = IP_DELTA + 2;
/// The offset of the translated address.
pub const NAT: usize = L4_DELTA + 4;
/// The offset of the output's interface index.
pub const OUT_IFINDEX: usize = NAT + 4;
/// The offset of the new MAC addresses.
pub const MACS: usize = OUT_IFINDEX + 4;

/// Slots of a set.
pub const WAYS: usize = 2;
/// Bits of a set's number.
pub const SETS_BITS: u32 = 13;

/// A slot's count keeps frames above this bit and bytes below it.
pub const HIT_SHIFT: u32 = 38;

/// New MAC addresses, one hop less.
pub const BIT_ROUTED: u32 = 1;
/// The source address is translated.
pub const BIT_NAT_SOURCE: u32 = 2;
/// The destination address is translated.
pub const BIT_NAT_DEST: u32 = 4;
/// An outer header goes in front.
pub const BIT_PUSH: u32 = 8;
/// The outer header has the received hop limit, less one.
pub const BIT_RELAYED: u32 = 16;
/// The checksum may be unfinished.
pub const BIT_UNMARKED: u32 = 32;

/// Words of the cache's own map: its epoch, the keys of the hash, and whether it is on.
pub const CONTROL_WORDS: usize = 8;
/// The first word of the hash's keys.
pub const MIX: usize = 1;
/// The word that says whether the cache is on.
pub const ON: usize = 7;

// The programs copy the outer header and the MAC addresses by words.
const _: () = assert!(OUTER.is_multiple_of(8) && NAT.is_multiple_of(4) && MACS.is_multiple_of(8));

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use engine::limits::PORTS_MAX;
    use engine::tunnel::{OUTER_V4_LEN, UDP_AT_V4, VXLAN_AT_V4, vxlan};
    use engine::wire::l4;

    use super::*;

    const PUBLISHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/layout.h");

    fn header() -> String {
        let mut text = String::from(
            "// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause\n//\n\
             // Numbers that the programs share with the daemon (engine/src/tunnel, ports/afxdp/layout.rs).\n\
             // Written by `IVS_UPDATE=1 cargo test -p ivswitchd layout`; do not edit.\n#pragma once\n\n",
        );
        let numbers = [
            (
                "a tunnel packet over IPv4 without options",
                &[
                    ("OUTER_LEN", OUTER_V4_LEN),
                    ("OUTER_UDP_AT", UDP_AT_V4),
                    ("OUTER_UDP_LEN_AT", UDP_AT_V4 + l4::UDP_LEN_AT),
                    ("OUTER_VXLAN_AT", VXLAN_AT_V4),
                    ("OUTER_VNI_AT", VXLAN_AT_V4 + vxlan::VNI_AT),
                ][..],
            ),
            ("behind the UDP header of any tunnel packet", &[("VXLAN_LEN", vxlan::HEADER_LEN)]),
            (
                "sizes of the maps",
                &[
                    ("WAYS", WAYS),
                    ("SETS_BITS", SETS_BITS as usize),
                    ("OUTPUTS", PORTS_MAX),
                    ("HIT_SHIFT", HIT_SHIFT as usize),
                ],
            ),
            (
                "bits of a slot",
                &[
                    ("BIT_ROUTED", BIT_ROUTED as usize),
                    ("BIT_NAT_SOURCE", BIT_NAT_SOURCE as usize),
                    ("BIT_NAT_DEST", BIT_NAT_DEST as usize),
                    ("BIT_PUSH", BIT_PUSH as usize),
                    ("BIT_RELAYED", BIT_RELAYED as usize),
                    ("BIT_UNMARKED", BIT_UNMARKED as usize),
                ],
            ),
            (
                "offsets in bytes: of the fields of a slot",
                &[
                    ("SLOT_EPOCH_AT", EPOCH * 8),
                    ("SLOT_KEY_AT", KEY * 8),
                    ("SLOT_OUT_AT", OUTPUT),
                    ("SLOT_LEN_MAX_AT", LEN_MAX),
                    ("SLOT_BITS_AT", BITS),
                    ("SLOT_PSEUDO_AT", PSEUDO),
                    ("SLOT_OUTER_SUM_AT", OUTER_SUM),
                    ("SLOT_OUTER_AT", OUTER),
                    ("SLOT_IP_DELTA_AT", IP_DELTA),
                    ("SLOT_L4_DELTA_AT", L4_DELTA),
                    ("SLOT_NAT_AT", NAT),
                    ("SLOT_IFINDEX_AT", OUT_IFINDEX),
                    ("SLOT_MACS_AT", MACS),
                    ("SLOT_HITS_AT", HITS * 8),
                    ("SLOT_STRAY_AT", STRAY * 8),
                    ("SLOT_LEN", SLOT_WORDS * 8),
                ],
            ),
            (
                "of the fields of the cache's own map",
                &[
                    ("CACHE_EPOCH_AT", 0),
                    ("CACHE_MIX_AT", MIX * 8),
                    ("CACHE_ON_AT", ON * 8),
                    ("CACHE_LEN", CONTROL_WORDS * 8),
                ],
            ),
        ];
        for (what, list) in numbers {
            writeln!(text, "// {what}").unwrap();
            for (name, number) in list {
                writeln!(text, "#define {name} {number}").unwrap();
            }
        }
        writeln!(
            text,
            "// the first word of a VXLAN header, and of the VNI's word the bits that must be zero"
        )
        .unwrap();
        writeln!(text, "#define VXLAN_FIRST_WORD {:#010x}", vxlan::FIRST_WORD).unwrap();
        writeln!(text, "#define VXLAN_VNI_RESERVED {:#04x}", vxlan::RESERVED as u32).unwrap();
        text
    }

    /// The programs are built with the numbers that the daemon and the engine use. After a change of these:
    /// `IVS_UPDATE=1 cargo test -p ivswitchd layout`, then `bpf/build.sh`.
    #[test]
    fn the_programs_header_is_current() {
        if std::env::var_os("IVS_UPDATE").is_some() {
            std::fs::write(PUBLISHED, header()).unwrap();
        }
        let published = std::fs::read_to_string(PUBLISHED).unwrap_or_default();
        let how = "a number changed: `IVS_UPDATE=1 cargo test -p ivswitchd layout`, then bpf/build.sh";
        assert!(published == header(), "{how}");
    }
}
