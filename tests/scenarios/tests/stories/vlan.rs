//! VLAN tags: unchanged behind a door, checked on access and trunk ports.

use engine::counters::DropReason;
use scenarios::{PRIVATE, door_port, head, mac, peer};
use sim::guest::HostSpec;
use sim::packet::{self, ETH_QINQ, ETH_VLAN};
use sim::world::{MS, NodeId, SEC, World};

fn m(n: u32) -> engine::wire::mac::MacAddr {
    mac(n).parse().unwrap()
}

/// Two rVMs with one port each on `private`, with these VLAN lines.
fn pair(w: &mut World, a: &str, b: &str) -> [NodeId; 2] {
    let site = w.site("east", &["10.0.0.0/16"], true);
    [a, b]
        .into_iter()
        .enumerate()
        .map(|(n, vlan)| {
            let text = head(&format!("rvm{n}"), &format!("10.0.0.{}", 10 + n))
                + &door_port("h1", "private", vlan)
                + &peer(&format!("rvm{}", 1 - n), &format!("10.0.0.{}", 11 - n), "");
            w.rvm(site, &format!("rvm{n}"), &[&format!("10.0.0.{}", 10 + n)], &text)
        })
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

fn host(n: u32, tags: &[(u16, u16)]) -> HostSpec {
    let mut spec =
        HostSpec::new(&format!("g{n}"), &mac(n), PRIVATE, &[&format!("192.168.1.{}/24", 10 + n)]).mtu(1400);
    spec.tags = tags.to_vec();
    spec
}

/// A CMS isolates its tenants by VLANs behind one door (100 of them here), with the same MAC and IP in
/// each. The switch carries every tag unchanged, and no tenant receives another's frames.
#[test]
fn r19_vlan_isolation() {
    let mut w = World::new(19);
    let rvms = pair(&mut w, "", "");
    // Both ends use one MAC per side: only the tag tells the tenants apart.
    let a = w.guest(rvms[0], "h1", host(0, &[(ETH_VLAN, 100)]));
    let b = w.guest(rvms[1], "h1", host(1, &[(ETH_VLAN, 100)]));
    w.start_all();
    assert_eq!(w.ping(a, "192.168.1.11", 3).received, 3);
    w.h(b).serve(80);
    assert!(!w.tcp(a, "192.168.1.11", 80, 30_000, 30_000).failed);
    for vid in 101..200u16 {
        w.h(a).spec.tags[0].1 = vid;
        w.h(b).spec.tags[0].1 = vid;
        assert_eq!(w.ping(a, "192.168.1.11", 1).received, 1, "VLAN {vid}");
    }
    w.h(a).spec.tags[0].1 = 300;
    assert_eq!(w.ping(a, "192.168.1.11", 2).received, 0, "another VLAN is another world");
    let now = w.now_ns;
    let rows = w.r(rvms[0]).fdb(now);
    assert!(rows.iter().filter(|r| r.mac == m(1)).count() >= 100, "the FDB keeps VLANs apart");
    w.finish();
}

/// 802.1ad: a service tag around a customer tag passes untouched, TCP included.
#[test]
fn q_in_q_is_transparent() {
    let mut w = World::new(20);
    let rvms = pair(&mut w, "", "");
    let tags = [(ETH_QINQ, 20), (ETH_VLAN, 7)];
    let a = w.guest(rvms[0], "h1", host(0, &tags));
    let b = w.guest(rvms[1], "h1", host(1, &tags));
    w.start_all();
    w.h(b).serve(80);
    assert_eq!(w.ping(a, "192.168.1.11", 3).received, 3);
    assert!(!w.tcp(a, "192.168.1.11", 80, 30_000, 30_000).failed);
    w.finish();
}

/// An access port is untagged outside and one VLAN inside; a trunk carries a list and a native VLAN. A VLAN
/// that is not on the list does not pass, in either direction.
#[test]
fn access_and_trunk_ports() {
    let mut w = World::new(21);
    let rvms = pair(&mut w, "vlan = { access = 10 }", "vlan = { trunk = [10, 20], native = 30 }");
    let access = w.guest(rvms[0], "h1", host(0, &[]));
    let trunk = w.guest(rvms[1], "h1", host(1, &[(ETH_VLAN, 10)]));
    w.start_all();
    assert_eq!(w.ping(access, "192.168.1.11", 3).received, 3);
    w.h(trunk).serve(80);
    assert!(!w.tcp(access, "192.168.1.11", 80, 30_000, 30_000).failed);
    for tags in [vec![(ETH_VLAN, 20)], vec![]] {
        w.h(trunk).spec.tags = tags;
        assert_eq!(w.ping(trunk, "192.168.1.10", 1).received, 0);
    }
    let before = w.r(rvms[1]).drops("h1", DropReason::VlanNotAllowed);
    w.inject(trunk, packet::push_tag(&packet::eth(m(0), m(1), 0x88b5, &[0; 46]), ETH_VLAN, 99));
    w.run_for(MS);
    assert_eq!(w.r(rvms[1]).drops("h1", DropReason::VlanNotAllowed), before + 1);
    w.finish();
}

/// VLAN hopping: a guest on an access port tags its own frames, once, twice, with either TPID. No tagged frame
/// arrives anywhere; VID 0 (a priority tag) does not count as a VLAN and passes.
#[test]
fn t04_vlan_hopping() {
    let mut w = World::new(22);
    let rvms = pair(&mut w, "vlan = { access = 10 }", "vlan = { trunk = [10, 20], native = 30 }");
    let evil = w.guest(rvms[0], "h1", host(0, &[]));
    let all = w.guest(rvms[1], "h1", host(1, &[(ETH_VLAN, 10)]));
    w.start_all();
    w.h(all).heard = Some(Vec::new());
    w.h(all).stack = false;
    let plain = packet::eth(engine::wire::mac::MacAddr::BROADCAST, m(0), 0x88b5, &[0; 46]);
    let mut sent = 0;
    for tpid in [ETH_VLAN, ETH_QINQ] {
        for vid in [10, 20, 30] {
            let once = packet::push_tag(&plain, tpid, vid);
            w.inject(evil, once.clone());
            w.inject(evil, packet::push_tag(&once, ETH_VLAN, 20));
            w.inject(evil, packet::push_tag(&once, ETH_QINQ, 20));
            sent += 3;
        }
    }
    w.run_for(10 * MS);
    assert_eq!(w.r(rvms[0]).drops("h1", DropReason::VlanNotAllowed), sent);
    assert_eq!(w.h(all).heard.as_ref().unwrap().len(), 0);
    w.inject(evil, packet::push_tag(&plain, ETH_VLAN, 5 << 13));
    w.run_for(10 * MS);
    let heard = w.h(all).heard.clone().unwrap();
    assert_eq!(heard.len(), 1);
    let tags = packet::parse(&heard[0].1).unwrap().tags;
    assert_eq!(tags.iter().map(|t| (t.0, t.1 & 0xfff)).collect::<Vec<_>>(), [(ETH_VLAN, 10)]);
    w.run_for(SEC);
    w.finish();
}
