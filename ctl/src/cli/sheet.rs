//! One object in full, for people: its state, configuration and counters.

use serde_json::Value;

use super::output::{Paint, plain};
use super::table::wrap;
use crate::api::Configured;
use crate::model::default_words;

/// The longest line, unless a single word is longer.
const WIDTH: usize = 100;

/// A heading, with keys and their values below.
#[derive(Debug, Default)]
pub struct Sheet {
    title: String,
    sections: Vec<(&'static str, Vec<(String, String)>)>,
}

impl Sheet {
    /// Starts a sheet for an object.
    #[must_use]
    pub fn new(noun: &str, name: &str) -> Self {
        Self { title: plain(&format!("{noun} {name}")), sections: Vec::new() }
    }

    /// Starts a section.
    #[must_use]
    pub fn section(mut self, title: &'static str) -> Self {
        self.sections.push((title, Vec::new()));
        self
    }

    /// Adds a line; skips an empty value.
    #[must_use]
    pub fn line(mut self, key: &str, value: impl ToString) -> Self {
        let value = plain(&value.to_string());
        if self.sections.is_empty() {
            self.sections.push(("", Vec::new()));
        }
        if let Some((_, lines)) = self.sections.last_mut().filter(|_| !value.is_empty()) {
            lines.push((plain(key), value));
        }
        self
    }

    /// Adds a line if there is a value.
    #[must_use]
    pub fn some(self, key: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.line(key, value),
            None => self,
        }
    }

    /// Adds the object's configuration: every key with its value, and the keys at their default marked as such.
    /// `noun` is the list's name in the file, or `uplink`.
    #[must_use]
    pub fn configured(mut self, noun: &str, config: Option<&Configured>) -> Self {
        let Some(config) = config else { return self };
        self = self.section("configured");
        for (key, value) in &config.values {
            let is_default = config.defaults.contains(key);
            let text = match (words(value), is_default) {
                (Some(text), false) => text,
                (Some(text), true) => format!("{text} (default)"),
                (None, _) => format!("{} (default)", default_words(noun, key).unwrap_or("none")),
            };
            self = self.line(key, text);
        }
        self.line("in", &config.file)
    }

    /// The text.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let mut text = format!("{}\n", paint.bold(&self.title));
        let keys = self.sections.iter().flat_map(|(_, lines)| lines);
        let width = keys.map(|(key, _)| key.chars().count()).max().unwrap_or(0);
        for (title, lines) in self.sections.iter().filter(|(_, lines)| !lines.is_empty()) {
            if !title.is_empty() {
                text += &format!("\n  {}\n", paint.bold(title));
            }
            for (key, value) in lines {
                let fill = " ".repeat(width - key.chars().count());
                let indent = width + 4;
                for (n, part) in wrap(value, WIDTH.saturating_sub(indent)).iter().enumerate() {
                    text += &match n {
                        0 => format!("  {key}{fill}  {}\n", paint.state(part)),
                        _ => format!("{}{part}\n", " ".repeat(indent)),
                    };
                }
            }
        }
        text
    }
}

/// A value in words; `None` for an empty value.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(list) if list.is_empty() => None,
        Value::Array(list) => Some(list.iter().filter_map(words).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let parts = map.iter().filter_map(|(key, value)| Some(format!("{key} {}", words(value)?)));
            Some(parts.collect::<Vec<_>>().join(", "))
        }
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_sheet_has_everything() {
        let values = json!({ "mtu": null, "name": "g1", "mac": ["02:00:00:00:00:01"], "bum_pps": 10000, "ip": [],
            "vlan": { "access": 5, "trunk": null } });
        let config = Configured {
            values: values.as_object().unwrap().clone(),
            defaults: vec!["mtu".into(), "bum_pps".into(), "ip".into()],
            file: "10-g.toml".into(),
        };
        let sheet = Sheet::new("port", "g1").line("state", "live").line("why", "").some("link", None::<u32>);
        let text = sheet
            .configured("port", Some(&config))
            .section("counters")
            .line("received", "5")
            .render(Paint(false));
        let expected = "port g1\n  state     live\n\n  configured\n  bum_pps   10000 (default)\n  ip        unchecked (default)\n  \
                        mac       02:00:00:00:00:01\n  mtu       the tunnel's capacity for a door that the daemon creates, otherwise the \
                        MTU of the\n            interface itself (default)\n  name      g1\n  vlan      access 5\n  in        10-g.toml\n\n  \
                        counters\n  received  5\n";
        assert_eq!(text, expected, "{text}");
    }

    /// Values of any length are wrapped, never shortened.
    #[test]
    fn long_values_are_wrapped() {
        let networks: Vec<String> = (0..100).map(|n| format!("network-{n}")).collect();
        let text =
            Sheet::new("peer", &"p".repeat(63)).line("networks", networks.join(", ")).render(Paint(false));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(networks.iter().all(|network| text.contains(network.as_str())));
    }
}
