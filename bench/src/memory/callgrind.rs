//! Instructions of one packet, counted by callgrind in `Switch::forward` alone. Times vary with the machine, but
//! these counts repeat, so that a change of two instructions shows on a busy laptop.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::memory::Case;
use crate::process::{Limit, find, run as run_bounded};
use crate::results::{Metric, Results};
use crate::walk::{Kind, Walk};

/// Batches run under callgrind.
const BATCHES: u64 = 200;
/// Flows run under callgrind.
const FLOWS: u32 = 64;

/// Counts the instructions of every walk, or of four in a quick run.
pub fn run(quick: bool, state: &Path, limit: &Limit, results: &mut Results) {
    if find("valgrind").is_none() {
        return results.skip("instruction counts", "valgrind is not installed");
    }
    eprintln!("== instructions per packet, by callgrind");
    let few = [Kind::L2, Kind::Encap, Kind::Decap, Kind::FipInGateway];
    for kind in Kind::ALL.into_iter().filter(|kind| !quick || few.contains(kind)) {
        let counted = limit.spare(Duration::from_secs(10)).and_then(|()| count(kind, state, limit));
        match counted {
            Ok(instructions) => {
                results.add(Case::each(kind, 64, FLOWS).key(Metric::Instructions), instructions);
            }
            Err(why) => results.skip(format!("instruction counts of {}", kind.name()), why),
        }
    }
}

/// The part of the program that runs under callgrind, when it starts itself again.
pub fn inside(kind: Kind) {
    Walk::new(kind, FLOWS, 64).run(BATCHES);
}

fn count(kind: Kind, state: &Path, limit: &Limit) -> Result<f64> {
    let file = state.join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--toggle-collect=bench::walk::forward_batch*"]);
    valgrind.arg(format!("--callgrind-out-file={}", file.display()));
    valgrind.arg(std::env::current_exe()?).args(["walk-once", kind.name()]);
    run_bounded(&mut valgrind, Duration::from_secs(60), limit)?;
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    std::fs::remove_file(&file).ok();
    let total = totals(&text).context("callgrind wrote no totals")?;
    anyhow::ensure!(total > 0, "callgrind did not find the walk's function");
    Ok(total as f64 / (BATCHES * 64) as f64)
}

fn totals(text: &str) -> Option<u64> {
    let line =
        text.lines().find_map(|l| l.strip_prefix("totals: ").or_else(|| l.strip_prefix("summary: ")))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_found() {
        assert_eq!(totals("version: 1\nevents: Ir\nfn=(1)\n3 4\ntotals: 123456\n"), Some(123_456));
        assert_eq!(totals("events: Ir\n"), None);
    }
}
