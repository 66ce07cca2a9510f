//! Unfinished packets inside tunnels of the sender's own: an overlay over its NIC, and overlays inside that one.

use engine::command::*;
use engine::counters::DropReason;
use engine::frame::{GsoKind, Offload};
use engine::port::PortCaps;
use proptest::prelude::*;

use crate::nested::{Level, Nested, Transport, Tunnel, nested};
use crate::rvm::*;
use crate::{across, caps, pair};

/// A port that does not mark unfinished checksums, such as AF_XDP on a veth.
const UNMARKED: PortCaps = PortCaps { rx_csum_unmarked: true, ..PLAIN };

/// The frames that left by `to`. Finishes the checksums that were left to the device.
#[track_caller]
fn delivered(out: Vec<(PortId, Vec<u8>, Offload)>, to: PortId) -> Vec<Vec<u8>> {
    let finish = |(port, mut bytes, offload): (PortId, Vec<u8>, Offload)| {
        assert_eq!((port, offload.gso_kind), (to, GsoKind::None), "nobody can cut inside of tunnels");
        if offload.csum_start != 0 {
            let start = usize::from(offload.csum_start);
            assert_ne!(offload.csum_offset, 8, "a device takes it for a sum");
            let value = !smoltcp::wire::checksum::data(&bytes[start..]);
            let value = if value == 0 && offload.csum_offset == 6 { 0xffff } else { value };
            let at = start + usize::from(offload.csum_offset);
            bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }
        bytes
    };
    out.into_iter().map(finish).collect()
}

/// TCP in VXLAN over IPv4 without a checksum of its own, as a kernel's vxlan device sends it.
fn vxlan(payload: usize, size: u16) -> Nested {
    let level = Level {
        tunnel: Tunnel::Vxlan { flags: 8, tagged: false },
        v6: false,
        option: false,
        summed: false,
        ports: (50_000, 8472),
        id: 1,
    };
    Nested {
        dst: [2, 0, 0, 0, 0, 3],
        labels: 0,
        tags: 0,
        levels: vec![level],
        v6: false,
        routed: false,
        transport: Transport::Tcp,
        flags: 0x10,
        seq: 1,
        id: 7,
        payload: (0..payload).map(|n| (n % 251) as u8).collect(),
        size,
    }
}

/// GRE with a key. Its first bytes would also be a Geneve header with 128 bytes of options, behind which an
/// IP packet follows: the one two tunnels further in.
#[test]
fn a_key_of_gre_is_no_length_of_geneve() {
    let level = |tunnel, v6| Level { tunnel, v6, option: v6, summed: false, ports: (32_768, 69), id: 0 };
    let gre = || Tunnel::GreInUdp { key: true };
    let levels =
        vec![level(gre(), false), level(gre(), true), level(Tunnel::VxlanGpe { bridged: false }, true)];
    let n = Nested { levels, v6: true, ..vxlan(1000, 400) };
    let (mut rvm, _) = pair(false, false, WHOLE, PLAIN, PLAIN);
    assert_eq!(delivered(rvm.forward(DOOR, &[n.given(0)]), OTHER), n.finished());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// A marked packet arrives as its sender's stack would have finished it, for every set of offloads of the output.
    #[test]
    fn marked_is_finished(n in nested(6000), junk: u16, to in caps()) {
        let (mut rvm, _) = pair(false, false, WHOLE, to, PLAIN);
        // Outside tunnels, GSO packets stay whole; other tests cover those.
        let to_be_cut = n.levels.is_empty() && n.labels == 0;
        let expected = n.finished();
        let out = rvm.forward(DOOR, &[n.given(junk)]);
        if to_be_cut {
            prop_assert!(!out.is_empty());
            return Ok(());
        }
        prop_assert_eq!(delivered(out, OTHER), expected);
    }

    /// The same through our tunnel to another rVM: three tunnels of the sender, and ours around them.
    #[test]
    fn marked_crosses_the_tunnel(n in nested(6000), junk: u16, v6: bool, checksum: bool, uplinks in (caps(), caps()), to in caps()) {
        let n = Nested { dst: [2, 0, 0, 0, 0, 2], ..n };
        prop_assume!(!n.levels.is_empty() || n.labels > 0);
        let (mut a, _) = pair(v6, checksum, WHOLE, PLAIN, uplinks.0);
        let (_, mut b) = pair(v6, checksum, to, PLAIN, PortCaps { tx_uso: true, ..uplinks.1 });
        let out = across(a.forward(DOOR, &[n.given(junk)]), &mut b);
        // The receiving rVM may coalesce datagrams of equal length into one GSO packet again.
        prop_assume!(out.iter().all(|f| f.2.gso_kind == GsoKind::None));
        prop_assert_eq!(delivered(out, DOOR), n.finished());
    }

    /// On a port without marks the switch finds the unfinished checksum by its value: three tunnels deep, behind routing
    /// headers and labels.
    #[test]
    fn unmarked_is_found(n in nested(800), warm: bool) {
        let n = Nested { size: 0, ..n };
        let (mut rvm, _) = pair(false, false, UNMARKED, PLAIN, PLAIN);
        let (finished, given) = (n.finished(), n.given(0).0);
        if warm {
            // The flow cache knows the flow from its finished packets.
            rvm.forward(DOOR, &[(finished[0].clone(), Offload::NONE)]);
        }
        let out = rvm.forward(DOOR, &[(given, Offload::NONE)]);
        prop_assert_eq!(delivered(out, OTHER), finished);
    }

    /// A finished packet passes unchanged, and so does one with a corrupted payload.
    #[test]
    fn finished_is_not_touched(n in nested(800), edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)) {
        let n = Nested { size: 0, ..n };
        let mut frame = n.finished().remove(0);
        let start = frame.len() - n.payload.len();
        let (mut rvm, _) = pair(false, false, UNMARKED, PLAIN, PLAIN);
        let out = rvm.forward(DOOR, &[(frame.clone(), Offload::NONE)]);
        prop_assert_eq!(delivered(out, OTHER), vec![frame.clone()]);
        for (at, value) in edits {
            let at = start + at.index(n.payload.len());
            frame[at] = value;
        }
        let out = rvm.forward(DOOR, &[(frame.clone(), Offload::NONE)]);
        prop_assert_eq!(delivered(out, OTHER), vec![frame]);
    }

    /// Datagrams of any bytes pass unchanged, with and without a checksum.
    #[test]
    fn datagrams_are_not_touched(payload in proptest::collection::vec(any::<u8>(), 0..200), first in prop_oneof![Just(8u8), Just(0x45), Just(0x60), Just(0), any::<u8>()], summed: bool) {
        let mut payload = payload;
        if let Some(byte) = payload.first_mut() { *byte = first; }
        let n = Nested { levels: vec![], transport: Transport::Udp, payload, ..vxlan(1, 0) };
        let mut frame = n.finished().remove(0);
        if !summed { frame[40..42].fill(0); }
        let (mut rvm, _) = pair(false, false, UNMARKED, PLAIN, PLAIN);
        let out = rvm.forward(DOOR, &[(frame.clone(), Offload::NONE)]);
        prop_assert_eq!(delivered(out, OTHER), vec![frame]);
    }

    /// Any facts about a frame in tunnels, and any bytes in its headers: no panic, and every frame is
    /// counted.
    #[test]
    fn garbage_inside(n in nested(3000), facts in (any::<u16>(), any::<u16>(), 0u8..4, any::<u16>()), near: bool, unmarked: bool,
                      edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), to in caps(), peer: bool) {
        let n = Nested { dst: [2, 0, 0, 0, 0, if peer { 2 } else { 3 }], ..n };
        let (mut bytes, mut offload) = n.given(facts.0);
        let kinds = [GsoKind::None, GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp];
        match facts.2 {
            _ if unmarked => offload = Offload::NONE,
            _ if !near => offload = Offload { csum_start: facts.0 % 200, csum_offset: facts.1 % 20, gso_kind: kinds[usize::from(facts.2)], gso_size: facts.3, ..offload },
            0 => offload.csum_start = offload.csum_start.wrapping_add(facts.0 % 9).wrapping_sub(4),
            1 => offload.csum_offset = facts.1 % 20,
            2 => offload.gso_kind = kinds[usize::from(facts.0 % 4)],
            _ => offload.gso_size = facts.3 % 64,
        }
        let headers = bytes.len() - n.payload.len();
        for (i, value) in edits {
            bytes[i.index(headers)] = value;
        }
        let (mut rvm, _) = pair(false, true, if unmarked { UNMARKED } else { WHOLE }, to, to);
        rvm.forward(DOOR, &[(bytes.clone(), offload)]);
        rvm.forward(UPLINK, &[(bytes, offload)]);
    }
}

/// In one frame of 65,536 the right checksum equals the sum of the pseudo-header. The frame passes unchanged.
#[test]
fn right_and_equal_to_the_pseudo_header() {
    for level in 0..=1 {
        let mut n = Nested { payload: vec![0; 2], ..vxlan(2, 0) };
        n.levels.truncate(level);
        // One of the 65,536 values of two payload bytes makes the checksum equal to that of an unfinished
        // packet.
        let found = (0..=u16::MAX).find_map(|value| {
            n.payload = value.to_be_bytes().to_vec();
            let finished = n.finished().remove(0);
            (finished == n.given(0).0).then_some(finished)
        });
        let frame = found.expect("one of them");
        let (mut rvm, _) = pair(false, false, UNMARKED, PLAIN, PLAIN);
        let out = rvm.forward(DOOR, &[(frame.clone(), Offload::NONE)]);
        assert_eq!(delivered(out, OTHER), vec![frame]);
    }
}

/// A datagram may carry a captured frame with an unfinished checksum. Its own checksum shows that the bytes
/// are as sent.
#[test]
fn a_capture_in_a_tunnel_with_a_checksum() {
    let mut n = vxlan(100, 0);
    n.levels[0].summed = true;
    let (captured, offload) = n.given(0);
    let heart = usize::from(offload.csum_start) - 20 - 14 - 8;
    // The same bytes as the payload of a plain socket, covered by its checksum.
    let carrier =
        Nested { levels: vec![], transport: Transport::Udp, payload: captured[heart..].to_vec(), ..n };
    for (frame, expected) in
        [(carrier.finished().remove(0), carrier.finished()), (carrier.given(0).0, carrier.finished())]
    {
        let (mut rvm, _) = pair(false, false, UNMARKED, PLAIN, PLAIN);
        let out = rvm.forward(DOOR, &[(frame, Offload::NONE)]);
        assert_eq!(delivered(out, OTHER), expected);
    }
}

/// Facts about headers that the switch cannot read have a drop reason of their own.
#[test]
fn unknown_headers() {
    let (mut bytes, offload) = vxlan(3000, 1000).given(0);
    bytes[42] = 0xf0;
    let gre = |numbered| Nested {
        levels: vec![Level {
            tunnel: Tunnel::Gre { key: false, numbered, checksum: false, bridged: false },
            ..vxlan(1, 0).levels.remove(0)
        }],
        ..vxlan(3000, 1000)
    };
    let sctp = Nested { transport: Transport::Sctp, ..vxlan(100, 0) };
    let (mut unknown, sctp) = sctp.given(0);
    unknown[42] = 0xf0;
    for (frame, facts) in [(bytes, offload), gre(true).given(0), (unknown, sctp)] {
        let (mut rvm, _) = pair(false, false, WHOLE, PLAIN, PLAIN);
        assert_eq!(rvm.forward(DOOR, &[(frame, facts)]), vec![]);
        assert_eq!(rvm.drops(DOOR, DropReason::OffloadUnknown), 1);
    }
    let (mut rvm, _) = pair(false, false, WHOLE, PLAIN, PLAIN);
    assert_eq!(rvm.forward(DOOR, &[gre(false).given(0)]).len(), 3, "and this is known");
}

/// A GSO packet of 64 KiB inside the sender's tunnel crosses our tunnel to another rVM in two GSO packets of the uplink.
#[test]
fn a_nested_super_frame_in_the_tunnel() {
    let n = Nested { dst: [2, 0, 0, 0, 0, 2], ..vxlan(60_000, 1300) };
    let (mut a, mut b) = pair(false, true, WHOLE, PLAIN, WHOLE);
    let sent = a.forward(DOOR, &[n.given(0)]);
    assert!(sent.len() <= 2 && sent[0].2.gso_kind == GsoKind::Udp, "{}", sent.len());
    let out = across(sent, &mut b);
    assert_eq!(delivered(out, DOOR), n.finished());
}

/// A GSO packet without checksum facts (LRO, GRO by lists) is segmented like any other.
#[test]
fn merged_without_a_mark() {
    for transport in [Transport::Tcp, Transport::Udp] {
        let n = Nested { levels: vec![], transport, ..vxlan(3000, 1000) };
        let (bytes, offload) = n.given(0);
        let (mut rvm, _) = pair(false, false, WHOLE, PLAIN, PLAIN);
        let out = rvm.forward(DOOR, &[(bytes.clone(), Offload { csum_start: 0, csum_offset: 0, ..offload })]);
        assert_eq!(delivered(out, OTHER), n.finished());
        // An output that takes GSO packets gets it with a partial checksum.
        let (mut rvm, _) = pair(false, false, WHOLE, WHOLE, PLAIN);
        let mut spoilt = bytes.clone();
        spoilt[usize::from(offload.csum_start + offload.csum_offset)] ^= 0x55;
        let out = rvm.forward(DOOR, &[(spoilt, Offload { csum_start: 0, csum_offset: 0, ..offload })]);
        assert_eq!(out, vec![(OTHER, bytes, offload)]);
    }
}

/// AccECN keeps CWR on every segment, RFC 3168 on the first one alone. Outputs cannot express the former, so the switch
/// segments such a packet itself.
#[test]
fn congestion_window_reduced() {
    let n = Nested { levels: vec![], flags: 0x90, ..vxlan(3000, 1000) };
    let cwr = |frame: &Vec<u8>| frame[47] & 0x80 != 0;
    let run = |offload: Offload, to| {
        let (mut rvm, _) = pair(false, false, WHOLE, to, PLAIN);
        rvm.forward(DOOR, &[(n.given(0).0, offload)])
    };
    let offload = n.given(0).1;
    let classic = delivered(run(offload, PLAIN), OTHER);
    assert_eq!(classic.iter().map(cwr).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(run(offload, WHOLE).len(), 1);
    let counts = Offload { cwr_in_all: true, ..offload };
    for to in [PLAIN, WHOLE] {
        let all = delivered(run(counts, to), OTHER);
        assert_eq!(all.iter().map(cwr).collect::<Vec<_>>(), [true; 3]);
    }
}

/// A kernel hands GSO packets of a local neighbour's tunnel to a UDP socket as one datagram, without the segment size. TCP is
/// segmented at a size that passes everywhere. The boundaries of UDP datagrams are lost, so they are dropped.
#[test]
fn super_frames_by_a_udp_socket() {
    let socket = PortCaps { rx_csum_unmarked: true, tx_csum: true, tx_uso: true, ..PLAIN };
    let wrapped = |n: &Nested| {
        let packet = etherparse::PacketBuilder::ethernet2(mac(12).0, mac(11).0)
            .ipv4([10, 0, 0, 12], [10, 0, 0, 11], 64)
            .udp(50_000, 4789);
        let mut bytes = Vec::new();
        packet.write(&mut bytes, &[&[8, 0, 0, 0, 0, 0, 100, 0][..], &n.given(0).0].concat()).unwrap();
        bytes[40..42].fill(0);
        bytes
    };
    for v6 in [false, true] {
        for levels in [0, 1] {
            let mut n = Nested { v6, dst: mac(1).0, flags: 0x18, ..vxlan(20_000, 0) };
            n.levels.truncate(levels);
            let headers = n.given(0).0.len() - n.payload.len() - 14;
            let (mut rvm, _) = pair(false, false, PLAIN, PLAIN, socket);
            let out = rvm.forward(UPLINK, &[(wrapped(&n), Offload::NONE)]);
            let cut = Nested { size: (1280 - headers) as u16, ..n };
            assert_eq!(delivered(out, DOOR), cut.finished());
        }
    }
    let n = Nested { levels: vec![], transport: Transport::Udp, dst: mac(1).0, ..vxlan(20_000, 0) };
    for facts in [
        Offload::NONE,
        Offload { csum_start: 34, csum_offset: 6, gso_kind: GsoKind::Udp, gso_size: 1000, ..Offload::NONE },
    ] {
        let (mut rvm, _) = pair(false, false, PLAIN, PLAIN, socket);
        assert_eq!(rvm.forward(UPLINK, &[(wrapped(&n), facts)]), vec![]);
        assert_eq!(rvm.drops(UPLINK, DropReason::OffloadUnknown), 1, "{facts:?}");
    }
}
