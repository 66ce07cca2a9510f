//! Stories named after the seed checks they prove, one family per file, and random worlds (`swarm`).

mod cms;
mod faults;
mod floating;
mod guard;
mod l2;
mod live;
mod mtu;
mod networks;
mod router;
mod swarm;
mod underlay;
mod vlan;
mod workers;
