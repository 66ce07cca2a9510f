//! `ivctl fdb`.

use clap::Subcommand;
use ctl::api::FdbRow;
use serde_json::json;

use crate::client::Client;
use crate::output::{Failure, Printer, Table};
use crate::{DelFlags, Object, edit, list};

/// The verbs for MAC addresses.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show MAC addresses
    #[command(visible_alias = "show")]
    List {
        #[command(flatten)]
        which: Which,
        /// Only this MAC address
        #[arg(long)]
        mac: Option<String>,
        /// Only in this VLAN; 0 for untagged
        #[arg(long)]
        vlan: Option<u16>,
    },
    /// Add a static entry
    Add {
        /// The MAC address
        mac: String,
        /// The network
        #[arg(long)]
        network: String,
        /// The port that the address is behind
        #[arg(long, conflicts_with = "peer", required_unless_present = "peer")]
        port: Option<String>,
        /// The peer that the address is behind
        #[arg(long)]
        peer: Option<String>,
        /// The VLAN; without it, untagged
        #[arg(long)]
        vlan: Option<u16>,
        /// Succeed if the same entry exists already
        #[arg(long)]
        may_exist: bool,
    },
    /// Change the place of a static entry
    Set {
        /// The MAC address
        mac: String,
        /// The network
        #[arg(long)]
        network: String,
        /// The port that the address is behind
        #[arg(long, conflicts_with = "peer", required_unless_present = "peer")]
        port: Option<String>,
        /// The peer that the address is behind
        #[arg(long)]
        peer: Option<String>,
        /// The VLAN; without it, untagged
        #[arg(long)]
        vlan: Option<u16>,
    },
    /// Delete an entry, static or learned
    Del {
        /// The MAC address
        mac: String,
        /// The network
        #[arg(long)]
        network: String,
        /// The VLAN; without it, untagged
        #[arg(long)]
        vlan: Option<u16>,
        #[command(flatten)]
        flags: DelFlags,
    },
    /// Forget learned entries
    Flush {
        #[command(flatten)]
        which: Which,
    },
}

impl Default for Verb {
    fn default() -> Self {
        Self::List { which: Which::default(), mac: None, vlan: None }
    }
}

/// A selection of entries.
#[derive(clap::Args, Debug, Default)]
pub struct Which {
    /// Only in this network
    #[arg(long)]
    network: Option<String>,
    /// Only behind this port
    #[arg(long, conflicts_with = "peer")]
    port: Option<String>,
    /// Only behind this peer
    #[arg(long)]
    peer: Option<String>,
}

impl Which {
    fn object(self) -> Object {
        Object::default().put("network", self.network).put("port", self.port).put("peer", self.peer)
    }
}

/// Runs a verb.
pub fn run(verb: Verb, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    let key = |mac, network, vlan: Option<u16>| {
        Object::default().put("mac", Some(mac)).put("network", Some(network)).put("vlan", vlan)
    };
    match verb {
        Verb::List { which, mac, vlan } => {
            let which = which.object().put("mac", mac).put("vlan", vlan).value();
            list(client, printer, "fdb.list", which, table)
        }
        Verb::Add { mac, network, port, peer, vlan, may_exist } => {
            let object = key(mac, network, vlan).put("port", port).put("peer", peer).value();
            edit(client, printer, "fdb.add", json!({ "object": object, "may_exist": may_exist }))
        }
        Verb::Set { mac, network, port, peer, vlan } => {
            let set = json!({ "port": port, "peer": peer });
            edit(client, printer, "fdb.set", key(mac, network, vlan).put("set", Some(set)).value())
        }
        Verb::Del { mac, network, vlan, flags } => {
            let which = key(mac, network, vlan).put("if_exists", Some(flags.if_exists));
            edit(client, printer, "fdb.del", which.value())
        }
        Verb::Flush { which } => edit(client, printer, "fdb.flush", which.object().value()),
    }
}

/// The table of MAC addresses.
pub fn table(rows: &[FdbRow]) -> Table {
    let mut table = Table::new(&["MAC", "NETWORK", ">VLAN", "PORT", "PEER", "VTEP", "STATE", ">USED"]);
    for r in rows {
        table.row([
            r.mac.clone(),
            r.network.clone(),
            r.vlan.map(|v| v.to_string()).unwrap_or_default(),
            r.ifname.clone(),
            r.peer.clone().unwrap_or_default(),
            r.dst.map(|ip| ip.to_string()).unwrap_or_default(),
            r.state.clone(),
            format!("{}s", r.used),
        ]);
    }
    table
}
