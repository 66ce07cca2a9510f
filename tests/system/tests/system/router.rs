//! The switch as a router, judged by the kernel's own tools: traceroute, the errors that sockets get, and datagrams
//! that do not fit the tunnel.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use system::{Capture, Lab, Namespace, Switch, assert_conserved, wait_for};

use crate::floating_ip::{Figure4, INTERNET_HOST, Lanes, Owner, PUBLIC};
use crate::topology::{host, network, port};

const PUBLIC6: &str = "2001:db8:56::11";
const INTERNET_HOST6: &str = "2001:db8:9::9";

/// A provider with NAT for a floating IP of each family, an Internet host, the gateway's rVM, and the owner's with an
/// iVM behind it that assumes an MTU of 1500 bytes, without a CMS.
struct DualStack {
    inet: Namespace,
    ivm: Namespace,
    rvm2: Namespace,
    one: Switch,
    two: Switch,
}

impl DualStack {
    fn new(lab: &Lab) -> Self {
        let [inet, net, rvm1, rvm2] = ["inet", "net", "rvm1", "rvm2"].map(|name| lab.namespace(name));
        net.ip("link add lan type bridge");
        net.ip("link set lan up");
        net.ip("addr add 10.0.0.1/16 dev lan");
        net.ip("addr add fd00::1/64 dev lan nodad");
        for (rvm, link, n) in [(&rvm1, "r1", 1), (&rvm2, "r2", 2)] {
            lab.veth((rvm, "eth0"), (&net, link));
            net.ip(&format!("link set {link} master lan"));
            rvm.ip(&format!("addr add 10.0.0.1{n}/16 dev eth0"));
            rvm.ip(&format!("addr add fd00::1{n}/64 dev eth0 nodad"));
            rvm.ip("route add default via 10.0.0.1");
            rvm.ip("-6 route add default via fd00::1");
        }
        lab.veth((&inet, "eth0"), (&net, "wan"));
        net.ip("addr add 203.0.113.1/24 dev wan");
        net.ip("addr add 2001:db8:9::1/64 dev wan nodad");
        inet.ip(&format!("addr add {INTERNET_HOST}/24 dev eth0"));
        inet.ip(&format!("addr add {INTERNET_HOST6}/64 dev eth0 nodad"));
        inet.ip("route add default via 203.0.113.1");
        inet.ip("-6 route add default via 2001:db8:9::1");
        net.sysctl("net/ipv4/ip_forward", "1");
        net.sysctl("net/ipv6/conf/all/forwarding", "1");
        net.nft(&format!(
            "table ip provider {{
               chain pre {{ type nat hook prerouting priority dstnat; ip daddr {PUBLIC} dnat to 10.0.0.11; }}
               chain post {{ type nat hook postrouting priority srcnat; oifname wan ip saddr 10.0.0.11 snat to {PUBLIC}; }}
             }}
             table ip6 provider {{
               chain pre {{ type nat hook prerouting priority dstnat; ip6 daddr {PUBLIC6} dnat to fd00::11; }}
               chain post {{ type nat hook postrouting priority srcnat; oifname wan ip6 saddr fd00::11 snat to {PUBLIC6}; }}
             }}"
        ));
        let ivm = host(lab, &rvm2, "ivm", &["192.168.1.2/24", "fd01::2/64"]);
        ivm.ip("route add default via 192.168.1.1");
        ivm.ip("-6 route add default via fd01::1");
        let head = |name: &str, n: u8, peer: &str, m: u8| {
            format!(
                "name = \"{name}\"\n[uplink]\ninterface = \"eth0\"\naddress = \"10.0.0.1{n}\"\n[[peer]]\n\
                 name = \"{peer}\"\naddress = \"10.0.0.1{m}\"\n"
            ) + &network("public", 200)
                + "gateway = [\"10.2.0.1\", \"fd02::1\"]\n"
        };
        let floating = |ip: &str, rest: &str| {
            format!("[[floating]]\nip = \"{ip}\"\nnetwork = \"public\"\ngateway = \"rvm1\"\n{rest}\n")
        };
        let inside = |address: &str| format!("inside = {{ network = \"private\", address = \"{address}\" }}");
        let one = head("rvm1", 1, "rvm2", 2)
            + &floating(PUBLIC, "reality = \"10.0.0.11\"")
            + &floating(PUBLIC6, "reality = \"fd00::11\"");
        let two = head("rvm2", 2, "rvm1", 1)
            + &network("private", 100)
            + "gateway = [\"192.168.1.1\", \"fd01::1\"]\n"
            + &port("ivm", "private")
            + &floating(PUBLIC, &inside("192.168.1.2"))
            + &floating(PUBLIC6, &inside("fd01::2"));
        let one = Switch::start(lab, &rvm1, &one);
        let two = Switch::start(lab, &rvm2, &two);
        inet.reaches(PUBLIC);
        inet.reaches(PUBLIC6);
        Self { inet, ivm, rvm2, one, two }
    }
}

/// The hops that traceroute finds, in order.
fn hops(from: &Namespace, arguments: &str) -> Vec<String> {
    let mut command = from.command("traceroute");
    let output = command.args(arguments.split_whitespace()).output().expect("running traceroute");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "traceroute {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    let hop = |line: &str| line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    text.lines().skip(1).map(hop).collect()
}

/// Traceroute by UDP, ICMP and TCP, over IPv4 and IPv6, out of a guest and from the Internet to its floating IP:
/// every hop answers, the virtual gateways from their own addresses, and to the Internet each rVM from the floating
/// IP.
#[test]
fn traceroute_shows_every_hop() {
    let Some(lab) = Lab::new() else { return };
    let mut f = DualStack::new(&lab);
    for how in ["-U -p 33434", "-I", "-T -p 80"] {
        let options = format!("-n -q1 -w2 -m8 {how}");
        let out = hops(&f.ivm, &format!("{options} {INTERNET_HOST}"));
        assert_eq!(out, ["192.168.1.1", "10.2.0.1", "10.0.0.1", INTERNET_HOST], "{how}");
        let out = hops(&f.ivm, &format!("-6 {options} {INTERNET_HOST6}"));
        assert_eq!(out, ["fd01::1", "fd02::1", "fd00::1", INTERNET_HOST6], "{how}");
        let inward = hops(&f.inet, &format!("{options} {PUBLIC}"));
        // Linux, as the provider's router, answers from the address that it translates, as the switch does.
        assert_eq!(inward, [PUBLIC; 4], "{how}");
        let inward = hops(&f.inet, &format!("-6 {options} {PUBLIC6}"));
        assert_eq!(inward, [PUBLIC6; 4], "{how}");
        // The gateway itself is one hop away.
        assert_eq!(hops(&f.ivm, &format!("{options} 192.168.1.1")), ["192.168.1.1"], "{how}");
        assert_eq!(hops(&f.ivm, &format!("-6 {options} fd01::1")), ["fd01::1"], "{how}");
    }
    let status = f.two.json("status");
    assert!(status["icmp_errors"]["time-exceeded"].as_u64() >= Some(12), "{}", status["icmp_errors"]);
    assert_conserved(&f.one.counters_at_rest());
    assert_conserved(&f.two.counters_at_rest());
    // A dry run shows the error that would be sent.
    let mac = f.ivm.mac("eth0").map(|byte| format!("{byte:02x}")).join(":");
    let trace = f.two.ivctl(&format!(
        "trace --from ivm --src-mac {mac} --src 192.168.1.2 --to {INTERNET_HOST} --ttl 1 udp"
    ));
    assert!(
        trace.stdout.contains("its sender gets an error from 192.168.1.1: time exceeded in transit"),
        "{trace:?}"
    );
    f.one.assert_running();
    f.two.assert_running();
}

/// A guest's sockets get errors immediately, where they used to wait for a timeout: no route, prohibited, refused; in
/// both families.
#[test]
fn sockets_are_told_at_once() {
    let Some(lab) = Lab::new() else { return };
    let f = DualStack::new(&lab);
    let lonely = host(&lab, &f.rvm2, "lonely", &["192.168.1.3/24", "fd01::3/64"]);
    lonely.ip("route add default via 192.168.1.1");
    lonely.ip("-6 route add default via fd01::1");
    let answer = f.two.ivctl("port add lonely --network private --interface p-lonely");
    assert_eq!(answer.code, 0, "{answer:?}");
    f.two.wait_live(&["lonely"]);
    lonely.reaches("192.168.1.1");
    lonely.reaches("fd01::1");
    let cases: [(&Namespace, &str, &str, &[i32]); 6] = [
        (&lonely, "203.0.113.9:80", "no route", &[libc::ENETUNREACH]),
        (&lonely, "[2001:db8:9::9]:80", "no route", &[libc::ENETUNREACH]),
        (&f.ivm, "10.0.0.1:80", "prohibited", &[libc::EHOSTUNREACH]),
        (&f.ivm, "[fd00::1]:80", "prohibited", &[libc::EACCES]),
        (&f.ivm, "192.168.1.1:80", "refused", &[libc::ECONNREFUSED]),
        (&f.ivm, "[fd01::1]:80", "refused", &[libc::ECONNREFUSED]),
    ];
    for (from, to, what, errors) in cases {
        let to: SocketAddr = to.parse().unwrap();
        let began = Instant::now();
        let error = from.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(8))).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(2), "{to}: {:?}, {error}", began.elapsed());
        assert!(error.raw_os_error().is_some_and(|e| errors.contains(&e)), "{to} {what}: {error}");
    }
    for to in ["192.168.1.1:53", "[fd01::1]:53"] {
        let to: SocketAddr = to.parse().unwrap();
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let refused = f.ivm.run(move || -> io::Result<usize> {
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.connect(to)?;
            socket.send(b"a question")?;
            socket.recv(&mut [0; 100])
        });
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
    }
}

/// Answers each question with as many bytes as the question asks for, as DNSSEC does.
fn serve(at: &Namespace, address: SocketAddr) {
    let socket = at.run(move || UdpSocket::bind(address)).expect("a free port");
    at.spawn(move || -> io::Result<()> {
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut question = [0; 10_000];
        loop {
            let (len, from) = socket.recv_from(&mut question)?;
            let wanted = String::from_utf8_lossy(&question[..len.min(8)]).trim().parse().unwrap_or(0);
            let answer: Vec<u8> = (0..wanted).map(|n: usize| (n / 7) as u8).collect();
            socket.send_to(&answer, from)?;
        }
    });
}

/// Sends a question of `question_len` bytes for an answer of `answer_len` bytes, and checks the answer.
fn ask(from: &Namespace, to: SocketAddr, question_len: usize, answer_len: usize) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.run(move || UdpSocket::bind(any)).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a time");
    socket.connect(to).expect("connecting UDP sends nothing");
    let mut question = format!("{answer_len:8}").into_bytes();
    question.resize(question_len.max(8), b'?');
    let expected: Vec<u8> = (0..answer_len).map(|n| (n / 7) as u8).collect();
    let mut answer = [0; 10_000];
    wait_for(&format!("{answer_len} bytes of UDP for {question_len} from {to}"), || {
        socket.send(&question).is_ok()
            && socket.recv(&mut answer).is_ok_and(|len| answer[..len] == expected[..])
    });
}

const SIZES: [usize; 9] = [1200, 1422, 1423, 1440, 1472, 1473, 3000, 4096, 8000];

/// Datagrams of every size around the tunnel's MTU, questions and answers, out of a guest and from the Internet,
/// without the DF bit (as DNS, IKE, RADIUS and NFS send them); with IPv6 as well, whose senders get an error and
/// fragment by themselves.
#[test]
fn datagrams_without_df_arrive() {
    let Some(lab) = Lab::new() else { return };
    let f = DualStack::new(&lab);
    for host in [&f.inet, &f.ivm] {
        host.sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    }
    for (at, ask_at, from) in [
        (format!("{INTERNET_HOST}:53"), format!("{INTERNET_HOST}:53"), &f.ivm),
        ("192.168.1.2:53".to_owned(), format!("{PUBLIC}:53"), &f.inet),
        (format!("[{INTERNET_HOST6}]:53"), format!("[{INTERNET_HOST6}]:53"), &f.ivm),
        ("[fd01::2]:53".to_owned(), format!("[{PUBLIC6}]:53"), &f.inet),
    ] {
        let there = if std::ptr::eq(from, &raw const f.ivm) { &f.inet } else { &f.ivm };
        serve(there, at.parse().unwrap());
        for size in SIZES {
            ask(from, ask_at.parse().unwrap(), 40, size);
        }
        ask(from, ask_at.parse().unwrap(), 8000, 8000);
    }
    // With IPv4 no packet was too big, in either direction.
    let errors = f.one.json("status")["icmp_errors"]["too-big"].as_u64().unwrap();
    assert!(errors <= 2, "only IPv6 is told: {errors}");
    assert_conserved(&f.one.counters_at_rest());
    assert_conserved(&f.two.counters_at_rest());
}

/// The same where the rVMs' drivers carry GSO packets: a guest sends UDP with an unfinished checksum, the switch
/// fragments the packets, and every checksum on the wire is right.
#[test]
fn datagrams_without_df_arrive_by_packet_and_tap() {
    for lanes in [
        Lanes { uplinks: ["packet", "packet"], port: "packet" },
        Lanes { uplinks: ["packet", "udp"], port: "packet" },
    ] {
        let Some(lab) = Lab::new() else { return };
        let f = Figure4::new(&lab, Owner::Inside, lanes);
        f.ivm.ip("link set eth0 mtu 1500");
        for host in [&f.inet, &f.ivm] {
            host.sysctl("net/ipv4/ip_no_pmtu_disc", "1");
        }
        let wires = [Capture::start(&lab, &f.net, "r1", "ip"), Capture::start(&lab, &f.ivm, "eth0", "ip")];
        serve(&f.inet, format!("{INTERNET_HOST}:53").parse().unwrap());
        serve(&f.ivm, "192.168.1.2:53".parse().unwrap());
        for size in [1200, 1422, 1423, 1440, 1472, 3000, 4096, 8000] {
            ask(&f.ivm, format!("{INTERNET_HOST}:53").parse().unwrap(), size, size);
            ask(&f.inet, format!("{PUBLIC}:53").parse().unwrap(), size, size);
        }
        let [net, _] = wires.map(Capture::stop);
        net.assert_checksums_right(8);
        assert_conserved(&f.one.counters_at_rest());
        assert_conserved(&f.two.counters_at_rest());
    }
}
