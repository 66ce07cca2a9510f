//! Runs the benchmark: `cargo xtask bench` builds what it needs and calls this as root.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench::machine::Facts;
use bench::process::Limit;
use bench::results::Results;
use bench::{Kind, compare, goals, memory, plot, report, wire};
use clap::Parser;
use hugepages::HugePages;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// The daemon's allocator, with its huge pages, and a counter that shows whether packets cause allocations.
#[global_allocator]
static ALLOCATOR: HugePages<&StatsAlloc<std::alloc::System>> = HugePages(&INSTRUMENTED_SYSTEM);

/// Measures the switch next to the kernel's and Open vSwitch, and shows which targets it meets.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// Under five minutes: fewer cases, one round on real interfaces
    #[arg(long)]
    quick: bool,
    /// Only this part: memory (without interfaces) or wire (on veth in namespaces)
    #[arg(long, value_parser = ["memory", "wire"])]
    only: Option<String>,
    /// Rounds of everything [default: 3; quick: 2 in memory, 1 on interfaces]
    #[arg(long)]
    rounds: Option<u32>,
    /// Only these peers on interfaces, separated by commas
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Only these scenarios on interfaces, separated by commas: l2, vtep, vxlan, vxlan-plain, fip
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Stop after this many minutes with the results so far [default: 40; quick: 4.7]
    #[arg(long)]
    minutes: Option<f64>,
    /// Keep this run: as bench/RESULTS.md, and as the baseline that later runs are compared with
    #[arg(long)]
    record: bool,
    /// Directory for the results
    #[arg(long, hide = true, default_value = "target/bench")]
    out: PathBuf,
    /// The source tree
    #[arg(long, hide = true, default_value = ".")]
    source: PathBuf,
    #[command(subcommand)]
    inside: Option<Inside>,
}

#[derive(clap::Subcommand)]
#[command(disable_help_subcommand = true)]
enum Inside {
    /// Run one kind of walk, for callgrind
    #[command(hide = true)]
    WalkOnce { kind: String },
    /// Send bulk UDP for this many seconds
    #[command(hide = true)]
    SendDatagrams { address: String, seconds: f64 },
    /// Receive bulk UDP for this many seconds
    #[command(hide = true)]
    ReceiveDatagrams { address: String, seconds: f64 },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Inside::WalkOnce { kind }) = &arguments.inside {
        return match Kind::ALL.into_iter().find(|k| k.name() == kind) {
            Some(kind) => {
                memory::callgrind::inside(kind);
                ExitCode::SUCCESS
            }
            None => ExitCode::FAILURE,
        };
    }
    let outcome = match &arguments.inside {
        Some(Inside::SendDatagrams { address, seconds }) => {
            wire::datagrams::send(address, Duration::from_secs_f64(*seconds))
        }
        Some(Inside::ReceiveDatagrams { address, seconds }) => {
            wire::datagrams::receive(address, Duration::from_secs_f64(*seconds))
        }
        _ => run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let out = std::path::absolute(&arguments.out)?;
    let source = std::path::absolute(&arguments.source)?;
    let scripts = source.join("bench/peers");
    let state = out.join("state");
    std::fs::create_dir_all(&state).with_context(|| format!("making {}", state.display()))?;
    let lock = File::create(out.join("lock")).context("making the lock")?;
    if lock.try_lock().is_err() {
        bail!("another benchmark is running in {}: wait for it", out.display());
    }
    let minutes = arguments.minutes.unwrap_or(if arguments.quick { 4.7 } else { 40.0 });
    let limit = Limit::new(Duration::from_secs_f64(minutes * 60.0))?;
    let machine = Facts::gather(&source);
    eprint!("{}", machine.markdown());
    warn_of_others(&machine);
    let started = Instant::now();

    let journal = out.join("journal.jsonl");
    std::fs::remove_file(&journal).ok();
    let mut results = Results::kept_in(journal);
    let outcome = measure(arguments, &scripts, &state, &limit, &mut results);
    // The measurements so far are kept and shown, even after a failure.
    if results.is_empty() {
        outcome?;
        bail!("nothing was measured");
    }
    let command = command(arguments);
    finish(&results, &machine, &command, &out, &source, arguments.record && outcome.is_ok())?;
    eprintln!("took {} s", started.elapsed().as_secs());
    if limit.interrupted() {
        bail!("interrupted: the figures up to then are in {}", out.display());
    }
    outcome
}

fn measure(
    arguments: &Arguments,
    scripts: &Path,
    state: &Path,
    limit: &Limit,
    results: &mut Results,
) -> Result<()> {
    let quick = arguments.quick;
    let only = |part: &str| arguments.only.as_deref().is_none_or(|only| only == part);
    let root = rustix::process::geteuid().is_root();
    let mut broken = Ok(());
    if only("memory") {
        let rounds = arguments.rounds.unwrap_or(if quick { 1 } else { 3 });
        // A broken walk makes the run fail, but the other results are still worth having.
        broken = memory::run(&memory::Plan { quick, rounds }, scripts, state, limit, results);
        if let Err(why) = &broken {
            results.skip("the rest in memory", format!("{why:#}"));
        }
    }
    if only("wire") && !root {
        results.skip("everything on interfaces", "it needs root");
    } else if only("wire") {
        let rounds = arguments.rounds.unwrap_or(if quick { 1 } else { 3 });
        let (peers, scenarios) = (arguments.peers.clone(), arguments.scenarios.clone());
        wire::run(&wire::Plan { quick, rounds, peers, scenarios }, scripts, state, limit, results)?;
    }
    broken
}

/// Writes all results, and shows the targets and the differences from the baseline.
fn finish(
    results: &Results,
    machine: &Facts,
    command: &str,
    out: &Path,
    source: &Path,
    record: bool,
) -> Result<()> {
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    };
    let summary = goals::summary(results);
    write(&out.join("summary.json"), &(serde_json::to_string_pretty(&summary)? + "\n"))?;
    results.store(&out.join("results.json"), machine, command)?;
    let baseline = source.join("bench/baseline.json");
    let comparison = match Results::load(&baseline) {
        Ok((then, facts, _)) => Some(compare::markdown(&then, &facts, results, machine)),
        Err(_) => None,
    };
    let text = report::markdown(results, &summary, machine, command, comparison.as_deref());
    write(&out.join("results.md"), &text)?;
    plot::draw(results, out)?;
    for (name, judged) in &summary {
        let shown = |value: Option<f64>| value.map_or("-".into(), report::figure);
        let word = if judged.met { "met" } else { "MISSED" };
        if judged.why.is_none() {
            let (ours, ratio) = (shown(judged.ours), shown(judged.ratio));
            println!("{word:6} {name:28} {ours:>9} {:8} ratio {ratio:>6}  {}", judged.unit, judged.rule);
        }
    }
    let measured = summary.values().filter(|judged| judged.why.is_none()).count();
    let met = summary.values().filter(|judged| judged.met).count();
    println!("\n{met} targets met of {measured} measured, {} in all", summary.len());
    match &comparison {
        Some(comparison) => println!("\n{comparison}"),
        None => println!("no baseline in bench/baseline.json: --record makes one"),
    }
    if record {
        results.store(&baseline, machine, command)?;
        // A recorded run is the new baseline, so it is not compared.
        let text = report::markdown(results, &summary, machine, command, None);
        write(&source.join("bench/RESULTS.md"), &text)?;
        println!("recorded as bench/RESULTS.md and bench/baseline.json");
    }
    println!("\n{0}/results.md, {0}/summary.json, {0}/*.svg", out.display());
    Ok(())
}

/// The command that measures these figures again.
fn command(arguments: &Arguments) -> String {
    let mut command = String::from("cargo xtask bench");
    if arguments.quick {
        command += " --quick";
    }
    if let Some(only) = &arguments.only {
        command += &format!(" --only {only}");
    }
    if let Some(rounds) = arguments.rounds {
        command += &format!(" --rounds {rounds}");
    }
    if let Some(minutes) = arguments.minutes {
        command += &format!(" --minutes {minutes}");
    }
    for (option, list) in [("--peers", &arguments.peers), ("--scenarios", &arguments.scenarios)] {
        if !list.is_empty() {
            command += &format!(" {option} {}", list.join(","));
        }
    }
    if arguments.record {
        command += " --record";
    }
    command
}

fn warn_of_others(machine: &Facts) {
    let load: f64 = machine.load.split(' ').next().and_then(|l| l.parse().ok()).unwrap_or(0.0);
    if load > 0.5 {
        eprintln!("warning: load average {load}: something else is running, and the figures will show it");
    }
}
