//! One end of a measurement, at any level of nesting: running commands in it, and its counters.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bench::process::{Background, Limit, run};
use serde_json::Value;

use crate::guest::Guest;
use crate::probe::agent::packed;

/// The place where commands run.
#[derive(Clone, Debug)]
pub enum Host {
    /// A namespace of this machine.
    Namespace {
        /// The name for `ip netns`.
        name: String,
        /// The path of this program.
        path: PathBuf,
    },
    /// A guest.
    Guest(Arc<Guest>),
    /// A guest of a guest.
    Inner {
        /// The guest that it runs in.
        outer: Arc<Guest>,
        /// The path of its agent's socket there.
        socket: String,
    },
}

/// The counters of a host since it started.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Counts {
    /// Ticks for which its processors were busy; at L0, those of the whole machine.
    pub busy: u64,
    /// Ticks in all.
    pub ticks: u64,
    /// Kicks that its NIC's driver gave.
    pub kicks: u64,
    /// Interrupts from its NIC.
    pub calls: u64,
    /// Packets that its NIC received and sent.
    pub packets: u64,
}

// Uses only the shell and one program, because starting a program takes seconds in a guest of an emulated guest.
const COUNTS: &str = "put() { while read -r line; do echo \"$line\"; done < $1; }; \
                      read -r line < /proc/stat; echo \"$line\"; echo ==; ethtool -S eth0; echo ==; \
                      put /proc/interrupts; echo ==; cd -P /sys/class/net/eth0; \
                      put statistics/rx_packets; put statistics/tx_packets; echo ==; cd -P device; echo ${PWD##*/}";

impl Host {
    /// Runs a shell command on the host.
    ///
    /// # Errors
    /// When the command failed, or took longer than `bound`.
    pub fn run(&self, command: &str, bound: Duration, limit: &Limit) -> Result<String> {
        match self {
            Self::Namespace { name, path } => {
                let mut shell = Command::new("ip");
                shell.args(["netns", "exec", name, "sh", "-c", command]);
                let old = std::env::var("PATH").unwrap_or_default();
                shell.env("PATH", format!("{}:{old}:/usr/sbin:/sbin", path.display()));
                run(&mut shell, bound, limit)
            }
            Self::Guest(guest) => guest.run(command, bound),
            Self::Inner { outer, socket } => {
                let seconds = bound.as_secs_f64();
                let command = format!("ivbench probe agent {socket} {} {seconds}", packed(command));
                outer.run(&command, bound + Duration::from_secs(5))
            }
        }
    }

    /// Runs one of our probes on the host; gives its figures.
    ///
    /// # Errors
    /// As [`Host::run`], or when the probe measured nothing.
    pub fn probe(&self, words: &str, bound: Duration, limit: &Limit) -> Result<Value> {
        let said = self.run(&format!("ivbench probe {words}"), bound, limit)?;
        let line = said.lines().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("{words}: {}", said.trim()))?;
        Ok(serde_json::from_str(line)?)
    }

    /// Starts one of our servers on the host. In a guest it lives as long as the guest, in a namespace as long as the
    /// returned value.
    ///
    /// # Errors
    /// When the server cannot be started.
    pub fn start(&self, words: &str, limit: &Limit) -> Result<Option<Background>> {
        if let Self::Namespace { name, path } = self {
            let mut server = Command::new("ip");
            server
                .args(["netns", "exec", name])
                .arg(path.join("ivbench"))
                .arg("probe")
                .args(words.split(' '));
            return Background::start(&mut server).map(Some);
        }
        let command = format!("(ivbench probe {words} > /dev/null 2>&1 &)");
        self.run(&command, Duration::from_secs(60), limit).map(|_| None)
    }

    /// Reads the host's counters.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn counts(&self, limit: &Limit) -> Result<Counts> {
        match self {
            Self::Namespace { .. } => Ok(parse(&std::fs::read_to_string("/proc/stat")?)),
            Self::Guest(_) => Ok(parse(&self.run(COUNTS, Duration::from_secs(60), limit)?)),
            // A long time, because earlier commands may still be running there.
            Self::Inner { .. } => Ok(parse(&self.run(COUNTS, Duration::from_secs(180), limit)?)),
        }
    }
}

fn numbers(line: &str) -> Vec<u64> {
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Parses the counters that the command above prints; a missing counter is zero.
fn parse(text: &str) -> Counts {
    let parts: Vec<&str> = text.split("==\n").collect();
    let part = |n: usize| parts.get(n).copied().unwrap_or_default();
    // user nice system idle iowait irq softirq steal guest guest_nice
    let cpu = numbers(part(0).lines().next().unwrap_or_default());
    let ticks: u64 = cpu.iter().take(8).sum();
    let idle = cpu.get(3).unwrap_or(&0) + cpu.get(4).unwrap_or(&0);
    let kicks = part(1)
        .lines()
        .filter(|line| line.contains("kicks"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    let device = part(4).trim();
    let calls = part(2)
        .lines()
        .filter(|line| {
            line.split_whitespace().any(|word| {
                let word = word.trim_end_matches(',');
                !device.is_empty() && (word == device || word.starts_with(&format!("{device}-")))
            })
        })
        .map(|line| {
            let counts = line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok());
            counts.sum::<u64>()
        })
        .sum();
    let packets = part(3).lines().filter_map(|line| line.trim().parse::<u64>().ok()).sum();
    Counts { busy: ticks - idle, ticks, kicks, calls, packets }
}

impl Counts {
    /// The difference to earlier counters.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let less = |now: u64, then: u64| now.saturating_sub(then);
        Self {
            busy: less(self.busy, before.busy),
            ticks: less(self.ticks, before.ticks),
            kicks: less(self.kicks, before.kicks),
            calls: less(self.calls, before.calls),
            packets: less(self.packets, before.packets),
        }
    }

    /// The busy share of its processors' time.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.ticks == 0 { 0.0 } else { self.busy as f64 / self.ticks as f64 }
    }
}

/// Ticks (of 10 ms) that these processes of this machine have used.
#[must_use]
pub fn ticks_of(pids: &[u32]) -> u64 {
    let one = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit(") ").next().unwrap_or_default();
        let fields: Vec<&str> = after.split(' ').collect();
        let at = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        at(11) + at(12)
    };
    pids.iter().map(one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "cpu  10 0 20 60 10 0 0 0 0 0\n==\nNIC statistics:\n     rx_queue_0_kicks: 4\n     \
tx0_kicks: 38\n     tx0_packets: 7\n==\n           CPU0       CPU1\n  21:  100  11  IO-APIC  21-fasteoi   virtio1\n  22:  5  \
0  IO-APIC  22-fasteoi   virtio0\n  25:  9 1  PCI-MSIX-0000:00:05.0 1-edge virtio1-input.0\n  26:  9 1 PCI-MSIX virtio10-input.0\n==\n1000\n500\n==\nvirtio1\n";

    #[test]
    fn counters_are_read_as_the_kernel_prints_them() {
        let counts = parse(SAID);
        assert_eq!(counts, Counts { busy: 30, ticks: 100, kicks: 42, calls: 121, packets: 1500 });
        assert_eq!(counts.since(&counts), Counts::default());
        assert!((counts.share() - 0.3).abs() < 1e-9);
        assert_eq!(parse(""), Counts::default());
    }
}
