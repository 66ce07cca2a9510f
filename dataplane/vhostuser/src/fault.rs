//! What a guest or its QEMU did that no well-behaved one does.

/// Why a device was stopped. Names what was wrong and, where there is one, the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message that is none: bad version, reply flag, length, or unknown request.
    #[error("QEMU sent a malformed message (request {request}, {len} bytes): {why}")]
    Message {
        /// Its number.
        request: u32,
        /// Its payload's length.
        len: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// A message came with more, or fewer, file descriptors than it has.
    #[error("QEMU sent {got} file descriptors with request {request}")]
    Descriptors {
        /// The request.
        request: u32,
        /// How many came.
        got: usize,
    },
    /// A ring number beyond what was agreed on.
    #[error("QEMU spoke of ring {0}, which there is not")]
    NoRing(u32),
    /// A ring was set up wrongly.
    #[error("QEMU set ring {ring} up wrongly: {why}")]
    Setup {
        /// The ring.
        ring: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Guest memory that cannot be mapped, or not safely.
    #[error("the guest's memory: {0}")]
    Memory(String),
    /// The driver wrote nonsense to a ring.
    #[error("the guest broke ring {ring}: {why}")]
    Ring {
        /// The ring.
        ring: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// The socket failed, other than by being closed.
    #[error("the connection to QEMU: {0}")]
    Socket(String),
}
