//! The control plane: what is wanted ([`model`]), what has to be done about it ([`agent`]), and how
//! it is asked for ([`api`]). It never sees a frame.

pub mod agent;
pub mod api;
pub mod cli;
pub mod filter;
pub mod guest;
pub mod io;
pub mod liveness;
pub mod metrics;
pub mod model;
pub mod path;
pub mod reconcile;
pub mod steering;
