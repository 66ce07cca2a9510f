//! Bulk TCP through the drivers that carry GSO packets. Every link outside of the switches behaves like a wire:
//! frames of its MTU with finished checksums, as the kernel makes them from the packets that it gets. So any mistake
//! of the switches about an unfinished frame shows as a wrong checksum or as damaged data.

use std::net::Ipv4Addr;

use serde_json::Value;
use system::{Capture, Lab, Namespace, RawSocket, Switch, transfer, udp_frame, vxlan, wait_for};

use crate::topology::{V4, finished, host, network, underlay_pair};

/// A host behind a door that the daemon makes; both are in the bridge of a CMS.
fn behind_a_door(lab: &Lab, rvm: &Namespace, name: &str, addresses: &[&str]) -> Namespace {
    wait_for("the door eth1", || rvm.has_link("eth1"));
    let host = host(lab, rvm, name, addresses);
    host.ip("link set eth0 mtu 1450");
    let wire = format!("p-{name}");
    finished(rvm, &wire);
    rvm.ip("link add br1 type bridge");
    rvm.ip("link set br1 up");
    for port in ["eth1", &wire] {
        rvm.ip(&format!("link set {port} master br1"));
    }
    host
}

/// Mean length of the frames that a port received and sent.
fn mean_len(switch: &Switch, port: &str) -> (u64, u64) {
    let status = switch.counters_at_rest();
    let rows = status["ports"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["ifname"] == port).expect("the port");
    let mean = |way: &Value| {
        way["bytes"].as_u64().expect("bytes") / way["packets"].as_u64().expect("packets").max(1)
    };
    (mean(&row["stats64"]["rx"]), mean(&row["stats64"]["tx"]))
}

/// Frames longer than the wire's MTU.
fn too_long(text: &str) -> Option<&str> {
    let len = |line: &str| line.split_once(", length ")?.1.split(':').next()?.parse::<u32>().ok();
    text.lines().filter(|line| !line.starts_with(char::is_whitespace)).find(|line| len(line) > Some(1514))
}

/// UDP GSO packets of ten datagrams each arrive as ten datagrams, with right checksums on the way and at the end.
fn udp_super_frames(lab: &Lab, (h1, h2): (&Namespace, &Namespace), underlay: &Namespace) {
    const DATAGRAM: u16 = 1000;
    const SUPER_FRAMES: usize = 40;
    const NEEDS_CSUM: u8 = 1;
    const GSO_UDP_L4: u8 = 5;
    let (from, to) = (Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 0, 2));
    let payload = vec![0x69; usize::from(DATAGRAM) * 10];
    let mut frame = udp_frame((h1.mac("eth0"), from, 9), (h2.mac("eth0"), to, 9), &[], &payload);
    let pseudo = frame[26..34].chunks(2).chain([&[0, 17][..], &frame[38..40]]);
    let sum = pseudo.map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[40..42].copy_from_slice(&(((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let mut bytes = vec![NEEDS_CSUM, GSO_UDP_L4];
    bytes.extend([42, DATAGRAM, 34, 6].into_iter().flat_map(u16::to_le_bytes));
    bytes.extend(frame);
    let raw = RawSocket::with_headers(h1, "eth0");
    let on_the_way = Capture::start(lab, underlay, "eth0", "udp port 4789");
    let arrived = Capture::start(lab, h2, "eth0", "udp port 9");
    for _ in 0..SUPER_FRAMES {
        raw.must_send(&bytes);
        // As many as fit the socket buffers, on the way and at the end.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    for packets in [on_the_way.stop(), arrived.stop()] {
        packets.assert_checksums_right(SUPER_FRAMES * 10);
        assert_eq!(packets.count("10.1.0.1.9 > 10.1.0.2.9"), SUPER_FRAMES * 10);
    }
}

/// Packets that a device of the kernel decapsulates from tunnel packets for any network, sent to it from `far`.
fn delivered_by(device: &str, rvm: &Namespace, far: &Namespace) -> u64 {
    let (ours, theirs) = (Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(10, 0, 0, 12));
    let inner = udp_frame((far.mac("eth0"), theirs, 7), (rvm.mac(device), ours, 7), &[], b"in");
    let raw = RawSocket::open(far, "eth0");
    for vni in [0, 100, 0xff_ffff] {
        let (from, to) = ((far.mac("eth0"), theirs, 50_000), (rvm.mac("eth0"), ours, 4789));
        raw.must_send(&udp_frame(from, to, &[], &vxlan(8, vni, 0, &inner)));
    }
    far.reaches("10.0.0.11");
    rvm.ip_json(&format!("link show {device}"))[0]["stats64"]["rx"]["packets"].as_u64().expect("a counter")
}

fn bulk_through_the_tunnel(door: &str, uplink: &str) {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    finished(&rvm, "eth0");
    finished(&far, "eth0");
    let config = |name: &str, ours: &str, other: &str| {
        format!(
            "name = \"{name}\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{ours}\"\nkind = \"{uplink}\"\n{}\
             [[port]]\nname = \"eth1\"\nnetwork = \"private\"\nkind = \"{door}\"\n\
             [[peer]]\nname = \"peer\"\naddress = \"{other}\"\n",
            network("private", 100),
        )
    };
    let mut one = Switch::start(&lab, &rvm, &config("one", V4.ours, V4.far));
    let mut two = Switch::start(&lab, &far, &config("two", V4.far, V4.ours));
    let h1 = behind_a_door(&lab, &rvm, "h1", &["10.1.0.1/24", "fd01::1/64"]);
    let h2 = behind_a_door(&lab, &far, "h2", &["10.1.0.2/24", "fd01::2/64"]);
    one.wait_live(&["eth1", "uplink"]);
    two.wait_live(&["eth1", "uplink"]);
    h1.reaches("10.1.0.2");
    h1.reaches("fd01::2");
    h1.reaches_with("10.1.0.2", "-M do -s 1422");

    let emitted = Capture::start(&lab, &far, "eth0", "udp port 4789");
    let (at_h1, at_h2) = (Capture::start(&lab, &h1, "eth0", "tcp"), Capture::start(&lab, &h2, "eth0", "tcp"));
    let (there, back) = ("10.1.0.2:80".parse().unwrap(), "10.1.0.1:80".parse().unwrap());
    let six = "[fd01::2]:80".parse().unwrap();
    transfer(&h1, &h2, there, there, 1_000_000);
    transfer(&h2, &h1, back, back, 1_000_000);
    transfer(&h1, &h2, six, six, 1_000_000);
    for packets in [emitted.stop(), at_h1.stop(), at_h2.stop()] {
        packets.assert_checksums_right(500);
        assert_eq!(too_long(packets.text()), None);
    }

    udp_super_frames(&lab, (&h1, &h2), &far);
    // With a NIC's default settings.
    for namespace in [&rvm, &far] {
        let done = namespace.command("ethtool").args(["-K", "eth0", "gro", "on"]).status();
        assert!(done.expect("running ethtool").success());
    }
    let there = "10.1.0.2:81".parse().unwrap();
    transfer(&h1, &h2, there, there, 50_000_000);
    for switch in [&mut one, &mut two] {
        switch.assert_running();
        let (door, uplink) = (mean_len(switch, "eth1"), mean_len(switch, "uplink"));
        // Acknowledgments count too, and are half of all frames.
        assert!(door.0 > 3000 && uplink.1 > 3000, "cut too early: door {door:?}, uplink {uplink:?}");
        assert_eq!(switch.drops("eth1", "offload-invalid"), 0);
    }
    if uplink == "packet" {
        let len = mean_len(&two, "uplink").0;
        assert!(len > 3000, "the kernel did not merge what came in: {len}");
        one.kill();
        // The device that stays behind coalesces, but delivers nothing.
        assert_eq!(delivered_by("ivs-gro4789", &rvm, &far), 0);
        one.start_again();
        one.wait_live(&["uplink"]);
        h1.reaches("10.1.0.2");
        one.terminate();
        assert!(!rvm.has_link("ivs-gro4789"));
    }
}

#[test]
fn bulk_through_the_tunnel_by_packet() {
    bulk_through_the_tunnel("packet", "packet");
}

#[test]
fn bulk_through_the_tunnel_by_tap_and_udp() {
    bulk_through_the_tunnel("tap", "udp");
}

/// A NIC without segmentation offload: the kernel segments the GSO packets that the switch sends.
#[test]
fn a_packet_port_on_an_interface_without_offloads() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let hosts = ["h1", "h2"].map(|name| host(&lab, &rvm, name, &[&format!("10.1.0.{}/24", &name[1..])]));
    let port = |name: &str| crate::topology::port(name, "private") + "kind = \"packet\"\n";
    finished(&rvm, "p-h2");
    let config = format!("name = \"rvm\"\n{}{}{}", network("private", 100), port("h1"), port("h2"));
    let mut switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["h1", "h2"]);
    let [h1, h2] = &hosts;
    h1.reaches("10.1.0.2");
    let delivered = Capture::start(&lab, h2, "eth0", "tcp");
    let there = "10.1.0.2:80".parse().unwrap();
    transfer(h1, h2, there, there, 2_000_000);
    let delivered = delivered.stop();
    delivered.assert_checksums_right(1000);
    assert_eq!(too_long(delivered.text()), None);
    assert!(mean_len(&switch, "h1").0 > 3000, "it came whole");
    assert_eq!(switch.drops("h2", "kernel-tx-invalid"), 0);
    switch.assert_running();
}

/// The kind of a door is changed while the daemon runs: the door is made again where necessary, with its address, and
/// goes on working.
#[test]
fn a_door_changes_its_kind() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let config = format!(
        "name = \"rvm\"\n{}{}[[port]]\nname = \"eth1\"\nnetwork = \"private\"\naddress = [\"10.1.0.9/24\"]\n",
        network("private", 100),
        crate::topology::port("h1", "private")
    );
    let mut switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["h1", "eth1"]);
    h1.reaches("10.1.0.9");
    let there = "10.1.0.9:80".parse().unwrap();
    for kind in ["packet", "tap", "afxdp", "tap", "packet", "afxdp"] {
        let answer = switch.ivctl(&format!("port set eth1 --kind {kind}"));
        // 8: done, with a warning that the interface is missing while it is made again.
        assert!([0, 8].contains(&answer.code), "{kind}: {answer:?}");
        switch.wait_live(&["eth1"]);
        h1.reaches("10.1.0.9");
        transfer(&h1, &rvm, there, there, 1_000_000);
        switch.assert_running();
    }
    switch.counters_at_rest();
}
