//! The worker loop: one switch, one pool, and its own queues of every port. Shares nothing: what other workers
//! must know, and frames for ports that they own, go through the rings of `handoff.rs`.

use alloc::boxed::Box;
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
    /// To the other workers, by number.
    links: Vec<Option<Link>>,
}

/// Where a port's I/O is.
enum PortIo<P> {
    /// There is none.
    None,
    /// Here: all of its queues, or this share of them.
    Here(Box<dyn Port<P> + Send>, Share),
    /// Another worker sends for us; nothing is received here.
    At(usize, PortCaps),
}

/// What a poll did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Frames received, from ports and from other workers.
    pub frames: usize,
    /// Commands, queries and news taken.
    pub inputs: usize,
    /// When to poll again even if nothing happens.
    pub deadline: Option<Instant>,
    /// Other workers that were sent something, one bit each: whoever sleeps must be woken.
    pub wake: u64,
}

impl<P: FramePool> Worker<P> {
    /// A worker without ports. `seed` keys every hash.
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

    /// Makes it one of several: worker `me`, with its links as [`crate::handoff::mesh`] made them. Before it is
    /// told anything.
    pub fn join(&mut self, me: usize, links: Vec<Option<Link>>) {
        if links.len() > 1 {
            self.switch.share(u8::try_from(me).expect("at most WORKERS_MAX workers"));
            self.links = links;
        }
    }

    /// Gives a port its I/O. It forwards once a `SetPort` command says it is live.
    pub fn attach(&mut self, id: PortId, port: Box<dyn Port<P> + Send>) {
        self.attach_share(id, port, Share::WHOLE);
    }

    /// Gives a port some of its queues; other workers have the rest.
    pub fn attach_share(&mut self, id: PortId, port: Box<dyn Port<P> + Send>, share: Share) {
        self.switch.set_caps(id, port.caps());
        *self.io_mut(id) = PortIo::Here(port, share);
    }

    /// Says that worker `owner` sends for this port, whose I/O has these abilities.
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

    /// Takes a port's I/O away. Frames on its queue are dropped at the next poll.
    pub fn detach(&mut self, id: PortId) -> Option<Box<dyn Port<P> + Send>> {
        match core::mem::replace(self.ports.get_mut(usize::from(id.0))?, PortIo::None) {
            PortIo::Here(port, _) => Some(port),
            PortIo::None | PortIo::At(..) => None,
        }
    }

    /// Gives the worker a cache for the verdicts of hot flows.
    pub fn attach_cache(&mut self, cache: Box<dyn FlowCache + Send>) {
        self.switch.attach_cache(cache);
    }

    /// Gives the worker what knows the flows of the rVM's own kernel.
    pub fn attach_own(&mut self, own: Box<dyn OwnFlows>) {
        self.switch.attach_own(own);
    }

    /// Gives the worker the way to the kernel for punted frames.
    pub fn attach_host(&mut self, port: Box<dyn Port<P> + Send>) {
        self.host = Some(port);
    }

    /// One turn: commands, what other workers sent, receive and forward every port, flush, ageing slice, events.
    pub fn poll(&mut self, now: Instant) -> Progress {
        let mut inputs = self.take_inputs(now) + self.hear(now);
        self.switch.tick(now, &mut self.pool);
        let (mut frames, mut wake) = (self.take_over(), 0);
        for at in 0..self.ports.len() {
            let PortIo::Here(port, _) = &mut self.ports[at] else { continue };
            port.rx(now, &mut self.pool, &mut self.batch);
            if !self.batch.is_empty() {
                frames += self.batch.len();
                // These frames may answer what another worker sent: what it had learned by then is told already.
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
            // A full mailbox loses the event; what is needed is asked for again.
            let _ = self.mailbox.events.push(event);
        }
        Progress { frames, inputs, deadline: Some(self.switch.deadline()), wake }
    }

    /// Whether another worker sent something that was not taken yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.links.iter().flatten().any(Link::is_waiting)
    }

    /// To be called before sleeping. How long that may be: nothing, if somebody has something already; `None`, until
    /// the worker is woken; see [`Port::rest`].
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

    /// Tells the other workers this one's news. Who has no room for it hears it again later.
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

    /// Takes the frames that other workers have for this one's ports.
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
                    // Of a port that is cut off, frames are still taken, to be dropped and counted.
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
                    // An answer says that what was commanded before it is in force.
                    self.switch.publish();
                    self.switch.fold_flows(now);
                    let answer = self.switch.answer_query(now, &query, &mut self.pool);
                    let _ = self.mailbox.events.push(Event::Reply(token, answer));
                }
            }
        }
        COMMANDS_PER_POLL
    }

    /// What may pass a port per second is for all of its queues: each worker grants its share. Returns the port.
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
        // Nothing leaves by new tables while the kernel follows verdicts of the old ones.
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

    /// The pool.
    pub fn pool_mut(&mut self) -> &mut P {
        &mut self.pool
    }

    /// The switch, to read.
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
