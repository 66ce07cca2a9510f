//! The forwarding database.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hasher};

use ahash::RandomState;
use zerocopy::FromZeros;

use super::{Map, hasher};
use crate::command::{FdbRow, Location, Vni};
use crate::limits::{FDB_PAGE_SLOTS, FDB_TOTAL_MAX, QUERY_PAGE_LEN};
use crate::time::{Duration, Instant};
use crate::wire::mac::MacAddr;

/// The key of an entry: network, outermost VLAN (0: untagged) and MAC address. The VLAN is part of the key
/// (independent learning, 802.1Q-2018 §8.8.8), since a CMS may use one MAC in many VLANs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FdbKey {
    mac_vid: u64,
    /// The VNI plus one, so that no key equals a vacant slot.
    vni: u32,
}

impl FdbKey {
    /// Creates the key of an address.
    #[inline]
    #[must_use]
    pub fn new(vni: Vni, vid: u16, mac: MacAddr) -> Self {
        Self { mac_vid: u64::from(vid & 0xfff) << 48 | mac.to_u64(), vni: vni.get() + 1 }
    }

    fn vni(self) -> Option<Vni> {
        Vni::new(self.vni.wrapping_sub(1))
    }
}

/// The result of `learn`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// The station was already known at this location.
    Same,
    /// The station was not known before.
    New,
    /// The station was known at another location before.
    Moved,
    /// A static entry says otherwise, or the table has no room.
    Refused,
}

/// Maps (VNI, VLAN, MAC) to the port or peer where that MAC was last seen.
///
/// Bounded per network, per port, and in total. A port over its own bound evicts its own oldest entry. A full
/// network evicts from the port or peer with the most entries there, so a guest that floods random MACs
/// evicts only its own. "Oldest" is by second chance, which costs nothing per frame. Static entries are
/// neither evicted, moved nor aged. Written by `learn` and by commands; read by `classify`. The hash is
/// keyed, so attackers cannot choose MACs that collide.
///
/// One flat array of buckets of four entries, two cache lines each, which can be prefetched once the hash is
/// known: a cold lookup is one miss. Entries never move, so lists may link them by index. The array is sized
/// when networks are configured, never while forwarding.
#[derive(Debug)]
pub struct Fdb {
    buckets: Vec<Bucket>,
    len: u32,
    origins: Vec<Origin>,
    origin_index: Map<(Vni, Location), u16>,
    origin_free: Vec<u16>,
    networks: Map<Vni, NetworkUse>,
    hash: RandomState,
    age_cursor: u32,
    /// Number of stations that left or moved, by [`cell`].
    versions: Box<[u32; VERSIONS]>,
    /// The sum of `versions`.
    departures: u32,
}

/// Number of cells that count departures: few enough to stay in the first-level cache.
const VERSIONS: usize = 1024;

/// The cell that counts the departure of a station from a location. Locations seldom share a cell, so a flood
/// of addresses at one location does not invalidate verdicts about stations elsewhere. Cell 0 belongs to no
/// station.
#[inline]
const fn cell(hash: u64, location: u32) -> u16 {
    let group = location.wrapping_mul(0x9e37_79b1) >> 22 & 0x3e0;
    let cell = group as u16 | (hash >> 59) as u16;
    if cell == 0 { 1 } else { cell }
}

/// Number of entries in a bucket.
const WAYS: usize = 4;

/// Entries whose hash leads here, or that found the previous buckets full.
#[derive(Clone, Copy, Debug, zerocopy::FromZeros)]
#[repr(C, align(128))]
struct Bucket([Entry; WAYS]);

/// An entry of 32 bytes.
#[derive(Clone, Copy, Debug, zerocopy::FromZeros)]
#[repr(C)]
struct Entry {
    mac_vid: u64,
    vni: u32,
    location: u32,
    last_seen: u32,
    next: u32,
    prev: u32,
    origin: u16,
    /// [`STATIC`]; and, in a bucket's first entry, the number of entries that found the bucket full and went
    /// to a later one. A lookup that misses here continues only if that number is not zero.
    flags: u16,
}

const _: () = assert!(size_of::<Entry>() == 32 && size_of::<Bucket>() == 128);

const NIL: u32 = u32::MAX;
const STATIC: u16 = 1;
/// Unit of the number of displaced entries in `flags`.
const PASSED: u16 = 2;
/// Minimum number of slots of the table.
const SLOTS_MIN: usize = 64;

/// The entries of one network at one location, as a list in order of arrival.
#[derive(Clone, Copy, Debug)]
struct Origin {
    vni: Vni,
    location: Location,
    head: u32,
    tail: u32,
    learned: u32,
    total: u32,
}

#[derive(Clone, Debug)]
struct NetworkUse {
    entries: u32,
    max: u32,
    age: u32,
    origins: Vec<u16>,
}

/// Resolution of `last_seen`: about 0.13 s, so that most frames need not write it.
const TICK_SHIFT: u32 = 27;

/// The coarse time in which the table measures ages.
#[must_use]
pub const fn tick(now: Instant) -> u32 {
    (now.as_nanos() >> TICK_SHIFT) as u32
}

const fn ticks(d: Duration) -> u32 {
    let n = d.as_nanos() >> TICK_SHIFT;
    if n >= u32::MAX as u128 { u32::MAX } else { n as u32 + 1 }
}

fn pack(location: Location) -> u32 {
    match location {
        Location::Port(p) => u32::from(p.0),
        Location::Peer(p) => 1 << 16 | u32::from(p.0),
    }
}

fn unpack(location: u32) -> Location {
    let id = location as u16;
    if location >> 16 == 0 {
        Location::Port(crate::command::PortId(id))
    } else {
        Location::Peer(crate::command::PeerId(id))
    }
}

impl Entry {
    const fn key(&self) -> FdbKey {
        FdbKey { mac_vid: self.mac_vid, vni: self.vni }
    }

    #[inline]
    const fn is(&self, key: FdbKey) -> bool {
        self.mac_vid == key.mac_vid && self.vni == key.vni
    }

    const fn is_vacant(&self) -> bool {
        self.vni == 0
    }

    const fn is_static(&self) -> bool {
        self.flags & STATIC != 0
    }
}

impl Fdb {
    /// Creates an empty table whose hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            buckets: zeroed(SLOTS_MIN / WAYS),
            len: 0,
            origins: Vec::new(),
            origin_index: Map::with_hasher(hasher(seed ^ 1)),
            origin_free: Vec::new(),
            networks: Map::with_hasher(hasher(seed ^ 2)),
            hash: hasher(seed),
            age_cursor: 0,
            versions: Box::new([0; VERSIONS]),
            departures: 0,
        }
    }

    /// A number that increases whenever any station leaves its location.
    #[inline]
    #[must_use]
    pub const fn departures(&self) -> u32 {
        self.departures
    }

    /// The cell of [`Fdb::version`] for this station, while the station stays at its location. For an unknown
    /// station it is a cell whose version never changes.
    #[inline]
    #[must_use]
    pub fn version_cell(&self, hash: u64, key: FdbKey) -> u16 {
        self.find(hash, key).map_or(0, |at| cell(hash, self.entry(at).location))
    }

    /// A number that increases whenever a station of this cell leaves its location. A verdict about a known
    /// station holds while this number is the same.
    #[inline]
    #[must_use]
    pub fn version(&self, cell: u16) -> u32 {
        self.versions[usize::from(cell) % VERSIONS]
    }

    /// The hash of a key. Computed early and used later by the lookup.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: FdbKey) -> u64 {
        let mut h = self.hash.build_hasher();
        h.write_u64(key.mac_vid);
        h.write_u32(key.vni);
        h.finish()
    }

    /// Prefetches the lines that a lookup with this hash reads.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        let bucket = &self.buckets[self.home(hash)];
        prefetch::read(&bucket.0[0]);
        prefetch::read(&bucket.0[2]);
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// Finds the slot of a key.
    #[inline]
    fn find(&self, hash: u64, key: FdbKey) -> Option<u32> {
        let mut at = self.home(hash);
        loop {
            let bucket = &self.buckets[at];
            if let Some(way) = bucket.0.iter().position(|e| e.is(key)) {
                return Some((at * WAYS + way) as u32);
            }
            if bucket.0[0].flags < PASSED {
                return None;
            }
            at = (at + 1) & (self.buckets.len() - 1);
        }
    }

    #[inline]
    fn entry(&self, at: u32) -> &Entry {
        &self.buckets[at as usize / WAYS].0[at as usize % WAYS]
    }

    #[inline]
    fn entry_mut(&mut self, at: u32) -> &mut Entry {
        &mut self.buckets[at as usize / WAYS].0[at as usize % WAYS]
    }

    /// The location of the address.
    #[inline]
    #[must_use]
    pub fn lookup(&self, hash: u64, key: FdbKey) -> Option<Location> {
        Some(unpack(self.entry(self.find(hash, key)?).location))
    }

    /// The location of the address, and its slot, which stays the same while its version does.
    #[must_use]
    pub fn slot(&self, hash: u64, key: FdbKey) -> Option<(u32, Location)> {
        let at = self.find(hash, key)?;
        Some((at, unpack(self.entry(at).location)))
    }

    /// Refreshes the entry in a slot, as learning it again would.
    #[inline]
    pub fn refresh(&mut self, at: u32, tick: u32) {
        let slots = self.slots();
        if at < slots {
            self.entry_mut(at).last_seen = tick;
        }
    }

    /// The location of an address, for callers without a hash.
    #[must_use]
    pub fn get(&self, vni: Vni, vid: u16, mac: MacAddr) -> Option<Location> {
        let key = FdbKey::new(vni, vid, mac);
        self.lookup(self.hash(key), key)
    }

    /// Records that `key`, with its hash, was seen at `location`. `location_max` bounds the learned entries
    /// there.
    #[inline]
    pub fn learn(
        &mut self,
        now: Instant,
        (hash, key): (u64, FdbKey),
        location: Location,
        location_max: u32,
    ) -> Learned {
        if let Some(at) = self.find(hash, key) {
            let entry = self.entry_mut(at);
            if entry.location == pack(location) {
                let tick = tick(now);
                if entry.last_seen != tick {
                    entry.last_seen = tick;
                }
                return Learned::Same;
            }
        }
        self.learn_slow(now, hash, key, location, location_max)
    }

    #[cold]
    fn learn_slow(
        &mut self,
        now: Instant,
        hash: u64,
        key: FdbKey,
        location: Location,
        location_max: u32,
    ) -> Learned {
        let Some(vni) = key.vni() else { return Learned::Refused };
        if let Some(at) = self.find(hash, key) {
            if self.entry(at).is_static() {
                return Learned::Refused;
            }
            self.remove_at(at);
            return match self.insert(now, hash, key, vni, location, Some(location_max)) {
                true => Learned::Moved,
                false => Learned::Refused,
            };
        }
        if self.insert(now, hash, key, vni, location, Some(location_max)) {
            Learned::New
        } else {
            Learned::Refused
        }
    }

    /// Adds a static entry and replaces an existing one. Returns false when the network is unknown or full of
    /// static entries.
    pub fn add_static(&mut self, now: Instant, vni: Vni, vid: u16, mac: MacAddr, location: Location) -> bool {
        self.remove(vni, vid, mac);
        let key = FdbKey::new(vni, vid, mac);
        self.insert(now, self.hash(key), key, vni, location, None)
    }

    /// Removes an entry, static or learned. Returns false when the address is unknown.
    pub fn remove(&mut self, vni: Vni, vid: u16, mac: MacAddr) -> bool {
        let key = FdbKey::new(vni, vid, mac);
        let Some(at) = self.find(self.hash(key), key) else { return false };
        self.remove_at(at);
        true
    }

    /// Removes learned entries of a network, of a location, of both, or all; with `static_too`, also static
    /// ones.
    pub fn flush(&mut self, vni: Option<Vni>, location: Option<Location>, static_too: bool) {
        for o in 0..self.origins.len() {
            let origin = self.origins[o];
            if vni.is_some_and(|v| v != origin.vni) || location.is_some_and(|l| l != origin.location) {
                continue;
            }
            let mut at = origin.head;
            while at != NIL {
                let next = self.entry(at).next;
                if static_too || !self.entry(at).is_static() {
                    self.remove_at(at);
                }
                at = next;
            }
        }
    }

    /// Sets a network's bound and ageing time. Entries over a lowered bound leave as others arrive.
    pub fn set_network(&mut self, vni: Vni, max: u32, age: Duration) {
        let age = ticks(age);
        let network =
            self.networks.entry(vni).or_insert(NetworkUse { entries: 0, max, age, origins: Vec::new() });
        network.max = max;
        network.age = age;
        self.reserve();
    }

    /// Makes room for the bounds of all networks together, at most two thirds full.
    fn reserve(&mut self) {
        let wanted: u64 = self.networks.values().map(|n| u64::from(n.max)).sum();
        let wanted = wanted.min(u64::from(FDB_TOTAL_MAX)) as usize;
        let slots = (wanted + wanted / 2).next_power_of_two().max(SLOTS_MIN);
        if slots <= self.buckets.len() * WAYS {
            return;
        }
        let old = core::mem::replace(&mut self.buckets, zeroed(slots / WAYS));
        self.len = 0;
        for o in 0..self.origins.len() {
            let mut from = self.origins[o].head;
            self.origins[o].head = NIL;
            self.origins[o].tail = NIL;
            while from != NIL {
                let entry = old[from as usize / WAYS].0[from as usize % WAYS];
                from = entry.next;
                let at = self.place(self.hash(entry.key()), Entry { flags: entry.flags & STATIC, ..entry });
                self.link_last(at);
            }
        }
    }

    /// Removes a network and all its entries.
    pub fn remove_network(&mut self, vni: Vni) {
        self.flush(Some(vni), None, true);
        self.networks.remove(&vni);
    }

    /// Checks up to `count` slots and removes entries without a frame for their network's ageing time. Calls
    /// `gone` for each. If called often enough, it checks every slot several times per ageing time.
    pub fn age(&mut self, now: Instant, count: u32, mut gone: impl FnMut(Vni, u16, MacAddr)) {
        let tick = tick(now);
        let slots = self.slots();
        for _ in 0..count.min(slots) {
            if self.age_cursor >= slots {
                self.age_cursor = 0;
            }
            let at = self.age_cursor;
            self.age_cursor += 1;
            let entry = *self.entry(at);
            if entry.is_vacant() || entry.is_static() {
                continue;
            }
            let Some(vni) = entry.key().vni() else { continue };
            let age = self.networks.get(&vni).map_or(0, |n| n.age);
            if tick.wrapping_sub(entry.last_seen) > age {
                self.remove_at(at);
                gone(vni, (entry.mac_vid >> 48) as u16, mac_of(entry.mac_vid));
            }
        }
    }

    /// Total number of entries.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> u32 {
        (self.buckets.len() * WAYS) as u32
    }

    /// Number of entries of each network, in the order of their VNIs.
    #[must_use]
    pub fn by_network(&self) -> Vec<(Vni, u32)> {
        let mut all: Vec<_> = self.networks.iter().map(|(&vni, n)| (vni, n.entries)).collect();
        all.sort_unstable();
        all
    }

    /// Memory for the table's entries and its index, in bytes.
    #[must_use]
    pub fn memory_len(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }

    /// Returns one page of entries from `cursor`, and the cursor of the next.
    #[must_use]
    pub fn page(&self, now: Instant, cursor: u32) -> (Vec<FdbRow>, Option<u32>) {
        let mut rows = Vec::new();
        let end = self.slots().min(cursor.saturating_add(FDB_PAGE_SLOTS));
        for at in cursor..end {
            let entry = self.entry(at);
            let Some(vni) = entry.key().vni() else { continue };
            let idle = u64::from(tick(now).wrapping_sub(entry.last_seen)) << TICK_SHIFT;
            rows.push(FdbRow {
                vni,
                vid: (entry.mac_vid >> 48) as u16,
                mac: mac_of(entry.mac_vid),
                location: unpack(entry.location),
                is_static: entry.is_static(),
                idle: Duration::from_nanos(idle),
            });
            if rows.len() == QUERY_PAGE_LEN {
                return (rows, Some(at + 1));
            }
        }
        (rows, (end < self.slots()).then_some(end))
    }

    fn insert(
        &mut self,
        now: Instant,
        hash: u64,
        key: FdbKey,
        vni: Vni,
        location: Location,
        learned_max: Option<u32>,
    ) -> bool {
        let tick = tick(now);
        let Some(network) = self.networks.get(&vni) else { return false };
        if let Some(max) = learned_max {
            let mine = self.origin_index.get(&(vni, location)).copied();
            let at_bound = mine.is_some_and(|o| self.origins[o as usize].learned >= max.max(1));
            if at_bound {
                if !self.evict_from(mine.unwrap_or(0), tick) {
                    return false;
                }
            } else if network.entries >= network.max || self.crowded() {
                let busiest =
                    network.origins.iter().copied().max_by_key(|&o| self.origins[o as usize].learned);
                if !busiest.is_some_and(|o| self.evict_from(o, tick)) {
                    return false;
                }
            }
        }
        if self.crowded() {
            return false;
        }
        let Some(origin) = self.origin(vni, location) else { return false };
        let at = self.place(
            hash,
            Entry {
                mac_vid: key.mac_vid,
                vni: key.vni,
                location: pack(location),
                last_seen: tick,
                next: NIL,
                prev: NIL,
                origin,
                flags: if learned_max.is_none() { STATIC } else { 0 },
            },
        );
        self.link_last(at);
        let origin = &mut self.origins[origin as usize];
        origin.total += 1;
        origin.learned += u32::from(learned_max.is_some());
        if let Some(network) = self.networks.get_mut(&vni) {
            network.entries += 1;
        }
        true
    }

    /// Whether the array is as full as it may be. Below that, lookups that miss stay short, and a vacant slot
    /// always exists.
    fn crowded(&self) -> bool {
        self.len >= self.slots() / 8 * 7
    }

    /// Puts an entry in the first vacant slot from its home on. Such a slot exists: see [`Fdb::crowded`].
    fn place(&mut self, hash: u64, entry: Entry) -> u32 {
        let mut at = self.home(hash);
        loop {
            let bucket = &mut self.buckets[at].0;
            if let Some(way) = bucket.iter().position(Entry::is_vacant) {
                let passed = bucket[way].flags & !STATIC;
                bucket[way] = Entry { flags: entry.flags | passed, ..entry };
                self.len += 1;
                return (at * WAYS + way) as u32;
            }
            bucket[0].flags += PASSED;
            at = (at + 1) & (self.buckets.len() - 1);
        }
    }

    /// Finds or creates the list for this network and location.
    fn origin(&mut self, vni: Vni, location: Location) -> Option<u16> {
        if let Some(&o) = self.origin_index.get(&(vni, location)) {
            return Some(o);
        }
        let origin = Origin { vni, location, head: NIL, tail: NIL, learned: 0, total: 0 };
        let o = if let Some(o) = self.origin_free.pop() {
            self.origins[o as usize] = origin;
            o
        } else {
            let o = u16::try_from(self.origins.len()).ok()?;
            self.origins.push(origin);
            o
        };
        self.origin_index.insert((vni, location), o);
        self.networks.get_mut(&vni)?.origins.push(o);
        Some(o)
    }

    /// Removes the oldest learned entry of a list. Entries with a frame since they were queued get a second
    /// chance.
    fn evict_from(&mut self, o: u16, tick: u32) -> bool {
        const CHANCES: u32 = 8;
        let total = self.origins[o as usize].total;
        let mut chances = CHANCES;
        for _ in 0..total {
            let at = self.origins[o as usize].head;
            if at == NIL {
                return false;
            }
            let entry = *self.entry(at);
            let fresh = tick.wrapping_sub(entry.last_seen) < ticks(Duration::from_secs(1));
            if entry.is_static() || fresh && chances > 0 {
                chances -= u32::from(!entry.is_static());
                self.unlink(at);
                self.link_last(at);
                continue;
            }
            self.remove_at(at);
            return true;
        }
        // Every entry was fresh: the head is as old as any.
        let at = self.origins[o as usize].head;
        if at == NIL || self.entry(at).is_static() {
            return false;
        }
        self.remove_at(at);
        true
    }

    fn link_last(&mut self, at: u32) {
        let o = self.entry(at).origin as usize;
        let tail = self.origins[o].tail;
        self.entry_mut(at).prev = tail;
        self.entry_mut(at).next = NIL;
        if tail == NIL {
            self.origins[o].head = at;
        } else {
            self.entry_mut(tail).next = at;
        }
        self.origins[o].tail = at;
    }

    fn unlink(&mut self, at: u32) {
        let Entry { prev, next, origin, .. } = *self.entry(at);
        let o = origin as usize;
        if prev == NIL {
            self.origins[o].head = next;
        } else {
            self.entry_mut(prev).next = next;
        }
        if next == NIL {
            self.origins[o].tail = prev;
        } else {
            self.entry_mut(next).prev = prev;
        }
    }

    fn remove_at(&mut self, at: u32) {
        let entry = *self.entry(at);
        debug_assert!(!entry.is_vacant());
        self.unlink(at);
        let o = entry.origin as usize;
        self.origins[o].total -= 1;
        self.origins[o].learned -= u32::from(!entry.is_static());
        let Origin { vni, location, total, .. } = self.origins[o];
        if let Some(network) = self.networks.get_mut(&vni) {
            network.entries -= 1;
            if total == 0 {
                network.origins.retain(|&x| x != entry.origin);
            }
        }
        if total == 0 {
            self.origin_index.remove(&(vni, location));
            self.origin_free.push(entry.origin);
        }
        let hash = self.hash(entry.key());
        let cell = usize::from(cell(hash, entry.location));
        self.versions[cell] = self.versions[cell].wrapping_add(1);
        self.departures = self.departures.wrapping_add(1);
        // The buckets between its home and here no longer count the entry as displaced.
        let mut bucket = self.home(hash);
        while bucket != at as usize / WAYS {
            self.buckets[bucket].0[0].flags -= PASSED;
            bucket = (bucket + 1) & (self.buckets.len() - 1);
        }
        let slot = self.entry_mut(at);
        let flags = slot.flags & !STATIC;
        *slot = Entry::new_zeroed();
        slot.flags = flags;
        self.len -= 1;
    }
}

/// Allocates vacant buckets. Their memory stays untouched until used.
fn zeroed(buckets: usize) -> Vec<Bucket> {
    Bucket::new_vec_zeroed(buckets).expect("memory for the forwarding database")
}

fn mac_of(mac_vid: u64) -> MacAddr {
    let b = mac_vid.to_be_bytes();
    MacAddr([b[2], b[3], b[4], b[5], b[6], b[7]])
}

pub mod share;
#[cfg(test)]
mod tests;
