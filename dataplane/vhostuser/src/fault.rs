//! Violations of the protocol by a guest or its QEMU.

/// Why a device was stopped. The text names the violation and, where one exists, the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An invalid message: bad version, reply flag, length, or unknown request.
    #[error("QEMU sent a malformed message (request {request}, {len} bytes): {why}")]
    Message {
        /// The message's request number.
        request: u32,
        /// The length of the message's payload.
        len: u32,
        /// The violation.
        why: &'static str,
    },
    /// A message came with more, or fewer, file descriptors than its kind has.
    #[error("QEMU sent {got} file descriptors with request {request}")]
    Descriptors {
        /// The request.
        request: u32,
        /// The number of received descriptors.
        got: usize,
    },
    /// A ring number beyond the agreed number.
    #[error("QEMU spoke of ring {0}, which there is not")]
    NoRing(u32),
    /// A ring was set up wrongly.
    #[error("QEMU set ring {ring} up wrongly: {why}")]
    Setup {
        /// The ring.
        ring: usize,
        /// The violation.
        why: &'static str,
    },
    /// Guest memory that cannot be mapped, or not safely.
    #[error("the guest's memory: {0}")]
    Memory(String),
    /// The driver wrote invalid data to a ring.
    #[error("the guest broke ring {ring}: {why}")]
    Ring {
        /// The ring.
        ring: usize,
        /// The violation.
        why: &'static str,
    },
    /// The socket failed in another way than by being closed.
    #[error("the connection to QEMU: {0}")]
    Socket(String),
}
