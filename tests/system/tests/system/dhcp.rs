//! Addresses of guests from the switch itself, taken by the DHCP clients that guests have.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use system::{Lab, Namespace, Switch};

use crate::topology::{host, port};

/// What a client is told, as it hands it to its script: one `name=value` a line.
fn script(lab: &Lab, name: &str, body: &str) -> (PathBuf, PathBuf) {
    let (script, said) = (lab.dir().join(format!("{name}.sh")), lab.dir().join(format!("{name}.said")));
    fs::write(&script, format!("#!/bin/sh\nexport SAID={}\n{body}", said.display())).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("our own file");
    (script, said)
}

/// Runs busybox's client once, which sets the interface up by what it is told; whether it got an address.
fn udhcpc(lab: &Lab, guest: &Namespace, arguments: &[&str]) -> Option<String> {
    let body = "[ $1 = bound ] || exit 0\nset > $SAID\nip addr flush dev $interface scope global\n\
                ip link set $interface mtu $mtu\nip addr add $ip/$mask dev $interface\n\
                [ -z $router ] || ip route add default via $router\n";
    let (script, said) = script(lab, guest.name(), body);
    let _ = fs::remove_file(&said);
    let mut client = guest.command("busybox");
    client
        .args(["udhcpc", "-f", "-q", "-n", "-t", "3", "-T", "1", "-O", "mtu", "-i", "eth0", "-s"])
        .arg(&script);
    let output = client.args(arguments).output().expect("running udhcpc");
    let text = fs::read_to_string(said).ok();
    assert_eq!(output.status.success(), text.is_some(), "{}", String::from_utf8_lossy(&output.stderr));
    text
}

const MACS: [&str; 3] = ["52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"];

/// Three guests on a network with DHCP, one of them without an address in its binding, and one on a network without.
/// The bound ones get what their binding says, with the MTU, router and name servers of the configuration, and talk to
/// each other and the gateway by it; nobody else gets anything, and nobody hears another's question.
#[test]
fn guests_get_the_addresses_of_their_bindings() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let guests = ["g1", "g2", "g3"].map(|name| host(&lab, &rvm, name, &[]));
    for (guest, mac) in guests.iter().zip(MACS) {
        guest.ip(&format!("link set eth0 address {mac}"));
        // What a guest's own NIC does; a veth leaves it to us.
        let _ = guest.command("ethtool").args(["-K", "eth0", "tx", "off"]).output();
    }
    let stranger = host(&lab, &rvm, "h4", &[]);
    let bound = |name: &str, n: usize, ips: &str| {
        port(name, "private")
            + &format!("role = \"guest\"\nmac = [\"{}\"]\nip = [{ips}]\nmtu = 1400\n", MACS[n])
    };
    let config = format!(
        "[[network]]\nname = \"private\"\nvni = 100\ngateway = [\"10.1.0.1\"]\ndhcp = [\"10.1.0.0/24\", \"fd01::/64\"]\n\
         dns = [\"9.9.9.9\", \"1.1.1.1\", \"fd01::53\"]\n[[network]]\nname = \"plain\"\nvni = 101\n{}{}{}{}",
        bound("g1", 0, "\"10.1.0.5\", \"fd01::5\""),
        bound("g2", 1, "\"10.1.0.6\""),
        bound("g3", 2, "\"10.9.0.7\""),
        port("h4", "plain")
    );
    let switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["g1", "g2", "g3", "h4"]);

    let said = udhcpc(&lab, &guests[0], &[]).expect("an address");
    for line in [
        "ip='10.1.0.5'",
        "mask='24'",
        "router='10.1.0.1'",
        "dns='9.9.9.9 1.1.1.1'",
        "mtu='1400'",
        "lease='3600'",
        "serverid='10.1.0.1'",
    ] {
        assert!(said.lines().any(|said| said == line), "{line} is missing:\n{said}");
    }
    // The second asks for the first one's address, and gets its own.
    let said = udhcpc(&lab, &guests[1], &["-r", "10.1.0.5"]).expect("an address");
    assert!(said.contains("ip='10.1.0.6'"), "{said}");
    guests[1].reaches("10.1.0.5");
    guests[1].reaches("10.1.0.1");
    assert_eq!(udhcpc(&lab, &guests[2], &[]), None, "its address is in none of the network's prefixes");
    assert_eq!(udhcpc(&lab, &stranger, &[]), None, "its network has no DHCP");

    let address = dhclient(&lab, &guests[0]);
    assert_eq!(address, "fd01::5");
    switch.counters_at_rest();
}

/// Asks by DHCPv6 once; the address.
fn dhclient(lab: &Lab, guest: &Namespace) -> String {
    let (script, said) = script(lab, "dhclient", "[ -z \"$new_ip6_address\" ] || set > $SAID\n");
    let lease = lab.dir().join("dhclient.leases");
    let mut client = guest.command("dhclient");
    client
        .args(["-6", "-1", "-v", "-d", "-pf", "/dev/null", "-cf", "/dev/null", "-lf"])
        .arg(lease)
        .arg("-sf")
        .arg(script);
    let mut child =
        client.arg("eth0").stderr(std::process::Stdio::piped()).spawn().expect("running dhclient");
    system::wait_for("an answer by DHCPv6", || {
        said.exists() || child.try_wait().is_ok_and(|ended| ended.is_some())
    });
    let _ = child.kill();
    let output = child.wait_with_output().expect("its end");
    let text =
        fs::read_to_string(said).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert!(text.contains("new_dhcp6_name_servers='fd01::53'"), "{text}");
    let address = text.lines().find_map(|line| line.strip_prefix("new_ip6_address="));
    address.expect("an address").trim_matches('\'').to_owned()
}
