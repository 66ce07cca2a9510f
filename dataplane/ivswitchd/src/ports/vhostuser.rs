//! A guest's NIC: rings in memory that QEMU shares with us (`vhostuser`).
//!
//! QEMU listens and we connect, again and again, so that either side may come first, die and return. The
//! control thread speaks with QEMU; each worker moves the frames of its own queue pairs, and sleeps on one
//! epoll descriptor that the guest's kicks make readable. No thread is added.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ctl::io::{GuestIo, Input, KernelDrops, OpenPort, PortDown, PortFacts};
use engine::command::PortId;
use engine::frame::{Batch, Frame};
use engine::port::{Port, PortCaps};
use engine::time::Instant;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use vhostuser::wire::Turn;
use vhostuser::{Connection, Device, Fault, Session};

use super::lane::LaneError;
use super::umem::UmemPool;

/// The first pause before we connect again after QEMU went: if it restarts, or we do, this is the outage.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// The longest pause between attempts while QEMU stays away.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// How long we stay away from a QEMU or guest that violated the protocol.
const PENALTY: Duration = Duration::from_secs(5);

/// The time window in which a guest's frames are counted.
const WINDOW: Duration = Duration::from_millis(2);

/// A guest that sends this many frames in a [`WINDOW`] is polled between naps instead of being asked to kick:
/// a kick costs the guest an exit, and it will send again. A guest that sends a request and waits for the
/// answer stays below.
const MANY: usize = 8;

/// The length of each nap: about the latency of a kick (50 us), so that no frame waits much longer for it.
///
/// Measured between two emulated guests (`ivbench --only 'network iVM-iVM'`): see `dataplane/decisions/0013`.
const NAP: Duration = Duration::from_micros(100);

/// One worker's queue pairs.
pub struct VhostPort {
    device: Arc<Device>,
    lane: usize,
    live: bool,
    pace: Pace,
    starved: Arc<AtomicBool>,
}

/// A guest's sending rate: its frames in this window of time, and in the one before.
#[derive(Default)]
struct Pace {
    since: Option<Instant>,
    count: usize,
    before: usize,
}

impl Pace {
    /// Notes that `count` frames came.
    fn came(&mut self, now: Instant, count: usize) {
        let age = self.since.map_or(Duration::MAX, |since| now.since(since));
        if age >= WINDOW {
            self.before = if age < WINDOW * 2 { self.count } else { 0 };
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += count;
    }

    fn is_high(&mut self, now: Instant) -> bool {
        self.came(now, 0);
        self.count.max(self.before) >= MANY
    }
}

/// The control thread's part.
pub struct VhostControl {
    device: Arc<Device>,
    path: String,
    /// Readable when QEMU has sent a message, a worker has found a fault, or it is time to connect to QEMU again.
    epoll: OwnedFd,
    timer: OwnedFd,
    connection: Option<Connection>,
    pause: Duration,
    /// The last report to the agent.
    said: Said,
    /// Why no frames pass, if QEMU or the guest is at fault.
    fault: Option<Fault>,
    /// The workers' parts, for `is_dead`.
    workers: Weak<AtomicBool>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Said {
    #[default]
    Nothing,
    Up(PortFacts),
    Down(PortDown),
}

/// Prepares a device with queues for each worker. QEMU need not run yet.
///
/// # Errors
/// The process has no descriptors left.
pub fn open(spec: &OpenPort, workers: usize) -> Result<(Vec<VhostPort>, VhostControl), LaneError> {
    let failed = |cause: io::Error| LaneError {
        interface: spec.interface.clone(),
        what: "no vhost-user device",
        cause,
        remedy: "raise the limit of open files (LimitNOFILE)",
    };
    if let Some(folder) = Path::new(&spec.interface).parent()
        && folder.starts_with(ctl::model::GUEST_SOCKETS)
    {
        // QEMU listens in our own folder. If the folder cannot be made, the port's status names the path it waits for.
        let _ = std::fs::create_dir_all(folder);
    }
    let device = Arc::new(Device::new(spec.queues.max(1) as usize, workers).map_err(failed)?);
    let starved = Arc::new(AtomicBool::new(false));
    let control = VhostControl::new(device.clone(), spec.interface.clone(), &starved).map_err(failed)?;
    let port = |lane| VhostPort {
        device: device.clone(),
        lane,
        live: false,
        pace: Pace::default(),
        starved: starved.clone(),
    };
    Ok(((0..workers).map(port).collect(), control))
}

impl VhostPort {
    /// Readable when the guest has kicked.
    pub fn fd(&self) -> RawFd {
        self.device.fd(self.lane).as_raw_fd()
    }

    /// The number of this worker's queue pairs.
    pub fn queue_count(&self) -> u32 {
        self.device.pairs_of(self.lane) as u32
    }

    /// Returns a check whether frames wait for slots.
    pub fn waits(&self) -> impl Fn() -> bool + Send + 'static {
        let starved = Arc::downgrade(&self.starved);
        move || starved.upgrade().is_some_and(|starved| starved.load(Ordering::Relaxed))
    }
}

impl Port<UmemPool> for VhostPort {
    fn rx(&mut self, now: Instant, pool: &mut UmemPool, batch: &mut Batch) {
        if !self.live {
            return;
        }
        let before = batch.len();
        let starved = self.device.receive(self.lane, pool, batch);
        self.pace.came(now, batch.len() - before);
        if starved != self.starved.load(Ordering::Relaxed) {
            self.starved.store(starved, Ordering::Relaxed);
        }
    }

    fn tx(&mut self, _now: Instant, pool: &mut UmemPool, frames: &mut Vec<Frame>) {
        if !frames.is_empty() {
            self.device.send(self.lane, pool, frames);
        }
    }

    fn caps(&self) -> PortCaps {
        self.device.caps()
    }

    fn set_live(&mut self, live: bool) {
        self.live = live;
    }

    fn rest(&mut self, now: Instant) -> Option<Duration> {
        if self.pace.is_high(now) {
            return Some(NAP);
        }
        (self.device.rest(self.lane) && self.live).then_some(Duration::ZERO)
    }
}

impl VhostControl {
    fn new(device: Arc<Device>, path: String, workers: &Arc<AtomicBool>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        epoll::add(&epoll, device.alarm(), EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        let (said, fault, workers) = (Said::Nothing, None, Arc::downgrade(workers));
        Ok(Self { device, path, epoll, timer, connection: None, pause: PAUSE_MIN, said, fault, workers })
    }

    /// Becomes readable, edge-triggered, when [`VhostControl::turn`] has something to do.
    pub fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Connects to QEMU, reads its messages, and reports changes to the agent. Returns true if there may be
    /// more work now.
    pub fn turn(&mut self, id: PortId, out: &mut Vec<Input>) -> bool {
        // This only makes room for the next event; the code below finds out which event it was.
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 4];
        let _ = epoll::wait(&self.epoll, &mut events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let mut more = false;
        if self.connection.is_none() && self.is_time() {
            self.look_for();
        }
        if let Some(connection) = &mut self.connection {
            match connection.turn() {
                Ok(Turn::Idle) => {}
                Ok(Turn::More) => more = true,
                Ok(Turn::Closed) => self.hang_up(PAUSE_MIN),
                Err(fault) => {
                    self.fault = Some(fault);
                    self.hang_up(PENALTY);
                }
            }
        }
        if let Some(fault) = self.device.take_fault() {
            // One faulty ring is enough: the driver's other rings are useless until it starts again.
            self.device.stop();
            self.fault = Some(fault);
        }
        self.tell(id, out);
        more
    }

    /// Whether the pause is over.
    fn is_time(&self) -> bool {
        let mut count = [0; 8];
        self.said == Said::Nothing || rustix::io::read(&self.timer, &mut count).is_ok()
    }

    fn look_for(&mut self) {
        match self.connect() {
            Ok(stream) => {
                self.pause = PAUSE_MIN;
                self.connection = Some(Connection::new(stream, Session::new(self.device.clone())));
            }
            Err(error) => {
                tracing::trace!("{}: {error}", self.path);
                self.wait(self.pause);
                self.pause = (self.pause * 2).min(PAUSE_MAX);
            }
        }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(self.path.as_str())?)?;
        epoll::add(
            &self.epoll,
            &socket,
            EventData::new_u64(0),
            EventFlags::IN | EventFlags::RDHUP | EventFlags::ET,
        )?;
        Ok(socket.into())
    }

    fn hang_up(&mut self, pause: Duration) {
        if let Some(connection) = self.connection.take() {
            // Closing it would suffice, but QEMU may have sent us duplicates of its descriptor.
            let _ = epoll::delete(&self.epoll, connection.as_fd());
        }
        self.wait(pause);
    }

    fn wait(&self, pause: Duration) {
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        let at = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: pause.subsec_nanos().into() };
        let once = Itimerspec { it_interval: nothing, it_value: at };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once) {
            tracing::error!("{}: no timer: {error}", self.path);
        }
    }

    fn tell(&mut self, id: PortId, out: &mut Vec<Input>) {
        let pairs = self.device.running_pairs() as u32;
        let said = match &self.connection {
            Some(connection) if pairs > 0 => {
                self.fault = None;
                let mode = connection.session().offloads();
                Said::Up(PortFacts { mode, reason: String::new(), queues: pairs })
            }
            connection => Said::Down(PortDown {
                why: match (&self.fault, connection) {
                    (Some(fault), _) => fault.to_string(),
                    (None, Some(_)) => "waiting for the guest's driver".to_owned(),
                    (None, None) => format!("waiting for QEMU to listen at {}", self.path),
                },
                faulty: self.fault.is_some(),
            }),
        };
        if said != self.said {
            out.push(match &said {
                Said::Up(facts) => Input::PortOpened(id, facts.clone()),
                Said::Down(down) => Input::PortDown(id, down.clone()),
                Said::Nothing => unreachable!("something is said"),
            });
            self.said = said;
        }
    }

    /// Frames dropped between us and the guest; `None` once the workers' parts are closed.
    #[must_use]
    pub fn drops(&self) -> Option<KernelDrops> {
        let counts = self.device.counts();
        Some(KernelDrops {
            rx_ring_full: 0,
            fill_ring_empty: counts.no_slots,
            rx_other: counts.rx_dropped,
            tx_invalid: counts.tx_dropped,
            ..KernelDrops::default()
        })
    }

    /// The counts of frames, and of wake-ups in each direction.
    #[must_use]
    pub fn guest_io(&self) -> GuestIo {
        let counts = self.device.counts();
        GuestIo { rx: counts.rx_frames, tx: counts.tx_frames, kicks: counts.kicks, calls: counts.calls }
    }

    /// True once the workers' parts are closed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.workers.strong_count() == 0
    }
}

impl std::fmt::Debug for VhostControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VhostControl")
            .field("path", &self.path)
            .field("said", &self.said)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that sends requests and waits should kick; one that sends continuously should not, from its
    /// first burst until the silence after its last.
    #[test]
    fn a_guest_that_sends_much_is_not_asked_to_kick() {
        let at = |us: u64| Instant::from_nanos(us * 1000);
        let mut asks = Pace::default();
        for n in 0..100 {
            asks.came(at(n * 300), 1);
            assert!(!asks.is_high(at(n * 300 + 50)), "question {n}");
        }
        let mut sends = Pace::default();
        for n in 0..100 {
            sends.came(at(n * 200), MANY / 4);
            assert_eq!(sends.is_high(at(n * 200 + 50)), n >= 3, "burst {n}");
        }
        let last = 99 * 200;
        assert!(sends.is_high(at(last + 1000)));
        assert!(!sends.is_high(at(last + 4000)), "two windows without a frame");
        assert!(!sends.is_high(at(last + 60_000_000)), "a minute later");
    }
}
