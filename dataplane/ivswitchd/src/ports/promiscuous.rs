//! Receives frames for the MACs behind a port: the interface is promiscuous while the port is open.
//!
//! A NIC accepts frames for its own MAC only, but a port forwards for others. The kernel counts the users that want an
//! interface promiscuous (packet(7), `PACKET_MR_PROMISC`), and drops our count by itself when the process dies.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

use ctl::io::{IoKind, OpenPort};

use super::packet::packet_socket;

/// Keeps an interface promiscuous as long as this value lives.
#[derive(Debug)]
pub struct Promiscuous {
    _socket: OwnedFd,
}

impl Promiscuous {
    /// For a port on an interface that could filter: neither the uplink, whose frames are for the rVM itself, nor an
    /// interface of our own making.
    ///
    /// # Errors
    /// The text names object, cause and remedy.
    pub fn of(port: &OpenPort) -> Result<Option<Self>, String> {
        let filters = !port.shared && !port.ours && matches!(port.kind, IoKind::Afxdp | IoKind::Packet);
        filters.then(|| Self::new(port.index)).transpose().map_err(|cause| {
            let remedy = match cause.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => {
                    "raise its limit (`LimitNOFILE=65536` for the service, or `ulimit -n 65536`)"
                }
                _ => "run the daemon as root, or with CAP_NET_RAW",
            };
            format!("port {:?}: it cannot be made promiscuous: {cause}; {remedy}", port.interface)
        })
    }

    /// Makes the interface with this index promiscuous.
    ///
    /// # Errors
    /// The kernel's error: CAP_NET_RAW is missing, or the interface is gone.
    fn new(index: u32) -> io::Result<Self> {
        // The socket is never bound, so no frame arrives at it.
        let socket = packet_socket()?;
        // SAFETY: plain data for which all zeroes is valid.
        let mut request: libc::packet_mreq = unsafe { std::mem::zeroed() };
        request.mr_ifindex = index as i32;
        request.mr_type = libc::PACKET_MR_PROMISC as u16;
        let len = size_of::<libc::packet_mreq>() as u32;
        // SAFETY: the pointer and length describe `request`.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const request).cast(),
                len,
            )
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { _socket: socket }) }
    }
}
