//! Queries an interface by its name: the ioctls that take an `ifreq`, and ethtool commands through one such ioctl.
//!
//! Unsafe because a request points to an ethtool command's own structure. No safe wrapper for that exists,
//! and the netlink successor is missing in some kernels that we run on.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
/// More strings than any set of an interface has.
pub const STRINGS_MAX: usize = 2048;

/// The structure of an ethtool command.
///
/// # Safety
/// The structure is plain data in C's layout, begins with the number of its command, and is at least as long
/// as the data that the kernel reads and writes for that command.
pub unsafe trait Command {}

/// An `ifreq`, and a socket to send it with.
pub struct Request {
    socket: OwnedFd,
    ifreq: libc::ifreq,
}

impl Request {
    /// A request about the interface with this name, in this thread's network namespace.
    ///
    /// # Errors
    /// `ENODEV` if the text cannot be a name.
    pub fn new(interface: &str) -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and this is its only owner.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: `ifreq` is plain data for which all zeroes is valid.
        let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
        if interface.is_empty() || interface.len() >= ifreq.ifr_name.len() || interface.contains('\0') {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in ifreq.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from.cast_signed();
        }
        Ok(Self { socket, ifreq })
    }

    fn call(&mut self, request: libc::c_ulong) -> io::Result<()> {
        // SAFETY: all requests made here read and write an `ifreq`; where it holds a pointer, `ethtool` has
        // made sure that it is valid.
        let done =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), request as libc::Ioctl, &raw mut self.ifreq) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// # Errors
    /// The interface does not exist.
    pub fn index(&mut self) -> io::Result<u32> {
        self.call(libc::SIOCGIFINDEX as libc::c_ulong)?;
        // SAFETY: the kernel has just written this field.
        Ok(unsafe { self.ifreq.ifr_ifru.ifru_ifindex } as u32)
    }

    /// The largest IP packet.
    ///
    /// # Errors
    /// The interface does not exist.
    pub fn mtu(&mut self) -> io::Result<u32> {
        self.call(libc::SIOCGIFMTU as libc::c_ulong)?;
        // SAFETY: the kernel has just written this field.
        Ok(unsafe { self.ifreq.ifr_ifru.ifru_mtu } as u32)
    }

    /// # Errors
    /// The interface does not exist, or its driver refuses.
    pub fn ethtool(&mut self, command: &mut impl Command) -> io::Result<()> {
        self.ifreq.ifr_ifru.ifru_data = std::ptr::from_mut(command).cast();
        self.call(libc::SIOCETHTOOL as libc::c_ulong)
    }

    /// The strings of a set, for instance of `ETH_SS_STATS`.
    ///
    /// # Errors
    /// The interface or the set does not exist, or the set has more than [`STRINGS_MAX`] strings.
    pub fn strings(&mut self, set: u32) -> io::Result<Box<Strings>> {
        let mut info = SetInfo { cmd: ETHTOOL_GSSET_INFO, reserved: 0, mask: 1 << set, len: 0 };
        self.ethtool(&mut info)?;
        if info.len as usize > STRINGS_MAX {
            return Err(io::Error::other(format!("{} strings, more than we know to handle", info.len)));
        }
        let mut strings =
            Box::new(Strings { cmd: ETHTOOL_GSTRINGS, set, len: info.len, strings: [[0; 32]; STRINGS_MAX] });
        self.ethtool(&mut *strings)?;
        Ok(strings)
    }
}

/// `struct ethtool_sset_info` with room for one answer.
#[repr(C)]
struct SetInfo {
    cmd: u32,
    reserved: u32,
    mask: u64,
    len: u32,
}

// SAFETY: `SetInfo` has the layout of that structure, and every request is for one set.
unsafe impl Command for SetInfo {}

/// `struct ethtool_gstrings`.
#[repr(C)]
pub struct Strings {
    cmd: u32,
    set: u32,
    len: u32,
    strings: [[u8; 32]; STRINGS_MAX],
}

// SAFETY: `Strings` has the layout of that structure, and `len` is the kernel's own count, limited to the room here.
unsafe impl Command for Strings {}

impl Strings {
    /// The number of strings.
    pub fn count(&self) -> u32 {
        self.len
    }

    /// The strings, each without the zeroes behind it.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.strings.iter().take(self.len as usize).map(|string| until_nul(string))
    }
}

/// The bytes of a C string of limited length, without its NUL.
pub fn until_nul(string: &[u8]) -> &[u8] {
    string.split(|byte| *byte == 0).next().unwrap_or_default()
}
