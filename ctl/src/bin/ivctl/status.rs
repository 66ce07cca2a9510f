//! `ivctl status`: one screen.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, stdout};

use ctl::api::{ClosedRow, FloatingRow, PeerRow, PeerState, PortRow, Status};
use ctl::cli::table::paragraph;
use ctl::cli::words::{ago, human, span};
use serde_json::json;

use crate::client::Client;
use crate::output::{Failure, Paint, Printer, Table, plain};
use crate::{cache, drops, fip, network, peer, port};

/// The most drop reasons on the screen; `ivctl drops` has all.
const DROPS_SHOWN: usize = 5;

/// The most rows of each list; the list's own command has all.
const ROWS_SHOWN: usize = 12;

/// The width of output that is not a terminal, and the narrowest terminal width that is respected.
const WIDTH: usize = 100;
const WIDTH_MIN: usize = 40;

/// The most closed addresses on the screen.
const ADDRESSES_SHOWN: usize = 4;

/// Shows the status. Warnings are part of the answer, but do not change the exit code.
pub fn run(client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    let status: Status = client.call("status", json!({}))?;
    if printer.is_json() {
        printer.json(&status)?
    } else {
        printer.text(&render(&status, printer.paint(), width()))?
    }
    Ok(0)
}

/// The width of the terminal, or the default width.
fn width() -> usize {
    let terminal = stdout().is_terminal().then(|| ratatui::crossterm::terminal::size().ok()).flatten();
    terminal.map_or(WIDTH, |(columns, _)| usize::from(columns).max(WIDTH_MIN))
}

/// Renders the screen in lines of this width, as far as words allow.
pub fn render(s: &Status, paint: Paint, width: usize) -> String {
    let mut text =
        format!("{}  ivswitchd {}  up {}\n", paint.bold(&plain(&s.name)), plain(&s.version), span(s.uptime));
    match (s.ports.iter().find(|p| p.role == "uplink"), s.vtep) {
        (Some(uplink), vtep) => {
            let vtep = vtep.map_or_else(|| "no VTEP address yet".to_owned(), |ip| format!("VTEP {ip}"));
            let note = plain(&port::note(uplink));
            let line = format!(
                "{vtep} port {} on {}: {}, {note}; the tunnel carries MTU {}",
                s.tunnel_port,
                plain(&uplink.link),
                uplink.state,
                s.overlay_mtu
            );
            text += &paragraph(&line, width);
        }
        (None, _) => text.push_str("no uplink: a switch without tunnels\n"),
    }
    for (i, w) in s.workers.iter().enumerate() {
        let _ = writeln!(
            text,
            "worker {i}: {:.1} % busy, {} frames received, slept {} times",
            w.busy * 100.0,
            w.frames,
            w.sleeps
        );
    }
    for line in cache::line(&s.cache).lines().chain(closed(&s.closed).lines()) {
        text += &paragraph(line, width);
    }
    if let Some(steered) = s.steered.as_ref().filter(|_| !s.closed.addresses.is_empty()) {
        let _ = writeln!(
            text,
            "the kernel's own connections there: {} flows, {} frames left to it",
            steered.own_flows, steered.own
        );
    }
    let screen = Screen { paint, width };
    screen.section(&mut text, ports, &s.ports);
    screen.section(&mut text, network::table, &s.networks);
    let others: Vec<_> = s.peers.iter().filter(|p| p.state != PeerState::ThisRvm).collect();
    screen.section(&mut text, peers, &others);
    screen.section(&mut text, floating, &s.floating);
    let shown = &s.drops[..s.drops.len().min(DROPS_SHOWN)];
    screen.section(&mut text, |rows| drops::table(rows, false), shown);
    if s.drops.len() > DROPS_SHOWN {
        let _ = writeln!(text, "... {} more: `ivctl drops`", s.drops.len() - DROPS_SHOWN);
    }
    if !s.warnings.is_empty() {
        text.push('\n');
    }
    for warning in &s.warnings {
        let lines = paragraph(&format!("warning: {}", plain(warning)), width);
        text += &lines.replacen("warning:", &paint.yellow("warning:"), 1);
    }
    text
}

/// The ports on one screen; `ivctl port list` has more columns.
fn ports(rows: &[PortRow]) -> Table {
    let heads = ["PORT", "ROLE", "NETWORK", "STATE", ">MTU", ">RX", ">TX", ">DROPPED", "DRIVER", "MODE"];
    let mut table = Table::new(&heads);
    for r in rows {
        table.row([
            r.ifname.clone(),
            r.role.clone(),
            r.network.clone().unwrap_or_default(),
            r.state.clone(),
            r.mtu.to_string(),
            number(r.stats64.rx.packets),
            number(r.stats64.tx.packets),
            number(r.stats64.rx.dropped + r.stats64.tx.dropped),
            r.kind.clone(),
            port::note(r),
        ]);
    }
    table
}

/// The peers on one screen.
fn peers(rows: &[&PeerRow]) -> Table {
    let mut table = Table::new(&["PEER", "VTEP", "STATE", "ANSWERED", ">MTU", ">RX", ">TX", "NOTE"]);
    for r in rows {
        table.row([
            r.name.clone(),
            r.address.to_string(),
            r.state.to_string(),
            r.answered.map(ago).unwrap_or_default(),
            r.mtu.to_string(),
            number(r.rx),
            number(r.tx),
            peer::note(r),
        ]);
    }
    table
}

/// The floating IPs on one screen.
fn floating(rows: &[FloatingRow]) -> Table {
    let heads = ["FLOATING IP", "NETWORK", "GATEWAY", "RESOLVED", ">IN", ">OUT", "AT"];
    let mut table = Table::new(&heads);
    for r in rows {
        table.row([
            r.ip.to_string(),
            r.network.clone(),
            if r.here { format!("{} (here)", r.gateway) } else { r.gateway.clone() },
            fip::resolved(r).to_owned(),
            number(r.packets_in),
            number(r.packets_out),
            fip::at(r),
        ]);
    }
    table
}

fn number(n: u64) -> String {
    human(n as f64)
}

/// The addresses that the kernel does not answer for, whether or not the daemon runs.
fn closed(row: &ClosedRow) -> String {
    if row.addresses.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = row.addresses.iter().take(ADDRESSES_SHOWN).map(ToString::to_string).collect();
    let more = if row.addresses.len() > ADDRESSES_SHOWN {
        format!(" and {} more", row.addresses.len() - ADDRESSES_SHOWN)
    } else {
        String::new()
    };
    let state = if row.in_place { "closed to the kernel" } else { "NOT closed to the kernel" };
    let by =
        if row.instead.is_empty() { String::new() } else { format!(" (by tc: {})", plain(&row.instead)) };
    format!("{state}: {}{more}{by}\n", shown.join(", "))
}

/// The layout of the tables.
#[derive(Clone, Copy)]
struct Screen {
    paint: Paint,
    width: usize,
}

impl Screen {
    fn section<T>(self, text: &mut String, table: impl FnOnce(&[T]) -> Table, rows: &[T]) {
        let table = table(&rows[..rows.len().min(ROWS_SHOWN)]);
        if !table.is_empty() {
            text.push('\n');
            text.push_str(&table.fit(self.paint, self.width));
            if rows.len() > ROWS_SHOWN {
                let _ = writeln!(text, "... {} more", rows.len() - ROWS_SHOWN);
            }
        }
    }
}
