//! Path MTUs: one [`Path`] for each peer that is reached directly, and the updates that follow from its results.

use std::collections::BTreeMap;
use std::net::IpAddr;

use engine::command::{Command, PeerId};
use engine::time::Instant;

use super::Agent;
use super::machine::Phase;
use crate::liveness;
use crate::path::{Input, Origin, Output, Path};
use crate::reconcile::{self, UPLINK_PORT};

/// The smallest path MTU that is believed: the size that every IPv4 host accepts (RFC 791), and the smallest MTU of
/// IPv6 links (RFC 8200 §5).
const MIN_V4: u16 = 576;
const MIN_V6: u16 = 1280;

/// The path state machines by peer, each with the peer's address at its creation.
#[derive(Debug, Default)]
pub(super) struct Paths(BTreeMap<PeerId, (IpAddr, Path)>);

impl Paths {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().map(|(_, path)| path.next_deadline()).min()
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Path> {
        self.0.get(&id).map(|(_, path)| path)
    }

    pub(super) fn measured(&self) -> BTreeMap<PeerId, u16> {
        let measured = |(&id, (_, path)): (&PeerId, &(_, Path))| {
            (path.origin() == Origin::Measured).then(|| (id, path.mtu()))
        };
        self.0.iter().filter_map(measured).collect()
    }
}

impl Agent {
    /// Brings the state machines in line with the configuration and the uplink.
    pub(super) fn sync_paths(&mut self) {
        let mut before = std::mem::take(&mut self.paths.0);
        let underlay = self.facts.underlay.clone().or_else(|| self.underlay());
        let live = self.attachments.get(&UPLINK_PORT).is_some_and(|a| matches!(a.phase, Phase::Live(_)));
        if let (Some(uplink), Some(underlay)) = (&self.config.uplink, underlay)
            && uplink.probe
        {
            let ours = |p: &crate::model::Peer| p.address == underlay.vtep;
            for p in self.config.peer.iter().filter(|p| p.via.is_none() && !ours(p)) {
                let Some(id) = self.ids.peer(&p.name) else { continue };
                if p.address.is_ipv4() != underlay.vtep.is_ipv4() {
                    continue;
                }
                let path = match before.remove(&id).filter(|(address, _)| *address == p.address) {
                    Some((_, mut path)) => {
                        path.handle(self.now, Input::Max(underlay.mtu));
                        path
                    }
                    None if live => {
                        let min = if p.address.is_ipv4() { MIN_V4 } else { MIN_V6 };
                        let secret = self.options.secret.wrapping_add(reconcile::stable_hash(&[&p.name]));
                        Path::new(self.now, underlay.mtu, min, secret)
                    }
                    None => continue,
                };
                self.paths.0.insert(id, (p.address, path));
            }
        }
    }

    /// Starts probing again after the uplink was opened. Probes that were lost while it was closed, or on another
    /// NIC, mean nothing.
    pub(super) fn restart_paths(&mut self) {
        for (_, path) in self.paths.0.values_mut() {
            path.handle(self.now, Input::Restart);
        }
        self.sync_paths();
        self.step_paths();
    }

    pub(super) fn path_answered(&mut self, peer: PeerId, size: u16, nonce: u64) {
        let asked = self.paths.get(peer).is_some_and(|path| path.is_asked(size, nonce));
        self.path_input(peer, Input::Answered { size, nonce });
        let input = if asked { liveness::Input::PathAnswered } else { liveness::Input::Answered { nonce } };
        self.peer_input(peer, input);
    }

    pub(super) fn path_asked(&mut self, peer: PeerId) {
        self.path_input(peer, Input::Asked);
    }

    fn path_input(&mut self, peer: PeerId, input: Input) {
        let now = self.now;
        if let Some((_, path)) = self.paths.0.get_mut(&peer) {
            path.handle(now, input);
            self.drain_paths(peer..=peer);
        }
    }

    /// Does what is due.
    pub(super) fn step_paths(&mut self) {
        self.drain_paths(PeerId(0)..=PeerId(u16::MAX));
    }

    /// Sends the probes of these paths, and distributes changed path MTUs.
    fn drain_paths(&mut self, peers: std::ops::RangeInclusive<PeerId>) {
        let (now, mut probes, mut changed) = (self.now, Vec::new(), Vec::new());
        for (&id, (_, path)) in self.paths.0.range_mut(peers) {
            path.handle(now, Input::Time);
            while let Some(output) = path.poll_output() {
                match output {
                    Output::Probe { size, nonce } => probes.push(Command::ProbePath(id, size, nonce)),
                    Output::Changed => changed.push(id),
                }
            }
        }
        for probe in probes {
            self.command(probe);
        }
        if !changed.is_empty() {
            self.paths_changed(&changed);
        }
    }

    /// Sends changed path MTUs to the workers, and adjusts the doors that follow them.
    fn paths_changed(&mut self, changed: &[PeerId]) {
        self.facts.paths = self.paths.measured();
        let mtus = reconcile::network_mtus(&self.config, &self.ids, &self.facts);
        let networks_differ = mtus != self.facts.network_mtus;
        self.facts.network_mtus = mtus;
        // Peers behind a relay follow the relay's path MTU.
        let mut told = Vec::new();
        for p in &self.config.peer {
            let Some(id) = self.ids.peer(&p.name) else { continue };
            if !changed.contains(&id) && p.via.is_none() {
                continue;
            }
            let entry = (p.name.clone(), reconcile::compile_peer(p, &self.config, &self.ids, &self.facts));
            if self.told.peers.get(&id).is_some_and(|was| *was != entry) {
                told.push((id, entry));
            }
        }
        for (id, entry) in told {
            let before = self.told.peers.get(&id).map_or(0, |(_, c)| c.mtu);
            self.log("info", format!("peer \"{}\": path MTU {}, was {before}", entry.0, entry.1.mtu));
            self.notify("path", serde_json::json!({ "peer": entry.0, "mtu": entry.1.mtu }));
            self.command(Command::SetPeer(id, entry.1.clone()));
            self.told.peers.insert(id, entry);
        }
        let makes_door = self.config.port.iter().filter(|p| p.makes_door() && p.mtu.is_none());
        let doors: Vec<_> = makes_door.filter_map(|p| self.ids.port(&p.name)).collect();
        for id in doors {
            // The door may have been waiting for a certain MTU.
            self.step(id);
        }
        if networks_differ {
            self.notify("mtu", serde_json::json!({ "networks": self.facts.network_mtus }));
        }
    }

    /// Whether probing has decided the path of every peer of the network: measured, or known to be unmeasurable.
    pub(super) fn paths_decided(&self, network: &str) -> bool {
        let Some(uplink) = &self.config.uplink else { return true };
        if self.facts.underlay.is_none() {
            return false;
        }
        let counts = |p: &&crate::model::Peer| p.via.is_none() && p.mtu.is_none() && !self.is_ourselves(p);
        let mut peers = self.config.peer.iter().filter(counts);
        let decided = |p: &crate::model::Peer| {
            let path = self.ids.peer(&p.name).and_then(|id| self.paths.get(id));
            !reconcile::takes_part(p, network) || path.is_some_and(Path::decided)
        };
        !uplink.probe || peers.all(decided)
    }
}
