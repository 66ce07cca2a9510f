//! Measurements outside of the table of walks: two workers, a flood of strangers next to established traffic, control
//! operations while forwarding, and the cost of explaining decisions.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use engine::command::PortId;
use engine::forward::trail::Step;

use crate::machine::{pin, pinned, processors};
use crate::process::Limit;
use crate::results::{Key, Metric, OURS, Results};
use crate::stats::median;
use crate::walk::{Kind, Walk, stranger};

/// The keys that goals use.
pub mod keys {
    use super::{Key, Metric, OURS};

    /// Packets per second of `n` workers, each with its own switch and processor.
    #[must_use]
    pub fn workers(walk: &str, n: usize) -> Key {
        Key::memory("workers", format!("{walk}, {n} workers"), OURS, Metric::Pps)
    }

    /// The same for a loop of additions: how much faster two processors are than one on this machine.
    #[must_use]
    pub fn arithmetic(n: usize) -> Key {
        Key::memory("workers", format!("additions, {n} threads"), "machine", Metric::Ops)
    }

    /// Share of the established traffic's rate that is left during a flood of `what`.
    #[must_use]
    pub fn kept(what: &str) -> Key {
        Key::memory("strangers", format!("established traffic beside random {what}"), OURS, Metric::Share)
    }
}

/// One measurement: takes whether the run is quick, and the results to add to.
type Extra = fn(bool, &mut Results);

/// Runs each once.
pub fn run(quick: bool, limit: &Limit, results: &mut Results) {
    let steps: [(&str, Extra); 4] =
        [("workers", workers), ("floods", floods), ("control operations", control), ("trail", trail)];
    for (name, step) in steps {
        match limit.spare(Duration::from_secs(5)) {
            Ok(()) => pinned(|| step(quick, results)),
            Err(why) => results.skip(format!("in memory: {name}"), why),
        }
    }
}

/// The total rate of `count` threads, each pinned and running `work` for `time`.
fn together(count: usize, time: Duration, work: impl Fn(usize) -> Box<dyn FnMut() -> u64> + Sync) -> f64 {
    let start = Barrier::new(count);
    let one = |n: usize| {
        // The first worker has the processor that a single worker would have.
        pin(count - 1 - n + usize::from(count == 1));
        let mut step = work(n);
        step();
        start.wait();
        let (began, mut done) = (Instant::now(), 0);
        while began.elapsed() < time {
            done += step();
        }
        done as f64 / began.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|n| {
                scope.spawn({
                    let one = &one;
                    move || one(n)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker of the benchmark")).sum()
    })
}

fn workers(quick: bool, results: &mut Results) {
    let time = Duration::from_millis(if quick { 250 } else { 1000 });
    let walks: &[Kind] = if quick { &[Kind::L2] } else { &[Kind::L2, Kind::Encap, Kind::FipInGateway] };
    for count in [1, 2] {
        if processors() < count {
            return results.skip("two workers in memory", "this machine has one processor");
        }
        let additions = together(count, time, |_| {
            let mut state = 1u64;
            Box::new(move || {
                for i in 0..100_000 {
                    state = black_box(state.wrapping_add(i));
                }
                100_000
            })
        });
        results.add(keys::arithmetic(count), additions);
        for &kind in walks {
            let rate = together(count, time, |_| {
                let mut walk = Walk::new(kind, 64, 64);
                Box::new(move || {
                    walk.run_loop(100);
                    6400
                })
            });
            results.add(keys::workers(kind.name(), count), rate);
        }
    }
}

const FLOODED: PortId = PortId(9);
const MOVED: PortId = PortId(10);

/// Established traffic between known stations, alone and while another door sends as many frames of strangers: random
/// MACs (whose learning must stay bounded), and random flows of one station. The rate that is left comes from the
/// time that the established frames take; all of them must arrive.
fn floods(quick: bool, results: &mut Results) {
    let batches = if quick { 2_000 } else { 10_000 };
    for what in ["MACs", "flows"] {
        let mut walk = Walk::with_stations(Kind::L2, 10_000, 1_000, 64);
        walk.add_door(FLOODED, 1024, Some(engine::limits::BUM_PPS_DEFAULT));
        walk.run(1_000);
        let (mut alone, mut beside, mut flood) = (vec![], vec![], vec![]);
        let mut seed = 7u64;
        for _ in 0..10 {
            for flooding in [false, true] {
                let (mut own, mut theirs) = (Duration::ZERO, Duration::ZERO);
                for _ in 0..batches / 10 {
                    // Made in both cases, so that making them disturbs the caches equally.
                    let frames: Vec<_> = (0..64).map(|_| stranger(&mut seed, what == "MACs")).collect();
                    if flooding {
                        theirs += walk.inject(FLOODED, &frames);
                    }
                    black_box(&frames);
                    own += walk.run(1);
                }
                let per_packet = |time: Duration| time.as_nanos() as f64 / (batches / 10 * 64) as f64;
                if flooding {
                    beside.push(per_packet(own));
                    flood.push(per_packet(theirs));
                } else {
                    alone.push(per_packet(own));
                }
            }
        }
        let middle = |runs: &[f64]| median(runs).unwrap_or_default();
        let lost = walk.drops_at_ingress();
        let arrived = 1.0 - lost as f64 / (2 * batches * 64) as f64;
        results.add(keys::kept(what), arrived * middle(&alone) / middle(&beside));
        let key = |case: String| Key::memory("strangers", case, OURS, Metric::Ns);
        results.add(key(format!("established frame, alone ({what})")), middle(&alone));
        results.add(key(format!("established frame, beside random {what}")), middle(&beside));
        results.add(key(format!("frame of the flood, random {what}")), middle(&flood));
    }
}

/// Operations that change tables, each followed by a batch of ordinary traffic.
fn control(quick: bool, results: &mut Results) {
    let stations = if quick { 64 * 400 } else { 64 * 1600 };
    let mut walk = Walk::new(Kind::L2, 1_000, 64);
    walk.add_door(FLOODED, u32::MAX, None);
    walk.add_door(MOVED, u32::MAX, None);
    walk.run(500);
    let mut forwarding = Duration::ZERO;
    let mut batches = 0;
    let rate = |count: u32, time: Duration| f64::from(count) / time.as_secs_f64();
    let key = |case: &str, metric| Key::memory("control", case, OURS, metric);
    for (name, port) in [("learn a MAC", FLOODED), ("move a MAC", MOVED)] {
        let mut spent = Duration::ZERO;
        for first in (0..stations).step_by(64) {
            let frames: Vec<_> = (first..first + 64).map(crate::walk::newcomer).collect();
            spent += walk.inject(port, &frames);
            forwarding += walk.run(1);
            batches += 1;
        }
        results.add(key(name, Metric::Ops), rate(stations, spent));
    }
    let mut spent = Duration::ZERO;
    for n in 0..stations / 8 {
        spent += walk.add_floating(n);
        if n % 8 == 0 {
            forwarding += walk.run(1);
            batches += 1;
        }
    }
    results.add(key("add a floating IP", Metric::Ops), rate(stations / 8, spent));
    let packets = f64::from(batches) * 64.0;
    results.add(key("forwarding meanwhile", Metric::Ns), forwarding.as_nanos() as f64 / packets);
}

/// `classify` alone, without a listener and with a list of steps.
fn trail(quick: bool, results: &mut Results) {
    let rounds = if quick { 5_000 } else { 50_000 };
    let mut walk = Walk::new(Kind::FipInGateway, 64, 64);
    let key = |case: &str| Key::memory("trail", case, OURS, Metric::Ns);
    let each = |(count, time): (u64, Duration)| time.as_nanos() as f64 / count as f64;
    results.add(key("classify, nobody listens"), each(walk.decide(rounds, || ())));
    results.add(key("classify, every step told"), each(walk.decide(rounds, Vec::<Step>::new)));
}
