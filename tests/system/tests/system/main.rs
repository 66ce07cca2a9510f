//! The system tests: real interfaces, real sockets, the kernel as peer. Root only.
//! Tests are named after the seed check they prove, where there is one.

mod harness;
mod l2;
mod topology;
mod vxlan;
