//! The kernel runs the uplink's XDP program on given frames: some must go up, some must stay.
//!
//! A table of (frame, expected verdict), in the words of the design: tunnel packets and reality addresses go
//! up, exceptions and everything else stay with the kernel. Needs root.

use std::net::IpAddr;

use ctl::io::{SteerPlan, SteerReality};
use ctl::steering::{self, Steering};
use engine::command::{L4Proto, L4Range};
use engine::wire::mac::MacAddr;

use super::program::{Program, SharedMaps};
use super::socket::Queue;
use super::test_run;
use crate::ports::own::{self, LIFE_UDP, OwnFlow};
use crate::ports::umem::UmemPool;

const MAC: MacAddr = MacAddr([2, 0, 0x0a, 0, 0, 0x0b]);
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The part of a packet behind its IP header.
#[derive(Clone)]
enum L4 {
    Ports(u8, u16, u16),
    /// An ICMP (or ICMPv6) message with this type and body.
    Icmp(u8, Vec<u8>),
    /// An echo message with this type and identifier.
    Echo(u8, u16),
    Other(u8),
}

impl L4 {
    fn proto(&self, v6: bool) -> u8 {
        match self {
            Self::Ports(proto, ..) | Self::Other(proto) => *proto,
            Self::Icmp(..) | Self::Echo(..) => {
                if v6 {
                    58
                } else {
                    1
                }
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Ports(proto, from, to) => {
                let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
                bytes.resize(if *proto == TCP { 20 } else { 8 }, 0);
                bytes
            }
            Self::Icmp(kind, body) => [&[*kind, 0, 0, 0, 0, 0, 0, 0], &body[..]].concat(),
            Self::Echo(kind, id) => [&[*kind, 0, 0, 0][..], &id.to_be_bytes(), &[0; 10]].concat(),
            Self::Other(_) => vec![0; 20],
        }
    }
}

/// An IP packet. `fragment` is IPv4's flags and offset, or IPv6's offset and M bit.
fn packet(from: &str, to: &str, fragment: u16, l4: &L4) -> Vec<u8> {
    match (from.parse().unwrap(), to.parse().unwrap()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => packet_v4(5, from.octets(), to.octets(), fragment, l4),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut extensions = Vec::new();
            if fragment != 0 {
                extensions.push((44, [&[0, 0], &fragment.to_be_bytes()[..], &[0; 4]].concat()));
            }
            packet_v6(from.octets(), to.octets(), &extensions, l4)
        }
        _ => unreachable!("the table does not mix versions"),
    }
}

fn packet_v4(ihl: u8, from: [u8; 4], to: [u8; 4], fragment: u16, l4: &L4) -> Vec<u8> {
    let mut ip = vec![0x40 | ihl, 0, 0, 0, 0, 0, 0, 0, 64, l4.proto(false), 0, 0];
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    ip.extend(from);
    ip.extend(to);
    ip.resize(usize::from(ihl) * 4, 1);
    ip.extend(l4.bytes());
    ip
}

/// An IPv6 packet. `extensions`: each header's number and bytes, whose first byte this function writes.
fn packet_v6(from: [u8; 16], to: [u8; 16], extensions: &[(u8, Vec<u8>)], l4: &L4) -> Vec<u8> {
    let next = |index: usize| extensions.get(index).map_or(l4.proto(true), |(number, _)| *number);
    let mut ip = vec![0x60, 0, 0, 0, 0, 0, next(0), 64];
    ip.extend(from);
    ip.extend(to);
    for (index, (_, bytes)) in extensions.iter().enumerate() {
        ip.push(next(index + 1));
        ip.extend(&bytes[1..]);
    }
    ip.extend(l4.bytes());
    ip
}

fn ethernet(to: MacAddr, ip: Vec<u8>) -> Vec<u8> {
    let ethertype = if ip[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&to.0[..], &[2, 0, 0, 0, 0, 0x63], &ethertype, &ip].concat()
}

/// One frame to our MAC.
fn frame(from: &str, to: &str, l4: L4) -> Vec<u8> {
    ethernet(MAC, packet(from, to, 0, &l4))
}

fn fragment(from: &str, to: &str, fragment: u16, l4: L4) -> Vec<u8> {
    ethernet(MAC, packet(from, to, fragment, &l4))
}

/// The maps of an empty cache.
fn maps() -> std::sync::Arc<SharedMaps> {
    std::sync::Arc::new(SharedMaps::create().unwrap())
}

/// A program with a socket on queue 0, where the kernel's test runs put their frames.
struct Bench {
    program: Program,
    plan: SteerPlan,
    shared: bool,
    _socket: (Queue, std::os::fd::OwnedFd),
    _pool: UmemPool,
}

impl Bench {
    fn new(shared: bool) -> Option<Self> {
        // SAFETY: cannot fail and touches no memory.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: needs root (BPF)");
            return None;
        }
        use std::os::fd::AsRawFd;
        let pool = UmemPool::new(64, 0).unwrap();
        let socket = Queue::new(&pool.handle()).unwrap();
        let mut program = Program::load(shared, 1, &maps()).unwrap();
        program.set_socket(0, socket.1.as_raw_fd()).unwrap();
        Some(Self { program, plan: SteerPlan::default(), shared, _socket: socket, _pool: pool })
    }

    fn steer(&mut self, plan: &SteerPlan, interface: &str) {
        self.program.steer(plan, MAC, interface).unwrap();
        self.plan.clone_from(plan);
    }

    /// Whether a frame goes up. Except for the kernel's own flows, `ivctl trace` must give the same answer.
    fn is_up(&mut self, frame: &[u8]) -> bool {
        let up = match test_run::dry(self.program.fd(), frame).0 {
            XDP_REDIRECT => true,
            XDP_PASS => false,
            other => panic!("verdict {other}"),
        };
        let told = steering::steer(&self.plan, MAC, frame);
        if self.shared && self.program.own().state().0 == 0 {
            assert_eq!(up, !matches!(told, Steering::Kernel(_)), "{told:?}: {frame:02x?}");
        }
        up
    }

    fn expect(&mut self, table: &[(&str, bool, Vec<u8>)]) {
        for (what, up, frame) in table {
            assert_eq!(self.is_up(frame), *up, "{what}");
        }
    }
}

fn range(proto: L4Proto, first: u16, last: u16) -> L4Range {
    L4Range { proto, first, last }
}

/// The rVM of the paper: VTEP and reality are one address; a second address gives only web ports.
fn plan() -> SteerPlan {
    let except = vec![range(L4Proto::Tcp, 22, 22), range(L4Proto::Udp, 5000, 5010)];
    let ports = vec![range(L4Proto::Tcp, 80, 80), range(L4Proto::Tcp, 443, 443)];
    let all = |address: &str, except: &[L4Range]| SteerReality {
        address: address.parse().unwrap(),
        all: true,
        ports: vec![],
        except: except.to_vec(),
    };
    let only = SteerReality { address: "10.0.0.13".parse().unwrap(), all: false, ports, except: vec![] };
    SteerPlan {
        tunnel: Some(("10.0.0.11".parse().unwrap(), 4789)),
        vnis: None,
        reality: vec![all("10.0.0.11", &except), only, all("2001:db8::11", &except)],
    }
}

const EXT: &str = "10.0.0.99";
const EXT6: &str = "2001:db8::99";
const FIP: &str = "10.0.0.11";
const FIP6: &str = "2001:db8::11";
const ONLY: &str = "10.0.0.13";

#[test]
fn ipv4_verdicts() {
    let Some(mut bench) = Bench::new(true) else { return };
    bench.steer(&plan(), "");
    let tunnel = || L4::Ports(UDP, 50_000, 4789);
    let tcp = |to| L4::Ports(TCP, 40_000, to);
    // The quote in an ICMP error: a packet that left from `from`.
    let quoting = |kind, from: &str, l4: L4| L4::Icmp(kind, packet(from, EXT, 0, &l4));
    let mut tagged = frame(EXT, FIP, tunnel());
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let options = packet_v4(15, [10, 0, 0, 99], [10, 0, 0, 11], 0, &tunnel());
    let mut arp = frame(EXT, FIP, L4::Other(0));
    arp[12..14].copy_from_slice(&[8, 6]);
    let other_mac = |mac| ethernet(MacAddr(mac), packet(EXT, FIP, 0, &tunnel()));
    bench.expect(&[
        ("tunnel", true, frame(EXT, FIP, tunnel())),
        ("tunnel behind IP options", true, ethernet(MAC, options)),
        ("tunnel port on an address that is neither", false, frame(EXT, "10.0.0.12", tunnel())),
        ("tunnel to another MAC", false, other_mac([2, 0, 0x0a, 0, 0, 0x0c])),
        ("tunnel to the broadcast MAC", false, other_mac([0xff; 6])),
        ("tagged tunnel", false, tagged),
        ("ARP", false, arp),
        ("web", true, frame(EXT, FIP, tcp(80))),
        ("SSH", false, frame(EXT, FIP, tcp(22))),
        ("next to SSH", true, frame(EXT, FIP, tcp(23))),
        ("UDP 22 is not SSH", true, frame(EXT, FIP, L4::Ports(UDP, 1, 22))),
        ("first excepted", false, frame(EXT, FIP, L4::Ports(UDP, 1, 5000))),
        ("last excepted", false, frame(EXT, FIP, L4::Ports(UDP, 1, 5010))),
        ("beyond excepted", true, frame(EXT, FIP, L4::Ports(UDP, 1, 5011))),
        ("before excepted", true, frame(EXT, FIP, L4::Ports(UDP, 1, 4999))),
        ("echo", true, frame(EXT, FIP, L4::Icmp(8, vec![]))),
        ("GRE", true, frame(EXT, FIP, L4::Other(47))),
        ("the rVM's DHCP lease", false, frame(EXT, FIP, L4::Ports(UDP, 67, 68))),
        ("an address that is not ours", false, frame(EXT, "10.0.0.12", tcp(80))),
        ("first fragment", true, fragment(EXT, FIP, 0x2000, L4::Ports(UDP, 1, 53))),
        ("later fragment", true, fragment(EXT, FIP, 0x0010, L4::Other(UDP))),
        ("DF alone is no fragment", false, fragment(EXT, FIP, 0x4000, tcp(22))),
        ("first fragment of a tunnel packet", true, fragment(EXT, FIP, 0x2000, tunnel())),
        ("fragment, address unknown", false, fragment(EXT, "10.0.0.12", 0x0010, L4::Other(UDP))),
        ("only: web", true, frame(EXT, ONLY, tcp(443))),
        ("only: not web", false, frame(EXT, ONLY, tcp(8080))),
        ("only: UDP", false, frame(EXT, ONLY, L4::Ports(UDP, 1, 443))),
        ("only: echo", false, frame(EXT, ONLY, L4::Icmp(8, vec![]))),
        ("only: first fragment goes with the others", false, fragment(EXT, ONLY, 0x2000, tcp(80))),
        ("only: later fragment", false, fragment(EXT, ONLY, 0x0010, L4::Other(TCP))),
        ("only: tunnel port", false, frame(EXT, ONLY, tunnel())),
        ("error about an iVM's flow", true, frame(EXT, FIP, quoting(3, FIP, L4::Ports(TCP, 80, 999)))),
        ("error about our SSH", false, frame(EXT, FIP, quoting(3, FIP, L4::Ports(TCP, 22, 999)))),
        ("error about our tunnel", false, frame(EXT, FIP, quoting(3, FIP, tunnel()))),
        (
            "time exceeded on a shared address",
            true,
            frame(EXT, ONLY, quoting(11, ONLY, L4::Ports(TCP, 80, 9))),
        ),
        ("the same for another port", false, frame(EXT, ONLY, quoting(11, ONLY, L4::Ports(TCP, 81, 9)))),
        ("error about an echo", true, frame(EXT, FIP, quoting(11, FIP, L4::Icmp(8, vec![])))),
        (
            "error that quotes another's packet",
            false,
            frame(EXT, FIP, quoting(3, EXT, L4::Ports(TCP, 80, 9))),
        ),
        ("error that quotes nothing", false, frame(EXT, FIP, L4::Icmp(3, vec![]))),
    ]);
}

#[test]
fn ipv6_verdicts() {
    let Some(mut bench) = Bench::new(true) else { return };
    let mut plan = plan();
    plan.tunnel = Some((FIP6.parse().unwrap(), 4789));
    bench.steer(&plan, "");
    let tunnel = || L4::Ports(UDP, 50_000, 4789);
    let tcp = |to| L4::Ports(TCP, 40_000, to);
    let quoting = |kind, from: &str, l4: L4| L4::Icmp(kind, packet(from, EXT6, 0, &l4));
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let behind = |extensions: &[(u8, Vec<u8>)], l4: L4| {
        ethernet(MAC, packet_v6(octets(EXT6), octets(FIP6), extensions, &l4))
    };
    let options = |len: u8| vec![0, len].into_iter().chain(vec![0; 6 + usize::from(len) * 8]).collect();
    let hop: (u8, Vec<u8>) = (0, options(0));
    let long: (u8, Vec<u8>) = (60, options(3));
    bench.expect(&[
        ("tunnel", true, frame(EXT6, FIP6, tunnel())),
        ("tunnel to IPv4's address", true, frame(EXT, FIP, tunnel())),
        ("tunnel port elsewhere", false, frame(EXT6, "2001:db8::12", tunnel())),
        ("web", true, frame(EXT6, FIP6, tcp(80))),
        ("SSH", false, frame(EXT6, FIP6, tcp(22))),
        ("SSH behind options", false, behind(&[hop.clone(), long.clone()], tcp(22))),
        ("web behind options", true, behind(&[hop.clone(), long.clone()], tcp(80))),
        ("too many options", false, behind(&vec![long; 7], tcp(80))),
        ("echo", true, frame(EXT6, FIP6, L4::Icmp(128, vec![]))),
        ("neighbour solicitation", false, frame(EXT6, FIP6, L4::Icmp(135, vec![0; 16]))),
        ("neighbour advertisement", false, frame(EXT6, FIP6, L4::Icmp(136, vec![0; 16]))),
        ("router advertisement", false, frame(EXT6, FIP6, L4::Icmp(134, vec![0; 16]))),
        ("listener report", false, frame(EXT6, FIP6, L4::Icmp(143, vec![0; 16]))),
        ("first fragment", true, fragment(EXT6, FIP6, 1, L4::Ports(UDP, 1, 53))),
        ("later fragment", true, fragment(EXT6, FIP6, 0x0100, L4::Other(UDP))),
        ("too big, about an iVM's flow", true, frame(EXT6, FIP6, quoting(2, FIP6, L4::Ports(TCP, 80, 9)))),
        ("too big, about our SSH", false, frame(EXT6, FIP6, quoting(2, FIP6, L4::Ports(TCP, 22, 9)))),
        ("too big, about our tunnel", false, frame(EXT6, FIP6, quoting(2, FIP6, tunnel()))),
        ("an address that is not ours", false, frame(EXT6, "2001:db8::12", tcp(80))),
    ]);
}

/// A tunnel packet of a network, with options or extensions before UDP where `plain` is false.
fn tunnel_of(vni: u32, v6: bool, plain: bool) -> Vec<u8> {
    let ports = L4::Ports(UDP, 50_000, 4789);
    let mut frame = match (v6, plain) {
        (false, true) => frame(EXT, FIP, ports),
        (true, true) => frame(EXT6, FIP6, ports),
        (false, false) => ethernet(MAC, packet_v4(15, [10, 0, 0, 99], [10, 0, 0, 11], 0, &ports)),
        (true, false) => {
            let [from, to] = [EXT6, FIP6].map(|ip| ip.parse::<std::net::Ipv6Addr>().unwrap().octets());
            ethernet(MAC, packet_v6(from, to, &[(60, vec![0; 8])], &ports))
        }
    };
    let udp_at = match (v6, plain) {
        (false, true) => 34,
        (true, true) => 54,
        (false, false) => 14 + 60,
        (true, false) => 62,
    };
    frame.truncate(udp_at + 8);
    frame.resize(udp_at + 8, 0);
    frame.extend([8, 0, 0, 0]);
    frame.extend((vni << 8).to_be_bytes());
    frame.extend([0; 60]);
    frame
}

/// Where a vxlan device of the kernel's has the tunnel's port, too, tunnel packets of our networks come up, and those of
/// all others go to it; probes of the path are ours. Else everything comes up.
#[test]
fn a_port_that_is_shared_with_the_kernel() {
    let Some(mut bench) = Bench::new(true) else { return };
    for vtep in [FIP, FIP6] {
        let mut shared = SteerPlan { tunnel: Some((vtep.parse().unwrap(), 4789)), ..SteerPlan::default() };
        let v6 = vtep == FIP6;
        let up = |bench: &mut Bench| {
            [0, 100, 200, 0xff_ffff].map(|vni| {
                let [plain, other] = [true, false].map(|plain| bench.is_up(&tunnel_of(vni, v6, plain)));
                assert_eq!(plain, other, "VNI {vni}");
                plain
            })
        };
        bench.steer(&shared, "");
        assert_eq!(up(&mut bench), [true; 4]);
        shared.vnis = Some([100, 0xff_ffff].into());
        bench.steer(&shared, "");
        assert_eq!(up(&mut bench), [true, true, false, true]);
        // Cut short it has no network; it comes up, and is counted there.
        assert!(bench.is_up(&tunnel_of(200, v6, true)[..if v6 { 66 } else { 46 }]));
        shared.vnis = Some([200].into());
        bench.steer(&shared, "");
        assert_eq!(up(&mut bench), [true, false, true, false]);
        shared.vnis = None;
        bench.steer(&shared, "");
        assert_eq!(up(&mut bench), [true; 4]);
    }
}

/// Every truncation of a good frame, and noise, gets a verdict; before the ports can be read it is the
/// kernel's.
#[test]
fn cut_and_random_frames() {
    let Some(mut bench) = Bench::new(true) else { return };
    bench.steer(&plan(), "");
    let whole = frame(EXT, FIP, L4::Ports(UDP, 1, 4789));
    // The kernel's test runs refuse frames shorter than an Ethernet header.
    for len in 14..34 {
        assert!(!bench.is_up(&whole[..len]), "{len} bytes");
    }
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    for round in 0..2000_usize {
        let mut noise: Vec<u8> = (0..14 + round % 120).map(|_| next()).collect();
        noise[..6].copy_from_slice(&MAC.0);
        noise[12..14].copy_from_slice(if round % 2 == 0 { &[8, 0] } else { &[0x86, 0xdd] });
        if let Some(byte) = noise.get_mut(14) {
            *byte = if round % 2 == 0 { 0x45 } else { 0x60 };
        }
        bench.is_up(&noise);
    }
}

#[test]
fn plans_replace_each_other() {
    let Some(mut bench) = Bench::new(true) else { return };
    let tunnel = frame(EXT, FIP, L4::Ports(UDP, 50_000, 4789));
    let web = frame(EXT, FIP, L4::Ports(TCP, 1, 80));
    let ssh = frame(EXT, FIP, L4::Ports(TCP, 1, 22));
    bench.expect(&[("no plan: tunnel", false, tunnel.clone()), ("no plan: web", false, web.clone())]);
    bench.steer(&plan(), "");
    bench.expect(&[
        ("tunnel", true, tunnel.clone()),
        ("web", true, web.clone()),
        ("SSH", false, ssh.clone()),
    ]);
    let mut without = plan();
    without.reality[0].except.clear();
    bench.steer(&without, "");
    bench.expect(&[("no exceptions any more", true, ssh.clone()), ("still", true, web.clone())]);
    let nothing = SteerPlan::default();
    bench.steer(&nothing, "");
    bench.expect(&[("nothing: tunnel", false, tunnel), ("nothing: web", false, web), ("SSH", false, ssh)]);
    let counters = bench.program.counters().unwrap();
    assert_eq!((counters.tunnel, counters.reality, counters.passed), (1, 3, 6));
}

/// Notes flows as if the kernel had sent them: protocol, far end, our port.
fn note(bench: &Bench, flows: &[(u8, &str, u16, &str, u16)]) {
    for &(proto, remote, remote_port, local, local_port) in flows {
        let end = |address: &str, port| std::net::SocketAddr::new(address.parse().unwrap(), port);
        let flow = OwnFlow { remote: end(remote, remote_port), local: end(local, local_port), proto };
        bench.program.own().table().note(&flow, LIFE_UDP, own::now());
        assert!(bench.program.own().table().has(&flow, own::now()));
    }
}

/// Answers in the kernel's own flows stay with the kernel, for both families. Packets match by all five
/// fields, echoes by their identifier, protocols without ports by their addresses, errors by the packet that
/// they quote, and later fragments by their first.
#[test]
fn answers_to_the_kernel_stay_with_it() {
    let Some(mut bench) = Bench::new(true) else { return };
    bench.steer(&plan(), "lo");
    assert_eq!(bench.program.own().state(), (0, ""));
    let id = |mut frame: Vec<u8>, id: u8| {
        // IPv4's identification is in the header, IPv6's in the fragment header behind it.
        let at = if frame[12] == 8 { 14 + 5 } else { 14 + 40 + 7 };
        frame[at] = id;
        frame
    };
    for (ext, fip, icmp) in [(EXT, FIP, 1), (EXT6, FIP6, 58)] {
        let v6 = icmp == 58;
        let (reply, request) = if v6 { (129, 128) } else { (0, 8) };
        let (unreachable, exceeded) = if v6 { (1, 3) } else { (3, 11) };
        let (first, later) = if v6 { (0x0001, 0x0010) } else { (0x2000, 0x0010) };
        let other = if v6 { "2001:db8::98" } else { "10.0.0.98" };
        let tcp = |from: &str, sport, dport| frame(from, fip, L4::Ports(TCP, sport, dport));
        let quoting = |kind, to: &str, l4: L4| frame(ext, fip, L4::Icmp(kind, packet(fip, to, 0, &l4)));
        let piece = |from: &str, at, n: u8, l4: L4| id(fragment(from, fip, at, l4), n);
        let dns = || L4::Ports(UDP, 53, 40_000);
        let before: [(&str, bool, Vec<u8>); 3] = [
            ("before it asks", true, tcp(ext, 443, 40_000)),
            ("later fragment", true, piece(ext, later, 7, L4::Other(UDP))),
            ("echo reply", true, frame(ext, fip, L4::Echo(reply, 9))),
        ];
        bench.expect(&before);
        note(
            &bench,
            &[
                (TCP, ext, 443, fip, 40_000),
                (UDP, ext, 53, fip, 40_000),
                (icmp, ext, 9, fip, 9),
                (47, ext, 0, fip, 0),
            ],
        );
        bench.expect(&[
            ("TCP", false, tcp(ext, 443, 40_000)),
            ("of another port of theirs", true, tcp(ext, 444, 40_000)),
            ("to another port of ours", true, tcp(ext, 443, 40_001)),
            ("from another", true, tcp(other, 443, 40_000)),
            ("UDP of TCP's ports", true, frame(ext, fip, L4::Ports(UDP, 443, 40_000))),
            ("UDP", false, frame(ext, fip, dns())),
            ("echo reply", false, frame(ext, fip, L4::Echo(reply, 9))),
            ("another's echo reply", true, frame(ext, fip, L4::Echo(reply, 10))),
            ("echo request of that identifier", true, frame(ext, fip, L4::Echo(request, 9))),
            ("GRE", false, frame(ext, fip, L4::Other(47))),
            ("GRE from another", true, frame(other, fip, L4::Other(47))),
            ("still SSH", false, tcp(ext, 1, 22)),
            ("unreachable", false, quoting(unreachable, ext, L4::Ports(TCP, 40_000, 443))),
            ("about an iVM's flow", true, quoting(unreachable, ext, L4::Ports(TCP, 40_001, 443))),
            ("on the way", false, quoting(exceeded, ext, L4::Echo(request, 9))),
            ("about an iVM's echo", true, quoting(exceeded, ext, L4::Echo(request, 10))),
            ("later fragment before its first", true, piece(ext, later, 7, L4::Other(UDP))),
            ("first fragment", false, piece(ext, first, 7, dns())),
            ("behind it", false, piece(ext, later, 7, L4::Other(UDP))),
            ("of another packet", true, piece(ext, later, 8, L4::Other(UDP))),
            ("from another", true, piece(other, later, 7, L4::Other(UDP))),
            ("an iVM's first fragment", true, piece(ext, first, 9, L4::Ports(UDP, 53, 40_001))),
            ("and its others", true, piece(ext, later, 9, L4::Other(UDP))),
        ]);
    }
    assert_eq!(bench.program.own().state().0, 8);
    assert_eq!(bench.program.counters().unwrap().own, 2 * 8);
    // The plan steers no address now: the program notes nothing and knows no flow.
    bench.steer(&SteerPlan::default(), "lo");
    assert_eq!(bench.program.own().state(), (0, ""));
}

/// A full table forgets the flow that would end first, and only as many as it must.
#[test]
fn a_full_table_forgets_what_ends_first() {
    let Some(mut bench) = Bench::new(true) else { return };
    bench.steer(&plan(), "lo");
    let table = bench.program.own().table();
    let flow = |n: u32| OwnFlow {
        remote: std::net::SocketAddr::new(std::net::Ipv4Addr::from(0x0b00_0000 + n).into(), 443),
        local: std::net::SocketAddr::new(FIP.parse().unwrap(), 40_000),
        proto: TCP,
    };
    let now = own::now();
    // Connections fill a fifth of the table, then thousands of DNS questions follow.
    (0..13_000).for_each(|n| table.note(&flow(n), 7000, now));
    (100_000..400_000).for_each(|n| table.note(&flow(n), LIFE_UDP, now));
    let kept = (0..13_000).filter(|&n| table.has(&flow(n), now)).count();
    assert!(kept > 12_990, "{kept} of 13000 connections are known");
    assert!(table.count(now) > 65_000, "{}", table.count(now));
    assert!(table.has(&flow(399_999), now));
    assert!(!table.has(&flow(0), now + 7001), "after its time");
}

/// Measures how long the lookup of the kernel's own flows takes per frame, by the kernel's clock: run by
/// hand, with --nocapture.
#[test]
#[ignore = "a measurement"]
fn cost_of_own_flows() {
    let Some(mut bench) = Bench::new(true) else { return };
    let (web, ssh) = (frame(EXT, FIP, L4::Ports(TCP, 1, 80)), frame(EXT, FIP, L4::Ports(TCP, 1, 22)));
    let tunnel = frame(EXT, FIP, L4::Ports(UDP, 50_000, 4789));
    let own = frame(EXT, FIP, L4::Ports(TCP, 443, 40_000));
    for interface in ["", "lo"] {
        bench.steer(&plan(), interface);
        if !interface.is_empty() {
            note(&bench, &[(TCP, EXT, 443, FIP, 40_000)]);
        }
        for (what, frame) in [("floating IP", &web), ("SSH", &ssh), ("tunnel", &tunnel), ("own", &own)] {
            let best = (0..20).map(|_| test_run::cost(bench.program.fd(), frame, 100_000)).min().unwrap();
            println!(
                "{what}: {best} ns a frame, own flows {}",
                if interface.is_empty() { "off" } else { "on" }
            );
        }
    }
}

/// A dedicated port: every frame goes up, and without a socket no frame reaches the kernel.
#[test]
fn a_dedicated_port_takes_everything() {
    let Some(mut bench) = Bench::new(false) else { return };
    let noise = vec![0xff; 60];
    assert!(bench.is_up(&noise));
    let without_socket = Program::load(false, 1, &maps()).unwrap();
    assert_eq!(test_run::dry(without_socket.fd(), &noise).0, 1, "XDP_DROP");
    let mut shared = Program::load(true, 1, &maps()).unwrap();
    shared.steer(&plan(), MAC, "").unwrap();
    let tunnel = frame(EXT, FIP, L4::Ports(UDP, 50_000, 4789));
    assert_eq!(test_run::dry(shared.fd(), &tunnel).0, XDP_PASS, "no socket: to the kernel");
}

/// CAP_BPF and CAP_NET_ADMIN are enough to load it: no CAP_PERFMON, no CAP_SYS_ADMIN.
#[test]
fn the_program_loads_with_named_capabilities() {
    use caps::{CapSet, Capability};
    // SAFETY: cannot fail and touches no memory.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: needs root (BPF)");
        return;
    }
    let thread = std::thread::spawn(|| {
        for capability in [Capability::CAP_SYS_ADMIN, Capability::CAP_PERFMON] {
            caps::drop(None, CapSet::Effective, capability).unwrap();
        }
        let mut shared = Program::load(true, 1, &maps()).unwrap();
        Program::load(false, 1, &maps()).unwrap();
        // The program that notes the kernel's own flows loads, too.
        shared.steer(&plan(), MAC, "lo").unwrap();
        assert_eq!(shared.own().state().1, "");
    });
    thread.join().unwrap();
}
