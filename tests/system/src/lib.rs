//! The foundation of the system tests: network namespaces, the daemon in them, traffic, captures.
//!
//! A [`Lab`] owns namespaces and a directory, and removes everything when it is dropped, also after
//! a panic. Only one lab exists at a time in a process, so that tests never compete for the two cores they are
//! given. Every wait has a condition ([`wait_for`]) rather than a fixed time.
//!
//! The peer of the switch in a test is the kernel: its bridge, its `vxlan`, its TCP, its NAT.

mod capture;
mod guest;
mod lab;
mod libvirt;
mod manager;
mod raw;
mod soak;
mod stream;
mod switch;
mod traffic;

pub use capture::Capture;
pub use guest::{Guest, GuestSpec, Nic, RvmKernel, RvmSpec, rvm_image};
pub use lab::{Lab, Namespace, wait_for, wait_until};
pub use libvirt::{BOOT, GuestShell, Libvirt, bind_script, guest_image};
pub use manager::Manager;
pub use raw::{RawSocket, udp_frame, vxlan};
pub use soak::rounds;
pub use stream::{Report, Stream};
pub use switch::{Answer, Switch, assert_conserved, binaries};
pub use traffic::{Session, transfer, try_transfer};
