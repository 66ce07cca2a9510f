//! `ivctl status`: one screen.

use std::fmt::Write as _;

use ctl::api::{ClosedRow, Status};
use serde_json::json;

use crate::client::Client;
use crate::output::{Failure, Paint, Printer, Table, plain};
use crate::{cache, drops, fip, network, peer, port};

/// Reasons for drops shown; `ivctl drops` has all.
const DROPS_SHOWN: usize = 5;

/// Rows of a list shown; its own command has all.
const ROWS_SHOWN: usize = 12;

/// Closed addresses shown.
const ADDRESSES_SHOWN: usize = 4;

/// Shows it. What needs attention is part of the answer, not of the exit code.
pub fn run(client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    let status: Status = client.call("status", json!({}))?;
    if printer.is_json() {
        printer.json(&status)?
    } else {
        printer.text(&render(&status, printer.paint()))?
    }
    Ok(0)
}

/// The screen.
pub fn render(s: &Status, paint: Paint) -> String {
    let mut text = format!(
        "{}  ivswitchd {}  up {}\n",
        paint.bold(&plain(&s.name)),
        plain(&s.version),
        duration(s.uptime)
    );
    match (s.ports.iter().find(|p| p.role == "uplink"), s.vtep) {
        (Some(uplink), vtep) => {
            let vtep = vtep.map_or_else(|| "no VTEP address yet".to_owned(), |ip| format!("VTEP {ip}"));
            let note = plain(&port::note(uplink));
            let state = paint.state(&uplink.state);
            let _ = writeln!(
                text,
                "{vtep} port {} on {}: {state}, {note}; the tunnel carries MTU {}",
                s.tunnel_port,
                plain(&uplink.link),
                s.overlay_mtu
            );
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
    text.push_str(&cache::line(&s.cache));
    text.push_str(&closed(&s.closed));
    if let Some(steered) = s.steered.as_ref().filter(|_| !s.closed.addresses.is_empty()) {
        let _ = writeln!(
            text,
            "the kernel's own connections there: {} flows, {} frames left to it",
            steered.own_flows, steered.own
        );
    }
    section(&mut text, paint, port::table, &s.ports);
    section(&mut text, paint, network::table, &s.networks);
    section(&mut text, paint, peer::table, &s.peers);
    section(&mut text, paint, fip::table, &s.floating);
    let shown = &s.drops[..s.drops.len().min(DROPS_SHOWN)];
    section(&mut text, paint, |rows| drops::table(rows, false), shown);
    if s.drops.len() > DROPS_SHOWN {
        let _ = writeln!(text, "... {} more: ivctl drops", s.drops.len() - DROPS_SHOWN);
    }
    if !s.warnings.is_empty() {
        text.push('\n');
    }
    for warning in &s.warnings {
        let _ = writeln!(text, "{} {}", paint.yellow("warning:"), plain(warning));
    }
    text
}

/// Which addresses the kernel does not answer for, whether or not the daemon runs.
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

fn section<T>(text: &mut String, paint: Paint, table: impl FnOnce(&[T]) -> Table, rows: &[T]) {
    let table = table(&rows[..rows.len().min(ROWS_SHOWN)]);
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render(paint));
        if rows.len() > ROWS_SHOWN {
            let _ = writeln!(text, "... {} more", rows.len() - ROWS_SHOWN);
        }
    }
}

/// `3 days 4 h`, `2 h 5 min`, `17 s`.
fn duration(s: u64) -> String {
    let (days, hours, minutes) = (s / 86_400, s / 3600 % 24, s / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => format!("{minutes} min {} s", s % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
