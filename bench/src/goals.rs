//! The targets, and whether a run meets them: `summary.json`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::memory::{Case, extras::keys, ovs};
use crate::results::{Key, Metric, OURS, Results};
use crate::stats::half_spread;
use crate::walk::Kind;

/// The condition of a target.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rule {
    /// Our figure divided by the peer's is at most this.
    RatioAtMost(f64),
    /// Our figure divided by the peer's is at least this.
    RatioAtLeast(f64),
    /// Our figure is at most this.
    AtMost(f64),
    /// Our figure is at least this.
    AtLeast(f64),
}

impl Rule {
    const fn target(self) -> f64 {
        match self {
            Self::RatioAtMost(t) | Self::RatioAtLeast(t) | Self::AtMost(t) | Self::AtLeast(t) => t,
        }
    }

    fn words(self) -> String {
        match self {
            Self::RatioAtMost(t) => format!("<= {t} x the peer"),
            Self::RatioAtLeast(t) => format!(">= {t} x the peer"),
            Self::AtMost(t) => format!("<= {t}"),
            Self::AtLeast(t) => format!(">= {t}"),
        }
    }
}

/// One target.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The key in the summary.
    pub name: String,
    /// Our figures. Of several kinds of port or settings, the best one counts, and is named.
    pub ours: Vec<Key>,
    /// The peer's figure to compare with.
    pub peer: Option<Key>,
    /// The condition.
    pub rule: Rule,
}

/// A target with its result.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Judged {
    /// Our median.
    pub ours: Option<f64>,
    /// The peer's median.
    pub peer: Option<f64>,
    /// Our figure divided by the peer's.
    pub ratio: Option<f64>,
    /// The limit for the ratio, or without a peer for our figure.
    pub target: f64,
    /// Whether the target is met. A target without a measurement is not met.
    pub met: bool,
    /// The target in words.
    pub rule: String,
    /// The unit of the figures.
    pub unit: &'static str,
    /// Which of our figures counts, and the peer that it is compared with.
    pub who: String,
    /// Half of the spread of the runs, as a share, ours and the peer's together.
    pub spread: f64,
    /// Whether the limit is within the spread, so that another run may give another answer.
    pub close: bool,
    /// The reason for a missing figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The flat map of `summary.json`.
pub type Summary = BTreeMap<String, Judged>;

/// Judges every goal.
#[must_use]
pub fn summary(results: &Results) -> Summary {
    goals().into_iter().map(|goal| (goal.name.clone(), goal.judge(results))).collect()
}

impl Goal {
    /// Compares the figures with the target.
    #[must_use]
    pub fn judge(&self, results: &Results) -> Judged {
        let more = self.ours.first().is_some_and(|key| key.metric.more_is_better());
        let measured = self.ours.iter().filter_map(|key| Some((key, results.median(key)?)));
        let best = measured.reduce(|a, b| if (b.1 > a.1) == more { b } else { a });
        let peer = self.peer.as_ref().and_then(|key| results.median(key));
        let ours = best.map(|(_, value)| value);
        let ratio = ours.zip(peer).filter(|(_, peer)| *peer != 0.0).map(|(ours, peer)| ours / peer);
        let met = match self.rule {
            Rule::RatioAtMost(target) => ratio.is_some_and(|r| r <= target),
            Rule::RatioAtLeast(target) => ratio.is_some_and(|r| r >= target),
            Rule::AtMost(target) => ours.is_some_and(|value| value <= target),
            Rule::AtLeast(target) => ours.is_some_and(|value| value >= target),
        };
        let own_spread = best.map_or(0.0, |(key, _)| half_spread(results.runs(key)));
        let spread = own_spread + self.peer.as_ref().map_or(0.0, |key| half_spread(results.runs(key)));
        let held = if matches!(self.rule, Rule::AtMost(_) | Rule::AtLeast(_)) { ours } else { ratio };
        let close = held.is_some_and(|value| (value / self.rule.target() - 1.0).abs() < spread);
        let metric = self.ours.first().map_or("", |key| key.metric.name());
        let mut who = best.map_or_else(|| OURS.to_string(), |(key, _)| describe(key));
        if let Some(peer) = &self.peer {
            who = format!("{who}; beside {}", describe(peer));
        }
        let why = held.is_none().then(|| {
            let missing = if ours.is_none() { self.ours.first() } else { self.peer.as_ref() };
            missing.map_or_else(String::new, |key| format!("not measured: {key}"))
        });
        let (rule, target) = (self.rule.words(), self.rule.target());
        Judged { ours, peer, ratio, target, met, rule, unit: metric, who, spread, close, why }
    }
}

fn describe(key: &Key) -> String {
    format!("{}, {} {}", key.peer, key.scenario, key.case)
}

/// Our figures in a scenario, of each of these peers; the best one counts.
fn best(scenario: &str, case: &str, peers: &[&str], metric: Metric) -> Vec<Key> {
    peers.iter().map(|peer| Key::wire(scenario, case, *peer, metric)).collect()
}

/// The kinds of doors that a user may choose for bulk traffic.
const BULK: &[&str] = &[OURS, "ivswitch-packet", "ivswitch-udp", "ivswitch-tap"];

/// Every target.
#[must_use]
pub fn goals() -> Vec<Goal> {
    let mut goals = Vec::new();
    in_memory(&mut goals);
    pps(&mut goals);
    round_trips(&mut goals);
    bulk(&mut goals);
    datagrams(&mut goals);
    goals
}

fn add(goals: &mut Vec<Goal>, name: impl Into<String>, ours: Vec<Key>, peer: Option<Key>, rule: Rule) {
    goals.push(Goal { name: name.into(), ours, peer, rule });
}

fn in_memory(goals: &mut Vec<Goal>) {
    let ns = |kind, flows| vec![Case::each(kind, 64, flows).key(Metric::Ns)];
    for (group, kind, limit) in [
        ("G1", Kind::L2, 20.0),
        ("G2", Kind::Encap, 30.0),
        ("G2", Kind::Decap, 30.0),
        ("G3", Kind::FipInGateway, 40.0),
        ("G3", Kind::FipInOwner, 40.0),
        ("G3", Kind::FipOutOwner, 40.0),
        ("G3", Kind::FipOutGateway, 40.0),
    ] {
        let name = if group == "G1" { group.to_string() } else { format!("{group}.{}", kind.name()) };
        add(goals, format!("{name}.ns"), ns(kind, 64), None, Rule::AtMost(limit));
        for (size, flows, target) in [("hot", 64, 0.25), ("10k", 10_000, 0.20)] {
            let peer = ovs::key(kind.name(), flows);
            add(goals, format!("{name}.{size}"), ns(kind, flows), Some(peer), Rule::RatioAtMost(target));
        }
        let flows = |flows| Case::shared(kind, flows).key(Metric::Ns);
        let (many, one) = (vec![flows(1_000_000)], Case::each(kind, 64, 1).key(Metric::Ns));
        add(goals, format!("G16.{}", kind.name()), many, Some(one), Rule::RatioAtMost(1.5));
    }
    let one = Case::each(Kind::L2, 64, 1).key(Metric::Ns);
    add(goals, "G17.ns", ns(Kind::L2, 1_000_000), Some(one), Rule::RatioAtMost(1.6));
    let bytes = vec![Key::memory("fdb", "per slot", OURS, Metric::Bytes)];
    add(goals, "G17.bytes", bytes, None, Rule::AtMost(32.0));
    for what in ["MACs", "flows"] {
        let name = format!("G18.{}", what.to_lowercase());
        add(goals, name, vec![keys::kept(what)], None, Rule::AtLeast(0.9));
    }
    for walk in ["l2", "encap", "fip-in-gateway"] {
        let two = vec![keys::workers(walk, 2)];
        add(goals, format!("G5.{walk}"), two, Some(keys::workers(walk, 1)), Rule::RatioAtLeast(1.9));
    }
    let allocations = Case::each(Kind::L2, 64, 64).key(Metric::Allocations);
    add(goals, "allocations.l2", vec![allocations], None, Rule::AtMost(0.0));
}

fn pps(goals: &mut Vec<Goal>) {
    let own = |scenario, case| best(scenario, case, &[OURS, "ivswitch-packet"], Metric::Pps);
    for (name, scenario, case, over_ovs, over_kernel) in [
        ("G4.l2", "l2", "fwd live", 2.0, 1.6),
        ("G6.vtep-encap", "vtep", "encap live", 2.0, 2.0),
        ("G6.vtep-decap", "vtep", "decap live", 2.0, 2.0),
        ("G6.vxlan", "vxlan", "fwd live", 1.5, 1.2),
        ("G7.fip-in", "fip", "in live", 2.0, 2.0),
        ("G7.fip-out", "fip", "out live", 2.0, 2.0),
    ] {
        for (peer, target) in [("ovs-afxdp", over_ovs), ("kernel", over_kernel)] {
            let theirs = Key::wire(scenario, case, peer, Metric::Pps);
            let short = peer.split('-').next().unwrap_or(peer);
            add(
                goals,
                format!("{name}.{short}"),
                own(scenario, case),
                Some(theirs),
                Rule::RatioAtLeast(target),
            );
        }
    }
    let wire = Key::wire("l2", "fwd live", "xsk-wire", Metric::Pps);
    let uncached = vec![Key::wire("l2", "fwd live", "ivswitch-walk", Metric::Pps)];
    add(goals, "G4.l2.wire", uncached, Some(wire), Rule::RatioAtLeast(0.95));
    let idle = vec![Key::wire("l2", "idle", OURS, Metric::Cores)];
    add(goals, "G19.idle", idle, None, Rule::AtMost(0.005));
}

fn round_trips(goals: &mut Vec<Goal>) {
    for scenario in ["l2", "vxlan", "fip"] {
        for (case, short) in
            [("ping-pong", "busy"), ("after a pause", "sleeping"), ("beside 50 kpps", "loaded")]
        {
            for (metric, p) in [(Metric::RttP50, "p50"), (Metric::RttP99, "p99")] {
                let kernel = Key::wire(scenario, case, "kernel", metric);
                let ours = best(scenario, case, &[OURS, "ivswitch-packet"], metric);
                let name = format!("G11.{scenario}.{short}.{p}");
                add(goals, name, ours, Some(kernel), Rule::RatioAtMost(1.0));
            }
        }
    }
}

fn bulk(goals: &mut Vec<Goal>) {
    for (name, scenario, directions, one, four) in [
        ("G8.l2", "l2", &[("fwd", "")][..], 1.0, 0.7),
        ("G9.vxlan", "vxlan", &[("fwd", ""), ("back", ".back")], 1.0, 1.0),
        ("G9.vxlan-plain", "vxlan-plain", &[("fwd", ""), ("back", ".back")], 1.3, 1.3),
        ("G9.fip", "fip", &[("fwd", ".in"), ("back", ".out")], 1.0, 1.0),
    ] {
        for (direction, suffix) in directions {
            for (streams, target) in [("1 stream", one), ("4 streams", four)] {
                let case = format!("{direction} {streams}");
                let n = &streams[..1];
                for (peer, target) in [("kernel", target), ("ovs-afxdp", 4.0)] {
                    if peer != "kernel" && scenario == "vxlan-plain" {
                        continue;
                    }
                    let short = peer.split('-').next().unwrap_or(peer);
                    let theirs = Key::wire(scenario, &case, peer, Metric::Gbps);
                    let ours = best(scenario, &case, BULK, Metric::Gbps);
                    let name = format!("{name}{suffix}.{n}.{short}");
                    add(goals, name, ours, Some(theirs), Rule::RatioAtLeast(target));
                }
            }
        }
    }
}

/// UDP in GSO packets, next to the kernel's figures.
fn datagrams(goals: &mut Vec<Goal>) {
    for (name, scenario) in [("G8.l2.udp", "l2"), ("G9.vxlan.udp", "vxlan"), ("G9.fip.udp.in", "fip")] {
        let theirs = Key::wire(scenario, "fwd UDP", "kernel", Metric::Gbps);
        let ours = best(scenario, "fwd UDP", BULK, Metric::Gbps);
        add(goals, name, ours, Some(theirs), Rule::RatioAtLeast(1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `summary.json` is a flat map, and each of its values has the five fields that readers rely on. Where nothing
    /// was measured they are null, and `met` is false.
    #[test]
    fn the_summary_has_its_shape() {
        let mut results = Results::default();
        results.add(Case::each(Kind::L2, 64, 64).key(Metric::Ns), 18.0);
        results.add(ovs::key("l2", 64), 80.0);
        let json = serde_json::to_value(summary(&results)).expect("plain data");
        let map = json.as_object().expect("a map");
        for (name, value) in map {
            let fields = value.as_object().expect("flat");
            for field in ["ours", "peer", "ratio", "target", "met"] {
                assert!(fields.contains_key(field), "{name} has no {field}");
            }
            assert!(fields["target"].is_number() && fields["met"].is_boolean(), "{name}: {value}");
        }
        assert_eq!(map["G1.hot"]["ratio"], 18.0 / 80.0);
        assert_eq!(map["G1.hot"]["met"], true);
        assert_eq!(map["G1.ns"]["met"], true);
        assert_eq!(
            (&map["G4.l2.ovs"]["ratio"], &map["G4.l2.ovs"]["met"]),
            (&serde_json::Value::Null, &false.into())
        );
        assert!(map["G4.l2.ovs"]["why"].as_str().is_some_and(|why| why.contains("not measured")));
        for group in ["G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8", "G9", "G11", "G16", "G17", "G18", "G19"]
        {
            assert!(map.keys().any(|key| key.starts_with(&format!("{group}."))), "{group} is missing");
        }
        assert_eq!(map.len(), goals().len(), "two goals of one name");
    }

    #[test]
    fn the_best_of_ours_counts_and_is_named() {
        let mut results = Results::default();
        for (peer, gbps) in [(OURS, 2.0), ("ivswitch-packet", 14.0), ("kernel", 10.0)] {
            results.add(Key::wire("l2", "fwd 1 stream", peer, Metric::Gbps), gbps);
        }
        let judged = &summary(&results)["G8.l2.1.kernel"];
        assert_eq!((judged.ratio, judged.met), (Some(1.4), true));
        assert!(judged.who.contains("ivswitch-packet"), "{}", judged.who);
        for (peer, us) in [(OURS, 90.0), ("kernel", 80.0)] {
            results.add(Key::wire("l2", "ping-pong", peer, Metric::RttP50), us);
        }
        assert!(!summary(&results)["G11.l2.busy.p50"].met, "less is better here");
    }

    #[test]
    fn a_target_within_the_spread_is_close() {
        let mut results = Results::default();
        let key = Case::each(Kind::L2, 64, 64).key(Metric::Ns);
        for ns in [17.0, 19.5, 22.0] {
            results.add(key.clone(), ns);
        }
        let judged = &summary(&results)["G1.ns"];
        assert!(judged.met && judged.close, "{judged:?}");
    }
}
