//! A worker's thread: it owns a worker of the engine and its frame memory, and knows when to sleep.
//!
//! The threads share nothing and send messages: ports come and go through a channel, commands and events
//! through the engine's mailbox, and an eventfd wakes a sleeping thread. While there is traffic the thread
//! never sleeps, for a wake-up costs 30-50 us; some time after the last frame it waits in epoll for the next.
//! Workers wake each other, but only those that sleep: each has a [`Bell`].

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use engine::command::{Event, Input, PortId};
use engine::frame::FramePool;
use engine::handoff::Share;
use engine::mailbox::MailboxHandle;
use engine::port::{Port, PortCaps};
use engine::time::Instant;
use engine::worker::{Progress, Worker};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::event::{Timespec, epoll};
use rustix::thread::{CpuSet, sched_setaffinity, sched_yield};

use crate::clock;
use crate::confine::Confinement;

/// How long after the last frame the thread continues to poll its ports before it sleeps: about the cost of a
/// wake-up on a rented VM (30-50 us), so that waiting never costs much more than sleeping would.
///
/// Measured with ping between two daemons on two busy cores: back to back 36-40 us on average whether
/// this is 0, 50, 100 or 200 us; at 200 packets/s the daemon takes 0.5 %, 2 %, 2-3 % and 6 % of a core.
const SPIN: Duration = Duration::from_micros(50);

/// How long the thread polls without yielding. Then it offers the core to other threads after every look at the ports.
const SPIN_ALONE: Duration = Duration::from_micros(5);

/// How long to sleep while frames wait in a port's transmit ring for the kernel to take them.
const RETRY: Duration = Duration::from_millis(1);

/// The time limit for a worker to return a port. It takes microseconds, unless its core is starved.
const DETACH_MAX: Duration = Duration::from_secs(5);

/// The token of the thread's own waker; ports have their number.
const WAKER: Token = Token(usize::MAX);

/// A port's part for the worker.
pub type BoxPort<P> = Box<dyn Port<P> + Send>;

/// The object that the thread runs: the engine's worker, or less in tests.
pub trait Machine: Send + 'static {
    /// The pool that holds its frames.
    type Pool: FramePool + 'static;
    /// Does the work at hand.
    fn poll(&mut self, now: Instant) -> Progress;
    /// Takes its part of a port, whose number is unused.
    fn attach(&mut self, id: PortId, port: BoxPort<Self::Pool>, share: Share);
    /// Another worker sends for this port, which has these abilities.
    fn attach_at(&mut self, id: PortId, owner: usize, caps: PortCaps);
    /// Prepares to sleep and asks to be woken, or returns how long it may sleep (see [`Port::rest`]).
    fn rest(&mut self, now: Instant) -> Option<Duration>;
    /// Gives a port back, whose frames are back in the pool.
    fn detach(&mut self, id: PortId) -> Option<BoxPort<Self::Pool>>;
}

impl<P: FramePool + Send + 'static> Machine for Worker<P> {
    type Pool = P;
    fn poll(&mut self, now: Instant) -> Progress {
        Self::poll(self, now)
    }
    fn attach(&mut self, id: PortId, port: BoxPort<P>, share: Share) {
        Self::attach_share(self, id, port, share);
    }
    fn attach_at(&mut self, id: PortId, owner: usize, caps: PortCaps) {
        Self::attach_at(self, id, owner, caps);
    }
    fn rest(&mut self, now: Instant) -> Option<Duration> {
        Self::rest(self, now)
    }
    fn detach(&mut self, id: PortId) -> Option<BoxPort<P>> {
        Self::detach(self, id)
    }
}

/// Returns whether frames wait in a port's transmit ring for another kick.
pub type TxPending = Box<dyn Fn() -> bool + Send>;

/// One worker's part of a port.
pub struct Part<P: FramePool> {
    /// The worker's queues.
    pub port: BoxPort<P>,
    /// Descriptors that become readable when frames have arrived.
    pub fds: Vec<RawFd>,
    /// See [`TxPending`].
    pub pending: TxPending,
    /// The part's share of the port.
    pub share: Share,
}

enum Order<P: FramePool> {
    Attach(PortId, Part<P>),
    AttachAt(PortId, usize, PortCaps),
    Detach(PortId),
    Stop,
}

/// Wakes one worker for another.
struct Bell {
    waker: Waker,
    asleep: AtomicBool,
}

impl Bell {
    /// Wakes the worker if it sleeps. The caller has written the work before.
    fn ring(&self) {
        // Pairs with the fence in `go_to_sleep`: either we see that it sleeps, or it sees what we wrote.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::Relaxed)
            && let Err(error) = self.waker.wake()
        {
            tracing::warn!("cannot wake a worker's thread: {error}");
        }
    }

    /// Announces that the worker is about to sleep. The worker then checks once more for work.
    fn go_to_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }
}

/// A worker thread's counters since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Nanoseconds spent moving frames.
    pub busy_ns: u64,
    /// Times gone to sleep.
    pub sleeps: u64,
    /// Frames received, from ports and from other workers.
    pub frames: u64,
}

/// The state that both threads share. Only one of them writes each value, except for `told`.
#[derive(Default)]
struct Shared {
    busy_ns: AtomicU64,
    sleeps: AtomicU64,
    frames: AtomicU64,
    /// The control thread was woken for events and has not read them yet.
    told: AtomicBool,
}

/// The control thread's handle to a worker's thread.
pub struct WorkerThread<P: FramePool + 'static> {
    mailbox: MailboxHandle,
    /// Inputs that did not fit the mailbox, in order.
    backlog: VecDeque<Input>,
    orders: Sender<Order<P>>,
    closed: Receiver<(PortId, Option<BoxPort<P>>)>,
    bells: Arc<[Bell]>,
    me: usize,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Box<dyn Any + Send>>>,
}

/// Starts a thread for each machine. `control` wakes the control thread. If `cpus` is not empty, the threads
/// run on those cores: one for each if there are enough, otherwise all share them. `confinement` limits
/// what they may do.
///
/// # Errors
/// The system refuses a thread or an epoll, or a core does not exist.
pub fn start<M: Machine>(
    machines: Vec<(M, MailboxHandle)>,
    control: &Arc<Waker>,
    cpus: &[usize],
    confinement: Option<&Confinement>,
) -> io::Result<Vec<WorkerThread<M::Pool>>> {
    let mut polls = Vec::new();
    let mut bells = Vec::new();
    for _ in &machines {
        let poll = Poll::new()?;
        bells.push(Bell { waker: Waker::new(poll.registry(), WAKER)?, asleep: AtomicBool::new(false) });
        polls.push(poll);
    }
    let bells: Arc<[Bell]> = bells.into();
    let count = machines.len();
    let mut threads = Vec::new();
    for (me, ((machine, mailbox), poll)) in machines.into_iter().zip(polls).enumerate() {
        let own = if count > 1 && cpus.len() >= count { &cpus[me..=me] } else { cpus };
        let place = (me, own, confinement.cloned());
        threads.push(WorkerThread::start(machine, mailbox, control.clone(), poll, bells.clone(), place)?);
    }
    Ok(threads)
}

impl<P: FramePool + 'static> WorkerThread<P> {
    fn start<M: Machine<Pool = P>>(
        machine: M,
        mailbox: MailboxHandle,
        control: Arc<Waker>,
        poll: Poll,
        bells: Arc<[Bell]>,
        (me, cpus, confinement): (usize, &[usize], Option<Confinement>),
    ) -> io::Result<Self> {
        let (orders, inbox) = unbounded();
        let (outbox, closed) = unbounded();
        let shared = Arc::new(Shared::default());
        let body = Body {
            machine,
            poll,
            fds: BTreeMap::new(),
            inbox,
            outbox,
            mailbox: mailbox.clone(),
            control,
            bells: bells.clone(),
            me,
            shared: shared.clone(),
        };
        let mut set = CpuSet::new();
        for &cpu in cpus {
            if cpu >= CpuSet::MAX_CPU {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no core {cpu}")));
            }
            set.set(cpu);
        }
        let (ready, pinned) = crossbeam::channel::bounded(1);
        let thread = std::thread::Builder::new().name(format!("ivs-worker{me}")).spawn(move || {
            let mut body = body;
            let placed = if set.count() > 0 { sched_setaffinity(None, &set) } else { Ok(()) };
            let confined = confinement.map_or(Ok(()), |confinement| confinement.apply());
            let result = placed.map_err(io::Error::from).and(confined);
            let go = result.is_ok();
            // The other end waits for exactly this one message.
            let _ = ready.send(result);
            if go {
                body.run();
            }
            // The joining thread drops it: this thread may not close anything.
            Box::new(body) as Box<dyn Any + Send>
        })?;
        pinned.recv().map_err(io::Error::other)??;
        let (backlog, thread) = (VecDeque::new(), Some(thread));
        Ok(Self { mailbox, backlog, orders, closed, bells, me, shared, thread })
    }

    /// Sends an input; an input that does not fit now is sent later, in order.
    pub fn send(&mut self, input: Input) {
        self.backlog.push_back(input);
    }

    /// Sends the backlog, as far as it fits, and wakes the thread. Returns false if some inputs are left.
    pub fn flush(&mut self) -> bool {
        if self.backlog.is_empty() {
            return true;
        }
        while let Some(input) = self.backlog.pop_front() {
            if let Err(input) = self.mailbox.send(input) {
                self.backlog.push_front(input);
                break;
            }
        }
        self.wake();
        self.backlog.is_empty()
    }

    /// Gives the worker its part of a port, to be polled when one of its descriptors is readable.
    pub fn attach(&self, id: PortId, part: Part<P>) {
        self.order(Order::Attach(id, part));
    }

    /// Tells the worker that another one sends for this port.
    pub fn attach_at(&self, id: PortId, owner: usize, caps: PortCaps) {
        self.order(Order::AttachAt(id, owner, caps));
    }

    /// Takes a port away and closes it. Waits for the worker, which answers within one look at its ports.
    pub fn detach(&self, id: PortId) {
        self.order(Order::Detach(id));
        loop {
            match self.closed.recv_timeout(DETACH_MAX) {
                // Dropped here, a port is closed on the control thread, as the worker has no time for that.
                Ok((closed, port)) => {
                    drop(port);
                    if closed == id {
                        return;
                    }
                }
                Err(_) => {
                    tracing::error!("port {}: the worker does not give it back", id.0);
                    return;
                }
            }
        }
    }

    /// Events that the worker has sent.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        self.shared.told.store(false, Ordering::SeqCst);
        std::iter::from_fn(|| self.mailbox.recv())
    }

    /// The thread's counters since its start.
    pub fn usage(&self) -> Usage {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Shared { busy_ns, sleeps, frames, .. } = &*self.shared;
        Usage { busy_ns: of(busy_ns), sleeps: of(sleeps), frames: of(frames) }
    }

    /// Ends the thread; its ports close with it.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.order(Order::Stop);
            if thread.join().is_err() {
                tracing::error!("the worker's thread ended by a panic");
            }
        }
    }

    fn order(&self, order: Order<P>) {
        // A thread that has ended has closed its ports; no order is needed.
        let _ = self.orders.send(order);
        self.wake();
    }

    fn wake(&self) {
        if let Err(error) = self.bells[self.me].waker.wake() {
            tracing::warn!("cannot wake the worker's thread: {error}");
        }
    }
}

impl<P: FramePool + 'static> Drop for WorkerThread<P> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The state of the running thread.
struct Body<M: Machine> {
    machine: M,
    poll: Poll,
    fds: BTreeMap<PortId, (Vec<RawFd>, TxPending)>,
    inbox: Receiver<Order<M::Pool>>,
    outbox: Sender<(PortId, Option<BoxPort<M::Pool>>)>,
    mailbox: MailboxHandle,
    control: Arc<Waker>,
    bells: Arc<[Bell]>,
    me: usize,
    shared: Arc<Shared>,
}

impl<M: Machine> Body<M> {
    fn run(&mut self) {
        let mut ready = Events::with_capacity(64);
        let mut active = clock::now();
        let (mut busy_ns, mut sleeps, mut frames) = (0, 0, 0);
        loop {
            // Orders come before commands, which may be about the port that an order brings.
            if !self.inbox.is_empty() && !self.take_orders() {
                return;
            }
            let before = clock::now();
            let progress = self.machine.poll(before);
            self.wake_others(progress.wake);
            if self.mailbox.has_events() && !self.shared.told.swap(true, Ordering::SeqCst) {
                self.wake_control();
            }
            if progress.frames > 0 {
                frames += progress.frames as u64;
                self.shared.frames.store(frames, Ordering::Relaxed);
                active = clock::now();
                busy_ns += nanos(active.since(before));
                self.shared.busy_ns.store(busy_ns, Ordering::Relaxed);
                continue;
            }
            if progress.inputs > 0 {
                continue; // More may wait, and none of them wakes us again.
            }
            let idle = before.since(active);
            if idle < SPIN {
                if idle < SPIN_ALONE {
                    std::hint::spin_loop();
                } else {
                    sched_yield();
                }
                continue;
            }
            self.bells[self.me].go_to_sleep();
            let rest = self.machine.rest(before);
            if rest == Some(Duration::ZERO) {
                self.bells[self.me].awake();
                continue;
            }
            sleeps += 1;
            self.shared.sleeps.store(sleeps, Ordering::Relaxed);
            let mut timeout = progress.deadline.map(|deadline| deadline.since(clock::now()));
            if self.fds.values().any(|(_, pending)| pending()) {
                timeout = Some(timeout.map_or(RETRY, |timeout| timeout.min(RETRY)));
            }
            if let Some(nap) = rest {
                self.nap(timeout.map_or(nap, |timeout| timeout.min(nap)));
                self.bells[self.me].awake();
                continue;
            }
            match self.poll.poll(&mut ready, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    // Cannot happen with valid arguments; continuing without sleep would burn the core.
                    panic!("epoll of the worker's thread: {error}");
                }
                _ => {}
            }
            self.bells[self.me].awake();
            // A frame has arrived, and its answer may be near. A deadline or a command alone is not traffic.
            if ready.iter().any(|event| event.token() != WAKER) {
                active = clock::now();
            }
        }
    }

    /// Returns false when the thread should end.
    fn take_orders(&mut self) -> bool {
        while let Ok(order) = self.inbox.try_recv() {
            match order {
                Order::Attach(id, Part { port, fds, pending, share }) => {
                    drop(self.close(id));
                    for fd in &fds {
                        let mut source = SourceFd(fd);
                        let token = Token(id.0.into());
                        if let Err(error) =
                            self.poll.registry().register(&mut source, token, Interest::READABLE)
                        {
                            // Frames are then noticed only while the thread is awake for other reasons.
                            tracing::error!("port {}: cannot wait for its frames: {error}", id.0);
                        }
                    }
                    self.fds.insert(id, (fds, pending));
                    self.machine.attach(id, port, share);
                }
                Order::AttachAt(id, owner, caps) => {
                    drop(self.close(id));
                    self.machine.attach_at(id, owner, caps);
                }
                Order::Detach(id) => {
                    let port = self.close(id);
                    // If the control thread is gone, the port is dropped here, and so closed.
                    let _ = self.outbox.send((id, port));
                }
                Order::Stop => return false,
            }
        }
        true
    }

    /// Sleeps for `nap`, unless it is woken. `Poll` counts in milliseconds, which is too coarse for a nap.
    /// The reason for the wake-up does not matter: every port and the mailbox are polled next.
    fn nap(&self, nap: Duration) {
        let mut events = [const { MaybeUninit::uninit() }; 8];
        // SAFETY: the descriptor stays open as long as `self.poll`, which is borrowed during the call.
        let poll = unsafe { BorrowedFd::borrow_raw(self.poll.as_raw_fd()) };
        let _ = epoll::wait(poll, &mut events, Timespec::try_from(nap).ok().as_ref());
    }

    fn close(&mut self, id: PortId) -> Option<BoxPort<M::Pool>> {
        for fd in self.fds.remove(&id).map(|(fds, _)| fds).unwrap_or_default() {
            // The kernel may already have dropped the socket from epoll, which is fine.
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
        self.machine.detach(id)
    }

    /// Wakes the workers whose bit is set.
    fn wake_others(&self, mut wake: u64) {
        while wake != 0 {
            self.bells[wake.trailing_zeros() as usize].ring();
            wake &= wake - 1;
        }
    }

    fn wake_control(&self) {
        if let Err(error) = self.control.wake() {
            tracing::warn!("cannot wake the control thread: {error}");
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
