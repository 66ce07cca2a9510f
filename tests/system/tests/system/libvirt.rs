//! Real guests: QEMU in software, a test's own libvirt daemon, `ivctl guest` and `ivctl volume`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use system::{
    Answer, BOOT, GuestShell, Lab, Libvirt, Namespace, Session, Switch, bind_script, guest_image, wait_until,
};

use crate::topology::{V4, host, network, port, underlay_pair};

/// An rVM with a switch and a libvirt daemon, and a host `h1` (10.1.0.1) on its network `private`.
pub struct Rvm {
    // Dropped before the switch, which does not need the guests.
    pub libvirt: Libvirt,
    pub switch: Switch,
    dir: PathBuf,
}

/// An rVM with the networks `private` and `public`, each with a gateway.
fn config(name: &str, more: &str) -> String {
    let [private, public] = [network("private", 100), network("public", 200)];
    format!(
        "name = \"{name}\"\n{private}gateway = [\"10.1.0.254\"]\n{public}gateway = [\"10.2.0.1\"]\n{more}"
    )
}

impl Rvm {
    #[track_caller]
    pub fn start(lab: &Lab, namespace: &Namespace, name: &str, more: &str) -> Self {
        let switch = Switch::start(lab, namespace, &config(name, more));
        let libvirt = Libvirt::start(lab, namespace, name);
        Self { libvirt, switch, dir: lab.dir().to_owned() }
    }

    /// As `start`, on a machine of its own: the second path of each pair is mounted in place of the first.
    #[track_caller]
    pub fn start_apart(
        lab: &Lab,
        namespace: &Namespace,
        name: &str,
        more: &str,
        binds: &[(&Path, &Path)],
    ) -> Self {
        let config = config(name, more);
        let script = format!("mount --make-rprivate / && {}exec \"$@\"", bind_script(binds));
        let switch = Switch::start_as(lab, namespace, &config, &["unshare", "-m", "sh", "-c", &script, "sh"]);
        let libvirt = Libvirt::start_apart(lab, namespace, name, binds);
        Self { libvirt, switch, dir: lab.dir().to_owned() }
    }

    /// Runs `ivctl` for this rVM.
    fn ivctl(&self, arguments: &str) -> Answer {
        let libvirts = ["guest", "-j guest", "volume", "host"].iter().any(|noun| arguments.starts_with(noun));
        let connect = if libvirts { format!(" --connect {}", self.libvirt.uri()) } else { String::new() };
        self.switch.ivctl(&format!("{arguments}{connect}"))
    }

    /// Runs `ivctl`, which must end with this code; gives its output.
    #[track_caller]
    pub fn does(&self, code: i32, arguments: &str) -> String {
        let answer = self.ivctl(arguments);
        assert_eq!(answer.code, code, "ivctl {arguments}: {}{}", answer.stdout, answer.stderr);
        answer.stdout + &answer.stderr
    }

    /// Creates a guest from the tests' image with `10.1.0.LAST`; gives its shell.
    #[track_caller]
    pub fn guest(&self, name: &str, last: u8, more: &str) -> GuestShell {
        let agent = self.agent(name);
        self.does(
            0,
            &format!(
                "guest create {name} --image {} --memory 160M/256M --vcpus 1/2 --accel tcg --timeout 20 \
                 --nic private,ip=10.1.0.{last},kind=afxdp --append iv.ip=10.1.0.{last}/24 \
                 --channel ivswitch.agent={} {more}",
                guest_image().display(),
                agent.display()
            ),
        );
        GuestShell::at(&agent)
    }

    pub fn agent(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.agent"))
    }

    /// Names of the switch's ports and floating IPs, and of libvirt's guests. An orphan would be one of these.
    #[track_caller]
    pub fn everything(&self) -> (Vec<String>, Vec<String>, Vec<String>) {
        let names = |noun: &str, key: &str| {
            let rows = self.switch.json(&format!("{noun} list"));
            rows.as_array()
                .expect("rows")
                .iter()
                .map(|r| r[key].as_str().unwrap_or_default().to_owned())
                .collect()
        };
        let (_, guests) = self.libvirt.virsh("list --all --name");
        let guests = guests.split_whitespace().map(str::to_owned).collect();
        (names("port", "ifname"), names("fip", "ip"), guests)
    }
}

/// I-06, N-05, N-06, N-07, N-08, N-09, N-10, N-14, N-16: a guest's whole life, by `ivctl` through libvirt. It talks
/// through the switch while it lives, cannot use another's addresses, and leaves nothing behind.
#[test]
fn i06_n05_a_guest_lives_and_dies_with_its_port() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let namespace = lab.namespace("rvm");
    let h1 = host(&lab, &namespace, "h1", &["10.1.0.1/24"]);
    let rvm = Rvm::start(&lab, &namespace, "rvm1", &port("h1", "private"));
    let before = rvm.everything();
    let status = rvm.does(0, "host");
    assert!(status.contains("nesting") && status.contains("QEMU"), "{status}");

    let shell = rvm.guest("g1", 5, "");
    let g2 = rvm.guest("g2", 6, "");
    shell.run("true");
    h1.reaches("10.1.0.5");
    // Its agent answers each client, even one that connects immediately after another has left.
    for n in 0..40_u64 {
        assert_eq!(shell.run(&format!("echo {n}")), (0, format!("{n}\n")));
        std::thread::sleep(Duration::from_micros(50 * n));
    }
    // Two guests of one rVM, by TCP, both ways, with intact data: the checksums of the file agree.
    g2.run("true");
    assert_eq!(g2.run("nc -l -p 7 > /tmp/in < /bin/busybox &").0, 0);
    let sent = wait_until(BOOT, || shell.run("nc -w 10 10.1.0.6 7 < /bin/busybox > /tmp/in").0 == 0);
    assert!(sent, "TCP from g1 to g2");
    let sums = |shell: &GuestShell, file: &str| shell.run(&format!("md5sum < {file}")).1;
    let whole = sums(&shell, "/bin/busybox");
    let arrived = || sums(&g2, "/tmp/in") == whole && sums(&shell, "/tmp/in") == whole;
    assert!(wait_until(BOOT, arrived), "TCP between guests came out different");

    // The binding: frames with another address or MAC are dropped under a reason of their own.
    shell.run("ip addr add 10.1.0.66/24 dev eth0; ping -c 2 -W 1 -I 10.1.0.66 10.1.0.1; ip addr del 10.1.0.66/24 dev eth0");
    assert!(rvm.switch.drops("g1-0", "spoofed-ip") > 0, "{}", rvm.does(0, "drops"));

    // A guest that another tool made is shown and left alone; a second guest of the same name is refused.
    rvm.does(4, &format!("guest create g1 --image {}", guest_image().display()));
    rvm.does(3, "guest show nosuch");
    rvm.does(4, "guest delete g1");

    // It grows immediately where it can, and `ivctl` says which changes have to wait.
    rvm.does(0, "guest resize g1 --memory 128M");
    rvm.does(0, "guest resize g2 --vcpus 2");
    let said = rvm.does(8, "guest resize g1 --shares 2048");
    assert!(said.contains("next start"), "{said}");
    let less = || rvm.does(0, "-j guest show g1").contains("\"memory\":134217728");
    assert!(wait_until(BOOT, less), "the guest gives memory back: {}", rvm.does(0, "-j guest show g1"));
    rvm.does(2, "guest resize g1 --memory 1M");

    // A NIC is added and removed while the guest runs, and its port with it.
    rvm.does(0, "guest attach g1 --nic private,ip=10.1.0.7 --timeout 20");
    let up = || {
        shell.run("ip link set eth1 up; ip addr add 10.1.0.7/24 dev eth1; cat /sys/class/net/eth1/carrier").1
            == "1\n"
    };
    assert!(wait_until(BOOT, up), "the guest sees its second NIC");
    assert!(rvm.everything().0.contains(&"g1-1".to_owned()));
    // More than one NIC fits.
    rvm.does(0, "guest attach g1 --nic private,ip=10.1.0.8 --timeout 20");
    rvm.does(0, "guest detach g1 --nic g1-2");
    rvm.does(0, "guest detach g1 --nic g1-1");
    assert!(!rvm.everything().0.contains(&"g1-1".to_owned()));
    assert_ne!(shell.run("ls /sys/class/net/eth1").0, 0, "it is gone in the guest too");
    rvm.does(3, "guest detach g1 --nic g1-1");

    // Its console, from outside.
    let mut console = Command::new(system::binaries().join("ivctl"))
        .args(["guest", "console", "g1", "--connect", &rvm.libvirt.uri(), "--socket"])
        .arg(rvm.switch.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("running ivctl");
    let mut keys = console.stdin.take().expect("piped");
    keys.write_all(b"\necho con$((40+2))sole > /tmp/said\n").expect("typing");
    assert!(wait_until(BOOT, || shell.run("cat /tmp/said").1 == "con42sole\n"), "what is typed arrives");
    keys.write_all(b"\x1d").expect("leaving");
    assert!(console.wait().expect("it ends").success());

    // A schedule entry, which outlives the program that made it, stops the guest; a command starts it again.
    let schedule = lab.dir().join("schedule");
    let scheduled = |arguments: &str| {
        let mut ivctl = Command::new(system::binaries().join("ivctl"));
        ivctl.args(["guest", "schedule"]).args(arguments.split_whitespace()).env("IVS_SCHEDULE", &schedule);
        ivctl.args(["--connect", &rvm.libvirt.uri(), "--socket"]).arg(rvm.switch.socket());
        let output = ivctl.output().expect("running ivctl");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(scheduled("add +0s stop g1 --timeout 60").0, Some(0));
    assert_eq!(scheduled("add +1d destroy g2").0, Some(0));
    assert_eq!(scheduled("add +1d dance g2").0, Some(2));
    assert_eq!(scheduled("run --once").0, Some(0));
    let left = scheduled("list").1;
    assert!(left.contains("destroy g2") && !left.contains("stop g1"), "{left}");
    assert_eq!(rvm.libvirt.virsh("domstate g1").1.trim(), "shut off");

    // Its port waits, and is live again when the guest is.
    rvm.does(0, "guest start g1 --timeout 20");
    h1.reaches("10.1.0.5");
    rvm.does(0, "guest reboot g2 --force");
    rvm.does(0, "guest destroy g2");
    rvm.does(0, "guest delete g2");
    rvm.does(0, "guest delete g1 --force");
    rvm.does(0, "guest delete g1 --if-exists");
    assert_eq!(rvm.everything(), before, "nothing is left on either side");
    assert!(!namespace.has_link("g1-0") && !namespace.has_link("g2-0"));
    rvm.switch.counters_at_rest();
}

/// When any step of making a guest fails, neither a definition, nor a port, nor a floating IP stays behind.
#[test]
fn n05_no_orphans_whatever_step_fails() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let namespace = lab.namespace("rvm");
    let _h1 = host(&lab, &namespace, "h1", &["10.1.0.1/24"]);
    let rvm = Rvm::start(&lab, &namespace, "rvm1", &port("h1", "private"));
    let image = guest_image().display().to_string();
    let create = |more: &str| {
        format!(
            "guest create g1 --image {image} --memory 160M --accel tcg --timeout 3 --nic private,ip=10.1.0.5,kind=afxdp {more}"
        )
    };
    // In turn, these block the definition, the second NIC's port, and the floating IP.
    const UUID: &str = "6b0fa8a1-5f0e-4b5d-9a9e-0123456789ab";
    rvm.does(0, &format!("guest create g0 --image {image} --uuid {UUID} --no-start"));
    rvm.does(0, "port add g1-1 --network private --interface nosuch --no-wait");
    rvm.does(0, "peer add far --address 10.0.0.12");
    rvm.does(0, "fip add 56.0.0.12 --network public --gateway far --inside private:10.1.0.77");
    let before = rvm.everything();
    let float = "--floating 56.0.0.11,network=public,gateway=far";
    let steps = [
        ("checking", 2, create("--vcpus 3/2")),
        ("checking the floating IP", 2, create("--floating 2001:db8::1,network=public,gateway=far")),
        ("finding the volume", 3, create("--disk nosuch/vol")),
        ("defining", 1, create(&format!("--uuid {UUID}"))),
        ("the first port", 3, create("--nic nosuch").replacen("private,ip=10.1.0.5", "nosuch", 1)),
        ("the second port", 4, create("--nic private,ip=10.1.0.6,kind=afxdp")),
        ("the floating IP", 4, create("--floating 56.0.0.12,network=public,gateway=far")),
        (
            "the second floating IP",
            3,
            create(&format!(
                "{float},only=tcp/80 --floating 56.0.0.13,network=public,gateway=nosuch,only=tcp/81"
            )),
        ),
        ("the start", 1, create(&format!("{float} --memory 3T")).replacen("--memory 160M ", "", 1)),
        ("the kernel", 1, create(float).replacen(&image, "/nonexistent", 1)),
    ];
    for (step, code, command) in steps {
        let said = rvm.does(code, &command);
        assert!(said.contains("help:"), "{step}: {said}");
        assert!(!said.contains("left behind"), "{step}: {said}");
        assert_eq!(rvm.everything(), before, "after {step} failed: {said}");
    }
    // The last step: the guest runs, but its port does not come up, because that libvirt is in another namespace.
    let elsewhere = Libvirt::start(&lab, &lab.namespace("elsewhere"), "elsewhere");
    let said = rvm.switch.ivctl(&format!("{} --connect {}", create(float), elsewhere.uri()));
    assert_eq!(said.code, 7, "{}", said.stderr);
    assert!(said.stderr.contains("network namespace"), "{}", said.stderr);
    assert_eq!(rvm.everything(), before);
    assert_eq!(elsewhere.virsh("list --all --name").1.trim(), "", "nothing runs there");

    // libvirt or the switch does not answer: the error has a remedy, and nothing is attempted on the other side.
    let away = rvm.switch.ivctl(&format!("{} --connect qemu:///system?socket=/nonexistent", create("")));
    assert_eq!(away.code, 5, "{}", away.stderr);
    assert!(away.stderr.contains("libvirt-daemon-system"), "{}", away.stderr);
    let away = rvm.ivctl(&format!("{} --socket /nonexistent", create("")));
    assert_eq!(away.code, 5, "{}", away.stderr);
    assert_eq!(rvm.everything(), before);
    rvm.does(0, &create("--no-start"));
    assert_eq!(rvm.ivctl("guest delete g1 --socket /nonexistent").code, 5);
    assert_eq!(rvm.everything().2, ["g0", "g1"], "what cannot be deleted whole is not begun");
    rvm.does(0, "guest delete g1");
    assert_eq!(rvm.everything(), before);
}

/// N-11, N-12: volumes are made with a filesystem, copied, given to a running guest, grown while it uses them, and
/// taken away; a snapshot restores the guest's earlier state.
#[test]
fn n11_n12_volumes_and_snapshots() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let namespace = lab.namespace("rvm");
    let rvm = Rvm::start(&lab, &namespace, "rvm1", "");
    let pool = lab.dir().join("pool");
    rvm.does(0, &format!("volume pool add p --dir {}", pool.display()));
    rvm.does(0, &format!("volume pool add p --dir {} --may-exist", pool.display()));
    rvm.does(4, &format!("volume pool add p --dir {}", pool.display()));
    rvm.does(0, "volume create data --size 32M --pool p --format raw --fs ext4");
    rvm.does(0, "volume create disk --size 64M --pool p --fs ext4");
    rvm.does(4, "volume create disk --size 64M --pool p");
    rvm.does(3, "volume create disk --size 64M --pool nosuch");
    rvm.does(2, "volume create ../x --size 64M --pool p");
    assert_eq!(fs::read_dir(&pool).expect("the pool").count(), 2, "nothing but the volumes is left there");
    let magic = fs::read(pool.join("data")).expect("a raw volume")[1080..1082].to_vec();
    assert_eq!(magic, [0x53, 0xef], "an ext4 superblock");

    let shell = rvm.guest("g1", 5, "--disk p/disk");
    rvm.does(0, "volume attach data g1 --pool p");
    rvm.does(4, "volume attach data g1 --pool p");
    rvm.does(4, "volume delete data --pool p");
    rvm.does(4, "volume snapshot data before --pool p");
    let size = || shell.run("cat /sys/block/vdb/size").1.trim().parse::<u64>().unwrap_or(0) * 512;
    assert!(wait_until(BOOT, || size() == 32 << 20), "the guest sees the disk: {}", size());
    rvm.does(0, "volume resize data --size 48M --pool p");
    assert!(wait_until(BOOT, || size() == 48 << 20), "the guest sees it grow: {}", size());
    rvm.does(2, "volume resize data --size 1M --pool p");
    rvm.does(0, "volume detach data g1 --pool p");
    assert_ne!(shell.run("ls /sys/block/vdb").0, 0);
    rvm.does(0, "volume snapshot data before --pool p");
    assert!(rvm.does(0, "volume list --pool p").contains("data@before"));
    rvm.does(0, "volume delete data --pool p");
    rvm.does(3, "volume delete data --pool p");
    rvm.does(0, "volume delete data@before --pool p");

    shell.run("echo then > /tmp/state");
    rvm.does(0, "guest snapshot g1 s1");
    rvm.does(4, "guest snapshot g1 s1");
    shell.run("echo now > /tmp/state");
    rvm.does(0, "guest revert g1 s1 --timeout 20");
    assert_eq!(shell.run("cat /tmp/state").1, "then\n", "its memory is of then");
    assert!(rvm.does(0, "guest snapshot g1").contains("s1"));
    rvm.does(0, "guest snapshot g1 s1 --delete");
    rvm.does(3, "guest revert g1 s1");
    rvm.does(0, "guest delete g1 --force");
    rvm.does(0, "volume delete disk --pool p");
    rvm.does(0, "volume pool del p");
    rvm.does(3, "volume pool del p");
}

/// Pings from a namespace, twenty a second for ten seconds; gives the times of the answers, in seconds.
fn pinged(from: &Namespace, address: &'static str) -> std::thread::JoinHandle<Vec<f64>> {
    from.spawn(move || {
        let ping = Command::new("ping").args(["-D", "-i", "0.05", "-W", "1", "-c", "200", address]).output();
        answers(&String::from_utf8_lossy(&ping.expect("running ping").stdout))
    })
}

/// The times of the answers in `ping -D`'s output, in seconds.
pub fn answers(said: &str) -> Vec<f64> {
    let time = |line: &str| line.strip_prefix('[')?.split_once(']')?.0.parse().ok();
    said.lines().filter(|line| line.contains("bytes from")).filter_map(time).collect()
}

/// Seconds without an answer while a guest moves: QEMU's own downtime under software emulation is about 0.2 s.
const OUTAGE_MAX: f64 = 1.5;

/// The longest time without an answer, in seconds.
pub fn outage(times: &[f64]) -> f64 {
    times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
}

/// I-06, I-09, I-41, R-11, R-14, R-15: a guest that answers for a floating IP moves between two rVMs while a
/// neighbour pings it and talks to it by TCP, and an Internet host does so by the floating IP. No connection breaks,
/// no outage is longer than [`OUTAGE_MAX`]; its port, binding and floating IP are then on the new rVM alone.
#[test]
fn i41_r11_a_guest_moves_with_its_port() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let (a, b) = underlay_pair(&lab, V4);
    let h1 = host(&lab, &a, "h1", &["10.1.0.1/24"]);
    let config = |peer: &str, address: &str, more: &str| {
        format!(
            "[uplink]\ninterface = \"eth0\"\n[[peer]]\nname = \"{peer}\"\naddress = \"{address}\"\n{more}"
        )
    };
    let rvm_a = Rvm::start(&lab, &a, "rvma", &config("rvmb", "10.0.0.12", &port("h1", "private")));
    let rvm_b = Rvm::start(&lab, &b, "rvmb", &config("rvma", "10.0.0.11", ""));
    // The Internet is beyond the underlay; the provider translates 56.0.0.11 to an address of rVM a.
    let inet = lab.namespace("inet");
    lab.veth((&inet, "eth0"), (&b, "wan"));
    inet.ip("addr add 203.0.113.9/24 dev eth0");
    inet.ip("route add default via 203.0.113.1");
    b.ip("addr add 203.0.113.1/24 dev wan");
    b.sysctl("net/ipv4/ip_forward", "1");
    a.ip("addr add 10.0.0.99/16 dev eth0");
    a.ip("route add 203.0.113.0/24 via 10.0.0.12");
    let shell = rvm_a.guest("g1", 5, "--floating 56.0.0.11,network=public,gateway=rvma,reality=10.0.0.99");
    assert_eq!(shell.run("ip route add default via 10.1.0.254").0, 0);
    assert_eq!(shell.run("nc -ll -p 5000 -e /bin/busybox cat > /dev/null 2>&1 &").0, 0);
    h1.reaches("10.1.0.5");
    inet.reaches("10.0.0.99");

    // A guest that cannot be moved stays where it is, unchanged.
    let before = (rvm_a.everything(), rvm_b.everything());
    let to = format!("--to {} --to-socket {}", rvm_b.libvirt.uri(), rvm_b.switch.socket().display());
    rvm_a.does(
        2,
        &format!(
            "guest migrate g1 --to {} --to-socket {}",
            rvm_b.libvirt.uri(),
            rvm_a.switch.socket().display()
        ),
    );
    rvm_b.does(0, "port add g1-0 --network private --interface nosuch --no-wait");
    rvm_a.does(4, &format!("guest migrate g1 {to}"));
    rvm_b.does(0, "port del g1-0");
    rvm_a.does(1, &format!("guest migrate g1 {to} --migrate-uri tcp://10.0.0.77:1"));
    assert_eq!((rvm_a.everything(), rvm_b.everything()), before);

    let sessions = [(&h1, "10.1.0.5:5000"), (&inet, "10.0.0.99:5000")]
        .map(|(from, to)| Session::paced(from, to.parse().expect("an address"), Duration::from_millis(20)));
    let pingers = [pinged(&h1, "10.1.0.5"), pinged(&inet, "10.0.0.99")];
    rvm_a.does(0, &format!("guest migrate g1 {to} --migrate-uri tcp://10.0.0.12:49152 --timeout 20"));
    let [private, public] = pingers.map(|pinger| pinger.join().expect("ping"));
    for (network, times) in [("private", &private), ("floating", &public)] {
        let longest = outage(times);
        eprintln!(
            "migration, {network}: {} of 200 pings answered; no answer for {longest:.3} s",
            times.len()
        );
        assert!(times.len() >= 160 && longest <= OUTAGE_MAX, "{network}: {times:?}");
    }
    for session in sessions {
        session.assert_alive("after the guest has moved");
        eprintln!("migration: the longest that an answer by TCP took: {:?}", session.finish());
    }
    h1.reaches("10.1.0.5");
    inet.reaches("10.0.0.99");

    let (ports, floating, guests) = rvm_a.everything();
    assert!(!ports.contains(&"g1-0".to_owned()) && guests.is_empty(), "{ports:?} {guests:?}");
    assert_eq!(floating, ["56.0.0.11"], "its gateway keeps the mapping");
    assert_eq!(rvm_a.switch.json("fip list")[0]["inside"], serde_json::Value::Null);
    let (ports, floating, guests) = rvm_b.everything();
    assert!(ports.contains(&"g1-0".to_owned()));
    assert_eq!((floating, guests), (vec!["56.0.0.11".to_owned()], vec!["g1".to_owned()]));
    assert_eq!(rvm_b.switch.json("fip list")[0]["inside"]["address"], "10.1.0.5");
    rvm_b.does(0, "guest delete g1 --force");
    let (ports, floating, guests) = rvm_b.everything();
    assert!(!ports.contains(&"g1-0".to_owned()) && floating.is_empty() && guests.is_empty());
}

/// N-16, R-02: a domain made for Open vSwitch, and virsh, work unchanged with the front end in libvirt's path: start,
/// traffic with segmentation left to the switch, statistics, a VLAN changed while it runs, bandwidth, and the end.
#[test]
fn n16_r02_a_domain_made_for_open_vswitch() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let namespace = lab.namespace("rvm");
    let h1 = host(&lab, &namespace, "h1", &["10.1.0.1/24"]);
    let config = format!("{}{}", network("private", 100), port("h1", "private"));
    let switch = Switch::start(&lab, &namespace, &config);
    let path = lab.dir().join("path");
    fs::create_dir(&path).expect("a directory of ours");
    let program = system::binaries().join("ivswitch-ovs-vsctl");
    std::os::unix::fs::symlink(&program, path.join("ovs-vsctl")).expect("a link of ours");
    let socket = switch.socket().to_str().expect("UTF-8").to_owned();
    let ovs = |arguments: &[&str]| {
        let mut vsctl = namespace.command(&program);
        let output = vsctl.args(arguments).env("IVS_SOCKET", &socket).output().expect("running it");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    assert_eq!(ovs(&["--may-exist", "add-br", "private"]).0, Some(0));
    assert_eq!(ovs(&["add-br", "nosuch"]).0, Some(1));
    assert_eq!(ovs(&["frobnicate"]).0, Some(1));

    let paths = format!("{}:{}", path.display(), std::env::var("PATH").unwrap_or_default());
    let environment = [("PATH", paths.as_str()), ("IVS_SOCKET", socket.as_str())];
    let libvirt = Libvirt::start_with(&lab, &namespace, "ovs", &environment);
    let (agent, image) = (lab.dir().join("g1.agent"), guest_image());
    let xml = format!(
        "<domain type='qemu'><name>g1</name><memory unit='MiB'>160</memory><vcpu>1</vcpu>
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{0}/vmlinux</kernel><initrd>{0}/initramfs</initrd>
         <cmdline>console=ttyS0 quiet net.ifnames=0 no_timer_check tsc=reliable iv.ip=10.1.0.5/24</cmdline></os>
         <features><acpi/></features>
         <devices><interface type='bridge'><mac address='52:54:00:00:00:05'/><source bridge='private'/>
         <virtualport type='openvswitch'/><target dev='ovs-g1'/><model type='virtio'/></interface>
         <channel type='unix'><source mode='bind' path='{1}'/><target type='virtio' name='ivswitch.agent'/></channel>
         </devices></domain>",
        image.display(),
        agent.display()
    );
    let file = lab.dir().join("g1.xml");
    fs::write(&file, xml).expect("writing a domain");
    let virsh = |arguments: &str| {
        let (code, said) = libvirt.virsh(arguments);
        assert_eq!(code, 0, "virsh {arguments}: {said}");
        said
    };
    virsh(&format!("define {}", file.display()));
    virsh("start g1");
    switch.wait_live(&["ovs-g1"]);
    let row = switch.json("port show ovs-g1");
    assert_eq!((&row[0]["role"], &row[0]["network"]), (&"guest".into(), &"private".into()), "{row}");
    let shell = GuestShell::at(&agent);
    assert_eq!(shell.run("true").0, 0);
    h1.reaches("10.1.0.5");
    // TCP with the guest's offloads on: the bytes that h1 sends arrive unchanged, and those that it receives too.
    let sum = shell.run("md5sum < /bin/busybox").1;
    shell.run("nc -l -p 7 > /tmp/in < /bin/busybox &");
    assert!(wait_until(BOOT, || shell.run("netstat -ltn").1.contains(":7 ")), "the guest listens");
    let fetched = h1.run(move || {
        use std::io::Read as _;
        let mut stream = std::net::TcpStream::connect("10.1.0.5:7").expect("the guest listens");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("all of it");
        bytes
    });
    let copy = lab.dir().join("fetched");
    fs::write(&copy, &fetched).expect("writing a copy");
    let said =
        Command::new("md5sum").stdin(fs::File::open(&copy).expect("it")).output().expect("md5sum").stdout;
    assert_eq!(String::from_utf8_lossy(&said), sum, "{} bytes arrived", fetched.len());

    assert!(virsh("domifstat g1 ovs-g1").contains("rx_bytes"));
    let statistics = ["--if-exists", "--format=list", "--data=json", "--no-headings", "--columns=statistics"];
    let (code, said) = ovs(&[statistics.as_slice(), &["list", "Interface", "ovs-g1"]].concat());
    assert!(code == Some(0) && said.contains("[\"map\",[[\"collisions\",0],[\"rx_bytes\","), "{said}");
    assert_eq!(ovs(&["get", "Interface", "ovs-g1", "name"]), (Some(0), "ovs-g1\n".to_owned()));
    let (_, id) = ovs(&["get", "Interface", "ovs-g1", "external_ids:attached-mac"]);
    assert_eq!(id.trim(), "\"52:54:00:00:00:05\"");

    // Another VLAN while the guest runs cuts it off from h1; the former one connects it again.
    let vlan = |tag: &str| {
        let tag = if tag.is_empty() { String::new() } else { format!("<vlan><tag id='{tag}'/></vlan>") };
        // The running definition, with another VLAN only.
        let xml = virsh("dumpxml g1");
        let device =
            xml.split("<interface").nth(1).and_then(|x| x.split("</interface>").next()).expect("a NIC");
        let device = match (device.find("<vlan>"), device.find("</vlan>")) {
            (Some(from), Some(to)) => format!("{}{}", &device[..from], &device[to + "</vlan>".len()..]),
            _ => device.to_owned(),
        };
        let device = format!("<interface{device}{tag}</interface>");
        let file = lab.dir().join("nic.xml");
        fs::write(&file, device).expect("writing a device");
        virsh(&format!("update-device g1 {} --live", file.display()));
    };
    vlan("43");
    assert_eq!(h1.ping("-c2 -i0.2 -W1 10.1.0.5"), 0, "in another VLAN");
    vlan("");
    h1.reaches("10.1.0.5");
    virsh("domiftune g1 ovs-g1 --inbound 1000,2000,1000 --live");
    virsh("domiftune g1 ovs-g1 --inbound 0 --live");
    virsh("destroy g1");
    let gone = || !switch.json("port list").to_string().contains("ovs-g1");
    assert!(wait_until(BOOT, gone), "its port goes with it");
    let kept = fs::read_dir(switch.socket().with_extension("ovs")).map_or(0, Iterator::count);
    assert_eq!(kept, 0, "nothing is kept of it");
    assert_eq!(ovs(&["del-br", "private"]).0, Some(0));
    assert!(!namespace.has_link("private"));
    switch.counters_at_rest();
}
