//! The virtio-net header (VIRTIO 1.2 §5.1.6), as TAP, AF_PACKET and vhost-user put it before a frame.
//!
//! ```text
//!  0      1         2          4          6           8            10             12
//! +------+---------+----------+----------+-----------+------------+--------------+
//! |flags |gso type |header len| gso size |csum start |csum offset |(buffer count)|
//! +------+---------+----------+----------+-----------+------------+--------------+
//! ```
//!
//! Little-endian, as VIRTIO 1.x requires. TAP and AF_PACKET use the machine's byte order, which is the same
//! on every supported machine. The last word is present only with mergeable buffers (12 bytes instead of 10).
//!
//! This file only translates. `forward::fit::check` checks whether the facts are possible for *this* frame,
//! once the frame is parsed.

use core::fmt;

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{l4, view, view_mut};
use crate::counters::DropReason;
use crate::frame::{GsoKind, Offload};

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 10;
/// Length of the header with the number of buffers, in bytes.
pub const MERGEABLE_HEADER_LEN: usize = 12;

/// `flags`: the checksum is partial.
const NEEDS_CSUM: u8 = 1;
/// `gso_type`: not a GSO packet.
const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
const GSO_TCPV4: u8 = 1;
/// `gso_type`: TCP over IPv6.
const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP, one datagram per segment (USO).
const GSO_UDP_L4: u8 = 5;
/// `gso_type`, added to a TCP type: CWR is set, and belongs to the first segment alone.
const GSO_ECN: u8 = 0x80;
/// `gso_type`, added to a TCP type: CWR is one bit of AccECN's counter, and belongs to every segment.
const GSO_ACCECN: u8 = 0x10;

/// The header without the number of buffers.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct VirtioNet {
    /// Flags about the checksum.
    pub flags: u8,
    /// Kind of GSO packet.
    pub gso_type: u8,
    /// Length of all headers in bytes; a hint.
    pub header_len: U16,
    /// Payload bytes per segment.
    pub gso_size: U16,
    /// Offset at which the checksummed data starts.
    pub csum_start: U16,
    /// Offset of the checksum from there.
    pub csum_offset: U16,
}

const _: () = assert!(size_of::<VirtioNet>() == HEADER_LEN);

impl VirtioNet {
    /// Returns the offload facts of `frame` according to the header. Without `GSO_ECN`, a set CWR flag
    /// belongs to every segment: kernels with AccECN (Linux 6.14) send it this way, even where they cannot
    /// set `GSO_ACCECN`.
    ///
    /// # Errors
    /// [`DropReason::OffloadInvalid`] for facts that [`Offload`] cannot express: unknown kinds of GSO packet,
    /// UFO (which would require IP fragments), the ECN flag on anything but TCP, and a partial checksum that
    /// starts at the frame's first byte.
    #[inline]
    pub fn offload(&self, frame: &[u8]) -> Result<Offload, DropReason> {
        if self.flags & NEEDS_CSUM == 0 && self.gso_type == GSO_NONE {
            return Ok(Offload::NONE);
        }
        self.unfinished(frame)
    }

    fn unfinished(&self, frame: &[u8]) -> Result<Offload, DropReason> {
        let mut offload = Offload::NONE;
        if self.flags & NEEDS_CSUM != 0 {
            if self.csum_start.get() == 0 {
                return Err(DropReason::OffloadInvalid);
            }
            (offload.csum_start, offload.csum_offset) = (self.csum_start.get(), self.csum_offset.get());
        }
        offload.gso_kind = match self.gso_type {
            GSO_NONE => return Ok(offload),
            GSO_UDP_L4 => GsoKind::Udp,
            tcp => {
                let flags = frame.get(usize::from(offload.csum_start) + l4::TCP_FLAGS_AT);
                let cwr = flags.is_some_and(|flags| flags & l4::TCP_CWR != 0);
                offload.cwr_in_all = cwr && (tcp & GSO_ACCECN != 0 || tcp & GSO_ECN == 0);
                match tcp & !(GSO_ECN | GSO_ACCECN) {
                    GSO_TCPV4 => GsoKind::TcpV4,
                    GSO_TCPV6 => GsoKind::TcpV6,
                    _ => return Err(DropReason::OffloadInvalid),
                }
            }
        };
        offload.gso_size = self.gso_size.get();
        Ok(offload)
    }

    /// Creates the header for a frame with these offload facts. From `frame` it takes the other fields: the
    /// length of the headers, and whether CWR is set.
    #[inline]
    #[must_use]
    pub fn new(offload: Offload, frame: &[u8]) -> Self {
        let mut header = Self {
            flags: if offload.csum_partial() { NEEDS_CSUM } else { 0 },
            gso_type: GSO_NONE,
            header_len: U16::ZERO,
            gso_size: U16::new(offload.gso_size),
            csum_start: U16::new(offload.csum_start),
            csum_offset: U16::new(offload.csum_offset),
        };
        let start = usize::from(offload.csum_start);
        let tcp = |at: usize| frame.get(start + at).copied().unwrap_or_default();
        let (gso_type, l4_header_len) = match offload.gso_kind {
            GsoKind::None => return header,
            GsoKind::TcpV4 => (GSO_TCPV4, usize::from(tcp(l4::TCP_DATA_OFFSET_AT) >> 4) * 4),
            GsoKind::TcpV6 => (GSO_TCPV6, usize::from(tcp(l4::TCP_DATA_OFFSET_AT) >> 4) * 4),
            GsoKind::Udp => (GSO_UDP_L4, l4::UDP_HEADER_LEN),
        };
        header.gso_type = gso_type;
        if offload.gso_kind != GsoKind::Udp && tcp(l4::TCP_FLAGS_AT) & l4::TCP_CWR != 0 {
            header.gso_type |= GSO_ECN;
        }
        header.header_len = U16::new((start + l4_header_len) as u16);
        header
    }
}

/// Reads the header at the start of `bytes` (10 or 12 bytes) that belongs to `frame`.
///
/// # Errors
/// [`DropReason::OffloadInvalid`] when the header is truncated, and as [`VirtioNet::offload`].
#[inline]
pub fn read(bytes: &[u8], frame: &[u8]) -> Result<Offload, DropReason> {
    view::<VirtioNet>(bytes, 0).ok_or(DropReason::OffloadInvalid)?.offload(frame)
}

/// Writes the header of `frame` to `bytes`: 10 bytes, or 12, the rest zero.
///
/// # Panics
/// When `bytes` is shorter than the header.
#[inline]
pub fn write(bytes: &mut [u8], offload: Offload, frame: &[u8]) {
    bytes[HEADER_LEN..].fill(0);
    *view_mut(bytes, 0).expect("room for the header") = VirtioNet::new(offload, frame);
}

impl fmt::Display for VirtioNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flags, gso_type, header_len, gso_size, csum_start, csum_offset } = self;
        write!(
            f,
            "flags {flags:#x} gso {gso_type:#x} headers {header_len} size {gso_size} csum {csum_start}+{csum_offset}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TSO: [u8; 12] = [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];

    #[test]
    fn literal() {
        let offload = Offload {
            csum_start: 34,
            csum_offset: 16,
            gso_kind: GsoKind::TcpV4,
            gso_size: 1448,
            ..Offload::NONE
        };
        let mut frame = [0; 70];
        assert_eq!(read(&TSO, &frame), Ok(offload));
        frame[34 + 12] = 8 << 4;
        let mut bytes = [0xff; 12];
        write(&mut bytes, offload, &frame);
        assert_eq!(bytes, TSO);
        frame[34 + 13] = 0x80;
        write(&mut bytes, offload, &frame);
        assert_eq!(bytes[1], 0x81, "CWR is told");
        assert_eq!(read(&bytes, &frame), Ok(offload));
        // Without `GSO_ECN`, CWR belongs to every segment.
        for gso_type in [1, 0x11, 0x91] {
            bytes[1] = gso_type;
            assert_eq!(read(&bytes, &frame), Ok(Offload { cwr_in_all: true, ..offload }));
        }
        let uso = Offload { gso_kind: GsoKind::Udp, csum_offset: 6, ..offload };
        write(&mut bytes, uso, &frame);
        assert_eq!(bytes[1..4], [5, 42, 0]);
        assert_eq!(read(&bytes, &frame), Ok(uso));
        write(&mut bytes[..10], Offload::NONE, &frame);
        assert_eq!(bytes, [0; 12]);
    }

    #[test]
    fn what_no_offload_can_say() {
        for (at, value) in [(1, 3), (1, 0x83), (1, 0x85), (1, 2), (1, 0x20), (1, 0x21), (6, 0)] {
            let mut bad = TSO;
            bad[at] = value;
            assert_eq!(read(&bad, &[]), Err(DropReason::OffloadInvalid), "byte {at} = {value}");
        }
        assert_eq!(read(&TSO[..9], &[]), Err(DropReason::OffloadInvalid));
        // A valid checksum is finished. Without a GSO type the other fields have no meaning.
        let mut finished = TSO;
        finished[..2].copy_from_slice(&[2, 0]);
        assert_eq!(read(&finished, &[]), Ok(Offload::NONE));
    }

    proptest! {
        #[test]
        fn written_is_read(start in 1u16.., offset: u16, kind in 0u8..4, size in 1u16.., frame in proptest::collection::vec(any::<u8>(), 0..100)) {
            let gso_kind = [GsoKind::None, GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp][usize::from(kind)];
            let gso_size = if kind == 0 { 0 } else { size };
            let offload = Offload { csum_start: start, csum_offset: offset, gso_kind, gso_size, ..Offload::NONE };
            let mut bytes = [0; MERGEABLE_HEADER_LEN];
            write(&mut bytes, offload, &frame);
            prop_assert_eq!(read(&bytes, &frame), Ok(offload));
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..14)) {
            let _ = read(&bytes, &bytes);
        }
    }
}
