//! Connections of the rVM's own kernel on addresses that it shares with floating IPs, as the uplink's driver
//! knows them.
//!
//! The switch's NAT keeps ports, so an iVM may choose the same five-tuple as a connection of the kernel. The
//! answers then belong to the kernel (steering leaves them to it). The iVM's packets must not go out either:
//! the far end would take them for the kernel's.

use core::fmt::Debug;

use crate::wire::ip::Ip;

/// A connection over TCP or UDP, by its five-tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnFlow {
    /// Address of the far end.
    pub remote: Ip,
    /// Port of the far end.
    pub remote_port: u16,
    /// The shared local address.
    pub local: Ip,
    /// The local port.
    pub local_port: u16,
    /// IP protocol.
    pub proto: u8,
}

/// Knows the kernel's connections. The slow path asks it about packets that leave by NAT.
pub trait OwnFlows: Send + Sync + Debug {
    /// Whether the kernel has recently sent a packet of this connection.
    fn holds(&self, flow: &OwnFlow) -> bool;
}
