//! Descriptors that outlive the process, in the service manager's store (`FDSTORE=1` of sd_notify(3); in the unit
//! `FileDescriptorStoreMax=`).
//!
//! What is kept: the frame memory, AF_XDP sockets in copy mode with the link that attaches their program, and the
//! queues of TAP doors. While no process is there the kernel goes on filling the sockets' rings, and doors keep their
//! carrier; the next process finds all of it again ([`inherited`]) and goes on from where the rings stand. Hence a
//! process that was killed, or restarted by its manager, costs a delay instead of frames. Without a manager that
//! keeps descriptors nothing is different from before: they close with the process.
//!
//! Each has a name that says what it is; whoever opens a port looks for its names. A port that is closed for good
//! removes them, and takes its program off the interface itself, because the manager's copy keeps it there.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use sd_notify::NotifyState;

/// Set when the process ends.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Set when it ends and what is kept is to stay.
static LEAVING: AtomicBool = AtomicBool::new(false);

/// Whether there is a manager to ask.
#[must_use]
pub fn is_possible() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// What was kept for us, by name. To be called once.
#[must_use]
pub fn inherited() -> BTreeMap<String, OwnedFd> {
    let fds = match sd_notify::listen_fds_with_names() {
        Ok(fds) => fds,
        Err(error) => {
            tracing::warn!("what the service manager kept cannot be used: {error}");
            return BTreeMap::new();
        }
    };
    // SAFETY: these descriptors were passed to this process by its manager for nobody else in it (LISTEN_PID was
    // checked), and this is called once.
    fds.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect()
}

/// Has the manager keep a copy.
pub fn store(name: &str, fd: impl AsFd) {
    // Without the last a descriptor in trouble, such as a TAP whose interface is down, would be thrown out.
    let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
    if let Err(error) = sd_notify::notify_with_fds(&state, &[fd.as_fd()]) {
        tracing::debug!("{name}: the service manager does not keep it: {error}");
    }
}

/// Has the manager close its copies of this name.
pub fn remove(name: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]) {
        tracing::debug!("{name}: the service manager cannot be told to close it: {error}");
    }
}

/// The process ends. What is kept stays as it is: a manager that starts no other drops it itself.
pub fn leave() {
    ENDING.store(true, Ordering::Relaxed);
    LEAVING.store(is_possible(), Ordering::Relaxed);
}

/// Whether ports close because the process ends, and not because they are no ports any more.
#[must_use]
pub fn is_ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

/// See [`leave`].
#[must_use]
pub fn is_leaving() -> bool {
    LEAVING.load(Ordering::Relaxed)
}
