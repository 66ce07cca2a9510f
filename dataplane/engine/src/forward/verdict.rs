//! The decision of `classify` about a frame, for `act` to apply.

use crate::command::{FloatingId, PeerId, PortId, Vni};
use crate::counters::DropReason;
use crate::table::port::TagEdit;
use crate::wire::checksum::Delta;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// A decision: the edits of the frame and its output. `Copy`, without lists to interpret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Edits, applied in the order of the fields.
    pub edits: Edits,
    /// The output.
    pub out: Out,
    /// The network on which the frame leaves: that of the ingress unless a floating IP moved the frame to
    /// another.
    pub vni: Vni,
    /// The VLAN inside that network, 0 without.
    pub vid: u16,
}

/// Changes to a frame. Decapsulation comes before them and depends on the headers; encapsulation comes after
/// them and depends on the output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Edits {
    /// The new inner ECN field. Set when Congestion Experienced was marked on the outer header (RFC 6040
    /// §4.2).
    pub ecn: Option<u8>,
    /// Translates one address.
    pub nat: Option<NatRewrite>,
    /// Routes the packet: sets these MACs and decrements the hop limit.
    pub route: Option<Route>,
    /// The edit of the VLAN tag on ingress.
    pub tag: TagEdit,
}

/// A 1:1 translation of one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatRewrite {
    /// The mapping, for its counters.
    pub id: FloatingId,
    /// Whether it replaces the source (outbound) or the destination.
    pub source: bool,
    /// The new address.
    pub address: Ip,
    /// The difference between the new and the old address, for checksums.
    pub delta: Delta,
}

/// New Ethernet addresses of a routed packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The next hop's MAC.
    pub dst: MacAddr,
    /// The switch's MAC.
    pub src: MacAddr,
    /// The mapping whose counters increase, for a packet that follows a mapping without translation.
    pub id: Option<FloatingId>,
}

/// The output of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Out {
    /// To a port of this rVM (the uplink included, for a translated packet).
    Port(PortId),
    /// To a peer, encapsulated.
    Peer(PeerId),
    /// To every permitted port and peer of the network.
    Flood,
    /// Back to the sender, rewritten as the answer.
    Hairpin(Responder),
    /// To the kernel.
    Punt,
    /// For the switch itself; `learn` has already read it.
    Consume,
    /// Dropped.
    Drop(DropReason),
    /// Dropped, and the sender gets an error.
    Refuse(DropReason, Refusal),
}

/// The errors that a router sends about a packet that it does not forward: an ICMP error (RFC 792, RFC 1812
/// §5.2.7; RFC 4443 §3) or, for a connection to the router itself, a TCP reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The hop limit ends here.
    TimeExceeded,
    /// The router has no route.
    NoRoute,
    /// The next hop does not answer.
    HostUnreachable,
    /// The operator prohibits it.
    Prohibited,
    /// The destination does not serve the port.
    PortUnreachable,
    /// The destination does not support the protocol.
    ProtocolUnreachable,
    /// The destination does not serve the TCP port.
    Reset,
    /// The output carries at most this many bytes.
    TooBig(u16),
}

/// Number of kinds of [`Refusal`].
pub const REFUSAL_KINDS: usize = 8;

impl Refusal {
    /// Names of the kinds in metrics and status, by their number.
    pub const KINDS: [&'static str; REFUSAL_KINDS] = [
        "time-exceeded",
        "no-route",
        "host-unreachable",
        "prohibited",
        "port-unreachable",
        "protocol-unreachable",
        "tcp-reset",
        "too-big",
    ];

    /// The kind's number.
    #[must_use]
    pub const fn kind(self) -> usize {
        match self {
            Self::TimeExceeded => 0,
            Self::NoRoute => 1,
            Self::HostUnreachable => 2,
            Self::Prohibited => 3,
            Self::PortUnreachable => 4,
            Self::ProtocolUnreachable => 5,
            Self::Reset => 6,
            Self::TooBig(_) => 7,
        }
    }
}

/// The kind of answer that the switch gives itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Responder {
    /// ARP reply from this MAC.
    Arp(MacAddr),
    /// Neighbor advertisement from this MAC.
    Nd(MacAddr),
    /// Echo reply.
    Echo,
    /// A DHCP answer with the guest's address and options (`dhcp`).
    Dhcp {
        /// Whether boot servers also get the question.
        boots: bool,
    },
}

impl Verdict {
    /// Drops the frame for this reason.
    #[must_use]
    pub const fn drop(vni: Vni, reason: DropReason) -> Self {
        Self { edits: Edits::NONE, out: Out::Drop(reason), vni, vid: 0 }
    }

    /// Drops the frame for this reason, and tells its sender.
    #[must_use]
    pub const fn refuse(vni: Vni, reason: DropReason, what: Refusal) -> Self {
        Self { edits: Edits::NONE, out: Out::Refuse(reason, what), vni, vid: 0 }
    }
}

impl Edits {
    /// No edits.
    pub const NONE: Self = Self { ecn: None, nat: None, route: None, tag: TagEdit::Keep };
}
