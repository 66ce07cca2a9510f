//! The state of the machine's interfaces and of the underlay, kept from rtnetlink messages.
//!
//! Pure: messages in, inputs for the agent out; only real changes are reported. The table has no separate
//! bound: it mirrors the kernel's, which only the machine's administrator fills.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ctl::io::{Input, KernelVxlan, LinkFacts};
use engine::command::{IpPrefix, UnderlayRoutes};
use engine::wire::mac::MacAddr;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoVrf, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::merger;
use super::rib::{Rib, Sources, Uplink};

/// Mirrors the kernel's links and addresses, and the routes and neighbours of one of them: the uplink.
#[derive(Default)]
pub struct Table {
    links: BTreeMap<u32, LinkFacts>,
    places: BTreeMap<u32, Place>,
    uplink: Option<String>,
    sources: Sources,
    rib: Rib,
    routes: UnderlayRoutes,
    neighbors: BTreeMap<IpAddr, MacAddr>,
    routes_dirty: bool,
}

/// An interface's relations to others, as far as policy rules match them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Place {
    group: u32,
    controller: Option<u32>,
    /// The interface is a VRF with this table.
    vrf: Option<u32>,
}

impl Table {
    /// The interface that has this name, or this alternative name.
    pub fn by_name(&self, name: &str) -> Option<&LinkFacts> {
        self.links.values().find(|link| is_named(link, name))
    }

    fn is_uplink(&self, link: &LinkFacts) -> bool {
        self.uplink.as_ref().is_some_and(|uplink| is_named(link, uplink))
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

    /// Sets the switch's own source addresses.
    pub fn set_sources(&mut self, sources: Sources, out: &mut Vec<Input>) {
        if self.sources != sources {
            self.sources = sources;
            self.compose(out);
        }
    }

    /// Whether rules or routes changed since [`Self::set_routes`].
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
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewRule(_)
            | RouteNetlinkMessage::DelRule(_) => self.hear_of_routes(),
            _ => {}
        }
    }

    /// Notes a change that routes depend on.
    pub fn hear_of_routes(&mut self) {
        self.routes_dirty = true;
    }

    /// Call after a full dump of links: forgets those that were not in it.
    pub fn retain_links(&mut self, seen: &BTreeSet<u32>, out: &mut Vec<Input>) {
        let gone: Vec<u32> = self.links.keys().filter(|index| !seen.contains(index)).copied().collect();
        for index in gone {
            self.link_gone(index, out);
        }
    }

    /// Call before a full dump of addresses. The dump then reports them again, and `finish` reports the differences.
    pub fn take_addresses(&mut self) -> BTreeMap<u32, Vec<IpPrefix>> {
        self.links.iter_mut().map(|(index, link)| (*index, std::mem::take(&mut link.addresses))).collect()
    }

    /// Call after a full dump of addresses.
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

    /// Call after a full dump of the uplink's neighbours: forgets those that were not in it.
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

    /// Call after a read of rules and routes.
    pub fn set_routes(&mut self, rib: Rib, out: &mut Vec<Input>) {
        self.routes_dirty = false;
        self.rib = rib;
        self.compose(out);
    }

    fn compose(&mut self, out: &mut Vec<Input>) {
        let routes = self.place_of_uplink().map(|uplink| self.rib.compose(&uplink, &self.sources));
        let routes = routes.unwrap_or_default();
        if routes != self.routes {
            self.routes.clone_from(&routes);
            out.push(Input::UnderlayRoutes(routes));
        }
    }

    fn place_of_uplink(&self) -> Option<Uplink> {
        let link = self.uplink()?;
        let place = self.places.get(&link.index).copied().unwrap_or_default();
        let vrf = place.controller.and_then(|index| {
            let table = self.places.get(&index)?.vrf?;
            Some((self.links.get(&index)?.name.clone(), table))
        });
        Some(Uplink { index: link.index, name: link.name.clone(), group: place.group, vrf })
    }

    fn link(&mut self, m: &LinkMessage, out: &mut Vec<Input>) {
        // A bridge announces its ports in the same group; those messages are not about the link itself.
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
            alt_names: Vec::new(),
            vxlan: None,
        };
        let mut place = Place::default();
        for attribute in &m.attributes {
            match attribute {
                LinkAttribute::IfName(name) => facts.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
                LinkAttribute::Address(mac) => facts.mac = mac_of(mac).unwrap_or(MacAddr::ZERO),
                LinkAttribute::Group(group) => place.group = *group,
                LinkAttribute::Controller(index) => place.controller = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    place.vrf = infos.iter().find_map(vrf_table);
                    facts.vxlan = infos.iter().find_map(vxlan_of);
                }
                LinkAttribute::PropList(list) => facts.alt_names.extend(list.iter().filter_map(alt_name)),
                _ => {}
            }
        }
        if facts.name.is_empty() {
            return;
        }
        if merger::is_ours(&facts.name) {
            facts.vxlan = None;
        }
        let is_uplink = self.is_uplink(&facts);
        let moved = self.places.insert(index, place) != Some(place);
        self.routes_dirty |= moved && (is_uplink || place.vrf.is_some());
        if let Some(known) = self.links.get(&index) {
            facts.addresses.clone_from(&known.addresses);
            if *known == facts {
                return;
            }
            let was_uplink = self.is_uplink(known);
            if known.name != facts.name {
                out.push(Input::LinkGone(known.name.clone()));
            }
            if was_uplink && (known.name != facts.name || !is_uplink) {
                self.forget_underlay(out);
            }
        }
        // The name may have belonged to an interface whose deletion has not been reported yet.
        let twin = self.links.values().find(|link| link.name == facts.name && link.index != index);
        if let Some(twin) = twin.map(|link| link.index) {
            self.link_gone(twin, out);
        }
        // Routes depend on their device's state, and the kernel sends no messages about those changes.
        self.routes_dirty |= is_uplink;
        out.push(Input::Link(facts.clone()));
        self.links.insert(index, facts);
    }

    fn link_gone(&mut self, index: u32, out: &mut Vec<Input>) {
        self.places.remove(&index);
        if let Some(link) = self.links.remove(&index) {
            let is_uplink = self.is_uplink(&link);
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
        self.rib = Rib::default();
        if std::mem::take(&mut self.routes) != UnderlayRoutes::default() {
            out.push(Input::UnderlayRoutes(UnderlayRoutes::default()));
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
        self.routes_dirty |= self.uplink.as_ref().is_some_and(|uplink| is_named(link, uplink));
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

/// The address that a neighbour message is about; `None` if it is not about a host on the link.
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

/// Whether an interface has this name, of either sort.
fn is_named(link: &LinkFacts, name: &str) -> bool {
    link.name == name || link.alt_names.iter().any(|alt| alt == name)
}

fn alt_name(property: &Prop) -> Option<String> {
    match property {
        Prop::AltIfName(name) => Some(name.clone()),
        _ => None,
    }
}

/// The VNI and port of a vxlan device.
fn vxlan_of(info: &LinkInfo) -> Option<KernelVxlan> {
    let LinkInfo::Data(InfoData::Vxlan(options)) = info else { return None };
    let (mut vxlan, mut external) = (KernelVxlan { vni: None, port: 0 }, false);
    for option in options {
        match option {
            InfoVxlan::Id(id) => vxlan.vni = Some(*id),
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::CollectMetadata(is) => external = *is,
            _ => {}
        }
    }
    vxlan.vni = vxlan.vni.filter(|_| !external);
    Some(vxlan)
}

/// The table of a VRF.
fn vrf_table(info: &LinkInfo) -> Option<u32> {
    let LinkInfo::Data(InfoData::Vrf(vrf)) = info else { return None };
    vrf.iter().find_map(|attribute| match attribute {
        InfoVrf::TableId(table) => Some(*table),
        _ => None,
    })
}

fn mac_of(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
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

    fn hear(table: &mut Table, message: RouteNetlinkMessage) -> Vec<Input> {
        let mut out = Vec::new();
        table.hear(message, &mut out);
        out
    }

    /// Only changes are reported, and a renamed interface is reported as gone under its old name before it comes back.
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
        // Another interface takes a name before the old holder's deletion arrives.
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

    /// Addresses belong to their link, and only usable ones are reported.
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

    /// Only the uplink's valid neighbours are reported, and their end once.
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
