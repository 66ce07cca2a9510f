//! What `classify` decides about a frame, for `act` to apply.

use crate::command::{FloatingId, PeerId, PortId, Vni};
use crate::counters::DropReason;
use crate::table::port::TagEdit;
use crate::wire::checksum::Delta;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// A decision: how the frame is changed and where it goes. `Copy`, and no list to interpret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Changes, applied in the order of the fields.
    pub edits: Edits,
    /// Output.
    pub out: Out,
    /// The network on which it leaves; that of the ingress unless a floating IP moved it to another.
    pub vni: Vni,
    /// Its VLAN inside that network, 0 without.
    pub vid: u16,
}

/// Changes to a frame. Decapsulation comes before them and follows from the headers; encapsulation comes
/// after them and follows from the output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Edits {
    /// Congestion Experienced was marked on the outer header: mark the inner one (RFC 6040 §4.2).
    pub ecn: Option<u8>,
    /// One address becomes another.
    pub nat: Option<NatRewrite>,
    /// Routed: these MACs, and one hop less.
    pub route: Option<Route>,
    /// The tag on the way in.
    pub tag: TagEdit,
}

/// A 1:1 translation of one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatRewrite {
    /// The mapping, for its counters.
    pub id: FloatingId,
    /// Source (outbound) or destination.
    pub source: bool,
    /// The new address.
    pub address: Ip,
    /// Its difference to the old one.
    pub delta: Delta,
}

/// New Ethernet addresses of a routed packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The next hop's.
    pub dst: MacAddr,
    /// Ours.
    pub src: MacAddr,
    /// The mapping that it follows without being translated, for its counters.
    pub id: Option<FloatingId>,
}

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Out {
    /// To a port of this rVM (the uplink included, for a translated packet).
    Port(PortId),
    /// To a peer, encapsulated.
    Peer(PeerId),
    /// To every port and peer of the network that may have it.
    Flood,
    /// Back where it came from, turned into the answer.
    Hairpin(Responder),
    /// To the kernel.
    Punt,
    /// For the switch itself; read by `learn` already.
    Consume,
    /// Nowhere.
    Drop(DropReason),
    /// Nowhere, and its sender is told.
    Refuse(DropReason, Refusal),
}

/// What a router tells the sender of a packet that it does not forward: an ICMP error (RFC 792, RFC 1812 §5.2.7;
/// RFC 4443 §3) or, of a connection to the router itself, a TCP reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The hop limit ends here.
    TimeExceeded,
    /// There is no route.
    NoRoute,
    /// The next hop does not answer.
    HostUnreachable,
    /// The operator does not want it.
    Prohibited,
    /// Nobody listens at that port.
    PortUnreachable,
    /// The destination does not speak the protocol.
    ProtocolUnreachable,
    /// Nobody listens at that TCP port.
    Reset,
    /// The output carries so many bytes at most.
    TooBig(u16),
}

/// Number of kinds of [`Refusal`].
pub const REFUSAL_KINDS: usize = 8;

impl Refusal {
    /// The kinds' names in metrics and status, by their number.
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

/// Who answers in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Responder {
    /// ARP reply from this MAC.
    Arp(MacAddr),
    /// Neighbor advertisement from this MAC.
    Nd(MacAddr),
    /// Echo reply.
    Echo,
    /// The guest's address and what goes with it (`dhcp`).
    Dhcp {
        /// Boot servers are asked too: the question goes on to where they may be.
        boots: bool,
    },
}

impl Verdict {
    /// Dropped for this reason.
    #[must_use]
    pub const fn drop(vni: Vni, reason: DropReason) -> Self {
        Self { edits: Edits::NONE, out: Out::Drop(reason), vni, vid: 0 }
    }

    /// Dropped for this reason, and its sender is told.
    #[must_use]
    pub const fn refuse(vni: Vni, reason: DropReason, what: Refusal) -> Self {
        Self { edits: Edits::NONE, out: Out::Refuse(reason, what), vni, vid: 0 }
    }
}

impl Edits {
    /// No change.
    pub const NONE: Self = Self { ecn: None, nat: None, route: None, tag: TagEdit::Keep };
}
