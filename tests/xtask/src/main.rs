//! `cargo xtask`: the one command that a developer needs. `cargo xtask demo` shows the product,
//! `cargo xtask test` tests it, and `cargo xtask ci` must pass before a change is handed over.
//!
//! Building needs no root. Commands that need root run through `sudo` if it is installed.

mod book;
mod boot;
mod mutants;
mod package;
#[cfg(test)]
mod promises;
#[cfg(test)]
mod references;
mod suite;
mod tidy;
#[cfg(test)]
mod tree;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, shows, tests and measures the Inception Switch")]
enum Task {
    /// Build a nested cloud in network namespaces, show a floating IP at work, remove it again
    Demo,
    /// Run every test: the unprivileged part, then the system part as root
    Test,
    /// Check formatting and lints, then run every test
    Ci,
    /// Check the structure of the tree: circles of modules, dependencies of crates, long files, unsafe code
    Tidy,
    /// Measure the switch next to the kernel's and Open vSwitch: `--quick` for under five minutes, `--help` for more;
    /// `bench nested` measures it between guests, level by level
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments of the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Compile the XDP program and compare it with the committed object
    Bpf {
        /// Compile it again and compare with the committed object
        #[arg(long, required = true)]
        check: bool,
    },
    /// Build the book into `target/book`, with transcripts and reference made by running the programs, as root
    Book,
    /// Build the Debian packages into `target/package`
    Package {
        /// Build without optimisation, to try the package itself
        #[arg(long)]
        debug: bool,
    },
    /// Install, run, upgrade and purge the packages in fresh Debians, booted where possible, as root; a file that
    /// stays behind is an error
    PackageTest {
        /// Build without optimisation
        #[arg(long)]
        debug: bool,
    },
    /// Run Miri on the engine's parsers, tables and mailbox rings (needs the nightly toolchain)
    Miri,
    /// Check licences, bans and sources of every dependency, with cargo-deny
    Deny,
    /// Change the code of engine, vhostuser and ctl, one operator or result at a time, and see whether tests notice. All
    /// mutants take days; a shard is a fair sample
    Mutants {
        /// Part K of N, such as 7/60 [default: all]
        #[arg(long, value_name = "K/N")]
        shard: Option<String>,
        /// Only this crate
        #[arg(long, value_name = "NAME")]
        package: Vec<String>,
        /// Only files that match
        #[arg(long, value_name = "GLOB")]
        file: Vec<String>,
    },
    /// Fuzz every target, or one, from the corpus of earlier runs
    Fuzz {
        /// Minutes for each target
        #[arg(long, default_value_t = 1)]
        minutes: u32,
        /// Only this one [default: all]
        target: Option<String>,
    },
    /// Repeat the attacks and crashes of the system tests, for minutes instead of seconds each, as root
    Soak {
        /// Minutes for each test
        #[arg(long, default_value_t = 10)]
        minutes: u32,
        /// Only tests whose name contains this [default: all]
        test: Option<String>,
    },
}

/// The tests that repeat themselves for as long as `cargo xtask soak` asks (`system::rounds`).
const SOAK_TESTS: &[&str] = &[
    "lifecycle::kill_9_inside_apply_leaves_the_old_or_the_new",
    "restart::fault_kill_9_under_load",
    "restart::fault_kill_9_under_load_where_descriptors_are_kept",
    "restart::fault_a_restart_costs_nothing_where_descriptors_are_kept",
    "attacks::t01_a_mac_flood_shows_nothing_of_others",
    "attacks::t02_stealing_a_mac_address_is_refused",
    "attacks::t06_malformed_frames",
    "attacks::t08_a_crafted_flood_costs_others_little",
    "attacks::t12_t13_t16_tunnel_packets_that_nobody_asked_for",
    "floating_ip::t14_what_our_nat_does_not_lend_its_address_to",
    "attacks::t17_no_window_while_ports_come_and_go",
    "growth::g17_nothing_grows",
];

/// The fuzz targets, each a file of `fuzz/fuzz_targets`.
const FUZZ_TARGETS: &[&str] =
    &["parse", "forward", "offload", "dhcp", "config", "api", "vhost_rings", "vhost_messages"];

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Fuzz { minutes, target } => fuzz(minutes, target.as_deref()),
        Task::Mutants { shard, package, file } => mutants::test(shard.as_deref(), &package, &file),
        Task::Soak { minutes, test } => soak(minutes, test.as_deref()),
        Task::Book => book::build(),
        Task::Package { debug } => package::build(debug).map(drop),
        Task::PackageTest { debug } => package::test(debug),
        Task::Miri => miri(),
        Task::Deny => deny(),
        Task::Demo => demo(),
        Task::Test => suite::test(),
        Task::Ci => ci(),
        Task::Tidy => tidy::check(),
        Task::Bench { arguments } => bench(&arguments),
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

/// Programs for namespaces and NAT, and the Debian packages that contain them.
const FOR_THE_DEMO: &[(&str, &str)] = &[("ip", "iproute2"), ("nft", "nftables"), ("ping", "iputils-ping")];
/// Programs that the system tests need in addition.
const FOR_THE_TESTS: &[(&str, &str)] = &[
    ("tcpdump", "tcpdump"),
    ("ethtool", "ethtool"),
    ("setpriv", "util-linux"),
    ("promtool", "prometheus"),
    ("script", "bsdutils"),
    ("busybox", "busybox-static"),
    ("dhclient", "isc-dhcp-client"),
    ("dnsmasq", "dnsmasq-base"),
    ("arping", "iputils-arping"),
    ("bpftool", "bpftool"),
    ("traceroute", "traceroute"),
    ("ebtables-nft", "iptables"),
];
/// Programs that manage and run real guests. The guests' kernel is downloaded, not installed.
const FOR_THE_GUESTS: &[(&str, &str)] = &[
    ("/usr/include/libvirt/libvirt.h", "libvirt-dev"),
    ("pkg-config", "pkg-config"),
    ("libvirtd", "libvirt-daemon-system"),
    ("virsh", "libvirt-clients"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("zstd", "zstd"),
    ("xz", "xz-utils"),
    ("lz4", "lz4"),
    ("dpkg-deb", "dpkg"),
];
/// Tools and headers that build the XDP program and the crate `afxdp`; headers are named by their path.
const FOR_THE_BACKENDS: &[(&str, &str)] = &[
    ("clang-16", "clang-16"),
    ("llvm-strip-16", "llvm-16"),
    ("make", "make"),
    ("/usr/include/bpf/bpf_helpers.h", "libbpf-dev"),
    ("/usr/include/libelf.h", "libelf-dev"),
    ("/usr/include/zlib.h", "zlib1g-dev"),
];
/// Programs that the benchmark needs on real interfaces.
const FOR_THE_BENCH: &[(&str, &str)] = &[
    ("ethtool", "ethtool"),
    ("make", "make"),
    ("cc", "gcc"),
    ("clang", "clang"),
    ("/usr/include/bpf/bpf_helpers.h", "libbpf-dev"),
    ("/usr/include/xdp/xsk.h", "libxdp-dev"),
    ("iperf3", "iperf3"),
    ("sockperf", "sockperf"),
];
/// Programs that measuring between guests needs in addition to the guests' own.
const FOR_NESTED: &[(&str, &str)] = &[("ethtool", "ethtool"), ("strip", "binutils"), ("nft", "nftables")];
/// Programs that only some figures need. Without one, the report leaves its figures out and says so.
const FOR_SOME_FIGURES: &[(&str, &str)] = &[
    ("valgrind", "valgrind"),
    ("ovs-vswitchd", "openvswitch-switch"),
    ("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk", "openvswitch-switch-dpdk"),
    ("/usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0/librte_net_null.so.23", "librte-net-null23"),
    ("/usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0/librte_net_pcap.so.23", "librte-net-pcap23"),
];

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

fn check_bpf() -> Result<()> {
    run(Command::new("sh").arg("dataplane/ivswitchd/bpf/build.sh").arg("--check"))
}

fn ci() -> Result<()> {
    install(&[FOR_THE_GUESTS])?;
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    suite::test()
}

/// Builds the switch and the benchmark, and runs the benchmark as root. The report leaves out the figures that cannot
/// be measured here, and says so.
fn bench(arguments: &[String]) -> Result<()> {
    let nested = arguments.first().is_some_and(|first| first == "nested");
    let (package, arguments) = if nested { ("ivbench", &arguments[1..]) } else { ("bench", arguments) };
    let asks = arguments.iter().any(|a| a == "--help" || a == "-h");
    if !asks {
        let needed = if nested { [FOR_THE_GUESTS, FOR_NESTED] } else { [FOR_THE_DEMO, FOR_THE_BENCH] };
        let lists = needed.into_iter().chain(FOR_SOME_FIGURES.chunks(1));
        for list in lists {
            if let Err(why) = install(&[list]) {
                eprintln!("warning: {why:#}; going on without");
            }
        }
    }
    let binaries = build(true)?;
    run(cargo().args(["build", "--quiet", "--release", "--package", package, "--bin", package]))?;
    let out = target_dir()?.join("bench");
    let told = |command: &mut Command| {
        command.current_dir(workspace());
        command.args(arguments).arg("--out").arg(&out).arg("--source").arg(workspace());
    };
    if asks || is_root() {
        // It replaces this process, so that Ctrl-C reaches it alone and it can remove everything that it made.
        let mut bench = Command::new(binaries.join(package));
        told(&mut bench);
        return Err(bench.env("IVS_BIN_DIR", &binaries).exec()).context("running the benchmark");
    }
    // Through sudo, which clears the environment.
    let mut bench = as_root(Path::new("env"))?;
    bench.arg(format!("IVS_BIN_DIR={}", binaries.display())).arg(binaries.join(package));
    told(&mut bench);
    let outcome = run(&mut bench);
    // Give the files that root wrote to the user who runs this.
    let owner = std::fs::metadata(workspace().join("Cargo.toml"))?;
    let mut chown = as_root(Path::new("chown"))?;
    chown.arg("-R").arg(format!("{}:{}", owner.uid(), owner.gid()));
    run(chown.arg(&out).arg(workspace().join("bench")))?;
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
    let mut told = Vec::new();
    for &name in FUZZ_TARGETS.iter().filter(|name| target.is_none_or(|t| t == **name)) {
        println!("== fuzzing {name} for {minutes} min");
        let mut fuzz = cargo();
        fuzz.args(["fuzz", "run", "--fuzz-dir", "fuzz", "--sanitizer", "none", name]);
        // libFuzzer adds its findings to the first directory; the second holds the initial inputs.
        let corpus = format!("fuzz/corpus/{name}");
        std::fs::create_dir_all(workspace().join(&corpus))?;
        // Inputs that earlier runs found on other machines; each covers something that no other does.
        let found = format!("fuzz/seeds/{name}.tar.gz");
        if workspace().join(&found).is_file() {
            run(Command::new("tar").args(["-C", &corpus, "--skip-old-files", "-xzf", &found]))?;
        }
        fuzz.arg(corpus);
        let seeds = format!("fuzz/seeds/{name}");
        if workspace().join(&seeds).is_dir() {
            fuzz.arg(seeds);
        }
        fuzz.args(["--", &seconds, "-timeout=10", "-rss_limit_mb=2048"]);
        let mut fuzz =
            fuzz.env("RUSTC_BOOTSTRAP", "1").stderr(Stdio::piped()).spawn().context("cargo fuzz")?;
        for line in BufReader::new(fuzz.stderr.take().context("no pipe")?).lines() {
            let line = line?;
            if let Some(done) = line.strip_prefix("Done ") {
                told.push(format!("{name}: {done}"));
            }
            eprintln!("{line}");
        }
        if !fuzz.wait()?.success() {
            bail!("{name} found something: see fuzz/artifacts/{name}, and make a test of it");
        }
    }
    println!("== nothing was found\n{}", told.join("\n"));
    Ok(())
}

/// Runs tests of the test command, each repeated for `minutes`.
fn soak(minutes: u32, test: Option<&str>) -> Result<()> {
    let tests: Vec<&str> =
        SOAK_TESTS.iter().copied().filter(|name| test.is_none_or(|test| name.contains(test))).collect();
    if tests.is_empty() {
        bail!("no such test: there are {}", SOAK_TESTS.join(", "));
    }
    install(&[FOR_THE_DEMO, FOR_THE_TESTS])?;
    println!("== {} tests, {minutes} min each", tests.len());
    let totals = suite::repeat(&tests, minutes)?;
    if !totals.green || totals.passed != tests.len() as u64 {
        bail!("{} of {} tests passed", totals.passed, tests.len());
    }
    Ok(())
}

/// Miri interprets the engine's parsers, tables and queues, and finds undefined behaviour, which tests cannot see.
fn miri() -> Result<()> {
    let toolchain = ["component", "add", "--toolchain", "nightly", "miri", "rust-src"];
    run(Command::new("rustup").args(toolchain))?;
    let mut miri = Command::new("cargo");
    // Cargo's own variables select the toolchain that runs this program.
    for variable in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC"] {
        miri.env_remove(variable);
    }
    miri.args(["+nightly", "miri", "test", "--package", "engine", "--lib", "--"]);
    miri.args(["wire::", "mailbox::", "handoff::", "time::", "frame::"]);
    run(miri.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "4"))
}

fn deny() -> Result<()> {
    if find("cargo-deny").is_none() {
        run(cargo().args(["install", "cargo-deny", "--locked"]))?;
    }
    run(cargo().args(["deny", "check", "licenses", "bans", "sources"]))
}

// ---- the steps that the tasks consist of --------------------------------------------------------

/// Builds the daemon and `ivctl`; gives the directory that has both.
fn build(release: bool) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--package", "ivswitchd", "--package", "ctl"]);
    if release {
        build.arg("--release");
    }
    run(&mut build)?;
    Ok(target_dir()?.join(if release { "release" } else { "debug" }))
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/xtask is two below")
}

/// The directory into which cargo builds, where this program was built too.
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

/// A command that runs as root: directly, or through `sudo`.
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

/// Installs the Debian packages of missing programs, if run as root.
fn install(lists: &[&[(&str, &str)]]) -> Result<()> {
    let missing = || {
        let wanted = lists.iter().flat_map(|list| list.iter());
        wanted.filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect::<Vec<_>>()
    };
    if missing().is_empty() {
        return Ok(());
    }
    let packages = missing().join(" ");
    if !is_root() || find("apt-get").is_none() {
        bail!(
            "missing on this machine: {packages}; install them, on Debian with: sudo apt-get install {packages}"
        );
    }
    run(Command::new("apt-get").args(["update", "-q"]))?;
    // Twice: installing one package may remove a conflicting one that was there, and the second round brings that
    // back.
    for _ in 0..2 {
        let missing = missing();
        if !missing.is_empty() {
            println!("== installing what is missing on this machine: apt-get install {}", missing.join(" "));
            let mut apt = Command::new("apt-get");
            apt.args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing);
            run(apt.env("DEBIAN_FRONTEND", "noninteractive"))?;
        }
    }
    Ok(())
}

/// Looks for a program in root's search path, or for a file by its path.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}
