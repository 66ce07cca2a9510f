//! Frames that no well-behaved stack sends, through AF_PACKET sockets.
//!
//! This needs unsafe code: no safe library that we use has the socket address of AF_PACKET.

use std::ffi::CString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use etherparse::{PacketBuilder, VlanId};

use crate::Namespace;

/// Sends whole Ethernet frames out of one interface.
pub struct RawSocket {
    socket: OwnedFd,
}

impl RawSocket {
    /// A socket bound to `interface`.
    #[must_use]
    #[track_caller]
    pub fn open(namespace: &Namespace, interface: &str) -> Self {
        let interface = CString::new(interface).expect("an interface name");
        let socket = namespace.run(move || -> io::Result<OwnedFd> {
            // SAFETY: no pointers; the descriptor is valid, and wrapping it immediately makes this its only owner.
            let socket = unsafe {
                let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
                if fd < 0 {
                    return Err(io::Error::last_os_error());
                }
                OwnedFd::from_raw_fd(fd)
            };
            // SAFETY: a NUL-terminated string that lives through the call.
            let index = unsafe { libc::if_nametoindex(interface.as_ptr()) };
            // SAFETY: all-zero bytes are a valid sockaddr_ll.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = index.cast_signed();
            // SAFETY: the address is a sockaddr_ll of the length given, and lives through the call.
            let bound = unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    (&raw const address).cast(),
                    size_of::<libc::sockaddr_ll>() as libc::socklen_t,
                )
            };
            if index == 0 || bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
        });
        Self { socket: socket.expect("an AF_PACKET socket on an interface of ours") }
    }

    /// As [`open`](Self::open), for frames with a virtio-net header in front, which says what is unfinished about
    /// each.
    #[must_use]
    #[track_caller]
    pub fn with_headers(namespace: &Namespace, interface: &str) -> Self {
        let raw = Self::open(namespace, interface);
        let on: libc::c_int = 1;
        // SAFETY: the option's value is an int of the length given, and only read.
        let done = unsafe {
            libc::setsockopt(
                raw.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        assert_eq!(done, 0, "PACKET_VNET_HDR: {}", io::Error::last_os_error());
        raw
    }

    /// Sends one frame through a socket from [`with_headers`](Self::with_headers) and leaves its checksum to the
    /// interface.
    #[track_caller]
    pub fn must_send_unfinished(&self, frame: &[u8], csum_start: u16, csum_offset: u16) {
        const NEEDS_CSUM: u8 = 1;
        let mut bytes = vec![NEEDS_CSUM, 0, 0, 0, 0, 0];
        bytes.extend([csum_start, csum_offset].into_iter().flat_map(u16::to_le_bytes));
        bytes.extend(frame);
        self.must_send(&bytes);
    }

    /// Sends one frame unchanged. The error says why the kernel refused it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the buffer is valid for its length, and only read.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends one frame unchanged, and retries while the interface's queue is full: the queue drains by itself.
    #[track_caller]
    pub fn must_send(&self, frame: &[u8]) {
        let start = Instant::now();
        while let Err(why) = self.send(frame) {
            let full = why.raw_os_error() == Some(libc::ENOBUFS);
            assert!(full && start.elapsed() < Duration::from_secs(5), "sending: {why}");
            std::thread::yield_now();
        }
    }
}

/// A UDP packet in an Ethernet frame with these VLAN tags (none, one, or two: 802.1ad around 802.1Q).
#[must_use]
pub fn udp_frame(
    (src_mac, src, src_port): ([u8; 6], Ipv4Addr, u16),
    (dst_mac, dst, dst_port): ([u8; 6], Ipv4Addr, u16),
    vlans: &[u16],
    payload: &[u8],
) -> Vec<u8> {
    let id = |vlan: u16| VlanId::try_new(vlan).expect("a VLAN id");
    let ethernet = PacketBuilder::ethernet2(src_mac, dst_mac);
    let ip = match *vlans {
        [] => ethernet.ipv4(src.octets(), dst.octets(), 64),
        [vlan] => ethernet.single_vlan(id(vlan)).ipv4(src.octets(), dst.octets(), 64),
        [outer, inner] => ethernet.double_vlan(id(outer), id(inner)).ipv4(src.octets(), dst.octets(), 64),
        _ => panic!("at most two tags"),
    };
    let mut frame = Vec::new();
    ip.udp(src_port, dst_port).write(&mut frame, payload).expect("a frame of a sensible size");
    frame
}

/// A VXLAN payload: the eight bytes of its header, as given, and the inner frame.
#[must_use]
pub fn vxlan(flags: u8, vni: u32, reserved: u8, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let mut bytes = vec![flags, 0, 0, 0, a, b, c, reserved];
    bytes.extend_from_slice(inner);
    bytes
}
