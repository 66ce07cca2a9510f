//! Keys of the configuration file in messages: the schema has them, and takes the values that are named.

use std::collections::BTreeSet;

use clap::CommandFactory as _;
use serde_json::{Value, json};

use super::{Part, assert_each, parts, placeholder};
use crate::Cli;

/// Words in backticks that are no keys of the file: parameters of the API, program names and words of a message.
const NO_KEYS: [&str; 4] = ["frame", "ivctl", "set", "uplink"];
/// Sections of another program's file, and words that stand for any section.
const NO_SECTIONS: [&str; 3] = ["keyfile", "removed", "section"];

struct Schema(Value);

impl Schema {
    fn read() -> Self {
        Self(
            serde_json::from_str(include_str!("../../../../ivswitch.schema.json"))
                .expect("the schema is JSON"),
        )
    }

    /// The properties of the whole file and of each of its tables.
    fn tables(&self) -> Vec<&Value> {
        let below = self.0["$defs"].as_object().expect("definitions").values();
        below.chain([&self.0]).map(|table| &table["properties"]).filter(|p| p.is_object()).collect()
    }

    fn has(&self, key: &str) -> bool {
        self.tables().iter().any(|properties| properties.get(key).is_some())
    }

    /// Whether a table takes this line.
    fn takes(&self, key: &str, value: &Value) -> bool {
        let properties = self.tables().into_iter().filter_map(|properties| properties.get(key));
        properties.into_iter().any(|property| {
            let mut schema = property.clone();
            schema["$defs"] = self.0["$defs"].clone();
            jsonschema::is_valid(&schema, value)
        })
    }

    /// The properties of a section.
    fn section(&self, name: &str) -> Option<&Value> {
        let entry = self.0["properties"].get(name)?;
        let to =
            ["/$ref", "/items/$ref", "/anyOf/0/$ref"].iter().find_map(|at| entry.pointer(at)?.as_str())?;
        Some(&self.0["$defs"][to.rsplit('/').next()?]["properties"])
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// A value in TOML, with different things in its placeholders.
fn values_of(text: &str) -> impl Iterator<Item = Value> {
    ["1400", "x1", "10.0.0.9", "02:00:00:00:00:01"].iter().filter_map(move |sample| {
        let mut text = text.replace("\"...\"", &format!("\"{sample}\""));
        while let Some((before, after)) = placeholder(&text).filter(|_| !text.starts_with("{ ")) {
            text = format!("{before}{sample}{after}");
        }
        let table: toml::Table = toml::from_str(&format!("x = {text}")).ok()?;
        serde_json::to_value(&table["x"]).ok()
    })
}

fn faults(schema: &Schema, text: &str, tried: &mut usize) -> Vec<String> {
    let mut faults = Vec::new();
    let mut before: Option<&str> = None;
    for part in parts(text) {
        match part {
            Part::Code(code) => {
                let (key, value) =
                    code.split_once(" = ").map_or((code, None), |(key, value)| (key, Some(value)));
                before = is_word(key).then_some(key);
                if !is_word(key) || NO_KEYS.contains(&key) {
                    continue;
                }
                *tried += 1;
                if !schema.has(key) {
                    faults.push(format!("no key of the configuration: `{key}`"));
                } else if let Some(value) = value
                    && value != "..."
                    && !values_of(value).any(|value| schema.takes(key, &value))
                {
                    faults.push(format!("`{key}` does not take {value}"));
                }
            }
            Part::Prose(prose) => {
                let sections = prose.match_indices('[').filter_map(|(at, _)| {
                    let name = prose[at + 1..].trim_start_matches('[').split(']').next()?;
                    is_word(name).then_some((at, name))
                });
                for (at, name) in sections.filter(|(_, name)| !NO_SECTIONS.contains(name)) {
                    *tried += 1;
                    let Some(section) = schema.section(name) else {
                        faults.push(format!("no section of the configuration: [{name}]"));
                        continue;
                    };
                    // "`key` in [section]"
                    if let Some(key) = before.filter(|_| &prose[..at] == " in ")
                        && section.get(key).is_none()
                    {
                        faults.push(format!("[{name}] has no `{key}`"));
                    }
                    let after = prose[at..].split_once("] ").map_or("", |(_, after)| after);
                    let word = after.split([' ', ',', ';', ':']).next().unwrap_or_default();
                    if section.get(word).is_some() {
                        faults.push(format!("write `{word}` in [{name}]: {prose}"));
                    }
                }
                // A text of several lines may be a file.
                for (at, _) in prose.match_indices(" = ").filter(|_| !text.contains('\n')) {
                    let word = prose[..at].rsplit(|c: char| !c.is_ascii_lowercase() && c != '_').next();
                    if word.is_some_and(|word| !word.is_empty() && schema.has(word)) {
                        faults.push(format!("put the line in backticks: {prose}"));
                    }
                }
                before = None;
            }
        }
    }
    faults
}

/// Every key, section and value of the configuration file that a message names is one that the schema has.
#[test]
fn remedies_that_are_keys_exist() {
    let (schema, mut tried) = (Schema::read(), 0);
    assert_each("keys of the configuration", |message| faults(&schema, &message.text, &mut tried));
    assert!(tried > 100, "only {tried} keys were found");
}

/// A key that the file does not have, or not there, is noticed; so is a value that it does not take.
#[test]
fn keys_are_found_in_messages() {
    let (schema, mut tried) = (Schema::read(), 0);
    for (text, fault) in [
        ("set `address` in [uplink], or use `kind = \"packet\"`", ""),
        ("write `vlan = { trunk = [10, 20], native = 1 }`", ""),
        ("`mtu = {mtu}` is configured; a [[peer]] with `name = \"{peer}\"`", ""),
        ("add a line `mtu = ...`", ""),
        ("raise `frames`", "no key"),
        ("raise `fdb_max` in [limits]", "no section"),
        ("set `vni` in [uplink]", "has no `vni`"),
        ("use `kind = \"sockets\"`", "does not take"),
        ("use `mtu = \"large\"`", "does not take"),
        ("set [uplink] address", "write `address` in [uplink]"),
        ("or kind = \"packet\"", "in backticks"),
    ] {
        let found = faults(&schema, text, &mut tried);
        assert_eq!(found.len(), usize::from(!fault.is_empty()), "{text}: {found:?}");
        assert!(found.iter().all(|found| found.contains(fault)), "{text}: {found:?}");
    }
    assert!(schema.takes("mtu", &json!(1400)));
}

/// Every option that a message names is one of `ivctl` or of the daemon.
#[test]
fn remedies_that_are_options_exist() {
    fn collect(command: &clap::Command, found: &mut BTreeSet<String>) {
        found.extend(command.get_arguments().filter_map(|a| a.get_long()).map(str::to_owned));
        command.get_subcommands().for_each(|below| collect(below, found));
    }
    let mut command = Cli::command();
    command.build();
    let mut options = BTreeSet::new();
    collect(&command, &mut options);
    let daemon = include_str!("../../../../../dataplane/ivswitchd/src/main.rs");
    let of_daemon = |option: &str| daemon.contains(&format!("\n    {}: ", option.replace('-', "_")));
    assert!(of_daemon("admin-group") && !of_daemon("frames"));
    let mut tried = 0;
    assert_each("options", |message| {
        // It takes the options of another program.
        if message.file.contains("ovs-vsctl") || message.file.ends_with("sysdump.rs") {
            return Vec::new();
        }
        let prose = message.text.replace("`cargo build --release", "");
        // An argument of a program that is run stands alone.
        let named = prose.split([' ', '`', '(', '\n']).filter_map(|word| word.strip_prefix("--"));
        let named = named.filter(|_| message.text.contains(' '));
        let named = named.map(|word| {
            word.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap_or_default()
        });
        let missing = |option: &&str| {
            tried += 1;
            !options.contains(*option) && !of_daemon(option)
        };
        named
            .filter(|option| option.starts_with(|c: char| c.is_ascii_lowercase()))
            .filter(missing)
            .map(|o| format!("no option --{o}: {}", message.text))
            .collect()
    });
    assert!(tried > 20, "only {tried} options were found");
}
