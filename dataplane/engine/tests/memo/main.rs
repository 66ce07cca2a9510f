//! A verdict from the flow cache equals the verdict of the slow path. Two switches see the same frames, the
//! same changes of tables and the same clock; one uses its flow cache, the other has to forget its verdicts
//! before every batch. All frames sent and all counters are equal. The same holds during a capture, and the
//! result of a dry run equals the fate of the frame afterwards, and the dry run itself changes nothing.

mod cases;
mod dry_run;
mod overlay;

use std::net::IpAddr;
use std::time::Duration;

use engine::command::*;
use engine::forward::Switch;
use engine::frame::{Batch, Frame, FramePool, HeapPool};
use engine::limits::FDB_AGE;
use engine::port::PortCaps;
use engine::time::Instant;
use engine::watch::filter::Filter;
use engine::watch::{Fate, WatchId, WatchSpec};
use engine::wire::mac::MacAddr;
use etherparse::PacketBuilder;
use overlay::Overlay;
use proptest::prelude::*;

const UPLINK: PortId = PortId(0);
const DOOR1: PortId = PortId(1);
const DOOR2: PortId = PortId(2);
const GUEST: PortId = PortId(3);
const DOOR3: PortId = PortId(4);
const PORTS: [PortId; 5] = [UPLINK, DOOR1, DOOR2, GUEST, DOOR3];
const PRIVATE: u32 = 100;
const PUBLIC: u32 = 200;

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

fn router_mac(n: u32) -> MacAddr {
    let b = n.to_be_bytes();
    MacAddr([2, 0x69, 0x76, b[1], b[2], b[3]])
}

const SWITCH_MAC: MacAddr = MacAddr([2, 0x69, 0x77, 0, 0, 11]);

/// Stations, the switch's own addresses, and a group.
fn mac(n: u8) -> MacAddr {
    match n {
        0..8 => MacAddr([2, 0, 0, 0, 0, n]),
        8 => router_mac(PRIVATE),
        9 => router_mac(PUBLIC),
        10 => SWITCH_MAC,
        11 => MacAddr([2, 0, 0, 0, 1, 11]), // the NIC
        _ => MacAddr::BROADCAST,
    }
}

/// Addresses with a meaning somewhere in the configuration.
fn address(n: u8) -> [u8; 4] {
    match n {
        0 => [192, 168, 1, 2],
        1 => [192, 168, 1, 3],
        2 => [56, 0, 0, 11],
        3 => [56, 0, 0, 12],
        4 => [10, 0, 0, 11],
        5 => [10, 0, 0, 12],
        6 => [203, 0, 113, 9],
        7 => [169, 254, 169, 254],
        8 => [10, 0, 0, 13],
        _ => [10, 2, 0, 1],
    }
}

#[derive(Clone, Debug)]
struct Packet {
    at: u8,
    dst: u8,
    src: u8,
    from: u8,
    to: u8,
    tcp: bool,
    sport: u8,
    dport: u8,
    ttl: u8,
    tos: u8,
    len: usize,
    padding: usize,
    /// Through the tunnel: peer, network, outer ECN.
    tunnel: Option<(u8, bool, u8)>,
    /// The checksum field holds the pseudo-header's sum.
    partial: bool,
    /// For UDP: it carries a packet of an overlay of its sender's own.
    overlay: Option<Overlay>,
    edit: Option<(usize, u8)>,
}

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<Packet>),
    /// The same packets again, which is when the flow cache matters.
    Again,
    Fdb(u8, u8, bool),
    Floating(u8, u8),
    Live(u8, bool),
    Mtu(u8, bool),
    Neighbor(u8, bool),
    Flush,
    Caps(bool),
    Peer(bool, bool),
    Time(u16),
    Arp(u8, u8, u8),
    /// A station sends from another location.
    Hello(u8, u8),
}

impl Packet {
    /// A UDP packet without special properties.
    const fn plain() -> Self {
        Self {
            at: 0,
            dst: 1,
            src: 2,
            from: 0,
            to: 1,
            tcp: false,
            sport: 0,
            dport: 0,
            ttl: 64,
            tos: 0,
            len: 10,
            padding: 0,
            tunnel: None,
            partial: false,
            overlay: None,
            edit: None,
        }
    }
}

fn port_number(n: u8) -> u16 {
    [80, 67, 4789, 22, 40_000, 53, 68, 4011][usize::from(n % 8)]
}

/// The payload of a packet: for DHCP ports sometimes a message, whose content decides whether a guest may
/// send it.
fn payload(p: &Packet) -> Vec<u8> {
    let mut payload = vec![7; p.len];
    if !p.tcp && matches!(port_number(p.dport), 67 | 4011) && !p.len.is_multiple_of(4) {
        payload = vec![0; 240];
        payload[..3].copy_from_slice(&[(p.len % 3) as u8, 1, 6]);
        payload[28..34].copy_from_slice(&mac(p.len as u8 % 3).0);
    }
    payload
}

fn packet() -> impl Strategy<Value = Packet> {
    let who = (0u8..5, 0u8..13, 0u8..13, 0u8..10, 0u8..10);
    let what = (any::<bool>(), 0u8..8, 0u8..8, prop_oneof![8 => Just(64u8), 1 => 0u8..3]);
    let rest = (
        prop_oneof![9 => Just(0u8), 1 => 0u8..4],
        prop_oneof![8 => 0usize..30, 1 => 1380usize..1500],
        prop_oneof![5 => Just(0usize), 1 => 1usize..9],
        prop_oneof![
            Just(None),
            (0u8..3, any::<bool>(), prop_oneof![8 => Just(0u8), 1 => 0u8..4]).prop_map(Some)
        ],
        prop::bool::weighted(0.05),
        prop_oneof![
            3 => Just(None),
            1 => (0u8..4, any::<bool>(), any::<bool>())
                .prop_map(|(kind, partial, summed)| Some(Overlay { kind, partial, summed }))
        ],
        prop_oneof![9 => Just(None), 1 => (0usize..100, any::<u8>()).prop_map(Some)],
    );
    (who, what, rest).prop_map(|((at, dst, src, from, to), (tcp, sport, dport, ttl), rest)| {
        let (tos, len, padding, tunnel, partial, overlay, edit) = rest;
        Packet {
            at,
            dst,
            src,
            from,
            to,
            tcp,
            sport,
            dport,
            ttl,
            tos,
            len,
            padding,
            tunnel,
            partial,
            overlay,
            edit,
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(packet(), 1..6).prop_map(Step::Batch),
        8 => Just(Step::Again),
        2 => (0u8..8, 0u8..6, any::<bool>()).prop_map(|(m, w, p)| Step::Fdb(m, w, p)),
        2 => (0u8..2, 0u8..7).prop_map(|(id, kind)| Step::Floating(id, kind)),
        1 => (0u8..5, any::<bool>()).prop_map(|(p, live)| Step::Live(p, live)),
        1 => (0u8..5, any::<bool>()).prop_map(|(p, small)| Step::Mtu(p, small)),
        1 => (0u8..3, any::<bool>()).prop_map(|(n, there)| Step::Neighbor(n, there)),
        1 => Just(Step::Flush),
        1 => any::<bool>().prop_map(Step::Caps),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(a, b)| Step::Peer(a, b)),
        2 => (0u16..600).prop_map(Step::Time),
        2 => (1u8..5, 0u8..8, 0u8..4).prop_map(|(p, m, a)| Step::Arp(p, m, a)),
        5 => (1u8..5, 0u8..8).prop_map(|(p, m)| Step::Hello(p, m)),
    ]
}

fn inner(p: &Packet) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(mac(p.src).0, mac(p.dst).0).ipv4(address(p.from), address(p.to), p.ttl);
    let (sport, dport) = (port_number(p.sport), port_number(p.dport));
    let overlay = p.overlay.filter(|_| !p.tcp);
    let payload = overlay.map_or_else(|| payload(p), Overlay::payload);
    let mut bytes = Vec::new();
    if p.tcp {
        builder.tcp(sport, dport, 1, 1000).write(&mut bytes, &payload).unwrap();
    } else {
        builder.udp(sport, dport).write(&mut bytes, &payload).unwrap();
    }
    bytes[15] |= p.tos;
    let sum = engine::wire::checksum::sum(&bytes[14..34]);
    let old = u16::from_be_bytes([bytes[24], bytes[25]]);
    if sum != 0xffff {
        let header = {
            bytes[24..26].fill(0);
            !engine::wire::checksum::sum(&bytes[14..34])
        };
        bytes[24..26].copy_from_slice(&header.to_be_bytes());
    } else {
        bytes[24..26].copy_from_slice(&old.to_be_bytes());
    }
    if let Some(overlay) = overlay {
        overlay.open(&mut bytes);
    }
    if p.partial {
        let (proto, at) = if p.tcp { (6, 50) } else { (17, 40) };
        let len = (bytes.len() - 34) as u32;
        let (from, to) = (IpAddr::from(address(p.from)), IpAddr::from(address(p.to)));
        let pseudo = engine::wire::checksum::pseudo(from.into(), to.into(), proto, len);
        bytes[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    }
    bytes.extend(vec![0; p.padding]);
    bytes
}

fn frame(p: &Packet) -> (PortId, Vec<u8>) {
    let mut bytes = inner(p);
    let mut at = PORTS[usize::from(p.at)];
    if let Some((peer, private, ecn)) = p.tunnel {
        let peer = [[10, 0, 0, 12], [10, 0, 0, 13], [10, 0, 0, 99]][usize::from(peer)];
        let mut payload = vec![8, 0, 0, 0];
        payload.extend((if private { PRIVATE } else { PUBLIC } << 8).to_be_bytes());
        payload.extend(bytes);
        bytes = Vec::new();
        let outer = PacketBuilder::ethernet2(mac(5).0, mac(11).0).ipv4(peer, [10, 0, 0, 11], 64);
        outer.udp(50_000, 4789).write(&mut bytes, &payload).unwrap();
        bytes[15] |= ecn;
        bytes.extend(vec![0; p.padding]);
        at = UPLINK;
    }
    if let Some((n, value)) = p.edit {
        let n = n % bytes.len();
        bytes[n] = value;
    }
    (at, bytes)
}

struct Rvm {
    switch: Switch,
    pool: HeapPool,
    now: Instant,
    remembers: bool,
    watched: bool,
}

impl Rvm {
    fn new(remembers: bool) -> Self {
        let mut rvm = Self {
            switch: Switch::new(7),
            pool: HeapPool::new(256, 4),
            now: Instant::from_millis(1000),
            remembers,
            watched: false,
        };
        for port in 0..5 {
            rvm.port(port, true, false);
        }
        rvm.apply(Command::SetUplink(UplinkConfig {
            port: UPLINK,
            mac: mac(11),
            vtep: ip("10.0.0.11"),
            tunnel_port: 4789,
            checksum: false,
            mtu: 1500,
            guard: vec![IpPrefix { addr: ip("169.254.169.254"), len: 32 }],
            switch_mac: SWITCH_MAC,
            name: 1,
            reserved_bits: engine::tunnel::vxlan::RESERVED,
        }));
        for (n, gateway) in [(PRIVATE, "192.168.1.1"), (PUBLIC, "10.2.0.1")] {
            rvm.apply(Command::SetNetwork(NetworkConfig {
                vni: vni(n),
                gateways: vec![ip(gateway)],
                router_mac: router_mac(n),
                fdb_max: 100,
                fdb_age: FDB_AGE,
                mss_clamp: true,
                dhcp: None,
            }));
        }
        rvm.peer(false, false);
        rvm.apply(Command::SetUnderlayRoutes(
            vec![
                UnderlayRoute::new(IpPrefix { addr: ip("10.0.0.0"), len: 16 }, None),
                UnderlayRoute::new(IpPrefix { addr: ip("0.0.0.0"), len: 0 }, Some(ip("10.0.0.1"))),
            ]
            .into(),
        ));
        for n in 0..3 {
            rvm.neighbor(n, true);
        }
        rvm.apply(Command::SetSourceRoute(SourceRouteConfig {
            vni: vni(PUBLIC),
            from: IpPrefix { addr: ip("56.0.0.12"), len: 32 },
            via: NextHop::Peer(PeerId(0)),
        }));
        rvm.floating(0, 1);
        rvm.floating(1, 4);
        rvm
    }

    fn apply(&mut self, command: Command) {
        self.switch.apply(self.now, command, &mut self.pool);
    }

    fn port(&mut self, n: u8, live: bool, small: bool) {
        let id = PORTS[usize::from(n)];
        let role = match id {
            UPLINK => Role::Uplink,
            GUEST => Role::Guest,
            _ => Role::Door,
        };
        let binding = if id == GUEST {
            let own = IpPrefix { addr: IpAddr::from(address(0)), len: 32 };
            Binding { macs: vec![mac(0), mac(1)], ips: vec![own], ..Binding::default() }
        } else {
            Binding::default()
        };
        self.apply(Command::SetPort(
            id,
            PortConfig {
                vni: match id {
                    UPLINK => None,
                    DOOR2 => Some(vni(PUBLIC)),
                    _ => Some(vni(PRIVATE)),
                },
                role,
                live,
                mtu: if small { 1400 } else { 1500 },
                vlan: VlanPolicy::Transparent,
                binding: Box::new(binding),
                bum_pps: None,
                policy: Box::new(PortPolicy { learning: !small, flood: !small, ..PortPolicy::default() }),
                fdb_max: 6,
            },
        ));
    }

    fn neighbor(&mut self, n: u8, there: bool) {
        let hop = ip(["10.0.0.1", "10.0.0.12", "10.0.0.13"][usize::from(n)]);
        self.apply(if there {
            Command::SetUnderlayNeighbor(hop, MacAddr([2, 0, 0, 0, 2, n]))
        } else {
            Command::RemoveUnderlayNeighbor(hop)
        });
    }

    fn peer(&mut self, spoke: bool, behind: bool) {
        let vnis = vec![vni(PRIVATE), vni(PUBLIC)];
        for (id, last) in [(PeerId(0), "10.0.0.12"), (PeerId(1), "10.0.0.13")] {
            let via = (behind && id == PeerId(1)).then_some(PeerId(0));
            let config = PeerConfig {
                address: ip(last),
                vnis: vnis.clone(),
                via,
                spoke,
                mtu: 1500,
                fragment: false,
                outer: OuterIp {
                    ttl: if spoke { OuterField::Inherit } else { OuterField::Fixed(9) },
                    tos: if behind { OuterField::Inherit } else { OuterField::Fixed(0xb8) },
                },
            };
            self.apply(Command::SetPeer(id, config));
        }
    }

    fn floating(&mut self, id: u8, kind: u8) {
        let here = Gateway::Here { reality: ip(["10.0.0.11", "10.0.0.13"][usize::from(id)]) };
        let inside = Some((vni(PRIVATE), IpAddr::from(address(id))));
        let range = |first| L4Range { proto: L4Proto::Tcp, first, last: first };
        let (gateway, inside, only, except) = match kind {
            0 => return self.apply(Command::RemoveFloating(FloatingId(id.into()))),
            1 => (here, inside, vec![], vec![range(22)]),
            2 => (here, None, vec![], vec![]),
            3 => (Gateway::Peer(PeerId(0)), inside, vec![], vec![]),
            4 => (Gateway::Peer(PeerId(1)), inside, vec![], vec![]),
            5 => (Gateway::Peer(PeerId(0)), None, vec![], vec![]),
            _ => (here, inside, vec![range(80)], vec![]),
        };
        let config = FloatingConfig {
            ip: IpAddr::from(address(2 + id)),
            vni: vni(PUBLIC),
            gateway,
            inside,
            only,
            except,
        };
        self.apply(Command::SetFloating(FloatingId(id.into()), config));
    }

    fn batch(&mut self, at: PortId, frames: &[Vec<u8>]) {
        if !self.remembers {
            self.switch.forget();
        }
        if self.watched {
            return frames.iter().for_each(|bytes| self.watch(at, bytes));
        }
        let mut batch = Batch::new();
        for bytes in frames {
            batch.push(self.pool.alloc_from(bytes).unwrap());
        }
        self.switch.forward(self.now, at, &mut batch, &mut self.pool);
    }

    /// A dry run of a frame; then the same frame comes in under observation.
    fn watch(&mut self, at: PortId, bytes: &[u8]) {
        let before = self.stations();
        let rehearsed = self.switch.trace(self.now, at, bytes, &self.pool);
        let mut batch = Batch::new();
        batch.push(self.pool.alloc_from(bytes).unwrap());
        self.switch.forward(self.now, at, &mut batch, &mut self.pool);
        let query = Query::Seen(WatchId(1), usize::MAX, usize::MAX);
        let Answer::Seen(mut seen, 0) = self.switch.answer_query(self.now, &query, &mut self.pool) else {
            panic!("frames were lost");
        };
        seen.retain(|seen| matches!(seen.fate, Fate::Walked(_)));
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].port, seen[0].bytes.as_slice()), (at, bytes));
        // A dry run learns nothing. Where that matters, the two results may differ.
        if before == self.stations() {
            assert_eq!(seen[0].fate, Fate::Walked(rehearsed));
        }
    }

    fn stations(&mut self) -> String {
        format!("{:?}", self.switch.tables().fdb.page(Instant::ZERO, 0).0)
    }

    fn run(&mut self, step: &Step, last: &[Packet]) {
        let location = |w: u8| match w {
            0..4 => Location::Port(PORTS[usize::from(w) + 1]),
            w => Location::Peer(PeerId(u16::from(w) - 4)),
        };
        match step {
            Step::Batch(_) | Step::Again => {
                for at in PORTS {
                    let frames: Vec<_> = last.iter().map(frame).filter(|f| f.0 == at).map(|f| f.1).collect();
                    self.batch(at, &frames);
                }
            }
            Step::Fdb(m, w, private) => {
                let vni = vni(if *private { PRIVATE } else { PUBLIC });
                self.apply(if *w < 5 {
                    Command::AddFdb(vni, 0, mac(*m), location(*w))
                } else {
                    Command::RemoveFdb(vni, 0, mac(*m))
                });
            }
            Step::Floating(id, kind) => self.floating(*id, *kind),
            Step::Live(n, live) => self.port(*n, *live, false),
            Step::Mtu(n, small) => self.port(*n, true, *small),
            Step::Neighbor(n, there) => self.neighbor(*n, *there),
            Step::Flush => self.apply(Command::FlushFdb(None, None)),
            Step::Caps(unmarked) => {
                let caps = PortCaps { rx_csum_unmarked: *unmarked, ..PortCaps::default() };
                self.switch.set_caps(DOOR1, caps);
                self.switch.set_caps(UPLINK, caps);
            }
            Step::Peer(spoke, behind) => self.peer(*spoke, *behind),
            Step::Time(seconds) => {
                self.now = self.now + Duration::from_secs(u64::from(*seconds));
                for _ in 0..40 {
                    self.now = self.now + Duration::from_millis(250);
                    self.switch.tick(self.now, &mut self.pool);
                }
            }
            Step::Hello(p, m) => {
                let mut hello = vec![0xff; 6];
                hello.extend(mac(*m).0);
                hello.extend([0x88, 0xb5]);
                self.batch(PORTS[usize::from(*p)], &[hello]);
            }
            Step::Arp(p, m, a) => {
                let mut arp = vec![0xff; 6];
                arp.extend(mac(*m).0);
                arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
                arp.extend(mac(*m).0);
                arp.extend(address(*a));
                arp.extend([0; 6]);
                arp.extend(address(*a));
                self.batch(PORTS[usize::from(*p)], &[arp]);
            }
        }
    }

    /// All frames sent, port by port, and all counters.
    fn account(&mut self) -> (Vec<(u16, Vec<u8>)>, String) {
        let mut out = Vec::new();
        for id in 0..self.switch.port_bound() {
            self.switch.flush(PortId(id), &mut self.pool, |pool, queue| {
                take(pool, queue, |bytes| out.push((id, bytes)));
                Ok(())
            });
        }
        self.switch.flush_punted(&mut self.pool, |pool, queue| {
            take(pool, queue, |bytes| out.push((u16::MAX, bytes)))
        });
        assert!(self.switch.counters().conserved());
        assert_eq!(self.pool.usage().used, 0, "a slot leaked");
        let mut query = |q| format!("{:?}", self.switch.answer_query(self.now, &q, &mut self.pool));
        let counts = [Query::Counters, Query::Fdb(0), Query::Floating, Query::Peers, Query::Neighbors(0)];
        (out, counts.map(&mut query).join("\n"))
    }
}

fn take(pool: &mut HeapPool, queue: &mut Vec<Frame>, mut each: impl FnMut(Vec<u8>)) {
    for frame in queue.drain(..) {
        each(pool.bytes(&frame).to_vec());
        pool.free(frame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 400 } else { 4000 }))]
    #[test]
    fn remembered_is_classified(steps in prop::collection::vec(step(), 1..40)) {
        let (mut with, mut without) = (Rvm::new(true), Rvm::new(false));
        let mut last = Vec::new();
        for step in &steps {
            if let Step::Batch(packets) = step {
                last.clone_from(packets);
            }
            with.run(step, &last);
            without.run(step, &last);
            prop_assert_eq!(with.account(), without.account());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 200 } else { 2000 }))]
    #[test]
    fn watched_is_classified(steps in prop::collection::vec(step(), 1..40)) {
        let (mut unseen, mut watched) = (Rvm::new(true), Rvm::new(true));
        watched.watched = true;
        let all = WatchSpec {
            port: None,
            filter: Filter::default(),
            snap_len: u32::MAX,
            count: 0,
            leaving: true,
            results: true,
        };
        watched.apply(Command::Watch(WatchId(1), all));
        let mut last = Vec::new();
        for step in &steps {
            if let Step::Batch(packets) = step {
                last.clone_from(packets);
            }
            unseen.run(step, &last);
            watched.run(step, &last);
            prop_assert_eq!(unseen.account(), watched.account());
        }
    }
}
