//! `ivctl demo`: Figure 4 of the Inception paper on one machine, in network namespaces, with two real `ivswitchd`.
//! Outside those namespaces it changes two things only: it adds their names, and a state directory.
//!
//! ```text
//!   inet 203.0.113.9 ── net (provider: 56.0.0.11 <-> 10.0.0.11) ──┬── rvm1 eth0 10.0.0.11   eth1 -> br1 -> ivm1 192.168.1.3
//!                                                                 └── rvm2 eth0 10.0.0.12   eth1 -> br1 -> ivm2 192.168.1.2
//!                                                                          eth2 10.2.0.12 + 56.0.0.11/32
//! ```
//!
//! The offload settings of every interface stay as the kernel chose them.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// The verbs of `ivctl demo`.
#[derive(Debug, clap::Subcommand)]
pub enum Demo {
    /// Build the demo cloud, or find it running, and show that it works
    Up,
    /// Stop and remove everything that `up` started
    Down,
    /// Show which parts are running
    Status,
    /// Open a shell (or run a command) on a node: inet, net, rvm1, rvm2, ivm1 or ivm2
    Shell {
        /// The node
        node: String,
        /// Run this command instead of a shell
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Run `ivctl trace` at rvm1 or rvm2, and follow the frame through the tunnel to the other
    Trace {
        /// rvm1 or rvm2
        rvm: String,
        /// The arguments of `ivctl trace`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The web server that `up` starts in ivm2 and inet
    #[command(hide = true)]
    Serve {
        /// Address and port to listen on
        address: SocketAddr,
    },
    /// Fetch the page of `serve`, and check every byte
    #[command(hide = true)]
    Fetch {
        /// Address and port of the server
        address: SocketAddr,
        /// Fail unless the server saw this client address
        #[arg(long)]
        seen_as: Option<IpAddr>,
    },
}

/// A failure: the exit code, and a text with the cause and the remedy.
struct Failure(u8, String);

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(1, text)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(1, error.to_string())
    }
}

/// Prints a line. A reader that stops (`| head`) does not stop the command.
macro_rules! say {
    ($($words:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

mod shell;
mod web;

use shell::{
    ip, namespace, namespace_exists, need_root, nft, on, packets, quiet, start_time, step, sysctl, veth,
};

type Outcome<T = ()> = Result<T, Failure>;

/// Runs a verb and returns the exit code of `ivctl`. `json` is only for `trace`, the only verb with JSON output.
#[must_use]
pub fn run(demo: &Demo, json: bool) -> u8 {
    let outcome = match demo {
        Demo::Up => need_root().and_then(|()| Cloud::new()).and_then(|cloud| cloud.up()),
        Demo::Down => need_root().and_then(|()| Cloud::new()).and_then(|cloud| cloud.down()),
        Demo::Status => Cloud::new().and_then(|cloud| cloud.status()),
        Demo::Shell { node, command } => {
            need_root().and_then(|()| Cloud::new()).and_then(|cloud| cloud.shell(node, command))
        }
        Demo::Trace { rvm, arguments } => Cloud::new().and_then(|cloud| cloud.trace(rvm, arguments, json)),
        Demo::Serve { address } => web::serve(*address),
        Demo::Fetch { address, seen_as } => web::fetch(*address, *seen_as),
    };
    match outcome {
        Ok(()) => 0,
        Err(Failure(code, text)) => {
            eprintln!("error: {text}");
            code
        }
    }
}

const PREFIX: &str = "ivdemo-";
const NODES: [&str; 6] = ["net", "inet", "rvm1", "rvm2", "ivm1", "ivm2"];
const RVMS: [&str; 2] = ["rvm1", "rvm2"];
const FLOATING: &str = "56.0.0.11";
const INTERNET_HOST: &str = "203.0.113.9";
/// How long each part may take until it works.
const PATIENCE: Duration = Duration::from_secs(20);

const RVM1: &str = r#"name = "rvm1"
[uplink]
interface = "eth0"
address = "10.0.0.11"
[[network]]
name = "private"
vni = 100
[[network]]
name = "public"
vni = 200
gateway = ["10.2.0.1"]
[[port]]
name = "eth1"
network = "private"
[[port]]
name = "eth2"
network = "public"
address = ["10.2.0.11/16"]
[[peer]]
name = "rvm2"
address = "10.0.0.12"
# The provider gave rVM1 the public address 56.0.0.11 and translates it to 10.0.0.11. The
# public network decides which rVM answers for it: today a NAT rule of the CMS on rVM2.
[[floating]]
ip = "56.0.0.11"
network = "public"
gateway = "rvm1"
reality = "10.0.0.11"
"#;

const RVM2: &str = r#"name = "rvm2"
[uplink]
interface = "eth0"
address = "10.0.0.12"
[[network]]
name = "private"
vni = 100
[[network]]
name = "public"
vni = 200
gateway = ["10.2.0.1"]
[[port]]
name = "eth1"
network = "private"
[[port]]
name = "eth2"
network = "public"
address = ["10.2.0.12/16"]
[[peer]]
name = "rvm1"
address = "10.0.0.11"
[[floating]]
ip = "56.0.0.11"
network = "public"
gateway = "rvm1"
"#;

/// The provider's NAT, which the user of a reality cloud can neither see nor change.
const PROVIDER_NAT: &str = "table ip provider {
  chain pre  { type nat hook prerouting priority dstnat; ip daddr 56.0.0.11 dnat to 10.0.0.11; }
  chain post { type nat hook postrouting priority srcnat;
    oifname wan ip saddr 10.0.0.11 snat to 56.0.0.11;
    oifname wan ip saddr 10.0.0.0/16 masquerade; }
}
";

/// The rules that a stock CMS (Nova network) writes for a floating IP of an instance.
const CMS_NAT: &str = "table ip cms {
  chain pre  { type nat hook prerouting priority dstnat; ip daddr 56.0.0.11 dnat to 192.168.1.2; }
  chain out  { type nat hook output priority -100; ip daddr 56.0.0.11 dnat to 192.168.1.2; }
  chain post { type nat hook postrouting priority srcnat; oifname eth2 ip saddr 192.168.1.2 snat to 56.0.0.11; }
}
";

/// A place where the kernel counts packets: node, interface, direction, and the packets that one sees there.
const PATH_IN: [(&str, &str, Direction, &str); 6] = [
    ("inet", "eth0", Direction::Sent, "Internet host 203.0.113.9 -> 56.0.0.11"),
    ("net", "r1", Direction::Sent, "provider NAT: to 10.0.0.11, rVM1's only address"),
    ("net", "r2", Direction::Sent, "rvm1 ivswitchd: to 56.0.0.11 again, VXLAN 200, 10.0.0.11 -> 10.0.0.12"),
    ("rvm2", "eth2", Direction::Received, "rvm2 ivswitchd: out of the tunnel, into the CMS's eth2"),
    ("rvm2", "br1", Direction::Sent, "CMS: DNAT to 192.168.1.2, bridge br1"),
    ("ivm2", "eth0", Direction::Received, "iVM2 192.168.1.2"),
];
const PATH_OUT: [(&str, &str, Direction, &str); 5] = [
    ("ivm2", "eth0", Direction::Sent, "iVM2 192.168.1.2 -> 203.0.113.9"),
    ("rvm2", "eth2", Direction::Sent, "CMS: SNAT to 56.0.0.11, next hop is the virtual gateway 10.2.0.1"),
    ("net", "r2", Direction::Received, "rvm2 ivswitchd: routed by source to rvm1, VXLAN 200"),
    ("net", "wan", Direction::Sent, "rvm1 ivswitchd: SNAT to 10.0.0.11; provider NAT: to 56.0.0.11"),
    ("inet", "eth0", Direction::Received, "Internet host sees 56.0.0.11"),
];

#[derive(Clone, Copy, Debug)]
enum Direction {
    Sent,
    Received,
}

/// The demo cloud: the place of its files, and the programs that it runs.
struct Cloud {
    /// Process ids, configurations, sockets and logs.
    state: PathBuf,
    ivctl: PathBuf,
    ivswitchd: PathBuf,
}

impl Cloud {
    fn new() -> Outcome<Self> {
        let ivctl = std::env::current_exe()?;
        let beside = ivctl.with_file_name("ivswitchd");
        let ivswitchd = if beside.exists() { beside } else { PathBuf::from("ivswitchd") };
        let state = match std::env::var_os("IVS_DEMO_DIR") {
            Some(dir) => PathBuf::from(dir),
            None if Path::new("/run").is_dir() => PathBuf::from("/run/ivswitch-demo"),
            None => std::env::temp_dir().join("ivswitch-demo"),
        };
        Ok(Self { state, ivctl, ivswitchd })
    }

    // ---- the verbs ----------------------------------------------------------------------------

    fn up(&self) -> Outcome {
        if self.standing() {
            say!(" ok  the demo cloud is running already: checking it again");
        } else {
            self.remove()?;
            fs::create_dir_all(&self.state)?;
            step(
                "reality cloud: rVM1 10.0.0.11, rVM2 10.0.0.12, provider NAT 56.0.0.11 <-> 10.0.0.11",
                || self.reality(),
            )?;
            step(
                "rvm1, rvm2: ivswitchd up, VXLAN 10.0.0.11 <-> 10.0.0.12, networks private(100) public(200)",
                || self.switches(),
            )?;
            step("stock CMS: Linux bridge br1 on eth1, iVMs, 56.0.0.11 on eth2, DNAT and SNAT", || {
                self.cms()
            })?;
            fs::write(self.state.join("built"), "")?;
        }
        let mut failed = Vec::new();
        for (name, check) in self.checks() {
            if let Err(Failure(_, why)) = step(name, check) {
                say!("     {why}");
                failed.push(name);
            }
        }
        say!();
        self.print_hints();
        if failed.is_empty() {
            return Ok(());
        }
        self.print_logs();
        Err(format!(
            "{} of the demo's checks failed; the cloud keeps running for inspection, `ivctl demo down` \
             removes it",
            failed.len()
        )
        .into())
    }

    fn down(&self) -> Outcome {
        let found = self.remove()?;
        say!("{}", if found { " ok  the demo cloud is gone" } else { " ok  there was no demo cloud" });
        Ok(())
    }

    fn status(&self) -> Outcome {
        for node in NODES {
            say!("{node:<5} {}", if namespace_exists(node) { "standing" } else { "absent" });
        }
        for name in self.recorded() {
            let state = if self.running(&name).is_some() { "running" } else { "not running" };
            say!("{name:<12} {state}, log {}", self.file(&name, "log").display());
        }
        if self.standing() {
            return Ok(());
        }
        Err(Failure(3, "the demo cloud is not (completely) running; `ivctl demo up` builds it".into()))
    }

    fn shell(&self, node: &str, command: &[String]) -> Outcome {
        if !NODES.contains(&node) {
            return Err(Failure(3, format!("no node \"{node}\"; there are {}", NODES.join(", "))));
        }
        if !namespace_exists(node) {
            return Err(Failure(3, format!("node \"{node}\" is not running; `ivctl demo up` builds it")));
        }
        let mut process = Command::new("ip");
        process.args(["netns", "exec", &namespace(node)]);
        if command.is_empty() {
            process.arg(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
            eprintln!("on {node}; leave with exit");
        } else {
            process.args(command);
        }
        if RVMS.contains(&node) {
            process.env("IVS_SOCKET", self.file(node, "sock"));
        }
        Err(process.env("PS1", format!("{node}# ")).exec().into())
    }

    fn trace(&self, rvm: &str, arguments: &[String], json: bool) -> Outcome {
        if !RVMS.contains(&rvm) || !namespace_exists(rvm) {
            let text = format!(
                "\"{rvm}\" is not running; give {}, and run `ivctl demo up` before",
                RVMS.join(" or ")
            );
            return Err(Failure(3, text));
        }
        let mut ivctl = Command::new(std::env::current_exe()?);
        ivctl.arg("--socket").arg(self.file(rvm, "sock")).arg("trace").args(arguments);
        if json {
            ivctl.arg("--json");
        }
        for other in RVMS {
            ivctl.arg("--peer").arg(format!("{other}={}", self.file(other, "sock").display()));
        }
        Err(ivctl.exec().into())
    }

    // ---- building -----------------------------------------------------------------------------

    /// Creates the namespaces, the provider's network and its NAT, and the Internet host.
    fn reality(&self) -> Outcome {
        for node in NODES {
            ip(&format!("netns add {}", namespace(node)))?;
            on(node, "link set lo up")?;
        }
        on("net", "link add lan type bridge")?;
        on("net", "link set lan up")?;
        on("net", "addr add 10.0.0.1/16 dev lan")?;
        for (rvm, port, address) in [("rvm1", "r1", "10.0.0.11/16"), ("rvm2", "r2", "10.0.0.12/16")] {
            veth(rvm, "eth0", "net", port)?;
            on("net", &format!("link set {port} master lan"))?;
            on(rvm, &format!("addr add {address} dev eth0"))?;
            on(rvm, "route add default via 10.0.0.1")?;
        }
        veth("inet", "eth0", "net", "wan")?;
        on("net", "addr add 203.0.113.1/24 dev wan")?;
        on("inet", &format!("addr add {INTERNET_HOST}/24 dev eth0"))?;
        on("inet", "route add 56.0.0.0/24 via 203.0.113.1")?;
        sysctl("net", "net/ipv4/ip_forward", "1")?;
        nft("net", PROVIDER_NAT)
    }

    /// Starts one `ivswitchd` on each rVM; each creates its doors.
    fn switches(&self) -> Outcome {
        for (rvm, config) in [("rvm1", RVM1), ("rvm2", RVM2)] {
            fs::write(self.file(rvm, "toml"), config)?;
            let mut daemon = self.inside(rvm, &self.ivswitchd);
            daemon.arg("--config").arg(self.file(rvm, "toml"));
            daemon.arg("--socket").arg(self.file(rvm, "sock"));
            fs::create_dir_all(self.file(rvm, "state"))?;
            daemon.arg("--state").arg(self.file(rvm, "state"));
            self.start(rvm, daemon)?;
        }
        for rvm in RVMS {
            self.wait(&format!("ivswitchd on {rvm} to answer"), Some(rvm), || {
                let mut ivctl = Command::new(&self.ivctl);
                quiet(ivctl.arg("--socket").arg(self.file(rvm, "sock")).args(["config", "show"]))
            })?;
            for door in ["eth1", "eth2"] {
                self.wait(&format!("the door {door} on {rvm}"), Some(rvm), || {
                    on(rvm, &format!("link show {door}")).is_ok()
                })?;
            }
        }
        Ok(())
    }

    /// Does the work of Nova and its network controller on an rVM. These commands know nothing about the switch.
    fn cms(&self) -> Outcome {
        for (rvm, ivm, address) in [("rvm1", "ivm1", "192.168.1.3/24"), ("rvm2", "ivm2", "192.168.1.2/24")] {
            on(rvm, "link add br1 type bridge")?;
            on(rvm, "link set eth1 master br1")?;
            on(rvm, "link set br1 up")?;
            veth(ivm, "eth0", rvm, "vnet0")?;
            on(rvm, "link set vnet0 master br1")?;
            // The tunnel takes 50 bytes; a CMS would announce the MTU to its guests by DHCP.
            on(ivm, "link set eth0 mtu 1450")?;
            on(rvm, "link set vnet0 mtu 1450")?;
            on(ivm, &format!("addr add {address} dev eth0"))?;
            on(ivm, "route add default via 192.168.1.1")?;
        }
        on("rvm2", "addr add 192.168.1.1/24 dev br1")?;
        on("rvm2", &format!("addr add {FLOATING}/32 dev eth2"))?;
        sysctl("rvm2", "net/ipv4/ip_forward", "1")?;
        // Packets from the Internet arrive on eth2 while the default route leaves by eth0.
        sysctl("rvm2", "net/ipv4/conf/eth2/rp_filter", "2")?;
        nft("rvm2", CMS_NAT)?;
        // The source route. The kernel routes before SNAT, so the instance's own address needs the rule too.
        for source in [FLOATING, "192.168.1.2"] {
            on("rvm2", &format!("rule add from {source} lookup 100"))?;
        }
        on("rvm2", "route add default via 10.2.0.1 dev eth2 table 100")?;
        on("rvm2", "route add 192.168.1.0/24 dev br1 table 100")?;
        for (node, address) in [("ivm2", "192.168.1.2:80"), ("inet", "203.0.113.9:80")] {
            let mut server = self.inside(node, &self.ivctl);
            server.args(["demo", "serve", address]);
            self.start(&format!("{node}-web"), server)?;
        }
        Ok(())
    }

    // ---- showing that it works ----------------------------------------------------------------

    #[allow(clippy::type_complexity, reason = "one list of names and closures, used once")]
    fn checks(&self) -> Vec<(&'static str, Box<dyn Fn() -> Outcome + '_>)> {
        vec![
            (
                "private network: iVM1 192.168.1.3 pings iVM2 192.168.1.2 across rVMs",
                Box::new(|| self.ping("ivm1", "192.168.1.2")),
            ),
            ("floating IP: the Internet host pings 56.0.0.11", Box::new(|| self.ping("inet", FLOATING))),
            ("floating IP: every hop saw those packets", Box::new(|| self.path())),
            (
                "floating IP: the Internet host fetches 60 kB from http://56.0.0.11/, every byte checked",
                Box::new(|| self.web("inet", "56.0.0.11:80", None)),
            ),
            (
                "outbound: iVM2 fetches 60 kB from the Internet host, which sees 56.0.0.11",
                Box::new(|| self.web("ivm2", "203.0.113.9:80", Some(FLOATING))),
            ),
            (
                "private network: iVM1 fetches 60 kB from iVM2 through TCP",
                Box::new(|| self.web("ivm1", "192.168.1.2:80", None)),
            ),
        ]
    }

    /// Pings. The first packet may wait for ARP and for routes; after it none may be lost.
    fn ping(&self, from: &str, to: &str) -> Outcome {
        self.wait(&format!("a first echo from {to}"), None, || {
            quiet(self.inside(from, "ping").args(["-c1", "-W1", to]))
        })?;
        let output = self.inside(from, "ping").args(["-c5", "-i0.05", "-W1", to]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains(" 5 received") {
            return Ok(());
        }
        Err(format!(
            "ping from {from} to {to}: {}",
            text.lines().rev().find(|l| l.contains("received")).unwrap_or("no answer")
        )
        .into())
    }

    fn web(&self, from: &str, server: &str, seen_as: Option<&str>) -> Outcome {
        let mut client = self.inside(from, &self.ivctl);
        client.args(["demo", "fetch", server]);
        if let Some(address) = seen_as {
            client.args(["--seen-as", address]);
        }
        let output = client.output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.trim().trim_start_matches("error: ").to_string().into())
    }

    /// Sends ten pings and prints the kernel's packet counts at each hop, in both directions.
    fn path(&self) -> Outcome {
        const PINGS: u64 = 10;
        let hops = || PATH_IN.iter().chain(&PATH_OUT);
        let before = hops().map(|h| packets(h.0, h.1, h.2)).collect::<Outcome<Vec<_>>>()?;
        let count = PINGS.to_string();
        quiet(self.inside("inet", "ping").args(["-c", &count, "-i0.02", "-W1", FLOATING]));
        let mut missing = String::new();
        let mut drawing = String::new();
        for (index, (hop, before)) in hops().zip(before).enumerate() {
            let seen = packets(hop.0, hop.1, hop.2)? - before;
            let heading = match index {
                0 => "     path in,  packets counted by the kernel at each hop:\n",
                i if i == PATH_IN.len() => "     path out:\n",
                _ => "",
            };
            let _ = writeln!(drawing, "{heading}       {seen:>3}  {:<5} {:<5} {}", hop.0, hop.1, hop.3);
            if seen < PINGS {
                let _ = write!(missing, "{} {} saw {seen} of {PINGS} packets; ", hop.0, hop.1);
            }
        }
        say!("{}", drawing.trim_end_matches('\n'));
        if missing.is_empty() { Ok(()) } else { Err(missing.trim_end_matches("; ").to_string().into()) }
    }

    fn print_hints(&self) {
        let ivctl = self.ivctl.display();
        say!("Try, as root (the cloud runs until `{ivctl} demo down`):");
        for rvm in RVMS {
            say!("  {ivctl} --socket {} status", self.file(rvm, "sock").display());
        }
        say!("  {ivctl} --socket {} fdb", self.file("rvm2", "sock").display());
        say!("  {ivctl} --socket {} drops", self.file("rvm1", "sock").display());
        say!("  {ivctl} demo shell inet ping {FLOATING}");
        say!("  {ivctl} demo shell ivm2");
    }

    fn print_logs(&self) {
        for name in self.recorded() {
            say!("--- the end of {}", self.file(&name, "log").display());
            say!("{}", self.log_tail(&name));
        }
    }

    // ---- processes and files ------------------------------------------------------------------

    fn file(&self, name: &str, extension: &str) -> PathBuf {
        self.state.join(format!("{name}.{extension}"))
    }

    fn inside(&self, node: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace(node)]).arg(program);
        command
    }

    /// Starts a process that outlives this one, and records its identity.
    fn start(&self, name: &str, mut command: Command) -> Outcome {
        let log = fs::File::create(self.file(name, "log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let pid = command.spawn().map_err(|e| format!("starting {name}: {e}"))?.id();
        let born =
            start_time(pid).ok_or_else(|| format!("{name} ended immediately:\n{}", self.log_tail(name)))?;
        fs::write(self.file(name, "pid"), format!("{pid} {born}\n"))?;
        Ok(())
    }

    /// The names of the recorded processes.
    fn recorded(&self) -> Vec<String> {
        let Ok(files) = fs::read_dir(&self.state) else { return Vec::new() };
        let mut names: Vec<String> = files
            .filter_map(|file| file.ok()?.file_name().to_str()?.strip_suffix(".pid").map(str::to_string))
            .collect();
        names.sort();
        names
    }

    /// The process that was recorded under this name, if it still runs.
    fn running(&self, name: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.file(name, "pid")).ok()?;
        let (pid, born) = text.trim().split_once(' ')?;
        let pid: u32 = pid.parse().ok()?;
        (start_time(pid)? == born).then(|| Pid::from_raw(pid.cast_signed()))?
    }

    fn standing(&self) -> bool {
        let recorded = self.recorded();
        self.state.join("built").exists()
            && NODES.iter().all(|node| namespace_exists(node))
            && RVMS.iter().all(|rvm| recorded.iter().any(|name| name == rvm))
            && recorded.iter().all(|name| self.running(name).is_some())
    }

    /// Stops our processes, and removes our namespaces and files. Returns true if there was anything to remove.
    fn remove(&self) -> Outcome<bool> {
        let mut found = self.state.exists();
        for name in self.recorded() {
            let Some(pid) = self.running(&name) else { continue };
            let _ = rustix::process::kill_process(pid, Signal::TERM);
            if self.wait("it to end", None, || self.running(&name).is_none()).is_err() {
                say!("     {name} did not end within {} s of SIGTERM: killed", PATIENCE.as_secs());
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        for node in NODES.iter().filter(|node| namespace_exists(node)) {
            ip(&format!("netns delete {}", namespace(node)))?;
            found = true;
        }
        match fs::remove_dir_all(&self.state) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(found),
        }
    }

    /// Polls until the condition holds. Gives up early when the process that it depends on has ended.
    fn wait(&self, what: &str, process: Option<&str>, so: impl Fn() -> bool) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        while !so() {
            if let Some(name) = process.filter(|name| self.running(name).is_none()) {
                return Err(format!("waiting for {what}: the process ended:\n{}", self.log_tail(name)).into());
            }
            if Instant::now() > deadline {
                return Err(format!("waiting for {what}: not within {} s", PATIENCE.as_secs()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn log_tail(&self, name: &str) -> String {
        let text = fs::read(self.file(name, "log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}
