//! The verdict cache on real interfaces: hot flows are forwarded in the kernel, every counter stays exact, and no
//! packet follows a verdict that no longer holds.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use system::{Lab, Namespace, RawSocket, Switch, transfer, udp_frame, wait_for};

use crate::topology::{FarKernel, V4, host, network, port};

const ONE_WORKER: &str = "cache = \"auto\"\n";
const TWO_WORKERS: &str = "cache = \"auto\"\n[workers]\ncount = 2\n";
/// Flows are followed by XDP, and by tc.
const ALL: [(&str, &str); 3] = [(ONE_WORKER, "afxdp"), (TWO_WORKERS, "afxdp"), (TWO_WORKERS, "packet")];
/// A door next to a NIC: tc follows flows in one direction only.
const MIXED: [(&str, [&str; 2]); 1] = [(ONE_WORKER, ["packet", "afxdp"])];
const STATION: [u8; 6] = [2, 0, 0, 0, 1, 9];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 9);

/// A host that the kernel can redirect frames to: its end of the veth has NAPI.
fn napi_host(lab: &Lab, rvm: &Namespace, name: &str, address: &str) -> Namespace {
    let host = host(lab, rvm, name, &[address]);
    takes_redirected(&host, "eth0");
    rvm.sysctl(&format!("net/ipv6/conf/p-{name}/disable_ipv6"), "1");
    host.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
    host
}

fn takes_redirected(namespace: &Namespace, interface: &str) {
    let done = namespace.command("ethtool").args(["-K", interface, "gro", "on"]).status();
    assert!(done.expect("running ethtool").success(), "ethtool -K {interface} gro on");
}

/// Frames that followed a verdict in the kernel.
fn hits(switch: &Switch) -> u64 {
    switch.json("status")["cache"]["hits"].as_u64().expect("a counter")
}

fn wait_followed(switch: &Switch) {
    let before = hits(switch);
    wait_for("frames to be followed in the kernel", || hits(switch) > before);
}

/// Packets that an interface has sent and received, by the kernel's counters.
fn kernel_counts(namespace: &Namespace) -> (u64, u64) {
    let stats = &namespace.ip_json("link show eth0")[0]["stats64"];
    let count = |way: &str| stats[way]["packets"].as_u64().expect("a counter");
    (count("tx"), count("rx"))
}

fn switch_counts(status: &serde_json::Value, port: &str) -> (u64, u64) {
    let rows = status["ports"].as_array().expect("ports");
    let stats = &rows.iter().find(|row| row["ifname"] == port).expect("the port")["stats64"];
    let count = |way: &str| stats[way]["packets"].as_u64().expect("a counter");
    (count("rx"), count("tx"))
}

/// A stream of numbered UDP packets, about ten thousand a second.
struct Stream {
    stop: Arc<AtomicBool>,
    /// All packets up to this number have been sent.
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    fn start(from: &Namespace, frame: impl Fn(u64) -> Vec<u8> + Send + 'static) -> Self {
        let raw = RawSocket::open(from, "eth0");
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), sent.clone());
        let thread = from.spawn(move || {
            for n in 1.. {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // A full queue in the kernel is expected here.
                let _ = raw.send(&frame(n));
                count.store(n, Ordering::SeqCst);
                if n % 8 == 0 {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    /// Packets with higher numbers are sent after now. The next one may already be on its way.
    fn now(&self) -> u64 {
        self.sent.load(Ordering::SeqCst) + 1
    }

    fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("not finished yet").join().expect("the stream");
        self.sent.load(Ordering::SeqCst)
    }
}

/// A receiver of numbered packets.
struct Sink {
    socket: UdpSocket,
    last: u64,
    count: u64,
}

impl Sink {
    fn new(at: &Namespace, address: SocketAddr) -> Self {
        let socket = at.run(move || UdpSocket::bind(address)).expect("a free port");
        socket.set_nonblocking(true).expect("a socket");
        Self { socket, last: 0, count: 0 }
    }

    /// Reads the packets that have arrived.
    fn read(&mut self) {
        let mut bytes = [0; 64];
        while let Ok((8.., _)) = self.socket.recv_from(&mut bytes) {
            self.last = self.last.max(u64::from_be_bytes(*bytes.first_chunk().expect("eight bytes")));
            self.count += 1;
        }
    }

    /// Waits until packets after `number` arrive here, and fails the test if that takes too long.
    fn wait_past(&mut self, number: u64) {
        wait_for("packets to arrive at the new place", || {
            self.read();
            self.last > number + 100
        });
    }
}

fn port_of(name: &str, kind: &str) -> String {
    port(name, "private") + &format!("kind = \"{kind}\"\n")
}

/// One switch with hosts 1, 2 and 3; the latter two have the same address, MAC and IP.
fn moving(lab: &Lab, settings: &str, kind: &str) -> (Switch, [Namespace; 3]) {
    let rvm = lab.namespace("rvm");
    let hosts = [
        napi_host(lab, &rvm, "h1", "10.1.0.1/24"),
        napi_host(lab, &rvm, "h2", "10.1.0.9/24"),
        napi_host(lab, &rvm, "h3", "10.1.0.9/24"),
    ];
    for host in &hosts[1..] {
        host.ip("link set eth0 address 02:00:00:00:01:09");
        host.ip("link set eth0 arp off");
    }
    let config = settings.to_owned()
        + &network("private", 100)
        + &["h1", "h2", "h3"].map(|name| port_of(name, kind)).concat();
    let switch = Switch::start(lab, &rvm, &config);
    switch.wait_live(&["h1", "h2", "h3"]);
    (switch, hosts)
}

fn numbered(from: &Namespace) -> impl Fn(u64) -> Vec<u8> + Send + 'static {
    let from = (from.mac("eth0"), Ipv4Addr::new(10, 1, 0, 1), 5000);
    move |n| udp_frame(from, (STATION, ADDRESS, 9), &[], &n.to_be_bytes())
}

/// A station moves back and forth under a hot flow, by command and by sending from its new place. Packets sent after
/// the command was answered, or after a third host has received a frame of the station from its new place, arrive
/// there.
#[test]
fn no_packet_follows_a_stale_verdict() {
    for (settings, kind) in ALL {
        let Some(lab) = Lab::new() else { return };
        let (mut switch, hosts) = moving(&lab, settings, kind);
        let ear = hosts[0].run(|| UdpSocket::bind("10.1.0.1:7")).expect("a free port");
        ear.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut sinks = [1, 2].map(|at: usize| Sink::new(&hosts[at], (ADDRESS, 9).into()));
        let voices = [1, 2].map(|at: usize| RawSocket::open(&hosts[at], "eth0"));
        let h1 = hosts[0].mac("eth0");
        let hello = udp_frame((STATION, ADDRESS, 7), (h1, Ipv4Addr::new(10, 1, 0, 1), 7), &[], &[1; 8]);
        voices[0].must_send(&hello);
        ear.recv(&mut [0; 64]).expect("it is heard");
        let stream = Stream::start(&hosts[0], numbered(&hosts[0]));
        for round in 0..8 {
            let (old, new) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
            let already = stream.now();
            sinks[old].wait_past(already);
            wait_followed(&switch);
            if round % 4 < 2 {
                voices[new].must_send(&hello);
                ear.recv(&mut [0; 64]).expect("it is heard");
            } else {
                switch.json("fdb flush --network private");
                voices[new].must_send(&hello);
                ear.recv(&mut [0; 64]).expect("it is heard");
            }
            let moved = stream.now();
            sinks[new].wait_past(moved);
            sinks[old].read();
            let stale = sinks[old].last;
            assert!(
                stale <= moved,
                "{settings:?} {kind} round {round}: {stale} sent after {moved} came to the old place"
            );
        }
        stream.finish();
        switch.assert_running();
        switch.counters_at_rest();
    }
}

/// Two hosts exchange TCP and a hot stream, most of which the kernel forwards. Every port's counters agree exactly
/// with the kernel's at the other end, also from a port that tc follows to one of XDP's.
#[test]
fn every_counter_is_exact() {
    for (settings, kinds) in ALL.map(|(settings, kind)| (settings, [kind; 2])).into_iter().chain(MIXED) {
        let Some(lab) = Lab::new() else { return };
        let rvm = lab.namespace("rvm");
        let hosts =
            ["h1", "h2"].map(|name| napi_host(&lab, &rvm, name, &format!("10.1.0.{}/24", &name[1..])));
        let config = settings.to_owned()
            + &network("private", 100)
            + &port_of("h1", kinds[0])
            + &port_of("h2", kinds[1]);
        let mut switch = Switch::start(&lab, &rvm, &config);
        switch.wait_live(&["h1", "h2"]);
        let status = switch.counters_at_rest();
        let start = ["h1", "h2"].map(|name| switch_counts(&status, name));
        // Frames that the port sent to try redirection belong to no host.
        let kernel_start = hosts.each_ref().map(kernel_counts);
        hosts[0].reaches("10.1.0.2");
        let there = "10.1.0.2:80".parse().unwrap();
        transfer(&hosts[0], &hosts[1], there, there, 20_000_000);
        let (to, mut sink) = (hosts[1].mac("eth0"), Sink::new(&hosts[1], "10.1.0.2:9".parse().unwrap()));
        let from = (hosts[0].mac("eth0"), Ipv4Addr::new(10, 1, 0, 1), 5000);
        let stream = Stream::start(&hosts[0], move |n| {
            udp_frame(from, (to, Ipv4Addr::new(10, 1, 0, 2), 9), &[], &n.to_be_bytes())
        });
        wait_followed(&switch);
        std::thread::sleep(Duration::from_secs(1));
        let sent = stream.finish();
        let mut last = String::new();
        wait_for("every frame to be counted", || {
            let status = switch.counters_at_rest();
            let agree = |i: usize, name| {
                let (now, kernel) = (switch_counts(&status, name), kernel_counts(&hosts[i]));
                let ours = (now.0 - start[i].0, now.1 - start[i].1);
                let theirs = (kernel.0 - kernel_start[i].0, kernel.1 - kernel_start[i].1);
                last = format!("{last}{name}: {ours:?} {theirs:?}; ");
                ours == theirs
            };
            let mut agree = agree;
            agree(0, "h1") & agree(1, "h2")
        });
        sink.read();
        let followed = hits(&switch);
        assert!(followed > sent / 2, "{followed} of {sent} and TCP");
        assert_eq!(switch.json("status")["drops"].as_array().map(Vec::len), Some(0), "nothing was dropped");
        switch.assert_running();
    }
}

/// The other end loses its NAPI under a hot flow: packets lost until that shows are counted as dropped, the flow goes
/// by AF_XDP again, and `ivctl status` says why.
#[test]
fn an_end_that_takes_no_redirected_frames_is_left_out() {
    let Some(lab) = Lab::new() else { return };
    let (switch, hosts) = moving(&lab, ONE_WORKER, "afxdp");
    let voice = RawSocket::open(&hosts[1], "eth0");
    let h1 = hosts[0].mac("eth0");
    let _ear = hosts[0].run(|| UdpSocket::bind("10.1.0.1:7")).expect("a free port");
    voice.must_send(&udp_frame((STATION, ADDRESS, 7), (h1, Ipv4Addr::new(10, 1, 0, 1), 7), &[], &[1; 8]));
    let mut sink = Sink::new(&hosts[1], (ADDRESS, 9).into());
    switch.counters_at_rest();
    let start = kernel_counts(&hosts[1]).1;
    let stream = Stream::start(&hosts[0], numbered(&hosts[0]));
    wait_followed(&switch);
    let done = hosts[1].command("ethtool").args(["-K", "eth0", "gro", "off"]).status();
    assert!(done.unwrap().success());
    let broken = stream.now();
    wait_for("the flow to be on its way again", || {
        sink.read();
        sink.last > broken + 1000
    });
    let cache = switch.json("status")["cache"].clone();
    assert_eq!(cache["left_out"][0]["link"], "p-h2", "{cache}");
    let sent = stream.finish();
    let mut dropped = 0;
    wait_for("what was lost to be counted", || {
        switch.counters_at_rest();
        dropped = switch.drops("h2", "tx-queue-full");
        kernel_counts(&hosts[1]).1 - start + dropped == sent
    });
    assert!(dropped > 0);
    // One command switches the cache off.
    takes_redirected(&hosts[1], "eth0");
    let answer = switch.ivctl("cache off");
    assert_eq!(answer.code, 0, "{answer:?}");
    let before = hits(&switch);
    let stream = Stream::start(&hosts[0], numbered(&hosts[0]));
    std::thread::sleep(Duration::from_millis(1500));
    stream.finish();
    assert_eq!(hits(&switch), before);
    assert!(switch.ivctl("status").stdout.contains("kernel offload: off (switched off)"));
}

/// Through the tunnel, both ways: the kernel forwards hot flows completely, with right checksums.
#[test]
fn the_tunnel_is_followed_both_ways() {
    let Some(lab) = Lab::new() else { return };
    let FarKernel { rvm: _rvm, far, h1, h2, switch } = FarKernel::new(&lab, V4, false);
    for host in [&h1, &far, &h2] {
        takes_redirected(host, "eth0");
        // Unfinished checksums would need the pipeline.
        let done = host.command("ethtool").args(["-K", "eth0", "tx", "off"]).status();
        assert!(done.expect("running ethtool").success());
    }
    switch.wait_live(&["h1"]);
    let answer = switch.ivctl("cache auto");
    assert_eq!(answer.code, 0, "{answer:?}");
    wait_for("both ends to be tried", || {
        let cache = switch.json("status")["cache"].clone();
        cache["on"] == true && cache["left_out"] == serde_json::json!([])
    });
    h1.reaches("10.1.0.2");
    let there = "10.1.0.2:80".parse().unwrap();
    transfer(&h1, &h2, there, there, 30_000_000);
    wait_for("frames to be followed in the kernel", || hits(&switch) > 5000);
    switch.counters_at_rest();
}
