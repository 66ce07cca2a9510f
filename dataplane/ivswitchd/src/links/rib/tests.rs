//! Tests with rules and routes in the notation of `ip`.

use std::net::IpAddr;

use engine::command::{UnderlayHop, UnderlayRoute};

use super::*;

fn net(text: &str, v4: bool) -> Net {
    match text.split_once('/') {
        None if text == "all" || text == "default" => Net::any(v4),
        None => Net::new(text.parse().unwrap(), 128),
        Some((addr, len)) => Net::new(addr.parse().unwrap(), len.parse().unwrap()),
    }
}

/// `PRIORITY: [not] from P [to P] [iif N] [oif N] [mark M/M] [proto N] [dport N] [sport A-B] [len N] [group N] ACTION`.
fn rule(text: &str, v4: bool) -> Rule {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut rule = Rule::to_table(v4, words[0].trim_end_matches(':').parse().unwrap(), 0);
    let mut at = 1;
    while at < words.len() {
        let value = || words[at + 1];
        let number = || value().parse::<u32>().unwrap();
        match words[at] {
            "not" => {
                rule.inverted = true;
                at += 1;
                continue;
            }
            "nop" => rule.action = Action::Nothing,
            "unreachable" => rule.action = Action::Refuse,
            "vrf" => rule.action = Action::Vrf,
            "from" => rule.from = net(value(), v4),
            "to" => rule.to = net(value(), v4),
            "iif" => rule.iif = Some(value().into()),
            "oif" => rule.oif = Some(value().into()),
            "mark" => rule.mark = (number(), u32::MAX),
            "proto" => rule.protocol = Some(number() as u8),
            "dport" => rule.dport = Some((number() as u16, number() as u16)),
            "sport" => {
                let (a, b) = value().split_once('-').unwrap();
                rule.sport = Some((a.parse().unwrap(), b.parse().unwrap()));
            }
            "len" => rule.suppress_len = Some(number()),
            "group" => rule.suppress_group = Some(number()),
            "lookup" => rule.action = Action::Table(number()),
            "goto" => rule.action = Action::Goto(number()),
            word => panic!("{word}"),
        }
        at += if matches!(words[at], "nop" | "unreachable" | "vrf") { 1 } else { 2 };
    }
    rule
}

/// `TABLE PREFIX [from P] [metric N] [rank N] HOP+HOP`, a hop being an address, `link`, `nowhere` or `throw`.
fn route(text: &str, v4: bool) -> Route {
    let words: Vec<&str> = text.split_whitespace().collect();
    let option = |name: &str| words.iter().position(|word| *word == name).map(|at| words[at + 1]);
    let way = match *words.last().unwrap() {
        "nowhere" => Way::Nowhere,
        "throw" => Way::Throw,
        hops => Way::Uplink(
            hops.split('+')
                .map(|hop| hop.parse::<IpAddr>().map_or(UnderlayHop::Link, UnderlayHop::Gateway))
                .collect(),
        ),
    };
    Route {
        table: words[0].parse().unwrap(),
        to: net(words[1], v4),
        from: option("from").map_or(Net::any(v4), |from| net(from, v4)),
        metric: option("metric").map_or(0, |metric| metric.parse().unwrap()),
        rank: option("rank").map_or(1, |rank| rank.parse().unwrap()),
        way,
    }
}

fn shown(routes: &[UnderlayRoute]) -> Vec<String> {
    let hop = |hop: &UnderlayHop| match hop {
        UnderlayHop::Link => "link".to_owned(),
        UnderlayHop::Gateway(ip) => ip.to_string(),
    };
    let line = |r: &UnderlayRoute| match r.hops.is_empty() {
        true => format!("{} nowhere", r.to),
        false => format!("{} {}", r.to, r.hops.iter().map(hop).collect::<Vec<_>>().join("+")),
    };
    routes.iter().map(line).collect()
}

const SOURCE: &str = "10.0.1.11";

fn uplink() -> Uplink {
    Uplink { index: 3, name: "eth1".into(), group: 7, vrf: None }
}

/// The routes of tunnel packets from `source`.
fn composed_from(source: &str, uplink: &Uplink, rules: &[&str], routes: &[&str]) -> Vec<String> {
    let source: IpAddr = source.parse().unwrap();
    let v4 = source.is_ipv4();
    let rules = match rules {
        [] => default_rules(),
        rules => rules.iter().map(|text| rule(text, v4)).collect(),
    };
    let rib = Rib::new(rules, routes.iter().map(|text| route(text, v4)).collect());
    let sources = Sources { tunnel: Some((source, 4789)), reality: BTreeSet::new() };
    shown(&rib.compose(uplink, &sources).tunnel)
}

fn composed(rules: &[&str], routes: &[&str]) -> Vec<String> {
    composed_from(SOURCE, &uplink(), rules, routes)
}

/// Without changes: the main table, the longest prefix, the best metric.
#[test]
fn the_main_table() {
    let routes = [
        "254 default metric 200 10.0.1.9",
        "254 default metric 100 10.0.1.1",
        "254 10.0.1.0/24 link",
        "255 10.0.1.11 nowhere",
        "100 default 10.0.1.7",
    ];
    assert_eq!(composed(&[], &routes), ["0.0.0.0/0 10.0.1.1", "10.0.1.0/24 link", "10.0.1.11/32 nowhere"]);
    assert!(composed(&[], &[]).is_empty());
}

/// A second NIC as clouds' agents set it up: its default route is in a separate table, by source address.
/// Each reality address may have its own rule.
#[test]
fn a_table_by_source_address() {
    let rules = ["0: lookup 255", "100: from 10.0.1.11 lookup 1001", "32766: lookup 254"];
    let routes = ["1001 default 10.0.1.1", "1001 10.0.1.0/24 link", "254 10.0.1.0/24 link"];
    assert_eq!(composed(&rules, &routes), ["0.0.0.0/0 10.0.1.1", "10.0.1.0/24 link"]);
    let rules: Vec<Rule> = rules.iter().map(|text| rule(text, true)).collect();
    let rib = Rib::new(rules, routes.iter().map(|text| route(text, true)).collect());
    let reality = ["10.0.1.11", "10.0.1.12"].map(|ip| ip.parse().unwrap());
    let sources = Sources { tunnel: Some((SOURCE.parse().unwrap(), 4789)), reality: reality.into() };
    let composed = rib.compose(&uplink(), &sources);
    let [(ip, other)] = &composed.from[..] else { panic!("{composed:?}") };
    assert_eq!((*ip, shown(other)), (reality[1], vec!["10.0.1.0/24 link".to_owned()]));
}

/// A rule is for our packets only if every field in it matches; the first matching rule decides.
#[test]
fn what_rules_look_at() {
    let routes = ["1 default 10.0.1.1", "254 default 10.0.1.254"];
    let says = |text: &str| {
        let rules = [text, "32766: lookup 254"];
        composed(&rules, &routes) == ["0.0.0.0/0 10.0.1.1"]
    };
    for ours in [
        "5: lookup 1",
        "5: iif lo lookup 1",
        "5: oif eth1 lookup 1",
        "5: proto 17 lookup 1",
        "5: proto 17 dport 4789 lookup 1",
        "5: sport 1024-65535 lookup 1",
        "5: not mark 51820 lookup 1",
        "5: not from 10.0.2.0/24 lookup 1",
        "5: not proto 6 lookup 1",
    ] {
        assert!(says(ours), "{ours}");
    }
    for not_ours in [
        "5: iif eth1 lookup 1",
        "5: oif eth0 lookup 1",
        "5: mark 1 lookup 1",
        "5: proto 6 lookup 1",
        "5: dport 53 lookup 1",
        "5: sport 1-100 lookup 1",
        // The rule matches only some flows: then it applies to none.
        "5: sport 50000-51000 lookup 1",
        "5: not sport 50000-51000 lookup 1",
        "5: from 10.0.2.0/24 lookup 1",
        "5: not from 10.0.1.0/24 lookup 1",
        "5: lookup 2",
        "5: nop",
        "32767: lookup 1",
    ] {
        assert!(!says(not_ours), "{not_ours}");
    }
    // A floating IP's packets have any protocol.
    let rules: Vec<Rule> =
        ["5: proto 17 lookup 1", "9: lookup 254"].iter().map(|text| rule(text, true)).collect();
    let rib = Rib::new(rules, routes.iter().map(|text| route(text, true)).collect());
    let sources = Sources { tunnel: None, reality: [SOURCE.parse().unwrap()].into() };
    assert_eq!(shown(&rib.compose(&uplink(), &sources).from[0].1), ["0.0.0.0/0 10.0.1.254"]);
}

/// A rule for some destinations changes the way there, also inside a prefix and around a longer one of its table.
#[test]
fn rules_by_destination() {
    let rules = ["5: to 10.8.0.0/16 lookup 1", "6: to 10.8.9.0/24 unreachable", "32766: lookup 254"];
    let routes = ["1 10.0.0.0/8 10.0.1.1", "1 10.8.7.0/24 10.0.1.2", "254 default 10.0.1.254"];
    assert_eq!(
        composed(&rules, &routes),
        ["0.0.0.0/0 10.0.1.254", "10.8.0.0/16 10.0.1.1", "10.8.7.0/24 10.0.1.2"],
        "the second rule comes after the first has found a way"
    );
    let rules = ["5: not to 10.8.0.0/16 lookup 1", "6: to 10.8.9.0/24 unreachable", "32766: lookup 254"];
    assert_eq!(
        composed(&rules, &routes),
        ["0.0.0.0/0 10.0.1.254", "10.0.0.0/8 10.0.1.1", "10.8.0.0/16 10.0.1.254", "10.8.9.0/24 nowhere"]
    );
}

/// The rule of WireGuard and other VPNs: the main table without its default route, then theirs. Bound to the
/// uplink we find nothing in the VPN's table, and continue.
#[test]
fn suppressed_routes() {
    let routes = ["254 default 10.0.1.1", "254 10.7.0.0/16 10.0.1.7", "51820 10.6.0.0/16 10.0.1.6"];
    let rules = ["1: lookup 254 len 0", "2: not mark 51820 lookup 51820", "3: lookup 254"];
    assert_eq!(
        composed(&rules, &routes),
        ["0.0.0.0/0 10.0.1.1", "10.6.0.0/16 10.0.1.6", "10.7.0.0/16 10.0.1.7"]
    );
    let rules = ["1: lookup 254 len 16"];
    assert!(composed(&rules, &routes).is_empty());
    let rules = ["1: lookup 254 group 7", "2: lookup 51820"];
    assert_eq!(composed(&rules, &routes), ["10.6.0.0/16 10.0.1.6"]);
    let rules = ["1: lookup 254 group 8"];
    assert_eq!(composed(&rules, &routes), ["0.0.0.0/0 10.0.1.1", "10.7.0.0/16 10.0.1.7"]);
}

/// Routes that lead nowhere end the search; a `throw` route continues it at the next rule.
#[test]
fn routes_that_lead_nowhere() {
    let rules = ["1: lookup 1", "2: lookup 254"];
    let routes = [
        "1 default metric 5 nowhere",
        "1 10.8.0.0/16 throw",
        "1 10.8.1.0/24 10.0.1.8",
        "254 default 10.0.1.1",
        "254 10.8.2.0/24 nowhere",
    ];
    // All destinations without a route lead nowhere.
    assert_eq!(
        composed(&rules, &routes),
        ["10.8.0.0/16 10.0.1.1", "10.8.1.0/24 10.0.1.8", "10.8.2.0/24 nowhere"]
    );
}

/// A jump continues at the next rule of that priority, if one exists.
#[test]
fn jumps() {
    let routes = ["1 default 10.0.1.1", "2 default 10.0.1.2", "254 default 10.0.1.254"];
    let at = |rules: &[&str]| composed(rules, &routes);
    assert_eq!(at(&["1: goto 10", "2: lookup 1", "10: lookup 2"]), ["0.0.0.0/0 10.0.1.2"]);
    assert_eq!(at(&["1: goto 11", "2: lookup 1", "10: lookup 2"]), ["0.0.0.0/0 10.0.1.1"]);
    assert_eq!(at(&["1: from 10.0.2.1 goto 10", "2: lookup 1", "10: lookup 2"]), ["0.0.0.0/0 10.0.1.1"]);
    assert_eq!(
        at(&["1: to 10.8.0.0/16 goto 10", "2: lookup 1", "10: lookup 2"]),
        ["0.0.0.0/0 10.0.1.1", "10.8.0.0/16 10.0.1.2"]
    );
}

/// An uplink in a VRF uses the VRF's table.
#[test]
fn a_vrf() {
    let inside = Uplink { vrf: Some(("blue".into(), 10)), ..uplink() };
    let rules = ["0: lookup 255", "1000: vrf", "32766: lookup 254"];
    let routes = ["10 default 10.0.1.1", "254 default 10.0.1.254"];
    assert_eq!(composed_from(SOURCE, &inside, &rules, &routes), ["0.0.0.0/0 10.0.1.1"]);
    assert_eq!(composed(&rules, &routes), ["0.0.0.0/0 10.0.1.254"]);
    let rules = ["5: oif blue lookup 10", "6: lookup 254"];
    assert_eq!(composed_from(SOURCE, &inside, &rules, &routes), ["0.0.0.0/0 10.0.1.1"]);
}

/// IPv6: the destination's prefix first, then the source's; a router's preference decides between equal metrics.
#[test]
fn ipv6_by_source_and_preference() {
    let routes = [
        "254 default metric 1024 rank 1 fe80::1",
        "254 default metric 1024 rank 0 fe80::2",
        "254 default from 2001:db8:1::/48 metric 1024 fe80::3",
        "254 2001:db8:9::/48 fe80::9",
        "254 fe80::/64 link",
    ];
    assert_eq!(
        composed_from("2001:db8:2::11", &uplink(), &[], &routes),
        ["::/0 fe80::2", "2001:db8:9::/48 fe80::9", "fe80::/64 link"]
    );
    assert_eq!(
        composed_from("2001:db8:1::11", &uplink(), &[], &routes),
        ["::/0 fe80::3", "2001:db8:9::/48 fe80::9", "fe80::/64 link"]
    );
    // The families do not mix, and IPv6 routes are useless to an IPv4 source.
    assert!(composed(&[], &["254 10.0.0.0/8 metric 0 link"]) == ["10.0.0.0/8 link"]);
    let six = Rib::new(default_rules(), vec![route("254 default fe80::1", false)]);
    let sources = Sources { tunnel: Some((SOURCE.parse().unwrap(), 4789)), reality: BTreeSet::new() };
    assert!(six.compose(&uplink(), &sources).tunnel.is_empty());
}

/// The whole Internet's table behind one gateway is one route to us.
#[test]
fn what_says_the_same_is_said_once() {
    let mut routes: Vec<Route> = vec![route("254 default 10.0.1.1", true)];
    for n in 0..50_000_u32 {
        let to = Net::new(IpAddr::V4(((n + 0x0100_0000) << 8).into()), 24);
        routes.push(Route { to, ..routes[0].clone() });
    }
    let rib = Rib::new(default_rules(), routes);
    let sources = Sources { tunnel: Some((SOURCE.parse().unwrap(), 4789)), reality: BTreeSet::new() };
    assert_eq!(shown(&rib.compose(&uplink(), &sources).tunnel), ["0.0.0.0/0 10.0.1.1"]);
}
