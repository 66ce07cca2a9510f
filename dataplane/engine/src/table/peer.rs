//! Peers: other rVMs' VTEPs, each with its outer header ready.

use alloc::vec::Vec;

use super::underlay::{Hop, Underlay};
use super::{Map, hasher};
use crate::command::{PeerConfig, PeerId, UplinkConfig};
use crate::counters::Volume;
use crate::limits::PEERS_MAX;
use crate::tunnel::outer::OuterHeader;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// Maps a `PeerId` to its peer and an outer source address to its `PeerId`. Dense and bounded by
/// [`PEERS_MAX`]; written by commands and by changes of the underlay's next hops.
#[derive(Clone, Debug)]
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
    /// The outer header to stamp, complete except for lengths, source port, ECN, VNI and inherited fields.
    pub outer: OuterHeader,
    /// The hash of its rVM's name, as its switch says; 0 until it has.
    pub name: u64,
    /// Traffic sent to the peer.
    pub tx: Volume,
    /// Traffic accepted from the peer.
    pub rx: Volume,
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
