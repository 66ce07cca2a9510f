//! The plots, as SVG: ns by walk and number of flows, packets per second by scenario and peer, round trips as
//! cumulative shares.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::memory::{Case, SIZES, ovs};
use crate::results::{Key, Metric, Results, WIRE};
use crate::walk::Kind;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line or a row of bars: its name and its points.
pub type Series = (String, Vec<(f64, f64)>);

/// One bar.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bar {
    /// The number of its group.
    pub group: usize,
    /// Its height.
    pub value: f64,
    /// The lowest and the highest run, drawn as a line where they differ.
    pub spread: (f64, f64),
}

/// The scale of the horizontal axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Logarithmic from the smallest value on.
    Logarithmic,
    /// Logarithmic, with a mark at every point.
    LogarithmicWithMarks,
    /// Linear from zero on, with a mark at every point.
    Linear,
}

const COLOURS: [RGBColor; 10] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(23, 190, 207),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(127, 127, 127),
    RGBColor(188, 189, 34),
];

const fn colour(n: usize) -> RGBColor {
    COLOURS[n % COLOURS.len()]
}

/// Draws every plot for which there are figures into `directory`; gives the files.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(results: &Results, directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut file = |name: &str| {
        let path = directory.join(name);
        files.push(path.clone());
        path
    };
    let walks = walks(results);
    if !walks.is_empty() {
        lines(
            &file("walks.svg"),
            "In memory, 64-byte frames",
            "flows, each with a station",
            "ns per packet",
            &walks,
            Scale::LogarithmicWithMarks,
        )?;
    }
    let (scenarios, peers) = pps(results);
    if !scenarios.is_empty() {
        let title = "Delivered packets per second, 60-byte frames";
        bars(&file("pps.svg"), title, "packets per second", &scenarios, &peers)?;
    }
    let mut by_case: BTreeMap<(String, String), Vec<Series>> = BTreeMap::new();
    for (key, sorted) in &results.round_trips {
        let [scenario, case, peer] = key.split('/').collect::<Vec<_>>()[..] else { continue };
        let count = sorted.len() as f64;
        let points = sorted.iter().enumerate().map(|(i, us)| (*us, (i + 1) as f64 / count)).collect();
        by_case.entry((scenario.into(), case.into())).or_default().push((peer.into(), points));
    }
    for ((scenario, case), series) in by_case {
        let title = format!("Round trips, {scenario}, {case}: share that is faster");
        let name = format!("latency-{scenario}-{}.svg", case.replace(' ', "-"));
        lines(&file(&name), &title, "us", "share", &series, Scale::Logarithmic)?;
    }
    Ok(files)
}

fn walks(results: &Results) -> Vec<Series> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let at = |flows: u32| {
            let ns = results.median(&Case::each(kind, 64, flows).key(Metric::Ns))?;
            Some((f64::from(flows), ns))
        };
        all.push((kind.name().to_string(), SIZES.into_iter().filter_map(at).collect::<Vec<_>>()));
    }
    for kind in [Kind::L2, Kind::Encap, Kind::Decap, Kind::FipInGateway] {
        let at = |flows: u32| Some((f64::from(flows), results.median(&ovs::key(kind.name(), flows))?));
        let points: Vec<_> = ovs::FLOWS.into_iter().filter_map(at).collect();
        all.push((format!("ovs {}", kind.name()), points));
    }
    all.retain(|(_, points)| !points.is_empty());
    all
}

/// Names of the scenarios, and for each peer a bar in every scenario that it was measured in.
fn pps(results: &Results) -> (Vec<String>, Vec<(String, Vec<Bar>)>) {
    let mut scenarios: Vec<String> = Vec::new();
    let mut peers: BTreeMap<String, Vec<Bar>> = BTreeMap::new();
    let shown = |key: &Key| key.part == WIRE && key.metric == Metric::Pps && key.case.ends_with(" live");
    for (key, _) in results.iter().filter(|(key, _)| shown(key)) {
        let name = format!("{} {}", key.scenario, key.case.trim_end_matches(" live"));
        let at = scenarios.iter().position(|s| *s == name).unwrap_or_else(|| {
            scenarios.push(name);
            scenarios.len() - 1
        });
        let value = results.median(key).unwrap_or_default();
        peers.entry(key.peer.clone()).or_default().push(Bar { group: at, value, spread: (value, value) });
    }
    (scenarios, peers.into_iter().collect())
}

fn bounds(series: &[Series], coordinate: impl Fn(&(f64, f64)) -> f64) -> (f64, f64) {
    let values = || series.iter().flat_map(|(_, points)| points.iter().map(&coordinate));
    (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
}

fn canvas(path: &Path) -> Result<Area<'_>> {
    let area = SVGBackend::new(path, (960, 600)).into_drawing_area();
    area.fill(&WHITE).map_err(|e| anyhow!("drawing {}: {e}", path.display()))?;
    Ok(area)
}

/// Draws lines.
///
/// # Errors
/// When the file cannot be written.
pub fn lines(path: &Path, title: &str, x: &str, y: &str, series: &[Series], scale: Scale) -> Result<()> {
    let (left, right) = bounds(series, |p| p.0);
    let left = left.max(0.1);
    let words = [title, x, y];
    match scale {
        Scale::Linear => lines_on(path, words, series, 0.0..right.max(1.0), true),
        _ => {
            let range = (left..right.max(left * 2.0)).log_scale();
            lines_on(path, words, series, range, scale == Scale::LogarithmicWithMarks)
        }
    }
}

fn lines_on<X>(path: &Path, [title, x, y]: [&str; 3], series: &[Series], range: X, marks: bool) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let failed = |e: &dyn std::fmt::Display| anyhow!("drawing {}: {e}", path.display());
    let area = canvas(path)?;
    let (_, top) = bounds(series, |p| p.1);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(range, 0.0..top * 1.05)
        .map_err(|e| failed(&e))?;
    chart.configure_mesh().x_desc(x).y_desc(y).light_line_style(WHITE).draw().map_err(|e| failed(&e))?;
    for (n, (name, points)) in series.iter().enumerate() {
        let style = colour(n).stroke_width(2);
        let line =
            chart.draw_series(LineSeries::new(points.iter().copied(), style)).map_err(|e| failed(&e))?;
        line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        if marks {
            let dots = points.iter().map(|point| Circle::new(*point, 3, colour(n).filled()));
            chart.draw_series(dots).map_err(|e| failed(&e))?;
        }
    }
    let labels = &mut chart.configure_series_labels();
    let labels = labels.position(SeriesLabelPosition::UpperLeft).border_style(BLACK.mix(0.3));
    labels.background_style(WHITE.mix(0.8)).draw().map_err(|e| failed(&e))?;
    area.present().map_err(|e| failed(&e))
}

/// Draws groups of bars.
///
/// # Errors
/// When the file cannot be written.
pub fn bars(
    path: &Path,
    title: &str,
    y: &str,
    groups: &[String],
    series: &[(String, Vec<Bar>)],
) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| anyhow!("drawing {}: {e}", path.display());
    let area = canvas(path)?;
    let top =
        series.iter().flat_map(|(_, bars)| bars).map(|bar| bar.spread.1.max(bar.value)).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..groups.len() as f64, 0.0..top * 1.25)
        .map_err(|e| failed(&e))?;
    let named =
        |x: &f64| groups.get(x.floor() as usize).filter(|_| x.fract() > 0.4 && x.fract() < 0.6).cloned();
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_labels(groups.len() * 2 + 1)
        .x_label_formatter(&|x| named(x).unwrap_or_default())
        .y_desc(y)
        .y_label_formatter(&|y| crate::report::figure(*y))
        .draw()
        .map_err(|e| failed(&e))?;
    let width = 0.9 / series.len() as f64;
    for (n, (name, points)) in series.iter().enumerate() {
        let left = |bar: &Bar| bar.group as f64 + 0.05 + n as f64 * width;
        let spread = |bar: &Bar| {
            let middle = left(bar) + width * 0.46;
            PathElement::new([(middle, bar.spread.0), (middle, bar.spread.1)], BLACK.mix(0.7))
        };
        let bar = |bar: &Bar| {
            Rectangle::new([(left(bar), 0.0), (left(bar) + width * 0.92, bar.value)], colour(n).filled())
        };
        let drawn = chart.draw_series(points.iter().map(bar)).map_err(|e| failed(&e))?;
        drawn
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour(n).filled()));
        chart.draw_series(points.iter().map(spread)).map_err(|e| failed(&e))?;
    }
    let labels = &mut chart.configure_series_labels();
    let labels = labels.position(SeriesLabelPosition::UpperRight).border_style(BLACK.mix(0.3));
    labels.background_style(WHITE.mix(0.8)).draw().map_err(|e| failed(&e))?;
    area.present().map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_are_drawn_of_what_there_is() {
        let dir = std::env::temp_dir().join(format!("ivs-bench-plot-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        let mut results = Results::default();
        assert_eq!(draw(&results, &dir).expect("nothing to draw").len(), 0);
        for (flows, ns) in [(1, 19.0), (1_000_000, 30.0)] {
            results.add(Case::each(Kind::L2, 64, flows).key(Metric::Ns), ns);
        }
        results.add(Key::wire("l2", "fwd live", "kernel", Metric::Pps), 600_000.0);
        results.round_trips.insert("l2/ping-pong/kernel".into(), vec![40.0, 50.0, 90.0]);
        let files = draw(&results, &dir).expect("drawn");
        assert_eq!(files.len(), 3);
        for (file, word) in files.iter().zip(["ns per packet", "l2 fwd", "kernel"]) {
            let svg = std::fs::read_to_string(file).expect("written");
            assert!(svg.contains("<svg") && svg.contains(word), "{}: {word} is not in it", file.display());
        }
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
