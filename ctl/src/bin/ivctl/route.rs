//! `ivctl route`.

use clap::Subcommand;
use ctl::api::RouteRow;
use ctl::cli::Sheet;
use serde_json::json;

use crate::client::Client;
use crate::output::{Failure, Printer, Table};
use crate::{DelFlags, Object, edit, list, show};

/// The verbs for source routes.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show all source routes
    List {
        /// Only routes of this network
        #[arg(long)]
        network: Option<String>,
    },
    /// Show one source route in full
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Add a source route
    Add {
        #[command(flatten)]
        which: Which,
        /// Next hop: a peer, or a router's address on the network
        #[arg(long)]
        via: String,
        /// Succeed if the same route exists already
        #[arg(long)]
        may_exist: bool,
    },
    /// Change the next hop of a source route
    Set {
        #[command(flatten)]
        which: Which,
        /// Next hop: a peer, or a router's address on the network
        #[arg(long)]
        via: String,
    },
    /// Delete a source route
    Del {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        flags: DelFlags,
    },
}

impl Default for Verb {
    fn default() -> Self {
        Self::List { network: None }
    }
}

/// A selection of a route.
#[derive(clap::Args, Debug)]
pub struct Which {
    /// Source prefix
    #[arg(value_name = "PREFIX")]
    from: String,
    /// The network
    #[arg(long)]
    network: String,
}

impl Which {
    fn object(self) -> Object {
        Object::default().put("from", Some(self.from)).put("network", Some(self.network))
    }
}

/// Runs a verb.
pub fn run(verb: Verb, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    match verb {
        Verb::List { network } => {
            list(client, printer, "route.list", Object::default().put("network", network).value(), table)
        }
        Verb::Show { which } => show(client, printer, "route.list", which.object().value(), sheet),
        Verb::Add { which, via, may_exist } => {
            let object = which.object().put("via", Some(via)).value();
            edit(client, printer, "route.add", json!({ "object": object, "may_exist": may_exist }))
        }
        Verb::Set { which, via } => {
            edit(client, printer, "route.set", which.object().put("set", Some(json!({ "via": via }))).value())
        }
        Verb::Del { which, flags } => {
            edit(client, printer, "route.del", which.object().put("if_exists", Some(flags.if_exists)).value())
        }
    }
}

/// A source route in full.
fn sheet(r: &RouteRow) -> Sheet {
    let kind = if r.to_peer { "a peer" } else { "a router on the network" };
    Sheet::new("route", &r.from)
        .line("network", &r.network)
        .line("next hop", format!("{}, {kind}", r.via))
        .configured("route", r.config.as_ref())
}

/// The table of source routes.
pub fn table(rows: &[RouteRow]) -> Table {
    let mut table = Table::new(&["FROM", "NETWORK", "VIA"]);
    for r in rows {
        table.row([r.from.clone(), r.network.clone(), r.via.clone()]);
    }
    table
}
