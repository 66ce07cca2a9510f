//! A link of a chosen length: Ethernet frames between two interfaces, each delayed by the one-way latency. It
//! replaces netem on kernels that lack it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
};

/// Room for a sender's data in flight: a hundred milliseconds of a gigabit.
const BUFFER: usize = 16 << 20;
/// Frames are finished and at most of the MTU's size; a larger one is truncated, and its receiver counts it as
/// broken.
const FRAME: usize = 9216;
/// Frames in flight in one direction; more are lost, as on a real link.
const WAITING: usize = 50_000;

/// A socket for all frames of an interface.
fn open(interface: &str) -> Result<OwnedFd> {
    let addresses = nix::ifaddrs::getifaddrs().context("the interfaces")?;
    let link = addresses
        .filter(|a| a.interface_name == interface)
        .find_map(|a| a.address.and_then(|address| address.as_link_addr().copied()))
        .with_context(|| format!("no interface {interface}"))?;
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&fd, RcvBufForce, &BUFFER)?;
    bind(fd.as_raw_fd(), &link)?;
    Ok(fd)
}

/// Forwards frames in both directions, until killed.
///
/// # Errors
/// When an interface does not exist.
pub fn run(a: &str, b: &str, milliseconds: f64) -> Result<()> {
    let latency = Duration::from_secs_f64(milliseconds / 1e3);
    let (one, two) = (open(a)?, open(b)?);
    println!("ready");
    std::thread::scope(|scope| {
        for (from, to) in [(&one, &two), (&two, &one)] {
            let (sender, receiver) = mpsc::sync_channel::<(Instant, Vec<u8>)>(WAITING);
            scope.spawn(move || {
                let mut buffer = vec![0; FRAME];
                loop {
                    if let Ok(len) = recv(from.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                        sender.try_send((Instant::now() + latency, buffer[..len].to_vec())).ok();
                    }
                }
            });
            scope.spawn(move || {
                for (due, frame) in receiver {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    send(to.as_raw_fd(), &frame, MsgFlags::empty()).ok();
                }
            });
        }
    });
    Ok(())
}
