//! The differences between two configurations, object by object.
//!
//! Compares the printed forms of both, so a new key of a section needs no code here.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Config, Section};

/// One difference: an object that only one configuration has, or a key of an object that both have.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// The object: `port "eth1"`, `uplink`, `name`.
    pub object: String,
    /// The key; `None` when the whole object is added or removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The old value; `None` means nothing, or the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// The new value; `None` means nothing, or the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |v: &Option<Value>| v.as_ref().map_or("default".to_owned(), Value::to_string);
        match (&self.key, &self.old, &self.new) {
            (None, None, _) => write!(f, "+ {}", self.object),
            (None, _, None) => write!(f, "- {}", self.object),
            (None, old, new) => write!(f, "~ {}: {} -> {}", self.object, value(old), value(new)),
            (Some(key), old, new) => {
                write!(f, "~ {}: {key} {} -> {}", self.object, value(old), value(new))
            }
        }
    }
}

/// The changes that turn `old` into `new`. The order of entries does not matter.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let (old, new) = (objects(old), objects(new));
    let mut changes = Vec::new();
    for (object, was) in &old {
        match new.get(object) {
            None => {
                changes.push(Change { object: object.clone(), key: None, old: Some(was.clone()), new: None })
            }
            Some(is) if is != was => compare(object, was, is, &mut changes),
            Some(_) => {}
        }
    }
    for (object, is) in new.iter().filter(|(object, _)| !old.contains_key(*object)) {
        changes.push(Change { object: object.clone(), key: None, old: None, new: Some(is.clone()) });
    }
    changes
}

fn compare(object: &str, was: &Value, is: &Value, changes: &mut Vec<Change>) {
    let (Value::Object(was), Value::Object(is)) = (was, is) else {
        let (old, new) = (Some(was.clone()), Some(is.clone()));
        changes.push(Change { object: object.to_owned(), key: None, old, new });
        return;
    };
    let keys = was.keys().chain(is.keys().filter(|k| !was.contains_key(*k)));
    for key in keys.filter(|k| was.get(*k) != is.get(*k)) {
        changes.push(Change {
            object: object.to_owned(),
            key: Some(key.clone()),
            old: was.get(key).cloned(),
            new: is.get(key).cloned(),
        });
    }
}

/// Every object by the name that people use for it.
fn objects(config: &Config) -> BTreeMap<String, Value> {
    let mut objects = BTreeMap::new();
    let Value::Object(sections) = json!(config) else { return objects };
    for (key, value) in sections {
        let section = Section::ALL.into_iter().find(|s| s.key() == key);
        match (section, value) {
            (Some(section), Value::Array(entries)) => {
                for entry in entries {
                    if let Value::Object(entry) = entry {
                        objects.insert(called(section, &entry), Value::Object(entry));
                    }
                }
            }
            (_, value) => drop(objects.insert(key, value)),
        }
    }
    objects
}

/// The text that distinguishes an entry from the others of its list.
fn called(section: Section, entry: &Map<String, Value>) -> String {
    let text = |key: &str| match entry.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    match section {
        Section::Network | Section::Port | Section::Peer => format!("{} \"{}\"", section.key(), text("name")),
        Section::Floating => {
            let only = text("only");
            let only = if only.is_empty() { only } else { format!(" only {only}") };
            format!("floating {} on \"{}\"{only}", text("ip"), text("network"))
        }
        Section::Route => format!("route {} on \"{}\"", text("from"), text("network")),
        Section::Fdb => {
            let vlan = text("vlan");
            let vlan = if vlan.is_empty() { vlan } else { format!(" VLAN {vlan}") };
            format!("fdb {} on \"{}\"{vlan}", text("mac"), text("network"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::arbitrary::config;
    use super::super::{Network, Port, Uplink, parse, print};
    use super::*;
    use proptest::prelude::*;

    /// Differences as operators read them.
    #[test]
    fn differences_in_words() {
        let mut old = Config { uplink: Some(Uplink::new("eth0")), ..Config::default() };
        old.network = vec![Network::new("a", 1), Network::new("b", 2)];
        old.port = vec![Port::new("p", "a")];
        let mut new = old.clone();
        new.name = Some("rvm1".into());
        new.network.remove(1);
        new.network.push(Network::new("c", 3));
        new.port[0].mtu = Some(1400);
        new.uplink.as_mut().unwrap().interface = "eth1".into();
        let lines: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "- network \"b\"",
                "~ port \"p\": mtu default -> 1400",
                "~ uplink: interface \"eth0\" -> \"eth1\"",
                "+ name",
                "+ network \"c\"",
            ]
        );
    }

    proptest! {
        /// A configuration does not differ from itself, however it is written; a real difference is found.
        #[test]
        fn a_difference_is_a_difference(a in config(), b in config()) {
            prop_assert_eq!(diff(&a, &parse(&print(&a)).unwrap()), vec![]);
            let same = {
                let mut b = b.clone();
                let mut a = a.clone();
                for c in [&mut a, &mut b] {
                    c.network.sort_by_key(|n| n.name.clone());
                    c.port.sort_by_key(|n| n.name.clone());
                    c.peer.sort_by_key(|n| n.name.clone());
                    c.floating.sort_by_key(super::super::Floating::key);
                    c.route.sort_by_key(|r| (r.network.clone(), r.from));
                    c.fdb.sort_by_key(|f| (f.network.clone(), f.vlan, f.mac));
                }
                a == b
            };
            // Ports of `only` may be in another order, which `key` ignores but this comparison does not.
            prop_assert!(same == diff(&a, &b).is_empty() || !a.floating.is_empty());
        }
    }
}
