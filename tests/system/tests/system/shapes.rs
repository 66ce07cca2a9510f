//! Frames that a local stack leaves unfinished, on interfaces that other tools made: the end of a veth in a guest or
//! container, which the switch cannot configure. Each arrives as the sender's kernel would have finished it, or is
//! dropped for a reason of its own, and a warning shows the remedy.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Output;
use std::time::Duration;

use system::{
    Capture, Lab, Namespace, RawSocket, Switch, transfer, try_transfer, udp_frame, vxlan, wait_for,
};

use crate::topology::{V4, finished, host, network, port, underlay_pair};

/// An rVM with two guests, each behind a veth that the test made.
struct Guests {
    rvm: Namespace,
    h1: Namespace,
    h2: Namespace,
    switch: Switch,
}

impl Guests {
    fn new(lab: &Lab, kind: &str) -> Self {
        let rvm = lab.namespace("rvm");
        let [h1, h2] = [1, 2].map(|n| {
            host(lab, &rvm, &format!("h{n}"), &[&format!("10.1.0.{n}/24"), &format!("fd01::{n}/64")])
        });
        // The kernel finishes everything towards the second guest, so its captures show the frames as on a wire.
        finished(&rvm, "p-h2");
        let port = |name| port(name, "private") + kind;
        let config = format!("name = \"rvm\"\n{}{}{}", network("private", 100), port("h1"), port("h2"));
        let switch = Switch::start(lab, &rvm, &config);
        switch.wait_live(&["h1", "h2"]);
        h1.reaches("10.1.0.2");
        h1.reaches("fd01::2");
        Self { rvm, h1, h2, switch }
    }

    /// Checks that every frame is accounted for, and that no port dropped one for its shape.
    #[track_caller]
    fn nothing_is_lost(&mut self) {
        self.switch.counters_at_rest();
        for (port, reason) in [("h1", "h2"), ("h2", "h1")].into_iter().flat_map(|(a, _)| {
            ["offload-invalid", "offload-unknown", "kernel-rx-unsaid", "kernel-rx-too-long", "too-big"]
                .map(|reason| (a, reason))
        }) {
            let drops = self.switch.drops(port, reason);
            assert_eq!(drops, 0, "{port}: {reason}\n{}", self.switch.ivctl("drops --samples").stdout);
        }
        self.switch.assert_running();
    }
}

const KINDS: [&str; 2] = ["kind = \"afxdp\"\n", "kind = \"packet\"\n"];

/// Makes a vxlan device over an interface of a guest, with addresses.
fn overlay(
    guest: &Namespace,
    (name, id, over): (&str, u8, &str),
    (local, remote): (&str, &str),
    flags: &str,
    n: u8,
) {
    // Two devices of one family with different checksum settings cannot share a port.
    let port = if id == 7 { 8472 } else { 4789 };
    guest.ip(&format!(
        "link add {name} type vxlan id {id} local {local} remote {remote} dstport {port} dev {over} {flags}"
    ));
    guest.ip(&format!("addr add 172.16.{id}.{n}/24 dev {name}"));
    guest.ip(&format!("addr add fd16:{id}::{n}/64 dev {name} nodad"));
    guest.ip(&format!("link set {name} up"));
}

fn both(guests: (&Namespace, &Namespace), tunnel: (&str, u8, &str), prefix: &str, flags: &str) {
    let at = |n: u8| format!("{prefix}{n}");
    overlay(guests.0, tunnel, (&at(1), &at(2)), flags, 1);
    overlay(guests.1, tunnel, (&at(2), &at(1)), flags, 2);
}

fn to(address: &str) -> SocketAddr {
    format!("{address}:80").replace("::2:80", "::2]:80").replace("fd", "[fd").parse().expect("an address")
}

/// Moves TCP of both families and UDP datagrams through an overlay. Every checksum is right where the second guest receives.
fn all_inside(lab: &Lab, g: &Guests, id: u8) {
    let arrived = Capture::start(lab, &g.h2, "eth0", "udp port 4789 or udp port 8472");
    let (four, six) = (format!("172.16.{id}.2"), format!("fd16:{id}::2"));
    g.h1.reaches(&four);
    for address in [four.as_str(), &six] {
        transfer(&g.h1, &g.h2, to(address), to(address), 1_000_000);
    }
    let any: SocketAddr = "0.0.0.0:5353".parse().unwrap();
    let receiver = g.h2.run(move || std::net::UdpSocket::bind(any)).expect("a free port");
    receiver.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let there: SocketAddr = format!("{four}:5353").parse().unwrap();
    let sender = g.h1.run(move || std::net::UdpSocket::bind(any)).expect("a free port");
    for len in [1, 300, 1400] {
        let sent: Vec<u8> = (0..len).map(|n| n as u8).collect();
        sender.send_to(&sent, there).expect("sending");
        let mut got = [0; 2000];
        let (count, _) = receiver.recv_from(&mut got).expect("a datagram with a right checksum");
        assert_eq!(&got[..count], sent);
    }
    arrived.stop().assert_checksums_right(1000);
}

/// Two guests run overlays over their NICs: over IPv4 and IPv6, with outer checksums and without, and one inside another.
fn an_overlay_of_the_guests(kind: &str) {
    let Some(lab) = Lab::new() else { return };
    let mut g = Guests::new(&lab, kind);
    let pair = (&g.h1, &g.h2);
    both(pair, ("v4", 4, "eth0"), "10.1.0.", "noudpcsum");
    both(pair, ("v4c", 5, "eth0"), "10.1.0.", "udpcsum");
    both(pair, ("v6", 6, "eth0"), "fd01::", "udp6zerocsumtx udp6zerocsumrx");
    both(pair, ("v6c", 7, "eth0"), "fd01::", "noudp6zerocsumtx");
    // The second and third level.
    both(pair, ("vv", 8, "v4c"), "172.16.5.", "noudpcsum");
    both(pair, ("vvv", 9, "vv"), "172.16.8.", "udpcsum");
    for id in 4..=9 {
        all_inside(&lab, &g, id);
    }
    g.nothing_is_lost();
}

#[test]
fn an_overlay_of_the_guests_by_afxdp() {
    an_overlay_of_the_guests(KINDS[0]);
}

#[test]
fn an_overlay_of_the_guests_by_packet() {
    an_overlay_of_the_guests(KINDS[1]);
}

/// A CMS runs an overlay over a door of ours, and it crosses our tunnel to another rVM.
fn an_overlay_over_a_door(door: &str, uplink: &str) {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    finished(&rvm, "eth0");
    finished(&far, "eth0");
    let config = |name: &str, (ours, other): (&str, &str), n: u8| {
        format!(
            "name = \"{name}\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{ours}\"\nkind = \"{uplink}\"\nport = 8472\n{}\
             [[port]]\nname = \"eth1\"\nnetwork = \"private\"\nkind = \"{door}\"\naddress = [\"10.1.0.{n}/24\"]\n\
             [[peer]]\nname = \"peer\"\naddress = \"{other}\"\n",
            network("private", 100),
        )
    };
    let mut one = Switch::start(&lab, &rvm, &config("one", (V4.ours, V4.far), 1));
    let mut two = Switch::start(&lab, &far, &config("two", (V4.far, V4.ours), 2));
    one.wait_live(&["eth1", "uplink"]);
    two.wait_live(&["eth1", "uplink"]);
    rvm.reaches("10.1.0.2");
    both((&rvm, &far), ("v4", 4, "eth1"), "10.1.0.", "noudpcsum");
    both((&rvm, &far), ("v4c", 5, "eth1"), "10.1.0.", "udpcsum");
    let emitted = Capture::start(&lab, &far, "eth0", "udp port 8472");
    let arrived = Capture::start(&lab, &far, "eth1", "udp port 4789");
    for address in ["172.16.4.2", "172.16.5.2", "fd16:4::2"] {
        transfer(&rvm, &far, to(address), to(address), 1_000_000);
    }
    if uplink != "afxdp" {
        // tcpdump decodes this port as OTV, which has the same layout.
        emitted.stop().assert_checksums_right(1000);
    }
    if door == "afxdp" {
        arrived.stop().assert_checksums_right(1000);
    }
    for switch in [&mut one, &mut two] {
        switch.counters_at_rest();
        for reason in ["offload-invalid", "offload-unknown", "kernel-rx-unsaid"] {
            assert_eq!(switch.drops("eth1", reason), 0, "{reason}");
        }
        switch.assert_running();
    }
}

#[test]
fn an_overlay_over_a_packet_door() {
    an_overlay_over_a_door("packet", "packet");
}

#[test]
fn an_overlay_over_an_afxdp_door() {
    an_overlay_over_a_door("afxdp", "afxdp");
}

#[test]
fn an_overlay_over_a_tap_door() {
    an_overlay_over_a_door("tap", "udp");
}

/// One's complement sum of 16-bit words.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

const OUTER: ([u8; 4], [u8; 4]) = ([10, 1, 0, 1], [10, 1, 0, 2]);
const INNER: ([u8; 4], [u8; 4]) = ([172, 20, 0, 1], [172, 20, 0, 2]);

fn ipv4((from, to): ([u8; 4], [u8; 4]), proto: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut header =
        [&[0x45, 0], &len.to_be_bytes()[..], &[0, 7, 0x40, 0, 64, proto, 0, 0], &from, &to].concat();
    let value = !sum(&header);
    header[10..12].copy_from_slice(&value.to_be_bytes());
    [header, payload.to_vec()].concat()
}

fn ipv6(proto: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, len[0], len[1], proto, 64][..], &[0xfd; 16], &[0xfc; 16], payload].concat()
}

fn udp(ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let words = [ports[0], ports[1], (8 + payload.len()) as u16, 0];
    [words.iter().flat_map(|w| w.to_be_bytes()).collect(), payload.to_vec()].concat()
}

/// A TCP segment with the checksum for these addresses.
fn tcp(addresses: &[u8]) -> Vec<u8> {
    let payload: Vec<u8> = (0..101).collect();
    let mut bytes =
        [&[0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0][..], &payload].concat();
    let pseudo = [addresses, &[0, 6], &(bytes.len() as u16).to_be_bytes(), &bytes].concat();
    let value = !sum(&pseudo);
    bytes[16..18].copy_from_slice(&value.to_be_bytes());
    bytes
}

/// RFC 9260 Appendix A, bit by bit.
fn sctp() -> Vec<u8> {
    let mut bytes =
        [&[0x30, 0x39, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, 3, 0, 20, 0, 0, 0, 1][..], &[0; 8], b"data"]
            .concat();
    let step = |crc: u32, _| if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    let crc = !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step));
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Finished frames of tunnels that this kernel lacks: name, bytes, start of the innermost transport header, and offset of its
/// checksum.
fn foreign(h1: &Namespace, h2: &Namespace) -> Vec<(&'static str, Vec<u8>, usize, u16)> {
    const TCP: (usize, u16) = (121, 16);
    const SCTP: (usize, u16) = (32, 8);
    let eth = |tag: &[u8], ethertype: u16, payload: &[u8]| {
        [&h2.mac("eth0"), &h1.mac("eth0"), tag, &ethertype.to_be_bytes()[..], payload].concat()
    };
    let ip = |payload: (u8, Vec<u8>)| eth(&[], 0x0800, &ipv4(OUTER, payload.0, &payload.1));
    let inner = ipv4(INNER, 6, &tcp(&[INNER.0, INNER.1].concat()));
    let inner6 = ipv6(6, &tcp(&[[0xfd; 16], [0xfc; 16]].concat()));
    let bridged = [&[2, 9, 0, 0, 0, 2, 2, 9, 0, 0, 0, 1, 8, 0][..], &inner].concat();
    let of = |name, frame: Vec<u8>, (len, offset): (usize, u16)| {
        let start = frame.len() - len;
        (name, frame, start, offset)
    };
    vec![
        of("IP in IP", ip((4, inner.clone())), TCP),
        of("IPv6 in IP", ip((41, inner6.clone())), TCP),
        of("GRE", ip((47, [&[0x20, 0, 8, 0, 0, 0, 0, 9][..], &inner].concat())), TCP),
        of("GRE of frames", ip((47, [&[0, 0, 0x65, 0x58][..], &bridged].concat())), TCP),
        of(
            "Geneve",
            ip((
                17,
                udp([50_000, 6081], &[&[1, 0, 0x65, 0x58, 0, 0, 9, 0, 1, 2, 3, 4][..], &bridged].concat()),
            )),
            TCP,
        ),
        of("IP in IP in UDP", ip((17, udp([50_000, 5555], &inner))), TCP),
        of("IPv6 in UDP", ip((17, udp([50_000, 5555], &inner6))), TCP),
        of("MPLS", eth(&[], 0x8847, &[&[0, 1, 0x11, 64][..], &inner].concat()), TCP),
        of(
            "VXLAN in IPv6",
            eth(&[], 0x86dd, &ipv6(17, &udp([50_000, 8472], &vxlan(8, 9, 0, &bridged)))),
            TCP,
        ),
        of("SCTP", ip((132, sctp())), SCTP),
        of("SCTP in a VLAN", eth(&[0x81, 0, 0, 10], 0x0800, &ipv4(OUTER, 132, &sctp())), SCTP),
        of(
            "SCTP in VXLAN",
            ip((17, udp([50_000, 4789], &vxlan(8, 9, 0, &eth(&[], 0x0800, &ipv4(INNER, 132, &sctp())))))),
            SCTP,
        ),
    ]
}

/// A kernel with other tunnels or with SCTP leaves these frames to a veth. They arrive finished, byte for byte.
fn shapes_of_other_kernels(kind: &str) {
    let Some(lab) = Lab::new() else { return };
    let mut g = Guests::new(&lab, kind);
    let raw = RawSocket::with_headers(&g.h1, "eth0");
    for (name, frame, start, offset) in foreign(&g.h1, &g.h2) {
        let mut unfinished = frame.clone();
        let at = start + usize::from(offset);
        if offset == 8 {
            unfinished[at..at + 4].fill(0);
        } else {
            // A finished segment sums up to the complement of its pseudo-header.
            let pseudo = !sum(&frame[start..]);
            unfinished[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        }
        assert_ne!(unfinished, frame, "{name}");
        let arrived = Capture::start(&lab, &g.h2, "eth0", &format!("ether src {}", mac_text(&g.h1)));
        raw.must_send_unfinished(&unfinished, start as u16, offset);
        // The same frame, finished by its sender.
        raw.must_send(&[&[0; 10][..], &frame].concat());
        g.h1.reaches("10.1.0.2");
        let len = frame.len();
        let frames: Vec<Vec<u8>> = arrived.frames().into_iter().filter(|f| f.len() == len).collect();
        assert_eq!(frames.iter().filter(|f| **f == frame).count(), 2, "{name}: {frames:02x?}");
    }
    g.nothing_is_lost();
}

fn mac_text(namespace: &Namespace) -> String {
    namespace.mac("eth0").map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn shapes_of_other_kernels_by_afxdp() {
    shapes_of_other_kernels(KINDS[0]);
}

#[test]
fn shapes_of_other_kernels_by_packet() {
    shapes_of_other_kernels(KINDS[1]);
}

/// A bridge in the guest keeps the VLAN tag outside the frame. The tag arrives inside: 802.1Q, and 802.1ad with 802.1Q.
fn tags_beside_the_frame(kind: &str) {
    let Some(lab) = Lab::new() else { return };
    let mut g = Guests::new(&lab, kind);
    let behind = lab.namespace("behind");
    lab.veth((&behind, "eth0"), (&g.h1, "b0"));
    g.h1.ip("link add name br0 type bridge");
    for port in ["b0", "eth0"] {
        g.h1.ip(&format!("link set {port} master br0"));
    }
    g.h1.ip("link set br0 up");
    let end = |ns: &Namespace, last| (ns.mac("eth0"), Ipv4Addr::new(10, 10, 0, last), 5000);
    let frames =
        [&[10][..], &[20, 30], &[]].map(|tags| udp_frame(end(&behind, 1), end(&g.h2, 2), tags, &[7; 100]));
    let arrived = Capture::start(&lab, &g.h2, "eth0", &format!("ether src {}", mac_text(&behind)));
    let raw = RawSocket::open(&behind, "eth0");
    let received = |g: &Guests| g.switch.json("status")["frames"]["rx"].as_u64().expect("a counter");
    let before = received(&g);
    for frame in &frames {
        for _ in 0..10 {
            raw.must_send(frame);
        }
    }
    wait_for("all frames", || received(&g) >= before + 30);
    let got = arrived.frames();
    for frame in &frames {
        assert_eq!(got.iter().filter(|f| *f == frame).count(), 10, "{frame:02x?}: {got:02x?}");
    }
    g.nothing_is_lost();
}

#[test]
fn tags_beside_the_frame_by_afxdp() {
    tags_beside_the_frame(KINDS[0]);
}

#[test]
fn tags_beside_the_frame_by_packet() {
    tags_beside_the_frame(KINDS[1]);
}

/// Enables BIG TCP in a guest, for both families.
fn allow_big_tcp(guest: &Namespace) {
    guest.ip("link set eth0 gso_max_size 200000");
    // On a slow machine the kernel would choose shorter ones.
    guest.sysctl("net/ipv4/tcp_min_tso_segs", "130");
    // The `ip` of Debian 12 cannot set the limit of IPv4.
    const SCRIPT: &str = "
import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
IFLA_GSO_IPV4_MAX_SIZE, RTM_SETLINK, REQUEST_ACK = 63, 19, 5
body = struct.pack('BxHiII', 0, 0, socket.if_nametoindex('eth0'), 0, 0) + struct.pack('HHI', 8, IFLA_GSO_IPV4_MAX_SIZE, 200000)
s.send(struct.pack('IHHII', 16 + len(body), RTM_SETLINK, REQUEST_ACK, 1, 0) + body)
error, = struct.unpack('i', s.recv(4096)[16:20])
assert error == 0, error";
    let Output { status, stderr, .. } =
        guest.command("python3").args(["-c", SCRIPT]).output().expect("running python3");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
}

/// BIG TCP: GSO packets of up to 200,000 bytes arrive as segments of the MTU, complete and in order.
fn big_tcp(kind: &str) {
    let Some(lab) = Lab::new() else { return };
    let mut g = Guests::new(&lab, kind);
    allow_big_tcp(&g.h1);
    let big = Capture::start(&lab, &g.rvm, "p-h1", "greater 65700");
    let arrived = Capture::start(&lab, &g.h2, "eth0", "tcp");
    for address in ["fd01::2", "10.1.0.2"] {
        transfer(&g.h1, &g.h2, to(address), to(address), 30_000_000);
    }
    let arrived = arrived.stop();
    arrived.assert_checksums_right(20_000);
    let came = big.frames().iter().map(|frame| [frame[12], frame[13]]).collect::<BTreeSet<_>>();
    // Native XDP makes the far end segment them. A busy machine may make none of one family.
    assert_eq!(came.is_empty(), kind == KINDS[0], "{came:?}");
    assert!(came.is_subset(&[[8, 0], [0x86, 0xdd]].into()), "{came:?}");
    g.nothing_is_lost();
}

#[test]
fn big_tcp_by_afxdp() {
    big_tcp(KINDS[0]);
}

#[test]
fn big_tcp_by_packet() {
    big_tcp(KINDS[1]);
}

/// The warning about this port that contains these words.
fn warned(g: &Guests, words: &str) -> Option<String> {
    let warnings = g.switch.json("status")["warnings"].clone();
    let mut texts = warnings.as_array().expect("warnings").iter().filter_map(|w| w.as_str());
    texts.find(|w| w.contains("port \"h1\"") && w.contains(words)).map(str::to_owned)
}

/// Checks the remedy that a warning names, and runs it at the far end.
fn do_it(g: &Guests, warning: &str) {
    assert!(warning.contains("`ethtool -K DEV (the other end of p-h1) tx off`"), "{warning}");
    let done = g.h1.command("ethtool").args(["-K", "eth0", "tx", "off"]).output().expect("running ethtool");
    assert!(done.status.success());
}

/// With XDP in generic mode the far end does not segment, and AF_XDP does not take GSO packets. A warning appears and
/// stays, and its remedy works.
#[test]
fn what_xdp_does_not_take_has_a_warning_and_a_remedy() {
    let Some(lab) = Lab::new() else { return };
    let mut g = Guests::new(&lab, "kind = \"afxdp\"\nxdp = \"generic\"\n");
    assert_eq!(warned(&g, ""), None);
    let there = to("10.1.0.2");
    let stuck = try_transfer(&g.h1, &g.h2, there, there, 10_000_000, Duration::from_secs(2));
    wait_for("a warning", || warned(&g, "kernel-rx-other").is_some());
    let listed = g.switch.ivctl("port list");
    assert!(listed.stderr.contains("kernel-rx-other"), "{stuck:?}: {listed:?}");
    do_it(&g, &warned(&g, "kernel-rx-other").expect("it stays"));
    transfer(&g.h1, &g.h2, there, there, 1_000_000);
    let count = || g.switch.drops("h1", "kernel-rx-other");
    // The daemon reads the counter once a second.
    let at_rest = || {
        let before = count();
        std::thread::sleep(Duration::from_millis(1500));
        count() == before
    };
    wait_for("the counter to rest", at_rest);
    let before = count();
    transfer(&g.h1, &g.h2, there, there, 1_000_000);
    wait_for("the counter to rest", at_rest);
    assert_eq!(count(), before);
    assert!(warned(&g, "kernel-rx-other").is_some(), "it stays as long as the port is open");
    g.switch.counters_at_rest();
    g.switch.assert_running();
}

/// SCTP in a tunnel of an unknown kind has an unfinished CRC that the switch cannot find. The frame has a drop reason of its
/// own, a warning appears and stays, and its remedy works.
#[test]
fn what_cannot_be_finished_has_a_warning_and_a_remedy() {
    let Some(lab) = Lab::new() else { return };
    let mut g = Guests::new(&lab, KINDS[1]);
    // The header is sixteen meaningless bytes.
    let eth = [&g.h2.mac("eth0")[..], &g.h1.mac("eth0"), &[8, 0]].concat();
    let carried = [&[0xf0; 16][..], &ipv4(INNER, 132, &sctp())].concat();
    let frame = [eth, ipv4(OUTER, 17, &udp([50_000, 7777], &carried))].concat();
    let start = (frame.len() - sctp().len()) as u16;
    let raw = RawSocket::with_headers(&g.h1, "eth0");
    raw.must_send_unfinished(&frame, start, 8);
    wait_for("its drop", || g.switch.drops("h1", "offload-unknown") == 1);
    do_it(&g, &warned(&g, "offload-unknown").expect("a warning"));
    let arrived = Capture::start(&lab, &g.h2, "eth0", "udp port 7777");
    raw.must_send_unfinished(&frame, start, 8);
    g.h1.reaches("10.1.0.2");
    assert_eq!(arrived.frames().len(), 1);
    assert_eq!(g.switch.drops("h1", "offload-unknown"), 1);
    assert!(warned(&g, "offload-unknown").is_some(), "it stays as long as the port is open");
    g.switch.counters_at_rest();
    g.switch.assert_running();
}

/// A kernel vxlan peer on the same machine hands its GSO packets to our UDP socket whole, with unfinished checksums and
/// without marks. TCP passes all the same.
#[test]
fn a_udp_uplink_beside_a_kernel() {
    let Some(lab) = Lab::new() else { return };
    let cloud = crate::topology::FarKernel::with_uplink(&lab, V4, false, "kind = \"udp\"\n");
    cloud.h1.reaches("10.1.0.2");
    finished(&cloud.rvm, "p-h1");
    let arrived = Capture::start(&lab, &cloud.h1, "eth0", "tcp");
    let six = "[fd01::1]:80".parse().unwrap();
    let back = "10.1.0.1:80".parse().unwrap();
    transfer(&cloud.h2, &cloud.h1, back, back, 3_000_000);
    transfer(&cloud.h2, &cloud.h1, six, six, 3_000_000);
    arrived.stop().assert_checksums_right(1000);
    cloud.switch.counters_at_rest();
    assert_eq!(cloud.switch.drops("uplink", "too-big"), 0);
    assert_eq!(cloud.switch.drops("uplink", "offload-unknown"), 0);
}
