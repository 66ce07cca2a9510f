//! Addresses that the switch itself gives to guests, requested by the DHCP clients that guests use.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use system::{Lab, Namespace, Switch};

use crate::topology::{V4, host, network, port, underlay_pair};

/// A script to which a DHCP client hands the lease, and the file where it writes it: one `name=value` a line.
fn script(lab: &Lab, name: &str, body: &str) -> (PathBuf, PathBuf) {
    let (script, said) = (lab.dir().join(format!("{name}.sh")), lab.dir().join(format!("{name}.said")));
    fs::write(&script, format!("#!/bin/sh\nexport SAID={}\n{body}", said.display())).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("our own file");
    (script, said)
}

/// Runs busybox's client once, which configures the interface from the answer; gives the lease, if there was one.
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

/// Three guests on a network with DHCP, one of them without an address in its binding, and one on a network without
/// DHCP. The bound ones get the address of their binding, with the MTU, router and name servers of the configuration,
/// and reach each other and the gateway. The others get no answer, and no guest receives another's question.
#[test]
fn guests_get_the_addresses_of_their_bindings() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let guests = ["g1", "g2", "g3"].map(|name| host(&lab, &rvm, name, &[]));
    for (guest, mac) in guests.iter().zip(MACS) {
        // A link-local address is made when the interface comes up, from the MAC that it then has.
        guest.ip("link set eth0 down");
        guest.ip(&format!("link set eth0 address {mac}"));
        guest.ip("link set eth0 up");
        // A guest's own NIC finishes checksums; a veth leaves them to us.
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
    // The second guest asks for the first one's address, and gets its own.
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

/// A message of PXE firmware (PXE 2.1 section 2.4): its kind, and the boot item that it asks for, if it knows one.
fn pxe_message(mac: [u8; 6], kind: u8, has: [u8; 4], item: Option<[u8; 4]>) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[4..8].copy_from_slice(&[0, 0, 0x12, 0x34]);
    message[10] = 0x80;
    message[12..16].copy_from_slice(&has);
    message[28..34].copy_from_slice(&mac);
    message[236..240].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    message.extend([53, 1, kind, 93, 2, 0, 0, 94, 3, 1, 2, 1, 60, 32]);
    message.extend(b"PXEClient:Arch:00000:UNDI:002001");
    message.extend([97, 17, 0]);
    message.extend([b'u'; 16]);
    if let Some(item) = item {
        message.extend([43, 7, 71, 4]);
        message.extend(item);
        message.push(255);
    }
    message.extend([55, 3, 1, 3, 43, 255]);
    message.resize(message.len().max(400), 0);
    message
}

/// A guest whose firmware boots from the network, on a network with DHCP and a separate boot server (dnsmasq as
/// proxyDHCP): it gets its address from the switch and the menu from the boot server, whose answer at port 4011 names
/// the file.
#[test]
fn a_guest_boots_from_a_server_beside_the_switch() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let (guest, server) =
        (host(&lab, &rvm, "g1", &["10.1.0.5/24"]), host(&lab, &rvm, "srv", &["10.1.0.50/24"]));
    let mac = guest.mac("eth0");
    let bound = mac.map(|byte| format!("{byte:02x}")).join(":");
    let config =
        "[[network]]\nname = \"private\"\nvni = 100\ngateway = [\"10.1.0.1\"]\ndhcp = [\"10.1.0.0/24\"]\n"
            .to_owned()
            + &port("g1", "private")
            + &format!("role = \"guest\"\nmac = [\"{bound}\"]\nip = [\"10.1.0.5\"]\n")
            + &port("srv", "private");
    let switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["g1", "srv"]);
    guest.reaches("10.1.0.50");
    guest.ip("route add 255.255.255.255/32 dev eth0");
    let mut dnsmasq = server
        .command("dnsmasq")
        .args([
            "-k",
            "-p0",
            "-u",
            "root",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--dhcp-range=10.1.0.0,proxy",
        ])
        .args(["--pxe-service=x86PC,boot,pxelinux", "--log-facility=-"])
        .arg(format!("--dhcp-leasefile={}", lab.dir().join("leases").display()))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("running dnsmasq");
    let answers = |question: Vec<u8>, to: &'static str, wanted: usize| {
        guest.run(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:68").expect("the port of DHCP clients");
            socket.set_broadcast(true).unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
            let (mut found, mut message) = (Vec::new(), [0; 1500]);
            // The boot server may still be starting.
            for _ in 0..20 {
                socket.send_to(&question, to).expect("sending");
                while let Ok((len, from)) = socket.recv_from(&mut message) {
                    found.push((from.ip().to_string(), message[..len].to_vec()));
                }
                found.sort();
                found.dedup();
                if found.len() >= wanted {
                    break;
                }
            }
            found
        })
    };
    let has = |message: &[u8], text: &[u8]| message.windows(text.len()).any(|part| part == text);
    let offers = answers(pxe_message(mac, 1, [0; 4], None), "255.255.255.255:67", 2);
    let [(from, address), (from_server, menu)] = offers.as_slice() else { panic!("{offers:02x?}") };
    assert_eq!((from.as_str(), &address[16..20]), ("10.1.0.1", &[10, 1, 0, 5][..]), "the address");
    assert_eq!((from_server.as_str(), &menu[16..20]), ("10.1.0.50", &[0; 4][..]), "and no second one");
    assert!(has(menu, b"PXEClient"));
    // The firmware asks the boot server for the item of its menu.
    let question = pxe_message(mac, 3, [10, 1, 0, 5], Some([0x80, 0, 0, 0]));
    let files = answers(question, "10.1.0.50:4011", 1);
    let _ = dnsmasq.kill();
    let _ = dnsmasq.wait();
    let [(_, file)] = files.as_slice() else { panic!("{files:02x?}") };
    assert!(file[0] == 2 && has(&file[108..236], b"pxelinux.0"), "{file:02x?}");
    switch.counters_at_rest();
}

/// Asks by DHCPv6 once; gives the address.
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

/// I-31. The DHCP server of a network (dnsmasq) is behind another rVM: a client's broadcasts cross the tunnel, the
/// lease comes back, and the address works immediately. A second client gets another address, and each keeps its own
/// when it asks again.
#[test]
fn i31_a_server_across_the_overlay_gives_addresses() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    let clients = ["g1", "g2"].map(|name| host(&lab, &rvm, name, &[]));
    let server = host(&lab, &far, "srv", &["10.1.0.50/24"]);
    for host in clients.iter().chain([&server]) {
        host.ip("link set eth0 mtu 1450");
    }
    let config = |ours: &str, other: &str, ports: &str| {
        format!(
            "name = \"at-{ours}\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{ours}\"\n{}{ports}\
             [[peer]]\nname = \"other\"\naddress = \"{other}\"\n",
            network("private", 100)
        )
    };
    let switch = Switch::start(
        &lab,
        &rvm,
        &config(V4.ours, V4.far, &(port("g1", "private") + &port("g2", "private"))),
    );
    let other = Switch::start(&lab, &far, &config(V4.far, V4.ours, &port("srv", "private")));
    switch.wait_live(&["g1", "g2"]);
    other.wait_live(&["srv"]);
    let leases = lab.dir().join("leases");
    let mut dnsmasq = server
        .command("dnsmasq")
        .args(["-k", "-p0", "-u", "root", "--conf-file=/dev/null", "--pid-file=", "--log-facility=-"])
        .args(["--dhcp-range=10.1.0.100,10.1.0.110,255.255.255.0,1h", "--dhcp-option=option:mtu,1450"])
        .arg(format!("--dhcp-leasefile={}", leases.display()))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("running dnsmasq");
    let address = |client: &Namespace| {
        let mut said = None;
        system::wait_for("a lease", || {
            said = udhcpc(&lab, client, &[]);
            said.is_some()
        });
        let said = said.unwrap_or_default();
        let line = said.lines().find_map(|line| line.strip_prefix("ip='"));
        line.expect("an address").trim_matches('\'').to_owned()
    };
    let leased = clients.each_ref().map(address);
    assert!(leased.iter().all(|ip| ip.starts_with("10.1.0.1")) && leased[0] != leased[1], "{leased:?}");
    for (client, ip) in clients.iter().zip(&leased) {
        client.reaches("10.1.0.50");
        server.reaches(ip);
        assert_eq!(&address(client), ip, "it keeps its address");
    }
    let _ = dnsmasq.kill();
    let _ = dnsmasq.wait();
    let text = fs::read_to_string(leases).expect("dnsmasq's leases");
    assert!(leased.iter().all(|ip| text.contains(ip.as_str())), "{text}");
    switch.counters_at_rest();
    other.counters_at_rest();
}
