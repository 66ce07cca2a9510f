//! The keys that an object of the configuration can have, and their defaults, read from the JSON Schema.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::Section;
use super::schema::schema;

/// One key of an object.
#[derive(Clone, PartialEq, Debug)]
pub struct Key {
    /// The key's name.
    pub name: String,
    /// Whether every object must have the key.
    pub required: bool,
    /// The value if the key is not given; `null` for none.
    pub default: Value,
    /// The default in words, for people.
    words: String,
}

/// The definitions of the schema by name, each with its keys.
static KEYS: LazyLock<BTreeMap<String, Vec<Key>>> = LazyLock::new(|| {
    // This is our own text, which the tests parse.
    let schema: Value = serde_json::from_str(&schema()).unwrap_or_default();
    let definitions = schema["$defs"].as_object().into_iter().flatten();
    definitions.map(|(name, definition)| (name.clone(), keys_of(definition))).collect()
});

fn keys_of(definition: &Value) -> Vec<Key> {
    let required =
        |name: &str| definition["required"].as_array().is_some_and(|all| all.iter().any(|r| r == name));
    let properties = definition["properties"].as_object().into_iter().flatten();
    let key = |(name, property): (&String, &Value)| {
        let text = property["description"].as_str().unwrap_or_default();
        let words = text.split_once("Default: ").map_or("", |(_, words)| words.trim_end_matches('.'));
        Key {
            name: name.clone(),
            required: required(name),
            default: default_of(property, words),
            words: words.replace('`', "").replace('\n', " "),
        }
    };
    properties.map(key).collect()
}

/// The default of a property, from its type and the words that describe it.
fn default_of(property: &Value, words: &str) -> Value {
    let word = words.split('`').nth(1);
    match property["type"].as_str() {
        Some("boolean") => json!(words.starts_with("true")),
        Some("integer") => {
            let digits: String = words.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().map_or(Value::Null, |n| json!(n))
        }
        Some("array") => json!([]),
        // A choice of words.
        None if property["$ref"].is_string() => word.map_or(Value::Null, |word| json!(word)),
        _ => Value::Null,
    }
}

fn of(definition: &str) -> &'static [Key] {
    KEYS.get(definition).map_or(&[], Vec::as_slice)
}

const fn definition(section: Section) -> &'static str {
    match section {
        Section::Network => "Network",
        Section::Port => "Port",
        Section::Peer => "Peer",
        Section::Floating => "Floating",
        Section::Route => "Route",
        Section::Fdb => "StaticFdb",
    }
}

/// The keys of the entries of a list.
pub(crate) fn keys(section: Section) -> &'static [Key] {
    of(definition(section))
}

/// All keys of an entry of this list (`None`: `[uplink]`) with their values, defaults included, and the names of the
/// keys that are at their default.
pub(crate) fn full(section: Option<Section>, entry: &Value) -> (Map<String, Value>, Vec<String>) {
    let mut values = entry.as_object().cloned().unwrap_or_default();
    let mut defaults = Vec::new();
    for key in of(section.map_or("Uplink", definition)) {
        if !values.contains_key(&key.name) {
            values.insert(key.name.clone(), key.default.clone());
            defaults.push(key.name.clone());
        }
    }
    (values, defaults)
}

/// The optional keys of a list's entries. `noun` is the list's name in the file.
pub fn key_names(noun: &str) -> impl Iterator<Item = &'static str> {
    let section = Section::ALL.into_iter().find(|s| s.key() == noun);
    let keys = section.map_or(&[][..], keys);
    keys.iter().filter(|key| !key.required).map(|key| key.name.as_str())
}

/// The default of a key in words, such as `no limit`. `noun` is the list's name in the file, or `uplink`.
#[must_use]
pub fn default_words(noun: &str, key: &str) -> Option<&'static str> {
    let section = Section::ALL.into_iter().find(|s| s.key() == noun);
    let key = of(section.map_or("Uplink", definition)).iter().find(|k| k.name == key)?;
    Some(key.words.as_str()).filter(|words| !words.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::arbitrary::config;
    use super::super::{Config, Uplink};
    use super::*;
    use proptest::prelude::*;

    /// An object with all its defaults written out is the same object, which proves the defaults.
    fn assert_same(config: &Config) {
        let mut whole = json!(config);
        for section in Section::ALL {
            for entry in whole.get_mut(section.key()).and_then(Value::as_array_mut).into_iter().flatten() {
                let (values, defaults) = full(Some(section), entry);
                assert!(keys(section).iter().all(|key| values.contains_key(&key.name)));
                assert!(defaults.iter().all(|key| entry.get(key).is_none()));
                *entry = Value::Object(values);
            }
        }
        if let Some(uplink) = whole.get_mut("uplink").filter(|u| u.is_object()) {
            *uplink = Value::Object(full(None, uplink).0);
        }
        let whole: Config = serde_json::from_value(whole).unwrap();
        assert_eq!(whole, *config);
    }

    proptest! {
        #[test]
        fn defaults_are_the_defaults(config in config()) {
            assert_same(&config);
        }
    }

    /// Each optional key names its default in words, and each required key is known to be required.
    #[test]
    fn keys_and_their_defaults() {
        assert_same(&Config { uplink: Some(Uplink::new("eth0")), ..Config::default() });
        for section in Section::ALL {
            let keys = keys(section);
            assert!(keys.len() > 2, "{section:?}");
            for key in keys {
                let said = key.required || default_words(section.key(), &key.name).is_some();
                // The words for a guest's MAC and for keys of these two lists say when they are required.
                let by_case = key.name == "mac" || matches!(section, Section::Floating | Section::Fdb);
                assert!(said || by_case, "{section:?} {key:?}");
            }
        }
        assert!(KEYS.values().flatten().all(|key| !key.words.contains('\n')), "one line each");
        let port = |name: &str| keys(Section::Port).iter().find(|k| k.name == name).unwrap();
        assert!(port("network").required && !port("mtu").required);
        assert_eq!((&port("bum_pps").default, &port("kind").default), (&json!(10_000), &json!("auto")));
        assert_eq!(default_words("port", "ingress_bps"), Some("no limit"));
    }
}
