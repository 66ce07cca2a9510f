//! `ivctl port`.

use clap::{Subcommand, ValueEnum};
use ctl::api::{PortRow, RateRow, Stats};
use ctl::cli::Sheet;
use ctl::cli::words::span;
use serde_json::{Value, json};

use crate::client::Client;
use crate::output::{Failure, Printer, Table};
use crate::{DelFlags, Object, edit, list, show, volume};

/// The verbs for ports.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show all ports
    List,
    /// Show one port in full
    Show {
        /// Name of the port
        name: String,
    },
    /// Add a port: a door for a CMS (ivswitchd creates the interface), or a port on an existing interface
    Add {
        /// Name of the port; a door without --interface creates an interface with this name
        name: String,
        /// The network that the port joins
        #[arg(long)]
        network: String,
        #[command(flatten)]
        flags: Flags,
        /// Succeed if the same port exists already
        #[arg(long)]
        may_exist: bool,
    },
    /// Change a port
    Set {
        /// Name of the port
        name: String,
        /// The network that the port joins
        #[arg(long)]
        network: Option<String>,
        #[command(flatten)]
        flags: Flags,
        /// Keys to set back to their defaults
        #[arg(long, value_name = "KEY", value_delimiter = ',')]
        unset: Vec<String>,
    },
    /// Isolate a port: nothing in, nothing out, until it is released
    Quarantine {
        /// Name of the port
        name: String,
    },
    /// End a quarantine
    Release {
        /// Name of the port
        name: String,
    },
    /// Mirror a port: copy its incoming and outgoing frames to another port, which then does nothing else
    Mirror {
        /// Name of the port
        name: String,
        /// The mirror target, the port that receives the copies
        #[arg(long, value_name = "PORT", required_unless_present = "off")]
        to: Option<String>,
        /// End the mirroring
        #[arg(long, conflicts_with = "to")]
        off: bool,
    },
    /// Enable a port that was disabled by hand or by a guard (err-disabled)
    Enable {
        /// Name of the port
        name: String,
    },
    /// Disable a port: it is closed until it is enabled
    Disable {
        /// Name of the port
        name: String,
    },
    /// Delete a port, and its interface if ivswitchd created it
    Del {
        /// Name of the port
        name: String,
        #[command(flatten)]
        flags: DelFlags,
    },
}

/// The role of a port.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// An interface given to a CMS as if it were a NIC
    Door,
    /// One iVM's NIC
    Guest,
}

/// The XDP modes that may be tried.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Xdp {
    /// The best mode that works
    Auto,
    /// Native mode only
    Native,
    /// Native mode with copies only
    Copy,
    /// Generic mode only
    Generic,
}

/// A driver for a port.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// `packet` for a door that ivswitchd creates, otherwise `afxdp`
    Auto,
    /// AF_XDP sockets: the highest rate of small frames
    Afxdp,
    /// A packet socket: GSO packets
    Packet,
    /// A TAP interface, for a door that ivswitchd creates: GSO packets
    Tap,
    /// Memory shared with QEMU, which listens at --guest-socket
    Vhostuser,
}

/// The IPv6 link-local addresses that a guest may use.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LinkLocal {
    /// Only the addresses that follow from its MACs
    Eui64,
    /// Also an opaque address, first come, first served
    StablePrivacy,
}

/// The settings of a port.
#[derive(clap::Args, Debug)]
pub struct Flags {
    /// The role of the port
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// Attach to this existing interface
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// The socket at which QEMU listens, for --kind vhostuser [default: /run/ivswitch/guest/NAME.sock]
    #[arg(long, value_name = "PATH")]
    guest_socket: Option<String>,
    /// Number of queue pairs that QEMU gets, for --kind vhostuser [default: 1]
    #[arg(long, value_name = "COUNT")]
    queues: Option<u32>,
    /// Address for the CMS's end of a door that ivswitchd creates; may be repeated
    #[arg(long, value_name = "IP/LEN")]
    address: Vec<String>,
    /// Source MAC address of a guest; may be repeated
    #[arg(long, value_name = "MAC")]
    mac: Vec<String>,
    /// Source address of a guest; may be repeated
    #[arg(long, value_name = "IP[/LEN]")]
    ip: Vec<String>,
    /// Source MAC address that guests share, such as VRRP's; may be repeated
    #[arg(long, value_name = "MAC")]
    shared_mac: Vec<String>,
    /// Source address that guests share; may be repeated
    #[arg(long, value_name = "IP[/LEN]")]
    shared_ip: Vec<String>,
    /// The IPv6 link-local addresses that a guest may use in addition to those of --ip
    #[arg(long, value_enum)]
    link_local: Option<LinkLocal>,
    /// The VLAN inside the switch for frames that are untagged outside
    #[arg(long, value_name = "VLAN", conflicts_with_all = ["trunk", "native"])]
    access: Option<u16>,
    /// VLANs that pass tagged
    #[arg(long, value_name = "VLAN", value_delimiter = ',')]
    trunk: Vec<u16>,
    /// VLAN of untagged frames on a trunk
    #[arg(long, value_name = "VLAN")]
    native: Option<u16>,
    /// Broadcast, multicast and unknown-unicast frames per second; 0: no limit
    #[arg(long, value_name = "COUNT")]
    bum_pps: Option<u32>,
    /// Bits per second from the port, such as 100M; frames above the rate are dropped
    #[arg(long, value_name = "RATE", value_parser = decimal)]
    ingress_bps: Option<u64>,
    /// Frames per second from the port
    #[arg(long, value_name = "RATE", value_parser = decimal)]
    ingress_pps: Option<u64>,
    /// Burst from the port in bytes [default: a tenth of a second's worth]
    #[arg(long, value_name = "BYTES", value_parser = decimal)]
    ingress_burst: Option<u64>,
    /// Bits per second to the port
    #[arg(long, value_name = "RATE", value_parser = decimal)]
    egress_bps: Option<u64>,
    /// Frames per second to the port
    #[arg(long, value_name = "RATE", value_parser = decimal)]
    egress_pps: Option<u64>,
    /// Burst to the port in bytes [default: a tenth of a second's worth]
    #[arg(long, value_name = "BYTES", value_parser = decimal)]
    egress_burst: Option<u64>,
    /// Whether an incoming BPDU disables the port (otherwise only the BPDU is dropped)
    #[arg(long, value_name = "BOOL")]
    bpdu_guard: Option<bool>,
    /// Seconds until a port that a guard has disabled is enabled again
    #[arg(long, value_name = "SECONDS")]
    errdisable_recovery: Option<u32>,
    /// Whether the switch learns the places of stations from frames of the port
    #[arg(long, value_name = "BOOL")]
    learning: Option<bool>,
    /// Whether unicast frames to stations whose place is unknown are flooded to the port
    #[arg(long, value_name = "BOOL")]
    flood: Option<bool>,
    /// The most MAC addresses learned on the port
    #[arg(long, value_name = "COUNT")]
    fdb_max: Option<u32>,
    /// Largest IP packet
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// The driver
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// The XDP modes that may be tried
    #[arg(long, value_enum)]
    xdp: Option<Xdp>,
    /// Whether the port forwards
    #[arg(long, value_name = "BOOL")]
    enabled: Option<bool>,
}

impl Flags {
    fn object(self) -> Object {
        let trunk = !self.trunk.is_empty() || self.native.is_some();
        let vlan: Option<Value> = match self.access {
            Some(vid) => Some(json!({ "access": vid })),
            None if trunk => {
                Some(Object::default().put("trunk", Some(self.trunk)).put("native", self.native).value())
            }
            None => None,
        };
        let word = |v: clap::builder::PossibleValue| v.get_name().to_owned();
        Object::default()
            .put("role", self.role.and_then(|r| r.to_possible_value()).map(word))
            .put("interface", self.interface)
            .put("socket", self.guest_socket)
            .put("queues", self.queues)
            .list("address", self.address)
            .list("mac", self.mac)
            .list("ip", self.ip)
            .list("shared_mac", self.shared_mac)
            .list("shared_ip", self.shared_ip)
            .put("link_local", self.link_local.and_then(|l| l.to_possible_value()).map(word))
            .put("vlan", vlan)
            .put("bum_pps", self.bum_pps)
            .put("ingress_bps", self.ingress_bps)
            .put("ingress_pps", self.ingress_pps)
            .put("ingress_burst", self.ingress_burst)
            .put("egress_bps", self.egress_bps)
            .put("egress_pps", self.egress_pps)
            .put("egress_burst", self.egress_burst)
            .put("bpdu_guard", self.bpdu_guard)
            .put("errdisable_recovery", self.errdisable_recovery)
            .put("learning", self.learning)
            .put("flood", self.flood)
            .put("fdb_max", self.fdb_max)
            .put("mtu", self.mtu)
            .put("kind", self.kind.and_then(|k| k.to_possible_value()).map(word))
            .put("xdp", self.xdp.and_then(|x| x.to_possible_value()).map(word))
            .put("enabled", self.enabled)
    }
}

/// Runs a verb.
pub fn run(verb: Verb, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    let mut set =
        |name: &str, set: Value| edit(client, printer, "port.set", json!({ "name": name, "set": set }));
    match verb {
        Verb::Quarantine { name } => set(&name, json!({ "quarantine": true })),
        Verb::Release { name } => set(&name, json!({ "quarantine": null })),
        // Without `to`, mirroring ends.
        Verb::Mirror { name, to, off: _ } => set(&name, json!({ "mirror": to })),
        Verb::Disable { name } => set(&name, json!({ "enabled": false })),
        Verb::Enable { name } => edit(client, printer, "port.enable", json!({ "name": name })),
        Verb::List => list(client, printer, "port.list", json!({}), table),
        Verb::Show { name } => show(client, printer, "port.list", json!({ "name": name }), sheet),
        Verb::Add { name, network, flags, may_exist } => {
            let object = flags.object().put("name", Some(name)).put("network", Some(network)).value();
            edit(client, printer, "port.add", json!({ "object": object, "may_exist": may_exist }))
        }
        Verb::Set { name, network, flags, unset } => {
            let set = flags.object().put("network", network).unset(unset)?.value();
            edit(client, printer, "port.set", json!({ "name": name, "set": set }))
        }
        Verb::Del { name, flags } => {
            edit(client, printer, "port.del", json!({ "name": name, "if_exists": flags.if_exists }))
        }
    }
}

/// A port in full.
fn sheet(r: &PortRow) -> Sheet {
    let stats = |s: &Stats| format!("{}, {} dropped", volume(s.packets, s.bytes), s.dropped);
    let link = match (r.up, r.carrier) {
        (Some(false), _) => "down",
        (Some(true), Some(false)) => "up, without carrier",
        (Some(true), _) => "up",
        _ => "",
    };
    let mut sheet = Sheet::new("port", &r.ifname)
        .line("state", &r.state)
        .line("why", &r.why)
        .some("enabled again in", r.recovers.map(span))
        .line("role", &r.role)
        .some("network", r.network.as_ref())
        .line("attached to", &r.link)
        .some("interface", r.ifindex.map(|index| format!("index {index}, {link}")))
        .some("its MAC", r.address.as_ref())
        .line("mtu", r.mtu)
        .some("interface's MTU", r.link_mtu)
        .line("driver", format!("{}, {}", r.kind, r.chosen))
        .line(if r.kind == "afxdp" { "mode" } else { "offloads" }, &r.mode)
        .line("why not better", &r.reason)
        .line("queues", if r.queues == 0 { String::new() } else { r.queues.to_string() })
        .line("limit in", limits(&r.ingress))
        .line("limit out", limits(&r.egress))
        .some("mirrored to", r.mirror.as_ref())
        .line("copies from", r.mirrors.join(", "))
        .configured(if r.role == "uplink" { "uplink" } else { "port" }, r.config.as_ref())
        .section("counters")
        .line("received", stats(&r.stats64.rx))
        .line("sent", stats(&r.stats64.tx));
    if let Some(io) = &r.guest {
        sheet = sheet.line("kicks by the guest", io.kicks).line("calls to the guest", io.calls);
    }
    sheet = sheet.section("drops");
    for (reason, count) in &r.drops {
        sheet = sheet.line(reason, count);
    }
    sheet
}

/// A rate limit in words.
fn limits(limit: &RateRow) -> String {
    let parts = [
        limit.bps.map(|bps| format!("{}bit/s", decimal_text(bps))),
        limit.pps.map(|pps| format!("{}frames/s", decimal_text(pps.into()))),
        limit.burst.map(|burst| format!("bursts of {burst} bytes")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The table of ports.
pub fn table(rows: &[PortRow]) -> Table {
    let heads =
        ["PORT", "ROLE", "NETWORK", "STATE", "LINK", ">MTU", ">RX", ">TX", ">DROPPED", "KIND", "MODE"];
    let mut table = Table::new(&heads);
    for r in rows {
        table.row([
            r.ifname.clone(),
            r.role.clone(),
            r.network.clone().unwrap_or_default(),
            r.state.clone(),
            if r.link == r.ifname { String::new() } else { r.link.clone() },
            r.mtu.to_string(),
            r.stats64.rx.packets.to_string(),
            r.stats64.tx.packets.to_string(),
            (r.stats64.rx.dropped + r.stats64.tx.dropped).to_string(),
            r.kind.clone(),
            note(r),
        ]);
    }
    table
}

/// The port's mode and why it is not better, or why the port is not live; and the port's policy.
pub fn note(r: &PortRow) -> String {
    let mut notes = vec![match (r.state.as_str(), r.reason.is_empty()) {
        ("live", true) => r.mode.clone(),
        ("live", false) => format!("{} ({})", r.mode, r.reason),
        _ => r.why.clone(),
    }];
    notes.extend(r.mirror.iter().map(|to| format!("mirrored to {to}")));
    if !r.mirrors.is_empty() {
        notes.push(format!("receives copies of {}", r.mirrors.join(", ")));
    }
    for (way, limit) in [("in", &r.ingress), ("out", &r.egress)] {
        notes.extend(limit.bps.map(|bps| format!("{way} at most {}bit/s", decimal_text(bps))));
        notes.extend(limit.pps.map(|pps| format!("{way} at most {} frames/s", decimal_text(pps.into()))));
    }
    notes.retain(|note| !note.is_empty());
    notes.join("; ")
}

/// Parses a number, optionally with the suffix k, M or G (powers of 1000, as usual for rates).
fn decimal(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is not a number such as 5000, 64k, 100M or 2.5G");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || part.len() > 9 || !is_number(whole) || !is_number(part) {
        return Err(wrong());
    }
    let whole = whole.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(wrong)?;
    let part = part.parse::<u64>().unwrap_or(0) * unit / 10_u64.pow(part.len() as u32);
    whole.checked_add(part).ok_or_else(wrong)
}

/// Prints such a number without loss.
fn decimal_text(n: u64) -> String {
    for (unit, name) in [(1_000_000_000, " G"), (1_000_000, " M"), (1_000, " k")] {
        if n >= unit && n.is_multiple_of(unit) {
            return format!("{}{name}", n / unit);
        }
    }
    format!("{n} ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_rates_are_written() {
        for (text, n) in
            [("5000", 5000), ("64k", 64_000), ("100M", 100_000_000), ("2.5G", 2_500_000_000), ("0.1k", 100)]
        {
            assert_eq!(decimal(text), Ok(n));
        }
        for text in ["", "k", "1.2.3", "-1", "1T", "99999999999G", "1 M", "1e3", ".5", "ä"] {
            assert!(decimal(text).is_err(), "{text}");
        }
        assert_eq!(decimal_text(100_000_000), "100 M");
        assert_eq!(decimal_text(1_234), "1234 ");
    }
}
