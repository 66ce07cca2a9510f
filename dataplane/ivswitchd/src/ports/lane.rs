//! What all lanes that are not AF_XDP have in common: what is counted, how one breaks, what is left for the control
//! thread.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ctl::io::KernelDrops;
use engine::frame::Batch;
use engine::limits::{BATCH_BYTES, BATCH_LEN};
use engine::port::Port;

use super::umem::UmemPool;

/// A lane could not be opened. Names object, cause and remedy.
#[derive(Debug, thiserror::Error)]
#[error("port {interface:?}: {what}: {cause}; {}", advice(.cause, .remedy))]
pub struct LaneError {
    /// The interface.
    pub interface: String,
    /// What was tried.
    pub what: &'static str,
    /// What the kernel said.
    pub cause: io::Error,
    /// What to do, unless the cause itself says.
    pub remedy: &'static str,
}

fn advice<'a>(cause: &io::Error, otherwise: &'a str) -> &'a str {
    match cause.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "run the daemon as root, or with CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF"
        }
        Some(libc::ENODEV | libc::ENXIO) => "it is taken as soon as it appears",
        _ => otherwise,
    }
}

/// One worker's queue of a port that is not AF_XDP's.
pub trait Lane: Port<UmemPool> + Send + Sized + 'static {
    /// Becomes readable when frames have arrived.
    fn fd(&self) -> RawFd;
    /// What the control thread knows of it too. One for all queues of a port.
    fn shared(&self) -> &Arc<LaneShared>;
}

/// What all threads know of a lane.
#[derive(Debug, Default)]
pub struct LaneShared {
    /// Something waits that no readiness will tell of: ask again soon.
    pub retry: AtomicBool,
    /// The interface is gone for the kernel.
    pub dead: AtomicBool,
    /// Received and dropped: cut off for want of a slot.
    pub rx_dropped: AtomicU64,
    /// Received and dropped: the kernel, or its virtio-net header, cannot express the offload facts.
    pub rx_unsaid: AtomicU64,
    /// Received and dropped: too long to be split.
    pub rx_too_long: AtomicU64,
    /// There was no slot to receive into.
    pub no_slots: AtomicU64,
    /// Could not be sent: the kernel refused the frame.
    pub tx_invalid: AtomicU64,
}

impl LaneShared {
    /// One more of what the counter counts.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// As the agent wants to know it.
    pub fn drops(&self, rx_ring_full: u64) -> KernelDrops {
        KernelDrops {
            rx_ring_full,
            fill_ring_empty: self.no_slots.load(Ordering::Relaxed),
            rx_other: self.rx_dropped.load(Ordering::Relaxed),
            rx_unsaid: self.rx_unsaid.load(Ordering::Relaxed),
            rx_too_long: self.rx_too_long.load(Ordering::Relaxed),
            tx_invalid: self.tx_invalid.load(Ordering::Relaxed),
        }
    }

    /// Notes that the pool had no slot: what waits is asked for again soon.
    pub fn starved(&self, starved: bool) {
        if starved {
            Self::count(&self.no_slots);
        }
        if starved != self.retry.load(Ordering::Relaxed) {
            self.retry.store(starved, Ordering::Relaxed);
        }
    }
}

/// Tells whether a lane wants to be asked again soon. Outlives it, and says no then.
pub fn retries(shared: &Arc<LaneShared>) -> impl Fn() -> bool + Send + 'static {
    let shared = Arc::downgrade(shared);
    move || shared.upgrade().is_some_and(|shared| shared.retry.load(Ordering::Relaxed))
}

/// Messages asked for when none waited the last time.
const APPETITE_MIN: usize = 4;

/// How many messages to ask for in one system call. Each takes slots that most likely stay empty, so few are asked
/// for until they come.
#[derive(Debug)]
pub struct Appetite {
    messages: usize,
    /// Length of the largest recent message. Each later call with smaller ones takes an eighth off.
    largest: usize,
}

impl Default for Appetite {
    fn default() -> Self {
        Self { messages: APPETITE_MIN, largest: 0 }
    }
}

impl Appetite {
    /// How many more belong in this batch; 0 when it holds enough. Of super-frames, by those that came last, no more
    /// than [`BATCH_BYTES`] hold.
    pub fn of(&self, batch: &Batch) -> usize {
        let room = room_in(batch);
        let by_bytes = if room == 0 { 0 } else { (room / self.largest.max(1)).max(1) };
        self.messages.min(batch.remaining_capacity()).min(by_bytes)
    }

    /// Learns what came of asking for so many. False: nothing more waits.
    pub fn fed(&mut self, asked: usize, got: usize, largest: usize) -> bool {
        if got > 0 {
            // A few small messages between large ones must not raise the number to ask for.
            self.largest = largest.max(self.largest - self.largest / 8);
        }
        if got < asked {
            self.messages = (self.messages / 2).max(APPETITE_MIN).max(got);
            return false;
        }
        self.messages = (self.messages * 2).min(BATCH_LEN);
        true
    }
}

/// Bytes that a batch may still take.
pub fn room_in(batch: &Batch) -> usize {
    let bytes: usize = batch.iter().map(|frame| frame.len as usize).sum();
    BATCH_BYTES.saturating_sub(bytes)
}

/// What a failed send means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Not now; the frame stays.
    Later,
    /// Never this frame.
    Frame,
    /// Nothing more: the interface is gone.
    Gone,
}

/// What the kernel's answer to a send means.
pub fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Refusal::Later,
        Some(libc::ENXIO | libc::ENODEV | libc::EBADFD | libc::EBADF) => Refusal::Gone,
        _ => Refusal::Frame,
    }
}

/// Sets a socket option that is an integer.
pub fn set(socket: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A filter that accepts nothing, so that nothing ever waits in the socket.
pub fn deafen(socket: &impl AsRawFd) -> io::Result<()> {
    // BPF_RET | BPF_K, 0 bytes.
    let mut filter = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: filter.as_mut_ptr() };
    // SAFETY: `program` and the one instruction it points to live through the call, which copies them.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::frame::{Frame, Offload};

    fn batch(lens: &[u32]) -> Batch {
        lens.iter().map(|&len| Frame { slot: 0, head: 0, len, offload: Offload::NONE }).collect()
    }

    /// Small frames are asked for by the batch, super-frames by their bytes.
    #[test]
    fn appetite_follows_what_comes() {
        let mut appetite = Appetite::default();
        assert_eq!(appetite.of(&batch(&[])), APPETITE_MIN);
        for _ in 0..5 {
            let asked = appetite.of(&batch(&[]));
            assert!(appetite.fed(asked, asked, 60));
        }
        assert_eq!(appetite.of(&batch(&[])), BATCH_LEN);
        assert_eq!(appetite.of(&batch(&[60; 60])), 4);
        assert!(appetite.fed(64, 64, 65_000));
        assert_eq!(appetite.of(&batch(&[])), 4);
        assert_eq!(appetite.of(&batch(&[65_000; 3])), 1);
        assert_eq!(appetite.of(&batch(&[65_000; 4])), 1);
        assert_eq!(appetite.of(&batch(&[65_000; 5])), 0);
        assert!(!appetite.fed(4, 1, 60));
        assert_eq!(appetite.of(&batch(&[])), 4, "a small one among large ones");
        for _ in 0..40 {
            assert!(!appetite.fed(5, 4, 60));
        }
        assert_eq!(appetite.of(&batch(&[])), APPETITE_MIN);
        assert!(!appetite.fed(4, 0, 0));
        assert_eq!(appetite.of(&batch(&[60; 64])), 0);
    }
}
