//! The drivers of ports and the choices among them, in the words of the configuration.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A driver for the uplink.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UplinkKind {
    /// AF_XDP sockets: the highest rate of small frames.
    #[default]
    Afxdp,
    /// A packet socket with virtio-net headers: GSO packets.
    Packet,
    /// UDP sockets: GSO packets, on every kernel; they carry tunnel packets only.
    Udp,
}

impl From<UplinkKind> for IoKind {
    fn from(kind: UplinkKind) -> Self {
        match kind {
            UplinkKind::Afxdp => Self::Afxdp,
            UplinkKind::Packet => Self::Packet,
            UplinkKind::Udp => Self::Udp,
        }
    }
}

/// A driver for a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// `packet` for a door that the daemon creates, `afxdp` for every other port, and where `xdp` is given.
    #[default]
    Auto,
    /// AF_XDP sockets: the highest rate of small frames.
    Afxdp,
    /// A packet socket with virtio-net headers: GSO packets.
    Packet,
    /// A TAP interface with virtio-net headers: GSO packets; only for doors that the daemon creates.
    Tap,
    /// Memory shared with QEMU: a guest's NIC without a network interface.
    Vhostuser,
}

/// A driver, which receives and sends a port's frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoKind {
    /// An AF_XDP socket on each queue.
    #[default]
    Afxdp,
    /// A packet socket with virtio-net headers.
    Packet,
    /// A TAP interface with virtio-net headers.
    Tap,
    /// UDP sockets, which carry the uplink's tunnel packets and nothing else.
    Udp,
    /// Memory shared with QEMU: a guest's NIC without a network interface.
    Vhostuser,
}

impl IoKind {
    /// The driver's name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Afxdp => "afxdp",
            Self::Packet => "packet",
            Self::Tap => "tap",
            Self::Udp => "udp",
            Self::Vhostuser => "vhostuser",
        }
    }
}

/// The XDP modes that may be tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native with zero-copy, native with copy, generic: the first that works.
    #[default]
    Auto,
    /// Native only, with zero-copy where possible.
    Native,
    /// Native with copies only.
    Copy,
    /// Generic only.
    Generic,
}

/// Whether the kernel itself forwards hot flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// Between interfaces where the kernel offload is proven to work.
    #[default]
    Auto,
    /// Between all native XDP interfaces and those with the `packet` driver.
    On,
    /// Not at all.
    Off,
}
