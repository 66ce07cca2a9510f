//! `ivctl fip`.

use std::net::IpAddr;

use clap::Subcommand;
use ctl::api::FloatingRow;
use ctl::cli::Sheet;
use serde_json::{Value, json};

use crate::client::Client;
use crate::output::{Failure, Printer, Table};
use crate::{DelFlags, Object, edit, list, show, volume};

/// The verbs for floating IPs.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show all floating IPs
    List,
    /// Show one floating IP in full; every mapping if the address is shared
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Add a floating IP
    Add {
        /// The public address
        ip: IpAddr,
        /// The public network of the address
        #[arg(long)]
        network: String,
        /// The rVM that the provider maps the address to: this rVM's name, or a peer's
        #[arg(long, value_name = "RVM")]
        gateway: String,
        /// Only these ports (for a shared public IP), as in tcp/80 or udp/5000-5010; may be repeated
        #[arg(long, value_name = "PORTS", value_delimiter = ',')]
        only: Vec<String>,
        #[command(flatten)]
        flags: Flags,
        /// Succeed if the same mapping exists already
        #[arg(long)]
        may_exist: bool,
    },
    /// Change a floating IP
    Set {
        #[command(flatten)]
        which: Which,
        /// The rVM that the provider maps the address to
        #[arg(long, value_name = "RVM")]
        gateway: Option<String>,
        #[command(flatten)]
        flags: Flags,
        /// Keys to set back to their defaults
        #[arg(long, value_name = "KEY", value_delimiter = ',')]
        unset: Vec<String>,
    },
    /// Delete a floating IP
    Del {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        flags: DelFlags,
    },
}

/// A selection of a mapping.
#[derive(clap::Args, Debug)]
pub struct Which {
    /// The public address
    ip: IpAddr,
    /// The network, in case two networks have this address
    #[arg(long)]
    network: Option<String>,
    /// The ports, in case several mappings share the address; may be repeated
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    only: Vec<String>,
}

impl Which {
    fn object(self) -> Object {
        Object::default().put("ip", Some(self.ip)).put("network", self.network).list("only", self.only)
    }
}

/// The settings of a floating IP.
#[derive(clap::Args, Debug)]
pub struct Flags {
    /// The gateway's address that the provider maps to the public address
    #[arg(long, value_name = "IP")]
    reality: Option<IpAddr>,
    /// The private network and address of the owner, if no CMS translates
    #[arg(long, value_name = "NETWORK:IP", value_parser = inside)]
    inside: Option<Value>,
    /// Ports that stay with the gateway's own kernel; may be repeated
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    except: Vec<String>,
}

fn inside(text: &str) -> Result<Value, String> {
    let (network, address) = text.split_once(':').ok_or("written as private:192.168.1.2")?;
    let address: IpAddr = address.parse().map_err(|_| format!("{address} is not an IP address"))?;
    Ok(json!({ "network": network, "address": address }))
}

impl Flags {
    fn object(self) -> Object {
        Object::default().put("reality", self.reality).put("inside", self.inside).list("except", self.except)
    }
}

/// Runs a verb.
pub fn run(verb: Verb, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    match verb {
        Verb::List => list(client, printer, "floating.list", json!({}), table),
        Verb::Show { which } => show(client, printer, "floating.list", which.object().value(), sheet),
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
            let set = flags.object().put("gateway", gateway).unset(unset)?.value();
            edit(client, printer, "floating.set", which.object().put("set", Some(set)).value())
        }
        Verb::Del { which, flags } => {
            let which = which.object().put("if_exists", Some(flags.if_exists));
            edit(client, printer, "floating.del", which.value())
        }
    }
}

/// A floating IP in full.
fn sheet(r: &FloatingRow) -> Sheet {
    let matters = r.here || r.inside.is_some();
    let to = match (&r.location, &r.lladdr) {
        (Some(location), Some(mac)) => format!("{location}, MAC {mac}"),
        (Some(location), None) => location.clone(),
        (None, _) => String::new(),
    };
    let state = match (r.resolved, matters) {
        (true, _) => "resolved",
        (false, true) => "unresolved",
        (false, false) => "",
    };
    Sheet::new("fip", &r.ip.to_string())
        .line("state", state)
        .line(
            "why",
            if state == "unresolved" {
                "the next hop of its packets is not known: its owner does not answer"
            } else {
                ""
            },
        )
        .line("gateway", if r.here { format!("{}, which is this rVM", r.gateway) } else { r.gateway.clone() })
        .line("to", to)
        .line("not translated", ports(&r.except))
        .configured("floating", r.config.as_ref())
        .section("counters")
        .line("in", volume(r.packets_in, r.bytes_in))
        .line("out", volume(r.packets_out, r.bytes_out))
}

fn ports(list: &[ctl::model::Ports]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Whether the next hop of inbound packets is known, which matters on the gateway and where the switch translates.
pub fn resolved(r: &FloatingRow) -> &'static str {
    match (r.resolved, r.here || r.inside.is_some()) {
        (true, _) => "yes",
        (false, true) => "no",
        (false, false) => "",
    }
}

/// The place of that next hop.
pub fn at(r: &FloatingRow) -> String {
    match (&r.location, &r.lladdr) {
        (Some(at), Some(mac)) => format!("{at} {mac}"),
        (at, mac) => at.clone().or_else(|| mac.clone()).unwrap_or_default(),
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
    for r in rows {
        table.row([
            r.ip.to_string(),
            r.network.clone(),
            if r.here { format!("{} (here)", r.gateway) } else { r.gateway.clone() },
            r.reality.map(|ip| ip.to_string()).unwrap_or_default(),
            r.inside.as_ref().map(|i| format!("{}:{}", i.network, i.address)).unwrap_or_default(),
            ports(&r.only),
            ports(&r.except),
            resolved(r).to_owned(),
            at(r),
            r.packets_in.to_string(),
            r.packets_out.to_string(),
        ]);
    }
    table
}
