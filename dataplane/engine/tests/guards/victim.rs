//! A receiver that accepts every frame that any known stack accepts, and its resulting beliefs. It checks no
//! checksum, hop limit or code, accepts any stack of VLAN tags and IP in LLC frames (VU#855201), reads any
//! chain of extension headers, and reassembles fragments with any overlap.

use std::collections::HashMap;

use engine::wire::ip::Ip;
use engine::wire::mac::MacAddr;

/// A fact that a receiver concludes from a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Belief {
    /// This address is at this MAC.
    Neighbor(Ip, MacAddr),
    /// Another station has or wants this address, so it is not free.
    InUse(Ip),
    /// A packet comes from this address.
    Source(Ip),
    /// The sender is a DHCP, DHCPv6 or boot server, or a relay that forwards a server's message.
    Server,
    /// A DHCP question comes from the station with this hardware address, or through a relay.
    Asks(MacAddr),
    Relay,
    /// The sender is a router, or knows a better one.
    Router,
    /// The sender is the querier of the segment.
    Querier,
}

/// Which of two fragments with the same bytes counts.
#[derive(Clone, Copy)]
enum Overlap {
    First,
    Last,
}

/// A fragment: its offset, whether more follow, its bytes, and the first protocol of the whole packet
/// according to its header.
type Part = (usize, bool, Vec<u8>, u8);

#[derive(Default)]
pub(super) struct Victim {
    parts: HashMap<(Ip, Ip, u32, u8), Vec<Part>>,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn mac(bytes: &[u8], at: usize) -> Option<MacAddr> {
    Some(MacAddr(*bytes.get(at..)?.first_chunk()?))
}

fn v4(bytes: &[u8], at: usize) -> Option<Ip> {
    Some(Ip::v4(*bytes.get(at..)?.first_chunk()?))
}

fn v6(bytes: &[u8], at: usize) -> Option<Ip> {
    Some(Ip::v6(*bytes.get(at..)?.first_chunk()?))
}

/// A packet's addresses and the station that sent its frame.
#[derive(Clone, Copy)]
struct From {
    src: Ip,
    dst: Ip,
    station: MacAddr,
}

impl Victim {
    /// The beliefs that this frame causes.
    pub(super) fn hear(&mut self, frame: &[u8]) -> Vec<Belief> {
        let mut beliefs = Vec::new();
        self.link(frame, &mut beliefs);
        beliefs
    }

    fn link(&mut self, frame: &[u8], out: &mut Vec<Belief>) -> Option<()> {
        let station = mac(frame, 6)?;
        let mut at = 12;
        loop {
            let kind = word(frame, at)?;
            at += 2;
            match kind {
                0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 => at += 2,
                // LLC and SNAP; the length has no meaning here.
                ..0x0600 | 0x8870 if frame.get(at..at + 3)? == [0xaa, 0xaa, 3] => at += 6,
                ..0x0600 => return None,
                0x0806 => return arp(&frame[at..], out),
                0x8035 => {
                    if word(frame, at + 6)? == 4 {
                        out.push(Belief::Server);
                    }
                    return Some(());
                }
                0x0800 => return self.ipv4(station, &frame[at..], out),
                0x86dd => return self.ipv6(station, &frame[at..], out),
                _ => return None,
            }
        }
    }

    fn ipv4(&mut self, station: MacAddr, packet: &[u8], out: &mut Vec<Belief>) -> Option<()> {
        let header_len = usize::from(packet.first()? & 15) * 4;
        if packet[0] >> 4 != 4 || header_len < 20 {
            return None;
        }
        let len = usize::from(word(packet, 2)?).min(packet.len());
        let from = From { src: v4(packet, 12)?, dst: v4(packet, 16)?, station };
        out.push(Belief::Source(from.src));
        let (fragment, proto) = (word(packet, 6)?, packet[9]);
        let payload = packet.get(header_len..len)?;
        if fragment & 0x3fff == 0 {
            return upper4(proto, payload, out);
        }
        let part = (usize::from(fragment & 0x1fff) * 8, fragment & 0x2000 != 0, payload.to_vec(), proto);
        for whole in self.collect(from, u32::from(word(packet, 4)?), 0, part) {
            upper4(whole.0, &whole.1, out);
        }
        Some(())
    }

    fn ipv6(&mut self, station: MacAddr, packet: &[u8], out: &mut Vec<Belief>) -> Option<()> {
        if packet.first()? >> 4 != 6 {
            return None;
        }
        let from = From { src: v6(packet, 8)?, dst: v6(packet, 24)?, station };
        out.push(Belief::Source(from.src));
        let len = (40 + usize::from(word(packet, 4)?)).min(packet.len());
        self.chain(from, packet[6], packet.get(40..len)?, 0, out)
    }

    /// `depth`: the number of fragmented packets around this one.
    fn chain(
        &mut self,
        from: From,
        mut next: u8,
        mut rest: &[u8],
        depth: u8,
        out: &mut Vec<Belief>,
    ) -> Option<()> {
        loop {
            match next {
                0 | 43 | 60 => {
                    next = *rest.first()?;
                    rest = rest.get(8 + usize::from(*rest.get(1)?) * 8..)?;
                }
                44 => {
                    let (place, id) = (word(rest, 2)?, u32::from_be_bytes(*rest.get(4..)?.first_chunk()?));
                    let part = (usize::from(place & 0xfff8), place & 1 != 0, rest[8..].to_vec(), rest[0]);
                    if place & 0xfff9 == 0 {
                        next = rest[0];
                        rest = &rest[8..];
                        continue;
                    }
                    for (next, whole) in self.collect(from, id, depth, part) {
                        if depth < 3 {
                            self.chain(from, next, &whole, depth + 1, out);
                        }
                    }
                    return Some(());
                }
                17 => return udp(rest, true, out),
                58 => return icmpv6(from, rest, out),
                103 => {
                    out.push(Belief::Querier);
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// The whole packets that the parts known so far make.
    fn collect(&mut self, from: From, id: u32, depth: u8, part: Part) -> Vec<(u8, Vec<u8>)> {
        let parts = self.parts.entry((from.src, from.dst, id, depth)).or_default();
        parts.push(part);
        let policies = [Overlap::First, Overlap::Last];
        policies.iter().filter_map(|&policy| assemble(parts, policy)).collect()
    }
}

fn assemble(parts: &[Part], policy: Overlap) -> Option<(u8, Vec<u8>)> {
    let ordered: Vec<&Part> = match policy {
        Overlap::First => parts.iter().rev().collect(),
        Overlap::Last => parts.iter().collect(),
    };
    let end = parts.iter().filter(|p| !p.1).map(|p| p.0 + p.2.len()).max()?;
    let mut bytes = vec![None; end];
    for (at, _, part, _) in &ordered {
        for (i, byte) in part.iter().enumerate() {
            if let Some(place) = bytes.get_mut(at + i) {
                *place = Some(*byte);
            }
        }
    }
    let first = ordered.iter().rev().find(|p| p.0 == 0)?;
    Some((first.3, bytes.into_iter().collect::<Option<Vec<u8>>>()?))
}

fn arp(packet: &[u8], out: &mut Vec<Belief>) -> Option<()> {
    let hardware = word(packet, 0)?;
    if !(hardware == 1 || hardware == 6) || packet.get(2..6)? != [8, 0, 6, 4] {
        return None;
    }
    let (sender, ip, target) = (mac(packet, 8)?, v4(packet, 14)?, v4(packet, 24)?);
    match (word(packet, 6)?, ip.is_unspecified()) {
        (1, true) => out.push(Belief::InUse(target)),
        (1 | 2, _) => out.extend([Belief::Neighbor(ip, sender), Belief::InUse(ip)]),
        _ => {}
    }
    Some(())
}

fn upper4(proto: u8, payload: &[u8], out: &mut Vec<Belief>) -> Option<()> {
    match (proto, payload.first()?) {
        (1, 5 | 9) => out.push(Belief::Router),
        (2, 0x11 | 0x13 | 0x14 | 0x30) | (103, _) => out.push(Belief::Querier),
        (17, _) => return udp(payload, false, out),
        _ => {}
    }
    Some(())
}

fn udp(datagram: &[u8], six: bool, out: &mut Vec<Belief>) -> Option<()> {
    let (port, payload) = (word(datagram, 2)?, datagram.get(8..)?);
    match (port, six, payload.first()) {
        (68, false, _) | (546, _, _) | (67, false, Some(2)) | (547, true, Some(2 | 7 | 10 | 13)) => {
            out.push(Belief::Server);
        }
        (4011, false, Some(2)) if payload.len() >= 236 => out.push(Belief::Server),
        (547, true, Some(12)) => out.push(Belief::Relay),
        (67, false, Some(1)) => {
            out.push(Belief::Asks(mac(payload, 28)?));
            if !v4(payload, 24)?.is_unspecified() {
                out.push(Belief::Relay);
            }
        }
        _ => {}
    }
    Some(())
}

fn icmpv6(from: From, message: &[u8], out: &mut Vec<Belief>) -> Option<()> {
    // A receiver may use any of several options.
    let options = |at: usize| {
        let (mut rest, mut found) = (message.get(at..).unwrap_or_default(), Vec::new());
        while let [kind, len, ..] = *rest
            && len > 0
        {
            if kind == 1 || kind == 2 {
                found.extend(mac(rest, 2));
            }
            rest = rest.get(usize::from(len) * 8..).unwrap_or_default();
        }
        found
    };
    match message.first()? {
        134 | 137 | 138 => out.push(Belief::Router),
        130 | 151 => out.push(Belief::Querier),
        133 => out.extend(options(8).into_iter().map(|mac| Belief::Neighbor(from.src, mac))),
        135 if from.src.is_unspecified() => out.push(Belief::InUse(v6(message, 8)?)),
        135 => out.extend(options(24).into_iter().map(|mac| Belief::Neighbor(from.src, mac))),
        136 => {
            let target = v6(message, 8)?;
            out.extend([Belief::InUse(target), Belief::Neighbor(target, from.station)]);
            out.extend(options(24).into_iter().map(|mac| Belief::Neighbor(target, mac)));
        }
        _ => {}
    }
    Some(())
}
