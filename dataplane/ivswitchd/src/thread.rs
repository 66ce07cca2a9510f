//! A worker's thread: it owns a worker of the engine and its frame memory, and knows when to sleep.
//!
//! Share nothing, tell each other: ports come and go through a channel, commands and events through
//! the engine's mailbox, and an eventfd wakes whoever sleeps. While there is traffic the thread never
//! sleeps, for a wake-up costs 30-50 us; a while after the last frame it waits in epoll for the next.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use engine::command::{Event, Input, PortId};
use engine::frame::FramePool;
use engine::mailbox::MailboxHandle;
use engine::port::Port;
use engine::time::Instant;
use engine::worker::{Progress, Worker};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::thread::{CpuSet, sched_setaffinity, sched_yield};

use crate::clock;

/// How long after the last frame the thread goes on asking its ports before it sleeps: about what a
/// wake-up costs on a rented VM (30-50 us), so that waiting never costs much more than sleeping would.
///
/// Measured with ping between two daemons on two busy cores: back to back 36-40 us on average whether
/// this is 0, 50, 100 or 200 us; at 200 packets/s the daemon takes 0.5 %, 2 %, 2-3 % and 6 % of a core.
const SPIN: Duration = Duration::from_micros(50);

/// How long it asks without letting others run. Then it offers the core to whoever waits for it,
/// after every look at the ports.
const SPIN_ALONE: Duration = Duration::from_micros(5);

/// How long to sleep while frames wait in a port's transmit ring for the kernel to take them.
const RETRY: Duration = Duration::from_millis(1);

/// How long a worker may take to give a port back. It takes microseconds, unless its core is starved.
const DETACH_MAX: Duration = Duration::from_secs(5);

/// The token of the thread's own waker; ports have their number.
const WAKER: Token = Token(usize::MAX);

/// A port's part for the worker.
pub type BoxPort<P> = Box<dyn Port<P> + Send>;

/// What the thread runs: the engine's worker, and in tests less.
pub trait Machine: Send + 'static {
    /// Where its frames live.
    type Pool: FramePool + 'static;
    /// Does what there is to do.
    fn poll(&mut self, now: Instant) -> Progress;
    /// Takes a port. Its number is free.
    fn attach(&mut self, id: PortId, port: BoxPort<Self::Pool>);
    /// Gives a port back; its frames are back in the pool.
    fn detach(&mut self, id: PortId) -> Option<BoxPort<Self::Pool>>;
}

impl<P: FramePool + Send + 'static> Machine for Worker<P> {
    type Pool = P;
    fn poll(&mut self, now: Instant) -> Progress {
        Self::poll(self, now)
    }
    fn attach(&mut self, id: PortId, port: BoxPort<P>) {
        Self::attach(self, id, port);
    }
    fn detach(&mut self, id: PortId) -> Option<BoxPort<P>> {
        Self::detach(self, id)
    }
}

/// Tells whether frames wait in a port's transmit ring for another kick.
pub type TxPending = Box<dyn Fn() -> bool + Send>;

enum Order<P: FramePool> {
    Attach(PortId, BoxPort<P>, Vec<RawFd>, TxPending),
    Detach(PortId),
    Stop,
}

/// What both threads look at. Each value is written by one of them only, but `told`.
#[derive(Default)]
struct Shared {
    busy_ns: AtomicU64,
    sleeps: AtomicU64,
    /// The control thread was woken for events and has not looked yet.
    told: AtomicBool,
}

/// The control thread's handle to a worker's thread.
pub struct WorkerThread<P: FramePool + 'static> {
    mailbox: MailboxHandle,
    /// Inputs that did not fit the mailbox, in order.
    backlog: VecDeque<Input>,
    orders: Sender<Order<P>>,
    closed: Receiver<(PortId, Option<BoxPort<P>>)>,
    waker: Arc<Waker>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl<P: FramePool + 'static> WorkerThread<P> {
    /// Starts the thread. `control` wakes the control thread; `cpus`, when not empty, are the cores that the
    /// thread may run on.
    ///
    /// # Errors
    /// No thread or no epoll to be had, or a core that is not there.
    pub fn start<M: Machine<Pool = P>>(
        machine: M,
        mailbox: MailboxHandle,
        control: Arc<Waker>,
        cpus: &[usize],
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
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
        let thread = std::thread::Builder::new().name("ivs-worker0".into()).spawn(move || {
            let result = if set.count() > 0 { sched_setaffinity(None, &set) } else { Ok(()) };
            let go = result.is_ok();
            // The other end waits for exactly this one message.
            let _ = ready.send(result);
            if go {
                body.run();
            }
        })?;
        pinned.recv().map_err(io::Error::other)??;
        Ok(Self { mailbox, backlog: VecDeque::new(), orders, closed, waker, shared, thread: Some(thread) })
    }

    /// Sends an input; what does not fit now is kept and sent later, in order.
    pub fn send(&mut self, input: Input) {
        self.backlog.push_back(input);
    }

    /// Sends what is kept, as far as it fits, and wakes the thread. False when some is left.
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

    /// Gives the worker a port, to be looked at whenever one of `fds` is readable.
    pub fn attach(&self, id: PortId, port: BoxPort<P>, fds: Vec<RawFd>, pending: TxPending) {
        self.order(Order::Attach(id, port, fds, pending));
    }

    /// Takes a port away and closes it. Waits for the worker, which answers within one look at its ports.
    pub fn detach(&self, id: PortId) {
        self.order(Order::Detach(id));
        loop {
            match self.closed.recv_timeout(DETACH_MAX) {
                // Dropped here, a port is closed on the control thread: the worker has no time for that.
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

    /// Nanoseconds spent moving frames, and times gone to sleep, since the start.
    pub fn usage(&self) -> (u64, u64) {
        (self.shared.busy_ns.load(Ordering::Relaxed), self.shared.sleeps.load(Ordering::Relaxed))
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
        // A thread that is gone has closed its ports; there is nothing left to order.
        let _ = self.orders.send(order);
        self.wake();
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::warn!("cannot wake the worker's thread: {error}");
        }
    }
}

impl<P: FramePool + 'static> Drop for WorkerThread<P> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What runs in the thread.
struct Body<M: Machine> {
    machine: M,
    poll: Poll,
    fds: BTreeMap<PortId, (Vec<RawFd>, TxPending)>,
    inbox: Receiver<Order<M::Pool>>,
    outbox: Sender<(PortId, Option<BoxPort<M::Pool>>)>,
    mailbox: MailboxHandle,
    control: Arc<Waker>,
    shared: Arc<Shared>,
}

impl<M: Machine> Body<M> {
    fn run(mut self) {
        let mut ready = Events::with_capacity(64);
        let mut active = clock::now();
        let mut busy_ns = 0;
        let mut sleeps = 0;
        loop {
            let before = clock::now();
            let progress = self.machine.poll(before);
            if self.mailbox.has_events() && !self.shared.told.swap(true, Ordering::SeqCst) {
                self.wake_control();
            }
            if !self.inbox.is_empty() && !self.take_orders() {
                return;
            }
            if progress.frames > 0 {
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
            sleeps += 1;
            self.shared.sleeps.store(sleeps, Ordering::Relaxed);
            let mut timeout = progress.deadline.map(|deadline| deadline.since(clock::now()));
            if self.fds.values().any(|(_, pending)| pending()) {
                timeout = Some(timeout.map_or(RETRY, |timeout| timeout.min(RETRY)));
            }
            match self.poll.poll(&mut ready, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    // Cannot happen with valid arguments; going on without sleeping would burn the core.
                    panic!("epoll of the worker's thread: {error}");
                }
                _ => {}
            }
            // A frame is here: its answer may be near. A deadline or a command alone is no traffic.
            if ready.iter().any(|event| event.token() != WAKER) {
                active = clock::now();
            }
        }
    }

    /// False: it is over.
    fn take_orders(&mut self) -> bool {
        while let Ok(order) = self.inbox.try_recv() {
            match order {
                Order::Attach(id, port, fds, pending) => {
                    drop(self.close(id));
                    for fd in &fds {
                        let mut source = SourceFd(fd);
                        let token = Token(id.0.into());
                        if let Err(error) =
                            self.poll.registry().register(&mut source, token, Interest::READABLE)
                        {
                            // Frames are then only seen while the thread is awake for other reasons.
                            tracing::error!("port {}: cannot wait for its frames: {error}", id.0);
                        }
                    }
                    self.fds.insert(id, (fds, pending));
                    self.machine.attach(id, port);
                }
                Order::Detach(id) => {
                    let port = self.close(id);
                    // If the control thread is gone the port is dropped, and so closed, right here.
                    let _ = self.outbox.send((id, port));
                }
                Order::Stop => return false,
            }
        }
        true
    }

    fn close(&mut self, id: PortId) -> Option<BoxPort<M::Pool>> {
        for fd in self.fds.remove(&id).map(|(fds, _)| fds).unwrap_or_default() {
            // A socket that the kernel already dropped from epoll is what we want.
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
        self.machine.detach(id)
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
mod tests {
    use super::*;
    use engine::command::{Command, Query, Vni};
    use engine::frame::{Batch, Frame, HeapPool};
    use engine::mailbox::{Mailbox, mailbox};
    use engine::port::PortCaps;
    use std::os::fd::{AsRawFd, OwnedFd};

    /// A port that is readable while its pipe is; every byte is a frame.
    struct PipePort(OwnedFd);

    impl Port<HeapPool> for PipePort {
        fn rx(&mut self, _now: Instant, pool: &mut HeapPool, batch: &mut Batch) {
            let mut byte = [0];
            if !batch.is_full() && rustix::io::read(&self.0, &mut byte).is_ok_and(|n| n == 1) {
                batch.push(pool.alloc_from(&byte).unwrap());
            }
        }
        fn tx(&mut self, _now: Instant, _pool: &mut HeapPool, _frames: &mut Vec<Frame>) {}
        fn caps(&self) -> PortCaps {
            PortCaps::default()
        }
    }

    /// Counts the frames and inputs it gets.
    struct Counter {
        pool: HeapPool,
        mailbox: Mailbox,
        port: Option<(PortId, BoxPort<HeapPool>)>,
        frames: Arc<AtomicU64>,
        inputs: Arc<AtomicU64>,
        deadline: Option<Instant>,
    }

    impl Machine for Counter {
        type Pool = HeapPool;
        fn poll(&mut self, now: Instant) -> Progress {
            let mut inputs = 0;
            while let Some(input) = self.mailbox.recv() {
                inputs += 1;
                self.inputs.fetch_add(1, Ordering::SeqCst);
                if let Input::Query(_, _) = input {
                    let _ = self.mailbox.send(Event::Resolve([10, 0, 0, 1].into()));
                }
            }
            let mut batch = Batch::new();
            if let Some((_, port)) = &mut self.port {
                port.rx(now, &mut self.pool, &mut batch);
            }
            let frames = batch.len();
            for frame in batch {
                self.pool.free(frame);
            }
            self.frames.fetch_add(frames as u64, Ordering::SeqCst);
            Progress { frames, inputs, deadline: self.deadline }
        }
        fn attach(&mut self, id: PortId, port: BoxPort<HeapPool>) {
            assert!(self.port.is_none());
            self.port = Some((id, port));
        }
        fn detach(&mut self, id: PortId) -> Option<BoxPort<HeapPool>> {
            self.port.take_if(|(known, _)| *known == id).map(|(_, port)| port)
        }
    }

    struct World {
        poll: Poll,
        thread: WorkerThread<HeapPool>,
        frames: Arc<AtomicU64>,
        inputs: Arc<AtomicU64>,
    }

    fn world(cpus: &[usize]) -> World {
        let poll = Poll::new().unwrap();
        let control = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let (mailbox, handle) = mailbox();
        let (frames, inputs) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let pool = HeapPool::new(16, 0);
        let machine = Counter {
            pool,
            mailbox,
            port: None,
            frames: frames.clone(),
            inputs: inputs.clone(),
            deadline: None,
        };
        let thread = WorkerThread::start(machine, handle, control, cpus).unwrap();
        World { poll, thread, frames, inputs }
    }

    impl World {
        /// Sleeps until the thread wakes us.
        fn wait(&mut self) {
            let mut events = Events::with_capacity(4);
            self.poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
            assert!(!events.is_empty(), "the worker's thread did not wake us");
        }
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        use rustix::pipe::{PipeFlags, pipe_with};
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
    }

    fn until(condition: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(5), "it did not happen");
            std::thread::yield_now();
        }
    }

    /// The thread sleeps, wakes for a frame at once, gives its port back when told, and ends.
    #[test]
    fn a_frame_wakes_the_sleeper_and_a_port_comes_back() {
        let mut world = world(&[0]);
        let (read, write) = pipe();
        let fd = read.as_raw_fd();
        world.thread.attach(PortId(3), Box::new(PipePort(read)), vec![fd], Box::new(|| false));
        until(|| world.thread.usage().1 > 0);
        for n in 1..=3 {
            // Read before the frame that wakes it: how soon after it the thread sleeps again is its affair.
            let slept = world.thread.usage().1;
            rustix::io::write(&write, &[1, 2]).unwrap();
            until(|| world.frames.load(Ordering::SeqCst) == 2 * n);
            until(|| world.thread.usage().1 > slept);
        }
        world.thread.detach(PortId(3));
        assert!(rustix::io::write(&write, &[1]).is_err(), "the port's end of the pipe is closed");
        world.thread.detach(PortId(3));
        world.thread.stop();
    }

    /// More inputs than the mailbox holds arrive all, and the answer wakes the asker.
    #[test]
    fn a_full_mailbox_delays_and_loses_nothing() {
        let mut world = world(&[]);
        let count = engine::limits::MAILBOX_LEN * 2 + 5;
        for _ in 0..count {
            world.thread.send(Input::Command(Command::RemoveNetwork(Vni::new(1).unwrap())));
        }
        world.thread.send(Input::Query(7, Query::Counters));
        while !world.thread.flush() {
            std::thread::yield_now();
        }
        world.wait();
        assert_eq!(world.thread.events().count(), 1);
        assert_eq!(world.inputs.load(Ordering::SeqCst), count as u64 + 1);
    }

    /// With nothing to do the thread sleeps and stays asleep.
    #[test]
    fn idle_means_asleep() {
        let world = world(&[]);
        until(|| world.thread.usage().1 > 0);
        let (_, before) = world.thread.usage();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(world.thread.usage(), (0, before));
    }

    /// A core that is not there is refused with its number.
    #[test]
    fn a_core_that_is_not_there_is_refused() {
        let poll = Poll::new().unwrap();
        let control = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let (mailbox, handle) = mailbox();
        let machine = Counter {
            pool: HeapPool::new(1, 0),
            mailbox,
            port: None,
            frames: Arc::default(),
            inputs: Arc::default(),
            deadline: None,
        };
        assert!(WorkerThread::start(machine, handle, control, &[1_000_000]).is_err());
    }
}
