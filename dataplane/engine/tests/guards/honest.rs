//! Ordinary frames of honest stations, which pass; and one lie of each kind, with its drop reason.

use engine::command::*;
use engine::counters::DropReason;
use engine::frame::Offload;
use engine::wire::ip::Ip;
use engine::wire::mac::MacAddr;

use crate::build::{Cuts, Link, OTHER, OWN, ROUTER, Upper, frame, ip, ipv4, ipv6, udp_bytes};
use crate::{DOOR, GUEST, World, binding, prefix};

fn link(dst: [u8; 6]) -> Link {
    Link { dst: MacAddr(dst), src: OWN, tags: vec![], snap: None, inner: vec![] }
}

fn everyone() -> Link {
    link([0xff; 6])
}

fn four(src: &str, proto: u8, bytes: &[u8]) -> Vec<u8> {
    let upper = Upper { proto, bytes: bytes.to_vec() };
    frame(&everyone(), 0x0800, &ipv4(ip(src), false, &[upper.clone(), upper], None)[0])
}

fn six(src: &str, proto: u8, bytes: &[u8]) -> Vec<u8> {
    let upper = Upper { proto, bytes: bytes.to_vec() };
    let packets = ipv6(ip(src), &vec![], &[vec![], vec![]], &[upper.clone(), upper], None);
    frame(&link([0x33, 0x33, 0, 0, 0, 1]), 0x86dd, &packets[0])
}

/// An ND message: its kind, target and link-layer options.
pub(super) fn nd(src: &str, kind: u8, target: &str, options: &[(u8, MacAddr)]) -> Vec<u8> {
    six(src, 58, &nd_bytes(kind, target, options))
}

fn nd_bytes(kind: u8, target: &str, options: &[(u8, MacAddr)]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    match kind {
        133 => {}
        134 => bytes.extend([0; 8]),
        _ => bytes.extend(ip(target).v6_bytes()),
    }
    for (kind, mac) in options {
        bytes.extend([*kind, 1]);
        bytes.extend(mac.0);
    }
    bytes
}

fn arp(op: u16, sender: (MacAddr, &str), target: &str) -> Vec<u8> {
    let mut p = [&[0, 1, 8, 0, 6, 4][..], &op.to_be_bytes(), &sender.0.0].concat();
    p.extend(ip(sender.1).v4_bytes());
    p.extend([0; 6]);
    p.extend(ip(target).v4_bytes());
    frame(&everyone(), 0x0806, &p)
}

/// A RARP packet: QEMU broadcasts requests for a guest that has moved.
fn rarp(op: u16, sender: MacAddr, target: MacAddr) -> Vec<u8> {
    let p = [&[0, 1, 8, 0, 6, 4][..], &op.to_be_bytes(), &sender.0, &[0; 4], &target.0, &[0; 4]].concat();
    frame(&everyone(), 0x8035, &p)
}

/// A message to a DHCP server or a client: `op`, client's and relay's address, hardware address.
fn bootp(op: u8, has: &str, relay: &str, mac: MacAddr) -> Vec<u8> {
    let mut message = vec![0; 300];
    message[..3].copy_from_slice(&[op, 1, 6]);
    message[12..16].copy_from_slice(&ip(has).v4_bytes());
    message[24..28].copy_from_slice(&ip(relay).v4_bytes());
    message[28..34].copy_from_slice(&mac.0);
    message
}

fn question(has: &str, relay: &str, mac: MacAddr) -> Vec<u8> {
    udp_bytes(68, 67, &bootp(1, has, relay, mac))
}

/// The fragments of one packet over IPv4, each of `step` units of eight bytes.
fn fragments4(src: &str, upper: &Upper, step: u16) -> Vec<Vec<u8>> {
    let pair = [upper.clone(), upper.clone()];
    let packets = ipv4(ip(src), false, &pair, Some(&cuts(upper, step)));
    packets.iter().map(|packet| frame(&everyone(), 0x0800, packet)).collect()
}

fn fragments6(src: &str, behind: &[(u8, u8)], upper: &Upper, step: u16) -> Vec<Vec<u8>> {
    let (pair, behind) = ([upper.clone(), upper.clone()], [behind.to_vec(), behind.to_vec()]);
    let packets = ipv6(ip(src), &vec![], &behind, &pair, Some(&cuts(upper, step)));
    packets.iter().map(|packet| frame(&everyone(), 0x86dd, packet)).collect()
}

fn cuts(upper: &Upper, step: u16) -> Cuts {
    let units = (upper.bytes.len() as u16).div_ceil(8) + 8;
    (0..units).step_by(usize::from(step)).map(|at| (at, step, at + step < units, false)).collect()
}

fn atomic(src: &str, upper: &Upper) -> Vec<u8> {
    let pair = [upper.clone(), upper.clone()];
    frame(&everyone(), 0x86dd, &ipv6(ip(src), &vec![], &[vec![], vec![]], &pair, Some(&vec![]))[0])
}

fn tagged(tags: &[(u16, u16)], bytes: &[u8]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|(tpid, vid)| [tpid.to_be_bytes(), vid.to_be_bytes()].concat());
    [&bytes[..12], &tags.collect::<Vec<u8>>(), &bytes[12..]].concat()
}

const OWN_LINK_LOCAL: &str = "fe80::ff:fe00:9";

/// A station boots, finds its addresses free, joins its groups, asks for routers and leases, resolves its
/// neighbours, answers them, and sends small and large packets.
#[test]
fn an_honest_life_passes() {
    let mut w = World::new();
    let datagram = |len| Upper { proto: 17, bytes: udp_bytes(4000, 2049, &vec![7; len]) };
    let echo = Upper { proto: 58, bytes: [vec![128, 0, 0, 0, 0, 1, 0, 1], vec![7; 3000]].concat() };
    let mut life = vec![
        ("duplicate address detection, link-local", nd("::", 135, OWN_LINK_LOCAL, &[])),
        ("duplicate address detection, global", nd("::", 135, "fd01::9", &[])),
        ("a report of groups without an address", six("::", 58, &[143, 0, 0, 0, 0, 0, 0, 0])),
        ("a question for routers without an address", nd("::", 133, "::", &[])),
        ("a question for routers", nd(OWN_LINK_LOCAL, 133, "::", &[(1, OWN)])),
        ("a solicitation for a neighbour", nd(OWN_LINK_LOCAL, 135, "fd01::8", &[(1, OWN)])),
        ("a solicitation from the global address", nd("fd01::9", 135, "fe80::2", &[(14, OTHER), (1, OWN)])),
        ("an advertisement", nd("fd01::9", 136, "fd01::9", &[(2, OWN)])),
        ("an advertisement from the link-local address", nd(OWN_LINK_LOCAL, 136, "fd01::9", &[(2, OWN)])),
        ("an advertisement without an option", nd("fd01::9", 136, OWN_LINK_LOCAL, &[])),
        ("an echo", six("fd01::9", 58, &[128, 0, 0, 0, 0, 1, 0, 1])),
        ("an atomic fragment of a datagram", atomic("fd01::9", &datagram(20))),
        ("DHCPv6", six(OWN_LINK_LOCAL, 17, &udp_bytes(546, 547, &[1, 1, 2, 3]))),
        ("a DHCPv6 renewal from a global address", six("fd01::9", 17, &udp_bytes(546, 547, &[5, 1, 2, 3]))),
        ("an ARP probe", arp(1, (OWN, "0.0.0.0"), "10.1.0.9")),
        ("a gratuitous ARP request", arp(1, (OWN, "10.1.0.9"), "10.1.0.9")),
        ("a gratuitous ARP reply", arp(2, (OWN, "10.1.0.9"), "10.1.0.9")),
        ("an ARP request", arp(1, (OWN, "10.1.0.9"), "10.1.0.8")),
        ("an ARP reply", arp(2, (OWN, "10.1.0.9"), "10.1.0.8")),
        ("an announcement after a move", rarp(3, OWN, OWN)),
        ("a search for a DHCP server", four("0.0.0.0", 17, &question("0.0.0.0", "0.0.0.0", OWN))),
        ("a renewal of a lease", four("10.1.0.9", 17, &question("10.1.0.9", "0.0.0.0", OWN))),
        (
            "a question to a boot server",
            four("10.1.0.9", 17, &udp_bytes(68, 4011, &bootp(1, "10.1.0.9", "0.0.0.0", OWN))),
        ),
        (
            "an answer to a client whose port is a boot server's",
            four("10.1.0.9", 17, &udp_bytes(53, 4011, &[9; 400])),
        ),
        ("a report of groups", four("10.1.0.9", 2, &[0x22, 0, 0, 0, 0, 0, 0, 0])),
        ("a report of groups from 0.0.0.0", four("0.0.0.0", 2, &[0x16, 0, 0, 0, 224, 0, 0, 251])),
        ("a time-to-live error", four("10.1.0.9", 1, &[11, 0, 0, 0, 0, 0, 0, 0])),
        ("a priority tag", tagged(&[(0x8100, 0x6000)], &arp(1, (OWN, "10.1.0.9"), "10.1.0.8"))),
        ("two tags", tagged(&[(0x88a8, 5), (0x8100, 6)], &arp(1, (OWN, "10.1.0.9"), "10.1.0.8"))),
        ("another protocol", frame(&everyone(), 0x88b5, &[0; 46])),
    ];
    life.extend(fragments4("10.1.0.9", &datagram(4000), 180).into_iter().map(|f| ("a large datagram", f)));
    life.extend(
        fragments6("fd01::9", &[], &datagram(4000), 150).into_iter().map(|f| ("a large datagram", f)),
    );
    life.extend(
        fragments6("fd01::9", &[], &datagram(1300), 82).into_iter().map(|f| ("a datagram in halves", f)),
    );
    life.extend(fragments6("fd01::9", &[], &echo, 150).into_iter().map(|f| ("a large echo", f)));
    for (what, bytes) in &life {
        for time in ["first", "second"] {
            assert!(w.passes(GUEST, bytes), "{what}, the {time} time: {:?}", w.drops(GUEST));
        }
    }
    assert_eq!(w.drops(GUEST).len(), 0, "{:?}", w.drops(GUEST));
}

/// One lie of each kind, with its drop reason.
#[test]
fn every_lie_has_its_name() {
    use DropReason::*;
    let offer = bootp(2, "0.0.0.0", "0.0.0.0", OTHER);
    let advertisement = Upper { proto: 58, bytes: [nd_bytes(134, "::", &[(1, OWN)]), vec![0; 32]].concat() };
    let claim = Upper { proto: 58, bytes: nd_bytes(136, "fd01::9", &[(2, OWN)]) };
    let mut malformed = nd("fd01::9", 136, "fd01::9", &[(2, OWN)]);
    *malformed.iter_mut().rev().nth(6).unwrap() = 0;
    let other_length = {
        let mut bytes = nd_bytes(136, "fd01::9", &[(2, OWN), (0, OWN)]);
        bytes[25] = 2;
        six("fd01::9", 58, &bytes)
    };
    let mut hardware = arp(2, (OWN, "10.1.0.8"), "10.1.0.9");
    hardware[15] = 6;
    let snap = |packet: &[u8], len| frame(&Link { snap: Some(len), ..everyone() }, 0x0800, packet);
    let packet = &four("10.1.0.9", 17, &udp_bytes(1, 68, &offer))[14..];
    let mut lies = vec![
        ("an offer from port 67", DhcpServerGuard, four("10.1.0.9", 17, &udp_bytes(67, 68, &offer))),
        ("an offer from another port", DhcpServerGuard, four("10.1.0.9", 17, &udp_bytes(6767, 68, &offer))),
        ("an offer by way of a relay", DhcpServerGuard, four("10.1.0.9", 17, &udp_bytes(68, 67, &offer))),
        ("a boot server's answer", DhcpServerGuard, four("10.1.0.9", 17, &udp_bytes(5, 4011, &offer))),
        ("a relayed question", DhcpMalformed, four("10.1.0.9", 17, &question("0.0.0.0", "10.1.0.9", OWN))),
        ("another's question", DhcpMalformed, four("0.0.0.0", 17, &question("0.0.0.0", "0.0.0.0", OTHER))),
        ("a release for another", DhcpMalformed, four("10.1.0.9", 17, &question("10.1.0.8", "0.0.0.0", OWN))),
        ("a DHCPv6 reply", DhcpServerGuard, six("fd01::9", 17, &udp_bytes(547, 546, &[7, 1, 2, 3]))),
        ("one from another port", DhcpServerGuard, six("fd01::9", 17, &udp_bytes(6767, 546, &[2, 1, 2, 3]))),
        ("a reply to a relay", DhcpServerGuard, six("fd01::9", 17, &udp_bytes(6767, 547, &[13, 0, 0, 0]))),
        ("a relayed DHCPv6 question", DhcpServerGuard, six("fd01::9", 17, &udp_bytes(546, 547, &[12, 0]))),
        ("a router advertisement", RaGuard, six(OWN_LINK_LOCAL, 58, &advertisement.bytes)),
        ("one in an atomic fragment", RaGuard, atomic(OWN_LINK_LOCAL, &advertisement)),
        ("a redirect", RaGuard, six(OWN_LINK_LOCAL, 58, &[137; 40])),
        ("an ICMP redirect", RaGuard, four("10.1.0.9", 1, &[5, 1, 0, 0, 10, 1, 0, 9])),
        ("an ICMP router advertisement", RaGuard, four("10.1.0.9", 1, &[9, 0, 0, 0, 1, 2, 0, 9])),
        ("ND in an atomic fragment", FragmentGuard, atomic("fd01::9", &claim)),
        ("a query of listeners", QuerierGuard, four("10.1.0.9", 2, &[0x11, 0, 0, 0, 0, 0, 0, 0])),
        ("an MLD query", QuerierGuard, six(OWN_LINK_LOCAL, 58, &[130; 24])),
        ("DVMRP", QuerierGuard, four("10.1.0.9", 2, &[0x13, 1, 0, 0, 0, 0, 0, 0])),
        ("PIM version 1", QuerierGuard, four("10.1.0.9", 2, &[0x14, 0, 0, 0, 0, 0, 0, 0])),
        ("a multicast router", QuerierGuard, four("10.1.0.9", 2, &[0x30, 20, 0, 0, 0, 0, 0, 0])),
        ("one over IPv6", QuerierGuard, six(OWN_LINK_LOCAL, 58, &[151, 20, 0, 0, 0, 0, 0, 0])),
        ("PIM", QuerierGuard, four("10.1.0.9", 103, &[0x20, 0, 0, 0])),
        ("PIM over IPv6", QuerierGuard, six(OWN_LINK_LOCAL, 103, &[0x20, 0, 0, 0])),
        (
            "a DHCPv6 reply over IPv4",
            DhcpServerGuard,
            four("10.1.0.9", 17, &udp_bytes(6767, 546, &[7, 1, 2, 3])),
        ),
        (
            "one from the server's port",
            DhcpServerGuard,
            four("10.1.0.9", 17, &udp_bytes(547, 6767, &[7, 1, 2, 3])),
        ),
        (
            "a DHCPv6 question over IPv4",
            DhcpMalformed,
            four("10.1.0.9", 17, &udp_bytes(546, 547, &[1, 1, 2, 3])),
        ),
        ("the neighbour's advertisement", SpoofedNeighbor, nd("fd01::9", 136, "fd01::8", &[(2, OWN)])),
        ("the router's link-local address", SpoofedNeighbor, nd("fd01::9", 136, "fe80::1", &[(2, OWN)])),
        ("one nobody has", SpoofedNeighbor, nd("fd01::9", 136, "fe80::5", &[(2, OWN)])),
        ("sent from it", SpoofedIp, nd("fe80::1", 136, "fd01::9", &[(2, OWN)])),
        ("the neighbour's address is probed", SpoofedNeighbor, nd("::", 135, "fd01::8", &[])),
        ("and its link-local one", SpoofedNeighbor, nd("::", 135, "fe80::ff:fe00:8", &[])),
        ("an advertisement from nowhere", SpoofedIp, nd("::", 136, "fd01::9", &[(2, OWN)])),
        ("another MAC first", SpoofedNeighbor, nd("fd01::9", 136, "fd01::9", &[(2, OTHER), (2, OWN)])),
        ("another MAC second", SpoofedNeighbor, nd("fd01::9", 136, "fd01::9", &[(2, OWN), (2, OTHER)])),
        ("another MAC as the source's", SpoofedNeighbor, nd("fd01::9", 135, "fd01::8", &[(1, OTHER)])),
        ("another MAC that asks for routers", SpoofedNeighbor, nd("fd01::9", 133, "::", &[(1, OTHER)])),
        ("a MAC without an address", IpMalformed, nd("::", 133, "::", &[(1, OWN)])),
        ("an option without length", IpMalformed, malformed),
        ("an option of another length", SpoofedNeighbor, other_length),
        ("an ARP reply for the neighbour", SpoofedNeighbor, arp(2, (OWN, "10.1.0.8"), "10.1.0.9")),
        ("one for the gateway", SpoofedNeighbor, arp(2, (OWN, "10.1.0.1"), "10.1.0.8")),
        ("one with the neighbour's MAC", SpoofedNeighbor, arp(2, (OTHER, "10.1.0.9"), "10.1.0.8")),
        ("an ARP probe for the neighbour's", SpoofedNeighbor, arp(1, (OWN, "0.0.0.0"), "10.1.0.8")),
        ("a reply from 0.0.0.0", SpoofedNeighbor, arp(2, (OWN, "0.0.0.0"), "10.1.0.9")),
        ("ARP for another hardware", IpMalformed, hardware),
        ("a RARP reply", SpoofedNeighbor, rarp(4, OWN, OTHER)),
        ("a RARP question for another", SpoofedNeighbor, rarp(3, OWN, OTHER)),
        ("a packet from nowhere", SpoofedIp, four("0.0.0.0", 17, &udp_bytes(1, 2, &[]))),
        ("a packet from the gateway", SpoofedIp, four("10.1.0.1", 17, &udp_bytes(1, 2, &[]))),
        ("a packet from a group", SpoofedIp, four("224.0.0.1", 17, &udp_bytes(1, 2, &[]))),
        ("a packet from nowhere over IPv6", SpoofedIp, six("::", 17, &udp_bytes(1, 2, &[]))),
        ("SNAP", LlcGuard, snap(packet, 0x100)),
        ("SNAP of an impossible length", LlcGuard, snap(packet, 0x5ff)),
        ("SNAP behind a tag", LlcGuard, tagged(&[(0x8100, 0)], &snap(packet, 0))),
        (
            "long LLC",
            LlcGuard,
            frame(&everyone(), 0x8870, &[&[0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd][..], &[0; 40]].concat()),
        ),
        ("LACP to everyone", LinkLocalGroup, frame(&everyone(), 0x8809, &[1; 110])),
        (
            "LLDP to a station",
            LinkLocalGroup,
            tagged(&[(0x8100, 0)], &frame(&link([2, 0, 0, 0, 0, 1]), 0x88cc, &[2; 46])),
        ),
        ("connectivity faults", LinkLocalGroup, frame(&link([1, 0x80, 0xc2, 0, 0, 0x37]), 0x8902, &[0; 46])),
        ("three tags", VlanNotAllowed, tagged(&[(0x8100, 0); 3], &arp(2, (OWN, "10.1.0.9"), "10.1.0.9"))),
        ("an old tag", VlanNotAllowed, tagged(&[(0x9100, 0)], &arp(2, (OWN, "10.1.0.9"), "10.1.0.9"))),
        ("MVRP", LinkLocalGroup, frame(&link([1, 0x80, 0xc2, 0, 0, 0x21]), 0x88f5, &[0; 46])),
        ("PVST+", LinkLocalGroup, frame(&link([1, 0, 0x0c, 0xcc, 0xcc, 0xcd]), 0x88b5, &[0; 46])),
        ("CDP", LinkLocalGroup, frame(&link([1, 0, 0x0c, 0xcc, 0xcc, 0xcc]), 0x88b5, &[0; 46])),
        ("no transport header", IpMalformed, six("fd01::9", 58, &[])),
    ];
    // The first fragment of a packet is dropped, for its visible or hidden headers. Over IPv6 the later
    // fragments of small packets are dropped too, and those of packets with extension headers behind the
    // fragment header.
    let tiny = Upper { proto: 17, bytes: vec![1; 4] };
    let offer4 = Upper { proto: 17, bytes: udp_bytes(1, 68, &offer) };
    let cut_question = Upper { proto: 17, bytes: question("0.0.0.0", "0.0.0.0", OWN) };
    let cut_boot = Upper { proto: 17, bytes: udp_bytes(1, 4011, &offer) };
    let cut_solicit = Upper { proto: 17, bytes: udp_bytes(546, 547, &[1; 60]) };
    let long = Upper { proto: 17, bytes: udp_bytes(1, 2, &[1; 60]) };
    let hidden = [(60, 1)];
    for (what, reason, fragments) in [
        ("an offer in fragments", DhcpServerGuard, fragments4("10.1.0.9", &offer4, 1)),
        ("a question in fragments", DhcpMalformed, fragments4("10.1.0.9", &cut_question, 9)),
        ("a boot server's answer in fragments", FragmentGuard, fragments4("10.1.0.9", &cut_boot, 9)),
        ("half a header", FragmentGuard, fragments4("10.1.0.9", &tiny, 4)),
        ("an advertisement of a router", RaGuard, fragments6(OWN_LINK_LOCAL, &[], &advertisement, 2)),
        (
            "its header in the second fragment",
            FragmentGuard,
            fragments6(OWN_LINK_LOCAL, &[(60, 2)], &advertisement, 3),
        ),
        ("half an extension header", IpMalformed, fragments6(OWN_LINK_LOCAL, &[(60, 2)], &advertisement, 2)),
        ("extension headers in fragments", FragmentGuard, fragments6("fd01::9", &hidden, &long, 5)),
        ("ND in fragments", FragmentGuard, fragments6("fd01::9", &[], &claim, 2)),
        ("DHCPv6 in fragments", DhcpMalformed, fragments6("fd01::9", &[], &cut_solicit, 4)),
    ] {
        let six = fragments[0][12..14] == [0x86, 0xdd];
        for (n, fragment) in fragments.into_iter().enumerate() {
            match n {
                0 => lies.push((what, reason, fragment)),
                _ if six => lies.push((what, FragmentGuard, fragment)),
                _ => {}
            }
        }
    }
    for (what, reason, bytes) in lies {
        let mut w = World::new();
        for _ in 0..2 {
            assert_eq!(w.forward(GUEST, &bytes, Offload::NONE), vec![], "{what}");
        }
        assert_eq!(w.drops(GUEST), [(reason, 2)].into(), "{what}");
    }
}

/// A prefix does not bind a gateway address in it. A guest without bound addresses may use only those that a
/// host may have, and not the gateway's. Shared addresses are its own too.
#[test]
fn what_a_binding_covers() {
    let mut w = World::new();
    let from = |src: &str| four(src, 17, &udp_bytes(1, 2, &[]));
    w.port(GUEST, Role::Guest, binding(OWN, &["10.1.0.0/24", "fd01::/64"], LinkLocalRule::Eui64));
    assert!(w.passes(GUEST, &from("10.1.0.200")) && !w.passes(GUEST, &from("10.1.0.1")));
    assert!(w.passes(GUEST, &nd("fd01::9", 136, "fd01::77", &[])));
    assert!(!w.passes(GUEST, &nd("fd01::9", 136, "fd01::1", &[])), "the gateway's");
    // With a prefix of link-local addresses, or no addresses at all, each other port keeps the address
    // derived from its MAC.
    for ips in [&["fd01::/64", "fe80::/10"][..], &[]] {
        w.port(GUEST, Role::Guest, binding(OWN, ips, LinkLocalRule::Eui64));
        for (target, passes) in
            [("fe80::5", true), (OWN_LINK_LOCAL, true), ("fe80::ff:fe00:8", false), ("fe80::1", false)]
        {
            assert_eq!(w.passes(GUEST, &nd("fd01::9", 136, target, &[])), passes, "{target}");
        }
    }
    for (src, passes) in [("10.9.9.9", true), ("10.1.0.1", false), ("224.0.0.1", false), ("127.0.0.1", false)]
    {
        assert_eq!(w.passes(GUEST, &from(src)), passes, "{src}");
    }
    assert!(w.passes(GUEST, &nd("fe80::5", 136, "fe80::5", &[])));
    assert!(!w.passes(GUEST, &nd("fe80::5", 136, "fe80::1", &[])), "the gateway's");
    let shared = Binding {
        macs: vec![OWN, MacAddr([0, 0, 0x5e, 0, 1, 1])],
        shared_ips: vec![prefix("10.1.0.100")],
        ..binding(OWN, &["10.1.0.9"], LinkLocalRule::Eui64)
    };
    w.port(GUEST, Role::Guest, shared);
    assert!(w.passes(GUEST, &from("10.1.0.100")) && !w.passes(GUEST, &from("10.1.0.101")));
    assert!(w.passes(GUEST, &arp(2, (MacAddr([0, 0, 0x5e, 0, 1, 1]), "10.1.0.100"), "10.1.0.100")));
}

/// A second tag is refused where the port has VLANs. Removing the first tag at a trunk's native VLAN would
/// otherwise leave the second one as the frame's own.
#[test]
fn a_second_tag_does_not_become_the_first() {
    let mut w = World::new();
    let policies = [
        VlanPolicy::Access(10),
        VlanPolicy::Trunk { tagged: vec![], native: Some(10) },
        VlanPolicy::Trunk { tagged: vec![10], native: None },
    ];
    let hop = |vid| tagged(&[(0x8100, vid), (0x8100, 20)], &frame(&everyone(), 0x88b5, &[0; 46]));
    for role in [Role::Guest, Role::Door] {
        for policy in &policies {
            let binding = if role == Role::Guest {
                binding(OWN, &[], LinkLocalRule::Eui64)
            } else {
                Binding::default()
            };
            let trunk = matches!(policy, VlanPolicy::Trunk { native: None, .. });
            for (id, role, vlan, binding) in [
                (GUEST, role, policy.clone(), binding.clone()),
                (
                    DOOR,
                    Role::Door,
                    VlanPolicy::Trunk { tagged: vec![20], native: Some(10) },
                    Binding::default(),
                ),
            ] {
                w.apply(Command::SetPort(
                    id,
                    PortConfig {
                        vni: Some(crate::VNI),
                        role,
                        live: true,
                        mtu: 1500,
                        vlan,
                        binding: Box::new(binding),
                        bum_pps: None,
                        policy: Box::default(),
                        fdb_max: 100,
                    },
                ));
            }
            let hops = w.passes(GUEST, &hop(if trunk { 10 } else { 0 }));
            // A door's trunk carries the tags that the CMS stacks.
            assert_eq!(hops, trunk && role == Role::Door, "{role:?} {policy:?}");
            let one = tagged(&[(0x8100, if trunk { 10 } else { 0 })], &frame(&everyone(), 0x88b5, &[0; 46]));
            assert!(w.passes(GUEST, &one), "{role:?} {policy:?}");
        }
    }
}

/// A checksum that is still to be written into a DHCP question, an IGMP message or a RARP packet would change
/// the message after the guard has read it, and the guard sees only the first segment of a GSO packet. Such
/// frames are refused.
#[test]
fn what_is_unfinished_is_judged_as_it_will_be() {
    let mut w = World::new();
    let bytes = four("0.0.0.0", 17, &question("0.0.0.0", "0.0.0.0", OWN));
    let at = |csum_start| Offload { csum_start, csum_offset: 0, ..Offload::NONE };
    assert_eq!(w.forward(GUEST, &bytes, at(42)), vec![]);
    assert_eq!(w.drops(GUEST), [(DropReason::OffloadInvalid, 1)].into());
    // A report, whose type would be the first byte of the checksum.
    let report = four("10.1.0.9", 2, &[0x16, 0, 0, 0, 239, 1, 1, 1]);
    assert_eq!(w.forward(GUEST, &report, at(34)), vec![]);
    assert_eq!(w.drops(GUEST), [(DropReason::OffloadInvalid, 2)].into());
    for start in [14, 20, 22] {
        assert_eq!(w.forward(GUEST, &rarp(3, OWN, OWN), at(start)), vec![]);
    }
    assert_eq!(w.drops(GUEST)[&DropReason::OffloadUnknown], 3);
    let two = [bootp(1, "0.0.0.0", "0.0.0.0", OWN), bootp(2, "0.0.0.0", "0.0.0.0", OTHER)].concat();
    for (dport, reason) in [(67, DropReason::DhcpMalformed), (4011, DropReason::DhcpServerGuard)] {
        let mut w = World::new();
        let gso = Offload {
            csum_start: 34,
            csum_offset: 6,
            gso_kind: engine::frame::GsoKind::Udp,
            gso_size: 300,
            ..Offload::NONE
        };
        assert_eq!(w.forward(GUEST, &four("10.1.0.9", 17, &udp_bytes(68, dport, &two)), gso), vec![]);
        assert_eq!(w.drops(GUEST), [(reason, 1)].into(), "{dport}");
    }
}

/// A guest may send neither from the gateway's MAC nor from its neighbour's.
#[test]
fn the_source_mac_is_the_guests() {
    let mut w = World::new();
    for (src, reason) in [(OTHER, DropReason::SpoofedMac), (ROUTER, DropReason::SourceMacOurs)] {
        let bytes = frame(&Link { src, ..everyone() }, 0x88b5, &[0; 46]);
        assert!(!w.passes(GUEST, &bytes));
        assert_eq!(w.drops(GUEST)[&reason], 1);
    }
    assert_eq!(Ip::v6(OWN.link_local()), ip(OWN_LINK_LOCAL));
}
