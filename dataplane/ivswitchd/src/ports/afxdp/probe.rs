//! Queries an interface before AF_XDP is opened on it.

use std::io;

use aya::programs::loaded_programs;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

use crate::ports::ethtool::{Command, Request, STRINGS_MAX, until_nul};

/// The facts about an interface that AF_XDP depends on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceFacts {
    /// The interface's current index.
    pub index: u32,
    /// Largest IP packet.
    pub mtu: u32,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// The driver's name, for instance `veth`; empty if the kernel does not report one.
    pub driver: String,
}

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// The string set that names the statistics.
const ETH_SS_STATS: u32 = 1;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

// SAFETY: `Channels` has the layout of that structure.
unsafe impl Command for Channels {}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

// SAFETY: `DriverInfo` has the layout of that structure.
unsafe impl Command for DriverInfo {}

impl InterfaceFacts {
    /// Asks the kernel about the interface with this name, in this thread's network namespace.
    ///
    /// # Errors
    /// When the interface does not exist, or the kernel refuses to answer.
    pub fn of(name: &str) -> io::Result<Self> {
        let mut request = Request::new(name)?;
        let index = request.index()?;
        let mtu = request.mtu()?;
        let mut channels = Channels { cmd: ETHTOOL_GCHANNELS, ..Channels::default() };
        let rx_queues = match request.ethtool(&mut channels) {
            Ok(()) => channels.rx + channels.combined,
            Err(_) => queues_in_sysfs(name),
        };
        let mut info = DriverInfo { cmd: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
        let driver = match request.ethtool(&mut info) {
            Ok(()) => String::from_utf8_lossy(until_nul(&info.driver)).into_owned(),
            Err(_) => String::new(),
        };
        Ok(Self { index, mtu, rx_queues: rx_queues.max(1), driver })
    }
}

/// The queue count for drivers without configurable channels, if sysfs shows this network namespace at all.
fn queues_in_sysfs(name: &str) -> u32 {
    let Ok(entries) = std::fs::read_dir(format!("/sys/class/net/{name}/queues")) else { return 1 };
    let rx = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"));
    u32::try_from(rx.count()).unwrap_or(1)
}

/// `struct ethtool_stats`.
#[repr(C)]
struct Stats {
    cmd: u32,
    len: u32,
    values: [u64; STRINGS_MAX],
}

// SAFETY: `Stats` has the layout of that structure, and room for as many values as it asks for.
unsafe impl Command for Stats {}

/// A veth driver's counts of the frames that were redirected to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Frames that the driver sent.
    pub frames: u64,
    /// Frames that the driver refused.
    pub refused: u64,
}

/// The veth driver's counts, all queues together. `None` if the driver does not report them.
pub fn xdp_sent(name: &str) -> Option<Sent> {
    let mut request = Request::new(name).ok()?;
    let names = request.strings(ETH_SS_STATS).ok()?;
    let mut stats = Box::new(Stats { cmd: ETHTOOL_GSTATS, len: names.count(), values: [0; STRINGS_MAX] });
    request.ethtool(&mut *stats).ok()?;
    let mut sum = Sent::default();
    for (name, value) in names.iter().zip(stats.values) {
        if name.starts_with(b"tx_queue_") && name.ends_with(b"_xdp_xmit") {
            sum.frames += value;
        } else if name.starts_with(b"tx_queue_") && name.ends_with(b"_xdp_xmit_errors") {
            sum.refused += value;
        }
    }
    Some(sum)
}

/// The XDP programs on an interface, as text for people: `"xdp_dispatcher" (id 7)`.
pub fn xdp_programs(index: u32) -> Option<String> {
    let ids = xdp_program_ids(index).ok()?;
    let name_of = |id: u32| {
        let program = loaded_programs().flatten().find(|program| program.id() == id);
        program.and_then(|program| program.name_as_str().map(str::to_owned)).unwrap_or_default()
    };
    let names: Vec<String> = ids.iter().map(|&id| format!("{:?} (id {id})", name_of(id))).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn xdp_program_ids(index: u32) -> io::Result<Vec<u32>> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetLink(link)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = answer.payload else {
        return Ok(Vec::new());
    };
    let mut ids = Vec::new();
    for attribute in &link.attributes {
        let LinkAttribute::Xdp(parts) = attribute else { continue };
        for part in parts {
            let (LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id)) = part else {
                continue;
            };
            if *id != 0 && !ids.contains(id) {
                ids.push(*id);
            }
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there_and_nothing_is_not() {
        let lo = InterfaceFacts::of("lo").unwrap();
        assert!(lo.index > 0 && lo.rx_queues >= 1 && lo.mtu >= 1280, "{lo:?}");
        for name in ["", "no-such-if0", "a-name-that-is-too-long", "l\0"] {
            assert_eq!(InterfaceFacts::of(name).unwrap_err().raw_os_error(), Some(libc::ENODEV), "{name}");
        }
    }
}
