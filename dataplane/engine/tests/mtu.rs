//! MTU and peers in the switch, frame by frame: probes and their answers, the MSS of new connections, outer
//! fragments; and the events and answers about peers with a different configuration.

use std::net::IpAddr;

use engine::command::*;
use engine::counters::DropReason;
use engine::forward::Switch;
use engine::frame::{Batch, FramePool, HeapPool, Offload};
use engine::limits::{FDB_AGE, LEARNED_EVENTS, PATH_ANSWERS_PPS, PEER_EVENTS};
use engine::time::Instant;
use engine::wire::mac::MacAddr;
use etherparse::{Ipv4Header, NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

const UPLINK: PortId = PortId(0);
const DOOR: PortId = PortId(1);
const PEER: PeerId = PeerId(0);

struct Rvm {
    switch: Switch,
    pool: HeapPool,
    now: Instant,
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn address(n: u8, v6: bool) -> IpAddr {
    if v6 { format!("fd00::{n}").parse().unwrap() } else { IpAddr::from([10, 0, 0, n]) }
}

impl Rvm {
    /// rVM `n` of 11 and 12, whose path carries `path` bytes; the door has no limit.
    fn new(n: u8, v6: bool, path: u16, fragment: bool, mss_clamp: bool) -> Self {
        let mut rvm = Self {
            switch: Switch::new(u64::from(n)),
            pool: HeapPool::new(64, 8),
            now: Instant::from_millis(1000),
        };
        let port = |vni, role| PortConfig {
            vni,
            role,
            live: true,
            mtu: 9000,
            vlan: VlanPolicy::Transparent,
            binding: Box::default(),
            bum_pps: None,
            policy: Box::default(),
            fdb_max: 100,
        };
        let vni = Vni::new(100).unwrap();
        let other = if n == 11 { 12 } else { 11 };
        rvm.apply(Command::SetPort(UPLINK, port(None, Role::Uplink)));
        rvm.apply(Command::SetUplink(UplinkConfig {
            port: UPLINK,
            mac: mac(n),
            vtep: address(n, v6),
            tunnel_port: 4789,
            checksum: false,
            mtu: 9000,
            guard: vec![],
            switch_mac: MacAddr([2, 0x69, 0x77, 0, 0, n]),
            name: u64::from(n),
            reserved_bits: engine::tunnel::vxlan::RESERVED,
        }));
        rvm.apply(Command::SetNetwork(NetworkConfig {
            vni,
            gateways: vec![],
            router_mac: MacAddr([2, 0x69, 0x76, 0, 0, 100]),
            fdb_max: 100,
            fdb_age: FDB_AGE,
            mss_clamp,
            dhcp: None,
        }));
        rvm.apply(Command::SetPort(DOOR, port(Some(vni), Role::Door)));
        let peer = PeerConfig {
            address: address(other, v6),
            vnis: vec![vni],
            via: None,
            spoke: false,
            mtu: path,
            fragment,
            outer: engine::command::OuterIp::default(),
        };
        rvm.apply(Command::SetPeer(PEER, peer));
        let (addr, len) = if v6 { (address(0, true), 64) } else { (address(0, false), 24) };
        rvm.apply(Command::SetUnderlayRoutes(vec![UnderlayRoute::new(IpPrefix { addr, len }, None)].into()));
        rvm.apply(Command::SetUnderlayNeighbor(address(other, v6), mac(other)));
        rvm.apply(Command::AddFdb(vni, 0, mac(100 + other), Location::Peer(PEER)));
        rvm
    }

    fn apply(&mut self, command: Command) {
        self.switch.apply(self.now, command, &mut self.pool);
    }

    fn forward(&mut self, at: PortId, bytes: &[u8]) -> Vec<(PortId, Vec<u8>)> {
        let mut frame = self.pool.alloc_from(bytes).unwrap();
        frame.offload = Offload::NONE;
        let mut batch = Batch::new();
        batch.push(frame);
        self.switch.forward(self.now, at, &mut batch, &mut self.pool);
        self.sent()
    }

    fn sent(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let mut out = Vec::new();
        for id in [UPLINK, DOOR] {
            self.switch.flush(id, &mut self.pool, |pool, queue| {
                for frame in queue.drain(..) {
                    out.push((id, pool.bytes(&frame).to_vec()));
                    pool.free(frame);
                }
                Ok(())
            });
        }
        assert!(self.switch.counters().conserved(), "{:?}", self.switch.counters());
        assert_eq!(self.pool.usage().used, 0);
        out
    }

    fn events(&mut self) -> Vec<Event> {
        let other = |e: &Event| {
            matches!(e, Event::Learned(..) | Event::Resolve(_) | Event::PeerNamed(..) | Event::OurMac(..))
        };
        self.switch.take_events().filter(|e| !other(e)).collect()
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.switch.port_counters(UPLINK).unwrap().drops[reason as usize]
    }
}

fn tcp(syn: bool, mss: u16, payload: usize) -> Vec<u8> {
    let b = PacketBuilder::ethernet2(mac(111).0, mac(112).0).ipv4([192, 168, 1, 1], [192, 168, 1, 2], 64);
    let b = b.tcp(40_000, 80, 1, 1000);
    let mut bytes = Vec::new();
    if syn {
        b.syn()
            .options(&[TcpOptionElement::MaximumSegmentSize(mss)])
            .unwrap()
            .write(&mut bytes, &[])
            .unwrap();
    } else {
        b.ack(7).write(&mut bytes, &vec![7; payload]).unwrap();
    }
    bytes
}

/// The MSS of a SYN. An independent reader checks its checksum.
fn mss(frame: &[u8]) -> u16 {
    let p = SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (&p.net, &p.transport) else {
        panic!("no TCP")
    };
    assert_eq!(
        tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).unwrap(),
        tcp.checksum()
    );
    match tcp.options_iterator().next() {
        Some(Ok(TcpOptionElement::MaximumSegmentSize(mss))) => mss,
        other => panic!("{other:?}"),
    }
}

/// On ingress and on egress, also when the flow is cached, which depends on MAC addresses only.
#[test]
fn mss_is_clamped_both_ways() {
    let (mut a, mut b) = (Rvm::new(11, false, 1400, false, true), Rvm::new(12, false, 1450, false, true));
    for _ in 0..4 {
        let out = a.forward(DOOR, &tcp(false, 0, 10));
        assert_eq!(out.len(), 1);
        b.forward(UPLINK, &out[0].1);
    }
    let out = a.forward(DOOR, &tcp(true, 8960, 0));
    assert_eq!(mss(&out[0].1[50..]), 1400 - 50 - 40);
    // A SYN that its sender's switch did not change is lowered where it arrives.
    let mut lax = Rvm::new(11, false, 9000, false, false);
    let out = lax.forward(DOOR, &tcp(true, 8960, 0));
    assert_eq!(mss(&out[0].1[50..]), 8960);
    let out = b.forward(UPLINK, &out[0].1);
    assert_eq!(out.last().unwrap().0, DOOR);
    assert_eq!(mss(&out.last().unwrap().1), 1450 - 50 - 40);
}

#[test]
fn probes_are_answered() {
    for v6 in [false, true] {
        let (mut a, mut b) = (Rvm::new(11, v6, 1400, false, true), Rvm::new(12, v6, 1400, false, true));
        for size in [576, 1500, 9000] {
            a.apply(Command::ProbePath(PEER, size, 0x1234_5678_9abc_def0));
            let asked = a.sent();
            assert_eq!(asked.len(), 1);
            assert_eq!(asked[0].1.len(), usize::from(size) + 14, "whatever the path is said to carry");
            if !v6 {
                assert_eq!(asked[0].1[20] & 0x60, 0x40, "not to be fragmented");
            }
            let answer = b.forward(UPLINK, &asked[0].1);
            assert_eq!(b.events(), [Event::PathAsked(PEER)]);
            assert!(answer.len() == 1 && answer[0].1.len() < 120);
            assert_eq!(a.forward(UPLINK, &answer[0].1), vec![]);
            assert_eq!(a.events(), [Event::PathAnswered(PEER, size, 0x1234_5678_9abc_def0)]);
        }
        a.apply(Command::ProbePath(PEER, 9001, 1));
        assert_eq!(a.sent(), vec![], "larger than the uplink");

        // A truncated probe, one from a stranger, and one of another version are dropped and counted.
        a.apply(Command::ProbePath(PEER, 600, 1));
        let asked = a.sent().remove(0).1;
        let inner = if v6 { 70 } else { 50 };
        let mut lies = asked.clone();
        lies[inner + 21] = 0xff;
        let mut newer = asked.clone();
        newer[inner + 18] = 2;
        for (n, bad) in [lies, newer].iter().enumerate() {
            assert_eq!(b.forward(UPLINK, bad), vec![]);
            assert_eq!(b.drops(DropReason::UnknownVni), n as u64 + 1);
        }
        b.apply(Command::RemovePeer(PEER));
        assert_eq!(b.forward(UPLINK, &asked), vec![]);
        assert_eq!(b.drops(DropReason::UnknownPeer), 1);
        assert_eq!(b.events(), [Event::Stranger(address(11, v6), vni(0))]);
    }
}

/// Two rVMs made from one image, with one name and one MAC address of the switch: each hears it from the other, by its
/// probes and by its frames, once and not again and again.
#[test]
fn a_peer_of_our_own_name_and_mac_is_noticed() {
    let told = |rvm: &mut Rvm| {
        let twins = |e: &Event| matches!(e, Event::PeerNamed(..) | Event::OurMac(..));
        rvm.switch.take_events().filter(twins).collect::<Vec<_>>()
    };
    for v6 in [false, true] {
        let (mut a, mut b) = (Rvm::new(11, v6, 1400, false, true), Rvm::new(12, v6, 1400, false, true));
        let probe = |a: &mut Rvm, b: &mut Rvm| {
            a.apply(Command::ProbePath(PEER, 1500, 7));
            let asked = a.sent().remove(0).1;
            let answer = b.forward(UPLINK, &asked).remove(0).1;
            a.forward(UPLINK, &answer);
            (told(a), told(b))
        };
        let names = (vec![Event::PeerNamed(PEER, 12)], vec![Event::PeerNamed(PEER, 11)]);
        assert_eq!(probe(&mut a, &mut b), names);
        assert_eq!(probe(&mut a, &mut b), (vec![], vec![]), "nothing is new");
        let mut uplink = b.switch.tables().uplink.clone().unwrap();
        (uplink.name, uplink.switch_mac) = (11, a.switch.tables().switch_mac());
        let mac = uplink.switch_mac;
        b.apply(Command::SetUplink(uplink));
        let ours = Event::OurMac(PEER, mac);
        assert_eq!(
            probe(&mut a, &mut b),
            (vec![ours.clone(), Event::PeerNamed(PEER, 11)], vec![ours.clone()])
        );
        // A probe of an older switch has zeros in the name's place.
        a.apply(Command::ProbePath(PEER, 1500, 7));
        let mut asked = a.sent().remove(0).1;
        let at = if v6 { 70 } else { 50 } + 34;
        asked[at..at + 8].fill(0);
        b.forward(UPLINK, &asked);
        assert_eq!(told(&mut b), std::slice::from_ref(&ours));
    }
}

/// A peer that asks without end is answered, and told of, within bounds; every question is accounted for.
#[test]
fn questions_without_end() {
    let (mut a, mut b) = (Rvm::new(11, false, 1400, false, true), Rvm::new(12, false, 1400, false, true));
    a.apply(Command::ProbePath(PEER, 1500, 7));
    let asked = a.sent().remove(0).1;
    let answered: usize = (0..3 * PATH_ANSWERS_PPS).map(|_| b.forward(UPLINK, &asked).len()).sum();
    assert!((1..=PATH_ANSWERS_PPS as usize).contains(&answered), "{answered} answers at once");
    assert_eq!(b.switch.counters().consumed, 3 * u64::from(PATH_ANSWERS_PPS));
    assert!(!b.events().is_empty());
    // Unrequested answers, too.
    let answer = Rvm::new(12, false, 1400, false, true).forward(UPLINK, &asked).remove(0).1;
    for _ in 0..16 * LEARNED_EVENTS {
        assert_eq!(a.forward(UPLINK, &answer), vec![]);
    }
    assert_eq!(a.events().len(), 8 * LEARNED_EVENTS as usize);
}

/// All workers get the command to probe; one does. Each answers the probes that it receives.
#[test]
fn of_several_workers_one_probes() {
    let mut workers = [0, 1, 2].map(|me| {
        let mut worker = Rvm::new(11, false, 1400, false, true);
        worker.switch.share(me);
        worker
    });
    let sent: Vec<_> = workers
        .iter_mut()
        .flat_map(|w| {
            w.apply(Command::ProbePath(PEER, 1500, 7));
            w.sent()
        })
        .collect();
    assert_eq!(sent.len(), 1);
    let answer = Rvm::new(12, false, 1400, false, true).forward(UPLINK, &sent[0].1).remove(0).1;
    for worker in &mut workers {
        assert_eq!(worker.forward(UPLINK, &answer), vec![]);
        assert_eq!(worker.events(), [Event::PathAnswered(PEER, 1500, 7)]);
    }
}

/// An independent implementation reassembles the fragments to the packet that would have gone out whole.
#[test]
fn fragments_where_chosen() {
    for v6 in [false, true] {
        let (mut whole, mut cut) = (Rvm::new(11, v6, 9000, false, true), Rvm::new(11, v6, 1400, true, true));
        let frame = tcp(false, 0, 4000);
        let expected = whole.forward(DOOR, &frame).remove(0).1;
        let pieces = cut.forward(DOOR, &frame);
        assert_eq!(
            pieces.len(),
            4 - usize::from(!v6) + usize::from(!v6 && expected.len() > 14 + 20 + 3 * 1376)
        );
        let (mut together, mut id) = (Vec::new(), None);
        for (n, (_, piece)) in pieces.iter().enumerate() {
            assert!(piece.len() <= 1414);
            let last = n + 1 == pieces.len();
            assert!(last || piece.len() > 1414 - 8, "no fragment more than the path needs: {}", piece.len());
            let word = |at: usize| u16::from_be_bytes([piece[at], piece[at + 1]]);
            let (offset, more, number, payload) = if v6 {
                assert_eq!((piece[20], piece[54]), (44, 17));
                assert_eq!(usize::from(word(18)), piece.len() - 54);
                (
                    word(56) & !7,
                    word(56) & 1 == 1,
                    u32::from_be_bytes(piece[58..62].try_into().unwrap()),
                    &piece[62..],
                )
            } else {
                let p = etherparse::Ipv4HeaderSlice::from_slice(&piece[14..]).unwrap();
                assert_eq!(p.to_header().calc_header_checksum(), p.header_checksum());
                assert!(!p.dont_fragment());
                assert_eq!(usize::from(p.total_len()), piece.len() - 14);
                (
                    p.fragments_offset().value() * 8,
                    p.more_fragments(),
                    u32::from(p.identification()),
                    &piece[34..],
                )
            };
            assert_eq!(usize::from(offset), together.len());
            assert_eq!(more, !last);
            assert_eq!(*id.get_or_insert(number), number);
            together.extend_from_slice(payload);
        }
        assert_eq!(together, expected[if v6 { 54 } else { 34 }..]);
        // Without the option it is refused, and the sender gets no error: the packet does not forbid
        // fragments.
        let mut refused = Rvm::new(11, v6, 1400, false, true);
        assert_eq!(refused.forward(DOOR, &frame).iter().filter(|(id, _)| *id == UPLINK).count(), 0);
    }
}

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

/// A tunnel packet with this inner frame, as rVM `from` sends it to rVM 12.
fn tunnelled(from: u8, vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut payload = vec![8, 0, 0, 0];
    payload.extend((vni << 8).to_be_bytes());
    payload.extend(inner);
    let mut bytes = Vec::new();
    let outer = PacketBuilder::ethernet2(mac(from).0, mac(12).0).ipv4([10, 0, 0, from], [10, 0, 0, 12], 64);
    outer.udp(50_000, 4789).write(&mut bytes, &payload).unwrap();
    bytes
}

/// The smallest packet asks a peer whether it is alive, and about a network. The peer answers, or says that
/// it takes no packets of that network from us. Both return the nonce, over IPv4 and IPv6.
#[test]
fn a_peer_is_asked_about_a_network() {
    for v6 in [false, true] {
        let (mut a, mut b) = (Rvm::new(11, v6, 1400, false, true), Rvm::new(12, v6, 1400, false, true));
        let answer = Event::PathAnswered(PEER, if v6 { 98 } else { 78 }, 77);
        for (about, expected) in [
            (None, answer.clone()),
            (Some(vni(100)), answer.clone()),
            (Some(vni(101)), Event::PeerRefuses(PEER, vni(101), 77)),
        ] {
            a.apply(Command::AskPeer(PEER, about, 77));
            let asked = a.sent();
            assert!(asked.len() == 1 && asked[0].1.len() < 120, "{asked:?}");
            let said = b.forward(UPLINK, &asked[0].1);
            assert_eq!((said.len(), b.events()), (1, vec![Event::PathAsked(PEER)]));
            assert!(said[0].1.len() <= asked[0].1.len(), "no more than was sent");
            assert_eq!(a.forward(UPLINK, &said[0].1), vec![]);
            assert_eq!(a.events(), [expected]);
        }
        // The peer has this network, but we do not take part in it there.
        let config = PeerConfig {
            address: address(11, v6),
            vnis: vec![],
            via: None,
            spoke: false,
            mtu: 1400,
            fragment: false,
            outer: OuterIp::default(),
        };
        b.apply(Command::SetPeer(PEER, config));
        a.apply(Command::AskPeer(PEER, Some(vni(100)), 78));
        let asked = a.sent().remove(0).1;
        let said = b.forward(UPLINK, &asked).remove(0).1;
        a.forward(UPLINK, &said);
        assert_eq!(a.events(), [Event::PeerRefuses(PEER, vni(100), 78)]);
    }
}

/// Packets of a network that is not configured here are dropped and counted, with an event, and with a
/// refusal if their sender is a peer. A stranger gets no answer. The number of events per tick is bounded.
#[test]
fn packets_that_do_not_fit_are_told_of() {
    let (mut a, mut b) = (Rvm::new(11, false, 1400, false, true), Rvm::new(12, false, 1400, false, true));
    let inner = tcp(false, 0, 10);
    let notice = b.forward(UPLINK, &tunnelled(11, 101, &inner));
    assert_eq!(b.drops(DropReason::UnknownVni), 1);
    assert_eq!(b.events(), [Event::PeerRefused(PEER, vni(101), DropReason::UnknownVni)]);
    assert_eq!(notice.len(), 1);
    assert_eq!(a.forward(UPLINK, &notice[0].1), vec![], "which ends there");
    assert_eq!(a.events(), [Event::PeerRefuses(PEER, vni(101), 0)]);

    let mut stranger = b.forward(UPLINK, &tunnelled(13, 100, &inner));
    stranger.extend(b.forward(UPLINK, &tunnelled(13, 0, &inner)));
    assert_eq!(stranger, vec![]);
    let from = IpAddr::from([10, 0, 0, 13]);
    assert_eq!(b.events(), [Event::Stranger(from, vni(100)), Event::Stranger(from, vni(0))]);

    let flood = |b: &mut Rvm| -> usize {
        (0..100).map(|n| b.forward(UPLINK, &tunnelled([11, 13][n % 2], 101, &inner)).len()).sum()
    };
    let answers = flood(&mut b);
    assert!(answers < PEER_EVENTS as usize && b.events().len() == PEER_EVENTS as usize - 3, "{answers}");
    b.now = b.now + std::time::Duration::from_secs(1);
    b.switch.tick(b.now, &mut b.pool);
    assert!(flood(&mut b) > 0 && b.events().len() == PEER_EVENTS as usize);
    assert_eq!(b.drops(DropReason::UnknownPeer), 102, "each is counted");
}

/// A trace of such a packet shows the frames that would be sent, and has no effect: no event, no notice, no
/// count.
#[test]
fn a_trace_of_a_packet_that_does_not_fit_tells_nobody() {
    let mut b = Rvm::new(12, false, 1400, false, true);
    let bytes = tunnelled(11, 101, &tcp(false, 0, 10));
    let before = b.switch.counters();
    for _ in 0..100 {
        let query = Query::Trace(UPLINK, bytes.clone());
        let Answer::Trace(walk) = b.switch.answer_query(b.now, &query, &mut b.pool) else { panic!() };
        assert_eq!(walk.drops, [(UPLINK, DropReason::UnknownVni)]);
        assert_eq!(walk.sent.len(), 1, "the notice");
    }
    assert_eq!((b.events(), b.sent(), b.switch.counters()), (vec![], vec![], before));
    b.forward(UPLINK, &bytes);
    assert_eq!(b.events().len(), 1);
}

/// Only the gateway of a floating IP asks for its MAC, and only the rVM of its owner announces it. From a
/// peer's switch either causes an event; from any other station neither does.
#[test]
fn who_takes_a_floating_ip_for_its_own_is_told_of() {
    let mut b = Rvm::new(12, false, 1400, false, true);
    let floating = [56, 0, 0, 11];
    b.apply(Command::SetFloating(
        FloatingId(0),
        FloatingConfig {
            ip: IpAddr::from(floating),
            vni: vni(100),
            gateway: Gateway::Here { reality: IpAddr::from([10, 0, 0, 12]) },
            inside: None,
            only: vec![],
            except: vec![],
        },
    ));
    b.sent();
    let switch = |n: u8| MacAddr([2, 0x69, 0x77, 0, 0, n]);
    let arp = |from: MacAddr, operation: u8, sender: [u8; 4], target: [u8; 4]| {
        let mut frame = vec![0xff; 6];
        frame.extend(from.0);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(from.0);
        frame.extend(sender);
        frame.extend([0; 6]);
        frame.extend(target);
        tunnelled(11, 100, &frame)
    };
    let gateway = [10, 2, 0, 1];
    let claimed = |owner| Event::FloatingClaimed(vni(100), IpAddr::from(floating), PEER, switch(11), owner);
    for (frame, expected) in [
        (arp(switch(11), 1, gateway, floating), vec![claimed(false)]),
        (arp(switch(11), 1, floating, floating), vec![claimed(true)]),
        (arp(switch(11), 2, floating, gateway), vec![claimed(true)]),
        (arp(switch(11), 1, gateway, [56, 0, 0, 12]), vec![]),
        (arp(mac(111), 1, [56, 0, 0, 1], floating), vec![]),
        (arp(switch(12), 1, gateway, floating), vec![]),
    ] {
        b.forward(UPLINK, &frame);
        assert_eq!(b.events(), expected);
    }
}

/// A TCP packet with this TTL and TOS.
fn marked(ttl: u8, tos: u8) -> Vec<u8> {
    let mut bytes = tcp(false, 0, 10);
    (bytes[15], bytes[22]) = (tos, ttl);
    let sum = Ipv4Header::from_slice(&bytes[14..]).unwrap().0.calc_header_checksum();
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// TTL and TOS of an outer header, whose checksum is right by a reader that is not ours.
fn outer_fields(frame: &[u8], v6: bool) -> (u8, u8) {
    if v6 {
        return (frame[21], frame[14] << 4 | frame[15] >> 4);
    }
    let header = Ipv4Header::from_slice(&frame[14..]).unwrap().0;
    assert_eq!(header.calc_header_checksum(), header.header_checksum);
    (frame[22], frame[15])
}

/// TTL and TOS of the outer header are the configured ones or those of the inner packet, over both families and also
/// from the flow cache. ECN always comes from the inner packet (RFC 6040 section 4.1). A frame without an IP packet
/// gets the defaults.
#[test]
fn outer_ttl_and_tos() {
    use OuterField::{Fixed, Inherit};
    for v6 in [false, true] {
        let mut a = Rvm::new(11, v6, 1500, false, false);
        let mut peer = a.switch.tables().peers.get(PEER).unwrap().config.clone();
        let mut no_ip = [&mac(112).0[..], &mac(111).0, &[0x88, 0xb5]].concat();
        no_ip.resize(60, 0);
        for (ttl, tos, ip, other) in [
            (Fixed(64), Fixed(0), (64, 2), (64, 0)),
            (Fixed(9), Fixed(0xb8), (9, 0xba), (9, 0xb8)),
            (Inherit, Inherit, (33, 0x6e), (64, 0)),
            (Inherit, Fixed(0x20), (33, 0x22), (64, 0x20)),
            (Fixed(255), Inherit, (255, 0x6e), (255, 0)),
        ] {
            peer.outer = OuterIp { ttl, tos };
            a.apply(Command::SetPeer(PEER, peer.clone()));
            for _ in 0..3 {
                let sent = a.forward(DOOR, &marked(33, 0x6e));
                assert_eq!(outer_fields(&sent[0].1, v6), ip, "{ttl:?} {tos:?}");
                let sent = a.forward(DOOR, &marked(34, 0x71));
                let inherited = (
                    if ttl == Inherit { 34 } else { ip.0 },
                    if tos == Inherit { 0x71 } else { ip.1 & 0xfc | 1 },
                );
                assert_eq!(outer_fields(&sent[0].1, v6), inherited, "of one flow, packet by packet");
            }
            let sent = a.forward(DOOR, &no_ip);
            assert_eq!(outer_fields(&sent[0].1, v6), other);
        }
    }
}

/// A VXLAN header with a reserved bit is refused, unless that bit is accepted; others still are not.
#[test]
fn reserved_bits_as_configured() {
    for v6 in [false, true] {
        let (mut a, mut b) = (Rvm::new(11, v6, 1500, false, false), Rvm::new(12, v6, 1500, false, false));
        let sent = a.forward(DOOR, &tcp(false, 0, 10)).remove(0).1;
        let at = if v6 { 62 } else { 42 };
        let with = |byte: usize, bit: u8| {
            let mut bytes = sent.clone();
            bytes[at + byte] |= bit;
            bytes
        };
        assert_eq!(b.forward(UPLINK, &sent).len(), 1);
        for (byte, bit) in [(0, 0x80), (1, 1), (3, 0x40), (7, 1)] {
            assert_eq!(b.forward(UPLINK, &with(byte, bit)), []);
        }
        assert_eq!(b.drops(DropReason::VxlanHeader), 4);
        let mut uplink = b.switch.tables().uplink.clone().unwrap();
        uplink.reserved_bits &= !(1 << 48);
        b.apply(Command::SetUplink(uplink));
        assert_eq!(b.forward(UPLINK, &with(1, 1)).len(), 1);
        assert_eq!(b.forward(UPLINK, &with(1, 2)), []);
        assert_eq!(b.forward(UPLINK, &with(7, 1)), []);
    }
}
