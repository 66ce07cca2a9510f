//! `ivctl network`.

use std::net::IpAddr;

use clap::Subcommand;
use ctl::api::NetworkRow;
use ctl::cli::Sheet;
use serde_json::json;

use crate::client::Client;
use crate::output::{Failure, Printer, Table};
use crate::{DelFlags, Object, edit, list, show};

/// The verbs for networks.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show all networks
    List,
    /// Show one network in full
    Show {
        /// Name of the network
        name: String,
    },
    /// Add a network
    Add {
        /// Name of the network
        name: String,
        /// The identifier on the wire, 1 to 16777215; the same on every rVM
        #[arg(long)]
        vni: u32,
        #[command(flatten)]
        flags: Flags,
        /// Succeed if the same network exists already
        #[arg(long)]
        may_exist: bool,
    },
    /// Change a network
    Set {
        /// Name of the network
        name: String,
        /// The identifier on the wire
        #[arg(long)]
        vni: Option<u32>,
        #[command(flatten)]
        flags: Flags,
        /// Keys to set back to their defaults
        #[arg(long, value_name = "KEY", value_delimiter = ',')]
        unset: Vec<String>,
    },
    /// Delete a network that nothing uses
    Del {
        /// Name of the network
        name: String,
        #[command(flatten)]
        flags: DelFlags,
    },
}

/// The settings of a network.
#[derive(clap::Args, Debug)]
pub struct Flags {
    /// Virtual gateway address that the switch answers for; may be repeated
    #[arg(long, value_name = "IP")]
    gateway: Vec<IpAddr>,
    /// Prefix in which guests get the address of their binding by DHCP; may be repeated
    #[arg(long, value_name = "PREFIX")]
    dhcp: Vec<String>,
    /// Name server that DHCP announces to guests; may be repeated
    #[arg(long, value_name = "IP")]
    dns: Vec<String>,
    /// Boot server that DHCP announces to guests
    #[arg(long, value_name = "IP")]
    next_server: Option<String>,
    /// Boot file or URL that DHCP announces to guests
    #[arg(long, value_name = "PATH")]
    boot_file: Option<String>,
    /// MAC address of the virtual gateway
    #[arg(long, value_name = "MAC")]
    router_mac: Option<String>,
    /// The most MAC addresses that the network learns
    #[arg(long, value_name = "COUNT")]
    fdb_max: Option<u32>,
    /// Seconds that a learned MAC address stays without traffic
    #[arg(long, value_name = "SECONDS")]
    fdb_age: Option<u64>,
    /// Whether the MSS of new TCP connections is lowered to fit their path
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    mss_clamp: Option<bool>,
}

impl Flags {
    fn object(self) -> Object {
        Object::default()
            .list("gateway", self.gateway.iter().map(ToString::to_string).collect())
            .list("dhcp", self.dhcp)
            .list("dns", self.dns)
            .put("next_server", self.next_server)
            .put("boot_file", self.boot_file)
            .put("router_mac", self.router_mac)
            .put("fdb_max", self.fdb_max)
            .put("fdb_age", self.fdb_age)
            .put("mss_clamp", self.mss_clamp)
    }
}

/// Runs a verb.
pub fn run(verb: Verb, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    match verb {
        Verb::List => list(client, printer, "network.list", json!({}), table),
        Verb::Show { name } => show(client, printer, "network.list", json!({ "name": name }), sheet),
        Verb::Add { name, vni, flags, may_exist } => {
            let object = flags.object().put("name", Some(name)).put("vni", Some(vni)).value();
            edit(client, printer, "network.add", json!({ "object": object, "may_exist": may_exist }))
        }
        Verb::Set { name, vni, flags, unset } => {
            let set = flags.object().put("vni", vni).unset(unset)?.value();
            edit(client, printer, "network.set", json!({ "name": name, "set": set }))
        }
        Verb::Del { name, flags } => {
            edit(client, printer, "network.del", json!({ "name": name, "if_exists": flags.if_exists }))
        }
    }
}

/// A network in full.
fn sheet(r: &NetworkRow) -> Sheet {
    let fdb =
        r.fdb.map(|n| format!("{n} of {} at most; one stays {} s without traffic", r.fdb_max, r.fdb_age));
    Sheet::new("network", &r.name)
        .line("vni", r.vni)
        .line("mtu", format!("{}: the largest packet that reaches every peer", r.mtu))
        .line("ports", r.ports.join(", "))
        .line("peers", r.peers.join(", "))
        .some("MACs", fdb)
        .line("gateway's MAC", if r.gateway.is_empty() { "" } else { &r.router_mac })
        .configured("network", r.config.as_ref())
}

/// The table of networks.
pub fn table(rows: &[NetworkRow]) -> Table {
    let mut table = Table::new(&["NETWORK", ">VNI", "GATEWAY", "PORTS", "PEERS", ">FDB", ">MAX", ">AGE"]);
    for r in rows {
        table.row([
            r.name.clone(),
            r.vni.to_string(),
            r.gateway.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            some(&r.ports),
            some(&r.peers),
            r.fdb.map(|n| n.to_string()).unwrap_or_default(),
            r.fdb_max.to_string(),
            format!("{}s", r.fdb_age),
        ]);
    }
    table
}

/// The first few names, and the number of the others.
pub fn some(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names[..names.len().min(SHOWN)].join(",");
    if names.len() > SHOWN { format!("{shown},+{}", names.len() - SHOWN) } else { shown }
}
