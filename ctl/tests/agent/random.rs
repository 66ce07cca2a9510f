//! Property tests: any events around an agent in any order, and any requests.

use std::collections::BTreeMap;

use ctl::io::{DoorFault, Input, LinkFacts, OpenPort, Output, PortFacts};
use engine::command::PortId;
use engine::time::Duration;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{CLIENT, CONFIG, World, link, uplink, without_peers};

/// Any event around an agent.
#[derive(Clone, Debug)]
enum Happening {
    LinkComes(usize),
    LinkGoes(usize),
    /// The machine answers the oldest request to open a port.
    OpenAnswered(bool),
    Fails(usize),
    /// With a door that was finished once, or without.
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

/// The state of the machine: its interfaces, and the open ports with their interfaces.
#[derive(Default)]
struct Machine {
    next_index: u32,
    links: BTreeMap<String, u32>,
    /// Requests without an answer yet, oldest first.
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

    /// Carries out the agent's new outputs.
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
    /// In any sequence of events, only attached ports are live; and when all faults are over, every enabled port is live.
    #[test]
    fn in_the_end_every_port_is_live(happenings in prop::collection::vec(happening(), 0..60)) {
        let mut w = World::new(&without_peers());
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

    /// Any line gets one answer, without a panic.
    #[test]
    fn any_line_is_answered(line in "\\PC*") {
        let mut w = World::new("");
        w.tell(Input::Request(CLIENT, line));
        prop_assert_eq!(w.replies.len(), 1);
    }

    /// Requests with every method and parameters of any kind get an answer in time, without a panic, and leave a
    /// valid configuration.
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

/// Parameters under existing names, with values that are valid often enough.
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
