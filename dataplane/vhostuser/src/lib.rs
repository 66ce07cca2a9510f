//! The back end of a vhost-user network device: QEMU sends messages over a socket and shares the guest's
//! memory, we move frames between the guest's rings and the frame pool.
//!
//! No thread, no clock, no unsafe code. The socket's owner feeds [`Session`] with its messages
//! ([`Connection`] reads them); workers call [`Device::receive`], [`Device::send`] and [`Device::rest`]. All
//! data from the guest or from QEMU is hostile until proved otherwise; a violation ends in a [`Fault`] that
//! stops only this device.
//!
//! - [`memory`]: the guest's memory, and the log of our writes to it while it migrates;
//! - [`ring`]: one virtqueue, both directions;
//! - [`device`]: the rings of one port, the workers' wake-ups, the counters;
//! - [`session`]: the meaning of the messages;
//! - [`wire`]: their transport over the socket.
//!
//! It builds on crates of rust-vmm: `vhost` for the messages' layout, `virtio-queue` for the traversal of
//! rings and chains, `vm-memory` for the mappings. `vhost`'s own request handler refuses messages that QEMU
//! 7.2 sends (it enables rings before it sets features) and blocks, so the loop is ours
//! (`dataplane/decisions/0013`).

#![forbid(unsafe_code)]

pub mod device;
mod fault;
mod features;
pub mod memory;
pub mod ring;
pub mod session;
pub mod wire;

pub use device::{Counts, Device};
pub use fault::Fault;
pub use session::Session;
pub use wire::Connection;

/// Most entries in a virtqueue: four times QEMU's limit for a network device.
pub const RING_LEN_MAX: u16 = 4096;

/// Most queue pairs of a device.
pub const PAIRS_MAX: usize = 64;

/// Regions of guest memory: the protocol's limit for one message.
pub const REGIONS_MAX: usize = 8;

/// Descriptors in a chain that the guest sends. Linux needs fewer than 50.
pub const CHAIN_MAX: usize = 256;

/// Descriptors read per call and ring, so that a guest with absurd chains costs the others no more than one
/// with large frames.
pub const DESCRIPTORS_PER_CALL: usize = 4096;

/// Guest buffers that one frame may be spread over: 64 KiB in buffers of one MTU, and some more.
pub const BUFFERS_MAX: usize = 64;
