//! The Inception Switch daemon: its command line, and the assembly of the parts.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use ctl::agent::{Agent, Options};
use ctl::io::IoKind;
use ctl::{api, model};
use engine::worker::Worker;
use ivswitchd::confine::Confinement;
use ivswitchd::control::{self, Control, Setup};
use ivswitchd::identity::Identity;
use ivswitchd::ports::afxdp::Kept;
use ivswitchd::ports::host::{HostPort, UplinkIndex};
use ivswitchd::ports::own::OwnWatch;
use ivswitchd::{clock, closed, links, log, metrics, ports, privileges};
use sd_notify::NotifyState;

/// The tables are large, and lookups are random.
#[global_allocator]
static ALLOCATOR: hugepages::HugePages<std::alloc::System> = hugepages::HugePages(std::alloc::System);

/// How long to wait before ending for a refused configuration, if a supervisor restarts us immediately: until
/// the configuration is corrected, restarting is all that would happen.
const REFUSED: Duration = Duration::from_secs(1);

/// The Inception Switch daemon: an L2 overlay switch for rented virtual machines.
///
/// It reads one TOML file (a missing file is fine: ivctl can set everything, and writes the file), opens the
/// interfaces named there through AF_XDP, and switches between them and other rVMs by VXLAN.
///
/// SIGTERM or SIGINT ends it. It then removes what it made, except for doors: the interfaces given to a cloud
/// management system stay, with their addresses and bridge membership, and the next start takes them over.
/// `ivctl port del` removes one. The rule that closes reality addresses of floating IPs to the kernel also
/// stays (see --close) until the mapping is removed. SIGHUP reads the files again. Frames that are not
/// switched go to the kernel the whole time.
#[derive(Parser, Debug)]
#[command(name = "ivswitchd", version)]
struct Arguments {
    /// The configuration file; ivctl's edits are written back to it. FILE.d/*.toml add to it. A file named
    /// here must exist
    #[arg(long, value_name = "FILE", env = "IVS_CONFIG", default_value = api::CONFIG)]
    config: PathBuf,

    /// The socket where ivctl finds the daemon
    #[arg(long, value_name = "PATH", env = "IVS_SOCKET", default_value = api::SOCKET)]
    socket: PathBuf,

    /// Cores that the workers may run on, such as 1 or 0,2-3; one for each if there are enough (default:
    /// [workers] cpus, or any)
    #[arg(long, value_name = "LIST", value_parser = cores)]
    cpu: Option<Cores>,

    /// Group whose members may change things through the control socket; its own group may only read
    /// [default: ivswitch-admin, if it exists]
    #[arg(long, value_name = "GROUP")]
    admin_group: Option<String>,

    /// Whether workers may make only the system calls that forwarding needs; any other ends the daemon. `off`
    /// for debuggers
    #[arg(long, value_name = "WHEN", value_parser = ["on", "off"], default_value = "on")]
    confine: String,

    /// Take one system call off the workers' list; for the test that each is needed
    #[arg(long, value_name = "NAME", hide = true)]
    without_syscall: Option<String>,

    /// Print the workers' list of system calls; for the same test
    #[arg(long, hide = true)]
    list_syscalls: bool,

    /// Print the man page
    #[arg(long, hide = true)]
    man: bool,

    /// Directory for the state that the next boot needs
    #[arg(long, value_name = "DIR", env = "IVS_STATE", default_value = "/var/lib/ivswitch")]
    state: PathBuf,

    /// Close the reality addresses of floating IPs whose gateway is this rVM to its own kernel, and end. For
    /// use at boot, before the network is up and the switch runs. A running daemon does this by itself
    #[arg(long, conflicts_with = "check")]
    close: bool,

    /// Another program instead of nft; for the test of a machine without it
    #[arg(long, value_name = "PATH", hide = true)]
    nft: Option<PathBuf>,

    /// Check this configuration file, print its errors, and end
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,

    /// The level to log: error, warn, info, debug, trace, or a filter such as ivswitchd::links=debug
    #[arg(long, value_name = "LEVEL", env = "IVS_LOG", default_value = "info")]
    log_level: String,

    /// The form of the log's lines
    #[arg(long, value_name = "FORMAT", env = "IVS_LOG_FORMAT", value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,

    /// Serve metrics for Prometheus: unix:PATH, or a loopback address such as 127.0.0.1:9477
    #[arg(long, value_name = "PLACE", env = "IVS_METRICS")]
    metrics: Option<metrics::Place>,
}

/// Cores by number.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Cores(Vec<usize>);

fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    let asked_for = matches.value_source("config").is_some_and(|source| source != ValueSource::DefaultValue);
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Some(nft) = &arguments.nft {
        closed::use_program(nft.clone());
    }
    let result = match &arguments.check {
        Some(file) => check(file),
        None if arguments.close => close(&arguments, asked_for),
        None if arguments.man => {
            let page = clap_mangen::Man::new(Arguments::command()).section("8");
            page.render(&mut io::stdout()).map_err(Into::into)
        }
        None if arguments.list_syscalls => {
            Confinement::names().for_each(|name| println!("{name}"));
            Ok(())
        }
        None => run(&arguments, asked_for),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the log's time and level: this is for a user who started the daemon by hand.
            eprintln!("ivswitchd: {error:#}");
            if error.is::<Refused>() && std::env::var_os("NOTIFY_SOCKET").is_some() {
                let _ =
                    sd_notify::notify(&[NotifyState::Status("the configuration is refused: see the log")]);
                std::thread::sleep(REFUSED);
            }
            ExitCode::FAILURE
        }
    }
}

fn check(file: &Path) -> anyhow::Result<()> {
    let (text, drop_ins) = model::read_files(file).map_err(anyhow::Error::msg)?;
    let text = text.with_context(|| format!("{}: there is no such file", file.display()))?;
    let config = model::parse_layers(&text, &drop_ins, Some(&model::name_of_host(&hostname())));
    config.map_err(|errors| complain(file, &errors))?;
    println!("{}: fine", file.display());
    Ok(())
}

/// Closes the addresses of the configuration; if that is refused, the addresses that were closed before.
fn close(arguments: &Arguments, asked_for: bool) -> anyhow::Result<()> {
    let name = model::name_of_host(&hostname());
    let config = read_files(arguments, asked_for).and_then(|(text, drop_ins)| {
        model::parse_layers(&text.unwrap_or_default(), &drop_ins, Some(&name))
            .map_err(|errors| complain(&arguments.config, &errors))
    });
    let said = match config {
        Ok(layers) => {
            let name = layers.whole.name.clone().unwrap_or(name);
            closed::close_for(&layers.whole, &name, &arguments.state)
        }
        Err(error) => {
            eprintln!("ivswitchd: {error:#}");
            closed::close_as_before(&arguments.state)
        }
    };
    println!("{}", said.map_err(anyhow::Error::msg)?);
    Ok(())
}

/// Reads the configuration file and its drop-ins. A file that was `asked_for` must exist.
fn read_files(
    arguments: &Arguments,
    asked_for: bool,
) -> anyhow::Result<(Option<String>, Vec<model::DropIn>)> {
    let (text, drop_ins) = model::read_files(&arguments.config).map_err(anyhow::Error::msg)?;
    let file = arguments.config.display();
    anyhow::ensure!(
        text.is_some() || !asked_for || !drop_ins.is_empty(),
        "--config {file}: there is no such file; correct the path, or begin with an empty one: touch {file}"
    );
    Ok((text, drop_ins))
}

fn run(arguments: &Arguments, asked_for: bool) -> anyhow::Result<()> {
    log::start(&arguments.log_level, arguments.log_format)?;
    let (text, drop_ins) = read_files(arguments, asked_for)?;
    if text.is_none() {
        tracing::info!("{}: not there; starting empty", arguments.config.display());
    }
    let name = model::name_of_host(&hostname());
    let config = model::parse_layers(text.as_deref().unwrap_or_default(), &drop_ins, Some(&name))
        .map_err(|errors| complain(&arguments.config, &errors))?
        .whole;
    let filtered = config.port.iter().filter(|port| port.means() == IoKind::Packet);
    let filtered: BTreeSet<String> = filtered.map(|port| port.attached_to()).collect();
    let cpus = arguments.cpu.clone().map_or(config.workers.cpus, |cores| cores.0);
    let count = config.workers.count.of(cores_allowed());
    let uplink = config.uplink.as_ref().and_then(|uplink| links::mac_of(&uplink.interface));
    let identity = Identity::take(&arguments.state, uplink);
    let options = Options {
        identity: Some(identity.value()),
        identity_file: identity.file().map(|file| file.display().to_string()),
        hostname: hostname(),
        config_text: text,
        drop_ins,
        config_path: std::path::absolute(&arguments.config).unwrap_or_else(|_| arguments.config.clone()),
        persist: true,
        workers: count,
        secret: RandomState::new().build_hasher().finish(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let agent = Agent::new(clock::now(), options).map_err(|errors| complain(&arguments.config, &errors))?;

    let (pool, kept) = Kept::take_up(ports::keep::inherited(), count)?;
    let umem = pool.handle();
    privileges::keep_only_what_is_needed()?;
    privileges::allow_open_files();
    abort_on_panic();
    ports::packet::remove_left(&filtered);
    let (writers, cache) = ports::afxdp::cache::create(count).context("the maps of the XDP programs")?;
    let mut machines = Vec::new();
    let uplink = UplinkIndex::default();
    for ((me, links), writer) in engine::handoff::mesh(count).into_iter().enumerate().zip(writers) {
        let (mailbox, handle) = engine::mailbox::mailbox();
        // Attackers choose MAC addresses, so the hash key is new at every start.
        let seed = RandomState::new().build_hasher().finish();
        let mut worker = Worker::new(pool.sibling(), mailbox, seed);
        worker.join(me, links);
        worker.attach_cache(Box::new(writer));
        worker.attach_host(Box::new(HostPort::open(uplink.clone())?));
        worker.attach_own(Arc::new(OwnWatch));
        machines.push((worker, handle));
    }
    drop(pool);
    let control = Control::start(Setup {
        agent,
        machines,
        uplink,
        umem,
        kept,
        cache,
        socket: arguments.socket.clone(),
        config: arguments.config.clone(),
        state: arguments.state.clone(),
        cpus,
        admins: match &arguments.admin_group {
            Some(name) => Some(control::group_number(name).with_context(|| {
                format!("--admin-group {name}: there is no such group; make it, or leave the option out")
            })?),
            None => control::group_number("ivswitch-admin"),
        },
        confinement: match arguments.confine.as_str() {
            "off" => Confinement::off(),
            _ => Confinement::new(arguments.without_syscall.as_deref())?,
        },
    })?;
    if let Some(place) = &arguments.metrics {
        metrics::serve(place, &arguments.socket)?;
    }
    let end = control.run();
    drop(identity);
    if let Some(metrics::Place::Unix(path)) = &arguments.metrics {
        // The file may be gone already.
        let _ = fs::remove_file(path);
    }
    end
}

/// The number of cores that this process may run on.
fn cores_allowed() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A refused configuration, with all its errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// All errors, one line each.
fn complain(file: &Path, errors: &[model::ConfigError]) -> anyhow::Error {
    let lines: Vec<String> = errors.iter().map(|error| format!("{}: {error}", file.display())).collect();
    Refused(lines.join("\n")).into()
}

/// A panic in one thread must not leave the others running half a switch. The kernel then takes our programs
/// off the interfaces, so the rVM stays reachable, and the supervisor restarts the daemon.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Parses `0,2-3`.
fn cores(text: &str) -> anyhow::Result<Cores> {
    const CORES_MAX: usize = 1024;
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.trim()
                .parse::<usize>()
                .with_context(|| format!("\"{text}\" is no core; give numbers such as 0,2-3"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= CORES_MAX {
            bail!("\"{part}\" is no range of cores; give numbers such as 0,2-3");
        }
        cores.extend(first..=last);
    }
    Ok(Cores(cores))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores() {
        assert_eq!(cores("1").unwrap().0, [1]);
        assert_eq!(cores("0, 2-4").unwrap().0, [0, 2, 3, 4]);
        for wrong in ["", "a", "3-1", "1,", "-1", "0-99999999999", "0-9999"] {
            assert!(cores(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
