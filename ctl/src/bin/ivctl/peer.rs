//! `ivctl peer`.

use std::net::IpAddr;

use clap::Subcommand;
use ctl::api::{PeerRow, PeerState};
use serde_json::json;

use crate::client::Client;
use crate::network::some;
use crate::output::{Failure, Printer, Table};
use crate::{DelFlags, Object, edit, list};

/// What can be done with peers.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show all
    List,
    /// Show one
    Show {
        /// Its name
        name: String,
    },
    /// Add one
    Add {
        /// Its name
        name: String,
        /// Its VTEP as we reach it
        #[arg(long, value_name = "IP")]
        address: IpAddr,
        #[command(flatten)]
        flags: Flags,
        /// Fine when just this is there already
        #[arg(long)]
        may_exist: bool,
    },
    /// Change one
    Set {
        /// Its name
        name: String,
        /// Its VTEP as we reach it
        #[arg(long, value_name = "IP")]
        address: Option<IpAddr>,
        #[command(flatten)]
        flags: Flags,
        /// Keys to set back to their defaults
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
    },
    /// Delete one that nothing uses
    Del {
        /// Its name
        name: String,
        #[command(flatten)]
        flags: DelFlags,
    },
}

/// What a peer can have.
#[derive(clap::Args, Debug)]
pub struct Flags {
    /// Networks it takes part in, with commas between
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    networks: Vec<String>,
    /// Reached through this peer, which relays
    #[arg(long, value_name = "PEER")]
    via: Option<String>,
    /// Whether we relay for it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    relay: Option<bool>,
    /// Largest underlay IP packet that reaches it
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Whether larger tunnel packets go to it as IP fragments
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    fragment: Option<bool>,
}

impl Flags {
    fn object(self) -> Object {
        Object::default()
            .list("networks", self.networks)
            .put("via", self.via)
            .put("relay", self.relay)
            .put("mtu", self.mtu)
            .put("fragment", self.fragment)
    }
}

/// Runs one of them.
pub fn run(verb: Verb, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    match verb {
        Verb::List => list(client, printer, "peer.list", json!({}), table),
        Verb::Show { name } => list(client, printer, "peer.list", json!({ "name": name }), table),
        Verb::Add { name, address, flags, may_exist } => {
            let object = flags.object().put("name", Some(name)).put("address", Some(address)).value();
            edit(client, printer, "peer.add", json!({ "object": object, "may_exist": may_exist }))
        }
        Verb::Set { name, address, flags, unset } => {
            let set = flags.object().put("address", address).unset(unset).value();
            edit(client, printer, "peer.set", json!({ "name": name, "set": set }))
        }
        Verb::Del { name, flags } => {
            edit(client, printer, "peer.del", json!({ "name": name, "if_exists": flags.if_exists }))
        }
    }
}

/// The table of peers.
pub fn table(rows: &[PeerRow]) -> Table {
    let heads = [
        "PEER", "VTEP", "VIA", "RELAY", "STATE", "ANSWERED", "NETWORKS", ">MTU", "NEXT HOP", ">RX", ">TX",
        "NOTE",
    ];
    let mut table = Table::new(&heads);
    for r in rows {
        table.row([
            r.name.clone(),
            r.address.to_string(),
            r.via.clone().unwrap_or_default(),
            if r.relay { "yes".to_owned() } else { String::new() },
            r.state.to_string(),
            r.answered.map(ago).unwrap_or_default(),
            some(&r.networks),
            r.mtu.to_string(),
            r.lladdr.clone().unwrap_or_else(|| if r.no_route { "no route" } else { "unresolved" }.to_owned()),
            r.rx.to_string(),
            r.tx.to_string(),
            note(r),
        ]);
    }
    table
}

/// The cause of its state, and the networks that it refuses.
fn note(r: &PeerRow) -> String {
    let refuses = (!r.refuses.is_empty() && r.state == PeerState::Up)
        .then(|| format!("refuses packets of {}", r.refuses.join(", ")));
    let why = Some(r.why.clone()).filter(|why| !why.is_empty());
    why.into_iter().chain(refuses).collect::<Vec<_>>().join("; ")
}

/// How long ago something was: `3 s ago`.
pub fn ago(seconds: u64) -> String {
    match seconds {
        0 => "now".to_owned(),
        s if s < 120 => format!("{s} s ago"),
        s if s < 7200 => format!("{} min ago", s / 60),
        s => format!("{} h ago", s / 3600),
    }
}
