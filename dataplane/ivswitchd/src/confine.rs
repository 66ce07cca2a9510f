//! Confines a worker's thread once it forwards: no capability, no signal, and only these system calls.
//!
//! A worker reads bytes from strangers. An attacker who took it over could make only the system calls that
//! forwarding makes; any other call ends the process, and the supervisor restarts it. Everything that needs
//! more (opening ports, attaching programs, files, clients) belongs to the control thread
//! (`dataplane/decisions/0015`).
//!
//! The list is the shortest that passes every test, and a test takes each entry away and sees the daemon die
//! for it. A port whose `rx` or `tx` makes another call adds it here.

use std::collections::BTreeMap;
use std::io;

use caps::CapSet;
use libc::c_long;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use thiserror::Error;

/// A system call: the name used here, its number, and the code that makes it.
type Call = (&'static str, c_long, &'static str);

#[cfg(target_arch = "x86_64")]
const EPOLL_WAIT: Call = ("epoll_wait", libc::SYS_epoll_wait, "sleeping until frames come");
#[cfg(not(target_arch = "x86_64"))]
const EPOLL_WAIT: Call = ("epoll_wait", libc::SYS_epoll_pwait, "sleeping until frames come");

/// The system calls that forwarding makes.
const CALLS: &[Call] = &[
    EPOLL_WAIT,
    ("epoll_ctl", libc::SYS_epoll_ctl, "a port that comes or goes"),
    ("write", libc::SYS_write, "waking a thread; a line of the log"),
    ("readv", libc::SYS_readv, "a TAP's frames"),
    ("writev", libc::SYS_writev, "a TAP's frames"),
    ("sendto", libc::SYS_sendto, "waking the kernel for an AF_XDP ring; packets that go by the host"),
    ("recvmmsg", libc::SYS_recvmmsg, "frames of AF_PACKET, packets of the UDP uplink"),
    ("sendmmsg", libc::SYS_sendmmsg, "frames of AF_PACKET, packets of the UDP uplink"),
    ("sched_yield", libc::SYS_sched_yield, "letting others run while spinning"),
    ("munmap", libc::SYS_munmap, "tables that grew; the end of the thread"),
    ("madvise", libc::SYS_madvise, "huge pages under tables that grow; the end of the thread"),
    ("rt_sigprocmask", libc::SYS_rt_sigprocmask, "the end of the thread"),
    ("sigaltstack", libc::SYS_sigaltstack, "the end of the thread"),
    ("exit", libc::SYS_exit, "the end of the thread"),
];

/// System calls that only other machines or rare moments need, so that a test cannot always show them: a clock that
/// needs a system call, a driver that needs wake-ups, a contended lock, a table larger than the allocator's arena.
const ELSEWHERE: &[Call] = &[
    ("recvfrom", libc::SYS_recvfrom, "waking a driver with zero copy for its fill ring"),
    ("futex", libc::SYS_futex, "the memory allocator's and the log's locks, when another thread holds them"),
    ("mmap", libc::SYS_mmap, "tables that grow large"),
    ("clock_gettime", libc::SYS_clock_gettime, "the time, where the clock source has no vDSO (Xen, Hyper-V)"),
    ("mremap", libc::SYS_mremap, "tables that grow in place"),
    ("mprotect", libc::SYS_mprotect, "the memory allocator's further arenas, as they grow"),
    ("brk", libc::SYS_brk, "the memory allocator's first arena"),
    ("epoll_pwait2", libc::SYS_epoll_pwait2, "naps while a guest sends"),
    ("preadv2", libc::SYS_preadv2, "counting a guest's kicks"),
];

/// The confinement of a worker's thread.
#[derive(Clone, Debug)]
pub struct Confinement {
    filter: Option<BpfProgram>,
}

/// A worker could not be confined.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// The list lacks an entry with this name.
    #[error("--without-syscall {0}: the list has no such entry")]
    NoSuchCall(String),
    /// The kernel or the library refused.
    #[error("workers cannot be confined: {0}; --confine off starts without")]
    Refused(String),
}

impl Confinement {
    /// The whole list, or with `without` all entries but that one; for the test that each is needed.
    ///
    /// # Errors
    /// Filters are not available for this processor, or the list lacks the entry.
    pub fn new(without: Option<&str>) -> Result<Self, ConfineError> {
        if let Some(name) = without
            && !CALLS.iter().any(|(call, ..)| *call == name)
        {
            return Err(ConfineError::NoSuchCall(name.to_owned()));
        }
        let calls = CALLS.iter().chain(ELSEWHERE).filter(|(name, ..)| Some(*name) != without);
        let rules: BTreeMap<i64, Vec<_>> = calls.map(|(_, number, _)| (*number, Vec::new())).collect();
        let refused = |e: &dyn std::fmt::Display| ConfineError::Refused(e.to_string());
        let arch = std::env::consts::ARCH.try_into().map_err(|e: seccompiler::BackendError| refused(&e))?;
        let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)
            .map_err(|e| refused(&e))?;
        let filter = BpfProgram::try_from(filter).map_err(|e| refused(&e))?;
        Ok(Self { filter: Some(filter) })
    }

    /// No list of system calls. Capabilities are dropped anyway.
    #[must_use]
    pub fn off() -> Self {
        Self { filter: None }
    }

    /// Every entry's name, for the test that each is needed.
    pub fn names() -> impl Iterator<Item = &'static str> {
        CALLS.iter().map(|(name, ..)| *name)
    }

    /// Confines this thread, permanently.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn apply(&self) -> io::Result<()> {
        block_signals()?;
        for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
            caps::clear(None, set).map_err(io::Error::other)?;
        }
        match &self.filter {
            Some(filter) => apply_filter(filter).map_err(io::Error::other),
            None => Ok(()),
        }
    }
}

/// Signals to the process go to the control thread. Signals that this thread causes itself cannot be blocked.
fn block_signals() -> io::Result<()> {
    // SAFETY: the set is filled by the first call before the other calls read it, and outlives them all.
    let failed = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        for own in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSYS, libc::SIGABRT] {
            libc::sigdelset(&raw mut set, own);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(failed)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A confined thread has no capability, and a call outside the list ends the process: tried in a child.
    #[test]
    fn a_forbidden_call_ends_the_process() {
        const WORD: &str = "IVS_TEST_FORBIDDEN";
        if std::env::var_os(WORD).is_some() {
            let confined = std::thread::spawn(|| {
                Confinement::new(None).unwrap().apply().unwrap();
                // Allowed.
                rustix::thread::sched_yield();
                rustix::io::write(std::io::stderr(), b"confined\n").unwrap();
                // Not allowed.
                let _ = std::fs::File::open("/etc/passwd");
                let _ = rustix::io::write(std::io::stderr(), b"escaped\n");
            });
            let _ = confined.join();
            std::process::exit(0);
        }
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "confine::tests::a_forbidden_call_ends_the_process", "--nocapture"]);
        let output = child.env(WORD, "1").output().unwrap();
        let (status, said) = (output.status, String::from_utf8_lossy(&output.stderr).into_owned());
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(libc::SIGSYS),
            "{status} {said}"
        );
        assert!(said.contains("confined") && !said.contains("escaped"), "{said}");
    }

    /// Every entry occurs once, and under its own name.
    #[test]
    fn the_list_is_a_list() {
        let all: Vec<_> = CALLS.iter().chain(ELSEWHERE).collect();
        let names: std::collections::BTreeSet<_> = all.iter().map(|(name, ..)| name).collect();
        let numbers: std::collections::BTreeSet<_> = all.iter().map(|(_, number, _)| number).collect();
        assert_eq!((names.len(), numbers.len()), (all.len(), all.len()));
        assert!(all.len() <= 23, "an entry more is a decision");
        assert!(matches!(Confinement::new(Some("execve")), Err(ConfineError::NoSuchCall(_))));
    }
}
