//! Copies of this rVM: machines made from one image share a name, and may share MAC addresses.

use std::collections::BTreeMap;

use engine::command::{Location, PeerId};
use engine::time::{Duration, Instant};
use engine::wire::mac::MacAddr;

use super::Agent;
use crate::api::{Problem, ProblemKind};
use crate::reconcile;

/// How long a MAC address counts as used by two rVMs after the last frame from the other one. A switch that learns
/// reports every move of the address, and it moves whenever both rVMs send.
const TWIN_AGE: Duration = Duration::from_secs(600);

/// The remedy for a shared name and its consequences.
const SET_NAME: &str = "write another `name` into the configuration file of one of the two";

/// The most addresses that are remembered; an rVM has a few doors.
const TWINS_MAX: usize = 64;

/// The names and addresses of peers that equal our own.
#[derive(Debug, Default)]
pub(super) struct Twins {
    /// The name of each peer's rVM, as a hash.
    names: BTreeMap<PeerId, u64>,
    /// Our MAC addresses that a peer sent from, and the time of the last such frame.
    macs: BTreeMap<MacAddr, (PeerId, Instant)>,
}

impl Agent {
    /// Notes the name of a peer's rVM, which the peer's switch announced.
    pub(super) fn peer_named(&mut self, peer: PeerId, name: u64) {
        let is_news = self.twins.names.insert(peer, name) != Some(name);
        if is_news && name == self.facts.name_hash() {
            let text = self.same_name(peer).to_string();
            self.log("warn", text);
        }
    }

    /// Notes that a peer sent from `mac`, an address of this switch.
    pub(super) fn our_mac(&mut self, peer: PeerId, mac: MacAddr) {
        let known = self.twins.macs.contains_key(&mac);
        if !known && self.twins.macs.len() >= TWINS_MAX {
            return;
        }
        self.twins.macs.insert(mac, (peer, self.now));
        if !known {
            let text = self.same_mac(peer, mac).to_string();
            self.log("warn", text);
        }
    }

    /// Checks whether a station behind a peer has the address of one of our own doors.
    pub(super) fn look_for_twin(&mut self, mac: MacAddr, location: Location) {
        let Location::Peer(peer) = location else { return };
        if reconcile::is_door_mac(mac) && self.door_of(mac).is_some() {
            self.our_mac(peer, mac);
        }
    }

    /// Forgets the names and addresses of peers that are gone or have been replaced.
    pub(super) fn sync_twins(&mut self) {
        let told = &self.told.peers;
        self.twins.names.retain(|id, _| told.contains_key(id));
        self.twins.macs.retain(|_, (id, _)| told.contains_key(id));
    }

    /// The warnings about copies of this rVM.
    pub(super) fn twin_problems(&self) -> Vec<Problem> {
        let ours = self.facts.name_hash();
        let names = self.twins.names.iter().filter(|(_, name)| **name == ours);
        let mut problems: Vec<Problem> = names.map(|(&peer, _)| self.same_name(peer)).collect();
        // A switch's MAC address follows from the name, so one warning is enough.
        let told = |peer: &PeerId, mac: MacAddr| mac.is_switch() && self.twins.names.get(peer) == Some(&ours);
        let recent = |at: Instant| self.now.since(at) < TWIN_AGE;
        let macs = self.twins.macs.iter().filter(|(mac, (peer, at))| recent(*at) && !told(peer, **mac));
        problems.extend(macs.map(|(&mac, &(peer, _))| self.same_mac(peer, mac)));
        problems
    }

    fn same_name(&self, peer: PeerId) -> Problem {
        let (peer, name) = (self.peer_name(peer), &self.facts.name);
        let whence = match self.config.name {
            Some(_) => "",
            None => " (the host name, as the file has no `name`)",
        };
        let what = format!(
            "duplicate name: peer \"{peer}\" calls itself \"{name}\", as this rVM does{whence}; floating IPs whose gateway has \
             that name have two gateways"
        );
        Problem::new(ProblemKind::Peer, peer, what, SET_NAME)
    }

    fn same_mac(&self, peer: PeerId, mac: MacAddr) -> Problem {
        let (whose, how) = match (self.door_of(mac), &self.options.identity_file) {
            (Some(door), Some(file)) => (
                format!("door \"{door}\""),
                format!("remove {file} on one of the two and restart ivswitchd there"),
            ),
            (Some(door), None) => (
                format!("door \"{door}\""),
                "let ivswitchd write to its --state directory on both, and restart it".to_owned(),
            ),
            (None, _) => ("switch".to_owned(), SET_NAME.to_owned()),
        };
        let peer = self.peer_name(peer);
        let what = format!(
            "duplicate MAC address: peer \"{peer}\" sends from {mac}, the address of our {whose}, as a copy of this machine \
             does: frames loop between the two"
        );
        Problem::new(ProblemKind::Peer, peer, what, how)
    }

    fn peer_name(&self, id: PeerId) -> String {
        self.told.peers.get(&id).map_or_else(|| format!("peer-{}", id.0), |(name, _)| name.clone())
    }

    fn door_of(&self, mac: MacAddr) -> Option<&str> {
        let doors = self.config.port.iter().filter(|p| p.makes_door());
        doors.map(|p| p.name.as_str()).find(|name| reconcile::door_mac(self.facts.identity, name) == mac)
    }
}
