//! A quick look at the walk: ns per packet, minimum and median of several runs.
//! `cargo run --release -p bench --example walk -- [KIND[:FLOWS]] ...`
//! Under callgrind, `--toggle-collect='*Switch::forward*'` and `--once` count its instructions.

use std::alloc::System;

use bench::{Kind, Walk};
use hugepages::HugePages;

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: HugePages<System> = HugePages(System);

fn main() {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let once = wanted.iter().position(|w| w == "--once").map(|at| wanted.remove(at)).is_some();
    println!("{:16} {:>9} {:>6} {:>8} {:>8}", "walk", "flows", "bytes", "min ns", "med ns");
    for kind in Kind::ALL {
        for flows in [1, 1_000, 10_000, 100_000, 1_000_000] {
            let named = |w: &String| w == kind.name() || *w == format!("{}:{flows}", kind.name());
            if !wanted.is_empty() && !wanted.iter().any(named) {
                continue;
            }
            let mut walk = Walk::new(kind, flows, 64);
            if once {
                walk.run(1000);
                continue;
            }
            let batches = 4_000;
            walk.run(u64::from(flows).div_ceil(64).clamp(1_000, 20_000));
            let mut runs: Vec<f64> =
                (0..9).map(|_| walk.run(batches).as_nanos() as f64 / (batches * 64) as f64).collect();
            runs.sort_by(f64::total_cmp);
            println!("{:16} {flows:>9} {:>6} {:>8.1} {:>8.1}", kind.name(), 64, runs[0], runs[4]);
        }
    }
}
