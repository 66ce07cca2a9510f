//! One switch on several workers: what one learns, the others must know.
//!
//! Every worker has tables of its own, so a station heard by one would be unknown to the others and its
//! traffic flooded. Four kinds of [`News`] keep the tables alike, without a lock:
//!
//! - A *claim*: a station appeared or moved. Told before the frame that taught it is sent, so that whoever
//!   answers that frame finds every worker informed. Claims are ordered by (stamp, worker), where a stamp is
//!   never below one heard before (Lamport): the last move wins everywhere.
//! - A *sighting*: a station was heard lately. Each worker walks its table slowly and repeats what is fresh.
//!   So an entry lives while any worker hears the station, and a claim that was lost (a full ring, a flood
//!   of addresses) is made good within one walk. A sighting carries when the station was heard, not when it
//!   is told: an echo keeps nobody alive.
//! - A *neighbour*: what ARP and ND said of an address that is routed to.
//! - A *link-local address*: a guest has claimed an opaque one, or another station has it.
//!
//! News is about a state of the configuration. Commands reach all workers in one order, and each counts them:
//! news of a state that is not reached here yet waits, and news from before something was forgotten here
//! (a flush, a removed port) is forgotten too.
//!
//! Cost is bounded: claims per tick, slots walked per tick, news taken per poll. Under a flood of addresses
//! claims beyond the bound are left to the walk.

use alloc::vec::Vec;

use super::Switch;
use super::learn::station_moved;
use crate::command::{Command, Location, PortId, Vni};
use crate::limits::{AGE_SLICE_MAX, CLAIMS_PER_TICK, SIGHTINGS_PER_TICK};
use crate::table::fdb::{FdbKey, Learned};
use crate::time::{Duration, Instant};
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// Something that other workers must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct News {
    /// Commands taken by the teller when it knew this.
    epoch: u64,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    /// A station appeared or moved.
    Claim(Station, u64),
    /// A station was heard at this time.
    Sighting(Station, Instant),
    /// An address that is routed to has this MAC.
    Neighbor(Vni, Ip, MacAddr),
    /// The guest of a port has claimed an opaque link-local address, or lost it.
    LinkLocal(PortId, Ip, u16, bool),
}

/// Where a station is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Station {
    vni: Vni,
    vid: u16,
    mac: MacAddr,
    location: Location,
}

/// What a worker among several keeps to itself.
#[derive(Debug)]
pub(super) struct Sharing {
    /// Its number.
    me: u8,
    /// Commands taken, and how many when something was forgotten last.
    epoch: u64,
    forgot: u64,
    /// The highest stamp given or heard.
    stamp: u64,
    claims: Claims,
    claims_left: u32,
    /// To be told.
    out: Vec<News>,
    /// Where the walk is, when it began, and when the one before did.
    cursor: u32,
    walk_began: Instant,
    walk_before: Instant,
}

/// The last claims about stations, made here or heard, by a part of the key's hash. Collisions forget: what is
/// then compared is the coarse time when a station was heard.
#[derive(Debug)]
struct Claims(Vec<Option<(FdbKey, u64, u8)>>);

/// Stations whose last claim is remembered. Only those that move within one coarse tick depend on it.
const CLAIMS: usize = 1024;

/// How long the walk takes for the whole table, at most by its own choice.
const WALK: Duration = Duration::from_secs(8);

/// What is waiting to be told at most: all that one tick can produce, but for neighbours.
const OUT_LEN: usize = (CLAIMS_PER_TICK + SIGHTINGS_PER_TICK) as usize;

impl News {
    /// Whether a worker that sleeps has to be woken for it.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        !matches!(self.what, What::Sighting(..))
    }
}

impl Claims {
    fn cell(hash: u64) -> usize {
        (hash >> 32) as usize % CLAIMS
    }

    /// Whether a claim is later than what is remembered of the station.
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
        self.tables.neighbors.share();
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

    /// Whether it asks questions and announces addresses for all workers. One does.
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

    /// Tells that a station was learned here.
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
        s.claims.remember(self.tables.fdb.hash(key), key, stamp, s.me);
        if s.claims_left > 0 {
            s.claims_left -= 1;
            s.out.push(News { epoch: s.epoch, what: What::Claim(station, stamp) });
        }
    }

    /// What is to be told to every other worker, before frames are sent.
    pub fn take_news(&mut self) -> &mut Vec<News> {
        let heard = self.tables.neighbors.take_told();
        let Some(s) = &mut self.sharing else { unreachable!("a switch alone has no news") };
        s.out.extend(heard.map(|(vni, ip, mac)| News { epoch: s.epoch, what: What::Neighbor(vni, ip, mac) }));
        &mut s.out
    }

    /// Takes news from another worker. False: it is about commands that are not taken here yet; keep it.
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
                let t = &mut self.tables;
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

    /// Tells that a guest has claimed an opaque link-local address, or lost it.
    pub(super) fn tell_link_local(&mut self, id: PortId, ip: Ip, vid: u16, claimed: bool) {
        if let Some(s) = &mut self.sharing {
            s.out.push(News { epoch: s.epoch, what: What::LinkLocal(id, ip, vid, claimed) });
        }
    }

    fn hear_claim(&mut self, now: Instant, from: u8, station: &Station, stamp: u64) {
        let Some(s) = &mut self.sharing else { return };
        let key = station.key();
        let hash = self.tables.fdb.hash(key);
        if !s.claims.is_later(hash, key, stamp, from) {
            return;
        }
        s.claims.remember(hash, key, stamp, from);
        let claimed = Instant::from_nanos(stamp);
        match self.tables.fdb.sighting(hash, key) {
            Some(known) if known.is_static => {}
            // It was heard here since, at the place where it was: so it moved back then, which is news to the other.
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
        let hash = self.tables.fdb.hash(key);
        let later = match self.tables.fdb.sighting(hash, key) {
            Some(known) => seen > known.seen && !known.is_static,
            None => true,
        };
        if later {
            self.settle(seen.min(now), station);
        }
    }

    /// Notes where a station is, if it may be there: the same bounds hold as if it had been heard here.
    fn settle(&mut self, seen: Instant, station: &Station) {
        let &Station { vni, vid, mac, location } = station;
        let t = &mut self.tables;
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

    /// The walk's share of a tick: repeats who was heard since it came by last.
    pub(super) fn share_sightings(&mut self, now: Instant, tick: Duration) {
        let Some(s) = &mut self.sharing else { return };
        s.claims_left = CLAIMS_PER_TICK;
        let fdb = &self.tables.fdb;
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
