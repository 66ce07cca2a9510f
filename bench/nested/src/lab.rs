//! Network namespaces of this run, and the switch in them: ours, the kernel's, Open vSwitch.
//!
//! `r1` and `r2` stand for the rVMs that host guests at L0; between them is a veth, their underlay.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::process::{Background, Limit, find, run};

use crate::guest::{Nic, mac};

/// Open vSwitch's database schema, where its package puts it; in a guest it is at the same path.
pub const OVS_SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// The overlay's identifier.
const VNI: u32 = 100;

/// The switch under measurement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Peer {
    /// Ours, with guests in shared memory.
    VhostUser,
    /// Ours, with guests by TAPs.
    Tap,
    /// Linux bridge and kernel vxlan, with guests by TAPs.
    Bridge,
    /// Open vSwitch in user space, with guests by TAPs.
    Ovs,
}

impl Peer {
    /// All switches, ours first.
    pub const ALL: [Self; 4] = [Self::VhostUser, Self::Tap, Self::Bridge, Self::Ovs];

    /// The name in keys.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VhostUser => "vhost-user",
            Self::Tap => "tap",
            Self::Bridge => "bridge",
            Self::Ovs => "ovs",
        }
    }

    /// The name in keys of pairs of levels. Some ends there are not guests, so our name does not tell how guests are
    /// attached.
    #[must_use]
    pub const fn between_levels(self) -> &'static str {
        match self {
            Self::VhostUser => "ivswitch",
            other => other.name(),
        }
    }

    /// A description for the report.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::VhostUser => "the Inception Switch, guests by shared memory (`kind = \"vhostuser\"`)",
            Self::Tap => "the Inception Switch, guests by TAPs that QEMU opens (`kind = \"packet\"`)",
            Self::Bridge => "a Linux bridge, tunnels by kernel vxlan, guests by TAPs with offloads",
            Self::Ovs => {
                "Open vSwitch's userspace datapath, guests by TAPs; its ports of that kind take finished frames \
                 only, so the guests' offloads are off"
            }
        }
    }
}

/// Namespaces, which are removed when dropped together with all processes in them.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    names: Vec<String>,
    /// The directory for files of running programs.
    pub dir: PathBuf,
    binaries: PathBuf,
}

fn bound() -> Duration {
    Duration::from_secs(20)
}

impl Lab {
    /// A lab without namespaces.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(dir: &Path, binaries: &Path) -> Result<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let prefix = format!("ivn{}-{number}-", std::process::id());
        // A short name: the path of a Unix socket has room for about a hundred bytes.
        let dir = dir.join(number.to_string());
        std::fs::create_dir_all(&dir)?;
        Ok(Self { prefix, names: Vec::new(), dir, binaries: binaries.into() })
    }

    /// The name for `ip netns`.
    #[must_use]
    pub fn name(&self, short: &str) -> String {
        format!("{}{short}", self.prefix)
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn add(&mut self, short: &str, limit: &Limit) -> Result<()> {
        let name = self.name(short);
        ip(&format!("netns add {name}"), limit)?;
        self.names.push(name.clone());
        ip(&format!("-n {name} link set lo up"), limit)
    }

    /// Runs `ip` in a namespace.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn ip(&self, short: &str, words: &str, limit: &Limit) -> Result<()> {
        ip(&format!("-n {} {words}", self.name(short)), limit)
    }

    /// A program in a namespace.
    #[must_use]
    pub fn command(&self, short: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(short)]).arg(program);
        command
    }

    /// Runs `ivctl` for the switch of this name.
    ///
    /// # Errors
    /// When it fails.
    pub fn ivctl(&self, short: &str, words: &[&str], limit: &Limit) -> Result<String> {
        let mut command = Command::new(self.binaries.join("ivctl"));
        command.arg("--socket").arg(self.dir.join(format!("{short}.sock"))).args(words);
        run(&mut command, bound(), limit)
    }

    /// Makes a veth between two namespaces, up.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn veth(&self, (ns_a, a): (&str, &str), (ns_b, b): (&str, &str), limit: &Limit) -> Result<()> {
        let far = self.name(ns_b);
        self.ip(ns_a, &format!("link add {a} type veth peer name {b} netns {far}"), limit)?;
        self.ip(ns_a, &format!("link set {a} up"), limit)?;
        self.ip(ns_b, &format!("link set {b} up"), limit)
    }

    /// Makes the namespaces of one or two rVMs with their underlay.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn rvms(&mut self, two: bool, limit: &Limit) -> Result<()> {
        self.add("r1", limit)?;
        if two {
            self.add("r2", limit)?;
            self.veth(("r1", "under"), ("r2", "under"), limit)?;
            self.ip("r1", "addr add 10.0.0.11/24 dev under", limit)?;
            self.ip("r2", "addr add 10.0.0.12/24 dev under", limit)?;
        }
        Ok(())
    }

    /// The NIC of the guest `name` on an rVM; a TAP is made here.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn nic(&self, peer: Peer, rvm: &str, name: &str, limit: &Limit) -> Result<Nic> {
        let tap = format!("tap-{name}");
        let make = |kind: &str| {
            self.ip(rvm, format!("tuntap add dev {tap} mode tap {kind}").trim_end(), limit)?;
            self.ip(rvm, &format!("link set {tap} up"), limit)
        };
        Ok(match peer {
            Peer::VhostUser => Nic::VhostUser(self.dir.join(format!("{name}.vhost"))),
            Peer::Tap | Peer::Bridge => {
                make("vnet_hdr")?;
                Nic::Tap(tap)
            }
            Peer::Ovs => {
                make("")?;
                Nic::PlainTap(tap)
            }
        })
    }

    /// Starts the switch of one rVM for these guests, whose NICs already exist, with a tunnel to the other rVM if
    /// there is one.
    ///
    /// # Errors
    /// When the switch does not start.
    pub fn switch(
        &self,
        peer: Peer,
        rvm: &str,
        guests: &[&str],
        two: bool,
        limit: &Limit,
    ) -> Result<Running> {
        let (own, far) = if rvm == "r1" { ("10.0.0.11", "10.0.0.12") } else { ("10.0.0.12", "10.0.0.11") };
        match peer {
            Peer::VhostUser | Peer::Tap => {
                let mut text = format!("name = \"{rvm}\"\n");
                if two {
                    text +=
                        &format!("[uplink]\ninterface = \"under\"\naddress = \"{own}\"\nkind = \"packet\"\n");
                    text += &format!("[[peer]]\nname = \"far\"\naddress = \"{far}\"\n");
                }
                text += &format!("[[network]]\nname = \"private\"\nvni = {VNI}\n");
                for name in guests {
                    text += &format!(
                        "[[port]]\nname = \"{name}\"\nnetwork = \"private\"\nrole = \"guest\"\nmac = [\"{}\"]\nbum_pps = 0\n",
                        mac(name)
                    );
                    // Without a tunnel, the MTU need not leave room for one.
                    text += if two { "" } else { "mtu = 1500\n" };
                    text += &if peer == Peer::VhostUser {
                        let socket = self.dir.join(format!("{name}.vhost"));
                        format!("kind = \"vhostuser\"\nsocket = \"{}\"\n", socket.display())
                    } else {
                        format!("kind = \"packet\"\ninterface = \"tap-{name}\"\n")
                    };
                }
                self.ivswitchd(rvm, &text, limit)
            }
            Peer::Bridge => {
                self.ip(rvm, "link add br0 type bridge mcast_snooping 0", limit)?;
                self.ip(rvm, "link set br0 up", limit)?;
                for name in guests {
                    self.ip(rvm, &format!("link set tap-{name} master br0"), limit)?;
                }
                if two {
                    let words = format!(
                        "link add vx type vxlan id {VNI} local {own} remote {far} dstport 4789 dev under"
                    );
                    self.ip(rvm, &words, limit)?;
                    self.ip(rvm, "link set vx mtu 1450 master br0", limit)?;
                    self.ip(rvm, "link set vx up", limit)?;
                }
                Ok(Running { programs: Vec::new(), pids: Vec::new() })
            }
            Peer::Ovs => self.ovs(rvm, guests, two.then_some((own, far)), limit),
        }
    }

    /// Gives the rVM itself an address in its guests' network.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn door(&self, peer: Peer, rvm: &str, address: &str, limit: &Limit) -> Result<()> {
        let interface = match peer {
            Peer::VhostUser | Peer::Tap => {
                let words =
                    ["port", "add", "d1", "--network", "private", "--bum-pps", "0", "--address", address];
                return self.ivctl(rvm, &words, limit).map(drop);
            }
            Peer::Bridge => "br0",
            Peer::Ovs => "br-int",
        };
        self.ip(rvm, &format!("link set {interface} mtu 1450 up"), limit)?;
        self.ip(rvm, &format!("addr add {address} dev {interface}"), limit)
    }

    /// Starts our switch with this configuration.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn ivswitchd(&self, rvm: &str, text: &str, limit: &Limit) -> Result<Running> {
        let (config, socket) = (self.dir.join(format!("{rvm}.toml")), self.dir.join(format!("{rvm}.sock")));
        std::fs::write(&config, text)?;
        let mut command = self.command(rvm, self.binaries.join("ivswitchd"));
        command.arg("--config").arg(&config).arg("--socket").arg(&socket).arg("--state").arg(&self.dir);
        let mut program = Background::start(&mut command)?;
        let end = Instant::now() + bound();
        while let Err(why) = self.ivctl(rvm, &["status"], limit) {
            if let Some(said) = program.ended() {
                bail!("ivswitchd ended: {said}");
            }
            ensure!(Instant::now() < end, "ivswitchd does not answer: {why:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let pids = vec![program.id()];
        Ok(Running { programs: vec![program], pids })
    }

    fn ovs(&self, rvm: &str, guests: &[&str], ends: Option<(&str, &str)>, limit: &Limit) -> Result<Running> {
        let daemon = [Path::new("/usr/lib/openvswitch-switch/ovs-vswitchd").to_owned()]
            .into_iter()
            .find(|path| path.is_file())
            .or_else(|| find("ovs-vswitchd"))
            .context("missing: Open vSwitch (Debian: openvswitch-switch)")?;
        let dir = self.dir.join(format!("ovs-{rvm}"));
        std::fs::create_dir_all(&dir)?;
        let environment =
            ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"].map(|name| (name, dir.clone()));
        let said = |command: &mut Command| run(command.envs(environment.clone()), bound(), limit);
        let database = dir.join("conf.db");
        std::fs::remove_file(&database).ok();
        said(Command::new("ovsdb-tool").arg("create").arg(&database).arg(OVS_SCHEMA))?;
        let socket = format!("unix:{}/db.sock", dir.display());
        let mut server = Command::new("ovsdb-server");
        server.arg(&database).arg(format!("--remote=p{socket}")).arg("-vconsole:off").arg("--log-file");
        let mut programs = vec![Background::start(server.envs(environment.clone()))?];
        let vs = |words: &str| {
            let mut command = Command::new("ovs-vsctl");
            said(command.arg(format!("--db={socket}")).arg("--timeout=15").args(words.split(' ')))
        };
        let end = Instant::now() + bound();
        while !dir.join("db.sock").exists() {
            ensure!(Instant::now() < end, "ovsdb-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        vs("--no-wait init")?;
        let mut vswitchd = self.command(rvm, daemon);
        vswitchd.arg(&socket).arg("-vconsole:off").arg("--log-file").envs(environment.clone());
        programs.push(Background::start(&mut vswitchd)?);
        // These ports only read frames along with the kernel, which must not answer them too.
        let deaf = |interface: &str| {
            let rules = format!(
                "add table netdev ovs; add chain netdev ovs {} {{ type filter hook ingress device {interface} priority 0; policy drop; }}",
                interface.replace('-', "_")
            );
            run(self.command(rvm, "nft").arg(rules), bound(), limit)
        };
        let bridge = |name: &str| vs(&format!("add-br {name} -- set bridge {name} datapath_type=netdev"));
        bridge("br-int")?;
        for name in guests {
            deaf(&format!("tap-{name}"))?;
            vs(&format!("add-port br-int tap-{name}"))?;
        }
        if let Some((own, far)) = ends {
            bridge("br-phy")?;
            run(
                self.command(rvm, "ethtool").args(["-K", "under", "gro", "off", "tx", "off"]),
                bound(),
                limit,
            )?;
            deaf("under")?;
            vs("add-port br-phy under")?;
            self.ip(rvm, "addr flush dev under", limit)?;
            self.ip(rvm, "link set br-phy up", limit)?;
            self.ip(rvm, &format!("addr add {own}/24 dev br-phy"), limit)?;
            vs(&format!(
                "add-port br-int vx -- set interface vx type=vxlan options:remote_ip={far} options:key={VNI} options:dst_port=4789"
            ))?;
        }
        let pids = programs.iter().map(Background::id).collect();
        Ok(Running { programs, pids })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in self.names.drain(..) {
            // Only this run uses the namespaces, so all processes in them belong to it.
            if let Ok(output) = Command::new("ip").args(["netns", "pids", &name]).output() {
                for pid in String::from_utf8_lossy(&output.stdout).split_whitespace() {
                    if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                    }
                }
            }
            Command::new("ip").args(["netns", "delete", &name]).output().ok();
        }
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

fn ip(words: &str, limit: &Limit) -> Result<()> {
    run(Command::new("ip").args(words.split(' ')), bound(), limit)
        .map(drop)
        .with_context(|| format!("ip {words}"))
}

/// A running switch, which ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    #[expect(dead_code, reason = "what drops them ends them")]
    programs: Vec<Background>,
    /// The switch's processes; the kernel's switch has none.
    pub pids: Vec<u32>,
}
