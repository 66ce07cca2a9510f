//! The one thing that rtnetlink cannot do for us: switch transmit checksum offload of an interface.
//!
//! Unsafe because the old ethtool interface is an ioctl on a structure that points to another; there
//! is no safe wrapper for it, and its netlink successor is not in every kernel we run on.

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketType, socket};

const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Whether the interface leaves transport checksums to whoever sends the frame on the wire. Of a veth
/// that is nobody: its frames would reach us with partial checksums and no mark of it.
///
/// # Errors
/// No such interface, or it cannot say.
pub fn tx_checksum(interface: &str) -> io::Result<bool> {
    call(interface, EthtoolValue { cmd: ETHTOOL_GTXCSUM, data: 0 }).map(|value| value.data != 0)
}

/// Switches transmit checksum offload (and with it segmentation offload, which needs it).
///
/// # Errors
/// No such interface, or it refuses.
pub fn set_tx_checksum(interface: &str, on: bool) -> io::Result<()> {
    call(interface, EthtoolValue { cmd: ETHTOOL_STXCSUM, data: on.into() }).map(|_| ())
}

fn call(interface: &str, mut value: EthtoolValue) -> io::Result<EthtoolValue> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: `ifreq` is plain data for which all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = interface.as_bytes();
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request carries a NUL-terminated name and a pointer to a live `ethtool_value`, which is
    // what SIOCETHTOOL reads and writes for these two commands; both outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}
