//! GSO packets of tunnel packets: Ethernet, IP and UDP once, then datagrams of equal length (the last may be
//! shorter), each a VXLAN header and an inner frame. The kernel sends this form as GSO_UDP_L4 or UDP_SEGMENT
//! and delivers it by UDP GRO, so one pass through its stack carries up to 64 packets.

use alloc::vec::Vec;
use core::ops::Range;

use super::merge::Run;
use super::segment::Cut;
use crate::command::{UplinkConfig, Vni};
use crate::forward::parse::{self, Headers, Part};
use crate::frame::{Frame, FramePool, GsoKind, Offload, SlotSize};
use crate::limits::{HEADROOM, SLOT_LARGE_LEN, TUNNEL_DATAGRAMS_IN_MAX, TUNNEL_DATAGRAMS_MAX};
use crate::tunnel::outer::OuterHeader;
use crate::tunnel::vxlan;
use crate::wire::ip::Ip;
use crate::wire::{ethernet, ipv4, ipv6, l4, set_word, word};
use arrayvec::ArrayVec;

/// Number of segments of `cut` that one tunnel GSO packet with this outer header holds.
#[must_use]
pub fn datagrams_per_frame(cut: &Cut, outer: &OuterHeader) -> usize {
    let before = outer.len - vxlan::HEADER_LEN;
    let packet = 0xffff - (before - ethernet::HEADER_LEN);
    let slot = SLOT_LARGE_LEN - HEADROOM - before;
    (packet.min(slot) / (vxlan::HEADER_LEN + cut.len(0))).min(TUNNEL_DATAGRAMS_MAX)
}

/// Length in bytes of the tunnel GSO packet that holds these segments of `cut`.
#[must_use]
pub fn len(cut: &Cut, segments: Range<usize>, outer: &OuterHeader) -> usize {
    let last = segments.end - 1;
    let whole = (last - segments.start) * (vxlan::HEADER_LEN + cut.len(0));
    outer.len + whole + cut.len(last)
}

/// Writes these segments of the GSO packet `from`, each behind a VXLAN header, to `to`, behind the room for
/// the other outer headers. Inner checksums are finished.
pub fn write(cut: &Cut, from: &[u8], segments: Range<usize>, outer: &OuterHeader, vni: Vni, to: &mut [u8]) {
    let header = vxlan::header(vni);
    let mut at = outer.len - vxlan::HEADER_LEN;
    for index in segments {
        let inner = at + vxlan::HEADER_LEN;
        to[at..inner].copy_from_slice(&header);
        at = inner + cut.len(index);
        cut.write(from, index, &mut to[inner..at], false);
    }
}

/// The result of [`open`] for a tunnel GSO packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// Number of frames in the packet, including those without a slot.
    pub frames: usize,
    /// Number of these for which no slot was free.
    pub lost: usize,
}

/// Consecutive datagrams that are one frame now: its VXLAN header and the inner frame.
struct Piece {
    start: usize,
    end: usize,
    run: Option<Run>,
}

/// Unpacks a tunnel GSO packet. Coalesces datagrams that continue each other into one tunnel packet with an
/// inner GSO packet, in place; every other datagram becomes a tunnel packet of its own. `frame` is the first
/// of these, and `more` gets the rest, in order. Returns `None`, without any change, when the frame is not a
/// tunnel GSO packet for this switch or its facts are impossible.
pub fn open<P: FramePool>(
    pool: &mut P,
    frame: &mut Frame,
    uplink: &UplinkConfig,
    more: &mut Vec<Frame>,
) -> Option<Opened> {
    let datagrams = datagrams(pool.bytes(frame), frame.offload, uplink)?;
    let (start, end, size) = (datagrams.start, datagrams.end, usize::from(frame.offload.gso_size));
    let mut pieces: ArrayVec<Piece, TUNNEL_DATAGRAMS_IN_MAX> = ArrayVec::new();
    let bytes = pool.bytes_mut(frame);
    let mut at = start;
    while at < end {
        let next = end.min(at + size);
        if !pieces.last_mut().is_some_and(|piece| piece.take(bytes, at, next)) {
            let run = bytes.get(at + vxlan::HEADER_LEN..next).and_then(|b| Run::start(b, Offload::NONE));
            pieces.push(Piece { start: at, end: next, run });
        }
        at = next;
    }
    let mut opened = Opened { frames: pieces.len(), lost: 0 };
    let facts: ArrayVec<Offload, TUNNEL_DATAGRAMS_IN_MAX> =
        pieces.iter().map(|piece| piece.seal(bytes, start)).collect();
    for (piece, offload) in pieces.iter().zip(&facts).skip(1) {
        let len = start + piece.end - piece.start;
        let Some(mut part) = pool.alloc(SlotSize::for_len(len)) else {
            opened.lost += 1;
            continue;
        };
        part.len = len as u32;
        part.offload = *offload;
        let (from, to) = pool.pair(frame, &mut part);
        to[..start].copy_from_slice(&from[..start]);
        to[start..].copy_from_slice(&from[piece.start..piece.end]);
        set_outer_len(to, start);
        more.push(part);
    }
    frame.offload = facts[0];
    frame.len = pieces[0].end as u32;
    set_outer_len(pool.bytes_mut(frame), start);
    Some(opened)
}

/// The range of the datagrams in a tunnel GSO packet to our VTEP.
fn datagrams(bytes: &[u8], offload: Offload, uplink: &UplinkConfig) -> Option<Range<usize>> {
    let mut h = Headers::default();
    parse::ethernet(bytes, 0, &mut h).ok()?;
    let tunnel = h.proto == l4::UDP
        && h.l4 != 0
        && h.part == Part::Whole
        && h.dport == uplink.tunnel_port
        && h.dst == Ip::from(uplink.vtep);
    let whole = (offload.csum_start, usize::from(offload.csum_offset)) == (h.l4, l4::UDP_CHECKSUM_AT);
    if !tunnel || !whole || offload.gso_kind != GsoKind::Udp || offload.gso_size == 0 {
        return None;
    }
    let udp_at = usize::from(h.l4);
    let start = udp_at + l4::UDP_HEADER_LEN;
    let end = udp_at + usize::from(h.l4_len);
    let count = (end - start).div_ceil(usize::from(offload.gso_size));
    // Coalesced tunnel packets all begin with the same flags. Otherwise this is one tunnel packet around a
    // GSO packet.
    let second = start + usize::from(offload.gso_size);
    let alike = second >= end || bytes.get(second) == bytes.get(start);
    let whole = alike && word(bytes, udp_at + l4::UDP_LEN_AT) == h.l4_len;
    (whole && (1..=TUNNEL_DATAGRAMS_IN_MAX).contains(&count)).then_some(start..end)
}

impl Piece {
    /// Appends the datagram `bytes[at..next]` to this piece, if it continues the piece.
    fn take(&mut self, bytes: &mut [u8], at: usize, next: usize) -> bool {
        let Some(run) = &mut self.run else { return false };
        let (mine, its) = (self.start + vxlan::HEADER_LEN, at + vxlan::HEADER_LEN);
        if !run.open() || its >= next || bytes[self.start..mine] != bytes[at..its] {
            return false;
        }
        let Some(end) = run.merge_within(bytes, (mine, self.end), (its, next)) else { return false };
        self.end = end;
        true
    }

    /// The offload facts of the piece's tunnel packet, whose VXLAN header starts at `start`.
    fn seal(&self, bytes: &mut [u8], start: usize) -> Offload {
        match &self.run {
            Some(run) if run.count() > 1 => {
                let inner = self.start + vxlan::HEADER_LEN;
                let mut offload = run.seal(&mut bytes[inner..self.end], false);
                offload.csum_start += (start + vxlan::HEADER_LEN) as u16;
                offload
            }
            _ => Offload::NONE,
        }
    }
}

/// Sets the lengths in the outer headers, which end at `start`, to match the bytes behind them. Leaves their
/// checksums alone, since no later stage reads them.
fn set_outer_len(bytes: &mut [u8], start: usize) {
    let udp_at = start - l4::UDP_HEADER_LEN;
    let Some((l3, ethertype)) = super::network_layer(bytes) else { return };
    let len = bytes.len();
    set_word(bytes, udp_at + l4::UDP_LEN_AT, (len - udp_at) as u16);
    if ethertype == ethernet::TYPE_IPV4 {
        set_word(bytes, l3 + ipv4::TOTAL_LEN_AT, (len - l3) as u16);
    } else {
        set_word(bytes, l3 + ipv6::PAYLOAD_LEN_AT, (len - l3 - ipv6::HEADER_LEN) as u16);
    }
}
