//! The tables, as Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::goals::Summary;
use crate::machine::Facts;
use crate::results::{Key, MEMORY, Metric, Results, WIRE};
use crate::stats::half_spread;
use crate::wire::PEERS;

/// A number with three or four significant digits.
#[must_use]
pub fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if v >= 1e6 => format!("{:.2} M", value / 1e6),
        v if v >= 10_000.0 => format!("{:.0} k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The whole report.
#[must_use]
pub fn markdown(
    results: &Results,
    summary: &Summary,
    machine: &Facts,
    command: &str,
    comparison: Option<&str>,
) -> String {
    let mut text = String::from("# Benchmark results\n\n");
    text += "Written by the tool, not by hand. To take them again:\n\n";
    writeln!(text, "    {command}\n").ok();
    text += &machine.markdown();
    text += "\nEvery figure is the median of its runs, which alternate between the switches compared; ± is half of \
             the distance between the lowest and the highest, as a share. Compare only what stands in one table: \
             on another machine, or an hour later on the same virtual one, all of it may be different. \
             Both ends of every wire, the generator and the switch share this machine.\n\n";
    goals(&mut text, summary);
    memory(&mut text, results);
    wire(&mut text, results);
    others(&mut text, results);
    if let Some(comparison) = comparison {
        write!(text, "## What moved\n\n{comparison}\n").ok();
    }
    if !results.skipped.is_empty() {
        text += "## Not measured\n\n";
        for (what, why) in &results.skipped {
            writeln!(text, "- {what}: {why}").ok();
        }
    }
    text
}

/// The targets and their results.
pub fn goals(text: &mut String, summary: &Summary) {
    let met = summary.values().filter(|judged| judged.met).count();
    let measured = summary.values().filter(|judged| judged.why.is_none()).count();
    writeln!(text, "## Targets\n\n{met} met of {} measured, {} in all.\n", measured, summary.len()).ok();
    *text +=
        "| target | ours | peer | ratio | wanted | met | ± | what |\n|---|---:|---:|---:|---|---|---:|---|\n";
    for (name, judged) in summary {
        let shown = |value: Option<f64>| value.map_or("-".into(), figure);
        let met = match (judged.met, &judged.why, judged.close) {
            (_, Some(_), _) => "not measured",
            (true, _, false) => "yes",
            (true, _, true) => "yes, barely",
            (false, _, false) => "no",
            (false, _, true) => "no, barely",
        };
        writeln!(
            text,
            "| {name} | {} {} | {} | {} | {} | {met} | {:.0} % | {} |",
            shown(judged.ours),
            judged.unit,
            shown(judged.peer),
            shown(judged.ratio),
            judged.rule,
            judged.spread * 100.0,
            judged.who
        )
        .ok();
    }
    text.push('\n');
}

/// A table of medians; `place` gives the row and the column of each, or leaves it out.
fn table(
    text: &mut String,
    results: &Results,
    corner: &str,
    columns: &[String],
    place: impl Fn(&Key) -> Option<(String, usize)>,
) {
    let mut rows: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    let mut order = Vec::new();
    for (key, runs) in results.iter() {
        let Some((row, column)) = place(key) else { continue };
        let cells = rows.entry(row.clone()).or_insert_with(|| {
            order.push(row.clone());
            vec![None; columns.len()]
        });
        let middle = crate::stats::median(runs).map_or("-".into(), figure);
        let spread = half_spread(runs) * 100.0;
        cells[column] = Some(if runs.len() > 1 { format!("{middle} ±{spread:.0}%") } else { middle });
    }
    if rows.is_empty() {
        return;
    }
    writeln!(text, "| {corner} | {} |\n|---|{}", columns.join(" | "), "---:|".repeat(columns.len())).ok();
    for row in order {
        let cells: Vec<_> = rows[&row].iter().map(|c| c.clone().unwrap_or_else(|| "-".into())).collect();
        writeln!(text, "| {row} | {} |", cells.join(" | ")).ok();
    }
    text.push('\n');
}

/// The numbers of flows and stations of a case in memory.
fn sizes(case: &str) -> Option<(String, u64, u64)> {
    let mut parts = case.split(", ");
    let len = parts.next()?.to_string();
    let flows = parts.next()?.split(' ').next()?.parse().ok()?;
    let stations = parts.next().map_or(Some(flows), |s| s.split(' ').next()?.parse().ok())?;
    Some((len, flows, stations))
}

fn memory(text: &mut String, results: &Results) {
    if !results.iter().any(|(key, _)| key.part == MEMORY) {
        return;
    }
    let columns: Vec<u64> = crate::memory::SIZES.iter().map(|&n| u64::from(n)).collect();
    let names: Vec<String> = columns.iter().map(ToString::to_string).collect();
    *text += "## In memory: ns for one packet\n\n";
    *text += "One core, batches of 64, the production `Switch::forward` alone, without I/O. Flows come in random \
              order, each with header bytes of its own, so that they are cold where there are many. \"all its \
              own\": as many MACs or floating IPs as flows (of the \
              latter no more than 10 000); \"of 1000\": flows among a thousand of them. `ovs` is the \
              userspace datapath of Open vSwitch between DPDK's pcap and null ports, exact-match cache on, by its own \
              cycle counters, which include copying the frame in; `loop` is ours with copying in and taking off the \
              queue.\n\n";
    table(text, results, "walk, by flows", &names, |key| {
        if key.part != MEMORY || !matches!(key.metric, Metric::Ns | Metric::LoopNs) {
            return None;
        }
        let (len, flows, stations) = sizes(&key.case)?;
        let column = columns.iter().position(|c| *c == flows)?;
        let which = match (key.peer.as_str(), key.metric) {
            (crate::memory::ovs::NAME, _) => "**ovs**",
            (_, Metric::LoopNs) => "loop",
            _ if stations == 1000 && flows > 1000 => "of 1000",
            _ => "all its own",
        };
        Some((format!("{}, {len}, {which}", key.scenario), column))
    });
    let kinds: Vec<String> = vec!["instructions".into(), "allocations".into()];
    *text += "For one packet of 64 bytes at 64 flows; instructions by callgrind, which repeat where times wander:\n\n";
    table(text, results, "walk", &kinds, |key| {
        let column = match key.metric {
            Metric::Instructions => 0,
            Metric::Allocations if key.case == "64 B, 64 flows, 64 stations" => 1,
            _ => return None,
        };
        Some((key.scenario.clone(), column))
    });
}

fn wire(text: &mut String, results: &Results) {
    let scenarios: BTreeSet<_> =
        results.iter().filter(|(key, _)| key.part == WIRE).map(|(key, _)| key.scenario.clone()).collect();
    if scenarios.is_empty() {
        return;
    }
    *text += "## On veth, in namespaces\n\n";
    for peer in PEERS {
        writeln!(text, "- `{}`: {}", peer.name, peer.about).ok();
    }
    *text += "\nPackets are 60 bytes of 16 UDP flows offered at saturation, counted where they arrive; `live` are made in \
              the kernel, `pkt` by a packet socket, as an ordinary sender would. `core_ns` is the switch core's time \
              for a packet that arrived, `all_ns` all cores', its making and counting included. TCP is iperf3's goodput \
              in Gbit/s; `fwd` towards the server, `back` from it. Round trips are of a 64-byte UDP message, in us.\n\n";
    let columns: Vec<String> = PEERS.iter().map(|peer| peer.name.to_string()).collect();
    for scenario in ["l2", "vtep", "vxlan", "vxlan-plain", "fip"] {
        if !scenarios.contains(scenario) {
            continue;
        }
        let here: Vec<String> = columns
            .iter()
            .filter(|name| results.iter().any(|(key, _)| key.scenario == scenario && key.peer == **name))
            .cloned()
            .collect();
        writeln!(text, "### {scenario}\n").ok();
        table(text, results, "", &here, |key| {
            if key.part != WIRE || key.scenario != scenario {
                return None;
            }
            let column = here.iter().position(|name| *name == key.peer)?;
            Some((format!("{}, {}", key.case, key.metric.name()), column))
        });
    }
}

/// Figures that have no table of their own.
fn others(text: &mut String, results: &Results) {
    let shown = ["workers", "strangers", "control", "trail", "fdb"];
    if !results.iter().any(|(key, _)| shown.contains(&key.scenario.as_str())) {
        return;
    }
    *text += "## Workers, floods, control, memory\n\n";
    *text += "Workers share nothing but the processor: the row `additions` is what two threads that only add are worth \
              on it. Strangers flood: one frame of theirs for each established one, through another door; the rate kept \
              is that of the established frames, by the time they take and by how many arrive.\n\n";
    table(text, results, "", &["".to_string()], |key| {
        let found = shown.contains(&key.scenario.as_str());
        found.then(|| (format!("{}: {}, {}", key.scenario, key.case, key.metric.name()), 0))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goals::summary;

    #[test]
    fn figures_have_the_digits_that_matter() {
        for (value, shown) in [
            (0.0, "0"),
            (0.0031, "0.0031"),
            (0.25, "0.25"),
            (18.46, "18.5"),
            (148.2, "148"),
            (52_340.0, "52 k"),
        ] {
            assert_eq!(figure(value), shown);
        }
        assert_eq!(figure(1_234_567.0), "1.23 M");
    }

    #[test]
    fn the_report_shows_what_was_measured_and_what_was_not() {
        let mut results = Results::default();
        for ns in [18.0, 20.0, 19.0] {
            results.add(Key::memory("l2", "64 B, 64 flows, 64 stations", "ivswitch", Metric::Ns), ns);
        }
        results.add(Key::memory("l2", "64 B, 64 flows", "ovs", Metric::Ns), 80.0);
        results.add(Key::wire("l2", "fwd live", "kernel", Metric::Pps), 600_000.0);
        results.skip("fip ovs-afxdp", "missing: Open vSwitch");
        let text = markdown(&results, &summary(&results), &Facts::default(), "cargo xtask bench", None);
        assert!(text.contains("| l2, 64 B, all its own | - | 19.0 ±5% |"), "{text}");
        assert!(text.contains("| l2, 64 B, **ovs** | - | 80.0 |"), "{text}");
        assert!(text.contains("| fwd live, pps | 600 k |"), "{text}");
        assert!(text.contains("- fip ovs-afxdp: missing: Open vSwitch"), "{text}");
        assert!(text.contains("| G1.hot | 19.0 ns | 80.0 | 0.24 |"), "{text}");
    }
}
