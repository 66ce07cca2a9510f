//! The books of a verdict cache under the fast path: which flows are hot, which are installed, and what their
//! hits count for. The cache itself ([`FlowCache`]) belongs to the daemon: maps of an XDP program.
//!
//! A flow is installed by what [`super::flow::compose`] says of one of its packets. It is used until what it
//! rests on changes: any change of a table revokes all flows at once ([`FlowCache::set_version`]), a station
//! that leaves its place only the flows from and to it. [`Switch::publish`] does both, before anything is
//! answered or sent by the new state. A flow that is still hot afterwards is decided and installed again.
//!
//! Hits are added to the very counters that the walk counts on, so the sums hold whenever somebody looks.
//!
//! [`Switch::publish`]: super::Switch::publish

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::Tables;
use super::classify::{Admission, Probe};
use super::flow::{self, Flow, OUTER_LEN, Tally};
use super::parse::Headers;
use super::verdict::Verdict;
use crate::command::PortId;
use crate::counters::{DropReason, SwitchCounters, Volume};
use crate::limits::{FLOW_HOT_FRAMES, FLOW_IDLE_TICKS, FLOW_INSTALLS, FLOW_STALE_TICKS, FLOW_WARM_FRAMES};
use crate::table::fdb::FdbKey;
use crate::time::Instant;

/// Where decided flows are kept for the kernel to follow. Never blocks.
pub trait FlowCache {
    /// How many flows it has room for; slots are numbered below it.
    fn capacity(&self) -> u32;
    /// Flows may be installed.
    fn is_on(&self) -> bool;
    /// Only one worker installs flows.
    fn is_alone(&self) -> bool;
    /// From now on no flow installed before is followed.
    fn revoke_all(&mut self);
    /// Installs a flow and gives its slot; that where it is already, if nothing about it is different. `None`:
    /// no room, or not on these ports.
    fn install(&mut self, flow: &Flow) -> Option<u32>;
    /// From now on the flow in this slot is not followed. The slot comes back by [`FlowCache::reclaim`], once.
    fn revoke(&mut self, slot: u32);
    /// A revoked slot that nothing under way can use any more.
    fn reclaim(&mut self) -> Option<u32>;
    /// What came of a slot's flow since this was asked last. Of a reclaimed slot it is asked once.
    fn take_hits(&mut self, slot: u32) -> Hits;
    /// Frames that an output refused although they count as hits, since this was asked last.
    fn take_lost(&mut self) -> Option<(PortId, u64)>;
    /// So many of them are not counted here: another worker has counted them as sent.
    fn give_back_lost(&mut self, id: PortId, frames: u64);
}

/// What came of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hits {
    /// Frames.
    pub frames: u64,
    /// Their bytes, without outer headers.
    pub bytes: u64,
    /// How many of the frames found their output gone.
    pub stray: u64,
}

/// The cache with its books.
pub struct FlowBook {
    cache: Box<dyn FlowCache + Send>,
    hot: Box<[u32; CELLS]>,
    slots: Vec<Option<Installed>>,
    /// Slots in use, in no order.
    used: Vec<u32>,
    installs_left: u32,
    /// Packets within a tick that make a flow worth a place.
    threshold: u32,
    on: bool,
    /// Somebody looks at frames, which have to come up for that.
    watched: bool,
    /// What the tables were when flows were revoked last.
    version: u32,
    departures: u32,
    /// Counts how often all flows were revoked.
    era: u32,
    ticks: u32,
}

/// Cells of the hot-flow detector: one page, so that it stays near.
const CELLS: usize = 1024;

/// An installed flow.
#[derive(Debug)]
struct Installed {
    flow: Flow,
    src: (u64, FdbKey),
    /// Cells and versions of its source and destination (see [`Fdb::version`]).
    src_version: (u16, u32),
    dst_version: (u16, u32),
    /// Valid in this era only.
    era: u32,
    revoked: bool,
    /// When it was hit, or installed, last.
    tick: u32,
}

impl core::fmt::Debug for FlowBook {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FlowBook")
            .field("used", &self.used.len())
            .field("era", &self.era)
            .finish_non_exhaustive()
    }
}

impl FlowBook {
    /// Books of an empty cache.
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

    /// Whether flows may be installed: else nobody need look for hot ones.
    #[inline]
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.on && !self.watched
    }

    /// Whether somebody looks at frames: then no flow is installed. That it begins is a change, which revokes all.
    #[inline]
    pub const fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// Counts a packet of the flow with this hash, which stands for `weight` of them. True every
    /// [`FLOW_HOT_FRAMES`] packets of a flow that is hot; of [`FLOW_WARM_FRAMES`] while there is room.
    ///
    /// A cell belongs to one flow; packets of others wear it down and then take it, so a flood of flows of a
    /// packet each never looks hot.
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

    /// Installs the flow of a packet that was just decided, if its next one can do without the walk.
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
        // What was composed is true of the tables as they are; what is in the cache must be no older.
        self.publish(tables);
        let Some(slot) = self.cache.install(&flow) else { return };
        self.installs_left -= 1;
        // As the memo's stamp has them.
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

    /// Revokes what no longer rests on the tables as they are. To be called before anything is answered or sent
    /// that follows from a change.
    #[inline]
    pub fn publish(&mut self, tables: &Tables) {
        self.on = self.cache.is_on();
        let departures = tables.fdb.departures();
        // What other workers installed for a station that left is known to them alone.
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

    /// Adds what was hit since the last time to everything it counts for.
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

    /// Once per tick: counts, forgets flows that are idle or no longer true, and takes back their slots.
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
            // One of an older era is given time to be decided again as it was.
            let patience = if flow.era == self.era { FLOW_IDLE_TICKS } else { FLOW_STALE_TICKS };
            if !flow.revoked && idle > patience {
                flow.revoked = true;
                self.cache.revoke(slot);
            }
        }
        let mut reclaimed = false;
        while let Some(slot) = self.cache.reclaim() {
            // What ran when it was revoked has ended, and its last hits are counted.
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

/// Adds hits to the counters of everything that such a frame meets on its walk.
fn count(
    now: Instant,
    tables: &mut Tables,
    counters: &mut SwitchCounters,
    installed: &Installed,
    Hits { frames, bytes, stray }: Hits,
) {
    let Flow { key, action, tally } = &installed.flow;
    let outer = |there: bool| if there { frames * OUTER_LEN as u64 } else { 0 };
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
    // Who was heard stays known; who has moved meanwhile is not moved back.
    if let Some(location) = station.filter(|_| frames > 0)
        && tables.fdb.lookup(installed.src.0, installed.src.1) == Some(location)
    {
        tables.fdb.learn(now, installed.src, location, u32::MAX);
    }
}
