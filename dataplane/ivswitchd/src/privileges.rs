//! The daemon's privileges: checks named capabilities at the start, and drops all others.

use caps::{CapSet, Capability, CapsHashSet};
use thiserror::Error;

/// The capabilities that the daemon cannot work without, and their purposes.
const NEEDED: [(Capability, &str); 3] = [
    (Capability::CAP_NET_ADMIN, "to make doors and attach XDP programs"),
    (Capability::CAP_NET_RAW, "to open AF_XDP and raw sockets"),
    (Capability::CAP_BPF, "to load XDP programs"),
];

/// Kept if present. Without CAP_IPC_LOCK, LimitMEMLOCK limits frame memory; without CAP_PERFMON the kernel's
/// verifier refuses XDP programs that compute packet offsets.
const WELCOME: [Capability; 2] = [Capability::CAP_IPC_LOCK, Capability::CAP_PERFMON];

/// A capability is missing.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// These capabilities are missing.
    #[error(
        "missing {0}; run ivswitchd as root, or give it the capabilities \
         (systemd: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON CAP_IPC_LOCK)"
    )]
    Missing(String),
    /// The kernel refused to read or change the capabilities.
    #[error("capabilities cannot be {0}: {1}")]
    Kernel(&'static str, caps::errors::CapsError),
}

/// Raises the limit of open files to what this process may have. A shell's usual 1024 are enough for 200 ports. The limit is
/// low for the sake of programs that use `select(2)`; neither the daemon nor `nft`, which it starts, does.
pub fn allow_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(cause) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!("open files: the limit cannot be raised ({cause}); it ends with {:?}", limit.current);
    }
}

/// Checks for the needed capabilities and drops all others, for this thread and those it will start.
///
/// # Errors
/// A capability is missing.
pub fn keep_only_what_is_needed() -> Result<(), PrivilegeError> {
    let have = caps::read(None, CapSet::Permitted).map_err(|error| PrivilegeError::Kernel("read", error))?;
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(capability, _)| !have.contains(capability))
        .map(|(capability, purpose)| format!("{capability} ({purpose})"))
        .collect();
    if !missing.is_empty() {
        return Err(PrivilegeError::Missing(missing.join(", ")));
    }
    if !have.contains(&Capability::CAP_PERFMON) {
        tracing::warn!(
            "CAP_PERFMON is missing; if the kernel then refuses the uplink's XDP program, give it too"
        );
    }
    let mut keep: CapsHashSet = NEEDED.iter().map(|(capability, _)| *capability).collect();
    keep.extend(WELCOME.iter().filter(|capability| have.contains(capability)));
    // This bounds what a program that we start could regain. A refusal does no harm, as we start none.
    for capability in caps::all().difference(&keep) {
        let _ = caps::drop(None, CapSet::Bounding, *capability);
    }
    let _ = caps::clear(None, CapSet::Ambient);
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &keep).map_err(|error| PrivilegeError::Kernel("dropped", error))?;
    }
    caps::clear(None, CapSet::Inheritable).map_err(|error| PrivilegeError::Kernel("dropped", error))
}
