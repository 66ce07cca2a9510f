//! `ivctl`: the operator's command. One file per noun; [`ctl::cli`] talks to the daemon and prints.

mod cache;
mod capture;
mod complete;
mod config;
mod decode;
mod demo;
mod doctor;
mod drops;
mod fdb;
mod fip;
mod guest;
mod log;
mod man;
mod monitor;
mod mtu;
mod neigh;
mod network;
mod peer;
mod port;
mod route;
mod status;
mod sysdump;
mod top;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use serde_json::{Value, json};

use ctl::cli::{
    AFTER_HELP, Client, DONE_WITH_WARNINGS, Failure, Global, Printer, Sheet, client, output, seconds,
};
use ctl::guest::verbs;

/// Controls the Inception Switch daemon, ivswitchd.
#[derive(Parser, Debug)]
#[command(name = "ivctl", version, after_help = AFTER_HELP, arg_required_else_help = true, infer_subcommands = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show everything on one screen
    Status,
    /// Show or set the kernel offload: the kernel itself forwards hot flows
    Cache {
        /// The new mode; without it, show the state
        mode: Option<cache::Mode>,
    },
    /// Networks: isolated L2 segments, one VNI each
    Network {
        #[command(subcommand)]
        verb: Option<network::Verb>,
    },
    /// Ports: interfaces that join a network
    Port {
        #[command(subcommand)]
        verb: Option<port::Verb>,
    },
    /// Peers: the other rVMs
    Peer {
        #[command(subcommand)]
        verb: Option<peer::Verb>,
    },
    /// Floating IPs
    Fip {
        #[command(subcommand)]
        verb: Option<fip::Verb>,
    },
    /// Source routes
    Route {
        #[command(subcommand)]
        verb: Option<route::Verb>,
    },
    /// MAC addresses and where they are
    Fdb {
        #[command(subcommand)]
        verb: Option<fdb::Verb>,
    },
    /// IP neighbours that the switch itself knows on the networks
    Neigh(neigh::Args),
    /// MTUs from the underlay to every port: their origins, their conflicts, and settings for the CMS
    Mtu,
    /// Dropped frames: their number, place and reason
    Drops(drops::Args),
    /// Explain the way of a frame through the switch, step by step: a frame from arguments, from a capture file, or
    /// the next that arrives
    Trace(Box<trace::Args>),
    /// Show frames of a port as they pass, or write them as pcapng with the verdict as comment
    Capture(capture::Args),
    /// Guests (iVMs): create, move and delete them through libvirt, with their ports and floating IPs
    Guest {
        #[command(flatten)]
        at: verbs::Where,
        #[command(subcommand)]
        verb: Option<verbs::GuestVerb>,
    },
    /// Volumes: disks for guests, in libvirt's storage pools
    Volume {
        #[command(flatten)]
        at: verbs::Where,
        #[command(subcommand)]
        verb: Option<verbs::VolumeVerb>,
    },
    /// The capacity of this host: virtualisation, processors, memory
    Host {
        #[command(flatten)]
        at: verbs::Where,
    },
    /// Images for guests
    Image {
        #[command(subcommand)]
        verb: verbs::ImageVerb,
    },
    /// The configuration as a whole
    Config {
        #[command(subcommand)]
        verb: config::Verb,
    },
    /// Print events as they happen, one per line: port, learned, moved, peer, path, mtu, config, flush, drops. In
    /// words on a terminal, otherwise and with --json as JSON objects
    Monitor(monitor::Args),
    /// Live rates and load, in the terminal
    Top(top::Args),
    /// Check the abilities and settings of this machine, with a remedy for each problem
    Doctor,
    /// Write a report with everything that a bug report needs, without secrets
    Sysdump(sysdump::Args),
    /// Show or change the daemon's log filter while it runs
    Log(log::Args),
    /// The Inception paper's cloud in network namespaces, for experiments
    Demo {
        #[command(subcommand)]
        demo: demo::Demo,
    },
    /// Print the completion script for a shell; the script asks the daemon for names
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages to a directory: ivctl's, ivswitch.toml(5) and ivswitchd(8)
    Man {
        /// The directory
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    complete::answer(Cli::command);
    let cli = Cli::parse();
    let printer = cli.global.printer();
    let result = run(cli.command, &cli.global, &printer);
    ExitCode::from(printer.end(result))
}

/// Runs a command, and returns the exit code.
fn run(command: Command, global: &Global, printer: &Printer) -> Result<u8, Failure> {
    let mut client = || global.client();
    match command {
        Command::Status => status::run(&mut client()?, printer),
        Command::Cache { mode } => cache::run(mode, &mut client()?, printer),
        Command::Network { verb } => {
            network::run(verb.unwrap_or(network::Verb::List), &mut client()?, printer)
        }
        Command::Port { verb } => port::run(verb.unwrap_or(port::Verb::List), &mut client()?, printer),
        Command::Peer { verb } => peer::run(verb.unwrap_or(peer::Verb::List), &mut client()?, printer),
        Command::Fip { verb } => fip::run(verb.unwrap_or(fip::Verb::List), &mut client()?, printer),
        Command::Route { verb } => route::run(verb.unwrap_or_default(), &mut client()?, printer),
        Command::Fdb { verb } => fdb::run(verb.unwrap_or_default(), &mut client()?, printer),
        Command::Neigh(args) => neigh::run(args, &mut client()?, printer),
        Command::Mtu => mtu::run(&mut client()?, printer),
        Command::Drops(args) if args.reasons => drops::reasons(printer),
        Command::Drops(args) => drops::run(&args, &mut client()?, printer),
        Command::Trace(args) => trace::run(&args, global, printer),
        Command::Capture(args) => capture::run(&args, client()?, printer),
        Command::Config { verb } => config::run(&verb, &mut client, printer),
        Command::Monitor(args) => monitor::run(&args, client()?, printer),
        Command::Top(args) => top::run(&args, &mut client()?, printer),
        Command::Doctor => doctor::run(global, printer),
        Command::Sysdump(args) => sysdump::run(&args, global, printer),
        Command::Log(args) => log::run(&args, &mut client()?, printer),
        Command::Guest { .. } | Command::Volume { .. } | Command::Host { .. } => Err(guest::hand_over()),
        Command::Image { verb: verbs::ImageVerb::Build(wish) } => {
            let dir = ctl::guest::image::build(&wish)?;
            printer.json_if_asked(&json!({ "dir": dir }))?;
            if !printer.is_json() {
                printer.text(&format!("ivctl guest create NAME --image {}\n", dir.display()))?;
            }
            Ok(0)
        }
        Command::Demo { demo } => Ok(demo::run(&demo, global.json)),
        Command::Completion { shell } => {
            printer.bytes(&complete::script(shell)?)?;
            Ok(0)
        }
        Command::Man { dir } => man::write(&dir, printer),
    }
}

/// The flags of `del`.
#[derive(clap::Args, Debug)]
struct DelFlags {
    /// Succeed if it does not exist
    #[arg(long)]
    if_exists: bool,
}

/// An object for the daemon, made from the given flags.
#[derive(Default)]
struct Object(serde_json::Map<String, Value>);

impl Object {
    fn put(mut self, key: &str, value: Option<impl serde::Serialize>) -> Self {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), json!(value));
        }
        self
    }

    fn list(self, key: &str, values: Vec<String>) -> Self {
        let given = !values.is_empty();
        self.put(key, given.then_some(values))
    }

    /// Sets keys back to their defaults. A key may be written like its flag, without the leading dashes.
    fn unset(mut self, keys: Vec<String>) -> Result<Self, Failure> {
        for key in keys {
            let key = key.trim_start_matches("--").replace('-', "_");
            if self.0.get(&key).is_some_and(|value| !value.is_null()) {
                let what = format!("--unset {key}");
                return Err(Failure::new(2, what, "the same call sets it", "leave out one of the two"));
            }
            self.0.insert(key, Value::Null);
        }
        Ok(self)
    }

    fn value(self) -> Value {
        Value::Object(self.0)
    }
}

/// Sends an edit and reports its result.
fn edit(client: &mut Client, printer: &Printer, method: &str, params: Value) -> Result<u8, Failure> {
    let edited: ctl::api::Edited = client.call(method, params)?;
    printer.json_if_asked(&edited)?;
    printer.warnings(&edited.warnings);
    Ok(if edited.warnings.is_empty() { 0 } else { DONE_WITH_WARNINGS })
}

/// Requests one object, and prints it as JSON (a list, like `ip -j`) or as sheets.
fn show<T: serde::Serialize + serde::de::DeserializeOwned>(
    client: &mut Client,
    printer: &Printer,
    method: &str,
    params: Value,
    sheet: impl Fn(&T) -> Sheet,
) -> Result<u8, Failure> {
    let answer: ctl::api::Rows<T> = client.call(method, params)?;
    if printer.is_json() {
        printer.json(&answer.rows)?;
    } else {
        let sheets: Vec<String> = answer.rows.iter().map(|row| sheet(row).render(printer.paint())).collect();
        printer.text(&sheets.join("\n"))?;
    }
    printer.warnings(&answer.warnings);
    Ok(if answer.warnings.is_empty() { 0 } else { DONE_WITH_WARNINGS })
}

/// Frames and bytes in words.
fn volume(frames: u64, bytes: u64) -> String {
    format!("{frames} frames, {bytes} bytes")
}

/// Requests a list, and prints it as JSON or with `table`.
fn list<T: serde::Serialize + serde::de::DeserializeOwned>(
    client: &mut Client,
    printer: &Printer,
    method: &str,
    params: Value,
    table: impl FnOnce(&[T]) -> output::Table,
) -> Result<u8, Failure> {
    let answer: ctl::api::Rows<T> = client.call(method, params)?;
    printer.rows(&answer.rows, table)?;
    printer.warnings(&answer.warnings);
    Ok(if answer.warnings.is_empty() { 0 } else { DONE_WITH_WARNINGS })
}

#[cfg(test)]
mod remedies;
#[cfg(test)]
mod tests;
