//! The health of peers: one [`Liveness`] for each peer that is reached directly, packets of other rVMs that do not
//! fit this one's configuration, and the texts for both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use engine::command::{Command, PeerId, Vni};
use engine::counters::{DropReason, Volume};
use engine::time::{Duration, Instant};
use serde_json::json;

use super::Agent;
use super::ask::Ask;
use super::machine::Phase;
use super::pending::Found;
use crate::api::PeerState;
use crate::liveness::{Input, Liveness, Output, State, Unreachable};
use crate::model::Peer;
use crate::reconcile::{self, UPLINK_PORT};

/// How often the agent queries the workers for the traffic between us and the peers.
const LOOK: Duration = Duration::from_secs(1);
/// The most questions per second to all peers together. The rest waits, so that thousands of busy peers cost a
/// bounded number of packets. Confirmations of the path MTU are not included.
const ASKS_PER_SECOND: u32 = 100;
/// The most networks that we remember for each peer because we refuse its packets for them.
const REFUSED_MAX: usize = 16;
/// How long such a refusal stays after the last packet.
const REFUSED: Duration = Duration::from_secs(120);

/// The state machines of all peers, and their shared bounds.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// The state machines by peer, each with the peer's address at its creation.
    machines: BTreeMap<PeerId, (IpAddr, Liveness)>,
    /// The traffic with each peer (sent, received) at the last query, and the time of that query.
    seen: BTreeMap<PeerId, (Volume, Volume)>,
    looked: Option<Instant>,
    /// The underlay's next hop to each peer at that time, and how long it has been so.
    hops: BTreeMap<PeerId, (NextHop, Instant)>,
    look_due: Option<Instant>,
    /// The time at which a state machine is due.
    due: Option<Instant>,
    /// The questions that are left in this second, and the start of that second.
    asks_left: u32,
    asks_since: Instant,
    /// The packets of peers that are dropped here because of their network.
    refused: BTreeMap<(PeerId, Vni), (Instant, DropReason)>,
}

impl Peers {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.look_due).min()
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Liveness> {
        self.machines.get(&id).map(|(_, machine)| machine)
    }

    /// Takes one question from this second's budget.
    fn take_ask(&mut self, now: Instant) -> bool {
        if now.since(self.asks_since) >= Duration::from_secs(1) {
            (self.asks_since, self.asks_left) = (now, ASKS_PER_SECOND);
        }
        let there = self.asks_left > 0;
        self.asks_left -= u32::from(there);
        there
    }
}

/// The underlay's next hop to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NextHop {
    Known,
    Unresolved,
    /// The kernel has no route to the peer.
    NoRoute,
}

/// The state of a peer in words.
pub(super) struct Told {
    pub(super) state: PeerState,
    /// The cause; empty when the peer is up.
    pub(super) why: String,
    /// The remedy; empty when nothing needs one.
    pub(super) how: String,
}

impl Agent {
    /// Brings the state machines in line with the configuration and the uplink.
    pub(super) fn sync_peers(&mut self) {
        let now = self.now;
        let mut before = std::mem::take(&mut self.peers.machines);
        let underlay = self.facts.underlay.clone().or_else(|| self.underlay());
        let live = self.uplink_is_live();
        if let (Some(uplink), Some(underlay)) = (&self.config.uplink, underlay)
            && uplink.probe
        {
            for p in self.config.peer.iter().filter(|p| p.via.is_none() && p.address != underlay.vtep) {
                let Some(id) = self.ids.peer(&p.name) else { continue };
                if p.address.is_ipv4() != underlay.vtep.is_ipv4() {
                    continue;
                }
                let mut machine = match before.remove(&id).filter(|(address, _)| *address == p.address) {
                    Some((_, machine)) => machine,
                    None if live => {
                        let hash = reconcile::stable_hash(&["liveness", &p.name]);
                        Liveness::new(now, self.options.secret.wrapping_add(hash))
                    }
                    None => continue,
                };
                machine.set_vnis(now, reconcile::compile_peer(p, &self.config, &self.ids, &self.facts).vnis);
                self.peers.machines.insert(id, (p.address, machine));
            }
        }
        let there: BTreeSet<PeerId> =
            self.config.peer.iter().filter_map(|p| self.ids.peer(&p.name)).collect();
        self.peers.seen.retain(|id, _| there.contains(id));
        self.peers.hops.retain(|id, _| there.contains(id));
        let networks: BTreeSet<Vni> = self.config.network.iter().filter_map(|n| Vni::new(n.vni)).collect();
        // What was said of a peer's network goes once the configuration has it otherwise.
        let takes_part = |id: PeerId, vni: Vni| {
            let peer = self.config.peer.iter().find(|p| self.ids.peer(&p.name) == Some(id));
            let mut on = self.config.network.iter().filter(|n| n.vni == vni.get());
            peer.is_some_and(|p| on.any(|n| reconcile::takes_part(p, &n.name)))
        };
        self.peers.refused.retain(|&(id, vni), (_, reason)| match reason {
            _ if !there.contains(&id) => false,
            DropReason::PeerNotInVni => networks.contains(&vni) && !takes_part(id, vni),
            _ => !networks.contains(&vni),
        });
        self.peers.look_due = match (there.is_empty(), self.peers.look_due) {
            (true, _) => None,
            (false, due) => Some(due.unwrap_or(now)),
        };
        self.peers.due = self.peers.machines.values().map(|(_, machine)| machine.next_deadline()).min();
    }

    /// Starts again after the uplink was opened. Losses from before, or on another NIC, mean nothing.
    pub(super) fn restart_peers(&mut self) {
        let now = self.now;
        self.peers.machines.values_mut().for_each(|(_, machine)| machine.handle(now, Input::Restart));
        self.sync_peers();
        self.step_peers();
    }

    fn uplink_is_live(&self) -> bool {
        self.attachments.get(&UPLINK_PORT).is_some_and(|a| matches!(a.phase, Phase::Live(_)))
    }

    /// Passes an event to one peer's state machine.
    pub(super) fn peer_input(&mut self, peer: PeerId, input: Input) {
        let now = self.now;
        if let Some((_, machine)) = self.peers.machines.get_mut(&peer) {
            machine.handle(now, input);
            let due = machine.next_deadline();
            self.drain_peers(peer..=peer);
            self.peers.due = self.peers.due.into_iter().chain([due]).min();
        }
    }

    /// Does what is due.
    pub(super) fn step_peers(&mut self) {
        let now = self.now;
        if self.peers.look_due.is_some_and(|due| due <= now) {
            self.peers.look_due = Some(now + LOOK);
            self.wait_for_answers(super::OURSELVES, None, Some(LOOK.as_millis() as u64 * 2), Ask::Look);
        }
        if self.peers.due.is_none_or(|due| now < due) {
            return;
        }
        let due: Vec<PeerId> = self
            .peers
            .machines
            .iter()
            .filter(|(_, (_, machine))| machine.next_deadline() <= now)
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            let Some((_, machine)) = self.peers.machines.get(&id) else { continue };
            let input = match !machine.is_due(now) || self.peers.take_ask(now) {
                true => Input::Time,
                // Spread the questions, so that the peers do not get all of them at the same moment.
                false => Input::Postpone(LOOK + Duration::from_millis(u64::from(id.0) % 1000)),
            };
            if let Some((_, machine)) = self.peers.machines.get_mut(&id) {
                machine.handle(now, input);
            }
        }
        self.drain_peers(PeerId(0)..=PeerId(u16::MAX));
        self.peers.due = self.peers.machines.values().map(|(_, machine)| machine.next_deadline()).min();
    }

    /// Sends the questions of these state machines, and reports changed states.
    fn drain_peers(&mut self, peers: std::ops::RangeInclusive<PeerId>) {
        let (mut asks, mut changed) = (Vec::new(), Vec::new());
        for (&id, (_, machine)) in self.peers.machines.range_mut(peers) {
            while let Some(output) = machine.poll_output() {
                match output {
                    Output::Ask { vni, nonce } => asks.push(Command::AskPeer(id, vni, nonce)),
                    Output::Changed => changed.push(id),
                }
            }
        }
        asks.into_iter().for_each(|ask| self.command(ask));
        changed.dedup();
        for id in changed {
            self.tell_of_peer(id);
        }
    }

    /// Reports a peer's changed state to the log and the subscribers.
    fn tell_of_peer(&mut self, id: PeerId) {
        let Some(p) = self.config.peer.iter().find(|p| self.ids.peer(&p.name) == Some(id)) else { return };
        let told = self.peer_told(p);
        let text = match told.why.as_str() {
            "" => format!("peer \"{}\": {}", p.name, told.state),
            why => format!("peer \"{}\": {}: {why}", p.name, told.state),
        };
        let fields = self.peer_event(p, &told);
        self.log(if told.state == PeerState::Up { "info" } else { "warn" }, text);
        self.notify("peer", fields);
    }

    fn peer_event(&self, p: &Peer, told: &Told) -> serde_json::Value {
        let id = self.ids.peer(&p.name);
        let mut fields = json!({ "peer": p.name, "address": p.address, "state": told.state,
            "resolved": id.and_then(|id| self.hop(id)) == Some(NextHop::Known) });
        if !told.why.is_empty() {
            fields["why"] = json!(told.why);
        }
        fields
    }

    /// Takes the traffic between us and the peers from the workers' answers.
    pub(super) fn looked(&mut self, found: &Found) {
        if found.incomplete {
            return;
        }
        let now = self.now;
        let since = self.peers.looked.replace(now);
        for (&id, row) in &found.peers {
            let hop = match (row.next_mac, row.no_route) {
                (Some(_), _) => NextHop::Known,
                (None, true) => NextHop::NoRoute,
                (None, false) => NextHop::Unresolved,
            };
            let before = self.peers.hops.get(&id).copied().filter(|(before, _)| *before == hop);
            let changed = before.is_none() && self.peers.hops.insert(id, (hop, now)).is_some();
            if changed && let Some(p) = self.config.peer.iter().find(|p| self.ids.peer(&p.name) == Some(id)) {
                let fields = self.peer_event(p, &self.peer_told(p));
                self.notify("peer", fields);
            }
            let Some((tx, rx)) = self.peers.seen.insert(id, (row.tx, row.rx)) else { continue };
            if let Some(since) = since.filter(|_| row.rx.frames > rx.frames) {
                self.peer_input(id, Input::Heard { since });
            }
            if row.tx.frames > tx.frames {
                self.peer_input(id, Input::InUse);
            }
        }
        self.peers.refused.retain(|_, (at, _)| now.since(*at) < REFUSED);
    }

    /// Takes an ICMP error about a packet to `to`.
    pub(super) fn unreachable(&mut self, from: IpAddr, to: IpAddr, port: u16, why: Unreachable) {
        let ours = self.facts.underlay.as_ref().is_some_and(|u| u.vtep == from)
            && self.config.uplink.as_ref().is_some_and(|u| u.port == port);
        let peer = self.config.peer.iter().find(|p| ours && p.via.is_none() && p.address == to);
        if let Some(id) = peer.and_then(|p| self.ids.peer(&p.name)) {
            self.peer_input(id, Input::Unreachable(why));
        }
    }

    /// Notes that a packet of the peer was dropped here because of its network.
    pub(super) fn peer_refused(&mut self, peer: PeerId, vni: Vni, reason: DropReason) {
        let of_peer =
            self.peers.refused.range((peer, Vni::default())..).take_while(|((id, _), _)| *id == peer);
        if of_peer.count() < REFUSED_MAX || self.peers.refused.contains_key(&(peer, vni)) {
            self.peers.refused.insert((peer, vni), (self.now, reason));
        }
    }

    /// Whether this entry is this rVM itself. All rVMs may share one list of all rVMs.
    pub(super) fn is_ourselves(&self, p: &Peer) -> bool {
        reconcile::is_ourselves(p, &self.facts)
    }

    /// The state of a peer in words.
    pub(super) fn peer_told(&self, p: &Peer) -> Told {
        let told = self.answers_told(p);
        match (told.state, self.no_route(p)) {
            (PeerState::Relayed | PeerState::ThisRvm, _) | (_, None) => told,
            (PeerState::Up, Some((why, how))) => Told { state: PeerState::Unreachable, why, how },
            (state, Some((why, how))) => Told { state, why, how },
        }
    }

    /// The cause and remedy when the kernel has no route to a peer.
    fn no_route(&self, p: &Peer) -> Option<(String, String)> {
        let (uplink, underlay) = (self.config.uplink.as_ref()?, self.facts.underlay.as_ref()?);
        let (to, vtep, interface) = (p.address, underlay.vtep, &uplink.interface);
        let id = self.ids.peer(&p.name)?;
        // At the start, routes arrive a moment after peers. A peer that has answered since has a route.
        let answered = self.peers.get(id).and_then(Liveness::answered);
        let lasting = self.peers.hops.get(&id).is_some_and(|&(hop, since)| {
            let lost = answered.map_or(self.now.since(since) >= LOOK, |at| at < since);
            hop == NextHop::NoRoute && lost
        });
        let lost = p.via.is_none() && lasting && self.uplink_is_live();
        lost.then(|| {
            (
                format!("the kernel has no route to {to} from {vtep} out of {interface}"),
                format!(
                    "`ip route get {to} from {vtep} oif {interface}` shows the kernel's answer; add a route \
                     (`ip route add {to} via ROUTER dev {interface}`) or a rule (`ip rule add from {vtep} table TABLE`)"
                ),
            )
        })
    }

    fn hop(&self, id: PeerId) -> Option<NextHop> {
        self.peers.hops.get(&id).map(|(hop, _)| *hop)
    }

    /// The state of a peer in words, from its answers.
    fn answers_told(&self, p: &Peer) -> Told {
        let vtep = self.facts.underlay.as_ref().map(|u| u.vtep);
        let unknown = |why: String| Told { state: PeerState::Unknown, why, how: String::new() };
        if self.is_ourselves(p) {
            let why = format!("{} is this rVM's own address: nothing is sent there", p.address);
            return Told { state: PeerState::ThisRvm, why, how: String::new() };
        }
        if let Some(via) = &p.via {
            return self.relayed_told(via);
        }
        let Some(uplink) = &self.config.uplink else { return unknown("there is no uplink".to_owned()) };
        let machine = self.ids.peer(&p.name).and_then(|id| self.peers.get(id));
        let Some(machine) = machine else {
            let family = vtep.is_some_and(|vtep| vtep.is_ipv4() != p.address.is_ipv4());
            return unknown(match (uplink.probe, family) {
                (_, true) => "its address is of another family than this rVM's".to_owned(),
                (false, _) => "it gets no questions: `probe = false` in [uplink]".to_owned(),
                (true, false) => "the uplink is not open yet".to_owned(),
            });
        };
        let seconds = |at: Instant| self.now.since(at).as_secs();
        let last = machine.answered().map_or_else(
            || "it has never answered".to_owned(),
            |at| format!("its last answer was {} s ago", seconds(at)),
        );
        let here = vtep.map_or_else(|| "this rVM".to_owned(), |vtep| format!("this rVM ({vtep})"));
        let port = uplink.port;
        match machine.state() {
            State::Unknown if !machine.was_tried() => unknown("its first answer is awaited".to_owned()),
            State::Unknown => {
                let heard = machine.heard().map(seconds);
                let (why, how) = match heard {
                    Some(s) => (
                        format!(
                            "it has never answered a probe, as a kernel's VXLAN never does; its last packet \
                             came {s} s ago"
                        ),
                        String::new(),
                    ),
                    None => (
                        format!(
                            "it has never answered: it does not exist, does not have {here} as a peer, or \
                             does not run ivswitchd"
                        ),
                        format!(
                            "on it: `ivctl status`, `ivctl peer list`; between: let UDP {port} pass both ways"
                        ),
                    ),
                };
                Told { state: PeerState::Unknown, why: self.with_next_hop(p, why), how }
            }
            State::Up => Told { state: PeerState::Up, why: String::new(), how: String::new() },
            State::Silent => Told {
                state: PeerState::Silent,
                why: self.with_next_hop(p, format!("silent for {} s; {last}", seconds(machine.since()))),
                how: format!(
                    "on it: `systemctl status ivswitchd`, `ivctl status`; does it have {here} as a peer? Between: let UDP {port} pass"
                ),
            },
            State::OneWay => Told {
                state: PeerState::OneWay,
                why: format!(
                    "it does not answer for {} s, but its packets arrive: one direction is broken; {last}",
                    seconds(machine.since())
                ),
                how: format!("let UDP {port} pass in both directions between {here} and {}", p.address),
            },
            State::Unreachable(why) => {
                let (why, how) = match why {
                    Unreachable::Port => (
                        format!("no program listens at its UDP port {port} (ICMP port unreachable)"),
                        "start the switch on it: `systemctl start ivswitchd`; does its [uplink] have the same \
                         port?"
                            .to_owned(),
                    ),
                    Unreachable::Host => (
                        "the host cannot be reached (ICMP host unreachable)".to_owned(),
                        format!("is it up, and its address right? `ip route get {}` shows the way there", p.address),
                    ),
                    Unreachable::Prohibited => (
                        "a filter forbids it (ICMP administratively prohibited)".to_owned(),
                        format!("let UDP {port} pass both ways between {here} and {}", p.address),
                    ),
                };
                Told { state: PeerState::Unreachable, why: format!("{why}; {last}"), how }
            }
            State::Refuses => {
                let (why, how) = self.refusal_words(p, machine);
                Told { state: PeerState::Refuses, why, how }
            }
        }
    }

    /// Adds the next hop to the cause, because the next hop may explain a silence.
    fn with_next_hop(&self, p: &Peer, why: String) -> String {
        if self.ids.peer(&p.name).and_then(|id| self.hop(id)) == Some(NextHop::Unresolved) {
            format!("{why}; the underlay's next hop to it is not resolved")
        } else {
            why
        }
    }

    /// The state of a peer behind a relay. Only the relay gets questions.
    fn relayed_told(&self, via: &str) -> Told {
        let relay = self.config.peer(via).map(|relay| self.peer_told(relay));
        match relay {
            Some(Told { state: PeerState::Up, .. }) => Told {
                state: PeerState::Relayed,
                why: format!("reached through {via}, which answers; peers behind it get no questions"),
                how: String::new(),
            },
            Some(told) => {
                let why = format!("reached through {via}: {}", told.why);
                Told { why, ..told }
            }
            None => Told { state: PeerState::Unknown, why: format!("there is no {via}"), how: String::new() },
        }
    }

    /// The networks that a peer refuses, in words.
    pub(super) fn refused_names(&self, id: PeerId) -> Vec<String> {
        self.peers.get(id).into_iter().flat_map(Liveness::refused).map(|vni| self.network_name(vni)).collect()
    }

    fn refusal_words(&self, p: &Peer, machine: &Liveness) -> (String, String) {
        let names: Vec<String> = machine
            .refused()
            .take(4)
            .map(|vni| format!("\"{}\" (VNI {vni})", self.network_name(vni)))
            .collect();
        let more = machine.refused().count().saturating_sub(4);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let why = format!(
            "it refuses packets of network {}{more}: it has no such network, or its configuration says that \
             this rVM takes no part in it",
            names.join(", ")
        );
        let how = format!(
            "give it the same `vni` on both rVMs; or set the networks of the peer: `ivctl peer set {} \
             --networks NAME,...`",
            p.name
        );
        (why, how)
    }

    /// The faults of peers, each with its object, cause and remedy.
    pub(super) fn peer_faults(&self) -> Vec<PeerFault> {
        let mut faults = Vec::new();
        for p in &self.config.peer {
            let Some(id) = self.ids.peer(&p.name) else { continue };
            let (told, lost) = (self.peer_told(p), self.no_route(p));
            let heard = || self.peers.get(id).is_some_and(|m| m.heard().is_some());
            let say =
                |network, why: String, how: String| PeerFault { peer: p.name.clone(), network, why, how };
            match told.state {
                PeerState::Up if lost.is_some() => faults.extend(lost.map(|(why, how)| say(false, why, how))),
                PeerState::Up | PeerState::Relayed | PeerState::ThisRvm => {}
                PeerState::Unknown if lost.is_some() => faults.push(say(false, told.why, told.how)),
                // Without questions, or after too few, silence means nothing.
                PeerState::Unknown if told.how.is_empty() || heard() => {}
                // The relay has the fault.
                _ if p.via.is_some() => {}
                _ => faults.push(say(false, told.why, told.how)),
            }
            if let Some(machine) = self.peers.get(id).filter(|m| m.state() == State::Up)
                && machine.refused().next().is_some()
            {
                let (why, how) = self.refusal_words(p, machine);
                faults.push(say(true, why, how));
            }
            let refused =
                self.peers.refused.range((id, Vni::default())..).take_while(|((of, _), _)| *of == id);
            for ((_, vni), (_, reason)) in refused.take(4) {
                let (why, how) = match reason {
                    DropReason::PeerNotInVni => {
                        let name = self.network_name(*vni);
                        (
                            format!(
                                "it sends packets of network \"{name}\" (VNI {vni}), but takes no part in it \
                                 here: they are dropped"
                            ),
                            format!(
                                "add \"{name}\" to its `networks`: `ivctl peer set {} --networks NAME,...`",
                                p.name
                            ),
                        )
                    }
                    _ => (
                        format!("it sends packets of VNI {vni}, which no network here has: they are dropped"),
                        format!(
                            "`ivctl network add NAME --vni {vni}`; or, on the peer, name the networks of this rVM: `ivctl peer set {} --networks NAME,...`",
                            self.facts.name
                        ),
                    ),
                };
                faults.push(say(true, why, how));
            }
        }
        faults
    }
}

/// A fault of a peer.
pub(super) struct PeerFault {
    pub(super) peer: String,
    /// Whether the fault concerns one network rather than the peer as a whole.
    pub(super) network: bool,
    pub(super) why: String,
    pub(super) how: String,
}
