//! The switch without the machine: frames, commands and the time come in; frames and events go out.
//!
//! `no_std` and `forbid(unsafe_code)` make rustc itself refuse a clock, a socket, a thread or a raw pointer here.
//! `ARCHITECTURE.md` describes the path of a packet.
//!
//! The caller owns the time, the frame memory and the I/O. This example makes a switch with two ports on one network,
//! receives a broadcast at the first port, and sends it by the second:
//!
//! ```
//! use engine::command::{Command, NetworkConfig, PortConfig, PortId, Role, VlanPolicy, Vni};
//! use engine::forward::Switch;
//! use engine::frame::{Batch, FramePool, HeapPool};
//! use engine::time::{Duration, Instant};
//! use engine::wire::mac::MacAddr;
//!
//! let (now, vni) = (Instant::ZERO, Vni::new(100).unwrap());
//! let (mut switch, mut pool) = (Switch::new(1), HeapPool::new(64, 4));
//! let network = NetworkConfig {
//!     vni,
//!     gateways: vec![],
//!     router_mac: MacAddr([2, 0x69, 0x76, 0, 0, 1]),
//!     fdb_max: 1024,
//!     fdb_age: Duration::from_secs(300),
//!     mss_clamp: true,
//!     dhcp: None,
//! };
//! switch.apply(now, Command::SetNetwork(network), &mut pool);
//! for id in [PortId(1), PortId(2)] {
//!     let port = PortConfig {
//!         vni: Some(vni),
//!         role: Role::Door,
//!         live: true,
//!         mtu: 1500,
//!         vlan: VlanPolicy::Transparent,
//!         binding: Box::default(),
//!         bum_pps: None,
//!         fdb_max: 1024,
//!         policy: Box::default(),
//!     };
//!     switch.apply(now, Command::SetPort(id, port), &mut pool);
//! }
//!
//! let mut broadcast = [0xff; 60];
//! broadcast[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 7, 0x88, 0xb5]); // source MAC and EtherType
//! let mut batch = Batch::new();
//! batch.push(pool.alloc_from(&broadcast).unwrap());
//! switch.forward(now, PortId(1), &mut batch, &mut pool);
//!
//! let mut sent = Vec::new();
//! switch.flush(PortId(2), &mut pool, |pool, queue| {
//!     for frame in queue.drain(..) {
//!         sent.push(pool.bytes(&frame).to_vec());
//!         pool.free(frame);
//!     }
//!     Ok(())
//! });
//! assert_eq!(sent, [broadcast]);
//! assert!(switch.counters().conserved());
//! ```
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
pub mod tunnel;
pub mod watch;
pub mod wire;
pub mod worker;
