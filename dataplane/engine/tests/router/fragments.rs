//! Packets that are larger than their next hop carries go on in fragments. etherparse reassembles them.

use etherparse::defrag::IpDefragPool;
use etherparse::{Ipv4HeaderSlice, SlicedPacket};
use proptest::prelude::*;

use engine::command::*;
use engine::counters::DropReason;
use engine::forward::trail::Step;
use engine::frame::{FramePool, GsoKind, HeapPool, Offload};
use engine::port::PortCaps;

use crate::rvm::{
    DOOR1, GUEST, Kind, PRIVATE, PROVIDER, PUBLIC, Rvm, Sent, TUNNEL_MTU, UPLINK, addresses,
    assert_checksums, ends, fix_ipv4, inner, ip, mac, packet, router_mac, switch_mac, vni,
};

/// An owner's rVM: its guest's packets go through the tunnel.
fn owner() -> Rvm {
    let mut rvm = Rvm::new(12);
    rvm.float(false, false, true, &[], &[]);
    rvm.announce(DOOR1, GUEST, addresses(false).guest);
    rvm
}

/// A gateway's rVM: packets from the Internet go through the tunnel.
fn gateway() -> Rvm {
    let mut rvm = Rvm::new(11);
    rvm.float(false, true, false, &[], &[]);
    rvm.announce_at_peer(PUBLIC, switch_mac(12), addresses(false).public);
    rvm
}

fn from_guest(kind: Kind, data: &[u8]) -> Vec<u8> {
    let a = addresses(false);
    packet((GUEST, router_mac(PRIVATE)), a.guest, a.host, 64, kind, data)
}

fn header(frame: &[u8]) -> Ipv4HeaderSlice<'_> {
    Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap()
}

/// Makes a fragment from the packet in `frame` by hand: this part of its data, with this identification.
fn part(frame: &[u8], id: u16, at: usize, len: usize) -> Vec<u8> {
    let data = &frame[34..];
    let more = at + len < data.len();
    let mut out = [&frame[..34], &data[at..at + len]].concat();
    out[16..18].copy_from_slice(&(20 + len as u16).to_be_bytes());
    out[18..20].copy_from_slice(&id.to_be_bytes());
    out[20..22].copy_from_slice(&((at as u16 / 8) | (u16::from(more) << 13)).to_be_bytes());
    fix_ipv4(&mut out);
    out
}

/// Checks that every frame is a correct fragment of at most `mtu` bytes. Returns the datagram that etherparse
/// reassembles, with headers in front, as if it had arrived whole.
fn put_together(frames: &[Vec<u8>], mtu: usize) -> Vec<u8> {
    let mut pool = IpDefragPool::<(), ()>::new();
    let (mut whole, mut id) = (None, None);
    for frame in frames {
        assert!(frame.len() <= 14 + mtu, "{} bytes", frame.len());
        let ip = header(frame);
        assert_eq!(usize::from(ip.total_len()), frame.len() - 14);
        assert_eq!(ip.to_header().calc_header_checksum(), ip.header_checksum());
        assert!(!ip.dont_fragment());
        assert_eq!(*id.get_or_insert(ip.identification()), ip.identification());
        assert!(whole.is_none(), "more fragments than there are");
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        whole = pool.process_sliced_packet(&sliced, (), ()).unwrap();
    }
    let whole = whole.expect("all of the datagram");
    let header_len = usize::from(frames[0][14] & 15) * 4;
    let mut out = [&frames[0][..14 + header_len], &whole.payload].concat();
    let total = (out.len() - 14) as u16;
    out[16..18].copy_from_slice(&total.to_be_bytes());
    out[20..22].fill(0);
    fix_ipv4(&mut out);
    assert_checksums(&out);
    out
}

fn inners(sent: &Sent) -> Vec<Vec<u8>> {
    assert!(sent.iter().all(|(port, _)| *port == UPLINK), "{sent:?}");
    sent.iter().map(|(_, frame)| inner(frame).to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Any datagram through any tunnel, in both directions. The reassembled fragments equal the datagram as
    /// it would have arrived whole, translated, with right checksums. The second rVM passes the fragments on
    /// unchanged.
    #[test]
    fn fragments_are_the_datagram(mtu in 118u16..1500, data in proptest::collection::vec(any::<u8>(), 0..9000), id: u16, tos: u8,
                                  outward: bool, partial: bool, udp: bool) {
        let a = addresses(false);
        let (mut gateway, mut owner) = (gateway(), owner());
        // On the underlay the maximum is 1500 bytes; at a door a frame may be longer.
        let data = &data[..data.len().min(if outward { 9000 } else { 1472 })];
        let kind = if udp { Kind::Udp(4000, 53) } else { Kind::Echo };
        let mut sent = if outward {
            from_guest(kind, data)
        } else {
            packet((PROVIDER, mac(11)), a.host, a.reality, 64, kind, data)
        };
        sent[15] = tos;
        sent[18..20].copy_from_slice(&id.to_be_bytes());
        fix_ipv4(&mut sent);
        let mut whole = sent.clone();
        let mut offload = Offload::NONE;
        if partial && outward && udp {
            // With a NIC that has to finish the checksum: this happens before fragmentation.
            offload = Offload { csum_start: 34, csum_offset: 6, ..Offload::NONE };
            sent[40..42].copy_from_slice(&[0xab, 0xcd]);
        }
        let sender = if outward { &mut owner } else { &mut gateway };
        if outward {
            let mut door = sender.switch.tables().ports.get(DOOR1).unwrap().config.clone();
            door.mtu = 9100;
            sender.apply(Command::SetPort(DOOR1, door));
            sender.announce(DOOR1, GUEST, a.guest);
        }
        let n = if outward { 11 } else { 12 };
        sender.apply(Command::SetPeer(PeerId(0), PeerConfig {
            address: ip(&format!("10.0.0.{n}")),
            vnis: vec![vni(PRIVATE), vni(PUBLIC)],
            via: None,
            spoke: false,
            mtu,
            fragment: false, outer: OuterIp::default(),
        }));
        let tunnel_mtu = usize::from(mtu) - 50;
        let outer = sender.forward_as(if outward { DOOR1 } else { UPLINK }, &sent, offload);
        let fragments = inners(&outer);
        let packet_len = sent.len() - 14;
        let room = (tunnel_mtu - 20) & !7;
        let count = if packet_len <= tunnel_mtu { 1 } else { (packet_len - 20).div_ceil(room) };
        prop_assert!(fragments.len() == count || fragments.len() + 1 == count, "{} not {}", fragments.len(), count);
        prop_assert_eq!(sender.switch.counters().segmented, fragments.len() as u64 - 1);
        let (from, to) = if outward { (a.public, a.host) } else { (a.host, a.public) };
        for fragment in &fragments {
            prop_assert_eq!(ends(fragment), (from, to));
            prop_assert_eq!((fragment[22], fragment[15]), (63, tos));
        }
        let arrived = if fragments.len() == 1 { fragments[0].clone() } else { put_together(&fragments, tunnel_mtu) };
        prop_assert_eq!(&arrived[18..20], &id.to_be_bytes());
        prop_assert_eq!(&arrived[42..], &whole[42..], "the data");
        // All fragments take one path: the outer source port is the same.
        prop_assert!(outer.iter().all(|(_, f)| f[34..36] == outer[0].1[34..36]));

        let receiver = if outward { &mut gateway } else { &mut owner };
        let out: Vec<_> = outer.iter().flat_map(|(_, f)| receiver.forward(UPLINK, f)).collect();
        prop_assert_eq!(out.len(), fragments.len(), "{:?}", receiver.switch.port_counters(UPLINK));
        let frames: Vec<_> = out.into_iter().map(|(_, f)| f).collect();
        let arrived = if frames.len() == 1 { frames[0].clone() } else { put_together(&frames, tunnel_mtu) };
        // The same packet, translated whole.
        let (from, to) = if outward { (a.reality, a.host) } else { (a.host, a.guest) };
        prop_assert_eq!(ends(&arrived), (from, to));
        assert_checksums(&arrived);
        whole[..12].copy_from_slice(&arrived[..12]);
        whole[22] -= 2;
        whole[26..34].copy_from_slice(&arrived[26..34]);
        if udp { whole[40..42].copy_from_slice(&arrived[40..42]); }
        fix_ipv4(&mut whole);
        if frames.len() == 1 { whole[24..26].copy_from_slice(&arrived[24..26]); }
        prop_assert_eq!(arrived, whole);
    }

    /// A fragment (the first, a middle one, or the last) is fragmented again. Offsets continue from its own,
    /// and only the end of the datagram clears the more-fragments flag.
    #[test]
    fn fragments_of_fragments(len in 3000usize..8900, first_cut in 64usize..180, reverse: bool) {
        let mut owner = owner();
        let whole = from_guest(Kind::Udp(4000, 53), &(0..len).map(|i| (i / 3) as u8).collect::<Vec<_>>());
        let data_len = whole.len() - 34;
        let mut sent: Vec<Vec<u8>> = Vec::new();
        let mut at = 0;
        while at < data_len {
            // Some fragments fit the tunnel, most do not.
            let n = if at == 0 { first_cut * 8 } else { 1480 }.min(data_len - at);
            sent.push(part(&whole, 77, at, n));
            at += n;
        }
        if reverse {
            sent.reverse();
        }
        let mut fragments: Vec<_> = sent.iter().flat_map(|f| inners(&owner.forward(DOOR1, f))).collect();
        prop_assert!(fragments.len() > sent.len());
        // etherparse needs the headers of the first fragment first.
        fragments.sort_by_key(|f| header(f).fragments_offset().value());
        let arrived = put_together(&fragments, TUNNEL_MTU);
        prop_assert_eq!(&arrived[42..], &whole[42..]);
    }
}

/// A UDP GSO packet has segments that do not fit. Each segment is a datagram of its own, with its own
/// identification, in its own fragments.
#[test]
fn a_super_frame_is_segmented_first() {
    let (a, mut owner) = (addresses(false), owner());
    let data: Vec<u8> = (0..7000u32).map(|i| (i / 5) as u8).collect();
    let sent = from_guest(Kind::Udp(4000, 53), &data);
    let offload =
        Offload { csum_start: 34, csum_offset: 6, gso_kind: GsoKind::Udp, gso_size: 1472, ..Offload::NONE };
    let uplinks =
        [PortCaps::default(), PortCaps { tx_csum: true, tx_tso: true, tx_uso: true, ..PortCaps::default() }];
    for caps in uplinks {
        owner.switch.set_caps(UPLINK, caps);
        let fragments = inners(&owner.forward_as(DOOR1, &sent, offload));
        // 7000 = 4 * 1472 + 1112; the last segment fits.
        assert_eq!(fragments.len(), 4 * 2 + 1);
        let first_id = header(&sent).identification();
        for n in 0..4 {
            let arrived = put_together(&fragments[2 * n..2 * n + 2], TUNNEL_MTU);
            assert_eq!(header(&arrived).identification(), first_id.wrapping_add(n as u16));
            assert_eq!(ends(&arrived), (a.public, a.host));
            assert_eq!(arrived[42..], data[n * 1472..][..1472]);
        }
        assert_checksums(&fragments[8]);
        assert_eq!(fragments[8][42..], data[4 * 1472..]);
    }
    assert_eq!(owner.switch.counters().segmented, 2 * 8);
    // The same for TCP that permits fragmentation (path-MTU discovery switched off).
    let sent = from_guest(Kind::Tcp(4000, 80), &data);
    let offload = Offload {
        csum_start: 34,
        csum_offset: 16,
        gso_kind: GsoKind::TcpV4,
        gso_size: 1460,
        ..Offload::NONE
    };
    let fragments = inners(&owner.forward_as(DOOR1, &sent, offload));
    assert_eq!(fragments.len(), 4 * 2 + 1);
    for n in 0..4 {
        assert_eq!(put_together(&fragments[2 * n..2 * n + 2], TUNNEL_MTU)[54..], data[n * 1460..][..1460]);
    }
}

/// Options with the copied flag are in every fragment, others in the first only (RFC 791 §3.1); padding fills
/// the word. A list with a wrong length ends there.
#[test]
fn options_are_copied_by_their_flag() {
    let lists: [(&[u8], &[u8]); 6] = [
        // Record route (7) is not copied; the security option (130) and the stream identifier (136) are.
        (&[7, 7, 4, 0, 0, 0, 0, 136, 4, 1, 2, 0], &[136, 4, 1, 2]),
        (&[1, 130, 3, 9, 1, 68, 4, 5, 0, 136, 4, 1, 2, 1, 1, 0], &[130, 3, 9, 136, 4, 1, 2, 0]),
        (&[148, 4, 0, 0], &[148, 4, 0, 0]),
        (&[0, 136, 4, 1], &[]),
        (&[136, 0, 1, 2], &[]),
        (&[136, 200, 1, 2], &[]),
    ];
    for (options, copied) in lists {
        let mut owner = owner();
        let mut sent = from_guest(Kind::Udp(4000, 53), &[9; 1440]);
        sent.splice(34..34, options.iter().copied());
        sent[14] = 0x45 + options.len() as u8 / 4;
        let total = (sent.len() - 14) as u16;
        sent[16..18].copy_from_slice(&total.to_be_bytes());
        fix_ipv4(&mut sent);
        let fragments = inners(&owner.forward(DOOR1, &sent));
        assert_eq!(fragments.len(), 2, "{options:?}");
        assert_eq!(header(&fragments[0]).options(), options);
        assert_eq!(header(&fragments[1]).options(), copied);
        let arrived = put_together(&fragments, TUNNEL_MTU);
        assert_eq!(arrived[arrived.len() - 1440..], [9; 1440]);
    }
}

/// A packet that must not be fragmented, or is IPv6, is too big. So is one on a bridged path, where the
/// sender gets no error.
#[test]
fn what_is_not_fragmented() {
    let mut owner = owner();
    owner.float(true, false, true, &[], &[]);
    let big = |mac, v6: bool| {
        let a = addresses(v6);
        packet((GUEST, mac), a.guest, a.host, 64, Kind::Udp(1, 2), &[7; 1450])
    };
    let mut stays = big(router_mac(PRIVATE), false);
    stays[20] = 0x40;
    fix_ipv4(&mut stays);
    for (sent, told) in [(stays, 1), (big(router_mac(PRIVATE), true), 1)] {
        let out = owner.forward(DOOR1, &sent);
        assert_eq!((out.len(), out[0].0), (told, DOOR1));
    }
    owner.apply(Command::AddFdb(vni(PRIVATE), 0, mac(60), Location::Peer(PeerId(0))));
    let bridged = big(mac(60), false);
    assert_eq!(owner.forward(DOOR1, &bridged), vec![]);
    assert_eq!(owner.drops(DOOR1, DropReason::TooBig), 3);
    assert_eq!(owner.switch.counters().segmented, 0);
}

/// Every output carries fragments: a door with its own MTU, a station without a known location (flooded), and
/// the kernel while the underlay's next hop is not resolved.
#[test]
fn every_way_out() {
    let a = addresses(false);
    // A door of 600 bytes at the gateway, whose rVM is also the guest's.
    let mut rvm = Rvm::new(11);
    rvm.float(false, true, true, &[], &[]);
    let mut door = rvm.switch.tables().ports.get(DOOR1).unwrap().config.clone();
    door.mtu = 600;
    rvm.apply(Command::SetPort(DOOR1, door));
    rvm.announce(DOOR1, GUEST, a.guest);
    let sent = packet((PROVIDER, mac(11)), a.host, a.reality, 64, Kind::Udp(53, 4000), &[7; 1472]);
    let out = rvm.forward(UPLINK, &sent);
    assert!(out.iter().all(|(port, _)| *port == DOOR1));
    let frames: Vec<_> = out.into_iter().map(|(_, f)| f).collect();
    assert_eq!(ends(&put_together(&frames, 600)), (a.host, a.guest));

    // After its location is forgotten: to the door and to the peer, in fragments that fit both.
    rvm.apply(Command::FlushFdb(None, None));
    let out = rvm.forward(UPLINK, &sent);
    for port in [DOOR1, UPLINK] {
        let its = out.iter().filter(|(p, _)| *p == port);
        let frames: Vec<_> = its.map(|(p, f)| if *p == UPLINK { inner(f) } else { f }.to_vec()).collect();
        assert_eq!(ends(&put_together(&frames, 600)), (a.host, a.guest));
    }

    // Out, to a router with an unknown MAC address, over an uplink of 1000 bytes.
    let uplink = rvm.switch.tables().uplink.clone().unwrap();
    rvm.apply(Command::SetUplink(UplinkConfig { mtu: 1000, ..uplink }));
    rvm.apply(Command::RemoveUnderlayNeighbor(ip("10.0.0.1")));
    let leaving = from_guest_of(DOOR1, &mut rvm);
    let frames: Vec<_> = leaving.into_iter().map(|(_, f)| f).collect();
    assert_eq!(ends(&put_together(&frames, 1000)), (a.reality, a.host));
}

fn from_guest_of(door: PortId, rvm: &mut Rvm) -> Sent {
    let mut config = rvm.switch.tables().ports.get(door).unwrap().config.clone();
    config.mtu = 1500;
    rvm.apply(Command::SetPort(door, config));
    let sent = from_guest(Kind::Udp(4000, 53), &[7; 1472]);
    let out = rvm.forward(door, &sent);
    assert!(out.iter().all(|(port, _)| *port == PortId(999)), "to the kernel: {out:?}");
    out
}

/// A packet that cannot be fragmented is a counted drop: a fragment that would end beyond the maximum length
/// of a packet, or a path that carries less than a header and eight bytes. Without memory for the fragments,
/// every missing fragment is counted.
#[test]
fn what_cannot_be_cut() {
    let mut owner = owner();
    // A corrupted header: with a new checksum the corruption would be hidden (RFC 1812 §5.2.2).
    let mut corrupt = from_guest(Kind::Udp(1, 2), &[7; 1450]);
    corrupt[30] ^= 1;
    assert_eq!(owner.forward(DOOR1, &corrupt), vec![]);
    assert_eq!(owner.drops(DOOR1, DropReason::IpMalformed), 1);
    let mut beyond = from_guest(Kind::Udp(1, 2), &[7; 1450]);
    beyond[20..22].copy_from_slice(&0x1fffu16.to_be_bytes());
    fix_ipv4(&mut beyond);
    assert_eq!(owner.forward(DOOR1, &beyond), vec![]);
    assert_eq!(owner.drops(DOOR1, DropReason::IpMalformed), 2);

    let sent = from_guest(Kind::Udp(1, 2), &[7; 1450]);
    // Slots for the packet and one more.
    owner.pool = HeapPool::new(2, 0);
    assert_eq!(owner.forward(DOOR1, &sent).len(), 1);
    assert_eq!(owner.drops(DOOR1, DropReason::PoolExhausted), 1);
    assert_eq!(owner.pool.usage().total, 2);

    let (a, mut narrow) = (addresses(false), Rvm::new(11));
    narrow.float(false, true, true, &[], &[]);
    let mut door = narrow.switch.tables().ports.get(DOOR1).unwrap().config.clone();
    door.mtu = 27;
    narrow.apply(Command::AddFdb(vni(PRIVATE), 0, GUEST, Location::Port(DOOR1)));
    narrow.announce(DOOR1, GUEST, a.guest);
    narrow.apply(Command::SetPort(DOOR1, door));
    let sent = packet((PROVIDER, mac(11)), a.host, a.reality, 64, Kind::Udp(53, 4000), &[7; 100]);
    assert_eq!(narrow.forward(UPLINK, &sent), vec![]);
    assert_eq!(narrow.drops(UPLINK, DropReason::TooBig), 1);
}

/// A frame may be longer than its packet. The bytes behind the packet are not forwarded, and do not make it
/// too big.
#[test]
fn trailers_are_left_behind() {
    let mut owner = owner();
    for flags in [0, 0x40] {
        let mut sent = from_guest(Kind::Udp(1, 2), &[7; 1400]);
        sent[20] = flags;
        fix_ipv4(&mut sent);
        let len = sent.len();
        sent.extend([0xee; 60]);
        let out = inners(&owner.forward(DOOR1, &sent));
        assert_eq!((out.len(), out[0].len()), (1, len));
        let mut longer = from_guest(Kind::Udp(1, 2), &[7; 1450]);
        longer.extend([0xee; 8]);
        let out = inners(&owner.forward(DOOR1, &longer));
        assert_eq!(put_together(&out, TUNNEL_MTU)[42..], [7; 1450]);
    }
}

/// A flow whose packets mostly fit is in the flow cache. Packets that do not fit are still fragmented, and
/// leave the cache unchanged.
#[test]
fn a_remembered_flow_is_cut() {
    let (a, mut gateway) = (addresses(false), gateway());
    let of = |len| packet((PROVIDER, mac(11)), a.host, a.reality, 64, Kind::Udp(53, 4000), &vec![7; len]);
    for _ in 0..4 {
        assert_eq!(gateway.forward(UPLINK, &of(100)).len(), 1);
    }
    let remembered = gateway.switch.remembered();
    assert!(remembered > 0);
    assert_eq!(gateway.forward(UPLINK, &of(1472)).len(), 2);
    assert_eq!(gateway.forward(UPLINK, &of(100)).len(), 1);
    assert_eq!(gateway.switch.remembered(), remembered + 1);
    // A dry run shows the fragments and leaves no trace.
    let now = gateway.now;
    let walk = gateway.switch.trace(now, UPLINK, &of(1472), &gateway.pool);
    assert_eq!((walk.sent.len(), walk.drops.len()), (2, 0));
    assert_eq!(walk.steps.last(), Some(&Step::Fragmented(TUNNEL_MTU as u16)));
}
