//! Reads ICMP errors about our tunnel packets: no socket listens there, the host is gone, a filter forbids
//! it. The kernel delivers such errors to the socket that sent the packet. Our tunnel packets have no such
//! socket, so a raw socket receives the errors. The agent decides what they mean; anyone can forge one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use ctl::io::Input;
use ctl::liveness::Unreachable;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

/// Messages per call, so that a flood of them cannot starve the control socket.
const MESSAGES_PER_POLL: usize = 64;

/// Enough for the error, the headers that it quotes, and an outer header in front.
const MESSAGE_LEN: usize = 256;

const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
const ICMP_HEADER_LEN: usize = 8;
const UDP: u8 = 17;
const V4_UNREACHABLE: u8 = 3;
const V6_UNREACHABLE: u8 = 1;

/// Receives one family's errors.
pub struct IcmpErrors {
    socket: OwnedFd,
    v6: bool,
}

impl IcmpErrors {
    /// Opens a raw socket that receives only "destination unreachable".
    ///
    /// # Errors
    /// The kernel refused the socket, or lacks the family.
    pub fn open(v6: bool) -> io::Result<Self> {
        let (family, protocol) =
            if v6 { (AddressFamily::INET6, ipproto::ICMPV6) } else { (AddressFamily::INET, ipproto::ICMP) };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::RAW, flags, Some(protocol))?;
        // One bit for each type that the filter rejects (`linux/icmp.h`, `linux/icmpv6.h`).
        let mut filter = [u32::MAX; 8];
        let kept = u32::from(if v6 { V6_UNREACHABLE } else { V4_UNREACHABLE });
        filter[0] &= !(1 << kept);
        /// The option's number is 1 in `linux/icmp.h` and `linux/icmpv6.h`.
        const FILTER: libc::c_int = 1;
        /// From `linux/socket.h`.
        const SOL_RAW: libc::c_int = 255;
        let (level, len) = if v6 { (libc::IPPROTO_ICMPV6, 32) } else { (SOL_RAW, 4) };
        // SAFETY: the kernel reads `len` bytes of the filter, which has 32.
        let done =
            unsafe { libc::setsockopt(socket.as_raw_fd(), level, FILTER, filter.as_ptr().cast(), len) };
        if done == 0 { Ok(Self { socket, v6 }) } else { Err(io::Error::last_os_error()) }
    }

    /// Appends the errors about UDP packets to `out`. Returns true when the socket is empty.
    pub fn poll(&self, out: &mut Vec<Input>) -> bool {
        let mut message = [0; MESSAGE_LEN];
        for _ in 0..MESSAGES_PER_POLL {
            match rustix::io::read(&self.socket, &mut message) {
                Ok(len) => out.extend(parse(&message[..len], self.v6)),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return true,
            }
        }
        false
    }
}

impl AsRawFd for IcmpErrors {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The error in a message as a raw socket delivers it: IPv4's with its header in front. `None` if it is not
/// about a UDP packet, or not about an unreachable destination.
fn parse(message: &[u8], v6: bool) -> Option<Input> {
    let icmp = match v6 {
        true => message,
        false => message.get(usize::from(message.first()? & 0xf) * 4..)?,
    };
    let why = match (v6, icmp.first()?, icmp.get(1)?) {
        (false, &V4_UNREACHABLE, 3) | (true, &V6_UNREACHABLE, 4) => Unreachable::Port,
        // RFC 792, RFC 1812 §5.2.7.1: network, host, unknown, for this class of service. Code 4 is about the
        // packet's length.
        (false, &V4_UNREACHABLE, 0 | 1 | 5..=8 | 11 | 12) | (true, &V6_UNREACHABLE, 0 | 3) => {
            Unreachable::Host
        }
        (false, &V4_UNREACHABLE, 9 | 10 | 13..=15) | (true, &V6_UNREACHABLE, 1 | 5 | 6) => {
            Unreachable::Prohibited
        }
        _ => return None,
    };
    let quoted = icmp.get(ICMP_HEADER_LEN..)?;
    let (from, to, udp) = match v6 {
        false => {
            let header = quoted.get(..IPV4_HEADER_LEN)?;
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).ok()?));
            let udp = quoted.get(usize::from(header[0] & 0xf) * 4..).filter(|_| header[9] == UDP)?;
            (IpAddr::V4(address(12)?), IpAddr::V4(address(16)?), udp)
        }
        true => {
            let header = quoted.get(..IPV6_HEADER_LEN)?;
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).ok()?));
            let udp = quoted.get(IPV6_HEADER_LEN..).filter(|_| header[6] == UDP)?;
            (IpAddr::V6(address(8)?), IpAddr::V6(address(24)?), udp)
        }
    };
    let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    Some(Input::Unreachable { from, to, port, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Port unreachable from 10.0.0.12 about a packet from 10.0.0.11 to its port 4789, as Linux sends it.
    fn v4() -> Vec<u8> {
        let mut message = vec![0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 12, 10, 0, 0, 11];
        message.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        message.extend([0x45, 0, 0, 128, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 11, 10, 0, 0, 12]);
        message.extend([0xc0, 1, 0x12, 0xb5, 0, 108, 0, 0]);
        message
    }

    fn why(message: &[u8], v6: bool) -> Option<Unreachable> {
        match parse(message, v6)? {
            Input::Unreachable { from, to, port: 4789, why } => {
                let ends =
                    if v6 { ["fd00::11", "fd00::12"] } else { ["10.0.0.11", "10.0.0.12"] }.map(|a| a.parse());
                assert_eq!([Ok(from), Ok(to)], ends);
                Some(why)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_say_why() {
        assert_eq!(why(&v4(), false), Some(Unreachable::Port));
        for (code, meaning) in
            [(1, Some(Unreachable::Host)), (13, Some(Unreachable::Prohibited)), (4, None), (99, None)]
        {
            let mut message = v4();
            message[21] = code;
            assert_eq!(why(&message, false), meaning, "code {code}");
        }
        let mut other = v4();
        other[20 + 8 + 9] = 6;
        assert_eq!(why(&other, false), None, "about TCP");

        let mut message = vec![1, 4, 0, 0, 0, 0, 0, 0, 0x60, 0, 0, 0, 0, 108, 17, 64];
        for last in [0x11, 0x12] {
            message.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        message.extend([0xc0, 1, 0x12, 0xb5, 0, 108, 0, 0]);
        assert_eq!(why(&message, true), Some(Unreachable::Port));
        message[1] = 1;
        assert_eq!(why(&message, true), Some(Unreachable::Prohibited));
    }

    /// Truncated messages of any length do not panic.
    #[test]
    fn messages_cut_short_and_odd_ones() {
        for v6 in [false, true] {
            for len in 0..v4().len() {
                let _ = parse(&v4()[..len], v6);
            }
        }
        let mut odd = v4();
        odd[0] = 0x4f;
        assert!(parse(&odd, false).is_none());
        odd[0] = 0x45;
        odd[28] = 0x4f;
        assert!(parse(&odd, false).is_none());
    }
}
