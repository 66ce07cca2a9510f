//! Commands that an operator types, right and wrong: every wrong name is an error that says which names are right,
//! and every right one shows the whole object; one file of peers serves all rVMs; shells complete names; the commands
//! of Open vSwitch either have their effect or are refused.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use system::{Answer, Lab, Switch, binaries, wait_for};

use crate::topology::{V4, host, network, port, underlay_pair};

#[track_caller]
fn does(switch: &Switch, code: i32, arguments: &str) -> Answer {
    let answer = switch.ivctl(arguments);
    assert_eq!(answer.code, code, "ivctl {arguments}: {}{}", answer.stdout, answer.stderr);
    answer
}

/// An operator mistypes a key, a level, a file. Each is an error that names the mistake and the right values, and
/// nothing has changed. Without a file, `config diff` compares the daemon's own files, including drop-ins.
#[test]
fn mistakes_are_errors() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let _h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let mut switch = Switch::start(&lab, &rvm, &(network("private", 100) + &port("h1", "private")));
    let text = does(&switch, 0, "config show").stdout;

    for (arguments, words) in [
        ("port set h1 --unset mtuu", "mtu"),
        ("port set h1 --unset frobnicate", "frobnicate"),
        ("network set private --unset fdb-aeg", "fdb_age"),
        ("port set h1 --unset network", "network"),
        ("port set h1 --mtu 1400 --unset mtu", "mtu"),
        ("network set private", "nothing to change"),
        ("log debgu", "debgu"),
        ("log ivswichd=debug", "debug"),
        ("config diff /nonexistent.toml", "/nonexistent.toml"),
        ("fip list --network nosuch", "unexpected"),
        ("fdb list --vlan 5000", "4094"),
    ] {
        let answer = switch.ivctl(arguments);
        assert!(answer.code != 0, "ivctl {arguments}: {answer:?}");
        assert!(answer.stderr.contains(words), "ivctl {arguments}: {}", answer.stderr);
    }
    assert_eq!(does(&switch, 0, "config show").stdout, text, "nothing has changed");
    does(&switch, 0, "port set h1 --mtu 1400");
    does(&switch, 0, "port set h1 --unset mtu");
    for level in ["debug", "ivswitchd::links=debug,warn", "info"] {
        does(&switch, 0, &format!("log {level}"));
        assert_eq!(does(&switch, 0, "log").stdout, format!("{level}\n"));
    }

    assert_eq!(does(&switch, 0, "config diff").stdout, "", "its own file is in force");
    let drop_ins = switch.config().with_extension("toml.d");
    fs::create_dir(&drop_ins).expect("a directory of the lab");
    fs::write(drop_ins.join("10-more.toml"), network("more", 300)).expect("writing");
    let differs = does(&switch, 1, "config diff");
    assert!(differs.stdout.contains("\"more\""), "{}", differs.stdout);
    switch.reload();
    wait_for("the drop-in to be in force", || switch.ivctl("network show more").code == 0);
    does(&switch, 0, "config diff");

    // A path with a typo does not count as an empty configuration.
    switch.terminate();
    fs::remove_dir_all(&drop_ins).expect("what was made above");
    fs::remove_file(switch.config()).expect("the file of the switch");
    let said = switch.start_refused();
    assert!(said.contains("there is no such file") && said.contains("touch"), "{said}");
}

/// One drop-in that lists every rVM is copied to each: each leaves itself out and has the others as peers. One JSON
/// document shows the configuration in force, and the file that each part comes from.
#[test]
fn one_file_of_peers_serves_every_rvm() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    let everybody = format!(
        "[[peer]]\nname = \"rvm\"\naddress = \"{}\"\n[[peer]]\nname = \"far\"\naddress = \"{}\"\n",
        V4.ours, V4.far
    );
    let start = |namespace: &system::Namespace, name: &str| {
        let drop_ins = lab.dir().join(format!("{}.toml.d", namespace.name()));
        fs::create_dir(&drop_ins).expect("a directory of the lab");
        fs::write(drop_ins.join("peers.toml"), &everybody).expect("writing");
        let own = format!("name = \"{name}\"\n[uplink]\ninterface = \"eth0\"\n{}", network("private", 100));
        Switch::start(&lab, namespace, &own)
    };
    let (ours, theirs) = (start(&rvm, "rvm"), start(&far, "far"));
    for (switch, own, other) in [(&ours, "rvm", "far"), (&theirs, "far", "rvm")] {
        wait_for("the other to be up", || switch.json(&format!("peer show {other}"))[0]["state"] == "up");
        let row = switch.json(&format!("peer show {own}"))[0].clone();
        assert_eq!(row["state"], "this-rvm", "{row}");
        wait_for("nothing to warn of", || switch.json("status")["problems"] == json!([]));
        let shown = switch.json("config show");
        assert_eq!(
            shown["peer"],
            json!([{ "name": other, "address": if other == "far" { V4.far } else { V4.ours } }])
        );
        assert_eq!(shown["origins"]["peer"], json!(["peers.toml"]));
        assert_eq!(shown["network"][0]["vni"], 100);
        assert_eq!(
            (&shown["skipped"][0]["peer"], &shown["skipped"][0]["file"]),
            (&json!(own), &json!("peers.toml"))
        );
        let merged = does(switch, 0, "config show --merged").stdout;
        assert!(merged.contains("[[peer]]") && merged.contains("[uplink]"), "{merged}");
    }
}

/// `show` of each object has every key of its configuration, defaults included, and its state, in words and as
/// JSON.
#[test]
fn show_has_everything() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, _far) = underlay_pair(&lab, V4);
    let _h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let config = format!(
        "name = \"rvm\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{}\"\n{}{}ingress_bps = 8000000\n\
         [[peer]]\nname = \"far\"\naddress = \"{}\"\n\
         [[floating]]\nip = \"56.0.0.11\"\nnetwork = \"private\"\ngateway = \"rvm\"\nreality = \"{}\"\nexcept = [\"tcp/22\"]\n",
        V4.ours,
        network("private", 100),
        port("h1", "private"),
        V4.far,
        V4.ours
    );
    let switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["h1", "uplink"]);
    for (noun, name, keys) in [
        (
            "port",
            "h1",
            &["ingress_bps", "egress_bps", "bum_pps", "fdb_max", "vlan", "mac", "mirror", "enabled"][..],
        ),
        ("port", "uplink", &["interface", "probe", "address"]),
        ("network", "private", &["vni", "gateway", "dhcp", "fdb_age", "mss_clamp"]),
        ("peer", "far", &["address", "networks", "via", "relay", "fragment"]),
        ("fip", "56.0.0.11", &["reality", "except", "only", "inside", "gateway"]),
    ] {
        let row = switch.json(&format!("{noun} show {name}"))[0].clone();
        let words = does(&switch, 0, &format!("{noun} show {name}")).stdout;
        for key in keys {
            assert!(row["config"]["values"].get(key).is_some(), "{noun} {name} {key}: {row}");
            assert!(words.contains(&format!("  {key} ")), "{noun} {name} {key}: {words}");
        }
        assert!(words.lines().all(|line| line.chars().count() <= 100), "{words}");
    }
    let row = switch.json("port show h1")[0].clone();
    assert_eq!(row["config"]["values"]["ingress_bps"], 8_000_000);
    assert_eq!(row["config"]["values"]["bum_pps"], 10_000, "the default, as a value");
    // Every line fits 100 columns.
    let status = does(&switch, 0, "status").stdout;
    assert!(status.lines().all(|line| line.chars().count() <= 100), "{status}");
}

/// `ivctl man` writes every page: of each command, of the configuration file, of the daemon.
#[test]
fn every_man_page_is_written() {
    let Some(lab) = Lab::new() else { return };
    let pages = lab.dir().join("man");
    let mut ivctl = Command::new(binaries().join("ivctl"));
    assert!(ivctl.arg("man").arg(&pages).status().expect("running ivctl").success());
    for page in ["ivctl.1", "ivctl-port-show.1", "ivswitch.toml.5", "ivswitchd.8"] {
        let text = fs::read_to_string(pages.join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
        assert!(text.contains(".TH"), "{page}: {text}");
    }
}

/// A shell completes the names of the running daemon's objects, by the script that the package installs.
#[test]
fn names_are_completed() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let config = network("private", 100) + &network("public", 200) + &port("web-1", "private");
    let switch = Switch::start(&lab, &rvm, &config);
    let complete = |words: &[&str]| {
        let script = "source <(ivctl completion bash); COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                      _clap_complete_ivctl ivctl \"${COMP_WORDS[COMP_CWORD]}\" \"\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
        let path = format!("{}:{}", binaries().display(), std::env::var("PATH").expect("a path"));
        let mut bash = Command::new("bash");
        bash.args(["-c", script, "bash"]).args(words).env("PATH", path).env("IVS_SOCKET", switch.socket());
        let output = bash.stderr(Stdio::inherit()).output().expect("running bash");
        let words: Vec<String> =
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect();
        words
    };
    let has = |words: &[&str], name: &str| complete(words).iter().any(|word| word == name);
    assert!(has(&["ivctl", "port", "show", ""], "web-1"), "{:?}", complete(&["ivctl", "port", "show", ""]));
    assert_eq!(complete(&["ivctl", "network", "set", "pu"]), ["public"]);
    assert!(has(&["ivctl", "port", "set", "web-1", "--network", "pr"], "private"));
    assert!(has(&["ivctl", "po"], "port"), "words of the program itself");
    assert!(!has(&["ivctl", "port", "add", ""], "web-1"), "a new name is nowhere yet");
}

/// The commands of Open vSwitch, as scripts type them: those that the switch supports take effect and can be read
/// back, and every other is refused by name and leaves the port unchanged.
#[test]
fn words_of_open_vswitch() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let (h1, h3) = (host(&lab, &rvm, "h1", &["10.1.0.1/24"]), host(&lab, &rvm, "h3", &["10.1.0.3/24"]));
    let _ = &h3;
    let switch = Switch::start(&lab, &rvm, &network("private", 100));
    let vsctl = |arguments: &str| {
        let mut program = rvm.command(binaries().join("ivswitch-ovs-vsctl"));
        program.args(arguments.split_whitespace()).env("IVS_SOCKET", switch.socket());
        let output = program.output().expect("running it");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let done = |arguments: &str| {
        let (code, said, complaint) = vsctl(arguments);
        assert_eq!(code, Some(0), "ovs-vsctl {arguments}: {complaint}");
        said
    };
    assert!(done("--version").starts_with("ovs-vsctl (Inception Switch)"));
    assert!(done("--help").contains("add-port"));
    assert_eq!((vsctl("br-exists private").0, vsctl("br-exists nosuch").0), (Some(0), Some(2)));
    let (code, _, complaint) = vsctl("add-port nosuch p-h1");
    assert!(code == Some(1) && complaint.contains("ivctl network add nosuch"), "{complaint}");

    // Without add-br: the network already exists.
    done("add-port private p-h1");
    done("--may-exist add-port private p-h1");
    done("add-port private p-h3 tag=5 -- remove port p-h3 tag 5");
    switch.wait_live(&["p-h1", "p-h3"]);
    h1.reaches("10.1.0.3");
    assert_eq!(done("port-to-br p-h1"), "private\n");
    let key =
        |port: &str, key: &str| switch.json(&format!("port show {port}"))[0]["config"]["values"][key].clone();
    done("set interface p-h1 ingress_policing_rate=8000 ingress_policing_burst=800");
    assert_eq!(
        (key("p-h1", "ingress_bps"), key("p-h1", "ingress_burst")),
        (json!(8_000_000), json!(100_000))
    );
    assert_eq!(done("get interface p-h1 ingress_policing_rate"), "8000\n");
    done("set interface p-h1 mtu_request=1400");
    assert_eq!(key("p-h1", "mtu"), 1400);
    done("set port p-h1 tag=7");
    assert_eq!(key("p-h1", "vlan"), json!({ "access": 7 }));
    done("clear port p-h1 tag");
    done("set interface p-h1 ingress_policing_rate=0 mtu_request=[]");
    assert_eq!(
        (key("p-h1", "ingress_bps"), key("p-h1", "mtu"), key("p-h1", "vlan")),
        (Value::Null, Value::Null, Value::Null)
    );

    let before = switch.json("config show")["port"].clone();
    for (arguments, named) in [
        ("set interface p-h1 ofport_request=5", "ofport_request"),
        ("set interface p-h1 ingress_policing_rate=fast", "ingress_policing_rate"),
        ("set interface p-h1 options:remote_ip=10.0.0.1", "remote_ip"),
        ("set interface p-h1 type=vxlan", "vxlan"),
        ("set interface p-h1 other_config:x=1", "other_config"),
        ("set port p-h1 bond_mode=active-backup", "bond_mode"),
        ("set port p-h1 frobnicate=1", "frobnicate"),
        ("set bridge private stp_enable=true", "stp_enable"),
        ("set open_vswitch . other_config:x=1", "open-vswitch"),
        ("get interface p-h1 frobnicate", "frobnicate"),
        ("add-bond private bond0 p-h1 p-h3", "add-bond"),
        ("set-controller private tcp:10.0.0.1", "set-controller"),
        ("--frob list-br", "--frob"),
        ("set port nosuch tag=5", "nosuch"),
        // The call succeeds or fails as a whole.
        ("add-port private p-h9 -- set interface p-h9 lldp:enable=true", "lldp"),
    ] {
        let (code, said, complaint) = vsctl(arguments);
        assert_eq!(code, Some(1), "ovs-vsctl {arguments}: {said}");
        assert!(complaint.contains(named), "ovs-vsctl {arguments}: {complaint}");
    }
    assert_eq!(switch.json("config show")["port"], before, "what was refused has changed nothing");
    done("del-port private p-h3");
    assert_eq!(done("list-ports private"), "p-h1\n");
}
