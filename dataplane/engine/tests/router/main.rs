//! The switch as a router, frame by frame: whom it tells that a packet is not forwarded and how, what it cuts into
//! fragments, and how fragments find their ports. Read by etherparse and smoltcp, which are not ours.

mod errors;
mod fragments;
mod ports;
mod rvm;
