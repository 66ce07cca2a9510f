//! The machine's interfaces as the agent knows them, by name and by alternative name.

use std::collections::BTreeMap;

use super::LINKS_MAX;
use crate::io::LinkFacts;
use crate::model::{Config, ConfigError, Fault, PortKind};

/// Maps a name to its interface. Bounded by [`LINKS_MAX`]. The kernel ensures that no two interfaces share a name of
/// either kind.
#[derive(Debug, Default)]
pub(super) struct Links {
    by_name: BTreeMap<String, LinkFacts>,
    /// Maps an alternative name (`ip link property add altname`) to the name.
    names: BTreeMap<String, String>,
}

impl Links {
    /// The interface with this name or alternative name.
    pub(super) fn get(&self, name: &str) -> Option<&LinkFacts> {
        let name = self.names.get(name).map_or(name, String::as_str);
        self.by_name.get(name)
    }

    /// Whether an interface with this name or alternative name exists.
    pub(super) fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All interfaces.
    pub(super) fn values(&self) -> impl Iterator<Item = &LinkFacts> {
        self.by_name.values()
    }

    /// Records an interface. Returns every name that it has or had; `None` when nothing is new.
    pub(super) fn insert(&mut self, link: LinkFacts) -> Option<Vec<String>> {
        let before = self.by_name.get(&link.name);
        if before == Some(&link) || (before.is_none() && self.by_name.len() >= LINKS_MAX) {
            return None;
        }
        let mut names = self.forget(&link.name);
        for name in &link.alt_names {
            self.names.insert(name.clone(), link.name.clone());
        }
        names.extend(link.alt_names.iter().cloned());
        names.push(link.name.clone());
        self.by_name.insert(link.name.clone(), link);
        Some(names)
    }

    /// Forgets an interface. Returns every name that it had; empty if it was not known.
    pub(super) fn remove(&mut self, name: &str) -> Vec<String> {
        let mut names = self.forget(name);
        if self.by_name.remove(name).is_some() {
            names.push(name.to_owned());
        }
        names
    }

    /// Removes the alternative names of an interface, and returns them.
    fn forget(&mut self, name: &str) -> Vec<String> {
        let names = self.by_name.get(name).map(|link| link.alt_names.clone()).unwrap_or_default();
        for alt in &names {
            // The kernel may have given the name to another interface since.
            if self.names.get(alt).is_some_and(|of| of == name) {
                self.names.remove(alt);
            }
        }
        names
    }

    /// Finds two entries of a configuration that mean the same interface by different names.
    pub(super) fn named_twice(&self, config: &Config) -> Option<ConfigError> {
        let uplink = config.uplink.iter().map(|u| ("uplink".to_owned(), u.interface.clone()));
        let attached = |p: &&crate::model::Port| p.kind != PortKind::Vhostuser;
        let ports = config.port.iter().filter(attached);
        let ports = ports.map(|p| (format!("port \"{}\"", p.name), p.attached_to()));
        let mut users: BTreeMap<u32, (String, String)> = BTreeMap::new();
        for (object, name) in uplink.chain(ports) {
            let Some(link) = self.get(&name) else { continue };
            if let Some((other, other_name)) = users.insert(link.index, (object.clone(), name.clone())) {
                return Some(ConfigError {
                    fault: Fault::Conflict,
                    object,
                    cause: format!(
                        "interface {name} is {other_name}, by another name, and that is {other}'s"
                    ),
                    remedy: "an interface serves one port: name another".to_owned(),
                    position: None,
                });
            }
        }
        None
    }
}
