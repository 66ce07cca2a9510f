//! Port I/O: where frames enter and leave the process, and the memory they live in.
//!
//! Nothing here decides where a frame goes. All unsafe code of the daemon that touches rings,
//! mappings and raw sockets is in this room.
//!
//! - [`umem`]: the frame pool, one shared mapping that every AF_XDP socket registers as its own;
//! - [`afxdp`]: a network interface through AF_XDP sockets and an XDP program;
//! - [`host`]: whole packets handed to the kernel through raw sockets.

pub mod afxdp;
pub mod host;
#[cfg_attr(feature = "xsk-afxdp", allow(dead_code, reason = "the crate borrows no slots"))]
pub mod umem;
