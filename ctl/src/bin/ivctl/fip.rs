//! `ivctl fip`.

use std::net::IpAddr;

use clap::Subcommand;
use ctl::api::FloatingRow;
use serde_json::{Value, json};

use crate::client::Client;
use crate::output::{Failure, Printer, Table};
use crate::{DelFlags, Object, edit, list};

/// What can be done with floating IPs.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show all
    List,
    /// Show one
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Add one
    Add {
        /// The public address
        ip: IpAddr,
        /// The public network it lives on
        #[arg(long)]
        network: String,
        /// The rVM that holds the provider's end: this one's name, or a peer's
        #[arg(long, value_name = "RVM")]
        gateway: String,
        /// Only these ports (a shared public IP), as in tcp/80 or udp/5000-5010; may be repeated
        #[arg(long, value_name = "PORTS", value_delimiter = ',')]
        only: Vec<String>,
        #[command(flatten)]
        flags: Flags,
        /// Fine when just this is there already
        #[arg(long)]
        may_exist: bool,
    },
    /// Change one
    Set {
        #[command(flatten)]
        which: Which,
        /// The rVM that holds the provider's end
        #[arg(long, value_name = "RVM")]
        gateway: Option<String>,
        #[command(flatten)]
        flags: Flags,
        /// Keys to set back to their defaults
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
    },
    /// Delete one
    Del {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        flags: DelFlags,
    },
}

/// Which mapping.
#[derive(clap::Args, Debug)]
pub struct Which {
    /// The public address
    ip: IpAddr,
    /// Its network, where two have this address
    #[arg(long)]
    network: Option<String>,
    /// Its ports, where several mappings share the address
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    only: Vec<String>,
}

impl Which {
    fn object(self) -> Object {
        Object::default().put("ip", Some(self.ip)).put("network", self.network).list("only", self.only)
    }
}

/// What a floating IP can have.
#[derive(clap::Args, Debug)]
pub struct Flags {
    /// The gateway's address that the provider maps to it
    #[arg(long, value_name = "IP")]
    reality: Option<IpAddr>,
    /// The owner, when no CMS translates: its private network and address
    #[arg(long, value_name = "NETWORK:IP", value_parser = inside)]
    inside: Option<Value>,
    /// Ports that stay with the gateway's own kernel; may be repeated
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    except: Vec<String>,
}

fn inside(text: &str) -> Result<Value, String> {
    let (network, address) = text.split_once(':').ok_or("written as private:192.168.1.2")?;
    let address: IpAddr = address.parse().map_err(|_| format!("{address} is no IP address"))?;
    Ok(json!({ "network": network, "address": address }))
}

impl Flags {
    fn object(self) -> Object {
        Object::default().put("reality", self.reality).put("inside", self.inside).list("except", self.except)
    }
}

/// Runs one of them.
pub fn run(verb: Verb, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    match verb {
        Verb::List => list(client, printer, "floating.list", json!({}), table),
        Verb::Show { which } => list(client, printer, "floating.list", which.object().value(), table),
        Verb::Add { ip, network, gateway, only, flags, may_exist } => {
            let object = flags
                .object()
                .put("ip", Some(ip))
                .put("network", Some(network))
                .put("gateway", Some(gateway))
                .list("only", only);
            edit(client, printer, "floating.add", json!({ "object": object.value(), "may_exist": may_exist }))
        }
        Verb::Set { which, gateway, flags, unset } => {
            let set = flags.object().put("gateway", gateway).unset(unset).value();
            edit(client, printer, "floating.set", which.object().put("set", Some(set)).value())
        }
        Verb::Del { which, flags } => {
            let which = which.object().put("if_exists", Some(flags.if_exists));
            edit(client, printer, "floating.del", which.value())
        }
    }
}

/// The table of floating IPs.
pub fn table(rows: &[FloatingRow]) -> Table {
    let heads = [
        "FLOATING IP",
        "NETWORK",
        "GATEWAY",
        "REALITY",
        "INSIDE",
        "ONLY",
        "EXCEPT",
        "RESOLVED",
        "AT",
        ">IN",
        ">OUT",
    ];
    let mut table = Table::new(&heads);
    let ports =
        |list: &[ctl::model::Ports]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    for r in rows {
        let at = match (&r.location, &r.lladdr) {
            (Some(at), Some(mac)) => format!("{at} {mac}"),
            (at, mac) => at.clone().or_else(|| mac.clone()).unwrap_or_default(),
        };
        table.row([
            r.ip.to_string(),
            r.network.clone(),
            if r.here { format!("{} (here)", r.gateway) } else { r.gateway.clone() },
            r.reality.map(|ip| ip.to_string()).unwrap_or_default(),
            r.inside.as_ref().map(|i| format!("{}:{}", i.network, i.address)).unwrap_or_default(),
            ports(&r.only),
            ports(&r.except),
            // Where inbound packets go next matters on the gateway, and where the switch translates.
            match (r.resolved, r.here || r.inside.is_some()) {
                (true, _) => "yes".to_owned(),
                (false, true) => "no".to_owned(),
                (false, false) => String::new(),
            },
            at,
            r.packets_in.to_string(),
            r.packets_out.to_string(),
        ]);
    }
    table
}
