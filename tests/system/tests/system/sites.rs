//! Two data centres: private addresses inside each, gateways with public ones, the Internet between.

use system::{Lab, Namespace, Switch, transfer};

use crate::floating_ip::{at, udp_answers};
use crate::topology::{host, network, port};

const PUBLIC: &str = "56.0.0.11";

/// East has the gateway `gw0` and the rVM `in0`, west `gw1` and `in1`. A guest `gN` (10.1.0.1N) is behind each `inN`.
struct TwoSites {
    inet: Namespace,
    guests: [Namespace; 2],
    /// gw0, in0, gw1, in1.
    switches: [Switch; 4],
}

/// The provider's part of a data centre: a segment 10.N.0.0/24, a router, the gateway's public address 60.N.0.1 by
/// NAT. Private addresses cannot be reached from outside, and other rVMs have no way out.
fn provider(lab: &Lab, n: u8) -> (Namespace, [Namespace; 2]) {
    let net = lab.namespace(&format!("net{n}"));
    net.ip("link add lan type bridge");
    net.ip("link set lan up");
    net.ip(&format!("addr add 10.{n}.0.1/24 dev lan"));
    net.sysctl("net/ipv4/ip_forward", "1");
    let rvms = [("gw", 10), ("in", 50)].map(|(name, last)| {
        let rvm = lab.namespace(&format!("{name}{n}"));
        lab.veth((&rvm, "eth0"), (&net, &format!("{name}{n}")));
        net.ip(&format!("link set {name}{n} master lan"));
        rvm.ip(&format!("addr add 10.{n}.0.{last}/24 dev eth0"));
        rvm.ip(&format!("route add default via 10.{n}.0.1"));
        rvm
    });
    (net, rvms)
}

/// The rules of a provider: 1:1 NAT for these pairs of public and private address; other packets do not pass.
fn nat(net: &Namespace, pairs: &[(&str, &str)]) {
    let way = |hook: &str, rule: &dyn Fn(&(&str, &str)) -> String| {
        let rules: String = pairs.iter().map(|pair| rule(pair) + "; ").collect();
        format!("chain {hook} {{ type nat hook {hook}; {rules} }}\n")
    };
    let inbound = way("prerouting", &|(public, private)| format!("ip daddr {public} dnat to {private}"));
    let outbound =
        way("postrouting", &|(public, private)| format!("oifname wan ip saddr {private} snat to {public}"));
    let known: Vec<&str> = pairs.iter().map(|pair| pair.1).collect();
    let closed = format!(
        "chain forward {{ type filter hook forward priority 0; policy drop; ct state established accept; \
         ip saddr {{ {0} }} accept; ip daddr {{ {0} }} accept; }}\n",
        known.join(", ")
    );
    let (inbound, outbound) = (
        inbound.replace("prerouting;", "prerouting priority dstnat;"),
        outbound.replace("postrouting;", "postrouting priority srcnat;"),
    );
    net.nft(&format!("table ip provider {{\n{inbound}{outbound}{closed}}}\n"));
}

impl TwoSites {
    fn new(lab: &Lab) -> Self {
        let inet = lab.namespace("inet");
        inet.sysctl("net/ipv4/ip_forward", "1");
        inet.ip("addr add 203.0.113.9/32 dev lo");
        inet.ip("link set lo up");
        let mut switches = Vec::new();
        let mut guests = Vec::new();
        for n in 0..2u8 {
            let (net, [gateway, inner]) = provider(lab, n);
            lab.veth((&net, "wan"), (&inet, &format!("wan{n}")));
            net.ip(&format!("addr add 198.51.{n}.2/24 dev wan"));
            net.ip(&format!("route add default via 198.51.{n}.1"));
            inet.ip(&format!("addr add 198.51.{n}.1/24 dev wan{n}"));
            inet.ip(&format!("route add 60.{n}.0.0/24 via 198.51.{n}.2"));
            if n == 0 {
                inet.ip(&format!("route add {PUBLIC}/32 via 198.51.0.2"));
                gateway.ip("addr add 10.0.0.11/24 dev eth0");
                nat(&net, &[("60.0.0.1", "10.0.0.10"), (PUBLIC, "10.0.0.11")]);
            } else {
                nat(&net, &[("60.1.0.1", "10.1.0.10")]);
            }
            let guest = host(lab, &inner, &format!("g{n}"), &[&format!("172.16.0.1{n}/24")]);
            // VXLAN over a path MTU of 1500.
            guest.ip("link set eth0 mtu 1450");
            guest.ip("route add default via 172.16.0.1");
            let far = 1 - n;
            let head = |name: &str, last: u8| {
                format!(
                    "name = \"{name}{n}\"\n[uplink]\ninterface = \"eth0\"\naddress = \"10.{n}.0.{last}\"\n{}gateway = \
                     [\"172.16.0.1\"]\n{}gateway = [\"10.2.0.1\"]\n",
                    network("private", 100),
                    network("public", 200)
                )
            };
            let peer = |name: &str, address: &str, more: &str| {
                format!("[[peer]]\nname = \"{name}\"\naddress = \"{address}\"\n{more}\n")
            };
            let far_inner = format!("10.{far}.0.50");
            let floating = |more: &str| {
                format!("[[floating]]\nip = \"{PUBLIC}\"\nnetwork = \"public\"\ngateway = \"gw0\"\n{more}\n")
            };
            // Where rVMs reach each other through a relay, the relay has to know the floating IPs too.
            let owner = "inside = { network = \"private\", address = \"172.16.0.11\" }";
            let config = head("gw", 10)
                + &peer(&format!("in{n}"), &format!("10.{n}.0.50"), "relay = true")
                + &peer(&format!("gw{far}"), &format!("60.{far}.0.1"), "")
                + &peer(&format!("in{far}"), &far_inner, &format!("via = \"gw{far}\""))
                + &floating(if n == 0 { "reality = \"10.0.0.11\"" } else { "" });
            switches.push(Switch::start(lab, &gateway, &config));
            let mut config = head("in", 50)
                + &peer(&format!("gw{n}"), &format!("10.{n}.0.10"), "")
                + &peer(&format!("in{far}"), &far_inner, &format!("via = \"gw{n}\""))
                + &port(&format!("g{n}"), "private");
            if n == 1 {
                config += &peer("gw0", "60.0.0.1", "via = \"gw1\"");
                config += &floating(owner);
            }
            switches.push(Switch::start(lab, &inner, &config));
            guests.push(guest);
        }
        let (Ok(guests), Ok(switches)) = (guests.try_into(), switches.try_into()) else { unreachable!() };
        Self { inet, guests, switches }
    }
}

/// I-25, I-26: guests of two data centres are on one segment, through two relays and two providers' NAT: ping, TCP
/// and UDP work both ways, with every byte checked. I-19, I-35 to I-37: the Internet reaches the guest in the west by
/// a floating IP whose gateway is in the east, and the guest reaches the Internet, which sees the floating IP.
#[test]
fn i25_two_data_centres_and_a_floating_ip_across_them() {
    let Some(lab) = Lab::new() else { return };
    let sites = TwoSites::new(&lab);
    let [east, west] = &sites.guests;
    east.reaches("172.16.0.11");
    west.reaches("172.16.0.10");
    transfer(east, west, at("172.16.0.11", 80), at("172.16.0.11", 80), 3_000_000);
    transfer(west, east, at("172.16.0.10", 80), at("172.16.0.10", 80), 3_000_000);
    udp_answers(east, west, at("172.16.0.11", 53), at("172.16.0.11", 53));

    sites.inet.reaches(PUBLIC);
    let seen = transfer(&sites.inet, west, at(PUBLIC, 81), at("172.16.0.11", 81), 3_000_000);
    assert_eq!(seen.to_string(), "198.51.0.1", "the client's own address arrives");
    west.reaches("203.0.113.9");
    let seen = transfer(west, &sites.inet, at("203.0.113.9", 82), at("203.0.113.9", 82), 3_000_000);
    assert_eq!(seen.to_string(), PUBLIC);
    for switch in &sites.switches {
        let status = switch.counters_at_rest();
        let drops = status["drops"].as_array().cloned().unwrap_or_default();
        let lost = drops
            .iter()
            .find(|row| ["relay-loop", "not-for-us"].contains(&row["reason"].as_str().unwrap_or("")));
        assert_eq!(lost, None, "{status}");
    }
}
