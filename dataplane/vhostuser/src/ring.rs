//! One virtqueue (VIRTIO 1.2 §2.7, split), for frames in one direction.
//!
//! Every chain that is taken is given back before the call returns, so between two calls no chain is in
//! flight: the ring's next user, even after our death, continues at the used index.
//!
//! The guest can write to the whole ring at any time. So every value that affects a decision is read once,
//! into our own memory, and checked there; our own numbers bound all loops.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use arrayvec::ArrayVec;
use engine::frame::{Batch, Frame, FramePool, SlotSize};
use engine::limits::{BATCH_BYTES, HEADROOM, SLOT_LARGE_LEN};
use engine::wire::virtio_net::{self, HEADER_LEN, MERGEABLE_HEADER_LEN};
use rustix::io::ReadWriteFlags;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::{self, Log, Memory};
use crate::{BUFFERS_MAX, CHAIN_MAX, DESCRIPTORS_PER_CALL, Fault, RING_LEN_MAX};

/// The longest frame that a large slot holds.
const FRAME_MAX: usize = SLOT_LARGE_LEN - HEADROOM;

/// `virtq_avail.flags`: the driver does not want calls.
const AVAIL_NO_INTERRUPT: u16 = 1;

/// The addresses of a ring's parts, as QEMU's, and of its log, as the guest's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Descriptor table.
    pub descriptors: u64,
    /// The ring of the driver's offers.
    pub available: u64,
    /// The ring of the buffers that we used.
    pub used: u64,
    /// Where the log notes writes to `used`, if it does.
    pub log: Option<u64>,
}

/// The negotiated features that a ring depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// Kicks and calls are requested by index.
    pub event_idx: bool,
    /// A frame may be spread over several buffers.
    pub mergeable: bool,
    /// The header has 12 bytes.
    pub long_header: bool,
    /// The guest knows the mark for CWR.
    pub ecn: bool,
}

impl Terms {
    const fn header_len(self) -> usize {
        if self.long_header { MERGEABLE_HEADER_LEN } else { HEADER_LEN }
    }
}

/// The result of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// Frames moved.
    pub frames: u64,
    /// Frames dropped: impossible offload facts or too long (from the guest), or longer than its buffers (to
    /// the guest).
    pub dropped: u64,
    /// Calls to the guest.
    pub calls: u64,
    /// Kicks that arrived since the last call.
    pub kicks: u64,
    /// The pool had no slot, and more frames wait.
    pub starved: bool,
}

/// A virtqueue.
#[derive(Debug)]
pub struct Ring {
    number: usize,
    /// The number of entries that QEMU set.
    pub(crate) len: u16,
    pub(crate) place: Option<Place>,
    /// The next entry to take when the ring starts.
    pub(crate) base: u16,
    pub(crate) enabled: bool,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    log: Option<Arc<Log>>,
    run: Option<Run>,
}

/// The state of a started ring.
#[derive(Debug)]
struct Run {
    queue: Queue,
    memory: Arc<Memory>,
    terms: Terms,
    used: Used,
    /// We asked the driver to kick.
    armed: bool,
}

/// Our half of the ring. Entries become visible to the driver together: a frame spread over several buffers
/// must never be visible in part.
#[derive(Debug)]
struct Used {
    at: GuestAddress,
    log_at: Option<GuestAddress>,
    len: u16,
    next: u16,
    /// `next` at the last decision whether to call the driver.
    told: u16,
    /// `next` as the driver sees it.
    shown: u16,
}

impl Ring {
    /// A ring that QEMU has not mentioned yet.
    #[must_use]
    pub const fn new(number: usize) -> Self {
        Self {
            number,
            len: 0,
            place: None,
            base: 0,
            enabled: false,
            kick: None,
            call: None,
            log: None,
            run: None,
        }
    }

    /// Whether frames may move.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.run.is_some() && self.enabled
    }

    /// Whether the driver has set it up.
    #[must_use]
    pub const fn is_started(&self) -> bool {
        self.run.is_some()
    }

    fn setup(&self, why: &'static str) -> Fault {
        Fault::Setup { ring: self.number, why }
    }

    fn broken(&self, why: &'static str) -> Fault {
        Fault::Ring { ring: self.number, why }
    }

    /// Starts the ring. `kick`: the descriptor that the driver kicks, if it has one.
    pub(crate) fn start(
        &mut self,
        memory: &Arc<Memory>,
        terms: Terms,
        kick: Option<OwnedFd>,
    ) -> Result<(), Fault> {
        let next = self.stop();
        self.base = next;
        let (queue, used) = self.lay_out(memory, terms, next)?;
        self.run = Some(Run { queue, memory: memory.clone(), terms, used, armed: false });
        self.kick = kick;
        Ok(())
    }

    /// Builds the queue at the stated place, and checks that all its bytes are guest memory.
    fn lay_out(&self, memory: &Memory, terms: Terms, next: u16) -> Result<(Queue, Used), Fault> {
        let place = self.place.ok_or_else(|| self.setup("its place was not said"))?;
        let guest =
            |user| memory.guest_address(user).ok_or_else(|| self.setup("it is outside the guest's memory"));
        let (descriptors, available, used) =
            (guest(place.descriptors)?, guest(place.available)?, guest(place.used)?);
        let mut queue = Queue::new(RING_LEN_MAX).expect("the limit is a power of two");
        queue.try_set_size(self.len).map_err(|_| self.setup("its length is no power of two up to 4096"))?;
        queue.try_set_desc_table_address(descriptors).map_err(|_| self.setup("it is misaligned"))?;
        queue.try_set_avail_ring_address(available).map_err(|_| self.setup("it is misaligned"))?;
        queue.try_set_used_ring_address(used).map_err(|_| self.setup("it is misaligned"))?;
        queue.set_event_idx(terms.event_idx);
        queue.set_next_avail(next);
        queue.set_ready(true);
        // The crate treats a table at address 0 as a missing one.
        if available.0 == 0 || !queue.is_valid(memory.guest()) {
            return Err(self.setup("it is outside the guest's memory"));
        }
        let shown = queue
            .used_idx(memory.guest(), Ordering::Acquire)
            .map_err(|_| self.setup("it is outside the guest's memory"))?
            .0;
        let log_at = place.log.map(GuestAddress);
        let used = Used { at: used, log_at, len: self.len, next: shown, told: shown, shown };
        Ok((queue, used))
    }

    /// Stops the ring. Returns the next entry it would have taken.
    pub(crate) fn stop(&mut self) -> u16 {
        self.kick = None;
        match self.run.take() {
            Some(run) => run.queue.next_avail(),
            None => self.base,
        }
    }

    /// Stops the ring and forgets its setup: the driver must set it up again.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.number);
    }

    /// Updates a running ring after QEMU has changed the guest's memory, or the ring's place in it.
    pub(crate) fn relocate(&mut self, memory: &Arc<Memory>) -> Result<(), Fault> {
        let Some(run) = &self.run else { return Ok(()) };
        let (terms, next, was) = (run.terms, run.queue.next_avail(), run.used.next);
        let (queue, mut used) = self.lay_out(memory, terms, next)?;
        (used.next, used.shown, used.told) = (was, was, was);
        let run = self.run.as_mut().expect("it runs");
        (run.queue, run.used, run.memory) = (queue, used, memory.clone());
        run.armed = false;
        Ok(())
    }

    pub(crate) fn set_call(&mut self, call: Option<OwnedFd>) {
        self.call = call;
    }

    pub(crate) fn set_log(&mut self, log: Option<Arc<Log>>) {
        self.log = log;
    }

    pub(crate) fn kick(&self) -> Option<&OwnedFd> {
        self.kick.as_ref()
    }

    /// Takes the frames that the guest sends, up to the batch's capacity.
    ///
    /// # Errors
    /// The driver broke the ring. Earlier frames are in the batch.
    pub fn receive<P: FramePool>(&mut self, pool: &mut P, batch: &mut Batch) -> Result<Done, Fault> {
        let mut done = Done::default();
        let outcome = self.take_chains(pool, batch, &mut done);
        self.finish(&mut done)?;
        outcome.map_err(|why| self.broken(why))?;
        Ok(done)
    }

    fn take_chains<P: FramePool>(
        &mut self,
        pool: &mut P,
        batch: &mut Batch,
        done: &mut Done,
    ) -> Result<(), &'static str> {
        let Some(run) = self.run.as_mut().filter(|_| self.enabled) else { return Ok(()) };
        let guest = run.memory.guest();
        let header_len = run.terms.header_len();
        let mut chains = run.queue.iter(guest).map_err(|_| "its available index jumps")?;
        let (mut descriptors, mut bytes, mut came) = (0, 0, false);
        while !batch.is_full() && bytes < BATCH_BYTES && descriptors < DESCRIPTORS_PER_CALL {
            let Some(mut chain) = chains.next() else { break };
            came = true;
            let head = chain.head_index();
            let mut parts = ArrayVec::<(GuestAddress, usize), CHAIN_MAX>::new();
            let mut total = 0;
            let mut complete = false;
            for part in &mut chain {
                if part.is_write_only() {
                    return Err("a buffer to send is write-only");
                }
                total += part.len() as usize;
                complete = !part.has_next();
                parts.try_push((part.addr(), part.len() as usize)).map_err(|_| "a chain is too long")?;
            }
            descriptors += parts.len();
            if !complete {
                return Err("a chain loops or leads nowhere");
            }
            let Some(len) = total.checked_sub(header_len) else {
                return Err("a chain is shorter than the virtio-net header");
            };
            if len > FRAME_MAX {
                done.dropped += 1;
                run.used.push(&run.memory, self.log.as_deref(), head, 0)?;
                continue;
            }
            let Some(mut frame) = pool.alloc(SlotSize::for_len(len)) else {
                chains.go_to_previous_position();
                done.starved = true;
                break;
            };
            frame.len = len as u32;
            let mut header = [0; MERGEABLE_HEADER_LEN];
            let header = &mut header[..header_len];
            if gather(guest, &parts, header, pool.bytes_mut(&mut frame)).is_err() {
                pool.free(frame);
                return Err("a buffer is outside the guest's memory");
            }
            match virtio_net::read(header, pool.bytes(&frame)) {
                Ok(offload) => {
                    frame.offload = offload;
                    bytes += len;
                    done.frames += 1;
                    batch.push(frame);
                }
                Err(_) => {
                    pool.free(frame);
                    done.dropped += 1;
                }
            }
            run.used.push(&run.memory, self.log.as_deref(), head, 0)?;
        }
        if came && std::mem::take(&mut run.armed) {
            done.kicks += self.kick.as_ref().map_or(0, count);
            self.hush();
        }
        Ok(())
    }

    /// Gives the guest frames from the front of `frames`, freeing each. The frames that remain found no room.
    ///
    /// # Errors
    /// The driver broke the ring.
    pub fn send<P: FramePool>(&mut self, pool: &mut P, frames: &mut Vec<Frame>) -> Result<Done, Fault> {
        let mut done = Done::default();
        let mut taken = 0;
        let outcome = self.fill_buffers(pool, frames, &mut taken, &mut done);
        for frame in frames.drain(..taken) {
            pool.free(frame);
        }
        self.finish(&mut done)?;
        outcome.map_err(|why| self.broken(why))?;
        Ok(done)
    }

    fn fill_buffers<P: FramePool>(
        &mut self,
        pool: &P,
        frames: &[Frame],
        taken: &mut usize,
        done: &mut Done,
    ) -> Result<(), &'static str> {
        let Some(run) = self.run.as_mut().filter(|_| self.enabled) else { return Ok(()) };
        let log = self.log.as_deref();
        let terms = run.terms;
        let mut chains = run.queue.iter(run.memory.guest()).map_err(|_| "its available index jumps")?;
        for frame in frames {
            let bytes = pool.bytes(frame);
            let need = terms.header_len() + bytes.len();
            // If the guest offers few and small descriptors, only its own throughput suffers, up to a point.
            let budget = 8 + need / 128;
            let mut parts = ArrayVec::<(GuestAddress, usize), { 8 + (FRAME_MAX + 12) / 128 }>::new();
            // Each buffer's head, and how many of the frame's bytes go there.
            let mut buffers = ArrayVec::<(u16, usize), BUFFERS_MAX>::new();
            let mut room = 0;
            while room < need {
                if !buffers.is_empty() && !terms.mergeable {
                    break;
                }
                if buffers.is_full() {
                    return Err("its buffers are too small");
                }
                let Some(mut chain) = chains.next() else { break };
                let before = room;
                buffers.push((chain.head_index(), 0));
                let mut complete = false;
                for part in &mut chain {
                    if !part.is_write_only() {
                        return Err("a buffer to receive is read-only");
                    }
                    if parts.len() >= budget {
                        return Err("its buffers are too small");
                    }
                    let len = (part.len() as usize).min(need - room);
                    parts.push((part.addr(), len));
                    room += len;
                    complete = !part.has_next();
                    if room == need {
                        complete = true;
                        break;
                    }
                }
                if !complete {
                    return Err("a chain loops or leads nowhere");
                }
                buffers.last_mut().expect("just pushed").1 = room - before;
            }
            if room < need {
                for _ in &buffers {
                    chains.go_to_previous_position();
                }
                if terms.mergeable || buffers.is_empty() {
                    return Ok(());
                }
                // The guest's buffers are all alike: it can never take a frame of this length.
                done.dropped += 1;
                *taken += 1;
                continue;
            }
            let mut header = [0; MERGEABLE_HEADER_LEN];
            virtio_net::write(&mut header, frame.offload, bytes);
            if !terms.ecn {
                header[1] &= 0x7f;
            }
            header[10..].copy_from_slice(&(buffers.len() as u16).to_le_bytes());
            scatter(&run.memory, log, &parts, &header[..terms.header_len()], bytes)
                .map_err(|()| "a buffer is outside the guest's memory")?;
            for (head, len) in buffers {
                run.used.push(&run.memory, log, head, len as u32)?;
            }
            done.frames += 1;
            *taken += 1;
        }
        Ok(())
    }

    /// Makes the used entries visible to the driver, and calls it if it requested that.
    fn finish(&mut self, done: &mut Done) -> Result<(), Fault> {
        let log = self.log.as_deref();
        let Some(run) = &mut self.run else { return Ok(()) };
        let wanted = run.used.show(&run.queue, &run.memory, log, run.terms);
        let wanted = wanted.map_err(|why| Fault::Ring { ring: self.number, why })?;
        if wanted && let Some(call) = &self.call {
            done.calls += 1;
            // A full counter means a pending call.
            let _ = rustix::io::write(call, &1u64.to_ne_bytes());
        }
        Ok(())
    }

    /// Asks the driver to kick when it offers more. Returns true if it has already done so.
    ///
    /// # Errors
    /// The driver broke the ring.
    pub fn arm(&mut self) -> Result<bool, Fault> {
        let Some(run) = self.run.as_mut().filter(|_| self.enabled) else { return Ok(false) };
        let waits = run.queue.enable_notification(run.memory.guest());
        run.armed = true;
        run.used.log_whole(self.log.as_deref());
        waits.map_err(|_| self.broken("it is outside the guest's memory"))
    }

    /// Asks the driver not to kick, as far as the features allow.
    pub(crate) fn hush(&mut self) {
        if let Some(run) = &mut self.run {
            // The ring lies in memory, as was checked; a driver that kicks anyway does no harm.
            let _ = run.queue.disable_notification(run.memory.guest());
            run.used.log_whole(self.log.as_deref());
        }
    }
}

/// The number of kicks since the last count.
fn count(kick: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    // Never blocks, even if QEMU changed the descriptor's flags.
    let buffer = &mut [std::io::IoSliceMut::new(&mut count)];
    match rustix::io::preadv2(kick, buffer, u64::MAX, ReadWriteFlags::NOWAIT) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}

impl Used {
    /// Notes a buffer as used. The driver cannot see the entry yet.
    fn push(&mut self, memory: &Memory, log: Option<&Log>, head: u16, len: u32) -> Result<(), &'static str> {
        let mut entry = [0; 8];
        entry[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        entry[4..].copy_from_slice(&len.to_le_bytes());
        let at = 4 + u64::from(self.next % self.len) * 8;
        memory
            .guest()
            .write_slice(&entry, GuestAddress(self.at.0 + at))
            .map_err(|_| "it is outside the guest's memory")?;
        self.log(log, at, 8);
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// Makes noted entries visible to the driver. Returns true if it wants a call.
    fn show(
        &mut self,
        queue: &Queue,
        memory: &Memory,
        log: Option<&Log>,
        terms: Terms,
    ) -> Result<bool, &'static str> {
        let nowhere = |_| "it is outside the guest's memory";
        if self.next == self.shown {
            return Ok(false);
        }
        let guest = memory.guest();
        guest.store(self.next.to_le(), GuestAddress(self.at.0 + 2), Ordering::Release).map_err(nowhere)?;
        self.log(log, 2, 2);
        self.shown = self.next;
        // The driver writes its wish and then reads the index; we write the index and then read the wish.
        fence(Ordering::SeqCst);
        let available = queue.avail_ring();
        if !terms.event_idx {
            let flags: u16 = guest.load(GuestAddress(available), Ordering::Relaxed).map_err(nowhere)?;
            return Ok(u16::from_le(flags) & AVAIL_NO_INTERRUPT == 0);
        }
        let event = GuestAddress(available + 4 + u64::from(self.len) * 2);
        let event = u16::from_le(guest.load(event, Ordering::Relaxed).map_err(nowhere)?);
        let told = std::mem::replace(&mut self.told, self.next);
        Ok(self.next.wrapping_sub(event).wrapping_sub(1) < self.next.wrapping_sub(told))
    }

    fn log(&self, log: Option<&Log>, at: u64, len: usize) {
        if let (Some(log), Some(base)) = (log, self.log_at) {
            log.mark(GuestAddress(base.0.saturating_add(at)), len);
        }
    }

    /// Logs the whole used ring, including the word behind it that requests kicks.
    fn log_whole(&self, log: Option<&Log>) {
        self.log(log, 0, 6 + usize::from(self.len) * 8);
    }
}

/// Copies a chain: first the header, then the frame.
fn gather(
    guest: &vm_memory::GuestMemoryMmap,
    parts: &[(GuestAddress, usize)],
    header: &mut [u8],
    frame: &mut [u8],
) -> Result<(), ()> {
    let (mut header, mut frame) = (header, frame);
    for &(at, len) in parts {
        let (front, rest) = header.split_at_mut(len.min(header.len()));
        header = rest;
        guest.read_slice(front, at).map_err(drop)?;
        let (body, rest) = frame.split_at_mut(len - front.len());
        frame = rest;
        if !body.is_empty() {
            let at = at.0.checked_add(front.len() as u64).ok_or(())?;
            guest.read_slice(body, GuestAddress(at)).map_err(drop)?;
        }
    }
    Ok(())
}

/// Copies the header, then the frame, to the guest.
fn scatter(
    memory: &Memory,
    log: Option<&Log>,
    parts: &[(GuestAddress, usize)],
    header: &[u8],
    frame: &[u8],
) -> Result<(), ()> {
    let (mut header, mut frame) = (header, frame);
    for &(at, len) in parts {
        let (front, rest) = header.split_at(len.min(header.len()));
        header = rest;
        memory::write(memory, log, front, at)?;
        let (body, rest) = frame.split_at(len - front.len());
        frame = rest;
        if !body.is_empty() {
            let at = at.0.checked_add(front.len() as u64).ok_or(())?;
            memory::write(memory, log, body, GuestAddress(at))?;
        }
    }
    Ok(())
}
