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
mod pipeline;
mod route;
mod scratch;
mod tables;
mod watched;

use alloc::vec::Vec;

use self::cache::FlowBook;
use self::classify::{Admission, From, Probe};
use self::fit::send::brings_tunnels;
use self::memo::{Look, Memo, Side};
use self::output::TunnelFacts;
use self::parse::{Headers, Part};
use self::pipeline::{Onward, Pipeline};
pub use self::tables::Tables;
use self::trail::Trail;
use self::verdict::Verdict;
use crate::command::{Event, FloatingId, Location, PeerId, PortId, Role, UplinkConfig, Vni};
use crate::counters::DropReason;
use crate::frame::{Batch, Frame, FramePool, GsoKind, Offload};
use crate::limits::{BATCH_LEN, FLOW_SAMPLE, LEARNED_EVENTS, TUNNEL_DATAGRAMS_IN_MAX};
use crate::table::fdb;
use crate::table::port::PortEntry;
use crate::time::{Duration, Instant};
use crate::watch::Watches;
use crate::wire::icmp;
use crate::wire::ip::Ip;
use crate::wire::l4;

/// A switch: tables, counters, and the pipeline. It owns no clock, socket or thread.
#[derive(Debug)]
pub struct Switch {
    /// All that a dry run works on a copy of.
    pipeline: Pipeline,
    flows: Flows,
    chores: Chores,
    /// Set when the switch is one of several workers.
    sharing: Option<share::Sharing>,
    /// The captures in progress.
    watches: Watches,
    /// The time of this turn, for captures of outgoing frames.
    now: Instant,
}

/// The two faster ways past the pipeline, and the scratch space of a batch.
#[derive(Debug)]
struct Flows {
    /// The flow cache.
    memo: Memo,
    /// Number of frames forwarded from the flow cache.
    remembered: u64,
    /// The bookkeeping of the kernel offload, if there is one.
    book: Option<FlowBook>,
    looks: Vec<Look>,
    parsed: Vec<Parsed>,
    /// The frames that a tunnel GSO packet contains.
    opened: Vec<Frame>,
}

/// What the switch does by the clock.
#[derive(Debug)]
struct Chores {
    /// Floating IPs that moved here, and how many announcements of each are still to be sent.
    announcing: Vec<(Vni, Ip, u8)>,
    next_announce: Instant,
    next_tick: Instant,
    next_resolve: Instant,
    next_refresh: Instant,
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

impl Pipeline {
    /// The decision about an admitted frame.
    #[inline]
    fn decide<P: FramePool>(
        &self,
        Parsed { h, adm, probe, .. }: &Parsed,
        frame: &Frame,
        pool: &P,
        trail: &mut impl Trail,
    ) -> Verdict {
        let verdict = classify::classify(&self.tables, adm, h, probe, pool.bytes(frame), trail);
        trail.decided(&verdict);
        verdict
    }
}

impl<F> Pipeline<F> {
    /// Counts an admitted frame where it came from.
    #[inline]
    fn accept(&mut self, Parsed { h, adm, .. }: &Parsed) {
        if let From::Peer(peer, _) = adm.from
            && let Some(peer) = self.tables.peers.get_mut(peer)
        {
            peer.rx.count(h.end - u32::from(h.eth));
        }
    }
}

impl Switch {
    /// Creates a switch without ports. `seed` keys every hash.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            pipeline: Pipeline::new(seed),
            flows: Flows {
                memo: Memo::new(seed),
                remembered: 0,
                book: None,
                looks: alloc::vec![Look::default(); BATCH_LEN],
                parsed: alloc::vec![Parsed::default(); BATCH_LEN],
                opened: Vec::with_capacity(BATCH_LEN * TUNNEL_DATAGRAMS_IN_MAX),
            },
            chores: Chores {
                announcing: Vec::new(),
                next_announce: Instant::ZERO,
                next_tick: Instant::ZERO,
                next_resolve: Instant::ZERO,
                next_refresh: Instant::ZERO,
            },
            sharing: None,
            watches: Watches::default(),
            now: Instant::ZERO,
        }
    }

    /// Takes a batch that came in at `port` and leaves it empty. Every frame is then on a transmit queue,
    /// punted, or dropped and counted.
    pub fn forward<P: FramePool>(&mut self, now: Instant, port: PortId, batch: &mut Batch, pool: &mut P) {
        let (gated, tunnels) = match self.pipeline.tables.ports.get(port) {
            Some(p) => (p.gated, brings_tunnels(p.config.role, p.caps)),
            None => (false, false),
        };
        if gated {
            self.pipeline.gate(now, port, batch, pool, &mut self.watches, &mut ());
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
        let (mut looks, mut parsed) =
            (core::mem::take(&mut self.flows.looks), core::mem::take(&mut self.flows.parsed));
        let sampling = self.flows.book.as_ref().is_some_and(FlowBook::is_on);
        for (at, mut frame) in batch.drain(..).enumerate() {
            let look = &mut looks[at];
            let mut hot = false;
            if look.found {
                let known = all_known || self.flows.memo.find(&self.pipeline.tables, look);
                hot = sampling && known && self.is_sampled(look) && self.is_hot(look, &frame, pool);
                if known && !hot {
                    self.flows.remembered += 1;
                    self.forward_known(now, port, look, frame, pool);
                    continue;
                }
                // An earlier frame of this batch took the slow path and invalidated or displaced the entry;
                // or the flow is a candidate for the kernel offload, which needs more facts than the flow
                // cache holds.
                Ingress::new(&self.pipeline.tables, port).parse(&mut frame, pool, &mut parsed[at]);
            }
            parsed[at].hot = hot;
            match parsed[at].refused {
                None => self.forward_one(now, port, look, &parsed[at], frame, pool),
                Some(reason) => {
                    self.note_refusal(now, port, &parsed[at].h, reason, &frame, pool);
                    self.pipeline.refuse(now, port, &parsed[at].h, frame, reason, pool);
                }
            }
        }
        (self.flows.looks, self.flows.parsed) = (looks, parsed);
    }

    /// Counts a batch in and looks up its frames in the flow cache. Prefetches for all frames before it
    /// compares the first, so that the cache misses overlap. Returns the number of frames found.
    #[inline(never)]
    fn look_batch<P: FramePool>(&mut self, id: PortId, batch: &Batch, pool: &P) -> usize {
        for frame in batch {
            pool.prefetch(frame);
        }
        self.pipeline.counters.rx += batch.len() as u64;
        let tables = &self.pipeline.tables;
        let mut side = tables.ports.get(id).and_then(|port| Side::new(tables, id, port));
        let mut rx_bytes = 0;
        for (frame, look) in batch.iter().zip(&mut self.flows.looks) {
            let bytes = pool.bytes(frame);
            rx_bytes += bytes.len() as u64;
            (look.plain, look.found) = (false, false);
            if let Some(side) = &mut side
                && frame.offload.is_none()
            {
                side.look(tables, bytes, look);
                if look.plain {
                    self.flows.memo.touch(look);
                }
            }
        }
        let mut known = 0;
        for look in &mut self.flows.looks[..batch.len()] {
            known += usize::from(look.plain && self.flows.memo.find(tables, look));
        }
        if let Some(port) = self.pipeline.tables.ports.get_mut(id) {
            port.counters.rx_frames += batch.len() as u64;
            port.counters.rx_bytes += rx_bytes;
        }
        known
    }

    /// Runs the first stages for the frames that the flow cache did not find: parse, admit, and prefetch the
    /// lines that the next stages read.
    #[inline(never)]
    fn parse_batch<P: FramePool>(&mut self, id: PortId, batch: &mut Batch, pool: &P) {
        let ingress = Ingress::new(&self.pipeline.tables, id);
        for ((frame, look), parsed) in batch.iter_mut().zip(&self.flows.looks).zip(&mut self.flows.parsed) {
            if !look.found {
                ingress.parse(frame, pool, parsed);
            }
        }
    }

    /// Whether the hot-flow detector counts this frame. One frame in [`FLOW_SAMPLE`] stands for the others.
    #[inline]
    fn is_sampled(&mut self, look: &Look) -> bool {
        self.flows.memo.entry(look).0.hits % FLOW_SAMPLE == FLOW_SAMPLE - 1
    }

    /// Whether the flow of a sampled frame is hot. One flow cache entry may cover all flows between two
    /// stations; the kernel offload needs one entry per flow.
    #[inline(never)]
    fn is_hot<P: FramePool>(&mut self, look: &Look, frame: &Frame, pool: &P) -> bool {
        let hash = parse::plain_hash(&pool.bytes(frame)[usize::from(look.eth)..]);
        self.flows.book.as_mut().is_some_and(|flows| flows.is_hot(hash, FLOW_SAMPLE))
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
        let (entry, rewrite) = self.flows.memo.entry(look);
        let tables = &mut self.pipeline.tables;
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
                    return self.pipeline.drop_frame(id, frame, DropReason::PeerGone, pool);
                };
                (frame.head, frame.len) = (head, len);
                if !act::grow_head(pool, &mut frame, peer.outer.len) {
                    return self.pipeline.drop_frame(id, frame, DropReason::PoolExhausted, pool);
                }
                (head, len) = (frame.head, frame.len);
                peer.tx.count(u32::from(look.len));
                let entropy = TunnelFacts::port(flow.hash);
                peer.outer.stamp(pool.bytes_mut(&mut frame), vni, entropy, flow.ecn, peer.outer.ttl);
                to = uplink;
            }
        }
        self.pipeline.enqueue_as(to, frame, head, len, pool);
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
        let Parsed { h, adm, probe, hot, .. } = parsed;
        let verdict = self.pipeline.decide(parsed, &frame, pool, &mut ());
        let tables = &self.pipeline.tables;
        if look.plain {
            self.flows.memo.remember(tables, look, adm, h, probe, &verdict);
        }
        if let Some(book) = &mut self.flows.book
            && book.is_on()
            && (*hot || book.is_hot(h.hash, 1))
            && !hides_more(tables, id, h, frame.offload, pool.bytes(&frame))
        {
            book.consider(tables, id, (adm, h, probe), &verdict);
        }
        self.pipeline.accept(parsed);
        self.pipeline.carry_out(now, Onward { id, adm, h, verdict: &verdict }, frame, pool, &mut ());
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
            route::note_fragment(&mut self.pipeline.tables, adm, h, pool.bytes(frame));
        }
        if let Some((location, moved)) =
            learn::learn(&mut self.pipeline.tables, now, adm, h, probe, pool.bytes(frame))
        {
            self.learned(now, adm, h, location, moved);
        }
        if let From::Peer(peer, _) = adm.from
            && h.eth_src.is_switch()
        {
            self.pipeline.hear_switch(adm, peer, h, pool.bytes(frame));
        }
        if h.is_icmpv6() && self.pipeline.tables.ports.any_claims() && icmp::is_nd(h.icmp_type()) {
            self.hear_of_link_local(now, adm, h, frame, pool);
        }
    }

    /// Reports a station that appeared or moved.
    #[cold]
    fn learned(&mut self, now: Instant, adm: &Admission, h: &Headers, location: Location, moved: bool) {
        if self.pipeline.reports.learned_told < LEARNED_EVENTS {
            self.pipeline.reports.learned_told += 1;
            self.pipeline.reports.events.push(Event::Learned(adm.vni, adm.vid, h.eth_src, location, moved));
        }
        self.claim(now, adm.vni, adm.vid, h.eth_src, location);
    }
}
