//! Services around the switch: metrics for Prometheus, events for scripts, a live view, the doctor, the report, the
//! log.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;
use system::{Lab, RawSocket, Switch, binaries, udp_frame, wait_for};

use crate::topology::{FarKernel, V4, host, network, port};

/// A real Prometheus scrapes the daemon, and its figures of every port are those of `ivctl`. A Unix socket serves the
/// same text. The daemon listens at no other address, and the socket is removed with the daemon.
#[test]
fn prometheus_knows_what_ivctl_says() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let (h1, _h2) = (host(&lab, &rvm, "h1", &["10.1.0.1/24"]), host(&lab, &rvm, "h2", &["10.1.0.2/24"]));
    let config = network("private", 100) + &port("h1", "private") + &port("h2", "private");
    let mut switch = Switch::start_as(&lab, &rvm, &config, &["env", "IVS_METRICS=127.0.0.1:9477"]);
    switch.wait_live(&["h1", "h2"]);
    h1.reaches("10.1.0.2");
    let raw = RawSocket::open(&h1, "eth0");
    let own = (h1.mac("eth0"), [10, 1, 0, 1].into(), 7);
    for _ in 0..3 {
        raw.must_send(&udp_frame(own, ([1, 0x80, 0xc2, 0, 0, 0x0e], [10, 1, 0, 9].into(), 7), &[], b"x"));
    }
    wait_for("the drops", || switch.drops("h1", "link-local-group") >= 3);

    let file = lab.dir().join("prometheus.yml");
    let scrape = "global: { scrape_interval: 1s }\nscrape_configs:\n- job_name: ivswitch\n  static_configs: [{ targets: ['127.0.0.1:9477'] }]\n";
    fs::write(&file, scrape).expect("writing");
    let data = lab.dir().join("tsdb");
    let mut prometheus = rvm
        .command("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg("--web.listen-address=127.0.0.1:9099")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("running prometheus");
    let query = |expression: &str| {
        let mut promtool = rvm.command("promtool");
        promtool.args(["query", "instant", "http://127.0.0.1:9099", expression]);
        String::from_utf8_lossy(&promtool.output().expect("promtool").stdout).into_owned()
    };
    wait_for("prometheus to have scraped", || query("up{job='ivswitch'}").contains("=> 1 "));
    wait_for("the port to be up", || query("ivs_port_up{port='h1',network='private'}").contains("=> 1 "));
    let drops = query("ivs_drops_total{port='h1',reason='link-local-group'}");
    assert!(drops.contains(&format!("=> {} ", switch.drops("h1", "link-local-group"))), "{drops}");
    // Traffic has stopped: frames and bytes of every port are the same on both sides.
    let same = |row: &Value, way: &str, what: &str| {
        let port = row["ifname"].as_str().expect("a name");
        let known = query(&format!("ivs_port_{way}_{what}_total{{port='{port}'}}"));
        known.contains(&format!("=> {} ", row["stats64"][way][what]))
    };
    wait_for("Prometheus to know what ivctl says", || {
        let rows = switch.json("port list");
        let rows = rows.as_array().expect("rows");
        rows.len() == 2
            && rows.iter().all(|row| {
                row["stats64"]["rx"]["packets"].as_u64() > Some(0)
                    && ["rx", "tx"]
                        .iter()
                        .all(|way| ["packets", "bytes"].iter().all(|what| same(row, way, what)))
            })
    });
    for name in [
        "ivs_info",
        "ivs_worker_busy_ratio",
        "ivs_fdb_entries",
        "ivs_frames_total",
        "ivs_port_rx_bytes_total",
    ] {
        assert!(query(name).contains("instance="), "{name}");
    }
    prometheus.kill().expect("a child of ours");
    prometheus.wait().expect("it ends");

    switch.terminate();
    let path = lab.dir().join("metrics.sock");
    let place = format!("IVS_METRICS=unix:{}", path.display());
    let other = lab.namespace("other");
    let mut switch = Switch::start_as(&lab, &other, &network("n", 5), &["env", &place]);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("the metrics' socket");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("asking");
    let text = std::io::read_to_string(stream).expect("an answer");
    assert!(text.starts_with("HTTP/1.0 200 OK") && text.contains("text/plain; version=0.0.4"), "{text}");
    assert!(text.contains("# TYPE ivs_frames_total counter") && !text.contains("# EOF"), "{text}");
    assert!(text.contains("ivs_fdb_entries{network=\"n\"} 0"), "{text}");
    // Clients that send nothing do not keep the switch from its work.
    let _silent = std::os::unix::net::UnixStream::connect(&path).expect("the metrics' socket");
    assert_eq!(switch.ivctl("network add m --vni 6").code, 0);
    switch.terminate();
    assert!(!path.exists(), "nothing is left behind");
}

/// An `ivctl monitor`, and the events that it prints.
struct Monitor(Child, Receiver<Value>);

impl Monitor {
    fn start(switch: &Switch, arguments: &[&str]) -> Self {
        let mut ivctl = Command::new(binaries().join("ivctl"));
        ivctl.arg("--socket").arg(switch.socket()).arg("monitor").args(arguments);
        let mut child = ivctl.stdout(Stdio::piped()).spawn().expect("running ivctl");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (events, heard) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = events.send(serde_json::from_str(&line).expect("a line of JSON"));
            }
        });
        Self(child, heard)
    }

    /// Waits for an event like this; earlier ones are skipped.
    #[track_caller]
    fn expect(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut others = Vec::new();
        loop {
            match self.1.recv_timeout(Duration::from_secs(15)) {
                Ok(event) if is(&event) => return event,
                Ok(event) => others.push(event),
                Err(_) => panic!("no event that {what}; heard {others:?}"),
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every listener receives each event as it happens: stations, ports, peers, configurations, drops.
#[test]
fn i13_events_are_told_as_they_happen() {
    let Some(lab) = Lab::new() else { return };
    let FarKernel { rvm, far, h1, switch, .. } = FarKernel::new(&lab, V4, false);
    switch.wait_live(&["uplink", "h1"]);
    let monitor = Monitor::start(&switch, &["--drops", "20"]);
    // An event is repeated until it arrives: from then on the monitor listens.
    wait_for("it to listen", || {
        switch.ivctl("network add probe --vni 999");
        switch.ivctl("network del probe");
        monitor.1.recv_timeout(Duration::from_millis(100)).is_ok()
    });
    h1.reaches("10.1.0.2");
    let mac = h1.mac("eth0").map(|byte| format!("{byte:02x}")).join(":");
    switch.ivctl("fdb flush");
    let flush = monitor.expect("the table is flushed", |e| e["event"] == "flush" && e["table"] == "fdb");
    let time = flush["time"].as_str().expect("a time");
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    wait_for("h1 to speak again", || h1.ping("-c1 -W1 10.1.0.2") == 1);
    let learned = monitor.expect("h1 is learned", |e| e["event"] == "learned" && e["mac"] == mac.as_str());
    assert_eq!((&learned["ifname"], &learned["network"]), (&"h1".into(), &"private".into()));

    // The same station, seen from the other side.
    let theirs = RawSocket::open(&far, "eth0");
    let inner = udp_frame(
        (h1.mac("eth0"), [10, 1, 0, 1].into(), 7),
        ([2, 9, 9, 9, 9, 9], [10, 1, 0, 9].into(), 7),
        &[],
        b"x",
    );
    let tunnel = system::vxlan(8, 100, 0, &inner);
    let outer = udp_frame(
        (far.mac("eth0"), [10, 0, 0, 12].into(), 50_000),
        (rvm.mac("eth0"), [10, 0, 0, 11].into(), 4789),
        &[],
        &tunnel,
    );
    theirs.must_send(&outer);
    monitor
        .expect("h1 has moved", |e| e["event"] == "moved" && e["mac"] == mac.as_str() && e["peer"] == "far");

    h1.ip("link set eth0 down");
    monitor.expect("h1 is down", |e| e["event"] == "port" && e["ifname"] == "h1" && e["operstate"] == "DOWN");
    h1.ip("link set eth0 up");
    monitor.expect("h1 is up", |e| e["event"] == "port" && e["ifname"] == "h1" && e["operstate"] == "UP");

    assert_eq!(switch.ivctl("network add other --vni 300").code, 0);
    monitor.expect("the configuration changed", |e| e["event"] == "config");

    assert_eq!(switch.ivctl("peer add ghost --address 10.0.0.77").code, 0);
    let raw = RawSocket::open(&h1, "eth0");
    let own = (h1.mac("eth0"), [10, 1, 0, 1].into(), 7);
    for _ in 0..60 {
        for _ in 0..10 {
            let frame = udp_frame(own, ([1, 0x80, 0xc2, 0, 0, 0x0e], [10, 1, 0, 9].into(), 7), &[], b"x");
            let _ = raw.send(&frame);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let drops =
        monitor.expect("drops come fast", |e| e["event"] == "drops" && e["reason"] == "link-local-group");
    assert!(drops["per_second"].as_u64().expect("a number") >= 20, "{drops}");
    // A next hop that appears.
    far.ip("addr add 10.0.0.77/16 dev eth0");
    monitor.expect("the way to the peer is known", |e| {
        e["event"] == "peer" && e["peer"] == "ghost" && e["resolved"] == true
    });
}

/// The live view draws on a terminal, and `q` ends it and restores the terminal. Without a terminal it
/// prints once.
#[test]
fn i13_top_draws_and_ends() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let (h1, _h2) = (host(&lab, &rvm, "h1", &["10.1.0.1/24"]), host(&lab, &rvm, "h2", &["10.1.0.2/24"]));
    let config = network("private", 100) + &port("h1", "private") + &port("h2", "private");
    let switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["h1", "h2"]);
    h1.reaches("10.1.0.2");
    let once = switch.ivctl("top");
    assert_eq!(once.code, 0, "{once:?}");
    assert!(once.stdout.contains("RX PPS") && once.stdout.contains("network  private"), "{}", once.stdout);
    let rows = switch.json("top --once --interval 0.2")["rows"].as_array().expect("rows").len();
    assert_eq!(rows, 3, "two ports and a network");

    let line = format!(
        "stty rows 24 cols 90; {} --socket {} top",
        binaries().join("ivctl").display(),
        switch.socket().display()
    );
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = script.spawn().expect("running script");
    let mut keys = child.stdin.take().expect("a pipe");
    std::thread::sleep(Duration::from_millis(1500));
    keys.write_all(b"q").expect("typing");
    let output = child.wait_with_output().expect("script");
    let drawn = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{drawn}");
    assert!(drawn.contains("worker") && drawn.contains("private"), "{drawn}");
    assert!(
        drawn.contains("\x1b[?1049h") && drawn.contains("\x1b[?1049l"),
        "the screen is taken and given back"
    );
}

/// The doctor finds wrong settings and names remedies, and its exit code shows it; the report contains everything but
/// secrets.
#[test]
fn i13_the_doctor_finds_it_and_the_report_tells_no_secret() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let config = network("private", 100)
        + "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\n# etcd_password = \"hunter2hunter2\"\n";
    let mut switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["eth1"]);
    let socket = switch.socket().to_owned();
    let doctor = |arguments: &str| {
        let mut ivctl = rvm.command(binaries().join("ivctl"));
        let output = ivctl.arg("--socket").arg(&socket).args(arguments.split(' ')).output().expect("ivctl");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    rvm.sysctl("net/ipv4/conf/all/rp_filter", "0");
    rvm.sysctl("net/ipv4/conf/eth1/rp_filter", "0");
    let level = |check: &str| {
        let findings: Vec<Value> = serde_json::from_str(&doctor("-j doctor").1).expect("JSON");
        findings
            .iter()
            .find(|f| f["check"] == check)
            .map(|f| f["level"].clone())
            .unwrap_or_else(|| panic!("{check}"))
    };
    assert_eq!(
        (level("rp_filter"), level("af_xdp"), level("daemon")),
        ("ok".into(), "ok".into(), "ok".into())
    );
    rvm.sysctl("net/ipv4/conf/eth1/rp_filter", "1");
    assert_eq!(level("rp_filter"), "warn");
    let (code, text) = doctor("doctor");
    assert_eq!(code, Some(8), "{text}");
    assert!(text.contains("help: `sysctl -w net.ipv4.conf.eth1.rp_filter=2`"), "{text}");

    let (code, report) = doctor("sysdump");
    assert_eq!(code, Some(0));
    for part in ["=== doctor", "=== status", "=== configuration", "name = \"eth1\"", "=== ip -d -s link"] {
        assert!(report.contains(part), "{part}");
    }
    assert!(!report.contains("hunter2"), "{report}");

    // The log filter can be changed while the daemon runs.
    assert_eq!(switch.ivctl("log").stdout, "info\n");
    assert_eq!(switch.ivctl("log debug").code, 0);
    assert_eq!(switch.ivctl("log").stdout, "debug\n");
    let refused = switch.ivctl("log frob=nicate");
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("ivswitchd::links=debug"), "{}", refused.stderr);

    switch.kill();
    let (code, text) = doctor("doctor");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("FAIL daemon"), "{text}");
}
