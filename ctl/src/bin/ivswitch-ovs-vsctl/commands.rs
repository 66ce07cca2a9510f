//! A call: its commands, carried out in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ctl::api::{Edited, NetworkRow, PortRow, Rows, Status};
use ctl::cli::Client;
use serde_json::{Value, json};

use crate::columns::check;
use crate::parse::{Command, Request, Setting, setting};
use crate::store::{Row, Store};

/// The result of `br-exists` for a network that does not exist: an answer, not a failure.
pub const NO_SUCH_BRIDGE: &str = "";

/// A call in progress.
pub struct Call<'a> {
    pub(crate) request: &'a Request,
    pub(crate) client: &'a mut Client,
    pub(crate) store: &'a Store,
    /// Names such as `@qos1`, and the UUIDs that they stand for.
    pub(crate) names: BTreeMap<String, String>,
    /// The ports whose limits may have changed through rows of other tables.
    pub(crate) touched: BTreeSet<String>,
}

/// Carries out a whole call, and returns its output.
///
/// # Errors
/// The error of the first command that fails. A port that the same call added is removed again, since OVS's calls are
/// all or nothing.
pub fn run(request: &Request, client: &mut Client, store: &Store) -> Result<String, String> {
    let mut names = BTreeMap::new();
    for id in request.commands.iter().filter_map(|c| c.id.clone()) {
        names.insert(id, uuid()?);
    }
    let mut call = Call { request, client, store, names, touched: BTreeSet::new() };
    let mut text = String::new();
    let mut added = Vec::new();
    let mut all = || -> Result<(), String> {
        for command in &request.commands {
            let mut said = String::new();
            call.one(command, &mut said, &mut added)?;
            text += &if request.oneline { one_line(&said) } else { said };
        }
        call.sync_limits()
    };
    let Err(why) = all() else { return Ok(text) };
    for port in added {
        let _ = call.edit("port.del", json!({ "name": port, "if_exists": true }));
        store.del(&port);
    }
    Err(why)
}

fn one_line(text: &str) -> String {
    text.trim_end_matches('\n').replace('\\', "\\\\").replace('\n', "\\n") + "\n"
}

fn uuid() -> Result<String, String> {
    let path = "/proc/sys/kernel/random/uuid";
    std::fs::read_to_string(path).map(|u| u.trim().to_owned()).map_err(|e| format!("{path}: {e}"))
}

/// The key under which a setting is kept.
pub(crate) fn full(column: &str, key: Option<&str>) -> String {
    key.map_or(column.to_owned(), |key| format!("{column}:{key}"))
}

/// A table's name in the form that comparisons use.
pub(crate) fn table_of(word: &str) -> String {
    word.to_ascii_lowercase().replace('_', "-")
}

impl Call<'_> {
    pub(crate) fn edit(&mut self, method: &str, params: Value) -> Result<(), String> {
        self.client.call::<Edited>(method, params).map(|_| ()).map_err(|e| e.to_string())
    }

    pub(crate) fn ports(&mut self) -> Result<Vec<PortRow>, String> {
        let rows: Rows<PortRow> = self.client.call("port.list", json!({})).map_err(|e| e.to_string())?;
        Ok(rows.rows.into_iter().filter(|p| p.role != "uplink").collect())
    }

    pub(crate) fn networks(&mut self) -> Result<Vec<NetworkRow>, String> {
        let rows: Rows<NetworkRow> =
            self.client.call("network.list", json!({})).map_err(|e| e.to_string())?;
        Ok(rows.rows)
    }

    /// The network that this bridge stands for.
    pub(crate) fn bridge(&mut self, name: &str) -> Result<NetworkRow, String> {
        let there = self.networks()?.into_iter().find(|n| n.name == name);
        there.ok_or_else(|| {
            format!(
                "no bridge named {name}: a bridge is a network: `ivctl network add {name} --vni VNI` makes it"
            )
        })
    }

    /// The port with this name, or with the vhost-user socket or interface of this name.
    pub(crate) fn port(&mut self, name: &str) -> Result<Option<PortRow>, String> {
        let is = |p: &PortRow| p.ifname == name || p.link == name || p.link.rsplit('/').next() == Some(name);
        Ok(self.ports()?.into_iter().find(is))
    }

    /// The settings for a table, each checked; a `@name` stands for its UUID.
    pub(crate) fn settings(&self, table: &str, words: &[&str]) -> Result<Vec<Setting>, String> {
        let read = |word: &&str| {
            let mut found = setting(word).ok_or_else(|| format!("{word}: missing value"))?;
            check(table, &found.column, found.key.as_deref(), &found.value)?;
            if let Some(uuid) = self.names.get(&found.value) {
                found.value.clone_from(uuid);
            }
            Ok(found)
        };
        words.iter().map(read).collect()
    }

    fn one(&mut self, command: &Command, text: &mut String, added: &mut Vec<String>) -> Result<(), String> {
        let words: Vec<&str> = command.words.iter().map(String::as_str).collect();
        let lenient = command.lenient;
        match *words.as_slice() {
            ["init"] => {}
            ["add-port", bridge, port, ref settings @ ..] => {
                if self.add_port(bridge, port, settings, lenient)? {
                    added.push(port.to_owned());
                }
            }
            ["del-port", port] => self.del_port(None, port, lenient)?,
            ["del-port", bridge, port] => self.del_port(Some(bridge), port, lenient)?,
            ["add-br", bridge] => self.add_bridge(bridge, lenient)?,
            ["del-br", bridge] => self.del_bridge(bridge, lenient)?,
            ["br-exists", bridge] => {
                if !self.networks()?.iter().any(|n| n.name == bridge) {
                    return Err(NO_SUCH_BRIDGE.to_owned());
                }
            }
            ["br-to-vlan", bridge] => {
                self.bridge(bridge)?;
                text.push_str("0\n");
            }
            ["br-to-parent", bridge] => _ = writeln!(text, "{}", self.bridge(bridge)?.name),
            ["br-set-external-id", bridge, key, ref value @ ..] if value.len() < 2 => {
                self.bridge(bridge)?;
                let value = value.first().map(|v| (*v).to_owned());
                self.keep("bridge", bridge, &[(full("external-ids", Some(key)), value)])?;
            }
            ["br-get-external-id", bridge] => self.external_ids(bridge, None, text)?,
            ["br-get-external-id", bridge, key] => self.external_ids(bridge, Some(key), text)?,
            ["list-br"] => self.networks()?.iter().for_each(|n| _ = writeln!(text, "{}", n.name)),
            ["list-ports" | "list-ifaces", bridge] => {
                self.bridge(bridge)?.ports.iter().for_each(|p| _ = writeln!(text, "{p}"));
            }
            ["port-to-br" | "iface-to-br", port] => {
                let row = self.port(port)?.ok_or_else(|| format!("no port named {port}"))?;
                let _ = writeln!(text, "{}", row.network.unwrap_or_default());
            }
            ["set", table, record, ref settings @ ..] if !settings.is_empty() => {
                self.set(&table_of(table), record, settings, lenient)?;
            }
            ["clear", table, record, ref columns @ ..] if !columns.is_empty() => {
                self.clear(&table_of(table), record, columns, lenient)?;
            }
            ["remove", table, record, column, ref values @ ..] if !values.is_empty() => {
                self.remove(&table_of(table), record, column, values, lenient)?;
            }
            ["get", table, record, ref columns @ ..] if !columns.is_empty() => {
                self.get(&table_of(table), record, columns, lenient, text)?;
            }
            ["list", table, ref records @ ..] => self.list(command, &table_of(table), records, text)?,
            ["find", table, ref conditions @ ..] => self.find(command, &table_of(table), conditions, text)?,
            ["create", table, ref settings @ ..] => self.create(command, &table_of(table), settings, text)?,
            ["destroy", table, ref rows @ ..] if matches!(table_of(table).as_str(), "qos" | "queue") => {
                for uuid in rows {
                    self.touch_users(uuid);
                    self.store.del(uuid);
                }
            }
            ["show"] => {
                for network in self.networks()? {
                    let _ = writeln!(text, "    Bridge {}", network.name);
                    network.ports.iter().for_each(|p| _ = writeln!(text, "        Port {p}"));
                }
            }
            [] => {}
            [name, ..] => {
                const KNOWN: [&str; 10] = [
                    "add-port", "del-port", "add-br", "del-br", "set", "clear", "remove", "get", "create",
                    "destroy",
                ];
                let why = if KNOWN.contains(&name) {
                    "these arguments are not supported"
                } else {
                    "it is not supported"
                };
                return Err(format!("'{}': {why} by the Inception Switch (see --help)", words.join(" ")));
            }
        }
        Ok(())
    }

    fn create(
        &mut self,
        command: &Command,
        table: &str,
        settings: &[&str],
        text: &mut String,
    ) -> Result<(), String> {
        if !matches!(table, "qos" | "queue") {
            return Err(format!("create {table} is not supported: rows of QoS and Queue are"));
        }
        let uuid = match command.id.as_ref().and_then(|id| self.names.get(id)) {
            Some(uuid) => uuid.clone(),
            None => uuid()?,
        };
        let values = self.settings(table, settings)?;
        let values = values.into_iter().map(|s| (full(&s.column, s.key.as_deref()), s.value)).collect();
        self.store.put(&uuid, &Row { table: table.to_owned(), uuid: uuid.clone(), values })?;
        let _ = writeln!(text, "{uuid}");
        Ok(())
    }

    /// Creates the interface of a bridge. libvirt first reads the MTU of an interface with the bridge's name, so one
    /// must exist: a TAP interface that no program has open, and that carries nothing.
    fn add_bridge(&mut self, bridge: &str, may_exist: bool) -> Result<(), String> {
        self.bridge(bridge)?;
        if std::path::Path::new("/sys/class/net").join(bridge).exists() {
            let exists = || Err(format!("an interface {bridge} exists already"));
            return if may_exist { Ok(()) } else { exists() };
        }
        let status: Status = self.client.call("status", json!({})).map_err(|e| e.to_string())?;
        ip(&["tuntap", "add", "dev", bridge, "mode", "tap"])?;
        let mtu = if status.vtep.is_some() { status.overlay_mtu } else { 1500 };
        ip(&["link", "set", "dev", bridge, "mtu", &mtu.to_string()])
    }

    fn del_bridge(&mut self, bridge: &str, if_exists: bool) -> Result<(), String> {
        let there = std::path::Path::new("/sys/class/net").join(bridge).join("tun_flags").exists();
        match (there, if_exists) {
            (true, _) => ip(&["tuntap", "del", "dev", bridge, "mode", "tap"]),
            (false, true) => Ok(()),
            (false, false) => Err(format!("no bridge named {bridge}")),
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = std::process::Command::new("ip").args(arguments).output().map_err(|e| format!("ip: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("ip {}: {said}", arguments.join(" "))) }
}
