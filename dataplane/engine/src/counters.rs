//! Every frame is accounted for:
//! `rx + replicated + originated + segmented = tx + dropped + punted + consumed + coalesced`.
//!
//! A GSO packet is one frame. Its segmentation into n segments adds n - 1 frames (`segmented`), whether they are
//! then sent, or dropped because slots or queue places are missing. When n segments are coalesced, n - 1 are gone
//! (`coalesced`). A tunnel GSO packet that is unpacked into n packets, some of which are coalesced again, counts the
//! same way.
//!
//! Both workers count a frame that one hands off and the other takes over, so the law holds for every worker and for
//! their sum, at any time.

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

            /// The meaning of the reason, for people.
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
    /// The frame is shorter than an Ethernet header.
    Runt = "runt",
    /// The frame is longer than the ingress port's MTU allows.
    Giant = "giant",
    /// The source MAC is a group address or zero.
    SourceMacInvalid = "source-mac-invalid",
    /// The source MAC is one of the switch's own.
    SourceMacOurs = "source-mac-ours",
    /// The source MAC is not bound to this guest port.
    SpoofedMac = "spoofed-mac",
    /// The source IP is not bound to this guest port.
    SpoofedIp = "spoofed-ip",
    /// An address that an ARP or Neighbor Discovery message claims is not bound to this guest port.
    SpoofedNeighbor = "spoofed-neighbor",
    /// A guest port sent a message of a DHCP server, a DHCP relay or a boot server.
    DhcpServerGuard = "dhcp-server-guard",
    /// A guest port sent an IPv4 or IPv6 router advertisement or redirect.
    RaGuard = "ra-guard",
    /// A guest port sent a query of its segment's querier (IGMP or MLD) or a message of a multicast router
    /// (PIM, DVMRP, RFC 4286).
    QuerierGuard = "querier-guard",
    /// A guest port sent a fragment that hides its packet's headers, or fragmented a message that must be
    /// whole (Neighbor Discovery).
    FragmentGuard = "fragment-guard",
    /// A guest port sent an IEEE 802.2 (LLC, SNAP) frame. Some receivers accept IP in these, past every other
    /// guard.
    LlcGuard = "llc-guard",
    /// A guest port sent a malformed DHCP message, or one that does not ask for the guest itself.
    DhcpMalformed = "dhcp-malformed",
    /// The destination is 01-80-C2-00-00-0x, which no bridge forwards; or a guest port sent to another group
    /// of bridges, or LACP or LLDP.
    LinkLocalGroup = "link-local-group",
    /// The VLAN tag is not allowed on the ingress port.
    VlanNotAllowed = "vlan-not-allowed",
    /// The destination is behind the ingress port itself.
    SamePort = "same-port",
    /// The network has no other port or peer to flood to, or the only output is not allowed (split horizon,
    /// VLAN).
    NoDestination = "no-destination",
    /// The ingress port exceeds its limit for broadcast, multicast and unknown unicast.
    BumRateLimit = "bum-rate-limit",
    /// The underlay frame is not addressed to our NIC.
    NotOurMac = "not-our-mac",
    /// The underlay packet is neither a tunnel packet nor for a floating IP.
    NotOurs = "not-ours",
    /// The outer headers of a tunnel packet are malformed or truncated.
    OuterMalformed = "outer-malformed",
    /// The outer packet is a fragment.
    OuterFragment = "outer-fragment",
    /// The VXLAN header lacks the I flag or has reserved bits set.
    VxlanHeader = "vxlan-header",
    /// The tunnel packet comes from an address that belongs to no peer.
    UnknownPeer = "unknown-peer",
    /// The VNI is not configured here.
    UnknownVni = "unknown-vni",
    /// The peer does not take part in that VNI.
    PeerNotInVni = "peer-not-in-vni",
    /// The inner frame of a tunnel packet is truncated.
    InnerMalformed = "inner-malformed",
    /// Congestion was marked on the outer header of a packet that cannot carry the mark (RFC 6040 §4.2).
    EcnNotCapable = "ecn-not-capable",
    /// The packet has to be routed or translated but its IP or transport header is malformed.
    IpMalformed = "ip-malformed",
    /// The hop limit has expired.
    TtlExpired = "ttl-expired",
    /// No floating IP or source route matches the packet, or the kernel has no route through the uplink to
    /// its peer or destination.
    NoRoute = "no-route",
    /// The packet is addressed to the virtual gateway itself, which answers echo requests but offers no
    /// service.
    GatewayNoService = "gateway-no-service",
    /// The next hop's MAC is not known yet.
    NeighborUnresolved = "neighbor-unresolved",
    /// A translated packet is addressed to a VTEP, the tunnel port, a management prefix or the metadata
    /// service.
    Guarded = "guarded",
    /// An iVM sent the packet by NAT with the addresses and ports of a connection of the rVM's own kernel.
    OwnConnection = "own-connection",
    /// The floating IP is not mapped for this port or protocol.
    PortNotMapped = "port-not-mapped",
    /// A later fragment for a floating IP with port lists arrived before its first fragment.
    FragmentWithoutFirst = "fragment-without-first",
    /// The destination's peer does not exist.
    PeerGone = "peer-gone",
    /// The destination's port does not exist or is not live.
    EgressNotLive = "egress-not-live",
    /// The packet is longer than the output allows.
    TooBig = "too-big",
    /// The offload facts that came with the frame are impossible.
    OffloadInvalid = "offload-invalid",
    /// The packet needs segmentation or a checksum in headers that the switch cannot read.
    OffloadUnknown = "offload-unknown",
    /// The pool has no free slot for a copy or a longer frame.
    PoolExhausted = "pool-exhausted",
    /// The output's queue is full.
    TxQueueFull = "tx-queue-full",
    /// The output refused the frame.
    TxError = "tx-error",
    /// The tunnel loops: the hop limit of a relayed packet has expired.
    RelayLoop = "relay-loop",
    /// The frame is from or for a port in quarantine.
    Quarantined = "quarantined",
    /// The frame is from or for a port that a guard has disabled.
    ErrDisabled = "err-disabled",
    /// The frame exceeds the port's ingress rate limit.
    IngressRateLimit = "ingress-rate-limit",
    /// The frame exceeds the port's egress rate limit.
    EgressRateLimit = "egress-rate-limit",
    /// The frame came in at a mirror target, which only sends.
    MirrorTarget = "mirror-target",
    /// A mirror's copy could not be delivered: no free slot, the target is not live, or the copy is too long
    /// for it.
    MirrorLost = "mirror-lost",
}

impl DropReason {
    /// Whether the output port counts drops for this reason.
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
    /// Number of frames. A GSO packet is one frame.
    pub frames: u64,
    /// Bytes of the Ethernet frames, inside a tunnel of the inner ones. Segments that arrive coalesced count their
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

/// Counters of one port. The ingress port of a frame counts its drop, except for reasons that belong to the output
/// ([`DropReason::is_of_output`]).
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
    /// Frames dropped for any reason.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }
}

/// Counters of a whole switch. The sums include removed ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SwitchCounters {
    /// Frames taken from ports.
    pub rx: u64,
    /// Copies made for flooding, beyond the first.
    pub replicated: u64,
    /// Frames that the switch made itself (ARP requests, answers that need a new frame).
    pub originated: u64,
    /// Frames made by segmentation of a GSO packet, beyond the first.
    pub segmented: u64,
    /// Frames given to ports.
    pub tx: u64,
    /// Frames dropped.
    pub dropped: u64,
    /// Frames punted to the kernel.
    pub punted: u64,
    /// Frames for the switch itself: answers to its own ARP and ND questions.
    pub consumed: u64,
    /// Frames that became part of another: segments of one flow, coalesced.
    pub coalesced: u64,
    /// Frames waiting in transmit queues now.
    pub queued: u64,
    /// Frames given to another worker, which owns their output port.
    pub handed_off: u64,
    /// Frames taken from another worker, to be sent.
    pub taken_over: u64,
    /// Errors among `originated`, by their kind ([`Refusal::kind`](crate::forward::verdict::Refusal::kind)).
    pub refusals: [u64; REFUSAL_KINDS],
    /// Errors that were due but exceeded the limit.
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
