//! Checks whether offload facts are possible for their frame. They come from an untrusted side (a guest's
//! driver, by way of TAP, AF_PACKET or vhost-user). Wrong facts would make the switch write a checksum over
//! other bytes, or segment a frame at the wrong place.

use super::layers::{self, Packet};
use super::tcp_header_len;
use super::word;
use crate::counters::DropReason;
use crate::forward::parse::{Headers, Net, Part};
use crate::frame::{GsoKind, Offload};
use crate::limits::SEGMENTS_MAX;
use crate::tunnel::ENCAP_LEN;
use crate::wire::{ethernet, ipv4, ipv6, l4, sctp};

/// Checks the facts that came with a parsed frame. Afterwards they are true and describe the parsed headers:
///
/// - a partial checksum is that of the transport header, or lies entirely behind it (inside a tunnel of the
///   sender's own, whose inner checksum the device was to finish); an offset of 8 means SCTP's CRC;
/// - the GSO kind agrees with the transport header, or with the innermost one where the sender has tunnels,
///   all of known kinds; and the packet becomes at least 2 and at most [`SEGMENTS_MAX`] segments;
/// - the frame ends where its IP packet ends, since a checksum would include any bytes after it.
///
/// # Errors
/// [`DropReason::OffloadInvalid`] when the facts are impossible. [`DropReason::OffloadUnknown`] when they may be true but
/// concern headers that the switch cannot read.
#[cold]
pub fn check(bytes: &[u8], h: &mut Headers, offload: &mut Offload) -> Result<(), DropReason> {
    if is_outer(h, *offload) {
        // One tunnel packet that holds several datagrams of the sender: their boundaries inside are unknown.
        if offload.gso_kind != GsoKind::None {
            return Err(DropReason::OffloadUnknown);
        }
        // The outer checksum of a tunnel packet has no use after decapsulation.
        *offload = Offload::NONE;
        return Ok(());
    }
    if !matches!(h.net, Net::V4 | Net::V6 | Net::Other) || h.part != Part::Whole {
        return Err(DropReason::OffloadInvalid);
    }
    if !offload.csum_partial() {
        complete(h, offload)?;
    }
    let transport = h.l4 != 0 && offload.csum_start == h.l4;
    match offload.gso_kind {
        GsoKind::None if transport => partial(bytes, h, offload),
        GsoKind::None => nested(bytes, h, offload),
        _ => super_frame(bytes, h, offload),
    }
}

/// Whether the facts are about the outer UDP header of a tunnel packet.
fn is_outer(h: &Headers, offload: Offload) -> bool {
    h.outer.is_some()
        && usize::from(offload.csum_start) + ENCAP_LEN == usize::from(h.eth)
        && usize::from(offload.csum_offset) == l4::UDP_CHECKSUM_AT
}

/// Adds the checksum facts to a GSO packet that comes without them: its checksum was verified when its
/// segments were coalesced (LRO, GRO by lists). `act` later writes the pseudo-header's sum into the field,
/// provided the headers are plain.
fn complete(h: &Headers, offload: &mut Offload) -> Result<(), DropReason> {
    let plain = match h.net {
        Net::V4 => ipv4::HEADER_LEN,
        _ => ipv6::HEADER_LEN,
    };
    let field = match h.proto {
        l4::TCP => l4::TCP_CHECKSUM_AT,
        l4::UDP => l4::UDP_CHECKSUM_AT,
        _ => return Err(DropReason::OffloadUnknown),
    };
    if h.l4 == 0 || usize::from(h.l4 - h.l3) != plain {
        return Err(DropReason::OffloadUnknown);
    }
    (offload.csum_start, offload.csum_offset) = (h.l4, field as u16);
    Ok(())
}

fn partial(bytes: &[u8], h: &mut Headers, offload: &mut Offload) -> Result<(), DropReason> {
    let field = match h.proto {
        l4::TCP => l4::TCP_CHECKSUM_AT,
        l4::UDP if udp_len_is_whole(bytes, usize::from(h.l4), usize::from(h.l4_len)) => l4::UDP_CHECKSUM_AT,
        _ => return Err(DropReason::OffloadInvalid),
    };
    if usize::from(offload.csum_offset) != field {
        return Err(DropReason::OffloadInvalid);
    }
    *offload = Offload { csum_start: h.l4, csum_offset: field as u16, ..Offload::NONE };
    end_with(h, u32::from(h.l4) + u32::from(h.l4_len));
    Ok(())
}

/// Checks a partial checksum behind the headers that the pipeline reads. It may be anywhere there: these
/// bytes are the sender's own, and no guard reads them.
fn nested(bytes: &[u8], h: &mut Headers, offload: &mut Offload) -> Result<(), DropReason> {
    let (behind, end) = behind_headers(bytes, h)?;
    let (start, field) = (usize::from(offload.csum_start), usize::from(offload.csum_offset));
    let (of_sctp, field_len) = (field == sctp::CHECKSUM_AT, if field == sctp::CHECKSUM_AT { 4 } else { 2 });
    let inside = start >= behind && start + field + field_len <= end;
    if !inside {
        return Err(DropReason::OffloadInvalid);
    }
    let found = layers::find(&bytes[..end], usize::from(h.l3), h.ethertype, start);
    match found {
        Some((packet, _)) if (packet.proto == sctp::PROTOCOL) != of_sctp => {
            return Err(DropReason::OffloadInvalid);
        }
        // A CRC must not cover padding; a sum over zeroes does no harm.
        Some((packet, _)) if of_sctp && packet.end != end => return Err(DropReason::OffloadUnknown),
        None if of_sctp => return Err(DropReason::OffloadUnknown),
        _ => {}
    }
    *offload = Offload { csum_start: offload.csum_start, csum_offset: offload.csum_offset, ..Offload::NONE };
    end_with(h, end as u32);
    Ok(())
}

fn super_frame(bytes: &[u8], h: &mut Headers, offload: &mut Offload) -> Result<(), DropReason> {
    let (start, transport) = (usize::from(offload.csum_start), offload.csum_start == h.l4);
    let end;
    let (v4, proto) = if transport {
        end = packet_end(bytes, h);
        (h.net == Net::V4, h.proto)
    } else {
        let behind;
        (behind, end) = behind_headers(bytes, h)?;
        if start < behind || start >= end {
            return Err(DropReason::OffloadInvalid);
        }
        let found = layers::find(&bytes[..end], usize::from(h.l3), h.ethertype, start);
        let (packet, shells) = found.ok_or(DropReason::OffloadUnknown)?;
        if shells.iter().any(|shell| shell.is_numbered(bytes)) {
            return Err(DropReason::OffloadUnknown);
        }
        // The payload has to extend to the end of every surrounding packet.
        let around = |shell: &layers::Shell| {
            let Packet { l4, end: last, .. } = shell.packet;
            last == end && (shell.cover != layers::Cover::Udp || udp_len_is_whole(bytes, l4, end - l4))
        };
        if packet.end != end || !shells.iter().all(around) {
            return Err(DropReason::OffloadInvalid);
        }
        (packet.v4, packet.proto)
    };
    let l4_len = end - start;
    let (matches, header_len, field) = match (offload.gso_kind, v4, proto) {
        (GsoKind::TcpV4, true, l4::TCP) | (GsoKind::TcpV6, false, l4::TCP) => {
            let len = tcp_header_len(bytes, start);
            (len >= l4::TCP_HEADER_LEN, len, l4::TCP_CHECKSUM_AT)
        }
        (GsoKind::Udp, _, l4::UDP) => {
            (udp_len_is_whole(bytes, start, l4_len), l4::UDP_HEADER_LEN, l4::UDP_CHECKSUM_AT)
        }
        _ => return Err(DropReason::OffloadInvalid),
    };
    let payload_len = l4_len.checked_sub(header_len).filter(|&len| matches && len > 0);
    let (Some(payload_len), Some(_)) = (payload_len, offload.gso_size.checked_sub(1)) else {
        return Err(DropReason::OffloadInvalid);
    };
    let gso_size = usize::from(offload.gso_size);
    if payload_len.div_ceil(gso_size) > SEGMENTS_MAX || usize::from(offload.csum_offset) != field {
        return Err(DropReason::OffloadInvalid);
    }
    if payload_len <= gso_size {
        // A single segment, so not really a GSO packet.
        offload.gso_kind = GsoKind::None;
        return if transport { partial(bytes, h, offload) } else { nested(bytes, h, offload) };
    }
    end_with(h, end as u32);
    h.wire_end = (start + header_len + gso_size) as u32;
    Ok(())
}

/// The range of bytes behind the headers that the pipeline reads: start and end. An error where guards judge
/// the bytes behind the headers, since a checksum that is finished later would change them after the
/// judgement.
fn behind_headers(bytes: &[u8], h: &Headers) -> Result<(usize, usize), DropReason> {
    if h.net == Net::Other {
        let readable = ethernet::TYPE_MPLS.contains(&h.ethertype);
        return if readable {
            Ok((usize::from(h.l3), h.end as usize))
        } else {
            Err(DropReason::OffloadUnknown)
        };
    }
    let end = packet_end(bytes, h);
    let l4_at = end - usize::from(h.l4_len);
    let of_dhcp = || matches!(h.dport, l4::DHCP_SERVER_PORT | l4::DHCP6_SERVER_PORT | l4::PXE_PORT);
    match h.proto {
        l4::TCP | l4::ICMP | l4::ICMPV6 | l4::IGMP => Err(DropReason::OffloadInvalid),
        l4::UDP if of_dhcp() => Err(DropReason::OffloadInvalid),
        l4::UDP => Ok((l4_at + l4::UDP_HEADER_LEN, end)),
        _ => Ok((l4_at, end)),
    }
}

/// The end of the (inner) IP packet.
fn packet_end(bytes: &[u8], h: &Headers) -> usize {
    let l3 = usize::from(h.l3);
    let packet_len = match h.net {
        Net::V4 => usize::from(word(bytes, l3 + ipv4::TOTAL_LEN_AT)),
        _ => ipv6::HEADER_LEN + usize::from(word(bytes, l3 + ipv6::PAYLOAD_LEN_AT)),
    };
    l3 + packet_len
}

/// Whether the length field of the UDP header at `at` equals `len`.
fn udp_len_is_whole(bytes: &[u8], at: usize, len: usize) -> bool {
    usize::from(word(bytes, at + l4::UDP_LEN_AT)) == len
}

fn end_with(h: &mut Headers, end: u32) {
    (h.end, h.wire_end) = (end, end);
}
