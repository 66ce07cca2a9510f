//! Policies of a port on real interfaces: rate limits, quarantine, mirrors, and the guard that
//! disables a port. The verdict cache is on, and must not carry a flow past a policy.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use system::{Capture, Lab, Namespace, RawSocket, Stream, Switch, transfer, udp_frame, wait_for, wait_until};

use crate::topology::{host, network, port};

/// Hosts h1, h3 and h5 on one network, to which the kernel can redirect.
struct Hosts {
    h1: Namespace,
    h3: Namespace,
    h5: Namespace,
    switch: Switch,
}

fn hosts(lab: &Lab, settings: &str, of_h1: &str) -> Hosts {
    let rvm = lab.namespace("rvm");
    let [h1, h3, h5] = [("h1", 1), ("h3", 3), ("h5", 5)].map(|(name, last)| {
        let h = host(lab, &rvm, name, &[&format!("10.1.0.{last}/24")]);
        for (feature, state) in [("gro", "on"), ("tx", "off")] {
            let done = h.command("ethtool").args(["-K", "eth0", feature, state]).output();
            assert!(done.expect("running ethtool").status.success());
        }
        h.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
        h
    });
    let config = settings.to_owned()
        + &network("private", 100)
        + &port("h1", "private")
        + of_h1
        + &port("h3", "private")
        + &port("h5", "private");
    let switch = Switch::start(lab, &rvm, &config);
    switch.wait_live(&["h1", "h3", "h5"]);
    h1.reaches("10.1.0.3");
    h5.reaches("10.1.0.3");
    Hosts { h1, h3, h5, switch }
}

const CACHED: &str = "cache = \"auto\"\n";

fn hits(switch: &Switch) -> u64 {
    switch.json("status")["cache"]["hits"].as_u64().expect("a counter")
}

fn wait_followed(switch: &Switch) {
    let before = hits(switch);
    wait_for("frames to be followed in the kernel", || hits(switch) > before + 100);
}

fn done(switch: &Switch, arguments: &str) {
    let answer = switch.ivctl(arguments);
    assert_eq!(answer.code, 0, "{arguments}: {}", answer.stderr);
}

fn row(switch: &Switch, port: &str) -> serde_json::Value {
    switch.json(&format!("port show {port}"))[0].clone()
}

/// A running stream that the kernel carries is put under a limit: from then on packets pass at the limit's rate, all
/// others are counted, and the neighbour's stream loses nothing.
#[test]
fn a_rate_limit_holds_for_flows_in_the_verdict_cache() {
    let Some(lab) = Lab::new() else { return };
    let Hosts { h1, h3, h5, switch } = hosts(&lab, CACHED, "");
    let stream = Stream::start(&h1, &h3, "10.1.0.3:9".parse().unwrap(), 4000);
    let other = Stream::start(&h5, &h3, "10.1.0.3:10".parse().unwrap(), 2000);
    stream.wait_more(100, "at the start");
    wait_followed(&switch);
    done(&switch, "port set h1 --ingress-pps 1k");
    assert_eq!(row(&switch, "h1")["ingress"]["pps"], 1000);
    assert!(switch.ivctl("port list").stdout.contains("in at most 1 k frames/s"));
    // The flow is removed from the cache; the other host's flow comes back to it.
    let dropped = || switch.drops("h1", "ingress-rate-limit");
    wait_for("the limit to bite", || dropped() > 0);
    wait_followed(&switch);
    let (start, passed) = (Instant::now(), row(&switch, "h1")["stats64"]["rx"]["packets"].as_u64().unwrap());
    let before = dropped();
    std::thread::sleep(Duration::from_secs(1));
    let (now, seconds) = (row(&switch, "h1"), start.elapsed().as_secs_f64());
    let refused = dropped() - before;
    let passed = now["stats64"]["rx"]["packets"].as_u64().unwrap() - passed - refused;
    println!("limit: {passed} frames passed in {seconds:.2} s, {refused} refused");
    assert!(refused > 1000, "{refused}");
    let rate = passed as f64 / seconds;
    assert!((800.0..1200.0).contains(&rate), "{rate} frames/s");
    let other = other.finish();
    assert!(other.share() > 0.99, "{other}");
    // Without the limit every packet passes again.
    done(&switch, "port set h1 --unset ingress_pps");
    let end = dropped();
    stream.wait_more(8000, "without a limit");
    assert_eq!(dropped(), end);
    let _ = stream.finish();
    switch.counters_at_rest();
}

/// Bulk TCP in GSO packets: bytes pass at the limit's rate, and the data is intact.
#[test]
fn a_rate_limit_counts_super_frames_as_on_the_wire() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let [h1, h3] =
        [("h1", 1), ("h3", 3)].map(|(name, last)| host(&lab, &rvm, name, &[&format!("10.1.0.{last}/24")]));
    let config = network("private", 100)
        + &port("h1", "private")
        + "kind = \"packet\"\ningress_bps = 200_000_000\n"
        + &port("h3", "private")
        + "kind = \"packet\"\n";
    let switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["h1", "h3"]);
    h1.reaches("10.1.0.3");
    let there = "10.1.0.3:80".parse().unwrap();
    let received = || row(&switch, "h3")["stats64"]["tx"]["bytes"].as_u64().unwrap();
    let (start, before) = (Instant::now(), received());
    transfer(&h1, &h3, there, there, 16_000_000);
    let (seconds, bytes) = (start.elapsed().as_secs_f64(), received() - before);
    let most = 25e6 * seconds + 2.5e6 + 66e3;
    println!("limit: {bytes} bytes in {seconds:.2} s, at most {most:.0}");
    assert!((bytes as f64) < most, "{bytes} > {most}");
    assert!(seconds > 0.4, "{seconds}");
    assert!(switch.drops("h1", "ingress-rate-limit") > 0);
    switch.counters_at_rest();
}

/// I-09: once `quarantine` has answered, no frame of the guest arrives anywhere and none reaches it, although the
/// kernel carried its flows; this outlasts a crash; and `release` restores everything.
#[test]
fn a_port_in_quarantine_is_cut_off_over_restarts() {
    let Some(lab) = Lab::new() else { return };
    let Hosts { h1, h3, h5, mut switch } = hosts(&lab, CACHED, "");
    let out = Stream::start(&h1, &h3, "10.1.0.3:9".parse().unwrap(), 3000);
    let back = Stream::start(&h3, &h1, "10.1.0.1:9".parse().unwrap(), 3000);
    out.wait_more(100, "at the start");
    wait_followed(&switch);
    done(&switch, "port quarantine h1");
    // Both streams go on; frames still in flight in a network interface have arrived by the time tcpdump runs.
    let seen = [(&h3, "10.1.0.1"), (&h1, "10.1.0.3")]
        .map(|(h, source)| Capture::start(&lab, h, "eth0", &format!("udp port 9 and src host {source}")));
    let counted = |switch: &Switch| (switch.drops("h1", "quarantined"), switch.drops("h3", "quarantined"));
    let before = counted(&switch);
    wait_for("frames both ways to be dropped", || {
        let now = counted(&switch);
        now.0 > before.0 + 1000 && now.1 > before.1 + 1000
    });
    assert_eq!(row(&switch, "h1")["state"], "quarantined");
    assert!(switch.ivctl("port list").stdout.contains("quarantined"));
    let trace = switch
        .ivctl("trace --from h1 --dst-mac 02:00:00:00:00:09 --src 10.1.0.1 --to 10.1.0.3 udp --dport 9");
    assert!(trace.stdout.contains("quarantine"), "{}{}", trace.stdout, trace.stderr);
    switch.kill();
    switch.start_again();
    switch.wait_live(&["h3", "h5"]);
    h5.reaches("10.1.0.3");
    wait_for("what comes from it to be dropped after the restart", || counted(&switch).0 > 100);
    for seen in seen {
        assert_eq!(seen.stop().text(), "", "passed a port in quarantine");
    }
    done(&switch, "port release h1");
    out.wait_more(500, "from the port after its release");
    back.wait_more(500, "to the port after its release");
    let _ = (out.finish(), back.finish());
    switch.counters_at_rest();
}

/// I-10: an IDS at a mirror's target sees the frames that a guest receives and sends, although the kernel carried its
/// flows. Frames that the IDS itself sends go nowhere, and no stream suffers.
#[test]
fn a_mirror_shows_an_ids_what_a_guest_does() {
    let Some(lab) = Lab::new() else { return };
    let rvm_hosts = hosts(&lab, CACHED, "");
    let Hosts { h1, h3, h5, switch } = rvm_hosts;
    let out = Stream::start(&h1, &h3, "10.1.0.3:9".parse().unwrap(), 1000);
    let back = Stream::start(&h3, &h1, "10.1.0.1:10".parse().unwrap(), 1000);
    out.wait_more(100, "at the start");
    wait_followed(&switch);
    assert_eq!(switch.ivctl("port mirror h1").code, 2, "to where?");
    assert_eq!(switch.ivctl("port mirror h1 --to h1").code, 1);
    done(&switch, "port mirror h1 --to h5");
    assert_eq!(row(&switch, "h5")["mirrors"], serde_json::json!(["h1"]));
    assert!(switch.ivctl("port list").stdout.contains("receives copies of h1"));
    let seen = Capture::start(&lab, &h5, "eth0", "udp");
    let copies = || row(&switch, "h5")["stats64"]["tx"]["packets"].as_u64().unwrap();
    let before = copies();
    wait_for("copies", || copies() > before + 1000);
    // From the IDS: to a group, to a station, as an answer.
    let elsewhere = Capture::start(&lab, &h3, "eth0", "udp port 77");
    let raw = RawSocket::open(&h5, "eth0");
    let (source, address) = (h5.mac("eth0"), Ipv4Addr::new(10, 1, 0, 5));
    for n in 0..200 {
        let to = [[0xff; 6], h3.mac("eth0"), h1.mac("eth0")][n % 3];
        raw.must_send(&udp_frame((source, address, 77), (to, Ipv4Addr::new(10, 1, 0, 3), 77), &[], &[1; 20]));
    }
    wait_for("what it sends to be refused", || switch.drops("h5", "mirror-target") >= 200);
    assert_eq!(elsewhere.stop().text(), "", "sent by the IDS");
    let (out, back) = (out.finish(), back.finish());
    assert!(out.share() > 0.99 && back.share() > 0.99, "{out}; {back}");
    let seen = seen.stop();
    let (from, to) = (seen.count("> 10.1.0.3.9:"), seen.count("> 10.1.0.1.10:"));
    println!("mirror: {from} copies of what the guest sent, {to} of what it got");
    assert!(from > 300 && to > 300, "{from} {to}");
    assert_eq!(switch.drops("h5", "mirror-lost"), 0);
    done(&switch, "port mirror h1 --off");
    h5.reaches("10.1.0.3");
    switch.counters_at_rest();
}

/// A guest claims to be the root bridge, a thousand times a second: within a second its port is err-disabled, with an
/// event and a reason, and no other port sees a BPDU. `enable` restores the port, and so does time.
#[test]
fn t05_a_superior_bpdu_disables_a_guarded_port() {
    let Some(lab) = Lab::new() else { return };
    let Hosts { h1, h3, switch, .. } = hosts(&lab, "", "bpdu_guard = true\nerrdisable_recovery = 2\n");
    let seen = Capture::start(&lab, &h3, "eth0", "ether[0:4] = 0x0180c200");
    let mut monitor = std::process::Command::new(system::binaries().join("ivctl"));
    monitor.arg("--socket").arg(switch.socket()).arg("monitor").stdout(std::process::Stdio::piped());
    let mut monitor = monitor.spawn().expect("running ivctl");
    let raw = RawSocket::open(&h1, "eth0");
    let mac = h1.mac("eth0");
    // 802.1D configuration BPDU, priority 0.
    let llc = [0x42, 0x42, 3, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut bpdu = [&[1, 0x80, 0xc2, 0, 0, 0][..], &mac, &[0, 38], &llc, &mac, &[0; 20]].concat();
    bpdu.resize(60, 0);
    let state = || row(&switch, "h1")["state"].as_str().unwrap().to_owned();
    let start = Instant::now();
    let disabled = wait_until(Duration::from_secs(1), || {
        (0..10).for_each(|_| raw.must_send(&bpdu));
        state() == "err-disabled"
    });
    let took = start.elapsed();
    assert!(disabled, "{}", state());
    println!("t05: err-disabled after {took:?}");
    let shown = row(&switch, "h1");
    assert!(shown["why"].as_str().unwrap().contains("ivctl port enable h1"), "{shown}");
    assert_eq!(h1.ping("-c2 -i0.1 -W1 10.1.0.3"), 0);
    assert!(switch.drops("h1", "err-disabled") > 0 && switch.drops("h1", "link-local-group") > 0);
    // After a time, once the guest is quiet.
    wait_for("the port to recover", || state() == "live");
    h1.reaches("10.1.0.3");
    // By command.
    raw.must_send(&bpdu);
    wait_for("the port to be disabled again", || state() == "err-disabled");
    done(&switch, "port enable h1");
    assert_eq!(state(), "live");
    h1.reaches("10.1.0.3");
    assert_eq!(seen.stop().text(), "");
    let _ = monitor.kill();
    let told = String::from_utf8(monitor.wait_with_output().expect("its output").stdout).unwrap();
    assert!(
        told.lines().any(|l| l.contains("\"state\":\"err-disabled\"") && l.contains("\"ifname\":\"h1\"")),
        "{told}"
    );
    assert!(switch.log().contains("err-disabled"));
}
