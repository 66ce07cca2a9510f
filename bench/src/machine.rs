//! The machine on which figures were measured. Without it they mean nothing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine and the state of the source.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The processor's name.
    pub cpu: String,
    /// Processors that the kernel sees.
    pub cpus: usize,
    /// Processors that share a core, as the kernel sees them; a hypervisor may hide it.
    pub siblings: String,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Whether the processor reports a hypervisor.
    pub hypervisor: bool,
    /// The kernel's release.
    pub kernel: String,
    /// The kernel's active mitigations.
    pub mitigations: BTreeMap<String, String>,
    /// The commit that was built.
    pub commit: String,
    /// Whether the tree had uncommitted changes.
    pub dirty: bool,
    /// The compiler.
    pub rustc: String,
    /// Versions of the peers.
    pub peers: BTreeMap<String, String>,
    /// Load average when the run began: above a few tenths, other programs were at work.
    pub load: String,
    /// The time of the run, UTC.
    pub when: String,
}

impl Facts {
    /// The facts of this machine, and of the tree at `source`.
    #[must_use]
    pub fn gather(source: &Path) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split(':').nth(1)).unwrap_or("unknown").trim().to_string()
        };
        let siblings = read("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list");
        let memory = read("/proc/meminfo");
        let memory =
            memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        let git = |arguments: &[&str]| said(Command::new("git").arg("-C").arg(source).args(arguments));
        let mut peers = BTreeMap::new();
        for (name, program, argument) in [
            ("Open vSwitch", "ovs-vswitchd", "--version"),
            ("iperf3", "iperf3", "--version"),
            ("valgrind", "valgrind", "--version"),
            ("QEMU", "qemu-system-x86_64", "--version"),
        ] {
            let version = said(Command::new(program).arg(argument));
            let line = version.lines().next().unwrap_or("not installed");
            peers.insert(name.to_string(), line.to_string());
        }
        Self {
            cpu: field("model name"),
            cpus: processors(),
            siblings: format!("cpu0 with {}", siblings.trim()),
            memory_mib: memory.unwrap_or(0) / 1024,
            hypervisor: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            mitigations: mitigations(),
            commit: git(&["rev-parse", "--short=12", "HEAD"]).trim().to_string(),
            // Files that a recorded run writes do not affect any measurement.
            dirty: !git(&[
                "status",
                "--porcelain",
                "--",
                ".",
                ":!bench/*.md",
                ":!bench/*.json",
                ":!bench/*.svg",
            ])
            .trim()
            .is_empty(),
            rustc: said(Command::new("rustc").arg("--version")).trim().to_string(),
            peers,
            load: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
            when: said(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])).trim().to_string(),
        }
    }

    /// Whether figures of the other machine may be compared with ours.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.cpu, self.cpus, &self.kernel) == (&other.cpu, other.cpus, &other.kernel)
    }

    /// The facts as a Markdown list.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let guest = if self.hypervisor { ", in a virtual machine" } else { "" };
        let dirty = if self.dirty { ", with uncommitted changes" } else { "" };
        let mitigations: Vec<_> = self.mitigations.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        let peers: Vec<_> = self.peers.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        for (name, value) in [
            ("Processor", format!("{}, {} of them{guest}; {}", self.cpu, self.cpus, self.siblings)),
            ("Memory", format!("{} MiB", self.memory_mib)),
            ("Kernel", self.kernel.clone()),
            ("Mitigations", mitigations.join("; ")),
            ("Source", format!("{}{dirty}; {}", self.commit, self.rustc)),
            ("Peers", peers.join("; ")),
            ("Run", format!("{}, load average before it {}", self.when, self.load)),
        ] {
            writeln!(text, "- **{name}**: {value}").ok();
        }
        text
    }
}

fn mitigations() -> BTreeMap<String, String> {
    let Ok(entries) = std::fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return BTreeMap::new();
    };
    let one = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let state = read(entry.path());
        let state = state.trim().strip_prefix("Mitigation: ")?.to_string();
        Some((entry.file_name().to_string_lossy().into_owned(), state))
    };
    entries.filter_map(one).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn said(command: &mut Command) -> String {
    command.output().map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default()
}

/// Processors of this machine, including those that this process may not use.
#[must_use]
pub fn processors() -> usize {
    read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count().max(1)
}

/// Pins this thread to a processor, or to the first one where the machine has no such processor.
pub fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(if cpu < processors() { cpu } else { 0 });
    // Where the kernel refuses, the figures scatter more, and the spread shows it.
    rustix::thread::sched_setaffinity(None, &set).ok();
}

/// Runs `work` in a thread on the second processor, which the generator does not use. The calling thread stays
/// unpinned.
pub fn pinned<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let bound = || {
        pin(1);
        work()
    };
    std::thread::scope(|scope| scope.spawn(bound).join().unwrap_or_else(|why| std::panic::resume_unwind(why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_this_machine() {
        let facts = Facts::gather(Path::new(env!("CARGO_MANIFEST_DIR")));
        assert!(facts.cpus > 0 && facts.memory_mib > 0 && !facts.kernel.is_empty(), "{facts:?}");
        assert!(facts.is_like(&facts.clone()));
        assert!(!facts.is_like(&Facts { kernel: "2.4.0".into(), ..facts.clone() }));
        assert!(facts.markdown().contains(&facts.kernel));
    }
}
