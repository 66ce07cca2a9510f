//! The tables: one file, one struct and one essay each. They are composed when something changes, not per
//! packet.

pub mod error_limit;
pub mod fdb;
pub mod floating_ip;
pub mod fragments;
pub mod link_local;
pub mod neighbor;
pub mod network;
pub mod peer;
pub mod policer;
pub mod port;
pub mod silent_hops;
pub mod source_route;
pub mod underlay;

use ahash::RandomState;

/// The keyed hash of a table. Attackers choose the keys, so the seed is an argument.
#[must_use]
pub fn hasher(seed: u64) -> RandomState {
    RandomState::with_seeds(seed, seed ^ 0x9e37_79b9_7f4a_7c15, seed.rotate_left(17), !seed)
}

/// A hash map with a keyed hash.
pub type Map<K, V> = hashbrown::HashMap<K, V, RandomState>;

/// A station of the overlay by its network and IP address.
pub type Station = (crate::command::Vni, crate::wire::ip::Ip);
