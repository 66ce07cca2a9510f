//! A plan as a script for `nft`: one table of our own, replaced as a whole in one transaction. Pure.
//!
//! The chain sees the packets that arrive by the uplink, behind connection tracking and in front of all
//! address translation, so that neither a socket of the rVM nor a port that another tool forwards gets a
//! floating IP's packets. XDP or tc takes the running switch's frames earlier, before the kernel's IP stack.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ctl::io::{ClosePlan, SteerReality};
use engine::command::{L4Proto, L4Range};

/// The table's family and name.
pub const TABLE: &str = "inet ivswitch";

/// Removes the table, whether or not it exists.
pub const REMOVE: &str = "add table inet ivswitch\ndelete table inet ivswitch\n";

/// Behind connection tracking (-200) and in front of "mangle" (-150) and destination NAT (-100).
const PRIORITY: i32 = -152;

/// An operator must be able to reach and repair an rVM whose switch does not run.
pub const SSH: L4Range = L4Range { proto: L4Proto::Tcp, first: 22, last: 22 };

/// The expressions of `nft` that the script may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sockets {
    /// Also accepts TCP segments that belong to a socket which connection tracking has not seen from its start.
    Known,
    /// The kernel lacks CONFIG_NFT_SOCKET.
    Unknown,
}

/// The script for a plan. `also` names other interfaces whose packets come from the uplink: a bridge that contains it.
#[must_use]
pub fn script(plan: &ClosePlan, also: &[String], sockets: Sockets) -> String {
    let mut text = REMOVE.to_owned();
    if plan.reality.is_empty() {
        return text;
    }
    // Addresses with the same rules share a chain.
    let mut chains: BTreeMap<String, Vec<&SteerReality>> = BTreeMap::new();
    for reality in &plan.reality {
        chains.entry(rules(plan, reality, sockets)).or_default().push(reality);
    }
    let names: Vec<String> = std::iter::once(&plan.interface).chain(also).map(|name| quoted(name)).collect();
    let _ = writeln!(text, "table {TABLE} {{");
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (number, (rules, realities)) in chains.iter().enumerate() {
        let _ = writeln!(text, "\tchain closed{number} {{\n{rules}\t}}");
        for reality in realities {
            let family = if reality.address.is_ipv4() { &mut v4 } else { &mut v6 };
            family.push(format!("{} : goto closed{number}", reality.address));
        }
    }
    let _ = writeln!(
        text,
        "\tchain arriving {{\n\t\ttype filter hook prerouting priority {PRIORITY}; policy accept;"
    );
    for (family, elements) in [("ip", v4), ("ip6", v6)] {
        if !elements.is_empty() {
            let (names, elements) = (names.join(", "), elements.join(", "));
            let _ = writeln!(text, "\t\tiifname {{ {names} }} {family} daddr vmap {{ {elements} }}");
        }
    }
    text.push_str("\t}\n}\n");
    text
}

/// The rules for packets to a reality address.
fn rules(plan: &ClosePlan, reality: &SteerReality, sockets: Sockets) -> String {
    let mut lines = vec!["ct state established,related accept".to_owned()];
    if sockets == Sockets::Known {
        // A connection older than the table, whose far end speaks first. At worst a stray segment reaches a socket.
        lines.push("tcp flags & (fin | syn | rst | ack) != syn socket wildcard 0 accept".to_owned());
    }
    if reality.all {
        if reality.address.is_ipv4() {
            // DHCP answers for the rVM's own lease.
            lines.push("udp sport 67 udp dport 68 accept".to_owned());
        } else {
            // Neighbour and multicast listener discovery keep the address reachable, as steering has it.
            lines.push("icmpv6 type { 130-137, 143 } accept".to_owned());
        }
        if plan.tunnel.0.is_none_or(|vtep| vtep == reality.address) {
            lines.push(format!("udp dport {} accept", plan.tunnel.1));
        }
        let except: Vec<L4Range> = reality.except.iter().copied().chain([SSH]).collect();
        lines.extend(ports(&except, "accept"));
        lines.push("counter drop".to_owned());
    } else {
        lines.extend(ports(&[SSH], "accept"));
        lines.extend(ports(&reality.ports, "counter drop"));
    }
    lines.iter().fold(String::new(), |text, line| text + "\t\t" + line + "\n")
}

/// One rule for each protocol that has ports in the list.
fn ports(ranges: &[L4Range], verdict: &str) -> Vec<String> {
    let of = |proto: L4Proto, name: &str| {
        let mut ranges: Vec<(u16, u16)> =
            ranges.iter().filter(|r| r.proto == proto).map(|r| (r.first, r.last)).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, last| {
            // nft refuses a set whose intervals meet.
            let meet = u32::from(next.0) <= u32::from(last.1) + 1;
            if meet {
                last.1 = last.1.max(next.1);
            }
            meet
        });
        let elements: Vec<String> = ranges
            .iter()
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
            .collect();
        (!elements.is_empty()).then(|| format!("{name} dport {{ {} }} {verdict}", elements.join(", ")))
    };
    [of(L4Proto::Tcp, "tcp"), of(L4Proto::Udp, "udp")].into_iter().flatten().collect()
}

/// Interface names in practice contain no quote, but could; a file must not escape its string.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace(['"', '\\', '\n', '*'], "?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(proto: L4Proto, first: u16, last: u16) -> L4Range {
        L4Range { proto, first, last }
    }

    fn whole(address: &str, except: Vec<L4Range>) -> SteerReality {
        SteerReality { address: address.parse().unwrap(), all: true, ports: vec![], except }
    }

    fn plan(reality: Vec<SteerReality>) -> ClosePlan {
        ClosePlan { interface: "eth0".into(), tunnel: (Some("10.0.0.11".parse().unwrap()), 4789), reality }
    }

    /// The paper's Figure 4: the rVM's only address, with exceptions that meet each other and SSH.
    #[test]
    fn the_only_address() {
        let except = vec![
            range(L4Proto::Tcp, 5000, 5010),
            range(L4Proto::Tcp, 22, 22),
            range(L4Proto::Tcp, 5005, 5020),
            range(L4Proto::Tcp, 5021, 5021),
            range(L4Proto::Udp, 53, 53),
        ];
        let text = script(&plan(vec![whole("10.0.0.11", except)]), &["br-ex".to_owned()], Sockets::Known);
        let expected = "add table inet ivswitch
delete table inet ivswitch
table inet ivswitch {
\tchain closed0 {
\t\tct state established,related accept
\t\ttcp flags & (fin | syn | rst | ack) != syn socket wildcard 0 accept
\t\tudp sport 67 udp dport 68 accept
\t\tudp dport 4789 accept
\t\ttcp dport { 22, 5000-5021 } accept
\t\tudp dport { 53 } accept
\t\tcounter drop
\t}
\tchain arriving {
\t\ttype filter hook prerouting priority -152; policy accept;
\t\tiifname { \"eth0\", \"br-ex\" } ip daddr vmap { 10.0.0.11 : goto closed0 }
\t}
}
";
        assert_eq!(text, expected);
    }

    /// A second address is closed except for SSH, also if tunnel packets arrive at the first; both families;
    /// addresses with the same rules share a chain.
    #[test]
    fn secondary_addresses_of_both_families() {
        let all = ["10.0.0.20", "10.0.0.21", "fd00::20"].map(|address| whole(address, vec![])).to_vec();
        let text = script(&plan(all), &[], Sockets::Unknown);
        assert!(!text.contains("4789") && !text.contains("socket"), "{text}");
        assert!(
            text.contains("ip daddr vmap { 10.0.0.20 : goto closed1, 10.0.0.21 : goto closed1 }"),
            "{text}"
        );
        assert!(text.contains("ip6 daddr vmap { fd00::20 : goto closed0 }"), "{text}");
        assert!(text.contains("icmpv6 type { 130-137, 143 } accept"), "{text}");
        assert_eq!(text.matches("counter drop").count(), 2);
    }

    /// If an address is shared by ports, exactly those ports are closed, and SSH never.
    #[test]
    fn some_ports() {
        let ports = vec![range(L4Proto::Tcp, 1, 80), range(L4Proto::Udp, 53, 53)];
        let only = SteerReality { address: "10.0.0.11".parse().unwrap(), all: false, ports, except: vec![] };
        let text = script(&plan(vec![only]), &[], Sockets::Known);
        let (accept, drop) =
            (text.find("tcp dport { 22 } accept"), text.find("tcp dport { 1-80 } counter drop"));
        assert!(accept.unwrap() < drop.unwrap(), "{text}");
        assert!(text.contains("udp dport { 53 } counter drop"));
        assert!(!text.contains("\t\tcounter drop"));
    }

    #[test]
    fn nothing_to_close_is_no_table() {
        assert_eq!(script(&ClosePlan::default(), &[], Sockets::Known), REMOVE);
    }

    #[test]
    fn a_name_stays_inside_its_quotes() {
        assert_eq!(quoted("a\"} drop"), "\"a?} drop\"");
    }
}
