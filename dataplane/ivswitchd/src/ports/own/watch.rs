//! What workers see of the table: whether a flow is the kernel's.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use engine::own::{OwnFlow, OwnFlows};

use super::table::{self, OwnTable};

/// The table in use. It is another when the uplink is opened anew; a daemon has one uplink.
static TABLE: RwLock<Option<Arc<OwnTable>>> = RwLock::new(None);

/// A worker's view.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnWatch;

impl OwnFlows for OwnWatch {
    fn holds(&self, flow: &OwnFlow) -> bool {
        // While it is being replaced nothing is known.
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

/// Has workers look at this table.
pub fn show(table: &Arc<OwnTable>) {
    *TABLE.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(table));
}

/// Has them look at it no more.
pub fn hide(table: &Arc<OwnTable>) {
    let mut shown = TABLE.write().unwrap_or_else(PoisonError::into_inner);
    if shown.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, table)) {
        *shown = None;
    }
}
