//! The control plane: the desired state ([`model`]), the actions that lead to it ([`agent`]), and the interface for
//! requests ([`api`]). It never sees a frame.

pub mod agent;
pub mod api;
pub mod cli;
pub mod filter;
pub mod guest;
pub mod io;
pub mod liveness;
pub mod macs;
pub mod metrics;
pub mod model;
pub mod path;
pub mod reconcile;
pub mod steering;
