//! The privileges that the daemon has, and those that it needs.

use std::time::Duration;

use system::{Lab, Namespace, Switch, binaries, transfer, wait_until};

use crate::topology::{V4, host, network, port, underlay_pair};

/// All capabilities that `ivswitchd` needs.
const CAPABILITIES: [&str; 5] = ["net_admin", "net_raw", "bpf", "perfmon", "ipc_lock"];

/// Not root, and only the named capabilities: a port, the shared uplink, a door and a tunnel all work.
#[test]
fn the_named_capabilities_suffice() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    let h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let h2 = host(&lab, &far, "h2", &["10.1.0.2/24"]);
    for host in [&h1, &h2] {
        host.ip("link set eth0 mtu 1450");
    }
    let config = |ours: &str, other: &str, guest: &str| {
        format!(
            "name = \"at-{ours}\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{ours}\"\n{}{}\
             [[port]]\nname = \"eth1\"\nnetwork = \"private\"\n\
             [[peer]]\nname = \"at-{other}\"\naddress = \"{other}\"\n",
            network("private", 100),
            port(guest, "private")
        )
    };
    let only = CAPABILITIES.map(|name| format!(",+{name}")).concat();
    let wrapper = [
        "setpriv".to_string(),
        "--reuid=65534".into(),
        "--regid=65534".into(),
        "--clear-groups".into(),
        "--no-new-privs".into(),
        format!("--bounding-set=-all{only}"),
        format!("--inh-caps=-all{only}"),
        format!("--ambient-caps=-all{only}"),
    ];
    let wrapper = wrapper.each_ref().map(String::as_str);
    let one = Switch::start_as(&lab, &rvm, &config(V4.ours, V4.far, "h1"), &wrapper);
    let _two = Switch::start(&lab, &far, &config(V4.far, V4.ours, "h2"));
    one.wait_live(&["h1", "eth1"]);
    h1.reaches("10.1.0.2");
    let there = "10.1.0.2:80".parse().unwrap();
    transfer(&h1, &h2, there, there, 60_000);
}

/// A switch whose workers make every kind of call: ports of each kind, tables that grow, an end.
fn busy_config() -> String {
    let kind = |name: &str, kind: &str| port(name, "private") + &format!("kind = \"{kind}\"\n");
    "name = \"rvm\"\n[[peer]]\nname = \"far\"\naddress = \"10.0.0.12\"\n".to_owned()
        + &network("private", 100)
        + &port("h1", "private")
        + &kind("h3", "packet")
        + "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\nkind = \"tap\"\naddress = [\"10.1.0.5/24\"]\n"
}

/// Does everything that `busy_config` is for, unless the daemon dies in between.
fn be_busy(h1: &Namespace, switch: &mut Switch, big: &str) {
    for step in 0..5 {
        match step {
            // Each kind of port answers.
            0 | 1 => drop(wait_until(Duration::from_secs(3), || {
                let there = ["10.1.0.3", "10.1.0.5"][step];
                h1.ping(&format!("-c1 -W1 {there}")) == 1 || !switch.is_running()
            })),
            // An address without a host: a flood, and sleep in between.
            2 => drop(h1.ping("-c2 -i0.2 -W1 10.1.0.77")),
            3 => drop(switch.ivctl(&format!("config apply {big}"))),
            _ => drop(switch.try_terminate().then_some(())),
        }
        if !switch.is_running() {
            return;
        }
    }
}

/// The workers of a running daemon hold no capability, may gain none, and are held to a list of system calls.
/// Without any one entry of that list the same work ends the daemon with SIGSYS: the list has nothing to spare.
#[test]
fn g18_workers_hold_no_capability_and_a_list_without_a_spare() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let _h3 = host(&lab, &rvm, "h3", &["10.1.0.3/24"]);
    let big = lab.dir().join("big.toml");
    let entries = (0..6000).fold(busy_config(), |text, n| {
        text + &format!(
            "[[fdb]]\nnetwork = \"private\"\nmac = \"02:00:00:01:{:02x}:{:02x}\"\npeer = \"far\"\n",
            n / 256,
            n % 256
        )
    });
    std::fs::write(&big, entries).expect("our own file");
    let big = big.display().to_string();

    let mut switch = Switch::start(&lab, &rvm, &busy_config());
    let tasks = std::fs::read_dir(format!("/proc/{}/task", switch.pid())).expect("a running daemon");
    let mut workers = 0;
    for task in tasks {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let of = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        if of("Name").starts_with("ivs-worker") {
            workers += 1;
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(of(set), "0000000000000000", "{set} of {}", of("Name"));
            }
            assert_eq!((of("NoNewPrivs"), of("Seccomp")), ("1".into(), "2".into()));
        }
    }
    assert_eq!(workers, 1);
    be_busy(&h1, &mut switch, &big);
    assert_eq!(switch.ended_by(), Some((Some(0), None)), "with the whole list: {}", switch.log());

    let list =
        std::process::Command::new(binaries().join("ivswitchd")).arg("--list-syscalls").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    println!("workers are held to {} system calls", list.lines().count());
    let mut spare = Vec::new();
    for call in list.lines() {
        let mut switch = Switch::start_with(&lab, &rvm, &busy_config(), &["--without-syscall", call]);
        be_busy(&h1, &mut switch, &big);
        match switch.ended_by() {
            Some((None, Some(31))) => {}
            other => spare.push(format!("{call} ({other:?})")),
        }
    }
    assert!(spare.is_empty(), "not needed by any of this: {}", spare.join(", "));
}
