//! `ivctl-guest`: nested guests and volumes through libvirt. It implements `ivctl guest`, `volume` and `host`.
//!
//! It is a separate program because it links libvirt, and because libvirt's calls block: neither the switch nor
//! `ivctl` may depend on that. It talks to two daemons, libvirt and the switch, and keeps a guest's parts in both
//! consistent: see [`create`] for how a failed step leaves nothing behind in either daemon.

mod console;
mod create;
mod demo;
mod devices;
mod guest;
mod host;
mod libvirt;
mod migrate;
mod policy;
mod schedule;
mod snapshot;
mod sockets;
mod storage;
mod switch;
mod volume;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ctl::cli::{AFTER_HELP, Failure, Global, Printer};
use ctl::guest::verbs::{GuestVerb, VolumeVerb, Where};

/// Nested guests and volumes of the Inception Switch, through libvirt. Usually run as ivctl guest, volume, host.
#[derive(Parser, Debug)]
#[command(name = "ivctl-guest", version, after_help = AFTER_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    at: Where,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Guests (iVMs)
    Guest {
        #[command(subcommand)]
        verb: Option<GuestVerb>,
    },
    /// Volumes in libvirt's storage pools
    Volume {
        #[command(subcommand)]
        verb: Option<VolumeVerb>,
    },
    /// The capacity of this host
    Host,
}

/// The context of every verb.
struct Here<'a> {
    global: &'a Global,
    uri: &'a str,
    printer: &'a Printer,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Stop libvirt from printing errors; ours say what, why and how.
    virt::error::clear_error_callback();
    let printer = cli.global.printer();
    let done = carry_out(cli, &printer);
    ExitCode::from(printer.end(done))
}

/// Carries out a command line with its flags.
fn carry_out(cli: Cli, printer: &Printer) -> Result<u8, Failure> {
    run(&Here { global: &cli.global, uri: &cli.at.connect, printer }, cli.command)
}

/// Carries out a command, and returns the exit code.
fn run(here: &Here<'_>, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Guest { verb } => guest::run(here, verb.unwrap_or(GuestVerb::List)),
        Command::Volume { verb } => volume::run(here, verb.unwrap_or(VolumeVerb::List { pool: None })),
        Command::Host => host::run(here),
    }
}
