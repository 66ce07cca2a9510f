//! Coalesces segments that continue each other into one GSO packet: the reverse of segmentation (generic
//! receive offload).
//!
//! Coalesces only frames that `segment` would restore exactly. Their headers are equal except for length,
//! identification (one more each), sequence number (each continues the last), PSH (on the last only) and
//! checksum. No flag other than ACK is set. Payloads are equal in length; the last may be shorter. Every
//! checksum was right (or is left to the output), since the coalesced one vouches for all.

use super::segment::checksum_at;
use super::{network_layer, tcp_header_len};
use crate::frame::{Frame, FramePool, GsoKind, Offload, SlotSize};
use crate::limits::SEGMENTS_MAX;
use crate::wire::checksum::{copy_sum, fold, sum};
use crate::wire::{ethernet, ipv4, ipv6, l4, set_word, word};

/// The TCP flow that a frame belongs to. It keeps the segments of a flow in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// A TCP flow with this hash; two flows may share a hash.
    Tcp(u64),
    /// Not TCP.
    Other,
    /// Perhaps TCP: the headers are not at their usual offsets.
    Unclear,
}

/// The flow of a frame that is ready to leave.
#[inline]
#[must_use]
pub fn flow(frame: &[u8]) -> Flow {
    let Some((l3, ethertype)) = network_layer(frame) else { return Flow::Unclear };
    let (addresses, l4_at) = match ethertype {
        ethernet::TYPE_IPV4 => {
            let Some(ip) = frame.get(l3..l3 + ipv4::HEADER_LEN) else { return Flow::Unclear };
            match ip[ipv4::PROTOCOL_AT] {
                l4::TCP if ip[0] == 0x45 && word(ip, ipv4::FLAGS_OFFSET_AT) & ipv4::FRAGMENT_MASK == 0 => {}
                l4::TCP => return Flow::Unclear,
                _ => return Flow::Other,
            }
            (&ip[12..20], l3 + ipv4::HEADER_LEN)
        }
        ethernet::TYPE_IPV6 => {
            let Some(ip) = frame.get(l3..l3 + ipv6::HEADER_LEN) else { return Flow::Unclear };
            match ip[ipv6::NEXT_HEADER_AT] {
                l4::TCP => {}
                l4::UDP | l4::ICMPV6 => return Flow::Other,
                _ => return Flow::Unclear,
            }
            (&ip[8..40], l3 + ipv6::HEADER_LEN)
        }
        _ => return Flow::Other,
    };
    let Some(ports) = frame.get(l4_at..).and_then(|tcp| tcp.first_chunk::<4>()) else { return Flow::Unclear };
    let (words, _) = addresses.as_chunks::<8>();
    Flow::Tcp(words.iter().fold(u64::from(u32::from_ne_bytes(*ports)), |flow, word| {
        flow.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from_ne_bytes(*word)
    }))
}

/// A frame that other segments may continue, and the properties that they need for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    l3: u16,
    l4: u16,
    payload: u16,
    gso_size: u16,
    count: u16,
    v4: bool,
    tcp: bool,
    /// No segment may follow.
    closed: bool,
    /// The checksum is known to be right, or is partial.
    trusted: bool,
}

impl Run {
    /// Reads a whole frame as the start of a run. `None` when it cannot be part of one.
    #[inline]
    #[must_use]
    pub fn start(frame: &[u8], offload: Offload) -> Option<Self> {
        let (l3, ethertype) = network_layer(frame)?;
        let (v4, l4_at, proto, end) = match ethertype {
            ethernet::TYPE_IPV4 => {
                let ip = frame.get(l3..l3 + ipv4::HEADER_LEN)?;
                // Without options, not a fragment, and with a header that the receiver would accept.
                let plain = ip[0] == 0x45 && word(ip, ipv4::FLAGS_OFFSET_AT) & !ipv4::DONT_FRAGMENT == 0;
                if !plain || sum(ip) != 0xffff {
                    return None;
                }
                let end = l3 + usize::from(word(ip, ipv4::TOTAL_LEN_AT));
                (true, l3 + ipv4::HEADER_LEN, ip[ipv4::PROTOCOL_AT], end)
            }
            ethernet::TYPE_IPV6 => {
                let ip = frame.get(l3..l3 + ipv6::HEADER_LEN)?;
                if ip[0] >> 4 != 6 {
                    return None;
                }
                let end = l3 + ipv6::HEADER_LEN + usize::from(word(ip, ipv6::PAYLOAD_LEN_AT));
                (false, l3 + ipv6::HEADER_LEN, ip[ipv6::NEXT_HEADER_AT], end)
            }
            _ => return None,
        };
        let (tcp, payload) = match proto {
            l4::TCP => (true, l4_at + tcp_header_len(frame, l4_at).max(l4::TCP_HEADER_LEN)),
            l4::UDP => (false, l4_at + l4::UDP_HEADER_LEN),
            _ => return None,
        };
        // No padding behind the packet, and at least a byte of payload.
        if end != frame.len() || payload >= end {
            return None;
        }
        let mut closed = false;
        if tcp {
            let flags = frame[l4_at + l4::TCP_FLAGS_AT];
            if flags & !l4::TCP_PSH != l4::TCP_ACK || frame[l4_at + l4::TCP_DATA_OFFSET_AT] & 0xf != 0 {
                return None;
            }
            closed = flags & l4::TCP_PSH != 0;
        } else if usize::from(word(frame, l4_at + l4::UDP_LEN_AT)) != end - l4_at
            || word(frame, l4_at + l4::UDP_CHECKSUM_AT) == 0
        {
            return None;
        }
        let payload_len = end - payload;
        let (gso_size, count) = match (offload.gso_kind, usize::from(offload.gso_size)) {
            (GsoKind::None, _) => (payload_len, 1),
            (GsoKind::Udp, _) if tcp => return None,
            (GsoKind::TcpV4 | GsoKind::TcpV6, _) if !tcp => return None,
            (_, 0) => return None,
            (_, size) => (size, payload_len.div_ceil(size)),
        };
        closed |= payload_len != gso_size * count || count >= SEGMENTS_MAX;
        let trusted = usize::from(offload.csum_start) == l4_at;
        if offload.csum_partial() && !trusted {
            return None;
        }
        Some(Self {
            l3: l3 as u16,
            l4: l4_at as u16,
            payload: payload as u16,
            gso_size: gso_size as u16,
            count: count as u16,
            v4,
            tcp,
            closed,
            trusted,
        })
    }

    /// Number of segments in the run.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// Whether another segment may continue the run.
    #[must_use]
    pub const fn open(&self) -> bool {
        !self.closed
    }

    /// Length of all headers, in bytes.
    #[must_use]
    pub const fn headers_len(&self) -> usize {
        self.payload as usize
    }

    /// Whether the frame `next`, read as a run of its own, continues this one, whose frame is `head`. Does
    /// not check the checksum of `next`.
    #[inline]
    #[must_use]
    pub fn continued_by(&self, head: &[u8], next: &[u8], other: &Self) -> bool {
        if self.closed || (self.l3, self.l4, self.payload) != (other.l3, other.l4, other.payload) {
            return false;
        }
        // A shorter segment is the last; a longer one starts another run. A run of several segments has to
        // have the same size.
        let sizes =
            if other.count == 1 { other.gso_size <= self.gso_size } else { other.gso_size == self.gso_size };
        let (l3, l4_at, payload) = (usize::from(self.l3), usize::from(self.l4), usize::from(self.payload));
        let merged_len = head.len() + next.len() - payload;
        let fits = merged_len - l3 <= 0xffff && self.count() + other.count() <= SEGMENTS_MAX;
        if !sizes || !fits || head[..l3] != next[..l3] {
            return false;
        }
        let (a, b) = (&head[l3..payload], &next[l3..payload]);
        let same = |from: usize, to: usize| a[from..to] == b[from..to];
        let network = if self.v4 {
            let id = word(a, ipv4::ID_AT).wrapping_add(self.count);
            // Version to TOS, identification, flags to protocol, addresses.
            same(0, 2) && word(b, ipv4::ID_AT) == id && same(6, 10) && same(12, 20)
        } else {
            same(0, 4) && same(6, 40)
        };
        let at = l4_at - l3;
        if !(network && same(at, at + 4)) {
            return false;
        }
        if !self.tcp {
            return true;
        }
        let seq = |tcp: &[u8]| u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let sent = (head.len() - payload) as u32;
        // Sequence number; acknowledgment, data offset; window; urgent pointer and options.
        seq(&b[at..]) == seq(&a[at..]).wrapping_add(sent)
            && same(at + 8, at + 13)
            && same(at + 14, at + 16)
            && same(at + 18, b.len())
    }

    /// Whether the frame's checksum is right. Sums the bytes once per run, when a second segment comes.
    fn checksum_ok(&mut self, frame: &[u8]) -> bool {
        self.trusted = self.trusted || {
            let (headers, payload) = frame.split_at(usize::from(self.payload));
            self.covers(headers, payload.len(), sum(payload))
        };
        self.trusted
    }

    /// Whether the checksum in `headers` is right for a payload with this sum.
    fn covers(&self, headers: &[u8], payload_len: usize, payload_sum: u16) -> bool {
        let transport = u32::from(sum(&headers[usize::from(self.l4)..]));
        let pseudo = u32::from(self.pseudo(headers, payload_len));
        fold(pseudo + transport + u32::from(payload_sum)) == 0xffff
    }

    /// Sum of the pseudo-header for `payload_len` bytes of payload.
    fn pseudo(&self, headers: &[u8], payload_len: usize) -> u16 {
        let addresses = if self.v4 { 12..20 } else { 8..40 };
        let ip = &headers[usize::from(self.l3)..];
        let len = usize::from(self.payload - self.l4) + payload_len;
        let proto = if self.tcp { l4::TCP } else { l4::UDP };
        fold(u32::from(sum(&ip[addresses])) + u32::from(proto) + len as u32)
    }

    /// Adds the segments of `other` to the run.
    fn append(&mut self, other: &Self) {
        self.count += other.count;
        self.closed =
            other.closed || other.gso_size != self.gso_size || usize::from(self.count) >= SEGMENTS_MAX;
    }

    /// Turns the headers of the coalesced frame `frame` into those of a GSO packet. Returns its offload
    /// facts.
    pub fn seal(&self, frame: &mut [u8], push: bool) -> Offload {
        let (l3, l4_at) = (usize::from(self.l3), usize::from(self.l4));
        let packet_len = frame.len() - l3;
        let pseudo = self.pseudo(frame, frame.len() - usize::from(self.payload));
        if self.v4 {
            let ip = &mut frame[l3..l3 + ipv4::HEADER_LEN];
            set_word(ip, ipv4::TOTAL_LEN_AT, packet_len as u16);
            set_word(ip, ipv4::CHECKSUM_AT, 0);
            let value = !sum(ip);
            set_word(ip, ipv4::CHECKSUM_AT, value);
        } else {
            set_word(frame, l3 + ipv6::PAYLOAD_LEN_AT, (packet_len - ipv6::HEADER_LEN) as u16);
        }
        if !self.tcp {
            set_word(frame, l4_at + l4::UDP_LEN_AT, (frame.len() - l4_at) as u16);
        } else if push {
            frame[l4_at + l4::TCP_FLAGS_AT] |= l4::TCP_PSH;
        }
        set_word(frame, l4_at + checksum_at(self.tcp), pseudo);
        Offload {
            csum_start: self.l4,
            csum_offset: checksum_at(self.tcp) as u16,
            gso_kind: match (self.tcp, self.v4) {
                (false, _) => GsoKind::Udp,
                (true, true) => GsoKind::TcpV4,
                (true, false) => GsoKind::TcpV6,
            },
            gso_size: self.gso_size,
            ..Offload::NONE
        }
    }

    /// Whether PSH is set in a frame of the run.
    fn pushes(&self, frame: &[u8]) -> bool {
        self.tcp && frame[usize::from(self.l4) + l4::TCP_FLAGS_AT] & l4::TCP_PSH != 0
    }

    /// Appends `next` to the run, whose frame is `head`. Returns false, without any change, when `next` does
    /// not continue the run. After true, the caller has to free the slot of `next`.
    pub fn merge<P: FramePool>(&mut self, pool: &mut P, head: &mut Frame, next: &Frame) -> bool {
        let Some(mut other) = Self::start(pool.bytes(next), next.offload) else { return false };
        if !self.continued_by(pool.bytes(head), pool.bytes(next), &other)
            || !self.checksum_ok(pool.bytes(head))
        {
            return false;
        }
        let payload_at = usize::from(self.payload);
        let (old_len, added) = (head.len as usize, next.len as usize - payload_at);
        let reach = |head: &Frame| usize::from(head.head) + old_len + added;
        if reach(head) > pool.slot_len(head) && (!enlarge(pool, head) || reach(head) > pool.slot_len(head)) {
            return false;
        }
        head.len += added as u32;
        let (from, to) = pool.pair(next, head);
        let (headers, payload) = from.split_at(payload_at);
        if other.trusted {
            to[old_len..].copy_from_slice(payload);
        } else {
            let payload_sum = copy_sum(payload, &mut to[old_len..]);
            other.trusted = other.covers(headers, added, payload_sum);
        }
        if !other.trusted {
            head.len = old_len as u32;
            return false;
        }
        let push = other.pushes(headers);
        self.append(&other);
        let offload = self.seal(to, push);
        head.offload = offload;
        true
    }

    /// Like [`Run::merge`], within one buffer: the run's frame is `bytes[head.0..head.1]`, and the next one,
    /// behind it, is `bytes[next.0..next.1]`. Moves the payload and returns the new end of the run.
    pub fn merge_within(
        &mut self,
        bytes: &mut [u8],
        head: (usize, usize),
        next: (usize, usize),
    ) -> Option<usize> {
        let mut other = Self::start(&bytes[next.0..next.1], Offload::NONE)?;
        let ok = self.continued_by(&bytes[head.0..head.1], &bytes[next.0..next.1], &other)
            && self.checksum_ok(&bytes[head.0..head.1])
            && other.checksum_ok(&bytes[next.0..next.1]);
        if !ok {
            return None;
        }
        let from = next.0 + usize::from(self.payload);
        if other.pushes(&bytes[next.0..next.1]) {
            bytes[head.0 + usize::from(self.l4) + l4::TCP_FLAGS_AT] |= l4::TCP_PSH;
        }
        bytes.copy_within(from..next.1, head.1);
        self.append(&other);
        Some(head.1 + next.1 - from)
    }
}

/// Moves a frame to a slot that is large enough for a GSO packet. Returns false when none is free.
fn enlarge<P: FramePool>(pool: &mut P, frame: &mut Frame) -> bool {
    let Some(mut large) = pool.alloc(SlotSize::Large) else { return false };
    large.len = frame.len;
    large.offload = frame.offload;
    let (from, to) = pool.pair(frame, &mut large);
    to.copy_from_slice(from);
    core::mem::swap(frame, &mut large);
    pool.free(large);
    true
}
