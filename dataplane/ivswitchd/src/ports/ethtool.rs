//! Asking an interface by its name: the ioctls that take an `ifreq`, and the ethtool commands behind one of them.
//!
//! Unsafe because an ethtool command is a structure of its own to which the request points; there is no safe wrapper
//! for it, and its netlink successor is not in every kernel we run on.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
/// More strings than any set of an interface of ours has.
pub const STRINGS_MAX: usize = 2048;

/// The structure of an ethtool command.
///
/// # Safety
/// It is plain data in C's layout, begins with the number of its command, and is at least as long as what the kernel
/// reads and writes for that command.
pub unsafe trait Command {}

/// An `ifreq` and a socket to send it with.
pub struct Request {
    socket: OwnedFd,
    ifreq: libc::ifreq,
}

impl Request {
    /// About the interface of this name, in this thread's network namespace.
    ///
    /// # Errors
    /// `ENODEV` for what cannot be a name.
    pub fn new(interface: &str) -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
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
        // SAFETY: `ifreq` is what all requests made here read and write; where it holds a pointer, `ethtool` has made
        // sure that it is valid.
        let done =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), request as libc::Ioctl, &raw mut self.ifreq) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// # Errors
    /// No such interface.
    pub fn index(&mut self) -> io::Result<u32> {
        self.call(libc::SIOCGIFINDEX as libc::c_ulong)?;
        // SAFETY: the kernel has just written this field.
        Ok(unsafe { self.ifreq.ifr_ifru.ifru_ifindex } as u32)
    }

    /// The largest IP packet.
    ///
    /// # Errors
    /// No such interface.
    pub fn mtu(&mut self) -> io::Result<u32> {
        self.call(libc::SIOCGIFMTU as libc::c_ulong)?;
        // SAFETY: the kernel has just written this field.
        Ok(unsafe { self.ifreq.ifr_ifru.ifru_mtu } as u32)
    }

    /// # Errors
    /// No such interface, or its driver refuses.
    pub fn ethtool(&mut self, command: &mut impl Command) -> io::Result<()> {
        self.ifreq.ifr_ifru.ifru_data = std::ptr::from_mut(command).cast();
        self.call(libc::SIOCETHTOOL as libc::c_ulong)
    }

    /// The strings of a set, `ETH_SS_STATS` for instance.
    ///
    /// # Errors
    /// No such interface, no such set, or more of them than [`STRINGS_MAX`].
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

// SAFETY: it is that structure, and only ever asked for one set.
unsafe impl Command for SetInfo {}

/// `struct ethtool_gstrings`.
#[repr(C)]
pub struct Strings {
    cmd: u32,
    set: u32,
    len: u32,
    strings: [[u8; 32]; STRINGS_MAX],
}

// SAFETY: it is that structure, and `len` is what the kernel said there are, at most what there is room for.
unsafe impl Command for Strings {}

impl Strings {
    /// How many there are.
    pub fn count(&self) -> u32 {
        self.len
    }

    /// Each without the zeroes behind it.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.strings.iter().take(self.len as usize).map(|string| until_nul(string))
    }
}

/// What a C string of limited length says.
pub fn until_nul(string: &[u8]) -> &[u8] {
    string.split(|byte| *byte == 0).next().unwrap_or_default()
}
