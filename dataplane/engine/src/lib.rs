//! The switch, without the machine: frames, commands and the time come in; frames and events go out.
//!
//! `no_std` and `forbid(unsafe_code)` make rustc itself refuse a clock, a socket, a thread or a raw
//! pointer in here. See `ARCHITECTURE.md` for the walk of a packet.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod command;
pub mod counters;
pub mod forward;
pub mod frame;
pub mod handoff;
pub mod limits;
pub mod mailbox;
pub mod own;
pub mod port;
pub mod table;
pub mod time;
pub mod watch;
pub mod wire;
pub mod worker;
