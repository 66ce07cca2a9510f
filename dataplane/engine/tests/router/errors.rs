//! The errors that senders get, and the senders that get none.

use std::net::IpAddr;

use engine::command::*;
use engine::counters::DropReason;
use engine::forward::trail::Step;
use engine::forward::verdict::Refusal;
use engine::frame::{GsoKind, Offload};
use engine::limits::{ICMP_ERRORS_PER_SOURCE_PPS, ICMP_ERRORS_PPS};
use engine::port::PortCaps;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, Icmpv4DstUnreachable as Unreachable, Icmpv4Message, Icmpv4Packet, Icmpv4Repr,
    Icmpv4TimeExceeded, Icmpv6DstUnreachable, Icmpv6Message, Icmpv6Packet, Icmpv6ParamProblem, Icmpv6Repr,
    Ipv4Packet, Ipv6Packet, TcpPacket,
};

use crate::rvm::{
    Addresses, DOOR1, DOOR2, GUEST, Kind, PRIVATE, PROVIDER, PUBLIC, Rvm, TUNNEL_MTU, UPLINK, addresses,
    assert_checksums, ends, fix_ipv4, inner, ip, mac, packet, router_mac, switch_mac, vni,
};

/// An error as smoltcp reads it: source, destination, message, and the quoted packet.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Error {
    from: IpAddr,
    to: IpAddr,
    /// Type, code and the four bytes behind the checksum.
    what: (u8, u8, u32),
    quote: Vec<u8>,
}

/// Reads a frame that is an ICMP error. Every checksum is right, and smoltcp accepts it as an error (if the
/// quote is whole; it accepts no others).
fn read(frame: &[u8]) -> Error {
    assert_checksums(frame);
    let eth = EthernetFrame::new_checked(frame).unwrap();
    let (from, to) = ends(frame);
    let icmp = if from.is_ipv4() {
        let ip = Ipv4Packet::new_checked(eth.payload()).unwrap();
        assert_eq!((ip.hop_limit(), ip.dont_frag()), (64, true));
        let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
        let repr = Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default());
        assert!(repr.is_ok() || Ipv4Packet::new_checked(icmp.data()).is_err());
        ip.payload().to_vec()
    } else {
        let ip = Ipv6Packet::new_checked(eth.payload()).unwrap();
        assert_eq!(ip.hop_limit(), 64);
        let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        let caps = ChecksumCapabilities::default();
        let repr = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &caps);
        assert!(repr.is_ok() || Ipv6Packet::new_checked(icmp.payload()).is_err());
        ip.payload().to_vec()
    };
    let rest = u32::from_be_bytes(icmp[4..8].try_into().unwrap());
    Error { from, to, what: (icmp[0], icmp[1], rest), quote: icmp[8..].to_vec() }
}

/// Type and code of a refusal in either family, in smoltcp's numbers.
fn numbers(what: Refusal, v6: bool) -> (u8, u8) {
    let v4 = |code: Unreachable| (Icmpv4Message::DstUnreachable.into(), code.into());
    let v6_of = |code: Icmpv6DstUnreachable| (Icmpv6Message::DstUnreachable.into(), code.into());
    match (what, v6) {
        (Refusal::TimeExceeded, false) => {
            (Icmpv4Message::TimeExceeded.into(), Icmpv4TimeExceeded::TtlExpired.into())
        }
        (Refusal::TimeExceeded, true) => (Icmpv6Message::TimeExceeded.into(), 0),
        (Refusal::NoRoute, false) => v4(Unreachable::NetUnreachable),
        (Refusal::NoRoute, true) => v6_of(Icmpv6DstUnreachable::NoRoute),
        (Refusal::HostUnreachable, false) => v4(Unreachable::HostUnreachable),
        (Refusal::HostUnreachable, true) => v6_of(Icmpv6DstUnreachable::AddrUnreachable),
        (Refusal::Prohibited, false) => v4(Unreachable::CommProhibited),
        (Refusal::Prohibited, true) => v6_of(Icmpv6DstUnreachable::AdminProhibit),
        (Refusal::PortUnreachable, false) => v4(Unreachable::PortUnreachable),
        (Refusal::PortUnreachable, true) => v6_of(Icmpv6DstUnreachable::PortUnreachable),
        (Refusal::ProtocolUnreachable, false) => v4(Unreachable::ProtoUnreachable),
        (Refusal::ProtocolUnreachable, true) => {
            (Icmpv6Message::ParamProblem.into(), Icmpv6ParamProblem::UnrecognizedNxtHdr.into())
        }
        (Refusal::TooBig(_), false) => v4(Unreachable::FragRequired),
        (Refusal::TooBig(_), true) => (Icmpv6Message::PktTooBig.into(), 0),
        (Refusal::Reset, _) => panic!("no ICMP"),
    }
}

/// An rVM whose guest has its floating IP here.
fn owner(v6: bool) -> Rvm {
    let mut rvm = Rvm::new(11);
    rvm.float(v6, true, true, &[], &[]);
    rvm.announce(DOOR1, GUEST, addresses(v6).guest);
    rvm
}

/// A packet of the guest to the virtual gateway's MAC address.
fn from_guest(a: &Addresses, to: IpAddr, ttl: u8, kind: Kind, data: &[u8]) -> Vec<u8> {
    packet((GUEST, router_mac(PRIVATE)), a.guest, to, ttl, kind, data)
}

/// Puts a packet in. It is dropped for `reason`, its sender gets the error `what`, and nothing else is sent.
fn refused(rvm: &mut Rvm, at: PortId, frame: &[u8], reason: DropReason, what: Refusal) -> Vec<u8> {
    let before = (rvm.drops(at, reason), rvm.switch.counters());
    let mut sent = rvm.forward(at, frame);
    assert_eq!(sent.len(), 1, "{reason}: {:?}", rvm.switch.port_counters(at));
    assert_eq!(rvm.drops(at, reason), before.0 + 1, "{reason}");
    let after = rvm.switch.counters();
    assert_eq!(after.originated, before.1.originated + 1);
    assert_eq!(after.refusals[what.kind()], before.1.refusals[what.kind()] + 1);
    let (port, answer) = sent.remove(0);
    assert_eq!(port, at, "back the way it came");
    answer
}

/// Puts a packet in that is dropped for `reason` without an error.
fn silent(rvm: &mut Rvm, at: PortId, frame: &[u8], reason: DropReason) {
    let before = rvm.drops(at, reason);
    assert_eq!(rvm.forward(at, frame), vec![], "{reason}");
    assert_eq!(rvm.drops(at, reason), before + 1, "{:?}", rvm.switch.port_counters(at));
}

/// A guest sends packets that a router does not forward, one for each reason, in both families. The virtual
/// gateway of its network answers each: with the right type and code, from its own address, to the guest's
/// MAC and IP address, and with an exact quote of the packet.
#[test]
fn a_guest_is_told_why() {
    for v6 in [false, true] {
        let a = addresses(v6);
        let port_list: &[&str] = &["udp/53"];
        let udp = Kind::Udp(4000, 53);
        let guarded = if v6 { "fd00::77" } else { "10.0.0.77" };
        let cases = [
            (&[][..], a.host, 1, udp, DropReason::TtlExpired, Refusal::TimeExceeded),
            (&[], a.host, 0, Kind::Tcp(1, 2), DropReason::TtlExpired, Refusal::TimeExceeded),
            (&[], a.host, 1, Kind::Echo, DropReason::TtlExpired, Refusal::TimeExceeded),
            (&[], ip(if v6 { "2002::1" } else { "8.8.8.8" }), 9, udp, DropReason::NoRoute, Refusal::NoRoute),
            (&[], ip(if v6 { "2002::1" } else { "8.8.8.8" }), 1, udp, DropReason::NoRoute, Refusal::NoRoute),
            (&[], ip(guarded), 9, udp, DropReason::Guarded, Refusal::Prohibited),
            (&[], ip(guarded), 1, udp, DropReason::TtlExpired, Refusal::TimeExceeded),
            (port_list, a.host, 9, udp, DropReason::PortNotMapped, Refusal::Prohibited),
            (&[], a.gateways[0], 1, udp, DropReason::GatewayNoService, Refusal::PortUnreachable),
            (
                &[],
                a.gateways[0],
                9,
                Kind::Other(47),
                DropReason::GatewayNoService,
                Refusal::ProtocolUnreachable,
            ),
        ];
        for (only, to, ttl, kind, reason, what) in cases {
            let mut rvm = owner(v6);
            rvm.float(v6, true, true, only, &[]);
            let sent = from_guest(&a, to, ttl, kind, b"a question");
            let answer = refused(&mut rvm, DOOR1, &sent, reason, what);
            assert_eq!(answer[..12], [GUEST.0, router_mac(PRIVATE).0].concat());
            let error = read(&answer);
            assert_eq!((error.from, error.to), (a.gateways[0], a.guest), "{reason}");
            assert_eq!((error.what.0, error.what.1), numbers(what, v6), "{reason}");
            let pointer = if v6 && what == Refusal::ProtocolUnreachable { 6 } else { 0 };
            assert_eq!(error.what.2, pointer, "unused, or where the next header is named");
            assert_eq!(error.quote, sent[14..], "as it was sent");
        }
        // A guest without a floating IP.
        let mut rvm = Rvm::new(11);
        let sent = from_guest(&a, a.host, 64, Kind::Tcp(4000, 80), b"");
        let error = read(&refused(&mut rvm, DOOR1, &sent, DropReason::NoRoute, Refusal::NoRoute));
        assert_eq!((error.what.0, error.what.1), numbers(Refusal::NoRoute, v6));
    }
}

/// Behind extension headers the parameter problem points to the one that names the protocol (RFC 4443 §3.4).
#[test]
fn the_pointer_is_behind_extension_headers() {
    let a = addresses(true);
    let mut sent = from_guest(&a, a.gateways[0], 9, Kind::Other(99), b"who knows");
    sent.splice(54..54, [99, 0, 1, 4, 0, 0, 0, 0]);
    sent[20] = 60;
    sent[19] += 8;
    let mut rvm = owner(true);
    let what = Refusal::ProtocolUnreachable;
    let error = read(&refused(&mut rvm, DOOR1, &sent, DropReason::GatewayNoService, what));
    assert_eq!(error.what, (4, 1, 40));
}

/// A connection to the virtual gateway is refused by a reset, as by a host without a server. The reset has
/// the sequence numbers by which the client recognises the answer to its own SYN. A reset gets no answer.
#[test]
fn a_connection_to_the_gateway_is_reset() {
    for v6 in [false, true] {
        let (a, mut rvm) = (addresses(v6), owner(v6));
        let tcp_at = if v6 { 54 } else { 34 };
        for (flags, data, seq, ack) in
            [(0x02, 0, 0, 8), (0x03, 4, 0, 7 + 4 + 2), (0x10, 9, 77, 0), (0x12, 0, 77, 0)]
        {
            let mut sent = from_guest(&a, a.gateways[0], 1, Kind::Tcp(4000, 80), &vec![5; data]);
            sent[tcp_at + 8..tcp_at + 12].copy_from_slice(&77u32.to_be_bytes());
            sent[tcp_at + 13] = flags;
            let reason = DropReason::GatewayNoService;
            let answer = refused(&mut rvm, DOOR1, &sent, reason, Refusal::Reset);
            assert_checksums(&answer);
            assert_eq!(answer[..12], [GUEST.0, router_mac(PRIVATE).0].concat());
            assert_eq!(ends(&answer), (a.gateways[0], a.guest));
            let tcp = TcpPacket::new_checked(&answer[tcp_at..]).unwrap();
            assert_eq!((tcp.src_port(), tcp.dst_port(), tcp.rst()), (80, 4000, true));
            assert_eq!((tcp.seq_number().0, tcp.ack()), (seq, ack != 0), "flags {flags:#x}");
            assert_eq!(tcp.ack_number().0, ack);
            sent[tcp_at + 13] = 0x04;
            silent(&mut rvm, DOOR1, &sent, reason);
        }
    }
}

/// A station does not answer. Its packets are lost without an error while the switch asks for it, three
/// seconds. After that their senders get "host unreachable", until the station sends a frame.
#[test]
fn a_silent_host_is_unreachable() {
    for v6 in [false, true] {
        let a = addresses(v6);
        let mut rvm = Rvm::new(11);
        rvm.float(v6, true, true, &[], &[]);
        let sent = packet((PROVIDER, mac(11)), a.host, a.reality, 64, Kind::Tcp(4000, 80), b"");
        silent(&mut rvm, UPLINK, &sent, DropReason::NeighborUnresolved);
        rvm.pass(2);
        silent(&mut rvm, UPLINK, &sent, DropReason::NeighborUnresolved);
        rvm.pass(2);
        let what = Refusal::HostUnreachable;
        let error = read(&refused(&mut rvm, UPLINK, &sent, DropReason::NeighborUnresolved, what));
        assert_eq!((error.from, error.to), (a.reality, a.host));
        assert_eq!((error.what.0, error.what.1), numbers(what, v6));
        rvm.announce(DOOR1, GUEST, a.guest);
        assert_eq!(rvm.forward(UPLINK, &sent)[0].0, DOOR1);

        // The router in a source route.
        let router = ip(if v6 { "fd01::9" } else { "192.168.1.9" });
        let mut rvm = Rvm::new(11);
        let from = IpPrefix::host(a.guest);
        let via = NextHop::Address(router);
        rvm.apply(Command::SetSourceRoute(SourceRouteConfig { vni: vni(PRIVATE), from, via }));
        let sent = from_guest(&a, a.host, 64, Kind::Echo, b"anybody?");
        silent(&mut rvm, DOOR1, &sent, DropReason::NeighborUnresolved);
        rvm.pass(4);
        let error = read(&refused(&mut rvm, DOOR1, &sent, DropReason::NeighborUnresolved, what));
        assert_eq!((error.from, error.to), (a.gateways[0], a.guest));
    }
}

/// A next hop of the underlay has no MAC address, so packets go to the kernel, which asks for it. Three
/// seconds later the guest gets an error, and the switch asks the kernel explicitly instead. Once the hop
/// answers, packets leave.
#[test]
fn a_silent_underlay_hop_is_unreachable() {
    let (a, mut rvm) = (addresses(false), owner(false));
    rvm.apply(Command::RemoveUnderlayNeighbor(ip("10.0.0.1")));
    let sent = from_guest(&a, a.host, 64, Kind::Udp(4000, 53), b"x");
    assert_eq!(rvm.forward(DOOR1, &sent)[0].0, PortId(999), "to the kernel");
    rvm.pass(2);
    assert_eq!(rvm.forward(DOOR1, &sent)[0].0, PortId(999));
    rvm.pass(1);
    let asked = |rvm: &mut Rvm| rvm.switch.take_events().any(|e| e == Event::Resolve(ip("10.0.0.1")));
    for _ in 0..5 {
        let what = Refusal::HostUnreachable;
        let error = read(&refused(&mut rvm, DOOR1, &sent, DropReason::NeighborUnresolved, what));
        assert_eq!((error.from, error.to), (a.gateways[0], a.guest));
        asked(&mut rvm);
        rvm.pass(2);
        assert!(asked(&mut rvm), "it may return");
    }
    rvm.apply(Command::SetUnderlayNeighbor(ip("10.0.0.1"), PROVIDER));
    assert_eq!(rvm.forward(DOOR1, &sent)[0].0, UPLINK);
}

/// A traceroute from the Internet to the floating IP. At whichever of the two rVMs a packet ends, the
/// floating IP answers, which the provider's NAT carries back (as the reality address). The answer quotes the
/// sender's own packet.
#[test]
fn the_internet_is_told_by_the_floating_ip() {
    for v6 in [false, true] {
        let a = addresses(v6);
        let (mut gateway, mut owner) = (Rvm::new(11), Rvm::new(12));
        gateway.float(v6, true, false, &[], &[]);
        owner.float(v6, false, true, &[], &[]);
        gateway.announce_at_peer(PUBLIC, switch_mac(12), a.public);
        owner.announce(DOOR1, GUEST, a.guest);
        let probe =
            |ttl| packet((PROVIDER, mac(11)), a.host, a.reality, ttl, Kind::Udp(4000, 33434), b"probe");

        // The packet ends at the gateway.
        let (sent, what) = (probe(1), Refusal::TimeExceeded);
        let answer = refused(&mut gateway, UPLINK, &sent, DropReason::TtlExpired, what);
        assert_eq!(answer[..12], [PROVIDER.0, mac(11).0].concat());
        let error = read(&answer);
        assert_eq!((error.from, error.to, &error.quote[..]), (a.reality, a.host, &sent[14..]));

        // The packet ends at the owner, through the tunnel; the answer goes back through the gateway.
        let sent = probe(2);
        let outer = gateway.forward(UPLINK, &sent);
        let answer = refused(&mut owner, UPLINK, &outer[0].1, DropReason::TtlExpired, what);
        let error = read(inner(&answer));
        assert_eq!((error.from, error.to), (a.public, a.host));
        let back = gateway.forward(UPLINK, &answer);
        assert_eq!(back[0].0, UPLINK, "{:?}", gateway.switch.port_counters(UPLINK));
        let hop_limit_at = if v6 { 21 } else { 22 };
        assert_eq!(back[0].1[hop_limit_at], 63);
        let mut back = back[0].1.clone();
        (back[hop_limit_at], back[20]) = (64, if v6 { back[20] } else { 0x40 });
        if !v6 {
            fix_ipv4(&mut back);
        }
        let error = read(&back);
        assert_eq!((error.from, error.to), (a.reality, a.host));
        let mut quoted = sent[14..].to_vec();
        quoted[if v6 { 7 } else { 8 }] = 1;
        let differs: Vec<usize> = (0..quoted.len()).filter(|&i| quoted[i] != error.quote[i]).collect();
        assert!(
            if v6 { differs.is_empty() } else { differs.iter().all(|i| (10..12).contains(i)) },
            "{differs:?}"
        );
        assert_checksums(&[&sent[..14], &error.quote].concat());
    }
}

/// A traceroute of the guest. Its own rVM answers for the network private, the gateway's rVM for public. The
/// gateway's answer returns through the tunnel and the translation, and quotes the guest's packet.
#[test]
fn a_guest_hears_of_both_rvms() {
    for v6 in [false, true] {
        for kind in [Kind::Udp(4000, 33434), Kind::Tcp(4000, 80), Kind::Echo] {
            let a = addresses(v6);
            let (mut gateway, mut owner) = (Rvm::new(11), Rvm::new(12));
            gateway.float(v6, true, false, &[], &[]);
            owner.float(v6, false, true, &[], &[]);
            gateway.announce_at_peer(PUBLIC, switch_mac(12), a.public);
            owner.announce(DOOR1, GUEST, a.guest);
            let what = Refusal::TimeExceeded;
            let sent = from_guest(&a, a.host, 1, kind, b"probe");
            let error = read(&refused(&mut owner, DOOR1, &sent, DropReason::TtlExpired, what));
            assert_eq!((error.from, error.to), (a.gateways[0], a.guest));

            let sent = from_guest(&a, a.host, 2, kind, b"probe");
            let outer = owner.forward(DOOR1, &sent);
            let answer = refused(&mut gateway, UPLINK, &outer[0].1, DropReason::TtlExpired, what);
            let told = owner.forward(UPLINK, &answer);
            assert_eq!(told.len(), 1, "{:?}", owner.switch.port_counters(UPLINK));
            assert_eq!(told[0].0, DOOR1);
            assert_checksums(&told[0].1);
            assert_eq!(ends(&told[0].1), (a.gateways[1], a.guest));
            assert_eq!(told[0].1[..6], GUEST.0);
            let quote = &told[0].1[if v6 { 62 } else { 42 }..];
            let hop_limit_at = if v6 { 7 } else { 8 };
            assert_eq!(quote[hop_limit_at], 1);
            let mut quoted = [&sent[..14], quote].concat();
            assert_checksums(&quoted);
            quoted[14 + hop_limit_at] = 2;
            if !v6 {
                fix_ipv4(&mut quoted);
            }
            assert_eq!(quoted, sent, "its own packet");
        }
    }
}

/// Where a CMS translates, the owner's rVM has a route and no mapping. The gateway's error goes to the
/// station that has the floating IP.
#[test]
fn a_cms_is_told_by_the_gateway() {
    for v6 in [false, true] {
        let (a, mut gateway) = (addresses(v6), Rvm::new(11));
        gateway.float(v6, true, false, &[], &[]);
        let cms = mac(77);
        gateway.announce_at_peer(PUBLIC, cms, a.public);
        // The other rVM's virtual gateway has routed the packet here.
        let sent = packet((switch_mac(12), router_mac(PUBLIC)), a.public, a.host, 1, Kind::Echo, b"probe");
        let outer = gateway.tunnelled(PUBLIC, &sent);
        let answer = refused(&mut gateway, UPLINK, &outer, DropReason::TtlExpired, Refusal::TimeExceeded);
        let told = inner(&answer);
        assert_eq!(told[..12], [cms.0, router_mac(PUBLIC).0].concat());
        let error = read(told);
        assert_eq!((error.from, error.to), (a.gateways[1], a.public));
        // A sender without a floating IP: the error goes back to the sending rVM.
        let other = ip(if v6 { "fd02::7" } else { "10.2.0.7" });
        let sent = packet((switch_mac(12), router_mac(PUBLIC)), other, a.host, 9, Kind::Echo, b"probe");
        let outer = gateway.tunnelled(PUBLIC, &sent);
        let answer = refused(&mut gateway, UPLINK, &outer, DropReason::NoRoute, Refusal::NoRoute);
        assert_eq!(inner(&answer)[..12], [switch_mac(12).0, router_mac(PUBLIC).0].concat());
    }
}

/// The rules of RFC 1122 §3.2.2 and RFC 4443 §2.4 (e): none of these senders gets an error, and each packet
/// is dropped for its reason.
#[test]
fn who_is_never_told() {
    let ttl = DropReason::TtlExpired;
    for v6 in [false, true] {
        let (a, mut rvm) = (addresses(v6), owner(v6));
        let l4 = if v6 { 54 } else { 34 };
        // ICMP errors, of every type, and redirects.
        let errors: &[u8] = if v6 { &[1, 2, 3, 4, 100, 127, 137] } else { &[3, 4, 5, 11, 12] };
        for &kind in errors {
            let mut sent = from_guest(&a, a.host, 1, Kind::Echo, &[0; 64]);
            sent[l4] = kind;
            silent(&mut rvm, DOOR1, &sent, ttl);
        }
        // Queries and answers cause errors.
        let mut sent = from_guest(&a, a.host, 1, Kind::Echo, &[0; 64]);
        sent[l4] = if v6 { 129 } else { 0 };
        refused(&mut rvm, DOOR1, &sent, ttl, Refusal::TimeExceeded);
        // Packets to groups and to no single host.
        let groups: &[&str] =
            if v6 { &["ff0e::1", "::"] } else { &["224.1.2.3", "255.255.255.255", "0.0.0.0"] };
        for to in groups {
            silent(&mut rvm, DOOR1, &from_guest(&a, ip(to), 1, Kind::Udp(1, 2), b"x"), ttl);
        }
    }
    // Later fragments cause no error; a first one does.
    let (a, mut rvm) = (addresses(false), owner(false));
    for (flags, told) in [([0x20, 0], true), ([0x20, 1], false), ([0, 1], false)] {
        let mut sent = from_guest(&a, a.host, 1, Kind::Udp(1, 2), &[0; 64]);
        sent[20..22].copy_from_slice(&flags);
        fix_ipv4(&mut sent);
        match told {
            true => drop(refused(&mut rvm, DOOR1, &sent, ttl, Refusal::TimeExceeded)),
            false => silent(&mut rvm, DOOR1, &sent, ttl),
        }
    }
    // A corrupted header (RFC 1812 §5.2.2).
    let mut corrupt = from_guest(&a, a.host, 1, Kind::Udp(1, 2), b"x");
    corrupt[15] ^= 4;
    silent(&mut rvm, DOOR1, &corrupt, ttl);
    // Sources that do not belong to a single host. On this network they have no route unless one is
    // configured for them.
    let all = |addr: &str| IpPrefix { addr: ip(addr), len: 0 };
    for (any, sources) in [
        ("0.0.0.0", &["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"][..]),
        ("::", &["::", "::1", "ff02::1"]),
    ] {
        let route = SourceRouteConfig { vni: vni(PUBLIC), from: all(any), via: NextHop::Peer(PeerId(0)) };
        rvm.apply(Command::SetSourceRoute(route));
        let to = if any == "::" { addresses(true).host } else { a.host };
        for from in sources {
            let sent = packet((mac(8), router_mac(PUBLIC)), ip(from), to, 1, Kind::Udp(1, 2), b"x");
            silent(&mut rvm, DOOR2, &sent, ttl);
        }
    }
    // IPv6 link-local addresses are not routed.
    for (from, to) in [("fe80::2", "2001:db8::99"), ("fd01::2", "fe80::3")] {
        let sent = packet((GUEST, router_mac(PRIVATE)), ip(from), ip(to), 9, Kind::Udp(1, 2), b"x");
        let error = read(&refused(&mut rvm, DOOR1, &sent, DropReason::NoRoute, Refusal::NoRoute));
        assert_eq!(error.to, ip(from));
    }
}

/// A guest that tries every address learns which networks are guarded, but finds no peer, management host or
/// tunnel port.
#[test]
fn guarded_hosts_are_not_named() {
    for v6 in [false, true] {
        let (a, mut rvm) = (addresses(v6), owner(v6));
        let management = ip(if v6 { "2001:db8::200" } else { "203.0.113.200" });
        silent(&mut rvm, DOOR1, &from_guest(&a, management, 9, Kind::Tcp(1, 22), b""), DropReason::Guarded);
        silent(&mut rvm, DOOR1, &from_guest(&a, a.host, 9, Kind::Udp(1, 4789), b"x"), DropReason::Guarded);
        // A peer on another network than the guarded one.
        let address = ip(if v6 { "2001:db8::12" } else { "203.0.113.12" });
        let peer = PeerConfig {
            address,
            vnis: vec![],
            via: None,
            spoke: false,
            mtu: 1500,
            fragment: false,
            outer: engine::command::OuterIp::default(),
        };
        rvm.apply(Command::SetPeer(PeerId(1), peer));
        silent(&mut rvm, DOOR1, &from_guest(&a, address, 9, Kind::Tcp(1, 22), b""), DropReason::Guarded);
    }
    // The conventional address of metadata services is well known, and guests that look for it get an
    // immediate error.
    let (a, mut rvm) = (addresses(false), owner(false));
    let uplink = rvm.switch.tables().uplink.clone().unwrap();
    let guard = vec![IpPrefix::host(ip("169.254.169.254"))];
    rvm.apply(Command::SetUplink(UplinkConfig { guard, ..uplink }));
    let sent = from_guest(&a, ip("169.254.169.254"), 9, Kind::Tcp(1, 80), b"");
    refused(&mut rvm, DOOR1, &sent, DropReason::Guarded, Refusal::Prohibited);
}

/// Unmapped ports of a reality address belong to the rVM's own kernel. Packets to them that come here are
/// fragments, and are dropped without an error. Inside the overlay, the floating IP answers "port
/// unreachable".
#[test]
fn unmapped_ports() {
    for v6 in [false, true] {
        let (a, mut rvm) = (addresses(v6), owner(v6));
        rvm.float(v6, true, true, &[], &["udp/53"]);
        let mut first = packet((PROVIDER, mac(11)), a.host, a.reality, 9, Kind::Udp(9, 53), &[0; 64]);
        if !v6 {
            first[20] = 0x20;
            fix_ipv4(&mut first);
        }
        silent(&mut rvm, UPLINK, &first, DropReason::PortNotMapped);

        rvm.float(v6, true, true, &["udp/53"], &[]);
        let station = ip(if v6 { "fd02::7" } else { "10.2.0.7" });
        let ask = |kind| packet((mac(8), switch_mac(11)), station, a.public, 9, kind, b"x");
        for (kind, what) in [
            (Kind::Udp(9, 54), Refusal::PortUnreachable),
            (Kind::Tcp(9, 53), Refusal::PortUnreachable),
            (Kind::Echo, Refusal::Prohibited),
        ] {
            let answer = refused(&mut rvm, DOOR2, &ask(kind), DropReason::PortNotMapped, what);
            let error = read(&answer);
            assert_eq!((error.from, error.to), (a.public, station), "it speaks for itself");
            assert_eq!((error.what.0, error.what.1), numbers(what, v6));
        }
        assert_eq!(rvm.forward(DOOR2, &ask(Kind::Udp(9, 53)))[0].0, DOOR1);
    }
}

/// A network whose gateway has no address of a family: errors come from the dummy address of RFC 7600, or
/// from the switch's link-local address. Of several gateway addresses, the one in the sender's network is
/// used.
#[test]
fn who_speaks() {
    for (v6, gateways, speaker) in [
        (false, &[][..], "192.0.0.8"),
        (false, &["fd01::1"], "192.0.0.8"),
        (false, &["10.9.0.1", "192.168.1.1", "172.16.0.1"], "192.168.1.1"),
        (true, &["192.168.1.1"], "fe80::69:77ff:fe00:b"),
        (true, &["fd05::1", "fd01::1"], "fd01::1"),
    ] {
        let (a, mut rvm) = (addresses(v6), Rvm::new(11));
        rvm.network(PRIVATE, gateways);
        let sent = from_guest(&a, a.host, 9, Kind::Udp(1, 2), b"x");
        let error = read(&refused(&mut rvm, DOOR1, &sent, DropReason::NoRoute, Refusal::NoRoute));
        assert_eq!((error.from, error.to), (ip(speaker), a.guest));
    }
}

/// A bridge sends no errors: switched packets pass with their last hop, and unknown destinations cause no
/// error.
#[test]
fn a_bridge_says_nothing() {
    for v6 in [false, true] {
        let (a, mut rvm) = (addresses(v6), owner(v6));
        rvm.apply(Command::AddFdb(vni(PRIVATE), 0, mac(50), Location::Port(DOOR1)));
        rvm.apply(Command::AddFdb(vni(PRIVATE), 0, mac(60), Location::Peer(PeerId(0))));
        for ttl in [0, 1, 64] {
            let sent = packet((GUEST, mac(60)), a.guest, a.host, ttl, Kind::Udp(1, 2), b"x");
            let out = rvm.forward(DOOR1, &sent);
            assert_eq!((out.len(), inner(&out[0].1)), (1, &sent[..]));
        }
        let back = packet((GUEST, mac(50)), a.guest, a.host, 1, Kind::Udp(1, 2), b"x");
        silent(&mut rvm, DOOR1, &back, DropReason::SamePort);
        // With a tag the packet is not for the virtual gateway, in spite of its MAC address.
        let mut tagged = from_guest(&a, a.host, 1, Kind::Udp(1, 2), b"x");
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        let out = rvm.forward(DOOR1, &tagged);
        assert!(out.iter().all(|(port, _)| *port == UPLINK), "{out:?}");
        assert_eq!(rvm.switch.counters().refusals, [0; 8]);
    }
}

/// A sender that provokes errors gets its share and leaves the rest to others. All together get no more than
/// the limit. Suppressed errors are counted.
#[test]
fn errors_are_limited() {
    let (a, mut rvm) = (addresses(false), owner(false));
    let sent = from_guest(&a, a.host, 1, Kind::Udp(1, 2), b"x");
    let told: usize = (0..1000).map(|_| rvm.forward(DOOR1, &sent).len()).sum();
    assert_eq!(told, ICMP_ERRORS_PER_SOURCE_PPS as usize / 4);
    assert_eq!(rvm.switch.counters().refusals_limited, 1000 - told as u64);
    assert_eq!(rvm.drops(DOOR1, DropReason::TtlExpired), 1000);
    let other = packet((mac(7), router_mac(PRIVATE)), ip("192.168.1.7"), a.host, 1, Kind::Udp(1, 2), b"x");
    assert_eq!(rvm.forward(DOOR1, &other).len(), 1, "another guest");
    let mut all = told + 1;
    for n in 0..2000u32 {
        let from = IpAddr::from((0x0a01_0000 + n).to_be_bytes());
        all += rvm
            .forward(DOOR1, &packet((mac(7), router_mac(PRIVATE)), from, a.host, 9, Kind::Udp(1, 2), b"x"))
            .len();
    }
    assert_eq!(all, ICMP_ERRORS_PPS as usize / 4);
    // A dry run takes no token.
    rvm.pass(1);
    let now = rvm.now;
    for _ in 0..1000 {
        let walk = rvm.switch.trace(now, DOOR1, &sent, &rvm.pool);
        let told = Step::Told(Refusal::TimeExceeded, a.gateways[0].into());
        assert_eq!((walk.sent.len(), walk.steps.last()), (1, Some(&told)));
    }
    let told: usize = (0..1000).map(|_| rvm.forward(DOOR1, &sent).len()).sum();
    assert_eq!(told, ICMP_ERRORS_PER_SOURCE_PPS as usize / 4);
}

/// An error quotes as much as fits 576 bytes (1280 in IPv6), without the bytes behind the packet in its
/// frame. Of a GSO packet it quotes the segment that would have been on the wire.
#[test]
fn what_is_quoted() {
    for v6 in [false, true] {
        let (a, mut rvm) = (addresses(v6), owner(v6));
        let what = Refusal::TimeExceeded;
        let mut sent = from_guest(&a, a.host, 1, Kind::Udp(1, 2), &[7; 1400]);
        let answer = refused(&mut rvm, DOOR1, &sent, DropReason::TtlExpired, what);
        assert_eq!(answer.len(), 14 + if v6 { 1280 } else { 576 });
        assert_eq!(read(&answer).quote, sent[14..][..if v6 { 1280 - 48 } else { 576 - 28 }]);

        sent = from_guest(&a, a.host, 1, Kind::Udp(1, 2), b"x");
        let len = sent.len();
        sent.resize(len + 20, 0xee);
        let error = read(&refused(&mut rvm, DOOR1, &sent, DropReason::TtlExpired, what));
        assert_eq!(error.quote, sent[14..len]);

        let super_frame = from_guest(&a, a.host, 1, Kind::Udp(1, 2), &[7; 5000]);
        let offload = Offload {
            csum_start: if v6 { 54 } else { 34 },
            csum_offset: 6,
            gso_kind: GsoKind::Udp,
            gso_size: 1000,
            ..Offload::NONE
        };
        rvm.switch.set_caps(DOOR1, PortCaps { tx_csum: true, tx_uso: true, ..PortCaps::default() });
        let out = rvm.forward_as(DOOR1, &super_frame, offload);
        assert_eq!(out.len(), 1);
        let quote = read(&out[0].1).quote;
        let said = if v6 {
            40 + u16::from_be_bytes([quote[4], quote[5]])
        } else {
            u16::from_be_bytes([quote[2], quote[3]])
        };
        assert_eq!(usize::from(said), 1000 + if v6 { 48 } else { 28 });
    }
}

/// A packet does not fit the tunnel and must not be fragmented. On the routed path the gateway sends the
/// error, on the bridged path the destination.
#[test]
fn too_big_is_told_by_whom() {
    for v6 in [false, true] {
        let a = addresses(v6);
        let mut rvm = Rvm::new(12);
        rvm.float(v6, false, true, &[], &[]);
        rvm.announce(DOOR1, GUEST, a.guest);
        let mut routed =
            from_guest(&a, a.host, 64, Kind::Udp(1, 2), &vec![7; 1500 - if v6 { 48 } else { 28 }]);
        if !v6 {
            routed[20] = 0x40;
            fix_ipv4(&mut routed);
        }
        let mut bridged = routed.clone();
        bridged[..6].copy_from_slice(&mac(60).0);
        rvm.apply(Command::AddFdb(vni(PRIVATE), 0, mac(60), Location::Peer(PeerId(0))));
        for (sent, speaker, from) in
            [(routed, a.gateways[0], router_mac(PRIVATE)), (bridged, a.host, mac(60))]
        {
            let what = Refusal::TooBig(TUNNEL_MTU as u16);
            let answer = refused(&mut rvm, DOOR1, &sent, DropReason::TooBig, what);
            assert_eq!(answer[..12], [GUEST.0, from.0].concat());
            let error = read(&answer);
            assert_eq!((error.from, error.to), (speaker, a.guest));
            let (kind, code) = numbers(what, v6);
            assert_eq!(error.what, (kind, code, TUNNEL_MTU as u32));
        }
    }
}
