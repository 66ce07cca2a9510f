//! Puts frames on an output's queue in the form that it needs: whole, segmented, or coalesced with an earlier
//! frame.

use arrayvec::ArrayVec;

use super::merge::{Flow, Run, flow};
use super::segment::Cut;
use super::{takes_whole, tunnel, wire_len};
use crate::command::{PortId, Role, Vni};
use crate::counters::{DropReason, Volume};
use crate::forward::output::TunnelFacts;
use crate::forward::{Pipeline, Switch};
use crate::frame::{Batch, Frame, FramePool, GsoKind, Offload, SlotSize};
use crate::limits::{CROWDED_QUEUE_LEN, MERGES_MAX, TX_QUEUE_LEN};
use crate::port::PortCaps;
use crate::time::Instant;
use crate::tunnel::outer::OuterHeader;
use crate::tunnel::vxlan;
use crate::wire::ethernet;

/// Flows on transmit queues whose last frame another segment may still continue.
///
/// Bounded by [`MERGES_MAX`]; a new flow displaces the oldest. The entries of a port are removed when its
/// queue is flushed, so no frame is ever held back. A flow's entry is removed as soon as a frame of the flow
/// is not coalesced, so frames stay in order.
pub type Merges = ArrayVec<Merge, MERGES_MAX>;

/// The last frame of one flow on a transmit queue.
#[derive(Clone, Copy, Debug)]
pub struct Merge {
    /// The port whose queue holds the frame.
    port: PortId,
    flow: u64,
    /// The frame's index in the queue.
    index: usize,
    run: Run,
}

impl Switch {
    /// Opens the tunnel GSO packets of a batch from the uplink and forwards the frames in them.
    pub(in crate::forward) fn forward_opened<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        batch: &mut Batch,
        pool: &mut P,
    ) {
        let Some(uplink) = self.pipeline.tables.uplink.clone() else {
            return self.forward_batch(now, id, batch, pool);
        };
        let mut frames = core::mem::take(&mut self.flows.opened);
        let (mut made, mut lost) = (0, 0);
        let received = bytes_in(batch);
        for mut frame in batch.drain(..) {
            let at = frames.len();
            if frame.offload.gso_kind == GsoKind::Udp
                && let Some(opened) = tunnel::open(pool, &mut frame, &uplink, &mut frames)
            {
                made += opened.frames as u64 - 1;
                lost += opened.lost as u64;
            }
            frames.insert(at, frame);
        }
        let (walked, walked_bytes) = (frames.len() as u64, bytes_in(&frames));
        for frame in frames.drain(..) {
            batch.push(frame);
            if batch.is_full() {
                self.forward_batch(now, id, batch, pool);
            }
        }
        self.forward_batch(now, id, batch, pool);
        self.flows.opened = frames;
        // The pipeline counted the parts, but the uplink received the GSO packets.
        let extra = made - lost;
        debug_assert!(walked >= extra, "at least one frame of each was walked");
        self.pipeline.counters.rx -= extra;
        self.pipeline.counters.segmented += made;
        if let Some(port) = self.pipeline.tables.ports.get_mut(id) {
            port.counters.rx_frames -= extra;
            port.counters.rx_bytes = port.counters.rx_bytes + received - walked_bytes;
        }
        self.pipeline.count_drops(id, DropReason::PoolExhausted, lost);
    }

    /// Whether segments have filled a queue so far that it should be flushed before the next batch. Reports
    /// this once.
    pub fn take_crowded(&mut self) -> bool {
        core::mem::take(&mut self.pipeline.output.crowded)
    }
}

impl<F> Pipeline<F> {
    /// Puts an unfinished frame on a port's queue: whole if the port accepts that, otherwise finished or
    /// segmented.
    #[cold]
    pub(in crate::forward) fn fit_to_port<P: FramePool>(
        &mut self,
        from: PortId,
        to: PortId,
        len_max: usize,
        mut frame: Frame,
        pool: &mut P,
    ) {
        let Some(caps) = self.tables.ports.get(to).map(|p| p.caps) else {
            return self.drop_frame(from, frame, DropReason::EgressNotLive, pool);
        };
        if wire_len(pool.bytes(&frame), frame.offload) > len_max {
            return self.drop_frame(from, frame, DropReason::TooBig, pool);
        }
        if !takes_whole(pool.bytes(&frame), frame.offload, caps) {
            return self.cut_to_port(from, to, caps, frame, pool);
        }
        if frame.offload.gso_kind == GsoKind::None
            && let Err(reason) = super::fit(pool, &mut frame, caps)
        {
            return self.drop_frame(from, frame, reason, pool);
        }
        self.enqueue(to, frame, pool);
    }

    fn cut_to_port<P: FramePool>(
        &mut self,
        from: PortId,
        to: PortId,
        caps: PortCaps,
        frame: Frame,
        pool: &mut P,
    ) {
        let Some(cut) = Cut::new(pool.bytes(&frame), frame.offload) else {
            return self.drop_frame(from, frame, DropReason::OffloadInvalid, pool);
        };
        self.counters.segmented += cut.count() as u64 - 1;
        for index in 0..cut.count() {
            let left = (cut.count() - index) as u64;
            if self.queue_is_full(to) {
                self.count_drops(to, DropReason::TxQueueFull, left);
                break;
            }
            let Some(mut part) = pool.alloc(SlotSize::for_len(cut.len(index))) else {
                self.count_drops(from, DropReason::PoolExhausted, left);
                break;
            };
            part.len = cut.len(index) as u32;
            let (super_frame, bytes) = pool.pair(&frame, &mut part);
            cut.write(super_frame, index, bytes, caps.tx_csum);
            if caps.tx_csum {
                part.offload = cut.partial();
            }
            self.enqueue(to, part, pool);
        }
        pool.free(frame);
    }

    /// Hands the segments of a GSO packet to the kernel, which has to find the next hop first.
    #[cold]
    pub(in crate::forward) fn cut_to_host<P: FramePool>(&mut self, id: PortId, frame: Frame, pool: &mut P) {
        let Some(cut) = Cut::new(pool.bytes(&frame), frame.offload) else {
            return self.drop_frame(id, frame, DropReason::OffloadInvalid, pool);
        };
        self.counters.segmented += cut.count() as u64 - 1;
        for index in 0..cut.count() {
            let left = (cut.count() - index) as u64;
            if self.output.punted.len() == self.output.punted.capacity() {
                self.count_drops(id, DropReason::NeighborUnresolved, left);
                break;
            }
            let Some(mut part) = pool.alloc(SlotSize::for_len(cut.len(index))) else {
                self.count_drops(id, DropReason::PoolExhausted, left);
                break;
            };
            part.len = cut.len(index) as u32;
            let (super_frame, bytes) = pool.pair(&frame, &mut part);
            cut.write(super_frame, index, bytes, false);
            self.counters.queued += 1;
            self.output.punted.push(part);
        }
        pool.free(frame);
    }

    /// Encapsulates a GSO packet: in tunnel GSO packets if the uplink takes those, otherwise one packet per
    /// segment. Returns the frames and bytes that went on the uplink's queue, without the outer headers.
    #[allow(clippy::too_many_arguments, reason = "the facts of one frame")]
    pub(in crate::forward) fn cut_to_peer<P: FramePool>(
        &mut self,
        from: PortId,
        uplink: PortId,
        outer: &OuterHeader,
        vni: Vni,
        tunnel: TunnelFacts,
        frame: Frame,
        pool: &mut P,
    ) -> Volume {
        let mut sent = Volume::default();
        let Some(cut) = Cut::new(pool.bytes(&frame), frame.offload) else {
            self.drop_frame(from, frame, DropReason::OffloadInvalid, pool);
            return sent;
        };
        let takes = self.tables.ports.get(uplink).is_some_and(|p| p.caps.tx_uso);
        // Only peers that take fragments get here: others were refused before.
        let large = tunnel::len(&cut, 0..1, outer) - ethernet::HEADER_LEN > usize::from(outer.mtu);
        let per = if takes && !large { tunnel::datagrams_per_frame(&cut, outer).max(1) } else { 1 };
        let frames = cut.count().div_ceil(per);
        self.counters.segmented += frames as u64 - 1;
        for number in 0..frames {
            let segments = number * per..cut.count().min((number + 1) * per);
            let left = (frames - number) as u64;
            if self.queue_is_full(uplink) {
                self.count_drops(uplink, DropReason::TxQueueFull, left);
                break;
            }
            let len = tunnel::len(&cut, segments.clone(), outer);
            let Some(mut part) = pool.alloc(SlotSize::for_len(len)) else {
                self.count_drops(from, DropReason::PoolExhausted, left);
                break;
            };
            part.len = len as u32;
            let several = segments.len() > 1;
            sent.bytes += segments.clone().map(|at| cut.len(at) as u64).sum::<u64>();
            let (super_frame, bytes) = pool.pair(&frame, &mut part);
            tunnel::write(&cut, super_frame, segments, outer, vni, bytes);
            if several {
                part.offload = Offload {
                    gso_size: (cut.len(0) + vxlan::HEADER_LEN) as u16,
                    ..outer.stamp_super(bytes, vni, tunnel.entropy, tunnel.tos(outer), tunnel.ttl(outer))
                };
            } else {
                outer.stamp(bytes, vni, tunnel.entropy, tunnel.tos(outer), tunnel.ttl(outer));
            }
            if large && part.len as usize - ethernet::HEADER_LEN > usize::from(outer.mtu) {
                self.send_outer_fragments(from, uplink, part, outer.mtu, pool);
            } else {
                self.enqueue(uplink, part, pool);
            }
            sent.frames += 1;
        }
        pool.free(frame);
        sent
    }

    /// Puts a frame on the queue of a port that takes TCP GSO packets, or appends it to the queued frame that
    /// it continues.
    #[inline(never)]
    pub(in crate::forward) fn enqueue_or_merge<P: FramePool>(
        &mut self,
        to: PortId,
        frame: Frame,
        pool: &mut P,
    ) {
        let Some(port) = self.tables.ports.get_mut(to) else {
            return self.drop_frame(to, frame, DropReason::TxQueueFull, pool);
        };
        let mut run = None;
        match flow(pool.bytes(&frame)) {
            Flow::Other => {}
            Flow::Unclear => self.output.merges.retain(|m| m.port != to),
            Flow::Tcp(flow) => {
                if let Some(at) = self.output.merges.iter().position(|m| m.flow == flow && m.port == to) {
                    let merge = &mut self.output.merges[at];
                    if let Some(head) = port.queue.get_mut(merge.index)
                        && merge.run.merge(pool, head, &frame)
                    {
                        if !merge.run.open() {
                            self.output.merges.remove(at);
                        }
                        self.counters.coalesced += 1;
                        return pool.free(frame);
                    }
                    self.output.merges.remove(at);
                }
                run = Run::start(pool.bytes(&frame), frame.offload).filter(Run::open).map(|run| (flow, run));
            }
        }
        if port.queue.len() >= TX_QUEUE_LEN {
            return self.drop_frame(to, frame, DropReason::TxQueueFull, pool);
        }
        if let Some((flow, run)) = run {
            if self.output.merges.is_full() {
                self.output.merges.remove(0);
            }
            self.output.merges.push(Merge { port: to, flow, index: port.queue.len(), run });
        }
        self.counters.queued += 1;
        port.queue.push(frame);
    }

    /// Ends the coalescing of all frames on the port's queue.
    pub(in crate::forward) fn end_merges(&mut self, to: PortId) {
        self.output.merges.retain(|m| m.port != to);
    }

    /// Whether the queue is full. Also notes when it should be flushed before the next batch.
    fn queue_is_full(&mut self, to: PortId) -> bool {
        let len = self.tables.ports.get(to).map_or(TX_QUEUE_LEN, |p| p.queue.len());
        self.output.crowded |= len >= CROWDED_QUEUE_LEN;
        len >= TX_QUEUE_LEN
    }

    fn count_drops(&mut self, id: PortId, reason: DropReason, count: u64) {
        self.counters.dropped += count;
        if let Some(port) = self.tables.ports.get_mut(id) {
            port.counters.drops[reason as usize] += count;
        }
    }
}

fn bytes_in(frames: &[Frame]) -> u64 {
    frames.iter().map(|frame| u64::from(frame.len)).sum()
}

/// Whether a port may deliver tunnel GSO packets: an uplink that also takes them.
#[must_use]
pub fn brings_tunnels(role: Role, caps: PortCaps) -> bool {
    role == Role::Uplink && caps.tx_uso
}
