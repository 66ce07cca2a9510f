//! The daemon's parts. They own sockets, memory and threads, and decide nothing.
//!
//! - [`ports`]: port I/O and frame memory;
//! - [`thread`]: the worker's thread, and when it sleeps;
//! - [`links`]: the machine's interfaces through rtnetlink, doors included;
//! - `netlink`: requests to rtnetlink, and its events;
//! - [`identity`]: the number that tells this rVM from all others;
//! - [`closed`]: the rule that keeps reality addresses from the kernel while the daemon is away;
//! - [`control`]: the control thread, which carries out the agent's outputs.

pub mod clock;
pub mod closed;
pub mod confine;
pub mod control;
pub mod identity;
pub mod links;
pub mod log;
pub mod metrics;
mod netlink;
pub mod ports;
pub mod privileges;
mod thread;
