//! Every frame is accounted for:
//! `rx + replicated + originated + segmented = tx + dropped + punted + consumed + coalesced`.
//!
//! A super-frame is one frame. Cut into n, it has made n - 1 (`segmented`), whether they are then sent or dropped for
//! want of slots or queue; of n that are merged, n - 1 are gone (`coalesced`). A tunnel super-frame that is opened into
//! n packets, of which some runs are merged again, counts the same way.
//!
//! Between workers, what one hands off another takes over; each side counts, so that the law holds for
//! every worker and for their sum, whenever they are asked.

use core::fmt;

use crate::forward::verdict::REFUSAL_KINDS;

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a frame was dropped. Each reason has a counter per port.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)+ }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason's name in counters, metrics and `ivctl drops`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What it means, for people.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)+),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The port is not live: not completely bound, or unknown.
    PortNotLive = "port-not-live",
    /// Shorter than an Ethernet header.
    Runt = "runt",
    /// Longer than the ingress port's MTU allows.
    Giant = "giant",
    /// The source MAC is a group address or zero.
    SourceMacInvalid = "source-mac-invalid",
    /// The source MAC is one of the switch's own.
    SourceMacOurs = "source-mac-ours",
    /// The source MAC is not bound to this guest port.
    SpoofedMac = "spoofed-mac",
    /// The source IP is not bound to this guest port.
    SpoofedIp = "spoofed-ip",
    /// An address that ARP or Neighbor Discovery speaks for is not bound to this guest port.
    SpoofedNeighbor = "spoofed-neighbor",
    /// A guest port spoke as a DHCP server, a DHCP relay or a boot server.
    DhcpServerGuard = "dhcp-server-guard",
    /// A guest port sent a router advertisement or a redirect, of IPv4 or IPv6.
    RaGuard = "ra-guard",
    /// A guest port spoke as the querier of its segment (IGMP or MLD) or as a multicast router (PIM, DVMRP, RFC 4286).
    QuerierGuard = "querier-guard",
    /// A guest port sent a fragment that hides what it is part of, or cut what may not be cut (Neighbor Discovery).
    FragmentGuard = "fragment-guard",
    /// A guest port sent an IEEE 802.2 (LLC, SNAP) frame, in which some receivers take IP past every other guard.
    LlcGuard = "llc-guard",
    /// A guest port sent a DHCP message that is no proper question, or not one for the guest itself.
    DhcpMalformed = "dhcp-malformed",
    /// Destination 01-80-C2-00-00-0x, which no bridge forwards; of a guest port, another group of bridges too, LACP and LLDP.
    LinkLocalGroup = "link-local-group",
    /// The VLAN tag is not allowed on the ingress port.
    VlanNotAllowed = "vlan-not-allowed",
    /// The destination is behind the ingress port itself.
    SamePort = "same-port",
    /// Nobody to flood to, or the only place is not allowed (split horizon, VLAN).
    NoDestination = "no-destination",
    /// Over the ingress port's limit for broadcast, multicast and unknown unicast.
    BumRateLimit = "bum-rate-limit",
    /// The underlay frame is not addressed to our NIC.
    NotOurMac = "not-our-mac",
    /// The underlay packet is neither a tunnel packet nor for a floating IP.
    NotOurs = "not-ours",
    /// The outer headers of a tunnel packet are malformed or cut short.
    OuterMalformed = "outer-malformed",
    /// The outer packet is a fragment.
    OuterFragment = "outer-fragment",
    /// The VXLAN I flag is not set or reserved bits are.
    VxlanHeader = "vxlan-header",
    /// The tunnel packet comes from an address that is no peer's.
    UnknownPeer = "unknown-peer",
    /// The VNI is not configured here.
    UnknownVni = "unknown-vni",
    /// The peer does not take part in that VNI.
    PeerNotInVni = "peer-not-in-vni",
    /// The inner frame of a tunnel packet is cut short.
    InnerMalformed = "inner-malformed",
    /// Congestion was marked on the outer header of a packet that cannot carry the mark (RFC 6040 §4.2).
    EcnNotCapable = "ecn-not-capable",
    /// The packet has to be routed or translated but its IP or transport header is malformed.
    IpMalformed = "ip-malformed",
    /// The hop limit is used up.
    TtlExpired = "ttl-expired",
    /// No floating IP or source route is for it, or the kernel has no route to its peer or destination out of the
    /// uplink.
    NoRoute = "no-route",
    /// Addressed to the virtual gateway itself, which answers echo requests and offers no service.
    GatewayNoService = "gateway-no-service",
    /// The next hop's MAC is not known yet.
    NeighborUnresolved = "neighbor-unresolved",
    /// A translated packet to a VTEP, the tunnel port, a management prefix or the metadata service.
    Guarded = "guarded",
    /// From an iVM by NAT, in a connection that the rVM's own kernel has with the same far end and ports.
    OwnConnection = "own-connection",
    /// Not one of the ports or protocols that the floating IP is mapped for.
    PortNotMapped = "port-not-mapped",
    /// A later fragment for a floating IP with port lists, whose first fragment did not come before it.
    FragmentWithoutFirst = "fragment-without-first",
    /// The peer of the destination is not there.
    PeerGone = "peer-gone",
    /// The port of the destination is not there or not live.
    EgressNotLive = "egress-not-live",
    /// Longer than the output allows.
    TooBig = "too-big",
    /// The offload facts that came with the frame are impossible.
    OffloadInvalid = "offload-invalid",
    /// It needs segmentation or a checksum, in headers that the switch cannot read.
    OffloadUnknown = "offload-unknown",
    /// No free slot for a copy or a longer frame.
    PoolExhausted = "pool-exhausted",
    /// The output's queue is full.
    TxQueueFull = "tx-queue-full",
    /// The output refused it.
    TxError = "tx-error",
    /// The tunnel loops: a relayed packet's hop limit is used up.
    RelayLoop = "relay-loop",
    /// From or for a port in quarantine.
    Quarantined = "quarantined",
    /// From or for a port that a guard has disabled.
    ErrDisabled = "err-disabled",
    /// Over the rate limit of what may come in at the port.
    IngressRateLimit = "ingress-rate-limit",
    /// Over the rate limit of what may leave by the port.
    EgressRateLimit = "egress-rate-limit",
    /// Sent by whoever listens at a mirror's target: nothing is taken from there.
    MirrorTarget = "mirror-target",
    /// A mirror's copy that its target could not have: no slot, not live, or longer than it carries.
    MirrorLost = "mirror-lost",
}

impl DropReason {
    /// Whether it is counted on the port where the frame should have left.
    #[must_use]
    pub const fn is_of_output(self) -> bool {
        matches!(self, Self::TxQueueFull | Self::TxError | Self::EgressRateLimit | Self::MirrorLost)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Number of reasons.
pub const DROP_REASONS: usize = DropReason::ALL.len();

/// Traffic of one direction: frames, and their bytes without outer headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Volume {
    /// Frames. A super-frame is one.
    pub frames: u64,
    /// Bytes of the Ethernet frames, inside the tunnel where there is one. Segments that arrived merged count their
    /// headers once, as the kernel counts them.
    pub bytes: u64,
}

impl Volume {
    /// Counts one frame.
    #[inline]
    pub const fn count(&mut self, bytes: u32) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }
}

impl core::ops::AddAssign for Volume {
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }
}

/// Counters of one port. A drop is counted on the port where the frame came in, but for what is the output's
/// own ([`DropReason::is_of_output`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortCounters {
    /// Frames taken from the port.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames given to the port.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames dropped, by [`DropReason`].
    pub drops: [u64; DROP_REASONS],
}

impl Default for PortCounters {
    fn default() -> Self {
        Self { rx_frames: 0, rx_bytes: 0, tx_frames: 0, tx_bytes: 0, drops: [0; DROP_REASONS] }
    }
}

impl core::ops::AddAssign<&Self> for PortCounters {
    fn add_assign(&mut self, other: &Self) {
        let Self { rx_frames, rx_bytes, tx_frames, tx_bytes, drops } = other;
        self.rx_frames += rx_frames;
        self.rx_bytes += rx_bytes;
        self.tx_frames += tx_frames;
        self.tx_bytes += tx_bytes;
        self.drops.iter_mut().zip(drops).for_each(|(sum, n)| *sum += n);
    }
}

impl PortCounters {
    /// Frames dropped, all reasons.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }
}

/// Counters of a whole switch. Ports that are gone stay in the sums.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SwitchCounters {
    /// Frames taken from ports.
    pub rx: u64,
    /// Copies made for flooding, beyond the first.
    pub replicated: u64,
    /// Frames the switch made itself (ARP requests, answers that need a new frame).
    pub originated: u64,
    /// Frames made by cutting a super-frame, beyond the first.
    pub segmented: u64,
    /// Frames given to ports.
    pub tx: u64,
    /// Frames dropped.
    pub dropped: u64,
    /// Frames handed to the kernel.
    pub punted: u64,
    /// Frames for the switch itself: answers to its own ARP and ND questions.
    pub consumed: u64,
    /// Frames that became part of another: segments of one flow, merged.
    pub coalesced: u64,
    /// Frames waiting in transmit queues now.
    pub queued: u64,
    /// Frames given to another worker, which owns the port they leave by.
    pub handed_off: u64,
    /// Frames taken from another worker, to be sent.
    pub taken_over: u64,
    /// Errors among `originated`, by what they say ([`Refusal::kind`](crate::forward::verdict::Refusal::kind)).
    pub refusals: [u64; REFUSAL_KINDS],
    /// Errors that were due and not sent, for there were too many.
    pub refusals_limited: u64,
}

impl core::ops::AddAssign for SwitchCounters {
    fn add_assign(&mut self, other: Self) {
        let Self {
            rx,
            replicated,
            originated,
            segmented,
            tx,
            dropped,
            punted,
            consumed,
            coalesced,
            queued,
            handed_off,
            taken_over,
            refusals,
            refusals_limited,
        } = other;
        self.rx += rx;
        self.replicated += replicated;
        self.originated += originated;
        self.segmented += segmented;
        self.tx += tx;
        self.dropped += dropped;
        self.punted += punted;
        self.consumed += consumed;
        self.coalesced += coalesced;
        self.queued += queued;
        self.handed_off += handed_off;
        self.taken_over += taken_over;
        self.refusals.iter_mut().zip(refusals).for_each(|(sum, n)| *sum += n);
        self.refusals_limited += refusals_limited;
    }
}

impl SwitchCounters {
    /// The conservation law. False means a frame was lost or counted twice.
    #[must_use]
    pub const fn conserved(&self) -> bool {
        self.rx + self.replicated + self.originated + self.segmented + self.taken_over
            == self.tx
                + self.dropped
                + self.punted
                + self.consumed
                + self.coalesced
                + self.queued
                + self.handed_off
    }
}
