//! Rate limits and mirrors: a port's own policy, which applies to all its frames.
//!
//! Both are outside the pipeline, so no cached verdict can carry a frame past them. The switch counts and
//! copies incoming frames before it looks into the flow cache, and outgoing frames when they are finished on
//! the port's queue. Only the kernel offload could bypass them, so it takes no flow from or to such a port
//! ([`PortEntry::needs_walk`]). A port without policy costs one test per batch.
//!
//! On ingress the order is limit, copy, pipeline; on egress it is pipeline, limit, copy. So a flood beyond
//! its limit costs no copies, and a mirror shows the frames that a quarantined port tries to send.
//!
//! A mirror cannot loop. The switch copies the frames that a port receives and those on its queue, but never
//! those of a mirror target. A mirror target joins no network: it sends only copies, and the switch drops
//! all frames that come in there. A copy that cannot be made is counted at the mirror target; the frame
//! itself never waits for it.
//!
//! [`PortEntry::needs_walk`]: crate::table::port::PortEntry::needs_walk

use alloc::vec::Vec;

use super::parse::{self, Headers};
use super::trail::{Step, Trail};
use super::verdict::{Edits, Out, Verdict};
use super::{Pipeline, Switch, act, fit};
use crate::command::{PortId, Vni};
use crate::counters::DropReason;
use crate::frame::{Batch, Frame, FramePool, Offload, SlotSize};
use crate::limits::MIRROR_LARGE_MAX;
use crate::time::Instant;
use crate::watch::{Fate, Walk, Watches};
use crate::wire::ethernet;

impl Switch {
    /// Applies egress limits and mirrors to the ports whose I/O is here, before the queues are flushed.
    #[inline]
    pub fn gate_leaving<P: FramePool>(
        &mut self,
        now: Instant,
        pool: &mut P,
        is_here: impl Fn(PortId) -> bool,
    ) {
        if !self.pipeline.output.gated.is_empty() {
            self.pipeline.gate_queues(now, pool, is_here, &mut ());
        }
    }
}

impl<F> Pipeline<F> {
    /// Applies the port's ingress limit to a batch, and copies the frames within the limit to the port's
    /// mirror.
    #[cold]
    #[inline(never)]
    pub(super) fn gate<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        batch: &mut Batch,
        pool: &mut P,
        watches: &mut Watches,
        trail: &mut impl Trail,
    ) {
        for frame in core::mem::take(batch) {
            let Some(port) = self.tables.ports.get_mut(id) else {
                batch.push(frame);
                continue;
            };
            let within = port.ingress.as_mut().is_none_or(|policer| {
                let (frames, bytes) = fit::on_the_wire(pool.bytes(&frame), frame.offload);
                policer.take(now, frames, bytes)
            });
            if port.ingress.is_some() {
                trail.step(|| Step::Limit { port: id, leaving: false, within });
            }
            let mirror = port.config.policy.mirror;
            if !within {
                self.refuse_over_limit(now, id, frame, pool, watches);
                continue;
            }
            if let Some(tap) = mirror {
                let copied = self.mirror_incoming(id, tap, &frame, pool);
                trail.step(|| Step::Mirror { port: id, tap, leaving: false, copied });
            }
            batch.push(frame);
        }
    }

    /// Counts a frame in that the pipeline does not see, and drops it.
    fn refuse_over_limit<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        frame: Frame,
        pool: &mut P,
        watches: &mut Watches,
    ) {
        let reason = DropReason::IngressRateLimit;
        self.counters.rx += 1;
        if let Some(port) = self.tables.ports.get_mut(id) {
            port.counters.rx_frames += 1;
            port.counters.rx_bytes += u64::from(frame.len);
        }
        if watches.wants(id, pool.bytes(&frame), false) {
            let walk = Walk { drops: alloc::vec![(id, reason)], ..Walk::default() };
            watches.show(now, id, frame.len, pool.bytes(&frame), &Fate::Walked(walk));
        }
        self.drop_frame(id, frame, reason, pool);
    }

    /// Copies an incoming frame to the mirror. Returns whether that succeeded. Checks the offload facts
    /// first, as the pipeline will.
    fn mirror_incoming<P: FramePool>(&mut self, id: PortId, to: PortId, frame: &Frame, pool: &mut P) -> bool {
        let bytes = pool.bytes(frame);
        let unmarked = self.tables.ports.get(id).is_some_and(|p| p.caps.rx_csum_unmarked);
        let (mut h, mut offload) = (Headers::default(), frame.offload);
        if !unmarked && offload.is_none() {
            return self.mirror(to, frame, None, pool);
        }
        let parsed = parse::ethernet(bytes, 0, &mut h).is_ok();
        if parsed && offload.is_none() {
            offload = fit::unmarked_partial(bytes, &h).unwrap_or(Offload::NONE);
        }
        if offload.is_none() {
            self.mirror(to, frame, None, pool)
        } else if parsed && fit::check(bytes, &mut h, &mut offload).is_ok() {
            self.mirror(to, frame, Some((&h, offload)), pool)
        } else {
            self.lose_copy(to)
        }
    }

    #[cold]
    pub(super) fn gate_queues<P: FramePool>(
        &mut self,
        now: Instant,
        pool: &mut P,
        is_here: impl Fn(PortId) -> bool,
        trail: &mut impl Trail,
    ) {
        let gated = core::mem::take(&mut self.output.gated);
        for &id in gated.iter().filter(|&&id| is_here(id)) {
            self.limit_leaving(now, id, pool, trail);
            self.mirror_leaving(id, pool, trail);
        }
        self.output.gated = gated;
    }

    /// Removes the frames over the limit from a port's queue.
    fn limit_leaving<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        pool: &mut P,
        trail: &mut impl Trail,
    ) {
        let Some(port) = self.tables.ports.get_mut(id).filter(|p| !p.queue.is_empty()) else { return };
        let Some(policer) = &mut port.egress else { return };
        let (mut queue, mut within) = (core::mem::take(&mut port.queue), 0);
        for at in 0..queue.len() {
            let (frames, bytes) = fit::on_the_wire(pool.bytes(&queue[at]), queue[at].offload);
            if policer.take(now, frames, bytes) {
                queue.swap(within, at);
                within += 1;
            }
        }
        trail.step(|| Step::Limit { port: id, leaving: true, within: within == queue.len() });
        // The remaining frames have other indices now.
        self.end_merges(id);
        for frame in queue.drain(within..) {
            self.counters.queued -= 1;
            self.drop_frame(id, frame, DropReason::EgressRateLimit, pool);
        }
        if let Some(port) = self.tables.ports.get_mut(id) {
            port.queue = queue;
        }
    }

    /// Copies the frames on a port's queue to its mirror.
    fn mirror_leaving<P: FramePool>(&mut self, id: PortId, pool: &mut P, trail: &mut impl Trail) {
        let Some(port) = self.tables.ports.get_mut(id).filter(|p| !p.queue.is_empty()) else { return };
        let Some(tap) = port.config.policy.mirror else { return };
        let queue = core::mem::take(&mut port.queue);
        let mut copied = true;
        for frame in &queue {
            copied &= self.mirror(tap, frame, None, pool);
        }
        trail.step(|| Step::Mirror { port: id, tap, leaving: true, copied });
        if let Some(port) = self.tables.ports.get_mut(id) {
            port.queue = queue;
        }
    }

    /// Puts a copy on the queue of the mirror target, segmented or finished if the target needs that. Returns
    /// whether that succeeded. `facts` are the frame's offload facts, where they are not yet checked.
    fn mirror<P: FramePool>(
        &mut self,
        to: PortId,
        frame: &Frame,
        facts: Option<(&Headers, Offload)>,
        pool: &mut P,
    ) -> bool {
        let tap = self.tables.ports.get(to).filter(|p| p.config.live && p.config.policy.tap);
        let Some(tap) = tap else { return self.lose_copy(to) };
        let len_max = usize::from(tap.config.mtu) + ethernet::HEADER_LEN + 2 * ethernet::TAG_LEN;
        let crowded = tap.queue.len() >= MIRROR_LARGE_MAX
            && matches!(SlotSize::for_len(frame.len as usize), SlotSize::Large);
        let offload = facts.map_or(frame.offload, |(_, offload)| offload);
        if crowded || fit::wire_len(pool.bytes(frame), offload) > len_max {
            return self.lose_copy(to);
        }
        let Some(mut copy) = act::copy(pool, frame) else { return self.lose_copy(to) };
        self.counters.replicated += 1;
        if let Some((h, offload)) = facts {
            copy.offload = offload;
            let vni = const { Vni::new(0).unwrap() };
            let as_it_is = Verdict { edits: Edits::NONE, out: Out::Port(to), vni, vid: 0 };
            // No tag is pushed, so there is room.
            let _ = act::act(pool, &mut copy, h, &as_it_is);
        }
        if copy.offload == Offload::NONE {
            self.enqueue(to, copy, pool);
        } else {
            self.fit_to_port(to, to, len_max, copy, pool);
        }
        true
    }

    fn lose_copy(&mut self, to: PortId) -> bool {
        self.counters.replicated += 1;
        self.count_drop(to, DropReason::MirrorLost);
        false
    }

    /// Updates the list of ports with an egress limit or mirror.
    pub(super) fn compose_gates(&mut self) {
        let gated = self.tables.ports.iter().filter(|(_, p)| p.is_gated_leaving());
        let mut gated: Vec<(bool, PortId)> = gated.map(|(id, p)| (p.config.policy.tap, id)).collect();
        // The queue of a mirror target is complete only when every other port has been copied from.
        gated.sort_unstable();
        self.output.gated = gated.into_iter().map(|(_, id)| id).collect();
    }
}
