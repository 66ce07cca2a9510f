//! `ivctl mtu`.

use std::fmt::Write as _;

use ctl::api::{MtuNetwork, MtuPeer, MtuProblem, MtuReport};
use serde_json::json;

use crate::DONE_WITH_WARNINGS;
use crate::client::Client;
use crate::output::{Failure, Paint, Printer, Table, plain};

/// Shows every hop.
pub fn run(client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    let report: MtuReport = client.call("mtu", json!({}))?;
    if printer.is_json() {
        printer.json(&report)?;
    } else {
        printer.text(&render(&report, printer.paint()))?;
    }
    let warned = report.problems.iter().any(|p| p.severity == "warning");
    Ok(if warned { DONE_WITH_WARNINGS } else { 0 })
}

/// Renders the report.
pub fn render(r: &MtuReport, paint: Paint) -> String {
    let mut text = String::new();
    match &r.uplink {
        Some(u) => {
            let _ = writeln!(
                text,
                "underlay: {} has MTU {}; VXLAN over IPv{} takes {}: {} are left{}",
                plain(&u.interface),
                u.mtu,
                u.family,
                u.overhead,
                u.mtu.saturating_sub(u.overhead),
                if u.probe { "" } else { " (paths are not probed)" }
            );
        }
        None => text.push_str("no uplink: a switch without tunnels\n"),
    }
    section(&mut text, &peers(&r.peers), paint);
    section(&mut text, &networks(&r.networks), paint);
    section(&mut text, &ports(&r.networks), paint);
    for MtuProblem { severity, object, why, how } in &r.problems {
        let head =
            if severity == "warning" { paint.yellow("warning:") } else { format!("{}:", plain(severity)) };
        let _ = writeln!(text, "\n{head} {}: {}\n   help: {}", plain(object), plain(why), plain(how));
    }
    for (who, lines) in [
        ("Neutron", &r.paste.neutron),
        ("CloudStack (cmk)", &r.paste.cloudstack),
        ("libvirt, in <interface>", &r.paste.libvirt),
    ] {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{}", paint.bold(&format!("for {who}:")));
            for line in lines {
                let _ = writeln!(text, "    {}", plain(line));
            }
        }
    }
    text
}

fn section(text: &mut String, table: &Table, paint: Paint) {
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render(paint));
    }
}

fn peers(rows: &[MtuPeer]) -> Table {
    let mut table = Table::new(&["PEER", "VIA", ">PATH MTU", "FROM", "PROBING", ">CARRIES", "LARGER"]);
    for p in rows {
        let age = p.age.map(|s| format!(", {s} s")).unwrap_or_default();
        table.row([
            p.name.clone(),
            p.via.clone().unwrap_or_default(),
            p.path_mtu.to_string(),
            p.origin.clone(),
            format!("{}{age}", p.state),
            p.carried.to_string(),
            if p.fragment { "fragmented" } else { "refused, told" }.to_owned(),
        ]);
    }
    table
}

fn networks(rows: &[MtuNetwork]) -> Table {
    let mut table = Table::new(&["NETWORK", ">VNI", ">MTU", "LIMITED BY", "MSS CLAMP", "OVERLAYS INSIDE"]);
    for n in rows {
        let nested: Vec<String> = n.nested.iter().map(u16::to_string).collect();
        table.row([
            n.name.clone(),
            n.vni.to_string(),
            n.mtu.to_string(),
            n.limited_by.clone(),
            if n.mss_clamp { "on" } else { "off" }.to_owned(),
            nested.join(" "),
        ]);
    }
    table
}

fn ports(networks: &[MtuNetwork]) -> Table {
    let mut table =
        Table::new(&["PORT", "ROLE", "NETWORK", ">MTU", "FROM", "INTERFACE", ">ITS MTU", ">CMS END"]);
    let number = |n: Option<u32>| n.map(|n| n.to_string()).unwrap_or_default();
    for (n, p) in networks.iter().flat_map(|n| n.ports.iter().map(move |p| (n, p))) {
        table.row([
            p.ifname.clone(),
            p.role.clone(),
            n.name.clone(),
            p.mtu.to_string(),
            p.origin.clone(),
            p.link.clone(),
            number(p.link_mtu),
            number(p.cms_mtu),
        ]);
    }
    table
}
