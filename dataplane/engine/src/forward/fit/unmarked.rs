//! Recognises unfinished checksums by their value, on ports that do not mark them (AF_XDP on a veth).
//!
//! A local stack leaves the sum of the pseudo-header in the field (SCTP and GRE: zero). A finished checksum has that value in
//! one frame of 65,536; it verifies, and an unfinished one does not. So the switch never changes a right checksum.
//!
//! At most one checksum of a frame is unfinished: the innermost one that the sender left to a device. The
//! sender computes the surrounding checksums as if it were finished (Linux: local checksum offload). So a
//! candidate inside a tunnel counts only if every surrounding checksum verifies once the candidate is
//! finished. VXLAN over IPv4 usually has no surrounding checksum; there the value alone decides. The price: a
//! captured frame with an unfinished checksum, sent on in a datagram without a checksum and behind a valid
//! tunnel header, arrives finished.

use super::layers::{self, Cover, GRE_CHECKSUM_AT, Packet, Shell, Shells, header_ok, may_carry};
use crate::counters::DropReason;
use crate::forward::parse::{Headers, Net, Part};
use crate::frame::{GsoKind, Offload};
use crate::limits::NESTED_MAX;
use crate::wire::checksum::{self, fold, sum};
use crate::wire::{ethernet, ipv4, ipv6, l4, sctp, word};

/// The unfinished checksum of a parsed frame.
#[inline]
#[must_use]
pub fn unmarked_partial(bytes: &[u8], h: &Headers) -> Option<Offload> {
    let field = match h.proto {
        l4::TCP => l4::TCP_CHECKSUM_AT,
        l4::UDP => l4::UDP_CHECKSUM_AT,
        _ => return search_if_whole(bytes, h),
    };
    if h.l4 == 0 || h.part != Part::Whole || !matches!(h.net, Net::V4 | Net::V6) {
        return None;
    }
    let found = word(bytes, usize::from(h.l4) + field);
    let routed = h.net == Net::V6 && usize::from(h.l4 - h.l3) != ipv6::HEADER_LEN;
    let suspect = found == checksum::pseudo(h.src, h.dst, h.proto, u32::from(h.l4_len))
        || routed
        || h.proto == l4::UDP && may_carry(&bytes[usize::from(h.l4) + l4::UDP_HEADER_LEN..]);
    if suspect { search_if_whole(bytes, h) } else { None }
}

/// Whether a plain UDP packet (`memo.rs`) has an unfinished checksum inside a tunnel of the sender's own.
#[inline]
#[must_use]
pub fn hidden_in_udp(bytes: &[u8], packet_len: usize) -> bool {
    const L3: usize = ethernet::HEADER_LEN;
    const PAYLOAD: usize = L3 + ipv4::HEADER_LEN + l4::UDP_HEADER_LEN;
    bytes.get(PAYLOAD..L3 + packet_len).is_some_and(may_carry) && search_plain(bytes, L3 + packet_len)
}

#[cold]
fn search_plain(bytes: &[u8], end: usize) -> bool {
    search(bytes, ethernet::HEADER_LEN, ethernet::TYPE_IPV4, end).is_some()
}

#[cold]
fn search_if_whole(bytes: &[u8], h: &Headers) -> Option<Offload> {
    if h.part != Part::Whole || !matches!(h.net, Net::V4 | Net::V6 | Net::Other) {
        return None;
    }
    search(bytes, usize::from(h.l3), h.ethertype, h.end as usize)
}

/// Adds segmentation facts to an unfinished packet from the uplink that is longer than the underlay's MTU. A
/// kernel hands GSO packets of a local neighbour's tunnel to a UDP socket whole, and does not tell the
/// segment size. TCP may be segmented at any size; 1280 bytes pass everywhere (RFC 8200 §5).
///
/// # Errors
/// [`DropReason::OffloadUnknown`] for UDP, whose datagram boundaries are lost.
#[inline]
pub fn untold_segments(
    bytes: &[u8],
    h: &Headers,
    underlay_mtu: u16,
    offload: &mut Offload,
) -> Result<(), DropReason> {
    if h.end - u32::from(h.l3) <= u32::from(underlay_mtu) { Ok(()) } else { untold(bytes, h, offload) }
}

#[cold]
fn untold(bytes: &[u8], h: &Headers, offload: &mut Offload) -> Result<(), DropReason> {
    const PASSES: usize = 1280;
    let start = usize::from(offload.csum_start);
    let found = layers::find(bytes, usize::from(h.l3), h.ethertype, start);
    let (packet, _) =
        found.filter(|(packet, _)| packet.proto == l4::TCP).ok_or(DropReason::OffloadUnknown)?;
    let headers = start + super::tcp_header_len(bytes, start) - usize::from(h.l3);
    offload.gso_kind = if packet.v4 { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
    offload.gso_size = PASSES.checked_sub(headers).ok_or(DropReason::OffloadUnknown)? as u16;
    Ok(())
}

/// Looks for the unfinished checksum from the outermost packet inwards.
fn search(bytes: &[u8], l3: usize, ethertype: u16, end: usize) -> Option<Offload> {
    let mut around = Shells::new();
    let mut packet = Packet::read(bytes, l3, ethertype, end)?;
    loop {
        if let Some(found) = of_transport(bytes, &packet, &around) {
            return Some(found);
        }
        let (inner, cover) = packet.carried(bytes)?;
        let shell = Shell { packet, cover };
        if let Some(found) = of_cover(bytes, &shell, &around) {
            return Some(found);
        }
        // A stack does not pad an unfinished packet.
        if inner.end != packet.end || !header_ok(bytes, &inner) || around.is_full() {
            return None;
        }
        around.push(shell);
        packet = inner;
    }
}

const _: () = assert!(NESTED_MAX >= 3, "an overlay in an overlay in an overlay");

/// The unfinished checksum of a packet's transport header.
fn of_transport(bytes: &[u8], packet: &Packet, around: &Shells) -> Option<Offload> {
    let field = packet.checksum_at()?;
    let at = packet.l4 + field;
    let segment = &bytes[packet.l4..packet.end];
    if packet.proto == sctp::PROTOCOL {
        let value = sctp::checksum(segment);
        let unfinished = segment[field..sctp::HEADER_LEN] == [0; 4] && value != [0; 4];
        let words = [word(&value, 0), word(&value, 2)];
        return (unfinished && all_right(bytes, around, at, &words)).then_some(offload(packet.l4, field));
    }
    let found = word(bytes, at);
    if found != packet.pseudo(segment.len()) {
        return None;
    }
    let udp = packet.proto == l4::UDP;
    let whole = !udp || found != 0 && usize::from(word(segment, l4::UDP_LEN_AT)) == segment.len();
    let sum = sum(segment);
    if !whole || fold(u32::from(sum) + u32::from(found)) == 0xffff {
        return None;
    }
    let value = if udp { checksum::udp_nonzero(!sum) } else { !sum };
    all_right(bytes, around, at, &[value]).then_some(offload(packet.l4, field))
}

/// The unfinished checksum of a GRE header.
fn of_cover(bytes: &[u8], shell: &Shell, around: &Shells) -> Option<Offload> {
    let Packet { l4, end, .. } = shell.packet;
    let at = l4 + GRE_CHECKSUM_AT;
    if shell.cover != Cover::Gre || word(bytes, at) != 0 {
        return None;
    }
    let sum = sum(&bytes[l4..end]);
    (sum != 0xffff && all_right(bytes, around, at, &[!sum])).then_some(offload(l4, GRE_CHECKSUM_AT))
}

/// Whether every surrounding checksum verifies once these words are written at `at`.
fn all_right(bytes: &[u8], around: &Shells, at: usize, words: &[u16]) -> bool {
    around.iter().all(|shell| {
        let Packet { l4, end, .. } = shell.packet;
        if shell.checksum_at(bytes).is_none() {
            return true;
        }
        let change =
            words.iter().enumerate().map(|(n, new)| u32::from(*new) + u32::from(!word(bytes, at + 2 * n)));
        let total = u32::from(sum(&bytes[l4..end])) + u32::from(shell.pseudo(end - l4)) + change.sum::<u32>();
        (at - l4).is_multiple_of(2) && fold(total) == 0xffff
    })
}

fn offload(start: usize, field: usize) -> Offload {
    Offload { csum_start: start as u16, csum_offset: field as u16, ..Offload::NONE }
}
