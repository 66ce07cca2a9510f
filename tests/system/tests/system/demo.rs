//! `ivctl demo`, with which a newcomer starts.

use std::process::{Command, Output};

use system::{Lab, binaries};

fn demo(lab: &Lab, arguments: &[&str]) -> Output {
    let mut ivctl = Command::new(binaries().join("ivctl"));
    ivctl.arg("demo").args(arguments).env("IVS_DEMO_DIR", lab.dir().join("demo"));
    ivctl.output().expect("running ivctl")
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
}

/// Removes the demo when the test ends, however it ends.
struct Down<'a>(&'a Lab);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        demo(self.0, &["down"]);
    }
}

/// Up twice, down twice, a node that does not exist; nothing stays behind.
#[test]
fn the_demo_goes_up_and_down() {
    let Some(lab) = Lab::new() else { return };
    let namespaces = || std::fs::read_dir("/run/netns").map_or(0, Iterator::count);
    if std::path::Path::new("/run/netns/ivdemo-net").exists() {
        panic!("somebody's demo is standing on this machine; `ivctl demo down` removes it");
    }
    let before = namespaces();
    let _down = Down(&lab);
    assert_code(&demo(&lab, &["status"]), 3);
    for _ in 0..2 {
        assert_code(&demo(&lab, &["up"]), 0);
        assert_code(&demo(&lab, &["status"]), 0);
    }
    assert_code(&demo(&lab, &["shell", "inet", "ping", "-c1", "-W2", "56.0.0.11"]), 0);
    assert_code(&demo(&lab, &["shell", "nowhere"]), 3);

    // A packet from the Internet is traced through both switches; the trace of the answer ends at the uplink.
    let inbound = demo(
        &lab,
        &["trace", "rvm1", "--from", "uplink", "--src", "203.0.113.9", "--to", "10.0.0.11", "icmp"],
    );
    assert_code(&inbound, 0);
    let text = String::from_utf8_lossy(&inbound.stdout).into_owned();
    for part in [
        "floating IP 56.0.0.11 [floating_ip]",
        "destination address becomes 56.0.0.11",
        "to peer rvm2",
        "rvm2 port uplink:",
        "through the tunnel from peer rvm1",
        "sent      eth2: ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let outbound =
        demo(&lab, &["trace", "rvm2", "--from", "eth2", "--src", "56.0.0.11", "--to", "203.0.113.9", "tcp"]);
    assert_code(&outbound, 0);
    let text = String::from_utf8_lossy(&outbound.stdout).into_owned();
    for part in
        ["rvm1 port uplink:", "source address becomes 10.0.0.11", "10.0.0.11:50000 > 203.0.113.9:80 TCP [S]"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    for _ in 0..2 {
        assert_code(&demo(&lab, &["down"]), 0);
    }
    assert_code(&demo(&lab, &["status"]), 3);
    assert_eq!(namespaces(), before, "namespaces left behind");
    assert!(!lab.dir().join("demo").exists(), "files left behind");
}
