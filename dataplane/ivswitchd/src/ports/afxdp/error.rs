//! Why a port could not be opened or steered.

use aya::maps::MapError;

/// A port could not be opened or steered. The text names object, cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The interface does not exist, or no longer does.
    #[error("port {interface:?}: there is no such interface; it is taken as soon as it appears")]
    NoInterface {
        /// The interface.
        interface: String,
    },
    /// Another XDP program is attached.
    #[error(
        "port {interface:?}: another XDP program is attached: {programs}; \
         remove it (`ip link set dev {interface} xdp off`) or stop the program that owns it"
    )]
    ProgramPresent {
        /// The interface.
        interface: String,
        /// The programs' names and ids.
        programs: String,
    },
    /// Another AF_XDP socket has the queue.
    #[error(
        "port {interface:?}: queue {queue} is in use by another AF_XDP socket; stop the program that has it"
    )]
    QueueTaken {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// A capability is missing.
    #[error(
        "port {interface:?}: {what}: not permitted; run the daemon as root, or with CAP_NET_ADMIN, \
         CAP_NET_RAW, CAP_BPF and CAP_IPC_LOCK"
    )]
    NotPermitted {
        /// The interface.
        interface: String,
        /// The attempted operation.
        what: &'static str,
    },
    /// The kernel's memory ran out.
    #[error(
        "port {interface:?}: {what}: the kernel has no memory for it, of which such a port takes 2.5 MiB; free memory on this \
         machine, or write `kind = \"packet\"` for it, which takes less"
    )]
    NoMemory {
        /// The interface.
        interface: String,
        /// The attempted operation.
        what: &'static str,
    },
    /// More memory would be locked than the daemon may lock.
    #[error(
        "port {interface:?}: {what}: over the limit on locked memory; set `LimitMEMLOCK=infinity` for the service, or grant \
         CAP_IPC_LOCK"
    )]
    NotLocked {
        /// The interface.
        interface: String,
        /// The attempted operation.
        what: &'static str,
    },
    /// No descriptor is left.
    #[error(
        "port {interface:?}: {what}: too many open files, of which each port takes five; raise the limit of the daemon \
         (`LimitNOFILE=65536` for the service, or `ulimit -n 65536`)"
    )]
    NoFiles {
        /// The interface.
        interface: String,
        /// The attempted operation.
        what: &'static str,
    },
    /// The pool has no slots left for another port.
    #[error(
        "port {interface:?}: no frame memory is left for its {queues} queues; write `kind = \"packet\"` for it, which needs \
         none of its own, or give the interface fewer queues (`ethtool -L {interface} combined 1`)"
    )]
    NoSlots {
        /// The interface.
        interface: String,
        /// Its queues.
        queues: u32,
    },
    /// None of the allowed modes works.
    #[error("port {interface:?}: AF_XDP does not work here: {reasons}")]
    NoMode {
        /// The interface.
        interface: String,
        /// The reasons, mode by mode.
        reasons: String,
    },
    /// The XDP program was refused.
    #[error("port {interface:?}: the XDP program does not load: {cause}; Linux 5.18 or newer is needed")]
    Program {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        cause: String,
    },
    /// Only the uplink is steered.
    #[error("port {interface:?}: takes every frame, so there is nothing to steer; make it the uplink")]
    NotShared {
        /// The interface.
        interface: String,
    },
    /// The kernel's table refused an entry.
    #[error("port {interface:?}: steering: {cause}; name fewer ports in `only` and `except`")]
    Steering {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        cause: MapError,
    },
}
