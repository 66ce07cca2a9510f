//! Faults around the switch, on real interfaces: ports that are not affected lose nothing, those that are affected
//! recover by themselves, and the test prints the time blocked (packets lost, divided by the rate at which they were
//! sent).

use std::fs;
use std::process::Command;
use std::time::Duration;

use system::{Lab, Namespace, Stream, Switch, wait_for};

use crate::topology::{FarKernel, V4, host, network, port};

/// Three hosts on one switch.
pub struct Three {
    pub rvm: Namespace,
    pub h1: Namespace,
    pub h3: Namespace,
    pub h5: Namespace,
    pub switch: Switch,
}

fn three(lab: &Lab, extra: &str) -> Three {
    let rvm = lab.namespace("rvm");
    let [h1, h3, h5] = [("h1", 1), ("h3", 3), ("h5", 5)]
        .map(|(name, last)| host(lab, &rvm, name, &[&format!("10.1.0.{last}/24")]));
    let ports = ["h1", "h3", "h5"].map(|name| port(name, "private")).concat();
    let switch = Switch::start(lab, &rvm, &(network("private", 100) + &ports + extra));
    h1.reaches("10.1.0.3");
    h1.reaches("10.1.0.5");
    Three { rvm, h1, h3, h5, switch }
}

/// The bpf_link of our daemon on this interface, as the kernel describes the daemon's descriptors.
fn xdp_link(switch: &Switch, ifindex: u64) -> Option<u32> {
    let directory = fs::read_dir(format!("/proc/{}/fdinfo", switch.pid())).expect("a running daemon");
    directory
        .flatten()
        .find_map(|fd| {
            let text = fs::read_to_string(fd.path()).ok()?;
            let of = |key: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
                line.trim().parse::<u64>().ok()
            };
            (text.contains("link_type:\txdp") && of("ifindex") == Some(ifindex)).then(|| of("link_id"))?
        })
        .map(|id| id as u32)
}

/// Another tool detaches our XDP program from a port: the switch notices, reports it and attaches the program again;
/// other ports lose nothing.
#[test]
fn fault_an_xdp_program_is_detached_by_another_tool() {
    let Some(lab) = Lab::new() else { return };
    let Three { rvm, h1, h3, h5, switch } = three(&lab, "");
    let hit = Stream::start(&h1, &h3, "10.1.0.3:9".parse().unwrap(), 2000);
    let other = Stream::start(&h1, &h5, "10.1.0.5:9".parse().unwrap(), 2000);
    hit.wait_more(100, "at the start");
    let ifindex = rvm.ip_json("link show p-h3")[0]["ifindex"].as_u64().expect("an index");
    let link = xdp_link(&switch, ifindex).expect("the daemon's link");
    let detached = Command::new("bpftool").args(["link", "detach", "id", &link.to_string()]).output();
    let detached = detached.expect("running bpftool");
    assert!(detached.status.success(), "{}", String::from_utf8_lossy(&detached.stderr));
    wait_for("the program to be attached again", || {
        xdp_link(&switch, ifindex).is_some_and(|now| now != link)
    });
    h3.reaches("10.1.0.1");
    hit.wait_more(100, "after it is back");
    let (hit, other) = (hit.finish(), other.finish());
    println!("program detached: {hit}\n  another port: {other}");
    assert!(hit.blocked() < Duration::from_secs(4), "{hit}");
    assert_eq!(other.lost(), 0, "{other}");
    assert!(switch.log().contains("took its sockets or its program away"), "{}", switch.log());
}

/// A link goes down and up ten times, on the host's side and on ours: traffic returns each time, and others lose
/// nothing.
#[test]
fn fault_a_link_flaps() {
    let Some(lab) = Lab::new() else { return };
    let Three { rvm, h1, h3, h5, mut switch } = three(&lab, "");
    let hit = Stream::start(&h1, &h3, "10.1.0.3:9".parse().unwrap(), 2000);
    let other = Stream::start(&h1, &h5, "10.1.0.5:9".parse().unwrap(), 2000);
    for n in 0..10 {
        let (namespace, link) = if n % 2 == 0 { (&h3, "eth0") } else { (&rvm, "p-h3") };
        namespace.ip(&format!("link set {link} down"));
        namespace.ip(&format!("link set {link} up"));
        hit.wait_more(50, "after a flap");
    }
    let (hit, other) = (hit.finish(), other.finish());
    println!("10 link flaps: {hit}\n  another port: {other}");
    assert_eq!(other.lost(), 0, "{other}");
    switch.assert_running();
}

/// A file system of a few pages, unmounted when the test ends, however it ends.
struct Tiny(std::path::PathBuf);

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// The disk is full: an edit takes effect, and its answer says that it is not saved and why. The old file is
/// complete, and no frame is lost. Once the disk has room again, the next edit is saved.
#[test]
fn fault_the_disk_is_full() {
    let Some(lab) = Lab::new() else { return };
    let tiny = Tiny(lab.dir().join("tiny"));
    fs::create_dir(&tiny.0).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&tiny.0).status();
    assert!(mount.expect("running mount").success());
    // The configuration is a symbolic link into it, as for a configuration that lives on another file system.
    let name = lab.dir().file_name().expect("named").to_string_lossy().replace('.', "");
    std::os::unix::fs::symlink(tiny.0.join("c.toml"), lab.dir().join(format!("{name}-rvm.toml"))).unwrap();
    let Three { h1, h3, switch, .. } = three(&lab, "");
    let before = fs::read_to_string(switch.config()).unwrap();
    let stream = Stream::start(&h1, &h3, "10.1.0.3:9".parse().unwrap(), 2000);
    let filler = tiny.0.join("filler");
    let _ = fs::write(&filler, vec![0; 128 << 10]);

    let added = switch.ivctl("network add public --vni 200");
    assert!(added.code == 8 && added.stderr.contains("make room"), "{added:?}");
    assert!(switch.ivctl("network list").stdout.contains("public"), "in force");
    assert!(switch.ivctl("status").stdout.contains("not saved"), "and the operator sees it");
    assert_eq!(fs::read_to_string(switch.config()).unwrap(), before, "the old file is whole");
    fs::remove_file(&filler).unwrap();
    assert_eq!(switch.ivctl("network add more --vni 300").code, 0);
    let now = fs::read_to_string(switch.config()).unwrap();
    assert!(now.contains("public") && now.contains("more"), "{now}");
    let report = stream.finish();
    println!("disk full: {report}");
    assert_eq!(report.lost(), 0, "{report}");
}

/// Frame memory may not be locked: the port reports that with the remedy, and the daemon lives.
#[test]
fn fault_memory_may_not_be_locked() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let _h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let only = ["net_admin", "net_raw", "bpf", "perfmon"].map(|name| format!(",+{name}")).concat();
    let set = |kind: &str| format!("--{kind}=-all{only}");
    let (bounding, inheritable, ambient) = (set("bounding-set"), set("inh-caps"), set("ambient-caps"));
    let wrapper = [
        "prlimit",
        "--memlock=65536:65536",
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        &bounding,
        &inheritable,
        &ambient,
    ];
    let mut switch =
        Switch::start_as(&lab, &rvm, &(network("private", 100) + &port("h1", "private")), &wrapper);
    wait_for("the port to fail", || switch.ivctl("port list").stdout.contains("failed"));
    let why = switch.json("port list")[0]["why"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("MEMLOCK") || why.contains("locked"), "{why}");
    switch.assert_running();
}

/// The file is damaged under a running daemon: a reload refuses it, and the running configuration stays in force. A
/// start refuses it by name, and with the file repaired everything is as before.
#[test]
fn fault_the_configuration_is_corrupted() {
    let Some(lab) = Lab::new() else { return };
    let Three { h1, h3, mut switch, .. } = three(&lab, "");
    let good = fs::read(switch.config()).unwrap();
    let stream = Stream::start(&h1, &h3, "10.1.0.3:9".parse().unwrap(), 2000);
    let damages = [good[..good.len() - 30].to_vec(), [&good[..40], &[0xff, 0, 0xfe]].concat(), vec![0; 4096]];
    for (n, damage) in damages.iter().enumerate() {
        fs::write(switch.config(), damage).unwrap();
        switch.reload();
        wait_for("the refusal", || switch.log().matches("what was in force goes on").count() > n);
    }
    assert!(switch.ivctl("port list").stdout.contains("live"));
    let told = switch.ivctl("status").stdout;
    assert!(told.contains("warning: the configuration files were refused"), "{told}");
    let report = stream.finish();
    assert_eq!(report.lost(), 0, "{report}");
    switch.kill();
    let refused = switch.start_refused();
    assert!(refused.contains("-rvm.toml"), "{refused}");
    fs::write(switch.config(), &good).unwrap();
    switch.start_again();
    h1.reaches("10.1.0.3");
}

/// A kernel's VTEP at the other end goes down and up: the tunnel recovers without any action here.
#[test]
fn fault_the_far_vtep_goes_and_returns() {
    let Some(lab) = Lab::new() else { return };
    let FarKernel { far, h1, h2, mut switch, .. } = FarKernel::new(&lab, V4, false);
    h1.reaches("10.1.0.2");
    let stream = Stream::start(&h1, &h2, "10.1.0.2:9".parse().unwrap(), 1000);
    stream.wait_more(50, "at the start");
    far.ip("link set vx down");
    far.ip("link set vx up");
    stream.wait_more(50, "when the far VTEP is back");
    println!("the far VTEP down and up: {}", stream.finish());
    switch.assert_running();
}
