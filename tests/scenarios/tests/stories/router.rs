//! The switch as a router between a guest and the Internet: traceroutes both ways, missing routes, and datagrams that
//! do not fit.

use std::net::IpAddr;

use engine::counters::DropReason;
use engine::wire::mac::MacAddr;
use scenarios::{PRIVATE, PUBLIC, figure4, floating, guest_port, head, mac, peer};
use sim::guest::HostSpec;
use sim::packet;
use sim::world::{MS, NodeId, SEC, World};

use crate::floating::{Inside, heard, inside, inside_of};

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn m(n: u32) -> MacAddr {
    mac(n).parse().unwrap()
}

/// The virtual gateway's MAC address on a network.
fn gateway(vni: u32) -> MacAddr {
    let b = vni.to_be_bytes();
    MacAddr([2, 0x69, 0x76, b[1], b[2], b[3]])
}

const PROVIDER: MacAddr = MacAddr([0x06, 0xfe, 0xff, 0, 0, 0]);

/// A packet with this hop limit.
fn with_ttl(mut p: Vec<u8>, ttl: u8) -> Vec<u8> {
    if p[0] >> 4 == 6 {
        p[7] = ttl;
        return p;
    }
    p[8] = ttl;
    p[10..12].fill(0);
    let c = !packet::sum(&p[..20], 0);
    p[10..12].copy_from_slice(&c.to_be_bytes());
    p
}

/// A traceroute probe, by UDP, TCP or echo.
fn probe(from: IpAddr, to: IpAddr, how: u8, ttl: u8) -> Vec<u8> {
    let p = match how {
        packet::UDP => packet::ip(from, to, how, &packet::udp(from, to, 4000, 33434, b"probe")),
        packet::TCP => packet::ip(from, to, how, &packet::tcp(from, to, 4000, 80, 2, b"")),
        _ => packet::echo(from, to, false, 7, 1, b"probe"),
    };
    with_ttl(p, ttl)
}

/// An ICMP error: the sender, its type and code, and the addresses of the packet that it quotes.
type Told = (IpAddr, u8, u8, (IpAddr, IpAddr));

/// Injects `frame` from a machine with its stack off, and gives the ICMP errors that the machine then receives. Every
/// checksum must be right, also those of the quoted packets.
fn told(w: &mut World, host: NodeId, frame: Vec<u8>) -> Vec<Told> {
    told_of(w, host, |w| w.inject(host, frame))
}

/// As [`told`], with another action than injecting a frame.
fn told_of(w: &mut World, host: NodeId, does: impl FnOnce(&mut World)) -> Vec<Told> {
    w.h(host).stack = false;
    w.h(host).heard = Some(Vec::new());
    does(w);
    w.run_for(30 * MS);
    let mut all = Vec::new();
    for f in heard(w, host) {
        packet::checksums(&f).unwrap();
        let p = packet::parse(&f).unwrap().ip.unwrap();
        let (kind, code) = (f[p.l4], f[p.l4 + 1]);
        let error = match p.proto {
            packet::ICMP => matches!(kind, 3 | 11),
            packet::ICMPV6 => kind < 128,
            _ => false,
        };
        if error {
            let quote = &f[p.l4 + 8..p.end];
            packet::checksums(&packet::eth_ip(m(0), m(0), quote)).unwrap();
            let quoted = packet::parse_ip(&f, p.l4 + 8).unwrap();
            all.push((p.src, kind, code, (quoted.src, quoted.dst)));
        }
    }
    all
}

fn families() -> [(&'static str, &'static str, &'static str, &'static str, [&'static str; 2]); 2] {
    [
        ("56.0.0.11", "10.0.0.11", "192.168.1.2", "8.8.8.8", ["192.168.1.1", "10.2.0.1"]),
        ("2001:db8:56::11", "fd00::11", "fd01::2", "2001:db8:8::8", ["fd01::1", "fd02::1"]),
    ]
}

/// A guest traces the route to the Internet, by UDP, TCP and echo, over IPv4 and IPv6. The first hop is the virtual
/// gateway of its own network, on its own rVM; the second is that of the public network, on the gateway's rVM, whose
/// answer comes back through the tunnel and the translation and quotes the guest's own packet.
#[test]
fn a_guest_traces_its_way_out() {
    for (public, reality, own, host, gateways) in families() {
        let mut w = World::new(60);
        let f = inside(&mut w, &[(public, reality, own)], "");
        assert_eq!(w.ping(f.host, public, 2).received, 2);
        for how in [packet::UDP, packet::TCP, packet::ICMP] {
            let v6 = own.contains(':');
            let quoted = (ip(own), ip(host));
            for (ttl, hop) in [(1, gateways[0]), (2, gateways[1])] {
                let frame = packet::eth_ip(gateway(PRIVATE), m(0), &probe(ip(own), ip(host), how, ttl));
                let want = (ip(hop), if v6 { 3 } else { 11 }, 0, quoted);
                assert_eq!(told(&mut w, f.ivms[0], frame), [want], "protocol {how}, hop {ttl}");
            }
        }
        for (rvm, port) in [(f.rvm2, "h0"), (f.rvm1, "eth0")] {
            assert_eq!(w.r(rvm).drops(port, DropReason::TtlExpired), 3);
        }
        w.finish();
    }
}

/// The Internet traces the route to the floating IP: the provider's router (silent here), then the floating IP once
/// for each rVM on the way, whose answer the provider's NAT translates from the reality address; then the guest. The
/// answers quote the packet to the floating IP.
#[test]
fn the_internet_traces_the_way_to_a_floating_ip() {
    for (public, reality, own, host, _) in families() {
        let mut w = World::new(61);
        let f = inside(&mut w, &[(public, reality, own)], "");
        assert_eq!(w.ping(f.host, public, 2).received, 2);
        let own_mac = w.h(f.host).spec.mac;
        for how in [packet::UDP, packet::TCP, packet::ICMP] {
            for ttl in [2, 3] {
                let frame = packet::eth_ip(PROVIDER, own_mac, &probe(ip(host), ip(public), how, ttl));
                let kind = if own.contains(':') { 3 } else { 11 };
                let want = (ip(public), kind, 0, (ip(host), ip(public)));
                assert_eq!(told(&mut w, f.host, frame), [want], "protocol {how}, hop {ttl}");
            }
        }
        for rvm in [f.rvm1, f.rvm2] {
            assert_eq!(w.r(rvm).drops("eth0", DropReason::TtlExpired), 3);
        }
        w.finish();
    }
}

/// Where a CMS translates, its own router is the first hop, and is silent here; then the owner's rVM and the
/// gateway's answer for the public network. The gateway's knows the station with the floating IP, and the CMS the iVM
/// behind it.
#[test]
fn an_ivm_of_a_cms_traces_its_way_out() {
    let mut w = World::new(62);
    let f = figure4(&mut w);
    w.settle();
    assert_eq!(w.ping(f.host, "56.0.0.11", 2).received, 2);
    let (public, host) = (ip("56.0.0.11"), ip("8.8.8.8"));
    let eth2 = w.c(f.cms).spec.eth2_mac;
    for how in [packet::UDP, packet::ICMP] {
        for (ttl, rvm, port) in [(1, f.rvm2, "eth2p"), (2, f.rvm1, "eth0")] {
            let before = w.r(rvm).drops(port, DropReason::TtlExpired);
            // As the CMS forwards it.
            let frame = packet::eth_ip(gateway(PUBLIC), eth2, &probe(public, host, how, ttl));
            let want = (ip("10.2.0.1"), 11, 0, (ip("192.168.1.2"), host));
            let heard = told_of(&mut w, f.ivm, |w| w.inject_at(f.cms, sim::cms::ETH2, frame));
            assert_eq!(heard, [want], "hop {ttl}");
            assert_eq!(w.r(rvm).drops(port, DropReason::TtlExpired), before + 1);
        }
    }
    w.finish();
}

/// A guest without a floating IP learns immediately that it has no route, and a connection of its own stack ends by
/// itself; one to the virtual gateway is reset.
#[test]
fn a_connection_without_a_route_ends_at_once() {
    let mut w = World::new(63);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let text = head("rvm1", "10.0.0.11")
        .replace("vni = 100\n", "vni = 100\ngateway = [\"192.168.1.1\", \"fd01::1\"]\n")
        + &guest_port("h1", "private", &mac(1), &["192.168.1.2", "fd01::2", "fe80::/10"]);
    let rvm = w.rvm(site, "rvm1", &["10.0.0.11"], &text);
    let spec = HostSpec::new("ivm", &mac(1), PRIVATE, &["192.168.1.2/24", "fd01::2/64"])
        .via("192.168.1.1")
        .via("fd01::1");
    let ivm = w.guest(rvm, "h1", spec);
    w.start_all();
    w.run_for(100 * MS);
    // smoltcp ignores ICMP errors, but it understands a reset.
    let began = w.now_ns;
    for dst in ["192.168.1.1", "fd01::1"] {
        let dst = ip(dst);
        let app = w.act(ivm, |h, now| h.transfer(now, (dst, 80), 10, 0, 60 * SEC));
        assert!(w.wait(ivm, app).failed);
    }
    assert!(w.now_ns - began < 5 * SEC, "{} ms", (w.now_ns - began) / MS);
    for (own, to, gate) in
        [("192.168.1.2", "8.8.8.8", "192.168.1.1"), ("fd01::2", "2001:db8:8::8", "fd01::1")]
    {
        let (v6, own, to) = (own.contains(':'), ip(own), ip(to));
        let frame = packet::eth_ip(gateway(PRIVATE), m(1), &probe(own, to, packet::TCP, 64));
        let want = (ip(gate), if v6 { 1 } else { 3 }, 0, (own, to));
        assert_eq!(told(&mut w, ivm, frame), [want]);
        // The gateway does not have such a service.
        let frame = packet::eth_ip(gateway(PRIVATE), m(1), &probe(own, ip(gate), packet::UDP, 1));
        let want = (ip(gate), if v6 { 1 } else { 3 }, if v6 { 4 } else { 3 }, (own, ip(gate)));
        assert_eq!(told(&mut w, ivm, frame), [want]);
    }
    w.finish();
}

/// The iVM of a floating IP is gone. The Internet gets no answer while its rVM is still resolving it, and then the
/// error that the host is unreachable; when the iVM is back, so is its traffic.
#[test]
fn a_guest_that_is_gone_is_unreachable() {
    let mut w = World::new(64);
    let f = inside(&mut w, &[("56.0.0.11", "10.0.0.11", "192.168.1.2")], "");
    let own_mac = w.h(f.host).spec.mac;
    let frame = packet::eth_ip(PROVIDER, own_mac, &probe(ip("8.8.8.8"), ip("56.0.0.11"), packet::TCP, 64));
    w.h(f.ivms[0]).stack = false;
    w.run_for(130 * SEC);
    let want = (ip("56.0.0.11"), 3, 1, (ip("8.8.8.8"), ip("56.0.0.11")));
    assert_eq!(told(&mut w, f.host, frame.clone()), [want]);
    w.h(f.ivms[0]).stack = true;
    w.run_for(3 * SEC);
    assert_eq!(told(&mut w, f.host, frame), []);
    w.h(f.host).stack = true;
    assert_eq!(w.ping(f.host, "56.0.0.11", 2).received, 2);
    w.finish();
}

/// Checks that the received frames of one datagram are valid fragments of at most `mtu` bytes, and together are
/// `data`.
fn put_together(frames: &[Vec<u8>], mtu: usize, data: &[u8]) {
    let mut got = vec![None; data.len() + 8];
    let mut ends = (None, 0);
    for f in frames {
        packet::checksums(f).unwrap();
        let p = packet::parse(f).unwrap().ip.unwrap();
        assert!(p.len <= mtu, "{} bytes", p.len);
        ends = (Some((p.src, p.dst)), ends.1 + u32::from(!p.more));
        for (at, byte) in f[p.l4..p.end].iter().enumerate() {
            assert!(got[usize::from(p.frag_offset) + at].replace(*byte).is_none(), "overlapping");
        }
    }
    let got: Vec<u8> = got.into_iter().map(|byte| byte.expect("all of it")).collect();
    let (src, dst) = ends.0.expect("a fragment");
    assert_eq!((ends.1, &got[8..]), (1, data));
    assert_eq!(packet::sum(&got, packet::pseudo_sum(src, dst, packet::UDP, got.len())), 0xffff);
}

/// A datagram as `host` sends it over an MTU of 1500 bytes: whole, or in fragments.
fn send_datagram(
    w: &mut World,
    host: NodeId,
    eth: (MacAddr, MacAddr),
    ends: (IpAddr, IpAddr),
    id: u16,
    ports: (u16, u16),
    data: &[u8],
) {
    let whole = packet::udp(ends.0, ends.1, ports.0, ports.1, data);
    for at in (0..whole.len()).step_by(1480) {
        let end = whole.len().min(at + 1480);
        let p = packet::ipv4_fragment(
            ends.0,
            ends.1,
            packet::UDP,
            id,
            at as u16,
            end < whole.len(),
            &whole[at..end],
        );
        w.inject(host, packet::eth_ip(eth.1, eth.0, &p));
    }
    w.run_for(30 * MS);
}

fn quiet(w: &mut World, f: &Inside) {
    for host in [f.ivms[0], f.host] {
        w.h(host).stack = false;
        w.h(host).heard = Some(Vec::new());
    }
}

/// Datagrams without DF of every size around the tunnel's MTU, from the Internet to a guest and back: they arrive, in
/// fragments where they must, whole where they fit, and none is dropped as too big.
#[test]
fn datagrams_of_every_size_arrive() {
    let mut w = World::new(65);
    let f = inside_of(&mut w, &[("56.0.0.11", "10.0.0.11", "192.168.1.2")], "", |spec| spec.mtu(1500));
    assert_eq!(w.ping(f.host, "56.0.0.11", 2).received, 2);
    let own_mac = w.h(f.host).spec.mac;
    quiet(&mut w, &f);
    let (host, public, own) = (ip("8.8.8.8"), ip("56.0.0.11"), ip("192.168.1.2"));
    for (n, len) in
        [0, 1200, 1421, 1422, 1423, 1430, 1440, 1471, 1472, 1473, 3000, 8000].into_iter().enumerate()
    {
        let data: Vec<u8> = (0..len).map(|i| (i * 7 + n) as u8).collect();
        w.h(f.ivms[0]).heard = Some(Vec::new());
        send_datagram(&mut w, f.host, (own_mac, PROVIDER), (host, public), n as u16, (53, 4000), &data);
        put_together(&heard(&mut w, f.ivms[0]), 1450, &data);
        w.h(f.host).heard = Some(Vec::new());
        send_datagram(&mut w, f.ivms[0], (m(0), gateway(PRIVATE)), (own, host), n as u16, (4000, 53), &data);
        put_together(&heard(&mut w, f.host), 1450, &data);
    }
    for rvm in [f.rvm1, f.rvm2] {
        assert!(w.r(rvm).all_drops().iter().all(|(_, reason, _)| *reason != DropReason::TooBig.name()));
    }
    w.finish();
}

/// An address shared by port between iVMs of another rVM: the fragments of a datagram from the guest's mapped port
/// leave through it, and those from another port do not. On several workers it is the same, because a network card
/// and the tunnel keep the fragments of a datagram together.
#[test]
fn fragments_of_a_shared_address() {
    for workers in [1, 3] {
        let mut w = World::new(66 + workers as u64);
        let site = w.site("east", &["10.0.0.0/16"], true);
        let rule = "inside = { network = \"private\", address = \"192.168.1.2\" }\nonly = [\"udp/53\"]";
        let gate = "vni = 100\ngateway = [\"192.168.1.1\"]\n";
        let gw_text = head("gw", "10.0.0.11").replace("vni = 100\n", gate)
            + &peer("own", "10.0.0.12", "")
            + &floating("56.0.0.11", "gw", Some("10.0.0.11"), rule);
        let own_text = head("own", "10.0.0.12").replace("vni = 100\n", gate)
            + &guest_port("h1", "private", &mac(1), &["192.168.1.2"])
            + &peer("gw", "10.0.0.11", "")
            + &floating("56.0.0.11", "gw", None, rule);
        let gw = w.rvm(site, "gw", &["10.0.0.11"], &gw_text);
        let own = w.rvm(site, "own", &["10.0.0.12"], &own_text);
        for rvm in [gw, own] {
            w.r(rvm).workers = workers;
        }
        w.public_ip(gw, "10.0.0.11", "56.0.0.11");
        let host = w.internet_host("internet", &["8.8.8.8/24"]);
        let ivm = w.guest(
            own,
            "h1",
            HostSpec::new("ivm", &mac(1), PRIVATE, &["192.168.1.2/24"]).mtu(1500).via("192.168.1.1"),
        );
        w.start_all();
        w.settle();
        w.h(ivm).stack = false;
        w.h(host).stack = false;
        w.run_for(SEC);
        let ends = (ip("192.168.1.2"), ip("8.8.8.8"));
        for id in 0..40 {
            let data: Vec<u8> = (0..4000u32).map(|i| (i + u32::from(id)) as u8).collect();
            w.h(host).heard = Some(Vec::new());
            send_datagram(&mut w, ivm, (m(1), gateway(PRIVATE)), ends, id, (53, 1000 + id), &data);
            put_together(&heard(&mut w, host), 1450, &data);
        }
        assert_eq!(w.r(own).drops("h1", DropReason::FragmentWithoutFirst), 0);
        assert_eq!(w.r(gw).drops("eth0", DropReason::FragmentWithoutFirst), 0);
        w.h(host).heard = Some(Vec::new());
        send_datagram(&mut w, ivm, (m(1), gateway(PRIVATE)), ends, 99, (54, 53), &[7; 4000]);
        assert_eq!(heard(&mut w, host), Vec::<Vec<u8>>::new());
        assert_eq!(w.r(own).drops("h1", DropReason::PortNotMapped), 3, "every fragment of it");
        w.finish();
    }
}

/// The fragments of a datagram to a port that the gateway's kernel keeps (`except`) never reach the guest, and a
/// datagram to another port arrives complete.
#[test]
fn fragments_of_an_excepted_port() {
    let mut w = World::new(67);
    let f = inside(&mut w, &[("56.0.0.11", "10.0.0.11", "192.168.1.2")], "except = [\"udp/5000-5010\"]");
    assert_eq!(w.ping(f.host, "56.0.0.11", 2).received, 2);
    let own_mac = w.h(f.host).spec.mac;
    quiet(&mut w, &f);
    let ends = (ip("8.8.8.8"), ip("56.0.0.11"));
    send_datagram(&mut w, f.host, (own_mac, PROVIDER), ends, 1, (4000, 5001), &[7; 4000]);
    assert_eq!(heard(&mut w, f.ivms[0]), Vec::<Vec<u8>>::new());
    assert_eq!(w.r(f.rvm1).drops("eth0", DropReason::PortNotMapped), 3);
    assert_eq!(heard(&mut w, f.host), Vec::<Vec<u8>>::new(), "and nobody says that the port is closed");
    send_datagram(&mut w, f.host, (own_mac, PROVIDER), ends, 2, (4000, 4999), &[7; 4000]);
    put_together(&heard(&mut w, f.ivms[0]), 1450, &[7; 4000]);

    w.finish();
}
