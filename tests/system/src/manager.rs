//! A service manager with the sd_notify(3) part only: it receives its daemon's messages, keeps descriptors for it
//! (`FDSTORE=1`), drops them on request (`FDSTOREREMOVE=1`), and passes them on at the next start (sd_listen_fds(3)).

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use command_fds::{CommandFdExt, FdMapping};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::Namespace;

type Store = Arc<Mutex<Vec<(String, OwnedFd)>>>;

/// A manager of one daemon. It listens until the test ends.
#[derive(Clone)]
pub struct Manager {
    path: PathBuf,
    store: Store,
}

impl Manager {
    /// Listens at this path.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket of our own");
        let store = Store::default();
        let kept = store.clone();
        std::thread::spawn(move || {
            while let Ok((text, fds)) = hear(&socket) {
                obey(&text, fds, &mut kept.lock().unwrap_or_else(PoisonError::into_inner));
            }
        });
        Self { path: path.into(), store }
    }

    /// The names of the descriptors that it keeps.
    #[must_use]
    pub fn kept(&self) -> Vec<String> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Closes every descriptor that it keeps, as a manager does that will not start its daemon again.
    pub fn forget(&self) {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A program that will run in a namespace and get the kept descriptors.
    #[must_use]
    pub fn command(&self, namespace: &Namespace, program: &Path) -> Command {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        // The process number is known only inside the process.
        let mut command = namespace.command("sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]).arg(program);
        command.env("NOTIFY_SOCKET", &self.path);
        if !store.is_empty() {
            let names: Vec<&str> = store.iter().map(|(name, _)| name.as_str()).collect();
            command.env("LISTEN_FDS", store.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        let passed = store
            .iter()
            .zip(3..)
            .map(|((_, fd), child_fd)| FdMapping { parent_fd: fd.try_clone().expect("a copy"), child_fd });
        command.fd_mappings(passed.collect()).expect("numbers of their own");
        command
    }
}

fn hear(socket: &UnixDatagram) -> rustix::io::Result<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got =
        recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    Ok((String::from_utf8_lossy(&bytes[..got.bytes]).into_owned(), fds))
}

fn obey(text: &str, fds: Vec<OwnedFd>, store: &mut Vec<(String, OwnedFd)>) {
    let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
    let says = |what: &str| text.lines().any(|line| line == what);
    if says("FDSTORE=1") {
        store.extend(fds.into_iter().map(|fd| (name.to_owned(), fd)));
    } else if says("FDSTOREREMOVE=1") {
        store.retain(|(kept, _)| kept != name);
    }
}
