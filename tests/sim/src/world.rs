//! A world: nodes, links, one heap of events ordered by (time, sequence), one source of randomness. It uses neither a
//! wall clock nor threads nor sleep. The same seed makes the same frames at the same times.

use std::collections::BTreeMap;
use std::net::IpAddr;

use engine::wire::mac::MacAddr;

use crate::checks::{Crossings, FLIGHT_MAX, HOPS_MAX};
use crate::cms::{Cms, CmsSpec};
use crate::guest::{AppId, Host, HostSpec, INTERNET, Label, Report};
use crate::link::{Direction, Link, LinkConfig};
use crate::node::{Ctx, Wire};
use crate::pcap::{Pcap, RunHash};
use crate::prng::Prng;
use crate::rvm::{RESOLVE_NS, Rvm, UplinkFacts};
use crate::underlay::{Cloud, Nic};

/// A node of the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NodeId(pub usize);

/// A link of the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkId(pub usize);

/// A data centre of the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SiteId(pub usize);

/// One millisecond, in the world's nanoseconds.
pub const MS: u64 = 1_000_000;
/// One second.
pub const SEC: u64 = 1_000_000_000;

/// Tables are checked once in this many events; frames at every step.
const TABLE_CHECK_EVENTS: u64 = 4096;

enum Node {
    Cloud(Box<Cloud>),
    Rvm(Box<Rvm>),
    Host(Box<Host>),
    Cms(Box<Cms>),
}

enum Event {
    Deliver { node: usize, interface: usize, frame: Wire },
    Wake { node: usize },
    Resolved { node: usize, ip: IpAddr },
}

/// A world: everything that a scenario runs in.
pub struct World {
    /// The time, in nanoseconds since the world began.
    pub now_ns: u64,
    /// The world's random numbers.
    pub rng: Prng,
    seed: u64,
    sequence: u64,
    heap: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node>,
    wakes: Vec<Option<u64>>,
    links: Vec<Link>,
    plugs: BTreeMap<(usize, usize), (usize, usize)>,
    captures: BTreeMap<usize, Pcap>,
    /// Which networks' payload may be received on which others.
    pub crossings: Crossings,
    /// Broken invariants. Any of them makes `finish` fail.
    pub problems: Vec<String>,
    /// Hash over every frame with its time and link.
    pub hash: RunHash,
    /// Events so far.
    pub events: u64,
    /// Settings of the links made from now on.
    pub link: LinkConfig,
    /// MTU of the rVMs' NICs made from now on.
    pub underlay_mtu: u16,
    /// Nodes that one frame may pass. A frame that passes more is in a loop, which is a problem.
    pub hops_max: u16,
}

impl World {
    /// An empty world with a cloud in it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            now_ns: 0,
            rng: Prng::new(seed),
            seed,
            sequence: 0,
            heap: BTreeMap::new(),
            nodes: vec![Node::Cloud(Box::default())],
            wakes: vec![None],
            links: Vec::new(),
            plugs: BTreeMap::new(),
            captures: BTreeMap::new(),
            crossings: Crossings::default(),
            problems: Vec::new(),
            hash: RunHash::default(),
            events: 0,
            link: LinkConfig::default(),
            underlay_mtu: 1500,
            hops_max: HOPS_MAX,
        }
    }

    // ---- building it ----

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.wakes.push(None);
        NodeId(self.nodes.len() - 1)
    }

    /// Joins two interfaces by a link.
    pub fn connect(&mut self, name: &str, a: (NodeId, usize), b: (NodeId, usize)) -> LinkId {
        let id = self.links.len();
        let ends = [(a.0.0, a.1), (b.0.0, b.1)];
        for (end, plug) in ends.into_iter().enumerate() {
            let before = self.plugs.insert(plug, (id, end));
            assert!(before.is_none(), "{name}: an interface has one plug");
        }
        let direction = Direction::new(self.link);
        self.links.push(Link {
            name: name.into(),
            ends,
            directions: [direction.clone(), direction],
            up: true,
        });
        LinkId(id)
    }

    /// The reality cloud.
    ///
    /// # Panics
    /// Never: it is the first node.
    pub fn cloud(&mut self) -> &mut Cloud {
        let Node::Cloud(c) = &mut self.nodes[0] else { unreachable!("the first node is the cloud") };
        c
    }

    /// A data centre with these private prefixes; `flat`: one L2 domain.
    pub fn site(&mut self, name: &str, prefixes: &[&str], flat: bool) -> SiteId {
        SiteId(self.cloud().add_site(name, prefixes, flat))
    }

    /// An rVM with its only NIC `eth0` in `site`. Its switch starts with [`World::start`].
    ///
    /// # Panics
    /// When an address cannot be read.
    pub fn rvm(&mut self, site: SiteId, name: &str, addresses: &[&str], config: &str) -> NodeId {
        let (id, nic) = self.unplugged_rvm(site, name, addresses, config);
        self.connect(&format!("{name}-eth0"), (id, 0), (NodeId(0), nic));
        id
    }

    /// An rVM that is itself an iVM: its NIC is plugged into the interface `interface` of another one. The cloud
    /// resolves its neighbours in `site`, but carries no packets there.
    pub fn nested_rvm(
        &mut self,
        host: (NodeId, &str),
        site: SiteId,
        name: &str,
        address: &str,
        config: &str,
    ) -> NodeId {
        let number = self.r(host.0).interface(host.1, true);
        let (id, _) = self.unplugged_rvm(site, name, &[address], config);
        self.connect(&format!("{name}-eth0"), (id, 0), (host.0, number));
        id
    }

    fn unplugged_rvm(
        &mut self,
        site: SiteId,
        name: &str,
        addresses: &[&str],
        config: &str,
    ) -> (NodeId, usize) {
        let nic = self.cloud().nics.len();
        let mac = MacAddr([0x06, 0, 0, 0, (nic >> 8) as u8, nic as u8]);
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().expect("an IP address")).collect();
        let mtu = usize::from(self.underlay_mtu);
        self.cloud().nics.push(Nic { site: Some(site.0), mac, addresses, public: Vec::new(), mtu });
        let facts = UplinkFacts {
            name: "eth0".into(),
            mac,
            mtu: u32::from(self.underlay_mtu),
            addresses: self.cloud().prefixes(nic),
        };
        let seed = self.rng.next_u64();
        let mut rvm = Rvm::new(name, nic, facts, config, seed);
        rvm.routes = self.cloud().routes(nic);
        (self.add(Node::Rvm(Box::new(rvm))), nic)
    }

    /// The provider maps `public` to `private`, an address of this rVM's NIC.
    ///
    /// # Panics
    /// When an address cannot be read.
    pub fn public_ip(&mut self, rvm: NodeId, private: &str, public: &str) {
        let nic = self.r(rvm).nic;
        let pair = (private.parse().expect("an IP address"), public.parse().expect("an IP address"));
        self.cloud().nics[nic].public.push(pair);
    }

    /// A machine on the Internet.
    pub fn internet_host(&mut self, name: &str, ips: &[&str]) -> NodeId {
        let nic = self.cloud().nics.len();
        let mac = format!("06:11:00:00:{:02x}:{:02x}", nic >> 8, nic & 0xff);
        let mut spec = HostSpec::new(name, &mac, INTERNET.0, ips).mtu(1500);
        // The gateway is the last address of the prefix, for which the cloud answers every ARP and ND request.
        for ip in spec.ips.clone() {
            spec.gateways.push(match ip.addr {
                IpAddr::V4(a) => (a.to_bits() | u32::MAX >> ip.len).wrapping_sub(1).to_be_bytes().into(),
                IpAddr::V6(a) => (a.to_bits() | u128::MAX >> ip.len).wrapping_sub(1).to_be_bytes().into(),
            });
        }
        let addresses = spec.ips.iter().map(|p| p.addr).collect();
        let mac = spec.mac;
        self.cloud().nics.push(Nic { site: None, mac, addresses, public: Vec::new(), mtu: 1500 });
        let id = self.host(spec);
        self.connect(name, (id, 0), (NodeId(0), nic));
        id
    }

    /// A machine that is not plugged in yet.
    pub fn host(&mut self, spec: HostSpec) -> NodeId {
        let seed = self.rng.next_u64();
        let now = self.now_ns;
        self.add(Node::Host(Box::new(Host::new(spec, seed, now))))
    }

    /// An iVM on the rVM's interface `interface`, whose MTU is raised to the iVM's.
    pub fn guest(&mut self, rvm: NodeId, interface: &str, spec: HostSpec) -> NodeId {
        let name = format!("{}-{interface}", self.r(rvm).name);
        let number = self.r(rvm).interface(interface, true);
        self.r(rvm).raise_mtu(interface, spec.mtu as u32);
        let id = self.host(spec);
        self.connect(&name, (rvm, number), (id, 0));
        id
    }

    /// A machine at the CMS's end of a door that the agent makes (`eth1`).
    pub fn behind_door(&mut self, rvm: NodeId, door: &str, spec: HostSpec) -> NodeId {
        let name = format!("{}-{door}", self.r(rvm).name);
        let number = self.r(rvm).interface(&ctl::model::door_peer(door), false);
        let id = self.host(spec);
        self.connect(&name, (rvm, number), (id, 0));
        id
    }

    /// A CMS behind the doors `eth1` and `eth2`.
    pub fn cms(&mut self, rvm: NodeId, spec: CmsSpec) -> NodeId {
        let id = self.add(Node::Cms(Box::new(Cms::new(spec))));
        for (n, door) in ["eth1", "eth2"].into_iter().enumerate() {
            let name = format!("{}-{door}", self.r(rvm).name);
            let number = self.r(rvm).interface(&ctl::model::door_peer(door), false);
            self.connect(&name, (rvm, number), (id, n));
        }
        id
    }

    /// An iVM on a CMS's bridge.
    pub fn ivm(&mut self, cms: NodeId, spec: HostSpec) -> NodeId {
        let name = spec.name.clone();
        let id = self.host(spec);
        let number = self.c(cms).interfaces;
        self.c(cms).interfaces += 1;
        self.connect(&name, (cms, number), (id, 0));
        id
    }

    // ---- access to its parts ----

    /// The rVM.
    ///
    /// # Panics
    /// When the node is something else.
    pub fn r(&mut self, id: NodeId) -> &mut Rvm {
        let Node::Rvm(r) = &mut self.nodes[id.0] else { panic!("node {} is no rVM", id.0) };
        r
    }

    /// The machine.
    ///
    /// # Panics
    /// When the node is something else.
    pub fn h(&mut self, id: NodeId) -> &mut Host {
        let Node::Host(h) = &mut self.nodes[id.0] else { panic!("node {} is no machine", id.0) };
        h
    }

    /// The CMS.
    ///
    /// # Panics
    /// When the node is something else.
    pub fn c(&mut self, id: NodeId) -> &mut Cms {
        let Node::Cms(c) = &mut self.nodes[id.0] else { panic!("node {} is no CMS", id.0) };
        c
    }

    /// The link plugged into an interface of a node.
    ///
    /// # Panics
    /// When nothing is plugged in.
    #[must_use]
    pub fn link_of(&self, node: NodeId, interface: usize) -> LinkId {
        LinkId(self.plugs[&(node.0, interface)].0)
    }

    /// The uplink of an rVM, or the only link of a machine.
    #[must_use]
    pub fn uplink(&self, node: NodeId) -> LinkId {
        self.link_of(node, 0)
    }

    /// Changes a link, both directions.
    pub fn shape(&mut self, link: LinkId, config: LinkConfig) {
        for d in &mut self.links[link.0].directions {
            d.config = config;
        }
    }

    /// The link.
    pub fn link(&mut self, link: LinkId) -> &mut Link {
        &mut self.links[link.0]
    }

    /// Records a link.
    pub fn capture(&mut self, link: LinkId) {
        self.captures.entry(link.0).or_default();
    }

    /// The recording of a link, as a pcap file.
    #[must_use]
    pub fn captured(&self, link: LinkId) -> Option<&Pcap> {
        self.captures.get(&link.0)
    }

    /// All machines.
    #[must_use]
    pub fn hosts(&self) -> Vec<NodeId> {
        let is = |n: &Node| matches!(n, Node::Host(_));
        (0..self.nodes.len()).filter(|&i| is(&self.nodes[i])).map(NodeId).collect()
    }

    /// All rVMs.
    #[must_use]
    pub fn rvms(&self) -> Vec<NodeId> {
        let is = |n: &Node| matches!(n, Node::Rvm(_));
        (0..self.nodes.len()).filter(|&i| is(&self.nodes[i])).map(NodeId).collect()
    }

    /// Starts an rVM's switch.
    pub fn start(&mut self, rvm: NodeId) {
        let now = self.now_ns;
        self.r(rvm).start(now);
        self.wake(rvm.0, now);
    }

    /// Starts every rVM's switch and lets the world settle for a moment.
    pub fn start_all(&mut self) {
        for rvm in self.rvms() {
            self.start(rvm);
        }
        self.run_for(50 * MS);
    }

    /// Sends a frame from a machine, without its stack.
    pub fn inject(&mut self, host: NodeId, frame: Vec<u8>) {
        self.transmit(host.0, 0, 0, Wire::new(frame));
    }

    /// Sends a frame from any interface of any node.
    pub fn inject_at(&mut self, node: NodeId, interface: usize, frame: Vec<u8>) {
        self.transmit(node.0, interface, 0, Wire::new(frame));
    }

    /// Lets a node look immediately at something that it was given outside of an event.
    pub fn nudge(&mut self, node: NodeId) {
        let now = self.now_ns;
        self.wake(node.0, now);
    }

    /// Sends a request of a control client to an rVM's agent, as `ivctl` does; the reply, if one came.
    pub fn request(&mut self, rvm: NodeId, line: &str) -> Option<String> {
        let now = self.now_ns;
        self.r(rvm).journal.replies.clear();
        self.r(rvm).request(now, 1, line);
        self.nudge(rvm);
        for _ in 0..100 {
            self.run_for(10 * MS);
            if let Some((_, reply)) = self.r(rvm).journal.replies.first() {
                return Some(reply.clone());
            }
        }
        None
    }

    /// Gives the rVM's agent a complete new configuration, as `ivctl config apply` does. True when the agent accepted
    /// it.
    pub fn apply(&mut self, rvm: NodeId, text: &str) -> bool {
        // For the printable ASCII and newlines of a configuration, Rust's escapes are the same as JSON's.
        let line =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"config.apply","params":{{"text":{text:?}}}}}"#);
        self.request(rvm, &line).is_some_and(|reply| reply.contains(r#""result""#))
    }

    // ---- running it ----

    fn push(&mut self, at_ns: u64, event: Event) {
        self.sequence += 1;
        self.heap.insert((at_ns.max(self.now_ns), self.sequence), event);
    }

    fn wake(&mut self, node: usize, at_ns: u64) {
        if self.wakes[node].is_none_or(|w| at_ns < w) {
            self.wakes[node] = Some(at_ns);
            self.push(at_ns, Event::Wake { node });
        }
    }

    fn transmit(&mut self, node: usize, interface: usize, delay_ns: u64, frame: Wire) {
        let Some(&(link, end)) = self.plugs.get(&(node, interface)) else { return };
        if frame.hops > self.hops_max {
            self.problems.push(format!("loop: a frame passed {} nodes: {:02x?}", frame.hops, frame.bytes));
            return;
        }
        self.hash.word(self.now_ns ^ (link as u64) << 48 ^ (end as u64) << 63);
        self.hash.add(&frame.bytes);
        if let Some(pcap) = self.captures.get_mut(&link) {
            pcap.push(self.now_ns, &frame.bytes);
        }
        let l = &mut self.links[link];
        let up = l.up;
        let (to, interface) = l.ends[1 - end];
        let start = self.now_ns + delay_ns;
        let times = l.directions[end].carry(start, frame.bytes.len(), up, &mut self.rng);
        match times {
            [Some(at), None] => self.push(at, Event::Deliver { node: to, interface, frame }),
            [Some(at), Some(again)] => {
                self.push(at, Event::Deliver { node: to, interface, frame: frame.clone() });
                self.push(again, Event::Deliver { node: to, interface, frame });
            }
            _ => {}
        }
    }

    /// Lets one node work.
    fn visit(&mut self, node: usize, work: impl FnOnce(&mut Node, &mut Ctx<'_>, &Crossings)) {
        let mut ctx = Ctx {
            now_ns: self.now_ns,
            rng: &mut self.rng,
            out: Vec::new(),
            wake_ns: None,
            problems: &mut self.problems,
        };
        work(&mut self.nodes[node], &mut ctx, &self.crossings);
        let (out, wake) = (ctx.out, ctx.wake_ns);
        for (interface, delay, frame) in out {
            self.transmit(node, interface, delay, frame);
        }
        if let Some(at) = wake {
            self.wake(node, at);
        }
        if let Node::Rvm(r) = &mut self.nodes[node] {
            let asked = std::mem::take(&mut r.asked);
            let routes = r.wants_routes().then(|| r.routes.clone());
            for ip in asked {
                self.push(self.now_ns + RESOLVE_NS, Event::Resolved { node, ip });
            }
            if let Some(routes) = routes {
                let now = self.now_ns;
                self.r(NodeId(node)).tell(now, ctl::io::Input::UnderlayRoutes(routes));
                self.wake(node, now);
            }
        }
    }

    /// Handles the next event, if it is due by `limit_ns`. A world with a problem does not go on.
    pub fn step(&mut self, limit_ns: u64) -> bool {
        if self.heap.len() > FLIGHT_MAX {
            self.problems.push(format!("storm: {} frames in flight", self.heap.len()));
        }
        if !self.problems.is_empty() {
            return false;
        }
        let Some(entry) = self.heap.first_entry() else { return false };
        let (at, _) = *entry.key();
        if at > limit_ns {
            return false;
        }
        let event = entry.remove();
        // Events that were due while the clocks stood still are late.
        self.now_ns = self.now_ns.max(at);
        self.events += 1;
        match event {
            Event::Deliver { node, interface, frame } => {
                self.visit(node, |n, ctx, crossings| match n {
                    Node::Cloud(c) => c.receive(interface, frame, ctx),
                    Node::Rvm(r) => r.receive(interface, frame, ctx),
                    Node::Cms(c) => c.receive(interface, frame, ctx),
                    Node::Host(h) => {
                        if let Err(what) = crossings.check(h.spec.label, &frame.bytes) {
                            ctx.problems.push(format!("{}: {what}", h.spec.name));
                        }
                        h.receive(ctx.now_ns, &frame.bytes);
                        h.step(ctx);
                    }
                });
            }
            Event::Wake { node } => {
                if self.wakes[node] == Some(at) {
                    self.wakes[node] = None;
                    self.visit(node, |n, ctx, _| match n {
                        Node::Rvm(r) => r.step(ctx),
                        Node::Host(h) => h.step(ctx),
                        Node::Cloud(_) | Node::Cms(_) => {}
                    });
                }
            }
            Event::Resolved { node, ip } => {
                let nic = self.r(NodeId(node)).nic;
                let mac = self.cloud().neighbor(nic, ip);
                self.visit(node, |n, ctx, _| {
                    if let Node::Rvm(r) = n {
                        r.resolved(ip, mac, ctx);
                        r.step(ctx);
                    }
                });
            }
        }
        if self.events.is_multiple_of(TABLE_CHECK_EVENTS) {
            self.check_tables();
        }
        true
    }

    fn check_tables(&mut self) {
        let now = self.now_ns;
        for rvm in self.rvms() {
            if let Err(what) = self.r(rvm).check_tables(now) {
                self.problems.push(what);
            }
        }
    }

    /// Lets `ns` pass.
    pub fn run_for(&mut self, ns: u64) {
        let limit = self.now_ns + ns;
        while self.step(limit) {}
        self.now_ns = limit;
        self.fail_early();
    }

    /// Lets time pass until `done`, for at most `ns`. Returns whether it was done.
    pub fn run_until(&mut self, ns: u64, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let limit = self.now_ns + ns;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(limit) {
                self.now_ns = limit;
                return done(self);
            }
        }
    }

    /// Fails the test at the first broken invariant, with all information needed to repeat it.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn fail_early(&mut self) {
        if self.problems.is_empty() {
            return;
        }
        let mut text = format!("world of seed {} at {} ns:\n", self.seed, self.now_ns);
        for p in self.problems.iter().take(5) {
            let short: String = p.chars().take(1500).collect();
            text += &format!("  {short}\n");
        }
        text += &self.save_captures();
        panic!("{text}");
    }

    /// Writes every capture of a failing world into the directory for temporary files.
    #[must_use]
    pub fn save_captures(&self) -> String {
        let mut text = String::new();
        for (link, pcap) in &self.captures {
            let name = format!("sim-{}-{}.pcap", self.seed, self.links[*link].name);
            let path = std::env::temp_dir().join(name);
            match std::fs::write(&path, pcap.bytes()) {
                Ok(()) => text += &format!("  {} frames in {}\n", pcap.frames(), path.display()),
                Err(e) => text += &format!("  {}: {e}\n", path.display()),
            }
        }
        text
    }

    /// Ends the world: every invariant is checked once more.
    pub fn finish(&mut self) {
        self.check_tables();
        self.fail_early();
    }

    // ---- activities of machines ----

    /// Allows payload made on `from` to be received on `to`, in packets to `dst`.
    ///
    /// # Panics
    /// When the address cannot be parsed.
    pub fn allow(&mut self, from: u32, to: u32, dst: &str) {
        self.crossings.allow(Label(from), Label(to), Some(dst.parse().expect("an IP address")));
    }

    /// Live migration: the machine at `from` runs at `to` from now on, with its memory and its connections, and the
    /// machine at `to` runs at `from`.
    ///
    /// # Panics
    /// When one of the nodes is not a machine.
    pub fn migrate(&mut self, from: NodeId, to: NodeId) {
        assert!([from, to].iter().all(|n| matches!(self.nodes[n.0], Node::Host(_))), "not machines");
        self.nodes.swap(from.0, to.0);
        self.nudge(to);
    }

    /// Lets a machine do something, and wakes its stack.
    pub fn act<R>(&mut self, host: NodeId, work: impl FnOnce(&mut Host, u64) -> R) -> R {
        let now = self.now_ns;
        let r = work(self.h(host), now);
        self.nudge(host);
        r
    }

    /// Runs until a machine's activity has ended.
    pub fn wait(&mut self, host: NodeId, app: AppId) -> Report {
        self.run_until(600 * SEC, |w| w.h(host).report(app).done);
        self.fail_early();
        self.h(host).report(app)
    }

    /// Pings `count` times, ten milliseconds apart, and waits for the end.
    ///
    /// # Panics
    /// When the address cannot be read.
    pub fn ping(&mut self, from: NodeId, dst: &str, count: u16) -> Report {
        self.ping_len(from, dst, count, 56)
    }

    /// See [`World::ping`]; with `len` bytes of data.
    ///
    /// # Panics
    /// When the address cannot be read.
    pub fn ping_len(&mut self, from: NodeId, dst: &str, count: u16, len: usize) -> Report {
        let dst = dst.parse().expect("an IP address");
        let app = self.act(from, |h, now| h.ping(now, dst, count, len, 10 * MS));
        self.wait(from, app)
    }

    /// Moves `up` and `down` bytes over TCP to a server at `dst`; both ends verify them.
    ///
    /// # Panics
    /// When the address cannot be read.
    pub fn tcp(&mut self, from: NodeId, dst: &str, port: u16, up: u64, down: u64) -> Report {
        let dst = dst.parse().expect("an IP address");
        let app = self.act(from, |h, now| h.transfer(now, (dst, port), up, down, 60 * SEC));
        self.wait(from, app)
    }

    /// Sends datagrams of `len` bytes to an echo server and waits for the answers.
    ///
    /// # Panics
    /// When the address cannot be read.
    pub fn udp(&mut self, from: NodeId, dst: &str, port: u16, count: u32, len: usize) -> Report {
        let dst = dst.parse().expect("an IP address");
        let app = self.act(from, |h, now| h.datagrams(now, (dst, port), count, len, MS));
        self.wait(from, app)
    }
}
