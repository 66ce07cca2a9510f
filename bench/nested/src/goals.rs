//! The targets of nesting. Each is a ratio within one run and under one emulation, so that it describes the switch.

use bench::goals::{Goal, Rule, Summary};
use bench::results::{Key, Metric, Results};

use crate::lab::Peer;
use crate::network::{Place, RTT, SMALL, TCP};

/// Targets G13 (goodput), G14 (round trips) and G15 (kicks and calls).
#[must_use]
pub fn goals() -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut add = |name: String, ours: Key, peer: Key, rule: Rule| {
        goals.push(Goal { name, ours: vec![ours], peer: Some(peer), rule });
    };
    let key =
        |place: Place, case: &str, peer: Peer, metric| Key::nested(place.name(), case, peer.name(), metric);
    for (place, short) in [(Place::Same, "same"), (Place::Vxlan, "vxlan")] {
        let ours = |case, metric| key(place, case, Peer::VhostUser, metric);
        let bridge = |case, metric| key(place, case, Peer::Bridge, metric);
        let rvm = |case, metric| key(Place::Provider, case, Peer::Bridge, metric);
        let gbps = Metric::Gbps;
        add(format!("G13.{short}.over-rvm"), ours(TCP, gbps), rvm(TCP, gbps), Rule::RatioAtLeast(0.85));
        add(format!("G13.{short}.over-bridge"), ours(TCP, gbps), bridge(TCP, gbps), Rule::RatioAtLeast(2.0));
        for (metric, p) in [(Metric::RttP50, "p50"), (Metric::RttP99, "p99")] {
            add(format!("G14.{short}.{p}"), ours(RTT, metric), rvm(RTT, metric), Rule::RatioAtMost(1.4));
        }
        for (case, load) in [(SMALL, "small"), (TCP, "tcp")] {
            let events = Metric::Events;
            add(
                format!("G15.{short}.{load}"),
                ours(case, events),
                bridge(case, events),
                Rule::RatioAtMost(0.02),
            );
        }
    }
    goals
}

/// Compares the figures with the targets.
#[must_use]
pub fn summary(results: &Results) -> Summary {
    goals().into_iter().map(|goal| (goal.name.clone(), goal.judge(results))).collect()
}

/// The bounds of each group of targets on this machine, for the report.
#[must_use]
pub const fn bounds() -> [(&'static str, &'static str); 3] {
    [
        (
            "G13",
            "Guests are emulated on the processors that the switch polls with: goodput is what is left of them, and \
             moves by half between rounds. A ratio between two networks under the same emulation is about the switches; \
             the Gbit/s are about the emulator. The bridge and kernel vxlan pass super-frames on without \
             touching their bytes, so what is left to gain is what QEMU takes to read and write a TAP.",
        ),
        (
            "G14",
            "An emulated guest takes hundreds of microseconds for a packet, so the emulator is in both sides of the \
             ratio and hides most of what a switch adds. p99 is when the host's scheduler gave the processors to \
             somebody else.",
        ),
        (
            "G15",
            "Kicks are counted by the guest's driver, calls by its interrupt table, so it is the same count for every \
             switch, and about the switch. What bounds it is the other side of the ratio: QEMU, too, looks into a \
             TAP's ring on its own while it is busy, and an emulated guest keeps it busy, so that a TAP costs a tenth of \
             an event for a small packet where hardware would ask for one or two. Naps of the worker beside a guest that \
             sends much have taken most of the kicks; what is left are calls, one for each time a guest had emptied its \
             ring. Held back for 200 us, calls halved the packets and stayed as many for each. What is wanted would be one event in \
             some 20 ms for each guest: 0.02 of 0.07 is one for 700 packets, of which both together see 68,000 a second, and \
             for TCP one for 40 super-frames, 2.5 MB. Kicks and calls held back for so long would cost round trips and windows \
             more than they cost themselves.",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Targets are judged in their direction: more goodput, shorter round trips, fewer events.
    #[test]
    fn targets_are_judged_in_their_direction() {
        let mut results = Results::default();
        let mut add = |place: Place, case: &str, peer: Peer, metric, value| {
            results.add(Key::nested(place.name(), case, peer.name(), metric), value);
        };
        add(Place::Provider, TCP, Peer::Bridge, Metric::Gbps, 1.0);
        add(Place::Same, TCP, Peer::VhostUser, Metric::Gbps, 0.9);
        add(Place::Same, TCP, Peer::Bridge, Metric::Gbps, 0.6);
        add(Place::Provider, RTT, Peer::Bridge, Metric::RttP50, 400.0);
        add(Place::Same, RTT, Peer::VhostUser, Metric::RttP50, 600.0);
        add(Place::Same, SMALL, Peer::VhostUser, Metric::Events, 0.01);
        add(Place::Same, SMALL, Peer::Bridge, Metric::Events, 1.0);
        let summary = summary(&results);
        assert_eq!(summary.len(), goals().len(), "two of one name");
        let met = |name: &str| summary[name].met;
        assert!(met("G13.same.over-rvm") && !met("G13.same.over-bridge"));
        assert!(!met("G14.same.p50") && met("G15.same.small"));
        assert!(!met("G13.vxlan.over-rvm") && summary["G13.vxlan.over-rvm"].why.is_some());
    }
}
