//! A daemon that has lived through many changes holds no more memory and descriptors than one that has lived through
//! few.

use std::fs;

use system::{Lab, RawSocket, Switch, rounds, udp_frame, wait_for};

use crate::topology::{host, network, port};

/// Descriptors and resident memory (KiB) of the daemon.
fn held(switch: &Switch) -> (usize, u64) {
    let process = format!("/proc/{}", switch.pid());
    let descriptors = fs::read_dir(format!("{process}/fd")).expect("a running daemon").count();
    let status = fs::read_to_string(format!("{process}/status")).expect("a running daemon");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    (descriptors, resident.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number"))
}

/// Networks, ports, doors and peers come and go, next to frames that cause learning, drops and samples: the
/// daemon's descriptors stay as many, and its memory does not grow with the rounds.
#[test]
fn g17_nothing_grows() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let h3 = host(&lab, &rvm, "h3", &["10.1.0.3/24"]);
    let ports = ["h1", "h3"].map(|name| port(name, "private")).concat();
    let mut switch = Switch::start(&lab, &rvm, &(network("private", 100) + &ports));
    h1.reaches("10.1.0.3");
    let raw = RawSocket::open(&h1, "eth0");
    let (to, mut number) = (h3.mac("eth0"), 0_u32);
    let mut round = || {
        for edit in [
            "network add extra --vni 300",
            "--no-wait port add eth9 --network extra",
            "peer add far --address 10.9.0.1",
            "--no-wait port del eth9",
            "peer del far",
            "network del extra",
        ] {
            let answer = switch.ivctl(edit);
            assert!([0, 8].contains(&answer.code), "{edit}: {answer:?}");
        }
        for _ in 0..200 {
            number += 1;
            let [a, b, c, d] = number.to_be_bytes();
            let bytes = udp_frame(
                ([6, 0, a, b, c, d], [10, 1, 0, 1].into(), d.into()),
                (to, [10, 1, 0, 3].into(), 9),
                &[],
                &[0; 30],
            );
            let _ = raw.send(&bytes);
        }
    };
    // Tables, pools and buffers reach their size.
    (0..20).for_each(|_| round());
    let before = held(&switch);
    let times = rounds(20).map(|_| round()).count();
    wait_for("what was removed to be closed", || held(&switch).0 <= before.0);
    let after = held(&switch);
    println!(
        "g17: {times} rounds of changes: {} descriptors, then {}; {} KiB, then {}",
        before.0, after.0, before.1, after.1
    );
    assert!(after.1 <= before.1 + 512, "grew by {} KiB", after.1 - before.1);
    switch.assert_running();
}
