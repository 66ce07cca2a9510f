//! Switching between ports of one rVM, with the default offload settings everywhere.

use std::net::Ipv4Addr;

use system::{Capture, Lab, Namespace, RawSocket, Switch, transfer, udp_frame, wait_for};

use crate::topology::{host, network, port};

/// Two hosts on two AF_XDP ports of one network: every size up to the MTU arrives whole, TCP moves
/// 60 kB and 50 MB each way intact, over IPv4 and IPv6, and no checksum that leaves us is wrong.
#[test]
fn l2_between_two_local_ports() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24", "fd01::1/64"]);
    let h3 = host(&lab, &rvm, "h3", &["10.1.0.3/24", "fd01::3/64"]);
    let config = network("private", 100) + &port("h1", "private") + &port("h3", "private");
    let mut switch = Switch::start(&lab, &rvm, &config);

    h1.reaches("10.1.0.3");
    h1.reaches("fd01::3");
    for size in [0, 1, 18, 100, 1000, 1471, 1472] {
        h1.reaches_with("10.1.0.3", &format!("-M do -s {size}"));
    }

    let (at_h1, at_h3) =
        (Capture::start(&lab, &h1, "eth0", "not arp"), Capture::start(&lab, &h3, "eth0", "not arp"));
    for address in ["10.1.0.3:80", "[fd01::3]:80"] {
        let address = address.parse().unwrap();
        transfer(&h1, &h3, address, address, 60_000);
    }
    at_h1.stop().assert_checksums_right(40);
    at_h3.stop().assert_checksums_right(40);
    let address = "10.1.0.3:81".parse().unwrap();
    transfer(&h1, &h3, address, address, 50_000_000);
    switch.assert_running();
}

/// Frames that a CMS tags behind its door arrive with their tags: 802.1Q, and 802.1ad around it.
#[test]
fn r19_vlan_tags_pass_unchanged() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let h3 = host(&lab, &rvm, "h3", &["10.1.0.3/24"]);
    let config = network("private", 100) + &port("h1", "private") + &port("h3", "private");
    let _switch = Switch::start(&lab, &rvm, &config);
    h1.reaches("10.1.0.3");
    tags_arrive(&lab, &RawSocket::open(&h1, "eth0"), &h1, &h3);
}

/// The same from behind a Linux bridge on a door, where a CMS's tags come from. A bridge keeps the tag in metadata
/// next to the packet (as the kernel does wherever it may): it must not be lost.
#[test]
fn i30_vlan_tags_of_a_cms_bridge_pass_the_door() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let h3 = host(&lab, &rvm, "h3", &["10.1.0.3/24"]);
    let config = network("private", 100)
        + "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\n"
        + &port("h3", "private");
    let _switch = Switch::start(&lab, &rvm, &config);
    wait_for("the door", || rvm.has_link("eth1"));
    let vm = host(&lab, &rvm, "vm", &["10.1.0.1/24"]);
    rvm.ip("link add br1 type bridge");
    for interface in ["eth1", "p-vm"] {
        rvm.ip(&format!("link set {interface} master br1"));
    }
    rvm.ip("link set br1 up");
    vm.reaches("10.1.0.3");
    tags_arrive(&lab, &RawSocket::open(&vm, "eth0"), &vm, &h3);
}

/// Sends frames with one and two tags from one host and checks how they arrive at the other.
fn tags_arrive(lab: &Lab, from: &RawSocket, source: &Namespace, destination: &Namespace) {
    let end = |host: &Namespace, last| (host.mac("eth0"), Ipv4Addr::new(10, 10, 0, last), 5000);
    let capture =
        Capture::start(lab, destination, "eth0", "ether proto 0x8100 or ether proto 0x88a8 or vlan");
    for _ in 0..20 {
        for vlans in [&[10][..], &[4094], &[20, 30]] {
            from.must_send(&udp_frame(end(source, 1), end(destination, 3), vlans, &[7; 100]));
        }
    }
    let packets = capture.stop();
    for tag in ["vlan 10, ", "vlan 4094, ", "vlan 20, ", "vlan 30, "] {
        assert_eq!(packets.count(tag), 20, "frames with {tag}{}", packets.text());
    }
    packets.assert_checksums_right(60);
}

/// Two networks with the same addresses, MAC and IP, on one switch: each host reaches its own
/// neighbour, and no frame of one network is seen in the other.
#[test]
fn r05_networks_with_the_same_addresses_never_meet() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let host = |name: &str, last: u8| {
        let host = host(&lab, &rvm, name, &[&format!("10.1.0.{last}/24")]);
        host.ip(&format!("link set eth0 address 02:00:00:00:00:0{last}"));
        host
    };
    let (red1, red2, blue1, blue2) = (host("r1", 1), host("r2", 2), host("b1", 1), host("b2", 2));
    let config = network("red", 100)
        + &network("blue", 101)
        + &port("r1", "red")
        + &port("r2", "red")
        + &port("b1", "blue")
        + &port("b2", "blue");
    let _switch = Switch::start(&lab, &rvm, &config);
    red1.reaches("10.1.0.2");
    blue1.reaches("10.1.0.2");

    let capture = Capture::start(&lab, &blue2, "eth0", "icmp or arp");
    red1.ip("neigh flush dev eth0");
    assert_eq!(red1.ping("-c10 -i0.1 -W1 10.1.0.2"), 10);
    assert_eq!(red1.ping("-c3 -i0.1 -W1 10.1.0.77"), 0, "nobody there: broadcast ARP in red");
    let packets = capture.stop();
    assert!(packets.text().is_empty(), "seen in blue: {}", packets.text());
    // In the network that has lost its second host, the other network's is not found.
    red2.ip("link set eth0 down");
    wait_for("red to be alone", || red1.ping("-c1 -W1 10.1.0.2") == 0);
    blue1.reaches("10.1.0.2");
}
