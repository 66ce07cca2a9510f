//! The common parts of all drivers except AF_XDP: the counters, the failures, the state for the control thread.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ctl::io::KernelDrops;
use engine::frame::Batch;
use engine::limits::{BATCH_BYTES, BATCH_LEN};
use engine::port::Port;

use super::umem::UmemPool;

/// A port's driver could not be opened. The text names object, cause and remedy.
#[derive(Debug, thiserror::Error)]
#[error("port {interface:?}: {what}: {cause}; {}", advice(.cause, .remedy))]
pub struct LaneError {
    /// The interface.
    pub interface: String,
    /// The attempted operation.
    pub what: &'static str,
    /// The kernel's error.
    pub cause: io::Error,
    /// The remedy, unless the cause itself implies one.
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

/// One worker's queue of a port without AF_XDP.
pub trait Lane: Port<UmemPool> + Send + Sized + 'static {
    /// Becomes readable when frames have arrived.
    fn fd(&self) -> RawFd;
    /// The state that the control thread also uses. All queues of a port share one.
    fn shared(&self) -> &Arc<LaneShared>;
}

/// A port's state that all threads share.
#[derive(Debug, Default)]
pub struct LaneShared {
    /// Frames wait, but no descriptor will become readable for them: poll again soon.
    pub retry: AtomicBool,
    /// The kernel has removed the interface.
    pub dead: AtomicBool,
    /// Frames dropped on receipt: truncated for lack of a slot.
    pub rx_dropped: AtomicU64,
    /// Frames dropped on receipt: the kernel, or its virtio-net header, cannot express their offload facts.
    pub rx_unsaid: AtomicU64,
    /// Frames dropped on receipt: too long to be split.
    pub rx_too_long: AtomicU64,
    /// Times that the pool had no slot to receive into.
    pub no_slots: AtomicU64,
    /// Frames that the kernel refused to send.
    pub tx_invalid: AtomicU64,
}

impl LaneShared {
    /// Adds one to the counter.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The drops in the agent's form.
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

    /// Notes that the pool had no slot: waiting frames will be polled for again soon.
    pub fn starved(&self, starved: bool) {
        if starved {
            Self::count(&self.no_slots);
        }
        if starved != self.retry.load(Ordering::Relaxed) {
            self.retry.store(starved, Ordering::Relaxed);
        }
    }
}

/// Returns a check whether the port wants to be polled again soon. It outlives the port, and then answers no.
pub fn retries(shared: &Arc<LaneShared>) -> impl Fn() -> bool + Send + 'static {
    let shared = Arc::downgrade(shared);
    move || shared.upgrade().is_some_and(|shared| shared.retry.load(Ordering::Relaxed))
}

/// Messages to request when none waited the last time.
const APPETITE_MIN: usize = 4;

/// How many messages to request in one system call. Each request takes slots that most likely stay empty, so
/// the number is small until messages come.
#[derive(Debug)]
pub struct Appetite {
    messages: usize,
    /// Length of the largest recent message. Each later call with smaller ones reduces it by an eighth.
    largest: usize,
}

impl Default for Appetite {
    fn default() -> Self {
        Self { messages: APPETITE_MIN, largest: 0 }
    }
}

impl Appetite {
    /// How many more messages belong in this batch; 0 when it holds enough. Judged by the latest GSO packets,
    /// they have at most [`BATCH_BYTES`] together.
    pub fn of(&self, batch: &Batch) -> usize {
        let room = room_in(batch);
        let by_bytes = if room == 0 { 0 } else { (room / self.largest.max(1)).max(1) };
        self.messages.min(batch.remaining_capacity()).min(by_bytes)
    }

    /// Learns the result of a request for `asked` messages. Returns false if no more wait.
    pub fn fed(&mut self, asked: usize, got: usize, largest: usize) -> bool {
        if got > 0 {
            // A few small messages between large ones must not raise the number to request.
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

/// Bytes that still fit in the batch.
pub fn room_in(batch: &Batch) -> usize {
    let bytes: usize = batch.iter().map(|frame| frame.len as usize).sum();
    BATCH_BYTES.saturating_sub(bytes)
}

/// The meaning of a failed send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The port is busy; the frame stays.
    Later,
    /// The kernel will never send this frame.
    Frame,
    /// The kernel will send no more frames: the interface is gone.
    Gone,
}

/// The meaning of the kernel's answer to a send.
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

/// Installs a filter that accepts no packet, so that none ever waits in the socket.
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

    /// The request counts small frames, but limits GSO packets by their bytes.
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
