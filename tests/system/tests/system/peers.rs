//! Peers as an operator sees them, with real daemons: one is killed, one does not have us as a peer, one has another
//! VNI, one does not receive our packets, one is a kernel, and two claim one floating IP.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use system::{Lab, Namespace, Switch, wait_for, wait_until};

use crate::topology::{FarKernel, V4, host, network, port, underlay_pair};

/// How soon the state has to be known where traffic flows.
const SOON: Duration = Duration::from_secs(6);

/// The switch `name` at `address` with network `private` of this VNI, the port of host `h`, and these peers.
fn config(name: &str, address: &str, vni: u32, h: &str, peers: &[(&str, &str)]) -> String {
    let mut text = format!("name = \"{name}\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{address}\"\n");
    text += &(network("private", vni) + &port(h, "private"));
    for (name, address) in peers {
        text += &format!("[[peer]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    text
}

/// Two rVMs with a host each, not started yet.
struct Pair {
    rvm: Namespace,
    far: Namespace,
    h1: Namespace,
    h2: Namespace,
}

impl Pair {
    fn new(lab: &Lab) -> Self {
        let (rvm, far) = underlay_pair(lab, V4);
        let h1 = host(lab, &rvm, "h1", &["10.1.0.1/24"]);
        let h2 = host(lab, &far, "h2", &["10.1.0.2/24"]);
        Self { rvm, far, h1, h2 }
    }

    fn start(&self, lab: &Lab, far_vni: u32) -> (Switch, Switch) {
        let ours = config("rvm", V4.ours, 100, "h1", &[("far", V4.far)]);
        let theirs = config("far", V4.far, far_vni, "h2", &[("rvm", V4.ours)]);
        (Switch::start(lab, &self.rvm, &ours), Switch::start(lab, &self.far, &theirs))
    }
}

/// A host that pings another continuously, until it is dropped.
struct Pinging(Child);

impl Pinging {
    fn start(from: &Namespace, address: &str) -> Self {
        let mut ping = from.command("ping");
        ping.args(["-q", "-i", "0.2", address]).stdout(Stdio::null()).stderr(Stdio::null());
        Self(ping.spawn().expect("running ping"))
    }
}

impl Drop for Pinging {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn peer(switch: &Switch, name: &str) -> Value {
    switch.json(&format!("peer show {name}"))[0].clone()
}

fn state(switch: &Switch, name: &str) -> String {
    peer(switch, name)["state"].as_str().expect("a word").to_owned()
}

/// Waits until the peer is in this state; gives how long it took.
#[track_caller]
fn becomes(switch: &Switch, name: &str, wanted: &[&str], patience: Duration) -> Duration {
    let began = Instant::now();
    let so = wait_until(patience, || wanted.contains(&state(switch, name).as_str()));
    assert!(so, "not {wanted:?} within {patience:?}: {}\n{}", peer(switch, name), switch.log());
    began.elapsed()
}

/// The metric with these labels, as the daemon serves it.
#[track_caller]
fn metric(switch: &Switch, wanted: &str) -> String {
    let place = switch.socket().with_extension("metrics");
    let mut stream = std::os::unix::net::UnixStream::connect(place).expect("the metrics' socket");
    std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.0\r\n\r\n").expect("asking");
    let text = std::io::read_to_string(stream).expect("an answer");
    let line = text.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{wanted} is not in {text}")).to_owned()
}

/// The doctor's findings about peers, by level.
fn doctor(switch: &Switch) -> Vec<(String, String)> {
    let findings = switch.ivctl("-j doctor").stdout;
    let findings: Vec<Value> = serde_json::from_str(&findings).expect("JSON");
    let word = |f: &Value, key: &str| f[key].as_str().expect("a word").to_owned();
    let of_peers = findings.iter().filter(|f| f["check"] == "peers");
    of_peers.map(|f| (word(f, "level"), format!("{}; {}", word(f, "found"), word(f, "remedy")))).collect()
}

/// The warnings of this kind.
fn problems(switch: &Switch, kind: &str) -> Vec<String> {
    let status = switch.json("status");
    let all = status["problems"].as_array().expect("a list").clone();
    let of_kind = all.iter().filter(|p| p["kind"] == kind);
    of_kind.map(|p| format!("{}; {}", p["what"], p["how"]).replace('"', "").replace('\\', "")).collect()
}

/// A peer is killed while hosts talk: within seconds status, metrics and doctor stop calling it up, and say why and
/// since when, although its next hop answers ARP all the time. When it is back, they show that too.
#[test]
fn a_killed_peer_is_not_up() {
    let Some(lab) = Lab::new() else { return };
    let pair = Pair::new(&lab);
    let ours = config("rvm", V4.ours, 100, "h1", &[("far", V4.far)]);
    let place = lab.dir().join(format!("{}.metrics", pair.rvm.name()));
    let metrics = format!("IVS_METRICS=unix:{}", place.display());
    let switch = Switch::start_as(&lab, &pair.rvm, &ours, &["env", &metrics]);
    let theirs = config("far", V4.far, 100, "h2", &[("rvm", V4.ours)]);
    let mut far = Switch::start(&lab, &pair.far, &theirs);
    becomes(&switch, "far", &["up"], SOON);
    becomes(&far, "rvm", &["up"], SOON);
    assert_eq!(metric(&switch, "ivs_peer_up{peer=\"far\"}"), "1.0");
    assert_eq!(doctor(&switch), [("ok".to_owned(), "1 answer; ".to_owned())]);
    assert_eq!((problems(&switch, "peer"), problems(&switch, "peer-network")), (vec![], vec![]));

    pair.h1.reaches("10.1.0.2");
    let _pinging = Pinging::start(&pair.h1, "10.1.0.2");
    std::thread::sleep(Duration::from_secs(2));
    far.kill();
    // Its kernel answers with ICMP port unreachable.
    let took = becomes(&switch, "far", &["unreachable"], SOON);
    eprintln!("known after {took:?}");
    let row = peer(&switch, "far");
    assert_eq!(row["resolved"], true, "the machine itself is there: {row}");
    assert!(row["why"].as_str().expect("words").contains("UDP port 4789"), "{row}");
    assert!((1..30).contains(&row["answered"].as_u64().expect("seconds")), "{row}");
    assert_eq!(metric(&switch, "ivs_peer_up{peer=\"far\"}"), "0.0");
    assert_eq!(metric(&switch, "ivs_peer_state{peer=\"far\",state=\"unreachable\"}"), "1.0");
    assert_eq!(metric(&switch, "ivs_warnings{kind=\"peer\"}"), "1.0");
    let said = doctor(&switch);
    assert!(
        said.len() == 1 && said[0].0 == "warn" && said[0].1.contains("systemctl start ivswitchd"),
        "{said:?}"
    );
    assert_eq!(switch.ivctl("doctor").code, 8);
    assert!(switch.ivctl("status").stdout.contains("unreachable"));
    // The state lasts.
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(state(&switch, "far"), "unreachable");

    far.start_again();
    becomes(&switch, "far", &["up"], SOON);
    assert_eq!(problems(&switch, "peer"), Vec::<String>::new());
    pair.h1.reaches("10.1.0.2");

    // The cable is pulled: now no packet comes back.
    pair.far.ip("link set eth0 down");
    becomes(&switch, "far", &["silent"], SOON);
    assert_eq!(metric(&switch, "ivs_peer_state{peer=\"far\",state=\"silent\"}"), "1.0");
    pair.far.ip("link set eth0 up");
    becomes(&switch, "far", &["up"], Duration::from_secs(20));
}

/// A peer that does not have us as a peer silently drops all our packets: it was never up, and is not called up.
/// On its side we are the unknown peer that keeps sending, named with the command that helps, which does help.
#[test]
fn a_peer_that_does_not_list_us_is_not_up() {
    let Some(lab) = Lab::new() else { return };
    let pair = Pair::new(&lab);
    let switch = Switch::start(&lab, &pair.rvm, &config("rvm", V4.ours, 100, "h1", &[("far", V4.far)]));
    let far = Switch::start(&lab, &pair.far, &config("far", V4.far, 100, "h2", &[]));
    let _pinging = Pinging::start(&pair.h1, "10.1.0.2");
    wait_for("it to be told of", || problems(&switch, "peer").len() == 1);
    let row = peer(&switch, "far");
    assert_eq!((&row["state"], &row["resolved"]), (&"unknown".into(), &true.into()), "{row}");
    let said = doctor(&switch);
    assert!(said[0].0 == "warn" && said[0].1.contains("has never answered"), "{said:?}");
    assert!(said[0].1.contains(V4.ours), "it says whom the other has to list: {said:?}");

    wait_for("the stranger to be named", || problems(&far, "unknown-peer").len() == 1);
    let named = problems(&far, "unknown-peer").remove(0);
    assert!(named.contains(V4.ours) && named.contains("ivctl peer add NAME --address 10.0.0.11"), "{named}");
    assert!(far.ivctl("doctor").stdout.contains("unknown-peer"), "the doctor says it too");

    assert_eq!(far.ivctl("peer add rvm --address 10.0.0.11").code, 0);
    becomes(&switch, "far", &["up"], Duration::from_secs(10));
    wait_for("no unknown peer", || problems(&far, "unknown-peer").is_empty());
    pair.h1.reaches("10.1.0.2");
}

/// A peer whose network of this name has another VNI answers, but accepts no packets. Each side warns of the other,
/// with a remedy that works.
#[test]
fn a_peer_with_another_vni_is_not_up() {
    let Some(lab) = Lab::new() else { return };
    let pair = Pair::new(&lab);
    let (switch, far) = pair.start(&lab, 101);
    becomes(&switch, "far", &["refuses"], SOON);
    becomes(&far, "rvm", &["refuses"], SOON);
    let row = peer(&switch, "far");
    assert_eq!(row["refuses"], serde_json::json!(["private"]), "{row}");
    let said = doctor(&switch);
    assert!(
        said[0].0 == "warn" && said[0].1.contains("private (VNI 100)") || said[0].1.contains("VNI 100"),
        "{said:?}"
    );
    let _pinging = Pinging::start(&pair.h1, "10.1.0.2");
    wait_for("its packets to be told of", || {
        problems(&far, "peer-network").iter().any(|p| p.contains("VNI 100, which no network here has"))
    });

    assert_eq!(far.ivctl("network set private --vni 100").code, 0);
    becomes(&switch, "far", &["up"], Duration::from_secs(15));
    becomes(&far, "rvm", &["up"], Duration::from_secs(15));
    pair.h1.reaches("10.1.0.2");
}

/// Our packets are lost on the way, the peer's arrive: the status names the broken direction.
#[test]
fn a_path_that_is_broken_one_way() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, middle, far) = (lab.namespace("rvm"), lab.namespace("mid"), lab.namespace("far"));
    let (ours, other) = ("10.0.1.11", "10.0.2.12");
    for (end, address, inner, router, net) in
        [(&rvm, ours, "eth1", "10.0.1.1", "10.0.2.0/24"), (&far, other, "eth2", "10.0.2.1", "10.0.1.0/24")]
    {
        lab.veth((end, "eth0"), (&middle, inner));
        end.ip(&format!("addr add {address}/24 dev eth0"));
        middle.ip(&format!("addr add {router}/24 dev {inner}"));
        end.ip(&format!("route add {net} via {router}"));
    }
    middle.sysctl("net/ipv4/ip_forward", "1");
    let (h1, _h2) = (host(&lab, &rvm, "h1", &["10.1.0.1/24"]), host(&lab, &far, "h2", &["10.1.0.2/24"]));
    let switch = Switch::start(&lab, &rvm, &config("rvm", ours, 100, "h1", &[("far", other)]));
    let _far = Switch::start(&lab, &far, &config("far", other, 100, "h2", &[("rvm", ours)]));
    becomes(&switch, "far", &["up"], SOON);
    h1.reaches("10.1.0.2");
    let _pinging = Pinging::start(&h1, "10.1.0.2");
    let filter = |verdict: &str| {
        let rule = format!("ip saddr {ours} {verdict}");
        middle.nft(&format!(
            "table ip f\ndelete table ip f\ntable ip f {{\nchain c {{\ntype filter hook forward priority 0\n{rule}\n}}\n}}\n"
        ));
    };
    filter("drop");
    becomes(&switch, "far", &["one-way"], Duration::from_secs(15));
    // A filter's ICMP error counts until an answer arrives.
    filter("reject with icmp admin-prohibited");
    becomes(&switch, "far", &["unreachable"], Duration::from_secs(15));
    let why = peer(&switch, "far")["why"].as_str().expect("words").to_owned();
    assert!(why.contains("administratively prohibited"), "{why}");
    filter("accept");
    becomes(&switch, "far", &["up"], Duration::from_secs(15));
}

/// A kernel's VXLAN never answers a probe, so its state is unknown. Its packets arrive, so a warning would be wrong.
#[test]
fn a_kernel_as_peer_is_unknown() {
    let Some(lab) = Lab::new() else { return };
    let FarKernel { h1, switch, .. } = FarKernel::new(&lab, V4, false);
    switch.wait_live(&["uplink", "h1"]);
    h1.reaches("10.1.0.2");
    wait_for("the peer to be asked in vain", || peer(&switch, "far")["heard"].is_u64());
    std::thread::sleep(Duration::from_secs(4));
    let row = peer(&switch, "far");
    assert_eq!(row["state"], "unknown", "{row}");
    assert!(row["why"].as_str().expect("words").contains("as a kernel's VXLAN never does"), "{row}");
    assert_eq!(problems(&switch, "peer"), Vec::<String>::new());
    let said = doctor(&switch);
    assert!(said.len() == 1 && said[0].0 == "note" && said[0].1.contains("far"), "{said:?}");
}

/// Two rVMs claim one floating IP: each warns of the other, as long as both do.
#[test]
fn a_floating_ip_with_two_gateways_is_a_warning() {
    let Some(lab) = Lab::new() else { return };
    let pair = Pair::new(&lab);
    let floating = |gateway: &str, reality: &str| {
        format!(
            "[[floating]]\nip = \"56.0.0.11\"\nnetwork = \"private\"\ngateway = \"{gateway}\"\nreality = \"{reality}\"\n"
        )
    };
    let ours = config("rvm", V4.ours, 100, "h1", &[("far", V4.far)]) + &floating("rvm", V4.ours);
    let theirs = config("far", V4.far, 100, "h2", &[("rvm", V4.ours)]) + &floating("far", V4.far);
    let switch = Switch::start(&lab, &pair.rvm, &ours);
    let far = Switch::start(&lab, &pair.far, &theirs);
    for (switch, other) in [(&switch, "far"), (&far, "rvm")] {
        wait_for("the conflict to be told of", || problems(switch, "floating").len() == 1);
        let said = problems(switch, "floating").remove(0);
        assert!(
            said.contains("56.0.0.11") && said.contains(&format!("peer {other} claims to be its gateway")),
            "{said}"
        );
        assert!(switch.ivctl("doctor").stdout.contains("claims to be its gateway"));
    }
    assert_eq!(far.ivctl("fip set 56.0.0.11 --gateway rvm").code, 0);
    wait_for("the one that was right to be content", || problems(&far, "floating").is_empty());
    let _ = (&pair.h1, &pair.h2);
}
