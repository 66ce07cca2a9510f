//! The part on real interfaces: namespaces joined by veths, one switch at a time in the middle, traffic through it.
//!
//! `bench/peers` builds the topologies (`topo.sh`) and puts a switch into them (`peers.d`); this part generates the
//! traffic, bounds it in time, and measures. Peers alternate within a round: every peer once in a scenario, then
//! the next scenario; then the next round. Everything is removed after each peer, and after an interrupt.

pub mod datagrams;
mod lab;
mod traffic;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

pub use lab::Lab;

use crate::process::Limit;
use crate::results::Results;

/// A switch in the middle, and the measurements that it gets.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The name in keys.
    pub name: &'static str,
    /// A description for the report.
    pub about: &'static str,
    /// Its script in `bench/peers/peers.d`.
    script: &'static str,
    /// Variables by which the script knows the variant.
    environment: &'static [(&'static str, &'static str)],
    /// The scenarios that it runs in.
    scenarios: &'static [&'static str],
    /// The groups of measurements.
    what: &'static [What],
    /// Whether quick runs include it.
    quick: bool,
}

/// A group of measurements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Pps,
    LossFree,
    Tcp,
    Udp,
    RoundTrip,
    Idle,
}

use What::{Idle, LossFree, Pps, RoundTrip, Tcp, Udp};

const EVERYWHERE: &[&str] = &["l2", "vtep", "vxlan", "vxlan-plain", "fip"];
const SMALL: &[&str] = &["l2", "vtep", "fip"];

/// Every peer, in the order of a round.
pub const PEERS: &[Peer] = &[
    Peer {
        name: "kernel",
        about: "Linux bridge, kernel VXLAN, nftables NAT with conntrack; threaded NAPI on the switch core",
        script: "kernel",
        environment: &[],
        scenarios: EVERYWHERE,
        what: &[Pps, LossFree, Tcp, Udp, RoundTrip],
        quick: true,
    },
    Peer {
        name: "ovs-afxdp",
        about: "Open vSwitch, userspace datapath, AF_XDP ports, one busy thread",
        script: "ovs",
        environment: &[("PORTS", "afxdp")],
        scenarios: &["l2", "vtep", "vxlan", "fip"],
        what: &[Pps, LossFree, Tcp, Udp, RoundTrip],
        quick: true,
    },
    Peer {
        name: "ivswitch",
        about: "the Inception Switch as it comes: kind `afxdp`, with the verdict cache",
        script: "ivswitch",
        environment: &[],
        scenarios: EVERYWHERE,
        what: &[Idle, Pps, LossFree, Tcp, Udp, RoundTrip],
        quick: true,
    },
    Peer {
        name: "xsk-wire",
        about: "no switch: an empty AF_XDP forwarder that spins",
        script: "xsk-wire",
        environment: &[],
        scenarios: &["l2"],
        what: &[Pps, LossFree, Tcp, Udp, RoundTrip],
        quick: true,
    },
    Peer {
        name: "xdp-wire",
        about: "no switch: an XDP program that redirects in the kernel",
        script: "xdp-wire",
        environment: &[],
        scenarios: &["l2"],
        what: &[Pps],
        quick: false,
    },
    Peer {
        name: "ivswitch-walk",
        about: "the Inception Switch without its verdict cache: every packet takes the walk, by AF_XDP",
        script: "ivswitch",
        environment: &[("IVS_CACHE", "off")],
        scenarios: SMALL,
        what: &[Pps],
        quick: true,
    },
    Peer {
        name: "ivswitch-packet",
        about: "the Inception Switch, doors and uplink of kind `packet`",
        script: "ivswitch",
        environment: &[("IVS_KIND", "packet"), ("IVS_UPLINK_KIND", "packet")],
        scenarios: EVERYWHERE,
        what: &[Pps, Tcp, Udp, RoundTrip],
        quick: true,
    },
    Peer {
        name: "ivswitch-udp",
        about: "the Inception Switch, doors of kind `packet`, uplink of kind `udp`",
        script: "ivswitch",
        environment: &[("IVS_KIND", "packet"), ("IVS_UPLINK_KIND", "udp")],
        scenarios: &["vxlan", "vxlan-plain"],
        what: &[Tcp, Udp],
        quick: false,
    },
    Peer {
        name: "ivswitch-tap",
        about: "the Inception Switch, doors of kind `tap`",
        script: "ivswitch",
        environment: &[("IVS_KIND", "tap"), ("IVS_UPLINK_KIND", "packet")],
        scenarios: &["l2", "vxlan"],
        what: &[Tcp, Udp, RoundTrip],
        quick: false,
    },
    Peer {
        name: "ivswitch-2w",
        about: "the Inception Switch with two workers, free on both cores",
        script: "ivswitch",
        environment: &[("IVS_WORKERS", "2")],
        scenarios: &["l2", "vtep"],
        what: &[Pps],
        quick: false,
    },
];

/// How much of the part to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// At most a few minutes.
    pub quick: bool,
    /// Rounds of everything.
    pub rounds: u32,
    /// Only these peers, if any are named.
    pub peers: Vec<String>,
    /// Only these scenarios, if any are named.
    pub scenarios: Vec<String>,
}

/// Runs the part.
///
/// # Errors
/// When the tools cannot be built. Measurements that a peer cannot do are noted in `results`.
pub fn run(plan: &Plan, scripts: &Path, state: &Path, limit: &Limit, results: &mut Results) -> Result<()> {
    let lab = Lab::new(scripts, state, limit)?;
    let mut broken = BTreeSet::new();
    for round in 1..=plan.rounds {
        for &scenario in EVERYWHERE {
            let named = plan.scenarios.iter().any(|s| s == scenario);
            if !named && (!plan.scenarios.is_empty() || plan.quick && scenario == "vxlan-plain") {
                continue;
            }
            eprintln!("== {scenario}, round {round} of {}", plan.rounds);
            for peer in PEERS {
                let named = plan.peers.is_empty() || plan.peers.iter().any(|p| p == peer.name);
                let wanted = named && (!plan.quick || peer.quick || !plan.peers.is_empty());
                if !wanted || !peer.scenarios.contains(&scenario) || broken.contains(&(scenario, peer.name)) {
                    continue;
                }
                eprintln!("   {}", peer.name);
                if let Err(why) = one(plan, &lab, scenario, peer, round, limit, results) {
                    results.skip(format!("{scenario} {}", peer.name), format!("{why:#}"));
                    broken.insert((scenario, peer.name));
                }
            }
        }
    }
    Ok(())
}

/// One peer in one scenario, once.
fn one(
    plan: &Plan,
    lab: &Lab,
    scenario: &'static str,
    peer: &Peer,
    round: u32,
    limit: &Limit,
    results: &mut Results,
) -> Result<()> {
    limit.spare(Duration::from_secs(15))?;
    let up = lab.up(scenario, peer.script, peer.environment)?;
    up.reach(limit)?;
    for &what in peer.what {
        let once = what == LossFree && (plan.quick || round > 1);
        // A quick run measures round trips where the path has only a switch, and through floating IPs.
        let few = plan.quick && what == RoundTrip;
        let left_out = few && (scenario == "vxlan" || ["xsk-wire", "ivswitch-packet"].contains(&peer.name));
        if once || left_out || limit.interrupted() {
            continue;
        }
        let bench = traffic::Bench { up: &up, peer: peer.name, quick: plan.quick, round, limit };
        let outcome = match what {
            Pps => bench.pps(results),
            LossFree => bench.loss_free(results),
            Tcp => bench.tcp(results),
            Udp => bench.udp(results),
            RoundTrip => bench.round_trips(results),
            Idle => bench.idle(results),
        };
        if let Err(why) = outcome {
            results.skip(format!("{scenario} {}: {what:?}", peer.name), format!("{why:#}"));
        }
    }
    Ok(())
}
