//! Tools of an engineer on call: frames explained before and after they pass, captures, drops with a sample.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use system::{Lab, RawSocket, Switch, binaries, udp_frame, wait_for};

use crate::topology::{FarKernel, V4};

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// An `ivctl` that keeps running.
fn spawn(switch: &Switch, arguments: &[&str]) -> Child {
    let mut ivctl = Command::new(binaries().join("ivctl"));
    ivctl.arg("--socket").arg(switch.socket()).args(arguments);
    ivctl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("running ivctl")
}

/// A made-up frame is traced through the switch in its present state: where the kernel's peer would get it, and why
/// another is dropped. Nothing moves and nothing is counted. Real frames are then explained the same way.
#[test]
fn i13_a_frame_is_explained_before_and_after_the_fact() {
    let Some(lab) = Lab::new() else { return };
    let FarKernel { h1, h2, switch, .. } = FarKernel::new(&lab, V4, false);
    h1.reaches("10.1.0.2");
    let there = mac(h2.mac("eth0"));
    let arguments = format!("trace --from h1 --src 10.1.0.1 --to 10.1.0.2 --dst-mac {there} tcp --dport 80");
    let told = switch.json(&arguments);
    let walk = &told[0]["walk"];
    assert_eq!(walk["delivered"], true, "{told}");
    assert_eq!(walk["sent"][0]["port"], "uplink");
    assert_eq!(walk["sent"][0]["peer"], "far");
    let steps = walk["steps"].to_string();
    for word in ["network private (VNI 100)", &format!("{there} is behind peer far"), "fdb"] {
        assert!(steps.contains(word), "{word}: {steps}");
    }
    let told = switch.ivctl(&arguments);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stdout.contains("VXLAN 100 | ") && told.stdout.contains("TCP [S]"), "{}", told.stdout);

    // The other way, through the tunnel.
    let here = mac(h1.mac("eth0"));
    let told = switch.json(&format!("trace --from far --src 10.1.0.2 --to 10.1.0.1 --dst-mac {here} udp"));
    assert_eq!(told[0]["walk"]["sent"][0]["port"], "h1", "{told}");
    assert!(told[0]["walk"]["steps"].to_string().contains("through the tunnel from peer far"), "{told}");

    // The trace of a dropped frame says why, and so does the exit code.
    let dropped = switch.ivctl(&format!("trace --from h1 --hex {}", "01".repeat(60)));
    assert_eq!(dropped.code, 8, "{dropped:?}");
    assert!(dropped.stdout.contains("source-mac-invalid"), "{}", dropped.stdout);

    // A frame that cannot be traced is an error with a remedy.
    for (arguments, code, says) in [
        ("trace --from nosuch --to 10.1.0.2", 3, "h1"),
        ("trace --from h1 --src 10.1.0.1 --to 10.1.0.77", 2, "--dst-mac"),
        ("trace --from h1 --to 10.1.0.2", 2, "--src"),
        ("trace --from nosuch --hex 00", 3, "nosuch"),
        ("trace --from h1 --pcap /nonexistent", 3, "/nonexistent"),
        ("trace --next --wait 0.1 --from h1 tcp port 9999", 7, "capture"),
        ("trace --next --from h1 frobnicate", 1, "frobnicate"),
    ] {
        let answer = switch.ivctl(arguments);
        assert_eq!(answer.code, code, "{arguments}: {answer:?}");
        assert!(answer.stderr.contains(says), "{arguments}: {}", answer.stderr);
    }
    let counted = switch.json("drops").to_string();
    assert!(!counted.contains("source-mac-invalid"), "a rehearsal leaves no trace: {counted}");

    let next = spawn(&switch, &["-j", "trace", "--next", "--from", "h1", "icmp", "and", "host", "10.1.0.2"]);
    let mut pings = 0;
    wait_for("the frame to be explained", || {
        pings += h1.ping("-c1 -W1 10.1.0.2");
        fs::read_to_string(format!("/proc/{}/stat", next.id())).is_ok_and(|stat| stat.contains(") Z"))
    });
    let output = next.wait_with_output().expect("ivctl");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(
        told[0]["frame"].as_str().expect("text").contains("10.1.0.1 > 10.1.0.2 ICMP echo request"),
        "{told}"
    );
    assert_eq!(told[0]["walk"]["sent"][0]["peer"], "far", "{told}");
    assert!(pings > 0, "what is watched arrives");
    switch.counters_at_rest();
}

/// A capture has every frame of the port, both ways, in a file that tcpdump reads, each with its verdict. It contains
/// only frames that match the filter, and when it ends, the port is no longer watched.
#[test]
fn i13_a_capture_has_every_frame_and_its_verdict() {
    let Some(lab) = Lab::new() else { return };
    let FarKernel { h1, switch, .. } = FarKernel::new(&lab, V4, false);
    h1.reaches("10.1.0.2");
    let file = lab.dir().join("h1.pcapng");
    let path = file.to_str().expect("a name");
    // Five requests in, five answers out.
    let mut capture = spawn(&switch, &["capture", "h1", "-w", path, "-c", "10", "--duration", "20", "icmp"]);
    wait_for("the capture to begin", || fs::metadata(&file).is_ok_and(|f| f.len() > 0));
    assert_eq!(h1.ping("-c5 -i0.1 -W2 10.1.0.2"), 5);
    let ended = capture.wait().expect("ivctl");
    assert!(ended.success(), "{ended}");
    let read = |filter: &str| {
        let output = Command::new("tcpdump").args(["-n", "-r", path, filter]).output().expect("tcpdump");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().count()
    };
    assert_eq!((read("icmp"), read("icmp[0] = 8"), read("not icmp")), (10, 5, 0));
    let bytes = fs::read(&file).expect("the file");
    let count = |word: &str| bytes.windows(word.len()).filter(|at| *at == word.as_bytes()).count();
    assert_eq!((count("network private; to peer far"), count("h1")), (5, 1));

    // To standard output, as tcpdump expects it; all ports; and one line per frame.
    let capture = spawn(&switch, &["capture", "all", "-c", "4", "-w", "-", "--duration", "20", "icmp"]);
    let mut lines = spawn(&switch, &["capture", "uplink", "-c", "2", "--duration", "20", "vni 100 and icmp"]);
    wait_for("both to end", || {
        let _ = h1.ping("-c1 -W1 10.1.0.2");
        lines.try_wait().expect("its state").is_some()
    });
    let lines = lines.wait_with_output().expect("ivctl");
    let text = String::from_utf8_lossy(&lines.stdout).into_owned();
    assert!(text.contains("VXLAN 100") && text.contains("ICMP echo request"), "{text}");
    let piped = capture.wait_with_output().expect("ivctl").stdout;
    let mut tcpdump = Command::new("tcpdump");
    tcpdump.args(["-n", "-r", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut tcpdump = tcpdump.spawn().expect("tcpdump");
    std::io::Write::write_all(&mut tcpdump.stdin.take().expect("a pipe"), &piped).expect("writing");
    let said = tcpdump.wait_with_output().expect("tcpdump");
    assert_eq!(String::from_utf8_lossy(&said.stdout).matches("ICMP echo").count(), 4);

    // Eight captures at the same time are the maximum, and one that has ended no longer counts.
    let many: Vec<Child> = (0..8)
        .map(|_| {
            let mut child = spawn(&switch, &["capture", "h1", "--duration", "60"]);
            let mut said = String::new();
            let stderr = child.stderr.as_mut().expect("a pipe");
            BufReader::new(stderr).read_line(&mut said).expect("a line");
            assert!(said.contains("capturing on h1"), "{said}");
            child
        })
        .collect();
    let refused = || switch.ivctl("capture h1 --duration 0");
    assert_eq!(refused().code, 1);
    assert!(refused().stderr.contains("captures"), "{:?}", refused());
    for mut child in many {
        child.kill().expect("a child of ours");
        child.wait().expect("it ends");
    }
    wait_for("all to have ended", || refused().code == 0);
    for (arguments, code, says) in [
        ("capture nosuch", 3, "nosuch"),
        ("capture h1 tcp port", 1, "port"),
        ("capture h1 -w /nonexistent/x", 1, "/nonexistent"),
    ] {
        let answer = switch.ivctl(arguments);
        assert_eq!(answer.code, code, "{arguments}: {answer:?}");
        assert!(answer.stderr.contains(says), "{arguments}: {}", answer.stderr);
    }
    h1.reaches("10.1.0.2");
    switch.counters_at_rest();
}

/// Every reason has its count and a description of the last frame that had it; a second look gives the rate.
#[test]
fn i13_drops_have_a_sample_and_a_rate() {
    let Some(lab) = Lab::new() else { return };
    let FarKernel { h1, switch, .. } = FarKernel::new(&lab, V4, false);
    let raw = RawSocket::open(&h1, "eth0");
    let own = (h1.mac("eth0"), [10, 1, 0, 1].into(), 7);
    let to = ([1, 0x80, 0xc2, 0, 0, 0x0e], [10, 1, 0, 9].into(), 7);
    raw.must_send(&udp_frame(own, to, &[], b"lldp?"));
    wait_for("the drop", || switch.drops("h1", "link-local-group") == 1);
    let text = switch.ivctl("drops --samples").stdout;
    assert!(text.contains("> 01:80:c2:00:00:0e, 10.1.0.1:7 > 10.1.0.9:7 UDP (47 bytes)"), "{text}");
    let watching = spawn(&switch, &["-j", "drops", "--watch", "--looks", "40", "--interval", "0.1"]);
    for _ in 0..100 {
        raw.must_send(&udp_frame(own, to, &[], b"lldp?"));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let output = watching.wait_with_output().expect("ivctl");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.lines().count(), 40);
    let most = said
        .lines()
        .flat_map(|line| serde_json::from_str::<Vec<serde_json::Value>>(line).expect("a line of JSON"))
        .filter(|row| row["reason"] == "link-local-group")
        .filter_map(|row| row["per_second"].as_f64())
        .fold(0.0, f64::max);
    assert!(most > 5.0, "{said}");
}
