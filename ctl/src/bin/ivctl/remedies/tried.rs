//! Warnings of a real agent, whose remedies are run as an operator would: copied out of the warning, with names in the
//! place of what stands for one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixListener;

use ctl::agent::{Agent, Options};
use ctl::api::{Problem, ProblemKind};
use ctl::io::{ClientId, Input, LinkFacts, Output};
use engine::command::{Answer, Event, Input as WorkerInput, IpPrefix, PeerId, Query, Vni};
use engine::counters::{DropReason, SwitchCounters};
use engine::frame::PoolUsage;
use engine::time::{Duration, Instant};
use engine::wire::mac::MacAddr;
use serde_json::{Value, json};

use crate::tests::run_line;

const CONFIG: &str = r#"
name = "rvm1"
[uplink]
interface = "eth0"
[[network]]
name = "private"
vni = 100
[[network]]
name = "other"
vni = 200
[[port]]
name = "g1"
network = "private"
interface = "p-g1"
role = "guest"
mac = ["02:00:00:00:00:01"]
mtu = 9000
bpdu_guard = true
[[peer]]
name = "rvm2"
address = "10.0.0.12"
networks = ["other"]
mtu = 9000
[[peer]]
name = "rvm3"
address = "10.0.0.13"
via = "rvm2"
[[peer]]
name = "me"
address = "10.0.0.11"
[[floating]]
ip = "56.0.0.1"
network = "other"
gateway = "rvm1"
reality = "10.0.0.11"
inside = { network = "private", address = "192.168.1.2" }
[[floating]]
ip = "56.0.0.2"
network = "other"
gateway = "rvm2"
only = ["tcp/80"]
[[floating]]
ip = "56.0.0.2"
network = "other"
gateway = "rvm3"
only = ["tcp/90"]
"#;
/// Peers are numbered by their names: "me" is the first.
const RVM2: PeerId = PeerId(1);
const SECOND: Duration = Duration::from_secs(1);

/// An agent with its interfaces up, and no workers.
struct Rvm {
    agent: Agent,
    now: Instant,
    requests: u64,
}

impl Rvm {
    fn new() -> Self {
        let options = Options { config_text: Some(CONFIG.to_owned()), ..Options::default() };
        let now = Instant::from_millis(1000);
        let mut rvm = Self { agent: Agent::new(now, options).unwrap(), now, requests: 0 };
        let address = IpPrefix { addr: "10.0.0.11".parse().unwrap(), len: 24 };
        for (name, index, addresses) in [("eth0", 2, vec![address]), ("p-g1", 3, vec![])] {
            let mac = MacAddr([2, 0, 0, 0, 1, index as u8]);
            let link = LinkFacts {
                name: name.into(),
                index,
                mac,
                mtu: 1500,
                up: true,
                carrier: true,
                addresses,
                alt_names: vec![],
                vxlan: None,
            };
            rvm.tell(Input::Link(link));
        }
        rvm
    }

    /// Tells the agent something, and gives its answer to a request.
    fn tell(&mut self, input: Input) -> Option<String> {
        self.agent.handle(self.now, input);
        self.drain()
    }

    /// Answers for the worker, which has nothing to say.
    fn drain(&mut self) -> Option<String> {
        let mut line = None;
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Reply(_, reply) => line = Some(reply),
                Output::Worker(WorkerInput::Query(token, query)) => {
                    let answer = match query {
                        Query::Floating => Answer::Floating(vec![]),
                        Query::Peers => Answer::Peers(vec![]),
                        Query::Counters => Answer::Counters {
                            switch: SwitchCounters::default().into(),
                            ports: vec![],
                            pool: PoolUsage::default(),
                            fdb_entries: 0,
                            fdb_by_network: vec![],
                        },
                        other => unreachable!("{other:?}"),
                    };
                    self.agent.handle(self.now, Input::Event(0, Event::Reply(token, answer)));
                }
                _ => {}
            }
        }
        line
    }

    fn event(&mut self, event: Event) {
        self.tell(Input::Event(0, event));
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.agent.handle_timeout(self.now);
        self.drain();
    }

    /// The warnings, as `ivctl status` has them.
    fn problems(&mut self) -> Vec<Problem> {
        self.requests += 1;
        let request = json!({ "jsonrpc": "2.0", "id": self.requests, "method": "status" });
        let line = self.tell(Input::Request(ClientId(1), request.to_string()));
        let answer: Value = serde_json::from_str(&line.unwrap()).unwrap();
        serde_json::from_value(answer["result"]["problems"].clone())
            .unwrap_or_else(|e| panic!("{e}: {answer}"))
    }

    /// Runs a command of `ivctl` against this agent.
    fn run(&mut self, command: &str) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let line = format!("--no-wait {}", command.strip_prefix("ivctl ").unwrap());
        let ivctl = std::thread::spawn(move || run_line(&socket, &line));
        let (stream, _) = listener.accept().unwrap();
        for line in BufReader::new(stream.try_clone().unwrap()).lines() {
            let answer = self.tell(Input::Request(ClientId(2), line.unwrap()));
            (&stream).write_all(format!("{}\n", answer.unwrap()).as_bytes()).unwrap();
        }
        self.tell(Input::Hangup(ClientId(2)));
        let outcome = ivctl.join().unwrap();
        assert!(matches!(outcome, Ok(0 | 8)), "{command}: {outcome:?}");
    }
}

/// How a warning is provoked, its subject, words of it, and what stands for a name in its remedy.
type Case<'a> = (&'a dyn Fn(&mut Rvm), ProblemKind, &'a str, &'a [(&'a str, &'a str)]);

/// Each of these warnings comes, names a command, and is gone once that command was run.
#[test]
fn a_remedy_ends_its_warning() {
    let vni = |n| Vni::new(n).unwrap();
    let ip = |last| IpAddr::from([10, 0, 0, last]);
    let floating = IpAddr::from([56, 0, 0, 1]);
    let stranger = |rvm: &mut Rvm, last| {
        for _ in 0..4 {
            rvm.event(Event::Stranger(ip(last), vni(100)));
            rvm.pass(SECOND);
        }
    };
    let claimed = |rvm: &mut Rvm, owner| {
        let mac = ctl::reconcile::switch_mac("rvm2");
        rvm.event(Event::FloatingClaimed(vni(200), floating, RVM2, mac, owner));
    };
    let guest = |rvm: &Rvm| rvm.agent.port_id("g1").unwrap();
    let cases: [Case; 13] = [
        (&|rvm| stranger(rvm, 14), ProblemKind::UnknownPeer, "10.0.0.14", &[("NAME", "rvm4")]),
        (&|rvm| stranger(rvm, 13), ProblemKind::UnknownPeer, "is reached through", &[]),
        (
            &|rvm| rvm.event(Event::PeerRefused(RVM2, vni(101), DropReason::UnknownVni)),
            ProblemKind::PeerNetwork,
            "VNI 101",
            &[("NAME", "new")],
        ),
        (
            &|rvm| rvm.event(Event::PeerRefused(RVM2, vni(100), DropReason::PeerNotInVni)),
            ProblemKind::PeerNetwork,
            "takes no part",
            &[("NAME,...", "private,other")],
        ),
        (&|_| {}, ProblemKind::Peer, "own address", &[]),
        (&|rvm| claimed(rvm, false), ProblemKind::Floating, "to be its gateway", &[("RVM", "rvm2")]),
        (&|rvm| claimed(rvm, true), ProblemKind::Floating, "answers for it", &[]),
        (&|_| {}, ProblemKind::Floating, "two gateways", &[("RVM", "rvm2")]),
        (&|_| {}, ProblemKind::Mtu, "port \"g1\"", &[]),
        (&|_| {}, ProblemKind::Mtu, "peer \"rvm2\"", &[]),
        (
            &|rvm| drop(rvm.tell(Input::PortFailed(guest(rvm), "no memory".into()))),
            ProblemKind::Port,
            "no memory",
            &[],
        ),
        (
            &|rvm| {
                rvm.tell(Input::PortOpened(guest(rvm), ctl::io::PortFacts::default()));
                rvm.event(Event::Bpdu(guest(rvm)));
            },
            ProblemKind::Port,
            "bpdu_guard",
            &[],
        ),
        (
            &|rvm| {
                let params = json!({ "text": CONFIG.replace("9000", "1400"), "confirm_s": 60 });
                let request =
                    json!({ "jsonrpc": "2.0", "id": 1, "method": "config.apply", "params": params });
                rvm.tell(Input::Request(ClientId(1), request.to_string()));
            },
            ProblemKind::Configuration,
            "is not confirmed",
            &[],
        ),
    ];
    for (provoke, kind, words, names) in cases {
        let mut rvm = Rvm::new();
        provoke(&mut rvm);
        let is_it = |p: &Problem| p.kind == kind && p.what.contains(words);
        let problems = rvm.problems();
        let problem = problems.iter().find(|p| is_it(p)).unwrap_or_else(|| panic!("{words}: {problems:#?}"));
        let text = problem.to_string();
        let remedy = text.split('`').find(|code| code.starts_with("ivctl "));
        let mut remedy = remedy.unwrap_or_else(|| panic!("no command: {text}")).to_owned();
        for (stands, name) in names {
            remedy = remedy.replace(stands, name);
        }
        rvm.run(&remedy);
        let left = rvm.problems();
        assert!(!left.iter().any(is_it), "{remedy} did not end: {text}\n{left:#?}");
    }
}
