//! Making a frame fit its output. All offload misery lives here.

use super::parse::{Headers, Net, Part};
use crate::counters::DropReason;
use crate::frame::{Frame, FramePool, GsoKind, Offload};
use crate::port::PortCaps;
use crate::wire::checksum;
use crate::wire::{l4, set_word, word};

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
    if checksum::transport_ok(h.src, h.dst, h.proto, segment) {
        return None;
    }
    Some(Offload { csum_start: h.l4, csum_offset: field as u16, ..Offload::NONE })
}

/// Finishes what the output cannot: a partial checksum.
///
/// # Errors
/// [`DropReason::OffloadInvalid`] when the facts that came with the frame are impossible.
#[inline]
pub fn fit<P: FramePool>(pool: &mut P, frame: &mut Frame, caps: PortCaps) -> Result<(), DropReason> {
    if frame.offload == Offload::NONE {
        return Ok(());
    }
    let taken = match frame.offload.gso_kind {
        GsoKind::None => true,
        GsoKind::TcpV4 | GsoKind::TcpV6 => caps.tx_tso,
        GsoKind::Udp => caps.tx_uso,
    };
    if !taken {
        return Err(DropReason::OffloadInvalid);
    }
    if frame.offload.csum_partial() && !caps.tx_csum {
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
    if at + 2 > bytes.len() {
        return Err(DropReason::OffloadInvalid);
    }
    let value = !checksum::sum(&bytes[start..]);
    let is_udp = usize::from(offload.csum_offset) == l4::UDP_CHECKSUM_AT;
    set_word(bytes, at, if is_udp { checksum::udp_nonzero(value) } else { value });
    Ok(())
}
