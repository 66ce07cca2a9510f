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
    Dhcp,
}

impl Verdict {
    /// Dropped for this reason.
    #[must_use]
    pub const fn drop(vni: Vni, reason: DropReason) -> Self {
        Self { edits: Edits::NONE, out: Out::Drop(reason), vni, vid: 0 }
    }
}

impl Edits {
    /// No change.
    pub const NONE: Self = Self { ecn: None, nat: None, route: None, tag: TagEdit::Keep };
}
