//! The machine's interfaces: their state, their changes, and the pairs that are doors.
//!
//! Everything goes through rtnetlink; no shell is involved. [`Links::poll`] turns the kernel's messages into
//! inputs for the agent.

mod door;
mod ethtool;
mod icmp;
mod merger;
mod rib;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use ctl::io::{DoorSpec, Input, LinkFacts, SteerPlan};
use engine::wire::mac::MacAddr;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{Heard, Monitor, RTM_GETNEXTHOP, Requester};
pub use door::DoorError;
pub use ethtool::set_rx_unmerged as keep_unmerged;
pub use icmp::IcmpErrors;
pub use merger::Merger;
use rib::{NextHops, Rib, Sources};
use table::Table;

/// Datagrams of events per poll, so that a storm of them cannot starve the control socket.
const EVENTS_PER_POLL: usize = 256;

/// The shortest pause between two reads of rules and routes.
const ROUTES_PAUSE: Duration = Duration::from_millis(100);

/// The pause is also at least this many times the last read's duration: a large table that keeps changing
/// leaves us time.
const ROUTES_PAUSE_TIMES: u32 = 10;

/// Watches and changes the interfaces of the namespace it was opened in.
pub struct Links {
    monitor: Monitor,
    requester: Requester,
    table: Table,
    overrun: bool,
    /// The earliest time for the next read of rules and routes.
    routes_due: Instant,
}

impl Links {
    /// Opens the sockets and reads everything; `out` receives the present state.
    ///
    /// # Errors
    /// The kernel refused a socket or a table.
    pub fn open(out: &mut Vec<Input>) -> io::Result<Self> {
        // Subscribe first: changes during the read then arrive afterwards.
        let monitor = Monitor::open()?;
        let requester = Requester::open()?;
        let mut links =
            Self { monitor, requester, table: Table::default(), overrun: false, routes_due: Instant::now() };
        links.read_all(out)?;
        Ok(links)
    }

    /// Takes events and appends the changes to `out`. Returns true when the socket is empty.
    ///
    /// # Errors
    /// The sockets are broken.
    pub fn poll(&mut self, out: &mut Vec<Input>) -> io::Result<bool> {
        let table = &mut self.table;
        let overrun = &mut self.overrun;
        let done = self.monitor.poll(EVENTS_PER_POLL, |heard| match heard {
            Heard::Message(message) => table.hear(message, out),
            Heard::NextHop => table.hear_of_routes(),
            Heard::Overrun => *overrun = true,
        })?;
        if done && std::mem::take(&mut self.overrun) {
            tracing::info!("netlink: events were lost in a storm of them; reading everything anew");
            match self.read_all(out) {
                // The tables are still changing: read again.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.overrun = true;
                    return Ok(false);
                }
                read => read?,
            }
        } else if done {
            self.follow_routes(out)?;
        }
        Ok(done)
    }

    /// Reads rules and routes again if they changed and the last read is long enough ago. Call it regularly.
    ///
    /// # Errors
    /// The kernel refused a table.
    pub fn follow_routes(&mut self, out: &mut Vec<Input>) -> io::Result<()> {
        if self.table.routes_dirty() && Instant::now() >= self.routes_due {
            self.read_routes(out)?;
        }
        Ok(())
    }

    /// Chooses the source addresses whose routes to report: those of tunnel packets, and of floating IPs' packets.
    pub fn watch_sources(&mut self, plan: &SteerPlan, out: &mut Vec<Input>) {
        let reality = plan.reality.iter().map(|reality| reality.address).collect();
        self.table.set_sources(Sources { tunnel: plan.tunnel, reality }, out);
    }

    /// The interface with this name.
    pub fn by_name(&self, name: &str) -> Option<&LinkFacts> {
        self.table.by_name(name)
    }

    /// The interface whose routes and neighbours are the underlay's, while it is there.
    pub fn uplink(&self) -> Option<&LinkFacts> {
        self.table.uplink()
    }

    /// Chooses the interface whose routes and neighbours are the underlay's.
    ///
    /// # Errors
    /// The kernel refused a table.
    pub fn watch_underlay(&mut self, interface: Option<String>, out: &mut Vec<Input>) -> io::Result<()> {
        self.table.set_uplink(interface, out);
        self.read_routes(out)?;
        self.read_neighbors(out)
    }

    /// Makes the kernel resolve a next hop on the uplink, as if it had a packet for it. The answer comes as
    /// an event; an answer that the kernel already knows goes to `out` immediately.
    pub fn resolve(&mut self, ip: IpAddr, out: &mut Vec<Input>) {
        let Some(uplink) = self.table.uplink() else { return };
        let mut message = NeighbourMessage::default();
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.ifindex = uplink.index;
        message.header.state = NeighbourState::None;
        message.header.flags = NeighbourFlags::Use;
        message.attributes = vec![NeighbourAttribute::Destination(match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        })];
        let kick = RouteNetlinkMessage::NewNeighbour(message);
        if let Err(error) = self.requester.change(kick, NLM_F_CREATE | NLM_F_REPLACE) {
            tracing::debug!("neighbour {ip}: the kernel cannot resolve it now: {error}");
        }
        if let Some(mac) = self.table.neighbor(ip) {
            out.push(Input::UnderlayNeighbor(ip, Some(mac)));
        }
    }

    /// Makes a door, or corrects an existing one.
    ///
    /// # Errors
    /// A name is taken, or the kernel refused a step.
    pub fn create_door(&mut self, spec: &DoorSpec) -> Result<(), DoorError> {
        door::create(&mut self.requester, spec)
    }

    /// Whether a door that could not be made as configured is usable anyway.
    pub fn is_usable(&mut self, spec: &DoorSpec) -> bool {
        door::is_usable(&mut self.requester, spec)
    }

    /// Removes a door by the name of its CMS end. Succeeds if the door is missing.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn delete_door(&mut self, name: &str) -> Result<(), DoorError> {
        door::delete(&mut self.requester, name)
    }

    fn read_all(&mut self, out: &mut Vec<Input>) -> io::Result<()> {
        let links = self.requester.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let mut seen = BTreeSet::new();
        for message in links {
            if let RouteNetlinkMessage::NewLink(m) = &message {
                seen.insert(m.header.index);
            }
            self.table.hear(message, out);
        }
        self.table.retain_links(&seen, out);
        let before = self.table.take_addresses();
        let addresses = self.requester.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        self.table.set_addresses(&before, &addresses, out);
        self.read_routes(out)?;
        self.read_neighbors(out)
    }

    fn read_routes(&mut self, out: &mut Vec<Input>) -> io::Result<()> {
        let start = Instant::now();
        let read = match self.table.uplink().map(|uplink| uplink.index) {
            Some(uplink) => self.read_rib(uplink),
            None => Ok(Rib::default()),
        };
        match read {
            Ok(rib) => self.table.set_routes(rib, out),
            // The tables kept changing during the read: `follow_routes` reads them again later.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        let now = Instant::now();
        self.routes_due = now + ROUTES_PAUSE.max((now - start) * ROUTES_PAUSE_TIMES);
        Ok(())
    }

    fn read_rib(&mut self, uplink: u32) -> io::Result<Rib> {
        /// Kinds of routes that lead nowhere, and so belong to no interface.
        const NOWHERE: [RouteType; 4] =
            [RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit, RouteType::Throw];
        let nexthops = self.read_nexthops()?;
        let blackhole = rib::has_blackhole(&nexthops);
        let mut rules = Vec::new();
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            rules.extend(unless_gone(self.requester.dump(&RouteNetlinkMessage::GetRule(message)))?);
            // The kernel filters (where it can), so that a router with a full table costs nothing.
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.attributes = vec![RouteAttribute::Oif(uplink)];
            found.extend(unless_gone(self.requester.dump(&RouteNetlinkMessage::GetRoute(message.clone())))?);
            message.attributes.clear();
            for kind in NOWHERE {
                message.header.kind = kind;
                found.extend(unless_gone(
                    self.requester.dump(&RouteNetlinkMessage::GetRoute(message.clone())),
                )?);
            }
            if blackhole {
                // The kernel's filters by type and by interface miss routes with such a nexthop object.
                message.header.kind = RouteType::default();
                let all = unless_gone(self.requester.dump(&RouteNetlinkMessage::GetRoute(message)))?;
                found.extend(all.into_iter().filter(|route| leads_nowhere(route, &nexthops)));
            }
        }
        let rules: Vec<_> = rules
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRule(m) => rib::rule_of(m),
                _ => None,
            })
            .collect();
        let routes = found.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(m) => rib::route_of(m, uplink, &nexthops),
            _ => None,
        });
        // A kernel without policy routing reports no rules.
        let rules = if rules.is_empty() { rib::default_rules() } else { rules };
        Ok(Rib::new(rules, routes.collect()))
    }

    fn read_nexthops(&mut self) -> io::Result<NextHops> {
        /// An empty `struct nhmsg`: all families.
        const ALL: [u8; 8] = [0; 8];
        let bodies = unless_gone(self.requester.dump_raw(RTM_GETNEXTHOP, &ALL))?;
        Ok(bodies.iter().filter_map(|body| rib::nexthop_of(body)).collect())
    }

    fn read_neighbors(&mut self, out: &mut Vec<Input>) -> io::Result<()> {
        let mut neighbors = Vec::new();
        if let Some(uplink) = self.table.uplink() {
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                let mut message = NeighbourMessage::default();
                message.header.family = family;
                message.attributes = vec![NeighbourAttribute::IfIndex(uplink.index)];
                neighbors
                    .extend(unless_gone(self.requester.dump(&RouteNetlinkMessage::GetNeighbour(message)))?);
            }
        }
        self.table.set_neighbors(neighbors, out);
        Ok(())
    }
}

/// The MAC address of an interface, by any of its names.
#[must_use]
pub fn mac_of(name: &str) -> Option<MacAddr> {
    let link = find(name)?;
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => Some(MacAddr(mac.as_slice().try_into().ok()?)),
        _ => None,
    })
}

/// The primary name of the interface that has this name or alternative name. Returns `name` if no interface has it.
#[must_use]
pub fn name_of(name: &str) -> String {
    let found = find(name).and_then(|link| {
        link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
    });
    found.unwrap_or_else(|| name.to_owned())
}

/// The interface that has a name or an alternative name.
fn find(name: &str) -> Option<LinkMessage> {
    /// linux/if_link.h
    const IFLA_ALT_IFNAME: u16 = 53;
    let mut message = LinkMessage::default();
    // A name longer than a primary name can be is an alternative name.
    message.attributes = vec![match name.len() < libc::IFNAMSIZ {
        true => LinkAttribute::IfName(name.to_owned()),
        false => LinkAttribute::Other(DefaultNla::new(IFLA_ALT_IFNAME, [name.as_bytes(), &[0]].concat())),
    }];
    match Requester::open().ok()?.get(RouteNetlinkMessage::GetLink(message)) {
        Ok(Some(RouteNetlinkMessage::NewLink(link))) => Some(link),
        _ => None,
    }
}

/// Whether it is a route whose nexthop object leads nowhere.
fn leads_nowhere(message: &RouteNetlinkMessage, nexthops: &NextHops) -> bool {
    matches!(message, RouteNetlinkMessage::NewRoute(m) if rib::leads_nowhere(m, nexthops))
}

/// The rows of a dump, or an empty list. Empty if its interface has just gone (the events about its routes
/// come before the event about the interface), or if this kernel lacks the table.
fn unless_gone<T>(dump: io::Result<Vec<T>>) -> io::Result<Vec<T>> {
    match dump {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EOPNOTSUPP)) => Ok(Vec::new()),
        other => other,
    }
}

impl AsRawFd for Links {
    fn as_raw_fd(&self) -> RawFd {
        self.monitor.as_raw_fd()
    }
}
