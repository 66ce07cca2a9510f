//! MTU: the switch finds out how much the underlay carries, tells senders, and keeps to it; one switch inside
//! another.

use scenarios::{PRIVATE, door_port, guest_port, head, mac, mesh, peer};
use sim::guest::HostSpec;
use sim::link::LinkConfig;
use sim::packet;
use sim::world::{MS, NodeId, SEC, World};

/// Two rVMs on an underlay of this MTU, in each an rVM, in each of those another, and in the innermost an iVM each
/// that assumes an MTU of `believed` less than the underlay's. Every level is a network of its own.
fn three_levels(w: &mut World, underlay: u16, believed: u16, more: &str) -> [NodeId; 2] {
    let mut hosts: Vec<Option<NodeId>> = vec![None, None];
    for level in 0..3u8 {
        let site = w.site(&format!("level{level}"), &[&format!("10.{level}.0.0/16")], true);
        w.underlay_mtu = underlay - 50 * u16::from(level);
        for side in 0..2u8 {
            let name = |side: u8| format!("rvm{level}{side}");
            let vtep = |side: u8| format!("10.{level}.0.1{side}");
            // The machine plugged in there: the next level's rVM, or the iVM.
            let inner = if level < 2 {
                let next = w.cloud().nics.len() + 2;
                format!("06:00:00:00:{:02x}:{:02x}", next >> 8, next & 0xff)
            } else {
                mac(u32::from(side))
            };
            let text = head(&name(side), &vtep(side))
                .replace("name = \"private\"", &format!("name = \"private\"\n{more}"))
                + &guest_port("h1", "private", &inner, &[])
                + &peer(&name(1 - side), &vtep(1 - side), "");
            let rvm = match hosts[usize::from(side)] {
                None => w.rvm(site, &name(side), &[&vtep(side)], &text),
                Some(host) => w.nested_rvm((host, "h1"), site, &name(side), &vtep(side), &text),
            };
            w.r(rvm).pool_large_slots = 64;
            w.r(rvm).interface("h1", true);
            let mtu = u32::from(w.underlay_mtu);
            // The interface itself would accept larger packets than the tunnel carries.
            w.r(rvm).change_interface(0, "h1", |facts| facts.mtu = mtu);
            hosts[usize::from(side)] = Some(rvm);
        }
    }
    let guests = [0u8, 1].map(|side| {
        let spec = HostSpec::new(
            &format!("g{side}"),
            &mac(u32::from(side)),
            PRIVATE,
            &[&format!("192.168.1.1{side}/24"), &format!("fd01::1{side}/64")],
        );
        w.guest(hosts[usize::from(side)].unwrap(), "h1", spec.mtu(usize::from(underlay - believed)))
    });
    w.start_all();
    // The inner levels send their first probes before the outer ones are up.
    w.run_for(8 * SEC);
    guests
}

/// VXLAN in VXLAN in VXLAN, on small, cloud, ordinary and jumbo underlays: TCP through the innermost network works,
/// although both iVMs assume the whole underlay's MTU and their stacks have no path-MTU discovery: the switches lower
/// the MSS of their connections. The largest packet that fits passes whole; one more byte does not.
#[test]
fn nested_three_levels_deep() {
    for (seed, underlay) in [(81, 1400), (82, 1460), (83, 1500), (84, 9000)] {
        let mut w = World::new(seed);
        let guests = three_levels(&mut w, underlay, 0, "");
        w.h(guests[1]).serve(80);
        for (dst, up, down) in [("192.168.1.11", 300_000, 300_000), ("fd01::11", 100_000, 100_000)] {
            // IPv6 needs 1280 (RFC 8200 section 5), and 1400 less three times 50 is 1250.
            if underlay == 1400 && dst.contains(':') {
                continue;
            }
            let r = w.tcp(guests[0], dst, 80, up, down);
            assert!(!r.failed && r.bad == 0, "underlay {underlay}, {dst}: {r:?}");
        }
        let carried = usize::from(underlay) - 150;
        assert_eq!(w.ping_len(guests[0], "192.168.1.11", 3, carried - 28).received, 3, "{underlay}");
        w.finish();
    }
}

/// The same without clamping: the level that knows the limit tells the sender of a packet that is too big, through
/// both other levels, the size that does fit, and a packet of that size arrives.
#[test]
fn nested_too_big_is_told() {
    let mut w = World::new(85);
    let guests = three_levels(&mut w, 1500, 0, "mss_clamp = false");
    assert_eq!(w.ping(guests[0], "192.168.1.11", 2).received, 2);
    let (a, b) = ("192.168.1.10".parse().unwrap(), "192.168.1.11".parse().unwrap());
    let (a6, b6) = ("fd01::10".parse().unwrap(), "fd01::11".parse().unwrap());
    assert_eq!(w.ping(guests[0], "fd01::11", 2).received, 2);
    w.h(guests[0]).heard = Some(Vec::new());
    let m = |n| mac(n).parse().unwrap();
    for (src, dst) in [(a, b), (a6, b6)] {
        let mut whole = packet::ip(src, dst, packet::UDP, &packet::udp(src, dst, 7, 9, &[0; 1360]));
        if whole[0] == 0x45 {
            // Don't fragment; the header's checksum changes with it.
            whole[6] |= 0x40;
            let sum = u32::from(!u16::from_be_bytes([whole[10], whole[11]])) + 0x4000;
            let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
            whole[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        w.inject(guests[0], packet::eth_ip(m(1), m(0), &whole));
    }
    w.run_for(50 * MS);
    let heard = w.h(guests[0]).heard.take().unwrap();
    let said = |proto, kind| {
        heard
            .iter()
            .filter_map(|f| {
                let ip = packet::parse(&f.1)?.ip?;
                (ip.proto == proto && f.1.get(ip.l4) == Some(&kind))
                    .then(|| u16::from_be_bytes([f.1[ip.l4 + 6], f.1[ip.l4 + 7]]))
            })
            .collect::<Vec<_>>()
    };
    assert_eq!((said(packet::ICMP, 3), said(packet::ICMPV6, 2)), (vec![1350], vec![1350]));
    assert!(heard.iter().all(|f| packet::checksums(&f.1).is_ok()));
    w.finish();
}

/// The MTU of an rVM's path to its peer, as the agent reports it.
fn path(w: &mut World, rvm: NodeId) -> (u64, String) {
    let reply = w.request(rvm, r#"{"jsonrpc":"2.0","id":1,"method":"mtu"}"#).expect("an answer");
    let peers = reply.split(r#""peers":["#).nth(1).expect("peers");
    let field =
        |name: &str| peers.split(name).nth(1).unwrap().split([',', '}', '"']).next().unwrap().to_owned();
    let (mtu, origin) = (field(r#""path_mtu":"#).parse().unwrap(), field(r#""origin":""#));
    (mtu, origin)
}

/// An underlay that carries only 1432 bytes and sends no errors: the probes find the limit at the start, and again
/// when it changes later. Doors follow, once per change.
#[test]
fn black_hole_is_found() {
    let mut w = World::new(86);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let mut rvms = Vec::new();
    for n in 0..2 {
        let text = head(&format!("rvm{n}"), &format!("10.0.0.1{n}"))
            + "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\n"
            + &peer(&format!("rvm{}", 1 - n), &format!("10.0.0.1{}", 1 - n), "");
        rvms.push(w.rvm(site, &format!("rvm{n}"), &[&format!("10.0.0.1{n}")], &text));
    }
    let guests: Vec<NodeId> = (0..2)
        .map(|n| {
            let ip = format!("192.168.1.1{n}/24");
            w.behind_door(
                rvms[n as usize],
                "eth1",
                HostSpec::new(&format!("g{n}"), &mac(n), PRIVATE, &[&ip]).mtu(1450),
            )
        })
        .collect();
    let uplink = w.uplink(rvms[1]);
    let whole = w.link(uplink).directions[0].config;
    let narrow = |w: &mut World, mtu| w.shape(uplink, LinkConfig { mtu, ..whole });
    // A link's own tolerance for tags is eight bytes.
    narrow(&mut w, 1432 - 8);
    w.start_all();
    w.run_for(8 * SEC);
    assert_eq!(path(&mut w, rvms[0]), (1432, "measured".into()));
    assert_eq!(w.r(rvms[0]).facts("eth1").unwrap().mtu, 1382);
    w.h(guests[1]).serve(80);
    let r = w.tcp(guests[0], "192.168.1.11", 80, 100_000, 100_000);
    assert!(!r.failed && r.bad == 0, "{r:?}");
    narrow(&mut w, 1300 - 8);
    w.run_for(25 * SEC);
    assert_eq!(path(&mut w, rvms[0]).0, 1300, "{:?}", w.r(rvms[0]).journal.log);
    assert_eq!(w.r(rvms[1]).facts("eth1").unwrap().mtu, 1250);
    let r = w.tcp(guests[0], "192.168.1.11", 80, 100_000, 100_000);
    assert!(!r.failed && r.bad == 0, "{r:?}");
    narrow(&mut w, 0);
    w.run_for(700 * SEC);
    assert_eq!(path(&mut w, rvms[0]).0, 1500, "ten minutes later at the latest");
    let told = |w: &mut World| w.r(rvms[0]).journal.log.iter().filter(|l| l.1.contains("path MTU")).count();
    assert_eq!(told(&mut w), 3, "once per change: {:?}", w.r(rvms[0]).journal.log);
    w.finish();
}

/// A peer that does not answer: the switch assumes the uplink's MTU, and reports that it is assumed.
#[test]
fn silent_peers_are_assumed() {
    let mut w = World::new(87);
    let (rvms, guests) = mesh(&mut w, 2);
    w.run_for(8 * SEC);
    assert_eq!(w.ping(guests[0], "192.168.1.11", 1).received, 1);
    assert_eq!(path(&mut w, rvms[0]), (1500, "measured".into()));
    let site = w.site("west", &["10.9.0.0/16"], true);
    let text = head("lone", "10.9.0.10") + &door_port("h1", "private", "") + &peer("kernel", "10.9.0.11", "");
    let lone = w.rvm(site, "lone", &["10.9.0.10"], &text);
    w.start(lone);
    w.run_for(10 * SEC);
    assert_eq!(path(&mut w, lone), (1500, "assumed".into()));
    w.finish();
}
