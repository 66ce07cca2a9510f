//! The rows of a run: each is independent of the others, is kept when it is done, and is not repeated for the same
//! source and settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bench::process::Limit;
use bench::results::{Key, Results};
use serde::{Deserialize, Serialize};

use crate::kit::Kit;
use crate::level::Found;

/// The settings of all measurements.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How guests run here.
    pub found: Found,
    /// The images that they boot.
    pub kit: Kit,
    /// The directory for files of running programs.
    pub state: PathBuf,
    /// How often each probe is repeated.
    pub rounds: u32,
    /// Seconds of each probe.
    pub seconds: f64,
    /// How often figures that targets compare are measured, in turns.
    pub passes: u32,
}

/// The result of a row.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The source and settings that it belongs to.
    pub settings: String,
    /// How long the row took.
    pub took_s: f64,
    /// Figures, by key.
    pub runs: BTreeMap<String, Vec<f64>>,
    /// Round trips for the plot, by pair and peer.
    pub round_trips: BTreeMap<String, Vec<f64>>,
    /// The reasons for missing figures.
    pub why: Option<String>,
}

impl Outcome {
    /// Runs a part of the row, and goes on if it fails. The reason is kept, and the row will be tried again.
    pub fn attempt(&mut self, what: &str, part: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(why) = part(self) {
            self.lacks(&format!("{what}: {why:#}"));
        }
    }

    /// Notes that a part of the row is missing, for this reason.
    pub fn lacks(&mut self, why: &str) {
        let whys = self.why.get_or_insert_default();
        *whys += if whys.is_empty() { "" } else { "; " };
        *whys += why;
    }

    /// This result, or, if it is incomplete, an earlier one that has more figures.
    #[must_use]
    pub fn or_fuller(self, before: Option<Self>) -> Self {
        let fuller = |before: &Self| self.why.is_some() && before.runs.len() > self.runs.len();
        before.filter(fuller).unwrap_or(self)
    }

    /// Adds one figure.
    pub fn add(&mut self, key: Key, value: f64) {
        self.runs.entry(key.to_string()).or_default().push(value);
    }
}

/// The measurement of a row.
pub type Work = Box<dyn Fn(&Plan, &mut Outcome, &Limit) -> Result<()>>;

/// One row.
pub struct Row {
    /// The row's name, which its file has too.
    pub id: String,
    /// About how long a full run of the row takes: with less time left it is not started.
    pub needs: Duration,
    /// The measurement.
    pub work: Work,
}

/// The rows that are done.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    settings: String,
}

impl Store {
    /// Opens the store in this directory, for this source and these settings.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(dir: &Path, settings: &str) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(Self { dir: dir.into(), settings: settings.into() })
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{}.json", id.replace([' ', '/'], "-")))
    }

    /// The result of the row for the same source and settings, complete or not.
    #[must_use]
    pub fn kept(&self, id: &str) -> Option<Outcome> {
        let text = std::fs::read_to_string(self.path(id)).ok()?;
        let outcome: Outcome = serde_json::from_str(&text).ok()?;
        (outcome.settings == self.settings).then_some(outcome)
    }

    /// The result of the row, if it is complete.
    #[must_use]
    pub fn done(&self, id: &str) -> Option<Outcome> {
        self.kept(id).filter(|outcome| outcome.why.is_none())
    }

    /// Writes the result of a row, completely or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, id: &str, outcome: &mut Outcome) -> Result<()> {
        outcome.settings.clone_from(&self.settings);
        let (path, text) = (self.path(id), serde_json::to_string_pretty(outcome)?);
        let draft = path.with_extension("draft");
        std::fs::write(&draft, text + "\n").with_context(|| format!("writing {}", draft.display()))?;
        Ok(std::fs::rename(draft, path)?)
    }
}

/// Adds a row's figures to the others.
pub fn merge(results: &mut Results, id: &str, outcome: &Outcome) {
    for (key, values) in &outcome.runs {
        if let Ok(key) = key.parse::<Key>() {
            for value in values {
                results.add(key.clone(), *value);
            }
        }
    }
    results.round_trips.extend(outcome.round_trips.clone());
    if let Some(why) = &outcome.why {
        results.skipped.insert(id.into(), why.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bench::results::Metric;

    /// A row that is done is kept for the same source and settings, and only for them; one that failed is tried
    /// again.
    #[test]
    fn a_row_is_done_once() {
        let dir = std::env::temp_dir().join(format!("ivs-nested-rows-{}", std::process::id()));
        let store = Store::open(&dir, "abc quick").expect("a directory");
        let key = Key::nested("L1-L1", "tcp", "tap", Metric::Gbps);
        let mut outcome = Outcome::default();
        outcome.attempt("tcp", |outcome| {
            outcome.add(key.clone(), 0.7);
            Ok(())
        });
        store.keep("same rVM/tap", &mut outcome).expect("written");
        let back = store.done("same rVM/tap").expect("there");
        let mut results = Results::default();
        merge(&mut results, "same rVM/tap", &back);
        assert_eq!(results.median(&key), Some(0.7));
        assert!(store.done("another").is_none());
        assert!(Store::open(&dir, "abd quick").expect("a directory").done("same rVM/tap").is_none());
        for part in ["rtt", "small"] {
            outcome.attempt(part, |_| anyhow::bail!("no guest"));
        }
        assert_eq!(outcome.why.as_deref(), Some("rtt: no guest; small: no guest"));
        store.keep("same rVM/tap", &mut outcome).expect("written");
        assert!(store.done("same rVM/tap").is_none(), "what failed is tried again");
        assert_eq!(store.kept("same rVM/tap").map(|row| row.runs), Some(outcome.runs), "with what there is");
        let failed = || Outcome { why: Some("no guest".into()), ..Outcome::default() };
        assert_eq!(failed().or_fuller(store.kept("same rVM/tap")).runs.len(), 1, "more than nothing");
        assert!(Outcome::default().or_fuller(store.kept("same rVM/tap")).why.is_none(), "a whole row stands");
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
