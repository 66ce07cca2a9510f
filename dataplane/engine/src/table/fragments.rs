//! The ports of packets that arrive in fragments.

use alloc::boxed::Box;
use alloc::vec::Vec;

use ahash::RandomState;

use super::hasher;
use crate::limits::{FRAGMENT_AGE, FRAGMENT_WAYS, FRAGMENTS_MAX};
use crate::time::Instant;
use crate::wire::ip::Ip;

/// Maps a fragmented packet (RFC 791 §3.2: source, destination, protocol, identification; and the domain that
/// it came from) to the ports in its first fragment. Later fragments carry no ports. Where only some ports of
/// a floating IP are mapped, this table lets them follow the first fragment.
///
/// The table holds facts about packets, not decisions, so a changed configuration takes effect immediately.
/// Only first fragments to and from floating IPs with port lists are entered. The table has [`FRAGMENTS_MAX`]
/// entries in sets of [`FRAGMENT_WAYS`]. A keyed hash of the source alone chooses the set, so a source that
/// begins packets without end displaces only its own entries, and those of the one source in 256 that shares
/// its set. Within a set the oldest entry is evicted. An entry expires after [`FRAGMENT_AGE`].
///
/// A later fragment that arrives before its first is not queued: it is dropped and counted
/// (`fragment-without-first`), and its sender repeats the packet as after any lost fragment. Attacks on
/// reassembly depend on queues for the fragments of strangers. Each worker has a table of its own. Network
/// cards spread fragments by their addresses alone, and so does the source port of our tunnels, so all
/// fragments of a packet reach one worker. Where a card also uses the ports of first fragments, later
/// fragments at another worker are dropped and counted the same way.
///
/// Written by the stage `learn`; read by `classify`.
#[derive(Clone, Debug)]
pub struct Fragments {
    places: Box<[Place]>,
    /// The next position to replace in each set.
    cursors: Box<[u8]>,
    hash: RandomState,
    now: Instant,
}

/// The packet that a fragment belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentKey {
    /// The domain that the packet came from: a network, or the underlay.
    pub domain: u32,
    /// Source address.
    pub src: Ip,
    /// Destination address.
    pub dst: Ip,
    /// Protocol; 0 in IPv6.
    pub proto: u8,
    /// Identification.
    pub id: u32,
}

/// The fields that only a packet's first fragment has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct First {
    /// The transport protocol.
    pub proto: u8,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    key: FragmentKey,
    first: First,
    /// Time of arrival. `None`: vacant.
    since: Option<Instant>,
}

const SETS: usize = FRAGMENTS_MAX / FRAGMENT_WAYS;

impl Fragments {
    /// Creates an empty table whose hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let vacant = || Vec::from_iter((0..FRAGMENTS_MAX).map(|_| Place::default()));
        Self { places: vacant().into(), cursors: Box::new([0; SETS]), hash: hasher(seed), now: Instant::ZERO }
    }

    /// Sets the current time, from which ages of entries are computed.
    pub fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// Records the ports of a packet's first fragment.
    pub fn note(&mut self, key: FragmentKey, first: First) {
        let set = self.set_of(&key);
        let places = &mut self.places[set * FRAGMENT_WAYS..(set + 1) * FRAGMENT_WAYS];
        let same = places.iter().position(|place| place.since.is_some() && place.key == key);
        let at = same.unwrap_or_else(|| {
            let cursor = &mut self.cursors[set];
            *cursor = (*cursor + 1) % FRAGMENT_WAYS as u8;
            usize::from(*cursor)
        });
        places[at] = Place { key, first, since: Some(self.now) };
    }

    /// Returns the ports of the packet's first fragment, if it arrived recently.
    #[must_use]
    pub fn first(&self, key: &FragmentKey) -> Option<First> {
        let set = self.set_of(key);
        let place = self.places[set * FRAGMENT_WAYS..].iter().take(FRAGMENT_WAYS).find(|p| p.key == *key)?;
        place.since.filter(|&since| self.now.since(since) < FRAGMENT_AGE).map(|_| place.first)
    }

    fn set_of(&self, key: &FragmentKey) -> usize {
        self.hash.hash_one((key.domain, key.src)) as usize % SETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(src: u32, id: u32) -> FragmentKey {
        FragmentKey { domain: 1, src: Ip::v4(src.to_be_bytes()), dst: Ip::v4([10, 0, 0, 1]), proto: 17, id }
    }

    fn first(sport: u16, dport: u16) -> First {
        First { proto: 17, sport, dport }
    }

    /// Every part of the key counts, a repeated identification brings the new ports, and entries expire.
    #[test]
    fn later_fragments_find_their_first() {
        let mut table = Fragments::new(1);
        let t = Instant::from_millis(5000);
        table.set_time(t);
        table.note(key(1, 7), first(1000, 53));
        assert_eq!(table.first(&key(1, 7)), Some(first(1000, 53)));
        let other = key(1, 7);
        for wrong in [
            FragmentKey { domain: 2, ..other },
            FragmentKey { src: other.dst, ..other },
            FragmentKey { dst: other.src, ..other },
            FragmentKey { proto: 6, ..other },
            FragmentKey { id: 8, ..other },
            FragmentKey::default(),
        ] {
            assert_eq!(table.first(&wrong), None, "{wrong:?}");
        }
        table.note(key(1, 7), first(1001, 54));
        assert_eq!(table.first(&key(1, 7)), Some(first(1001, 54)));
        table.set_time(t + FRAGMENT_AGE);
        assert_eq!(table.first(&key(1, 7)), None);
    }

    /// A source that begins packets without end displaces its own entries, and almost none of other sources.
    #[test]
    fn a_flood_of_one_source_displaces_its_own() {
        let mut table = Fragments::new(1);
        for source in 100..300 {
            table.note(key(source, 1), first(1, 2));
        }
        for id in 0..100_000 {
            table.note(key(1, id), first(1, 2));
        }
        let left = (100..300).filter(|&source| table.first(&key(source, 1)).is_some()).count();
        assert!(left >= 190, "{left} of 200 left");
        let own = (0..100_000).filter(|&id| table.first(&key(1, id)).is_some()).count();
        assert_eq!(own, FRAGMENT_WAYS, "its latest");
        assert!(table.first(&key(1, 99_999)).is_some());
    }
}
