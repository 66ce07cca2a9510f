//! The guards of guest ports against real receivers: the kernel's stacks and DHCP clients. Each forgery is first sent
//! from a door, where it is not checked, to show that the receiver believes it; then from a guest, to show that it
//! does not.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use system::{Capture, Lab, Namespace, RawSocket, Switch, udp_frame, wait_for, wait_until};

use crate::attacks::{BROADCAST, Victims, as_guest, frame, text, total_drops, victims};
use crate::topology::{host, network, port};

/// Forged ARP, neighbour discovery, router advertisements, DHCP answers and sources: none is delivered.
#[test]
fn t03_forged_frames_of_a_guest_are_not_delivered() {
    let Some(lab) = Lab::new() else { return };
    let Victims { h1, h3, h5, switch, raw, .. } = victims(&lab, as_guest, "");
    let (own, victim, target) = (h1.mac("eth0"), h5.mac("eth0"), h3.mac("eth0"));
    let arp = |op: u8, sender_mac: [u8; 6], sender: u8, wanted: u8| {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, op];
        arp.extend([&sender_mac[..], &[10, 1, 0, sender], &[0; 6], &[10, 1, 0, wanted]].concat());
        arp
    };
    let udp = |from: [u8; 6], source: [u8; 4], ports: (u16, u16)| {
        udp_frame((from, source.into(), ports.0), (BROADCAST, Ipv4Addr::BROADCAST, ports.1), &[], &[0; 300])
    };
    // ICMPv6 within IPv6: source, type, target or none, option with a link-layer address.
    let icmpv6 = |source: u8, kind: u8, named: u8, option: [u8; 6]| {
        let address = |last: u8| [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        let mut body = vec![kind, 0, 0, 0, 0x20, 0, 0, 0];
        body.extend(address(named));
        body.extend([2, 1]);
        body.extend(option);
        let mut packet = vec![0x60, 0, 0, 0, 0, body.len() as u8, 58, 255];
        packet.extend(address(source));
        packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend(body);
        frame([0x33, 0x33, 0, 0, 0, 1], own, 0x86dd, &packet)
    };
    let mut forged = Vec::new();
    for op in [1, 2] {
        for (sender_mac, sender) in [(own, 5), (own, 3), (own, 99), (victim, 1), (victim, 5)] {
            for to in [BROADCAST, target] {
                forged.push(frame(to, own, 0x0806, &arp(op, sender_mac, sender, 3)));
            }
            // Gratuitous.
            forged.push(frame(BROADCAST, own, 0x0806, &arp(op, sender_mac, sender, sender)));
        }
    }
    for (source, kind, named, option) in
        [(1, 136, 5, own), (1, 136, 1, victim), (5, 136, 5, own), (1, 134, 1, own), (5, 135, 3, own)]
    {
        forged.push(icmpv6(source, kind, named, option));
    }
    forged.push(udp(own, [10, 1, 0, 1], (67, 68)));
    forged.push(udp(own, [10, 1, 0, 5], (9, 9)));
    forged.push(udp(own, [0, 0, 0, 0], (9, 9)));
    forged.push(udp(own, [127, 0, 0, 1], (9, 9)));
    forged.push(udp(victim, [10, 1, 0, 5], (9, 9)));
    assert!(forged.len() >= 40, "{}", forged.len());
    // Its kernel stays silent, so that every frame in the capture is a forged one.
    h1.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
    let filter = format!("ether src {} or udp", text(own));
    let seen = [&h3, &h5].map(|victim| Capture::start(&lab, victim, "eth0", &filter));
    let before = total_drops(&switch, "h1");
    for (n, frame) in forged.iter().enumerate() {
        raw.must_send(frame);
        let counted = || total_drops(&switch, "h1") > before + n as u64;
        assert!(wait_until(Duration::from_secs(2), counted), "frame {n} is not refused: {frame:02x?}");
    }
    for seen in seen {
        assert_eq!(seen.stop().text(), "");
    }
    println!("t03: {} forged frames, 0 delivered", forged.len());
    h1.reaches("10.1.0.3");
}

/// The link-local address made from a MAC (RFC 4291 appendix A).
fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// A frame to an IPv6 group that carries a packet from `source`, whose first header is `next`.
fn six(mac: [u8; 6], source: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let [.., a, b, c, d] = to.octets();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 255]);
    packet.extend([source.octets(), to.octets()].concat());
    packet.extend(payload);
    frame([0x33, 0x33, a, b, c, d], mac, 0x86dd, &packet)
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// An ICMPv6 message with its checksum, between these addresses.
fn icmpv6(source: Ipv6Addr, to: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let mut message = body.to_vec();
    let pseudo =
        [&source.octets()[..], &to.octets(), &(body.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
    let words = pseudo.chunks(2).chain(body.chunks(2));
    let sum: u32 = words.map(|w| u32::from(u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    message
}

/// "I am a router for 1800 s, and fd66::/64 is on this link."
fn router_advertisement(mac: [u8; 6]) -> Vec<u8> {
    let mut body = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    body.extend(mac);
    body.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0, 0xfd, 0x66]);
    body.resize(body.len() + 14, 0);
    icmpv6(link_local(mac), ALL_NODES, &body)
}

/// "This address is at my MAC; I am a router; overwrite your entry."
fn advertisement(mac: [u8; 6], source: Ipv6Addr, target: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mut body = vec![136, 0, 0, 0, 0xa0, 0, 0, 0];
    body.extend(target.octets());
    body.extend([2, 1]);
    body.extend(mac);
    icmpv6(source, to, &body)
}

/// An extension header of eight bytes or more, filled with padding, in front of `next`.
fn padding(next: u8, units: u8) -> Vec<u8> {
    let mut header = vec![next, units, 1, 4 + 8 * units];
    header.resize(8 + 8 * usize::from(units), 0);
    header
}

/// A fragment of a packet: its first header, its offset in units of eight bytes, and whether more follow.
fn fragment(next: u8, place: u16, more: bool, part: &[u8]) -> Vec<u8> {
    [&[next, 0][..], &(place << 3 | u16::from(more)).to_be_bytes(), &[0, 0, 0, 7], part].concat()
}

/// The forms in which a guest's router advertisement might pass: behind extension headers, in an atomic fragment,
/// with its header in the first fragment or in the second.
fn routers_forms(mac: [u8; 6]) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let (own, ra) = (link_local(mac), router_advertisement(mac));
    let send = |next, payload: &[u8]| six(mac, own, ALL_NODES, next, payload);
    let chain = |units| [padding(58, units), ra.clone()].concat();
    let cut = |next: u8, whole: &[u8], at: usize| {
        let (first, second) = whole.split_at(at);
        vec![
            send(44, &fragment(next, 0, true, first)),
            send(44, &fragment(next, (at / 8) as u16, false, second)),
        ]
    };
    let tagged = |tags: &[[u8; 4]], bytes: Vec<u8>| [&bytes[..12], &tags.concat(), &bytes[12..]].concat();
    vec![
        ("plain", vec![send(58, &ra)]),
        ("behind destination options", vec![send(60, &chain(0))]),
        (
            "behind five headers",
            vec![send(
                0,
                &[padding(60, 1), padding(60, 0), padding(43, 0), padding(60, 2), chain(0)].concat(),
            )],
        ),
        ("in an atomic fragment", vec![send(44, &fragment(58, 0, false, &ra))]),
        ("in fragments", cut(58, &ra, 24)),
        ("with its header in the second fragment", cut(60, &chain(2), 24)),
        ("with half a header in the first", cut(60, &chain(1), 8)),
        ("in a priority tag", vec![tagged(&[[0x81, 0, 0, 0]], send(58, &ra))]),
        ("in two of them", vec![tagged(&[[0x88, 0xa8, 0, 0], [0x81, 0, 0, 0]], send(58, &ra))]),
        ("in four of them", vec![tagged(&[[0x81, 0, 0, 0]; 4], send(58, &ra))]),
    ]
}

/// Whether the host has a default route over IPv6.
fn has_router(host: &Namespace) -> bool {
    host.ip_json("-6 route show default").as_array().is_some_and(|routes| !routes.is_empty())
}

/// A guest advertises itself as the router of its segment, in every form that a receiver might accept. Its neighbours
/// get no default route; when a door does it, they do.
#[test]
fn t03_no_guest_becomes_the_router() {
    for guest in [false, true] {
        let Some(lab) = Lab::new() else { return };
        let attacker = |h1: &Namespace| if guest { as_guest(h1) } else { String::new() };
        let Victims { h1, h3, h5, switch, raw, .. } = victims(&lab, attacker, "");
        let mac = h1.mac("eth0");
        wait_for("the victims' link-local addresses", || {
            !h3.ip_json("-6 addr show dev eth0 scope link -tentative")[0].is_null()
        });
        let forms = routers_forms(mac);
        for (form, frames) in &forms[..if guest { forms.len() } else { 1 }] {
            let before = total_drops(&switch, "h1");
            frames.iter().for_each(|bytes| raw.must_send(bytes));
            if guest {
                wait_for(form, || total_drops(&switch, "h1") > before);
            }
        }
        let taken = wait_until(Duration::from_secs(if guest { 1 } else { 10 }), || has_router(&h3));
        assert_eq!(taken, !guest, "{}", switch.ivctl("drops").stdout);
        assert_eq!(has_router(&h5), !guest);
        if guest {
            println!("t03: {} forms of a router advertisement, none believed", forms.len());
        }
    }
}

/// A guest claims the router's link-local address by neighbour advertisement. The victim's neighbour cache
/// keeps the router's MAC; when a door does it, the cache takes the attacker's.
#[test]
fn t03_no_guest_owns_the_routers_address() {
    for guest in [false, true] {
        let Some(lab) = Lab::new() else { return };
        let attacker = |h1: &Namespace| if guest { as_guest(h1) } else { String::new() };
        let Victims { h1, h3: router, h5: victim, switch, raw, .. } = victims(&lab, attacker, "");
        router.ip("addr add fe80::1/64 dev eth0 nodad");
        victim.reaches("fe80::1%eth0");
        let (mac, target) = (h1.mac("eth0"), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
        let to = link_local(victim.mac("eth0"));
        for source in [link_local(mac), target, Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1)] {
            for group in [ALL_NODES, to] {
                let mut bytes = six(mac, source, group, 58, &advertisement(mac, source, target, group));
                if group == to {
                    bytes[..6].copy_from_slice(&victim.mac("eth0"));
                }
                raw.must_send(&bytes);
            }
        }
        let at = || {
            let neighbors = victim.ip_json("-6 neigh show dev eth0");
            let rows = neighbors.as_array().expect("rows");
            rows.iter()
                .find(|row| row["dst"] == "fe80::1")
                .map(|row| row["lladdr"].as_str().unwrap_or("").to_owned())
        };
        if guest {
            wait_for("six refusals", || total_drops(&switch, "h1") >= 6);
            assert_eq!(at(), Some(text(router.mac("eth0"))), "{}", switch.ivctl("drops").stdout);
        } else {
            wait_for("the attacker's MAC", || at() == Some(text(mac)));
        }
    }
}

/// A guest asks for, claims and defends an address that its neighbour is about to take, over IPv6 and IPv4. The
/// neighbour's duplicate address detection finds the address free; when a door does it, it finds the address in use.
#[test]
fn t03_no_guest_keeps_another_from_its_address() {
    for guest in [false, true] {
        let Some(lab) = Lab::new() else { return };
        let attacker = |h1: &Namespace| if guest { as_guest(h1) } else { String::new() };
        let Victims { h1, h3, switch, raw, h5: _h5, .. } = victims(&lab, attacker, "");
        let (mac, target) = (h1.mac("eth0"), Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0x55));
        let solicited = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x55);
        let probe = icmpv6(
            Ipv6Addr::UNSPECIFIED,
            solicited,
            &[&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat(),
        );
        let mut attacks = vec![
            six(mac, Ipv6Addr::UNSPECIFIED, solicited, 58, &probe),
            six(mac, link_local(mac), ALL_NODES, 58, &advertisement(mac, link_local(mac), target, ALL_NODES)),
        ];
        // RFC 5227: another host probes for the address, and another claims it.
        for (op, sender) in [(1, [0; 4]), (1, [10, 1, 0, 55]), (2, [10, 1, 0, 55])] {
            let mut arp = vec![0, 1, 8, 0, 6, 4, 0, op];
            arp.extend([&mac[..], &sender, &[0; 6], &[10, 1, 0, 55]].concat());
            attacks.push(frame(BROADCAST, mac, 0x0806, &arp));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let attacking = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                attacks.iter().for_each(|bytes| raw.must_send(bytes));
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        std::thread::sleep(Duration::from_millis(100));
        h3.ip("addr add fd01::55/64 dev eth0");
        let arping =
            h3.command("arping").args(["-D", "-c", "3", "-w", "4", "-I", "eth0", "10.1.0.55"]).output();
        let arping = arping.expect("running arping");
        let state = || {
            let addresses = h3.ip_json("-6 addr show dev eth0 to fd01::55");
            let info = &addresses[0]["addr_info"][0];
            (info["tentative"] == true, info["dadfailed"] == true)
        };
        wait_for("the end of the detection", || state() != (true, false));
        stop.store(true, Ordering::Relaxed);
        attacking.join().unwrap();
        assert_eq!(state(), (!guest, !guest), "{}", switch.ivctl("drops").stdout);
        assert_eq!(arping.status.success(), guest, "{}", String::from_utf8_lossy(&arping.stdout));
    }
}

/// A DHCP server that answers from port 6767, immediately and with itself as router, until `stop` is set.
fn rogue(attacker: &Namespace, raw: RawSocket, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u32> {
    let mac = attacker.mac("eth0");
    attacker.spawn(move || {
        let socket = UdpSocket::bind("0.0.0.0:67").expect("the port of DHCP servers");
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (mut question, mut asked) = ([0; 1500], 0);
        while !stop.load(Ordering::Relaxed) {
            let Ok((len, _)) = socket.recv_from(&mut question) else { continue };
            let kind = question[..len].windows(3).find(|w| w[..2] == [53, 1]).map_or(0, |w| w[2]);
            asked += 1;
            let mut answer = vec![0; 240];
            answer[..4].copy_from_slice(&[2, 1, 6, 0]);
            answer[4..8].copy_from_slice(&question[4..8]);
            answer[16..20].copy_from_slice(&[10, 1, 0, 99]);
            answer[28..34].copy_from_slice(&question[28..34]);
            answer[236..240].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
            answer.extend([53, 1, if kind == 1 { 2 } else { 5 }, 54, 4, 10, 1, 0, 1, 51, 4, 0, 0, 2, 88]);
            answer.extend([1, 4, 255, 255, 255, 0, 3, 4, 10, 1, 0, 1, 255]);
            answer.resize(300, 0);
            let from = (mac, Ipv4Addr::new(10, 1, 0, 1), 6767);
            raw.must_send(&udp_frame(from, (BROADCAST, Ipv4Addr::BROADCAST, 68), &[], &answer));
        }
        asked
    })
}

/// A guest answers its neighbours' DHCP questions, from a port that is not a server's. The neighbour's client ignores
/// the answer; when a door sends it, the client takes the lease.
#[test]
fn t03_no_guest_leases_addresses() {
    for guest in [false, true] {
        let Some(lab) = Lab::new() else { return };
        let attacker = |h1: &Namespace| if guest { as_guest(h1) } else { String::new() };
        let Victims { h1, h3, switch, raw, h5: _h5, .. } = victims(&lab, attacker, "");
        let stop = Arc::new(AtomicBool::new(false));
        let rogue = rogue(&h1, raw, stop.clone());
        let mut client = h3.command("busybox");
        client.args(["udhcpc", "-f", "-q", "-n", "-t", "4", "-T", "1", "-i", "eth0", "-s", "/bin/true"]);
        let output = client.output().expect("running udhcpc");
        stop.store(true, Ordering::Relaxed);
        let asked = rogue.join().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(asked >= 2, "the rogue was asked {asked} times: {said}");
        assert_eq!(output.status.success(), !guest, "{said}");
        assert_eq!(switch.drops("h1", "dhcp-server-guard") >= u64::from(asked), guest);
    }
}

/// Two guests with the kernel's own stack, bound to their addresses: packets of 4000 bytes pass between them in
/// fragments, over IPv4 and IPv6. An opaque link-local address, as NetworkManager makes it, works where the port
/// allows it, from the end of duplicate address detection on, and over a restart of the switch; on other ports it
/// does not.
#[test]
fn bound_guests_speak_in_fragments_and_from_opaque_addresses() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let guests = [1, 2]
        .map(|n| host(&lab, &rvm, &format!("g{n}"), &[&format!("10.1.0.{n}/24"), &format!("fd01::{n}/64")]));
    let router = host(&lab, &rvm, "h3", &["fe80::1/64"]);
    let bound = |n: usize, more: &str| {
        let mac = text(guests[n - 1].mac("eth0"));
        port(&format!("g{n}"), "private")
            + &format!("role = \"guest\"\nmac = [\"{mac}\"]\nip = [\"10.1.0.{n}\", \"fd01::{n}\"]\n{more}")
    };
    let config = network("private", 100)
        + &bound(1, "link_local = \"stable-privacy\"\n")
        + &bound(2, "")
        + &port("h3", "private");
    let mut switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["g1", "g2", "h3"]);
    guests[0].reaches_with("10.1.0.2", "-s 4000");
    guests[0].reaches_with("fd01::2", "-s 4000");
    for guest in &guests {
        guest.ip("link set eth0 down");
        // A random one (IN6_ADDR_GEN_MODE_RANDOM), which is as opaque as one of RFC 7217.
        guest.sysctl("net/ipv6/conf/eth0/addr_gen_mode", "3");
        guest.ip("link set eth0 up");
    }
    guests[0].reaches("fe80::1%eth0");
    assert_eq!(guests[1].ping("-c3 -i0.3 -W1 fe80::1%eth0"), 0, "it was not allowed");
    // The restarted switch has lost its state; the guest, which notices nothing, does not probe its address again.
    switch.kill();
    switch.start_again();
    switch.wait_live(&["g1", "g2", "h3"]);
    guests[0].reaches("fe80::1%eth0");
    router.reaches(&format!("{}%eth0", opaque_address(&guests[0])));
    switch.counters_at_rest();
}

fn opaque_address(guest: &Namespace) -> String {
    let addresses = guest.ip_json("-6 addr show dev eth0 scope link");
    addresses[0]["addr_info"][0]["local"].as_str().expect("a link-local address").to_owned()
}

/// Two ports with one MAC or one address are refused with both names and a remedy, by `ivctl` and in a drop-in; the
/// running configuration stays in force.
#[test]
fn t03_no_port_is_given_anothers_address() {
    let Some(lab) = Lab::new() else { return };
    let Victims { h1, h3, switch, h5: _h5, .. } = victims(&lab, as_guest, "");
    let mac = text(h1.mac("eth0"));
    let add = |mac: &str, ip: &str| {
        let interface = "--interface p-none --role guest";
        switch.ivctl(&format!("--no-wait port add evil --network private {interface} --mac {mac} --ip {ip}"))
    };
    for (mac, ip, what) in
        [(mac.as_str(), "10.1.0.77", mac.as_str()), ("06:00:00:00:00:77", "10.1.0.0/24", "10.1.0.1")]
    {
        let answer = add(mac, ip);
        assert_eq!(answer.code, 4, "{}{}", answer.stdout, answer.stderr);
        for word in ["port \"evil\"", "port \"h1\"", what, "shared_"] {
            assert!(answer.stderr.contains(word), "{word}: {}", answer.stderr);
        }
    }
    let directory = switch.config().with_extension("toml.d");
    std::fs::create_dir_all(&directory).unwrap();
    let drop_in = format!(
        "[[port]]\nname = \"evil\"\nnetwork = \"private\"\nrole = \"guest\"\ninterface = \"p-none\"\nmac = [\"{mac}\"]\n"
    );
    std::fs::write(directory.join("evil.toml"), drop_in).unwrap();
    switch.reload();
    let refused = || switch.log().contains("also belongs to port \"h1\"");
    wait_for("the refusal", refused);
    h1.reaches("10.1.0.3");
    drop(h3);
}
