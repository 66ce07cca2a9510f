//! The outputs: JSON, Markdown, one HTML page with its plots inside, and the comparison of two runs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use bench::goals::Summary;
use bench::machine::Facts;
use bench::plot::{self, Bar, Scale};
use bench::report::{figure, goals as targets};
use bench::results::{Key, Metric, NESTED, Results};
use bench::stats::half_spread;

use crate::lab::Peer;
use crate::network::{BACK, Place, RTT, SMALL, TCP};
use crate::rows::Plan;
use crate::{control, goals, level, nesting, seeds, work};

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:62em;margin:2em auto;padding:0 1em}\
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.2em .6em}\
pre{background:#f4f4f4;padding:.6em;overflow-x:auto}svg{max-width:100%;height:auto}";

/// Writes all outputs into `out`, and `bench/NESTED.md` of the source tree for a recorded run.
///
/// # Errors
/// When a file cannot be written.
pub fn write(
    results: &Results,
    plan: &Plan,
    machine: &Facts,
    command: &str,
    out: &Path,
    record: Option<&Path>,
) -> Result<()> {
    let put = |path: &Path, text: &str| {
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    };
    let dir = out.join("nested");
    let summary = goals::summary(results);
    put(&out.join("nested.json"), &(serde_json::to_string_pretty(&summary)? + "\n"))?;
    results.store(&dir.join("results.json"), machine, command)?;
    let plots = draw(results, &dir)?;
    let text = markdown(results, &summary, plan, machine, command, &plots);
    put(&dir.join("nested.md"), &text)?;
    put(&dir.join("nested.html"), &page(&text, &dir))?;
    if let Some(source) = record {
        let bench = source.join("bench");
        put(&bench.join("NESTED.md"), &text.replace("](", "](nested/plots/"))?;
        std::fs::create_dir_all(bench.join("nested/plots"))?;
        for name in &plots {
            std::fs::copy(dir.join(name), bench.join("nested/plots").join(name))?;
        }
    }
    for (name, judged) in &summary {
        let shown = |value: Option<f64>| value.map_or("-".into(), figure);
        let word = match (&judged.why, judged.met) {
            (Some(_), _) => "no figure",
            (None, true) => "met",
            (None, false) => "MISSED",
        };
        println!(
            "{word:9} {name:24} {:>9} {:8} ratio {:>6}  {}",
            shown(judged.ours),
            judged.unit,
            shown(judged.ratio),
            judged.rule
        );
    }
    println!(
        "\n{0}/nested.html, {0}/nested.md, {0}/results.json, {1}/nested.json",
        dir.display(),
        out.display()
    );
    Ok(())
}

/// The HTML page: the same text, with the plots in it.
fn page(text: &str, dir: &Path) -> String {
    let mut html = String::new();
    let options = pulldown_cmark::Options::ENABLE_TABLES;
    pulldown_cmark::html::push_html(&mut html, pulldown_cmark::Parser::new_ext(text, options));
    let mut whole = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>What nesting costs</title>\
         <style>{STYLE}</style></head><body>\n"
    );
    let mut rest = html.as_str();
    while let Some((before, after)) = rest.split_once("<img src=\"") {
        let (name, after) = after.split_once('"').unwrap_or((after, ""));
        whole += before;
        let svg = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        whole += svg.find("<svg").map_or("", |at| &svg[at..]);
        rest = after.split_once('>').map_or("", |(_, after)| after);
    }
    whole + rest + "</body></html>\n"
}

/// Bars of the medians of `case`, a group for every pair, a row for every peer.
fn bars(
    results: &Results,
    dir: &Path,
    name: &str,
    title: &str,
    (case, metric): (&str, Metric),
) -> Result<Option<String>> {
    let mut groups: Vec<String> = Vec::new();
    let mut series: BTreeMap<String, Vec<Bar>> = BTreeMap::new();
    for (key, runs) in results.iter().filter(|(key, _)| key.case == case && key.metric == metric) {
        let group = groups.iter().position(|g| *g == key.scenario).unwrap_or_else(|| {
            groups.push(key.scenario.clone());
            groups.len() - 1
        });
        let low = runs.iter().copied().fold(f64::INFINITY, f64::min);
        let high = runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let value = bench::stats::median(runs).unwrap_or_default();
        series.entry(key.peer.clone()).or_default().push(Bar { group, value, spread: (low, high) });
    }
    if groups.is_empty() {
        return Ok(None);
    }
    let series: Vec<_> = series.into_iter().collect();
    plot::bars(&dir.join(name), title, metric.name(), &groups, &series)?;
    Ok(Some(name.to_owned()))
}

/// Draws the plots for which there are figures; gives the files' names.
fn draw(results: &Results, dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, title, case) in [
        ("nested-tcp.svg", "TCP goodput, 32 KiB messages", (TCP, Metric::Gbps)),
        ("nested-rtt.svg", "Round trips of 64 bytes, median", (RTT, Metric::RttP50)),
        ("nested-small.svg", "Small packets that arrive", (SMALL, Metric::Pps)),
        ("nested-events.svg", "Kicks and calls for one small packet", (SMALL, Metric::Events)),
    ] {
        names.extend(bars(results, dir, name, title, case)?);
    }
    for (name, title, case) in [
        (
            "level-http.svg",
            "A web page for each of 64 users, mean",
            (format!("{} mean", work::WEB), Metric::Seconds),
        ),
        (
            "level-disk.svg",
            "4 KiB random reads past the cache",
            ("4 KiB random read, direct".into(), Metric::Ops),
        ),
        ("level-syscall.svg", "100 system calls", ("syscall".into(), Metric::Ops)),
    ] {
        names.extend(bars(results, dir, name, title, (&case.0, case.1))?);
    }
    let mut by_pair: BTreeMap<&str, Vec<plot::Series>> = BTreeMap::new();
    for (key, sorted) in &results.round_trips {
        let Some((pair, peer)) = key.split_once('/') else { continue };
        let count = sorted.len() as f64;
        let points = sorted.iter().enumerate().map(|(i, us)| (*us, (i + 1) as f64 / count)).collect();
        by_pair.entry(pair).or_default().push((peer.into(), points));
    }
    for (pair, series) in by_pair {
        let name = format!("nested-cdf-{}.svg", pair.replace(' ', "-"));
        let title = format!("Round trips, {pair}: share that is faster");
        plot::lines(&dir.join(&name), &title, "us", "share", &series, Scale::Logarithmic)?;
        names.push(name);
    }
    let line = |what: &str| {
        let at = |ms: &u32| {
            let key = Key::nested(control::scenario(*ms), what, "vhost-user", Metric::Seconds);
            Some((f64::from(*ms), results.median(&key)?))
        };
        (what.to_owned(), control::LATENCIES.iter().filter_map(at).collect::<Vec<_>>())
    };
    for (name, title, what) in [
        (
            "control-migration.svg",
            "Live migration against one-way latency",
            &[control::MIGRATION, control::OUTAGE][..],
        ),
        (
            "control-create.svg",
            "From command to first packet, against one-way latency",
            &[control::CREATE, control::FLOATING],
        ),
    ] {
        let series: Vec<_> =
            what.iter().map(|what| line(what)).filter(|(_, points)| points.len() > 1).collect();
        if !series.is_empty() {
            plot::lines(&dir.join(name), title, "ms one way", "seconds", &series, Scale::Linear)?;
            names.push(name.into());
        }
    }
    Ok(names)
}

/// The figure of one case with its spread.
fn cell(results: &Results, key: &Key) -> Option<String> {
    let runs = results.runs(key);
    let middle = bench::stats::median(runs).map(figure)?;
    Some(if runs.len() > 1 { format!("{middle} ±{:.0}%", half_spread(runs) * 100.0) } else { middle })
}

/// A table of the rows that have a figure; left out if none has.
fn table(text: &mut String, head: &[&str], rows: impl IntoIterator<Item = (String, Vec<Option<String>>)>) {
    let rows: Vec<_> = rows.into_iter().filter(|(_, cells)| cells.iter().any(Option::is_some)).collect();
    if rows.is_empty() {
        return;
    }
    writeln!(text, "| {} |\n|---|{}", head.join(" | "), "---:|".repeat(head.len() - 1)).ok();
    for (name, cells) in rows {
        let cells: Vec<_> = cells.into_iter().map(|c| c.unwrap_or_else(|| "-".into())).collect();
        writeln!(text, "| {name} | {} |", cells.join(" | ")).ok();
    }
    text.push('\n');
}

/// A ratio and its inverse side by side, so that readers cannot mistake one for the other.
fn both_ways(above: Option<f64>, below: Option<f64>) -> Option<String> {
    let (above, below) = above.zip(below).filter(|(a, b)| *a != 0.0 && *b != 0.0)?;
    Some(format!("{} ({} the other way)", figure(above / below), figure(below / above)))
}

fn markdown(
    results: &Results,
    summary: &Summary,
    plan: &Plan,
    machine: &Facts,
    command: &str,
    plots: &[String],
) -> String {
    let mut text =
        String::from("# What nesting costs\n\nWritten by the tool, not by hand. To take it again:\n\n");
    writeln!(text, "    {command}\n").ok();
    text += "It needs root, QEMU and Debian's packages, and nobody else on the machine. From an empty target directory it \
             builds for some ten minutes; what it measures is bounded by `--minutes` (25, or 5 with `--quick`). Stopped, or \
             out of time, it goes on where it was when it is started again, without `--again`; all rows take more than an \
             hour, most of it guests in guests of the peers (`--only 'levels L2'`).\n\n";
    text += &machine.markdown();
    text += "\n## Levels\n\n";
    let inner = results.iter().any(|(key, _)| key.scenario.contains("L2")).then_some(plan.found.accel);
    for (level, what) in level::labels(&plan.found, machine.hypervisor, inner) {
        writeln!(text, "- **{level}**: {what}").ok();
    }
    text += "\nEvery figure is the median of its rounds; ± is half of the distance between the lowest and the highest. \
             Guests, switches and the host's kernel share the processors of one machine. **Where guests are emulated, \
             absolute figures are about the emulator**; what is about the switch are ratios between networks under one \
             emulation, and counts of events. Published figures stand beside ours for their shape: hardware, decade and \
             hypervisor differ.\n\n";
    if cfg!(debug_assertions) {
        text += "The probes of this run were built without full optimisation.\n\n";
    }
    for peer in Peer::ALL {
        writeln!(text, "- `{}`: {}", peer.name(), peer.about()).ok();
    }
    text.push('\n');
    targets(&mut text, summary);
    for (group, why) in goals::bounds() {
        writeln!(text, "- **{group}**: {why}").ok();
    }
    text.push('\n');
    network(&mut text, results, plan, plots);
    levels(&mut text, results);
    control_times(&mut text, results, plots);
    web(&mut text, results);
    machines(&mut text, results);
    plots_of(&mut text, plots, "level-");
    if !results.skipped.is_empty() {
        text += "## Not measured\n\n";
        for (what, why) in &results.skipped {
            writeln!(text, "- {what}: {why}").ok();
        }
    }
    text
}

fn plots_of(text: &mut String, plots: &[String], start: &str) {
    for name in plots.iter().filter(|name| name.starts_with(start)) {
        writeln!(text, "![{}]({name})\n", name.trim_end_matches(".svg").replace('-', " ")).ok();
    }
}

fn network(text: &mut String, results: &Results, plan: &Plan, plots: &[String]) {
    text.push_str("## Between two guests, under one emulation\n\n");
    let (rounds, passes) = (plan.rounds, plan.passes);
    let turns = if passes > 1 {
        format!(", for what targets compare (`vhost-user` and `bridge`) in {passes} passes that take turns")
    } else {
        String::new()
    };
    writeln!(
        text,
        "Both are guests of this machine, whatever they stand for: rVMs on the provider's bridge, or iVMs behind a switch \
         in their rVM, which is a namespace, or in two of them with a tunnel between. So the emulation is the same on \
         both sides of every ratio. {rounds} rounds of {} s each{turns}. Cores are processors kept busy; client and \
         server are shares of the guests' own.\n",
        plan.seconds
    )
    .ok();
    let names: Vec<&str> = Peer::ALL.iter().map(|peer| peer.name()).collect();
    let head = |first| [&[first][..], &names[..]].concat();
    for (what, case, metric) in [
        ("Round trips p50, us", RTT, Metric::RttP50),
        ("Round trips p90, us", RTT, Metric::RttP90),
        ("Round trips p99, us", RTT, Metric::RttP99),
        ("TCP goodput, Gbit/s", TCP, Metric::Gbps),
        ("Small packets a second", SMALL, Metric::Pps),
        ("Kicks and calls per small packet", SMALL, Metric::Events),
        ("Kicks and calls per TCP packet", TCP, Metric::Events),
    ] {
        let rows = [Place::Provider, Place::Same, Place::Vxlan].map(|place| {
            let cells =
                names.iter().map(|peer| cell(results, &Key::nested(place.name(), case, *peer, metric)));
            (place.name().to_owned(), cells.collect::<Vec<_>>())
        });
        table(text, &head(what), rows);
    }
    text.push_str("Processor time, in cores:\n\n");
    let places = [Place::Provider, Place::Same, Place::Vxlan].map(Place::name);
    let rows = results
        .iter()
        .filter(|(key, _)| key.part == NESTED && key.metric == Metric::Cores && key.case.contains(": cores"))
        .filter(|(key, _)| places.contains(&key.scenario.as_str()))
        .map(|(key, _)| (key.scenario.clone(), key.case.clone()))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .map(|(scenario, case)| {
            let cells =
                names.iter().map(|peer| cell(results, &Key::nested(&scenario, &case, *peer, Metric::Cores)));
            (format!("{scenario}, {}", case.replace(": cores", "")), cells.collect::<Vec<_>>())
        });
    table(text, &head("cores"), rows);
    plots_of(text, plots, "nested-");
    text.push_str("### Beside Iris\n\n");
    let ours = |case: &str, metric, place: Place, peer: Peer| {
        results.median(&Key::nested(place.name(), case, peer.name(), metric))
    };
    let mut rows = Vec::new();
    for (what, case, metric, published) in [
        ("goodput over rVM-rVM", TCP, Metric::Gbps, &seeds::IRIS_GOODPUT_MBPS),
        ("round trip over rVM-rVM", RTT, Metric::RttP50, &seeds::IRIS_RTT_MS),
    ] {
        let rvm = ours(case, metric, Place::Provider, Peer::Bridge);
        let theirs = both_ways(seeds::value(published, "L2-L2"), seeds::value(published, "L1-L1"));
        for place in [Place::Same, Place::Vxlan] {
            let own = both_ways(ours(case, metric, place, Peer::VhostUser), rvm);
            let bridge = both_ways(ours(case, metric, place, Peer::Bridge), rvm);
            rows.push((format!("{what}, {}", place.name()), vec![own, bridge, theirs.clone()]));
        }
    }
    rows.retain(|(_, cells)| cells[0].is_some());
    table(text, &["ratio", "vhost-user", "bridge", "Iris, L2-L2 over L1-L1"], rows);
}

/// Pairs of levels, in the shape of Iris's tables 4 and 5.
fn levels(text: &mut String, results: &Results) {
    const PAIRS: [(&str, &str); 11] = [
        ("L0-L0", ""),
        ("L0-L1", ""),
        ("L0-L2", ""),
        ("L1-L1", "L1-L1"),
        ("L1-L2", "L1-L2"),
        ("L2-L2", "L2-L2"),
        ("L0-L0 vxlan", ""),
        ("L0-L1 vxlan", ""),
        ("L1-L1 vxlan", ""),
        ("L1-L2 vxlan", ""),
        ("L2-L2 vxlan", ""),
    ];
    // Two guests of this machine behind our switch are L1 with L1.
    let key = |pair: &str, case: &str, peer: Peer, metric| match pair {
        "L1-L1" => Key::nested(Place::Same.name(), case, peer.name(), metric),
        "L1-L1 vxlan" => Key::nested(Place::Vxlan.name(), case, peer.name(), metric),
        _ => Key::nested(pair, case, peer.between_levels(), metric),
    };
    let ours = |pair: &str, case: &str, metric| results.median(&key(pair, case, Peer::VhostUser, metric));
    if PAIRS.iter().all(|(pair, _)| ours(pair, RTT, Metric::RttP50).is_none()) {
        return;
    }
    text.push_str(
        "## Between levels\n\nAn L2 guest here runs in QEMU in an L1 guest, which switches for it; L1 guests hang on our \
         switch at L0. Where both levels are emulated, every instruction of L2 is hundreds of the processor's: **these rows \
         are about the emulator**, and show that the switch works at every level and what remains of a network there; the \
         rows above are about the switch. Rows with L2 have one round. \
         Across VXLAN, L0 is one of two rVMs that are namespaces here; it has no tunnel to the switch in an L1 guest. \
         Where Iris published a pair, its figure and its ratio over L1-L1 stand beside ours.\n\n",
    );
    for (peer, title) in [
        (Peer::VhostUser, "our switch at every level, guests by shared memory"),
        (Peer::Tap, "our switch at every level, guests of L1 by TAPs"),
        (Peer::Bridge, "Linux bridge and kernel vxlan at the level that has the guests"),
        (Peer::Ovs, "Open vSwitch at the level that has the guests"),
    ] {
        let mut rows = Vec::new();
        for (pair, published) in PAIRS {
            let ms = |metric| results.median(&key(pair, RTT, peer, metric)).map(|us| figure(us / 1e3));
            let mbps = |case| results.median(&key(pair, case, peer, Metric::Gbps)).map(|gbps| gbps * 1e3);
            let iris = |list| seeds::value(list, published).filter(|_| peer == Peer::VhostUser);
            let own = |a: Option<f64>, pair: &str, case, metric| {
                both_ways(a, results.median(&key(pair, case, peer, metric)))
            };
            let cells = vec![
                ms(Metric::RttP50),
                ms(Metric::RttP90),
                ms(Metric::RttP99),
                own(results.median(&key(pair, RTT, peer, Metric::RttP50)), "L1-L1", RTT, Metric::RttP50),
                iris(&seeds::IRIS_RTT_MS).map(|ms| format!("{ms}; {:.2}", ms / 0.61)),
                mbps(TCP).map(figure),
                mbps(BACK).map(figure),
                own(results.median(&key(pair, TCP, peer, Metric::Gbps)), "L1-L1", TCP, Metric::Gbps),
                iris(&seeds::IRIS_GOODPUT_MBPS).map(|mbps| format!("{mbps}; {:.2}", mbps / 789.0)),
                results.median(&key(pair, SMALL, peer, Metric::Pps)).map(figure),
            ];
            if cells[0].is_some() {
                rows.push((pair.to_owned(), cells));
            }
        }
        if peer != Peer::VhostUser && rows.iter().all(|(pair, _)| pair.starts_with("L1-L1")) {
            continue;
        }
        writeln!(text, "### With {title}\n").ok();
        let head = [
            "pair",
            "RTT p50, ms",
            "p90",
            "p99",
            "over L1-L1",
            "Iris: ms; over L1-L1",
            "Mbit/s",
            "back",
            "over L1-L1",
            "Iris: Mbit/s; over L1-L1",
            "small packets/s",
        ];
        table(text, &head, rows);
        costs(text, results, &PAIRS.map(|(pair, _)| pair), |pair, case, metric| {
            key(pair, case, peer, metric)
        });
    }
    let answered = Key::nested("L2", nesting::ANSWER, "vhost-user", Metric::Seconds);
    if let Some(seconds) = cell(results, &answered) {
        writeln!(
            text,
            "An L2 guest is booted once at L1 and its state saved; {seconds} s after QEMU was started with that state at L2, \
             its agent had answered. How much slower its processor is stands under *Processors*.\n"
        )
        .ok();
    }
}

/// The costs of the pairs of levels: kicks and calls of both ends, CPU time of every level that takes part.
fn costs(text: &mut String, results: &Results, pairs: &[&str], key: impl Fn(&str, &str, Metric) -> Key) {
    for (case, what) in [(SMALL, "small packets"), (TCP, "TCP")] {
        let rows = pairs.iter().map(|pair| {
            let cores =
                |who: &str| cell(results, &key(pair, &format!("{case}: cores, {who}"), Metric::Cores));
            let mut cells = vec![cell(results, &key(pair, case, Metric::Events))];
            cells.extend(["L0 all", "L0 guests' emulation", "L0 switch", "client", "server"].map(cores));
            ((*pair).to_owned(), cells)
        });
        let pair = format!("{what}, what it costs");
        let head = [
            pair.as_str(),
            "kicks and calls a packet",
            "cores: L0 all",
            "L0, emulation",
            "L0, switch",
            "client",
            "server",
        ];
        table(text, &head, rows);
    }
}

/// Commands from far away, in the shape of Iris's table 2 and figure 5.
fn control_times(text: &mut String, results: &Results, plots: &[String]) {
    let at = |ms: u32, what: &str| {
        cell(results, &Key::nested(control::scenario(ms), what, "vhost-user", Metric::Seconds))
    };
    if control::LATENCIES.iter().all(|ms| at(*ms, control::CREATE).is_none()) {
        return;
    }
    text.push_str(
        "## Commands from afar\n\nTwo rVMs with a link of a chosen latency between them, a relay of our own that keeps each \
         frame for so long. Commands go from one rVM to a shell on the other; the guest starts there, gets a floating IP whose \
         gateway is here, and then migrates here while it is asked something every 5 ms. Seconds; the guest's boot, emulated, \
         is in the first column. Iris deployed with CloudStack, whose server and agent exchange many messages; this is one \
         command. Its figure 5 has migrations of 5 to 90 s, growing with the latency.\n\n",
    );
    let rows = control::LATENCIES.map(|ms| {
        let mut cells: Vec<_> =
            [control::CREATE, control::FLOATING, control::MIGRATION, control::OUTAGE, control::PAUSE]
                .map(|what| at(ms, what))
                .into();
        if cells[0].is_some() {
            let iris = seeds::IRIS_DEPLOY_S.iter().find(|(latency, _)| *latency == f64::from(ms));
            cells.push(iris.map(|(_, s)| figure(*s)));
        }
        (format!("{ms} ms"), cells)
    });
    let head = [
        "one way",
        "guest to first packet",
        "floating IP to first packet",
        "migration",
        "longest silence",
        "QEMU's pause",
        "Iris, table 2a: deployment",
    ];
    table(text, &head, rows);
    plots_of(text, plots, "control-");
}

const LEVELS: [&str; 3] = ["L0", "L1", "L2"];

/// Web pages, in the shape of Nested Cloud's table I.
fn web(text: &mut String, results: &Results) {
    let at = |level: &str, what: &str| {
        results.median(&Key::nested(level, format!("{} {what}", work::WEB), work::PEER, Metric::Seconds))
    };
    if LEVELS.iter().all(|level| at(level, "mean").is_none()) {
        return;
    }
    text.push_str(
        "## Web pages\n\n64 users at L0, each asking one page after the other of a web server with a small database behind \
         it, at each level; seconds of a request. They do not pause, so a request waits for the others before it: it is the \
         server's speed, times 64. Nested Cloud's text says that L2 takes 52.44 % more than L1; by the means of its own table that \
         is L2 over L0, and L2 over L1 is 30.2 %. Both ratios stand here, so that neither is taken for the other.\n\n",
    );
    let rows = LEVELS.map(|level| {
        let means = [at(level, "mean"), at("L1", "mean"), at("L0", "mean")];
        let published = seeds::HTTP_S.iter().find(|(name, _)| *name == level).map(|(_, s)| *s);
        let theirs = |n: usize| published.map(|s| s[0] / seeds::HTTP_S[n].1[0]);
        let mut cells: Vec<_> = ["mean", "p80", "p90"].map(|what| at(level, what).map(figure)).into();
        if cells[0].is_some() {
            cells.extend([
                both_ways(means[0], means[1]),
                both_ways(means[0], means[2]),
                published.map(|s| format!("{} / {} / {}", s[0], s[1], s[2])),
                theirs(1).map(|r| format!("{r:.2}")),
                theirs(0).map(|r| format!("{r:.2}")),
            ]);
        }
        (level.to_owned(), cells)
    });
    let head = [
        "level",
        "mean",
        "80 %",
        "90 %",
        "over L1",
        "over L0",
        "Nested Cloud: mean / 80 % / 90 %",
        "its over L1",
        "its over L0",
    ];
    table(text, &head, rows);
}

/// Disks and processors by level; the processors' in the shape of Iris's table 3.
fn machines(text: &mut String, results: &Results) {
    let at = |level: &str, what: &str, metric| results.median(&Key::nested(level, what, work::PEER, metric));
    let names = |metric: Metric| {
        let all = results.iter().filter(|(key, _)| key.peer == work::PEER && key.metric == metric);
        all.map(|(key, _)| key.case.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    let ratios = |what: &str, metric| {
        let [zero, one, two] = LEVELS.map(|level| at(level, what, metric));
        [both_ways(one, zero), both_ways(two, one), both_ways(two, zero)]
    };
    let row = |what: &str, metric| {
        let mut cells: Vec<_> = LEVELS.map(|level| at(level, what, metric).map(figure)).into();
        cells.extend(ratios(what, metric));
        (what.to_owned(), cells)
    };
    let mut rows: Vec<(String, Vec<Option<String>>)> = Vec::new();
    for (metric, unit) in [(Metric::Ops, "requests/s"), (Metric::MibPerS, "MiB/s")] {
        for what in names(metric).iter().filter(|what| what.contains(" KiB ")) {
            let (_, cells) = row(what, metric);
            rows.push((format!("{what}, {unit}"), cells));
        }
    }
    let head = ["", "L0", "L1", "L2", "L1 over L0", "L2 over L1", "L2 over L0"];
    if !rows.is_empty() {
        text.push_str(
            "## Disks\n\nOne request at a time on 64 MiB: a file at L0, virtio disks above it, each with its page cache \
             (cached) and past it (direct); QEMU caches nothing. Written data is on the disk when the time is taken.\n\n",
        );
        table(text, &head, rows);
    }
    let rows: Vec<_> = seeds::IRIS_UNIXBENCH
        .iter()
        .map(|(what, one, nested)| {
            let (_, mut cells) = row(what, Metric::Ops);
            if cells.iter().any(Option::is_some) {
                cells.push(Some(format!("{one} / {nested}")));
            }
            ((*what).to_owned(), cells)
        })
        .collect();
    if rows.iter().any(|(_, cells)| cells.iter().any(Option::is_some)) {
        text.push_str(
            "## Processors\n\nWhat programs of the UNIX benchmark do, in loops of our own, per second: integer and floating-point \
             arithmetic, a program started, a file copied in small steps, 512 bytes through a pipe, two threads that wake each \
             other, a thread started (theirs: a process), a shell script, 100 system calls. Iris' figures are percent of the \
             physical machine. Under emulation these are about the emulator alone.\n\n",
        );
        let head = [&head[..], &["Iris, table 3b: % at one level / nested"]].concat();
        table(text, &head, rows);
    }
}

/// The differences between two runs.
///
/// # Errors
/// When one of them cannot be read.
pub fn compare(then: &Path, now: &Path) -> Result<String> {
    let (before, then, _) = Results::load(then)?;
    let (after, now, _) = Results::load(now)?;
    Ok(bench::compare::markdown(&before, &then, &after, &now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_said_both_ways() {
        assert_eq!(both_ways(Some(0.5), Some(2.0)).as_deref(), Some("0.25 (4.00 the other way)"));
        assert_eq!(both_ways(Some(0.5), None), None);
        assert_eq!(both_ways(Some(0.0), Some(1.0)), None);
    }

    /// The page needs no other file, and rows without a figure do not appear.
    #[test]
    fn the_page_holds_its_plots() {
        let dir = std::env::temp_dir().join(format!("ivs-nested-page-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let mut results = Results::default();
        for gbps in [0.6, 0.8] {
            results.add(Key::nested(Place::Same.name(), TCP, "tap", Metric::Gbps), gbps);
        }
        let names = draw(&results, &dir).expect("drawn");
        assert_eq!(names, ["nested-tcp.svg"]);
        let mut text = String::from("# Title\n\n");
        table(
            &mut text,
            &["x", "tap"],
            [("none".to_owned(), vec![None]), ("one".to_owned(), vec![Some("1".to_owned())])],
        );
        assert!(!text.contains("none") && text.contains("| one | 1 |"), "{text}");
        plots_of(&mut text, &names, "nested-");
        let html = page(&text, &dir);
        assert!(html.contains("<svg") && html.contains("<table>") && !html.contains("<img"), "{html}");
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn runs_are_compared() {
        let dir = std::env::temp_dir().join(format!("ivs-nested-compare-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let key = Key::nested(Place::Same.name(), TCP, "tap", Metric::Gbps);
        for (name, gbps) in [("a.json", 0.5), ("b.json", 1.0)] {
            let mut results = Results::default();
            results.add(key.clone(), gbps);
            results.store(&dir.join(name), &Facts::default(), "ivbench").expect("stored");
        }
        let text = compare(&dir.join("a.json"), &dir.join("b.json")).expect("compared");
        assert!(text.contains("1 moved") && text.contains("+100.0 %") && text.contains("better"), "{text}");
        assert!(compare(&dir.join("a.json"), &dir.join("none.json")).is_err());
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
