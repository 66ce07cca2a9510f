//! Outer fragmentation, where an operator chose it for a peer: the tunnel packet is cut into IP fragments no larger
//! than the path carries (RFC 791 §3.2; RFC 8200 §4.5). The peer has to put them together: a kernel does, this
//! switch does not.

use super::Switch;
use crate::command::PortId;
use crate::counters::DropReason;
use crate::frame::{Frame, FramePool, SlotSize};
use crate::wire::{checksum, ethernet, ipv4, ipv6, l4, set_word};

/// Bytes of an IPv6 fragment header, and its number.
const V6_FRAGMENT_LEN: usize = 8;
const V6_FRAGMENT: u8 = 44;
const MORE_V4: u16 = 0x2000;

impl Switch {
    /// Sends a finished tunnel packet as fragments of at most `mtu` bytes. Those beyond the first count as segments.
    #[cold]
    pub(super) fn send_fragments<P: FramePool>(
        &mut self,
        from: PortId,
        uplink: PortId,
        frame: Frame,
        mtu: u16,
        pool: &mut P,
    ) {
        let v4 = pool.bytes(&frame).get(ethernet::HEADER_LEN).is_some_and(|b| b >> 4 == 4);
        let (ip_len, extra) = if v4 { (ipv4::HEADER_LEN, 0) } else { (ipv6::HEADER_LEN, V6_FRAGMENT_LEN) };
        let header_len = ethernet::HEADER_LEN + ip_len;
        let payload_len = frame.len as usize - header_len;
        // Every fragment but the last carries a multiple of eight.
        let room = usize::from(mtu).saturating_sub(ip_len + extra) & !7;
        if room == 0 {
            return self.drop_frame(from, frame, DropReason::TooBig, pool);
        }
        self.fragment_id = self.fragment_id.wrapping_add(1);
        let mut at = 0;
        while at < payload_len {
            let len = room.min(payload_len - at);
            let more = at + len < payload_len;
            if at > 0 {
                self.counters.segmented += 1;
            }
            match pool.alloc(SlotSize::for_len(header_len + extra + len)) {
                Some(mut piece) => {
                    copy(pool, &frame, 0, &mut piece, 0, header_len);
                    copy(pool, &frame, header_len + at, &mut piece, header_len + extra, len);
                    let ip = &mut pool.bytes_mut(&mut piece)[ethernet::HEADER_LEN..];
                    let offset = (at / 8) as u16;
                    if v4 {
                        stamp_v4(ip, self.fragment_id, offset, more)
                    } else {
                        stamp_v6(ip, self.fragment_id, offset, more)
                    }
                    self.enqueue(uplink, piece, pool);
                }
                None => self.count_drop(from, DropReason::PoolExhausted),
            }
            at += len;
        }
        pool.free(frame);
    }
}

fn stamp_v4(ip: &mut [u8], id: u32, offset: u16, more: bool) {
    let total_len = ip.len() as u16;
    set_word(ip, 2, total_len);
    set_word(ip, 4, id as u16);
    set_word(ip, 6, offset | if more { MORE_V4 } else { 0 });
    set_word(ip, ipv4::CHECKSUM_AT, 0);
    let sum = checksum::sum(&ip[..ipv4::HEADER_LEN]);
    set_word(ip, ipv4::CHECKSUM_AT, !sum);
}

fn stamp_v6(ip: &mut [u8], id: u32, offset: u16, more: bool) {
    let payload_len = (ip.len() - ipv6::HEADER_LEN) as u16;
    set_word(ip, 4, payload_len);
    ip[6] = V6_FRAGMENT;
    let header = &mut ip[ipv6::HEADER_LEN..ipv6::HEADER_LEN + V6_FRAGMENT_LEN];
    header[..2].copy_from_slice(&[l4::UDP, 0]);
    set_word(header, 2, offset << 3 | u16::from(more));
    header[4..].copy_from_slice(&id.to_be_bytes());
}

/// Copies between two frames of one pool, which lends only one at a time: by way of the stack, in pieces. `to` grows
/// as needed.
fn copy<P: FramePool>(pool: &mut P, from: &Frame, from_at: usize, to: &mut Frame, to_at: usize, len: usize) {
    const PIECE: usize = 2048;
    let mut piece = [0u8; PIECE];
    to.len = to.len.max((to_at + len) as u32);
    for done in (0..len).step_by(PIECE) {
        let n = PIECE.min(len - done);
        piece[..n].copy_from_slice(&pool.bytes(from)[from_at + done..from_at + done + n]);
        pool.bytes_mut(to)[to_at + done..to_at + done + n].copy_from_slice(&piece[..n]);
    }
}
