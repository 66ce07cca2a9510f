//! Guests that move between hosts without shared disks, guests of users without privileges, and disks on NFS.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use system::{Capture, GuestShell, Lab, Libvirt, Namespace, Switch, binaries, guest_image};

use crate::libvirt::{Rvm, answers, outage};
use crate::topology::{V4, host, network, port, underlay_pair};

/// I-06, I-09, I-10, I-41, R-11, R-14: a guest whose NIC shares memory with the switch moves with its disk to a host
/// that shares nothing with this one. Its port there is open but not live before it runs. Before the move an IDS
/// watches the guest, and it is cut off by its name. Then it is cut off where it is now, stays cut off when it moves
/// back, and is released there.
#[test]
fn r11_r14_a_guest_moves_with_its_disk_and_its_shared_memory() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let (a, b) = underlay_pair(&lab, V4);
    let h1 = host(&lab, &a, "h1", &["10.1.0.1/24"]);
    let ids = host(&lab, &a, "ids", &[]);
    let config = |peer: &str, address: &str, more: &str| {
        format!(
            "[uplink]\ninterface = \"eth0\"\n[[peer]]\nname = \"{peer}\"\naddress = \"{address}\"\n{more}"
        )
    };
    let ports = port("h1", "private") + &port("ids", "private");
    let rvm_a = Rvm::start(&lab, &a, "rvma", &config("rvmb", "10.0.0.12", &ports));
    let (pool, far_pool, far_sockets) =
        (lab.dir().join("pool"), lab.dir().join("far-pool"), lab.dir().join("far-sockets"));
    let sockets = Path::new("/run/ivswitch/guest");
    // QEMU removes its sockets' names when it ends, even if another QEMU of the same name listens there by then.
    let (agents, far_agents) = (lab.dir().join("agents"), lab.dir().join("far-agents"));
    fs::create_dir_all(&agents).expect("a directory of ours");
    let binds =
        [(pool.as_path(), far_pool.as_path()), (sockets, &far_sockets), (agents.as_path(), &far_agents)];
    let rvm_b = Rvm::start_apart(&lab, &b, "rvmb", &config("rvma", "10.0.0.11", ""), &binds);
    for rvm in [&rvm_a, &rvm_b] {
        rvm.does(0, &format!("volume pool add p --dir {}", pool.display()));
    }
    rvm_a.does(0, "volume create disk --size 16M --pool p");

    // Socket names are shared by the whole machine, so this test has its own.
    let name = format!("mv{}", std::process::id());
    let first = format!("{name}-0");
    let agent = agents.join("agent");
    rvm_a.does(
        0,
        &format!(
            "guest create {name} --image {} --memory 160M --accel tcg --timeout 20 --disk p/disk \
             --nic private,ip=10.1.0.5 --append iv.ip=10.1.0.5/24 --channel ivswitch.agent={}",
            guest_image().display(),
            agent.display()
        ),
    );
    let shell = GuestShell::at(&agent);
    assert_eq!(shell.run("echo of the first host > /dev/vda; sync").0, 0);
    h1.reaches("10.1.0.5");
    let row = |rvm: &Rvm| rvm.switch.json(&format!("port show {first}"))[0].clone();
    assert_eq!(row(&rvm_a)["kind"], "vhostuser");

    // By its name: mirrored, then cut off, and both ended.
    rvm_a.does(3, "guest quarantine nosuch");
    rvm_a.does(3, &format!("guest mirror {name} --to nosuch"));
    assert_eq!(row(&rvm_a)["mirror"], serde_json::Value::Null, "a mirror that is refused changes nothing");
    rvm_a.does(0, &format!("guest mirror {name} --to ids"));
    let seen = Capture::start(&lab, &ids, "eth0", "icmp");
    h1.reaches("10.1.0.5");
    let seen = seen.stop();
    assert!(seen.count("echo request") > 0 && seen.count("echo reply") > 0, "{}", seen.text());
    rvm_a.does(0, &format!("guest mirror {name} --off"));
    rvm_a.does(0, &format!("guest quarantine {name}"));
    assert_eq!(h1.ping("-c3 -i0.1 -W1 10.1.0.5"), 0);
    assert_eq!(row(&rvm_a)["state"], "quarantined");
    rvm_a.does(0, &format!("guest release {name}"));
    h1.reaches("10.1.0.5");

    let pinger = h1.spawn(|| {
        let ping =
            Command::new("ping").args(["-D", "-i", "0.02", "-W", "1", "-c", "300", "10.1.0.5"]).output();
        String::from_utf8_lossy(&ping.expect("running ping").stdout).into_owned()
    });
    let to = |rvm: &Rvm, address: &str| {
        format!(
            "guest migrate {name} --storage --to {} --to-socket {} --migrate-uri tcp://{address}:49152 \
             --disks-uri tcp://{address}:49153 --timeout 20",
            rvm.libvirt.uri(),
            rvm.switch.socket().display()
        )
    };
    let states = std::thread::scope(|scope| {
        let moving = scope.spawn(|| rvm_a.does(0, &to(&rvm_b, "10.0.0.12")));
        let mut states: Vec<String> = Vec::new();
        while !moving.is_finished() {
            let answer = rvm_b.switch.ivctl(&format!("-j port show {first}"));
            let row: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
            if let Some(state) =
                row[0]["state"].as_str().filter(|s| states.last().is_none_or(|last| last != s))
            {
                states.push(state.to_owned());
            }
        }
        moving.join().expect("it moves");
        states
    });
    let times = answers(&pinger.join().expect("ping"));
    let outage = outage(&times);
    let (code, job) = rvm_b.libvirt.virsh(&format!("domjobinfo {name} --completed"));
    let downtime = job.lines().find_map(|line| line.strip_prefix("Total downtime:"));
    let downtime: Option<f64> = downtime.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    assert_eq!(code, 0, "{job}");
    let downtime = downtime.unwrap_or_else(|| panic!("no downtime: {job}")) / 1000.0;
    eprintln!("migration: port there {states:?}; no answer for {outage:.3} s, QEMU's pause {downtime:.3} s");
    assert!(states.iter().any(|state| state == "ready") || states.iter().any(|state| state == "waiting"));
    // With software emulation on a busy machine, the guest's own clock may be a second late.
    assert!(times.len() > 50 && outage < downtime + 1.0, "{outage} s without an answer in {times:?}");
    assert_eq!(row(&rvm_b)["state"], "live");
    let there = GuestShell::at(&far_agents.join("agent"));
    let disk = "echo 3 > /proc/sys/vm/drop_caches; head -c 18 /dev/vda";
    assert_eq!(there.run(disk).1, "of the first host\n", "its disk came along");
    let of_pool = |dir: &Path| fs::metadata(dir.join("disk")).map(|file| file.len()).unwrap_or_default();
    assert!(of_pool(&far_pool) > 0, "to where it is now");

    // It moves back while cut off, and is cut off where it arrives.
    rvm_a.does(0, "volume delete disk --pool p");
    assert_eq!(there.run("echo of the other host > /dev/vda; sync").0, 0);
    rvm_b.does(0, &format!("guest quarantine {name}"));
    assert_eq!(h1.ping("-c3 -i0.1 -W1 10.1.0.5"), 0);
    rvm_b.does(0, &to(&rvm_a, "10.0.0.11"));
    assert_eq!(row(&rvm_a)["state"], "quarantined");
    assert_eq!(h1.ping("-c3 -i0.1 -W1 10.1.0.5"), 0, "it moved out of its quarantine");
    rvm_a.does(0, &format!("guest release {name}"));
    // Its announcement was dropped like all its frames, so it is found again when it sends.
    assert_eq!(shell.run("ping -c 5 10.1.0.1 > /dev/null").0, 0);
    h1.reaches("10.1.0.5");
    assert_eq!(shell.run(disk).1, "of the other host\n", "its disk came back");
    rvm_a.does(0, &format!("guest delete {name} --force"));
    for rvm in [&rvm_a, &rvm_b] {
        let (ports, _, guests) = rvm.everything();
        assert!(!ports.contains(&first) && guests.is_empty(), "{ports:?} {guests:?}");
    }
    rvm_a.switch.counters_at_rest();
    rvm_b.switch.counters_at_rest();
}

/// A user without rights on this host, except at its switch.
struct User {
    namespace: Namespace,
    home: PathBuf,
}

/// The user `nobody`, and a group that may change things at the switch.
const USER: &str = "65534";
const ADMINS: &str = "64242";

impl User {
    fn new(lab: &Lab, namespace: &Namespace) -> Self {
        let home = lab.dir().join("nobody");
        for folder in ["", "run", "config", "cache", "data"] {
            fs::create_dir_all(home.join(folder)).expect("a directory of ours");
            std::os::unix::fs::chown(home.join(folder), Some(65534), Some(65534)).expect("chown");
        }
        // The mode that systemd sets: other users get no access by permissions, nor does the switch, whose root lacks
        // that right.
        fs::set_permissions(home.join("run"), fs::Permissions::from_mode(0o700)).expect("its mode");
        fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755)).expect("our own directory");
        Self { namespace: namespace.clone(), home }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.namespace.command("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--groups", ADMINS, "--inh-caps=-all"]).arg(program);
        let part = |name: &str| self.home.join(name);
        command
            .env("HOME", &self.home)
            .env("XDG_RUNTIME_DIR", part("run"))
            .env("XDG_CONFIG_HOME", part("config"));
        command.env("XDG_CACHE_HOME", part("cache")).env("XDG_DATA_HOME", part("data"));
        command.stdin(Stdio::null());
        command
    }

    fn ivctl(&self, switch: &Switch, arguments: &str) -> Command {
        // A copy, because other users need not have access to the build directory.
        let mut command = self.command(self.home.join("ivctl"));
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.home.display()));
        command.arg("--socket").arg(switch.socket()).args(arguments.split_whitespace());
        command.args(["--connect", "qemu:///session"]);
        command
    }

    #[track_caller]
    fn does(&self, switch: &Switch, code: i32, arguments: &str) -> String {
        let output = self.ivctl(switch, arguments).output().expect("running ivctl");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "ivctl {arguments}: {said}");
        said
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.home.join("run/libvirt/libvirtd.pid")).unwrap_or_default();
        if let Ok(pid) = pid.trim().parse().map(rustix::process::Pid::from_raw)
            && let Some(pid) = pid
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// N-05: a user's own libvirt daemon (`qemu:///session`), which libvirt starts by itself. The guest's NIC is in
/// shared memory, the only kind that needs no rights.
#[test]
fn n05_a_guest_of_a_users_session() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let namespace = lab.namespace("rvm");
    let h1 = host(&lab, &namespace, "h1", &["10.1.0.1/24"]);
    let config = format!("name = \"rvm1\"\n{}{}", network("private", 100), port("h1", "private"));
    let switch = Switch::start_with(&lab, &namespace, &config, &["--admin-group", ADMINS]);
    let open = |switch: &Switch| {
        fs::set_permissions(switch.socket(), fs::Permissions::from_mode(0o666)).expect("its socket");
    };
    open(&switch);
    let user = User::new(&lab, &namespace);
    for program in ["ivctl", "ivctl-guest"] {
        fs::copy(binaries().join(program), user.home.join(program)).expect("a copy");
    }
    for file in ["vmlinux", "initramfs"] {
        fs::copy(guest_image().join(file), user.home.join(file)).expect("a copy");
    }
    let agent = user.home.join("run/agent");
    user.does(
        &switch,
        0,
        &format!(
            "guest create us1 --image {} --memory 160M --accel tcg --timeout 30 --nic private,ip=10.1.0.5 \
             --append iv.ip=10.1.0.5/24 --channel ivswitch.agent={}",
            user.home.display(),
            agent.display()
        ),
    );
    let shell = GuestShell::at(&agent);
    assert_eq!(shell.run("true").0, 0);
    h1.reaches("10.1.0.5");
    assert_eq!(switch.json("port show us1-0")[0]["kind"], "vhostuser");
    assert!(user.does(&switch, 0, "guest list").contains("running"));
    user.does(&switch, 0, "guest delete us1 --force");
    assert!(!switch.ivctl("port list").stdout.contains("us1-0"), "its port went with it");
    switch.counters_at_rest();
}

/// N-13: a pool on an NFS export. The daemon, its mount and the volumes are real. Where this kernel lacks NFS, the
/// helper that `mount` calls for it mounts a filesystem in memory instead, under the export's name: NFS's own
/// protocol is then not tested.
#[test]
fn n13_a_pool_on_an_nfs_export() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let namespace = lab.namespace("rvm");
    let dir = lab.dir().join("mounted");
    // A mount that fails leaves no pool.
    let plain = Rvm::start(&lab, &namespace, "rvm1", "");
    let add = format!("volume pool add far --nfs 192.0.2.1:/srv/volumes --dir {}", dir.display());
    if !fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("\tnfs")) {
        let said = plain.does(1, &add);
        assert!(said.contains("mount"), "{said}");
        assert!(!plain.does(0, "volume pool list").contains("far"));
    }
    drop(plain);

    let helpers = lab.dir().join("helpers");
    fs::create_dir_all(&helpers).expect("a directory of ours");
    fs::write(helpers.join("mount.nfs"), "#!/bin/sh\nexec mount -i -t tmpfs \"$1\" \"$2\"\n")
        .expect("a helper");
    fs::set_permissions(helpers.join("mount.nfs"), fs::Permissions::from_mode(0o755)).expect("its mode");
    let over = format!("mount -t overlay -o lowerdir={}:/usr/sbin none /usr/sbin", helpers.display());
    let libvirt = Libvirt::start_with(&lab, &namespace, "nfs", &[("IVS_BINDS", &over)]);
    let does = |code: i32, arguments: &str| {
        let mut ivctl = Command::new(binaries().join("ivctl"));
        ivctl.args(arguments.split_whitespace()).args(["--connect", &libvirt.uri()]);
        let output = ivctl.output().expect("running ivctl");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "ivctl {arguments}: {said}");
        said
    };
    does(0, &add);
    let pools = does(0, "volume pool list");
    assert!(pools.contains("netfs") && pools.contains(&dir.display().to_string()), "{pools}");
    does(0, "volume create data --size 8M --pool far");
    does(0, "volume resize data --size 16M --pool far");
    does(0, "volume snapshot data before --pool far");
    assert!(does(0, "volume list --pool far").contains("data@before"));
    assert_eq!(
        fs::read_dir(&dir).expect("the place").count(),
        0,
        "volumes lie on the export, not in the directory"
    );
    does(0, "volume delete data --pool far");
    does(0, "volume pool del far");
    assert!(!does(0, "volume pool list").contains("far"));
}
