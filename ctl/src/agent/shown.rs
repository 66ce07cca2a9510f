//! The configuration of single objects, which lists show together with their state.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::json;

use super::Agent;
use crate::api::{Configured, PeerRow, PeerState};
use crate::model::{Section, full};

impl Agent {
    /// The configuration of entry `at` of a list.
    pub(super) fn configured(&self, section: Section, at: usize, entry: &impl Serialize) -> Configured {
        let (values, defaults) = full(Some(section), &json!(entry));
        Configured { values, defaults, file: self.file_of(section, at).to_owned() }
    }

    fn configured_list<'a, T: Serialize>(
        &self,
        section: Section,
        list: &[T],
        name: impl Fn(&T) -> &str,
        wanted: impl Iterator<Item = &'a str>,
    ) -> BTreeMap<String, Configured> {
        let wanted: BTreeSet<&str> = wanted.collect();
        let entries = list.iter().enumerate().filter(|(_, entry)| wanted.contains(name(entry)));
        entries.map(|(at, e)| (name(e).to_owned(), self.configured(section, at, e))).collect()
    }

    /// The configuration of networks, by name.
    pub(super) fn configured_networks<'a>(
        &self,
        wanted: impl Iterator<Item = &'a str>,
    ) -> BTreeMap<String, Configured> {
        self.configured_list(Section::Network, &self.config.network, |n| &n.name, wanted)
    }

    /// The configuration of ports and of the uplink, by name.
    pub(super) fn configured_ports<'a>(
        &self,
        wanted: impl Iterator<Item = &'a str>,
    ) -> BTreeMap<String, Configured> {
        let mut ports = self.configured_list(Section::Port, &self.config.port, |p| &p.name, wanted);
        if let Some(uplink) = &self.config.uplink {
            let (values, defaults) = full(None, &json!(uplink));
            let file = self.file_of_section("uplink").to_owned();
            ports.insert("uplink".to_owned(), Configured { values, defaults, file });
        }
        ports
    }

    /// The configuration of peers, by name.
    pub(super) fn configured_peers<'a>(
        &self,
        wanted: impl Iterator<Item = &'a str>,
    ) -> BTreeMap<String, Configured> {
        self.configured_list(Section::Peer, &self.config.peer, |p| &p.name, wanted)
    }

    /// The peers in drop-ins that are this rVM.
    pub(super) fn left_out_rows(&self) -> Vec<PeerRow> {
        let row = |skipped: &crate::model::Skipped| {
            Some(PeerRow {
                name: skipped.peer.clone(),
                address: skipped.address.parse().ok()?,
                via: None,
                relay: false,
                networks: Vec::new(),
                mtu: 0,
                mtu_origin: String::new(),
                state: PeerState::ThisRvm,
                why: format!("{}: its entry in {} is left out", skipped.why, skipped.file),
                since: None,
                answered: None,
                heard: None,
                refuses: Vec::new(),
                resolved: false,
                no_route: false,
                lladdr: None,
                tx: 0,
                tx_bytes: 0,
                rx: 0,
                rx_bytes: 0,
                config: None,
            })
        };
        self.origins.skipped.iter().filter_map(row).collect()
    }
}
