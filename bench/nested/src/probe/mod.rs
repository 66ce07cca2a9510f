//! The program that runs at both ends of a measurement: on the host, in a guest, in a guest's guest. It is the same
//! at every level, so that only the level differs. Each client prints one line of JSON.

pub mod agent;
mod machine;
mod network;
mod relay;
mod remote;
mod web;

use anyhow::Result;

/// The action of this end.
#[derive(clap::Subcommand)]
pub enum Probe {
    /// Answer all network probes, until killed
    Serve,
    /// Round trips of a 64-byte UDP message, one after another
    Rtt {
        /// Address of the server
        address: String,
        /// How long
        seconds: f64,
    },
    /// TCP in messages of 32 KiB, counted where it arrives
    Tcp {
        /// Address of the server
        address: String,
        /// How long
        seconds: f64,
    },
    /// UDP messages of 18 bytes (frames of 60) at full speed, counted where they arrive
    Small {
        /// Address of the server
        address: String,
        /// How long
        seconds: f64,
    },
    /// A link: frames between two interfaces, delayed by the latency
    Relay {
        /// One interface
        a: String,
        /// The other interface
        b: String,
        /// One-way latency
        milliseconds: f64,
    },
    /// A shell for the other end of a link
    Shell,
    /// Run a command in the shell there
    Remote {
        /// Address of the shell
        address: String,
        /// The command
        command: String,
    },
    /// Wait for the first packet of a guest
    First,
    /// Send that packet until it is received
    Hello {
        /// Address of the receiver
        address: String,
    },
    /// The longest time without an answer
    Outage {
        /// Address of the server
        address: String,
        /// How long
        seconds: f64,
        /// Time between two messages
        interval_ms: f64,
    },
    /// A web server with a small database
    Web,
    /// Users of that web server
    Users {
        /// Address of the server
        address: String,
        /// Number of users
        count: u64,
        /// How long
        seconds: f64,
    },
    /// Block I/O on a file or a disk
    Disk {
        /// The file or disk
        path: String,
        /// How long, for each kind of request
        seconds: f64,
    },
    /// Operations of the UNIX benchmark's programs
    Processor {
        /// How long, for each operation
        seconds: f64,
    },
    /// Run a command through the agent of a guest of this guest, and print its output
    Agent {
        /// The agent's socket
        socket: String,
        /// The command, in hexadecimal
        command: String,
        /// Time limit
        seconds: f64,
    },
}

/// Runs the action.
///
/// # Errors
/// When the other end does not answer.
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
