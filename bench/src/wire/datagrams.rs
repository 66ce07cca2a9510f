//! UDP in bulk: datagrams handed to the kernel many at a time (`UDP_SEGMENT`) and taken many at a time (`UDP_GRO`), at the
//! two ends of what is measured. Both run as this program in the namespaces of their hosts.

use std::io::{ErrorKind, Write};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

/// Bytes of a datagram: what fits an inner MTU of 1450 with an IPv4 header.
const DATAGRAM: i32 = 1400;
/// Datagrams in one call.
const TOGETHER: usize = 43;

/// Sends to `address` as fast as the kernel takes it.
///
/// # Errors
/// What the kernel says, but that its queues are full.
pub fn send(address: &str, time: Duration) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    setsockopt(&socket, sockopt::UdpGsoSegment, &DATAGRAM).context("UDP_SEGMENT")?;
    let bytes = vec![0x69; DATAGRAM as usize * TOGETHER];
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Err(error) = socket.send(&bytes) {
            // A full queue is what this is about; and whoever received may have had enough.
            let full = error.raw_os_error() == Some(Errno::ENOBUFS as i32);
            if !full && error.kind() != ErrorKind::ConnectionRefused {
                return Err(error).context("sending");
            }
        }
    }
    Ok(())
}

/// Says "listening", then how many bits a second arrive from the first datagram on, as a number.
///
/// # Errors
/// What the kernel says, or that nothing came.
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
