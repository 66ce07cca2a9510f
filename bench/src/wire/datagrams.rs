//! Bulk UDP, with many datagrams per system call: `UDP_SEGMENT` at the sending end and `UDP_GRO` at the receiving
//! end. Both ends run as this program, in the namespaces of their hosts.

use std::io::{ErrorKind, Write};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

/// Bytes of a datagram that fits an inner MTU of 1450 with an IPv4 header.
const DATAGRAM: i32 = 1400;
/// Datagrams in one call.
const TOGETHER: usize = 43;

/// Sends to `address` as fast as the kernel accepts datagrams.
///
/// # Errors
/// Any error of the kernel, except a full queue.
pub fn send(address: &str, time: Duration) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    setsockopt(&socket, sockopt::UdpGsoSegment, &DATAGRAM).context("UDP_SEGMENT")?;
    let bytes = vec![0x69; DATAGRAM as usize * TOGETHER];
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Err(error) = socket.send(&bytes) {
            // A full queue is intended here, and the receiver may already have ended.
            let full = error.raw_os_error() == Some(Errno::ENOBUFS as i32);
            if !full && error.kind() != ErrorKind::ConnectionRefused {
                return Err(error).context("sending");
            }
        }
    }
    Ok(())
}

/// Prints "listening", then the bits per second from the first datagram on, as a number.
///
/// # Errors
/// Any error of the kernel, or that no datagram arrived.
pub fn receive(address: &str, time: Duration) -> Result<()> {
    const BUFFER: usize = 8 << 20;
    let socket = UdpSocket::bind(address)?;
    setsockopt(&socket, sockopt::UdpGroSegment, &true).context("UDP_GRO")?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("a large buffer")?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    println!("listening");
    std::io::stdout().flush()?;
    let mut bytes = vec![0; 1 << 16];
    socket.recv(&mut bytes).context("nothing came")?;
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time {
        count += socket.recv(&mut bytes).context("it ended early")?;
    }
    println!("{}", count as f64 * 8.0 / start.elapsed().as_secs_f64());
    Ok(())
}
