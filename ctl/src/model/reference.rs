//! The reference of the configuration file, for people: as Markdown for the book, and as the man page
//! ivswitch.toml(5). Both come from the JSON Schema, so no list is kept twice.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use super::schema::schema;

/// A table of the file.
struct Table {
    /// The heading as it is written: `[uplink]`, `[[port]]`; empty for the keys above all tables.
    heading: String,
    about: String,
    keys: Vec<Key>,
}

/// A key of a table.
struct Key {
    name: String,
    is: String,
    required: bool,
    about: String,
    /// The words that the key accepts, each with its meaning.
    words: Vec<(String, String)>,
}

/// The reference as Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from("# The configuration file\n");
    for table in tables() {
        let heading = if table.heading.is_empty() { "Above all tables" } else { &table.heading };
        let _ = writeln!(out, "\n## {heading}\n\n{}\n", table.about);
        out += "| Key | | Meaning |\n|---|---|---|\n";
        for key in table.keys {
            let required = if key.required { ", required" } else { "" };
            let words = key.words.iter().map(|(word, about)| format!(" `{word}`: {about}"));
            let about = key.about + &words.collect::<String>();
            let _ = writeln!(
                out,
                "| `{}` | {}{required} | {} |",
                key.name,
                key.is,
                about.replace('\n', " ").replace('|', "\\|")
            );
        }
    }
    out
}

/// The reference as a man page.
#[must_use]
pub fn man() -> String {
    let mut out = String::from(
        ".TH ivswitch.toml 5 \"\" \"Inception Switch\"\n.SH NAME\nivswitch.toml \\- configuration of ivswitchd(8)\n\
         .SH SYNOPSIS\n.I /etc/ivswitch/ivswitch.toml\n.br\n.I /etc/ivswitch/ivswitch.toml.d/*.toml\n\
         .SH DESCRIPTION\nOne TOML file describes one rVM completely; the files of the directory add to it, \
         in the order of their names. ivctl(1) edits only the main file. If a file has an unknown key, a \
         wrong value or a contradiction, the whole configuration is refused, and the previous one stays in \
         force. Keys are optional unless marked as required.\n",
    );
    for table in tables() {
        let heading = if table.heading.is_empty() { "ABOVE ALL TABLES" } else { &table.heading };
        let _ = writeln!(out, ".SH \"{}\"\n{}", roff(heading), roff(&table.about));
        for key in table.keys {
            let required = if key.required { ", required" } else { "" };
            let _ = writeln!(
                out,
                ".TP\n\\fB{}\\fR ({}{required})\n{}",
                roff(&key.name),
                roff(&key.is),
                roff(&key.about)
            );
            for (word, about) in key.words {
                let _ = writeln!(out, ".RS\n.TP\n\\fB\"{}\"\\fR\n{}\n.RE", roff(&word), roff(&about));
            }
        }
    }
    out + ".SH SEE ALSO\nivswitchd(8), ivctl(1); \\fBivctl config schema\\fR prints the JSON Schema.\n"
}

/// Escapes text for roff, and sets quoted words in bold.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let mut out = String::new();
    for (n, part) in text.split('`').enumerate() {
        out += match n {
            0 => "",
            _ if n % 2 == 1 => "\\fB",
            _ => "\\fR",
        };
        out += part;
    }
    if out.starts_with(['.', '\'']) { format!("\\&{out}") } else { out }
}

fn tables() -> Vec<Table> {
    // This is our own text, which the tests parse.
    let schema: Value = serde_json::from_str(&schema()).unwrap_or_default();
    let mut tables = Vec::new();
    table(&schema, &schema, String::new(), &mut tables);
    tables
}

/// Adds an object and the objects inside it, in the order of reading: plain keys, then tables, then lists of tables.
fn table(root: &Value, object: &Value, path: String, tables: &mut Vec<Table>) {
    let required: BTreeSet<&str> =
        object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut keys = Vec::new();
    let mut inner = Vec::new();
    for (name, property) in object["properties"].as_object().into_iter().flatten() {
        let about = text_of(property).to_owned();
        let shape = resolve(root, property);
        let item = resolve(root, &shape["items"]);
        let of = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if item["properties"].is_object() {
            inner.push((format!("[[{of}]]"), item, about));
        } else if shape["properties"].is_object() {
            inner.push((format!("[{of}]"), shape, about));
        } else {
            let (is, words) = describe(root, shape);
            let required = required.contains(name.as_str());
            keys.push(Key { name: name.clone(), is, required, about, words });
        }
    }
    keys.sort_by_key(|key| !key.required);
    inner.sort_by_key(|(heading, ..)| heading.starts_with("[["));
    let about = text_of(object).to_owned();
    if !keys.is_empty() {
        tables.push(Table { heading: path.clone(), about, keys });
    }
    for (heading, object, about) in inner {
        let at = tables.len();
        table(root, object, heading.trim_matches(['[', ']']).to_owned(), tables);
        if let Some(first) = tables.get_mut(at) {
            first.heading = heading;
            first.about = about;
        }
    }
}

fn text_of(value: &Value) -> &str {
    value["description"].as_str().unwrap_or_default()
}

/// The definition of a property, without references and the `null` of optional properties.
fn resolve<'a>(root: &'a Value, value: &'a Value) -> &'a Value {
    if let Some(name) = value["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
        return resolve(root, &root["$defs"][name]);
    }
    let mut others = value["anyOf"].as_array().into_iter().flatten().filter(|one| one["type"] != "null");
    match (others.next(), others.next()) {
        (Some(only), None) => resolve(root, only),
        _ => value,
    }
}

/// The type of a value in a few words, and the words that it accepts.
fn describe(root: &Value, shape: &Value) -> (String, Vec<(String, String)>) {
    let list = |key: &str| shape[key].as_array().into_iter().flatten();
    let words: Vec<(String, String)> = list("oneOf")
        .chain(list("anyOf"))
        .map(|one| (one, resolve(root, one)))
        .flat_map(|(_, one)| if one["oneOf"].is_array() { describe(root, one).1 } else { word(one) })
        .collect();
    if !words.is_empty() {
        let numbers = list("anyOf").any(|one| one["type"] == "integer");
        return (if numbers { "number or word" } else { "word" }.to_owned(), words);
    }
    let kinds = match &shape["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        kind => kind.as_str(),
    };
    let is = match (kinds.unwrap_or_default(), shape["format"].as_str(), shape["pattern"].as_str()) {
        ("array", ..) => {
            let (of, words) = describe(root, resolve(root, &shape["items"]));
            return (format!("list: {of}"), words);
        }
        ("integer", ..) => "number",
        ("boolean", ..) => "true or false",
        ("string", Some("ip" | "ipv4" | "ipv6"), _) => "IP address",
        ("string", _, Some(pattern)) if pattern.contains("xX") => "bits, `0x` and hexadecimal digits",
        ("string", _, Some(pattern)) if pattern.contains("tcp|udp") => "`tcp/PORT`, `udp/FROM-TO`",
        ("string", _, Some(pattern)) if pattern.ends_with(")?$") => "IP address or prefix",
        ("string", _, Some(pattern)) if pattern.contains("[:-]") => "MAC address",
        ("string", _, Some(_)) => "prefix",
        _ => "text",
    };
    (is.to_owned(), Vec::new())
}

fn word(one: &Value) -> Vec<(String, String)> {
    let word = one["const"].as_str();
    word.map(|word| (word.to_owned(), text_of(one).to_owned())).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key of the schema is a row of its table, with text; every word that a key accepts is there.
    #[test]
    fn the_reference_has_every_key() {
        let schema: Value = serde_json::from_str(&schema()).unwrap();
        let (page, man) = (markdown(), man());
        let mut objects = vec![&schema];
        objects.extend(schema["$defs"].as_object().unwrap().values());
        let mut count = 0;
        for (name, property) in objects.iter().filter_map(|object| object["properties"].as_object()).flatten()
        {
            let table = page.contains(&format!("[{name}]")) || page.contains(&format!(".{name}]"));
            assert!(table || page.contains(&format!("\n| `{name}` |")), "{name}");
            assert!(table || man.contains(&format!("\n\\fB{}\\fR (", roff(name))), "{name}");
            assert!(!text_of(property).is_empty(), "{name}: says nothing of itself");
            count += 1;
        }
        assert!(count > 60, "{count}");
        for word in ["vhostuser", "guest", "native", "auto"] {
            assert!(page.contains(&format!("`{word}`: ")), "{word}: {page}");
        }
        assert!(
            page.contains("## [[port]]") && page.contains("## [port.vlan]") && page.contains("## [uplink]")
        );
        assert!(page.lines().all(|line| !line.starts_with("| `") || !line.contains("| text, required | |")));
    }

    /// The book's page matches the schema. `IVS_UPDATE=1 cargo test -p ctl reference` updates it.
    #[test]
    fn the_book_is_current() {
        const PAGE: &str =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/book/src/reference/configuration.md");
        if std::env::var_os("IVS_UPDATE").is_some() {
            std::fs::write(PAGE, markdown()).unwrap();
        }
        let how = "the model changed: `IVS_UPDATE=1 cargo test -p ctl reference`, and look at the difference";
        assert!(std::fs::read_to_string(PAGE).unwrap_or_default() == markdown(), "{how}");
        assert!(
            markdown().lines().all(|line| !line.starts_with('|') || line.ends_with('|')),
            "a row is a line"
        );
    }

    #[test]
    fn text_for_roff() {
        assert_eq!(roff("a `b-c` d"), "a \\fBb\\-c\\fR d");
        assert_eq!(roff(".x"), "\\&.x");
    }
}
