//! `ivbench`: the costs of nesting, level by level, for the switch and its peers.

mod control;
mod goals;
mod guest;
mod host;
mod kit;
mod lab;
mod level;
mod nesting;
mod network;
mod outer;
mod probe;
mod report;
mod rows;
mod seeds;
mod work;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench::machine::Facts;
use bench::process::Limit;
use bench::results::Results;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use lab::Peer;
use network::Place;
use rows::{Outcome, Plan, Row, Store};

/// Measures guests and the guests of guests behind the switch and its peers, next to the figures of published papers.
/// It needs root, QEMU and Debian's packages. Measurements that are impossible are left out, with the reason.
#[derive(Parser)]
#[command(name = "ivbench", version)]
struct Arguments {
    /// Under five minutes: one round, two peers, no guest in a guest
    #[arg(long)]
    quick: bool,
    /// Rounds of every probe [default: 2; quick: 1]
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds of every probe [default: 3; quick: 2]
    #[arg(long)]
    seconds: Option<f64>,
    /// Only rows whose name contains one of these, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Stop after this many minutes with the results so far; rows that are done are kept [default: 25; quick: 5]
    #[arg(long)]
    minutes: Option<f64>,
    /// Repeat all rows, also those that are done
    #[arg(long)]
    again: bool,
    /// List the rows, and stop
    #[arg(long)]
    list: bool,
    /// Keep the report as bench/NESTED.md of the source tree
    #[arg(long)]
    record: bool,
    /// Directory for the results
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Take kernel and modules from this image of `ivctl image build`, instead of downloading them
    #[arg(long)]
    image: Option<PathBuf>,
    /// The source tree
    #[arg(long, hide = true, default_value = ".")]
    source: PathBuf,
    /// Print the man page
    #[arg(long, hide = true)]
    man: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(clap::Subcommand)]
#[command(disable_help_subcommand = true)]
enum Verb {
    /// Compare two runs by their nested-results.json
    Compare {
        /// The earlier run
        then: PathBuf,
        /// The later run
        now: PathBuf,
    },
    /// One end of a measurement
    #[command(hide = true)]
    Probe {
        #[command(subcommand)]
        probe: probe::Probe,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.verb {
        Some(Verb::Probe { probe }) => probe::run(probe),
        Some(Verb::Compare { then, now }) => report::compare(then, now).map(|text| print!("{text}")),
        None if arguments.man => {
            use clap::CommandFactory;
            let page = clap_mangen::Man::new(Arguments::command()).section("8");
            page.render(&mut std::io::stdout()).map_err(Into::into)
        }
        None => run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    /// How often figures that targets compare are measured.
    const fn passes(&self) -> u32 {
        if self.quick { 1 } else { network::PASSES }
    }
}

/// All rows, those that targets need first.
fn rows(arguments: &Arguments) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut add = |id: String, seconds: u64, work: rows::Work| {
        rows.push(Row { id, needs: Duration::from_secs(seconds), work });
    };
    let peers = if arguments.quick { &[Peer::VhostUser, Peer::Bridge][..] } else { &Peer::ALL };
    let mut pair = |place: Place, peer: Peer, pass: u32| {
        let id = format!("network {} {} pass {pass}", place.name(), peer.name());
        let with_own = pass == 1;
        let work = move |plan: &Plan, outcome: &mut Outcome, limit: &Limit| {
            network::guests(plan, place, peer, with_own, outcome, limit)
        };
        add(id, 60, Box::new(work));
    };
    for pass in 1..=arguments.passes() {
        pair(Place::Provider, Peer::Bridge, pass);
        for place in [Place::Same, Place::Vxlan] {
            for peer in peers {
                // Peers that targets compare are repeated in turns.
                if pass == 1 || matches!(peer, Peer::VhostUser | Peer::Bridge) {
                    pair(place, *peer, pass);
                }
            }
        }
    }
    add("levels L0 L1".into(), 60, Box::new(nesting::first));
    let latencies = if arguments.quick { &[0, 10][..] } else { &control::LATENCIES };
    for &latency in latencies {
        let id = format!("control {latency} ms");
        add(id, 60, Box::new(move |plan, outcome, limit| control::at(plan, latency, outcome, limit)));
    }
    // The longest and least informative rows go last: a run that is out of time leaves these out.
    if !arguments.quick {
        for peer in [Peer::VhostUser, Peer::Bridge, Peer::Tap, Peer::Ovs] {
            inner(peer).into_iter().for_each(|(id, seconds, work)| add(id, seconds, work));
        }
    }
    let asked =
        |row: &Row| arguments.only.is_empty() || arguments.only.iter().any(|only| row.id.contains(only));
    rows.retain(asked);
    rows
}

/// The rows of guests in guests.
fn inner(peer: Peer) -> [(String, u64, rows::Work); 2] {
    let name = peer.name();
    // Our switch gets web pages, disks and processor of L2 as well.
    let same = if peer == Peer::VhostUser { 700 } else { 400 };
    [
        (
            format!("levels L2 same rVM {name}"),
            same,
            Box::new(move |plan, outcome, limit| nesting::same(plan, peer, outcome, limit)),
        ),
        (
            format!("levels L2 vxlan {name}"),
            400,
            Box::new(move |plan, outcome, limit| nesting::vxlan(plan, peer, outcome, limit)),
        ),
    ]
}

fn run(arguments: &Arguments) -> Result<()> {
    let rows = rows(arguments);
    if arguments.list {
        rows.iter().for_each(|row| println!("{}", row.id));
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("namespaces and TAPs need root: run it as root");
    }
    let (out, source) = (std::path::absolute(&arguments.out)?, std::path::absolute(&arguments.source)?);
    let dir = out.join("nested");
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let lock = File::create(dir.join("lock")).context("making the lock")?;
    if lock.try_lock().is_err() {
        bail!("another benchmark is running in {}: wait for it", dir.display());
    }
    let quick = arguments.quick;
    let minutes = arguments.minutes.unwrap_or(if quick { 5.0 } else { 25.0 });
    let limit = Limit::new(Duration::from_secs_f64(minutes * 60.0))?;
    let machine = Facts::gather(&source);
    eprint!("{}", machine.markdown());
    let kit = kit::Kit::make(&dir.join("kit"), arguments.image.as_deref(), quick, &limit)
        .context("what guests boot")?;
    let rounds = arguments.rounds.unwrap_or(if quick { 1 } else { 2 });
    let seconds = arguments.seconds.unwrap_or(if quick { 2.0 } else { 3.0 });
    // For sockets, whose paths must be short.
    let state = std::env::temp_dir().join(format!("ivbench-{}", std::process::id()));
    let found = level::find();
    let settings = format!("{} {rounds} x {seconds} s, {}", built(&machine, &kit), found.accel.name());
    let plan = Plan { found, kit, state: state.clone(), rounds, seconds, passes: arguments.passes() };
    let store = Store::open(&dir.join("rows"), &settings)?;
    let results = measure(&rows, &plan, &store, arguments.again, &limit);
    std::fs::remove_dir_all(&state).ok();
    let results = results?;
    let command = command(arguments);
    report::write(&results, &plan, &machine, &command, &out, arguments.record.then_some(source.as_path()))?;
    if limit.interrupted() {
        bail!("interrupted: the rows up to then are kept, and the next run goes on after them");
    }
    Ok(())
}

/// Runs every row that is not done yet.
fn measure(rows: &[Row], plan: &Plan, store: &Store, again: bool, limit: &Limit) -> Result<Results> {
    let mut results = Results::default();
    let bar = ProgressBar::new(rows.len() as u64);
    let style = ProgressStyle::with_template("[{elapsed_precise}] {bar:30} {pos}/{len} {msg}")?;
    bar.set_style(style);
    bar.enable_steady_tick(Duration::from_millis(500));
    for row in rows {
        bar.set_message(row.id.clone());
        let outcome = match store.done(&row.id).filter(|_| !again) {
            Some(outcome) => outcome,
            None => {
                let start = Instant::now();
                let outcome = match limit.spare(row.needs) {
                    Ok(()) => {
                        // A row that fails keeps the figures that it has by then, and the reason.
                        let mut outcome = Outcome::default();
                        if let Err(why) = (row.work)(plan, &mut outcome, limit) {
                            outcome.lacks(&format!("{why:#}"));
                        }
                        outcome.took_s = start.elapsed().as_secs_f64();
                        // Another failure does not discard an earlier result that has more figures.
                        let before = store.kept(&row.id).filter(|_| !again);
                        let mut outcome = outcome.or_fuller(before);
                        store.keep(&row.id, &mut outcome)?;
                        outcome
                    }
                    Err(why) => {
                        // Not started: the figures of an earlier run stay, here as in the store.
                        let mut outcome = store.kept(&row.id).filter(|_| !again).unwrap_or_default();
                        outcome.lacks(&format!("{why:#}"));
                        outcome
                    }
                };
                let word = outcome.why.as_ref().map_or("done".into(), |why| format!("not measured: {why}"));
                bar.suspend(|| eprintln!("{:>5.0} s  {}: {word}", start.elapsed().as_secs_f64(), row.id));
                outcome
            }
        };
        rows::merge(&mut results, &row.id, &outcome);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(results)
}

/// The version that was built: the commit, or, with uncommitted changes, the sizes and times of the programs.
fn built(machine: &Facts, kit: &kit::Kit) -> String {
    if !machine.commit.is_empty() && !machine.dirty {
        return machine.commit.clone();
    }
    let age = |path: &Path| {
        let about = std::fs::metadata(path).ok()?;
        Some(format!(
            "{}@{:?}",
            about.len(),
            about.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs()
        ))
    };
    let own = std::env::current_exe().ok().and_then(|path| age(&path));
    format!("{:?} {:?}", own, age(&kit.binaries.join("ivswitchd")))
}

/// The command that measures these figures again.
fn command(arguments: &Arguments) -> String {
    let mut command = String::from("cargo xtask bench nested");
    for (option, is) in
        [(" --quick", arguments.quick), (" --again", arguments.again), (" --record", arguments.record)]
    {
        command += if is { option } else { "" };
    }
    if !arguments.only.is_empty() {
        command += &format!(" --only '{}'", arguments.only.join(","));
    }
    for (option, value) in [
        ("rounds", arguments.rounds.map(f64::from)),
        ("seconds", arguments.seconds),
        ("minutes", arguments.minutes),
    ] {
        if let Some(value) = value {
            command += &format!(" --{option} {value}");
        }
    }
    command
}
