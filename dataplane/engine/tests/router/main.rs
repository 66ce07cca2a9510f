//! The switch as a router, frame by frame: the errors that senders get, the packets that it fragments, and
//! how fragments find their ports. Independent implementations, etherparse and smoltcp, read the frames.

mod errors;
mod fragments;
mod ports;
mod rvm;
