//! The daemon ends, by SIGKILL or by its manager, and is started again under load. Forwarding returns without any new
//! configuration, doors keep their carrier, and the test prints the time blocked (packets lost, divided by the rate
//! at which they were sent): next to none where a service manager keeps descriptors.

use std::time::{Duration, Instant};

use system::{Lab, Manager, Namespace, Stream, Switch, rounds, wait_for};

use crate::topology::{host, network, port};

/// As the unit's `RestartSec`.
const PAUSE: Duration = Duration::from_millis(10);

const DOOR: &str = "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\naddress = [\"10.1.0.7/24\"]\n";
const TAP: &str =
    "[[port]]\nname = \"eth2\"\nnetwork = \"private\"\naddress = [\"10.1.0.8/24\"]\nkind = \"tap\"\n";

struct Two {
    rvm: Namespace,
    h1: Namespace,
    h3: Namespace,
    config: String,
}

fn two(lab: &Lab, doors: &[&str]) -> Two {
    let rvm = lab.namespace("rvm");
    let [h1, h3] =
        [("h1", 1), ("h3", 3)].map(|(name, last)| host(lab, &rvm, name, &[&format!("10.1.0.{last}/24")]));
    let config = network("private", 100) + &port("h1", "private") + &port("h3", "private") + &doors.concat();
    Two { rvm, h1, h3, config }
}

/// The direction of a stream.
#[derive(Clone, Copy)]
enum Through {
    /// From one port by AF_XDP to another.
    Ports,
    /// From such a port to the door [`DOOR`], whose kind is the default one.
    Door,
}

impl Two {
    fn carrier(&self, door: &str) -> String {
        let read = |what: &str| {
            let path = format!("/sys/class/net/{door}/{what}");
            let out = self.rvm.command("cat").arg(path).output().expect("running cat");
            String::from_utf8_lossy(&out.stdout).trim().to_owned()
        };
        format!("{}, {} changes", read("carrier"), read("carrier_changes"))
    }

    /// Ends the daemon and starts it again `times` times, under load. Gives the time blocked in each, the shortest
    /// first. No carrier of `doors` changes during that.
    fn disturbed(
        &self,
        switch: &mut Switch,
        doors: &[&str],
        through: Through,
        times: u64,
        mut end: impl FnMut(&mut Switch),
    ) -> Vec<Duration> {
        let (to, address) = match through {
            Through::Ports => (&self.h3, "10.1.0.3"),
            Through::Door => (&self.rvm, "10.1.0.7"),
        };
        self.h1.reaches(address);
        let before: Vec<String> = doors.iter().map(|door| self.carrier(door)).collect();
        let carriers_stay = |when: &str| {
            for (door, before) in doors.iter().zip(&before) {
                assert_eq!(&self.carrier(door), before, "the carrier of {door} {when}");
            }
        };
        let mut blocked = Vec::new();
        for _ in rounds(times) {
            let stream = Stream::start(&self.h1, to, format!("{address}:9").parse().unwrap(), 2000);
            stream.wait_more(100, "before the end");
            end(switch);
            let restart = Instant::now() + PAUSE;
            carriers_stay("while the daemon is dead");
            std::thread::sleep(restart.saturating_duration_since(Instant::now()));
            switch.start_again();
            stream.wait_more(100, "after the restart");
            let report = stream.finish();
            assert_eq!(report.twice, 0, "{report}");
            blocked.push(report.blocked());
        }
        carriers_stay("in the end");
        blocked.sort();
        blocked
    }
}

fn said(what: &str, blocked: &[Duration]) {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let (median, worst) = (blocked[blocked.len() / 2], blocked[blocked.len() - 1]);
    println!(
        "{what}: blocked {:.1} ms (median), {:.1} ms (worst of {})",
        ms(median),
        ms(worst),
        blocked.len()
    );
}

/// SIGKILL where descriptors are not kept: everything is opened again.
#[test]
fn fault_kill_9_under_load() {
    let Some(lab) = Lab::new() else { return };
    let two = two(&lab, &[DOOR]);
    let mut switch = Switch::start(&lab, &two.rvm, &two.config);
    let blocked = two.disturbed(&mut switch, &["eth1"], Through::Ports, 10, Switch::kill);
    said("kill -9, everything opened anew", &blocked);
    assert!(blocked[blocked.len() / 2] < Duration::from_secs(1), "{blocked:?}");
    two.h1.reaches("10.1.0.7");
}

/// The same through a door of the default kind, with and without a manager that keeps descriptors.
#[test]
fn fault_kill_9_under_load_through_a_door() {
    let Some(lab) = Lab::new() else { return };
    let two = two(&lab, &[DOOR]);
    let mut switch = Switch::start(&lab, &two.rvm, &two.config);
    let blocked = two.disturbed(&mut switch, &["eth1"], Through::Door, 5, Switch::kill);
    said("kill -9, a door, everything opened anew", &blocked);
    assert!(blocked[blocked.len() / 2] < Duration::from_secs(1), "{blocked:?}");
    drop(switch);
    let (mut switch, _manager) = Switch::start_managed(&lab, &two.rvm, &two.config);
    let blocked = two.disturbed(&mut switch, &["eth1"], Through::Door, 5, Switch::kill);
    said("kill -9, a door, descriptors kept", &blocked);
    assert!(blocked[blocked.len() / 2] < Duration::from_secs(1), "{blocked:?}");
    switch.counters_at_rest();
}

/// SIGKILL under a service manager that keeps descriptors: frames wait in the rings until the next start, and a TAP
/// door keeps its carrier too.
#[test]
fn fault_kill_9_under_load_where_descriptors_are_kept() {
    let Some(lab) = Lab::new() else { return };
    let two = two(&lab, &[DOOR, TAP]);
    let (mut switch, manager) = Switch::start_managed(&lab, &two.rvm, &two.config);
    two.h1.reaches("10.1.0.8");
    let kept = manager.kept();
    let blocked = two.disturbed(&mut switch, &["eth1", "eth2"], Through::Ports, 10, Switch::kill);
    said("kill -9, descriptors kept", &blocked);
    assert!(
        blocked[blocked.len() / 2] <= Duration::from_millis(50)
            && blocked[(blocked.len() * 99).div_ceil(100) - 1] <= Duration::from_millis(150),
        "{blocked:?}"
    );
    for door in ["10.1.0.7", "10.1.0.8"] {
        two.h1.reaches(door);
    }
    assert_eq!(manager.kept(), kept, "the very same descriptors");
    switch.counters_at_rest();
}

/// `systemctl restart`: the same, by SIGTERM. When the daemon is not started again, the manager closes the
/// descriptors, which leaves the interfaces as they were.
#[test]
fn fault_a_restart_costs_nothing_where_descriptors_are_kept() {
    let Some(lab) = Lab::new() else { return };
    let two = two(&lab, &[DOOR]);
    let (mut switch, manager) = Switch::start_managed(&lab, &two.rvm, &two.config);
    let blocked = two.disturbed(&mut switch, &["eth1"], Through::Ports, 5, |switch| {
        assert!(switch.terminate().success());
    });
    said("restart, descriptors kept", &blocked);
    assert!(blocked[blocked.len() / 2] <= Duration::from_millis(50), "{blocked:?}");
    assert!(switch.terminate().success());
    assert!(has_program(&two.rvm, "p-h1"), "kept for whoever comes next");
    manager.forget();
    wait_for("the program to go", || !has_program(&two.rvm, "p-h1"));
}

fn has_program(namespace: &Namespace, interface: &str) -> bool {
    namespace.ip_json(&format!("link show {interface}"))[0].get("xdp").is_some()
}

/// While the daemon is dead its configuration changes: one port is removed, another is in another network. The kept
/// descriptors of the first are closed, and no frame that came in between crosses to a network that it was not sent
/// in.
#[test]
fn fault_what_was_kept_and_is_not_wanted_goes() {
    let Some(lab) = Lab::new() else { return };
    let two = two(&lab, &[]);
    let (mut switch, manager) = Switch::start_managed(&lab, &two.rvm, &two.config);
    two.h1.reaches("10.1.0.3");
    let of_h3 = two.rvm.ip_json("link show p-h3")[0]["ifindex"].as_u64().expect("an index");
    let names = |manager: &Manager| {
        manager.kept().into_iter().filter(|name| name.starts_with(&format!("xsk-{of_h3}-"))).count()
    };
    assert_eq!(names(&manager), 1);
    switch.kill();
    let config = network("private", 100) + &network("other", 200) + &port("h1", "other");
    std::fs::write(switch.config(), config).unwrap();
    switch.start_again();
    switch.wait_live(&["h1"]);
    wait_for("the port's program to go", || !has_program(&two.rvm, "p-h3"));
    wait_for("the manager to have let go", || names(&manager) == 0);
    // The first configuration again: one port is opened again, next to one that was kept.
    switch.kill();
    std::fs::write(switch.config(), &two.config).unwrap();
    switch.start_again();
    two.h1.reaches("10.1.0.3");
    switch.counters_at_rest();
}
