//! What runs at both ends of a measurement: on the host, in a guest, in a guest's guest. The same program at every
//! level, so that what differs is the level. Each client prints one line of JSON.

pub mod agent;
mod machine;
mod network;
mod relay;
mod remote;
mod web;

use anyhow::Result;

/// What to do at this end.
#[derive(clap::Subcommand)]
pub enum Probe {
    /// Answer all network probes, until killed
    Serve,
    /// Round trips of a 64-byte UDP message, one after the other
    Rtt {
        /// Whose
        address: String,
        /// For so long
        seconds: f64,
    },
    /// TCP in messages of 32 KiB, counted where it arrives
    Tcp {
        /// Whose
        address: String,
        /// For so long
        seconds: f64,
    },
    /// UDP messages of 18 bytes (frames of 60) as fast as they go, counted where they arrive
    Small {
        /// Whose
        address: String,
        /// For so long
        seconds: f64,
    },
    /// A link: frames between two interfaces, each kept for so long
    Relay {
        /// One interface
        a: String,
        /// The other
        b: String,
        /// One-way latency
        milliseconds: f64,
    },
    /// A shell for the other end of a link
    Shell,
    /// Run a command by the shell there
    Remote {
        /// Whose
        address: String,
        /// The command
        command: String,
    },
    /// Wait for the first packet of a guest
    First,
    /// Send it, until it is heard
    Hello {
        /// To whom
        address: String,
    },
    /// The longest time without an answer
    Outage {
        /// Whose
        address: String,
        /// For so long
        seconds: f64,
        /// Between two messages
        interval_ms: f64,
    },
    /// A web server with a small database
    Web,
    /// Users of it
    Users {
        /// Whose
        address: String,
        /// How many
        count: u64,
        /// For so long
        seconds: f64,
    },
    /// Block I/O on a file or a disk
    Disk {
        /// Which
        path: String,
        /// For each kind of request
        seconds: f64,
    },
    /// What programs of the UNIX benchmark do
    Processor {
        /// For each
        seconds: f64,
    },
    /// Run a command by the agent of a guest of this guest, and print what it says
    Agent {
        /// The agent's socket
        socket: String,
        /// The command, in hexadecimal
        command: String,
        /// No longer than this
        seconds: f64,
    },
}

/// Does it.
///
/// # Errors
/// The other end does not answer.
pub fn run(probe: &Probe) -> Result<()> {
    match probe {
        Probe::Serve => network::serve(),
        Probe::Rtt { address, seconds } => network::rtt(address, *seconds),
        Probe::Tcp { address, seconds } => network::tcp(address, *seconds),
        Probe::Small { address, seconds } => network::small(address, *seconds),
        Probe::Relay { a, b, milliseconds } => relay::run(a, b, *milliseconds),
        Probe::Shell => remote::serve(),
        Probe::Remote { address, command } => remote::ask(address, command),
        Probe::First => remote::first(),
        Probe::Hello { address } => remote::hello(address),
        Probe::Outage { address, seconds, interval_ms } => remote::outage(address, *seconds, *interval_ms),
        Probe::Web => web::serve(),
        Probe::Users { address, count, seconds } => web::users(address, *count, *seconds),
        Probe::Disk { path, seconds } => machine::disk(path, *seconds),
        Probe::Processor { seconds } => machine::processor(*seconds),
        Probe::Agent { socket, command, seconds } => agent::relay(socket, command, *seconds),
    }
}
