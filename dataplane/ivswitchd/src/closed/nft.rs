//! Runs the program `nft`, and receives the kernel's notices that its rules changed.

use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::rules;

/// Long enough for a machine under load; the thread waits this long at most.
const PATIENCE: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(1);

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const GROUP_NFTABLES: u32 = 7;

/// The directories with `nft`: a daemon may be started with any `PATH`.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin";

/// A program to run instead of `nft`: for the test of a machine without it.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Runs this program instead of `nft`. Call it once, first.
pub fn use_program(path: PathBuf) {
    let _ = PROGRAM.set(path);
}

/// Runs a script as one transaction.
///
/// # Errors
/// The message of `nft`, with a remedy where one is known.
pub fn carry_out(script: &str) -> Result<(), String> {
    run(&["-f", "-"], script).map(drop)
}

/// Our table as `nft` shows it, without its counters. `None`: it does not exist.
///
/// # Errors
/// `nft` cannot be run.
pub fn table() -> Result<Option<String>, String> {
    let mut arguments = vec!["-s", "list", "table"];
    arguments.extend(rules::TABLE.split(' '));
    match run(&arguments, "") {
        Ok(text) => Ok(Some(text)),
        Err(why) if why.contains("No such file") => Ok(None),
        Err(why) => Err(why),
    }
}

fn run(arguments: &[&str], input: &str) -> Result<String, String> {
    // A daemon that is not root has the capability only for itself; the program inherits it, this once.
    let lent = lend();
    let child = Command::new(PROGRAM.get().map_or(Path::new("nft"), PathBuf::as_path))
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    if lent {
        let _ = caps::clear(None, CapSet::Ambient);
        let _ = caps::clear(None, CapSet::Inheritable);
    }
    let mut child = child.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            "the program nft is missing; `apt-get install nftables` brings it".to_owned()
        }
        _ => format!("nft cannot be run: {error}"),
    })?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) = pipes else {
        return Err("nft cannot be run: no pipes".to_owned());
    };
    let (input, deadline) = (input.to_owned(), Instant::now() + PATIENCE);
    // The input and output may be longer than a pipe holds. The threads end with the program.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let read = move |from: &mut dyn io::Read| {
        let mut text = String::new();
        let _ = from.read_to_string(&mut text);
        text
    };
    let (said, complained) =
        (std::thread::spawn(move || read(&mut stdout)), std::thread::spawn(move || read(&mut stderr)));
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(STEP),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("nft did not end within {} s", PATIENCE.as_secs()));
            }
        }
    };
    let _ = writer.join();
    let (said, complained) = (said.join().unwrap_or_default(), complained.join().unwrap_or_default());
    if status.success() {
        return Ok(said);
    }
    let first = complained.lines().next().unwrap_or("it failed").trim();
    let remedy =
        if complained.contains("Operation not supported") || complained.contains("Protocol not supported") {
            "; the kernel needs CONFIG_NF_TABLES_INET, CONFIG_NFT_CT and CONFIG_NF_CONNTRACK"
        } else if complained.contains("Operation not permitted") {
            "; the daemon needs CAP_NET_ADMIN"
        } else {
            ""
        };
    Err(format!("nft: {first}{remedy}"))
}

/// Lets the next program keep CAP_NET_ADMIN. Returns false if that is unnecessary or impossible.
fn lend() -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    caps::raise(None, CapSet::Inheritable, Capability::CAP_NET_ADMIN).is_ok()
        && caps::raise(None, CapSet::Ambient, Capability::CAP_NET_ADMIN).is_ok()
}

/// Receives notices that any program changed rules.
pub struct Changes {
    socket: Socket,
}

impl Changes {
    /// Starts to listen.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn listen() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(GROUP_NFTABLES)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Whether any rule changed since the last call.
    pub fn any(&mut self) -> bool {
        const BATCH: usize = 4096;
        let mut any = false;
        let mut byte = [0_u8; 1];
        for _ in 0..BATCH {
            // Only a message's arrival matters; a buffer overrun (ENOBUFS) also means a change.
            match rustix::net::recv(&self.socket, &mut byte[..], rustix::net::RecvFlags::empty()) {
                Ok(_) | Err(rustix::io::Errno::NOBUFS) => any = true,
                Err(_) => break,
            }
        }
        any
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Changes").field(&self.socket.as_raw_fd()).finish()
    }
}
