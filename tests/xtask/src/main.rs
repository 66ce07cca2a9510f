//! `cargo xtask`: the one command a developer needs. `cargo xtask demo` shows the product,
//! `cargo xtask test` proves it, `cargo xtask ci` is what must pass before handing over.
//!
//! Needs no root to build. What needs root runs through `sudo` when there is one.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, shows, tests and measures the Inception Switch")]
enum Task {
    /// Build a nested cloud in network namespaces, show a floating IP at work, remove it again
    Demo,
    /// Every test: the unprivileged part, then the system part as root
    Test,
    /// Formatting, lints, then every test
    Ci,
    /// Measure the switch beside the kernel's and Open vSwitch
    Peers(Peers),
    /// The XDP program
    Bpf {
        /// Compile it again and compare with the committed object
        #[arg(long, required = true)]
        check: bool,
    },
    /// Fuzz every target, or one, from the corpus that earlier runs left
    Fuzz {
        /// Minutes for each target
        #[arg(long, default_value_t = 1)]
        minutes: u32,
        /// Only this one [default: all]
        target: Option<String>,
    },
}

/// The fuzz targets, each a file of `fuzz/fuzz_targets`.
const FUZZ_TARGETS: &[&str] = &["parse", "forward", "config", "api"];

#[derive(clap::Args)]
struct Peers {
    /// The folder of the peers harness (its README says what a peer is)
    #[arg(long, env = "IVS_PEERS")]
    folder: PathBuf,
    /// Where the figures are written, as JSON lines [default: TARGET/peers/results.jsonl]
    #[arg(long)]
    output: Option<PathBuf>,
    /// Runs of every case
    #[arg(long, default_value_t = 3)]
    repeats: u32,
    /// Scenarios
    #[arg(long, default_value = "l2 vxlan fip")]
    scenarios: String,
    /// Metrics
    #[arg(long, default_value = "rtt tcp pps")]
    metrics: String,
    /// Peers to run, in this order
    #[arg(default_values = ["kernel", "ovs-afxdp", "ivswitch"])]
    peers: Vec<String>,
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Fuzz { minutes, target } => fuzz(minutes, target.as_deref()),
        Task::Demo => demo(),
        Task::Test => test(),
        Task::Ci => ci(),
        Task::Peers(peers) => measure(&peers),
        Task::Bpf { check: _ } => check_bpf(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

// ---- the tasks ----------------------------------------------------------------------------------

/// Programs that namespaces and NAT need, and the Debian packages they come in.
const FOR_THE_DEMO: &[(&str, &str)] = &[("ip", "iproute2"), ("nft", "nftables"), ("ping", "iputils-ping")];
/// What the system tests need beyond that.
const FOR_THE_TESTS: &[(&str, &str)] =
    &[("tcpdump", "tcpdump"), ("ethtool", "ethtool"), ("setpriv", "util-linux")];
/// What building the XDP program again and the crate `afxdp` needs; headers are named by their path.
const FOR_THE_BACKENDS: &[(&str, &str)] = &[
    ("clang-16", "clang-16"),
    ("llvm-strip-16", "llvm-16"),
    ("make", "make"),
    ("/usr/include/bpf/bpf_helpers.h", "libbpf-dev"),
    ("/usr/include/libelf.h", "libelf-dev"),
    ("/usr/include/zlib.h", "zlib1g-dev"),
];
/// What the peers harness needs beyond that.
const FOR_THE_PEERS: &[(&str, &str)] = &[
    ("jq", "jq"),
    ("iperf3", "iperf3"),
    ("sockperf", "sockperf"),
    ("ethtool", "ethtool"),
    ("make", "make"),
    ("clang", "clang"),
    ("python3", "python3"),
    ("ovs-vswitchd", "openvswitch-switch"),
];

/// Packages whose tests make network namespaces; those that do so are ignored without root.
const PRIVILEGED: [&str; 2] = ["ivswitchd", "system"];

fn demo() -> Result<()> {
    install(&[FOR_THE_DEMO])?;
    let binaries = build(true)?;
    let ivctl = binaries.join("ivctl");
    let shown = run(as_root(&ivctl)?.args(["demo", "up"]));
    let removed = run(as_root(&ivctl)?.args(["demo", "down"]));
    shown?;
    removed?;
    println!(
        "\nThat was a nested cloud on this machine, and it is removed again. To keep one and play with it:"
    );
    println!("  {} demo up", ivctl.display());
    Ok(())
}

fn test() -> Result<()> {
    install(&[FOR_THE_DEMO, FOR_THE_TESTS, FOR_THE_BACKENDS])?;
    println!("== the committed XDP program is what its source makes");
    check_bpf()?;
    let mut totals = Totals { green: true, ..Totals::default() };
    println!("== unprivileged part");
    let mut others = cargo();
    others.args(["test", "--workspace", "--no-fail-fast"]);
    for package in PRIVILEGED {
        others.args(["--exclude", package]);
    }
    totals.add(&mut others)?;
    println!("== system part, as root");
    let binaries = build(false)?;
    let mut system = cargo();
    system.args(["test", "--no-fail-fast"]);
    for package in PRIVILEGED {
        system.args(["--package", package]);
    }
    with_root_runner(&mut system)?;
    system.args(["--", "--include-ignored", "--test-threads=1"]);
    totals.add(system.env("IVS_BIN_DIR", binaries).env("IVS_MUST_RUN", "1"))?;
    println!("== the second AF_XDP backend, under the same tests");
    let mut second = cargo();
    second.args(["test", "--package", "ivswitchd", "--test", "ports", "--features", "xsk-afxdp"]);
    with_root_runner(&mut second)?;
    second.args(["--", "--include-ignored", "--test-threads=1"]);
    totals.add(&mut second)?;
    println!("\ntotal: {} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped);
    if totals.failed > 0 || !totals.green {
        bail!("not everything passed");
    }
    Ok(())
}

/// Has cargo run the tests as root.
fn with_root_runner(tests: &mut Command) -> Result<()> {
    if !is_root() {
        let sudo =
            find("sudo").context("the system part needs root, and there is no sudo: run this as root")?;
        tests.arg("--config").arg(format!("target.'cfg(all())'.runner = ['{}', '-E']", sudo.display()));
    }
    Ok(())
}

fn check_bpf() -> Result<()> {
    run(Command::new("sh").arg("dataplane/ivswitchd/bpf/build.sh").arg("--check"))
}

fn ci() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    test()
}

/// Copies the harness, adds our entry, runs it, and prints the medians. The folder itself is not touched.
fn measure(peers: &Peers) -> Result<()> {
    let folder = std::path::absolute(&peers.folder)?;
    if !folder.join("run-all.sh").exists() {
        bail!("no run-all.sh in {}: --folder names the folder of the peers harness", folder.display());
    }
    if !is_root() {
        bail!("the peers make network namespaces: run this as root");
    }
    install(&[FOR_THE_DEMO, FOR_THE_PEERS])?;
    let binaries = build(true)?;
    let output = match &peers.output {
        Some(output) => std::path::absolute(output)?,
        None => target_dir()?.join("peers/results.jsonl"),
    };
    std::fs::create_dir_all(output.parent().context("the output is a file")?)?;
    let copy = std::env::temp_dir().join(format!("ivs-peers-{}", std::process::id()));
    let outcome = (|| {
        run(Command::new("cp").arg("-r").arg(&folder).arg(&copy))?;
        std::fs::copy(workspace().join("bench/peers/ivswitch.sh"), copy.join("peers.d/ivswitch.sh"))?;
        let mut all = Command::new("bash");
        all.arg(copy.join("run-all.sh")).args(["-n", &peers.repeats.to_string(), "-o"]).arg(&output);
        all.args(&peers.peers).env("IVS_BIN_DIR", binaries).env("STATE", copy.join("state"));
        all.env("SCENARIOS", &peers.scenarios).env("METRICS", &peers.metrics);
        run(&mut all)?;
        run(Command::new("python3").arg(copy.join("summarize.py")).arg(&output))
    })();
    std::fs::remove_dir_all(&copy).ok();
    println!("\nfigures: {}", output.display());
    outcome
}

/// Runs libFuzzer through cargo-fuzz, which stable Rust allows under `RUSTC_BOOTSTRAP`.
fn fuzz(minutes: u32, target: Option<&str>) -> Result<()> {
    if let Some(target) = target
        && !FUZZ_TARGETS.contains(&target)
    {
        bail!("no fuzz target {target:?}: there are {}", FUZZ_TARGETS.join(", "));
    }
    if find("cargo-fuzz").is_none() {
        run(cargo().args(["install", "cargo-fuzz", "--locked"]))?;
    }
    let seconds = format!("-max_total_time={}", minutes * 60);
    for &name in FUZZ_TARGETS.iter().filter(|name| target.is_none_or(|t| t == **name)) {
        println!("== fuzzing {name} for {minutes} min");
        let mut fuzz = cargo();
        fuzz.args(["fuzz", "run", "--fuzz-dir", "fuzz", "--sanitizer", "none", name, "--", &seconds]);
        run(fuzz.env("RUSTC_BOOTSTRAP", "1"))?;
    }
    Ok(())
}

// ---- what they are made of ----------------------------------------------------------------------

/// Builds the daemon and `ivctl`; gives the directory they are in.
fn build(release: bool) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--package", "ivswitchd", "--package", "ctl"]);
    if release {
        build.arg("--release");
    }
    run(&mut build)?;
    Ok(target_dir()?.join(if release { "release" } else { "debug" }))
}

/// Sums up what `cargo test` says.
#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
    skipped: u64,
    green: bool,
}

impl Totals {
    /// Runs the tests, showing what they say. Fails only when they could not be run at all.
    fn add(&mut self, command: &mut Command) -> Result<()> {
        let mut child =
            command.stdout(Stdio::piped()).spawn().with_context(|| format!("running {command:?}"))?;
        let before = self.passed + self.failed;
        for line in BufReader::new(child.stdout.take().context("no pipe")?).lines() {
            let line = line?;
            println!("{line}");
            if let Some(counts) = line.strip_prefix("test result: ") {
                let number = |word: &str| -> u64 {
                    let part = counts.split([';', '.']).find(|part| part.trim_end().ends_with(word));
                    part.and_then(|part| part.split_whitespace().next()?.parse().ok()).unwrap_or(0)
                };
                self.passed += number(" passed");
                self.failed += number(" failed");
                self.skipped += number(" ignored");
            }
        }
        self.green &= child.wait()?.success();
        if self.passed + self.failed == before {
            bail!("no test ran: {command:?}");
        }
        Ok(())
    }
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/xtask is two below")
}

/// Where cargo builds: this program was built there.
fn target_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    Ok(exe.ancestors().nth(2).context("TARGET/PROFILE/xtask")?.to_path_buf())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .current_dir(workspace())
        .status()
        .with_context(|| format!("running {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} {}: {status}", command.get_program().display(), arguments(command));
    }
    Ok(())
}

fn arguments(command: &Command) -> String {
    command.get_args().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A command run as root: as it is, or through `sudo`.
fn as_root(program: &Path) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let sudo = find("sudo").context("this needs root, and there is no sudo: run it as root")?;
    let mut command = Command::new(sudo);
    command.arg(program);
    Ok(command)
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .any(|line| line.strip_prefix("Uid:").is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0")))
}

/// Installs the Debian packages of those programs that are missing, if we are root.
fn install(lists: &[&[(&str, &str)]]) -> Result<()> {
    let wanted = lists.iter().flat_map(|list| list.iter());
    let missing: Vec<&str> =
        wanted.filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !is_root() || find("apt-get").is_none() {
        bail!(
            "missing on this machine: {packages}; install them, on Debian with: sudo apt-get install {packages}"
        );
    }
    println!("== installing what is missing on this machine: apt-get install {packages}");
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing);
        run(apt.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    run(Command::new("apt-get").args(["update", "-q"]))?;
    install()
}

/// Looks for a program where root would find it, or for a file by its path.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}
