//! Network namespaces and veths that remove themselves.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// One lab at a time in a process; `cargo test` runs test binaries one after another.
static TURN: Mutex<()> = Mutex::new(());

/// How long to wait for anything that a test expects.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The namespaces of one test, with their own prefix, and a directory for its files.
pub struct Lab {
    prefix: String,
    names: Mutex<Vec<String>>,
    dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// A lab, or `None` (after printing the reason) where this test cannot run. With `IVS_MUST_RUN` set,
    /// that is a failure instead: CI sets it, so that no test is skipped there unnoticed.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "a lab is not a value")]
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("IVS_MUST_RUN").is_none(), "system tests need root");
            eprintln!("skipped: needs root, for network namespaces and AF_XDP");
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir =
            tempfile::Builder::new().prefix("ivs-").tempdir().expect("a directory for the test's files");
        let unique = dir.path().file_name().expect("named").to_string_lossy().replace('.', "");
        Some(Self { prefix: format!("{unique}-"), names: Mutex::new(Vec::new()), dir, _turn: turn })
    }

    /// Makes a namespace and sets its loopback up.
    #[must_use]
    #[track_caller]
    pub fn namespace(&self, name: &str) -> Namespace {
        let full = format!("{}{name}", self.prefix);
        run(Command::new("ip").args(["netns", "add", &full]), "");
        self.names.lock().expect("not poisoned").push(full.clone());
        let handle = File::open(Path::new("/run/netns").join(&full)).expect("the namespace just made");
        let namespace = Namespace { name: full, handle: Arc::new(handle) };
        namespace.ip("link set lo up");
        namespace
    }

    /// A veth between two namespaces, both ends up, with the kernel's default settings.
    #[track_caller]
    pub fn veth(&self, (ns_a, a): (&Namespace, &str), (ns_b, b): (&Namespace, &str)) {
        ns_a.ip(&format!("link add {a} type veth peer name {b} netns {}", ns_b.name));
        ns_a.ip(&format!("link set {a} up"));
        ns_b.ip(&format!("link set {b} up"));
    }

    /// The directory for this test's files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in self.names.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // No other program uses these namespaces, so all processes in them belong to the test.
            if let Ok(output) = Command::new("ip").args(["netns", "pids", &name]).output() {
                let pids = String::from_utf8_lossy(&output.stdout).into_owned();
                for pid in pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
                    if pid != rustix::process::getpid() {
                        let _ = rustix::process::kill_process(pid, Signal::KILL);
                    }
                }
            }
            let _ = Command::new("ip").args(["netns", "delete", &name]).status();
        }
    }
}

/// A network namespace of a [`Lab`].
#[derive(Clone)]
pub struct Namespace {
    name: String,
    handle: Arc<File>,
}

impl Namespace {
    /// The namespace's name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in this namespace, with arguments separated by blanks. Fails the test if `ip` fails.
    #[track_caller]
    pub fn ip(&self, arguments: &str) {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()), "");
    }

    /// The output of `ip -j`.
    #[must_use]
    #[track_caller]
    pub fn ip_json(&self, arguments: &str) -> serde_json::Value {
        let text = run(
            Command::new("ip").args(["-n", &self.name, "-s", "-j", "-d"]).args(arguments.split_whitespace()),
            "",
        );
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("ip -j {arguments}: {e}: {text}"))
    }

    /// True if an interface of that name exists.
    #[must_use]
    pub fn has_link(&self, interface: &str) -> bool {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name, "link", "show", interface]);
        ip.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    }

    /// The MAC address of an interface.
    #[must_use]
    #[track_caller]
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let link = self.ip_json(&format!("link show {interface}"));
        let text = link[0]["address"].as_str().expect("an Ethernet interface").to_string();
        let mut mac = [0; 6];
        for (byte, part) in mac.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(part, 16).expect("hexadecimal");
        }
        mac
    }

    /// Loads nftables rules.
    #[track_caller]
    pub fn nft(&self, rules: &str) {
        run(self.command("nft").args(["-f", "-"]), rules);
    }

    /// Sets a value below `/proc/sys`, named by its path there.
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        let value = value.to_string();
        self.run(move || std::fs::write(&path, &value).unwrap_or_else(|e| panic!("setting {path}: {e}")));
    }

    /// Reads a value below `/proc/sys`.
    #[must_use]
    pub fn sysctl_value(&self, key: &str) -> String {
        let path = format!("/proc/sys/{key}");
        self.run(move || std::fs::read_to_string(&path).unwrap_or_default().trim().to_string())
    }

    /// A command that will run in this namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a closure in this namespace and gives its result; a panic in it fails the test.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a closure in this namespace, in a thread of its own.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let handle = Arc::clone(&self.handle);
        std::thread::spawn(move || {
            move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("moving a thread into a namespace of ours");
            work()
        })
    }

    /// Runs `ping` with these arguments; gives the number of answers.
    #[must_use]
    pub fn ping(&self, arguments: &str) -> u32 {
        let output = self.command("ping").args(arguments.split_whitespace()).output().expect("running ping");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains(" received"),
            "ping {arguments}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let count = text.split(" received").next().and_then(|head| head.rsplit(' ').next()).unwrap_or("");
        count.parse().expect("the number of answers")
    }

    /// Waits until `address` answers, then requires answers to all of ten pings in a row.
    #[track_caller]
    pub fn reaches(&self, address: &str) {
        self.reaches_with(address, "");
    }

    /// As [`reaches`](Self::reaches), with more options for `ping`, such as a size.
    #[track_caller]
    pub fn reaches_with(&self, address: &str, options: &str) {
        wait_for(&format!("{} to reach {address} {options}", self.name), || {
            self.ping(&format!("-c1 -W1 {options} {address}")) == 1
        });
        // After the first answers, ping waits no longer than one interval for the last one.
        let received = self.ping(&format!("-c10 -i0.1 -W1 {options} {address}"));
        assert_eq!(received, 10, "answers to 10 pings from {} to {address} {options}", self.name);
    }
}

/// Polls until `so` is true, and fails the test when that takes too long.
#[track_caller]
pub fn wait_for(what: &str, so: impl FnMut() -> bool) {
    assert!(wait_until(PATIENCE, so), "waiting for {what}: not within {} s", PATIENCE.as_secs());
}

/// Polls until `so` is true, or gives false when the time is over.
pub fn wait_until(patience: Duration, mut so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !so() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Runs a command to its end and gives its output. Fails the test if the command fails.
#[track_caller]
fn run(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("running {command:?}: {e}"));
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).expect("writing to a child");
    }
    let output = child.wait_with_output().expect("waiting for a child");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8_lossy(&output.stdout).into_owned()
}
