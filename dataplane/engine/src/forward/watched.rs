//! The pipeline under observation: the slow path, frame by frame, for a watched port; captures of outgoing
//! frames; and the dry run of one frame, which leaves no trace.
//!
//! All three use the real pipeline. A dry run reads the switch ([`Switch::trace`] cannot change it), and lets the
//! stages behind the decision loose on a copy of what they may change, with frames in memory of its own.

use alloc::vec::Vec;

use super::scratch::ScratchPool;
use super::{Ingress, Onward, Parsed, Pipeline, Switch, Verdict};
use crate::command::PortId;
use crate::counters::{DROP_REASONS, DropReason, SwitchCounters};
use crate::frame::{Batch, Frame, FramePool};
use crate::time::Instant;
use crate::watch::{Fate, Sent, Walk, Watches};

/// The state before a frame.
struct Mark {
    counters: SwitchCounters,
    punted: usize,
    /// For every port: the length of its queue, and its drop counters.
    ports: Vec<(PortId, usize, [u64; DROP_REASONS])>,
}

impl<F> Pipeline<F> {
    /// What happens to a frame behind the decision. Without a verdict, the frame was refused.
    #[allow(clippy::too_many_arguments, reason = "the facts of one frame")]
    fn carry_on<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        parsed: &Parsed,
        verdict: Option<&Verdict>,
        frame: Frame,
        pool: &mut P,
        walk: &mut Walk,
    ) {
        let Parsed { h, adm, .. } = parsed;
        match (parsed.refused, verdict) {
            (Some(reason), _) => self.refuse(now, id, h, frame, reason, pool),
            (None, Some(verdict)) => {
                self.accept(parsed);
                self.carry_out(now, Onward { id, adm, h, verdict }, frame, pool, walk);
            }
            (None, None) => unreachable!("an admitted frame has a verdict"),
        }
    }

    fn mark(&self) -> Mark {
        let ports = self.tables.ports.iter().map(|(id, p)| (id, p.queue.len(), p.counters.drops));
        Mark { counters: self.counters, punted: self.output.punted.len(), ports: ports.collect() }
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
        walk.punted = self.output.punted.len() > mark.punted;
        walk.consumed = self.counters.consumed > mark.counters.consumed;
        walk.coalesced = self.counters.coalesced > mark.counters.coalesced;
    }
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
            let walk = self.walk(now, id, frame, pool, results);
            if wanted {
                self.watches.show(now, id, bytes.len() as u32, &bytes, &Fate::Walked(walk));
            }
        }
    }

    /// Reports what the switch would do now with a frame that comes in at this port. It happens to a copy of the
    /// pipeline: the switch itself is only read. `pool` limits the number of frames that it may become.
    #[must_use]
    pub fn trace<P: FramePool>(&self, now: Instant, id: PortId, bytes: &[u8], pool: &P) -> Walk {
        let usage = pool.usage();
        let mut pool = ScratchPool::new(usage.total.saturating_sub(usage.used));
        let Some(frame) = pool.alloc_from(bytes) else {
            return Walk { drops: alloc::vec![(id, DropReason::PoolExhausted)], ..Walk::default() };
        };
        let mut copy = self.pipeline.fork();
        let (mark, mut walk, mut batch) = (copy.mark(), Walk::default(), Batch::new());
        batch.push(frame);
        if copy.tables.ports.get(id).is_some_and(|p| p.gated) {
            // Captures show only real frames.
            copy.gate(now, id, &mut batch, &mut pool, &mut Watches::default(), &mut walk);
        }
        if let Some(mut frame) = batch.pop() {
            let mut parsed = Parsed::default();
            Ingress::new(&self.pipeline.tables, id).parse(&mut frame, &pool, &mut parsed);
            let verdict = match parsed.refused {
                Some(_) => None,
                None => Some(self.pipeline.decide(&parsed, &frame, &pool, &mut walk)),
            };
            copy.carry_on(now, id, &parsed, verdict.as_ref(), frame, &mut pool, &mut walk);
        }
        copy.gate_queues(now, &mut pool, |_| true, &mut walk);
        copy.see_results(&mark, &mut walk, true, &pool);
        walk
    }

    /// Runs one frame through the slow path, and reports the result.
    fn walk<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        mut frame: Frame,
        pool: &mut P,
        results: bool,
    ) -> Walk {
        let (mark, mut walk, mut parsed) = (self.pipeline.mark(), Walk::default(), Parsed::default());
        Ingress::new(&self.pipeline.tables, id).parse(&mut frame, pool, &mut parsed);
        let verdict = match parsed.refused {
            Some(reason) => {
                self.note_refusal(now, id, &parsed.h, reason, &frame, pool);
                None
            }
            None => {
                self.learn(now, &parsed, &frame, pool);
                Some(self.pipeline.decide(&parsed, &frame, pool, &mut walk))
            }
        };
        self.pipeline.carry_on(now, id, &parsed, verdict.as_ref(), frame, pool, &mut walk);
        self.pipeline.see_results(&mark, &mut walk, results, pool);
        walk
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
