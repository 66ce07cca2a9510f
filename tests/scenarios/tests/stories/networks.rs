//! The three networks of an inception cloud: their isolation, and the properties of each.

use engine::counters::DropReason;
use scenarios::{PRIVATE, PUBLIC, door_port, head, mac, mesh, mesh_at, peer};
use sim::guest::HostSpec;
use sim::packet;
use sim::world::{MS, NodeId, World};

fn ip(s: &str) -> std::net::IpAddr {
    s.parse().unwrap()
}

fn m(n: u32) -> engine::wire::mac::MacAddr {
    mac(n).parse().unwrap()
}

/// `count` rVMs, each with a listener on a door of both networks.
fn both(w: &mut World, count: u32) -> (Vec<NodeId>, Vec<NodeId>, Vec<NodeId>) {
    let site = w.site("east", &["10.0.0.0/16"], true);
    let (mut rvms, mut private, mut public) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..count {
        let mut text = head(&format!("rvm{n}"), &format!("10.0.0.{}", 10 + n))
            + &door_port("a", "private", "")
            + &door_port("b", "public", "");
        for k in (0..count).filter(|&k| k != n) {
            text += &peer(&format!("rvm{k}"), &format!("10.0.0.{}", 10 + k), "");
        }
        let rvm = w.rvm(site, &format!("rvm{n}"), &[&format!("10.0.0.{}", 10 + n)], &text);
        let own = format!("192.168.1.{}/24", 10 + n);
        private.push(w.guest(rvm, "a", HostSpec::new(&format!("a{n}"), &mac(n), PRIVATE, &[&own])));
        let own = format!("10.2.0.{}/16", 10 + n);
        public.push(w.guest(rvm, "b", HostSpec::new(&format!("b{n}"), &mac(100 + n), PUBLIC, &[&own])));
        rvms.push(rvm);
    }
    w.start_all();
    (rvms, private, public)
}

fn listen(w: &mut World, hosts: &[NodeId]) {
    for &h in hosts {
        w.h(h).heard = Some(Vec::new());
        w.h(h).stack = false;
    }
}

/// Eavesdropping is impossible by design: a machine on the public network floods every kind of frame while
/// one on the private network does the same; each network's listeners receive all frames of their own and none of
/// the other, and the kernels of the rVMs (the management network) receive none at all.
#[test]
fn i21_three_networks_are_isolated() {
    let mut w = World::new(21);
    let (rvms, private, public) = both(&mut w, 3);
    listen(&mut w, &private);
    listen(&mut w, &public);
    for (from, tag) in [(private[0], 0xaau8), (public[0], 0xbb)] {
        let src = if tag == 0xaa { m(0) } else { m(100) };
        for dst in [
            engine::wire::mac::MacAddr::BROADCAST,
            m(4242),
            m(1),
            m(101),
            "01:00:5e:00:00:fb".parse().unwrap(),
        ] {
            for ethertype in [0x0800, 0x0806, 0x86dd, 0x88b5, 0x8847] {
                w.inject(from, packet::eth(dst, src, ethertype, &[tag; 60]));
                w.inject(
                    from,
                    packet::push_tag(&packet::eth(dst, src, ethertype, &[tag; 60]), packet::ETH_VLAN, 9),
                );
            }
        }
    }
    w.run_for(50 * MS);
    for (hosts, own) in [(&private, 0xaau8), (&public, 0xbb)] {
        for &h in &hosts[1..] {
            let heard = w.h(h).heard.take().unwrap();
            assert_eq!(heard.len(), 50, "every frame of its own network once");
            assert!(heard.iter().all(|f| f.1.ends_with(&[own; 60])));
        }
    }
    for r in rvms {
        assert!(w.r(r).journal.kernel_rx.is_empty() && w.r(r).journal.punted == 0);
    }
    w.finish();
}

/// The management network is the provider's: L2 (neighbours are resolved directly) or L3 (every packet goes
/// to the router). The same configuration works on both, and the rVMs' kernels reach each other all the time.
#[test]
fn i22_management_over_layer_2_or_3() {
    for flat in [true, false] {
        let mut w = World::new(22);
        let site = w.site("site", &["10.0.0.0/16"], flat);
        let (rvms, guests) = mesh_at(&mut w, site, 2, |n| format!("10.0.{n}.5"), "");
        assert_eq!(w.ping(guests[0], "192.168.1.11", 3).received, 3);
        let router = w.cloud().sites[0].router_mac;
        let to = if flat { w.r(rvms[1]).facts("eth0").unwrap().mac } else { router };
        let from = w.r(rvms[0]).facts("eth0").unwrap().mac;
        let ping = packet::echo(ip("10.0.0.5"), ip("10.0.1.5"), false, 1, 1, b"management");
        w.inject_at(rvms[0], 0, packet::eth_ip(to, from, &ping));
        w.run_for(10 * MS);
        assert_eq!(w.r(rvms[0]).journal.kernel_rx.len(), 1, "the answer came back to the kernel");
        w.finish();
    }
}

/// The private network is one L2 segment made of tunnels: ARP, IPv6 neighbour discovery, TCP in large segments; each
/// rVM learns each station behind the right peer.
#[test]
fn i23_private_network_of_tunnels() {
    let mut w = World::new(23);
    let (rvms, guests) = mesh(&mut w, 3);
    for (a, &from) in guests.iter().enumerate() {
        for b in (0..3usize).filter(|&b| b != a) {
            assert_eq!(w.ping(from, &format!("192.168.1.{}", 10 + b), 2).received, 2);
            assert_eq!(w.ping(from, &format!("fd01::{:x}", 0x10 + b), 2).received, 2);
        }
    }
    let now = w.now_ns;
    for (n, &r) in rvms.iter().enumerate() {
        let rows = w.r(r).fdb(now);
        assert_eq!(rows.len(), 3);
        for row in rows {
            assert_eq!(row.vni.get(), PRIVATE);
            let local = matches!(row.location, engine::command::Location::Port(_));
            assert_eq!(local, row.mac == m(n as u32));
        }
    }
    w.finish();
}

/// The public network is a second L2 segment next to the private one, and the same MACs may be used on both.
#[test]
fn i24_public_network_beside_the_private_one() {
    let mut w = World::new(24);
    let (rvms, private, public) = both(&mut w, 2);
    w.h(public[1]).serve(80);
    w.h(private[1]).serve(80);
    assert!(!w.tcp(public[0], "10.2.0.11", 80, 40_000, 40_000).failed);
    assert!(!w.tcp(private[0], "192.168.1.11", 80, 40_000, 40_000).failed);
    assert_eq!(w.ping(public[0], "192.168.1.11", 2).received, 0);
    assert_eq!(w.ping(private[0], "10.2.0.11", 2).received, 0);
    assert_eq!(w.r(rvms[0]).counters().punted, 0);
    w.finish();
}

/// ECN through the tunnel (RFC 6040): congestion marked on the outer header is copied to a packet that can
/// carry the mark, and drops one that cannot; the inner mark is copied to the outer header on the way in.
#[test]
fn ecn_through_the_tunnel() {
    let mut w = World::new(60);
    let (rvms, guests) = mesh(&mut w, 2);
    assert_eq!(w.ping(guests[0], "192.168.1.11", 1).received, 1);
    listen(&mut w, &guests);
    let (a, b) = (ip("192.168.1.10"), ip("192.168.1.11"));
    let inner = |ecn: u8| {
        let mut p = packet::ip(a, b, packet::UDP, &packet::udp(a, b, 1, 2, b"ecn"));
        p[1] = ecn;
        p[10..12].fill(0);
        let c = !packet::sum(&p[..20], 0);
        p[10..12].copy_from_slice(&c.to_be_bytes());
        packet::eth_ip(m(1), m(0), &p)
    };
    // On the way in: all four values are copied to the outer header.
    let uplink = w.uplink(rvms[0]);
    w.capture(uplink);
    for ecn in 0..4 {
        w.inject(guests[0], inner(ecn));
    }
    w.run_for(10 * MS);
    let pcap = w.captured(uplink).unwrap().bytes();
    let outer: Vec<u8> = (0..4).map(|n| pcap[24 + n * (16 + 14 + 20 + 8 + 8 + 45) + 16 + 15] & 3).collect();
    assert_eq!(outer, [0, 1, 2, 3]);
    // On the way out: the underlay marks congestion.
    w.h(guests[1]).heard = Some(Vec::new());
    let (ma, mb) = (w.r(rvms[0]).facts("eth0").unwrap().mac, w.r(rvms[1]).facts("eth0").unwrap().mac);
    for ecn in 0..4 {
        let mut f = packet::eth_ip(
            mb,
            ma,
            &packet::vxlan(ip("10.0.0.10"), ip("10.0.0.11"), 4789, PRIVATE, &inner(ecn)),
        );
        f[15] |= 3;
        f[24..26].fill(0);
        let c = !packet::sum(&f[14..34], 0);
        f[24..26].copy_from_slice(&c.to_be_bytes());
        w.inject_at(rvms[0], 0, f);
    }
    w.run_for(10 * MS);
    let heard = w.h(guests[1]).heard.take().unwrap();
    assert_eq!(heard.iter().map(|f| f.1[15] & 3).collect::<Vec<_>>(), [3, 3, 3]);
    assert!(heard.iter().all(|f| packet::checksums(&f.1).is_ok()));
    assert_eq!(w.r(rvms[1]).drops("eth0", DropReason::EcnNotCapable), 1);
    w.finish();
}

/// The largest packet that fits passes; one byte more is dropped and counted, at the tunnel to a peer
/// behind a smaller path as well as at the port itself. The NIC never gets a packet over its MTU (the cloud checks).
#[test]
fn r27_mtu_is_kept() {
    let mut w = World::new(61);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let text = |n: u8, more: &str| {
        head(&format!("rvm{n}"), &format!("10.0.0.1{n}"))
            + &door_port("h1", "private", "")
            + &peer(&format!("rvm{}", 1 - n), &format!("10.0.0.1{}", 1 - n), more)
    };
    let a = w.rvm(site, "rvm0", &["10.0.0.10"], &text(0, "mtu = 1400"));
    let b = w.rvm(site, "rvm1", &["10.0.0.11"], &text(1, ""));
    let ga = w.guest(a, "h1", HostSpec::new("a", &mac(0), PRIVATE, &["192.168.1.10/24"]));
    let gb = w.guest(b, "h1", HostSpec::new("b", &mac(1), PRIVATE, &["192.168.1.11/24"]));
    for (r, i) in [(a, "h1"), (b, "h1")] {
        w.r(r).interface(i, true);
    }
    w.start_all();
    assert_eq!(w.ping(ga, "192.168.1.11", 2).received, 2);
    listen(&mut w, &[ga, gb]);
    let frame = |n: usize, src, dst| packet::eth(dst, src, 0x88b5, &vec![7; n]);
    // Towards b: 1400 less 50.
    for n in [1350, 1351] {
        w.inject(ga, frame(n, m(0), m(1)));
    }
    w.run_for(10 * MS);
    assert_eq!(w.h(gb).heard.as_ref().unwrap().len(), 1);
    assert_eq!(w.r(a).drops("h1", DropReason::TooBig), 1, "{:?}", w.r(a).all_drops());
    // Towards a: the ports' own MTU, here 1430, is less than the path's 1450.
    w.inject(gb, frame(1430, m(1), m(0)));
    w.run_for(10 * MS);
    assert_eq!(w.h(ga).heard.as_ref().unwrap().len(), 1, "{:?} {:?}", w.r(a).all_drops(), w.r(b).all_drops());
    w.inject(gb, frame(1600, m(1), m(0)));
    w.run_for(10 * MS);
    assert_eq!(w.r(b).drops("h1", DropReason::Giant), 1);
    assert_eq!(w.h(ga).heard.as_ref().unwrap().len(), 1);
    w.finish();
}

/// The UDP source port of the tunnel follows the inner flow: one flow keeps one port (its packets stay in
/// order on the underlay), many flows spread over many, all from the dynamic range.
#[test]
fn source_port_entropy() {
    let mut w = World::new(62);
    let (rvms, guests) = mesh(&mut w, 2);
    assert_eq!(w.ping(guests[0], "192.168.1.11", 1).received, 1);
    let uplink = w.uplink(rvms[0]);
    w.capture(uplink);
    let (a, b) = (ip("192.168.1.10"), ip("192.168.1.11"));
    listen(&mut w, &guests);
    for round in 0..2u8 {
        for flow in 0..64u16 {
            let p = packet::ip(a, b, packet::UDP, &packet::udp(a, b, 1000 + flow, 53, &[round; 20]));
            w.inject(guests[0], packet::eth_ip(m(1), m(0), &p));
        }
    }
    w.run_for(20 * MS);
    let pcap = w.captured(uplink).unwrap().bytes();
    let len = 14 + 20 + 8 + 8 + 14 + 20 + 8 + 20;
    let ports: Vec<u16> = (0..128)
        .map(|n| {
            let at = 24 + n * (16 + len) + 16 + 34;
            u16::from_be_bytes([pcap[at], pcap[at + 1]])
        })
        .collect();
    assert_eq!(ports[..64], ports[64..], "one flow, one port");
    let mut distinct = ports[..64].to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 48, "{} of 64 flows have a port of their own", distinct.len());
    assert!(ports.iter().all(|&p| p >= 49_152));
    w.finish();
}
