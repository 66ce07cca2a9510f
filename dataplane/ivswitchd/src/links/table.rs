//! What is known of the machine's interfaces and of the underlay, kept from rtnetlink messages.
//!
//! Pure: messages in, inputs for the agent out; only what really changed is said. The table has no
//! bound of its own: it mirrors the kernel's, which only the machine's administrator fills.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ctl::io::{Input, LinkFacts};
use engine::command::{IpPrefix, UnderlayRoute};
use engine::wire::mac::MacAddr;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags, RouteType,
    RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

/// Mirrors the kernel's links and addresses, and the routes and neighbours of one of them: the uplink.
#[derive(Default)]
pub struct Table {
    links: BTreeMap<u32, LinkFacts>,
    uplink: Option<String>,
    routes: Vec<UnderlayRoute>,
    neighbors: BTreeMap<IpAddr, MacAddr>,
    routes_dirty: bool,
}

impl Table {
    /// The interface of this name.
    pub fn by_name(&self, name: &str) -> Option<&LinkFacts> {
        self.links.values().find(|link| link.name == name)
    }

    /// The uplink, while it is there.
    pub fn uplink(&self) -> Option<&LinkFacts> {
        self.by_name(self.uplink.as_deref()?)
    }

    /// Chooses the uplink. Its routes and neighbours have to be read ([`Self::set_routes`],
    /// [`Self::hear`]) after this.
    pub fn set_uplink(&mut self, name: Option<String>, out: &mut Vec<Input>) {
        if self.uplink != name {
            self.uplink = name;
            self.forget_underlay(out);
        }
        self.routes_dirty = true;
    }

    /// Whether routes changed since [`Self::set_routes`].
    pub const fn routes_dirty(&self) -> bool {
        self.routes_dirty
    }

    /// The MAC address of a neighbour on the uplink.
    pub fn neighbor(&self, ip: IpAddr) -> Option<MacAddr> {
        self.neighbors.get(&ip).copied()
    }

    /// Takes one message, from a dump or an event.
    pub fn hear(&mut self, message: RouteNetlinkMessage, out: &mut Vec<Input>) {
        match message {
            RouteNetlinkMessage::NewLink(m) => self.link(&m, out),
            RouteNetlinkMessage::DelLink(m) if m.header.interface_family == AddressFamily::Unspec => {
                self.link_gone(m.header.index, out);
            }
            RouteNetlinkMessage::NewAddress(m) => self.address(&m, true, out),
            RouteNetlinkMessage::DelAddress(m) => self.address(&m, false, out),
            RouteNetlinkMessage::NewNeighbour(m) => self.neighbour(&m, true, out),
            RouteNetlinkMessage::DelNeighbour(m) => self.neighbour(&m, false, out),
            RouteNetlinkMessage::NewRoute(m) | RouteNetlinkMessage::DelRoute(m) => {
                self.routes_dirty |= table_of(&m) == u32::from(RouteHeader::RT_TABLE_MAIN);
            }
            _ => {}
        }
    }

    /// After a full dump of links: forgets those that were not in it.
    pub fn retain_links(&mut self, seen: &BTreeSet<u32>, out: &mut Vec<Input>) {
        let gone: Vec<u32> = self.links.keys().filter(|index| !seen.contains(index)).copied().collect();
        for index in gone {
            self.link_gone(index, out);
        }
    }

    /// Before a full dump of addresses. The dump then says them anew; `finish` says what differs.
    pub fn take_addresses(&mut self) -> BTreeMap<u32, Vec<IpPrefix>> {
        self.links.iter_mut().map(|(index, link)| (*index, std::mem::take(&mut link.addresses))).collect()
    }

    /// After a full dump of addresses.
    pub fn set_addresses(
        &mut self,
        before: &BTreeMap<u32, Vec<IpPrefix>>,
        dump: &[RouteNetlinkMessage],
        out: &mut Vec<Input>,
    ) {
        let mut silent = Vec::new();
        for message in dump {
            if let RouteNetlinkMessage::NewAddress(m) = message {
                self.address(m, true, &mut silent);
            }
        }
        for (index, link) in &self.links {
            if before.get(index) != Some(&link.addresses) {
                out.push(Input::Link(link.clone()));
            }
        }
        self.routes_dirty = true;
    }

    /// After a full dump of the uplink's neighbours: forgets those that were not in it.
    pub fn set_neighbors(&mut self, dump: Vec<RouteNetlinkMessage>, out: &mut Vec<Input>) {
        let mut seen = BTreeSet::new();
        for message in dump {
            if let RouteNetlinkMessage::NewNeighbour(m) = &message
                && let Some(ip) = neighbour_ip(m)
            {
                seen.insert(ip);
            }
            self.hear(message, out);
        }
        let gone: Vec<IpAddr> = self.neighbors.keys().filter(|ip| !seen.contains(ip)).copied().collect();
        for ip in gone {
            self.neighbors.remove(&ip);
            out.push(Input::UnderlayNeighbor(ip, None));
        }
    }

    /// After a full dump of routes.
    pub fn set_routes(&mut self, dump: &[RouteNetlinkMessage], out: &mut Vec<Input>) {
        self.routes_dirty = false;
        let routes = self.uplink().map(|uplink| underlay_routes(dump, uplink)).unwrap_or_default();
        if routes != self.routes {
            self.routes.clone_from(&routes);
            out.push(Input::UnderlayRoutes(routes));
        }
    }

    fn link(&mut self, m: &LinkMessage, out: &mut Vec<Input>) {
        // A bridge tells of its ports in the same group; those are no news of the link.
        if m.header.interface_family != AddressFamily::Unspec {
            return;
        }
        let index = m.header.index;
        let mut facts = LinkFacts {
            name: String::new(),
            index,
            mac: MacAddr::ZERO,
            mtu: 0,
            up: m.header.flags.contains(LinkFlags::Up),
            carrier: m.header.flags.contains(LinkFlags::LowerUp),
            addresses: Vec::new(),
        };
        for attribute in &m.attributes {
            match attribute {
                LinkAttribute::IfName(name) => facts.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
                LinkAttribute::Address(mac) => facts.mac = mac_of(mac).unwrap_or(MacAddr::ZERO),
                _ => {}
            }
        }
        if facts.name.is_empty() {
            return;
        }
        if let Some(known) = self.links.get(&index) {
            facts.addresses.clone_from(&known.addresses);
            if *known == facts {
                return;
            }
            if known.name != facts.name {
                out.push(Input::LinkGone(known.name.clone()));
                if self.uplink.as_ref() == Some(&known.name) {
                    self.forget_underlay(out);
                }
            }
        }
        // Its name may have belonged to an interface whose end we have not heard of yet.
        let twin = self.links.values().find(|link| link.name == facts.name && link.index != index);
        if let Some(twin) = twin.map(|link| link.index) {
            self.link_gone(twin, out);
        }
        self.routes_dirty |= self.uplink.as_ref() == Some(&facts.name);
        out.push(Input::Link(facts.clone()));
        self.links.insert(index, facts);
    }

    fn link_gone(&mut self, index: u32, out: &mut Vec<Input>) {
        if let Some(link) = self.links.remove(&index) {
            let is_uplink = self.uplink.as_ref() == Some(&link.name);
            out.push(Input::LinkGone(link.name));
            if is_uplink {
                self.forget_underlay(out);
            }
        }
    }

    fn forget_underlay(&mut self, out: &mut Vec<Input>) {
        for ip in std::mem::take(&mut self.neighbors).into_keys() {
            out.push(Input::UnderlayNeighbor(ip, None));
        }
        if !std::mem::take(&mut self.routes).is_empty() {
            out.push(Input::UnderlayRoutes(Vec::new()));
        }
    }

    fn address(&mut self, m: &AddressMessage, new: bool, out: &mut Vec<Input>) {
        let Some(link) = self.links.get_mut(&m.header.index) else { return };
        // On a point-to-point interface `Address` is the far end's and `Local` ours.
        let mut local = None;
        let mut address = None;
        let mut flags = AddressFlags::from_bits_retain(u32::from(m.header.flags.bits()));
        for attribute in &m.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(f) => flags = *f,
                _ => {}
            }
        }
        let Some(addr) = local.or(address) else { return };
        let prefix = IpPrefix { addr, len: m.header.prefix_len };
        // Not usable until duplicate address detection has passed (RFC 4862 s.5.4).
        let unusable = flags.contains(AddressFlags::Dadfailed)
            || (flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic));
        let usable = new && !unusable;
        let at = link.addresses.iter().position(|known| *known == prefix);
        match (at, usable) {
            (None, true) => link.addresses.push(prefix),
            (Some(at), false) => {
                link.addresses.remove(at);
            }
            _ => return,
        }
        self.routes_dirty |= self.uplink.as_ref() == Some(&link.name);
        out.push(Input::Link(link.clone()));
    }

    fn neighbour(&mut self, m: &NeighbourMessage, new: bool, out: &mut Vec<Input>) {
        if self.uplink().is_none_or(|uplink| uplink.index != m.header.ifindex) {
            return;
        }
        let Some(ip) = neighbour_ip(m) else { return };
        let mac = m.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(mac) => mac_of(mac),
            _ => None,
        });
        let valid = matches!(
            m.header.state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
                | NeighbourState::Noarp
        );
        match mac.filter(|mac| new && valid && mac.is_unicast()) {
            Some(mac) => {
                if self.neighbors.insert(ip, mac) != Some(mac) {
                    out.push(Input::UnderlayNeighbor(ip, Some(mac)));
                }
            }
            None => {
                if self.neighbors.remove(&ip).is_some() {
                    out.push(Input::UnderlayNeighbor(ip, None));
                }
            }
        }
    }
}

/// The address that a neighbour message is about; `None` for what is not a host on the link.
fn neighbour_ip(m: &NeighbourMessage) -> Option<IpAddr> {
    if !matches!(m.header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || m.header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let ip = m.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })?;
    (!ip.is_multicast()).then_some(ip)
}

fn mac_of(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
}

fn table_of(m: &RouteMessage) -> u32 {
    m.attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or_else(|| u32::from(m.header.table))
}

/// The routes of the main table that lead out of the uplink, best metric per prefix, and the
/// uplink's connected prefixes. Sorted, so that equal tables compare equal.
fn underlay_routes(dump: &[RouteNetlinkMessage], uplink: &LinkFacts) -> Vec<UnderlayRoute> {
    let mut best: BTreeMap<IpPrefix, (u32, Option<IpAddr>)> = BTreeMap::new();
    for message in dump {
        if let RouteNetlinkMessage::NewRoute(m) = message
            && let Some((to, metric, via)) = route_through(m, uplink.index)
            && best.get(&to).is_none_or(|(known, _)| metric < *known)
        {
            best.insert(to, (metric, via));
        }
    }
    for prefix in &uplink.addresses {
        if *prefix != IpPrefix::host(prefix.addr) {
            best.entry(network(*prefix)).or_insert((u32::MAX, None));
        }
    }
    best.into_iter().map(|(to, (_, via))| UnderlayRoute { to, via }).collect()
}

/// Destination, metric and gateway of a route, if it leads out of interface `index`.
fn route_through(m: &RouteMessage, index: u32) -> Option<(IpPrefix, u32, Option<IpAddr>)> {
    if table_of(m) != u32::from(RouteHeader::RT_TABLE_MAIN)
        || m.header.kind != RouteType::Unicast
        || m.header.flags.intersects(RouteFlags::Dead | RouteFlags::Cloned)
        || m.header.tos != 0
        || m.header.source_prefix_length != 0
    {
        return None;
    }
    let unspecified = match m.header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut to = unspecified;
    let mut metric = 0;
    let mut oif = None;
    let mut via = None;
    let mut hop = None;
    for attribute in &m.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = route_ip(address)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::MultiPath(hops) => {
                hop = hops
                    .iter()
                    .find(|hop| hop.interface_index == index && !hop.flags.contains(RouteNextHopFlags::Dead));
            }
            attribute => via = gateway(attribute).or(via),
        }
    }
    if let Some(hop) = hop {
        via = hop.attributes.iter().find_map(gateway);
    } else if oif != Some(index) {
        return None;
    }
    Some((IpPrefix { addr: to, len: m.header.destination_prefix_length }, metric, via))
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => route_ip(address),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

const fn route_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// The prefix with the bits of the host cleared.
fn network(prefix: IpPrefix) -> IpPrefix {
    let addr = match prefix.addr {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.len.min(32))).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.len.min(128))).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    };
    IpPrefix { addr, len: prefix.len }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::address::AddressHeader;

    fn link(index: u32, name: &str, flags: LinkFlags) -> RouteNetlinkMessage {
        let mut m = LinkMessage::default();
        m.header.index = index;
        m.header.flags = flags;
        m.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]),
        ];
        RouteNetlinkMessage::NewLink(m)
    }

    fn address(index: u32, ip: &str, len: u8) -> AddressMessage {
        let mut m = AddressMessage::default();
        m.header = AddressHeader { prefix_len: len, index, ..Default::default() };
        m.attributes = vec![AddressAttribute::Local(ip.parse().unwrap())];
        m
    }

    fn route(to: &str, len: u8, via: Option<&str>, oif: u32, metric: u32) -> RouteNetlinkMessage {
        let mut m = RouteMessage::default();
        let to: IpAddr = to.parse().unwrap();
        m.header.address_family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        m.header.table = RouteHeader::RT_TABLE_MAIN;
        m.header.kind = RouteType::Unicast;
        m.header.destination_prefix_length = len;
        m.attributes = vec![RouteAttribute::Oif(oif), RouteAttribute::Priority(metric)];
        if len > 0 {
            m.attributes.push(RouteAttribute::Destination(to.into()));
        }
        if let Some(via) = via {
            m.attributes.push(RouteAttribute::Gateway(via.parse::<IpAddr>().unwrap().into()));
        }
        RouteNetlinkMessage::NewRoute(m)
    }

    fn hear(table: &mut Table, message: RouteNetlinkMessage) -> Vec<Input> {
        let mut out = Vec::new();
        table.hear(message, &mut out);
        out
    }

    /// Only changes are said, and a renamed interface goes under its old name before it comes back.
    #[test]
    fn a_link_is_said_once_and_a_rename_is_gone_then_new() {
        let mut table = Table::default();
        let up = LinkFlags::Up | LinkFlags::LowerUp;
        assert!(matches!(&hear(&mut table, link(3, "eth0", up))[..], [Input::Link(l)] if l.up && l.carrier));
        assert!(hear(&mut table, link(3, "eth0", up)).is_empty());
        assert!(
            matches!(&hear(&mut table, link(3, "eth0", LinkFlags::Up))[..], [Input::Link(l)] if !l.carrier)
        );
        let out = hear(&mut table, link(3, "wan0", LinkFlags::Up));
        assert!(
            matches!(&out[..], [Input::LinkGone(old), Input::Link(l)] if old == "eth0" && l.name == "wan0")
        );
        // Another interface takes a name before we heard that its holder went.
        let out = hear(&mut table, link(4, "wan0", LinkFlags::Up));
        assert!(matches!(&out[..], [Input::LinkGone(old), Input::Link(l)] if old == "wan0" && l.index == 4));
    }

    /// A bridge announces (and forgets) its ports in the link group; the interface itself stays.
    #[test]
    fn leaving_a_bridge_is_not_the_end_of_a_link() {
        let mut table = Table::default();
        hear(&mut table, link(3, "eth0", LinkFlags::Up));
        let mut m = LinkMessage::default();
        m.header.interface_family = AddressFamily::Bridge;
        m.header.index = 3;
        assert!(hear(&mut table, RouteNetlinkMessage::DelLink(m.clone())).is_empty());
        m.header.interface_family = AddressFamily::Unspec;
        assert!(matches!(&hear(&mut table, RouteNetlinkMessage::DelLink(m))[..], [Input::LinkGone(_)]));
    }

    /// Addresses belong to their link, and only usable ones are told.
    #[test]
    fn tentative_addresses_are_not_told() {
        let mut table = Table::default();
        hear(&mut table, link(3, "eth0", LinkFlags::Up));
        let mut m = address(3, "fd00::1", 64);
        m.attributes.push(AddressAttribute::Flags(AddressFlags::Tentative));
        assert!(hear(&mut table, RouteNetlinkMessage::NewAddress(m.clone())).is_empty());
        m.attributes.pop();
        let out = hear(&mut table, RouteNetlinkMessage::NewAddress(m.clone()));
        assert!(matches!(&out[..], [Input::Link(l)] if l.addresses.len() == 1));
        let out = hear(&mut table, RouteNetlinkMessage::DelAddress(m));
        assert!(matches!(&out[..], [Input::Link(l)] if l.addresses.is_empty()));
    }

    /// Only what leaves through the uplink counts; the best metric wins; connected prefixes are there.
    #[test]
    fn routes_of_the_uplink_only() {
        let mut table = Table::default();
        let mut out = Vec::new();
        hear(&mut table, link(3, "eth0", LinkFlags::Up));
        hear(&mut table, RouteNetlinkMessage::NewAddress(address(3, "10.0.0.11", 24)));
        table.set_uplink(Some("eth0".into()), &mut out);
        let dump = [
            route("0.0.0.0", 0, Some("10.0.0.9"), 3, 200),
            route("0.0.0.0", 0, Some("10.0.0.1"), 3, 100),
            route("10.9.0.0", 16, Some("192.168.0.1"), 4, 0),
            route("fd00::", 8, Some("fe80::1"), 3, 0),
        ];
        table.set_routes(&dump, &mut out);
        let [Input::UnderlayRoutes(routes)] = &out[..] else { panic!("{out:?}") };
        let said: Vec<String> = routes.iter().map(|r| format!("{} {:?}", r.to, r.via)).collect();
        assert_eq!(said, ["0.0.0.0/0 Some(10.0.0.1)", "10.0.0.0/24 None", "fd00::/8 Some(fe80::1)"]);
        // The same again is no news.
        out.clear();
        table.set_routes(&dump, &mut out);
        assert!(out.is_empty());
        // With the uplink its routes go.
        let mut m = LinkMessage::default();
        m.header.index = 3;
        let out = hear(&mut table, RouteNetlinkMessage::DelLink(m));
        assert!(matches!(&out[..], [Input::LinkGone(_), Input::UnderlayRoutes(r)] if r.is_empty()));
    }

    /// Neighbours: only the uplink's, only valid ones, and their end is told once.
    #[test]
    fn neighbours_of_the_uplink_only() {
        let mut table = Table::default();
        hear(&mut table, link(3, "eth0", LinkFlags::Up));
        hear(&mut table, link(4, "eth9", LinkFlags::Up));
        table.set_uplink(Some("eth0".into()), &mut Vec::new());
        let neighbour = |ifindex, state| {
            let mut m = NeighbourMessage::default();
            m.header.family = AddressFamily::Inet;
            m.header.ifindex = ifindex;
            m.header.state = state;
            m.attributes = vec![
                NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 12].into())),
                NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 12]),
            ];
            RouteNetlinkMessage::NewNeighbour(m)
        };
        assert!(hear(&mut table, neighbour(4, NeighbourState::Reachable)).is_empty());
        assert!(hear(&mut table, neighbour(3, NeighbourState::Incomplete)).is_empty());
        let out = hear(&mut table, neighbour(3, NeighbourState::Reachable));
        assert!(matches!(&out[..], [Input::UnderlayNeighbor(_, Some(_))]));
        assert!(hear(&mut table, neighbour(3, NeighbourState::Stale)).is_empty());
        let out = hear(&mut table, neighbour(3, NeighbourState::Failed));
        assert!(matches!(&out[..], [Input::UnderlayNeighbor(_, None)]));
        assert!(hear(&mut table, neighbour(3, NeighbourState::Failed)).is_empty());
    }
}
