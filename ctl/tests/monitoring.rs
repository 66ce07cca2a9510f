//! The metrics, the alert rules and the dashboard use the same names; promtool checks that the rules are valid and
//! that their tests pass.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use ctl::api::{DropRow, Status};
use ctl::metrics;
use serde_json::json;

fn status() -> Status {
    let stats = json!({ "rx": { "bytes": 100, "packets": 1, "errors": 0, "dropped": 0 },
        "tx": { "bytes": 200, "packets": 2, "errors": 0, "dropped": 0 } });
    let port = |name: &str, role: &str, network: Option<&str>| {
        json!({ "ifname": name, "link": name, "role": role, "network": network, "mtu": 1450, "operstate": "UP",
            "state": "live", "stats64": stats })
    };
    let floating = |ip: &str, only: &str| {
        json!({ "ip": ip, "network": "public", "gateway": "rvm1", "here": true, "only": [only], "except": [],
            "resolved": true, "packets_in": 3, "packets_out": 4, "bytes_in": 300, "bytes_out": 400 })
    };
    serde_json::from_value(json!({
        "name": "rvm1", "version": "0.1.0", "api": 1, "uptime": 60, "vtep": "10.0.0.11", "tunnel_port": 4789,
        "overlay_mtu": 1450,
        "ports": [port("uplink", "uplink", None), port("a\"b\\c", "door", Some("private"))],
        "networks": [{ "name": "private", "vni": 100, "gateway": [], "router_mac": "", "fdb_max": 8192,
            "fdb_age": 300, "ports": [], "peers": [], "fdb": 5 }],
        "peers": [{ "name": "rvm2", "address": "10.0.0.12", "relay": false, "networks": [], "mtu": 1500,
            "resolved": true, "state": "silent", "answered": 12, "refuses": ["private"], "tx": 7, "rx": 8, "tx_bytes": 700, "rx_bytes": 800 }],
        "floating": [floating("56.0.0.11", "tcp/80"), floating("56.0.0.11", "tcp/443")],
        "workers": [{ "busy": 0.25, "sleeps": 1, "frames": 9 }],
        "steered": { "tunnel": 90, "reality": 20, "own": 7, "passed": 55, "own_flows": 3, "own_unknown": "" },
        "closed": { "addresses": ["10.0.0.11", "fd00::11"], "in_place": true, "why": "", "restored": 2 },
        "frames": { "rx": 1, "replicated": 0, "originated": 0, "tx": 1, "dropped": 0, "punted": 0, "consumed": 0,
            "queued": 0 },
        "icmp_errors": { "time-exceeded": 5 }, "icmp_errors_limited": 2,
        "drops": [{ "port": "uplink", "reason": "too-big", "count": 6, "help": "" }],
        "warnings": ["x"],
        "problems": [{ "kind": "unknown-peer", "object": "10.0.0.13", "what": "x" }],
    }))
    .unwrap()
}

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring")
}

/// Words that look like our metrics.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("ivs_")).map(str::to_owned).collect()
}

#[test]
fn the_text_says_what_status_says() {
    let text = metrics::render(&status());
    for line in [
        "ivs_port_rx_packets_total{port=\"uplink\",network=\"\"} 1",
        "ivs_port_tx_bytes_total{port=\"a\\\"b\\\\c\",network=\"private\"} 200",
        "ivs_drops_total{port=\"uplink\",reason=\"too-big\"} 6",
        "ivs_peer_rx_frames_total{peer=\"rvm2\"} 8",
        "ivs_peer_up{peer=\"rvm2\"} 0.0",
        "ivs_peer_resolved{peer=\"rvm2\"} 1.0",
        "ivs_peer_state{peer=\"rvm2\",state=\"silent\"} 1.0",
        "ivs_peer_state{peer=\"rvm2\",state=\"up\"} 0.0",
        "ivs_peer_answered_seconds{peer=\"rvm2\"} 12.0",
        "ivs_peer_refused_networks{peer=\"rvm2\"} 1.0",
        "ivs_warnings{kind=\"unknown-peer\"} 1.0",
        "ivs_warnings{kind=\"peer\"} 0.0",
        "ivs_peer_tx_bytes_total{peer=\"rvm2\"} 700",
        "ivs_peer_rx_bytes_total{peer=\"rvm2\"} 800",
        "ivs_fdb_entries{network=\"private\"} 5.0",
        "ivs_steered_frames_total{to=\"own\"} 7",
        "ivs_own_flows{} 3.0",
        "ivs_reality_closed{address=\"fd00::11\"} 1.0",
        "ivs_floating_in_packets_total{ip=\"56.0.0.11\",network=\"public\"} 6",
        "ivs_floating_in_bytes_total{ip=\"56.0.0.11\",network=\"public\"} 600",
        "ivs_floating_out_bytes_total{ip=\"56.0.0.11\",network=\"public\"} 800",
        "ivs_worker_busy_ratio{worker=\"0\"} 0.25",
        "ivs_icmp_errors_total{kind=\"time-exceeded\"} 5",
        "ivs_icmp_errors_limited_total{} 2",
        "# TYPE ivs_drops counter",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let plain = metrics::render_plain(&status());
    let told =
        |text: &str| text.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(told(&plain), told(&text));
    assert!(
        plain.lines().any(|l| l == "# TYPE ivs_drops_total counter") && !plain.contains("EOF"),
        "{plain}"
    );
    let samples: Vec<&str> =
        text.lines().filter(|l| !l.starts_with('#')).map(|l| l.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(samples.iter().collect::<BTreeSet<_>>().len(), samples.len(), "every sample is there once");
}

/// Traffic creates no new series: their number is bounded by the names in the configuration and the reasons in the
/// program.
#[test]
fn there_are_no_more_series_than_names() {
    let mut s = status();
    let before = metrics::render(&s).lines().count();
    s.drops = vec![DropRow { count: u64::MAX, ..s.drops[0].clone() }];
    s.ports[0].stats64.rx.packets = u64::MAX;
    s.networks[0].fdb = Some(u32::MAX);
    assert_eq!(metrics::render(&s).lines().count(), before);
}

#[test]
fn rules_and_dashboard_ask_for_what_there_is() {
    let there = names(&metrics::render(&status()));
    for file in ["alerts.yml", "alerts.test.yml", "dashboard.json"] {
        let text = std::fs::read_to_string(monitoring().join(file)).unwrap();
        let asked = names(&text);
        assert!(!asked.is_empty());
        assert!(asked.is_subset(&there), "{file} asks for {:?}", asked.difference(&there));
    }
    let dashboard = std::fs::read_to_string(monitoring().join("dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);
}

#[test]
fn promtool_finds_the_rules_right() {
    if Command::new("promtool").arg("--version").output().is_err() {
        assert!(
            std::env::var_os("IVS_MUST_RUN").is_none(),
            "promtool is missing: apt-get install prometheus"
        );
        return eprintln!("skipped: promtool is not there to be asked");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), metrics::render_plain(&status())).unwrap();
    let text = std::fs::File::open(file.path()).unwrap();
    let output = Command::new("promtool").args(["check", "metrics"]).stdin(text).output().unwrap();
    assert!(output.status.success(), "check metrics: {}", String::from_utf8_lossy(&output.stderr));
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(monitoring()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
