//! The agent: desired state goes in, commands to the workers and requests to the machine come out. The agent is
//! sans-I/O: it owns no socket, clock or thread. The caller reports each event and the time with [`Agent::handle`],
//! carries out every [`Agent::poll_output`], and calls again at [`Agent::next_deadline`].
//!
//! The agent never sees a frame. A failure in the agent or of one interface does not disturb the forwarding on all
//! other interfaces.

mod ask;
mod configure;
mod edit;
mod events;
mod links;
mod machine;
mod mtu;
mod paths;
mod peers;
mod pending;
mod problems;
mod request;
mod shapes;
mod show;
mod shown;
mod strangers;
mod twins;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use engine::command::{Command, Event, Input as WorkerInput, PortId, UnderlayRoutes};
use engine::time::{Duration, Instant};
use engine::watch::WatchId;
use engine::wire::mac::MacAddr;

use crate::api;
use crate::io::{
    CacheMode, CacheStats, ClientId, ClosePlan, CloseState, Input, Output, SteerPlan, Steered, WorkerStats,
};
use crate::liveness;
use crate::model::{self, Config, ConfigError, DropIn, Layered, Origins};
use crate::reconcile::{self, Facts, Ids, State};
use links::Links;
use machine::Attachment;
use paths::Paths;
use peers::Peers;
use pending::Pending;
use strangers::Strangers;
use twins::Twins;

/// The most interfaces that the agent remembers. A host has hundreds; the limit bounds memory against a runaway.
const LINKS_MAX: usize = 16_384;
/// The most underlay neighbours that the agent remembers; bounds memory. [`engine::limits::PEERS_MAX`] is the most
/// that can be needed.
const NEIGHBORS_MAX: usize = 8_192;
/// The shortest time between two requests to resolve an underlay next hop, however many workers want it.
const RESOLVE_PAUSE: Duration = Duration::from_millis(500);
/// The pause before another attempt to save the configuration.
const PERSIST_RETRY: Duration = Duration::from_secs(30);

/// Stands for the agent itself, whose queries no client waits for.
const OURSELVES: ClientId = ClientId(u64::MAX);

/// The parameters of a new agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The host name; it is the rVM's name if the configuration gives none.
    pub hostname: String,
    /// The text of the configuration; `None` starts empty.
    pub config_text: Option<String>,
    /// The drop-ins.
    pub drop_ins: Vec<DropIn>,
    /// The main file's path, for people and for `ivctl config diff`.
    pub config_path: PathBuf,
    /// Whether the agent writes edits back through [`Output::Persist`].
    pub persist: bool,
    /// The number of workers that carry out [`Output::Worker`]; each of them answers a query.
    pub workers: usize,
    /// The daemon's version, for `ivctl status`.
    pub version: String,
    /// A random number that others cannot guess. It determines the nonces that answers to path probes must contain.
    pub secret: u64,
    /// A number that no other rVM has, even one with the same name; MAC addresses follow from it. With `None`, they
    /// follow from the name.
    pub identity: Option<u64>,
    /// The place where the number is kept, for people.
    pub identity_file: Option<String>,
}

impl Default for Options {
    /// The options of an empty start with one worker on host `rvm`, without a file.
    fn default() -> Self {
        Self {
            hostname: "rvm".to_owned(),
            config_text: None,
            drop_ins: Vec::new(),
            config_path: PathBuf::new(),
            persist: false,
            workers: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            secret: 0,
            identity: None,
            identity_file: None,
        }
    }
}

/// The control plane of one rVM.
#[derive(Debug)]
pub struct Agent {
    options: Options,
    started: Instant,
    now: Instant,
    /// The last reading of the wall clock, and the time of the reading.
    wall: Option<(Instant, SystemTime)>,
    /// The workers' settings at the start; the daemon reads them only then.
    workers: model::Workers,
    /// The configuration in force, from all files together.
    config: Config,
    /// The main file's part and its text. The text lacks the latest edits while it is `stale`.
    main: Config,
    /// The parts that come from drop-ins.
    origins: Origins,
    text: String,
    stale: bool,
    drop_ins: Vec<DropIn>,
    trial: Option<configure::Trial>,
    ids: Ids,
    /// The observed state of the machine, and the state that the workers have.
    facts: Facts,
    told: State,
    steered: SteerPlan,
    /// The last plan that was sent. It is `None` at the start, so that the first plan replaces what an earlier
    /// process left behind.
    closed_plan: Option<ClosePlan>,
    closed: CloseState,
    uplink_steered: Option<Steered>,
    watched: Option<String>,
    attachments: BTreeMap<PortId, Attachment>,
    links: Links,
    routes: UnderlayRoutes,
    neighbors: BTreeMap<IpAddr, MacAddr>,
    resolving: BTreeMap<IpAddr, Instant>,
    paths: Paths,
    peers: Peers,
    strangers: Strangers,
    twins: Twins,
    stats: Vec<WorkerStats>,
    cache: CacheStats,
    /// The last mode that was sent to the kernel offload.
    cache_told: Option<CacheMode>,
    subscribers: BTreeSet<ClientId>,
    /// Clients that may only read.
    readers: BTreeSet<ClientId>,
    heard: events::Told,
    captures: BTreeMap<WatchId, watch::Capture>,
    /// The clients that wait for an answer about the log, in the order of their requests.
    log_asked: VecDeque<(ClientId, Option<serde_json::Value>)>,
    pending: BTreeMap<u64, Pending>,
    /// The open queries: token to pending request.
    tokens: BTreeMap<u64, u64>,
    next_number: u64,
    persist: Persist,
    /// Why the last reload of the files was refused.
    refused: Option<String>,
    outputs: VecDeque<Output>,
}

/// How far the file lags behind the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Persist {
    /// The number of the last edit.
    edit: u64,
    /// The edit that is being written.
    writing: Option<u64>,
    /// The last edit that was written, or whose write failed.
    tried: u64,
    /// Why the last write failed.
    failure: Option<String>,
    retry: Option<Instant>,
}

impl Agent {
    /// Creates an agent with its initial configuration. The first outputs are ready immediately.
    ///
    /// # Errors
    /// All errors in the configuration.
    pub fn new(now: Instant, options: Options) -> Result<Self, Vec<ConfigError>> {
        let hostname = model::name_of_host(&options.hostname);
        let text = options.config_text.clone().unwrap_or_default();
        let layers = model::parse_layers(&text, &options.drop_ins, Some(&hostname))?;
        let mut agent = Self {
            drop_ins: options.drop_ins,
            options: Options { hostname, config_text: None, drop_ins: Vec::new(), ..options },
            started: now,
            now,
            wall: None,
            workers: layers.whole.workers.clone(),
            config: Config::default(),
            main: Config::default(),
            origins: Origins::default(),
            text: String::new(),
            stale: false,
            trial: None,
            ids: Ids::default(),
            facts: Facts::default(),
            told: State::default(),
            steered: SteerPlan::default(),
            closed_plan: None,
            closed: CloseState::default(),
            uplink_steered: None,
            watched: None,
            attachments: BTreeMap::new(),
            links: Links::default(),
            routes: UnderlayRoutes::default(),
            neighbors: BTreeMap::new(),
            resolving: BTreeMap::new(),
            paths: Paths::default(),
            peers: Peers::default(),
            strangers: Strangers::default(),
            twins: Twins::default(),
            stats: Vec::new(),
            cache: CacheStats::default(),
            cache_told: None,
            subscribers: BTreeSet::new(),
            readers: BTreeSet::new(),
            heard: events::Told::default(),
            captures: BTreeMap::new(),
            log_asked: VecDeque::new(),
            pending: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_number: 1,
            persist: Persist::default(),
            refused: None,
            outputs: VecDeque::new(),
        };
        agent.install(layers, text);
        Ok(agent)
    }

    /// Takes one event.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.advance(now);
        match input {
            Input::Request(client, line) => self.request(client, &line),
            Input::ReadOnly(client) => drop(self.readers.insert(client)),
            Input::Hangup(client) => self.hangup(client),
            Input::Link(link) => self.link(link),
            Input::LinkGone(name) => self.link_gone(&name),
            Input::UnderlayRoutes(routes) => {
                if routes != self.routes {
                    self.command(Command::SetUnderlayRoutes(routes.clone()));
                    self.routes = routes;
                }
            }
            Input::UnderlayNeighbor(ip, mac) => self.neighbor(ip, mac),
            Input::PortOpened(id, facts) => self.port_opened(id, facts),
            Input::PortFailed(id, why) => self.port_failed(id, &why),
            Input::PortDown(id, down) => self.port_down(id, down),
            Input::GuestIo(id, io) => {
                if let Some(a) = self.attachments.get_mut(&id) {
                    a.guest_io = Some(io);
                }
            }
            Input::DoorFailed(id, fault) => self.door_failed(id, &fault),
            Input::Unreachable { from, to, port, why } => self.unreachable(from, to, port, why),
            Input::Event(worker, event) => self.event(worker, event),
            Input::Persisted(result) => self.persisted(result),
            Input::Reload { text, drop_ins } => self.reload(text, drop_ins),
            Input::Unreadable(why) => self.refused = Some(why),
            Input::WorkerStats(stats) => self.stats = stats,
            Input::WallClock(time) => self.wall = Some((self.now, time)),
            Input::CacheStats(stats) => self.cache = stats,
            Input::Steered(steered) => self.uplink_steered = Some(steered),
            Input::Closed(state) => self.heard_closed(state),
            Input::KernelDrops(id, drops) => {
                if let Some(attachment) = self.attachments.get_mut(&id) {
                    attachment.kernel_drops = drops;
                }
            }
            Input::LogFilter(result) => self.log_filter(result),
        }
        self.finish_pending();
        self.tell_of_ports();
    }

    /// Takes the time, when no event came before [`Agent::next_deadline`].
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.finish_pending();
        self.tell_of_ports();
    }

    /// The next output, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The latest time for the next call of [`Agent::handle_timeout`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let retries = self.attachments.values().filter_map(Attachment::deadline);
        let waits = self.pending.values().map(|p| p.deadline);
        let trial = self.trial.as_ref().map(configure::Trial::until);
        retries
            .chain(waits)
            .chain(self.persist.retry)
            .chain(self.paths.next_deadline())
            .chain(self.peers.next_deadline())
            .chain(trial)
            .chain(self.heard.due)
            .min()
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The id of the port with this name; the uplink is called `uplink`.
    #[must_use]
    pub fn port_id(&self, name: &str) -> Option<PortId> {
        if name == "uplink" && self.config.uplink.is_some() {
            return Some(reconcile::UPLINK_PORT);
        }
        self.ids.port(name)
    }

    /// Whether the port with this name forwards.
    #[must_use]
    pub fn port_live(&self, name: &str) -> bool {
        self.port_id(name).is_some_and(|id| self.told.ports.get(&id).is_some_and(|(_, p)| p.live))
    }

    /// The name of this rVM.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// Moves the clock forward and does whatever became due. The clock never goes back.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let due = |a: &Attachment| a.deadline().is_some_and(|at| at <= self.now);
        let due: Vec<PortId> = self.attachments.iter().filter(|(_, a)| due(a)).map(|(&id, _)| id).collect();
        for id in due {
            self.step(id);
        }
        self.step_paths();
        self.step_peers();
        if self.persist.retry.is_some_and(|at| at <= self.now) {
            self.persist.retry = None;
            self.save();
        }
        self.check_trial();
        self.pulse();
    }

    /// Puts a valid configuration in force; `text` is its main file.
    fn install(&mut self, layers: Layered, text: String) {
        self.install_edit(layers);
        self.text = text;
        self.stale = false;
    }

    /// The text of the main file, up to date. The operator's comments survive edits where possible.
    fn current_text(&mut self) -> &str {
        if std::mem::take(&mut self.stale) {
            self.text = model::rewrite(&self.text, &self.main);
        }
        &self.text
    }

    /// Puts a valid configuration in force that the text does not contain yet.
    fn install_edit(&mut self, layers: Layered) {
        let Layered { whole: config, main, origins } = layers;
        self.note_changes(&config);
        (self.main, self.origins) = (main, origins);
        let name = config.name.clone().unwrap_or_else(|| self.options.hostname.clone());
        self.ids.assign(&config);
        self.config = config;
        self.stale = true;
        self.facts.identity = self.options.identity.unwrap_or_else(|| reconcile::stable_hash(&[&name]));
        self.facts.name = name;
        let watch = self.config.uplink.as_ref().map(|u| u.interface.clone());
        if self.watched != watch {
            self.watched.clone_from(&watch);
            // With another NIC, all observations about the previous one are obsolete.
            self.facts.underlay = None;
            self.outputs.push_back(Output::WatchUnderlay(watch));
        }
        let cache = self.config.cache;
        if self.cache_told.replace(cache) != Some(cache) {
            self.outputs.push_back(Output::Cache(cache));
        }
        self.attach_all();
    }

    fn command(&mut self, command: Command) {
        self.outputs.push_back(Output::Worker(WorkerInput::Command(command)));
    }

    fn log(&mut self, level: &'static str, text: impl Into<String>) {
        self.outputs.push_back(Output::Log(level, text.into()));
    }

    /// Sends an event to all subscribers.
    fn notify(&mut self, event: &str, fields: serde_json::Value) {
        let all: Vec<ClientId> = self.subscribers.iter().copied().collect();
        self.notify_some(&all, event, fields);
    }

    fn notify_some(&mut self, who: &[ClientId], event: &str, mut fields: serde_json::Value) {
        if who.is_empty() {
            return;
        }
        fields["event"] = event.into();
        if let Some((at, wall)) = self.wall {
            fields["time"] = humantime::format_rfc3339_millis(wall + self.now.since(at)).to_string().into();
        }
        let line = serde_json::json!({ "jsonrpc": "2.0", "method": "event", "params": fields }).to_string();
        for &client in who {
            self.outputs.push_back(Output::Reply(client, line.clone()));
        }
    }

    /// Answers a request about the log: the filter in force, or why a filter was refused.
    fn log_filter(&mut self, result: Result<String, String>) {
        let Some((client, id)) = self.log_asked.pop_front() else { return };
        let answer = result.map(|filter| serde_json::json!(api::LogShown { filter })).map_err(|why| {
            let how = "give error, warn, info, debug, trace, or a filter such as ivswitchd::links=debug";
            api::Error::new(api::Code::Failed, "the log filter is not changed", model::clean(&why), how)
        });
        self.respond(client, id, answer);
    }

    fn heard_closed(&mut self, state: CloseState) {
        if state.restored > self.closed.restored {
            self.log(
                "warn",
                "another program removed or changed the table \"inet ivswitch\" of nftables, which closes \
                 reality addresses to the kernel; it was restored",
            );
        }
        if !state.why.is_empty() && state.why != self.closed.why {
            self.log("error", format!("reality addresses are not closed to the kernel: {}", state.why));
        }
        self.closed = state;
    }

    fn hangup(&mut self, client: ClientId) {
        self.unsubscribe(client);
        self.stop_captures(client);
        self.readers.remove(&client);
        self.pending.retain(|_, p| p.client != client);
        let pending = &self.pending;
        self.tokens.retain(|_, number| pending.contains_key(number));
    }

    fn neighbor(&mut self, ip: IpAddr, mac: Option<MacAddr>) {
        match mac {
            Some(mac) => {
                self.resolving.remove(&ip);
                if self.neighbors.len() >= NEIGHBORS_MAX && !self.neighbors.contains_key(&ip) {
                    return;
                }
                // Sent even if the address is known, because the update says that the neighbour answered just now.
                self.neighbors.insert(ip, mac);
                self.command(Command::SetUnderlayNeighbor(ip, mac));
            }
            None => {
                if self.neighbors.remove(&ip).is_some() {
                    self.command(Command::RemoveUnderlayNeighbor(ip));
                }
            }
        }
    }

    fn event(&mut self, worker: usize, event: Event) {
        match event {
            Event::Resolve(ip) => self.resolve(ip),
            Event::Learned(vni, vid, mac, location, moved) => {
                self.look_for_twin(mac, location);
                self.tell_of_station(vni, vid, mac, location, moved);
            }
            Event::PathAnswered(peer, size, nonce) => self.path_answered(peer, size, nonce),
            Event::PathAsked(peer) => {
                self.path_asked(peer);
                self.peer_input(peer, liveness::Input::AskedUs);
            }
            Event::PeerRefuses(peer, vni, nonce) => {
                self.peer_input(peer, liveness::Input::Refused { vni, nonce });
            }
            Event::PeerRefused(peer, vni, reason) => self.peer_refused(peer, vni, reason),
            Event::Stranger(ip, vni) => self.stranger(ip, vni),
            Event::FloatingClaimed(vni, ip, peer, mac, owner) => {
                self.floating_claimed(vni, ip, peer, mac, owner);
            }
            Event::PeerNamed(peer, name) => self.peer_named(peer, name),
            Event::OurMac(peer, mac) => self.our_mac(peer, mac),
            Event::Bpdu(port) => self.bpdu(port),
            Event::Reply(token, answer) => self.answer(worker, token, answer),
        }
    }

    fn resolve(&mut self, ip: IpAddr) {
        let now = self.now;
        if self.resolving.get(&ip).is_some_and(|&at| now < at + RESOLVE_PAUSE) {
            return;
        }
        if self.resolving.len() >= NEIGHBORS_MAX {
            self.resolving.retain(|_, at| now < *at + RESOLVE_PAUSE);
            if self.resolving.len() >= NEIGHBORS_MAX {
                return;
            }
        }
        self.resolving.insert(ip, now);
        self.outputs.push_back(Output::Resolve(ip));
    }

    /// Saves an edit to the file.
    fn edited(&mut self) {
        self.persist.edit += 1;
        self.save();
        self.tell_of_config(serde_json::json!({ "edit": self.persist.edit }));
    }

    fn save(&mut self) {
        if !self.options.persist {
            self.persist.tried = self.persist.edit;
        } else if self.persist.writing.is_none() {
            self.persist.writing = Some(self.persist.edit);
            // A commit-confirmed configuration is not saved before its confirmation.
            let text = match &self.trial {
                Some(trial) => trial.text_before().to_owned(),
                None => self.current_text().to_owned(),
            };
            self.outputs.push_back(Output::Persist(text));
        }
    }

    fn persisted(&mut self, result: Result<(), String>) {
        let Some(edit) = self.persist.writing.take() else { return };
        self.persist.tried = edit;
        match result {
            Ok(()) => {
                self.persist.failure = None;
                self.persist.retry = None;
            }
            Err(why) => {
                let why = model::clean(&why);
                self.log("warn", format!("the configuration is not saved: {why}"));
                self.persist.failure = Some(why);
                self.persist.retry = Some(self.now + PERSIST_RETRY);
            }
        }
        // Save the edits that were made during the write.
        if self.persist.tried < self.persist.edit {
            self.save();
        }
    }
}
