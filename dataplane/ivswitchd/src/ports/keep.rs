//! Descriptors that outlive the process, in the service manager's store (`FDSTORE=1` of sd_notify(3); in the unit
//! `FileDescriptorStoreMax=`).
//!
//! The store holds the frame memory, AF_XDP sockets in copy mode with the link that attaches their program,
//! and the queues of TAP doors. While no process runs, the kernel continues to fill the sockets' rings, and
//! doors keep their carrier; the next process finds everything again ([`inherited`]) and continues from the
//! state of the rings. So a process that was killed, or restarted by its manager, costs a delay instead of
//! frames. Without a manager that keeps descriptors they close with the process, as usual.
//!
//! Each descriptor has a name that describes it, and the code that opens a port looks for the port's names. A
//! port that is closed for good removes its names, and takes its program off the interface itself, because
//! the manager's copy of the link would keep it there.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use sd_notify::NotifyState;

/// Set when the process ends.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Set when the process ends and the kept descriptors should stay.
static LEAVING: AtomicBool = AtomicBool::new(false);

/// Whether a service manager runs this process.
#[must_use]
pub fn is_possible() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The descriptors kept for this process, by name. Call it once.
#[must_use]
pub fn inherited() -> BTreeMap<String, OwnedFd> {
    let fds = match sd_notify::listen_fds_with_names() {
        Ok(fds) => fds,
        Err(error) => {
            tracing::warn!("what the service manager kept cannot be used: {error}");
            return BTreeMap::new();
        }
    };
    // SAFETY: the manager passed these descriptors to this process (LISTEN_PID was checked), no other code in
    // it uses them, and this is called once.
    fds.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect()
}

/// Asks the manager to keep a copy.
pub fn store(name: &str, fd: impl AsFd) {
    // Without FDPOLL=0 the manager would drop a descriptor in an error state, such as a TAP whose interface is down.
    let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
    if let Err(error) = sd_notify::notify_with_fds(&state, &[fd.as_fd()]) {
        tracing::debug!("{name}: the service manager does not keep it: {error}");
    }
}

/// Asks the manager to close its copies with this name.
pub fn remove(name: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]) {
        tracing::debug!("{name}: the service manager cannot be told to close it: {error}");
    }
}

/// Notes that the process ends. The kept descriptors stay: a manager that starts no other process drops them itself.
pub fn leave() {
    ENDING.store(true, Ordering::Relaxed);
    LEAVING.store(is_possible(), Ordering::Relaxed);
}

/// Whether ports close because the process ends, and not because they were removed.
#[must_use]
pub fn is_ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

/// Whether the process ends with its descriptors kept, see [`leave`].
#[must_use]
pub fn is_leaving() -> bool {
    LEAVING.load(Ordering::Relaxed)
}
