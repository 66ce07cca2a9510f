//! What `tidy` accepts: the files with `unsafe`, each with the reason, and the known faults.

/// The files that may have `unsafe`.
const UNSAFE: &[(&str, &str)] = &[
    ("dataplane/hugepages/src/lib.rs", "an allocator"),
    (
        "dataplane/ivswitchd/examples/afxdp_wire.rs",
        "system calls without a safe library: `if_nametoindex`, `poll`",
    ),
    ("dataplane/ivswitchd/src/confine.rs", "the system call that installs the filter of system calls"),
    ("dataplane/ivswitchd/src/control/socket.rs", "the system call that reads a client's groups"),
    ("dataplane/ivswitchd/src/links/ethtool.rs", "promises the layout of ethtool's commands"),
    ("dataplane/ivswitchd/src/links/icmp.rs", "a socket option that only raw ICMP sockets have"),
    ("dataplane/ivswitchd/src/links/tests.rs", "tests in a network namespace of their own"),
    ("dataplane/ivswitchd/src/ports/afxdp/cache/slot.rs", "the memory of a BPF map"),
    ("dataplane/ivswitchd/src/ports/afxdp/cached.rs", "a test asks whether it is root"),
    ("dataplane/ivswitchd/src/ports/afxdp/crate_port.rs", "a descriptor of the crate `afxdp`"),
    ("dataplane/ivswitchd/src/ports/afxdp/membarrier.rs", "the system call membarrier(2)"),
    ("dataplane/ivswitchd/src/ports/afxdp/probe.rs", "promises the layout of ethtool's commands"),
    ("dataplane/ivswitchd/src/ports/afxdp/program.rs", "commands of bpf(2)"),
    ("dataplane/ivswitchd/src/ports/afxdp/ring.rs", "rings that the kernel writes to"),
    ("dataplane/ivswitchd/src/ports/afxdp/socket.rs", "AF_XDP sockets and the mapping of their rings"),
    ("dataplane/ivswitchd/src/ports/afxdp/test_run.rs", "runs a program by bpf(2)"),
    ("dataplane/ivswitchd/src/ports/afxdp/verdicts.rs", "tests ask whether they are root"),
    ("dataplane/ivswitchd/src/ports/ethtool.rs", "ioctls of ethtool"),
    ("dataplane/ivswitchd/src/ports/host.rs", "raw sockets with options of their own"),
    ("dataplane/ivswitchd/src/ports/keep.rs", "descriptors that the service manager passes"),
    ("dataplane/ivswitchd/src/ports/landing.rs", "a test writes to memory as the kernel would"),
    ("dataplane/ivswitchd/src/ports/lane.rs", "options of packet sockets"),
    ("dataplane/ivswitchd/src/ports/messages.rs", "messages of many parts, with control messages"),
    ("dataplane/ivswitchd/src/ports/mod.rs", "names and indices of interfaces"),
    ("dataplane/ivswitchd/src/ports/own/hook.rs", "a link of bpf(2)"),
    ("dataplane/ivswitchd/src/ports/own/mod.rs", "a descriptor of the library `aya`"),
    ("dataplane/ivswitchd/src/ports/own/table.rs", "the memory of a BPF map"),
    ("dataplane/ivswitchd/src/ports/packet/mod.rs", "packet sockets"),
    ("dataplane/ivswitchd/src/ports/promiscuous.rs", "membership of a packet socket"),
    ("dataplane/ivswitchd/src/ports/tap.rs", "ioctls of TAP interfaces"),
    ("dataplane/ivswitchd/src/ports/umem.rs", "frame memory that the kernel shares"),
    ("dataplane/ivswitchd/src/thread.rs", "a worker's sleep, shorter than a millisecond"),
    ("dataplane/ivswitchd/tests/lab/mod.rs", "tests in network namespaces"),
    ("dataplane/ivswitchd/tests/lab/traffic.rs", "`poll` of a test"),
    ("dataplane/ivswitchd/tests/lanes/main.rs", "a test's socket option for UDP GSO"),
    ("dataplane/prefetch/src/lib.rs", "one instruction"),
    ("tests/system/src/raw.rs", "packet sockets for tests"),
];

/// The known faults: circles by their place and modules, and files that are too long.
const EXCEPTIONS: &[(&str, &str)] = &[
    (
        "dataplane/engine/src: command counters forward own table tunnel watch wire",
        "types of `command` belong below tables",
    ),
    (
        "dataplane/engine/src/forward: act classify dhcp fit guard memo mss output parse pipeline route",
        "the facts of one frame are spread over its stages",
    ),
    ("dataplane/engine/src/table/fdb.rs", "seventeen lines too many"),
    ("dataplane/ivswitchd/src/ports: afxdp own", "the loader of BPF objects is a part of `afxdp`"),
];

/// Entries with a reason each.
type List = Vec<(&'static str, &'static str)>;

/// The lists that a tree is checked against.
#[derive(Default)]
pub struct Lists {
    pub with_unsafe: List,
    pub exceptions: List,
}

impl Lists {
    pub fn of_the_tree() -> Self {
        Self { with_unsafe: UNSAFE.to_vec(), exceptions: EXCEPTIONS.to_vec() }
    }

    /// The circles among the exceptions: each has its place, a colon, and its modules.
    pub fn circles(&self) -> impl Iterator<Item = &'static str> {
        self.exceptions.iter().map(|(entry, _)| *entry).filter(|entry| entry.contains(": "))
    }

    /// The files among the exceptions.
    pub fn long(&self) -> List {
        self.exceptions.iter().copied().filter(|(entry, _)| !entry.contains(": ")).collect()
    }
}
