//! The costs of the switch next to those of its peers: in memory ([`memory`]) and on real interfaces ([`wire`]).
//!
//! Every measurement is a [`results::Key`] with the values of its runs. They are the input of `summary.json`
//! ([`goals`]), the tables ([`report`]), the plots ([`plot`]) and the comparison with the baseline ([`compare`]).
//! `cargo xtask bench` runs all of these.

pub mod compare;
pub mod goals;
pub mod machine;
pub mod memory;
pub mod plot;
pub mod pool;
pub mod process;
pub mod report;
pub mod results;
pub mod stats;
pub mod walk;
pub mod wire;

pub use walk::{Kind, Walk};
