//! Differences from the stored baseline. A difference that the spread of both sides' runs cannot explain is reported;
//! all others are only counted.

use std::fmt::Write;

use crate::machine::Facts;
use crate::results::{Key, Results};
use crate::stats::{Change, median};

/// A case that differs from the baseline.
#[derive(Clone, PartialEq, Debug)]
pub struct Moved {
    /// Which case.
    pub key: Key,
    /// The median of the baseline, and the present one.
    pub medians: (f64, f64),
    /// The size of the difference.
    pub change: Change,
    /// Whether it is an improvement.
    pub better: bool,
}

/// All cases that differ, the largest difference first, and how many cases were compared.
#[must_use]
pub fn moved(baseline: &Results, now: &Results) -> (Vec<Moved>, usize) {
    let mut compared = 0;
    let mut all = Vec::new();
    for (key, runs) in now.iter() {
        let before = baseline.runs(key);
        let Some(change) = Change::between(before, runs, key.metric.noise_floor()) else { continue };
        compared += 1;
        if change.is_real() {
            let medians = (median(before).unwrap_or_default(), median(runs).unwrap_or_default());
            let better = (change.share > 0.0) == key.metric.more_is_better();
            all.push(Moved { key: key.clone(), medians, change, better });
        }
    }
    all.sort_by(|a, b| a.better.cmp(&b.better).then(b.change.share.abs().total_cmp(&a.change.share.abs())));
    (all, compared)
}

/// The comparison as Markdown.
#[must_use]
pub fn markdown(baseline: &Results, then: &Facts, now: &Results, here: &Facts) -> String {
    let mut text = String::new();
    if !then.is_like(here) {
        let words = "The baseline is of another machine or kernel, so nothing can be said of what moved";
        writeln!(text, "{words} ({}, kernel {}).", then.cpu, then.kernel).ok();
        return text;
    }
    let (all, compared) = moved(baseline, now);
    let words = "figures compared with the baseline";
    writeln!(
        text,
        "{compared} {words} of {} ({}); {} moved beyond the noise.",
        then.commit,
        then.when,
        all.len()
    )
    .ok();
    if !all.is_empty() {
        writeln!(text, "\n| figure | then | now | change | noise | |\n|---|---:|---:|---:|---:|---|").ok();
    }
    for m in all {
        let word = if m.better { "better" } else { "**worse**" };
        writeln!(
            text,
            "| {} | {} | {} | {:+.1} % | {:.1} % | {word} |",
            m.key,
            crate::report::figure(m.medians.0),
            crate::report::figure(m.medians.1),
            m.change.share * 100.0,
            m.change.noise * 100.0
        )
        .ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Metric;

    fn with(cases: &[(&str, Metric, &[f64])]) -> Results {
        let mut results = Results::default();
        for (case, metric, runs) in cases {
            for run in *runs {
                results.add(Key::memory("l2", *case, "ivswitch", *metric), *run);
            }
        }
        results
    }

    /// The metric decides whether a larger value is better. Differences within the noise and cases that only one side
    /// has are not reported.
    #[test]
    fn what_moved_is_said_and_noise_is_not() {
        let then = with(&[
            ("slower", Metric::Ns, &[20.0, 20.2]),
            ("more", Metric::Pps, &[500_000.0, 505_000.0]),
            ("noisy", Metric::Pps, &[500_000.0, 800_000.0]),
            ("gone", Metric::Ns, &[1.0]),
        ]);
        let now = with(&[
            ("slower", Metric::Ns, &[26.0, 26.2]),
            ("more", Metric::Pps, &[900_000.0, 905_000.0]),
            ("noisy", Metric::Pps, &[700_000.0, 760_000.0]),
            ("new", Metric::Ns, &[1.0]),
        ]);
        let (all, compared) = moved(&then, &now);
        assert_eq!(compared, 3);
        let said: Vec<_> = all.iter().map(|m| (m.key.case.as_str(), m.better)).collect();
        assert_eq!(said, [("slower", false), ("more", true)]);
        let facts = Facts { commit: "abc".into(), ..Facts::default() };
        let text = markdown(&then, &facts, &now, &facts);
        assert!(text.contains("2 moved") && text.contains("**worse**"), "{text}");
        let elsewhere = Facts { kernel: "other".into(), ..Facts::default() };
        assert!(markdown(&then, &elsewhere, &now, &facts).contains("another machine"));
    }
}
