//! The kernel's policy rules and route tables, composed into the routes of one source address.
//!
//! Pure: netlink messages in, [`UnderlayRoutes`] out. It decides as the kernel does about a packet that comes from this
//! machine, has this source address, no mark and no DSCP, and has to leave through the uplink (as if sent by a socket
//! bound to that device): `fib_rules_lookup`, then the longest prefix of each table, then the metric.
//!
//! Every decision on the way is about prefixes that contain the destination. So the answer is the same for
//! all destinations between a prefix and the longer ones inside it. One lookup for each prefix in any rule or
//! route yields a table that answers for every address, and packets need no lookup in the kernel.

mod parse;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use engine::command::{IpPrefix, UnderlayHop, UnderlayRoute, UnderlayRoutes};

pub use parse::{NextHops, has_blackhole, leads_nowhere, nexthop_of, route_of, rule_of};
pub use rules::{Action, Rule, Seen};

/// A prefix of either family: IPv4 is mapped, and its lengths are 96 more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Net {
    bits: u128,
    len: u8,
}

impl Net {
    /// Builds a prefix from an address and the number of bits that count.
    pub fn new(addr: IpAddr, len: u8) -> Self {
        let (bits, len) = match addr {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), len.min(32) + 96),
            IpAddr::V6(v6) => (v6.to_bits(), len.min(128)),
        };
        Self { bits: bits & mask(len), len }
    }

    /// All addresses of a family.
    pub fn any(v4: bool) -> Self {
        Self::new(if v4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) }, 0)
    }

    /// Whether this is an IPv4 prefix.
    pub fn is_v4(self) -> bool {
        Self::any(true).holds(self)
    }

    /// Whether all of `other` lies inside this prefix.
    pub fn holds(self, other: Self) -> bool {
        self.len <= other.len && other.bits & mask(self.len) == self.bits
    }

    fn cut(self, len: u8) -> Self {
        Self { bits: self.bits & mask(len), len }
    }

    fn prefix(self) -> IpPrefix {
        let v6 = Ipv6Addr::from_bits(self.bits);
        match v6.to_ipv4_mapped().filter(|_| self.len >= 96) {
            Some(v4) => IpPrefix { addr: IpAddr::V4(v4), len: self.len - 96 },
            None => IpPrefix { addr: IpAddr::V6(v6), len: self.len },
        }
    }
}

const fn mask(len: u8) -> u128 {
    match u128::MAX.checked_shl(128 - len as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

/// Where a route leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Way {
    /// Out of the uplink, by one of these next hops.
    Uplink(Vec<UnderlayHop>),
    /// Nowhere: unreachable, blackhole, prohibit; or to this machine itself.
    Nowhere,
    /// On to the next rule.
    Throw,
}

/// A route of any table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The route's table.
    pub table: u32,
    /// The route's destination.
    pub to: Net,
    /// The sources it is for (IPv6 only).
    pub from: Net,
    /// Of several routes to one prefix the one with the lowest metric is used.
    pub metric: u32,
    /// Of equal metrics the lowest rank is used: the preference of the router that advertised it.
    pub rank: u8,
    /// Where the route leads.
    pub way: Way,
}

/// The facts about the uplink that rules and routes match.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Uplink {
    /// The uplink's index.
    pub index: u32,
    /// The uplink's name.
    pub name: String,
    /// The uplink's group (`ip link set group`).
    pub group: u32,
    /// The VRF it belongs to: the name of the VRF's device and its table.
    pub vrf: Option<(String, u32)>,
}

/// The switch's own source addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sources {
    /// The tunnel's address and UDP port.
    pub tunnel: Option<(IpAddr, u16)>,
    /// Reality addresses of floating IPs.
    pub reality: BTreeSet<IpAddr>,
}

/// The rules and tables as last read.
#[derive(Debug, Default)]
pub struct Rib {
    rules: Vec<Rule>,
    /// Tables by family (IPv4 or not) and number.
    tables: HashMap<(bool, u32), Table>,
    /// All prefixes in any rule or route.
    named: BTreeSet<Net>,
}

/// One table: its routes by prefix, best first, and the prefix lengths that occur, longest first.
#[derive(Debug, Default)]
struct Table {
    routes: HashMap<Net, Vec<Route>>,
    lens: Vec<u8>,
}

impl Rib {
    /// Builds it from rules and routes, in the kernel's order.
    pub fn new(mut rules: Vec<Rule>, routes: Vec<Route>) -> Self {
        // The kernel keeps and reports rules of one priority in the order of their creation.
        rules.sort_by_key(|rule| rule.priority);
        let mut named: BTreeSet<Net> = rules.iter().map(|rule| rule.to).collect();
        named.extend(routes.iter().map(|route| route.to));
        named.extend([Net::any(true), Net::any(false)]);
        let mut tables: HashMap<(bool, u32), Table> = HashMap::new();
        for route in routes {
            let table = tables.entry((route.to.is_v4(), route.table)).or_default();
            table.routes.entry(route.to).or_default().push(route);
        }
        for table in tables.values_mut() {
            let lens: BTreeSet<u8> = table.routes.keys().map(|net| net.len).collect();
            table.lens = lens.into_iter().rev().collect();
            for routes in table.routes.values_mut() {
                routes.sort_by_key(|route| (std::cmp::Reverse(route.from.len), route.metric, route.rank));
            }
        }
        Self { rules, tables, named }
    }

    /// The routes of each of our source addresses.
    pub fn compose(&self, uplink: &Uplink, sources: &Sources) -> UnderlayRoutes {
        let tunnel = sources.tunnel.map(|(source, port)| self.routes(&Seen::tunnel(uplink, source, port)));
        let tunnel = tunnel.unwrap_or_default();
        let reality =
            sources.reality.iter().map(|&source| (source, self.routes(&Seen::plain(uplink, source))));
        let from = reality.filter(|(_, routes)| *routes != tunnel).collect();
        UnderlayRoutes { tunnel, from }
    }

    /// The routes of one source address: the fewest prefixes that answer for every destination of its family.
    fn routes(&self, seen: &Seen<'_>) -> Vec<UnderlayRoute> {
        let is_v4 = seen.source_is_v4();
        // Shorter prefixes come before the longer ones inside them.
        let mut around: Vec<(Net, Vec<UnderlayHop>)> = Vec::new();
        let mut routes = Vec::new();
        for &to in self.named.iter().filter(|net| net.is_v4() == is_v4) {
            while around.pop_if(|(outer, _)| !outer.holds(to)).is_some() {}
            let hops = self.hops(seen, to);
            if around.last().map_or(&[][..], |(_, outer)| outer) != hops {
                routes.push(UnderlayRoute { to: to.prefix(), hops: hops.clone() });
                around.push((to, hops));
            }
        }
        routes
    }

    /// The next hops for destinations inside `to` that are in no longer prefix of any rule or route.
    fn hops(&self, seen: &Seen<'_>, to: Net) -> Vec<UnderlayHop> {
        let mut at = 0;
        while let Some(rule) = self.rules.get(at) {
            at += 1;
            if !rule.matches(seen, to) {
                continue;
            }
            let table = match rule.action {
                Action::Table(table) => table,
                Action::Vrf => match &seen.uplink().vrf {
                    Some((_, table)) => *table,
                    None => continue,
                },
                Action::Goto(target) => {
                    // A missing target leaves the rule without effect; no target leads back.
                    if self
                        .rules
                        .iter()
                        .any(|rule| rule.is_v4 == seen.source_is_v4() && rule.priority == target)
                    {
                        at = at.max(self.rules.partition_point(|rule| rule.priority < target));
                    }
                    continue;
                }
                Action::Nothing => continue,
                Action::Refuse => return Vec::new(),
            };
            match self.tables.get(&(seen.source_is_v4(), table)).and_then(|table| table.longest(seen, to)) {
                Some((_, Way::Nowhere)) => return Vec::new(),
                Some((len, Way::Uplink(hops))) if !rule.suppresses(seen, len) => return hops.clone(),
                Some(_) | None => {}
            }
        }
        Vec::new()
    }
}

impl Table {
    /// The best route to all of `to`, and the length of its prefix.
    fn longest(&self, seen: &Seen<'_>, to: Net) -> Option<(u8, &Way)> {
        let lens = self.lens.iter().filter(|&&len| len <= to.len);
        lens.filter_map(|&len| {
            let routes = self.routes.get(&to.cut(len))?;
            let route = routes.iter().find(|route| route.from.holds(seen.source()))?;
            Some((len, &route.way))
        })
        .next()
    }
}

/// The rules of a kernel without policy routing, which are also the default rules of any kernel.
pub fn default_rules() -> Vec<Rule> {
    let tables = [(0, 255), (32_766, 254), (32_767, 253)];
    let rule = |is_v4| tables.map(|(priority, table)| Rule::to_table(is_v4, priority, table));
    [true, false].into_iter().flat_map(rule).collect()
}
