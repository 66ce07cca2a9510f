//! Inception Switch in a simulated world: many rVMs in one process, each the production
//! [`engine::worker::Worker`] and [`ctl::agent::Agent`], one event heap, one source of chance. A world is a
//! function of its seed.
//!
//! | Room | What it plays |
//! |---|---|
//! | [`world`] | time, links, and what scenarios do |
//! | [`rvm`] | the rVM's kernel around worker and agent |
//! | [`underlay`] | reality clouds, their NAT and what they drop, and the Internet |
//! | [`guest`] | iVMs and Internet hosts with a real TCP |
//! | [`cms`] | the bridge and NAT that a CMS makes behind its doors |
//! | [`faults`] | what goes wrong |
//! | [`checks`] | what must hold all the same |
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
