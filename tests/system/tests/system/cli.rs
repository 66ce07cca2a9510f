//! `ivctl` and the configuration file, against the real daemon and real traffic.

use std::fs;
use std::process::Command;

use system::{Lab, Session, Switch, binaries};

use crate::topology::{host, network, port};

/// Configures everything through `ivctl`, starting from an empty file. The file is saved, and a restart applies it.
#[test]
fn a_switch_made_by_ivctl_alone() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let (h1, _h3) = (host(&lab, &rvm, "h1", &["10.1.0.1/24"]), host(&lab, &rvm, "h3", &["10.1.0.3/24"]));
    let mut switch = Switch::start(&lab, &rvm, "");

    let does = |switch: &Switch, code: i32, arguments: &str| {
        let answer = switch.ivctl(arguments);
        assert_eq!(answer.code, code, "ivctl {arguments}: {}{}", answer.stdout, answer.stderr);
        answer.stderr
    };
    does(&switch, 0, "network add private --vni 100");
    does(&switch, 0, "port add h1 --network private --interface p-h1");
    does(&switch, 0, "port add h3 --network private --interface p-h3");
    // `ivctl` returns when the change is in effect: no waiting here.
    assert_eq!(h1.ping("-c3 -i0.1 -W1 10.1.0.3"), 3, "{}", switch.ivctl("status").stdout);

    // Exit codes, each with an error that names the object.
    for verb in ["port show", "port del", "network del", "peer del", "fip del", "network show"] {
        let name = if verb.starts_with("fip") { "56.0.0.99" } else { "nosuch" };
        let said = does(&switch, 3, &format!("{verb} {name}"));
        assert!(said.contains(name), "{verb}: {said}");
    }
    does(&switch, 0, "port del --if-exists nosuch");
    does(&switch, 4, "network add other --vni 100");
    does(&switch, 4, "network add private --vni 101");
    does(&switch, 4, "network del private");
    does(&switch, 4, "port add again --network private --interface p-h1");
    does(&switch, 0, "port add h1 --network private --interface p-h1 --may-exist");
    does(&switch, 3, "port add lost --network nosuch --interface p-h1");
    does(&switch, 2, "port frobnicate");
    does(&switch, 2, "network add much --vni 16777216000");
    does(&switch, 1, "network add much --vni 16777216");

    // Learned addresses are shown with iproute2's keys, and forgotten on demand.
    let mac = h1.mac("eth0").map(|byte| format!("{byte:02x}")).join(":");
    let rows = switch.json("fdb list");
    let row = rows.as_array().expect("a list").iter().find(|row| row["mac"] == mac.as_str());
    assert_eq!(row.expect("h1's MAC is learned")["ifname"], "h1");

    assert!(fs::read_to_string(switch.config()).expect("it is written").contains("p-h3"));
    switch.kill();
    switch.start_again();
    switch.wait_live(&["h1", "h3"]);
    h1.reaches("10.1.0.3");
    does(&switch, 0, "port del h3");
    assert_eq!(h1.ping("-c1 -W1 10.1.0.3"), 0, "the port is gone");
    switch.kill();
    does(&switch, 5, "status");
}

/// A bad configuration is refused as a whole, wherever it comes from, and the running one goes on undisturbed.
#[test]
fn a_bad_configuration_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let (h1, h3) = (host(&lab, &rvm, "h1", &["10.1.0.1/24"]), host(&lab, &rvm, "h3", &["10.1.0.3/24"]));
    let good = network("private", 100) + &port("h1", "private") + &port("h3", "private");
    let switch = Switch::start(&lab, &rvm, &good);
    h1.reaches("10.1.0.3");
    let (address, before) = ("10.1.0.3:80".parse().unwrap(), switch.ivctl("config show").stdout);
    let session = Session::start(&h1, &h3, address, address);

    let file = lab.dir().join("bad.toml");
    let bad = [
        ("an unknown key", good.clone() + "frobnicate = 1\n", "frobnicate"),
        ("an unknown network", good.clone() + &port("h5", "nosuch"), "nosuch"),
        ("a VNI twice", good.clone() + &network("other", 100), "100"),
        ("a port twice", good.clone() + &port("h1", "private"), "h1"),
        ("no TOML", "[[network\n".to_string(), "line 1"),
        ("not even text", "name = \"\u{0}\"".to_string(), "line 1"),
    ];
    for (what, text, named) in bad {
        fs::write(&file, text).expect("writing");
        let path = file.to_str().expect("a name");
        let applied = switch.ivctl_args(&["config", "apply", path]);
        assert!([1, 3, 4].contains(&applied.code), "{what}: {applied:?}");
        assert!(applied.stderr.contains(named), "{what} names it: {}", applied.stderr);
        let checked = switch.ivctl_args(&["config", "check", path]);
        assert_ne!(checked.code, 0, "{what}: {checked:?}");
        let daemon =
            Command::new(binaries().join("ivswitchd")).args(["--check", path]).output().expect("running it");
        assert!(!daemon.status.success(), "{what}");
        // A daemon does not start with it either.
        let socket = lab.dir().join("other.sock");
        let start = Command::new(binaries().join("ivswitchd"))
            .args(["--config", path, "--socket"])
            .arg(&socket)
            .output()
            .expect("running it");
        assert!(!start.status.success() && !socket.exists(), "{what}");
        assert_eq!(switch.ivctl("config show").stdout, before, "{what}: what runs is as before");
        session.assert_alive("after a bad configuration");
    }
    let longest = session.finish();
    assert!(longest.as_millis() < 1000, "an answer took {longest:?}");
}
