//! Whether offload facts are possible for their frame. They come from an untrusted side (a guest's driver, by way
//! of TAP, AF_PACKET or vhost-user), and a wrong one would have us write where no checksum is, or cut where no
//! payload is.

use super::{tcp_header_len, word};
use crate::counters::DropReason;
use crate::forward::parse::{Headers, Net, Part};
use crate::frame::{GsoKind, Offload};
use crate::limits::SEGMENTS_MAX;
use crate::wire::{checksum, ipv6, l4, vxlan};

/// Judges the facts that came with a parsed frame. Afterwards they are about the parsed headers and true:
///
/// - a partial checksum is that of the transport header, or of something whole behind it (a tunnel of the sender's
///   own, whose inner checksum its device was to finish);
/// - a super-frame's kind is that of its headers, and it becomes at least 2 and at most [`SEGMENTS_MAX`] segments;
/// - the frame ends where its IP packet does, since what follows would be summed.
///
/// # Errors
/// [`DropReason::OffloadInvalid`] when they are impossible.
#[cold]
pub fn check(bytes: &[u8], h: &mut Headers, offload: &mut Offload) -> Result<(), DropReason> {
    if is_outer(h, *offload) {
        // The checksum around a tunnel packet is nobody's once it is unpacked.
        *offload = Offload::NONE;
        return Ok(());
    }
    if !offload.csum_partial() || !matches!(h.net, Net::V4 | Net::V6) || h.part != Part::Whole {
        return Err(DropReason::OffloadInvalid);
    }
    let transport = h.l4 != 0 && offload.csum_start == h.l4;
    match offload.gso_kind {
        GsoKind::None if transport => partial(bytes, h, offload),
        GsoKind::None => nested(bytes, h, offload),
        _ if transport => super_frame(bytes, h, offload),
        _ => Err(DropReason::OffloadInvalid),
    }
}

/// Whether the facts are about the outer UDP header of a tunnel packet.
fn is_outer(h: &Headers, offload: Offload) -> bool {
    const TO_INNER: usize = l4::UDP_HEADER_LEN + vxlan::HEADER_LEN;
    h.outer.is_some()
        && offload.gso_kind == GsoKind::None
        && usize::from(offload.csum_start) + TO_INNER == usize::from(h.eth)
        && usize::from(offload.csum_offset) == l4::UDP_CHECKSUM_AT
}

fn partial(bytes: &[u8], h: &mut Headers, offload: &mut Offload) -> Result<(), DropReason> {
    let field = match h.proto {
        l4::TCP => l4::TCP_CHECKSUM_AT,
        l4::UDP if udp_len_is_whole(bytes, h) => l4::UDP_CHECKSUM_AT,
        _ => return Err(DropReason::OffloadInvalid),
    };
    if usize::from(offload.csum_offset) != field {
        return Err(DropReason::OffloadInvalid);
    }
    offload.gso_size = 0;
    end_with(h, u32::from(h.l4) + u32::from(h.l4_len));
    Ok(())
}

/// A partial checksum behind the headers we read. It may be anywhere there: the bytes are the sender's own, and
/// nobody judges them, but for those of DHCP.
fn nested(bytes: &[u8], h: &mut Headers, offload: &mut Offload) -> Result<(), DropReason> {
    /// RFC 4960 §6.8: SCTP's checksum is another one. What it says cannot be told from this.
    const SCTP: u8 = 132;
    let packet_len = match h.net {
        Net::V4 => usize::from(word(bytes, usize::from(h.l3) + 2)),
        _ => ipv6::HEADER_LEN + usize::from(word(bytes, usize::from(h.l3) + 4)),
    };
    let end = usize::from(h.l3) + packet_len;
    let behind = end - usize::from(h.l4_len) + l4::UDP_HEADER_LEN;
    let start = usize::from(offload.csum_start);
    let inside = start >= behind && start + usize::from(offload.csum_offset) + 2 <= end;
    let is_judged =
        h.proto == l4::UDP && matches!(h.dport, l4::DHCP_SERVER_PORT | l4::DHCP6_SERVER_PORT | l4::PXE_PORT);
    if !inside || is_judged || matches!(h.proto, l4::TCP | l4::ICMP | l4::ICMPV6 | SCTP) {
        return Err(DropReason::OffloadInvalid);
    }
    offload.gso_size = 0;
    end_with(h, end as u32);
    Ok(())
}

fn super_frame(bytes: &[u8], h: &mut Headers, offload: &mut Offload) -> Result<(), DropReason> {
    let l4_at = usize::from(h.l4);
    let (matches, header_len) = match (offload.gso_kind, h.net, h.proto) {
        (GsoKind::TcpV4, Net::V4, l4::TCP) | (GsoKind::TcpV6, Net::V6, l4::TCP) => {
            let len = tcp_header_len(bytes, l4_at);
            (len >= l4::TCP_HEADER_LEN, len)
        }
        (GsoKind::Udp, _, l4::UDP) => (udp_len_is_whole(bytes, h), l4::UDP_HEADER_LEN),
        _ => return Err(DropReason::OffloadInvalid),
    };
    let payload_len = usize::from(h.l4_len).checked_sub(header_len).filter(|&len| matches && len > 0);
    let (Some(payload_len), Some(_)) = (payload_len, offload.gso_size.checked_sub(1)) else {
        return Err(DropReason::OffloadInvalid);
    };
    let gso_size = usize::from(offload.gso_size);
    if payload_len.div_ceil(gso_size) > SEGMENTS_MAX {
        return Err(DropReason::OffloadInvalid);
    }
    if payload_len <= gso_size {
        // One segment: not really a super-frame.
        offload.gso_kind = GsoKind::None;
        return partial(bytes, h, offload);
    }
    let field = if h.proto == l4::TCP { l4::TCP_CHECKSUM_AT } else { l4::UDP_CHECKSUM_AT };
    if usize::from(offload.csum_offset) != field {
        return Err(DropReason::OffloadInvalid);
    }
    end_with(h, u32::from(h.l4) + u32::from(h.l4_len));
    h.wire_end = (l4_at + header_len + gso_size) as u32;
    Ok(())
}

/// Whether the UDP header says the length that the IP header does.
fn udp_len_is_whole(bytes: &[u8], h: &Headers) -> bool {
    word(bytes, usize::from(h.l4) + l4::UDP_LEN_AT) == h.l4_len
}

fn end_with(h: &mut Headers, end: u32) {
    (h.end, h.wire_end) = (end, end);
}

/// Recognises a transport checksum that a local stack left unfinished, on ports that do not say so: the field
/// then holds exactly the pseudo-header's sum. A finished checksum has that value once in 65,536 frames,
/// and is told apart by being right.
#[inline]
#[must_use]
pub fn unmarked_partial(bytes: &[u8], h: &Headers) -> Option<Offload> {
    let field = match h.proto {
        l4::TCP => l4::TCP_CHECKSUM_AT,
        l4::UDP => l4::UDP_CHECKSUM_AT,
        _ => return None,
    };
    if h.l4 == 0 || h.part != Part::Whole || !matches!(h.net, Net::V4 | Net::V6) {
        return None;
    }
    let at = usize::from(h.l4);
    let found = word(bytes, at + field);
    if found != checksum::pseudo(h.src, h.dst, h.proto, u32::from(h.l4_len)) {
        return None;
    }
    finishable(bytes, h, field)
}

#[cold]
fn finishable(bytes: &[u8], h: &Headers, field: usize) -> Option<Offload> {
    let at = usize::from(h.l4);
    let segment = &bytes[at..at + usize::from(h.l4_len)];
    if checksum::transport_ok(h.src, h.dst, h.proto, segment)
        || h.proto == l4::UDP && !udp_len_is_whole(bytes, h)
    {
        return None;
    }
    Some(Offload { csum_start: h.l4, csum_offset: field as u16, ..Offload::NONE })
}
