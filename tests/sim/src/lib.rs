//! Inception Switch in a simulated world: many rVMs in one process, each the production
//! [`engine::worker::Worker`] and [`ctl::agent::Agent`], one heap of events, one source of randomness. The seed alone
//! determines everything that happens in a world.
//!
//! | Module | Its part |
//! |---|---|
//! | [`world`] | time, links, and the actions of scenarios |
//! | [`rvm`] | the rVM's kernel around worker and agent |
//! | [`underlay`] | reality clouds with their NAT and filters, and the Internet |
//! | [`guest`] | iVMs and Internet hosts with a real TCP |
//! | [`cms`] | the bridge and NAT that a CMS makes behind its doors |
//! | [`faults`] | faults that scenarios cause |
//! | [`checks`] | invariants that hold in spite of them |
#![forbid(unsafe_code)]

pub mod checks;
pub mod cms;
pub mod faults;
pub mod guest;
pub mod link;
pub mod node;
pub mod packet;
pub mod pcap;
pub mod prng;
pub mod rvm;
pub mod steer;
pub mod underlay;
pub mod world;
