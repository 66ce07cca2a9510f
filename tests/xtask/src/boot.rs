//! Tests the unit under a real systemd: a Debian boots in a container (`systemd-nspawn`), in a network namespace of
//! its own, and the package goes through its life there. Frames pass between two doors all the time, so the loss at a
//! reload, a restart, a crash or an upgrade is counted. Then the examples of a deployment bring the switch up
//! unchanged, and each time a purge must leave nothing behind.
//!
//! Commands run in the container through `nsenter` on its first process, so it needs no service that listens.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{as_root, find, workspace};

/// The namespace of the container, and those that the doors' far ends are moved to.
const MACHINE: &str = "ivs-boot";
const ENDS: [&str; 2] = ["ivs-boot-a", "ivs-boot-b"];

const UNIT: &str = "ivswitchd";
/// The highest rating that `systemd-analyze security` may give the unit, from 0 (all locked) to 10. Most of the rest
/// is inherent in a switch: network administration, packet sockets, BPF.
const EXPOSURE_MAX: f64 = 3.5;

const CONFIGURATION: &str = r#"
name = "rvm1"
[uplink]
interface = "eth0"
[[network]]
name = "private"
vni = 100
[[port]]
name = "eth1"
network = "private"
kind = "afxdp"
[[port]]
name = "eth2"
network = "private"
kind = "afxdp"
"#;

/// Configuration that makes the rVM's own address a floating IP's reality address.
const FLOATING: &str = r#"
[[network]]
name = "public"
vni = 200
gateway = ["10.2.0.1"]
[[floating]]
ip = "56.0.0.11"
network = "public"
gateway = "rvm1"
reality = "10.0.0.11"
"#;

/// Boots `root`, which has systemd, and goes through the package's life there.
///
/// # Errors
/// Also when the test cannot run here, so that a skipped test never counts as passed.
pub fn test(root: &Path, package: &Path, examples: bool) -> Result<()> {
    ensure!(
        find("systemd-nspawn").is_some(),
        "the unit cannot be tried under systemd: there is no systemd-nspawn; apt-get install systemd-container"
    );
    let _cloud = Cloud::new()?;
    let booted =
        Booted::new(root).context("the unit cannot be tried under systemd: it does not boot here")?;
    run(as_root(Path::new("cp"))?.arg(package).arg(root.join("ivswitch.deb")))?;
    booted.life(root)?;
    let booted = booted.closed(root)?;
    if examples {
        booted.ansible(root)?;
        booted.cloud_init(root)?;
    }
    Ok(())
}

/// The network around the container: an uplink whose other end has no peer that answers, and a namespace for each
/// door.
struct Cloud;

impl Cloud {
    fn new() -> Result<Self> {
        let cloud = Self;
        cloud.remove();
        for name in [MACHINE].into_iter().chain(ENDS) {
            ip(&["netns", "add", name])?;
        }
        ip(&["-n", MACHINE, "link", "add", "eth0", "type", "veth", "peer", "name", "far"])?;
        for link in ["lo", "far", "eth0"] {
            ip(&["-n", MACHINE, "link", "set", link, "up"])?;
        }
        ip(&["-n", MACHINE, "address", "add", "10.0.0.11/24", "dev", "eth0"])?;
        ip(&["-n", MACHINE, "route", "add", "default", "via", "10.0.0.1"])?;
        Ok(cloud)
    }

    fn remove(&self) {
        for name in [MACHINE].into_iter().chain(ENDS) {
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A container whose first process is systemd.
struct Booted {
    nspawn: Child,
    leader: String,
}

impl Booted {
    fn new(root: &Path) -> Result<Self> {
        // On a machine with the old cgroup hierarchy, the container still has the new one, as systemd requires.
        let mut nspawn = as_root(Path::new("env"))?;
        nspawn.args(["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network"]);
        nspawn.args(["systemd-nspawn", "--quiet", "--boot"]);
        nspawn.args([
            "--keep-unit",
            "--register=no",
            "--machine",
            MACHINE,
            "--console=read-only",
            "--capability=all",
        ]);
        nspawn
            .arg("--system-call-filter=bpf perf_event_open @memlock")
            .arg("--rlimit=RLIMIT_MEMLOCK=infinity");
        nspawn.arg("--bind=/dev/net/tun").arg(format!("--network-namespace-path=/run/netns/{MACHINE}"));
        nspawn.arg("-D").arg(root).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut nspawn = nspawn.spawn().context("running systemd-nspawn")?;
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = nspawn.try_wait()? {
                let mut why = String::new();
                let _ =
                    std::io::Read::read_to_string(&mut nspawn.stderr.take().context("no pipe")?, &mut why);
                bail!("systemd-nspawn ended, {status}: {}", why.trim());
            }
            let leader = descendant_named("systemd", nspawn.id());
            if let Some(leader) = leader {
                let booted = Self { nspawn, leader };
                let mut state = String::new();
                while Instant::now() < until {
                    state = booted.inside("systemctl is-system-running").unwrap_or_default().0;
                    if ["running", "degraded"].contains(&state.trim()) {
                        return Ok(booted);
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                bail!("its systemd is not up after a minute: {state}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a command in the container; gives its output, and whether it succeeded.
    fn inside(&self, command: &str) -> Result<(String, bool)> {
        let mut nsenter = as_root(Path::new("nsenter"))?;
        nsenter.args(["--target", &self.leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        nsenter.args(["--root", "--wd"]);
        let output = nsenter
            .args(["env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "sh", "-c", command])
            .output()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Ok((text, output.status.success()))
    }

    fn done(&self, command: &str) -> Result<String> {
        let (text, success) = self.inside(command)?;
        if !success {
            let (log, _) = self.inside(&format!("journalctl -u {UNIT} --no-pager | tail -n 20"))?;
            bail!("{command}: {text}\n{log}");
        }
        Ok(text)
    }

    fn property(&self, name: &str) -> Result<String> {
        Ok(self.done(&format!("systemctl show {UNIT} --property {name} --value"))?.trim().to_owned())
    }

    fn number(&self, name: &str) -> Result<u64> {
        let value = self.property(name)?;
        value.parse().with_context(|| format!("{name} is {value:?}"))
    }

    /// Waits until the condition on the unit holds.
    fn until(&self, what: &str, mut yes: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        while !yes(self)? {
            ensure!(
                Instant::now() < end,
                "{what}: not after 30 s\n{}",
                self.inside(&format!("systemctl status --no-pager {UNIT}"))?.0
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Installs, reloads, restarts, crashes, hangs, upgrades and purges the package while frames pass.
    fn life(&self, root: &Path) -> Result<()> {
        let version = self.done("systemctl --version | head -n 1")?;
        let before = self.left()?;
        self.done("dpkg -i /ivswitch.deb")?;
        ensure!(self.property("ActiveState")? == "active", "installed, but not active");
        println!("ok  {}: installed, and active as Type={}", version.trim(), self.property("Type")?);

        fs_write(&root.join("etc/ivswitch/ivswitch.toml"), CONFIGURATION)?;
        let pid = self.number("MainPID")?;
        self.done(&format!("systemctl reload {UNIT} && ivctl --timeout 30 status"))?;
        ensure!(self.number("MainPID")? == pid, "a reload made another process");
        for (end, (door, address)) in
            ENDS.iter().zip([("eth1", "192.168.1.1/24"), ("eth2", "192.168.1.2/24")])
        {
            ip(&["-n", MACHINE, "link", "set", door, "netns", end])?;
            ip(&["-n", end, "address", "add", address, "dev", door])?;
            ip(&["-n", end, "link", "set", door, "up"])?;
        }
        let kept = self.number("NFileDescriptorStore")?;
        ensure!(
            kept >= 7,
            "systemd keeps {kept} descriptors: the memory, and a link and a queue of three ports are 7"
        );
        println!("ok  reloaded: two doors forward, systemd keeps {kept} descriptors");

        self.counted("systemctl reload", |own| own.done(&format!("systemctl reload {UNIT}")).map(drop))?;
        self.counted("dpkg -i (an upgrade)", |own| own.done("dpkg -i /ivswitch.deb").map(drop))?;
        ensure!(self.number("MainPID")? == pid, "an upgrade or a reload made another process");
        self.counted("systemctl restart", |own| own.done(&format!("systemctl restart {UNIT}")).map(drop))?;
        let pid = self.number("MainPID")?;
        self.counted("kill -9", |own| {
            own.done(&format!("kill -9 {pid}"))?;
            own.again_than(pid)
        })?;
        ensure!(self.number("NFileDescriptorStore")? == kept, "other descriptors are kept than before");

        // A short watchdog, so that the test of a hang is short. The daemon feeds it, and it acts when the daemon
        // hangs.
        self.done(&format!("mkdir -p /run/systemd/system/{UNIT}.service.d"))?;
        fs_write_inside(
            self,
            &format!("/run/systemd/system/{UNIT}.service.d/soon.conf"),
            "[Service]\nWatchdogSec=2s\n",
        )?;
        self.done(&format!("systemctl daemon-reload && systemctl restart {UNIT}"))?;
        let pid = self.number("MainPID")?;
        let fed = self.number("WatchdogTimestampMonotonic")?;
        self.until("three seconds of a fed watchdog", |own| {
            Ok(own.number("WatchdogTimestampMonotonic")? > fed + 3_000_000)
        })?;
        ensure!(self.number("MainPID")? == pid, "the watchdog ended a daemon that was well");
        self.done(&format!("kill -STOP {pid}"))?;
        self.again_than(pid)?;
        println!("ok  watchdog: fed for 3 s; a daemon that hung was started anew");

        let said = self.inside(&format!("systemd-analyze security --no-pager {UNIT} | tail -n 1"))?.0;
        let level = said
            .split("service:")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        let level = level.with_context(|| format!("systemd-analyze security says {said:?}"))?;
        ensure!(level <= EXPOSURE_MAX, "exposure {level}, more than {EXPOSURE_MAX}");
        println!("ok  systemd-analyze security: {level}");

        self.done(&format!("rm -r /run/systemd/system/{UNIT}.service.d && dpkg --purge ivswitch"))?;
        self.nothing_but(&before)
    }

    /// The reality address of a floating IP is closed to the kernel while the daemon is stopped, after the firewall's
    /// own service was restarted or reloaded, and after a boot at which the daemon does not start. A purge opens it.
    fn closed(self, root: &Path) -> Result<Self> {
        const LIST: &str = "nft list table inet ivswitch";
        let before = self.left()?;
        self.done("dpkg -i /ivswitch.deb")?;
        fs_write(&root.join("etc/ivswitch/ivswitch.toml"), &[CONFIGURATION, FLOATING].concat())?;
        self.done(&format!("systemctl reload {UNIT}"))?;
        let is_closed = |own: &Self, when: &str| -> Result<()> {
            own.until(when, |own| Ok(own.inside(LIST)?.0.contains("10.0.0.11 : goto")))
        };
        is_closed(&self, "the table after a reload")?;
        self.done(&format!("systemctl stop {UNIT}"))?;
        is_closed(&self, "the table of a stopped daemon")?;
        for action in ["start", "restart", "reload"] {
            self.done(&format!("systemctl {action} nftables"))?;
            is_closed(&self, "the table after the firewall's own service was touched")?;
        }
        self.done(&format!("systemctl disable nftables {UNIT}"))?;
        drop(self);
        run(as_root(Path::new("ip"))?.args(["netns", "exec", MACHINE, "nft", "flush", "ruleset"]))?;
        let booted = Self::new(root)?;
        ensure!(booted.property("ActiveState")? == "inactive", "the daemon was to stay away");
        is_closed(&booted, "the table after a boot without the daemon")?;
        let order = booted.done("systemctl show ivswitch-closed --property Before --property ActiveState")?;
        ensure!(order.contains("network-pre.target") && order.contains("ActiveState=active"), "{order}");
        booted.done("dpkg --purge ivswitch")?;
        ensure!(!booted.inside(LIST)?.1, "a purge left the table");
        println!(
            "ok  closed to the kernel: stopped, firewall restarted, booted without the daemon; opened by a purge"
        );
        booted.nothing_but(&before)?;
        Ok(booted)
    }

    /// Waits until a process other than `pid` is ready.
    fn again_than(&self, pid: u64) -> Result<()> {
        self.until("started again", |own| {
            Ok(own.number("MainPID")? != pid && own.property("ActiveState")? == "active")
        })
    }

    /// Pings between the doors during the event; every ping must be answered.
    fn counted(&self, what: &str, event: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let mut ping = as_root(Path::new("ip"))?;
        ping.args([
            "netns",
            "exec",
            ENDS[0],
            "ping",
            "-q",
            "-i",
            "0.002",
            "-c",
            "1000",
            "-W",
            "2",
            "192.168.1.2",
        ]);
        let ping = ping.stdout(Stdio::piped()).spawn()?;
        std::thread::sleep(Duration::from_millis(300)); // some before, and some after
        event(self)?;
        let said = String::from_utf8_lossy(&ping.wait_with_output()?.stdout).into_owned();
        ensure!(said.contains("1000 packets transmitted, 1000 received"), "{what}: {said}");
        let longest = said.split("rtt ").nth(1).and_then(|times| times.split('/').nth(5)).unwrap_or("?");
        println!("ok  {what}: none of 1000 pings lost, the longest took {longest} ms");
        Ok(())
    }

    /// The things that a purge has to remove and that exist, one a line.
    fn left(&self) -> Result<String> {
        self.done(
            "find /etc /usr /var/lib/ivswitch /run/ivswitch /run/systemd/system /var/lib/dpkg/info -xdev 2>/dev/null \
             | grep -v -e __pycache__ -e /etc/group- -e /etc/gshadow- -e /etc/cloud -e /etc/apt | sort; \
             getent group | sort; ls /sys/class/net; systemctl list-units --all --plain --no-legend 'ivswitch*'",
        )
    }

    fn nothing_but(&self, before: &str) -> Result<()> {
        self.nothing_of(before, |_| true)
    }

    fn nothing_of(&self, before: &str, is_ours: impl Fn(&str) -> bool) -> Result<()> {
        let before: Vec<&str> = before.lines().collect();
        let after = self.left()?;
        let left: Vec<&str> = after.lines().filter(|line| !before.contains(line) && is_ours(line)).collect();
        ensure!(left.is_empty(), "left after a purge: {}", left.join(", "));
        println!("ok  purged: no file, group, unit, interface or process is left");
        Ok(())
    }

    /// Runs the Ansible example as its reader would, on this machine.
    fn ansible(&self, root: &Path) -> Result<()> {
        ensure!(
            self.inside("command -v ansible-playbook")?.1,
            "Ansible was not installed, so its example cannot be tried"
        );
        let before = self.left()?;
        fs_write(&root.join("root/ansible.yml"), &example("ansible.yml")?)?;
        // This machine is one of two rVMs.
        let inventory = "[rvms]\nrvm1 ansible_connection=local\n\
                         rvm2 ansible_default_ipv4=\"{'address': '10.0.0.12', 'interface': 'eth0'}\"\n";
        fs_write(&root.join("root/inventory"), inventory)?;
        let play = "cd /root && mkdir -p /etc/ivswitch && ansible-playbook -i inventory --limit rvm1 ansible.yml -e ivswitch_deb=/ivswitch.deb";
        self.done(play)?;
        self.forwards()?;
        let peers = self.done("ivctl -j peer list")?;
        ensure!(
            peers.contains("\"rvm2\"") && peers.contains("10.0.0.12") && !peers.contains("\"rvm1\""),
            "the other rVM of the inventory is the peer, and nobody else: {peers}"
        );
        let again = self.done(play)?;
        ensure!(again.contains("changed=0"), "the second time is not without change: {again}");
        println!("ok  Ansible: forwards; a second run changes nothing");
        self.done("dpkg --purge ivswitch && rm -rf ~root/.ansible")?;
        self.nothing_but(&before)
    }

    /// Has cloud-init run its example; only the place that the package is fetched from differs.
    fn cloud_init(&self, root: &Path) -> Result<()> {
        ensure!(
            self.inside("command -v cloud-init")?.1,
            "cloud-init was not installed, so its example cannot be tried"
        );
        let before = self.left()?;
        let said = example("cloud-init.yaml")?;
        let here = said.replace("https://packages.example/ivswitch_amd64.deb", "file:///ivswitch.deb");
        ensure!(said != here, "the example fetches the package from elsewhere");
        let seed = root.join("var/lib/cloud/seed/nocloud");
        run(as_root(Path::new("mkdir"))?.arg("-p").arg(&seed))?;
        fs_write(&seed.join("user-data"), &here)?;
        fs_write(&seed.join("meta-data"), "instance-id: rvm1\nlocal-hostname: rvm1\n")?;
        fs_write(
            &root.join("etc/cloud/cloud.cfg.d/99-boot.cfg"),
            "network: {config: disabled}\ndatasource_list: [NoCloud]\n",
        )?;
        self.done("cloud-init init --local && cloud-init init && cloud-init modules --mode config && cloud-init modules --mode final")
            .with_context(|| self.inside("tail -n 40 /var/log/cloud-init-output.log /var/log/cloud-init.log").unwrap_or_default().0)?;
        self.forwards()?;
        println!("ok  cloud-init: forwards");
        self.done("dpkg --purge ivswitch && rm -f /var/tmp/ivswitch.deb /etc/cloud/cloud.cfg.d/99-boot.cfg")?;
        // It also makes users and keys of the machine, which are not the package's.
        let names = ["ivs", "ivctl", "ivbench", "eth"];
        self.nothing_of(&before, |line| names.iter().any(|name| line.contains(name)))
    }

    fn forwards(&self) -> Result<()> {
        let status = self.done(&format!("systemctl is-active {UNIT} && ivctl --timeout 30 -j status"))?;
        ensure!(self.done("ivctl port list")?.contains("live"), "no port is live: {status}");
        self.done("ip link show eth1")?;
        Ok(())
    }
}

impl Drop for Booted {
    /// Halts the container, and kills it if it does not end.
    fn drop(&mut self) {
        let _ = self.inside("systemctl halt --force --force");
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && matches!(self.nspawn.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Ok(mut kill) = as_root(Path::new("kill")) {
            let _ = kill.args(["-KILL", &self.leader]).stderr(Stdio::null()).status();
        }
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }
}

/// The first process with this name among the descendants of `of` (behind `sudo` or `env`).
fn descendant_named(name: &str, of: u32) -> Option<String> {
    let processes =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let stat = |pid: &str| -> Option<(String, u32)> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        Some((head.split_once('(')?.1.to_owned(), tail.split_whitespace().nth(1)?.parse().ok()?))
    };
    processes.filter(|pid| pid.parse::<u32>().is_ok()).find(|pid| {
        let Some((called, mut parent)) = stat(pid) else { return false };
        called == name && {
            while parent > 1 && parent != of {
                parent = stat(&parent.to_string()).map_or(0, |(_, parent)| parent);
            }
            parent == of
        }
    })
}

fn example(name: &str) -> Result<String> {
    let path = workspace().join("packaging/examples").join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(as_root(Path::new("ip"))?.args(arguments))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Writes a file that belongs to root.
fn fs_write(path: &Path, text: &str) -> Result<()> {
    let mut tee = as_root(Path::new("tee"))?;
    let mut tee = tee.arg(path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    std::io::Write::write_all(&mut tee.stdin.take().context("no pipe")?, text.as_bytes())?;
    ensure!(tee.wait()?.success(), "writing {}", path.display());
    Ok(())
}

/// Writes a file inside the container, for places where the container has a mount of its own.
fn fs_write_inside(booted: &Booted, path: &str, text: &str) -> Result<()> {
    booted.done(&format!("printf '%s' '{text}' > {path}")).map(drop)
}
