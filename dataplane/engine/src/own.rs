//! Flows of the rVM's own kernel on addresses that floating IPs share with it, as the uplink's driver knows them.
//!
//! Our NAT keeps ports, so an iVM may choose the very five-tuple of a connection of the kernel's. The answers are the
//! kernel's then (steering leaves them to it). Its packets must not go out either: to the far end they would be the
//! kernel's own words.

use core::fmt::Debug;

use crate::wire::ip::Ip;

/// A flow by TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnFlow {
    /// Far end.
    pub remote: Ip,
    /// Its port.
    pub remote_port: u16,
    /// The address that is shared.
    pub local: Ip,
    /// The port there.
    pub local_port: u16,
    /// IP protocol.
    pub proto: u8,
}

/// Who knows the kernel's flows. Asked on the slow path, about packets that leave by NAT.
pub trait OwnFlows: Send + Debug {
    /// Whether the kernel has sent in this flow lately.
    fn holds(&self, flow: &OwnFlow) -> bool;
}
