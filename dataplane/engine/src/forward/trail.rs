//! The listener of `classify`, and of a port's policy before and after it. It does nothing on the fast path,
//! and records every step for `trace`.

use alloc::vec::Vec;

use super::verdict::{Refusal, Verdict};
use crate::command::{FloatingId, Location, NextHop, PeerId, PortId, Vni};
use crate::watch::Walk;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// A step of `classify` or of a port's policy, with its basis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The frame was admitted to this network and VLAN.
    Admitted(Vni, u16),
    /// The frame came through the tunnel from this peer.
    Tunnel(PeerId, Vni),
    /// The frame is for the virtual gateway: routed, not switched.
    Routed,
    /// A floating IP's mapping translates it to this address.
    Floating(FloatingId, Ip),
    /// A source route determines the next hop.
    SourceRoute(NextHop),
    /// The FDB knows the destination.
    Fdb(MacAddr, Location),
    /// The FDB does not know the destination.
    FdbMiss(MacAddr),
    /// The underlay's next hop for this destination.
    Underlay(Ip),
    /// The sender gets an error, from this address.
    Told(Refusal, Ip),
    /// The packet goes on in fragments of at most this many bytes.
    Fragmented(u16),
    /// A port's rate limit, on ingress or egress.
    Limit {
        /// The port.
        port: PortId,
        /// Whether on egress.
        leaving: bool,
        /// Whether the frame is within the limit.
        within: bool,
    },
    /// A port's mirror, on ingress or egress.
    Mirror {
        /// The port.
        port: PortId,
        /// The mirror target.
        tap: PortId,
        /// Whether on egress.
        leaving: bool,
        /// Whether the copy succeeded.
        copied: bool,
    },
}

/// Listens to `classify`.
pub trait Trail {
    /// Receives a step. An inactive listener does not call the closure.
    fn step(&mut self, step: impl FnOnce() -> Step);

    /// Receives the final verdict.
    fn decided(&mut self, _: &Verdict) {}
}

/// The inactive listener; the compiler removes the calls.
impl Trail for () {
    #[inline]
    fn step(&mut self, _: impl FnOnce() -> Step) {}
}

impl Trail for Vec<Step> {
    fn step(&mut self, step: impl FnOnce() -> Step) {
        self.push(step());
    }
}

impl Trail for Walk {
    fn step(&mut self, step: impl FnOnce() -> Step) {
        self.steps.push(step());
    }

    fn decided(&mut self, verdict: &Verdict) {
        self.verdict = Some(*verdict);
    }
}
