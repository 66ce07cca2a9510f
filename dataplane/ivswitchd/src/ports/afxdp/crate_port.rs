//! The worker's part of an AF_XDP port on the crate `afxdp` (feature `xsk-afxdp`): the same interface and
//! tests as `port`, on other rings.
//!
//! The abilities and limits of the crate determine the form of this file:
//!
//! - The crate's memory is separate from the pool, and a packet in it starts where the kernel put it, so each
//!   frame is copied once between that memory and the pool. The pool lends no slots.
//! - The crate offers no descriptor to sleep on, to kick again, or to ask for statistics. Its `Debug` output
//!   shows the number; we duplicate that descriptor.
//! - The crate enters its sockets into the XDP program's map itself, and finds that map through the
//!   interface. The program must therefore be attached first, and looking maps up by id takes CAP_SYS_ADMIN.
//! - The crate unmaps its memory and frees its rings even while they are in use: the fields of `CrateQueue`
//!   are dropped in the one sound order.
//! - The crate panics when the kernel refuses to send from a socket whose interface is gone; we catch the
//!   panic.
//! - Frames larger than a chunk are not supported.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use afxdp::buf::Buf;
use afxdp::buf_mmap::BufMmap;
use afxdp::mmap_area::{MmapArea, MmapAreaOptions};
use afxdp::socket::{Socket, SocketNewError, SocketOptions, SocketRx, SocketTx};
use afxdp::umem::{Umem, UmemCompletionQueue, UmemFillQueue, UmemNewError};
use arraydeque::{ArrayDeque, Wrapping};
use engine::frame::{Batch, Frame, FramePool};
use engine::handoff::Spread;
use engine::limits::{BATCH_LEN, SLOT_SMALL_LEN};
use engine::port::{Port, PortCaps};
use engine::time::Instant;

use super::program::Program;
use super::socket::{RING_LEN, kick_tx, raise_limits};
use super::sockets::Sockets;
use super::{Failure, Opening, PortError};
use crate::ports::umem::{Lease, UmemHandle, UmemPool};

/// Buffers of one queue: a full fill ring and a full transmit ring.
const BUFFERS: usize = 2 * RING_LEN as usize;

/// How long the worker leaves an interface that is down alone.
const DOWN_PAUSE: Duration = Duration::from_millis(10);

/// Kicks in a row while they move frames.
const KICKS_MAX: u32 = 128;

type Buffer = BufMmap<'static, ()>;
type Buffers = Box<ArrayDeque<[Buffer; afxdp::PENDING_LEN], Wrapping>>;

/// One queue. Fields are dropped from the top: sockets, rings, buffers, and their memory last.
struct CrateQueue {
    rx: SocketRx<'static, ()>,
    tx: SocketTx<'static, ()>,
    _socket: Arc<Socket<'static, ()>>,
    fill: UmemFillQueue<'static, ()>,
    completion: UmemCompletionQueue<'static, ()>,
    _umem: Arc<Umem<'static, ()>>,
    received: Buffers,
    outgoing: Buffers,
    /// Receive buffers that are not in the fill ring.
    rx_free: Vec<Buffer>,
    /// Send buffers that are not in the transmit ring.
    tx_free: Vec<Buffer>,
    _area: Arc<MmapArea<'static, ()>>,
}

impl CrateQueue {
    fn open(interface: &str, index: u32, zero_copy: bool) -> io::Result<Self> {
        let (area, mut buffers) = MmapArea::new(BUFFERS, SLOT_SMALL_LEN, MmapAreaOptions { huge_tlb: false })
            .map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let (umem, completion, mut fill) =
            Umem::new(area.clone(), RING_LEN, RING_LEN).map_err(|error| match error {
                UmemNewError::Create(cause) => positive(&cause),
                other => io::Error::other(other.to_string()),
            })?;
        let mut rx_free = buffers.split_off(RING_LEN as usize);
        rx_free.reserve_exact(RING_LEN as usize);
        fill.fill(&mut rx_free, RING_LEN as usize).map_err(|_| io::Error::other("fill ring"))?;
        let options =
            SocketOptions { zero_copy_mode: zero_copy, copy_mode: !zero_copy, ..Default::default() };
        let queue = index as usize;
        let (socket, rx, tx) = Socket::new(umem.clone(), interface, queue, RING_LEN, RING_LEN, options)
            .map_err(|error| match error {
                SocketNewError::Create(cause) => positive(&cause),
                other => io::Error::other(other.to_string()),
            })?;
        // The crate takes at most as many entries from the completion ring as the vector has capacity for.
        let mut tx_free = Vec::with_capacity(BUFFERS);
        tx_free.append(&mut buffers);
        Ok(Self {
            rx,
            tx,
            _socket: socket,
            fill,
            completion,
            _umem: umem,
            received: Box::default(),
            outgoing: Box::default(),
            rx_free,
            tx_free,
            _area: area,
        })
    }

    /// The socket's descriptor, from the only source there is.
    fn fd(&self) -> Option<RawFd> {
        let text = format!("{:?}", self.rx);
        let (_, after) = text.rsplit_once(" fd: ")?;
        after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    fn in_flight(&self) -> usize {
        RING_LEN as usize - self.tx_free.len()
    }
}

/// The crate passes on libbpf's negative error numbers.
fn positive(cause: &io::Error) -> io::Error {
    io::Error::from_raw_os_error(cause.raw_os_error().map_or(libc::EIO, i32::abs))
}

/// An AF_XDP port: one worker's queues of one interface.
pub struct AfxdpPort {
    queues: Vec<CrateQueue>,
    sockets: Arc<Sockets>,
    turn: usize,
    down_until: Option<Instant>,
}

impl std::fmt::Debug for AfxdpPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AfxdpPort").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

impl AfxdpPort {
    /// Attaches the program and opens all queues for their workers.
    pub(super) fn open(
        opening: &Opening<'_>,
        umem: &UmemHandle,
        spread: Spread,
        mut program: Program,
    ) -> Result<(Vec<(usize, Self)>, Program), Failure> {
        let interface = &opening.spec.interface;
        if opening.multi_buffer() {
            return Err(Failure::Final(PortError::NoMode {
                interface: interface.clone(),
                reasons: format!(
                    "an MTU of {} takes frames of several buffers, which this build (xsk-afxdp) does not do",
                    opening.interface.mtu
                ),
            }));
        }
        opening.attach(&mut program)?;
        let mut parts = Vec::new();
        for worker in 0..spread.workers {
            let mut indexes = spread.queues_of(worker).peekable();
            if indexes.peek().is_some() {
                let lease = umem.lease().ok_or_else(|| opening.no_slots(spread.queues))?;
                parts.push((worker, Self::open_part(opening, indexes, lease)?));
            }
        }
        Ok((parts, program))
    }

    fn open_part(
        opening: &Opening<'_>,
        indexes: impl Iterator<Item = u32>,
        lease: Lease,
    ) -> Result<Self, Failure> {
        let interface = &opening.spec.interface;
        let mut sockets = Sockets::new(lease, opening.interface.index);
        let mut queues = Vec::new();
        let zero_copy = opening.mode.zero_copy;
        for index in indexes {
            let queue = opening.patiently(index, || CrateQueue::open(interface, index, zero_copy))?;
            let fd = queue.fd().expect("the crate's Debug output shows the descriptor");
            // SAFETY: the socket is open: `queue` owns it.
            let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
            let fd = borrowed.try_clone_to_owned().map_err(|cause| opening.bind_failure(index, &cause))?;
            raise_limits(&fd);
            sockets.fds.push(fd);
            sockets.indexes.push(index);
            queues.push(queue);
            sockets.zero_copy = zero_copy;
        }
        Ok(Self { queues, sockets: Arc::new(sockets), turn: 0, down_until: None })
    }

    pub(super) fn sockets(&self) -> &Arc<Sockets> {
        &self.sockets
    }

    /// The sockets, for `poll`: readable when frames have arrived.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.sockets.fds.iter().map(AsRawFd::as_raw_fd)
    }

    /// Queues in use.
    #[must_use]
    pub fn queue_count(&self) -> u32 {
        self.queues.len() as u32
    }

    /// Slots lent to this port: always none.
    pub fn lent(&self) -> usize {
        self.sockets.lease.count()
    }

    /// Returns a check whether frames wait in the transmit ring for another kick. It outlives the port, and
    /// then answers no.
    pub fn tx_pending(&self) -> impl Fn() -> bool + Send + 'static {
        let sockets = Arc::downgrade(&self.sockets);
        move || sockets.upgrade().is_some_and(|sockets| sockets.is_tx_pending())
    }

    fn complete(&mut self) {
        let queue = &mut self.queues[0];
        if queue.in_flight() > 0 {
            // This call cannot fail.
            let _ = queue.completion.service(&mut queue.tx_free, RING_LEN as usize);
        }
    }

    fn kick(&mut self, now: Instant) {
        if self.down_until.is_some_and(|until| now < until) {
            return;
        }
        self.down_until = None;
        for _ in 0..KICKS_MAX {
            self.complete();
            let before = self.queues[0].in_flight();
            if before == 0 || !self.queues[0].tx.needs_wakeup() {
                break;
            }
            match kick_tx(self.sockets.fds[0].as_raw_fd()).map_err(|cause| cause.raw_os_error()) {
                Ok(())
                | Err(Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR | libc::ENOMEM)) => {}
                Err(Some(libc::ENETDOWN)) => {
                    self.down_until = Some(now + DOWN_PAUSE);
                    break;
                }
                Err(_) => {
                    self.sockets.dead.store(true, Ordering::Relaxed);
                    break;
                }
            }
            self.complete();
            if self.queues[0].in_flight() == before {
                break;
            }
        }
        self.sockets.tx_pending.store(self.queues[0].in_flight() > 0, Ordering::Relaxed);
    }
}

impl Port<UmemPool> for AfxdpPort {
    fn rx(&mut self, now: Instant, pool: &mut UmemPool, batch: &mut Batch) {
        self.complete();
        if self.queues[0].in_flight() > 0 {
            self.kick(now);
        }
        let count = self.queues.len();
        for step in 0..count {
            let queue = &mut self.queues[(self.turn + step) % count];
            // This call cannot fail.
            let _ = queue.rx.try_recv(&mut queue.received, batch.remaining_capacity(), ());
            while let Some(buffer) = queue.received.pop_front() {
                match pool.alloc_from(&buffer.get_data()[..usize::from(buffer.get_len())]) {
                    Some(frame) => batch.push(frame),
                    None => {
                        self.sockets.rx_dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
                queue.rx_free.push(buffer);
            }
            if queue.rx_free.len() >= BATCH_LEN {
                let free = queue.rx_free.len();
                let _ = queue.fill.fill(&mut queue.rx_free, free);
            }
            if self.sockets.zero_copy && queue.fill.needs_wakeup() {
                queue.rx.wake();
            }
            if batch.is_full() {
                break;
            }
        }
        self.turn = (self.turn + 1) % count;
    }

    fn tx(&mut self, now: Instant, pool: &mut UmemPool, frames: &mut Vec<Frame>) {
        self.complete();
        let queue = &mut self.queues[0];
        let taken = frames.len().min(queue.tx_free.len());
        for frame in frames.drain(..taken) {
            let bytes = pool.bytes(&frame);
            let mut buffer = queue.tx_free.pop().expect("as many as frames taken");
            if bytes.len() < 14 || bytes.len() > buffer.get_data().len() {
                queue.tx_free.push(buffer);
                self.sockets.tx_invalid.fetch_add(1, Ordering::Relaxed);
            } else {
                buffer.get_data_mut()[..bytes.len()].copy_from_slice(bytes);
                buffer.set_len(bytes.len() as u16);
                queue.outgoing.push_back(buffer);
            }
            pool.free(frame);
        }
        let count = queue.outgoing.len();
        // `try_send` takes all or nothing, and there is room for all: there are never more frames out than
        // ring entries.
        let sent = catch_unwind(AssertUnwindSafe(|| queue.tx.try_send(&mut queue.outgoing, count)));
        if sent.is_err() {
            self.sockets.dead.store(true, Ordering::Relaxed);
            return;
        }
        self.kick(now);
    }

    fn caps(&self) -> PortCaps {
        PortCaps { rx_csum_unmarked: true, ..PortCaps::default() }
    }
}
