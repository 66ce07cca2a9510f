//! The properties that a CMS may rely on of the interfaces that the switch makes for it.

use std::process::Command;
use std::time::Instant;

use system::{Lab, Namespace, Switch, transfer, wait_for};

use crate::topology::{FarKernel, V4, host, network, port};

const CONFIG: &str = "name = \"rvm\"\n[uplink]\ninterface = \"eth0\"\naddress = \"10.0.0.11\"\n\
    [[network]]\nname = \"private\"\nvni = 100\n[[network]]\nname = \"public\"\nvni = 200\n\
    [[port]]\nname = \"eth1\"\nnetwork = \"private\"\n\
    [[port]]\nname = \"eth2\"\nnetwork = \"public\"\naddress = [\"10.2.0.12/16\"]\n\
    [[peer]]\nname = \"far\"\naddress = \"10.0.0.12\"\n";

/// Checks MAC, MTU, carrier, addresses and IPv6 of both doors and of our ends; gives the doors' MACs.
fn assert_doors(rvm: &Namespace) -> [[u8; 6]; 2] {
    for interface in ["eth1", "eth1p", "eth2", "eth2p"] {
        let link = &rvm.ip_json(&format!("addr show {interface}"))[0];
        assert_eq!(link["mtu"], 1450, "{interface}: the uplink's MTU less the tunnel's 50 bytes");
        assert_eq!(link["operstate"], "UP", "{interface}");
        assert_eq!(link["linkinfo"]["info_kind"], "veth", "{interface}");
        assert_eq!(rvm.sysctl_value(&format!("net/ipv6/conf/{interface}/disable_ipv6")), "1", "{interface}");
        let addresses = link["addr_info"].as_array().expect("a list");
        let wanted = usize::from(interface == "eth2");
        assert_eq!(
            addresses.len(),
            wanted,
            "{interface} has the addresses asked for, no others: {addresses:?}"
        );
    }
    let macs = [rvm.mac("eth1"), rvm.mac("eth2")];
    for mac in macs {
        assert_eq!(mac[0] & 3, 2, "unicast, locally administered: {mac:02x?}");
    }
    assert_ne!(macs[0], macs[1]);
    macs
}

/// Doors are as a CMS expects a NIC: right MTU, a stable MAC of their own, no IPv6, carrier. They stay when the
/// daemon is killed or stopped, in the bridge that they are in, and come back the same when deleted.
#[test]
fn i29_doors_are_stable() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, _far) = crate::topology::underlay_pair(&lab, V4);
    let mut switch = Switch::start(&lab, &rvm, CONFIG);
    switch.wait_live(&["eth1", "eth2"]);
    let macs = assert_doors(&rvm);

    rvm.ip("link add br1 type bridge");
    rvm.ip("link set eth1 master br1");
    let assert_kept = |when: &str| {
        assert_eq!(assert_doors(&rvm), macs, "{when}");
        assert_eq!(rvm.ip_json("link show eth1")[0]["master"], "br1", "{when}");
    };
    switch.kill();
    assert_kept("while the daemon is dead");
    switch.start_again();
    switch.wait_live(&["eth1", "eth2"]);
    assert_kept("after a restart");
    assert!(switch.terminate().success());
    assert_kept("after SIGTERM");
    rvm.ip("link delete eth1");
    switch.start_again();
    switch.wait_live(&["eth1", "eth2"]);
    assert_eq!(assert_doors(&rvm), macs, "made anew");
}

/// Where /proc/sys cannot be written, as in many containers, IPv6 cannot be switched off at a door. So the door is
/// not finished, and its port does not forward and says why. It does once IPv6 can be switched off, or where it is
/// off by default.
#[test]
fn a_door_with_ipv6_of_its_own_is_not_live() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, _far) = crate::topology::underlay_pair(&lab, V4);
    let config = "name = \"rvm\"\n".to_owned()
        + &network("private", 100)
        + "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\n[[port]]\nname = \"eth2\"\nnetwork = \"private\"\nkind = \"tap\"\n";
    let read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec \"$@\"";
    let wrapper = ["unshare", "-m", "sh", "-c", read_only, "sh"];
    let mut switch = Switch::start_as(&lab, &rvm, &config, &wrapper);
    let row = |switch: &Switch, port: &str| {
        let rows = switch.json("port list");
        rows.as_array().expect("rows").iter().find(|row| row["ifname"] == port).expect("the port").clone()
    };
    for (port, interface) in [("eth1", "eth1p"), ("eth2", "eth2")] {
        // However often it is tried.
        for _ in 0..2 {
            wait_for("a door that cannot be finished", || row(&switch, port)["state"] == "failed");
            let row = row(&switch, port);
            let why = row["why"].as_str().expect("a text");
            assert!(why.contains(interface) && why.contains("switch IPv6 off"), "{why}");
            assert!(why.contains("disable_ipv6=1"), "it names a remedy: {why}");
            assert_eq!(rvm.ip_json(&format!("link show {interface}"))[0]["operstate"], "DOWN");
            rvm.ip(&format!("link set {port} mtu {}", if port == "eth1" { 1400 } else { 1410 }));
        }
    }
    // A new pair gets the defaults of the moment when it is made.
    rvm.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    rvm.sysctl("net/ipv6/conf/default/accept_ra", "0");
    rvm.ip("link delete eth1");
    switch.wait_live(&["eth1"]);
    assert_eq!(row(&switch, "eth2")["state"], "failed", "it is as it was");
    let pid = switch.pid().to_string();
    let writable = ["-t", &pid, "-m", "mount", "-o", "remount,bind,rw", "/proc/sys"];
    assert!(Command::new("nsenter").args(writable).status().expect("nsenter").success());
    switch.wait_live(&["eth1", "eth2"]);
    for interface in ["eth1", "eth1p", "eth2"] {
        assert_eq!(rvm.sysctl_value(&format!("net/ipv6/conf/{interface}/disable_ipv6")), "1", "{interface}");
    }
    switch.assert_running();
}

/// A stock CMS uses a door: it makes a Linux bridge with the door, a VM's interface and an address on the bridge.
/// TCP works from the VM and from the rVM's own stack, to a host that is two rVMs away.
#[test]
fn i30_a_cms_bridges_the_door() {
    let Some(lab) = Lab::new() else { return };
    let FarKernel { rvm, far: _far, h2, mut switch, .. } = FarKernel::new(&lab, V4, false);
    assert!(switch.terminate().success());
    drop(switch);
    let switch = Switch::start(&lab, &rvm, CONFIG);
    switch.wait_live(&["eth1", "eth2"]);
    let vm = host(&lab, &rvm, "vm", &["10.1.0.5/24"]);
    vm.ip("link set eth0 mtu 1450");
    rvm.ip("link add br1 type bridge");
    for interface in ["eth1", "p-vm"] {
        rvm.ip(&format!("link set {interface} master br1"));
    }
    rvm.ip("link set br1 mtu 1450 up");
    rvm.ip("addr add 10.1.0.6/24 dev br1");
    for source in [&vm, &rvm] {
        source.reaches("10.1.0.2");
        source.reaches_with("10.1.0.2", "-M do -s 1422");
        let there = "10.1.0.2:80".parse().unwrap();
        transfer(source, &h2, there, there, 60_000);
        transfer(source, &h2, there, there, 5_000_000);
    }
    let back = "10.1.0.5:80".parse().unwrap();
    transfer(&h2, &vm, back, back, 60_000);
}

/// An idle switch uses next to no CPU time.
#[test]
fn idle_costs_next_to_nothing() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let _h3 = host(&lab, &rvm, "h3", &["10.1.0.3/24"]);
    let config = network("private", 100) + &port("h1", "private") + &port("h3", "private");
    let switch = Switch::start(&lab, &rvm, &config);
    h1.reaches("10.1.0.3");
    falls_asleep(&switch);
    h1.reaches("10.1.0.3");
}

/// Waits until the switch uses next to no CPU time.
#[track_caller]
pub fn falls_asleep(switch: &Switch) {
    // It may spin for a moment after traffic; after that, under 2 % of a core over any two seconds.
    let (mut start, mut used) = (Instant::now(), switch.cpu_time());
    wait_for("two idle seconds", || {
        if start.elapsed().as_secs() < 2 {
            return false;
        }
        let idle = switch.cpu_time() - used < start.elapsed() / 50;
        (start, used) = (Instant::now(), switch.cpu_time());
        idle
    });
}

/// The number of the switch's filters on an interface.
fn filters(rvm: &system::Namespace, interface: &str) -> usize {
    let tc =
        rvm.command("tc").args(["filter", "show", "dev", interface, "ingress"]).output().expect("running tc");
    String::from_utf8_lossy(&tc.stdout).matches("handle 0x6976").count()
}

/// The filter that closes a `packet` port to the kernel is removed with the port: when the port is deleted, changes
/// its kind, or was deleted from the file while the daemon was dead. On ports that stay it is there all the time.
#[test]
fn a_packet_ports_filter_goes_with_the_port() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let _hosts = ["h1", "h2"].map(|name| host(&lab, &rvm, name, &[&format!("10.1.0.{}/24", &name[1..])]));
    let packet = |name: &str| crate::topology::port(name, "private") + "kind = \"packet\"\n";
    let door = "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\nkind = \"packet\"\n";
    let config = |ports: &[&str]| network("private", 100) + &ports.concat();
    let (h1, h2) = (packet("h1"), packet("h2"));
    let mut switch = Switch::start(&lab, &rvm, &config(&[&h1, &h2, door]));
    switch.wait_live(&["h1", "h2", "eth1"]);
    let on = |interfaces: [&str; 3]| interfaces.map(|interface| filters(&rvm, interface));
    let all = ["p-h1", "p-h2", "eth1p"];
    assert_eq!(on(all), [1, 1, 1]);
    assert_eq!(switch.ivctl("port del h2").code, 0);
    wait_for("the filter to go", || on(all) == [1, 0, 1]);
    // A door keeps its interface when its kind changes from one pair to another.
    switch.ivctl("port set eth1 --kind afxdp");
    switch.wait_live(&["eth1"]);
    assert_eq!(on(all), [1, 0, 0]);
    switch.ivctl("port set eth1 --kind packet");
    switch.wait_live(&["eth1"]);
    assert_eq!(on(all), [1, 0, 1]);
    // While the daemon is dead, no frame of a guest reaches the kernel; then the file is changed.
    switch.kill();
    assert_eq!(on(all), [1, 0, 1]);
    std::fs::write(switch.config(), config(&[&h2, door])).unwrap();
    switch.start_again();
    switch.wait_live(&["h2", "eth1"]);
    assert_eq!(on(all), [0, 1, 1]);
    // A daemon that ends in good order leaves doors closed, and restores other interfaces.
    assert!(switch.terminate().success());
    assert_eq!(on(all), [0, 0, 1]);
}
