//! The part in memory: nanoseconds, instructions, allocations and bytes of the production switch without I/O,
//! next to Open vSwitch's userspace datapath without I/O ([`ovs`]).
//!
//! Rounds alternate: every case of ours, then the peer's, then again. A case is set up once per round (a million
//! flows take a second or two), warmed up, and timed several times; the median of those times is the round's run.

pub mod callgrind;
pub mod extras;
pub mod ovs;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::machine::pinned;
use crate::process::Limit;
use crate::results::{Key, Metric, OURS, Results};
use crate::stats::median;
use crate::walk::{Kind, Walk};

/// How much of the part to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// At most a few minutes, with fewer cases.
    pub quick: bool,
    /// Rounds of every case.
    pub rounds: u32,
}

/// One size of one walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// The walk.
    pub kind: Kind,
    /// Bytes of the frame without any outer header.
    pub len: usize,
    /// Number of flows: frames with different headers.
    pub flows: u32,
    /// Number of stations (MACs, floating IPs) that they go to.
    pub stations: u32,
}

impl Case {
    /// As many stations as flows, or as many as the kind allows: the hardest case.
    #[must_use]
    pub fn each(kind: Kind, len: usize, flows: u32) -> Self {
        Self { kind, len, flows, stations: flows.min(kind.stations_max()) }
    }

    /// Many flows among at most a thousand stations, as between the guests of one network.
    #[must_use]
    pub fn shared(kind: Kind, flows: u32) -> Self {
        Self { kind, len: 64, flows, stations: flows.min(1000) }
    }

    /// The key of this case.
    #[must_use]
    pub fn key(&self, metric: Metric) -> Key {
        let case = format!("{} B, {} flows, {} stations", self.len, self.flows, self.stations);
        Key::memory(self.kind.name(), case, OURS, metric)
    }
}

/// The numbers of flows in the tables.
pub const SIZES: [u32; 6] = [1, 64, 1_000, 10_000, 100_000, 1_000_000];

impl Plan {
    /// The cases of a round, in order.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for kind in Kind::ALL {
            for flows in SIZES {
                let large = flows > 10_000;
                if !self.quick || !large || matches!(kind, Kind::L2 | Kind::Encap | Kind::FipInGateway) {
                    cases.push(Case::each(kind, 64, flows));
                }
                if !self.quick || flows == 64 {
                    cases.push(Case::each(kind, 1500, flows));
                }
                if flows > 1000
                    && !matches!(kind, Kind::Flood | Kind::Drop)
                    && (!self.quick || flows > 500_000)
                {
                    cases.push(Case::shared(kind, flows));
                }
            }
        }
        cases
    }
}

/// Runs the part. Measurements that cannot run are noted in `results`; only a broken setup of our own is an error.
///
/// # Errors
/// A result that proves the benchmark itself wrong, such as a walk that drops frames it should forward.
pub fn run(plan: &Plan, scripts: &Path, state: &Path, limit: &Limit, results: &mut Results) -> Result<()> {
    for round in 1..=plan.rounds {
        eprintln!("== in memory, round {round} of {}", plan.rounds);
        pinned(|| walks(plan, limit, results))?;
        ovs::run(plan.quick, scripts, state, limit, results);
    }
    for round in 1..=plan.rounds {
        eprintln!("== workers, floods, control operations, round {round} of {}", plan.rounds);
        extras::run(plan.quick, limit, results);
    }
    callgrind::run(plan.quick, state, limit, results);
    Ok(())
}

fn walks(plan: &Plan, limit: &Limit, results: &mut Results) -> Result<()> {
    let mut told = None;
    for case in plan.cases() {
        if let Err(why) = limit.spare(Duration::from_secs(5)) {
            results.skip(format!("{}, {} flows", case.kind.name(), case.flows), why);
            continue;
        }
        if told != Some(case.kind) {
            eprintln!("   {}", case.kind.name());
            told = Some(case.kind);
        }
        let mut walk = Walk::with_stations(case.kind, case.flows, case.stations, case.len);
        let quiet = walk.tally();
        walk.run(u64::from(case.flows).div_ceil(64).clamp(500, 16_000));
        let (batches, times) = if plan.quick { (1_000, 5) } else { (4_000, 7) };
        let mut runs = Vec::with_capacity(times);
        let before = stats_alloc::INSTRUMENTED_SYSTEM.stats();
        for _ in 0..times {
            runs.push(walk.run(batches).as_nanos() as f64 / (batches * 64) as f64);
        }
        let after = stats_alloc::INSTRUMENTED_SYSTEM.stats();
        check(&case, &walk, quiet)?;
        results.add(case.key(Metric::Ns), median(&runs).unwrap_or_default());
        let allocated = after.allocations + after.reallocations - before.allocations - before.reallocations;
        let packets = batches * 64 * times as u64;
        results.add(case.key(Metric::Allocations), allocated as f64 / packets as f64);
        if case.len == 64 && [64, 10_000].contains(&case.flows) {
            let loops: Vec<f64> = (0..times)
                .map(|_| walk.run_loop(batches).as_nanos() as f64 / (batches * 64) as f64)
                .collect();
            results.add(case.key(Metric::LoopNs), median(&loops).unwrap_or_default());
        }
        if case == Case::each(Kind::L2, 64, 1_000_000) {
            let key = |case: &str| Key::memory("fdb", case, OURS, Metric::Bytes);
            results.add(key("per entry at 1000000 entries"), walk.fdb_bytes_per_entry());
            results.add(key("per slot"), walk.fdb_bytes_per_slot());
        }
    }
    Ok(())
}

/// Fails for a walk that drops frames, because it would be fast and meaningless.
fn check(case: &Case, walk: &Walk, before: (u64, u64)) -> Result<()> {
    let after = walk.tally();
    let (sent, dropped) = (after.0 - before.0, after.1 - before.1);
    let as_meant = if case.kind == Kind::Drop { sent == 0 } else { dropped == 0 && sent > 0 };
    anyhow::ensure!(
        as_meant,
        "walk {} at {} flows is not what it should be: {sent} sent, {dropped} dropped: {:?}",
        case.kind.name(),
        case.flows,
        walk.reasons()
    );
    Ok(())
}
