//! Adds, changes and deletes ports and the rows about them.

use ctl::api::PortRow;
use serde_json::{Value, json};

use crate::columns::check_gone;
use crate::commands::{Call, full};
use crate::parse::{Setting, setting, unquoted};
use crate::rates;
use crate::store::Row;

/// Changed columns, in order; `None` removes the value.
pub(crate) type Changes = [(String, Option<String>)];

impl Call<'_> {
    /// Adds a port. Returns whether it is new.
    pub(crate) fn add_port(
        &mut self,
        bridge: &str,
        port: &str,
        settings: &[&str],
        may_exist: bool,
    ) -> Result<bool, String> {
        self.bridge(bridge)?;
        let settings = self.settings("port", settings)?;
        let pairs: Vec<(String, String)> =
            settings.iter().map(|s| (full(&s.column, s.key.as_deref()), s.value.clone())).collect();
        let mut object = self.object(bridge, port)?;
        if let Some(vlan) = vlan(&pairs)? {
            object["vlan"] = vlan;
        }
        let is_here = |p: &PortRow| p.network.as_deref() == Some(bridge);
        let there = self.port(port)?;
        if may_exist && there.as_ref().is_some_and(is_here) {
            let set: serde_json::Map<String, Value> = ["role", "mac", "vlan"]
                .iter()
                .filter_map(|key| Some(((*key).to_owned(), object.get(*key)?.clone())))
                .collect();
            if !set.is_empty() {
                self.edit("port.set", json!({ "name": port, "set": set }))?;
            }
        } else {
            self.edit("port.add", json!({ "object": object }))?;
        }
        // Keep the values too, so that a later change of one column knows the others.
        let changes: Vec<_> = pairs.into_iter().map(|(key, value)| (key, Some(value))).collect();
        self.change(port, &changes, false)?;
        Ok(there.is_none())
    }

    /// The port that a call describes. Its type comes in other commands of the same call, and cannot change later.
    fn object(&self, bridge: &str, port: &str) -> Result<Value, String> {
        let of_port = self
            .request
            .commands
            .iter()
            .filter(|c| matches!(c.words.as_slice(), [set, _, name, ..] if set == "set" && name == port));
        let said: Vec<Setting> = of_port.flat_map(|c| &c.words).filter_map(|word| setting(word)).collect();
        let get = |column: &str, key: Option<&str>| {
            said.iter().find(|s| s.column == column && s.key.as_deref() == key).map(|s| s.value.as_str())
        };
        let mac = get("external-ids", Some("attached-mac")).map(str::to_ascii_lowercase);
        let mut object = json!({ "name": port, "network": bridge });
        match get("type", None).unwrap_or_default() {
            "internal" => {
                if mac.is_some() {
                    return Err(format!("{port}: an internal interface is the host's own, and no guest's"));
                }
                return Ok(object);
            }
            "dpdkvhostuserclient" => {
                let path = get("options", Some("vhost-server-path"))
                    .ok_or_else(|| format!("{port}: options:vhost-server-path is missing"))?;
                if mac.is_none() {
                    return Err(format!(
                        "{port}: external_ids:attached-mac is missing, which binds the guest"
                    ));
                }
                (object["kind"], object["socket"]) = (json!("vhostuser"), json!(path));
            }
            // The guest leaves checksums and segmentation to us, and a packet socket carries the offload metadata.
            _ => (object["kind"], object["interface"]) = (json!("packet"), json!(port)),
        }
        if let Some(mac) = mac {
            (object["role"], object["mac"]) = (json!("guest"), json!([mac]));
        }
        Ok(object)
    }

    pub(crate) fn del_port(
        &mut self,
        bridge: Option<&str>,
        port: &str,
        if_exists: bool,
    ) -> Result<(), String> {
        let row = self.port(port)?;
        let Some(row) = row else {
            return if if_exists { Ok(()) } else { Err(format!("no port named {port}")) };
        };
        if let Some(bridge) = bridge.filter(|bridge| row.network.as_deref() != Some(bridge)) {
            return Err(format!("bridge {bridge} does not have a port {port}"));
        }
        self.edit("port.del", json!({ "name": row.ifname, "if_exists": if_exists }))?;
        self.store.del(&row.ifname);
        Ok(())
    }

    pub(crate) fn set(
        &mut self,
        table: &str,
        record: &str,
        words: &[&str],
        if_exists: bool,
    ) -> Result<(), String> {
        let settings = self.settings(table, words)?;
        if table == "interface" {
            self.check_type(record, &settings)?;
        }
        let changes: Vec<_> =
            settings.into_iter().map(|s| (full(&s.column, s.key.as_deref()), Some(s.value))).collect();
        self.apply(table, record, &changes, if_exists)
    }

    /// Checks an interface's type, which is fixed when its port is added.
    fn check_type(&mut self, port: &str, settings: &[Setting]) -> Result<(), String> {
        let Some(wanted) = settings.iter().find(|s| s.column == "type").map(|s| s.value.as_str()) else {
            return Ok(());
        };
        let Some(row) = self.port(port)? else { return Ok(()) };
        let is = match (row.kind.as_str(), row.role.as_str(), row.link == row.ifname) {
            ("vhostuser", ..) => "dpdkvhostuserclient",
            (_, "door", false) => "internal",
            _ => "system",
        };
        let same = wanted == is || wanted.is_empty() && is == "system";
        if same {
            Ok(())
        } else {
            Err(format!("{port} is of type {is}: del-port, then add-port with type={wanted}"))
        }
    }

    pub(crate) fn clear(
        &mut self,
        table: &str,
        record: &str,
        columns: &[&str],
        if_exists: bool,
    ) -> Result<(), String> {
        let mut changes = Vec::new();
        for column in columns.iter().map(|c| c.replace('_', "-")) {
            check_gone(table, &column)?;
            changes.extend(self.kept_keys(table, record, &column)?.into_iter().map(|key| (key, None)));
            changes.push((column, None));
        }
        self.apply(table, record, &changes, if_exists)
    }

    /// Removes keys from a map, or values from a set.
    pub(crate) fn remove(
        &mut self,
        table: &str,
        record: &str,
        column: &str,
        values: &[&str],
        if_exists: bool,
    ) -> Result<(), String> {
        let column = column.replace('_', "-");
        check_gone(table, &column)?;
        let kept = self.kept(table, record)?.values;
        let mut changes = Vec::new();
        for word in values.iter().flat_map(|word| word.split(',')) {
            let (key, value) = word.split_once('=').map_or((word, None), |(k, v)| (k, Some(unquoted(v))));
            let full = full(&column, Some(unquoted(key)));
            if kept.get(&full).is_some_and(|is| value.is_none_or(|value| value == is)) {
                changes.push((full, None));
            }
            let Some(is) = kept.get(&column) else { continue };
            let rest: Vec<&str> = is.split(',').filter(|one| one.trim() != word).collect();
            if rest.join(",") != *is {
                changes.push((column.clone(), Some(rest.join(",")).filter(|rest| !rest.is_empty())));
            }
        }
        self.apply(table, record, &changes, if_exists)
    }

    fn apply(&mut self, table: &str, record: &str, changes: &Changes, if_exists: bool) -> Result<(), String> {
        match table {
            "port" | "interface" => self.change(record, changes, if_exists),
            "bridge" => {
                self.bridge(record)?;
                self.keep("bridge", record, changes)
            }
            "qos" | "queue" if self.store.get(record).is_some_and(|row| row.table == table) => {
                self.touch_users(record);
                self.keep(table, record, changes)
            }
            "qos" | "queue" if if_exists => Ok(()),
            _ => Err(format!("no row \"{record}\" in table {table}")),
        }
    }

    /// The name under which rows of a table are kept.
    fn place(&mut self, table: &str, record: &str) -> Result<String, String> {
        Ok(match table {
            "port" | "interface" => self.port(record)?.map_or_else(|| record.to_owned(), |row| row.ifname),
            "bridge" => format!("bridge:{record}"),
            _ => record.to_owned(),
        })
    }

    /// The kept values of a row.
    pub(crate) fn kept(&mut self, table: &str, record: &str) -> Result<Row, String> {
        let place = self.place(table, record)?;
        Ok(self.store.get(&place).unwrap_or_default())
    }

    fn kept_keys(&mut self, table: &str, record: &str, column: &str) -> Result<Vec<String>, String> {
        let prefix = format!("{column}:");
        let kept = self.kept(table, record)?;
        Ok(kept.values.into_keys().filter(|key| key.starts_with(&prefix)).collect())
    }

    /// Keeps the changed values of a row.
    pub(crate) fn keep(&mut self, table: &str, record: &str, changes: &Changes) -> Result<(), String> {
        let place = self.place(table, record)?;
        let before = self.store.get(&place);
        let mut row = before.clone().unwrap_or_default();
        row.table = if table == "interface" { "port" } else { table }.to_owned();
        row.uuid = if matches!(table, "qos" | "queue") { record.to_owned() } else { place.clone() };
        for (key, value) in changes {
            // OVS writes an empty set as `[]`.
            match value.as_deref().filter(|value| !matches!(*value, "" | "[]")) {
                Some(value) => drop(row.values.insert(key.clone(), value.to_owned())),
                None => drop(row.values.remove(key)),
            }
        }
        match before {
            Some(before) if before == row => Ok(()),
            None if row.values.is_empty() => Ok(()),
            _ if row.values.is_empty() && table != "qos" && table != "queue" => {
                self.store.del(&place);
                Ok(())
            }
            _ => self.store.put(&place, &row),
        }
    }

    /// Changes columns of a port: settings of the switch go to the daemon, all others to our files.
    fn change(&mut self, port: &str, changes: &Changes, if_exists: bool) -> Result<(), String> {
        let Some(row) = self.port(port)? else {
            return if if_exists { Ok(()) } else { Err(format!("no row \"{port}\" in table Port")) };
        };
        if changes.is_empty() {
            return Ok(());
        }
        let before = self.store.get(&row.ifname).unwrap_or_default();
        self.keep("port", &row.ifname, changes)?;
        let after = self.store.get(&row.ifname).unwrap_or_default();
        if let Err(why) = self.follow(&row, changes, &after) {
            // A refused value is not kept.
            let undone: Vec<_> =
                changes.iter().map(|(key, _)| (key.clone(), before.values.get(key).cloned())).collect();
            self.keep("port", &row.ifname, &undone)?;
            return Err(why);
        }
        Ok(())
    }

    /// Applies the port's columns to the port.
    fn follow(&mut self, row: &PortRow, changes: &Changes, after: &Row) -> Result<(), String> {
        let changed = |keys: &[&str]| changes.iter().any(|(key, _)| keys.contains(&key.as_str()));
        let mut set = serde_json::Map::new();
        if changed(&["tag", "trunk", "trunks", "vlan-mode"]) {
            let pairs: Vec<_> = after.values.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            set.insert("vlan".to_owned(), json!(vlan(&pairs)?));
        }
        if changed(&["ingress-policing-rate", "ingress-policing-burst", "ingress-policing-kpkts-rate"]) {
            set.extend(rates::ingress(&after.values).as_object().cloned().unwrap_or_default());
        }
        if changed(&["mtu-request"]) {
            let mtu = after.values.get("mtu-request").and_then(|mtu| mtu.parse::<u32>().ok());
            set.insert("mtu".to_owned(), json!(mtu));
        }
        let mac = after.values.get("external-ids:attached-mac").filter(|_| row.role == "guest");
        if changed(&["external-ids:attached-mac"])
            && let Some(mac) = mac
        {
            set.insert("mac".to_owned(), json!([mac.to_ascii_lowercase()]));
        }
        if changed(&["qos"]) {
            self.touched.insert(row.ifname.clone());
        }
        if set.is_empty() { Ok(()) } else { self.edit("port.set", json!({ "name": row.ifname, "set": set })) }
    }

    /// Marks the ports whose limits refer to a row of QoS or Queue, so that they are updated.
    pub(crate) fn touch_users(&mut self, uuid: &str) {
        let qos: Vec<String> = self
            .store
            .rows("qos")
            .into_iter()
            .filter(|row| row.uuid == uuid || row.values.get("queues:0").is_some_and(|queue| queue == uuid))
            .map(|row| row.uuid)
            .collect();
        let users = self.store.rows("port").into_iter();
        let users = users.filter(|port| port.values.get("qos").is_some_and(|of| qos.contains(of)));
        self.touched.extend(users.map(|port| port.uuid));
    }

    /// Applies the rows of QoS and Queue to the limits of the ports, at the end of the call.
    pub(crate) fn sync_limits(&mut self) -> Result<(), String> {
        for port in std::mem::take(&mut self.touched) {
            let Some(row) = self.port(&port)? else { continue };
            let kept = self.store.get(&row.ifname).unwrap_or_default();
            let uuid = kept.values.get("qos");
            let qos = uuid.and_then(|uuid| self.store.get(uuid)).filter(|row| row.table == "qos");
            if let (Some(uuid), None) = (uuid, &qos) {
                // libvirt leaves references to rows that it has destroyed, so only a `set` is refused for a missing
                // row.
                if self.request.commands.iter().any(|c| c.words.first().is_some_and(|w| w == "set")) {
                    return Err(format!("no row \"{uuid}\" in table QoS"));
                }
            }
            let queue = qos.as_ref().and_then(|qos| self.store.get(qos.values.get("queues:0")?));
            let set = rates::egress(qos.as_ref(), queue.as_ref());
            self.edit("port.set", json!({ "name": row.ifname, "set": set }))?;
        }
        Ok(())
    }
}

/// The VLAN rules of a port, from OVS's columns.
fn vlan(pairs: &[(String, String)]) -> Result<Option<Value>, String> {
    let get =
        |name: &[&str]| pairs.iter().find(|(key, _)| name.contains(&key.as_str())).map(|(_, v)| v.as_str());
    let number = |text: &str| text.trim().parse::<u16>().map_err(|_| format!("{text} is not a VLAN"));
    let tag = get(&["tag"]).map(number).transpose()?;
    let trunk = get(&["trunk", "trunks"]).map(|list| list.trim_matches(['[', ']']));
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
