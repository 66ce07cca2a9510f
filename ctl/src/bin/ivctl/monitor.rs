//! `ivctl monitor`.

use std::io::{IsTerminal as _, stdout};

use serde_json::Value;

use crate::client::Client;
use crate::output::{Failure, Printer, plain};

/// The arguments of `ivctl monitor`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The drop rate, per second, of one reason at one port from which it is an event
    #[arg(long, value_name = "PER_SECOND", default_value_t = 100)]
    drops: u64,
}

/// Prints events until interrupted, one per line: in words on a terminal, otherwise (for scripts) and with `--json`
/// as JSON objects.
pub fn run(args: &Args, client: Client, printer: &Printer) -> Result<u8, Failure> {
    let json = printer.is_json() || !stdout().is_terminal();
    client.monitor(args.drops, |event| {
        let line = if json { event.to_string() } else { line(event) };
        printer.bytes(format!("{line}\n").as_bytes())
    })
}

/// An event on one line: its time, its kind, its words.
fn line(event: &Value) -> String {
    let time = text(event, "time").unwrap_or("-");
    let kind = text(event, "event").unwrap_or("event");
    plain(&format!("{time}  {kind:<7}  {}", words(kind, event)))
}

/// The event in words. An event of an unknown kind is shown as its fields.
fn words(kind: &str, event: &Value) -> String {
    let why = |text: String| match self::text(event, "why") {
        Some(why) => format!("{text}: {why}"),
        None => text,
    };
    let name = |key: &str| text(event, key).unwrap_or("?").to_owned();
    match kind {
        "port" => {
            why(format!("{} is {}, {}", name("ifname"), name("state"), name("operstate").to_lowercase()))
        }
        "learned" | "moved" => {
            let at = text(event, "peer")
                .map_or_else(|| format!("port {}", name("ifname")), |p| format!("peer {p}"));
            let vlan = match event["vlan"].as_u64() {
                None | Some(0) => String::new(),
                Some(vlan) => format!(", VLAN {vlan}"),
            };
            format!("{} on {}{vlan} is behind {at}", name("mac"), name("network"))
        }
        "peer" => {
            let hop = if event["resolved"] == true { "" } else { " (next hop not resolved)" };
            why(format!("{} at {} is {}{hop}", name("peer"), name("address"), name("state")))
        }
        "path" => format!("the path to {} carries {}", name("peer"), event["mtu"]),
        "mtu" => {
            let networks = event["networks"].as_object().into_iter().flatten();
            let words: Vec<String> = networks.map(|(network, mtu)| format!("{network} {mtu}")).collect();
            format!("networks carry: {}", words.join(", "))
        }
        "config" => config(event),
        "flush" => {
            let of: Vec<String> = ["network", "port", "peer"]
                .iter()
                .filter_map(|key| Some(format!("{key} {}", text(event, key)?)))
                .collect();
            let of = if of.is_empty() { "everything".to_owned() } else { of.join(", ") };
            format!("{}: {of} is flushed", name("table"))
        }
        "drops" => format!(
            "{} drops {} per second: {}, {} in all: {}",
            name("port"),
            event["per_second"],
            name("reason"),
            event["count"],
            name("help")
        ),
        _ => event.to_string(),
    }
}

fn config(event: &Value) -> String {
    let how = match (event["trial_s"].as_u64(), event["rolled_back"] == true, event["reloaded"] == true) {
        (Some(seconds), ..) => format!("waits for its confirmation for {seconds} s"),
        (_, true, _) => format!("rolled back: {}", text(event, "why").unwrap_or("on request")),
        (.., true) => "read again".to_owned(),
        _ => "changed".to_owned(),
    };
    let changes = event["changes"].as_array().into_iter().flatten();
    let changes =
        changes.filter_map(|change| serde_json::from_value::<ctl::model::Change>(change.clone()).ok());
    let mut parts: Vec<String> = changes.map(|change| change.to_string()).collect();
    parts.extend(event["more_changes"].as_u64().map(|more| format!("and {more} more changes")));
    if parts.is_empty() { how } else { format!("{how}: {}", parts.join("; ")) }
}

fn text<'e>(event: &'e Value, key: &str) -> Option<&'e str> {
    event[key].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_in_words() {
        let time = "2026-02-03T04:05:06.789Z";
        for (event, expected) in [
            (
                json!({ "event": "port", "ifname": "g1", "state": "waiting", "operstate": "DOWN", "why": "waiting for g1" }),
                "port     g1 is waiting, down: waiting for g1",
            ),
            (
                json!({ "event": "moved", "mac": "02:00:00:00:00:01", "network": "n", "vlan": 7, "ifname": "uplink", "peer": "rvm2" }),
                "moved    02:00:00:00:00:01 on n, VLAN 7 is behind peer rvm2",
            ),
            (
                json!({ "event": "peer", "peer": "rvm2", "address": "10.0.0.12", "state": "silent", "resolved": false, "why": "x" }),
                "peer     rvm2 at 10.0.0.12 is silent (next hop not resolved): x",
            ),
            (
                json!({ "event": "config", "edit": 3, "changes": [{ "object": "network \"a\"", "new": {} }], "more_changes": 2 }),
                "config   changed: + network \"a\"; and 2 more changes",
            ),
            (
                json!({ "event": "flush", "table": "fdb", "network": "n" }),
                "flush    fdb: network n is flushed",
            ),
            (json!({ "event": "flush", "table": "neigh" }), "flush    neigh: everything is flushed"),
            (
                json!({ "event": "new\u{1b}", "a": 1 }),
                "new?     {\"a\":1,\"event\":\"new\\u001b\",\"time\":\"2026-02-03T04:05:06.789Z\"}",
            ),
        ] {
            let mut event = event;
            event["time"] = json!(time);
            assert_eq!(line(&event), format!("{time}  {expected}"));
        }
        assert_eq!(
            line(&json!({ "event": "path", "peer": "a", "mtu": 1400 })),
            "-  path     the path to a carries 1400"
        );
    }
}
