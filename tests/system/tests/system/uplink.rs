//! The uplink belongs to the kernel first: traffic that is not the switch's must not notice the switch.

use std::net::SocketAddr;

use system::{Lab, Namespace, Session, Switch, transfer, wait_for};

use crate::topology::{FarKernel, V4, network, port, underlay_pair};

fn at(address: &str, port: u16) -> SocketAddr {
    format!("{address}:{port}").parse().expect("an address")
}

const CONFIG: &str = "name = \"rvm\"\n[uplink]\ninterface = \"eth0\"\naddress = \"10.0.0.11\"\n\
    [[network]]\nname = \"public\"\nvni = 200\ngateway = [\"10.2.0.1\"]\n\
    [[peer]]\nname = \"far\"\naddress = \"10.0.0.12\"\n\
    [[floating]]\nip = \"56.0.0.11\"\nnetwork = \"public\"\ngateway = \"rvm\"\nreality = \"10.0.0.11\"\n";

/// XDP programs on an interface, as `ip` shows them.
fn xdp_attached(namespace: &Namespace, interface: &str) -> bool {
    !namespace.ip_json(&format!("link show {interface}"))[0]["xdp"].is_null()
}

/// An SSH-like TCP connection to the rVM's own kernel, on an address that is also the reality address of
/// a floating IP. It talks all the time while the daemon starts, runs, dies of SIGKILL, starts again and ends.
#[test]
fn i20_ssh_survives_start_kill_and_restart() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    far.reaches("10.0.0.11");
    let session = Session::start(&far, &rvm, at("10.0.0.11", 22), at("10.0.0.11", 22));

    let mut switch = Switch::start(&lab, &rvm, CONFIG);
    wait_for("the daemon to attach to eth0", || xdp_attached(&rvm, "eth0"));
    session.assert_alive("when the daemon had started");
    // Bulk TCP to the kernel through the shared interface.
    transfer(&far, &rvm, at("10.0.0.11", 22), at("0.0.0.0", 22), 20_000_000);
    for _ in 0..3 {
        switch.kill();
        session.assert_alive("after SIGKILL");
        assert!(!xdp_attached(&rvm, "eth0"), "the XDP program ends with the process");
        switch.start_again();
        wait_for("the daemon to attach again", || xdp_attached(&rvm, "eth0"));
        session.assert_alive("after the restart");
    }
    assert!(switch.terminate().success(), "SIGTERM is a clean end");
    session.assert_alive("after SIGTERM");
    let longest = session.finish();
    assert!(longest.as_millis() < 3000, "an answer took {longest:?}");
}

/// SIGTERM leaves nothing but the doors and the rules that close reality addresses: no XDP program, no socket file,
/// no change of the uplink.
#[test]
fn sigterm_leaves_no_trace() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, _far) = underlay_pair(&lab, V4);
    let link = |rvm: &Namespace| {
        let link = &rvm.ip_json("link show eth0")[0];
        ["flags", "mtu", "qdisc", "master", "address", "promiscuity", "xdp"].map(|key| link[key].clone())
    };
    let (link_before, routes_before) = (link(&rvm), rvm.ip_json("route show"));
    let config = CONFIG.to_string() + "[[port]]\nname = \"eth2\"\nnetwork = \"public\"\n";
    let mut switch = Switch::start(&lab, &rvm, &config);
    wait_for("the daemon to attach to eth0", || xdp_attached(&rvm, "eth0"));
    wait_for("the door", || rvm.has_link("eth2"));
    assert!(switch.terminate().success(), "{}", switch.log());
    assert_eq!(link(&rvm), link_before);
    assert_eq!(rvm.ip_json("route show"), routes_before);
    assert!(!switch.socket().exists(), "the control socket is removed");
    assert!(rvm.has_link("eth2"), "doors are meant to stay");
    assert!(!xdp_attached(&rvm, "eth2p"), "but our program on them is not");
    assert_eq!(switch.ivctl("status").code, 5, "nobody answers");
}

/// The switch waits for a missing interface. When one disappears, the other ports go on; when it returns, so
/// does its traffic.
#[test]
fn interfaces_come_go_and_return() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let config = network("private", 100) + &port("h1", "private") + &port("h3", "private");
    let mut switch = Switch::start(&lab, &rvm, &config);
    let h1 = crate::topology::host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let h3 = crate::topology::host(&lab, &rvm, "h3", &["10.1.0.3/24"]);
    h1.reaches("10.1.0.3");
    // The same NIC comes back each time, because others know its address.
    let mac = h3.mac("eth0").map(|byte| format!("{byte:02x}")).join(":");
    for _ in 0..3 {
        h3.ip("link delete eth0");
        wait_for("the interface to be gone", || !rvm.has_link("p-h3"));
        lab.veth((&h3, "eth0"), (&rvm, "p-h3"));
        h3.ip(&format!("link set eth0 address {mac}"));
        h3.ip("addr add 10.1.0.3/24 dev eth0");
        h1.reaches("10.1.0.3");
    }
    // An interface that is down still exists, and works again when it is up.
    rvm.ip("link set p-h3 down");
    wait_for("nobody to answer", || h1.ping("-c1 -W1 10.1.0.3") == 0);
    rvm.ip("link set p-h3 up");
    h1.reaches("10.1.0.3");
    switch.assert_running();
}

/// The uplink itself disappears and returns (as a cloud NIC does when it is replugged).
#[test]
fn the_uplink_comes_goes_and_returns() {
    let Some(lab) = Lab::new() else { return };
    let mut cloud = FarKernel::new(&lab, V4, false);
    cloud.h1.reaches("10.1.0.2");
    for _ in 0..2 {
        cloud.far.ip("link delete eth0");
        wait_for("the uplink to be gone", || !cloud.rvm.has_link("eth0"));
        cloud.switch.assert_running();
        lab.veth((&cloud.rvm, "eth0"), (&cloud.far, "eth0"));
        cloud.rvm.ip("addr add 10.0.0.11/16 dev eth0");
        cloud.far.ip("addr add 10.0.0.12/16 dev eth0");
        // The kernel's vxlan was deleted with its device.
        cloud.far.ip("link add vx type vxlan id 100 local 10.0.0.12 remote 10.0.0.11 dstport 4789 dev eth0");
        cloud.far.ip("link set vx mtu 1450 master br0 up");
        cloud.h1.reaches("10.1.0.2");
    }
    transfer(&cloud.h1, &cloud.h2, at("10.1.0.2", 80), at("10.1.0.2", 80), 60_000);
}
