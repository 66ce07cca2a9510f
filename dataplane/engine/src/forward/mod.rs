//! The walk of a frame: `parse → learn → classify → act → fit`, one way, no re-entry.

pub mod act;
pub mod classify;
pub mod fit;
pub mod learn;
pub mod parse;
pub mod trail;
pub mod verdict;

mod control;

use alloc::vec::Vec;

use self::classify::{Admission, From, Probe};
use self::parse::{Headers, Net};
use self::verdict::{Out, Responder, Verdict};
use crate::command::{DropSample, Event, PeerId, PortId, Role, UplinkConfig, Vni};
use crate::counters::{DROP_REASONS, DropReason, SwitchCounters};
use crate::frame::{Batch, Frame, FramePool, SlotSize};
use crate::limits::{BATCH_LEN, ICMP_ERRORS_PPS, LEARNED_EVENTS, OUTER_TTL, TX_QUEUE_LEN};
use crate::table::fdb::Fdb;
use crate::table::floating_ip::FloatingIps;
use crate::table::neighbor::Neighbors;
use crate::table::network::Networks;
use crate::table::peer::PeerTable;
use crate::table::port::{PortTable, TokenBucket};
use crate::table::source_route::SourceRoutes;
use crate::table::underlay::{Guard, Underlay};
use crate::time::{Duration, Instant};
use crate::wire::ethernet;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// Every table a frame may meet.
#[derive(Debug)]
pub struct Tables {
    /// Ports of this rVM.
    pub ports: PortTable,
    /// Where MAC addresses are.
    pub fdb: Fdb,
    /// Networks and their flood sets.
    pub networks: Networks,
    /// Other rVMs.
    pub peers: PeerTable,
    /// Floating IPs.
    pub floating: FloatingIps,
    /// Source routes.
    pub routes: SourceRoutes,
    /// Overlay next hops.
    pub neighbors: Neighbors,
    /// Underlay routes and next hops.
    pub underlay: Underlay,
    /// Where translated packets may not go.
    pub guard: Guard,
    /// Where the underlay is met.
    pub uplink: Option<UplinkConfig>,
}

impl Tables {
    fn new(seed: u64) -> Self {
        let part = |n: u64| seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self {
            ports: PortTable::default(),
            fdb: Fdb::new(part(1)),
            networks: Networks::new(part(2)),
            peers: PeerTable::new(part(3)),
            floating: FloatingIps::new(part(4)),
            routes: SourceRoutes::new(part(5)),
            neighbors: Neighbors::new(part(6)),
            underlay: Underlay::new(part(7)),
            guard: Guard::new(part(8)),
            uplink: None,
        }
    }

    /// The switch's own MAC address; zero, which no frame carries, until there is an uplink.
    #[inline]
    #[must_use]
    pub fn switch_mac(&self) -> MacAddr {
        self.uplink.as_ref().map_or(MacAddr::ZERO, |u| u.switch_mac)
    }
}

/// A switch: tables, counters, and the walk. It owns no clock, socket or thread.
#[derive(Debug)]
pub struct Switch {
    tables: Tables,
    counters: SwitchCounters,
    parsed: Vec<Parsed>,
    targets: Vec<FloodTarget>,
    punted: Vec<Frame>,
    events: Vec<Event>,
    icmp_errors: TokenBucket,
    /// Stations told of since the last tick.
    learned_told: u32,
    samples: Vec<Option<DropSample>>,
    sampled: [bool; DROP_REASONS],
    /// Floating IPs that moved here, and how often their new place is still to be told.
    announcing: Vec<(Vni, Ip, u8)>,
    next_announce: Instant,
    next_tick: Instant,
    next_resolve: Instant,
    next_refresh: Instant,
}

/// A frame after the first stages. Filled in place, for it is large.
#[derive(Clone, Copy, Debug, Default)]
struct Parsed {
    h: Headers,
    adm: Admission,
    probe: Probe,
    /// It may not enter; the rest means nothing.
    refused: Option<DropReason>,
}

#[derive(Clone, Copy, Debug)]
enum FloodTarget {
    Port(PortId),
    Peer(PeerId),
}

/// How often tables are aged and questions asked.
const TICK: Duration = Duration::from_millis(250);

/// Bytes of a dropped frame kept as its reason's sample.
const SAMPLE_LEN: usize = 128;

impl Switch {
    /// A switch without ports. `seed` keys every hash.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            tables: Tables::new(seed),
            counters: SwitchCounters::default(),
            parsed: alloc::vec![Parsed::default(); BATCH_LEN],
            targets: Vec::new(),
            punted: Vec::with_capacity(BATCH_LEN),
            events: Vec::with_capacity(2 * LEARNED_EVENTS as usize),
            icmp_errors: TokenBucket::new(Instant::ZERO, Some(ICMP_ERRORS_PPS)),
            learned_told: 0,
            samples: (0..DROP_REASONS).map(|_| None).collect(),
            sampled: [false; DROP_REASONS],
            announcing: Vec::new(),
            next_announce: Instant::ZERO,
            next_tick: Instant::ZERO,
            next_resolve: Instant::ZERO,
            next_refresh: Instant::ZERO,
        }
    }

    /// Takes a batch that came in at `port` and leaves it empty: every frame is on a transmit queue,
    /// punted, or dropped and counted.
    pub fn forward<P: FramePool>(&mut self, now: Instant, port: PortId, batch: &mut Batch, pool: &mut P) {
        self.parse_batch(port, batch, pool);
        let parsed = core::mem::take(&mut self.parsed);
        for (frame, parsed) in batch.drain(..).zip(&parsed) {
            match parsed.refused {
                None => self.forward_one(now, port, parsed, frame, pool),
                Some(reason) => self.drop_frame(port, frame, reason, pool),
            }
        }
        self.parsed = parsed;
    }

    /// The first stages for the whole batch: parse, admit, and touch what the next stages will read, so that
    /// the misses of many frames overlap.
    fn parse_batch<P: FramePool>(&mut self, id: PortId, batch: &mut Batch, pool: &P) {
        for frame in batch.iter() {
            pool.prefetch(frame);
        }
        self.counters.rx += batch.len() as u64;
        let tables = &self.tables;
        let Some(port) = tables.ports.get(id) else {
            for parsed in &mut self.parsed {
                parsed.refused = Some(DropReason::PortNotLive);
            }
            return;
        };
        let uplink = tables.uplink.as_ref().filter(|u| u.port == id && port.config.role == Role::Uplink);
        let vtep = uplink.map_or(Ip::default(), |u| u.vtep.into());
        let (unmarked, frames) = (port.caps.rx_csum_unmarked, batch.len() as u64);
        let mut rx_bytes = 0;
        for (frame, parsed) in batch.iter_mut().zip(&mut self.parsed) {
            let bytes = pool.bytes(frame);
            rx_bytes += bytes.len() as u64;
            let Parsed { h, adm, probe, refused } = parsed;
            let read = match (uplink, port.config.role) {
                (Some(uplink), _) => parse::uplink(bytes, uplink, vtep, h),
                (None, Role::Uplink) => Err(DropReason::PortNotLive),
                (None, _) => parse::ethernet(bytes, 0, h),
            };
            *refused = read.err();
            if refused.is_some() {
                continue;
            }
            if unmarked
                && !frame.offload.csum_partial()
                && let Some(offload) = fit::unmarked_partial(bytes, h)
            {
                frame.offload = offload;
            }
            match classify::admit(tables, id, port, h, bytes) {
                Ok(admission) => {
                    *adm = admission;
                    *probe = Probe::new(tables, adm, h);
                    probe.touch(tables);
                }
                Err(reason) => *refused = Some(reason),
            }
        }
        if let Some(port) = self.tables.ports.get_mut(id) {
            port.counters.rx_frames += frames;
            port.counters.rx_bytes += rx_bytes;
        }
    }

    #[inline]
    fn forward_one<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        Parsed { h, adm, probe, .. }: &Parsed,
        frame: Frame,
        pool: &mut P,
    ) {
        let bytes = pool.bytes(&frame);
        if let Some(location) = learn::learn(&mut self.tables, now, adm, h, probe, bytes)
            && self.learned_told < LEARNED_EVENTS
        {
            self.learned_told += 1;
            self.events.push(Event::Learned(adm.vni, adm.vid, h.eth_src, location));
        }
        let verdict = classify::classify(&self.tables, adm, h, probe, bytes, &mut ());
        if let From::Peer(peer, _) = adm.from
            && let Some(peer) = self.tables.peers.get_mut(peer)
        {
            peer.rx += 1;
        }
        self.carry_out(now, id, adm, h, &verdict, frame, pool);
    }

    /// Stages three and on: change the bytes and put the frame where it goes.
    #[allow(clippy::too_many_arguments, reason = "the facts of one frame, each read by some arm")]
    fn carry_out<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        adm: &Admission,
        h: &Headers,
        verdict: &Verdict,
        mut frame: Frame,
        pool: &mut P,
    ) {
        match verdict.out {
            Out::Drop(reason) => return self.drop_frame(id, frame, reason, pool),
            Out::Consume => {
                self.counters.consumed += 1;
                return pool.free(frame);
            }
            Out::Flood => {
                let local = matches!(adm.from, From::Port(_));
                if local && self.tables.ports.get_mut(id).is_some_and(|p| !p.bum.take(now)) {
                    return self.drop_frame(id, frame, DropReason::BumRateLimit, pool);
                }
            }
            _ => {}
        }
        if let Some(mtu) = self.exceeded_mtu(h, verdict) {
            self.tell_too_big(now, id, adm, h, mtu, &frame, pool);
            return self.drop_frame(id, frame, DropReason::TooBig, pool);
        }
        if !act::act(pool, &mut frame, h, verdict) {
            return self.drop_frame(id, frame, DropReason::PoolExhausted, pool);
        }
        self.count_mapping(verdict);
        match verdict.out {
            Out::Port(to) => self.send_to_port(id, to, verdict, frame, pool),
            Out::Peer(to) => {
                let tunnel = TunnelFacts::new(adm, h, verdict);
                self.send_to_peer(id, to, verdict.vni, tunnel, frame, pool);
            }
            Out::Flood => {
                let tunnel = TunnelFacts::new(adm, h, verdict);
                let from = if verdict.edits.route.is_some() { None } else { Some(adm.from) };
                self.flood(id, from, verdict, tunnel, frame, pool);
            }
            Out::Hairpin(who) => self.answer(id, adm, h, verdict, who, frame, pool),
            Out::Punt => self.punt(id, frame, pool),
            Out::Consume | Out::Drop(_) => unreachable!("handled above"),
        }
    }

    /// The largest IP packet that the output takes, if this one is larger.
    #[inline]
    fn exceeded_mtu(&self, h: &Headers, verdict: &Verdict) -> Option<u16> {
        if !matches!(h.net, Net::V4 | Net::V6) {
            return None;
        }
        let mtu = match verdict.out {
            Out::Port(to) => self.tables.ports.get(to)?.config.mtu,
            Out::Peer(to) => {
                let direct = self.tables.peers.get(to)?.direct?;
                let outer = &self.tables.peers.get(direct)?.outer;
                // Unresolved peers have no outer header; they are refused later, with their own reason.
                outer.mtu.checked_sub(outer.len as u16).filter(|_| outer.len > 0)?
            }
            _ => return None,
        };
        (h.end - u32::from(h.l3) > u32::from(mtu)).then_some(mtu)
    }

    /// Tells a sender that its packet is too big, so that path-MTU discovery works through the switch.
    #[cold]
    #[allow(clippy::too_many_arguments, reason = "the facts of one frame")]
    fn tell_too_big<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        adm: &Admission,
        h: &Headers,
        mtu: u16,
        frame: &Frame,
        pool: &mut P,
    ) {
        let mut message = [0; act::TOO_BIG_MAX];
        let Some(len) = act::too_big(pool.bytes(frame), h, mtu, &mut message) else { return };
        if !self.icmp_errors.take(now) {
            return;
        }
        let Some(answer) = pool.alloc_from(&message[..len]) else { return };
        self.counters.originated += 1;
        match adm.from {
            // It has the tags that the frame came with.
            From::Port(_) | From::Underlay => self.enqueue(id, answer, pool),
            From::Peer(peer, _) => {
                let tunnel = TunnelFacts { entropy: TunnelFacts::port(h.hash), ecn: 0, ttl: OUTER_TTL };
                self.send_to_peer(id, peer, adm.vni, tunnel, answer, pool);
            }
        }
    }

    fn count_mapping(&mut self, verdict: &Verdict) {
        if let Some(nat) = &verdict.edits.nat {
            self.tables.floating.hit(nat.id, nat.source);
        } else if let Some(id) = verdict.edits.route.and_then(|r| r.id) {
            self.tables.floating.hit(id, true);
        }
    }

    /// Puts a frame on a port's transmit queue.
    fn send_to_port<P: FramePool>(
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
        let (mtu, caps) = (usize::from(port.config.mtu), port.caps);
        if !port.config.live || !is_uplink && port.config.vni != Some(verdict.vni) {
            return self.drop_frame(from, frame, DropReason::EgressNotLive, pool);
        }
        if !is_uplink {
            let Some(edit) = port.vlan.egress(verdict.vid) else {
                return self.drop_frame(from, frame, DropReason::NoDestination, pool);
            };
            act::tag(pool, &mut frame, edit);
        }
        let tags = if verdict.vid == 0 && !is_uplink { 2 * ethernet::TAG_LEN } else { ethernet::TAG_LEN };
        if frame.len as usize > mtu + ethernet::HEADER_LEN + tags {
            return self.drop_frame(from, frame, DropReason::TooBig, pool);
        }
        if let Err(reason) = fit::fit(pool, &mut frame, caps) {
            return self.drop_frame(from, frame, reason, pool);
        }
        self.enqueue(to, frame, pool);
    }

    /// Encapsulates a frame and puts it on the uplink's queue.
    fn send_to_peer<P: FramePool>(
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
        let Some(port) = self.tables.ports.get(uplink).filter(|p| p.config.live) else {
            return self.drop_frame(from, frame, DropReason::EgressNotLive, pool);
        };
        let outer = peer.outer;
        let reason = if outer.len == 0 {
            Some(DropReason::PeerGone)
        } else if peer.next_mac.is_none() {
            Some(DropReason::NeighborUnresolved)
        } else if tunnel.ttl == 0 {
            Some(DropReason::RelayLoop)
        } else if frame.len as usize + outer.len - ethernet::HEADER_LEN > usize::from(outer.mtu) {
            Some(DropReason::TooBig)
        } else {
            // The uplink's offloads are about outer headers: what is inside has to be finished here.
            let _ = port;
            fit::fit(pool, &mut frame, crate::port::PortCaps::default()).err()
        };
        if let Some(reason) = reason {
            return self.drop_frame(from, frame, reason, pool);
        }
        if !act::grow_head(pool, &mut frame, outer.len) {
            return self.drop_frame(from, frame, DropReason::PoolExhausted, pool);
        }
        outer.stamp(pool.bytes_mut(&mut frame), vni, tunnel.entropy, tunnel.ecn, tunnel.ttl);
        if let Some(peer) = direct.and_then(|id| self.tables.peers.get_mut(id)) {
            peer.tx += 1;
        }
        self.enqueue(uplink, frame, pool);
    }

    /// Copies a frame to every member of its network that may have it. `from` is whom it must not go back to;
    /// `None`: the switch made or routed it.
    fn flood<P: FramePool>(
        &mut self,
        id: PortId,
        from: Option<From>,
        verdict: &Verdict,
        tunnel: TunnelFacts,
        frame: Frame,
        pool: &mut P,
    ) {
        self.targets.clear();
        if let Some(network) = self.tables.networks.get(verdict.vni) {
            let ports = network.ports.iter().filter(|&&p| from != Some(From::Port(p)));
            let may_have = |p: &&PortId| {
                self.tables.ports.get(**p).is_some_and(|e| e.vlan.egress(verdict.vid).is_some())
            };
            self.targets.extend(ports.filter(may_have).map(|&p| FloodTarget::Port(p)));
            let peers = network.peers.iter().filter(|&&(peer, spoke)| match from {
                Some(From::Peer(source, source_spoke)) => source != peer && (spoke || source_spoke),
                _ => true,
            });
            self.targets.extend(peers.map(|&(peer, _)| FloodTarget::Peer(peer)));
        }
        let Some(last) = self.targets.pop() else {
            return self.drop_frame(id, frame, DropReason::NoDestination, pool);
        };
        let targets = core::mem::take(&mut self.targets);
        for &target in &targets {
            self.counters.replicated += 1;
            match act::copy(pool, &frame) {
                Some(copy) => self.send_to_target(id, target, verdict, tunnel, copy, pool),
                None => self.count_drop(id, DropReason::PoolExhausted),
            }
        }
        self.targets = targets;
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

    /// Sends the answer to a question back where the question came from.
    #[allow(clippy::too_many_arguments, reason = "the facts of one frame")]
    fn answer<P: FramePool>(
        &mut self,
        id: PortId,
        adm: &Admission,
        h: &Headers,
        verdict: &Verdict,
        who: Responder,
        mut frame: Frame,
        pool: &mut P,
    ) {
        if !act::respond(pool, &mut frame, h, who) {
            return self.drop_frame(id, frame, DropReason::PoolExhausted, pool);
        }
        match adm.from {
            From::Port(port) => self.send_to_port(id, port, verdict, frame, pool),
            From::Peer(peer, _) => {
                let tunnel = TunnelFacts { entropy: TunnelFacts::port(h.hash), ecn: 0, ttl: OUTER_TTL };
                self.send_to_peer(id, peer, verdict.vni, tunnel, frame, pool);
            }
            From::Underlay => self.drop_frame(id, frame, DropReason::NotOurs, pool),
        }
    }

    /// Hands a frame to the kernel.
    fn punt<P: FramePool>(&mut self, id: PortId, mut frame: Frame, pool: &mut P) {
        if self.punted.len() == self.punted.capacity() {
            return self.drop_frame(id, frame, DropReason::NeighborUnresolved, pool);
        }
        match fit::fit(pool, &mut frame, crate::port::PortCaps::default()) {
            Ok(()) => {
                self.counters.queued += 1;
                self.punted.push(frame);
            }
            Err(reason) => self.drop_frame(id, frame, reason, pool),
        }
    }

    fn enqueue<P: FramePool>(&mut self, to: PortId, frame: Frame, pool: &mut P) {
        match self.tables.ports.get_mut(to) {
            Some(port) if port.queue.len() < TX_QUEUE_LEN => {
                self.counters.queued += 1;
                port.queue.push(frame);
            }
            _ => self.drop_frame(to, frame, DropReason::TxQueueFull, pool),
        }
    }

    fn count_drop(&mut self, id: PortId, reason: DropReason) {
        self.counters.dropped += 1;
        if let Some(port) = self.tables.ports.get_mut(id) {
            port.count_drop(reason);
        }
    }

    fn drop_frame<P: FramePool>(&mut self, id: PortId, frame: Frame, reason: DropReason, pool: &mut P) {
        self.count_drop(id, reason);
        if !self.sampled[reason as usize] {
            self.sample(id, &frame, reason, pool);
        }
        pool.free(frame);
    }

    /// Keeps the first bytes of a dropped frame, once per tick and reason.
    #[cold]
    fn sample<P: FramePool>(&mut self, port: PortId, frame: &Frame, reason: DropReason, pool: &P) {
        self.sampled[reason as usize] = true;
        let bytes = pool.bytes(frame);
        let slot = &mut self.samples[reason as usize];
        let sample = slot.get_or_insert_with(|| DropSample {
            port,
            reason,
            bytes: Vec::with_capacity(SAMPLE_LEN),
            len: 0,
        });
        (sample.port, sample.len) = (port, frame.len);
        sample.bytes.clear();
        sample.bytes.extend_from_slice(&bytes[..bytes.len().min(SAMPLE_LEN)]);
    }

    /// Asks the stations of a network who has an address.
    fn ask<P: FramePool>(&mut self, vni: Vni, ip: Ip, pool: &mut P) {
        let Some(network) = self.tables.networks.get(vni) else { return };
        let source = network.gateways.iter().copied().find(|g| g.is_v4() == ip.is_v4());
        self.send_question(vni, source, ip, pool);
    }

    /// Sends the ARP request or neighbor solicitation of `source` for `ip`. Gratuitous when they are the same:
    /// it tells the network that the address is here.
    fn send_question<P: FramePool>(&mut self, vni: Vni, source: Option<Ip>, ip: Ip, pool: &mut P) {
        let mac = self.tables.switch_mac();
        if mac == MacAddr::ZERO {
            return;
        }
        let Some(mut frame) = pool.alloc(SlotSize::Small) else { return };
        frame.len = act::QUESTION_MAX as u32;
        frame.len = act::ask(pool.bytes_mut(&mut frame), mac, source, ip) as u32;
        self.counters.originated += 1;
        let verdict = Verdict { edits: verdict::Edits::NONE, out: Out::Flood, vni, vid: 0 };
        let tunnel = TunnelFacts { entropy: TunnelFacts::port(ip.0 as u32), ecn: 0, ttl: OUTER_TTL };
        let uplink = self.tables.uplink.as_ref().map_or(PortId(0), |u| u.port);
        self.flood(uplink, None, &verdict, tunnel, frame, pool);
    }
}

/// What an outer header needs to know of the frame under it.
#[derive(Clone, Copy, Debug)]
struct TunnelFacts {
    /// UDP source port: one per inner flow, from the dynamic range (RFC 7348 §5).
    entropy: u16,
    /// ECN field (RFC 6040 §4.1: copied).
    ecn: u8,
    /// Hop limit. A relayed frame carries on with what is left of it, so a loop of relays ends.
    ttl: u8,
}

impl TunnelFacts {
    fn new(adm: &Admission, h: &Headers, verdict: &Verdict) -> Self {
        let ecn = if matches!(h.net, Net::V4 | Net::V6) { verdict.edits.ecn.unwrap_or(h.tos & 3) } else { 0 };
        let ttl = match (adm.from, h.outer, verdict.edits.route) {
            (From::Peer(..), Some(outer), None) => outer.ttl.saturating_sub(1),
            _ => OUTER_TTL,
        };
        Self { entropy: Self::port(h.hash), ecn, ttl }
    }

    fn port(hash: u32) -> u16 {
        0xc000 | (hash & 0x3fff) as u16
    }
}
