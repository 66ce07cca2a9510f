//! The Inception Switch daemon: it owns sockets, memory and threads, and decides nothing.

mod clock;
mod links;
mod ports;
mod thread;

fn main() {}
