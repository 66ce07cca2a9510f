//! Events for subscribers: ports, stations, peers, flushes, configurations, and drops that come fast. Told when it changes;
//! what the workers know is asked once a second, while somebody listens.

use std::collections::BTreeMap;

use engine::command::{Location, PortId, Vni};
use engine::counters::DropReason;
use engine::time::{Duration, Instant};
use engine::wire::mac::MacAddr;
use serde_json::json;

use super::Agent;
use super::pending::Found;
use super::request::Ask;
use crate::io::ClientId;
use crate::model::{self, Change, Config};

/// How often the workers are asked.
const PULSE: Duration = Duration::from_secs(1);

/// Drops per second for one reason at one port that are worth a word, unless a subscriber says otherwise.
pub(super) const DROPS_PER_SECOND: u64 = 100;

/// Changes of the configuration in one event; `ivctl config show` has everything.
const CHANGES_MAX: usize = 100;

/// What subscribers were told last.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Name, state and carrier of each port.
    ports: BTreeMap<PortId, (String, &'static str, bool)>,
    /// Drops, and when they were counted.
    drops: BTreeMap<(PortId, DropReason), u64>,
    asked: Option<Instant>,
    /// Changes of the configuration since the last event, and how many more there were.
    changes: Vec<Change>,
    left_out: usize,
    /// When the workers are asked next.
    pub(super) due: Option<Instant>,
    /// Drops per second from which on each subscriber wants to hear of them.
    thresholds: BTreeMap<ClientId, u64>,
}

impl Agent {
    /// Somebody listens from now on: to what changes, not to how things stand.
    pub(super) fn subscribe(&mut self, client: ClientId, drops_per_second: Option<u64>) {
        if self.subscribers.is_empty() {
            self.heard = Told { ports: self.port_states(), due: Some(self.now), ..Told::default() };
        }
        self.subscribers.insert(client);
        self.heard.thresholds.insert(client, drops_per_second.unwrap_or(DROPS_PER_SECOND).max(1));
    }

    pub(super) fn unsubscribe(&mut self, client: ClientId) {
        self.subscribers.remove(&client);
        self.heard.thresholds.remove(&client);
        if self.subscribers.is_empty() {
            self.heard = Told::default();
        }
    }

    fn port_states(&self) -> BTreeMap<PortId, (String, &'static str, bool)> {
        let state = |a: &super::machine::Attachment| {
            let carrier = self.links.get(&a.interface).is_some_and(|l| l.up && l.carrier);
            (a.name.clone(), a.state().0, carrier && a.is_live())
        };
        self.attachments.iter().map(|(&id, a)| (id, state(a))).collect()
    }

    /// Tells of ports whose state has changed since this was called last.
    pub(super) fn tell_of_ports(&mut self) {
        if self.subscribers.is_empty() {
            return;
        }
        let now = self.port_states();
        let before = std::mem::replace(&mut self.heard.ports, now.clone());
        for (id, port) in &now {
            let (name, state, up) = port;
            if before.get(id) == Some(port) {
                continue;
            }
            let Some(a) = self.attachments.get(id) else { continue };
            let operstate = if *up { "UP" } else { "DOWN" };
            let mut fields = json!({ "ifname": name, "state": state, "operstate": operstate });
            let why = a.state().1;
            if !why.is_empty() {
                fields["why"] = json!(why);
            }
            self.notify("port", fields);
        }
        for (_, (name, ..)) in before.iter().filter(|(id, _)| !now.contains_key(id)) {
            self.notify("port", json!({ "ifname": name, "state": "gone", "operstate": "DOWN" }));
        }
    }

    pub(super) fn tell_of_station(
        &mut self,
        vni: Vni,
        vid: u16,
        mac: MacAddr,
        location: Location,
        moved: bool,
    ) {
        if self.subscribers.is_empty() {
            return;
        }
        let (ifname, peer) = self.place(location);
        let fields = json!({
            "vni": vni.get(), "vlan": vid, "mac": mac.to_string(), "ifname": ifname, "peer": peer,
            "network": self.network_name(vni),
        });
        self.notify(if moved { "moved" } else { "learned" }, fields);
    }

    /// Entries of a table were forgotten by command: of one network, port or peer, or all.
    pub(super) fn tell_of_flush(&mut self, table: &str, which: &[(&str, &Option<String>)]) {
        let mut fields = json!({ "table": table });
        for (key, value) in which.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            fields[key] = json!(value);
        }
        self.notify("flush", fields);
    }

    /// Notes the changes by an edit or another file, for subscribers.
    pub(super) fn note_changes(&mut self, after: &Config) {
        if !self.subscribers.is_empty() {
            let changes = model::diff(&self.config, after);
            self.heard.left_out += (self.heard.changes.len() + changes.len()).saturating_sub(CHANGES_MAX);
            self.heard.changes.extend(changes);
            self.heard.changes.truncate(CHANGES_MAX);
        }
    }

    /// Tells what has changed in the configuration, and how.
    pub(super) fn tell_of_config(&mut self, mut fields: serde_json::Value) {
        let changes = std::mem::take(&mut self.heard.changes);
        fields["changes"] = json!(changes);
        match std::mem::take(&mut self.heard.left_out) {
            0 => {}
            more => fields["more_changes"] = json!(more),
        }
        self.notify("config", fields);
    }

    /// Asks the workers, when it is time.
    pub(super) fn pulse(&mut self) {
        if self.subscribers.is_empty() || self.heard.due.is_none_or(|due| self.now < due) {
            return;
        }
        self.heard.due = Some(self.now + PULSE);
        // Nobody waits for the answer; it is bounded as any question is.
        self.wait_for_answers(super::OURSELVES, None, None, Ask::Pulse);
    }

    /// Their answers: tells of drops that come fast.
    pub(super) fn tell_of_pulse(&mut self, found: &Found) {
        if found.incomplete || self.subscribers.is_empty() {
            return;
        }
        let elapsed = self.heard.asked.map(|at| self.now.since(at).as_millis().max(1) as u64);
        self.heard.asked = Some(self.now);
        let counts = found.ports.iter().flat_map(|(&id, counters)| {
            DropReason::ALL.iter().zip(counters.drops).map(move |(&reason, count)| ((id, reason), count))
        });
        let drops: BTreeMap<(PortId, DropReason), u64> = counts.filter(|(_, count)| *count > 0).collect();
        let before = std::mem::replace(&mut self.heard.drops, drops.clone());
        let Some(elapsed) = elapsed else { return };
        for ((id, reason), count) in drops {
            let more = count.saturating_sub(before.get(&(id, reason)).copied().unwrap_or(0));
            let rate = more * 1000 / elapsed;
            let who: Vec<ClientId> = self
                .heard
                .thresholds
                .iter()
                .filter(|(_, threshold)| more > 0 && rate >= **threshold)
                .map(|(&client, _)| client)
                .collect();
            if who.is_empty() {
                continue;
            }
            let fields = json!({
                "port": self.place(Location::Port(id)).0, "reason": reason.name(), "count": count,
                "per_second": rate, "help": reason.help().trim(),
            });
            self.notify_some(&who, "drops", fields);
        }
    }
}
