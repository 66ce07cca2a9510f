//! Attacks of the threat model (T in `tests/REQUIREMENTS.md`) on real interfaces, with counts scaled to the time that
//! a test may take. Other threats are stories in `tests/scenarios`.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use system::{
    Capture, Lab, Namespace, RawSocket, Stream, Switch, binaries, rounds, udp_frame, vxlan, wait_for,
    wait_until,
};

use crate::topology::{FarKernel, V4, finished, host, network, port};

/// Random numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A unicast MAC address, locally administered.
    fn mac(&mut self) -> [u8; 6] {
        let [a, b, c, d, e, ..] = self.next().to_le_bytes();
        [0x06, a, b, c, d, e]
    }
}

pub fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A frame with these MAC addresses, EtherType and payload, padded to the minimum size.
pub fn frame(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from[..], &ethertype.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

pub const BROADCAST: [u8; 6] = [0xff; 6];

/// An attacker `h1` (10.1.0.1) and two other hosts, h3 and h5, on one network.
pub struct Victims {
    pub rvm: Namespace,
    pub h1: Namespace,
    pub h3: Namespace,
    pub h5: Namespace,
    pub switch: Switch,
    pub raw: RawSocket,
}

pub fn victims(lab: &Lab, attacker: impl Fn(&Namespace) -> String, extra: &str) -> Victims {
    let rvm = lab.namespace("rvm");
    let [h1, h3, h5] = [("h1", 1), ("h3", 3), ("h5", 5)].map(|(name, last)| {
        host(lab, &rvm, name, &[&format!("10.1.0.{last}/24"), &format!("fd01::{last}/64")])
    });
    let config = network("private", 100)
        + extra
        + &port("h1", "private")
        + &attacker(&h1)
        + &port("h3", "private")
        + &port("h5", "private");
    let switch = Switch::start(lab, &rvm, &config);
    switch.wait_live(&["h1", "h3", "h5"]);
    h3.reaches("10.1.0.5");
    let raw = RawSocket::open(&h1, "eth0");
    Victims { rvm, h1, h3, h5, switch, raw }
}

pub fn as_guest(h1: &Namespace) -> String {
    format!("role = \"guest\"\nmac = [\"{}\"]\nip = [\"10.1.0.1\", \"fd01::1\"]\n", text(h1.mac("eth0")))
}

/// 40,000 source MACs from one port: it sees no frame between other ports, and their traffic is not disturbed.
#[test]
fn t01_a_mac_flood_shows_nothing_of_others() {
    let Some(lab) = Lab::new() else { return };
    let Victims { h1, h3, h5, switch, raw, .. } = victims(&lab, |_| "fdb_max = 512\n".into(), "");
    let stream = Stream::start(&h3, &h5, "10.1.0.5:9".parse().unwrap(), 2000);
    stream.wait_more(100, "at the start");
    let seen = Capture::start(&lab, &h1, "eth0", "udp port 9");
    let (mut random, to) = (Random(1), h5.mac("eth0"));
    let sent = rounds(40_000).filter(|_| raw.send(&frame(to, random.mac(), 0x88b5, &[])).is_ok()).count();
    let report = stream.finish();
    println!("t01: {sent} MACs; the victims' stream: {report}");
    assert_eq!(seen.stop().text(), "", "frames between others at the attacker's port");
    assert!(report.share() >= 0.98, "{report}");
    let held = switch.json("fdb list --port h1").as_array().expect("rows").len();
    assert!(held <= 512, "{held} entries are the attacker's");
}

/// A guest takes a neighbour's MAC address: the neighbour loses nothing, and every attempt is counted.
#[test]
fn t02_stealing_a_mac_address_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let Victims { h1, h3, h5, switch, raw, .. } = victims(&lab, as_guest, "");
    let stream = Stream::start(&h3, &h5, "10.1.0.5:9".parse().unwrap(), 2000);
    stream.wait_more(100, "at the start");
    let seen = Capture::start(&lab, &h1, "eth0", "udp port 9");
    let stolen = frame(BROADCAST, h5.mac("eth0"), 0x88b5, &[]);
    let sent = rounds(20_000).filter(|_| raw.send(&stolen).is_ok()).count() as u64;
    let report = stream.finish();
    println!("t02: {sent} frames under a stolen MAC; its owner: {report}");
    assert!(report.lost() < 10, "{report}");
    assert_eq!(seen.stop().text(), "");
    let refused = || switch.drops("h1", "spoofed-mac");
    assert!(wait_until(Duration::from_secs(5), || refused() >= sent * 9 / 10), "{}", refused());
}

pub fn total_drops(switch: &Switch, port: &str) -> u64 {
    let status = switch.json("status");
    let rows = status["drops"].as_array().cloned().unwrap_or_default();
    rows.iter().filter(|row| row["port"] == port).map(|row| row["count"].as_u64().expect("a counter")).sum()
}

/// Every stack of up to three tags, from an access port: only untagged and priority-tagged frames arrive.
#[test]
fn t04_every_stack_of_tags_from_an_access_port() {
    let Some(lab) = Lab::new() else { return };
    let Victims { h1, h3: _h3, h5, switch, raw, .. } =
        victims(&lab, |_| "vlan = { access = 10 }\n".into(), "");
    let (tpids, vids) = ([0x8100_u16, 0x88a8, 0x9100], [0_u16, 1, 10, 20, 4094, 4095]);
    let tag = |n: usize| (tpids[n % 3], vids[n / 3 % 6]);
    let mut stacks: Vec<Vec<(u16, u16)>> = vec![vec![]];
    for a in 0..18 {
        stacks.push(vec![tag(a)]);
        for b in 0..18 {
            stacks.push(vec![tag(a), tag(b)]);
            stacks.extend((0..18).step_by(7).map(|c| vec![tag(a), tag(b), tag(c)]));
        }
    }
    // h5 accepts frames with any tags: every frame that arrives there came in as VLAN 10.
    let seen = Capture::start(&lab, &h5, "eth0", &format!("ether src {}", text(h1.mac("eth0"))));
    let own = h1.mac("eth0");
    for (number, stack) in stacks.iter().enumerate() {
        let mut bytes = [&BROADCAST[..], &own].concat();
        for (tpid, vid) in stack {
            bytes.extend(tpid.to_be_bytes());
            bytes.extend(vid.to_be_bytes());
        }
        bytes.extend(0x88b5_u16.to_be_bytes());
        bytes.extend((number as u32).to_be_bytes());
        bytes.resize(80, 0);
        raw.must_send(&bytes);
    }
    let refused = || switch.drops("h1", "vlan-not-allowed");
    wait_for("the refusals to be counted", || refused() > 300);
    let packets = seen.stop();
    // The outermost tag of a frame that arrived is always the access port's own.
    let outermost =
        |line: &str| line.split("vlan ").nth(1).and_then(|rest| rest.split(',').next().map(str::to_owned));
    let tags: std::collections::BTreeSet<_> = packets.text().lines().filter_map(outermost).collect();
    println!("t04: {} stacks of tags, {} refused; arrived under VLAN {tags:?}", stacks.len(), refused());
    assert_eq!(tags.iter().map(String::as_str).collect::<Vec<_>>(), ["10"], "{}", packets.text());
}

/// Bridge, pause, LACP and LLDP frames, at a rate, from a guest and from a door: not one is delivered.
#[test]
fn t05_link_local_groups_are_not_forwarded() {
    let Some(lab) = Lab::new() else { return };
    let Victims { h1, h3, h5, switch, raw, .. } = victims(&lab, as_guest, "");
    let seen = [&h3, &h5].map(|h| Capture::start(&lab, h, "eth0", "ether[0:4] = 0x0180c200"));
    let own = h1.mac("eth0");
    let superior = [0x42, 0x42, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for n in 0..4000_u32 {
        raw.must_send(&frame([1, 0x80, 0xc2, 0, 0, (n % 16) as u8], own, 0x0026, &superior));
    }
    let counted = || switch.drops("h1", "link-local-group");
    wait_for("all to be counted", || counted() >= 3900);
    for seen in seen {
        assert_eq!(seen.stop().text(), "");
    }
    println!("t05: 4000 link-local frames, 0 delivered, {} counted", counted());
}

/// Frames that are truncated, too long, with wrong length fields or with changed bytes, from a guest and from a door:
/// the switch goes on, every frame is counted, and others lose next to nothing.
#[test]
fn t06_malformed_frames() {
    let Some(lab) = Lab::new() else { return };
    let Victims { h1, h3, h5, mut switch, raw, .. } = victims(&lab, as_guest, "");
    let stream = Stream::start(&h3, &h5, "10.1.0.5:9".parse().unwrap(), 2000);
    stream.wait_more(100, "at the start");
    let address = |last| Ipv4Addr::new(10, 1, 0, last);
    let udp = udp_frame((h1.mac("eth0"), address(1), 7), (h3.mac("eth0"), address(3), 7), &[], &[7; 200]);
    let mut v6 = [&h3.mac("eth0")[..], &h1.mac("eth0"), &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 60, 0, 64]].concat();
    v6.extend([[0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0xfd; 16]].concat());
    v6.resize(114, 0);
    let (mut random, mut sent) = (Random(6), 0_u64);
    for n in rounds(20_000) {
        let mut bytes = [&udp, &v6][n as usize % 2].clone();
        for _ in 0..=random.next() % 4 {
            // The MAC addresses stay: otherwise their guards would hide the code behind them.
            let at = 12 + random.next() as usize % (bytes.len() - 12);
            bytes[at] = random.next() as u8;
        }
        match n % 5 {
            0 => bytes.truncate(14 + random.next() as usize % (bytes.len() - 14)),
            1 => bytes.resize(bytes.len() + random.next() as usize % 1200, 0xaa),
            // The length that the header claims.
            2 => bytes[16..18].copy_from_slice(&(random.next() as u16).to_be_bytes()),
            _ => {}
        }
        sent += u64::from(raw.send(&bytes).is_ok());
    }
    let rx = || switch.json("port show h1")[0]["stats64"]["rx"]["packets"].as_u64().expect("a counter");
    wait_for("nearly all to be taken", || rx() >= sent * 9 / 10);
    let dropped = total_drops(&switch, "h1");
    let report = stream.finish();
    println!("t06: {sent} malformed frames, {dropped} refused; others: {report}");
    assert!(dropped > 1000 && report.share() >= 0.98, "{dropped}; {report}");
    switch.counters_at_rest();
    switch.assert_running();
    h3.reaches("10.1.0.5");
}

/// Every corner value of the virtio-net header on frames that are valid without it: the switch never gives
/// them a wrong checksum, and a stream between others goes on.
#[test]
fn t07_offload_facts_that_lie() {
    let Some(lab) = Lab::new() else { return };
    let Victims { rvm, h1, h3, h5, mut switch, .. } = victims(&lab, |_| "kind = \"packet\"\n".into(), "");
    // Unfinished checksums that the switch leaves to the kernel (in a redirected frame) are finished at this port.
    finished(&rvm, "p-h3");
    let stream = Stream::start(&h5, &h3, "10.1.0.3:9".parse().unwrap(), 1000);
    stream.wait_more(100, "at the start");
    let raw = RawSocket::with_headers(&h1, "eth0");
    let (own, to) = (h1.mac("eth0"), h3.mac("eth0"));
    let link = || etherparse::PacketBuilder::ethernet2(own, to).ipv4([10, 1, 0, 1], [10, 1, 0, 3], 64);
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    link().tcp(7, 7, 1, 1000).write(&mut tcp, &[5; 300]).unwrap();
    link().udp(7, 7).write(&mut udp, &[5; 300]).unwrap();
    // Without an outer checksum, the inner one may be unfinished.
    udp[40..42].fill(0);
    let seen = Capture::start(&lab, &h3, "eth0", "src host 10.1.0.1 and (tcp or udp) and port 7");
    let (mut sent, mut refused) = (0_u64, 0_u64);
    for frame in [&tcp, &udp] {
        for flags in [0_u8, 1, 2, 4, 0xff] {
            for gso_type in [0_u8, 1, 3, 4, 5, 0x81, 0xff] {
                for header_len in [0_u16, 54, u16::MAX] {
                    for gso_size in [0_u16, 1, 100, u16::MAX] {
                        for start in [0_u16, 14, 34, 60, u16::MAX] {
                            for offset in [0_u16, 6, 16, u16::MAX] {
                                let mut bytes = vec![flags, gso_type];
                                for field in [header_len, gso_size, start, offset] {
                                    bytes.extend(field.to_le_bytes());
                                }
                                bytes.extend_from_slice(frame);
                                match raw.send(&bytes) {
                                    Ok(()) => sent += 1,
                                    Err(_) => refused += 1,
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(sent > 500, "the kernel itself refused {refused} of them");
    let rx = || switch.json("port show h1")[0]["stats64"]["rx"]["packets"].as_u64().expect("a counter");
    wait_for("nearly all to be taken", || rx() >= sent * 9 / 10);
    let report = stream.finish();
    let packets = seen.stop();
    println!(
        "t07: {sent} frames ({refused} refused by the kernel), {} arrived, {} refused by us; others: {report}",
        packets.count("10.1.0.1.7"),
        switch.drops("h1", "offload-invalid")
    );
    assert!(packets.count("10.1.0.1.7") > 100);
    assert_eq!(packets.bad_checksums(), Vec::<&str>::new());
    assert!(report.share() >= 0.98, "{report}");
    switch.counters_at_rest();
    switch.assert_running();
}

/// About 1 Mbit/s of frames that never repeat (addresses, ports, VLANs): others keep at least 98 % of their rate.
#[test]
fn t08_a_crafted_flood_costs_others_little() {
    let Some(lab) = Lab::new() else { return };
    let Victims { h1, h3, h5, switch, raw, .. } = victims(&lab, |_| String::new(), "");
    let stream = Stream::start(&h3, &h5, "10.1.0.5:9".parse().unwrap(), 5000);
    stream.wait_more(100, "at the start");
    let (start, mut random, mut sent) = (Instant::now(), Random(8), 0_u32);
    for _ in rounds(1800) {
        let due = (start.elapsed().as_secs_f64() * 2000.0) as u32;
        while sent < due {
            let n = random.next();
            let (from, to) = (Ipv4Addr::from(n as u32), Ipv4Addr::from((n >> 32) as u32));
            let bytes = udp_frame(
                (random.mac(), from, n as u16),
                (random.mac(), to, (n >> 16) as u16),
                &[(n % 4000 + 1) as u16],
                &[0; 8],
            );
            let _ = raw.send(&bytes);
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let report = stream.finish();
    println!("t08: {sent} frames that never repeat; others: {report}");
    assert!(report.share() >= 0.98, "{report}");
    drop((h1, switch));
}

/// Tunnel packets from strangers, for networks that do not exist, with bits set that must be clear, and of other
/// encapsulations than VXLAN (GRE, IP in IP, Geneve, Ethernet in UDP): none is delivered, and those that reach the
/// switch are counted exactly.
#[test]
fn t12_t13_t16_tunnel_packets_that_nobody_asked_for() {
    let Some(lab) = Lab::new() else { return };
    let FarKernel { rvm, far, h1, switch, .. } = FarKernel::new(&lab, V4, false);
    h1.reaches("10.1.0.2");
    let (ours, theirs) = (rvm.mac("eth0"), far.mac("eth0"));
    let raw = RawSocket::open(&far, "eth0");
    let inner = udp_frame(
        ([2, 0, 0, 0, 0, 2], Ipv4Addr::new(10, 1, 0, 2), 7),
        (h1.mac("eth0"), Ipv4Addr::new(10, 1, 0, 1), 7),
        &[],
        b"injected",
    );
    let seen = Capture::start(&lab, &h1, "eth0", "udp port 7");
    let outer = |from: Ipv4Addr, port: u16, payload: &[u8]| {
        udp_frame((theirs, from, 50_000), (ours, Ipv4Addr::new(10, 0, 0, 11), port), &[], payload)
    };
    let peer = Ipv4Addr::new(10, 0, 0, 12);
    let (mut random, before) = (Random(12), total_drops(&switch, "uplink"));
    let mut count = 0_u64;
    for n in rounds(20_000) {
        count += 1;
        let r = random.next();
        let payload = match n % 4 {
            // From a stranger.
            0 => vxlan(8, 100, 0, &inner),
            // Any VNI but the configured one.
            1 => vxlan(8, [(r as u32) & 0xff_ffff, 101][usize::from(r as u32 & 0xff_ffff == 100)], 0, &inner),
            // Flags and reserved bits.
            2 => vxlan((r as u8) & !8, 100, 0, &inner),
            _ => vxlan(8, 100, (r as u8) | 1, &inner),
        };
        let from = if n % 4 == 0 { Ipv4Addr::new(10, 0, 1 + (r % 200) as u8, (r >> 8) as u8) } else { peer };
        raw.must_send(&outer(from, 4789, &payload));
        if n % 64 == 0 {
            std::thread::sleep(Duration::from_micros(300));
        }
    }
    let counted = || total_drops(&switch, "uplink") - before;
    wait_until(Duration::from_secs(5), || counted() >= count);
    println!("t12, t13: {count} tunnel packets injected, {} counted", counted());
    assert_eq!(counted(), count, "{}", switch.ivctl("drops").stdout);
    // Packets other than VXLAN go to the kernel, which has no use for them.
    for _ in 0..100 {
        let mut ip = outer(peer, 4789, &inner);
        for protocol in [4_u8, 47, 41, 97] {
            ip[23] = protocol;
            ip[24..26].fill(0);
            let sum: u32 = ip[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
            ip[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
            raw.must_send(&ip);
        }
        for port in [6081, 8472, 4790, 47] {
            raw.must_send(&outer(peer, port, &vxlan(8, 100, 0, &inner)));
        }
    }
    h1.reaches("10.1.0.2");
    assert_eq!(seen.stop().text(), "", "delivered");
}

/// Path probes, answers and BFD forged by stations of the overlay, local ones and behind the tunnel: the switch's
/// state of its peers does not change.
#[test]
fn t15_keepalives_forged_from_inside_the_overlay() {
    let Some(lab) = Lab::new() else { return };
    let FarKernel { h1, h2, switch, .. } = FarKernel::new(&lab, V4, false);
    h1.reaches("10.1.0.2");
    // The state of the peers, without counters and ages.
    let believed = || {
        let peer = switch.json("mtu")["peers"][0].clone();
        let resolved = switch.json("peer list")[0]["resolved"].clone();
        ["path_mtu", "carried", "origin", "fragment"].map(|key| peer[key].to_string() + &resolved.to_string())
    };
    let before = believed();
    assert!(before[0].contains("1500"), "{before:?}");
    let (mut random, mut sent) = (Random(15), 0);
    let group = [1, 0x80, 0xc2, 0, 0, 0x0e];
    for (host, port) in [(&h1, "h1"), (&h2, "")] {
        let (raw, own) = (RawSocket::open(host, "eth0"), host.mac("eth0"));
        for n in 0..1000_u64 {
            // The layout of `wire/path_probe.rs`: magic, version, kind, size, nonce.
            let (kind, size) = (1 + (n % 2) as u8, [576_u16, 1000, 1500, 9000][n as usize % 4]);
            let mut probe =
                [&b"ivpm"[..], &[1, kind], &size.to_be_bytes(), &random.next().to_be_bytes()].concat();
            probe.resize(1400, 0);
            let inner = frame(group, own, 0x88b5, &probe);
            let (a, b) = if port.is_empty() { (2, 1) } else { (1, 2) };
            let address = |last| Ipv4Addr::new(10, 1, 0, last);
            let to = if port.is_empty() { h1.mac("eth0") } else { h2.mac("eth0") };
            let udp = |port, payload: &[u8]| {
                udp_frame((own, address(a), 50_000), (to, address(b), port), &[], payload)
            };
            for bytes in [
                inner.clone(),
                // A tunnel within the tunnel, of VNI 0, to the address of our own VTEP too.
                udp(4789, &vxlan(8, 0, 0, &inner[..1300])),
                udp_frame(
                    (own, address(a), 50_000),
                    (to, Ipv4Addr::new(10, 0, 0, 11), 4789),
                    &[],
                    &vxlan(8, 0, 0, &inner[..1300]),
                ),
                // BFD: single hop and multihop, session down.
                udp(3784, &[0x20, 0x40, 3, 24, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]),
                udp(4784, &[0x20, 0x40, 3, 24, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]),
            ] {
                sent += u32::from(raw.send(&bytes).is_ok());
            }
            if n % 16 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    wait_for("probes from the port to be refused", || switch.drops("h1", "link-local-group") >= 900);
    h1.reaches("10.1.0.2");
    println!("t15: {sent} forged keepalives, {} refused at the port", switch.drops("h1", "link-local-group"));
    assert_eq!(believed(), before);
}

/// A port is removed and added 60 times next to a flooder of another network: none of its frames crosses.
#[test]
fn t17_no_window_while_ports_come_and_go() {
    let Some(lab) = Lab::new() else { return };
    let Victims { h3, h5, switch, h1: _h1, raw, .. } =
        victims(&lab, |_| String::new(), &network("other", 200));
    let again = || {
        assert_eq!(switch.ivctl("--no-wait port del h5").code, 0);
        assert_eq!(switch.ivctl("--no-wait port add h5 --network other --interface p-h5").code, 0);
    };
    again();
    switch.wait_live(&["h5"]);
    let seen = Capture::start(&lab, &h5, "eth0", "ether proto 0x88b5");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let flooder = std::thread::spawn(move || {
        let (bytes, mut sent) = (frame(BROADCAST, [6, 0, 0, 0, 0, 1], 0x88b5, &[]), 0_u64);
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            sent += u64::from(raw.send(&bytes).is_ok());
            if sent % 16 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        sent
    });
    let times = rounds(60).map(|_| again()).count();
    switch.wait_live(&["h5"]);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let sent = flooder.join().unwrap();
    println!("t17: {times} times removed and added beside {sent} broadcasts of another network");
    assert_eq!(seen.stop().text(), "", "leaked");
    drop(h3);
}

/// Sends one request on the control socket; gives the time until the answer.
fn ask(stream: &mut BufReader<UnixStream>, method: &str) -> Duration {
    let asked = Instant::now();
    let request = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\"}}\n");
    stream.get_mut().write_all(request.as_bytes()).expect("writing to the daemon");
    let mut line = String::new();
    stream.read_line(&mut line).expect("an answer");
    assert!(line.contains("\"result\""), "{line}");
    asked.elapsed()
}

fn connect(socket: &Path) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(socket).expect("the control socket");
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    BufReader::new(stream)
}

/// The 99th percentile of 300 answers.
fn p99(socket: &Path) -> Duration {
    let mut stream = connect(socket);
    let mut took: Vec<Duration> = (0..300)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(3));
            ask(&mut stream, "version")
        })
        .collect();
    took.sort();
    took[296]
}

/// A user without access to the socket is refused with exit code 6; one who may only read can read; a thousand idle
/// clients neither delay a frame nor lock root out for longer than the deadline of a request.
#[test]
fn t19_the_control_socket() {
    let Some(lab) = Lab::new() else { return };
    let Victims { h3, h5, switch, .. } = victims(&lab, |_| String::new(), "");
    std::fs::set_permissions(lab.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ivctl = lab.dir().join("ivctl");
    std::fs::copy(binaries().join("ivctl"), &ivctl).unwrap();
    let as_user = |group: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", &format!("--regid={group}"), "--clear-groups"]).arg(&ivctl);
        command.arg("--socket").arg(switch.socket()).args(arguments).output().expect("running setpriv")
    };
    assert_eq!(as_user("65534", &["status"]).status.code(), Some(6), "a stranger");
    std::os::unix::fs::chown(switch.socket(), None, Some(4711)).unwrap();
    assert!(as_user("4711", &["status"]).status.success(), "a reader reads");
    let refused = as_user("4711", &["network", "add", "x", "--vni", "7"]);
    assert_eq!(refused.status.code(), Some(6), "{}", String::from_utf8_lossy(&refused.stderr));

    let stream = Stream::start(&h3, &h5, "10.1.0.5:9".parse().unwrap(), 2000);
    let mut idle = Vec::new();
    for n in 0..1000 {
        let client = UnixStream::connect(switch.socket()).expect("the control socket");
        // Some send half a request.
        if n % 2 == 0 {
            let _ = (&client).write_all(b"{\"json");
        }
        idle.push(client);
    }
    wait_for("room again", || switch.ivctl("network list").code == 0);
    let report = stream.finish();
    println!("t19: 1000 idle clients; meanwhile {report}");
    assert_eq!(report.lost(), 0, "{report}");
}

/// Five hundred configurations with one mistake each: all are refused, and the running configuration stays in force.
#[test]
fn t18_t20_wrong_configurations_are_refused() {
    let Some(lab) = Lab::new() else { return };
    let Victims { h3, h5, switch, .. } = victims(&lab, |_| String::new(), "");
    let good = std::fs::read_to_string(switch.config()).unwrap();
    let before = switch.ivctl("config show").stdout;
    let mut wrong: Vec<String> = Vec::new();
    for (key, values) in [
        ("fdb_age", &["0", "-1", "\"x\"", "99999999999"][..]),
        ("fdb_max", &["0", "-5", "1e9", "4294967296"]),
        ("vni", &["0", "16777216", "-1", "\"100\""]),
        ("gateway", &["[\"300.1.1.1\"]", "\"10.1.0.1\"", "[\"0.0.0.0\"]", "[\"224.0.0.1\"]"]),
        ("router_mac", &["\"01:00:00:00:00:00\"", "\"x\"", "5", "\"00:00:00:00:00:00\""]),
        ("hub", &["true", "1", "\"\"", "[]"]),
    ] {
        for value in values {
            wrong.push(
                format!("[[network]]\nname = \"w\"\nvni = 900\n{key} = {value}\n")
                    .replace("vni = 900\nvni", "vni"),
            );
        }
    }
    // Names that would mean something else to a shell, a log or a path.
    for name in [
        "",
        "a b",
        "../x",
        "a/b",
        "a;b",
        "$(x)",
        "a\\nb",
        "\\u001b[31m",
        "UPPER",
        "-x",
        "averyveryverylongname",
        "ä",
    ] {
        wrong.push(format!("[[network]]\nname = \"{name}\"\nvni = 900\n"));
        wrong.push(format!("[[port]]\nname = \"{name}\"\nnetwork = \"private\"\n"));
        wrong.push(format!("[[peer]]\nname = \"{name}\"\naddress = \"not an address\"\n"));
    }
    // Every prefix of a valid text that ends within a line, and every line with an extra character.
    let extra =
        "[[port]]\nname = \"w\"\nnetwork = \"private\"\n[[peer]]\nname = \"p\"\naddress = \"10.0.0.9\"\n";
    wrong.extend(
        (1..extra.len())
            .map(|at| extra[..at].to_owned())
            .filter(|t| !t.ends_with('\n') && !t.ends_with('"') && !t.ends_with(']')),
    );
    // A character that must not occur in any text.
    for c in ['\u{0}', '\u{1}', '\u{8}', '\u{1b}', '\u{7f}'] {
        for at in 0..extra.len() {
            let mut text = extra.to_owned();
            text.insert(at, c);
            wrong.push(text);
        }
    }
    let mut stream = connect(switch.socket());
    let mut refused = 0;
    for mistake in &wrong {
        let params = serde_json::json!({ "text": good.clone() + mistake, "timeout_ms": 0 });
        let request =
            serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "config.apply", "params": params });
        stream.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert!(line.contains("\"error\""), "taken: {mistake}\n{line}");
        refused += 1;
    }
    println!("t18, t20: {refused} wrong configurations refused");
    assert!(refused >= 500);
    assert_eq!(switch.ivctl("config show").stdout, before);
    h3.reaches("10.1.0.5");
    drop(h5);
}

/// A broadcast storm from a host, and a loop of two ports through a foreign bridge: both are cut to the ports'
/// limits, and the control socket answers within 20 ms all the time.
#[test]
fn t22_g12_a_storm_and_a_loop() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let h3 = host(&lab, &rvm, "h3", &["10.1.0.3/24"]);
    let looped = lab.namespace("loop");
    looped.ip("link add br0 type bridge");
    looped.ip("link set br0 up");
    for name in ["l1", "l2"] {
        lab.veth((&looped, name), (&rvm, &format!("p-{name}")));
        looped.ip(&format!("link set {name} master br0"));
    }
    let limit = "bum_pps = 2000\n";
    let ports = ["h3", "l1", "l2"].map(|name| port(name, "private") + limit).concat();
    let mut switch = Switch::start(&lab, &rvm, &(network("private", 100) + &ports));
    switch.wait_live(&["h3", "l1", "l2"]);
    let quiet = p99(switch.socket());
    let raw = RawSocket::open(&h3, "eth0");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let storm = std::thread::spawn(move || {
        let bytes = frame(BROADCAST, [6, 0, 0, 0, 0, 3], 0x88b5, &[]);
        let mut sent = 0_u64;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for _ in 0..64 {
                sent += u64::from(raw.send(&bytes).is_ok());
            }
            // A storm, not a benchmark: the machine has two cores for everything.
            std::thread::sleep(Duration::from_micros(500));
        }
        sent
    });
    std::thread::sleep(Duration::from_millis(300));
    let before = Instant::now();
    let tx = |switch: &Switch| {
        switch
            .json("port list")
            .as_array()
            .expect("rows")
            .iter()
            .map(|row| row["stats64"]["tx"]["packets"].as_u64().expect("a counter"))
            .sum::<u64>()
    };
    let sent_before = tx(&switch);
    let p99 = p99(switch.socket());
    let rate = (tx(&switch) - sent_before) as f64 / before.elapsed().as_secs_f64();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let sent = storm.join().unwrap();
    println!(
        "t22: {sent} broadcasts and a loop: {rate:.0}/s leave, the socket answers in {p99:?} (p99; quiet {quiet:?})"
    );
    assert!(p99 < Duration::from_millis(20), "{p99:?}");
    // Each port admits 2000, which leave at two others.
    assert!(rate < 3.0 * 2000.0 * 2.0 * 1.2, "{rate}");
    assert!(switch.drops("h3", "bum-rate-limit") > 0);
    switch.assert_running();
}
