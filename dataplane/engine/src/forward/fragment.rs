//! Fragmentation of inner and outer packets.
//!
//! *Inner*: on its routed path the switch is an IPv4 router. A packet that is larger than its next hop
//! carries and may be fragmented goes on in fragments (RFC 791 §3.2, RFC 1812 §4.2.2.7), which the receiving
//! host reassembles. This happens behind `act`, so every fragment is translated, and on finished packets: a
//! GSO packet is segmented first. A bridge does not fragment: on a bridged path such a packet is dropped.
//! IPv6 routers do not fragment (RFC 8200 §5).
//!
//! *Outer*, where an operator enabled it for a peer: the tunnel packet is split into IP fragments no larger
//! than the path carries (RFC 791 §3.2; RFC 8200 §4.5). The peer has to reassemble them: a kernel does, this
//! switch does not.

use super::fit::segment::Cut;
use super::{Onward, Pipeline, act, fit};
use crate::command::PortId;
use crate::counters::DropReason;
use crate::frame::{Frame, FramePool, GsoKind, SlotSize};
use crate::port::PortCaps;
use crate::wire::{ethernet, ipv4, ipv6, l4, set_word, word};

/// Length of an IPv6 fragment header in bytes, and its protocol number.
const V6_FRAGMENT_LEN: usize = 8;
const V6_FRAGMENT: u8 = 44;

impl<F> Pipeline<F> {
    /// Sends a routed IPv4 packet, or each segment of a GSO packet, on in fragments of at most `mtu` bytes.
    #[cold]
    pub(super) fn send_in_fragments<P: FramePool>(
        &mut self,
        on: Onward<'_>,
        mtu: u16,
        mut frame: Frame,
        pool: &mut P,
    ) {
        let onward = |pipeline: &mut Self, part, pool: &mut P| pipeline.send_onward(on, part, pool);
        if !act::act(pool, &mut frame, on.h, on.verdict) {
            return self.drop_frame(on.id, frame, DropReason::PoolExhausted, pool);
        }
        self.count_mapping(on.verdict, frame.len);
        if frame.offload.gso_kind == GsoKind::None {
            return match fit::fit(pool, &mut frame, PortCaps::default()) {
                Ok(()) => self.fragment(on.id, mtu, frame, pool, onward),
                Err(reason) => self.drop_frame(on.id, frame, reason, pool),
            };
        }
        let Some(cut) = Cut::new(pool.bytes(&frame), frame.offload) else {
            return self.drop_frame(on.id, frame, DropReason::OffloadInvalid, pool);
        };
        self.counters.segmented += cut.count() as u64 - 1;
        for index in 0..cut.count() {
            let Some(mut part) = pool.alloc(SlotSize::for_len(cut.len(index))) else {
                self.count_drop(on.id, DropReason::PoolExhausted);
                continue;
            };
            part.len = cut.len(index) as u32;
            let (super_frame, bytes) = pool.pair(&frame, &mut part);
            cut.write(super_frame, index, bytes, false);
            self.fragment(on.id, mtu, part, pool, onward);
        }
        pool.free(frame);
    }

    /// Passes the fragments of a finished IPv4 packet in an untagged frame to `send`. Those beyond the first
    /// count as segments.
    fn fragment<P: FramePool>(
        &mut self,
        from: PortId,
        mtu: u16,
        frame: Frame,
        pool: &mut P,
        send: impl Fn(&mut Self, Frame, &mut P),
    ) {
        let plan = match Plan::new(&pool.bytes(&frame)[ethernet::HEADER_LEN..], usize::from(mtu)) {
            Ok(plan) => plan,
            Err(reason) => return self.drop_frame(from, frame, reason, pool),
        };
        let mut at = 0;
        while let Some(piece) = plan.piece(at) {
            self.counters.segmented += u64::from(at > 0);
            at += piece.data_len;
            let len = ethernet::HEADER_LEN + piece.header_len + piece.data_len;
            let Some(mut part) = pool.alloc(SlotSize::for_len(len)) else {
                self.count_drop(from, DropReason::PoolExhausted);
                continue;
            };
            part.len = len as u32;
            let (whole, bytes) = pool.pair(&frame, &mut part);
            plan.write(piece, whole, bytes);
            send(self, part, pool);
        }
        pool.free(frame);
    }

    /// Sends a finished tunnel packet as fragments of at most `mtu` bytes. Those beyond the first count as segments.
    #[cold]
    pub(super) fn send_outer_fragments<P: FramePool>(
        &mut self,
        from: PortId,
        uplink: PortId,
        mut frame: Frame,
        mtu: u16,
        pool: &mut P,
    ) {
        self.answers.fragment_id = self.answers.fragment_id.wrapping_add(1);
        let ip = &mut pool.bytes_mut(&mut frame)[ethernet::HEADER_LEN..];
        if ip[0] >> 4 == 4 {
            set_word(ip, ipv4::ID_AT, self.answers.fragment_id as u16);
            set_word(ip, ipv4::FLAGS_OFFSET_AT, 0);
            ipv4::seal(&mut ip[..ipv4::HEADER_LEN]);
            let to_uplink = |pipeline: &mut Self, part, pool: &mut P| pipeline.enqueue(uplink, part, pool);
            return self.fragment(from, mtu, frame, pool, to_uplink);
        }
        const HEADERS_LEN: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN;
        let payload_len = frame.len as usize - HEADERS_LEN;
        // Every fragment but the last carries a multiple of eight bytes.
        let room = usize::from(mtu).saturating_sub(ipv6::HEADER_LEN + V6_FRAGMENT_LEN) & !7;
        if room == 0 {
            return self.drop_frame(from, frame, DropReason::TooBig, pool);
        }
        for at in (0..payload_len).step_by(room) {
            let len = room.min(payload_len - at);
            self.counters.segmented += u64::from(at > 0);
            let Some(mut part) = pool.alloc(SlotSize::for_len(HEADERS_LEN + V6_FRAGMENT_LEN + len)) else {
                self.count_drop(from, DropReason::PoolExhausted);
                continue;
            };
            part.len = (HEADERS_LEN + V6_FRAGMENT_LEN + len) as u32;
            let (whole, bytes) = pool.pair(&frame, &mut part);
            bytes[..HEADERS_LEN].copy_from_slice(&whole[..HEADERS_LEN]);
            bytes[HEADERS_LEN + V6_FRAGMENT_LEN..]
                .copy_from_slice(&whole[HEADERS_LEN + at..HEADERS_LEN + at + len]);
            let ip = &mut bytes[ethernet::HEADER_LEN..];
            stamp_v6(ip, self.answers.fragment_id, (at / 8) as u16, at + len < payload_len);
            self.enqueue(uplink, part, pool);
        }
        pool.free(frame);
    }
}

/// How to fragment one IPv4 packet.
struct Plan {
    mtu: usize,
    header_len: usize,
    data_len: usize,
    /// For a packet that is a fragment already: its offset, in units of eight bytes, and whether more
    /// fragments follow.
    offset: u16,
    more: bool,
    /// The header of all fragments but the first, and its length.
    later: [u8; V4_HEADER_MAX],
    later_len: usize,
}

/// Length of the longest IPv4 header, in bytes.
const V4_HEADER_MAX: usize = 60;

/// One fragment.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Offset of the fragment's data in the packet's data.
    at: usize,
    header_len: usize,
    data_len: usize,
}

impl Plan {
    /// Plans the fragmentation of `packet`, which was parsed.
    fn new(packet: &[u8], mtu: usize) -> Result<Self, DropReason> {
        let header_len = usize::from(packet[0] & 0xf) * 4;
        let data_len = usize::from(word(packet, ipv4::TOTAL_LEN_AT)) - header_len;
        let flags_offset = word(packet, ipv4::FLAGS_OFFSET_AT);
        let offset = flags_offset & ipv4::OFFSET_MASK;
        // New headers would hide a corrupted original, so check it first. And the packet that the fragments
        // belong to has to be within IPv4's limit.
        let sound = ipv4::is_sound(packet) && usize::from(offset) * 8 + data_len <= usize::from(u16::MAX);
        if !sound {
            return Err(DropReason::IpMalformed);
        }
        if mtu < header_len + 8 {
            return Err(DropReason::TooBig);
        }
        let (later, later_len) = later_header(&packet[..header_len]);
        let more = flags_offset & ipv4::MORE_FRAGMENTS != 0;
        Ok(Self { mtu, header_len, data_len, offset, more, later, later_len })
    }

    /// The fragment whose data starts at `at`; `None` at the end.
    fn piece(&self, at: usize) -> Option<Piece> {
        let header_len = if at == 0 { self.header_len } else { self.later_len };
        let (room, left) = (self.mtu - header_len, self.data_len.checked_sub(at)?);
        // Every fragment but the last carries a multiple of eight bytes.
        let data_len = if left <= room { left } else { room & !7 };
        (at == 0 || left > 0).then_some(Piece { at, header_len, data_len })
    }

    /// Writes a fragment of the packet in the frame `from` to `to`, which has the fragment's length.
    fn write(&self, piece: Piece, from: &[u8], to: &mut [u8]) {
        let Piece { at, header_len, data_len } = piece;
        let data_at = ethernet::HEADER_LEN + self.header_len + at;
        let (headers, data) = to.split_at_mut(ethernet::HEADER_LEN + header_len);
        headers[..ethernet::HEADER_LEN].copy_from_slice(&from[..ethernet::HEADER_LEN]);
        data.copy_from_slice(&from[data_at..data_at + data_len]);
        let ip = &mut headers[ethernet::HEADER_LEN..];
        if at == 0 {
            ip.copy_from_slice(&from[ethernet::HEADER_LEN..ethernet::HEADER_LEN + header_len]);
        } else {
            ip.copy_from_slice(&self.later[..header_len]);
        }
        let more = self.more || at + data_len < self.data_len;
        let more = if more { ipv4::MORE_FRAGMENTS } else { 0 };
        set_word(ip, ipv4::TOTAL_LEN_AT, (header_len + data_len) as u16);
        set_word(ip, ipv4::FLAGS_OFFSET_AT, more | (self.offset + (at / 8) as u16));
        ipv4::seal(ip);
    }
}

/// The header of the later fragments: with those options only that have to be copied (RFC 791 §3.1).
fn later_header(header: &[u8]) -> ([u8; V4_HEADER_MAX], usize) {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut later = [0; V4_HEADER_MAX];
    later[..ipv4::HEADER_LEN].copy_from_slice(&header[..ipv4::HEADER_LEN]);
    let (mut len, mut options) = (ipv4::HEADER_LEN, &header[ipv4::HEADER_LEN..]);
    while let [kind, rest @ ..] = options {
        let option_len = match (*kind, rest) {
            (END, _) => break,
            (NOP, _) => 1,
            (_, [option_len, ..]) if *option_len >= 2 => usize::from(*option_len),
            _ => break,
        };
        let Some((option, behind)) = options.split_at_checked(option_len) else { break };
        if kind & COPIED != 0 {
            later[len..len + option_len].copy_from_slice(option);
            len += option_len;
        }
        options = behind;
    }
    // Pad to whole words with end-of-list options.
    let len = len.next_multiple_of(4);
    later[0] = 0x40 | (len / 4) as u8;
    (later, len)
}

fn stamp_v6(ip: &mut [u8], id: u32, offset: u16, more: bool) {
    let payload_len = (ip.len() - ipv6::HEADER_LEN) as u16;
    set_word(ip, ipv6::PAYLOAD_LEN_AT, payload_len);
    ip[ipv6::NEXT_HEADER_AT] = V6_FRAGMENT;
    let header = &mut ip[ipv6::HEADER_LEN..ipv6::HEADER_LEN + V6_FRAGMENT_LEN];
    header[..2].copy_from_slice(&[l4::UDP, 0]);
    set_word(header, 2, offset << 3 | u16::from(more));
    header[4..].copy_from_slice(&id.to_be_bytes());
}
