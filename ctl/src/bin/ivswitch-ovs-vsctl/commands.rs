//! What each command does here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ctl::api::{Edited, NetworkRow, PortRow, Rows, Status};
use ctl::cli::Client;
use serde_json::{Value, json};

use crate::parse::{Command, Request, setting};
use crate::store::{Row, Store};

/// What later commands of the same call say about a port that an earlier one adds.
struct Call<'a> {
    request: &'a Request,
    client: &'a mut Client,
    store: &'a Store,
    /// Names like `@qos1` and the UUIDs they stand for.
    names: BTreeMap<String, String>,
}

/// Carries out a whole call; gives what it prints.
///
/// # Errors
/// With the first command that fails. A port added by the same call is taken away again, since OVS's calls are whole
/// or nothing.
pub fn run(request: &Request, client: &mut Client, store: &Store) -> Result<String, String> {
    let mut names = BTreeMap::new();
    for id in request.commands.iter().filter_map(|c| c.id.clone()) {
        names.insert(id, uuid()?);
    }
    let mut call = Call { request, client, store, names };
    let mut text = String::new();
    let mut added = Vec::new();
    for command in &request.commands {
        match call.one(command, &mut text, &mut added) {
            Ok(()) => {}
            Err(why) => {
                for port in added {
                    let _ = call.edit("port.del", json!({ "name": port, "if_exists": true }));
                    store.del(&port);
                }
                return Err(why);
            }
        }
    }
    Ok(text)
}

fn uuid() -> Result<String, String> {
    let path = "/proc/sys/kernel/random/uuid";
    std::fs::read_to_string(path).map(|u| u.trim().to_owned()).map_err(|e| format!("{path}: {e}"))
}

impl Call<'_> {
    fn edit(&mut self, method: &str, params: Value) -> Result<(), String> {
        self.client.call::<Edited>(method, params).map(|_| ()).map_err(|e| e.to_string())
    }

    fn ports(&mut self) -> Result<Vec<PortRow>, String> {
        let rows: Rows<PortRow> = self.client.call("port.list", json!({})).map_err(|e| e.to_string())?;
        Ok(rows.rows.into_iter().filter(|p| p.role != "uplink").collect())
    }

    fn networks(&mut self) -> Result<Vec<NetworkRow>, String> {
        let rows: Rows<NetworkRow> =
            self.client.call("network.list", json!({})).map_err(|e| e.to_string())?;
        Ok(rows.rows)
    }

    /// The port of this name, or of the vhost-user socket or interface of this name.
    fn port(&mut self, name: &str) -> Result<Option<PortRow>, String> {
        let is = |p: &PortRow| p.ifname == name || p.link == name || p.link.rsplit('/').next() == Some(name);
        Ok(self.ports()?.into_iter().find(is))
    }

    fn one(&mut self, command: &Command, text: &mut String, added: &mut Vec<String>) -> Result<(), String> {
        let words: Vec<&str> = command.words.iter().map(String::as_str).collect();
        let lower = |table: &str| table.to_ascii_lowercase();
        match *words.as_slice() {
            ["add-port", bridge, port, ref settings @ ..] => {
                self.add_port(bridge, port, settings, command.lenient)?;
                added.push(port.to_owned());
            }
            ["del-port", port] | ["del-port", _, port] => self.del_port(port, command.lenient)?,
            ["add-br", bridge] => self.add_bridge(bridge, command.lenient)?,
            ["del-br", bridge] => self.del_bridge(bridge, command.lenient)?,
            ["br-exists", bridge] => {
                if !self.networks()?.iter().any(|n| n.name == bridge) {
                    return Err(format!("no bridge named {bridge}"));
                }
            }
            ["list-br"] => self.networks()?.iter().for_each(|n| _ = writeln!(text, "{}", n.name)),
            ["list-ports" | "list-ifaces", bridge] => {
                let on = |p: &&PortRow| p.network.as_deref() == Some(bridge);
                self.ports()?.iter().filter(on).for_each(|p| _ = writeln!(text, "{}", p.ifname));
            }
            ["port-to-br" | "iface-to-br", port] => {
                let row = self.port(port)?.ok_or_else(|| format!("no port named {port}"))?;
                let _ = writeln!(text, "{}", row.network.unwrap_or_default());
            }
            ["set", table, port, ref settings @ ..] => match lower(table).as_str() {
                "interface" | "port" => self.set(port, settings, command.lenient)?,
                table => return Err(format!("unknown table \"{table}\"")),
            },
            ["clear", _, port, ref columns @ ..] => {
                let cleared: Vec<_> = columns.iter().map(|c| (c.replace('_', "-"), String::new())).collect();
                self.change(port, &cleared, command.lenient)?;
            }
            ["remove", _, port, column, ..] => {
                self.change(port, &[(column.replace('_', "-"), String::new())], true)?;
            }
            ["get", table, port, column] if lower(table) == "interface" => {
                self.get(port, column, command.lenient, text)?;
            }
            ["list", table, port, ref columns @ ..] => {
                self.list(&lower(table), port, columns, command.lenient, text)?;
            }
            ["find", table, ref conditions @ ..] => {
                let wanted: Vec<_> = conditions.iter().filter_map(|c| setting(c)).collect();
                for row in self.store.rows(&lower(table)) {
                    let has = |(column, key, value): &(String, Option<String>, String)| {
                        row.values.get(&full(column, key.as_deref())) == Some(value)
                    };
                    if wanted.iter().all(has) {
                        let _ = writeln!(text, "{}", row.uuid);
                    }
                }
            }
            ["create", table, ref settings @ ..] => {
                let uuid = match command.id.as_ref().and_then(|id| self.names.get(id)) {
                    Some(uuid) => uuid.clone(),
                    None => uuid()?,
                };
                let values = settings.iter().filter_map(|s| setting(s));
                let values = values.map(|(c, k, v)| (full(&c, k.as_deref()), v)).collect();
                self.store.put(&uuid, &Row { table: lower(table), uuid: uuid.clone(), values })?;
                let _ = writeln!(text, "{uuid}");
            }
            ["destroy", _, ref rows @ ..] => rows.iter().for_each(|uuid| self.store.del(uuid)),
            ["show"] => {
                for network in self.networks()? {
                    let _ = writeln!(text, "    Bridge {}", network.name);
                    network.ports.iter().for_each(|p| _ = writeln!(text, "        Port {p}"));
                }
            }
            _ => {
                let what = words.join(" ");
                return Err(format!("'{what}' is none of what ivswitch-ovs-vsctl knows (what libvirt uses)"));
            }
        }
        Ok(())
    }

    fn add_port(
        &mut self,
        bridge: &str,
        port: &str,
        settings: &[&str],
        may_exist: bool,
    ) -> Result<(), String> {
        if !self.networks()?.iter().any(|n| n.name == bridge) {
            return Err(format!(
                "no bridge named {bridge}: add the network, ivctl network add {bridge} --vni VNI"
            ));
        }
        // libvirt says in the same call which MAC is attached; the binding begins with the port.
        let of_port =
            self.request.commands.iter().filter(|c| c.words.get(2).is_some_and(|name| name == port));
        let mac =
            of_port.flat_map(|c| &c.words).filter_map(|w| setting(w)).find_map(|(column, key, value)| {
                (column == "external-ids" && key.as_deref() == Some("attached-mac")).then_some(value)
            });
        // libvirt lets the guest leave checksums and segmentation to us: a packet socket carries the notes on them.
        let mut object = json!({ "name": port, "network": bridge, "interface": port, "kind": "packet" });
        if let Some(mac) = mac {
            object["role"] = json!("guest");
            object["mac"] = json!([mac.to_ascii_lowercase()]);
        }
        let pairs: Vec<_> = settings.iter().filter_map(|s| setting(s)).map(|(c, _, v)| (c, v)).collect();
        if let Some(vlan) = vlan(&pairs)? {
            object["vlan"] = vlan;
        }
        if may_exist && self.port(port)?.is_some_and(|p| p.network.as_deref() == Some(bridge)) {
            object.as_object_mut().expect("made so").remove("name");
            return self.edit("port.set", json!({ "name": port, "set": object }));
        }
        self.edit("port.add", json!({ "object": object }))?;
        // Kept too, so that a later change of one column knows the others.
        self.change(port, &pairs, false)
    }

    fn del_port(&mut self, port: &str, if_exists: bool) -> Result<(), String> {
        self.edit("port.del", json!({ "name": port, "if_exists": if_exists }))?;
        self.store.del(port);
        Ok(())
    }

    /// libvirt reads the MTU of an interface of the bridge's name before it asks anybody, so there has to be one: a TAP
    /// without anybody behind it, which carries nothing.
    fn add_bridge(&mut self, bridge: &str, may_exist: bool) -> Result<(), String> {
        let status: Status = self.client.call("status", json!({})).map_err(|e| e.to_string())?;
        if !status.networks.iter().any(|n| n.name == bridge) {
            return Err(format!("no network {bridge}: ivctl network add {bridge} --vni VNI"));
        }
        if std::path::Path::new("/sys/class/net").join(bridge).exists() {
            let exists = || Err(format!("there is an interface {bridge} already"));
            return if may_exist { Ok(()) } else { exists() };
        }
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

    fn set(&mut self, port: &str, settings: &[&str], if_exists: bool) -> Result<(), String> {
        let mut values = Vec::new();
        for word in settings {
            let (column, key, value) = setting(word).ok_or_else(|| format!("{word}: missing value"))?;
            let value = self.names.get(&value).cloned().unwrap_or(value);
            values.push((full(&column, key.as_deref()), value));
        }
        self.change(port, &values, if_exists)
    }

    /// Changes columns of a port: VLANs and MAC in the switch, the rest in our files. An empty value is none.
    fn change(&mut self, port: &str, values: &[(String, String)], if_exists: bool) -> Result<(), String> {
        let Some(row) = self.port(port)? else {
            return if if_exists { Ok(()) } else { Err(format!("no row \"{port}\" in table Port")) };
        };
        let mut kept = self.store.get(&row.ifname).unwrap_or_default();
        (kept.table, kept.uuid) = ("port".to_owned(), row.ifname.clone());
        let before = kept.clone();
        for (key, value) in values {
            if value.is_empty() {
                kept.values.remove(key)
            } else {
                kept.values.insert(key.clone(), value.clone())
            };
        }
        if values.iter().any(|(key, _)| matches!(key.as_str(), "tag" | "trunk" | "trunks" | "vlan-mode")) {
            let pairs: Vec<_> = kept.values.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            let set = json!({ "vlan": vlan(&pairs)? });
            self.edit("port.set", json!({ "name": row.ifname, "set": set }))?;
        }
        let mac = values.iter().find(|(key, value)| key == "external-ids:attached-mac" && !value.is_empty());
        if let Some((_, mac)) = mac
            && row.role == "guest"
        {
            let set = json!({ "mac": [mac.to_ascii_lowercase()] });
            self.edit("port.set", json!({ "name": row.ifname, "set": set }))?;
        }
        if kept == before { Ok(()) } else { self.store.put(&row.ifname, &kept) }
    }

    fn get(&mut self, port: &str, column: &str, if_exists: bool, text: &mut String) -> Result<(), String> {
        let Some(row) = self.port(port)? else {
            return if if_exists { Ok(()) } else { Err(format!("no row \"{port}\" in table Interface")) };
        };
        let (column, key) = column.split_once(':').map_or((column, None), |(c, k)| (c, Some(k)));
        if column == "name" {
            let _ = writeln!(text, "{}", row.ifname);
            return Ok(());
        }
        let key = full(&column.replace('_', "-"), key);
        match self.store.get(&row.ifname).and_then(|kept| kept.values.get(&key).cloned()) {
            Some(value) => _ = writeln!(text, "\"{value}\""),
            None if if_exists => text.push('\n'),
            None => return Err(format!("no key {key} in Interface record \"{port}\"")),
        }
        Ok(())
    }

    fn list(
        &mut self,
        table: &str,
        port: &str,
        columns: &[&str],
        if_exists: bool,
        text: &mut String,
    ) -> Result<(), String> {
        let Some(row) = self.port(port)? else {
            return if if_exists { Ok(()) } else { Err(format!("no row \"{port}\" in table {table}")) };
        };
        let asked = |name: &str| self.request.columns.iter().any(|c| c == name) || columns.contains(&name);
        if table == "interface" && asked("statistics") {
            let s = &row.stats64;
            let pairs = [
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
            let map = json!(["map", pairs.map(|(k, v)| json!([k, v]))]);
            let _ = if self.request.list {
                writeln!(text, "statistics          : {map}")
            } else {
                writeln!(text, "{map}")
            };
        } else if let Some(uuid) =
            self.store.get(&row.ifname).and_then(|kept| kept.values.get("qos").cloned())
        {
            let _ = writeln!(text, "{uuid}");
        }
        Ok(())
    }
}

fn full(column: &str, key: Option<&str>) -> String {
    key.map_or(column.to_owned(), |key| format!("{column}:{key}"))
}

/// The VLAN rules of a port, from OVS's columns.
fn vlan(pairs: &[(String, String)]) -> Result<Option<Value>, String> {
    let get =
        |name: &[&str]| pairs.iter().find(|(key, _)| name.contains(&key.as_str())).map(|(_, v)| v.as_str());
    let number = |text: &str| text.trim().parse::<u16>().map_err(|_| format!("{text} is no VLAN"));
    let tag = get(&["tag"]).map(number).transpose()?;
    let trunk = get(&["trunk", "trunks"]);
    let list = trunk.map(|t| t.split(',').map(number).collect::<Result<Vec<_>, _>>()).transpose()?;
    match (list, tag, get(&["vlan-mode"])) {
        (None, None, _) => Ok(None),
        (Some(trunk), Some(native), Some("native-untagged")) => {
            Ok(Some(json!({ "trunk": trunk, "native": native })))
        }
        (Some(trunk), None, None | Some("trunk")) => Ok(Some(json!({ "trunk": trunk }))),
        (None, Some(tag), None | Some("access")) => Ok(Some(json!({ "access": tag }))),
        (_, _, mode) => {
            Err(format!("vlan_mode {} with these VLANs is not supported", mode.unwrap_or("access")))
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = std::process::Command::new("ip").args(arguments).output().map_err(|e| format!("ip: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("ip {}: {said}", arguments.join(" "))) }
}
