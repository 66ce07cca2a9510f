//! Tests of the agent's surroundings: interfaces with several names, the kernel's own vxlan devices, copies of this
//! rVM.

use ctl::io::{Input, KernelVxlan, LinkFacts, Output, PortFacts};
use engine::command::{Command, Event, Input as WorkerInput, Location, PeerId, PortId, UplinkConfig, Vni};
use engine::time::Duration;
use serde_json::{Value, json};

use crate::{World, link, uplink};

const CONFIG: &str = "name = \"rvm1\"\n[uplink]\ninterface = \"enp0s3\"\n[[network]]\nname = \"private\"\nvni = 100\n\
    [[port]]\nname = \"eth1\"\nnetwork = \"private\"\n\
    [[port]]\nname = \"g1\"\nnetwork = \"private\"\ninterface = \"a-name-longer-than-fifteen-bytes\"\n\
    [[peer]]\nname = \"rvm2\"\naddress = \"10.0.0.12\"\n";

fn named(link: LinkFacts, alt: &[&str]) -> Input {
    Input::Link(LinkFacts { alt_names: alt.iter().map(|&name| name.into()).collect(), ..link })
}

/// The uplink that the workers have.
fn told_uplink(w: &World) -> UplinkConfig {
    let set = w.seen.iter().rev().find_map(|output| match output {
        Output::Worker(WorkerInput::Command(Command::SetUplink(uplink))) => Some(uplink.clone()),
        _ => None,
    });
    set.expect("the uplink is known")
}

fn warnings(w: &mut World) -> Vec<String> {
    let status = w.call("status", json!({}));
    let texts = status["warnings"].as_array().cloned().unwrap_or_default();
    texts.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The networks in the last steering plan.
fn vnis(w: &World) -> Option<Vec<u32>> {
    let plans = w.seen.iter().rev().filter_map(|output| match output {
        Output::Steer(plan) => Some(plan.vnis.clone()),
        _ => None,
    });
    plans.flatten().next().map(|vnis| vnis.into_iter().collect())
}

/// An interface is found by any of its names as soon as it has one, and is opened by the name that the kernel's files
/// use.
#[test]
fn interfaces_by_alternative_names() {
    let mut w = World::new(CONFIG);
    w.take();
    w.tell(named(uplink(), &["enp0s3"]));
    assert_eq!(w.opened().iter().map(|(_, o)| o.interface.as_str()).collect::<Vec<_>>(), ["eth0"]);
    w.tell(Input::PortOpened(PortId(0), PortFacts::default()));
    assert_eq!(told_uplink(&w).vtep.to_string(), "10.0.0.11");
    w.take();
    let g1 = w.id("g1");
    w.tell(Input::Link(link("tap7", 7)));
    assert_eq!(w.opened(), [], "not by this name");
    w.tell(named(link("tap7", 7), &["other", "a-name-longer-than-fifteen-bytes"]));
    let [(id, open)] = &w.opened()[..] else { panic!("{:?}", w.opened()) };
    assert_eq!((*id, open.interface.as_str(), open.index), (g1, "tap7", 7));
    w.tell(Input::PortOpened(g1, PortFacts::default()));
    assert!(w.agent.port_live("g1"));
    // The name moves to another interface, and so does the port.
    w.take();
    w.tell(Input::Link(link("tap7", 7)));
    w.tell(named(link("tap8", 8), &["a-name-longer-than-fifteen-bytes"]));
    assert!(w.seen.contains(&Output::ClosePort(g1)));
    w.pass(Duration::from_secs(1));
    assert_eq!(w.opened().last().map(|(_, open)| open.index), Some(8));
}

/// Two entries mean one interface by different names: an edit and a reload are refused as a whole. If the names
/// become known only later, the second entry fails, and its error names the user of the interface.
#[test]
fn one_interface_serves_one_port() {
    let mut w = World::new(CONFIG);
    w.tell(named(uplink(), &["enp0s3", "ens3"]));
    w.tell(named(link("tap7", 7), &["a-name-longer-than-fifteen-bytes"]));
    for interface in ["eth0", "ens3", "tap7"] {
        let object = json!({ "name": "g2", "network": "private", "interface": interface });
        let id = w.send("port.add", json!({ "object": object }));
        let answer = w.reply(id).expect("an answer").clone();
        let text = answer["error"].to_string();
        assert!(text.contains("by another name") && text.contains("name another"), "{interface}: {answer}");
    }
    let twice = CONFIG.replace("a-name-longer-than-fifteen-bytes", "ens3");
    w.tell(Input::Reload { text: twice.clone(), drop_ins: vec![] });
    assert!(matches!(w.seen.last(), Some(Output::Reloaded(Err(_)))), "{:?}", w.seen.last());

    let mut w = World::new(&twice);
    w.tell(named(uplink(), &["enp0s3", "ens3"]));
    w.tell(Input::PortOpened(PortId(0), PortFacts::default()));
    assert_eq!(w.opened().len(), 1, "the uplink alone");
    let said = warnings(&mut w);
    assert!(
        said.iter().any(|text| text.contains("\"g1\"") && text.contains("that is \"uplink\"'s")),
        "{said:?}"
    );
}

/// A vxlan device of the kernel on our UDP port gets the packets of all networks that are not ours, and we get
/// everything again when it is gone. A device with a network of ours does not work, which is a warning as long as it
/// lasts.
#[test]
fn the_kernels_vxlan_on_our_port() {
    let mut w = World::new(CONFIG);
    w.tell(named(uplink(), &["enp0s3"]));
    assert_eq!(vnis(&w), None);
    let device =
        |vni, port| Input::Link(LinkFacts { vxlan: Some(KernelVxlan { vni, port }), ..link("flannel.1", 9) });
    w.tell(device(Some(1), 8472));
    assert_eq!(vnis(&w), None, "another port");
    w.tell(device(Some(1), 4789));
    assert_eq!(vnis(&w), Some(vec![100]));
    assert!(!warnings(&mut w).iter().any(|text| text.contains("flannel.1")));
    let status = w.call("status", json!({}));
    assert_eq!(status["port_sharers"], json!([{ "link": "flannel.1", "vni": 1 }]));
    w.tell(device(Some(100), 4789));
    let said = warnings(&mut w);
    assert!(said.iter().any(|text| text.contains("flannel.1") && text.contains("\"private\"")), "{said:?}");
    w.tell(device(None, 4789));
    assert!(!warnings(&mut w).iter().any(|text| text.contains("flannel.1")));
    w.tell(Input::LinkGone("flannel.1".into()));
    let last = w.seen.iter().rev().find_map(|o| match o {
        Output::Steer(plan) => Some(plan.vnis.is_some()),
        _ => None,
    });
    assert_eq!(last, Some(false));
}

/// A copy of this rVM is recognised by its name, and by the MAC addresses of its switch and of its doors. Each is a
/// warning as long as it lasts, with a remedy.
#[test]
fn a_copy_of_this_rvm_is_noticed() {
    let mut w = World::new(CONFIG);
    w.tell(named(uplink(), &["enp0s3"]));
    assert_eq!(warnings(&mut w).iter().filter(|text| text.contains("duplicate")).count(), 0);
    let (peer, ours) = (PeerId(0), told_uplink(&w));
    let door = w.doors()[0].mac;
    w.tell(Input::Event(0, Event::OurMac(peer, ours.switch_mac)));
    let said = warnings(&mut w);
    let of_switch = ["duplicate MAC", "our switch", &ours.switch_mac.to_string(), "`name`"];
    assert!(said.iter().any(|text| of_switch.iter().all(|word| text.contains(word))), "{said:?}");
    // The shared name explains the shared MAC address of the switch.
    w.tell(Input::Event(0, Event::PeerNamed(peer, ours.name)));
    assert!(!warnings(&mut w).iter().any(|text| text.contains("our switch")));
    let vni = Vni::new(100).unwrap();
    w.tell(Input::Event(0, Event::Learned(vni, 0, door, Location::Port(w.id("eth1")), true)));
    assert!(
        !warnings(&mut w).iter().any(|text| text.contains("eth1") && text.contains("duplicate")),
        "it is here"
    );
    w.tell(Input::Event(0, Event::Learned(vni, 0, door, Location::Peer(peer), true)));
    let said = warnings(&mut w);
    let has = |words: &[&str]| said.iter().any(|text| words.iter().all(|word| text.contains(word)));
    assert!(has(&["duplicate name", "\"rvm2\"", "\"rvm1\"", "`name`"]), "{said:?}");
    assert!(has(&["duplicate MAC", "door \"eth1\"", &door.to_string()]), "{said:?}");
    let logged = |w: &World| {
        let of_twins = |o: &&Output| matches!(o, Output::Log("warn", text) if text.contains("duplicate"));
        w.seen.iter().filter(of_twins).count()
    };
    assert_eq!(logged(&w), 3);
    w.tell(Input::Event(0, Event::OurMac(peer, ours.switch_mac)));
    assert_eq!(logged(&w), 3, "said once in the log");
    // The copy has another name now, and the addresses have not been seen there for a long time.
    w.tell(Input::Event(0, Event::PeerNamed(peer, ours.name ^ 1)));
    w.pass(Duration::from_secs(601));
    assert_eq!(warnings(&mut w).iter().filter(|text| text.contains("duplicate")).count(), 0);
    // A peer that is gone causes no warning.
    w.tell(Input::Event(0, Event::PeerNamed(peer, ours.name)));
    w.call("peer.del", json!({ "name": "rvm2" }));
    assert_eq!(warnings(&mut w).iter().filter(|text| text.contains("duplicate")).count(), 0);
}
