//! One switch on two workers: each worker has one of two queues, and a single queue is lent by the worker that has
//! it.

use std::net::Ipv4Addr;
use std::time::Duration;

use system::{Lab, Namespace, RawSocket, Switch, transfer, udp_frame, wait_for};

use crate::topology::{host, network, port};

/// Two workers, on any cores.
const WORKERS: &str = "[workers]\ncount = 2\n";

/// As [`host`], on a veth with two queues each way.
fn wide_host(lab: &Lab, rvm: &Namespace, name: &str, address: &str) -> Namespace {
    let host = lab.namespace(name);
    let queues = "numtxqueues 2 numrxqueues 2";
    let (ours, theirs) = (rvm.name(), format!("p-{name}"));
    host.ip(&format!("link add eth0 {queues} type veth peer name {theirs} netns {ours} {queues}"));
    host.ip("link set eth0 up");
    rvm.ip(&format!("link set {theirs} up"));
    host.ip(&format!("addr add {address} dev eth0"));
    host
}

/// Packets that a port has received and sent, by the switch's counters.
fn switch_counts(status: &serde_json::Value, port: &str) -> (u64, u64) {
    let rows = status["ports"].as_array().expect("ports");
    let stats = &rows.iter().find(|row| row["ifname"] == port).expect("the port")["stats64"];
    let count = |way: &str| stats[way]["packets"].as_u64().expect("a counter");
    (count("rx"), count("tx"))
}

/// Packets that an interface has sent and received by the kernel's counters, which the port at its other end receives
/// and sends.
fn kernel_counts(namespace: &Namespace) -> (u64, u64) {
    let stats = &namespace.ip_json("link show eth0")[0]["stats64"];
    let count = |way: &str| stats[way]["packets"].as_u64().expect("a counter");
    (count("tx"), count("rx"))
}

/// Two hosts on two queues and one on one queue. All reach each other, TCP is intact, both workers
/// have work, frames cross between them, and every counter agrees exactly with the kernel's.
#[test]
fn two_workers_are_one_switch() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let h1 = wide_host(&lab, &rvm, "h1", "10.1.0.1/24");
    let h2 = wide_host(&lab, &rvm, "h2", "10.1.0.2/24");
    let h3 = host(&lab, &rvm, "h3", &["10.1.0.3/24"]);
    let hosts = [&h1, &h2, &h3];
    for (host, name) in hosts.into_iter().zip(["h1", "h2", "h3"]) {
        // Only frames of this test must be counted.
        host.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
        rvm.sysctl(&format!("net/ipv6/conf/p-{name}/disable_ipv6"), "1");
    }
    let ports = ["h1", "h2", "h3"];
    let config = WORKERS.to_owned()
        + &network("private", 100)
        + &ports.iter().map(|name| port(name, "private")).collect::<String>();
    let mut switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&ports);
    let queues = |status: &serde_json::Value| -> Vec<u64> {
        status["ports"].as_array().unwrap().iter().map(|row| row["queues"].as_u64().unwrap()).collect()
    };
    let status = switch.counters_at_rest();
    assert_eq!(queues(&status), [2, 2, 1]);
    let start = ports.map(|name| switch_counts(&status, name));
    let kernel_start = hosts.map(kernel_counts);

    for (from, to) in [(&h1, "10.1.0.2"), (&h2, "10.1.0.3"), (&h3, "10.1.0.1")] {
        from.reaches(to);
    }
    for (client, server, address) in [(&h1, &h2, "10.1.0.2:80"), (&h2, &h3, "10.1.0.3:80")] {
        let address = address.parse().unwrap();
        transfer(client, server, address, address, 5_000_000);
    }
    // Many flows, which the kernel spreads over the queues. None is flooded, because the worker that learns a station
    // informs the other.
    let raw = RawSocket::open(&h1, "eth0");
    let source = h1.mac("eth0");
    let targets = [(h2.mac("eth0"), 2), (h3.mac("eth0"), 3)];
    for n in 0..2000u16 {
        let (mac, last) = targets[usize::from(n % 2)];
        let from = (source, Ipv4Addr::new(10, 1, 0, 1), 10_000 + n);
        raw.must_send(&udp_frame(from, (mac, Ipv4Addr::new(10, 1, 0, last), 9), &[], &[1; 64]));
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    let mut status = switch.counters_at_rest();
    wait_for("every frame to be counted", || {
        status = switch.counters_at_rest();
        (0..3).all(|i| {
            switch_counts(&status, ports[i]).0 - start[i].0 == kernel_counts(hosts[i]).0 - kernel_start[i].0
        })
    });
    for (i, name) in ports.into_iter().enumerate() {
        let sent = switch_counts(&status, name).1 - start[i].1;
        assert_eq!(sent, kernel_counts(hosts[i]).1 - kernel_start[i].1, "{name}: we sent, it received");
    }
    let workers = status["workers"].as_array().expect("workers").clone();
    wait_for("what the workers did to be told", || {
        status = switch.json("status");
        let rows = status["workers"].as_array().cloned().unwrap_or_default();
        rows.len() == 2 && rows.iter().all(|row| row["frames"].as_u64().is_some_and(|n| n > 500))
    });
    let frames = &status["frames"];
    assert!(frames["handed_off"].as_u64().unwrap() > 500, "to the port of one queue: {frames} {workers:?}");
    assert_eq!(frames["handed_off"], frames["taken_over"]);
    // Apart from broadcasts, nothing is replicated: all unicast found its station.
    assert!(frames["replicated"].as_u64().unwrap() < 60, "{frames}");

    let fdb = switch.json("fdb list");
    let macs: Vec<&str> = fdb.as_array().unwrap().iter().map(|row| row["mac"].as_str().unwrap()).collect();
    assert_eq!(macs.len(), 3, "each station once: {fdb}");

    // A new number of workers takes effect at the next start.
    let text = std::fs::read_to_string(switch.config()).unwrap().replace("count = 2", "count = 1");
    let other = lab.dir().join("other.toml");
    std::fs::write(&other, text).unwrap();
    let answer = switch.ivctl(&format!("config apply {}", other.display()));
    assert!([0, 8].contains(&answer.code), "{answer:?}");
    let warnings = switch.json("status")["warnings"].to_string();
    assert!(warnings.contains("2 run until the daemon restarts"), "{warnings}");
    h1.reaches("10.1.0.3");
    assert!(switch.terminate().success());
    switch.start_again();
    switch.wait_live(&ports);
    wait_for("one worker", || switch.json("status")["workers"].as_array().map(Vec::len) == Some(1));
    h1.reaches("10.1.0.3");
}

/// A door has a queue for each worker on both ends, and two workers that have nothing to do sleep.
#[test]
fn doors_are_as_wide_as_the_switch_and_idle_workers_sleep() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let h3 = host(&lab, &rvm, "h3", &["10.1.0.3/24"]);
    let config = WORKERS.to_owned()
        + &network("private", 100)
        + "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\naddress = [\"10.1.0.1/24\"]\nkind = \"afxdp\"\n"
        + &port("h3", "private");
    let switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["eth1", "h3"]);
    for interface in ["eth1", "eth1p"] {
        let link = &rvm.ip_json(&format!("link show {interface}"))[0];
        assert_eq!((&link["num_tx_queues"], &link["num_rx_queues"]), (&2.into(), &2.into()), "{interface}");
    }
    let rows = switch.json("status")["ports"].as_array().cloned().unwrap();
    let door = rows.iter().find(|row| row["ifname"] == "eth1").unwrap();
    assert!(door["queues"] == 2 && door["mode"].as_str().unwrap().contains("native"), "{door}");
    h3.reaches("10.1.0.1");

    // Measured over a while, because CPU time is counted in steps of 10 ms.
    let (before, while_idle) = (switch.cpu_time(), Duration::from_secs(6));
    std::thread::sleep(while_idle);
    let used = switch.cpu_time() - before;
    assert!(used * 200 <= while_idle, "{used:?} of CPU in {while_idle:?} of idleness: over 0.5 %");
}
