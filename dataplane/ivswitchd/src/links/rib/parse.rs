//! Rules, routes and nexthop objects from netlink messages.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use engine::command::UnderlayHop;
use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RoutePreference,
    RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::{Action, Net, Route, Rule, Way};

/// Next hops that a route may spread its destinations over: larger weights count as equal.
const HOPS_MAX: usize = 64;

/// The kernel's number for "none".
const NONE: u32 = u32::MAX;

/// The rule in a message, if it is for IPv4 or IPv6.
pub fn rule_of(m: &RuleMessage) -> Option<Rule> {
    let is_v4 = is_v4(m.header.family)?;
    let mut rule = Rule::to_table(is_v4, 0, u32::from(m.header.table));
    rule.inverted = m.header.flags.contains(RuleFlags::Invert);
    // Our packets are routed as if they had no DSCP.
    rule.opaque = m.header.tos != 0;
    let (mut vrf, mut goto) = (false, None);
    for attribute in &m.attributes {
        match attribute {
            RuleAttribute::Destination(ip) => rule.to = Net::new(*ip, m.header.dst_len),
            RuleAttribute::Source(ip) => rule.from = Net::new(*ip, m.header.src_len),
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.oif = Some(name.clone()),
            RuleAttribute::Goto(priority) => goto = Some(*priority),
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(mark) => rule.mark.0 = *mark,
            RuleAttribute::FwMask(mask) => rule.mark.1 = *mask,
            RuleAttribute::Table(table) => rule.action = Action::Table(*table),
            RuleAttribute::L3MDev(is) => vrf = *is,
            RuleAttribute::UidRange(range) => rule.users = Some((range.start, range.end)),
            RuleAttribute::IpProtocol(protocol) => rule.protocol = Some(u8::from(*protocol)),
            RuleAttribute::SourcePortRange(ports) => rule.sport = Some((ports.start, ports.end)),
            RuleAttribute::DestinationPortRange(ports) => rule.dport = Some((ports.start, ports.end)),
            RuleAttribute::SuppressPrefixLen(len) => {
                rule.suppress_len = Some(*len).filter(|len| *len != NONE)
            }
            RuleAttribute::SuppressIfGroup(group) => {
                rule.suppress_group = Some(*group).filter(|group| *group != NONE);
            }
            // A rule's author and accounting do not affect routing.
            RuleAttribute::Protocol(_) | RuleAttribute::Realm(_) => {}
            _ => rule.opaque = true,
        }
    }
    rule.action = match m.header.action {
        RuleAction::ToTable if vrf => Action::Vrf,
        RuleAction::ToTable => rule.action,
        RuleAction::Goto => goto.map_or(Action::Nothing, Action::Goto),
        RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => Action::Refuse,
        _ => Action::Nothing,
    };
    Some(rule)
}

/// Nexthop objects by their numbers.
pub type NextHops = HashMap<u32, NextHop>;

/// A nexthop object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NextHop {
    /// Out of this device, by this gateway.
    Hop(u32, UnderlayHop),
    /// Packets sent there are dropped.
    Blackhole,
    /// Several other nexthop objects, each with its weight.
    Group(Vec<(u32, usize)>),
}

/// The route in a message, if it is for IP packets and leads out of the interface `uplink` or nowhere.
pub fn route_of(m: &RouteMessage, uplink: u32, nexthops: &NextHops) -> Option<Route> {
    let is_v4 = is_v4(m.header.address_family)?;
    if m.header.flags.contains(RouteFlags::Cloned) || m.header.tos != 0 {
        return None;
    }
    let mut route = Route {
        table: u32::from(m.header.table),
        to: Net::any(is_v4),
        from: Net::any(is_v4),
        metric: 0,
        rank: 1,
        way: Way::Nowhere,
    };
    let (mut oif, mut via, mut hops, mut object) = (None, None, None, None);
    for attribute in &m.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.to = Net::new(route_ip(address)?, m.header.destination_prefix_length);
            }
            RouteAttribute::Source(address) => {
                route.from = Net::new(route_ip(address)?, m.header.source_prefix_length);
            }
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Preference(preference) => {
                route.rank = match preference {
                    RoutePreference::High => 0,
                    RoutePreference::Low => 2,
                    _ => 1,
                }
            }
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::MultiPath(all) => hops = Some(all),
            RouteAttribute::NhId(id) => object = Some(*id),
            attribute => via = gateway(attribute).or(via),
        }
    }
    route.way = match m.header.kind {
        RouteType::Throw => Way::Throw,
        RouteType::Unicast if m.header.flags.contains(RouteFlags::Dead) => return None,
        RouteType::Unicast => {
            let through = match (hops, oif, object) {
                (Some(hops), ..) => of_multipath(hops, uplink),
                (None, Some(index), _) if index == uplink => vec![via.unwrap_or(UnderlayHop::Link)],
                (None, None, Some(id)) => {
                    return of_object(id, uplink, nexthops).map(|way| Route { way, ..route });
                }
                _ => Vec::new(),
            };
            Way::Uplink(Some(through).filter(|hops| !hops.is_empty())?)
        }
        _ => Way::Nowhere,
    };
    Some(route)
}

/// Whether any nexthop object leads nowhere.
pub fn has_blackhole(nexthops: &NextHops) -> bool {
    nexthops.values().any(|nexthop| *nexthop == NextHop::Blackhole)
}

/// Whether a route's nexthop object leads nowhere.
pub fn leads_nowhere(m: &RouteMessage, nexthops: &NextHops) -> bool {
    let blackhole = |a: &RouteAttribute| matches!(a, RouteAttribute::NhId(id) if nexthops.get(id) == Some(&NextHop::Blackhole));
    m.attributes.iter().any(blackhole)
}

fn of_multipath(hops: &[RouteNextHop], uplink: u32) -> Vec<UnderlayHop> {
    let alive = hops
        .iter()
        .filter(|hop| hop.interface_index == uplink && !hop.flags.contains(RouteNextHopFlags::Dead))
        .map(|hop| {
            let via = hop.attributes.iter().find_map(gateway).unwrap_or(UnderlayHop::Link);
            (via, usize::from(hop.hops) + 1)
        });
    weighted(alive.collect())
}

/// Repeats each next hop by its weight.
fn weighted(hops: Vec<(UnderlayHop, usize)>) -> Vec<UnderlayHop> {
    let sum: usize = hops.iter().map(|(_, weight)| weight).sum();
    let alone = hops.len() == 1 || sum > HOPS_MAX;
    let hops = hops.into_iter().map(|(hop, weight)| (hop, if alone { 1 } else { weight }));
    hops.flat_map(|(hop, times)| std::iter::repeat_n(hop, times)).take(HOPS_MAX).collect()
}

fn of_object(id: u32, uplink: u32, nexthops: &NextHops) -> Option<Way> {
    let hops = match nexthops.get(&id)? {
        NextHop::Blackhole => return Some(Way::Nowhere),
        NextHop::Hop(index, hop) => (*index == uplink).then_some((*hop, 1)).into_iter().collect(),
        NextHop::Group(members) => members
            .iter()
            .filter_map(|(member, weight)| match nexthops.get(member) {
                Some(NextHop::Hop(index, hop)) if *index == uplink => Some((*hop, *weight)),
                _ => None,
            })
            .collect(),
    };
    let hops = weighted(hops);
    (!hops.is_empty()).then_some(Way::Uplink(hops))
}

/// A nexthop object from the body of an `RTM_NEWNEXTHOP` message (`linux/nexthop.h`), which the netlink library does
/// not know: a `struct nhmsg` of eight bytes, then attributes.
pub fn nexthop_of(body: &[u8]) -> Option<(u32, NextHop)> {
    const NHMSG_LEN: usize = 8;
    const NHA_ID: u16 = 1;
    const NHA_GROUP: u16 = 2;
    const NHA_BLACKHOLE: u16 = 4;
    const NHA_OIF: u16 = 5;
    const NHA_GATEWAY: u16 = 6;
    const MEMBER_LEN: usize = 8;
    let word = |bytes: &[u8]| Some(u32::from_ne_bytes(*bytes.first_chunk()?));
    let (mut id, mut oif, mut hop, mut other) = (None, None, UnderlayHop::Link, None);
    for attribute in NlasIterator::new(body.get(NHMSG_LEN..)?) {
        let attribute: NlaBuffer<&[u8]> = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            NHA_ID => id = word(value),
            NHA_OIF => oif = word(value),
            NHA_BLACKHOLE => other = Some(NextHop::Blackhole),
            NHA_GATEWAY => hop = UnderlayHop::Gateway(ip_of(value)?),
            NHA_GROUP => {
                // The weight minus one, in two bytes; older kernels know only the first.
                let members =
                    value.chunks_exact(MEMBER_LEN).filter_map(|m| Some((word(m)?, usize::from(m[4]) + 1)));
                other = Some(NextHop::Group(members.collect()));
            }
            _ => {}
        }
    }
    Some((
        id?,
        match (other, oif) {
            (Some(other), _) => other,
            (None, Some(oif)) => NextHop::Hop(oif, hop),
            (None, None) => return None,
        },
    ))
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk()?).into()),
        _ => None,
    }
}

fn is_v4(family: AddressFamily) -> Option<bool> {
    match family {
        AddressFamily::Inet => Some(true),
        AddressFamily::Inet6 => Some(false),
        _ => None,
    }
}

fn gateway(attribute: &RouteAttribute) -> Option<UnderlayHop> {
    let ip = match attribute {
        RouteAttribute::Gateway(address) => route_ip(address)?,
        RouteAttribute::Via(RouteVia::Inet(ip)) => IpAddr::V4(*ip),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => IpAddr::V6(*ip),
        _ => return None,
    };
    Some(UnderlayHop::Gateway(ip))
}

const fn route_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
