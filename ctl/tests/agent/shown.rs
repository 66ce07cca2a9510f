//! How the agent shows its configuration: as a whole, object by object, with the file of each part, and in events.

use std::time::{Duration as Wall, SystemTime};

use ctl::agent::Options;
use ctl::api::Code;
use ctl::io::Input;
use ctl::model::DropIn;
use engine::time::Duration;
use serde_json::{Value, json};

use crate::{CONFIG, World, uplink, without_peers};

fn drop_in(name: &str, text: &str) -> DropIn {
    DropIn { name: name.into(), text: text.into() }
}

/// A drop-in that lists this rVM and others.
const ALL: &str = "[[peer]]\nname = \"rvm1\"\naddress = \"10.0.0.11\"\n[[peer]]\nname = \"rvm2\"\naddress = \"10.0.0.12\"\n\
                   [[network]]\nname = \"more\"\nvni = 300\n";

fn with_drop_in() -> World {
    let mut w = World::with(Options {
        config_text: Some(without_peers()),
        config_path: "/etc/ivswitch/ivswitch.toml".into(),
        drop_ins: vec![drop_in("all.toml", ALL)],
        persist: true,
        ..Options::default()
    });
    w.tell(Input::Link(uplink()));
    w
}

/// `config.show` has everything in force, drop-ins included, and the file of each part. This rVM's own entry is left
/// out, and `peer.list` says so.
#[test]
fn the_whole_configuration_is_shown_with_its_files() {
    let mut w = with_drop_in();
    let shown = w.call("config.show", json!({}));
    let names = |list: &Value, key: &str| -> Vec<String> {
        list.as_array().unwrap().iter().map(|e| e[key].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&shown["config"]["network"], "name"), ["private", "more"]);
    assert_eq!(names(&shown["config"]["peer"], "name"), ["rvm2"]);
    assert_eq!(shown["origins"]["network"], json!(["ivswitch.toml", "all.toml"]));
    assert_eq!(shown["origins"]["uplink"], "ivswitch.toml");
    assert_eq!(shown["file"], "/etc/ivswitch/ivswitch.toml");
    assert_eq!(shown["skipped"][0]["peer"], "rvm1");
    assert!(!shown["text"].as_str().unwrap().contains("more"), "the text is the main file's");

    let rows = w.call("peer.list", json!({ "name": "rvm1" }))["rows"].clone();
    assert_eq!(rows[0]["state"], "this-rvm");
    assert!(rows[0]["why"].as_str().unwrap().contains("all.toml"), "{rows}");
    let problems = w.call("status", json!({}))["problems"].clone();
    assert!(problems.as_array().unwrap().iter().all(|p| p["kind"] == "port"), "no warning of it: {problems}");
    assert!(w.refused("peer.del", json!({ "name": "rvm1" }), Code::NotFound).contains("all.toml"));
}

/// Files that are not in force yet are compared as a reload would read them.
#[test]
fn files_are_compared_with_their_drop_ins() {
    let mut w = with_drop_in();
    let differs = |w: &mut World, drop_ins: Value| {
        w.call("config.diff", json!({ "text": without_peers(), "drop_ins": drop_ins }))["changes"].clone()
    };
    assert_eq!(differs(&mut w, Value::Null), json!([]), "those that were read last");
    assert_eq!(differs(&mut w, json!([{ "name": "all.toml", "text": ALL }])), json!([]));
    let changes = differs(&mut w, json!([]));
    assert_eq!(changes.as_array().map(Vec::len), Some(2), "{changes}");
    let changes =
        differs(&mut w, json!([{ "name": "x.toml", "text": ALL.replace("vni = 300", "vni = 301") }]));
    assert_eq!(changes[0]["object"], "network \"more\"", "{changes}");
}

/// A list of one object has every key that the object can have. `status` does not, because it must fit one screen.
#[test]
fn objects_are_shown_with_every_key() {
    let mut w = World::up(CONFIG);
    let row = w.call("port.list", json!({ "name": "g1" }))["rows"][0].clone();
    let config = &row["config"];
    assert_eq!(config["values"]["mac"], json!(["02:00:00:00:00:01"]));
    assert_eq!((&config["values"]["bum_pps"], &config["values"]["mtu"]), (&json!(10_000), &Value::Null));
    let defaults = config["defaults"].as_array().unwrap();
    assert!(defaults.contains(&json!("bum_pps")) && !defaults.contains(&json!("mac")), "{config}");
    for (method, params, key) in [
        ("port.list", json!({ "name": "uplink" }), "probe"),
        ("network.list", json!({ "name": "private" }), "fdb_age"),
        ("peer.list", json!({ "name": "rvm2" }), "fragment"),
    ] {
        let rows = w.call(method, params)["rows"].clone();
        assert!(rows[0]["config"]["values"].get(key).is_some(), "{method}: {rows}");
    }
    let status = w.call("status", json!({}));
    assert_eq!(status["ports"][0].get("config"), None);
}

/// Events contain the time of the wall clock. A flush is an event, and the event of an edit names its changes.
#[test]
fn events_have_a_time_and_say_what_was_changed() {
    let mut w = World::up(CONFIG);
    let wall = SystemTime::UNIX_EPOCH + Wall::from_secs(1_770_000_000);
    w.tell(Input::WallClock(wall));
    w.call("subscribe", json!({}));
    w.pass(Duration::from_millis(250));
    let events = |w: &World, kind: &str| -> Vec<Value> {
        let params = w.replies.iter().map(|(_, v)| v["params"].clone());
        params.filter(|p| p["event"] == kind).collect()
    };
    w.call("fdb.flush", json!({ "network": "private" }));
    w.call("neigh.flush", json!({}));
    let flushes = events(&w, "flush");
    let first =
        json!({ "event": "flush", "time": "2026-02-02T02:40:00.250Z", "table": "fdb", "network": "private" });
    assert_eq!(flushes[0], first);
    assert_eq!(flushes[1]["table"], "neigh");

    w.call("network.set", json!({ "name": "private", "set": { "fdb_age": 60 } }));
    let config = events(&w, "config");
    assert_eq!(config[0]["changes"][0]["object"], "network \"private\"", "{config:?}");
    w.call("port.del", json!({ "name": "g1" }));
    let gone = events(&w, "port").into_iter().find(|e| e["state"] == "gone").expect("an event");
    assert_eq!(gone["ifname"], "g1");
}
