//! Sends frames through the rVM's own kernel.
//!
//! Frames punted by the engine are whole Ethernet frames that hold an IP packet. The packet goes to the
//! kernel through a raw socket with its IP header unchanged; the kernel routes it by its source address out
//! of the uplink, as the engine would, resolves the next hop by ARP or ND, and sends it. Nothing here blocks:
//! a packet that the kernel cannot take is dropped and counted, as by any full queue.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use engine::frame::{Batch, Frame, FramePool};
use engine::port::{Port, PortCaps};
use engine::time::Instant;

use super::messages::Messages;

/// Bytes of an Ethernet header.
const ETH_LEN: usize = 14;

/// Counts of the punted frames by their end.
#[derive(Debug, Default)]
pub struct HostCounters {
    /// Packets that the kernel accepted.
    pub sent: AtomicU64,
    /// Packets that the kernel refused: no route, larger than the MTU, no buffer.
    pub refused: AtomicU64,
    /// Frames without an IP packet that the kernel could route.
    pub not_ip: AtomicU64,
}

/// The port for punted frames, which only sends.
#[derive(Debug)]
pub struct HostPort {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
    uplink: UplinkIndex,
    messages: Messages,
    counters: Arc<HostCounters>,
}

/// The index of the uplink's interface now; 0 without one. The control thread keeps it up to date.
#[derive(Clone, Debug, Default)]
pub struct UplinkIndex(Arc<AtomicU32>);

impl UplinkIndex {
    /// Sets the index when another interface becomes the uplink.
    pub fn set(&self, index: u32) {
        self.0.store(index, Ordering::Relaxed);
    }

    fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The raw sockets could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("host port: no raw socket: {0}; the daemon needs root or CAP_NET_RAW")]
pub struct HostError(#[from] io::Error);

impl HostPort {
    /// Opens the raw sockets, which send out of `uplink`.
    ///
    /// # Errors
    /// When the kernel refuses a raw IPv4 socket. Without IPv6 in the kernel it succeeds.
    pub fn open(uplink: UplinkIndex) -> Result<Self, HostError> {
        let v4 = raw_socket(libc::AF_INET)?;
        set_int(&v4, libc::IPPROTO_IP, libc::IP_HDRINCL, 1)?;
        let v6 = match raw_socket(libc::AF_INET6) {
            Ok(fd) => {
                set_int(&fd, libc::IPPROTO_IPV6, libc::IPV6_HDRINCL, 1)?;
                // The rVM may not have the reality address itself: only the provider maps it to us.
                set_int(&fd, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1)?;
                Some(fd)
            }
            Err(cause) => {
                tracing::info!("host port: no IPv6 in this kernel ({cause})");
                None
            }
        };
        Ok(Self { v4, v6, uplink, messages: Messages::new(), counters: Arc::default() })
    }

    /// The counters of the punted frames.
    pub fn counters(&self) -> Arc<HostCounters> {
        self.counters.clone()
    }

    fn send(&mut self, frame: &[u8]) {
        let counter = match self.try_send(frame) {
            Some(Ok(_)) => &self.counters.sent,
            Some(Err(_)) => &self.counters.refused,
            None => &self.counters.not_ip,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns `None` if the frame holds no IP packet.
    fn try_send(&mut self, frame: &[u8]) -> Option<io::Result<usize>> {
        let packet = frame.get(ETH_LEN..)?;
        let index = self.uplink.get().to_ne_bytes();
        self.messages.clear();
        match u16::from_be_bytes([frame[12], frame[13]]) {
            0x0800 if packet.len() >= 20 && packet[0] >> 4 == 4 => {
                // The kernel sends as many bytes as it gets, and Ethernet padding is not part of the packet.
                let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                let packet = packet.get(..len).filter(|packet| packet.len() >= 20)?;
                let from: [u8; 4] = packet[12..16].try_into().ok()?;
                let to: [u8; 4] = packet[16..20].try_into().ok()?;
                // `struct in_pktinfo`. The kernel looks for a route by its fields instead of the packet's
                // header.
                let mut info = [0; 12];
                info[..4].copy_from_slice(&index);
                info[4..8].copy_from_slice(&from);
                let to = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(to)), 0);
                self.messages.push_datagram(packet, to, &[(libc::IPPROTO_IP, libc::IP_PKTINFO, &info)]);
                Some(self.messages.send(&self.v4, 0))
            }
            0x86dd if packet.len() >= 40 && packet[0] >> 4 == 6 => {
                let len = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
                let packet = packet.get(..len)?;
                let to: [u8; 16] = packet[24..40].try_into().ok()?;
                // `struct in6_pktinfo`.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&packet[8..24]);
                info[16..].copy_from_slice(&index);
                let to = SocketAddr::new(IpAddr::V6(Ipv6Addr::from(to)), 0);
                self.messages.push_datagram(packet, to, &[(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)]);
                Some(self.messages.send(self.v6.as_ref()?, 0))
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
    /// Logs the final counts.
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
    // SAFETY: the descriptor is new, and this is its only owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_int(fd: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
