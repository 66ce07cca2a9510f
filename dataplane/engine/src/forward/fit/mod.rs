//! Makes a frame fit its output. Everything that concerns offloads is here.
//!
//! A frame may arrive unfinished ([`Offload`]): with a checksum that is only begun, or as a *GSO packet*,
//! whose payload is still to be segmented. Segmentation and checksums cost more than everything else that the
//! switch does to a byte, so it leaves a frame unfinished where it can. A GSO packet from a port that marks
//! it to a port that accepts it passes whole, and only its headers change.
//!
//! - [`check`]: checks on ingress, once, that the offload facts are possible for the frame.
//! - [`unmarked`]: recognises unfinished checksums on ports that do not mark them.
//! - [`layers`]: finds, for both, the innermost packet of a sender that has tunnels of its own.
//! - [`big`]: on receipt, splits BIG TCP into GSO packets of usual size.
//! - [`segment`]: segments a GSO packet. Copies and sums in one pass.
//! - [`merge`]: coalesces segments of one flow into a GSO packet (GRO).
//! - [`tunnel`]: GSO packets of tunnel packets, as GSO_UDP_L4 and UDP_SEGMENT send them and UDP GRO receives
//!   them.
//! - `send`: decides which of these an output needs.
//!
//! Inside a tunnel the switch always finishes the inner checksum (the receiver's UDP GRO vouches for the
//! outer one only). It computes every checksum from the packet itself, not from the value that the sender
//! left in the field.

pub mod big;
pub mod check;
pub mod layers;
pub mod merge;
pub mod segment;
pub(super) mod send;
pub mod tunnel;
pub mod unmarked;

pub use self::check::check;
pub use self::layers::looks_like_tunnel;
pub use self::unmarked::{hidden_in_udp, unmarked_partial, untold_segments};

use super::parse::{Headers, Net};
use crate::counters::DropReason;
use crate::frame::{Frame, FramePool, GsoKind, Offload};
use crate::port::PortCaps;
use crate::wire::ethernet;
use crate::wire::{checksum, ipv4, ipv6, l4, sctp, set_word, word};

/// Whether the output takes the frame without segmentation by the switch. No output takes the GSO packets
/// that a virtio-net header cannot express: one inside a tunnel of the sender's own, and one whose CWR flag
/// belongs to every segment.
#[must_use]
pub fn takes_whole(bytes: &[u8], offload: Offload, caps: PortCaps) -> bool {
    let takes = match offload.gso_kind {
        GsoKind::None => return true,
        GsoKind::TcpV4 | GsoKind::TcpV6 => caps.tx_tso && !offload.cwr_in_all,
        GsoKind::Udp => caps.tx_uso,
    };
    let outermost = || {
        network_layer(bytes).is_some_and(|(l3, ethertype)| {
            let v4 = ethertype == ethernet::TYPE_IPV4;
            layers::is_outermost(bytes, l3, v4, usize::from(offload.csum_start))
        })
    };
    takes && outermost()
}

/// Finishes the checksum of a frame that is not a GSO packet, unless the output does.
///
/// # Errors
/// [`DropReason::OffloadInvalid`] when the frame is a GSO packet or its facts are impossible.
#[inline]
pub fn fit<P: FramePool>(pool: &mut P, frame: &mut Frame, caps: PortCaps) -> Result<(), DropReason> {
    if frame.offload == Offload::NONE {
        return Ok(());
    }
    if frame.offload.gso_kind != GsoKind::None {
        return Err(DropReason::OffloadInvalid);
    }
    if !caps.tx_csum || is_of_sctp(frame.offload) {
        let offload = frame.offload;
        let bytes = pool.bytes_mut(frame);
        finish(bytes, offload)?;
        frame.offload = Offload::NONE;
    }
    Ok(())
}

/// Finishes the checksum that `offload` describes, over everything from `csum_start` to the end.
///
/// # Errors
/// [`DropReason::OffloadInvalid`] when the field is outside the frame.
pub fn finish(bytes: &mut [u8], offload: Offload) -> Result<(), DropReason> {
    let start = usize::from(offload.csum_start);
    let at = start + usize::from(offload.csum_offset);
    let len = if is_of_sctp(offload) { sctp::CHECKSUM_LEN } else { 2 };
    if at + len > bytes.len() {
        return Err(DropReason::OffloadInvalid);
    }
    if is_of_sctp(offload) {
        sctp::finish(&mut bytes[start..]);
        return Ok(());
    }
    let value = !checksum::sum(&bytes[start..]);
    let is_udp = usize::from(offload.csum_offset) == l4::UDP_CHECKSUM_AT;
    set_word(bytes, at, if is_udp { checksum::udp_nonzero(value) } else { value });
    Ok(())
}

/// Whether the unfinished checksum is SCTP's CRC. The switch finishes it for every output, since a virtio-net
/// header cannot tell it from a sum.
const fn is_of_sctp(offload: Offload) -> bool {
    offload.csum_offset as usize == sctp::CHECKSUM_AT
}

/// Writes the start value of a partial checksum, the sum of the pseudo-header, over the sender's value.
/// Leaves the field alone if the headers name more than two addresses (source routes), because then the last
/// one counts.
pub fn begin_checksum(bytes: &mut [u8], h: &Headers, offload: Offload) {
    let plain_len = match h.net {
        Net::V4 => ipv4::HEADER_LEN,
        _ => ipv6::HEADER_LEN,
    };
    let is_transport = usize::from(offload.csum_start) == usize::from(h.l4.saturating_sub(h.eth));
    if is_transport && usize::from(h.l4 - h.l3) == plain_len {
        let at = usize::from(offload.csum_start + offload.csum_offset);
        set_word(bytes, at, checksum::pseudo(h.src, h.dst, h.proto, u32::from(h.l4_len)));
    }
}

/// Length in bytes of the longest segment of a GSO packet; for any other frame its own length.
#[must_use]
pub fn wire_len(bytes: &[u8], offload: Offload) -> usize {
    match offload.gso_kind {
        GsoKind::None => bytes.len(),
        kind => payload_at(bytes, usize::from(offload.csum_start), kind) + usize::from(offload.gso_size),
    }
}

/// Number of frames and bytes on the wire: those of the segments for a GSO packet. The offload facts may be
/// false.
#[must_use]
pub fn on_the_wire(bytes: &[u8], offload: Offload) -> (u64, u64) {
    let len = bytes.len() as u64;
    let (kind, size) = (offload.gso_kind, u64::from(offload.gso_size));
    if kind == GsoKind::None || size == 0 {
        return (1, len);
    }
    let header_len = payload_at(bytes, usize::from(offload.csum_start), kind) as u64;
    let segments = len.saturating_sub(header_len).div_ceil(size).max(1);
    (segments, len + (segments - 1) * header_len)
}

/// Offset of the payload behind the transport header at `l4_at`.
fn payload_at(bytes: &[u8], l4_at: usize, kind: GsoKind) -> usize {
    match kind {
        GsoKind::Udp => l4_at + l4::UDP_HEADER_LEN,
        _ => l4_at + tcp_header_len(bytes, l4_at),
    }
}

/// Header length according to the TCP header at `l4_at`.
#[inline]
fn tcp_header_len(bytes: &[u8], l4_at: usize) -> usize {
    bytes.get(l4_at + l4::TCP_DATA_OFFSET_AT).map_or(0, |b| usize::from(b >> 4) * 4)
}

/// Offset and EtherType of the network layer, behind up to two tags. The same as `parse` finds.
#[inline]
fn network_layer(bytes: &[u8]) -> Option<(usize, u16)> {
    let mut at = ethernet::HEADER_LEN;
    for _ in 0..3 {
        if bytes.len() < at {
            return None;
        }
        let ethertype = word(bytes, at - 2);
        if !ethernet::is_tag(ethertype) {
            return Some((at, ethertype));
        }
        at += ethernet::TAG_LEN;
    }
    None
}
