//! Tests of the agent, driven by hand: how it reacts to interfaces, doors, requests and the file, and its outputs.

mod peers;
mod random;
mod requests;
mod shown;
mod surroundings;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ctl::agent::{Agent, Options};
use ctl::api::Code;
use ctl::io::{
    ClientId, DoorFault, DoorSpec, Input, IoKind, LinkFacts, OpenPort, Output, PortFacts, XdpMode,
};
use engine::command::Input as WorkerInput;
use engine::command::{Answer, Command, Event, FdbRow, IpPrefix, PeerRow, PortConfig, PortId, Query, Vni};
use engine::counters::{PortCounters, SwitchCounters, Volume};
use engine::time::{Duration, Instant};
use engine::wire::mac::MacAddr;
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

/// The configuration of an agent that does nothing by itself.
fn without_peers() -> String {
    CONFIG.split("[[peer]]").next().unwrap().to_owned()
}

const CLIENT: ClientId = ClientId(7);

/// An agent, with the machine and the workers around it. All its outputs are kept in `seen`.
struct World {
    agent: Agent,
    now: Instant,
    seen: Vec<Output>,
    /// Whether workers answer queries, and how many workers there are.
    workers: usize,
    answering: bool,
    /// Whether we send frames to the peers all the time.
    busy: bool,
    /// Whether the kernel lacks a route to the peer.
    no_route: bool,
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
            busy: false,
            no_route: false,
            fdb: vec![Vec::new(); workers],
            ports: BTreeMap::new(),
            replies: Vec::new(),
            persisting: Some(Ok(())),
            next_id: 0,
        };
        world.drain();
        world
    }

    /// Passes an input to the agent, and carries out its outputs.
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

    /// Answers in pages of two rows.
    fn answer(&self, worker: usize, query: &Query) -> Answer {
        match query {
            Query::Counters => {
                let mut port = PortCounters { rx_frames: 10, rx_bytes: 1000, ..PortCounters::default() };
                port.drops[1] = 4;
                let switch = SwitchCounters { rx: 10, tx: 6, dropped: 4, ..SwitchCounters::default() };
                Answer::Counters {
                    switch: switch.into(),
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
                next_mac: (worker == 0 && !self.no_route).then_some(MacAddr([2, 0, 0, 0, 0, 9])),
                no_route: self.no_route,
                tx: if self.busy { self.sent() } else { Volume { frames: 5, bytes: 500 } },
                rx: Volume { frames: 7, bytes: 700 },
            }]),
            Query::DropSamples => Answer::DropSamples(vec![]),
            Query::Seen(..) => Answer::Seen(vec![], 0),
            Query::Trace(..) => Answer::Trace(engine::watch::Walk::default()),
        }
    }

    /// The traffic sent to a peer in use.
    fn sent(&self) -> Volume {
        let frames = self.now.as_nanos() / 1_000_000;
        Volume { frames, bytes: 100 * frames }
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

    /// Sends a request, and expects the answer immediately.
    fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        let reply = self.reply(id).unwrap_or_else(|| panic!("{method} is not answered")).clone();
        assert!(reply["error"].is_null(), "{method}: {reply}");
        reply["result"].clone()
    }

    /// Sends a request, and expects this error; returns its `what`, `why` and `how` in one text.
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

    /// Brings up the machine of [`CONFIG`].
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
        alt_names: Vec::new(),
        vxlan: None,
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
    assert_eq!(w.doors()[0].mac, ctl::reconcile::door_mac(ctl::reconcile::stable_hash(&["rvm1"]), "eth1"));
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

    // When the first address goes, the next one takes over. An address in use stays in use while the interface has
    // it.
    w.take();
    let swapped = vec![address("10.0.0.50", 24), address("10.0.0.11", 24)];
    w.tell(Input::Link(LinkFacts { mtu: 9000, addresses: swapped, ..uplink() }));
    assert!(!w.seen.iter().any(|o| matches!(o, Output::Steer(_))), "{:?}", w.seen);
    w.tell(Input::Link(LinkFacts { mtu: 9000, addresses: vec![address("10.0.0.50", 24)], ..uplink() }));
    let at = IpAddr::from([10, 0, 0, 50]);
    assert!(w.seen.iter().any(|o| matches!(o, Output::Steer(p) if p.tunnel == Some((at, 4789)))));
}

/// An interface goes and returns under another index. The other interfaces do not notice.
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
    // A late answer about the old interface must not have a lasting effect.
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

/// A port that cannot be opened is tried again: first after a second, then less and less often.
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
    // When the interface changes, the port is tried immediately, and the pauses begin again at the shortest.
    w.tell(Input::PortFailed(g1, "again".into()));
    w.take();
    w.pass(Duration::from_secs(2));
    w.tell(Input::Link(LinkFacts { mtu: 1600, ..link("p-g1", 7) }));
    assert_eq!(w.opened().len(), 1);
    w.tell(Input::PortOpened(g1, PortFacts::default()));
    assert!(w.ports[&g1].live);
}

/// Another program deletes the pair, and the agent creates it again. The CMS may move its own end away.
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

/// A door that was never finished is not a door, even if an interface has its name: its port is not opened, or is
/// closed, and says why; the agent tries again until the door is finished. A door that was finished once keeps
/// working.
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
