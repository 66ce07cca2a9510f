//! An rVM for these tests: guests behind doors, a peer, floating IPs; and packets for it.

use std::net::IpAddr;

use engine::command::*;
use engine::counters::DropReason;
use engine::forward::Switch;
use engine::frame::{Batch, Frame, FramePool, HeapPool, Offload};
use engine::limits::FDB_AGE;
use engine::time::{Duration, Instant};
use engine::wire::mac::MacAddr;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

pub const PRIVATE: u32 = 100;
pub const PUBLIC: u32 = 200;
pub const UPLINK: PortId = PortId(0);
pub const DOOR1: PortId = PortId(1);
pub const DOOR2: PortId = PortId(2);
/// MAC address of the guest, and of the provider's router.
pub const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
pub const PROVIDER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// Maximum length of an inner IP packet.
pub const TUNNEL_MTU: usize = 1450;

/// The addresses of one family: the guest's, its floating IP, its reality address, and a host on the
/// Internet.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub guest: IpAddr,
    pub public: IpAddr,
    pub reality: IpAddr,
    pub host: IpAddr,
    /// Gateway addresses of the networks private and public.
    pub gateways: [IpAddr; 2],
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn addresses(v6: bool) -> Addresses {
    let all = if v6 {
        ["fd01::2", "2001:db8::56", "fd00::11", "2001:db8::99", "fd01::1", "fd02::1"]
    } else {
        ["192.168.1.2", "56.0.0.11", "10.0.0.11", "203.0.113.9", "192.168.1.1", "10.2.0.1"]
    };
    let [guest, public, reality, host, g1, g2] = all.map(ip);
    Addresses { guest, public, reality, host, gateways: [g1, g2] }
}

pub fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

pub fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

/// The MAC address of an rVM's switch.
pub fn switch_mac(n: u8) -> MacAddr {
    MacAddr([2, 0x69, 0x77, 0, 0, n])
}

pub fn router_mac(v: u32) -> MacAddr {
    let b = v.to_be_bytes();
    MacAddr([2, 0x69, 0x76, b[1], b[2], b[3]])
}

pub struct Rvm {
    pub switch: Switch,
    pub pool: HeapPool,
    pub now: Instant,
}

/// The frames that came out, by port.
pub type Sent = Vec<(PortId, Vec<u8>)>;

impl Rvm {
    /// rVM `n` of 11 and 12, peers of each other, on an underlay of 1500 bytes.
    pub fn new(n: u8) -> Self {
        let other = if n == 11 { 12 } else { 11 };
        let mut rvm = Self {
            switch: Switch::new(u64::from(n)),
            pool: HeapPool::new(700, 8),
            now: Instant::from_millis(1000),
        };
        rvm.apply(Command::SetPort(UPLINK, port(None, Role::Uplink)));
        rvm.apply(Command::SetUplink(UplinkConfig {
            port: UPLINK,
            mac: mac(n),
            vtep: ip(&format!("10.0.0.{n}")),
            tunnel_port: 4789,
            checksum: false,
            mtu: 1500,
            guard: vec![
                IpPrefix { addr: ip("10.0.0.0"), len: 16 },
                IpPrefix { addr: ip("fd00::"), len: 64 },
                IpPrefix::host(ip("203.0.113.200")),
                IpPrefix::host(ip("2001:db8::200")),
            ],
            switch_mac: switch_mac(n),
            name: u64::from(n),
            reserved_bits: engine::tunnel::vxlan::RESERVED,
        }));
        for (v, gateways) in [(PRIVATE, ["192.168.1.1", "fd01::1"]), (PUBLIC, ["10.2.0.1", "fd02::1"])] {
            rvm.network(v, &gateways);
        }
        rvm.apply(Command::SetPort(DOOR1, port(Some(vni(PRIVATE)), Role::Door)));
        rvm.apply(Command::SetPort(DOOR2, port(Some(vni(PUBLIC)), Role::Door)));
        rvm.apply(Command::SetPeer(
            PeerId(0),
            PeerConfig {
                address: ip(&format!("10.0.0.{other}")),
                vnis: vec![vni(PRIVATE), vni(PUBLIC)],
                via: None,
                spoke: false,
                mtu: 1500,
                fragment: false,
                outer: OuterIp::default(),
            },
        ));
        let route =
            |addr, len, via: Option<&str>| UnderlayRoute::new(IpPrefix { addr: ip(addr), len }, via.map(ip));
        let routes = vec![
            route("10.0.0.0", 16, None),
            route("fd00::", 64, None),
            route("203.0.113.0", 24, Some("10.0.0.1")),
            route("2001:db8::", 32, Some("fd00::1")),
        ];
        rvm.apply(Command::SetUnderlayRoutes(routes.into()));
        for n in [1, 11, 12] {
            rvm.apply(Command::SetUnderlayNeighbor(ip(&format!("10.0.0.{n}")), mac(n)));
            rvm.apply(Command::SetUnderlayNeighbor(ip(&format!("fd00::{n}")), mac(n)));
        }
        rvm
    }

    pub fn network(&mut self, v: u32, gateways: &[&str]) {
        self.apply(Command::SetNetwork(NetworkConfig {
            vni: vni(v),
            gateways: gateways.iter().map(|g| ip(g)).collect(),
            router_mac: router_mac(v),
            fdb_max: 100,
            fdb_age: FDB_AGE,
            mss_clamp: true,
            dhcp: None,
        }));
    }

    pub fn apply(&mut self, command: Command) {
        self.switch.apply(self.now, command, &mut self.pool);
    }

    /// Puts one frame in and returns the frames that come out. Checks conservation.
    pub fn forward(&mut self, at: PortId, bytes: &[u8]) -> Sent {
        self.forward_as(at, bytes, Offload::NONE)
    }

    pub fn forward_as(&mut self, at: PortId, bytes: &[u8], offload: Offload) -> Sent {
        let mut frame = self.pool.alloc_from(bytes).unwrap();
        frame.offload = offload;
        let mut batch = Batch::new();
        batch.push(frame);
        self.switch.forward(self.now, at, &mut batch, &mut self.pool);
        self.sent()
    }

    pub fn sent(&mut self) -> Sent {
        let mut out = Vec::new();
        for id in 0..self.switch.port_bound() {
            self.switch.flush(PortId(id), &mut self.pool, |pool, queue| {
                take(pool, queue, |bytes| out.push((PortId(id), bytes)));
                Ok(())
            });
        }
        // A port number that does not exist stands for the kernel.
        self.switch.flush_punted(&mut self.pool, |pool, queue| {
            take(pool, queue, |bytes| out.push((PortId(999), bytes)));
        });
        assert!(self.switch.counters().conserved(), "{:?}", self.switch.counters());
        assert_eq!(self.switch.counters().queued, 0);
        assert_eq!(self.pool.usage().used, 0, "a slot leaked");
        out
    }

    /// Lets time pass, in steps of a quarter of a second. Discards the frames that the switch sends in that
    /// time.
    pub fn pass(&mut self, seconds: u32) {
        for _ in 0..4 * seconds {
            self.now = self.now + Duration::from_millis(250);
            let now = self.now;
            self.switch.tick(now, &mut self.pool);
            self.sent();
        }
    }

    pub fn drops(&self, at: PortId, reason: DropReason) -> u64 {
        self.switch.port_counters(at).unwrap().drops[reason as usize]
    }

    /// Maps the floating IP of `v6`'s family. Its provider's end is here, or at the peer; with `inside`, it
    /// belongs to the guest.
    pub fn float(&mut self, v6: bool, here: bool, inside: bool, only: &[&str], except: &[&str]) {
        let a = addresses(v6);
        let gateway = if here { Gateway::Here { reality: a.reality } } else { Gateway::Peer(PeerId(0)) };
        self.apply(Command::SetFloating(
            FloatingId(u32::from(v6)),
            FloatingConfig {
                ip: a.public,
                vni: vni(PUBLIC),
                gateway,
                inside: inside.then_some((vni(PRIVATE), a.guest)),
                only: only.iter().map(|range| l4_range(range)).collect(),
                except: except.iter().map(|range| l4_range(range)).collect(),
            },
        ));
    }

    /// A station announces its address, by gratuitous ARP or an unsolicited neighbor advertisement.
    pub fn announce(&mut self, at: PortId, who: MacAddr, address: IpAddr) {
        let bytes = announcement(who, address);
        self.forward(at, &bytes);
    }

    /// The same announcement, through the tunnel from the peer.
    pub fn announce_at_peer(&mut self, network: u32, who: MacAddr, address: IpAddr) {
        let bytes = announcement(who, address);
        let outer = self.tunnelled(network, &bytes);
        self.forward(UPLINK, &outer);
    }

    /// A frame as the peer sends it through the tunnel.
    pub fn tunnelled(&self, network: u32, inner: &[u8]) -> Vec<u8> {
        let me = self.switch.tables().uplink.as_ref().unwrap();
        let n = me.mac.0[5];
        let other = if n == 11 { 12 } else { 11 };
        let mut payload = vec![8, 0, 0, 0];
        payload.extend((network << 8).to_be_bytes());
        payload.extend(inner);
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(mac(other).0, mac(n).0)
            .ipv4([10, 0, 0, other], [10, 0, 0, n], 64)
            .udp(50_000, 4789)
            .write(&mut bytes, &payload)
            .unwrap();
        bytes
    }
}

fn take(pool: &mut HeapPool, queue: &mut Vec<Frame>, mut each: impl FnMut(Vec<u8>)) {
    for frame in queue.drain(..) {
        each(pool.bytes(&frame).to_vec());
        pool.free(frame);
    }
}

fn port(vni: Option<Vni>, role: Role) -> PortConfig {
    PortConfig {
        vni,
        role,
        live: true,
        mtu: 1500,
        vlan: VlanPolicy::Transparent,
        binding: Box::default(),
        bum_pps: None,
        policy: Box::default(),
        fdb_max: 100,
    }
}

fn l4_range(text: &str) -> L4Range {
    let (proto, port) = text.split_once('/').unwrap();
    let port = port.parse().unwrap();
    let proto = if proto == "tcp" { L4Proto::Tcp } else { L4Proto::Udp };
    L4Range { proto, first: port, last: port }
}

fn announcement(who: MacAddr, address: IpAddr) -> Vec<u8> {
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
    bytes
}

/// The content of a packet.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Udp(u16, u16),
    Tcp(u16, u16),
    Echo,
    /// Another protocol, by its number.
    Other(u8),
}

/// A frame `from -> to` with right checksums that permits fragmentation.
pub fn packet(
    eth: (MacAddr, MacAddr),
    from: IpAddr,
    to: IpAddr,
    ttl: u8,
    kind: Kind,
    data: &[u8],
) -> Vec<u8> {
    let base = PacketBuilder::ethernet2(eth.0.0, eth.1.0);
    let step = match (from, to) {
        (IpAddr::V4(s), IpAddr::V4(d)) => base.ipv4(s.octets(), d.octets(), ttl),
        (IpAddr::V6(s), IpAddr::V6(d)) => base.ipv6(s.octets(), d.octets(), ttl),
        _ => panic!("mixed families"),
    };
    let mut out = Vec::new();
    match kind {
        Kind::Udp(sport, dport) => step.udp(sport, dport).write(&mut out, data),
        Kind::Tcp(sport, dport) => step.tcp(sport, dport, 7, 1000).write(&mut out, data),
        Kind::Echo if from.is_ipv4() => step.icmpv4_echo_request(1, 2).write(&mut out, data),
        Kind::Echo => step.icmpv6_echo_request(1, 2).write(&mut out, data),
        Kind::Other(number) => step.write(&mut out, number.into(), data),
    }
    .unwrap();
    if from.is_ipv4() {
        out[20] = 0;
        fix_ipv4(&mut out);
    }
    out
}

/// Corrects the header checksum of an IPv4 frame that was changed.
pub fn fix_ipv4(frame: &mut [u8]) {
    let header = 14 + usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum = !engine::wire::checksum::sum(&frame[14..header]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// The addresses of a frame's packet.
pub fn ends(frame: &[u8]) -> (IpAddr, IpAddr) {
    match SlicedPacket::from_ethernet(frame).unwrap().net.unwrap() {
        NetSlice::Ipv4(v4) => (v4.header().source_addr().into(), v4.header().destination_addr().into()),
        NetSlice::Ipv6(v6) => (v6.header().source_addr().into(), v6.header().destination_addr().into()),
        NetSlice::Arp(_) => panic!("not IP"),
    }
}

/// Checks with etherparse that every checksum of the packet inside `frame` is right.
pub fn assert_checksums(frame: &[u8]) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    if let Some(NetSlice::Ipv4(v4)) = &packet.net {
        let header = v4.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum, "IPv4 header checksum");
    }
    if packet.is_ip_payload_fragmented() {
        return;
    }
    let (src, dst) = ends(frame);
    match (packet.transport.as_ref(), src, dst) {
        (Some(TransportSlice::Tcp(tcp)), IpAddr::V4(s), IpAddr::V4(d)) => {
            assert_eq!(tcp.calc_checksum_ipv4(s.octets(), d.octets()).unwrap(), tcp.checksum());
        }
        (Some(TransportSlice::Tcp(tcp)), IpAddr::V6(s), IpAddr::V6(d)) => {
            assert_eq!(tcp.calc_checksum_ipv6(s.octets(), d.octets()).unwrap(), tcp.checksum());
        }
        (Some(TransportSlice::Udp(udp)), IpAddr::V4(s), IpAddr::V4(d)) if udp.checksum() != 0 => {
            let sum = udp.to_header().calc_checksum_ipv4_raw(s.octets(), d.octets(), udp.payload());
            assert_eq!(sum.unwrap(), udp.checksum());
        }
        (Some(TransportSlice::Udp(udp)), IpAddr::V6(s), IpAddr::V6(d)) => {
            let sum = udp.to_header().calc_checksum_ipv6_raw(s.octets(), d.octets(), udp.payload());
            assert_eq!(sum.unwrap(), udp.checksum());
        }
        (Some(TransportSlice::Icmpv4(icmp)), ..) => {
            assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());
        }
        (Some(TransportSlice::Icmpv6(icmp)), IpAddr::V6(s), IpAddr::V6(d)) => {
            assert!(icmp.is_checksum_valid(s.octets(), d.octets()), "ICMPv6 checksum");
        }
        _ => {}
    }
}

/// The frame in a tunnel packet over IPv4.
pub fn inner(outer: &[u8]) -> &[u8] {
    &outer[50..]
}
