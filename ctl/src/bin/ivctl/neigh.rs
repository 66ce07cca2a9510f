//! `ivctl neigh`.

use clap::Subcommand;
use ctl::api::NeighRow;

use crate::client::Client;
use crate::output::{Failure, Printer, Table};
use crate::{Object, edit, list};

/// The arguments of `ivctl neigh`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Only neighbours on this network
    #[arg(long)]
    network: Option<String>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// The verbs of `ivctl neigh`.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show neighbours
    #[command(visible_alias = "show")]
    List {
        /// Only neighbours on this network
        #[arg(long)]
        network: Option<String>,
    },
    /// Forget the MAC addresses of neighbours, and ask again
    Flush {
        /// Only neighbours on this network
        #[arg(long)]
        network: Option<String>,
    },
}

/// Runs a verb; without one, shows the neighbours.
pub fn run(args: Args, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    let Args { network, verb } = args;
    let which = |network: Option<String>| Object::default().put("network", network).value();
    match verb.unwrap_or(Verb::List { network }) {
        Verb::List { network } => list(client, printer, "neigh.list", which(network), table),
        Verb::Flush { network } => edit(client, printer, "neigh.flush", which(network)),
    }
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
