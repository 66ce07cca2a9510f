//! The way out through the rVM's own kernel.
//!
//! Frames punted by the engine are whole Ethernet frames that hold an IP packet. The packet goes to the
//! kernel through a raw socket with its IP header as it stands; the kernel routes it, resolves the next
//! hop by ARP or ND, and sends it. Nothing here blocks: what the kernel cannot take at once is dropped
//! and counted, as any full queue does.

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::frame::{Batch, Frame, FramePool};
use engine::port::{Port, PortCaps};
use engine::time::Instant;

/// Bytes of an Ethernet header.
const ETH_LEN: usize = 14;

/// What became of the punted frames.
#[derive(Debug, Default)]
pub struct HostCounters {
    /// Packets that the kernel took.
    pub sent: AtomicU64,
    /// Packets that it refused: no route, larger than the MTU, no buffer.
    pub refused: AtomicU64,
    /// Frames that hold no IP packet the kernel could route.
    pub not_ip: AtomicU64,
}

/// The port for punted frames. Frames only leave through it.
#[derive(Debug)]
pub struct HostPort {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
    counters: Arc<HostCounters>,
}

/// The raw sockets could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("host port: no raw socket: {0}; the daemon needs root or CAP_NET_RAW")]
pub struct HostError(#[from] io::Error);

impl HostPort {
    /// Opens the raw sockets.
    ///
    /// # Errors
    /// When the kernel refuses a raw IPv4 socket. A kernel without IPv6 is no error.
    pub fn open() -> Result<Self, HostError> {
        let v4 = raw_socket(libc::AF_INET)?;
        set_int(&v4, libc::IPPROTO_IP, libc::IP_HDRINCL, 1)?;
        let v6 = match raw_socket(libc::AF_INET6) {
            Ok(fd) => {
                set_int(&fd, libc::IPPROTO_IPV6, libc::IPV6_HDRINCL, 1)?;
                Some(fd)
            }
            Err(cause) => {
                tracing::info!("host port: no IPv6 in this kernel ({cause})");
                None
            }
        };
        Ok(Self { v4, v6, counters: Arc::default() })
    }

    /// What became of the frames.
    pub fn counters(&self) -> Arc<HostCounters> {
        self.counters.clone()
    }

    fn send(&self, frame: &[u8]) {
        let counter = match self.try_send(frame) {
            Some(Ok(())) => &self.counters.sent,
            Some(Err(_)) => &self.counters.refused,
            None => &self.counters.not_ip,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// `None`: there is no IP packet in the frame.
    fn try_send(&self, frame: &[u8]) -> Option<io::Result<()>> {
        let packet = frame.get(ETH_LEN..)?;
        match u16::from_be_bytes([frame[12], frame[13]]) {
            0x0800 if packet.len() >= 20 && packet[0] >> 4 == 4 => {
                // The kernel sends as many bytes as it is given; Ethernet padding is not part of the packet.
                let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                let packet = packet.get(..len).filter(|packet| packet.len() >= 20)?;
                let to: [u8; 4] = packet[16..20].try_into().ok()?;
                Some(send_v4(&self.v4, packet, Ipv4Addr::from(to)))
            }
            0x86dd if packet.len() >= 40 && packet[0] >> 4 == 6 => {
                let len = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
                let packet = packet.get(..len)?;
                let to: [u8; 16] = packet[24..40].try_into().ok()?;
                Some(send_v6(self.v6.as_ref()?, packet, Ipv6Addr::from(to)))
            }
            _ => None,
        }
    }
}

impl<P: FramePool> Port<P> for HostPort {
    fn rx(&mut self, _now: Instant, _pool: &mut P, _batch: &mut Batch) {}

    fn tx(&mut self, _now: Instant, pool: &mut P, frames: &mut Vec<Frame>) {
        for frame in frames.drain(..) {
            self.send(pool.bytes(&frame));
            pool.free(frame);
        }
    }

    fn caps(&self) -> PortCaps {
        PortCaps::default()
    }
}

impl Drop for HostPort {
    /// Leaves a last word on what became of the frames.
    fn drop(&mut self) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let HostCounters { sent, refused, not_ip } = &*self.counters;
        tracing::info!(
            "host port: the kernel sent {} packets and refused {}; {} frames held none",
            of(sent),
            of(refused),
            of(not_ip)
        );
    }
}

fn raw_socket(family: i32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_int(fd: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn send_v4(fd: &OwnedFd, packet: &[u8], to: Ipv4Addr) -> io::Result<()> {
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(to).to_be() },
        sin_zero: [0; 8],
    };
    send_to(fd, packet, (&raw const to).cast(), size_of::<libc::sockaddr_in>())
}

fn send_v6(fd: &OwnedFd, packet: &[u8], to: Ipv6Addr) -> io::Result<()> {
    let to = libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as u16,
        sin6_port: 0,
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: to.octets() },
        sin6_scope_id: 0,
    };
    send_to(fd, packet, (&raw const to).cast(), size_of::<libc::sockaddr_in6>())
}

/// `to` must point to a socket address of `to_len` bytes; only the two callers above do that.
fn send_to(fd: &OwnedFd, packet: &[u8], to: *const libc::sockaddr, to_len: usize) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pointers and lengths describe `packet` and the caller's address.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            flags,
            to,
            to_len as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
