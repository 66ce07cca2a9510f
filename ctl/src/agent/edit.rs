//! Edits of single objects of the configuration. Each edit is carried out as a whole, or refused with its cause and
//! remedy.

use engine::command::PortId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Agent;
use super::request::{Done, not_found, params, quoted};
use crate::api::{self, Code, Edited, Error};
use crate::model::{
    self, Config, Fault, Floating, Network, Peer, Port, Route, Section, StaticFdb, clean, explain, suggest,
};

/// An object of the configuration that can be added, changed and deleted.
pub(super) trait Entry: Serialize + DeserializeOwned + Clone + PartialEq {
    /// The word that `ivctl` uses for this kind of object.
    const NOUN: &'static str;
    /// The list in the file that holds these objects.
    const SECTION: Section;
    fn list(config: &mut Config) -> &mut Vec<Self>;
    fn is_same(&self, other: &Self) -> bool;
    fn label(&self) -> String;
}

macro_rules! entries {
    ($($ty:ty, $noun:literal, $section:ident, $list:ident, |$a:ident, $b:ident| $same:expr, $label:expr;)+) => { $(
        impl Entry for $ty {
            const NOUN: &'static str = $noun;
            const SECTION: Section = Section::$section;
            fn list(config: &mut Config) -> &mut Vec<Self> {
                &mut config.$list
            }
            fn is_same(&self, other: &Self) -> bool {
                let ($a, $b) = (self, other);
                $same
            }
            fn label(&self) -> String {
                let $a = self;
                clean(&$label)
            }
        }
    )+ };
}

entries! {
    Network, "network", Network, network, |a, b| a.name == b.name, format!("network \"{}\"", a.name);
    Port, "port", Port, port, |a, b| a.name == b.name, format!("port \"{}\"", a.name);
    Peer, "peer", Peer, peer, |a, b| a.name == b.name, format!("peer \"{}\"", a.name);
    Floating, "fip", Floating, floating, |a, b| a.key() == b.key(), format!("floating {}", a.ip);
    Route, "route", Route, route, |a, b| (&a.network, a.from) == (&b.network, b.from), format!("route {}", a.from);
    StaticFdb, "fdb", Fdb, fdb, |a, b| (&a.network, a.vlan, a.mac) == (&b.network, b.vlan, b.mac), format!("fdb {}", a.mac);
}

impl Agent {
    /// Enables a port that its owner or a guard disabled.
    pub(super) fn enable_port(&mut self, method: &str, p: Value) -> Result<Done, Error> {
        let p: api::EnablePort = params(method, p)?;
        let at = self.config.port.iter().position(|port| port.name == p.name);
        let (Some(at), Some(id)) = (at, self.ids.port(&p.name)) else {
            return Err(not_found("port", &quoted(&p.name)));
        };
        let mut config = self.config.clone();
        config.port[at].enabled = true;
        let edited = self.change(format!("port {} is not enabled", quoted(&p.name)), config)?;
        let changed = self.enable(id) | edited.changed;
        Ok(Done::Edit(Edited { changed, ..edited }, vec![id], p.timeout_ms))
    }

    /// Puts `config` in force if it is valid and differs from the present one.
    pub(super) fn change(&mut self, what: String, config: Config) -> Result<Edited, Error> {
        if config == self.config {
            return Ok(Edited::default());
        }
        self.refuse_during_trial(&what)?;
        model::validate(&config, Some(&self.options.hostname))
            .and_then(|()| self.refuse_twice(&config))
            .map_err(|errors| Error::of_config(what.clone(), errors))?;
        let layers = self.layers_of(&what, config)?;
        self.install_edit(layers);
        self.edited();
        Ok(Edited { changed: true, warnings: Vec::new() })
    }

    /// The ports that an edit of this entry waits for until they are live.
    fn ports_of<T: Entry>(&self, entry: &T) -> Vec<PortId> {
        let name = json!(entry)["name"].as_str().map(str::to_owned).filter(|_| T::NOUN == "port");
        name.and_then(|n| self.ids.port(&n)).into_iter().collect()
    }

    pub(super) fn add<T: Entry>(&mut self, method: &str, p: Value) -> Result<Done, Error> {
        let p: api::Add = params(method, p)?;
        let entry: T = entry(T::NOUN, p.object)?;
        let what = format!("{} is not added", entry.label());
        let mut config = self.config.clone();
        if let Some(there) = T::list(&mut config).iter().find(|e| e.is_same(&entry)) {
            if p.may_exist && *there == entry {
                return Ok(Done::Edit(Edited::default(), Vec::new(), p.timeout_ms));
            }
            let (why, how) = if *there == entry {
                ("it exists already", "--may-exist accepts that".to_owned())
            } else {
                ("it exists already, with other settings", format!("`ivctl {} set` changes it", T::NOUN))
            };
            return Err(Error::new(Code::Conflict, what, why, how));
        }
        T::list(&mut config).push(entry.clone());
        let edited = self.change(what, config)?;
        let ports = self.ports_of(&entry);
        Ok(Done::Edit(edited, ports, p.timeout_ms))
    }

    pub(super) fn set_named<T: Entry>(
        &mut self,
        method: &str,
        p: Value,
        is: fn(&T, &str) -> bool,
    ) -> Result<Done, Error> {
        let p: api::SetNamed = params(method, p)?;
        let mut config = self.config.clone();
        let index = T::list(&mut config)
            .iter()
            .position(|e| is(e, &p.name))
            .ok_or_else(|| self.no_such::<T>(&p.name))?;
        self.set::<T>(index, &p.set, p.timeout_ms)
    }

    pub(super) fn set<T: Entry>(
        &mut self,
        index: usize,
        patch: &Value,
        timeout_ms: Option<u64>,
    ) -> Result<Done, Error> {
        let mut config = self.config.clone();
        let list = T::list(&mut config);
        let what = format!("{} is not changed", list[index].label());
        let mut object = json!(list[index]);
        let (Value::Object(fields), Value::Object(patch)) = (&mut object, patch) else {
            return Err(Error::new(
                Code::Params,
                what,
                "`set` is not an object",
                "send {\"key\": value, ...}",
            ));
        };
        if patch.is_empty() {
            let how = format!("name the settings to change: `ivctl {} set --help` lists them", T::NOUN);
            return Err(Error::new(Code::Params, what, "there is nothing to change", how));
        }
        for (key, value) in patch {
            check_key::<T>(&what, key, value)?;
            if key == "name" && fields.get("name") != Some(value) {
                let how = format!("add another with `ivctl {} add` and delete this one", T::NOUN);
                return Err(Error::new(Code::Failed, what, "a name cannot be changed", how));
            }
            match value {
                Value::Null => drop(fields.remove(key)),
                value => drop(fields.insert(key.clone(), value.clone())),
            }
        }
        let changed: T = entry(T::NOUN, object).map_err(|e| Error { what: what.clone(), ..e })?;
        list[index] = changed.clone();
        let edited = self.change(what, config)?;
        let ports = self.ports_of(&changed);
        Ok(Done::Edit(edited, ports, timeout_ms))
    }

    pub(super) fn del_named<T: Entry>(
        &mut self,
        method: &str,
        p: Value,
        is: fn(&T, &str) -> bool,
    ) -> Result<Done, Error> {
        let p: api::DelNamed = params(method, p)?;
        let index = T::list(&mut self.config).iter().position(|e| is(e, &p.name));
        if index.is_none() && !p.if_exists {
            return Err(self.no_such::<T>(&p.name));
        }
        self.del::<T>(index, p.if_exists, &quoted(&p.name), p.timeout_ms)
    }

    pub(super) fn del<T: Entry>(
        &mut self,
        index: Option<usize>,
        if_exists: bool,
        which: &str,
        timeout_ms: Option<u64>,
    ) -> Result<Done, Error> {
        let Some(index) = index else {
            if if_exists {
                return Ok(Done::Edit(Edited::default(), Vec::new(), timeout_ms));
            }
            return Err(not_found(T::NOUN, which));
        };
        let mut config = self.config.clone();
        let gone = T::list(&mut config).remove(index);
        let what = format!("{} is not deleted", gone.label());
        let edited = self.change(what, config).map_err(|mut e| {
            // The object is still in use: name its users instead of the errors that its removal would cause in them.
            let users: Vec<&str> =
                e.errors.iter().filter(|e| e.fault == Fault::NotFound).map(|e| e.object.as_str()).collect();
            if !users.is_empty() {
                let more = if users.len() > 5 { ", ..." } else { "" };
                e.why = format!("it is in use by {}{more}", users[..users.len().min(5)].join(", "));
                "delete or change these first".clone_into(&mut e.how);
                e.code = Code::Conflict;
                e.errors.clear();
            }
            e
        })?;
        Ok(Done::Edit(edited, Vec::new(), timeout_ms))
    }

    /// The error for a name without an object. If the name is this rVM's own entry in a drop-in, the error explains
    /// that.
    fn no_such<T: Entry>(&self, name: &str) -> Error {
        let skipped = self.origins.skipped.iter().find(|s| T::SECTION == Section::Peer && s.peer == name);
        let Some(skipped) = skipped else { return not_found(T::NOUN, &quoted(name)) };
        let why = format!("{}, and its entry in {} is left out", skipped.why, skipped.file);
        Error::new(Code::NotFound, format!("peer {}", quoted(name)), why, "there is nothing to do")
    }
}

/// Refuses a key that this kind of object does not have, and a null value for a required key.
fn check_key<T: Entry>(what: &str, key: &str, value: &Value) -> Result<(), Error> {
    let known = model::keys(T::SECTION);
    if !known.iter().any(|k| k.name == key) {
        let names: Vec<&str> = known.iter().filter(|k| !k.required).map(|k| k.name.as_str()).collect();
        let why = format!("there is no key `{key}`");
        return Err(Error::new(Code::Params, what, clean(&why), clean(&suggest(key, &names))));
    }
    if value.is_null() && key != "name" && known.iter().any(|k| k.name == key && k.required) {
        let why = format!("the key `{key}` is required, and has no default");
        return Err(Error::new(Code::Params, what, why, format!("set it to another value: --{key} VALUE")));
    }
    Ok(())
}

/// Reads an entry that a client sent.
fn entry<T: Entry>(noun: &str, object: Value) -> Result<T, Error> {
    let label =
        ["name", "ip", "from", "mac"].iter().find_map(|k| object[*k].as_str()).unwrap_or_default().to_owned();
    serde_json::from_value(object).map_err(|e| {
        let (why, how) = explain(&e.to_string(), None);
        Error::new(Code::Failed, clean(&format!("{noun} {label} is refused")), why, how)
    })
}
