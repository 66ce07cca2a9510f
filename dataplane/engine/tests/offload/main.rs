//! GSO packets and partial checksums through the whole switch. The measure is a plain reference stack
//! (`reference.rs`). With any capabilities of the ports, the bytes that arrive equal those that would have
//! arrived if the sender had segmented and summed everything itself.

mod inside;
mod nested;
mod packet;
mod reference;
mod rvm;

use engine::command::*;
use engine::counters::DropReason;
use engine::frame::{GsoKind, HeapPool, Offload};
use engine::port::PortCaps;
use packet::{Packet, packet};
use proptest::prelude::*;
use reference::{assert_right, segments};
use rvm::*;

/// The frames that arrive at each port, with every GSO packet segmented by the reference stack.
fn arrivals(out: Vec<(PortId, Vec<u8>, Offload)>) -> Vec<(PortId, Vec<u8>)> {
    let cut = |(port, bytes, offload): (PortId, Vec<u8>, Offload)| {
        let segments = segments(&bytes, offload).expect("the switch made these facts");
        segments.into_iter().map(move |bytes| (port, bytes)).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = out.into_iter().flat_map(cut).collect();
    all.iter().for_each(|(_, bytes)| assert_right(bytes));
    all.sort_by_key(|(port, _)| *port);
    all
}

fn caps() -> impl Strategy<Value = PortCaps> {
    prop_oneof![
        Just(PLAIN),
        Just(CSUM),
        Just(WHOLE),
        Just(PortCaps { tx_uso: false, ..WHOLE }),
        Just(PortCaps { tx_tso: false, ..WHOLE })
    ]
}

/// Two rVMs: station 1 at the first one's door, station 2 at the second one's, station 3 at the first one's
/// other door.
fn pair(v6: bool, checksum: bool, door: PortCaps, other: PortCaps, uplink: PortCaps) -> (Rvm, Rvm) {
    let make = |n: u8| {
        let peer = Location::Peer(PeerId(0));
        let at = |here: u8| if here == n { Location::Port(DOOR) } else { peer };
        Rvm::new(n, v6, checksum)
            .caps(&[(DOOR, door), (OTHER, other), (UPLINK, uplink), (PUBLIC_DOOR, door)])
            .at(PRIVATE, mac(1), at(11))
            .at(PRIVATE, mac(2), at(12))
            .at(PRIVATE, mac(3), if n == 11 { Location::Port(OTHER) } else { peer })
    };
    (make(11), make(12))
}

/// Passes all frames on the uplink of one rVM to the other.
fn across(from: Vec<(PortId, Vec<u8>, Offload)>, to: &mut Rvm) -> Vec<(PortId, Vec<u8>, Offload)> {
    let frames: Vec<Given> = from.into_iter().filter(|f| f.0 == UPLINK).map(|f| (f.1, f.2)).collect();
    to.forward(UPLINK, &frames)
}

/// The same frames, segmented and summed by the reference stack.
fn plain(frames: &[Given]) -> Vec<Given> {
    let each = |(bytes, offload): &Given| segments(bytes, *offload).expect("good facts");
    frames.iter().flat_map(each).map(|bytes| (bytes, Offload::NONE)).collect()
}

fn floating() -> Command {
    Command::SetFloating(
        FloatingId(0),
        FloatingConfig {
            ip: ip("56.0.0.11"),
            vni: vni(PUBLIC),
            gateway: Gateway::Here { reality: ip("10.0.0.11") },
            inside: Some((vni(PRIVATE), ip("192.168.1.2"))),
            only: vec![],
            except: vec![],
        },
    )
}

/// A station behind the door announces the inside address.
fn announce(rvm: &mut Rvm) {
    let mut arp = vec![0xff; 6];
    arp.extend(mac(1).0);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(mac(1).0);
    arp.extend([192, 168, 1, 2, 0, 0, 0, 0, 0, 0, 192, 168, 1, 2]);
    rvm.forward(DOOR, &[(arp, Offload::NONE)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Door to door on one rVM, several frames in a batch.
    #[test]
    fn door_to_door(packets in proptest::collection::vec(packet(6000), 1..4), to in caps()) {
        let frames: Vec<Given> = packets.iter().map(|p| Packet { dst_mac: mac(3), ..p.clone() }.given()).collect();
        let (mut rvm, _) = pair(false, false, WHOLE, to, PLAIN);
        let out = rvm.forward(DOOR, &frames);
        let (mut small, _) = pair(false, false, PLAIN, PLAIN, PLAIN);
        prop_assert_eq!(arrivals(out), arrivals(small.forward(DOOR, &plain(&frames))));
    }

    /// Across VXLAN: the outer packets are correct with any segmentation, and the second rVM passes the
    /// original frames to its door. The sender counts the bytes of every segment inside the tunnel. The
    /// receiver counts those of its resulting frames, so it counts the headers only once where it coalesces.
    #[test]
    fn across_vxlan(packets in proptest::collection::vec(packet(20_000), 1..3), v6: bool, checksum: bool,
                    uplinks in (caps(), caps()), to in caps()) {
        let frames: Vec<Given> = packets.iter().map(Packet::given).collect();
        let (mut a, _) = pair(v6, checksum, WHOLE, PLAIN, uplinks.0);
        let (_, mut b) = pair(v6, checksum, to, PLAIN, uplinks.1);
        let sent = a.forward(DOOR, &frames);
        let wire = arrivals(sent.clone());
        // A receiver that does not take GSO packets never gets any: its device segments them.
        let sent = if uplinks.1.tx_uso { sent } else { wire.into_iter().map(|(p, b)| (p, b, Offload::NONE)).collect() };
        let out = across(sent, &mut b);
        let expected: Vec<_> = plain(&frames).into_iter().map(|(bytes, _)| (DOOR, bytes)).collect();
        let inside: u64 = expected.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        prop_assert_eq!(a.peer().tx.bytes, inside);
        let received = b.peer().rx.bytes;
        prop_assert!(received == inside || uplinks.1.tx_uso && received < inside, "{} of {}", received, inside);
        prop_assert_eq!(arrivals(out), expected);
    }

    /// A floating IP in both directions: a GSO packet is translated like its segments.
    #[test]
    fn floating_ip(p in packet(9000), out_bound: bool, door in caps(), uplink in caps()) {
        let p = Packet { tags: vec![], size: if p.size == 0 { 0 } else { p.size.min(1300) }, ..p };
        let p = if out_bound {
            Packet { dst_mac: router_mac(PRIVATE), from: "192.168.1.2".into(), to: "203.0.113.9".into(), ..p }
        } else {
            Packet { src_mac: mac(1), dst_mac: mac(11), from: "203.0.113.9".into(), to: "10.0.0.11".into(), ..p }
        };
        let frames = [p.given()];
        let at = if out_bound { DOOR } else { UPLINK };
        let run = |door, uplink, frames: &[Given]| {
            let (mut rvm, _) = pair(false, false, door, PLAIN, uplink);
            rvm.apply(floating());
            announce(&mut rvm);
            arrivals(rvm.forward(at, frames))
        };
        let expected = run(PLAIN, PLAIN, &plain(&frames));
        prop_assert!(!expected.is_empty());
        prop_assert_eq!(run(door, uplink, &frames), expected);
    }

    /// Small segments of a few flows, some corrupted, go to a port that takes GSO packets. Segmented again,
    /// each coalesced frame equals the original frames, in order within each flow.
    #[test]
    fn merging_is_undone_by_cutting(flows in proptest::collection::vec((packet(9000), any::<bool>()), 1..4),
                                    spoil in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..4),
                                    order in proptest::collection::vec(any::<u8>(), 64), tunnel: bool, warm: bool) {
        let mut queues: Vec<Vec<Given>> = flows.iter().enumerate().map(|(n, (p, wild))| {
            let flags = if *wild { p.flags } else { 0x10 | p.flags & 8 };
            let p = Packet { sport: 4000 + n as u16, flags, size: p.size.max(500), ..p.clone() };
            plain(&[p.given()]).into_iter().rev().collect()
        }).collect();
        let mut frames = Vec::new();
        for n in order {
            let at = usize::from(n) % queues.len();
            frames.extend(queues[at].pop());
        }
        for (frame, at, value) in &spoil {
            let n = frame.index(frames.len());
            let bytes = &mut frames[n].0;
            let at = at.index(bytes.len());
            // Not the Ethernet header or a tag, which decide the output.
            if at >= 22 { bytes[at] = *value; }
        }
        let (mut a, _) = pair(false, false, PLAIN, PLAIN, PLAIN);
        let (_, mut b) = pair(false, false, WHOLE, PLAIN, PLAIN);
        let (mut one, _) = pair(false, false, WHOLE, WHOLE, PLAIN);
        let mut run = || {
            if tunnel {
                return across(a.forward(DOOR, &frames), &mut b);
            }
            for (bytes, _) in &mut frames {
                bytes[5] = 3;
            }
            one.forward(DOOR, &frames)
        };
        let mut out = run();
        if warm {
            // The flow cache has some of the verdicts, but not others.
            out = run();
        }
        let mut got: Vec<Vec<u8>> = out.into_iter().flat_map(|(_, bytes, offload)| segments(&bytes, offload).unwrap()).collect();
        let mut want: Vec<Vec<u8>> = frames.into_iter().map(|(bytes, _)| bytes).collect();
        // A stable sort keeps the order within a flow: Ethernet header and tags, addresses, source port.
        let flow = |bytes: &Vec<u8>| {
            let mut at = 12;
            while bytes[at..at + 2] == [0x81, 0] {
                at += 4;
            }
            let (l4, addresses) = if bytes[at..at + 2] == [8, 0] { (at + 22, 8) } else { (at + 42, 32) };
            (bytes[..at].to_vec(), bytes[l4 - addresses..l4 + 2].to_vec())
        };
        got.sort_by_key(flow);
        want.sort_by_key(flow);
        prop_assert_eq!(got, want);
    }

    /// Random facts and random edits: no panic, and every frame that arrives has right checksums, unless it
    /// came in finished and wrong.
    #[test]
    fn garbage_facts(p in packet(3000), facts in (any::<u16>(), any::<u16>(), 0u8..4, any::<u16>()), near: bool,
                     edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
                     to in caps(), at in prop_oneof![Just(DOOR), Just(UPLINK)], peer: bool, nat: bool) {
        let p = Packet { dst_mac: if nat { router_mac(PRIVATE) } else if peer { mac(2) } else { mac(3) }, ..p };
        let (mut bytes, good) = p.given();
        let kinds = [GsoKind::None, GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp];
        let mut offload = good;
        match facts.2 {
            _ if !near => offload = Offload { csum_start: facts.0, csum_offset: facts.1, gso_kind: kinds[usize::from(facts.2)], gso_size: facts.3, ..Offload::NONE },
            0 => offload.csum_start = offload.csum_start.wrapping_add(facts.0 % 9).wrapping_sub(4),
            1 => offload.csum_offset = facts.1 % 20,
            2 => offload.gso_kind = kinds[usize::from(facts.0 % 4)],
            _ => offload.gso_size = facts.3 % 64,
        }
        for (i, value) in edits {
            let i = i.index(bytes.len().min(80));
            bytes[i] = value;
        }
        let (mut rvm, _) = pair(false, true, WHOLE, to, to);
        rvm.apply(floating());
        announce(&mut rvm);
        rvm.forward(at, &[(bytes, offload)]);
    }
}

/// Each kind of wrong fact is refused by itself.
#[test]
fn impossible_facts_are_dropped() {
    let good = Packet { dst_mac: mac(3), ..Packet::tcp(false, 4000, 1000) }.given();
    let udp = Packet { dst_mac: mac(3), tcp: false, ..Packet::tcp(true, 4000, 1000) }.given();
    let with = |given: &Given, change: fn(&mut Offload)| {
        let (bytes, mut offload) = given.clone();
        change(&mut offload);
        (bytes, offload)
    };
    let mut cases: Vec<Given> = vec![
        with(&good, |o| o.gso_size = 0),
        with(&good, |o| o.gso_size = 7),
        with(&good, |o| o.gso_kind = GsoKind::TcpV6),
        with(&good, |o| o.gso_kind = GsoKind::Udp),
        with(&udp, |o| o.gso_kind = GsoKind::TcpV6),
        with(&good, |o| o.csum_start += 2),
        with(&good, |o| o.csum_start = 65_535),
        with(&good, |o| o.csum_offset = 6),
        with(&good, |o| o.csum_offset = 65_535),
        with(&good, |o| (o.gso_kind, o.csum_start) = (GsoKind::None, 14)),
        with(&good, |o| (o.gso_kind, o.csum_start, o.csum_offset) = (GsoKind::None, 100, 16)),
        with(&udp, |o| (o.gso_kind, o.csum_start, o.csum_offset) = (GsoKind::None, 60, 0)),
        with(&udp, |o| (o.gso_kind, o.csum_start, o.csum_offset) = (GsoKind::None, 62, 4000)),
    ];
    // A TCP header longer than the packet; shorter than the minimum; a UDP length that differs from the
    // packet's.
    for (given, at, value) in [(&good, 46, 0xff), (&good, 46, 0x40), (&udp, 58, 0)] {
        let mut bytes = given.0.clone();
        bytes[at] = value;
        if value == 0xff {
            bytes.truncate(90);
            bytes[16..18].copy_from_slice(&76u16.to_be_bytes());
        }
        cases.push((bytes, given.1));
    }
    // A fragment, an ARP packet, garbage.
    let mut fragment = good.clone();
    fragment.0[20] |= 0x20;
    cases.push(fragment);
    cases.push(([&[0xff; 6][..], &mac(1).0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0; 20]].concat(), good.1));
    for (n, case) in cases.iter().enumerate() {
        let (mut rvm, _) = pair(false, false, WHOLE, WHOLE, PLAIN);
        let out = rvm.forward(DOOR, std::slice::from_ref(case));
        assert_eq!(out, vec![], "case {n}: {:?}", case.1);
        assert_eq!(rvm.drops(DOOR, DropReason::OffloadInvalid), 1, "case {n}: {:?}", case.1);
    }
    let (mut rvm, _) = pair(false, false, WHOLE, WHOLE, PLAIN);
    assert_eq!(rvm.forward(DOOR, &[good, udp]).len(), 2, "and these are good");
}

/// A sender's own tunnel leaves the inner checksum to its device: the switch passes it on, or finishes it
/// where no device will.
#[test]
fn a_checksum_inside_a_senders_tunnel() {
    let inner = Packet::tcp(false, 300, 0);
    let (inner_bytes, inner_offload) = inner.given();
    let outer = Packet {
        tcp: false,
        payload: [&[8, 0, 0, 0, 0, 0, 9, 0][..], &inner_bytes].concat(),
        dst_mac: mac(3),
        ..Packet::tcp(false, 0, 0)
    };
    let mut frame = plain(&[outer.given()]).remove(0);
    let start = frame.0.len() - inner_bytes.len();
    frame.1 = Offload { csum_start: inner_offload.csum_start + start as u16, ..inner_offload };
    // The sender's flags say that the outer checksum was not computed.
    frame.0[40..42].fill(0);
    let (mut rvm, _) = pair(false, false, WHOLE, PLAIN, PLAIN);
    let out = rvm.forward(DOOR, std::slice::from_ref(&frame));
    assert_eq!(out.len(), 1);
    assert_right(&out[0].1[start..]);
    assert_eq!((&out[0].1[..start], out[0].2), (&frame.0[..start], Offload::NONE));
    let (mut rvm, _) = pair(false, false, WHOLE, WHOLE, PLAIN);
    assert_eq!(rvm.forward(DOOR, std::slice::from_ref(&frame)), vec![(OTHER, frame.0.clone(), frame.1)]);
    let (mut a, mut b) = pair(false, false, WHOLE, PLAIN, PLAIN);
    frame.0[5] = 2;
    let out = across(a.forward(DOOR, std::slice::from_ref(&frame)), &mut b);
    assert_right(&out[0].1[start..]);
}

/// 64 KiB from door to door stay one frame. Only the value in the checksum field is recomputed.
#[test]
fn a_super_frame_is_kept_whole() {
    let given = Packet { dst_mac: mac(3), tags: vec![7], ..Packet::tcp(true, 65_000, 1400) }.given();
    let (mut rvm, _) = pair(false, false, WHOLE, WHOLE, PLAIN);
    assert_eq!(rvm.forward(DOOR, std::slice::from_ref(&given)), vec![(OTHER, given.0.clone(), given.1)]);
    let mut lied = given.clone();
    let field = usize::from(given.1.csum_start + given.1.csum_offset);
    lied.0[field] ^= 0x55;
    assert_eq!(rvm.forward(DOOR, &[lied]), vec![(OTHER, given.0, given.1)]);
    let c = rvm.switch.counters();
    assert_eq!((c.rx, c.tx, c.segmented, c.coalesced), (2, 2, 0, 0));
}

/// 64 KiB across VXLAN: two tunnel GSO packets leave, and the other door gets one GSO packet again.
#[test]
fn a_super_frame_crosses_the_tunnel_whole() {
    for v6 in [false, true] {
        let given = Packet::tcp(v6, 64_000, 1400).given();
        let (mut a, mut b) = pair(v6, true, WHOLE, PLAIN, WHOLE);
        let sent = a.forward(DOOR, std::slice::from_ref(&given));
        assert_eq!(sent.len(), 2);
        assert!(sent.iter().all(|(port, _, o)| *port == UPLINK && o.gso_kind == GsoKind::Udp));
        assert_eq!(a.switch.counters().segmented, 1);
        assert_eq!(across(sent, &mut b), vec![(DOOR, given.0, given.1)]);
        let c = b.switch.counters();
        assert_eq!((c.rx, c.tx, c.segmented, c.coalesced), (2, 1, 0, 1));
        assert_eq!(b.switch.port_counters(UPLINK).unwrap().rx_frames, 2);
    }
}

/// An uplink that takes small frames only: 46 packets leave, and the other door still gets one GSO packet.
#[test]
fn small_tunnel_packets_are_merged() {
    let given = Packet::tcp(false, 64_000, 1400).given();
    let (mut a, mut b) = pair(false, true, WHOLE, PLAIN, PLAIN);
    let sent = a.forward(DOOR, std::slice::from_ref(&given));
    assert_eq!((sent.len(), a.switch.counters().segmented), (46, 45));
    // The second time the verdict comes from the flow cache.
    for time in 1..=2 {
        assert_eq!(across(sent.clone(), &mut b), vec![(DOOR, given.0.clone(), given.1)]);
        assert_eq!(b.switch.counters().coalesced, 45 * time);
    }
    assert!(b.switch.remembered() > 0);
}

/// Coalescing does not hide a bad checksum: the frame passes unchanged, and the frames around it are
/// coalesced.
#[test]
fn a_bad_checksum_is_not_merged() {
    let given = Packet { dst_mac: mac(3), ..Packet::tcp(false, 14_000, 1400) }.given();
    // In the payload, and in the IPv4 header's checksum.
    for at in [200, 24] {
        let mut small = plain(std::slice::from_ref(&given));
        small[4].0[at] ^= 1;
        let (mut rvm, _) = pair(false, false, PLAIN, WHOLE, PLAIN);
        let out = rvm.forward(DOOR, &small);
        let shape: Vec<_> = out.iter().map(|(_, bytes, o)| (bytes.len(), o.gso_kind)).collect();
        let headers = small[0].0.len() - 1400;
        let run = |n: usize| (headers + n * 1400, if n > 1 { GsoKind::TcpV4 } else { GsoKind::None });
        assert_eq!(shape, [run(4), run(1), run(5)]);
        assert_eq!(out[1].1, small[4].0);
    }
}

/// The MTU applies to segments: a GSO packet whose segments fit passes; the sender of one with longer
/// segments gets an error.
#[test]
fn the_mtu_is_the_segments() {
    let (mut a, _) = pair(false, false, WHOLE, PLAIN, PLAIN);
    // 1500 at the door; 1600 less 50 in the tunnel.
    let fits = Packet { dst_mac: mac(3), timestamps: false, ..Packet::tcp(false, 9000, 1460) };
    assert_eq!(a.forward(DOOR, &[fits.given()]).len(), 7);
    let longer = Packet { size: 1461, ..fits.clone() };
    let told = a.forward(DOOR, &[longer.given()]);
    assert_eq!((told.len(), told[0].0, &told[0].1[34..36]), (1, DOOR, &[3, 4][..]), "fragmentation needed");
    assert_eq!(&told[0].1[44..46], &1501u16.to_be_bytes(), "the quoted packet is a segment");
    assert_right(&told[0].1);
    let giant = Packet { size: 1469, ..fits.clone() };
    assert_eq!(a.forward(DOOR, &[giant.given()]), vec![]);
    let tagged = Packet { tags: vec![5], ..fits };
    assert_eq!(a.forward(DOOR, &[tagged.given()]).len(), 7);
    a.apply(Command::SetPeer(
        PeerId(0),
        PeerConfig {
            address: ip("10.0.0.12"),
            vnis: vec![vni(PRIVATE)],
            via: None,
            spoke: false,
            mtu: 1450,
            fragment: false,
            outer: engine::command::OuterIp::default(),
        },
    ));
    let over = Packet { timestamps: false, ..Packet::tcp(true, 9000, 1400) };
    let told = a.forward(DOOR, &[over.given()]);
    assert_eq!(told.len(), 1, "packet too big");
    assert_eq!(
        (told[0].0, &told[0].1[54..56], &told[0].1[60..62]),
        (DOOR, &[2, 0][..], &1400u16.to_be_bytes()[..])
    );
    assert_eq!(&told[0].1[66..68], &1420u16.to_be_bytes(), "the quoted packet is a segment: 20 + 1400");
    assert_right(&told[0].1);
    assert_eq!(a.drops(DOOR, DropReason::TooBig), 2);
    assert_eq!(a.drops(DOOR, DropReason::Giant), 1);
    let under = Packet { size: 1340, ..over };
    assert_eq!(a.forward(DOOR, &[under.given()]).len(), 7);
}

/// The pool is exhausted in the middle of a segmentation: the finished segments leave, the rest is counted,
/// and no slot leaks.
#[test]
fn slots_run_out_in_the_middle() {
    for (to, n) in [(mac(3), 5), (mac(2), 5)] {
        let given = Packet { dst_mac: to, ..Packet::tcp(false, 14_000, 1400) }.given();
        let (mut rvm, _) = pair(false, false, WHOLE, PLAIN, PLAIN);
        rvm.pool = HeapPool::new(n, 2);
        let out = rvm.forward(DOOR, &[given]);
        assert_eq!(out.len(), n as usize);
        assert_eq!(rvm.drops(DOOR, DropReason::PoolExhausted), 10 - u64::from(n));
        assert_eq!(rvm.switch.counters().segmented, 9);
    }
    // A tunnel GSO packet whose datagrams cannot be coalesced also needs slots.
    let frames: Vec<Given> = plain(&[Packet { flags: 0x12, ..Packet::tcp(false, 14_000, 1400) }.given()]);
    let (mut a, mut b) = pair(false, true, WHOLE, PLAIN, WHOLE);
    let sent = a.forward(DOOR, &[Packet { flags: 0x12, ..Packet::tcp(false, 14_000, 1400) }.given()]);
    assert_eq!(sent.len(), 1);
    b.pool = HeapPool::new(4, 1);
    let out = across(sent, &mut b);
    assert_eq!(out.len(), 5);
    assert!(out.iter().zip(&frames).all(|(got, sent)| got.1 == sent.0));
    assert_eq!(b.drops(UPLINK, DropReason::PoolExhausted), 5);
    let c = b.switch.counters();
    assert_eq!((c.rx, c.segmented, c.tx, c.dropped), (1, 9, 5, 5));
    // Without a large slot, frames are not coalesced and none is lost.
    let small = plain(&[Packet { dst_mac: mac(3), ..Packet::tcp(false, 14_000, 1400) }.given()]);
    let (mut rvm, _) = pair(false, false, PLAIN, WHOLE, PLAIN);
    rvm.pool = HeapPool::new(64, 0);
    assert_eq!(rvm.forward(DOOR, &small).len(), 10);
}

/// A transmit queue is bounded in segments: a GSO packet that exceeds the bound loses its tail, which is
/// counted.
#[test]
fn the_queue_counts_segments() {
    let given = Packet { dst_mac: mac(3), ..Packet::tcp(false, 50_000, 100) }.given();
    let (mut rvm, _) = pair(false, false, WHOLE, PLAIN, PLAIN);
    let out = rvm.forward(DOOR, &[given.clone(), given]);
    assert_eq!(out.len(), 512);
    assert_eq!(rvm.drops(OTHER, DropReason::TxQueueFull), 1000 - 512);
    assert!(rvm.switch.take_crowded() && !rvm.switch.take_crowded());
}

/// Every header bit counts: a segment that differs in one bit (with its checksums corrected) is coalesced
/// only if segmentation restores that bit.
#[test]
fn every_header_bit_counts() {
    for v6 in [false, true] {
        let given = Packet { dst_mac: mac(3), flags: 0x10, ..Packet::tcp(v6, 3000, 1000) }.given();
        let good = plain(&[given]);
        let l4 = if v6 { 54 } else { 34 };
        for bit in 14 * 8..(l4 + 32) * 8 {
            let mut frames = good.clone();
            let bytes = &mut frames[1].0;
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            let sum = |parts: &[&[u8]]| !smoltcp::wire::checksum::data(&parts.concat());
            if !v6 {
                let value = sum(&[&bytes[14..24], &bytes[26..34]]);
                bytes[24..26].copy_from_slice(&value.to_be_bytes());
            }
            let len = (bytes.len() - l4) as u16;
            let addresses = if v6 { 22..54 } else { 26..34 };
            let value = sum(&[
                &bytes[addresses],
                &[0, 6],
                &len.to_be_bytes(),
                &bytes[l4..l4 + 16],
                &bytes[l4 + 18..],
            ]);
            bytes[l4 + 16..l4 + 18].copy_from_slice(&value.to_be_bytes());
            let (mut rvm, _) = pair(false, false, PLAIN, WHOLE, PLAIN);
            let out = rvm.forward(DOOR, &frames);
            let cut: Vec<Vec<u8>> =
                out.into_iter().flat_map(|(_, bytes, offload)| segments(&bytes, offload).unwrap()).collect();
            let sent: Vec<Vec<u8>> = frames.into_iter().map(|(bytes, _)| bytes).collect();
            assert!(cut == sent, "byte {} bit {} (IPv6: {v6})", bit / 8, bit % 8);
        }
    }
}

/// A UDP checksum that comes to zero is sent as all ones, since zero means "no checksum" (RFC 768).
#[test]
fn a_udp_checksum_is_never_zero() {
    for (v6, csum_at) in [(false, 40), (true, 60)] {
        for size in [0, 700] {
            let mut p = Packet { dst_mac: mac(3), tcp: false, size, ..Packet::tcp(v6, 1400, 0) };
            p.payload[..2].fill(0);
            // This checksum in place of the zero word makes the sum all ones.
            let first = plain(&[p.given()]).remove(0).0;
            p.payload[..2].copy_from_slice(&first[csum_at..csum_at + 2]);
            let (mut rvm, _) = pair(false, false, WHOLE, PLAIN, PLAIN);
            let out = rvm.forward(DOOR, &[p.given()]);
            assert_eq!(out[0].1[csum_at..csum_at + 2], [0xff, 0xff], "size {size}, IPv6: {v6}");
        }
    }
}
