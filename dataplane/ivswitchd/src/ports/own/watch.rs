//! The workers' access to the table: whether a flow is the kernel's.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use engine::own::{OwnFlow, OwnFlows};

use super::table::{self, OwnTable};

/// The table in use. A reopened uplink brings another; a daemon has one uplink.
static TABLE: RwLock<Option<Arc<OwnTable>>> = RwLock::new(None);

/// A worker's view.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnWatch;

impl OwnFlows for OwnWatch {
    fn holds(&self, flow: &OwnFlow) -> bool {
        // During a replacement no flow is known.
        let Ok(table) = TABLE.try_read() else { return false };
        let Some(table) = table.as_ref() else { return false };
        let flow = table::OwnFlow {
            remote: SocketAddr::new(flow.remote.into(), flow.remote_port),
            local: SocketAddr::new(flow.local.into(), flow.local_port),
            proto: flow.proto,
        };
        table.has(&flow, table::now())
    }
}

/// Makes this table visible to the workers.
pub fn show(table: &Arc<OwnTable>) {
    *TABLE.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(table));
}

/// Hides this table from the workers.
pub fn hide(table: &Arc<OwnTable>) {
    let mut shown = TABLE.write().unwrap_or_else(PoisonError::into_inner);
    if shown.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, table)) {
        *shown = None;
    }
}
