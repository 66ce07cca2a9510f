//! The tables that the pipeline reads.

use alloc::sync::Arc;

use crate::command::UplinkConfig;
use crate::own::OwnFlows;
use crate::table::fdb::Fdb;
use crate::table::floating_ip::FloatingIps;
use crate::table::fragments::Fragments;
use crate::table::neighbor::Neighbors;
use crate::table::network::Networks;
use crate::table::peer::PeerTable;
use crate::table::port::PortTable;
use crate::table::source_route::SourceRoutes;
use crate::table::underlay::{Guard, Underlay};
use crate::wire::mac::MacAddr;

/// All tables that the pipeline reads.
#[derive(Debug)]
pub struct Tables<F = Fdb> {
    /// The ports of this rVM.
    pub ports: PortTable,
    /// Maps MAC addresses to ports and peers. Only decisions read it: the later stages have no FDB
    /// ([`Tables::fork`]).
    pub fdb: F,
    /// The networks and their flood sets.
    pub networks: Arc<Networks>,
    /// The other rVMs.
    pub peers: PeerTable,
    /// Floating IPs.
    pub floating: FloatingIps,
    /// Ports of packets that arrive in fragments.
    pub fragments: Fragments,
    /// Source routes.
    pub routes: Arc<SourceRoutes>,
    /// Overlay next hops.
    pub neighbors: Neighbors,
    /// Underlay routes and next hops.
    pub underlay: Arc<Underlay>,
    /// Destinations that translated packets must not reach.
    pub guard: Arc<Guard>,
    /// How the switch attaches to the underlay.
    pub uplink: Option<UplinkConfig>,
    /// Connections of the rVM's own kernel. Translated packets must not belong to one.
    pub own: Option<Arc<dyn OwnFlows>>,
    /// Increases with every change of a table, except when a station appears (no cached verdict concerns an
    /// unknown station) or leaves (see [`Fdb::version`]).
    pub version: u32,
}

impl Tables {
    pub(super) fn new(seed: u64) -> Self {
        let part = |n: u64| seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self {
            ports: PortTable::default(),
            fdb: Fdb::new(part(1)),
            networks: Arc::new(Networks::new(part(2))),
            peers: PeerTable::new(part(3)),
            floating: FloatingIps::new(part(4)),
            routes: Arc::new(SourceRoutes::new(part(5))),
            neighbors: Neighbors::new(part(6)),
            underlay: Arc::new(Underlay::new(part(7))),
            guard: Arc::new(Guard::new(part(8))),
            fragments: Fragments::new(part(9)),
            uplink: None,
            own: None,
            version: 0,
        }
    }

    /// A copy for a dry run, without the FDB, which is by far the largest table. It shares what only commands
    /// change.
    pub(super) fn fork(&self) -> Tables<()> {
        Tables {
            ports: self.ports.fork(),
            fdb: (),
            networks: self.networks.clone(),
            peers: self.peers.clone(),
            floating: self.floating.clone(),
            fragments: self.fragments.clone(),
            routes: self.routes.clone(),
            neighbors: self.neighbors.clone(),
            underlay: self.underlay.clone(),
            guard: self.guard.clone(),
            uplink: self.uplink.clone(),
            own: self.own.clone(),
            version: self.version,
        }
    }
}

impl<F> Tables<F> {
    /// Invalidates all cached verdicts.
    pub fn changed(&mut self) {
        self.version = self.version.wrapping_add(1);
    }

    /// The switch's own MAC address. Zero, which no frame carries, until an uplink is configured.
    #[inline]
    #[must_use]
    pub fn switch_mac(&self) -> MacAddr {
        self.uplink.as_ref().map_or(MacAddr::ZERO, |u| u.switch_mac)
    }
}
