use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::model::Port;
use crate::model::arbitrary::config;

/// The engine's configured tables in their simplest form: the result of the commands, and nothing else.
#[derive(Clone, PartialEq, Debug, Default)]
struct Tables {
    uplink: Option<UplinkConfig>,
    networks: BTreeMap<Vni, NetworkConfig>,
    ports: BTreeMap<PortId, PortConfig>,
    peers: BTreeMap<PeerId, PeerConfig>,
    floatings: BTreeMap<FloatingId, FloatingConfig>,
    routes: BTreeMap<(Vni, IpPrefix), NextHop>,
    fdb: BTreeMap<(Vni, u16, MacAddr), Location>,
}

impl Tables {
    fn apply(&mut self, command: &Command) {
        match command.clone() {
            Command::SetUplink(c) => self.uplink = Some(c),
            Command::SetNetwork(c) => drop(self.networks.insert(c.vni, c)),
            Command::RemoveNetwork(vni) => {
                self.networks.remove(&vni).expect("removed once");
            }
            Command::SetPort(id, c) => drop(self.ports.insert(id, c)),
            Command::RemovePort(id) => drop(self.ports.remove(&id).expect("removed once")),
            Command::SetPeer(id, c) => drop(self.peers.insert(id, c)),
            Command::RemovePeer(id) => drop(self.peers.remove(&id).expect("removed once")),
            Command::SetFloating(id, c) => drop(self.floatings.insert(id, c)),
            Command::RemoveFloating(id) => drop(self.floatings.remove(&id).expect("removed once")),
            Command::SetSourceRoute(SourceRouteConfig { vni, from, via }) => {
                self.routes.insert((vni, from), via);
            }
            Command::RemoveSourceRoute(vni, from) => {
                self.routes.remove(&(vni, from)).expect("removed once");
            }
            Command::AddFdb(vni, vid, mac, location) => {
                self.fdb.insert((vni, vid, mac), location);
            }
            Command::RemoveFdb(vni, vid, mac) => {
                self.fdb.remove(&(vni, vid, mac)).expect("removed once");
            }
            other => panic!("not of reconciliation: {other:?}"),
        }
    }
}

fn underlay() -> Underlay {
    let connected = vec![IpPrefix { addr: IpAddr::from([10, 0, 0, 0]), len: 24 }];
    Underlay { mac: MacAddr([2, 0, 0, 0, 0, 1]), vtep: IpAddr::from([10, 0, 0, 11]), mtu: 1500, connected }
}

/// An observed state in which every port is live, except every `hole`th.
fn facts(config: &Config, ids: &Ids, hole: usize) -> Facts {
    let ports = config.port.iter().enumerate().map(|(i, p)| {
        (
            ids.port(&p.name).unwrap(),
            PortFact { live: i % 5 != hole, err_disabled: i % 3 == hole, mtu: Some(1400) },
        )
    });
    let uplink = config
        .uplink
        .iter()
        .map(|_| (UPLINK_PORT, PortFact { live: true, mtu: Some(1500), ..PortFact::default() }));
    Facts {
        name: "me".to_owned(),
        underlay: config.uplink.is_some().then(underlay),
        ports: ports.chain(uplink).collect(),
        ..Facts::default()
    }
}

/// The network of every VNI, according to the configuration.
fn owners(config: &Config) -> BTreeMap<Vni, String> {
    config.network.iter().map(|n| (Vni::new(n.vni).unwrap(), n.name.clone())).collect()
}

proptest! {
    /// Through a series of configurations, step by step, the tables always equal the tables built from scratch. At no
    /// moment in between can a live port forward on a network that is not its own, although VNIs pass between
    /// networks.
    #[test]
    fn step_by_step_is_as_from_scratch(configs in prop::collection::vec((config(), 0usize..6), 1..6)) {
        let (mut ids, mut state, mut tables) = (Ids::default(), State::default(), Tables::default());
        let mut before = Config::default();
        for (config, hole) in configs {
            ids.assign(&config);
            let facts = facts(&config, &ids, hole);
            let new = compile(&config, &ids, &facts);
            prop_assert_eq!(diff(&new, &new), vec![], "nothing to do");

            let (was, is) = (owners(&before), owners(&config));
            // The network that each VNI stands for in the tables at this moment.
            let mut now = was.clone();
            for command in diff(&state, &new) {
                tables.apply(&command);
                match &command {
                    Command::RemoveNetwork(vni) => drop(now.remove(vni)),
                    Command::SetNetwork(n) => drop(now.insert(n.vni, is[&n.vni].clone())),
                    _ => {}
                }
                for (id, port) in tables.ports.iter().filter(|(_, p)| p.live) {
                    let Some((vni, network)) = port.vni.and_then(|v| Some((v, now.get(&v)?))) else { continue };
                    let own = |c: &Config, s: &State| {
                        s.ports.get(id).is_some_and(|(name, p)| {
                            p.vni == Some(vni) && c.port(name).is_some_and(|p| p.network == *network)
                        })
                    };
                    prop_assert!(own(&before, &state) || own(&config, &new), "{command:?}: {id:?} on {network}");
                }
            }
            // No command removes an uplink; the commands remove its port instead.
            let uplink = new.uplink.clone().or(tables.uplink.clone());
            let mut scratch = Tables::default();
            diff(&State::default(), &new).iter().for_each(|c| scratch.apply(c));
            scratch.uplink = uplink;
            prop_assert_eq!(&tables, &scratch);

            prop_assert_eq!(tables.ports.len(), config.port.len() + usize::from(config.uplink.is_some()));
            let others = config.peer.iter().filter(|p| !is_ourselves(p, &facts)).count();
            prop_assert_eq!(tables.peers.len(), others);
            prop_assert_eq!(tables.floatings.len(), config.floating.len());
            prop_assert_eq!(tables.routes.len(), config.route.len());
            prop_assert_eq!(tables.fdb.len(), config.fdb.len());
            (before, state) = (config, new);
        }
    }

    /// An object keeps its number while it exists, and no two have the same number.
    #[test]
    fn numbers_are_stable(configs in prop::collection::vec(config(), 1..8)) {
        let mut ids = Ids::default();
        let mut before: BTreeMap<String, PortId> = BTreeMap::new();
        for config in configs {
            ids.assign(&config);
            let now: BTreeMap<String, PortId> =
                config.port.iter().map(|p| (p.name.clone(), ids.port(&p.name).unwrap())).collect();
            let unique: BTreeSet<_> = now.values().collect();
            prop_assert_eq!(unique.len(), now.len());
            prop_assert!(!now.values().any(|&id| id == UPLINK_PORT));
            for (name, id) in &now {
                if let Some(was) = before.get(name) {
                    prop_assert_eq!(was, id);
                } else {
                    prop_assert!(!before.values().any(|was| was == id), "a number rests before it is used again");
                }
            }
            before = now;
        }
    }
}

#[test]
fn numbers_fit_the_tables_however_often_ports_come_and_go() {
    let mut ids = Ids::default();
    let full = |from: usize| Config {
        port: (from..from + limits::PORTS_MAX - 1).map(|i| Port::new(format!("p{i}"), "n")).collect(),
        ..Config::default()
    };
    for round in 0..20 {
        let config = full(round * 100);
        ids.assign(&config);
        for p in &config.port {
            let id = ids.port(&p.name).unwrap();
            assert!(usize::from(id.0) < limits::PORTS_MAX && id != UPLINK_PORT);
        }
    }
}

const STEER: &str = r#"
name = "me"
[uplink]
interface = "eth0"
[[network]]
name = "public"
vni = 1
[[floating]]
ip = "56.0.0.1"
network = "public"
gateway = "me"
reality = "10.0.0.11"
except = ["tcp/22", "tcp/80"]
[[floating]]
ip = "56.0.0.2"
network = "public"
gateway = "me"
reality = "10.0.0.11"
only = ["tcp/80"]
[[floating]]
ip = "56.0.0.3"
network = "public"
gateway = "me"
reality = "10.0.0.12"
only = ["tcp/443", "udp/5000-5010"]
"#;

/// Two mappings share one reality address: the port that one leaves out and the other takes goes to the switch.
#[test]
fn steering_is_the_union_of_the_mappings() {
    let config = crate::model::parse(STEER).unwrap();
    let mut ids = Ids::default();
    ids.assign(&config);
    let plan = steer(&config, &facts(&config, &ids, 9));
    let range = |proto, first, last| L4Range { proto, first, last };
    assert_eq!(plan.tunnel, Some((IpAddr::from([10, 0, 0, 11]), 4789)));
    assert_eq!(plan.reality.len(), 2);
    assert!(plan.reality[0].all);
    assert_eq!(plan.reality[0].except, [range(L4Proto::Tcp, 22, 22)]);
    assert!(!plan.reality[1].all);
    assert_eq!(plan.reality[1].ports, [range(L4Proto::Tcp, 443, 443), range(L4Proto::Udp, 5000, 5010)]);
    assert_eq!(plan.reality[1].except, []);
    let without = Facts { underlay: None, ..facts(&config, &ids, 9) };
    assert_eq!(steer(&config, &without), SteerPlan::default());
}

#[test]
fn the_guard_holds_the_connected_prefixes_or_what_is_written_and_metadata_always() {
    let mut config = crate::model::parse(STEER).unwrap();
    let ids = Ids::default();
    let guard = |c: &Config| uplink(c, &facts(&Config { port: vec![], ..c.clone() }, &ids, 9)).unwrap().guard;
    let metadata = METADATA.map(IpPrefix::host);
    let connected = underlay().connected[0];
    assert!(metadata.iter().chain([&connected]).all(|p| guard(&config).contains(p)));
    config.uplink.as_mut().unwrap().guard = Some(vec![]);
    assert_eq!(guard(&config), metadata);
}

/// These addresses are visible on the wire and to CMSes; changing them is an incompatible change.
#[test]
fn macs_are_stable() {
    assert_eq!(router_mac(0x01_0203).to_string(), "02:69:76:01:02:03");
    assert_eq!(switch_mac("rvm1").to_string(), "02:69:77:20:ae:55");
    assert_eq!(door_mac(1, "eth1").to_string(), "02:69:78:6e:cf:06");
    assert_ne!(door_mac(1, "eth1"), door_mac(2, "eth1"));
    assert_ne!(door_mac(1, "1"), door_mac(11, ""));
    assert!(is_door_mac(door_mac(1, "eth1")) && !is_door_mac(switch_mac("rvm1")));
}

#[test]
fn the_tunnel_takes_its_bytes() {
    let mut facts = Facts { underlay: Some(underlay()), ..Facts::default() };
    assert_eq!(facts.overlay_mtu(), 1450);
    facts.underlay.as_mut().unwrap().vtep = "fd00::1".parse().unwrap();
    assert_eq!(facts.overlay_mtu(), 1430);
    facts.underlay = None;
    assert_eq!(facts.overlay_mtu(), 1450);
}
