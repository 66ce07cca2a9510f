//! *Cached = classify*: the kernel runs the real programs on given frames, and the results must match the pipeline.
//!
//! Two switches have the same tables and see the same frames at the same times. One has the program with its
//! cache in front; the other has none. If the program forwards a frame, the bytes and the output are
//! those of the pipeline; a frame that the program leaves alone goes to the first switch's pipeline. At the
//! end both switches must have counted the same and know the same stations. Needs root.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use engine::command::*;
use engine::forward::Switch;
use engine::frame::{Batch, Frame, FramePool, HeapPool};
use engine::limits::{FDB_AGE, FLOW_HOT_FRAMES};
use engine::port::PortCaps;
use engine::time::{Duration, Instant};
use engine::wire::checksum;
use engine::wire::mac::MacAddr;

use super::*;

const UPLINK: PortId = PortId(0);
const DOORS: [PortId; 3] = [PortId(1), PortId(2), PortId(3)];
const PRIVATE: u32 = 100;
const PUBLIC: u32 = 200;
/// The kernel's test runs treat the loopback interface as the ingress interface.
const LOOPBACK: u32 = 1;
const XDP_REDIRECT: u32 = 4;
const TC_REDIRECT: u32 = 7;
const HEARD: u32 = u32::MAX;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
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

struct Prng(u64);

impl Prng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// A switch with its pool.
struct Side {
    switch: Switch,
    pool: HeapPool,
}

impl Side {
    fn new() -> Self {
        Self { switch: Switch::new(7), pool: HeapPool::new(256, 2) }
    }

    fn forward(&mut self, now: Instant, at: PortId, bytes: &[u8]) -> Vec<(PortId, Vec<u8>)> {
        let mut batch = Batch::new();
        batch.push(self.pool.alloc_from(bytes).unwrap());
        self.switch.forward(now, at, &mut batch, &mut self.pool);
        self.sent()
    }

    fn sent(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let mut out = Vec::new();
        let take = |pool: &mut HeapPool, queue: &mut Vec<Frame>, each: &mut dyn FnMut(Vec<u8>)| {
            for frame in queue.drain(..) {
                each(pool.bytes(&frame).to_vec());
                pool.free(frame);
            }
        };
        for id in 0..self.switch.port_bound() {
            self.switch.flush(PortId(id), &mut self.pool, |pool, queue| {
                take(pool, queue, &mut |bytes| out.push((PortId(id), bytes)));
                Ok(())
            });
        }
        self.switch.flush_punted(&mut self.pool, |pool, queue| take(pool, queue, &mut |_| {}));
        out
    }
}

/// Both sides, and the programs in front of the first side.
struct World {
    now: Instant,
    cached: Side,
    plain: Side,
    control: CacheControl,
    way: Way,
    steer_all: Program,
    steer_shared: Program,
    hits: u64,
}

/// A program's result for a frame: whether it redirected the frame, and the bytes it left.
type Done = (bool, Vec<u8>);

/// Whether this is a tunnel packet to us, by the test of the programs in front of the cache's.
fn is_tunnel_packet(bytes: &[u8]) -> bool {
    bytes.len() >= 42
        && bytes[..6] == mac(11).0
        && bytes[12..15] == [8, 0, 0x45]
        && bytes[20] & 0x1f == 0
        && (bytes[21], bytes[23]) == (0, 17)
        && bytes[30..34] == [10, 0, 0, 11]
        && bytes[36..38] == 4789_u16.to_be_bytes()
}

impl World {
    fn new(way: Way) -> Option<Self> {
        // SAFETY: cannot fail and touches no memory.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: needs root (BPF)");
            return None;
        }
        let (mut writers, mut control) = create(1).unwrap();
        let steer_all = Program::load(false, 1, control.maps()).unwrap();
        let mut steer_shared = Program::load(true, 1, control.maps()).unwrap();
        let plan = ctl::io::SteerPlan { tunnel: Some((ip("10.0.0.11"), 4789)), vnis: None, reality: vec![] };
        steer_shared.steer(&plan, mac(11), "").unwrap();
        control.set_mode(CacheMode::On);
        let mut cached = Side::new();
        cached.switch.attach_cache(Box::new(writers.remove(0)));
        let now = Instant::from_millis(1000);
        if way == Way::Skb {
            // The filter leaves its findings to the tc program on the same processor.
            let mut here = rustix::thread::CpuSet::new();
            here.set(rustix::thread::sched_getcpu());
            rustix::thread::sched_setaffinity(None, &here).unwrap();
        }
        Some(Self { now, cached, plain: Side::new(), control, way, steer_all, steer_shared, hits: 0 })
    }

    fn run_xdp(&self, at: PortId, bytes: &[u8]) -> Done {
        let program = if at == UPLINK { &self.steer_shared } else { &self.steer_all };
        let (verdict, got) = test_run::dry(program.fd(), bytes);
        (verdict == XDP_REDIRECT, got)
    }

    fn run_skb(&self, at: PortId, bytes: &[u8]) -> Done {
        let programs = self.control.maps().skb().unwrap();
        let [plain, tunnel] = &programs.socket;
        let filter = if at == UPLINK && is_tunnel_packet(bytes) { tunnel } else { plain };
        // The kernel's test run takes an Ethernet header off before it runs a filter; on an interface it does not.
        let (heard, _) = test_run::dry(filter.as_raw_fd(), &[&[0; 14], bytes].concat());
        assert!(heard == 0 || heard == HEARD);
        let header_len = match bytes[12..14] {
            [8, 0] => 20,
            [0x86, 0xdd] => 40,
            _ => 0,
        };
        if bytes.len() < 14 + header_len {
            // The test run also refuses frames shorter than the EtherType requires.
            assert_eq!(heard, HEARD);
            return (false, bytes.to_vec());
        }
        let (verdict, got) = test_run::dry(programs.tc.as_raw_fd(), bytes);
        assert_eq!(
            verdict == TC_REDIRECT,
            heard == 0,
            "heard or followed, never both or neither: {bytes:02x?}"
        );
        (heard == 0, got)
    }

    /// Makes this port the one where frames of the kernel's test runs come in; all ports accept redirected frames.
    fn ingress(&mut self, at: PortId) {
        for id in [UPLINK].into_iter().chain(DOORS) {
            let index = if id == at { LOOPBACK } else { 1000 + u32::from(id.0) };
            let skb = if self.way == Way::Skb { SKB } else { 0 };
            let facts = u64::from(index) | IN | OUT | skb;
            self.control.shared.ports[usize::from(id.0)].store(facts, Ordering::SeqCst);
        }
        self.control.shared.revoke_all();
        self.cached.switch.publish();
    }

    fn apply(&mut self, command: Command) {
        for side in [&mut self.cached, &mut self.plain] {
            side.switch.apply(self.now, command.clone(), &mut side.pool);
        }
        self.cached.switch.publish();
        assert_eq!(self.cached.sent(), self.plain.sent(), "{command:?}");
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for side in [&mut self.cached, &mut self.plain] {
            side.switch.tick(self.now, &mut side.pool);
        }
        assert_eq!(self.cached.sent(), self.plain.sent(), "what a tick sends");
    }

    /// Gives the frame to both sides. Returns true if the program followed a flow.
    fn send(&mut self, at: PortId, bytes: &[u8]) -> bool {
        let wanted = self.plain.forward(self.now, at, bytes);
        self.cached.switch.publish();
        let output = |world: &mut Self, index| {
            if let [(to, _)] = wanted[..] {
                world.control.outputs.as_mut().unwrap().set(to.0.into(), index, None, 0).unwrap();
            }
        };
        // The program can only send to the port that the pipeline sends to.
        output(self, LOOPBACK);
        let (redirected, got) = match self.way {
            Way::Xdp => self.run_xdp(at, bytes),
            Way::Skb => self.run_skb(at, bytes),
        };
        output(self, 0);
        let before = self.cached.switch.counters().rx;
        self.cached.switch.fold_flows(self.now);
        let hits = self.cached.switch.counters().rx - before;
        let context = || format!("port {} frame {bytes:02x?} wanted {wanted:02x?} got {got:02x?}", at.0);
        if hits == 0 {
            assert!(!redirected, "{}", context());
            assert_eq!(got, bytes, "it goes up as it was");
            assert_eq!(self.cached.forward(self.now, at, bytes), wanted, "{}", context());
        } else {
            assert_eq!((hits, redirected), (1, true), "{}", context());
            assert!(wanted.len() == 1 && wanted[0].1 == got, "{}", context());
            self.hits += 1;
        }
        assert!(self.cached.switch.counters().conserved());
        hits == 1
    }

    /// Asserts that both sides have the same counters and the same stations.
    fn compare(&mut self) {
        self.cached.switch.publish();
        self.cached.switch.fold_flows(self.now);
        for query in [Query::Counters, Query::Fdb(0), Query::Floating, Query::Peers, Query::Neighbors(0)] {
            let answer = |side: &mut Side| side.switch.answer_query(self.now, &query, &mut side.pool);
            assert_eq!(answer(&mut self.cached), answer(&mut self.plain));
        }
    }

    /// Sets up random tables: an rVM with doors on two networks, two peers, floating IPs.
    fn configure(&mut self, r: &mut Prng) {
        let mtu = r.of(&[600, 1450, 1500]);
        let port = |net: Option<u32>, role, mtu, vlan| PortConfig {
            vni: net.map(vni),
            role,
            live: true,
            mtu,
            vlan,
            binding: Box::new(Binding {
                macs: vec![mac(1), mac(2), mac(3)],
                ips: vec![],
                ..Binding::default()
            }),
            bum_pps: None,
            policy: Box::default(),
            fdb_max: 100,
        };
        self.apply(Command::SetPort(UPLINK, port(None, Role::Uplink, 1600, VlanPolicy::Transparent)));
        self.apply(Command::SetUplink(UplinkConfig {
            port: UPLINK,
            mac: mac(11),
            vtep: ip("10.0.0.11"),
            tunnel_port: 4789,
            checksum: r.one_in(8),
            mtu: r.of(&[800, 1550, 1600]),
            guard: vec![IpPrefix { addr: ip("169.254.169.254"), len: 32 }],
            switch_mac: MacAddr([2, 0x69, 0x77, 0, 0, 11]),
            name: 1,
            reserved_bits: engine::tunnel::vxlan::RESERVED,
        }));
        for (v, gateway) in [(PRIVATE, "192.168.1.1"), (PUBLIC, "10.2.0.1")] {
            self.apply(Command::SetNetwork(NetworkConfig {
                vni: vni(v),
                gateways: vec![ip(gateway)],
                router_mac: router_mac(v),
                fdb_max: 100,
                fdb_age: FDB_AGE,
                mss_clamp: true,
                dhcp: None,
            }));
        }
        for (id, net) in DOORS.into_iter().zip([PRIVATE, PRIVATE, PUBLIC]) {
            let role = r.of(&[Role::Door, Role::Door, Role::Guest]);
            let vlan = if r.one_in(6) { VlanPolicy::Access(5) } else { VlanPolicy::Transparent };
            self.apply(Command::SetPort(id, port(Some(net), role, mtu, vlan)));
        }
        let spoke = r.one_in(2);
        for n in [12_u8, 13] {
            let address = ip(&format!("10.0.0.{n}"));
            let peer = PeerConfig {
                address,
                vnis: vec![vni(PRIVATE), vni(PUBLIC)],
                via: None,
                spoke: spoke && n == 12,
                mtu: 1600,
                fragment: r.one_in(4),
                outer: OuterIp {
                    ttl: r.of(&[
                        OuterField::Fixed(64),
                        OuterField::Fixed(64),
                        OuterField::Fixed(9),
                        OuterField::Inherit,
                    ]),
                    tos: r.of(&[
                        OuterField::Fixed(0),
                        OuterField::Fixed(0),
                        OuterField::Fixed(0xb8),
                        OuterField::Inherit,
                    ]),
                },
            };
            self.apply(Command::SetPeer(PeerId(u16::from(n) - 12), peer));
            self.apply(Command::SetUnderlayNeighbor(address, mac(n)));
        }
        self.apply(Command::SetUnderlayNeighbor(ip("10.0.0.1"), mac(99)));
        self.apply(Command::SetUnderlayRoutes(
            vec![
                UnderlayRoute::new(IpPrefix { addr: ip("10.0.0.0"), len: 16 }, None),
                UnderlayRoute::new(IpPrefix { addr: ip("0.0.0.0"), len: 0 }, Some(ip("10.0.0.1"))),
            ]
            .into(),
        ));
        let inside = r.of(&[None, Some("192.168.1.2"), Some("192.168.1.2")]);
        self.apply(Command::SetFloating(
            FloatingId(0),
            FloatingConfig {
                ip: ip("56.0.0.11"),
                vni: vni(PUBLIC),
                gateway: r.of(&[Gateway::Here { reality: ip("10.0.0.21") }, Gateway::Peer(PeerId(0))]),
                inside: inside.map(|a| (vni(PRIVATE), ip(a))),
                only: vec![],
                except: vec![],
            },
        ));
        let unmarked = self.way == Way::Xdp;
        for side in [&mut self.cached, &mut self.plain] {
            for id in [UPLINK].into_iter().chain(DOORS) {
                let caps = PortCaps { rx_csum_unmarked: unmarked, ..PortCaps::default() };
                side.switch.set_caps(id, caps);
            }
        }
        // Where the stations are, and which station has which address.
        for (net, n, location) in [
            (PRIVATE, 1, Location::Port(DOORS[0])),
            (
                PRIVATE,
                2,
                r.of(&[Location::Port(DOORS[1]), Location::Port(DOORS[1]), Location::Peer(PeerId(1))]),
            ),
            (PUBLIC, 3, r.of(&[Location::Port(DOORS[2]), Location::Peer(PeerId(1))])),
            (PRIVATE, 4, Location::Peer(PeerId(0))),
        ] {
            self.apply(Command::RemoveFdb(vni(net), 0, mac(n)));
            if let Location::Port(id) = location {
                let address = if n == 3 { [56, 0, 0, 11] } else { [192, 168, 1, n] };
                self.hello(id, n, address);
            } else {
                self.apply(Command::AddFdb(vni(net), 0, mac(n), location));
            }
        }
        self.pass(Duration::from_millis(300));
    }

    /// Sends a gratuitous ARP request.
    fn hello(&mut self, at: PortId, n: u8, address: [u8; 4]) {
        let mut arp = [&[0xff; 6][..], &mac(n).0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
        arp.extend([&mac(n).0[..], &address, &[0; 6], &address].concat());
        self.send(at, &arp);
    }
}

/// The parts of a flow's packet.
#[derive(Clone, Debug)]
struct Shape {
    eth: (MacAddr, MacAddr),
    from: [u8; 4],
    to: [u8; 4],
    proto: u8,
    ports: (u16, u16),
    ttl: u8,
    tos: u8,
    flags: u8,
    payload: usize,
    checksum: Check,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    Right,
    Zero,
    Partial,
    Any(u16),
}

impl Shape {
    fn bytes(&self) -> Vec<u8> {
        let l4_len = if self.proto == 6 { 20 } else { 8 };
        let total = (20 + l4_len + self.payload) as u16;
        let mut ip = vec![0x45, self.tos, 0, 0, 0x12, 0x34, 0x40, 0, self.ttl, self.proto, 0, 0];
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip.extend(self.from);
        ip.extend(self.to);
        let sum = !checksum::sum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut l4 = vec![0; l4_len];
        l4[..2].copy_from_slice(&self.ports.0.to_be_bytes());
        l4[2..4].copy_from_slice(&self.ports.1.to_be_bytes());
        let at = if self.proto == 6 { 16 } else { 6 };
        if self.proto == 6 {
            (l4[12], l4[13]) = (0x50, self.flags);
        } else {
            l4[4..6].copy_from_slice(&((8 + self.payload) as u16).to_be_bytes());
        }
        l4.extend((0..self.payload).map(|n| (n * 7) as u8));
        let (from, to) = (engine::wire::ip::Ip::v4(self.from), engine::wire::ip::Ip::v4(self.to));
        let pseudo = checksum::pseudo(from, to, self.proto, l4.len() as u32);
        let value = match self.checksum {
            Check::Right => {
                checksum::udp_nonzero(!checksum::fold(u32::from(pseudo) + u32::from(checksum::sum(&l4))))
            }
            Check::Zero => 0,
            Check::Partial => pseudo,
            Check::Any(value) => value,
        };
        l4[at..at + 2].copy_from_slice(&value.to_be_bytes());
        [&self.eth.1.0[..], &self.eth.0.0, &[8, 0], &ip, &l4].concat()
    }

    /// Another packet of the same flow, different wherever packets of one flow may differ.
    fn another(&self, r: &mut Prng) -> Self {
        let mut other = self.clone();
        if r.one_in(3) {
            other.ttl = r.of(&[0, 1, 2, 64, 255]);
        }
        if r.one_in(3) {
            other.tos = r.next() as u8;
        }
        if r.one_in(3) {
            other.payload = r.below(1600) as usize;
        }
        if r.one_in(6) {
            other.flags = r.next() as u8;
        }
        if r.one_in(4) {
            other.checksum = r.of(&[Check::Zero, Check::Partial, Check::Any(0xffff), Check::Any(r.0 as u16)]);
        }
        other
    }
}

/// A packet of `PRIVATE`, `PUBLIC` or the underlay, wrapped as a tunnel packet from `peer`.
fn tunnelled(frame: &[u8], net: u32, peer: u8, tos: u8, ttl: u8) -> Vec<u8> {
    let total = (frame.len() + 36) as u16;
    let mut out = [&mac(11).0[..], &mac(peer).0, &[8, 0, 0x45, tos]].concat();
    out.extend(total.to_be_bytes());
    out.extend([0, 0, 0x40, 0, ttl, 17, 0, 0, 10, 0, 0, peer, 10, 0, 0, 11, 0xc1, 2, 0x12, 0xb5]);
    out.extend((total - 20).to_be_bytes());
    out.extend([0, 0, 8, 0, 0, 0]);
    out.extend((net << 8).to_be_bytes());
    out.extend(frame);
    out
}

/// A random flow that the tables may know something about.
fn flow(r: &mut Prng) -> (PortId, Shape, Option<(u32, u8)>) {
    let underlay = r.one_in(5);
    let tunnel = (!underlay && r.one_in(2)).then(|| (r.of(&[PRIVATE, PUBLIC]), r.of(&[12, 13, 14])));
    let at = if underlay || tunnel.is_some() { UPLINK } else { r.of(&DOORS) };
    let net = tunnel.map_or(if at == DOORS[2] { PUBLIC } else { PRIVATE }, |(net, _)| net);
    let addresses = [[192, 168, 1, 2], [56, 0, 0, 11], [8, 8, 8, 8], [10, 0, 0, 21], [10, 0, 0, 12]];
    let from = match at {
        _ if at == DOORS[0] => 1,
        _ if at == DOORS[1] => 2,
        _ if at == DOORS[2] => 3,
        _ => r.of(&[2, 3, 4, 5]),
    };
    let to = if underlay {
        mac(11)
    } else {
        r.of(&[mac(1), mac(2), mac(3), mac(4), router_mac(net), router_mac(net), router_mac(net)])
    };
    let mut shape = Shape {
        eth: (mac(from), to),
        from: r.of(&addresses),
        to: if underlay { [10, 0, 0, 21] } else { r.of(&addresses) },
        proto: r.of(&[6, 17]),
        ports: (r.below(3) as u16 + 4000, r.of(&[53, 80, 4789])),
        ttl: 64,
        tos: r.of(&[0, 0, 1, 2, 3, 0xb8]),
        flags: 0x10,
        payload: r.below(500) as usize,
        checksum: Check::Right,
    };
    if (at == DOORS[1] || at == DOORS[2]) && !r.one_in(4) {
        // The main use of floating IPs: from the owner to the Internet.
        shape.eth.1 = router_mac(net);
        shape.from = if at == DOORS[1] { [192, 168, 1, 2] } else { [56, 0, 0, 11] };
        shape.to = [8, 8, 8, 8];
    }
    (at, shape, tunnel)
}

#[test]
fn cached_is_classified_by_xdp() {
    cached_is_classified(Way::Xdp);
}

#[test]
fn cached_is_classified_by_tc() {
    cached_is_classified(Way::Skb);
}

fn cached_is_classified(way: Way) {
    let Some(mut world) = World::new(way) else { return };
    let mut followed = std::collections::BTreeMap::<&str, u64>::new();
    for seed in 1..=120_u64 {
        println!("seed {seed}");
        let mut r = Prng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        world.configure(&mut r);
        for _ in 0..12 {
            let (at, shape, tunnel) = flow(&mut r);
            world.ingress(at);
            let wrap = |frame: Vec<u8>, r: &mut Prng, odd: bool| match tunnel {
                None => frame,
                Some((net, peer)) => {
                    let (tos, ttl) =
                        if odd { (r.of(&[0, 1, 2, 3]), r.of(&[0, 1, 2, 64])) } else { (frame[15] & 3, 64) };
                    let mut bytes = tunnelled(&frame, net, peer, tos, ttl);
                    if odd && r.one_in(8) {
                        // Padding that the underlay added.
                        bytes.extend([0; 7]);
                    }
                    bytes
                }
            };
            let plain = wrap(shape.bytes(), &mut r, false);
            let hot = (0..=4 * FLOW_HOT_FRAMES).any(|_| world.send(at, &plain));
            for _ in 0..24 {
                let mut frame = shape.another(&mut r).bytes();
                let odd = r.one_in(2);
                if !odd && r.one_in(2) {
                    frame.extend([0; 6]);
                }
                let mut bytes = wrap(frame, &mut r, odd);
                if r.one_in(4) {
                    let at = r.below(bytes.len().min(100) as u64) as usize;
                    bytes[at] = r.next() as u8;
                }
                if r.one_in(10) {
                    bytes.truncate(14 + r.below(bytes.len() as u64 - 13) as usize);
                }
                if world.send(at, &bytes) {
                    let kind = match (
                        tunnel.is_some(),
                        at == UPLINK,
                        shape.eth.1 == router_mac(PRIVATE) || shape.eth.1 == router_mac(PUBLIC),
                    ) {
                        (true, ..) => "from the tunnel",
                        (_, true, _) => "from the underlay",
                        (_, _, true) => "routed",
                        _ => "switched",
                    };
                    *followed.entry(kind).or_default() += 1;
                }
            }
            // After any change, the program follows no flow that was installed before.
            if hot && r.one_in(2) {
                world.send(at, &plain);
                match r.below(5) {
                    0 => {
                        let here = FloatingConfig {
                            ip: ip("56.0.0.11"),
                            vni: vni(PUBLIC),
                            gateway: Gateway::Peer(PeerId(1)),
                            inside: None,
                            only: vec![],
                            except: vec![],
                        };
                        world.apply(Command::SetFloating(FloatingId(0), here));
                    }
                    1 => world.apply(Command::SetUnderlayNeighbor(ip("10.0.0.12"), mac(r.next() as u8))),
                    2 => world.apply(Command::FlushFdb(None, None)),
                    3 => world.apply(Command::SetUnderlayNeighbor(ip("10.0.0.1"), mac(r.next() as u8))),
                    _ => world.apply(Command::RemoveFdb(vni(PRIVATE), 0, mac(1))),
                }
                assert!(!world.send(at, &plain), "a stale verdict was followed");
            }
            if r.one_in(3) {
                world.hello(r.of(&DOORS[..2]), r.of(&[1, 2, 4]), [192, 168, 1, 77]);
            }
            world.control.grace();
            world.pass(Duration::from_millis(r.of(&[251, 251, 251, 40_000])));
        }
        world.compare();
    }
    println!("followed: {followed:?}, {} in all", world.hits);
    for kind in ["switched", "routed", "from the tunnel", "from the underlay"] {
        assert!(followed.get(kind).is_some_and(|&n| n > 200), "{kind}: hardly ever: {followed:?}");
    }
}

/// A station's move leaves other flows alone, and no flow to that station goes to its old place.
#[test]
fn only_flows_of_a_moved_station_are_revoked() {
    let Some(mut world) = World::new(Way::Xdp) else { return };
    world.configure(&mut Prng(1));
    for id in DOORS {
        let port = world.plain.switch.tables().ports.get(id).unwrap().config.clone();
        world.apply(Command::SetPort(
            id,
            PortConfig { role: Role::Door, vlan: VlanPolicy::Transparent, ..port },
        ));
    }
    world.apply(Command::RemoveFdb(vni(PRIVATE), 0, mac(2)));
    world.hello(DOORS[1], 2, [192, 168, 1, 2]);
    for (id, n) in [(DOORS[0], 6), (DOORS[1], 7)] {
        world.hello(id, n, [192, 168, 1, n]);
    }
    world.ingress(DOORS[0]);
    let to = |n: u8| {
        Shape {
            eth: (mac(1), mac(n)),
            from: [192, 168, 1, 1 + n],
            to: [192, 168, 1, n],
            proto: 17,
            ports: (4000, 53),
            ttl: 64,
            tos: 0,
            flags: 0,
            payload: 20,
            checksum: Check::Right,
        }
        .bytes()
    };
    for n in [2, 7] {
        assert!((0..=4 * FLOW_HOT_FRAMES).any(|_| world.send(DOORS[0], &to(n))), "hot");
    }
    world.hello(DOORS[0], 7, [192, 168, 1, 7]);
    assert!(world.send(DOORS[0], &to(2)), "the other flow is still followed");
    assert!(!world.send(DOORS[0], &to(7)), "the station's is not");
    world.compare();
}
