//! Requests that wait: for the workers' answers, for a port to become live, or for the file to be written.

use std::collections::{BTreeMap, BTreeSet};

use engine::command::{
    Answer, DropSample, FdbRow, FloatingId, FloatingRow, Input as WorkerInput, NeighborRow, PeerId, PeerRow,
    PortId, Query, Vni,
};
use engine::counters::{PortCounters, SwitchCounters, Volume};
use engine::time::{Duration, Instant};
use engine::watch::{Seen, Walk};
use engine::wire::mac::MacAddr;
use serde_json::{Value, json};

use super::Agent;
use super::ask::Ask;
use crate::api::{self, Code, Edited, Error};
use crate::io::{ClientId, Output};

/// The most requests that one client may have waiting.
pub(super) const PER_CLIENT_MAX: usize = 64;
/// The most requests that may wait in total.
pub(super) const PENDING_MAX: usize = 1024;

/// A request that waits.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) client: ClientId,
    /// The JSON-RPC id; `None` for a notification, which gets no answer.
    pub(super) id: Option<Value>,
    pub(super) deadline: Instant,
    /// The missing answers: token and worker.
    missing: BTreeSet<(u64, usize)>,
    found: Found,
    kind: Kind,
}

/// The reason for the wait.
#[derive(Debug)]
enum Kind {
    /// An edit: it waits until the workers have it, these ports are settled and the file is written.
    Edit { edited: Edited, ports: Vec<PortId>, edit: u64 },
    /// A query: it waits until all answers are here.
    Ask(Ask),
}

/// The workers' answers so far, added up.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) switch: SwitchCounters,
    pub(super) ports: BTreeMap<PortId, PortCounters>,
    pub(super) fdb_by_network: BTreeMap<Vni, u32>,
    pub(super) fdb: BTreeMap<(Vni, u16, MacAddr), FdbRow>,
    pub(super) neighbors: BTreeMap<(Vni, std::net::IpAddr), NeighborRow>,
    pub(super) floatings: BTreeMap<FloatingId, FloatingRow>,
    pub(super) peers: BTreeMap<PeerId, PeerRow>,
    pub(super) samples: Vec<DropSample>,
    /// The dry run of one worker; all workers would give the same.
    pub(super) walk: Option<Walk>,
    pub(super) seen: Vec<Seen>,
    pub(super) seen_lost: u64,
    /// Whether rows were left out.
    pub(super) cut: bool,
    /// Whether a worker did not answer in time.
    pub(super) incomplete: bool,
}

/// The most drop samples in one answer; one for each port and reason is enough.
const SAMPLES_MAX: usize = 4096;

impl Agent {
    /// The time by which a request with this timeout gets an answer.
    pub(super) fn deadline(&self, timeout_ms: Option<u64>) -> Instant {
        let ms = timeout_ms.unwrap_or(api::TIMEOUT_MS_DEFAULT).min(api::TIMEOUT_MS_MAX);
        self.now + Duration::from_millis(ms)
    }

    /// Answers a request when all data for `ask` is here.
    pub(super) fn wait_for_answers(
        &mut self,
        client: ClientId,
        id: Option<Value>,
        timeout_ms: Option<u64>,
        ask: Ask,
    ) {
        let queries = ask.queries();
        let deadline = self.deadline(timeout_ms);
        let mut missing = BTreeSet::new();
        let number = self.number();
        for query in queries {
            self.query(number, query, &mut missing);
        }
        let found = Found::default();
        self.pending.insert(number, Pending { client, id, deadline, missing, found, kind: Kind::Ask(ask) });
    }

    /// Answers a request when an edit is in force and saved. A query follows the commands to every worker; its answer
    /// proves that the worker has taken them.
    pub(super) fn wait_for_effect(
        &mut self,
        client: ClientId,
        id: Option<Value>,
        timeout_ms: Option<u64>,
        edited: Edited,
        ports: Vec<PortId>,
    ) {
        let deadline = self.deadline(timeout_ms);
        let mut missing = BTreeSet::new();
        let number = self.number();
        if edited.changed && deadline > self.now {
            self.query(number, Query::Peers, &mut missing);
        }
        let kind = Kind::Edit { edited, ports, edit: self.persist.edit };
        let found = Found::default();
        self.pending.insert(number, Pending { client, id, deadline, missing, found, kind });
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Sends a query to every worker.
    fn query(&mut self, pending: u64, query: Query, missing: &mut BTreeSet<(u64, usize)>) {
        let token = self.number();
        self.tokens.insert(token, pending);
        missing.extend((0..self.options.workers).map(|worker| (token, worker)));
        self.outputs.push_back(Output::Worker(WorkerInput::Query(token, query)));
    }

    /// Takes a worker's answer, and asks for the next page if there is one.
    pub(super) fn answer(&mut self, worker: usize, token: u64, answer: Answer) {
        let Some(&number) = self.tokens.get(&token) else { return };
        let Some(mut p) = self.pending.remove(&number) else { return };
        if p.missing.remove(&(token, worker)) {
            let more = p.found.add(answer);
            if p.missing.range((token, 0)..=(token, usize::MAX)).next().is_none() {
                self.tokens.remove(&token);
            }
            if let Some(query) = more.filter(|_| matches!(p.kind, Kind::Ask(_))) {
                // The cursor belongs to this worker, so only this worker gets the query for the next page.
                let next = self.number();
                self.tokens.insert(next, number);
                p.missing.insert((next, worker));
                self.outputs.push_back(Output::Worker(WorkerInput::Query(next, query)));
            }
        }
        self.pending.insert(number, p);
    }

    /// Answers every request that is complete or has waited long enough.
    pub(super) fn finish_pending(&mut self) {
        let ready = |agent: &Self, p: &Pending| {
            let effective = match &p.kind {
                Kind::Ask(_) => true,
                Kind::Edit { ports, edit, .. } => {
                    agent.persist.tried >= *edit && ports.iter().all(|&id| agent.settled(id))
                }
            };
            p.deadline <= agent.now || (p.missing.is_empty() && effective)
        };
        let ready: Vec<u64> = self.pending.iter().filter(|(_, p)| ready(self, p)).map(|(&n, _)| n).collect();
        for number in ready {
            let Some(p) = self.pending.remove(&number) else { continue };
            for (token, _) in &p.missing {
                self.tokens.remove(token);
            }
            self.finish(p);
        }
    }

    fn settled(&self, id: PortId) -> bool {
        self.attachments.get(&id).is_none_or(super::machine::Attachment::settled)
    }

    fn finish(&mut self, p: Pending) {
        let Pending { client, id, missing, mut found, kind, .. } = p;
        found.incomplete = !missing.is_empty();
        let result = match kind {
            Kind::Ask(ask) => self.answered(ask, &found),
            Kind::Edit { edited, ports, edit } => self.effect(edited, &ports, edit, found.incomplete),
        };
        self.respond(client, id, result);
    }

    fn effect(
        &self,
        mut edited: Edited,
        ports: &[PortId],
        edit: u64,
        incomplete: bool,
    ) -> Result<Value, Error> {
        for id in ports {
            let Some(a) = self.attachments.get(id) else { continue };
            let (state, why) = a.state();
            match state {
                "live" | "disabled" | "quarantined" => {}
                "err-disabled" => edited.warnings.push(format!("port \"{}\": {why}", a.name)),
                "opening" => {
                    return Err(Error::new(
                        Code::Timeout,
                        format!("port \"{}\" is set but not live yet", a.name),
                        why,
                        format!("it goes on in the background; see `ivctl port show {}`", a.name),
                    ));
                }
                "waiting" => edited.warnings.push(format!("port \"{}\" is {why}", a.name)),
                _ => edited
                    .warnings
                    .push(format!("port \"{}\": {why}; it is tried again automatically", a.name)),
            }
        }
        if incomplete {
            return Err(Error::new(
                Code::Timeout,
                "the change is made, but not every worker has confirmed it",
                "a worker did not answer in time",
                "see `ivctl status`; a longer --timeout may help",
            ));
        }
        if self.options.persist && self.persist.tried < edit {
            edited.warnings.push("the configuration is not saved yet".to_owned());
        } else if let Some(why) = &self.persist.failure {
            edited
                .warnings
                .push(format!("the configuration is not saved: {why}; a restart would lose the change"));
        }
        Ok(json!(edited))
    }
}

impl Found {
    /// Adds an answer. Returns the query for the next page.
    fn add(&mut self, answer: Answer) -> Option<Query> {
        match answer {
            Answer::Counters { switch, ports, fdb_by_network, .. } => {
                self.switch += *switch;
                for (id, c) in ports {
                    *self.ports.entry(id).or_default() += &c;
                }
                for (vni, count) in fdb_by_network {
                    // Workers may know the same addresses, so take the maximum and not the sum.
                    let most = self.fdb_by_network.entry(vni).or_default();
                    *most = count.max(*most);
                }
                None
            }
            Answer::Fdb(rows, next) => {
                for row in rows {
                    let full = self.fdb.len() >= api::ROWS_MAX;
                    match self.fdb.get_mut(&(row.vni, row.vid, row.mac)) {
                        Some(seen) if seen.idle <= row.idle => {}
                        Some(seen) => *seen = row,
                        None if full => self.cut = true,
                        None => {
                            self.fdb.insert((row.vni, row.vid, row.mac), row);
                        }
                    }
                }
                next.filter(|_| !self.cut).map(Query::Fdb)
            }
            Answer::Neighbors(rows, next) => {
                for row in rows {
                    let full = self.neighbors.len() >= api::ROWS_MAX;
                    match self.neighbors.get_mut(&(row.vni, row.ip)) {
                        Some(seen) if row.mac.is_none() || (seen.mac.is_some() && seen.idle <= row.idle) => {}
                        Some(seen) => *seen = row,
                        None if full => self.cut = true,
                        None => {
                            self.neighbors.insert((row.vni, row.ip), row);
                        }
                    }
                }
                next.filter(|_| !self.cut).map(Query::Neighbors)
            }
            Answer::Floating(rows) => {
                for row in rows {
                    let FloatingRow { id, next_mac, location, inbound, outbound } = row;
                    let sum = self.floatings.entry(id).or_insert(FloatingRow {
                        id,
                        next_mac: None,
                        location: None,
                        inbound: Volume::default(),
                        outbound: Volume::default(),
                    });
                    sum.next_mac = sum.next_mac.or(next_mac);
                    sum.location = sum.location.or(location);
                    sum.inbound += inbound;
                    sum.outbound += outbound;
                }
                None
            }
            Answer::Peers(rows) => {
                for row in rows {
                    let sum = self.peers.entry(row.id).or_insert(PeerRow {
                        id: row.id,
                        next_mac: None,
                        no_route: row.no_route,
                        tx: Volume::default(),
                        rx: Volume::default(),
                    });
                    sum.next_mac = sum.next_mac.or(row.next_mac);
                    sum.tx += row.tx;
                    sum.rx += row.rx;
                }
                None
            }
            Answer::DropSamples(samples) => {
                let room = SAMPLES_MAX.saturating_sub(self.samples.len());
                self.samples.extend(samples.into_iter().take(room));
                None
            }
            Answer::Trace(walk) => {
                self.walk.get_or_insert(walk);
                None
            }
            Answer::Seen(seen, lost) => {
                self.seen.extend(seen);
                self.seen_lost += lost;
                None
            }
        }
    }
}
