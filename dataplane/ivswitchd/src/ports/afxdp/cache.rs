//! The kernel offload's maps: the worker installs flows here, the programs of ports follow them (`bpf/cache.bpf.h`),
//! and the worker counts the programs' hits. Both sides use one mapping and make no system call.
//!
//! [`Writer`] is the worker's part. [`CacheControl`] is the control thread's: it decides which ports take
//! part, and waits for grace periods. Only these two write, apart from the programs' hit counts. A slot
//! belongs to the worker that took it until the worker has counted the slot's last hits. All workers share
//! one epoch: a worker whose tables change revokes every flow.
//!
//! **Why no program follows a stale flow.** A slot is valid while its epoch equals the cache's. The worker
//! changes the cache's epoch, or sets the slot's to zero, before it answers or sends anything by the new
//! state. Programs that looked before that store may still be running, and the frames they redirected may
//! wait in the kernel's bulk queue of that receive round. Both end with the round, which the kernel runs with
//! bottom halves disabled, so both end within an RCU grace period. `membarrier(2)` waits for one. Two things
//! wait for it, on the control thread: an answer to a client, if anything was revoked before it
//! ([`CacheControl::settle`]), and the slot itself, which is written again only after the grace period. A
//! program that saw the right epoch therefore reads one whole flow, and its hit is counted for that flow.
//!
//! Unsafe for the mappings and one call of `bpf(2)`.

mod slot;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use aya::maps::{DevMap, Map, MapData, MapError};
use ctl::io::{CacheMode, CacheStats};
use engine::command::PortId;
use engine::forward::cache::{FlowCache, Hits};
use engine::forward::flow::Flow;
use engine::limits::PORTS_MAX;

use super::layout::{
    CONTROL_WORDS, EPOCH, HIT_SHIFT, HITS, KEY, KEY_WORDS, MIX, ON, SLOT_WORDS, STRAY, WAYS,
};
use super::membarrier::{MEMBARRIER_CMD_GLOBAL, MEMBARRIER_CMD_QUERY, membarrier};
use super::probe::{self, InterfaceFacts, Sent};
use super::program::{LoadError, Program, SharedMaps};
use super::test_run;
use slot::{Mapping, SLOTS, Slot, image, key_words, set_of};

/// The state that the workers and the control thread share.
struct Shared {
    maps: Arc<SharedMaps>,
    control: Mapping,
    flows: Mapping,
    /// The worker that uses each slot: its number plus one, or 0 for none.
    owners: Vec<AtomicU8>,
    /// Per port: its interface's index, [`IN`], [`OUT`], [`SKB`], [`OPENED_SHIFT`].
    ports: [AtomicU64; PORTS_MAX],
    grace_begun: AtomicU64,
    grace_ended: AtomicU64,
    /// Counts the revocations of flows that a program may have been following.
    revocations: AtomicU64,
    /// Slots that wait for a grace period.
    waiting: AtomicU32,
    installed: AtomicU32,
    hits: AtomicU64,
    /// Hits by output that XDP redirected there. A driver does not count the frames that tc sends separately.
    hits_to: [AtomicU64; PORTS_MAX],
    /// Frames that an output's driver refused.
    lost: [AtomicU64; PORTS_MAX],
}

/// Frames from this port may be followed.
const IN: u64 = 1 << 32;
/// XDP may redirect frames to this port.
const OUT: u64 = 1 << 33;
/// The tc program follows frames from this port, and redirects to every port that takes part.
const SKB: u64 = 1 << 34;
/// The bits above count how many ports were opened before this one.
const OPENED_SHIFT: u32 = 35;
/// An epoch that the cache never has.
const STALE: u64 = u64::MAX;

impl Shared {
    fn slot(&self, at: usize) -> &Slot {
        self.flows.words()[at * SLOT_WORDS..].first_chunk().expect("the mapping has this slot")
    }

    fn epoch(&self) -> &AtomicU64 {
        &self.control.words()[0]
    }

    fn on(&self) -> &AtomicU64 {
        &self.control.words()[ON]
    }

    fn port(&self, id: PortId) -> u64 {
        self.ports.get(usize::from(id.0)).map_or(0, |port| port.load(Ordering::SeqCst))
    }

    fn set_port(&self, id: PortId, facts: u64) {
        if let Some(port) = self.ports.get(usize::from(id.0))
            && port.swap(facts, Ordering::SeqCst) != facts
        {
            self.revoke_all();
        }
    }

    /// Invalidates every flow that any worker installed before.
    fn revoke_all(&self) {
        self.epoch().fetch_add(1, Ordering::SeqCst);
        if self.installed.load(Ordering::Relaxed) > 0 {
            self.revocations.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A worker's part of the cache.
pub struct Writer {
    shared: Arc<Shared>,
    /// The worker's number plus one.
    me: u8,
    alone: bool,
    mix: [u64; 6],
    slots: Vec<State>,
    retired: VecDeque<(u32, u64)>,
    /// The port whose lost frames are counted next.
    lost_turn: usize,
}

/// The worker's knowledge about a slot.
#[derive(Clone, Debug, Default)]
struct State {
    /// The flow that is in the slot now, or was last.
    flow: Option<Flow>,
    phase: Phase,
    /// Which opening of the output's port number this flow is for, where XDP redirects.
    opened: Option<u64>,
    /// The counts that were reported last.
    told: (u64, u64),
}

/// Where a slot is in its cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    /// Does not belong to this worker.
    #[default]
    Free,
    /// Programs follow it while its epoch is the cache's.
    Live,
    /// Waits for a grace period.
    Retired,
    /// The worker is counting its last hits.
    Counted,
}

/// Creates an empty cache that is switched off: the parts for `workers` workers, and the control thread's.
///
/// # Errors
/// Returns the kernel's error.
pub fn create(workers: usize) -> Result<(Vec<Writer>, CacheControl), LoadError> {
    let maps = Arc::new(SharedMaps::create()?);
    // The maps live as long as the process: a confined worker that ended last could not close them.
    std::mem::forget(maps.clone());
    let mapping = |map, words| {
        Mapping::new(map, words).map_err(|cause| LoadError::Kernel { cause, log: String::new() })
    };
    let control = mapping(&maps.cache, CONTROL_WORDS)?;
    let flows = mapping(&maps.flows, SLOTS * SLOT_WORDS)?;
    let mut mix = [0; 6];
    for (word, mix) in control.words()[MIX..].iter().zip(&mut mix) {
        // Packet senders choose the keys, and must not be able to choose collisions.
        *mix = RandomState::new().hash_one(0) | 1;
        word.store(*mix, Ordering::Relaxed);
    }
    control.words()[0].store(1, Ordering::Relaxed);
    let zeroes = || std::array::from_fn(|_| AtomicU64::new(0));
    let shared = Arc::new(Shared {
        maps,
        control,
        flows,
        owners: (0..SLOTS).map(|_| AtomicU8::new(0)).collect(),
        ports: zeroes(),
        grace_begun: AtomicU64::new(0),
        grace_ended: AtomicU64::new(0),
        revocations: AtomicU64::new(0),
        waiting: AtomicU32::new(0),
        installed: AtomicU32::new(0),
        hits: AtomicU64::new(0),
        hits_to: zeroes(),
        lost: zeroes(),
    });
    let writer = |me: usize| Writer {
        shared: shared.clone(),
        me: u8::try_from(me + 1).expect("at most WORKERS_MAX workers"),
        alone: workers == 1,
        mix,
        slots: vec![State::default(); SLOTS],
        retired: VecDeque::new(),
        lost_turn: 0,
    };
    let writers = (0..workers).map(writer).collect();
    Ok((writers, CacheControl::new(shared)))
}

impl Writer {
    fn holds_key(&self, at: usize, key: &[u64; KEY_WORDS]) -> bool {
        let words = &self.shared.slot(at)[KEY..KEY + KEY_WORDS];
        words.iter().zip(key).all(|(word, key)| word.load(Ordering::Relaxed) == *key)
    }

    /// The slot of a flow just installed. If one of its ports was closed during the installation, the control
    /// thread may have revoked everything before the flow had its epoch.
    fn still(&mut self, flow: &Flow, (from, to): (u64, u64), at: usize) -> Option<u32> {
        if (self.shared.port(flow.key.port), self.shared.port(flow.action.out)) != (from, to) {
            self.shared.slot(at)[EPOCH].store(STALE, Ordering::SeqCst);
        }
        Some(at as u32)
    }
}

/// The slot's hits (frames and bytes) and its stray frames.
fn counts(slot: &Slot) -> (u64, u64) {
    // Read the strays last: each was counted as a hit before.
    let stray = slot[STRAY].load(Ordering::Acquire);
    (slot[HITS].load(Ordering::Relaxed), stray)
}

impl FlowCache for Writer {
    fn capacity(&self) -> u32 {
        SLOTS as u32
    }

    fn is_on(&self) -> bool {
        self.shared.on().load(Ordering::Relaxed) != 0
    }

    fn is_alone(&self) -> bool {
        self.alone
    }

    fn revoke_all(&mut self) {
        self.shared.revoke_all();
    }

    fn install(&mut self, flow: &Flow) -> Option<u32> {
        let (from, to) = (self.shared.port(flow.key.port), self.shared.port(flow.action.out));
        // Where tc follows, packets with unfinished checksums or segments are marked as such.
        let by_skb = from & SKB != 0;
        let reaches = if by_skb { to & IN != 0 && flow.action.unmarked.is_none() } else { to & OUT != 0 };
        if self.shared.on().load(Ordering::Acquire) == 0 || from & IN == 0 || !reaches {
            return None;
        }
        let key = key_words(&flow.key, from as u32);
        let epoch = self.shared.epoch().load(Ordering::SeqCst);
        let first = set_of(&key, &self.mix) * WAYS;
        for at in first..first + WAYS {
            let slot = self.shared.slot(at);
            if slot[EPOCH].load(Ordering::Relaxed) == 0 || !self.holds_key(at, &key) {
                continue;
            }
            if self.slots[at].phase != Phase::Live {
                // Another worker owns the slot and looks after it.
                return None;
            }
            if self.slots[at].flow.as_ref() == Some(flow) {
                slot[EPOCH].store(epoch, Ordering::SeqCst);
                return self.still(flow, (from, to), at);
            }
            self.revoke(at as u32);
        }
        let mine = |&at: &usize| {
            let owner = &self.shared.owners[at];
            owner.compare_exchange(0, self.me, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let at = (first..first + WAYS).find(mine)?;
        let slot = self.shared.slot(at);
        for (word, value) in slot[KEY..HITS].iter().zip(image(&key, &flow.action, to as u32)) {
            word.store(value, Ordering::Relaxed);
        }
        slot[EPOCH].store(epoch, Ordering::SeqCst);
        let told = counts(slot);
        let opened = (!by_skb).then_some(to >> OPENED_SHIFT);
        self.slots[at] = State { flow: Some(*flow), phase: Phase::Live, opened, told };
        self.shared.installed.fetch_add(1, Ordering::Relaxed);
        self.still(flow, (from, to), at)
    }

    fn revoke(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        if state.phase != Phase::Live {
            return;
        }
        state.phase = Phase::Retired;
        self.shared.slot(slot as usize)[EPOCH].store(0, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.shared.revocations.fetch_add(1, Ordering::SeqCst);
        self.retired.push_back((slot, self.shared.grace_begun.load(Ordering::SeqCst)));
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
    }

    fn reclaim(&mut self) -> Option<u32> {
        let &(slot, begun) = self.retired.front()?;
        // The grace period must have begun after the slot was revoked.
        if self.shared.grace_ended.load(Ordering::SeqCst) <= begun {
            return None;
        }
        self.retired.pop_front();
        self.slots[slot as usize].phase = Phase::Counted;
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        self.shared.installed.fetch_sub(1, Ordering::Relaxed);
        Some(slot)
    }

    fn take_hits(&mut self, slot: u32) -> Hits {
        let count = counts(self.shared.slot(slot as usize));
        let state = &mut self.slots[slot as usize];
        let told = std::mem::replace(&mut state.told, count);
        let (more, stray) = (count.0.wrapping_sub(told.0), count.1.wrapping_sub(told.1));
        let (frames, bytes) = (more >> HIT_SHIFT, more & ((1 << HIT_SHIFT) - 1));
        if frames > 0
            && let Some(flow) = &state.flow
        {
            self.shared.hits.fetch_add(frames, Ordering::Relaxed);
            if let Some(hits) = self.shared.hits_to.get(usize::from(flow.action.out.0))
                && Some(self.shared.port(flow.action.out) >> OPENED_SHIFT) == state.opened
            {
                hits.fetch_add(frames - stray, Ordering::Relaxed);
            }
        }
        if state.phase == Phase::Counted {
            state.phase = Phase::Free;
            self.shared.owners[slot as usize].store(0, Ordering::Release);
        }
        Hits { frames, bytes, stray }
    }

    fn take_lost(&mut self) -> Option<(PortId, u64)> {
        while let Some(lost) = self.shared.lost.get(self.lost_turn) {
            let id = PortId(self.lost_turn as u16);
            self.lost_turn += 1;
            if lost.load(Ordering::Relaxed) > 0 {
                return Some((id, lost.swap(0, Ordering::Relaxed)));
            }
        }
        self.lost_turn = 0;
        None
    }

    fn give_back_lost(&mut self, id: PortId, frames: u64) {
        if let Some(lost) = self.shared.lost.get(usize::from(id.0)) {
            lost.fetch_add(frames, Ordering::Relaxed);
        }
    }
}

/// A port that may take part, and whether its programs can follow flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The answers to the queries of its interface.
    pub interface: InterfaceFacts,
    /// Which program follows flows there.
    pub way: Way,
    /// Why no program can follow flows there.
    pub unfit: Option<String>,
}

impl Candidate {
    /// A candidate with an XDP program.
    pub fn by_xdp(interface: InterfaceFacts, native: bool) -> Self {
        let unfit = (!native).then(|| "its XDP program runs in generic mode".to_owned());
        Self { interface, way: Way::Xdp, unfit }
    }
}

/// The programs that follow flows of frames that come in at a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Its XDP program.
    Xdp,
    /// Its programs at the socket and at tc.
    Skb,
}

/// The control thread's part: it decides which ports take part, and waits for grace periods.
pub struct CacheControl {
    shared: Arc<Shared>,
    outputs: Option<DevMap<MapData>>,
    probe: Option<Program>,
    mode: CacheMode,
    /// Why the cache cannot work on this machine.
    unfit: Option<String>,
    ports: BTreeMap<PortId, CachePort>,
    settled: u64,
    opened: u64,
    /// The port that is judged first at the next tick.
    next: PortId,
}

/// A port's state in the cache.
#[derive(Debug)]
struct CachePort {
    interface: String,
    index: u32,
    way: Way,
    unfit: Option<String>,
    veth: bool,
    driver: String,
    /// A frame redirected to it has arrived.
    proven: bool,
    /// Why it takes no part; empty if it does.
    reason: String,
    opened: u64,
    /// The driver's counters at the port's opening, adjusted by later test frames; and at the last look.
    before: Sent,
    sent: Sent,
    /// Nothing was redirected to it between the last two looks.
    quiet: bool,
    /// Frames redirected to it: before it was opened, and at the last look.
    hits_before: u64,
    hits: u64,
    /// How many of the redirected frames were lost.
    lost: u64,
}

/// Ports that are judged again in one tick.
const JUDGED_MAX: usize = 64;

impl CacheControl {
    fn new(shared: Arc<Shared>) -> Self {
        let unfit = if !cfg!(target_arch = "x86_64") {
            // The program reads a slot's epoch before its content; processors with weaker ordering may not.
            Some("this processor may reorder what the XDP program reads".to_owned())
        } else if membarrier(MEMBARRIER_CMD_QUERY) & i64::from(MEMBARRIER_CMD_GLOBAL) <= 0 {
            Some("this kernel has no membarrier(2) to wait for programs under way".to_owned())
        } else {
            None
        };
        let outputs = || {
            let fd = shared.maps.outputs.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)?;
            DevMap::try_from(Map::from_map_data(MapData::from_fd(fd)?)?)
        };
        let (outputs, unfit) = match (outputs(), unfit) {
            (Ok(outputs), unfit) => (Some(outputs), unfit),
            (Err(error), unfit) => (None, Some(unfit.unwrap_or_else(|| error.to_string()))),
        };
        let probe = Program::load_probe(&shared.maps).ok();
        let ports = BTreeMap::new();
        Self {
            shared,
            outputs,
            probe,
            mode: CacheMode::Off,
            unfit,
            ports,
            settled: 0,
            opened: 0,
            next: PortId(0),
        }
    }

    /// The maps for the programs of ports.
    pub fn maps(&self) -> &Arc<SharedMaps> {
        &self.shared.maps
    }

    /// Switches the cache on or off.
    pub fn set_mode(&mut self, mode: CacheMode) {
        self.mode = mode;
        let on = mode != CacheMode::Off && self.unfit.is_none();
        self.shared.on().store(on.into(), Ordering::SeqCst);
        for id in self.ports.keys().copied().collect::<Vec<_>>() {
            self.judge(id);
        }
        self.shared.revoke_all();
    }

    /// Takes note that a port was opened on this interface.
    pub fn open_port(&mut self, id: PortId, candidate: &Candidate, name: &str) {
        let Candidate { interface, way, unfit } = candidate;
        let mut unfit = unfit.clone();
        if *way == Way::Xdp && unfit.is_none() {
            let outputs = self.outputs.as_mut().filter(|_| usize::from(id.0) < PORTS_MAX);
            let entered = outputs.map(|outputs| outputs.set(id.0.into(), interface.index, None, 0));
            unfit = match entered {
                Some(Ok(())) => None,
                Some(Err(error)) => Some(error.to_string()),
                None => Some("the cache has no place for it".to_owned()),
            };
        }
        let veth = *way == Way::Xdp && interface.driver == "veth";
        let sent = if veth { probe::xdp_sent(name).unwrap_or_default() } else { Sent::default() };
        let hits = self.shared.hits_to[usize::from(id.0) % PORTS_MAX].load(Ordering::Relaxed);
        self.opened += 1;
        let port = CachePort {
            interface: name.to_owned(),
            index: interface.index,
            way: *way,
            unfit,
            veth,
            driver: interface.driver.clone(),
            proven: false,
            reason: String::new(),
            opened: self.opened,
            before: sent,
            sent,
            quiet: false,
            hits_before: hits,
            hits,
            lost: 0,
        };
        self.ports.insert(id, port);
        self.judge(id);
    }

    /// Takes note that the port is about to be closed.
    pub fn close_port(&mut self, id: PortId) {
        if self.ports.remove(&id).is_none() {
            return;
        }
        self.shared.set_port(id, 0);
        self.settle();
        if let Some(outputs) = &mut self.outputs {
            // Index 0 means no interface: every kernel accepts it, and redirects nothing there.
            let _ = outputs.set(id.0.into(), 0, None, 0);
        }
    }

    /// Decides whether frames may come from and go to a port, and why not.
    fn judge(&mut self, id: PortId) {
        let Some(mut port) = self.ports.remove(&id) else { return };
        if port.unfit.is_none() && port.veth && !port.proven && self.mode != CacheMode::Off {
            port.proven = self.arrives(id, &mut port);
        }
        let by_skb = port.way == Way::Skb;
        port.reason = if let Some(unfit) = &port.unfit {
            unfit.clone()
        } else if by_skb {
            String::new() // any driver will do
        } else if port.veth && !port.proven {
            "its other end takes no redirected frames: `ethtool -K DEV gro on` there".to_owned()
        } else if !port.veth && self.mode != CacheMode::On {
            format!("not proven with driver \"{}\"; `cache = \"on\"` takes it", port.driver)
        } else {
            String::new()
        };
        let output = if by_skb {
            SKB
        } else if port.reason.is_empty() {
            OUT
        } else {
            0
        };
        let now = u64::from(port.index) | IN | output | port.opened << OPENED_SHIFT;
        self.shared.set_port(id, if port.unfit.is_some() { 0 } else { now });
        self.ports.insert(id, port);
    }

    /// Sends one frame that bridges do not forward and stations ignore, and checks whether the driver took it.
    fn arrives(&self, id: PortId, port: &mut CachePort) -> bool {
        /// IEEE 802.1Q table 8-1: the nearest bridge.
        const NEAREST_BRIDGE: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 0x0e];
        const SOURCE: [u8; 6] = [2, 0x69, 0x76, 0, 0, 0];
        /// IEEE Std 802: local experimental EtherType 1.
        const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];
        let Some(program) = &self.probe else { return false };
        let mut frame = [0; 60];
        frame[..6].copy_from_slice(&NEAREST_BRIDGE);
        frame[6..12].copy_from_slice(&SOURCE);
        frame[12..14].copy_from_slice(&EXPERIMENTAL);
        frame[14..16].copy_from_slice(&id.0.to_ne_bytes());
        let before = probe::xdp_sent(&port.interface).unwrap_or_default();
        if let Err(error) = test_run::live(program.fd(), &frame) {
            tracing::debug!("{}: the cache cannot try it: {error}", port.interface);
            return false;
        }
        let after = probe::xdp_sent(&port.interface).unwrap_or_default();
        port.before.frames += after.frames - before.frames;
        after.frames > before.frames
    }

    /// Runs once a second: checks the ports, and lets a grace period pass for slots that wait.
    pub fn tick(&mut self) {
        let ids: Vec<PortId> = self.ports.keys().copied().collect();
        for &id in &ids {
            if self.watch(id) {
                self.judge(id);
            }
        }
        // In turn: with a thousand ports, to try each again would keep a processor busy for nothing.
        let from = ids.partition_point(|&id| id < self.next);
        let turn: Vec<PortId> = ids[from..].iter().chain(&ids[..from]).copied().take(JUDGED_MAX).collect();
        turn.iter().for_each(|&id| self.judge(id));
        self.next = turn.last().map_or(PortId(0), |id| PortId(id.0 + 1));
        if self.shared.waiting.load(Ordering::Relaxed) > 0 {
            self.grace();
        }
    }

    /// Learns from the driver's counters what became of redirected frames. True: they no longer arrive.
    fn watch(&mut self, id: PortId) -> bool {
        let Some(port) = self.ports.get_mut(&id).filter(|port| port.veth && port.unfit.is_none()) else {
            return false;
        };
        let hits = self.shared.hits_to[usize::from(id.0)].load(Ordering::Relaxed);
        if hits == port.hits && port.quiet {
            return false;
        }
        port.quiet = hits == port.hits;
        let Some(sent) = probe::xdp_sent(&port.interface) else { return false };
        // Every frame redirected before the last look has arrived by now, or never will. A driver that
        // refuses frames counts them; a driver that cannot take any does not.
        let arrived = sent.frames.saturating_sub(port.before.frames);
        let refused = sent.refused.saturating_sub(port.before.refused);
        let lost = refused.max((port.hits - port.hits_before).saturating_sub(arrived));
        self.shared.lost[usize::from(id.0)].fetch_add(lost.saturating_sub(port.lost), Ordering::Relaxed);
        port.lost = port.lost.max(lost);
        // The driver did not even count the redirected frames: the other end no longer has NAPI.
        let gone = hits > port.hits && sent == port.sent;
        port.proven &= !gone;
        (port.hits, port.sent) = (hits, sent);
        gone
    }

    /// Waits until no program follows a revoked flow, if any was revoked since the last call.
    pub fn settle(&mut self) {
        let revocations = self.shared.revocations.load(Ordering::SeqCst);
        if revocations != self.settled {
            self.settled = revocations;
            self.grace();
        }
    }

    fn grace(&self) {
        let begun = self.shared.grace_begun.fetch_add(1, Ordering::SeqCst) + 1;
        if membarrier(MEMBARRIER_CMD_GLOBAL) == 0 {
            self.shared.grace_ended.store(begun, Ordering::SeqCst);
        }
    }

    /// The figures for `ivctl status`.
    pub fn stats(&self) -> CacheStats {
        let off = self.ports.values().filter(|port| !port.reason.is_empty());
        CacheStats {
            on: self.shared.on().load(Ordering::Relaxed) != 0,
            reason: self.unfit.clone().unwrap_or_default(),
            flows: self.shared.installed.load(Ordering::Relaxed),
            hits: self.shared.hits.load(Ordering::Relaxed),
            left_out: off.map(|port| (port.interface.clone(), port.reason.clone())).collect(),
        }
    }
}

#[cfg(test)]
#[path = "cached.rs"]
mod tests;
