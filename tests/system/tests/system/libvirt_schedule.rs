//! Actions scheduled for guests happen exactly once, even if any of the programs involved is killed.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use system::{BOOT, Lab, Libvirt, wait_for, wait_until};

use crate::libvirt::Rvm;
use crate::topology::{host, port};

/// The list of scheduled actions, and the service that carries them out.
struct Schedule {
    directory: PathBuf,
    log: PathBuf,
}

/// `ivctl guest schedule run`, as a service runs it: its child processes are in its process group.
struct Service(Child);

impl Service {
    /// Sends SIGKILL to the service alone: actions that it has begun go on, at the latest until libvirt ends with the
    /// test.
    fn kill(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        std::mem::forget(self);
    }
}

impl Drop for Service {
    /// Sends SIGKILL to the whole group, as `systemctl kill -s KILL` does.
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_raw(self.0.id().cast_signed()).expect("a process");
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

impl Schedule {
    fn command(&self, arguments: &str) -> Command {
        let mut ivctl = Command::new(system::binaries().join("ivctl"));
        ivctl.args(["guest", "schedule"]).args(arguments.split_whitespace());
        ivctl.env("IVS_SCHEDULE", &self.directory).stdin(Stdio::null());
        ivctl
    }

    fn run(&self) -> Service {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).expect("a log file");
        let mut command = self.command("run");
        command.process_group(0).stdout(log.try_clone().expect("a file")).stderr(log);
        Service(command.spawn().expect("running ivctl"))
    }

    #[track_caller]
    fn add(&self, rvm: &Rvm, arguments: &str) {
        let mut add = self.command("add");
        add.args(["--connect", &rvm.libvirt.uri(), "--socket"]).arg(rvm.switch.socket());
        let output = add.args(arguments.split_whitespace()).output().expect("running ivctl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn list(&self) -> String {
        let output = self.command("list").output().expect("running ivctl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        eprintln!("what the services said:\n{}", self.said());
    }
}

/// N-08: a scheduled stop and a scheduled start each happen once, although the service is killed before the first is
/// due and while each is under way, with and without the action that it has begun; and although libvirt and the
/// switch are killed as well.
#[test]
fn n08_what_is_scheduled_happens_once_whoever_is_killed() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let namespace = lab.namespace("rvm");
    let h1 = host(&lab, &namespace, "h1", &["10.1.0.1/24"]);
    let mut rvm = Rvm::start(&lab, &namespace, "rvm1", &port("h1", "private"));
    let shell = rvm.guest("g1", 5, "");
    let schedule = Schedule { directory: lab.dir().join("schedule"), log: lab.dir().join("schedule.log") };
    assert_eq!(shell.run("true").0, 0);
    let state = |rvm: &Rvm| rvm.libvirt.virsh("domstate g1").1.trim().to_owned();
    let times = |rvm: &Rvm, what: &str| rvm.libvirt.log_of("g1").matches(what).count();
    let (started, stopped) = ("starting up libvirt version", "shutting down, reason=");
    assert_eq!((times(&rvm, started), times(&rvm, stopped)), (1, 0));

    // Killed before an entry is due.
    let first = schedule.run();
    schedule.add(&rvm, "+2s stop g1");
    drop(first);
    // A guest that ignores its power button does not stop, so the action has to wait.
    assert_eq!(shell.run("killall acpid").0, 0);
    let begun = |what: &str| schedule.list().lines().any(|l| l.contains("being done") && l.contains(what));
    // Killed while it stops the guest: this service together with the action that it has begun, the next one alone.
    let second = schedule.run();
    wait_for("the stop to begin", || begun("stop g1"));
    drop(second);
    assert!(!begun("stop g1") && schedule.list().contains("stop g1"), "{}", schedule.list());
    let third = schedule.run();
    wait_for("the stop to begin again", || begun("stop g1"));
    third.kill();
    assert!(begun("stop g1"), "what was begun goes on without the service");
    let fourth = schedule.run();
    // libvirt is killed and comes back: the action fails without it, and the stop is tried again.
    rvm.libvirt.kill();
    wait_for("the service to miss libvirt", || schedule.said().contains("it waits"));
    assert!(schedule.list().contains("stop g1"));
    rvm.libvirt.start_again();
    assert_eq!(state(&rvm), "running");
    shell.run("acpid -d > /dev/null 2>&1 &");
    assert!(wait_until(BOOT, || state(&rvm) == "shut off"), "it is stopped: {}", schedule.said());
    wait_for("the entry to be done with", || !schedule.list().contains("stop g1"));
    drop(fourth);

    // Two services and no switch: the guest starts, and the entry waits for its port.
    rvm.switch.kill();
    let services = [schedule.run(), schedule.run()];
    schedule.add(&rvm, "+1s start g1");
    assert!(wait_until(BOOT, || state(&rvm) == "running"), "it is started: {}", schedule.said());
    drop(services);
    assert!(schedule.list().contains("start g1"), "its port is not live yet: {}", schedule.said());
    rvm.switch.start_again();
    let last = schedule.run();
    let done = wait_until(Duration::from_secs(30), || schedule.list().lines().count() <= 1);
    assert!(done, "{}{}", schedule.list(), schedule.said());
    drop(last);
    rvm.switch.wait_live(&["g1-0"]);
    assert_eq!(shell.run("true").0, 0);
    h1.reaches("10.1.0.5");
    assert_eq!((times(&rvm, started), times(&rvm, stopped)), (2, 1), "{}", rvm.libvirt.log_of("g1"));
    let left = |directory: &Path| std::fs::read_dir(directory).expect("the list").count();
    assert_eq!(left(&schedule.directory), 0, "no file is left of them");
    rvm.does(0, "guest delete g1 --force");
}
