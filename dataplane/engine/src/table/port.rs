//! The port table.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::command::{Binding, Cut, IpPrefix, LinkLocalRule, PortConfig, PortId, Role, VlanPolicy, Vni};
use crate::counters::{DropReason, PortCounters};
use crate::frame::Frame;
use crate::limits::{PORTS_MAX, TX_QUEUE_LEN};
use crate::port::PortCaps;
use crate::table::link_local::LinkLocals;
use crate::table::network::NetId;
use crate::table::policer::Policer;
use crate::time::Instant;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// Maps a `PortId` to everything about the port that a frame needs. Dense. Only commands write it, apart from
/// counters, the transmit queue and the buckets of its limits.
#[derive(Debug, Default)]
pub struct PortTable {
    ports: Vec<Option<Box<PortEntry>>>,
    /// Whether any port permits claims of opaque link-local addresses.
    any_claims: bool,
}

/// One port.
#[derive(Debug)]
pub struct PortEntry {
    /// The configuration.
    pub config: PortConfig,
    /// The port's network, once that exists.
    pub net: Option<NetId>,
    /// The offloads of the port's I/O.
    pub caps: PortCaps,
    /// The port's VLAN rules, ready to test.
    pub vlan: VlanRules,
    /// The opaque link-local addresses of the port's guest.
    pub link_locals: LinkLocals,
    /// The limit for broadcast, multicast and unknown unicast.
    pub bum: TokenBucket,
    /// The limit for incoming frames.
    pub ingress: Option<Box<Policer>>,
    /// The limit for outgoing frames.
    pub egress: Option<Box<Policer>>,
    /// Whether a policy applies to incoming frames before the pipeline.
    pub gated: bool,
    /// Earliest time of the next report of a BPDU.
    pub next_bpdu: Instant,
    /// The port's counters.
    pub counters: PortCounters,
    /// Frames waiting for the flush.
    pub queue: Vec<Frame>,
}

impl PortTable {
    /// The port with this number.
    #[inline]
    #[must_use]
    pub fn get(&self, id: PortId) -> Option<&PortEntry> {
        self.ports.get(usize::from(id.0))?.as_deref()
    }

    /// Mutable access to the port with this number.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, id: PortId) -> Option<&mut PortEntry> {
        self.ports.get_mut(usize::from(id.0))?.as_deref_mut()
    }

    /// Creates or changes a port. Returns false when `id` is beyond [`PORTS_MAX`].
    pub fn set(&mut self, now: Instant, id: PortId, config: PortConfig) -> bool {
        let at = usize::from(id.0);
        if at >= PORTS_MAX {
            return false;
        }
        if self.ports.len() <= at {
            self.ports.resize_with(at + 1, || None);
        }
        let vlan = VlanRules::new(&config.vlan);
        let bum = TokenBucket::new(now, config.bum_pps);
        match &mut self.ports[at] {
            Some(port) => {
                if port.config.bum_pps != config.bum_pps {
                    port.bum = bum;
                }
                port.vlan = vlan;
                // An unchanged limit keeps its bucket, so that a repeated setting does not refill it.
                let (old, new) = (&port.config.policy, &config.policy);
                if old.ingress != new.ingress {
                    port.ingress = Policer::new(now, new.ingress);
                }
                if old.egress != new.egress {
                    port.egress = Policer::new(now, new.egress);
                }
                port.gated = port.ingress.is_some() || new.mirror.is_some();
                // The port may have another guest now.
                if !config.live || port.config.vni != config.vni || port.config.binding != config.binding {
                    port.link_locals = LinkLocals::default();
                }
                port.config = config;
            }
            empty => {
                *empty = Some(Box::new(PortEntry {
                    ingress: Policer::new(now, config.policy.ingress),
                    egress: Policer::new(now, config.policy.egress),
                    gated: config.policy.ingress.is_limit() || config.policy.mirror.is_some(),
                    next_bpdu: now,
                    link_locals: LinkLocals::default(),
                    config,
                    net: None,
                    caps: PortCaps::default(),
                    vlan,
                    bum,
                    counters: PortCounters::default(),
                    queue: Vec::with_capacity(TX_QUEUE_LEN),
                }));
            }
        }
        self.any_claims = self.ports.iter().flatten().any(|port| port.takes_claims());
        true
    }

    /// Removes a port. The caller has to free its queued frames.
    pub fn remove(&mut self, id: PortId) -> Option<Box<PortEntry>> {
        self.ports.get_mut(usize::from(id.0))?.take()
    }

    /// Every port with its number.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &PortEntry)> {
        self.ports.iter().enumerate().filter_map(|(i, p)| Some((PortId(i as u16), p.as_deref()?)))
    }

    /// Mutable access to every port.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut PortEntry> {
        self.ports.iter_mut().filter_map(Option::as_deref_mut)
    }

    /// Whether any port permits claims of opaque link-local addresses.
    #[inline]
    #[must_use]
    pub const fn any_claims(&self) -> bool {
        self.any_claims
    }

    /// A copy of the table with empty queues, since frames cannot be copied.
    #[must_use]
    pub fn fork(&self) -> Self {
        let fork = |port: &Option<Box<PortEntry>>| port.as_deref().map(|port| Box::new(port.fork()));
        Self { ports: self.ports.iter().map(fork).collect(), any_claims: self.any_claims }
    }

    /// Upper bound of the port numbers in use, exclusive.
    #[must_use]
    pub fn bound(&self) -> u16 {
        self.ports.len() as u16
    }
}

impl PortEntry {
    fn fork(&self) -> Self {
        Self {
            config: self.config.clone(),
            net: self.net,
            caps: self.caps,
            vlan: self.vlan.clone(),
            link_locals: self.link_locals.clone(),
            bum: self.bum.clone(),
            ingress: self.ingress.clone(),
            egress: self.egress.clone(),
            gated: self.gated,
            next_bpdu: self.next_bpdu,
            counters: self.counters.clone(),
            queue: Vec::new(),
        }
    }

    /// Counts a drop of a frame that came in at this port or, for transmit reasons, was to leave by this port.
    pub fn count_drop(&mut self, reason: DropReason) {
        self.counters.drops[reason as usize] += 1;
    }

    /// The network, if the port is a member of one and may forward.
    #[must_use]
    pub fn live_member(&self) -> Option<Vni> {
        if self.config.live && self.config.role != Role::Uplink { self.config.vni } else { None }
    }

    /// Whether a policy applies to outgoing frames after the pipeline.
    #[must_use]
    pub fn is_gated_leaving(&self) -> bool {
        self.egress.is_some() || self.config.policy.mirror.is_some()
    }

    /// Whether every frame from and to this port needs the pipeline, so that the kernel offload may take
    /// none.
    #[must_use]
    pub fn needs_walk(&self) -> bool {
        self.gated || self.is_gated_leaving()
    }

    /// Why no frame may come in at a port that is not live or joins no network.
    #[must_use]
    pub fn why_closed(&self) -> DropReason {
        match self.config.policy.cut {
            Some(Cut::Quarantine) => DropReason::Quarantined,
            Some(Cut::ErrDisabled) => DropReason::ErrDisabled,
            None if self.config.policy.tap => DropReason::MirrorTarget,
            None => DropReason::PortNotLive,
        }
    }

    /// Why no frame may leave by the port.
    #[must_use]
    pub fn why_no_way_out(&self) -> DropReason {
        match self.why_closed() {
            cut @ (DropReason::Quarantined | DropReason::ErrDisabled) => cut,
            _ => DropReason::EgressNotLive,
        }
    }

    /// Whether the guest iVM may use this source MAC.
    #[must_use]
    pub fn binds_mac(&self, mac: MacAddr) -> bool {
        self.config.binding.macs.contains(&mac)
    }

    /// Whether the configuration lets the guest iVM use this address. Without bound addresses, any address
    /// that a host may have.
    #[must_use]
    pub fn binds_ip(&self, ip: Ip) -> bool {
        let Binding { macs, ips, shared_ips, .. } = &*self.config.binding;
        if ips.is_empty() {
            return ip.is_host();
        }
        let addr = ip.into();
        ips.iter().chain(shared_ips).any(|prefix| prefix.contains(addr))
            || ip.is_v6_link_local() && macs.iter().any(|&mac| ip == Ip::v6(mac.link_local()))
    }

    /// Whether the port permits claims of opaque link-local addresses.
    #[must_use]
    pub fn takes_claims(&self) -> bool {
        let binding = &self.config.binding;
        self.config.role == Role::Guest
            && binding.link_local == LinkLocalRule::Opaque
            && !binding.ips.is_empty()
    }

    /// Whether this very address belongs to a station here: listed, derived from one of its MACs, or claimed.
    #[must_use]
    pub fn is_owner(&self, ip: Ip) -> bool {
        self.is_configured_owner(ip) || self.link_locals.knows(ip)
    }

    /// Like [`PortEntry::is_owner`], by the configuration alone.
    #[must_use]
    pub fn is_configured_owner(&self, ip: Ip) -> bool {
        let Binding { macs, ips, shared_ips, .. } = &*self.config.binding;
        let host = IpPrefix::host(ip.into());
        ips.iter().chain(shared_ips).any(|prefix| *prefix == host)
            || macs.iter().any(|&mac| ip == Ip::v6(mac.link_local()))
    }
}

/// A port's VLAN policy, ready to test.
#[derive(Clone, Debug)]
pub enum VlanRules {
    /// Every tag passes.
    Transparent,
    /// Untagged outside, this VLAN inside.
    Access(u16),
    /// These VLANs tagged; untagged frames outside belong to the native VLAN inside.
    Trunk(Box<[u64; 64]>, Option<u16>),
}

/// The edit of a frame's tag on ingress or egress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TagEdit {
    /// No edit.
    #[default]
    Keep,
    /// Push this tag in front.
    Push(u16),
    /// Replace the VID of a priority tag (VID 0).
    Retag(u16),
    /// Pop the outermost tag.
    Pop,
}

impl VlanRules {
    fn new(policy: &VlanPolicy) -> Self {
        match policy {
            VlanPolicy::Transparent => Self::Transparent,
            VlanPolicy::Access(vid) => Self::Access(*vid),
            VlanPolicy::Trunk { tagged, native } => {
                let mut bits = Box::new([0u64; 64]);
                for &vid in tagged {
                    bits[usize::from(vid & 0xfff) / 64] |= 1 << (vid % 64);
                }
                Self::Trunk(bits, *native)
            }
        }
    }

    /// Whether the port has a VLAN policy.
    #[inline]
    #[must_use]
    pub const fn is_set(&self) -> bool {
        !matches!(self, Self::Transparent)
    }

    /// The inside VLAN of a frame from this port with this outermost tag, and the edit for it. `None`: not
    /// allowed.
    #[inline]
    #[must_use]
    pub fn ingress(&self, tagged: bool, vid: u16) -> Option<(u16, TagEdit)> {
        let priority = |inside| if tagged { TagEdit::Retag(inside) } else { TagEdit::Push(inside) };
        match self {
            Self::Transparent => Some((vid, TagEdit::Keep)),
            Self::Access(own) => (vid == 0).then(|| (*own, priority(*own))),
            Self::Trunk(_, native) if vid == 0 => native.map(|n| (n, priority(n))),
            Self::Trunk(bits, _) => {
                (bits[usize::from(vid) / 64] >> (vid % 64) & 1 == 1).then_some((vid, TagEdit::Keep))
            }
        }
    }

    /// The edit for a frame of inside VLAN `vid` (0: untagged) that leaves by this port. `None`: not allowed.
    #[inline]
    #[must_use]
    pub fn egress(&self, vid: u16) -> Option<TagEdit> {
        match self {
            Self::Transparent => Some(TagEdit::Keep),
            Self::Access(own) => (*own == vid).then_some(TagEdit::Pop),
            Self::Trunk(_, Some(native)) if *native == vid && vid != 0 => Some(TagEdit::Pop),
            Self::Trunk(bits, _) => {
                (vid != 0 && bits[usize::from(vid) / 64] >> (vid % 64) & 1 == 1).then_some(TagEdit::Keep)
            }
        }
    }
}

/// A token bucket: `pps` frames per second, with a burst of a quarter of a second's worth.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    ns_per_token: u64,
    depth_ns: u64,
    level_ns: u64,
    filled: Instant,
}

impl TokenBucket {
    /// Creates a full bucket; with `None` it is never empty.
    #[must_use]
    pub fn new(now: Instant, pps: Option<u32>) -> Self {
        let ns_per_token = pps.map_or(0, |pps| 1_000_000_000 / u64::from(pps.max(1)));
        let depth_ns = 250_000_000.max(ns_per_token);
        Self { ns_per_token, depth_ns, level_ns: depth_ns, filled: now }
    }

    /// Takes one token. Returns false when the bucket is empty.
    #[inline]
    pub fn take(&mut self, now: Instant) -> bool {
        if self.ns_per_token == 0 {
            return true;
        }
        let elapsed = now.as_nanos().saturating_sub(self.filled.as_nanos());
        self.filled = now;
        self.level_ns = self.level_ns.saturating_add(elapsed).min(self.depth_ns);
        if self.level_ns < self.ns_per_token {
            return false;
        }
        self.level_ns -= self.ns_per_token;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use alloc::vec;

    #[test]
    fn vlan_rules() {
        let access = VlanRules::new(&VlanPolicy::Access(10));
        assert_eq!(access.ingress(false, 0), Some((10, TagEdit::Push(10))));
        assert_eq!(access.ingress(true, 0), Some((10, TagEdit::Retag(10))));
        assert_eq!(access.ingress(true, 10), None, "a tag is refused even when it names the right VLAN");
        assert_eq!(access.egress(10), Some(TagEdit::Pop));
        assert_eq!(access.egress(0), None);
        let trunk = VlanRules::new(&VlanPolicy::Trunk { tagged: vec![10, 4094], native: Some(1) });
        assert_eq!(trunk.ingress(true, 4094), Some((4094, TagEdit::Keep)));
        assert_eq!(trunk.ingress(true, 11), None);
        assert_eq!(trunk.ingress(false, 0), Some((1, TagEdit::Push(1))));
        assert_eq!(trunk.egress(1), Some(TagEdit::Pop));
        assert_eq!(trunk.egress(10), Some(TagEdit::Keep));
        assert_eq!(trunk.egress(0), None);
        let bare = VlanRules::new(&VlanPolicy::Trunk { tagged: vec![10], native: None });
        assert_eq!(bare.ingress(false, 0), None);
    }

    #[test]
    fn bucket() {
        let t = Instant::from_millis(1);
        let mut bucket = TokenBucket::new(t, Some(100));
        assert_eq!((0..1000).filter(|_| bucket.take(t)).count(), 25);
        assert_eq!((0..1000).filter(|_| bucket.take(t + Duration::from_millis(100))).count(), 10);
        let mut slow = TokenBucket::new(t, Some(1));
        assert!(slow.take(t) && !slow.take(t));
        let mut open = TokenBucket::new(t, None);
        assert!((0..1000).all(|_| open.take(t)));
    }
}
