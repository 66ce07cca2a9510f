//! `ivctl cache`.

use std::fmt::Write as _;

use clap::ValueEnum;
use ctl::api::{CacheRow, Status};
use serde_json::json;

use crate::client::Client;
use crate::edit;
use crate::output::{Failure, Printer, plain};

/// Whether the kernel itself forwards hot flows.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Between interfaces where it is proven to work
    Auto,
    /// Between all native XDP interfaces and those of kind `packet`
    On,
    /// Not at all
    Off,
}

/// Shows the mode of the kernel offload, or sets it.
pub fn run(mode: Option<Mode>, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    let Some(mode) = mode else {
        let status: Status = client.call("status", json!({}))?;
        if printer.is_json() {
            printer.json(&status.cache)?;
        } else {
            printer.text(&line(&status.cache))?;
        }
        return Ok(0);
    };
    let mode = match mode {
        Mode::Auto => "auto",
        Mode::On => "on",
        Mode::Off => "off",
    };
    edit(client, printer, "cache.set", json!({ "mode": mode }))
}

/// The line about the kernel offload in `ivctl status`.
pub fn line(c: &CacheRow) -> String {
    if !c.on {
        return format!("kernel offload: off ({})\n", plain(&c.reason));
    }
    let mut text =
        format!("kernel offload: on, {} flows, {} frames forwarded by the kernel\n", c.flows, c.hits);
    for out in &c.left_out {
        let _ = writeln!(text, "  not to {}: {}", plain(&out.link), plain(&out.reason));
    }
    text
}
