//! The outer header for packets to one peer: built once when the peer or the underlay changes, stamped on every packet.

use zerocopy::IntoBytes;
use zerocopy::network_endian::{U16, U32};

use super::{ENCAP_LEN, OUTER_MAX, OUTER_V4_LEN, OUTER_V6_LEN, vxlan};
use crate::command::{OuterField, OuterIp, PeerConfig, UplinkConfig, Vni};
use crate::frame::{GsoKind, Offload};
use crate::limits::OUTER_TTL;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ip::Ip;
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::mac::MacAddr;
use crate::wire::{checksum, l4};

/// The bits of a TOS that are the ECN field.
const ECN: u8 = 3;

/// A prebuilt outer header.
#[derive(Clone, Copy, Debug)]
pub struct OuterHeader {
    /// The header, in the first `len` bytes.
    pub bytes: [u8; OUTER_MAX],
    /// [`OUTER_V4_LEN`] or [`OUTER_V6_LEN`]; 0 when the peer cannot be reached.
    pub len: usize,
    /// One's complement sum of the IPv4 header without what is added to its TOS, total length and TTL.
    pub ipv4_sum: u32,
    /// One's complement sum of the UDP pseudo-header's addresses and protocol.
    pub pseudo_sum: u32,
    /// Maximum length of an IP packet to the peer.
    pub mtu: u16,
    /// Whether to fill in the UDP checksum.
    pub checksum: bool,
    /// TTL of packets that do not have one to inherit.
    pub ttl: u8,
    /// Whether the TTL is the inner packet's.
    pub inherits_ttl: bool,
    /// Which bits of the inner packet's TOS the outer header has, too: ECN's, or all.
    pub inner_tos: u8,
}

impl OuterHeader {
    /// No header: the peer cannot be reached.
    pub const EMPTY: Self = Self {
        bytes: [0; OUTER_MAX],
        len: 0,
        ipv4_sum: 0,
        pseudo_sum: 0,
        mtu: 0,
        checksum: false,
        ttl: OUTER_TTL,
        inherits_ttl: false,
        inner_tos: ECN,
    };

    /// Composes the header for packets to `peer`, whose next hop on the underlay has this MAC. [`OuterHeader::EMPTY`]
    /// when the addresses of both ends are of different families.
    #[must_use]
    pub fn new(uplink: &UplinkConfig, peer: &PeerConfig, next_mac: MacAddr) -> Self {
        let (src, dst) = (Ip::from(uplink.vtep), Ip::from(peer.address));
        if src.is_v4() != dst.is_v4() {
            return Self::EMPTY;
        }
        let OuterIp { ttl, tos } = peer.outer;
        let (ttl, inherits_ttl) = match ttl {
            OuterField::Fixed(ttl) => (ttl, false),
            OuterField::Inherit => (OUTER_TTL, true),
        };
        let (tos, inner_tos) = match tos {
            OuterField::Fixed(tos) => (tos & !ECN, ECN),
            OuterField::Inherit => (0, 0xff),
        };
        let mut header = Self {
            ttl,
            inherits_ttl,
            inner_tos,
            mtu: uplink.mtu.min(peer.mtu),
            checksum: uplink.checksum,
            pseudo_sum: u32::from(checksum::pseudo(src, dst, l4::UDP, 0)),
            ..Self::EMPTY
        };
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            header.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        let ethertype = U16::new(if src.is_v4() { ethernet::TYPE_IPV4 } else { ethernet::TYPE_IPV6 });
        put(Ethernet { dst: next_mac, src: uplink.mac, ethertype }.as_bytes());
        if src.is_v4() {
            put(Ipv4 {
                version_ihl: 0x45,
                tos,
                total_len: U16::ZERO,
                id: U16::ZERO,
                flags_offset: U16::new(ipv4::DONT_FRAGMENT),
                ttl: 0,
                protocol: l4::UDP,
                checksum: U16::ZERO,
                src: src.v4_bytes(),
                dst: dst.v4_bytes(),
            }
            .as_bytes());
        } else {
            put(Ipv6 {
                version_class_flow: U32::new(6 << 28 | u32::from(tos) << 20),
                payload_len: U16::ZERO,
                next_header: l4::UDP,
                hop_limit: OUTER_TTL,
                src: src.v6_bytes(),
                dst: dst.v6_bytes(),
            }
            .as_bytes());
        }
        put(&[0, 0]);
        put(&uplink.tunnel_port.to_be_bytes());
        put(&[0; 4]);
        put(&vxlan::TEMPLATE);
        header.len = at;
        header.ipv4_sum =
            u32::from(checksum::sum(&header.bytes[ethernet::HEADER_LEN..OUTER_V4_LEN - ENCAP_LEN]));
        header
    }

    /// Whether it depends on the packet inside by more than that packet's ECN field.
    #[inline]
    #[must_use]
    pub const fn inherits(&self) -> bool {
        self.inherits_ttl || self.inner_tos != ECN
    }

    /// Whether the underlay is IPv4.
    #[inline]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.len == OUTER_V4_LEN
    }

    /// The header for the packets of one flow over IPv4: complete but for lengths, ECN and checksum. `None` over IPv6.
    #[must_use]
    pub fn of_flow(&self, vni: Vni, entropy: u16, ttl: u8) -> Option<[u8; OUTER_V4_LEN]> {
        let mut bytes = *self.bytes.first_chunk().filter(|_| self.is_v4())?;
        bytes[ethernet::HEADER_LEN + ipv4::TTL_AT] = ttl;
        set_encap(&mut bytes, OUTER_V4_LEN - ENCAP_LEN, entropy, 0, vni);
        Some(bytes)
    }

    /// Stamps the header on a GSO packet. Its UDP checksum stays partial, as the returned offload facts say.
    #[must_use]
    pub fn stamp_super(&self, frame: &mut [u8], vni: Vni, entropy: u16, tos: u8, ttl: u8) -> Offload {
        Self { checksum: false, ..*self }.stamp(frame, vni, entropy, tos, ttl);
        let udp_at = self.len - ENCAP_LEN;
        let pseudo = checksum::fold(self.pseudo_sum + (frame.len() - udp_at) as u32);
        crate::wire::set_word(frame, udp_at + l4::UDP_CHECKSUM_AT, pseudo);
        Offload {
            csum_start: udp_at as u16,
            csum_offset: l4::UDP_CHECKSUM_AT as u16,
            gso_kind: GsoKind::Udp,
            ..Offload::NONE
        }
    }

    /// Stamps the header on the first `len` bytes of `frame`, whose rest is the inner frame. `tos`: what of the inner
    /// packet's TOS is added to that of the header.
    #[inline]
    pub fn stamp(&self, frame: &mut [u8], vni: Vni, entropy: u16, tos: u8, ttl: u8) {
        let frame_len = frame.len();
        let udp_at;
        let udp_len;
        if self.is_v4() {
            let Some(head) = frame.first_chunk_mut::<OUTER_V4_LEN>() else { return };
            *head = *self.bytes.first_chunk().unwrap_or(&[0; OUTER_V4_LEN]);
            let total_len = (frame_len - ethernet::HEADER_LEN) as u16;
            head[15] |= tos;
            head[16..18].copy_from_slice(&total_len.to_be_bytes());
            head[22] = ttl;
            let sum = self.ipv4_sum + u32::from(tos) + u32::from(total_len) + (u32::from(ttl) << 8);
            head[24..26].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
            udp_at = OUTER_V4_LEN - ENCAP_LEN;
            udp_len = total_len - ipv4::HEADER_LEN as u16;
            set_encap(head, udp_at, entropy, udp_len, vni);
        } else {
            let Some(head) = frame.first_chunk_mut::<OUTER_MAX>() else { return };
            *head = self.bytes;
            udp_len = (frame_len - ethernet::HEADER_LEN - ipv6::HEADER_LEN) as u16;
            head[14] |= tos >> 4;
            head[15] |= tos << 4;
            head[18..20].copy_from_slice(&udp_len.to_be_bytes());
            head[21] = ttl;
            udp_at = OUTER_V6_LEN - ENCAP_LEN;
            set_encap(head, udp_at, entropy, udp_len, vni);
        }
        if self.checksum {
            let sum = self.pseudo_sum + u32::from(udp_len) + u32::from(checksum::sum(&frame[udp_at..]));
            let value = checksum::udp_nonzero(!checksum::fold(sum));
            crate::wire::set_word(frame, udp_at + l4::UDP_CHECKSUM_AT, value);
        }
    }
}

/// Writes the fields that differ between packets into the UDP and VXLAN headers of `head`, which start at `udp_at`.
#[inline(always)]
fn set_encap<const N: usize>(head: &mut [u8; N], udp_at: usize, entropy: u16, udp_len: u16, vni: Vni) {
    let vni_at = udp_at + l4::UDP_HEADER_LEN + vxlan::VNI_AT;
    head[udp_at..udp_at + 2].copy_from_slice(&entropy.to_be_bytes());
    head[udp_at + l4::UDP_LEN_AT..udp_at + l4::UDP_LEN_AT + 2].copy_from_slice(&udp_len.to_be_bytes());
    head[vni_at..vni_at + 4].copy_from_slice(&vxlan::vni_word(vni));
}
