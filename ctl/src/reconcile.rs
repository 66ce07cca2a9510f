//! Computes the workers' commands from the desired state. It is pure: [`compile`] turns a configuration and the
//! observed state of the machine into the content of the engine's tables, and [`diff`] turns two such contents into
//! the fewest commands that lead from one to the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use engine::command::{
    Binding, BootConfig, Command, Cut, DhcpConfig, FloatingConfig, FloatingId, Gateway, IpPrefix, L4Proto,
    L4Range, LinkLocalRule, Location, NetworkConfig, NextHop, PeerConfig, PeerId, PortConfig, PortId,
    PortPolicy, Rate, Role, SourceRouteConfig, UplinkConfig, VlanPolicy, Vni,
};
use engine::limits;
use engine::time::Duration;
use engine::tunnel;
use engine::wire::mac::MacAddr;

use crate::io::{ClosePlan, SteerPlan, SteerReality};
pub use crate::macs::{door_mac, is_door_mac, router_mac, stable_hash, switch_mac};
use crate::model::{
    AddressOrPrefix, Config, FLOATINGS_MAX, Floating, FloatingKey, LinkLocal, Mac, Network, Peer, Port,
    PortRole, PortSet, Ports, Route, StaticFdb, Vlan, outer_ip, prefix,
};

/// The uplink's port, always.
pub const UPLINK_PORT: PortId = PortId(0);

/// The bytes that the tunnel adds in front of an inner IP packet over IPv4: inner Ethernet 14, VXLAN 8, UDP 8, IP 20.
pub const OVERHEAD_V4: u16 = tunnel::OUTER_V4_LEN as u16;
/// The same over IPv6.
pub const OVERHEAD_V6: u16 = tunnel::OUTER_V6_LEN as u16;

/// The addresses of instance metadata services, which guests must never reach through NAT.
pub const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// The numbers of objects in the engine. An object keeps its number while it exists. A freed number is not reused
/// immediately, so that a late answer about the old object does not concern the new one.
#[derive(Clone, Debug)]
pub struct Ids {
    ports: Numbers<String>,
    peers: Numbers<String>,
    floatings: Numbers<FloatingKey>,
}

impl Default for Ids {
    fn default() -> Self {
        Self {
            // Port 0 is the uplink's.
            ports: Numbers::new(1, limits::PORTS_MAX),
            peers: Numbers::new(0, limits::PEERS_MAX),
            floatings: Numbers::new(0, FLOATINGS_MAX),
        }
    }
}

impl Ids {
    /// Gives a number to every object of `config`, and frees the numbers of objects that are gone.
    pub fn assign(&mut self, config: &Config) {
        self.ports.assign(config.port.iter().map(|p| p.name.clone()));
        self.peers.assign(config.peer.iter().map(|p| p.name.clone()));
        self.floatings.assign(config.floating.iter().map(Floating::key));
    }

    /// The port with this name.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<PortId> {
        // Validation keeps the counts within the tables, so the numbers fit.
        self.ports.of.get(name).map(|&n| PortId(n as u16))
    }

    /// The peer with this name.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<PeerId> {
        self.peers.of.get(name).map(|&n| PeerId(n as u16))
    }

    /// The floating-IP mapping with this key.
    #[must_use]
    pub fn floating(&self, key: &FloatingKey) -> Option<FloatingId> {
        self.floatings.of.get(key).map(|&n| FloatingId(n))
    }
}

/// The numbers of one kind of object.
#[derive(Clone, Debug)]
struct Numbers<K> {
    of: BTreeMap<K, u32>,
    /// The freed numbers, oldest first.
    free: VecDeque<u32>,
    next: u32,
    max: u32,
}

impl<K: Ord> Numbers<K> {
    /// How many freed numbers rest before one is reused. Few, so that tables stay dense.
    const REST: usize = 16;

    fn new(first: u32, max: usize) -> Self {
        Self { of: BTreeMap::new(), free: VecDeque::new(), next: first, max: max as u32 }
    }

    fn assign(&mut self, keys: impl Iterator<Item = K>) {
        let keys: BTreeSet<K> = keys.collect();
        let free = &mut self.free;
        self.of.retain(|key, number| {
            let keep = keys.contains(key);
            if !keep {
                free.push_back(*number);
            }
            keep
        });
        for key in keys {
            if self.of.contains_key(&key) {
                continue;
            }
            let rested = self.free.len() > Self::REST || (self.next >= self.max && !self.free.is_empty());
            let number = match rested.then(|| self.free.pop_front()).flatten() {
                Some(number) => number,
                None => {
                    self.next += 1;
                    self.next - 1
                }
            };
            self.of.insert(key, number);
        }
    }
}

/// The observed state of the machine, which the configuration does not contain.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The name of this rVM.
    pub name: String,
    /// A number that no other rVM has; MAC addresses follow from it.
    pub identity: u64,
    /// The uplink, once its MAC address, IP address and MTU are known.
    pub underlay: Option<Underlay>,
    /// Every port that may forward, or whose interface is known.
    pub ports: BTreeMap<PortId, PortFact>,
    /// The measured path MTUs of peers.
    pub paths: BTreeMap<PeerId, u16>,
    /// Whether a vxlan device of the kernel uses the tunnel's UDP port, too.
    pub shares_port: bool,
    /// The MTU of each network between rVMs: [`network_mtus`] of the other fields.
    pub network_mtus: BTreeMap<String, u16>,
}

/// The observed state of one port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortFact {
    /// Whether the port is opened and attached.
    pub live: bool,
    /// Whether a guard has disabled the port.
    pub err_disabled: bool,
    /// The MTU of the port's interface, once known.
    pub mtu: Option<u16>,
}

/// The observed state of the uplink.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Underlay {
    /// The MAC address of the NIC.
    pub mac: MacAddr,
    /// Our VTEP address.
    pub vtep: IpAddr,
    /// The MTU of the NIC.
    pub mtu: u16,
    /// The NIC's connected prefixes.
    pub connected: Vec<IpPrefix>,
}

impl Facts {
    /// The rVM's name in the form that peers get.
    #[must_use]
    pub fn name_hash(&self) -> u64 {
        stable_hash(&[&self.name]).max(1)
    }

    /// The largest inner IP packet that fits the tunnel.
    #[must_use]
    pub fn overlay_mtu(&self) -> u16 {
        match &self.underlay {
            Some(u) if u.vtep.is_ipv6() => u.mtu.saturating_sub(OVERHEAD_V6),
            Some(u) => u.mtu.saturating_sub(OVERHEAD_V4),
            None => 1500 - OVERHEAD_V4,
        }
    }

    /// The bytes that the tunnel adds.
    #[must_use]
    pub fn overhead(&self) -> u16 {
        match &self.underlay {
            Some(u) if u.vtep.is_ipv6() => OVERHEAD_V6,
            _ => OVERHEAD_V4,
        }
    }

    /// The largest IP packet that reaches every peer of the network.
    #[must_use]
    pub fn network_mtu(&self, network: &str) -> u16 {
        self.network_mtus.get(network).copied().unwrap_or_else(|| self.overlay_mtu())
    }
}

/// The content of the engine's configured tables, with the names of the numbered objects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// The uplink.
    pub uplink: Option<UplinkConfig>,
    /// Networks by VNI.
    pub networks: BTreeMap<Vni, (String, NetworkConfig)>,
    /// Ports.
    pub ports: BTreeMap<PortId, (String, PortConfig)>,
    /// Peers.
    pub peers: BTreeMap<PeerId, (String, PeerConfig)>,
    /// Floating-IP mappings.
    pub floatings: BTreeMap<FloatingId, FloatingConfig>,
    /// Source routes.
    pub routes: BTreeMap<(Vni, IpPrefix), NextHop>,
    /// Static FDB entries.
    pub fdb: BTreeMap<(Vni, u16, MacAddr), Location>,
}

/// Computes the content of the engine's tables for `config`, which must be valid and have its numbers.
#[must_use]
pub fn compile(config: &Config, ids: &Ids, facts: &Facts) -> State {
    let vnis = Vnis::new(config);
    let mut state = State { uplink: uplink(config, facts), ..State::default() };
    state
        .networks
        .extend(config.network.iter().filter_map(|n| network(n).map(|c| (c.vni, (n.name.clone(), c)))));
    if let Some(fact) = config.uplink.as_ref().and(facts.ports.get(&UPLINK_PORT)) {
        state.ports.insert(UPLINK_PORT, ("uplink".to_owned(), uplink_port(fact)));
    }
    let taps: BTreeSet<&str> = config.port.iter().filter_map(|p| p.mirror.as_deref()).collect();
    for p in &config.port {
        if let Some(id) = ids.port(&p.name) {
            let (vni, tap) = (vnis.of(&p.network), taps.contains(p.name.as_str()));
            state.ports.insert(id, (p.name.clone(), port(p, vni, tap, id, ids, facts)));
        }
    }
    for p in config.peer.iter().filter(|p| !is_ourselves(p, facts)) {
        if let Some(id) = ids.peer(&p.name) {
            state.peers.insert(id, (p.name.clone(), peer(p, config, &vnis, ids, facts)));
        }
    }
    for f in &config.floating {
        if let (Some(id), Some(f)) = (ids.floating(&f.key()), floating(f, config, &vnis, ids, facts)) {
            state.floatings.insert(id, f);
        }
    }
    state.routes.extend(config.route.iter().filter_map(|r| route(r, &vnis, ids)));
    state.fdb.extend(config.fdb.iter().filter_map(|e| static_fdb(e, &vnis, ids)));
    state
}

/// Computes the engine's entry for one port of `config`.
#[must_use]
pub fn compile_port(p: &Port, config: &Config, id: PortId, ids: &Ids, facts: &Facts) -> PortConfig {
    let tap = config.mirrored_to(&p.name).next().is_some();
    port(p, config.network(&p.network).and_then(|n| Vni::new(n.vni)), tap, id, ids, facts)
}

/// Computes the engine's entry for the uplink's port.
#[must_use]
pub fn compile_uplink_port(facts: &Facts) -> PortConfig {
    uplink_port(&facts.ports.get(&UPLINK_PORT).copied().unwrap_or_default())
}

/// The prefix without bits beyond its length.
#[must_use]
pub fn truncate(p: IpPrefix) -> IpPrefix {
    match ipnet::IpNet::new(p.addr, p.len) {
        Ok(net) => IpPrefix { addr: net.network(), len: p.len },
        Err(_) => IpPrefix::host(p.addr),
    }
}

struct Vnis<'c>(BTreeMap<&'c str, Vni>);

impl<'c> Vnis<'c> {
    fn new(config: &'c Config) -> Self {
        Self(config.network.iter().filter_map(|n| Some((n.name.as_str(), Vni::new(n.vni)?))).collect())
    }

    fn of(&self, network: &str) -> Option<Vni> {
        self.0.get(network).copied()
    }
}

fn uplink(config: &Config, facts: &Facts) -> Option<UplinkConfig> {
    let (uplink, underlay) = (config.uplink.as_ref()?, facts.underlay.as_ref()?);
    let mut guard: Vec<IpPrefix> = match &uplink.guard {
        Some(guard) => guard.iter().map(|g| IpPrefix { addr: g.network(), len: g.prefix_len() }).collect(),
        None => underlay.connected.clone(),
    };
    guard.extend(METADATA.map(IpPrefix::host));
    guard.sort_unstable();
    guard.dedup();
    Some(UplinkConfig {
        port: UPLINK_PORT,
        mac: underlay.mac,
        vtep: underlay.vtep,
        tunnel_port: uplink.port,
        checksum: uplink.checksum,
        mtu: underlay.mtu,
        guard,
        switch_mac: switch_mac(&facts.name),
        name: facts.name_hash(),
        reserved_bits: uplink.reserved_bits.0,
    })
}

fn network(n: &Network) -> Option<NetworkConfig> {
    Some(NetworkConfig {
        vni: Vni::new(n.vni)?,
        gateways: n.gateway.clone(),
        router_mac: n.router_mac.map_or_else(|| router_mac(n.vni), |Mac(mac)| mac),
        fdb_max: n.fdb_max,
        fdb_age: Duration::from_secs(n.fdb_age),
        mss_clamp: n.mss_clamp,
        dhcp: (!n.dhcp.is_empty()).then(|| {
            Box::new(DhcpConfig {
                prefixes: n.dhcp.iter().map(|net| prefix(*net)).collect(),
                dns: n.dns.clone(),
                boot: (n.next_server.is_some() || n.boot_file.is_some()).then(|| BootConfig {
                    server: n.next_server,
                    file: n.boot_file.clone().unwrap_or_default().into_bytes(),
                }),
            })
        }),
    })
}

fn uplink_port(fact: &PortFact) -> PortConfig {
    PortConfig {
        vni: None,
        role: Role::Uplink,
        live: fact.live,
        mtu: fact.mtu.unwrap_or(1500),
        vlan: VlanPolicy::Transparent,
        binding: Box::default(),
        bum_pps: None,
        fdb_max: 0,
        policy: Box::default(),
    }
}

fn port(p: &Port, vni: Option<Vni>, tap: bool, id: PortId, ids: &Ids, facts: &Facts) -> PortConfig {
    let fact = facts.ports.get(&id).copied().unwrap_or_default();
    let open = fact.live && p.enabled;
    let cut = match (p.quarantine, fact.err_disabled) {
        (true, _) => Some(Cut::Quarantine),
        (false, true) => Some(Cut::ErrDisabled),
        (false, false) => None,
    };
    PortConfig {
        // A mirror target belongs to no network.
        vni: vni.filter(|_| !tap),
        role: match p.role {
            PortRole::Door => Role::Door,
            PortRole::Guest => Role::Guest,
        },
        live: open && cut.is_none(),
        mtu: port_mtu(p, fact.mtu, facts),
        vlan: match &p.vlan {
            None => VlanPolicy::Transparent,
            Some(Vlan { access: Some(vid), .. }) => VlanPolicy::Access(*vid),
            Some(Vlan { trunk, native, .. }) => {
                VlanPolicy::Trunk { tagged: trunk.clone().unwrap_or_default(), native: *native }
            }
        },
        binding: Box::new(Binding {
            macs: p.mac.iter().chain(&p.shared_mac).map(|&Mac(mac)| mac).collect(),
            ips: p.ip.iter().map(|&AddressOrPrefix(ip)| ip).collect(),
            shared_ips: p.shared_ip.iter().map(|&AddressOrPrefix(ip)| ip).collect(),
            link_local: match p.link_local {
                LinkLocal::Eui64 => LinkLocalRule::Eui64,
                LinkLocal::StablePrivacy => LinkLocalRule::Opaque,
            },
        }),
        bum_pps: (p.bum_pps != 0).then_some(p.bum_pps),
        fdb_max: p.fdb_max,
        policy: Box::new(PortPolicy {
            ingress: Rate { bps: p.ingress_bps, pps: p.ingress_pps, burst: p.ingress_burst },
            egress: Rate { bps: p.egress_bps, pps: p.egress_pps, burst: p.egress_burst },
            cut: cut.filter(|_| open),
            mirror: p.mirror.as_deref().and_then(|to| ids.port(to)),
            tap,
            bpdu_guard: p.bpdu_guard,
            learning: p.learning,
            flood: p.flood,
        }),
    }
}

/// A port's MTU: the configured value; otherwise the tunnel's capacity for a door that we create, or the MTU of the
/// interface itself.
#[must_use]
pub fn port_mtu(p: &Port, link: Option<u16>, facts: &Facts) -> u16 {
    match (p.mtu, p.makes_door(), link) {
        (Some(mtu), ..) => mtu,
        (None, false, Some(mtu)) => mtu,
        _ => facts.network_mtu(&p.network),
    }
}

/// The largest underlay packet that reaches a peer: the configured value, otherwise the measured value, otherwise the
/// uplink's MTU. A peer behind a relay has the relay's value; if the way beyond the relay is narrower, the relay
/// itself informs senders.
#[must_use]
pub fn path_mtu(p: &Peer, config: &Config, ids: &Ids, facts: &Facts) -> u16 {
    let uplink = facts.underlay.as_ref().map_or(1500, |u| u.mtu);
    let mut direct = p;
    for _ in 0..8 {
        match direct.via.as_deref().and_then(|via| config.peer(via)) {
            Some(via) => direct = via,
            None => break,
        }
    }
    let measured = || ids.peer(&direct.name).and_then(|id| facts.paths.get(&id)).copied();
    p.mtu.or(direct.mtu).or_else(measured).unwrap_or(uplink).min(uplink.max(p.mtu.unwrap_or(0)))
}

/// Whether tunnel packets that are too large for the path to this peer are fragmented.
#[must_use]
pub fn fragments(p: &Peer, config: &Config) -> bool {
    p.fragment.unwrap_or_else(|| config.uplink.as_ref().is_some_and(|u| u.fragment))
}

/// Whether the peer takes part in the network.
#[must_use]
pub fn takes_part(p: &Peer, network: &str) -> bool {
    p.networks.as_ref().is_none_or(|list| list.iter().any(|n| n == network))
}

/// Whether this entry is this rVM itself. All rVMs may share one list of all rVMs. The switch sends nothing to
/// itself.
#[must_use]
pub fn is_ourselves(p: &Peer, facts: &Facts) -> bool {
    facts.underlay.as_ref().is_some_and(|u| u.vtep == p.address)
}

/// The MTU of each network to all of its peers. Peers that receive larger packets in fragments do not count.
#[must_use]
pub fn network_mtus(config: &Config, ids: &Ids, facts: &Facts) -> BTreeMap<String, u16> {
    let most = facts.overlay_mtu();
    let mut mtus: BTreeMap<String, u16> = config.network.iter().map(|n| (n.name.clone(), most)).collect();
    for p in config.peer.iter().filter(|p| !fragments(p, config) && !is_ourselves(p, facts)) {
        let mtu = path_mtu(p, config, ids, facts).saturating_sub(facts.overhead());
        for (network, least) in &mut mtus {
            if mtu < *least && takes_part(p, network) {
                *least = mtu;
            }
        }
    }
    mtus
}

/// Computes the engine's entry for one peer of `config`.
#[must_use]
pub fn compile_peer(p: &Peer, config: &Config, ids: &Ids, facts: &Facts) -> PeerConfig {
    peer(p, config, &Vnis::new(config), ids, facts)
}

fn peer(p: &Peer, config: &Config, vnis: &Vnis<'_>, ids: &Ids, facts: &Facts) -> PeerConfig {
    let mut vnis: Vec<Vni> = match &p.networks {
        Some(networks) => networks.iter().filter_map(|n| vnis.of(n)).collect(),
        None => vnis.0.values().copied().collect(),
    };
    vnis.sort_unstable();
    PeerConfig {
        address: p.address,
        vnis,
        via: p.via.as_deref().and_then(|via| ids.peer(via)),
        spoke: p.relay,
        mtu: path_mtu(p, config, ids, facts),
        fragment: fragments(p, config),
        outer: outer_ip(p, config),
    }
}

fn ranges(ports: &[Ports]) -> Vec<L4Range> {
    let mut ranges: Vec<_> = ports.iter().map(|&Ports(range)| range).collect();
    ranges.sort_unstable();
    ranges
}

fn floating(
    f: &Floating,
    config: &Config,
    vnis: &Vnis<'_>,
    ids: &Ids,
    facts: &Facts,
) -> Option<FloatingConfig> {
    let gateway = if f.gateway == facts.name {
        Gateway::Here { reality: f.reality? }
    } else {
        Gateway::Peer(ids.peer(&f.gateway)?)
    };
    let mut except = f.except_effective();
    if let Some(uplink) = config.uplink.as_ref().filter(|_| f.only.is_empty()) {
        let tunnel = L4Range { proto: L4Proto::Udp, first: uplink.port, last: uplink.port };
        except.push(Ports(tunnel));
    }
    let inside = match &f.inside {
        Some(inside) => Some((vnis.of(&inside.network)?, inside.address)),
        None => None,
    };
    Some(FloatingConfig {
        ip: f.ip,
        vni: vnis.of(&f.network)?,
        gateway,
        inside,
        only: ranges(&f.only),
        except: ranges(&except),
    })
}

fn route(r: &Route, vnis: &Vnis<'_>, ids: &Ids) -> Option<((Vni, IpPrefix), NextHop)> {
    let from = IpPrefix { addr: r.from.network(), len: r.from.prefix_len() };
    let via = match r.via.parse() {
        Ok(address) => NextHop::Address(address),
        Err(_) => NextHop::Peer(ids.peer(&r.via)?),
    };
    Some(((vnis.of(&r.network)?, from), via))
}

fn static_fdb(e: &StaticFdb, vnis: &Vnis<'_>, ids: &Ids) -> Option<((Vni, u16, MacAddr), Location)> {
    let location = match (&e.peer, &e.port) {
        (Some(peer), _) => Location::Peer(ids.peer(peer)?),
        (None, Some(port)) => Location::Port(ids.port(port)?),
        (None, None) => return None,
    };
    Some(((vnis.of(&e.network)?, e.vlan, e.mac.0), location))
}

/// The underlay traffic that must go to the switch.
#[must_use]
pub fn steer(config: &Config, facts: &Facts) -> SteerPlan {
    let (Some(uplink), Some(underlay)) = (&config.uplink, &facts.underlay) else {
        return SteerPlan::default();
    };
    let vnis = facts.shares_port.then(|| config.network.iter().map(|n| n.vni).collect());
    SteerPlan { tunnel: Some((underlay.vtep, uplink.port)), vnis, reality: reality(config, &facts.name) }
}

/// The part of that traffic that the kernel must not take when the daemon is away. `name` is this rVM's; `vtep` is
/// its VTEP, once known.
#[must_use]
pub fn close(config: &Config, name: &str, vtep: Option<IpAddr>) -> ClosePlan {
    let Some(uplink) = &config.uplink else { return ClosePlan::default() };
    let reality = reality(config, name);
    if reality.is_empty() {
        return ClosePlan::default();
    }
    ClosePlan { interface: uplink.interface.clone(), tunnel: (uplink.address.or(vtep), uplink.port), reality }
}

/// The reality addresses of floating IPs whose gateway is this rVM, and the part of their traffic that belongs to the
/// floating IPs.
fn reality(config: &Config, name: &str) -> Vec<SteerReality> {
    let mut wanted: BTreeMap<IpAddr, PortSet> = BTreeMap::new();
    for f in config.floating.iter().filter(|f| f.gateway == name) {
        if let Some(reality) = f.reality {
            wanted.entry(reality).or_default().add(&PortSet::new(&f.only, &f.except_effective()));
        }
    }
    let reality = wanted.into_iter().map(|(address, ports)| SteerReality {
        address,
        all: ports.others,
        ports: if ports.others { Vec::new() } else { ports.ranges() },
        except: if ports.others { ports.gaps() } else { Vec::new() },
    });
    reality.collect()
}

/// The commands that lead from `old` to `new`.
///
/// Objects that use another object are removed before it and added after it: floating IPs and routes go before
/// networks, for example. A VNI that passes from one network to another (when two networks swap theirs, for example)
/// is emptied first, so that no port ever forwards on a network that is not its own.
#[must_use]
pub fn diff(old: &State, new: &State) -> Vec<Command> {
    let passed = |vni: Vni| match (old.networks.get(&vni), new.networks.get(&vni)) {
        (Some((was, _)), Some((is, _))) => was != is,
        _ => false,
    };
    let mut commands = Vec::new();

    // Remove objects, users first. An object that is removed only temporarily is set again below.
    let mut again_floatings = BTreeSet::new();
    let mut again_ports = BTreeSet::new();
    for &(vni, from) in old.routes.keys() {
        if passed(vni) || !new.routes.contains_key(&(vni, from)) {
            commands.push(Command::RemoveSourceRoute(vni, from));
        }
    }
    for (&id, f) in &old.floatings {
        let gone = !new.floatings.contains_key(&id);
        if gone || passed(f.vni) || f.inside.is_some_and(|(vni, _)| passed(vni)) {
            commands.push(Command::RemoveFloating(id));
            again_floatings.insert(id);
        }
    }
    for &(vni, vid, mac) in old.fdb.keys() {
        if passed(vni) || !new.fdb.contains_key(&(vni, vid, mac)) {
            commands.push(Command::RemoveFdb(vni, vid, mac));
        }
    }
    for (&id, (name, config)) in &old.ports {
        if new.ports.get(&id).is_none_or(|(n, _)| n != name) {
            commands.push(Command::RemovePort(id));
            again_ports.insert(id);
        } else if config.live && config.vni.is_some_and(passed) {
            commands.push(Command::SetPort(id, PortConfig { live: false, ..config.clone() }));
            again_ports.insert(id);
        }
    }
    let mut again_peers = BTreeSet::new();
    for (&id, (name, _)) in &old.peers {
        if new.peers.get(&id).is_none_or(|(n, _)| n != name) {
            commands.push(Command::RemovePeer(id));
            again_peers.insert(id);
        }
    }
    for &vni in old.networks.keys() {
        if passed(vni) || !new.networks.contains_key(&vni) {
            commands.push(Command::RemoveNetwork(vni));
        }
    }

    // Set objects, users last.
    if let Some(uplink) = &new.uplink
        && old.uplink.as_ref() != Some(uplink)
    {
        commands.push(Command::SetUplink(uplink.clone()));
    }
    for (vni, network) in &new.networks {
        if passed(*vni) || old.networks.get(vni) != Some(network) {
            commands.push(Command::SetNetwork(network.1.clone()));
        }
    }
    for (id, peer) in &new.peers {
        if again_peers.contains(id) || old.peers.get(id) != Some(peer) {
            commands.push(Command::SetPeer(*id, peer.1.clone()));
        }
    }
    for (id, port) in &new.ports {
        if again_ports.contains(id) || old.ports.get(id) != Some(port) {
            commands.push(Command::SetPort(*id, port.1.clone()));
        }
    }
    for (id, floating) in &new.floatings {
        if again_floatings.contains(id) || old.floatings.get(id) != Some(floating) {
            commands.push(Command::SetFloating(*id, floating.clone()));
        }
    }
    for (&(vni, from), &via) in &new.routes {
        if passed(vni) || old.routes.get(&(vni, from)) != Some(&via) {
            commands.push(Command::SetSourceRoute(SourceRouteConfig { vni, from, via }));
        }
    }
    for (&(vni, vid, mac), &location) in &new.fdb {
        if passed(vni) || old.fdb.get(&(vni, vid, mac)) != Some(&location) {
            commands.push(Command::AddFdb(vni, vid, mac, location));
        }
    }
    commands
}

#[cfg(test)]
mod tests;
