//! Sends a frame to its output: a port's queue, a peer's tunnel, all members of a network, back to the
//! sender, or the kernel.

use super::classify::{Admission, From};
use super::parse::{Headers, Net};
use super::trail::{Step, Trail};
use super::verdict::{self, Out, Refusal, Responder, Verdict};
use super::{Onward, Pipeline, act, dhcp, fit};
use crate::command::{PeerId, PortId, Role, Vni};
use crate::counters::DropReason;
use crate::frame::{Frame, FramePool, GsoKind, Offload, SlotSize};
use crate::limits::TX_QUEUE_LEN;
use crate::port::PortCaps;
use crate::table::underlay::Hop;
use crate::time::Instant;
use crate::tunnel::outer::OuterHeader;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;
use crate::wire::{ethernet, ipv4};

impl<F> Pipeline<F> {
    /// The largest IP packet that the output takes, if this packet is larger.
    #[inline]
    pub(super) fn exceeded_mtu(&self, h: &Headers, verdict: &Verdict) -> Option<u16> {
        if !matches!(h.net, Net::V4 | Net::V6) {
            return None;
        }
        let mtu = match verdict.out {
            Out::Port(to) => self.tables.ports.get(to)?.config.mtu,
            // Unresolved peers have no MTU; the switch refuses their packets later, with their own reason.
            Out::Peer(to) => self.tunnel_mtu(to)?,
            // Every copy of a routed packet has to fit. When a bridge floods, some copies may fit.
            Out::Flood if verdict.edits.route.is_some() => self.flood_mtu(verdict)?,
            Out::Punt => self.tables.uplink.as_ref()?.mtu,
            _ => return None,
        };
        (h.wire_end - u32::from(h.l3) > u32::from(mtu)).then_some(mtu)
    }

    /// Ends a packet that is larger than its output carries. If the switch is its router and the packet may
    /// be fragmented, sends it on in fragments. Otherwise drops it and tells the sender, so that path-MTU
    /// discovery works.
    #[cold]
    pub(super) fn exceed<P: FramePool, T: Trail>(
        &mut self,
        now: Instant,
        on: Onward<'_>,
        mtu: u16,
        frame: Frame,
        pool: &mut P,
        trail: &mut T,
    ) {
        let Onward { id, h, verdict, .. } = on;
        let routed = verdict.edits.route.is_some();
        let packet = h.packet(pool.bytes(&frame));
        let end = u32::from(h.l3) + packet.len() as u32;
        if routed && h.wire_end == h.end && packet.len() <= usize::from(mtu) {
            // Only the bytes behind the packet made the frame seem too large; these are not forwarded.
            let h = Headers { end, wire_end: end, ..*h };
            return self.carry_out(now, Onward { h: &h, ..on }, frame, pool, trail);
        }
        if routed && h.net == Net::V4 && !ipv4::may_not_fragment(packet) {
            trail.step(|| Step::Fragmented(mtu));
            return self.send_in_fragments(on, mtu, frame, pool);
        }
        self.tell(now, on, Refusal::TooBig(mtu), routed, &frame, pool, trail);
        self.drop_frame(id, frame, DropReason::TooBig, pool);
    }

    /// Puts a frame on a port's transmit queue.
    pub(super) fn send_to_port<P: FramePool>(
        &mut self,
        from: PortId,
        to: PortId,
        verdict: &Verdict,
        mut frame: Frame,
        pool: &mut P,
    ) {
        let Some(port) = self.tables.ports.get(to) else {
            return self.drop_frame(from, frame, DropReason::EgressNotLive, pool);
        };
        let is_uplink = port.config.role == Role::Uplink;
        let mtu = usize::from(port.config.mtu);
        if !port.config.live || !is_uplink && port.config.vni != Some(verdict.vni) {
            let reason = port.why_no_way_out();
            return self.drop_frame(from, frame, reason, pool);
        }
        if !is_uplink {
            let Some(edit) = port.vlan.egress(verdict.vid) else {
                return self.drop_frame(from, frame, DropReason::NoDestination, pool);
            };
            act::tag(pool, &mut frame, edit);
        }
        let tags = if verdict.vid == 0 && !is_uplink { 2 * ethernet::TAG_LEN } else { ethernet::TAG_LEN };
        let len_max = mtu + ethernet::HEADER_LEN + tags;
        if frame.offload != Offload::NONE {
            return self.fit_to_port(from, to, len_max, frame, pool);
        }
        if frame.len as usize > len_max {
            return self.drop_frame(from, frame, DropReason::TooBig, pool);
        }
        self.enqueue(to, frame, pool);
    }

    /// Encapsulates a frame and puts it on the uplink's queue.
    pub(super) fn send_to_peer<P: FramePool>(
        &mut self,
        from: PortId,
        to: PeerId,
        vni: Vni,
        tunnel: TunnelFacts,
        mut frame: Frame,
        pool: &mut P,
    ) {
        let Some(uplink) = self.tables.uplink.as_ref().map(|u| u.port) else {
            return self.drop_frame(from, frame, DropReason::PeerGone, pool);
        };
        let direct = self.tables.peers.get(to).and_then(|p| p.direct);
        let Some(peer) = direct.and_then(|id| self.tables.peers.get(id)) else {
            return self.drop_frame(from, frame, DropReason::PeerGone, pool);
        };
        if !self.tables.ports.get(uplink).is_some_and(|p| p.config.live) {
            return self.drop_frame(from, frame, DropReason::EgressNotLive, pool);
        }
        let outer = peer.outer;
        let finished = frame.offload == Offload::NONE;
        let wire_len =
            if finished { frame.len as usize } else { fit::wire_len(pool.bytes(&frame), frame.offload) };
        let too_big = wire_len + outer.len - ethernet::HEADER_LEN > usize::from(outer.mtu);
        let reason = if outer.len == 0 {
            Some(DropReason::PeerGone)
        } else if peer.next == Hop::NoRoute {
            Some(DropReason::NoRoute)
        } else if peer.next.mac().is_none() {
            Some(DropReason::NeighborUnresolved)
        } else if tunnel.left == Some(0) {
            Some(DropReason::RelayLoop)
        } else if too_big && !peer.config.fragment {
            Some(DropReason::TooBig)
        } else if frame.offload.gso_kind != GsoKind::None {
            None
        } else {
            // The uplink's offloads concern the outer headers, so the inner packet has to be finished here.
            fit::fit(pool, &mut frame, PortCaps::default()).err()
        };
        if let Some(reason) = reason {
            return self.drop_frame(from, frame, reason, pool);
        }
        if frame.offload.gso_kind != GsoKind::None {
            let sent = self.cut_to_peer(from, uplink, &outer, vni, tunnel, frame, pool);
            if let Some(peer) = direct.and_then(|id| self.tables.peers.get_mut(id)) {
                peer.tx += sent;
            }
            return;
        }
        let bytes = frame.len;
        if !act::grow_head(pool, &mut frame, outer.len) {
            return self.drop_frame(from, frame, DropReason::PoolExhausted, pool);
        }
        outer.stamp(pool.bytes_mut(&mut frame), vni, tunnel.entropy, tunnel.tos(&outer), tunnel.ttl(&outer));
        if let Some(peer) = direct.and_then(|id| self.tables.peers.get_mut(id)) {
            peer.tx.count(bytes);
        }
        if too_big {
            return self.send_outer_fragments(from, uplink, frame, outer.mtu, pool);
        }
        self.enqueue(uplink, frame, pool);
    }

    /// Copies a frame to every permitted member of its network. `from` is the side that it came from, which
    /// gets no copy; `None` if the switch made or routed the frame.
    pub(super) fn flood<P: FramePool>(
        &mut self,
        id: PortId,
        from: Option<From>,
        verdict: &Verdict,
        tunnel: TunnelFacts,
        frame: Frame,
        pool: &mut P,
    ) {
        let is_unicast = pool.bytes(&frame).first().is_some_and(|byte| byte & 1 == 0);
        let audience = if is_unicast { Audience::Seekers } else { Audience::Everyone };
        self.find_targets(from, verdict, audience);
        if self.output.targets.is_empty() {
            return self.drop_frame(id, frame, DropReason::NoDestination, pool);
        }
        self.send_to_targets(id, verdict, tunnel, frame, pool);
    }

    fn find_targets(&mut self, from: Option<From>, verdict: &Verdict, audience: Audience) {
        self.output.targets.clear();
        if let Some(network) = self.tables.networks.get(verdict.vni) {
            let ports = network.ports.iter().filter(|&&p| from != Some(From::Port(p)));
            let may_have = |p: &&PortId| {
                self.tables.ports.get(**p).is_some_and(|e| {
                    let is_meant = match audience {
                        Audience::Everyone => true,
                        Audience::Seekers => e.config.policy.flood,
                        Audience::Servers => e.config.role != Role::Guest,
                    };
                    is_meant && e.vlan.egress(verdict.vid).is_some()
                })
            };
            self.output.targets.extend(ports.filter(may_have).map(|&p| FloodTarget::Port(p)));
            let peers = network.peers.iter().filter(|&&(peer, spoke)| match from {
                Some(From::Peer(source, source_spoke)) => source != peer && (spoke || source_spoke),
                _ => true,
            });
            self.output.targets.extend(peers.map(|&(peer, _)| FloodTarget::Peer(peer)));
        }
    }

    /// Sends a frame to the flood targets, at least one.
    fn send_to_targets<P: FramePool>(
        &mut self,
        id: PortId,
        verdict: &Verdict,
        tunnel: TunnelFacts,
        frame: Frame,
        pool: &mut P,
    ) {
        let Some(last) = self.output.targets.pop() else { return pool.free(frame) };
        let targets = core::mem::take(&mut self.output.targets);
        for &target in &targets {
            self.counters.replicated += 1;
            match act::copy(pool, &frame) {
                Some(copy) => self.send_to_target(id, target, verdict, tunnel, copy, pool),
                None => self.count_drop(id, DropReason::PoolExhausted),
            }
        }
        self.output.targets = targets;
        self.send_to_target(id, last, verdict, tunnel, frame, pool);
    }

    fn send_to_target<P: FramePool>(
        &mut self,
        id: PortId,
        target: FloodTarget,
        verdict: &Verdict,
        tunnel: TunnelFacts,
        frame: Frame,
        pool: &mut P,
    ) {
        match target {
            FloodTarget::Port(port) => self.send_to_port(id, port, verdict, frame, pool),
            FloodTarget::Peer(peer) => self.send_to_peer(id, peer, verdict.vni, tunnel, frame, pool),
        }
    }

    /// Sends the answer to a question back to where the question came from.
    #[allow(clippy::too_many_arguments, reason = "the facts of one frame")]
    pub(super) fn answer<P: FramePool>(
        &mut self,
        id: PortId,
        adm: &Admission,
        h: &Headers,
        verdict: &Verdict,
        who: Responder,
        mut frame: Frame,
        pool: &mut P,
    ) {
        let answered = match who {
            Responder::Dhcp { .. } => self.answer_dhcp(id, adm, h, &mut frame, pool),
            who => act::respond(pool, &mut frame, h, who),
        };
        if !answered {
            return self.drop_frame(id, frame, DropReason::PoolExhausted, pool);
        }
        match adm.from {
            From::Port(port) => self.send_to_port(id, port, verdict, frame, pool),
            From::Peer(peer, _) => {
                let tunnel = TunnelFacts::ours(h.hash);
                self.send_to_peer(id, peer, verdict.vni, tunnel, frame, pool);
            }
            From::Underlay => self.drop_frame(id, frame, DropReason::NotOurs, pool),
        }
    }

    /// Floods a guest's DHCP question, like any other broadcast, to where boot servers may be.
    #[cold]
    pub(super) fn ask_boot_servers<P: FramePool>(
        &mut self,
        now: Instant,
        on: Onward<'_>,
        frame: &Frame,
        pool: &mut P,
    ) {
        let Onward { id, adm, h, verdict } = on;
        self.find_targets(Some(adm.from), verdict, Audience::Servers);
        if self.output.targets.is_empty() {
            return;
        }
        self.counters.replicated += 1;
        if self.tables.ports.get_mut(id).is_some_and(|p| !p.bum.take(now)) {
            return self.count_drop(id, DropReason::BumRateLimit);
        }
        let Some(copy) = act::copy(pool, frame) else {
            return self.count_drop(id, DropReason::PoolExhausted);
        };
        self.send_to_targets(id, verdict, TunnelFacts::new(adm, h, verdict), copy, pool);
    }

    /// Writes the answer over a guest's question. Returns false when the slot is too small for it.
    fn answer_dhcp<P: FramePool>(
        &mut self,
        id: PortId,
        adm: &Admission,
        h: &Headers,
        frame: &mut Frame,
        pool: &mut P,
    ) -> bool {
        let (Some(network), Some(port)) = (self.tables.networks.at(adm.net), self.tables.ports.get(id))
        else {
            return false;
        };
        let Some(dhcp::Outcome::Answer(answer, _)) = dhcp::outcome(network, port, h, pool.bytes(frame))
        else {
            return false;
        };
        if usize::from(frame.head) + answer.len() > pool.slot_len(frame) {
            return false;
        }
        (frame.len, frame.offload) = (answer.len() as u32, Offload::default());
        pool.bytes_mut(frame).copy_from_slice(&answer);
        true
    }

    /// Punts a frame to the kernel.
    pub(super) fn punt<P: FramePool>(&mut self, id: PortId, mut frame: Frame, pool: &mut P) {
        if self.output.punted.len() == self.output.punted.capacity() {
            return self.drop_frame(id, frame, DropReason::NeighborUnresolved, pool);
        }
        if frame.offload.gso_kind != GsoKind::None {
            return self.cut_to_host(id, frame, pool);
        }
        match fit::fit(pool, &mut frame, PortCaps::default()) {
            Ok(()) => {
                self.counters.queued += 1;
                self.output.punted.push(frame);
            }
            Err(reason) => self.drop_frame(id, frame, reason, pool),
        }
    }

    #[inline(never)]
    pub(super) fn enqueue<P: FramePool>(&mut self, to: PortId, frame: Frame, pool: &mut P) {
        let (head, len) = (frame.head, frame.len);
        self.enqueue_as(to, frame, head, len, pool);
    }

    /// Puts a frame on a port's queue with this head and length. Sets these in the queued frame, since
    /// copying a struct as a whole right after changing a part stalls the processor (store-to-load
    /// forwarding).
    #[inline(always)]
    pub(super) fn enqueue_as<P: FramePool>(
        &mut self,
        to: PortId,
        frame: Frame,
        head: u16,
        len: u32,
        pool: &mut P,
    ) {
        match self.tables.ports.get_mut(to) {
            Some(port) if !port.caps.tx_tso && port.queue.len() < TX_QUEUE_LEN => {
                self.counters.queued += 1;
                port.queue.push(frame);
                if let Some(frame) = port.queue.last_mut() {
                    (frame.head, frame.len) = (head, len);
                }
            }
            _ => self.enqueue_elsewise(to, Frame { head, len, ..frame }, pool),
        }
    }

    #[inline(never)]
    fn enqueue_elsewise<P: FramePool>(&mut self, to: PortId, frame: Frame, pool: &mut P) {
        match self.tables.ports.get(to) {
            Some(port) if port.caps.tx_tso => self.enqueue_or_merge(to, frame, pool),
            _ => self.drop_frame(to, frame, DropReason::TxQueueFull, pool),
        }
    }

    /// Asks the stations of a network for the MAC of an address.
    pub(super) fn ask<P: FramePool>(&mut self, vni: Vni, ip: Ip, pool: &mut P) {
        let Some(network) = self.tables.networks.get(vni) else { return };
        let source = network.gateways.iter().copied().find(|g| g.is_v4() == ip.is_v4());
        self.send_question(vni, source, ip, pool);
    }

    /// Sends an ARP request or neighbor solicitation for `ip` from `source`. With `source` equal to `ip` it
    /// is gratuitous: it announces that the address is here.
    pub(super) fn send_question<P: FramePool>(&mut self, vni: Vni, source: Option<Ip>, ip: Ip, pool: &mut P) {
        let mac = self.tables.switch_mac();
        if mac == MacAddr::ZERO {
            return;
        }
        let Some(mut frame) = pool.alloc(SlotSize::Small) else { return };
        frame.len = act::QUESTION_MAX as u32;
        frame.len = act::ask(pool.bytes_mut(&mut frame), mac, source, ip) as u32;
        self.counters.originated += 1;
        let verdict = Verdict { edits: verdict::Edits::NONE, out: Out::Flood, vni, vid: 0 };
        let tunnel = TunnelFacts::ours(ip.0 as u32);
        let uplink = self.tables.uplink.as_ref().map_or(PortId(0), |u| u.port);
        self.flood(uplink, None, &verdict, tunnel, frame, pool);
    }
}

/// The recipients of a flooded frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Audience {
    /// Every member of the network.
    Everyone,
    /// Those behind which a station of an unknown place may be.
    Seekers,
    /// Those that may answer DHCP: not the guests of this rVM.
    Servers,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum FloodTarget {
    Port(PortId),
    Peer(PeerId),
}

/// Fields of an outer header that depend on the frame in the tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct TunnelFacts {
    /// UDP source port: one per inner flow, from the dynamic range (RFC 7348 §5).
    pub(super) entropy: u16,
    /// The TOS of the packet inside, with its ECN field (RFC 6040 §4.1: copied).
    tos: u8,
    /// What a relayed frame has left of its outer hop limit, with which it carries on, so that a loop of relays ends.
    left: Option<u8>,
    /// The hop limit of the packet inside.
    inner_ttl: Option<u8>,
}

impl TunnelFacts {
    pub(super) fn new(adm: &Admission, h: &Headers, verdict: &Verdict) -> Self {
        let is_ip = matches!(h.net, Net::V4 | Net::V6);
        let ecn = verdict.edits.ecn.unwrap_or(h.tos & 3);
        let left = match (adm.from, h.outer, verdict.edits.route) {
            (From::Peer(..), Some(outer), None) => Some(outer.ttl.saturating_sub(1)),
            _ => None,
        };
        let hops = u8::from(verdict.edits.route.is_some());
        Self {
            entropy: Self::port(h.hash),
            tos: if is_ip { h.tos & !3 | ecn } else { 0 },
            left,
            inner_ttl: is_ip.then(|| h.ttl.saturating_sub(hops).max(1)),
        }
    }

    /// Of a frame of our own, for the flow of this hash.
    pub(super) const fn ours(hash: u32) -> Self {
        Self { entropy: Self::port(hash), tos: 0, left: None, inner_ttl: None }
    }

    /// What is added to the TOS of the outer header.
    pub(super) const fn tos(&self, outer: &OuterHeader) -> u8 {
        self.tos & outer.inner_tos
    }

    /// The outer header's TTL.
    pub(super) fn ttl(&self, outer: &OuterHeader) -> u8 {
        let inherited = self.inner_ttl.filter(|_| outer.inherits_ttl);
        self.left.or(inherited).unwrap_or(outer.ttl)
    }

    pub(super) const fn entropy(&self) -> u16 {
        self.entropy
    }

    pub(super) const fn port(hash: u32) -> u16 {
        0xc000 | (hash & 0x3fff) as u16
    }
}
