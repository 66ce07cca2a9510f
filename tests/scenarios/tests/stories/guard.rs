//! Our NAT is a confused deputy: a packet that an iVM sends out through it carries the rVM's own, trusted address.
//! The guard checks each packet before the NAT does.

use engine::counters::DropReason;
use engine::wire::mac::MacAddr;
use scenarios::{PRIVATE, allow_internet, floating, guest_port, head, mac, peer};
use sim::guest::HostSpec;
use sim::packet;
use sim::world::{MS, NodeId, World};

fn ip(s: &str) -> std::net::IpAddr {
    s.parse().unwrap()
}

struct Two {
    rvm1: NodeId,
    rvm2: NodeId,
    evil: NodeId,
    victim: NodeId,
    host: NodeId,
}

/// rVM1 is gateway and owner of the attacker's floating IPs; the victim is a guest on rVM2.
fn two(w: &mut World) -> Two {
    let site = w.site("east", &["10.0.0.0/16", "fd00::/64"], true);
    let inside = |a: &str| format!("inside = {{ network = \"private\", address = \"{a}\" }}");
    let r1 = head("rvm1", "10.0.0.11")
        .replace("vni = 100\n", "vni = 100\ngateway = [\"192.168.1.1\", \"fd01::1\"]\n")
        + &guest_port("h1", "private", &mac(1), &["192.168.1.2", "fd01::2", "fe80::/10"])
        + &peer("rvm2", "10.0.0.12", "")
        + &floating("56.0.0.11", "rvm1", Some("10.0.0.11"), &inside("192.168.1.2"))
        + &floating("2001:db8:56::11", "rvm1", Some("fd00::11"), &inside("fd01::2"));
    let r2 = head("rvm2", "10.0.0.12")
        + &guest_port("h1", "public", &mac(2), &[])
        + &peer("rvm1", "10.0.0.11", "");
    let rvm1 = w.rvm(site, "rvm1", &["10.0.0.11", "fd00::11"], &r1);
    let rvm2 = w.rvm(site, "rvm2", &["10.0.0.12"], &r2);
    w.public_ip(rvm1, "10.0.0.11", "56.0.0.11");
    w.public_ip(rvm1, "fd00::11", "2001:db8:56::11");
    w.public_ip(rvm2, "10.0.0.12", "56.0.0.12");
    let host = w.internet_host("internet", &["8.8.8.8/24"]);
    let evil = w.guest(
        rvm1,
        "h1",
        HostSpec::new("evil", &mac(1), PRIVATE, &["192.168.1.2/24", "fd01::2/64"]).via("192.168.1.1"),
    );
    let victim = w.guest(rvm2, "h1", HostSpec::new("victim", &mac(2), scenarios::PUBLIC, &["10.2.0.2/16"]));
    allow_internet(w, PRIVATE, "192.168.1.2", "8.8.8.8");
    w.start_all();
    w.settle();
    Two { rvm1, rvm2, evil, victim, host }
}

/// Six ways to inject a frame into another tenant's network through our own NAT, or to reach destinations that only
/// the rVM may reach. No packet leaves, and each attempt is counted once.
#[test]
fn t14_injection_through_our_nat() {
    let mut w = World::new(14);
    let t = two(&mut w);
    assert_eq!(w.ping(t.host, "56.0.0.11", 3).received, 3, "the way in works");
    assert_eq!(w.ping(t.evil, "8.8.8.8", 3).received, 3, "the way out works");
    w.h(t.victim).heard = Some(Vec::new());
    w.h(t.host).heard = Some(Vec::new());
    w.h(t.victim).stack = false;
    let own = ip("192.168.1.2");
    let own6 = ip("fd01::2");
    let inner = packet::arp_request("02:00:00:00:00:66".parse().unwrap(), ip("10.2.0.66"), ip("10.2.0.2"));
    let mut vx = vec![0x08, 0, 0, 0];
    vx.extend((scenarios::PUBLIC << 8).to_be_bytes());
    vx.extend(&inner);
    let udp =
        |src, dst, sport, dport| packet::ip(src, dst, packet::UDP, &packet::udp(src, dst, sport, dport, &vx));
    let whole = packet::udp(own, ip("10.0.0.12"), 50_000, 4789, &vx);
    let paths: Vec<(&str, Vec<u8>)> = vec![
        ("VXLAN to a peer's VTEP", udp(own, ip("10.0.0.12"), 50_000, 4789)),
        ("VXLAN to a peer's public address", udp(own, ip("56.0.0.12"), 50_000, 4789)),
        ("an answer from the tunnel port", udp(own, ip("8.8.8.8"), 4789, 50_000)),
        (
            "TCP to the management network",
            packet::ip(
                own,
                ip("10.0.77.1"),
                packet::TCP,
                &packet::tcp(own, ip("10.0.77.1"), 1, 2379, 2, b""),
            ),
        ),
        (
            "the metadata service",
            packet::ip(
                own,
                ip("169.254.169.254"),
                packet::TCP,
                &packet::tcp(own, ip("169.254.169.254"), 1, 80, 2, b""),
            ),
        ),
        (
            "the metadata service over IPv6",
            packet::ip(
                own6,
                ip("fd00:ec2::254"),
                packet::TCP,
                &packet::tcp(own6, ip("fd00:ec2::254"), 1, 80, 2, b""),
            ),
        ),
        ("the gateway rVM itself", udp(own, ip("10.0.0.11"), 50_000, 22)),
        (
            "the first fragment of VXLAN",
            packet::ipv4_fragment(own, ip("10.0.0.12"), packet::UDP, 5, 0, true, &whole[..48]),
        ),
        (
            "the second fragment of VXLAN",
            packet::ipv4_fragment(own, ip("10.0.0.12"), packet::UDP, 5, 48, false, &whole[48..]),
        ),
        ("everybody", udp(own, ip("255.255.255.255"), 50_000, 53)),
    ];
    let gateway: MacAddr = "02:69:76:00:00:64".parse().unwrap();
    for (n, (what, p)) in paths.iter().enumerate() {
        let sent = w.r(t.rvm1).port("eth0").tx_frames;
        w.inject(t.evil, packet::eth_ip(gateway, mac(1).parse().unwrap(), p));
        w.run_for(20 * MS);
        // The tunnel port is an exception of every mapping, so that a packet from it never meets a mapping.
        let r = w.r(t.rvm1);
        let counted = r.drops("h1", DropReason::Guarded) + r.drops("h1", DropReason::PortNotMapped);
        assert_eq!(counted, n as u64 + 1, "{what}: {:?}", r.all_drops());
        assert_eq!(w.r(t.rvm1).port("eth0").tx_frames, sent, "{what}: something left by the uplink");
    }
    assert_eq!(w.h(t.victim).heard.as_ref().unwrap().len(), 0);
    assert_eq!(w.r(t.rvm1).drops("h1", DropReason::PortNotMapped), 1, "the one from the tunnel port");
    w.finish();
}

/// VXLAN from machines that are not peers: a stranger in the same data centre, the Internet, a peer that
/// sends for a network it takes no part in, another port, another protocol. Each is counted by its reason.
#[test]
fn t12_tunnel_packets_of_strangers() {
    let mut w = World::new(12);
    let t = two(&mut w);
    let stranger = w.rvm(sim::world::SiteId(0), "stranger", &["10.0.0.66"], "name = \"stranger\"\n");
    w.h(t.victim).heard = Some(Vec::new());
    w.h(t.victim).stack = false;
    let inner = packet::eth(
        "02:00:00:00:00:02".parse().unwrap(),
        "02:00:00:00:00:66".parse().unwrap(),
        0x88b5,
        b"injected injected injected injected injected injected",
    );
    let (us, ours) = (ip("10.0.0.12"), w.r(t.rvm2).facts("eth0").unwrap().mac);
    let send = |w: &mut World, from: NodeId, src: &str, vni: u32, change: &dyn Fn(&mut Vec<u8>)| {
        let m = w.r(from).facts("eth0").unwrap().mac;
        let mut f = packet::eth_ip(ours, m, &packet::vxlan(ip(src), us, 4789, vni, &inner));
        change(&mut f);
        w.inject_at(from, 0, f);
        w.run_for(10 * MS);
    };
    let none = |_: &mut Vec<u8>| {};
    let drops = |w: &mut World, reason| w.r(t.rvm2).drops("eth0", reason);
    send(&mut w, stranger, "10.0.0.66", scenarios::PUBLIC, &none);
    assert_eq!(drops(&mut w, DropReason::UnknownPeer), 1);
    send(&mut w, t.rvm1, "10.0.0.11", 0x00be_ef00, &none);
    assert_eq!(drops(&mut w, DropReason::UnknownVni), 1);
    send(&mut w, t.rvm1, "10.0.0.11", scenarios::PUBLIC, &|f| f[42] = 0);
    assert_eq!(drops(&mut w, DropReason::VxlanHeader), 1);
    // From the Internet, through the provider's NAT.
    let (mac_out, host) = (w.h(t.host).spec.mac, ip("8.8.8.8"));
    let p = packet::vxlan(host, ip("56.0.0.12"), 4789, scenarios::PUBLIC, &inner);
    w.inject(t.host, packet::eth_ip("06:fe:ff:00:00:00".parse().unwrap(), mac_out, &p));
    w.run_for(20 * MS);
    assert_eq!(drops(&mut w, DropReason::UnknownPeer), 2);
    assert_eq!(w.h(t.victim).heard.as_ref().unwrap().len(), 0, "nothing was delivered");
    // A right packet is accepted.
    send(&mut w, t.rvm1, "10.0.0.11", scenarios::PUBLIC, &none);
    assert_eq!(w.h(t.victim).heard.as_ref().unwrap().len(), 1);
    w.finish();
}

/// A peer may send only for the networks that it takes part in.
#[test]
fn t13_peer_of_other_networks() {
    let mut w = World::new(13);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let text = |n: u8, networks: &str| {
        head(&format!("rvm{n}"), &format!("10.0.0.1{n}"))
            + &guest_port("h1", "private", &mac(u32::from(n)), &[])
            + &peer(&format!("rvm{}", 1 - n), &format!("10.0.0.1{}", 1 - n), networks)
    };
    let rvms = [
        w.rvm(site, "rvm0", &["10.0.0.10"], &text(0, "networks = [\"private\", \"public\"]")),
        w.rvm(site, "rvm1", &["10.0.0.11"], &text(1, "networks = [\"public\"]")),
    ];
    let a = w.guest(rvms[0], "h1", HostSpec::new("a", &mac(0), PRIVATE, &["192.168.1.10/24"]));
    w.guest(rvms[1], "h1", HostSpec::new("b", &mac(1), PRIVATE, &["192.168.1.11/24"]));
    w.start_all();
    let sent = 5;
    for _ in 0..sent {
        w.inject(a, packet::arp_request(mac(0).parse().unwrap(), ip("192.168.1.10"), ip("192.168.1.11")));
    }
    w.run_for(10 * MS);
    assert_eq!(w.r(rvms[1]).drops("eth0", DropReason::PeerNotInVni), sent);
    assert_eq!(w.ping(a, "192.168.1.11", 2).received, 0);
    w.finish();
}
