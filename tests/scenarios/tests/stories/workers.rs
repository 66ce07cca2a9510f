//! One switch on several workers, which from outside looks like one.

use engine::command::Location;
use engine::counters::DropReason;
use scenarios::{PRIVATE, door_port, guest_port, head, mac, mesh};
use sim::guest::HostSpec;
use sim::packet;
use sim::world::{MS, NodeId, SEC, World};

fn ip(s: &str) -> std::net::IpAddr {
    s.parse().unwrap()
}

fn m(n: u32) -> engine::wire::mac::MacAddr {
    mac(n).parse().unwrap()
}

/// One rVM with this many workers, not started, with doors `h1` to `h4` and a host on each.
fn doors(w: &mut World, workers: usize, more: &str) -> (NodeId, Vec<NodeId>) {
    let site = w.site("east", &["10.0.0.0/16"], true);
    let ports: String = (1..=4).map(|n| door_port(&format!("h{n}"), "private", more)).collect();
    let text = head("rvm1", "10.0.0.11").replace("vni = 100\n", "vni = 100\nfdb_age = 30\n") + &ports;
    let rvm = w.rvm(site, "rvm1", &["10.0.0.11"], &text);
    w.r(rvm).workers = workers;
    let host = |w: &mut World, n: u32| {
        let spec = HostSpec::new(&format!("h{n}"), &mac(n), PRIVATE, &[&format!("192.168.1.{n}/24")]);
        w.guest(rvm, &format!("h{n}"), spec)
    };
    let hosts = (1..=4).map(|n| host(w, n)).collect();
    (rvm, hosts)
}

/// A datagram from one host to another; `flow` decides which worker receives it.
fn datagram(from: u32, to: u32, flow: u16) -> Vec<u8> {
    let (src, dst) = (ip(&format!("192.168.1.{from}")), ip(&format!("192.168.1.{to}")));
    packet::eth_ip(m(to), m(from), &packet::ip(src, dst, packet::UDP, &packet::udp(src, dst, flow, 9, b"x")))
}

fn listen(w: &mut World, hosts: &[NodeId]) {
    for &h in hosts {
        w.h(h).heard = Some(Vec::new());
        w.h(h).stack = false;
    }
}

fn heard(w: &mut World, host: NodeId) -> usize {
    w.h(host).heard.as_ref().map_or(0, Vec::len)
}

/// The location of a MAC in each worker's FDB.
fn places(w: &mut World, rvm: NodeId, n: u32) -> Vec<Option<Location>> {
    let now = w.now_ns;
    let workers = w.r(rvm).worker_count();
    let place = |w: &mut World, worker| {
        w.r(rvm).worker_fdb(worker, now).iter().find(|row| row.mac == m(n)).map(|row| row.location)
    };
    (0..workers).map(|worker| place(w, worker)).collect()
}

fn behind(w: &mut World, rvm: NodeId, port: &str) -> Option<Location> {
    w.r(rvm).port_id(port).map(Location::Port)
}

/// Each station sends once, to one worker. Then all send to all others in so many flows that every
/// worker has some: not one frame is flooded.
#[test]
fn what_one_worker_learns_all_know() {
    for workers in [2, 3] {
        let mut w = World::new(workers as u64);
        let (rvm, hosts) = doors(&mut w, workers, "");
        w.start_all();
        w.run_for(50 * MS);
        listen(&mut w, &hosts);
        for n in 1..=4 {
            w.inject(hosts[n as usize - 1], packet::arp_request(m(n), ip("192.168.1.9"), ip("192.168.1.9")));
        }
        w.run_for(MS);
        for n in 1..=4 {
            let at = behind(&mut w, rvm, &format!("h{n}"));
            assert_eq!(places(&mut w, rvm, n), vec![at; workers], "station {n}");
        }
        let before = w.r(rvm).counters().replicated;
        let quiet = hosts.iter().map(|&h| heard(&mut w, h)).collect::<Vec<_>>();
        for flow in 0..200 {
            for (from, to) in [(1, 2), (2, 3), (3, 4), (4, 1)] {
                w.inject(hosts[from as usize - 1], datagram(from, to, 1000 + flow));
            }
            w.run_for(MS / 10);
        }
        w.run_for(MS);
        assert_eq!(w.r(rvm).counters().replicated, before, "nothing is flooded");
        for (host, quiet) in hosts.iter().zip(quiet) {
            assert_eq!(heard(&mut w, *host) - quiet, 200);
        }
        for worker in 0..workers {
            let rx = w.r(rvm).worker_counters(worker).rx;
            assert!(rx > 100, "worker {worker} received {rx}");
        }
        w.finish();
    }
}

/// A station moves from port to port, and each time another worker may receive its flow. The last move
/// wins immediately at every worker; and when it is on several ports within one batch, all agree on one.
#[test]
fn the_last_move_wins_everywhere() {
    let mut w = World::new(3);
    let (rvm, hosts) = doors(&mut w, 3, "");
    w.start_all();
    w.run_for(50 * MS);
    listen(&mut w, &hosts);
    for step in 0..300u16 {
        let port = usize::from(step * 7 % 4);
        w.inject(hosts[port], datagram(50, 60, step));
        w.run_for(MS / 10);
        let at = behind(&mut w, rvm, &format!("h{}", port + 1));
        assert_eq!(places(&mut w, rvm, 50), [at; 3], "move {step}");
    }
    w.r(rvm).batching = true;
    for step in 0..300u16 {
        for (port, &host) in hosts.iter().enumerate() {
            w.inject(host, datagram(50, 60, step * 4 + port as u16));
        }
        w.run_for(MS);
        let all = places(&mut w, rvm, 50);
        assert!(all[0].is_some() && all.iter().all(|place| *place == all[0]), "{step}: {all:?}");
    }
    w.finish();
}

/// A station whose frames only one worker receives stays known to all workers as long as it sends, through many
/// ageing times, and all forget it when it has stopped.
#[test]
fn a_station_lives_while_any_worker_hears_it() {
    let mut w = World::new(4);
    let (rvm, hosts) = doors(&mut w, 3, "");
    w.start_all();
    w.run_for(50 * MS);
    listen(&mut w, &hosts);
    let at = behind(&mut w, rvm, "h1");
    for _ in 0..30 {
        w.inject(hosts[0], datagram(1, 2, 5));
        w.run_for(10 * SEC);
        assert_eq!(places(&mut w, rvm, 1), [at; 3]);
    }
    // The ageing time is 30 s, 10 s have passed, and ageing looks at every entry every few seconds.
    w.run_for(40 * SEC);
    assert_eq!(places(&mut w, rvm, 1), [None; 3]);
    w.finish();
}

/// A port with one queue belongs to one worker, and the others send through that worker: nothing is lost or
/// reordered, and drops at a full transmit queue are counted, whichever worker filled it.
#[test]
fn frames_are_handed_to_the_worker_that_has_the_port() {
    let mut w = World::new(5);
    let (rvm, hosts) = doors(&mut w, 3, "");
    for port in ["h2", "h3"] {
        w.r(rvm).set_queues(port, 1);
    }
    w.r(rvm).set_queues("h4", 2);
    w.start_all();
    w.run_for(50 * MS);
    for (server, address) in [(1, "192.168.1.2"), (2, "192.168.1.3"), (3, "192.168.1.4")] {
        w.h(hosts[server]).serve(80);
        for client in (0..4).filter(|&c| c != server) {
            assert!(!w.tcp(hosts[client], address, 80, 40_000, 40_000).failed, "{client} to {address}");
        }
    }
    let sum = w.r(rvm).counters();
    assert!(sum.handed_off > 50 && sum.handed_off == sum.taken_over && sum.dropped == 0, "{sum:?}");

    // Frames are in order: those of each flow carry a number.
    listen(&mut w, &hosts);
    w.r(rvm).batching = true;
    let before = heard(&mut w, hosts[1]);
    let numbered = |flow: u16, number: u16| {
        let (src, dst) = (ip("192.168.1.1"), ip("192.168.1.2"));
        let data = number.to_be_bytes();
        packet::eth_ip(m(2), m(1), &packet::ip(src, dst, packet::UDP, &packet::udp(src, dst, flow, 9, &data)))
    };
    for number in 0..60 {
        for flow in 0..10 {
            w.inject(hosts[0], numbered(2000 + flow, number));
        }
    }
    w.run_for(10 * MS);
    let frames = w.h(hosts[1]).heard.clone().unwrap_or_default();
    let mut next = [0u16; 10];
    for (_, frame) in &frames[before..] {
        let at = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let (flow, number) = (usize::from(at(34) - 2000), at(42));
        assert_eq!(number, next[flow], "flow {flow}");
        next[flow] += 1;
    }
    assert_eq!(next, [60; 10]);

    w.r(rvm).slow_down("h2", Some(5));
    for number in 0..100 {
        w.inject(hosts[0], numbered(3000 + number, number));
    }
    w.run_for(10 * MS);
    let dropped = w.r(rvm).drops("h2", DropReason::TxQueueFull);
    let arrived = heard(&mut w, hosts[1]) - before - 600;
    assert!(dropped > 0 && dropped as usize + arrived == 100, "{arrived} arrived, {dropped} dropped");
    w.finish();
}

/// A guest floods a door with random addresses. During the flood and afterwards the flows of others are not flooded,
/// whichever worker has them, and every table keeps its bounds.
#[test]
fn a_flood_of_addresses_floods_nobody_else() {
    let mut w = World::new(6);
    let (rvm, hosts) = doors(&mut w, 3, "");
    w.r(rvm).batching = true;
    w.start_all();
    w.run_for(50 * MS);
    listen(&mut w, &hosts);
    let mut flow = 0;
    let mut reached = 0;
    for round in 0..200u32 {
        for n in 0..100 {
            w.inject(hosts[0], packet::eth(m(4), m(0x10_0000 + round * 100 + n), 0x88b5, &[0; 46]));
        }
        for (from, to) in [(2, 3), (3, 2), (4, 2)] {
            flow += 1;
            w.inject(hosts[from as usize - 1], datagram(from, to, flow));
        }
        w.run_for(MS);
        if round == 0 {
            // By now all three have sent.
            w.h(hosts[0]).heard = Some(Vec::new());
            reached = heard(&mut w, hosts[1]);
        }
    }
    assert_eq!(heard(&mut w, hosts[0]), 0, "h1 hears nothing of the others");
    assert_eq!(heard(&mut w, hosts[1]) - reached, 2 * 199);
    for worker in 0..3 {
        let now = w.now_ns;
        let known = w.r(rvm).worker_fdb(worker, now).len();
        assert!(
            (1000..=1030).contains(&known),
            "worker {worker} knows {known}: the port's bound and three more"
        );
    }
    w.finish();
}

/// A flush takes effect at every worker.
#[test]
fn what_is_flushed_is_flushed_everywhere() {
    let mut w = World::new(8);
    let (rvm, hosts) = doors(&mut w, 3, "");
    w.start_all();
    w.run_for(50 * MS);
    listen(&mut w, &hosts);
    for step in 0..20u16 {
        w.inject(hosts[0], datagram(1, 2, step));
        w.run_for(MS);
        assert!(places(&mut w, rvm, 1).iter().all(Option::is_some));
        let flush = r#"{"jsonrpc":"2.0","id":1,"method":"fdb.flush","params":{}}"#;
        assert!(w.request(rvm, flush).is_some_and(|reply| reply.contains("result")));
        assert_eq!(places(&mut w, rvm, 1), [None; 3]);
    }
    w.finish();
}

/// The number of workers changes at a restart and at no other time; peers notice only the pause.
#[test]
fn the_number_of_workers_changes_with_a_restart() {
    let mut w = World::new(9);
    let (rvms, guests) = mesh(&mut w, 2);
    assert_eq!(w.ping(guests[0], "192.168.1.11", 3).received, 3);
    for workers in [3, 2, 1, 2] {
        w.r(rvms[0]).kill();
        w.r(rvms[0]).workers = workers;
        w.start(rvms[0]);
        w.run_for(SEC);
        assert_eq!(w.r(rvms[0]).worker_count(), workers);
        assert_eq!(w.ping(guests[0], "192.168.1.11", 3).received, 3, "{workers} workers");
        w.h(guests[1]).serve(80);
        assert!(!w.tcp(guests[0], "192.168.1.11", 80, 30_000, 30_000).failed);
    }
    w.finish();
}

/// A limit on broadcasts applies to the port, even if several workers receive from that port.
#[test]
fn a_limit_is_the_ports_whoever_receives() {
    let mut w = World::new(10);
    let (rvm, hosts) = doors(&mut w, 2, "bum_pps = 100");
    w.start_all();
    w.run_for(50 * MS);
    listen(&mut w, &hosts);
    let broadcast = |n: u16| {
        let (src, dst) = (ip("192.168.1.1"), ip("192.168.1.255"));
        let all = engine::wire::mac::MacAddr([0xff; 6]);
        packet::eth_ip(all, m(1), &packet::ip(src, dst, packet::UDP, &packet::udp(src, dst, n, 9, b"x")))
    };
    // Two seconds at 1000 per second, in many flows.
    for n in 0..2000 {
        w.inject(hosts[0], broadcast(n));
        w.run_for(MS);
    }
    let (passed, dropped) = (heard(&mut w, hosts[1]) as u64, w.r(rvm).drops("h1", DropReason::BumRateLimit));
    assert_eq!(passed + dropped, 2000);
    assert!((180..=320).contains(&passed), "{passed} in two seconds at 100 per second and one burst");
    w.finish();
}

/// A guest is behind one worker's port, and its floating IP's gateway behind another's: mappings follow their
/// stations at every worker, and the packet counters are the sum over workers.
#[test]
fn floating_ips_on_several_workers() {
    let mut w = World::new(11);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let text = head("rvm1", "10.0.0.11").replace("vni = 100\n", "vni = 100\ngateway = [\"192.168.1.1\"]\n")
        + &guest_port("h1", "private", &mac(1), &["192.168.1.2"])
        + &scenarios::floating(
            "56.0.0.11",
            "rvm1",
            Some("10.0.0.11"),
            "inside = { network = \"private\", address = \"192.168.1.2\" }",
        );
    let rvm = w.rvm(site, "rvm1", &["10.0.0.11"], &text);
    w.r(rvm).workers = 3;
    w.public_ip(rvm, "10.0.0.11", "56.0.0.11");
    let host = w.internet_host("internet", &["8.8.8.8/24"]);
    let spec = HostSpec::new("ivm", &mac(1), PRIVATE, &["192.168.1.2/24"]).via("192.168.1.1");
    let ivm = w.guest(rvm, "h1", spec);
    w.r(rvm).set_queues("h1", 1);
    scenarios::allow_internet(&mut w, PRIVATE, "192.168.1.2", "8.8.8.8");
    w.start_all();
    w.settle();
    w.h(ivm).serve(80);
    for _ in 0..10 {
        assert!(!w.tcp(host, "56.0.0.11", 80, 5_000, 5_000).failed);
    }
    assert_eq!(w.ping(ivm, "8.8.8.8", 3).received, 3);
    let busy = (0..3).filter(|&n| w.r(rvm).worker_counters(n).rx > 10).count();
    assert!(busy > 1, "several workers translate");
    let now = w.now_ns;
    let rows = w.r(rvm).floating(now);
    assert!(rows[0].inbound.frames > 80 && rows[0].outbound.frames > 80, "{rows:?}");
    w.finish();
}
