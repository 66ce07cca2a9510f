//! Events for subscribers: ports, stations, peers, flushes, configurations, and high drop rates. Most are sent when
//! something changes. Drop rates need the workers' counters, so the agent queries the workers once a second while
//! there are subscribers.

use std::collections::BTreeMap;

use engine::command::{Location, PortId, Vni};
use engine::counters::DropReason;
use engine::time::{Duration, Instant};
use engine::wire::mac::MacAddr;
use serde_json::json;

use super::Agent;
use super::ask::Ask;
use super::pending::Found;
use crate::io::ClientId;
use crate::model::{self, Change, Config};

/// The interval between two queries to the workers.
const PULSE: Duration = Duration::from_secs(1);

/// The drop rate of one reason at one port, per second, that causes an event unless a subscriber chooses another.
pub(super) const DROPS_PER_SECOND: u64 = 100;

/// The most changes of the configuration that one event lists; `ivctl config show` has everything.
const CHANGES_MAX: usize = 100;

/// The state that subscribers already know.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Name, state and carrier of each port.
    ports: BTreeMap<PortId, (String, &'static str, bool)>,
    /// The drop counters at the last query, and its time.
    drops: BTreeMap<(PortId, DropReason), u64>,
    asked: Option<Instant>,
    /// The changes of the configuration since the last event, and how many more were left out.
    changes: Vec<Change>,
    left_out: usize,
    /// The time of the next query to the workers.
    pub(super) due: Option<Instant>,
    /// The drop rate, per second, from which each subscriber wants an event.
    thresholds: BTreeMap<ClientId, u64>,
}

impl Agent {
    /// Adds a subscriber. It receives changes from now on, but not the present state.
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

    /// Sends an event for each port whose state has changed since the last call.
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

    /// Sends an event about a flush: a command removed entries of a table, for one network, port or peer, or all.
    pub(super) fn tell_of_flush(&mut self, table: &str, which: &[(&str, &Option<String>)]) {
        let mut fields = json!({ "table": table });
        for (key, value) in which.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            fields[key] = json!(value);
        }
        self.notify("flush", fields);
    }

    /// Collects the changes between the present configuration and `after`, for the next event.
    pub(super) fn note_changes(&mut self, after: &Config) {
        if !self.subscribers.is_empty() {
            let changes = model::diff(&self.config, after);
            self.heard.left_out += (self.heard.changes.len() + changes.len()).saturating_sub(CHANGES_MAX);
            self.heard.changes.extend(changes);
            self.heard.changes.truncate(CHANGES_MAX);
        }
    }

    /// Sends an event with the collected changes of the configuration, and with `fields` for their origin.
    pub(super) fn tell_of_config(&mut self, mut fields: serde_json::Value) {
        let changes = std::mem::take(&mut self.heard.changes);
        fields["changes"] = json!(changes);
        match std::mem::take(&mut self.heard.left_out) {
            0 => {}
            more => fields["more_changes"] = json!(more),
        }
        self.notify("config", fields);
    }

    /// Queries the workers when it is time.
    pub(super) fn pulse(&mut self) {
        if self.subscribers.is_empty() || self.heard.due.is_none_or(|due| self.now < due) {
            return;
        }
        self.heard.due = Some(self.now + PULSE);
        // No client waits for the answer. Like every query, it ends after a bounded time.
        self.wait_for_answers(super::OURSELVES, None, None, Ask::Pulse);
    }

    /// Takes the workers' answers, and sends events for high drop rates.
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
