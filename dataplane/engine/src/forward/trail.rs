//! The listener of `classify`, and of a port's policy before and behind it: nothing on the path, every step for `trace`.

use alloc::vec::Vec;

use super::verdict::{Refusal, Verdict};
use crate::command::{FloatingId, Location, NextHop, PeerId, PortId, Vni};
use crate::watch::Walk;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// A step of `classify` or of a port's policy, with what decided it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The frame was admitted to this network and VLAN.
    Admitted(Vni, u16),
    /// It came through the tunnel from this peer.
    Tunnel(PeerId, Vni),
    /// It is for the virtual gateway: routed, not switched.
    Routed,
    /// A floating IP's mapping translates it to this address.
    Floating(FloatingId, Ip),
    /// A source route sends it on.
    SourceRoute(NextHop),
    /// The FDB knows the destination.
    Fdb(MacAddr, Location),
    /// The FDB does not know the destination.
    FdbMiss(MacAddr),
    /// The underlay's next hop for this destination.
    Underlay(Ip),
    /// Its sender is told why it is not forwarded, from this address.
    Told(Refusal, Ip),
    /// It goes on in fragments of at most so many bytes.
    Fragmented(u16),
    /// A port's rate limit, on the way in or out.
    Limit {
        /// Whose.
        port: PortId,
        /// On the way out.
        leaving: bool,
        /// It passes.
        within: bool,
    },
    /// A port's mirror, on the way in or out.
    Mirror {
        /// Whose.
        port: PortId,
        /// Where the copy goes.
        tap: PortId,
        /// On the way out.
        leaving: bool,
        /// There was room for it.
        copied: bool,
    },
}

/// Listens to `classify`.
pub trait Trail {
    /// Told of a step; the closure makes it only if somebody listens.
    fn step(&mut self, step: impl FnOnce() -> Step);

    /// Told of the end.
    fn decided(&mut self, _: &Verdict) {}
}

/// Nobody listens; the compiler removes the calls.
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
