//! Requests to the agent: edits that wait or are refused, answers of several workers, events, applied files.

use std::net::IpAddr;

use ctl::agent::{Agent, Options};
use ctl::api::Code;
use ctl::io::{Input, Output};
use engine::command::Input as WorkerInput;
use engine::command::{Command, Event, FdbRow, Location, Vni};
use engine::time::{Duration, Instant};
use engine::wire::mac::MacAddr;
use serde_json::json;

use crate::{CLIENT, CONFIG, World, link, without_peers};

/// `port add` is answered when the port is live.
#[test]
fn adding_a_port_waits_until_it_is_live() {
    let mut w = World::up(CONFIG);
    let object = json!({ "name": "g2", "network": "private", "interface": "p-g2", "role": "guest",
        "mac": ["02:00:00:00:00:02"] });
    w.tell(Input::Link(link("p-g2", 8)));
    let id = w.send("port.add", json!({ "object": object, "timeout_ms": 3000 }));
    assert_eq!(w.reply(id), None);
    w.open_all();
    assert_eq!(w.reply(id).unwrap()["result"], json!({ "changed": true, "warnings": [] }));
    let text =
        w.seen.iter().rev().find_map(|o| if let Output::Persist(t) = o { Some(t.clone()) } else { None });
    assert!(ctl::model::parse(&text.unwrap()).unwrap().port("g2").is_some(), "and it is in the file");

    assert!(w.refused("port.add", json!({ "object": object }), Code::Conflict).contains("--may-exist"));
    let again = w.call("port.add", json!({ "object": object, "may_exist": true }));
    assert_eq!(again["changed"], false);
    w.call("port.del", json!({ "name": "g2" }));
    assert_eq!(w.agent.port_id("g2"), None);
    assert!(w.refused("port.del", json!({ "name": "g2" }), Code::NotFound).contains("ivctl port list"));
    assert_eq!(w.call("port.del", json!({ "name": "g2", "if_exists": true }))["changed"], false);
}

#[test]
fn adding_a_port_says_what_it_waits_for() {
    let mut w = World::up(CONFIG);
    let object = json!({ "name": "g2", "network": "private", "interface": "p-g2" });
    let answer = w.call("port.add", json!({ "object": object }));
    assert_eq!(answer["warnings"], json!(["port \"g2\" is waiting for interface p-g2"]));

    // A port does not open in time: the request times out, and the attempts go on.
    w.tell(Input::Link(link("p-g3", 9)));
    let object = json!({ "name": "g3", "network": "private", "interface": "p-g3" });
    let id = w.send("port.add", json!({ "object": object, "timeout_ms": 3000 }));
    w.pass(Duration::from_millis(2999));
    assert_eq!(w.reply(id), None);
    w.pass(Duration::from_millis(1));
    assert_eq!(w.reply(id).unwrap()["error"]["code"], Code::Timeout.number());
    w.open_all();
    assert!(w.agent.port_live("g3"));

    // A port fails: the edit succeeds, with a warning.
    w.tell(Input::Link(link("p-g4", 10)));
    let object = json!({ "name": "g4", "network": "private", "interface": "p-g4" });
    let id = w.send("port.add", json!({ "object": object }));
    w.tell(Input::PortFailed(w.id("g4"), "p-g4 has an XDP program already".into()));
    assert!(w.reply(id).unwrap()["result"]["warnings"][0].as_str().unwrap().contains("XDP program already"));
    // The client does not wait: the answer is immediate.
    let object = json!({ "name": "eth9", "network": "private" });
    assert_eq!(w.call("port.add", json!({ "object": object, "timeout_ms": 0 }))["warnings"], json!([]));
}

/// Refused edits change nothing, name the error, and have their own codes.
#[test]
fn bad_edits_are_refused_whole() {
    let mut w = World::up(CONFIG);
    let before = w.agent.config().clone();
    for (method, params, code, words) in [
        ("network.add", json!({ "object": { "name": "n" } }), Code::Failed, "`vni` is missing"),
        ("network.add", json!({ "object": { "name": "n", "vni": 0 } }), Code::Failed, "1 to 16777215"),
        (
            "network.add",
            json!({ "object": { "name": "n", "vni": 100 } }),
            Code::Conflict,
            "network \"private\"",
        ),
        (
            "network.add",
            json!({ "object": { "name": "private", "vni": 5 } }),
            Code::Conflict,
            "ivctl network set",
        ),
        ("network.add", json!({ "object": { "name": "n", "vni": 5, "x": 1 } }), Code::Failed, "no key `x`"),
        ("network.set", json!({ "name": "nix", "set": {} }), Code::NotFound, "ivctl network list"),
        ("network.set", json!({ "name": "private", "set": { "fdb_age": 0 } }), Code::Failed, "as a hub does"),
        (
            "network.set",
            json!({ "name": "private", "set": { "name": "x" } }),
            Code::Failed,
            "cannot be changed",
        ),
        ("network.set", json!({ "name": "private", "set": 5 }), Code::Params, "not an object"),
        ("network.set", json!({ "name": "private", "set": {} }), Code::Params, "nothing to change"),
        ("network.set", json!({ "name": "private", "set": { "fdb_aeg": null } }), Code::Params, "`fdb_age`?"),
        ("port.set", json!({ "name": "g1", "set": { "frob": null } }), Code::Params, "no key `frob`"),
        ("port.set", json!({ "name": "g1", "set": { "network": null } }), Code::Params, "is required"),
        ("floating.list", json!({ "network": "nix" }), Code::NotFound, "\"nix\""),
        ("fdb.list", json!({ "vlan": 5000 }), Code::Params, "no VLAN 5000"),
        ("neigh.flush", json!({ "network": "nix" }), Code::NotFound, "\"nix\""),
        ("network.del", json!({ "name": "private" }), Code::Conflict, "in use by port \"eth1\", port \"g1\""),
        ("port.add", json!({ "object": { "name": "p", "network": "privat" } }), Code::NotFound, "`private`?"),
        ("port.add", json!({ "object": 7 }), Code::Failed, "expected"),
        ("port.set", json!({ "name": "g1", "set": { "mac": null } }), Code::Failed, "no `mac`"),
        ("peer.add", json!({ "object": { "name": "x", "address": "10.0.0.12" } }), Code::Conflict, "rvm2"),
        ("floating.del", json!({ "ip": "56.0.0.1" }), Code::NotFound, "fip 56.0.0.1"),
        ("floating.del", json!({}), Code::Params, "`ip` is missing"),
        ("route.del", json!({ "network": "private", "from": "x" }), Code::Params, "not a prefix"),
        (
            "fdb.add",
            json!({ "object": { "network": "private", "mac": "02:00:00:00:00:09", "port": "p9" } }),
            Code::NotFound,
            "p9",
        ),
        (
            "fdb.del",
            json!({ "network": "private", "mac": "02:00:00:00:00:09" }),
            Code::NotFound,
            "ivctl fdb list",
        ),
        ("fdb.list", json!({ "port": "nix" }), Code::NotFound, "\"nix\""),
        ("fdb.flush", json!({ "mac": "02:00:00:00:00:09" }), Code::Params, "fdb del"),
        ("neigh.list", json!({ "network": "nix" }), Code::NotFound, "\"nix\""),
        ("drops", json!({ "port": "nix" }), Code::NotFound, "\"nix\""),
        (
            "config.apply",
            json!({ "text": "name = \"rvm1\"\n[[port]]\nname = \"p\"\nnetwork = \"x\"" }),
            Code::NotFound,
            "line 2",
        ),
        ("config.apply", json!({ "text": "x = " }), Code::Failed, "line 1"),
        ("config.apply", json!({}), Code::Params, "`text` is missing"),
        ("network.del", json!({}), Code::Params, "`name` is missing"),
        ("status", json!({ "foo": 1 }), Code::Params, "`foo`"),
        ("nix", json!({}), Code::Method, "no such method"),
    ] {
        w.take();
        let text = w.refused(method, params.clone(), code);
        assert!(text.contains(words), "{method} {params}: {text}");
        assert_eq!(w.agent.config(), &before);
        let changed = |o: &&Output| !matches!(o, Output::Reply(..) | Output::Worker(WorkerInput::Query(..)));
        assert_eq!(w.seen.iter().find(changed), None, "{method} {params}");
    }
}

#[test]
fn lines_that_are_no_requests_are_answered() {
    let mut w = World::up(CONFIG);
    for (line, code) in [
        ("", Code::Parse),
        ("{", Code::Parse),
        ("\u{0}", Code::Parse),
        ("[]", Code::Request),
        ("5", Code::Request),
        (r#"{"id":1,"method":"status"}"#, Code::Request),
        (r#"{"jsonrpc":"2.0","id":1}"#, Code::Request),
        (r#"{"jsonrpc":"2.0","id":[1],"method":"status"}"#, Code::Request),
        (r#"{"jsonrpc":"2.0","id":1,"method":"status","params":[1]}"#, Code::Request),
        (&"[".repeat(100_000), Code::Parse),
        (&"x".repeat(ctl::api::REQUEST_LEN_MAX + 1), Code::Request),
    ] {
        let before = w.replies.len();
        w.tell(Input::Request(CLIENT, line.to_owned()));
        assert_eq!(w.replies.len(), before + 1);
        assert_eq!(w.replies[before].1["error"]["code"], code.number(), "{}", &line[..line.len().min(80)]);
    }
    // A notification is carried out without an answer.
    let before = w.replies.len();
    w.tell(Input::Request(
        CLIENT,
        r#"{"jsonrpc":"2.0","method":"network.add","params":{"object":{"name":"n","vni":3}}}"#.into(),
    ));
    assert_eq!(w.replies.len(), before);
    assert!(w.agent.config().network("n").is_some());
}

#[test]
fn an_empty_start_is_fine_and_everything_can_be_asked_for() {
    let mut w = World::with(Options { hostname: "Host.7".into(), persist: true, ..Options::default() });
    assert_eq!(w.agent.name(), "host.7");
    w.call("network.add", json!({ "object": { "name": "n", "vni": 5 } }));
    w.tell(Input::Link(link("v", 3)));
    let id = w.send("port.add", json!({ "object": { "name": "p", "network": "n", "interface": "v" } }));
    w.open_all();
    assert!(w.reply(id).is_some() && w.agent.port_live("p"));
    w.call("fdb.add", json!({ "object": { "network": "n", "mac": "02:00:00:00:00:09", "port": "p" } }));
    w.call("fdb.del", json!({ "network": "n", "mac": "02:00:00:00:00:09" }));
    w.call("fdb.flush", json!({}));
    let shown = w.call("config.show", json!({}));
    assert_eq!(shown["saved"], true);
    assert_eq!(&ctl::model::parse(shown["text"].as_str().unwrap()).unwrap(), w.agent.config());
    assert_eq!(w.call("config.check", json!({ "text": "x = 1" }))["ok"], false);
    w.call("config.apply", json!({ "text": "" }));
    assert!(w.ports.is_empty());
    assert_eq!(w.call("version", json!({}))["api"], 1);
}

/// The file cannot be written: the change is in force, the answer and the status say so, and the agent tries again.
#[test]
fn a_file_that_cannot_be_written_stops_nothing() {
    let mut w = World::up(CONFIG);
    w.persisting = Some(Err("/etc is read-only".into()));
    let answer = w.call("network.add", json!({ "object": { "name": "n", "vni": 5 } }));
    assert!(answer["warnings"][0].as_str().unwrap().contains("/etc is read-only"));
    let status = w.call("status", json!({}));
    assert!(status["warnings"].to_string().contains("/etc is read-only"));
    assert!(w.seen.iter().any(|o| matches!(o, Output::Log("warn", t) if t.contains("read-only"))));
    w.persisting = Some(Ok(()));
    w.pass(Duration::from_secs(31));
    assert!(!w.call("status", json!({}))["warnings"].to_string().contains("saved"));
}

/// Edits during a write are collected for the next write.
#[test]
fn writes_are_gathered() {
    let mut w = World::up(CONFIG);
    w.persisting = None;
    let ids: Vec<u64> = (0..20)
        .map(|i| w.send("network.add", json!({ "object": { "name": format!("n{i}"), "vni": i + 1 } })))
        .collect();
    let writes = |w: &World| w.seen.iter().filter(|o| matches!(o, Output::Persist(_))).count();
    assert_eq!(writes(&w), 1);
    assert!(ids.iter().all(|&id| w.reply(id).is_none()), "done means saved");
    w.tell(Input::Persisted(Ok(())));
    assert_eq!(writes(&w), 2);
    assert!(w.reply(ids[0]).is_some() && w.reply(ids[1]).is_none());
    w.tell(Input::Persisted(Ok(())));
    assert!(ids.iter().all(|&id| w.reply(id).is_some()));
    assert_eq!(writes(&w), 2);
}

/// Two workers: counters are added, rows merged, and pages followed for each worker.
#[test]
fn the_answers_of_all_workers_are_put_together() {
    let options = Options { config_text: Some(CONFIG.into()), workers: 2, ..Options::default() };
    let mut w = World::with(options);
    let row = |n: u8, idle| FdbRow {
        vni: Vni::new(100).unwrap(),
        vid: 0,
        mac: MacAddr([2, 0, 0, 0, 0, n]),
        location: if n.is_multiple_of(2) {
            Location::Port(w.id("eth1"))
        } else {
            Location::Peer(engine::command::PeerId(0))
        },
        is_static: n == 1,
        idle: Duration::from_secs(idle),
    };
    w.fdb = vec![(1..8).map(|n| row(n, 50)).collect(), (5..8).map(|n| row(n, 3)).collect()];
    let rows = w.call("fdb.list", json!({}))["rows"].clone();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 7);
    assert_eq!(
        rows[0],
        json!({ "mac": "02:00:00:00:00:01", "ifname": "uplink", "dst": "10.0.0.12", "vni": 100, "network": "private",
            "peer": "rvm2", "flags": [], "state": "static", "used": 50 })
    );
    assert_eq!((rows[5]["used"].as_u64(), rows[5]["ifname"].as_str()), (Some(3), Some("eth1")));
    assert_eq!(w.call("fdb.list", json!({ "peer": "rvm2" }))["rows"].as_array().unwrap().len(), 4);
    assert_eq!(w.call("fdb.list", json!({ "limit": 2 }))["warnings"].as_array().unwrap().len(), 1);
    let port = w.call("port.list", json!({ "name": "g1" }))["rows"][0].clone();
    assert_eq!(port["stats64"]["rx"], json!({ "bytes": 2000, "packets": 20, "errors": 0, "dropped": 8 }));
    let peer = w.call("peer.list", json!({}))["rows"][0].clone();
    assert_eq!((peer["resolved"].as_bool(), peer["tx"].as_u64()), (Some(true), Some(10)));
    let drops = w.call("drops", json!({ "port": "g1" }))["rows"].clone();
    assert_eq!((drops[0]["reason"].as_str(), drops[0]["count"].as_u64()), (Some("runt"), Some(8)));
    assert_eq!(drops[0]["help"], "The frame is shorter than an Ethernet header.");
    // The deletion of a learned entry goes to the workers, not to the file.
    w.take();
    w.call("fdb.del", json!({ "network": "private", "mac": "02:00:00:00:00:02" }));
    assert!(w.seen.iter().any(|o| matches!(o, Output::Worker(WorkerInput::Command(Command::RemoveFdb(..))))));
    assert!(!w.seen.iter().any(|o| matches!(o, Output::Persist(_))));
}

/// One worker does not answer: the client gets the other answers, in time.
#[test]
fn a_silent_worker_blocks_nobody() {
    let mut w = World::up(&without_peers());
    w.answering = false;
    let status = w.send("status", json!({ "timeout_ms": 500 }));
    let edit = w.send("network.add", json!({ "object": { "name": "n", "vni": 5 }, "timeout_ms": 500 }));
    w.pass(Duration::from_millis(499));
    assert!(w.reply(status).is_none() && w.reply(edit).is_none());
    w.pass(Duration::from_millis(1));
    assert!(w.reply(status).unwrap()["result"]["warnings"].to_string().contains("did not answer"));
    assert_eq!(w.reply(edit).unwrap()["error"]["code"], Code::Timeout.number());
    assert_eq!(w.agent.next_deadline(), None);
    // A client cannot make the agent keep more than a bounded number of requests.
    let ids: Vec<u64> = (0..100).map(|_| w.send("status", json!({}))).collect();
    let busy =
        ids.iter().filter(|&&id| w.reply(id).is_some_and(|r| r["error"]["code"] == Code::Busy.number()));
    assert_eq!(busy.count(), 36);
    w.tell(Input::Hangup(CLIENT));
    assert_eq!(w.agent.next_deadline(), None, "who hung up is forgotten");
}

#[test]
fn underlay_neighbours_and_routes_go_to_the_workers() {
    let mut w = World::up(CONFIG);
    let ip = IpAddr::from([10, 0, 0, 12]);
    for _ in 0..10 {
        w.tell(Input::Event(0, Event::Resolve(ip)));
    }
    assert_eq!(w.seen, [Output::Resolve(ip)], "asked once");
    let mac = MacAddr([2, 0, 0, 0, 0, 12]);
    w.take();
    w.tell(Input::UnderlayNeighbor(ip, Some(mac)));
    w.tell(Input::UnderlayNeighbor(ip, None));
    w.tell(Input::UnderlayNeighbor(ip, None));
    let command = |c| Output::Worker(WorkerInput::Command(c));
    assert_eq!(
        w.seen,
        [command(Command::SetUnderlayNeighbor(ip, mac)), command(Command::RemoveUnderlayNeighbor(ip))]
    );
    w.pass(Duration::from_secs(1));
    w.tell(Input::Event(0, Event::Resolve(ip)));
    assert!(w.seen.contains(&Output::Resolve(ip)), "and again when it is needed again");
}

#[test]
fn subscribers_hear_of_ports() {
    let mut w = World::up(CONFIG);
    w.call("subscribe", json!({}));
    w.tell(Input::PortFailed(w.id("g1"), "cable\u{1b}[2J".into()));
    let event = w.replies.last().unwrap().1.clone();
    assert_eq!(
        event,
        json!({ "jsonrpc": "2.0", "method": "event",
            "params": { "event": "port", "ifname": "g1", "state": "failed", "operstate": "DOWN",
                "why": "cable\\u{1b}[2J" } })
    );
    w.tell(Input::Hangup(CLIENT));
    let before = w.replies.len();
    w.tell(Input::PortFailed(w.id("eth1"), "x".into()));
    assert_eq!(w.replies.len(), before);
}

/// One file changes everything: doors go, ports move, and all other objects stay untouched.
#[test]
fn applying_a_file_touches_only_what_differs() {
    let mut w = World::up(CONFIG);
    let (eth1, g1) = (w.id("eth1"), w.id("g1"));
    let text = CONFIG.replace("[[port]]\nname = \"eth1\"\nnetwork = \"private\"\n", "") + "# a remark\n";
    w.call("config.apply", json!({ "text": text }));
    assert!(w.seen.contains(&Output::DeleteDoor("eth1".into())));
    assert_eq!(w.closed(), [eth1]);
    assert_eq!(w.id("g1"), g1);
    let commands: Vec<_> =
        w.seen.iter().filter(|o| matches!(o, Output::Worker(WorkerInput::Command(_)))).collect();
    assert_eq!(commands, [&Output::Worker(WorkerInput::Command(Command::RemovePort(eth1)))]);
    assert!(w.seen.contains(&Output::Persist(text.clone())), "the file is the operator's, to the letter");
    assert_eq!(w.call("config.apply", json!({ "text": text }))["changed"], false);
}

#[test]
fn a_disabled_port_is_closed_and_an_enabled_one_opened() {
    let mut w = World::up(CONFIG);
    let g1 = w.id("g1");
    w.pass(Duration::from_secs(1));
    w.call("port.set", json!({ "name": "g1", "set": { "enabled": false } }));
    assert_eq!(w.closed(), [g1]);
    assert!(!w.ports[&g1].live);
    let id = w.send("port.set", json!({ "name": "g1", "set": { "enabled": null } }));
    assert_eq!(w.opened().len(), 1);
    w.open_all();
    assert!(w.reply(id).is_some() && w.ports[&g1].live);
}

#[test]
fn a_bad_file_is_refused_at_the_start() {
    let options =
        Options { config_text: Some("[[port]]\nname = \"p\"\nnetwork = \"x\"".into()), ..Options::default() };
    let errors = Agent::new(Instant::ZERO, options).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].object, "port \"p\"");
}
