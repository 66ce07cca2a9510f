//! MTU on real interfaces: underlays of every size, paths that shrink silently, kernels that receive the error that a
//! packet is too big, and the output of `ivctl mtu`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use system::{Capture, Lab, Namespace, Switch, transfer, try_transfer, wait_for, wait_until};

use crate::topology::{FarKernel, Underlay, V4, V6, host, network, port, underlay_pair};

/// A path may have been confirmed a moment ago; then three probes stay unanswered, and a search follows.
const BLACK_HOLE: Duration = Duration::from_secs(30);

/// A switch at `ours` with network `private` (VNI 100), one peer, and the lines of `ports`.
fn config(ours: &str, other: &str, more: &str, ports: &str) -> String {
    let name = ours.replace(':', "-");
    format!(
        "name = \"at-{name}\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{ours}\"\n{}{more}{ports}\
         [[peer]]\nname = \"other\"\naddress = \"{other}\"\n",
        network("private", 100)
    )
}

/// The door `eth1` with its addresses on it.
fn door(last: u8) -> String {
    format!(
        "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\naddress = [\"10.1.0.{last}/24\", \"fd01::{last}/64\"]\n"
    )
}

fn by_afxdp(last: u8) -> String {
    door(last) + "kind = \"afxdp\"\n"
}

/// Two switches with an AF_XDP door each, with the rVM's own stack behind it: 10.1.0.1 and 10.1.0.2.
fn two_doors(lab: &Lab, (rvm, ours): (&Namespace, &str), (far, other): (&Namespace, &str)) -> [Switch; 2] {
    [
        Switch::start(lab, rvm, &config(ours, other, "", &by_afxdp(1))),
        Switch::start(lab, far, &config(other, ours, "", &by_afxdp(2))),
    ]
}

fn link_mtu(namespace: &Namespace, interface: &str) -> u64 {
    namespace.ip_json(&format!("link show {interface}"))[0]["mtu"].as_u64().expect("an MTU")
}

fn path(switch: &Switch) -> (u64, String) {
    let peer = &switch.json("mtu")["peers"][0];
    (peer["path_mtu"].as_u64().expect("a number"), peer["origin"].as_str().expect("a word").to_owned())
}

/// Waits until the path's measured MTU is `mtu`, and the door has followed.
#[track_caller]
fn measured(switch: &Switch, rvm: &Namespace, mtu: u16, patience: Duration) {
    let as_wanted = || {
        path(switch) == (u64::from(mtu), "measured".into())
            && link_mtu(rvm, "eth1") == u64::from(mtu) - 50
            && (!rvm.has_link("eth1p") || link_mtu(rvm, "eth1p") == u64::from(mtu) - 50)
    };
    assert!(
        wait_until(patience, as_wanted),
        "path {mtu}, door {}: {}\n{}",
        mtu - 50,
        switch.ivctl("mtu").stdout,
        switch.log()
    );
}

/// Checks that packets of exactly the MTU pass whole, that the kernel itself refuses one more byte, and that TCP
/// works.
#[track_caller]
fn carries(a: &Namespace, b: &Namespace, inner: u16, bytes: u64) {
    for (from, to) in [(a, "10.1.0.2"), (b, "10.1.0.1")] {
        from.reaches_with(to, &format!("-M do -s {}", inner - 28));
        assert_eq!(from.ping(&format!("-c1 -W1 -M do -s {} {to}", inner - 27)), 0);
    }
    a.reaches_with("fd01::2", &format!("-M do -s {}", inner - 48));
    for there in ["10.1.0.2:80", "[fd01::2]:80"] {
        let there: SocketAddr = there.parse().unwrap();
        transfer(a, b, there, there, bytes);
    }
}

/// Underlays of 1400, 1460, 1500 and 9000 without any configuration: paths are measured, and doors get the fitting
/// MTU.
#[test]
fn underlays_of_every_size() {
    for mtu in [1400, 1460, 1500, 9000] {
        let Some(lab) = Lab::new() else { return };
        let (rvm, far) = underlay_pair(&lab, V4);
        for namespace in [&rvm, &far] {
            namespace.ip(&format!("link set eth0 mtu {mtu}"));
        }
        let switches = two_doors(&lab, (&rvm, V4.ours), (&far, V4.far));
        for (switch, rvm) in switches.iter().zip([&rvm, &far]) {
            measured(switch, rvm, mtu, Duration::from_secs(15));
            let status = switch.json("status");
            for port in status["ports"].as_array().expect("ports") {
                assert_eq!(port["mode"], "native, copy", "{status}");
            }
        }
        // Without GRO, to see the packets as they arrive.
        let done = far.command("ethtool").args(["-K", "eth1", "gro", "off"]).status();
        assert!(done.expect("running ethtool").success());
        let capture = Capture::start(&lab, &far, "eth1", "tcp");
        carries(&rvm, &far, mtu - 50, 200_000);
        capture.stop().assert_checksums_right(40);
        carries(&rvm, &far, mtu - 50, 5_000_000);
        for switch in &switches {
            let status = switch.counters_at_rest();
            assert_eq!(switch.drops("eth1", "too-big"), 0, "{status}");
            assert_eq!(switch.ivctl("mtu").code, 0, "no problems");
        }
        lines_for_a_cms(&switches[0], mtu);
    }
}

/// Checks the lines that `ivctl mtu` prints for people.
fn lines_for_a_cms(switch: &Switch, mtu: u16) {
    let text = switch.ivctl("mtu").stdout;
    let inner = mtu - 50;
    let lines = [
        format!("underlay: eth0 has MTU {mtu}; VXLAN over IPv4 takes 50: {inner} are left"),
        format!("global_physnet_mtu = {inner}"),
        format!("path_mtu = {inner}"),
        format!("physical_network_mtus = PHYSNET-OF-eth1:{inner}"),
        format!("update configuration zoneid=ZONE name=vr.public.interface.max.mtu value={inner}"),
        format!("update configuration zoneid=ZONE name=vr.private.interface.max.mtu value={inner}"),
    ];
    for line in lines {
        assert!(text.lines().any(|l| l.trim() == line), "{line:?} is not in:\n{text}");
    }
    // Columns of any width.
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    let inner = inner.to_string();
    let nested = [100, 150, 200].map(|less| (mtu - less).to_string());
    let (mtu, inner) = (mtu.to_string(), inner.as_str());
    for row in [
        vec!["private", "100", inner, "uplink", "on", &nested[0], &nested[1], &nested[2]],
        vec!["eth1", "door", "private", inner, "derived", "eth1p", inner, inner],
    ] {
        assert!(rows.contains(&row), "{row:?} is not in:\n{text}");
    }
    let peer = rows.iter().find(|r| r.first() == Some(&"other")).expect("the peer's row");
    assert_eq!(peer[1..4], [&mtu, "measured", "settled,"], "{text}");
}

/// The same by other drivers: packet sockets, UDP sockets, TAP doors. GSO packets are segmented for the path's MTU.
#[test]
fn other_kinds_follow_too() {
    for (uplink, door_kind, mtu) in
        [("packet", "packet", 9000), ("udp", "tap", 1400), ("packet", "tap", 1460)]
    {
        let Some(lab) = Lab::new() else { return };
        let (rvm, far) = underlay_pair(&lab, V4);
        for namespace in [&rvm, &far] {
            namespace.ip(&format!("link set eth0 mtu {mtu}"));
        }
        let start = |rvm, ours, other, last| {
            let text = config(ours, other, "", &(door(last) + &format!("kind = \"{door_kind}\"\n")))
                .replace("[uplink]\n", &format!("[uplink]\nkind = \"{uplink}\"\n"));
            Switch::start(&lab, rvm, &text)
        };
        let switches = [start(&rvm, V4.ours, V4.far, 1), start(&far, V4.far, V4.ours, 2)];
        for (switch, rvm) in switches.iter().zip([&rvm, &far]) {
            measured(switch, rvm, mtu, Duration::from_secs(15));
        }
        carries(&rvm, &far, mtu - 50, 5_000_000);
        for switch in &switches {
            let status = switch.counters_at_rest();
            assert_eq!(switch.drops("eth1", "too-big"), 0, "{uplink}, {door_kind}: {status}");
        }
    }
}

/// The operator raises the underlay's MTU to a jumbo size while everything runs, and lowers it later. The ports are
/// opened again, for frames that take several chunks; the doors follow.
#[test]
fn an_underlay_that_changes() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    let switches = two_doors(&lab, (&rvm, V4.ours), (&far, V4.far));
    let both = |mtu: u16| {
        for namespace in [&rvm, &far] {
            namespace.ip(&format!("link set eth0 mtu {mtu}"));
        }
        for (switch, rvm) in switches.iter().zip([&rvm, &far]) {
            measured(switch, rvm, mtu, BLACK_HOLE);
        }
        carries(&rvm, &far, mtu - 50, 1_000_000);
    };
    both(1500);
    both(9000);
    both(1400);
}

/// A router on the path silently drops packets larger than 1400, and later than 1300. The probes find the limit to
/// the byte at the start, and again when it changes; TCP goes on. When the uplink changes, every path is probed
/// again.
#[test]
fn black_hole_is_found() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, middle, far) = (lab.namespace("rvm"), lab.namespace("mid"), lab.namespace("far"));
    let (ours, other) = ("10.0.1.11", "10.0.2.12");
    for (end, address, inner, router, net) in
        [(&rvm, ours, "eth1", "10.0.1.1", "10.0.2.0/24"), (&far, other, "eth2", "10.0.2.1", "10.0.1.0/24")]
    {
        lab.veth((end, "eth0"), (&middle, inner));
        end.ip(&format!("addr add {address}/24 dev eth0"));
        middle.ip(&format!("addr add {router}/24 dev {inner}"));
        end.ip(&format!("route add {net} via {router}"));
    }
    middle.sysctl("net/ipv4/ip_forward", "1");
    let carry = |mtu: u16| {
        middle.nft(&format!(
            "table ip f\ndelete table ip f\ntable ip f {{\nchain c {{\ntype filter hook forward priority 0\n\
             ip length > {mtu} drop\n}}\n}}\n"
        ));
    };
    carry(1400);
    let switches = two_doors(&lab, (&rvm, ours), (&far, other));
    measured(&switches[0], &rvm, 1400, BLACK_HOLE);
    measured(&switches[1], &far, 1400, BLACK_HOLE);
    carries(&rvm, &far, 1350, 500_000);

    carry(1299);
    measured(&switches[0], &rvm, 1299, BLACK_HOLE);
    measured(&switches[1], &far, 1299, BLACK_HOLE);
    // 1249 is less than IPv6 requires (RFC 8200 section 5), which is reported; IPv4 works.
    let there = "10.1.0.2:81".parse().unwrap();
    transfer(&rvm, &far, there, there, 500_000);
    let text = switches[0].ivctl("mtu");
    assert_eq!(text.code, 8, "{}", text.stdout);
    assert!(text.stdout.contains("it carries 1249; IPv6 needs 1280"), "{}", text.stdout);
    assert!(text.stdout.contains("its path carries 1299 of the uplink's 1500"), "{}", text.stdout);

    carry(9000);
    rvm.ip("link set eth0 mtu 1499");
    measured(&switches[0], &rvm, 1499, BLACK_HOLE);
}

/// Ports that other tools made, with an MTU of 1500 where the network carries 1450: the senders' kernels receive the
/// error and act on it. Routes get the smaller MTU, and TCP, whose MSS is not lowered here, goes on with smaller
/// segments.
#[test]
fn too_big_is_told_and_believed() {
    let Some(lab) = Lab::new() else { return };
    let (h1, h2, switch, _far) = hosts_that_believe_in_1500(&lab, V4, "mss_clamp = false\n");
    for (family, address, size) in [("-4", "10.1.0.2", 1472), ("-6", "fd01::2", 1452)] {
        h1.reaches(address);
        // The switch refuses the first packet, and the kernel the next, because it knows the limit by then.
        assert_eq!(h1.ping(&format!("-c2 -i0.2 -W1 -M do -s {size} {address}")), 0);
        let route = h1.ip_json(&format!("{family} route get {address}"));
        assert_eq!(route[0]["metrics"][0]["mtu"], 1450, "{route}");
        h1.reaches_with(address, &format!("-M do -s {}", size - 50));
    }
    let dropped = switch.drops("h1", "too-big");
    assert!((2..=4).contains(&dropped), "{dropped}");
    for host in [&h1, &h2] {
        host.ip("route flush cache");
        host.ip("-6 route flush cache");
    }
    for there in ["10.1.0.2:80", "[fd01::2]:80"] {
        let there: SocketAddr = there.parse().unwrap();
        transfer(&h1, &h2, there, there, 500_000);
    }
    assert!(switch.drops("h1", "too-big") > dropped, "a full segment was tried");

    let answer = switch.ivctl("mtu");
    assert_eq!(answer.code, 8, "{answer:?}");
    let said = "warning: port \"h1\": interface p-h1 has MTU 1500, but network \"private\" carries 1450\n   \
                help: lower it on both ends: `ip link set p-h1 mtu 1450`";
    assert!(answer.stdout.contains(said), "{}", answer.stdout);
}

/// The same with tenants that filter ICMP: a transfer stalls without MSS clamping, and does not with it.
#[test]
fn mss_clamp_saves_a_transfer() {
    for underlay in [V4, V6] {
        let Some(lab) = Lab::new() else { return };
        let (h1, h2, switch, far) = hosts_that_believe_in_1500(&lab, underlay, "mss_clamp = false\n");
        for host in [&h1, &h2] {
            host.nft(
                "table inet f {\nchain i {\ntype filter hook input priority 0\n\
                 icmp type destination-unreachable drop\nicmpv6 type packet-too-big drop\n}\n}\n",
            );
            host.sysctl("net/ipv4/tcp_mtu_probing", "0");
        }
        let there: [SocketAddr; 2] = ["10.1.0.2:80", "[fd01::2]:80"].map(|a| a.parse().unwrap());
        h1.reaches("10.1.0.2");
        h1.reaches("fd01::2");
        for there in there {
            let stalled = try_transfer(&h1, &h2, there, there, 100_000, Duration::from_secs(3));
            assert!(stalled.is_err(), "it should have stalled");
        }
        for switch in [&switch, &far] {
            assert_eq!(switch.ivctl("network set private --mss-clamp").code, 0);
        }
        let capture = Capture::start(&lab, &h2, "eth0", "tcp");
        for there in there {
            let there = SocketAddr::new(there.ip(), 81);
            transfer(&h1, &h2, there, there, 200_000);
        }
        let packets = capture.stop();
        packets.assert_checksums_right(40);
        let inner = 1500 - underlay.overhead;
        for mss in [inner - 40, inner - 60] {
            assert_eq!(packets.count(&format!("options [mss {mss},")), 1, "{}", packets.text());
        }
    }
}

/// Hosts `h1` and `h2` behind a switch each, all their interfaces with an MTU of 1500.
fn hosts_that_believe_in_1500(
    lab: &Lab,
    underlay: Underlay,
    more: &str,
) -> (Namespace, Namespace, Switch, Switch) {
    let (rvm, far) = underlay_pair(lab, underlay);
    let h1 = host(lab, &rvm, "h1", &["10.1.0.1/24", "fd01::1/64"]);
    let h2 = host(lab, &far, "h2", &["10.1.0.2/24", "fd01::2/64"]);
    let (ours, other) = (underlay.ours, underlay.far);
    let one = Switch::start(lab, &rvm, &config(ours, other, more, &port("h1", "private")));
    let two = Switch::start(lab, &far, &config(other, ours, more, &port("h2", "private")));
    (h1, h2, one, two)
}

/// A kernel as peer does not answer probes: the uplink's MTU is assumed, and reported as assumed. A path MTU in the
/// configuration is believed; and since kernels reassemble fragments, the operator may choose fragments instead.
#[test]
fn a_kernel_peer_gets_fragments_where_chosen() {
    for underlay in [V4, V6] {
        let Some(lab) = Lab::new() else { return };
        let cloud = FarKernel::new(&lab, underlay, true);
        let switch = &cloud.switch;
        let inner = 1500 - underlay.overhead;
        cloud.h1.reaches("10.1.0.2");
        wait_for("the note", || {
            switch.ivctl("mtu").stdout.contains("it does not answer probes; the uplink's 1500 is assumed")
        });
        assert_eq!(path(switch), (1500, "assumed".into()));

        assert_eq!(switch.ivctl("peer set far --mtu 1300").code, 0);
        assert_eq!(path(switch), (1300, "configured".into()));
        let largest = format!("-M do -s {}", inner - 28);
        assert_eq!(cloud.h1.ping(&format!("-c2 -i0.2 -W1 {largest} 10.1.0.2")), 0);
        cloud.h1.ip("route flush cache");

        assert_eq!(switch.ivctl("peer set far --fragment").code, 0);
        let capture = Capture::start(&lab, &cloud.far, "eth0", "ip[6:2] & 0x3fff != 0 or ip6[6] == 44");
        cloud.h1.reaches_with("10.1.0.2", &largest);
        let there = "10.1.0.2:82".parse().unwrap();
        transfer(&cloud.h1, &cloud.h2, there, there, 500_000);
        let packets = capture.stop();
        let fragments = packets.text().lines().filter(|l| !l.starts_with([' ', '\t'])).count();
        assert!(fragments > 300, "only {fragments} fragments:\n{}", packets.text());
    }
}

/// A cloud in a cloud in a cloud in a cloud: three VXLANs inside one another, and every interface has the MTU of 1500
/// that all stacks assume. Each level finds out by itself how much the level below carries.
#[test]
fn nested_three_levels_deep() {
    let Some(lab) = Lab::new() else { return };
    let (mut a, mut b) = underlay_pair(&lab, V4);
    let mut switches = Vec::new();
    for level in 0..3u8 {
        let vtep = |last| format!("10.{}.0.{last}", if level == 0 { 0 } else { 100 + level });
        let mut inside = Vec::new();
        for (rvm, ours, other) in [(&a, 11, 12), (&b, 12, 11)] {
            let name = format!("l{level}n{ours}");
            inside.push(host(&lab, rvm, &name, &[&format!("10.{}.0.{ours}/16", 101 + level)]));
            let text = config(&vtep(ours), &vtep(other), "", &port(&name, "private"));
            switches.push(Switch::start(&lab, rvm, &text));
        }
        b = inside.pop().expect("two");
        a = inside.pop().expect("two");
        a.reaches(&format!("10.{}.0.12", 101 + level));
    }
    for (n, switch) in switches.iter().enumerate() {
        let carried = 1500 - 50 * (n as u64 / 2);
        let found = || path(switch) == (carried, "measured".into());
        assert!(wait_until(BLACK_HOLE, found), "level {}: {}", n / 2, switch.ivctl("mtu").stdout);
    }
    a.reaches_with("10.103.0.12", "-M do -s 1322");
    assert_eq!(a.ping("-c1 -W1 -M do -s 1323 10.103.0.12"), 0);
    let capture = Capture::start(&lab, &b, "eth0", "tcp");
    let there = "10.103.0.12:80".parse().unwrap();
    transfer(&a, &b, there, there, 2_000_000);
    let packets = capture.stop();
    packets.assert_checksums_right(40);
    assert_eq!(packets.count("options [mss 1310,"), 1);
    for (n, switch) in switches.iter().enumerate() {
        let problems: Value = switch.json("mtu")["problems"].clone();
        let of_path = |p: &&Value| p["object"] == "peer \"other\"";
        let noted = problems.as_array().expect("a list").iter().filter(of_path).count();
        assert_eq!(noted, usize::from(n >= 2), "only nested paths are smaller than they look: {problems}");
    }
}
