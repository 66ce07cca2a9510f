//! The daemon as its operator meets it: start, refusals, signals, the supervisor's protocol. `tests/system`
//! tests its treatment of packets. Needs root; namespaces start with `ivd-`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const DAEMON: &str = env!("CARGO_BIN_EXE_ivswitchd");
const PATIENCE: Duration = Duration::from_secs(20);

/// Held by a test that measures the processor, and by one that keeps it busy.
static PROCESSOR: Mutex<()> = Mutex::new(());

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A namespace with an uplink whose far end is in another; both are removed when this is dropped.
struct Rvm {
    name: String,
    directory: tempfile::TempDir,
}

impl Rvm {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ivd-{}-{count}", std::process::id());
        sh(&format!(
            "ip netns add {name}; ip netns add {name}-far; ip -n {name} link set lo up
             ip -n {name} link add eth0 type veth peer name eth0 netns {name}-far
             ip -n {name} addr add 10.0.0.11/24 dev eth0; ip -n {name} link set eth0 up
             ip -n {name}-far addr add 10.0.0.12/24 dev eth0; ip -n {name}-far link set eth0 up"
        ));
        let rvm = Self { name, directory: tempfile::tempdir().unwrap() };
        fs::write(
            rvm.config(),
            "name = \"rvm1\"\n[uplink]\ninterface = \"eth0\"\n[[network]]\nname = \"private\"\nvni = 100\n\
             [[port]]\nname = \"eth1\"\nnetwork = \"private\"\n",
        )
        .unwrap();
        rvm
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("ivswitch.toml")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/control.sock")
    }

    fn command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, DAEMON]);
        command.arg("--config").arg(self.config()).arg("--socket").arg(self.socket());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Starts the daemon and waits until it reports that it is ready.
    fn start(&self) -> Daemon {
        let daemon = self.spawn();
        daemon.wait_notified("READY=1");
        daemon
    }

    fn spawn(&self) -> Daemon {
        let path = self.directory.path().join("notify");
        let _ = fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut child = self.command().env("NOTIFY_SOCKET", &path).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            stderr.read_to_string(&mut log).map(|_| log).unwrap_or_default()
        });
        Daemon { child, notify, log: Some(log) }
    }

    /// Sends one request and returns the answer.
    fn ask(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(stream, "{request}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    }

    fn refused(&self, mut command: Command) -> String {
        let Output { status, stderr, .. } = command.output().unwrap();
        assert_eq!(status.code(), Some(1));
        String::from_utf8(stderr).unwrap()
    }
}

impl Drop for Rvm {
    fn drop(&mut self) {
        sh(&format!("ip netns del {0}; ip netns del {0}-far", self.name));
    }
}

/// A running daemon; killed when dropped.
struct Daemon {
    child: Child,
    notify: UnixDatagram,
    log: Option<std::thread::JoinHandle<String>>,
}

impl Daemon {
    /// Waits for a notification that contains `what`, and returns the whole message.
    fn wait_notified(&self, what: &str) -> String {
        let mut buffer = [0; 512];
        loop {
            let len = self.notify.recv(&mut buffer).unwrap_or_else(|_| panic!("it never said {what}"));
            let message = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if message.lines().any(|line| line == what) {
                return message;
            }
        }
    }

    fn signal(&self, signal: &str) {
        sh(&format!("kill -{signal} {}", self.child.id()));
    }

    /// Waits for the daemon's end; returns the log and the exit code.
    fn ended(mut self) -> (String, Option<i32>) {
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let code = self.child.wait().unwrap().code();
        (self.log.take().unwrap().join().unwrap(), code)
    }

    /// Nanoseconds of processor time, all threads.
    fn processor_ns(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks
            .map(|task| {
                let schedstat = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
                schedstat.split(' ').next().unwrap().parse::<u64>().unwrap()
            })
            .sum()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole life under a supervisor: ready, reloaded, stopping; afterwards only the door remains.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn ready_reload_and_a_clean_end() {
    let rvm = Rvm::new();
    let daemon = rvm.start();
    assert!(fs::metadata(rvm.socket()).unwrap().file_type().is_socket());
    let status = rvm.ask(r#"{"jsonrpc":"2.0","id":1,"method":"status"}"#);
    assert!(status.contains("\"rvm1\""), "{status}");

    let text = fs::read_to_string(rvm.config()).unwrap();
    fs::write(rvm.config(), format!("{text}[[network]]\nname = \"public\"\nvni = 200\n")).unwrap();
    daemon.signal("HUP");
    let reloading = daemon.wait_notified("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "Type=notify-reload asks for it: {reloading}");
    daemon.wait_notified("READY=1");
    let networks = rvm.ask(r#"{"jsonrpc":"2.0","id":2,"method":"network.list"}"#);
    assert!(networks.contains("public"), "{networks}");

    // An invalid file changes nothing.
    fs::write(rvm.config(), "rubbish =").unwrap();
    daemon.signal("HUP");
    daemon.wait_notified("READY=1");
    assert!(rvm.ask(r#"{"jsonrpc":"2.0","id":3,"method":"network.list"}"#).contains("public"));

    daemon.signal("TERM");
    daemon.wait_notified("STOPPING=1");
    let (log, code) = daemon.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("reload:") && log.contains("refused"), "{log}");
    assert!(!rvm.socket().exists() && !rvm.socket().parent().unwrap().exists());
    let links = sh(&format!("ip -n {} -d link", rvm.name));
    assert!(links.contains("eth1@eth1p") && !links.contains("xdp"), "{links}");
}

/// A configuration that cannot work is refused at the start, with object, cause and remedy, before anything is touched.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn refusals_at_the_start() {
    let rvm = Rvm::new();
    let daemon = rvm.start();
    let second = rvm.refused(rvm.command());
    assert!(second.contains("another ivswitchd answers there") && second.contains("--socket"), "{second}");
    drop(daemon);

    // The dead daemon's socket still exists, but does not stop a new one.
    assert!(rvm.socket().exists());
    drop(rvm.start());

    let mut core = rvm.command();
    core.args(["--cpu", "1000"]);
    let core = rvm.refused(core);
    assert!(core.contains("--cpu"), "{core}");

    fs::write(rvm.config(), "[[port]]\nname = \"eth1\"\nnetwork = \"nowhere\"\n").unwrap();
    let config = rvm.refused(rvm.command());
    assert!(config.contains("ivswitch.toml: line 1") && config.contains("nowhere"), "{config}");
    let mut supervised = rvm.command();
    supervised.env("NOTIFY_SOCKET", rvm.socket());
    let before = Instant::now();
    assert_eq!(rvm.refused(supervised), config);
    assert!(before.elapsed() >= Duration::from_secs(1), "a supervisor starts it again at once");
    let mut check = Command::new(DAEMON);
    check.arg("--check").arg(rvm.config()).stderr(Stdio::piped());
    assert!(rvm.refused(check).contains("nowhere"));

    fs::write(rvm.config(), "").unwrap();
    let mut poor = Command::new("setpriv");
    poor.args(["--bounding-set=-all,+net_admin", DAEMON, "--config"]).arg(rvm.config());
    poor.arg("--socket").arg(rvm.socket()).stderr(Stdio::piped());
    let poor = rvm.refused(poor);
    assert!(
        poor.contains("CAP_BPF") && poor.contains("CAP_NET_RAW") && !poor.contains("CAP_NET_ADMIN ("),
        "{poor}"
    );
}

/// The kernel of an rVM whose tunnel is not attached does not tell peers "port unreachable".
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_tunnel_port_is_held() {
    let rvm = Rvm::new();
    let daemon = rvm.start();
    let wait = format!("ip netns exec {}-far python3 -c '{PROBE}'", rvm.name);
    sh(&format!("{wait} silent 10.0.0.11 4789"));
    sh(&format!("{wait} refused 10.0.0.11 4790"));
    let held = sh(&format!("ip netns exec {} ss -Hlun", rvm.name));
    assert!(held.contains("10.0.0.11:4789"), "{held}");
    drop(daemon);
    sh(&format!("{wait} refused 10.0.0.11 4789"));
}

/// Sends to a UDP port and reports whether the kernel there answers that it is closed.
const PROBE: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[2], int(sys.argv[3])))
s.settimeout(0.3)
seen = \"silent\"
for _ in range(3):
    try:
        s.send(b\"?\")
        s.recv(1)
    except socket.timeout:
        pass
    except ConnectionRefusedError:
        seen = \"refused\"
sys.exit(seen != sys.argv[1])
";

/// The interfaces of a hundred guests, at defaults. While their ports are opened, the control socket answers, and the service
/// manager hears that the start goes on. Then all of them are live. Each costs the daemon five descriptors, and hardly
/// any memory for BPF maps.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_hundred_ports_at_defaults() {
    let _alone = PROCESSOR.lock().unwrap_or_else(PoisonError::into_inner);
    const PORTS: usize = 100;
    let rvm = Rvm::new();
    let links = |line: &dyn Fn(usize) -> String| (0..PORTS).map(line).collect::<String>();
    let batch = rvm.directory.path().join("batch");
    let make = |n| format!("link add p{n} type veth peer name e{n}\nlink set p{n} up\nlink set e{n} up\n");
    fs::write(&batch, links(&make)).unwrap();
    sh(&format!("ip -n {} -batch {}", rvm.name, batch.display()));
    let port = |n| format!("[[port]]\nname = \"g{n}\"\nnetwork = \"private\"\ninterface = \"p{n}\"\n");
    let config = fs::read_to_string(rvm.config()).unwrap() + &links(&port);
    fs::write(rvm.config(), config).unwrap();

    let daemon = rvm.spawn();
    daemon.wait_notified("EXTEND_TIMEOUT_USEC=30000000");
    let ask = || rvm.ask(r#"{"jsonrpc":"2.0","id":1,"method":"port.list"}"#);
    std::thread::scope(|scope| {
        let asked = scope.spawn(ask);
        // Here a service manager reads all the time, or the daemon would wait for it.
        daemon.wait_notified("READY=1");
        let answer = asked.join().unwrap();
        assert!(answer.contains("g99"), "{answer}");
    });
    let answer = ask();
    assert_eq!(answer.matches("\"live\"").count(), PORTS + 2, "{answer}");
    let process = format!("/proc/{}", daemon.child.id());
    let files: usize = sh(&format!("ls {process}/fd | wc -l")).trim().parse().unwrap();
    assert!(files < 5 * PORTS + 100, "{files} descriptors");
    let maps = sh(&format!("cat {process}/fdinfo/* | awk '/^memlock/ {{ sum += $2 }} END {{ print sum }}'"));
    let maps: usize = maps.trim().parse().unwrap();
    assert!(maps < 64 << 20, "{maps} bytes of BPF maps");
}

/// Without work the whole daemon takes well under one percent of a core.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn idle_is_nearly_free() {
    let _alone = PROCESSOR.lock().unwrap_or_else(PoisonError::into_inner);
    let rvm = Rvm::new();
    let daemon = rvm.start();
    // Let duplicate address detection and the like finish.
    std::thread::sleep(Duration::from_secs(3));
    let (before, start) = (daemon.processor_ns(), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    let share = (daemon.processor_ns() - before) as f64 / start.elapsed().as_nanos() as f64;
    println!("idle: {:.4} % of a core", share * 100.0);
    assert!(share < 0.005, "idle took {:.3} % of a core", share * 100.0);
}
