//! Floating IPs: the provider's NAT reversed, packets carried to the owner, and back the same way.

use engine::counters::DropReason;
use scenarios::{
    PRIVATE, PUBLIC, allow_internet, figure4, figure4_rvm1, figure4_rvm2, floating, guest_port, head, mac,
    peer,
};
use sim::guest::{CsumMode, HostSpec};
use sim::packet;
use sim::world::{MS, NodeId, SEC, World};

pub(crate) fn ip(s: &str) -> std::net::IpAddr {
    s.parse().unwrap()
}

/// rVM1 is the gateway of the floating IPs and rVM2 hosts the iVMs. Without a CMS, rVM2's switch translates to the
/// `inside` address itself. One entry per iVM: (public, reality, inside).
pub(crate) struct Inside {
    pub(crate) rvm1: NodeId,
    pub(crate) rvm2: NodeId,
    pub(crate) ivms: Vec<NodeId>,
    pub(crate) host: NodeId,
}

pub(crate) fn inside(w: &mut World, ips: &[(&str, &str, &str)], more: &str) -> Inside {
    inside_with(w, ips, more, CsumMode::Full)
}

fn inside_with(w: &mut World, ips: &[(&str, &str, &str)], more: &str, csum: CsumMode) -> Inside {
    inside_of(w, ips, more, |spec| spec.csum(csum))
}

/// As [`inside`], with iVMs that `shape` has changed.
pub(crate) fn inside_of(
    w: &mut World,
    ips: &[(&str, &str, &str)],
    more: &str,
    shape: impl Fn(HostSpec) -> HostSpec,
) -> Inside {
    let site = w.site("east", &["10.0.0.0/16", "fd00::/64"], true);
    let mut r1 =
        head("rvm1", "10.0.0.1").replace("\"10.0.0.1\"", "\"10.0.0.2\"") + &peer("rvm2", "10.0.0.3", "");
    let mut r2 = head("rvm2", "10.0.0.3")
        .replace("vni = 100\n", "vni = 100\ngateway = [\"192.168.1.1\", \"fd01::1\"]\n")
        + &peer("rvm1", "10.0.0.2", "");
    let mut realities: Vec<&str> = vec!["10.0.0.2"];
    for (n, &(public, reality, address)) in ips.iter().enumerate() {
        r1 += &floating(public, "rvm1", Some(reality), more);
        let inside = format!("inside = {{ network = \"private\", address = \"{address}\" }}\n{more}");
        r2 += &floating(public, "rvm1", None, &inside);
        if !realities.contains(&reality) {
            realities.push(reality);
        }
        let _ = n;
    }
    let mut owners: Vec<&str> = ips.iter().map(|i| i.2).collect();
    owners.dedup();
    for (n, address) in owners.iter().enumerate() {
        r2 += &guest_port(&format!("h{n}"), "private", &mac(n as u32), &[address]);
    }
    let rvm1 = w.rvm(site, "rvm1", &realities, &r1);
    let rvm2 = w.rvm(site, "rvm2", &["10.0.0.3"], &r2);
    for &(public, reality, _) in ips {
        w.public_ip(rvm1, reality, public);
    }
    let host = w.internet_host("internet", &["8.8.8.8/24", "2001:db8:8::8/64"]);
    let mut ivms = Vec::new();
    for (n, address) in owners.iter().enumerate() {
        let v6 = address.contains(':');
        let own = format!("{address}/{}", if v6 { 64 } else { 24 });
        let spec = HostSpec::new(&format!("ivm{n}"), &mac(n as u32), PRIVATE, &[&own]).via(if v6 {
            "fd01::1"
        } else {
            "192.168.1.1"
        });
        ivms.push(w.guest(rvm2, &format!("h{n}"), shape(spec)));
        allow_internet(w, PRIVATE, address, if v6 { "2001:db8:8::8" } else { "8.8.8.8" });
    }
    w.start_all();
    w.settle();
    Inside { rvm1, rvm2, ivms, host }
}

/// IP packets, parsed, that an iVM received from 8.8.8.8, or that the host received from a public address.
pub(crate) fn heard(w: &mut World, host: NodeId) -> Vec<Vec<u8>> {
    let heard = w.h(host).heard.replace(Vec::new()).unwrap_or_default();
    heard.into_iter().map(|f| f.1).filter(|f| packet::parse(f).is_some_and(|p| p.ip.is_some())).collect()
}

/// The provider delivers the Internet's packet to 10.0.0.11. rVM1 reverses the provider's NAT: on the public network
/// the packet has the address 56.0.0.11 again, a hop limit that is one less, and a right checksum.
#[test]
fn i35_inbound_dnat_to_public_ip() {
    let mut w = World::new(35);
    let f = figure4(&mut w);
    w.settle();
    assert_eq!(w.ping(f.host, "56.0.0.11", 2).received, 2, "neighbours are known from here on");
    w.h(f.ivm).stack = false;
    w.c(f.cms).heard = Some(Vec::new());
    let before = w.r(f.rvm1).counters();
    let (host, public) = (ip("8.8.8.8"), ip("56.0.0.11"));
    let p = packet::ip(host, public, packet::UDP, &packet::udp(host, public, 5000, 53, b"inbound"));
    let mac_out = w.h(f.host).spec.mac;
    w.inject(f.host, packet::eth_ip("06:fe:ff:00:00:00".parse().unwrap(), mac_out, &p));
    w.run_for(20 * MS);
    let got = w.c(f.cms).heard.take().unwrap();
    let [(_, sim::cms::ETH2, frame)] = &got[..] else { panic!("one frame on eth2: {got:?}") };
    let parsed = packet::parse(frame).unwrap();
    let inner = parsed.ip.unwrap();
    assert_eq!((inner.src, inner.dst), (host, public));
    assert_eq!(packet::l4_ports(frame, &inner), Some((5000, 53)));
    assert_eq!(packet::udp_data(frame), Some(&b"inbound"[..]));
    assert_eq!(inner.ttl, 62, "64 less the provider's router and rVM1; bridging costs nothing");
    assert_eq!(parsed.dst, w.c(f.cms).spec.eth2_mac, "to the MAC of eth2, found by ARP");
    packet::checksums(frame).unwrap();
    let after = w.r(f.rvm1).counters();
    assert_eq!((after.rx - before.rx, after.tx - before.tx, after.dropped), (1, 1, before.dropped));
    let now = w.now_ns;
    assert_eq!(w.r(f.rvm1).floating(now)[0].inbound.frames, 3);
    w.finish();
}

/// Outbound from 56.0.0.11: the owner's switch sends every packet with that source to rVM1, for any
/// destination; other sources of the public network have no way out.
#[test]
fn i36_outbound_is_source_routed() {
    let mut w = World::new(36);
    let f = figure4(&mut w);
    w.settle();
    let uplink = w.uplink(f.rvm2);
    w.capture(uplink);
    let gateway = "02:69:76:00:00:c8".parse().unwrap();
    let eth2 = w.c(f.cms).spec.eth2_mac;
    for dst in ["8.8.8.8", "8.8.8.9", "203.0.113.7"] {
        let p = packet::echo(ip("56.0.0.11"), ip(dst), false, 1, 1, b"out");
        w.inject_at(f.cms, sim::cms::ETH2, packet::eth_ip(gateway, eth2, &p));
    }
    let other = packet::echo(ip("10.2.0.12"), ip("8.8.8.8"), false, 1, 1, b"out");
    w.inject_at(f.cms, sim::cms::ETH2, packet::eth_ip(gateway, eth2, &other));
    w.run_for(10 * MS);
    assert_eq!(w.r(f.rvm2).drops("eth2p", DropReason::NoRoute), 1);
    let pcap = w.captured(uplink).unwrap().bytes().to_vec();
    let (mut at, mut out) = (24, Vec::new());
    while at < pcap.len() {
        let len = u32::from_le_bytes(pcap[at + 8..at + 12].try_into().unwrap()) as usize;
        out.push(pcap[at + 16..at + 16 + len].to_vec());
        at += 16 + len;
    }
    let tunnelled: Vec<_> = out
        .iter()
        .filter(|f| packet::parse(f).unwrap().ip.unwrap().src == ip("10.0.0.12"))
        .map(|f| {
            let (vni, at) = packet::vxlan_inner(f, 4789).expect("a tunnel packet");
            (packet::parse(f).unwrap().ip.unwrap().dst, vni, packet::parse(&f[at..]).unwrap())
        })
        .filter(|(_, _, inner)| inner.ip.is_some_and(|p| p.proto == packet::ICMP))
        .collect();
    assert_eq!(tunnelled.len(), 3);
    for (to, vni, inner) in tunnelled {
        assert_eq!((to, vni, inner.dst), (ip("10.0.0.11"), PUBLIC, gateway));
        assert_eq!((inner.ip.unwrap().src, inner.ip.unwrap().ttl), (ip("56.0.0.11"), 63));
    }
    w.finish();
}

/// Outbound through a router on the network, named by its address: the owner's switch resolves its MAC, sends it
/// every packet from 56.0.0.11, and follows it to another MAC. While nothing answers, each packet is a counted drop.
#[test]
fn i36_outbound_is_routed_to_an_address() {
    let mut w = World::new(361);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let r2 = figure4_rvm2().replace("via = \"rvm1\"", "via = \"10.2.0.11\"");
    let rvm1 = w.rvm(site, "rvm1", &["10.0.0.11"], &figure4_rvm1());
    let rvm2 = w.rvm(site, "rvm2", &["10.0.0.12"], &r2);
    let router = w.behind_door(rvm1, "eth2", HostSpec::new("router", &mac(0x61), PUBLIC, &["10.2.0.11/16"]));
    let owner = w.behind_door(rvm2, "eth2", HostSpec::new("owner", &mac(0x62), PUBLIC, &["56.0.0.11/32"]));
    w.start_all();
    w.settle();
    w.h(owner).stack = false;
    w.h(router).heard = Some(Vec::new());
    let gateway = "02:69:76:00:00:c8".parse().unwrap();
    let out = |w: &mut World, dst: &str| {
        let p = packet::echo(ip("56.0.0.11"), ip(dst), false, 1, 1, b"out");
        w.inject(owner, packet::eth_ip(gateway, mac(0x62).parse().unwrap(), &p));
        w.run_for(20 * MS);
    };
    let arrived = |w: &mut World| -> Vec<_> {
        let frames = heard(w, router);
        frames.iter().map(|f| packet::parse(f).unwrap()).map(|p| (p.dst, p.ip.unwrap())).collect()
    };
    // The first packet finds the MAC, or is lost before the next: an unknown neighbour may cost one packet.
    out(&mut w, "8.8.8.8");
    arrived(&mut w);
    for dst in ["8.8.8.8", "203.0.113.7"] {
        out(&mut w, dst);
        let got = arrived(&mut w);
        assert_eq!(got.len(), 1, "{dst}: {:?}", w.r(rvm2).all_drops());
        let (to, p) = got[0];
        assert_eq!((to, p.src, p.dst, p.ttl), (mac(0x61).parse().unwrap(), ip("56.0.0.11"), ip(dst), 63));
    }
    // The router gets another MAC and announces it.
    w.h(router).spec.mac = mac(0x63).parse().unwrap();
    w.inject(router, packet::arp_request(mac(0x63).parse().unwrap(), ip("10.2.0.11"), ip("10.2.0.11")));
    w.run_for(20 * MS);
    w.h(router).heard = Some(Vec::new());
    out(&mut w, "8.8.8.8");
    assert_eq!(arrived(&mut w).iter().map(|p| p.0).collect::<Vec<_>>(), [mac(0x63).parse().unwrap()]);
    // It falls silent for good: nothing hangs, and lost packets are counted.
    w.h(router).stack = false;
    w.run_for(300 * SEC);
    let before = w.r(rvm2).drops("eth2p", DropReason::NeighborUnresolved);
    out(&mut w, "8.8.8.8");
    out(&mut w, "8.8.8.8");
    assert!(w.r(rvm2).drops("eth2p", DropReason::NeighborUnresolved) > before, "{:?}", w.r(rvm2).all_drops());
    w.finish();
}

/// On rVM1 the packet from 56.0.0.11 leaves with source 10.0.0.11 by eth0; the provider makes it
/// 56.0.0.11 again, and the Internet host sees exactly that, with nothing else changed but the hop limit.
#[test]
fn i37_outbound_snat() {
    let mut w = World::new(37);
    let f = figure4(&mut w);
    w.settle();
    let uplink = w.uplink(f.rvm1);
    w.capture(uplink);
    w.h(f.host).heard = Some(Vec::new());
    let (eth2, gateway) = (w.c(f.cms).spec.eth2_mac, "02:69:76:00:00:c8".parse().unwrap());
    let (public, host) = (ip("56.0.0.11"), ip("8.8.8.8"));
    let segment = packet::tcp(public, host, 1234, 80, 2, b"syn with data");
    w.inject_at(
        f.cms,
        sim::cms::ETH2,
        packet::eth_ip(gateway, eth2, &packet::ip(public, host, packet::TCP, &segment)),
    );
    w.run_for(20 * MS);
    let frames = heard(&mut w, f.host);
    let seen = packet::parse(&frames[0]).unwrap().ip.unwrap();
    assert_eq!((seen.src, seen.dst, seen.proto), (public, host, packet::TCP));
    assert_eq!(
        frames[0][seen.l4..seen.end],
        segment[..],
        "ports, flags, data and even the checksum are as sent"
    );
    assert_eq!(seen.ttl, 61, "rVM2, rVM1 and the provider's router");
    let pcap = w.captured(uplink).unwrap().bytes();
    let reality = [10, 0, 0, 11, 8, 8, 8, 8];
    assert!(pcap.windows(8).any(|b| b == reality), "on eth0 the source is the NIC's own address");
    let now = w.now_ns;
    assert_eq!(w.r(f.rvm1).floating(now)[0].outbound.frames, 1);
    w.finish();
}

/// One rVM hosts many iVMs with any number of floating IPs each: here twelve over three iVMs
/// (where several public addresses map to one inside address, all work inbound, and the first is used outbound).
#[test]
fn i40_many_floating_ips() {
    let mut w = World::new(40);
    let ips: Vec<(String, String, String)> = (0..12)
        .map(|n| (format!("56.0.0.{}", 11 + n), format!("10.0.0.{}", 11 + n), format!("192.168.1.{}", 2 + n)))
        .collect();
    let refs: Vec<(&str, &str, &str)> = ips.iter().map(|(a, b, c)| (&a[..], &b[..], &c[..])).collect();
    let f = inside(&mut w, &refs, "");
    for (n, (public, _, _)) in ips.iter().enumerate() {
        let r = w.ping(f.host, public, 3);
        assert_eq!(
            (r.received, r.bad),
            (3, 0),
            "{public}: {:?} {:?}",
            w.r(f.rvm1).all_drops(),
            w.r(f.rvm2).all_drops()
        );
        w.h(f.ivms[n]).serve(80);
        assert!(!w.tcp(f.host, public, 80, 10_000, 10_000).failed, "{public}");
    }
    // Simultaneously, in both directions.
    w.h(f.host).serve(443);
    w.h(f.host).serve(444);
    let apps: Vec<_> = f
        .ivms
        .iter()
        .enumerate()
        .map(|(n, &v)| {
            let port = 443 + (n as u16 % 2);
            (v, w.act(v, |h, now| h.transfer(now, (ip("8.8.8.8"), port), 20_000, 20_000, 60 * SEC)))
        })
        .collect();
    for (v, app) in apps {
        assert!(!w.wait(v, app).failed);
    }
    let now = w.now_ns;
    let rows = w.r(f.rvm1).floating(now);
    assert_eq!(rows.len(), 12);
    assert!(rows.iter().all(|r| r.inbound.frames > 10 && r.outbound.frames > 10), "{rows:?}");
    w.finish();
}

/// One iVM, one floating IP, and the rVM that hosts it is the gateway: translated once, no tunnel at all.
#[test]
fn i42_gateway_is_owner() {
    let mut w = World::new(42);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let text = head("rvm1", "10.0.0.11").replace("vni = 100\n", "vni = 100\ngateway = [\"192.168.1.1\"]\n")
        + &guest_port("h1", "private", &mac(1), &["192.168.1.2"])
        + &peer("rvm2", "10.0.0.12", "")
        + &floating(
            "56.0.0.11",
            "rvm1",
            Some("10.0.0.11"),
            "inside = { network = \"private\", address = \"192.168.1.2\" }",
        );
    let rvm = w.rvm(site, "rvm1", &["10.0.0.11"], &text);
    w.public_ip(rvm, "10.0.0.11", "56.0.0.11");
    let host = w.internet_host("internet", &["8.8.8.8/24"]);
    let ivm =
        w.guest(rvm, "h1", HostSpec::new("ivm", &mac(1), PRIVATE, &["192.168.1.2/24"]).via("192.168.1.1"));
    allow_internet(&mut w, PRIVATE, "192.168.1.2", "8.8.8.8");
    w.start_all();
    w.settle();
    let uplink = w.uplink(rvm);
    w.capture(uplink);
    assert_eq!(w.ping(host, "56.0.0.11", 5).received, 5, "{:?}", w.r(rvm).all_drops());
    w.h(ivm).serve(80);
    assert!(!w.tcp(host, "56.0.0.11", 80, 50_000, 50_000).failed);
    w.h(host).serve(80);
    assert!(!w.tcp(ivm, "8.8.8.8", 80, 50_000, 50_000).failed);
    let tunnel = [0x12, 0xb5];
    let tunnelled = w
        .captured(uplink)
        .unwrap()
        .bytes()
        .windows(42)
        .filter(|f| f[12..14] == [8, 0] && f[23] == 17 && f[36..38] == tunnel)
        .count();
    assert_eq!(tunnelled, 0, "no tunnel packet");
    w.finish();
}

/// Without a CMS the owner's switch does the inner translation in the same pass: TCP and UDP work both ways, and
/// the iVM only ever sees its own address.
#[test]
fn inside_address_without_a_cms() {
    let mut w = World::new(43);
    let f = inside(&mut w, &[("56.0.0.11", "10.0.0.11", "192.168.1.2")], "");
    w.h(f.ivms[0]).heard = Some(Vec::new());
    assert_eq!(w.ping(f.host, "56.0.0.11", 5).received, 5);
    w.h(f.ivms[0]).serve(80);
    w.h(f.ivms[0]).echo(53);
    assert!(!w.tcp(f.host, "56.0.0.11", 80, 100_000, 100_000).failed);
    assert_eq!(w.udp(f.host, "56.0.0.11", 53, 30, 1200).received, 30);
    w.h(f.host).serve(80);
    assert!(!w.tcp(f.ivms[0], "8.8.8.8", 80, 100_000, 100_000).failed);
    assert_eq!(w.ping(f.ivms[0], "8.8.8.8", 5).received, 5);
    for frame in heard(&mut w, f.ivms[0]) {
        assert_eq!(packet::parse(&frame).unwrap().ip.unwrap().dst, ip("192.168.1.2"));
    }
    w.finish();
}

/// iVMs reach each other by their floating IPs as well, by TCP both ways, and each sees the other's floating IP: on
/// the same rVM, and by their own floating IP.
#[test]
fn floating_ips_reach_each_other() {
    let mut w = World::new(44);
    let f = inside(
        &mut w,
        &[("56.0.0.11", "10.0.0.11", "192.168.1.2"), ("56.0.0.12", "10.0.0.12", "192.168.1.3")],
        "",
    );
    w.h(f.ivms[1]).heard = Some(Vec::new());
    assert_eq!(
        w.ping(f.ivms[0], "56.0.0.12", 3).received,
        3,
        "{:?} {:?}",
        w.r(f.rvm1).all_drops(),
        w.r(f.rvm2).all_drops()
    );
    let sources: Vec<_> =
        heard(&mut w, f.ivms[1]).iter().map(|f| packet::parse(f).unwrap().ip.unwrap().src).collect();
    assert_eq!(sources, vec![ip("56.0.0.11"); 3], "the one asked sees the floating IP of the one that asks");
    for (from, to, public) in [(0, 1, "56.0.0.12"), (1, 0, "56.0.0.11")] {
        w.h(f.ivms[to]).serve(80);
        let r = w.tcp(f.ivms[from], public, 80, 50_000, 50_000);
        assert_eq!((r.failed, r.bad), (false, 0), "{public}");
    }
    w.finish();
}

/// TCP whose checksums the iVM's stack left to its NIC, marked and unmarked: packets leave rVM2 in the tunnel and
/// rVM1 on the wire with finished, right checksums (the world checks every frame).
#[test]
fn r24_partial_checksums_are_finished() {
    for csum in [CsumMode::PartialMarked, CsumMode::PartialUnmarked] {
        let mut w = World::new(24);
        let f = inside_with(
            &mut w,
            &[("56.0.0.11", "10.0.0.11", "192.168.1.2"), ("56.0.0.12", "10.0.0.12", "192.168.1.3")],
            "",
            csum,
        );
        w.h(f.ivms[0]).serve(80);
        w.h(f.ivms[0]).echo(53);
        assert!(!w.tcp(f.host, "56.0.0.11", 80, 50_000, 50_000).failed);
        assert_eq!(w.udp(f.host, "56.0.0.11", 53, 10, 500).received, 10);
        assert!(!w.tcp(f.ivms[1], "192.168.1.2", 80, 50_000, 50_000).failed);
        w.h(f.host).serve(80);
        assert!(!w.tcp(f.ivms[1], "8.8.8.8", 80, 50_000, 50_000).failed);
        w.finish();
    }
}

/// SSH to the gateway rVM goes on working while its only address serves a floating IP. So does any port on
/// the list of exceptions, and the tunnel.
#[test]
fn exceptions_stay_with_the_kernel() {
    let mut w = World::new(45);
    let f = inside(
        &mut w,
        &[("56.0.0.11", "10.0.0.2", "192.168.1.2")],
        "except = [\"tcp/22\", \"udp/5000-5010\"]",
    );
    w.h(f.ivms[0]).heard = Some(Vec::new());
    w.r(f.rvm1).journal.kernel_rx.clear();
    let (host, public) = (ip("8.8.8.8"), ip("56.0.0.11"));
    let frame = |p: &[u8], w: &mut World| {
        packet::eth_ip("06:fe:ff:00:00:00".parse().unwrap(), w.h(f.host).spec.mac, p)
    };
    let mut kept = 0;
    for port in [22, 23] {
        let p = packet::ip(host, public, packet::TCP, &packet::tcp(host, public, 999, port, 2, b""));
        let frame = frame(&p, &mut w);
        w.inject(f.host, frame);
        kept += usize::from(port == 22);
    }
    for port in 4999..=5011 {
        let p = packet::ip(host, public, packet::UDP, &packet::udp(host, public, 999, port, b"x"));
        let frame = frame(&p, &mut w);
        w.inject(f.host, frame);
        kept += usize::from((5000..=5010).contains(&port));
    }
    w.run_for(20 * MS);
    assert_eq!(w.r(f.rvm1).journal.kernel_rx.len(), kept);
    let got = heard(&mut w, f.ivms[0]);
    let ports: Vec<u16> =
        got.iter().map(|g| packet::l4_ports(g, &packet::parse(g).unwrap().ip.unwrap()).unwrap().1).collect();
    assert_eq!(ports, [23, 4999, 5011]);
    w.finish();
}

/// A datagram in three fragments: the mapping is 1:1, so each is translated, the later ones without ports. The host
/// receives all of them with right headers, and reassembles the datagram.
#[test]
fn fragments_are_translated() {
    let mut w = World::new(46);
    let f = inside(&mut w, &[("56.0.0.11", "10.0.0.11", "192.168.1.2")], "");
    w.h(f.ivms[0]).heard = Some(Vec::new());
    w.h(f.ivms[0]).stack = false;
    w.h(f.host).heard = Some(Vec::new());
    w.h(f.host).stack = false;
    let data: Vec<u8> = (0..3000u32).map(|n| n as u8).collect();
    let check = |frames: &[Vec<u8>], from: &str, to: &str, whole: &[u8]| {
        let mut got = vec![0u8; whole.len()];
        assert_eq!(frames.len(), 3);
        for f in frames {
            let p = packet::parse(f).unwrap().ip.unwrap();
            assert_eq!((p.src, p.dst), (ip(from), ip(to)));
            packet::checksums(f).unwrap();
            let at = usize::from(p.frag_offset);
            got[at..at + p.end - p.l4].copy_from_slice(&f[p.l4..p.end]);
        }
        // The UDP checksum over the whole is right for the addresses as they arrived.
        assert_eq!(got[8..], whole[8..]);
        assert_eq!(packet::sum(&got, packet::pseudo_sum(ip(from), ip(to), packet::UDP, got.len())), 0xffff);
    };
    let (host, public, own) = (ip("8.8.8.8"), ip("56.0.0.11"), ip("192.168.1.2"));
    let whole = packet::udp(host, public, 7, 9, &data);
    let mac_out = w.h(f.host).spec.mac;
    for (at, n) in [(0usize, 1200usize), (1200, 1200), (2400, whole.len() - 2400)] {
        let frag = packet::ipv4_fragment(
            host,
            public,
            packet::UDP,
            77,
            at as u16,
            at + n < whole.len(),
            &whole[at..at + n],
        );
        w.inject(f.host, packet::eth_ip("06:fe:ff:00:00:00".parse().unwrap(), mac_out, &frag));
    }
    w.run_for(20 * MS);
    check(&heard(&mut w, f.ivms[0]), "8.8.8.8", "192.168.1.2", &whole);
    let whole = packet::udp(own, host, 9, 7, &data);
    for (at, n) in [(0usize, 1200usize), (1200, 1200), (2400, whole.len() - 2400)] {
        let frag = packet::ipv4_fragment(
            own,
            host,
            packet::UDP,
            78,
            at as u16,
            at + n < whole.len(),
            &whole[at..at + n],
        );
        w.inject(
            f.ivms[0],
            packet::eth_ip("02:69:76:00:00:64".parse().unwrap(), mac(0).parse().unwrap(), &frag),
        );
    }
    w.run_for(20 * MS);
    check(&heard(&mut w, f.host), "56.0.0.11", "8.8.8.8", &whole);
    w.finish();
}

/// ICMP errors quote the packet that they are about: the quoted addresses are translated with the outer ones, so
/// that each side recognises its own packet; every checksum, outer and quoted, is right.
#[test]
fn icmp_errors_quote_what_the_receiver_knows() {
    let mut w = World::new(47);
    let f = inside(&mut w, &[("56.0.0.11", "10.0.0.11", "192.168.1.2")], "");
    for h in [f.ivms[0], f.host] {
        w.h(h).heard = Some(Vec::new());
        w.h(h).stack = false;
    }
    let (host, public, own) = (ip("8.8.8.8"), ip("56.0.0.11"), ip("192.168.1.2"));
    let router = ip("8.8.8.8");
    // The Internet says that the iVM's packet was too big: (type 3, code 4, MTU 1400).
    for transport in [packet::UDP, packet::TCP] {
        let l4 = if transport == packet::UDP {
            packet::udp(public, host, 9, 7, b"data")
        } else {
            packet::tcp(public, host, 9, 7, 2, b"data")
        };
        let quoted = packet::ip(public, host, transport, &l4);
        let p = packet::ip(router, public, packet::ICMP, &packet::icmp(3, 4, [0, 0, 5, 0x78], &quoted));
        let mac_out = w.h(f.host).spec.mac;
        w.inject(f.host, packet::eth_ip("06:fe:ff:00:00:00".parse().unwrap(), mac_out, &p));
        w.run_for(20 * MS);
        let got = heard(&mut w, f.ivms[0]);
        assert_eq!(got.len(), 1, "{:?} {:?}", w.r(f.rvm1).all_drops(), w.r(f.rvm2).all_drops());
        let outer = packet::parse(&got[0]).unwrap().ip.unwrap();
        packet::checksums(&got[0]).unwrap();
        assert_eq!((outer.src, outer.dst), (router, own));
        let inner = packet::parse_ip(&got[0], outer.l4 + 8).unwrap();
        assert_eq!((inner.src, inner.dst), (own, host));
        // The quoted packet is exactly the packet that the iVM sent, with header and transport checksum.
        packet::checksums(&packet::eth_ip(
            mac(0).parse().unwrap(),
            mac(0).parse().unwrap(),
            &got[0][outer.l4 + 8..outer.end],
        ))
        .unwrap();
        // And the iVM tells the host that its port is closed.
        let l4 = if transport == packet::UDP {
            packet::udp(host, own, 7, 9, b"data")
        } else {
            packet::tcp(host, own, 7, 9, 2, b"data")
        };
        let quoted = packet::ip(host, own, transport, &l4);
        let p = packet::ip(own, host, packet::ICMP, &packet::icmp(3, 3, [0; 4], &quoted));
        w.inject(
            f.ivms[0],
            packet::eth_ip("02:69:76:00:00:64".parse().unwrap(), mac(0).parse().unwrap(), &p),
        );
        w.run_for(20 * MS);
        let got = heard(&mut w, f.host);
        assert_eq!(got.len(), 1);
        let outer = packet::parse(&got[0]).unwrap().ip.unwrap();
        packet::checksums(&got[0]).unwrap();
        assert_eq!((outer.src, outer.dst), (public, host));
        let inner = packet::parse_ip(&got[0], outer.l4 + 8).unwrap();
        assert_eq!((inner.src, inner.dst), (host, public));
        packet::checksums(&packet::eth_ip(
            mac(0).parse().unwrap(),
            mac(0).parse().unwrap(),
            &got[0][outer.l4 + 8..outer.end],
        ))
        .unwrap();
    }
    w.finish();
}

/// IPv6: a 1:1 mapping between a public prefix's address and an inside one, over an IPv4 tunnel.
#[test]
fn ipv6_floating_ip() {
    let mut w = World::new(48);
    let f = inside(&mut w, &[("2001:db8:56::11", "fd00::11", "fd01::2")], "");
    let r = w.ping(f.host, "2001:db8:56::11", 5);
    assert_eq!((r.received, r.bad), (5, 0), "{:?} {:?}", w.r(f.rvm1).all_drops(), w.r(f.rvm2).all_drops());
    w.h(f.ivms[0]).serve(80);
    assert!(!w.tcp(f.host, "2001:db8:56::11", 80, 50_000, 50_000).failed);
    w.h(f.host).serve(80);
    assert!(!w.tcp(f.ivms[0], "2001:db8:8::8", 80, 50_000, 50_000).failed);
    // A packet-too-big error from the Internet reaches the iVM and quotes the iVM's own packet.
    for h in [f.ivms[0], f.host] {
        w.h(h).heard = Some(Vec::new());
        w.h(h).stack = false;
    }
    let (host, public, own) = (ip("2001:db8:8::8"), ip("2001:db8:56::11"), ip("fd01::2"));
    let quoted = packet::ip(public, host, packet::UDP, &packet::udp(public, host, 9, 7, b"data"));
    let p =
        packet::ip(host, public, packet::ICMPV6, &packet::icmpv6(host, public, 2, 0, [0, 0, 5, 0], &quoted));
    let mac_out = w.h(f.host).spec.mac;
    w.inject(f.host, packet::eth_ip("06:fe:ff:00:00:00".parse().unwrap(), mac_out, &p));
    w.run_for(20 * MS);
    let got = heard(&mut w, f.ivms[0]);
    let got: Vec<_> = got
        .iter()
        .filter(|g| {
            let p = packet::parse(g).unwrap().ip.unwrap();
            g[p.l4] == 2
        })
        .collect();
    assert_eq!(got.len(), 1, "{:?} {:?}", w.r(f.rvm1).all_drops(), w.r(f.rvm2).all_drops());
    let outer = packet::parse(got[0]).unwrap().ip.unwrap();
    packet::checksums(got[0]).unwrap();
    let inner = packet::parse_ip(got[0], outer.l4 + 8).unwrap();
    assert_eq!((outer.dst, inner.src, inner.dst), (own, own, host));
    w.finish();
}

/// The virtual gateway answers ARP, neighbour discovery and echo on every rVM by itself, with the same MAC
/// everywhere, and is never learned or flooded.
#[test]
fn virtual_gateway_answers() {
    let mut w = World::new(49);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let (mut rvms, mut guests) = (Vec::new(), Vec::new());
    for n in 0..2u32 {
        // Without path probes, every frame of the uplink counts.
        let quiet = |text: String| text.replace("[uplink]", "[uplink]\nprobe = false");
        let text = quiet(head(&format!("rvm{n}"), &format!("10.0.0.{}", 10 + n)))
            + &guest_port("h1", "public", &mac(n), &[])
            + &peer(&format!("rvm{}", 1 - n), &format!("10.0.0.{}", 11 - n), "");
        let rvm = w.rvm(site, &format!("rvm{n}"), &[&format!("10.0.0.{}", 10 + n)], &text);
        let ips = [format!("10.2.0.{}/16", 10 + n), format!("fd02::{:x}/64", 0x10 + n)];
        guests.push(w.guest(
            rvm,
            "h1",
            HostSpec::new(&format!("g{n}"), &mac(n), PUBLIC, &[&ips[0], &ips[1]]),
        ));
        rvms.push(rvm);
    }
    w.start_all();
    w.h(guests[0]).heard = Some(Vec::new());
    w.h(guests[1]).heard = Some(Vec::new());
    let sent = w.r(rvms[0]).port("eth0").tx_frames;
    assert_eq!(w.ping(guests[0], "10.2.0.1", 3).received, 3);
    assert_eq!(w.ping(guests[0], "fd02::1", 3).received, 3);
    assert_eq!(w.r(rvms[0]).port("eth0").tx_frames, sent, "answered here, not flooded");
    assert!(heard(&mut w, guests[1]).is_empty());
    let router: engine::wire::mac::MacAddr = "02:69:76:00:00:c8".parse().unwrap();
    let replies = w.h(guests[0]).heard.take().unwrap();
    assert!(replies.iter().all(|f| packet::parse(&f.1).unwrap().src == router));
    assert_eq!(w.ping(guests[1], "10.2.0.1", 3).received, 3);
    let now = w.now_ns;
    assert!(w.r(rvms[0]).fdb(now).iter().all(|r| r.mac != router));
    w.finish();
}
