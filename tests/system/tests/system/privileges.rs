//! What the daemon may do, and what it asks for.

use system::{Lab, Switch, transfer};

use crate::topology::{V4, host, network, port, underlay_pair};

/// What `ivswitchd` needs, and all it needs.
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
