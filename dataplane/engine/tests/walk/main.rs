//! Properties of the pipeline. For any input, frames are conserved and the switch does not panic. Frames
//! through the tunnel arrive unchanged. Translated packets have right checksums, by an independent
//! implementation.

mod strangers;

use std::net::IpAddr;

use engine::command::*;
use engine::counters::DropReason;
use engine::forward::Switch;
use engine::frame::{Batch, Frame, FramePool, HeapPool, Offload};
use engine::limits::FDB_AGE;
use engine::time::Instant;
use engine::wire::mac::MacAddr;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const PRIVATE: u32 = 100;
const PUBLIC: u32 = 200;
const UPLINK: PortId = PortId(0);
const DOOR1: PortId = PortId(1);
const DOOR2: PortId = PortId(2);
const GUEST: PortId = PortId(3);

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn router_mac(v: u32) -> MacAddr {
    let b = v.to_be_bytes();
    MacAddr([2, 0x69, 0x76, b[1], b[2], b[3]])
}

/// One rVM: a switch, its pool, and the frames that its ports would have sent.
struct Rvm {
    switch: Switch,
    pool: HeapPool,
    now: Instant,
}

impl Rvm {
    /// rVM `n` of two, over IPv4 or IPv6, with the networks private and public, a door on each, and the other as peer.
    fn new(n: u8, v6: bool, checksum: bool) -> Self {
        let address = |n: u8| if v6 { ip(&format!("fd00::{n}")) } else { ip(&format!("10.0.0.{n}")) };
        let other = if n == 11 { 12 } else { 11 };
        let mut rvm = Self {
            switch: Switch::new(u64::from(n)),
            pool: HeapPool::new(64, 4),
            now: Instant::from_millis(1000),
        };
        rvm.apply(Command::SetPort(UPLINK, port(None, Role::Uplink, 1500)));
        rvm.apply(Command::SetUplink(UplinkConfig {
            port: UPLINK,
            mac: mac(n),
            vtep: address(n),
            tunnel_port: 4789,
            checksum,
            mtu: 1600,
            guard: vec![IpPrefix { addr: ip("169.254.169.254"), len: 32 }],
            switch_mac: MacAddr([2, 0x69, 0x77, 0, 0, n]),
            name: u64::from(n),
            reserved_bits: engine::tunnel::vxlan::RESERVED,
        }));
        for (v, gateway) in [(PRIVATE, "192.168.1.1"), (PUBLIC, "10.2.0.1")] {
            rvm.apply(Command::SetNetwork(NetworkConfig {
                vni: vni(v),
                gateways: vec![ip(gateway), ip(if v == PRIVATE { "fd01::1" } else { "fd02::1" })],
                router_mac: router_mac(v),
                fdb_max: 100,
                fdb_age: FDB_AGE,
                mss_clamp: true,
                dhcp: None,
            }));
        }
        rvm.apply(Command::SetPort(DOOR1, port(Some(vni(PRIVATE)), Role::Door, 1500)));
        rvm.apply(Command::SetPort(DOOR2, port(Some(vni(PUBLIC)), Role::Door, 1500)));
        rvm.apply(Command::SetPeer(
            PeerId(0),
            PeerConfig {
                address: address(other),
                vnis: vec![vni(PRIVATE), vni(PUBLIC)],
                via: None,
                spoke: false,
                mtu: 1600,
                fragment: false,
                outer: engine::command::OuterIp::default(),
            },
        ));
        let on_link = if v6 { "fd00::/64" } else { "10.0.0.0/16" };
        let (addr, len) = on_link.split_once('/').unwrap();
        rvm.apply(Command::SetUnderlayRoutes(
            vec![
                UnderlayRoute::new(IpPrefix { addr: ip(addr), len: len.parse().unwrap() }, None),
                UnderlayRoute::new(IpPrefix { addr: ip("0.0.0.0"), len: 0 }, Some(ip("10.0.0.1"))),
                UnderlayRoute::new(IpPrefix { addr: ip("::"), len: 0 }, Some(ip("fd00::1"))),
            ]
            .into(),
        ));
        for n in [1, 11, 12] {
            rvm.apply(Command::SetUnderlayNeighbor(address(n), mac(n)));
            rvm.apply(Command::SetUnderlayNeighbor(ip(&format!("10.0.0.{n}")), mac(n)));
            rvm.apply(Command::SetUnderlayNeighbor(ip(&format!("fd00::{n}")), mac(n)));
        }
        rvm
    }

    fn apply(&mut self, command: Command) {
        self.switch.apply(self.now, command, &mut self.pool);
    }

    /// Puts one frame in and returns the frames that come out, by port. Checks conservation.
    fn forward(&mut self, at: PortId, bytes: &[u8], offload: Offload) -> Vec<(PortId, Vec<u8>)> {
        let mut frame = self.pool.alloc_from(bytes).unwrap();
        frame.offload = offload;
        let mut batch = Batch::new();
        batch.push(frame);
        self.switch.forward(self.now, at, &mut batch, &mut self.pool);
        assert!(batch.is_empty());
        self.sent()
    }

    fn sent(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let mut out = Vec::new();
        for id in 0..self.switch.port_bound() {
            self.switch.flush(PortId(id), &mut self.pool, |pool, queue| {
                take(pool, queue, |bytes| out.push((PortId(id), bytes)));
                Ok(())
            });
        }
        self.switch.flush_punted(&mut self.pool, |pool, queue| take(pool, queue, |_| {}));
        assert!(self.switch.counters().conserved(), "{:?}", self.switch.counters());
        assert_eq!(self.switch.counters().queued, 0);
        assert_eq!(self.pool.usage().used, 0, "a slot leaked");
        out
    }

    fn drops(&self, at: PortId, reason: DropReason) -> u64 {
        self.switch.port_counters(at).unwrap().drops[reason as usize]
    }

    fn learn(&mut self, at: PortId, who: MacAddr) {
        let mut hello = vec![0xff; 6];
        hello.extend(who.0);
        hello.extend([0x88, 0xb5]);
        self.forward(at, &hello, Offload::NONE);
    }
}

fn take(pool: &mut HeapPool, queue: &mut Vec<Frame>, mut each: impl FnMut(Vec<u8>)) {
    for frame in queue.drain(..) {
        each(pool.bytes(&frame).to_vec());
        pool.free(frame);
    }
}

fn port(vni: Option<Vni>, role: Role, mtu: u16) -> PortConfig {
    PortConfig {
        vni,
        role,
        live: true,
        mtu: if role == Role::Uplink { 1600 } else { mtu },
        vlan: VlanPolicy::Transparent,
        binding: Box::default(),
        bum_pps: None,
        policy: Box::default(),
        fdb_max: 100,
    }
}

fn floating(gateway: Gateway, inside: Option<(u32, &str)>, v6: bool) -> FloatingConfig {
    FloatingConfig {
        ip: ip(if v6 { "2001:db8::56" } else { "56.0.0.11" }),
        vni: vni(PUBLIC),
        gateway,
        inside: inside.map(|(v, a)| (vni(v), ip(a))),
        only: vec![],
        except: vec![],
    }
}

/// Checks with etherparse that every checksum of the packet inside `frame` is right.
fn assert_checksums(frame: &[u8]) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let fragment = packet.is_ip_payload_fragmented();
    let (src, dst) = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(v4) => {
            let header = v4.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum, "IPv4 header checksum");
            (IpAddr::from(header.source), IpAddr::from(header.destination))
        }
        NetSlice::Ipv6(v6) => (v6.header().source_addr().into(), v6.header().destination_addr().into()),
        NetSlice::Arp(_) => return,
    };
    if fragment {
        return;
    }
    match packet.transport.as_ref() {
        Some(TransportSlice::Tcp(tcp)) => {
            let want = match (src, dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => tcp.calc_checksum_ipv4(s.octets(), d.octets()),
                (IpAddr::V6(s), IpAddr::V6(d)) => tcp.calc_checksum_ipv6(s.octets(), d.octets()),
                _ => panic!("mixed families"),
            };
            assert_eq!(want.unwrap(), tcp.checksum(), "TCP checksum");
        }
        Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => {
            let header = udp.to_header();
            let want = match (src, dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => {
                    header.calc_checksum_ipv4_raw(s.octets(), d.octets(), udp.payload())
                }
                (IpAddr::V6(s), IpAddr::V6(d)) => {
                    header.calc_checksum_ipv6_raw(s.octets(), d.octets(), udp.payload())
                }
                _ => panic!("mixed families"),
            };
            assert_eq!(want.unwrap(), udp.checksum(), "UDP checksum");
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let want = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(want, icmp.checksum(), "ICMP checksum");
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let (IpAddr::V6(s), IpAddr::V6(d)) = (src, dst) else { panic!("mixed families") };
            assert!(icmp.is_checksum_valid(s.octets(), d.octets()), "ICMPv6 checksum");
        }
        _ => {}
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Tcp,
    Udp,
    Echo,
    /// An ICMP error that quotes a TCP, UDP or echo packet, which went the other way.
    Error(u8),
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Tcp), Just(Kind::Udp), Just(Kind::Echo), (0u8..3).prop_map(Kind::Error)]
}

/// A frame `from -> to` with right checksums.
fn packet(eth: (MacAddr, MacAddr), from: IpAddr, to: IpAddr, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let base = PacketBuilder::ethernet2(eth.0.0, eth.1.0);
    let step = match (from, to) {
        (IpAddr::V4(s), IpAddr::V4(d)) => base.ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => base.ipv6(s.octets(), d.octets(), 64),
        _ => panic!("mixed families"),
    };
    let mut out = Vec::new();
    match (kind, from.is_ipv4()) {
        (Kind::Tcp, _) => step.tcp(4000, 80, 7, 1000).write(&mut out, payload),
        (Kind::Udp, _) => step.udp(4000, 53).write(&mut out, payload),
        (Kind::Echo, true) => step.icmpv4_echo_request(1, 2).write(&mut out, payload),
        (Kind::Echo, false) => step.icmpv6_echo_request(1, 2).write(&mut out, payload),
        (Kind::Error(which), v4) => {
            let inner = [Kind::Tcp, Kind::Udp, Kind::Echo][usize::from(which)];
            let quoted = &packet(eth, to, from, inner, payload)[14..];
            // RFC 792 requires a quote of at least 8 bytes of the transport header; odd lengths occur.
            let cut = (quoted.len()).min(if v4 { 28 } else { 48 } + payload.len() % 40);
            if v4 {
                step.icmpv4_raw(3, 3, [0; 4]).write(&mut out, &quoted[..cut])
            } else {
                step.icmpv6_raw(1, 4, [0; 4]).write(&mut out, &quoted[..cut])
            }
        }
    }
    .unwrap();
    out
}

fn addresses(frame: &[u8]) -> (IpAddr, IpAddr) {
    match SlicedPacket::from_ethernet(frame).unwrap().net.unwrap() {
        NetSlice::Ipv4(v4) => (v4.header().source_addr().into(), v4.header().destination_addr().into()),
        NetSlice::Ipv6(v6) => (v6.header().source_addr().into(), v6.header().destination_addr().into()),
        NetSlice::Arp(_) => panic!("not IP"),
    }
}

/// The packet quoted by an ICMP error.
fn quoted(frame: &[u8]) -> Vec<u8> {
    match SlicedPacket::from_ethernet(frame).unwrap().transport.unwrap() {
        TransportSlice::Icmpv4(i) => i.payload().to_vec(),
        TransportSlice::Icmpv6(i) => i.payload().to_vec(),
        _ => panic!("not ICMP"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Random bytes on any port: no panic, every frame is counted, and no slot is lost.
    #[test]
    fn noise(frames in proptest::collection::vec((0u16..5, proptest::collection::vec(any::<u8>(), 0..200)), 1..20)) {
        let mut rvm = Rvm::new(11, false, false);
        for (at, bytes) in frames {
            rvm.forward(PortId(at), &bytes, Offload::NONE);
        }
    }

    /// Well-formed frames with a few bytes changed reach the deep branches that noise does not.
    #[test]
    fn mutations(kind in kind(), v6: bool, at in 0u16..4, routed: bool, tunnel: bool,
                 edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
                 cut in any::<prop::sample::Index>(), payload in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut rvm = Rvm::new(11, false, false);
        let here = Gateway::Here { reality: ip("10.0.0.11") };
        rvm.apply(Command::SetFloating(FloatingId(0), floating(here, Some((PRIVATE, "192.168.1.2")), false)));
        rvm.apply(Command::AddFdb(vni(PRIVATE), 0, mac(9), Location::Port(DOOR1)));
        let (from, to) = if v6 { ("fd01::2", "fd01::1") } else { ("192.168.1.2", "8.8.8.8") };
        let dst = if routed { router_mac(PRIVATE) } else { mac(8) };
        let mut bytes = packet((mac(9), dst), ip(from), ip(to), kind, &payload);
        if tunnel {
            let mut sender = Rvm::new(12, false, false);
            let sent = sender.forward(DOOR1, &bytes, Offload::NONE);
            bytes = sent.into_iter().find(|(p, _)| *p == UPLINK).map_or(bytes, |(_, b)| b);
        }
        for (i, value) in edits {
            let i = i.index(bytes.len());
            bytes[i] = value;
        }
        bytes.truncate(cut.index(bytes.len() * 2) + 1);
        rvm.forward(if tunnel { UPLINK } else { PortId(at) }, &bytes, Offload::NONE);
    }

    /// I-23, I-47: a frame from one door arrives at the other unchanged, over either underlay, with any tags
    /// and any VNI; the outer packet itself is correct.
    #[test]
    fn i23_tunnel_is_the_identity(kind in kind(), v6_in: bool, v6_out: bool, checksum: bool, tags in 0usize..3,
                              payload in proptest::collection::vec(any::<u8>(), 0..1200)) {
        let (mut a, mut b) = (Rvm::new(11, v6_out, checksum), Rvm::new(12, v6_out, checksum));
        let (from, to) = if v6_in { ("fd01::2", "fd01::3") } else { ("192.168.1.2", "192.168.1.3") };
        let mut bytes = packet((mac(1), mac(2)), ip(from), ip(to), kind, &payload);
        for tag in 0..tags {
            let tpid: [u8; 2] = if tag == 1 { [0x88, 0xa8] } else { [0x81, 0] };
            bytes.splice(12..12, [tpid[0], tpid[1], 0x20, 10 + tag as u8]);
        }
        let outer = a.forward(DOOR1, &bytes, Offload::NONE);
        prop_assert_eq!(outer.len(), 1);
        prop_assert_eq!(outer[0].0, UPLINK);
        prop_assert_eq!(outer[0].1.len(), bytes.len() + if v6_out { 70 } else { 50 });
        assert_checksums(&outer[0].1);
        let udp_csum_at = if v6_out { 60 } else { 40 };
        prop_assert_eq!(outer[0].1[udp_csum_at..udp_csum_at + 2] != [0, 0], checksum);
        let inner = b.forward(UPLINK, &outer[0].1, Offload::NONE);
        prop_assert_eq!(inner, vec![(DOOR1, bytes.clone())]);
        // The answer is unicast now: the switch has learned the station.
        let mut back = bytes;
        back.splice(0..12, [mac(1).0, mac(2).0].concat());
        let outer = b.forward(DOOR1, &back, Offload::NONE);
        let inner = a.forward(UPLINK, &outer[0].1, Offload::NONE);
        prop_assert_eq!(inner, vec![(DOOR1, back)]);
    }

    /// I-35, I-37, I-42: in through DNAT and out through SNAT, for every protocol, errors with their quotes,
    /// and both families. Checksums are right on both sides, and both translations together restore the
    /// addresses.
    #[test]
    fn i35_i37_translation_is_right(kind in kind(), v6: bool, fragment: bool,
                                    payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut rvm = Rvm::new(11, false, false);
        let (reality, inside, outside) = if v6 {
            ("fd00::11", "fd01::2", "2001:db8::99")
        } else {
            ("10.0.0.11", "192.168.1.2", "203.0.113.9")
        };
        let here = Gateway::Here { reality: ip(reality) };
        rvm.apply(Command::SetFloating(FloatingId(0), floating(here, Some((PRIVATE, inside)), v6)));
        // The iVM announces its location by an ARP or ND answer.
        rvm.learn(DOOR1, mac(9));
        announce(&mut rvm, DOOR1, mac(9), ip(inside));
        let fragmented = fragment && !v6 && !matches!(kind, Kind::Error(_));
        let mut arriving = packet((mac(1), mac(11)), ip(outside), ip(reality), kind, &payload);
        if fragmented {
            arriving[20] = 0x00;
            arriving[21] = 0x08;
            fix_ipv4(&mut arriving);
        }
        let got = rvm.forward(UPLINK, &arriving, Offload::NONE);
        prop_assert_eq!(got.len(), 1, "{:?}", rvm.switch.port_counters(UPLINK));
        prop_assert_eq!(got[0].0, DOOR1);
        assert_checksums(&got[0].1);
        prop_assert_eq!(addresses(&got[0].1), (ip(outside), ip(inside)));
        prop_assert_eq!(&got[0].1[..6], &mac(9).0);
        if let Kind::Error(_) = kind {
            let q = quoted(&got[0].1);
            let source = if v6 { &q[8..24] } else { &q[12..16] };
            let want = match ip(inside) { IpAddr::V4(a) => a.octets().to_vec(), IpAddr::V6(a) => a.octets().to_vec() };
            prop_assert_eq!(source, &want[..]);
        }
        // The other direction.
        let leaving = packet((mac(9), router_mac(PRIVATE)), ip(inside), ip(outside), kind, &payload);
        let sent = rvm.forward(DOOR1, &leaving, Offload::NONE);
        prop_assert_eq!(sent.len(), 1, "{:?}", rvm.switch.port_counters(DOOR1));
        prop_assert_eq!(sent[0].0, UPLINK);
        assert_checksums(&sent[0].1);
        prop_assert_eq!(addresses(&sent[0].1), (ip(reality), ip(outside)));
        if let Kind::Error(_) = kind {
            let q = quoted(&sent[0].1);
            let dest = if v6 { &q[24..40] } else { &q[16..20] };
            let want = match ip(reality) { IpAddr::V4(a) => a.octets().to_vec(), IpAddr::V6(a) => a.octets().to_vec() };
            prop_assert_eq!(dest, &want[..]);
        }
    }

    /// A local stack leaves the checksum unfinished and AF_XDP does not mark it. On every path the frame
    /// leaves complete.
    #[test]
    fn partial_checksums_leave_complete(udp: bool, v6: bool, way in 0u8..3,
                                        payload in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut rvm = Rvm::new(11, false, false);
        let here = Gateway::Here { reality: ip(if v6 { "fd00::11" } else { "10.0.0.11" }) };
        let inside = if v6 { "fd01::2" } else { "192.168.1.2" };
        rvm.apply(Command::SetFloating(FloatingId(0), floating(here, Some((PRIVATE, inside)), v6)));
        rvm.switch.set_caps(DOOR1, engine::port::PortCaps { rx_csum_unmarked: true, ..Default::default() });
        let outside = if v6 { "2001:db8::99" } else { "203.0.113.9" };
        let (dst, to) = match way {
            0 => (mac(8), ip(if v6 { "fd01::3" } else { "192.168.1.3" })),
            1 => (MacAddr::BROADCAST, ip(if v6 { "fd01::3" } else { "192.168.1.3" })),
            _ => (router_mac(PRIVATE), ip(outside)),
        };
        let kind = if udp { Kind::Udp } else { Kind::Tcp };
        let complete = packet((mac(9), dst), ip(inside), to, kind, &payload);
        let mut partial = complete.clone();
        let l4 = if v6 { 54 } else { 34 };
        let proto = if udp { 17 } else { 6 };
        let sum = engine::wire::checksum::pseudo(ip(inside).into(), to.into(), proto, (complete.len() - l4) as u32);
        let at = l4 + if udp { 6 } else { 16 };
        partial[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let sent = rvm.forward(DOOR1, &partial, Offload::NONE);
        prop_assert!(!sent.is_empty());
        for (port, bytes) in sent {
            prop_assert_eq!(port, UPLINK);
            let inner = if way == 2 { bytes } else { bytes[50..].to_vec() };
            assert_checksums(&inner);
            if way != 2 {
                prop_assert_eq!(inner, complete.clone());
            }
        }
    }

    /// A guest port accepts only frames with its own MAC and IP.
    #[test]
    fn t3_guest_cannot_spoof(source in 1u8..20, kind in kind(), address in 1u8..20, tags in 0usize..3) {
        let mut rvm = Rvm::new(11, false, false);
        let mut config = port(Some(vni(PRIVATE)), Role::Guest, 1500);
        config.vlan = VlanPolicy::Access(5);
        config.binding.macs = vec![mac(9)];
        config.binding.ips = vec![IpPrefix::host(ip("192.168.1.9"))];
        rvm.apply(Command::SetPort(GUEST, config));
        let from = ip(&format!("192.168.1.{address}"));
        let mut bytes = packet((mac(source), mac(8)), from, ip("192.168.1.3"), kind, &[]);
        for _ in 0..tags {
            bytes.splice(12..12, [0x81, 0, 0, 5]);
        }
        let sent = rvm.forward(GUEST, &bytes, Offload::NONE);
        let honest = source == 9 && address == 9 && tags == 0;
        prop_assert_eq!(!sent.is_empty(), honest, "{:?}", sent);
        if let Some((_, bytes)) = sent.first() {
            prop_assert_eq!(&bytes[50 + 12..50 + 16], &[0x81, 0, 0, 5], "the access VLAN's tag inside");
        }
    }
}

fn fix_ipv4(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = !engine::wire::checksum::sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// A station announces its address, by gratuitous ARP or unsolicited neighbor advertisement.
fn announce(rvm: &mut Rvm, at: PortId, who: MacAddr, address: IpAddr) {
    let mut bytes = vec![0; 86];
    match address {
        IpAddr::V4(a) => {
            bytes.truncate(42);
            bytes[..6].fill(0xff);
            bytes[6..12].copy_from_slice(&who.0);
            bytes[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            bytes[22..28].copy_from_slice(&who.0);
            bytes[28..32].copy_from_slice(&a.octets());
            bytes[38..42].copy_from_slice(&a.octets());
        }
        IpAddr::V6(a) => {
            bytes[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
            bytes[6..12].copy_from_slice(&who.0);
            bytes[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
            bytes[22..38].copy_from_slice(&a.octets());
            bytes[38..54].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            bytes[54] = 136;
            bytes[62..78].copy_from_slice(&a.octets());
            bytes[78..80].copy_from_slice(&[2, 1]);
            bytes[80..86].copy_from_slice(&who.0);
        }
    }
    rvm.forward(at, &bytes, Offload::NONE);
}

/// I-35, I-36, I-37 across two rVMs without a CMS: in at the gateway, through the tunnel, to the inside
/// address on the owner, and back by source route. Each step takes one pass.
#[test]
fn i36_owner_and_gateway() {
    let (mut gw, mut owner) = (Rvm::new(11, false, false), Rvm::new(12, false, false));
    gw.apply(Command::SetFloating(
        FloatingId(0),
        floating(Gateway::Here { reality: ip("10.0.0.11") }, None, false),
    ));
    let inside = Some((PRIVATE, "192.168.1.2"));
    owner.apply(Command::SetFloating(FloatingId(0), floating(Gateway::Peer(PeerId(0)), inside, false)));
    announce(&mut owner, DOOR1, mac(9), ip("192.168.1.2"));
    // The gateway asks the public network for 56.0.0.11; the owner's switch answers.
    gw.now = gw.now + core::time::Duration::from_secs(1);
    let now = gw.now;
    gw.switch.tick(now, &mut gw.pool);
    let question = gw.sent().into_iter().find(|(p, _)| *p == UPLINK).unwrap().1;
    let answer = owner.forward(UPLINK, &question, Offload::NONE);
    assert_eq!(answer.len(), 1);
    assert_eq!(gw.forward(UPLINK, &answer[0].1, Offload::NONE), vec![]);
    assert_eq!(gw.switch.counters().consumed, 1);

    let arriving = packet((mac(1), mac(11)), ip("203.0.113.9"), ip("10.0.0.11"), Kind::Tcp, b"GET /");
    let outer = gw.forward(UPLINK, &arriving, Offload::NONE);
    assert_eq!(outer[0].0, UPLINK);
    assert_eq!(addresses(&outer[0].1[50..]), (ip("203.0.113.9"), ip("56.0.0.11")));
    assert_checksums(&outer[0].1[50..]);
    let inner = owner.forward(UPLINK, &outer[0].1, Offload::NONE);
    assert_eq!(inner[0].0, DOOR1);
    assert_eq!(addresses(&inner[0].1), (ip("203.0.113.9"), ip("192.168.1.2")));
    assert_checksums(&inner[0].1);

    let reply =
        packet((mac(9), router_mac(PRIVATE)), ip("192.168.1.2"), ip("203.0.113.9"), Kind::Tcp, b"200 OK");
    let outer = owner.forward(DOOR1, &reply, Offload::NONE);
    assert_eq!(addresses(&outer[0].1[50..]), (ip("56.0.0.11"), ip("203.0.113.9")));
    let out = gw.forward(UPLINK, &outer[0].1, Offload::NONE);
    assert_eq!(out[0].0, UPLINK);
    assert_eq!(addresses(&out[0].1), (ip("10.0.0.11"), ip("203.0.113.9")));
    assert_eq!(&out[0].1[..12], [mac(1).0, mac(11).0].concat());
    assert_eq!(out[0].1[22], 62, "two hops");
    assert_checksums(&out[0].1);
}

/// T-14: a guest's packet to a VTEP, to the tunnel port or to the metadata service does not leave by NAT.
#[test]
fn t14_guard_before_snat() {
    let mut rvm = Rvm::new(11, false, false);
    let here = Gateway::Here { reality: ip("10.0.0.11") };
    rvm.apply(Command::SetFloating(FloatingId(0), floating(here, Some((PRIVATE, "192.168.1.2")), false)));
    for to in ["10.0.0.12", "10.0.0.11", "169.254.169.254", "224.0.0.1", "255.255.255.255", "127.0.0.1"] {
        let bytes = packet((mac(9), router_mac(PRIVATE)), ip("192.168.1.2"), ip(to), Kind::Udp, b"x");
        let out = rvm.forward(DOOR1, &bytes, Offload::NONE);
        assert!(out.iter().all(|(port, _)| *port == DOOR1), "{to}: the guest may be told, nothing leaves");
    }
    let mut vxlan = Vec::new();
    PacketBuilder::ethernet2(mac(9).0, router_mac(PRIVATE).0)
        .ipv4([192, 168, 1, 2], [203, 0, 113, 9], 64)
        .udp(50000, 4789)
        .write(&mut vxlan, &[8, 0, 0, 0, 0, 0, 100, 0])
        .unwrap();
    assert_eq!(rvm.forward(DOOR1, &vxlan, Offload::NONE), vec![]);
    assert_eq!(rvm.drops(DOOR1, DropReason::Guarded), 7);
}

/// A packet from the Internet does not fit the tunnel. The sender gets the MTU that fits, by an ICMP error
/// from the reality address that quotes the packet as it was sent. A packet that permits fragmentation goes
/// on in fragments.
#[test]
fn too_big_is_told() {
    for v6 in [false, true] {
        let mut rvm = Rvm::new(11, false, false);
        let (reality, public, outside) = if v6 {
            ("fd00::11", "2001:db8::56", "2001:db8::99")
        } else {
            ("10.0.0.11", "56.0.0.11", "203.0.113.9")
        };
        rvm.apply(Command::SetFloating(
            FloatingId(0),
            floating(Gateway::Here { reality: ip(reality) }, None, v6),
        ));
        let mut hello = vec![0; 100];
        let who: IpAddr = ip(public);
        let n = engine::forward::act::ask(&mut hello, mac(9), Some(who.into()), who.into());
        let mut sender = Rvm::new(12, false, false);
        let outer = sender.forward(DOOR2, &hello[..n], Offload::NONE);
        rvm.forward(UPLINK, &outer[0].1, Offload::NONE);
        let mut arriving = packet((mac(1), mac(11)), ip(outside), ip(reality), Kind::Tcp, &[7; 1550]);
        if !v6 {
            arriving[20] = 0x40;
            fix_ipv4(&mut arriving);
        }
        let told = rvm.forward(UPLINK, &arriving, Offload::NONE);
        assert_eq!(told.len(), 1, "{:?}", rvm.switch.port_counters(UPLINK));
        let (port, error) = &told[0];
        assert_eq!((*port, &error[..12]), (UPLINK, &[mac(1).0, mac(11).0].concat()[..]));
        assert_checksums(error);
        assert_eq!(addresses(error), (ip(reality), ip(outside)));
        let icmp = &error[if v6 { 54 } else { 34 }..];
        assert_eq!(&icmp[..2], if v6 { &[2, 0] } else { &[3, 4] });
        assert_eq!(&icmp[6..8], &1550u16.to_be_bytes(), "the tunnel's 1600 less 50");
        assert_eq!(&icmp[8..48], &arriving[14..54], "the packet as it was sent");
        assert_eq!(rvm.drops(UPLINK, DropReason::TooBig), 1);
        let fits = packet(
            (mac(1), mac(11)),
            ip(outside),
            ip(reality),
            Kind::Tcp,
            &vec![7; if v6 { 1490 } else { 1510 }],
        );
        assert_eq!(rvm.forward(UPLINK, &fits, Offload::NONE)[0].1.len(), 14 + 1600);
        if !v6 {
            arriving[20] = 0;
            fix_ipv4(&mut arriving);
            assert_eq!(rvm.forward(UPLINK, &arriving, Offload::NONE).len(), 2);
            assert_eq!(rvm.drops(UPLINK, DropReason::TooBig), 1);
        }
    }
}

/// The virtual gateway answers ARP, ND and echo, to a door and through the tunnel.
#[test]
fn virtual_gateway_answers() {
    let mut rvm = Rvm::new(11, false, false);
    let echo =
        packet((mac(9), router_mac(PRIVATE)), ip("192.168.1.2"), ip("192.168.1.1"), Kind::Echo, b"hello");
    let got = rvm.forward(DOOR1, &echo, Offload::NONE);
    assert_eq!(got[0].0, DOOR1);
    assert_checksums(&got[0].1);
    assert_eq!(addresses(&got[0].1), (ip("192.168.1.1"), ip("192.168.1.2")));
    let echo = packet((mac(9), router_mac(PRIVATE)), ip("fd01::2"), ip("fd01::1"), Kind::Echo, b"hello");
    let got = rvm.forward(DOOR1, &echo, Offload::NONE);
    assert_checksums(&got[0].1);
    assert_eq!(got[0].1[54], 129);
    let mut question = vec![0; 100];
    let n =
        engine::forward::act::ask(&mut question, mac(9), Some(ip("fd01::2").into()), ip("fd01::1").into());
    let got = rvm.forward(DOOR1, &question[..n], Offload::NONE);
    assert_eq!(got[0].0, DOOR1);
    assert_checksums(&got[0].1);
    assert_eq!((got[0].1[54], &got[0].1[80..86]), (136, &router_mac(PRIVATE).0[..]));
    // Behind extension headers the request is longer than its answer, and its target lies beyond the answer's
    // end.
    for len in [0, 1, 4] {
        let mut long = question[..n].to_vec();
        long[20] = 60;
        long[18..20].copy_from_slice(&(32 + 8 + 8 * u16::from(len)).to_be_bytes());
        let mut header = vec![58, len, 1, 4 + 8 * len];
        header.resize(8 + 8 * usize::from(len), 0);
        long.splice(54..54, header);
        assert_eq!(rvm.forward(DOOR1, &long, Offload::NONE), got, "{len}");
    }
    let n = engine::forward::act::ask(&mut question, mac(9), None, ip("192.168.1.1").into());
    let got = rvm.forward(DOOR1, &question[..n], Offload::NONE);
    assert_eq!((got.len(), &got[0].1[20..28]), (1, &[&[0, 2][..], &router_mac(PRIVATE).0].concat()[..]));
}
