//! Prints rows: one value, a list, or the rows that match a condition.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ctl::api::PortRow;
use serde_json::{Value, json};

use crate::commands::Call;
use crate::parse::{Command, Format, Request, setting, unquoted};
use crate::store::Row;

/// A row: the name by which commands find it, and its columns as OVSDB has them.
struct Record {
    name: String,
    columns: BTreeMap<&'static str, Value>,
}

impl Call<'_> {
    /// All rows of a table.
    fn records(&mut self, table: &str) -> Result<Vec<Record>, String> {
        let store = self.store;
        match table {
            "bridge" => Ok(self
                .networks()?
                .into_iter()
                .map(|n| {
                    let kept = store.get(&format!("bridge:{}", n.name)).unwrap_or_default();
                    let mut columns = columns(&n.name, &kept);
                    columns.insert("datapath-type", json!("system"));
                    Record { name: n.name, columns }
                })
                .collect()),
            "port" | "interface" => Ok(self
                .ports()?
                .into_iter()
                .map(|port| {
                    let kept = store.get(&port.ifname).unwrap_or_default();
                    let columns =
                        if table == "port" { of_port(&port, &kept) } else { of_interface(&port, &kept) };
                    Record { name: port.ifname, columns }
                })
                .collect()),
            "qos" | "queue" => Ok(store.rows(table).into_iter().map(|row| of_row(&row)).collect()),
            _ => Err(format!("table {table} is not supported: there is no OVSDB here")),
        }
    }

    /// The row with this name; a port is also found by its interface or socket.
    fn record(&mut self, table: &str, name: &str) -> Result<Option<Record>, String> {
        let name = match table {
            "port" | "interface" => self.port(name)?.map_or_else(|| name.to_owned(), |row| row.ifname),
            _ => name.to_owned(),
        };
        Ok(self.records(table)?.into_iter().find(|r| r.name == name))
    }

    pub(crate) fn get(
        &mut self,
        table: &str,
        name: &str,
        wanted: &[&str],
        if_exists: bool,
        text: &mut String,
    ) -> Result<(), String> {
        let Some(record) = self.record(table, name)? else {
            return if if_exists { Ok(()) } else { Err(format!("no row \"{name}\" in table {table}")) };
        };
        for word in wanted {
            let (column, key) = word.split_once(':').map_or((*word, None), |(c, k)| (c, Some(unquoted(k))));
            let value = value(&record, table, column)?;
            match key {
                None => _ = writeln!(text, "{}", shown(value, self.request)),
                Some(key) => match in_map(value, key) {
                    Some(value) => {
                        _ = writeln!(
                            text,
                            "\"{}\"",
                            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
                        )
                    }
                    None if if_exists => text.push('\n'),
                    None => return Err(format!("no key {key} in {table} record \"{name}\" column {column}")),
                },
            }
        }
        Ok(())
    }

    pub(crate) fn list(
        &mut self,
        command: &Command,
        table: &str,
        names: &[&str],
        text: &mut String,
    ) -> Result<(), String> {
        if names.is_empty() {
            let records = self.records(table)?;
            return print(&records, table, command, self.request, text);
        }
        let mut records = Vec::new();
        for name in names {
            match self.record(table, name)? {
                Some(record) => records.push(record),
                None if command.lenient => {}
                None => return Err(format!("no row \"{name}\" in table {table}")),
            }
        }
        print(&records, table, command, self.request, text)
    }

    pub(crate) fn find(
        &mut self,
        command: &Command,
        table: &str,
        conditions: &[&str],
        text: &mut String,
    ) -> Result<(), String> {
        let mut records = self.records(table)?;
        for condition in conditions {
            let wanted = setting(condition).ok_or_else(|| format!("{condition}: missing value"))?;
            let mut kept = Vec::new();
            for record in records {
                let is = value(&record, table, &wanted.column)?;
                let is = match &wanted.key {
                    Some(key) => in_map(is, key).cloned(),
                    None => Some(is.clone()),
                };
                if is.is_some_and(|is| {
                    is.as_str().map_or_else(|| is.to_string(), str::to_owned) == wanted.value
                }) {
                    kept.push(record);
                }
            }
            records = kept;
        }
        print(&records, table, command, self.request, text)
    }

    /// The external IDs of a bridge, or one of these.
    pub(crate) fn external_ids(
        &mut self,
        bridge: &str,
        key: Option<&str>,
        text: &mut String,
    ) -> Result<(), String> {
        self.bridge(bridge)?;
        let kept = self.kept("bridge", bridge)?;
        let ids = kept.values.iter().filter_map(|(k, v)| Some((k.strip_prefix("external-ids:")?, v)));
        for (id, value) in ids {
            match key {
                Some(key) if key == id => _ = writeln!(text, "{value}"),
                Some(_) => {}
                None => _ = writeln!(text, "{id}={value}"),
            }
        }
        Ok(())
    }
}

/// The kept values of a column, as a map in OVSDB's form.
fn map(kept: &Row, column: &str) -> Value {
    let prefix = format!("{column}:");
    let pairs = kept.values.iter().filter_map(|(k, v)| Some(json!([k.strip_prefix(&prefix)?, v])));
    json!(["map", pairs.collect::<Vec<_>>()])
}

/// An optional value in OVSDB's form.
fn optional(value: Option<Value>) -> Value {
    value.unwrap_or_else(|| json!(["set", []]))
}

fn columns(name: &str, kept: &Row) -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("-uuid", json!(["uuid", name])),
        ("name", json!(name)),
        ("external-ids", map(kept, "external-ids")),
    ])
}

fn number(kept: &Row, column: &str) -> Option<Value> {
    kept.values.get(column)?.parse::<u64>().ok().map(|n| json!(n))
}

fn of_port(port: &PortRow, kept: &Row) -> BTreeMap<&'static str, Value> {
    let mut columns = columns(&port.ifname, kept);
    let text = |column: &str| kept.values.get(column).map(|v| json!(v));
    columns.insert("tag", optional(number(kept, "tag")));
    let trunks = ["trunks", "trunk"].iter().find_map(|c| kept.values.get(*c));
    let trunks: Vec<u16> =
        trunks.map_or("", String::as_str).split(',').filter_map(|v| v.trim().parse().ok()).collect();
    columns.insert("trunks", json!(["set", trunks]));
    columns.insert("vlan-mode", optional(text("vlan-mode")));
    columns.insert("qos", optional(kept.values.get("qos").map(|uuid| json!(["uuid", uuid]))));
    columns
}

fn of_interface(port: &PortRow, kept: &Row) -> BTreeMap<&'static str, Value> {
    let mut columns = columns(&port.ifname, kept);
    let s = &port.stats64;
    let statistics = [
        ("collisions", 0),
        ("rx_bytes", s.rx.bytes),
        ("rx_dropped", s.rx.dropped),
        ("rx_errors", s.rx.errors),
        ("rx_packets", s.rx.packets),
        ("tx_bytes", s.tx.bytes),
        ("tx_dropped", s.tx.dropped),
        ("tx_errors", s.tx.errors),
        ("tx_packets", s.tx.packets),
    ];
    let kind = match (port.kind.as_str(), port.role.as_str(), port.link == port.ifname) {
        ("vhostuser", ..) => "dpdkvhostuserclient",
        (_, "door", false) => "internal",
        _ => "",
    };
    let up = |up: Option<bool>| optional(up.map(|up| json!(if up { "up" } else { "down" })));
    let failed = (port.state == "failed").then(|| json!(port.why));
    columns.extend([
        ("type", json!(kind)),
        ("mtu", json!(port.mtu)),
        ("mtu-request", optional(number(kept, "mtu-request"))),
        ("mac-in-use", optional(port.address.as_ref().map(|mac| json!(mac)))),
        ("ifindex", optional(port.ifindex.map(|index| json!(index)))),
        ("admin-state", up(port.up)),
        ("link-state", up(port.carrier)),
        ("error", optional(failed)),
        ("ingress-policing-rate", number(kept, "ingress-policing-rate").unwrap_or(json!(0))),
        ("ingress-policing-burst", number(kept, "ingress-policing-burst").unwrap_or(json!(0))),
        ("ingress-policing-kpkts-rate", number(kept, "ingress-policing-kpkts-rate").unwrap_or(json!(0))),
        ("options", map(kept, "options")),
        ("statistics", json!(["map", statistics.map(|(k, v)| json!([k, v]))])),
    ]);
    columns
}

fn of_row(row: &Row) -> Record {
    let mut columns = columns(&row.uuid, row);
    columns.remove("name");
    columns.insert("other-config", map(row, "other-config"));
    if row.table == "qos" {
        columns.insert("type", json!(row.values.get("type").map_or("", String::as_str)));
        columns.insert("queues", map(row, "queues"));
    }
    Record { name: row.uuid.clone(), columns }
}

fn value<'r>(record: &'r Record, table: &str, column: &str) -> Result<&'r Value, String> {
    let column = column.replace('_', "-");
    record.columns.get(column.as_str()).ok_or_else(|| {
        let known: Vec<String> = record.columns.keys().map(|c| c.replace('-', "_")).collect();
        format!("table {table} has no column {} here; it has {}", column.replace('-', "_"), known.join(", "))
    })
}

fn in_map<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    value[1].as_array()?.iter().find(|pair| pair[0] == key).map(|pair| &pair[1])
}

/// A value in the requested format.
fn shown(value: &Value, request: &Request) -> String {
    if request.json {
        return value.to_string();
    }
    match (value[0].as_str(), &value[1]) {
        (Some("uuid"), uuid) => uuid.as_str().unwrap_or_default().to_owned(),
        (Some("set"), list) => {
            let parts: Vec<String> =
                list.as_array().into_iter().flatten().map(|v| shown(v, request)).collect();
            if request.bare { parts.join(" ") } else { format!("[{}]", parts.join(", ")) }
        }
        (Some("map"), list) => {
            let pairs = list.as_array().into_iter().flatten();
            let parts: Vec<String> =
                pairs.map(|pair| format!("{}={}", shown(&pair[0], request), quoted(&pair[1]))).collect();
            if request.bare { parts.join(" ") } else { format!("{{{}}}", parts.join(", ")) }
        }
        _ => value.as_str().map_or_else(
            || value.to_string(),
            |text| if text.is_empty() { "\"\"".to_owned() } else { text.to_owned() },
        ),
    }
}

fn quoted(value: &Value) -> String {
    match value.as_str() {
        Some(text) if !text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) => {
            format!("\"{text}\"")
        }
        Some(text) => text.to_owned(),
        None => value.to_string(),
    }
}

fn print(
    records: &[Record],
    table: &str,
    command: &Command,
    request: &Request,
    text: &mut String,
) -> Result<(), String> {
    let headings: Vec<String> = if command.columns.is_empty() {
        records.first().map(|r| r.columns.keys().map(|c| (*c).to_owned()).collect()).unwrap_or_default()
    } else {
        command.columns.clone()
    };
    let mut data: Vec<Vec<&Value>> = Vec::new();
    for record in records {
        data.push(headings.iter().map(|column| value(record, table, column)).collect::<Result<_, _>>()?);
    }
    let spelled = |column: &str| column.replace('-', "_");
    match request.format {
        Format::Json => {
            let headings: Vec<String> = headings.iter().map(|c| spelled(c)).collect();
            let _ = writeln!(text, "{}", json!({ "headings": headings, "data": data }));
        }
        Format::List => {
            for (n, row) in data.iter().enumerate() {
                if n > 0 && row.len() > 1 {
                    text.push('\n');
                }
                for (column, value) in headings.iter().zip(row) {
                    let value = shown(value, request);
                    let _ = if request.bare {
                        writeln!(text, "{value}")
                    } else {
                        writeln!(text, "{:<20}: {value}", spelled(column))
                    };
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(format: Format, json: bool, bare: bool) -> Request {
        Request { timeout: 1.0, format, json, bare, oneline: false, commands: Vec::new() }
    }

    fn record() -> Record {
        let values = [("external-ids:id", "a b"), ("external-ids:x", "1")];
        let kept = Row { values: values.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), ..Row::default() };
        let mut columns = columns("t0", &kept);
        columns.insert("tag", json!(["set", []]));
        columns.insert("trunks", json!(["set", [1, 2]]));
        Record { name: "t0".into(), columns }
    }

    fn printed(columns: &[&str], request: &Request) -> Result<String, String> {
        let columns = columns.iter().map(|c| (*c).to_owned()).collect();
        let command = Command { lenient: false, columns, id: None, words: Vec::new() };
        let mut text = String::new();
        print(&[record(), record()], "port", &command, request, &mut text).map(|()| text)
    }

    /// The formats that libvirt and os-vif read.
    #[test]
    fn rows_are_printed_as_asked() {
        let plain = request(Format::List, false, false);
        let bare = request(Format::List, true, true);
        assert_eq!(printed(&["-uuid"], &bare).unwrap(), "[\"uuid\",\"t0\"]\n[\"uuid\",\"t0\"]\n");
        assert_eq!(printed(&["-uuid"], &request(Format::List, false, true)).unwrap(), "t0\nt0\n");
        let text = printed(&["external-ids", "tag", "trunks"], &plain).unwrap();
        let one = "external_ids        : {id=\"a b\", x=1}\ntag                 : []\ntrunks              : [1, 2]\n";
        assert_eq!(text, format!("{one}\n{one}"));
        let json = printed(&["name", "external-ids"], &request(Format::Json, false, false)).unwrap();
        let row = json!(["t0", ["map", [["id", "a b"], ["x", "1"]]]]);
        assert_eq!(
            json,
            format!("{}\n", json!({ "headings": ["name", "external_ids"], "data": [row, row] }))
        );
        assert!(printed(&["frob"], &plain).unwrap_err().contains("no column frob"));
    }
}
