//! Opaque link-local addresses of guests whose ports allow them: first come, first served.

use engine::command::*;
use engine::counters::DropReason;
use engine::forward::Switch;
use engine::frame::Offload;
use engine::limits::LINK_LOCALS_MAX;
use engine::wire::mac::MacAddr;

use crate::build::{OPAQUE, OTHERS_OPAQUE, OWN, ROUTER, ip};
use crate::honest::nd;
use crate::{CLAIMANT, CLAIMANTS_MAC, DOOR, GUEST, NEIGHBOR, PORTS, World, binding};

/// The same ND message from another station.
fn sent_by(mac: MacAddr, mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac.0);
    frame
}

fn claimants(frame: Vec<u8>) -> Vec<u8> {
    sent_by(CLAIMANTS_MAC, frame)
}

const DOORS_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// "Is this address free?" by the claimant, and "it is mine".
fn probe(address: &str) -> Vec<u8> {
    claimants(nd("::", 135, address, &[]))
}

fn advertisement(address: &str) -> Vec<u8> {
    claimants(nd(address, 136, address, &[(2, CLAIMANTS_MAC)]))
}

fn claimed(w: &World) -> Vec<(String, bool)> {
    let port = w.switch.tables().ports.get(CLAIMANT).unwrap();
    port.link_locals.iter().map(|(ip, settled)| (ip.to_string(), settled)).collect()
}

/// A guest asks whether its address is free. When no station has objected for half a second, the guest may
/// use the address. It may not use the address earlier, nor on ports that do not allow it.
#[test]
fn a_claim_that_nobody_objects_to_is_granted() {
    let mut w = World::new();
    assert!(w.passes(CLAIMANT, &probe(OPAQUE)), "whoever has it is to hear of it");
    assert!(!w.passes(CLAIMANT, &advertisement(OPAQUE)), "not yet");
    w.wait(250);
    assert!(!w.passes(CLAIMANT, &advertisement(OPAQUE)), "not yet");
    w.wait(250);
    assert_eq!(claimed(&w), [(OPAQUE.to_owned(), true)]);
    assert!(w.passes(CLAIMANT, &advertisement(OPAQUE)) && w.passes(CLAIMANT, &probe(OPAQUE)));
    let packet = claimants(nd(OPAQUE, 135, "fd01::9", &[(1, CLAIMANTS_MAC)]));
    assert!(w.passes(CLAIMANT, &packet));
    // The address derived from its MAC stays its own.
    assert!(w.passes(CLAIMANT, &advertisement("fe80::ff:fe00:7")));
    for id in [GUEST, NEIGHBOR] {
        let mac = MacAddr([2, 0, 0, 0, 0, 9 - id.0 as u8]);
        assert!(!w.passes(id, &sent_by(mac, nd("::", 135, OTHERS_OPAQUE, &[]))), "it was not allowed");
        assert_eq!(w.drops(id), [(DropReason::SpoofedNeighbor, 1)].into());
    }
}

/// Another station says, immediately or later, that it has the address: the guest may not use it any more.
#[test]
fn a_claim_ends_when_another_station_has_the_address() {
    let objections = [
        ("a defence", nd(OPAQUE, 136, OPAQUE, &[(2, DOORS_MAC)])),
        ("a solicitation", nd(OPAQUE, 135, "fd01::9", &[(1, DOORS_MAC)])),
        ("a router", nd(OPAQUE, 134, "::", &[(1, DOORS_MAC)])),
    ];
    for (what, objection) in objections {
        for waits in [0, 600] {
            let mut w = World::new();
            w.passes(CLAIMANT, &probe(OPAQUE));
            w.wait(waits);
            w.forward(DOOR, &sent_by(DOORS_MAC, objection.clone()), Offload::NONE);
            assert_eq!(claimed(&w), [], "{what} after {waits} ms");
            w.wait(1000);
            assert!(!w.passes(CLAIMANT, &advertisement(OPAQUE)), "{what} after {waits} ms");
        }
    }
}

/// Another station asks whether the address is free. A guest that waits for an answer to the same question
/// loses the address (RFC 4862 §5.4.3). A guest that already has it keeps and defends it; otherwise a guest
/// of another rVM could take it by asking.
#[test]
fn a_probe_ends_only_a_tentative_claim() {
    for settled in [false, true] {
        let mut w = World::new();
        w.passes(CLAIMANT, &probe(OPAQUE));
        w.wait(if settled { 600 } else { 0 });
        w.forward(DOOR, &sent_by(DOORS_MAC, nd("::", 135, OPAQUE, &[])), Offload::NONE);
        assert_eq!(!claimed(&w).is_empty(), settled);
        assert_eq!(w.passes(CLAIMANT, &advertisement(OPAQUE)), settled, "the defence");
    }
}

/// A guest asks in forms that the owner does not recognise as a question: with another hop limit, a wrong
/// checksum, or to an unused MAC. The switch also asks, and the owner answers that question.
#[test]
fn a_question_that_nobody_hears_claims_nothing() {
    let (mut hops, mut sum, mut astray) = (probe(OPAQUE), probe(OPAQUE), probe(OPAQUE));
    hops[21] = 64;
    sum[57] ^= 0xff;
    astray[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    for question in [hops, sum, astray] {
        let mut w = World::new();
        let out = w.forward(CLAIMANT, &question, Offload::NONE);
        let asked = out.iter().find(|(to, bytes)| *to == DOOR && bytes[6..12] == ROUTER.0);
        let (_, asked) = asked.expect("the switch's own question");
        assert_eq!((asked[21], asked[54], &asked[62..78]), (255, 135, &ip(OPAQUE).v6_bytes()[..]));
        w.forward(DOOR, &sent_by(DOORS_MAC, nd(OPAQUE, 136, OPAQUE, &[(2, DOORS_MAC)])), Offload::NONE);
        w.wait(600);
        assert!(!w.passes(CLAIMANT, &advertisement(OPAQUE)));
    }
}

/// A guest claims the address of one that may use any link-local address. That one may defend it.
#[test]
fn a_claim_silences_no_station() {
    for ips in [&["fd01::8", "fe80::/10"][..], &[]] {
        let mut w = World::new();
        let mac = MacAddr([2, 0, 0, 0, 0, 8]);
        w.port(NEIGHBOR, Role::Guest, binding(mac, ips, LinkLocalRule::Eui64));
        assert!(w.passes(CLAIMANT, &probe(OPAQUE)));
        assert!(w.passes(NEIGHBOR, &sent_by(mac, nd(OPAQUE, 136, OPAQUE, &[(2, mac)]))));
        assert_eq!(claimed(&w), []);
    }
}

/// An address that was free in one VLAN may belong to a station in another: a claim counts only in its own
/// VLAN.
#[test]
fn a_claim_counts_in_its_vlan() {
    let in_vlan =
        |vid: u16, frame: Vec<u8>| [&frame[..12], &[0x81, 0][..], &vid.to_be_bytes(), &frame[12..]].concat();
    let mut w = World::new();
    assert!(w.passes(CLAIMANT, &in_vlan(5, probe(OPAQUE))));
    w.wait(600);
    assert!(w.passes(CLAIMANT, &in_vlan(5, advertisement(OPAQUE))));
    for vid in [0, 6] {
        assert!(!w.passes(CLAIMANT, &in_vlan(vid, advertisement(OPAQUE))), "{vid}");
    }
    assert!(!w.passes(CLAIMANT, &advertisement(OPAQUE)));
    w.wait(600);
    assert!(!w.passes(CLAIMANT, &advertisement(OPAQUE)));
    // The owner of the address in another VLAN does not matter in this one.
    let objection = sent_by(DOORS_MAC, nd(OPAQUE, 136, OPAQUE, &[(2, DOORS_MAC)]));
    w.forward(DOOR, &in_vlan(6, objection.clone()), Offload::NONE);
    assert!(w.passes(CLAIMANT, &in_vlan(5, advertisement(OPAQUE))));
    w.forward(DOOR, &in_vlan(5, objection), Offload::NONE);
    assert!(!w.passes(CLAIMANT, &in_vlan(5, advertisement(OPAQUE))));
}

/// A guest cannot claim an address that another station is known to have: a gateway's, another port's of any
/// kind, one that people write by hand, or one derived from another MAC.
#[test]
fn some_addresses_cannot_be_claimed() {
    let mut w = World::new();
    w.apply(Command::SetNetwork(NetworkConfig {
        vni: crate::VNI,
        gateways: vec!["fe80::a1b2:c3d4:e5f6:1".parse().unwrap()],
        router_mac: ROUTER,
        fdb_max: 100,
        fdb_age: engine::limits::FDB_AGE,
        mss_clamp: true,
        dhcp: None,
    }));
    w.port(
        NEIGHBOR,
        Role::Guest,
        binding(MacAddr([2, 0, 0, 0, 0, 8]), &[OTHERS_OPAQUE], LinkLocalRule::Eui64),
    );
    let second = MacAddr([2, 0, 0, 0, 0, 6]);
    w.port(GUEST, Role::Guest, binding(second, &["fd01::6"], LinkLocalRule::Opaque));
    assert!(w.passes(GUEST, &sent_by(second, nd("::", 135, OPAQUE, &[]))));
    for address in [
        "fe80::a1b2:c3d4:e5f6:1",
        OTHERS_OPAQUE,
        OPAQUE,
        "fe80::ff:fe00:8",
        "fe80::ff:fe00:1234",
        "fe80::1",
        "fe80::ffff:1",
        "fd01::1",
        "fd01::8",
    ] {
        assert!(!w.passes(CLAIMANT, &probe(address)), "{address}");
        w.wait(600);
        assert!(!w.passes(CLAIMANT, &advertisement(address)), "{address}");
    }
    assert_eq!(claimed(&w), []);
}

/// A guest holds few addresses at a time, and cannot try many: tentative claims leave no room, and a new
/// claim displaces a settled one (another system was installed).
#[test]
fn claims_are_bounded() {
    let mut w = World::new();
    let address = |n: usize| format!("fe80::4d3f:0:0:{}", n + 1);
    for n in 0..10 {
        assert_eq!(w.passes(CLAIMANT, &probe(&address(n))), n < LINK_LOCALS_MAX, "{n}");
    }
    w.wait(600);
    assert!(w.passes(CLAIMANT, &probe(&address(20))));
    w.wait(600);
    let now: Vec<_> = claimed(&w).into_iter().map(|(ip, _)| ip).collect();
    assert_eq!(now, [ip(&address(LINK_LOCALS_MAX - 1)).to_string(), ip(&address(20)).to_string()]);
    assert!(!w.passes(CLAIMANT, &advertisement(&address(0))));
}

/// A guest already has its address when this switch first sees it, since it migrated here while running, so
/// it does not ask whether the address is free. The switch asks every other station in its place. Without an
/// objection the guest may use the address half a second later.
#[test]
fn the_switch_asks_for_a_guest_that_has_moved() {
    for objects in [false, true] {
        let mut w = World::new();
        let out = w.forward(CLAIMANT, &advertisement(OPAQUE), Offload::NONE);
        let asked: Vec<_> = out.iter().map(|(to, _)| *to).collect();
        assert_eq!(asked, PORTS.into_iter().filter(|id| *id != CLAIMANT).collect::<Vec<_>>());
        let question = &out[0].1;
        assert_eq!(
            (&question[..6], &question[6..12]),
            (&[0x33, 0x33, 0xff, 0x44, 0x55, 0x66][..], &ROUTER.0[..])
        );
        assert_eq!(&question[22..38], &[0; 16], "from nowhere");
        assert_eq!((question[54], &question[62..78]), (135, &ip(OPAQUE).v6_bytes()[..]));
        assert_eq!(question.len(), 78, "without a link-layer address");
        let (src, dst) = (ip("::"), ip("ff02::1:ff44:5566"));
        assert!(engine::wire::checksum::transport_ok(src, dst, 58, &question[54..]));
        assert_eq!(w.forward(CLAIMANT, &advertisement(OPAQUE), Offload::NONE), vec![], "asked once");
        if objects {
            w.forward(DOOR, &sent_by(DOORS_MAC, nd(OPAQUE, 136, OPAQUE, &[(2, DOORS_MAC)])), Offload::NONE);
        }
        w.wait(600);
        assert_eq!(w.passes(CLAIMANT, &advertisement(OPAQUE)), !objects);
    }
    // The switch does not even ask for the neighbour's address, or for one in a frame from another MAC.
    let mut w = World::new();
    assert_eq!(w.forward(CLAIMANT, &advertisement("fe80::ff:fe00:8"), Offload::NONE), vec![]);
    assert_eq!(w.forward(CLAIMANT, &sent_by(OWN, advertisement(OPAQUE)), Offload::NONE), vec![]);
}

/// When a port goes down or gets another binding, it may have another guest afterwards: its claims end.
#[test]
fn claims_end_with_the_guest() {
    let unplugged = |w: &mut World, live| {
        let config = w.switch.tables().ports.get(CLAIMANT).unwrap().config.clone();
        w.apply(Command::SetPort(CLAIMANT, PortConfig { live, ..config }));
    };
    let mut w = World::new();
    w.passes(CLAIMANT, &probe(OPAQUE));
    w.wait(600);
    unplugged(&mut w, true);
    assert_eq!(claimed(&w).len(), 1, "set as it was");
    unplugged(&mut w, false);
    unplugged(&mut w, true);
    assert_eq!(claimed(&w), []);
    // Another port gets the same address by configuration.
    w.passes(CLAIMANT, &probe(OPAQUE));
    w.port(NEIGHBOR, Role::Guest, binding(MacAddr([2, 0, 0, 0, 0, 8]), &[OPAQUE], LinkLocalRule::Eui64));
    assert_eq!(claimed(&w), []);
}

/// On an access port, the switch sends the question for the guest into the guest's VLAN.
#[test]
fn the_question_is_asked_in_the_guests_vlan() {
    let mut w = World::new();
    let config = w.switch.tables().ports.get(CLAIMANT).unwrap().config.clone();
    w.apply(Command::SetPort(CLAIMANT, PortConfig { vlan: VlanPolicy::Access(10), ..config }));
    let out = w.forward(CLAIMANT, &advertisement(OPAQUE), Offload::NONE);
    let (_, question) = out.iter().find(|(to, _)| *to == DOOR).expect("a question");
    assert_eq!(&question[12..18], &[0x81, 0, 0, 10, 0x86, 0xdd]);
}

/// Each of several workers sees some of a guest's frames. A claim that one worker grants or ends counts for all.
#[test]
fn workers_agree() {
    let mut worlds = [World::new(), World::new()];
    for (me, w) in worlds.iter_mut().enumerate() {
        let mut switch = Switch::new(me as u64);
        switch.share(me as u8);
        std::mem::swap(&mut w.switch, &mut switch);
        for (id, port) in switch.tables().ports.iter() {
            w.switch.apply(w.now, Command::SetPort(id, port.config.clone()), &mut w.pool);
        }
        let network = switch.tables().networks.get(crate::VNI).unwrap().config.clone();
        w.switch.apply(w.now, Command::SetNetwork(network), &mut w.pool);
    }
    let tell = |worlds: &mut [World; 2], from: usize| {
        let news: Vec<_> = worlds[from].switch.take_news().drain(..).collect();
        let now = worlds[from].now;
        let other = &mut worlds[1 - from];
        assert!(news.iter().all(|news| other.switch.hear(now, from as u8, news)));
    };
    assert!(worlds[0].passes(CLAIMANT, &probe(OPAQUE)));
    tell(&mut worlds, 0);
    worlds.iter_mut().for_each(|w| w.wait(600));
    for w in &mut worlds {
        assert!(w.passes(CLAIMANT, &advertisement(OPAQUE)));
    }
    // The owner's answer reaches the other worker.
    worlds[1].forward(DOOR, &sent_by(DOORS_MAC, nd(OPAQUE, 136, OPAQUE, &[])), Offload::NONE);
    tell(&mut worlds, 1);
    for w in &mut worlds {
        assert!(!w.passes(CLAIMANT, &advertisement(OPAQUE)));
    }
}
