//! What rtnetlink cannot do for us: switch transmit offloads of an interface.
//!
//! Unsafe because the old ethtool interface is an ioctl on a structure that points to another; there
//! is no safe wrapper for it, and its netlink successor is not in every kernel we run on.

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketType, socket};

const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_SFEATURES: u32 = 0x3b;
/// The string set that names the features, in the order of their bits.
const ETH_SS_FEATURES: u32 = 4;
/// More features than any kernel has; there were 64 of them in 2020.
const FEATURES_MAX: usize = 256;

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
    let mut value = EthtoolValue { cmd: ETHTOOL_GTXCSUM, data: 0 };
    call(interface, &mut value).map(|()| value.data != 0)
}

/// Switches transmit checksum offload (and with it segmentation offload, which needs it).
///
/// # Errors
/// No such interface, or it refuses.
pub fn set_tx_checksum(interface: &str, on: bool) -> io::Result<()> {
    call(interface, &mut EthtoolValue { cmd: ETHTOOL_STXCSUM, data: on.into() })
}

/// Makes the kernel put VLAN tags into the frames it sends here, 802.1Q and 802.1ad. Left to itself it keeps
/// a tag beside the frame (a bridge always does), and AF_XDP on the other end of a veth never sees it.
///
/// # Errors
/// No such interface, or it refuses.
pub fn set_tx_vlan_in_frame(interface: &str) -> io::Result<()> {
    switch_off(interface, &["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"])
}

/// Makes the kernel finish what it sends here as far as a virtio-net header cannot say what is left to do: checksums of
/// SCTP, which are no sums, and super-frames inside of tunnels that somebody behind this interface makes.
///
/// # Errors
/// No such interface, or it refuses.
pub fn set_tx_as_virtio(interface: &str) -> io::Result<()> {
    let unspeakable = [
        "tx-checksum-sctp",
        "tx-sctp-segmentation",
        "tx-udp_tnl-segmentation",
        "tx-udp_tnl-csum-segmentation",
        "tx-gre-segmentation",
        "tx-gre-csum-segmentation",
        "tx-ipxip4-segmentation",
        "tx-ipxip6-segmentation",
        "tx-esp-segmentation",
        "tx-gso-list",
    ];
    switch_off(interface, &unspeakable)
}

/// Keeps the interface from merging what it receives (LRO) in ways that cannot be undone and without a sum.
///
/// # Errors
/// No such interface, or it refuses.
pub fn set_rx_unmerged(interface: &str) -> io::Result<()> {
    switch_off(interface, &["rx-lro"])
}

/// Switches these features off, as far as there are such.
fn switch_off(interface: &str, unwanted: &[&str]) -> io::Result<()> {
    let mut count = SetInfo { cmd: ETHTOOL_GSSET_INFO, reserved: 0, mask: 1 << ETH_SS_FEATURES, len: 0 };
    call(interface, &mut count)?;
    let len = count.len as usize;
    if len > FEATURES_MAX {
        return Err(io::Error::other(format!("the kernel has {len} features, more than we know to handle")));
    }
    let mut names = Box::new(Strings {
        cmd: ETHTOOL_GSTRINGS,
        set: ETH_SS_FEATURES,
        len: count.len,
        names: [[0; 32]; FEATURES_MAX],
    });
    call(interface, &mut *names)?;
    let mut wanted = Features {
        cmd: ETHTOOL_SFEATURES,
        blocks: count.len.div_ceil(32),
        features: [Block::default(); FEATURES_MAX / 32],
    };
    for (bit, name) in names.names.iter().take(len).enumerate() {
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if unwanted.iter().any(|unwanted| name == unwanted.as_bytes()) {
            wanted.features[bit / 32].valid |= 1 << (bit % 32);
        }
    }
    call(interface, &mut wanted)
}

/// `struct ethtool_sset_info` with room for one answer.
#[repr(C)]
struct SetInfo {
    cmd: u32,
    reserved: u32,
    mask: u64,
    len: u32,
}

/// `struct ethtool_gstrings`.
#[repr(C)]
struct Strings {
    cmd: u32,
    set: u32,
    len: u32,
    names: [[u8; 32]; FEATURES_MAX],
}

/// `struct ethtool_sfeatures`.
#[repr(C)]
struct Features {
    cmd: u32,
    blocks: u32,
    features: [Block; FEATURES_MAX / 32],
}

/// `struct ethtool_set_features_block`: which bits are meant, and what they shall be.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Block {
    valid: u32,
    requested: u32,
}

/// `value` is one of the structures above, with the command it belongs to.
fn call<T>(interface: &str, value: &mut T) -> io::Result<()> {
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
    request.ifr_ifru.ifru_data = (&raw mut *value).cast();
    // SAFETY: the request carries a NUL-terminated name and a pointer to the live structure that
    // SIOCETHTOOL reads and writes for its command, at least as long as the kernel makes it; both outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
