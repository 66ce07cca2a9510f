//! The common parts of the operator's commands: flags, the client, and the output.

pub mod client;
pub mod output;
pub mod paint;
pub mod sheet;
pub mod table;
pub mod words;

use std::path::PathBuf;

pub use client::Client;
pub use output::{Color, Failure, Printer};
pub use sheet::Sheet;
pub use table::Table;

/// The exit code of a command that succeeded with warnings.
pub const DONE_WITH_WARNINGS: u8 = 8;

/// The exit codes, for the end of a help text.
pub const AFTER_HELP: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 exists or in use, \
5 daemon not reachable, 6 no permission, 7 timed out (the change goes on), 8 done with warnings.";

/// The flags of every command, shown below a command's own.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print JSON, with iproute2's keys if iproute2 has the command
    #[arg(short, long, global = true)]
    pub json: bool,
    /// Indent the JSON
    #[arg(long, global = true)]
    pub pretty: bool,
    /// Control socket of the daemon
    #[arg(long, global = true, env = "IVS_SOCKET", default_value = crate::api::SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    /// Seconds to wait for the answer, and for a change to take effect
    #[arg(long, global = true, default_value_t = 5.0, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: f64,
    /// Return before a change takes effect
    #[arg(long, global = true)]
    pub no_wait: bool,
    /// Print errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Colours; NO_COLOR switches them off too
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
}

impl Global {
    /// Creates a printer for these flags.
    #[must_use]
    pub fn printer(&self) -> Printer {
        Printer::new(self.json, self.pretty, self.quiet, self.color)
    }

    /// Connects to the daemon.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn client(&self) -> Result<Client, Failure> {
        Client::connect(&self.socket, self.timeout, self.no_wait)
    }
}

/// Parses a timeout in seconds.
///
/// # Errors
/// When it is not from 0 to 600.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..=600.0).contains(&s) => Ok(s),
        _ => Err("a number of seconds from 0 to 600".to_owned()),
    }
}
