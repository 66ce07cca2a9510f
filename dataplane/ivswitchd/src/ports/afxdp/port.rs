//! The worker's part of an AF_XDP port: batches in, batches out.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::frame::{Batch, Frame, FramePool, Offload, SlotSize};
use engine::handoff::Spread;
use engine::limits::{BATCH_LEN, HEADROOM, SLOT_LARGE_LEN, SLOT_SMALL_LEN};
use engine::port::{Port, PortCaps};
use engine::time::Instant;
use libc::xdp_desc;

use super::kept::{KeptPart, KeptPort, KeptQueue};
use super::program::Program;
use super::share::{LEAST, Memory};
use super::socket::{BindMode, Queue};
use super::sockets::Sockets;
use super::{Failure, Opening};
use crate::ports::umem::{Lease, UmemHandle, UmemPool};

/// The packet goes on in the next descriptor.
const PKT_CONTD: u32 = libc::XDP_PKT_CONTD;

/// The fill ring is refilled when this many slots are missing, or half of a small one: the kernel is notified once per batch.
const REFILL_STEP: u32 = BATCH_LEN as u32;

/// Descriptors that one frame may take (MAX_SKB_FRAGS and the head).
const DESCRIPTORS_MAX: usize = 18;

/// Kicks in a row while they move frames. Each moves 32 frames or more.
const KICKS_MAX: u32 = 128;

/// How long the worker leaves an interface that is down alone.
const DOWN_PAUSE: Duration = Duration::from_millis(10);

/// One queue and the state of its rings.
#[derive(Debug)]
pub struct QueueState {
    pub(super) queue: Queue,
    /// Slots the receive side should have.
    target: u32,
    /// Slots that it may have: the target, or more that it was given before.
    promised: u32,
    /// Slots the receive side has: in the fill ring, in the kernel, or in the receive ring.
    filled: u32,
    /// A packet of several descriptors whose end has not arrived yet.
    gathered: Gathered,
}

/// A packet of several descriptors, as far as it has arrived.
#[derive(Debug)]
enum Gathered {
    Nothing,
    Part(Frame),
    /// The packet found no room: its remaining descriptors are dropped as well.
    Lost,
}

impl QueueState {
    /// A queue that has `filled` slots of this lease and is to have `target`.
    fn new(queue: Queue, lease: &Lease, filled: u32, target: u32) -> Self {
        let promised = target.max(filled);
        lease.promise_queue(promised);
        Self { queue, target, promised, filled, gathered: Gathered::Nothing }
    }

    /// The first filling, before the queue is bound.
    pub(super) fn fill_from_stock(&mut self, lease: &Lease) {
        while self.filled < self.target {
            let Some(slot) = lease.borrow_from_stock() else { break };
            self.queue.fill.push(chunk_of(slot));
            self.filled += 1;
        }
        self.queue.fill.publish();
    }

    /// `burst`: frames that were there to receive at once.
    fn refill(&mut self, pool: &mut UmemPool, lease: &Lease, burst: u32) {
        let missing = self.target.saturating_sub(self.filled);
        if missing < REFILL_STEP.min(self.target / 2) {
            return;
        }
        let memory = memory(lease.umem());
        self.target = match burst >= self.target / 2 {
            true => memory.of_busy(self.target),
            false => memory.of_any(self.target, burst),
        };
        let promised = self.target.max(self.filled);
        if promised != self.promised {
            lease.promise(self.promised, promised);
            self.promised = promised;
        }
        let missing = self.target.saturating_sub(self.filled);
        let room = self.queue.fill.room(missing).min(missing);
        for _ in 0..room {
            let Some(slot) = pool.take_slot() else { break };
            lease.lend(slot);
            self.queue.fill.push(chunk_of(slot));
            self.filled += 1;
        }
        self.queue.fill.publish();
    }

    /// Moves received frames into the batch. Returns how many were there, those included for which the batch has no room.
    fn receive(&mut self, pool: &mut UmemPool, sockets: &Sockets, batch: &mut Batch) -> u32 {
        let mut taken = 0;
        while !batch.is_full() {
            let Some(desc) = self.queue.rx.pop() else { break };
            taken += 1;
            self.filled = self.filled.saturating_sub(1);
            let (slot, head) = slot_of(desc.addr);
            if !sockets.lease.take_back(slot) || head as usize + desc.len as usize > SLOT_SMALL_LEN {
                debug_assert!(false, "the kernel returned a chunk that it did not have: {:#x}", desc.addr);
                continue;
            }
            let frame = Frame { slot, head, len: desc.len, offload: Offload::NONE };
            if desc.options & PKT_CONTD == 0 && matches!(self.gathered, Gathered::Nothing) {
                pool.prefetch(&frame);
                batch.push(frame);
            } else {
                let more = desc.options & PKT_CONTD != 0;
                if let Some(whole) = self.gather(pool, sockets, frame, more) {
                    batch.push(whole);
                }
            }
        }
        if taken == 0 {
            return 0;
        }
        self.queue.rx.release();
        taken + self.queue.rx.available()
    }

    /// Adds one piece to a packet of several. Returns the whole packet once the last piece is there.
    fn gather(&mut self, pool: &mut UmemPool, sockets: &Sockets, piece: Frame, more: bool) -> Option<Frame> {
        let state = std::mem::replace(&mut self.gathered, Gathered::Lost);
        let whole = match state {
            Gathered::Nothing => pool.alloc(SlotSize::Large),
            Gathered::Part(whole) => Some(whole),
            Gathered::Lost => None,
        };
        let whole = match whole {
            Some(mut whole)
                if whole.head as usize + whole.len as usize + piece.len as usize <= SLOT_LARGE_LEN =>
            {
                append(pool, &mut whole, &piece);
                Some(whole)
            }
            Some(whole) => {
                pool.free(whole);
                None
            }
            None => None,
        };
        pool.free(piece);
        match (whole, more) {
            (Some(whole), true) => {
                self.gathered = Gathered::Part(whole);
                None
            }
            (Some(whole), false) => {
                self.gathered = Gathered::Nothing;
                Some(whole)
            }
            (None, true) => None,
            (None, false) => {
                self.gathered = Gathered::Nothing;
                sockets.rx_dropped.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

/// Copies the bytes of one frame to the end of another that has room for them.
fn append(pool: &mut UmemPool, whole: &mut Frame, piece: &Frame) {
    let mut buffer = [0; SLOT_SMALL_LEN];
    let bytes = pool.bytes(piece);
    let buffer = &mut buffer[..bytes.len()];
    buffer.copy_from_slice(bytes);
    let before = whole.len as usize;
    whole.len += piece.len;
    pool.bytes_mut(whole)[before..].copy_from_slice(buffer);
}

/// An AF_XDP port: one worker's queues of one interface. Received frames come from all queues, frames to
/// send go through the first.
#[derive(Debug)]
pub struct AfxdpPort {
    // Dropped in this order: rings, then sockets, then the slot records (see `Sockets`).
    queues: Vec<QueueState>,
    sockets: Arc<Sockets>,
    multi_buffer: bool,
    /// The queue to read first next time.
    turn: usize,
    /// Descriptors given to the transmit ring and not yet completed.
    tx_lent: u32,
    /// The interface is down: do not kick before this time.
    down_until: Option<Instant>,
    /// Frames that arrived while no process ran stay in the rings until forwarding them is allowed.
    held: bool,
}

impl AfxdpPort {
    /// Opens all queues for their workers, and attaches the program; the fill rings are full by then. Returns
    /// the program, and the workers that have a part.
    pub(super) fn open(
        opening: &Opening<'_>,
        umem: &UmemHandle,
        spread: Spread,
        mut program: Program,
    ) -> Result<(Vec<(usize, Self)>, Program), Failure> {
        let Some(target) = memory(umem).first(spread.queues, opening.spec.shared) else {
            return Err(opening.no_slots(spread.queues));
        };
        let mut parts = Vec::new();
        for worker in 0..spread.workers {
            let mut indexes = spread.queues_of(worker).peekable();
            if indexes.peek().is_some() {
                let lease = umem.lease().ok_or_else(|| opening.no_slots(spread.queues))?;
                parts.push((worker, Self::open_part(opening, indexes, target, lease, &mut program)?));
            }
        }
        opening.attach(&mut program)?;
        Ok((parts, program))
    }

    /// Resumes sockets that outlived the previous process; this program replaces theirs on the interface.
    pub(super) fn resume(
        opening: &Opening<'_>,
        umem: &UmemHandle,
        spread: Spread,
        mut program: Program,
        kept: KeptPort,
    ) -> Result<(Vec<(usize, Self)>, Program), KeptPort> {
        let mut kept = kept;
        let target = memory(umem).first(spread.queues, opening.spec.shared).unwrap_or(LEAST);
        let mut workers = Vec::new();
        for part in &kept.parts {
            let owner =
                (0..spread.workers).find(|&worker| spread.queues_of(worker).eq(part.queues.keys().copied()));
            workers.extend(owner);
        }
        let sockets = kept.parts.iter().flat_map(|part| &part.queues);
        let mapped = sockets.map(|(&index, queue)| program.set_socket(index, queue.socket.as_raw_fd()));
        if workers.len() != kept.parts.len() || mapped.collect::<Result<(), _>>().is_err() {
            return Err(kept);
        }
        if let Err((error, link)) = program.attach_over(kept.link) {
            tracing::warn!("{}: what was kept cannot be used: {error}", opening.spec.interface);
            kept.link = link;
            return Err(kept);
        }
        let multi_buffer = kept.bound.multi_buffer;
        let parts = kept.parts.into_iter().map(|KeptPart { queues: kept, lease }| {
            let mut sockets = Sockets::new(lease, opening.interface.index);
            let mut queues = Vec::new();
            let tx_lent = kept.first_key_value().map_or(0, |(_, queue)| queue.tx_lent);
            for (index, KeptQueue { queue, socket, filled, .. }) in kept {
                sockets.fds.push(socket);
                sockets.indexes.push(index);
                queues.push(QueueState::new(queue, &sockets.lease, filled, target.max(filled)));
            }
            let sockets = Arc::new(sockets);
            Self { queues, sockets, multi_buffer, turn: 0, tx_lent, down_until: None, held: true }
        });
        Ok((workers.into_iter().zip(parts).collect(), program))
    }

    fn open_part(
        opening: &Opening<'_>,
        indexes: impl Iterator<Item = u32>,
        target: u32,
        lease: Lease,
        program: &mut Program,
    ) -> Result<Self, Failure> {
        // Declared in this order so that the rings are dropped before the sockets on every way out.
        let mut sockets = Sockets::new(lease, opening.interface.index);
        let mut queues: Vec<QueueState> = Vec::new();
        let (zero_copy, multi_buffer) = (opening.mode.zero_copy, opening.multi_buffer());
        for index in indexes {
            let opened = Queue::new(sockets.lease.umem());
            let (queue, fd) = opened.map_err(|error| opening.socket_failure(error))?;
            program.set_socket(index, fd.as_raw_fd()).map_err(|cause| opening.map_failure(&cause))?;
            sockets.fds.push(fd);
            sockets.indexes.push(index);
            let mut queue = QueueState::new(queue, &sockets.lease, 0, target);
            queue.fill_from_stock(&sockets.lease);
            let mode = BindMode { zero_copy, multi_buffer };
            queues.push(queue);
            let queue = &queues.last().expect("the one just pushed").queue;
            opening.patiently(index, || queue.bind(opening.interface.index, index, mode))?;
            sockets.zero_copy = zero_copy;
        }
        let sockets = Arc::new(sockets);
        Ok(Self { queues, sockets, multi_buffer, turn: 0, tx_lent: 0, down_until: None, held: false })
    }

    pub(super) fn sockets(&self) -> &Arc<Sockets> {
        &self.sockets
    }

    /// The sockets, for `poll`: readable when frames have arrived.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.sockets.fds.iter().map(AsRawFd::as_raw_fd)
    }

    /// Whether frames may come in several chunks.
    pub(super) fn is_multi_buffer(&self) -> bool {
        self.multi_buffer
    }

    /// Queues in use.
    #[must_use]
    pub fn queue_count(&self) -> u32 {
        self.queues.len() as u32
    }

    /// Returns a check whether frames wait in the transmit ring for another kick. It outlives the port, and
    /// then answers no.
    pub fn tx_pending(&self) -> impl Fn() -> bool + Send + 'static {
        let sockets = Arc::downgrade(&self.sockets);
        move || sockets.upgrade().is_some_and(|sockets| sockets.is_tx_pending())
    }

    /// Slots lent to this port.
    pub fn lent(&self) -> usize {
        self.sockets.lease.count()
    }

    /// Takes back the slots of frames that have been sent.
    fn complete(&mut self, pool: &mut UmemPool) {
        if self.tx_lent == 0 {
            return;
        }
        let completion = &mut self.queues[0].queue.completion;
        let mut taken = false;
        while let Some(address) = completion.pop() {
            taken = true;
            self.tx_lent = self.tx_lent.saturating_sub(1);
            let (slot, _) = slot_of(address);
            if self.sockets.lease.take_back(slot) {
                pool.put_slot(slot);
            } else {
                debug_assert!(false, "the kernel completed a chunk that it did not have: {address:#x}");
            }
        }
        if taken {
            completion.release();
        }
    }

    /// Asks the kernel to send the transmit ring's frames, as many as it will.
    fn kick(&mut self, now: Instant, pool: &mut UmemPool) {
        if self.down_until.is_some_and(|until| now < until) {
            return;
        }
        self.down_until = None;
        for _ in 0..KICKS_MAX {
            let tx = &self.queues[0].queue;
            let before = tx.tx.pending();
            if before == 0 || !tx.tx.needs_wakeup() {
                break;
            }
            if let Err(cause) = tx.kick_tx() {
                match cause.raw_os_error() {
                    // The budget is used up, a queue is full, or memory is short: try again, now while it
                    // helps, otherwise at the next poll.
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR | libc::ENOMEM) => {}
                    Some(libc::ENETDOWN) => {
                        self.down_until = Some(now + DOWN_PAUSE);
                        break;
                    }
                    // The interface is gone; the agent learns that from rtnetlink and closes the port.
                    _ => {
                        self.sockets.dead.store(true, Ordering::Relaxed);
                        break;
                    }
                }
            }
            let after = self.queues[0].queue.tx.pending();
            self.complete(pool);
            if after == before {
                break;
            }
        }
        let pending = self.queues[0].queue.tx.pending() > 0;
        if pending != self.sockets.is_tx_pending() {
            self.sockets.tx_pending.store(pending, Ordering::Relaxed);
        }
    }

    /// Counts the descriptors that the frame takes in the transmit ring; `None` if it cannot be sent at all.
    fn descriptors(&self, pool: &UmemPool, frame: &Frame) -> Option<usize> {
        let count = if pool.is_small(frame) { 1 } else { (frame.len as usize).div_ceil(SLOT_SMALL_LEN) };
        let most = if self.multi_buffer { DESCRIPTORS_MAX } else { 1 };
        (frame.len >= 14 && count <= most).then_some(count)
    }

    /// Puts one frame into the transmit ring, which has room for it.
    fn post(&mut self, pool: &mut UmemPool, frame: Frame) {
        let lease = &self.sockets.lease;
        let tx = &mut self.queues[0].queue.tx;
        if pool.is_small(&frame) {
            lease.lend(frame.slot);
            let addr = chunk_of(frame.slot) + u64::from(frame.head);
            tx.push(xdp_desc { addr, len: frame.len, options: 0 });
            self.tx_lent += 1;
            return;
        }
        // The kernel does not know large slots: spread the bytes over small ones.
        let mut slots: [u32; DESCRIPTORS_MAX] = [0; DESCRIPTORS_MAX];
        let len = frame.len as usize;
        let count = len.div_ceil(SLOT_SMALL_LEN);
        for index in 0..count {
            let Some(slot) = pool.take_slot() else {
                for slot in &slots[..index] {
                    pool.put_slot(*slot);
                }
                pool.free(frame);
                self.sockets.tx_invalid.fetch_add(1, Ordering::Relaxed);
                return;
            };
            slots[index] = slot;
        }
        for (index, &slot) in slots[..count].iter().enumerate() {
            let from = index * SLOT_SMALL_LEN;
            let piece_len = (len - from).min(SLOT_SMALL_LEN);
            let head = HEADROOM.min(SLOT_SMALL_LEN - piece_len) as u16;
            let mut piece = Frame { slot, head, len: piece_len as u32, offload: Offload::NONE };
            let mut buffer = [0; SLOT_SMALL_LEN];
            buffer[..piece_len].copy_from_slice(&pool.bytes(&frame)[from..from + piece_len]);
            pool.bytes_mut(&mut piece).copy_from_slice(&buffer[..piece_len]);
            lease.lend(slot);
            let options = if index + 1 < count { PKT_CONTD } else { 0 };
            tx.push(xdp_desc { addr: chunk_of(slot) + u64::from(head), len: piece.len, options });
            self.tx_lent += 1;
        }
        pool.free(frame);
    }
}

impl Port<UmemPool> for AfxdpPort {
    fn rx(&mut self, now: Instant, pool: &mut UmemPool, batch: &mut Batch) {
        if self.held {
            return;
        }
        // Finish earlier polls: take sent frames back, kick unsent ones again.
        self.complete(pool);
        if self.tx_lent > 0 && self.queues[0].queue.tx.pending() > 0 {
            self.kick(now, pool);
        }
        let count = self.queues.len();
        for step in 0..count {
            let queue = &mut self.queues[(self.turn + step) % count];
            let burst = queue.receive(pool, &self.sockets, batch);
            queue.refill(pool, &self.sockets.lease, burst);
            // Only with zero copy does the kernel sleep when it lacks chunks.
            if self.sockets.zero_copy && queue.queue.fill.needs_wakeup() {
                queue.queue.kick_rx();
            }
            if batch.is_full() {
                break;
            }
        }
        self.turn = (self.turn + 1) % count;
    }

    fn tx(&mut self, now: Instant, pool: &mut UmemPool, frames: &mut Vec<Frame>) {
        self.complete(pool);
        let mut room = self.queues[0].queue.tx.room(frames.len() as u32) as usize;
        let (mut taken, mut used) = (0, 0);
        for frame in frames.iter() {
            used += self.descriptors(pool, frame).unwrap_or(0);
            if used > room {
                // Large frames take more descriptors than requested.
                room = self.queues[0].queue.tx.room(used as u32) as usize;
                if used > room {
                    break;
                }
            }
            taken += 1;
        }
        for frame in frames.drain(..taken) {
            if self.descriptors(pool, &frame).is_some() {
                self.post(pool, frame);
            } else {
                pool.free(frame);
                self.sockets.tx_invalid.fetch_add(1, Ordering::Relaxed);
            }
        }
        if taken > 0 {
            self.queues[0].queue.tx.publish();
        }
        self.kick(now, pool);
    }

    fn caps(&self) -> PortCaps {
        PortCaps { rx_csum_unmarked: true, ..PortCaps::default() }
    }

    fn set_live(&mut self, live: bool) {
        self.held &= !live;
    }
}

/// How much of the frame memory receive queues may have.
fn memory(umem: &UmemHandle) -> Memory {
    let (promised, queues) = umem.promised();
    Memory { total: umem.small_count(), promised, queues }
}

/// The address of a small slot in AF_XDP's terms: from the start of the registered memory.
fn chunk_of(slot: u32) -> u64 {
    u64::from(slot) * SLOT_SMALL_LEN as u64
}

/// The small slot that contains an address, and the offset in it.
fn slot_of(address: u64) -> (u32, u16) {
    let slot = u32::try_from(address / SLOT_SMALL_LEN as u64).unwrap_or(u32::MAX);
    (slot, (address % SLOT_SMALL_LEN as u64) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_slots() {
        assert_eq!(slot_of(chunk_of(5) + 256), (5, 256));
        assert_eq!(slot_of(chunk_of(5)), (5, 0));
        assert_eq!(slot_of(u64::MAX).0, u32::MAX);
    }
}
