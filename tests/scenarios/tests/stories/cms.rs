//! The CMS behind its doors: unmodified, with its own bridge, DHCP, filters and NAT.

use engine::wire::mac::MacAddr;
use scenarios::{
    PRIVATE, PUBLIC, allow_internet, cms_spec, figure4, figure4_rvm1, figure4_rvm2, head, mac, peer,
};
use sim::guest::{HostSpec, prefix};
use sim::packet;
use sim::world::{MS, NodeId, SEC, World};

fn ip(s: &str) -> std::net::IpAddr {
    s.parse().unwrap()
}

/// Two rVMs, each with the doors `eth1` and `eth2` and a CMS bridge with one iVM behind `eth1`.
fn two_cms(w: &mut World) -> ([NodeId; 2], [NodeId; 2], [NodeId; 2]) {
    let site = w.site("east", &["10.0.0.0/16"], true);
    let (mut rvms, mut cmss, mut ivms) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..2u32 {
        let text = head(&format!("rvm{n}"), &format!("10.0.0.{}", 10 + n))
            + "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\n[[port]]\nname = \"eth2\"\nnetwork = \"public\"\n"
            + &peer(&format!("rvm{}", 1 - n), &format!("10.0.0.{}", 11 - n), "");
        let rvm = w.rvm(site, &format!("rvm{n}"), &[&format!("10.0.0.{}", 10 + n)], &text);
        let mut spec = cms_spec(&[]);
        spec.br1_mac = MacAddr([2, 0x0b, 0, 0, n as u8, 1]);
        spec.eth2_mac = MacAddr([2, 0x0b, 0, 0, n as u8, 2]);
        spec.br1_ips = vec![ip(&format!("192.168.1.{}", 250 + n))];
        spec.eth2_ips = vec![ip(&format!("10.2.0.{}", 10 + n))];
        let cms = w.cms(rvm, spec);
        let addr = format!("192.168.1.{}/24", 10 + n);
        ivms.push(w.ivm(cms, HostSpec::new(&format!("ivm{n}"), &mac(n), PRIVATE, &[&addr])));
        rvms.push(rvm);
        cmss.push(cms);
    }
    w.start_all();
    (rvms.try_into().unwrap(), cmss.try_into().unwrap(), ivms.try_into().unwrap())
}

/// The agent asks for the pair `<eth1, eth1p>`: `eth1` for the CMS, `eth1p` for the switch, with an MTU
/// that leaves room for the tunnel, and the switch's port opens on `eth1p` as soon as it is there.
#[test]
fn i29_a_door_is_a_veth_pair() {
    let mut w = World::new(29);
    let ([a, _], _, _) = two_cms(&mut w);
    let r = w.r(a);
    let (eth1, eth1p) = (r.facts("eth1").expect("made").clone(), r.facts("eth1p").expect("made").clone());
    assert_eq!((eth1.mtu, eth1p.mtu), (1450, 1450), "1500 less 50 for VXLAN over IPv4");
    assert!(eth1.mac.is_unicast() && eth1.mac != r.facts("eth2").unwrap().mac);
    assert!(r.journal.opened.iter().any(|o| o == "eth1p") && r.journal.opened.iter().any(|o| o == "eth2p"));
    // The CMS's end keeps its MAC when the daemon restarts.
    let before = eth1.mac;
    w.restart(a);
    w.run_for(100 * MS);
    assert_eq!(w.r(a).facts("eth1").unwrap().mac, before);
    w.finish();
}

/// The CMS plugs `eth1` and its iVMs into its own bridge. iVMs behind two such bridges share one L2.
#[test]
fn i30_the_cms_bridges_its_ivms() {
    let mut w = World::new(30);
    let (rvms, _, ivms) = two_cms(&mut w);
    assert_eq!(w.ping(ivms[0], "192.168.1.11", 5).received, 5);
    w.h(ivms[1]).serve(80);
    let r = w.tcp(ivms[0], "192.168.1.11", 80, 200_000, 200_000);
    assert_eq!((r.failed, r.sent, r.received, r.bad), (false, 200_000, 200_000, 0));
    assert_eq!(w.r(rvms[0]).counters().dropped, 0, "{:?}", w.r(rvms[0]).all_drops());
    w.finish();
}

/// DHCP over the overlay: the server is an iVM behind another rVM's CMS. DISCOVER and REQUEST are
/// broadcast, OFFER and ACK come back, and the new address works immediately.
#[test]
fn i31_dhcp_across_the_overlay() {
    let mut w = World::new(31);
    let (_, cmss, ivms) = two_cms(&mut w);
    let client = w.ivm(cmss[1], HostSpec::new("new", &mac(77), PRIVATE, &["0.0.0.0/32"]));
    let server = ivms[0];
    let (cmac, smac): (MacAddr, MacAddr) = (mac(77).parse().unwrap(), mac(0).parse().unwrap());
    w.h(client).heard = Some(Vec::new());
    w.h(server).heard = Some(Vec::new());
    let (zero, all, own, offered) =
        (ip("0.0.0.0"), ip("255.255.255.255"), ip("192.168.1.10"), [192, 168, 1, 77]);
    let bootp = |op: u8, kind: u8, yours: [u8; 4]| {
        let mut b = vec![op, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
        b.extend([0; 4]);
        b.extend(yours);
        b.extend([0; 8]);
        b.extend(cmac.0);
        b.resize(236, 0);
        b.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind, 255]);
        b
    };
    let send = |w: &mut World, from: NodeId, kind: u8| {
        let frame = if from == client {
            let u = packet::udp(zero, all, 68, 67, &bootp(1, kind, [0; 4]));
            packet::eth_ip(MacAddr::BROADCAST, cmac, &packet::ip(zero, all, packet::UDP, &u))
        } else {
            let u = packet::udp(own, all, 67, 68, &bootp(2, kind, offered));
            packet::eth_ip(MacAddr::BROADCAST, smac, &packet::ip(own, all, packet::UDP, &u))
        };
        w.inject(from, frame.clone());
        w.run_for(5 * MS);
        frame
    };
    for (from, to, kind) in
        [(client, server, 1), (server, client, 2), (client, server, 3), (server, client, 5)]
    {
        let frame = send(&mut w, from, kind);
        let heard = w.h(to).heard.take().unwrap();
        assert_eq!(
            heard.iter().filter(|f| f.1 == frame).count(),
            1,
            "message {kind} arrived once, byte for byte"
        );
        w.h(to).heard = Some(Vec::new());
    }
    w.h(client).readdress(prefix("192.168.1.77/24"), None);
    assert_eq!(w.ping(client, "192.168.1.10", 3).received, 3);
    assert_eq!(w.ping(ivms[1], "192.168.1.77", 3).received, 3);
    w.finish();
}

/// The CMS's controllers are unmodified, and the switch does not know them: frames of any protocol between the CMS's
/// bridges pass byte for byte, tagged or not, from MACs that the switch was not configured with.
#[test]
fn i32_the_cms_is_unmodified() {
    let mut w = World::new(32);
    let (_, cmss, _) = two_cms(&mut w);
    w.c(cmss[1]).heard = Some(Vec::new());
    let src: MacAddr = "52:54:00:aa:bb:cc".parse().unwrap();
    let mut sent = Vec::new();
    for ethertype in [0x0800, 0x0806, 0x86dd, 0x8847, 0x88b5, 0x9000] {
        let plain = packet::eth(MacAddr::BROADCAST, src, ethertype, &[0x5a; 80]);
        sent.push(packet::push_tag(&plain, packet::ETH_VLAN, 5));
        sent.push(packet::push_tag(&packet::push_tag(&plain, packet::ETH_VLAN, 5), packet::ETH_QINQ, 6));
        sent.push(plain);
    }
    for f in &sent {
        w.inject_at(cmss[0], sim::cms::ETH1, f.clone());
        w.run_for(MS);
    }
    let heard: Vec<Vec<u8>> = w.c(cmss[1]).heard.take().unwrap().into_iter().map(|f| f.2).collect();
    assert_eq!(heard, sent);
    w.finish();
}

/// The CMS filters on its own bridge, for an iVM that is plugged into it. The switch never carries a frame that the
/// filter drops by another way, in neither direction, and carries every frame that the filter lets through. When the
/// rules are removed, it carries every frame.
#[test]
fn i33_the_cms_filters_stay_effective() {
    let mut w = World::new(33);
    let (_, cmss, ivms) = two_cms(&mut w);
    let cut = w.ivm(cmss[0], HostSpec::new("cut", &mac(9), PRIVATE, &["192.168.1.9/24"]));
    w.c(cmss[0]).spec.filtered = vec![ip("192.168.1.9")];
    assert_eq!(w.ping(cut, "192.168.1.11", 2).received, 0);
    assert_eq!(w.c(cmss[0]).filtered, 2, "its questions came to the filter, and no further");
    assert_eq!(w.ping(ivms[1], "192.168.1.9", 2).received, 0);
    assert_eq!(w.c(cmss[0]).filtered, 4, "questions from the other rVM came to the filter");
    assert_eq!(w.ping(ivms[0], "192.168.1.11", 2).received, 2, "its neighbour is not filtered");
    w.h(ivms[1]).serve(80);
    let dst = (ip("192.168.1.11"), 80);
    let app = w.act(cut, |h, now| h.transfer(now, dst, 10, 0, 3 * SEC));
    assert!(w.wait(cut, app).failed);
    w.c(cmss[0]).spec.filtered.clear();
    assert_eq!(w.ping(cut, "192.168.1.11", 2).received, 2);
    assert_eq!(w.ping(ivms[1], "192.168.1.9", 2).received, 2);
    w.finish();
}

/// A floating IP on an rVM: 56.0.0.11/32 is an address of rVM2's own eth2, although the provider attached it to
/// rVM1. The Internet pings it, and rVM2's stack answers.
#[test]
fn i34_public_ip_on_any_rvms_eth2() {
    let mut w = World::new(34);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let r1 = w.rvm(site, "rvm1", &["10.0.0.11"], &figure4_rvm1());
    let r2 = w.rvm(site, "rvm2", &["10.0.0.12"], &figure4_rvm2());
    w.public_ip(r1, "10.0.0.11", "56.0.0.11");
    let net = w.internet_host("internet", &["8.8.8.8/24"]);
    let spec = HostSpec::new("rvm2-eth2", "02:0b:00:00:00:02", PUBLIC, &["56.0.0.11/32", "10.2.0.12/16"]);
    let eth2 = w.behind_door(r2, "eth2", spec.via("10.2.0.1"));
    allow_internet(&mut w, PUBLIC, "56.0.0.11", "8.8.8.8");
    w.start_all();
    w.settle();
    let r = w.ping(net, "56.0.0.11", 5);
    assert_eq!((r.received, r.bad), (5, 0), "{:?} {:?}", w.r(r1).all_drops(), w.r(r2).all_drops());
    w.h(eth2).serve(80);
    assert!(!w.tcp(net, "56.0.0.11", 80, 50_000, 50_000).failed);
    let now = w.now_ns;
    let row = &w.r(r1).floating(now)[0];
    assert!(row.inbound.frames > 50 && row.outbound.frames > 50, "{row:?}");
    w.finish();
}

/// Figure 4, complete: the CMS does its own DNAT and SNAT (56.0.0.11 <-> 192.168.1.2) and the switch leaves it
/// alone: it sees 56.0.0.11 on `eth2` in both directions and never 192.168.1.2 there.
#[test]
fn i38_cms_nat_untouched() {
    let mut w = World::new(38);
    let f = figure4(&mut w);
    w.c(f.cms).heard = Some(Vec::new());
    w.settle();
    let r = w.ping(f.host, "56.0.0.11", 5);
    assert_eq!((r.received, r.bad), (5, 0), "{:?} {:?}", w.r(f.rvm1).all_drops(), w.r(f.rvm2).all_drops());
    w.h(f.ivm).serve(80);
    let r = w.tcp(f.host, "56.0.0.11", 80, 60_000, 60_000);
    assert_eq!((r.failed, r.bad), (false, 0));
    w.h(f.host).serve(80);
    let r = w.tcp(f.ivm, "8.8.8.8", 80, 60_000, 60_000);
    assert_eq!((r.failed, r.bad), (false, 0));
    let (dnat, snat) = w.c(f.cms).translated;
    assert!(dnat > 60 && snat > 60, "the CMS translated {dnat} in and {snat} out");
    let heard = w.c(f.cms).heard.take().unwrap();
    let on_eth2 = heard.iter().filter(|h| h.1 == sim::cms::ETH2);
    let packets: Vec<_> = on_eth2.filter_map(|h| packet::parse(&h.2)?.ip).collect();
    assert!(!packets.is_empty());
    for p in packets {
        assert_eq!((p.dst, p.src), (ip("56.0.0.11"), ip("8.8.8.8")), "only the public address on eth2");
    }
    let now = w.now_ns;
    let row = &w.r(f.rvm1).floating(now)[0];
    assert_eq!(row.inbound.frames, dnat, "each packet in was translated once by rVM1 and once by the CMS");
    assert_eq!(row.outbound.frames, snat);
    w.finish();
}
