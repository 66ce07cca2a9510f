//! The results: keys, their runs, and the measurements that were skipped. They are written to disk after every step,
//! so that an interrupted run keeps its figures.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Facts;
use crate::stats;

/// A kind of figure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Metric {
    /// Nanoseconds for one packet.
    Ns,
    /// Nanoseconds for one packet, with copying in and taking off the queue.
    LoopNs,
    /// Instructions for one packet, by callgrind.
    Instructions,
    /// Heap allocations for one packet.
    Allocations,
    /// Bytes of memory for one entry.
    Bytes,
    /// Operations per second.
    Ops,
    /// Packets per second that arrived.
    Pps,
    /// Packets per second with under 0.5 % loss.
    LossFree,
    /// Nanoseconds of the switch's core for one packet that arrived.
    CoreNs,
    /// Nanoseconds of all cores for one packet that arrived, including the generator's work.
    AllNs,
    /// TCP goodput.
    Gbps,
    /// Seconds of all cores for one gigabyte of TCP.
    CpuPerGb,
    /// Round-trip time that half of them stay under.
    RttP50,
    /// Round-trip time that 99 of 100 stay under.
    RttP99,
    /// Cores' worth of CPU time.
    Cores,
    /// A share of a whole.
    Share,
    /// Round-trip time that 9 of 10 stay under.
    RttP90,
    /// Kicks and calls (interrupts) of both NICs for one packet.
    Events,
    /// Seconds that an action took.
    Seconds,
    /// Mebibytes per second of a disk.
    MibPerS,
}

impl Metric {
    const ALL: [Self; 20] = [
        Self::Ns,
        Self::LoopNs,
        Self::Instructions,
        Self::Allocations,
        Self::Bytes,
        Self::Ops,
        Self::Pps,
        Self::LossFree,
        Self::CoreNs,
        Self::AllNs,
        Self::Gbps,
        Self::CpuPerGb,
        Self::RttP50,
        Self::RttP99,
        Self::Cores,
        Self::Share,
        Self::RttP90,
        Self::Events,
        Self::Seconds,
        Self::MibPerS,
    ];

    /// The name in keys.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::LoopNs => "loop_ns",
            Self::Instructions => "instructions",
            Self::Allocations => "allocations",
            Self::Bytes => "bytes",
            Self::Ops => "ops",
            Self::Pps => "pps",
            Self::LossFree => "loss_free_pps",
            Self::CoreNs => "core_ns",
            Self::AllNs => "all_ns",
            Self::Gbps => "gbps",
            Self::CpuPerGb => "cpu_s_per_gb",
            Self::RttP50 => "rtt_p50_us",
            Self::RttP99 => "rtt_p99_us",
            Self::Cores => "cores",
            Self::Share => "share",
            Self::RttP90 => "rtt_p90_us",
            Self::Events => "events",
            Self::Seconds => "seconds",
            Self::MibPerS => "mib_per_s",
        }
    }

    /// Whether larger values are better.
    #[must_use]
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::Ops | Self::Pps | Self::LossFree | Self::Gbps | Self::Share | Self::MibPerS)
    }

    /// The noise below which more runs do not help, as a share: the same case was seen to vary by this much
    /// between runs on an otherwise idle virtual machine.
    #[must_use]
    pub const fn noise_floor(self) -> f64 {
        match self {
            Self::Instructions | Self::Allocations | Self::Bytes => 0.001,
            Self::Ns | Self::LoopNs | Self::Ops => 0.05,
            Self::Share | Self::Cores => 0.10,
            Self::Pps | Self::LossFree | Self::CoreNs | Self::AllNs | Self::Gbps | Self::CpuPerGb => 0.10,
            Self::MibPerS => 0.10,
            Self::RttP50 | Self::RttP90 | Self::RttP99 | Self::Events | Self::Seconds => 0.20,
        }
    }
}

/// The key of a figure.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    /// `memory`, `wire` or `nested`.
    pub part: &'static str,
    /// The walk or the scenario.
    pub scenario: String,
    /// The other parameters, such as size, direction, source.
    pub case: String,
    /// The peer that was measured.
    pub peer: String,
    /// The kind of figure.
    pub metric: Metric,
}

/// The part in memory.
pub const MEMORY: &str = "memory";
/// The part on real interfaces.
pub const WIRE: &str = "wire";
/// The part between guests and levels of nesting.
pub const NESTED: &str = "nested";
/// The switch under test, with its default settings.
pub const OURS: &str = "ivswitch";

impl Key {
    /// A key of the part in memory.
    #[must_use]
    pub fn memory(
        scenario: impl Into<String>,
        case: impl Into<String>,
        peer: impl Into<String>,
        metric: Metric,
    ) -> Self {
        Self { part: MEMORY, scenario: scenario.into(), case: case.into(), peer: peer.into(), metric }
    }

    /// A key of the part on real interfaces.
    #[must_use]
    pub fn wire(
        scenario: impl Into<String>,
        case: impl Into<String>,
        peer: impl Into<String>,
        metric: Metric,
    ) -> Self {
        Self { part: WIRE, scenario: scenario.into(), case: case.into(), peer: peer.into(), metric }
    }

    /// A key of the nested benchmark.
    #[must_use]
    pub fn nested(
        scenario: impl Into<String>,
        case: impl Into<String>,
        peer: impl Into<String>,
        metric: Metric,
    ) -> Self {
        Self { part: NESTED, scenario: scenario.into(), case: case.into(), peer: peer.into(), metric }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}/{}", self.part, self.scenario, self.case, self.peer, self.metric.name())
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [part, scenario, case, peer, metric] = text.split('/').collect::<Vec<_>>()[..] else {
            return Err(format!("key {text:?}: not five parts"));
        };
        let part = [MEMORY, WIRE, NESTED]
            .into_iter()
            .find(|p| *p == part)
            .ok_or(format!("key {text:?}: no part"))?;
        let metric = Metric::ALL
            .into_iter()
            .find(|m| m.name() == metric)
            .ok_or(format!("key {text:?}: no metric {metric:?}"))?;
        Ok(Self { part, scenario: scenario.into(), case: case.into(), peer: peer.into(), metric })
    }
}

/// Every figure of a run of the benchmark.
#[derive(Clone, Debug, Default)]
pub struct Results {
    runs: BTreeMap<Key, Vec<f64>>,
    /// Measurements that were impossible, and why.
    pub skipped: BTreeMap<String, String>,
    /// Round trips for the latency plot, by case and peer: a few hundred sorted values each.
    pub round_trips: BTreeMap<String, Vec<f64>>,
    journal: Option<PathBuf>,
}

/// [`Results`] as a file.
#[derive(Serialize, Deserialize)]
struct File {
    machine: Facts,
    #[serde(default)]
    command: String,
    #[serde(default)]
    skipped: BTreeMap<String, String>,
    runs: BTreeMap<String, Vec<f64>>,
}

impl Results {
    /// Results that are also written to `journal` as they arrive.
    #[must_use]
    pub fn kept_in(journal: PathBuf) -> Self {
        Self { journal: Some(journal), ..Self::default() }
    }

    /// Adds one run.
    pub fn add(&mut self, key: Key, value: f64) {
        if let Some(journal) = &self.journal {
            use std::io::Write;
            let line = serde_json::json!({ "key": key.to_string(), "value": value });
            let open = std::fs::OpenOptions::new().create(true).append(true).open(journal);
            if let Ok(mut file) = open {
                writeln!(file, "{line}").ok();
            }
        }
        self.runs.entry(key).or_default().push(value);
    }

    /// Notes that a measurement was skipped. The first reason stays.
    pub fn skip(&mut self, what: impl Into<String>, why: impl fmt::Display) {
        let (what, why) = (what.into(), why.to_string());
        eprintln!("   skipped: {what}: {why}");
        self.skipped.entry(what).or_insert(why);
    }

    /// The runs of a case.
    #[must_use]
    pub fn runs(&self, key: &Key) -> &[f64] {
        self.runs.get(key).map_or(&[], Vec::as_slice)
    }

    /// The median of a case.
    #[must_use]
    pub fn median(&self, key: &Key) -> Option<f64> {
        stats::median(self.runs(key))
    }

    /// All runs by key, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &[f64])> {
        self.runs.iter().map(|(key, runs)| (key, runs.as_slice()))
    }

    /// True if nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Writes the results with the facts of the machine.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn store(&self, path: &Path, machine: &Facts, command: &str) -> Result<()> {
        let file = File {
            machine: machine.clone(),
            command: command.to_string(),
            skipped: self.skipped.clone(),
            runs: self.runs.iter().map(|(key, runs)| (key.to_string(), runs.clone())).collect(),
        };
        let text = serde_json::to_string_pretty(&file)?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }

    /// Reads a file that [`Results::store`] wrote. Keys of an older version are left out.
    ///
    /// # Errors
    /// When the file cannot be read, or has another format.
    pub fn load(path: &Path) -> Result<(Self, Facts, String)> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let file: File =
            serde_json::from_str(&text).with_context(|| format!("{} is not of this tool", path.display()))?;
        let runs = file.runs.into_iter().filter_map(|(key, runs)| Some((key.parse().ok()?, runs))).collect();
        let results = Self { runs, skipped: file.skipped, ..Self::default() };
        Ok((results, file.machine, file.command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_they_are_written() {
        for metric in Metric::ALL {
            let key = Key::wire("vtep", "encap live", "ovs-afxdp", metric);
            assert_eq!(key.to_string().parse::<Key>(), Ok(key));
        }
        for bad in ["", "memory/l2/x/y", "memory/l2/x/y/furlongs", "moon/l2/x/y/ns", "memory/a/b/c/d/ns"] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }

    /// A run that is cut off leaves all its values in the journal, and the file can be read back.
    #[test]
    fn results_survive() {
        let dir = std::env::temp_dir().join(format!("ivs-bench-test-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        let journal = dir.join("journal.jsonl");
        let mut results = Results::kept_in(journal.clone());
        let key = Key::memory("l2", "64 B 1 flows", OURS, Metric::Ns);
        results.add(key.clone(), 20.5);
        results.add(key.clone(), 21.5);
        let lines = std::fs::read_to_string(&journal).expect("written at once");
        assert_eq!(lines.lines().count(), 2);
        assert!(lines.contains("\"value\":21.5"), "{lines}");
        let file = dir.join("results.json");
        results.store(&file, &Facts::default(), "bench").expect("stored");
        let (back, _, command) = Results::load(&file).expect("loaded");
        assert_eq!((back.median(&key), command.as_str()), (Some(21.0), "bench"));
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
