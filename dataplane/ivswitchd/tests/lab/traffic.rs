//! Numbered frames, and their receipt from a port.

use std::os::fd::RawFd;
use std::time::{Duration, Instant as Clock};

use engine::frame::{Batch, Frame, FramePool};
use engine::port::Port;
use engine::time::Instant;

use ivswitchd::ports::umem::UmemPool;

/// Every step of every test is faster than this on a working machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits in poll() until one of the descriptors is readable.
pub fn sleep_on(fds: &[RawFd], at_most: Duration) -> bool {
    let mut fds: Vec<libc::pollfd> =
        fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: the pointer and length describe `fds`.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as u64, at_most.as_millis() as i32) };
    ready > 0
}

/// A frame of the local experimental EtherType whose every byte depends on its number.
pub fn numbered(number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    for (at, byte) in bytes[14..].iter_mut().enumerate() {
        *byte = (number.wrapping_mul(31).wrapping_add(at as u32) >> (at % 4)) as u8;
    }
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Whether this is a frame of [`numbered`], and not the router solicitation of an interface that came up.
pub fn is_numbered(bytes: &[u8]) -> bool {
    bytes[12..14] == [0x88, 0xb5]
}

/// Takes frames that `wanted` accepts until there are `count`; others are freed.
pub fn receive_if(
    port: &mut dyn Port<UmemPool>,
    fds: &[RawFd],
    pool: &mut UmemPool,
    count: usize,
    wanted: impl Fn(&[u8]) -> bool,
) -> Vec<Frame> {
    let deadline = Clock::now() + PATIENCE;
    let mut frames = Vec::new();
    let mut batch = Batch::new();
    while frames.len() < count && Clock::now() < deadline {
        port.rx(Instant::ZERO, pool, &mut batch);
        if batch.is_empty() {
            sleep_on(fds, Duration::from_millis(100));
        }
        for frame in batch.drain(..) {
            if wanted(pool.bytes(&frame)) { frames.push(frame) } else { pool.free(frame) }
        }
    }
    frames
}

pub fn free_all(pool: &mut UmemPool, frames: Vec<Frame>) {
    for frame in frames {
        pool.free(frame);
    }
}
