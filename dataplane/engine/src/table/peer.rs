//! Peers: other rVMs' VTEPs, each with its outer header ready.

use alloc::vec::Vec;

use zerocopy::IntoBytes;
use zerocopy::network_endian::{U16, U32};

use super::underlay::{Hop, Underlay};
use super::{Map, hasher};
use crate::command::{OuterField, OuterIp, PeerConfig, PeerId, UplinkConfig, Vni};
use crate::counters::Volume;
use crate::frame::{GsoKind, Offload};
use crate::limits::{OUTER_TTL, PEERS_MAX};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ip::Ip;
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::mac::MacAddr;
use crate::wire::vxlan;
use crate::wire::{checksum, l4};

/// The bits of a TOS that are the ECN field.
const ECN: u8 = 3;

/// The longest outer header: Ethernet, IPv6, UDP, VXLAN.
pub const OUTER_MAX: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + l4::UDP_HEADER_LEN + vxlan::HEADER_LEN;

/// Maps a `PeerId` to its peer and an outer source address to its `PeerId`. Dense and bounded by
/// [`PEERS_MAX`]; written by commands and by changes of the underlay's next hops.
#[derive(Debug)]
pub struct PeerTable {
    peers: Vec<Option<PeerEntry>>,
    by_address: Map<Ip, PeerId>,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerEntry {
    /// The configuration.
    pub config: PeerConfig,
    /// The peer that gets its frames: itself, or its relay.
    pub direct: Option<PeerId>,
    /// The underlay's next hop.
    pub next: Hop,
    /// The outer header to stamp, complete but for lengths, source port, ECN, VNI, and what is inherited.
    pub outer: OuterHeader,
    /// The hash of its rVM's name, as its switch says; 0 until it has.
    pub name: u64,
    /// What was sent to it.
    pub tx: Volume,
    /// Traffic accepted from the peer.
    pub rx: Volume,
}

/// A prebuilt outer header.
#[derive(Clone, Copy, Debug)]
pub struct OuterHeader {
    /// The header, in the first `len` bytes.
    pub bytes: [u8; OUTER_MAX],
    /// 50 over IPv4, 70 over IPv6.
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

impl PeerTable {
    /// Creates an empty table whose hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { peers: Vec::new(), by_address: Map::with_hasher(hasher(seed)) }
    }

    /// The peer with this number.
    #[inline]
    #[must_use]
    pub fn get(&self, id: PeerId) -> Option<&PeerEntry> {
        self.peers.get(usize::from(id.0))?.as_ref()
    }

    /// Mutable access to the peer with this number.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, id: PeerId) -> Option<&mut PeerEntry> {
        self.peers.get_mut(usize::from(id.0))?.as_mut()
    }

    /// The directly reached peer with this source address.
    #[inline]
    #[must_use]
    pub fn by_address(&self, address: Ip) -> Option<PeerId> {
        self.by_address.get(&address).copied()
    }

    /// Creates or changes a peer; [`PeerTable::compose`] must follow. Returns false when `id` is out of
    /// bounds.
    pub fn set(&mut self, id: PeerId, config: PeerConfig) -> bool {
        let at = usize::from(id.0);
        if at >= PEERS_MAX {
            return false;
        }
        if self.peers.len() <= at {
            self.peers.resize(at + 1, None);
        }
        let (tx, rx) = self.peers[at].as_ref().map_or_else(Default::default, |p| (p.tx, p.rx));
        self.peers[at] = Some(PeerEntry {
            config,
            direct: None,
            next: Hop::NoRoute,
            outer: OuterHeader::EMPTY,
            name: 0,
            tx,
            rx,
        });
        true
    }

    /// Removes a peer; [`PeerTable::compose`] must follow.
    pub fn remove(&mut self, id: PeerId) {
        if let Some(slot) = self.peers.get_mut(usize::from(id.0)) {
            *slot = None;
        }
    }

    /// Every peer with its number.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &PeerEntry)> {
        self.peers.iter().enumerate().filter_map(|(i, p)| Some((PeerId(i as u16), p.as_ref()?)))
    }

    /// Composes all fields that depend on several peers, the uplink or the underlay's next hops.
    pub fn compose(&mut self, uplink: Option<&UplinkConfig>, underlay: &Underlay) {
        self.by_address.clear();
        for at in 0..self.peers.len() {
            let direct = self.resolve_via(PeerId(at as u16));
            let Some(peer) = &mut self.peers[at] else { continue };
            peer.direct = direct;
            let address = Ip::from(peer.config.address);
            if peer.config.via.is_none() {
                self.by_address.insert(address, PeerId(at as u16));
            }
            peer.next = Hop::NoRoute;
            peer.outer = OuterHeader::EMPTY;
            if let (Some(uplink), None) = (uplink, peer.config.via) {
                peer.next = underlay.hop(address);
                let mac = peer.next.mac().unwrap_or(MacAddr::ZERO);
                peer.outer = OuterHeader::new(uplink, &peer.config, mac);
            }
        }
    }

    /// Follows `via` to a directly reached peer; `None` on a loop or a missing link.
    fn resolve_via(&self, mut id: PeerId) -> Option<PeerId> {
        for _ in 0..8 {
            match self.get(id)?.config.via {
                None => return Some(id),
                Some(via) => id = via,
            }
        }
        None
    }
}

impl OuterHeader {
    const EMPTY: Self = Self {
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

    fn new(uplink: &UplinkConfig, peer: &PeerConfig, next_mac: MacAddr) -> Self {
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
        put(&[0, 0, 0, 0, 0x08, 0, 0, 0, 0, 0, 0, 0]);
        header.len = at;
        header.ipv4_sum = u32::from(checksum::sum(&header.bytes[14..34]));
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
        self.len == ethernet::HEADER_LEN + ipv4::HEADER_LEN + l4::UDP_HEADER_LEN + vxlan::HEADER_LEN
    }

    /// Stamps the header on a GSO packet. Its UDP checksum stays partial, as the returned offload facts say.
    #[must_use]
    pub fn stamp_super(&self, frame: &mut [u8], vni: Vni, entropy: u16, tos: u8, ttl: u8) -> Offload {
        Self { checksum: false, ..*self }.stamp(frame, vni, entropy, tos, ttl);
        let udp_at = self.len - vxlan::HEADER_LEN - l4::UDP_HEADER_LEN;
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
            let Some(head) = frame.first_chunk_mut::<50>() else { return };
            *head = *self.bytes.first_chunk().unwrap_or(&[0; 50]);
            let total_len = (frame_len - ethernet::HEADER_LEN) as u16;
            head[15] |= tos;
            head[16..18].copy_from_slice(&total_len.to_be_bytes());
            head[22] = ttl;
            let sum = self.ipv4_sum + u32::from(tos) + u32::from(total_len) + (u32::from(ttl) << 8);
            head[24..26].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
            udp_at = 34;
            udp_len = total_len - 20;
            head[34..36].copy_from_slice(&entropy.to_be_bytes());
            head[38..40].copy_from_slice(&udp_len.to_be_bytes());
            head[46..50].copy_from_slice(&(vni.get() << 8).to_be_bytes());
        } else {
            let Some(head) = frame.first_chunk_mut::<OUTER_MAX>() else { return };
            *head = self.bytes;
            udp_len = (frame_len - ethernet::HEADER_LEN - ipv6::HEADER_LEN) as u16;
            head[14] |= tos >> 4;
            head[15] |= tos << 4;
            head[18..20].copy_from_slice(&udp_len.to_be_bytes());
            head[21] = ttl;
            udp_at = 54;
            head[54..56].copy_from_slice(&entropy.to_be_bytes());
            head[58..60].copy_from_slice(&udp_len.to_be_bytes());
            head[66..70].copy_from_slice(&(vni.get() << 8).to_be_bytes());
        }
        if self.checksum {
            let sum = self.pseudo_sum + u32::from(udp_len) + u32::from(checksum::sum(&frame[udp_at..]));
            let value = checksum::udp_nonzero(!checksum::fold(sum));
            crate::wire::set_word(frame, udp_at + l4::UDP_CHECKSUM_AT, value);
        }
    }
}
