//! A CMS's own bridge behind a door: the switch never carries a frame around the CMS's filters.

use std::process::Stdio;

use system::{Lab, Namespace, Switch, transfer};

use crate::topology::{host, network, port};

/// A filter that a CMS puts in front of an iVM: the commands that set it, clear it, and show its counters.
struct Filter {
    name: &'static str,
    set: &'static str,
    clear: &'static str,
    show: &'static str,
}

/// By address in both directions, as security groups and anti-spoofing rules do. `p-cut` is the iVM's bridge port.
const FILTERS: [Filter; 3] = [
    Filter {
        name: "ebtables",
        set: "ebtables-nft -A FORWARD -p IPv4 --ip-src 10.1.0.9 -j DROP
              ebtables-nft -A FORWARD -p IPv4 --ip-dst 10.1.0.9 -j DROP",
        clear: "ebtables-nft -F FORWARD",
        show: "ebtables-nft -L FORWARD --Lc",
    },
    Filter {
        name: "nft bridge",
        set: "nft add table bridge cms
              nft add chain bridge cms forward { type filter hook forward priority 0; }
              nft add rule bridge cms forward ip saddr 10.1.0.9 counter drop
              nft add rule bridge cms forward ip daddr 10.1.0.9 counter drop",
        clear: "nft delete table bridge cms",
        show: "nft list table bridge cms",
    },
    Filter {
        name: "br_netfilter with physdev",
        set: "sysctl -q net.bridge.bridge-nf-call-iptables=1
              iptables-nft -A FORWARD -m physdev --physdev-is-bridged --physdev-in p-cut -j DROP
              iptables-nft -A FORWARD -m physdev --physdev-is-bridged --physdev-out p-cut -j DROP",
        clear: "iptables-nft -F FORWARD",
        show: "iptables-nft -vnxL FORWARD",
    },
];

/// Runs each line as a command of its own in the namespace. Returns the text that the commands print.
#[track_caller]
fn lines(namespace: &Namespace, commands: &str) -> String {
    let mut said = String::new();
    for line in commands.lines() {
        let mut words = line.split_whitespace();
        let mut command = namespace.command(words.next().expect("a program"));
        let output = command.args(words).stdin(Stdio::null()).output().expect("running it");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        said += &String::from_utf8_lossy(&output.stdout);
    }
    said
}

/// The packet counters of the two rules, in order.
fn dropped(namespace: &Namespace, filter: &Filter) -> [u64; 2] {
    let text = lines(namespace, filter.show);
    let rules = text.lines().filter(|line| line.to_lowercase().contains("drop") && !line.contains("policy"));
    let counters: Vec<u64> = rules
        .map(|line| {
            // "packets N", "pcnt = N" or N in front.
            let words: Vec<&str> = line.split_whitespace().collect();
            let named = words.iter().position(|word| ["packets", "pcnt"].contains(word));
            let count = named.map_or(words[0], |at| {
                words[at + 1..]
                    .iter()
                    .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
                    .expect(line)
            });
            count.parse().unwrap_or_else(|_| panic!("{line}"))
        })
        .collect();
    counters.try_into().unwrap_or_else(|_| panic!("{text}"))
}

/// I-33. On one rVM the CMS has a bridge with the door `eth1` and two iVMs, and filters one of them with each kind of
/// filter; `h1` is elsewhere on the network. Whether the switch forwards in its worker or in the kernel: the filtered
/// iVM neither reaches other machines nor is reached, its packets came to the filter in both directions, its
/// neighbour's TCP passes, and a connection that the kernel was already forwarding stops when the rule is set.
fn filters_stay_effective(kind: &str, cache: &str) {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let [cut, free] = [("cut", "10.1.0.9/24"), ("free", "10.1.0.2/24")]
        .map(|(name, address)| host(&lab, &rvm, name, &[address]));
    let config = format!(
        "cache = \"{cache}\"\n{}[[port]]\nname = \"eth1\"\nnetwork = \"private\"\nkind = \"{kind}\"\n{}kind = \"{kind}\"\n",
        network("private", 100),
        port("h1", "private")
    );
    let switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["eth1", "h1"]);
    rvm.ip("link add br1 type bridge");
    for port in ["eth1", "p-cut", "p-free"] {
        rvm.ip(&format!("link set {port} master br1 up"));
    }
    rvm.ip("link set br1 up");
    let none_passes = |filter: &Filter| {
        assert_eq!(cut.ping("-c2 -W0.3 -i0.05 10.1.0.1"), 0, "{}: from the filtered iVM", filter.name);
        assert_eq!(h1.ping("-c2 -W0.3 -i0.05 10.1.0.9"), 0, "{}: to the filtered iVM", filter.name);
    };
    for filter in &FILTERS {
        // The flow is hot before the filter is set: a flow that the kernel forwards by itself stops too.
        h1.reaches("10.1.0.9");
        assert!(cut.ping("-c30 -i0.01 10.1.0.1") > 20, "{}: without the filter", filter.name);
        lines(&rvm, filter.set);
        none_passes(filter);
        let [from, to] = dropped(&rvm, filter);
        assert!(from >= 2 && to >= 2, "{}: {from} and {to} packets came to the rules", filter.name);
        free.reaches("10.1.0.1");
        let address = "10.1.0.2:80".parse().unwrap();
        transfer(&h1, &free, address, address, 2_000_000);
        lines(&rvm, filter.clear);
    }
    switch.counters_at_rest();
}

#[test]
fn i33_the_cms_filters_stay_effective() {
    for kind in ["packet", "afxdp"] {
        filters_stay_effective(kind, "off");
    }
}

#[test]
fn i33_the_cms_filters_stay_effective_when_the_kernel_forwards() {
    for kind in ["packet", "afxdp"] {
        filters_stay_effective(kind, "auto");
    }
}
