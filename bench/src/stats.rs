//! The runs of a case in a few numbers, and whether two cases differ.
//!
//! A case is run several times, alternating with the cases that it is compared with. Its figure is the median; its
//! spread is half of the distance between the lowest and the highest run, as a share of the median. Two cases
//! differ only if their medians are further apart than both spreads together and than the noise floor of this kind of
//! measurement: below that, neither counts as faster.

/// The median. Of an even number of runs, it is the mean of the two in the middle; without runs, `None`.
#[must_use]
pub fn median(runs: &[f64]) -> Option<f64> {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(sorted[n / 2]),
        _ => Some(f64::midpoint(sorted[n / 2 - 1], sorted[n / 2])),
    }
}

/// Half of the distance from the lowest to the highest run, as a share of the median.
#[must_use]
pub fn half_spread(runs: &[f64]) -> f64 {
    let Some(middle) = median(runs).filter(|m| *m != 0.0) else { return 0.0 };
    let low = runs.iter().copied().fold(f64::INFINITY, f64::min);
    let high = runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    ((high - low) / 2.0 / middle).abs()
}

/// The value that a share `p` of the runs stays below, `p` from 0 to 1, by nearest rank.
#[must_use]
pub fn percentile(sorted: &[f64], p: f64) -> Option<f64> {
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// The change from one case to another.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Change {
    /// New median over old median, less one.
    pub share: f64,
    /// The difference that may be noise.
    pub noise: f64,
}

impl Change {
    /// Compares the runs of two cases; `floor` is the least noise. `None` where one has no
    /// runs, or the old median is zero.
    #[must_use]
    pub fn between(old: &[f64], new: &[f64], floor: f64) -> Option<Self> {
        let (before, after) = (median(old).filter(|m| *m != 0.0)?, median(new)?);
        let noise = (half_spread(old) + half_spread(new)).max(floor);
        Some(Self { share: after / before - 1.0, noise })
    }

    /// Whether the difference is larger than the noise.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.share.abs() > self.noise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
        assert!((half_spread(&[90.0, 100.0, 120.0]) - 0.15).abs() < 1e-9);
        assert_eq!(half_spread(&[7.0]), 0.0);
        assert_eq!(half_spread(&[0.0, 0.0]), 0.0);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let all: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&all, 0.5), Some(50.0));
        assert_eq!(percentile(&all, 0.99), Some(99.0));
        assert_eq!(percentile(&all, 0.0), Some(1.0));
        assert_eq!(percentile(&all, 1.0), Some(100.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    /// Ten percent apart is within the noise if the runs scatter by eight percent each, and a difference if they
    /// scatter by one. A difference below the floor never counts.
    #[test]
    fn differences_below_the_noise_are_none() {
        let wide = Change::between(&[92.0, 100.0, 108.0], &[101.0, 110.0, 118.0], 0.02).expect("both ran");
        assert!(!wide.is_real(), "{wide:?}");
        let narrow = Change::between(&[99.0, 100.0, 101.0], &[109.0, 110.0, 111.0], 0.02).expect("both ran");
        assert!(narrow.is_real() && (narrow.share - 0.1).abs() < 1e-9, "{narrow:?}");
        let floor = Change::between(&[100.0], &[110.0], 0.2).expect("both ran");
        assert!(!floor.is_real(), "one run each says nothing of the spread: the floor does");
        assert_eq!(Change::between(&[], &[1.0], 0.0), None);
        assert_eq!(Change::between(&[0.0], &[1.0], 0.0), None);
    }
}
