//! The namespaces of one scenario with one switch in them, which are removed when dropped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::process::{Limit, find, run, run_leaving};

/// The directories of the scripts, the tools and the running state.
#[derive(Debug)]
pub struct Lab {
    scripts: PathBuf,
    state: PathBuf,
    tools: PathBuf,
    /// The addressing plan from `env.sh`.
    plan: BTreeMap<String, String>,
}

/// Programs without which nothing can be measured, and the Debian packages that contain them.
const NEEDED: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("make", "make"),
    ("cc", "gcc"),
    ("clang", "clang"),
    ("/usr/include/bpf/bpf_helpers.h", "libbpf-dev"),
    ("/usr/include/xdp/xsk.h", "libxdp-dev"),
];

impl Lab {
    /// Builds the tools, and removes whatever a killed earlier run has left behind.
    ///
    /// # Errors
    /// When a program is not installed, or a tool does not build.
    pub fn new(scripts: &Path, state: &Path, limit: &Limit) -> Result<Self> {
        let missing: Vec<_> = NEEDED.iter().filter(|(p, _)| find(p).is_none()).map(|(_, p)| *p).collect();
        ensure!(missing.is_empty(), "missing on this machine: {}", missing.join(" "));
        let tools = state.join("tools");
        std::fs::create_dir_all(&tools).with_context(|| format!("making {}", tools.display()))?;
        let mut make = Command::new("make");
        make.arg("-s").arg("-C").arg(scripts.join("tools")).arg(format!("OUT={}", tools.display()));
        run(&mut make, Duration::from_secs(120), limit).context("building the generator and the counter")?;
        let mut lab = Self { scripts: scripts.into(), state: state.into(), tools, plan: BTreeMap::new() };
        let mut shell = Command::new("bash");
        shell.arg("-c").arg("set -a; . \"$0/env.sh\"; env").arg(scripts);
        let said = run(lab.told(&mut shell), Duration::from_secs(10), limit)?;
        lab.plan =
            said.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
        lab.topology(&["down"])?;
        Ok(lab)
    }

    /// Adds the directories to a command's environment.
    fn told<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let one = crate::machine::processors() == 1;
        command.env("STATE", &self.state).env("TOOLS", &self.tools);
        command.env("GEN_CPU", "0").env("SW_CPU", if one { "0" } else { "1" });
        for name in ["gen", "sink"] {
            let variable = format!("{}_BPF", name.to_uppercase());
            command.env(variable, self.tools.join(format!("{name}.bpf.o")));
        }
        command
    }

    fn topology(&self, arguments: &[&str]) -> Result<()> {
        let mut script = Command::new("bash");
        script.arg(self.scripts.join("topo.sh")).args(arguments);
        run_leaving(self.told(&mut script), &self.state.join("topo.log"), Duration::from_secs(30))
    }

    /// Builds a scenario and puts a switch into it.
    ///
    /// # Errors
    /// When either fails; all parts made by then are removed.
    pub fn up<'a>(
        &'a self,
        scenario: &'static str,
        script: &'static str,
        environment: &'static [(&'static str, &'static str)],
    ) -> Result<Up<'a>> {
        for file in ["modes", "sw.pids"] {
            std::fs::remove_file(self.state.join(file)).ok();
        }
        let up = Up { lab: self, scenario, script, environment };
        self.topology(&["up", scenario])?;
        up.peer("up")?;
        Ok(up)
    }
}

/// A scenario that is set up.
#[derive(Debug)]
pub struct Up<'a> {
    lab: &'a Lab,
    /// The scenario's name.
    pub scenario: &'static str,
    script: &'static str,
    environment: &'static [(&'static str, &'static str)],
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        if let Err(why) = self.peer("down") {
            eprintln!("   {why:#}");
        }
        if let Err(why) = self.lab.topology(&["down"]) {
            eprintln!("   {why:#}");
        }
    }
}

impl Up<'_> {
    fn peer(&self, verb: &str) -> Result<()> {
        let mut script = Command::new("bash");
        script.arg(self.lab.scripts.join(format!("peers.d/{}.sh", self.script))).arg(verb);
        script.arg(self.scenario).envs(self.environment.iter().copied());
        let log = self.lab.state.join(format!("peer-{verb}.log"));
        run_leaving(self.lab.told(&mut script), &log, Duration::from_secs(40)).map_err(|why| {
            anyhow!("{}", why.to_string().replace(&format!("{}/", self.lab.state.display()), ""))
        })
    }

    /// A value of the addressing plan.
    ///
    /// # Panics
    /// When `env.sh` has no such value.
    #[must_use]
    pub fn plan(&self, name: &str) -> &str {
        self.lab.plan.get(name).unwrap_or_else(|| panic!("env.sh has {name}"))
    }

    /// A command in the namespace of `node`, on the generator's processors or on any.
    #[must_use]
    pub fn inside(&self, node: &str, on_generator: bool, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}{node}", self.plan("NS"))]);
        let cpus = if on_generator { self.plan("GEN_CPU").to_string() } else { "0-1023".to_string() };
        command.args(["taskset", "-c", &cpus]).arg(program);
        self.lab.told(&mut command);
        command
    }

    /// The path of one of our own tools.
    #[must_use]
    pub fn tool(&self, name: &str) -> PathBuf {
        self.lab.tools.join(name)
    }

    /// The path of a file of the running state.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.lab.state.join(name)
    }

    /// Writes the switch's processes to a file for `meter`, each once.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn pids(&self) -> Result<PathBuf> {
        let listed = std::fs::read_to_string(self.file("sw.pids")).unwrap_or_default();
        let mut pids: Vec<_> = listed.split_whitespace().collect();
        pids.sort_unstable();
        pids.dedup();
        let file = self.file("sw.pids.once");
        std::fs::write(&file, pids.join("\n") + "\n")?;
        Ok(file)
    }

    /// Whether the switch's ports lack a NAPI context, which frames made in the kernel need.
    #[must_use]
    pub fn without_live_frames(&self) -> bool {
        std::fs::read_to_string(self.file("modes")).is_ok_and(|modes| modes.trim() == "pkt")
    }

    /// Client node, server node, and the server's address as the client knows it; `None` in `vtep`.
    #[must_use]
    pub fn ends(&self) -> Option<(&'static str, &'static str, &str)> {
        match self.scenario {
            "l2" => Some(("h1", "h3", self.plan("IP_h3"))),
            "vxlan" | "vxlan-plain" => Some(("h1", "h2", self.plan("IP_h2"))),
            "fip" => Some(("ext", "h2", self.plan("IP_r1"))),
            _ => None,
        }
    }

    /// Pings until an answer arrives.
    ///
    /// # Errors
    /// When none arrived within some seconds.
    pub fn reach(&self, limit: &Limit) -> Result<()> {
        let Some((client, _, address)) = self.ends() else { return Ok(()) };
        let end = Instant::now() + Duration::from_secs(12);
        loop {
            let mut ping = self.inside(client, false, "ping");
            if run(ping.args(["-c1", "-W1", "-q", address]), Duration::from_secs(5), limit).is_ok() {
                return Ok(());
            }
            if limit.interrupted() {
                bail!("interrupted");
            }
            if Instant::now() > end {
                bail!("no answer from {address} through the switch: {}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.file("ivs-r1/log")).unwrap_or_default();
        if self.script == "ivswitch" { log.lines().last().unwrap_or("").to_string() } else { String::new() }
    }
}
