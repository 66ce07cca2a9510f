//! An rVM: the production worker and agent between ports in memory. The simulator plays the kernel around them:
//! interfaces, routes, neighbours, steering, doors, the configuration file.

mod port;
mod query;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use ctl::agent::{Agent, Options};
use ctl::io::{ClientId, Input, LinkFacts, Output, PortFacts, SteerPlan};
use engine::command::{Input as EngineInput, IpPrefix, PortId, UnderlayHop, UnderlayRoutes};
use engine::counters::SwitchCounters;
use engine::frame::{FramePool, HeapPool, Offload};
use engine::handoff::{Spread, mesh};
use engine::mailbox::{MailboxHandle, mailbox};
use engine::port::PortCaps;
use engine::time::Instant;
use engine::wire::mac::MacAddr;
use engine::worker::Worker;

use port::{MemoryPort, MultiPort, Shared, lock};

use crate::checks;
use crate::node::{Ctx, Wire};
use crate::prng::Prng;
use crate::{packet, steer};

/// The interface number of the uplink.
pub const UPLINK: usize = 0;
/// Tokens of the simulator's own queries have this bit.
const TOKEN: u64 = 1 << 63;
/// How long frames gather before a batching worker is polled.
const BATCH_NS: u64 = 30_000;
/// Time that a kernel takes to resolve a neighbour.
pub const RESOLVE_NS: u64 = 300_000;
/// Frames held for one unresolved neighbour, as Linux does (roughly: `unres_qlen_bytes`).
const UNRESOLVED_MAX: usize = 64;

/// A network interface of the rVM.
#[derive(Debug)]
pub struct Interface {
    /// Its number among the node's interfaces, which is also the end of the link plugged in there.
    pub number: usize,
    facts: LinkFacts,
    /// Whether the interface exists now.
    present: bool,
    /// The switch port that opened it.
    open: Option<PortId>,
    caps: PortCaps,
    /// One for each queue; flows are spread over them as a NIC does.
    queues: Vec<Shared>,
    /// How many queues it is to have; `None`: one for each worker.
    queue_count: Option<usize>,
    workers: usize,
}

impl Interface {
    /// Replaces the queues by new, empty ones.
    fn renew(&mut self) {
        let count = self.queue_count.unwrap_or(self.workers);
        self.queues = (0..count).map(|_| Shared::default()).collect();
    }
}

/// The rVM's history, for tests to look at.
#[derive(Debug, Default)]
pub struct Journal {
    /// The agent's log: level and text.
    pub log: Vec<(&'static str, String)>,
    /// Replies and notifications to control clients.
    pub replies: Vec<(ClientId, String)>,
    /// Frames of the uplink that stayed with the kernel.
    pub kernel_rx: Vec<Vec<u8>>,
    /// Frames punted to the kernel.
    pub punted: u64,
    /// Interfaces of the ports that were opened.
    pub opened: Vec<String>,
    /// Times the configuration file was replaced.
    pub persisted: u32,
    /// The results of reloads.
    pub reloads: Vec<Result<bool, Vec<ctl::model::ConfigError>>>,
}

struct Life {
    agent: Agent,
    workers: Vec<Laborer>,
    host: Shared,
    plan: SteerPlan,
    watching: bool,
}

/// A worker, and the agent's channel to it.
struct Laborer {
    worker: Worker<HeapPool>,
    mailbox: MailboxHandle,
    backlog: VecDeque<EngineInput>,
}

/// An rVM as a node of the world.
pub struct Rvm {
    /// Its name, also in configurations.
    pub name: String,
    /// The configuration file.
    pub config: String,
    /// Its NIC in the cloud.
    pub nic: usize,
    life: Option<Life>,
    interfaces: BTreeMap<String, Interface>,
    next_index: u32,
    /// The kernel's routes through the uplink.
    pub routes: UnderlayRoutes,
    neighbors: BTreeMap<IpAddr, MacAddr>,
    unresolved: BTreeMap<IpAddr, Vec<Vec<u8>>>,
    /// Neighbours that the kernel has to resolve; the world answers.
    pub asked: Vec<IpAddr>,
    /// Frames gather into batches instead of being polled one by one.
    pub batching: bool,
    /// Number of workers from the next start on.
    pub workers: usize,
    /// Workers are polled in a random order, and sometimes skipped.
    chance: Prng,
    /// Small slots of the frame pool.
    pub pool_slots: u32,
    /// Large slots of the frame pool.
    pub pool_large_slots: u32,
    /// Whether the checksums of frames that it sends are verified.
    pub check_checksums: bool,
    ports: BTreeMap<PortId, String>,
    /// Its history.
    pub journal: Journal,
    next_token: u64,
    seed: u64,
    hops: u16,
    tunnel_port: u16,
    /// How often it was stepped.
    pub steps: u64,
}

/// The uplink as the rVM's kernel knows it.
#[derive(Clone, Debug)]
pub struct UplinkFacts {
    /// The interface's name.
    pub name: String,
    /// The interface's MAC address.
    pub mac: MacAddr,
    /// Largest IP packet.
    pub mtu: u32,
    /// The interface's addresses.
    pub addresses: Vec<IpPrefix>,
}

impl Rvm {
    /// A running machine whose switch is not started.
    #[must_use]
    pub fn new(name: &str, nic: usize, uplink: UplinkFacts, config: &str, seed: u64) -> Self {
        let mut rvm = Self {
            name: name.into(),
            config: config.into(),
            nic,
            life: None,
            interfaces: BTreeMap::new(),
            next_index: 2,
            routes: UnderlayRoutes::default(),
            neighbors: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            asked: Vec::new(),
            batching: false,
            workers: 1,
            chance: Prng::new(seed),
            pool_slots: 512,
            pool_large_slots: 4,
            check_checksums: true,
            ports: BTreeMap::new(),
            journal: Journal::default(),
            next_token: TOKEN,
            seed,
            hops: 0,
            tunnel_port: 4789,
            steps: 0,
        };
        let facts = LinkFacts {
            name: uplink.name.clone(),
            index: 0,
            mac: uplink.mac,
            mtu: uplink.mtu,
            up: true,
            carrier: true,
            addresses: uplink.addresses,
            alt_names: Vec::new(),
            vxlan: None,
        };
        rvm.add_interface(&uplink.name, facts, true);
        rvm
    }

    fn add_interface(&mut self, name: &str, mut facts: LinkFacts, present: bool) -> usize {
        let number = self.interfaces.len();
        facts.index = self.next_index;
        self.next_index += 1;
        let interface = Interface {
            number,
            facts,
            present,
            open: None,
            caps: PortCaps { rx_csum_unmarked: true, ..PortCaps::default() },
            queues: Vec::new(),
            queue_count: None,
            workers: self.workers,
        };
        self.interfaces.insert(name.into(), interface);
        number
    }

    /// The number of the interface `name`, which is made if it is new. A door's own end (`eth1p`) is absent until the
    /// agent has asked for the pair.
    pub fn interface(&mut self, name: &str, present: bool) -> usize {
        if let Some(i) = self.interfaces.get(name) {
            return i.number;
        }
        let n = self.interfaces.len() as u8;
        let facts = LinkFacts {
            name: name.into(),
            index: 0,
            mac: MacAddr([0x0a, 0, 0, 0, self.nic as u8, n]),
            mtu: 1430,
            up: true,
            carrier: true,
            addresses: Vec::new(),
            alt_names: Vec::new(),
            vxlan: None,
        };
        self.add_interface(name, facts, present)
    }

    /// Whether the switch runs.
    #[must_use]
    pub const fn alive(&self) -> bool {
        self.life.is_some()
    }

    /// Starts the daemon: reads the configuration file and the kernel's state.
    ///
    /// # Panics
    /// When the configuration is refused.
    pub fn start(&mut self, now_ns: u64) {
        assert!(self.life.is_none(), "{} runs already", self.name);
        let now = Instant::from_nanos(now_ns);
        let options = Options {
            hostname: self.name.clone(),
            config_text: Some(self.config.clone()),
            persist: true,
            workers: self.workers,
            secret: self.seed,
            ..Options::default()
        };
        let agent = Agent::new(now, options)
            .unwrap_or_else(|e| panic!("{}: configuration refused: {e:?}\n{}", self.name, self.config));
        self.tunnel_port = agent.config().uplink.as_ref().map_or(4789, |u| u.port);
        let host = Shared::default();
        let laborer = |(me, links)| {
            let (worker_end, mailbox) = mailbox();
            let pool = HeapPool::new(self.pool_slots, self.pool_large_slots);
            let mut worker = Worker::new(pool, worker_end, self.seed);
            worker.join(me, links);
            worker.attach_host(Box::new(MemoryPort { queues: host.clone(), caps: PortCaps::default() }));
            Laborer { worker, mailbox, backlog: VecDeque::new() }
        };
        let workers = mesh(self.workers).into_iter().enumerate().map(laborer).collect();
        self.ports.clear();
        self.interfaces.values_mut().for_each(|i| i.workers = self.workers);
        self.life = Some(Life { agent, workers, host, plan: SteerPlan::default(), watching: false });
        let facts: Vec<LinkFacts> =
            self.interfaces.values().filter(|i| i.present).map(|i| i.facts.clone()).collect();
        for f in facts {
            self.tell(now_ns, Input::Link(f));
        }
    }

    /// SIGKILL: the switch's state is gone; interfaces, doors and the file stay.
    pub fn kill(&mut self) {
        self.life = None;
        self.ports.clear();
        for i in self.interfaces.values_mut() {
            i.open = None;
            i.renew();
        }
    }

    /// Gives the agent an input.
    pub fn tell(&mut self, now_ns: u64, input: Input) {
        if let Input::UnderlayNeighbor(ip, mac) = &input {
            match mac {
                Some(mac) => drop(self.neighbors.insert(*ip, *mac)),
                None => drop(self.neighbors.remove(ip)),
            }
        }
        if let Some(life) = &mut self.life {
            life.agent.handle(Instant::from_nanos(now_ns), input);
        }
    }

    /// The interface goes away (its namespace was deleted, the cable was pulled out).
    pub fn remove_interface(&mut self, now_ns: u64, name: &str) {
        let Some(i) = self.interfaces.get_mut(name) else { return };
        i.present = false;
        i.queues.iter().for_each(|q| lock(q).rx.clear());
        self.tell(now_ns, Input::LinkGone(name.into()));
    }

    /// The interface is back, with a new index.
    pub fn return_interface(&mut self, now_ns: u64, name: &str) {
        let index = self.next_index;
        self.next_index += 1;
        let Some(i) = self.interfaces.get_mut(name) else { return };
        i.present = true;
        i.facts.index = index;
        let facts = i.facts.clone();
        self.tell(now_ns, Input::Link(facts));
    }

    /// The interface's facts change.
    pub fn change_interface(&mut self, now_ns: u64, name: &str, change: impl FnOnce(&mut LinkFacts)) {
        let Some(i) = self.interfaces.get_mut(name) else { return };
        change(&mut i.facts);
        let facts = i.facts.clone();
        self.tell(now_ns, Input::Link(facts));
    }

    /// The kernel's facts of an interface.
    #[must_use]
    pub fn facts(&self, name: &str) -> Option<&LinkFacts> {
        self.interfaces.get(name).filter(|i| i.present).map(|i| &i.facts)
    }

    /// Raises the interface's MTU to at least `mtu`, before the switch runs.
    pub fn raise_mtu(&mut self, name: &str, mtu: u32) {
        if let Some(i) = self.interfaces.get_mut(name) {
            i.facts.mtu = i.facts.mtu.max(mtu);
        }
    }

    /// Limits the frames that the interface accepts per poll.
    pub fn slow_down(&mut self, name: &str, room: Option<usize>) {
        if let Some(i) = self.interfaces.get(name) {
            i.queues.iter().for_each(|q| lock(q).room = room);
        }
    }

    /// A request of a control client, as `ivctl` makes it.
    pub fn request(&mut self, now_ns: u64, client: u64, line: &str) {
        self.tell(now_ns, Input::Request(ClientId(client), line.into()));
    }

    /// Whether the agent has to be given the kernel's routes of the uplink. True only once for each question.
    pub fn wants_routes(&mut self) -> bool {
        self.life.as_mut().is_some_and(|l| std::mem::take(&mut l.watching))
    }

    /// Receives a frame from the link plugged in at `number`.
    pub fn receive(&mut self, number: usize, wire: Wire, ctx: &mut Ctx<'_>) {
        let uplink = number == UPLINK;
        let Some(i) = self.interfaces.values().find(|i| i.number == number) else { return };
        if !i.present {
            return;
        }
        let up = i.open.is_some()
            && self
                .life
                .as_ref()
                .is_some_and(|l| !uplink || steer::goes_up(&l.plan, i.facts.mac, &wire.bytes));
        if !up {
            if uplink {
                self.kernel(wire, ctx);
            }
            return;
        }
        self.hops = wire.hops + 1;
        let at =
            if i.queues.len() > 1 { packet::flow_hash(&wire.bytes) as usize % i.queues.len() } else { 0 };
        lock(&i.queues[at]).rx.push_back(wire);
        if self.batching {
            ctx.wake_at(ctx.now_ns + BATCH_NS);
        } else {
            self.step(ctx);
        }
        // Frames that the switch makes by itself later do not descend from a received one.
        self.hops = 0;
    }

    /// The rVM's kernel, which answers pings to its own addresses and keeps all other packets for the test to see.
    fn kernel(&mut self, wire: Wire, ctx: &mut Ctx<'_>) {
        let Some(p) = packet::parse(&wire.bytes) else { return };
        if let Some(ip) = p.ip {
            let f = &wire.bytes;
            let request = match ip.proto {
                packet::ICMP => f.get(ip.l4) == Some(&8),
                packet::ICMPV6 => f.get(ip.l4) == Some(&128),
                _ => false,
            };
            if request && ip.end >= ip.l4 + 8 && !ip.is_fragment() {
                let word = |at: usize| u16::from_be_bytes([f[at], f[at + 1]]);
                let data = &f[ip.l4 + 8..ip.end];
                let answer = packet::echo(ip.dst, ip.src, true, word(ip.l4 + 4), word(ip.l4 + 6), data);
                ctx.send(UPLINK, Wire::new(packet::eth_ip(p.src, p.dst, &answer)));
            }
        }
        if self.journal.kernel_rx.len() < 10_000 {
            self.journal.kernel_rx.push(wire.bytes);
        }
    }

    /// Runs worker and agent until both are quiet, then checks the invariants.
    ///
    /// # Panics
    /// When worker and agent never become quiet.
    pub fn step(&mut self, ctx: &mut Ctx<'_>) {
        let now = Instant::from_nanos(ctx.now_ns);
        self.steps += 1;
        if let Some(life) = &mut self.life
            && life.agent.next_deadline().is_some_and(|d| d <= now)
        {
            life.agent.handle_timeout(now);
        }
        let mut quiet = false;
        for _ in 0..10_000 {
            let Some(life) = &mut self.life else { return };
            let mut busy = false;
            if let Some(output) = life.agent.poll_output() {
                self.carry_out(output, ctx);
                continue;
            }
            let count = life.workers.len();
            let first = self.chance.below(count as u64) as usize;
            let mut deadline = None;
            for at in (0..count).map(|at| (first + at) % count) {
                // A worker may be slower than the others.
                if count > 1 && self.chance.below(4) == 0 {
                    busy = true;
                    continue;
                }
                let Laborer { worker, mailbox, backlog } = &mut life.workers[at];
                while let Some(input) = backlog.pop_front() {
                    if let Err(input) = mailbox.send(input) {
                        backlog.push_front(input);
                        break;
                    }
                    busy = true;
                }
                let progress = worker.poll(now);
                busy |= progress.frames != 0 || progress.inputs != 0 || progress.wake != 0;
                deadline = deadline.into_iter().chain(progress.deadline).min();
                while let Some(event) = mailbox.recv() {
                    busy = true;
                    life.agent.handle(now, Input::Event(at, event));
                }
            }
            self.flush(ctx);
            if !busy {
                if let Some(deadline) = deadline {
                    ctx.wake_at(deadline.as_nanos().max(ctx.now_ns + 1000));
                }
                quiet = true;
                break;
            }
        }
        assert!(quiet, "{}: worker and agent do not come to rest", self.name);
        if let Some(life) = &mut self.life
            && let Some(deadline) = life.agent.next_deadline()
        {
            ctx.wake_at(deadline.as_nanos().max(ctx.now_ns + 1000));
        }
        self.check(ctx);
    }

    /// Moves frames from the worker's ports to the links.
    fn flush(&mut self, ctx: &mut Ctx<'_>) {
        let Some(life) = &self.life else { return };
        let mut problems = Vec::new();
        for (name, i) in &self.interfaces {
            for (bytes, offload) in i.queues.iter().flat_map(|q| std::mem::take(&mut lock(q).tx)) {
                if !i.present {
                    continue;
                }
                if offload != Offload::NONE {
                    problems.push(format!("{}: unfinished frame on {name}: {offload:?}", self.name));
                }
                if self.check_checksums {
                    let result = if i.number == UPLINK {
                        checks::underlay_checksums(&bytes, self.tunnel_port)
                    } else {
                        packet::checksums(&bytes)
                    };
                    if let Err(what) = result {
                        problems
                            .push(format!("{}: bad checksum out of {name}: {what}: {bytes:02x?}", self.name));
                    }
                }
                ctx.send(i.number, Wire { bytes, offload, hops: self.hops });
            }
        }
        ctx.problems.append(&mut problems);
        let punted = std::mem::take(&mut lock(&life.host).tx);
        for (bytes, _) in punted {
            self.journal.punted += 1;
            self.kernel_out(bytes, ctx);
        }
    }

    /// The kernel's output of a punted packet: route, resolve, send.
    fn kernel_out(&mut self, bytes: Vec<u8>, ctx: &mut Ctx<'_>) {
        let Some(ip) = packet::parse(&bytes).and_then(|p| p.ip) else { return };
        let Some(hop) = self.next_hop(ip.dst) else { return };
        let mac = self.interfaces.values().find(|i| i.number == UPLINK).map(|i| i.facts.mac);
        match (self.neighbors.get(&hop), mac) {
            (Some(next), Some(mac)) => {
                let mut frame = bytes;
                frame[..6].copy_from_slice(&next.0);
                frame[6..12].copy_from_slice(&mac.0);
                ctx.send(UPLINK, Wire { bytes: frame, offload: Offload::NONE, hops: self.hops });
            }
            _ => {
                let waiting = self.unresolved.entry(hop).or_default();
                if waiting.len() < UNRESOLVED_MAX {
                    waiting.push(bytes);
                }
                self.asked.push(hop);
            }
        }
    }

    fn next_hop(&self, dst: IpAddr) -> Option<IpAddr> {
        let best = self.routes.tunnel.iter().filter(|r| r.to.contains(dst)).max_by_key(|r| r.to.len)?;
        Some(match best.hops.first()? {
            UnderlayHop::Link => dst,
            UnderlayHop::Gateway(via) => *via,
        })
    }

    fn carry_out(&mut self, output: Output, ctx: &mut Ctx<'_>) {
        let Some(life) = &mut self.life else { return };
        match output {
            Output::Worker(input) => {
                life.workers.iter_mut().for_each(|w| w.backlog.push_back(input.clone()));
            }
            Output::CreateDoor(_, spec) => {
                for (name, mac, addresses) in [
                    (&spec.name, spec.mac, spec.addresses.clone()),
                    (&spec.peer, MacAddr([0x0a, 1, 0, 0, self.nic as u8, self.next_index as u8]), Vec::new()),
                ] {
                    self.interface(name, false);
                    let index = self.next_index;
                    let Some(i) = self.interfaces.get_mut(name) else { continue };
                    let found = i.present;
                    if !found {
                        i.present = true;
                        i.facts.index = index;
                        i.facts.mac = mac;
                        self.next_index += 1;
                    }
                    if !(found && spec.mtu_is_guess) {
                        i.facts.mtu = u32::from(spec.mtu);
                    }
                    i.facts.addresses = addresses;
                    let facts = i.facts.clone();
                    self.tell(ctx.now_ns, Input::Link(facts));
                }
            }
            Output::DeleteDoor(name) => {
                let peer = ctl::model::door_peer(&name);
                self.remove_interface(ctx.now_ns, &name);
                self.remove_interface(ctx.now_ns, &peer);
            }
            Output::OpenPort(id, open) => {
                let Some(i) = self.interfaces.get_mut(&open.interface).filter(|i| i.present) else {
                    let text = format!("port {}: no interface {:?}", id.0, open.interface);
                    self.tell(ctx.now_ns, Input::PortFailed(id, text));
                    return;
                };
                i.open = Some(id);
                i.renew();
                let queues = i.queues.len() as u32;
                let spread = Spread { port: id, queues, workers: life.workers.len() };
                for (me, w) in life.workers.iter_mut().enumerate() {
                    let mine: Vec<Shared> =
                        spread.queues_of(me).map(|q| i.queues[q as usize].clone()).collect();
                    if mine.is_empty() {
                        w.worker.attach_at(id, spread.sender_for(me), i.caps);
                    } else {
                        let ports = mine.into_iter().map(|queues| MemoryPort { queues, caps: i.caps });
                        let port = Box::new(MultiPort(ports.collect()));
                        w.worker.attach_share(id, port, spread.share_of(me));
                    }
                }
                self.ports.insert(id, open.interface.clone());
                self.journal.opened.push(open.interface);
                let facts = PortFacts { mode: "memory".into(), reason: String::new(), queues };
                self.tell(ctx.now_ns, Input::PortOpened(id, facts));
            }
            Output::ClosePort(id) => {
                life.workers.iter_mut().for_each(|w| drop(w.worker.detach(id)));
                self.ports.remove(&id);
                for i in self.interfaces.values_mut().filter(|i| i.open == Some(id)) {
                    i.open = None;
                    i.renew();
                }
            }
            // A simulated rVM has no kernel that could follow verdicts.
            Output::Cache(_) | Output::Close(_) => {}
            Output::Steer(plan) => life.plan = plan,
            Output::WatchUnderlay(interface) => life.watching = interface.is_some(),
            Output::Resolve(ip) => self.asked.push(ip),
            Output::Reply(client, line) => self.journal.replies.push((client, line)),
            Output::Persist(text) => {
                self.config = text;
                self.journal.persisted += 1;
                self.tell(ctx.now_ns, Input::Persisted(Ok(())));
            }
            Output::Reloaded(result) => self.journal.reloads.push(result),
            // The simulator keeps the whole log.
            Output::LogFilter(filter) => {
                self.tell(ctx.now_ns, Input::LogFilter(Ok(filter.unwrap_or_else(|| "info".to_owned()))));
            }
            Output::Log(level, text) => self.journal.log.push((level, text)),
        }
    }

    /// The kernel has resolved a neighbour, or has given up.
    pub fn resolved(&mut self, ip: IpAddr, mac: Option<MacAddr>, ctx: &mut Ctx<'_>) {
        self.tell(ctx.now_ns, Input::UnderlayNeighbor(ip, mac));
        for bytes in self.unresolved.remove(&ip).unwrap_or_default() {
            if mac.is_some() {
                self.kernel_out(bytes, ctx);
            }
        }
    }

    fn check(&mut self, ctx: &mut Ctx<'_>) {
        let Some(life) = &mut self.life else { return };
        let mut sum = SwitchCounters::default();
        for w in &mut life.workers {
            let counters = w.worker.counters();
            if !counters.conserved() {
                ctx.problems.push(format!("{}: frames not conserved: {counters:?}", self.name));
            }
            let used = w.worker.pool_mut().usage().used as u64;
            if used != counters.queued {
                ctx.problems.push(format!(
                    "{}: {used} slots in use, {} frames queued: a slot leaked",
                    self.name, counters.queued
                ));
            }
            sum += counters;
        }
        if !sum.conserved() || sum.handed_off != sum.taken_over {
            ctx.problems.push(format!("{}: frames lost between workers: {sum:?}", self.name));
        }
    }
}
