//! The worker loop: one switch, one pool, and one queue of every port. Shares nothing.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::command::{Event, Input, PortId};
use crate::counters::{DropReason, PortCounters, SwitchCounters};
use crate::forward::Switch;
use crate::frame::{Batch, FramePool};
use crate::limits::COMMANDS_PER_POLL;
use crate::mailbox::Mailbox;
use crate::port::Port;
use crate::time::Instant;

/// A worker. Its thread (or the simulator) calls [`Worker::poll`] over and over.
pub struct Worker<P: FramePool> {
    switch: Switch,
    pool: P,
    ports: Vec<Option<Box<dyn Port<P> + Send>>>,
    host: Option<Box<dyn Port<P> + Send>>,
    mailbox: Mailbox,
    batch: Batch,
}

/// What a poll did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Frames received.
    pub frames: usize,
    /// Commands and queries taken.
    pub inputs: usize,
    /// When to poll again even if nothing happens.
    pub deadline: Option<Instant>,
}

impl<P: FramePool> Worker<P> {
    /// A worker without ports. `seed` keys every hash.
    #[must_use]
    pub fn new(pool: P, mailbox: Mailbox, seed: u64) -> Self {
        Self { switch: Switch::new(seed), pool, ports: Vec::new(), host: None, mailbox, batch: Batch::new() }
    }

    /// Gives a port its I/O. It forwards once a `SetPort` command says it is live.
    pub fn attach(&mut self, id: PortId, port: Box<dyn Port<P> + Send>) {
        let at = usize::from(id.0);
        if self.ports.len() <= at {
            self.ports.resize_with(at + 1, || None);
        }
        self.switch.set_caps(id, port.caps());
        self.ports[at] = Some(port);
    }

    /// Takes a port's I/O away. Frames on its queue are dropped at the next poll.
    pub fn detach(&mut self, id: PortId) -> Option<Box<dyn Port<P> + Send>> {
        self.ports.get_mut(usize::from(id.0))?.take()
    }

    /// Gives the worker the way to the kernel for punted frames.
    pub fn attach_host(&mut self, port: Box<dyn Port<P> + Send>) {
        self.host = Some(port);
    }

    /// One turn: commands, receive and forward every port, flush, ageing slice, events.
    pub fn poll(&mut self, now: Instant) -> Progress {
        let inputs = self.take_inputs(now);
        self.switch.tick(now, &mut self.pool);
        let mut frames = 0;
        for at in 0..self.ports.len() {
            let Some(port) = &mut self.ports[at] else { continue };
            port.rx(now, &mut self.pool, &mut self.batch);
            if !self.batch.is_empty() {
                frames += self.batch.len();
                self.switch.forward(now, PortId(at as u16), &mut self.batch, &mut self.pool);
                if self.switch.take_crowded() {
                    self.flush(now);
                }
            }
        }
        self.flush(now);
        for event in self.switch.take_events() {
            // A full mailbox loses the event; what is needed is asked for again.
            let _ = self.mailbox.events.push(event);
        }
        Progress { frames, inputs, deadline: Some(self.switch.deadline()) }
    }

    fn take_inputs(&mut self, now: Instant) -> usize {
        for taken in 0..COMMANDS_PER_POLL {
            let Some(input) = self.mailbox.inputs.pop() else { return taken };
            match input {
                Input::Command(command) => {
                    let port = match &command {
                        crate::command::Command::SetPort(id, _) => Some(*id),
                        _ => None,
                    };
                    self.switch.apply(now, command, &mut self.pool);
                    if let Some(id) = port
                        && let Some(Some(io)) = self.ports.get(usize::from(id.0))
                    {
                        self.switch.set_caps(id, io.caps());
                    }
                }
                Input::Query(token, query) => {
                    let answer = self.switch.answer_query(now, &query, &self.pool);
                    let _ = self.mailbox.events.push(Event::Reply(token, answer));
                }
            }
        }
        COMMANDS_PER_POLL
    }

    fn flush(&mut self, now: Instant) {
        for at in 0..self.switch.port_bound() {
            let io = self.ports.get_mut(usize::from(at)).and_then(Option::as_mut);
            self.switch.flush(PortId(at), &mut self.pool, |pool, queue| match io {
                Some(io) => {
                    io.tx(now, pool, queue);
                    Ok(())
                }
                None => Err(DropReason::TxError),
            });
        }
        let host = &mut self.host;
        self.switch.flush_punted(&mut self.pool, |pool, queue| {
            if let Some(host) = host {
                host.tx(now, pool, queue);
            }
        });
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
