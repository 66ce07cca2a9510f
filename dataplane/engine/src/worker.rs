//! The worker loop: one switch, one pool, and the worker's own queues of every port. Workers share no state:
//! news for other workers, and frames for ports that they own, go through the rings of `handoff.rs`.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::command::{Command, Event, Input, PortId};
use crate::counters::{DropReason, PortCounters, SwitchCounters};
use crate::forward::Switch;
use crate::forward::cache::FlowCache;
use crate::frame::{Batch, FramePool};
use crate::handoff::{Link, Share};
use crate::limits::{COMMANDS_PER_POLL, HANDOFF_FRAMES_PER_POLL, HANDOFF_NEWS_PER_POLL};
use crate::mailbox::Mailbox;
use crate::own::OwnFlows;
use crate::port::{Port, PortCaps};
use crate::time::{Duration, Instant};

/// A worker. Its thread (or the simulator) calls [`Worker::poll`] over and over.
pub struct Worker<P: FramePool> {
    switch: Switch,
    pool: P,
    ports: Vec<PortIo<P>>,
    host: Option<Box<dyn Port<P> + Send>>,
    mailbox: Mailbox,
    batch: Batch,
    /// Links to the other workers, by number.
    links: Vec<Option<Link>>,
}

/// The I/O of a port.
enum PortIo<P> {
    /// The port has no I/O.
    None,
    /// This worker has all or some queues of the port.
    Here(Box<dyn Port<P> + Send>, Share),
    /// Another worker sends for this one; this worker receives nothing from the port.
    At(usize, PortCaps),
}

/// The result of a poll.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Number of frames received, from ports and from other workers.
    pub frames: usize,
    /// Number of commands, queries and news taken.
    pub inputs: usize,
    /// Time of the next poll, even if nothing happens.
    pub deadline: Option<Instant>,
    /// Workers that got frames or news, one bit each. The caller has to wake those that sleep.
    pub wake: u64,
}

impl<P: FramePool> Worker<P> {
    /// Creates a worker without ports. `seed` keys every hash.
    #[must_use]
    pub fn new(pool: P, mailbox: Mailbox, seed: u64) -> Self {
        Self {
            switch: Switch::new(seed),
            pool,
            ports: Vec::new(),
            host: None,
            mailbox,
            batch: Batch::new(),
            links: Vec::new(),
        }
    }

    /// Makes this worker `me` of several, with its links from [`crate::handoff::mesh`]. Call it before any
    /// command arrives.
    pub fn join(&mut self, me: usize, links: Vec<Option<Link>>) {
        if links.len() > 1 {
            self.switch.share(u8::try_from(me).expect("at most WORKERS_MAX workers"));
            self.links = links;
        }
    }

    /// Attaches a port's I/O. The port forwards once a `SetPort` command says that it is live.
    pub fn attach(&mut self, id: PortId, port: Box<dyn Port<P> + Send>) {
        self.attach_share(id, port, Share::WHOLE);
    }

    /// Attaches some of a port's queues; other workers have the rest.
    pub fn attach_share(&mut self, id: PortId, port: Box<dyn Port<P> + Send>, share: Share) {
        self.switch.set_caps(id, port.caps());
        *self.io_mut(id) = PortIo::Here(port, share);
    }

    /// Makes worker `owner` send for this port, whose I/O has these offloads.
    pub fn attach_at(&mut self, id: PortId, owner: usize, caps: PortCaps) {
        self.switch.set_caps(id, caps);
        *self.io_mut(id) = PortIo::At(owner, caps);
    }

    fn io_mut(&mut self, id: PortId) -> &mut PortIo<P> {
        let at = usize::from(id.0);
        if self.ports.len() <= at {
            self.ports.resize_with(at + 1, || PortIo::None);
        }
        &mut self.ports[at]
    }

    /// Detaches a port's I/O. Frames on its queue are dropped at the next poll.
    pub fn detach(&mut self, id: PortId) -> Option<Box<dyn Port<P> + Send>> {
        match core::mem::replace(self.ports.get_mut(usize::from(id.0))?, PortIo::None) {
            PortIo::Here(port, _) => Some(port),
            PortIo::None | PortIo::At(..) => None,
        }
    }

    /// Attaches the kernel offload, which repeats the verdicts of hot flows.
    pub fn attach_cache(&mut self, cache: Box<dyn FlowCache + Send>) {
        self.switch.attach_cache(cache);
    }

    /// Attaches the source of information about the connections of the rVM's own kernel.
    pub fn attach_own(&mut self, own: Arc<dyn OwnFlows>) {
        self.switch.attach_own(own);
    }

    /// Attaches the port through which punted frames reach the kernel.
    pub fn attach_host(&mut self, port: Box<dyn Port<P> + Send>) {
        self.host = Some(port);
    }

    /// Runs one turn: commands, news and frames from other workers, every port's batch, flush, ageing slice,
    /// events.
    pub fn poll(&mut self, now: Instant) -> Progress {
        let mut inputs = self.take_inputs(now) + self.hear(now);
        self.switch.tick(now, &mut self.pool);
        let (mut frames, mut wake) = (self.take_over(), 0);
        for at in 0..self.ports.len() {
            let PortIo::Here(port, _) = &mut self.ports[at] else { continue };
            port.rx(now, &mut self.pool, &mut self.batch);
            if !self.batch.is_empty() {
                frames += self.batch.len();
                // These frames may answer a frame from another worker, which has already passed on everything
                // that it had learned before.
                inputs += self.hear(now);
                self.switch.forward(now, PortId(at as u16), &mut self.batch, &mut self.pool);
                if self.switch.take_crowded() {
                    wake |= self.tell() | self.flush(now);
                }
            }
        }
        // In this order, for the same reason.
        self.switch.publish();
        wake |= self.tell() | self.flush(now);
        for event in self.switch.take_events() {
            // A full mailbox loses the event; the engine repeats requests that stay unanswered.
            let _ = self.mailbox.events.push(event);
        }
        Progress { frames, inputs, deadline: Some(self.switch.deadline()), wake }
    }

    /// Whether another worker has sent something that this one has not taken yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.links.iter().flatten().any(Link::is_waiting)
    }

    /// Returns how long the worker may sleep. Call it before sleeping. Zero if some input is already waiting;
    /// `None` means until the worker is woken; see [`Port::rest`].
    pub fn rest(&mut self, now: Instant) -> Option<Duration> {
        let mut rest = self.is_waiting().then_some(Duration::ZERO);
        for port in &mut self.ports {
            if let PortIo::Here(port, _) = port {
                rest = rest.into_iter().chain(port.rest(now)).min();
            }
        }
        rest
    }

    /// Takes other workers' news.
    fn hear(&mut self, now: Instant) -> usize {
        let mut count = 0;
        for (from, link) in self.links.iter_mut().enumerate() {
            let Some(link) = link else { continue };
            for _ in 0..HANDOFF_NEWS_PER_POLL {
                let Ok(news) = link.news_in.peek() else { break };
                if !self.switch.hear(now, from as u8, news) {
                    break;
                }
                let _ = link.news_in.pop();
                count += 1;
            }
        }
        count
    }

    /// Passes this worker's news to the others. A worker without room for it gets it again later.
    fn tell(&mut self) -> u64 {
        if self.links.is_empty() {
            return 0;
        }
        let news = self.switch.take_news();
        let mut wake = 0;
        for (to, link) in self.links.iter_mut().enumerate() {
            let Some(link) = link else { continue };
            for one in news.iter() {
                wake |= u64::from(one.is_urgent()) << to;
                let _ = link.news_out.push(*one);
            }
        }
        news.clear();
        wake
    }

    /// Takes other workers' frames for this worker's ports.
    fn take_over(&mut self) -> usize {
        let mut count = 0;
        for link in self.links.iter_mut().flatten() {
            for _ in 0..HANDOFF_FRAMES_PER_POLL {
                let Ok((id, parcel)) = link.frames_in.pop() else { break };
                let frame = self.pool.unpack(parcel);
                self.switch.take_over(id, frame, &mut self.pool);
                count += 1;
            }
        }
        count
    }

    fn take_inputs(&mut self, now: Instant) -> usize {
        for taken in 0..COMMANDS_PER_POLL {
            let Some(input) = self.mailbox.inputs.pop() else { return taken };
            match input {
                Input::Command(mut command) => {
                    // A quarantined or disabled port still receives frames, which the switch drops and
                    // counts.
                    let live = matches!(&command, Command::SetPort(_, c) if c.live || c.policy.cut.is_some());
                    let port = self.share_limits(&mut command);
                    self.switch.apply(now, command, &mut self.pool);
                    match port.and_then(|id| Some((id, self.ports.get_mut(usize::from(id.0))?))) {
                        Some((id, PortIo::Here(io, _))) => {
                            io.set_live(live);
                            self.switch.set_caps(id, io.caps());
                        }
                        Some((id, PortIo::At(_, caps))) => self.switch.set_caps(id, *caps),
                        Some((_, PortIo::None)) | None => {}
                    }
                }
                Input::Query(token, query) => {
                    // An answer implies that all earlier commands are in force.
                    self.switch.publish();
                    self.switch.fold_flows(now);
                    let answer = self.switch.answer_query(now, &query, &mut self.pool);
                    let _ = self.mailbox.events.push(Event::Reply(token, answer));
                }
            }
        }
        COMMANDS_PER_POLL
    }

    /// A limit per second applies to all queues of a port together, so each worker grants its share. Returns
    /// the port.
    fn share_limits(&self, command: &mut Command) -> Option<PortId> {
        let Command::SetPort(id, config) = command else { return None };
        if let Some(PortIo::Here(_, share)) = self.ports.get(usize::from(id.0)) {
            config.bum_pps = config.bum_pps.map(|pps| share.of_limit(pps));
            for rate in [&mut config.policy.ingress, &mut config.policy.egress] {
                *rate = share.of_rate(*rate);
            }
        }
        Some(*id)
    }

    fn flush(&mut self, now: Instant) -> u64 {
        // No frame may leave by new tables while the kernel follows verdicts of the old ones.
        self.switch.publish();
        let ports = &self.ports;
        self.switch.gate_leaving(now, &mut self.pool, |id| {
            matches!(ports.get(usize::from(id.0)), Some(PortIo::Here(..)))
        });
        let mut wake = 0;
        for at in 0..self.switch.port_bound() {
            match self.ports.get_mut(usize::from(at)).unwrap_or(&mut PortIo::None) {
                PortIo::Here(io, _) => self.switch.flush(PortId(at), &mut self.pool, |pool, queue| {
                    io.tx(now, pool, queue);
                    Ok(())
                }),
                PortIo::At(owner, _) => {
                    let link = self.links.get_mut(*owner).and_then(Option::as_mut);
                    let link = link.expect("a port is at another worker, to which there is a link");
                    self.switch.hand_off(PortId(at), &mut self.pool, |pool, queue| {
                        let room = link.frames_out.slots().min(queue.len());
                        for frame in queue.drain(..room) {
                            let parcel = (PortId(at), pool.pack(frame));
                            assert!(link.frames_out.push(parcel).is_ok(), "only this worker fills the ring");
                            wake |= 1 << *owner;
                        }
                    });
                }
                PortIo::None => {
                    self.switch.flush(PortId(at), &mut self.pool, |_, _| Err(DropReason::TxError));
                }
            }
        }
        let host = &mut self.host;
        self.switch.flush_punted(&mut self.pool, |pool, queue| {
            if let Some(host) = host {
                host.tx(now, pool, queue);
            }
        });
        wake
    }

    /// Mutable access to the pool.
    pub fn pool_mut(&mut self) -> &mut P {
        &mut self.pool
    }

    /// Read access to the switch.
    #[must_use]
    pub const fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Counters of the whole switch.
    #[must_use]
    pub const fn counters(&self) -> SwitchCounters {
        self.switch.counters()
    }

    /// Counters of one port.
    #[must_use]
    pub fn port_counters(&self, id: PortId) -> Option<PortCounters> {
        self.switch.port_counters(id).cloned()
    }
}
