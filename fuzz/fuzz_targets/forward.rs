//! A story of frames and commands through the whole switch: no panic, every frame accounted for, no slot
//! lost. The first byte of each step selects its kind.
#![no_main]

use std::net::IpAddr;

use engine::command::*;
use engine::forward::Switch;
use engine::frame::{Batch, FramePool, HeapPool};
use engine::time::{Duration, Instant};
use engine::wire::mac::MacAddr;
use libfuzzer_sys::fuzz_target;

const UPLINK: PortId = PortId(0);

fn v4(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn vni(n: u8) -> Vni {
    Vni::new(u32::from(n)).expect("small")
}

fn port(n: u8) -> PortConfig {
    let (role, vni) = match n {
        0 => (Role::Uplink, None),
        1 => (Role::Door, Some(vni(1))),
        2 => (Role::Door, Some(vni(2))),
        _ => (Role::Guest, Some(vni(1))),
    };
    PortConfig {
        vni,
        role,
        live: true,
        mtu: 1500,
        vlan: if n == 4 { VlanPolicy::Access(10) } else { VlanPolicy::Transparent },
        binding: Box::new(Binding {
            macs: vec![MacAddr([2, 0, 0, 0, 0, n])],
            ips: vec![
                IpPrefix { addr: [192, 168, 1, 0].into(), len: 24 },
                IpPrefix::host([192, 168, 1, n].into()),
                IpPrefix::host("fd00::5".parse().expect("an address")),
            ],
            shared_ips: vec![IpPrefix::host([192, 168, 2, 9].into())],
            link_local: if n == 4 { LinkLocalRule::Opaque } else { LinkLocalRule::Eui64 },
        }),
        bum_pps: Some(1000),
        policy: Box::default(),
        fdb_max: 8,
    }
}

fn setup(switch: &mut Switch, pool: &mut HeapPool, now: Instant) {
    let mut apply = |command| switch.apply(now, command, pool);
    for n in 0..5 {
        apply(Command::SetPort(PortId(u16::from(n)), port(n)));
    }
    apply(Command::SetUplink(UplinkConfig {
        port: UPLINK,
        mac: MacAddr([2, 0, 0, 0, 0, 0xff]),
        vtep: v4(11),
        tunnel_port: 4789,
        checksum: true,
        mtu: 1600,
        guard: vec![IpPrefix { addr: v4(0), len: 16 }],
        switch_mac: MacAddr([2, 0x69, 0x77, 0, 0, 1]),
        name: 1,
        reserved_bits: engine::tunnel::vxlan::RESERVED,
    }));
    for n in [1, 2] {
        apply(Command::SetNetwork(NetworkConfig {
            vni: vni(n),
            gateways: vec![[192, 168, n, 1].into(), "fd00::1".parse().expect("an address")],
            router_mac: MacAddr([2, 0x69, 0x76, 0, 0, n]),
            fdb_max: 16,
            fdb_age: Duration::from_secs(5),
            mss_clamp: true,
            dhcp: Some(Box::new(DhcpConfig {
                prefixes: vec![
                    IpPrefix { addr: [192, 168, 1, 0].into(), len: 24 },
                    IpPrefix { addr: "fd00::".parse().expect("an address"), len: 64 },
                ],
                dns: vec![[9, 9, 9, 9].into(), "fd00::9".parse().expect("an address")],
                boot: None,
            })),
        }));
    }
    apply(Command::SetPeer(
        PeerId(0),
        PeerConfig {
            address: v4(12),
            vnis: vec![vni(1), vni(2)],
            via: None,
            spoke: true,
            mtu: 1600,
            fragment: false,
            outer: engine::command::OuterIp::default(),
        },
    ));
    apply(Command::SetUnderlayRoutes(
        vec![UnderlayRoute::new(IpPrefix { addr: [0, 0, 0, 0].into(), len: 0 }, Some(v4(1)))].into(),
    ));
    apply(Command::SetUnderlayNeighbor(v4(1), MacAddr([2, 0, 0, 0, 0, 0xfe])));
    apply(Command::SetFloating(
        FloatingId(0),
        FloatingConfig {
            ip: [56, 0, 0, 11].into(),
            vni: vni(2),
            gateway: Gateway::Here { reality: v4(11) },
            inside: Some((vni(1), [192, 168, 1, 2].into())),
            only: vec![],
            except: vec![L4Range { proto: L4Proto::Tcp, first: 22, last: 22 }],
        },
    ));
    apply(Command::SetSourceRoute(SourceRouteConfig {
        vni: vni(2),
        from: IpPrefix { addr: [192, 168, 2, 0].into(), len: 24 },
        via: NextHop::Address([192, 168, 2, 9].into()),
    }));
}

fuzz_target!(|story: &[u8]| {
    let mut switch = Switch::new(1);
    let mut pool = HeapPool::new(32, 1);
    let mut now = Instant::from_millis(1);
    setup(&mut switch, &mut pool, now);
    let mut rest = story;
    while let [kind, len, tail @ ..] = rest {
        let n = usize::from(*len).min(tail.len());
        let (bytes, tail) = tail.split_at(n);
        rest = tail;
        match kind % 8 {
            at @ 0..5 => {
                let Some(frame) = pool.alloc_from(bytes) else { continue };
                let mut batch = Batch::new();
                batch.push(frame);
                switch.forward(now, PortId(u16::from(at)), &mut batch, &mut pool);
            }
            5 => {
                now = now + Duration::from_millis(u64::from(*len) * 50);
                switch.tick(now, &mut pool);
            }
            6 => match len % 4 {
                0 => switch.apply(now, Command::RemovePort(PortId(u16::from(len / 4 % 5))), &mut pool),
                1 => switch.apply(now, Command::RemoveNetwork(vni(1 + len / 4 % 2)), &mut pool),
                2 => switch.apply(now, Command::FlushFdb(None, None), &mut pool),
                _ => switch.apply(now, Command::RemoveFloating(FloatingId(0)), &mut pool),
            },
            _ => setup(&mut switch, &mut pool, now),
        }
        for id in 0..switch.port_bound() {
            switch.flush(PortId(id), &mut pool, |pool, queue| {
                for frame in queue.drain(..) {
                    pool.free(frame);
                }
                Ok(())
            });
        }
        switch.flush_punted(&mut pool, |_, _| {});
        assert!(switch.counters().conserved(), "{:?}", switch.counters());
        assert_eq!(pool.usage().used, 0, "a slot leaked");
    }
});
