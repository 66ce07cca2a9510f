//! Prints a [`Config`], and changes the file in a way that keeps the user's comments.

use std::collections::{BTreeMap, VecDeque};

use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value};

use super::{Config, Section};

/// The text of `config`: every entry is a block with values on one line, and defaults are left out.
#[must_use]
pub fn print(config: &Config) -> String {
    document(config).to_string()
}

/// Changes `text` so that it means `config`, and keeps comments, order and explicit defaults where possible;
/// otherwise prints the whole text again. Either way, the result parses to `config`.
#[must_use]
pub fn rewrite(text: &str, config: &Config) -> String {
    if let (Ok(mut doc), Ok(was)) = (text.parse::<DocumentMut>(), toml::from_str::<Config>(text)) {
        merge(&mut doc, &document(&was), document(config));
        let merged = doc.to_string();
        if toml::from_str::<Config>(&merged).is_ok_and(|c| c == *config) {
            return merged;
        }
    }
    print(config)
}

/// A fresh document for `config`.
fn document(config: &Config) -> DocumentMut {
    // Serialising these types to TOML cannot fail: they have no maps with odd keys, and no numbers beyond i64.
    let mut document = toml_edit::ser::to_document(config).unwrap_or_default();
    for (_, item) in document.iter_mut() {
        shape(item);
    }
    document
}

/// Turns top-level tables into `[x]` and lists of tables into `[[x]]`; everything below stays on its line.
fn shape(item: &mut Item) {
    match std::mem::take(item) {
        Item::Value(Value::InlineTable(table)) => *item = Item::Table(block(table)),
        Item::Value(Value::Array(array)) => {
            let mut blocks = ArrayOfTables::new();
            for value in array {
                if let Value::InlineTable(table) = value {
                    blocks.push(block(table));
                }
            }
            *item = Item::ArrayOfTables(blocks);
        }
        other => *item = other,
    }
}

fn block(table: InlineTable) -> Table {
    let mut table = table.into_table();
    table.set_implicit(false);
    table
}

/// Changes `text`, which means `was`, where `new` differs from `was`.
fn merge(text: &mut DocumentMut, was: &DocumentMut, mut new: DocumentMut) {
    for (key, _) in was.iter().filter(|(k, _)| !new.contains_key(k)) {
        text.remove(key);
    }
    for (key, new) in new.iter_mut() {
        let key = key.get();
        match (text.get_mut(key), was.get(key), new) {
            (Some(Item::Table(text)), Some(Item::Table(was)), Item::Table(new)) => {
                merge_table(text, was, new)
            }
            (Some(Item::ArrayOfTables(text)), Some(Item::ArrayOfTables(was)), Item::ArrayOfTables(new))
                if text.len() == was.len() =>
            {
                merge_list(key, text, was, new)
            }
            (_, Some(was), new) if same(was, new) => {}
            (_, _, new) => {
                text.insert(key, std::mem::take(new));
            }
        }
    }
}

fn merge_list(key: &str, text: &mut ArrayOfTables, was: &ArrayOfTables, new: &ArrayOfTables) {
    let mut kept: Vec<Table> = text.iter().cloned().collect();
    let was: Vec<&Table> = was.iter().collect();
    let mut by_name: BTreeMap<Vec<String>, VecDeque<usize>> = BTreeMap::new();
    for (i, table) in was.iter().enumerate() {
        by_name.entry(called(key, table)).or_default().push_back(i);
    }
    text.clear();
    for table in new.iter() {
        text.push(match by_name.get_mut(&called(key, table)).and_then(VecDeque::pop_front) {
            Some(i) => {
                let mut entry = std::mem::take(&mut kept[i]);
                merge_table(&mut entry, was[i], table);
                entry
            }
            None => table.clone(),
        });
    }
}

/// The text that distinguishes an entry of the list `key` from the others.
fn called(key: &str, table: &Table) -> Vec<String> {
    let keys: &[&str] = match Section::ALL.into_iter().find(|s| s.key() == key) {
        Some(Section::Floating) => &["network", "ip", "only"],
        Some(Section::Route) => &["network", "from"],
        Some(Section::Fdb) => &["network", "vlan", "mac"],
        _ => &["name"],
    };
    keys.iter().map(|k| table.get(k).map(plain).unwrap_or_default()).collect()
}

fn merge_table(text: &mut Table, was: &Table, new: &Table) {
    for (key, _) in was.iter().filter(|(k, _)| !new.contains_key(k)) {
        text.remove(key);
    }
    for (key, value) in new.iter() {
        match (text.get_mut(key), was.get(key)) {
            (Some(_), Some(was)) if same(was, value) => {}
            (Some(Item::Value(text)), _) if value.is_value() => {
                let decor = text.decor().clone();
                if let Item::Value(value) = value {
                    *text = value.clone();
                }
                *text.decor_mut() = decor;
            }
            _ => {
                text.insert(key, value.clone());
            }
        }
    }
}

/// Whether two items have the same meaning, regardless of spacing and comments.
fn same(a: &Item, b: &Item) -> bool {
    plain(a) == plain(b)
}

fn plain(item: &Item) -> String {
    let mut item = item.clone();
    if let Some(value) = item.as_value_mut() {
        strip(value);
    }
    item.to_string()
}

fn strip(value: &mut Value) {
    value.decor_mut().clear();
    match value {
        Value::Array(array) => {
            array.set_trailing("");
            array.set_trailing_comma(false);
            array.iter_mut().for_each(strip);
            array.fmt();
        }
        Value::InlineTable(table) => {
            table.iter_mut().for_each(|(_, v)| strip(v));
            table.fmt();
        }
        _ => {}
    }
}
