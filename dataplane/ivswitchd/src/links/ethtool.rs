//! Sets an interface's offloads, for which rtnetlink has no message.

use std::io;

use crate::ports::ethtool::{Command, Request, STRINGS_MAX};

const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_SFEATURES: u32 = 0x3b;
/// The string set that names the features, in the order of their bits.
const ETH_SS_FEATURES: u32 = 4;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

// SAFETY: `EthtoolValue` has the layout of that structure.
unsafe impl Command for EthtoolValue {}

/// Whether the interface leaves transport checksums to the device that transmits. A veth has no such device:
/// its frames would reach us with partial checksums and without a mark.
///
/// # Errors
/// The interface does not exist, or its driver does not support the query.
pub fn tx_checksum(interface: &str) -> io::Result<bool> {
    let mut value = EthtoolValue { cmd: ETHTOOL_GTXCSUM, data: 0 };
    Request::new(interface)?.ethtool(&mut value).map(|()| value.data != 0)
}

/// Switches transmit checksum offload (and with it segmentation offload, which needs it).
///
/// # Errors
/// The interface does not exist, or its driver refuses.
pub fn set_tx_checksum(interface: &str, on: bool) -> io::Result<()> {
    Request::new(interface)?.ethtool(&mut EthtoolValue { cmd: ETHTOOL_STXCSUM, data: on.into() })
}

/// Makes the kernel put VLAN tags into the frames it sends here, 802.1Q and 802.1ad. By default it keeps a
/// tag outside the frame (a bridge always does), and AF_XDP on the other end of a veth never sees it.
///
/// # Errors
/// The interface does not exist, or its driver refuses.
pub fn set_tx_vlan_in_frame(interface: &str) -> io::Result<()> {
    switch(interface, &["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"], false)
}

/// Makes the kernel finish packets that a virtio-net header cannot express: SCTP and ESP that await
/// segmentation, and lists of frames. It also computes SCTP's CRC, for which it has a processor instruction.
/// GSO packets inside tunnels stay whole; the engine segments them.
///
/// # Errors
/// The interface does not exist, or its driver refuses.
pub fn set_tx_as_virtio(interface: &str) -> io::Result<()> {
    let unspeakable = ["tx-checksum-sctp", "tx-sctp-segmentation", "tx-esp-segmentation", "tx-gso-list"];
    switch(interface, &unspeakable, false)
}

/// Stops the interface from coalescing received segments (LRO) in ways that cannot be undone and that lose
/// the checksum.
///
/// # Errors
/// The interface does not exist, or its driver refuses.
pub fn set_rx_unmerged(interface: &str) -> io::Result<()> {
    switch(interface, &["rx-lro"], false)
}

/// Makes a veth's end poll (NAPI) and coalesce received segments: it then takes frames that XDP redirects to
/// the pair, and its stack gets few large packets for many small ones.
///
/// # Errors
/// The interface does not exist, or its driver refuses.
pub fn set_rx_merging(interface: &str) -> io::Result<()> {
    switch(interface, &["rx-gro"], true)
}

/// Switches these features on or off, as far as the interface has them.
fn switch(interface: &str, chosen: &[&str], on: bool) -> io::Result<()> {
    let mut request = Request::new(interface)?;
    let names = request.strings(ETH_SS_FEATURES)?;
    let mut wanted = Features {
        cmd: ETHTOOL_SFEATURES,
        blocks: names.count().div_ceil(32),
        features: [Block::default(); STRINGS_MAX / 32],
    };
    for (bit, name) in names.iter().enumerate() {
        if chosen.iter().any(|chosen| name == chosen.as_bytes()) {
            wanted.features[bit / 32].valid |= 1 << (bit % 32);
            wanted.features[bit / 32].requested |= u32::from(on) << (bit % 32);
        }
    }
    request.ethtool(&mut wanted)
}

/// `struct ethtool_sfeatures`.
#[repr(C)]
struct Features {
    cmd: u32,
    blocks: u32,
    features: [Block; STRINGS_MAX / 32],
}

// SAFETY: `Features` has the layout of that structure, and room for as many blocks as it asks for.
unsafe impl Command for Features {}

/// `struct ethtool_set_features_block`: the bits to change, and their new values.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Block {
    valid: u32,
    requested: u32,
}
