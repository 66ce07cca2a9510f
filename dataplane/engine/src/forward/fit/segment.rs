//! Segments a GSO packet, as a device would (TSO, USO). Each segment gets the headers with its own lengths,
//! IP identification, sequence number, flags and checksums. The same holds for the headers of surrounding
//! tunnels.

use super::layers::{self, Cover, Packet, Shell, Shells};
use super::{network_layer, payload_at};
use crate::frame::{GsoKind, Offload};
use crate::wire::checksum::{self, copy_sum, fold, sum, udp_nonzero};
use crate::wire::{ethernet, ipv4, ipv6, l4, set_word, word};

/// How to segment one GSO packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Offsets in the innermost packet, the one that is segmented.
    pub(super) l3: usize,
    pub(super) l4: usize,
    pub(super) payload: usize,
    pub(super) end: usize,
    pub(super) gso_size: usize,
    pub(super) count: usize,
    /// Number of IPv4 identifications that each segment takes.
    pub(super) ids: u16,
    pub(super) v4: bool,
    pub(super) tcp: bool,
    /// CWR stays set in every segment.
    pub(super) cwr_in_all: bool,
    /// Sum of the pseudo-header without the length.
    pub(super) pseudo: u16,
    /// The surrounding packets, where the sender has tunnels of its own.
    pub(super) shells: Shells,
}

impl Cut {
    /// Plans the segmentation of the frame `bytes`. `None` for facts that [`check`](super::check::check) does
    /// not let in.
    #[must_use]
    pub fn new(bytes: &[u8], offload: Offload) -> Option<Self> {
        let tcp = match offload.gso_kind {
            GsoKind::None => return None,
            GsoKind::TcpV4 | GsoKind::TcpV6 => true,
            GsoKind::Udp => false,
        };
        let (mut l3, ethertype) = network_layer(bytes)?;
        let l4 = usize::from(offload.csum_start);
        let payload = payload_at(bytes, l4, offload.gso_kind);
        let (gso_size, end) = (usize::from(offload.gso_size), bytes.len());
        let (mut v4, mut shells, mut inner) = (ethertype == ethernet::TYPE_IPV4, Shells::new(), None);
        if !layers::is_outermost(bytes, l3, v4, l4) {
            let (packet, around) = layers::find(bytes, l3, ethertype, l4)?;
            (l3, v4, shells, inner) = (packet.l3, packet.v4, around, Some(packet));
        }
        let header_len = if v4 { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
        if l3 + header_len > l4 || payload >= end || payload <= l4 || gso_size == 0 || end - l4 > 0xffff {
            return None;
        }
        let field = l4 + checksum_at(tcp);
        let pseudo = match inner {
            // Computed again, because the sender's value in the field is unchecked.
            Some(packet) => packet.pseudo(0),
            None => fold(u32::from(word(bytes, field)) + u32::from(!((end - l4) as u16))),
        };
        let cwr_in_all = offload.cwr_in_all;
        let cut =
            Self { l3, l4, payload, end, gso_size, count: 0, ids: 1, v4, tcp, cwr_in_all, pseudo, shells };
        Some(cut.counted())
    }

    /// Fills in the number of segments, which follows from the other fields.
    pub(super) fn counted(self) -> Self {
        Self { count: (self.end - self.payload).div_ceil(self.gso_size), ..self }
    }

    /// Number of segments.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Length in bytes of the frame for segment `index`.
    #[must_use]
    pub const fn len(&self, index: usize) -> usize {
        self.payload + if index + 1 < self.count { self.gso_size } else { self.last_payload_len() }
    }

    /// Length of the payload in the last segment, in bytes.
    const fn last_payload_len(&self) -> usize {
        self.end - self.payload - (self.count - 1) * self.gso_size
    }

    /// The offload facts of a segment that [`write`](Self::write) leaves with a partial checksum.
    #[must_use]
    pub const fn partial(&self) -> Offload {
        Offload { csum_start: self.l4 as u16, csum_offset: checksum_at(self.tcp) as u16, ..Offload::NONE }
    }

    /// Writes segment `index` of the GSO packet `from` to `to`, which is [`len`](Self::len) bytes long. The
    /// checksum is finished or, with `partial`, left to the output.
    pub fn write(&self, from: &[u8], index: usize, to: &mut [u8], partial: bool) {
        let at = self.payload + index * self.gso_size;
        let payload = &from[at..at + to.len() - self.payload];
        let (headers, copy) = to.split_at_mut(self.payload);
        headers.copy_from_slice(&from[..self.payload]);
        let payload_sum = if partial {
            copy.copy_from_slice(payload);
            0
        } else {
            copy_sum(payload, copy)
        };
        self.network(headers, (self.l3, self.l4, self.v4), index, payload.len());
        let l4_len = self.payload - self.l4 + payload.len();
        let transport = &mut headers[self.l4..];
        if self.tcp {
            self.tcp(transport, index);
        } else {
            set_word(transport, l4::UDP_LEN_AT, l4_len as u16);
        }
        let pseudo = fold(u32::from(self.pseudo) + l4_len as u32);
        let field = checksum_at(self.tcp);
        if partial {
            set_word(transport, field, pseudo);
        } else {
            set_word(transport, field, 0);
            let value = !fold(u32::from(pseudo) + u32::from(sum(transport)) + u32::from(payload_sum));
            set_word(transport, field, if self.tcp { value } else { udp_nonzero(value) });
        }
        if !self.shells.is_empty() {
            self.around(headers, index, payload.len(), pseudo);
        }
    }

    /// Corrects the surrounding headers, from inside out. `pseudo` is the sum of the inner segment's
    /// pseudo-header: the bytes of a finished segment sum up to its complement, so the payload is not summed
    /// again.
    #[cold]
    fn around(&self, headers: &mut [u8], index: usize, payload_len: usize, pseudo: u16) {
        for shell in self.shells.iter().rev() {
            let Shell { packet: Packet { l3, l4, v4, .. }, cover } = *shell;
            self.network(headers, (l3, l4, v4), index, payload_len);
            let len = self.payload - l4 + payload_len;
            let checksum_at = shell.checksum_at(headers);
            if cover == Cover::Udp {
                set_word(headers, l4 + l4::UDP_LEN_AT, len as u16);
            }
            if let Some(at) = checksum_at {
                set_word(headers, at, 0);
                let sums = u32::from(sum(&headers[l4..self.l4])) + u32::from(shell.pseudo(len));
                let value = !fold(sums + u32::from(!pseudo));
                set_word(headers, at, if cover == Cover::Udp { udp_nonzero(value) } else { value });
            }
        }
    }

    /// Writes the length; for IPv4 also an identification of its own (RFC 6864 §4.3) and the header checksum.
    fn network(
        &self,
        headers: &mut [u8],
        (l3, l4, v4): (usize, usize, bool),
        index: usize,
        payload_len: usize,
    ) {
        let packet_len = self.payload - l3 + payload_len;
        if v4 {
            let ip = &mut headers[l3..l4];
            set_word(ip, ipv4::TOTAL_LEN_AT, packet_len as u16);
            let id = word(ip, ipv4::ID_AT);
            set_word(ip, ipv4::ID_AT, id.wrapping_add((index as u16).wrapping_mul(self.ids)));
            set_word(ip, ipv4::CHECKSUM_AT, 0);
            let header_len = usize::from(ip[0] & 0xf) * 4;
            let value = !checksum::sum(&ip[..header_len.min(l4 - l3)]);
            set_word(ip, ipv4::CHECKSUM_AT, value);
        } else {
            set_word(headers, l3 + ipv6::PAYLOAD_LEN_AT, (packet_len - ipv6::HEADER_LEN) as u16);
        }
    }

    /// Writes the sequence number and flags. FIN and PSH belong to the last segment, CWR to the first (RFC
    /// 3168 §6.1.2) unless `cwr_in_all` is set.
    fn tcp(&self, tcp: &mut [u8], index: usize) {
        if let Some(seq) = tcp.get_mut(l4::TCP_SEQ_AT..).and_then(|rest| rest.first_chunk_mut::<4>()) {
            let first = u32::from_be_bytes(*seq);
            *seq = first.wrapping_add((index * self.gso_size) as u32).to_be_bytes();
        }
        if index + 1 < self.count {
            tcp[l4::TCP_FLAGS_AT] &= !(l4::TCP_FIN | l4::TCP_PSH);
        }
        if index > 0 && !self.cwr_in_all {
            tcp[l4::TCP_FLAGS_AT] &= !l4::TCP_CWR;
        }
    }
}

/// Offset of the checksum in the transport header.
pub(super) const fn checksum_at(tcp: bool) -> usize {
    if tcp { l4::TCP_CHECKSUM_AT } else { l4::UDP_CHECKSUM_AT }
}
