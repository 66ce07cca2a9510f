//! The uplink by the drivers `packet` and `udp`.

use super::*;
use lab::underlay::{HOST, OUR_ADDRESS, Underlay, tunnel_plan};

/// Opens the uplink of `underlay`.
fn open_uplink(underlay: &Underlay, kind: IoKind, tunnel: Option<IpAddr>, pool: &UmemPool) -> Opened {
    underlay.ours.within(|| {
        let tunnel = tunnel.map(|ip| (ip, 4789));
        let spec = OpenPort { tunnel, ..spec("eth0", kind, true) };
        try_open(&spec, MacAddr(mac_of("eth0")), pool, PortId(0)).unwrap_or_else(|error| panic!("{error}"))
    })
}

/// The kernel and the switch share the uplink: tunnel packets go only to the switch, all others stay. If a
/// whole address goes up, its exceptions remain with the kernel.
#[test]
fn the_packet_uplink_is_shared_with_the_kernel() {
    if !root() {
        return;
    }
    let underlay = Underlay::new();
    let mut pool = pool();
    let mut opened = open_uplink(&underlay, IoKind::Packet, None, &pool);
    let mac = underlay.ours.within(|| MacAddr(mac_of("eth0")));
    assert!(underlay.ping_works(), "before any plan");
    opened.control.steer(&tunnel_plan(), mac).unwrap();
    assert!(underlay.ping_works() && underlay.tcp_works());
    let sender = underlay.host.within(|| UdpSocket::bind("10.0.0.99:5555").unwrap());
    sender.connect((OUR_ADDRESS, 4789)).unwrap();
    sender.send(b"up").unwrap();
    let frames = receive_if(&mut *opened.port, &opened.fds, &mut pool, 1, |bytes| bytes.len() >= 44);
    assert_eq!(frames.len(), 1, "{:?}", opened.control.steer_counters());
    assert_eq!(&pool.bytes(&frames[0])[42..44], b"up");
    free_all(&mut pool, frames);
    // The kernel has no listener on that port, and would have reported that to the sender.
    assert!(sender.send(b"up").is_ok() && sender.send(b"up").is_ok());
    let mut batch = Batch::new();
    opened.port.rx(Instant::ZERO, &mut pool, &mut batch);
    free_all(&mut pool, batch.drain(..).collect());
    let counters = opened.control.steer_counters().unwrap();
    assert_eq!((counters.tunnel, counters.reality), (3, 0));
    assert!(counters.passed > 5);

    let except = vec![L4Range { proto: L4Proto::Tcp, first: 22, last: 22 }];
    let mut plan = tunnel_plan();
    plan.reality.push(SteerReality { address: OUR_ADDRESS.into(), all: true, ports: vec![], except });
    opened.control.steer(&plan, mac).unwrap();
    assert!(!underlay.ping_works() && underlay.tcp_works());
    assert!(opened.control.steer_counters().unwrap().reality >= 1);
    opened.control.steer(&tunnel_plan(), mac).unwrap();
    assert!(underlay.ping_works() && underlay.tcp_works(), "the plan is taken back");
    drop(opened);
    assert!(underlay.ping_works() && underlay.tcp_works(), "the programs are gone");
    sender.send(b"who is there?").unwrap();
    assert!(sender.send(b"nobody").is_err(), "the kernel says so again");
}

/// The process is killed. The kernel gets every packet of the uplink.
#[test]
fn a_killed_process_leaves_the_uplink_to_the_kernel() {
    if !root() {
        return;
    }
    let underlay = Underlay::new();
    let child = underlay.ours.within(|| Child::start("uplink::child_takes_the_uplink"));
    assert!(!underlay.ping_works(), "the child took the echo requests");
    drop(child);
    assert!(underlay.ping_works() && underlay.tcp_works());
}

/// Another test runs this in a separate process; otherwise it does nothing.
#[test]
#[ignore = "a_killed_process_leaves_the_uplink_to_the_kernel runs it"]
fn child_takes_the_uplink() {
    if !is_child() {
        return;
    }
    let pool = pool();
    let mut opened = try_open(&spec("eth0", IoKind::Packet, true), MacAddr::default(), &pool, PortId(0))
        .unwrap_or_else(|error| panic!("{error}"));
    let address = OUR_ADDRESS.into();
    let reality = vec![SteerReality { address, all: true, ports: vec![], except: vec![] }];
    opened.control.steer(&SteerPlan { tunnel: None, vnis: None, reality }, MacAddr(mac_of("eth0"))).unwrap();
    ready_to_be_killed();
}

/// An outer frame in the engine's form: Ethernet, IP, UDP; then `payload`.
fn outer(from: IpAddr, to: IpAddr, source_port: u16, class: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    let udp_len = (payload.len() + 8) as u16;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([8, 0, 0x45, class, 0, 0, 0, 0, 0x40, 0, hops, 17, 0, 0]);
            frame[16..18].copy_from_slice(&(udp_len + 20).to_be_bytes());
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd, 0x60 | class >> 4, class << 4, 0, 0]);
            frame.extend(udp_len.to_be_bytes());
            frame.extend([17, hops]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        _ => unreachable!("one family"),
    }
    for word in [source_port, 4789, udp_len, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// Compares outer headers except for the sender's MAC, IPv4's checksum (which must be correct), the source
/// port and the UDP checksum. Returns the bytes behind them.
fn check_outer(bytes: &[u8], header_len: usize, expected: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let body = bytes[header_len..].to_vec();
    let expected = expected(&body);
    assert_eq!(bytes[..6], [2, 0, 0, 0, 0, 7]);
    assert_eq!(bytes[12..24], expected[12..24]);
    assert_eq!(bytes[26..header_len - 8], expected[26..header_len - 8]);
    assert_eq!(bytes[header_len - 6..header_len - 2], expected[header_len - 6..header_len - 2]);
    if header_len == 42 {
        assert_eq!(fold(sum(0, &bytes[14..34])), 0xffff, "the header's checksum");
    }
    body
}

/// Two `udp` uplinks and a tunnel between them: frames given to one arrive at the other, identical except for
/// the checksum and the source port: single packets, GSO packets, and a GSO packet with more datagrams than
/// the kernel segments in one call.
fn udp_carries_tunnel_packets(from: IpAddr, to: IpAddr) {
    if !root() {
        return;
    }
    let underlay = Underlay::new();
    let mut pool = pool();
    let mut here = open_uplink(&underlay, IoKind::Udp, Some(from), &pool);
    let mut there = underlay.host.within(|| {
        let spec = OpenPort { tunnel: Some((to, 4789)), ..spec("eth0", IoKind::Udp, true) };
        try_open(&spec, MacAddr([2, 0, 0, 0, 0, 7]), &pool, PortId(0)).unwrap_or_else(|e| panic!("{e}"))
    });
    let header_len = if from.is_ipv4() { 42 } else { 62 };
    let start = header_len as u16 - 8;
    for (len, segment) in [(100, 0), (1400, 0), (30_000, 1400), (1400, 1400), (65_000, 1300), (20_000, 100)] {
        let payload: Vec<u8> = (0..len).map(|n| (n % 253) as u8).collect();
        let mut frame = pool.alloc_from(&outer(from, to, 50_000 + segment, 0x03, 17, &payload)).unwrap();
        if segment > 0 {
            frame.offload = Offload {
                csum_start: start,
                csum_offset: 6,
                gso_kind: GsoKind::Udp,
                gso_size: segment,
                ..Offload::NONE
            };
        }
        let mut frames = vec![frame];
        here.port.tx(Instant::ZERO, &mut pool, &mut frames);
        assert!(frames.is_empty() && here.control.drops().unwrap().tx_invalid == 0, "{len} by {segment}");
        let mut got: Vec<u8> = Vec::new();
        while got.len() < payload.len() {
            let frames = receive_if(&mut *there.port, &there.fds, &mut pool, 1, |_| true);
            assert!(!frames.is_empty(), "{len} by {segment}: {} of it arrived", got.len());
            for frame in &frames {
                let expected = |body: &[u8]| outer(from, to, 0, 0x03, 17, body);
                got.extend(check_outer(pool.bytes(frame), header_len, expected));
                let facts = if frame.len as usize - header_len > usize::from(segment) && segment > 0 {
                    Offload {
                        csum_start: start,
                        csum_offset: 6,
                        gso_kind: GsoKind::Udp,
                        gso_size: segment,
                        ..Offload::NONE
                    }
                } else {
                    Offload::NONE
                };
                assert_eq!(frame.offload, facts);
            }
            free_all(&mut pool, frames);
        }
        assert_eq!(got, payload, "{len} by {segment}");
    }
    // A frame that is not a tunnel packet is refused and counted.
    let mut frames = vec![pool.alloc_from(&numbered(1, 60)).unwrap()];
    here.port.tx(Instant::ZERO, &mut pool, &mut frames);
    assert!(frames.is_empty() && here.control.drops().unwrap().tx_invalid == 1);
    assert_eq!(pool.usage().used, 0);
    assert!(underlay.ping_works(), "the uplink is the kernel's");
}

#[test]
fn udp_carries_tunnel_packets_v4() {
    udp_carries_tunnel_packets(OUR_ADDRESS.into(), HOST.into());
}

#[test]
fn udp_carries_tunnel_packets_v6() {
    udp_carries_tunnel_packets("fd00::11".parse().unwrap(), "fd00::99".parse().unwrap());
}

/// Flows leave from different source ports, each always from the same one.
#[test]
fn udp_keeps_the_entropy_of_source_ports() {
    if !root() {
        return;
    }
    let underlay = Underlay::new();
    let mut pool = pool();
    let mut here = open_uplink(&underlay, IoKind::Udp, Some(OUR_ADDRESS.into()), &pool);
    let peer = underlay.host.within(|| UdpSocket::bind((HOST, 4789)).unwrap());
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..2 {
        for flow in 0..64_u16 {
            let bytes = outer(OUR_ADDRESS.into(), HOST.into(), 49_152 + flow * 7, 0, 64, &flow.to_be_bytes());
            let mut frames = vec![pool.alloc_from(&bytes).unwrap()];
            here.port.tx(Instant::ZERO, &mut pool, &mut frames);
            let mut payload = [0; 2];
            let (_, from) = peer.recv_from(&mut payload).expect("it arrives");
            assert_eq!(payload, flow.to_be_bytes());
            assert_eq!(*seen.entry(flow).or_insert(from.port()), from.port());
        }
    }
    let ports: std::collections::BTreeSet<u16> = seen.values().copied().collect();
    assert!(ports.len() >= 8, "{ports:?}");
}
