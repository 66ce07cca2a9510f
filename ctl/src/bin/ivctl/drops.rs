//! `ivctl drops`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use ctl::api::{DropRow, Rows};
use engine::counters::DropReason;
use serde_json::json;

use crate::client::Client;
use crate::decode;
use crate::output::{Failure, Printer, Table};
use crate::{Object, list};

/// The arguments of `ivctl drops`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only drops at this port
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Show the last frame dropped for each reason
    #[arg(short, long)]
    samples: bool,
    /// Show the drops repeatedly, with drops per second; Ctrl-C ends
    #[arg(short, long)]
    watch: bool,
    /// Seconds between two rounds
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", requires = "watch", value_parser = crate::seconds)]
    interval: f64,
    /// Print every drop reason with its meaning, as Markdown, without asking the daemon
    #[arg(long, conflicts_with_all = ["port", "samples", "watch"])]
    pub reasons: bool,
    /// Stop after this number of rounds
    #[arg(long, value_name = "N", requires = "watch")]
    looks: Option<u32>,
}

/// Prints every drop reason.
pub fn reasons(printer: &Printer) -> Result<u8, Failure> {
    printer.bytes(all_reasons().as_bytes())?;
    Ok(0)
}

fn all_reasons() -> String {
    let row = |reason: &DropReason| format!("| `{}` | {} |\n", reason.name(), reason.help().trim());
    let rows: String = DropReason::ALL.iter().map(row).collect();
    format!("| Reason | Meaning |\n|---|---|\n{rows}")
}

/// Shows the drops.
pub fn run(args: &Args, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    let which = Object::default().put("port", args.port.as_ref()).value();
    if !args.watch {
        return list(client, printer, "drops", which, |rows| table(rows, args.samples));
    }
    let mut before = BTreeMap::new();
    let mut looked = Instant::now();
    for look in 0.. {
        let answer: Rows<DropRow> = client.call("drops", which.clone())?;
        let elapsed = looked.elapsed().as_secs_f64();
        looked = Instant::now();
        let rate = |r: &DropRow| {
            let then = before.get(&(r.port.clone(), r.reason.clone())).copied();
            if look == 0 {
                0.0
            } else {
                (r.count - then.unwrap_or(0).min(r.count)) as f64 / elapsed.max(0.001)
            }
        };
        let rates: Vec<f64> = answer.rows.iter().map(rate).collect();
        show(printer, &answer.rows, &rates, args.samples)?;
        before = answer.rows.into_iter().map(|r| ((r.port, r.reason), r.count)).collect();
        if args.looks.is_some_and(|looks| look + 1 >= looks) {
            break;
        }
        std::thread::sleep(Duration::from_secs_f64(args.interval.max(0.1)));
    }
    Ok(0)
}

/// Prints one round: a line of JSON, or a table, which on a terminal replaces the previous one.
fn show(printer: &Printer, rows: &[DropRow], rates: &[f64], samples: bool) -> Result<(), Failure> {
    if printer.is_json() {
        let rows: Vec<_> = rows
            .iter()
            .zip(rates)
            .map(|(row, rate)| {
                let mut row = json!(row);
                row["per_second"] = json!(rate.round());
                row
            })
            .collect();
        return printer.json(&rows);
    }
    let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
    printer.text(&format!("{clear}{}", watch_table(rows, rates, samples).render(printer.paint())))
}

/// The table of drops.
pub fn table(rows: &[DropRow], samples: bool) -> Table {
    let mut heads = vec!["PORT", "REASON", ">COUNT", "MEANING"];
    if samples {
        heads.insert(3, "LAST FRAME");
    }
    let mut table = Table::new(&heads);
    for r in rows {
        let [port, reason, count, help] =
            [r.port.clone(), r.reason.clone(), r.count.to_string(), r.help.clone()];
        if samples {
            table.row([port, reason, count, sample(r), help]);
        } else {
            table.row([port, reason, count, help]);
        }
    }
    table
}

/// The table of drops with rates, highest rate first.
fn watch_table(rows: &[DropRow], rates: &[f64], samples: bool) -> Table {
    let last = if samples { "LAST FRAME" } else { "MEANING" };
    let mut table = Table::new(&["PORT", "REASON", ">COUNT", ">PER SECOND", last]);
    let mut order: Vec<(&DropRow, f64)> = rows.iter().zip(rates.iter().copied()).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.count.cmp(&a.0.count)));
    for (r, rate) in order {
        let text = if samples { sample(r) } else { r.help.clone() };
        table.row([r.port.clone(), r.reason.clone(), r.count.to_string(), format!("{rate:.0}"), text]);
    }
    table
}

fn sample(row: &DropRow) -> String {
    row.sample
        .as_ref()
        .map(|s| format!("{} ({} bytes)", decode::hex_line(&s.bytes), s.len))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    /// The book's list matches the engine. `IVS_UPDATE=1 cargo test -p ctl reasons` updates it.
    #[test]
    fn the_reasons_in_the_book_are_current() {
        const LIST: &str =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/book/src/reference/drop-reasons.md");
        if std::env::var_os("IVS_UPDATE").is_some() {
            std::fs::write(LIST, super::all_reasons()).unwrap();
        }
        let how = "reasons changed: `IVS_UPDATE=1 cargo test -p ctl reasons`, and look at the difference";
        assert!(std::fs::read_to_string(LIST).unwrap_or_default() == super::all_reasons(), "{how}");
    }
}
