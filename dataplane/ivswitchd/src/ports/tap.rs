//! A TAP interface with virtio-net headers: the CMS gets the kernel's end, this is the other.
//!
//! The device is made beforehand (`links`), persistent and with room for several queues; opening attaches one. A TAP
//! is a file, not a socket: one system call per frame, but up to 64 KiB in each.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use ctl::io::{KernelDrops, OpenPort, PortFacts};
use engine::frame::{Batch, Frame, FramePool};
use engine::port::{Port, PortCaps};
use engine::time::Instant;
use engine::wire::virtio_net::{self, HEADER_LEN};

use super::afxdp::Kept;
use super::keep;
use super::landing::Landing;
use super::lane::{Lane, LaneError, LaneShared, Refusal, refusal, room_in};
use super::packet::offloads;
use super::umem::UmemPool;

/// The device that TAP interfaces come from.
const DEVICE: &str = "/dev/net/tun";

const TUNSETIFF: u64 = 0x4004_54ca;
const TUNGETIFF: u64 = 0x8004_54d2;
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUNSETPERSIST: u64 = 0x4004_54cb;

const TUN_F_CSUM: u64 = 0x01;
const TUN_F_TSO4: u64 = 0x02;
const TUN_F_TSO6: u64 = 0x04;
const TUN_F_TSO_ECN: u64 = 0x08;
const TUN_F_USO4: u64 = 0x20;
const TUN_F_USO6: u64 = 0x40;
const TSO: u64 = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
const USO: u64 = TUN_F_USO4 | TUN_F_USO6;

/// Opens one queue of the TAP interface with this name. A missing interface is made (and ends with the queue,
/// unless it is made persistent).
///
/// # Errors
/// The kernel's error: `EINVAL` if the interface is another kind of TAP, `EBUSY` if its queues are taken.
pub fn queue(name: &str) -> io::Result<OwnedFd> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(DEVICE)?;
    // SAFETY: plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: TUNSETIFF reads and writes an `ifreq`, which outlives the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(device.into()) }
}

/// Makes the queue's interface outlive its queues.
///
/// # Errors
/// Returns the kernel's error.
pub fn persist(queue: &OwnedFd) -> io::Result<()> {
    ioctl(queue, TUNSETPERSIST, 1)
}

fn ioctl(queue: &OwnedFd, request: u64, value: u64) -> io::Result<()> {
    // SAFETY: the requests used here take a number, and no memory is passed.
    let done = unsafe { libc::ioctl(queue.as_raw_fd(), request as _, value) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether a descriptor is a queue of the interface with this name.
fn is_of(queue: &OwnedFd, name: &str) -> bool {
    // SAFETY: plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes an `ifreq`, which outlives the call.
    let done = unsafe { libc::ioctl(queue.as_raw_fd(), TUNGETIFF as _, &raw mut request) };
    let found = request.ifr_name.iter().map(|&byte| byte.cast_unsigned()).take_while(|&byte| byte != 0);
    done == 0 && found.eq(name.bytes())
}

/// A TAP port: one queue.
#[derive(Debug)]
pub struct TapPort {
    file: Arc<File>,
    shared: Arc<LaneShared>,
    uso: bool,
}

/// The control thread's part.
#[derive(Debug)]
pub struct TapControl {
    file: Weak<File>,
    shared: Weak<LaneShared>,
    /// Names under which the service manager keeps the port's descriptors.
    names: Vec<String>,
}

impl Drop for TapControl {
    fn drop(&mut self) {
        if !keep::is_leaving() {
            self.names.iter().for_each(|name| keep::remove(name));
        }
    }
}

/// Attaches to the interface with a queue for each worker, and tells the kernel what the frames it gives us
/// may leave unfinished.
///
/// # Errors
/// The kernel's error, and the remedy.
pub fn open(
    spec: &OpenPort,
    workers: usize,
    kept: &mut Kept,
) -> Result<(Vec<TapPort>, TapControl, PortFacts), LaneError> {
    let failed = |what, remedy| {
        let interface = spec.interface.clone();
        move |cause| LaneError { interface, what, cause, remedy }
    };
    // Opening would create a missing interface, and not with the attributes that `links` gives it.
    if super::interface_index(&spec.interface) != Some(spec.index) {
        return Err(failed("it cannot be opened", "")(io::Error::from_raw_os_error(libc::ENODEV)));
    }
    let mut files = Vec::with_capacity(workers);
    let mut uso = true;
    let mut names = Vec::new();
    for n in 0..workers {
        let name = format!("tap-{}-{n}", spec.index);
        let resumed = kept.tap(&name).filter(|queue| is_of(queue, &spec.interface));
        let new = resumed.is_none();
        let queue = resumed.map_or_else(|| queue(&spec.interface), Ok).map_err(failed(
            "no queue of the TAP interface",
            "it must be a TAP with several queues and virtio-net headers that no other program has open: \
             remove it (`ip link del NAME`), and it is made anew",
        ))?;
        if keep::is_possible() {
            if new {
                keep::store(&name, &queue);
            }
            names.push(name);
        }
        uso = uso && ioctl(&queue, TUNSETOFFLOAD, TSO | USO).is_ok();
        if !uso {
            ioctl(&queue, TUNSETOFFLOAD, TSO).map_err(failed("no offloads", "use `kind = \"packet\"`"))?;
        }
        files.push(Arc::new(File::from(queue)));
    }
    let shared = Arc::new(LaneShared::default());
    let facts = PortFacts {
        mode: offloads(uso).into(),
        reason: if uso { String::new() } else { "Linux 6.2 or newer takes GSO packets of UDP".into() },
        queues: workers as u32,
    };
    let file = files.first().map(Arc::downgrade).unwrap_or_default();
    let control = TapControl { file, shared: Arc::downgrade(&shared), names };
    let port = |file| TapPort { file, shared: shared.clone(), uso };
    Ok((files.into_iter().map(port).collect(), control, facts))
}

/// The result of a read.
enum Heard {
    Frame(Frame),
    Dropped,
    /// The frame was dropped, and counted.
    Refused,
    Nothing,
}

impl TapPort {
    fn read(&self, pool: &mut UmemPool, mut landing: Landing) -> Heard {
        let (places, count) = landing.places(pool, HEADER_LEN, None);
        // SAFETY: the places are slots that `landing` holds, and no other code reads or writes them during the call.
        let got = unsafe { libc::readv(self.file.as_raw_fd(), places.as_ptr(), count as i32) };
        if got <= 0 {
            landing.discard(pool);
            if got < 0 && refusal(&io::Error::last_os_error()) == Refusal::Gone {
                self.shared.dead.store(true, Ordering::Relaxed);
            }
            return Heard::Nothing;
        }
        let room: usize = places[..count].iter().map(|place| place.iov_len).sum();
        // A TAP truncates a frame that does not fit, and reports how much it wrote, not the frame's length.
        let len = (got as usize).checked_sub(HEADER_LEN).filter(|_| (got as usize) < room);
        let Some((len, header)) = len.map(|len| (len, landing.lead::<HEADER_LEN>(pool))) else {
            landing.discard(pool);
            return Heard::Dropped;
        };
        let Some(mut frame) = landing.settle(pool, len) else { return Heard::Dropped };
        match virtio_net::read(&header, pool.bytes(&frame)) {
            Ok(offload) => {
                frame.offload = offload;
                Heard::Frame(frame)
            }
            Err(_) => {
                pool.free(frame);
                LaneShared::count(&self.shared.rx_unsaid);
                Heard::Refused
            }
        }
    }
}

impl Lane for TapPort {
    fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn shared(&self) -> &Arc<LaneShared> {
        &self.shared
    }
}

impl Port<UmemPool> for TapPort {
    fn rx(&mut self, _now: Instant, pool: &mut UmemPool, batch: &mut Batch) {
        let mut room = room_in(batch);
        while !batch.is_full() && room > 0 {
            let Some(landing) = Landing::new(pool) else {
                self.shared.starved(true);
                return;
            };
            self.shared.starved(false);
            match self.read(pool, landing) {
                Heard::Frame(frame) => {
                    room = room.saturating_sub(frame.len as usize);
                    batch.push(frame);
                }
                Heard::Dropped => LaneShared::count(&self.shared.rx_dropped),
                Heard::Refused => {}
                Heard::Nothing => return,
            }
        }
    }

    fn tx(&mut self, _now: Instant, pool: &mut UmemPool, frames: &mut Vec<Frame>) {
        let mut done = 0;
        for frame in frames.iter() {
            let bytes = pool.bytes(frame);
            let mut header = [0; HEADER_LEN];
            virtio_net::write(&mut header, frame.offload, bytes);
            let sent = write(&self.file, &header, bytes);
            match sent.as_ref().err().map(refusal) {
                Some(Refusal::Later) => break,
                Some(Refusal::Gone) => {
                    self.shared.dead.store(true, Ordering::Relaxed);
                    break;
                }
                Some(Refusal::Frame) => LaneShared::count(&self.shared.tx_invalid),
                None => {}
            }
            done += 1;
        }
        for frame in frames.drain(..done) {
            pool.free(frame);
        }
    }

    fn caps(&self) -> PortCaps {
        PortCaps { tx_csum: true, tx_tso: true, tx_uso: self.uso, rx_csum_unmarked: false }
    }
}

fn write(file: &File, header: &[u8; HEADER_LEN], bytes: &[u8]) -> io::Result<()> {
    use std::io::{IoSlice, Write};
    let mut file = file;
    file.write_vectored(&[IoSlice::new(header), IoSlice::new(bytes)]).map(|_| ())
}

impl TapControl {
    /// The counts of dropped frames; `None` once the worker's part is closed.
    #[must_use]
    pub fn drops(&self) -> Option<KernelDrops> {
        Some(self.shared.upgrade()?.drops(0))
    }

    /// Whether the interface still exists, perhaps in another network namespace or under another name.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        // SAFETY: plain data for which all zeroes is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        self.file.upgrade().is_some_and(|file| {
            // SAFETY: TUNGETIFF writes an `ifreq`, which outlives the call.
            unsafe { libc::ioctl(file.as_raw_fd(), TUNGETIFF as _, &raw mut request) == 0 }
        })
    }

    /// True once the worker has noticed that the interface is gone.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.shared.upgrade().is_none_or(|shared| shared.dead.load(Ordering::Relaxed))
    }
}
