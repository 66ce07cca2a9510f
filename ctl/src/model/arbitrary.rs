//! Random configurations for property tests, for an rVM on host `me`: messy ones, and valid ones that remain when all
//! errors are removed from messy ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use engine::command::{L4Proto, L4Range};
use engine::wire::mac::MacAddr;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::validate::check;
use super::*;

fn pick(prefix: &'static str, count: u8) -> impl Strategy<Value = String> {
    (0..count).prop_map(move |n| format!("{prefix}{n}"))
}

fn ip(net: u8) -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        8 => (1u8..12).prop_map(move |n| IpAddr::V4(Ipv4Addr::new(10, 0, net, n))),
        2 => (1u16..12).prop_map(move |n| IpAddr::V6(Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, n))),
    ]
}

fn net(n: u8) -> impl Strategy<Value = IpNet> {
    (ip(n), 0u8..=128)
        .prop_map(|(ip, len)| IpNet::new(ip, if ip.is_ipv4() { len % 33 } else { len }).unwrap().trunc())
}

fn mac() -> impl Strategy<Value = Mac> {
    (0u8..4, 0u8..8).prop_map(|(a, b)| Mac(MacAddr([a & 2, 0, 0, 0, a, b])))
}

fn ports() -> impl Strategy<Value = Ports> {
    (any::<bool>(), 1u16..30, 0u16..4).prop_map(|(tcp, first, more)| {
        let proto = if tcp { L4Proto::Tcp } else { L4Proto::Udp };
        Ports(L4Range { proto, first, last: first + more })
    })
}

fn xdp() -> impl Strategy<Value = XdpMode> {
    prop_oneof![Just(XdpMode::Auto), Just(XdpMode::Native), Just(XdpMode::Copy), Just(XdpMode::Generic)]
}

fn cache() -> impl Strategy<Value = CacheMode> {
    prop_oneof![Just(CacheMode::Auto), Just(CacheMode::On), Just(CacheMode::Off)]
}

fn vlan() -> impl Strategy<Value = Vlan> {
    prop_oneof![
        (0u16..4096).prop_map(|v| Vlan { access: Some(v), trunk: None, native: None }),
        (vec(0u16..4096, 0..4), of(0u16..4096)).prop_map(|(t, native)| Vlan {
            access: None,
            trunk: Some(t),
            native
        }),
    ]
}

fn network() -> impl Strategy<Value = Network> {
    let server = (1u8..12).prop_map(|n| Ipv4Addr::new(10, 0, 1, n));
    let dhcp = (vec(net(1), 0..3), vec(ip(1), 0..3), of(server), of("[a-z.]{0,9}"));
    (pick("n", 6), 0u32..9, vec(ip(1), 0..3), of(mac()), 0u32..4, 0u64..900, any::<bool>(), dhcp).prop_map(
        |(
            name,
            vni,
            gateway,
            router_mac,
            fdb_max,
            fdb_age,
            mss_clamp,
            (dhcp, dns, next_server, boot_file),
        )| Network {
            dhcp,
            dns,
            next_server,
            boot_file,
            // Use few VNIs, so that networks often swap theirs.
            vni: if vni == 8 { 0xff_ffff } else { vni },
            gateway,
            router_mac,
            fdb_max: fdb_max * 4096,
            fdb_age,
            mss_clamp,
            ..Network::new(name, 1)
        },
    )
}

fn port() -> impl Strategy<Value = Port> {
    let names = (pick("p", 8), pick("n", 6), any::<bool>(), of(pick("if", 8)));
    let shared = (vec(mac(), 0..2), vec(net(3), 0..2), any::<[bool; 2]>());
    let lists = (vec(net(2), 0..3), vec(mac(), 0..3), vec(net(3), 0..3), of(vlan()), shared);
    let kind = prop_oneof![
        4 => Just(PortKind::Auto),
        1 => Just(PortKind::Afxdp),
        1 => Just(PortKind::Packet),
        1 => Just(PortKind::Tap),
        1 => Just(PortKind::Vhostuser)
    ];
    let policy = (
        of(1000u64..9000),
        of(1u32..900),
        of(1u32..9000),
        any::<[bool; 6]>(),
        of(pick("p", 8)),
        of(1u32..90),
    );
    let numbers = (0u32..3, 0u32..3, of(570u16..1600), xdp(), any::<bool>(), kind);
    (names, lists, numbers, policy).prop_map(|(names, lists, numbers, policy)| {
        let (bum_pps, fdb_max, mtu, xdp, enabled, kind) = numbers;
        let (bps, pps, burst, [out, quarantine, mirrors, bpdu_guard, learning, flood], mirror, recovery) =
            policy;
        let (name, network, guest, interface) = names;
        let (address, mac, ip, vlan, (shared_mac, shared_ip, [shares, opaque])) = lists;
        let mut p = Port::new(name, network);
        if guest {
            p.role = PortRole::Guest;
            p.mac = mac;
            let bound =
                |ips: Vec<IpNet>| ips.into_iter().map(|ip| AddressOrPrefix(super::prefix(ip))).collect();
            p.ip = bound(ip);
            if shares {
                (p.shared_mac, p.shared_ip) = (shared_mac, bound(shared_ip));
            }
            p.link_local = if opaque { LinkLocal::StablePrivacy } else { LinkLocal::Eui64 };
        } else if interface.is_none() {
            p.address = address;
        }
        p.interface = interface;
        if out {
            (p.egress_bps, p.egress_pps, p.egress_burst) = (bps, pps, burst);
        } else {
            (p.ingress_bps, p.ingress_pps, p.ingress_burst) = (bps, pps, burst);
        }
        (p.quarantine, p.bpdu_guard, p.errdisable_recovery) = (quarantine, bpdu_guard, recovery);
        p.mirror = mirror.filter(|_| mirrors);
        (p.learning, p.flood) = (learning, flood);
        Port { vlan, bum_pps: bum_pps * 5000, fdb_max: fdb_max * 512, mtu, kind, xdp, enabled, ..p }
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    (
        pick("r", 6),
        ip(0),
        of(vec(pick("n", 6), 0..4)),
        of(pick("r", 6)),
        any::<bool>(),
        of(570u16..1600),
        of(any::<bool>()),
        [of(outer()), of(outer())],
    )
        .prop_map(|(name, address, networks, via, relay, mtu, fragment, [ttl, tos])| Peer {
            networks,
            via,
            relay,
            mtu,
            fragment,
            ttl,
            tos,
            ..Peer::new(name, address)
        })
}

fn outer() -> impl Strategy<Value = Outer> {
    prop_oneof![Just(Outer::Named(Inherit::Inherit)), (0u8..3).prop_map(|n| Outer::Number(n * 4))]
}

fn floating() -> impl Strategy<Value = Floating> {
    let gateway = prop_oneof![Just("me".to_owned()), pick("r", 6)];
    let inside = of((pick("n", 6), ip(5)));
    (ip(6), pick("n", 6), gateway, of(ip(0)), inside, vec(ports(), 0..3), of(vec(ports(), 0..3))).prop_map(
        |(ip, network, gateway, reality, inside, only, except)| Floating {
            reality,
            inside: inside.map(|(network, address)| Inside { network, address }),
            only,
            except,
            ..Floating::new(ip, network, gateway)
        },
    )
}

fn route() -> impl Strategy<Value = Route> {
    let via = prop_oneof![pick("r", 6), ip(7).prop_map(|ip| ip.to_string())];
    (pick("n", 6), net(6), via).prop_map(|(network, from, via)| Route { network, from, via })
}

fn fdb() -> impl Strategy<Value = StaticFdb> {
    (pick("n", 6), mac(), any::<bool>(), pick("r", 6), pick("p", 8), 0u16..3).prop_map(
        |(network, mac, at_peer, peer, port, vlan)| StaticFdb {
            network,
            mac,
            peer: at_peer.then_some(peer),
            port: (!at_peer).then_some(port),
            vlan,
        },
    )
}

fn uplink() -> impl Strategy<Value = Uplink> {
    let kind =
        prop_oneof![4 => Just(UplinkKind::Afxdp), 1 => Just(UplinkKind::Packet), 1 => Just(UplinkKind::Udp)];
    let header = ([of(outer()), of(outer())], any::<bool>());
    (of(ip(0)), 0u16..3, any::<[bool; 3]>(), xdp(), of(vec(net(8), 0..3)), kind, header).prop_map(
        |(address, port, [checksum, probe, fragment], xdp, guard, kind, ([ttl, tos], strict))| Uplink {
            address,
            port: port * 4789,
            checksum,
            probe,
            fragment,
            ttl,
            tos,
            reserved_bits: if strict { ReservedBits::default() } else { ReservedBits(0xff) },
            kind,
            xdp,
            guard,
            ..Uplink::new("eth0")
        },
    )
}

fn workers() -> impl Strategy<Value = Workers> {
    let count =
        prop_oneof![Just(WorkerCount::Named(AutoCount::Auto)), (0..66_usize).prop_map(WorkerCount::Number)];
    (count, vec(0..9_usize, 0..3)).prop_map(|(count, cpus)| Workers { count, cpus })
}

/// Any configuration; most have several errors.
pub(crate) fn messy_config() -> impl Strategy<Value = Config> {
    let lists = (vec(network(), 0..7), vec(port(), 0..10), vec(peer(), 0..7));
    let more = (vec(floating(), 0..6), vec(route(), 0..5), vec(fdb(), 0..5));
    ((of(Just("me".to_owned())), cache()), of(uplink()), workers(), lists, more).prop_map(
        |((name, cache), uplink, workers, (network, port, peer), (floating, route, fdb))| Config {
            name,
            cache,
            uplink,
            workers,
            network,
            port,
            peer,
            floating,
            route,
            fdb,
        },
    )
}

/// A valid configuration of an rVM on host `me`.
pub(crate) fn config() -> impl Strategy<Value = Config> {
    messy_config().prop_map(|mut c| {
        loop {
            let mut wrong: Vec<Place> = check(&c, Some("me")).into_iter().map(|f| f.place).collect();
            if wrong.is_empty() {
                return c;
            }
            wrong.sort_unstable();
            wrong.dedup();
            for place in wrong.into_iter().rev() {
                match place {
                    Place::Top => c.name = None,
                    Place::Uplink => c.uplink = None,
                    Place::Workers => c.workers = Workers::default(),
                    Place::Entry(Section::Network, i) => drop(c.network.remove(i)),
                    Place::Entry(Section::Port, i) => drop(c.port.remove(i)),
                    Place::Entry(Section::Peer, i) => drop(c.peer.remove(i)),
                    Place::Entry(Section::Floating, i) => drop(c.floating.remove(i)),
                    Place::Entry(Section::Route, i) => drop(c.route.remove(i)),
                    Place::Entry(Section::Fdb, i) => drop(c.fdb.remove(i)),
                }
            }
        }
    })
}
