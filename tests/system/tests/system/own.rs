//! The provider maps a public address to the rVM's *only* address (Figure 4 of the Inception paper to the letter).
//! Answers to packets that the rVM itself sends from there still reach it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use system::{Lab, Namespace, Session, Switch, transfer, wait_for};

use crate::floating_ip::{INTERNET_HOST, PUBLIC, at, reality, udp_answers};
use crate::topology::{V6, finished, host, network, port, underlay_pair};

/// An rVM with one address, which is also its VTEP and the reality address; the iVM of the floating IP runs on it. `rvm2`
/// is a neighbour on the provider's network, without a switch.
struct OneAddress {
    inet: Namespace,
    net: Namespace,
    rvm1: Namespace,
    rvm2: Namespace,
    ivm: Namespace,
    config: String,
}

impl OneAddress {
    fn new(lab: &Lab, kind: &str, rest: &str) -> Self {
        let (inet, net, rvm1, rvm2) = reality(lab);
        let ivm = host(lab, &rvm1, "ivm", &["192.168.1.2/24"]);
        ivm.ip("route add default via 192.168.1.1");
        let config = format!(
            "name = \"rvm1\"\n[uplink]\ninterface = \"eth0\"\naddress = \"10.0.0.11\"\nkind = \"{kind}\"\n\
             {}{}gateway = [\"192.168.1.1\"]\n{}\
             [[floating]]\nip = \"{PUBLIC}\"\nnetwork = \"public\"\ngateway = \"rvm1\"\nreality = \"10.0.0.11\"\n\
             inside = {{ network = \"private\", address = \"192.168.1.2\" }}\n{rest}",
            network("public", 200),
            network("private", 100),
            port("ivm", "private"),
        );
        Self { inet, net, rvm1, rvm2, ivm, config }
    }
}

/// Asks one question from an unconnected socket; gives the answer. Retried, since UDP may be lost.
fn asks(client: &Namespace, bind: SocketAddr, server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let question = question.to_vec();
    client.run(move || {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
        let mut answer = [0; 2000];
        for _ in 0..10 {
            socket.send_to(&question, server).ok()?;
            if let Ok((len, _)) = socket.recv_from(&mut answer) {
                return Some(answer[..len].to_vec());
            }
        }
        None
    })
}

/// A name server that answers 192.0.2.7 for every name (RFC 1035).
fn name_server(at_host: &Namespace, address: SocketAddr) {
    let socket = at_host.run(move || UdpSocket::bind(address)).expect("a free port");
    at_host.spawn(move || -> io::Result<()> {
        let mut bytes = [0; 512];
        loop {
            let (len, from) = socket.recv_from(&mut bytes)?;
            let Some(name) = bytes[12..len].iter().position(|&byte| byte == 0) else { continue };
            // The header and the question, then one answer about the name at offset 12, unless the question is for an IPv6 address.
            let question = &bytes[..12 + name + 5];
            let count = u8::from(question[question.len() - 3] == 1);
            let mut answer = question.to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
            if count == 1 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            }
            socket.send_to(&answer, from)?;
        }
    });
}

/// The answer of the machine's own resolver for a name, with this name server.
fn resolves(namespace: &Namespace, server: &str) -> String {
    let script = format!(
        "echo nameserver {server} > /run/ivs-resolv && mount --bind /run/ivs-resolv /etc/resolv.conf && \
         getent ahostsv4 own.example"
    );
    let inside = format!("mount -t tmpfs none /run && {script}");
    let output =
        namespace.command("unshare").args(["-m", "sh", "-c", &inside]).output().expect("running unshare");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// TCP both ways simultaneously, with the same far host and port, by the iVM through the floating IP and by the rVM
/// itself; to and from a neighbour; UDP, DNS, ping, large pings, ICMP errors. Packets to a port on which the rVM
/// merely listens are the floating IP's.
fn own_connections_stay_own(kind: &str) {
    let Some(lab) = Lab::new() else { return };
    let f = OneAddress::new(&lab, kind, "except = [\"tcp/22\", \"tcp/5672\"]\n");
    let OneAddress { inet, rvm1, rvm2, ivm, .. } = &f;
    let mut switch = Switch::start(&lab, rvm1, &f.config);
    inet.reaches(PUBLIC);

    // All sessions run together: from the iVM and from the rVM to one server, to the iVM, to and from a neighbour.
    let server = at(INTERNET_HOST, 8000);
    let listener = inet.run(move || TcpListener::bind(server)).expect("a free port");
    inet.spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    let sessions = [
        ("iVM to the Internet", Session::with(ivm, server)),
        ("rVM to the same", Session::with(rvm1, server)),
        ("Internet to the iVM", Session::start(inet, ivm, at(PUBLIC, 80), at("192.168.1.2", 80))),
        ("rVM to its neighbour", Session::start(rvm1, rvm2, at("10.0.0.12", 16509), at("10.0.0.12", 16509))),
        ("neighbour to the rVM", Session::start(rvm2, rvm1, at("10.0.0.11", 5672), at("10.0.0.11", 5672))),
    ];
    sessions.iter().for_each(|(what, session)| session.assert_alive(what));
    transfer(rvm1, inet, at(INTERNET_HOST, 81), at(INTERNET_HOST, 81), 3_000_000);
    transfer(ivm, inet, at(INTERNET_HOST, 81), at(INTERNET_HOST, 81), 3_000_000);

    // UDP by an unconnected socket, and by the resolver's, which is connected.
    name_server(inet, at(INTERNET_HOST, 53));
    let query = b"\x69\x76\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03own\x07example\x00\x00\x01\x00\x01";
    for client in [rvm1, ivm] {
        let answer = asks(client, at("0.0.0.0", 0), at(INTERNET_HOST, 53), query).expect("an answer");
        assert_eq!((&answer[..2], &answer[answer.len() - 4..]), (&b"iv"[..], &[192, 0, 2, 7][..]));
        let said = resolves(client, INTERNET_HOST);
        assert!(said.contains("192.0.2.7"), "{said}");
    }
    // A socket that listens on every address has sent nothing: the floating IP's traffic does not belong to it.
    let wildcard = rvm1.run(|| UdpSocket::bind("0.0.0.0:7777")).expect("a free port");
    udp_answers(inet, ivm, at(PUBLIC, 7777), at("192.168.1.2", 7777));
    wildcard.set_nonblocking(true).expect("a socket");
    assert!(wildcard.recv(&mut [0; 9]).is_err(), "the listener got what was the floating IP's");
    // The same holds for a service that merely listens.
    let service = rvm1.run(|| TcpListener::bind("0.0.0.0:5000")).expect("a free port");
    service.set_nonblocking(true).expect("a socket");
    inet.run(|| {
        TcpStream::connect_timeout(&at(PUBLIC, 5000), Duration::from_secs(2)).expect_err("a connection")
    });
    assert!(service.accept().is_err(), "the service got what was the floating IP's");

    // A trace begins with the steering, and ends there where the kernel takes the packet.
    let walk = |to: &str| {
        let trace = format!("trace --from uplink --src {INTERNET_HOST} --to 10.0.0.11 {to}");
        let traced = switch.json(&trace)[0]["walk"].clone();
        (traced["verdict"].clone(), traced["steps"].as_array().expect("steps").clone())
    };
    for service in ["tcp --dport 22", "tcp --dport 5672"] {
        let (verdict, steps) = walk(service);
        assert_eq!((verdict, steps.len()), ("to the rVM's kernel".into(), 1), "{service}");
        let command = format!("trace --from uplink --src {INTERNET_HOST} --to 10.0.0.11 {service}");
        assert_eq!(switch.ivctl(&command).code, 0);
    }
    let (verdict, steps) = walk("tcp --dport 80");
    assert_eq!(steps[0]["stage"], "steer");
    assert!(steps[0]["text"].as_str().is_some_and(|text| text.contains("unless it answers")), "{steps:?}");
    assert!(verdict.as_str().is_some_and(|verdict| verdict.ends_with("to ivm")), "{verdict}");

    // Echoes, told apart by their identifiers, complete and in fragments, at the same time as the iVM's.
    let pinging = ivm.clone();
    let others = std::thread::spawn(move || pinging.ping(&format!("-c20 -i0.1 -W1 {INTERNET_HOST}")));
    rvm1.reaches(INTERNET_HOST);
    rvm1.reaches_with(INTERNET_HOST, "-s 4000");
    assert_eq!(others.join().expect("ping"), 20);
    inet.reaches(PUBLIC);
    // ICMP errors about packets that the rVM sent: from a router on the way, and for a closed port.
    let ping =
        rvm1.command("ping").args(["-c1", "-W2", "-t1", INTERNET_HOST]).output().expect("running ping");
    let said = String::from_utf8_lossy(&ping.stdout).into_owned();
    assert!(said.contains("Time to live exceeded"), "{said}");
    let refused = rvm1.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(at(INTERNET_HOST, 4444))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send(b"?")?;
        socket.recv(&mut [0; 9])
    });
    assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused));

    for (what, session) in sessions {
        session.assert_alive(what);
        session.finish();
    }
    let steered = switch.json("status")["steered"].clone();
    assert!(steered["own"].as_u64() > Some(100) && steered["own_unknown"] == "", "{steered}");
    switch.assert_running();
    switch.counters_at_rest();
}

#[test]
fn own_connections_stay_own_by_afxdp() {
    own_connections_stay_own("afxdp");
}

#[test]
fn own_connections_stay_own_by_packet() {
    own_connections_stay_own("packet");
}

/// A silent connection of the rVM that is older than the switch. After the start, and after each restart, the far
/// end speaks first: its packet reaches the rVM. Over both families.
#[test]
fn silent_connections_from_before_stay_own() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V6);
    far.reaches(V6.ours);
    let listener = far.run(|| TcpListener::bind(at(&format!("[{}]", V6.far), 5672))).expect("a free port");
    let mut client =
        rvm.run(|| TcpStream::connect(at(&format!("[{}]", V6.far), 5672))).expect("a connection");
    let (mut server, _) = listener.accept().expect("a connection");
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
    let config = format!(
        "name = \"rvm\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{}\"\n\
         [[network]]\nname = \"public\"\nvni = 200\ngateway = [\"fd00:2::1\"]\n\
         [[floating]]\nip = \"2001:db8:56::11\"\nnetwork = \"public\"\ngateway = \"rvm\"\nreality = \"{}\"\n",
        V6.ours, V6.ours
    );
    let mut switch = Switch::start(&lab, &rvm, &config);
    for _ in 0..3 {
        switch.wait_live(&["uplink"]);
        server.write_all(b"still there?").expect("a connection");
        let mut heard = [0; 12];
        client.read_exact(&mut heard).expect("what the far end says first");
        assert_eq!(&heard, b"still there?");
        // New connections work as well.
        let there = at(&format!("[{}]", V6.far), 80);
        transfer(&rvm, &far, there, there, 100_000);
        rvm.reaches(V6.far);
        rvm.reaches_with(V6.far, "-s 4000");
        assert_eq!(
            far.ping(&format!("-c2 -i0.1 -W1 {}", V6.ours)),
            0,
            "an echo request is the floating IP's"
        );
        switch.kill();
        switch.start_again();
    }
}

/// One and the same five-tuple: the kernel already forwards packets from the Internet to the iVM by the cache, when
/// the rVM itself sends in that flow. From then on the flow is the rVM's, in spite of the cache.
#[test]
fn of_the_same_ports_the_rvm_goes_first() {
    let Some(lab) = Lab::new() else { return };
    let f = OneAddress::new(&lab, "afxdp", "");
    let OneAddress { inet, net, rvm1, ivm, .. } = &f;
    for (namespace, interface) in [(inet, "eth0"), (net, "r1"), (ivm, "eth0")] {
        finished(namespace, interface);
    }
    for (namespace, interface) in [(net, "r1"), (ivm, "eth0")] {
        let done = namespace.command("ethtool").args(["-K", interface, "gro", "on"]).status();
        assert!(done.expect("running ethtool").success());
    }
    let switch = Switch::start(&lab, rvm1, &f.config);
    inet.reaches(PUBLIC);
    let bound = |namespace: &Namespace, address: SocketAddr| {
        let socket = namespace.run(move || UdpSocket::bind(address)).expect("a free port");
        socket.set_nonblocking(true).expect("a socket");
        socket
    };
    let asker = bound(inet, at(INTERNET_HOST, 5000));
    let guest = bound(ivm, at("192.168.1.2", 6000));
    let hits = || switch.json("status")["cache"]["hits"].as_u64().expect("a counter");
    let heard = |socket: &UdpSocket| std::iter::from_fn(|| socket.recv(&mut [0; 64]).ok()).count();
    let before = hits();
    wait_for("the flow to be followed in the kernel", || {
        for _ in 0..50 {
            let _ = asker.send_to(b"hot", at(PUBLIC, 6000));
        }
        std::thread::sleep(Duration::from_millis(20));
        hits() > before + 500
    });
    assert!(heard(&guest) > 100, "as many as its socket holds");
    let own = bound(rvm1, at("10.0.0.11", 6000));
    own.send_to(b"mine", at(INTERNET_HOST, 5000)).expect("sending");
    std::thread::sleep(Duration::from_millis(50));
    heard(&guest);
    for _ in 0..200 {
        let _ = asker.send_to(b"for the rVM", at(PUBLIC, 6000));
    }
    wait_for("the rVM's packets", || switch.json("status")["steered"]["own"].as_u64() >= Some(200));
    assert!(heard(&own) > 100, "as many as its socket holds");
    assert_eq!(heard(&guest), 0, "the iVM got what was the rVM's");
    // The iVM cannot speak in the rVM's place either: it cannot open a connection with the same ports.
    let listener = inet.run(|| TcpListener::bind(at(INTERNET_HOST, 8000))).expect("a free port");
    let connects = |namespace: &Namespace| {
        namespace.run(|| -> io::Result<TcpStream> {
            use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            sockopt::set_tcp_user_timeout(&socket, 3000)?;
            bind(&socket, &at("0.0.0.0", 40_000))?;
            connect(&socket, &at(INTERNET_HOST, 8000))?;
            Ok(TcpStream::from(socket))
        })
    };
    let mut mine = connects(rvm1).expect("a connection");
    let before = switch.drops("ivm", "own-connection");
    assert!(connects(ivm).is_err(), "the iVM got into the rVM's connection");
    assert!(switch.drops("ivm", "own-connection") > before);
    let (mut other, _) = listener.accept().expect("the rVM's connection");
    other.write_all(b"yours").expect("a connection");
    let mut heard = [0; 5];
    mine.read_exact(&mut heard).expect("an answer");
    assert_eq!(&heard, b"yours");
}
