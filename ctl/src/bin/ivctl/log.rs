//! `ivctl log`.

use ctl::api::LogShown;

use crate::Object;
use crate::client::Client;
use crate::output::{Failure, Printer};

/// The arguments of `ivctl log`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// error, warn, info, debug, trace, or a filter such as ivswitchd::links=debug; without it, show the present
    /// filter
    #[arg(value_name = "LEVEL")]
    level: Option<String>,
}

/// Sets the filter until the daemon ends, or shows it.
pub fn run(args: &Args, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    let params = Object::default().put("filter", args.level.as_ref()).value();
    let shown: LogShown = client.call("log.level", params)?;
    if printer.is_json() {
        printer.json(&shown)?;
    } else if args.level.is_none() {
        printer.text(&format!("{}\n", shown.filter))?;
    }
    Ok(0)
}
