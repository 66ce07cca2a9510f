//! The switch as a switch: learning, flooding, bounds, and networks that never meet.

use engine::counters::DropReason;
use scenarios::{PRIVATE, PUBLIC, door_port, guest_port, head, mac, mesh, peer};
use sim::guest::HostSpec;
use sim::packet;
use sim::world::{MS, NodeId, SEC, World};

fn ip(s: &str) -> std::net::IpAddr {
    s.parse().unwrap()
}

fn m(n: u32) -> engine::wire::mac::MacAddr {
    mac(n).parse().unwrap()
}

/// One rVM, these ports, no peers.
fn alone(w: &mut World, ports: &str) -> NodeId {
    let site = w.site("east", &["10.0.0.0/16"], true);
    w.rvm(site, "rvm1", &["10.0.0.11"], &(head("rvm1", "10.0.0.11") + ports))
}

fn heard(w: &mut World, host: NodeId) -> usize {
    w.h(host).heard.as_ref().map_or(0, Vec::len)
}

fn listen(w: &mut World, hosts: &[NodeId]) {
    for &h in hosts {
        w.h(h).heard = Some(Vec::new());
        w.h(h).stack = false;
    }
}

/// Two tenants with the same addresses, the same MACs and the same tags, on the same two rVMs. Each reaches
/// its own machines, and neither receives a byte of the other.
#[test]
fn r05_overlapping_tenants() {
    let mut w = World::new(5);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let mut hosts = Vec::new();
    for n in 0..2u32 {
        let text = head(&format!("rvm{n}"), &format!("10.0.0.{}", 10 + n))
            + &guest_port("a", "private", &mac(n), &[])
            + &guest_port("b", "public", &mac(n), &[])
            + &door_port("c", "private", "")
            + &door_port("d", "public", "")
            + &peer(&format!("rvm{}", 1 - n), &format!("10.0.0.{}", 11 - n), "");
        let rvm = w.rvm(site, &format!("rvm{n}"), &[&format!("10.0.0.{}", 10 + n)], &text);
        let plain = format!("192.168.1.{}/24", 10 + n);
        for (port, label) in [("a", PRIVATE), ("b", PUBLIC)] {
            hosts.push(w.guest(rvm, port, HostSpec::new(&format!("{port}{n}"), &mac(n), label, &[&plain])));
        }
        for (port, label) in [("c", PRIVATE), ("d", PUBLIC)] {
            let spec =
                HostSpec::new(&format!("{port}{n}"), &mac(n), label, &[&plain]).tagged(packet::ETH_VLAN, 100);
            hosts.push(w.guest(rvm, port, spec));
        }
    }
    w.start_all();
    for k in 0..4 {
        w.h(hosts[4 + k]).serve(80);
        assert_eq!(w.ping(hosts[k], "192.168.1.11", 3).received, 3, "pair {k}");
        assert!(!w.tcp(hosts[k], "192.168.1.11", 80, 20_000, 20_000).failed, "pair {k}");
    }
    // All four simultaneously.
    let apps: Vec<_> = (0..4)
        .map(|k| {
            (
                hosts[k],
                w.act(hosts[k], |h, now| h.transfer(now, (ip("192.168.1.11"), 80), 50_000, 50_000, 30 * SEC)),
            )
        })
        .collect();
    for (h, app) in apps {
        assert!(!w.wait(h, app).failed);
    }
    w.finish();
}

/// A virtual infrastructure is one flat L2 network over any number of rVMs: every guest receives every
/// broadcast once, every pair reaches each other, and frames to a known destination are not flooded.
#[test]
fn r06_flat_l2() {
    let mut w = World::new(6);
    let (rvms, guests) = mesh(&mut w, 4);
    for (a, &from) in guests.iter().enumerate() {
        for b in (0..4).filter(|&b| b != a) {
            assert_eq!(w.ping(from, &format!("192.168.1.{}", 10 + b), 2).received, 2);
        }
    }
    listen(&mut w, &guests);
    let unicast = packet::eth_ip(
        m(1),
        m(0),
        &packet::echo(ip("192.168.1.10"), ip("192.168.1.11"), false, 1, 1, b"one"),
    );
    w.inject(guests[0], unicast);
    w.run_for(10 * MS);
    assert_eq!(guests.iter().map(|&g| heard(&mut w, g)).collect::<Vec<_>>(), [0, 1, 0, 0]);
    w.inject(guests[0], packet::arp_request(m(0), ip("192.168.1.10"), ip("192.168.1.77")));
    w.run_for(10 * MS);
    assert_eq!(guests.iter().map(|&g| heard(&mut w, g)).collect::<Vec<_>>(), [0, 2, 1, 1]);
    let c = w.r(rvms[0]).counters();
    assert!(c.replicated > 0 && c.conserved());
    w.finish();
}

/// A tenant's guest tries to reach the provider's control plane by every address it could know: VTEPs, the
/// rVM's own address, the underlay's router. On an L2 network without a way out, no packet leaves.
#[test]
fn r04_control_plane_unreachable() {
    let mut w = World::new(4);
    let (rvms, guests) = mesh(&mut w, 2);
    let kernel = |w: &mut World| rvms.iter().map(|&r| w.r(r).journal.kernel_rx.len()).collect::<Vec<_>>();
    let before = kernel(&mut w);
    let uplink_mac = w.r(rvms[0]).facts("eth0").unwrap().mac;
    for target in ["10.0.0.10", "10.0.0.11", "10.0.0.1", "169.254.169.254"] {
        let p = packet::echo(ip("192.168.1.10"), ip(target), false, 1, 1, b"hello?");
        for dst in
            [uplink_mac, "02:69:76:00:00:64".parse().unwrap(), "02:69:76:00:00:c8".parse().unwrap(), m(1)]
        {
            w.inject(guests[0], packet::eth_ip(dst, m(0), &p));
        }
        w.inject(guests[0], packet::arp_request(m(0), ip("192.168.1.10"), ip(target)));
    }
    w.run_for(100 * MS);
    assert_eq!(kernel(&mut w), before, "no kernel of an rVM saw any of it");
    assert_eq!(w.r(rvms[0]).counters().punted, 0);
    w.finish();
}

/// One port invents MAC addresses as fast as it can. It fills its own quota and evicts only its own entries: the
/// others' frames are never flooded to it.
#[test]
fn t01_mac_flood_evicts_only_itself() {
    let mut w = World::new(1);
    let rvm = alone(
        &mut w,
        &(door_port("evil", "private", "fdb_max = 1000\nbum_pps = 0")
            + &guest_port("h1", "private", &mac(1), &[])
            + &guest_port("h2", "private", &mac(2), &[])),
    );
    // The network's own bound is below what the port tries.
    w.r(rvm).config = w.r(rvm).config.replace("vni = 100\n", "vni = 100\nfdb_max = 500\n");
    let evil = w.guest(rvm, "evil", HostSpec::new("evil", &mac(66), PRIVATE, &["192.168.1.66/24"]));
    let h1 = w.guest(rvm, "h1", HostSpec::new("h1", &mac(1), PRIVATE, &["192.168.1.1/24"]));
    w.guest(rvm, "h2", HostSpec::new("h2", &mac(2), PRIVATE, &["192.168.1.2/24"]));
    w.start_all();
    assert_eq!(w.ping(h1, "192.168.1.2", 1).received, 1);
    listen(&mut w, &[evil]);
    for n in 0..20_000u32 {
        let src =
            engine::wire::mac::MacAddr([2, 0xee, (n >> 24) as u8, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
        w.inject(evil, packet::eth(m(1), src, 0x88b5, &[0; 46]));
        if n % 64 == 0 {
            w.run_for(MS);
        }
        if n % 5000 == 0 {
            assert_eq!(w.ping(h1, "192.168.1.2", 2).received, 2);
        }
    }
    w.run_for(10 * MS);
    assert_eq!(heard(&mut w, evil), 0, "no frame of the others was flooded to the attacker");
    let now = w.now_ns;
    let rows = w.r(rvm).fdb(now);
    assert!(rows.len() <= 500, "{} entries, bound 500", rows.len());
    for victim in [m(1), m(2)] {
        assert!(rows.iter().any(|r| r.mac == victim), "{victim} was evicted");
    }
    w.finish();
}

/// A frame from one peer is never forwarded to another peer (head-end replication has already reached all of
/// them), flooded or not, unless the switch relays for one of the two.
#[test]
fn split_horizon_between_peers() {
    let mut w = World::new(31);
    let (rvms, guests) = mesh(&mut w, 3);
    listen(&mut w, &guests);
    let before: Vec<u64> = rvms.iter().map(|&r| w.r(r).port("eth0").tx_frames).collect();
    w.inject(guests[0], packet::arp_request(m(0), ip("192.168.1.10"), ip("192.168.1.77")));
    // Unknown unicast.
    w.inject(guests[0], packet::eth(m(777), m(0), 0x88b5, &[0; 46]));
    w.run_for(20 * MS);
    let sent: Vec<u64> = rvms.iter().zip(before).map(|(&r, b)| w.r(r).port("eth0").tx_frames - b).collect();
    assert_eq!(sent, [4, 0, 0]);
    assert_eq!(guests.iter().map(|&g| heard(&mut w, g)).collect::<Vec<_>>(), [0, 2, 2]);
    w.finish();
}

/// 01-80-C2-00-00-00 to -0F are for the first bridge only: a guest's spanning tree, LACP, PAUSE and LLDP frames are
/// not forwarded, and each is counted. -10 is an ordinary group.
#[test]
fn link_local_groups_are_not_forwarded() {
    let mut w = World::new(32);
    let (rvms, guests) = mesh(&mut w, 2);
    listen(&mut w, &guests);
    for last in 0..=0x10u8 {
        w.inject(
            guests[0],
            packet::eth(engine::wire::mac::MacAddr([1, 0x80, 0xc2, 0, 0, last]), m(0), 0x88b5, &[0; 46]),
        );
    }
    w.run_for(10 * MS);
    assert_eq!(w.r(rvms[0]).drops("h1", DropReason::LinkLocalGroup), 16);
    assert_eq!(heard(&mut w, guests[1]), 1);
    w.finish();
}

/// A guest sends broadcasts without end. Its port forwards as many as its limit allows, the rest is counted
/// exactly, and the guest's unicast is not affected.
#[test]
fn bum_rate_limit_per_port() {
    let mut w = World::new(33);
    let rvm = alone(
        &mut w,
        &(guest_port("h1", "private", &mac(1), &[])
            + "bum_pps = 100\n"
            + &guest_port("h2", "private", &mac(2), &[])),
    );
    let h1 = w.guest(rvm, "h1", HostSpec::new("h1", &mac(1), PRIVATE, &["192.168.1.1/24"]));
    let h2 = w.guest(rvm, "h2", HostSpec::new("h2", &mac(2), PRIVATE, &["192.168.1.2/24"]));
    w.start_all();
    assert_eq!(w.ping(h1, "192.168.1.2", 1).received, 1);
    listen(&mut w, &[h2]);
    // Two seconds at 1000 per second.
    for _ in 0..2000 {
        w.inject(h1, packet::arp_request(m(1), ip("192.168.1.1"), ip("192.168.1.77")));
        w.run_for(MS);
    }
    let (passed, dropped) = (heard(&mut w, h2) as u64, w.r(rvm).drops("h1", DropReason::BumRateLimit));
    assert_eq!(passed + dropped, 2000);
    assert!((200..=320).contains(&passed), "{passed} in two seconds at 100 per second and one burst");
    for _ in 0..500 {
        w.inject(h1, packet::eth(m(2), m(1), 0x88b5, &[0; 46]));
    }
    w.run_for(10 * MS);
    assert_eq!(heard(&mut w, h2) as u64, passed + 500);
    w.finish();
}

/// A guest port binds MAC and IP. A frame in which a guest uses another's address is dropped, and the drop reason
/// names the kind of forgery.
#[test]
fn t03_guest_cannot_spoof() {
    let mut w = World::new(3);
    let rvm = alone(
        &mut w,
        &(guest_port("h1", "private", &mac(1), &["192.168.1.1", "fd01::1", "fe80::/10"])
            + &guest_port("h2", "private", &mac(2), &["192.168.1.2"])),
    );
    let h1 = w.guest(rvm, "h1", HostSpec::new("h1", &mac(1), PRIVATE, &["192.168.1.1/24"]));
    let h2 = w.guest(rvm, "h2", HostSpec::new("h2", &mac(2), PRIVATE, &["192.168.1.2/24"]));
    w.start_all();
    assert_eq!(w.ping(h1, "192.168.1.2", 2).received, 2);
    listen(&mut w, &[h2]);
    let (me, other, you) = (ip("192.168.1.1"), ip("192.168.1.9"), ip("192.168.1.2"));
    let dhcp = packet::ip(me, you, packet::UDP, &packet::udp(me, you, 67, 68, &[0; 40]));
    let (v6, all) = (ip("fe80::1"), ip("ff02::1"));
    let mut ra = packet::ip(v6, all, packet::ICMPV6, &packet::icmpv6(v6, all, 134, 0, [0; 4], &[0; 8]));
    ra[7] = 255;
    let mut target = vec![0u8; 16];
    target[..2].copy_from_slice(&[0xfd, 0x01]);
    target[15] = 9;
    let mut na =
        packet::ip(v6, all, packet::ICMPV6, &packet::icmpv6(v6, all, 136, 0, [0x20, 0, 0, 0], &target));
    na[7] = 255;
    let group: engine::wire::mac::MacAddr = "33:33:00:00:00:01".parse().unwrap();
    // Its own IP address at another's MAC: in ARP's sender, in the option of a solicitation and of an advertisement.
    let mut arp = packet::arp_request(m(9), me, you);
    arp[6..12].copy_from_slice(&m(1).0);
    let [ns_mac, na_mac] = [(135, 1), (136, 2)].map(|(kind, option)| {
        let own: std::net::Ipv6Addr = "fd01::1".parse().unwrap();
        let body = [&own.octets()[..], &[option, 1], &m(9).0].concat();
        let mut message =
            packet::ip(v6, all, packet::ICMPV6, &packet::icmpv6(v6, all, kind, 0, [0; 4], &body));
        message[7] = 255;
        packet::eth_ip(group, m(1), &message)
    });
    let nowhere = packet::echo(ip("0.0.0.0"), you, false, 1, 1, b"");
    let dhcp6 = packet::ip(v6, all, packet::UDP, &packet::udp(v6, all, 547, 546, &[0; 40]));
    let lies = [
        (arp, DropReason::SpoofedNeighbor),
        (ns_mac, DropReason::SpoofedNeighbor),
        (na_mac, DropReason::SpoofedNeighbor),
        (packet::eth_ip(m(2), m(1), &nowhere), DropReason::SpoofedIp),
        (packet::eth_ip(group, m(1), &dhcp6), DropReason::DhcpServerGuard),
        (packet::eth_ip(m(2), m(9), &packet::echo(me, you, false, 1, 1, b"")), DropReason::SpoofedMac),
        (packet::eth_ip(m(2), m(1), &packet::echo(other, you, false, 1, 1, b"")), DropReason::SpoofedIp),
        (packet::arp_request(m(1), other, you), DropReason::SpoofedNeighbor),
        (packet::arp_reply(m(1), you, m(2), other), DropReason::SpoofedNeighbor),
        (packet::eth_ip(m(2), m(1), &dhcp), DropReason::DhcpServerGuard),
        (packet::eth_ip(group, m(1), &ra), DropReason::RaGuard),
        (packet::eth_ip(group, m(1), &na), DropReason::SpoofedNeighbor),
        (
            packet::eth(m(2), engine::wire::mac::MacAddr::BROADCAST, 0x88b5, &[0; 46]),
            DropReason::SourceMacInvalid,
        ),
        (
            packet::eth(m(2), "02:69:76:00:00:64".parse().unwrap(), 0x88b5, &[0; 46]),
            DropReason::SourceMacOurs,
        ),
    ];
    for (frame, reason) in lies {
        let before = w.r(rvm).drops("h1", reason);
        w.inject(h1, frame);
        w.run_for(MS);
        assert_eq!(w.r(rvm).drops("h1", reason), before + 1, "{reason}: {:?}", w.r(rvm).all_drops());
    }
    assert_eq!(heard(&mut w, h2), 0);
    w.finish();
}

/// A station moves from one rVM to another and announces it once, by broadcast. From then on no frame for it
/// reaches its old place.
#[test]
fn a_station_moves_and_is_followed() {
    let mut w = World::new(34);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let mut rvms = Vec::new();
    for n in 0..3u8 {
        let mut text =
            head(&format!("rvm{n}"), &format!("10.0.0.{}", 10 + n)) + &door_port("h1", "private", "");
        for k in (0..3).filter(|&k| k != n) {
            text += &peer(&format!("rvm{k}"), &format!("10.0.0.{}", 10 + k), "");
        }
        rvms.push(w.rvm(site, &format!("rvm{n}"), &[&format!("10.0.0.{}", 10 + n)], &text));
    }
    let host = w.guest(rvms[0], "h1", HostSpec::new("host", &mac(1), PRIVATE, &["192.168.1.1/24"]));
    let old = w.guest(rvms[1], "h1", HostSpec::new("old", &mac(2), PRIVATE, &["192.168.1.2/24"]));
    let new = w.guest(rvms[2], "h1", HostSpec::new("new", &mac(2), PRIVATE, &["192.168.1.2/24"]));
    w.h(new).stack = false;
    w.start_all();
    assert_eq!(w.ping(host, "192.168.1.2", 3).received, 3);
    // The machine is stopped here and resumed there; QEMU announces it.
    listen(&mut w, &[old]);
    w.h(new).stack = true;
    w.inject(new, packet::arp_request(m(2), ip("192.168.1.2"), ip("192.168.1.2")));
    w.run_for(5 * MS);
    let before = heard(&mut w, old);
    let r = w.ping(host, "192.168.1.2", 5);
    assert!(r.received >= 4, "its stack asks for its neighbours anew and may lose one answer: {r:?}");
    let stray = w.h(old).heard.as_ref().unwrap()[before..].iter().filter(|f| f.1[..6] == m(2).0).count();
    assert_eq!(stray, 0, "no frame for it reached the old place");
    w.finish();
}

/// Learned addresses are forgotten after the network's ageing time, static ones are not.
#[test]
fn learned_addresses_age() {
    let mut w = World::new(35);
    let rvm = alone(
        &mut w,
        &(guest_port("h1", "private", &mac(1), &[])
            + &guest_port("h2", "private", &mac(2), &[])
            + &format!("[[fdb]]\nnetwork = \"private\"\nmac = \"{}\"\nport = \"h2\"\n", mac(9))),
    );
    w.r(rvm).config = w.r(rvm).config.replace("vni = 100\n", "vni = 100\nfdb_age = 10\n");
    let h1 = w.guest(rvm, "h1", HostSpec::new("h1", &mac(1), PRIVATE, &["192.168.1.1/24"]));
    w.guest(rvm, "h2", HostSpec::new("h2", &mac(2), PRIVATE, &["192.168.1.2/24"]));
    w.start_all();
    assert_eq!(w.ping(h1, "192.168.1.2", 1).received, 1);
    let macs = |w: &mut World| {
        let now = w.now_ns;
        let mut rows: Vec<_> = w.r(rvm).fdb(now).iter().map(|r| (r.mac, r.is_static)).collect();
        rows.sort();
        rows
    };
    assert_eq!(macs(&mut w), [(m(1), false), (m(2), false), (m(9), true)]);
    w.run_for(8 * SEC);
    assert_eq!(macs(&mut w).len(), 3);
    w.run_for(12 * SEC);
    assert_eq!(macs(&mut w), [(m(9), true)]);
    w.finish();
}

/// Runts, giants and garbage on a guest port and on the tunnel: each is counted, none is delivered, nothing breaks.
#[test]
fn malformed_frames_are_counted_drops() {
    let mut w = World::new(36);
    let (rvms, guests) = mesh(&mut w, 2);
    for n in 0..14 {
        w.inject(guests[0], vec![0; n]);
    }
    w.run_for(10 * MS);
    assert_eq!(w.r(rvms[0]).drops("h1", DropReason::Runt), 14, "{:?}", w.r(rvms[0]).all_drops());
    w.inject(guests[0], packet::eth(m(1), m(0), 0x88b5, &vec![0; 1600]));
    w.run_for(10 * MS);
    assert_eq!(w.r(rvms[0]).drops("h1", DropReason::Giant), 1);
    // A peer sends a tunnel packet that is truncated, to every possible length.
    let inner = packet::arp_request(m(1), ip("192.168.1.11"), ip("192.168.1.10"));
    let (a, b) = (ip("10.0.0.11"), ip("10.0.0.10"));
    let (ma, mb) = (w.r(rvms[1]).facts("eth0").unwrap().mac, w.r(rvms[0]).facts("eth0").unwrap().mac);
    let whole = packet::eth_ip(mb, ma, &packet::vxlan(a, b, 4789, PRIVATE, &inner));
    let rx = w.r(rvms[0]).counters().rx;
    w.r(rvms[0]).check_checksums = false;
    let mut sent = 0;
    for cut in 1..whole.len() {
        let mut f = whole[..whole.len() - cut].to_vec();
        if f.len() > 38 {
            // The cloud passes only packets that look complete: correct the outer IP length.
            let len = (f.len() - 14) as u16;
            f[16..18].copy_from_slice(&len.to_be_bytes());
            f[24..26].fill(0);
            let c = !packet::sum(&f[14..34], 0);
            f[24..26].copy_from_slice(&c.to_be_bytes());
            w.inject_at(rvms[1], 0, f);
            sent += 1;
        }
    }
    w.run_for(10 * MS);
    let c = w.r(rvms[0]).counters();
    assert_eq!(c.rx, rx + sent);
    assert!(c.conserved());
    assert_eq!(w.ping(guests[0], "192.168.1.11", 2).received, 2);
    w.finish();
}
