//! The agent, driven by hand: what happens to interfaces, doors, requests and the file, and what it asks for then.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ctl::agent::{Agent, Options};
use ctl::api::Code;
use ctl::io::{
    ClientId, DoorFault, DoorSpec, Input, IoKind, LinkFacts, OpenPort, Output, PortFacts, XdpMode,
};
use engine::command::Input as WorkerInput;
use engine::command::{
    Answer, Command, Event, FdbRow, IpPrefix, Location, PeerRow, PortConfig, PortId, Query, Vni,
};
use engine::counters::{PortCounters, SwitchCounters};
use engine::time::{Duration, Instant};
use engine::wire::mac::MacAddr;
use proptest::prelude::*;
use serde_json::{Value, json};

const CONFIG: &str = r#"
name = "rvm1"
[uplink]
interface = "eth0"
[[network]]
name = "private"
vni = 100
[[port]]
name = "eth1"
network = "private"
[[port]]
name = "g1"
network = "private"
interface = "p-g1"
role = "guest"
mac = ["02:00:00:00:00:01"]
[[peer]]
name = "rvm2"
address = "10.0.0.12"
"#;

/// Of an agent that has nothing to do by itself.
fn without_probes() -> String {
    CONFIG.replace("[uplink]", "[uplink]\nprobe = false")
}

const CLIENT: ClientId = ClientId(7);

/// An agent, the machine and the workers around it. Everything it asks for is kept in `seen`.
struct World {
    agent: Agent,
    now: Instant,
    seen: Vec<Output>,
    /// Whether workers answer queries, and how many there are.
    workers: usize,
    answering: bool,
    fdb: Vec<Vec<FdbRow>>,
    /// The tables as the workers have them.
    ports: BTreeMap<PortId, PortConfig>,
    replies: Vec<(ClientId, Value)>,
    persisting: Option<Result<(), String>>,
    next_id: u64,
}

impl World {
    fn new(text: &str) -> Self {
        Self::with(Options { config_text: Some(text.to_owned()), persist: true, ..Options::default() })
    }

    fn with(options: Options) -> Self {
        let workers = options.workers;
        let agent = Agent::new(Instant::from_millis(1000), options).unwrap();
        let mut world = Self {
            agent,
            now: Instant::from_millis(1000),
            seen: Vec::new(),
            workers,
            answering: true,
            fdb: vec![Vec::new(); workers],
            ports: BTreeMap::new(),
            replies: Vec::new(),
            persisting: Some(Ok(())),
            next_id: 0,
        };
        world.drain();
        world
    }

    /// Tells the agent something and carries out what it asks for.
    fn tell(&mut self, input: Input) {
        self.agent.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match &output {
                Output::Worker(WorkerInput::Command(Command::SetPort(id, c))) => {
                    self.ports.insert(*id, c.clone());
                }
                Output::Worker(WorkerInput::Command(Command::RemovePort(id))) => {
                    self.ports.remove(id).expect("a port that is there");
                }
                Output::Worker(WorkerInput::Query(token, query)) if self.answering => {
                    for worker in 0..self.workers {
                        let event = Event::Reply(*token, self.answer(worker, query));
                        self.agent.handle(self.now, Input::Event(worker, event));
                    }
                }
                Output::Persist(_) => {
                    if let Some(result) = self.persisting.clone() {
                        self.agent.handle(self.now, Input::Persisted(result));
                    }
                }
                Output::Reply(client, line) => {
                    assert!(!line.contains('\n'));
                    self.replies.push((*client, serde_json::from_str(line).unwrap()));
                }
                _ => {}
            }
            self.seen.push(output);
        }
    }

    /// Pages of two rows.
    fn answer(&self, worker: usize, query: &Query) -> Answer {
        match query {
            Query::Counters => {
                let mut port = PortCounters { rx_frames: 10, rx_bytes: 1000, ..PortCounters::default() };
                port.drops[1] = 4;
                let switch = SwitchCounters { rx: 10, tx: 6, dropped: 4, ..SwitchCounters::default() };
                Answer::Counters {
                    switch,
                    ports: self.ports.keys().map(|&id| (id, port.clone())).collect(),
                    pool: engine::frame::PoolUsage::default(),
                    fdb_entries: 3,
                    fdb_by_network: vec![(Vni::new(100).unwrap(), 3)],
                }
            }
            Query::Fdb(cursor) => {
                let rows = &self.fdb[worker];
                let from = *cursor as usize;
                let page = rows.iter().skip(from).take(2).copied().collect();
                Answer::Fdb(page, (from + 2 < rows.len()).then_some(cursor + 2))
            }
            Query::Neighbors(_) => Answer::Neighbors(vec![], None),
            Query::Floating => Answer::Floating(vec![]),
            Query::Peers => Answer::Peers(vec![PeerRow {
                id: engine::command::PeerId(0),
                next_mac: (worker == 0).then_some(MacAddr([2, 0, 0, 0, 0, 9])),
                tx: 5,
                rx: 7,
            }]),
            Query::DropSamples => Answer::DropSamples(vec![]),
            Query::Seen(..) => Answer::Seen(vec![], 0),
            Query::Trace(..) => Answer::Trace(engine::watch::Walk::default()),
        }
    }

    /// Lets time pass, calling the agent at each of its deadlines.
    fn pass(&mut self, d: Duration) {
        let end = self.now + d;
        while let Some(at) = self.agent.next_deadline().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.agent.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
        self.agent.handle_timeout(end);
        self.drain();
    }

    fn send(&mut self, method: &str, params: Value) -> u64 {
        self.next_id += 1;
        let line = json!({ "jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params });
        self.tell(Input::Request(CLIENT, line.to_string()));
        self.next_id
    }

    fn reply(&self, id: u64) -> Option<&Value> {
        self.replies.iter().map(|(_, v)| v).find(|v| v["id"] == id)
    }

    /// Sends and expects an answer at once.
    fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        let reply = self.reply(id).unwrap_or_else(|| panic!("{method} is not answered")).clone();
        assert!(reply["error"].is_null(), "{method}: {reply}");
        reply["result"].clone()
    }

    /// Sends and expects this error; its `what`, `why` and `how` in one text.
    fn refused(&mut self, method: &str, params: Value, code: Code) -> String {
        let id = self.send(method, params);
        let reply = self.reply(id).unwrap_or_else(|| panic!("{method} is not answered")).clone();
        assert_eq!(reply["error"]["code"], code.number(), "{method}: {reply}");
        let data = &reply["error"]["data"];
        format!("{} | {} | {}", data["what"], data["why"], data["how"]).replace("\\\"", "\"")
    }

    fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.seen)
    }

    fn opened(&self) -> Vec<(PortId, OpenPort)> {
        let open = |o: &Output| match o {
            Output::OpenPort(id, open) => Some((*id, open.clone())),
            _ => None,
        };
        self.seen.iter().filter_map(open).collect()
    }

    fn closed(&self) -> Vec<PortId> {
        self.seen
            .iter()
            .filter_map(|o| if let Output::ClosePort(id) = o { Some(*id) } else { None })
            .collect()
    }

    fn doors(&self) -> Vec<DoorSpec> {
        let door = |o: &Output| if let Output::CreateDoor(_, d) = o { Some(d.clone()) } else { None };
        self.seen.iter().filter_map(door).collect()
    }

    fn id(&self, port: &str) -> PortId {
        self.agent.port_id(port).unwrap()
    }

    fn open_all(&mut self) {
        for (id, _) in self.opened() {
            self.tell(Input::PortOpened(
                id,
                PortFacts { mode: "native, copy".into(), ..PortFacts::default() },
            ));
        }
    }

    /// Brings the machine of [`CONFIG`] up.
    fn up(text: &str) -> Self {
        let mut world = Self::new(text);
        for l in [uplink(), link("eth1", 5), link("eth1p", 6), link("p-g1", 7)] {
            world.tell(Input::Link(l));
        }
        world.open_all();
        world.take();
        world
    }
}

fn link(name: &str, index: u32) -> LinkFacts {
    LinkFacts {
        name: name.into(),
        index,
        mac: MacAddr([2, 0, 0, 0, 1, index as u8]),
        mtu: 1500,
        up: true,
        carrier: true,
        addresses: vec![],
    }
}

fn address(text: &str, len: u8) -> IpPrefix {
    IpPrefix { addr: text.parse().unwrap(), len }
}

fn uplink() -> LinkFacts {
    let addresses = vec![address("fe80::1", 64), address("10.0.0.11", 24), address("10.0.0.50", 24)];
    LinkFacts { addresses, ..link("eth0", 2) }
}

#[test]
fn a_door_is_made_then_opened_and_only_then_live() {
    let mut w = World::new(CONFIG);
    let eth1 = w.id("eth1");
    assert_eq!(w.doors().len(), 1, "at once, whatever the uplink does: a CMS wants it at boot");
    assert_eq!(w.doors()[0].peer, "eth1p");
    assert_eq!(w.doors()[0].mac, ctl::reconcile::door_mac("rvm1", "eth1"));
    assert_eq!(w.opened(), [], "nothing is there yet");
    assert!(!w.ports[&eth1].live);

    w.take();
    w.tell(Input::Link(link("eth1", 5)));
    assert_eq!(w.opened(), [], "the CMS's end is not ours");
    w.tell(Input::Link(link("eth1p", 6)));
    let open = OpenPort {
        interface: "eth1p".into(),
        index: 6,
        shared: false,
        xdp: XdpMode::Auto,
        kind: IoKind::Packet,
        ours: true,
        tunnel: None,
        queues: 1,
    };
    assert_eq!(w.opened(), [(eth1, open)]);
    assert!(!w.ports[&eth1].live, "asked for is not opened");

    w.tell(Input::PortOpened(eth1, PortFacts::default()));
    assert!(w.ports[&eth1].live);
    assert_eq!(w.ports[&eth1].mtu, 1450);
    assert!(w.agent.port_live("eth1"));
}

#[test]
fn the_uplink_gives_address_mtu_guard_and_steering() {
    let mut w = World::new(CONFIG);
    assert!(w.seen.contains(&Output::WatchUnderlay(Some("eth0".into()))));
    w.take();
    w.tell(Input::Link(LinkFacts { mtu: 9000, ..uplink() }));
    let set = w.seen.iter().find_map(|o| match o {
        Output::Worker(WorkerInput::Command(Command::SetUplink(u))) => Some(u.clone()),
        _ => None,
    });
    let set = set.expect("the uplink is known now");
    assert_eq!(set.vtep, IpAddr::from([10, 0, 0, 11]), "the first global address");
    assert_eq!(set.mtu, 9000);
    assert!(
        set.guard.contains(&address("10.0.0.0", 24)) && set.guard.contains(&address("169.254.169.254", 32))
    );
    assert_eq!(w.doors()[0].mtu, 8950, "the door follows");
    let steer =
        w.seen.iter().position(|o| matches!(o, Output::Steer(p) if p.tunnel == Some((set.vtep, 4789))));
    let open = w.seen.iter().position(|o| matches!(o, Output::OpenPort(PortId(0), o) if o.shared));
    assert!(steer.unwrap() < open.unwrap(), "the plan is there before the program is attached");
    w.tell(Input::PortOpened(PortId(0), PortFacts::default()));
    assert!(
        matches!(w.seen.last(), Some(Output::Steer(p)) if p.tunnel.is_some()),
        "and again for a new program"
    );

    // Its first address goes: the next one takes over. While an address is held, it stays.
    w.take();
    let swapped = vec![address("10.0.0.50", 24), address("10.0.0.11", 24)];
    w.tell(Input::Link(LinkFacts { mtu: 9000, addresses: swapped, ..uplink() }));
    assert!(!w.seen.iter().any(|o| matches!(o, Output::Steer(_))), "{:?}", w.seen);
    w.tell(Input::Link(LinkFacts { mtu: 9000, addresses: vec![address("10.0.0.50", 24)], ..uplink() }));
    let at = IpAddr::from([10, 0, 0, 50]);
    assert!(w.seen.iter().any(|o| matches!(o, Output::Steer(p) if p.tunnel == Some((at, 4789)))));
}

/// An interface goes and returns under another index. The others never notice.
#[test]
fn an_interface_goes_and_returns() {
    let mut w = World::up(CONFIG);
    let (g1, eth1) = (w.id("g1"), w.id("eth1"));
    assert!(w.ports.values().all(|p| p.live));
    w.tell(Input::LinkGone("p-g1".into()));
    assert_eq!(w.closed(), [g1]);
    assert!(!w.ports[&g1].live && w.ports[&eth1].live && w.ports[&PortId(0)].live);
    let row = &w.call("port.list", json!({ "name": "g1" }))["rows"][0];
    assert_eq!(
        (row["state"].as_str(), row["why"].as_str()),
        (Some("waiting"), Some("waiting for interface p-g1"))
    );

    w.tell(Input::PortOpened(g1, PortFacts::default()));
    assert!(!w.ports[&g1].live, "an answer that was under way when the interface went");
    w.pass(Duration::from_secs(60));
    assert_eq!(w.opened(), [], "it waits without polling");
    w.tell(Input::Link(link("p-g1", 17)));
    assert_eq!(w.opened().len(), 1);
    assert_eq!(w.opened()[0].1.index, 17);
    // A late answer about the old one must not make a difference that lasts.
    w.tell(Input::PortFailed(g1, "the old socket".into()));
    w.tell(Input::PortOpened(g1, PortFacts::default()));
    assert!(w.ports[&g1].live);
    let touched = |o: &&Output| matches!(o, Output::ClosePort(id) | Output::OpenPort(id, _) if *id != g1);
    assert_eq!(w.seen.iter().find(touched), None);
}

#[test]
fn an_interface_replaced_in_one_step_is_closed_and_opened_again() {
    let mut w = World::up(CONFIG);
    let g1 = w.id("g1");
    w.pass(Duration::from_secs(1));
    w.tell(Input::Link(link("p-g1", 40)));
    assert_eq!(w.closed(), [g1]);
    assert_eq!(w.opened()[0].1.index, 40);
    assert!(!w.ports[&g1].live);
}

/// An interface that flaps a thousand times within a second is not opened a thousand times.
#[test]
fn flapping_is_bounded() {
    let mut w = World::up(CONFIG);
    for i in 0..1000 {
        w.tell(Input::LinkGone("p-g1".into()));
        w.tell(Input::Link(link("p-g1", 100 + i)));
        w.pass(Duration::from_millis(1));
    }
    assert!(w.opened().len() <= 11, "{}", w.opened().len());
    w.pass(Duration::from_secs(2));
    assert_eq!(w.opened().last().unwrap().1.index, 1099, "in the end the last one is");
}

/// A port that cannot be opened is tried again: first after a second, then more and more seldom.
#[test]
fn failed_opens_are_tried_again() {
    let mut w = World::new(CONFIG);
    let g1 = w.id("g1");
    w.tell(Input::Link(link("p-g1", 7)));
    let mut times = vec![w.now];
    for _ in 0..6 {
        w.take();
        w.tell(Input::PortFailed(g1, "port \"g1\": no memory; raise LimitMEMLOCK".into()));
        while w.opened().is_empty() {
            w.pass(Duration::from_millis(100));
        }
        times.push(w.now);
    }
    let pauses: Vec<u64> = times.windows(2).map(|t| t[1].since(t[0]).as_millis() as u64).collect();
    assert_eq!(pauses, [1000, 2000, 4000, 8000, 10_000, 10_000]);
    let said = |w: &World| w.seen.iter().filter(|o| matches!(o, Output::Log("warn", _))).count();
    assert_eq!(said(&w), 0, "the same complaint is not logged again and again");
    // The interface changes: tried at once, and the pauses begin anew.
    w.tell(Input::PortFailed(g1, "again".into()));
    w.take();
    w.pass(Duration::from_secs(2));
    w.tell(Input::Link(LinkFacts { mtu: 1600, ..link("p-g1", 7) }));
    assert_eq!(w.opened().len(), 1);
    w.tell(Input::PortOpened(g1, PortFacts::default()));
    assert!(w.ports[&g1].live);
}

/// The pair is deleted under us: it is made again. The CMS moving its own end away is its right.
#[test]
fn a_door_that_was_removed_is_made_again() {
    let mut w = World::up(CONFIG);
    let eth1 = w.id("eth1");
    w.tell(Input::LinkGone("eth1".into()));
    assert!(w.ports[&eth1].live && w.closed().is_empty(), "moved into a namespace");
    w.tell(Input::LinkGone("eth1p".into()));
    assert_eq!(w.closed(), [eth1]);
    assert_eq!(w.doors(), [], "not in the same instant");
    w.pass(Duration::from_secs(1));
    assert_eq!(w.doors().len(), 1);
    let why = "port \"eth1\": an interface of this name is there; rename it".into();
    w.tell(Input::DoorFailed(eth1, DoorFault { why, usable: false }));
    let row = &w.call("port.list", json!({ "name": "eth1" }))["rows"][0];
    assert_eq!(row["state"], "failed");
    assert!(row["why"].as_str().unwrap().contains("rename it"));
    w.pass(Duration::from_secs(1));
    assert_eq!(w.doors().len(), 2);
    w.tell(Input::Link(link("eth1p", 60)));
    w.open_all();
    assert!(w.ports[&eth1].live);
}

/// A door that was never finished is no door, whatever interface has its name: its port is not opened, or is closed, and
/// says why; and it is tried again until it is finished. One that was finished once works on.
#[test]
fn a_door_that_is_not_finished_is_not_live() {
    let mut w = World::up(CONFIG);
    let eth1 = w.id("eth1");
    w.tell(Input::DoorFailed(eth1, DoorFault { why: "cannot set its MTU".into(), usable: true }));
    assert!(w.ports[&eth1].live && w.closed().is_empty());
    let fault = DoorFault { why: "cannot switch IPv6 off".into(), usable: false };
    w.tell(Input::DoorFailed(eth1, fault.clone()));
    assert!(!w.ports[&eth1].live);
    assert_eq!(w.closed(), [eth1]);
    let row = |w: &mut World| w.call("port.list", json!({ "name": "eth1" }))["rows"][0].clone();
    assert_eq!(row(&mut w)["state"], "failed");
    assert_eq!(row(&mut w)["why"], "cannot switch IPv6 off");
    w.pass(Duration::from_secs(1));
    assert_eq!(w.doors().len(), 1, "asked for again, though its interface is there");
    w.tell(Input::DoorFailed(eth1, fault));
    assert_eq!(row(&mut w)["state"], "failed");
    w.pass(Duration::from_secs(2));
    w.open_all();
    assert!(w.ports[&eth1].live);
}

/// `port add` answers when the port is live.
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

    // One that does not open in time: a timeout, and it goes on.
    w.tell(Input::Link(link("p-g3", 9)));
    let object = json!({ "name": "g3", "network": "private", "interface": "p-g3" });
    let id = w.send("port.add", json!({ "object": object, "timeout_ms": 3000 }));
    w.pass(Duration::from_millis(2999));
    assert_eq!(w.reply(id), None);
    w.pass(Duration::from_millis(1));
    assert_eq!(w.reply(id).unwrap()["error"]["code"], Code::Timeout.number());
    w.open_all();
    assert!(w.agent.port_live("g3"));

    // One that fails: done, with a warning.
    w.tell(Input::Link(link("p-g4", 10)));
    let object = json!({ "name": "g4", "network": "private", "interface": "p-g4" });
    let id = w.send("port.add", json!({ "object": object }));
    w.tell(Input::PortFailed(w.id("g4"), "p-g4 has an XDP program already".into()));
    assert!(w.reply(id).unwrap()["result"]["warnings"][0].as_str().unwrap().contains("XDP program already"));
    // Nobody waits: answered at once.
    let object = json!({ "name": "eth9", "network": "private" });
    assert_eq!(w.call("port.add", json!({ "object": object, "timeout_ms": 0 }))["warnings"], json!([]));
}

/// Refused edits leave everything as it was, name what is wrong, and have their own codes.
#[test]
fn bad_edits_are_refused_whole() {
    let mut w = World::up(CONFIG);
    let before = w.agent.config().clone();
    for (method, params, code, words) in [
        ("network.add", json!({ "object": { "name": "n" } }), Code::Failed, "`vni` is missing"),
        ("network.add", json!({ "object": { "name": "n", "vni": 0 } }), Code::Failed, "1 to 16777215"),
        ("network.add", json!({ "object": { "name": "n", "vni": 100 } }), Code::Conflict, "\"private\"'s"),
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
        ("network.del", json!({ "name": "private" }), Code::Conflict, "in use by port \"eth1\", port \"g1\""),
        ("port.add", json!({ "object": { "name": "p", "network": "privat" } }), Code::NotFound, "`private`?"),
        ("port.add", json!({ "object": 7 }), Code::Failed, "expected"),
        ("port.set", json!({ "name": "g1", "set": { "mac": null } }), Code::Failed, "no `mac`"),
        ("peer.add", json!({ "object": { "name": "x", "address": "10.0.0.12" } }), Code::Conflict, "rvm2"),
        ("floating.del", json!({ "ip": "56.0.0.1" }), Code::NotFound, "fip 56.0.0.1"),
        ("floating.del", json!({}), Code::Params, "`ip` is missing"),
        ("route.del", json!({ "network": "private", "from": "x" }), Code::Params, "no prefix"),
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

/// The file cannot be written: the change is in force, the answer and the status say so, and it is tried again.
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

/// While one write is under way, edits gather for the next.
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

/// Two workers: numbers are added, rows merged, pages followed for each.
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
    assert_eq!(drops[0]["help"], "Shorter than an Ethernet header.");
    // Deleting a learned one goes to the workers, not to the file.
    w.take();
    w.call("fdb.del", json!({ "network": "private", "mac": "02:00:00:00:00:02" }));
    assert!(w.seen.iter().any(|o| matches!(o, Output::Worker(WorkerInput::Command(Command::RemoveFdb(..))))));
    assert!(!w.seen.iter().any(|o| matches!(o, Output::Persist(_))));
}

/// A worker that does not answer: the asker hears what there is, in time.
#[test]
fn a_silent_worker_blocks_nobody() {
    let mut w = World::up(&without_probes());
    w.answering = false;
    let status = w.send("status", json!({ "timeout_ms": 500 }));
    let edit = w.send("network.add", json!({ "object": { "name": "n", "vni": 5 }, "timeout_ms": 500 }));
    w.pass(Duration::from_millis(499));
    assert!(w.reply(status).is_none() && w.reply(edit).is_none());
    w.pass(Duration::from_millis(1));
    assert!(w.reply(status).unwrap()["result"]["warnings"].to_string().contains("did not answer"));
    assert_eq!(w.reply(edit).unwrap()["error"]["code"], Code::Timeout.number());
    assert_eq!(w.agent.next_deadline(), None);
    // Nobody can make it keep more than a bounded number of requests.
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

/// Everything is changed by one file: doors go, ports move, the rest stays untouched.
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

/// What can happen around an agent, in any order.
#[derive(Clone, Debug)]
enum Happening {
    LinkComes(usize),
    LinkGoes(usize),
    /// The machine answers the oldest request to open a port.
    OpenAnswered(bool),
    Fails(usize),
    /// With or without a door that was finished once.
    DoorFails(usize, bool),
    Enabled(usize, bool),
    Added(usize),
    Deleted(usize),
    Time(u64),
}

const LINKS: [&str; 5] = ["eth0", "eth1", "eth1p", "eth2p", "p-g1"];
const PORTS: [&str; 4] = ["eth1", "eth2", "g1", "uplink"];

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        4 => (0..LINKS.len()).prop_map(LinkComes),
        2 => (0..LINKS.len()).prop_map(LinkGoes),
        4 => any::<bool>().prop_map(OpenAnswered),
        1 => (0..PORTS.len()).prop_map(Fails),
        1 => (0..PORTS.len(), any::<bool>()).prop_map(|(p, usable)| DoorFails(p, usable)),
        1 => (0..3usize, any::<bool>()).prop_map(|(p, e)| Enabled(p, e)),
        1 => (0..2usize).prop_map(Added),
        1 => (0..2usize).prop_map(Deleted),
        3 => (1u64..3000).prop_map(Time),
    ]
}

/// The machine as it is: which interfaces there are, which ports are open on what.
#[derive(Default)]
struct Machine {
    next_index: u32,
    links: BTreeMap<String, u32>,
    /// Asked for and not answered, oldest first.
    asked: std::collections::VecDeque<(PortId, OpenPort)>,
    attached: BTreeMap<PortId, OpenPort>,
}

impl Machine {
    fn comes(&mut self, w: &mut World, name: &str) {
        self.next_index += 1;
        self.links.insert(name.to_owned(), self.next_index);
        let facts = if name == "eth0" { uplink() } else { link(name, 0) };
        w.tell(Input::Link(LinkFacts { index: self.next_index, name: name.to_owned(), ..facts }));
    }

    /// Carries out what the agent asked for since.
    fn carry_out(&mut self, w: &mut World) {
        for output in w.take() {
            match output {
                Output::OpenPort(id, open) => {
                    assert_eq!(
                        self.links.get(&open.interface),
                        Some(&open.index),
                        "only what is there is opened"
                    );
                    self.attached.remove(&id);
                    self.asked.push_back((id, open));
                }
                Output::ClosePort(id) => {
                    self.attached.remove(&id);
                    self.asked.retain(|(i, _)| *i != id);
                }
                _ => {}
            }
        }
        for (id, port) in &w.ports {
            if port.live {
                let open = self.attached.get(id).expect("only an attached port is live");
                assert_eq!(
                    self.links.get(&open.interface),
                    Some(&open.index),
                    "on an interface that is there"
                );
            }
        }
        if let Some(at) = w.agent.next_deadline() {
            assert!(at > w.now, "no deadline is left behind");
        }
    }

    fn answer(&mut self, w: &mut World, works: bool) {
        let Some((id, open)) = self.asked.pop_front() else { return };
        if works && self.links.get(&open.interface) == Some(&open.index) {
            self.attached.insert(id, open);
            w.tell(Input::PortOpened(id, PortFacts::default()));
        } else {
            w.tell(Input::PortFailed(id, "it did not work".into()));
        }
    }
}

proptest! {
    /// Whatever happens, only attached ports are live; and when all troubles are over, every enabled port is.
    #[test]
    fn in_the_end_every_port_is_live(happenings in prop::collection::vec(happening(), 0..60)) {
        let mut w = World::new(&without_probes());
        let mut m = Machine::default();
        let door = |i: usize| json!({ "object": { "name": PORTS[i], "network": "private" }, "timeout_ms": 0 });
        for happening in happenings {
            match happening {
                Happening::LinkComes(i) => m.comes(&mut w, LINKS[i]),
                Happening::LinkGoes(i) => {
                    if m.links.remove(LINKS[i]).is_some() {
                        w.tell(Input::LinkGone(LINKS[i].into()));
                    }
                }
                Happening::OpenAnswered(works) => m.answer(&mut w, works),
                Happening::Fails(i) => {
                    if let Some(id) = w.agent.port_id(PORTS[i]).filter(|id| m.attached.remove(id).is_some()) {
                        w.tell(Input::PortFailed(id, "it broke".into()));
                    }
                }
                Happening::DoorFails(i, usable) => {
                    if let Some(id) = w.agent.port_id(PORTS[i]) {
                        w.tell(Input::DoorFailed(id, DoorFault { why: "no pair".into(), usable }));
                    }
                }
                Happening::Enabled(i, enabled) => {
                    let set = json!({ "name": PORTS[i], "set": { "enabled": enabled }, "timeout_ms": 0 });
                    w.send("port.set", set);
                }
                Happening::Added(i) => drop(w.send("port.add", door(i))),
                Happening::Deleted(i) => drop(w.send("port.del", json!({ "name": PORTS[i], "timeout_ms": 0 }))),
                Happening::Time(ms) => w.pass(Duration::from_millis(ms)),
            }
            m.carry_out(&mut w);
        }
        for name in LINKS {
            m.comes(&mut w, name);
            m.carry_out(&mut w);
        }
        for _ in 0..30 {
            w.pass(Duration::from_secs(1));
            m.carry_out(&mut w);
            while !m.asked.is_empty() {
                m.answer(&mut w, true);
                m.carry_out(&mut w);
            }
        }
        for p in &w.agent.config().port {
            prop_assert_eq!(w.agent.port_live(&p.name), p.enabled, "{}", &p.name);
        }
        prop_assert!(w.agent.port_live("uplink"));
        prop_assert_eq!(w.agent.next_deadline(), None, "and then it is quiet");
    }

    /// Any line: one answer, no panic.
    #[test]
    fn any_line_is_answered(line in "\\PC*") {
        let mut w = World::new("");
        w.tell(Input::Request(CLIENT, line));
        prop_assert_eq!(w.replies.len(), 1);
    }

    /// Requests with every method and parameters of any kind: an answer in time, no panic, a valid configuration.
    #[test]
    fn any_parameters_are_answered(calls in prop::collection::vec((0..METHODS.len(), params()), 0..12)) {
        let mut w = World::up(CONFIG);
        for (method, params) in calls {
            w.send(METHODS[method], params);
        }
        w.pass(Duration::from_secs(600));
        for id in 1..=w.next_id {
            prop_assert!(w.reply(id).is_some());
        }
        prop_assert!(ctl::model::validate(w.agent.config(), None).is_ok());
    }
}

const METHODS: [&str; 35] = [
    "version",
    "status",
    "subscribe",
    "network.list",
    "network.add",
    "network.set",
    "network.del",
    "port.list",
    "port.add",
    "port.set",
    "port.del",
    "peer.list",
    "peer.add",
    "peer.set",
    "peer.del",
    "floating.list",
    "floating.add",
    "floating.set",
    "floating.del",
    "route.list",
    "route.add",
    "route.set",
    "route.del",
    "fdb.list",
    "fdb.add",
    "fdb.set",
    "fdb.del",
    "fdb.flush",
    "neigh.list",
    "drops",
    "config.apply",
    "config.check",
    "config.diff",
    "config.confirm",
    "config.rollback",
];

/// Parameters under the names that there are, with values that fit often enough.
fn params() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "private",
        "public",
        "eth1",
        "g1",
        "rvm1",
        "rvm2",
        "10.0.0.9",
        "fd00::9",
        "56.0.0.0/24",
        "02:00:00:00:00:05",
        "tcp/80",
        "guest",
        "",
        "\u{1b}",
        "name = \"rvm1\"",
    ]);
    let leaf = prop_oneof![
        4 => word.clone().prop_map(Value::from),
        2 => (-1i64..5000).prop_map(Value::from),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(json!(1.5e300)),
    ];
    let key = prop::sample::select(vec![
        "name",
        "object",
        "set",
        "vni",
        "network",
        "interface",
        "mac",
        "ip",
        "address",
        "peer",
        "port",
        "via",
        "from",
        "gateway",
        "reality",
        "only",
        "except",
        "inside",
        "vlan",
        "access",
        "trunk",
        "mtu",
        "fdb_age",
        "may_exist",
        "if_exists",
        "timeout_ms",
        "limit",
        "text",
        "confirm_s",
        "role",
    ]);
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            4 => prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
    .prop_map(|v| if v.is_object() { v } else { json!({ "object": v }) })
}
