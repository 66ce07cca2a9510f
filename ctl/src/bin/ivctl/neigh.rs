//! `ivctl neigh`.

use ctl::api::NeighRow;

use crate::client::Client;
use crate::output::{Failure, Printer, Table};
use crate::{Object, list};

/// Which neighbours.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// `list`, which is the default
    #[arg(value_parser = ["list", "show"], hide_possible_values = true)]
    verb: Option<String>,
    /// Only of this network
    #[arg(long)]
    network: Option<String>,
}

/// Shows them.
pub fn run(args: &Args, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    let which = Object::default().put("network", args.network.as_ref()).value();
    list(client, printer, "neigh.list", which, table)
}

/// The table of neighbours.
pub fn table(rows: &[NeighRow]) -> Table {
    let mut table = Table::new(&["IP", "NETWORK", "MAC", "STATE", ">USED"]);
    for r in rows {
        table.row([
            r.dst.to_string(),
            r.dev.clone(),
            r.lladdr.clone().unwrap_or_default(),
            r.state.join(","),
            format!("{}s", r.used),
        ]);
    }
    table
}
