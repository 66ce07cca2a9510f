//! Bookkeeping of the kernel offload: which flows are hot, which are installed, and which counters their hits
//! belong to. The daemon owns the offload itself ([`FlowCache`]), the maps of an XDP program.
//!
//! [`super::flow::compose`] turns the verdict about one packet into a flow that the kernel can follow. The
//! kernel follows it until its basis changes: any change of a table revokes all flows
//! ([`FlowCache::revoke_all`]), and a station that moves or leaves revokes the flows from and to it.
//! [`Switch::publish`] does both, before the switch answers or sends anything that depends on the new state.
//! The switch classifies and installs a flow again if it is still hot afterwards.
//!
//! Hits are added to the same counters that the pipeline uses, so sums are right at any time.
//!
//! [`Switch::publish`]: super::Switch::publish

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::Tables;
use super::classify::{Admission, Probe};
use super::flow::{self, Flow, Tally};
use super::parse::Headers;
use super::verdict::Verdict;
use crate::command::PortId;
use crate::counters::{DropReason, SwitchCounters, Volume};
use crate::limits::{FLOW_HOT_FRAMES, FLOW_IDLE_TICKS, FLOW_INSTALLS, FLOW_STALE_TICKS, FLOW_WARM_FRAMES};
use crate::table::fdb::FdbKey;
use crate::time::Instant;
use crate::tunnel::OUTER_V4_LEN;

/// The kernel's table of decided flows. Its methods never block.
pub trait FlowCache {
    /// Maximum number of flows. Slot numbers are below it.
    fn capacity(&self) -> u32;
    /// Whether flows may be installed.
    fn is_on(&self) -> bool;
    /// Whether only one worker installs flows.
    fn is_alone(&self) -> bool;
    /// Makes the kernel ignore all flows installed so far.
    fn revoke_all(&mut self);
    /// Installs a flow and returns its slot. A flow that is already installed unchanged keeps its slot.
    /// Returns `None` when the table is full or these ports are not supported.
    fn install(&mut self, flow: &Flow) -> Option<u32>;
    /// Makes the kernel ignore the flow in this slot. [`FlowCache::reclaim`] returns the slot later, once.
    fn revoke(&mut self, slot: u32);
    /// Takes back a revoked slot that no packet in progress can use any more.
    fn reclaim(&mut self) -> Option<u32>;
    /// Returns the slot's hits since the last call. Called once more for a reclaimed slot.
    fn take_hits(&mut self, slot: u32) -> Hits;
    /// Returns the number of frames, since the last call, that an output refused although they count as hits.
    fn take_lost(&mut self) -> Option<(PortId, u64)>;
    /// Returns lost frames that this worker must not count, because another worker has counted them as sent.
    fn give_back_lost(&mut self, id: PortId, frames: u64);
}

/// The hits of one flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hits {
    /// Number of frames.
    pub frames: u64,
    /// Number of bytes, without outer headers.
    pub bytes: u64,
    /// Number of these frames whose output was gone.
    pub stray: u64,
}

/// The kernel offload and its bookkeeping.
pub struct FlowBook {
    cache: Box<dyn FlowCache + Send>,
    hot: Box<[u32; CELLS]>,
    slots: Vec<Option<Installed>>,
    /// Slots in use, unordered.
    used: Vec<u32>,
    installs_left: u32,
    /// Number of packets within a tick that makes a flow hot.
    threshold: u32,
    on: bool,
    /// A capture is in progress, so all frames have to reach the switch.
    watched: bool,
    /// Version of the tables when flows were last revoked.
    version: u32,
    departures: u32,
    /// Number of times that all flows were revoked.
    era: u32,
    ticks: u32,
}

/// Number of cells of the hot-flow detector: one page, which stays in the cache.
const CELLS: usize = 1024;

/// An installed flow.
#[derive(Debug)]
struct Installed {
    flow: Flow,
    src: (u64, FdbKey),
    /// Cells and versions of the source and the destination (see [`Fdb::version`]).
    src_version: (u16, u32),
    dst_version: (u16, u32),
    /// The flow is valid in this era only.
    era: u32,
    revoked: bool,
    /// The tick in which the flow was last hit or installed.
    tick: u32,
}

impl core::fmt::Debug for FlowBook {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { hot, slots, used, era, ticks, installs_left, threshold, .. } = self;
        let hot: Vec<_> = hot.iter().enumerate().filter(|(_, cell)| **cell != 0).collect();
        let slots: Vec<_> = used.iter().map(|&slot| (slot, &slots[slot as usize])).collect();
        f.debug_struct("FlowBook")
            .field("hot", &hot)
            .field("slots", &slots)
            .field("era", era)
            .field("ticks", ticks)
            .field("installs_left", installs_left)
            .field("threshold", threshold)
            .finish_non_exhaustive()
    }
}

impl FlowBook {
    /// Creates the bookkeeping of an empty offload.
    #[must_use]
    pub fn new(cache: Box<dyn FlowCache + Send>) -> Self {
        let capacity = cache.capacity() as usize;
        Self {
            cache,
            hot: Box::new([0; CELLS]),
            slots: (0..capacity).map(|_| None).collect(),
            used: Vec::with_capacity(capacity),
            installs_left: 0,
            threshold: FLOW_WARM_FRAMES,
            on: false,
            watched: false,
            version: 0,
            departures: 0,
            era: 0,
            ticks: 0,
        }
    }

    /// Whether flows may be installed. Otherwise hot flows need not be detected.
    #[inline]
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.on && !self.watched
    }

    /// Sets whether a capture is in progress: then no flow is installed. The start of a capture is a change,
    /// which revokes all flows.
    #[inline]
    pub const fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// Counts a packet of the flow with this hash; the packet stands for `weight` packets. Returns true every
    /// [`FLOW_HOT_FRAMES`] packets of a hot flow, or every [`FLOW_WARM_FRAMES`] while there is room.
    ///
    /// A cell belongs to one flow. Packets of other flows wear its count down and then take the cell, so a
    /// flood of single-packet flows never looks hot.
    #[inline]
    pub fn is_hot(&mut self, hash: u32, weight: u32) -> bool {
        const COUNT: u32 = 0xff;
        let cell = &mut self.hot[hash as usize % CELLS];
        if (*cell ^ hash) & !COUNT == 0 {
            *cell += weight;
            if *cell & COUNT < self.threshold {
                return false;
            }
            *cell &= !COUNT;
            true
        } else {
            let left = (*cell & COUNT).saturating_sub(weight);
            *cell = if left == 0 { hash & !COUNT | weight } else { *cell & !COUNT | left };
            false
        }
    }

    /// Installs the flow of a packet that was just classified, if the flow's next packets do not need the
    /// pipeline.
    #[cold]
    pub fn consider(
        &mut self,
        tables: &Tables,
        id: PortId,
        (adm, h, probe): (&Admission, &Headers, &Probe),
        verdict: &Verdict,
    ) {
        if self.installs_left == 0 {
            return;
        }
        let Some(flow) = flow::compose(tables, id, adm, h, probe, verdict) else { return };
        // The flow was composed from the current tables, so revoke everything older first.
        self.publish(tables);
        let Some(slot) = self.cache.install(&flow) else { return };
        self.installs_left -= 1;
        // The same versions as in the flow cache's stamp.
        let version = |(hash, key): (u64, FdbKey)| {
            let cell = tables.fdb.version_cell(hash, key);
            (cell, tables.fdb.version(cell))
        };
        let next = FdbKey::new(verdict.vni, 0, verdict.edits.route.map_or(h.eth_dst, |route| route.dst));
        let place = &mut self.slots[slot as usize];
        if place.is_none() {
            self.used.push(slot);
        }
        *place = Some(Installed {
            flow,
            src: probe.src,
            src_version: version(probe.src),
            dst_version: version((tables.fdb.hash(next), next)),
            era: self.era,
            revoked: false,
            tick: self.ticks,
        });
    }

    /// Revokes the flows that the current tables no longer support. Call it before the switch answers or
    /// sends anything that follows from a change.
    #[inline]
    pub fn publish(&mut self, tables: &Tables) {
        self.on = self.cache.is_on();
        let departures = tables.fdb.departures();
        // Only the other workers know which flows they installed for a station that left.
        if tables.version != self.version || departures != self.departures && !self.cache.is_alone() {
            self.version = tables.version;
            self.era = self.era.wrapping_add(1);
            self.cache.revoke_all();
        } else if departures != self.departures {
            self.revoke_departed(tables);
        }
        self.departures = departures;
    }

    #[cold]
    fn revoke_departed(&mut self, tables: &Tables) {
        let holds = |(cell, version)| tables.fdb.version(cell) == version;
        for &slot in &self.used {
            let Some(flow) = &mut self.slots[slot as usize] else { continue };
            let stands = holds(flow.src_version) && holds(flow.dst_version);
            if !stands && !flow.revoked {
                flow.revoked = true;
                self.cache.revoke(slot);
            }
        }
    }

    /// Adds the hits since the last call to all counters that they belong to.
    pub fn fold(&mut self, now: Instant, tables: &mut Tables, counters: &mut SwitchCounters) {
        for &slot in &self.used {
            let Some(installed) = &mut self.slots[slot as usize] else { continue };
            let hits = self.cache.take_hits(slot);
            if hits.frames > 0 {
                installed.tick = self.ticks;
                count(now, tables, counters, installed, hits);
            }
        }
        while let Some((id, lost)) = self.cache.take_lost() {
            let port = tables.ports.get_mut(id);
            let sent = port.as_ref().map_or(counters.tx, |port| port.counters.tx_frames);
            let here = lost.min(sent).min(counters.tx);
            self.cache.give_back_lost(id, lost - here);
            counters.tx -= here;
            counters.dropped += here;
            if let Some(port) = port {
                port.counters.tx_frames -= here;
                port.counters.drops[DropReason::TxQueueFull as usize] += here;
            }
        }
    }

    /// Runs once per tick: counts hits, forgets flows that are idle or outdated, and takes back their slots.
    pub fn tick(&mut self, now: Instant, tables: &mut Tables, counters: &mut SwitchCounters) {
        self.publish(tables);
        self.fold(now, tables, counters);
        self.ticks = self.ticks.wrapping_add(1);
        self.installs_left = FLOW_INSTALLS;
        let roomy = self.used.len() < self.slots.len() / 2;
        self.threshold = if roomy { FLOW_WARM_FRAMES } else { FLOW_HOT_FRAMES };
        self.hot.fill(0);
        for &slot in &self.used {
            let Some(flow) = &mut self.slots[slot as usize] else { continue };
            let idle = self.ticks.wrapping_sub(flow.tick);
            // A flow of an older era gets time to be classified again as before.
            let patience = if flow.era == self.era { FLOW_IDLE_TICKS } else { FLOW_STALE_TICKS };
            if !flow.revoked && idle > patience {
                flow.revoked = true;
                self.cache.revoke(slot);
            }
        }
        let mut reclaimed = false;
        while let Some(slot) = self.cache.reclaim() {
            // The packets that were in progress at the revocation are done, and the last hits are counted.
            reclaimed = true;
            let hits = self.cache.take_hits(slot);
            if let Some(installed) = self.slots[slot as usize].take() {
                count(now, tables, counters, &installed, hits);
            }
        }
        if reclaimed {
            self.used.retain(|&slot| self.slots[slot as usize].is_some());
        }
    }
}

/// Adds hits to all counters that such a frame changes in the pipeline.
fn count(
    now: Instant,
    tables: &mut Tables,
    counters: &mut SwitchCounters,
    installed: &Installed,
    Hits { frames, bytes, stray }: Hits,
) {
    let Flow { key, action, tally } = &installed.flow;
    let outer = |there: bool| if there { frames * OUTER_V4_LEN as u64 } else { 0 };
    counters.rx += frames;
    counters.tx += frames - stray;
    counters.dropped += stray;
    if let Some(port) = tables.ports.get_mut(key.port) {
        port.counters.rx_frames += frames;
        port.counters.rx_bytes += bytes + outer(key.tunnel.is_some());
    }
    if let Some(port) = tables.ports.get_mut(action.out) {
        port.counters.tx_frames += frames - stray;
        port.counters.drops[DropReason::TxError as usize] += stray;
        port.counters.tx_bytes += bytes + outer(action.outer.is_some());
    }
    let Tally { peer_rx, peer_tx, floating, station } = *tally;
    if let Some(peer) = peer_rx.and_then(|id| tables.peers.get_mut(id)) {
        peer.rx += Volume { frames, bytes };
    }
    if let Some(peer) = peer_tx.and_then(|id| tables.peers.get_mut(id)) {
        peer.tx += Volume { frames, bytes };
    }
    if let Some((id, outbound)) = floating {
        tables.floating.add_hits(id, outbound, Volume { frames, bytes });
    }
    // A hit keeps the sender's FDB entry alive, unless the station has moved since.
    if let Some(location) = station.filter(|_| frames > 0)
        && tables.fdb.lookup(installed.src.0, installed.src.1) == Some(location)
    {
        tables.fdb.learn(now, installed.src, location, u32::MAX);
    }
}
