//! Stories named after the requirements that they prove (`tests/REQUIREMENTS.md`), one family per file, and random
//! worlds (`swarm`).

mod cms;
mod faults;
mod floating;
mod guard;
mod l2;
mod live;
mod mtu;
mod networks;
mod router;
mod shared_ip;
mod swarm;
mod underlay;
mod vlan;
mod workers;
