//! Floating IPs: the provider's NAT on one side, on the other a CMS or none, and two of our switches between them.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use system::{Capture, Lab, Namespace, RawSocket, Switch, rounds, transfer, udp_frame, vxlan, wait_for};

use crate::topology::{finished, host, network, port};

/// How packets for 56.0.0.11 reach its owner on rVM2.
#[derive(Clone, Copy, PartialEq)]
pub enum Owner {
    /// A CMS behind the door `eth2`: DNAT, SNAT and source routing by the kernel.
    Cms,
    /// The switch alone, by `inside`.
    Inside,
}

/// Figure 4 of the Inception paper: an Internet host behind a provider NAT, gateway rVM1, owner's rVM2, the iVM.
pub struct Figure4 {
    pub inet: Namespace,
    pub net: Namespace,
    rvm1: Namespace,
    rvm2: Namespace,
    pub ivm: Namespace,
    pub one: Switch,
    pub two: Switch,
}

pub const PUBLIC: &str = "56.0.0.11";
pub const INTERNET_HOST: &str = "203.0.113.9";

/// The drivers by which the rVMs' frames come and go.
#[derive(Clone, Copy)]
pub struct Lanes {
    pub uplinks: [&'static str; 2],
    pub port: &'static str,
}

impl Lanes {
    pub const AFXDP: Self = Self { uplinks: ["afxdp", "afxdp"], port: "afxdp" };

    /// Whether GSO packets pass.
    fn whole(self) -> bool {
        self.port != "afxdp"
    }
}

impl Figure4 {
    pub fn new(lab: &Lab, owner: Owner, lanes: Lanes) -> Self {
        let (inet, net, rvm1, rvm2) = reality(lab);
        let ivm = host(lab, &rvm2, "ivm", &["192.168.1.2/24"]);
        ivm.ip("link set eth0 mtu 1450");
        ivm.ip("route add default via 192.168.1.1");
        let public = network("public", 200) + "gateway = [\"10.2.0.1\"]\n";
        let floating = format!("[[floating]]\nip = \"{PUBLIC}\"\nnetwork = \"public\"\ngateway = \"rvm1\"\n");
        let [one, two] = lanes.uplinks;
        let one = uplink("rvm1", "10.0.0.11", one, "rvm2", "10.0.0.12")
            + &public
            + &floating
            + "reality = \"10.0.0.11\"\n";
        let two = uplink("rvm2", "10.0.0.12", two, "rvm1", "10.0.0.11") + &public + &floating;
        let kind = format!("kind = \"{}\"\n", lanes.port);
        let two = match owner {
            Owner::Cms => {
                two + "[[port]]\nname = \"eth2\"\nnetwork = \"public\"\naddress = [\"10.2.0.12/16\"]\n"
                    + &kind
            }
            Owner::Inside => {
                two + "inside = { network = \"private\", address = \"192.168.1.2\" }\n"
                    + &network("private", 100)
                    + "gateway = [\"192.168.1.1\"]\n"
                    + &port("ivm", "private")
                    + &kind
            }
        };
        if lanes.whole() {
            // Links that behave like wires, where checksums can be verified.
            let wires = [
                (&rvm1, "eth0"),
                (&rvm2, "eth0"),
                (&net, "r1"),
                (&net, "r2"),
                (&net, "wan"),
                (&rvm2, "p-ivm"),
            ];
            wires.iter().for_each(|(namespace, interface)| finished(namespace, interface));
        }
        let one = Switch::start(lab, &rvm1, &one);
        let two = Switch::start(lab, &rvm2, &two);
        if owner == Owner::Cms {
            cms(&rvm2);
        }
        let figure = Self { inet, net, rvm1, rvm2, ivm, one, two };
        figure.inet.reaches(PUBLIC);
        figure
    }
}

/// The provider's network: rVM1 and rVM2 on 10.0.0.0/16, an Internet host, NAT 56.0.0.11 <-> 10.0.0.11.
pub fn reality(lab: &Lab) -> (Namespace, Namespace, Namespace, Namespace) {
    let [inet, net, rvm1, rvm2] = ["inet", "net", "rvm1", "rvm2"].map(|name| lab.namespace(name));
    net.ip("link add lan type bridge");
    net.ip("link set lan up");
    net.ip("addr add 10.0.0.1/16 dev lan");
    for (rvm, port, address) in [(&rvm1, "r1", "10.0.0.11/16"), (&rvm2, "r2", "10.0.0.12/16")] {
        lab.veth((rvm, "eth0"), (&net, port));
        net.ip(&format!("link set {port} master lan"));
        rvm.ip(&format!("addr add {address} dev eth0"));
        rvm.ip("route add default via 10.0.0.1");
    }
    lab.veth((&inet, "eth0"), (&net, "wan"));
    net.ip("addr add 203.0.113.1/24 dev wan");
    inet.ip(&format!("addr add {INTERNET_HOST}/24 dev eth0"));
    inet.ip("route add 56.0.0.0/24 via 203.0.113.1");
    net.sysctl("net/ipv4/ip_forward", "1");
    net.nft(
        "table ip provider {
           chain pre { type nat hook prerouting priority dstnat; ip daddr 56.0.0.11 dnat to 10.0.0.11; }
           chain post { type nat hook postrouting priority srcnat; oifname wan ip saddr 10.0.0.11 snat to 56.0.0.11; }
         }",
    );
    (inet, net, rvm1, rvm2)
}

fn uplink(name: &str, address: &str, kind: &str, peer: &str, peer_address: &str) -> String {
    format!(
        "name = \"{name}\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{address}\"\nkind = \"{kind}\"\n\
         [[peer]]\nname = \"{peer}\"\naddress = \"{peer_address}\"\n"
    )
}

/// The rules that Nova network sets for a floating IP of an instance, all of them on the rVM and none in the switch.
fn cms(rvm: &Namespace) {
    wait_for("the door eth2", || rvm.has_link("eth2"));
    rvm.ip("link add br1 type bridge");
    rvm.ip("link set br1 up");
    rvm.ip("link set p-ivm master br1");
    rvm.ip("addr add 192.168.1.1/24 dev br1");
    rvm.ip("addr add 56.0.0.11/32 dev eth2");
    rvm.sysctl("net/ipv4/ip_forward", "1");
    rvm.sysctl("net/ipv4/conf/eth2/rp_filter", "2");
    rvm.nft(
        "table ip cms {
           chain pre { type nat hook prerouting priority dstnat; ip daddr 56.0.0.11 dnat to 192.168.1.2; }
           chain post { type nat hook postrouting priority srcnat; oifname eth2 ip saddr 192.168.1.2 snat to 56.0.0.11; }
         }",
    );
    for source in [PUBLIC, "192.168.1.2"] {
        rvm.ip(&format!("rule add from {source} lookup 100"));
    }
    rvm.ip("route add default via 10.2.0.1 dev eth2 table 100");
    rvm.ip("route add 192.168.1.0/24 dev br1 table 100");
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    format!("{address}:{port}").parse().expect("an address")
}

/// A UDP question and its answer through the whole path; retried, since UDP may be lost.
pub fn udp_answers(client: &Namespace, server: &Namespace, connect: SocketAddr, listen: SocketAddr) {
    let socket = server.run(move || UdpSocket::bind(listen)).expect("a free port");
    server.spawn(move || -> io::Result<()> {
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut buffer = [0; 2000];
        loop {
            let (len, from) = socket.recv_from(&mut buffer)?;
            buffer[..len].reverse();
            socket.send_to(&buffer[..len], from)?;
        }
    });
    let socket = client.run(move || UdpSocket::bind("0.0.0.0:0")).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a time");
    socket.connect(connect).expect("connecting UDP sends nothing");
    let question: Vec<u8> = (0..1200u16).map(|n| n as u8).collect();
    let mut answer = [0; 2000];
    wait_for(&format!("UDP to {connect} to be answered"), || {
        socket.send(&question).is_ok()
            && socket.recv(&mut answer).is_ok_and(|len| answer[..len].iter().rev().eq(question.iter()))
    });
}

/// The error that a client gets from a closed UDP port: it travels as an ICMP error that quotes the client's own
/// packet, through every translation on the way back.
fn udp_refused(client: &Namespace, connect: SocketAddr) {
    let socket = client.run(move || UdpSocket::bind("0.0.0.0:0")).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a time");
    socket.connect(connect).expect("connecting UDP sends nothing");
    let mut last = None;
    wait_for(&format!("the closed port {connect} to be reported"), || {
        let _ = socket.send(b"anybody there?");
        last = socket.recv(&mut [0; 10]).err().map(|e| e.kind());
        last == Some(io::ErrorKind::ConnectionRefused)
    });
}

fn everything_through_it(owner: Owner, lanes: Lanes) {
    let Some(lab) = Lab::new() else { return };
    let mut f = Figure4::new(&lab, owner, lanes);
    let (inet, ivm) = (&f.inet, &f.ivm);

    // Inbound: TCP, UDP. The iVM sees the client's address, which is never hidden.
    let at_ivm = Capture::start(&lab, ivm, "eth0", "tcp");
    let at_inet = Capture::start(&lab, inet, "eth0", "tcp");
    let at_net = Capture::start(&lab, &f.net, "r1", "ip");
    let client = transfer(inet, ivm, at(PUBLIC, 80), at("192.168.1.2", 80), 60_000);
    assert_eq!(client.to_string(), INTERNET_HOST);
    // Outbound, when the iVM opens the connection: the Internet sees the floating IP.
    let client = transfer(ivm, inet, at(INTERNET_HOST, 80), at(INTERNET_HOST, 80), 60_000);
    assert_eq!(client.to_string(), PUBLIC);
    if owner == Owner::Inside || lanes.whole() {
        // With a CMS the last link is its own veth, whose checksums are rightly unfinished.
        at_ivm.stop().assert_checksums_right(20);
        at_inet.stop().assert_checksums_right(20);
    }
    at_net.stop().assert_checksums_right(40);
    udp_answers(inet, ivm, at(PUBLIC, 53), at("192.168.1.2", 53));
    udp_answers(ivm, inet, at(INTERNET_HOST, 53), at(INTERNET_HOST, 53));

    // ICMP errors, from the iVM and to it.
    udp_refused(inet, at(PUBLIC, 4444));
    udp_refused(ivm, at(INTERNET_HOST, 4444));

    // Fragments, in and out: 1:1 translation needs no port, and fragments too big for the tunnel are fragmented
    // again.
    inet.reaches_with(PUBLIC, "-s 4000");
    ivm.reaches_with(INTERNET_HOST, "-s 4000");
    // Bulk.
    transfer(inet, ivm, at(PUBLIC, 81), at("192.168.1.2", 81), 20_000_000);

    // The gateway's own kernel keeps its SSH, and answers nothing else at 56.0.0.11.
    let ssh = transfer(inet, &f.rvm1, at(PUBLIC, 22), at("10.0.0.11", 22), 60_000);
    assert_eq!(ssh.to_string(), INTERNET_HOST);
    // The guard: a machine behind the floating IP does not reach the underlay through it.
    assert_eq!(ivm.ping("-c2 -i0.1 -W1 10.0.0.1"), 0, "the provider's network is guarded");
    assert_eq!(ivm.ping("-c2 -i0.1 -W1 10.0.0.11"), 0, "VTEPs are guarded");
    assert!(f.rvm2.ping("-c1 -W1 10.0.0.1") == 1, "the rVM itself is not guarded");
    f.one.assert_running();
    f.two.assert_running();
}

#[test]
fn i38_floating_ip_with_a_cms() {
    everything_through_it(Owner::Cms, Lanes::AFXDP);
}

#[test]
fn i35_floating_ip_inside_without_a_cms() {
    everything_through_it(Owner::Inside, Lanes::AFXDP);
}

/// The same with GSO packets: both translations are applied to frames of up to 64 KiB.
#[test]
fn floating_ip_with_a_cms_by_tap_and_udp() {
    everything_through_it(Owner::Cms, Lanes { uplinks: ["packet", "udp"], port: "tap" });
}

#[test]
fn floating_ip_inside_by_packet() {
    everything_through_it(Owner::Inside, Lanes { uplinks: ["packet", "packet"], port: "packet" });
}

/// Six ways for an iVM to have our own NAT give its packets a source that peers, the provider or the metadata service
/// trust: no packet leaves the gateway, and each is counted.
#[test]
fn t14_what_our_nat_does_not_lend_its_address_to() {
    let Some(lab) = Lab::new() else { return };
    let f = Figure4::new(&lab, Owner::Inside, Lanes::AFXDP);
    f.ivm.reaches(INTERNET_HOST);
    let neighbours = f.ivm.ip_json("neigh show 192.168.1.1");
    let gateway = neighbours[0]["lladdr"].as_str().expect("the gateway's MAC");
    let mut bytes = gateway.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"));
    let gateway = std::array::from_fn(|_| bytes.next().expect("six bytes"));
    let (own, mark) = ((f.ivm.mac("eth0"), [192, 168, 1, 2].into()), 50_555);
    // The frame that would arrive in the public network if the packet were accepted as a peer's.
    let inner =
        udp_frame(([6; 6], [10, 2, 0, 66].into(), 7), ([0xff; 6], [10, 2, 0, 12].into(), 7), &[], b"forged");
    let paths = [
        ("VXLAN to a VTEP", mark, [10, 0, 0, 12], 4789),
        ("VXLAN to the gateway's own VTEP", mark, [10, 0, 0, 11], 4789),
        ("as if from the tunnel port", 4789, [203, 0, 113, 9], mark),
        ("the provider's network", mark, [10, 0, 0, 1], 2379),
        ("the metadata service", mark, [169, 254, 169, 254], 80),
        ("everybody", mark, [255, 255, 255, 255], 53),
    ];
    // On every link of the provider's network, except for packets that rVM2 tunnels to the gateway.
    let filter = format!("port {mark} and not (src host 10.0.0.12 and udp dst port 4789)");
    let seen = ["r1", "r2", "wan"].map(|link| Capture::start(&lab, &f.net, link, &filter));
    let refused = || {
        let switches = [(&f.one, "uplink"), (&f.two, "ivm"), (&f.two, "uplink")];
        let reasons = ["guarded", "port-not-mapped"];
        switches
            .iter()
            .flat_map(|(switch, port)| reasons.map(|reason| switch.drops(port, reason)))
            .sum::<u64>()
    };
    let (raw, before, mut sent) = (RawSocket::open(&f.ivm, "eth0"), refused(), 0_u64);
    for n in rounds(1200) {
        let (_, sport, to, dport) = paths[n as usize % paths.len()];
        let forged =
            udp_frame((own.0, own.1, sport), (gateway, to.into(), dport), &[], &vxlan(8, 200, 0, &inner));
        sent += u64::from(raw.send(&forged).is_ok());
        if n % 32 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    wait_for("all to be refused", || refused() - before >= sent);
    println!("t14: {sent} packets on {} ways, {} refused", paths.len(), refused() - before);
    for seen in seen {
        assert_eq!(seen.stop().text(), "", "left");
    }
    f.ivm.reaches(INTERNET_HOST);
}

/// One public address for two iVMs: each has its own ports, and the other ports stay with the gateway.
#[test]
fn n27_one_public_ip_shared_by_port() {
    let Some(lab) = Lab::new() else { return };
    let (inet, _net, rvm1, rvm2) = reality(&lab);
    let web = host(&lab, &rvm2, "web", &["192.168.1.2/24"]);
    let dns = host(&lab, &rvm2, "dns", &["192.168.1.3/24"]);
    for ivm in [&web, &dns] {
        ivm.ip("link set eth0 mtu 1450");
        ivm.ip("route add default via 192.168.1.1");
    }
    let mapping = |only: &str, rest: &str| {
        format!(
            "[[floating]]\nip = \"{PUBLIC}\"\nnetwork = \"public\"\ngateway = \"rvm1\"\nonly = [{only}]\n{rest}\n"
        )
    };
    let public = network("public", 200) + "gateway = [\"10.2.0.1\"]\n";
    let private = network("private", 100) + "gateway = [\"192.168.1.1\"]\n";
    let ports = ["\"tcp/80\"", "\"udp/53\", \"tcp/8000-8001\""];
    let inside = |last: u8| format!("inside = {{ network = \"private\", address = \"192.168.1.{last}\" }}");
    let one = uplink("rvm1", "10.0.0.11", "afxdp", "rvm2", "10.0.0.12")
        + &public
        + &mapping(ports[0], "reality = \"10.0.0.11\"")
        + &mapping(ports[1], "reality = \"10.0.0.11\"");
    let two = uplink("rvm2", "10.0.0.12", "afxdp", "rvm1", "10.0.0.11")
        + &public
        + &private
        + &port("web", "private")
        + &port("dns", "private")
        + &mapping(ports[0], &inside(2))
        + &mapping(ports[1], &inside(3));
    let _one = Switch::start(&lab, &rvm1, &one);
    let _two = Switch::start(&lab, &rvm2, &two);

    udp_answers(&inet, &dns, at(PUBLIC, 53), at("192.168.1.3", 53));
    transfer(&inet, &web, at(PUBLIC, 80), at("192.168.1.2", 80), 60_000);
    transfer(&inet, &dns, at(PUBLIC, 8001), at("192.168.1.3", 8001), 60_000);
    transfer(&inet, &rvm1, at(PUBLIC, 22), at("10.0.0.11", 22), 60_000);
    transfer(&inet, &rvm1, at(PUBLIC, 443), at("10.0.0.11", 443), 60_000);
    inet.reaches(PUBLIC);
}

/// The shortcut: gateway and owner are one rVM, and packets never use a tunnel.
#[test]
fn i42_gateway_and_owner_are_one() {
    let Some(lab) = Lab::new() else { return };
    let (inet, net, rvm1, _rvm2) = reality(&lab);
    let ivm = host(&lab, &rvm1, "ivm", &["192.168.1.2/24"]);
    ivm.ip("route add default via 192.168.1.1");
    let config = "name = \"rvm1\"\n[uplink]\ninterface = \"eth0\"\n".to_string()
        + &network("public", 200)
        + &network("private", 100)
        + "gateway = [\"192.168.1.1\"]\n"
        + &port("ivm", "private")
        + "[[floating]]\nip = \"56.0.0.11\"\nnetwork = \"public\"\ngateway = \"rvm1\"\nreality = \"10.0.0.11\"\n\
           inside = { network = \"private\", address = \"192.168.1.2\" }\n";
    let _switch = Switch::start(&lab, &rvm1, &config);
    inet.reaches(PUBLIC);
    let tunnel = Capture::start(&lab, &net, "r1", "udp port 4789");
    let client = transfer(&inet, &ivm, at(PUBLIC, 80), at("192.168.1.2", 80), 1_000_000);
    assert_eq!(client.to_string(), INTERNET_HOST);
    let client = transfer(&ivm, &inet, at(INTERNET_HOST, 80), at(INTERNET_HOST, 80), 1_000_000);
    assert_eq!(client.to_string(), PUBLIC);
    inet.reaches_with(PUBLIC, "-s 4000");
    udp_refused(&inet, at(PUBLIC, 4444));
    assert_eq!(tunnel.stop().text(), "", "no tunnel packet");
}
