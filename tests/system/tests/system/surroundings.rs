//! The switch next to other things on the machine: tc filters of other programs on a port, the kernel's own vxlan on
//! the tunnel's UDP port, interfaces with several names, and a copy of the machine as a peer.

use std::fs;
use std::time::Duration;

use system::{Lab, Namespace, Switch, transfer, wait_for, wait_until};

use crate::topology::{Underlay, V4, V6, host, network, port, underlay_pair};

/// Runs `tc` in a namespace and returns its output.
fn tc(namespace: &Namespace, arguments: &str) -> String {
    let output = namespace.command("tc").args(arguments.split_whitespace()).output().expect("running tc");
    assert!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The filters of an interface that are not ours, and whether one of ours is there.
fn filters(namespace: &Namespace, interface: &str) -> (Vec<String>, bool) {
    let ways = ["ingress", "egress"].map(|way| tc(namespace, &format!("filter show dev {interface} {way}")));
    let lines = ways.iter().flat_map(|text| text.lines());
    let (ours, theirs): (Vec<_>, Vec<_>) =
        lines.map(str::to_owned).partition(|line| line.contains("packet_") || line.contains(" bpf "));
    (theirs, ours.iter().any(|line| line.contains("packet_all")))
}

fn two_hosts(lab: &Lab) -> (Namespace, Namespace, Namespace) {
    let rvm = lab.namespace("rvm");
    let h1 = host(lab, &rvm, "h1", &["10.1.0.1/24"]);
    let h2 = host(lab, &rvm, "h2", &["10.1.0.2/24"]);
    (rvm, h1, h2)
}

fn packet_ports() -> String {
    let packet = |name| port(name, "private") + "kind = \"packet\"\n";
    "name = \"rvm\"\n".to_owned() + &network("private", 100) + &packet("h1") + &packet("h2")
}

/// An operator or a CNI may have filters at any preference, and libvirt its older qdisc with a policer. The port works
/// next to them, and they stay unchanged while the daemon runs, after a reload, after a crash, and after its end. The
/// daemon's own filter goes with it.
#[test]
fn filters_of_others_stay_as_they_are() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, h1, _h2) = two_hosts(&lab);
    const NOTHING: &str = "protocol all u32 match u8 0xff 0xff at 9 flowid 1:1";
    for (qdisc, preferences) in [("clsact", &[1, 2, 49152][..]), ("clsact", &[3]), ("ingress", &[1])] {
        tc(&rvm, &format!("qdisc add dev p-h1 {qdisc}"));
        for preference in preferences {
            tc(&rvm, &format!("filter add dev p-h1 ingress pref {preference} {NOTHING}"));
            if qdisc == "clsact" {
                tc(&rvm, &format!("filter add dev p-h1 egress pref {preference} {NOTHING}"));
            }
        }
        let before = filters(&rvm, "p-h1");
        assert!(!before.0.is_empty() && !before.1);
        let mut switch = Switch::start(&lab, &rvm, &packet_ports());
        switch.wait_live(&["h1", "h2"]);
        h1.reaches("10.1.0.2");
        let beside = (before.0.clone(), true);
        assert_eq!(filters(&rvm, "p-h1"), beside, "{qdisc} {preferences:?}");
        switch.reload();
        h1.reaches("10.1.0.2");
        assert_eq!(filters(&rvm, "p-h1"), beside, "after a reload");
        switch.kill();
        assert_eq!(filters(&rvm, "p-h1"), beside, "after a crash ours keeps the port closed");
        switch.start_again();
        switch.wait_live(&["h1", "h2"]);
        h1.reaches("10.1.0.2");
        assert_eq!(filters(&rvm, "p-h1"), beside, "and is taken over");
        assert!(switch.terminate().success());
        assert_eq!(filters(&rvm, "p-h1"), before, "{qdisc} {preferences:?}");
        tc(&rvm, &format!("qdisc del dev p-h1 {qdisc}"));
    }
}

/// A foreign filter that accepts every packet runs before ours. The machine's own stack still receives no packet of the
/// guest.
#[test]
fn a_filter_of_others_does_not_open_a_port() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, h1, _h2) = two_hosts(&lab);
    rvm.ip("addr add 10.1.0.99/24 dev p-h1");
    h1.reaches("10.1.0.99");
    tc(&rvm, "qdisc add dev p-h1 clsact");
    tc(&rvm, "filter add dev p-h1 ingress pref 1 protocol all u32 match u32 0 0 flowid 1:1");
    let switch = Switch::start(&lab, &rvm, &packet_ports());
    switch.wait_live(&["h1", "h2"]);
    h1.reaches("10.1.0.2");
    assert_eq!(h1.ping("-c3 -i0.2 -W1 10.1.0.99"), 0, "the guest reached the machine");
}

/// Three machines on one link: `rvm` with our switch and a kernel vxlan device (VNI 500), `far` with our switch, and
/// `swarm` with only the kernel's device.
struct Shared {
    rvm: Namespace,
    h1: Namespace,
    h2: Namespace,
    switch: Switch,
    _far: Switch,
    add_device: String,
}

const SWARM: &str = "172.31.0.2";

impl Shared {
    fn new(lab: &Lab, underlay: Underlay, kind: &str, device_first: bool) -> Self {
        let (rvm, far) = underlay_pair(lab, underlay);
        let swarm = lab.namespace("swarm");
        // The far rVM also bridges the link of the third machine.
        lab.veth((&swarm, "eth0"), (&far, "s0"));
        far.ip("link add lan type bridge");
        // The bridge does not answer ARP for the address of the interface behind it.
        far.sysctl("net/ipv4/conf/all/arp_ignore", "1");
        far.ip("link set lan up");
        far.ip("link set s0 master lan");
        let [v6, third] = match underlay.ours.contains(':') {
            true => ["nodad", "fd00:10::13"],
            false => ["", "10.0.0.13"],
        };
        swarm.ip(&format!("addr add {third}/{} dev eth0 {v6}", underlay.prefix));
        far.ip(&format!("addr del {}/{} dev eth0", underlay.far, underlay.prefix));
        far.ip("link set eth0 master lan");
        lab.veth((&far, "up0"), (&far, "up1"));
        far.ip("link set up1 master lan");
        far.ip(&format!("addr add {}/{} dev up0 {v6}", underlay.far, underlay.prefix));
        for file in ["iptables", "ip6tables"] {
            let key = format!("net/bridge/bridge-nf-call-{file}");
            if !far.sysctl_value(&key).is_empty() {
                far.sysctl(&key, "0");
            }
        }
        let device = |local: &str, remote: &str| {
            format!("link add kv type vxlan id 500 local {local} remote {remote} dstport 4789 dev eth0")
        };
        swarm.ip(&device(third, underlay.ours));
        swarm.ip(&format!("addr add {SWARM}/24 dev kv"));
        swarm.ip("link set kv up");
        let add_device = device(underlay.ours, third);
        if device_first {
            Self::add(&rvm, &add_device);
        }
        let h1 = host(lab, &rvm, "h1", &["10.1.0.1/24"]);
        let h2 = host(lab, &far, "h2", &["10.1.0.2/24"]);
        for host in [&h1, &h2] {
            host.ip("link set eth0 mtu 1430");
        }
        let config = |interface: &str, guest: &str, ours: &str, other: &str| {
            format!(
                "name = \"at-{guest}\"\n[uplink]\ninterface = \"{interface}\"\naddress = \"{ours}\"\n{kind}{}{}\
                 [[peer]]\nname = \"other\"\naddress = \"{other}\"\n",
                network("private", 100),
                port(guest, "private")
            )
        };
        let switch = Switch::start(lab, &rvm, &config("eth0", "h1", underlay.ours, underlay.far));
        let _far = Switch::start(lab, &far, &config("up0", "h2", underlay.far, underlay.ours));
        switch.wait_live(&["uplink", "h1"]);
        _far.wait_live(&["uplink", "h2"]);
        Self { rvm, h1, h2, switch, _far, add_device }
    }

    fn add(rvm: &Namespace, device: &str) {
        rvm.ip(device);
        rvm.ip("addr add 172.31.0.1/24 dev kv");
        // Docker makes the device first and brings it up a moment later.
        std::thread::sleep(Duration::from_millis(300));
        rvm.ip("link set kv up");
    }
}

/// Docker Swarm, flannel and others use the kernel's vxlan on the tunnel's UDP port. Both work, whichever came first,
/// and `doctor` names the device. A device with the VNI of one of our networks cannot work, and a warning stands while
/// the device exists.
fn beside_the_kernels_vxlan(underlay: Underlay, kind: &str) {
    let Some(lab) = Lab::new() else { return };
    let cloud = Shared::new(&lab, underlay, kind, true);
    let (rvm, switch) = (&cloud.rvm, &cloud.switch);
    cloud.h1.reaches("10.1.0.2");
    rvm.reaches(SWARM);
    let doctor = || switch.ivctl("doctor").stdout;
    assert!(doctor().contains("in use by the kernel's vxlan, too: kv (VNI 500)"), "{}", doctor());
    let warnings = || switch.json("status")["warnings"].to_string();
    assert!(!warnings().contains("vxlan"), "{}", warnings());
    rvm.ip("link del kv");
    wait_for("the device to be forgotten", || !doctor().contains("in use by the kernel's vxlan"));
    cloud.h1.reaches("10.1.0.2");
    Shared::add(rvm, &cloud.add_device);
    rvm.reaches(SWARM);
    cloud.h1.reaches("10.1.0.2");
    let there = "10.1.0.2:80".parse().unwrap();
    transfer(&cloud.h1, &cloud.h2, there, there, 5_000_000);
    rvm.ip("link add k2 type vxlan id 100 dstport 4789 dev eth0");
    wait_for("the warning", || warnings().contains("k2") && warnings().contains("VNI 100"));
    rvm.ip("link del k2");
    wait_for("its end", || !warnings().contains("k2"));
}

#[test]
fn beside_the_kernels_vxlan_over_ipv4() {
    beside_the_kernels_vxlan(V4, "");
}

#[test]
fn beside_the_kernels_vxlan_over_ipv6() {
    beside_the_kernels_vxlan(V6, "");
}

#[test]
fn beside_the_kernels_vxlan_by_packet_sockets() {
    beside_the_kernels_vxlan(V4, "kind = \"packet\"\n");
}

/// The switch finds interfaces by any of their names: the uplink, a port, and a name that appears while the daemon runs.
/// It refuses an entry whose interface another entry has under another name.
#[test]
fn interfaces_by_any_of_their_names() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    let h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let _h3 = host(&lab, &rvm, "h3", &["10.1.0.3/24"]);
    rvm.ip("link property add dev eth0 altname enp0s3 altname enp0s3-as-the-firmware-calls-it");
    let attached = |name: &str, interface: &str| {
        format!("[[port]]\nname = \"{name}\"\nnetwork = \"private\"\ninterface = \"{interface}\"\n")
    };
    let config = "name = \"rvm\"\n[uplink]\ninterface = \"enp0s3-as-the-firmware-calls-it\"\n".to_owned()
        + &network("private", 100)
        + &attached("h1", "guest-one")
        + &attached("h3", "p-h3")
        + "[[peer]]\nname = \"far\"\naddress = \"10.0.0.12\"\n";
    let switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["uplink", "h3"]);
    wait_for("the next hop", || switch.json("peer list")[0]["resolved"] == true);
    rvm.ip("link property add dev p-h1 altname guest-one");
    switch.wait_live(&["h1"]);
    h1.reaches("10.1.0.3");
    for name in ["eth0", "enp0s3", "p-h1"] {
        let answer = switch.ivctl(&format!("port add twice --network private --interface {name}"));
        assert_eq!(answer.code, 4, "{name}: {answer:?}");
        assert!(answer.stderr.contains("by another name"), "{answer:?}");
    }
    // A new primary name does not change an interface that is configured by its alternative name.
    rvm.ip("link set p-h1 down");
    rvm.ip("link set p-h1 name renamed0");
    rvm.ip("link set renamed0 up");
    h1.reaches("10.1.0.3");
    assert!(far.has_link("eth0"));
}

/// Two rVMs come from one image, with one host name and no `name` in the file. Their doors have different MAC addresses
/// and work, and each rVM warns of the duplicate name. When the identity file was copied as well, both warn of the
/// duplicate MAC address, and the remedy in the warning works.
#[test]
fn copies_of_one_image() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    let config = |own: u8, peer: &str| {
        format!(
            "[uplink]\ninterface = \"eth0\"\n{}[[port]]\nname = \"eth1\"\nnetwork = \"private\"\naddress = [\"10.1.0.{own}/24\"]\n\
             [[peer]]\nname = \"the-other\"\naddress = \"{peer}\"\n",
            network("private", 100)
        )
    };
    let mut ours = Switch::start(&lab, &rvm, &config(1, "10.0.0.12"));
    let mut other = Switch::start(&lab, &far, &config(2, "10.0.0.11"));
    for switch in [&ours, &other] {
        switch.wait_live(&["uplink", "eth1"]);
    }
    let macs = || (rvm.mac("eth1"), far.mac("eth1"));
    let before = macs();
    assert_ne!(before.0, before.1, "the doors' MAC addresses");
    rvm.reaches("10.1.0.2");
    let said = |switch: &Switch, words: &str| switch.json("status")["warnings"].to_string().contains(words);
    for switch in [&ours, &other] {
        wait_for("the warning of one name", || said(switch, "duplicate name"));
        assert!(!said(switch, "duplicate MAC"));
    }
    // A restart, another name and another NIC do not change the door's address.
    assert!(ours.terminate().success());
    fs::write(ours.config(), format!("name = \"renamed\"\n{}", config(1, "10.0.0.12"))).unwrap();
    rvm.ip("link set eth0 down");
    rvm.ip("link set eth0 address 02:00:00:00:00:77");
    rvm.ip("link set eth0 up");
    ours.start_again();
    ours.wait_live(&["uplink", "eth1"]);
    assert_eq!(macs(), before);
    wait_for("the other to hear of the new name", || !said(&other, "duplicate name"));

    // The image was taken after the first start, and the hypervisor gave both one UUID.
    let file = |switch: &Switch| switch.config().with_extension("state").join("identity");
    assert!(other.terminate().success());
    fs::copy(file(&ours), file(&other)).unwrap();
    other.start_again();
    other.wait_live(&["uplink", "eth1"]);
    wait_for("one MAC address twice", || macs().0 == macs().1);
    // Each switch notices when the other side broadcasts.
    for (switch, sender, to) in [(&ours, &far, "10.1.0.1"), (&other, &rvm, "10.1.0.2")] {
        wait_for("the warning of one address", || {
            sender.ip("neigh flush all");
            let _ = sender.ping(&format!("-c1 -W1 {to}"));
            said(switch, "duplicate MAC address")
        });
    }
    let text = ours.json("status")["warnings"].to_string();
    assert!(text.contains(&file(&ours).display().to_string()), "{text}");
    // The remedy in the warning: on one of the two.
    assert!(other.terminate().success());
    fs::remove_file(file(&other)).unwrap();
    other.start_again();
    other.wait_live(&["uplink", "eth1"]);
    assert!(wait_until(Duration::from_secs(5), || macs().0 != macs().1));
    // The kernels' neighbour entries still have the duplicate address.
    for namespace in [&rvm, &far] {
        namespace.ip("neigh flush all");
    }
    rvm.reaches("10.1.0.2");
    assert!(!said(&other, "duplicate MAC address"));
}
