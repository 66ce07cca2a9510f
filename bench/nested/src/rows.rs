//! The rows of a run: each stands alone, is kept when it is done, and is not done again for the same source and
//! settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bench::process::Limit;
use bench::results::{Key, Results};
use serde::{Deserialize, Serialize};

use crate::kit::Kit;
use crate::level::Found;

/// How everything is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How guests run here.
    pub found: Found,
    /// What they boot.
    pub kit: Kit,
    /// Files of what runs.
    pub state: PathBuf,
    /// Each probe, so many times.
    pub rounds: u32,
    /// For so long.
    pub seconds: f64,
    /// What targets compare, all of it so many times.
    pub passes: u32,
}

/// What came of a row.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Of which source and settings it is.
    pub settings: String,
    /// How long it took.
    pub took_s: f64,
    /// Figures, by key.
    pub runs: BTreeMap<String, Vec<f64>>,
    /// Round trips for the plot, by pair and peer.
    pub round_trips: BTreeMap<String, Vec<f64>>,
    /// Why there is nothing.
    pub why: Option<String>,
}

impl Outcome {
    /// Goes on without a part of the row that failed. Why is kept, and the row is tried again.
    pub fn attempt(&mut self, what: &str, part: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(why) = part(self) {
            self.lacks(&format!("{what}: {why:#}"));
        }
    }

    /// Something of the row is not there, for this reason.
    pub fn lacks(&mut self, why: &str) {
        let whys = self.why.get_or_insert_default();
        *whys += if whys.is_empty() { "" } else { "; " };
        *whys += why;
    }

    /// This one, or, where it lacks something, an earlier one that has more.
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

/// What a row does.
pub type Work = Box<dyn Fn(&Plan, &mut Outcome, &Limit) -> Result<()>>;

/// One row.
pub struct Row {
    /// Its name, which is its file's.
    pub id: String,
    /// How long it takes, about, in earnest: with less time left it is not begun.
    pub needs: Duration,
    /// What it does.
    pub work: Work,
}

/// Rows that are done.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    settings: String,
}

impl Store {
    /// In this directory, for this source and these settings.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(dir: &Path, settings: &str) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(Self { dir: dir.into(), settings: settings.into() })
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{}.json", id.replace([' ', '/'], "-")))
    }

    /// What there is of the row for the same source and settings.
    #[must_use]
    pub fn kept(&self, id: &str) -> Option<Outcome> {
        let text = std::fs::read_to_string(self.path(id)).ok()?;
        let outcome: Outcome = serde_json::from_str(&text).ok()?;
        (outcome.settings == self.settings).then_some(outcome)
    }

    /// The row, if all of it was done.
    #[must_use]
    pub fn done(&self, id: &str) -> Option<Outcome> {
        self.kept(id).filter(|outcome| outcome.why.is_none())
    }

    /// Keeps a row. It is whole or it is not there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self, id: &str, outcome: &mut Outcome) -> Result<()> {
        outcome.settings.clone_from(&self.settings);
        let (path, text) = (self.path(id), serde_json::to_string_pretty(outcome)?);
        let draft = path.with_extension("draft");
        std::fs::write(&draft, text + "\n").with_context(|| format!("writing {}", draft.display()))?;
        Ok(std::fs::rename(draft, path)?)
    }
}

/// Puts a row among the others.
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

    /// What is done stays done for the same source and settings, and only for them; what failed is tried again.
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
