//! The checks. Each one reports its result even when all is well, so that a report shows that the check ran.

use ctl::api::{PeerRow, PeerState, Problem, ProblemKind, SharerRow, Status};
use ctl::guest::Accel;
use ctl::guest::accel::{self, Judgement};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::{Finding, Level, Machine};

/// The oldest kernel with everything that the daemon needs for AF_XDP: bpf_link on interfaces came with it.
const KERNEL_MIN: (u64, u64) = (5, 9);
/// The oldest kernel on which frames larger than a page may reach AF_XDP (multi-buffer).
const KERNEL_FULL: (u64, u64) = (6, 6);

/// The locked memory for the frames of all ports.
const MEMLOCK_MIB: u64 = 64;

/// The checks that depend on the machine alone.
pub fn machine(m: &Machine, out: &mut Vec<Finding>) {
    out.push(kernel(m));
    out.push(af_xdp());
    out.push(match m.number("/proc/sys/net/core/bpf_jit_enable") {
        Some(0) => Finding::new(
            "bpf-jit",
            Level::Warn,
            "BPF programs are interpreted",
            "`sysctl -w net.core.bpf_jit_enable=1`, and in /etc/sysctl.d",
        ),
        Some(_) => Finding::ok("bpf-jit", "BPF programs are compiled"),
        None => Finding::new(
            "bpf-jit",
            Level::Note,
            "the kernel does not say whether BPF programs are compiled",
            "",
        ),
    });
    out.push(governor(m));
    out.push(clocksource(m));
    out.push(super::bridges::netfilter(m));
    let cpuinfo = m.text("/proc/cpuinfo").unwrap_or_default();
    let Judgement { accel, why, remedy } = accel::judge(accel::Machine {
        kvm: m.is_there("/dev/kvm"),
        pvm: m.is_there(accel::PVM),
        cpuinfo: &cpuinfo,
        arch: std::env::consts::ARCH,
    });
    out.push(Finding::new("kvm", if accel == Accel::Kvm { Level::Ok } else { Level::Note }, why, remedy));
}

fn kernel(m: &Machine) -> Finding {
    let release = m.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u64>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = format!("Linux {release}");
    if version < KERNEL_MIN {
        let remedy = format!("use Linux {}.{} or later", KERNEL_FULL.0, KERNEL_FULL.1);
        Finding::new("kernel", Level::Fail, format!("{found} is too old"), remedy)
    } else if version < KERNEL_FULL {
        let remedy = format!(
            "Linux {}.{} also takes frames larger than a page in native mode",
            KERNEL_FULL.0, KERNEL_FULL.1
        );
        Finding::new("kernel", Level::Note, found, remedy)
    } else {
        Finding::ok("kernel", found)
    }
}

fn af_xdp() -> Finding {
    /// From `linux/socket.h`.
    const AF_XDP: u16 = 44;
    match socket_with(AddressFamily::from_raw(AF_XDP), SocketType::RAW, SocketFlags::CLOEXEC, None) {
        Ok(_) => Finding::ok("af_xdp", "AF_XDP sockets can be opened"),
        Err(Errno::PERM | Errno::ACCESS) => Finding::new(
            "af_xdp",
            Level::Note,
            "only root may open AF_XDP sockets",
            "run `ivctl doctor` as root to see more",
        ),
        Err(e) => Finding::new(
            "af_xdp",
            Level::Fail,
            format!("no AF_XDP sockets: {e}"),
            "use a kernel with CONFIG_XDP_SOCKETS=y, or port kinds without XDP (tap, packet, udp)",
        ),
    }
}

fn governor(m: &Machine) -> Finding {
    let mut slow = Vec::new();
    let mut known = false;
    for cpu in 0..1024 {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        let Some(governor) = m.text(&path) else {
            if cpu == 0 {
                break;
            }
            continue;
        };
        known = true;
        if governor != "performance" {
            slow.push(governor);
        }
    }
    match (known, slow.first()) {
        (false, _) => Finding::ok("cpu-governor", "the hypervisor decides about the processor's speed"),
        (true, None) => Finding::ok("cpu-governor", "performance"),
        (true, Some(governor)) => Finding::new(
            "cpu-governor",
            Level::Warn,
            format!("{} of the cores run by the governor {governor}: round trips are longer", slow.len()),
            "`cpupower frequency-set -g performance`",
        ),
    }
}

fn clocksource(m: &Machine) -> Finding {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    match m.text(path).as_deref() {
        Some(slow @ ("hpet" | "acpi_pm" | "xen" | "refined-jiffies")) => Finding::new(
            "clocksource",
            Level::Warn,
            format!("{slow}: reading the time is a system call"),
            format!("if the processor's clock is stable: `echo tsc > {path}`"),
        ),
        Some(fine) => Finding::ok("clocksource", fine),
        None => Finding::new("clocksource", Level::Note, "the kernel does not name it", ""),
    }
}

/// The checks of the daemon's privileges and limits; without a daemon, those of the calling process.
pub fn process(m: &Machine, daemon: Option<u32>, out: &mut Vec<Finding>) {
    let (who, id) = match daemon {
        Some(pid) => ("the daemon", pid.to_string()),
        None => ("this shell", "self".to_owned()),
    };
    let status = m.text(&format!("/proc/{id}/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        out.push(Finding::new(
            "privileges",
            Level::Note,
            "the daemon's privileges cannot be seen",
            "run `ivctl doctor` as root",
        ));
        return;
    };
    let missing: Vec<&str> = [("NET_ADMIN", 12), ("NET_RAW", 13)]
        .into_iter()
        .filter_map(|(name, bit)| (effective >> bit & 1 == 0).then_some(name))
        .collect();
    // CAP_BPF, or CAP_SYS_ADMIN, which included it before Linux 5.8.
    let bpf = effective >> 39 & 1 == 1 || effective >> 21 & 1 == 1;
    let remedy = "run it as root, or give it CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF";
    out.push(match (missing.as_slice(), bpf) {
        ([], true) => Finding::ok("privileges", format!("{who} may open ports")),
        // A daemon that has opened its ports may have given up the privileges that it needed to open them.
        _ if daemon.is_some() => Finding::ok("privileges", format!("{who} runs with few privileges")),
        (missing, _) => {
            let missing = if bpf { missing.join(", ") } else { [missing, &["BPF"]].concat().join(", ") };
            Finding::new("privileges", Level::Note, format!("{who} lacks {missing}"), remedy)
        }
    });
    let locked = m.text(&format!("/proc/{id}/limits")).and_then(|limits| {
        let line = limits.lines().find(|line| line.starts_with("Max locked memory"))?.to_owned();
        line.split_whitespace().nth(3).map(str::to_owned)
    });
    let ipc_lock = effective >> 14 & 1 == 1;
    out.push(match locked.as_deref().map(str::parse::<u64>) {
        Some(Ok(bytes)) if bytes < MEMLOCK_MIB << 20 && !ipc_lock => Finding::new(
            "memlock",
            Level::Warn,
            format!("{who} may lock {} KiB of memory; frames need {MEMLOCK_MIB} MiB", bytes >> 10),
            "LimitMEMLOCK=infinity in the service, or `ulimit -l unlimited`",
        ),
        _ => Finding::ok("memlock", "enough memory can be locked"),
    });
}

/// The checks that depend on the configuration of the switch.
pub fn switch(m: &Machine, s: &Status, out: &mut Vec<Finding>) {
    for port in &s.ports {
        if port.state == "live" && port.mode.contains("generic") {
            let why = if port.reason.is_empty() { String::new() } else { format!(": {}", port.reason) };
            let remedy = "use a driver with native XDP, or as many receive queues as it asks for";
            out.push(Finding::new(
                "xdp-mode",
                Level::Warn,
                format!("port {} is in generic mode{why}", port.ifname),
                remedy,
            ));
        }
    }
    if !out.iter().any(|f| f.check == "xdp-mode") {
        out.push(Finding::ok("xdp-mode", "no port is in generic mode"));
    }
    reverse_path(m, s, out);
    mtu(s, out);
    tunnel_port(s, out);
    network_manager(m, s, out);
    peers(s, out);
    let others = s.problems.iter().filter(|p| !is_about_peers(p.kind));
    let before = out.len();
    out.extend(others.map(|p| complaint("switch", p)));
    if out.len() == before {
        out.push(Finding::ok("switch", "it reports no problems"));
    }
}

fn is_about_peers(kind: ProblemKind) -> bool {
    matches!(kind, ProblemKind::Peer | ProblemKind::PeerNetwork | ProblemKind::UnknownPeer)
}

/// Turns a problem of the switch into a finding.
fn complaint(check: &'static str, p: &Problem) -> Finding {
    let remedy = if p.how.is_empty() { "`ivctl status` says more" } else { &p.how };
    Finding::new(check, Level::Warn, &p.what, remedy)
}

/// Checks whether the peers answer. A peer that cannot answer is a note, because silence is not health.
fn peers(s: &Status, out: &mut Vec<Finding>) {
    let before = out.len();
    out.extend(s.problems.iter().filter(|p| is_about_peers(p.kind)).map(|p| complaint("peers", p)));
    let is_named = |p: &PeerRow| s.problems.iter().any(|q| q.kind == ProblemKind::Peer && q.object == p.name);
    for p in s.peers.iter().filter(|p| p.state == PeerState::Unknown && !is_named(p)) {
        let found = format!("peer \"{}\" is unknown: {}", p.name, p.why);
        out.push(Finding::new("peers", Level::Note, found, "try it: ping through the network"));
    }
    if out.len() == before {
        let up = s.peers.iter().filter(|p| p.state == PeerState::Up).count();
        out.push(match s.peers.iter().filter(|p| p.state != PeerState::ThisRvm).count() {
            0 => Finding::ok("peers", "there are none"),
            _ => Finding::ok("peers", format!("{up} answer")),
        });
    }
}

/// Checks reverse-path filtering. The strict form drops Internet packets that arrive at a door, since the default
/// route is the uplink's.
fn reverse_path(m: &Machine, s: &Status, out: &mut Vec<Finding>) {
    let of = |name: &str| m.number(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
    let all = of("all").unwrap_or(0);
    let mut strict = Vec::new();
    for port in s.ports.iter().filter(|p| p.role == "door") {
        // On a door that we create, the CMS's end has the port's name.
        if let Some(own) = of(&port.ifname)
            && own.max(all) == 1
        {
            strict.push(port.ifname.clone());
        }
    }
    out.push(if strict.is_empty() {
        Finding::ok("rp_filter", "no door drops packets that arrive on another path than their answers take")
    } else {
        let set: Vec<String> =
            strict.iter().map(|name| format!("net.ipv4.conf.{name}.rp_filter=2")).collect();
        Finding::new(
            "rp_filter",
            Level::Warn,
            format!(
                "strict on {}: packets from the Internet to a floating IP there are dropped",
                strict.join(", ")
            ),
            format!("`sysctl -w {}`, and in /etc/sysctl.d", set.join(" ")),
        )
    });
}

fn mtu(s: &Status, out: &mut Vec<Finding>) {
    let carried = s.overlay_mtu;
    if s.peers.is_empty() || carried == 0 {
        out.push(Finding::ok("mtu", "without a tunnel, no port needs a smaller MTU"));
        return;
    }
    let larger: Vec<String> = s
        .ports
        .iter()
        .filter(|p| p.role != "uplink" && p.mtu > carried)
        .map(|p| format!("{} ({})", p.ifname, p.mtu))
        .collect();
    out.push(if larger.is_empty() {
        Finding::new(
            "mtu",
            Level::Ok,
            format!("the tunnel carries {carried}, and no port has more"),
            if carried < 1500 {
                format!("for the CMS: Neutron global_physnet_mtu = {carried}; CloudStack guest network MTU {carried}")
            } else {
                String::new()
            },
        )
    } else {
        Finding::new(
            "mtu",
            Level::Warn,
            format!("the tunnel carries {carried}, but ports have more: {}", larger.join(", ")),
            format!("`ivctl port set NAME --mtu {carried}`, and the same MTU for the guests"),
        )
    });
}

/// Docker Swarm, flannel and other programs have vxlan devices of the kernel on the same port.
fn tunnel_port(s: &Status, out: &mut Vec<Finding>) {
    let port = s.tunnel_port;
    if s.port_sharers.is_empty() {
        out.push(Finding::ok("tunnel-port", format!("no vxlan device of the kernel's has UDP {port}")));
        return;
    }
    let device = |sharer: &SharerRow| match sharer.vni {
        Some(vni) => format!("{} (VNI {vni})", sharer.link),
        None => format!("{} (any VNI)", sharer.link),
    };
    let devices: Vec<String> = s.port_sharers.iter().map(device).collect();
    out.push(Finding::new(
        "tunnel-port",
        Level::Note,
        format!("UDP {port} is in use by the kernel's vxlan, too: {}", devices.join(", ")),
        "both work, since tunnel packets of VNIs that are no networks here go to the kernel; keep their VNIs apart, or \
         give [uplink] another `port` on every rVM",
    ));
}

fn network_manager(m: &Machine, s: &Status, out: &mut Vec<Finding>) {
    let doors: Vec<&str> = s.ports.iter().filter(|p| p.role == "door").map(|p| p.ifname.as_str()).collect();
    if !m.is_there("/run/NetworkManager") || doors.is_empty() {
        out.push(Finding::ok(
            "network-manager",
            "it does not run, or there are no doors that it could manage",
        ));
        return;
    }
    let said: String =
        ["/etc/NetworkManager/conf.d", "/run/NetworkManager/conf.d", "/usr/lib/NetworkManager/conf.d"]
            .iter()
            .filter_map(|dir| std::fs::read_dir(m.path(dir)).ok())
            .flatten()
            .filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok())
            .filter(|text| text.contains("unmanaged-devices"))
            .collect();
    let managed: Vec<&str> = doors.into_iter().filter(|door| !said.contains(*door)).collect();
    out.push(if managed.is_empty() {
        Finding::ok("network-manager", "it leaves the doors alone")
    } else {
        let list: Vec<String> = managed.iter().map(|door| format!("interface-name:{door}")).collect();
        Finding::new(
            "network-manager",
            Level::Warn,
            format!("it may request addresses on {}", managed.join(", ")),
            format!(
                "in /etc/NetworkManager/conf.d/ivswitch.conf: [keyfile] unmanaged-devices={}",
                list.join(";")
            ),
        )
    });
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs;

    /// A machine with these files.
    pub fn made(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine { root: dir.path().to_owned() };
        for (path, text) in files {
            let path = machine.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
        (dir, machine)
    }

    fn level(findings: &[Finding], check: &str) -> Level {
        findings
            .iter()
            .filter(|f| f.check == check)
            .map(|f| f.level)
            .max()
            .unwrap_or_else(|| panic!("{check}"))
    }

    /// Every problem has a remedy.
    fn assert_remedies(findings: &[Finding]) {
        for f in findings.iter().filter(|f| f.level >= Level::Warn) {
            assert!(!f.remedy.is_empty(), "{f:?}");
        }
    }

    #[test]
    fn a_machine_in_good_order_and_one_that_is_not() {
        let (_dir, good) = made(&[
            ("/proc/sys/kernel/osrelease", "6.18.44-cloud"),
            ("/proc/sys/net/core/bpf_jit_enable", "1"),
            ("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc"),
            ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance"),
            ("/dev/kvm", ""),
            ("/proc/cpuinfo", "processor : 0\nflags : fpu vmx svm\n"),
        ]);
        let mut findings = Vec::new();
        machine(&good, &mut findings);
        for check in ["kernel", "bpf-jit", "cpu-governor", "clocksource", "br_netfilter", "kvm"] {
            assert_eq!(level(&findings, check), Level::Ok, "{check}: {findings:?}");
        }
        let pvm = [("/dev/kvm", ""), (accel::PVM, ""), ("/proc/cpuinfo", "flags : vmx svm\n")];
        let (_dir, pvm) = made(&pvm);
        let mut findings = Vec::new();
        machine(&pvm, &mut findings);
        assert_eq!(level(&findings, "kvm"), Level::Note, "PVM is not KVM");
        let (_dir, bad) = made(&[
            ("/proc/sys/kernel/osrelease", "4.19.0"),
            ("/proc/sys/net/core/bpf_jit_enable", "0"),
            ("/proc/sys/net/bridge/bridge-nf-call-iptables", "1"),
            ("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet"),
            ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
        ]);
        let mut findings = Vec::new();
        machine(&bad, &mut findings);
        assert_eq!(level(&findings, "kernel"), Level::Fail);
        for check in ["bpf-jit", "cpu-governor", "clocksource"] {
            assert_eq!(level(&findings, check), Level::Warn, "{check}");
        }
        assert_eq!((level(&findings, "kvm"), level(&findings, "br_netfilter")), (Level::Note, Level::Note));
        assert_remedies(&findings);
    }

    #[test]
    fn limits_of_the_daemon() {
        let limits = |bytes: &str| {
            format!("Limit\nMax locked memory         {bytes}                {bytes}     bytes")
        };
        for (capabilities, bytes, expected) in [
            ("0000000000003000", "8388608", Level::Warn),
            ("0000000000007000", "8388608", Level::Ok),
            ("0000000000003000", "unlimited", Level::Ok),
        ] {
            let (_dir, m) = made(&[
                ("/proc/77/status", &format!("Name: x\nCapEff:\t{capabilities}")),
                ("/proc/77/limits", &limits(bytes)),
            ]);
            let mut findings = Vec::new();
            process(&m, Some(77), &mut findings);
            assert_eq!(level(&findings, "memlock"), expected, "{findings:?}");
            assert_remedies(&findings);
        }
    }

    /// Silence is not health: a peer that never answered is named even if this is not a problem.
    #[test]
    fn a_peer_that_cannot_be_asked_is_named() {
        let mut s = crate::tests::status();
        s.problems.clear();
        let look = |s: &Status| {
            let mut findings = Vec::new();
            peers(s, &mut findings);
            findings
        };
        assert_eq!(look(&s), [Finding::ok("peers", "1 answer")]);
        (s.peers[0].state, s.peers[0].why) = (PeerState::Unknown, "it has never answered".into());
        let findings = look(&s);
        assert_eq!((findings.len(), findings[0].level), (1, Level::Note), "{findings:?}");
        assert!(findings[0].found.contains("rvm2") && findings[0].found.contains("never answered"));
        s.problems =
            vec![Problem::new(ProblemKind::Peer, "rvm2", "peer \"rvm2\": it is not there", "start it")];
        assert_eq!(level(&look(&s), "peers"), Level::Warn);
        assert_eq!(look(&s).len(), 1, "said once");
    }

    #[test]
    fn what_the_switch_needs_of_its_surroundings() {
        let mut s = crate::tests::status();
        s.problems.clear();
        for port in &mut s.ports {
            port.mode = "native, copy".into();
            port.mtu = s.overlay_mtu;
        }
        let door = s.ports.iter_mut().find(|p| p.role == "door").map(|p| p.ifname.clone()).unwrap();
        let rp = format!("/proc/sys/net/ipv4/conf/{door}/rp_filter");
        let (_dir, m) = made(&[(&rp, "2"), ("/proc/sys/net/ipv4/conf/all/rp_filter", "1")]);
        let mut findings = Vec::new();
        switch(&m, &s, &mut findings);
        assert!(findings.iter().all(|f| f.level == Level::Ok), "{findings:?}");

        let (_dir, m) = made(&[
            (&rp, "0"),
            ("/proc/sys/net/ipv4/conf/all/rp_filter", "1"),
            ("/run/NetworkManager/x", ""),
            ("/etc/NetworkManager/conf.d/a.conf", "[keyfile]\nunmanaged-devices=interface-name:nothing"),
        ]);
        for port in &mut s.ports {
            (port.mode, port.mtu, port.state) = ("generic, copy".into(), 9000, "live".into());
        }
        s.problems = vec![
            Problem::new(ProblemKind::Port, "g1", "port \"g1\" is gone", ""),
            Problem::new(ProblemKind::Peer, "rvm2", "peer \"rvm2\": silent for 9 s", "start it"),
        ];
        let mut findings = Vec::new();
        switch(&m, &s, &mut findings);
        for check in ["rp_filter", "network-manager", "xdp-mode", "mtu", "switch", "peers"] {
            assert_eq!(level(&findings, check), Level::Warn, "{check}: {findings:?}");
        }
        assert_remedies(&findings);
        let text = super::super::render(&findings, crate::output::Paint(false));
        assert!(text.contains(&format!("net.ipv4.conf.{door}.rp_filter=2")), "{text}");
    }
}
