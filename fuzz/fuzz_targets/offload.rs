//! Frames with virtio-net headers of any bytes through the whole switch: no panic, every frame accounted for, no slot
//! lost, and every unfinished frame given to a port is one that the port accepts, with offload facts that are true of
//! the frame. A frame is a template with changed bytes, so that headers are mostly right and GSO packets large.
#![no_main]

use std::net::IpAddr;

use engine::command::*;
use engine::forward::Switch;
use engine::frame::{Batch, FramePool, GsoKind, HeapPool, Offload};
use engine::port::PortCaps;
use engine::time::{Duration, Instant};
use engine::wire::checksum;
use engine::wire::mac::MacAddr;
use engine::wire::virtio_net::{self, HEADER_LEN};
use libfuzzer_sys::fuzz_target;

const PORTS: u8 = 4;

fn v4(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn vni(n: u8) -> Vni {
    Vni::new(u32::from(n)).expect("small")
}

fn setup(switch: &mut Switch, pool: &mut HeapPool, now: Instant, caps: u8) {
    let mut apply = |command| switch.apply(now, command, pool);
    for n in 0..PORTS {
        let config = PortConfig {
            vni: (n > 0).then(|| vni(if n == 3 { 2 } else { 1 })),
            role: if n == 0 { Role::Uplink } else { Role::Door },
            live: true,
            mtu: 1500,
            vlan: VlanPolicy::Transparent,
            binding: Box::new(Binding { macs: vec![], ips: vec![], ..Binding::default() }),
            bum_pps: None,
            policy: Box::default(),
            fdb_max: 8,
        };
        apply(Command::SetPort(PortId(u16::from(n)), config));
    }
    apply(Command::SetUplink(UplinkConfig {
        port: PortId(0),
        mac: MacAddr([2, 0, 0, 0, 0, 11]),
        vtep: v4(11),
        tunnel_port: 4789,
        checksum: caps & 0x80 != 0,
        mtu: 1600,
        guard: vec![],
        switch_mac: MacAddr([2, 0x69, 0x77, 0, 0, 1]),
        name: 1,
        reserved_bits: engine::tunnel::vxlan::RESERVED,
    }));
    for n in [1, 2] {
        apply(Command::SetNetwork(NetworkConfig {
            vni: vni(n),
            gateways: vec![[192, 168, 1, 1].into(), "fd01::1".parse().expect("an address")],
            router_mac: MacAddr([2, 0x69, 0x76, 0, 0, n]),
            fdb_max: 16,
            fdb_age: Duration::from_secs(5),
            mss_clamp: true,
            dhcp: None,
        }));
    }
    let peer = PeerConfig {
        address: v4(12),
        vnis: vec![vni(1), vni(2)],
        via: None,
        spoke: false,
        mtu: 1600,
        fragment: caps & 0x40 != 0, outer: engine::command::OuterIp::default(),
    };
    apply(Command::SetPeer(PeerId(0), peer));
    apply(Command::SetUnderlayRoutes(
        vec![UnderlayRoute::new(IpPrefix { addr: [0, 0, 0, 0].into(), len: 0 }, Some(v4(1)))].into(),
    ));
    apply(Command::SetUnderlayNeighbor(v4(1), MacAddr([2, 0, 0, 0, 0, 1])));
    let floating = FloatingConfig {
        ip: [56, 0, 0, 11].into(),
        vni: vni(2),
        gateway: Gateway::Here { reality: v4(11) },
        inside: Some((vni(1), [192, 168, 1, 2].into())),
        only: vec![],
        except: vec![],
    };
    apply(Command::SetFloating(FloatingId(0), floating));
    for n in 0..PORTS {
        switch.set_caps(PortId(u16::from(n)), port_caps(caps, n));
    }
}

/// Two bits choose the uplink's driver, two bits the doors'.
fn port_caps(caps: u8, n: u8) -> PortCaps {
    let kind = if n == 0 { caps & 3 } else { (caps >> 2) & 3 };
    PortCaps { tx_csum: kind > 0, tx_tso: kind > 1, tx_uso: kind > 2, rx_csum_unmarked: kind == 0 }
}

/// Ethernet, IP and TCP or UDP headers, with right lengths, around a payload.
fn packet(v6: bool, tcp: bool, from: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut l4 = vec![0; if tcp { 20 } else { 8 }];
    l4[..4].copy_from_slice(&[0x30, 0x39, 0x12, 0xb5]);
    if tcp {
        l4[12..14].copy_from_slice(&[0x50, 0x18]);
    } else {
        l4[4..6].copy_from_slice(&((payload.len() + 8) as u16).to_be_bytes());
    }
    let proto = if tcp { 6 } else { 17 };
    let len = l4.len() + payload.len();
    let mut bytes = vec![2, 0, 0, 0, 0, from[1], 2, 0, 0, 0, 0, from[0]];
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, (len >> 8) as u8, len as u8, proto, 64]);
        for n in from {
            bytes.extend([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]);
        }
    } else {
        let total = len + 20;
        bytes.extend([8, 0, 0x45, 0, (total >> 8) as u8, total as u8, 0, 7, 0x40, 0, 64, proto, 0, 0]);
        // 11 and 12 are the VTEPs, 2 is behind the floating IP.
        let address = |n: u8| if n > 10 { [10, 0, 0, n] } else { [192, 168, 1, n] };
        from.map(address).iter().for_each(|address| bytes.extend(address));
        let value = !checksum::sum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&value.to_be_bytes());
    }
    bytes.extend(l4);
    bytes.extend(payload);
    bytes
}

fn template(kind: u8, len: usize) -> Vec<u8> {
    let payload = |len: usize| vec![0x5a; len];
    let inner = |len| packet(kind & 1 != 0, true, [3, 2], &payload(len));
    let datagram = |len| [&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner(len)].concat();
    let tunnel = |payload: &[u8]| {
        let mut outer = packet(false, false, [12, 11], payload);
        outer[40..42].fill(0);
        outer
    };
    match kind / 2 % 8 {
        0 => packet(kind & 1 != 0, true, [2, 3], &payload(len)),
        1 => packet(kind & 1 != 0, false, [2, 3], &payload(len)),
        2 => tunnel(&datagram(len)),
        3 => {
            // A tunnel GSO packet: several datagrams, the last one shorter.
            let whole = datagram(len % 1400);
            let mut all = whole.repeat((len / 1400).clamp(1, 40));
            all.extend(datagram(len % 1400 / 2));
            tunnel(&all)
        }
        4 => packet(false, kind & 1 != 0, [99, 11], &payload(len)),
        // A guest's own overlay, inside our tunnel and outside.
        5 => packet(false, false, [2, 3], &datagram(len)),
        6 => tunnel(&[&[8, 0, 0, 0, 0, 0, 1, 0][..], &packet(false, false, [3, 2], &datagram(len))].concat()),
        _ => payload(len),
    }
}

fuzz_target!(|story: &[u8]| {
    let [caps, story @ ..] = story else { return };
    let mut switch = Switch::new(1);
    let mut pool = HeapPool::new(512, 24);
    let now = Instant::from_millis(1);
    setup(&mut switch, &mut pool, now, *caps);
    let mut rest = story;
    let mut batch = Batch::new();
    while let [at, kind, high, low, count, tail @ ..] = rest {
        let Some((header, tail)) = tail.split_at_checked(HEADER_LEN) else { break };
        let len = usize::from(u16::from_be_bytes([*high, *low])) % 65_000;
        let mut bytes = template(*kind, len);
        bytes.truncate(65_549);
        let changes = (usize::from(count % 16) * 2).min(tail.len());
        let (changes, tail) = tail.split_at(changes);
        rest = tail;
        for change in changes.chunks_exact(2) {
            if let Some(byte) = bytes.get_mut(usize::from(change[0])) {
                *byte = change[1];
            }
        }
        // Half of the headers are as a kernel would write them.
        let offload = if at & 0x80 != 0 {
            let shape = kind / 2 % 8;
            let v6 = kind & 1 != 0 && matches!(shape, 0 | 1 | 5 | 6);
            let tcp = matches!(shape, 0 | 5 | 6);
            let around = [0, 50, 100][usize::from(shape.saturating_sub(4).min(2))];
            Ok(Offload {
                csum_start: around + if v6 { 54 } else { 34 },
                csum_offset: if tcp { 16 } else { 6 },
                gso_kind: match (tcp, v6) {
                    (true, false) => GsoKind::TcpV4,
                    (true, true) => GsoKind::TcpV6,
                    _ => GsoKind::Udp,
                },
                gso_size: u16::from_le_bytes([header[4], header[5]]),
                ..Offload::NONE
            })
        } else {
            virtio_net::read(header, &bytes)
        };
        // The port's driver drops and counts headers that cannot be expressed as offload facts.
        let Ok(offload) = offload else { continue };
        let Some(mut frame) = pool.alloc_from(&bytes) else { continue };
        frame.offload = offload;
        batch.push(frame);
        if at & 0x40 != 0 && !batch.is_full() && pool.usage().used < 20 {
            continue;
        }
        switch.forward(now, PortId(u16::from(at % PORTS)), &mut batch, &mut pool);
        for id in 0..switch.port_bound() {
            let takes = port_caps(*caps, id as u8);
            switch.flush(PortId(id), &mut pool, |pool, queue| {
                for frame in queue.drain(..) {
                    let facts = frame.offload;
                    let field = usize::from(facts.csum_start) + usize::from(facts.csum_offset);
                    let taken = match facts.gso_kind {
                        GsoKind::None => true,
                        GsoKind::TcpV4 | GsoKind::TcpV6 => takes.tx_tso,
                        GsoKind::Udp => takes.tx_uso,
                    };
                    assert!(taken, "port {id} takes no {facts:?}");
                    assert!(
                        facts.is_none()
                            || takes.tx_csum && facts.csum_partial() && field + 2 <= frame.len as usize,
                        "{facts:?}"
                    );
                    assert!(facts.gso_kind == GsoKind::None || facts.gso_size > 0);
                    pool.free(frame);
                }
                Ok(())
            });
        }
        switch.flush_punted(&mut pool, |_, _| {});
        assert!(switch.counters().conserved(), "{:?}", switch.counters());
        assert_eq!(pool.usage().used, 0, "a slot leaked");
    }
    for frame in batch.drain(..) {
        pool.free(frame);
    }
});
