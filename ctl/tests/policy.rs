//! A port's policy, as the agent applies it: limits, quarantine, mirrors, and guards that disable.

use std::collections::BTreeMap;

use ctl::agent::{Agent, Options};
use ctl::api::Code;
use ctl::io::{ClientId, Input, LinkFacts, Output, PortFacts};
use engine::command::{Answer, Command, Cut, Event, Input as WorkerInput, PortConfig, PortId, Query, Rate};
use engine::time::{Duration, Instant};
use serde_json::{Value, json};

const CONFIG: &str = r#"
name = "rvm1"
[[network]]
name = "private"
vni = 100
[[port]]
name = "a"
network = "private"
interface = "p-a"
[[port]]
name = "b"
network = "private"
interface = "p-b"
bpdu_guard = true
[[port]]
name = "c"
network = "private"
interface = "p-c"
"#;

const CLIENT: ClientId = ClientId(7);

/// An agent with the machine and one worker around it.
struct World {
    agent: Agent,
    now: Instant,
    ports: BTreeMap<PortId, PortConfig>,
    lines: Vec<Value>,
    logged: Vec<String>,
    next_id: u64,
}

impl World {
    /// All interfaces are there and open.
    fn up(text: &str) -> Self {
        let options = Options { config_text: Some(text.to_owned()), ..Options::default() };
        let now = Instant::from_millis(1000);
        let agent = Agent::new(now, options).unwrap();
        let mut world =
            Self { agent, now, ports: BTreeMap::new(), lines: Vec::new(), logged: Vec::new(), next_id: 0 };
        world.drain();
        for (index, name) in ["p-a", "p-b", "p-c"].into_iter().enumerate() {
            world.tell(Input::Link(LinkFacts {
                name: name.into(),
                index: index as u32 + 2,
                mac: engine::wire::mac::MacAddr([2, 0, 0, 0, 0, 1]),
                mtu: 1500,
                up: true,
                carrier: true,
                addresses: vec![],
                alt_names: Vec::new(),
                vxlan: None,
            }));
        }
        world
    }

    fn tell(&mut self, input: Input) {
        self.agent.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Worker(WorkerInput::Command(Command::SetPort(id, c))) => {
                    self.ports.insert(id, c);
                }
                Output::Worker(WorkerInput::Query(token, Query::Counters)) => {
                    let answer = Answer::Counters {
                        switch: Box::default(),
                        ports: vec![],
                        pool: engine::frame::PoolUsage::default(),
                        fdb_entries: 0,
                        fdb_by_network: vec![],
                    };
                    self.agent.handle(self.now, Input::Event(0, Event::Reply(token, answer)));
                }
                Output::Worker(WorkerInput::Query(token, Query::Peers)) => {
                    self.agent.handle(self.now, Input::Event(0, Event::Reply(token, Answer::Peers(vec![]))));
                }
                Output::Worker(WorkerInput::Query(token, Query::Floating)) => {
                    self.agent
                        .handle(self.now, Input::Event(0, Event::Reply(token, Answer::Floating(vec![]))));
                }
                Output::OpenPort(id, _) => {
                    self.agent.handle(self.now, Input::PortOpened(id, PortFacts::default()));
                }
                Output::Reply(_, line) => self.lines.push(serde_json::from_str(&line).unwrap()),
                Output::Log(_, text) => self.logged.push(text),
                _ => {}
            }
        }
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let line = json!({ "jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params });
        self.tell(Input::Request(CLIENT, line.to_string()));
        let id = self.next_id;
        self.lines.iter().find(|line| line["id"] == id).unwrap_or_else(|| panic!("{method}")).clone()
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        let reply = self.ask(method, params);
        assert!(reply["error"].is_null(), "{method}: {reply}");
        reply["result"].clone()
    }

    fn set(&mut self, port: &str, set: Value) -> Value {
        self.call("port.set", json!({ "name": port, "set": set }))
    }

    fn refused(&mut self, port: &str, set: Value, code: Code, words: &str) {
        let reply = self.ask("port.set", json!({ "name": port, "set": set }));
        assert_eq!(reply["error"]["code"], code.number(), "{reply}");
        assert!(reply["error"].to_string().contains(words), "{reply}");
    }

    fn row(&mut self, port: &str) -> Value {
        self.call("port.list", json!({ "name": port }))["rows"][0].clone()
    }

    fn port(&self, name: &str) -> &PortConfig {
        &self.ports[&self.id(name)]
    }

    fn id(&self, name: &str) -> PortId {
        self.agent.port_id(name).unwrap()
    }

    fn text(&mut self) -> String {
        self.call("config.show", json!({}))["text"].as_str().unwrap().to_owned()
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.agent.next_deadline().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.agent.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn bpdu(&mut self, port: &str) {
        let id = self.id(port);
        self.tell(Input::Event(0, Event::Bpdu(id)));
    }
}

#[test]
fn limits_reach_the_workers() {
    let mut w = World::up(CONFIG);
    w.set("a", json!({ "ingress_bps": 100_000_000, "ingress_burst": 50_000, "egress_pps": 2000 }));
    let policy = &w.port("a").policy;
    assert_eq!(policy.ingress, Rate { bps: Some(100_000_000), pps: None, burst: Some(50_000) });
    assert_eq!(policy.egress, Rate { pps: Some(2000), ..Rate::default() });
    assert_eq!(w.row("a")["ingress"], json!({ "bps": 100_000_000, "burst": 50_000 }));
    w.set("a", json!({ "ingress_bps": null, "ingress_burst": null, "egress_pps": null }));
    assert_eq!(w.port("a").policy, Default::default());
    assert_eq!(w.row("a")["ingress"], Value::Null);
    for (set, words) in [
        (json!({ "ingress_bps": 0 }), "out of range"),
        (json!({ "egress_bps": 10 }), "out of range"),
        (json!({ "ingress_bps": 2_000_000_000_000_u64 }), "out of range"),
        (json!({ "ingress_pps": 0 }), "nothing would pass"),
        (json!({ "egress_burst": 5000 }), "without egress_bps"),
        (json!({ "egress_bps": 5000, "egress_burst": 0 }), "is 0"),
        (json!({ "errdisable_recovery": 30 }), "without a guard"),
    ] {
        w.refused("a", set, Code::Failed, words);
    }
    w.refused("b", json!({ "errdisable_recovery": 0 }), Code::Failed, "0 seconds");
}

/// A quarantine is in force immediately, is shown, and is in the file; so after the next start it is in force from
/// the first command on.
#[test]
fn quarantine_lasts_until_released() {
    let mut w = World::up(CONFIG);
    assert!(w.port("a").live);
    w.set("a", json!({ "quarantine": true }));
    let cut = |w: &World| (w.port("a").live, w.port("a").policy.cut);
    assert_eq!(cut(&w), (false, Some(Cut::Quarantine)));
    let row = w.row("a");
    assert_eq!((&row["state"], &row["operstate"]), (&json!("quarantined"), &json!("DOWN")));
    assert!(row["why"].as_str().unwrap().contains("ivctl port release a"), "{row}");
    let text = w.text();
    assert!(text.contains("quarantine = true"), "{text}");
    let mut again = World::up(&text);
    assert_eq!(cut(&again), (false, Some(Cut::Quarantine)));
    // The port's interface goes and returns.
    again.tell(Input::LinkGone("p-a".into()));
    assert_eq!(cut(&again), (false, None), "there is nothing to cut");
    assert_eq!(again.row("a")["quarantine"], true);
    again.set("a", json!({ "quarantine": null }));
    w.set("a", json!({ "quarantine": null }));
    assert_eq!(cut(&w), (true, None));
    assert_eq!(w.row("a")["state"], "live");
    assert!(!w.text().contains("quarantine"));
}

#[test]
fn a_mirror_has_one_end_that_does_nothing_else() {
    let mut w = World::up(CONFIG);
    w.set("a", json!({ "mirror": "c" }));
    w.set("b", json!({ "mirror": "c" }));
    let tap = w.id("c");
    assert_eq!((w.port("a").policy.mirror, w.port("b").policy.mirror), (Some(tap), Some(tap)));
    let target = w.port("c");
    assert!(target.live && target.policy.tap && target.vni.is_none(), "{target:?}");
    assert_eq!(w.row("a")["mirror"], "c");
    assert_eq!(w.row("c")["mirrors"], json!(["a", "b"]));
    w.refused("c", json!({ "mirror": "a" }), Code::Conflict, "is mirrored itself");
    let reply = w.ask("port.del", json!({ "name": "c" }));
    assert!(reply["error"].to_string().contains("in use by port"), "{reply}");
    // When the interface of a mirror target goes and returns, the port is still a mirror target.
    w.tell(Input::LinkGone("p-c".into()));
    assert!(!w.port("c").live && w.port("c").policy.tap);
    w.set("a", json!({ "mirror": null }));
    assert!(w.port("c").policy.tap, "b's copies still go there");
    w.set("b", json!({ "mirror": null }));
    assert!(!w.port("c").policy.tap && w.port("c").vni.is_some());
    w.refused("a", json!({ "mirror": "a" }), Code::Failed, "itself");
    w.refused("a", json!({ "mirror": "nobody" }), Code::NotFound, "no port");
    w.refused("a", json!({ "mirror": "uplink" }), Code::NotFound, "no port");
}

#[test]
fn a_bpdu_disables_a_guarded_port() {
    let mut w = World::up(CONFIG);
    w.call("subscribe", json!({}));
    w.bpdu("a");
    assert!(w.port("a").live, "no guard");
    w.bpdu("b");
    w.bpdu("b");
    let cut = |w: &World| (w.port("b").live, w.port("b").policy.cut);
    assert_eq!(cut(&w), (false, Some(Cut::ErrDisabled)));
    assert_eq!(w.logged.iter().filter(|text| text.contains("err-disabled")).count(), 1, "{:?}", w.logged);
    let told = w.lines.iter().any(|line| {
        let p = &line["params"];
        p["event"] == "port" && p["ifname"] == "b" && p["state"] == "err-disabled" && p["operstate"] == "DOWN"
    });
    assert!(told, "{:?}", w.lines);
    let row = w.row("b");
    assert_eq!(row["state"], "err-disabled");
    assert!(row["why"].as_str().unwrap().contains("ivctl port enable b"), "{row}");
    assert!(w.call("status", json!({}))["warnings"].to_string().contains("BPDU"));
    // Neither time nor the port's interface enables it again, and neither do edits of other objects.
    w.pass(Duration::from_secs(3600));
    w.set("a", json!({ "bum_pps": 5 }));
    assert_eq!(cut(&w), (false, Some(Cut::ErrDisabled)));
    assert_eq!(w.call("port.enable", json!({ "name": "b" }))["changed"], true);
    assert_eq!(cut(&w), (true, None));
    assert_eq!(w.call("port.enable", json!({ "name": "b" }))["changed"], false);
    // It is enabled after a time.
    w.set("b", json!({ "errdisable_recovery": 30 }));
    w.bpdu("b");
    w.pass(Duration::from_secs(29));
    assert_eq!(cut(&w), (false, Some(Cut::ErrDisabled)));
    w.pass(Duration::from_secs(2));
    assert_eq!(cut(&w), (true, None));
    // It is enabled when it is disabled and enabled by hand.
    w.bpdu("b");
    w.set("b", json!({ "enabled": false }));
    assert_eq!(cut(&w), (false, None));
    assert_eq!(w.row("b")["state"], "disabled");
    w.call("port.enable", json!({ "name": "b", "timeout_ms": 0 }));
    w.pass(Duration::from_secs(1));
    assert_eq!(cut(&w), (true, None));
    assert_eq!(w.ask("port.enable", json!({ "name": "x" }))["error"]["code"], Code::NotFound.number());
    // Quarantine and a guard: the owner's decision comes first, and the guard's stays.
    w.set("b", json!({ "errdisable_recovery": null }));
    w.bpdu("b");
    w.set("b", json!({ "quarantine": true }));
    assert_eq!(cut(&w), (false, Some(Cut::Quarantine)));
    w.set("b", json!({ "quarantine": null }));
    assert_eq!(cut(&w), (false, Some(Cut::ErrDisabled)));
}
