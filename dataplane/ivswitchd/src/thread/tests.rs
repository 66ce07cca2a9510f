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
    nap: Option<Duration>,
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
        Progress { frames, inputs, deadline: self.deadline, wake: 0 }
    }
    fn attach(&mut self, id: PortId, port: BoxPort<HeapPool>, _share: Share) {
        assert!(self.port.is_none());
        self.port = Some((id, port));
    }
    fn attach_at(&mut self, _: PortId, _: usize, _: PortCaps) {}
    fn rest(&mut self, _: Instant) -> Option<Duration> {
        self.nap
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
    world_that_naps(cpus, None)
}

fn world_that_naps(cpus: &[usize], nap: Option<Duration>) -> World {
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
        nap,
    };
    let thread = start(vec![(machine, handle)], &control, cpus, None).unwrap().pop().unwrap();
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

/// The thread sleeps, wakes for a frame, gives its port back on request, and ends.
#[test]
fn a_frame_wakes_the_sleeper_and_a_port_comes_back() {
    let mut world = world(&[0]);
    let (read, write) = pipe();
    let fd = read.as_raw_fd();
    let part = Part {
        port: Box::new(PipePort(read)),
        fds: vec![fd],
        pending: Box::new(|| false),
        share: Share::WHOLE,
    };
    world.thread.attach(PortId(3), part);
    until(|| world.thread.usage().sleeps > 0);
    for n in 1..=3 {
        // Read before the wake-up frame: the thread may sleep again at any time after it.
        let slept = world.thread.usage().sleeps;
        rustix::io::write(&write, &[1, 2]).unwrap();
        until(|| world.frames.load(Ordering::SeqCst) == 2 * n);
        until(|| world.thread.usage().sleeps > slept);
    }
    world.thread.detach(PortId(3));
    assert!(rustix::io::write(&write, &[1]).is_err(), "the port's end of the pipe is closed");
    world.thread.detach(PortId(3));
    world.thread.stop();
}

/// A port that wakes no thread is polled after each nap, and a wake-up ends a nap.
#[test]
fn a_nap_ends_by_itself_or_by_a_call() {
    for (nap, watched) in [(Duration::from_micros(100), false), (Duration::from_secs(60), true)] {
        let mut world = world_that_naps(&[], Some(nap));
        let (read, write) = pipe();
        let fds = if watched { vec![read.as_raw_fd()] } else { Vec::new() };
        let port = Box::new(PipePort(read));
        world.thread.attach(PortId(3), Part { port, fds, pending: Box::new(|| false), share: Share::WHOLE });
        for n in 1..=3 {
            let slept = world.thread.usage().sleeps;
            until(|| world.thread.usage().sleeps > slept || watched);
            rustix::io::write(&write, &[1]).unwrap();
            until(|| world.frames.load(Ordering::SeqCst) == n);
        }
        world.thread.stop();
    }
}

/// More inputs than the mailbox holds all arrive, and the answer wakes the asker.
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

/// Without work the thread sleeps and stays asleep.
#[test]
fn idle_means_asleep() {
    let world = world(&[]);
    until(|| world.thread.usage().sleeps > 0);
    let before = world.thread.usage();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(world.thread.usage(), before);
    assert_eq!(before.busy_ns, 0);
}

/// A core that does not exist is refused with its number.
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
        nap: None,
    };
    assert!(start(vec![(machine, handle)], &control, &[1_000_000], None).is_err());
}
