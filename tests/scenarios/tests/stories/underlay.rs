//! The little that the switch requires from a reality cloud, and one cloud over several reality clouds.

use engine::counters::DropReason;
use scenarios::{PRIVATE, PUBLIC, floating, guest_port, head, mac, mesh, mesh_at, peer};
use sim::guest::{HostSpec, INTERNET};
use sim::packet;
use sim::underlay::CloudDrop;
use sim::world::{MS, NodeId, SEC, World};

/// Frames of a capture: everything behind the 16-byte record headers.
fn frames(pcap: &[u8]) -> Vec<Vec<u8>> {
    let (mut at, mut all) = (24, Vec::new());
    while at < pcap.len() {
        let len = u32::from_le_bytes(pcap[at + 8..at + 12].try_into().unwrap()) as usize;
        all.push(pcap[at + 16..at + 16 + len].to_vec());
        at += 16 + len;
    }
    all
}

fn all_reach(w: &mut World, guests: &[NodeId], address: impl Fn(usize) -> String) {
    for (a, &from) in guests.iter().enumerate() {
        for b in (0..guests.len()).filter(|&b| b != a) {
            let r = w.ping(from, &address(b), 2);
            assert_eq!((r.received, r.bad, r.duplicates), (2, 0, 0), "guest {a} to guest {b}");
        }
    }
}

/// Each rVM has one interface with a pre-assigned private address and nothing else. Two rVMs are enough
/// for a private network: guests on both reach each other by ping, TCP and UDP, and every packet is counted.
#[test]
fn i15_one_interface_one_private_address() {
    let mut w = World::new(15);
    let (rvms, guests) = mesh(&mut w, 2);
    let before = w.r(rvms[0]).port("eth0");
    all_reach(&mut w, &guests, |n| format!("192.168.1.{}", 10 + n));
    w.h(guests[1]).serve(80);
    w.h(guests[1]).echo(7);
    let r = w.tcp(guests[0], "192.168.1.11", 80, 60_000, 60_000);
    assert_eq!((r.failed, r.sent, r.received, r.bad), (false, 60_000, 60_000, 0));
    assert_eq!((w.h(guests[1]).served, w.h(guests[1]).served_bad), (60_000, 0));
    let r = w.udp(guests[0], "192.168.1.11", 7, 20, 1000);
    assert_eq!((r.received, r.bad), (20, 0));
    let after = w.r(rvms[0]).port("eth0");
    assert!(after.tx_frames > before.tx_frames + 40 && after.rx_frames > before.rx_frames + 40);
    assert_eq!(w.r(rvms[0]).counters().dropped, 0, "{:?}", w.r(rvms[0]).all_drops());
    w.finish();
}

/// The switch sends only UDP unicast to the tunnel port on the underlay, even if guests send IPv6,
/// broadcast, multicast or unknown unicast.
#[test]
fn i16_only_unicast_udp_on_the_underlay() {
    let mut w = World::new(16);
    let (rvms, guests) = mesh(&mut w, 3);
    let uplink = w.uplink(rvms[0]);
    w.capture(uplink);
    all_reach(&mut w, &guests, |n| format!("192.168.1.{}", 10 + n));
    all_reach(&mut w, &guests, |n| format!("fd01::{:x}", 0x10 + n));
    let frames = frames(w.captured(uplink).unwrap().bytes());
    assert!(frames.len() > 20);
    let own: std::net::IpAddr = "10.0.0.10".parse().unwrap();
    for f in &frames {
        let ip = packet::parse(f).unwrap().ip.expect("an IP packet");
        assert_eq!((ip.proto, packet::l4_ports(f, &ip).unwrap().1), (packet::UDP, 4789));
        assert!(ip.src == own || ip.dst == own, "{} > {}", ip.src, ip.dst);
        assert!(!ip.dst.is_multicast() && f[0] & 1 == 0);
    }
    // Head-end replication: one broadcast leaves as one packet per peer.
    let before = w.r(rvms[0]).port("eth0").tx_frames;
    let arp = packet::arp_request(
        mac(0).parse().unwrap(),
        "192.168.1.10".parse().unwrap(),
        "192.168.1.99".parse().unwrap(),
    );
    w.inject(guests[0], arp);
    w.run_for(10 * MS);
    assert_eq!(w.r(rvms[0]).port("eth0").tx_frames, before + 2);
    w.finish();
}

/// The provider drops packets that are not from the NIC's own address, and the simulator's cloud fails the
/// world for one. Here a guest tries to make the switch spoof by using a neighbour's addresses.
#[test]
fn i17_never_spoofs() {
    let mut w = World::new(17);
    let (rvms, guests) = mesh(&mut w, 2);
    let (us, them) = ("10.0.0.12".parse().unwrap(), "10.0.0.11".parse().unwrap());
    let inner = packet::ip(us, them, packet::UDP, &packet::udp(us, them, 1, 2, b"spoof"));
    w.inject(
        guests[0],
        packet::eth_ip("02:69:76:00:00:64".parse().unwrap(), mac(0).parse().unwrap(), &inner),
    );
    w.inject(guests[0], packet::eth_ip(mac(1).parse().unwrap(), mac(0).parse().unwrap(), &inner));
    w.run_for(10 * MS);
    all_reach(&mut w, &guests, |n| format!("192.168.1.{}", 10 + n));
    assert_eq!(w.r(rvms[1]).counters().punted, 0);
    w.finish();
}

/// A provider whose NICs share no L2 domain: every packet goes through its router, which is the only
/// neighbour. The overlay does not notice.
#[test]
fn i18_layer_3_underlay() {
    let mut w = World::new(18);
    let site = w.site("l3", &["10.0.0.0/16"], false);
    let (rvms, guests) = mesh_at(&mut w, site, 3, |n| format!("10.0.{n}.7"), "");
    let uplink = w.uplink(rvms[0]);
    w.capture(uplink);
    all_reach(&mut w, &guests, |n| format!("192.168.1.{}", 10 + n));
    let router = w.cloud().sites[0].router_mac;
    let own: std::net::IpAddr = "10.0.0.7".parse().unwrap();
    for f in frames(w.captured(uplink).unwrap().bytes()) {
        let p = packet::parse(&f).unwrap();
        if p.ip.unwrap().src == own {
            assert_eq!(p.dst, router);
        }
    }
    w.finish();
}

/// Tunnels over IPv6, with and without the outer checksum.
#[test]
fn i18_ipv6_underlay() {
    for more in ["", "checksum = true"] {
        let mut w = World::new(180);
        let site = w.site("v6", &["fd00:a::/64"], true);
        let (rvms, guests) = mesh_at(&mut w, site, 2, |n| format!("fd00:a::{:x}", 0x10 + n), more);
        let uplink = w.uplink(rvms[0]);
        w.capture(uplink);
        for &g in &guests {
            w.h(g).spec.mtu = 1430;
        }
        all_reach(&mut w, &guests, |n| format!("192.168.1.{}", 10 + n));
        w.h(guests[1]).serve(80);
        assert!(!w.tcp(guests[0], "192.168.1.11", 80, 30_000, 30_000).failed);
        let with_checksum = frames(w.captured(uplink).unwrap().bytes())
            .iter()
            .filter(|f| {
                let ip = packet::parse(f).unwrap().ip.unwrap();
                f[ip.l4 + 6..ip.l4 + 8] != [0, 0]
            })
            .count();
        assert_eq!(with_checksum != 0, !more.is_empty());
        w.finish();
    }
}

/// One inception cloud over two providers that do not know each other and even use the same private
/// addresses: rVMs reach each other at their public addresses, through both providers' NAT.
#[test]
fn i19_two_providers_with_the_same_private_addresses() {
    let mut w = World::new(19);
    let mut rvms = Vec::new();
    let mut guests = Vec::new();
    for n in 0..2u8 {
        let site = w.site(["alpha", "beta"][usize::from(n)], &["10.0.0.0/16"], n == 0);
        let other = 1 - n;
        let text = head(&format!("rvm{n}"), "10.0.0.11")
            + &guest_port("h1", "private", &mac(u32::from(n)), &[])
            + &peer(&format!("rvm{other}"), &format!("60.{other}.0.11"), "");
        let rvm = w.rvm(site, &format!("rvm{n}"), &["10.0.0.11"], &text);
        w.public_ip(rvm, "10.0.0.11", &format!("60.{n}.0.11"));
        let ip = format!("192.168.1.{}/24", 10 + n);
        guests.push(w.guest(rvm, "h1", HostSpec::new(&format!("g{n}"), &mac(u32::from(n)), PRIVATE, &[&ip])));
        rvms.push(rvm);
    }
    w.start_all();
    all_reach(&mut w, &guests, |n| format!("192.168.1.{}", 10 + n));
    w.h(guests[1]).serve(80);
    assert!(!w.tcp(guests[0], "192.168.1.11", 80, 100_000, 100_000).failed);
    assert_eq!(w.cloud().dropped(CloudDrop::NoPublic), 0);
    w.finish();
}

/// Management, private and public network on every rVM, with the same addresses in use on both guest networks: a
/// guest reaches the guest of its own network and never the other one, and packets of the management network (a ping
/// to the rVM itself, SSH) go on to the kernel unchanged.
#[test]
fn i20_three_networks_side_by_side() {
    let mut w = World::new(20);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let (mut rvms, mut private, mut public) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..2u32 {
        // Without path probes, every frame of the uplink counts.
        let text = head(&format!("rvm{n}"), &format!("10.0.0.{}", 10 + n))
            .replace("[uplink]", "[uplink]\nprobe = false")
            + &guest_port("h1", "private", &mac(n), &[])
            + &guest_port("h2", "public", &mac(16 + n), &[])
            + &peer(&format!("rvm{}", 1 - n), &format!("10.0.0.{}", 11 - n), "");
        let rvm = w.rvm(site, &format!("rvm{n}"), &[&format!("10.0.0.{}", 10 + n)], &text);
        let address = format!("192.168.1.{}/24", 10 + n);
        let spec = HostSpec::new(&format!("private{n}"), &mac(n), PRIVATE, &[&address]);
        private.push(w.guest(rvm, "h1", spec));
        let spec = HostSpec::new(&format!("public{n}"), &mac(16 + n), PUBLIC, &[&address]);
        public.push(w.guest(rvm, "h2", spec));
        rvms.push(rvm);
    }
    w.start_all();
    // Every payload carries the label of its sender's network, and the world checks each one that a machine receives.
    for guests in [&private, &public] {
        all_reach(&mut w, guests, |n| format!("192.168.1.{}", 10 + n));
        w.h(guests[1]).serve(80);
        assert!(!w.tcp(guests[0], "192.168.1.11", 80, 50_000, 50_000).failed);
    }
    assert_eq!([private[1], public[1]].map(|g| w.h(g).served), [50_000; 2], "each its own");
    w.run_for(SEC);
    let a = "10.0.0.11".parse().unwrap();
    let b: std::net::IpAddr = "10.0.0.10".parse().unwrap();
    let (ma, mb) = (w.r(rvms[1]).facts("eth0").unwrap().mac, w.r(rvms[0]).facts("eth0").unwrap().mac);
    let rx = w.r(rvms[0]).counters().rx;
    let ping = packet::echo(a, b, false, 1, 1, b"management");
    w.inject_at(rvms[1], 0, packet::eth_ip(mb, ma, &ping));
    let ssh = packet::ip(a, b, packet::TCP, &packet::tcp(a, b, 50_000, 22, 2, b""));
    w.inject_at(rvms[1], 0, packet::eth_ip(mb, ma, &ssh));
    w.run_for(10 * MS);
    assert_eq!(w.r(rvms[0]).journal.kernel_rx.len(), 2, "both packets reached rVM0's kernel");
    assert!(
        w.r(rvms[1]).journal.kernel_rx.iter().any(|f| f.ends_with(b"management")),
        "and its answer came back"
    );
    assert_eq!(w.r(rvms[0]).counters().rx, rx, "the switch saw none of it");
    w.finish();
}

/// Two gateway rVMs in each of two data centres, with public addresses; the other rVMs there have only private ones.
/// Each inner rVM is behind one gateway of its own, so the four pairs of far rVMs use every gateway with every other.
/// A transfer behind one gateway does not notice that the other gateway of its data centre dies.
#[test]
fn i25_gateways_join_data_centres() {
    let mut w = World::new(25);
    let (mut gateways, mut guests) = (Vec::new(), Vec::new());
    // gw00, gw01, in00, in01 in east; gw10, gw11, in10, in11 in west. `inDN` is behind `gwDN`.
    for dc in 0..2u8 {
        let site = w.site(["east", "west"][usize::from(dc)], &[&format!("10.{dc}.0.0/16")], true);
        let far = 1 - dc;
        for n in 0..2u8 {
            let (gw, inner) = (format!("10.{dc}.0.1{n}"), format!("10.{dc}.0.5{n}"));
            let mut gateway = head(&format!("gw{dc}{n}"), &gw)
                + &peer(&format!("in{dc}{n}"), &inner, "relay = true")
                + &peer(&format!("gw{far}0"), &format!("60.{far}.0.1"), "")
                + &peer(&format!("gw{far}1"), &format!("60.{far}.0.2"), "");
            let mut inside = head(&format!("in{dc}{n}"), &inner)
                + &guest_port("h1", "private", &mac(u32::from(dc * 2 + n)), &[])
                + &peer(&format!("gw{dc}{n}"), &gw, "")
                + &peer(&format!("in{dc}{}", 1 - n), &format!("10.{dc}.0.5{}", 1 - n), "");
            for m in 0..2u8 {
                let (name, address) = (format!("in{far}{m}"), format!("10.{far}.0.5{m}"));
                gateway += &peer(&name, &address, &format!("via = \"gw{far}{m}\""));
                inside += &peer(&name, &address, &format!("via = \"gw{dc}{n}\""));
            }
            let g = w.rvm(site, &format!("gw{dc}{n}"), &[&gw], &gateway);
            w.public_ip(g, &gw, &format!("60.{dc}.0.{}", 1 + n));
            let i = w.rvm(site, &format!("in{dc}{n}"), &[&inner], &inside);
            let ip = format!("192.168.1.{}/24", 10 + dc * 2 + n);
            let spec = HostSpec::new(&format!("g{dc}{n}"), &mac(u32::from(dc * 2 + n)), PRIVATE, &[&ip]);
            guests.push(w.guest(i, "h1", spec));
            gateways.push(g);
        }
    }
    w.start_all();
    all_reach(&mut w, &guests, |n| format!("192.168.1.{}", 10 + n));
    let before: Vec<_> = gateways.iter().map(|&g| w.r(g).port("eth0").rx_frames).collect();
    for (from, to) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        w.h(guests[to]).serve(80);
        let r = w.tcp(guests[from], &format!("192.168.1.{}", 10 + to), 80, 50_000, 50_000);
        assert_eq!((r.failed, r.bad), (false, 0), "{from} to {to}");
    }
    for (n, &gateway) in gateways.iter().enumerate() {
        let rx = w.r(gateway).port("eth0").rx_frames - before[n];
        assert!(rx > 120, "gateway {n} relayed {rx} packets of two of the four transfers");
    }
    let app = w.act(guests[0], |h, now| {
        h.transfer(now, ("192.168.1.12".parse().unwrap(), 80), 300_000, 300_000, 60 * SEC)
    });
    w.run_for(2 * MS);
    w.kill(gateways[1]);
    assert!(!w.wait(guests[0], app).failed);
    assert_eq!(
        w.ping(guests[1], "192.168.1.12", 1).received,
        0,
        "the one behind the dead gateway is cut off"
    );
    w.start(gateways[1]);
    w.run_for(SEC);
    assert_eq!(w.ping(guests[1], "192.168.1.12", 3).received, 3);
    w.finish();
}

/// Two relays are each configured to find the rVM `lost` behind the other: a frame for it goes back and forth until
/// its outer hop limit is used up, and is then counted, once; so are the later frames of the same flow.
#[test]
fn relays_in_a_loop_drop_what_goes_round() {
    let mut w = World::new(251);
    w.hops_max = 140; // 64 rVMs, and the provider between each two
    let site = w.site("east", &["10.0.0.0/16"], true);
    let lost = "02:00:00:00:00:63";
    let relays = [0u8, 1].map(|n| {
        let text = head(&format!("r{n}"), &format!("10.0.0.1{n}"))
            + &peer(&format!("r{}", 1 - n), &format!("10.0.0.1{}", 1 - n), "relay = true")
            + &peer("edge", "10.0.0.20", "relay = true")
            + &peer("lost", "10.0.0.99", &format!("via = \"r{}\"", 1 - n))
            + &format!("[[fdb]]\nnetwork = \"private\"\nmac = \"{lost}\"\npeer = \"lost\"\n");
        w.rvm(site, &format!("r{n}"), &[&format!("10.0.0.1{n}")], &text)
    });
    let text = head("edge", "10.0.0.20")
        + &guest_port("h1", "private", &mac(1), &[])
        + &peer("r0", "10.0.0.10", "")
        + &peer("lost", "10.0.0.99", "via = \"r0\"")
        + &format!("[[fdb]]\nnetwork = \"private\"\nmac = \"{lost}\"\npeer = \"lost\"\n");
    let edge = w.rvm(site, "edge", &["10.0.0.20"], &text);
    let guest = w.guest(edge, "h1", HostSpec::new("g", &mac(1), PRIVATE, &["192.168.1.1/24"]));
    w.start_all();
    w.settle();
    w.h(guest).stack = false;
    let before: Vec<_> = relays.iter().map(|&r| w.r(r).port("eth0").rx_frames).collect();
    for n in 0..3u8 {
        let p = packet::echo(
            "192.168.1.1".parse().unwrap(),
            "192.168.1.99".parse().unwrap(),
            false,
            1,
            1,
            &[n; 40],
        );
        w.inject(guest, packet::eth_ip(lost.parse().unwrap(), mac(1).parse().unwrap(), &p));
        w.run_for(50 * MS);
    }
    let looped: u64 = relays.iter().map(|&r| w.r(r).drops("eth0", DropReason::RelayLoop)).sum();
    assert_eq!(looped, 3, "{:?}", relays.map(|r| w.r(r).all_drops()));
    let passed: u64 = relays.iter().zip(before).map(|(&r, b)| w.r(r).port("eth0").rx_frames - b).sum();
    assert!((150..250).contains(&passed), "64 hops for each of three frames, but {passed}");
    w.finish();
}

/// Networks of any shape: each of four rVMs takes part in its own choice of five networks, and a frame
/// reaches exactly the rVMs of its network.
#[test]
fn i27_arbitrary_topologies() {
    let mut w = World::new(27);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let members: [&[u32]; 5] = [&[0, 1], &[1, 2, 3], &[0, 3], &[0, 1, 2, 3], &[2]];
    let mut guests = vec![Vec::new(); 5];
    let mut rvms = Vec::new();
    for n in 0..4u32 {
        let mut text =
            format!("name = \"rvm{n}\"\n[uplink]\ninterface = \"eth0\"\naddress = \"10.0.0.{}\"\n", 10 + n);
        let mine: Vec<usize> = (0..5).filter(|&k| members[k].contains(&n)).collect();
        for &k in &mine {
            text += &format!("[[network]]\nname = \"n{k}\"\nvni = {}\n", 1000 + k);
            text += &guest_port(&format!("h{k}"), &format!("n{k}"), &mac(n * 16 + k as u32), &[]);
        }
        for m in (0..4).filter(|&m| m != n) {
            let common: Vec<String> =
                mine.iter().filter(|&&k| members[k].contains(&m)).map(|k| format!("n{k}")).collect();
            text +=
                &peer(&format!("rvm{m}"), &format!("10.0.0.{}", 10 + m), &format!("networks = {common:?}"));
        }
        let rvm = w.rvm(site, &format!("rvm{n}"), &[&format!("10.0.0.{}", 10 + n)], &text);
        for k in mine {
            // The same addresses on every network.
            let ip = format!("192.168.1.{}/24", 10 + n);
            let spec = HostSpec::new(&format!("g{n}-{k}"), &mac(n * 16 + k as u32), 1000 + k as u32, &[&ip]);
            guests[k].push((n, w.guest(rvm, &format!("h{k}"), spec)));
        }
        rvms.push(rvm);
    }
    w.start_all();
    for (k, network) in guests.clone().into_iter().enumerate() {
        for &(a, from) in &network {
            for b in (0..4).filter(|&b| b != a) {
                let r = w.ping(from, &format!("192.168.1.{}", 10 + b), 2);
                let want = if members[k].contains(&b) { 2 } else { 0 };
                assert_eq!(r.received, want, "network {k}: rVM {a} to rVM {b}");
            }
        }
    }
    w.finish();
}

/// The provider's firewall lets UDP pass and silently drops GRE: that is why the tunnel is VXLAN.
#[test]
fn i46_udp_passes_where_gre_is_dropped() {
    let mut w = World::new(46);
    let (rvms, guests) = mesh(&mut w, 2);
    let (a, b) = ("10.0.0.10".parse().unwrap(), "10.0.0.11".parse().unwrap());
    let (ma, mb) = (w.r(rvms[0]).facts("eth0").unwrap().mac, w.r(rvms[1]).facts("eth0").unwrap().mac);
    w.inject_at(
        rvms[0],
        0,
        packet::eth_ip(mb, ma, &packet::ip(a, b, packet::GRE, &[0, 0, 0x65, 0x58, 1, 2, 3, 4])),
    );
    w.run_for(10 * MS);
    assert_eq!(w.cloud().dropped(CloudDrop::Protocol), 1);
    all_reach(&mut w, &guests, |n| format!("192.168.1.{}", 10 + n));
    assert_eq!(w.cloud().dropped(CloudDrop::Protocol), 1, "nothing of ours was dropped by the firewall");
    w.finish();
}

/// VNIs of 24 bits: the largest, the smallest and two that differ only in their highest bit are four
/// networks, and the number on the wire is the configured one.
#[test]
fn i47_24_bit_vni() {
    let vnis = [1u32, 0x00ff_ffff, 0x0000_1234, 0x0080_1234];
    let mut w = World::new(47);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let mut guests = Vec::new();
    for n in 0..2u32 {
        let mut text =
            format!("name = \"rvm{n}\"\n[uplink]\ninterface = \"eth0\"\naddress = \"10.0.0.{}\"\n", 10 + n);
        for (k, vni) in vnis.iter().enumerate() {
            text += &format!("[[network]]\nname = \"n{k}\"\nvni = {vni}\n");
            text += &guest_port(&format!("h{k}"), &format!("n{k}"), &mac(n), &[]);
        }
        text += &peer(&format!("rvm{}", 1 - n), &format!("10.0.0.{}", 11 - n), "");
        let rvm = w.rvm(site, &format!("rvm{n}"), &[&format!("10.0.0.{}", 10 + n)], &text);
        for (k, &vni) in vnis.iter().enumerate() {
            let ip = format!("192.168.1.{}/24", 10 + n);
            guests.push((
                n,
                vni,
                w.guest(rvm, &format!("h{k}"), HostSpec::new(&format!("g{n}-{vni}"), &mac(n), vni, &[&ip])),
            ));
        }
    }
    w.start_all();
    let uplink = w.uplink(w.rvms()[0]);
    for (_, vni, from) in guests.into_iter().filter(|g| g.0 == 0) {
        w.capture(uplink);
        assert_eq!(w.ping(from, "192.168.1.11", 3).received, 3, "VNI {vni:#x}");
        let seen = frames(w.captured(uplink).unwrap().bytes());
        let last = seen.iter().filter_map(|f| packet::vxlan_inner(f, 4789)).next_back().unwrap();
        assert_eq!(last.0, vni);
    }
    w.finish();
}

/// The Inception paper's star: spokes know only the hub, which relays for them. Every pair reaches each other; a
/// broadcast arrives once at every spoke and never comes back; no frame loops.
#[test]
fn i48_star_via_gateway() {
    let mut w = World::new(48);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let count = 4u8;
    let mut hub = head("hub", "10.0.0.1").replace("10.0.0.1\"", "10.0.0.100\"");
    for n in 0..count {
        hub += &peer(&format!("rvm{n}"), &format!("10.0.0.{}", 10 + n), "relay = true");
    }
    let hub = w.rvm(site, "hub", &["10.0.0.100"], &hub);
    let (mut rvms, mut guests) = (Vec::new(), Vec::new());
    for n in 0..count {
        let mut text = head(&format!("rvm{n}"), &format!("10.0.0.{}", 10 + n))
            + &guest_port("h1", "private", &mac(u32::from(n)), &[])
            + &peer("hub", "10.0.0.100", "");
        for m in (0..count).filter(|&m| m != n) {
            text += &peer(&format!("rvm{m}"), &format!("10.0.0.{}", 10 + m), "via = \"hub\"");
        }
        let rvm = w.rvm(site, &format!("rvm{n}"), &[&format!("10.0.0.{}", 10 + n)], &text);
        let ip = format!("192.168.1.{}/24", 10 + n);
        guests.push(w.guest(rvm, "h1", HostSpec::new(&format!("g{n}"), &mac(u32::from(n)), PRIVATE, &[&ip])));
        rvms.push(rvm);
    }
    w.start_all();
    all_reach(&mut w, &guests, |n| format!("192.168.1.{}", 10 + n));
    for &g in &guests {
        w.h(g).heard = Some(Vec::new());
    }
    let before = w.r(hub).port("eth0");
    let arp = packet::arp_request(
        mac(0).parse().unwrap(),
        "192.168.1.10".parse().unwrap(),
        "192.168.1.99".parse().unwrap(),
    );
    w.inject(guests[0], arp.clone());
    w.run_for(50 * MS);
    let heard: Vec<usize> = guests
        .iter()
        .map(|&g| w.h(g).heard.as_ref().unwrap().iter().filter(|f| f.1 == arp).count())
        .collect();
    assert_eq!(heard, [0, 1, 1, 1]);
    let after = w.r(hub).port("eth0");
    assert_eq!((after.rx_frames - before.rx_frames, after.tx_frames - before.tx_frames), (1, 3));
    w.h(guests[3]).serve(80);
    assert!(!w.tcp(guests[0], "192.168.1.13", 80, 50_000, 50_000).failed);
    w.finish();
}

/// Two hubs each relay for the other, and each looks for a certain MAC behind the other: the hop limit of the relayed
/// packet ends it, it is counted, and no guest is flooded.
#[test]
fn i48_relays_that_point_at_each_other_do_not_loop() {
    let mut w = World::new(480);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let lost = "02:00:00:00:0b:ad";
    let mut rvms = Vec::new();
    for n in 0..2u8 {
        let other = 1 - n;
        let text = head(&format!("hub{n}"), &format!("10.0.0.{}", 10 + n))
            + &guest_port("h1", "private", &mac(u32::from(n)), &[])
            + &peer(&format!("hub{other}"), &format!("10.0.0.{}", 10 + other), "relay = true")
            + &format!("[[fdb]]\nnetwork = \"private\"\nmac = \"{lost}\"\npeer = \"hub{other}\"\n");
        let rvm = w.rvm(site, &format!("hub{n}"), &[&format!("10.0.0.{}", 10 + n)], &text);
        let ip = format!("192.168.1.{}/24", 10 + n);
        let g = w.guest(rvm, "h1", HostSpec::new(&format!("g{n}"), &mac(u32::from(n)), PRIVATE, &[&ip]));
        rvms.push((rvm, g));
    }
    w.start_all();
    let before = w.r(rvms[1].0).port("eth0").rx_frames;
    let (a, b) = ("192.168.1.10".parse().unwrap(), "192.168.1.99".parse().unwrap());
    let p = packet::echo(a, b, false, 1, 1, b"lost");
    w.inject(rvms[0].1, packet::eth_ip(lost.parse().unwrap(), mac(0).parse().unwrap(), &p));
    w.run_for(100 * MS);
    let rx = w.r(rvms[1].0).port("eth0").rx_frames - before;
    assert_eq!(rx, 1, "a frame does not go back to the peer it came from");
    assert_eq!(w.r(rvms[1].0).drops("eth0", engine::counters::DropReason::NoDestination), 1);
    w.finish();
}

/// Floating IPs of two data centres: the iVM lives in west, its public address comes from east's provider.
/// Neither underlay is changed; the packets are exchanged between the public addresses of the two rVMs.
#[test]
fn i39_floating_ip_across_data_centres() {
    let mut w = World::new(39);
    let east = w.site("east", &["10.0.0.0/16"], true);
    let west = w.site("west", &["10.0.0.0/16"], true);
    let rvm1 = head("rvm1", "10.0.0.11")
        + &peer("rvm2", "60.2.0.12", "")
        + &floating("56.0.0.11", "rvm1", Some("10.0.0.21"), "");
    let inside = "inside = { network = \"private\", address = \"192.168.1.2\" }";
    let rvm2 = head("rvm2", "10.0.0.12")
        + &guest_port("h1", "private", &mac(2), &["192.168.1.2"])
        + &peer("rvm1", "60.1.0.11", "")
        + &floating("56.0.0.11", "rvm1", None, inside);
    // A network behind rVM2's switch needs a way out for the iVM: the virtual gateway of `private`.
    let rvm2 = rvm2.replace("vni = 100\n", "vni = 100\ngateway = [\"192.168.1.1\"]\n");
    let r1 = w.rvm(east, "rvm1", &["10.0.0.11", "10.0.0.21"], &rvm1);
    w.public_ip(r1, "10.0.0.11", "60.1.0.11");
    w.public_ip(r1, "10.0.0.21", "56.0.0.11");
    let r2 = w.rvm(west, "rvm2", &["10.0.0.12"], &rvm2);
    w.public_ip(r2, "10.0.0.12", "60.2.0.12");
    let ivm =
        w.guest(r2, "h1", HostSpec::new("ivm", &mac(2), PRIVATE, &["192.168.1.2/24"]).via("192.168.1.1"));
    let host = w.internet_host("internet", &["8.8.8.8/24"]);
    scenarios::allow_internet(&mut w, PRIVATE, "192.168.1.2", "8.8.8.8");
    w.start_all();
    w.run_for(500 * MS);
    let r = w.ping(host, "56.0.0.11", 5);
    assert!(r.received >= 4, "{r:?} {:?} {:?}", w.r(r1).all_drops(), w.r(r2).all_drops());
    w.h(ivm).serve(80);
    let r = w.tcp(host, "56.0.0.11", 80, 40_000, 40_000);
    assert_eq!((r.failed, r.bad), (false, 0));
    w.h(host).serve(443);
    let r = w.tcp(ivm, "8.8.8.8", 443, 40_000, 40_000);
    assert_eq!((r.failed, r.bad), (false, 0));
    let now = w.now_ns;
    let row = &w.r(r1).floating(now)[0];
    assert!(row.inbound.frames > 50 && row.outbound.frames > 50, "{row:?}");
    assert_eq!(INTERNET.0, u32::MAX);
    w.finish();
}
