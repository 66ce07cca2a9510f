//! Frames that a hostile guest may send, built layer by layer at random, from fields that matter to receivers.

use std::net::IpAddr;

use engine::wire::checksum;
use engine::wire::ip::Ip;
use engine::wire::mac::MacAddr;
use proptest::collection::vec;
use proptest::prelude::*;

/// The attacker's own MAC, its neighbour's, and the virtual gateway's.
pub(super) const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
pub(super) const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 8]);
pub(super) const ROUTER: MacAddr = MacAddr([2, 0x69, 0x76, 0, 0, 100]);

/// An opaque link-local address of the attacker, and one of another station.
pub(super) const OPAQUE: &str = "fe80::4d3f:1122:3344:5566";
pub(super) const OTHERS_OPAQUE: &str = "fe80::7a11:ffee:ddcc:bbaa";

pub(super) fn ip(text: &str) -> Ip {
    text.parse::<IpAddr>().unwrap().into()
}

/// Addresses that matter: the attacker's, the neighbour's, the gateway's, and those that no host has.
pub(super) fn address(v4: bool) -> impl Strategy<Value = Ip> {
    let texts = if v4 {
        &[
            "10.1.0.9",
            "10.1.0.9",
            "10.1.0.9",
            "10.1.0.8",
            "10.1.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
        ][..]
    } else {
        &[
            "fd01::9",
            "fd01::9",
            "fe80::ff:fe00:9",
            "fd01::8",
            "fd01::1",
            "fe80::1",
            "fe80::ff:fe00:8",
            "::",
            OPAQUE,
        ][..]
    };
    prop::sample::select(texts).prop_map(ip)
}

fn mac() -> impl Strategy<Value = MacAddr> {
    prop_oneof![6 => Just(OWN), 1 => Just(OTHER), 1 => Just(ROUTER)]
}

/// The headers in front of the network layer.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) dst: MacAddr,
    pub(super) src: MacAddr,
    pub(super) tags: Vec<(u16, u16)>,
    /// The length of an LLC frame with SNAP, instead of an EtherType.
    pub(super) snap: Option<u16>,
    /// Tags behind SNAP.
    pub(super) inner: Vec<(u16, u16)>,
}

pub(super) fn link() -> impl Strategy<Value = Link> {
    let tag =
        (prop::sample::select(&[0x8100u16, 0x88a8, 0x9100][..]), prop::sample::select(&[0u16, 0, 5][..]));
    let tags = prop_oneof![8 => Just(vec![]), 2 => vec(tag.clone(), 1..4)];
    let dst = prop::sample::select(
        &[
            [0xff; 6],
            [2, 0, 0, 0, 0, 1],
            [0x33, 0x33, 0, 0, 0, 1],
            [1, 0x80, 0xc2, 0, 0, 0],
            [1, 0x80, 0xc2, 0, 0, 0x21],
            [1, 0, 0x0c, 0xcc, 0xcc, 0xcd],
        ][..],
    );
    let dst = prop_oneof![4 => Just([0xff; 6]), 4 => dst];
    let snap = prop_oneof![12 => Just(None), 1 => prop::sample::select(&[0u16, 60, 0x5ff, 0x8870][..]).prop_map(Some)];
    let inner = prop_oneof![3 => Just(vec![]), 1 => vec(tag, 1..3)];
    (dst, mac(), tags, snap, inner).prop_map(|(dst, src, tags, snap, inner)| Link {
        dst: MacAddr(dst),
        src,
        tags,
        snap,
        inner,
    })
}

pub(super) fn frame(link: &Link, ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut bytes = [link.dst.0, link.src.0].concat();
    let tag = |bytes: &mut Vec<u8>, tags: &[(u16, u16)]| {
        for (tpid, vid) in tags {
            bytes.extend(tpid.to_be_bytes());
            bytes.extend(vid.to_be_bytes());
        }
    };
    tag(&mut bytes, &link.tags);
    if let Some(len) = link.snap {
        bytes.extend(len.to_be_bytes());
        bytes.extend([0xaa, 0xaa, 3, 0, 0, 0]);
        tag(&mut bytes, &link.inner);
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(packet);
    bytes
}

/// An ARP or RARP packet.
pub(super) fn arp() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let hardware = prop::sample::select(&[1u16, 1, 1, 6, 15][..]);
    let lens = prop::sample::select(&[[6u8, 4], [6, 4], [6, 4], [8, 4], [6, 16]][..]);
    (any::<bool>(), hardware, lens, 1u16..5, mac(), address(true), mac(), address(true)).prop_map(
        |(reverse, hardware, lens, op, sender, sender_ip, target, target_ip)| {
            let mut p = [&hardware.to_be_bytes()[..], &[8, 0], &lens, &op.to_be_bytes()].concat();
            p.extend(sender.0);
            p.extend(sender_ip.v4_bytes());
            p.extend(target.0);
            p.extend(target_ip.v4_bytes());
            (if reverse && op > 2 { 0x8035 } else { 0x0806 }, p)
        },
    )
}

/// A datagram or message without checksum, and its protocol.
#[derive(Clone, Debug)]
pub(super) struct Upper {
    pub(super) proto: u8,
    pub(super) bytes: Vec<u8>,
}

fn bootp(op: u8, mac: MacAddr, relay: bool, own: bool) -> Vec<u8> {
    let mut message = vec![0; 300];
    message[..4].copy_from_slice(&[op, 1, 6, 0]);
    message[12..16].copy_from_slice(if own { &[0; 4] } else { &[10, 1, 0, 8] });
    message[24..28].copy_from_slice(if relay { &[10, 1, 0, 9] } else { &[0; 4] });
    message[28..34].copy_from_slice(&mac.0);
    message[236..240].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    message
}

pub(super) fn udp_bytes(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [sport, dport, payload.len() as u16 + 8, 0].map(u16::to_be_bytes).concat();
    bytes.extend(payload);
    bytes
}

fn udp() -> impl Strategy<Value = Upper> {
    let port = || prop::sample::select(&[67u16, 68, 546, 547, 4011, 53, 6767][..]);
    let bootp =
        (1u8..3, mac(), any::<[bool; 2]>()).prop_map(|(op, mac, [relay, own])| bootp(op, mac, relay, own));
    let six = (0u8..15).prop_map(|kind| vec![kind, 1, 2, 3]);
    let payload = prop_oneof![4 => bootp, 2 => six, 1 => vec(any::<u8>(), 0..40)];
    (port(), port(), payload)
        .prop_map(|(sport, dport, payload)| Upper { proto: 17, bytes: udp_bytes(sport, dport, &payload) })
}

/// A message of ND, or another of ICMPv6, with options.
fn icmpv6() -> impl Strategy<Value = Upper> {
    let kind = prop::sample::select(&[133u8, 134, 135, 135, 136, 136, 137, 130, 143, 128, 141, 151][..]);
    let option = (1u8..3, prop::sample::select(&[1u8, 1, 1, 0, 2][..]), mac());
    (kind, address(false), vec(option, 0..3)).prop_map(|(kind, target, options)| {
        let mut bytes = vec![kind, 0, 0, 0, 0x20, 0, 0, 0];
        match kind {
            133 => {}
            134 => bytes.extend([0; 8]),
            137 => bytes.extend([target.v6_bytes(), target.v6_bytes()].concat()),
            _ => bytes.extend(target.v6_bytes()),
        }
        for (kind, len, mac) in options {
            bytes.extend([kind, len]);
            bytes.extend(mac.0);
        }
        Upper { proto: 58, bytes }
    })
}

pub(super) fn upper(v4: bool) -> BoxedStrategy<Upper> {
    let other = vec(any::<u8>(), 0..40).prop_map(|bytes| Upper { proto: 6, bytes });
    if v4 {
        let icmp = prop::sample::select(&[5u8, 9, 8, 3][..])
            .prop_map(|kind| Upper { proto: 1, bytes: vec![kind, 1, 0, 0, 10, 1, 0, 9, 0, 0, 0, 0] });
        let igmp = prop::sample::select(&[0x11u8, 0x16, 0x22, 0x30][..])
            .prop_map(|kind| Upper { proto: 2, bytes: vec![kind, 0, 0, 0, 0, 0, 0, 0] });
        prop_oneof![5 => udp(), 1 => icmp, 1 => igmp, 1 => other].boxed()
    } else {
        prop_oneof![4 => udp(), 6 => icmpv6(), 1 => other].boxed()
    }
}

/// How a packet is fragmented: each fragment's offset and length in units of eight bytes, whether its flag
/// says that more follow, and which of two packets it belongs to.
pub(super) type Cuts = Vec<(u16, u16, bool, bool)>;

pub(super) fn cuts() -> impl Strategy<Value = Cuts> {
    // Two fragments that fit together, and any others.
    let fitting = (1u16..5, any::<bool>(), any::<bool>())
        .prop_map(|(at, a, b)| vec![(0, at, true, a), (at, 100, false, b)]);
    let any_cut = (0u16..4, prop_oneof![0u16..5, Just(100)], any::<bool>(), any::<bool>());
    prop_oneof![
        3 => fitting.clone(),
        1 => fitting.prop_map(|mut cuts| { cuts.reverse(); cuts }),
        1 => (vec(any_cut.clone(), 0..2), fitting_of(), vec(any_cut, 0..2)).prop_map(|(a, b, c)| [a, b, c].concat()),
    ]
}

fn fitting_of() -> impl Strategy<Value = Cuts> {
    (1u16..4, any::<bool>()).prop_map(|(at, a)| vec![(0, at, true, a), (at, 100, false, a)])
}

fn part(whole: &[u8], at: u16, len: u16) -> &[u8] {
    let at = usize::from(at) * 8;
    let end = (at + usize::from(len) * 8).min(whole.len());
    whole.get(at..end).unwrap_or_default()
}

/// An IPv4 packet, or the fragments of two that share an identification.
pub(super) fn ipv4(src: Ip, options: bool, uppers: &[Upper; 2], cuts: Option<&Cuts>) -> Vec<Vec<u8>> {
    let packet = |proto: u8, fragment: u16, payload: &[u8]| {
        let options: &[u8] = if options { &[148, 4, 0, 0] } else { &[] };
        let header_len = 20 + options.len();
        let mut p = vec![0x40 | (header_len / 4) as u8, 0];
        p.extend(((header_len + payload.len()) as u16).to_be_bytes());
        p.extend([0, 7]);
        p.extend(fragment.to_be_bytes());
        p.extend([64, proto, 0, 0]);
        p.extend(src.v4_bytes());
        p.extend([255; 4]);
        p.extend(options);
        let sum = !checksum::sum(&p);
        p[10..12].copy_from_slice(&sum.to_be_bytes());
        p.extend(payload);
        p
    };
    let [upper, decoy] = uppers;
    let Some(cuts) = cuts else { return vec![packet(upper.proto, 0, &upper.bytes)] };
    let fragment = |&(at, len, more, of_decoy): &(u16, u16, bool, bool)| {
        let from = if of_decoy { decoy } else { upper };
        packet(upper.proto, at | u16::from(more) << 13, part(&from.bytes, at, len))
    };
    cuts.iter().map(fragment).collect()
}

/// Extension headers: of options (0 or 60) or routing (43), with a length in units of eight bytes beyond the first.
pub(super) type Extensions = Vec<(u8, u8)>;

pub(super) fn extensions() -> impl Strategy<Value = Extensions> {
    let one = (prop::sample::select(&[0u8, 43, 60, 60][..]), 0u8..3);
    prop_oneof![5 => Just(vec![]), 3 => vec(one.clone(), 1..4), 1 => vec(one, 4..9)]
}

/// The bytes of a chain that ends with `last`, and the number of its first header.
fn chain(extensions: &[(u8, u8)], last: u8) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for (i, (_, len)) in extensions.iter().enumerate() {
        let next = extensions.get(i + 1).map_or(last, |(kind, _)| *kind);
        // A padding option that fills the header.
        bytes.extend([next, *len, 1, len * 8 + 4]);
        bytes.resize(bytes.len() + usize::from(*len) * 8 + 4, 0);
    }
    (extensions.first().map_or(last, |(kind, _)| *kind), bytes)
}

/// An IPv6 packet, or the fragments of two that share an identification; each with extension headers in front
/// of the fragment header and behind it. `Some` with no fragments: an atomic fragment.
pub(super) fn ipv6(
    src: Ip,
    front: &Extensions,
    behind: &[Extensions; 2],
    uppers: &[Upper; 2],
    cuts: Option<&Cuts>,
) -> Vec<Vec<u8>> {
    let packet = |next: u8, payload: &[u8]| {
        let (first, mut body) = chain(front, next);
        body.extend(payload);
        let mut p = vec![0x60, 0, 0, 0];
        p.extend((body.len() as u16).to_be_bytes());
        p.extend([first, 255]);
        p.extend(src.v6_bytes());
        p.extend(ip("ff02::1").v6_bytes());
        p.extend(body);
        p
    };
    let wholes = [0, 1].map(|n| {
        let (next, mut bytes) = chain(&behind[n], uppers[n].proto);
        bytes.extend(&uppers[n].bytes);
        (next, bytes)
    });
    let fragment = |next: u8, place: u16, payload: &[u8]| {
        let mut header = vec![next, 0];
        header.extend(place.to_be_bytes());
        header.extend([0, 0, 0, 7]);
        header.extend(payload);
        packet(44, &header)
    };
    match cuts {
        None => vec![packet(wholes[0].0, &wholes[0].1)],
        Some(cuts) if cuts.is_empty() => vec![fragment(wholes[0].0, 0, &wholes[0].1)],
        Some(cuts) => cuts
            .iter()
            .map(|&(at, len, more, of_decoy)| {
                let (next, whole) = &wholes[usize::from(of_decoy)];
                fragment(*next, at << 3 | u16::from(more), part(whole, at, len))
            })
            .collect(),
    }
}

/// The frames of one attempt. Some have unfinished checksums: the offset of the data, the offset of the field
/// from there, and the segment size (0: no segmentation).
pub(super) type Attempt = Vec<(Vec<u8>, Option<(u16, u16, u16)>)>;

pub(super) fn attempt() -> impl Strategy<Value = Attempt> {
    let unfinished = prop_oneof![
        6 => Just(None),
        1 => (prop::sample::select(&[34u16, 42, 43, 54, 62][..]), prop::sample::select(&[0u16, 1, 6, 16][..]), prop_oneof![Just(0u16), 8u16..300])
            .prop_map(Some),
    ];
    let cut = || prop_oneof![5 => Just(None), 4 => cuts().prop_map(Some), 1 => Just(Some(vec![]))];
    let four = (address(true), any::<bool>(), [upper(true), upper(true)], cut()).prop_map(
        |(src, options, uppers, cuts)| {
            let cuts = cuts.filter(|cuts| !cuts.is_empty());
            (0x0800, ipv4(src, options, &uppers, cuts.as_ref()))
        },
    );
    let six =
        (address(false), extensions(), [extensions(), extensions()], [upper(false), upper(false)], cut())
            .prop_map(|(src, front, behind, uppers, cuts)| {
                (0x86dd, ipv6(src, &front, &behind, &uppers, cuts.as_ref()))
            });
    let arps = arp().prop_map(|(ethertype, packet)| (ethertype, vec![packet]));
    (link(), prop_oneof![4 => four, 6 => six, 2 => arps], unfinished).prop_map(
        |(link, (ethertype, packets), unfinished)| {
            packets.iter().map(|packet| (frame(&link, ethertype, packet), unfinished)).collect()
        },
    )
}
