//! Tunnels, with the kernel's `vxlan` device and Linux bridge as the far side.

use std::net::Ipv4Addr;

use system::{Capture, Lab, Namespace, RawSocket, Switch, transfer, udp_frame};

use crate::topology::{FarKernel, Underlay, V4, V6, host, network, port, underlay_pair};

/// Tests everything that must work between us and the kernel over one kind of underlay.
fn with_the_kernel(underlay: Underlay, checksum: bool) {
    let Some(lab) = Lab::new() else { return };
    let mut cloud = FarKernel::new(&lab, underlay, checksum);
    let (h1, h2) = (&cloud.h1, &cloud.h2);
    h1.reaches("10.1.0.2");
    h2.reaches("10.1.0.1");
    h1.reaches("fd01::2");

    // Every size up to the MTU, with DF, so that a packet in outer fragments does not count.
    let largest = 1500 - underlay.overhead - 28;
    for size in [0, 18, 500, 1000, largest - 1, largest] {
        h1.reaches_with("10.1.0.2", &format!("-M do -s {size}"));
        h2.reaches_with("10.1.0.1", &format!("-M do -s {size}"));
    }

    // Our tunnel packets, where the far kernel receives them; and frames that we deliver, where our host receives
    // them.
    let emitted = Capture::start(&lab, &cloud.far, "eth0", "udp port 4789");
    let delivered = Capture::start(&lab, h1, "eth0", "tcp");
    let (there, back) = ("10.1.0.2:80".parse().unwrap(), "10.1.0.1:80".parse().unwrap());
    transfer(h1, h2, there, there, 60_000);
    transfer(h2, h1, back, back, 60_000);
    let six = "[fd01::2]:80".parse().unwrap();
    transfer(h1, h2, six, six, 60_000);
    delivered.stop().assert_checksums_right(40);
    let emitted = emitted.stop();
    emitted.assert_checksums_right(40);
    let with = emitted.count("[udp sum ok] VXLAN");
    let without = emitted.count("[no cksum] VXLAN") + emitted.count("[bad udp cksum 0x0000 -> ");
    let (wanted, unwanted) = if checksum { (with, without) } else { (without, with) };
    assert!(wanted > 40 && unwanted == 0, "outer checksum {checksum}: {with} with, {without} without");
    // Source ports spread with the flow, within the dynamic range.
    assert_eq!(emitted.count("VXLAN"), emitted.count("vni 100"), "{}", emitted.text());

    let there = "10.1.0.2:81".parse().unwrap();
    transfer(h1, h2, there, there, 50_000_000);
    cloud.switch.assert_running();
}

#[test]
fn i46_vxlan_with_the_kernel_over_ipv4() {
    with_the_kernel(V4, false);
}

#[test]
fn i46_vxlan_with_the_kernel_over_ipv4_with_outer_checksums() {
    with_the_kernel(V4, true);
}

#[test]
fn i46_vxlan_with_the_kernel_over_ipv6() {
    with_the_kernel(V6, true);
}

#[test]
fn i46_vxlan_with_the_kernel_over_ipv6_without_outer_checksums() {
    with_the_kernel(V6, false);
}

/// A tagged frame crosses the tunnel with its tag, both ways: MTU-sized, and with two tags.
#[test]
fn r19_vlan_tags_cross_the_tunnel() {
    let Some(lab) = Lab::new() else { return };
    let cloud = FarKernel::new(&lab, V4, false);
    cloud.h1.reaches("10.1.0.2");
    for (source, destination) in [(&cloud.h1, &cloud.h2), (&cloud.h2, &cloud.h1)] {
        let end = |host: &Namespace| (host.mac("eth0"), Ipv4Addr::new(10, 10, 0, 1), 5000);
        let from = RawSocket::open(source, "eth0");
        let capture =
            Capture::start(&lab, destination, "eth0", "ether proto 0x8100 or ether proto 0x88a8 or vlan");
        for _ in 0..20 {
            // The tag's four bytes have to fit the tunnel's MTU of 1450 too.
            from.must_send(&udp_frame(end(source), end(destination), &[10], &[7; 1418]));
            from.must_send(&udp_frame(end(source), end(destination), &[20, 30], &[7; 100]));
        }
        let packets = capture.stop();
        for tag in ["vlan 10, ", "vlan 20, ", "vlan 30, "] {
            assert_eq!(packets.count(tag), 20, "frames with {tag}{}", packets.text());
        }
        packets.assert_checksums_right(40);
    }
}

/// Two of our switches, the largest VNI, another UDP port.
#[test]
fn i23_two_switches() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    let h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24", "fd01::1/64"]);
    let h2 = host(&lab, &far, "h2", &["10.1.0.2/24", "fd01::2/64"]);
    for host in [&h1, &h2] {
        host.ip("link set eth0 mtu 1450");
    }
    let config = |ours: &str, other: &str, guest: &str| {
        format!(
            "name = \"at-{ours}\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{ours}\"\nport = 8472\n{}{}\
             [[peer]]\nname = \"at-{other}\"\naddress = \"{other}\"\n",
            network("private", 16_777_215),
            port(guest, "private")
        )
    };
    let mut one = Switch::start(&lab, &rvm, &config(V4.ours, V4.far, "h1"));
    let mut two = Switch::start(&lab, &far, &config(V4.far, V4.ours, "h2"));
    h1.reaches("10.1.0.2");
    h1.reaches("fd01::2");
    for size in [0, 500, 1421, 1422] {
        h1.reaches_with("10.1.0.2", &format!("-M do -s {size}"));
    }
    let (there, back) = ("10.1.0.2:80".parse().unwrap(), "10.1.0.1:80".parse().unwrap());
    let (at_h1, at_h2) = (Capture::start(&lab, &h1, "eth0", "tcp"), Capture::start(&lab, &h2, "eth0", "tcp"));
    transfer(&h1, &h2, there, there, 60_000);
    transfer(&h2, &h1, back, back, 60_000);
    at_h1.stop().assert_checksums_right(20);
    at_h2.stop().assert_checksums_right(20);
    transfer(&h1, &h2, there, there, 50_000_000);
    one.assert_running();
    two.assert_running();
}
