//! A short run of the nested benchmark: it measures, and does not repeat measurements that it already has.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use system::{Lab, Libvirt, binaries, guest_image};

/// Two guests behind one switch, and the speed of this machine and of one guest by themselves.
const ROWS: &str = "same rVM vhost-user,levels L0 L1";

fn ivbench(lab: &Lab) -> (Value, String) {
    let mut ivbench = Command::new(binaries().join("ivbench"));
    ivbench.args(["--quick", "--seconds", "0.3", "--minutes", "4", "--only", ROWS]);
    ivbench.arg("--out").arg(lab.dir()).arg("--image").arg(guest_image());
    let output = ivbench.env("IVS_BIN_DIR", binaries()).output().expect("running ivbench");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ivbench: {said}");
    let read = |path: &Path| std::fs::read_to_string(path).expect("written");
    let html = read(&lab.dir().join("nested/nested.html"));
    assert!(html.contains("<svg") && !html.contains("<img"), "the page needs nothing beside it");
    (serde_json::from_str(&read(&lab.dir().join("nested/results.json"))).expect("JSON"), said)
}

/// The quick part of N-24: figures of two guests behind the switch in shared memory, and of web pages from a database
/// on this machine (L0) and in a guest (L1). A second run reuses all rows. Guests in guests (L2) take the whole
/// benchmark an hour; their figures are in `bench/NESTED.md`.
#[test]
fn n24_the_nested_benchmark_measures_networks_and_web_pages_once() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let (results, said) = ivbench(&lab);
    assert!(said.contains("vhost-user pass 1: done"), "{said}");
    let figure = |name: &str| {
        let runs = &results["runs"][format!("nested/iVM-iVM same rVM/{name}")];
        runs[0].as_f64().unwrap_or_else(|| panic!("no {name}: {results}"))
    };
    assert!(figure("tcp/vhost-user/gbps") > 0.001);
    assert!(figure("small packets/vhost-user/pps") > 10.0);
    let (p50, p99) = (figure("rtt/vhost-user/rtt_p50_us"), figure("rtt/vhost-user/rtt_p99_us"));
    assert!(p50 > 10.0 && p50 <= p99, "{p50} {p99}");
    // The switch polls, so it needs less than one kick or call per packet.
    let events = figure("small packets/vhost-user/events");
    assert!(events > 0.0 && events < 1.0, "{events} kicks and calls for a packet");
    assert!(figure("small packets: cores, L0 switch/vhost-user/cores") > 0.0);
    for level in ["L0", "L1"] {
        let page = |what: &str| {
            let runs = &results["runs"][format!("nested/{level}/http {what}/level/seconds")];
            runs[0].as_f64().unwrap_or_else(|| panic!("no page on {level}: {results}"))
        };
        let (p80, p90) = (page("p80"), page("p90"));
        assert!(page("mean") > 0.0 && p80 > 0.0 && p80 <= p90 && p90 < 60.0, "{level}: {p80} {p90}");
    }
    let (again, said) = ivbench(&lab);
    assert!(!said.contains(": done"), "measured again: {said}");
    assert_eq!(again["runs"], results["runs"]);
}
