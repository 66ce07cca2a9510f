//! Applies a verdict to the bytes, in one fixed order: decapsulate, ECN, translate, route, tag.

use super::fit;
use super::memo::{self, Entry, Rewrite};
use super::parse::{Headers, Net, Part, flow_hash_v4, quoted};
use super::verdict::{NatRewrite, Responder, Verdict};
use crate::frame::{Frame, FramePool, SlotSize};
use crate::table::port::TagEdit;
use crate::wire::arp::{self, Arp};
use crate::wire::checksum::{self, Delta};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::icmp;
use crate::wire::ip::Ip;
use crate::wire::ipv4;
use crate::wire::ipv6;
use crate::wire::l4;
use crate::wire::mac::MacAddr;
use crate::wire::{nd, set_word, view_mut, word};

pub(super) const IPV4_SRC: usize = 12;
pub(super) const IPV4_DST: usize = 16;
pub(super) const IPV6_SRC: usize = 8;
pub(super) const IPV6_DST: usize = 24;

/// Changes the frame as the verdict says, up to but not including encapsulation. Returns false when there was
/// no room for a tag; the caller then has to drop the frame.
#[inline]
pub fn act<P: FramePool>(pool: &mut P, frame: &mut Frame, h: &Headers, verdict: &Verdict) -> bool {
    // Decapsulate, and cut off the underlay's padding.
    let eth = h.eth;
    frame.len = h.end - u32::from(eth);
    frame.head += eth;
    if frame.offload.csum_partial() {
        frame.offload.csum_start -= eth;
        let offload = frame.offload;
        fit::begin_checksum(pool.bytes_mut(frame), h, offload);
    }
    let edits = &verdict.edits;
    if edits.ecn.is_some() || edits.nat.is_some() || edits.route.is_some() {
        let (l3, l4) = (usize::from(h.l3 - eth), usize::from(h.l4.saturating_sub(eth)));
        let partial = frame.offload.csum_partial() && usize::from(frame.offload.csum_start) == l4;
        let bytes = pool.bytes_mut(frame);
        if let Some(ecn) = edits.ecn {
            set_ecn(bytes, l3, h.net, ecn);
        }
        if let Some(nat) = &edits.nat {
            translate(bytes, l3, l4, h, nat, partial);
        }
        if let Some(route) = &edits.route {
            bytes[0..6].copy_from_slice(&route.dst.0);
            bytes[6..12].copy_from_slice(&route.src.0);
            take_hop(bytes, l3, h.net);
        }
    }
    tag(pool, frame, edits.tag)
}

/// The facts of the inner flow that an outer header needs: its hash and its ECN field.
#[derive(Clone, Copy, Debug)]
pub struct FlowFacts {
    /// [`Headers::hash`].
    pub hash: u32,
    /// The ECN field.
    pub ecn: u8,
}

/// Edits the frame of a plain packet as its flow cache entry says. Does the same as [`act`], at fixed
/// offsets.
#[inline]
pub fn replay(bytes: &mut [u8], proto: u8, entry: &Entry, rewrite: &Rewrite) -> FlowFacts {
    let mut facts = FlowFacts { hash: 0, ecn: 0 };
    // A plain frame always has this length; the `else` only convinces the compiler.
    let Some((head, rest)) = bytes.split_first_chunk_mut::<{ memo::PLAIN_LEN }>() else { return facts };
    let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if entry.is(memo::TO_PEER) {
        facts.hash = flow_hash_v4(number(26), number(30), proto, number(34));
        facts.ecn = head[15] & 3;
    }
    if entry.is(memo::ROUTE) {
        head[..12].copy_from_slice(&rewrite.macs);
        head[22] -= 1;
        if entry.is(memo::NAT_SRC | memo::NAT_DST) {
            let at = 14 + if entry.is(memo::NAT_SRC) { IPV4_SRC } else { IPV4_DST };
            head[at..at + 4].copy_from_slice(&rewrite.nat);
            if proto == l4::UDP {
                update_transport(head, 34 + l4::UDP_CHECKSUM_AT, l4::UDP, rewrite.l4_delta, false);
            } else {
                let at = 34 + l4::TCP_CHECKSUM_AT - memo::PLAIN_LEN;
                update_transport(rest, at, l4::TCP, rewrite.l4_delta, false);
            }
        }
        update(head, 14 + ipv4::CHECKSUM_AT, rewrite.ip_delta);
    }
    facts
}

/// Pushes, pops or renames a VLAN tag. Returns false when the frame has no room for it.
#[inline(always)]
pub fn tag<P: FramePool>(pool: &mut P, frame: &mut Frame, edit: TagEdit) -> bool {
    edit == TagEdit::Keep || edit_tag(pool, frame, edit)
}

fn edit_tag<P: FramePool>(pool: &mut P, frame: &mut Frame, edit: TagEdit) -> bool {
    const TAG_LEN: u16 = ethernet::TAG_LEN as u16;
    match edit {
        TagEdit::Keep => {}
        TagEdit::Push(vid) => {
            if !grow_head(pool, frame, ethernet::TAG_LEN) {
                return false;
            }
            let bytes = pool.bytes_mut(frame);
            bytes.copy_within(4..16, 0);
            set_word(bytes, 12, ethernet::TYPE_CTAG);
            set_word(bytes, 14, vid);
            if frame.offload.csum_partial() {
                frame.offload.csum_start += TAG_LEN;
            }
        }
        TagEdit::Retag(vid) => {
            let bytes = pool.bytes_mut(frame);
            let priority = word(bytes, 14) & 0xf000;
            set_word(bytes, 14, priority | vid);
        }
        TagEdit::Pop => {
            let bytes = pool.bytes_mut(frame);
            bytes.copy_within(0..12, 4);
            frame.head += TAG_LEN;
            frame.len -= u32::from(TAG_LEN);
            if frame.offload.csum_partial() {
                frame.offload.csum_start -= TAG_LEN;
            }
        }
    }
    true
}

/// Makes the frame `n` bytes longer at the front; the content of these bytes is undefined. Moves the frame to
/// another slot if its headroom is too small. Returns false when no slot is free.
#[inline]
pub fn grow_head<P: FramePool>(pool: &mut P, frame: &mut Frame, n: usize) -> bool {
    if usize::from(frame.head) < n && !move_to_new_slot(pool, frame, n) {
        return false;
    }
    frame.head -= n as u16;
    frame.len += n as u32;
    true
}

#[cold]
fn move_to_new_slot<P: FramePool>(pool: &mut P, frame: &mut Frame, room: usize) -> bool {
    let Some(mut copy) = pool.alloc(SlotSize::for_len(frame.len as usize + room)) else { return false };
    copy_bytes(pool, frame, &mut copy);
    copy.offload = frame.offload;
    core::mem::swap(frame, &mut copy);
    pool.free(copy);
    true
}

/// Copies the frame to a slot of its own.
pub fn copy<P: FramePool>(pool: &mut P, frame: &Frame) -> Option<Frame> {
    let mut copy = pool.alloc(SlotSize::for_len(frame.len as usize))?;
    copy_bytes(pool, frame, &mut copy);
    copy.offload = frame.offload;
    Some(copy)
}

fn copy_bytes<P: FramePool>(pool: &mut P, from: &Frame, to: &mut Frame) {
    // The pool lends one frame at a time, so the copy goes through the stack in pieces.
    const PIECE: usize = 2048;
    let mut piece = [0u8; PIECE];
    to.len = from.len;
    let len = from.len as usize;
    let mut at = 0;
    while at < len {
        let n = PIECE.min(len - at);
        piece[..n].copy_from_slice(&pool.bytes(from)[at..at + n]);
        pool.bytes_mut(to)[at..at + n].copy_from_slice(&piece[..n]);
        at += n;
    }
}

fn set_ecn(bytes: &mut [u8], l3: usize, net: Net, ecn: u8) {
    let old = word(bytes, l3);
    match net {
        Net::V4 => {
            let new = old & !3 | u16::from(ecn);
            set_word(bytes, l3, new);
            update(bytes, l3 + ipv4::CHECKSUM_AT, Delta::ZERO.word(old, new));
        }
        Net::V6 => set_word(bytes, l3, old & !0x30 | u16::from(ecn) << 4),
        _ => {}
    }
}

/// Decrements the hop limit (RFC 1812 §5.3.1, RFC 8200 §3). `classify` made sure that it was above one.
fn take_hop(bytes: &mut [u8], l3: usize, net: Net) {
    match net {
        Net::V4 => {
            let old = word(bytes, l3 + 8);
            set_word(bytes, l3 + 8, old - 0x100);
            update(bytes, l3 + ipv4::CHECKSUM_AT, Delta::ZERO.word(old, old - 0x100));
        }
        Net::V6 => bytes[l3 + 7] -= 1,
        _ => {}
    }
}

pub(super) fn update(bytes: &mut [u8], at: usize, delta: Delta) {
    let checksum = word(bytes, at);
    set_word(bytes, at, delta.apply(checksum));
}

pub(super) fn write_address(bytes: &mut [u8], l3: usize, v4: bool, source: bool, ip: Ip) {
    if v4 {
        let at = l3 + if source { IPV4_SRC } else { IPV4_DST };
        bytes[at..at + 4].copy_from_slice(&ip.v4_bytes());
    } else {
        let at = l3 + if source { IPV6_SRC } else { IPV6_DST };
        bytes[at..at + 16].copy_from_slice(&ip.v6_bytes());
    }
}

/// Replaces one address and corrects every checksum that covers it. In ICMP errors, also edits the quoted
/// packet, which went the other way (RFC 5508 §4.2).
fn translate(bytes: &mut [u8], l3: usize, l4_at: usize, h: &Headers, nat: &NatRewrite, partial: bool) {
    let v4 = h.net == Net::V4;
    write_address(bytes, l3, v4, nat.source, nat.address);
    if v4 {
        update(bytes, l3 + ipv4::CHECKSUM_AT, nat.delta);
    }
    if h.part == Part::Later || h.l4 == 0 {
        return;
    }
    let mut delta = nat.delta;
    if h.icmp_error() {
        let old = if nat.source { h.src } else { h.dst };
        let inner = translate_quoted(bytes, l4_at + icmp::HEADER_LEN, old, nat);
        delta = if v4 { inner } else { delta.and(inner) };
        if v4 {
            update(bytes, l4_at + l4::ICMP_CHECKSUM_AT, delta);
            return;
        }
    }
    let Some(at) = l4::pseudo_checksum_at(h.proto) else { return };
    update_transport(bytes, l4_at + at, h.proto, delta, partial);
}

fn update_transport(bytes: &mut [u8], at: usize, proto: u8, delta: Delta, partial: bool) {
    let old = word(bytes, at);
    let new = match (partial, proto) {
        (true, _) => delta.apply_partial(old),
        (false, l4::UDP) if old == 0 => 0,
        (false, l4::UDP) => checksum::udp_nonzero(delta.apply(old)),
        (false, _) => delta.apply(old),
    };
    set_word(bytes, at, new);
}

/// Rewrites the packet quoted at `at` where it carries `old`. Returns the resulting difference for the
/// checksum of the surrounding ICMP message.
fn translate_quoted(bytes: &mut [u8], at: usize, old: Ip, nat: &NatRewrite) -> Delta {
    let Some(q) = quoted(bytes, at) else { return Delta::ZERO };
    // The source of the quoted packet is the destination of the error, and the reverse.
    let source = !nat.source;
    if (if source { q.src } else { q.dst }) != old {
        return Delta::ZERO;
    }
    let v4 = q.src.is_v4();
    write_address(bytes, q.l3, v4, source, nat.address);
    let mut total = nat.delta;
    let mut cover = |bytes: &mut [u8], at: usize, proto: u8| {
        let before = word(bytes, at);
        update_transport(bytes, at, proto, nat.delta, false);
        total = total.word(before, word(bytes, at));
    };
    if v4 {
        cover(bytes, q.l3 + ipv4::CHECKSUM_AT, 0);
    }
    if let (Some(field), true) = (l4::pseudo_checksum_at(q.proto), q.l4 != 0)
        && q.l4 + field + 2 <= bytes.len()
    {
        cover(bytes, q.l4 + field, q.proto);
    }
    total
}

/// Turns a request into its reply, in place; the frame starts with its Ethernet header. Returns false when
/// the slot has no room for the reply.
pub fn respond<P: FramePool>(pool: &mut P, frame: &mut Frame, h: &Headers, who: Responder) -> bool {
    let eth = h.eth;
    let (l3, l4) = (usize::from(h.l3 - eth), usize::from(h.l4.saturating_sub(eth)));
    match who {
        // `output::answer` makes this reply, since it needs the tables as well as the request.
        Responder::Dhcp { .. } => return false,
        Responder::Arp(mac) => {
            frame.len = (l3 + arp::LEN) as u32;
            let bytes = pool.bytes_mut(frame);
            let Some(arp) = view_mut::<Arp>(bytes, l3) else { return false };
            let (asker, ip) = ((arp.sender_mac, arp.sender_ip), arp.target_ip);
            *arp = Arp::new(arp::REPLY, (mac, ip), asker);
            answer_macs(bytes, h.eth_src, mac);
        }
        Responder::Nd(mac) => {
            let len = l3 + ipv6::HEADER_LEN + icmp::ND_LEN;
            // The request may be longer than the reply, since extension headers may precede its target.
            let target = pool.bytes(frame).get(l4..).and_then(nd::target);
            let Some(target) = target.filter(|_| usize::from(frame.head) + len <= pool.slot_len(frame))
            else {
                return false;
            };
            frame.len = len as u32;
            advertise(pool.bytes_mut(frame), l3, h, target, mac);
        }
        Responder::Echo => {
            let mac = h.eth_dst;
            let bytes = pool.bytes_mut(frame);
            answer_macs(bytes, h.eth_src, mac);
            let reply = if h.net == Net::V4 { icmp::ECHO_REPLY } else { icmp::V6_ECHO_REPLY };
            let old = word(bytes, l4);
            bytes[l4] = reply;
            let new = word(bytes, l4);
            update(bytes, l4 + l4::ICMP_CHECKSUM_AT, Delta::ZERO.word(old, new));
            write_address(bytes, l3, h.net == Net::V4, true, h.dst);
            write_address(bytes, l3, h.net == Net::V4, false, h.src);
            if h.net == Net::V4 {
                let old = word(bytes, l3 + 8);
                bytes[l3 + 8] = 64;
                let new = word(bytes, l3 + 8);
                update(bytes, l3 + ipv4::CHECKSUM_AT, Delta::ZERO.word(old, new));
            } else {
                bytes[l3 + 7] = 64;
            }
        }
    }
    true
}

pub(super) fn answer_macs(bytes: &mut [u8], to: MacAddr, from: MacAddr) {
    if let Some(eth) = view_mut::<Ethernet>(bytes, 0) {
        (eth.dst, eth.src) = (to, from);
    }
}

/// Writes a neighbor advertisement (RFC 4861 §4.4, §7.2.4) over the solicitation.
fn advertise(bytes: &mut [u8], l3: usize, h: &Headers, target: Ip, mac: MacAddr) {
    const ROUTER_OVERRIDE: u8 = 0xa0;
    const SOLICITED: u8 = 0x40;
    const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let (src, target) = (target, target.v6_bytes());
    // A station that checks whether its address is free has no address yet: the advertisement goes to all
    // nodes.
    let probing = h.src == Ip(0);
    let (to_mac, to_ip) =
        if probing { (MacAddr([0x33, 0x33, 0, 0, 0, 1]), ALL_NODES) } else { (h.eth_src, h.src.v6_bytes()) };
    answer_macs(bytes, to_mac, mac);
    let ip = &mut bytes[l3..];
    ip[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, icmp::ND_LEN as u8, l4::ICMPV6, 255]);
    ip[IPV6_SRC..IPV6_SRC + 16].copy_from_slice(&target);
    ip[IPV6_DST..IPV6_DST + 16].copy_from_slice(&to_ip);
    let na = &mut ip[ipv6::HEADER_LEN..];
    let flags = if probing { ROUTER_OVERRIDE } else { ROUTER_OVERRIDE | SOLICITED };
    na[..8].copy_from_slice(&[icmp::NEIGHBOR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]);
    na[8..24].copy_from_slice(&target);
    na[24..26].copy_from_slice(&[icmp::OPTION_TARGET_MAC, 1]);
    na[26..32].copy_from_slice(&mac.0);
    let sum = u32::from(checksum::pseudo(src, Ip::v6(to_ip), l4::ICMPV6, icmp::ND_LEN as u32))
        + u32::from(checksum::sum(&na[..icmp::ND_LEN]));
    set_word(na, 2, !checksum::fold(sum));
}

/// Writes the switch's own request for the MAC address of `target`: ARP or a neighbor solicitation. A source
/// of `::` asks whether the address is free (RFC 4862 §5.4.2). Returns the length in bytes; `bytes` has room
/// for [`QUESTION_MAX`].
pub fn ask(bytes: &mut [u8], mac: MacAddr, source: Option<Ip>, target: Ip) -> usize {
    if target.is_v4() {
        let ip = source.map_or([0; 4], Ip::v4_bytes);
        let eth = Ethernet { dst: MacAddr::BROADCAST, src: mac, ethertype: ethernet::TYPE_ARP.into() };
        let arp = Arp::new(arp::REQUEST, (mac, ip), (MacAddr::ZERO, target.v4_bytes()));
        if let Some(e) = view_mut(bytes, 0) {
            *e = eth;
        }
        if let Some(a) = view_mut(bytes, ethernet::HEADER_LEN) {
            *a = arp;
        }
        return ethernet::HEADER_LEN + arp::LEN;
    }
    // RFC 4291 §2.7.1: the solicited-node group.
    let t = target.v6_bytes();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t[13], t[14], t[15]];
    let source = source.map_or(mac.link_local(), Ip::v6_bytes);
    let dst = MacAddr([0x33, 0x33, 0xff, t[13], t[14], t[15]]);
    if let Some(e) = view_mut(bytes, 0) {
        *e = Ethernet { dst, src: mac, ethertype: ethernet::TYPE_IPV6.into() };
    }
    let ip = &mut bytes[ethernet::HEADER_LEN..];
    // A solicitation from `::` must not contain a MAC address (RFC 4861 §4.3).
    let len = if source == [0; 16] { icmp::ND_LEN - 8 } else { icmp::ND_LEN };
    ip[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, len as u8, l4::ICMPV6, 255]);
    ip[IPV6_SRC..IPV6_SRC + 16].copy_from_slice(&source);
    ip[IPV6_DST..IPV6_DST + 16].copy_from_slice(&group);
    let ns = &mut ip[ipv6::HEADER_LEN..ipv6::HEADER_LEN + icmp::ND_LEN];
    ns[..8].copy_from_slice(&[icmp::NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0]);
    ns[8..24].copy_from_slice(&t);
    ns[24..26].copy_from_slice(&[icmp::OPTION_SOURCE_MAC, 1]);
    ns[26..32].copy_from_slice(&mac.0);
    let sum = u32::from(checksum::pseudo(Ip::v6(source), Ip::v6(group), l4::ICMPV6, len as u32))
        + u32::from(checksum::sum(&ns[..len]));
    set_word(ns, 2, !checksum::fold(sum));
    ethernet::HEADER_LEN + ipv6::HEADER_LEN + len
}

/// Length of the longest request that [`ask`] writes.
pub const QUESTION_MAX: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + icmp::ND_LEN;
