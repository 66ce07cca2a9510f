//! The pipeline under observation: the slow path, frame by frame, for a watched port; captures of outgoing
//! frames; and the dry run of one frame, which leaves no trace.
//!
//! All three use the real pipeline. A dry run really queues the frames that it would send (the queues are
//! empty when commands and queries are processed). It then reads the result, removes the frames, and restores
//! every counter.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::memo::Look;
use super::{Ingress, Parsed, Switch};
use crate::command::{PeerId, PortId};
use crate::counters::{DROP_REASONS, DropReason, PortCounters, SwitchCounters, Volume};
use crate::frame::{Batch, Frame, FramePool};
use crate::table::error_limit::ErrorLimit;
use crate::table::floating_ip::Hits;
use crate::table::policer::Policer;
use crate::table::port::TokenBucket;
use crate::table::silent_hops::SilentHops;
use crate::time::Instant;
use crate::watch::{Fate, Sent, Walk};

/// The state before a frame.
struct Mark {
    counters: SwitchCounters,
    punted: usize,
    /// For every port: the length of its queue, and its drop counters.
    ports: Vec<(PortId, usize, [u64; DROP_REASONS])>,
}

/// The state of a port that a dry run changes: counters, its limit for floods, when it may report a BPDU, its
/// limits on ingress and egress.
type PortBefore = (PortId, PortCounters, TokenBucket, Instant, [Option<Box<Policer>>; 2]);

/// The state, other than the queues, that a dry run changes.
struct Before {
    counters: SwitchCounters,
    ports: Vec<PortBefore>,
    peers: Vec<(PeerId, Volume, Volume)>,
    hits: Vec<Hits>,
    error_limit: ErrorLimit,
    silent_hops: SilentHops,
    path_answers: TokenBucket,
    path_told: u32,
    peers_told: u32,
    fragment_id: u32,
    sampled: [bool; DROP_REASONS],
    crowded: bool,
    events: usize,
}

impl Switch {
    /// Whether frames of this port are watched, on ingress or egress. Then all its frames must pass through
    /// this code, and the kernel offload must not forward any itself.
    #[must_use]
    pub fn is_watched(&self, port: PortId) -> bool {
        !self.watches.is_empty() && self.watches.covers(port)
    }

    /// [`Switch::forward`] for a watched port. Caches no verdict, so that every frame is seen.
    #[cold]
    pub(super) fn forward_watched<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        batch: &mut Batch,
        pool: &mut P,
    ) {
        // This counts the batch in.
        self.look_batch(id, batch, pool);
        for frame in batch.drain(..) {
            let wanted = self.watches.wants(id, pool.bytes(&frame), false);
            // The pipeline changes the frame, so copy it first.
            let bytes = if wanted { pool.bytes(&frame).to_vec() } else { Vec::new() };
            let results = wanted && self.watches.wants_results(id);
            let walk = self.walk(now, id, frame, pool, true, results);
            if wanted {
                self.watches.show(now, id, bytes.len() as u32, &bytes, &Fate::Walked(walk));
            }
        }
    }

    /// Reports what the switch would do now with a frame that comes in at this port.
    #[must_use]
    pub fn trace<P: FramePool>(&mut self, now: Instant, id: PortId, bytes: &[u8], pool: &mut P) -> Walk {
        let Some(frame) = pool.alloc_from(bytes) else {
            return Walk { drops: alloc::vec![(id, DropReason::PoolExhausted)], ..Walk::default() };
        };
        let before = self.before();
        self.sampled.fill(true);
        // Captures on this port show only real frames.
        let watches = core::mem::take(&mut self.watches);
        let (mark, mut walk, mut batch) = (self.mark(), Walk::default(), Batch::new());
        batch.push(frame);
        if self.tables.ports.get(id).is_some_and(|p| p.gated) {
            self.gate(now, id, &mut batch, pool, &mut walk);
        }
        if let Some(frame) = batch.pop() {
            self.take_way(now, id, frame, pool, false, &mut walk);
        }
        self.gate_queues(now, pool, |_| true, &mut walk);
        self.see_results(&mark, &mut walk, true, pool);
        self.take_back(&mark, before, pool);
        self.watches = watches;
        walk
    }

    /// Runs one frame through the slow path, and reports the result.
    fn walk<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        frame: Frame,
        pool: &mut P,
        learn: bool,
        results: bool,
    ) -> Walk {
        let (mark, mut walk) = (self.mark(), Walk::default());
        self.take_way(now, id, frame, pool, learn, &mut walk);
        self.see_results(&mark, &mut walk, results, pool);
        walk
    }

    /// Runs the frame from parsing to the queues.
    fn take_way<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        mut frame: Frame,
        pool: &mut P,
        learn: bool,
        walk: &mut Walk,
    ) {
        let mut parsed = Parsed::default();
        Ingress::new(&self.tables, id).parse(&mut frame, pool, &mut parsed);
        match parsed.refused {
            Some(reason) => {
                if learn {
                    self.note_refusal(now, id, &parsed.h, reason, &frame, pool);
                }
                self.refuse(now, id, &parsed.h, frame, reason, pool);
            }
            None => {
                if learn {
                    self.learn(now, &parsed, &frame, pool);
                }
                self.decide(now, id, &Look::default(), &parsed, frame, pool, walk);
            }
        }
    }

    fn mark(&self) -> Mark {
        let ports = self.tables.ports.iter().map(|(id, p)| (id, p.queue.len(), p.counters.drops));
        Mark { counters: self.counters, punted: self.punted.len(), ports: ports.collect() }
    }

    /// Collects everything that has happened since `mark`.
    fn see_results<P: FramePool>(&self, mark: &Mark, walk: &mut Walk, results: bool, pool: &P) {
        for (id, queued, drops) in &mark.ports {
            let Some(port) = self.tables.ports.get(*id) else { continue };
            for frame in port.queue.iter().skip(*queued) {
                let bytes = if results { pool.bytes(frame).to_vec() } else { Vec::new() };
                walk.sent.push(Sent { port: *id, len: frame.len, bytes });
            }
            for (reason, (now, then)) in DropReason::ALL.iter().zip(port.counters.drops.iter().zip(drops)) {
                walk.drops.extend((*then..*now).map(|_| (*id, *reason)));
            }
        }
        walk.punted = self.punted.len() > mark.punted;
        walk.consumed = self.counters.consumed > mark.counters.consumed;
        walk.coalesced = self.counters.coalesced > mark.counters.coalesced;
    }

    fn before(&self) -> Before {
        let t = &self.tables;
        Before {
            counters: self.counters,
            ports: t
                .ports
                .iter()
                .map(|(id, p)| {
                    let policers = [p.ingress.clone(), p.egress.clone()];
                    (id, p.counters.clone(), p.bum.clone(), p.next_bpdu, policers)
                })
                .collect(),
            peers: t.peers.iter().map(|(id, p)| (id, p.tx, p.rx)).collect(),
            hits: t.floating.hits(),
            error_limit: self.error_limit.clone(),
            silent_hops: self.silent_hops.clone(),
            path_answers: self.path_answers.clone(),
            path_told: self.path_told,
            peers_told: self.peers_told,
            fragment_id: self.fragment_id,
            sampled: self.sampled,
            crowded: self.crowded,
            events: self.events.len(),
        }
    }

    /// Undoes a dry run.
    fn take_back<P: FramePool>(&mut self, mark: &Mark, before: Before, pool: &mut P) {
        for (id, queued, _) in &mark.ports {
            self.end_merges(*id);
            if let Some(port) = self.tables.ports.get_mut(*id) {
                port.queue.drain(*queued..).for_each(|frame| pool.free(frame));
            }
        }
        self.punted.drain(mark.punted..).for_each(|frame| pool.free(frame));
        for (id, counters, bum, next_bpdu, [ingress, egress]) in before.ports {
            if let Some(port) = self.tables.ports.get_mut(id) {
                (port.counters, port.bum, port.next_bpdu) = (counters, bum, next_bpdu);
                (port.ingress, port.egress) = (ingress, egress);
            }
        }
        for (id, tx, rx) in before.peers {
            if let Some(peer) = self.tables.peers.get_mut(id) {
                (peer.tx, peer.rx) = (tx, rx);
            }
        }
        self.tables.floating.set_hits(before.hits);
        self.counters = before.counters;
        self.error_limit = before.error_limit;
        self.silent_hops = before.silent_hops;
        self.path_answers = before.path_answers;
        (self.path_told, self.peers_told) = (before.path_told, before.peers_told);
        self.fragment_id = before.fragment_id;
        self.sampled = before.sampled;
        self.crowded = before.crowded;
        self.events.truncate(before.events);
    }

    /// Copies the frames on a watched port's queue that a capture wants on egress: index, length, bytes.
    #[cold]
    pub(super) fn leaving<P: FramePool>(
        &self,
        id: PortId,
        queue: &[Frame],
        pool: &P,
    ) -> Option<Vec<(usize, Vec<u8>)>> {
        let wanted = queue.iter().enumerate().filter_map(|(at, frame)| {
            let bytes = pool.bytes(frame);
            self.watches.wants(id, bytes, true).then(|| (at, bytes.to_vec()))
        });
        self.watches.covers(id).then(|| wanted.collect())
    }

    /// Passes these frames to the capture, once the number of sent frames is known.
    #[cold]
    pub(super) fn show_leaving(
        &mut self,
        now: Instant,
        id: PortId,
        leaving: Vec<(usize, Vec<u8>)>,
        sent: usize,
        why_not: DropReason,
    ) {
        for (at, bytes) in leaving {
            let fate = if at < sent { Fate::Sent } else { Fate::NotSent(why_not) };
            self.watches.show(now, id, bytes.len() as u32, &bytes, &fate);
        }
    }
}
