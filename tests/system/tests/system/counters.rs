//! Every frame is accounted for on real interfaces too, and hostile frames are counted under the right reason.

use std::net::Ipv4Addr;

use system::{Lab, Namespace, RawSocket, transfer, udp_frame, vxlan, wait_for};

use crate::topology::{FarKernel, V4, host, network, port};
use system::Switch;

/// Packets that an interface has received and sent, by the kernel's counters.
fn kernel_counts(namespace: &Namespace, interface: &str) -> (u64, u64) {
    let stats = &namespace.ip_json(&format!("link show {interface}"))[0]["stats64"];
    let count = |way: &str| stats[way]["packets"].as_u64().expect("a counter");
    (count("rx"), count("tx"))
}

/// Packets that a port has received and sent, by the switch's counters.
fn switch_counts(status: &serde_json::Value, port: &str) -> (u64, u64) {
    let rows = status["ports"].as_array().expect("ports");
    let stats = &rows.iter().find(|row| row["ifname"] == port).expect("the port")["stats64"];
    let count = |way: &str| stats[way]["packets"].as_u64().expect("a counter");
    (count("rx"), count("tx"))
}

/// After mixed traffic (known, unknown and broadcast destinations, TCP, drops on purpose): rx + replicated +
/// originated + segmented = tx + dropped + punted + consumed + coalesced, exactly. Each port's counters agree exactly
/// with the kernel's at the other end of the veth.
#[test]
fn counters_add_up_and_agree_with_the_kernel() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let hosts =
        ["h1", "h2", "h3"].map(|name| host(&lab, &rvm, name, &[&format!("10.1.0.{}/24", &name[1..])]));
    for host in &hosts {
        // Only frames of this test must be counted.
        host.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
    }
    for name in ["h1", "h2", "h3"] {
        rvm.sysctl(&format!("net/ipv6/conf/p-{name}/disable_ipv6"), "1");
    }
    let config = network("private", 100)
        + &port("h1", "private")
        + &port("h2", "private")
        + &port("h3", "private")
        + "bum_pps = 100\n";
    let switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["h1", "h2", "h3"]);
    let status = switch.counters_at_rest();
    let start = ["h1", "h2", "h3"].map(|name| switch_counts(&status, name));
    let kernel_start = hosts.each_ref().map(|host| kernel_counts(host, "eth0"));

    hosts[0].reaches("10.1.0.2");
    let there = "10.1.0.2:80".parse().unwrap();
    transfer(&hosts[0], &hosts[1], there, there, 1_000_000);
    let raw = RawSocket::open(&hosts[2], "eth0");
    let source = (hosts[2].mac("eth0"), Ipv4Addr::new(10, 1, 0, 3), 5000);
    for n in 0..600u32 {
        let [_, _, a, b] = n.to_be_bytes();
        let destination = match n % 3 {
            0 => [0xff; 6],
            1 => [2, 9, 9, 9, a, b],
            _ => [1, 0x80, 0xc2, 0, 0, 0],
        };
        raw.must_send(&udp_frame(source, (destination, Ipv4Addr::new(10, 1, 0, 99), 5000), &[], &[1; 64]));
    }

    let mut status = switch.counters_at_rest();
    let sent = || kernel_counts(&hosts[2], "eth0").1 - kernel_start[2].1;
    wait_for("every frame to be counted", || {
        status = switch.counters_at_rest();
        switch_counts(&status, "h3").0 - start[2].0 == sent()
    });
    for (index, name) in ["h1", "h2", "h3"].into_iter().enumerate() {
        let ours = switch_counts(&status, name);
        let kernel = kernel_counts(&hosts[index], "eth0");
        assert_eq!(ours.0 - start[index].0, kernel.1 - kernel_start[index].1, "{name}: we received, it sent");
        assert_eq!(ours.1 - start[index].1, kernel.0 - kernel_start[index].0, "{name}: we sent, it received");
    }
    assert_eq!(switch.drops("h3", "link-local-group"), 200);
    assert!(switch.drops("h3", "bum-rate-limit") > 100, "{}", switch.ivctl("drops").stdout);
}

/// Sends a frame five times and waits until exactly that many drops for this reason are counted.
#[track_caller]
fn dropped_as(switch: &Switch, port: &str, reason: &str, raw: &RawSocket, frame: &[u8]) {
    let before = switch.drops(port, reason);
    for _ in 0..5 {
        raw.must_send(frame);
    }
    wait_for(&format!("5 drops for {reason}"), || switch.drops(port, reason) >= before + 5);
    assert_eq!(switch.drops(port, reason), before + 5, "{reason}");
}

/// Frames that a well-behaved stack never sends, from the underlay and from a host: each is a drop counted under its
/// own reason, none is delivered, and the daemon goes on forwarding.
#[test]
fn hostile_frames_are_counted_drops() {
    let Some(lab) = Lab::new() else { return };
    let FarKernel { rvm, far, h1, h2: _h2, mut switch } = FarKernel::new(&lab, V4, false);
    h1.reaches("10.1.0.2");
    let (ours, theirs) = (rvm.mac("eth0"), far.mac("eth0"));
    let (from_far, from_host) = (RawSocket::open(&far, "eth0"), RawSocket::open(&h1, "eth0"));
    let vtep = |last| (theirs, Ipv4Addr::new(10, 0, 0, last), 50_000);
    let to = (ours, Ipv4Addr::new(10, 0, 0, 11), 4789);
    let h1_end = (h1.mac("eth0"), Ipv4Addr::new(10, 1, 0, 1), 7);
    let inner = udp_frame(([2, 0, 0, 0, 0, 2], Ipv4Addr::new(10, 1, 0, 2), 7), h1_end, &[], b"hello");
    let outer = |from, payload: &[u8]| udp_frame(from, to, &[], payload);

    let delivered = system::Capture::start(&lab, &h1, "eth0", "udp");
    let uplink = |reason: &str, frame: &[u8]| dropped_as(&switch, "uplink", reason, &from_far, frame);
    uplink("unknown-peer", &outer(vtep(99), &vxlan(8, 100, 0, &inner)));
    uplink("unknown-vni", &outer(vtep(12), &vxlan(8, 999, 0, &inner)));
    uplink("vxlan-header", &outer(vtep(12), &vxlan(0, 100, 0, &inner)));
    uplink("vxlan-header", &outer(vtep(12), &vxlan(0xff, 100, 0, &inner)));
    uplink("vxlan-header", &outer(vtep(12), &vxlan(8, 100, 1, &inner)));
    uplink("outer-malformed", &outer(vtep(12), &[8, 0, 0, 0]));
    uplink("inner-malformed", &outer(vtep(12), &vxlan(8, 100, 0, &inner[..10])));
    // A UDP length beyond the packet's end.
    let mut lie = outer(vtep(12), &vxlan(8, 100, 0, &inner));
    lie[38..40].copy_from_slice(&2000u16.to_be_bytes());
    uplink("outer-malformed", &lie);
    // A group address as inner source; a link-local group as destination.
    let mut group = inner.clone();
    group[6] |= 1;
    uplink("source-mac-invalid", &outer(vtep(12), &vxlan(8, 100, 0, &group)));

    let host = |reason: &str, frame: &[u8]| dropped_as(&switch, "h1", reason, &from_host, frame);
    let mut frame = udp_frame(h1_end, ([2, 0, 0, 0, 0, 9], Ipv4Addr::new(10, 1, 0, 9), 7), &[], &[0; 40]);
    frame[6] |= 1;
    host("source-mac-invalid", &frame);
    frame[6..12].fill(0);
    host("source-mac-invalid", &frame);
    frame[6..12].copy_from_slice(&h1_end.0);
    frame[..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, 0x0e]);
    host("link-local-group", &frame);

    // A valid one, to show that the others were dropped for their fault alone.
    assert_eq!(delivered.stop().text(), "", "nothing of that was delivered");
    let delivered = system::Capture::start(&lab, &h1, "eth0", "udp");
    from_far.must_send(&outer(vtep(12), &vxlan(8, 100, 0, &inner)));
    assert_eq!(delivered.stop().count("10.1.0.2.7 > 10.1.0.1.7"), 1);

    // Noise: every length, every byte, as tunnel packets and as host frames. None of it does harm.
    let mut noise = 0x9e37_79b9_u32;
    for n in 0..4000usize {
        let bytes: Vec<u8> = (0..n % 300)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 17;
                noise ^= noise << 5;
                noise as u8
            })
            .collect();
        let mut tunnel = outer(vtep(12), &vxlan(8, 100, 0, &bytes));
        if n % 3 == 0 {
            let at = 14 + (noise as usize) % 36;
            tunnel[at] = noise as u8;
        }
        from_far.must_send(&tunnel);
        let mut frame = h1_end.0.to_vec();
        frame.splice(..0, [2, 0, 0, 0, 0, 9]);
        frame.extend([0x08, [0x00, 0x06, 0xdd][n % 3]]);
        frame.extend(&bytes);
        from_host.must_send(&frame);
    }
    switch.assert_running();
    h1.reaches("10.1.0.2");
    switch.counters_at_rest();
}
