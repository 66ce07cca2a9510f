//! The real daemon in a namespace, and the real `ivctl` that talks to it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::Manager;
use crate::lab::{Lab, Namespace, PATIENCE, wait_until};

/// The directory of `ivswitchd` and `ivctl`: built once, from the sources as they are now, with the profile
/// of this test. `IVS_BIN_DIR` names another directory, whose programs are tested instead.
pub fn binaries() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        if let Some(dir) = std::env::var_os("IVS_BIN_DIR") {
            return PathBuf::from(dir);
        }
        let test = std::env::current_exe().expect("the path of this test");
        let dir = test.ancestors().nth(2).expect("TARGET/PROFILE/deps/TEST").to_path_buf();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--quiet",
            "--package",
            "ivswitchd",
            "--package",
            "ctl",
            "--package",
            "guests",
            "--package",
            "ivbench",
            "--target-dir",
        ]);
        cargo.arg(dir.parent().expect("TARGET/PROFILE"));
        if dir.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("running cargo");
        assert!(built.success(), "building ivswitchd and ivctl");
        dir
    })
}

/// A running `ivswitchd`.
pub struct Switch {
    child: Child,
    namespace: Namespace,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    manager: Option<Manager>,
}

impl Switch {
    /// Starts the daemon with this configuration and waits until it answers.
    #[must_use]
    #[track_caller]
    pub fn start(lab: &Lab, namespace: &Namespace, config: &str) -> Self {
        Self::start_as(lab, namespace, config, &[])
    }

    /// As [`start`](Self::start), behind a program that changes the user. That user may write to the lab's directory.
    #[must_use]
    #[track_caller]
    pub fn start_as(lab: &Lab, namespace: &Namespace, config: &str, wrapper: &[&str]) -> Self {
        let file = |extension| lab.dir().join(format!("{}.{extension}", namespace.name()));
        let (path, socket, log) = (file("toml"), file("sock"), file("log"));
        fs::write(&path, config).expect("writing the configuration");
        if !wrapper.is_empty() {
            fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o777)).expect("our own directory");
        }
        let child = spawn(namespace, &path, &socket, &log, wrapper, &[]);
        let mut switch =
            Self { child, namespace: namespace.clone(), config: path, socket, log, manager: None };
        switch.wait_answering();
        switch
    }

    /// Starts the daemon under a service manager.
    #[must_use]
    #[track_caller]
    pub fn start_managed(lab: &Lab, namespace: &Namespace, config: &str) -> (Self, Manager) {
        let file = |extension| lab.dir().join(format!("{}.{extension}", namespace.name()));
        let (path, socket, log) = (file("toml"), file("sock"), file("log"));
        fs::write(&path, config).expect("writing the configuration");
        let manager = Manager::new(&file("notify"));
        let command = manager.command(namespace, &binaries().join("ivswitchd"));
        let child = run(command, &path, &socket, &log, &[]);
        let namespace = namespace.clone();
        let mut switch = Self { child, namespace, config: path, socket, log, manager: Some(manager.clone()) };
        switch.wait_answering();
        (switch, manager)
    }

    /// Starts the daemon with more options, and waits until it answers or has ended.
    #[must_use]
    #[track_caller]
    pub fn start_with(lab: &Lab, namespace: &Namespace, config: &str, options: &[&str]) -> Self {
        let file = |extension| lab.dir().join(format!("{}.{extension}", namespace.name()));
        let (path, socket, log) = (file("toml"), file("sock"), file("log"));
        fs::write(&path, config).expect("writing the configuration");
        let child = spawn(namespace, &path, &socket, &log, &[], options);
        let mut switch =
            Self { child, namespace: namespace.clone(), config: path, socket, log, manager: None };
        wait_until(PATIENCE, || !switch.is_running() || switch.ivctl("config show").code == 0);
        switch
    }

    /// Whether the daemon runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    /// The exit code or the signal with which the daemon ended.
    pub fn ended_by(&mut self) -> Option<(Option<i32>, Option<i32>)> {
        let status = self.child.try_wait().expect("its state")?;
        Some((status.code(), std::os::unix::process::ExitStatusExt::signal(&status)))
    }

    /// Starts the daemon again after [`Switch::kill`] or [`Switch::terminate`].
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.child.try_wait().expect("its state").is_some(), "it still runs");
        self.child = match &self.manager {
            Some(manager) => {
                let command = manager.command(&self.namespace, &binaries().join("ivswitchd"));
                run(command, &self.config, &self.socket, &self.log, &[])
            }
            None => spawn(&self.namespace, &self.config, &self.socket, &self.log, &[], &[]),
        };
        self.wait_answering();
    }

    /// Starts the daemon again where it refuses to start; gives its error message.
    #[track_caller]
    pub fn start_refused(&mut self) -> String {
        let before = self.log().len();
        self.child = spawn(&self.namespace, &self.config, &self.socket, &self.log, &[], &[]);
        assert!(wait_until(PATIENCE, || !self.is_running()), "it started");
        assert_eq!(self.ended_by(), Some((Some(1), None)));
        self.log().split_off(before)
    }

    #[track_caller]
    fn wait_answering(&mut self) {
        let answering = wait_until(PATIENCE, || {
            self.child.try_wait().expect("its state").is_some() || self.ivctl("config show").code == 0
        });
        let ended = self.child.try_wait().expect("its state");
        assert!(
            answering && ended.is_none(),
            "ivswitchd did not come to answer (ended: {ended:?}, ivctl status: {:?}):\n{}",
            self.ivctl("status"),
            self.log()
        );
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("killing a child of ours");
        self.child.wait().expect("it ends");
    }

    /// Sends SIGTERM; gives how the daemon ended.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let mut status = None;
        let ended = wait_until(PATIENCE, || {
            status = self.child.try_wait().expect("its state");
            status.is_some()
        });
        assert!(ended, "ivswitchd did not end within {} s of SIGTERM", PATIENCE.as_secs());
        status.expect("it ended")
    }

    /// Sends SIGHUP: the daemon reads its files again.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// The daemon's process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM, however the daemon ends; false when it does not end.
    pub fn try_terminate(&mut self) -> bool {
        self.signal(Signal::TERM);
        wait_until(PATIENCE, || !self.is_running())
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process");
        rustix::process::kill_process(pid, signal).expect("signalling a child of ours");
    }

    /// Fails the test if the daemon has ended.
    #[track_caller]
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("its state") {
            panic!("ivswitchd ended: {status}\n{}", self.log());
        }
    }

    /// Runs `ivctl` with these arguments, separated by blanks.
    pub fn ivctl(&self, arguments: &str) -> Answer {
        self.ivctl_args(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `ivctl` with these arguments.
    pub fn ivctl_args(&self, arguments: &[&str]) -> Answer {
        let mut ivctl = Command::new(binaries().join("ivctl"));
        let output = ivctl.arg("--socket").arg(&self.socket).args(arguments).output().expect("running ivctl");
        Answer {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The output of `ivctl -j`. Fails the test if `ivctl` fails.
    #[track_caller]
    pub fn json(&self, arguments: &str) -> Value {
        let answer = self.ivctl(&format!("-j {arguments}"));
        // 8: done, with warnings.
        assert!([0, 8].contains(&answer.code), "ivctl -j {arguments}: {}", answer.stderr);
        serde_json::from_str(&answer.stdout)
            .unwrap_or_else(|e| panic!("ivctl -j {arguments}: {e}: {}", answer.stdout))
    }

    /// Waits until these ports forward.
    #[track_caller]
    pub fn wait_live(&self, ports: &[&str]) {
        let live = || {
            let status = self.json("status");
            let rows = status["ports"].as_array().cloned().unwrap_or_default();
            ports.iter().all(|port| rows.iter().any(|row| row["ifname"] == *port && row["state"] == "live"))
        };
        assert!(
            wait_until(PATIENCE, live),
            "ports {ports:?} did not become live: {}",
            self.ivctl("status").stdout
        );
    }

    /// The switch's counters after they have come to rest, checked by the conservation law.
    #[track_caller]
    pub fn counters_at_rest(&self) -> Value {
        let mut last = Value::Null;
        let rest = wait_until(PATIENCE, || {
            let now = self.json("status");
            let same = now["frames"] == last["frames"];
            last = now;
            same && last["frames"]["queued"] == 0
        });
        assert!(rest, "frames still move: {}", last["frames"]);
        assert_conserved(&last);
        last
    }

    /// Frames dropped on a port for a reason.
    #[must_use]
    #[track_caller]
    pub fn drops(&self, port: &str, reason: &str) -> u64 {
        let status = self.json("status");
        let rows = status["drops"].as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["port"] == port && row["reason"] == reason);
        row.map_or(0, |row| row["count"].as_u64().expect("a counter"))
    }

    /// The daemon's configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The daemon's control socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The daemon's whole log.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// CPU time that the daemon has used.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a running daemon");
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("proc(5)").1.split(' ').collect();
        let ticks: u64 =
            fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        // USER_HZ is 100 on every Linux that matters here.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- ivctl's view is gone; the log of ivswitchd in {}:\n{}",
                self.namespace.name(),
                self.log()
            );
        }
    }
}

fn spawn(
    namespace: &Namespace,
    config: &Path,
    socket: &Path,
    log: &Path,
    wrapper: &[&str],
    options: &[&str],
) -> Child {
    let daemon = binaries().join("ivswitchd");
    let command = match wrapper.split_first() {
        Some((program, arguments)) => {
            // Another user need not be able to read our home directory, so it gets a copy.
            let copy = config.with_file_name("ivswitchd");
            fs::copy(daemon, &copy).expect("copying the daemon");
            let daemon = copy;
            let mut command = namespace.command(program);
            command.args(arguments).arg(daemon);
            command
        }
        None => namespace.command(daemon),
    };
    run(command, config, socket, log, options)
}

fn run(mut command: Command, config: &Path, socket: &Path, log: &Path, options: &[&str]) -> Child {
    let log = File::options().create(true).append(true).open(log).expect("a log file");
    command.arg("--config").arg(config).arg("--socket").arg(socket).args(options);
    let state = config.with_extension("state");
    fs::create_dir_all(&state).expect("a directory for its state");
    command.env("IVS_STATE", state);
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
    command.spawn().expect("running ivswitchd")
}

/// Fails the test unless this `ivctl -j status`, of a switch at rest, accounts for every frame.
#[track_caller]
pub fn assert_conserved(status: &Value) {
    let count = |name: &str| status["frames"][name].as_u64().expect("a counter");
    assert_eq!(
        count("rx") + count("replicated") + count("originated") + count("segmented"),
        count("tx") + count("dropped") + count("punted") + count("consumed") + count("coalesced"),
        "rx + replicated + originated + segmented = tx + dropped + punted + consumed + coalesced: {}",
        status["frames"]
    );
}

/// An answer of `ivctl`.
#[derive(Debug)]
pub struct Answer {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}
