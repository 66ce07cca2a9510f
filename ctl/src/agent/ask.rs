//! What a client's request asks of the workers.

use engine::command::{Location, PortId, Vni};
use engine::watch::WatchId;
use engine::wire::mac::MacAddr;

use crate::api;

/// A request that needs the workers' answers.
#[derive(Debug)]
pub(super) enum Ask {
    Status,
    Networks(Option<String>),
    Ports(Option<String>),
    Peers(Option<String>),
    Floatings(api::WhichFloating),
    Fdb(FdbFilter),
    /// Check that a learned entry exists before its deletion.
    FdbDelete {
        filter: FdbFilter,
        if_exists: bool,
    },
    Neighbors(Option<Vni>),
    Drops(Option<PortId>),
    /// Trace a frame in a dry run.
    Trace(PortId, Vec<u8>),
    /// Check that all workers have started the capture.
    CaptureStarted(WatchId, Option<PortId>),
    /// Count drops for events.
    Pulse,
    /// Read the traffic between us and the peers.
    Look,
    /// Read captured frames: the most frames and bytes from each worker.
    Captured(WatchId, usize, usize),
}

/// A selection of FDB entries.
#[derive(Clone, Debug, Default)]
pub(super) struct FdbFilter {
    pub(super) vni: Option<Vni>,
    pub(super) location: Option<Location>,
    pub(super) mac: Option<MacAddr>,
    pub(super) vid: Option<u16>,
    pub(super) limit: usize,
}
