//! The parts of a port that outlive its rings: its sockets, and after them the records about their slots.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::XskStats;
use super::socket::{BindMode, Queue, statistics};
use crate::ports::umem::Lease;

/// A port's sockets, and the state that both parts of the port share. Dropped after the rings.
#[derive(Debug)]
pub struct Sockets {
    pub(super) fds: Vec<OwnedFd>,
    /// The sockets' queue numbers.
    pub(super) indexes: Vec<u32>,
    pub(super) lease: Lease,
    pub(super) interface: u32,
    /// The driver has mapped the memory: see `driver_let_go`.
    pub(super) zero_copy: bool,
    pub(super) tx_pending: AtomicBool,
    pub(super) dead: AtomicBool,
    pub(super) rx_dropped: AtomicU64,
    pub(super) tx_invalid: AtomicU64,
}

impl Sockets {
    pub(super) fn new(lease: Lease, interface: u32) -> Self {
        Self {
            fds: Vec::new(),
            indexes: Vec::new(),
            lease,
            interface,
            zero_copy: false,
            tx_pending: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            rx_dropped: AtomicU64::new(0),
            tx_invalid: AtomicU64::new(0),
        }
    }

    /// The counters of all queues together.
    pub(super) fn stats(&self) -> XskStats {
        let mut sum = XskStats {
            rx_dropped: self.rx_dropped.load(Ordering::Relaxed),
            tx_invalid: self.tx_invalid.load(Ordering::Relaxed),
            ..XskStats::default()
        };
        for stats in self.fds.iter().filter_map(|fd| statistics(fd).ok()) {
            sum.rx_dropped += stats.rx_dropped;
            sum.rx_ring_full += stats.rx_ring_full;
            // With zero copy this counts how often the driver looked for slots for its own ring and found
            // none. That drops no frame: the driver looks again.
            sum.fill_ring_empty += if self.zero_copy { 0 } else { stats.rx_fill_ring_empty_descs };
            sum.tx_invalid += stats.tx_invalid_descs;
        }
        sum
    }

    pub(super) fn is_tx_pending(&self) -> bool {
        self.tx_pending.load(Ordering::Relaxed)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Whether the driver has let go of all queues. In copy mode closing a socket is enough; with zero copy
    /// the kernel tells the driver later, and until then the queue cannot be bound again.
    fn driver_let_go(&self) -> bool {
        self.indexes.iter().all(|&index| {
            let free = || match Queue::new(self.lease.umem()) {
                Ok((queue, _fd)) => {
                    let mode = BindMode { zero_copy: false, multi_buffer: false };
                    let bound = queue.bind(self.interface, index, mode);
                    !bound.is_err_and(|cause| cause.raw_os_error() == Some(libc::EBUSY))
                }
                Err(_) => false,
            };
            (0..2000).any(|_| {
                let free = free();
                if !free {
                    std::thread::sleep(Duration::from_millis(1));
                }
                free
            })
        })
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.fds.clear();
        if self.zero_copy && !self.driver_let_go() {
            tracing::warn!("interface {}: the driver keeps its buffers; they stay lost", self.interface);
            self.lease.forfeit();
        }
        // The lease is dropped next, and returns every slot.
    }
}
