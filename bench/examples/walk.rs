//! A quick look at the walk: ns per packet, minimum and median of several runs.
//! `cargo run --release -p bench --example walk [kind ...]`

use bench::{Kind, Walk};

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    println!("{:16} {:>9} {:>6} {:>8} {:>8}", "walk", "flows", "bytes", "min ns", "med ns");
    for kind in Kind::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == kind.name()) {
            continue;
        }
        for flows in [1, 1_000, 100_000, 1_000_000] {
            let mut walk = Walk::new(kind, flows, 64);
            let batches = 4_000;
            walk.run(u64::from(flows).div_ceil(64).clamp(1_000, 20_000));
            let mut runs: Vec<f64> =
                (0..9).map(|_| walk.run(batches).as_nanos() as f64 / (batches * 64) as f64).collect();
            runs.sort_by(f64::total_cmp);
            println!("{:16} {flows:>9} {:>6} {:>8.1} {:>8.1}", kind.name(), 64, runs[0], runs[4]);
        }
    }
}
