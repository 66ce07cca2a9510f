//! Links against a real kernel, each test in a network namespace of its own that ends with its thread.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use ctl::io::{DoorSpec, Input, IoKind};
use engine::command::{IpPrefix, UnderlayRoute};
use engine::wire::mac::MacAddr;

use super::*;

/// Runs a story in a fresh network namespace, which goes with the thread.
fn in_namespace(story: impl FnOnce() + Send + 'static) {
    let run = || {
        // SAFETY: this gives the new thread its own network namespace and touches nothing that other
        // threads share (no CLONE_FILES).
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("needs root");
        story();
    };
    let thread = std::thread::spawn(run);
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A child process inherits the namespace of the thread that starts it.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until the kernel has told of something.
fn wait_for<T>(links: &mut Links, mut found: impl FnMut(&Input) -> Option<T>) -> T {
    let start = Instant::now();
    let mut out = Vec::new();
    loop {
        links.poll(&mut out).unwrap();
        if let Some(found) = out.drain(..).find_map(|input| found(&input)) {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "the kernel did not tell");
        // SAFETY: the monitor lives as long as `links`, which outlives this borrow.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(links.as_raw_fd()) };
        let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&second)).unwrap();
    }
}

fn open() -> (Links, Vec<Input>) {
    let mut out = Vec::new();
    let links = Links::open(&mut out).unwrap();
    (links, out)
}

fn spec() -> DoorSpec {
    DoorSpec {
        kind: IoKind::Afxdp,
        name: "eth1".into(),
        peer: "eth1p".into(),
        mac: MacAddr([2, 0x69, 0x76, 1, 2, 3]),
        mtu: 1450,
        queues: 2,
        mtu_is_guess: false,
        addresses: vec![prefix("10.2.0.12/16")],
    }
}

fn prefix(text: &str) -> IpPrefix {
    let (addr, len) = text.split_once('/').unwrap();
    IpPrefix { addr: addr.parse().unwrap(), len: len.parse().unwrap() }
}

fn index(name: &str) -> String {
    ip(&format!("-o link show {name}")).split(':').next().unwrap().into()
}

/// An interface appears, is renamed, loses carrier, goes; each is told in order.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn links_come_change_and_go() {
    in_namespace(|| {
        let (mut links, out) = open();
        assert!(matches!(&out[..], [Input::Link(lo)] if lo.name == "lo"), "{out:?}");
        ip("link add va type veth peer name vb");
        wait_for(&mut links, |i| matches!(i, Input::Link(l) if l.name == "va").then_some(()));
        ip("link set vb up");
        ip("link set va up");
        wait_for(&mut links, |i| matches!(i, Input::Link(l) if l.name == "va" && l.carrier).then_some(()));
        ip("link set vb down");
        wait_for(&mut links, |i| matches!(i, Input::Link(l) if l.name == "va" && !l.carrier).then_some(()));
        ip("addr add 10.1.1.1/24 dev va");
        wait_for(&mut links, |i| {
            matches!(i, Input::Link(l) if l.name == "va" && l.addresses.contains(&prefix("10.1.1.1/24")))
                .then_some(())
        });
        ip("link set va down");
        ip("link set va name vc");
        wait_for(&mut links, |i| matches!(i, Input::LinkGone(name) if name == "va").then_some(()));
        assert!(links.by_name("va").is_none());
        assert!(links.by_name("vc").is_some_and(|c| c.addresses == [prefix("10.1.1.1/24")]));
        // A port that leaves its bridge is still there.
        ip("link add vbr type bridge");
        ip("link set vc master vbr");
        ip("link set vc nomaster");
        ip("link del vb");
        wait_for(&mut links, |i| matches!(i, Input::LinkGone(name) if name == "vc").then_some(()));
    });
}

/// Of a door for super-frames checksums and segments are left to us, but for those a virtio-net header cannot tell.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_packet_door_sends_what_virtio_can_say() {
    in_namespace(|| {
        let (mut links, _) = open();
        links.create_door(&DoorSpec { kind: IoKind::Packet, ..spec() }).unwrap();
        let output = std::process::Command::new("ethtool").args(["-k", "eth1"]).output().unwrap();
        let features = String::from_utf8(output.stdout).unwrap();
        let is = |feature: &str, state: &str| features.contains(&format!("{feature}: {state}"));
        assert!(is("tcp-segmentation-offload", "on") && is("tx-udp-segmentation", "on"), "{features}");
        for feature in ["tx-checksum-sctp", "tx-udp_tnl-segmentation", "tx-gre-segmentation"] {
            assert!(is(feature, "off") && !is(feature, "off [fixed]"), "{feature}: {features}");
        }
    });
}

/// A new door has the wanted MAC, MTU, address, no checksum offload, no IPv6, and is up.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_door_is_made_as_wanted_and_removed() {
    in_namespace(|| {
        let (mut links, _) = open();
        links.create_door(&spec()).unwrap();
        let door = wait_for(&mut links, |i| match i {
            Input::Link(l) if l.name == "eth1" && l.carrier && !l.addresses.is_empty() => Some(l.clone()),
            _ => None,
        });
        assert_eq!(
            (door.mac, door.mtu, &door.addresses[..]),
            (spec().mac, 1450, &[prefix("10.2.0.12/16")][..])
        );
        assert!(!ethtool::tx_checksum("eth1").unwrap());
        for end in ["eth1", "eth1p"] {
            let off = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6")).unwrap();
            assert_eq!(off.trim(), "1", "{end}");
            assert!(ip(&format!("-d link show {end}")).contains("addrgenmode none"), "{end}");
            assert_eq!(ip(&format!("-6 addr show {end}")), "");
        }
        // Nothing left the CMS's end by itself.
        let stats = ip("-s -j link show eth1p");
        assert!(stats.contains("\"rx\":{\"bytes\":0,\"packets\":0"), "{stats}");
        links.delete_door("eth1").unwrap();
        wait_for(&mut links, |i| matches!(i, Input::LinkGone(name) if name == "eth1p").then_some(()));
        links.delete_door("eth1").unwrap();
    });
}

/// A restart finds the door and leaves the CMS's work alone: membership, a removed address, a state.
/// What the agent now wants otherwise is corrected in place.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_door_that_is_there_is_kept() {
    in_namespace(|| {
        let (mut links, _) = open();
        links.create_door(&spec()).unwrap();
        let before = (index("eth1"), index("eth1p"));
        ip("link add br1 type bridge");
        ip("link set eth1 master br1");
        ip("addr del 10.2.0.12/16 dev eth1");
        ip("link set eth1 down");

        let (mut links, _) = open();
        let mut wanted = spec();
        wanted.mtu = 1430;
        wanted.addresses.push(prefix("10.3.0.1/24"));
        links.create_door(&wanted).unwrap();
        assert_eq!(before, (index("eth1"), index("eth1p")));
        let now = ip("addr show eth1");
        assert!(
            now.contains("master br1") && now.contains("mtu 1430") && now.contains("state DOWN"),
            "{now}"
        );
        assert!(!now.contains("10.2.0.12") && now.contains("10.3.0.1/24"), "{now}");

        // Dropped from the configuration, an address of ours goes; the MAC is put right.
        wanted.addresses.clear();
        wanted.mac = MacAddr([2, 0x69, 0x76, 9, 9, 9]);
        links.create_door(&wanted).unwrap();
        let now = ip("addr show eth1");
        assert!(!now.contains("10.3.0.1") && now.contains("02:69:76:09:09:09"), "{now}");
    });
}

/// The CMS moved its end into a namespace of its own: the pair is still ours, and is removed as one.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_door_whose_end_moved_away_is_kept() {
    in_namespace(|| {
        let (mut links, _) = open();
        links.create_door(&spec()).unwrap();
        let before = index("eth1p");
        let mut sleeper = Command::new("unshare").args(["-n", "sleep", "60"]).spawn().unwrap();
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let start = Instant::now();
        while fs::read_link(format!("/proc/{}/ns/net", sleeper.id())).is_ok_and(|ns| ns == own) {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
        ip(&format!("link set eth1 netns {}", sleeper.id()));
        let mut wanted = spec();
        wanted.mtu = 1400;
        links.create_door(&wanted).unwrap();
        assert_eq!(before, index("eth1p"));
        assert!(ip("link show eth1p").contains("mtu 1400"));
        // A stranger may now own the name without being touched.
        ip("link add eth1 type bridge");
        assert!(links.create_door(&wanted).unwrap_err().to_string().contains("exists already"));
        links.delete_door("eth1").unwrap();
        assert!(!ip("link show").contains("eth1p"));
        assert!(ip("link show eth1").contains("eth1"));
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    });
}

/// Interfaces of others are neither taken nor removed.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn strangers_are_refused() {
    in_namespace(|| {
        let (mut links, _) = open();
        ip("link add eth1 type bridge");
        let error = links.create_door(&spec()).unwrap_err().to_string();
        assert!(
            error.contains("\"eth1\" exists already") && error.contains("interface = \"eth1\""),
            "{error}"
        );
        links.delete_door("eth1").unwrap();
        ip("link del eth1");
        ip("link add eth1p type veth peer name other");
        let error = links.create_door(&spec()).unwrap_err().to_string();
        assert!(error.contains("\"eth1p\" exists already"), "{error}");
        links.delete_door("eth1").unwrap();
        ip("link show other");
        // Half made by a daemon that died: taken over and finished.
        ip("link del other");
        ip("link add eth1 type veth peer name eth1p");
        links.create_door(&spec()).unwrap();
        assert!(ip("addr show eth1").contains("10.2.0.12/16"));
    });
}

/// The uplink's routes and connected prefixes, and how they follow changes.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_underlay_follows_the_kernel() {
    in_namespace(|| {
        ip("link add eth0 type veth peer name far");
        ip("link set far up");
        ip("link set eth0 up");
        ip("addr add 10.0.0.11/24 dev eth0");
        ip("route add default via 10.0.0.1");
        ip("route add 10.9.0.0/16 via 10.0.0.9 metric 50");
        ip("route add 10.9.0.0/16 via 10.0.0.8 metric 20");
        ip("link add other type bridge");
        ip("link set other up");
        ip("route add 10.8.0.0/16 dev other");
        let (mut links, _) = open();
        let mut out = Vec::new();
        links.watch_underlay(Some("eth0".into()), &mut out).unwrap();
        let routes = out
            .iter()
            .find_map(|i| match i {
                Input::UnderlayRoutes(routes) => Some(routes.clone()),
                _ => None,
            })
            .unwrap();
        let v4 = |routes: &[UnderlayRoute]| -> Vec<String> {
            let v4 = routes.iter().filter(|r| r.to.addr.is_ipv4());
            v4.map(|r| format!("{} {}", r.to, r.via.map_or("link".into(), |via| via.to_string()))).collect()
        };
        assert_eq!(v4(&routes), ["0.0.0.0/0 10.0.0.1", "10.0.0.0/24 link", "10.9.0.0/16 10.0.0.8"]);
        ip("route del 10.9.0.0/16 via 10.0.0.8");
        ip("addr add 10.7.0.1/24 dev eth0 noprefixroute");
        let expected = ["0.0.0.0/0 10.0.0.1", "10.0.0.0/24 link", "10.7.0.0/24 link", "10.9.0.0/16 10.0.0.9"];
        wait_for(&mut links, |i| {
            matches!(i, Input::UnderlayRoutes(routes) if v4(routes) == expected).then_some(())
        });
        ip("link del far");
        wait_for(&mut links, |i| {
            matches!(i, Input::UnderlayRoutes(routes) if routes.is_empty()).then_some(())
        });
    });
}

/// The kernel is asked for a next hop and its answer is told; a host that goes is told too.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_neighbour_is_resolved_by_the_kernel() {
    in_namespace(|| {
        let mut far = Command::new("unshare").args(["-n", "sleep", "60"]).spawn().unwrap();
        let pid = far.id();
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let start = Instant::now();
        while fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns == own) {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
        ip(&format!("link add eth0 type veth peer name far netns {pid}"));
        ip("addr add 10.0.0.11/24 dev eth0");
        ip("link set eth0 up");
        let inside = |arguments: &str| {
            let status = Command::new("nsenter")
                .args(["-t", &pid.to_string(), "-n", "ip"])
                .args(arguments.split_whitespace())
                .status();
            assert!(status.unwrap().success());
        };
        inside("link set far address 02:00:00:00:00:12");
        inside("addr add 10.0.0.12/24 dev far");
        inside("link set far up");
        let (mut links, mut out) = open();
        links.watch_underlay(Some("eth0".into()), &mut out).unwrap();
        let peer: IpAddr = "10.0.0.12".parse().unwrap();
        out.clear();
        links.resolve(peer, &mut out);
        let mac = wait_for(&mut links, |i| match i {
            Input::UnderlayNeighbor(ip, Some(mac)) if *ip == peer => Some(*mac),
            _ => None,
        });
        assert_eq!(mac, MacAddr([2, 0, 0, 0, 0, 0x12]));
        // Asked again, the answer is at hand.
        out.clear();
        links.resolve(peer, &mut out);
        assert!(matches!(&out[..], [Input::UnderlayNeighbor(_, Some(_))]), "{out:?}");
        ip("neigh del 10.0.0.12 dev eth0");
        wait_for(&mut links, |i| matches!(i, Input::UnderlayNeighbor(ip, None) if *ip == peer).then_some(()));
        far.kill().unwrap();
        far.wait().unwrap();
    });
}

/// More events than fit: the table ends up right all the same.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_storm_of_events_is_survived() {
    in_namespace(|| {
        let (mut links, _) = open();
        // A tiny buffer overruns at once.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(
            // SAFETY: the monitor lives as long as `links`.
            unsafe { std::os::fd::BorrowedFd::borrow_raw(links.as_raw_fd()) },
            2048,
        )
        .unwrap();
        for n in 0..40 {
            ip(&format!("link add d{n} type bridge"));
        }
        ip("link del d7");
        let mut out = Vec::new();
        while !links.poll(&mut out).unwrap() {}
        assert!(links.by_name("d39").is_some() && links.by_name("d7").is_none());
        assert!(out.iter().any(|i| matches!(i, Input::Link(l) if l.name == "d39")));
    });
}
