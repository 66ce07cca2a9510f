//! The health of peers, and packets of other rVMs that do not fit the configuration, in status, warnings and events.

use std::net::IpAddr;

use ctl::io::{Input, Output};
use ctl::liveness::Unreachable;
use engine::command::Input as WorkerInput;
use engine::command::{Command, Event, PeerId, Vni};
use engine::counters::DropReason;
use engine::time::Duration;
use serde_json::{Value, json};

use crate::{CONFIG, World};

const RVM2: PeerId = PeerId(0);
const SEC: Duration = Duration::from_secs(1);

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

/// Lets seconds pass in which the peer answers every question or none, and refuses packets of these networks.
fn pass(w: &mut World, seconds: u64, answers: bool, refuses: &[Vni]) {
    for _ in 0..seconds * 10 {
        w.pass(SEC / 10);
        for output in w.take() {
            let event = match output {
                Output::Worker(WorkerInput::Command(Command::ProbePath(id, size, nonce))) => {
                    Event::PathAnswered(id, size, nonce)
                }
                Output::Worker(WorkerInput::Command(Command::AskPeer(id, about, nonce))) => match about {
                    Some(vni) if refuses.contains(&vni) => Event::PeerRefuses(id, vni, nonce),
                    _ => Event::PathAnswered(id, 100, nonce),
                },
                _ => continue,
            };
            if answers {
                w.tell(Input::Event(0, event));
            }
        }
    }
}

fn peer(w: &mut World) -> Value {
    w.call("peer.list", json!({ "name": "rvm2" }))["rows"][0].clone()
}

/// The warnings of this kind, as in `status`.
fn problems(w: &mut World, kind: &str) -> Vec<Value> {
    let status = w.call("status", json!({}));
    assert_eq!(status["warnings"].as_array().unwrap().len(), status["problems"].as_array().unwrap().len());
    status["problems"].as_array().unwrap().iter().filter(|p| p["kind"] == kind).cloned().collect()
}

/// A peer is unknown until it answers, and up while it does. When it stops, it is silent, with the time of its last
/// answer, for any state of the underlay's next hop; then it is up again. Each change is an event, and a warning while
/// it lasts.
#[test]
fn a_peer_that_stops_answering_is_silent() {
    let mut w = World::up(CONFIG);
    w.call("subscribe", json!({}));
    assert_eq!(peer(&mut w)["state"], "unknown");
    assert_eq!(problems(&mut w, "peer"), Vec::<Value>::new(), "it is only being asked");
    pass(&mut w, 3, true, &[]);
    let row = peer(&mut w);
    assert_eq!((&row["state"], &row["why"]), (&json!("up"), &json!("")));
    assert!(row["answered"].as_u64().unwrap() <= 2, "{row}");

    w.busy = true;
    pass(&mut w, 3, true, &[]);
    pass(&mut w, 6, false, &[]);
    let row = peer(&mut w);
    assert_eq!((&row["state"], &row["resolved"]), (&json!("silent"), &json!(true)), "{row}");
    assert!((4..=9).contains(&row["answered"].as_u64().unwrap()), "{row}");
    let warned = problems(&mut w, "peer");
    assert_eq!((warned.len(), &warned[0]["object"]), (1, &json!("rvm2")), "{warned:?}");
    assert!(warned[0]["how"].as_str().unwrap().contains("systemctl status ivswitchd"), "{warned:?}");

    pass(&mut w, 5, true, &[]);
    assert_eq!(peer(&mut w)["state"], "up");
    assert_eq!(problems(&mut w, "peer"), Vec::<Value>::new());
    let states: Vec<&str> = w
        .replies
        .iter()
        .filter(|(_, v)| v["params"]["event"] == "peer" && v["params"]["peer"] == "rvm2")
        .map(|(_, v)| v["params"]["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["up", "silent", "up"]);
}

/// A peer that was up is unreachable from the moment that the kernel loses its route, before it could miss a
/// question. It is up again with its first answer over the next route.
#[test]
fn a_route_that_is_gone_is_told_at_once() {
    let mut w = World::up(CONFIG);
    pass(&mut w, 3, true, &[]);
    assert_eq!(peer(&mut w)["state"], "up");
    w.no_route = true;
    pass(&mut w, 1, false, &[]);
    let row = peer(&mut w);
    assert_eq!(row["state"], "unreachable", "{row}");
    let warned = problems(&mut w, "peer");
    assert!(warned[0]["what"].as_str().unwrap().contains("no route to 10.0.0.12"), "{warned:?}");
    w.no_route = false;
    pass(&mut w, 5, true, &[]);
    assert_eq!(peer(&mut w)["state"], "up");
    assert_eq!(problems(&mut w, "peer"), Vec::<Value>::new());
}

/// An ICMP error about our tunnel packets explains a silence; an ICMP error about other packets does not.
#[test]
fn icmp_errors_say_why_a_peer_is_silent() {
    let mut w = World::up(CONFIG);
    pass(&mut w, 3, true, &[]);
    let error = |from: &str, port| Input::Unreachable {
        from: from.parse().unwrap(),
        to: IpAddr::from([10, 0, 0, 12]),
        port,
        why: Unreachable::Port,
    };
    w.busy = true;
    pass(&mut w, 6, false, &[]);
    w.tell(error("10.0.0.50", 4789));
    w.tell(error("10.0.0.11", 53));
    assert_eq!(peer(&mut w)["state"], "silent");
    w.tell(error("10.0.0.11", 4789));
    let row = peer(&mut w);
    assert_eq!(row["state"], "unreachable");
    assert!(row["why"].as_str().unwrap().contains("no program listens at its UDP port 4789"), "{row}");
}

/// A peer answers, but its networks have other VNIs: it refuses our packets, and we refuse its packets.
#[test]
fn a_network_with_another_vni_is_refused() {
    let mut w = World::up(CONFIG);
    pass(&mut w, 3, true, &[vni(100)]);
    let row = peer(&mut w);
    assert_eq!((&row["state"], &row["refuses"]), (&json!("refuses"), &json!(["private"])), "{row}");
    let warned = problems(&mut w, "peer");
    assert!(warned[0]["what"].as_str().unwrap().contains("\"private\" (VNI 100)"), "{warned:?}");

    w.tell(Input::Event(0, Event::PeerRefused(RVM2, vni(101), DropReason::UnknownVni)));
    let warned = problems(&mut w, "peer-network");
    assert!(warned[0]["what"].as_str().unwrap().contains("VNI 101, which no network here has"), "{warned:?}");
    assert!(warned[0]["how"].as_str().unwrap().contains("--vni 101"), "{warned:?}");
    w.call("network.add", json!({ "object": { "name": "other", "vni": 101 } }));
    let warned = json!(problems(&mut w, "peer-network")).to_string();
    assert!(!warned.contains("101"), "now it is one: {warned}");

    // Only one of two networks is refused: the peer is up, and the other network is named.
    pass(&mut w, 20, true, &[vni(100)]);
    let row = peer(&mut w);
    assert_eq!((&row["state"], &row["refuses"]), (&json!("up"), &json!(["private"])), "{row}");
    assert_eq!(problems(&mut w, "peer-network").len(), 1);
    pass(&mut w, 40, true, &[]);
    assert_eq!(peer(&mut w)["refuses"], Value::Null, "what is mended is seen");
}

/// A stranger that keeps sending is named with the remedy, until it stops or becomes a peer; a single packet is not
/// enough. A flood of forged addresses does not hide it.
#[test]
fn an_unknown_peer_that_keeps_coming_is_named() {
    let mut w = World::up(CONFIG);
    let stranger = |last: u8| Input::Event(0, Event::Stranger(IpAddr::from([10, 0, 0, last]), vni(100)));
    w.tell(stranger(13));
    assert_eq!(problems(&mut w, "unknown-peer"), Vec::<Value>::new());
    for n in 0..20u8 {
        w.pass(SEC / 4);
        w.tell(stranger(13));
        for forged in 0..16u16 {
            let ip = IpAddr::from([192, 168, n, forged as u8]);
            w.tell(Input::Event(0, Event::Stranger(ip, vni(1))));
        }
    }
    let warned = problems(&mut w, "unknown-peer");
    assert_eq!((warned.len(), &warned[0]["object"]), (1, &json!("10.0.0.13")), "{warned:?}");
    assert!(warned[0]["how"].as_str().unwrap().contains("ivctl peer add NAME --address 10.0.0.13"));
    w.call("peer.add", json!({ "object": { "name": "rvm3", "address": "10.0.0.13" } }));
    assert_eq!(problems(&mut w, "unknown-peer"), Vec::<Value>::new(), "it is a peer now");
    w.call("peer.del", json!({ "name": "rvm3" }));
    w.pass(200 * SEC);
    assert_eq!(problems(&mut w, "unknown-peer"), Vec::<Value>::new(), "it ended");
}

/// A peer has this rVM's own address: nothing is sent there, and there is a warning as long as the entry exists.
#[test]
fn a_peer_with_our_own_address_is_named() {
    let mut w = World::up(CONFIG);
    w.call("peer.add", json!({ "object": { "name": "me", "address": "10.0.0.11" } }));
    let set = |o: &Output| matches!(o, Output::Worker(WorkerInput::Command(Command::SetPeer(..))));
    assert!(!w.take().iter().any(set), "the workers are not told of it");
    let row = w.call("peer.list", json!({ "name": "me" }))["rows"][0].clone();
    assert_eq!(row["state"], "this-rvm");
    let warned = problems(&mut w, "peer");
    assert_eq!((warned.len(), &warned[0]["object"]), (1, &json!("me")), "{warned:?}");
    assert!(warned[0]["what"].as_str().unwrap().contains("10.0.0.11"), "{warned:?}");
}

/// Two rVMs claim the same floating IP, as its gateway or for its owner, or one file names two gateways.
#[test]
fn floating_ips_with_two_gateways_are_named() {
    let floating = "[[floating]]\nip = \"56.0.0.11\"\nnetwork = \"private\"\ngateway = \"rvm1\"\nreality = \"10.0.0.11\"\n";
    let mut w = World::up(&(CONFIG.to_owned() + floating));
    let ip = IpAddr::from([56, 0, 0, 11]);
    let claim = |name: &str, owner| {
        let mac = ctl::reconcile::switch_mac(name);
        Input::Event(0, Event::FloatingClaimed(vni(100), ip, RVM2, mac, owner))
    };
    // The owner is on another rVM and moves, which is normal.
    for name in ["rvm2", "rvm3"] {
        for _ in 0..3 {
            w.pass(SEC);
            w.tell(claim(name, true));
        }
    }
    assert_eq!(problems(&mut w, "floating"), Vec::<Value>::new());
    w.pass(SEC);
    w.tell(claim("rvm2", true));
    let warned = problems(&mut w, "floating");
    assert!(warned[0]["what"].as_str().unwrap().contains("two rVMs answer for it"), "{warned:?}");
    w.pass(100 * SEC);
    assert_eq!(problems(&mut w, "floating"), Vec::<Value>::new());

    w.tell(claim("rvm2", false));
    let warned = problems(&mut w, "floating");
    let what = warned[0]["what"].as_str().unwrap();
    assert!(what.contains("\"rvm2\" claims to be its gateway, which is \"rvm1\""), "{what}");
    // Once this rVM has the same configuration as the other, they agree.
    w.call("floating.set", json!({ "ip": ip, "set": { "gateway": "rvm2", "reality": null } }));
    assert_eq!(problems(&mut w, "floating"), Vec::<Value>::new());

    let other = json!({ "ip": ip, "network": "private", "gateway": "rvm1", "reality": "10.0.0.11", "only": ["tcp/80"] });
    w.call("floating.set", json!({ "ip": ip, "set": { "only": ["tcp/443"] } }));
    w.call("floating.add", json!({ "object": other }));
    let warned = problems(&mut w, "floating");
    assert!(warned[0]["what"].as_str().unwrap().contains("two gateways here"), "{warned:?}");
}

/// However many peers are in use, the number of questions per second is bounded.
#[test]
fn a_thousand_peers_are_asked_at_a_bounded_rate() {
    let mut text = CONFIG.to_owned();
    for n in 0..1000u32 {
        let (a, b) = (1 + n / 250, 1 + n % 250);
        text += &format!("[[peer]]\nname = \"p{n}\"\naddress = \"10.1.{a}.{b}\"\n");
    }
    let mut w = World::up(&text);
    w.pass(120 * SEC);
    let asks = w
        .take()
        .iter()
        .filter(|o| matches!(o, Output::Worker(WorkerInput::Command(Command::AskPeer(..)))))
        .count();
    // Each peer gets three questions in a round without an answer.
    assert!(asks <= 3 * 100 * 121, "{asks}");
    assert!(asks >= 3 * 1000, "{asks}: everyone has a turn");
}
