//! Changes to a running cloud by the control interface: nothing restarts, and everything unchanged goes on.

use scenarios::{PRIVATE, PUBLIC, allow_internet, floating, guest_port, head, mac, mesh, peer};
use sim::guest::HostSpec;
use sim::packet;
use sim::world::{MS, NodeId, SEC, World};

struct Cloud {
    gateway: NodeId,
    owners: [NodeId; 2],
    ivms: [NodeId; 2],
    host: NodeId,
}

fn gateway_text(with: bool) -> String {
    let text = head("gw", "10.0.0.11") + &peer("o0", "10.0.0.20", "") + &peer("o1", "10.0.0.21", "");
    if with { text + &floating("56.0.0.11", "gw", Some("10.0.0.11"), "") } else { text }
}

/// Configuration of owner `n`; `with` says whether it has the floating IP's iVM.
fn owner_text(n: u32, with: bool) -> String {
    let text = head(&format!("o{n}"), &format!("10.0.0.2{n}"))
        .replace("vni = 100\n", "vni = 100\ngateway = [\"192.168.1.1\"]\n")
        + &guest_port("h1", "private", &mac(1), &["192.168.1.2"])
        + &peer("gw", "10.0.0.11", "")
        + &peer(&format!("o{}", 1 - n), &format!("10.0.0.2{}", 1 - n), "");
    let inside = "inside = { network = \"private\", address = \"192.168.1.2\" }";
    if with { text + &floating("56.0.0.11", "gw", None, inside) } else { text }
}

fn cloud(w: &mut World, with: bool) -> Cloud {
    let site = w.site("east", &["10.0.0.0/16"], true);
    let gateway = w.rvm(site, "gw", &["10.0.0.11"], &gateway_text(with));
    w.public_ip(gateway, "10.0.0.11", "56.0.0.11");
    let owners = [0, 1]
        .map(|n| w.rvm(site, &format!("o{n}"), &[&format!("10.0.0.2{n}")], &owner_text(n, with && n == 0)));
    let host = w.internet_host("internet", &["8.8.8.8/24"]);
    let ivms = owners.map(|o| {
        w.guest(o, "h1", HostSpec::new("ivm", &mac(1), PRIVATE, &["192.168.1.2/24"]).via("192.168.1.1"))
    });
    // The same machine in two places: it runs in the first.
    w.h(ivms[1]).stack = false;
    allow_internet(w, PRIVATE, "192.168.1.2", "8.8.8.8");
    w.start_all();
    Cloud { gateway, owners, ivms, host }
}

/// A floating IP is associated with a running iVM and removed again: it works as soon as both rVMs know it,
/// and afterwards the provider's packets go to the gateway's kernel again.
#[test]
fn i40_a_floating_ip_comes_and_goes() {
    let mut w = World::new(1);
    let c = cloud(&mut w, false);
    w.settle();
    assert_eq!(w.ping(c.ivms[0], "192.168.1.1", 1).received, 1);
    assert_eq!(w.ping(c.host, "56.0.0.11", 3).received, 3, "the rVM's kernel answers");
    let kernel = w.r(c.gateway).journal.kernel_rx.len();
    assert!(kernel >= 3);
    assert!(w.apply(c.owners[0], &owner_text(0, true)));
    assert!(w.apply(c.gateway, &gateway_text(true)));
    w.run_for(100 * MS);
    w.h(c.ivms[0]).serve(80);
    assert!(!w.tcp(c.host, "56.0.0.11", 80, 50_000, 50_000).failed);
    assert_eq!(w.r(c.gateway).journal.kernel_rx.len(), kernel, "nothing of it went to the kernel");
    assert!(w.apply(c.gateway, &gateway_text(false)));
    assert_eq!(w.ping(c.host, "56.0.0.11", 3).received, 3);
    assert!(w.r(c.gateway).journal.kernel_rx.len() >= kernel + 3);
    w.finish();
}

/// The iVM with the floating IP moves to another rVM while it talks: its inside address, its mapping and its
/// connections move with it. The new owner's switch informs the gateway, which follows immediately: the outage is
/// shorter than a second, and TCP that was open goes on.
#[test]
fn i41_the_owner_of_a_floating_ip_moves() {
    let mut w = World::new(2);
    let c = cloud(&mut w, true);
    w.settle();
    assert_eq!(w.ping(c.host, "56.0.0.11", 3).received, 3);
    w.h(c.ivms[0]).serve(80);
    let dst = "56.0.0.11".parse().unwrap();
    let held = w.act(c.host, |h, now| h.transfer(now, (dst, 80), 3_000_000, 3_000_000, 120 * SEC));
    let pings = w.act(c.host, |h, now| h.ping(now, dst, 300, 56, 10 * MS));
    w.run_for(20 * MS);
    assert!(!w.h(c.host).report(held).done, "it is in the middle");
    // The machine itself, with its memory, resumes there.
    w.migrate(c.ivms[0], c.ivms[1]);
    assert!(w.apply(c.owners[0], &owner_text(0, false)));
    assert!(w.apply(c.owners[1], &owner_text(1, true)));
    w.inject(
        c.ivms[1],
        packet::arp_request(
            mac(1).parse().unwrap(),
            "192.168.1.2".parse().unwrap(),
            "192.168.1.2".parse().unwrap(),
        ),
    );
    let report = w.wait(c.host, pings);
    assert!(report.received >= 270, "outage of {} ms", (300 - report.received) * 10);
    let report = w.wait(c.host, held);
    assert_eq!(
        (report.failed, report.bad, report.received),
        (false, 0, 3_000_000),
        "{:?}",
        w.r(c.gateway).all_drops()
    );
    w.finish();
}

/// A peer's address changes while everything runs: both sides get the new address, nothing restarts, and a transfer
/// between two other rVMs does not notice.
#[test]
fn a_peer_moves_without_a_restart() {
    let mut w = World::new(3);
    let (rvms, guests) = mesh(&mut w, 3);
    assert_eq!(w.ping(guests[0], "192.168.1.11", 2).received, 2);
    w.h(guests[2]).serve(80);
    let dst = "192.168.1.12".parse().unwrap();
    let other = w.act(guests[0], |h, now| h.transfer(now, (dst, 80), 300_000, 300_000, 60 * SEC));
    w.run_for(2 * MS);
    w.readdress(rvms[1], "10.0.0.11", "10.0.9.9");
    for &r in &rvms {
        let text = w.r(r).config.replace("\"10.0.0.11\"", "\"10.0.9.9\"");
        assert!(w.apply(r, &text));
    }
    w.run_for(SEC);
    assert!(!w.wait(guests[0], other).failed);
    assert_eq!(w.ping(guests[0], "192.168.1.11", 3).received, 3, "{:?}", w.r(rvms[0]).all_drops());
    assert_eq!(w.ping(guests[1], "192.168.1.12", 3).received, 3);
    assert_eq!(w.r(rvms[0]).journal.opened.iter().filter(|o| *o == "h1").count(), 1, "no port was reopened");
    w.finish();
}

/// A configuration with a mistake is refused as a whole, and the error names the mistake. The running one stays in
/// force, and the file is not changed.
#[test]
fn a_bad_configuration_changes_nothing() {
    let mut w = World::new(4);
    let (rvms, guests) = mesh(&mut w, 2);
    let before = w.r(rvms[0]).config.clone();
    for bad in [
        "[[netwrk]]\n",
        "[[port]]\nname = \"x\"\nnetwork = \"nowhere\"\n",
        "[[peer]]\nname = \"rvm1\"\naddress = \"10.0.0.11\"\n",
    ] {
        let text = before.clone() + bad;
        assert!(!w.apply(rvms[0], &text), "{bad}");
        assert_eq!(w.r(rvms[0]).config, before);
        assert_eq!(w.ping(guests[0], "192.168.1.11", 2).received, 2);
    }
    w.finish();
}

/// Default-closed: a port forwards nothing before it is completely bound. A flooder sends all the time while its
/// rVM starts, is killed and starts again, and while its port changes networks: none of its frames ever reaches a
/// network that it is not configured for at that moment.
#[test]
fn t17_no_window_at_start_or_change() {
    let mut w = World::new(5);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let text = |network: &str| {
        head("rvm1", "10.0.0.11")
            + &guest_port("evil", network, &mac(1), &[])
            + &guest_port("a", "private", &mac(2), &[])
            + &guest_port("b", "public", &mac(3), &[])
    };
    let rvm = w.rvm(site, "rvm1", &["10.0.0.11"], &text("private"));
    let evil = w.guest(rvm, "evil", HostSpec::new("evil", &mac(1), PRIVATE, &["192.168.1.1/24"]));
    let a = w.guest(rvm, "a", HostSpec::new("a", &mac(2), PRIVATE, &["192.168.1.2/24"]));
    let b = w.guest(rvm, "b", HostSpec::new("b", &mac(3), PUBLIC, &["192.168.1.3/24"]));
    for h in [evil, a, b] {
        w.h(h).stack = false;
        w.h(h).heard = Some(Vec::new());
    }
    let burst = |w: &mut World, tag: u8| {
        for _ in 0..20 {
            w.inject(
                evil,
                packet::eth(
                    engine::wire::mac::MacAddr::BROADCAST,
                    mac(1).parse().unwrap(),
                    0x88b5,
                    &[tag; 50],
                ),
            );
            w.run_for(MS / 10);
        }
    };
    let heard = |w: &mut World, h: NodeId, tag: u8| {
        w.h(h).heard.as_ref().unwrap().iter().filter(|f| f.1.ends_with(&[tag; 50])).count()
    };
    burst(&mut w, 1);
    assert_eq!(heard(&mut w, a, 1), 0, "nothing runs yet");
    for round in 0..20u8 {
        let (network, own, other) = if round % 2 == 0 { ("private", a, b) } else { ("public", b, a) };
        if round % 3 == 0 {
            w.kill(rvm);
            burst(&mut w, 200);
            w.r(rvm).config = text(network);
            w.start(rvm);
        } else {
            assert!(w.apply(rvm, &text(network)));
        }
        let tag = 10 + round;
        burst(&mut w, tag);
        w.run_for(5 * MS);
        assert!(heard(&mut w, own, tag) >= 15, "round {round}: its own network hears it");
        assert_eq!(heard(&mut w, other, tag), 0, "round {round}: the other does not");
        assert_eq!(heard(&mut w, a, 200) + heard(&mut w, b, 200), 0, "nor anybody while it was dead");
    }
    w.finish();
}
