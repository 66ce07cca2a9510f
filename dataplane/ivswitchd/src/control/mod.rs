//! The control thread: it waits for clients, the kernel, signals, workers and deadlines, passes their events
//! to the agent, and carries out the agent's outputs. It decides nothing itself.

mod hold;
mod measure;
mod opening;
mod persist;
mod socket;

pub use socket::group_number;

use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ctl::agent::Agent;
use ctl::io::{
    CacheStats, DoorFault, GuestIo, Input, IoKind, KernelDrops, OpenPort, Output, SteerPlan, Steered,
    WorkerStats,
};
use ctl::model::{self, ConfigError};
use engine::command::PortId;
use engine::handoff::Share;
use engine::time::Instant;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::clock;
use crate::closed::Closer;
use crate::confine::Confinement;
use crate::links::{self, IcmpErrors, Links};
use crate::log;
use crate::ports::afxdp::Kept;
use crate::ports::afxdp::cache::CacheControl;
use crate::ports::host::UplinkIndex;
use crate::ports::keep;
use crate::ports::promiscuous::Promiscuous;
use crate::ports::umem::{UmemHandle, UmemPool};
use crate::ports::{self, PortControl};
use crate::thread::{self, Machine, Part, Usage, WorkerThread};
use hold::PortHold;
use persist::Saved;
use socket::ControlSocket;

const LINKS: Token = Token(0);
const SIGNALS: Token = Token(1);
const WORKER: Token = Token(2);
/// ICMP errors of IPv4 and IPv6.
const ICMP: [Token; 2] = [Token(3), Token(4)];
/// Port n has this number plus n.
const PORTS: usize = 16;
const _: () = assert!(PORTS + engine::limits::PORTS_MAX < ControlSocket::TOKENS);

/// How often the load of the workers is measured.
const TICK: Duration = Duration::from_secs(1);

/// The status line for `systemctl status`.
const REFUSED: &str =
    "the configuration files are refused, what was in force goes on: `ivctl status` names the errors";

/// How often the kernel's own connections are listed: those about to end are remembered for two minutes.
const REFRESH: Duration = Duration::from_secs(30);

/// How often ports are checked: the kernel does not report every kind of loss.
const LOOK: Duration = Duration::from_millis(100);

/// How many of them at once: all of a thousand within a second, for a hundredth of a processor.
const LOOKED_AT_MAX: usize = 128;

/// How long a process that resumed kept memory must run before the memory counts as sound.
const PROVEN: Duration = Duration::from_millis(250);

/// How long after the start kept descriptors wait for their port.
const KEPT_MAX: Duration = Duration::from_secs(5);

/// How long ports are opened before clients and the kernel are heard again. One takes some milliseconds, a thousand many seconds.
const OPENING_MAX: Duration = Duration::from_millis(100);

/// How much longer the service manager waits for the start while ports are opened, in microseconds.
const STARTING: u32 = 30_000_000;

/// How soon inputs that did not fit a worker's mailbox are sent again.
const BACKLOG_RETRY: Duration = Duration::from_millis(1);

/// The control thread's parts at the start.
pub struct Setup<M> {
    /// The agent, with its configuration.
    pub agent: Agent,
    /// The workers, ready to run, each with the agent's end of its mailbox.
    pub machines: Vec<(M, engine::mailbox::MailboxHandle)>,
    /// The interface that the workers' ports to the kernel send out of.
    pub uplink: UplinkIndex,
    /// The workers' frame memory.
    pub umem: UmemHandle,
    /// Port descriptors that outlived the previous process.
    pub kept: Kept,
    /// The control thread's part of the kernel offload.
    pub cache: CacheControl,
    /// Where the control socket listens.
    pub socket: PathBuf,
    /// The file that edits are written to.
    pub config: PathBuf,
    /// The directory with the state for the next boot.
    pub state: PathBuf,
    /// Cores for the workers; empty: any.
    pub cpus: Vec<usize>,
    /// The group whose members may change things, as a number.
    pub admins: Option<u32>,
    /// The system calls left to the workers once they run.
    pub confinement: Confinement,
}

/// The control thread's part of an open port.
struct OpenedPort {
    control: PortControl,
    /// The kernel's drops in the last report to the agent.
    drops: KernelDrops,
    /// The guest's traffic counts in the last report to the agent.
    guest_io: Option<GuestIo>,
    /// Its interface is in another namespace, and the kernel will not report its end here.
    moved: bool,
    /// Lets the interface accept frames for the MACs behind it.
    _promiscuous: Option<Promiscuous>,
    spec: OpenPort,
}

/// Everything the control thread owns.
pub struct Control {
    poll: Poll,
    socket: ControlSocket,
    signals: Signals,
    links: Links,
    /// More of the kernel's events can be read without waiting.
    links_wait: bool,
    icmp: Vec<IcmpErrors>,
    /// More ICMP errors can be read without waiting.
    icmp_wait: bool,
    agent: Agent,
    inbox: VecDeque<Input>,
    uplink: UplinkIndex,
    umem: UmemHandle,
    kept: Kept,
    /// Descriptors of the previous process were kept.
    resuming: bool,
    /// When this process will have shown that the kept memory does not crash it.
    proven_at: Option<Instant>,
    /// When unclaimed kept descriptors will be closed.
    kept_until: Option<Instant>,
    cache: CacheControl,
    cache_stats: CacheStats,
    ports: BTreeMap<PortId, OpenedPort>,
    /// Ports that are still to be opened, in the agent's order.
    to_open: VecDeque<(PortId, OpenPort)>,
    /// Until when they are opened before something else has its turn.
    open_until: Instant,
    /// What the agent is told of once all are open.
    resumed: Vec<Input>,
    /// Ports whose control part has work to do.
    ports_wait: BTreeSet<PortId>,
    /// Doors that could not be finished. The agent may ask to open one before it learns that.
    unfinished: BTreeSet<PortId>,
    workers: Vec<WorkerThread<UmemPool>>,
    plan: SteerPlan,
    closer: Closer,
    /// The last report to the agent about the uplink's steering.
    steered: Steered,
    /// When the kernel's own connections will be listed again.
    refresh: Instant,
    hold: Option<PortHold>,
    config: Saved,
    tick: Instant,
    look: Instant,
    /// The port that is looked after next.
    looked_at: PortId,
    /// The workers' usage at the last tick.
    usage: Vec<Usage>,
    stats: Vec<WorkerStats>,
    watchdog: Option<(Duration, Instant)>,
}

impl Control {
    /// Opens everything and starts the workers.
    ///
    /// # Errors
    /// The part that could not be opened, and the remedy.
    pub fn start<M: Machine<Pool = UmemPool>>(setup: Setup<M>) -> anyhow::Result<Self> {
        let poll = Poll::new().context("epoll")?;
        let registry = poll.registry();
        // The socket comes first: it is also what keeps two daemons apart.
        let socket = ControlSocket::bind(&setup.socket, setup.admins, registry)?;
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("signals")?;
        registry.register(&mut signals, SIGNALS, Interest::READABLE).context("signals")?;
        let waker = Arc::new(Waker::new(registry, WORKER).context("eventfd")?);
        let mut first = Vec::new();
        let links =
            Links::open(&mut first).context("rtnetlink: cannot list the interfaces of this machine")?;
        registry
            .register(&mut SourceFd(&links.as_raw_fd()), LINKS, Interest::READABLE)
            .context("rtnetlink")?;
        let icmp = open_icmp(registry);
        let workers = thread::start(setup.machines, &waker, &setup.cpus, Some(&setup.confinement))
            .context("the workers' threads; correct `cpus` in [workers], or --cpu")?;
        let closer = Closer::start(setup.state, Arc::clone(&waker)).context("the thread for nftables")?;
        let now = clock::now();
        let watchdog = sd_notify::watchdog_enabled().map(|limit| (limit / 2, now));
        Ok(Self {
            poll,
            socket,
            signals,
            links,
            links_wait: true,
            icmp,
            icmp_wait: false,
            agent: setup.agent,
            inbox: first.into(),
            uplink: setup.uplink,
            umem: setup.umem,
            resuming: !setup.kept.is_empty(),
            kept: setup.kept,
            proven_at: Some(now + PROVEN),
            kept_until: Some(now + KEPT_MAX),
            cache: setup.cache,
            cache_stats: CacheStats::default(),
            ports: BTreeMap::new(),
            to_open: VecDeque::new(),
            open_until: now,
            resumed: Vec::new(),
            ports_wait: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            usage: vec![Usage::default(); workers.len()],
            workers,
            plan: SteerPlan::default(),
            closer,
            steered: Steered::default(),
            refresh: now + REFRESH,
            hold: None,
            config: Saved::new(setup.config),
            tick: now + TICK,
            look: now + LOOK,
            looked_at: PortId(0),
            stats: Vec::new(),
            watchdog,
        })
    }

    /// Runs until a signal ends it.
    ///
    /// # Errors
    /// A failure that only a restart repairs.
    pub fn run(mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(256);
        self.open_until = clock::now() + OPENING_MAX;
        self.outputs();
        self.settle();
        self.release_resumed();
        let (mut ready, mut tell_at) = (false, clock::now());
        let end = loop {
            if !ready && self.to_open.is_empty() {
                ready = true;
                notify(&[NotifyState::Ready, NotifyState::Status("")]);
                tracing::info!("{} is ready", self.agent.name());
            } else if !ready && clock::now() >= tell_at {
                tell_at = clock::now() + TICK;
                let waiting = format!("opening ports: {} to go", self.to_open.len());
                notify(&[NotifyState::ExtendTimeoutUsec(STARTING), NotifyState::Status(&waiting)]);
            }
            match self.turn(&mut events) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        notify(&[NotifyState::Stopping]);
        self.close();
        end
    }

    /// Waits for an event and handles it. Returns false when the daemon should end.
    fn turn(&mut self, events: &mut Events) -> anyhow::Result<bool> {
        let patience = self.patience();
        match self.poll.poll(events, Some(patience)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error).context("epoll"),
            _ => {}
        }
        let mut out = Vec::new();
        for event in &*events {
            match event.token() {
                LINKS => self.links_wait = true,
                token if ICMP.contains(&token) => self.icmp_wait = true,
                SIGNALS => {
                    for signal in self.signals.pending() {
                        if signal == SIGHUP {
                            out.extend(self.reload());
                        } else {
                            tracing::info!("signal {signal}: ending; doors stay for whoever uses them");
                            return Ok(false);
                        }
                    }
                }
                WORKER => {
                    for (n, worker) in self.workers.iter().enumerate() {
                        out.extend(worker.events().map(|event| Input::Event(n, event)));
                    }
                    out.extend(self.closer.news().map(Input::Closed));
                }
                _ if ControlSocket::owns(event) => self.socket.ready(event, self.poll.registry(), &mut out),
                Token(number) => {
                    self.ports_wait.insert(PortId((number - PORTS) as u16));
                }
            }
        }
        if self.links_wait {
            self.links_wait = !self.links.poll(&mut out).context("rtnetlink")?;
        }
        if std::mem::take(&mut self.icmp_wait) {
            for errors in &self.icmp {
                self.icmp_wait |= !errors.poll(&mut out);
            }
        }
        for id in std::mem::take(&mut self.ports_wait) {
            if self.ports.get_mut(&id).is_some_and(|port| port.control.turn(id, &mut out)) {
                self.ports_wait.insert(id);
            }
        }
        self.socket.resume(self.poll.registry(), &mut out);
        self.inbox.extend(out);
        let now = clock::now();
        self.open_until = now + OPENING_MAX;
        if now >= self.tick {
            self.tick = now + TICK;
            self.measure();
            log::report_left_out();
            if self.to_open.is_empty() && self.kept_until.take_if(|until| now >= *until).is_some() {
                self.resuming = false;
                self.kept.clear();
            }
            let mut late = Vec::new();
            self.socket.tick(now, self.poll.registry(), &mut late);
            self.inbox.extend(late);
        }
        if now >= self.look {
            self.look = now + LOOK;
            self.look_after_ports();
            let mut late = Vec::new();
            self.links.follow_routes(&mut late).context("rtnetlink")?;
            self.inbox.extend(late);
            if self.to_open.is_empty() && self.proven_at.take_if(|at| now >= *at).is_some() {
                self.umem.proven();
            }
        }
        self.alive();
        if self.agent.next_deadline().is_some_and(|deadline| now >= deadline) {
            self.agent.handle_timeout(now);
            self.outputs();
        }
        self.settle();
        while !self.to_open.is_empty() && clock::now() < self.open_until {
            self.open_next();
            self.settle();
        }
        self.release_resumed();
        Ok(true)
    }

    /// Tells the service manager that this thread works, when it is time to.
    fn alive(&mut self) {
        let now = clock::now();
        if let Some((period, due)) = &mut self.watchdog
            && now >= *due
        {
            *due = now + *period;
            notify(&[NotifyState::Watchdog]);
        }
    }

    /// How long the thread may sleep.
    fn patience(&mut self) -> Duration {
        if self.links_wait
            || self.icmp_wait
            || !self.ports_wait.is_empty()
            || self.socket.has_unfinished()
            || !self.inbox.is_empty()
            || !self.to_open.is_empty()
        {
            return Duration::ZERO;
        }
        let now = clock::now();
        let due =
            [Some(self.tick), Some(self.look), self.agent.next_deadline(), self.watchdog.map(|(_, due)| due)];
        let due = due.into_iter().flatten().min().expect("there is always the tick");
        let patience = due.since(now);
        if self.flush() { patience } else { patience.min(BACKLOG_RETRY) }
    }

    /// Passes all inputs to the agent and carries out its outputs, until neither has more.
    fn settle(&mut self) {
        while let Some(input) = self.inbox.pop_front() {
            if self.only_moved(&input) {
                continue;
            }
            self.follow_uplink(&input);
            let opened = matches!(input, Input::PortOpened(..));
            self.agent.handle(clock::now(), input);
            self.outputs();
            if opened && !self.resuming {
                self.flush();
            }
        }
        self.flush();
    }

    /// Sends the workers' backlogs, as far as they fit. Returns false if some inputs are left.
    fn flush(&mut self) -> bool {
        let behind = self.workers.iter_mut().filter_map(|worker| (!worker.flush()).then_some(())).count();
        behind == 0
    }

    /// Whether an interface only left this namespace while its port continues to work.
    fn only_moved(&mut self, input: &Input) -> bool {
        let Input::LinkGone(name) = input else { return false };
        let moved =
            self.ports.values_mut().find(|port| port.spec.interface == *name && port.control.is_elsewhere());
        moved.is_some_and(|port| {
            tracing::info!("door \"{name}\": moved to another namespace, where it works on");
            port.moved = true;
            true
        })
    }

    fn outputs(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        let mut out = Vec::new();
        match output {
            Output::Worker(input) => {
                // Every worker gets the same inputs in the same order: the workers' messages to each other
                // rely on that.
                for worker in &mut self.workers {
                    worker.send(input.clone());
                }
            }
            Output::CreateDoor(id, spec) => {
                let made = self.links.create_door(&spec);
                let usable = made.is_ok() || self.links.is_usable(&spec);
                if usable {
                    self.unfinished.remove(&id);
                } else {
                    self.unfinished.insert(id);
                }
                if let Err(error) = made {
                    out.push(Input::DoorFailed(id, DoorFault { why: error.to_string(), usable }));
                }
            }
            Output::DeleteDoor(name) => {
                if let Err(error) = self.links.delete_door(&name) {
                    tracing::error!("{error}");
                }
            }
            Output::OpenPort(id, spec) => {
                self.close_port(id);
                self.to_open.push_back((id, spec));
                self.open_next();
            }
            Output::ClosePort(id) => self.close_port(id),
            Output::Cache(mode) => self.cache.set_mode(mode),
            Output::Steer(plan) => self.steer(plan),
            Output::Close(plan) => self.closer.close(plan),
            Output::WatchUnderlay(interface) => {
                if let Err(error) = self.links.watch_underlay(interface, &mut out) {
                    tracing::error!("rtnetlink: cannot read the underlay's routes and neighbours: {error}");
                }
            }
            Output::Resolve(ip) => self.links.resolve(ip, &mut out),
            Output::Reply(client, line) => {
                // Make the kernel's state match the answer first.
                self.cache.settle();
                self.socket.reply(client, &line, self.poll.registry(), &mut out);
            }
            Output::Reloaded(result) => self.reloaded(result),
            Output::Persist(text) => out.push(Input::Persisted(self.config.replace(&text))),
            Output::LogFilter(filter) => out.push(Input::LogFilter(log::set(filter.as_deref()))),
            Output::Log("error", text) => tracing::error!("{text}"),
            Output::Log("warn", text) => tracing::warn!("{text}"),
            Output::Log(_, text) => tracing::info!("{text}"),
        }
        self.inbox.extend(out);
    }

    fn steer(&mut self, plan: SteerPlan) {
        let uplink = self.ports.values().find(|port| port.spec.shared).map(|port| port.spec.kind);
        let merging = uplink == Some(IoKind::Packet);
        match plan.tunnel {
            Some(_) if uplink == Some(IoKind::Udp) => self.hold = None,
            // A vxlan device of the kernel's has the port: it is held.
            Some(_) if plan.vnis.is_some() => self.hold = None,
            Some((ip, port)) if self.hold.as_ref().is_some_and(|hold| hold.is(ip, port, merging)) => {}
            Some((ip, port)) => {
                self.hold = None;
                match PortHold::take(ip, port, merging) {
                    Ok(hold) => self.hold = Some(hold),
                    Err(why) => tracing::warn!("{why}"),
                }
            }
            None => self.hold = None,
        }
        let mut out = Vec::new();
        self.links.watch_sources(&plan, &mut out);
        self.inbox.extend(out);
        self.plan = plan;
        if let Err(why) = self.apply_plan() {
            tracing::error!("{why}");
        }
    }

    /// The plan contains the uplink's MAC address, which may change; and another interface may become the uplink.
    fn follow_uplink(&mut self, input: &Input) {
        self.uplink.set(self.links.uplink().map_or(0, |link| link.index));
        if let Input::Link(link) = input
            && self.ports.values().any(|port| port.spec.shared && port.spec.interface == link.name)
            && let Err(why) = self.apply_plan()
        {
            tracing::error!("{why}");
        }
    }

    /// Reads the files now; the agent refuses them as a whole if anything in them is wrong.
    fn reload(&self) -> Option<Input> {
        tell_reloading();
        match model::read_files(self.config.path()) {
            Ok((text, drop_ins)) => Some(Input::Reload { text: text.unwrap_or_default(), drop_ins }),
            Err(error) => {
                tracing::error!("{error}; what was in force goes on");
                notify(&[NotifyState::Ready, NotifyState::Status(REFUSED)]);
                Some(Input::Unreadable(error))
            }
        }
    }

    /// Reports the end of a reload.
    fn reloaded(&mut self, result: Result<bool, Vec<ConfigError>>) {
        if result.is_ok() {
            self.config.taken_up();
        }
        match result {
            Ok(true) => tracing::info!("reload: the configuration is changed"),
            Ok(false) => tracing::info!("reload: nothing is different"),
            Err(errors) => {
                for error in errors {
                    tracing::error!("{}: {error}", self.config.path().display());
                }
                tracing::error!("reload: refused; what was in force goes on");
                return notify(&[NotifyState::Ready, NotifyState::Status(REFUSED)]);
            }
        }
        notify(&[NotifyState::Ready, NotifyState::Status("")]);
    }

    /// Gives the plan to the uplink, if it is open.
    fn apply_plan(&mut self) -> Result<(), String> {
        let Some(uplink) = self.ports.values_mut().find(|port| port.spec.shared) else { return Ok(()) };
        let Some(link) = self.links.by_name(&uplink.spec.interface) else { return Ok(()) };
        uplink.control.steer(&self.plan, link.mac)
    }

    /// Removes everything except the doors, and the descriptors that the service manager keeps for the next process.
    fn close(mut self) {
        keep::leave();
        for id in self.ports.keys().copied().collect::<Vec<_>>() {
            self.close_port(id);
        }
        self.workers.iter_mut().for_each(WorkerThread::stop);
        self.socket.remove();
    }
}

/// The sockets for ICMP errors, where the kernel allows them: they only add detail about a peer that does not answer.
fn open_icmp(registry: &Registry) -> Vec<IcmpErrors> {
    let mut opened = Vec::new();
    for (v6, token) in [false, true].into_iter().zip(ICMP) {
        let errors = IcmpErrors::open(v6).and_then(|errors| {
            registry.register(&mut SourceFd(&errors.as_raw_fd()), token, Interest::READABLE)?;
            Ok(errors)
        });
        match errors {
            Ok(errors) => opened.push(errors),
            Err(error) => {
                tracing::info!("ICMP errors of IPv{} are not heard: {error}", if v6 { 6 } else { 4 })
            }
        }
    }
    opened
}

/// Reports the start of a reload: `Type=notify-reload` waits for the next `READY=1`, and requires this timestamp.
fn tell_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("no monotonic time: {error}"),
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd cannot be told: {error}");
    }
}
