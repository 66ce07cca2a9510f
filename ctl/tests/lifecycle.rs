//! The life of a configuration: read in layers, applied, commit-confirmed, rolled back, read again, saved.

use ctl::agent::{Agent, Options};
use ctl::io::{ClientId, Input, Output};
use ctl::model::DropIn;
use engine::command::{Command, Input as WorkerInput};
use engine::time::{Duration, Instant};
use serde_json::{Value, json};

const OLD: &str = "name = \"rvm1\"\n[[network]]\nname = \"a\"\nvni = 1\n";
const NEW: &str = "# new\nname = \"rvm1\"\n[[network]]\nname = \"b\"\nvni = 2\n";

/// An agent whose requests do not wait, and all its outputs.
struct World {
    agent: Agent,
    now: Instant,
    /// Whether the file can be written.
    disk: Result<(), String>,
    saved: Vec<String>,
    commands: Vec<Command>,
    reloads: Vec<bool>,
    log: String,
    answer: Value,
}

impl World {
    fn new(text: &str, drop_ins: &[(&str, &str)]) -> Self {
        let options = Options {
            config_text: Some(text.into()),
            drop_ins: layers(drop_ins),
            persist: true,
            ..Options::default()
        };
        let agent = Agent::new(Instant::from_millis(1000), options).unwrap();
        let mut world = Self {
            agent,
            now: Instant::from_millis(1000),
            disk: Ok(()),
            saved: vec![],
            commands: vec![],
            reloads: vec![],
            log: String::new(),
            answer: Value::Null,
        };
        world.drain();
        world
    }

    fn drain(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Persist(text) => {
                    if self.disk.is_ok() {
                        self.saved.push(text);
                    }
                    self.agent.handle(self.now, Input::Persisted(self.disk.clone()));
                }
                Output::Worker(WorkerInput::Command(command)) => self.commands.push(command),
                Output::Reloaded(result) => self.reloads.push(result.is_ok()),
                Output::Log(_, text) => self.log += &format!("{text}\n"),
                Output::Reply(_, line) => self.answer = serde_json::from_str(&line).unwrap(),
                _ => {}
            }
        }
    }

    fn ask(&mut self, method: &str, mut params: Value) -> Value {
        params["timeout_ms"] = json!(0);
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        self.agent.handle(self.now, Input::Request(ClientId(1), request.to_string()));
        self.drain();
        self.answer.clone()
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        let answer = self.ask(method, params);
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    fn refused(&mut self, method: &str, params: Value) -> (i64, String) {
        let answer = self.ask(method, params);
        let error = &answer["error"];
        (error["code"].as_i64().unwrap_or_else(|| panic!("{method} was taken: {answer}")), error.to_string())
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.agent.handle_timeout(self.now);
        self.drain();
    }

    fn reload(&mut self, text: &str, drop_ins: &[(&str, &str)]) {
        self.agent.handle(self.now, Input::Reload { text: text.into(), drop_ins: layers(drop_ins) });
        self.drain();
    }

    fn warnings(&mut self) -> String {
        self.call("status", json!({}))["warnings"].to_string()
    }

    fn networks(&self) -> Vec<&str> {
        self.agent.config().network.iter().map(|n| n.name.as_str()).collect()
    }
}

fn layers(drop_ins: &[(&str, &str)]) -> Vec<DropIn> {
    drop_ins.iter().map(|(name, text)| DropIn { name: (*name).into(), text: (*text).into() }).collect()
}

const CONFLICT: i64 = -32004;
const NOT_FOUND: i64 = -32003;

/// A confirmed configuration is in force immediately, but in the file only after the confirmation.
#[test]
fn a_trial_that_is_confirmed_stays() {
    let mut w = World::new(OLD, &[]);
    w.call("config.apply", json!({ "text": NEW, "confirm_s": 60 }));
    assert_eq!((w.networks(), w.saved.len()), (vec!["b"], 0));
    let shown = w.call("config.show", json!({}));
    assert_eq!((&shown["saved"], &shown["trial_s"]), (&json!(false), &json!(60)));
    w.pass(Duration::from_secs(59));
    w.call("config.confirm", json!({}));
    assert_eq!(w.saved, [NEW]);
    w.pass(Duration::from_secs(100));
    assert_eq!(w.networks(), ["b"]);
    assert_eq!(w.refused("config.confirm", json!({})).0, NOT_FOUND);
}

/// No client confirms in time: the previous configuration comes back, to the letter, and the file never changes.
#[test]
fn a_trial_that_nobody_confirms_is_taken_back() {
    let mut w = World::new(OLD, &[]);
    w.call("config.apply", json!({ "text": NEW, "confirm_s": 60 }));
    w.agent.handle(w.now, Input::Hangup(ClientId(1)));
    let deadline = w.agent.next_deadline().unwrap();
    assert_eq!(deadline, w.now + Duration::from_secs(60));
    w.pass(Duration::from_millis(59_999));
    assert_eq!(w.networks(), ["b"]);
    w.commands.clear();
    w.pass(Duration::from_millis(1));
    assert_eq!((w.networks(), w.saved.len()), (vec!["a"], 0));
    assert!(w.commands.iter().any(|c| matches!(c, Command::RemoveNetwork(vni) if vni.get() == 2)));
    assert!(w.log.contains("rolled back"), "{}", w.log);
    assert_eq!(w.call("config.show", json!({}))["text"], OLD);
    // A manual rollback does the same.
    w.call("config.apply", json!({ "text": NEW, "confirm_s": 60 }));
    w.call("config.rollback", json!({}));
    assert_eq!((w.networks(), w.saved.len()), (vec!["a"], 0));
}

/// A rollback must restore a configuration that an operator chose, so other edits are refused until then.
#[test]
fn during_a_trial_nothing_else_is_edited() {
    let mut w = World::new(OLD, &[]);
    w.call("config.apply", json!({ "text": NEW, "confirm_s": 60 }));
    let network = json!({ "object": { "name": "c", "vni": 3 } });
    for (method, params) in [
        ("network.add", network.clone()),
        ("config.apply", json!({ "text": OLD })),
        ("config.apply", json!({ "text": OLD, "confirm_s": 5 })),
    ] {
        let (code, words) = w.refused(method, params);
        assert_eq!(code, CONFLICT, "{method}");
        assert!(words.contains("config confirm"), "{words}");
    }
    w.call("config.rollback", json!({}));
    w.call("network.add", network);
    assert_eq!(w.networks(), ["a", "c"]);
    for confirm_s in [0, u64::MAX] {
        w.refused("config.apply", json!({ "text": NEW, "confirm_s": confirm_s }));
    }
}

/// An earlier edit could not be saved. The retry during a commit-confirmed configuration saves that edit, not the
/// unconfirmed one.
#[test]
fn a_retry_never_saves_a_trial() {
    let mut w = World::new(OLD, &[]);
    w.disk = Err("disk full".into());
    w.call("network.add", json!({ "object": { "name": "c", "vni": 3 } }));
    w.call("config.apply", json!({ "text": NEW, "confirm_s": 60 }));
    w.disk = Ok(());
    w.pass(Duration::from_secs(31));
    assert_eq!(w.saved.len(), 1);
    assert!(w.saved[0].contains("name = \"c\"") && !w.saved[0].contains("name = \"b\""), "{}", w.saved[0]);
}

/// The files are read again: differences are applied and nothing is written; errors refuse the whole reload. A reload
/// ends a commit-confirmed configuration, because it shows what the operator wants.
#[test]
fn reload_takes_the_files_or_refuses_them() {
    let mut w = World::new(OLD, &[]);
    w.commands.clear();
    w.reload(OLD, &[]);
    assert!(w.commands.is_empty() && w.reloads == [true]);
    w.reload(NEW, &[("10.toml", "[[network]]\nname = \"d\"\nvni = 4\n")]);
    assert_eq!(w.networks(), ["b", "d"]);
    w.reload("rubbish =", &[]);
    w.reload(NEW, &[("10.toml", "[[network]]\nname = \"b\"\nvni = 5\n")]);
    assert_eq!((w.networks(), w.reloads.clone()), (vec!["b", "d"], vec![true, true, false, false]));
    assert!(w.warnings().contains("refused") && w.warnings().contains("10.toml"), "{}", w.warnings());
    w.call("config.apply", json!({ "text": OLD, "confirm_s": 60 }));
    assert_eq!(w.networks(), ["a", "d"]);
    w.reload(NEW, &[]);
    assert!(!w.warnings().contains("refused"), "{}", w.warnings());
    w.pass(Duration::from_secs(61));
    assert_eq!((w.networks(), w.saved.len()), (vec!["b"], 0));
    w.agent.handle(w.now, Input::Unreadable("ivswitch.toml: Is a directory".into()));
    assert!(w.warnings().contains("refused") && w.warnings().contains("a directory"), "{}", w.warnings());
    w.reload(NEW, &[]);
    assert!(!w.warnings().contains("refused"), "{}", w.warnings());
    assert_eq!(w.call("config.show", json!({}))["saved"], true);
}

/// Edits go to the main file alone; the entries of a drop-in stay with its author.
#[test]
fn drop_ins_are_not_edited() {
    let drop_in = ("10.toml", "[[network]]\nname = \"d\"\nvni = 4\n");
    let mut w = World::new(OLD, &[drop_in]);
    w.call("network.add", json!({ "object": { "name": "c", "vni": 3 } }));
    assert_eq!(w.networks(), ["a", "c", "d"]);
    assert!(!w.saved[0].contains("\"d\"") && w.saved[0].starts_with(OLD), "{}", w.saved[0]);
    for (method, params) in [
        ("network.del", json!({ "name": "d" })),
        ("network.set", json!({ "name": "d", "set": { "vni": 9 } })),
    ] {
        let (code, words) = w.refused(method, params);
        assert_eq!(code, CONFLICT, "{method}");
        assert!(words.contains("drop-in"), "{words}");
    }
    // A new agent that starts from the saved file has the same configuration.
    let again = World::new(&w.saved[0], &[drop_in]);
    assert_eq!(again.agent.config(), w.agent.config());
    assert_eq!(w.call("config.show", json!({}))["drop_ins"], json!(["10.toml"]));
}

/// `config.diff` changes nothing, and includes drop-ins.
#[test]
fn differences_are_told() {
    let mut w = World::new(OLD, &[("10.toml", "[[network]]\nname = \"d\"\nvni = 4\n")]);
    assert_eq!(w.call("config.diff", json!({ "text": OLD }))["changes"], json!([]));
    let changes = w.call("config.diff", json!({ "text": NEW }))["changes"].clone();
    let objects: Vec<&str> =
        changes.as_array().unwrap().iter().map(|c| c["object"].as_str().unwrap()).collect();
    assert_eq!(objects, ["network \"a\"", "network \"b\""]);
    assert_eq!(w.networks(), ["a", "d"]);
    w.refused("config.diff", json!({ "text": "rubbish =" }));
}

/// A read-only client is refused every method that changes something, and every unknown method; the request has no
/// effect. After its hang-up, another client may get its number.
#[test]
fn t19_a_reader_changes_nothing() {
    let mut w = World::new(OLD, &[]);
    w.agent.handle(w.now, Input::ReadOnly(ClientId(1)));
    const PERMISSION: i64 = -32006;
    for (method, params) in [
        ("network.add", json!({ "object": { "name": "c", "vni": 3 } })),
        ("network.del", json!({ "name": "a" })),
        ("config.apply", json!({ "text": NEW })),
        ("config.rollback", json!({})),
        ("fdb.flush", json!({})),
        ("no.such.method", json!({})),
    ] {
        assert_eq!(w.refused(method, params).0, PERMISSION, "{method}");
    }
    assert_eq!((w.networks(), w.saved.len()), (vec!["a"], 0));
    w.call("config.show", json!({}));
    w.call("config.diff", json!({ "text": NEW }));
    w.call("version", json!({}));
    w.agent.handle(w.now, Input::Hangup(ClientId(1)));
    w.call("network.del", json!({ "name": "a" }));
}
