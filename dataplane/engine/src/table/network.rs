//! Networks and their flood sets.

use alloc::vec::Vec;

use super::{Map, hasher};
use crate::command::{NetworkConfig, PeerId, PortId, Vni};
use crate::limits::NETWORKS_MAX;
use crate::wire::ip::Ip;

/// Maps a VNI to a dense [`NetId`] and that to its network. Bounded by [`NETWORKS_MAX`]; written by commands
/// only.
#[derive(Clone, Debug)]
pub struct Networks {
    by_vni: Map<Vni, NetId>,
    dense: Vec<Option<Network>>,
}

/// The index of a network in the table. A frame carries it after the lookup of its VNI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NetId(u16);

/// One isolated L2 segment and its flood sets.
///
/// Flood sets are composed when ports and peers change. The flood itself leaves out the members that must not
/// get the frame: the port or peer that it came from, and, between two peers, any pair without a spoke (split
/// horizon; RFC 4762 §4.4 and §10.1), which keeps the mesh free of loops.
#[derive(Clone, Debug)]
pub struct Network {
    /// The configuration.
    pub config: NetworkConfig,
    /// Gateway addresses, as keys.
    pub gateways: Vec<Ip>,
    /// Live ports of the network.
    pub ports: Vec<PortId>,
    /// Directly reached peers that take part in the network, and whether each is a spoke.
    pub peers: Vec<(PeerId, bool)>,
    members: Vec<u64>,
}

impl Networks {
    /// Creates an empty table whose hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { by_vni: Map::with_hasher(hasher(seed)), dense: Vec::new() }
    }

    /// The index of the network with this VNI.
    #[inline]
    #[must_use]
    pub fn id(&self, vni: Vni) -> Option<NetId> {
        self.by_vni.get(&vni).copied()
    }

    /// The network with this index.
    #[inline]
    #[must_use]
    pub fn at(&self, id: NetId) -> Option<&Network> {
        self.dense.get(usize::from(id.0))?.as_ref()
    }

    /// The network with this VNI.
    #[inline]
    #[must_use]
    pub fn get(&self, vni: Vni) -> Option<&Network> {
        self.at(self.id(vni)?)
    }

    /// Creates or changes a network. Returns false when the table is full.
    pub fn set(&mut self, config: NetworkConfig) -> bool {
        let gateways = config.gateways.iter().map(|&ip| ip.into()).collect();
        if let Some(id) = self.id(config.vni) {
            if let Some(Some(network)) = self.dense.get_mut(usize::from(id.0)) {
                network.gateways = gateways;
                network.config = config;
            }
            return true;
        }
        let at = self.dense.iter().position(Option::is_none).unwrap_or(self.dense.len());
        if at >= NETWORKS_MAX {
            return false;
        }
        if at == self.dense.len() {
            self.dense.push(None);
        }
        self.by_vni.insert(config.vni, NetId(at as u16));
        self.dense[at] =
            Some(Network { config, gateways, ports: Vec::new(), peers: Vec::new(), members: Vec::new() });
        true
    }

    /// Removes a network.
    pub fn remove(&mut self, vni: Vni) {
        if let Some(id) = self.by_vni.remove(&vni) {
            self.dense[usize::from(id.0)] = None;
        }
    }

    /// Iterates over all networks, in any order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Network> {
        self.dense.iter_mut().flatten()
    }
}

impl Network {
    /// Whether the peer takes part in the network and is directly reached.
    #[inline]
    #[must_use]
    pub fn has_member(&self, peer: PeerId) -> bool {
        self.members.get(usize::from(peer.0) / 64).is_some_and(|w| w >> (peer.0 % 64) & 1 == 1)
    }

    /// Replaces the flood set.
    pub fn set_flood(&mut self, ports: Vec<PortId>, peers: Vec<(PeerId, bool)>) {
        self.members.clear();
        for &(peer, _) in &peers {
            let word = usize::from(peer.0) / 64;
            if self.members.len() <= word {
                self.members.resize(word + 1, 0);
            }
            self.members[word] |= 1 << (peer.0 % 64);
        }
        self.ports = ports;
        self.peers = peers;
    }
}
