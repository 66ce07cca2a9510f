//! Requests of clients: each is read and checked, then carried out or refused as a whole.

use engine::command::{Command, Location, PortId, Query, Vni};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Agent;
use super::ask::{Ask, FdbFilter};
use super::pending::{PENDING_MAX, PER_CLIENT_MAX};
use crate::api::{self, Code, Edited, Error};
use crate::io::{ClientId, Output};
use crate::model::{
    self, Config, Floating, Mac, Network, Peer, Port, Route, Section, StaticFdb, clean, explain,
};

/// The highest VLAN (IEEE 802.1Q-2018 table 9-2).
const VLAN_MAX: u16 = 4094;

/// The most clients that may subscribe to events.
const SUBSCRIBERS_MAX: usize = 64;

impl Ask {
    pub(super) fn queries(&self) -> Vec<Query> {
        match self {
            Self::Status => vec![Query::Counters, Query::Peers, Query::Floating],
            Self::Networks(_) | Self::Ports(_) => vec![Query::Counters],
            Self::Peers(_) => vec![Query::Peers],
            Self::Floatings(_) => vec![Query::Floating],
            Self::Fdb(_) | Self::FdbDelete { .. } => vec![Query::Fdb(0)],
            Self::Neighbors(_) => vec![Query::Neighbors(0)],
            Self::Drops(_) => vec![Query::Counters, Query::DropSamples],
            Self::Pulse => vec![Query::Counters],
            Self::Look => vec![Query::Peers],
            Self::Trace(..) | Self::CaptureStarted(..) | Self::Captured(..) => self.watch_queries(),
        }
    }
}

/// The result of a request's first step.
pub(super) enum Done {
    /// The answer.
    Now(Value),
    /// An edit: the answer follows when it is in force and these ports are settled.
    Edit(Edited, Vec<PortId>, Option<u64>),
    /// A query: the answer follows from the workers.
    Ask(Ask, Option<u64>),
    /// A request about the log: the daemon, which owns the log, gives the answer.
    Log,
}

impl Agent {
    /// Takes one line from a client.
    pub(super) fn request(&mut self, client: ClientId, line: &str) {
        let (id, method, params) = match read(line) {
            Ok(request) => request,
            Err(unreadable) => return self.respond(client, Some(unreadable.0), Err(unreadable.1)),
        };
        let waiting = self.pending.values().filter(|p| p.client == client).count();
        let result = if self.readers.contains(&client) && !api::only_reads(&method) {
            let why = "you have read-only access";
            let how = "be root, or join the admin group (ivswitch-admin)";
            Err(Error::new(Code::Permission, clean(&method), why, how))
        } else if waiting >= PER_CLIENT_MAX || self.pending.len() >= PENDING_MAX {
            let why = format!("{} requests are waiting already", self.pending.len());
            Err(Error::new(Code::Busy, clean(&method), why, "wait for their answers first"))
        } else {
            self.carry_out(client, &method, params)
        };
        match result {
            Err(e) => self.respond(client, id, Err(e)),
            Ok(Done::Now(value)) => self.respond(client, id, Ok(value)),
            Ok(Done::Edit(edited, ports, timeout_ms)) => {
                if edited.changed && timeout_ms != Some(0) {
                    self.wait_for_effect(client, id, timeout_ms, edited, ports);
                } else {
                    self.respond(client, id, Ok(json!(edited)));
                }
            }
            Ok(Done::Log) => self.log_asked.push_back((client, id)),
            Ok(Done::Ask(ask, timeout_ms)) => self.wait_for_answers(client, id, timeout_ms, ask),
        }
    }

    /// Answers a request. A notification has no id and gets no answer.
    pub(super) fn respond(&mut self, client: ClientId, id: Option<Value>, result: Result<Value, Error>) {
        let Some(id) = id else { return };
        let line = match result {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(e) => json!({ "jsonrpc": "2.0", "id": id, "error": e.to_json() }),
        };
        self.outputs.push_back(Output::Reply(client, line.to_string()));
    }

    fn carry_out(&mut self, client: ClientId, method: &str, p: Value) -> Result<Done, Error> {
        match method {
            "version" => {
                let _: api::Nothing = params(method, p)?;
                let version = api::Version {
                    api: api::API,
                    name: self.name().to_owned(),
                    version: self.options.version.clone(),
                };
                Ok(Done::Now(json!(version)))
            }
            "status" => params(method, p).map(|p: api::Nothing| Done::Ask(Ask::Status, p.timeout_ms)),
            "mtu" => {
                let _: api::Nothing = params(method, p)?;
                Ok(Done::Now(json!(self.mtu_report())))
            }
            "cache.set" => {
                let p: api::CacheSet = params(method, p)?;
                let edited = self.change(
                    "the kernel offload is not changed".to_owned(),
                    Config { cache: p.mode, ..self.config.clone() },
                )?;
                Ok(Done::Edit(edited, Vec::new(), p.timeout_ms))
            }
            "subscribe" => {
                let p: api::Subscribe = params(method, p)?;
                if self.subscribers.len() >= SUBSCRIBERS_MAX && !self.subscribers.contains(&client) {
                    let why = format!("{SUBSCRIBERS_MAX} clients are subscribed already");
                    return Err(Error::new(Code::Busy, "subscribe", why, "close one of them"));
                }
                self.subscribe(client, p.drops_per_second);
                Ok(Done::Now(json!({})))
            }

            "network.list" => {
                let p: api::ListNamed = params(method, p)?;
                known("network", p.name.as_deref(), |n| self.config.network(n).is_some())?;
                Ok(Done::Ask(Ask::Networks(p.name), p.timeout_ms))
            }
            "network.add" => self.add::<Network>(method, p),
            "network.set" => self.set_named::<Network>(method, p, |n, name| n.name == name),
            "network.del" => self.del_named::<Network>(method, p, |n, name| n.name == name),

            "port.list" => {
                let p: api::ListNamed = params(method, p)?;
                known("port", p.name.as_deref(), |n| self.port_id(n).is_some())?;
                Ok(Done::Ask(Ask::Ports(p.name), p.timeout_ms))
            }
            "port.add" => self.add::<Port>(method, p),
            "port.set" => self.set_named::<Port>(method, p, |n, name| n.name == name),
            "port.enable" => self.enable_port(method, p),
            "port.del" => self.del_named::<Port>(method, p, |n, name| n.name == name),

            "peer.list" => {
                let p: api::ListNamed = params(method, p)?;
                let skipped = |n: &str| self.origins.skipped.iter().any(|s| s.peer == n);
                known("peer", p.name.as_deref(), |n| self.config.peer(n).is_some() || skipped(n))?;
                Ok(Done::Ask(Ask::Peers(p.name), p.timeout_ms))
            }
            "peer.add" => self.add::<Peer>(method, p),
            "peer.set" => self.set_named::<Peer>(method, p, |n, name| n.name == name),
            "peer.del" => self.del_named::<Peer>(method, p, |n, name| n.name == name),

            "floating.list" => {
                let p: api::WhichFloating = params(method, p)?;
                if let Some(network) = &p.network {
                    self.vni_of(network)?;
                }
                if p.ip.is_some() && !self.config.floating.iter().any(|f| is_floating(f, &p)) {
                    return Err(not_found("fip", &which_floating(&p)));
                }
                let timeout_ms = p.timeout_ms;
                Ok(Done::Ask(Ask::Floatings(p), timeout_ms))
            }
            "floating.add" => self.add::<Floating>(method, p),
            "floating.set" => {
                let p: api::WhichFloating = params(method, p)?;
                let index = self.floating_index(&p)?.ok_or_else(|| not_found("fip", &which_floating(&p)))?;
                self.set::<Floating>(index, &p.set, p.timeout_ms)
            }
            "floating.del" => {
                let p: api::WhichFloating = params(method, p)?;
                let index = self.floating_index(&p)?;
                self.del::<Floating>(index, p.if_exists, &which_floating(&p), p.timeout_ms)
            }

            "route.list" => {
                let p: api::WhichRoute = params(method, p)?;
                let rows = self.route_rows(&p)?;
                Ok(Done::Now(rows))
            }
            "route.add" => self.add::<Route>(method, p),
            "route.set" => {
                let p: api::WhichRoute = params(method, p)?;
                let index = self.route_index(&p)?.ok_or_else(|| not_found("route", &which_route(&p)))?;
                self.set::<Route>(index, &p.set, p.timeout_ms)
            }
            "route.del" => {
                let p: api::WhichRoute = params(method, p)?;
                let index = self.route_index(&p)?;
                self.del::<Route>(index, p.if_exists, &which_route(&p), p.timeout_ms)
            }

            "fdb.list" => {
                let p: api::WhichFdb = params(method, p)?;
                Ok(Done::Ask(Ask::Fdb(self.fdb_filter(&p)?), p.timeout_ms))
            }
            "fdb.add" => self.add::<StaticFdb>(method, p),
            "fdb.set" => {
                let p: api::WhichFdb = params(method, p)?;
                let (_, index) = self.fdb_index(&p)?;
                let index = index.ok_or_else(|| not_found("fdb", p.mac.as_deref().unwrap_or_default()))?;
                self.set::<StaticFdb>(index, &p.set, p.timeout_ms)
            }
            "fdb.del" => self.fdb_del(params(method, p)?),
            "fdb.flush" => {
                let p: api::WhichFdb = params(method, p)?;
                if p.mac.is_some() || p.vlan.is_some() {
                    let how = "use `ivctl fdb del` for one entry";
                    return Err(Error::new(
                        Code::Params,
                        method,
                        "a flush takes no `mac` and no `vlan`",
                        how,
                    ));
                }
                let filter = self.fdb_filter(&p)?;
                self.command(Command::FlushFdb(filter.vni, filter.location));
                self.tell_of_flush("fdb", &[("network", &p.network), ("port", &p.port), ("peer", &p.peer)]);
                Ok(Done::Edit(Edited { changed: true, warnings: Vec::new() }, Vec::new(), p.timeout_ms))
            }

            "neigh.list" => {
                let p: api::WhichNeigh = params(method, p)?;
                let vni = p.network.as_deref().map(|n| self.vni_of(n)).transpose()?;
                Ok(Done::Ask(Ask::Neighbors(vni), p.timeout_ms))
            }
            "neigh.flush" => {
                let p: api::WhichNeigh = params(method, p)?;
                let vni = p.network.as_deref().map(|n| self.vni_of(n)).transpose()?;
                self.command(Command::FlushNeighbors(vni));
                self.tell_of_flush("neigh", &[("network", &p.network)]);
                Ok(Done::Edit(Edited { changed: true, warnings: Vec::new() }, Vec::new(), p.timeout_ms))
            }
            "drops" => {
                let p: api::WhichDrops = params(method, p)?;
                let port = match &p.port {
                    Some(name) => Some(self.port_id(name).ok_or_else(|| not_found("port", &quoted(name)))?),
                    None => None,
                };
                Ok(Done::Ask(Ask::Drops(port), p.timeout_ms))
            }

            "trace" => {
                let p: api::TraceFrame = params(method, p)?;
                Ok(Done::Ask(self.trace(&p)?, p.timeout_ms))
            }
            "capture.start" => {
                let p: api::StartCapture = params(method, p)?;
                Ok(Done::Ask(self.start_capture(client, &p)?, p.timeout_ms))
            }
            "capture.read" => {
                let p: api::WhichCapture = params(method, p)?;
                let id = self.capture_of(client, p.capture)?;
                Ok(Done::Ask(self.read_capture(id), p.timeout_ms))
            }
            "capture.stop" => {
                let p: api::WhichCapture = params(method, p)?;
                let id = self.capture_of(client, p.capture)?;
                self.stop_capture(id);
                Ok(Done::Now(json!({})))
            }

            "log.level" => {
                let p: api::LogLevel = params(method, p)?;
                self.outputs.push_back(Output::LogFilter(p.filter));
                Ok(Done::Log)
            }

            config if config.starts_with("config.") => self.configure(method, p),
            _ => Err(no_such_method(method)),
        }
    }

    /// The one entry that `p` names, and its index if it is static.
    fn fdb_index(&self, p: &api::WhichFdb) -> Result<(FdbFilter, Option<usize>), Error> {
        let (Some(network), Some(_)) = (&p.network, &p.mac) else {
            let how = "name the network and the MAC address";
            return Err(Error::new(Code::Params, "fdb", "`network` or `mac` is missing", how));
        };
        let vid = p.vlan.unwrap_or(0);
        let filter = FdbFilter { vid: Some(vid), ..self.fdb_filter(p)? };
        let mac = filter.mac.map(Mac);
        let is = |e: &StaticFdb| e.network == *network && e.vlan == vid && Some(e.mac) == mac;
        let index = self.config.fdb.iter().position(is);
        Ok((filter, index))
    }

    /// Deletes an entry. Deleting a static entry is an edit; a learned entry exists only in the workers.
    fn fdb_del(&mut self, p: api::WhichFdb) -> Result<Done, Error> {
        let (filter, index) = self.fdb_index(&p)?;
        if index.is_some() {
            let mac = p.mac.unwrap_or_default();
            return self.del::<StaticFdb>(index, p.if_exists, &clean(&mac), p.timeout_ms);
        }
        Ok(Done::Ask(Ask::FdbDelete { filter, if_exists: p.if_exists }, p.timeout_ms))
    }

    fn fdb_filter(&self, p: &api::WhichFdb) -> Result<FdbFilter, Error> {
        let location = match (&p.port, &p.peer) {
            (Some(_), Some(_)) => {
                let why = "it cannot be behind both a port and a peer";
                return Err(Error::new(Code::Params, "fdb", why, "give one of `port` and `peer`"));
            }
            (Some(port), None) => {
                Some(Location::Port(self.port_id(port).ok_or_else(|| not_found("port", &quoted(port)))?))
            }
            (None, Some(peer)) => {
                Some(Location::Peer(self.ids.peer(peer).ok_or_else(|| not_found("peer", &quoted(peer)))?))
            }
            (None, None) => None,
        };
        let mac = match &p.mac {
            Some(mac) => Some(mac.parse::<Mac>().map(|Mac(mac)| mac).map_err(|e| {
                Error::new(Code::Params, clean(&format!("fdb {mac}")), "it is not a MAC address", e)
            })?),
            None => None,
        };
        if let Some(vlan) = p.vlan.filter(|&vlan| vlan > VLAN_MAX) {
            let why = format!("there is no VLAN {vlan}");
            return Err(Error::new(
                Code::Params,
                "fdb",
                why,
                format!("VLANs are 1 to {VLAN_MAX}; 0 is untagged"),
            ));
        }
        Ok(FdbFilter {
            vni: p.network.as_deref().map(|n| self.vni_of(n)).transpose()?,
            location,
            mac,
            vid: p.vlan,
            limit: p.limit.unwrap_or(api::ROWS_MAX).min(api::ROWS_MAX),
        })
    }

    fn vni_of(&self, network: &str) -> Result<Vni, Error> {
        let found = self.config.network(network).and_then(|n| Vni::new(n.vni));
        found.ok_or_else(|| not_found("network", &quoted(network)))
    }

    fn floating_index(&self, p: &api::WhichFloating) -> Result<Option<usize>, Error> {
        if p.ip.is_none() {
            return Err(Error::new(Code::Params, "floating", "`ip` is missing", "name the floating IP"));
        }
        let mut found =
            self.config.floating.iter().enumerate().filter(|(_, f)| is_floating(f, p)).map(|(i, _)| i);
        let first = found.next();
        if found.next().is_some() {
            let why = "several mappings have this address";
            return Err(Error::new(
                Code::Failed,
                which_floating(p),
                why,
                "select one with `network` or `only`",
            ));
        }
        Ok(first)
    }

    fn route_index(&self, p: &api::WhichRoute) -> Result<Option<usize>, Error> {
        let (Some(network), Some(from)) = (&p.network, &p.from) else {
            let how = "name the network and the source prefix";
            return Err(Error::new(Code::Params, "route", "`network` or `from` is missing", how));
        };
        let from = prefix(from)?;
        Ok(self.config.route.iter().position(|r| r.network == *network && r.from == from))
    }

    fn route_rows(&self, p: &api::WhichRoute) -> Result<Value, Error> {
        if let Some(network) = &p.network {
            self.vni_of(network)?;
        }
        let from = p.from.as_deref().map(prefix).transpose()?;
        let wanted = |(_, r): &(usize, &Route)| {
            p.network.as_ref().is_none_or(|n| *n == r.network) && from.is_none_or(|from| from == r.from)
        };
        let row = |(at, r): (usize, &Route)| api::RouteRow {
            network: r.network.clone(),
            from: r.from.to_string(),
            via: r.via.clone(),
            to_peer: self.config.peer(&r.via).is_some(),
            config: Some(self.configured(Section::Route, at, r)),
        };
        let rows: Vec<_> = self.config.route.iter().enumerate().filter(wanted).map(row).collect();
        if rows.is_empty() && p.from.is_some() {
            return Err(not_found("route", &which_route(p)));
        }
        Ok(json!(api::Rows { rows, warnings: Vec::new() }))
    }
}

/// A request that cannot be read: the id for the answer, and the error.
type Unreadable = Box<(Value, Error)>;

/// Reads one line as a JSON-RPC 2.0 request: id (none for a notification), method, parameters.
fn read(line: &str) -> Result<(Option<Value>, String, Value), Unreadable> {
    let error = |code, why: &str, how: &str| Error::new(code, "the request is refused", why, how);
    let refuse = |code, why: &str, how: &str| Box::new((Value::Null, error(code, why, how)));
    if line.len() > api::REQUEST_LEN_MAX {
        return Err(refuse(Code::Request, "it is too long", "send a shorter request"));
    }
    let request: Value = serde_json::from_str(line)
        .map_err(|e| refuse(Code::Parse, &clean(&e.to_string()), "send one JSON object per line"))?;
    let Value::Object(mut request) = request else {
        return Err(refuse(
            Code::Request,
            "it is not an object",
            "send one request per line; there are no batches",
        ));
    };
    let id = request.remove("id");
    let answer_to = match &id {
        None => Value::Null,
        Some(id @ (Value::String(_) | Value::Number(_) | Value::Null)) => id.clone(),
        Some(_) => return Err(refuse(Code::Request, "its id is neither text nor a number", "use a number")),
    };
    let refuse = |why: &str, how: &str| Box::new((answer_to.clone(), error(Code::Request, why, how)));
    if request.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(refuse("it is not JSON-RPC 2.0", "add \"jsonrpc\": \"2.0\""));
    }
    let Some(Value::String(method)) = request.remove("method") else {
        return Err(refuse("it has no method", "add \"method\": \"status\", for example"));
    };
    match request.remove("params") {
        None | Some(Value::Null) => Ok((id, method, json!({}))),
        Some(params @ Value::Object(_)) => Ok((id, method, params)),
        Some(_) => Err(refuse("its params are not an object", "name the parameters")),
    }
}

pub(super) fn params<T: DeserializeOwned>(method: &str, params: Value) -> Result<T, Error> {
    serde_json::from_value(params).map_err(|e| {
        let (why, how) = explain(&e.to_string(), None);
        Error::new(Code::Params, clean(method), why, how)
    })
}

pub(super) fn no_such_method(method: &str) -> Error {
    Error::new(
        Code::Method,
        clean(&format!("`{method}`")),
        "there is no such method",
        "ivctl and ivswitchd may differ in version: `ivctl status` shows the daemon's",
    )
}

pub(super) fn quoted(name: &str) -> String {
    clean(&format!("\"{name}\""))
}

pub(super) fn not_found(noun: &str, which: &str) -> Error {
    let what = format!("{noun} {which}");
    Error::new(
        Code::NotFound,
        what,
        format!("there is no such {noun}"),
        format!("`ivctl {noun} list` shows them"),
    )
}

fn known(noun: &str, name: Option<&str>, is: impl Fn(&str) -> bool) -> Result<(), Error> {
    match name {
        Some(name) if !is(name) => Err(not_found(noun, &quoted(name))),
        _ => Ok(()),
    }
}

pub(super) fn is_floating(f: &Floating, p: &api::WhichFloating) -> bool {
    let sorted = |ports: &[model::Ports]| {
        let mut ports = ports.to_vec();
        ports.sort_unstable();
        ports
    };
    p.ip.is_none_or(|ip| ip == f.ip)
        && p.network.as_ref().is_none_or(|n| *n == f.network)
        && p.only.as_ref().is_none_or(|only| sorted(only) == sorted(&f.only))
}

fn which_floating(p: &api::WhichFloating) -> String {
    let mut text = p.ip.map(|ip| ip.to_string()).unwrap_or_default();
    if let Some(network) = &p.network {
        text.push_str(&format!(" on network \"{network}\""));
    }
    clean(&text)
}

fn prefix(text: &str) -> Result<ipnet::IpNet, Error> {
    text.parse().map_err(|_| {
        let what = clean(&format!("route {text}"));
        Error::new(Code::Params, what, "it is not a prefix", "write it as 56.0.0.0/24")
    })
}

fn which_route(p: &api::WhichRoute) -> String {
    let (from, network) = (p.from.as_deref().unwrap_or_default(), p.network.as_deref().unwrap_or_default());
    clean(&format!("{from} on network \"{network}\""))
}
