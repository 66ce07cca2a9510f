//! Tests of the harness itself, with the kernel on both sides: its helpers report faults when there are some.

use system::{Capture, Lab, Session, transfer, wait_for};

/// Two namespaces and a veth with the kernel's default settings. TCP and ping work, and since a veth carries
/// unfinished checksums, `tcpdump` must call them bad: the checker that all other tests use can fail.
#[test]
fn the_checksum_verdict_can_fail() {
    let Some(lab) = Lab::new() else { return };
    let (a, b) = (lab.namespace("a"), lab.namespace("b"));
    lab.veth((&a, "eth0"), (&b, "eth0"));
    a.ip("addr add 10.9.0.1/24 dev eth0");
    b.ip("addr add 10.9.0.2/24 dev eth0");
    a.reaches("10.9.0.2");

    let capture = Capture::start(&lab, &b, "eth0", "tcp");
    let seen = transfer(&a, &b, "10.9.0.2:80".parse().unwrap(), "0.0.0.0:80".parse().unwrap(), 60_000);
    assert_eq!(seen.to_string(), "10.9.0.1");
    let packets = capture.stop();
    assert!(!packets.bad_checksums().is_empty(), "{}", packets.text());

    // With checksums finished by the sender, the same transfer is clean.
    let ethtool = a.command("ethtool").args(["-K", "eth0", "tx", "off"]).output().expect("running ethtool");
    assert!(ethtool.status.success());
    let capture = Capture::start(&lab, &b, "eth0", "tcp");
    transfer(&a, &b, "10.9.0.2:80".parse().unwrap(), "0.0.0.0:80".parse().unwrap(), 60_000);
    capture.stop().assert_checksums_right(20);
}

/// A session notices when the network stops, and goes on when the network comes back.
#[test]
fn a_session_talks_all_the_time() {
    let Some(lab) = Lab::new() else { return };
    let (a, b) = (lab.namespace("a"), lab.namespace("b"));
    lab.veth((&a, "eth0"), (&b, "eth0"));
    a.ip("addr add 10.9.0.1/24 dev eth0");
    b.ip("addr add 10.9.0.2/24 dev eth0");
    a.reaches("10.9.0.2");
    let session = Session::start(&a, &b, "10.9.0.2:22".parse().unwrap(), "0.0.0.0:22".parse().unwrap());
    b.ip("link set eth0 down");
    assert_eq!(a.ping("-c1 -W1 10.9.0.2"), 0);
    b.ip("link set eth0 up");
    session.assert_alive("after the link came back");
    assert!(session.finish().as_millis() > 100, "it waited while the link was down");
}

/// A lab leaves no namespace and no process behind, even when its test panics.
#[test]
fn a_lab_cleans_up_after_a_panic() {
    if Lab::new().is_none() {
        return;
    }
    let names = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = std::sync::Arc::clone(&names);
    let test = std::thread::spawn(move || {
        let lab = Lab::new().expect("root");
        let namespace = lab.namespace("a");
        noted.lock().unwrap().push(namespace.name().to_string());
        let mut child = namespace.command("sleep").arg("1000").spawn().expect("running sleep");
        noted.lock().unwrap().push(child.id().to_string());
        assert!(child.try_wait().expect("its state").is_some(), "on purpose");
    });
    assert!(test.join().is_err());
    let names = names.lock().unwrap();
    assert!(!std::path::Path::new("/run/netns").join(&names[0]).exists());
    // A killed child whose parent has not waited for it is a zombie.
    let stat = || std::fs::read_to_string(format!("/proc/{}/stat", names[1])).unwrap_or_default();
    wait_for("the process to end", || stat().is_empty() || stat().contains(") Z "));
}
