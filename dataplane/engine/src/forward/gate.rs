//! What a port's own policy does with frames, whatever they are: rate limits and mirrors.
//!
//! Both stand outside the walk, so no memory of a verdict can carry a frame past them: what comes in is counted and
//! copied before the memo is asked, what leaves when it lies on the port's queue, finished. Only the verdict cache
//! under the walk would, and takes no flow from or to such a port ([`PortEntry::needs_walk`]). A port without policy costs one
//! test per batch.
//!
//! The order is: limit, copy, walk; and walk, limit, copy. So a flood beyond its limit costs no copies, and a mirror shows
//! what a port in quarantine tries.
//!
//! A mirror cannot loop: copies are made of what a port receives and of its queue, never of a *tap*, and a tap joins no
//! network: nothing but copies leaves by it, and nothing that comes in there goes anywhere. A copy that cannot be had is
//! counted at the tap; the frame itself never waits for it.
//!
//! [`PortEntry::needs_walk`]: crate::table::port::PortEntry::needs_walk

use alloc::vec::Vec;

use super::parse::{self, Headers};
use super::trail::{Step, Trail};
use super::verdict::{Edits, Out, Verdict};
use super::{Switch, act, fit};
use crate::command::{PortId, Vni};
use crate::counters::DropReason;
use crate::frame::{Batch, Frame, FramePool, Offload, SlotSize};
use crate::limits::MIRROR_LARGE_MAX;
use crate::time::Instant;
use crate::watch::{Fate, Walk};
use crate::wire::ethernet;

impl Switch {
    /// Holds a batch that came in against the port's limit, and copies what is within it to the port's mirror.
    #[cold]
    #[inline(never)]
    pub(super) fn gate<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        batch: &mut Batch,
        pool: &mut P,
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
                self.refuse_over_limit(now, id, frame, pool);
                continue;
            }
            if let Some(tap) = mirror {
                let copied = self.mirror_incoming(id, tap, &frame, pool);
                trail.step(|| Step::Mirror { port: id, tap, leaving: false, copied });
            }
            batch.push(frame);
        }
    }

    /// A frame that the walk does not see is counted in here.
    fn refuse_over_limit<P: FramePool>(&mut self, now: Instant, id: PortId, frame: Frame, pool: &mut P) {
        let reason = DropReason::IngressRateLimit;
        self.counters.rx += 1;
        if let Some(port) = self.tables.ports.get_mut(id) {
            port.counters.rx_frames += 1;
            port.counters.rx_bytes += u64::from(frame.len);
        }
        if self.is_watched(id) && self.watches.wants(id, pool.bytes(&frame), false) {
            let walk = Walk { drops: alloc::vec![(id, reason)], ..Walk::default() };
            self.watches.show(now, id, frame.len, pool.bytes(&frame), &Fate::Walked(walk));
        }
        self.drop_frame(id, frame, reason, pool);
    }

    /// A copy of a frame as it came in; whether it could be had. What is unfinished about it is judged first, as the
    /// walk will.
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

    /// Before the queues are flushed: limits and mirrors of what leaves by the ports whose I/O is here.
    #[inline]
    pub fn gate_leaving<P: FramePool>(
        &mut self,
        now: Instant,
        pool: &mut P,
        is_here: impl Fn(PortId) -> bool,
    ) {
        if !self.gated.is_empty() {
            self.gate_queues(now, pool, is_here, &mut ());
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
        let gated = core::mem::take(&mut self.gated);
        for &id in gated.iter().filter(|&&id| is_here(id)) {
            self.limit_leaving(now, id, pool, trail);
            self.mirror_leaving(id, pool, trail);
        }
        self.gated = gated;
    }

    /// Takes what is over the limit off a port's queue.
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
        // What is left lies elsewhere now.
        self.end_merges(id);
        for frame in queue.drain(within..) {
            self.counters.queued -= 1;
            self.drop_frame(id, frame, DropReason::EgressRateLimit, pool);
        }
        if let Some(port) = self.tables.ports.get_mut(id) {
            port.queue = queue;
        }
    }

    /// Copies what lies on a port's queue to its mirror.
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

    /// Puts a copy on the tap's queue, cut or finished if the tap needs that; whether it could be had. `facts`: what is
    /// unfinished about the frame, where that is not yet judged.
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
            // Nothing is pushed, so there is room.
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

    /// Which ports have something done with what leaves by them.
    pub(super) fn compose_gates(&mut self) {
        let gated = self.tables.ports.iter().filter(|(_, p)| p.is_gated_leaving());
        let mut gated: Vec<(bool, PortId)> = gated.map(|(id, p)| (p.config.policy.tap, id)).collect();
        // A tap's queue is complete only when every other port has been copied from.
        gated.sort_unstable();
        self.gated = gated.into_iter().map(|(_, id)| id).collect();
    }
}
