//! Faults, and the state that must be right again after each has healed.

use scenarios::{PRIVATE, figure4, guest_port, head, mac, mesh, mesh_at};
use sim::guest::HostSpec;
use sim::link::LinkConfig;
use sim::world::{MS, SEC, World};

/// SIGKILL of the daemon on either rVM of figure 4, with a TCP connection open through the floating IP. The
/// switch starts from its file and learns again, and the connection goes on to its last byte.
#[test]
fn restart_keeps_connections() {
    let mut w = World::new(1);
    let f = figure4(&mut w);
    w.settle();
    w.h(f.ivm).serve(80);
    let uplink = w.uplink(f.rvm1);
    w.shape(uplink, LinkConfig { rate_bps: 40_000_000, ..LinkConfig::default() });
    let dst = "56.0.0.11".parse().unwrap();
    for victim in [f.rvm1, f.rvm2] {
        let app = w.act(f.host, |h, now| h.transfer(now, (dst, 80), 400_000, 400_000, 60 * SEC));
        w.run_for(40 * MS);
        assert!(!w.h(f.host).report(app).done, "the transfer has begun and not ended");
        w.kill(victim);
        w.run_for(200 * MS);
        w.start(victim);
        let r = w.wait(f.host, app);
        assert_eq!((r.failed, r.bad, r.sent, r.received), (false, 0, 400_000, 400_000));
    }
    w.finish();
}

/// While the switch is dead, the kernel has the uplink: the rVM answers every ping.
#[test]
fn a_dead_switch_leaves_the_rvm_reachable() {
    let mut w = World::new(2);
    let f = figure4(&mut w);
    w.settle();
    w.kill(f.rvm2);
    let (a, b) = ("10.0.0.11".parse().unwrap(), "10.0.0.12".parse().unwrap());
    let (ma, mb) = (w.r(f.rvm1).facts("eth0").unwrap().mac, w.r(f.rvm2).facts("eth0").unwrap().mac);
    for n in 0..5 {
        w.inject_at(
            f.rvm2,
            0,
            sim::packet::eth_ip(ma, mb, &sim::packet::echo(b, a, false, 1, n, b"kernel to kernel")),
        );
        w.inject_at(
            f.rvm1,
            0,
            sim::packet::eth_ip(mb, ma, &sim::packet::echo(a, b, false, 1, n, b"kernel to kernel")),
        );
        w.run_for(10 * MS);
    }
    let pings = w
        .r(f.rvm2)
        .journal
        .kernel_rx
        .iter()
        .filter(|f| sim::packet::parse(f).unwrap().ip.unwrap().proto == sim::packet::ICMP);
    assert_eq!(pings.count(), 5, "rVM1's pings; its own went to the floating IP on rVM1's only address");
    w.start(f.rvm2);
    w.settle();
    assert_eq!(w.ping(f.host, "56.0.0.11", 3).received, 3);
    w.finish();
}

/// A guest's interface disappears under traffic and comes back as a new one of the same name: the switch
/// opens it again by itself, and the other guests lose nothing.
#[test]
fn a_port_disappears_and_returns() {
    let mut w = World::new(3);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let text = head("rvm1", "10.0.0.11")
        + &guest_port("h1", "private", &mac(1), &[])
        + &guest_port("h2", "private", &mac(2), &[])
        + &guest_port("h3", "private", &mac(3), &[]);
    let rvm = w.rvm(site, "rvm1", &["10.0.0.11"], &text);
    let hosts: Vec<_> = (1..=3u32)
        .map(|n| {
            w.guest(
                rvm,
                &format!("h{n}"),
                HostSpec::new(&format!("h{n}"), &mac(n), PRIVATE, &[&format!("192.168.1.{n}/24")]),
            )
        })
        .collect();
    w.start_all();
    assert_eq!(w.ping(hosts[0], "192.168.1.2", 2).received, 2);
    let dst = "192.168.1.2".parse().unwrap();
    w.remove_interface(rvm, "h3");
    let app = w.act(hosts[0], |h, now| h.ping(now, dst, 50, 56, 10 * MS));
    assert_eq!(w.ping(hosts[0], "192.168.1.3", 2).received, 0);
    assert_eq!(w.wait(hosts[0], app).received, 50, "the others lose nothing");
    w.return_interface(rvm, "h3");
    w.run_for(SEC);
    let r = w.ping(hosts[0], "192.168.1.3", 3);
    assert_eq!(r.received, 3, "{:?} {:?}", w.r(rvm).all_drops(), w.r(rvm).journal.log);
    assert_eq!(w.r(rvm).journal.opened.iter().filter(|o| *o == "h3").count(), 2);
    w.finish();
}

/// The uplink itself disappears and returns (a driver reset): local traffic goes on, tunnels come back.
#[test]
fn the_uplink_disappears_and_returns() {
    let mut w = World::new(4);
    let (rvms, guests) = mesh(&mut w, 2);
    assert_eq!(w.ping(guests[0], "192.168.1.11", 2).received, 2);
    w.remove_interface(rvms[0], "eth0");
    assert_eq!(w.ping(guests[0], "192.168.1.11", 2).received, 0);
    w.return_interface(rvms[0], "eth0");
    w.settle();
    let r = w.ping(guests[0], "192.168.1.11", 3);
    assert_eq!(r.received, 3, "{:?} {:?}", w.r(rvms[0]).all_drops(), w.r(rvms[0]).journal.log);
    w.finish();
}

/// The underlay between two of three rVMs is cut and heals: both always reach the third, and each other again
/// afterwards.
#[test]
fn a_partition_heals() {
    let mut w = World::new(5);
    let (rvms, guests) = mesh(&mut w, 3);
    assert_eq!(w.ping(guests[0], "192.168.1.11", 2).received, 2);
    w.cut(rvms[0], rvms[1]);
    assert_eq!(w.ping(guests[0], "192.168.1.11", 2).received, 0);
    assert_eq!(w.ping(guests[0], "192.168.1.12", 5).received, 5);
    w.heal(rvms[0], rvms[1]);
    assert_eq!(w.ping(guests[0], "192.168.1.11", 3).received, 3);
    w.finish();
}

/// The provider gives an rVM another address. Its own configuration and its peers' are changed as `ivctl` changes the
/// file, and the rVMs restart: all reach each other again, and none has sent from a wrong address in between.
#[test]
fn a_peers_address_changes() {
    let mut w = World::new(6);
    let (rvms, guests) = mesh(&mut w, 3);
    assert_eq!(w.ping(guests[0], "192.168.1.11", 2).received, 2);
    w.kill(rvms[1]);
    w.readdress(rvms[1], "10.0.0.11", "10.0.9.9");
    for &r in &rvms {
        let text = w.r(r).config.replace("\"10.0.0.11\"", "\"10.0.9.9\"");
        w.r(r).config = text;
    }
    w.start(rvms[1]);
    for r in [rvms[0], rvms[2]] {
        w.restart(r);
    }
    w.settle();
    for (from, to) in [(0, "192.168.1.11"), (2, "192.168.1.11"), (1, "192.168.1.10")] {
        assert_eq!(w.ping(guests[from], to, 3).received, 3);
    }
    w.finish();
}

/// TCP over an underlay that loses, duplicates, delays and reorders: every byte arrives as it was sent.
#[test]
fn tcp_over_a_bad_underlay() {
    let mut w = World::new(7);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let (rvms, guests) = mesh_at(&mut w, site, 2, |n| format!("10.0.0.{}", 10 + n), "checksum = true");
    for &r in &rvms {
        let link = w.uplink(r);
        w.shape(
            link,
            LinkConfig {
                latency_ns: 500_000,
                jitter_ns: 300_000,
                loss_ppm: 5000,
                dup_ppm: 5000,
                reorder_ppm: 10_000,
                ..LinkConfig::default()
            },
        );
    }
    w.h(guests[1]).serve(80);
    let r = w.tcp(guests[0], "192.168.1.11", 80, 200_000, 200_000);
    assert_eq!((r.failed, r.bad, r.sent, r.received), (false, 0, 200_000, 200_000));
    assert_eq!(w.h(guests[1]).served_bad, 0);
    let link = w.uplink(rvms[0]);
    assert!(w.link(link).directions[0].lost > 0, "the link did lose");
    w.finish();
}

/// A worker that is polled late receives frames in batches: the same transfers, the same bytes, and the
/// conservation law holds for batches too.
#[test]
fn batches_carry_the_same_bytes() {
    let mut w = World::new(8);
    let (rvms, guests) = mesh(&mut w, 3);
    for &r in &rvms {
        w.r(r).batching = true;
    }
    w.h(guests[1]).serve(80);
    let dst = "192.168.1.11".parse().unwrap();
    let apps: Vec<_> = [0, 2]
        .map(|n| {
            (guests[n], w.act(guests[n], |h, now| h.transfer(now, (dst, 80), 200_000, 200_000, 60 * SEC)))
        })
        .into();
    for (h, app) in apps {
        let r = w.wait(h, app);
        assert_eq!((r.failed, r.bad), (false, 0));
    }
    assert_eq!(w.r(rvms[1]).counters().dropped, 0, "{:?}", w.r(rvms[1]).all_drops());
    w.finish();
}

/// One guest stops reading. Its own queue overflows and the drops are counted; the others' frames all arrive, and no
/// slot of the pool is lost.
#[test]
fn a_slow_consumer_hurts_only_itself() {
    let mut w = World::new(9);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let text = head("rvm1", "10.0.0.11")
        + &guest_port("h1", "private", &mac(1), &[])
        + &guest_port("h2", "private", &mac(2), &[])
        + &guest_port("h3", "private", &mac(3), &[]);
    let rvm = w.rvm(site, "rvm1", &["10.0.0.11"], &text);
    let hosts: Vec<_> = (1..=3u32)
        .map(|n| {
            w.guest(
                rvm,
                &format!("h{n}"),
                HostSpec::new(&format!("h{n}"), &mac(n), PRIVATE, &[&format!("192.168.1.{n}/24")]),
            )
        })
        .collect();
    w.start_all();
    assert_eq!(w.ping(hosts[0], "192.168.1.2", 1).received, 1);
    assert_eq!(w.ping(hosts[0], "192.168.1.3", 1).received, 1);
    w.r(rvm).slow_down("h3", Some(0));
    let frame =
        |dst: u32| sim::packet::eth(mac(dst).parse().unwrap(), mac(1).parse().unwrap(), 0x88b5, &[0; 100]);
    let before = w.h(hosts[1]).rx_frames;
    for _ in 0..2000 {
        w.inject(hosts[0], frame(3));
        w.inject(hosts[0], frame(2));
    }
    w.run_for(SEC);
    assert_eq!(w.h(hosts[1]).rx_frames - before, 2000);
    let reason = engine::counters::DropReason::TxQueueFull;
    assert_eq!(w.r(rvm).drops("h3", reason), 2000);
    w.r(rvm).slow_down("h3", None);
    assert_eq!(w.ping(hosts[0], "192.168.1.3", 3).received, 3);
    w.finish();
}

/// Machines are suspended for longer and longer: a blink, a lease, a night, two months. All at the same moment,
/// entries have aged and probes and timers are late. Nothing panics, floods or loops, a TCP connection through the
/// floating IP goes on, and forwarding is as before. (Our code never reads the wall clock: `dataplane/clippy.toml`.)
#[test]
fn fault_time_leaps() {
    let mut w = World::new(10);
    let f = figure4(&mut w);
    w.settle();
    w.h(f.ivm).serve(80);
    let uplink = w.uplink(f.rvm1);
    w.shape(uplink, LinkConfig { rate_bps: 40_000_000, ..LinkConfig::default() });
    let dst = "56.0.0.11".parse().unwrap();
    const HOUR: u64 = 3600 * SEC;
    for gap in [100 * MS, 5 * SEC, 301 * SEC, 10 * HOUR, 60 * 24 * HOUR] {
        let app = w.act(f.host, |h, now| h.transfer(now, (dst, 80), 200_000, 200_000, gap + 120 * SEC));
        w.run_for(30 * MS);
        assert!(!w.h(f.host).report(app).done, "the transfer has begun and not ended");
        w.suspend(gap);
        let r = w.wait(f.host, app);
        assert_eq!((r.failed, r.bad, r.sent, r.received), (false, 0, 200_000, 200_000), "after {gap} ns");
        assert_eq!(w.ping(f.host, "56.0.0.11", 3).received, 3, "after {gap} ns");
    }
    w.finish();
}
