//! The back end of a vhost-user network device: QEMU sends messages over a socket and shares the guest's
//! memory, we move frames between the guest's rings and the frame pool.
//!
//! No thread, no clock, no unsafe code. Whoever owns the socket feeds [`Session`] with its messages
//! ([`Connection`] reads them); workers call [`Device::receive`], [`Device::send`] and [`Device::rest`]. Everything
//! that comes from the guest or from QEMU is hostile until proved otherwise, and ends in a [`Fault`] that
//! stops this device and nothing else.
//!
//! - [`memory`]: the guest's memory, and the log of what we wrote to it while it migrates;
//! - [`ring`]: one virtqueue, both directions;
//! - [`device`]: the rings of one port, what wakes the workers, what is counted;
//! - [`session`]: what the messages mean;
//! - [`wire`]: how they come off the socket.
//!
//! The crates of rust-vmm underneath: `vhost` for the messages' layout, `virtio-queue` for walking rings and chains,
//! `vm-memory` for the mappings. `vhost`'s own request handler refuses what QEMU 7.2 sends (rings are enabled
//! before features are set) and blocks, so the loop is ours (`dataplane/decisions/0013`).

#![forbid(unsafe_code)]

pub mod device;
mod fault;
pub mod memory;
pub mod ring;
pub mod session;
pub mod wire;

pub use device::{Counts, Device};
pub use fault::Fault;
pub use session::Session;
pub use wire::Connection;

/// Entries in a virtqueue, at most: four times what QEMU lets a network device have.
pub const RING_LEN_MAX: u16 = 4096;

/// Queue pairs of a device, at most.
pub const PAIRS_MAX: usize = 64;

/// Regions of guest memory: what the protocol allows in one message.
pub const REGIONS_MAX: usize = 8;

/// Descriptors in a chain that the guest sends. Linux needs fewer than 50.
pub const CHAIN_MAX: usize = 256;

/// Descriptors looked at per call and ring, so that a guest with absurd chains costs the others no more than
/// one with large frames.
pub const DESCRIPTORS_PER_CALL: usize = 4096;

/// Buffers of the guest's that one frame may be spread over: 64 KiB in buffers of one MTU, and some.
pub const BUFFERS_MAX: usize = 64;
