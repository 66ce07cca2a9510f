//! The pipeline that every frame passes through once: `parse → learn → classify → act → fit`.

pub mod act;
pub mod cache;
pub mod classify;
pub mod fit;
pub mod flow;
pub mod learn;
pub mod memo;
pub mod parse;
pub mod share;
pub mod trail;
pub mod verdict;

mod control;
mod dhcp;
mod fragment;
mod gate;
mod guard;
mod icmp_error;
mod link_local;
mod mss;
mod output;
mod path;
mod peers;
mod route;
mod watched;

use alloc::boxed::Box;
use alloc::vec::Vec;

use self::classify::{Admission, From, Probe};
use self::fit::send::{Merges, brings_tunnels};
use self::memo::{Look, Memo, Side};
use self::output::{FloodTarget, TunnelFacts};
use self::parse::{Headers, Part};
use self::trail::Trail;
use self::verdict::{Out, Refusal, Responder, Verdict};
use crate::command::{DropSample, Event, FloatingId, Location, PeerId, PortId, Role, UplinkConfig, Vni};
use crate::counters::{DROP_REASONS, DropReason, SwitchCounters};
use crate::frame::{Batch, Frame, FramePool, GsoKind, Offload};
use crate::limits::{BATCH_LEN, FLOW_SAMPLE, LEARNED_EVENTS, PATH_ANSWERS_PPS, TUNNEL_DATAGRAMS_IN_MAX};
use crate::own::OwnFlows;
use crate::table::error_limit::ErrorLimit;
use crate::table::fdb::{self, Fdb};
use crate::table::floating_ip::FloatingIps;
use crate::table::fragments::Fragments;
use crate::table::neighbor::Neighbors;
use crate::table::network::Networks;
use crate::table::peer::PeerTable;
use crate::table::port::{PortEntry, PortTable, TokenBucket};
use crate::table::silent_hops::SilentHops;
use crate::table::source_route::SourceRoutes;
use crate::table::underlay::{Guard, Hop, Underlay};
use crate::time::{Duration, Instant};
use crate::watch::Watches;
use crate::wire::icmp;
use crate::wire::ip::Ip;
use crate::wire::l4;
use crate::wire::mac::MacAddr;

/// All tables that the pipeline reads.
#[derive(Debug)]
pub struct Tables {
    /// The ports of this rVM.
    pub ports: PortTable,
    /// Maps MAC addresses to ports and peers.
    pub fdb: Fdb,
    /// The networks and their flood sets.
    pub networks: Networks,
    /// The other rVMs.
    pub peers: PeerTable,
    /// Floating IPs.
    pub floating: FloatingIps,
    /// Ports of packets that arrive in fragments.
    pub fragments: Fragments,
    /// Source routes.
    pub routes: SourceRoutes,
    /// Overlay next hops.
    pub neighbors: Neighbors,
    /// Underlay routes and next hops.
    pub underlay: Underlay,
    /// Destinations that translated packets must not reach.
    pub guard: Guard,
    /// How the switch attaches to the underlay.
    pub uplink: Option<UplinkConfig>,
    /// Connections of the rVM's own kernel. Translated packets must not belong to one.
    pub own: Option<Box<dyn OwnFlows>>,
    /// Increases with every change of a table, except when a station appears (no cached verdict concerns an
    /// unknown station) or leaves (see [`Fdb::version`]).
    pub version: u32,
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
            fragments: Fragments::new(part(9)),
            uplink: None,
            own: None,
            version: 0,
        }
    }

    /// Invalidates all cached verdicts.
    pub fn changed(&mut self) {
        self.version = self.version.wrapping_add(1);
    }

    /// The switch's own MAC address. Zero, which no frame carries, until an uplink is configured.
    #[inline]
    #[must_use]
    pub fn switch_mac(&self) -> MacAddr {
        self.uplink.as_ref().map_or(MacAddr::ZERO, |u| u.switch_mac)
    }
}

/// A switch: tables, counters, and the pipeline. It owns no clock, socket or thread.
#[derive(Debug)]
pub struct Switch {
    tables: Tables,
    counters: SwitchCounters,
    memo: Memo,
    looks: Vec<Look>,
    /// Number of frames forwarded from the flow cache.
    remembered: u64,
    parsed: Vec<Parsed>,
    targets: Vec<FloodTarget>,
    punted: Vec<Frame>,
    /// Scratch space for the frames that a tunnel GSO packet contains.
    opened: Vec<Frame>,
    merges: Merges,
    /// Ports with an egress rate limit or mirror.
    gated: Vec<PortId>,
    /// A transmit queue should be flushed before the next batch.
    crowded: bool,
    events: Vec<Event>,
    error_limit: ErrorLimit,
    silent_hops: SilentHops,
    path_answers: TokenBucket,
    /// Number of path events reported since the last tick.
    path_told: u32,
    /// Number of events about differently configured peers reported since the last tick.
    peers_told: u32,
    /// IP identification of the last outer packet that was fragmented.
    fragment_id: u32,
    /// Number of station events reported since the last tick.
    learned_told: u32,
    samples: Vec<Option<DropSample>>,
    sampled: [bool; DROP_REASONS],
    /// Floating IPs that moved here, and how many announcements of each are still to be sent.
    announcing: Vec<(Vni, Ip, u8)>,
    /// The bookkeeping of the kernel offload, if there is one.
    flows: Option<cache::FlowBook>,
    next_announce: Instant,
    next_tick: Instant,
    next_resolve: Instant,
    next_refresh: Instant,
    /// Set when the switch is one of several workers.
    sharing: Option<share::Sharing>,
    /// The captures in progress.
    watches: Watches,
    /// The time of this turn, for captures of outgoing frames.
    now: Instant,
}

/// A frame after the first stages. The batch loop fills it in place, since it is large.
#[derive(Clone, Copy, Debug, Default)]
struct Parsed {
    h: Headers,
    adm: Admission,
    probe: Probe,
    /// Why the frame may not enter. If set, the other fields are meaningless.
    refused: Option<DropReason>,
    /// The flow is a candidate for the kernel offload.
    hot: bool,
}

/// A frame in the decision stages: its ingress, headers and verdict.
#[derive(Clone, Copy, Debug)]
struct Onward<'a> {
    id: PortId,
    adm: &'a Admission,
    h: &'a Headers,
    verdict: &'a Verdict,
}

/// The ingress of a batch: everything that the first stages need for each frame.
struct Ingress<'a> {
    tables: &'a Tables,
    id: PortId,
    port: Option<&'a PortEntry>,
    uplink: Option<&'a UplinkConfig>,
    vtep: Ip,
}

impl<'a> Ingress<'a> {
    fn new(tables: &'a Tables, id: PortId) -> Self {
        let port = tables.ports.get(id);
        let is_uplink = port.is_some_and(|p| p.config.role == Role::Uplink);
        let uplink = tables.uplink.as_ref().filter(|u| u.port == id && is_uplink);
        Self { tables, id, port, uplink, vtep: uplink.map_or(Ip::default(), |u| u.vtep.into()) }
    }

    #[inline]
    fn parse<P: FramePool>(&self, frame: &mut Frame, pool: &P, parsed: &mut Parsed) {
        parsed.refused = self.admit(frame, pool, parsed).err();
    }

    #[inline]
    fn admit<P: FramePool>(
        &self,
        frame: &mut Frame,
        pool: &P,
        parsed: &mut Parsed,
    ) -> Result<(), DropReason> {
        let port = self.port.ok_or(DropReason::PortNotLive)?;
        let bytes = pool.bytes(frame);
        let h = &mut parsed.h;
        match (self.uplink, port.config.role) {
            (Some(uplink), _) => parse::uplink(bytes, uplink, self.vtep, h)?,
            (None, Role::Uplink) => return Err(DropReason::PortNotLive),
            (None, _) => parse::ethernet(bytes, 0, h)?,
        }
        if port.caps.rx_csum_unmarked
            && !frame.offload.csum_partial()
            && let Some(mut offload) = fit::unmarked_partial(bytes, h)
        {
            if let Some(uplink) = self.uplink {
                fit::untold_segments(bytes, h, uplink.mtu, &mut offload)?;
            }
            frame.offload = offload;
        }
        if !frame.offload.is_none() {
            fit::check(bytes, h, &mut frame.offload)?;
        }
        parsed.adm = classify::admit(self.tables, self.id, port, h, bytes)?;
        parsed.probe = Probe::new(self.tables, &parsed.adm, h);
        parsed.probe.touch(self.tables);
        Ok(())
    }
}

/// Whether packets of this flow have, or may have, unfinished checksums inside a tunnel of the sender's own.
/// The kernel offload cannot see those.
#[cold]
fn hides_more(tables: &Tables, id: PortId, h: &Headers, offload: Offload, bytes: &[u8]) -> bool {
    let unmarked = tables.ports.get(id).is_some_and(|port| port.caps.rx_csum_unmarked);
    let payload = || &bytes[usize::from(h.l4) + l4::UDP_HEADER_LEN..];
    offload.csum_partial() && offload.csum_start != h.l4
        || unmarked && h.l4 != 0 && h.proto == l4::UDP && fit::looks_like_tunnel(payload())
}

/// Interval between runs of [`Switch::tick`], which ages the tables and resolves missing next hops.
const TICK: Duration = Duration::from_millis(250);

/// Number of bytes kept as the sample of a drop reason.
const SAMPLE_LEN: usize = 128;

impl Switch {
    /// Creates a switch without ports. `seed` keys every hash.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            tables: Tables::new(seed),
            counters: SwitchCounters::default(),
            memo: Memo::new(seed),
            looks: alloc::vec![Look::default(); BATCH_LEN],
            remembered: 0,
            parsed: alloc::vec![Parsed::default(); BATCH_LEN],
            targets: Vec::new(),
            punted: Vec::with_capacity(BATCH_LEN),
            opened: Vec::with_capacity(BATCH_LEN * TUNNEL_DATAGRAMS_IN_MAX),
            merges: Merges::new(),
            gated: Vec::new(),
            crowded: false,
            events: Vec::with_capacity(2 * LEARNED_EVENTS as usize),
            error_limit: ErrorLimit::new(seed.rotate_left(32)),
            silent_hops: SilentHops::default(),
            path_answers: TokenBucket::new(Instant::ZERO, Some(PATH_ANSWERS_PPS)),
            path_told: 0,
            peers_told: 0,
            fragment_id: seed as u32,
            learned_told: 0,
            samples: (0..DROP_REASONS).map(|_| None).collect(),
            sampled: [false; DROP_REASONS],
            announcing: Vec::new(),
            flows: None,
            next_announce: Instant::ZERO,
            next_tick: Instant::ZERO,
            next_resolve: Instant::ZERO,
            next_refresh: Instant::ZERO,
            sharing: None,
            watches: Watches::default(),
            now: Instant::ZERO,
        }
    }

    /// Takes a batch that came in at `port` and leaves it empty. Every frame is then on a transmit queue,
    /// punted, or dropped and counted.
    pub fn forward<P: FramePool>(&mut self, now: Instant, port: PortId, batch: &mut Batch, pool: &mut P) {
        let (gated, tunnels) = match self.tables.ports.get(port) {
            Some(p) => (p.gated, brings_tunnels(p.config.role, p.caps)),
            None => (false, false),
        };
        if gated {
            self.gate(now, port, batch, pool, &mut ());
        }
        if tunnels && batch.iter().any(|frame| frame.offload.gso_kind == GsoKind::Udp) {
            self.forward_opened(now, port, batch, pool);
        } else {
            self.forward_batch(now, port, batch, pool);
        }
    }

    fn forward_batch<P: FramePool>(&mut self, now: Instant, port: PortId, batch: &mut Batch, pool: &mut P) {
        if !self.watches.is_empty() && self.watches.covers(port) {
            return self.forward_watched(now, port, batch, pool);
        }
        let known = self.look_batch(port, batch, pool);
        let all_known = known == batch.len();
        if !all_known {
            self.parse_batch(port, batch, pool);
        }
        let (mut looks, mut parsed) = (core::mem::take(&mut self.looks), core::mem::take(&mut self.parsed));
        let sampling = self.flows.as_ref().is_some_and(cache::FlowBook::is_on);
        for (at, mut frame) in batch.drain(..).enumerate() {
            let look = &mut looks[at];
            let mut hot = false;
            if look.found {
                let known = all_known || self.memo.find(&self.tables, look);
                hot = sampling && known && self.is_sampled(look) && self.is_hot(look, &frame, pool);
                if known && !hot {
                    self.remembered += 1;
                    self.forward_known(now, port, look, frame, pool);
                    continue;
                }
                // An earlier frame of this batch took the slow path and invalidated or displaced the entry;
                // or the flow is a candidate for the kernel offload, which needs more facts than the flow
                // cache holds.
                Ingress::new(&self.tables, port).parse(&mut frame, pool, &mut parsed[at]);
            }
            parsed[at].hot = hot;
            match parsed[at].refused {
                None => self.forward_one(now, port, look, &parsed[at], frame, pool),
                Some(reason) => {
                    self.note_refusal(now, port, &parsed[at].h, reason, &frame, pool);
                    self.refuse(now, port, &parsed[at].h, frame, reason, pool);
                }
            }
        }
        (self.looks, self.parsed) = (looks, parsed);
    }

    /// Counts a batch in and looks up its frames in the flow cache. Prefetches for all frames before it
    /// compares the first, so that the cache misses overlap. Returns the number of frames found.
    #[inline(never)]
    fn look_batch<P: FramePool>(&mut self, id: PortId, batch: &Batch, pool: &P) -> usize {
        for frame in batch {
            pool.prefetch(frame);
        }
        self.counters.rx += batch.len() as u64;
        let tables = &self.tables;
        let mut side = tables.ports.get(id).and_then(|port| Side::new(tables, id, port));
        let mut rx_bytes = 0;
        for (frame, look) in batch.iter().zip(&mut self.looks) {
            let bytes = pool.bytes(frame);
            rx_bytes += bytes.len() as u64;
            (look.plain, look.found) = (false, false);
            if let Some(side) = &mut side
                && frame.offload.is_none()
            {
                side.look(tables, bytes, look);
                if look.plain {
                    self.memo.touch(look);
                }
            }
        }
        let mut known = 0;
        for look in &mut self.looks[..batch.len()] {
            known += usize::from(look.plain && self.memo.find(tables, look));
        }
        if let Some(port) = self.tables.ports.get_mut(id) {
            port.counters.rx_frames += batch.len() as u64;
            port.counters.rx_bytes += rx_bytes;
        }
        known
    }

    /// Runs the first stages for the frames that the flow cache did not find: parse, admit, and prefetch the
    /// lines that the next stages read.
    #[inline(never)]
    fn parse_batch<P: FramePool>(&mut self, id: PortId, batch: &mut Batch, pool: &P) {
        let ingress = Ingress::new(&self.tables, id);
        for ((frame, look), parsed) in batch.iter_mut().zip(&self.looks).zip(&mut self.parsed) {
            if !look.found {
                ingress.parse(frame, pool, parsed);
            }
        }
    }

    /// Whether the hot-flow detector counts this frame. One frame in [`FLOW_SAMPLE`] stands for the others.
    #[inline]
    fn is_sampled(&mut self, look: &Look) -> bool {
        self.memo.entry(look).0.hits % FLOW_SAMPLE == FLOW_SAMPLE - 1
    }

    /// Whether the flow of a sampled frame is hot. One flow cache entry may cover all flows between two
    /// stations; the kernel offload needs one entry per flow.
    #[inline(never)]
    fn is_hot<P: FramePool>(&mut self, look: &Look, frame: &Frame, pool: &P) -> bool {
        let hash = parse::plain_hash(&pool.bytes(frame)[usize::from(look.eth)..]);
        self.flows.as_mut().is_some_and(|flows| flows.is_hot(hash, FLOW_SAMPLE))
    }

    /// Runs all stages for a frame that the flow cache found.
    #[inline]
    fn forward_known<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        look: &Look,
        mut frame: Frame,
        pool: &mut P,
    ) {
        let (entry, rewrite) = self.memo.entry(look);
        let tables = &mut self.tables;
        entry.hits = entry.hits.wrapping_add(1);
        entry.refresh(rewrite, &mut tables.fdb, fdb::tick(now));
        if entry.is(memo::FROM_PEER)
            && let Some(peer) = tables.peers.get_mut(PeerId(entry.from_peer))
        {
            peer.rx.count(u32::from(look.len));
        }
        if entry.is(memo::COUNT_IN | memo::COUNT_OUT) {
            let outbound = entry.is(memo::COUNT_OUT);
            tables.floating.hit(FloatingId(rewrite.mapping), outbound, u32::from(look.len));
        }
        let (mut head, mut len) = (frame.head + u16::from(look.eth), u32::from(look.len));
        let mut to = PortId(entry.out);
        if entry.is(memo::TO_PEER | memo::ROUTE) {
            let mut edited = Frame { slot: frame.slot, head, len, offload: Offload::NONE };
            let flow = act::replay(pool.bytes_mut(&mut edited), look.proto, entry, rewrite);
            if entry.is(memo::TO_PEER) {
                let vni = entry.vni();
                let uplink = tables.uplink.as_ref().map(|u| u.port);
                let (Some(uplink), Some(peer)) = (uplink, tables.peers.get_mut(PeerId(entry.out))) else {
                    return self.drop_frame(id, frame, DropReason::PeerGone, pool);
                };
                (frame.head, frame.len) = (head, len);
                if !act::grow_head(pool, &mut frame, peer.outer.len) {
                    return self.drop_frame(id, frame, DropReason::PoolExhausted, pool);
                }
                (head, len) = (frame.head, frame.len);
                peer.tx.count(u32::from(look.len));
                let entropy = TunnelFacts::port(flow.hash);
                peer.outer.stamp(pool.bytes_mut(&mut frame), vni, entropy, flow.ecn, peer.outer.ttl);
                to = uplink;
            }
        }
        self.enqueue_as(to, frame, head, len, pool);
    }

    #[inline(never)]
    fn forward_one<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        look: &Look,
        parsed: &Parsed,
        frame: Frame,
        pool: &mut P,
    ) {
        self.learn(now, parsed, &frame, pool);
        self.decide(now, id, look, parsed, frame, pool, &mut ());
    }

    #[inline]
    fn learn<P: FramePool>(
        &mut self,
        now: Instant,
        Parsed { h, adm, probe, .. }: &Parsed,
        frame: &Frame,
        pool: &mut P,
    ) {
        if h.part == Part::First {
            route::note_fragment(&mut self.tables, adm, h, pool.bytes(frame));
        }
        if let Some((location, moved)) = learn::learn(&mut self.tables, now, adm, h, probe, pool.bytes(frame))
        {
            self.learned(now, adm, h, location, moved);
        }
        if let From::Peer(peer, _) = adm.from
            && h.eth_src.is_switch()
        {
            self.hear_switch(adm, peer, h, pool.bytes(frame));
        }
        if h.is_icmpv6() && self.tables.ports.any_claims() && icmp::is_nd(h.icmp_type()) {
            self.hear_of_link_local(now, adm, h, frame, pool);
        }
    }

    /// Classifies an admitted frame and carries out the verdict.
    #[inline]
    #[allow(clippy::too_many_arguments, reason = "the facts of one frame")]
    fn decide<P: FramePool, T: Trail>(
        &mut self,
        now: Instant,
        id: PortId,
        look: &Look,
        Parsed { h, adm, probe, hot, .. }: &Parsed,
        frame: Frame,
        pool: &mut P,
        trail: &mut T,
    ) {
        let verdict = classify::classify(&self.tables, adm, h, probe, pool.bytes(&frame), trail);
        trail.decided(&verdict);
        if look.plain {
            self.memo.remember(&self.tables, look, adm, h, probe, &verdict);
        }
        if let From::Peer(peer, _) = adm.from
            && let Some(peer) = self.tables.peers.get_mut(peer)
        {
            peer.rx.count(h.end - u32::from(h.eth));
        }
        if let Some(flows) = &mut self.flows
            && flows.is_on()
            && (*hot || flows.is_hot(h.hash, 1))
            && !hides_more(&self.tables, id, h, frame.offload, pool.bytes(&frame))
        {
            flows.consider(&self.tables, id, (adm, h, probe), &verdict);
        }
        self.carry_out(now, Onward { id, adm, h, verdict: &verdict }, frame, pool, trail);
    }

    /// Reports a station that appeared or moved.
    #[cold]
    fn learned(&mut self, now: Instant, adm: &Admission, h: &Headers, location: Location, moved: bool) {
        if self.learned_told < LEARNED_EVENTS {
            self.learned_told += 1;
            self.events.push(Event::Learned(adm.vni, adm.vid, h.eth_src, location, moved));
        }
        self.claim(now, adm.vni, adm.vid, h.eth_src, location);
    }

    /// Stages three and later: edits the frame and queues it for its output.
    fn carry_out<P: FramePool, T: Trail>(
        &mut self,
        now: Instant,
        on: Onward<'_>,
        mut frame: Frame,
        pool: &mut P,
        trail: &mut T,
    ) {
        let Onward { id, adm, h, verdict } = on;
        match verdict.out {
            Out::Drop(reason) => return self.drop_frame(id, frame, reason, pool),
            Out::Refuse(reason, what) => {
                self.tell(now, on, what, true, &frame, pool, trail);
                return self.drop_frame(id, frame, reason, pool);
            }
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
            Out::Punt if self.is_silent_hop(now, h, verdict) => {
                self.tell(now, on, Refusal::HostUnreachable, true, &frame, pool, trail);
                return self.drop_frame(id, frame, DropReason::NeighborUnresolved, pool);
            }
            _ => {}
        }
        if mss::opens(h, pool.bytes(&frame)) {
            self.clamp_mss(adm, h, verdict, &mut frame, pool);
        }
        if let Some(mtu) = self.exceeded_mtu(h, verdict) {
            return self.exceed(now, on, mtu, frame, pool, trail);
        }
        if !act::act(pool, &mut frame, h, verdict) {
            return self.drop_frame(id, frame, DropReason::PoolExhausted, pool);
        }
        self.count_mapping(verdict, frame.len);
        if verdict.out == Out::Hairpin(Responder::Dhcp { boots: true }) {
            self.ask_boot_servers(now, on, &frame, pool);
        }
        self.send_onward(on, frame, pool);
    }

    /// Whether the kernel has failed to resolve the next hop of a packet that the switch would punt to it.
    #[cold]
    fn is_silent_hop(&mut self, now: Instant, h: &Headers, verdict: &Verdict) -> bool {
        let from = verdict.edits.nat.filter(|nat| nat.source).map_or(h.src, |nat| nat.address);
        match self.tables.underlay.hop_from(from, h.dst) {
            Hop::Unresolved(hop) => self.silent_hops.wanted(now, hop),
            Hop::Mac(_) | Hop::NoRoute => false,
        }
    }

    /// Queues an edited frame for the output that the verdict names.
    #[inline]
    fn send_onward<P: FramePool>(&mut self, on: Onward<'_>, frame: Frame, pool: &mut P) {
        let Onward { id, adm, h, verdict } = on;
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
            Out::Consume | Out::Drop(_) | Out::Refuse(..) => unreachable!("carried out already"),
        }
    }

    fn count_mapping(&mut self, verdict: &Verdict, bytes: u32) {
        if let Some(nat) = &verdict.edits.nat {
            self.tables.floating.hit(nat.id, nat.source, bytes);
        } else if let Some(id) = verdict.edits.route.and_then(|r| r.id) {
            self.tables.floating.hit(id, true, bytes);
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
}
