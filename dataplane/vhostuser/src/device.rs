//! The rings of one port, shared by the control thread, which starts and stops them, and the workers, which move
//! frames.
//!
//! Each ring has a lock. A worker takes it once per call, and finds its own rings' locks free unless the
//! control thread is at work on that very ring; then the worker skips the ring and returns later. So messages
//! wait for at most one batch, and workers never wait for messages.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use engine::frame::{Batch, Frame, FramePool};
use engine::port::PortCaps;
use engine::wire::mac::MacAddr;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use crate::ring::{Done, Ring};
use crate::{Fault, PAIRS_MAX, features};

/// A network device with some queue pairs: ring `2 n` is to the guest, ring `2 n + 1` from the guest. Pair
/// `n` belongs to lane `n` modulo the number of lanes; a lane is one worker's share.
#[derive(Debug)]
pub struct Device {
    rings: Box<[Mutex<Ring>]>,
    lanes: Box<[Lane]>,
    features: AtomicU64,
    /// A MAC address to announce, and bit 48, which is set if there is one.
    announce: AtomicU64,
    fault: Mutex<Option<Fault>>,
    /// A worker found a fault that the control thread has not taken yet.
    faulty: AtomicBool,
    /// Readable when there is such a fault.
    alarm: OwnedFd,
    counts: SharedCounts,
}

/// The descriptors that wake a worker.
#[derive(Debug)]
struct Lane {
    epoll: OwnedFd,
    bell: OwnedFd,
}

/// The device's counters since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Frames from the guest.
    pub rx_frames: u64,
    /// Frames to the guest.
    pub tx_frames: u64,
    /// Times the guest kicked us.
    pub kicks: u64,
    /// Times we called the guest.
    pub calls: u64,
    /// Frames from the guest that were too long or had impossible offload facts.
    pub rx_dropped: u64,
    /// Frames longer than the guest's buffers.
    pub tx_dropped: u64,
    /// Times that the pool had no slot to receive into.
    pub no_slots: u64,
}

#[derive(Debug, Default)]
struct SharedCounts {
    rx_frames: AtomicU64,
    tx_frames: AtomicU64,
    kicks: AtomicU64,
    calls: AtomicU64,
    rx_dropped: AtomicU64,
    tx_dropped: AtomicU64,
    no_slots: AtomicU64,
}

/// Adds a count unless it is zero, as in most calls.
fn add(counter: &AtomicU64, n: u64) {
    if n > 0 {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

impl SharedCounts {
    fn note(&self, done: Done) {
        add(&self.kicks, done.kicks);
        add(&self.calls, done.calls);
        add(&self.no_slots, done.starved.into());
    }
}

/// A worker that panicked left a ring between two statements. Only our own judgement of the ring is affected,
/// not memory.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Device {
    /// A device with `pairs` queue pairs for `lanes` lanes.
    ///
    /// # Errors
    /// The process has no descriptors left.
    ///
    /// # Panics
    /// Without a pair or a lane.
    pub fn new(pairs: usize, lanes: usize) -> io::Result<Self> {
        assert!((1..=PAIRS_MAX).contains(&pairs) && lanes > 0, "a device has pairs and lanes");
        let lane = || {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            watch(&epoll, bell.as_fd())?;
            Ok(Lane { epoll, bell })
        };
        Ok(Self {
            rings: (0..pairs * 2).map(|number| Mutex::new(Ring::new(number))).collect(),
            lanes: (0..lanes).map(|_| lane()).collect::<io::Result<_>>()?,
            features: AtomicU64::new(0),
            announce: AtomicU64::new(0),
            fault: Mutex::default(),
            faulty: AtomicBool::new(false),
            alarm: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            counts: SharedCounts::default(),
        })
    }

    /// The number of queue pairs.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.rings.len() / 2
    }

    /// The number of this lane's queue pairs.
    #[must_use]
    pub fn pairs_of(&self, lane: usize) -> usize {
        (lane..self.pairs()).step_by(self.lanes.len()).count()
    }

    /// Becomes readable, edge-triggered, when the guest has kicked or another event concerns this lane.
    #[must_use]
    pub fn fd(&self, lane: usize) -> BorrowedFd<'_> {
        self.lanes[lane].epoll.as_fd()
    }

    /// The unfinished frames that the guest's driver can handle.
    #[must_use]
    pub fn caps(&self) -> PortCaps {
        features::caps(self.features.load(Ordering::Relaxed))
    }

    /// The counters so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let SharedCounts { rx_frames, tx_frames, kicks, calls, rx_dropped, tx_dropped, no_slots } =
            &self.counts;
        Counts {
            rx_frames: of(rx_frames),
            tx_frames: of(tx_frames),
            kicks: of(kicks),
            calls: of(calls),
            rx_dropped: of(rx_dropped),
            tx_dropped: of(tx_dropped),
            no_slots: of(no_slots),
        }
    }

    /// Takes frames that the guest sends through this lane's pairs. Returns true if some are left for lack of slots.
    pub fn receive<P: FramePool>(&self, lane: usize, pool: &mut P, batch: &mut Batch) -> bool {
        if lane == 0 && self.announce.load(Ordering::Relaxed) != 0 {
            self.announce_station(pool, batch);
        }
        let mut starved = false;
        for ring in self.rings.iter().skip(1 + 2 * lane).step_by(2 * self.lanes.len()) {
            let Some(mut ring) = try_lock(ring).filter(|ring| ring.is_running()) else { continue };
            let before = batch.len();
            match ring.receive(pool, batch) {
                Ok(done) => {
                    self.counts.note(done);
                    add(&self.counts.rx_dropped, done.dropped);
                    starved |= done.starved;
                }
                Err(fault) => self.fail(ring, fault),
            }
            add(&self.counts.rx_frames, (batch.len() - before) as u64);
        }
        starved
    }

    /// Gives the guest frames from the front of `frames`, through this lane's pairs if they are in use. The
    /// frames that remain found no room.
    pub fn send<P: FramePool>(&self, lane: usize, pool: &mut P, frames: &mut Vec<Frame>) {
        let own = self.rings.iter().step_by(2).skip(lane).step_by(self.lanes.len());
        let others = self.rings.iter().step_by(2);
        for ring in own.chain(others) {
            let ring = lock(ring);
            if ring.is_running() {
                return self.send_through(ring, pool, frames);
            }
        }
    }

    fn send_through<P: FramePool>(
        &self,
        mut ring: MutexGuard<'_, Ring>,
        pool: &mut P,
        frames: &mut Vec<Frame>,
    ) {
        match ring.send(pool, frames) {
            Ok(done) => {
                self.counts.note(done);
                add(&self.counts.tx_frames, done.frames);
                add(&self.counts.tx_dropped, done.dropped);
            }
            Err(fault) => self.fail(ring, fault),
        }
    }

    /// Asks the guest to kick, as the worker is about to sleep. Returns true if there is work already.
    #[must_use]
    pub fn rest(&self, lane: usize) -> bool {
        let mut waits = false;
        for ring in self.rings.iter().skip(1 + 2 * lane).step_by(2 * self.lanes.len()) {
            // The control thread has the lock and may be about to start the ring.
            let Some(mut ring) = try_lock(ring) else { return true };
            match ring.arm() {
                Ok(more) => waits |= more,
                Err(fault) => self.fail(ring, fault),
            }
        }
        waits
    }

    /// Stops a broken ring, and remembers the fault. The control thread closes the ring's descriptors: a
    /// worker may not make that system call.
    fn fail(&self, mut ring: MutexGuard<'_, Ring>, fault: Fault) {
        ring.enabled = false;
        drop(ring);
        lock(&self.fault).get_or_insert(fault);
        self.faulty.store(true, Ordering::Release);
        // A full counter is readable, too.
        let _ = rustix::io::write(&self.alarm, &1u64.to_ne_bytes());
    }

    /// Becomes readable, edge-triggered, when a worker has found a fault.
    #[must_use]
    pub fn alarm(&self) -> BorrowedFd<'_> {
        self.alarm.as_fd()
    }

    /// Stops all rings until QEMU starts them again.
    pub fn stop(&self) {
        for number in 0..self.rings.len() {
            let mut ring = self.ring(number);
            self.ignore(number, ring.kick());
            ring.base = ring.stop();
            ring.enabled = false;
        }
    }

    /// Takes the fault that a worker found.
    #[must_use]
    pub fn take_fault(&self) -> Option<Fault> {
        if !self.faulty.swap(false, Ordering::Acquire) {
            return None;
        }
        lock(&self.fault).take()
    }

    /// Whether frames can go in both directions through some pair.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running_pairs() > 0
    }

    /// The number of pairs whose rings are both started and enabled.
    #[must_use]
    pub fn running_pairs(&self) -> usize {
        self.rings.chunks(2).filter(|pair| pair.iter().all(|ring| lock(ring).is_running())).count()
    }

    pub(crate) fn ring(&self, number: usize) -> MutexGuard<'_, Ring> {
        lock(&self.rings[number])
    }

    pub(crate) fn ring_count(&self) -> usize {
        self.rings.len()
    }

    pub(crate) fn set_features(&self, features: u64) {
        self.features.store(features, Ordering::Relaxed);
    }

    pub(crate) fn announce(&self, mac: MacAddr) {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&mac.0);
        self.announce.store(u64::from_le_bytes(bytes) | 1 << 48, Ordering::Relaxed);
        self.wake(0);
    }

    /// Announces the station that moved here, as if it had sent that itself (a RARP request, RFC 903, as QEMU's own).
    fn announce_station<P: FramePool>(&self, pool: &mut P, batch: &mut Batch) {
        let bytes = self.announce.swap(0, Ordering::Relaxed).to_le_bytes();
        let mac = &bytes[..6];
        let mut rarp = [0; 60];
        rarp[..6].fill(0xff);
        rarp[6..12].copy_from_slice(mac);
        rarp[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
        rarp[22..28].copy_from_slice(mac);
        rarp[32..38].copy_from_slice(mac);
        if let Some(frame) = pool.alloc_from(&rarp)
            && let Err(full) = batch.try_push(frame)
        {
            pool.free(full.element());
        }
    }

    /// Makes the kicks of a ring from the guest wake its lane.
    pub(crate) fn listen(&self, number: usize, kick: Option<&OwnedFd>) -> io::Result<()> {
        let lane = self.lane_of(number);
        if let Some(kick) = kick.filter(|_| number % 2 == 1) {
            watch(&self.lanes[lane].epoll, kick.as_fd())?;
        }
        Ok(())
    }

    /// Undoes `listen` before the descriptor is closed: QEMU has it too, so closing ours does not end the watch.
    pub(crate) fn ignore(&self, number: usize, kick: Option<&OwnedFd>) {
        if let Some(kick) = kick.filter(|_| number % 2 == 1) {
            // It may be gone already, which is just as good.
            let _ = epoll::delete(&self.lanes[self.lane_of(number)].epoll, kick);
        }
    }

    /// Wakes the worker that serves this ring.
    pub(crate) fn wake_for(&self, number: usize) {
        self.wake(self.lane_of(number));
    }

    fn lane_of(&self, ring: usize) -> usize {
        ring / 2 % self.lanes.len()
    }

    fn wake(&self, lane: usize) {
        // A full counter also wakes the worker.
        let _ = rustix::io::write(&self.lanes[lane].bell, &1u64.to_ne_bytes());
    }
}

fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(epoll::add(epoll, fd, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?)
}
