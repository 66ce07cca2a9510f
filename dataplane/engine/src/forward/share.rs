//! One switch on several workers: each worker shares its knowledge with the others.
//!
//! Every worker has tables of its own. Without sharing, a station that one worker has learned would be
//! unknown to the others, and they would flood its traffic. Four kinds of [`News`] keep the tables alike,
//! without a lock:
//!
//! - A *claim*: a station appeared or moved. The worker tells it before it sends the frame that it learned
//!   from, so when an answer to that frame arrives, every worker knows the station. Claims are ordered by
//!   (stamp, worker), where a stamp is never below one received before (Lamport): the last move wins
//!   everywhere.
//! - A *sighting*: a station has sent frames lately. Each worker scans its table slowly and repeats fresh
//!   entries. So an entry lives while any worker receives the station's frames, and a lost claim (a full
//!   ring, a flood of addresses) is repaired within one scan. A sighting carries the time of the station's
//!   last frame, not the time of the message, so workers cannot keep an entry alive by echo.
//! - A *neighbour*: the MAC that ARP or ND gave for an address that the switch routes to.
//! - A *link-local address*: a guest has claimed an opaque one, or another station has it.
//!
//! News is about a state of the configuration. Commands reach all workers in one order, and each worker
//! counts them. News of a state that this worker has not reached yet waits, and news from before this worker
//! forgot something (a flush, a removed port) is dropped.
//!
//! Cost is bounded: claims per tick, slots scanned per tick, news taken per poll. Under a flood of addresses,
//! the scan takes over the claims beyond the bound.

use alloc::vec::Vec;

use super::Switch;
use super::learn::station_moved;
use crate::command::{Command, Location, PortId, Vni};
use crate::limits::{AGE_SLICE_MAX, CLAIMS_PER_TICK, SIGHTINGS_PER_TICK};
use crate::table::fdb::{FdbKey, Learned};
use crate::time::{Duration, Instant};
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// Knowledge that other workers must have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct News {
    /// Number of commands that the sender had processed when it knew this.
    epoch: u64,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    /// A station appeared or moved.
    Claim(Station, u64),
    /// A station sent a frame at this time.
    Sighting(Station, Instant),
    /// An address that the switch routes to has this MAC.
    Neighbor(Vni, Ip, MacAddr),
    /// The guest of a port has claimed an opaque link-local address, or lost it.
    LinkLocal(PortId, Ip, u16, bool),
}

/// The location of a station.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Station {
    vni: Vni,
    vid: u16,
    mac: MacAddr,
    location: Location,
}

/// The private state of a worker among several.
#[derive(Debug)]
pub(super) struct Sharing {
    /// The worker's number.
    me: u8,
    /// Number of commands processed, and its value when something was last forgotten.
    epoch: u64,
    forgot: u64,
    /// The highest stamp given or received.
    stamp: u64,
    claims: Claims,
    claims_left: u32,
    /// News for the other workers.
    out: Vec<News>,
    /// The position of the scan, its start time, and the start time of the previous scan.
    cursor: u32,
    walk_began: Instant,
    walk_before: Instant,
}

/// The last claims about stations, made here or received, indexed by a part of the key's hash. A collision
/// discards the older claim; then the coarse times of the stations' frames decide.
#[derive(Debug)]
struct Claims(Vec<Option<(FdbKey, u64, u8)>>);

/// Number of stations whose last claim is kept. Only stations that move within one coarse tick depend on it.
const CLAIMS: usize = 1024;

/// Duration that a scan of the whole table aims for. The bound on slots per tick may make it longer.
const WALK: Duration = Duration::from_secs(8);

/// Maximum amount of news that waits: everything that one tick can produce, except neighbours.
const OUT_LEN: usize = (CLAIMS_PER_TICK + SIGHTINGS_PER_TICK) as usize;

impl News {
    /// Whether a sleeping worker has to wake for this.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        !matches!(self.what, What::Sighting(..))
    }
}

impl Claims {
    fn cell(hash: u64) -> usize {
        (hash >> 32) as usize % CLAIMS
    }

    /// Whether a claim is later than the last known one about the station.
    fn is_later(&self, hash: u64, key: FdbKey, stamp: u64, worker: u8) -> bool {
        self.0[Self::cell(hash)].is_none_or(|(k, s, w)| k != key || (stamp, worker) > (s, w))
    }

    fn remember(&mut self, hash: u64, key: FdbKey, stamp: u64, worker: u8) {
        self.0[Self::cell(hash)] = Some((key, stamp, worker));
    }
}

impl Station {
    fn key(&self) -> FdbKey {
        FdbKey::new(self.vni, self.vid, self.mac)
    }
}

impl Switch {
    /// Makes this switch worker `me` of several.
    pub fn share(&mut self, me: u8) {
        self.pipeline.tables.neighbors.share();
        self.sharing = Some(Sharing {
            me,
            epoch: 0,
            forgot: 0,
            stamp: 0,
            claims: Claims(alloc::vec![None; CLAIMS]),
            claims_left: CLAIMS_PER_TICK,
            out: Vec::with_capacity(OUT_LEN),
            cursor: 0,
            walk_began: Instant::ZERO,
            walk_before: Instant::ZERO,
        });
    }

    /// Whether this worker asks questions and announces addresses for all workers. Exactly one does.
    pub(super) fn is_speaker(&self) -> bool {
        self.sharing.as_ref().is_none_or(|s| s.me == 0)
    }

    /// Counts a command.
    pub(super) fn share_command(&mut self, command: &Command) {
        let Some(s) = &mut self.sharing else { return };
        s.epoch += 1;
        let forgets = matches!(
            command,
            Command::RemoveNetwork(_)
                | Command::SetPort(..)
                | Command::RemovePort(_)
                | Command::SetPeer(..)
                | Command::RemovePeer(_)
                | Command::AddFdb(..)
                | Command::RemoveFdb(..)
                | Command::FlushFdb(..)
        );
        if forgets {
            s.forgot = s.epoch;
            s.claims.0.fill(None);
        }
    }

    /// Tells the other workers that a station was learned here.
    #[cold]
    pub(super) fn claim(&mut self, now: Instant, vni: Vni, vid: u16, mac: MacAddr, location: Location) {
        let Some(s) = &mut self.sharing else { return };
        let stamp = (s.stamp + 1).max(now.as_nanos());
        self.tell_claim(Station { vni, vid, mac, location }, stamp);
    }

    fn tell_claim(&mut self, station: Station, stamp: u64) {
        let Some(s) = &mut self.sharing else { return };
        s.stamp = s.stamp.max(stamp);
        let key = station.key();
        s.claims.remember(self.pipeline.tables.fdb.hash(key), key, stamp, s.me);
        if s.claims_left > 0 {
            s.claims_left -= 1;
            s.out.push(News { epoch: s.epoch, what: What::Claim(station, stamp) });
        }
    }

    /// Returns the news for every other worker. Pass it on before frames are sent.
    pub fn take_news(&mut self) -> &mut Vec<News> {
        let heard = self.pipeline.tables.neighbors.take_told();
        let Some(s) = &mut self.sharing else { unreachable!("a switch alone has no news") };
        s.out.extend(heard.map(|(vni, ip, mac)| News { epoch: s.epoch, what: What::Neighbor(vni, ip, mac) }));
        &mut s.out
    }

    /// Takes news from another worker. Returns false if the news is about commands that this worker has not
    /// processed yet; the caller then has to keep it.
    pub fn hear(&mut self, now: Instant, from: u8, news: &News) -> bool {
        let Some(s) = &mut self.sharing else { return true };
        if news.epoch > s.epoch {
            return false;
        }
        if let What::Claim(_, stamp) = news.what {
            s.stamp = s.stamp.max(stamp);
        }
        if news.epoch < s.forgot {
            return true;
        }
        match news.what {
            What::Claim(station, stamp) => self.hear_claim(now, from, &station, stamp),
            What::Sighting(station, seen) => self.hear_sighting(now, &station, seen),
            What::Neighbor(vni, ip, mac) => {
                let t = &mut self.pipeline.tables;
                if t.neighbors.heard_by_other(now, vni, ip, mac) {
                    let location = t.fdb.get(vni, 0, mac);
                    t.changed();
                    t.floating.resolve(vni, ip, Some(mac), location);
                }
            }
            What::LinkLocal(id, ip, vid, claimed) => self.hear_link_local(now, id, ip, vid, claimed),
        }
        true
    }

    /// Tells the other workers that a guest has claimed an opaque link-local address, or lost it.
    pub(super) fn tell_link_local(&mut self, id: PortId, ip: Ip, vid: u16, claimed: bool) {
        if let Some(s) = &mut self.sharing {
            s.out.push(News { epoch: s.epoch, what: What::LinkLocal(id, ip, vid, claimed) });
        }
    }

    fn hear_claim(&mut self, now: Instant, from: u8, station: &Station, stamp: u64) {
        let Some(s) = &mut self.sharing else { return };
        let key = station.key();
        let hash = self.pipeline.tables.fdb.hash(key);
        if !s.claims.is_later(hash, key, stamp, from) {
            return;
        }
        s.claims.remember(hash, key, stamp, from);
        let claimed = Instant::from_nanos(stamp);
        match self.pipeline.tables.fdb.sighting(hash, key) {
            Some(known) if known.is_static => {}
            // The station has sent a frame here since, from its old location. So it has moved back, which the
            // other worker does not know.
            Some(known) if known.location != station.location && known.seen > claimed => {
                let back = Station { location: known.location, ..*station };
                self.tell_claim(back, known.seen.as_nanos().max(stamp + 1));
            }
            Some(known) => self.settle(now.min(claimed).max(known.seen), station),
            None => self.settle(now.min(claimed), station),
        }
    }

    fn hear_sighting(&mut self, now: Instant, station: &Station, seen: Instant) {
        let key = station.key();
        let hash = self.pipeline.tables.fdb.hash(key);
        let later = match self.pipeline.tables.fdb.sighting(hash, key) {
            Some(known) => seen > known.seen && !known.is_static,
            None => true,
        };
        if later {
            self.settle(seen.min(now), station);
        }
    }

    /// Records the location of a station, if permitted: with the same bounds as for a frame received here.
    fn settle(&mut self, seen: Instant, station: &Station) {
        let &Station { vni, vid, mac, location } = station;
        let t = &mut self.pipeline.tables;
        let max = match location {
            Location::Port(id) => {
                t.ports.get(id).filter(|p| p.live_member() == Some(vni)).map(|p| p.config.fdb_max)
            }
            Location::Peer(id) => {
                let part = t.peers.get(id).is_some_and(|p| p.config.vnis.contains(&vni));
                t.networks.get(vni).filter(|_| part).map(|n| n.config.fdb_max)
            }
        };
        let Some(max) = max else { return };
        let key = station.key();
        let learned = t.fdb.learn(seen, (t.fdb.hash(key), key), location, max);
        if vid == 0 && matches!(learned, Learned::New | Learned::Moved) {
            station_moved(t, vni, mac, Some(location));
        }
    }

    /// Scans one tick's share of the table, and repeats the stations with new frames since the previous scan.
    pub(super) fn share_sightings(&mut self, now: Instant, tick: Duration) {
        let Some(s) = &mut self.sharing else { return };
        s.claims_left = CLAIMS_PER_TICK;
        let fdb = &self.pipeline.tables.fdb;
        // A short-lived entry has to be repeated several times in its life.
        let walk = WALK.min(fdb.age_min() / 3).max(tick);
        let ticks = (walk.as_nanos() / tick.as_nanos()) as u32;
        let count = fdb.slots().div_ceil(ticks).min(AGE_SLICE_MAX);
        let (epoch, since, out) = (s.epoch, s.walk_before, &mut s.out);
        s.cursor =
            fdb.fresh(s.cursor, (count, SIGHTINGS_PER_TICK), since, |(vni, vid, mac), location, seen| {
                let station = Station { vni, vid, mac, location };
                out.push(News { epoch, what: What::Sighting(station, seen) });
            });
        if s.cursor == 0 {
            (s.walk_before, s.walk_began) = (s.walk_began, now);
        }
    }
}
