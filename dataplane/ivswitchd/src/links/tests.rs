//! Links against a real kernel; each test has its own network namespace, which ends with the test's thread.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use ctl::io::{DoorSpec, Input, IoKind, SteerPlan, SteerReality};
use engine::command::{IpPrefix, UnderlayHop, UnderlayRoute, UnderlayRoutes};
use engine::wire::mac::MacAddr;

use super::*;

/// Runs a story in a fresh network namespace, which ends with the thread.
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

/// Runs `ip` in the calling thread's namespace, which a child process inherits.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until the kernel has reported an input that `found` accepts.
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

/// An interface appears, is renamed, loses carrier, goes; each is reported in order.
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
        // A port that leaves its bridge still exists.
        ip("link add vbr type bridge");
        ip("link set vc master vbr");
        ip("link set vc nomaster");
        ip("link del vb");
        wait_for(&mut links, |i| matches!(i, Input::LinkGone(name) if name == "vc").then_some(()));
    });
}

/// A door for GSO packets leaves checksums and segmentation to us, except for packets that a virtio-net
/// header cannot describe.
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
        assert!(is("tx-udp_tnl-segmentation", "on") && is("tx-gre-segmentation", "on"), "{features}");
        for feature in ["tx-checksum-sctp", "tx-sctp-segmentation", "tx-gso-list"] {
            assert!(is(feature, "off") && !is(feature, "off [fixed]"), "{feature}: {features}");
        }
    });
}

/// A new door has the configured MAC, MTU, address, no checksum offload, no IPv6, and is up.
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
        // The CMS's end sent nothing by itself.
        let stats = ip("-s -j link show eth1p");
        assert!(stats.contains("\"rx\":{\"bytes\":0,\"packets\":0"), "{stats}");
        links.delete_door("eth1").unwrap();
        wait_for(&mut links, |i| matches!(i, Input::LinkGone(name) if name == "eth1p").then_some(()));
        links.delete_door("eth1").unwrap();
    });
}

/// A restart finds the door and leaves the CMS's changes alone: membership, a removed address, a state.
/// Changes of the configuration are applied in place.
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

        // An address of ours that left the configuration is removed; the MAC is corrected.
        wanted.addresses.clear();
        wanted.mac = MacAddr([2, 0x69, 0x76, 9, 9, 9]);
        links.create_door(&wanted).unwrap();
        let now = ip("addr show eth1");
        assert!(!now.contains("10.3.0.1") && now.contains("02:69:76:09:09:09"), "{now}");
    });
}

/// The CMS moved its end into another namespace: the pair is still ours, and is removed as one.
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
        // Another interface may now take the name, and we leave it alone.
        ip("link add eth1 type bridge");
        assert!(links.create_door(&wanted).unwrap_err().to_string().contains("exists already"));
        links.delete_door("eth1").unwrap();
        assert!(!ip("link show").contains("eth1p"));
        assert!(ip("link show eth1").contains("eth1"));
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    });
}

/// Interfaces of other programs are neither taken nor removed.
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
        // A door that a dead daemon left half made is taken over and finished.
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
        links.watch_sources(&plan("10.0.0.11", &[]), &mut out);
        assert_eq!(told(&out), ["0.0.0.0/0 10.0.0.1", "10.0.0.0/24 link", "10.9.0.0/16 10.0.0.8"]);
        ip("route del 10.9.0.0/16 via 10.0.0.8");
        wait_for_routes(&mut links, &["0.0.0.0/0 10.0.0.1", "10.0.0.0/24 link", "10.9.0.0/16 10.0.0.9"]);
        // Without a route for its prefix the kernel does not regard it as on the link; neither do we.
        ip("addr add 10.7.0.1/24 dev eth0 noprefixroute");
        ip("route add 10.6.0.0/16 via 10.0.0.6 mtu 1400");
        wait_for_routes(
            &mut links,
            &["0.0.0.0/0 10.0.0.1", "10.0.0.0/24 link", "10.6.0.0/16 10.0.0.6", "10.9.0.0/16 10.0.0.9"],
        );
        // Routes that end with their device's state end without a message.
        ip("link set eth0 down");
        wait_for_routes(&mut links, &[]);
        ip("link set eth0 up");
        wait_for_routes(&mut links, &["10.0.0.0/24 link"]);
        ip("link del far");
        wait_for_routes(&mut links, &[]);
    });
}

/// A plan with the tunnel's source address and floating IPs' addresses.
fn plan(tunnel: &str, reality: &[&str]) -> SteerPlan {
    let reality = reality.iter().map(|ip| SteerReality {
        address: ip.parse().unwrap(),
        all: true,
        ports: Vec::new(),
        except: Vec::new(),
    });
    SteerPlan { tunnel: Some((tunnel.parse().unwrap(), 4789)), vnis: None, reality: reality.collect() }
}

/// Routes as text, without those to the machine's and its links' own addresses.
fn shown(routes: &[UnderlayRoute]) -> Vec<String> {
    let hop = |hop: &UnderlayHop| match hop {
        UnderlayHop::Link => "link".to_owned(),
        UnderlayHop::Gateway(via) => via.to_string(),
    };
    let line = |r: &UnderlayRoute| match r.hops.is_empty() {
        true => format!("{} nowhere", r.to),
        false => format!("{} {}", r.to, r.hops.iter().map(hop).collect::<Vec<_>>().join("+")),
    };
    let own = |r: &&UnderlayRoute| r.hops.is_empty() && r.to == IpPrefix::host(r.to.addr);
    routes
        .iter()
        .filter(|r| !own(r) && r.to.addr != IpAddr::from([0xff00, 0, 0, 0, 0, 0, 0, 0]))
        .map(line)
        .collect()
}

/// The tunnel's routes in the last message about routes.
fn told(out: &[Input]) -> Vec<String> {
    let last = out.iter().rev().find_map(|input| match input {
        Input::UnderlayRoutes(routes) => Some(shown(&routes.tunnel)),
        _ => None,
    });
    last.expect("routes were told")
}

/// Takes the kernel's messages until `so` holds; within a second, as promised.
fn wait_for_all_routes(links: &mut Links, so: impl Fn(&UnderlayRoutes) -> bool) {
    let start = Instant::now();
    let mut last = None;
    loop {
        let mut out = Vec::new();
        links.poll(&mut out).unwrap();
        last = out
            .into_iter()
            .rev()
            .find_map(|input| match input {
                Input::UnderlayRoutes(routes) => Some(routes),
                _ => None,
            })
            .or(last);
        if last.as_ref().is_some_and(&so) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(1), "the routes are {last:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_routes(links: &mut Links, expected: &[&str]) {
    wait_for_all_routes(links, |routes| shown(&routes.tunnel) == expected);
}

/// A rented machine's second NIC as clouds' own agents set it up: its default route is in a separate table,
/// by source address, and a secondary address has another gateway. Every change is noticed within a second.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn policy_rules_are_followed() {
    in_namespace(|| {
        for nic in ["eth0", "eth1"] {
            ip(&format!("link add {nic} type veth peer name far-{nic}"));
            ip(&format!("link set far-{nic} up"));
            ip(&format!("link set {nic} up"));
        }
        ip("addr add 10.9.0.5/24 dev eth0");
        ip("addr add 10.0.1.11/24 dev eth1");
        ip("addr add 10.0.1.12/24 dev eth1");
        ip("route add default via 10.9.0.1 dev eth0");
        let (mut links, mut out) = open();
        links.watch_underlay(Some("eth1".into()), &mut out).unwrap();
        links.watch_sources(&plan("10.0.1.11", &["10.0.1.11", "10.0.1.12"]), &mut out);
        assert_eq!(told(&out), ["10.0.1.0/24 link"], "the default route is the other NIC's");
        ip("route add default via 10.0.1.1 dev eth1 table 1001");
        ip("rule add from 10.0.1.11 lookup 1001");
        // As in the kernel, which asks the table of the rule first: the link's own prefix is not in it.
        wait_for_routes(&mut links, &["0.0.0.0/0 10.0.1.1"]);
        ip("route add 10.0.1.0/24 dev eth1 table 1001");
        wait_for_routes(&mut links, &["0.0.0.0/0 10.0.1.1", "10.0.1.0/24 link"]);
        ip("route add default via 10.0.1.2 dev eth1 table 1002");
        ip("rule add from 10.0.1.12 lookup 1002");
        wait_for_all_routes(&mut links, |routes| {
            let [(from, other)] = &routes.from[..] else { return false };
            *from == IpAddr::from([10, 0, 1, 12]) && shown(other)[0] == "0.0.0.0/0 10.0.1.2"
        });
        ip(
            "route replace default table 1001 nexthop via 10.0.1.3 dev eth1 weight 2 nexthop via 10.0.1.4 dev eth1",
        );
        wait_for_routes(&mut links, &["0.0.0.0/0 10.0.1.3+10.0.1.3+10.0.1.4", "10.0.1.0/24 link"]);
        ip("rule add to 10.66.0.0/16 prohibit");
        wait_for_routes(
            &mut links,
            &["0.0.0.0/0 10.0.1.3+10.0.1.3+10.0.1.4", "10.0.1.0/24 link", "10.66.0.0/16 nowhere"],
        );
        ip("rule del to 10.66.0.0/16");
        ip("rule del from 10.0.1.11 lookup 1001");
        wait_for_routes(&mut links, &["10.0.1.0/24 link"]);
        // A second default route in the main table.
        ip("route add default via 10.0.1.1 dev eth1 metric 10001");
        wait_for_routes(&mut links, &["0.0.0.0/0 10.0.1.1", "10.0.1.0/24 link"]);
        ip("route add unreachable 10.77.0.0/16");
        wait_for_routes(&mut links, &["0.0.0.0/0 10.0.1.1", "10.0.1.0/24 link", "10.77.0.0/16 nowhere"]);
    });
}

/// Routes with nexthop objects: single ones and groups, with and without the members in the kernel's route messages.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn nexthop_objects_are_followed() {
    in_namespace(|| {
        ip("link set lo up");
        ip("link add eth0 type veth peer name far");
        ip("link set far up");
        ip("link set eth0 up");
        ip("addr add 10.0.0.11/24 dev eth0");
        ip("addr add fd00::11/64 dev eth0 nodad");
        for compat in ["1", "0"] {
            fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", compat).unwrap();
            ip("nexthop add id 1 via 10.0.0.1 dev eth0");
            ip("nexthop add id 2 via 10.0.0.2 dev eth0");
            ip("nexthop add id 3 group 1,2/2");
            ip("nexthop add id 4 blackhole");
            ip("nexthop add id 6 via fd00::1 dev eth0");
            ip("route add default nhid 1");
            ip("route add 10.8.0.0/16 nhid 3");
            ip("route add 10.9.0.0/16 nhid 4");
            ip("-6 route add default nhid 6");
            ip("route add 10.6.0.0/16 via inet6 fd00::6 dev eth0");
            let (mut links, mut out) = open();
            links.watch_underlay(Some("eth0".into()), &mut out).unwrap();
            links.watch_sources(&plan("10.0.0.11", &["fd00::11"]), &mut out);
            assert_eq!(
                told(&out),
                [
                    "0.0.0.0/0 10.0.0.1",
                    "10.0.0.0/24 link",
                    "10.6.0.0/16 fd00::6",
                    "10.8.0.0/16 10.0.0.1+10.0.0.1+10.0.0.2",
                    "10.9.0.0/16 nowhere"
                ],
                "compat mode {compat}"
            );
            let Some(Input::UnderlayRoutes(routes)) = out.last() else { panic!("{out:?}") };
            assert!(shown(&routes.from[0].1).contains(&"::/0 fd00::1".to_owned()), "{routes:?}");
            ip("nexthop replace id 1 via 10.0.0.7 dev eth0");
            wait_for_all_routes(&mut links, |routes| shown(&routes.tunnel)[0] == "0.0.0.0/0 10.0.0.7");
            ip("nexthop flush");
            ip("route flush 10.6.0.0/16");
            wait_for_routes(&mut links, &["10.0.0.0/24 link"]);
        }
    });
}

/// For random rules and routes and for every destination, the composed table gives the kernel's answer about
/// a packet from our address that is bound to the uplink.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn composed_routes_are_the_kernels_answers() {
    for seed in 0..8 {
        in_namespace(move || as_the_kernel_answers(seed));
    }
}

fn as_the_kernel_answers(seed: u64) {
    let mut state = seed * 2 + 1;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for (nic, four, six) in [("eth0", "10.9.0.5", "fd09::5"), ("eth1", "10.0.1.11", "fd01::11")] {
        ip(&format!("link add {nic} type veth peer name far-{nic}"));
        ip(&format!("link set far-{nic} up"));
        ip(&format!("link set {nic} up group 7"));
        ip(&format!("addr add {four}/24 dev {nic}"));
        ip(&format!("addr add {six}/64 dev {nic} nodad"));
    }
    let tables = ["main", "100", "101"];
    let prefixes = |six: bool, n: u64, len: u64| match six {
        false => format!("20.{}.{}.0/{}", n % 2, n / 2 % 2, [0, 7, 8, 15, 16, 23, 24, 32][len as usize % 8]),
        true => format!(
            "2001:db8:{}:{}::/{}",
            n % 2,
            n / 2 % 2,
            [0, 31, 32, 47, 48, 63, 64, 128][len as usize % 8]
        ),
    };
    let try_ip = |text: String| {
        let _ = Command::new("ip").args(text.split_whitespace()).stderr(std::process::Stdio::null()).status();
    };
    let clean = |prefix: String| -> String {
        // Without bits beyond the prefix length, which `ip route` refuses.
        let (addr, len) = prefix.split_once('/').unwrap();
        let net =
            ctl::reconcile::truncate(IpPrefix { addr: addr.parse().unwrap(), len: len.parse().unwrap() });
        net.to_string()
    };
    for six in [false, true] {
        let family = if six { "-6" } else { "-4" };
        let gateway = |n: u64| if six { format!("fd01::{}", n + 1) } else { format!("10.0.1.{}", n + 1) };
        for n in 0..24 {
            let to = clean(prefixes(six, random(4), random(8)));
            let table = tables[random(3) as usize];
            let metric = random(3) + 1;
            // IPv6's lookup considers routes by other devices even for a bound packet, so this world has none.
            let kind = match random(if six { 6 } else { 8 }) {
                0 => "unreachable",
                1 => "blackhole",
                2 => "throw",
                6 => "other",
                _ => "",
            };
            try_ip(match kind {
                "" => format!(
                    "{family} route add {to} via {} dev eth1 table {table} metric {metric}",
                    gateway(n)
                ),
                "other" => {
                    format!("{family} route add {to} via 10.9.0.1 dev eth0 table {table} metric {metric}")
                }
                kind => format!("{family} route add {kind} {to} table {table} metric {metric}"),
            });
        }
        for n in 0..8 {
            let source = if six { "fd01::11" } else { "10.0.1.11" };
            let select = match random(8) {
                0 => format!("from {source}"),
                1 => format!("not from {source}"),
                2 | 3 => format!("to {}", clean(prefixes(six, random(4), random(8)))),
                4 => format!("not to {}", clean(prefixes(six, random(4), random(8)))),
                5 => "iif lo".to_owned(),
                6 => "oif eth1".to_owned(),
                _ => "fwmark 1".to_owned(),
            };
            let action = match random(8) {
                0 => "unreachable".to_owned(),
                1 => format!("goto {}", 100 + n + 1 + random(3)),
                2 => "lookup main suppress_prefixlength 0".to_owned(),
                3 => "lookup main suppress_ifgroup 7".to_owned(),
                4 => format!("lookup 100 suppress_prefixlength {}", random(33)),
                _ => format!("lookup {}", tables[random(3) as usize]),
            };
            try_ip(format!("{family} rule add {select} priority {} {action}", 100 + n));
        }
    }
    let (mut links, mut out) = open();
    links.watch_underlay(Some("eth1".into()), &mut out).unwrap();
    links.watch_sources(&plan("10.0.1.11", &["fd01::11"]), &mut out);
    let Some(Input::UnderlayRoutes(routes)) =
        out.iter().rev().find(|i| matches!(i, Input::UnderlayRoutes(_)))
    else {
        panic!("no routes were told")
    };
    let uplink = links.by_name("eth1").unwrap().index;
    let mut asked = 0;
    for six in [false, true] {
        let table = if six { &routes.from[0].1 } else { &routes.tunnel };
        for _ in 0..400 {
            let n = random(8);
            let to: IpAddr = match six {
                false => [20, (n % 2) as u8, (n / 2 % 2) as u8, random(3) as u8].into(),
                true => [0x2001, 0xdb8, (n % 2) as u16, (n / 2 % 2) as u16, 0, 0, 0, random(3) as u16].into(),
            };
            let longest = table.iter().filter(|r| r.to.contains(to)).max_by_key(|r| r.to.len);
            let ours = longest.map_or(&[][..], |r| &r.hops);
            let kernels = kernels_answer(&mut links.requester, uplink, six, to);
            assert_eq!(
                ours,
                kernels,
                "seed {seed}: {to}\n{}\n{}",
                ip(if six { "-6 rule" } else { "-4 rule" }),
                ip(if six { "-6 route show table all" } else { "-4 route show table all" })
            );
            asked += usize::from(!ours.is_empty());
        }
    }
    assert!(asked > 20, "seed {seed}: hardly a destination has a way");
}

/// The kernel's answer to `ip route get fibmatch TO from OURS oif eth1`.
fn kernels_answer(requester: &mut Requester, uplink: u32, six: bool, to: IpAddr) -> Vec<UnderlayHop> {
    use netlink_packet_route::route::{RouteAddress, RouteFlags};
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    };
    let from: IpAddr = if six { "fd01::11" } else { "10.0.1.11" }.parse().unwrap();
    let mut message = RouteMessage::default();
    message.header.address_family = if six { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.flags = RouteFlags::FibMatch;
    let len = if six { 128 } else { 32 };
    (message.header.destination_prefix_length, message.header.source_prefix_length) = (len, len);
    message.attributes = vec![
        RouteAttribute::Destination(address(to)),
        RouteAttribute::Source(address(from)),
        RouteAttribute::Oif(uplink),
    ];
    match requester.get(RouteNetlinkMessage::GetRoute(message)) {
        Ok(Some(RouteNetlinkMessage::NewRoute(m))) => match rib::route_of(&m, uplink, &NextHops::default()) {
            Some(rib::Route { way: rib::Way::Uplink(hops), .. }) => hops,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The kernel resolves a next hop and its answer is reported; so is a host that goes.
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
        // A second request is answered immediately.
        out.clear();
        links.resolve(peer, &mut out);
        assert!(matches!(&out[..], [Input::UnderlayNeighbor(_, Some(_))]), "{out:?}");
        ip("neigh del 10.0.0.12 dev eth0");
        wait_for(&mut links, |i| matches!(i, Input::UnderlayNeighbor(ip, None) if *ip == peer).then_some(()));
        far.kill().unwrap();
        far.wait().unwrap();
    });
}

/// After more events than the buffer holds, the table is still correct.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_storm_of_events_is_survived() {
    in_namespace(|| {
        let (mut links, _) = open();
        // A tiny buffer overruns quickly.
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
