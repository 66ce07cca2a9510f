//! An uplink whose routes depend on the source address, as clouds set up a second NIC.

use std::fmt::Write as _;

use system::{Capture, Lab, Namespace, Switch, transfer, wait_for, wait_until};

use crate::topology::{host, network, port};

/// How soon a change of the kernel's rules or routes has to take effect.
const NOTICED: std::time::Duration = std::time::Duration::from_secs(1);

/// The addresses of one family: our two NICs, their routers, and the far side.
struct Family {
    first: &'static str,
    ours: &'static str,
    second: &'static str,
    router: &'static str,
    other_router: &'static str,
    far: &'static str,
    far_router: &'static str,
    len: u8,
    flag: &'static str,
}

const V4: Family = Family {
    first: "10.9.0.5",
    ours: "10.0.1.11",
    second: "10.0.1.12",
    router: "10.0.1.1",
    other_router: "10.0.1.2",
    far: "10.0.2.12",
    far_router: "10.0.2.1",
    len: 24,
    flag: "-4",
};

const V6: Family = Family {
    first: "fd09::5",
    ours: "fd00:1::11",
    second: "fd00:1::12",
    router: "fd00:1::1",
    other_router: "fd00:1::2",
    far: "fd00:2::12",
    far_router: "fd00:2::1",
    len: 64,
    flag: "-6",
};

/// `rvm` has `eth0` with the default route of the main table, and `eth1`, the uplink, behind the router `prov`; the
/// rVM `far` is beyond that router.
struct Cloud {
    rvm: Namespace,
    far: Namespace,
    prov: Namespace,
}

impl Cloud {
    fn new(lab: &Lab, f: &Family) -> Self {
        let (rvm, far, prov) = (lab.namespace("rvm"), lab.namespace("far"), lab.namespace("prov"));
        lab.veth((&rvm, "eth0"), (&prov, "m0"));
        lab.veth((&rvm, "eth1"), (&prov, "ra"));
        lab.veth((&far, "eth0"), (&prov, "rb"));
        let nodad = if f.flag == "-6" { "nodad" } else { "" };
        let add = |namespace: &Namespace, address: &str, interface: &str| {
            namespace.ip(&format!("addr add {address}/{} dev {interface} {nodad}", f.len));
        };
        let first_router = if nodad.is_empty() { "10.9.0.1" } else { "fd09::1" };
        add(&prov, first_router, "m0");
        add(&prov, f.router, "ra");
        add(&prov, f.far_router, "rb");
        prov.sysctl("net/ipv4/ip_forward", "1");
        prov.sysctl("net/ipv6/conf/all/forwarding", "1");
        add(&rvm, f.first, "eth0");
        add(&rvm, f.ours, "eth1");
        add(&far, f.far, "eth0");
        rvm.ip(&format!("{} route add default via {first_router} dev eth0", f.flag));
        far.ip(&format!("{} route add default via {}", f.flag, f.far_router));
        Self { rvm, far, prov }
    }

    /// Sets up the second NIC's routes by its source address.
    fn set_up_policy(&self, f: &Family) {
        self.rvm.ip(&format!("{} route add default via {} dev eth1 table 1001", f.flag, f.router));
        self.rvm.ip(&format!("{} rule add from {} lookup 1001", f.flag, f.ours));
    }
}

fn rvm_config(name: &str, interface: &str, guest: &str, peer: &str, address: &str, uplink: &str) -> String {
    format!(
        "name = \"{name}\"\n[uplink]\ninterface = \"{interface}\"\n{uplink}{}{}[[peer]]\nname = \"{peer}\"\naddress = \"{address}\"\n",
        network("private", 100),
        port(guest, "private")
    )
}

/// A tunnel from the second NIC of a rented machine. It starts as soon as the rule exists, the status says what is
/// missing before that, and it follows each change within a second.
fn a_tunnel_from_a_second_nic(f: &Family, uplink: &str) {
    let Some(lab) = Lab::new() else { return };
    let cloud = Cloud::new(&lab, f);
    let h1 = host(&lab, &cloud.rvm, "h1", &["10.1.0.1/24"]);
    let h2 = host(&lab, &cloud.far, "h2", &["10.1.0.2/24"]);
    for host in [&h1, &h2] {
        host.ip("link set eth0 mtu 1430");
    }
    let mut ours = Switch::start(&lab, &cloud.rvm, &rvm_config("rvm", "eth1", "h1", "far", f.far, uplink));
    let mut far = Switch::start(&lab, &cloud.far, &rvm_config("far", "eth0", "h2", "rvm", f.ours, uplink));
    ours.wait_live(&["uplink", "h1"]);
    far.wait_live(&["uplink", "h2"]);

    // The kernel itself would send such packets out of the other NIC.
    let warned = || {
        let warnings = ours.json("status")["warnings"].to_string();
        warnings.contains(&format!("no route to {} from {} out of eth1", f.far, f.ours))
    };
    wait_for("the warning that there is no route", warned);
    assert_eq!(h1.ping("-c1 -W1 10.1.0.2"), 0);
    assert!(ours.drops("h1", "no-route") > 0, "{}", ours.ivctl("drops").stdout);

    cloud.set_up_policy(f);
    assert!(wait_until(NOTICED, || !warned()), "a rule and its table are noticed");
    h1.reaches("10.1.0.2");
    h2.reaches("10.1.0.1");
    let there = "10.1.0.2:80".parse().unwrap();
    transfer(&h1, &h2, there, there, 5_000_000);

    // A route that was deleted from the rule's table no longer counts.
    cloud.rvm.ip(&format!("{} route del default table 1001", f.flag));
    assert!(wait_until(NOTICED, warned), "a route that is gone is noticed");
    // Another NIC's default route is better, but the uplink is this one.
    cloud.rvm.ip(&format!("{} route add default via {} dev eth1 metric 10001", f.flag, f.router));
    assert!(wait_until(NOTICED, || !warned()), "a second choice in the main table is one");
    h1.reaches("10.1.0.2");
    cloud.rvm.ip(&format!("{} rule add to {} prohibit", f.flag, f.far));
    assert!(wait_until(NOTICED, warned), "a rule that forbids the way is noticed");
    cloud.rvm.ip(&format!("{} rule del to {} prohibit", f.flag, f.far));
    assert!(wait_until(NOTICED, || !warned()));
    h1.reaches("10.1.0.2");
    ours.assert_running();
    far.assert_running();
}

#[test]
fn a_tunnel_from_a_second_nic_over_ipv4() {
    a_tunnel_from_a_second_nic(&V4, "");
}

#[test]
fn a_tunnel_from_a_second_nic_over_ipv6() {
    a_tunnel_from_a_second_nic(&V6, "");
}

#[test]
fn a_tunnel_from_a_second_nic_by_packet_sockets() {
    a_tunnel_from_a_second_nic(&V4, "kind = \"packet\"\n");
}

#[test]
fn a_tunnel_from_a_second_nic_by_udp_sockets() {
    a_tunnel_from_a_second_nic(&V4, "kind = \"udp\"\n");
    a_tunnel_from_a_second_nic(&V6, "kind = \"udp\"\n");
}

/// A floating IP whose reality address is a secondary one of the second NIC, with its own rule and router. Its guest
/// speaks first: even the first packet, whose next hop is not resolved yet, goes that way.
fn floating_ip_by_a_rule_of_its_own(f: &Family) {
    let Some(lab) = Lab::new() else { return };
    let cloud = Cloud::new(&lab, f);
    let nodad = if f.flag == "-6" { "nodad" } else { "" };
    cloud.rvm.ip(&format!("addr add {}/{} dev eth1 {nodad}", f.second, f.len));
    cloud.prov.ip(&format!("addr add {}/{} dev ra {nodad}", f.other_router, f.len));
    cloud.set_up_policy(f);
    cloud.rvm.ip(&format!("{} route add default via {} dev eth1 table 1002", f.flag, f.other_router));
    cloud.rvm.ip(&format!("{} rule add from {} lookup 1002", f.flag, f.second));
    let (public, inside, gateway, len) = match f.flag {
        "-4" => ("56.0.0.11", "192.168.1.2", "192.168.1.1", 24),
        _ => ("2001:db8::11", "fd01::2", "fd01::1", 64),
    };
    let guest = host(&lab, &cloud.rvm, "g", &[&format!("{inside}/{len}")]);
    guest.ip(&format!("{} route add default via {gateway}", f.flag));
    let mut config = format!(
        "name = \"rvm\"\n[uplink]\ninterface = \"eth1\"\naddress = \"{}\"\nguard = []\n\
         [[network]]\nname = \"private\"\nvni = 100\ngateway = [\"{gateway}\"]\n{}{}",
        f.ours,
        network("public", 200),
        port("g", "private")
    );
    write!(
        config,
        "[[floating]]\nip = \"{public}\"\nnetwork = \"public\"\ngateway = \"rvm\"\nreality = \"{}\"\n\
         inside = {{ network = \"private\", address = \"{inside}\" }}\n",
        f.second
    )
    .unwrap();
    let mut switch = Switch::start(&lab, &cloud.rvm, &config);
    switch.wait_live(&["uplink", "g"]);
    let mac_of_router = || {
        let router = &cloud.rvm.ip_json(&format!("{} neigh show dev eth1", f.flag));
        router.as_array().unwrap().iter().any(|row| row["dst"] == f.other_router)
    };
    let elsewhere = Capture::start(&lab, &cloud.prov, "m0", &format!("host {}", f.far));
    guest.reaches(f.far);
    assert!(mac_of_router(), "the router of the address's own table was asked for");
    let elsewhere = elsewhere.stop();
    assert_eq!(elsewhere.count(f.far), 0, "nothing leaves by the other NIC: {}", elsewhere.text());
    switch.assert_running();
}

#[test]
fn a_floating_ip_by_a_rule_of_its_own_over_ipv4() {
    floating_ip_by_a_rule_of_its_own(&V4);
}

#[test]
fn a_floating_ip_by_a_rule_of_its_own_over_ipv6() {
    floating_ip_by_a_rule_of_its_own(&V6);
}
