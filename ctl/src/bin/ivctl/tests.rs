//! The output for people, to the letter; and the dialogue with a daemon, here a thread with prepared answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;

use ctl::api::{Code, DropRow, Edited, Error, FdbRow, Rows, SampleRow, Status};
use ctl::model::{ConfigError, Fault};
use serde_json::{Value, json};

use super::*;
use crate::output::{Color, Failure, Paint};

const PLAIN: Paint = Paint(false);

/// A status, as the daemon would send it.
pub fn status() -> Status {
    let stats = |rx: u64, tx: u64, dropped: u64| {
        json!({ "rx": { "bytes": rx * 100, "packets": rx, "errors": 0, "dropped": dropped },
                "tx": { "bytes": tx * 100, "packets": tx, "errors": 0, "dropped": 0 } })
    };
    let value = json!({
        "name": "rvm1", "version": "0.1.0", "api": 1, "uptime": 7384, "vtep": "10.0.0.11", "tunnel_port": 4789,
        "overlay_mtu": 1450,
        "ports": [
            { "ifname": "uplink", "link": "eth0", "ifindex": 2, "role": "uplink", "mtu": 1500, "operstate": "UP",
              "state": "live", "mode": "native, copy", "reason": "virtio_net has no zero-copy here", "queues": 2,
              "stats64": stats(1200, 980, 3) },
            { "ifname": "eth1", "link": "eth1p", "role": "door", "network": "private", "mtu": 1450, "operstate": "UP",
              "state": "live", "mode": "native, copy", "stats64": stats(900, 1100, 0) },
            { "ifname": "g1", "link": "p-g1", "role": "guest", "network": "private", "mtu": 1450,
              "operstate": "DOWN", "state": "waiting", "why": "waiting for interface p-g1", "stats64": stats(0, 0, 0) },
        ],
        "networks": [
            { "name": "private", "vni": 100, "gateway": [], "router_mac": "02:69:76:00:00:64", "fdb_max": 8192,
              "fdb_age": 300, "ports": ["eth1", "g1"], "peers": ["rvm2"], "fdb": 4 },
            { "name": "public", "vni": 200, "gateway": ["10.2.0.1"], "router_mac": "02:69:76:00:00:c8",
              "fdb_max": 8192, "fdb_age": 300, "ports": [], "peers": ["rvm2"], "fdb": 0 },
        ],
        "peers": [
            { "name": "rvm2", "address": "10.0.0.12", "relay": false, "networks": ["private", "public"], "mtu": 1500,
              "state": "up", "answered": 3, "resolved": true, "lladdr": "02:00:00:00:00:12", "tx": 980, "rx": 1197 },
        ],
        "floating": [
            { "ip": "56.0.0.11", "network": "public", "gateway": "rvm1", "here": true, "reality": "10.0.0.11",
              "only": [], "except": ["tcp/22"], "resolved": false, "packets_in": 0, "packets_out": 0 },
        ],
        "workers": [{ "busy": 0.0312, "sleeps": 40 }],
        "cache": { "mode": "auto", "on": true, "reason": "", "flows": 12, "hits": 34567,
                   "left_out": [{ "link": "eth0", "reason": "its XDP program runs in generic mode" }] },
        "steered": { "tunnel": 900, "reality": 20, "own": 7, "passed": 55, "own_flows": 3, "own_unknown": "" },
        "closed": { "addresses": ["10.0.0.11"], "in_place": true, "why": "", "restored": 0 },
        "frames": { "rx": 2100, "replicated": 0, "originated": 0, "segmented": 0, "tx": 2080, "dropped": 3, "punted": 17, "consumed": 0, "coalesced": 0, "queued": 0 },
        "drops": [{ "port": "uplink", "reason": "unknown-vni", "count": 3,
                    "help": "The VNI is not configured here." }],
        "warnings": ["port \"g1\" is waiting for interface p-g1"],
        "problems": [{ "kind": "port", "object": "g1", "what": "port \"g1\" is waiting for interface p-g1" }],
    });
    serde_json::from_value(value).unwrap()
}

#[test]
fn the_status_screen() {
    let expected = "\
rvm1  ivswitchd 0.1.0  up 2 h 3 min
VTEP 10.0.0.11 port 4789 on eth0: live, native, copy (virtio_net has no zero-copy here); the
    tunnel carries MTU 1450
worker 0: 3.1 % busy, 0 frames received, slept 40 times
kernel offload: on, 12 flows, 34567 frames forwarded by the kernel
  not to eth0: its XDP program runs in generic mode
closed to the kernel: 10.0.0.11
the kernel's own connections there: 3 flows, 7 frames left to it

PORT    ROLE    NETWORK  STATE     MTU     RX     TX  DROPPED  MODE
uplink  uplink  -        live     1500  1.20k    980        3  native, copy (virtio_net has no
                                                               zero-copy here)
eth1    door    private  live     1450    900  1.10k        0  native, copy
g1      guest   private  waiting  1450      0      0        0  waiting for interface p-g1

NETWORK  VNI  GATEWAY   PORTS    PEERS  FDB   MAX   AGE
private  100  -         eth1,g1  rvm2     4  8192  300s
public   200  10.2.0.1  -        rvm2     0  8192  300s

PEER  VTEP       STATE  ANSWERED   MTU     RX   TX
rvm2  10.0.0.12  up     3 s ago   1500  1.20k  980

FLOATING IP  NETWORK  GATEWAY      RESOLVED  IN  OUT
56.0.0.11    public   rvm1 (here)  no         0    0

PORT    REASON       COUNT  MEANING
uplink  unknown-vni      3  The VNI is not configured here.

warning: port \"g1\" is waiting for interface p-g1
";
    assert_eq!(status::render(&status(), PLAIN, 100), expected);
}

/// Names of the longest length, many networks, IPv6 and a long cause: the screen keeps to a width of 100 and 80
/// columns, and shows everything.
#[test]
fn the_status_screen_fits() {
    let mut s = status();
    let name = "n".repeat(40);
    s.ports[0].ifname.clone_from(&name);
    s.ports[0].why = "x is held by another program ".repeat(8);
    s.peers[0].address = "2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap();
    s.peers[0].why = "it does not answer for 9 s, but its packets arrive ".repeat(4);
    s.networks[0].ports = (0..30).map(|n| format!("port-{n}")).collect();
    s.floating[0].ip = "2001:db8:1234:5678:9abc:def0:1234:1".parse().unwrap();
    s.warnings = vec!["peer \"far\" is silent, and more is known about it than fits on a line ".repeat(3)];
    for width in [100, 80] {
        let text = status::render(&s, PLAIN, width);
        for line in text.lines() {
            let long_word = line.split_whitespace().any(|word| word.chars().count() > width - 10);
            assert!(line.chars().count() <= width || long_word, "{width}: {line}");
        }
        for word in [name.as_str(), "9abc:def0:1234:5678", "than fits"] {
            assert!(text.contains(word), "{width}: {word}: {text}");
        }
    }
}

#[test]
fn the_status_of_an_empty_start() {
    let mut s = status();
    (s.ports, s.networks, s.peers, s.floating, s.workers) = (vec![], vec![], vec![], vec![], vec![]);
    (s.drops, s.warnings, s.vtep, s.uptime) = (vec![], vec![], None, 9);
    s.cache = ctl::api::CacheRow { reason: "switched off".to_owned(), ..Default::default() };
    s.closed = ctl::api::ClosedRow::default();
    assert_eq!(
        status::render(&s, PLAIN, 100),
        "rvm1  ivswitchd 0.1.0  up 9 s\n\
         no uplink: a switch without tunnels\n\
         kernel offload: off (switched off)\n"
    );
}

#[test]
fn long_lists_are_cut_in_status() {
    let mut s = status();
    s.peers = vec![s.peers[0].clone(); 40];
    let text = status::render(&s, PLAIN, 100);
    assert_eq!(text.matches("10.0.0.12").count(), 12);
    assert!(text.contains("... 28 more"));
}

#[test]
fn the_fdb_table() {
    let row = |mac: &str, peer: bool, is_static: bool, vlan| FdbRow {
        mac: mac.into(),
        ifname: if peer { "uplink" } else { "eth1" }.into(),
        vlan,
        dst: peer.then(|| "10.0.0.12".parse().unwrap()),
        vni: 100,
        network: "private".into(),
        peer: peer.then(|| "rvm2".into()),
        flags: vec![],
        state: if is_static { "static" } else { "" }.into(),
        used: 12,
    };
    let rows = [row("02:00:00:00:00:01", true, true, None), row("02:00:00:00:00:02", false, false, Some(10))];
    let expected = "\
MAC                NETWORK  VLAN  PORT    PEER  VTEP       STATE   USED
02:00:00:00:00:01  private     -  uplink  rvm2  10.0.0.12  static   12s
02:00:00:00:00:02  private    10  eth1    -     -          -        12s
";
    assert_eq!(fdb::table(&rows).render(PLAIN), expected);
    assert_eq!(fdb::table(&[]).render(PLAIN), "MAC  NETWORK  VLAN  PORT  PEER  VTEP  STATE  USED\n");
    // The keys are those of bridge -j fdb.
    assert_eq!(
        json!(rows[0]),
        json!({ "mac": "02:00:00:00:00:01", "ifname": "uplink", "dst": "10.0.0.12", "vni": 100, "network": "private",
            "peer": "rvm2", "flags": [], "state": "static", "used": 12 })
    );
}

#[test]
fn the_drops_table() {
    let row = DropRow {
        port: "g1".into(),
        reason: "spoofed-mac".into(),
        count: 9,
        help: "The source MAC is not bound to this guest port.".into(),
        sample: Some(SampleRow { len: 60, bytes: "ffffffffffff02000000000188b5".into() }),
    };
    let expected = "\
PORT  REASON       COUNT  LAST FRAME                                                     MEANING
g1    spoofed-mac      9  02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, type 0x88b5 (60 bytes)  The source MAC is not bound to this guest port.
";
    assert_eq!(drops::table(&[row], true).render(PLAIN), expected);
}

#[test]
fn colours_do_not_move_columns_and_control_characters_do_nothing() {
    let mut table = output::Table::new(&["A", ">B"]);
    table.row(["live".into(), "1".into()]);
    table.row(["x\u{1b}[2J".into(), "22".into()]);
    assert_eq!(table.render(PLAIN), "A       B\nlive    1\nx?[2J  22\n");
    let colored = table.render(Paint(true));
    assert!(colored.contains("\u{1b}[32mlive\u{1b}[0m    1"), "{colored:?}");
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
    for (line, good) in [
        ("ivctl status", true),
        ("ivctl -j fdb", true),
        ("ivctl fdb show --network private", true),
        ("ivctl neigh --network private", true),
        ("ivctl neigh list --network private", true),
        ("ivctl neigh flush", true),
        (
            "ivctl port add g1 --network n --role guest --interface v --mac 02:00:00:00:00:01 --access 10",
            true,
        ),
        ("ivctl port set g1 --trunk 10,20 --native 1 --unset mtu", true),
        ("ivctl port add g1 --network n --access 1 --trunk 2", false),
        ("ivctl port add g1", false),
        ("ivctl network add n --vni x", false),
        ("ivctl fip add 56.0.0.11 --network public --gateway rvm1 --inside private:192.168.1.2", true),
        ("ivctl fip add 56.0.0.11 --network public --gateway rvm1 --inside 192.168.1.2", false),
        ("ivctl route del 56.0.0.0/24 --network public --if-exists", true),
        ("ivctl fdb add 02:00:00:00:00:01 --network n", false),
        ("ivctl fdb flush --port a --peer b", false),
        ("ivctl --timeout -1 status", false),
        ("ivctl --timeout nan status", false),
        ("ivctl trace --from eth2 --src 56.0.0.11 --to 203.0.113.9 tcp --dport 80", true),
        ("ivctl trace --next icmp and host 10.1.0.1", true),
        ("ivctl trace --to 10.1.0.1", false),
        ("ivctl trace --from a --next --to 10.1.0.1", false),
        ("ivctl trace --from a --to nowhere", false),
        ("ivctl trace --from a --hex 00 --pcap f", false),
        ("ivctl trace --from a --to 10.1.0.1 --peer rvm1", false),
        ("ivctl capture all -w - -c 5 tcp port 80 or arp", true),
        ("ivctl capture", false),
        ("ivctl capture all -c 0", false),
        ("ivctl drops --watch --looks 2", true),
        ("ivctl drops --looks 2", false),
        ("ivctl top --once", true),
        ("ivctl monitor --drops 5", true),
        ("ivctl log debug", true),
        ("ivctl demo up", true),
        ("ivctl", false),
    ] {
        assert_eq!(Cli::try_parse_from(line.split(' ')).is_ok(), good, "{line}");
    }
}

#[test]
fn every_code_of_the_api_has_its_exit_code() {
    let exits: Vec<u8> = Code::ALL.iter().map(|c| Failure::from(Error::new(*c, "", "", "")).code).collect();
    assert_eq!(exits, [2, 2, 2, 2, 1, 3, 4, 1, 6, 7]);
    for code in Code::ALL {
        let error = Error {
            errors: vec![ConfigError {
                fault: Fault::Conflict,
                object: "port \"a\"".into(),
                cause: "b".into(),
                remedy: "c".into(),
                position: Some((1, 2)),
            }],
            ..Error::new(code, "what", "why", "how")
        };
        assert_eq!(Error::from_json(&error.to_json()), error, "through the wire and back");
    }
}

/// A daemon that answers each request with the next of `answers`, then hangs up. Returns the requests.
fn daemon(socket: &Path, answers: Vec<Value>) -> JoinHandle<Vec<Value>> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for mut answer in answers {
            let Some(Ok(line)) = lines.next() else { break };
            let request: Value = serde_json::from_str(&line).unwrap();
            answer["jsonrpc"] = json!("2.0");
            answer["id"] = request["id"].clone();
            asked.push(request);
            (&stream).write_all(format!("{answer}\n").as_bytes()).unwrap();
        }
        asked
    })
}

/// Runs a command against the daemon of a socket.
pub fn run_line(socket: &Path, line: &str) -> Result<u8, Failure> {
    let cli = Cli::try_parse_from(
        ["ivctl", "--quiet", "--socket", socket.to_str().unwrap()].into_iter().chain(line.split(' ')),
    )
    .unwrap();
    run(cli.command, &cli.global, &Printer::new(false, false, true, Color::Never))
}

/// Runs one command against one answer; returns the exit code and the request.
fn against(line: &str, answer: Value) -> (u8, Value) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let daemon = daemon(&socket, vec![answer]);
    let code = run_line(&socket, line).unwrap_or_else(|f| f.code);
    (code, daemon.join().unwrap().remove(0))
}

#[test]
fn commands_become_requests_and_answers_exit_codes() {
    let done = json!({ "result": Edited { changed: true, warnings: vec![] } });
    let (code, asked) = against(
        "port add g1 --network n --role guest --interface v --mac 02:00:00:00:00:01 --mtu 1400",
        done.clone(),
    );
    assert_eq!(code, 0);
    assert_eq!(asked["method"], "port.add");
    assert_eq!(
        asked["params"]["object"],
        json!({ "name": "g1", "network": "n", "role": "guest", "interface": "v", "mac": ["02:00:00:00:00:01"],
            "mtu": 1400 })
    );
    assert_eq!(asked["params"]["timeout_ms"], 5000);

    let (_, asked) = against("--no-wait port set g1 --trunk 10,20 --native 1 --unset mtu", done.clone());
    assert_eq!(
        asked["params"],
        json!({ "name": "g1", "set": { "vlan": { "trunk": [10, 20], "native": 1 }, "mtu": null }, "timeout_ms": 0 })
    );
    let (_, asked) = against("fip set 56.0.0.11 --inside private:fd00::2 --only tcp/80", done.clone());
    assert_eq!(
        asked["params"],
        json!({ "ip": "56.0.0.11", "only": ["tcp/80"], "timeout_ms": 5000,
            "set": { "inside": { "network": "private", "address": "fd00::2" } } })
    );
    let (_, asked) = against("peer add r --address 10.0.0.1 --networks a,b --relay", done.clone());
    assert_eq!(asked["params"]["object"]["networks"], json!(["a", "b"]));
    assert_eq!(asked["params"]["object"]["relay"], true);
    let (_, asked) = against("fdb flush --peer rvm2", done);
    assert_eq!(asked["params"], json!({ "peer": "rvm2", "timeout_ms": 5000 }));

    let warned = json!({ "result": Edited { changed: true, warnings: vec!["not saved".into()] } });
    assert_eq!(against("network add n --vni 5", warned).0, 8);
    let rows = json!({ "result": Rows::<FdbRow> { rows: vec![], warnings: vec![] } });
    assert_eq!(against("fdb", rows).0, 0);
    let status = json!({ "result": status() });
    assert_eq!(against("status", status).0, 0, "warnings are part of the answer");
    for code in Code::ALL {
        let error = json!({ "error": Error::new(code, "a", "b", "c").to_json() });
        assert_eq!(against("network del n", error).0, code.exit());
    }
    assert_eq!(against("status", json!({ "result": 5 })).0, 1, "an answer that is not understood");
}

#[test]
fn a_daemon_that_is_not_there_or_silent() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    assert_eq!(run_line(&socket, "status").unwrap_err().code, 5);
    // A daemon was there, but is gone.
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(run_line(&socket, "status").unwrap_err().code, 5);
    std::fs::remove_file(&socket).unwrap();
    // The daemon hangs up without an answer.
    let gone = daemon(&socket, vec![]);
    assert_eq!(run_line(&socket, "status").unwrap_err().code, 5);
    gone.join().unwrap();
    std::fs::remove_file(&socket).unwrap();
    // The daemon accepts the connection but never answers: the deadline holds.
    let _silent = UnixListener::bind(&socket).unwrap();
    assert_eq!(run_line(&socket, "--timeout 0 status").unwrap_err().code, 7);
}

#[test]
fn config_check_needs_no_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    let check = || run_line(Path::new("/nonexistent"), &format!("config check {}", file.display()));
    assert_eq!(check().unwrap_err().code, 3);
    std::fs::write(&file, "name = \"rvm1\"\n").unwrap();
    assert_eq!(check(), Ok(0));
    std::fs::write(&file, "name = 5\n").unwrap();
    assert_eq!(check().unwrap_err().code, 1);
    std::fs::write(&file, b"\xff\xff").unwrap();
    assert_eq!(check().unwrap_err().code, 1);
}

/// The help shows a command's own options first, the common options below, and examples with a margin.
#[test]
fn help_begins_with_what_is_the_commands_own() {
    fn look(command: &mut clap::Command, seen: &mut usize) {
        let help = command.render_long_help().to_string();
        if let Some((own, global)) = help.split_once("\nGlobal options:\n") {
            assert!(!own.contains("--socket <PATH>") && !own.contains("--timeout <SECONDS>"), "{help}");
            assert!(global.contains("--json") && global.contains("--color"), "{help}");
            *seen += 1;
        }
        for (line, next) in help.lines().zip(help.lines().skip(1)).filter(|(line, _)| *line == "Examples:") {
            assert!(next.starts_with("  ivctl "), "{line}\n{next}");
        }
        command.get_subcommands_mut().for_each(|below| look(below, seen));
    }
    let mut command = Cli::command();
    command.build();
    let mut seen = 0;
    look(&mut command, &mut seen);
    assert!(seen > 30, "{seen} commands");
}

#[test]
fn man_pages_and_completion_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man");
    assert_eq!(run_line(Path::new("/nonexistent"), &format!("man {}", pages.display())), Ok(0));
    for page in ["ivctl.1", "ivctl-status.1", "ivctl-port-add.1", "ivctl-config-apply.1", "ivswitch.toml.5"] {
        assert!(pages.join(page).exists(), "{page}");
    }
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
        let mut script = Vec::new();
        script.extend(complete::script(shell).unwrap());
        assert!(String::from_utf8(script).unwrap().contains("IVCTL_COMPLETE"), "it asks this program");
    }
}
