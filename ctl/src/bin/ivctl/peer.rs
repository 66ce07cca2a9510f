//! `ivctl peer`.

use std::net::IpAddr;

use clap::Subcommand;
use ctl::api::{PeerRow, PeerState};
use ctl::cli::Sheet;
use ctl::cli::words::{ago, span};
use serde_json::{Value, json};

use crate::client::Client;
use crate::network::some;
use crate::output::{Failure, Printer, Table};
use crate::{DelFlags, Object, edit, list, show, volume};

/// The verbs for peers.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show all peers
    List,
    /// Show one peer in full
    Show {
        /// Name of the peer
        name: String,
    },
    /// Add a peer
    Add {
        /// Name of the peer
        name: String,
        /// VTEP of the peer, as we reach it
        #[arg(long, value_name = "IP")]
        address: IpAddr,
        #[command(flatten)]
        flags: Flags,
        /// Succeed if the same peer exists already
        #[arg(long)]
        may_exist: bool,
    },
    /// Change a peer
    Set {
        /// Name of the peer
        name: String,
        /// VTEP of the peer, as we reach it
        #[arg(long, value_name = "IP")]
        address: Option<IpAddr>,
        #[command(flatten)]
        flags: Flags,
        /// Keys to set back to their defaults
        #[arg(long, value_name = "KEY", value_delimiter = ',')]
        unset: Vec<String>,
    },
    /// Delete a peer that nothing uses
    Del {
        /// Name of the peer
        name: String,
        #[command(flatten)]
        flags: DelFlags,
    },
}

/// The settings of a peer.
#[derive(clap::Args, Debug)]
pub struct Flags {
    /// Networks that the peer takes part in, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    networks: Vec<String>,
    /// Reach the peer through this other peer, which relays
    #[arg(long, value_name = "PEER")]
    via: Option<String>,
    /// Whether we relay for the peer
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    relay: Option<bool>,
    /// Largest underlay IP packet that reaches the peer
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Whether larger tunnel packets go to the peer as IP fragments
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    fragment: Option<bool>,
    /// TTL of tunnel packets to the peer, or `inherit` for that of the inner packet
    #[arg(long, value_name = "TTL", value_parser = outer)]
    ttl: Option<Value>,
    /// TOS of tunnel packets to the peer, or `inherit` for that of the inner packet
    #[arg(long, value_name = "TOS", value_parser = outer)]
    tos: Option<Value>,
}

/// Parses a number, decimal or hexadecimal as in `ip`, or a word that the agent checks.
fn outer(text: &str) -> Result<Value, std::convert::Infallible> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    Ok(number.map_or_else(|| json!(text), |number| json!(number)))
}

impl Flags {
    fn object(self) -> Object {
        Object::default()
            .list("networks", self.networks)
            .put("via", self.via)
            .put("relay", self.relay)
            .put("mtu", self.mtu)
            .put("fragment", self.fragment)
            .put("ttl", self.ttl)
            .put("tos", self.tos)
    }
}

/// Runs a verb.
pub fn run(verb: Verb, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    match verb {
        Verb::List => list(client, printer, "peer.list", json!({}), table),
        Verb::Show { name } => show(client, printer, "peer.list", json!({ "name": name }), sheet),
        Verb::Add { name, address, flags, may_exist } => {
            let object = flags.object().put("name", Some(name)).put("address", Some(address)).value();
            edit(client, printer, "peer.add", json!({ "object": object, "may_exist": may_exist }))
        }
        Verb::Set { name, address, flags, unset } => {
            let set = flags.object().put("address", address).unset(unset)?.value();
            edit(client, printer, "peer.set", json!({ "name": name, "set": set }))
        }
        Verb::Del { name, flags } => {
            edit(client, printer, "peer.del", json!({ "name": name, "if_exists": flags.if_exists }))
        }
    }
}

/// A peer in full.
fn sheet(r: &PeerRow) -> Sheet {
    let next_hop = match (&r.lladdr, r.no_route) {
        (Some(mac), _) => mac.clone(),
        (None, true) => "the kernel has no route".to_owned(),
        (None, false) => "not resolved".to_owned(),
    };
    let of_others = r.state != PeerState::ThisRvm;
    Sheet::new("peer", &r.name)
        .line("state", r.state)
        .line("why", &r.why)
        .some("for", r.since.map(span))
        .some("last answer", r.answered.map(|s| format!("{} ago", span(s))))
        .some("last packet", r.heard.map(|s| format!("{} ago", span(s))))
        .line("address", r.address)
        .some("reached through", r.via.as_ref())
        .line("next hop", if of_others { next_hop.as_str() } else { "" })
        .line("path MTU", if of_others { format!("{}, {}", r.mtu, r.mtu_origin) } else { String::new() })
        .line("networks", r.networks.join(", "))
        .line("refuses", r.refuses.join(", "))
        .configured("peer", r.config.as_ref())
        .section("counters")
        .line("received", volume(r.rx, r.rx_bytes))
        .line("sent", volume(r.tx, r.tx_bytes))
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

/// The cause of the peer's state, and the networks that the peer refuses.
pub fn note(r: &PeerRow) -> String {
    let refuses = (!r.refuses.is_empty() && r.state == PeerState::Up)
        .then(|| format!("refuses packets of {}", r.refuses.join(", ")));
    let why = Some(r.why.clone()).filter(|why| !why.is_empty());
    why.into_iter().chain(refuses).collect::<Vec<_>>().join("; ")
}
